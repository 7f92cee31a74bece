//go:build linux

package initproc

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// maxGroups bounds the groups that a user gets from an image.
const maxGroups = 65536

const maxID = 1<<31 - 1

// identity is who the program runs as.
type identity struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// lookupUser resolves Process.User and GroupAdd in the container's own files, as
// docker's --user and --group-add do. "user" or "user:group", each a name or a
// number; a number needs no entry. A user found without a group given brings the
// groups that list it. Without User the numbers hold, but uid 0 alone is what
// Docker's empty user means, and brings root's groups.
func (p *Process) lookupUser(r root) (identity, error) {
	passwd, perr := r.readFile("etc/passwd")
	if p.User == "" && (p.UID != 0 || p.GID != 0 || len(p.Groups) > 0) {
		id := identity{uid: p.UID, gid: p.GID, home: "/", groups: p.Groups}
		if u, ok := findUser(string(passwd), "", id.uid, true); ok && u.home != "" {
			id.home = u.home
		}
		return id, p.addGroups(r, &id)
	}
	id := identity{home: "/"}
	user, group, _ := strings.Cut(p.User, ":")
	number, numeric := parseID(user)
	if user == "" {
		number, numeric = 0, true
	}
	u, found := findUser(string(passwd), user, number, numeric)
	switch {
	case found:
		id.uid, id.gid = u.uid, u.gid
		if u.home != "" {
			id.home = u.home
		}
	case numeric:
		id.uid = number
	default:
		return id, invalid("unable to find user "+user+": no matching entries in passwd file", "", unlessMissing(perr))
	}
	if group != "" {
		groups, gerr := r.readFile("etc/group")
		gid, ok := findGroup(string(groups), group)
		if !ok {
			return id, invalid("unable to find group "+group+": no matching entries in group file", "", unlessMissing(gerr))
		}
		id.gid = gid
	} else if found {
		groups, _ := r.readFile("etc/group") // no file, no groups
		eachGroup(string(groups), func(_ string, g uint32, members string) bool {
			for m := range strings.SplitSeq(members, ",") {
				if m == u.name {
					id.groups = append(id.groups, g)
					break
				}
			}
			return len(id.groups) < maxGroups
		})
	}
	id.groups = append(id.groups, p.Groups...)
	return id, p.addGroups(r, &id)
}

// addGroups adds what GroupAdd names, and the primary group: a file that denies
// its group more than others must deny it also to a program that changed its
// primary group (CVE-2022-36109).
func (p *Process) addGroups(r root, id *identity) error {
	if !slices.Contains(id.groups, id.gid) {
		id.groups = append([]uint32{id.gid}, id.groups...)
	}
	if len(p.GroupAdd) == 0 {
		return nil
	}
	groups, err := r.readFile("etc/group")
	for _, name := range p.GroupAdd {
		gid, ok := findGroup(string(groups), name)
		if !ok {
			return invalid("unable to find group "+name+": no matching entries in group file", "", unlessMissing(err))
		}
		id.groups = append(id.groups, gid)
	}
	return nil
}

// findGroup returns the number of a group given by name or number.
func findGroup(text, group string) (gid uint32, ok bool) {
	gid, ok = parseID(group)
	eachGroup(text, func(name string, g uint32, _ string) bool {
		if name == group {
			gid, ok = g, true
		}
		return name != group
	})
	return gid, ok
}

type passwdEntry struct {
	name     string
	uid, gid uint32
	home     string
}

// findUser returns the first entry with that name, or, if numeric, that uid.
func findUser(passwd, name string, uid uint32, numeric bool) (passwdEntry, bool) {
	for line := range strings.SplitSeq(passwd, "\n") {
		f := strings.Split(line, ":")
		if len(f) < 4 {
			continue
		}
		u, ok := parseID(f[2])
		g, ok2 := parseID(f[3])
		named := name != "" && f[0] == name
		if !ok || !ok2 || !named && (!numeric || u != uid) {
			continue
		}
		e := passwdEntry{name: f[0], uid: u, gid: g}
		if len(f) > 5 {
			e.home = f[5]
		}
		return e, true
	}
	return passwdEntry{}, false
}

// eachGroup calls f for each well-formed line until f answers false.
func eachGroup(text string, f func(name string, gid uint32, members string) bool) {
	for line := range strings.SplitSeq(text, "\n") {
		p := strings.Split(line, ":")
		if len(p) < 4 {
			continue
		}
		gid, ok := parseID(p[2])
		if ok && !f(p[0], gid, p[3]) {
			return
		}
	}
}

func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n <= maxID
}

// unlessMissing is err but for a file that is not there: that it lists nobody
// has been said.
func unlessMissing(err error) error {
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}
