package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
)

// manCommand writes the man pages; `make install` calls it.
var manCommand = command{
	name:   "__man",
	args:   "DIR",
	short:  "Write a man page for each command into a directory",
	hidden: true,
	min:    1,
	max:    1,
	setup: func(a *app, _ *pflag.FlagSet) action {
		return func(_ context.Context, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			return a.manPages(args[0], a.root, nil)
		}
	},
}

// manPages writes the page of cmd and those below it.
func (a *app) manPages(dir string, cmd *command, path []string) error {
	if cmd.hidden {
		return nil
	}
	name := strings.Join(append([]string{"caisson"}, path...), "-")
	if err := os.WriteFile(filepath.Join(dir, name+".1"), a.manPage(cmd, path), 0o644); err != nil {
		return err
	}
	for _, s := range cmd.sub {
		if err := a.manPages(dir, s, append(path[:len(path):len(path)], s.name)); err != nil {
			return err
		}
	}
	return nil
}

// manPage is a page of section 1 in the man macros.
func (a *app) manPage(cmd *command, path []string) []byte {
	var b bytes.Buffer
	name := strings.Join(append([]string{"caisson"}, path...), "-")
	fmt.Fprintf(&b, ".TH %s 1 \"\" \"Caisson %s\" \"Caisson\"\n", roff(strings.ToUpper(name)), roff(version))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(name), roff(cmd.short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n%s\n", roff(commandLine(path)), roff(strings.TrimPrefix(usageLine(cmd, path), "Usage:  "+commandLine(path))))
	if cmd.long != "" {
		fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", roff(cmd.long))
	}
	if cmd.sub != nil {
		b.WriteString(".SH COMMANDS\n")
		for _, s := range cmd.sub {
			if !s.hidden {
				fmt.Fprintf(&b, ".TP\n.BR %s (1)\n%s\n", roff(name+"-"+s.name), roff(s.short))
			}
		}
	}
	wrote := false
	flagsOf(a, cmd, path).VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		if !wrote {
			b.WriteString(".SH OPTIONS\n")
			wrote = true
		}
		manFlag(&b, f)
	})
	if len(cmd.examples) > 0 {
		b.WriteString(".SH EXAMPLES\n")
		for _, ex := range cmd.examples {
			line, what, _ := strings.Cut(ex, " # ")
			fmt.Fprintf(&b, ".TP\n%s\n.B %s\n", roff(what), roff("caisson "+line))
		}
	}
	if path == nil {
		b.WriteString(manEnvironment)
	} else {
		b.WriteString(".SH SEE ALSO\n.BR caisson (1)\n")
	}
	return b.Bytes()
}

func manFlag(b *bytes.Buffer, f *pflag.Flag) {
	b.WriteString(".TP\n\\fB")
	if f.Shorthand != "" {
		b.WriteString(roff("-"+f.Shorthand) + "\\fR, \\fB")
	}
	b.WriteString(roff("--" + f.Name))
	value, usage := pflag.UnquoteUsage(f)
	if value != "" {
		b.WriteString("\\fR \\fI" + roff(value))
	}
	fmt.Fprintf(b, "\\fR\n%s\n", roff(usage))
}

const manEnvironment = `.SH ENVIRONMENT
.TP
.B CAISSON_HOST
The engine to connect to.
.TP
.B CAISSON_CONTEXT
The context to use.
.TP
.B CAISSON_TLS_VERIFY, CAISSON_CERT_PATH
Use TLS and verify the engine; the directory with ca.pem, cert.pem and key.pem.
.TP
.B CAISSON_CONFIG
The directory of the client's own files, ~/.caisson.
.TP
.B CAISSON_API_VERSION
Speak this version of the API and negotiate none.
.TP
.B CAISSON_DEFAULT_PLATFORM
The platform to pull and run when none is named.
.SH FILES
.TP
.I ~/.docker/config.json
Credentials for registries, shared with Docker's command line.
`

// roff escapes text for a man page.
func roff(s string) string {
	var b strings.Builder
	start := true // of a line
	for _, r := range s {
		if start && (r == '.' || r == '\'') {
			b.WriteString(`\&`)
		}
		start = false
		switch {
		case r == '\n':
			b.WriteString("\n.br\n")
			start = true
		case r == '\\':
			b.WriteString(`\e`)
		case r == '-':
			b.WriteString(`\-`)
		case r > 126:
			fmt.Fprintf(&b, `\[u%04X]`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
