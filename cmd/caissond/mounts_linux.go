package main

import (
	"io"

	"github.com/caisson-engine/caisson/engine/volume"
	"github.com/caisson-engine/caisson/platform_linux/volmount"
)

// mounts is engine.Mounts by the library for it.
type mounts struct{}

func (mounts) Mount(dir string, d volume.Device) error {
	return volmount.Mount(dir, volmount.Device{Type: d.Type, Source: d.Source, Options: d.Options, Bind: d.Bind, Deep: d.Deep})
}

func (mounts) Part(root, path, dir string) error      { return volmount.Part(root, path, dir) }
func (mounts) Unmount(dir string) error               { return volmount.Unmount(dir) }
func (mounts) Pack(dir string) (io.ReadCloser, error) { return volmount.Pack(dir) }

func (mounts) Unpack(dir string, tar io.Reader, devices bool) error {
	return volmount.Unpack(dir, tar, devices)
}
