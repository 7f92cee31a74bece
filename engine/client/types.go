package client

import "encoding/json"

// Filters are the API's filters: for each key the accepted values.
type Filters map[string][]string

// encode gives the form of the filters query parameter, "" for none.
func (f Filters) encode() string {
	if len(f) == 0 {
		return ""
	}
	m := make(map[string]map[string]bool, len(f))
	for k, vs := range f {
		m[k] = make(map[string]bool, len(vs))
		for _, v := range vs {
			m[k][v] = true
		}
	}
	b, _ := json.Marshal(m) // maps of strings and bools always encode
	return string(b)
}

// Ping is what the engine's _ping headers tell.
type Ping struct {
	APIVersion string
	OSType     string
}

// Version answers version.
type Version struct {
	Platform      struct{ Name string }
	Components    []Component
	Version       string
	APIVersion    string `json:"ApiVersion"`
	MinAPIVersion string
	GitCommit     string
	GoVersion     string
	Os            string
	Arch          string
	KernelVersion string
	Experimental  bool
	BuildTime     string
}

// Component is one part of an engine.
type Component struct {
	Name    string
	Version string
	Details map[string]string
}

// Info is what of an info answer the command line lays out by itself.
type Info struct {
	ID                 string
	Containers         int
	ContainersRunning  int
	ContainersPaused   int
	ContainersStopped  int
	Images             int
	Driver             string
	DriverStatus       [][2]string
	SystemStatus       [][2]string
	Plugins            struct{ Volume, Network, Authorization, Log []string }
	Debug              bool
	NFd                int
	NGoroutines        int
	NEventsListener    int
	SystemTime         string
	LoggingDriver      string
	CgroupDriver       string
	CgroupVersion      string
	KernelVersion      string
	OperatingSystem    string
	OSVersion          string
	OSType             string
	Architecture       string
	NCPU               int
	MemTotal           int64
	DockerRootDir      string
	HTTPProxy          string `json:"HttpProxy"`
	HTTPSProxy         string `json:"HttpsProxy"`
	NoProxy            string
	Name               string
	Labels             []string
	ExperimentalBuild  bool
	ServerVersion      string
	Runtimes           map[string]Runtime
	DefaultRuntime     string
	LiveRestoreEnabled bool
	Isolation          string
	InitBinary         string
	SecurityOptions    []string
	RegistryConfig     *struct {
		InsecureRegistryCIDRs []string
		IndexConfigs          map[string]struct {
			Name   string
			Secure bool
		}
		Mirrors []string
	}
	DefaultAddressPools []struct {
		Base string
		Size int
	}
	FirewallBackend *struct {
		Driver string
		Info   [][2]string
	}
	Warnings []string
}

// Runtime is one entry of info's runtimes.
type Runtime struct {
	Path   string            `json:"path,omitempty"`
	Type   string            `json:"runtimeType,omitempty"`
	Status map[string]string `json:"status,omitempty"`
}

// Event is one message of events.
type Event struct {
	Type   string
	Action string
	Actor  struct {
		ID         string
		Attributes map[string]string
	}
	Scope    string `json:"scope,omitempty"`
	Time     int64  `json:"time,omitempty"`     // seconds
	TimeNano int64  `json:"timeNano,omitempty"` // nanoseconds
}

// Message is one message of a stream that reports progress.
type Message struct {
	Stream   string          `json:"stream,omitempty"`
	Status   string          `json:"status,omitempty"`
	ID       string          `json:"id,omitempty"`
	Progress *Progress       `json:"progressDetail,omitempty"`
	Error    *MessageError   `json:"errorDetail,omitempty"`
	ErrorOld string          `json:"error,omitempty"` // the only one that old engines send
	Aux      json.RawMessage `json:"aux,omitempty"`
}

// Progress counts bytes unless Units says otherwise. Total 0 is unknown.
type Progress struct {
	Current    int64  `json:"current,omitempty"`
	Total      int64  `json:"total,omitempty"`
	HideCounts bool   `json:"hidecounts,omitempty"`
	Units      string `json:"units,omitempty"`
}

// MessageError ends a stream that reports progress.
type MessageError struct {
	Code    int    `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}

// ImageSummary is one image of images/json.
type ImageSummary struct {
	ID          string `json:"Id"`
	ParentID    string `json:"ParentId"`
	RepoTags    []string
	RepoDigests []string
	Created     int64
	Size        int64
	SharedSize  int64
	Containers  int64
	Labels      map[string]string
}

// HistoryItem is one step of an image's making.
type HistoryItem struct {
	ID        string `json:"Id"`
	Created   int64
	CreatedBy string
	Tags      []string
	Size      int64
	Comment   string
}

// ImageDeleted is one effect of removing an image; one of the two is set.
type ImageDeleted struct {
	Untagged string `json:",omitempty"`
	Deleted  string `json:",omitempty"`
}

// SearchResult is one repository that a registry found.
type SearchResult struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	StarCount   int    `json:"star_count"`
	IsOfficial  bool   `json:"is_official"`
	IsAutomated bool   `json:"is_automated"`
}

// AuthConfig are a registry's credentials.
type AuthConfig struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	Auth          string `json:"auth,omitempty"`
	ServerAddress string `json:"serveraddress,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

// AuthResponse answers auth.
type AuthResponse struct {
	Status        string
	IdentityToken string
}

// DiskUsage answers system/df.
type DiskUsage struct {
	LayersSize int64
	Images     []ImageSummary
	Containers []ContainerSummary
	Volumes    []Volume
	BuildCache []BuildCache
	// Newer engines answer in totals, with the items on request only.
	ImageUsage      *Usage[ImageSummary]
	ContainerUsage  *Usage[ContainerSummary]
	VolumeUsage     *Usage[Volume]
	BuildCacheUsage *Usage[BuildCache]
}

// Usage is the disk space that one kind of object takes, in bytes.
type Usage[T any] struct {
	ActiveCount int64
	TotalCount  int64
	TotalSize   int64
	Reclaimable int64
	Items       []T
}

// BuildCache is one record of the build cache.
type BuildCache struct {
	ID          string
	Type        string
	Description string
	InUse       bool
	Shared      bool
	Size        int64
	CreatedAt   string
	LastUsedAt  string
	UsageCount  int
}
