package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// action does what a verb is for. args are what remained after the flags.
type action func(ctx context.Context, args []string) error

// command is a verb or a group of verbs: a row of a table. Help, man pages and
// completion are derived from it.
type command struct {
	name    string
	aliases []string
	args    string // "[OPTIONS] CONTAINER [CONTAINER...]"
	short   string // one line
	long    string // more, if there is more to say
	// examples are command lines without the leading "caisson", each with what
	// it does after " # ".
	examples []string
	min, max int // how many arguments; max -1 is any number
	// flat verbs stop reading flags at the first argument: what follows is the
	// container's command.
	flat   bool
	hidden bool
	// sameAs are other names of the same verb, shown in its help.
	sameAs []string
	// setup registers flags and returns the action that reads them.
	setup func(a *app, f *pflag.FlagSet) action
	// complete proposes values of the argument after args, or flag values.
	complete completer
	flags    map[string]completer

	sub []*command // of a group
	// group registers a group's own flags, which come before the verb.
	group func(a *app, f *pflag.FlagSet)
}

// find returns the sub-command called name.
func (c *command) find(name string) *command {
	for _, s := range c.sub {
		if s.name == name {
			return s
		}
		for _, al := range s.aliases {
			if al == name {
				return s
			}
		}
	}
	return nil
}

// execute runs a whole command line.
func (a *app) execute(ctx context.Context, args []string) error {
	root := commands()
	a.root = root
	f := newFlagSet("caisson")
	f.SetInterspersed(false)
	a.global.register(f)
	if err := f.Parse(args); err != nil {
		return usageError(root, nil, err)
	}
	a.global.tlsVerifySet = f.Changed("tlsverify")
	if a.global.version {
		fmt.Fprintf(a.out, "Caisson version %s\n", version)
		return nil
	}
	return a.dispatch(ctx, root, nil, f.Args())
}

// dispatch finds the verb that args start with, below cmd at path, and runs it.
func (a *app) dispatch(ctx context.Context, cmd *command, path, args []string) error {
	if cmd.sub == nil {
		return a.runVerb(ctx, cmd, path, args)
	}
	if cmd.group != nil {
		f := newFlagSet("")
		f.SetInterspersed(false)
		cmd.group(a, f)
		help := addHelpFlag(f)
		if err := f.Parse(args); err != nil {
			return usageError(cmd, path, err)
		}
		if args = f.Args(); *help {
			args = nil
		}
	}
	if len(args) == 0 || args[0] == "--help" || args[0] == "-h" || a.global.help {
		return a.help(a.out, cmd, path)
	}
	if args[0] == "help" && path == nil {
		return a.helpFor(cmd, args[1:])
	}
	sub := cmd.find(args[0])
	if sub == nil {
		return unknownCommand(cmd, path, args[0])
	}
	return a.dispatch(ctx, sub, append(path, sub.name), args[1:])
}

func (a *app) runVerb(ctx context.Context, cmd *command, path, args []string) error {
	f := newFlagSet(strings.Join(path, " "))
	f.SetInterspersed(!cmd.flat)
	act := cmd.setup(a, f)
	help := addHelpFlag(f)
	if err := f.Parse(args); err != nil {
		return usageError(cmd, path, err)
	}
	if *help || a.global.help {
		return a.help(a.out, cmd, path)
	}
	if err := checkArgs(cmd, path, f.NArg()); err != nil {
		return err
	}
	return act(ctx, f.Args())
}

func newFlagSet(name string) *pflag.FlagSet {
	f := pflag.NewFlagSet(name, pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	f.SortFlags = true
	return f
}

func addHelpFlag(f *pflag.FlagSet) *bool { return f.Bool("help", false, "Print usage") }

// checkArgs says what Docker's command line says of a wrong number of arguments.
func checkArgs(cmd *command, path []string, n int) error {
	name := commandLine(path)
	var want string
	switch {
	case n >= cmd.min && (cmd.max < 0 || n <= cmd.max):
		return nil
	case cmd.max == 0:
		want = fmt.Sprintf("'%s' accepts no arguments", name)
	case cmd.min == cmd.max:
		want = fmt.Sprintf("'%s' requires %d %s", name, cmd.min, plural("argument", cmd.min))
	case cmd.max < 0 || n < cmd.min:
		want = fmt.Sprintf("'%s' requires at least %d %s", name, cmd.min, plural("argument", cmd.min))
	default:
		want = fmt.Sprintf("'%s' requires at most %d %s", name, cmd.max, plural("argument", cmd.max))
	}
	return &statusError{code: 1, err: fmt.Errorf("caisson: %s\n\n%s", want, shortUsage(cmd, path))}
}

func plural(word string, n int) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

func usageError(cmd *command, path []string, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		err = errors.New("unknown shorthand flag: 'h' in -h")
	}
	return &statusError{code: exitUsage, err: fmt.Errorf("caisson: %w\n\n%s", err, shortUsage(cmd, path))}
}

func unknownCommand(cmd *command, path []string, name string) error {
	msg := fmt.Sprintf("caisson: unknown command: %s %s", commandLine(path), name)
	if s := suggest(cmd, name); s != "" {
		msg += fmt.Sprintf("\n\nDid you mean '%s %s'?", commandLine(path), s)
	}
	return &statusError{code: 1, err: fmt.Errorf("%s\n\nRun '%s --help' for more information", msg, commandLine(path))}
}

// suggest finds the sub-command whose name is nearest to a mistyped one.
func suggest(cmd *command, name string) string {
	best, dist := "", 3
	for _, s := range cmd.sub {
		if s.hidden {
			continue
		}
		for _, n := range append([]string{s.name}, s.aliases...) {
			if d := distance(n, name); d < dist && d < len(n) {
				best, dist = s.name, d
			}
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := prev
			if a[i] != b[j] {
				cost++
			}
			prev = row[j+1]
			row[j+1] = min(cost, prev+1, row[j]+1)
		}
	}
	return row[len(b)]
}

func commandLine(path []string) string {
	return strings.Join(append([]string{"caisson"}, path...), " ")
}
