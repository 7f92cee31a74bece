package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/engine/audit"
	"github.com/caisson-engine/caisson/engine/network"
)

// config is everything that the host owner can choose.
type config struct {
	DataRoot, ExecRoot, Pidfile, HostID string
	Hosts                               []string
	Group                               string
	TLS, TLSVerify                      bool
	TLSCACert, TLSCert, TLSKey          string
	InsecureTCP                         bool

	Policy      string
	AuditLog    string
	AuditSize   int64 // bytes
	BackendDirs []string

	LogLevel, LogFormat string
	ShutdownTimeout     int // seconds

	Bridge, Firewall      string
	BIP, BIP6             netip.Prefix
	Pools                 []network.AddressPool
	IPv6                  bool
	MTU                   int
	DNS                   []netip.Addr
	DNSOptions, DNSSearch []string
	HostGateway           []netip.Addr

	InsecureRegistries []string
	MaxDownloads       int

	CgroupParent, CgroupnsMode, IpcMode string
	Ulimits                             []*units.Ulimit
	ShmSize                             int64
	StopTimeout                         int
	Init, NoNewPrivileges               bool
	Seccomp                             string
	LogDriver                           string
	LogOpts                             map[string]string
	BackendOpts                         map[string]string
	Labels                              []string
}

// option is one line of the table from which flags, config file keys, help and
// the reload of a running daemon derive.
type option struct {
	group string // heading in --help
	flag  string
	short string
	key   string // in the config file
	live  bool   // a running daemon takes a change over on SIGHUP
	value func(*config) setting
	help  string
}

const (
	groupWhere   = "Where it lives"
	groupClients = "Who may connect"
	groupRun     = "How it runs"
	groupNetwork = "Networks"
	groupImages  = "Images and registries"
	groupDefault = "What containers get when nobody says otherwise"
)

