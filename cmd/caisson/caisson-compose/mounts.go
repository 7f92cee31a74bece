package main

import (
	"cmp"
	"fmt"
	"path"
	"strconv"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/compose"
	"github.com/caisson-engine/caisson/engine/client"
)

// mounts adds the service's volumes. Plain ones take the form src:dst:mode, for
// which the engine makes a host directory that is missing.
func (t *translator) mounts(s types.ServiceConfig, out *compose.Service) error {
	h := &out.Host
	for _, v := range s.Volumes {
		source := v.Source
		if v.Type == types.VolumeTypeVolume && source != "" {
			source = cmp.Or(t.p.Volumes[source].Name, source)
		}
		if plain(v) {
			h.Binds = append(h.Binds, bind(source, v))
			continue
		}
		m := client.Mount{Type: v.Type, Source: source, Target: v.Target, ReadOnly: v.ReadOnly, Consistency: v.Consistency}
		switch v.Type {
		case types.VolumeTypeBind:
			m.BindOptions = bindOptions(v.Bind)
		case types.VolumeTypeVolume:
			if v.Volume != nil {
				m.VolumeOptions = &client.VolumeOptions{NoCopy: v.Volume.NoCopy, Labels: v.Volume.Labels, Subpath: v.Volume.Subpath}
			}
		case types.VolumeTypeTmpfs:
			if v.Tmpfs != nil {
				m.TmpfsOptions = &client.TmpfsOptions{SizeBytes: int64(v.Tmpfs.Size), Mode: v.Tmpfs.Mode}
			}
		case types.VolumeTypeImage:
			if v.Image != nil {
				m.ImageOptions = &client.ImageOptions{Subpath: v.Image.SubPath}
			}
		default:
			return fmt.Errorf("volumes: type %s of %s is not supported", v.Type, v.Target)
		}
		h.Mounts = append(h.Mounts, m)
	}
	return nil
}

// plain says whether a mount needs no option that only the long form has.
func plain(v types.ServiceVolumeConfig) bool {
	switch v.Type {
	case types.VolumeTypeBind:
		b := v.Bind
		return b == nil || b.CreateHostPath && b.Propagation == "" && b.Recursive == ""
	case types.VolumeTypeVolume:
		o := v.Volume
		return v.Source != "" && (o == nil || len(o.Labels) == 0 && o.Subpath == "" && !o.NoCopy)
	}
	return false
}

func bind(source string, v types.ServiceVolumeConfig) string {
	mode := "rw"
	if v.ReadOnly {
		mode = "ro"
	}
	if v.Bind != nil && v.Bind.SELinux != "" {
		mode += "," + v.Bind.SELinux
	}
	return source + ":" + v.Target + ":" + mode
}

func bindOptions(b *types.ServiceVolumeBind) *client.BindOptions {
	if b == nil {
		return nil
	}
	return &client.BindOptions{
		Propagation: b.Propagation, CreateMountpoint: b.CreateHostPath, NonRecursive: b.Recursive == "disabled",
		ReadOnlyNonRecursive: b.Recursive == "writable", ReadOnlyForceRecursive: b.Recursive == "readonly",
	}
}

// maxContent bounds a secret or a configuration, as Docker does.
const maxContent = 1 << 20

// files adds the service's secrets and configurations. A file on the host is
// mounted, unless it is to have an owner or mode of its own; everything else
// travels as content.
func (t *translator) files(s types.ServiceConfig, out *compose.Service) error {
	for _, r := range s.Secrets {
		o := types.FileObjectConfig(t.p.Secrets[r.Source])
		if err := t.file("secrets."+r.Source, "/run/secrets", types.FileReferenceConfig(r), o, out); err != nil {
			return err
		}
	}
	for _, r := range s.Configs {
		o := types.FileObjectConfig(t.p.Configs[r.Source])
		if err := t.file("configs."+r.Source, "/", types.FileReferenceConfig(r), o, out); err != nil {
			return err
		}
	}
	return nil
}

func (t *translator) file(where, dir string, r types.FileReferenceConfig, o types.FileObjectConfig, out *compose.Service) error {
	switch {
	case bool(o.External):
		return fmt.Errorf("%s.external: there is no store of secrets without a swarm; use file, environment or content", where)
	case o.Driver != "" || o.TemplateDriver != "":
		return fmt.Errorf("%s: driver and template_driver are not supported", where)
	}
	target := cmp.Or(r.Target, r.Source)
	if !path.IsAbs(target) {
		target = path.Join(dir, target)
	}
	if o.File != "" && r.UID == "" && r.GID == "" && r.Mode == nil {
		out.Host.Mounts = append(out.Host.Mounts, client.Mount{
			Type: types.VolumeTypeBind, Source: t.p.RelativePath(o.File), Target: target, ReadOnly: true, BindOptions: &client.BindOptions{},
		})
		return nil
	}
	c := compose.Content{Target: target, Mode: 0o444, Data: []byte(o.Content)}
	switch {
	case o.File != "":
		b, err := readAll(t.p, o.File, maxContent)
		if err != nil {
			c.Missing = fmt.Sprintf("%s: %v", where, err)
		}
		c.Data = b
	case o.Environment != "" && o.Content == "":
		v, ok := t.p.Environment[o.Environment]
		if !ok {
			c.Missing = fmt.Sprintf("%s: environment variable %q is not set", where, o.Environment)
		}
		c.Data = []byte(v)
	}
	if r.Mode != nil {
		c.Mode = uint32(*r.Mode) & 0o7777
	}
	var err error
	if c.UID, err = id(where+".uid", r.UID); err != nil {
		return err
	}
	if c.GID, err = id(where+".gid", r.GID); err != nil {
		return err
	}
	out.Contents = append(out.Contents, c)
	return nil
}

// id reads a numeric user or group, "" for root.
func id(where, s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%s: %q is not a number; names are the container's", where, s)
	}
	return int(n), nil
}
