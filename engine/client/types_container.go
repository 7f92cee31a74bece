package client

import "time"

// CreateRequest is the body of containers/create.
type CreateRequest struct {
	*Config
	HostConfig       *HostConfig
	NetworkingConfig NetworkingConfig
}

// Config is what of a container does not depend on the host.
type Config struct {
	Hostname     string
	Domainname   string
	User         string
	AttachStdin  bool
	AttachStdout bool
	AttachStderr bool
	ExposedPorts map[string]struct{} `json:",omitempty"` // "80/tcp"
	Tty          bool
	OpenStdin    bool
	StdinOnce    bool
	Env          []string
	Cmd          []string
	Healthcheck  *Healthcheck `json:",omitempty"`
	Image        string
	Volumes      map[string]struct{}
	WorkingDir   string
	Entrypoint   []string
	Labels       map[string]string
	StopSignal   string `json:",omitempty"`
	StopTimeout  *int   `json:",omitempty"` // seconds
}

// Healthcheck says how to find out whether a container works. Zero durations
// are inherited from the image.
type Healthcheck struct {
	Test          []string      `json:",omitempty"`
	Interval      time.Duration `json:",omitempty"`
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"`
}

// HostConfig is what of a container depends on the host.
type HostConfig struct {
	Binds           []string
	ContainerIDFile string
	LogConfig       LogConfig
	NetworkMode     string
	PortBindings    map[string][]PortBinding
	RestartPolicy   RestartPolicy
	AutoRemove      bool
	VolumeDriver    string
	VolumesFrom     []string
	ConsoleSize     [2]uint           // rows, columns
	Annotations     map[string]string `json:",omitempty"`
	CapAdd          []string
	CapDrop         []string
	CgroupnsMode    string
	DNS             []string `json:"Dns"`
	DNSOptions      []string `json:"DnsOptions"`
	DNSSearch       []string `json:"DnsSearch"`
	ExtraHosts      []string
	GroupAdd        []string
	IpcMode         string
	Cgroup          string
	Links           []string
	OomScoreAdj     int
	PidMode         string
	Privileged      bool
	PublishAllPorts bool
	ReadonlyRootfs  bool
	SecurityOpt     []string
	StorageOpt      map[string]string `json:",omitempty"`
	Tmpfs           map[string]string `json:",omitempty"`
	UTSMode         string
	UsernsMode      string
	ShmSize         int64
	Sysctls         map[string]string `json:",omitempty"`
	Runtime         string            `json:",omitempty"`
	Umask           *uint32           `json:",omitempty"`
	Isolation       string
	Resources
	Mounts        []Mount `json:",omitempty"`
	MaskedPaths   []string
	ReadonlyPaths []string
	Init          *bool `json:",omitempty"`
}

// Resources are a container's limits. Zero is no limit.
type Resources struct {
	CPUShares            int64 `json:"CpuShares"`
	Memory               int64
	NanoCPUs             int64 `json:"NanoCpus"`
	CgroupParent         string
	BlkioWeight          uint16
	BlkioWeightDevice    []WeightDevice
	BlkioDeviceReadBps   []ThrottleDevice
	BlkioDeviceWriteBps  []ThrottleDevice
	BlkioDeviceReadIOps  []ThrottleDevice
	BlkioDeviceWriteIOps []ThrottleDevice
	CPUPeriod            int64 `json:"CpuPeriod"`
	CPUQuota             int64 `json:"CpuQuota"`
	CPURealtimePeriod    int64 `json:"CpuRealtimePeriod"`
	CPURealtimeRuntime   int64 `json:"CpuRealtimeRuntime"`
	CpusetCpus           string
	CpusetMems           string
	Devices              []DeviceMapping
	DeviceCgroupRules    []string
	DeviceRequests       []DeviceRequest
	KernelMemory         int64 `json:",omitempty"`
	MemoryReservation    int64
	MemorySwap           int64
	MemorySwappiness     *int64
	OomKillDisable       *bool
	PidsLimit            *int64
	Ulimits              []Ulimit
	CPUCount             int64  `json:"CpuCount"`
	CPUPercent           int64  `json:"CpuPercent"`
	IOMaximumIOps        uint64 `json:"IOMaximumIOps"`
	IOMaximumBandwidth   uint64
}

// WeightDevice is the block I/O weight of one device.
type WeightDevice struct {
	Path   string
	Weight uint16
}

