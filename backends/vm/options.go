package vm

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/docker/go-units"
)

// Options are the host owner's choices. Each can be set in the environment of the
// backend; caissond passes its option of the same name on.
type Options struct {
	// Memory of a machine whose container has no limit, in bytes.
	Memory int64
	// CPUs of one whose container asks for none.
	CPUs int
	// Disk is how much a container can write, in bytes.
	Disk int64
	// Templates says whether machines are cloned from a saved one.
	Templates bool
	// ShareTemplates lets machines of different tenants be clones of one template.
	// They then share unchanged memory, which is a side channel between them.
	ShareTemplates bool
	// Pool is how many machines are kept ready, and PoolAge how long at most.
	Pool    int
	PoolAge time.Duration
	// FirstUID and UIDs are the user ids that machines run as, one each.
	FirstUID, UIDs int
}

// Defaults of Options.
func Defaults() Options {
	return Options{
		Memory: 512 << 20, CPUs: 1, Disk: 10 << 30, Templates: true,
		PoolAge: 10 * time.Minute, FirstUID: 1_900_000_000, UIDs: 10_000,
	}
}

// Environment variables of the backend, one per option.
const (
	EnvMemory         = "CAISSON_VM_MEMORY"
	EnvCPUs           = "CAISSON_VM_CPUS"
	EnvDisk           = "CAISSON_VM_DISK"
	EnvTemplates      = "CAISSON_VM_TEMPLATES"
	EnvShareTemplates = "CAISSON_VM_SHARE_TEMPLATES"
	EnvPool           = "CAISSON_VM_POOL"
	EnvPoolAge        = "CAISSON_VM_POOL_AGE"
	EnvFirstUID       = "CAISSON_VM_FIRST_UID"
	EnvGuestDir       = "CAISSON_VM_GUEST_DIR" // where vmlinux and initrd are
)

// FromEnvironment reads what is set there.
func FromEnvironment() (Options, error) {
	o := Defaults()
	for _, v := range []struct {
		name string
		set  func(string) error
	}{
		{EnvMemory, bytesOf(&o.Memory)},
		{EnvDisk, bytesOf(&o.Disk)},
		{EnvCPUs, func(s string) (err error) { o.CPUs, err = strconv.Atoi(s); return err }},
		{EnvTemplates, func(s string) (err error) { o.Templates, err = strconv.ParseBool(s); return err }},
		{EnvShareTemplates, func(s string) (err error) { o.ShareTemplates, err = strconv.ParseBool(s); return err }},
		{EnvPool, func(s string) (err error) { o.Pool, err = strconv.Atoi(s); return err }},
		{EnvPoolAge, func(s string) (err error) { o.PoolAge, err = time.ParseDuration(s); return err }},
		{EnvFirstUID, func(s string) (err error) { o.FirstUID, err = strconv.Atoi(s); return err }},
	} {
		if s := os.Getenv(v.name); s != "" {
			if err := v.set(s); err != nil {
				return o, fmt.Errorf("%s=%s: %w", v.name, s, err)
			}
		}
	}
	switch {
	case o.Memory < minMemory:
		return o, fmt.Errorf("%s: a machine needs %s at least", EnvMemory, units.BytesSize(float64(minMemory)))
	case o.CPUs < 1 || o.CPUs > maxCPUs:
		return o, fmt.Errorf("%s: want 1 to %d", EnvCPUs, maxCPUs)
	case o.Pool < 0 || o.Pool > 64:
		return o, fmt.Errorf("%s: want 0 to 64", EnvPool)
	case o.FirstUID < 1000:
		return o, fmt.Errorf("%s: want 1000 at least", EnvFirstUID)
	}
	return o, nil
}

func bytesOf(to *int64) func(string) error {
	return func(s string) (err error) { *to, err = units.RAMInBytes(s); return err }
}

// Bounds of a machine.
const (
	minMemory = 128 << 20
	maxMemory = 64 << 30
	maxCPUs   = 16
	// guestOverhead is what kernel and agent of a guest need beside the container.
	guestOverhead = 64 << 20
)
