package spec

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Unconfined is the name of no filter, and the word for it in security options.
const Unconfined = "unconfined"

// maxProfile bounds a client's seccomp profile, in bytes.
const maxProfile = 1 << 20

// options are what --security-opt says, read.
type options struct {
	noNewPrivileges bool
	seccomp         string // JSON, Unconfined, "" the built-in
}

// security reads --security-opt. Both "name=value" and the older "name:value"
// are accepted.
func security(in *Input, s *specs.Spec) error {
	o := options{noNewPrivileges: in.NoNewPrivileges, seccomp: in.SeccompProfile}
	if in.Host.Privileged {
		o.seccomp = Unconfined
	}
	for _, opt := range in.Host.SecurityOpt {
		if err := o.read(s, opt); err != nil {
			return err
		}
	}
	s.Process.NoNewPrivileges = o.noNewPrivileges
	if o.seccomp == Unconfined {
		return nil
	}
	f, err := filter(o.seccomp, s)
	if err != nil {
		return err
	}
	s.Linux.Seccomp = f
	return nil
}

func (o *options) read(s *specs.Spec, opt string) error {
	name, value, has := strings.Cut(opt, "=")
	if !has {
		name, value, has = strings.Cut(opt, ":")
	}
	switch name {
	case "no-new-privileges":
		o.noNewPrivileges = true
		if has {
			b, err := strconv.ParseBool(value)
			if err != nil {
				return invalid("invalid --security-opt 2: %q", opt)
			}
			o.noNewPrivileges = b
		}
	case "seccomp":
		switch value {
		case "", "builtin", "default":
			o.seccomp = ""
		default:
			o.seccomp = value
		}
	case "apparmor":
		if value != "" && value != Unconfined {
			return fmt.Errorf("apparmor profile %q: AppArmor is not supported by this engine: leave the option out or use apparmor=unconfined: %w", value, errdefs.ErrNotImplemented)
		}
	case "label":
		if value != "disable" {
			return fmt.Errorf("security option %q: SELinux is not supported by this engine: leave the option out or use label=disable: %w", opt, errdefs.ErrNotImplemented)
		}
	case "writable-cgroups":
		b, err := strconv.ParseBool(value)
		if err != nil {
			return invalid("invalid --security-opt 2: %q", opt)
		}
		for i, m := range s.Mounts {
			if b && m.Destination == "/sys/fs/cgroup" {
				s.Mounts[i].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
			}
		}
	case "systempaths":
		if value != Unconfined {
			return invalid("invalid --security-opt 2: %q", opt)
		}
	default:
		return invalid("invalid --security-opt 2: %q", opt)
	}
	return nil
}

// cached holds the filters made of the built-in profile, by capabilities, and
// their JSON: the same few for almost every container.
var cached struct {
	sync.Mutex
	byCaps map[string]*specs.LinuxSeccomp
	json   map[*specs.LinuxSeccomp][]byte
}

// maxCached bounds the cache: clients choose capabilities.
const maxCached = 64

// filter makes the filter of a profile for a container with the spec's
// capabilities on this host. What it returns is shared: it must not be changed.
func filter(profile string, s *specs.Spec) (*specs.LinuxSeccomp, error) {
	if profile != "" {
		if len(profile) > maxProfile {
			return nil, invalid("seccomp profile is larger than %d bytes", maxProfile)
		}
		f, err := loadProfile(profile, s)
		if err != nil {
			return nil, invalid("%v", err)
		}
		return f, nil
	}
	key := strings.Join(s.Process.Capabilities.Bounding, ",")
	cached.Lock()
	defer cached.Unlock()
	if f, ok := cached.byCaps[key]; ok {
		return f, nil
	}
	f, err := builtinProfile(s)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	if len(cached.byCaps) >= maxCached || cached.byCaps == nil {
		cached.byCaps, cached.json = map[string]*specs.LinuxSeccomp{}, map[*specs.LinuxSeccomp][]byte{}
	}
	cached.byCaps[key], cached.json[f] = f, b
	return f, nil
}

// placeholder stands for a filter while a spec is marshalled.
var (
	placeholder     = &specs.LinuxSeccomp{DefaultAction: "@filter@"}
	placeholderJSON = []byte(`{"defaultAction":"@filter@"}`)
)

func seccompJSON(f *specs.LinuxSeccomp) ([]byte, error) {
	cached.Lock()
	b, ok := cached.json[f]
	cached.Unlock()
	if ok {
		return b, nil
	}
	return json.Marshal(f)
}
