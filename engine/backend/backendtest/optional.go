package backendtest

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// optionalChecks are about capabilities.
var optionalChecks = []check{
	{"PauseAndResume", (*suite).pause},
	{"ProcessesOfAContainer", (*suite).processes},
	{"UsageOfAContainer", (*suite).usage},
	{"FilesGoInAndOut", (*suite).files},
	{"FilesRefusals", (*suite).filesRefusals},
}

// either runs test if the backend has the capability, and otherwise checks that
// a call answers NotImplemented; impl is nil if the interface is missing.
func (s *suite) either(capability string, call func() error, test func()) {
	s.Helper()
	if s.capable(capability) {
		test()
		return
	}
	s.wantKind(call(), errdefs.ErrNotImplemented, "verb of absent capability "+capability)
}

func (s *suite) pause() {
	p, ok := s.Backend.(backend.Pauser)
	if !ok {
		s.absent(backend.CapPause)
		return
	}
	ref := s.run("c", forever...)
	s.either(backend.CapPause, func() error { return p.Pause(s.ctx, "c") }, func() {
		ev := s.events(0)
		s.must(p.Pause(s.ctx, "c"), "Pause")
		if st, err := s.Backend.State(s.ctx, "c"); err != nil || !st.Paused {
			s.Errorf("State of a paused container: %v, error %v", st, err)
		}
		s.wantKind(p.Pause(s.ctx, "c"), errdefs.ErrFailedPrecondition, "second Pause")
		err := s.Backend.Exec(s.ctx, &backendpb.ExecSpec{Container: "c", Exec: "e", Process: s.Process(false, "true"), Io: &backendpb.IO{}})
		s.wantKind(err, errdefs.ErrFailedPrecondition, "Exec in a paused container")
		s.must(p.Resume(s.ctx, "c"), "Resume")
		s.wantKind(p.Resume(s.ctx, "c"), errdefs.ErrFailedPrecondition, "second Resume")
		s.wantExec(ref, "after", 6, sh("exit 6")...)
		got := s.until(ev, is(backendpb.Event_RESUMED, ref))
		if !slices.ContainsFunc(got, is(backendpb.Event_PAUSED, ref)) {
			s.Errorf("no PAUSED: %s", describe(got))
		}
		// A paused container can be deleted.
		s.must(p.Pause(s.ctx, "c"), "Pause")
		s.remove(ref)
		s.wantKind(p.Pause(s.ctx, "c"), errdefs.ErrNotFound, "Pause of a deleted container")
	})
}

// absent checks that Info does not promise what the type cannot do.
func (s *suite) absent(capability string) {
	s.Helper()
	if s.capable(capability) {
		s.Errorf("Info lists capability %q, whose interface the backend lacks", capability)
	}
}

func (s *suite) processes() {
	p, ok := s.Backend.(backend.ProcessLister)
	if !ok {
		s.absent(backend.CapProcesses)
		return
	}
	ref := s.run("c", forever...)
	list := func() error { _, err := p.Processes(s.ctx, "c"); return err }
	s.either(backend.CapProcesses, list, func() {
		ex := s.exec(ref, "e", nil, "sleep", "1000")
		s.start(ex)
		reply, err := p.Processes(s.ctx, "c")
		s.must(err, "Processes")
		if len(reply.Processes) < 2 {
			s.Errorf("Processes: %v, want the first process and the exec at least", reply)
		}
		s.remove(ref)
		s.wantKind(list(), errdefs.ErrNotFound, "Processes of a deleted container")
	})
}

func (s *suite) usage() {
	m, ok := s.Backend.(backend.Measurer)
	if !ok {
		s.absent(backend.CapUsage)
		return
	}
	ref := s.run("c", forever...)
	size := func() (int64, error) {
		r, err := m.Usage(s.ctx, s.target("c"))
		return r.GetBytes(), err
	}
	s.either(backend.CapUsage, func() error { _, err := size(); return err }, func() {
		before, err := size()
		s.must(err, "Usage")
		ex := s.exec(ref, "e", nil, "sh", "-c", "head -c 2000000 /dev/zero > /tmp/written")
		s.start(ex)
		s.wantExit(ex, 0)
		after, err := size()
		s.must(err, "Usage after a file was written")
		if grown := after - before; grown < 2000000 || grown > 4000000 {
			s.Errorf("2000000 bytes were written, and Usage went from %d to %d", before, after)
		}
	})
}

// target names a container's filesystem as the engine does.
func (s *suite) target(id string) *backendpb.FilesTarget {
	return &backendpb.FilesTarget{Container: id, Rootfs: s.created[id].Rootfs}
}

