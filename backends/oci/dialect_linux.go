package oci

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// dialect is how a kind of runtime does what OCI does not settle.
type dialect struct {
	kind string // the first word of its --version
	// flags go before every command, ahead of the host owner's.
	flags []string
	// ownKernel: programs meet another kernel than the host's. Their processes
	// are not the host's, and namespaces of the host mean nothing to them.
	ownKernel bool
	// abbreviates: it takes the beginning of an id for the id, and refuses one
	// that is the beginning of another.
	abbreviates bool
	// oldest is the first version with everything that is used here.
	oldest []int
	// recursiveRO: it knows the mount option rro.
	recursiveRO bool
}

// dialects are the runtimes that this backend is tested with.
var dialects = []dialect{
	{
		// The root filesystem is written through to the overlay that we
		// mounted, or cp, diff and commit would not see it, and read again
		// when cp changed it.
		kind: "runsc", ownKernel: true, abbreviates: true, oldest: []int{20230501},
		flags: []string{"--overlay2=none", "--file-access=shared"},
	},
	{kind: "runc", oldest: []int{1, 1}, recursiveRO: true},
	{kind: "crun", oldest: []int{1, 8}, recursiveRO: true},
}

// other is for any runtime not in the table: nothing is taken for granted.
var other = dialect{kind: "other"}

// identify asks the runtime what it is. The host owner's word for its kind goes
// before its own. Errors: NotFound, FailedPrecondition (too old), Unavailable.
func (r *Runtime) identify(ctx context.Context) (dialect, string, error) {
	out, err := output(ctx, r.Path, "--version")
	if err != nil {
		return dialectOf(r.Kind), "", err
	}
	line, _, _ := strings.Cut(out, "\n")
	kind, version, _ := strings.Cut(strings.TrimSpace(line), " version ")
	version = strings.TrimSpace(version)
	if r.Kind != "" {
		kind = r.Kind
	}
	d := dialectOf(kind)
	if v := numbers(version); v != nil && slices.Compare(v, d.oldest) < 0 {
		return d, version, fmt.Errorf("%s is %s %s; the oldest that works here is %s: %w", r.Path, kind, version, dotted(d.oldest), errdefs.ErrFailedPrecondition)
	}
	return d, version, nil
}

func dialectOf(kind string) dialect {
	if i := slices.IndexFunc(dialects, func(d dialect) bool { return d.kind == kind }); i >= 0 {
		return dialects[i]
	}
	return other
}

// numbers are those of a version, of which runsc's is a date; nil if it has none,
// which is a build of somebody's own.
func numbers(version string) []int {
	v := strings.TrimPrefix(strings.TrimPrefix(version, "release-"), "v")
	var out []int
	for part := range strings.SplitSeq(v, ".") {
		digits := strings.IndexFunc(part, func(r rune) bool { return r < '0' || r > '9' })
		if digits < 0 {
			digits = len(part)
		}
		n, err := strconv.Atoi(part[:digits])
		if err != nil {
			break
		}
		if out = append(out, n); digits < len(part) {
			break
		}
	}
	return out
}

func dotted(v []int) string {
	words := make([]string, len(v))
	for i, n := range v {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, ".")
}
