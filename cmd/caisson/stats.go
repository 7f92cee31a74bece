package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/engine/client"
)

// statsEvery is how often the live table is drawn.
const statsEvery = 500 * time.Millisecond

var statsCommand = command{
	name:  "stats",
	args:  "[OPTIONS] [CONTAINER...]",
	short: "Display a live stream of container(s) resource usage statistics",
	examples: []string{
		"stats # All that run, until Ctrl-C",
		"stats --no-stream --format '{{.Name}} {{.MemUsage}}' web # One look",
	},
	sameAs:   []string{"container stats", "stats"},
	max:      -1,
	complete: completeRunning,
	setup: func(a *app, f *pflag.FlagSet) action {
		s := &statsView{app: a}
		f.BoolVarP(&s.all, "all", "a", false, "Show all containers (default shows just running)")
		s.tmpl = formatFlag(f)
		f.BoolVar(&s.once, "no-stream", false, "Disable streaming stats and only pull the first result")
		f.BoolVar(&s.noTrunc, "no-trunc", false, "Do not truncate output")
		return s.run
	},
}

// statsView is the stats verb.
type statsView struct {
	app                *app
	api                *client.Client
	tmpl               *string
	all, once, noTrunc bool

	mu   sync.Mutex // guards what follows
	rows []*statsRow
	errs []error
}

// statsRow is a container's usage as templates see it.
type statsRow struct {
	BlockIO, CPUPerc, Container, ID, MemPerc, MemUsage, Name, NetIO, PIDs string

	ready bool
}

var statsList = format.List{
	Table: `{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}`,
	Headers: format.Headers{
		"Container": "CONTAINER", "ID": "CONTAINER ID", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT",
		"MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
	},
}

func (s *statsView) run(ctx context.Context, names []string) error {
	var err error
	if s.api, err = s.app.client(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := len(names) == 0
	var started <-chan string
	if watch && !s.once {
		// Events first: a container that starts after the list is not missed.
		if started, err = s.starts(ctx); err != nil {
			return err
		}
	}
	if watch {
		list, err := s.api.List(ctx, client.ListOptions{All: s.all})
		if err != nil {
			return err
		}
		for _, c := range list {
			names = append(names, c.ID)
		}
	}
	var wg sync.WaitGroup
	for _, n := range names {
		s.follow(ctx, &wg, n)
	}
	if s.once {
		wg.Wait()
		if err := s.draw(false); err != nil {
			return err
		}
		return errors.Join(s.errs...)
	}
	done := make(chan struct{})
	if !watch {
		go func() { wg.Wait(); close(done) }()
	}
	restore, err := s.app.outTTY.RawOutput() // Windows draws nothing without
	if err != nil {
		return err
	}
	defer restore()
	tick := time.NewTicker(statsEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := s.draw(true); err != nil {
				return err
			}
		case id, ok := <-started:
			if !ok {
				return errors.New("the engine ended the stream of events")
			}
			s.follow(ctx, &wg, id)
		case <-done:
			return errors.Join(s.errs...)
		}
	}
}

