package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/cmd/caissond/hello"
	"github.com/caisson-engine/caisson/images/tenants"
)

// offerHello lets the image store load the image that is part of this program,
// should anybody ask for it.
func offerHello(ctx context.Context, store *tenants.Service) error {
	archive, ok := hello.Archive()
	if !ok {
		return nil // a build without it, for tests
	}
	dgst, err := topDigest(archive)
	if err != nil {
		return fmt.Errorf("the image in this program: %w", err)
	}
	return store.EnsureBuiltin(ctx, hello.Name, func() io.ReadCloser {
		r, _ := hello.Archive() // it was there a moment ago, and is part of this program
		return r
	}, dgst)
}

// topDigest is the digest of what an OCI archive's index.json points to.
func topDigest(archive io.ReadCloser) (digest.Digest, error) {
	defer archive.Close()
	for t := tar.NewReader(archive); ; {
		h, err := t.Next()
		if err != nil {
			return "", fmt.Errorf("no index.json: %w", err)
		}
		if h.Name != ocispec.ImageIndexFile {
			continue
		}
		var index ocispec.Index
		if err := json.NewDecoder(t).Decode(&index); err != nil {
			return "", err
		}
		if len(index.Manifests) != 1 {
			return "", fmt.Errorf("index.json names %d images, not one", len(index.Manifests))
		}
		return index.Manifests[0].Digest, nil
	}
}
