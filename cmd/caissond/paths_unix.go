//go:build !windows

package main

const (
	defaultDataRoot   = "/var/lib/caisson"
	defaultExecRoot   = "/run/caisson"
	defaultConfigFile = "/etc/caisson/daemon.json"
	defaultPolicyFile = "/etc/caisson/policy.yaml"
)

// systemBackendDirs are looked through after the daemon's own directory.
var systemBackendDirs = []string{"/usr/local/libexec/caisson", "/usr/libexec/caisson"}

func defaultHost(execRoot string) string { return "unix://" + execRoot + "/caisson.sock" }
