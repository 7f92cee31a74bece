package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCompleteLine(t *testing.T) {
	m := newMock(t, fixture())
	for line, want := range map[string]string{ // words split at spaces; a trailing space begins a new word
		"ru":                        "run",
		"container st":              "start stats stop",
		"stop ":                     "web",
		"stop web ":                 "",
		"rm ":                       "web job",
		"rm a1":                     "a1a1a1a1a1a1",
		"start ":                    "job",
		"logs w":                    "web",
		"logs web ":                 "",
		"run ngi":                   "nginx:1.27 nginx:latest nginx",
		"run --rm -it ngi":          "nginx:1.27 nginx:latest nginx",
		"run -e A=1 --name x ngi":   "nginx:1.27 nginx:latest nginx",
		"run -v /a:/b -p 80:80 ngi": "nginx:1.27 nginx:latest nginx",
		"run nginx ":                "",
		"run nginx --":              "",
		"run --isol":                "--isolation",
		"run --isolation ":          "default process vm hyperv",
		"run --isolation=p":         "--isolation=process",
		"run --network con":         "container: :nospace",
		"run --network container:w": "container:web",
		"run --pull ":               "always missing never",
		"run --cap-add NET_A":       "NET_ADMIN",
		"run --env-file ":           ":files",
		"kill -s SIGU":              "SIGUSR1 SIGUSR2",
		"kill --signal TE":          "TERM",
		"ps --filter st":            "status= :nospace",
		"inspect --type ":           "container image network volume",
		"image rm ngi":              "nginx:1.27 nginx:latest nginx",
		"cp we":                     ":files :nospace web:",
		"load --input ":             ":files",
		"completion ":               "bash zsh fish powershell",
		"context use ":              "default",
		"nosuch ":                   "",
		"--cont":                    "--context",
		"--context ":                "default",
		"--tlsverify ps --a":        "--all",
		"update --restart on":       "on-failure",
		"exec -it w":                "web",
		"exec web -":                "",
	} {
		words := strings.Split(line, " ")
		r := m.caisson(t, "", append([]string{"__complete", "--"}, words...)...)
		var got []string
		for l := range strings.Lines(r.out) {
			v, _, _ := strings.Cut(strings.TrimSpace(l), "\t")
			got = append(got, v)
		}
		w := strings.Fields(want)
		slices.Sort(got)
		slices.Sort(w)
		if !slices.Equal(got, w) || r.code != 0 {
			t.Errorf("%q: %q, want %q", line, got, w)
		}
	}
}

func TestCompletionOfAnUnreachableEngineIsQuiet(t *testing.T) {
	r := runApp(t, "", "-H", "unix:///nosuch/socket", "__complete", "--", "stop", "")
	if r != (outcome{}) {
		t.Errorf("%+v", r)
	}
}

// build makes the program, for tests that need it as one.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "caisson")
	cmd := exec.Command("go", "build", "-o", bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

func TestBashCompletion(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("needs bash: " + err.Error())
	}
	m := newMock(t, fixture())
	bin := build(t)
	work := t.TempDir()
	for _, f := range []string{"archive.tar", "other.txt"} {
		os.WriteFile(filepath.Join(work, f), nil, 0o644)
	}
	for line, want := range map[string]string{
		"caisson ru":                           "run",
		"caisson stop ":                        "web",
		"caisson run ngi":                      "nginx:1.27 nginx:latest nginx",
		"caisson run nginx:1":                  "1.27", // bash replaces what follows the colon
		"caisson run --isolation=p":            "process",
		"caisson run --network container:w":    "web",
		"caisson run --isolation ":             "default process vm hyperv",
		"caisson run -p 80:80 -e A=b:c --isol": "--isolation",
		"caisson load -i arch":                 "archive.tar",
		"caisson cp oth":                       "other.txt",
		"caisson cp w":                         "web:",
		"caisson completion po":                "powershell",
	} {
		// What readline does: it splits the line at COMP_WORDBREAKS, whose : and =
		// are words of their own.
		script := `eval "$(` + bin + ` completion bash)"
compopt() { :; }
COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDBREAKS=$' \t\n"\'><=;|&(:'
spaced=$(sed 's/\([:=]\)/ \1 /g' <<<"$1")
read -ra COMP_WORDS <<<"$spaced"
[[ $1 == *' ' ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMP_WORDS[0]=` + bin + `
_caisson
printf '%s\n' "${COMPREPLY[@]}"`
		cmd := exec.Command(bash, "--norc", "-c", script, "bash", line)
		cmd.Dir = work
		cmd.Env = append(os.Environ(), "CAISSON_HOST="+m.host, "HOME="+work)
		out, err := cmd.CombinedOutput()
		got, w := strings.Fields(string(out)), strings.Fields(want)
		slices.Sort(got)
		slices.Sort(w)
		if err != nil || !slices.Equal(got, w) {
			t.Errorf("%q: %q %v, want %q", line, got, err, w)
		}
	}
}

// Every other shell's script is at least one that the shell can read.
func TestCompletionScriptsParse(t *testing.T) {
	for shell, args := range map[string][]string{"zsh": {"-n"}, "fish": {"--no-execute"}, "bash": {"-n"}} {
		file := filepath.Join(t.TempDir(), shell)
		r := runApp(t, "", "completion", shell)
		if r.code != 0 || !strings.Contains(r.out, "__complete") {
			t.Fatalf("%s: %+v", shell, r)
		}
		os.WriteFile(file, []byte(r.out), 0o644)
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("%s is not here to check its script", shell)
			continue
		}
		if out, err := exec.Command(path, append(args, file)...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", shell, err, out)
		}
	}
	if r := runApp(t, "", "completion", "tcsh"); r.code != 1 || !strings.Contains(r.err, "bash, zsh, fish and powershell") {
		t.Errorf("%+v", r)
	}
}
