package opts

import (
	"encoding/csv"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/caisson-engine/caisson/engine/client"
)

// Mounts are the mounts of --mount.
type Mounts struct{ Values []client.Mount }

// mountOption is one key of --mount. Value is "" and given false for a key
// without =, which only keys with bare set allow.
type mountOption struct {
	bare bool
	set  func(m *client.Mount, key, value string, given bool) error
}

// mountOptions are the keys of --mount.
var mountOptions = map[string]mountOption{
	"type":             {set: setString(func(m *client.Mount) *string { return &m.Type }, true)},
	"source":           {set: setSource},
	"src":              {set: setSource},
	"target":           {set: setString(func(m *client.Mount) *string { return &m.Target }, false)},
	"dst":              {set: setString(func(m *client.Mount) *string { return &m.Target }, false)},
	"destination":      {set: setString(func(m *client.Mount) *string { return &m.Target }, false)},
	"readonly":         {bare: true, set: setBool(func(m *client.Mount) *bool { return &m.ReadOnly })},
	"ro":               {bare: true, set: setBool(func(m *client.Mount) *bool { return &m.ReadOnly })},
	"consistency":      {set: setString(func(m *client.Mount) *string { return &m.Consistency }, true)},
	"bind-propagation": {set: setString(func(m *client.Mount) *string { return &bindOf(m).Propagation }, true)},
	"bind-nonrecursive": {bare: true, set: func(*client.Mount, string, string, bool) error {
		return errors.New("bind-nonrecursive is deprecated, use bind-recursive=disabled instead")
	}},
	"bind-recursive":  {set: setRecursive},
	"bind-create-src": {bare: true, set: setBool(func(m *client.Mount) *bool { return &bindOf(m).CreateMountpoint })},
	"volume-subpath":  {set: setString(func(m *client.Mount) *string { return &volumeOf(m).Subpath }, false)},
	"volume-nocopy":   {bare: true, set: setBool(func(m *client.Mount) *bool { return &volumeOf(m).NoCopy })},
	"volume-label":    {set: setPair(func(m *client.Mount) *map[string]string { return &volumeOf(m).Labels })},
	"volume-driver":   {set: setString(func(m *client.Mount) *string { return &driverOf(m).Name }, false)},
	"volume-opt":      {set: setPair(func(m *client.Mount) *map[string]string { return &driverOf(m).Options })},
	"image-subpath": {set: setString(func(m *client.Mount) *string {
		if m.ImageOptions == nil {
			m.ImageOptions = &client.ImageOptions{}
		}
		return &m.ImageOptions.Subpath
	}, false)},
	"tmpfs-size": {set: func(m *client.Mount, key, value string, _ bool) error {
		n, err := units.RAMInBytes(value)
		if err != nil {
			return fmt.Errorf("invalid value for %s: %s", key, value)
		}
		tmpfsOf(m).SizeBytes = n
		return nil
	}},
	"tmpfs-mode": {set: func(m *client.Mount, key, value string, _ bool) error {
		n, err := strconv.ParseUint(value, 8, 32)
		if err != nil {
			return fmt.Errorf("invalid value for %s: %s", key, value)
		}
		tmpfsOf(m).Mode = uint32(n)
		return nil
	}},
}

// Set parses one mount, comma separated key=value pairs.
func (ms *Mounts) Set(v string) error {
	v = strings.TrimSpace(v)
	if v == "" {
		return errors.New("value is empty")
	}
	fields, err := csv.NewReader(strings.NewReader(v)).Read()
	if err != nil {
		return err
	}
	m := client.Mount{Type: "volume"}
	for _, field := range fields {
		key, val, given := strings.Cut(field, "=")
		if k := strings.TrimSpace(key); k != key {
			return fmt.Errorf("invalid option '%s' in '%s': option should not have whitespace", k, field)
		}
		if given {
			switch trimmed := strings.TrimSpace(val); {
			case trimmed == "":
				return fmt.Errorf("invalid value for '%s': value is empty", key)
			case trimmed != val:
				return fmt.Errorf("invalid value for '%s' in '%s': value should not have whitespace", key, field)
			}
		}
		key = strings.ToLower(key)
		opt, ok := mountOptions[key]
		if !given && !opt.bare {
			return fmt.Errorf("invalid field '%s' must be a key=value pair", field)
		}
		if !ok {
			return fmt.Errorf("unknown option '%s' in '%s'", key, field)
		}
		if err := opt.set(&m, key, val, given); err != nil {
			return err
		}
	}
	if err := checkMount(&m); err != nil {
		return err
	}
	ms.Values = append(ms.Values, m)
	return nil
}

// Type names the value in help.
func (*Mounts) Type() string { return "mount" }

func (ms *Mounts) String() string {
	var out []string
	for _, m := range ms.Values {
		out = append(out, fmt.Sprintf("%s %s %s", m.Type, m.Source, m.Target))
	}
	return strings.Join(out, ", ")
}

