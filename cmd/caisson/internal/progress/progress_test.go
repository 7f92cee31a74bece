package progress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/caisson-engine/caisson/engine/client"
)

// list is a stream of messages from memory.
type list struct {
	msgs []client.Message
	err  error
}

func (l *list) Next() (client.Message, error) {
	if len(l.msgs) == 0 {
		if l.err != nil {
			return client.Message{}, l.err
		}
		return client.Message{}, io.EOF
	}
	m := l.msgs[0]
	l.msgs = l.msgs[1:]
	return m, nil
}

func bytesOf(cur, total int64) *client.Progress { return &client.Progress{Current: cur, Total: total} }

var pull = []client.Message{
	{Status: "Pulling from library/x", ID: "latest"},
	{Status: "Pulling fs layer", ID: "aaa", Progress: &client.Progress{}},
	{Status: "Pulling fs layer", ID: "bbb", Progress: &client.Progress{}},
	{Status: "Downloading", ID: "aaa", Progress: bytesOf(500, 1000)},
	{Status: "Downloading", ID: "bbb", Progress: bytesOf(100, 0)},
	{Status: "Downloading", ID: "aaa", Progress: bytesOf(1000, 1000)},
	{Status: "Pull complete", ID: "aaa", Progress: &client.Progress{}},
	{Status: "Pull complete", ID: "bbb", Progress: &client.Progress{}},
	{Status: "Digest: sha256:0123"},
	{Status: "Status: Downloaded newer image for x:latest"},
}

func TestPlain(t *testing.T) {
	var b bytes.Buffer
	if err := Show(&list{msgs: pull}, Options{Out: &b}); err != nil {
		t.Fatal(err)
	}
	want := `latest: Pulling from library/x
aaa: Pulling fs layer
bbb: Pulling fs layer
aaa: Pull complete
bbb: Pull complete
Digest: sha256:0123
Status: Downloaded newer image for x:latest
`
	if b.String() != want {
		t.Errorf("%s\nwant\n%s", b.String(), want)
	}
}

// screen plays control sequences like a terminal does.
func screen(t *testing.T, s string) []string {
	t.Helper()
	lines, row, col := []string{""}, 0, 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\n':
			row++
			for len(lines) <= row {
				lines = append(lines, "")
			}
			col = 0
		case s[i] == '\r':
			col = 0
		case strings.HasPrefix(s[i:], "\x1b["):
			var n int
			var cmd byte
			if _, err := fmt.Sscanf(s[i+2:], "%d%c", &n, &cmd); err != nil {
				t.Fatalf("unknown sequence %q", s[i:i+5])
			}
			i += len(fmt.Sprintf("%d", n)) + 2
			switch cmd {
			case 'A':
				row -= n
			case 'K':
				lines[row] = ""
			default:
				t.Fatalf("unknown sequence %c", cmd)
			}
		default:
			lines[row] = lines[row][:col] + s[i:i+1]
			col++
		}
	}
	return lines
}

func TestTerminalEndsWithTheLastState(t *testing.T) {
	var b bytes.Buffer
	err := Show(&list{msgs: pull}, Options{Out: &b, Size: func() (uint, uint, bool) { return 24, 80, true }})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"latest: Pulling from library/x", "aaa: Pull complete", "bbb: Pull complete", "Digest: sha256:0123",
		"Status: Downloaded newer image for x:latest", "",
	}
	if got := screen(t, b.String()); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q\nwant\n%q", got, want)
	}
}

func TestTerminalTooSmall(t *testing.T) {
	var msgs []client.Message
	for i := range 50 {
		msgs = append(msgs, client.Message{ID: fmt.Sprintf("layer%02d", i), Status: strings.Repeat("Waiting ", 20)})
	}
	var b bytes.Buffer
	if err := Show(&list{msgs: msgs}, Options{Out: &b, Size: func() (uint, uint, bool) { return 10, 20, true }}); err != nil {
		t.Fatal(err)
	}
	for _, l := range screen(t, b.String()) {
		if len(l) > 19 {
			t.Errorf("%q is wider than the terminal", l)
		}
	}
	if n := len(screen(t, b.String())); n > 10 {
		t.Errorf("%d lines on a terminal of 10", n)
	}
}

func TestBars(t *testing.T) {
	for _, x := range []struct {
		p    *client.Progress
		want string
	}{
		{nil, "id: Status"},
		{bytesOf(0, 100), "id: Status [>                                     ] 0B/100B"},
		{bytesOf(50, 100), "id: Status [===================>                  ] 50B/100B"},
		{bytesOf(100, 100), "id: Status [======================================] 100B/100B"},
		{bytesOf(200, 100), "id: Status 200B"},
		{bytesOf(1500, 0), "id: Status 1.5kB"},
		{&client.Progress{Current: 3, Total: 4, Units: "files"}, "id: Status [============================>         ] 3/4 files"},
		{&client.Progress{Current: 1, Total: 2, HideCounts: true}, "id: Status [===================>                  ] "},
		{bytesOf(-5, -5), "id: Status"},
	} {
		l := &line{id: "id", status: "Status", progress: x.p}
		if got := l.text(l.since); got != x.want {
			t.Errorf("%+v:\n%q, want\n%q", x.p, got, x.want)
		}
	}
}

func TestEnginesError(t *testing.T) {
	broken := errors.New("pull access denied")
	var b bytes.Buffer
	if err := Show(&list{msgs: pull[:2], err: broken}, Options{Out: &b}); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

func TestStreamAndAux(t *testing.T) {
	var b bytes.Buffer
	var aux []string
	Show(&list{msgs: []client.Message{{Stream: "Loaded image: x\n"}, {Aux: []byte(`{"a":1}`)}}}, Options{Out: &b, Aux: func(r []byte) { aux = append(aux, string(r)) }})
	if b.String() != "Loaded image: x\n" || len(aux) != 1 {
		t.Errorf("%q %q", b.String(), aux)
	}
}
