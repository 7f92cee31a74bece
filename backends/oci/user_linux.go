package oci

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// root is a container's root directory. Paths are walked inside it, whatever
// links the container made.
type root struct{ dir *os.File }

func openRoot(dir string) (*root, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &root{f}, nil
}

func (r *root) Close() error { return r.dir.Close() }

func (r *root) open(p string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(r.dir.Fd()), cmp.Or(strings.TrimPrefix(path.Clean("/"+p), "/"), "."), &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: p, Err: err}
	}
	return os.NewFile(uintptr(fd), p), nil
}

// maxFile bounds a file of accounts, in bytes.
const maxFile = 4 << 20

// read returns a regular file's content; none if there is no such file.
func (r *root) read(p string) string {
	f, err := r.open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return ""
	}
	b, _ := io.ReadAll(io.LimitReader(f, maxFile))
	return string(b)
}

// makeDir makes a directory and what is missing above it, for a user.
func (r *root) makeDir(p string, who *specs.User) error {
	at := ""
	for name := range strings.SplitSeq(strings.TrimPrefix(path.Clean("/"+p), "/"), "/") {
		if name == "" {
			continue
		}
		parent, err := r.open(at, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		err = unix.Mkdirat(int(parent.Fd()), name, 0o755)
		if err == nil {
			err = unix.Fchownat(int(parent.Fd()), name, int(who.UID), int(who.GID), unix.AT_SYMLINK_NOFOLLOW)
		}
		_ = parent.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		at = path.Join(at, name)
	}
	d, err := r.open(p, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	return d.Close()
}

// resolve fills in whom a process runs as, by Docker's rules for --user and
// --group-add: the spec has the words, the container's root has the accounts, and
// a runtime knows only numbers.
func resolve(r *root, p *specs.Process, annotations map[string]string) (*specs.User, error) {
	word := p.User.Username
	p.User.Username = ""
	if word == "" {
		word = annotations[annotationUser]
	}
	passwd := r.read("etc/passwd")
	home := "/"
	if word == "" && (p.User.UID != 0 || p.User.GID != 0 || len(p.User.AdditionalGids) > 0) {
		if u := findUser(passwd, "", p.User.UID, true); u != nil {
			home = cmp.Or(u.home, home)
		}
	} else if err := lookup(r, passwd, word, &p.User, &home); err != nil {
		return nil, err
	}
	// The primary group too: a file that denies its group more than others must
	// deny it also to a program that changed its primary group.
	if !slices.Contains(p.User.AdditionalGids, p.User.GID) {
		p.User.AdditionalGids = append([]uint32{p.User.GID}, p.User.AdditionalGids...)
	}
	if names := annotations[annotationGroupAdd]; names != "" {
		groups := r.read("etc/group")
		for name := range strings.SplitSeq(names, ",") {
			gid, ok := findGroup(groups, name)
			if !ok {
				return nil, noGroup(name)
			}
			p.User.AdditionalGids = append(p.User.AdditionalGids, gid)
		}
	}
	if !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		p.Env = append(p.Env, "HOME="+home)
	}
	return &p.User, nil
}

// lookup resolves "user" or "user:group", each a name or a number.
func lookup(r *root, passwd, word string, to *specs.User, home *string) error {
	user, group, _ := strings.Cut(word, ":")
	number, numeric := parseID(user)
	if user == "" {
		number, numeric = 0, true
	}
	u := findUser(passwd, user, number, numeric)
	switch {
	case u != nil:
		to.UID, to.GID, *home = u.uid, u.gid, cmp.Or(u.home, *home)
	case numeric:
		to.UID, to.GID = number, 0
	default:
		return fmt.Errorf("unable to find user %s: no matching entries in passwd file: %w", user, errdefs.ErrInvalidArgument)
	}
	if group != "" {
		gid, ok := findGroup(r.read("etc/group"), group)
		if !ok {
			return noGroup(group)
		}
		to.GID = gid
	} else if u != nil {
		to.AdditionalGids = append(to.AdditionalGids, groupsOf(r.read("etc/group"), u.name)...)
	}
	return nil
}

func noGroup(name string) error {
	return fmt.Errorf("unable to find group %s: no matching entries in group file: %w", name, errdefs.ErrInvalidArgument)
}

type account struct {
	name     string
	uid, gid uint32
	home     string
}

// findUser returns the first entry with that name, or, if numeric, that uid.
func findUser(passwd, name string, uid uint32, numeric bool) *account {
	for line := range strings.SplitSeq(passwd, "\n") {
		f := strings.Split(line, ":")
		if len(f) < 6 {
			continue
		}
		u, ok := parseID(f[2])
		g, ok2 := parseID(f[3])
		if ok && ok2 && (name != "" && f[0] == name || numeric && u == uid) {
			return &account{name: f[0], uid: u, gid: g, home: f[5]}
		}
	}
	return nil
}

// findGroup returns the number of a group given by name or number.
func findGroup(text, group string) (gid uint32, ok bool) {
	for line := range strings.SplitSeq(text, "\n") {
		if f := strings.Split(line, ":"); len(f) > 3 && f[0] == group {
			if gid, ok = parseID(f[2]); ok {
				return gid, ok
			}
		}
	}
	return parseID(group)
}

// maxGroups bounds the groups that a user gets from an image.
const maxGroups = 65536

// groupsOf are the groups that list a user.
func groupsOf(text, user string) (gids []uint32) {
	for line := range strings.SplitSeq(text, "\n") {
		f := strings.Split(line, ":")
		if len(f) < 4 || len(gids) == maxGroups || !slices.Contains(strings.Split(f[3], ","), user) {
			continue
		}
		if gid, ok := parseID(f[2]); ok {
			gids = append(gids, gid)
		}
	}
	return gids
}

func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err == nil
}

// resolve is the same for an exec, in the root that the container has now.
func (b *Backend) resolve(c *container, p *specs.Process) error {
	dir := c.rootfs()
	if !b.dialect.ownKernel {
		// With its mounts.
		dir = "/proc/" + strconv.Itoa(c.init.pid) + "/root"
	}
	r, err := openRoot(dir)
	if err != nil {
		return fmt.Errorf("container %s: %w: %w", c.id, err, errdefs.ErrFailedPrecondition)
	}
	defer func() { _ = r.Close() }()
	// The user is the exec's own, the groups are the container's.
	_, err = resolve(r, p, map[string]string{annotationGroupAdd: c.annotations[annotationGroupAdd]})
	return err
}
