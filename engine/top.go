package engine

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
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

// guestTop is ps -ef of processes that only their backend sees.
func guestTop(list []*backendpb.ProcessInfo, psArgs string, now time.Time) (apicontainer.TopResponse, error) {
	top := apicontainer.TopResponse{
		Titles: []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}, Processes: [][]string{},
	}
	if psArgs != "" && psArgs != "-ef" && psArgs != "ef" {
		return top, fmt.Errorf("this container's processes are not the host's, so only ps -ef can be told of them, not ps %s: %w", psArgs, errdefs.ErrInvalidArgument)
	}
	for _, p := range list {
		started := time.Unix(0, p.GetStartedAt())
		stime := started.Format("15:04")
		if now.Sub(started) > 24*time.Hour {
			stime = started.Format("Jan02")
		}
		cpu := time.Duration(p.GetCpu())
		share := 0
		if lived := now.Sub(started); lived > 0 {
			share = int(cpu * 100 / lived)
		}
		top.Processes = append(top.Processes, []string{
			strconv.FormatUint(uint64(p.GetUid()), 10), strconv.FormatInt(p.GetPid(), 10), strconv.FormatInt(p.GetPpid(), 10),
			strconv.Itoa(share), stime, "?",
			fmt.Sprintf("%02d:%02d:%02d", int(cpu.Hours()), int(cpu.Minutes())%60, int(cpu.Seconds())%60), p.GetCommand(),
		})
	}
	return top, nil
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
