// Package volume turns what a client writes about mounts into one list, and
// keeps local volumes. It mounts nothing: the list goes into the OCI spec.
package volume

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
)

// Mount is one mount of a container, resolved: a volume has a name, a bind or a
// volume a source on the host.
type Mount struct {
	Type        mount.Type        `json:"type"`
	Name        string            `json:"name,omitempty"`   // volume
	Tenant      string            `json:"tenant,omitempty"` // volume: the scope that its name is of
	Source      string            `json:"source,omitempty"` // on the host
	Destination string            `json:"dest"`
	Driver      string            `json:"driver,omitempty"` // volume
	Mode        string            `json:"mode,omitempty"`   // as the client wrote it
	ReadOnly    bool              `json:"ro,omitempty"`
	Propagation mount.Propagation `json:"prop,omitempty"`

	Anonymous    bool     `json:"anon,omitempty"`    // goes with the container where the client asks so
	NoCopy       bool     `json:"nocopy,omitempty"`  // do not fill an empty volume from the image
	MakeSource   bool     `json:"mkdir,omitempty"`   // bind: make a missing source directory
	NonRecursive bool     `json:"nonrec,omitempty"`  // bind: not what is mounted below the source
	ShallowRO    bool     `json:"shallow,omitempty"` // read-only, but not what is mounted below
	ForceRO      bool     `json:"force,omitempty"`   // fail where recursive read-only cannot be had
	Options      []string `json:"opts,omitempty"`    // tmpfs
	Subpath      string   `json:"subpath,omitempty"` // volume, image: only what is there
	Image        string   `json:"image,omitempty"`   // image: the key of its layers

	// Labels of a volume that may have to be made, and its driver options, which
	// are those of the one that is there.
	Labels     map[string]string `json:"labels,omitempty"`
	DriverOpts map[string]string `json:"driver_opts,omitempty"`
}

// Point is the mount as inspect and ps show it.
func (m Mount) Point() container.MountPoint {
	p := container.MountPoint{
		Type: m.Type, Name: m.Name, Source: m.Source, Destination: m.Destination,
		Driver: m.Driver, Mode: m.Mode, RW: !m.ReadOnly, Propagation: m.Propagation,
	}
	if m.Type == mount.TypeVolume && p.Mode == "" {
		p.Mode = "z"
	}
	return p
}

func invalid(format string, a ...any) error {
	return fmt.Errorf(format+": %w", append(a, errdefs.ErrInvalidArgument)...)
}

