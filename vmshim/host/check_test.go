package host

import (
	"strings"
	"testing"
	"unicode"

	"google.golang.org/protobuf/proto"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// FuzzReplies: whatever bytes a reply is made of, what goes on is within bounds.
func FuzzReplies(f *testing.F) {
	seed := func(m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	seed(&backendpb.StatsReply{Cpu: &backendpb.CPUStats{Total: 1 << 63, PerCpu: []uint64{1, 2, 3}}, Pids: 7})
	seed(&backendpb.ChangesReply{Changes: []*backendpb.Change{{Path: "/a/../b"}, {Path: "/a", Kind: 2}}})
	seed(&backendpb.PathStat{Name: "..", LinkTarget: "/x", Mode: 0o644})
	seed(&backendpb.Exit{Code: 300, Reason: "\x1b[31m"})
	seed(&backendpb.ProcessesReply{Processes: []*backendpb.ProcessInfo{{Pid: -1}, {Pid: 5, Command: "a\x00b"}}})
	f.Fuzz(func(t *testing.T, b []byte) {
		printable := func(what, s string) {
			if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%s: %q", what, s)
			}
		}
		var stats backendpb.StatsReply
		if proto.Unmarshal(b, &stats) == nil {
			r := cleanStats(&stats, 1, 1<<20, 2)
			if r.GetMemory().GetUsage() > 1<<20 || len(r.GetCpu().GetPerCpu()) > 2 || len(r.GetNetworks()) > maxCounters || len(r.GetBlockIo()) > maxCounters {
				t.Errorf("stats: %v", r)
			}
		}
		var changes backendpb.ChangesReply
		if proto.Unmarshal(b, &changes) == nil {
			if r, err := cleanChanges(&changes); err == nil {
				for _, c := range r.GetChanges() {
					if !strings.HasPrefix(c.GetPath(), "/") || strings.Contains(c.GetPath(), "/../") || strings.HasSuffix(c.GetPath(), "/..") {
						t.Errorf("changes: %v", c)
					}
				}
			}
		}
		var stat backendpb.PathStat
		if proto.Unmarshal(b, &stat) == nil {
			if r, err := cleanStat(&stat); err == nil && (r.GetName() == ".." || r.GetName() != "/" && strings.Contains(r.GetName(), "/") || r.GetSize() < 0) {
				t.Errorf("stat: %v", r)
			}
		}
		var exit backendpb.Exit
		if proto.Unmarshal(b, &exit) == nil {
			r := cleanExit(&exit, 1)
			printable("reason", r.GetReason())
			if r.GetCode() < 0 || r.GetCode() > 255 {
				t.Errorf("exit: %v", r)
			}
		}
		var list backendpb.ProcessesReply
		if proto.Unmarshal(b, &list) == nil {
			for _, p := range cleanProcesses(&list).GetProcesses() {
				printable("command", p.GetCommand())
				if p.GetPid() <= 0 {
					t.Errorf("process: %v", p)
				}
			}
		}
		printable("text", clean(string(b), 100))
	})
}
