//go:build linux

// Package sharetest tries what programs do with files and tells what came of it: the
// same in any directory, if that is what its file system promises. Observe in one
// directory of a host and in a share of another, as root, and compare.
package sharetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// check is one thing to try, in an empty directory of its own; what it returns is the
// observation.
type check struct {
	name string
	try  func(dir string) (any, error)
}

// Observe runs all checks below dir. Each line says what one saw.
func Observe(dir string) (lines []string) {
	unix.Umask(0)
	for _, c := range checks {
		at := filepath.Join(dir, c.name)
		err := os.Mkdir(at, 0o777)
		var saw any
		if err == nil {
			saw, err = c.try(at)
		}
		if err != nil {
			errno := syscall.Errno(0)
			if errors.As(err, &errno) {
				err = errno
			}
			saw = fmt.Sprint("error: ", err)
		}
		lines = append(lines, fmt.Sprintf("%s: %v", c.name, saw))
	}
	return lines
}

// Child is what a process must call first that Observe may start anew. With the
// arguments of Command it observes.
func Child() {
	if len(os.Args) == 3 && os.Args[1] == "sharetest" {
		for _, line := range Observe(os.Args[2]) {
			fmt.Printf("%q\n", line)
		}
		os.Exit(0)
	}
	if len(os.Args) == 4 && os.Args[1] == "sharetest-as-user" {
		umask(os.Args[3])
		os.Exit(0)
	}
	if len(os.Args) == 4 && os.Args[1] == "sharetest-lock" {
		fmt.Print(tryLocks(os.Args[3]))
		os.Exit(0)
	}
}

// Command observes in a process of its own, which whoever serves the directory needs:
// one that waits for itself may wait for ever. It prints a quoted line each.
func Command(ctx context.Context, dir string) *exec.Cmd {
	return exec.CommandContext(ctx, "/proc/self/exe", "sharetest", dir)
}

func child(credential *syscall.Credential, args ...string) (string, error) {
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// look is what stat says, but for what differs between two directories.
func look(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err.Error()
	}
	size := st.Size
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		size = 0
	}
	return fmt.Sprintf("%o %d:%d links %d size %d", st.Mode, st.Uid, st.Gid, st.Nlink, size)
}

func write(path, text string) error { return os.WriteFile(path, []byte(text), 0o666) }

func umask(dir string) {
	unix.Umask(0o027)
	for _, step := range []error{
		write(filepath.Join(dir, "file"), "mine"), os.Mkdir(filepath.Join(dir, "dir"), 0o777),
		os.Symlink("file", filepath.Join(dir, "link")), unix.Mkfifo(filepath.Join(dir, "fifo"), 0o666),
		write(filepath.Join(dir, "setgid/file"), "group"), os.Mkdir(filepath.Join(dir, "setgid/dir"), 0o777),
	} {
		fmt.Println(step)
	}
	fmt.Println(write(filepath.Join(dir, "closed/file"), "no"))
	_, err := os.ReadFile(filepath.Join(dir, "secret"))
	fmt.Println(err)
	fmt.Println(os.Chown(filepath.Join(dir, "file"), 0, 0))
	fmt.Println(os.Remove(filepath.Join(dir, "sticky/root")))
}

func tryLocks(path string) string {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	record := func(typ int16, start, length int64) error {
		return syscall.FcntlFlock(f.Fd(), unix.F_SETLK, &syscall.Flock_t{Type: typ, Start: start, Len: length})
	}
	probe := syscall.Flock_t{Type: unix.F_WRLCK, Start: 0, Len: 5}
	err = syscall.FcntlFlock(f.Fd(), unix.F_GETLK, &probe)
	return fmt.Sprint(record(unix.F_WRLCK, 0, 5), record(unix.F_RDLCK, 0, 5), record(unix.F_WRLCK, 10, 5),
		unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), err, probe.Type, probe.Start, probe.Len)
}

