package guest

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/backend/backendrpc"
	"github.com/caisson-engine/caisson/vmshim/guestpb"
)

// # Practice
//
// Whatever a machine does for the first time takes several times as long as later:
// programs are read, tables are built, and an emulator translates each piece of code
// when it comes by. So a machine that nobody waits for makes a container of nobody's,
// by the same calls that the host makes: once before it is saved as a template, and
// again when a clone of it waits in the pool, with disks, since what an emulator has
// translated is not in a template.

// practiceSpec is what the engine asks for a container of which the user asked for
// nothing special. Its image is the initramfs.
//
//go:embed practice.json
var practiceSpec []byte

// practiceContainer is the container, and its sandbox.
const practiceContainer = "warm"

// How often: for a template once, since only what the guest keeps in memory counts;
// emulated code gets faster up to the third time.
const practicesSaved, practicesPooled = 1, 3

// practiceTimeout bounds all of it.
const practiceTimeout = time.Minute

// toPractise tells whether the host wants it before the agent greets.
func toPractise() bool {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return false
	}
	for _, word := range bytes.Fields(line) {
		if string(word) == guestpb.PractiseWord {
			return true
		}
	}
	return false
}

// Warm is guestpb.GuestServer.
func (a *agent) Warm(ctx context.Context, r *guestpb.WarmRequest) (*guestpb.Empty, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.setUp {
		return nil, fmt.Errorf("this machine is in use: %w", errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := context.WithTimeout(ctx, practiceTimeout)
	defer cancel()
	times := practicesSaved
	if r.GetImage() != "" {
		times = practicesPooled
	}
	err := practiseWords()
	for i := 0; i < times && err == nil; i++ {
		err = a.practise(ctx, r)
	}
	return empty, err
}

// practise makes the container, over a connection of its own to the agent's server,
// and takes back all that it left.
func (a *agent) practise(ctx context.Context, r *guestpb.WarmRequest) (err error) {
	const id = practiceContainer
	defer func() { err = errors.Join(err, takeBack(id)) }()
	if err := practiceRoot(id, r); err != nil {
		return fmt.Errorf("practice disks: %w", err)
	}
	if err := practiseNetwork(); err != nil {
		return fmt.Errorf("practice network: %w", err)
	}
	conn, err := a.dialSelf()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	remote := backendrpc.New(conn)
	if err := remote.Open(ctx, &backendpb.Sandbox{Id: id}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remote.Close(ctx, id)) }()
	events, err := remote.Events(ctx, 0)
	if err != nil {
		return err
	}
	return live(ctx, remote, events)
}

// practiceRoot mounts what the container's root is made of.
func practiceRoot(id string, r *guestpb.WarmRequest) error {
	for i := range 3 {
		if err := writeFile(id, &guestpb.File{Name: fmt.Sprintf("f%d", i), Data: []byte("practice\n"), Mode: 0o644}); err != nil {
			return err
		}
	}
	if r.GetImage() != "" {
		return mountRoot(id, r.GetImage(), r.GetScratch())
	}
	for _, dir := range []string{guestpb.ImageDir(id), guestpb.ScratchDir(id)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("/", guestpb.ImageDir(id), "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return overlayDirs(id)
}

// takeBack removes it. What is still mounted is not removed with it.
func takeBack(id string) error {
	for _, dir := range []string{guestpb.ScratchDir(id), guestpb.ImageDir(id)} {
		if err := unmount(dir); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	return os.RemoveAll(guestpb.ContainerDir(id))
}

// practiseWords encodes and decodes what the host will say once in a machine's life.
func practiseWords() error {
	for _, m := range []proto.Message{
		&guestpb.SetupRequest{
			Protocol: guestpb.Protocol, Entropy: []byte{1}, Time: 1, Hostname: "h", BootId: "b",
			Interfaces: []*guestpb.Interface{{Index: 1, Name: "i", Mac: []byte{1}, Mtu: 1, Addresses: []string{"a"}}},
			Routes:     []*guestpb.Route{{Destination: "d", Gateway: "g", Interface: "i"}},
			Sysctls:    map[string]string{"k": "v"},
		},
		&guestpb.SetupReply{Protocol: guestpb.Protocol, Version: "v", Kernel: "k"},
		&guestpb.PrepareRequest{
			Container: "c", Image: "i", Scratch: "s", Files: []*guestpb.File{{Name: "n", Data: []byte{1}, Mode: 1}},
			Shares: []*guestpb.Share{{Id: 1, File: true, ReadOnly: true}},
		},
	} {
		b, err := proto.Marshal(m)
		if err == nil {
			err = proto.Unmarshal(b, m.ProtoReflect().New().Interface())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// live is one container's life.
func live(ctx context.Context, b backend.Backend, events backend.EventStream) error {
	const id = practiceContainer
	ref := &backendpb.ProcessRef{Container: id}
	_, err := b.Create(ctx, &backendpb.Container{
		Id: id, Sandbox: id, Spec: practiceSpec, Io: &backendpb.IO{},
		Rootfs: []*backendpb.Mount{{Type: "overlay", Source: "overlay", Options: guestpb.Overlay(id)}},
	})
	if err != nil {
		return err
	}
	out, err := b.Attach(ctx, &backendpb.AttachOpen{Process: proto.CloneOf(ref), Stdout: true, Stderr: true})
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	if _, err := b.Start(ctx, ref); err != nil {
		return err
	}
	for {
		if _, err := out.Recv(); err != nil {
			break
		}
	}
	for {
		e, err := events.Recv()
		if err != nil {
			return err
		}
		if e.GetType() == backendpb.Event_EXITED {
			return b.Delete(ctx, ref)
		}
	}
}

// dialSelf is a connection to our own server.
func (a *agent) dialSelf() (*grpc.ClientConn, error) {
	ours, theirs := net.Pipe()
	go func() { _ = a.server.Serve(newOnce(theirs)) }()
	return grpc.NewClient("passthrough:self", append(backendrpc.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return ours, nil }))...)
}
