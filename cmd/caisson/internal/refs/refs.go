// Package refs splits image references the way Docker's command line shows and
// sends them. It does not validate: the engine does, and says what is wrong.
package refs

import "strings"

const (
	defaultDomain = "docker.io"
	legacyDomain  = "index.docker.io"
	officialPath  = "library/"
)

// Ref is a reference in its parts. Domain and Path are complete: alpine has
// docker.io and library/alpine.
type Ref struct {
	Domain, Path string
	Tag          string // "" if none was given
	Digest       string // "algorithm:hex", "" if none was given
}

// Parse splits name[:tag][@digest].
func Parse(s string) Ref {
	var r Ref
	s, r.Digest, _ = strings.Cut(s, "@")
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, '/') {
		s, r.Tag = s[:i], s[i+1:]
	}
	domain, path, ok := strings.Cut(s, "/")
	if !ok || !strings.ContainsAny(domain, ".:") && domain != "localhost" && strings.ToLower(domain) == domain {
		domain, path = defaultDomain, s
	}
	if domain == legacyDomain {
		domain = defaultDomain
	}
	if domain == defaultDomain && !strings.Contains(path, "/") {
		path = officialPath + path
	}
	r.Domain, r.Path = domain, path
	return r
}

// Name is domain and path.
func (r Ref) Name() string { return r.Domain + "/" + r.Path }

// Familiar is the name as people write it: without what is the default.
func (r Ref) Familiar() string {
	if r.Domain != defaultDomain {
		return r.Name()
	}
	return strings.TrimPrefix(r.Path, officialPath)
}

// Version is the digest if there is one, else the tag, else "latest".
func (r Ref) Version() string {
	switch {
	case r.Digest != "":
		return r.Digest
	case r.Tag != "":
		return r.Tag
	}
	return "latest"
}

// String is the familiar form, complete with tag and digest.
func (r Ref) String() string {
	s := r.Familiar()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// IsID says whether s can only be an image's id.
func IsID(s string) bool {
	s = strings.TrimPrefix(s, "sha256:")
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
