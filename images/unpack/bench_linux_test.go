package unpack

import (
	"context"
	"os"
	"testing"
)

// BenchmarkOverlay unpacks the layer named by CAISSON_BENCH_LAYER.
func BenchmarkOverlay(b *testing.B) {
	file := os.Getenv("CAISSON_BENCH_LAYER")
	if file == "" || os.Geteuid() != 0 {
		b.Skip("needs root and CAISSON_BENCH_LAYER, the path of a layer")
	}
	st, err := os.Stat(file)
	if err != nil {
		b.Fatal(err)
	}
	for name, d := range map[string]Decompressor{"go": {}, "igzip": FindIgzip()} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(st.Size())
			for b.Loop() {
				f, err := os.Open(file)
				if err != nil {
					b.Fatal(err)
				}
				_, err = Overlay(context.Background(), f, b.TempDir(), Options{Decompressor: d, Budget: NewBudget(1 << 40)})
				if err != nil {
					b.Fatal(err)
				}
				f.Close()
			}
		})
	}
}
