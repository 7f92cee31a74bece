package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/caisson-engine/caisson/engine/client"
)

// colors mark containers apart, in this order.
var colors = []int{36, 33, 32, 35, 34, 96, 93, 92, 95, 94}

// Printer shows the output of several containers, each line with its origin.
type Printer struct {
	Out, Err io.Writer
	Color    bool
	NoPrefix bool
	Times    bool

	mu    sync.Mutex
	names []string
	width int
}

// Add makes room for a name, so that lines align from the first.
func (p *Printer) Add(names ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range names {
		if !slices.Contains(p.names, n) {
			p.names = append(p.names, n)
			p.width = max(p.width, len(n))
		}
	}
}

// line writes one line of a container's.
func (p *Printer) line(w io.Writer, name string, text []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.NoPrefix {
		_, err := fmt.Fprintf(w, "%s\n", text)
		return err
	}
	prefix := fmt.Sprintf("%-*s | ", p.width, name)
	if p.Color {
		prefix = fmt.Sprintf("\x1b[%dm%s\x1b[0m", colors[slices.Index(p.names, name)%len(colors)], prefix)
	}
	_, err := fmt.Fprintf(w, "%s%s\n", prefix, text)
	return err
}

// Note writes a line that is about a container.
func (p *Printer) Note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.Out, format+"\n", args...)
}

// maxLine bounds a line; a longer one is shown in parts.
const maxLine = 256 << 10

// liner gives whole lines to a Printer.
type liner struct {
	p    *Printer
	w    io.Writer
	name string
	buf  []byte
}

func (l *liner) Write(b []byte) (int, error) {
	l.buf = append(l.buf, b...)
	for {
		i := bytes.IndexByte(l.buf, '\n')
		if i < 0 && len(l.buf) < maxLine {
			return len(b), nil
		}
		end, next := i, i+1
		if i < 0 {
			end, next = len(l.buf), len(l.buf)
		}
		if err := l.p.line(l.w, l.name, bytes.TrimSuffix(l.buf[:end], []byte("\r"))); err != nil {
			return len(b), err
		}
		l.buf = l.buf[next:]
	}
}

// flush shows a last line that was not ended.
func (l *liner) flush() error {
	if len(l.buf) == 0 {
		return nil
	}
	defer func() { l.buf = nil }()
	return l.p.line(l.w, l.name, l.buf)
}

// show copies a container's log to the printer.
func (r *Runner) show(ctx context.Context, p *Printer, c *Container, o client.LogsOptions) error {
	name := c.Short(r.Project.Name)
	p.Add(name)
	full, _, err := r.API.Inspect(ctx, c.ID, false)
	if err != nil {
		return err
	}
	o.Stdout, o.Stderr = true, true
	body, err := r.API.Logs(ctx, c.ID, o)
	if err != nil {
		return err
	}
	defer body.Close()
	out, errs := &liner{p: p, w: p.Out, name: name}, &liner{p: p, w: p.Err, name: name}
	if full.Config.Tty {
		_, err = io.Copy(out, body)
	} else {
		err = client.Demux(out, errs, body)
	}
	return errors.Join(err, out.flush(), errs.flush())
}

// Logs shows the output of the services, and goes on with o.Follow: also with
// that of containers which start meanwhile.
func (r *Runner) Logs(ctx context.Context, p *Printer, list []*Container, o client.LogsOptions) error {
	for _, c := range list {
		p.Add(c.Short(r.Project.Name))
	}
	if !o.Follow {
		for _, c := range list {
			if err := r.show(ctx, p, c, o); err != nil {
				return err
			}
		}
		return nil
	}
	return each(ctx, list, func(ctx context.Context, c *Container) error { return r.show(ctx, p, c, o) })
}

// Event is something that happened to one of the project's containers.
type Event struct {
	Time      time.Time
	Action    string
	Container Container
	ExitCode  int // of a die
	Raw       client.Event
}

// Events calls f for what happens to the project's containers until ctx ends or
// f fails. since is as the API takes it; ready is called when nothing that
// happens from then on is missed.
func (r *Runner) Events(ctx context.Context, since string, ready func(), f func(Event) error) error {
	body, err := r.API.Events(ctx, since, "", client.Filters{"type": {"container"}, "label": {labelProject + "=" + r.Project.Name}})
	if err != nil {
		return err
	}
	defer body.Close()
	defer context.AfterFunc(ctx, func() { body.Close() })()
	if ready != nil {
		ready()
	}
	dec := json.NewDecoder(body)
	for {
		var e client.Event
		if err := dec.Decode(&e); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		a := e.Actor.Attributes
		n, _ := strconv.Atoi(a[labelNumber])
		code, _ := strconv.Atoi(a["exitCode"])
		x := Event{Time: time.Unix(0, e.TimeNano), Action: e.Action, ExitCode: code, Raw: e, Container: Container{
			Name: a["name"], Service: a[labelService], Number: n, OneOff: a[labelOneOff] == "True",
		}}
		x.Container.ID = e.Actor.ID
		if err := f(x); err != nil {
			return err
		}
	}
}
