package policy

import (
	"fmt"
	"strings"

	"github.com/docker/go-units"
	"gopkg.in/yaml.v3"
)

// List is a list of texts; one text stands for a list of one.
type List []string

// UnmarshalYAML reads either form.
func (l *List) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Tag != "!!null" {
		*l = List{n.Value}
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		return fmt.Errorf("line %d: want a text or a list of texts", n.Line)
	}
	out := List{}
	for _, c := range n.Content {
		if c.Kind != yaml.ScalarNode || c.Tag == "!!null" {
			return fmt.Errorf("line %d: want a text", c.Line)
		}
		out = append(out, c.Value)
	}
	*l = out
	return nil
}

// Bytes is an amount of memory or disk: a number with or without a unit, as 512m.
type Bytes int64

// UnmarshalYAML reads it.
func (b *Bytes) UnmarshalYAML(n *yaml.Node) error {
	v, err := units.RAMInBytes(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || v < 0 {
		return fmt.Errorf("line %d: want an amount such as 512m or 2g, not %q", n.Line, n.Value)
	}
	*b = Bytes(v)
	return nil
}

func (b Bytes) String() string {
	return units.CustomSize("%.4g%s", float64(b), 1024, []string{"", "k", "m", "g", "t", "p"})
}

// Deny is true, or a text for whoever is denied.
type Deny struct {
	Yes bool
	Why string
}

// UnmarshalYAML reads either form.
func (d *Deny) UnmarshalYAML(n *yaml.Node) error {
	switch {
	case n.Kind != yaml.ScalarNode:
		return fmt.Errorf("line %d: deny is true, false or a reason", n.Line)
	case n.Tag == "!!bool":
		return n.Decode(&d.Yes)
	case strings.TrimSpace(n.Value) == "" || n.Tag == "!!null":
		return fmt.Errorf("line %d: deny is true, false or a reason", n.Line)
	}
	d.Yes, d.Why = true, n.Value
	return nil
}

// glob tells whether a pattern matches: * stands for any characters, slashes
// included, ? for one.
func glob(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

func anyGlob(patterns []string, s string) bool {
	for _, p := range patterns {
		if glob(p, s) {
			return true
		}
	}
	return false
}

// FullName is an image's name in full, as registry/repository:tag: what Docker's
// clients leave out is filled in. An id stays as it is.
func FullName(ref string) string {
	if ref == "" || strings.HasPrefix(ref, "sha256:") {
		return ref
	}
	name, digest, _ := strings.Cut(ref, "@")
	name = withDomain(name)
	if !strings.Contains(name[strings.LastIndexByte(name, '/')+1:], ":") && digest == "" {
		name += ":latest"
	}
	if digest != "" {
		name += "@" + digest
	}
	return name
}

// withDomain adds the registry and Docker Hub's library where a name has none.
func withDomain(name string) string {
	first, _, more := strings.Cut(name, "/")
	switch {
	case !more:
		return "docker.io/library/" + name
	case strings.ContainsAny(first, ".:*?") || first == "localhost":
		return name
	}
	return "docker.io/" + name
}

// fullPattern is FullName for patterns: one without a tag means every tag.
func fullPattern(p string) string {
	if strings.Trim(p, "*") == "" {
		return p
	}
	p = withDomain(p)
	if last := p[strings.LastIndexByte(p, '/')+1:]; !strings.ContainsAny(last, ":@") && !strings.HasSuffix(p, "*") {
		p += ":*"
	}
	return p
}

// imageGlob matches a full name; a pattern of every tag also means digests.
func imageGlob(patterns []string, full string) bool {
	for _, p := range patterns {
		repo, all := strings.CutSuffix(p, ":*")
		if glob(p, full) || all && glob(repo+"@*", full) {
			return true
		}
	}
	return false
}

// registryOf is the registry of a full name.
func registryOf(full string) string {
	r, _, _ := strings.Cut(full, "/")
	return r
}
