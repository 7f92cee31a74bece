package kit

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// Journal numbers events, keeps them across a SIGKILL, and replays them, as the
// contract says. It is safe for concurrent use.
//
// An event is in the file before anybody hears of it. Who subscribes gets all
// events after a number, but for those of processes that were forgotten before.
// STARTED and EXITED of a process stay until Forget; others may be dropped, oldest
// first, when there are many. Who misses a dropped event gets RESET.
//
// The file is a list of frames, each size(4) crc32(4) kind(1) payload. A frame
// torn by a kill is cut off: its event was never told. Nothing is synced to
// disk: the journal need not survive the host.
type Journal struct {
	path string

	mu        sync.Mutex
	f         *os.File
	frames    int // in the file
	entries   []*entry
	last      uint64 // number of the newest event ever
	dropped   uint64 // number of the newest event that was dropped and not forgotten
	cleared   uint64 // number of the newest event that was forgotten and dropped
	processes map[processKey]*told
	changed   chan struct{} // closed and replaced with each event
	closed    bool
}

type processKey struct{ container, exec string }

func keyOf(p *backendpb.ProcessRef) processKey {
	return processKey{p.GetContainer(), p.GetExec()}
}

// entry is one event; gone says that its process was forgotten.
type entry struct {
	*backendpb.Event
	gone bool
}

// told is what was said of a process that was not forgotten.
type told struct {
	started, exited *backendpb.Event
	entries         []*entry
}

const (
	frameEvent  = 'E' // payload: backendpb.Event
	frameForget = 'F' // payload: backendpb.ProcessRef
	frameBase   = 'B' // payload: last(8) dropped(8), first frame of a rewritten file

	// maxEvents is how many events are kept before droppable ones go.
	maxEvents = 4096
	maxFrame  = 1 << 20
)

// OpenJournal reads the journal at path, and makes it if there is none.
func OpenJournal(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("event journal: %w", err)
	}
	j := &Journal{path: path, f: f, processes: map[processKey]*told{}, changed: make(chan struct{})}
	sound, err := j.load(bufio.NewReaderSize(f, 64<<10))
	if err == nil {
		if err = f.Truncate(sound); err == nil {
			_, err = f.Seek(sound, io.SeekStart)
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("event journal %s: %w", path, err)
	}
	return j, nil
}

// load applies all sound frames and returns where they end.
func (j *Journal) load(r io.Reader) (int64, error) {
	var sound int64
	for {
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return sound, endOfFile(err)
		}
		size := binary.BigEndian.Uint32(head[:])
		if size == 0 || size > maxFrame {
			return sound, nil
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(r, body); err != nil {
			return sound, endOfFile(err)
		}
		if crc32.ChecksumIEEE(body) != binary.BigEndian.Uint32(head[4:]) || !j.apply(body[0], body[1:]) {
			return sound, nil
		}
		sound += int64(len(head)) + int64(size)
		j.frames++
	}
}

func endOfFile(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

func (j *Journal) apply(kind byte, payload []byte) bool {
	switch kind {
	case frameBase:
		if len(payload) != 16 {
			return false
		}
		j.last, j.dropped = binary.BigEndian.Uint64(payload), binary.BigEndian.Uint64(payload[8:])
	case frameEvent:
		e := &backendpb.Event{}
		if proto.Unmarshal(payload, e) != nil {
			return false
		}
		j.remember(e)
	case frameForget:
		p := &backendpb.ProcessRef{}
		if proto.Unmarshal(payload, p) != nil {
			return false
		}
		j.forget(p)
	default:
		return false
	}
	return true
}

func (j *Journal) remember(ev *backendpb.Event) {
	e := &entry{Event: ev}
	j.entries = append(j.entries, e)
	j.last = max(j.last, e.Seq)
	k := keyOf(e.Process)
	t := j.processes[k]
	if t == nil {
		t = &told{}
		j.processes[k] = t
	}
	switch e.Type {
	case backendpb.Event_STARTED:
		t.started = ev
	case backendpb.Event_EXITED:
		t.exited = ev
	}
	t.entries = append(t.entries, e)
}

func (j *Journal) forget(p *backendpb.ProcessRef) {
	for k, t := range j.processes {
		if k.container == p.GetContainer() && (p.GetExec() == "" || k.exec == p.GetExec()) {
			for _, e := range t.entries {
				e.gone = true
			}
			delete(j.processes, k)
		}
	}
}

// Add gives e the next number and the time, stores it, and tells everybody.
func (j *Journal) Add(e *backendpb.Event) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	e.Seq = j.last + 1
	if e.At == 0 {
		e.At = time.Now().UnixNano()
	}
	if err := j.write(frameEvent, e); err != nil {
		return err
	}
	j.remember(e)
	close(j.changed)
	j.changed = make(chan struct{})
	j.compact()
	return nil
}

// Told returns the STARTED and EXITED of a process that were added since it was
// last forgotten, nil for what was not. They must not be changed.
func (j *Journal) Told(p *backendpb.ProcessRef) (started, exited *backendpb.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if t := j.processes[keyOf(p)]; t != nil {
		return t.started, t.exited
	}
	return nil, nil
}

