package policy

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

var (
	process = Backend{Name: "linux", OS: "linux", Levels: []Level{{"process", 100}}, Default: "process"}
	vm      = Backend{Name: "vm", OS: "linux", Levels: []Level{{"vm", 300}}, Default: "vm"}
	brokenV = Backend{Name: "vm", OS: "linux", Problem: "no /dev/kvm"}
)

func TestDecide(t *testing.T) {
	both := []Backend{process, vm}
	for _, c := range []struct {
		name, file, isolation, runtime string
		backends                       []Backend
		want                           string // backend/level rule
		is                             func(error) bool
		says                           string
	}{
		{name: "nobody says anything", backends: both, want: "linux/process "},
		{name: "the client asks for more", backends: both, isolation: "vm", want: "vm/vm "},
		{name: "hyperv is vm", backends: both, isolation: "HyperV", want: "vm/vm "},
		{name: "a level as runtime", backends: both, runtime: "vm", want: "vm/vm "},
		{name: "a backend as runtime", backends: both, runtime: "linux", want: "linux/process "},
		{name: "both, as inspect shows it", backends: both, runtime: "vm/vm", isolation: "hyperv", want: "vm/vm "},
		{name: "the default", file: "default_level: vm", backends: both, want: "vm/vm default_level"},
		{name: "the client over the default", file: "default_level: vm", backends: both, isolation: "process", want: "linux/process "},
		{name: "the minimum lifts", file: "minimum_level: vm", backends: both, want: "vm/vm minimum_level"},
		{name: "less than the minimum", file: "minimum_level: vm", backends: both, isolation: "process", is: errdefs.IsPermissionDenied, says: "rule minimum_level"},
		{name: "less by a backend's name", file: "minimum_level: vm", backends: both, runtime: "linux", is: errdefs.IsPermissionDenied, says: "minimum_level"},
		{name: "a minimum nobody has", file: "minimum_level: vm", backends: []Backend{process}, is: errdefs.IsFailedPrecondition, says: "no backend of this host offers"},
		{name: "no such level", backends: both, isolation: "moon", is: errdefs.IsInvalidArgument, says: "process (backend linux)"},
		{name: "no such runtime", backends: both, runtime: "runc", is: errdefs.IsInvalidArgument, says: "unknown or invalid runtime name: runc"},
		{name: "a level that is not there", backends: []Backend{process}, isolation: "vm", is: errdefs.IsInvalidArgument, says: `no backend offers isolation level "vm"`},
		{name: "a broken backend", backends: []Backend{process, brokenV}, isolation: "vm", is: errdefs.IsUnavailable, says: "no /dev/kvm"},
		{name: "two wishes", backends: both, isolation: "vm", runtime: "process", is: errdefs.IsInvalidArgument, says: "conflicting"},
		{name: "two wishes in one", backends: both, isolation: "process", runtime: "vm/vm", is: errdefs.IsInvalidArgument, says: "conflicting"},
		{name: "no backend", is: errdefs.IsInvalidArgument, says: "no working backend"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Parse([]byte(c.file))
			if err != nil {
				t.Fatal(err)
			}
			d, err := p.Decide(Input{OS: "linux", Isolation: c.isolation, Runtime: c.runtime, Backends: c.backends})
			if c.is != nil {
				if !c.is(err) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := d.Backend + "/" + d.Level + " " + d.Rule; got != c.want || d.Reason == "" || d.Strength == 0 {
				t.Errorf("got %+v, want %s", d, c.want)
			}
		})
	}
}

func TestDecideByOS(t *testing.T) {
	p := &Policy{}
	if _, err := p.Decide(Input{OS: "windows", Backends: []Backend{process}}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "windows") {
		t.Error(err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, file := range []string{
		"levels: vm", "default_level: [vm]", "a", "default_level: vm\n---\nminimum_level: vm", "\tx", strings.Repeat("#", maxFile+1),
	} {
		if _, err := Parse([]byte(file)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.20q: %v", file, err)
		}
	}
	for _, file := range []string{"", "# nothing\n", "default_level: hyperv\nminimum_level: default\n"} {
		p, err := Parse([]byte(file))
		if err != nil || p.MinimumLevel != "" || p.DefaultLevel == "hyperv" {
			t.Errorf("%q: %+v %v", file, p, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("default_level: vm\nminimum_level: process\n"))
	f.Add([]byte("a: &a [*a, *a]"))
	f.Add([]byte(tenancy + "others: {deny: no}\nshared_images: [x]\nrules: [{name: a, match: {uid: [7], image: x, label: k=v, requests: [privileged]}, level: vm, allow: {host_paths: ['/a:ro'], host_ports: [1-9]}, limits: {memory: 1g}, defaults: {cpus: 1.5}}]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := Parse(b); err == nil {
			p.Warnings()
			id, _ := p.Identify(uid7)
			_, _ = p.Decide(Input{Identity: id, Backends: []Backend{process, vm}, Names: []string{"docker.io/x:1"}, Asks: []Ask{{"host_paths", "/a"}}})
		}
	})
}
