package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/opencontainers/go-digest"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/compose"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
	"github.com/caisson-engine/caisson/engine/client"
)

// left are the keys of a service that mean nothing here, with why.
var left = []struct {
	key  string
	set  func(types.ServiceConfig) bool
	says string
}{
	{"develop", func(s types.ServiceConfig) bool { return s.Develop != nil }, "there is no watch; use volumes"},
	{"credential_spec", func(s types.ServiceConfig) bool { return s.CredentialSpec != nil }, "it is of Windows containers"},
	{"use_api_socket", func(s types.ServiceConfig) bool { return s.UseAPISocket }, "mount the engine's socket under volumes"},
	{"post_start", func(s types.ServiceConfig) bool { return len(s.PostStart) > 0 }, "hooks are not run"},
	{"pre_stop", func(s types.ServiceConfig) bool { return len(s.PreStop) > 0 }, "hooks are not run"},
	{"net", func(s types.ServiceConfig) bool { return s.Net != "" }, "use network_mode"},
	{"log_driver", func(s types.ServiceConfig) bool { return s.LogDriver != "" }, "use logging"},
	{"log_opt", func(s types.ServiceConfig) bool { return len(s.LogOpt) > 0 }, "use logging"},
	{"deploy.mode", deployed(func(d types.DeployConfig) bool { return d.Mode != "" && d.Mode != "replicated" }), "one host has no swarm; use scale"},
	{"deploy.placement", deployed(func(d types.DeployConfig) bool {
		return len(d.Placement.Constraints)+len(d.Placement.Preferences) > 0 || d.Placement.MaxReplicas > 0
	}), "there is one host"},
	{"deploy.update_config", deployed(func(d types.DeployConfig) bool { return d.UpdateConfig != nil }), "one host has no swarm"},
	{"deploy.rollback_config", deployed(func(d types.DeployConfig) bool { return d.RollbackConfig != nil }), "one host has no swarm"},
	{"deploy.endpoint_mode", deployed(func(d types.DeployConfig) bool { return d.EndpointMode != "" && d.EndpointMode != "dnsrr" }), "names resolve to all containers in turn"},
	{"deploy.restart_policy", deployed(func(d types.DeployConfig) bool {
		return d.RestartPolicy != nil && (d.RestartPolicy.Delay != nil || d.RestartPolicy.Window != nil)
	}), "delay and window are the engine's own"},
	{"deploy.resources.reservations.cpus", deployed(func(d types.DeployConfig) bool {
		return d.Resources.Reservations != nil && d.Resources.Reservations.NanoCPUs != 0
	}), "processors are limited, not reserved"},
	{"pull_policy", func(s types.ServiceConfig) bool {
		p, _, _ := s.GetPullPolicy()
		return p == types.PullPolicyRefresh
	}, "images are pulled when they are missing; use always, or `caisson compose pull`"},
}

func deployed(f func(types.DeployConfig) bool) func(types.ServiceConfig) bool {
	return func(s types.ServiceConfig) bool { return s.Deploy != nil && f(*s.Deploy) }
}

func (t *translator) service(s types.ServiceConfig) (*compose.Service, error) {
	switch {
	case s.Provider != nil:
		return nil, fmt.Errorf("provider: services that another program provides are not supported")
	case len(s.Models) > 0:
		return nil, fmt.Errorf("models: there is no model runner")
	case s.GetScale() > 1 && s.ContainerName != "":
		return nil, fmt.Errorf("container_name %q is one container's, but scale is %d: remove one of the two", s.ContainerName, s.GetScale())
	}
	for _, l := range left {
		if l.set(s) {
			t.ignore("services."+s.Name+"."+l.key, l.says)
		}
	}
	whole, err := hashed(s)
	if err != nil {
		return nil, err
	}
	pull, _, err := s.GetPullPolicy()
	if err != nil {
		return nil, err
	}
	out := &compose.Service{
		Name: s.Name, Image: cmp.Or(s.Image, t.p.Name+"-"+s.Name), Hash: digest.FromBytes(whole).Encoded(), Build: s.Build != nil, Pull: pull,
		Platform: cmp.Or(s.Platform, t.p.Environment["DOCKER_DEFAULT_PLATFORM"]), ContainerName: s.ContainerName, Scale: s.GetScale(),
		Config: config(s), Silent: s.Attach != nil && !*s.Attach, Links: s.Links,
		DependsOn: map[string]compose.Dependency{},
	}
	if len(s.VolumesFrom) > 0 || slices.ContainsFunc([]string{s.NetworkMode, s.Ipc, s.Pid}, refers) {
		out.Hashed = string(whole)
	}
	for name, d := range s.DependsOn {
		out.DependsOn[name] = compose.Dependency{Condition: d.Condition, Required: d.Required, Restart: d.Restart}
	}
	if out.Host, err = t.host(s); err != nil {
		return nil, err
	}
	t.networks(s, out)
	if err := t.mounts(s, out); err != nil {
		return nil, err
	}
	return out, t.files(s, out)
}

// refers says whether a namespace is another service's.
func refers(mode string) bool { return strings.HasPrefix(mode, types.ServicePrefix) }

