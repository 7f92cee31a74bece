package volume

import (
	"maps"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/mount"

	"github.com/caisson-engine/caisson/engine/policy"
)

// Device is what a local volume with options is a mount of, and how large one
// without may grow.
type Device struct {
	Type    string // of the file system; "" for a directory of ours
	Source  string
	Options []string // as mount -o takes them, without bind and rbind
	Bind    bool     // of a path of the host
	Deep    bool     // also of what is mounted below it
	Size    int64    // bytes of a directory of ours; 0: no bound of its own
}

// Mounted says that the volume is mounted while it is used.
func (d Device) Mounted() bool { return d.Type != "" }

// needs says which options of the local driver want which others.
var needs = map[string]string{"device": "type", "type": "device", "o": "device"}

// ParseDevice reads the options of the local driver.
func ParseDevice(opts map[string]string) (Device, error) {
	for _, k := range slices.Sorted(maps.Keys(opts)) {
		if k != "size" && needs[k] == "" {
			return Device{}, invalid("invalid option: %q: the local driver knows type, device, o and size", k)
		}
		if other := needs[k]; opts[k] != "" && other != "" && opts[other] == "" {
			return Device{}, invalid("missing required option: %q", other)
		}
	}
	d := Device{Type: opts["type"], Source: opts["device"]}
	for o := range strings.SplitSeq(opts["o"], ",") {
		switch o {
		case "":
		case "bind", "rbind":
			d.Bind, d.Deep = true, d.Deep || o == "rbind"
		default:
			d.Options = append(d.Options, o)
		}
	}
	d.Bind = d.Bind || d.Type == "bind"
	switch {
	case d.Bind && !isHostPath(d.Source):
		return Device{}, invalid("invalid option: device %q: a bind needs an absolute path", d.Source)
	case d.Type == "none" && !d.Bind:
		return Device{}, invalid("invalid option: type none mounts nothing without o=bind")
	case opts["size"] == "":
		return d, nil
	case d.Mounted():
		return Device{}, invalid("invalid option: size is of a volume without a type; a tmpfs has it in o=size=…")
	}
	var err error
	if d.Size, err = units.RAMInBytes(opts["size"]); err != nil || d.Size <= 0 {
		return Device{}, invalid("invalid option: size=%s: want an amount such as 10g", opts["size"])
	}
	return d, nil
}

// asks is what the policy must know of a device. Memory is nobody's but the
// container's; everything else reaches the host: what is not a path of it is
// judged as a device with all its options, because a file system's own options can
// name paths and hosts.
func (d Device) asks() []policy.Bind {
	switch {
	case !d.Mounted() || d.Type == "tmpfs" && !d.Bind:
		return nil
	case d.Bind:
		b := policy.Bind{Source: d.Source, ReadOnly: slices.Contains(d.Options, "ro") && !slices.Contains(d.Options, "rw")}
		for _, o := range d.Options {
			if slices.Contains(mount.Propagations, mount.Propagation(o)) {
				b.Propagation = o
			}
		}
		return []policy.Bind{b}
	}
	return []policy.Bind{{Device: true, Source: strings.Join(append([]string{"mount:" + d.Type + ":" + d.Source}, d.Options...), ",")}}
}

// Binds are what of the host mounts give, for the policy.
func Binds(mounts []Mount) (out []policy.Bind) {
	for _, m := range mounts {
		switch m.Type {
		case mount.TypeBind:
			out = append(out, policy.Bind{Source: m.Source, ReadOnly: m.ReadOnly, Propagation: string(m.Propagation)})
		case mount.TypeVolume:
			out = append(out, OptionBinds(m.DriverOpts)...)
		}
	}
	return out
}

// OptionBinds are what of the host a volume of these options gives. Options that
// cannot be read give nothing: no volume is made of them.
func OptionBinds(opts map[string]string) []policy.Bind {
	d, err := ParseDevice(opts)
	if err != nil {
		return nil
	}
	return d.asks()
}
