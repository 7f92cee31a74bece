// Package container is what the engine knows of one container: the durable
// record, and the states with the one table of moves between them. It is pure.
package container

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// State is where a container is in its life. Exactly one holds at a time.
type State string

// The states.
//
//	Created     made, never ran, or its first start failed
//	Starting    a start is under way
//	Running     its first process runs
//	Paused      its processes are frozen
//	Restarting  it ended, and its restart policy's back-off runs
//	Exited      it ran and ended
//	Removing    a removal is under way
//	Dead        a removal failed; only removing is possible
const (
	Created    State = "created"
	Starting   State = "starting"
	Running    State = "running"
	Paused     State = "paused"
	Restarting State = "restarting"
	Exited     State = "exited"
	Removing   State = "removing"
	Dead       State = "dead"
)

// States lists all states.
var States = []State{Created, Starting, Running, Paused, Restarting, Exited, Removing, Dead}

// Move is a reason to go from one state to another.
type Move string

// The moves.
const (
	Start   Move = "start"       // a start begins
	Abort   Move = "abort start" // a start failed and the container never ran
	Begin   Move = "run"         // the program was executed
	Pause   Move = "pause"
	Unpause Move = "unpause"
	Exit    Move = "exit"           // the first process ended, or a start failed after an earlier run
	Backoff Move = "wait"           // it ended and will be restarted
	GiveUp  Move = "give up"        // a pending restart was cancelled
	Remove  Move = "remove"         // a removal begins
	Fail    Move = "fail to remove" // a removal failed
)

// Moves lists all moves.
var Moves = []Move{Start, Abort, Begin, Pause, Unpause, Exit, Backoff, GiveUp, Remove, Fail}

// moves is the table: what is not in it cannot happen. Exit may come before the
// engine was told that the program began, so it is legal while starting.
var moves = map[State]map[Move]State{
	Created:    {Start: Starting, Remove: Removing},
	Starting:   {Begin: Running, Abort: Created, Exit: Exited, Backoff: Restarting},
	Running:    {Pause: Paused, Exit: Exited, Backoff: Restarting},
	Paused:     {Unpause: Running, Exit: Exited, Backoff: Restarting},
	Restarting: {Start: Starting, GiveUp: Exited, Remove: Removing},
	Exited:     {Start: Starting, Backoff: Restarting, Remove: Removing},
	Removing:   {Fail: Dead},
	Dead:       {Remove: Removing},
}

// Next is the state after a move. Error: FailedPrecondition if the table lacks it.
func (s State) Next(m Move) (State, error) {
	if n, ok := moves[s][m]; ok {
		return n, nil
	}
	return s, fmt.Errorf("a container that is %s cannot %s: %w", s, m, errdefs.ErrFailedPrecondition)
}

// Alive says that the first process exists.
func (s State) Alive() bool { return s == Running || s == Paused }

// API is the state in Docker's words, which has none for Starting.
func (s State) API() container.ContainerState {
	if s == Starting {
		return container.StateCreated
	}
	return container.ContainerState(s)
}