var checks = []check{
	{"modes", func(d string) (any, error) {
		var all []string
		for _, mode := range []uint32{0o644, 0o000, 0o4755, 0o2750, 0o1777} {
			p := filepath.Join(d, fmt.Sprintf("%o", mode))
			fd, err := unix.Open(p, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, mode)
			if err != nil {
				return nil, err
			}
			unix.Close(fd)
			all = append(all, look(p))
			if err := unix.Chmod(p, 0o640); err != nil {
				return nil, err
			}
			all = append(all, look(p))
		}
		return all, nil
	}},
	{"owners", func(d string) (any, error) {
		p, l := filepath.Join(d, "f"), filepath.Join(d, "l")
		if err := errors.Join(write(p, "x"), os.Symlink("f", l), os.Lchown(p, 1000, 2000), os.Lchown(l, 3000, -1)); err != nil {
			return nil, err
		}
		return []string{look(p), look(l)}, nil
	}},
	{"users", func(d string) (any, error) {
		setgid, sticky := filepath.Join(d, "setgid"), filepath.Join(d, "sticky")
		if err := errors.Join(os.Mkdir(setgid, 0o777), os.Chown(setgid, 0, 4000), unix.Chmod(setgid, 0o2777), os.Mkdir(filepath.Join(d, "closed"), 0o755),
			os.Mkdir(sticky, 0o777), unix.Chmod(sticky, 0o1777), write(filepath.Join(sticky, "root"), "x"),
			os.WriteFile(filepath.Join(d, "secret"), nil, 0o600), os.Chmod(d, 0o777)); err != nil {
			return nil, err
		}
		out, err := child(&syscall.Credential{Uid: 1000, Gid: 2000}, "sharetest-as-user", "-", d)
		all := []string{strings.ReplaceAll(out, d, "DIR")}
		for _, name := range []string{"file", "dir", "link", "fifo", "setgid/file", "setgid/dir"} {
			all = append(all, name+" "+look(filepath.Join(d, name)))
		}
		return all, err
	}},
	{"links", func(d string) (any, error) {
		a, b, sub := filepath.Join(d, "a"), filepath.Join(d, "b"), filepath.Join(d, "sub")
		if err := errors.Join(write(a, "one"), os.Link(a, b), os.Mkdir(sub, 0o755), os.Link(b, filepath.Join(sub, "c"))); err != nil {
			return nil, err
		}
		var x, y unix.Stat_t
		if err := errors.Join(unix.Stat(a, &x), unix.Stat(filepath.Join(sub, "c"), &y)); err != nil {
			return nil, err
		}
		before := look(a)
		if err := errors.Join(write(b, "two!"), os.Remove(a)); err != nil {
			return nil, err
		}
		return []any{before, look(b), x.Ino == y.Ino, os.Link(b, sub) != nil}, nil
	}},
	{"symlinks", func(d string) (any, error) {
		l, long := filepath.Join(d, "l"), strings.Repeat("x/", 2000)
		if err := errors.Join(os.Symlink("../../../etc/passwd", l), os.Symlink(long, filepath.Join(d, "long"))); err != nil {
			return nil, err
		}
		got, err := os.Readlink(filepath.Join(d, "long"))
		to, err2 := os.Readlink(l)
		return []any{to, got == long, look(l)}, errors.Join(err, err2)
	}},
	{"rename", func(d string) (any, error) {
		a, b := filepath.Join(d, "a"), filepath.Join(d, "b")
		if err := errors.Join(write(a, "a"), write(b, "bb"), os.Mkdir(filepath.Join(d, "full"), 0o755), write(filepath.Join(d, "full/x"), ""), os.Mkdir(filepath.Join(d, "other"), 0o755)); err != nil {
			return nil, err
		}
		all := []any{
			unix.Renameat2(-1, a, -1, b, unix.RENAME_NOREPLACE), unix.Renameat2(-1, a, -1, b, unix.RENAME_EXCHANGE), look(a),
			os.Rename(a, b) == nil, look(b), unix.Rename(filepath.Join(d, "other"), filepath.Join(d, "full")), unix.Rename(d, filepath.Join(d, "other/self")),
			unix.Rename(b, filepath.Join(d, "full/moved")), unix.Rmdir(filepath.Join(d, "full")), unix.Unlink(filepath.Join(d, "other")), unix.Rmdir(filepath.Join(d, "full/moved")),
		}
		return all, nil
	}},
	{"unlinked", func(d string) (any, error) {
		p := filepath.Join(d, "f")
		f, err := os.OpenFile(p, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if err := errors.Join(os.Remove(p), f.Truncate(100)); err != nil {
			return nil, err
		}
		_, err = f.WriteAt([]byte("still"), 95)
		var st unix.Stat_t
		err = errors.Join(err, unix.Fstat(int(f.Fd()), &st), f.Chmod(0o640))
		buf := make([]byte, 5)
		_, rerr := f.ReadAt(buf, 95)
		return []any{st.Nlink, st.Size, string(buf), rerr}, err
	}},
	{"tmpfile", func(d string) (any, error) {
		fd, err := unix.Open(d, unix.O_TMPFILE|unix.O_RDWR, 0o640)
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		if _, err := unix.Write(fd, []byte("named later")); err != nil {
			return nil, err
		}
		p := filepath.Join(d, "f")
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, p, unix.AT_SYMLINK_FOLLOW)
		b, rerr := os.ReadFile(p)
		return []any{look(p), string(b), rerr}, err
	}},
	{"append", func(d string) (any, error) {
		p := filepath.Join(d, "log")
		for _, word := range []string{"one ", "two ", "three"} {
			f, err := os.OpenFile(p, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
			if err != nil {
				return nil, err
			}
			_, err = f.WriteString(word)
			if err = errors.Join(err, f.Close()); err != nil {
				return nil, err
			}
		}
		b, err := os.ReadFile(p)
		return string(b), err
	}},
	{"truncate", func(d string) (any, error) {
		p := filepath.Join(d, "f")
		if err := errors.Join(write(p, "0123456789"), os.Truncate(p, 4)); err != nil {
			return nil, err
		}
		a, _ := os.ReadFile(p)
		if err := os.Truncate(p, 8); err != nil {
			return nil, err
		}
		b, _ := os.ReadFile(p)
		f, err := os.OpenFile(p, os.O_TRUNC|os.O_RDWR, 0)
		if err == nil {
			err = f.Close()
		}
		return []any{string(a), b, look(p)}, err
	}},
	{"sparse", func(d string) (any, error) {
		f, err := os.Create(filepath.Join(d, "f"))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte("end"), 1<<20)
		hole, herr := unix.Seek(int(f.Fd()), 0, unix.SEEK_HOLE)
		data, derr := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
		falloc := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
		punch := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1<<20, 4096)
		buf := make([]byte, 3)
		_, rerr := f.ReadAt(buf, 1<<20)
		return []any{hole, herr, data > 0, derr, falloc, punch, buf, rerr, look(f.Name())}, err
	}},
	{"copy-range", func(d string) (any, error) {
		a, b := filepath.Join(d, "a"), filepath.Join(d, "b")
		data := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
		if err := os.WriteFile(a, data, 0o600); err != nil {
			return nil, err
		}
		in, err := os.Open(a)
		if err != nil {
			return nil, err
		}
		defer in.Close()
		out, err := os.Create(b)
		if err != nil {
			return nil, err
		}
		defer out.Close()
		for total := 0; total < len(data); {
			n, err := unix.CopyFileRange(int(in.Fd()), nil, int(out.Fd()), nil, len(data), 0)
			if err != nil || n == 0 {
				return nil, fmt.Errorf("after %d: %w", total, err)
			}
			total += n
		}
		got, err := os.ReadFile(b)
		return bytes.Equal(got, data), err
	}},
	{"mapped", func(d string) (any, error) {
		f, err := os.Create(filepath.Join(d, "f"))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if err := f.Truncate(3 * 4096); err != nil {
			return nil, err
		}
		m, err := unix.Mmap(int(f.Fd()), 0, 3*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, err
		}
		copy(m[5000:], "through memory")
		err = errors.Join(unix.Msync(m, unix.MS_SYNC), unix.Munmap(m))
		buf := make([]byte, 14)
		_, rerr := f.ReadAt(buf, 5000)
		return string(buf), errors.Join(err, rerr)
	}},
	{"times", func(d string) (any, error) {
		p := filepath.Join(d, "f")
		at := time.Unix(1_000_000_000, 123_456_789)
		if err := errors.Join(write(p, "x"), os.Chtimes(p, at, at.Add(time.Second))); err != nil {
			return nil, err
		}
		var st unix.Stat_t
		err := unix.Stat(p, &st)
		touch := unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}, 0)
		var now unix.Stat_t
		err = errors.Join(err, touch, unix.Stat(p, &now))
		return []any{st.Atim, st.Mtim, now.Atim == st.Atim, time.Since(time.Unix(now.Mtim.Unix())).Abs() < time.Minute}, err
	}},
	{"attributes", func(d string) (any, error) {
		p := filepath.Join(d, "f")
		if err := write(p, "x"); err != nil {
			return nil, err
		}
		if err := unix.Setxattr(p, "user.colour", []byte("blue"), 0); err != nil {
			return nil, err
		}
		again := unix.Setxattr(p, "user.colour", []byte("red"), unix.XATTR_CREATE)
		buf := make([]byte, 100)
		n, err := unix.Getxattr(p, "user.colour", buf)
		value := string(buf[:max(n, 0)])
		size, serr := unix.Getxattr(p, "user.colour", nil)
		_, small := unix.Getxattr(p, "user.colour", buf[:1])
		n, lerr := unix.Listxattr(p, buf)
		names := string(buf[:max(n, 0)])
		gone := unix.Removexattr(p, "user.colour")
		_, none := unix.Getxattr(p, "user.colour", buf)
		return []any{again, value, size, small, strings.Contains(names, "user.colour"), gone, none}, errors.Join(err, serr, lerr)
	}},
	{"set-id", func(d string) (any, error) {
		p := filepath.Join(d, "f")
		if err := errors.Join(write(p, "x"), unix.Chmod(p, 0o6777)); err != nil {
			return nil, err
		}
		asRoot := write(p, "root")
		kept := look(p)
		chown := os.Chown(p, 1000, 1000)
		return []any{asRoot, kept, chown, look(p)}, nil
	}},
	{"locks", func(d string) (any, error) {
		p := filepath.Join(d, "f")
		f, err := os.Create(p)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		hold := func(typ int16) error {
			return syscall.FcntlFlock(f.Fd(), unix.F_SETLK, &syscall.Flock_t{Type: typ, Start: 0, Len: 5})
		}
		try := func() string {
			out, err := child(nil, "sharetest-lock", "-", p)
			return fmt.Sprint(out, err)
		}
		free := try()
		err = errors.Join(hold(unix.F_WRLCK), unix.Flock(int(f.Fd()), unix.LOCK_EX))
		held := try()
		// Closing another descriptor of the file gives record locks up.
		g, gerr := os.Open(p)
		if gerr == nil {
			gerr = g.Close()
		}
		after := try()
		return []string{free, held, after}, errors.Join(err, gerr)
	}},
	{"many", func(d string) (any, error) {
		const n = 300
		for i := range n {
			if err := write(filepath.Join(d, fmt.Sprintf("file-with-a-name-of-some-length-%d", i)), ""); err != nil {
				return nil, err
			}
		}
		entries, err := os.ReadDir(d)
		var names []string
		for i, e := range entries {
			names = append(names, e.Name())
			if i%2 == 0 {
				err = errors.Join(err, os.Remove(filepath.Join(d, e.Name())))
			}
		}
		sort.Strings(names)
		rest, rerr := os.ReadDir(d)
		return []any{len(names), len(rest), names[0], names[n-1]}, errors.Join(err, rerr)
	}},
	{"names", func(d string) (any, error) {
		odd := "späce \n\xff*"
		return []any{
			write(filepath.Join(d, odd), "odd"), look(filepath.Join(d, odd)), unix.Mkdir(filepath.Join(d, strings.Repeat("n", 255)), 0o700),
			unix.Mkdir(filepath.Join(d, strings.Repeat("n", 256)), 0o700), unix.Mkdir(filepath.Join(d, "missing/x"), 0o700),
			unix.Rmdir(filepath.Join(d, odd)), unix.Mkdir(d, 0o700),
		}, nil
	}},
	{"large", func(d string) (any, error) {
		p := filepath.Join(d, "f")
		data := make([]byte, 5<<20+12345)
		for i := range data {
			data[i] = byte(i * i >> 7)
		}
		if err := os.WriteFile(p, data, 0o600); err != nil {
			return nil, err
		}
		got, err := os.ReadFile(p)
		var st unix.Statfs_t
		return []any{bytes.Equal(got, data), look(p), unix.Statfs(p, &st), st.Bavail > 0}, err
	}},
}
