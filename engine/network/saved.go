package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// savedState is what networks remember over a restart of the engine. A client
// may have written an address into its own configuration, so the default
// bridge's subnet does not change without need.
type savedState struct {
	Created time.Time
	IPv4    netip.Prefix // of the default bridge, if we chose it
	// Tenants are the bridges of tenants.
	Tenants map[string]savedBridge `json:",omitempty"`
}

// savedBridge is a tenant's bridge.
type savedBridge struct {
	Number  int // its interface derives from it
	Created time.Time
	IPv4    netip.Prefix
}

const savedName = "networks.json"

// loadSaved reads the saved state, or begins one.
func loadSaved(dir string) (savedState, error) {
	fresh := savedState{Created: time.Now().UTC()}
	if dir == "" {
		return fresh, nil
	}
	path := filepath.Join(dir, savedName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return savedState{}, fmt.Errorf("saved networks: %w", err)
	}
	var s savedState
	if err := json.Unmarshal(b, &s); err != nil {
		return savedState{}, fmt.Errorf("saved networks: %s is damaged: remove it and new subnets are chosen: %w", path, err)
	}
	return s, nil
}

// store replaces the saved state.
func (s savedState) store(dir string) error {
	if dir == "" {
		return nil
	}
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("save networks: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save networks: %w", err)
	}
	path := filepath.Join(dir, savedName)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("save networks: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("save networks: %w", err)
	}
	return nil
}