// options are all there are. Names are dockerd's where dockerd has the same thing.
var options = []option{
	{groupWhere, "data-root", "", "data-root", false, func(c *config) setting { return text(&c.DataRoot, "dir") },
		"Images, containers, logs: what must survive a reboot"},
	{groupWhere, "exec-root", "", "exec-root", false, func(c *config) setting { return text(&c.ExecRoot, "dir") },
		"Sockets, pids, running state: what a reboot may forget. An engine of its own per exec-root"},
	{groupWhere, "pidfile", "p", "pidfile", false, func(c *config) setting { return text(&c.Pidfile, "file") },
		"Where to write the process number (default <exec-root>/caissond.pid)"},
	{groupWhere, "backend-dir", "", "backend-dirs", false, func(c *config) setting { return texts(&c.BackendDirs, "dir") },
		"Where to look for caisson-backend-* programs; repeatable (default: beside caissond, then /usr/local/libexec/caisson, /usr/libexec/caisson)"},
	{groupWhere, "host-id", "", "host-id", false, func(c *config) setting { return text(&c.HostID, "id") },
		"1 to 8 lower-case letters and digits from which names of bridges, cgroups and firewall tables derive (default: from exec-root)"},

	{groupClients, "host", "H", "hosts", false, func(c *config) setting { return texts(&c.Hosts, "socket") },
		"Where to listen: unix://path, tcp://address:port, fd://, npipe:////./pipe/name; repeatable (default unix://<exec-root>/caisson.sock)"},
	{groupClients, "group", "G", "group", false, func(c *config) setting { return text(&c.Group, "group") },
		"Group that may use the unix socket (default caisson, if there is such a group)"},
	{groupClients, "tls", "", "tls", false, func(c *config) setting { return toggle(&c.TLS) },
		"Encrypt tcp sockets; implied by --tlsverify"},
	{groupClients, "tlsverify", "", "tlsverify", false, func(c *config) setting { return toggle(&c.TLSVerify) },
		"Encrypt tcp sockets and demand a client certificate signed by --tlscacert"},
	{groupClients, "tlscacert", "", "tlscacert", false, func(c *config) setting { return text(&c.TLSCACert, "file") },
		"Trust clients whose certificate this CA signed"},
	{groupClients, "tlscert", "", "tlscert", false, func(c *config) setting { return text(&c.TLSCert, "file") },
		"This server's certificate"},
	{groupClients, "tlskey", "", "tlskey", false, func(c *config) setting { return text(&c.TLSKey, "file") },
		"This server's key"},
	{groupClients, "allow-insecure-tcp", "", "allow-insecure-tcp", false, func(c *config) setting { return toggle(&c.InsecureTCP) },
		"Serve tcp sockets that are not loopback to anyone who can connect, without a certificate: whoever can, owns this host"},

	{groupRun, "policy", "", "policy", true, func(c *config) setting { return text(&c.Policy, "file") },
		"The policy: who may run what at which isolation level (default /etc/caisson/policy.yaml, if it exists)"},
	{groupRun, "audit-log", "", "audit-log", false, func(c *config) setting { return text(&c.AuditLog, "file") },
		"Where to note who asked for what, and what was denied: JSON lines; none for nowhere (default <data-root>/audit.log)"},
	{groupRun, "audit-size", "", "audit-size", false, func(c *config) setting { return bytesize(&c.AuditSize) },
		"Size at which the audit log begins a new file; five are kept"},
	{groupRun, "backend-opt", "", "backend-opts", false, func(c *config) setting { return pairs{&c.BackendOpts} },
		"Option of a backend, as backend.option=value, such as vm.memory=1g; repeatable. The README lists them"},
	{groupRun, "log-level", "l", "log-level", true, func(c *config) setting { return choice(&c.LogLevel, "debug", "info", "warn", "error") },
		"How much the daemon itself says"},
	{groupRun, "log-format", "", "log-format", false, func(c *config) setting { return choice(&c.LogFormat, "text", "json") },
		"How the daemon says it"},
	{groupRun, "shutdown-timeout", "", "shutdown-timeout", true, func(c *config) setting { return number(&c.ShutdownTimeout, "seconds", 0, 3600) },
		"How long a stopping daemon waits for requests under way; containers run on"},

	{groupNetwork, "bridge", "b", "bridge", false, func(c *config) setting { return text(&c.Bridge, "name") },
		"Name of the default bridge (default cs<host-id>)"},
	{groupNetwork, "bip", "", "bip", false, func(c *config) setting { return prefix(&c.BIP, "CIDR") },
		"The default bridge's IPv4 address with its subnet (default: from --default-address-pool)"},
	{groupNetwork, "bip6", "", "bip6", false, func(c *config) setting { return prefix(&c.BIP6, "CIDR") },
		"The default bridge's IPv6 address with its subnet (default: a unique local one)"},
	{groupNetwork, "ipv6", "", "ipv6", false, func(c *config) setting { return toggle(&c.IPv6) },
		"Give containers IPv6 addresses, where the host can"},
	{groupNetwork, "default-address-pool", "", "default-address-pools", false, func(c *config) setting { return addressPools(&c.Pools) },
		"Where networks' subnets come from; repeatable"},
	{groupNetwork, "mtu", "", "mtu", false, func(c *config) setting { return number(&c.MTU, "bytes", 0, 65535) },
		"Largest packet on bridges (0: 1500)"},
	{groupNetwork, "firewall", "", "firewall", false, func(c *config) setting { return choice(&c.Firewall, "auto", "nftables", "none") },
		"Who makes packet rules; none leaves address translation to the host owner"},
	{groupNetwork, "dns", "", "dns", false, func(c *config) setting { return addrs(&c.DNS) },
		"Name servers for containers; repeatable (default: the host's)"},
	{groupNetwork, "dns-opt", "", "dns-opts", false, func(c *config) setting { return texts(&c.DNSOptions, "option") },
		"Options for containers' resolv.conf; repeatable"},
	{groupNetwork, "dns-search", "", "dns-search", false, func(c *config) setting { return texts(&c.DNSSearch, "domain") },
		"Search domains for containers; repeatable"},
	{groupNetwork, "host-gateway-ip", "", "host-gateway-ips", false, func(c *config) setting { return addrs(&c.HostGateway) },
		"What --add-host name:host-gateway stands for; repeatable (default: the bridge's addresses)"},

	{groupImages, "insecure-registry", "", "insecure-registries", false, func(c *config) setting { return texts(&c.InsecureRegistries, "host[:port]") },
		"Registry that may be used without verified TLS; repeatable. Loopback always may"},
	{groupImages, "max-concurrent-downloads", "", "max-concurrent-downloads", false, func(c *config) setting { return number(&c.MaxDownloads, "n", 1, 64) },
		"Layers that one pull downloads at a time"},

	{groupDefault, "cgroup-parent", "", "cgroup-parent", false, func(c *config) setting { return text(&c.CgroupParent, "cgroup") },
		"Cgroup under which containers live (default /caisson-<host-id>)"},
	{groupDefault, "default-cgroupns-mode", "", "default-cgroupns-mode", true, func(c *config) setting { return choice(&c.CgroupnsMode, "private", "host") },
		"Cgroup namespace of containers"},
	{groupDefault, "default-ipc-mode", "", "default-ipc-mode", true, func(c *config) setting { return choice(&c.IpcMode, "private", "shareable") },
		"IPC namespace of containers"},
	{groupDefault, "default-shm-size", "", "default-shm-size", true, func(c *config) setting { return bytesize(&c.ShmSize) },
		"Size of /dev/shm in containers"},
	{groupDefault, "default-ulimit", "", "default-ulimits", true, func(c *config) setting { return ulimitList(&c.Ulimits) },
		"Limits of containers' processes; repeatable"},
	{groupDefault, "init", "", "init", true, func(c *config) setting { return toggle(&c.Init) },
		"Run an init inside containers that forwards signals and reaps processes"},
	{groupDefault, "no-new-privileges", "", "no-new-privileges", true, func(c *config) setting { return toggle(&c.NoNewPrivileges) },
		"Keep processes in containers from gaining privileges"},
	{groupDefault, "seccomp-profile", "", "seccomp-profile", true, func(c *config) setting { return text(&c.Seccomp, "file") },
		"Seccomp profile, builtin or unconfined (default builtin)"},
	{groupDefault, "default-stop-timeout", "", "default-stop-timeout", true, func(c *config) setting { return number(&c.StopTimeout, "seconds", 0, 86400) },
		"How long stop waits before it kills"},
	{groupDefault, "log-driver", "", "log-driver", true, func(c *config) setting { return text(&c.LogDriver, "name") },
		"Log driver of containers"},
	{groupDefault, "log-opt", "", "log-opts", true, func(c *config) setting { return pairs{&c.LogOpts} },
		"Options of the log driver; repeatable"},
	{groupDefault, "label", "", "labels", true, func(c *config) setting { return texts(&c.Labels, "key=value") },
		"Labels of this engine, shown by info; repeatable"},
}

