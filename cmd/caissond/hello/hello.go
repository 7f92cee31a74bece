// Package hello holds the image caisson/hello, which every engine has without
// a registry: an OCI archive with an index for linux/amd64, linux/arm64 and
// windows/amd64, made by gen from cmd/caisson-hello before the engine is built.
package hello

import (
	"bytes"
	"embed"
	"io"
)

//go:generate go run ./gen data/hello.tar

// Name is the image's reference.
const Name = "caisson/hello:latest"

// data holds hello.tar, or nothing in a build that skipped the generator.
//
//go:embed all:data
var data embed.FS

// Archive opens the OCI archive; false if this build has none.
func Archive() (io.ReadCloser, bool) {
	b, err := data.ReadFile("data/hello.tar")
	if err != nil {
		return nil, false
	}
	return io.NopCloser(bytes.NewReader(b)), true
}
