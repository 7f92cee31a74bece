package main

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/engine/network"
	"github.com/caisson-engine/caisson/engine/spec"
	"github.com/caisson-engine/caisson/platform_linux/diskquota"
	"github.com/caisson-engine/caisson/platform_linux/hostnet"
	"github.com/caisson-engine/caisson/platform_linux/hostnet/resolver"
	"github.com/caisson-engine/caisson/platform_linux/keeper"
)

// platform is what the operating system contributes.
type platform struct {
	host    engine.Host
	bootID  string
	network *network.Manager
	devices spec.Devices
	disks   engine.Disks
	mounts  engine.Mounts
	adopt   func(*launcher)
	retire  func()
	close   func() error
}

func newPlatform(c *config, log *slog.Logger) (*platform, error) {
	driver, err := hostnet.New(hostnet.Config{HostID: c.HostID, Names: nameServer(c), Log: log})
	if err != nil {
		return nil, fmt.Errorf("host network: %w", err)
	}
	net, err := network.NewManager(networkConfig(c, log), driver)
	if err != nil {
		_ = driver.Close() // there is a better error already
		return nil, fmt.Errorf("networks: %w", err)
	}
	p := &platform{
		host:    hostFacts(),
		devices: devices{},
		bootID:  firstLine("/proc/sys/kernel/random/boot_id"),
		network: net,
		mounts:  mounts{},
		disks:   diskquota.Open(c.DataRoot),
		close:   net.Close,
	}
	var mu sync.Mutex
	var stop func()
	retired := false
	p.adopt = func(l *launcher) {
		mu.Lock()
		defer mu.Unlock()
		if !retired {
			stop = guard(c, l)
		}
	}
	p.retire = func() {
		mu.Lock()
		defer mu.Unlock()
		if retired = true; stop != nil {
			stop()
		}
	}
	return p, nil
}

// keepers are the backends that have a keeper, and where its socket is in the
// backend's state directory.
var keepers = map[string]string{"linux": "runtime/" + keeper.SocketName}

// guard has a keeper start this process again should it die. A service manager
// does that itself. The function returned takes it back.
func guard(c *config, l *launcher) (stop func()) {
	self, err := os.Executable()
	if err != nil || supervised() {
		return func() {}
	}
	cwd, err := os.Getwd()
	if err != nil {
		cwd = "/"
	}
	found, _ := l.Discover() // never fails
	for _, b := range found {
		if socket, ok := keepers[b.Name]; ok {
			return keeper.Guard(filepath.Join(l.stateDir, b.Name, socket), keeper.Engine{
				Dir: c.ExecRoot, Argv: append([]string{self}, os.Args[1:]...), Env: os.Environ(), Cwd: cwd, Stderr: os.Stderr,
			})
		}
	}
	return func() {}
}

// nameServer is the process that answers containers' name queries.
func nameServer(c *config) resolver.Config {
	for _, dir := range c.backendDirs() {
		program := filepath.Join(dir, "caisson-dns")
		if _, err := os.Stat(program); err == nil {
			return resolver.Config{Program: program, Dir: filepath.Join(c.ExecRoot, "dns")}
		}
	}
	return resolver.Config{}
}

func networkConfig(c *config, log *slog.Logger) network.Config {
	n := network.Config{
		HostID:        c.HostID,
		BridgeName:    c.Bridge,
		BIP:           c.BIP,
		IPv6:          c.BIP6,
		NoIPv6:        !c.IPv6,
		Pools:         c.Pools,
		MTU:           c.MTU,
		DNS:           c.DNS,
		DNSSearch:     c.DNSSearch,
		DNSOptions:    c.DNSOptions,
		HostGatewayIP: c.HostGateway,
		DataDir:       c.DataRoot + "/network",
		Log:           log,
	}
	if c.Firewall == "none" {
		n.Firewall = network.FirewallNone
	}
	return n
}

// hostFacts is what info says about this machine.
func hostFacts() engine.Host {
	var u unix.Utsname
	_ = unix.Uname(&u) // cannot fail with a valid pointer
	name, _ := os.Hostname()
	h := engine.Host{
		Hostname:        name,
		KernelVersion:   unix.ByteSliceToString(u.Release[:]),
		OSType:          runtime.GOOS,
		Arch:            runtime.GOARCH,
		NCPU:            runtime.NumCPU(),
		CgroupDriver:    "cgroupfs",
		CgroupVersion:   "1",
		SecurityOptions: []string{"name=seccomp,profile=builtin"},
		IPv4Forwarding:  firstLine("/proc/sys/net/ipv4/ip_forward") == "1",
		ServerVersion:   version,
		InitBinary:      "caisson-init",
		SystemCPU:       systemCPU,
	}
	h.OperatingSystem, h.OSVersion = osRelease()
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		h.MemTotal = int64(si.Totalram) * int64(si.Unit)
	}
	var fs unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		h.CgroupVersion = "2"
	}
	if _, err := os.Stat("/proc/self/ns/cgroup"); err == nil {
		h.SecurityOptions = append(h.SecurityOptions, "name=cgroupns")
	}
	return h
}

// osRelease reads the distribution's name and version.
func osRelease() (name, version string) {
	name = "Linux"
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
			k, v, _ := strings.Cut(s.Text(), "=")
			if q, err := strconv.Unquote(v); err == nil {
				v = q
			}
			switch k {
			case "PRETTY_NAME":
				name = v
			case "VERSION_ID":
				version = v
			}
		}
		break
	}
	return name, version
}

func firstLine(path string) string {
	b, _ := os.ReadFile(path) // what cannot be read is unknown
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

// clockTick is the length of the units of /proc/stat in nanoseconds: Linux shows
// hundredths of a second to programs on every architecture.
const clockTick = 10_000_000

var procStat = sync.OnceValues(func() (*os.File, error) { return os.Open("/proc/stat") })

// systemCPU is the time that all processors were busy or idle, as Docker's
// clients expect it: user, nice, system, idle, iowait, irq, softirq.
func systemCPU() (uint64, error) {
	f, err := procStat()
	if err != nil {
		return 0, err
	}
	var buf [256]byte
	n, err := f.ReadAt(buf[:], 0)
	if n == 0 {
		return 0, err
	}
	line, _, _ := strings.Cut(string(buf[:n]), "\n")
	fields := strings.Fields(line)
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0, fmt.Errorf("unexpected format of /proc/stat: %q", line)
	}
	var total uint64
	for _, s := range fields[1:8] {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return 0, err
		}
		total += v
	}
	return total * clockTick, nil
}
