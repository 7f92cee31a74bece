package host

import (
	"fmt"
	"os"

	"github.com/caisson-engine/caisson/vmshim/vmm"
)

// Config is what the backend tells a new shim, as JSON in descriptor ConfigFD.
// Numbers of descriptors are those in the shim.
type Config struct {
	Sandbox string      `json:"sandbox"`
	QEMU    string      `json:"qemu"` // path of the monitor
	Runtime string      `json:"runtime"`
	Known   *vmm.Known  `json:"known"`
	Shape   vmm.Shape   `json:"shape"`
	Savable bool        `json:"savable,omitempty"` // to become a template
	Clone   *CloneFiles `json:"clone,omitempty"`   // of a template; nil boots cold
	UID     int         `json:"uid"`
	GID     int         `json:"gid"`
	Cgroups []int       `json:"cgroups"` // tasks files of cgroup version 1
	// FileSize is the most that the monitor may let a file grow to.
	FileSize int64         `json:"file_size"`
	Handed   *vmm.Handover `json:"handed,omitempty"`  // stage 1 only
	Version  string        `json:"version,omitempty"` // of the backend, for logs
}

// CloneFiles are a template's.
type CloneFiles struct {
	Key    string `json:"key"`
	Memory int    `json:"memory"`
	State  int    `json:"state"`
}

// Descriptors that a shim is started with, beside those that Config names.
const (
	ConfigFD   = 3 // a file with the Config
	ListenerFD = 4 // a listening unix socket: the contract
	IODirFD    = 5 // the directory of the FIFOs
	ControlFD  = 6 // a seqpacket socket: see control.go
	NetnsFD    = 7 // the sandbox's network namespace, only held; or /dev/null
	FirstFD    = 8 // the first that Config names
)

// FIFO is the name of a process's output pipe in the directory of FIFOs. Neither
// id holds a "~".
func FIFO(container, exec, stream string) string {
	return fmt.Sprintf("%s~%s~%s", container, exec, stream)
}

// kept are descriptors that nobody closes. A file that was forgotten would close
// its own with its finalizer, and with it whoever has the number by then.
var kept = map[int]*os.File{}

// inherited is a descriptor that this process was started with and keeps.
func inherited(fd int, name string) *os.File {
	if kept[fd] == nil {
		kept[fd] = os.NewFile(uintptr(fd), name)
	}
	return kept[fd]
}
