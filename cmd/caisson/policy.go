package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/engine/client"
	"github.com/caisson-engine/caisson/engine/policy"
)

// defaultPolicy is where the engine looks if it is not told otherwise.
const defaultPolicy = "/etc/caisson/policy.yaml"

var policyCommands = command{
	name: "policy", short: "Check, explain and test the host's policy",
	sub: []*command{&policyCheckCommand, &policyExplainCommand, &policyTestCommand, &policyViolationsCommand},
}

var policyCheckCommand = command{
	name:  "check",
	args:  "[OPTIONS] [FILE]",
	short: "Check a policy file",
	long: "Reads the file as the engine would, asks no engine, and changes nothing. Without FILE it is\n" +
		defaultPolicy + ". The exit code is 1 if there is a mistake in it.",
	examples: []string{
		"policy check policy.yaml # Mistakes with their lines, and warnings",
		"policy check -q policy.yaml # Nothing but the exit code and mistakes",
	},
	max:      1,
	complete: completeFiles,
	setup: func(a *app, f *pflag.FlagSet) action {
		quiet := f.BoolP("quiet", "q", false, "Only print mistakes")
		return func(_ context.Context, args []string) error {
			path := defaultPolicy
			if len(args) > 0 {
				path = args[0]
			}
			p, err := readPolicy(path)
			if err != nil || *quiet {
				return err
			}
			fmt.Fprintf(a.out, "%s: %s, %s", path, counted(len(p.Rules), "rule"), counted(len(p.Tenants), "tenant"))
			if !p.Tenancy() {
				fmt.Fprint(a.out, "; no tenants, admins or others: everyone who reaches the socket is an admin")
			}
			fmt.Fprintln(a.out)
			if p.LimitsDisk() {
				fmt.Fprintln(a.out, "disk quotas: kept by the kernel where the data root's file system has project quotas, else measured; `caisson info` says which")
			}
			for _, w := range p.Warnings() {
				fmt.Fprintln(a.out, "WARNING:", w)
			}
			return nil
		}
	},
}

func counted(n int, what string) string { return fmt.Sprintf("%d %s", n, plural(what, n)) }

