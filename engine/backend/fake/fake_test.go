package fake_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/backend/backendtest"
	"github.com/caisson-engine/caisson/engine/backend/fake"
)

// fixture is what the suite needs to know of a fake, without the backend.
func fixture() backendtest.Fixture {
	process := func(_ bool, args ...string) []byte {
		data, err := json.Marshal(map[string]any{"args": args})
		if err != nil {
			panic(err)
		}
		return data
	}
	return backendtest.Fixture{
		Container: func(_ *testing.T, id string, terminal bool, args ...string) *backendpb.Container {
			return &backendpb.Container{Id: id, Spec: fmt.Appendf(nil, `{"process":%s}`, process(terminal, args...))}
		},
		Process:       process,
		NotExecutable: "/bin/noexec",
		TerminalSize:  []string{"tty"},
		Flood:         func(n int) []string { return []string{"flood", fmt.Sprint(n)} },
		Without:       map[string]string{"read": "the fake's shell has no read"},
	}
}

func open(t *testing.T, o fake.Options) *fake.Backend {
	t.Helper()
	b, err := fake.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Shutdown() })
	return b
}

// contract runs the suite on fakes with the options given, whose process dies by
// being opened again from its state.
func contract(t *testing.T, o fake.Options) {
	backendtest.Run(t, func(t *testing.T) backendtest.Fixture {
		o := o
		o.StateFile = filepath.Join(t.TempDir(), "state.json")
		b := open(t, o)
		f := fixture()
		f.Backend = b
		f.Crash = func(t *testing.T, meanwhile func()) backend.Backend {
			b.Shutdown()
			meanwhile()
			b = open(t, o)
			return b
		}
		return f
	})
}

func TestContract(t *testing.T) { contract(t, fake.Options{}) }

func TestContractWithoutCapabilities(t *testing.T) {
	contract(t, fake.Options{Without: []string{backend.CapPause, backend.CapProcesses, backend.CapFiles}})
}
