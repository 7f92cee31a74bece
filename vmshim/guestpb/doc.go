// Package guestpb is what host and guest of a virtual machine say to each other.
//
// There is one connection for it, over a virtio-serial port: the guest is a gRPC server
// for exactly one client. It serves two services: backendpb.Backend, the contract
// between engine and backends, for everything that concerns containers; and Guest
// of this package for what the machine itself needs.
//
// # The order of things
//
//	boot:   the agent writes Greeting to the port once it can answer
//	save:   it practised before, for clones to find all warm
//	clone:  nothing: it was written before the machine was saved
//	then:   Setup, Prepare, Create, Start … Delete, Shutdown
//
// A clone's memory is that of many others: before Setup has ended nothing of a
// tenant may run in it, since its random numbers, its clock and its names are
// the others' too.
//
// # Who trusts whom
//
// The guest trusts the host. The host trusts no byte that comes back: package
// host checks every reply, bounds its size and the time it may take.
package guestpb

import (
	"path"
	"strconv"
)

// Protocol is the version of what is said here. Both sides refuse another's.
const Protocol = 2

// Greeting is what a booted agent writes before it answers calls.
const Greeting = "caisson-guest 1\n"

// Port is the name of the virtio-serial port. SharePort is that of a second one, for
// the files that package share serves.
const (
	Port      = "agent"
	SharePort = "share"
)

// ContainerDir is where Prepare puts what belongs to a container.
func ContainerDir(container string) string { return path.Join("/run/caisson/c", container) }

// ImageDir is where its image is mounted, and ScratchDir its writable disk.
func ImageDir(container string) string   { return path.Join(ContainerDir(container), "image") }
func ScratchDir(container string) string { return path.Join(ContainerDir(container), "scratch") }

// UpperDir and WorkDir are an overlay's directories on the writable disk.
func UpperDir(container string) string { return path.Join(ScratchDir(container), "upper") }
func WorkDir(container string) string  { return path.Join(ScratchDir(container), "work") }

// FilePath is where a file of PrepareRequest is.
func FilePath(container, name string) string {
	return path.Join(ContainerDir(container), "files", name)
}

// SharePath is where a share of PrepareRequest can be bound from.
func SharePath(container string, id uint32) string {
	return path.Join(ContainerDir(container), "shares", strconv.FormatUint(uint64(id), 10))
}

// Overlay is the mount options of a container's root filesystem.
func Overlay(container string) []string {
	return []string{"lowerdir=" + ImageDir(container), "upperdir=" + UpperDir(container), "workdir=" + WorkDir(container)}
}

// PractiseWord is a word on the kernel's command line: the agent shall practise
// before it greets, as Guest.Warm would have it.
const PractiseWord = "caisson.practise"

// BootIDFile holds the id that containers see as the machine's boot id.
const BootIDFile = "/run/caisson/boot_id"
