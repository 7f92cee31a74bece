package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/caisson-engine/caisson/images/store"
)

// unsynced are the layers whose files may still be in memory only. A pull does
// not wait for the disk: its layers are written down here first, then synced
// in the background. After a crash of the host, which the boot id tells, those
// listed are unpacked anew from their blobs, which are synced.
type unsynced struct {
	mu     sync.Mutex
	chains map[digest.Digest]struct{}
}

// unsyncedRecord is the file's content.
type unsyncedRecord struct {
	Boot   string          `json:"boot"`
	Chains []digest.Digest `json:"chains"`
}

func (s *Service) unsyncedPath() string { return s.path("unsynced") }

// markUnsynced notes layers that are about to be unpacked.
func (s *Service) markUnsynced(chains []digest.Digest) error {
	if len(chains) == 0 {
		return nil
	}
	u := &s.unsynced
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.chains == nil {
		u.chains = map[digest.Digest]struct{}{}
	}
	for _, c := range chains {
		u.chains[c] = struct{}{}
	}
	return s.writeUnsynced()
}

// writeUnsynced replaces the file; the caller holds the lock.
func (s *Service) writeUnsynced() error {
	path := s.unsyncedPath()
	if len(s.unsynced.chains) == 0 {
		err := os.Remove(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	r := unsyncedRecord{Boot: bootID()}
	for c := range s.unsynced.chains {
		r.Chains = append(r.Chains, c)
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.cfg.Root, "unsynced-*")
	if err != nil {
		return fmt.Errorf("note layers that are not on the disk yet: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("note layers that are not on the disk yet: %w", err)
	}
	return nil
}

// syncLayers is the background work: write the disk, then forget what was
// unpacked before. What is still being unpacked stays noted.
func (s *Service) syncLayers(ctx context.Context) error {
	u := &s.unsynced
	u.mu.Lock()
	var done []digest.Digest
	for c := range u.chains {
		if _, err := s.store.Snapshots.Stat(store.Context(ctx), c.String()); err == nil || len(s.chains.names()) == 0 {
			done = append(done, c)
		}
	}
	u.mu.Unlock()
	if len(done) == 0 {
		return nil
	}
	// Nobody waits for the disk: what was not synced stays noted.
	synced := make(chan error, 1)
	go func() { synced <- syncDisk(s.cfg.Root) }()
	select {
	case err := <-synced:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range done {
		delete(u.chains, c)
	}
	return s.writeUnsynced()
}

// distrustUnsynced removes the layers that a crash of the host may have
// damaged; they are unpacked again when they are needed.
func (s *Service) distrustUnsynced(ctx context.Context) error {
	ctx = store.Context(ctx)
	b, err := os.ReadFile(s.unsyncedPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var r unsyncedRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("%s is damaged: %w", s.unsyncedPath(), err)
	}
	if r.Boot == bootID() {
		if err := s.markUnsynced(r.Chains); err != nil {
			return err
		}
		s.syncer.Schedule()
		return nil
	}
	// A layer goes only after those above it, in as many rounds as it takes.
	left := r.Chains
	for again := true; again; {
		again = false
		var stay []digest.Digest
		for _, c := range left {
			switch err := s.store.Snapshots.Remove(ctx, c.String()); {
			case err == nil:
				again = true
			case !errdefs.IsNotFound(err):
				stay = append(stay, c)
			}
		}
		left = stay
	}
	for _, c := range left {
		s.log.Warn("layer may be damaged by the host's crash but is in use", "chain", c)
	}
	return os.Remove(s.unsyncedPath())
}
