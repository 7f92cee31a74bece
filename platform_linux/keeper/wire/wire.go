// Package wire is what the keeper and its clients say to each other: one
// message in each packet of a SOCK_SEQPACKET unix socket, descriptors beside it.
package wire

import (
	"github.com/caisson-engine/caisson/platform_linux/pack"
)

// Version is said in Hello; both sides come from one build.
const Version = 1

// MaxPacket bounds a packet in bytes; MaxFDs the descriptors beside it.
const (
	MaxPacket = 128 << 10
	MaxFDs    = 64
)

// MaxKey bounds the length of a key and of a file's name.
const MaxKey = 256

// Kind is a packet's first byte and tells its message.
type Kind byte

// From a client.
const (
	KindHello      Kind = 'h' // Hello, answered by Hello
	KindSpawn      Kind = 's' // Spawn, answered by Spawned
	KindAdopt      Kind = 'a' // Process, with its pidfd
	KindHold       Kind = 'f' // File, with the file
	KindDrop       Kind = 'd' // Drop
	KindFetch      Kind = 'g' // Fetch, answered by up to FetchBatch Items, then End
	KindRegister   Kind = 'r' // Engine, with its stderr and pidfd; answered by End
	KindUnregister Kind = 'u' // Engine, of which only Dir counts; answered by End
)

// From the keeper.
const (
	KindSpawned Kind = 'S' // Spawned, with the pidfd unless it failed
	KindProcess Kind = 'P' // Process, with its pidfd
	KindFile    Kind = 'F' // File, with the file
	KindEnd     Kind = 'E' // End
	KindExited  Kind = 'X' // Process, to every client that said it is a backend
)

// FetchBatch bounds the items in one answer to Fetch, so that an answer always
// fits the socket's buffer.
const FetchBatch = 32

// Hello opens a connection, both ways.
type Hello struct {
	Version uint64
	PID     int
	// Backend clients are told of exits, and keep the keeper alive.
	Backend bool
}

// Visit encodes or decodes h.
func (h *Hello) Visit(c *pack.Coder) {
	c.Uint64(&h.Version)
	c.Int(&h.PID)
	c.Bool(&h.Backend)
}

// Spawn asks for a process. Its descriptors are, in this order: standard input,
// output, error, the control socket, then the cgroup if Cgroup, then one
// namespace for each of Joins, then the container's pidfd if Enter != 0.
type Spawn struct {
	ID  uint64 // of the request, chosen by the client
	Key string
	// Flags are the namespaces to make, as for clone3.
	Flags uint64
	// Cgroup says that the process is born in a given v2 cgroup.
	Cgroup bool
	// Tasks are the v1 "tasks" files that the process joins.
	Tasks []string
	// Joins are the types (CLONE_NEW…) of given namespaces.
	Joins []uint64
	// Enter are the namespaces of a running process to enter, 0 for none.
	Enter uint64
	// UIDMap and GIDMap are the texts for uid_map and gid_map of a new user
	// namespace. NoSetgroups denies setgroups in it.
	UIDMap, GIDMap string
	NoSetgroups    bool
	// OOMScore is the text for oom_score_adj, "" to leave it.
	OOMScore string
}

// Visit encodes or decodes s.
func (s *Spawn) Visit(c *pack.Coder) {
	c.Uint64(&s.ID)
	c.String(&s.Key)
	c.Uint64(&s.Flags)
	c.Bool(&s.Cgroup)
	c.Strings(&s.Tasks)
	pack.List(c, &s.Joins, c.Uint64)
	c.Uint64(&s.Enter)
	c.String(&s.UIDMap)
	c.String(&s.GIDMap)
	c.Bool(&s.NoSetgroups)
	c.String(&s.OOMScore)
}

// Spawned answers Spawn. If Errno is not 0, What failed with it.
type Spawned struct {
	ID    uint64
	What  string
	Errno uint64
	PID   int
	Start uint64
}

// Visit encodes or decodes s.
func (s *Spawned) Visit(c *pack.Coder) {
	c.Uint64(&s.ID)
	c.String(&s.What)
	c.Uint64(&s.Errno)
	c.Int(&s.PID)
	c.Uint64(&s.Start)
}

// Process is what the keeper knows of a process.
type Process struct {
	Key   string
	PID   int
	Start uint64 // clock ticks after boot
	// Exited: Status is a wait status unless Unknown; At is in Unix nanoseconds.
	Exited  bool
	Status  uint32
	Unknown bool
	At      int64
}

// Visit encodes or decodes p.
func (p *Process) Visit(c *pack.Coder) {
	c.String(&p.Key)
	c.Int(&p.PID)
	c.Uint64(&p.Start)
	c.Bool(&p.Exited)
	c.Uint32(&p.Status)
	c.Bool(&p.Unknown)
	c.Int64(&p.At)
}

// File names a held descriptor.
type File struct{ Key, Name string }

// Visit encodes or decodes f.
func (f *File) Visit(c *pack.Coder) {
	c.String(&f.Key)
	c.String(&f.Name)
}

// Drop forgets files of a key, or, without Names, all there is of it.
type Drop struct {
	Key   string
	Names []string
}

// Visit encodes or decodes d.
func (d *Drop) Visit(c *pack.Coder) {
	c.String(&d.Key)
	c.Strings(&d.Names)
}

// Fetch asks for held items from number From on.
type Fetch struct{ From uint64 }

// Visit encodes or decodes f.
func (f *Fetch) Visit(c *pack.Coder) { c.Uint64(&f.From) }

// End ends an answer. More says that a Fetch from Next has more.
type End struct {
	More bool
	Next uint64
}

// Visit encodes or decodes e.
func (e *End) Visit(c *pack.Coder) {
	c.Bool(&e.More)
	c.Uint64(&e.Next)
}

// Engine is how to start an engine again.
type Engine struct {
	// Dir names the engine, and must exist for it to be started again.
	Dir       string
	Argv, Env []string
	Cwd       string
}

// Visit encodes or decodes e.
func (e *Engine) Visit(c *pack.Coder) {
	c.String(&e.Dir)
	c.Strings(&e.Argv)
	c.Strings(&e.Env)
	c.String(&e.Cwd)
}

// Encode makes a packet.
func Encode(kind Kind, m pack.Message) []byte {
	return pack.Encode([]byte{byte(kind)}, m)
}

// ValidKey tells whether a key or name is one: printable ASCII without blanks,
// so that it can stand in a line of the journal.
func ValidKey(s string) bool {
	if s == "" || len(s) > MaxKey {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
