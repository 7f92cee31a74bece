package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/contexts"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/engine/client"
)

// endpointFlag is --docker key=value,…; --engine is our own name for it.
type endpointFlag struct {
	c     contexts.Context
	from  string
	given bool
}

func (e *endpointFlag) Set(v string) error {
	e.given = true
	for field := range strings.SplitSeq(v, ",") {
		k, val, ok := strings.Cut(field, "=")
		dst := map[string]*string{"host": &e.c.Host, "ca": &e.c.CA, "cert": &e.c.Cert, "key": &e.c.Key, "from": &e.from}[k]
		switch {
		case !ok:
			return fmt.Errorf("%s must be formatted as key=value", field)
		case dst != nil:
			*dst = val
		case k == "skip-tls-verify":
			e.c.SkipTLSVerify = val == "true" || val == "1"
		default:
			return fmt.Errorf("unknown key %q; use host, ca, cert, key, skip-tls-verify or from", k)
		}
	}
	return nil
}

func (*endpointFlag) Type() string   { return "stringToString" }
func (*endpointFlag) String() string { return "" }

var contextCreateCommand = command{
	name:  "create",
	args:  "[OPTIONS] CONTEXT",
	short: "Create a context",
	long:  "Keys of --engine: host, ca, cert, key (paths of PEM files), skip-tls-verify, from (another context).",
	examples: []string{
		"context create lab --engine host=tcp://lab:2376,ca=ca.pem,cert=cert.pem,key=key.pem # An engine elsewhere",
		"context create docker --engine host=unix:///var/run/docker.sock # Docker's own engine on this host",
	},
	min: 1,
	max: 1,
	flags: map[string]completer{
		"from":   completeContexts,
		"engine": completeWords("host="),
		"docker": completeWords("host="),
	},
	setup: func(a *app, f *pflag.FlagSet) action {
		var e endpointFlag
		f.StringVar(&e.c.Description, "description", "", "Description of the context")
		f.Var(&e, "engine", "Where the engine is and how to authenticate to it")
		f.Var(&e, "docker", "The same, Docker's name for it")
		f.StringVar(&e.from, "from", "", "Create context from a named context")
		return func(_ context.Context, args []string) error {
			c := e.c
			if e.from != "" {
				if e.given && c.Host != "" {
					return errors.New("cannot use --engine and --from together")
				}
				src, err := a.namedContext(e.from)
				if err != nil {
					return err
				}
				src.Description = c.Description
				c = src
			}
			if c.Host == "" {
				return errors.New("the context needs an engine: --engine host=unix:///… or --from CONTEXT")
			}
			if _, err := client.ParseHost(c.Host); err != nil {
				return err
			}
			c.Name = args[0]
			if err := a.contexts().Create(c); err != nil {
				return err
			}
			fmt.Fprintln(a.out, c.Name)
			fmt.Fprintf(a.err, "Successfully created context %q\n", c.Name)
			return nil
		}
	},
}

// namedContext returns a stored context or the default one as it is now.
func (a *app) namedContext(name string) (contexts.Context, error) {
	if name != contexts.Default {
		return a.contexts().Get(name)
	}
	plain := *a
	plain.global.context = contexts.Default
	ep, err := plain.endpoint()
	return contexts.Context{
		Name: contexts.Default, Description: "What flags and environment say", Host: ep.host,
		CA: ep.ca, Cert: ep.cert, Key: ep.key, SkipTLSVerify: ep.useTLS && ep.skipVerify,
	}, err
}

var contextLsCommand = command{
	name:     "ls",
	aliases:  []string{"list"},
	args:     "[OPTIONS]",
	short:    "List contexts",
	examples: []string{"context ls # The one in use has a star"},
	setup: func(a *app, f *pflag.FlagSet) action {
		tmpl := formatFlag(f)
		quiet := f.BoolP("quiet", "q", false, "Only show context names")
		return func(context.Context, []string) error {
			current, err := a.contextName()
			if err != nil {
				return err
			}
			list, err := a.contexts().List()
			if err != nil {
				return err
			}
			def, err := a.namedContext(contexts.Default)
			if err != nil {
				return err
			}
			var rows []contextRow
			for _, c := range append([]contexts.Context{def}, list...) {
				rows = append(rows, contextRow{Current: c.Name == current, Name: c.Name, Description: c.Description, DockerEndpoint: c.Host})
			}
			return format.Write(a.out, contextList, *tmpl, *quiet, rows)
		}
	},
}

