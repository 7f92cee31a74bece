package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/identity"
)

// Top lists a running container's processes as the host's ps shows them.
func (e *Engine) Top(ctx context.Context, ref, psArgs string) (apicontainer.TopResponse, error) {
	var none apicontainer.TopResponse
	c, err := e.find(ctx, ref)
	if err != nil {
		return none, err
	}
	if !identity.From(ctx).Admin {
		if err := checkPS(psArgs); err != nil {
			return none, err
		}
	}
	if err := e.await(ctx); err != nil {
		return none, err
	}
	c.awaitStart()
	rec, st := c.view()
	if !st.State.Alive() {
		return none, notRunning(c)
	}
	lister, err := capable[backend.ProcessLister](e, ctx, rec.Decision.Backend, backend.CapProcesses)
	if err != nil {
		return none, err
	}
	list, err := lister.Processes(ctx, c.id)
	if err != nil {
		return none, err
	}
	if st.Pid == 0 {
		// Their numbers are another kernel's: the host's ps knows nothing of them.
		top, err := guestTop(list.GetProcesses(), psArgs, e.now())
		if err == nil {
			e.emit(rec, events.ActionTop)
		}
		return top, err
	}
	var pids []int64
	for _, p := range list.GetProcesses() {
		pids = append(pids, p.GetPid())
	}
	if psArgs == "" {
		psArgs = "-ef"
	}
	out, err := exec.CommandContext(ctx, "ps", strings.Fields(psArgs)...).Output()
	if err != nil {
		return none, psError(err)
	}
	top, err := parsePS(string(out), pids)
	if err != nil {
		return none, err
	}
	e.emit(rec, events.ActionTop)
	return top, nil
}

var (
	psFlags  = regexp.MustCompile(`^-?[aefFjlLmMTvwxXyu]+$`)
	psFormat = regexp.MustCompile(`^-?[aefFjlLmMTvwxXyu]*o$`)
	psFields = regexp.MustCompile(`^pid(,[a-z_]+)*$`)
)

// checkPS lets a tenant choose what ps shows, but not what it calls PID: rows are
// told apart by that column, and ps sees every process of the host.
func checkPS(args string) error {
	words := strings.Fields(args)
	for i := 0; i < len(words); i++ {
		switch {
		case psFormat.MatchString(words[i]) && i+1 < len(words) && psFields.MatchString(words[i+1]):
			i++
		case psFlags.MatchString(words[i]):
		default:
			return fmt.Errorf("ps %s: tenants may use ps's short flags, and -o with fields of which the first is pid, as -eo pid,user,args: %w", words[i], errdefs.ErrPermissionDenied)
		}
	}
	return nil
}

// guestProcess is one of a container whose processes only its backend sees.
type guestProcess struct {
	*backendpb.ProcessInfo
	now time.Time
}

func (p guestProcess) age() time.Duration { return p.now.Sub(time.Unix(0, p.GetStartedAt())) }

func (p guestProcess) share() float64 {
	if p.age() <= 0 {
		return 0
	}
	return 100 * float64(p.GetCpu()) / float64(p.age())
}

// stime is when it started: the time of day, or the day.
func (p guestProcess) stime() string {
	started := time.Unix(0, p.GetStartedAt())
	if p.age() > 24*time.Hour {
		return started.Format("Jan02")
	}
	return started.Format("15:04")
}

// elapsed is [[dd-]hh:]mm:ss, as ps writes it.
func elapsed(d time.Duration) string {
	s := int(d.Seconds())
	text := fmt.Sprintf("%02d:%02d", s/60%60, s%60)
	if h := s / 3600; h > 0 {
		text = fmt.Sprintf("%02d:%s", h%24, text)
	}
	if days := s / 86400; days > 0 {
		text = fmt.Sprintf("%d-%s", days, text)
	}
	return text
}

// guestColumn is what ps would show in one column. Users are the guest's, so they
// have no names here.
type guestColumn struct {
	title string
	value func(guestProcess) string
}

func uid(p guestProcess) string { return strconv.FormatUint(uint64(p.GetUid()), 10) }

func line(p guestProcess) string { return p.GetCommand() }

