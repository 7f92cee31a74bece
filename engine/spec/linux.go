package spec

import (
	"github.com/opencontainers/runtime-spec/specs-go"
)

// linuxRules make a spec for the Linux runtime, in this order.
var linuxRules = []Rule{
	base,
	namespaces,
	hostnames,
	process,
	environment,
	user,
	capabilities,
	rlimits,
	baseMounts,
	engineFiles,
	volumes,
	hiddenPaths,
	cgroup,
	memory,
	cpu,
	blockIO,
	pids,
	devices,
	sysctls,
	oomScore,
	annotations,
	security, // last: the default filter depends on capabilities
}

func base(in *Input, s *specs.Spec) error {
	s.Root = &specs.Root{Path: "rootfs", Readonly: in.Host.ReadonlyRootfs}
	s.Process = &specs.Process{}
	s.Linux = &specs.Linux{Resources: &specs.LinuxResources{}, RootfsPropagation: rootPropagation(in)}
	return nil
}

// rootPropagation is rslave or rshared where a bind needs it, so that what the
// host mounts below the source later is seen inside.
func rootPropagation(in *Input) string {
	p := ""
	for _, m := range in.Mounts {
		switch m.Propagation {
		case "shared", "rshared":
			return "rshared"
		case "slave", "rslave":
			p = "rslave"
		}
	}
	return p
}

func hostnames(in *Input, s *specs.Spec) error {
	if in.Host.UTSMode.IsHost() {
		return nil
	}
	s.Hostname, s.Domainname = in.Hostname, in.Domainname
	return nil
}

func oomScore(in *Input, s *specs.Spec) error {
	v := in.Host.OomScoreAdj
	if v < -1000 || v > 1000 {
		return invalid("Invalid value %d, range for oom score adj is [-1000, 1000]", v)
	}
	if v != 0 {
		s.Process.OOMScoreAdj = &v
	}
	return nil
}

// annotations of the client cannot overrule our own.
func annotations(in *Input, s *specs.Spec) error {
	for k, v := range in.Host.Annotations {
		if _, ours := s.Annotations[k]; !ours {
			annotate(s, k, v)
		}
	}
	return nil
}

func annotate(s *specs.Spec, k, v string) {
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	s.Annotations[k] = v
}
