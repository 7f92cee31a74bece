package diskquota

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// FS is a file system. A project is named by a directory that is of it.
type FS struct {
	dir     string
	problem error
}

// Open looks at the file system of dir, which must exist.
func Open(dir string) *FS { return &FS{dir, probe(dir)} }

// Problem says why the kernel keeps no limits here; nil if it does.
func (f *FS) Problem() error { return f.problem }

// Limit bounds what is in dirs together, also what is there already: bytes, and
// as many files as have one block each. They become one project, that of the
// first if it has one. 0 lifts the bound. It may be repeated.
func (f *FS) Limit(bytes int64, dirs ...string) error {
	if f.problem != nil {
		return f.problem
	}
	id, err := project(dirs[0])
	if err == nil && id == 0 {
		id, err = f.unused()
	}
	if err != nil {
		return err
	}
	// The bound comes first: nothing is made without it.
	q := diskQuota{
		version: 1, flags: fsProjQuota, mask: blockSoft | blockHard | inodeSoft | inodeHard, id: id,
		blockHard: uint64(max(bytes, 0)) / sector, inodeHard: uint64(max(bytes, 0)) / smallest,
	}
	if bytes > 0 { // 0 means no bound
		q.blockHard, q.inodeHard = max(q.blockHard, 1), max(q.inodeHard, fewest)
	}
	if err := f.quotactl(setLimits, id, unsafe.Pointer(&q)); err != nil {
		return fmt.Errorf("set the disk quota of %s: %w", dirs[0], err)
	}
	return assign(id, dirs)
}

// Join makes dirs part of the project of another directory.
func (f *FS) Join(with string, dirs ...string) error {
	if f.problem != nil {
		return f.problem
	}
	id, err := project(with)
	if err != nil || id == 0 {
		return err
	}
	return assign(id, dirs)
}

// Used is what everything in the project of dir takes, in bytes.
func (f *FS) Used(dir string) (int64, error) {
	if f.problem != nil {
		return 0, f.problem
	}
	id, err := project(dir)
	if err != nil || id == 0 {
		return 0, err
	}
	q, err := f.quota(id)
	return int64(q.blocks) * sector, err
}

const (
	sector   = 512  // bytes of the kernel's unit
	smallest = 4096 // bytes that a file takes at least, as a bound of their number counts
	fewest   = 64   // files that the least bound allows
	firstID  = 1 << 20
	tries    = 100
)

// unused is a project that nobody has. Projects are the file system's, which
// others may use as well: engines, and the host's owner.
func (f *FS) unused() (uint32, error) {
	for range tries {
		id := firstID + rand.Uint32N(1<<31-firstID)
		q, err := f.quota(id)
		if err != nil {
			return 0, err
		}
		if q.blocks == 0 && q.inodes == 0 && q.blockHard == 0 {
			return id, nil
		}
	}
	return 0, fmt.Errorf("%s: no project is free for a disk quota: %w", f.dir, errdefs.ErrResourceExhausted)
}

// diskQuota is struct fs_disk_quota of linux/dqblk_xfs.h.
type diskQuota struct {
	version, flags       int8
	mask                 uint16
	id                   uint32
	blockHard, blockSoft uint64
	inodeHard, inodeSoft uint64
	blocks, inodes       uint64
	_                    [56]byte
}

// quotaState is struct fs_quota_statv of the same.
type quotaState struct {
	version int8
	_       uint8
	flags   uint16
	_       [148]byte
}

// Commands and flags of linux/dqblk_xfs.h.
const (
	getQuota  = 'X'<<8 + 3
	setLimits = 'X'<<8 + 4
	getState  = 'X'<<8 + 8

	projectQuota = 2 // PRJQUOTA
	fsProjQuota  = 2 // FS_PROJ_QUOTA

	inodeSoft, inodeHard, blockSoft, blockHard = 1, 2, 4, 8

	enforced = 1 << 5 // FS_QUOTA_PDQ_ENFD
)

func (f *FS) quota(id uint32) (diskQuota, error) {
	var q diskQuota
	err := f.quotactl(getQuota, id, unsafe.Pointer(&q))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return diskQuota{}, nil // nobody has it
	}
	if err != nil {
		return q, fmt.Errorf("read a disk quota of %s: %w", f.dir, err)
	}
	return q, nil
}

func (f *FS) quotactl(cmd int, id uint32, arg unsafe.Pointer) error {
	return quotactl(f.dir, cmd, id, arg)
}

func quotactl(dir string, cmd int, id uint32, arg unsafe.Pointer) error {
	fd, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer fd.Close()
	if _, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, fd.Fd(), uintptr(cmd<<8|projectQuota), uintptr(id), uintptr(arg), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// probe says what is missing for project quotas.
func probe(dir string) error {
	st := quotaState{version: 1}
	err := quotactl(dir, getState, 0, unsafe.Pointer(&st))
	if err == nil && st.flags&enforced != 0 {
		_, err = project(dir)
		if err == nil {
			return nil
		}
	}
	remedy := "it must be ext4 or xfs"
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) == nil {
		if r, ok := remedies[fs.Type]; ok {
			remedy = r
		}
	}
	if err != nil {
		remedy += fmt.Sprintf(" (%v)", err)
	}
	return fmt.Errorf("the file system of %s has no project quotas: %s: %w", dir, remedy, errdefs.ErrFailedPrecondition)
}

// remedies tell by a file system's magic number how it gets project quotas.
var remedies = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "make them once with tune2fs -O project,quota -Q prjquota on the unmounted device, mount it with prjquota, and the kernel needs CONFIG_QFMT_V2",
	unix.XFS_SUPER_MAGIC:  "mount it with prjquota, and the kernel needs CONFIG_XFS_QUOTA",
}
