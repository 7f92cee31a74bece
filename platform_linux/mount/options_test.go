//go:build linux

package mount

import (
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	for words, want := range map[string]Options{
		"":                          {},
		"ro nosuid noexec nodev":    {Set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NODEV},
		"ro rw":                     {Clear: unix.MOUNT_ATTR_RDONLY},
		"rw ro":                     {Set: unix.MOUNT_ATTR_RDONLY},
		"noatime strictatime":       {Set: unix.MOUNT_ATTR_STRICTATIME, Clear: atimeMask},
		"rbind rprivate":            {Bind: true, Recursive: true, Propagation: unix.MS_PRIVATE | unix.MS_REC},
		"bind ro slave":             {Bind: true, Set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_SLAVE},
		"rro rnosuid":               {RecSet: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID},
		"rro rrw":                   {RecClear: unix.MOUNT_ATTR_RDONLY},
		"size=64k mode=755":         {Data: []string{"size=64k", "mode=755"}},
		"tmpcopyup newinstance foo": {CopyUp: true, Data: []string{"foo"}},
		"relatime":                  {Clear: atimeMask},
		"remount":                   {Data: []string{"remount"}}, // not rec-"emount"
	} {
		if got := Parse(strings.Fields(words)); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, want %+v", words, got, want)
		}
	}
}

func TestSplitLower(t *testing.T) {
	for in, want := range map[string][]string{
		"/a:/b":       {"/a", "/b"},
		"/a":          {"/a"},
		`/a\:b:/c\\d`: {"/a:b", `/c\d`},
	} {
		if got := SplitLower(in); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