func cputime(p guestProcess) string {
	d := time.Duration(p.GetCpu())
	return fmt.Sprintf("%02d:%02d:%02d", int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60)
}

// guestColumns by the names that ps -o knows them by.
var guestColumns = map[string]guestColumn{
	"pid":     {"PID", func(p guestProcess) string { return strconv.FormatInt(p.GetPid(), 10) }},
	"ppid":    {"PPID", func(p guestProcess) string { return strconv.FormatInt(p.GetPpid(), 10) }},
	"uid":     {"UID", uid},
	"user":    {"USER", uid},
	"c":       {"C", func(p guestProcess) string { return strconv.Itoa(int(p.share())) }},
	"pcpu":    {"%CPU", func(p guestProcess) string { return strconv.FormatFloat(p.share(), 'f', 1, 64) }},
	"stime":   {"STIME", guestProcess.stime},
	"etime":   {"ELAPSED", func(p guestProcess) string { return elapsed(p.age()) }},
	"tty":     {"TTY", func(guestProcess) string { return "?" }},
	"time":    {"TIME", cputime},
	"cmd":     {"CMD", line},
	"args":    {"COMMAND", line},
	"command": {"COMMAND", line},
	"comm": {"COMMAND", func(p guestProcess) string {
		program, _, _ := strings.Cut(p.GetCommand(), " ")
		return path.Base(program)
	}},
}

var (
	psAll     = regexp.MustCompile(`^-?[aefx]+$`)
	fullNames = []string{"uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd"} // ps -ef
)

// guestTop is ps for processes that only their backend sees.
func guestTop(list []*backendpb.ProcessInfo, psArgs string, now time.Time) (apicontainer.TopResponse, error) {
	top := apicontainer.TopResponse{Titles: []string{}, Processes: [][]string{}}
	var names []string
	words := strings.Fields(psArgs)
	for i := 0; i < len(words); i++ {
		switch {
		case psFormat.MatchString(words[i]) && i+1 < len(words):
			i++
			names = append(names, strings.Split(words[i], ",")...)
		case psAll.MatchString(words[i]):
		default:
			return top, notOfGuests(psArgs)
		}
	}
	if names == nil {
		names = fullNames
	}
	for _, name := range names {
		c, ok := guestColumns[name]
		if !ok {
			return top, notOfGuests(psArgs)
		}
		top.Titles = append(top.Titles, c.title)
	}
	for _, p := range list {
		var row []string
		for _, name := range names {
			row = append(row, guestColumns[name].value(guestProcess{p, now}))
		}
		top.Processes = append(top.Processes, row)
	}
	return top, nil
}

func notOfGuests(psArgs string) error {
	return fmt.Errorf("this container's processes are not the host's, so ps %s cannot be told of them: use ps -ef, or -o with some of %s: %w",
		psArgs, strings.Join(slices.Sorted(maps.Keys(guestColumns)), ","), errdefs.ErrInvalidArgument)
}

func psError(err error) error {
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return fmt.Errorf("ps: %s: %w", strings.TrimSpace(string(exit.Stderr)), errdefs.ErrInvalidArgument)
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("top needs the host's ps, which is not installed (Debian: procps): %w", errdefs.ErrUnavailable)
	}
	return fmt.Errorf("ps: %w", err)
}

// parsePS keeps the rows of ps whose PID is one of pids. The last column may
// hold spaces.
func parsePS(out string, pids []int64) (apicontainer.TopResponse, error) {
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	titles := strings.Fields(lines[0])
	pidColumn := slices.Index(titles, "PID")
	if pidColumn < 0 {
		return apicontainer.TopResponse{}, fmt.Errorf("Couldn't find PID field in ps output: %w", errdefs.ErrInvalidArgument) //nolint:staticcheck // Docker's words
	}
	top := apicontainer.TopResponse{Titles: titles, Processes: [][]string{}}
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) <= pidColumn {
			continue
		}
		pid, err := strconv.ParseInt(fields[pidColumn], 10, 64)
		if err != nil || !slices.Contains(pids, pid) {
			continue
		}
		if last := len(titles) - 1; len(fields) > len(titles) {
			fields = append(fields[:last:last], strings.Join(fields[last:], " "))
		}
		top.Processes = append(top.Processes, fields)
	}
	return top, nil
}
