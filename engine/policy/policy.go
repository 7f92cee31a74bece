// Package policy says what a client may do on this host: who is whose tenant,
// at which isolation level and by which backend a container runs, and which
// privileged options it may have. It is pure: a policy file and a question give
// a decision with its reason. The host owner writes the file; a client may ask
// for more isolation than it demands, never for less.
//
// # How a container is judged
//
//	identity → tenant or admin → the first rule that matches → denied?
//	→ options allowed? → limits kept? → level: what was asked for, else the
//	default, and at least what rule and minimum demand → backend
//
// Without tenants in the file every client is an admin, as without a file.
package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"gopkg.in/yaml.v3"
)

// maxFile bounds a policy file, in bytes. Yaml aliases expand, so a small bound
// is also a bound on the work of reading it.
const maxFile = 1 << 20

// Policy is the host owner's file. The zero Policy sets no minimum, has no
// rules and no tenants, and leaves the default to the backends.
type Policy struct {
	// DefaultLevel is used when a client does not ask. "" is the level that the
	// first healthy backend calls its default.
	DefaultLevel string `yaml:"default_level"`
	// MinimumLevel is the weakest level that may run. "" allows every level.
	MinimumLevel string `yaml:"minimum_level"`
	// AllowEmulation lets levels be used whose backend only emulates the wall
	// that it promises.
	AllowEmulation bool `yaml:"allow_emulation"`

	// Admins speak for the host's owner; root and the engine's own user always do.
	Admins *Who `yaml:"admins"`
	// Tenants have names for clients and what each may use in total. The first
	// that a client belongs to counts.
	Tenants []Tenant `yaml:"tenants"`
	// Others is about clients that are neither: each is a tenant of its own.
	Others *Others `yaml:"others"`
	// SharedImages are names of the host owner's images that tenants may use.
	SharedImages List `yaml:"shared_images"`

	// Rules are tried in order; the first that matches counts.
	Rules []Rule `yaml:"rules"`

	// Runtimes are OCI runtimes that become backends, by name.
	Runtimes map[string]Runtime `yaml:"runtimes"`
}

// Parse reads a policy file. Unknown keys are errors: a misspelt rule must not
// silently leave a host open. Every error says in which line.
func Parse(b []byte) (*Policy, error) {
	if len(b) > maxFile {
		return nil, fmt.Errorf("policy file is larger than %d bytes: %w", maxFile, errdefs.ErrInvalidArgument)
	}
	var p Policy
	if err := decodeStrict(b, &p); err != nil {
		return nil, fmt.Errorf("policy file: %w", err)
	}
	var tree yaml.Node
	_ = yaml.Unmarshal(b, &tree) // it was read once already
	if err := p.complete(&tree); err != nil {
		return nil, fmt.Errorf("policy file: %w", err)
	}
	return &p, nil
}

// decodeStrict reads one yaml document whose keys are all known.
func decodeStrict[T any](b []byte, into *T) error {
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", plainly(err), errdefs.ErrInvalidArgument)
	}
	if err := d.Decode(new(T)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("more than one document: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

var (
	unknownField = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`field (\S+) not found in type \S+`) })
	givenTwice   = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`mapping key "([^"]*)" already defined at line (\d+)`)
	})
	wrongType = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile("cannot unmarshal !!(\\w+)(?: `([^`]*)`)? into (\\S+)")
	})
)

// plainly says a yaml error in words that do not speak of Go.
func plainly(err error) string {
	msg := err.Error()
	if te, ok := errors.AsType[*yaml.TypeError](err); ok {
		msg = strings.Join(te.Errors, "; ")
	}
	msg = strings.TrimPrefix(msg, "yaml: ")
	msg = unknownField().ReplaceAllString(msg, `there is no key "$1" here`)
	msg = givenTwice().ReplaceAllString(msg, `key "$1" was given already, in line $2`)
	return wrongType().ReplaceAllStringFunc(msg, func(s string) string {
		m := wrongType().FindStringSubmatch(s)
		want := map[string]string{"bool": "true or false", "int": "a whole number", "int64": "a whole number", "float64": "a number", "string": "text", "[]int": "a list of numbers"}[m[3]]
		switch {
		case want != "":
		case strings.HasPrefix(m[3], "[]"):
			want = "a list"
		default:
			want = "a group of keys"
		}
		if m[2] == "" {
			return fmt.Sprintf("want %s here, not a %s", want, m[1])
		}
		return fmt.Sprintf("want %s here, not %q", want, m[2])
	})
}

