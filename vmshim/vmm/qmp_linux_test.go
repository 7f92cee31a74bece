package vmm

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// talk returns a client and the other end.
func talk(t testing.TB) (*qmp, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { ends[i].Close() })
	}
	return newQMP(ends[0].(*net.UnixConn)), ends[1]
}

// A monitor that a guest took over says what it likes; nothing of that may hang
// or grow without bound.
func TestHostileMonitor(t *testing.T) {
	for name, test := range map[string]struct{ says, want string }{
		"an answer":        {`{"return": {"a": 1}}` + "\n", ""},
		"events first":     {`{"event": "STOP", "data": {}}` + "\n" + `{"return": {}}` + "\n", ""},
		"a refusal":        {`{"error": {"class": "GenericError", "desc": "not\nnow"}}` + "\n", "x: not now"},
		"garbage":          {"hello\n", "invalid character"},
		"the wrong type":   {`{"return": 1, "event": 3}` + "\n", "cannot unmarshal"},
		"a list":           {"[1]\n", "cannot unmarshal"},
		"no end of a line": {strings.Repeat("x", qmpLine+1), "token too long"},
		"answers unasked":  {strings.Repeat(`{"return": {}}`+"\n", 4), "any"},
		"nothing":          {"", "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			q, other := talk(t)
			go func() {
				// The command arrives first.
				_, _ = other.Read(make([]byte, 4096))
				_, _ = other.Write([]byte(test.says))
				if test.want != "" && !strings.HasPrefix(test.want, "x:") {
					other.Close()
				}
			}()
			err := q.do(within(t, time.Minute), "x", nil)
			switch {
			case test.want == "any":
			case test.want == "" && err != nil, test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// A monitor that does not answer is given up, for good.
func TestSilentMonitor(t *testing.T) {
	q, _ := talk(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := q.do(ctx, "x", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	<-q.gone
	if err := q.do(within(t, time.Minute), "y", nil); err == nil {
		t.Error("the next command got an answer")
	}
}

func FuzzMonitor(f *testing.F) {
	f.Add([]byte(`{"QMP": {}}` + "\n" + `{"return": {}}` + "\n"))
	f.Add([]byte(`{"event": "MIGRATION", "data": {"status": "completed"}}` + "\n"))
	f.Add([]byte(`{"event": "SHUTDOWN", "data": null}` + "\n{}\n[]\n"))
	f.Fuzz(func(t *testing.T, says []byte) {
		q, other := talk(t)
		go func() {
			_, _ = other.Write(says)
			other.Close()
		}()
		ctx := within(t, time.Minute)
		_ = q.do(ctx, "x", nil)
		_ = q.wait(ctx, "MIGRATION", migrated)
		<-q.gone
		if ctx.Err() != nil {
			t.Error("it hung")
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		if len(q.events) > qmpEvents {
			t.Errorf("%d kinds of events kept", len(q.events))
		}
	})
}

func FuzzPanicMessage(f *testing.F) {
	f.Add("Kernel panic - not syncing: Attempted to kill init!\r\nmore")
	f.Add("Kernel panic - not syncing: \x1b[31m\xff\x00" + strings.Repeat("é", 300))
	f.Fuzz(func(t *testing.T, console string) {
		text, _ := panicMessage(console)
		if len(text) > 210 || strings.ContainsAny(text, "\x00\n\r\x1b\x7f") {
			t.Errorf("%q", text)
		}
	})
}

func TestTail(t *testing.T) {
	for _, size := range []int{1, 3, 10, 11, 100} {
		k := &tail{most: 10}
		var all strings.Builder
		for i := range 50 {
			part := strings.Repeat(string(rune('a'+i%26)), size)
			all.WriteString(part)
			if n, err := k.Write([]byte(part)); n != size || err != nil {
				t.Fatal(n, err)
			}
			want := all.String()
			if got := k.String(); got != want[max(0, len(want)-10):] {
				t.Fatalf("parts of %d: kept %q of %q", size, got, want)
			}
		}
	}
}
