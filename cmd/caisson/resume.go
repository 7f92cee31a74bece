package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/client"
)

const (
	// patience is how long we wait for an engine that went away to come back. A
	// container does not need it meanwhile, and it is started again at once.
	patience = 10 * time.Second
	// retryEvery is the time between two attempts to reach it.
	retryEvery = 50 * time.Millisecond
)

// lost says whether err is an engine that went away, as when it is restarted.
func lost(ctx context.Context, err error) bool {
	return ctx.Err() == nil && errdefs.IsUnavailable(err)
}

// persist calls f until it meets an engine that is there, for at most patience
// since the last one was.
func persist(ctx context.Context, f func() error) error {
	until := time.Now().Add(patience)
	for {
		err := f()
		if !lost(ctx, err) || time.Now().After(until) {
			return err
		}
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// waitAgain is the result of a wait that broke with its engine. A container that
// was to be removed when it ended may be gone by now, with its exit code.
func waitAgain(ctx context.Context, api *client.Client, id, condition string) (client.WaitResponse, error) {
	if condition != "removed" {
		condition = "not-running" // what was awaited may have happened meanwhile
	}
	var res client.WaitResponse
	err := persist(ctx, func() (err error) {
		res, err = api.Wait(ctx, id, condition)
		return err
	})
	if errdefs.IsNotFound(err) {
		return res, fmt.Errorf("the container ended and was removed while the engine was away; its exit code is not known: %w", errdefs.ErrUnknown)
	}
	return res, err
}

// waitResult is a wait's, also if the engine goes away in between.
func waitResult(ctx context.Context, api *client.Client, w *client.Waiting, id, condition string) (client.WaitResponse, error) {
	res, err := w.Result()
	if lost(ctx, err) {
		return waitAgain(ctx, api, id, condition)
	}
	return res, err
}

// skipper passes on what it gets, except what it passed on before: after
// restart, the stream begins anew.
type skipper struct {
	w    io.Writer
	seen int64 // bytes passed on
	skip int64 // bytes that are still to come a second time
}

func (s *skipper) Write(p []byte) (int, error) {
	n := min(s.skip, int64(len(p)))
	s.skip -= n
	m, err := s.w.Write(p[n:])
	s.seen += int64(m)
	return int(n) + m, err
}

func (s *skipper) restart() { s.skip = s.seen }

// output is where a container's output goes, resumable from its log.
type output struct{ out, err skipper }

// resume goes on with the output of a container from its log, after the stream
// broke with the engine, until the container ends.
func (o *output) resume(ctx context.Context, api *client.Client, id string, opts client.LogsOptions) error {
	for {
		var r io.ReadCloser
		err := persist(ctx, func() (err error) {
			r, err = api.Logs(ctx, id, opts)
			return err
		})
		if err != nil {
			return err
		}
		o.out.restart()
		o.err.restart()
		err = client.Demux(orDiscard(o.out.writer()), orDiscard(o.err.writer()), r)
		r.Close()
		if err == nil || ctx.Err() != nil {
			return err
		}
		if !broken(err) {
			return err
		}
	}
}

func (s *skipper) writer() io.Writer {
	if s.w == nil {
		return nil
	}
	return s
}

// broken says whether err is a stream that was cut, not our own output's.
func broken(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errdefs.IsUnavailable(err) || isReset(err)
}
