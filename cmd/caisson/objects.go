package main

import (
	"time"

	"github.com/caisson-engine/caisson/engine/client"
)

// containerObject is a container as inspect's templates see it: a field that the
// engine left out because it is empty is there, empty.
type containerObject struct {
	ID              string `json:"Id"`
	Created         string
	Path            string
	Args            []string
	State           *stateObject
	Image           string
	ResolvConfPath  string
	HostnamePath    string
	HostsPath       string
	LogPath         string
	Name            string
	RestartCount    int
	Driver          string
	Platform        string
	MountLabel      string
	ProcessLabel    string
	AppArmorProfile string
	ExecIDs         []string
	HostConfig      *client.HostConfig
	GraphDriver     driverObject
	SizeRw          *int64 `json:",omitempty"`
	SizeRootFs      *int64 `json:",omitempty"`
	Mounts          []mountObject
	Config          *configObject
	NetworkSettings *networkObject
}

func newContainerObject() any { return &containerObject{} }

// stateObject is a container's state.
type stateObject struct {
	Status     string
	Running    bool
	Paused     bool
	Restarting bool
	OOMKilled  bool
	Dead       bool
	Pid        int
	ExitCode   int
	Error      string
	StartedAt  string
	FinishedAt string
	Health     *struct {
		Status        string
		FailingStreak int
		Log           []struct {
			Start, End time.Time
			ExitCode   int
			Output     string
		}
	} `json:",omitempty"`
}

// driverObject says where a filesystem is stored.
type driverObject struct {
	Data map[string]string
	Name string
}

// mountObject is a mount of a container.
type mountObject struct {
	Type        string `json:",omitempty"`
	Name        string `json:",omitempty"`
	Source      string
	Destination string
	Driver      string `json:",omitempty"`
	Mode        string
	RW          bool
	Propagation string
}

// configObject is a container's or an image's configuration.
type configObject struct {
	client.Config
	ArgsEscaped     bool     `json:",omitempty"`
	NetworkDisabled bool     `json:",omitempty"`
	OnBuild         []string `json:",omitempty"`
	Shell           []string `json:",omitempty"`
}

// networkObject is what of the network a container has. The fields before Ports
// are empty since engines of API 1.52; templates still ask for them.
type networkObject struct {
	Bridge     string `json:",omitempty"`
	SandboxID  string
	SandboxKey string
	Ports      map[string][]client.PortBinding
	Gateway    string `json:",omitempty"`
	IPAddress  string `json:",omitempty"`
	MacAddress string `json:",omitempty"`
	Networks   map[string]*client.Endpoint
}

// imageObject is an image as inspect's templates see it.
type imageObject struct {
	ID            string `json:"Id"`
	RepoTags      []string
	RepoDigests   []string
	Parent        string
	Comment       string
	Created       string
	DockerVersion string
	Author        string
	Config        *configObject
	Architecture  string
	Variant       string `json:",omitempty"`
	Os            string
	OsVersion     string `json:",omitempty"`
	Size          int64
	GraphDriver   driverObject
	RootFS        struct {
		Type   string   `json:",omitempty"`
		Layers []string `json:",omitempty"`
	}
	Metadata struct {
		LastTagTime time.Time
	}
}

func newImageObject() any { return &imageObject{} }

// netObject is a network as inspect's templates see it.
type netObject struct {
	Name       string
	ID         string `json:"Id"`
	Created    time.Time
	Scope      string
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       client.IPAM
	Internal   bool
	Attachable bool
	Ingress    bool
	ConfigFrom struct{ Network string }
	ConfigOnly bool
	Containers map[string]struct {
		Name        string
		EndpointID  string
		MacAddress  string
		IPv4Address string
		IPv6Address string
	}
	Options map[string]string
	Labels  map[string]string
}

func newNetworkObject() any { return &netObject{} }
