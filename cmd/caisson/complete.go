package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/contexts"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/engine/client"
)

// completionTime bounds how long a person waits for names after pressing Tab.
const completionTime = 2 * time.Second

// completer proposes values for the word after args, which begins with prefix.
// A value may carry a description after a tab.
type completer func(ctx context.Context, a *app, args []string, prefix string) []string

// directives tell the shell's script what to do beside the proposed values.
const (
	directiveFiles   = ":files"   // propose files too
	directiveNoSpace = ":nospace" // the value goes on
)

// completeCommand answers the shells' scripts: the words of the command line so
// far, the last one unfinished, to one proposal a line.
var completeCommand = command{
	name:   "__complete",
	args:   "WORD…",
	short:  "Propose how to complete a command line",
	hidden: true,
	max:    -1,
	flat:   true,
	setup: func(a *app, _ *pflag.FlagSet) action {
		return func(ctx context.Context, words []string) error {
			ctx, cancel := context.WithTimeout(ctx, completionTime)
			defer cancel()
			if len(words) > 0 && words[0] == "--" {
				words = words[1:]
			}
			for _, p := range a.completeLine(ctx, words) {
				fmt.Fprintln(a.out, p)
			}
			return nil
		}
	},
}

// completeLine proposes values of the last of words.
func (a *app) completeLine(ctx context.Context, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	words, prefix := words[:len(words)-1], words[len(words)-1]
	cmd, f := a.root, newFlagSet("")
	given := a.global
	a.global.register(f) // which sets the defaults
	a.global = given
	var args []string // of the verb
	for i := 0; i < len(words); i++ {
		w := words[i]
		if w == "--" && cmd.sub == nil {
			args = append(args, words[i+1:]...)
			break
		}
		if strings.HasPrefix(w, "-") && w != "-" && (len(args) == 0 || !cmd.flat) {
			flag, takes := valueFlag(f, w)
			if !takes {
				setFlag(f, w)
				continue
			}
			if i+1 == len(words) {
				return a.flagValues(ctx, cmd, flag, args, prefix)
			}
			i++
			if cmd.sub != nil {
				_ = f.Set(flag, words[i]) // it says which engine to ask
			}
			continue
		}
		if cmd.sub == nil {
			args = append(args, w)
			continue
		}
		sub := cmd.find(w)
		if sub == nil {
			return nil
		}
		switch cmd = sub; {
		case cmd.sub == nil:
			f = newFlagSet("")
			cmd.setup(a, f)
			addHelpFlag(f)
		case cmd.group != nil:
			f = newFlagSet("")
			cmd.group(a, f)
		}
	}
	switch {
	case strings.HasPrefix(prefix, "--") && strings.Contains(prefix, "=") && (len(args) == 0 || !cmd.flat):
		name, val, _ := strings.Cut(prefix, "=")
		var out []string
		for _, v := range a.flagValues(ctx, cmd, strings.TrimLeft(name, "-"), args, val) {
			if !strings.HasPrefix(v, ":") {
				v = name + "=" + v
			}
			out = append(out, v)
		}
		return out
	case strings.HasPrefix(prefix, "-") && (len(args) == 0 || !cmd.flat):
		return flagNames(f, prefix)
	case cmd.sub != nil:
		return verbNames(cmd, prefix)
	case cmd.complete == nil || cmd.max >= 0 && len(args) >= cmd.max:
		return nil
	}
	return matching(cmd.complete(ctx, a, args, prefix), prefix)
}

// setFlag applies -H=… and --host=…, which say which engine to ask.
func setFlag(f *pflag.FlagSet, w string) {
	if name, val, ok := strings.Cut(strings.TrimLeft(w, "-"), "="); ok && f.Lookup(name) != nil {
		_ = f.Set(name, val) // a wrong one is reported when the line is run
	}
}

// valueFlag says whether the word is a flag whose value is the next word.
func valueFlag(f *pflag.FlagSet, w string) (name string, takes bool) {
	if strings.Contains(w, "=") {
		return "", false
	}
	var fl *pflag.Flag
	if name, ok := strings.CutPrefix(w, "--"); ok {
		fl = f.Lookup(name)
	} else {
		// Of -itu only the last can take the next word.
		fl = f.ShorthandLookup(w[len(w)-1:])
		for _, c := range w[1 : len(w)-1] {
			if s := f.ShorthandLookup(string(c)); s == nil || s.NoOptDefVal == "" {
				return "", false // its value is the rest of this word
			}
		}
	}
	if fl == nil || fl.NoOptDefVal != "" {
		return "", false
	}
	return fl.Name, true
}

