package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// commandLimit bounds one call of a runtime.
const commandLimit = 2 * time.Minute

// maxSaid bounds what is read of a runtime's words, in bytes.
const maxSaid = 64 << 10

// output runs a program for what it prints.
func output(ctx context.Context, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = environment()
	out, err := cmd.Output()
	switch exit, ok := errors.AsType[*exec.ExitError](err); {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%s is not there: %w", path, errdefs.ErrNotFound)
	case ok:
		return "", fmt.Errorf("%s %s: %w: %s: %w", path, strings.Join(args, " "), err, lastLine(string(exit.Stderr)), errdefs.ErrUnavailable)
	case err != nil:
		return "", fmt.Errorf("%s cannot be run: %w: %w", path, err, errdefs.ErrUnavailable)
	}
	return string(out), nil
}

// environment is all that a runtime sees of ours.
func environment() []string { return []string{"PATH=" + os.Getenv("PATH")} }

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// argv is a command of the runtime, which writes its errors to log.
func (b *Backend) argv(log, verb string, args ...string) []string {
	a := []string{b.cfg.Runtime.Path, "--root", filepath.Join(b.cfg.StateDir, "runtime"), "--log", log, "--log-format", "json"}
	a = append(a, b.dialect.flags...)
	a = append(a, b.cfg.Runtime.Args...)
	return append(append(a, verb), args...)
}

// command runs a command of the runtime that leaves no process behind. One that
// fails is a *failure. It dies with us: what it did by then is seen by who comes
// next.
func (b *Backend) command(ctx context.Context, log, verb string, args ...string) (string, error) {
	_ = os.Remove(log)
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	argv := b.argv(log, verb, args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = environment(), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var stdout, stderr bytes.Buffer
	if verb != "create" {
		// A container would inherit these, and keep us waiting for their end.
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
	}
	err := cmd.Run()
	if err == nil {
		return stdout.String(), nil
	}
	if ctx.Err() != nil {
		return "", fmt.Errorf("%s %s did not end in %v: %w", b.cfg.Runtime.Name, verb, commandLimit, errdefs.ErrUnavailable)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is not there: %w", argv[0], errdefs.ErrNotFound)
	}
	return "", b.failed(log, verb, stderr.String())
}

// failure is what a runtime says about a command that failed.
type failure struct {
	runtime, verb string
	said          []string // the last is what matters most
}

func (f *failure) Error() string {
	text := "it says nothing"
	if len(f.said) > 0 {
		text = f.said[len(f.said)-1]
	}
	return fmt.Sprintf("%s %s: %s", f.runtime, f.verb, text)
}

// Is makes it an internal error: whatever went wrong, the caller cannot help it.
func (f *failure) Is(target error) bool { return target == errdefs.ErrInternal }

// failed reads a runtime's errors from its log, and what it printed.
func (b *Backend) failed(log, verb, stderr string) *failure {
	f := &failure{runtime: b.cfg.Runtime.Name, verb: verb}
	for line := range strings.SplitSeq(strings.TrimSpace(stderr), "\n") {
		if line != "" && len(f.said) < 100 {
			f.said = append(f.said, line)
		}
	}
	file, err := os.Open(log)
	if err != nil {
		return f
	}
	defer file.Close()
	// One object after another; not every runtime puts them on lines.
	objects := json.NewDecoder(io.LimitReader(file, maxSaid))
	for range 1000 {
		var m struct{ Level, Msg string }
		if objects.Decode(&m) != nil {
			break
		}
		if (m.Level == "error" || m.Level == "fatal") && m.Msg != "" {
			f.said = append(f.said, m.Msg)
		}
	}
	return f
}

// failures are the runtimes' words for a program that cannot be executed, each
// with what it means. The first that fits counts.
var failures = []struct {
	words *regexp.Regexp
	kind  backendpb.ExecFailure_Kind
}{
	{regexp.MustCompile(`executable file (.* )?not found`), backendpb.ExecFailure_NO_COMMAND},                            // runc, crun
	{regexp.MustCompile(`exec: ".*": stat .*: no such file or directory`), backendpb.ExecFailure_NO_COMMAND},             // runc
	{regexp.MustCompile(`(error finding executable|failed to load) .*: no such file`), backendpb.ExecFailure_NO_COMMAND}, // runsc
	{regexp.MustCompile(`exec: ".*": (permission denied|is a directory)`), backendpb.ExecFailure_NOT_EXECUTABLE},         // runc
	{regexp.MustCompile(`failed to load .*: (permission denied|is a directory)`), backendpb.ExecFailure_NOT_EXECUTABLE},  // runsc
	{regexp.MustCompile(`open executable: `), backendpb.ExecFailure_NOT_EXECUTABLE},                                      // crun
	{regexp.MustCompile(`(?i)exec format error`), backendpb.ExecFailure_NOT_EXECUTABLE},                                  // all
	{regexp.MustCompile(`exec: ".*": |failed to load `), backendpb.ExecFailure_OTHER},
}

// notExecuted tells whether a command failed because of the program it was to
// execute; nil if not.
func (f *failure) notExecuted(program string) *backend.ExecError {
	for i := len(f.said) - 1; i >= 0; i-- {
		for _, w := range failures {
			if w.words.MatchString(f.said[i]) {
				return &backend.ExecError{Kind: w.kind, Message: fmt.Sprintf("exec %q: %s", program, f.said[i])}
			}
		}
	}
	return nil
}
