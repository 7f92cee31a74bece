package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/vmshim/guestpb"
)

// agent is the Guest service.
type agent struct {
	guestpb.UnimplementedGuestServer
	version    string
	containers backend.Backend
	server     *grpc.Server // of this agent
	shares     *shares

	mu       sync.Mutex
	setUp    bool
	prepared map[string]bool
}

var empty = &guestpb.Empty{}

// Setup is guestpb.GuestServer.
func (a *agent) Setup(_ context.Context, r *guestpb.SetupRequest) (*guestpb.SetupReply, error) {
	if r.GetProtocol() != guestpb.Protocol {
		return nil, fmt.Errorf("the host speaks protocol %d, this guest %d: %w", r.GetProtocol(), guestpb.Protocol, errdefs.ErrFailedPrecondition)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.setUp {
		return nil, fmt.Errorf("this machine was set up before: %w", errdefs.ErrFailedPrecondition)
	}
	if err := reseed(r.GetEntropy()); err != nil {
		return nil, err
	}
	tv := unix.NsecToTimeval(r.GetTime())
	if err := unix.Settimeofday(&tv); err != nil {
		return nil, fmt.Errorf("clock: %w", err)
	}
	if err := unix.Sethostname([]byte(r.GetHostname())); err != nil {
		return nil, fmt.Errorf("host name: %w", err)
	}
	if err := os.WriteFile(guestpb.BootIDFile, []byte(r.GetBootId()+"\n"), 0o444); err != nil {
		return nil, fmt.Errorf("boot id: %w", err)
	}
	if err := configureNetwork(r); err != nil {
		return nil, err
	}
	a.setUp = true
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	return &guestpb.SetupReply{Protocol: guestpb.Protocol, Version: a.version, Kernel: unix.ByteSliceToString(uts.Release[:])}, nil
}

// The ioctls of /dev/urandom that <linux/random.h> defines.
const (
	rndAddEntropy = 0x40085203
	rndReseedCRNG = 0x5207
)

// reseed gives the kernel entropy that no clone has, and makes it use it now.
func reseed(entropy []byte) error {
	if len(entropy) < 32 || len(entropy) > 256 {
		return fmt.Errorf("%d bytes of entropy, want 32 to 256: %w", len(entropy), errdefs.ErrInvalidArgument)
	}
	f, err := os.OpenFile("/dev/urandom", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("entropy: %w", err)
	}
	defer f.Close()
	var pool struct {
		bits, size int32
		buf        [256]byte
	}
	pool.size = int32(copy(pool.buf[:], entropy))
	pool.bits = pool.size * 8
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndAddEntropy, uintptr(unsafe.Pointer(&pool))); errno != 0 {
		return fmt.Errorf("entropy: %w", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndReseedCRNG, 0); errno != 0 {
		return fmt.Errorf("entropy: %w", errno)
	}
	return nil
}

var (
	validName   = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)
	validDevice = regexp.MustCompile(`^vd[a-z]$`)
)

// Prepare is guestpb.GuestServer.
func (a *agent) Prepare(_ context.Context, r *guestpb.PrepareRequest) (*guestpb.Empty, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := r.GetContainer()
	switch {
	case !a.setUp:
		return nil, fmt.Errorf("this machine was not set up: %w", errdefs.ErrFailedPrecondition)
	case !validName.MatchString(id):
		return nil, fmt.Errorf("invalid container id %q: %w", id, errdefs.ErrInvalidArgument)
	case a.prepared[id]:
		return nil, fmt.Errorf("container %s is prepared: %w", id, errdefs.ErrAlreadyExists)
	}
	a.prepared[id] = true
	if err := mountRoot(id, r.GetImage(), r.GetScratch()); err != nil {
		return nil, err
	}
	for _, sh := range r.GetShares() {
		if err := a.shares.mount(id, sh); err != nil {
			return nil, err
		}
	}
	for _, f := range r.GetFiles() {
		if err := writeFile(id, f); err != nil {
			return nil, err
		}
	}
	return empty, nil
}