// defaults is a config in which nobody chose anything.
func defaults() *config {
	return &config{
		DataRoot:        defaultDataRoot,
		ExecRoot:        defaultExecRoot,
		LogLevel:        "info",
		LogFormat:       "text",
		ShutdownTimeout: 15,
		AuditSize:       audit.DefaultSize,
		Firewall:        "auto",
		IPv6:            true,
		MaxDownloads:    3,
		CgroupnsMode:    "private",
		IpcMode:         "private",
		ShmSize:         64 << 20,
		StopTimeout:     10,
		LogDriver:       "json-file",
	}
}

// command is what the command line asks for besides the options.
type command struct {
	configFile              string
	fileGiven               bool
	validate, version, help bool
}

// flagSet declares every option on c.
func flagSet(c *config, cmd *command) *pflag.FlagSet {
	f := pflag.NewFlagSet("caissond", pflag.ContinueOnError)
	f.SortFlags = false
	f.SetOutput(io.Discard)
	for _, o := range options {
		v := o.value(c)
		flag := f.VarPF(v, o.flag, o.short, o.help)
		if _, ok := v.(switchValue); ok {
			flag.NoOptDefVal = "true"
		}
	}
	f.StringVar(&cmd.configFile, "config-file", defaultConfigFile, "")
	f.BoolVar(&cmd.validate, "validate", false, "")
	f.BoolVarP(&cmd.version, "version", "v", false, "")
	f.BoolVarP(&cmd.help, "help", "h", false, "")
	return f
}

