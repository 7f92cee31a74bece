package main

import (
	"context"
	"errors"
	"strings"

	"github.com/Microsoft/go-winio"
)

// pipeAccess lets administrators and the system use the pipe, and the group if
// one is named.
const pipeAccess = "D:P(A;;GA;;;BA)(A;;GA;;;SY)"

func activatable() error { return errors.New("socket activation is systemd's, on Linux") }

func listenUnix(context.Context, string, *config) ([]listener, error) {
	return nil, errors.New("on Windows use npipe:////./pipe/name")
}

func listenActivated(context.Context, string, *config) ([]listener, error) {
	return nil, activatable()
}

// pipeAddress turns ////./pipe/name into \\.\pipe\name.
func pipeAddress(addr string, _ *config) (string, error) {
	p := strings.ReplaceAll(addr, "/", `\`)
	if !strings.HasPrefix(p, `\\.\pipe\`) {
		return "", errors.New(`want npipe:////./pipe/name`)
	}
	return p, nil
}

func listenPipe(_ context.Context, path string, c *config) ([]listener, error) {
	access := pipeAccess
	if c.Group != "" {
		sid, err := winio.LookupSidByName(c.Group)
		if err != nil {
			return nil, err
		}
		access += "(A;;GRGW;;;" + sid + ")"
	}
	l, err := winio.ListenPipe(path, &winio.PipeConfig{
		SecurityDescriptor: access,
		MessageMode:        true, // half-close needs messages
		InputBufferSize:    64 << 10,
		OutputBufferSize:   64 << 10,
	})
	if err != nil {
		return nil, err
	}
	return one(l, "npipe://"+strings.ReplaceAll(path, `\`, "/"), nil), nil
}
