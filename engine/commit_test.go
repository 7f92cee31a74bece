package engine

import (
	"reflect"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/images"
)

func TestApplyChanges(t *testing.T) {
	c := images.RunConfig{ImageConfig: ocispec.ImageConfig{Env: []string{"PATH=/bin", "A=old"}}}
	err := ApplyChanges(&c, []string{
		`CMD ["sh", "-c", "echo hi"]`, `ENTRYPOINT /run me`, `ENV A="new value" B=2`, `ENV C three words`,
		`LABEL x=y "a b"='c d'`, `EXPOSE 80 53/udp`, `VOLUME ["/data"]`, `volume /x /y`, `USER 1:2`, `WORKDIR /w`, `STOPSIGNAL SIGINT`,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := ocispec.ImageConfig{
		Cmd: []string{"sh", "-c", "echo hi"}, Entrypoint: []string{"/bin/sh", "-c", "/run me"},
		Env:          []string{"PATH=/bin", "A=new value", "B=2", "C=three words"},
		Labels:       map[string]string{"x": "y", "a b": "c d"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}, "53/udp": {}},
		Volumes:      map[string]struct{}{"/data": {}, "/x": {}, "/y": {}},
		User:         "1:2", WorkingDir: "/w", StopSignal: "SIGINT",
	}
	if !reflect.DeepEqual(c.ImageConfig, want) {
		t.Errorf("got  %+v\nwant %+v", c.ImageConfig, want)
	}
}

func TestApplyChangesRefuses(t *testing.T) {
	for _, change := range []string{"", "RUN x", "COPY a b", "ENV", "ENV =x y=z", `ENV A="open`, "LABEL alone"} {
		if err := ApplyChanges(&images.RunConfig{}, []string{change}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v, want invalid argument", change, err)
		}
	}
}