func readPolicy(path string) (*policy.Policy, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p, err := policy.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// completeFiles leaves the rest to the shell.
func completeFiles(context.Context, *app, []string, string) []string { return []string{directiveFiles} }

var policyExplainCommand = command{
	name:  "explain",
	args:  "[OPTIONS] IMAGE [COMMAND] [ARG...]",
	short: "Tell what the policy says of a container, without running it",
	long: "Takes the flags of run. The exit code is 0 if the container would be allowed, and 1 if it\n" +
		"would be refused.",
	examples: []string{
		"policy explain debian # At which level it would run, and by which rule",
		"policy explain --privileged --as uid:1001 debian # What another client would be told; for admins",
		"policy explain --format '{{.Level}} {{.Rule}}' debian # One fact",
	},
	min:      1,
	max:      -1,
	flat:     true,
	complete: completeFirst(completeImages),
	flags:    createCompletions,
	setup: func(a *app, f *pflag.FlagSet) action {
		c := newCreator(a, f)
		f.BoolP("detach", "d", false, "Accepted as of run")
		var as, tmpl string
		f.StringVar(&as, "as", "", "Client to explain for: uid:N, uid:N:GID[,GID…] or cert:NAME")
		f.StringVar(&tmpl, "format", "", objectFormatUsage)
		return func(ctx context.Context, args []string) error {
			req, err := c.request(args)
			if err != nil {
				return usageStatus("policy explain", err)
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			x, raw, err := api.Explain(ctx, *req, c.platform, as)
			if err != nil {
				return err
			}
			if tmpl != "" {
				err = format.Either(a.out, tmpl, x, raw)
			} else {
				err = explain(a, &x)
			}
			if err == nil && !x.Allowed {
				err = exitCode(1)
			}
			return err
		}
	},
}

// explain prints an explanation for people.
func explain(a *app, x *client.Explanation) error {
	w := tabwriter.NewWriter(a.out, 0, 1, 2, ' ', 0)
	row := func(key, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s:\t%s\n", key, value)
		}
	}
	who := "admin " + x.Client
	if !x.Admin {
		if who = "tenant " + x.Tenant; x.Tenant != x.Client {
			who += " (" + x.Client + ")"
		}
	}
	row("Client", who)
	if x.Allowed {
		row("Answer", "allowed")
		level := fmt.Sprintf("%s (strength %d)", x.Level, x.Strength)
		if x.Emulated {
			level += ", emulated: no security boundary"
		}
		row("Level", level)
		row("Backend", x.Backend)
	} else {
		row("Answer", "refused")
		row("Refused", x.Refused)
	}
	row("Rule", x.Rule)
	row("Reason", x.Reason)
	row("Options", strings.Join(x.Options, ", "))
	names := strings.Join(x.ImageNames, ", ")
	if !x.ImageHere {
		names += " (not here: judged as if pulled by that name)"
	}
	row("Image", strings.TrimSpace(names))
	row("Limits", amounts(client.Quota{Memory: x.Memory, CPUs: x.CPUs, Pids: x.Pids}))
	if x.Quota != nil {
		row("Quota", amounts(*x.Quota))
	}
	if x.Used != nil {
		used := amounts(*x.Used)
		if used == "" {
			used = "nothing"
		}
		row("In use", used)
	}
	return w.Flush()
}

func amounts(q client.Quota) string {
	var out []string
	add := func(n float64, what, value string) {
		if n > 0 {
			out = append(out, what+" "+value)
		}
	}
	add(float64(q.Containers), "containers", strconv.Itoa(q.Containers))
	add(float64(q.Memory), "memory", units.BytesSize(float64(q.Memory)))
	add(q.CPUs, "cpus", strconv.FormatFloat(q.CPUs, 'f', -1, 64))
	add(float64(q.Pids), "pids", strconv.FormatInt(q.Pids, 10))
	add(float64(q.PublishedPorts), "published ports", strconv.Itoa(q.PublishedPorts))
	add(float64(q.Networks), "networks", strconv.Itoa(q.Networks))
	add(float64(q.Disk), "disk", units.BytesSize(float64(q.Disk)))
	return strings.Join(out, ", ")
}

var policyViolationsCommand = command{
	name:  "violations",
	args:  "[OPTIONS]",
	short: "List containers that the policy would not allow any more",
	long: "A changed policy holds for what is made from then on. What was made before goes on until it\n" +
		"is removed; a tenant can stop and remove it, but not start or enter it.",
	examples: []string{
		"policy violations # With the rule that each violates",
		"policy violations -q # Ids only, for caisson rm",
	},
	setup: func(a *app, f *pflag.FlagSet) action {
		tmpl := formatFlag(f)
		noTrunc := f.Bool("no-trunc", false, "Don't truncate output")
		quiet := f.BoolP("quiet", "q", false, "Only show ids")
		return func(ctx context.Context, _ []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			list, err := api.Violations(ctx)
			if err != nil {
				return err
			}
			rows := make([]violationRow, len(list))
			for i, v := range list {
				rows[i] = violationRow(v)
				if !*noTrunc {
					rows[i].ID, rows[i].Reason = format.ShortID(v.ID), format.Ellipsis(v.Reason, 60)
				}
			}
			return format.Write(a.out, violationList, *tmpl, *quiet, rows)
		}
	},
}

var violationList = format.List{
	Table:   `{{.ID}}\t{{.Name}}\t{{.Tenant}}\t{{.State}}\t{{.Rule}}\t{{.Reason}}`,
	Quiet:   `{{.ID}}`,
	Headers: format.Headers{"ID": "CONTAINER ID", "Name": "NAME", "Tenant": "TENANT", "State": "STATE", "Rule": "RULE", "Reason": "REASON"},
}

// violationRow is a violation as templates see it.
type violationRow client.Violation
