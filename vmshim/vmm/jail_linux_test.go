package vmm

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// group makes a cgroup for the test and returns its cgroup.procs.
func group(t *testing.T) (name string, procs *os.File) {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
		root += "/memory"
	}
	name = fmt.Sprintf("caisson-vmm-test-%d", os.Getpid())
	dir := filepath.Join(root, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	t.Cleanup(func() {
		for range 100 {
			if os.Remove(dir) == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("%s is still in use", dir)
	})
	procs, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return name, procs
}

// status reads /proc/PID/status.
func status(t *testing.T, pid int) map[string]string {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fields := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		fields[key] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}

// The jail, as the kernel tells it of a running clone.
func TestJail(t *testing.T) {
	q, shape := setUp(t)
	tmpl := makeTemplate(t, q, shape)
	name, procs := group(t)
	jail := testJail()
	jail.Cgroups = []*os.File{procs}
	m := start(t, q, Config{Shape: shape, Template: tmpl, Jail: jail})
	procs.Close()
	newAgent(m).must(t, "pong", "ping")
	// A disk, so that all it ever holds is there.
	if err := m.SetDisk(within(t, time.Minute), 0, reopen(t, image(t, 1<<20, "x"))); err != nil {
		t.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d", m.PID())

	t.Run("identity", func(t *testing.T) {
		ids := fmt.Sprintf("%d %[1]d %[1]d %[1]d", jail.UID)
		got := status(t, m.PID())
		for key, want := range map[string]string{
			"Uid": ids, "Gid": ids, "Groups": "",
			"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
			"CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
			"NoNewPrivs": "1", "Seccomp": "2",
		} {
			if got[key] != want {
				t.Errorf("%s: %q, want %q", key, got[key], want)
			}
		}
		// Ours and QEMU's.
		if n := got["Seccomp_filters"]; n != "2" {
			t.Errorf("%s seccomp filters, want 2", n)
		}
		if pids := strings.Fields(got["NSpid"]); len(pids) < 2 || pids[len(pids)-1] != "1" {
			t.Errorf("NSpid %v: not the first process of its namespace", pids)
		}
	})

	t.Run("namespaces", func(t *testing.T) {
		for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts", "cgroup"} {
			own, err1 := os.Readlink("/proc/self/ns/" + ns)
			its, err2 := os.Readlink(filepath.Join(proc, "ns", ns))
			if err1 != nil || err2 != nil || own == its {
				t.Errorf("%s: %s and %s (%v, %v)", ns, own, its, err1, err2)
			}
		}
	})

	t.Run("root", func(t *testing.T) {
		data, err := os.ReadFile(filepath.Join(proc, "mountinfo"))
		if err != nil {
			t.Fatal(err)
		}
		var at []string
		for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
			f := strings.Fields(line)
			at = append(at, f[4])
			for _, option := range []string{"ro", "nosuid", "nodev"} {
				if !slices.Contains(strings.Split(f[5], ","), option) {
					t.Errorf("%s is not %s: %s", f[4], option, line)
				}
			}
		}
		if !slices.Equal(at, []string{"/", "/proc"}) {
			t.Errorf("mounts %v, want / and /proc", at)
		}
		entries, err := os.ReadDir(filepath.Join(proc, "root"))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if want := []string{"dev", "firmware", "lib", "lib64", "modules", "proc", "qemu"}; !slices.Equal(names, want) {
			t.Errorf("the root holds %v, want %v", names, want)
		}
		if dev, err := os.ReadDir(filepath.Join(proc, "root/dev")); err != nil || len(dev) != 0 {
			t.Errorf("/dev holds %v, %v", dev, err)
		}
		if env, err := os.ReadFile(filepath.Join(proc, "environ")); err != nil || strings.Count(string(env), "\x00") != len(environment) {
			t.Errorf("environment %q, %v", env, err)
		}
	})

	t.Run("descriptors", func(t *testing.T) {
		fds, err := os.ReadDir(filepath.Join(proc, "fd"))
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			to, err := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
			if err != nil {
				continue // closed meanwhile
			}
			known := false
			for _, kind := range []string{"socket:", "pipe:", "anon_inode:", "/memfd:", "/dev/null", "/net/tun"} {
				known = known || strings.HasPrefix(to, kind)
			}
			if !known && !strings.HasSuffix(to, "/image") {
				t.Errorf("descriptor %s is %s", fd.Name(), to)
			}
		}
	})

	t.Run("limits", func(t *testing.T) {
		data, err := os.ReadFile(filepath.Join(proc, "limits"))
		if err != nil {
			t.Fatal(err)
		}
		for name, most := range map[string]int64{
			"Max core file size": 0, "Max open files": 256, "Max processes": 512, "Max file size": placeholderSize, "Max locked memory": 0,
		} {
			_, after, _ := strings.Cut(string(data), name)
			if f := strings.Fields(after); len(f) < 2 || f[0] != fmt.Sprint(most) || f[1] != f[0] {
				t.Errorf("%s: %.40q, want %d", name, after, most)
			}
		}
	})

	t.Run("cgroup", func(t *testing.T) {
		data, err := os.ReadFile(filepath.Join(proc, "cgroup"))
		if err != nil || !strings.Contains(string(data), "/"+name+"\n") {
			t.Errorf("%s, %v", data, err)
		}
	})

	// Not even a process of the same uid may look into it.
	t.Run("not dumpable", func(t *testing.T) {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(proc, "maps"), &st); err != nil || st.Uid != 0 {
			t.Errorf("its files in /proc belong to uid %d, %v; want 0", st.Uid, err)
		}
	})
}
