package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/compose"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
)

// indexFlag registers --index, the number of a service's container.
func indexFlag(f *pflag.FlagSet) *int {
	return f.Int("index", 0, "Index of the container if service has multiple replicas")
}

var composeExecCommand = command{
	name:  "exec",
	args:  "[OPTIONS] SERVICE COMMAND [ARGS...]",
	short: "Execute a command in a running container",
	examples: []string{
		"compose exec db psql -U postgres # On this terminal",
		"compose exec -T --index 2 worker cat /tmp/state # In a script, in the second container",
	},
	min:      2,
	max:      -1,
	flat:     true,
	complete: completeFirst(completeServices),
	setup: func(a *app, f *pflag.FlagSet) action {
		e := &execer{app: a}
		e.env.Check = opts.CheckEnv
		f.BoolVarP(&e.detach, "detach", "d", false, "Detached mode: Run command in the background")
		f.VarP(&e.env, "env", "e", "Set environment variables")
		index := indexFlag(f)
		f.BoolVarP(&e.stdin, "interactive", "i", true, "Keep STDIN open even if not attached")
		f.BoolVar(&e.cfg.Privileged, "privileged", false, "Give extended privileges to the process")
		noTTY := noTTYFlag(f, a)
		f.StringVarP(&e.cfg.User, "user", "u", "", "Run the command as this user")
		f.StringVarP(&e.cfg.WorkingDir, "workdir", "w", "", "Path to workdir directory for this command")
		return func(ctx context.Context, args []string) error {
			r, err := a.project(ctx, args[0])
			if err != nil {
				return err
			}
			c, err := r.One(ctx, args[0], *index)
			if err != nil {
				return err
			}
			if !c.Running() {
				return fmt.Errorf("service %q is not running", args[0])
			}
			e.cfg.Tty = !*noTTY && !e.detach
			return e.run(ctx, append([]string{c.ID}, args[1:]...))
		}
	},
}

// noTTYFlag registers -T, which is the default where there is no terminal.
func noTTYFlag(f *pflag.FlagSet, a *app) *bool {
	none := !a.inTTY.Is() || !a.outTTY.Is()
	v := f.BoolP("no-TTY", "T", none, "Disable pseudo-TTY allocation (default: auto-detected)")
	f.BoolVar(v, "no-tty", none, "Disable pseudo-TTY allocation")
	f.BoolP("tty", "t", true, "Allocate a pseudo-TTY; this is the default")
	f.Lookup("no-tty").Hidden, f.Lookup("tty").Hidden = true, true
	return v
}

var composeAttachCommand = command{
	name:     "attach",
	args:     "[OPTIONS] SERVICE",
	short:    "Attach local standard input, output, and error streams to a service's running container",
	examples: []string{"compose attach shell # ctrl-p ctrl-q detaches"},
	min:      1,
	max:      1,
	complete: completeFirst(completeServices),
	setup: func(a *app, f *pflag.FlagSet) action {
		index := indexFlag(f)
		attach := attachCommand.setup(a, f)
		return func(ctx context.Context, args []string) error {
			r, err := a.project(ctx, args[0])
			if err != nil {
				return err
			}
			c, err := r.One(ctx, args[0], *index)
			if err != nil {
				return err
			}
			return attach(ctx, []string{c.ID})
		}
	},
}

