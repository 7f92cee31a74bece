package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/engine/client"
)

var versionCommand = command{
	name:  "version",
	args:  "[OPTIONS]",
	short: "Show the Caisson version information",
	examples: []string{
		"version # Versions of client and engine",
		"version --format '{{.Server.Version}}' # One of them",
	},
	setup: func(a *app, f *pflag.FlagSet) action {
		tmpl := f.StringP("format", "f", "", objectFormatUsage)
		clientOnly := f.Bool("client", false, "Only the client's version; no engine is asked")
		return func(ctx context.Context, _ []string) error {
			v := versions{Client: a.clientVersion()}
			var failed error
			if !*clientOnly {
				var s client.Version
				api, err := a.client()
				if err == nil {
					s, err = api.ServerVersion(ctx)
				}
				if err == nil {
					v.Server = &s
					v.Client.APIVersion = api.Version()
				}
				failed = err
			}
			if *tmpl != "" {
				if err := format.Object(a.out, *tmpl, v); err != nil {
					return &statusError{code: 64, err: err}
				}
			} else {
				v.print(a.out)
			}
			return failed
		}
	},
}

// versions is what version shows; templates see its fields.
type versions struct {
	Client clientVersion
	Server *client.Version
}

// clientVersion describes this program.
type clientVersion struct {
	Version           string
	APIVersion        string `json:"ApiVersion"`
	DefaultAPIVersion string
	GitCommit         string
	GoVersion         string
	Os, Arch          string
	BuildTime         string
	Context           string
}

func (a *app) clientVersion() clientVersion {
	v := clientVersion{
		Version: version, APIVersion: client.MaxAPIVersion, DefaultAPIVersion: client.MaxAPIVersion,
		GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH,
	}
	v.Context, _ = a.contextName()
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			switch s.Key {
			case "vcs.revision":
				v.GitCommit = s.Value[:min(len(s.Value), 12)]
			case "vcs.time":
				v.BuildTime = s.Value
			}
		}
	}
	return v
}

func (v versions) print(w io.Writer) {
	c := v.Client
	api := c.APIVersion
	if api != c.DefaultAPIVersion {
		api += " (downgraded from " + c.DefaultAPIVersion + ")"
	}
	fmt.Fprintln(w, "Client:")
	section(w, [][2]string{
		{"Version", c.Version}, {"API version", api}, {"Go version", c.GoVersion}, {"Git commit", c.GitCommit},
		{"Built", c.BuildTime}, {"OS/Arch", c.Os + "/" + c.Arch}, {"Context", c.Context},
	})
	s := v.Server
	if s == nil {
		return
	}
	title := "Server:"
	if s.Platform.Name != "" {
		title += " " + s.Platform.Name
	}
	fmt.Fprintf(w, "\n%s\n", title)
	for _, comp := range s.Components {
		fmt.Fprintf(w, " %s:\n", comp.Name)
		d := comp.Details
		if comp.Name == "Engine" {
			fmt.Fprintf(w, "  %-17s %s\n", "Version:", comp.Version)
			section2(w, [][2]string{
				{"API version", fmt.Sprintf("%s (minimum version %s)", d["ApiVersion"], d["MinAPIVersion"])},
				{"Go version", d["GoVersion"]}, {"Git commit", d["GitCommit"]}, {"Built", d["BuildTime"]},
				{"OS/Arch", d["Os"] + "/" + d["Arch"]}, {"Experimental", d["Experimental"]},
			})
			continue
		}
		fmt.Fprintf(w, "  %-17s %s\n", "Version:", comp.Version)
		keys := make([]string, 0, len(d))
		for k := range d {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			fmt.Fprintf(w, "  %-17s %s\n", k+":", d[k])
		}
	}
	if len(s.Components) == 0 {
		section(w, [][2]string{
			{"Version", s.Version}, {"API version", fmt.Sprintf("%s (minimum version %s)", s.APIVersion, s.MinAPIVersion)},
			{"Go version", s.GoVersion}, {"Git commit", s.GitCommit}, {"Built", s.BuildTime}, {"OS/Arch", s.Os + "/" + s.Arch},
		})
	}
}

func section(w io.Writer, rows [][2]string) {
	for _, r := range rows {
		if r[1] != "" {
			fmt.Fprintf(w, " %-18s %s\n", r[0]+":", r[1])
		}
	}
}

func section2(w io.Writer, rows [][2]string) {
	for _, r := range rows {
		if r[1] != "" {
			fmt.Fprintf(w, "  %-17s %s\n", r[0]+":", r[1])
		}
	}
}
