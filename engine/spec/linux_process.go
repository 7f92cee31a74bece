package spec

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// DefaultPath is PATH where neither image nor client sets it.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Args is the command line of a config: the entrypoint, then the command.
func Args(c *container.Config) []string {
	return append(slices.Clone(c.Entrypoint), c.Cmd...)
}

func process(in *Input, s *specs.Spec) error {
	c, p := in.Config, s.Process
	if p.Args = Args(c); len(p.Args) == 0 {
		return invalid("no command specified")
	}
	p.Terminal = c.Tty
	if size := in.Host.ConsoleSize; c.Tty && size[0] > 0 && size[1] > 0 {
		p.ConsoleSize = &specs.Box{Height: size[0], Width: size[1]}
	}
	p.Cwd = "/"
	if c.WorkingDir != "" {
		if !path.IsAbs(c.WorkingDir) {
			return invalid("the working directory '%s' is invalid, it needs to be an absolute path", c.WorkingDir)
		}
		p.Cwd = path.Clean(c.WorkingDir)
		annotate(s, AnnotationMakeWorkdir, "true")
	}
	return nil
}

func environment(in *Input, s *specs.Spec) error {
	s.Process.Env = Env(in.Config.Env, in.Config.Tty, in.Hostname)
	return nil
}

// Env completes an environment: what the client or image set wins over PATH,
// HOSTNAME and TERM; the last of two settings of one name wins; a name without
// '=' unsets one. HOME is added inside, where the user is known.
func Env(set []string, tty bool, hostname string) []string {
	env := make([]string, 0, len(set)+3)
	env = append(env, "PATH="+DefaultPath, "HOSTNAME="+hostname)
	if tty {
		env = append(env, "TERM=xterm")
	}
	return MergeEnv(env, set)
}

// MergeEnv puts over on top of env: a name that env has keeps its place.
func MergeEnv(env, over []string) []string {
	out := slices.Clone(env)
	for _, kv := range over {
		name, _, has := strings.Cut(kv, "=")
		i := slices.IndexFunc(out, func(o string) bool {
			n, _, _ := strings.Cut(o, "=")
			return n == name
		})
		switch {
		case !has && i >= 0:
			out = slices.Delete(out, i, i+1)
		case !has:
		case i >= 0:
			out[i] = kv
		default:
			out = append(out, kv)
		}
	}
	return out
}

// user tells who the process is; see AnnotationUser for who resolves it.
func user(in *Input, s *specs.Spec) error {
	s.Process.User = User(in.Config.User)
	s.Process.User.Umask = in.Host.Umask
	annotate(s, AnnotationUser, in.Config.User)
	if len(in.Host.GroupAdd) > 0 {
		for _, g := range in.Host.GroupAdd {
			if g == "" || strings.Contains(g, ",") {
				return invalid("invalid group %q", g)
			}
		}
		annotate(s, AnnotationGroupAdd, strings.Join(in.Host.GroupAdd, ","))
	}
	return nil
}

// User is the OCI user of a user string: its numbers where it has them, and the
// string itself for the runtime to resolve.
func User(u string) specs.User {
	out := specs.User{Username: u}
	name, group, _ := strings.Cut(u, ":")
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		out.UID = uint32(n)
	}
	if n, err := strconv.ParseUint(group, 10, 31); err == nil {
		out.GID = uint32(n)
	}
	return out
}

// rlimitTypes are the names that --ulimit knows.
var rlimitTypes = []string{
	"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice",
	"nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
}

// rlimits are the engine's defaults under the container's own. Limits are
// absent where nobody sets them: the runtime leaves those as they are.
func rlimits(in *Input, s *specs.Spec) error {
	byName := map[string]*container.Ulimit{}
	for _, l := range slices.Concat(in.Ulimits, in.Host.Ulimits) {
		if !slices.Contains(rlimitTypes, l.Name) {
			return invalid("invalid ulimit type: %s", l.Name)
		}
		if l.Soft > l.Hard && l.Hard != -1 || l.Soft == -1 && l.Hard != -1 {
			return invalid("ulimit soft limit must be less than or equal to hard limit: %d > %d", l.Soft, l.Hard)
		}
		byName[l.Name] = l
	}
	for name, l := range byName {
		s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{
			Type: "RLIMIT_" + strings.ToUpper(name), Soft: uint64(l.Soft), Hard: uint64(l.Hard),
		})
	}
	slices.SortFunc(s.Process.Rlimits, func(a, b specs.POSIXRlimit) int { return strings.Compare(a.Type, b.Type) })
	return nil
}