// starts returns the ids of containers as they start.
func (s *statsView) starts(ctx context.Context) (<-chan string, error) {
	r, err := s.api.Events(ctx, "", "", client.Filters{"type": {"container"}, "event": {"start"}})
	if err != nil {
		return nil, err
	}
	ch := make(chan string, 64)
	go func() {
		defer close(ch)
		defer r.Close()
		dec := json.NewDecoder(r)
		for {
			var e client.Event
			if dec.Decode(&e) != nil {
				return
			}
			select {
			case ch <- e.Actor.ID:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ch, nil
}

// follow keeps a row up to date until the container ends.
func (s *statsView) follow(ctx context.Context, wg *sync.WaitGroup, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.rows, func(r *statsRow) bool { return r.Container == name }) {
		return
	}
	row := &statsRow{Container: name, ID: name, Name: "--", CPUPerc: "--", MemUsage: "-- / --", MemPerc: "--", NetIO: "--", BlockIO: "--", PIDs: "--"}
	s.rows = append(s.rows, row)
	wg.Go(func() {
		err := s.read(ctx, name, row)
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			s.errs = append(s.errs, err)
		}
		if !s.once {
			s.rows = slices.DeleteFunc(s.rows, func(r *statsRow) bool { return r == row })
		}
	})
}

func (s *statsView) read(ctx context.Context, name string, row *statsRow) error {
	r, err := s.api.Stats(ctx, name, !s.once, false)
	if err != nil {
		return err
	}
	defer r.Close()
	dec := json.NewDecoder(r)
	var prev client.CPUStats
	for {
		var st client.Stats
		if err := dec.Decode(&st); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if st.PreCPU.Usage.Total == 0 && st.PreCPU.System == 0 {
			st.PreCPU = prev
		}
		prev = st.CPU
		s.mu.Lock()
		row.set(st, !s.noTrunc)
		s.mu.Unlock()
		if s.once {
			return nil
		}
	}
}

// set fills a row from a sample.
func (r *statsRow) set(st client.Stats, trunc bool) {
	r.ready = true
	if st.ID != "" {
		r.ID = st.ID
	}
	if trunc {
		r.ID = format.ShortID(r.ID)
	}
	r.Name = strings.TrimPrefix(st.Name, "/")
	windows := st.OSType == "windows"
	r.CPUPerc = fmt.Sprintf("%.2f%%", cpuPercent(st, windows))
	if windows {
		r.MemUsage, r.MemPerc = units.BytesSize(float64(st.Memory.PrivateWorkingSet)), "--"
	} else {
		used, limit := memoryUsed(st), st.Memory.Limit
		r.MemUsage = units.BytesSize(float64(used)) + " / " + units.BytesSize(float64(limit))
		r.MemPerc = "0.00%"
		if limit > 0 {
			r.MemPerc = fmt.Sprintf("%.2f%%", float64(used)/float64(limit)*100)
		}
	}
	var rx, tx uint64
	for _, n := range st.Networks {
		rx, tx = rx+n.RxBytes, tx+n.TxBytes
	}
	r.NetIO = ioPair(rx, tx)
	read, written := st.Storage.ReadSizeBytes, st.Storage.WriteSizeBytes
	for _, b := range st.Blkio.ServiceBytes {
		switch strings.ToLower(b.Op) {
		case "read":
			read += b.Value
		case "write":
			written += b.Value
		}
	}
	r.BlockIO = ioPair(read, written)
	r.PIDs = itoa(int64(st.Pids.Current))
}

func ioPair(a, b uint64) string {
	return units.HumanSizeWithPrecision(float64(a), 3) + " / " + units.HumanSizeWithPrecision(float64(b), 3)
}

// memoryUsed leaves out the page cache that the kernel gives back when asked.
func memoryUsed(st client.Stats) uint64 {
	for _, key := range []string{"total_inactive_file", "inactive_file"} { // cgroup v1, v2
		if v, ok := st.Memory.Stats[key]; ok {
			if v < st.Memory.Usage {
				return st.Memory.Usage - v
			}
			break
		}
	}
	return st.Memory.Usage
}

// cpuPercent is of one CPU: two busy CPUs are 200 %.
func cpuPercent(st client.Stats, windows bool) float64 {
	used := float64(st.CPU.Usage.Total) - float64(st.PreCPU.Usage.Total)
	if windows {
		// Intervals of 100 ns, on all processors.
		possible := float64(st.Read.Sub(st.PreRead).Nanoseconds()) / 100 * float64(st.NumProcs)
		if possible <= 0 {
			return 0
		}
		return used / possible * 100
	}
	system := float64(st.CPU.System) - float64(st.PreCPU.System)
	cpus := float64(st.CPU.OnlineCPUs)
	if cpus == 0 {
		cpus = float64(len(st.CPU.Usage.PerCPU))
	}
	if system <= 0 || used <= 0 {
		return 0
	}
	return used / system * cpus * 100
}

// draw prints the rows; a live table takes the place of the one before.
func (s *statsView) draw(live bool) error {
	s.mu.Lock()
	rows := make([]statsRow, len(s.rows))
	for i, r := range s.rows {
		rows[i] = *r
		if !s.noTrunc && !r.ready {
			rows[i].ID = format.ShortID(r.ID)
		}
	}
	s.mu.Unlock()
	var b bytes.Buffer
	if err := format.Write(&b, statsList, *s.tmpl, false, rows); err != nil {
		return err
	}
	table := *s.tmpl == "" || strings.HasPrefix(*s.tmpl, "table")
	if !live || !table || !s.app.outTTY.Is() {
		_, err := b.WriteTo(s.app.out)
		return err
	}
	// Each line overwrites the one of before; what is below is cleared.
	text := "\x1b[H" + strings.ReplaceAll(b.String(), "\n", "\x1b[K\r\n") + "\x1b[J"
	_, err := io.WriteString(s.app.out, text)
	return err
}
