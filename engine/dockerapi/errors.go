package dockerapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/common"
)

// statuses maps error kinds to HTTP status codes, first match wins. 403 comes
// from policy, 409 from everything that is true of the object now and may not
// be later.
var statuses = []struct {
	is     func(error) bool
	status int
	kind   error // its text is cut off the end of messages: it says nothing more
}{
	{errdefs.IsNotFound, http.StatusNotFound, errdefs.ErrNotFound},
	{errdefs.IsInvalidArgument, http.StatusBadRequest, errdefs.ErrInvalidArgument},
	{errdefs.IsOutOfRange, http.StatusBadRequest, errdefs.ErrOutOfRange},
	{errdefs.IsConflict, http.StatusConflict, errdefs.ErrConflict},
	{errdefs.IsAlreadyExists, http.StatusConflict, errdefs.ErrAlreadyExists},
	{errdefs.IsFailedPrecondition, http.StatusConflict, errdefs.ErrFailedPrecondition},
	{errdefs.IsAborted, http.StatusConflict, errdefs.ErrAborted},
	{errdefs.IsUnauthorized, http.StatusUnauthorized, errdefs.ErrUnauthenticated},
	{errdefs.IsPermissionDenied, http.StatusForbidden, errdefs.ErrPermissionDenied},
	{errdefs.IsNotModified, http.StatusNotModified, errdefs.ErrNotModified},
	{errdefs.IsNotImplemented, http.StatusNotImplemented, errdefs.ErrNotImplemented},
	{errdefs.IsUnavailable, http.StatusServiceUnavailable, errdefs.ErrUnavailable},
	{errdefs.IsResourceExhausted, http.StatusServiceUnavailable, errdefs.ErrResourceExhausted},
}

// statusOf returns an error's status code and the message that clients see.
func statusOf(err error) (int, string) {
	for _, s := range statuses {
		if s.is(err) {
			return s.status, message(err, s.kind)
		}
	}
	return http.StatusInternalServerError, err.Error()
}

// message is an error's text without the kind at its end, so that it reads as
// Docker's. "not found" stays where it is the predicate of its sentence.
func message(err, kind error) string {
	msg := err.Error()
	short, ok := strings.CutSuffix(msg, ": "+kind.Error())
	if !ok || errdefs.IsNotFound(kind) && !strings.HasPrefix(msg, "No such ") && !strings.HasSuffix(short, "not found") {
		return msg
	}
	return short
}

// kindError is a message for a person with an error kind for the status code.
// The kind's own text ("not found") would only repeat the message.
type kindError struct {
	msg  string
	kind error
}

func (e *kindError) Error() string { return e.msg }
func (e *kindError) Unwrap() error { return e.kind }

var (
	errPageNotFound = &kindError{"page not found", errdefs.ErrNotFound}
	errCrossOrigin  = &kindError{"a page of another origin may not use this API", errdefs.ErrPermissionDenied}
)

// invalid is an error of the client's making.
func invalid(format string, args ...any) error {
	return &kindError{fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument}
}

// unsupported is an error for what is known but not offered.
func unsupported(format string, args ...any) error {
	return &kindError{fmt.Sprintf(format, args...), errdefs.ErrNotImplemented}
}

func notImplemented(rt *route) error {
	// "not supported" is what docker inspect looks for before it tries the next kind of object.
	return unsupported("not implemented: %s is not supported: %s", rt.title, rt.reason)
}

// writeError answers with a status and, where the status may have one, a JSON message.
func writeError(w http.ResponseWriter, status int, msg string) {
	h := w.Header()
	h.Del("Content-Length")
	h.Del("Content-Encoding")
	if status == http.StatusNotModified {
		w.WriteHeader(status)
		return
	}
	body, _ := json.Marshal(common.ErrorResponse{Message: msg}) // a string always marshals
	h.Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}
