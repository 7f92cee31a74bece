// Package spec writes the OCI runtime spec of a container as a list of small
// pure rules, one list per operating system. What only the host knows, such as
// the number of a device node, is asked of an interface.
package spec

// Device is one device node of the host.
type Device struct {
	Path         string // in the container
	Type         string // c or b
	Major, Minor int64
	Mode         uint32 // permission bits
	UID, GID     uint32
}

// Devices resolves the device nodes of the host.
type Devices interface {
	// Resolve finds the device at path on the host, or every device below it
	// if it is a directory; their paths are re-rooted at inContainer. Errors:
	// NotFound; InvalidArgument if there is no device at path.
	Resolve(path, inContainer string) ([]Device, error)
	// All lists every device node of the host's /dev, for privileged containers.
	All() ([]Device, error)
}
