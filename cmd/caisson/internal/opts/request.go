package opts

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/engine/client"
)

// maxFile bounds files of variables and profiles that are read whole.
const maxFile = 16 << 20

// Request is the request that the flags ask for. f is the set they were
// registered in, which knows the flags that were given.
func (c *Container) Request(f *pflag.FlagSet, image string, args []string) (*client.CreateRequest, error) {
	if c.swappiness < -1 || c.swappiness > 100 {
		return nil, fmt.Errorf("invalid value: %d. Valid memory swappiness range is 0-100", c.swappiness)
	}
	if c.autoRemove && c.restart != "no" && c.restart != "" {
		return nil, errors.New("conflicting options: cannot specify both --restart and --rm")
	}
	if err := c.checkModes(); err != nil {
		return nil, err
	}
	cfg, err := c.config(f, image, args)
	if err != nil {
		return nil, err
	}
	host, err := c.hostConfig(f)
	if err != nil {
		return nil, err
	}
	binds, anonymous, err := splitVolumes(c.volumes.Values)
	if err != nil {
		return nil, err
	}
	host.Binds, cfg.Volumes = binds, anonymous
	if host.PortBindings, err = ParsePorts(c.publish.Values); err != nil {
		return nil, err
	}
	if cfg.ExposedPorts, err = c.exposed(host.PortBindings); err != nil {
		return nil, err
	}
	eps, err := c.endpoints()
	if err != nil {
		return nil, err
	}
	if c.apiSocket {
		host.Mounts = append(host.Mounts, client.Mount{
			Type: "bind", Source: strings.TrimPrefix(client.DefaultHost, "unix://"), Target: "/var/run/docker.sock",
			BindOptions: &client.BindOptions{},
		})
	}
	return &client.CreateRequest{Config: cfg, HostConfig: host, NetworkingConfig: client.NetworkingConfig{EndpointsConfig: eps}}, nil
}

// checkModes refuses namespace modes that no engine knows.
func (c *Container) checkModes() error {
	inOrContainer := func(v string) bool {
		_, name, ok := strings.Cut(v, ":")
		return v == "" || v == "host" || strings.HasPrefix(v, "container:") && ok && name != ""
	}
	switch {
	case !inOrContainer(c.pid):
		return errors.New("--pid: invalid PID mode")
	case c.uts != "" && c.uts != "host":
		return errors.New("--uts: invalid UTS mode")
	case c.cgroupns != "" && c.cgroupns != "host" && c.cgroupns != "private":
		return errors.New("--cgroupns: invalid CGROUP mode")
	}
	return nil
}

func (c *Container) config(f *pflag.FlagSet, image string, args []string) (*client.Config, error) {
	env, err := readFiles(c.envFile.Values, os.LookupEnv)
	if err != nil {
		return nil, fmt.Errorf("--env-file: %w", err)
	}
	labels, err := readFiles(c.labelFiles.Values, nil)
	if err != nil {
		return nil, fmt.Errorf("--label-file: %w", err)
	}
	health, err := c.health()
	if err != nil {
		return nil, err
	}
	attached := func(s string) bool { return slices.Contains(c.attach.Values, s) }
	none := len(c.attach.Values) == 0
	cfg := &client.Config{
		Hostname:     c.hostname,
		Domainname:   c.domainname,
		User:         c.user,
		Tty:          c.tty,
		OpenStdin:    c.stdin,
		AttachStdin:  c.stdin || attached("stdin"),
		AttachStdout: none || attached("stdout"),
		AttachStderr: none || attached("stderr"),
		Env:          append(env, c.env.Values...),
		Image:        image,
		WorkingDir:   c.workdir,
		Labels:       ToMap(slices.Concat(labels, c.labels.Values, c.ownLabels())),
		StopSignal:   c.stopSignal,
		Healthcheck:  health,
	}
	if len(args) > 0 {
		cfg.Cmd = args
	}
	switch {
	case c.entrypoint != "":
		cfg.Entrypoint = []string{c.entrypoint}
	case f.Changed("entrypoint"):
		// An empty one, given, removes the image's.
		cfg.Entrypoint = []string{""}
	}
	if f.Changed("stop-timeout") {
		cfg.StopTimeout = &c.stopTimeout
	}
	// The process's input ends with the client that feeds it.
	cfg.StdinOnce = cfg.OpenStdin && cfg.AttachStdin
	return cfg, nil
}