// nameRE is what a volume may be called.
var nameRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$`) })

// ValidName checks a volume's name.
func ValidName(name string) error {
	if !nameRE().MatchString(name) {
		return invalid(`create %s: %q includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path`, name, name)
	}
	return nil
}

// NewName is a name for an anonymous volume: 64 hex digits.
func NewName() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	return hex.EncodeToString(b[:])
}

// Request is everything that a client and an image say about mounts.
type Request struct {
	Binds        []string            // -v
	Mounts       []mount.Mount       // --mount
	Tmpfs        map[string]string   // --tmpfs
	Volumes      map[string]struct{} // of the config and the image
	From         []Mount             // of other containers, in order
	VolumeDriver string
}

// Resolve makes the list, sorted so that a parent is mounted before what lies
// below it. Of two mounts at one place the more explicit wins: --mount and -v
// over --volumes-from over the image's volumes; two explicit ones are an error.
func Resolve(r Request) ([]Mount, error) {
	byDest := map[string]Mount{}
	for _, m := range r.From {
		byDest[m.Destination] = m
	}
	explicit := map[string]bool{}
	add := func(m Mount) error {
		if explicit[m.Destination] {
			return invalid("Duplicate mount point: %s", m.Destination)
		}
		explicit[m.Destination] = true
		byDest[m.Destination] = m
		return nil
	}
	for _, b := range r.Binds {
		m, err := ParseBind(b, r.VolumeDriver)
		if err != nil {
			return nil, err
		}
		if err := add(m); err != nil {
			return nil, err
		}
	}
	for _, am := range r.Mounts {
		m, err := fromAPI(am)
		if err != nil {
			return nil, err
		}
		if err := add(m); err != nil {
			return nil, err
		}
	}
	for dest, opts := range r.Tmpfs {
		d, err := destination(dest)
		if err != nil {
			return nil, err
		}
		m := Mount{Type: mount.TypeTmpfs, Destination: d, Mode: opts}
		if m.Options, err = tmpfsOptions(opts); err != nil {
			return nil, err
		}
		m.ReadOnly = slices.Contains(m.Options, "ro")
		if err := add(m); err != nil {
			return nil, err
		}
	}
	for dest := range r.Volumes {
		d, err := destination(dest)
		if err != nil {
			return nil, err
		}
		if _, ok := byDest[d]; !ok {
			byDest[d] = Mount{Type: mount.TypeVolume, Name: NewName(), Driver: "local", Destination: d, Anonymous: true}
		}
	}
	out := make([]Mount, 0, len(byDest))
	for _, m := range byDest {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Mount) int {
		if n := strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/"); n != 0 {
			return n
		}
		return strings.Compare(a.Destination, b.Destination)
	})
	return out, nil
}

// destination checks a place inside the container. It is a slash path whatever
// the host is.
func destination(d string) (string, error) {
	if !path.IsAbs(d) {
		return "", invalid("invalid mount path: '%s' mount path must be absolute", d)
	}
	if d = path.Clean(d); d == "/" {
		return "", invalid("invalid specification: destination can't be '/'")
	}
	return d, nil
}

// bindOptions are the words of a -v mode, each with what it does.
var bindOptions = map[string]func(*Mount){
	"ro":         func(m *Mount) { m.ReadOnly = true },
	"rw":         func(*Mount) {},
	"z":          func(*Mount) {}, // SELinux labels: none here
	"Z":          func(*Mount) {},
	"nocopy":     func(m *Mount) { m.NoCopy = true },
	"copy":       func(*Mount) {},
	"cached":     func(*Mount) {},
	"delegated":  func(*Mount) {},
	"consistent": func(*Mount) {},
	"private":    func(m *Mount) { m.Propagation = mount.PropagationPrivate },
	"rprivate":   func(m *Mount) { m.Propagation = mount.PropagationRPrivate },
	"shared":     func(m *Mount) { m.Propagation = mount.PropagationShared },
	"rshared":    func(m *Mount) { m.Propagation = mount.PropagationRShared },
	"slave":      func(m *Mount) { m.Propagation = mount.PropagationSlave },
	"rslave":     func(m *Mount) { m.Propagation = mount.PropagationRSlave },
}

// ParseBind reads a -v argument: [source:]destination[:options].
func ParseBind(spec, driver string) (Mount, error) {
	bad := func() error { return invalid("invalid volume specification: '%s'", spec) }
	parts := strings.Split(spec, ":")
	// A drive letter is part of a source on Windows hosts.
	if len(parts) > 2 && len(parts[0]) == 1 && strings.HasPrefix(parts[1], `\`) {
		parts = append([]string{parts[0] + ":" + parts[1]}, parts[2:]...)
	}
	var m Mount
	switch len(parts) {
	case 1:
		m = Mount{Type: mount.TypeVolume, Name: NewName(), Driver: "local", Anonymous: true, Destination: parts[0]}
	case 2, 3:
		m.Source, m.Destination = parts[0], parts[1]
		if len(parts) == 3 {
			m.Mode = parts[2]
		}
	default:
		return Mount{}, bad()
	}
	var err error
	if m.Destination == "" || (m.Source == "" && len(parts) > 1) {
		return Mount{}, bad()
	}
	if m.Destination, err = destination(m.Destination); err != nil {
		return Mount{}, fmt.Errorf("invalid volume specification: '%s': %w", spec, err)
	}
	if m.Mode != "" {
		for o := range strings.SplitSeq(m.Mode, ",") {
			f, ok := bindOptions[o]
			if !ok {
				return Mount{}, invalid("invalid mode: %s", m.Mode)
			}
			f(&m)
		}
	}
	if m.Anonymous {
		return m, nil
	}
	if isHostPath(m.Source) {
		m.Type, m.MakeSource = mount.TypeBind, true
		if m.Propagation == "" {
			m.Propagation = mount.PropagationRPrivate
		}
		return m, nil
	}
	if err := ValidName(m.Source); err != nil {
		return Mount{}, err
	}
	m.Type, m.Name, m.Source, m.Driver = mount.TypeVolume, m.Source, "", driver
	if m.Driver == "" {
		m.Driver = "local"
	}
	return m, nil
}

// isHostPath says that a -v source is a path on the host, not a volume's name.
func isHostPath(s string) bool {
	return strings.HasPrefix(s, "/") || strings.HasPrefix(s, `\\`) || (len(s) > 2 && s[1] == ':' && s[2] == '\\')
}

// fromAPI reads a --mount.
func fromAPI(a mount.Mount) (Mount, error) {
	bad := func(format string, args ...any) error {
		return invalid(`invalid mount config for type "%s": %s`, a.Type, fmt.Sprintf(format, args...))
	}
	if a.Target == "" {
		return Mount{}, bad("field Target must not be empty")
	}
	d, err := destination(a.Target)
	if err != nil {
		return Mount{}, fmt.Errorf(`invalid mount config for type "%s": %w`, a.Type, err)
	}
	m := Mount{Type: a.Type, Destination: d, ReadOnly: a.ReadOnly}
	foreign := map[mount.Type]bool{
		mount.TypeBind: a.BindOptions != nil, mount.TypeVolume: a.VolumeOptions != nil,
		mount.TypeTmpfs: a.TmpfsOptions != nil, mount.TypeImage: a.ImageOptions != nil,
	}
	for t, set := range foreign {
		if set && t != a.Type {
			return Mount{}, bad("field %sOptions must not be specified", strings.ToUpper(string(t)[:1])+string(t)[1:])
		}
	}
	switch a.Type {
	case mount.TypeBind:
		return bind(m, a, bad)
	case mount.TypeVolume:
		return named(m, a)
	case mount.TypeTmpfs:
		return tmpfs(m, a, bad)
	case mount.TypeImage:
		return image(m, a, bad)
	case mount.TypeCluster, mount.TypeNamedPipe:
		return Mount{}, fmt.Errorf("mounts of type %q are not supported by this engine: %w", a.Type, errdefs.ErrNotImplemented)
	default:
		return Mount{}, invalid("mount type unknown: %q", a.Type)
	}
}

func bind(m Mount, a mount.Mount, bad func(string, ...any) error) (Mount, error) {
	if a.Source == "" {
		return Mount{}, bad("field Source must not be empty")
	}
	if !isHostPath(a.Source) {
		return Mount{}, bad("invalid mount path: '%s' mount path must be absolute", a.Source)
	}
	m.Source, m.Propagation = a.Source, mount.PropagationRPrivate
	if o := a.BindOptions; o != nil {
		if o.Propagation != "" {
			if !slices.Contains(mount.Propagations, o.Propagation) {
				return Mount{}, bad("invalid propagation mode: %s", o.Propagation)
			}
			m.Propagation = o.Propagation
		}
		m.NonRecursive, m.MakeSource = o.NonRecursive, o.CreateMountpoint
		m.ShallowRO, m.ForceRO = o.ReadOnlyNonRecursive, o.ReadOnlyForceRecursive
		if (m.ShallowRO || m.ForceRO) && !m.ReadOnly {
			return Mount{}, bad("recursive read-only options need a read-only mount")
		}
		if m.ShallowRO && m.ForceRO {
			return Mount{}, bad("ReadOnlyForceRecursive and ReadOnlyNonRecursive exclude each other")
		}
	}
	return m, nil
}

func named(m Mount, a mount.Mount) (Mount, error) {
	m.Name, m.Driver = a.Source, "local"
	if m.Name == "" {
		m.Name, m.Anonymous = NewName(), true
	} else if err := ValidName(m.Name); err != nil {
		return Mount{}, err
	}
	if o := a.VolumeOptions; o != nil {
		m.NoCopy, m.Labels = o.NoCopy, o.Labels
		var err error
		if m.Subpath, err = subpath(o.Subpath); err != nil {
			return Mount{}, err
		}
		if o.DriverConfig != nil {
			if o.DriverConfig.Name != "" {
				m.Driver = o.DriverConfig.Name
			}
			m.DriverOpts = o.DriverConfig.Options
		}
	}
	return m, nil
}

// subpath checks a place inside what is mounted.
func subpath(p string) (string, error) {
	switch {
	case p == "":
		return "", nil
	case path.IsAbs(p):
		return "", invalid("invalid mount subpath %q: it must be relative", p)
	}
	if p = path.Clean(p); p == ".." || strings.HasPrefix(p, "../") {
		return "", invalid("invalid mount subpath %q: it leads out", p)
	}
	return p, nil
}

// image reads a mount of an image, which can only be read.
func image(m Mount, a mount.Mount, bad func(string, ...any) error) (Mount, error) {
	if a.Source == "" {
		return Mount{}, bad("field Source must not be empty")
	}
	m.Name, m.ReadOnly = a.Source, true
	var err error
	if o := a.ImageOptions; o != nil {
		m.Subpath, err = subpath(o.Subpath)
	}
	return m, err
}

func tmpfs(m Mount, a mount.Mount, bad func(string, ...any) error) (Mount, error) {
	if a.Source != "" {
		return Mount{}, bad("field Source must not be specified")
	}
	m.Options = slices.Clone(tmpfsDefaults)
	if o := a.TmpfsOptions; o != nil {
		if o.SizeBytes < 0 {
			return Mount{}, bad("size must not be negative")
		}
		if o.SizeBytes > 0 {
			m.Options = append(m.Options, fmt.Sprintf("size=%d", o.SizeBytes))
		}
		if o.Mode != 0 {
			m.Options = append(m.Options, fmt.Sprintf("mode=%o", o.Mode))
		}
		for _, kv := range o.Options {
			opt := strings.Join(kv, "=")
			if len(kv) == 0 || len(kv) > 2 || !tmpfsOptionRE().MatchString(opt) {
				return Mount{}, bad("invalid option: %v", kv)
			}
			m.Options = append(m.Options, opt)
		}
	}
	if m.ReadOnly {
		m.Options = append(m.Options, "ro")
	}
	return m, nil
}

// tmpfsDefaults are in force unless their opposite is asked for.
var tmpfsDefaults = []string{"noexec", "nosuid", "nodev"}

// tmpfsOptionRE is every option that a client may give.
var tmpfsOptionRE = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(ro|rw|exec|noexec|suid|nosuid|dev|nodev|sync|async|dirsync|atime|noatime|diratime|nodiratime|relatime|norelatime|strictatime|nostrictatime|(size|nr_blocks|nr_inodes)=[0-9]+[kmgKMG%]?|mode=[0-7]{1,4}|[ug]id=[0-9]{1,10}|huge=(never|always|within_size|advise)|mpol=[a-z:=,0-9-]{1,64}|r?(private|shared|slave))$`)
})

// tmpfsOptions reads --tmpfs's option list on top of the defaults.
func tmpfsOptions(s string) ([]string, error) {
	out := slices.Clone(tmpfsDefaults)
	if s == "" {
		return out, nil
	}
	for o := range strings.SplitSeq(s, ",") {
		if !tmpfsOptionRE().MatchString(o) {
			return nil, invalid("invalid tmpfs option %q", o)
		}
		out = slices.DeleteFunc(out, func(d string) bool { return d == "no"+o || d == o })
		out = append(out, o)
	}
	return out, nil
}

// ParseFrom reads a --volumes-from argument: container[:ro|rw].
func ParseFrom(s string) (ref string, readOnly bool, err error) {
	ref, mode, has := strings.Cut(s, ":")
	if ref == "" {
		return "", false, invalid("malformed volumes-from specification: %s", s)
	}
	if !has {
		return ref, false, nil
	}
	for o := range strings.SplitSeq(mode, ",") {
		switch o {
		case "ro":
			readOnly = true
		case "rw", "z", "Z", "copy", "nocopy":
		default:
			return "", false, invalid("invalid mode for volumes-from: %s", mode)
		}
	}
	return ref, readOnly, nil
}
