// Package ref reads image references as users type them and names stored
// images. A stored name is the full form (docker.io/library/busybox:latest);
// the familiar form is what people read and write (busybox:latest).
package ref

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// danglingRepo names an image that has no name of its own. It cannot clash
// with a registry's: a host without a dot or a port is never one.
const danglingRepo = "caisson-dangling"

var hexID = regexp.MustCompile(`^(sha256:)?[a-f0-9]{1,64}$`)

// Parse reads s and fills in the default registry, namespace and tag. Of
// name:tag@digest it keeps the digest, which is the stronger of the two.
// Errors are InvalidArgument, worded as Docker words them.
func Parse(s string) (reference.Named, error) {
	n, err := reference.ParseDockerRef(s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return n, nil
}

// ParseTag is Parse for a name that is about to be given: a digest cannot be.
func ParseTag(s string) (reference.NamedTagged, error) {
	n, err := Parse(s)
	if err != nil {
		return nil, err
	}
	t, ok := n.(reference.NamedTagged)
	if !ok {
		return nil, fmt.Errorf("refusing to create a tag with a digest reference: %w", errdefs.ErrInvalidArgument)
	}
	return t, nil
}

// Dangling is the stored name of an image without a name.
func Dangling(d digest.Digest) string { return danglingRepo + "@" + d.String() }

// IsDangling tells whether a stored name is none that a user gave.
func IsDangling(stored string) bool { return strings.HasPrefix(stored, danglingRepo+"@") }

// Familiar splits a stored name into what users see: name:tag, or "" for a
// dangling or digest-only one, and the repository, "" for a dangling one.
func Familiar(stored string) (tag, repo string) {
	if IsDangling(stored) {
		return "", ""
	}
	n, err := reference.ParseNormalizedNamed(stored)
	if err != nil {
		return "", ""
	}
	if _, ok := n.(reference.Tagged); ok {
		tag = reference.FamiliarString(n)
	}
	return tag, reference.FamiliarName(n)
}

// IDPrefix returns the hexadecimal start of an id that s may be, "" if it
// cannot be one. A name may look like it too: names win.
func IDPrefix(s string) string {
	if !hexID.MatchString(s) {
		return ""
	}
	return strings.TrimPrefix(s, "sha256:")
}

// IsFullID tells whether s is a whole id, which is never looked up as a name.
func IsFullID(s string) bool { return len(IDPrefix(s)) == 64 }
