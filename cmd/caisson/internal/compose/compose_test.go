package compose

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caisson-engine/caisson/engine/client"
)

// chain is a project of three services, c on b on a, and d alone.
func chain() *Project {
	on := func(n string) map[string]Dependency { return map[string]Dependency{n: {Condition: Started}} }
	return &Project{Name: "p", Files: []string{"compose.yaml"}, Services: []Service{
		{Name: "a"}, {Name: "b", DependsOn: on("a")}, {Name: "c", DependsOn: on("b")}, {Name: "d"},
	}}
}

func names(list []*Service) string {
	var out []string
	for _, s := range list {
		out = append(out, s.Name)
	}
	return strings.Join(out, " ")
}

func TestSelect(t *testing.T) {
	for _, c := range []struct {
		names []string
		deps  bool
		want  string
	}{
		{nil, true, "a b c d"}, {[]string{"c"}, true, "a b c"}, {[]string{"c"}, false, "c"}, {[]string{"d", "a"}, true, "a d"},
	} {
		if got := names(chain().Select(c.names, c.deps)); got != c.want {
			t.Errorf("%v, deps %v: %q, want %q", c.names, c.deps, got, c.want)
		}
	}
	if err := chain().Check([]string{"a", "x"}); err == nil || !strings.Contains(err.Error(), "no such service: x") {
		t.Errorf("check: %v", err)
	}
}

func TestOrder(t *testing.T) {
	p := chain()
	for _, c := range []struct {
		reverse bool
		want    []string
	}{{false, []string{"a", "b", "c"}}, {true, []string{"c", "b", "a"}}} {
		var mu sync.Mutex
		var got []string
		err := inOrder(context.Background(), p.Select(nil, true), c.reverse, func(_ context.Context, s *Service) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, s.Name)
			return nil
		})
		if i := slices.Index(got, "d"); err != nil || len(got) != 4 || !slices.Equal(slices.Delete(got, i, i+1), c.want) {
			t.Errorf("reverse %v: %v, %v", c.reverse, got, err)
		}
	}
}

// What depends on a service that failed is not begun.
func TestOrderStopsAtFailure(t *testing.T) {
	failed := errors.New("failed")
	err := inOrder(context.Background(), chain().Select([]string{"c"}, true), false, func(_ context.Context, s *Service) error {
		if s.Name == "c" {
			t.Error("c was begun")
		}
		if s.Name == "b" {
			return failed
		}
		return nil
	})
	if !errors.Is(err, failed) {
		t.Errorf("error %v", err)
	}
}

// A project that is only a name is made of the containers that bear it.
func TestAdopt(t *testing.T) {
	p := &Project{Name: "p"}
	made := func(service, deps string) *Container {
		return &Container{Service: service, ContainerSummary: client.ContainerSummary{Labels: map[string]string{labelDependsOn: deps}}}
	}
	p.adopt([]*Container{made("web", "db:service_healthy:true,cache:service_started:false"), made("db", ""), made("web", "")})
	if len(p.Services) != 2 || p.Service("web").DependsOn["db"] != (Dependency{Condition: Healthy, Restart: true}) || len(p.Service("web").DependsOn) != 2 {
		t.Errorf("services: %+v", p.Services)
	}
}

// The references that a hash is of are replaced where they are keys' values, not
// where a user wrote the same text.
func TestHashFollowsReferences(t *testing.T) {
	r := &Runner{Project: chain()}
	c := r.creation(CreateOptions{})
	c.made["a"] = []*Container{{ContainerSummary: client.ContainerSummary{ID: "second"}, Number: 2}, {ContainerSummary: client.ContainerSummary{ID: "first"}, Number: 1}}
	s := &Service{Name: "b", Hash: "plain", Host: client.HostConfig{NetworkMode: "service:a", VolumesFrom: []string{"a:ro", "container:other"}}}
	s.Hashed = `{"labels":{"x":"\"network_mode\":\"service:a\""},"network_mode":"service:a"}`
	h, hash, err := c.resolve(s)
	if err != nil || h.NetworkMode != "container:first" || !slices.Equal(h.VolumesFrom, []string{"first:ro", "other"}) || hash == "plain" {
		t.Errorf("%+v %q %v", h, hash, err)
	}
	again := *s
	c.made["a"][1].ID = "third"
	if _, other, _ := c.resolve(&again); other == hash {
		t.Error("another container, the same hash")
	}
	s.Host.NetworkMode = "service:nosuch"
	if _, _, err := c.resolve(s); err == nil {
		t.Error("a reference to nothing was resolved")
	}
}

// Output comes in whole lines, each with its origin, whatever the chunks.
func TestPrinter(t *testing.T) {
	var out bytes.Buffer
	p := &Printer{Out: &out}
	p.Add("web-1", "database-1")
	a, b := &liner{p: p, w: &out, name: "web-1"}, &liner{p: p, w: &out, name: "database-1"}
	for _, s := range []string{"fi", "rst\r\nsec", "ond\nrest"} {
		if _, err := a.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
		if s == "fi" {
			if _, err := b.Write([]byte("between\n")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := a.flush(); err != nil {
		t.Fatal(err)
	}
	want := "database-1 | between\nweb-1      | first\nweb-1      | second\nweb-1      | rest\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	long := &liner{p: p, w: &out, name: "web-1"}
	if _, err := long.Write(bytes.Repeat([]byte("x"), 3*maxLine)); err != nil || len(long.buf) >= maxLine {
		t.Errorf("a line without an end is kept: %d bytes, %v", len(long.buf), err)
	}
}

// Contents are on a tmpfs and this user's alone, keep their inode, and go.
func TestContents(t *testing.T) {
	p := &Project{Name: strings.ToLower(t.Name())}
	if _, err := p.contentsDir(); err != nil {
		t.Skipf("no tmpfs here: %v", err)
	}
	defer p.removeContents()
	s := &Service{Name: "s", Contents: []Content{{Target: "/run/secrets/x", Data: []byte("one"), Mode: 0o440}}}
	m, err := p.writeContents(s)
	if err != nil || len(m) != 1 || !m[0].ReadOnly || !onTmpfs(m[0].Source) {
		t.Fatalf("%+v %v", m, err)
	}
	checkContent(t, m[0].Source, "one")
	s.Contents[0].Data = []byte("other")
	if _, err := p.writeContents(s); err != nil {
		t.Fatal(err)
	}
	checkContent(t, m[0].Source, "other")
	s.Contents[0].Missing = "not set"
	if _, err := p.writeContents(s); err == nil || !strings.Contains(err.Error(), "not set") {
		t.Errorf("a missing secret: %v", err)
	}
}

func checkContent(t *testing.T, path, want string) {
	t.Helper()
	b, err := os.ReadFile(path)
	fi, serr := os.Stat(path)
	if err != nil || serr != nil || string(b) != want || fi.Mode().Perm() != 0o440 {
		t.Errorf("%s: %q %v %v %v", path, b, fi.Mode(), err, serr)
	}
}
