package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// walk visits every command with its path.
func walk(cmd *command, path []string, f func(*command, []string)) {
	f(cmd, path)
	for _, s := range cmd.sub {
		walk(s, append(path[:len(path):len(path)], s.name), f)
	}
}

// Every verb has a purpose, a usage that fits its arguments, and one to four
// examples that its own flags accept.
func TestEveryVerbTeaches(t *testing.T) {
	seen := map[string]bool{}
	walk(commands(), nil, func(c *command, path []string) {
		name := strings.Join(path, " ")
		if seen[name] {
			t.Errorf("%s is there twice", name)
		}
		seen[name] = true
		if c.short == "" || strings.HasSuffix(c.short, ".") {
			t.Errorf("%s: purpose %q", name, c.short)
		}
		if c.sub != nil || c.hidden {
			return
		}
		if n := len(c.examples); n < 1 || n > 4 {
			t.Errorf("%s has %d examples", name, n)
		}
		if c.max >= 0 && c.max < c.min {
			t.Errorf("%s takes %d to %d arguments", name, c.min, c.max)
		}
		for _, ex := range c.examples {
			line, what, ok := strings.Cut(ex, " # ")
			if !ok || what == "" {
				t.Errorf("%s: example %q does not say what it does", name, ex)
			}
			if strings.ContainsAny(line, "|<>$`") {
				continue // the shell's part of it is not ours to read
			}
			words := splitWords(strings.ReplaceAll(line, `"`, "'"))
			for _, p := range path {
				if len(words) > 0 && words[0] == p {
					words = words[1:]
				}
			}
			if len(words) > 0 && words[0] == c.name {
				words = words[1:]
			}
			for i, w := range words {
				// An alias in a group: the example is the top verb's.
				if i == 0 && (w == "ps" || w == "images" || w == "rmi") {
					words = words[1:]
				}
			}
			f := newFlagSet(name)
			f.SetInterspersed(!c.flat)
			c.setup(&app{}, f)
			if err := f.Parse(words); err != nil {
				t.Errorf("%s: example %q: %v", name, ex, err)
			}
		}
		if hasFlags := flagsOf(&app{}, c, path).HasAvailableFlags(); hasFlags != strings.Contains(c.args, "[OPTIONS]") {
			t.Errorf("%s: usage %q, flags: %v", name, c.args, hasFlags)
		}
	})
	for _, verb := range strings.Fields(`run exec ps pull push images login logout search version info attach commit cp create diff events
		export history import inspect kill load logs pause port rename restart rm rmi save start stats stop tag top unpause update wait`) {
		if !seen[verb] {
			t.Errorf("there is no %s", verb)
		}
	}
}

// The flags of run and create are Docker's, name by name.
func TestFlagsAreDockers(t *testing.T) {
	docker := docker28(t)
	root := commands()
	for _, verb := range []string{
		"run", "create", "exec", "ps", "logs", "start", "stop", "restart", "kill", "rm", "rmi", "attach", "commit", "cp", "events", "export", "history",
		"images", "import", "info", "inspect", "load", "login", "pull", "push", "save", "search", "stats", "update", "version", "image prune", "container prune",
		"system df", "system prune", "image rm", "image inspect", "container inspect",
	} {
		out, err := exec.Command(docker, append(strings.Fields(verb), "--help")...).Output()
		if err != nil {
			t.Fatal(err)
		}
		cmd, path := root, []string(nil)
		for w := range strings.FieldsSeq(verb) {
			if cmd = cmd.find(w); cmd == nil {
				t.Fatalf("there is no %s", verb)
			}
			path = append(path, w)
		}
		f := flagsOf(&app{}, cmd, path)
		theirs := dockerFlags(string(out))
		for long, short := range theirs {
			fl := f.Lookup(long)
			switch {
			case fl == nil && !notOurs[long]:
				t.Errorf("%s: --%s is missing", verb, long)
			case fl != nil && fl.Shorthand != short:
				t.Errorf("%s: --%s is -%s in Docker, -%s here", verb, long, short, fl.Shorthand)
			}
		}
	}
}

// notOurs are flags of Docker's that we leave out.
var notOurs = map[string]bool{
	"tree": true, // experimental in Docker
}