func checkMount(m *client.Mount) error {
	for _, x := range []struct {
		typ  string
		used bool
	}{
		{"bind", m.BindOptions != nil},
		{"volume", m.VolumeOptions != nil},
		{"image", m.ImageOptions != nil},
		{"tmpfs", m.TmpfsOptions != nil},
	} {
		if x.used && m.Type != x.typ {
			return fmt.Errorf("cannot mix '%s-*' options with mount type '%s'", x.typ, m.Type)
		}
	}
	b := m.BindOptions
	switch {
	case b == nil:
	case b.ReadOnlyNonRecursive && !m.ReadOnly:
		return errors.New("option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction")
	case b.ReadOnlyForceRecursive && !m.ReadOnly:
		return errors.New("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction")
	case b.ReadOnlyForceRecursive && b.Propagation != "rprivate":
		return errors.New("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction")
	}
	return nil
}

func setString(field func(*client.Mount) *string, lower bool) func(*client.Mount, string, string, bool) error {
	return func(m *client.Mount, _, value string, _ bool) error {
		if lower {
			value = strings.ToLower(value)
		}
		*field(m) = value
		return nil
	}
}

func setBool(field func(*client.Mount) *bool) func(*client.Mount, string, string, bool) error {
	return func(m *client.Mount, key, value string, given bool) error {
		switch {
		case !given, value == "1", value == "true":
			*field(m) = true
		case value == "0", value == "false":
			*field(m) = false
		default:
			return fmt.Errorf(`invalid value for '%s': invalid boolean value (%q): must be one of "true", "1", "false", or "0" (default "true")`, key, value)
		}
		return nil
	}
}

func setPair(field func(*client.Mount) *map[string]string) func(*client.Mount, string, string, bool) error {
	return func(m *client.Mount, _, value string, _ bool) error {
		p := field(m)
		if *p == nil {
			*p = map[string]string{}
		}
		k, v, _ := strings.Cut(value, "=")
		if k != "" {
			(*p)[k] = v
		}
		return nil
	}
}

// setSource makes a path that starts with a dot absolute; the engine does not
// know our working directory.
func setSource(m *client.Mount, _, value string, _ bool) error {
	m.Source = value
	if strings.HasPrefix(value, ".") && !filepath.IsAbs(value) {
		if abs, err := filepath.Abs(value); err == nil {
			m.Source = abs
		}
	}
	return nil
}

func setRecursive(m *client.Mount, key, value string, _ bool) error {
	switch value {
	case "enabled":
	case "disabled":
		bindOf(m).NonRecursive = true
	case "writable":
		bindOf(m).ReadOnlyNonRecursive = true
	case "readonly":
		bindOf(m).ReadOnlyForceRecursive = true
	default:
		return fmt.Errorf(`invalid value for %s: %s (must be "enabled", "disabled", "writable", or "readonly")`, key, value)
	}
	return nil
}

func bindOf(m *client.Mount) *client.BindOptions {
	if m.BindOptions == nil {
		m.BindOptions = &client.BindOptions{}
	}
	return m.BindOptions
}

func volumeOf(m *client.Mount) *client.VolumeOptions {
	if m.VolumeOptions == nil {
		m.VolumeOptions = &client.VolumeOptions{}
	}
	return m.VolumeOptions
}

func driverOf(m *client.Mount) *client.VolumeDriver {
	v := volumeOf(m)
	if v.DriverConfig == nil {
		v.DriverConfig = &client.VolumeDriver{}
	}
	return v.DriverConfig
}

func tmpfsOf(m *client.Mount) *client.TmpfsOptions {
	if m.TmpfsOptions == nil {
		m.TmpfsOptions = &client.TmpfsOptions{}
	}
	return m.TmpfsOptions
}

// splitVolumes separates the values of -v into binds and anonymous volumes. A
// host path that starts with a dot is made absolute.
func splitVolumes(values []string) (binds []string, anonymous map[string]struct{}, err error) {
	anonymous = map[string]struct{}{}
	var seen []string
	for _, v := range values {
		if slices.Contains(seen, v) {
			continue
		}
		seen = append(seen, v)
		source, path, err := parseVolume(v)
		if err != nil {
			return nil, nil, err
		}
		if source == "" {
			anonymous[v] = struct{}{}
			continue
		}
		if path && source[0] == '.' {
			if abs, err := filepath.Abs(source); err == nil {
				v = abs + v[len(source):]
			}
		}
		binds = append(binds, v)
	}
	return binds, anonymous, nil
}

// parseVolume finds the source of [source:]target[:options] and whether it is a
// path. A letter before a colon is a Windows drive, not a part of its own.
func parseVolume(spec string) (source string, path bool, err error) {
	if spec == "" {
		return "", false, errors.New("invalid empty volume spec")
	}
	if len(spec) <= 2 {
		return "", false, nil
	}
	var parts []string
	start := 0
	for i := 0; i <= len(spec); i++ {
		if i < len(spec) && (spec[i] != ':' || i-start == 1 && isLetter(spec[start])) {
			continue
		}
		if i == start {
			return "", false, fmt.Errorf("invalid spec: %s: empty section between colons", spec)
		}
		parts = append(parts, spec[start:i])
		start = i + 1
	}
	switch {
	case len(parts) == 1:
		return "", false, nil
	case len(parts) > 3:
		return "", false, fmt.Errorf("invalid spec: %s: too many colons", spec)
	}
	return parts[0], isPath(parts[0]), nil
}

func isPath(s string) bool {
	return s[0] == '.' || s[0] == '/' || s[0] == '~' || strings.HasPrefix(s, `\\`) ||
		len(s) > 1 && isLetter(s[0]) && s[1] == ':'
}

func isLetter(b byte) bool { return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' }
