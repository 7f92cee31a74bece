package vmm

import "os"

// Launched is a monitor's process that Launch started and Attach has not taken
// over yet.
type Launched struct {
	PID     int
	Monitor *os.File            // the control connection
	Console *os.File            // the guest kernel's console
	Stderr  *os.File            // the monitor's own words; nil if Jail.Stderr took them
	Ports   map[string]*os.File // the guest's channels
	StateFD int                 // of a clone: its state's number in the monitor's process; else 0
	Memory  *os.File            // of a savable machine
	Shape   Shape
	Key     string
}

// Known is what does not change from one machine to the next: what one process
// found out with QEMU.Know, for others that launch machines of the same shape.
type Known struct {
	Version string `json:"version"`
	Root    string `json:"root"` // directory of the jails' common root
	Key     string `json:"key"`  // of one shape
}

// Handover is a Launched in words: what Receive needs, after an exec or in
// another process, to find its descriptors again.
type Handover struct {
	PID     int            `json:"pid"`
	Monitor int            `json:"monitor"`
	Console int            `json:"console"`
	Stderr  int            `json:"stderr"` // -1: none
	Ports   map[string]int `json:"ports"`
	StateFD int            `json:"state_fd"`
	Memory  int            `json:"memory"` // -1: none
	Shape   Shape          `json:"shape"`
	Key     string         `json:"key"`
}

// Files are the descriptors of l, for one that hands them over.
func (l *Launched) Files() []*os.File {
	files := []*os.File{l.Monitor, l.Console}
	for _, f := range []*os.File{l.Stderr, l.Memory} {
		if f != nil {
			files = append(files, f)
		}
	}
	for _, name := range l.Shape.Ports {
		files = append(files, l.Ports[name])
	}
	return files
}

// Handover describes l. number gives each descriptor's number where it will be
// received; nil keeps the present ones, which is right for an exec (after
// KeepOnExec).
func (l *Launched) Handover(number func(*os.File) int) Handover {
	if number == nil {
		number = func(f *os.File) int { return int(f.Fd()) }
	}
	optional := func(f *os.File) int {
		if f == nil {
			return -1
		}
		return number(f)
	}
	h := Handover{
		PID: l.PID, Monitor: number(l.Monitor), Console: number(l.Console),
		Stderr: optional(l.Stderr), Memory: optional(l.Memory),
		Ports: map[string]int{}, StateFD: l.StateFD, Shape: l.Shape, Key: l.Key,
	}
	for name, f := range l.Ports {
		h.Ports[name] = number(f)
	}
	return h
}

// Receive is the other side of Handover.
func Receive(h Handover) *Launched {
	optional := func(fd int, name string) *os.File {
		if fd < 0 {
			return nil
		}
		return os.NewFile(uintptr(fd), name)
	}
	l := &Launched{
		PID: h.PID, Monitor: optional(h.Monitor, "monitor"), Console: optional(h.Console, "console"),
		Stderr: optional(h.Stderr, "stderr"), Memory: optional(h.Memory, "memory"),
		Ports: map[string]*os.File{}, StateFD: h.StateFD, Shape: h.Shape, Key: h.Key,
	}
	for name, fd := range h.Ports {
		l.Ports[name] = optional(fd, "port "+name)
	}
	return l
}

// Close ends what was launched and will not be attached to: the process gets
// nowhere without its monitor connection, and is killed.
func (l *Launched) Close() error {
	for _, f := range l.Files() {
		f.Close()
	}
	p, err := os.FindProcess(l.PID)
	if err != nil {
		return err
	}
	_ = p.Kill()
	_, err = p.Wait()
	return err
}