// dockerFlags reads the long flags of a help text, with their short ones.
func dockerFlags(help string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(help) {
		rest := strings.TrimLeft(line, " ")
		indent := len(line) - len(rest)
		short := ""
		if indent == 2 && strings.HasPrefix(rest, "-") && !strings.HasPrefix(rest, "--") {
			short, rest = rest[1:2], strings.TrimPrefix(rest[2:], ", ")
		} else if indent != 6 {
			continue
		}
		if name, ok := strings.CutPrefix(rest, "--"); ok {
			name, _, _ = strings.Cut(strings.TrimSpace(name), " ")
			out[name] = short
		}
	}
	return out
}

func TestHelp(t *testing.T) {
	for args, wants := range map[string][]string{
		"--help":           {"Common Commands:", "Management Commands:", "Global Options:", "--host"},
		"":                 {"Common Commands:"},
		"help run":         {"Usage:  caisson run [OPTIONS] IMAGE", "Aliases:\n  caisson run, caisson container run", "--isolation", "# A shell"},
		"run --help":       {"Usage:  caisson run [OPTIONS] IMAGE"},
		"container --help": {"Usage:  caisson container COMMAND", "  prune "},
		"container ls --help": {
			"Usage:  caisson container ls [OPTIONS]", "caisson ps",
		},
	} {
		r := runApp(t, "", strings.Fields(args)...)
		for _, want := range wants {
			if r.code != 0 || !strings.Contains(r.out, want) {
				t.Errorf("%s: %q is missing:\n%s%s", args, want, r.out, r.err)
			}
		}
		for l := range strings.Lines(r.out) {
			if len(l) > 120 {
				t.Errorf("%s: a line of %d characters: %s", args, len(l), l)
			}
		}
	}
}

func TestMistakes(t *testing.T) {
	for args, want := range map[string]string{
		"rnu":            "caisson: unknown command: caisson rnu\n\nDid you mean 'caisson run'?",
		"container sart": "Did you mean 'caisson container start'?",
		"xyzzy":          "caisson: unknown command: caisson xyzzy\n\nRun 'caisson --help'",
		"--nosuch ps":    "unknown flag: --nosuch",
		"ps x":           "'caisson ps' accepts no arguments",
		"tag a":          "'caisson tag' requires 2 arguments",
		"images a b":     "'caisson images' requires at most 1 argument",
		"stop":           "'caisson stop' requires at least 1 argument",
		"-H x -c y ps":   "cannot specify both --host and --context",
		"-H ftp://x ps":  "unknown scheme",
		"-c nosuch ps":   `context "nosuch" not found`,
		"help nosuch":    "unknown command: caisson nosuch",
		"run -h":         "flag needs an argument: 'h' in -h",
	} {
		t.Setenv("HOME", t.TempDir())
		r := runApp(t, "", strings.Fields(args)...)
		if r.code == 0 || r.out != "" || !strings.Contains(r.err, want) {
			t.Errorf("%s: %+v, want %q", args, r, want)
		}
	}
}

func TestManPages(t *testing.T) {
	dir := t.TempDir()
	if r := runApp(t, "", "__man", dir); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	walk(commands(), nil, func(c *command, path []string) {
		page := filepath.Join(dir, strings.Join(append([]string{"caisson"}, path...), "-")+".1")
		b, err := os.ReadFile(page)
		if c.hidden {
			if err == nil {
				t.Errorf("%s is hidden and has a page", c.name)
			}
			return
		}
		if err != nil || !bytes.HasPrefix(b, []byte(".TH ")) {
			t.Errorf("%v: %.20q %v", path, b, err)
		}
		flagsOf(&app{}, c, path).VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !bytes.Contains(b, []byte(roff("--"+f.Name))) {
				t.Errorf("%s does not tell of --%s", page, f.Name)
			}
		})
	})
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Log("groff is not here to check the pages")
		return
	}
	pages, _ := filepath.Glob(filepath.Join(dir, "*.1"))
	out, err := exec.Command(groff, append([]string{"-man", "-ww", "-z", "-Tutf8"}, pages...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("%v\n%.2000s", err, out)
	}
}
