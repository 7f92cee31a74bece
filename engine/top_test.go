package engine

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

func TestParsePS(t *testing.T) {
	out := "UID PID PPID CMD\nroot 7 1 sh -c sleep 9\nroot 8 1 other\nshort\n"
	top, err := parsePS(out, []int64{7})
	if err != nil {
		t.Fatal(err)
	}
	if want := [][]string{{"root", "7", "1", "sh -c sleep 9"}}; !reflect.DeepEqual(top.Processes, want) {
		t.Errorf("got %v, want %v", top.Processes, want)
	}
	if _, err := parsePS("UID CMD\nroot sh\n", nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("without a PID column: %v", err)
	}
}

func TestGuestTop(t *testing.T) {
	now := time.Unix(1_700_100_000, 0)
	list := []*backendpb.ProcessInfo{
		{Pid: 7, Ppid: 1, Uid: 1000, Command: "/bin/sh -c work", StartedAt: now.Add(-26*time.Hour - 3*time.Minute).UnixNano(), Cpu: uint64(13*time.Hour + 90*time.Second)},
	}
	for _, c := range []struct{ args, titles, row string }{
		{"-o pid,comm", "PID COMMAND", "7 sh"},
		{"-eo user,pid,args", "USER PID COMMAND", "1000 7 /bin/sh -c work"},
		{"ax -o pcpu,etime,tty", "%CPU ELAPSED TTY", "50.0 1-02:03:00 ?"},
		{"-o pid -o cmd", "PID CMD", "7 /bin/sh -c work"},
		{"", "UID PID PPID C STIME TTY TIME CMD", "1000 7 1 50 " + time.Unix(0, list[0].StartedAt).Format("Jan02") + " ? 13:01:30 /bin/sh -c work"},
	} {
		top, err := guestTop(list, c.args, now)
		if err != nil || len(top.Processes) != 1 {
			t.Errorf("ps %s: %v, %v", c.args, top, err)
			continue
		}
		if titles, row := strings.Join(top.Titles, " "), strings.Join(top.Processes[0], " "); titles != c.titles || row != c.row {
			t.Errorf("ps %s: %s\n%s\nwant %s\n%s", c.args, titles, row, c.titles, c.row)
		}
	}
	for _, args := range []string{"aux", "-o pid,nosuch", "-o", "-o pid=", "--sort pid"} {
		if _, err := guestTop(list, args, now); !errdefs.IsInvalidArgument(err) {
			t.Errorf("ps %s: %v", args, err)
		}
	}
}