// Forget says that a process, or a container with all its processes, was
// deleted. Its events may be dropped from now on.
func (j *Journal) Forget(p *backendpb.ProcessRef) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.write(frameForget, p); err != nil {
		return err
	}
	j.forget(p)
	return nil
}

func (j *Journal) write(kind byte, m proto.Message) error {
	if j.closed {
		return fmt.Errorf("event journal: %w", os.ErrClosed)
	}
	frame, err := encodeFrame(kind, m)
	if err != nil {
		return err
	}
	if _, err := j.f.Write(frame); err != nil {
		return fmt.Errorf("event journal: %w", err)
	}
	j.frames++
	return nil
}

func encodeFrame(kind byte, m proto.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{}.MarshalAppend(append(make([]byte, 8, 128), kind), m)
	if err != nil {
		return nil, fmt.Errorf("event journal: %w", err)
	}
	return sealFrame(b), nil
}

func sealFrame(b []byte) []byte {
	binary.BigEndian.PutUint32(b, uint32(len(b)-8))
	binary.BigEndian.PutUint32(b[4:], crc32.ChecksumIEEE(b[8:]))
	return b
}

// compact drops events when there are many, and rewrites the file when most of
// it is about dropped ones. A failure to rewrite leaves the longer file in use.
func (j *Journal) compact() {
	if len(j.entries) > maxEvents {
		kept := j.entries[:0]
		for i, e := range j.entries {
			essential := !e.gone && (e.Type == backendpb.Event_STARTED || e.Type == backendpb.Event_EXITED)
			switch {
			case essential, i >= len(j.entries)-maxEvents/2:
				kept = append(kept, e)
			case e.gone:
				j.cleared = e.Seq
			default:
				j.dropped = e.Seq
				t := j.processes[keyOf(e.Process)]
				t.entries = slices.DeleteFunc(t.entries, func(x *entry) bool { return x == e })
			}
		}
		clear(j.entries[len(kept):])
		j.entries = kept
	}
	if j.frames > 4*(len(j.entries)+maxEvents) {
		_ = j.rewrite()
	}
}

func (j *Journal) rewrite() error {
	base := binary.BigEndian.AppendUint64(append(make([]byte, 8, 32), frameBase), j.last)
	out := sealFrame(binary.BigEndian.AppendUint64(base, j.dropped))
	frames := 1
	for _, e := range j.entries {
		if e.gone {
			continue
		}
		b, err := encodeFrame(frameEvent, e.Event)
		if err != nil {
			return err
		}
		out = append(out, b...)
		frames++
	}
	tmp := j.path + ".new"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(out); err == nil {
		err = os.Rename(tmp, j.path)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(tmp))
	}
	old := j.f
	j.f, j.frames = f, frames
	return old.Close()
}

// Events subscribes to all events with a number above after.
func (j *Journal) Events(ctx context.Context, after uint64) backend.EventStream {
	j.mu.Lock()
	defer j.mu.Unlock()
	return &subscription{j: j, ctx: ctx, after: after, joined: j.last}
}

// subscription gets what was forgotten only if that was after it joined.
type subscription struct {
	j             *Journal
	ctx           context.Context
	after, joined uint64
}

// Recv is backend.EventStream.
func (s *subscription) Recv() (*backendpb.Event, error) {
	for {
		if err := s.ctx.Err(); err != nil {
			return nil, err
		}
		e, changed, err := s.next()
		if e != nil || err != nil {
			return e, err
		}
		select {
		case <-s.ctx.Done():
			return nil, s.ctx.Err()
		case <-changed:
		}
	}
}

// next returns the next event, or a channel that closes when there may be one.
func (s *subscription) next() (*backendpb.Event, <-chan struct{}, error) {
	j := s.j
	j.mu.Lock()
	defer j.mu.Unlock()
	reset := uint64(0)
	switch {
	case s.after > j.last: // a number from another life
		reset = j.last
	case s.after < j.dropped, s.after < j.cleared && s.joined < j.cleared:
		reset = max(j.dropped, j.cleared)
	}
	if reset != 0 || s.after > j.last {
		s.after, s.joined = reset, j.last
		return &backendpb.Event{Seq: reset, At: time.Now().UnixNano(), Type: backendpb.Event_RESET}, nil, nil
	}
	i, _ := slices.BinarySearchFunc(j.entries, s.after+1, func(e *entry, seq uint64) int { return cmp.Compare(e.Seq, seq) })
	for ; i < len(j.entries); i++ {
		if e := j.entries[i]; !e.gone || e.Seq > s.joined {
			s.after = e.Seq
			return proto.CloneOf(e.Event), nil, nil
		}
	}
	if j.closed {
		return nil, nil, fmt.Errorf("the backend ends: %w", errdefs.ErrUnavailable)
	}
	return nil, j.changed, nil
}

// Close ends all subscriptions.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil
	}
	j.closed = true
	close(j.changed)
	return j.f.Close()
}