var composeRunCommand = command{
	name:  "run",
	args:  "[OPTIONS] SERVICE [COMMAND] [ARGS...]",
	short: "Run a one-off command on a service",
	long: "The container is the service's, but with a name of its own, and without its published\n" +
		"ports. What the service depends on is started first.",
	examples: []string{
		"compose run --rm app python3 manage.py migrate # One command, and the container is gone",
		"compose run --rm --no-deps -P web # Alone, with the service's ports",
	},
	min:      1,
	max:      -1,
	flat:     true,
	complete: completeFirst(completeServices),
	setup: func(a *app, f *pflag.FlagSet) action {
		o := &oneOff{app: a}
		o.env.Check = opts.CheckEnv
		noBuild := noBuild(f)
		f.StringArrayVar(&o.capAdd, "cap-add", nil, "Add Linux capabilities")
		f.StringArrayVar(&o.capDrop, "cap-drop", nil, "Drop Linux capabilities")
		f.BoolVarP(&o.detach, "detach", "d", false, "Run container in background and print container ID")
		f.StringVar(&o.entrypoint, "entrypoint", "", "Override the entrypoint of the image")
		f.VarP(&o.env, "env", "e", "Set environment variables")
		f.Var(&o.envFile, "env-from-file", "Set environment variables from file")
		f.BoolVarP(&o.interactive, "interactive", "i", true, "Keep STDIN open even if not attached")
		f.StringArrayVarP(&o.labels, "label", "l", nil, "Add or override a label")
		f.StringVar(&o.name, "name", "", "Assign a name to the container")
		o.noTTY = noTTYFlag(f, a)
		f.BoolVar(&o.noDeps, "no-deps", false, "Don't start linked services")
		f.StringArrayVarP(&o.publish, "publish", "p", nil, "Publish a container's port(s) to the host")
		f.StringVar(&o.pull, "pull", "", `Pull image before running ("always"|"missing"|"never")`)
		f.BoolVar(&o.orphans, "remove-orphans", false, "Remove containers for services not defined in the Compose file")
		f.BoolVar(&o.remove, "rm", false, "Automatically remove the container when it exits")
		f.BoolVarP(&o.servicePorts, "service-ports", "P", false, "Run command with all service's ports enabled and mapped to the host")
		f.BoolVar(&o.aliases, "use-aliases", false, "Use the service's network useAliases in the network(s) the container connects to")
		f.StringVarP(&o.user, "user", "u", "", "Run as specified username or uid")
		f.StringArrayVarP(&o.volumes, "volume", "v", nil, "Bind mount a volume")
		f.StringVarP(&o.workdir, "workdir", "w", "", "Working directory inside the container")
		return func(ctx context.Context, args []string) error {
			if err := noBuild(); err != nil {
				return err
			}
			o.entrypointGiven = f.Changed("entrypoint")
			return o.run(ctx, args)
		}
	},
}

// oneOff is the run verb.
type oneOff struct {
	app                                          *app
	env, envFile                                 opts.List
	capAdd, capDrop, labels, publish, volumes    []string
	entrypoint, name, pull, user, workdir        string
	detach, interactive, noDeps, orphans, remove bool
	servicePorts, aliases, entrypointGiven       bool
	noTTY                                        *bool
}

func (o *oneOff) run(ctx context.Context, args []string) error {
	a := o.app
	r, err := a.planned(ctx, args[0])
	if err != nil {
		return err
	}
	s := r.Project.Service(args[0])
	if err := remote(r, r.Project.Select([]string{s.Name}, !o.noDeps)); err != nil {
		return err
	}
	if err := o.override(s, args[1:]); err != nil {
		return err
	}
	id, req, err := r.OneOff(ctx, compose.OneOffOptions{
		Service: s, Name: o.name, NoDeps: o.noDeps, Pull: o.pull, RemoveOrphans: o.orphans,
		Ports: o.servicePorts, Aliases: o.aliases, Remove: o.remove,
	})
	if err != nil {
		return runStatus(err)
	}
	if o.detach {
		if err := r.API.Start(ctx, id, "", ""); err != nil {
			return runStatus(err)
		}
		fmt.Fprintln(a.out, id)
		return nil
	}
	run := &runner{creator: &creator{app: a}, sigProxy: true}
	return run.attached(ctx, r.API, id, req)
}

// override applies the flags to the service.
func (o *oneOff) override(s *compose.Service, command []string) error {
	env, err := opts.ReadEnv(o.envFile.Values)
	if err != nil {
		return fmt.Errorf("--env-from-file: %w", err)
	}
	c, h := &s.Config, &s.Host
	c.Tty = !*o.noTTY && !o.detach
	c.OpenStdin = o.interactive
	c.AttachStdin = o.interactive && !o.detach
	c.AttachStdout, c.AttachStderr = !o.detach, !o.detach
	c.StdinOnce = c.AttachStdin
	c.Env = append(append(c.Env, env...), o.env.Values...)
	if len(command) > 0 {
		c.Cmd = command
	}
	if o.entrypointGiven {
		c.Entrypoint = []string{o.entrypoint}
		if len(command) == 0 {
			c.Cmd = []string{}
		}
	}
	if o.user != "" {
		c.User = o.user
	}
	if o.workdir != "" {
		c.WorkingDir = o.workdir
	}
	if err := o.app.checkTTY(c.AttachStdin, c.Tty); err != nil {
		return err
	}
	h.CapAdd, h.CapDrop = append(h.CapAdd, o.capAdd...), append(h.CapDrop, o.capDrop...)
	h.Binds = append(h.Binds, o.volumes...)
	if len(o.publish) > 0 {
		if o.servicePorts {
			return errors.New("--service-ports and --publish are incompatible")
		}
		ports, err := opts.ParsePorts(o.publish)
		if err != nil {
			return err
		}
		o.servicePorts = true
		h.PortBindings = ports
		for p := range ports {
			c.ExposedPorts[p] = struct{}{}
		}
	}
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	for _, l := range o.labels {
		k, v, _ := strings.Cut(l, "=")
		c.Labels[k] = v
	}
	return nil
}
