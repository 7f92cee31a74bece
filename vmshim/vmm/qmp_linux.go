package vmm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// qmp is a client of QEMU's control protocol: one JSON object a line, answers in
// the order of the commands, events in between.
//
// QEMU is jailed because a guest may take it over, so what it says here is as
// hostile as the guest: lines are bounded, and nothing said is acted on beyond
// "done", "failed" and the few events below.
type qmp struct {
	conn *net.UnixConn
	turn sync.Mutex // one command at a time

	answers chan answer
	gone    chan struct{} // closed when the connection ended
	err     error         // why; valid once gone is closed

	mu     sync.Mutex
	events map[string]json.RawMessage // the last of each kind
	notify chan struct{}              // closed and renewed at each event
}

const (
	qmpLine   = 1 << 20 // longest line
	qmpEvents = 64      // kinds of events remembered
)

type answer struct {
	Error *qmpError       `json:"error"`
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
	QMP   json.RawMessage `json:"QMP"`
}

// qmpError is a command's refusal.
type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *qmpError) Error() string { return oneLine(e.Desc, 500) }

func newQMP(conn *net.UnixConn) *qmp {
	q := &qmp{
		conn: conn, answers: make(chan answer, 1), gone: make(chan struct{}),
		events: map[string]json.RawMessage{}, notify: make(chan struct{}),
	}
	go q.read()
	return q
}

func (q *qmp) read() {
	defer close(q.gone)
	lines := bufio.NewScanner(q.conn)
	lines.Buffer(make([]byte, 4096), qmpLine)
	for lines.Scan() {
		var a answer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			q.err = fmt.Errorf("monitor protocol: %w", err)
			_ = q.conn.Close()
			return
		}
		switch {
		case a.Event != "":
			q.remember(a)
		case a.QMP != nil:
		default:
			select {
			case q.answers <- a:
			default:
				q.err = errors.New("monitor protocol: an answer that nobody asked for")
				_ = q.conn.Close()
				return
			}
		}
	}
	if q.err = lines.Err(); q.err == nil {
		q.err = io.EOF
	}
}

func (q *qmp) remember(a answer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.events[a.Event]; ok || len(q.events) < qmpEvents {
		q.events[a.Event] = a.Data
	}
	close(q.notify)
	q.notify = make(chan struct{})
}

// event is the last event of a kind.
func (q *qmp) event(kind string) (json.RawMessage, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	data, ok := q.events[kind]
	return data, ok
}

// wait returns once done says so of the last event of a kind.
func (q *qmp) wait(ctx context.Context, kind string, done func(json.RawMessage) (bool, error)) error {
	for {
		q.mu.Lock()
		data, ok := q.events[kind]
		changed := q.notify
		q.mu.Unlock()
		if ok {
			if end, err := done(data); end || err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-q.gone:
			return q.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// do runs a command, sending files along.
func (q *qmp) do(ctx context.Context, command string, arguments any, files ...*os.File) error {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return err
	}
	q.turn.Lock()
	defer q.turn.Unlock()

	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := q.conn.WriteMsgUnix(append(line, '\n'), rights, nil); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	said := func(a answer) error {
		if a.Error != nil {
			return fmt.Errorf("%s: %w", command, a.Error)
		}
		return nil
	}
	select {
	case a := <-q.answers:
		return said(a)
	case <-q.gone:
		// Its last word may have been the answer.
		select {
		case a := <-q.answers:
			return said(a)
		default:
		}
		return fmt.Errorf("%s: %w", command, q.err)
	case <-ctx.Done():
		// Its answer would be taken for the next command's.
		_ = q.conn.Close()
		return fmt.Errorf("%s: %w", command, ctx.Err())
	}
}
