package host

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/status"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// What a guest says, within bounds. Every message that goes on to the backend is
// made here, field by field, so that what nobody thought of stays behind.

const (
	maxText      = 4096    // bytes of an error or a path
	maxName      = 255     // bytes of a file's name
	maxProcesses = 1 << 16 // in ps
	maxChanges   = 1 << 20 // in diff
	maxCounters  = 64      // devices in stats
	maxStatNames = 128     // lines of memory.stat
)

// clean cuts a text to n bytes and leaves out what a terminal would obey.
func clean(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

// lastWords are the last lines of a guest's kernel, for an error.
func lastWords(console string) string {
	lines := strings.Split(strings.TrimSpace(console), "\n")
	if len(lines) > 3 {
		lines = lines[len(lines)-3:]
	}
	text := clean(strings.Join(lines, " | "), 512)
	if text == "" {
		return ""
	}
	return " (its console: " + text + ")"
}

// kinds that an error of a guest may have.
var kinds = []error{
	errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrInvalidArgument, errdefs.ErrFailedPrecondition,
	errdefs.ErrNotImplemented, errdefs.ErrPermissionDenied, errdefs.ErrConflict, errdefs.ErrOutOfRange,
	errdefs.ErrResourceExhausted, errdefs.ErrAborted, errdefs.ErrUnavailable,
}

// guestError is an error of the guest in clean words.
type guestError struct {
	text string
	kind error
}

func (e *guestError) Error() string { return e.text }
func (e *guestError) Unwrap() error { return e.kind }

func cleanError(err error) error {
	var kind error = errdefs.ErrUnknown
	if i := slices.IndexFunc(kinds, func(k error) bool { return errors.Is(errdefs.Resolve(err), k) }); i >= 0 {
		kind = kinds[i]
	}
	text := err.Error()
	if s, ok := status.FromError(err); ok && s.Message() != "" {
		text = s.Message()
	}
	return &guestError{clean(text, maxText), kind}
}

func cleanFailure(f *backendpb.ExecFailure) *backendpb.ExecFailure {
	kind := f.GetKind()
	if _, known := backendpb.ExecFailure_Kind_name[int32(kind)]; !known {
		kind = backendpb.ExecFailure_OTHER
	}
	return &backendpb.ExecFailure{Kind: kind, Message: clean(f.GetMessage(), maxText)}
}

// cleanExit is how a process ended, by the guest's word. at is our clock's.
func cleanExit(x *backendpb.Exit, at int64) *backendpb.Exit {
	code, unknown := x.GetCode(), x.GetUnknown()
	if code < 0 || code > 255 {
		code, unknown = 255, true
	}
	return &backendpb.Exit{Code: code, Unknown: unknown, OomKilled: x.GetOomKilled(), At: at, Reason: clean(x.GetReason(), 256)}
}

// cleanStats bounds lists and leaves out names that no kernel has. memory is the
// machine's, in bytes.
func cleanStats(s *backendpb.StatsReply, at int64, memory uint64, cpus int) *backendpb.StatsReply {
	c, m := s.GetCpu(), s.GetMemory()
	r := &backendpb.StatsReply{
		At: at,
		Cpu: &backendpb.CPUStats{
			Total: bounded(c.GetTotal()), User: bounded(c.GetUser()), System: bounded(c.GetSystem()),
			Periods: bounded(c.GetPeriods()), ThrottledPeriods: bounded(c.GetThrottledPeriods()), ThrottledTime: bounded(c.GetThrottledTime()),
		},
		Memory: &backendpb.MemoryStats{
			Usage: min(m.GetUsage(), memory), MaxUsage: min(m.GetMaxUsage(), memory), Limit: memory,
			Failcnt: bounded(m.GetFailcnt()), Stats: map[string]uint64{},
		},
		Pids: min(s.GetPids(), 1<<22), PidsLimit: min(s.GetPidsLimit(), 1<<22),
	}
	if limit := m.GetLimit(); limit > 0 { // without one the machine is
		r.Memory.Limit = min(limit, memory)
	}
	for _, n := range head(c.GetPerCpu(), cpus) {
		r.Cpu.PerCpu = append(r.Cpu.PerCpu, bounded(n))
	}
	for name, n := range m.GetStats() {
		if len(r.Memory.Stats) < maxStatNames && plainName(name, 64) {
			r.Memory.Stats[name] = bounded(n)
		}
	}
	for _, n := range head(s.GetNetworks(), maxCounters) {
		if plainName(n.GetName(), 15) {
			r.Networks = append(r.Networks, &backendpb.NetworkStats{
				Name:    n.GetName(),
				RxBytes: bounded(n.GetRxBytes()), RxPackets: bounded(n.GetRxPackets()), RxErrors: bounded(n.GetRxErrors()), RxDropped: bounded(n.GetRxDropped()),
				TxBytes: bounded(n.GetTxBytes()), TxPackets: bounded(n.GetTxPackets()), TxErrors: bounded(n.GetTxErrors()), TxDropped: bounded(n.GetTxDropped()),
			})
		}
	}
	for _, b := range head(s.GetBlockIo(), maxCounters) {
		if plainName(b.GetOp(), 16) {
			r.BlockIo = append(r.BlockIo, &backendpb.BlockIO{
				Major: min(b.GetMajor(), 1<<12), Minor: min(b.GetMinor(), 1<<20), Op: b.GetOp(), Bytes: bounded(b.GetBytes()), Ios: bounded(b.GetIos()),
			})
		}
	}
	return r
}

func head[T any](list []T, n int) []T { return list[:min(len(list), n)] }

// bounded keeps a counter where sums of a few of them do not overflow.
func bounded(n uint64) uint64 { return min(n, math.MaxInt64/64) }

func plainName(s string, n int) bool {
	return s != "" && len(s) <= n && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == ""
}

func cleanProcesses(r *backendpb.ProcessesReply) *backendpb.ProcessesReply {
	out := &backendpb.ProcessesReply{}
	for _, p := range head(r.GetProcesses(), maxProcesses) {
		if p.GetPid() > 0 && p.GetPid() <= 1<<22 {
			out.Processes = append(out.Processes, &backendpb.ProcessInfo{
				Pid: p.GetPid(), Ppid: max(p.GetPpid(), 0), Uid: p.GetUid(), Command: clean(p.GetCommand(), maxText),
				StartedAt: p.GetStartedAt(), Cpu: bounded(p.GetCpu()),
			})
		}
	}
	return out
}

// knownModes are the bits that a file's mode may have.
const knownModes = fs.ModeDir | fs.ModeSymlink | fs.ModeDevice | fs.ModeCharDevice | fs.ModeNamedPipe | fs.ModeSocket |
	fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky | fs.ModePerm

// cleanStat refuses what would be a path where a name is expected.
func cleanStat(s *backendpb.PathStat) (*backendpb.PathStat, error) {
	name := s.GetName()
	if name != "/" && (name == "" || len(name) > maxName || strings.ContainsAny(name, "/\x00") || name == "..") {
		return nil, fmt.Errorf("the guest names a file in a way that no file has: %w", errdefs.ErrUnavailable)
	}
	link := s.GetLinkTarget()
	if len(link) > maxText || strings.Contains(link, "\x00") {
		return nil, fmt.Errorf("the guest names a link in a way that no link has: %w", errdefs.ErrUnavailable)
	}
	return &backendpb.PathStat{
		Name: name, Size: max(s.GetSize(), 0), Mode: s.GetMode() & uint32(knownModes), Mtime: s.GetMtime(), LinkTarget: link,
	}, nil
}

func cleanChanges(r *backendpb.ChangesReply) (*backendpb.ChangesReply, error) {
	if len(r.GetChanges()) > maxChanges {
		return nil, fmt.Errorf("the guest tells of more than %d changes: %w", maxChanges, errdefs.ErrResourceExhausted)
	}
	out := &backendpb.ChangesReply{}
	for _, c := range r.GetChanges() {
		p := c.GetPath()
		if _, known := backendpb.Change_Kind_name[int32(c.GetKind())]; !known || len(p) > maxText ||
			!strings.HasPrefix(p, "/") || path.Clean(p) != p || strings.Contains(p, "\x00") {
			return nil, fmt.Errorf("the guest tells of a change that cannot be: %w", errdefs.ErrUnavailable)
		}
		out.Changes = append(out.Changes, &backendpb.Change{Path: p, Kind: c.GetKind()})
	}
	return out, nil
}