func config(s types.ServiceConfig) client.Config {
	c := client.Config{
		Hostname: s.Hostname, Domainname: s.DomainName, User: s.User, Tty: s.Tty, OpenStdin: s.StdinOpen,
		AttachStdout: true, AttachStderr: true, ExposedPorts: map[string]struct{}{}, Env: environment(s.Environment),
		Cmd: s.Command, Entrypoint: s.Entrypoint, WorkingDir: s.WorkingDir, Labels: maps.Clone(s.Labels),
		StopSignal: s.StopSignal, Healthcheck: health(s.HealthCheck),
	}
	if s.StopGracePeriod != nil {
		seconds := int(math.Ceil(time.Duration(*s.StopGracePeriod).Seconds()))
		c.StopTimeout = &seconds
	}
	for _, e := range s.Expose {
		if !strings.Contains(e, "/") {
			e += "/tcp"
		}
		c.ExposedPorts[e] = struct{}{}
	}
	for _, p := range s.Ports {
		c.ExposedPorts[portKey(p)] = struct{}{}
	}
	return c
}

// environment has variables without a value as the engine removes them.
func environment(m types.MappingWithEquals) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] == nil {
			out = append(out, k)
		} else {
			out = append(out, k+"="+*m[k])
		}
	}
	return out
}

func health(h *types.HealthCheckConfig) *client.Healthcheck {
	if h == nil {
		return nil
	}
	if h.Disable {
		return &client.Healthcheck{Test: []string{"NONE"}}
	}
	out := &client.Healthcheck{
		Test: h.Test, Interval: duration(h.Interval), Timeout: duration(h.Timeout),
		StartPeriod: duration(h.StartPeriod), StartInterval: duration(h.StartInterval),
	}
	if h.Retries != nil {
		out.Retries = int(min(*h.Retries, math.MaxInt32))
	}
	return out
}

func duration(d *types.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return time.Duration(*d)
}

func portKey(p types.ServicePortConfig) string {
	return strconv.FormatUint(uint64(p.Target), 10) + "/" + cmp.Or(p.Protocol, "tcp")
}

func (t *translator) host(s types.ServiceConfig) (client.HostConfig, error) {
	var options []string
	for _, o := range s.SecurityOpt {
		if profile, ok := strings.CutPrefix(o, "seccomp="); ok && profile != "unconfined" && profile != "builtin" {
			o = "seccomp=" + t.p.RelativePath(profile)
		}
		options = append(options, o)
	}
	security, unmasked, err := opts.ParseSecurity(options)
	if err != nil {
		return client.HostConfig{}, err
	}
	h := client.HostConfig{
		NetworkMode: s.NetworkMode, PortBindings: map[string][]client.PortBinding{}, RestartPolicy: restart(s),
		VolumeDriver: s.VolumeDriver, VolumesFrom: s.VolumesFrom, Annotations: s.Annotations,
		CapAdd: s.CapAdd, CapDrop: s.CapDrop, CgroupnsMode: s.Cgroup, DNS: s.DNS, DNSOptions: s.DNSOpts, DNSSearch: s.DNSSearch,
		ExtraHosts: s.ExtraHosts.AsList(":"), GroupAdd: s.GroupAdd, IpcMode: s.Ipc, OomScoreAdj: int(s.OomScoreAdj), PidMode: s.Pid,
		Privileged: s.Privileged, ReadonlyRootfs: s.ReadOnly, SecurityOpt: security, StorageOpt: s.StorageOpt, Tmpfs: map[string]string{},
		UTSMode: s.Uts, UsernsMode: s.UserNSMode, ShmSize: int64(s.ShmSize), Sysctls: s.Sysctls, Runtime: s.Runtime, Isolation: s.Isolation,
		Init: s.Init, Resources: resources(s), Links: s.ExternalLinks,
	}
	if unmasked {
		h.MaskedPaths, h.ReadonlyPaths = []string{}, []string{}
	}
	if s.Logging != nil {
		h.LogConfig = client.LogConfig{Type: s.Logging.Driver, Config: s.Logging.Options}
	}
	for _, t := range s.Tmpfs {
		path, options, _ := strings.Cut(t, ":")
		h.Tmpfs[path] = options
	}
	for _, p := range s.Ports {
		key := portKey(p)
		h.PortBindings[key] = append(h.PortBindings[key], client.PortBinding{HostIP: p.HostIP, HostPort: p.Published})
	}
	return h, nil
}

// conditions are deploy's words for restart policies.
var conditions = map[string]string{"none": "no", "any": "always"}

func restart(s types.ServiceConfig) client.RestartPolicy {
	name, count, _ := strings.Cut(s.Restart, ":")
	attempts, _ := strconv.Atoi(count) // the loader checked it
	if s.Deploy != nil && s.Deploy.RestartPolicy != nil {
		name, attempts = s.Deploy.RestartPolicy.Condition, 0
		if n := s.Deploy.RestartPolicy.MaxAttempts; n != nil {
			attempts = int(min(*n, math.MaxInt32))
		}
	}
	return client.RestartPolicy{Name: cmp.Or(conditions[name], name), MaximumRetryCount: attempts}
}

