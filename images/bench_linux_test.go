package images

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"
)

// BenchmarkPull pulls the image named by CAISSON_BENCH_REF, into an empty store
// each time.
func BenchmarkPull(b *testing.B) {
	ref := os.Getenv("CAISSON_BENCH_REF")
	if ref == "" || os.Geteuid() != 0 {
		b.Skip("needs root and CAISSON_BENCH_REF, an image in a registry")
	}
	ctx := context.Background()
	for b.Loop() {
		b.StopTimer()
		s, err := New(ctx, Config{Root: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		if os.Getenv("CAISSON_BENCH_NO_IGZIP") != "" {
			s.unzip.Igzip = ""
		}
		b.StartTimer()
		t := time.Now()
		if _, err := s.Pull(ctx, PullOptions{Ref: ref}, nil); err != nil {
			b.Fatal(err)
		}
		b.Logf("%v", time.Since(t))
		b.StopTimer()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkStart is what a container's start asks of this package.
func BenchmarkStart(b *testing.B) {
	s, ctx := newService(b), context.Background()
	img, err := s.Import(ctx, bytes.NewReader(layer(b, file{name: "a", body: "1"})), ImportOptions{Ref: "x"})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("get", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Get(ctx, "x", nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("prepare", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Prepare(ctx, "c", img, nil); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := s.Release(ctx, "c"); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("release", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			if _, err := s.Prepare(ctx, "c", img, nil); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if err := s.Release(ctx, "c"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
