package network

import (
	"context"
	"sync"
	"time"

	"github.com/moby/moby/api/types/network"
)

// DefaultSpares is how many namespaces are kept ready of each network in use.
const DefaultSpares = 3

// spareDelay is how long after a container's start spare namespaces are made:
// they cost what they save, so they are made while the container's program
// starts, when nobody waits for the engine.
const spareDelay = 3 * time.Millisecond

// spare is a namespace that waits for a container, with its place on a network.
type spare struct {
	endpoint *Endpoint // nil: none but the loopback interface
	sandbox  *Sandbox
}

// spares keeps namespaces ready, held by this process only, so that they end
// with it. Networks that nobody asked for have none.
type spares struct {
	most int
	make func(network string) (spare, error) // by id; NoneNetwork stands for itself
	free func(spare)

	mu      sync.Mutex
	ready   map[string][]spare // by network
	busy    int                // containers being attached
	pending bool               // the timer runs
	closed  bool
	filling sync.WaitGroup
}

func newSpares(most int, mk func(string) (spare, error), free func(spare)) *spares {
	return &spares{most: most, make: mk, free: free, ready: make(map[string][]spare)}
}

// begin tells that a container waits for its network, until end.
func (s *spares) begin() {
	s.mu.Lock()
	s.busy++
	s.mu.Unlock()
}

func (s *spares) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	if !s.pending && !s.closed && len(s.ready) > 0 {
		s.pending = true
		time.AfterFunc(spareDelay, s.fill)
	}
}

// take gives a ready namespace, and has the next one made in time.
func (s *spares) take(network string) (spare, bool) {
	if s.most <= 0 {
		return spare{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.ready[network]
	if s.closed {
		return spare{}, false
	}
	if len(list) == 0 {
		s.ready[network] = nil // from now on there shall be some
		return spare{}, false
	}
	s.ready[network] = append([]spare(nil), list[1:]...)
	return list[0], true
}

// missing tells of which network one is to be made now.
func (s *spares) missing() (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && s.busy == 0 {
		for network, list := range s.ready {
			if len(list) < s.most {
				s.filling.Add(1)
				return network, true
			}
		}
	}
	s.pending = false
	return "", false
}

// fill makes what is missing, one at a time, until a container waits or one
// cannot be made: then the next container meets the same error and tells it.
func (s *spares) fill() {
	for {
		network, ok := s.missing()
		if !ok {
			return
		}
		n, err := s.make(network)
		s.mu.Lock()
		_, wanted := s.ready[network]
		wanted = wanted && !s.closed && err == nil
		if wanted {
			s.ready[network] = append(s.ready[network], n)
		}
		if err != nil {
			s.pending = false
		}
		s.mu.Unlock()
		if err == nil && !wanted {
			s.free(n)
		}
		s.filling.Done()
		if err != nil {
			return
		}
	}
}

// links are the host's ends of the spare namespaces' links.
func (s *spares) links() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, list := range s.ready {
		for _, n := range list {
			all = append(all, n.sandbox.HostLinks...)
		}
	}
	return all
}

// drop frees the spare namespaces of a network.
func (s *spares) drop(network string) {
	s.mu.Lock()
	list := s.ready[network]
	delete(s.ready, network)
	s.mu.Unlock()
	for _, n := range list {
		s.free(n)
	}
}

// close frees all, for good.
func (s *spares) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.filling.Wait()
	s.mu.Lock()
	all := s.ready
	s.ready = nil
	s.mu.Unlock()
	for _, list := range all {
		for _, n := range list {
			s.free(n)
		}
	}
}

// makeSpare is how a manager makes a spare namespace.
func (m *Manager) makeSpare(id string) (spare, error) {
	if id == NoneNetwork {
		sandbox, err := m.driver.Open(context.Background(), Namespace{})
		return spare{sandbox: sandbox}, err
	}
	m.mu.Lock()
	ep, link, err := m.place(id, network.EndpointSettings{}, "eth0")
	m.mu.Unlock()
	if err != nil {
		return spare{}, err
	}
	sandbox, err := m.driver.Open(context.Background(), Namespace{Links: []Link{link}})
	if err != nil {
		m.unplace(ep)
		return spare{}, err
	}
	ep.HostLink = sandbox.HostLinks[0]
	return spare{&ep, sandbox}, nil
}

func (m *Manager) freeSpare(s spare) {
	_ = s.sandbox.Close()
	if s.endpoint != nil {
		m.unplace(*s.endpoint)
	}
}
