package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

// maxErrorBody bounds what is kept of an answer that is an error.
const maxErrorBody = 64 << 10

// Error is what the engine answered. errdefs' Is functions and errors.Is with
// errdefs' values tell its kind.
type Error struct {
	Status  int
	Message string
}

// Error reads as Docker's command line prints it, which scripts match on.
func (e *Error) Error() string { return "Error response from daemon: " + e.Message }

// kinds maps HTTP statuses to errdefs' kinds.
var kinds = map[int]error{
	http.StatusBadRequest:          errdefs.ErrInvalidArgument,
	http.StatusUnauthorized:        errdefs.ErrUnauthenticated,
	http.StatusForbidden:           errdefs.ErrPermissionDenied,
	http.StatusNotFound:            errdefs.ErrNotFound,
	http.StatusConflict:            errdefs.ErrConflict,
	http.StatusNotImplemented:      errdefs.ErrNotImplemented,
	http.StatusServiceUnavailable:  errdefs.ErrUnavailable,
	http.StatusInternalServerError: errdefs.ErrInternal,
}

// Unwrap is the error's kind.
func (e *Error) Unwrap() error {
	if k, ok := kinds[e.Status]; ok {
		return k
	}
	return errdefs.ErrUnknown
}

// readError reads an error answer and closes its body.
func readError(resp *http.Response) *Error {
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxErrorBody)) // for the sake of the connection
	e := &Error{Status: resp.StatusCode}
	var m struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(b, &m) == nil && m.Message != "" {
		e.Message = strings.TrimSpace(m.Message)
	} else {
		e.Message = strings.TrimSpace(string(b))
	}
	if e.Message == "" {
		e.Message = fmt.Sprintf("request returned %s; check if the server supports the requested API version", http.StatusText(resp.StatusCode))
	}
	return e
}

// ConnectError is an engine that cannot be reached. Its text is for a person:
// what was tried, what that most likely means and what to do.
type ConnectError struct {
	Host string
	Err  error
	hint string
}

func (e *ConnectError) Error() string { return e.hint }

// Unwrap gives the cause and the kind, Unavailable.
func (e *ConnectError) Unwrap() []error { return []error{e.Err, errdefs.ErrUnavailable} }

func (c *Client) connectError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	ce := &ConnectError{Host: c.host.String(), Err: err}
	local := c.host.Network != "tcp"
	switch {
	case errors.Is(err, os.ErrPermission):
		ce.hint = fmt.Sprintf("permission denied while trying to connect to the Caisson engine at %s\n%s", ce.Host, c.permissionHint())
	case local && (errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)):
		ce.hint = fmt.Sprintf("Cannot connect to the Caisson engine at %s. Is it running?\n%s", ce.Host, startHint)
	case c.tls == nil && strings.Contains(err.Error(), "malformed HTTP response"):
		ce.hint = fmt.Sprintf("Cannot talk to the Caisson engine at %s: it may want TLS; try --tlsverify.", ce.Host)
	default:
		ce.hint = fmt.Sprintf("Cannot connect to the Caisson engine at %s. Is it running?\n%s", ce.Host, reason(err))
	}
	return ce
}

func reason(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

// lostError is a connection that broke after the request was sent.
func (c *Client) lostError(err error) error {
	if strings.Contains(err.Error(), "malformed HTTP") {
		return c.connectError(err)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("the connection to the Caisson engine at %s broke before it answered: %w: %w", c.host, err, errdefs.ErrUnavailable)
}
