// Command caisson-backend-fake serves the in-memory backend as a plugin, so that
// the whole engine can be tested through processes without root. Tests build it;
// it is never shipped.
//
// A file beside the binary, named as it with .json behind, holds fake.Options.
// Its containers survive SIGKILL unless the options name another state file.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/fake"
	"github.com/caisson-engine/caisson/engine/backend/plugin"
)

func main() {
	if err := plugin.Serve(open); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func open(_ context.Context, h plugin.Host) (backend.Backend, error) {
	o, err := options()
	if err != nil {
		return nil, err
	}
	if o.StateFile == "" {
		o.StateFile = filepath.Join(h.StateDir, "fake.json")
	}
	if o.FaultsFile == "" {
		o.FaultsFile = filepath.Join(h.StateDir, "faults.json")
	}
	h.Log.Info("fake backend", "state", o.StateFile)
	return fake.New(o)
}

func options() (fake.Options, error) {
	var o fake.Options
	self, err := os.Executable()
	if err != nil {
		return o, err
	}
	data, err := os.ReadFile(self + ".json")
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err != nil {
		return o, err
	}
	return o, json.Unmarshal(data, &o)
}
