package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// parallel is how many containers a verb works on at once: stopping waits for
// grace periods.
const parallel = 50

// silentError is printed but does not fail the command.
type silentError struct{ error }

func (e *silentError) Unwrap() error { return e.error }

// each runs f for every name, prints those that went well as they do, and
// returns what failed.
func (a *app) each(ctx context.Context, names []string, f func(context.Context, string) error) error {
	var errs []error
	for _, n := range names {
		errs = append(errs, a.report(n, f(ctx, n)))
	}
	return errors.Join(errs...)
}

// eachParallel is each with several names at once; it prints them in order.
func (a *app) eachParallel(ctx context.Context, names []string, f func(context.Context, string) error) error {
	if len(names) == 1 {
		return a.each(ctx, names, f)
	}
	results := make([]chan error, len(names))
	slots := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for i, n := range names {
		results[i] = make(chan error, 1)
		wg.Go(func() {
			slots <- struct{}{}
			results[i] <- f(ctx, n)
			<-slots
		})
	}
	var errs []error
	for i, n := range names {
		errs = append(errs, a.report(n, <-results[i]))
	}
	wg.Wait()
	return errors.Join(errs...)
}

// report prints a name that went well.
func (a *app) report(name string, err error) error {
	var silent *silentError
	switch {
	case err == nil:
		fmt.Fprintln(a.out, name)
	case errors.As(err, &silent):
		fmt.Fprintln(a.err, silent)
		return nil
	}
	return err
}
