package main

import (
	"os"
	"path/filepath"
)

var (
	programData       = filepath.Join(os.Getenv("ProgramData"), "caisson")
	defaultDataRoot   = filepath.Join(programData, "data")
	defaultExecRoot   = filepath.Join(programData, "run")
	defaultConfigFile = filepath.Join(programData, "daemon.json")
	defaultPolicyFile = filepath.Join(programData, "policy.yaml")
)

// systemBackendDirs are looked through after the daemon's own directory.
var systemBackendDirs []string

func defaultHost(string) string { return "npipe:////./pipe/caisson_engine" }
