package share

import (
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// identity tells files apart for as long as one is open.
type identity struct {
	mount, ino   uint64
	major, minor uint32
}

// node is a file that the guest's kernel knows, held by a descriptor that only names
// it (O_PATH).
type node struct {
	id       uint64
	fd       int
	identity identity
	mode     uint16

	lookups uint64 // that the guest has not taken back
	uses    int    // by requests under way

	locks sync.Mutex
	// owned are the descriptors that hold each lock owner's record locks: they are
	// a process's, and a descriptor's are shared by all who opened through it.
	owned map[uint64]int
}

// path names the node where links of /proc/self/fd are, which is the working
// directory of the process.
func (n *node) path() string { return strconv.Itoa(n.fd) }

// handle is an open file or directory.
type handle struct {
	fd   int
	uses int
	dead bool // released, once nobody uses it

	reading sync.Mutex // of a directory: its position
}

// table is all that is open of one share.
type table struct {
	mu      sync.Mutex
	nodes   map[uint64]*node
	known   map[identity]*node
	handles map[uint64]*handle
	next    uint64
}

const rootID = 1

func newTable() *table {
	return &table{nodes: map[uint64]*node{}, known: map[identity]*node{}, handles: map[uint64]*handle{}, next: rootID}
}

// add takes a descriptor over and counts a lookup of its file. The descriptor may be
// closed, if the file is known already.
func (t *table) add(fd int, st *unix.Statx_t) *node {
	key := identity{st.Mnt_id, st.Ino, st.Dev_major, st.Dev_minor}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.known[key]
	if n != nil {
		unix.Close(fd)
	} else {
		n = &node{id: t.next, fd: fd, identity: key, mode: st.Mode}
		t.next++
		t.nodes[n.id], t.known[key] = n, n
	}
	n.lookups++
	return n
}

// node finds one, for use until done.
func (t *table) node(id uint64) (*node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	if n == nil {
		return nil, syscall.ESTALE
	}
	n.uses++
	return n, nil
}

func (t *table) done(n *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.uses--
	t.drop(n)
}

// forget takes lookups back. The root stays.
func (t *table) forget(id, lookups uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	if n == nil || id == rootID {
		return
	}
	n.lookups -= min(lookups, n.lookups)
	t.drop(n)
}

// drop closes a node that nobody knows any more, with t.mu held.
func (t *table) drop(n *node) {
	if n.lookups > 0 || n.uses > 0 {
		return
	}
	delete(t.nodes, n.id)
	delete(t.known, n.identity)
	unix.Close(n.fd)
	for _, fd := range n.owned {
		unix.Close(fd)
	}
}

// many tells whether the guest knows so many files that it should forget some.
func (t *table) many() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.nodes) > manyNodes
}

// open takes a descriptor over as a handle.
func (t *table) open(fd int) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := t.next
	t.next++
	t.handles[id] = &handle{fd: fd}
	return id
}

// handle finds one, for use until finish.
func (t *table) handle(id uint64) (*handle, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.handles[id]
	if h == nil {
		return nil, syscall.EBADF
	}
	h.uses++
	return h, nil
}

func (t *table) finish(h *handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h.uses--; h.uses == 0 && h.dead {
		unix.Close(h.fd)
	}
}

func (t *table) release(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.handles[id]
	if h == nil {
		return
	}
	delete(t.handles, id)
	if h.dead = true; h.uses == 0 {
		unix.Close(h.fd)
	}
}

// close gives everything back. No request may be under way.
func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.nodes {
		n.lookups, n.uses = 0, 0
		t.drop(n)
	}
	for id, h := range t.handles {
		delete(t.handles, id)
		unix.Close(h.fd)
	}
}
