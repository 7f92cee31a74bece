package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// explain words an error of pulling or pushing ref as Docker does and gives it
// a kind.
func explain(err error, verb string, ref reference.Named) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	name := reference.FamiliarName(ref)
	denied := func() error {
		what := fmt.Sprintf("%s access denied for %s, repository does not exist or may require 'docker login'", verb, name)
		return fmt.Errorf("%s: denied: %w", what, errdefs.ErrPermissionDenied)
	}
	if errors.Is(err, docker.ErrInvalidAuthorization) {
		return denied()
	}
	var se remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &se) {
		switch se.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return denied()
		case http.StatusNotFound:
			return unknown(ref)
		case http.StatusTooManyRequests:
			return fmt.Errorf("toomanyrequests: %s has rate-limited this host; log in or wait: %w", reference.Domain(ref), errdefs.ErrResourceExhausted)
		}
		if se.StatusCode >= 500 {
			return fmt.Errorf("registry %s: %s%s: %w", reference.Domain(ref), se.Status, said(se.Body), errdefs.ErrUnavailable)
		}
		return fmt.Errorf("registry %s: %s%s: %w", reference.Domain(ref), se.Status, said(se.Body), errdefs.ErrInvalidArgument)
	}
	if errdefs.IsNotFound(err) {
		return unknown(ref)
	}
	var op *net.OpError
	if errors.As(err, &op) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("registry %s cannot be reached: %w: %w", reference.Domain(ref), err, errdefs.ErrUnavailable)
	}
	return err
}

func unknown(ref reference.Named) error {
	return fmt.Errorf("manifest for %s not found: manifest unknown: %w", reference.FamiliarString(ref), errdefs.ErrNotFound)
}

// said is what a registry's error body says, shortened.
func said(body []byte) string {
	var e struct {
		Errors []struct{ Code, Message string } `json:"errors"`
	}
	if json.Unmarshal(body, &e) != nil || len(e.Errors) == 0 {
		return ""
	}
	m := e.Errors[0].Code + ": " + e.Errors[0].Message
	if len(m) > 300 {
		m = m[:300]
	}
	return ": " + m
}
