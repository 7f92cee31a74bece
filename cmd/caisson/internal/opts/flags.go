package opts

import (
	"net"
	"time"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/engine/client"
)

// Container holds the values of the flags that run and create share.
type Container struct {
	attach, devices, deviceRules, env, envFile, expose, extraHosts, groupAdd  List
	labels, labelFiles, links, linkLocalIPs, logOpts, publish, securityOpt    List
	storageOpt, tmpfs, volumes, volumesFrom, aliases, capAdd, capDrop         List
	dns, dnsOptions, dnsSearch                                                List
	annotations, sysctls                                                      Map
	weightDevices                                                             devices[client.WeightDevice]
	readBps, writeBps, readIOps, writeIOps                                    devices[client.ThrottleDevice]
	gpus                                                                      GPUs
	mounts                                                                    Mounts
	networks                                                                  Networks
	ulimits                                                                   Ulimits
	umask                                                                     Umask
	cpus                                                                      CPUs
	memory, memoryReservation, memorySwap, kernelMemory, shmSize, ioBandwidth Bytes

	entrypoint, hostname, domainname, user, workdir, stopSignal, restart  string
	userns, cgroupns, ipc, pid, uts, isolation, runtime, cgroupParent     string
	macAddress, logDriver, volumeDriver, cidfile, cpusetCpus, cpusetMems  string
	healthCmd                                                             string
	ip, ip6                                                               net.IP
	stdin, tty, readOnly, autoRemove, privileged, publishAll, oomDisable  bool
	init, noHealthcheck, apiSocket, restartUnhealthy                      bool
	stopTimeout, oomScoreAdj, healthRetries                               int
	healthInterval, healthTimeout, healthStartPeriod, healthStartInterval time.Duration
	blkioWeight                                                           uint16
	ioMaxIOps                                                             uint64
	cpuCount, cpuPercent, cpuPeriod, cpuQuota, cpuRTPeriod, cpuRTRuntime  int64
	cpuShares, swappiness, pidsLimit                                      int64
}