func (s *suite) files() {
	f, ok := s.Backend.(backend.Files)
	if !ok {
		s.absent(backend.CapFiles)
		return
	}
	ref := s.run("c", forever...)
	t := s.target("c")
	stat := func() error {
		_, err := f.StatPath(s.ctx, &backendpb.PathRequest{Target: t, Path: "/"})
		return err
	}
	s.either(backend.CapFiles, stat, func() {
		big := strings.Repeat("0123456789abcdef", 20_000) // more than one message
		in := pack(s, map[string]string{"dir/": "", "dir/small": "hello", "dir/big": big})
		s.must(f.WriteArchive(s.ctx, &backendpb.WriteTarget{Target: t, Path: "/tmp"}, bytes.NewReader(in)), "WriteArchive")

		st, err := f.StatPath(s.ctx, &backendpb.PathRequest{Target: t, Path: "/tmp/dir/small"})
		s.must(err, "StatPath")
		if st.Name != "small" || st.Size != 5 || st.Mode != 0o644 {
			s.Errorf("StatPath: %v", st)
		}
		r, err := f.ReadArchive(s.ctx, &backendpb.PathRequest{Target: t, Path: "/tmp/dir"})
		s.must(err, "ReadArchive")
		got := unpack(s, r)
		s.wantEqual(got["dir/small"], "hello", "content of small")
		s.wantEqual(got["dir/big"], big, "content of big")
		if _, ok := got["dir"]; !ok || len(got) != 3 {
			s.Errorf("ReadArchive has %d entries, want the directory and two files", len(got))
		}

		changes, err := f.Changes(s.ctx, t)
		s.must(err, "Changes")
		i := slices.IndexFunc(changes.Changes, func(c *backendpb.Change) bool { return c.Path == "/tmp/dir/small" })
		if i < 0 || changes.Changes[i].Kind != backendpb.Change_ADDED {
			s.Errorf("Changes do not tell of the new file: %v", changes)
		}
		if !slices.IsSortedFunc(changes.Changes, func(a, b *backendpb.Change) int { return strings.Compare(a.Path, b.Path) }) {
			s.Errorf("Changes are not sorted: %v", changes)
		}
		r, err = f.ReadDiff(s.ctx, t)
		s.must(err, "ReadDiff")
		s.wantEqual(unpack(s, r)["tmp/dir/small"], "hello", "small in the diff")

		// Closing early leaves nothing hanging.
		r, err = f.ReadArchive(s.ctx, &backendpb.PathRequest{Target: t, Path: "/tmp/dir"})
		s.must(err, "ReadArchive")
		s.must(r.Close(), "Close of an archive not read")
		s.remove(ref)
	})
}

func (s *suite) filesRefusals() {
	f, ok := s.Backend.(backend.Files)
	if !ok || !s.capable(backend.CapFiles) {
		s.absent(backend.CapFiles)
		return
	}
	s.run("c", forever...)
	t := s.target("c")
	missing := &backendpb.PathRequest{Target: t, Path: "/no/such/path"}
	_, err := f.StatPath(s.ctx, missing)
	s.wantKind(err, errdefs.ErrNotFound, "StatPath")
	_, err = f.ReadArchive(s.ctx, missing)
	s.wantKind(err, errdefs.ErrNotFound, "ReadArchive")
	in := pack(s, map[string]string{"file": "x"})
	write := func(p string, data io.Reader) error {
		return f.WriteArchive(s.ctx, &backendpb.WriteTarget{Target: t, Path: p}, data)
	}
	s.wantKind(write("/no/such/dir", bytes.NewReader(in)), errdefs.ErrNotFound, "WriteArchive into nothing")
	s.must(write("/tmp", bytes.NewReader(in)), "WriteArchive")
	s.wantKind(write("/tmp/file", bytes.NewReader(in)), errdefs.ErrInvalidArgument, "WriteArchive into a file")
	s.wantKind(write("/tmp", strings.NewReader(strings.Repeat("not a tar ", 1000))), errdefs.ErrInvalidArgument, "WriteArchive of garbage")
	broken := errors.New("client went away")
	if err := write("/tmp", io.MultiReader(bytes.NewReader(in[:512]), failing{broken})); err == nil {
		s.Errorf("WriteArchive whose reader failed: no error")
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// pack makes a tar; a name that ends in a slash is a directory.
func pack(s *suite, files map[string]string) []byte {
	s.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		h := &tar.Header{Name: n, Mode: 0o644, Size: int64(len(files[n])), Typeflag: tar.TypeReg}
		if strings.HasSuffix(n, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		s.must(w.WriteHeader(h), "tar header")
		_, err := w.Write([]byte(files[n]))
		s.must(err, "tar data")
	}
	s.must(w.Close(), "tar")
	return buf.Bytes()
}

// unpack reads a tar into a map and closes it.
func unpack(s *suite, r io.ReadCloser) map[string]string {
	s.Helper()
	defer r.Close()
	files := map[string]string{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		s.must(err, "reading a tar")
		data, err := io.ReadAll(tr)
		s.must(err, "reading a tar")
		files[path.Clean(h.Name)] = string(data)
	}
}
