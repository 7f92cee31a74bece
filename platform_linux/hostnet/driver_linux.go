package hostnet

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/network"
	"github.com/caisson-engine/caisson/platform_linux/hostnet/resolver"
)

// Config says how to use the host.
type Config struct {
	// HostID is the engine's name on the host, 1 to 8 lower-case letters and
	// digits; the names of links and of the table derive from it.
	HostID string
	// Names says which process answers the queries of containers; without a
	// program nobody does.
	Names resolver.Config
	Log   *slog.Logger // nil: slog.Default
}

// Driver is network.Driver on Linux. Make one with New. It works in the network
// namespace of the thread that calls New.
type Driver struct {
	cfg   Config
	log   *slog.Logger
	host  *os.File // the host's namespace
	rtnl  *conn    // to the host, under rtnlMu
	links linkNames

	rtnlMu  sync.Mutex
	handle  *netlink.Handle // to the host, for what is not worth hurrying
	bridges map[string]*hostBridge

	wall  *firewall
	names *servedNames

	mu       sync.Mutex
	problems map[string]string // what the host lacks, by topic
}

var _ network.Driver = (*Driver)(nil)

// hostBridge is a bridge that EnsureBridge made.
type hostBridge struct {
	network.Bridge
	index int
}

// New opens the host's network. It changes nothing. Errors: InvalidArgument,
// PermissionDenied, Unavailable.
func New(cfg Config) (*Driver, error) {
	if cfg.HostID == "" || len(cfg.HostID) > 8 {
		return nil, fmt.Errorf("host id %q: must be 1 to 8 characters: %w", cfg.HostID, errdefs.ErrInvalidArgument)
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, kernelError("open the host's network namespace", err)
	}
	c, err := dial()
	if err != nil {
		_ = host.Close()
		return nil, kernelError("connect to the kernel's network configuration", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		_ = c.close()
		_ = host.Close()
		return nil, kernelError("connect to the kernel's network configuration", err)
	}
	d := &Driver{
		cfg: cfg, log: cfg.Log, host: host, rtnl: c, handle: h,
		links: newLinkNames(cfg.HostID), bridges: make(map[string]*hostBridge), problems: make(map[string]string),
	}
	d.wall = newFirewall("caisson_"+cfg.HostID, d.log)
	d.names = &servedNames{d: d, served: map[string]bool{}, gates: map[string]string{}}
	return d, nil
}

// Facts implements network.Driver.
func (d *Driver) Facts() network.Facts {
	f := network.Facts{IPv6: hostHasIPv6(), EphemeralPorts: ephemeralPorts()}
	d.mu.Lock()
	for _, w := range d.problems {
		f.Warnings = append(f.Warnings, w)
	}
	d.mu.Unlock()
	if !f.IPv6 {
		f.Warnings = append(f.Warnings, "IPv6 is missing or turned off on this host: containers have IPv4 only")
	}
	warnings, ok := d.wall.state()
	f.Firewall = ok
	f.Warnings = append(f.Warnings, warnings...)
	slices.Sort(f.Warnings)
	return f
}

// problem records what the host lacks; "" says that it no longer does.
func (d *Driver) problem(topic, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if text == "" {
		delete(d.problems, topic)
		return
	}
	if d.problems[topic] != text {
		d.log.Warn(text)
	}
	d.problems[topic] = text
}

// Close implements network.Driver.
func (d *Driver) Close() error {
	d.wall.close()
	d.names.close()
	d.rtnlMu.Lock()
	defer d.rtnlMu.Unlock()
	d.handle.Close()
	return errors.Join(d.rtnl.close(), d.host.Close())
}

// Lock implements network.Driver. The lock is on the namespace itself, so it
// needs no file and ends with its holder.
func (d *Driver) Lock() (func(), error) {
	f, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(d.host.Fd())))
	if err != nil {
		return nil, kernelError("open the host's network namespace", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, kernelError("lock the host's network namespace", err)
	}
	return func() { _ = f.Close() }, nil
}

// kernelError gives a failed system call its kind.
func kernelError(what string, err error) error {
	if err == nil {
		return nil
	}
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%s: %w (networks need CAP_NET_ADMIN and CAP_SYS_ADMIN: run the engine as root): %w", what, err, errdefs.ErrPermissionDenied)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%s: %w: %w", what, err, errdefs.ErrAlreadyExists)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s: %w: %w", what, err, errdefs.ErrInvalidArgument)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EXFULL):
		return fmt.Errorf("%s: %w: %w", what, err, errdefs.ErrResourceExhausted)
	}
	return fmt.Errorf("%s: %w: %w", what, err, errdefs.ErrUnavailable)
}

// sysctl paths are given without their common beginning.
const sysctlRoot = "/proc/sys/net/"

// readSysctl is a setting's value, "" if the kernel does not have it.
func readSysctl(name string) string {
	b, err := os.ReadFile(sysctlRoot + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func writeSysctl(name, value string) error {
	f, err := os.OpenFile(sysctlRoot+name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// hostHasIPv6 tells whether the calling thread's namespace can use IPv6.
func hostHasIPv6() bool { return readSysctl("ipv6/conf/all/disable_ipv6") == "0" }

// ephemeralPorts is the host's own range, in which other programs do not expect
// a port to be free.
func ephemeralPorts() [2]uint16 {
	var r [2]uint16
	if n, _ := fmt.Sscan(readSysctl("ipv4/ip_local_port_range"), &r[0], &r[1]); n != 2 {
		return [2]uint16{}
	}
	return r
}
