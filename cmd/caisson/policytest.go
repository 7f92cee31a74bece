package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
	"github.com/caisson-engine/caisson/engine/policy"
	"github.com/caisson-engine/caisson/engine/volume"
)

var policyTestCommand = command{
	name:  "test",
	args:  "[OPTIONS] FILE",
	short: "Check that a policy decides as a file of cases says",
	long: "Asks no engine. The file is YAML:\n\n" +
		"    levels: [process, vm]      # that the host is taken to offer, weakest first\n" +
		"    cases:\n" +
		"      - name: web has no privileges\n" +
		"        as: uid:1001           # or uid:N:GID[,GID…], cert:NAME; root if left out\n" +
		"        run: --privileged nginx\n" +
		"        want: denied           # or allowed, or the level that it gets\n" +
		"        rule: web              # that decides; may be left out\n" +
		"        says: privileged       # part of the reason; may be left out\n\n" +
		"The exit code is 1 if a case is decided otherwise. Quotas are not looked at: they depend on\n" +
		"what runs.",
	examples: []string{
		"policy test cases.yaml # With policy.yaml beside it, if there is one, else " + defaultPolicy,
		"policy test --policy new.yaml cases.yaml # Before a new policy is put in place",
	},
	min:      1,
	max:      1,
	complete: completeFiles,
	flags:    map[string]completer{"policy": completeFiles},
	setup: func(a *app, f *pflag.FlagSet) action {
		path := f.String("policy", "", "Policy to test (default: policy.yaml beside FILE, else "+defaultPolicy+")")
		tmpl := formatFlag(f)
		quiet := f.BoolP("quiet", "q", false, "Only show cases that fail")
		return func(_ context.Context, args []string) error {
			if *path == "" {
				if *path = filepath.Join(filepath.Dir(args[0]), "policy.yaml"); !exists(*path) {
					*path = defaultPolicy
				}
			}
			p, err := readPolicy(*path)
			if err != nil {
				return err
			}
			b, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			cases, err := policy.ParseCases(b)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return a.testPolicy(p, cases, *tmpl, *quiet)
		}
	},
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (a *app) testPolicy(p *policy.Policy, cases *policy.Cases, tmpl string, onlyFailed bool) error {
	var rows []caseRow
	failed := 0
	for i := range cases.Cases {
		c := &cases.Cases[i]
		in, err := caseInput(c)
		if err != nil {
			return fmt.Errorf("line %d: case %q: %w", c.Line, c.Name, err)
		}
		in.Backends = cases.Backends()
		v := p.Judge(c, in)
		r := caseRow{Result: "ok", Name: c.Name, Client: c.Client.Name(), Want: c.Want, Got: v.Got, Rule: v.Rule, Reason: v.Reason}
		if !v.Pass {
			r.Result = "FAIL"
			failed++
			if c.Rule != "" {
				r.Want += " by " + c.Rule
			}
		} else if onlyFailed {
			continue
		}
		rows = append(rows, r)
	}
	if len(rows) > 0 {
		if err := format.Write(a.out, caseList, tmpl, false, rows); err != nil {
			return err
		}
	}
	if failed > 0 {
		return &statusError{code: 1, err: fmt.Errorf("caisson: %s of %d decided otherwise", counted(failed, "case"), len(cases.Cases))}
	}
	return nil
}

// caseInput reads a case's command line.
func caseInput(c *policy.Case) (policy.Input, error) {
	var in policy.Input
	var o opts.Container
	f := newFlagSet("run")
	f.SetInterspersed(false)
	o.Register(f)
	f.String("name", "", "")
	f.BoolP("detach", "d", false, "")
	f.String("platform", "", "")
	words, err := shellWords(c.Run)
	if err == nil {
		err = f.Parse(words)
	}
	if err != nil {
		return in, err
	}
	if f.NArg() == 0 {
		return in, fmt.Errorf("run: %q names no image", c.Run)
	}
	req, err := o.Request(f, f.Arg(0), f.Args()[1:])
	if err != nil {
		return in, err
	}
	// The engine's types are those that policies are about.
	b, err := json.Marshal(req)
	if err != nil {
		return in, err
	}
	var body struct {
		*apicontainer.Config
		HostConfig *apicontainer.HostConfig
	}
	if err := json.Unmarshal(b, &body); err != nil {
		return in, err
	}
	h := body.HostConfig
	mounts, err := volume.Resolve(volume.Request{Binds: h.Binds, Mounts: h.Mounts, Tmpfs: h.Tmpfs, VolumeDriver: h.VolumeDriver})
	if err != nil {
		return in, err
	}
	if h.NetworkMode == "" || h.NetworkMode.IsDefault() {
		h.NetworkMode = "bridge"
	}
	in = policy.Input{Image: f.Arg(0), OS: "linux", Names: []string{policy.FullName(f.Arg(0))}}
	if c.Digest != "" {
		in.Digests = []string{c.Digest}
	}
	if id, ok := strings.CutPrefix(f.Arg(0), "sha256:"); ok {
		in.Names, in.Digests = nil, append(in.Digests, "sha256:"+id)
	}
	// Whatever a client leaves out of the masked paths, it leaves out one of these.
	base := policy.Base{MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"}}
	return in.Of(body.Config, h, volume.Binds(mounts), base), nil
}

// shellWords splits at blanks outside single and double quotes.
func shellWords(s string) ([]string, error) {
	var out []string
	var word strings.Builder
	var quote rune
	in := false
	for _, r := range s {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote, in = r, true
		case quote == 0 && (r == ' ' || r == '\t' || r == '\n'):
			if in {
				out = append(out, word.String())
			}
			word.Reset()
			in = false
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote is not closed: %s", s)
	}
	if in {
		out = append(out, word.String())
	}
	return out, nil
}

var caseList = format.List{
	Table:   `{{.Result}}\t{{.Name}}\t{{.Client}}\t{{.Want}}\t{{.Got}}\t{{.Rule}}`,
	Headers: format.Headers{"Result": "RESULT", "Name": "CASE", "Client": "CLIENT", "Want": "WANT", "Got": "GOT", "Rule": "RULE", "Reason": "REASON"},
}

// caseRow is a case as templates see it.
type caseRow struct {
	Result, Name, Client, Want, Got, Rule, Reason string
}
