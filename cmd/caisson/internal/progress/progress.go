// Package progress shows what an engine reports while it pulls, pushes or
// loads: one line per layer with a bar on a terminal, plain lines elsewhere.
package progress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/caisson-engine/caisson/engine/client"
)

const (
	// frame is the least time between two drawings.
	frame = 50 * time.Millisecond
	// barWidth is that of a bar with its brackets.
	barWidth = 40
	// minRows and minCols are assumed of a terminal that does not tell.
	minRows, minCols = 24, 80
)

// Messages is a stream of progress; *client.Messages is one.
type Messages interface {
	Next() (client.Message, error)
}

// Options say where to show progress.
type Options struct {
	Out io.Writer
	// Size is the terminal's size; nil when Out is not a terminal.
	Size func() (rows, cols uint, ok bool)
	// Aux gets what is meant for programs.
	Aux func(raw []byte)
}

// Show reads messages to their end. The engine's error, if it reports one, is
// returned.
func Show(m Messages, o Options) error {
	d := &display{o: o, lines: map[string]*line{}}
	for {
		msg, err := m.Next()
		if err != nil {
			d.flush()
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if msg.Aux != nil && o.Aux != nil {
			o.Aux(msg.Aux)
		}
		d.add(msg)
	}
}

// line is the state of one layer.
type line struct {
	id, status string
	progress   *client.Progress
	since      time.Time // when its bytes began to count
	first      int64     // how many there were then
}

type display struct {
	o     Options
	lines map[string]*line
	order []*line
	drawn int // lines on the terminal that the next drawing replaces
	last  time.Time
	dirty bool
}

func (d *display) add(m client.Message) {
	switch {
	case m.Stream != "":
		d.flush()
		fmt.Fprint(d.o.Out, m.Stream)
	case m.Status == "":
	case m.ID == "" && m.Progress == nil:
		d.flush()
		fmt.Fprintln(d.o.Out, strings.TrimRight(m.Status, "\n"))
	case d.o.Size == nil:
		// Elsewhere than on a terminal only what happened is worth a line.
		if m.Progress == nil || m.Progress.Current == 0 && m.Progress.Total == 0 {
			d.plain(m)
		}
	default:
		d.update(m)
	}
}

// plain prints a status unless it is the one that the layer had.
func (d *display) plain(m client.Message) {
	l := d.line(m.ID)
	if l.status == m.Status {
		return
	}
	l.status = m.Status
	if m.ID == "" {
		fmt.Fprintln(d.o.Out, m.Status)
		return
	}
	fmt.Fprintf(d.o.Out, "%s: %s\n", m.ID, m.Status)
}

func (d *display) line(id string) *line {
	l, ok := d.lines[id]
	if !ok {
		l = &line{id: id}
		d.lines[id] = l
		d.order = append(d.order, l)
	}
	return l
}

func (d *display) update(m client.Message) {
	l := d.line(m.ID)
	if l.status != m.Status {
		l.since = time.Time{}
	}
	l.status, l.progress = m.Status, m.Progress
	if p := m.Progress; p != nil && l.since.IsZero() {
		l.since, l.first = time.Now(), p.Current
	}
	d.dirty = true
	if time.Since(d.last) >= frame {
		d.draw()
	}
}

// flush draws the last state and leaves it standing.
func (d *display) flush() {
	if d.dirty {
		d.draw()
	}
	// What comes next is below; these lines are not drawn again.
	d.drawn, d.order = 0, nil
	clear(d.lines)
}

func (d *display) draw() {
	rows, cols, ok := d.o.Size()
	if !ok {
		rows, cols = minRows, minCols
	}
	var b bytes.Buffer
	if d.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", d.drawn)
	}
	shown := d.visible(int(rows) - 1)
	for _, l := range shown {
		text := []rune(l.text(time.Now()))
		if len(text) > int(cols)-1 {
			text = text[:cols-1]
		}
		fmt.Fprintf(&b, "\x1b[2K%s\r\n", string(text))
	}
	d.drawn = len(shown)
	_, _ = b.WriteTo(d.o.Out) // who cannot be shown progress gets the result all the same
	d.last, d.dirty = time.Now(), false
}

// visible are the lines that fit: of too many, those still at work.
func (d *display) visible(n int) []*line {
	if len(d.order) <= n || n < 1 {
		return d.order
	}
	var busy, rest []*line
	for _, l := range d.order {
		if l.progress != nil && l.progress.Current > 0 {
			busy = append(busy, l)
		} else {
			rest = append(rest, l)
		}
	}
	out := append(busy, rest...)[:n]
	return out
}

func (l *line) text(now time.Time) string {
	s := l.status
	if l.id != "" {
		s = l.id + ": " + s
	}
	p := l.progress
	if p == nil || p.Current <= 0 && p.Total <= 0 {
		return s
	}
	return s + " " + bar(p) + counts(p) + l.left(p, now)
}

func bar(p *client.Progress) string {
	if p.Total <= 0 || p.Current > p.Total {
		return ""
	}
	inner := barWidth - 2
	done := int(float64(p.Current) / float64(p.Total) * float64(inner))
	if done >= inner {
		return "[" + strings.Repeat("=", inner) + "] "
	}
	return "[" + strings.Repeat("=", done) + ">" + strings.Repeat(" ", inner-done-1) + "] "
}

func counts(p *client.Progress) string {
	switch {
	case p.HideCounts:
		return ""
	case p.Units != "" && p.Total > 0:
		return fmt.Sprintf("%d/%d %s", p.Current, p.Total, p.Units)
	case p.Units != "":
		return fmt.Sprintf("%d %s", p.Current, p.Units)
	case p.Total <= 0 || p.Current > p.Total:
		return units.HumanSize(float64(p.Current))
	}
	return units.HumanSize(float64(p.Current)) + "/" + units.HumanSize(float64(p.Total))
}

// left guesses the time to the end from the pace so far.
func (l *line) left(p *client.Progress, now time.Time) string {
	spent, done := now.Sub(l.since), p.Current-l.first
	if spent < time.Second || done <= 0 || p.Total <= p.Current {
		return ""
	}
	left := time.Duration(float64(spent) * float64(p.Total-p.Current) / float64(done)).Round(time.Second)
	if left <= 0 {
		return ""
	}
	return " " + left.String()
}
