package policy

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestRuntimes(t *testing.T) {
	p, err := Parse([]byte(`
runtimes:
  runsc:
    path: /usr/local/bin/runsc
    args: [--platform=systrap]
    level: sandbox
    strength: 200
    facts: {platform: systrap}
  crun: {path: /usr/bin/crun, level: process}
`))
	if err != nil {
		t.Fatal(err)
	}
	list := p.RuntimeList()
	if len(list) != 2 || list[0].Name != "crun" || list[0].Strength != 100 || list[1].Strength != 200 || list[1].Args[0] != "--platform=systrap" {
		t.Errorf("%+v", list)
	}
}

func TestRuntimeMistakes(t *testing.T) {
	for text, want := range map[string]string{
		`linux: {path: /r, level: x, strength: 5}`:                                     "is taken",
		`Runsc: {path: /r, level: x, strength: 5}`:                                     "small letters",
		`r: {path: runsc, level: x, strength: 5}`:                                      "absolute",
		`r: {path: /r, strength: 5}`:                                                   "level must be named",
		`r: {path: /r, level: x}`:                                                      "strength must be",
		`r: {path: /r, level: vm, strength: 900}`:                                      "has strength 300",
		`r: {path: /r, level: x, strength: 5000}`:                                      "strength must be",
		`{a: {path: /r, level: x, strength: 5}, b: {path: /r, level: x, strength: 6}}`: "has strength 5",
		`{a: {path: /r, level: x, strength: 5}, b: {path: /r, level: a, strength: 6}}`: "name of another",
		`r: {path: /r, level: x, strength: 5, stength: 6}`:                             "stength",
	} {
		_, err := Parse([]byte("runtimes:\n  " + text))
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
