package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
)

// Files in a backend's state directory that belong to this package.
const (
	recordName = "plugin.json" // written by the engine: how to find the plugin again
	lockName   = "plugin.lock" // held and written by the plugin: who serves here
	logName    = "backend.log" // the plugin's stderr, and so its log
	keyName    = "plugin.pem"  // certificate and key that both ends show, where TLS is used
)

// identity is one process for ever: numbers come again, start times do not.
type identity struct {
	PID   int    `json:"pid"`
	Start string `json:"start"`
}

// identify tells the identity of a process that is known to be alive.
func identify(pid int) (identity, error) {
	start, err := startTime(pid)
	return identity{PID: pid, Start: start}, err
}

// find returns the process if it still runs. The caller closes it.
func (id identity) find() (*process, error) {
	if id.PID <= 0 {
		return nil, fmt.Errorf("no process: %w", errdefs.ErrNotFound)
	}
	p, err := openProcess(id.PID)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w: %w", id.PID, err, errdefs.ErrNotFound)
	}
	// Only now that the number is held does the comparison mean something.
	start, err := startTime(id.PID)
	if err != nil || start != id.Start {
		p.release()
		return nil, fmt.Errorf("process %d is gone: %w", id.PID, errdefs.ErrNotFound)
	}
	return p, nil
}

// binary tells whether a plugin runs what is on disk now.
type binary struct {
	Path    string    `json:"path"`
	Size    int64     `json:"size"`
	ModTime time.Time `json:"mod_time"`
}

func statBinary(path string) (binary, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return binary{}, fmt.Errorf("backend: %w: %w", err, errdefs.ErrNotFound)
	}
	return binary{Path: path, Size: fi.Size(), ModTime: fi.ModTime().UTC()}, nil
}

// record is what one engine writes down for the next.
type record struct {
	identity
	Network   string `json:"network"`
	Addr      string `json:"addr"`
	Version   int    `json:"version"`    // of the protocol, as negotiated: go-plugin forgets it on reattach
	SocketDir string `json:"socket_dir"` // removed when the plugin is gone
	Binary    binary `json:"binary"`
	TLS       bool   `json:"tls"`
	Env       string `json:"env,omitempty"` // digest of Options.Env: another one needs another process
}

func readRecord(stateDir string) (record, error) {
	var r record
	err := readJSON(filepath.Join(stateDir, recordName), &r)
	return r, err
}

func (r record) write(stateDir string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(stateDir, recordName)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (r record) addr() (net.Addr, error) {
	switch r.Network {
	case "unix":
		return net.ResolveUnixAddr(r.Network, r.Addr)
	case "tcp":
		return net.ResolveTCPAddr(r.Network, r.Addr)
	}
	return nil, fmt.Errorf("address %s/%s: %w", r.Network, r.Addr, errdefs.ErrInvalidArgument)
}

// takeLock makes this process the one that serves from stateDir, until the file
// is closed or the process ends.
func takeLock(stateDir string) (_ *os.File, err error) {
	f, err := os.OpenFile(filepath.Join(stateDir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("backend state directory: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := lockFile(f); err != nil {
		return nil, fmt.Errorf("another backend serves from %s: %w: %w", stateDir, err, errdefs.ErrUnavailable)
	}
	self, err := identify(os.Getpid())
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(self)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(0); err != nil {
		return nil, err
	}
	_, err = f.WriteAt(data, 0)
	return f, err
}

// readLock tells who served last from stateDir, alive or not.
func readLock(stateDir string) (identity, error) {
	var id identity
	err := readJSON(filepath.Join(stateDir, lockName), &id)
	return id, err
}

func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// logTail returns what a plugin wrote to its log from offset on, its last 2 KiB
// at most: the reason why it did not start.
func logTail(stateDir string, offset int64) string {
	f, err := os.Open(filepath.Join(stateDir, logName))
	if err != nil {
		return ""
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		offset = max(offset, end-2048)
	}
	data := make([]byte, 2048)
	n, err := f.ReadAt(data, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	return string(data[:n])
}