func resources(s types.ServiceConfig) client.Resources {
	r := client.Resources{
		CgroupParent: s.CgroupParent, Memory: int64(s.MemLimit), MemorySwap: int64(s.MemSwapLimit), MemoryReservation: int64(s.MemReservation),
		CPUCount: s.CPUCount, CPUPeriod: s.CPUPeriod, CPUQuota: s.CPUQuota, CPURealtimePeriod: s.CPURTPeriod, CPURealtimeRuntime: s.CPURTRuntime,
		CPUShares: s.CPUShares, NanoCPUs: int64(s.CPUS * 1e9), CPUPercent: int64(s.CPUPercent * 100), CpusetCpus: s.CPUSet,
		DeviceCgroupRules: s.DeviceCgroupRules,
	}
	if s.MemSwappiness != 0 {
		v := int64(s.MemSwappiness)
		r.MemorySwappiness = &v
	}
	if s.OomKillDisable {
		r.OomKillDisable = &s.OomKillDisable
	}
	if s.PidsLimit != 0 {
		r.PidsLimit = &s.PidsLimit
	}
	if b := s.BlkioConfig; b != nil {
		r.BlkioWeight = b.Weight
		for _, w := range b.WeightDevice {
			r.BlkioWeightDevice = append(r.BlkioWeightDevice, client.WeightDevice{Path: w.Path, Weight: w.Weight})
		}
		r.BlkioDeviceReadBps, r.BlkioDeviceWriteBps = throttle(b.DeviceReadBps), throttle(b.DeviceWriteBps)
		r.BlkioDeviceReadIOps, r.BlkioDeviceWriteIOps = throttle(b.DeviceReadIOps), throttle(b.DeviceWriteIOps)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Ulimits)) {
		u := s.Ulimits[name]
		r.Ulimits = append(r.Ulimits, client.Ulimit{
			Name: name, Soft: int64(cmp.Or(u.Soft, u.Single)), Hard: int64(cmp.Or(u.Hard, u.Single)),
		})
	}
	for _, d := range s.Devices {
		r.Devices = append(r.Devices, client.DeviceMapping{PathOnHost: d.Source, PathInContainer: d.Target, CgroupPermissions: d.Permissions})
	}
	for _, g := range s.Gpus {
		g.Capabilities = append(slices.Clone(g.Capabilities), "gpu")
		r.DeviceRequests = append(r.DeviceRequests, deviceRequest(g))
	}
	if s.Deploy == nil {
		return r
	}
	if l := s.Deploy.Resources.Limits; l != nil {
		r.Memory = cmp.Or(int64(l.MemoryBytes), r.Memory)
		r.NanoCPUs = cmp.Or(int64(float64(l.NanoCPUs)*1e9), r.NanoCPUs)
		if l.Pids > 0 {
			r.PidsLimit = &l.Pids
		}
	}
	if v := s.Deploy.Resources.Reservations; v != nil {
		r.MemoryReservation = cmp.Or(int64(v.MemoryBytes), r.MemoryReservation)
		for _, d := range v.Devices {
			r.DeviceRequests = append(r.DeviceRequests, deviceRequest(d))
		}
	}
	return r
}

func deviceRequest(d types.DeviceRequest) client.DeviceRequest {
	return client.DeviceRequest{
		Driver: d.Driver, Count: int(d.Count), DeviceIDs: d.IDs, Capabilities: [][]string{d.Capabilities}, Options: d.Options,
	}
}

func throttle(list []types.ThrottleDevice) []client.ThrottleDevice {
	var out []client.ThrottleDevice
	for _, d := range list {
		out = append(out, client.ThrottleDevice{Path: d.Path, Rate: uint64(d.Rate)})
	}
	return out
}

// networks connects the service: to the networks it names, or as its mode says.
func (t *translator) networks(s types.ServiceConfig, out *compose.Service) {
	if s.NetworkMode != "" {
		return
	}
	for _, key := range s.NetworksByPriority() {
		e := client.Endpoint{}
		if c := s.Networks[key]; c != nil {
			e.Aliases, e.MacAddress, e.GwPriority = c.Aliases, c.MacAddress, c.GatewayPriority
			e.DriverOpts = maps.Clone(c.DriverOpts)
			if c.InterfaceName != "" {
				if e.DriverOpts == nil {
					e.DriverOpts = map[string]string{}
				}
				e.DriverOpts["com.docker.network.endpoint.ifname"] = c.InterfaceName
			}
			if c.Ipv4Address != "" || c.Ipv6Address != "" || len(c.LinkLocalIPs) > 0 {
				e.IPAMConfig = &client.EndpointIPAM{IPv4Address: c.Ipv4Address, IPv6Address: c.Ipv6Address, LinkLocalIPs: c.LinkLocalIPs}
			}
		}
		if len(out.Networks) == 0 && e.MacAddress == "" {
			e.MacAddress = s.MacAddress
		}
		out.Networks = append(out.Networks, compose.Attachment{Network: key, Endpoint: e})
	}
	if len(out.Networks) == 0 {
		out.Host.NetworkMode = "none"
	}
}
