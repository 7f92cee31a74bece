//go:build linux

package initproc

import "strings"

// stepError says which step failed, on what, and why. kind is one of KindOther
// and its siblings.
type stepError struct {
	step, object string
	err          error
	kind         uint64
}

func (e *stepError) Error() string {
	var b strings.Builder
	b.WriteString(e.step)
	if e.object != "" {
		b.WriteByte(' ')
		b.WriteString(e.object)
	}
	if e.err != nil {
		b.WriteString(": ")
		b.WriteString(e.err.Error())
	}
	return b.String()
}

func (e *stepError) Unwrap() error { return e.err }

// fail wraps err, if it is one, with the step and its object.
func fail(step, object string, err error) error {
	if err == nil {
		return nil
	}
	return &stepError{step: step, object: object, err: err}
}

// invalid says that the instructions ask for what cannot be.
func invalid(step, object string, err error) error {
	return &stepError{step: step, object: object, err: err, kind: KindInvalid}
}
