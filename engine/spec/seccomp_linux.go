package spec

import (
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func builtinProfile(s *specs.Spec) (*specs.LinuxSeccomp, error) {
	return seccomp.GetDefaultProfile(s)
}

func loadProfile(body string, s *specs.Spec) (*specs.LinuxSeccomp, error) {
	return seccomp.LoadProfile(body, s)
}