// ThrottleDevice is the rate limit of one device, bytes or operations a second.
type ThrottleDevice struct {
	Path string
	Rate uint64
}

// DeviceMapping is a host device in a container.
type DeviceMapping struct {
	PathOnHost        string
	PathInContainer   string
	CgroupPermissions string
}

// DeviceRequest asks a device driver for devices.
type DeviceRequest struct {
	Driver       string
	Count        int // -1 is all
	DeviceIDs    []string
	Capabilities [][]string
	Options      map[string]string
}

// Ulimit is one resource limit of a container's processes.
type Ulimit struct {
	Name string
	Hard int64
	Soft int64
}

// LogConfig chooses a log driver.
type LogConfig struct {
	Type   string
	Config map[string]string
}

// RestartPolicy says when a container is started again.
type RestartPolicy struct {
	Name              string
	MaximumRetryCount int
}

// PortBinding is where a container's port is published. HostPort may be a range.
type PortBinding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

// Mount is a mount of --mount.
type Mount struct {
	Type          string         `json:",omitempty"`
	Source        string         `json:",omitempty"`
	Target        string         `json:",omitempty"`
	ReadOnly      bool           `json:",omitempty"`
	Consistency   string         `json:",omitempty"`
	BindOptions   *BindOptions   `json:",omitempty"`
	VolumeOptions *VolumeOptions `json:",omitempty"`
	ImageOptions  *ImageOptions  `json:",omitempty"`
	TmpfsOptions  *TmpfsOptions  `json:",omitempty"`
}

// BindOptions are a bind mount's.
type BindOptions struct {
	Propagation            string `json:",omitempty"`
	NonRecursive           bool   `json:",omitempty"`
	CreateMountpoint       bool   `json:",omitempty"`
	ReadOnlyNonRecursive   bool   `json:",omitempty"`
	ReadOnlyForceRecursive bool   `json:",omitempty"`
}

// VolumeOptions are a volume mount's.
type VolumeOptions struct {
	NoCopy       bool              `json:",omitempty"`
	Labels       map[string]string `json:",omitempty"`
	Subpath      string            `json:",omitempty"`
	DriverConfig *VolumeDriver     `json:",omitempty"`
}

// VolumeDriver makes the volume if it does not exist.
type VolumeDriver struct {
	Name    string            `json:",omitempty"`
	Options map[string]string `json:",omitempty"`
}

// ImageOptions are an image mount's.
type ImageOptions struct {
	Subpath string `json:",omitempty"`
}

// TmpfsOptions are a tmpfs mount's. Mode holds permission bits only.
type TmpfsOptions struct {
	SizeBytes int64  `json:",omitempty"`
	Mode      uint32 `json:",omitempty"`
}

// NetworkingConfig connects a new container to networks.
type NetworkingConfig struct {
	EndpointsConfig map[string]*Endpoint
}

// Endpoint is a container's connection to one network.
type Endpoint struct {
	IPAMConfig          *EndpointIPAM
	Links               []string
	Aliases             []string
	MacAddress          string
	DriverOpts          map[string]string
	GwPriority          int
	NetworkID           string
	EndpointID          string
	Gateway             string
	IPAddress           string
	IPPrefixLen         int
	IPv6Gateway         string
	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
	DNSNames            []string
}

// EndpointIPAM are addresses that were asked for.
type EndpointIPAM struct {
	IPv4Address  string   `json:",omitempty"`
	IPv6Address  string   `json:",omitempty"`
	LinkLocalIPs []string `json:",omitempty"`
}

// CreateResponse answers containers/create.
type CreateResponse struct {
	ID       string `json:"Id"`
	Warnings []string
}

// WaitResponse answers containers/wait.
type WaitResponse struct {
	StatusCode int
	Error      *struct{ Message string }
}

// Container is what of an inspect answer the command line acts on. It shows
// the rest as the engine sent it.
type Container struct {
	ID    string `json:"Id"`
	Name  string
	Image string
	State struct {
		Status     string
		Running    bool
		Paused     bool
		Restarting bool
		Pid        int
		ExitCode   int
		Error      string
	}
	Config struct {
		Tty         bool
		OpenStdin   bool
		StdinOnce   bool
		AttachStdin bool
		Image       string
	}
	HostConfig struct {
		AutoRemove bool
	}
	NetworkSettings struct {
		Ports map[string][]PortBinding
	}
}

