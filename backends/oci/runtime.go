package oci

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
)

// EnvRuntime carries the declaration of a runtime to the backend's process.
const EnvRuntime = "CAISSON_OCI_RUNTIME"

// Runtime is a runtime as the host owner declared it.
type Runtime struct {
	Name     string   `json:"name"` // and the backend's
	Path     string   `json:"path"`
	Args     []string `json:"args,omitempty"` // before every command
	Kind     string   `json:"kind,omitempty"` // of dialect; "" asks the runtime itself
	Level    string   `json:"level"`
	Strength int32    `json:"strength"`
	// Facts are what the host owner wants to be shown of it.
	Facts map[string]string `json:"facts,omitempty"`
}

// Env is the declaration as an environment variable.
func (r *Runtime) Env() (string, error) {
	b, err := json.Marshal(r)
	return EnvRuntime + "=" + string(b), err
}

// ParseRuntime reads the value that Env wrote.
func ParseRuntime(value string) (*Runtime, error) {
	r := &Runtime{}
	if err := json.Unmarshal([]byte(value), r); err != nil || r.Name == "" || r.Path == "" || r.Level == "" {
		return nil, fmt.Errorf("%s=%q declares no runtime: %w", EnvRuntime, value, errdefs.ErrInvalidArgument)
	}
	return r, nil
}