func (c *Container) hostConfig(f *pflag.FlagSet) (*client.HostConfig, error) {
	restart, err := ParseRestart(c.restart)
	if err != nil {
		return nil, err
	}
	if c.logDriver == "none" && len(c.logOpts.Values) > 0 {
		return nil, fmt.Errorf("invalid logging opts for driver %s", c.logDriver)
	}
	security, unmasked, err := ParseSecurity(c.securityOpt.Values)
	if err != nil {
		return nil, err
	}
	storage := map[string]string{}
	for _, o := range c.storageOpt.Values {
		k, v, ok := strings.Cut(o, "=")
		if !ok {
			return nil, errors.New("invalid storage option")
		}
		storage[k] = v
	}
	devs, requests, err := c.deviceMappings()
	if err != nil {
		return nil, err
	}
	tmpfs := map[string]string{}
	for _, t := range c.tmpfs.Values {
		k, v, _ := strings.Cut(t, ":")
		tmpfs[k] = v
	}
	h := &client.HostConfig{
		ContainerIDFile: c.cidfile,
		LogConfig:       client.LogConfig{Type: c.logDriver, Config: ToMap(c.logOpts.Values)},
		NetworkMode:     c.networks.mode(),
		RestartPolicy:   restart,
		AutoRemove:      c.autoRemove,
		VolumeDriver:    c.volumeDriver,
		VolumesFrom:     c.volumesFrom.Values,
		Annotations:     c.annotations.Values,
		CapAdd:          capabilities(c.capAdd.Values),
		CapDrop:         capabilities(c.capDrop.Values),
		CgroupnsMode:    c.cgroupns,
		DNS:             orEmpty(c.dns.Values),
		DNSOptions:      orEmpty(c.dnsOptions.Values),
		DNSSearch:       orEmpty(c.dnsSearch.Values),
		ExtraHosts:      c.extraHosts.Values,
		GroupAdd:        c.groupAdd.Values,
		IpcMode:         c.ipc,
		Links:           c.links.Values,
		OomScoreAdj:     c.oomScoreAdj,
		PidMode:         c.pid,
		Privileged:      c.privileged,
		PublishAllPorts: c.publishAll,
		ReadonlyRootfs:  c.readOnly,
		SecurityOpt:     security,
		StorageOpt:      storage,
		Tmpfs:           tmpfs,
		UTSMode:         c.uts,
		UsernsMode:      c.userns,
		ShmSize:         c.shmSize.Value,
		Sysctls:         c.sysctls.Values,
		Runtime:         c.runtime,
		Umask:           c.umask.Value,
		Isolation:       c.isolation,
		Resources:       c.resources(),
		Mounts:          c.mounts.Values,
	}
	h.Devices, h.DeviceRequests = devs, requests
	if unmasked {
		h.MaskedPaths, h.ReadonlyPaths = []string{}, []string{}
	}
	if f.Changed("init") {
		h.Init = &c.init
	}
	return h, nil
}

func (c *Container) resources() client.Resources {
	return client.Resources{
		CgroupParent:         c.cgroupParent,
		Memory:               c.memory.Value,
		MemoryReservation:    c.memoryReservation.Value,
		MemorySwap:           c.memorySwap.Value,
		MemorySwappiness:     &c.swappiness,
		KernelMemory:         c.kernelMemory.Value,
		OomKillDisable:       &c.oomDisable,
		NanoCPUs:             c.cpus.Nano,
		CPUCount:             c.cpuCount,
		CPUPercent:           c.cpuPercent,
		CPUShares:            c.cpuShares,
		CPUPeriod:            c.cpuPeriod,
		CPUQuota:             c.cpuQuota,
		CPURealtimePeriod:    c.cpuRTPeriod,
		CPURealtimeRuntime:   c.cpuRTRuntime,
		CpusetCpus:           c.cpusetCpus,
		CpusetMems:           c.cpusetMems,
		PidsLimit:            &c.pidsLimit,
		BlkioWeight:          c.blkioWeight,
		BlkioWeightDevice:    c.weightDevices.list(),
		BlkioDeviceReadBps:   c.readBps.list(),
		BlkioDeviceWriteBps:  c.writeBps.list(),
		BlkioDeviceReadIOps:  c.readIOps.list(),
		BlkioDeviceWriteIOps: c.writeIOps.list(),
		IOMaximumIOps:        c.ioMaxIOps,
		IOMaximumBandwidth:   uint64(c.ioBandwidth.Value),
		Ulimits:              c.ulimits.List(),
		DeviceCgroupRules:    c.deviceRules.Values,
	}
}