// complete checks what the decoder cannot, and puts names into their one form.
func (p *Policy) complete(tree *yaml.Node) error {
	at := func(format string, path []any, a ...any) error {
		return fmt.Errorf("line %d: %s: %w", lineOf(tree, path...), fmt.Sprintf(format, a...), errdefs.ErrInvalidArgument)
	}
	p.DefaultLevel, p.MinimumLevel = Canonical(p.DefaultLevel), Canonical(p.MinimumLevel)
	seen := map[string]bool{}
	for i := range p.Tenants {
		t := &p.Tenants[i]
		here := []any{"tenants", i}
		switch {
		case !nameRE().MatchString(t.Name):
			return at("tenant name %q: want 1 to 63 letters, digits, dots, dashes or underscores, a letter or digit first", here, t.Name)
		case reserved[strings.ToLower(t.Name)]:
			return at("tenant name %q has a meaning of its own", here, t.Name)
		case seen[t.Name]:
			return at("tenant %q is there twice", here, t.Name)
		case t.empty():
			return at("tenant %q has no clients: give uids, gids or certs", here, t.Name)
		}
		seen[t.Name] = true
		if what := t.Quota.check(); what != "" {
			return at("tenant %q: %s", append(here, "quota"), t.Name, what)
		}
	}
	if p.Others != nil {
		if what := p.Others.Quota.check(); what != "" {
			return at("others: %s", []any{"others", "quota"}, what)
		}
	}
	for i := range p.SharedImages {
		p.SharedImages[i] = fullPattern(p.SharedImages[i])
	}
	names := map[string]bool{}
	for i := range p.Rules {
		r := &p.Rules[i]
		here := []any{"rules", i}
		switch {
		case r.Name == "":
			return at("rule %d has no name: refusals name the rule", here, i+1)
		case len(r.Name) > 120 || strings.ContainsFunc(r.Name, func(c rune) bool { return c < ' ' || c == '"' }):
			return at("rule name %q: want one line of text without quotes", here, r.Name)
		case names[r.Name]:
			return at("rule %q is there twice", here, r.Name)
		}
		names[r.Name] = true
		if key, what := r.complete(); what != "" {
			return at("rule %q: %s", append(here, key...), r.Name, what)
		}
	}
	return p.checkRuntimes()
}

var nameRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`) })

// reserved are names that a tenant cannot have.
var reserved = map[string]bool{"engine": true, "anonymous": true, "admin": true, "admins": true, "others": true}

// lineOf finds the line of a key by its path of names and indexes, or that of
// the nearest above it that is there.
func lineOf(n *yaml.Node, path ...any) int {
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	for _, step := range path {
		next := (*yaml.Node)(nil)
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		}
		switch s := step.(type) {
		case string:
			for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == s {
					next = n.Content[i+1]
				}
			}
		case int:
			if n.Kind == yaml.SequenceNode && s < len(n.Content) {
				next = n.Content[s]
			}
		}
		if next == nil {
			break
		}
		n = next
	}
	return n.Line
}

// Canonical is the one name of a level that has several: typed Docker clients
// can only say hyperv where they mean vm. "default" and "" are no level.
func Canonical(level string) string {
	switch l := strings.ToLower(strings.TrimSpace(level)); l {
	case "default":
		return ""
	case "hyperv":
		return "vm"
	default:
		return l
	}
}

// Warnings are about what a correct file may not mean: a sentence each.
func (p *Policy) Warnings() []string {
	var out []string
	for i := range p.Rules {
		r := &p.Rules[i]
		if r.Allow != nil && !r.Allow.none() && r.Match.onlyTheClientsWord() {
			out = append(out, fmt.Sprintf("rule %q allows options and matches on nothing that a client cannot choose itself: add tenant, uid, gid, cert, image, registry or digest", r.Name))
		}
		for j := range i {
			if p.Rules[j].Match.everything() {
				out = append(out, fmt.Sprintf("rule %q is never reached: rule %q before it matches everything", r.Name, p.Rules[j].Name))
				break
			}
		}
		for _, t := range r.Match.Tenant {
			if !p.Tenancy() && t != "*" {
				out = append(out, fmt.Sprintf("rule %q matches on tenants, and the file has none: without tenants, admins or others every client is an admin called uid:N, cert:NAME or anonymous", r.Name))
				break
			}
		}
	}
	if len(p.SharedImages) > 0 && !p.Tenancy() {
		out = append(out, "shared_images means nothing without tenants, admins or others")
	}
	return out
}

// LimitsDisk tells whether any tenant has a disk quota.
func (p *Policy) LimitsDisk() bool {
	return p.Others != nil && p.Others.Quota.Disk > 0 ||
		slices.ContainsFunc(p.Tenants, func(t Tenant) bool { return t.Quota.Disk > 0 })
}

// Rule finds a rule by name.
func (p *Policy) Rule(name string) *Rule {
	i := slices.IndexFunc(p.Rules, func(r Rule) bool { return r.Name == name })
	if i < 0 {
		return nil
	}
	return &p.Rules[i]
}
