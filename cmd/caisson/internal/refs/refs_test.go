package refs

import "testing"

func TestParse(t *testing.T) {
	for in, want := range map[string][4]string{ // name, familiar, version, string
		"alpine":                     {"docker.io/library/alpine", "alpine", "latest", "alpine"},
		"alpine:3":                   {"docker.io/library/alpine", "alpine", "3", "alpine:3"},
		"docker.io/alpine":           {"docker.io/library/alpine", "alpine", "latest", "alpine"},
		"index.docker.io/a/b:c":      {"docker.io/a/b", "a/b", "c", "a/b:c"},
		"caisson/hello":              {"docker.io/caisson/hello", "caisson/hello", "latest", "caisson/hello"},
		"localhost/x":                {"localhost/x", "localhost/x", "latest", "localhost/x"},
		"localhost:5000/x/y:z":       {"localhost:5000/x/y", "localhost:5000/x/y", "z", "localhost:5000/x/y:z"},
		"r.example.com/a@sha256:0a":  {"r.example.com/a", "r.example.com/a", "sha256:0a", "r.example.com/a@sha256:0a"},
		"r.example.com/a:t@sha256:b": {"r.example.com/a", "r.example.com/a", "sha256:b", "r.example.com/a:t@sha256:b"},
		"[::1]:5000/x":               {"[::1]:5000/x", "[::1]:5000/x", "latest", "[::1]:5000/x"},
	} {
		r := Parse(in)
		if got := [4]string{r.Name(), r.Familiar(), r.Version(), r.String()}; got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestIsID(t *testing.T) {
	id := "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for in, want := range map[string]bool{id: true, "sha256:" + id: true, id[1:]: false, "alpine": false, "": false} {
		if IsID(in) != want {
			t.Errorf("IsID(%q) is not %v", in, want)
		}
	}
}