// ownLabels are what our own flags stand for.
func (c *Container) ownLabels() []string {
	if c.restartUnhealthy {
		return []string{"caisson.restart-unhealthy=true"}
	}
	return nil
}

func (c *Container) health() (*client.Healthcheck, error) {
	given := c.healthCmd != "" || c.healthInterval != 0 || c.healthTimeout != 0 ||
		c.healthStartPeriod != 0 || c.healthStartInterval != 0 || c.healthRetries != 0
	if c.noHealthcheck {
		if given {
			return nil, errors.New("--no-healthcheck conflicts with --health-* options")
		}
		return &client.Healthcheck{Test: []string{"NONE"}}, nil
	}
	if !given {
		return nil, nil
	}
	for _, x := range []struct {
		name     string
		negative bool
	}{
		{"interval", c.healthInterval < 0},
		{"timeout", c.healthTimeout < 0},
		{"retries", c.healthRetries < 0},
		{"start-period", c.healthStartPeriod < 0},
		{"start-interval", c.healthStartInterval < 0},
	} {
		if x.negative {
			return nil, fmt.Errorf("--health-%s cannot be negative", x.name)
		}
	}
	h := &client.Healthcheck{
		Interval: c.healthInterval, Timeout: c.healthTimeout, StartPeriod: c.healthStartPeriod,
		StartInterval: c.healthStartInterval, Retries: c.healthRetries,
	}
	if c.healthCmd != "" {
		h.Test = []string{"CMD-SHELL", c.healthCmd}
	}
	return h, nil
}

// exposed joins the published ports and those of --expose.
func (c *Container) exposed(published map[string][]client.PortBinding) (map[string]struct{}, error) {
	out := make(map[string]struct{}, len(published))
	for p := range published {
		out[p] = struct{}{}
	}
	for _, e := range c.expose.Values {
		ports, proto, _ := strings.Cut(e, "/")
		if proto == "" {
			proto = "tcp"
		}
		first, last, err := portRange(ports)
		if err != nil {
			return nil, fmt.Errorf("invalid range format for --expose: %w", err)
		}
		for p := first; p <= last; p++ {
			out[strconv.Itoa(p)+"/"+strings.ToLower(proto)] = struct{}{}
		}
	}
	return out, nil
}

// deviceMappings reads --device: CDI names become requests to the cdi driver.
func (c *Container) deviceMappings() ([]client.DeviceMapping, []client.DeviceRequest, error) {
	requests := c.gpus.Values
	var cdi []string
	mappings := []client.DeviceMapping{}
	for _, d := range c.devices.Values {
		if isCDI(d) {
			cdi = append(cdi, d)
			continue
		}
		m, err := parseDevice(d)
		if err != nil {
			return nil, nil, err
		}
		mappings = append(mappings, m)
	}
	if len(cdi) > 0 {
		requests = append(requests, client.DeviceRequest{Driver: "cdi", DeviceIDs: cdi})
	}
	return mappings, requests, nil
}

// isCDI says whether d is vendor/class=name of the Container Device Interface.
func isCDI(d string) bool {
	kind, name, ok := strings.Cut(d, "=")
	vendor, class, ok2 := strings.Cut(kind, "/")
	return ok && ok2 && name != "" && vendor != "" && class != "" && !strings.ContainsAny(kind, ":\\") && isLetter(vendor[0]) && isLetter(class[0])
}

