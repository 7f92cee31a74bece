package backend

import (
	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// ExecError says that a program could not be executed. Its kind is
// InvalidArgument; Kind tells which exit code a user sees for it. It crosses the
// wire as backendpb.Status.failure.
type ExecError struct {
	Kind    backendpb.ExecFailure_Kind
	Message string // names the program and the reason
}

func (e *ExecError) Error() string { return e.Message }

// Is makes errdefs.IsInvalidArgument true.
func (e *ExecError) Is(target error) bool { return target == errdefs.ErrInvalidArgument }

// ExitCode is what a container that failed so is recorded with, as shells and
// Docker have it.
func (e *ExecError) ExitCode() int {
	switch e.Kind {
	case backendpb.ExecFailure_NO_COMMAND:
		return 127
	default:
		return 126
	}
}