func (a *app) flagValues(ctx context.Context, cmd *command, flag string, args []string, prefix string) []string {
	if c := cmd.flags[flag]; c != nil {
		return matching(c(ctx, a, args, prefix), prefix)
	}
	if c := globalCompletions[flag]; c != nil && cmd.sub != nil {
		return matching(c(ctx, a, args, prefix), prefix)
	}
	if fileFlags[flag] {
		return []string{directiveFiles}
	}
	return nil
}

// fileFlags take a path on this host.
var fileFlags = map[string]bool{
	"env-file": true, "file": true, "project-directory": true, "label-file": true, "cidfile": true, "output": true, "input": true, "volume": true, "config": true,
	"tlscacert": true, "tlscert": true, "tlskey": true, "device": true,
}

var globalCompletions = map[string]completer{
	"context":   completeContexts,
	"host":      completeWords("unix://", "tcp://", "npipe://"),
	"log-level": completeWords("debug", "info", "warn", "error", "fatal"),
}

// createCompletions are the flags of run and create that have known values.
var createCompletions = map[string]completer{
	"attach":       completeWords("stdin", "stdout", "stderr"),
	"cap-add":      completeCapabilities,
	"cap-drop":     completeCapabilities,
	"cgroupns":     completeWords("host", "private"),
	"ipc":          completeMode("none", "host", "private", "shareable"),
	"isolation":    completeWords("default", "process", "vm", "hyperv"),
	"log-driver":   completeWords("json-file", "local", "none"),
	"network":      completeNetworkMode,
	"net":          completeNetworkMode,
	"pid":          completeMode("host"),
	"platform":     completePlatforms,
	"pull":         completeWords("always", "missing", "never"),
	"restart":      completeWords("no", "always", "on-failure", "unless-stopped"),
	"runtime":      completeRuntimes,
	"security-opt": completeWords("no-new-privileges", "seccomp=unconfined", "seccomp=builtin", "systempaths=unconfined", "apparmor=", "label="),
	"stop-signal":  completeSignals,
	"ulimit":       completeWords("as=", "core=", "cpu=", "data=", "fsize=", "locks=", "memlock=", "msgqueue=", "nice=", "nofile=", "nproc=", "rss=", "rtprio=", "rttime=", "sigpending=", "stack="),
	"userns":       completeWords("host"),
	"uts":          completeWords("host"),
	"volumes-from": completeContainers,
}

func verbNames(cmd *command, prefix string) []string {
	var out []string
	for _, s := range cmd.sub {
		if !s.hidden && strings.HasPrefix(s.name, prefix) {
			out = append(out, s.name+"\t"+s.short)
		}
	}
	return out
}

func flagNames(f *pflag.FlagSet, prefix string) []string {
	var out []string
	f.VisitAll(func(fl *pflag.Flag) {
		if n := "--" + fl.Name; !fl.Hidden && strings.HasPrefix(n, prefix) {
			usage, _, _ := strings.Cut(fl.Usage, "\n")
			out = append(out, n+"\t"+usage)
		}
	})
	return out
}

func matching(values []string, prefix string) []string {
	var out []string
	for _, v := range values {
		if strings.HasPrefix(v, prefix) || strings.HasPrefix(v, ":") {
			out = append(out, v)
		}
	}
	return out
}

// completeFirst completes the first argument only.
func completeFirst(c completer) completer {
	return func(ctx context.Context, a *app, args []string, prefix string) []string {
		if len(args) > 0 {
			return nil
		}
		return c(ctx, a, args, prefix)
	}
}

// completeWords proposes fixed values; one that ends in = goes on.
func completeWords(words ...string) completer {
	return func(_ context.Context, _ *app, _ []string, prefix string) []string {
		out := matching(words, prefix)
		if len(out) == 1 && strings.HasSuffix(out[0], "=") || len(out) == 1 && strings.HasSuffix(out[0], "://") {
			out = append(out, directiveNoSpace)
		}
		return out
	}
}

// completeMode proposes fixed values and container:NAME.
func completeMode(words ...string) completer {
	return func(ctx context.Context, a *app, args []string, prefix string) []string {
		if _, name, ok := strings.Cut(prefix, "container:"); ok {
			var out []string
			for _, n := range matching(completeContainers(ctx, a, nil, name), name) {
				out = append(out, "container:"+n)
			}
			return out
		}
		return append(matching(append(words, "container:"), prefix), directiveNoSpace)
	}
}

