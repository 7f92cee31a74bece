package images

import (
	"strings"

	"github.com/distribution/reference"

	"github.com/caisson-engine/caisson/images/ref"
	"github.com/caisson-engine/caisson/images/registry"
)

// FullName is an image's name with registry, repository and tag or digest; what
// is no name stays as it is.
func FullName(text string) string {
	n, err := ref.Parse(text)
	if err != nil {
		return text
	}
	return n.String()
}

// IsID tells whether text may be the start of an image's id. It may be a name
// as well: names win.
func IsID(text string) bool { return ref.IDPrefix(text) != "" }

// RegistryOf is the registry that an image's name, or a search's term, means.
func RegistryOf(text string) string {
	n, err := ref.Parse(text)
	if err != nil {
		first, _, ok := strings.Cut(text, "/")
		if ok && strings.ContainsAny(first, ".:") {
			return first
		}
		return dockerHub
	}
	return reference.Domain(n)
}

// dockerHub is Docker Hub's name in images' names.
const dockerHub = "docker.io"

// RegistryHost is the registry that a login's address means.
func RegistryHost(address string) string {
	if h := registry.Host(address); h != "" {
		return h
	}
	return dockerHub
}

// Passes tells whether an image passes filters that List takes, but for those
// on other images.
func Passes(img *Image, filters map[string][]string) (bool, error) { return passes(img, filters) }
