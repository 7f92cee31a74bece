package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// helpWidth is where help breaks its lines when it is not told a terminal's width.
const helpWidth = 80

// usageLine is "Usage:  caisson run [OPTIONS] IMAGE [COMMAND] [ARG...]".
func usageLine(cmd *command, path []string) string {
	args := cmd.args
	if cmd.sub != nil {
		args = "COMMAND"
		if path == nil || cmd.group != nil {
			args = "[OPTIONS] COMMAND"
		}
	}
	return strings.TrimSpace("Usage:  " + commandLine(path) + " " + args)
}

func shortUsage(cmd *command, path []string) string {
	return fmt.Sprintf("%s\n\nRun '%s --help' for more information", usageLine(cmd, path), commandLine(path))
}

// helpFor is `caisson help VERB…`.
func (a *app) helpFor(root *command, args []string) error {
	cmd, path := root, []string(nil)
	for _, name := range args {
		sub := cmd.find(name)
		if sub == nil {
			return unknownCommand(cmd, path, name)
		}
		cmd, path = sub, append(path, sub.name)
	}
	return a.help(a.out, cmd, path)
}

func (a *app) help(w io.Writer, cmd *command, path []string) error {
	width := helpWidth
	if _, cols, ok := a.outTTY.Size(); ok && cols > 40 {
		width = int(cols)
	}
	fmt.Fprintf(w, "%s\n\n%s\n", usageLine(cmd, path), cmd.short)
	if cmd.long != "" {
		fmt.Fprintf(w, "\n%s\n", cmd.long)
	}
	if len(cmd.sameAs) > 0 {
		fmt.Fprintf(w, "\nAliases:\n  %s\n", strings.Join(aliasNames(cmd, path), ", "))
	}
	if len(cmd.examples) > 0 {
		fmt.Fprint(w, "\nExamples:\n", exampleLines(cmd))
	}
	if cmd.sub != nil {
		helpGroups(w, cmd, path)
	}
	if fl := flagsOf(a, cmd, path); fl.HasAvailableFlags() {
		title := "Options"
		if path == nil {
			title = "Global Options"
		}
		fmt.Fprintf(w, "\n%s:\n%s", title, fl.FlagUsagesWrapped(width))
	}
	if cmd.sub != nil {
		fmt.Fprintf(w, "\nRun '%s COMMAND --help' for more information on a command.\n", commandLine(path))
	}
	return nil
}

// flagsOf builds a verb's flags for showing them.
func flagsOf(a *app, cmd *command, path []string) *pflag.FlagSet {
	f := newFlagSet("")
	switch {
	case path == nil:
		new(globals).register(f)
	case cmd.group != nil:
		cmd.group(&app{in: a.in, out: a.out, err: a.err}, f)
	case cmd.setup != nil:
		cmd.setup(&app{in: a.in, out: a.out, err: a.err}, f)
		addHelpFlag(f)
		f.Lookup("help").Hidden = true
	}
	return f
}

func aliasNames(cmd *command, path []string) []string {
	out := []string{commandLine(path)}
	for _, s := range cmd.sameAs {
		if s = "caisson " + s; s != out[0] {
			out = append(out, s)
		}
	}
	return out
}

// exampleLines aligns what each example does.
func exampleLines(cmd *command) string {
	var b strings.Builder
	for _, ex := range cmd.examples {
		line, what, _ := strings.Cut(ex, " # ")
		fmt.Fprintf(&b, "  # %s\n  caisson %s\n", what, line)
	}
	return b.String()
}

func helpGroups(w io.Writer, cmd *command, path []string) {
	if path != nil {
		helpList(w, "Commands", cmd.sub)
		return
	}
	var common, groups, rest []*command
	for _, s := range cmd.sub {
		switch {
		case s.sub != nil:
			groups = append(groups, s)
		case isCommon(s.name):
			common = append(common, s)
		default:
			rest = append(rest, s)
		}
	}
	helpList(w, "Common Commands", common)
	helpList(w, "Management Commands", groups)
	helpList(w, "Commands", rest)
}

func helpList(w io.Writer, title string, cmds []*command) {
	fmt.Fprintf(w, "\n%s:\n", title)
	for _, c := range cmds {
		if !c.hidden {
			fmt.Fprintf(w, "  %-11s %s\n", c.name, c.short)
		}
	}
}

// common are the verbs that a new user needs, in that order.
var common = []string{"run", "exec", "ps", "pull", "push", "images", "login", "logout", "search", "version", "info"}

func isCommon(name string) bool {
	for _, c := range common {
		if c == name {
			return true
		}
	}
	return false
}
