//go:build linux

package mount

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/pack"
)

// Options are the parsed options of one OCI mount.
type Options struct {
	// Set and Clear are MOUNT_ATTR_ bits of this mount; RecSet and RecClear of
	// it and everything mounted below it.
	Set, Clear       uint64
	RecSet, RecClear uint64
	// Propagation is MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE, with
	// MS_REC where it holds for everything below; 0 leaves it alone.
	Propagation uint64
	// Bind says that the source is a path, and Recursive that what is mounted
	// below it comes along.
	Bind, Recursive bool
	// CopyUp fills a new tmpfs, or the source of a bind if it is empty, with what
	// its target held.
	CopyUp bool
	// IDMap maps the owners of a bind's files with the container's mapping.
	IDMap bool
	// Data are the options that the filesystem itself understands.
	Data []string
}

// Visit encodes or decodes o.
func (o *Options) Visit(c *pack.Coder) {
	c.Uint64(&o.Set)
	c.Uint64(&o.Clear)
	c.Uint64(&o.RecSet)
	c.Uint64(&o.RecClear)
	c.Uint64(&o.Propagation)
	c.Bool(&o.Bind)
	c.Bool(&o.Recursive)
	c.Bool(&o.CopyUp)
	c.Bool(&o.IDMap)
	c.Strings(&o.Data)
}

const atimeMask = unix.MOUNT_ATTR__ATIME

// Kinds of what an option does besides setting and clearing bits.
const (
	bindFlag = 1 << iota
	recursiveFlag
	copyUpFlag
	idMapFlag
)

// option is a known mount option. clear is applied before set.
type option struct {
	name        string
	set, clear  uint64
	propagation uint64
	flags       uint8
}

// optionTable is all that is known of mount options; any other word is the
// filesystem's own. It is a list and not a map, because a map is built when the
// program starts, and this is also in caisson-init, which never asks.
var optionTable = [...]option{
	{name: "ro", set: unix.MOUNT_ATTR_RDONLY},
	{name: "rw", clear: unix.MOUNT_ATTR_RDONLY},
	{name: "nosuid", set: unix.MOUNT_ATTR_NOSUID},
	{name: "suid", clear: unix.MOUNT_ATTR_NOSUID},
	{name: "nodev", set: unix.MOUNT_ATTR_NODEV},
	{name: "dev", clear: unix.MOUNT_ATTR_NODEV},
	{name: "noexec", set: unix.MOUNT_ATTR_NOEXEC},
	{name: "exec", clear: unix.MOUNT_ATTR_NOEXEC},
	{name: "nodiratime", set: unix.MOUNT_ATTR_NODIRATIME},
	{name: "diratime", clear: unix.MOUNT_ATTR_NODIRATIME},
	{name: "nosymfollow", set: unix.MOUNT_ATTR_NOSYMFOLLOW},
	{name: "symfollow", clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
	// The kernel keeps the access time mode as one value, so each word replaces it.
	{name: "noatime", set: unix.MOUNT_ATTR_NOATIME, clear: atimeMask},
	{name: "strictatime", set: unix.MOUNT_ATTR_STRICTATIME, clear: atimeMask},
	{name: "relatime", set: unix.MOUNT_ATTR_RELATIME, clear: atimeMask},
	{name: "atime", set: unix.MOUNT_ATTR_RELATIME, clear: atimeMask},
	{name: "norelatime", set: unix.MOUNT_ATTR_STRICTATIME, clear: atimeMask},
	{name: "nostrictatime", set: unix.MOUNT_ATTR_RELATIME, clear: atimeMask},

	{name: "bind", flags: bindFlag},
	{name: "rbind", flags: bindFlag | recursiveFlag},

	{name: "shared", propagation: unix.MS_SHARED},
	{name: "rshared", propagation: unix.MS_SHARED | unix.MS_REC},
	{name: "slave", propagation: unix.MS_SLAVE},
	{name: "rslave", propagation: unix.MS_SLAVE | unix.MS_REC},
	{name: "private", propagation: unix.MS_PRIVATE},
	{name: "rprivate", propagation: unix.MS_PRIVATE | unix.MS_REC},
	{name: "unbindable", propagation: unix.MS_UNBINDABLE},
	{name: "runbindable", propagation: unix.MS_UNBINDABLE | unix.MS_REC},

	{name: "tmpcopyup", flags: copyUpFlag},
	{name: "x-caisson.copyup", flags: copyUpFlag},
	{name: "idmap", flags: idMapFlag},
	{name: "ridmap", flags: idMapFlag},

	// Words of mount(8) and of Docker that ask for what is the case anyway, or
	// that only other tools read.
	{name: "defaults"}, {name: "auto"}, {name: "noauto"}, {name: "user"}, {name: "nouser"},
	{name: "_netdev"}, {name: "loud"}, {name: "silent"}, {name: "nomand"}, {name: "noiversion"},
	{name: "newinstance"}, // each devpts mount has been an instance of its own since 4.7
}

func lookup(name string) *option {
	for i := range optionTable {
		if optionTable[i].name == name {
			return &optionTable[i]
		}
	}
	return nil
}

// Parse sorts mount options. It never fails: the filesystem refuses what nobody
// knows.
func Parse(words []string) Options {
	var o Options
	for _, w := range words {
		if k := lookup(w); k != nil {
			o.Clear = o.Clear&^k.set | k.clear
			o.Set = o.Set&^k.clear | k.set
			if k.propagation != 0 {
				o.Propagation = k.propagation
			}
			o.Bind = o.Bind || k.flags&bindFlag != 0
			o.Recursive = o.Recursive || k.flags&recursiveFlag != 0
			o.CopyUp = o.CopyUp || k.flags&copyUpFlag != 0
			o.IDMap = o.IDMap || k.flags&idMapFlag != 0
			continue
		}
		// "rro" and its like: the same for everything mounted below.
		if rest, ok := strings.CutPrefix(w, "r"); ok {
			if k := lookup(rest); k != nil && k.set|k.clear != 0 {
				o.RecClear = o.RecClear&^k.set | k.clear
				o.RecSet = o.RecSet&^k.clear | k.set
				continue
			}
		}
		if w != "" {
			o.Data = append(o.Data, w)
		}
	}
	return o
}