// completeNetworkMode proposes the engine's networks and container:NAME.
func completeNetworkMode(ctx context.Context, a *app, args []string, prefix string) []string {
	return completeMode(completeNetworks(ctx, a, nil, prefix)...)(ctx, a, args, prefix)
}

func completeNetworks(ctx context.Context, a *app, _ []string, _ string) []string {
	api, err := a.client()
	if err != nil {
		return nil
	}
	list, err := api.Networks(ctx, nil)
	if err != nil {
		return nil
	}
	var out []string
	for _, n := range list {
		out = append(out, n.Name)
	}
	return out
}

func completePlatforms(context.Context, *app, []string, string) []string {
	return []string{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/ppc64le", "linux/riscv64", "linux/s390x", "windows/amd64"}
}

func completeSignals(_ context.Context, _ *app, _ []string, prefix string) []string {
	signals := []string{"HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM", "CONT", "STOP", "WINCH"}
	if strings.HasPrefix(prefix, "SIG") {
		for i := range signals {
			signals[i] = "SIG" + signals[i]
		}
	}
	return signals
}

func completeCapabilities(context.Context, *app, []string, string) []string {
	return []string{
		"ALL", "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "CHOWN",
		"DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE", "LINUX_IMMUTABLE",
		"MAC_ADMIN", "MAC_OVERRIDE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW", "PERFMON",
		"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT", "SYS_MODULE", "SYS_NICE",
		"SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "WAKE_ALARM",
	}
}

func completeContexts(_ context.Context, a *app, _ []string, _ string) []string {
	out := []string{contexts.Default}
	list, _ := a.contexts().List()
	for _, c := range list {
		out = append(out, c.Name+"\t"+c.Description)
	}
	return out
}

// containerNames makes a completer of those containers that pick accepts.
func containerNames(all bool, pick func(client.ContainerSummary) bool) completer {
	return func(ctx context.Context, a *app, args []string, prefix string) []string {
		api, err := a.client()
		if err != nil {
			return nil
		}
		list, err := api.List(ctx, client.ListOptions{All: all})
		if err != nil {
			return nil
		}
		given := map[string]bool{}
		for _, g := range args {
			given[g] = true
		}
		var out []string
		for _, c := range list {
			name := names(c.Names, true)
			if given[name] || !pick(c) {
				continue
			}
			out = append(out, name+"\t"+c.Image+", "+c.Status)
			// Ids are proposed to those who began to type one.
			if prefix != "" && strings.HasPrefix(c.ID, prefix) {
				out = append(out, format.ShortID(c.ID)+"\t"+name)
			}
		}
		return out
	}
}

func anyContainer(client.ContainerSummary) bool { return true }

func completeContainers(ctx context.Context, a *app, args []string, prefix string) []string {
	return containerNames(true, anyContainer)(ctx, a, args, prefix)
}

func completeRunning(ctx context.Context, a *app, args []string, prefix string) []string {
	return containerNames(false, anyContainer)(ctx, a, args, prefix)
}

func completeStopped(ctx context.Context, a *app, args []string, prefix string) []string {
	return containerNames(true, func(c client.ContainerSummary) bool { return c.State != "running" })(ctx, a, args, prefix)
}

func completeImages(ctx context.Context, a *app, args []string, prefix string) []string {
	api, err := a.client()
	if err != nil {
		return nil
	}
	list, err := api.Images(ctx, client.ImageListOptions{})
	if err != nil {
		return nil
	}
	var out []string
	for _, img := range list {
		for _, t := range img.RepoTags {
			if strings.HasPrefix(t, none) {
				continue
			}
			out = append(out, t)
			// The tag that is meant when none is given need not be typed.
			if short, ok := strings.CutSuffix(t, ":latest"); ok {
				out = append(out, short)
			}
		}
		if id := format.ShortID(img.ID); prefix != "" && strings.HasPrefix(id, prefix) {
			out = append(out, id)
		}
	}
	return out
}

func completeObjects(ctx context.Context, a *app, args []string, prefix string) []string {
	return append(completeContainers(ctx, a, args, prefix), completeImages(ctx, a, args, prefix)...)
}

func completeRuntimes(ctx context.Context, a *app, _ []string, _ string) []string {
	api, err := a.client()
	if err != nil {
		return nil
	}
	info, _, err := api.Info(ctx)
	if err != nil {
		return nil
	}
	var out []string
	for n := range info.Runtimes {
		out = append(out, n)
	}
	return out
}