var contextList = format.List{
	Table:   `{{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}`,
	Quiet:   `{{.Name}}`,
	Headers: format.Headers{"Name": "NAME", "Description": "DESCRIPTION", "DockerEndpoint": "ENDPOINT", "Error": "ERROR"},
}

// contextRow is a context as templates see it.
type contextRow struct {
	Current                                  bool
	Description, DockerEndpoint, Error, Name string
}

var contextUseCommand = command{
	name:     "use",
	args:     "CONTEXT",
	short:    "Set the context that commands use",
	examples: []string{"context use lab # From now on, until `caisson context use default`"},
	min:      1,
	max:      1,
	complete: completeFirst(completeContexts),
	setup: func(a *app, _ *pflag.FlagSet) action {
		return func(_ context.Context, args []string) error {
			if err := a.contexts().Use(args[0]); err != nil {
				return err
			}
			fmt.Fprintln(a.out, args[0])
			fmt.Fprintf(a.err, "Current context is now %q\n", args[0])
			if now, err := a.contextName(); err == nil && now != args[0] {
				fmt.Fprintln(a.err, "WARNING: CAISSON_HOST or CAISSON_CONTEXT is set and overrides it; unset it to use the context.")
			}
			return nil
		}
	},
}

var contextShowCommand = command{
	name:     "show",
	short:    "Print the name of the current context",
	examples: []string{"context show # For prompts"},
	setup: func(a *app, _ *pflag.FlagSet) action {
		return func(context.Context, []string) error {
			name, err := a.contextName()
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, name)
			return nil
		}
	},
}

var contextRmCommand = command{
	name:     "rm",
	aliases:  []string{"remove"},
	args:     "[OPTIONS] CONTEXT [CONTEXT...]",
	short:    "Remove one or more contexts",
	examples: []string{"context rm lab # Forget it; the engine stays as it is"},
	min:      1,
	max:      -1,
	complete: completeContexts,
	setup: func(a *app, f *pflag.FlagSet) action {
		force := f.BoolP("force", "f", false, "Force the removal of a context in use")
		return func(ctx context.Context, names []string) error {
			return a.each(ctx, names, func(_ context.Context, n string) error { return a.contexts().Remove(n, *force) })
		}
	},
}

var contextInspectCommand = command{
	name:     "inspect",
	args:     "[OPTIONS] [CONTEXT] [CONTEXT...]",
	short:    "Display detailed information on one or more contexts",
	examples: []string{"context inspect -f '{{.Endpoints.docker.Host}}' # Where commands go now"},
	max:      -1,
	complete: completeContexts,
	setup: func(a *app, f *pflag.FlagSet) action {
		tmpl := f.StringP("format", "f", "", objectFormatUsage)
		return func(_ context.Context, names []string) error {
			if len(names) == 0 {
				name, err := a.contextName()
				if err != nil {
					return err
				}
				names = []string{name}
			}
			return inspect(a.out, *tmpl, names, func(name string) (json.RawMessage, any, error) {
				c, err := a.namedContext(name)
				if err != nil {
					return nil, nil, err
				}
				raw, err := json.Marshal(contextObject(c))
				return raw, &map[string]any{}, err
			})
		}
	},
}

// contextObject has the shape of Docker's context inspect.
func contextObject(c contexts.Context) map[string]any {
	return map[string]any{
		"Name":     c.Name,
		"Metadata": map[string]any{"Description": c.Description},
		"Endpoints": map[string]any{"docker": map[string]any{
			"Host": c.Host, "SkipTLSVerify": c.SkipTLSVerify,
		}},
		"TLSMaterial": map[string]any{"CA": c.CA, "Cert": c.Cert, "Key": c.Key},
	}
}