// parseDevice reads host[:container][:mode].
func parseDevice(d string) (client.DeviceMapping, error) {
	if len(d) > 2 && isLetter(d[0]) && d[1:3] == `:\` || strings.Contains(d, "://") {
		// A Windows engine's device; it maps as it is.
		return client.DeviceMapping{PathOnHost: d}, nil
	}
	parts := strings.Split(d, ":")
	if len(parts) > 3 || parts[0] == "" {
		return client.DeviceMapping{}, fmt.Errorf("bad format for path: %s", d)
	}
	m := client.DeviceMapping{PathOnHost: parts[0], PathInContainer: parts[0], CgroupPermissions: "rwm"}
	switch {
	case len(parts) == 3:
		if !validMode(parts[2]) {
			return m, fmt.Errorf("bad mode specified: %s", parts[2])
		}
		m.PathInContainer, m.CgroupPermissions = parts[1], parts[2]
	case len(parts) == 2 && validMode(parts[1]):
		m.PathOnHost = path.Clean(parts[0])
		m.PathInContainer, m.CgroupPermissions = m.PathOnHost, parts[1]
	case len(parts) == 2:
		m.PathInContainer = path.Clean(parts[1])
	default:
		m.PathOnHost = path.Clean(parts[0])
		m.PathInContainer = m.PathOnHost
	}
	if !path.IsAbs(m.PathInContainer) {
		return m, fmt.Errorf("%s is not an absolute path", m.PathInContainer)
	}
	return m, nil
}

// validMode wants each of r, w and m at most once, and at least one.
func validMode(s string) bool {
	for i := range len(s) {
		if !strings.Contains("rwm", s[i:i+1]) || strings.Contains(s[:i], s[i:i+1]) {
			return false
		}
	}
	return s != ""
}

// ParseRestart reads name[:count].
func ParseRestart(s string) (client.RestartPolicy, error) {
	if s == "" {
		return client.RestartPolicy{}, nil
	}
	name, count, ok := strings.Cut(s, ":")
	if ok && name == "" {
		return client.RestartPolicy{}, errors.New("invalid restart policy format: no policy provided before colon")
	}
	p := client.RestartPolicy{Name: name}
	if count != "" {
		n, err := strconv.Atoi(count)
		if err != nil {
			return client.RestartPolicy{}, errors.New("invalid restart policy format: maximum retry count must be an integer")
		}
		p.MaximumRetryCount = n
	}
	return p, nil
}

// ParseSecurity puts the content of a seccomp profile in the place of its path:
// the engine may be elsewhere. systempaths=unconfined is ours to act on.
func ParseSecurity(values []string) (out []string, unmasked bool, err error) {
	if values != nil {
		out = []string{}
	}
	for _, o := range values {
		if o == "systempaths=unconfined" {
			unmasked = true
			continue
		}
		k, v, ok := strings.Cut(o, "=")
		if !ok && k != "no-new-privileges" {
			k, v, ok = strings.Cut(o, ":")
		}
		if (!ok || v == "") && k != "no-new-privileges" {
			return nil, false, fmt.Errorf("invalid --security-opt: %q", o)
		}
		if k == "seccomp" && v != "builtin" && v != "unconfined" {
			if o, err = readProfile(v); err != nil {
				return nil, false, err
			}
		}
		out = append(out, o)
	}
	return out, unmasked, nil
}

func readProfile(name string) (string, error) {
	b, err := readBounded(name)
	if err != nil {
		return "", fmt.Errorf("opening seccomp profile (%s) failed: %w", name, err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, b); err != nil {
		return "", fmt.Errorf("compacting json for seccomp profile (%s) failed: %w", name, err)
	}
	return "seccomp=" + compact.String(), nil
}

func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("larger than %d MiB", maxFile>>20)
	}
	return b, err
}

// ReadEnv gives the variables of files, those without a value from our
// environment.
func ReadEnv(files []string) ([]string, error) { return readFiles(files, os.LookupEnv) }

// readFiles reads key=value lines; blank ones and those that start with # are
// skipped. lookup completes a key without a value; nil drops it.
func readFiles(names []string, lookup func(string) (string, bool)) ([]string, error) {
	var out []string
	for _, name := range names {
		b, err := readBounded(name)
		if err != nil {
			return nil, err
		}
		if out, err = appendPairs(out, bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), lookup); err != nil {
			return nil, fmt.Errorf("invalid env file (%s): %w", name, err)
		}
	}
	return out, nil
}

func appendPairs(out []string, b []byte, lookup func(string) (string, bool)) ([]string, error) {
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, maxFile)
	for n := 1; sc.Scan(); n++ {
		if !utf8.Valid(sc.Bytes()) {
			return nil, fmt.Errorf("invalid utf8 bytes at line %d: %v", n, sc.Bytes())
		}
		line := strings.TrimLeftFunc(sc.Text(), unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		key, _, ok := strings.Cut(line, "=")
		switch {
		case key == "":
			return nil, fmt.Errorf("no variable name on line '%s'", line)
		case strings.ContainsAny(key, " \t"):
			return nil, fmt.Errorf("variable '%s' contains whitespaces", key)
		case ok:
			out = append(out, line)
		case lookup != nil:
			if v, ok := lookup(key); ok {
				out = append(out, key+"="+v)
			}
		}
	}
	return out, sc.Err()
}

// capabilities gives names their full form, CAP_CHOWN for chown, each once.
func capabilities(names []string) []string {
	var out []string
	for _, n := range names {
		n = strings.ToUpper(strings.TrimSpace(n))
		if n != "ALL" && !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
