package policy

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Ask is one option that a container asks for and that not everybody may have,
// with its value where it has one.
type Ask struct {
	Option string // key of Allow
	Value  string
}

// option is what the policy knows of a privileged option.
type option struct {
	flag string // as users know it; %s is the value
	may  func(a *Allow, value string) bool
	fix  string // what an allow would say; %s is the value
}

func boolean(flag string, get func(*Allow) bool) option {
	return option{flag: flag, may: func(a *Allow, _ string) bool { return get(a) }}
}

// options are all there are, by their key in allow.
var options = map[string]option{
	"privileged":          boolean("--privileged", func(a *Allow) bool { return a.Privileged }),
	"host_network":        boolean("--network host", func(a *Allow) bool { return a.HostNetwork }),
	"host_pid":            boolean("--pid host", func(a *Allow) bool { return a.HostPid }),
	"host_ipc":            boolean("--ipc host", func(a *Allow) bool { return a.HostIpc }),
	"host_uts":            boolean("--uts host", func(a *Allow) bool { return a.HostUts }),
	"host_userns":         boolean("--userns host", func(a *Allow) bool { return a.HostUserns }),
	"host_cgroupns":       boolean("--cgroupns host", func(a *Allow) bool { return a.HostCgroupns }),
	"seccomp_unconfined":  boolean("a seccomp profile other than the engine's (--security-opt seccomp=…)", func(a *Allow) bool { return a.Seccomp }),
	"apparmor_unconfined": boolean("--security-opt apparmor=unconfined", func(a *Allow) bool { return a.Apparmor }),
	"system_paths":        boolean("fewer masked or read-only paths (--security-opt systempaths=unconfined)", func(a *Allow) bool { return a.SystemPaths }),
	"new_privileges":      boolean("--security-opt no-new-privileges=false", func(a *Allow) bool { return a.NewPrivileges }),
	"writable_cgroups":    boolean("--security-opt writable-cgroups=true", func(a *Allow) bool { return a.Cgroups }),
	"cgroup_parent":       boolean("--cgroup-parent %s", func(a *Allow) bool { return a.CgroupParent }),
	"shared_mounts":       boolean("mount propagation back to the host (%s)", func(a *Allow) bool { return a.SharedMounts }),
	"oom":                 boolean("protection from the kernel's out-of-memory killer (%s)", func(a *Allow) bool { return a.Oom }),
	"realtime":            boolean("realtime scheduling (%s)", func(a *Allow) bool { return a.Realtime }),
	"host_paths":          {"the host path %s", func(a *Allow, v string) bool { return a.path(v) }, `host_paths: [%q]`},
	"devices":             {"the device %s", func(a *Allow, v string) bool { return anyGlob(a.Devices, v) }, `devices: [%q]`},
	"capabilities": {"--cap-add %s", func(a *Allow, v string) bool {
		return slices.Contains(a.Capabilities, v) || slices.Contains(a.Capabilities, "ALL")
	}, `capabilities: [%s]`},
	"host_ports":  {"the host port %s", func(a *Allow, v string) bool { return a.port(v) }, `host_ports: [%q]`},
	"annotations": {"--annotation %s", func(a *Allow, v string) bool { return anyGlob(a.Annotations, v) }, `annotations: [%q]`},
}

// OptionNames are the keys that allow and requests may have, sorted.
func OptionNames() []string { return slices.Sorted(maps.Keys(options)) }

func (a Ask) String() string {
	o := options[a.Option]
	if strings.Contains(o.flag, "%s") {
		return fmt.Sprintf(o.flag, a.Value)
	}
	return o.flag
}

// allowance is what a rule would have to say.
func (a Ask) allowance() string {
	if strings.HasPrefix(a.Value, dotted) {
		return a.Option + " with a path without .."
	}
	if o := options[a.Option]; o.fix != "" {
		return fmt.Sprintf(o.fix, a.Value)
	}
	return a.Option + ": true"
}

// permits tells whether a may be had. A nil Allow permits nothing.
func (a *Allow) permits(ask Ask) bool {
	o, ok := options[ask.Option]
	return ok && a != nil && o.may(a, ask.Value)
}

// none says that nothing is allowed.
func (a *Allow) none() bool {
	for _, name := range OptionNames() {
		if options[name].fix == "" && options[name].may(a, "") {
			return false
		}
	}
	return len(a.HostPaths)+len(a.Devices)+len(a.Capabilities)+len(a.HostPorts)+len(a.Annotations) == 0
}

// path compares paths as they are: what lies below an allowed one is not
// allowed, because who writes there can lay a link to anywhere.
func (a *Allow) path(v string) bool {
	p, ro := strings.CutSuffix(v, ":ro")
	return slices.Contains(a.HostPaths, p) || ro && slices.Contains(a.HostPaths, v)
}

func (a *Allow) port(v string) bool {
	n, err := strconv.Atoi(v)
	return err == nil && slices.ContainsFunc(a.HostPorts, func(r string) bool {
		low, high, err := portRange(r)
		return err == nil && low <= n && n <= high
	})
}

func portRange(s string) (low, high int, err error) {
	a, b, two := strings.Cut(s, "-")
	if low, err = strconv.Atoi(a); err == nil && two {
		high, err = strconv.Atoi(b)
	} else {
		high = low
	}
	if err == nil && (low < 1 || high > 65535 || low > high) {
		err = strconv.ErrRange
	}
	return low, high, err
}

var (
	digestRE     = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^sha256:[0-9a-f]{64}$`) })
	capabilityRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Z][A-Z_]{2,40}$`) })
)

// Capability is a capability's one name: without CAP_, in capitals.
func Capability(s string) string { return strings.TrimPrefix(strings.ToUpper(s), "CAP_") }

func (a *Allow) complete() (key []any, what string) {
	for i, p := range a.HostPaths {
		bare, ro := strings.CutSuffix(p, ":ro")
		if bare, _ = strings.CutSuffix(bare, ":rw"); !absolute(bare) || !absolute(cleanPath(bare)) || strings.ContainsAny(bare, "*?") {
			return []any{"allow", "host_paths", i}, fmt.Sprintf("host path %q: want one absolute path, with :ro for reading only; what is below it is not allowed with it", p)
		}
		if a.HostPaths[i] = cleanPath(bare); ro {
			a.HostPaths[i] += ":ro"
		}
	}
	for i, c := range a.Capabilities {
		if a.Capabilities[i] = Capability(c); !capabilityRE().MatchString(a.Capabilities[i]) {
			return []any{"allow", "capabilities", i}, fmt.Sprintf("%q is no capability", c)
		}
	}
	for i, r := range a.HostPorts {
		if _, _, err := portRange(r); err != nil {
			return []any{"allow", "host_ports", i}, fmt.Sprintf("%q: want a port or a range as 80-90", r)
		}
	}
	return nil, ""
}

func absolute(p string) bool {
	return strings.HasPrefix(p, "/") || strings.HasPrefix(p, `\\`) || len(p) > 2 && p[1] == ':' && p[2] == '\\'
}

// dotted begins the value of a path with "..".
const dotted = "(has ..) "

// cleanPath takes doubled and final slashes out, so that each path is written
// one way. One with ".." has no such way: where it leads depends on links, which
// a client may have laid, so that no allowance fits it. Paths of Windows are left
// as they are.
func cleanPath(p string) string {
	switch {
	case slices.Contains(strings.FieldsFunc(p, func(r rune) bool { return r == '/' || r == '\\' }), ".."):
		return dotted + p
	case strings.HasPrefix(p, "/"):
		return path.Clean(p)
	}
	return p
}
