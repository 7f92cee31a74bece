package oci

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// ownPrefix begins the annotations and mount options that are between the engine
// and backends, and mean nothing to a runtime.
const (
	ownPrefix  = "caisson."
	ownOptions = "x-caisson."

	annotationUser        = "caisson.user"
	annotationGroupAdd    = "caisson.group-add"
	annotationMakeWorkdir = "caisson.make-workdir"
	optionCopyUp          = "x-caisson.copyup"
)

// has tells whether a spec has an entry for a kind of namespace, with that path.
func has(spec *specs.Spec, kind specs.LinuxNamespaceType, at string) bool {
	return slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind && n.Path == at })
}

// refuse says what of a spec the runtime would silently do otherwise.
func (b *Backend) refuse(spec *specs.Spec, r *backendpb.Container) error {
	name := b.cfg.Runtime.Name
	no := func(what string) error {
		return fmt.Errorf("%s: runtime %s cannot do this: %w", what, name, errdefs.ErrNotImplemented)
	}
	if r.GetInit() {
		return no("an init process (--init)")
	}
	if has(spec, specs.UserNamespace, "") {
		return no("a user namespace (--userns)")
	}
	if !b.dialect.ownKernel {
		return nil
	}
	for _, n := range []struct {
		kind specs.LinuxNamespaceType
		what string
	}{
		{specs.PIDNamespace, "pid"}, {specs.IPCNamespace, "ipc"}, {specs.UTSNamespace, "uts"}, {specs.NetworkNamespace, "network"},
	} {
		i := slices.IndexFunc(spec.Linux.Namespaces, func(have specs.LinuxNamespace) bool { return have.Type == n.kind })
		switch {
		case i < 0 && n.kind == specs.NetworkNamespace && b.hostNetwork():
		case i < 0:
			return no(fmt.Sprintf("sharing the host's %s namespace", n.what))
		case spec.Linux.Namespaces[i].Path != "":
			return no(fmt.Sprintf("joining another container's %s namespace", n.what))
		}
	}
	if len(spec.Linux.Devices) > 0 && !allDevices(spec) {
		return no("a device of the host (" + spec.Linux.Devices[0].Path + ")")
	}
	return nil
}

// hostNetwork tells whether the host owner gave the runtime the host's network.
func (b *Backend) hostNetwork() bool {
	return slices.ContainsFunc(b.cfg.Runtime.Args, func(a string) bool { return strings.TrimLeft(a, "-") == "network=host" })
}

// allDevices is a privileged container's spec: its list of devices is all that
// the host has, not what somebody asked for.
func allDevices(spec *specs.Spec) bool {
	return spec.Linux.Resources != nil && slices.ContainsFunc(spec.Linux.Resources.Devices, func(d specs.LinuxDeviceCgroup) bool {
		return d.Allow && (d.Type == "" || d.Type == "a") && d.Major == nil && d.Minor == nil && strings.Contains(d.Access, "w")
	})
}

// rules change a spec into one that the runtime takes, in order.
var rules = []struct {
	why   string
	apply func(*Backend, *container, *specs.Spec)
}{
	{"the bundle is ours", func(_ *Backend, c *container, s *specs.Spec) {
		s.Root = &specs.Root{Path: c.rootfs(), Readonly: s.Root != nil && s.Root.Readonly}
	}},
	{"runtimes refuse a version of the specification that is newer than they are, although nothing here needs one", func(_ *Backend, _ *container, s *specs.Spec) {
		s.Version = "1.0.2"
	}},
	{"the group and its limits are made before, and the runtime joins", func(_ *Backend, c *container, s *specs.Spec) {
		s.Linux.CgroupsPath = c.group.Path()
	}},
	{"an entry without a path is the sandbox's network", func(_ *Backend, c *container, s *specs.Spec) {
		for i, n := range s.Linux.Namespaces {
			if n.Type == specs.NetworkNamespace && n.Path == "" && c.sandbox.netns != nil {
				s.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), c.sandbox.netns.Fd())
			}
		}
	}},
	{"a time namespace without offsets hides nothing, and most runtimes cannot make one", func(_ *Backend, _ *container, s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
			return n.Type == specs.TimeNamespace && n.Path == ""
		})
	}},
	{"what is between the engine and backends is not for runtimes", func(_ *Backend, _ *container, s *specs.Spec) {
		for key := range s.Annotations {
			if strings.HasPrefix(key, ownPrefix) {
				delete(s.Annotations, key)
			}
		}
		for i := range s.Mounts {
			s.Mounts[i].Options = slices.DeleteFunc(s.Mounts[i].Options, func(o string) bool { return strings.HasPrefix(o, ownOptions) })
		}
	}},
	{"a mount is made before those inside it, also where they come first in the list", func(_ *Backend, _ *container, s *specs.Spec) {
		depth := func(m specs.Mount) int { return strings.Count(path.Clean(m.Destination), "/") }
		slices.SortStableFunc(s.Mounts, func(a, b specs.Mount) int { return cmp.Compare(depth(a), depth(b)) })
	}},
	{"rro is best effort", func(b *Backend, _ *container, s *specs.Spec) {
		if b.dialect.recursiveRO {
			return
		}
		for i := range s.Mounts {
			s.Mounts[i].Options = slices.DeleteFunc(s.Mounts[i].Options, func(o string) bool { return o == "rro" })
		}
	}},
	{"the host's devices and filters mean nothing to another kernel", func(b *Backend, _ *container, s *specs.Spec) {
		if b.dialect.ownKernel {
			s.Linux.Devices, s.Linux.Seccomp = nil, nil
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
		}
	}},
}

// configure writes the bundle of a container whose root is mounted.
func (b *Backend) configure(c *container, spec *specs.Spec) error {
	root, err := openRoot(c.rootfs())
	if err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	defer func() { _ = root.Close() }()
	who, err := resolve(root, spec.Process, spec.Annotations)
	if err != nil {
		return err
	}
	if spec.Annotations[annotationMakeWorkdir] == "true" && !covered(spec, spec.Process.Cwd) {
		if err := root.makeDir(spec.Process.Cwd, who); err != nil {
			return fmt.Errorf("working directory %s of container %s: %w", spec.Process.Cwd, c.id, err)
		}
	}
	for _, m := range spec.Mounts {
		if slices.Contains(m.Options, optionCopyUp) {
			if err := c.copyUp(m.Source, m.Destination); err != nil {
				return fmt.Errorf("volume %s of container %s: %w", m.Destination, c.id, err)
			}
		}
	}
	// The annotations are needed again by execs.
	own := make(map[string]string, len(spec.Annotations))
	for k, v := range spec.Annotations {
		own[k] = v
	}
	c.annotations = own
	for _, r := range rules {
		r.apply(b, c, spec)
	}
	c.init.terminal(spec.Process)
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.bundle(), "config.json"), text, 0o600); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	return nil
}

// covered tells whether a path is in a mount of its own, not in the root.
func covered(spec *specs.Spec, p string) bool {
	return slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool {
		return p == m.Destination || strings.HasPrefix(p, strings.TrimSuffix(m.Destination, "/")+"/")
	})
}