// mountRoot mounts what a container's root filesystem is made of.
func mountRoot(id, image, scratch string) error {
	if err := mountDisk(image, guestpb.ImageDir(id), "erofs", unix.MS_RDONLY|unix.MS_NODEV); err != nil {
		return err
	}
	if err := mountDisk(scratch, guestpb.ScratchDir(id), "ext4", unix.MS_NOATIME); err != nil {
		return err
	}
	if err := overlayDirs(id); err != nil {
		return fmt.Errorf("writable disk of container %s: %w", id, err)
	}
	return nil
}

// mountDisk mounts a disk, which may still be on its way.
func mountDisk(device, target, fstype string, flags uintptr) error {
	if !validDevice.MatchString(device) {
		return fmt.Errorf("invalid disk %q: %w", device, errdefs.ErrInvalidArgument)
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	var err error
	for range 100 {
		if err = unix.Mount("/dev/"+device, target, fstype, flags, ""); err == nil {
			return nil
		}
		// A disk that was put in just now may still show its old size.
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("mount %s of %s: %w", fstype, device, err)
}

// overlayDirs makes the directories of an overlay on a new disk; its root looks
// as the image's does.
func overlayDirs(id string) error {
	upper := guestpb.UpperDir(id)
	if err := os.Mkdir(upper, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	} else if err == nil {
		var st unix.Stat_t
		if err := unix.Stat(guestpb.ImageDir(id), &st); err != nil {
			return err
		}
		if err := unix.Chown(upper, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
		if err := unix.Chmod(upper, st.Mode&0o7777); err != nil {
			return err
		}
	}
	if err := os.Mkdir(guestpb.WorkDir(id), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func writeFile(id string, f *guestpb.File) error {
	if !validName.MatchString(f.GetName()) {
		return fmt.Errorf("invalid file name %q: %w", f.GetName(), errdefs.ErrInvalidArgument)
	}
	path := guestpb.FilePath(id, f.GetName())
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, f.GetData(), 0o600); err != nil {
		return err
	}
	return os.Chmod(path, fs.FileMode(f.GetMode()&0o777))
}

// Usage is guestpb.GuestServer.
func (a *agent) Usage(_ context.Context, r *guestpb.UsageRequest) (*guestpb.UsageReply, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := r.GetContainer()
	if !a.prepared[id] {
		return nil, fmt.Errorf("no container %q: %w", id, errdefs.ErrNotFound)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(guestpb.ScratchDir(id), &st); err != nil {
		return nil, fmt.Errorf("writable disk of container %s: %w", id, err)
	}
	return &guestpb.UsageReply{Bytes: int64(st.Blocks-st.Bfree) * st.Bsize}, nil
}

// Shutdown is guestpb.GuestServer.
func (a *agent) Shutdown(ctx context.Context, _ *guestpb.Empty) (*guestpb.Empty, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	list, err := a.containers.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range list.GetContainers() {
		if err := a.containers.Delete(ctx, &backendpb.ProcessRef{Container: c.GetInit().GetProcess().GetContainer()}); err != nil {
			return nil, err
		}
	}
	unix.Sync()
	var errs []error
	for id := range a.prepared {
		shares, err := filepath.Glob(filepath.Join(guestpb.ContainerDir(id), "shares", "*"))
		errs = append(errs, err)
		for _, dir := range append(shares, guestpb.ScratchDir(id), guestpb.ImageDir(id)) {
			if err := unmount(dir); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", dir, err))
			}
		}
		delete(a.prepared, id)
	}
	return empty, errors.Join(errs...)
}

// unmount waits a little for what a killed process still holds.
func unmount(dir string) error {
	for tries := 0; ; tries++ {
		err := unix.Unmount(dir, 0)
		if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) || tries == 50 {
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
				return nil
			}
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}
