package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
)

var backendLsCommand = command{
	name:    "ls",
	aliases: []string{"list"},
	args:    "[OPTIONS]",
	short:   "List the engine's isolation backends",
	examples: []string{
		"backend ls # Names, levels with their strength, and what is wrong with one",
		"backend ls --no-trunc # With all capabilities and facts",
	},
	setup: func(a *app, f *pflag.FlagSet) action {
		tmpl := formatFlag(f)
		noTrunc := f.Bool("no-trunc", false, "Don't truncate output")
		quiet := f.BoolP("quiet", "q", false, "Only show names")
		return func(ctx context.Context, _ []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			list, err := api.Backends(ctx)
			if err != nil {
				return err
			}
			rows := make([]backendRow, len(list))
			for i, b := range list {
				var levels []string
				for _, l := range b.Levels {
					s := l.Name + "=" + strconv.Itoa(l.Strength)
					if l.Name == b.DefaultLevel {
						s += "*"
					}
					levels = append(levels, s)
				}
				r := backendRow{
					Name: b.Name, Version: b.Version, Platform: strings.Trim(b.OS+"/"+b.Arch, "/"), Levels: strings.Join(levels, " "),
					Capabilities: strings.Join(b.Capabilities, " "), Status: "ready", Path: b.Path, Facts: pairs(b.Facts),
					Warnings: strings.Join(b.Warnings, "; "), PID: strconv.Itoa(b.PID),
				}
				switch {
				case b.Problem != "":
					r.Status = b.Problem
				case len(b.Warnings) > 0:
					r.Status = "ready; " + r.Warnings
				}
				if !*noTrunc {
					r.Capabilities, r.Status = format.Ellipsis(r.Capabilities, 40), format.Ellipsis(r.Status, 60)
				}
				rows[i] = r
			}
			l := backendList
			if *noTrunc {
				l.Table += `\t{{.Facts}}\t{{.Path}}`
			}
			return format.Write(a.out, l, *tmpl, *quiet, rows)
		}
	},
}

var backendList = format.List{
	Table: `{{.Name}}\t{{.Version}}\t{{.Platform}}\t{{.Levels}}\t{{.Capabilities}}\t{{.Status}}`,
	Quiet: `{{.Name}}`,
	Headers: format.Headers{
		"Name": "NAME", "Version": "VERSION", "Platform": "PLATFORM", "Levels": "LEVELS", "Capabilities": "CAPABILITIES",
		"Status": "STATUS", "Path": "PATH", "Facts": "FACTS", "Warnings": "WARNINGS", "PID": "PID",
	},
}

// backendRow is a backend as templates see it.
type backendRow struct {
	Capabilities, Facts, Levels, Name, PID, Path, Platform, Status, Version, Warnings string
}