// ContainerSummary is one line of containers/json.
type ContainerSummary struct {
	ID         string `json:"Id"`
	Names      []string
	Image      string
	ImageID    string
	Command    string
	Created    int64
	Ports      []Port
	SizeRw     int64
	SizeRootFs int64
	Labels     map[string]string
	State      string
	Status     string
	Mounts     []struct {
		Type   string
		Name   string
		Source string
		Driver string
	}
	NetworkSettings struct {
		Networks map[string]struct{}
	}
	ImageManifestDescriptor *struct {
		Platform *Platform `json:"platform"`
	}
}

// Platform is what an image is made for.
type Platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

// String is the platform as flags take it, "" for none.
func (p *Platform) String() string {
	if p == nil {
		return ""
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// Port is a port of a listed container. PublicPort 0 is not published.
type Port struct {
	IP          string
	PrivatePort uint16
	PublicPort  uint16
	Type        string
}

// ExecConfig is the body of containers/exec.
type ExecConfig struct {
	User         string
	Privileged   bool
	Tty          bool
	ConsoleSize  *[2]uint `json:",omitempty"` // rows, columns
	AttachStdin  bool
	AttachStderr bool
	AttachStdout bool
	DetachKeys   string
	Env          []string
	WorkingDir   string
	Cmd          []string
}

// ExecStart is the body of exec/start.
type ExecStart struct {
	Detach      bool
	Tty         bool
	ConsoleSize *[2]uint `json:",omitempty"` // rows, columns
}

// Exec answers exec/json.
type Exec struct {
	ID       string
	Running  bool
	ExitCode *int
	Pid      int
}

// TopResponse answers containers/top.
type TopResponse struct {
	Titles    []string
	Processes [][]string
}

// Change is one difference of a container from its image. Kind is 0 for
// changed, 1 for added, 2 for deleted.
type Change struct {
	Path string
	Kind int
}

// PathStat describes a path in a container.
type PathStat struct {
	Name       string    `json:"name"`
	Size       int64     `json:"size"`
	Mode       uint32    `json:"mode"` // bits of Go's fs.FileMode
	Mtime      time.Time `json:"mtime"`
	LinkTarget string    `json:"linkTarget"`
}

// UpdateConfig is the body of containers/update.
type UpdateConfig struct {
	Resources
	RestartPolicy RestartPolicy
}

// PruneReport answers the prune requests.
type PruneReport struct {
	ContainersDeleted []string
	ImagesDeleted     []ImageDeleted
	VolumesDeleted    []string
	SpaceReclaimed    uint64
}

// Stats is one sample of containers/stats.
type Stats struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	OSType   string    `json:"os_type"`
	Read     time.Time `json:"read"`
	PreRead  time.Time `json:"preread"`
	NumProcs uint32    `json:"num_procs"`
	CPU      CPUStats  `json:"cpu_stats"`
	PreCPU   CPUStats  `json:"precpu_stats"`
	Memory   struct {
		Usage             uint64            `json:"usage"`
		Limit             uint64            `json:"limit"`
		Stats             map[string]uint64 `json:"stats"`
		PrivateWorkingSet uint64            `json:"privateworkingset"`
	} `json:"memory_stats"`
	Networks map[string]struct {
		RxBytes uint64 `json:"rx_bytes"`
		TxBytes uint64 `json:"tx_bytes"`
	} `json:"networks"`
	Pids struct {
		Current uint64 `json:"current"`
	} `json:"pids_stats"`
	Blkio struct {
		ServiceBytes []struct {
			Op    string `json:"op"`
			Value uint64 `json:"value"`
		} `json:"io_service_bytes_recursive"`
	} `json:"blkio_stats"`
	Storage struct {
		ReadSizeBytes  uint64 `json:"read_size_bytes"`
		WriteSizeBytes uint64 `json:"write_size_bytes"`
	} `json:"storage_stats"`
}

// CPUStats are nanoseconds of CPU time, except on Windows, where they are
// hundreds of nanoseconds.
type CPUStats struct {
	Usage struct {
		Total  uint64   `json:"total_usage"`
		PerCPU []uint64 `json:"percpu_usage"`
	} `json:"cpu_usage"`
	System     uint64 `json:"system_cpu_usage"`
	OnlineCPUs uint32 `json:"online_cpus"`
}
