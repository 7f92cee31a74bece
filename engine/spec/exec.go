package spec

import (
	"path"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Exec is the OCI process of an exec in a container: the container's own
// settings under what the client asks for.
func Exec(in *Input, r *container.ExecCreateRequest) (*specs.Process, error) {
	s := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
	p := s.Process
	p.Args, p.Terminal = r.Cmd, r.Tty
	p.Cwd = "/"
	if in.Config.WorkingDir != "" {
		p.Cwd = path.Clean(in.Config.WorkingDir)
	}
	if r.WorkingDir != "" {
		if !path.IsAbs(r.WorkingDir) {
			return nil, invalid("the working directory '%s' is invalid, it needs to be an absolute path", r.WorkingDir)
		}
		p.Cwd = path.Clean(r.WorkingDir)
	}
	p.Env = MergeEnv(Env(in.Config.Env, r.Tty, in.Hostname), r.Env)
	p.User = User(in.Config.User)
	if r.User != "" {
		p.User = User(r.User)
	}
	p.User.Umask = in.Host.Umask
	if err := rlimits(in, s); err != nil {
		return nil, err
	}
	caps, err := Capabilities(in.Host.CapAdd, in.Host.CapDrop, in.Host.Privileged || r.Privileged)
	if err != nil {
		return nil, err
	}
	p.Capabilities = Sets(caps)
	o := options{noNewPrivileges: in.NoNewPrivileges}
	for _, opt := range in.Host.SecurityOpt {
		if err := o.read(s, opt); err != nil {
			return nil, err
		}
	}
	p.NoNewPrivileges = o.noNewPrivileges
	if err := oomScore(in, s); err != nil {
		return nil, err
	}
	return p, nil
}
