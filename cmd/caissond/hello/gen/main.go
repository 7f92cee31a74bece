// gen builds caisson-hello for every platform and packs the results into one
// OCI archive. The same sources and toolchain give the same bytes.
//
//	gen OUTPUT.tar
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/cmd/caissond/hello"
	"github.com/caisson-engine/caisson/images/archive"
)

// program is the import path of what the image runs.
const program = "github.com/caisson-engine/caisson/cmd/caisson-hello"

// targets are the platforms of the image, with the program's path on each.
var targets = []archive.Program{
	{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, Path: "/hello"},
	{Platform: ocispec.Platform{OS: "linux", Architecture: "arm64"}, Path: "/hello"},
	{Platform: ocispec.Platform{OS: "windows", Architecture: "amd64"}, Path: "/hello.exe"},
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("gen: ")
	if len(os.Args) != 2 {
		log.Fatal("usage: gen OUTPUT.tar")
	}
	if err := generate(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

// generate writes the archive, replacing output only when it is whole.
func generate(output string) error {
	for i := range targets {
		p := &targets[i]
		var err error
		if p.Binary, err = build(p.Platform); err != nil {
			return fmt.Errorf("%s/%s: %w", p.Platform.OS, p.Platform.Architecture, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		return err
	}
	f, err := os.Create(output + ".tmp")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := archive.Build(f, hello.Name, targets); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(output+".tmp", output)
}

// build compiles the program, static and without a build id or paths.
func build(p ocispec.Platform) ([]byte, error) {
	dir, err := os.MkdirTemp("", "caisson-hello")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "hello")
	cmd := exec.CommandContext(context.Background(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.OS, "GOARCH="+p.Architecture)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go build: %w", err)
	}
	return os.ReadFile(out)
}
