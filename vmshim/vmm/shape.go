package vmm

import (
	"fmt"
	"regexp"
	"slices"
)

var portName = regexp.MustCompile(`^[a-z][a-z0-9.-]{0,31}$`)

// Check says what is wrong with a shape. Names and texts in it become part of a
// command line with commas in it.
func (s Shape) Check() error {
	switch {
	case s.Accel != KVM && s.Accel != TCG:
		return fmt.Errorf("vmm: accelerator %q is neither kvm nor tcg", s.Accel)
	case s.Flavour != OwnKernel && s.Flavour != DebianKernel:
		return fmt.Errorf("vmm: kernel flavour %q is not known", s.Flavour)
	case s.Memory < 64<<20 || s.Memory%(1<<20) != 0:
		return fmt.Errorf("vmm: %d bytes of memory: need at least 64 MiB, and whole MiB", s.Memory)
	case s.CPUs < 1 || s.CPUs > 64:
		return fmt.Errorf("vmm: %d processors: need 1 to 64", s.CPUs)
	case len(s.Disks) > MaxDisks:
		return fmt.Errorf("vmm: %d disks, more than %d", len(s.Disks), MaxDisks)
	case s.NICs < 0 || s.NICs > MaxNICs:
		return fmt.Errorf("vmm: %d network interfaces, more than %d", s.NICs, MaxNICs)
	case len(s.Disks)+s.NICs > MaxDevices:
		return fmt.Errorf("vmm: %d disks and network interfaces, more than %d together", len(s.Disks)+s.NICs, MaxDevices)
	case len(s.Ports) > MaxPorts:
		return fmt.Errorf("vmm: %d ports, more than %d", len(s.Ports), MaxPorts)
	}
	for i, name := range s.Ports {
		if !portName.MatchString(name) || slices.Contains(s.Ports[:i], name) {
			return fmt.Errorf("vmm: port name %q is not valid or there twice", name)
		}
	}
	return nil
}