// Register adds the flags to f.
func (c *Container) Register(f *pflag.FlagSet) {
	c.attach.Check = checkAttach
	c.env.Check = CheckEnv
	c.labels.Check = checkLabel
	c.deviceRules.Check = checkDeviceRule
	c.extraHosts.Check = checkHost
	c.dns.Check = checkIP
	c.dnsSearch.Check = checkDomain
	c.links.Check = checkLink
	c.sysctls.Check = checkSysctl
	c.weightDevices.parse = parseWeight
	c.readBps.parse, c.writeBps.parse = parseBps, parseBps
	c.readIOps.parse, c.writeIOps.parse = parseIOps, parseIOps
	c.memorySwap.Minus1 = true

	// What runs.
	f.VarP(&c.attach, "attach", "a", "Attach to STDIN, STDOUT or STDERR")
	f.VarP(&c.env, "env", "e", "Set environment variables")
	f.Var(&c.envFile, "env-file", "Read in a file of environment variables")
	f.StringVar(&c.entrypoint, "entrypoint", "", "Overwrite the default ENTRYPOINT of the image")
	f.BoolVarP(&c.stdin, "interactive", "i", false, "Keep STDIN open even if not attached")
	f.BoolVarP(&c.tty, "tty", "t", false, "Allocate a pseudo-TTY")
	f.StringVarP(&c.user, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	f.Var(&c.groupAdd, "group-add", "Add additional groups to join")
	f.StringVarP(&c.workdir, "workdir", "w", "", "Working directory inside the container")
	f.Var(&c.umask, "umask", "Set umask for the container")
	f.BoolVar(&c.init, "init", false, "Run an init inside the container that forwards signals and reaps processes")
	f.StringVar(&c.stopSignal, "stop-signal", "", "Signal to stop the container")
	f.IntVar(&c.stopTimeout, "stop-timeout", 0, "Timeout (in seconds) to stop a container")
	f.StringVar(&c.restart, "restart", "no", "Restart policy to apply when a container exits")
	f.BoolVar(&c.autoRemove, "rm", false, "Automatically remove the container and its associated anonymous volumes when it exits")
	f.StringVar(&c.cidfile, "cidfile", "", "Write the container ID to the file")
	f.VarP(&c.labels, "label", "l", "Set meta data on a container")
	f.Var(&c.labelFiles, "label-file", "Read in a line delimited file of labels")
	f.Var(&c.annotations, "annotation", "Add an annotation to the container (passed through to the OCI runtime)")

	// How it is isolated.
	f.StringVar(&c.isolation, "isolation", "", "Container isolation technology: default, process, vm or hyperv")
	f.StringVar(&c.runtime, "runtime", "", "Runtime to use for this container: an isolation level or a backend's name")
	f.BoolVar(&c.privileged, "privileged", false, "Give extended privileges to this container")
	f.Var(&c.capAdd, "cap-add", "Add Linux capabilities")
	f.Var(&c.capDrop, "cap-drop", "Drop Linux capabilities")
	f.Var(&c.securityOpt, "security-opt", "Security Options")
	f.StringVar(&c.userns, "userns", "", "User namespace to use")
	f.StringVar(&c.cgroupns, "cgroupns", "", "Cgroup namespace to use (host|private)")
	f.StringVar(&c.ipc, "ipc", "", "IPC mode to use")
	f.StringVar(&c.pid, "pid", "", "PID namespace to use")
	f.StringVar(&c.uts, "uts", "", "UTS namespace to use")
	f.Var(&c.sysctls, "sysctl", "Sysctl options")
	f.BoolVar(&c.apiSocket, "use-api-socket", false, "Bind mount the engine's API socket at /var/run/docker.sock")

	// Its filesystem.
	f.BoolVar(&c.readOnly, "read-only", false, "Mount the container's root filesystem as read only")
	f.VarP(&c.volumes, "volume", "v", "Bind mount a volume")
	f.Var(&c.mounts, "mount", "Attach a filesystem mount to the container")
	f.Var(&c.tmpfs, "tmpfs", "Mount a tmpfs directory")
	f.Var(&c.volumesFrom, "volumes-from", "Mount volumes from the specified container(s)")
	f.StringVar(&c.volumeDriver, "volume-driver", "", "Optional volume driver for the container")
	f.Var(&c.storageOpt, "storage-opt", "Storage driver options for the container")
	f.Var(&c.shmSize, "shm-size", "Size of /dev/shm")
	f.Var(&c.devices, "device", "Add a host device to the container")
	f.Var(&c.deviceRules, "device-cgroup-rule", "Add a rule to the cgroup allowed devices list")
	f.Var(&c.gpus, "gpus", "GPU devices to add to the container ('all' to pass all GPUs)")

	// Its network.
	f.Var(&c.networks, "network", "Connect a container to a network")
	f.Var(&c.networks, "net", "Connect a container to a network")
	f.Var(&c.aliases, "network-alias", "Add network-scoped alias for the container")
	f.Var(&c.aliases, "net-alias", "Add network-scoped alias for the container")
	f.VarP(&c.publish, "publish", "p", "Publish a container's port(s) to the host")
	f.BoolVarP(&c.publishAll, "publish-all", "P", false, "Publish all exposed ports to random ports")
	f.Var(&c.expose, "expose", "Expose a port or a range of ports")
	f.StringVarP(&c.hostname, "hostname", "h", "", "Container host name")
	f.StringVar(&c.domainname, "domainname", "", "Container NIS domain name")
	f.Var(&c.extraHosts, "add-host", "Add a custom host-to-IP mapping (host:ip)")
	f.Var(&c.dns, "dns", "Set custom DNS servers")
	f.Var(&c.dnsOptions, "dns-option", "Set DNS options")
	f.Var(&c.dnsOptions, "dns-opt", "Set DNS options")
	f.Var(&c.dnsSearch, "dns-search", "Set custom DNS search domains")
	f.IPVar(&c.ip, "ip", nil, "IPv4 address (e.g., 172.30.100.104)")
	f.IPVar(&c.ip6, "ip6", nil, "IPv6 address (e.g., 2001:db8::33)")
	f.Var(&c.links, "link", "Add link to another container")
	f.Var(&c.linkLocalIPs, "link-local-ip", "Container IPv4/IPv6 link-local addresses")
	f.StringVar(&c.macAddress, "mac-address", "", "Container MAC address (e.g., 92:d0:c6:0a:29:33)")

	// Its log and health.
	f.StringVar(&c.logDriver, "log-driver", "", "Logging driver for the container")
	f.Var(&c.logOpts, "log-opt", "Log driver options")
	f.StringVar(&c.healthCmd, "health-cmd", "", "Command to run to check health")
	f.DurationVar(&c.healthInterval, "health-interval", 0, "Time between running the check (ms|s|m|h) (default 0s)")
	f.DurationVar(&c.healthTimeout, "health-timeout", 0, "Maximum time to allow one check to run (ms|s|m|h) (default 0s)")
	f.DurationVar(&c.healthStartPeriod, "health-start-period", 0, "Start period for the container to initialize before starting health-retries countdown (ms|s|m|h) (default 0s)")
	f.DurationVar(&c.healthStartInterval, "health-start-interval", 0, "Time between running the check during the start period (ms|s|m|h) (default 0s)")
	f.IntVar(&c.healthRetries, "health-retries", 0, "Consecutive failures needed to report unhealthy")
	f.BoolVar(&c.restartUnhealthy, "restart-unhealthy", false, "Restart the container when it becomes unhealthy (the label caisson.restart-unhealthy=true)")
	f.BoolVar(&c.noHealthcheck, "no-healthcheck", false, "Disable any container-specified HEALTHCHECK")

	// Its limits.
	f.VarP(&c.memory, "memory", "m", "Memory limit")
	f.Var(&c.memoryReservation, "memory-reservation", "Memory soft limit")
	f.Var(&c.memorySwap, "memory-swap", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap")
	f.Int64Var(&c.swappiness, "memory-swappiness", -1, "Tune container memory swappiness (0 to 100)")
	f.Var(&c.kernelMemory, "kernel-memory", "Kernel memory limit")
	f.BoolVar(&c.oomDisable, "oom-kill-disable", false, "Disable OOM Killer")
	f.IntVar(&c.oomScoreAdj, "oom-score-adj", 0, "Tune host's OOM preferences (-1000 to 1000)")
	f.Var(&c.cpus, "cpus", "Number of CPUs")
	f.Int64VarP(&c.cpuShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	f.Int64Var(&c.cpuPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
	f.Int64Var(&c.cpuQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
	f.Int64Var(&c.cpuRTPeriod, "cpu-rt-period", 0, "Limit CPU real-time period in microseconds")
	f.Int64Var(&c.cpuRTRuntime, "cpu-rt-runtime", 0, "Limit CPU real-time runtime in microseconds")
	f.StringVar(&c.cpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	f.StringVar(&c.cpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	f.Int64Var(&c.cpuCount, "cpu-count", 0, "CPU count (Windows only)")
	f.Int64Var(&c.cpuPercent, "cpu-percent", 0, "CPU percent (Windows only)")
	f.Int64Var(&c.pidsLimit, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	f.Var(&c.ulimits, "ulimit", "Ulimit options")
	f.StringVar(&c.cgroupParent, "cgroup-parent", "", "Optional parent cgroup for the container")
	f.Uint16Var(&c.blkioWeight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
	f.Var(&c.weightDevices, "blkio-weight-device", "Block IO weight (relative device weight)")
	f.Var(&c.readBps, "device-read-bps", "Limit read rate (bytes per second) from a device")
	f.Var(&c.readIOps, "device-read-iops", "Limit read rate (IO per second) from a device")
	f.Var(&c.writeBps, "device-write-bps", "Limit write rate (bytes per second) to a device")
	f.Var(&c.writeIOps, "device-write-iops", "Limit write rate (IO per second) to a device")
	f.Var(&c.ioBandwidth, "io-maxbandwidth", "Maximum IO bandwidth limit for the system drive (Windows only)")
	f.Uint64Var(&c.ioMaxIOps, "io-maxiops", 0, "Maximum IOps limit for the system drive (Windows only)")

	for _, alias := range []string{"net", "net-alias", "dns-opt"} {
		f.Lookup(alias).Hidden = true
	}
}

// CIDFile is where the container's id is to be written, "" for nowhere.
func (c *Container) CIDFile() string { return c.cidfile }