// load reads flags and config file. It touches nothing but these.
func load(args []string) (*config, command, error) {
	c, cmd := defaults(), command{}
	f := flagSet(c, &cmd)
	if err := f.Parse(args); err != nil {
		return nil, cmd, fmt.Errorf("%w\nSee 'caissond --help'", err)
	}
	if cmd.help || cmd.version {
		return c, cmd, nil
	}
	if f.NArg() > 0 {
		return nil, cmd, fmt.Errorf("unexpected argument %q\nSee 'caissond --help'", f.Arg(0))
	}
	cmd.fileGiven = f.Changed("config-file")
	body, err := os.ReadFile(cmd.configFile)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !cmd.fileGiven:
		err = nil
	case err == nil:
		err = c.merge(body, f)
	}
	if err != nil {
		return nil, cmd, fmt.Errorf("unable to configure the daemon with file %s: %w", cmd.configFile, err)
	}
	return c, cmd, c.check()
}

// merge takes the config file's settings, none of which a flag may also give.
func (c *config) merge(body []byte, flags *pflag.FlagSet) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	var file map[string]json.RawMessage
	if err := json.Unmarshal(body, &file); err != nil {
		return fmt.Errorf("not a JSON object: %w", err)
	}
	byKey := make(map[string]option, len(options))
	for _, o := range options {
		byKey[o.key] = o
	}
	var unknown, conflicts []string
	for _, key := range slices.Sorted(maps.Keys(file)) {
		o, ok := byKey[key]
		switch {
		case !ok:
			unknown = append(unknown, key)
		case flags.Changed(o.flag):
			conflicts = append(conflicts, fmt.Sprintf("%s: (from flag: %s, from file: %s)", key, o.value(c), file[key]))
		default:
			if err := o.value(c).decode(file[key]); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("the following directives don't match any configuration option: %s", strings.Join(unknown, ", "))
	}
	if len(conflicts) > 0 {
		return fmt.Errorf("the following directives are specified both as a flag and in the configuration file: %s", strings.Join(conflicts, ", "))
	}
	return nil
}

// check completes a config and refuses what cannot be.
func (c *config) check() error {
	var err error
	for _, p := range []*string{&c.DataRoot, &c.ExecRoot} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	if c.DataRoot == c.ExecRoot {
		return fmt.Errorf("--data-root and --exec-root are both %s: they must differ", c.DataRoot)
	}
	if c.HostID == "" {
		sum := sha256.Sum256([]byte(c.ExecRoot))
		c.HostID = hex.EncodeToString(sum[:4])
	}
	if c.CgroupParent == "" {
		c.CgroupParent = "/caisson-" + c.HostID
	}
	if c.Pidfile == "" {
		c.Pidfile = filepath.Join(c.ExecRoot, "caissond.pid")
	}
	if len(c.Hosts) == 0 {
		c.Hosts = []string{defaultHost(c.ExecRoot)}
	}
	if c.TLSVerify {
		c.TLS = true
	}
	if c.TLS && (c.TLSCert == "" || c.TLSKey == "") {
		return errors.New("--tls needs --tlscert and --tlskey")
	}
	if c.TLSVerify && c.TLSCACert == "" {
		return errors.New("--tlsverify needs --tlscacert: the CA that signs clients' certificates")
	}
	for _, l := range c.Labels {
		if k, _, ok := strings.Cut(l, "="); !ok || k == "" {
			return fmt.Errorf("label %q: want key=value", l)
		}
	}
	for _, h := range c.Hosts {
		if _, err := parseHost(h, c); err != nil {
			return err
		}
	}
	return nil
}

// changed names the options whose value differs, in live those that a running
// daemon takes over.
func (c *config) changed(next *config) (live, restart []string) {
	for _, o := range options {
		was, is := o.value(c).String(), o.value(next).String()
		switch {
		case was == is:
		case o.live:
			live = append(live, fmt.Sprintf("%s: %q → %q", o.key, was, is))
		default:
			restart = append(restart, fmt.Sprintf("%s: %q → %q", o.key, was, is))
		}
	}
	return live, restart
}

// takeOver copies the live options of next, so that the next reload compares
// with what is in force.
func (c *config) takeOver(next *config) {
	for _, o := range options {
		if o.live {
			o.value(c).take(o.value(next))
		}
	}
}
