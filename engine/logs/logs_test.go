package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func testConfig(t *testing.T, driver string, options map[string]string) Config {
	t.Helper()
	return Config{Driver: driver, Path: filepath.Join(t.TempDir(), "c.log"), Options: options}
}

func openTest(t *testing.T, cfg Config) *Writer {
	t.Helper()
	w, err := OpenWriter(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// put appends a record the way a backend does, and returns the stored mark.
func put(t *testing.T, w *Writer, line string, at int64) Mark {
	t.Helper()
	full := w.Append(Record{Time: time.Unix(at, 5), Stream: Stdout, Line: []byte(line)})
	m, err := w.Flush()
	if err == nil && full {
		m, err = w.Rotate()
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// lines reads a log to its end.
func lines(t *testing.T, cfg Config, o Options) []string {
	t.Helper()
	o.Stdout, o.Stderr = true, true
	var got []string
	if err := Read(t.Context(), cfg, o, func(r Record) error {
		got = append(got, strings.TrimSuffix(string(r.Line), "\n"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

func numbers(from, to int) []string {
	var s []string
	for i := from; i < to; i++ {
		s = append(s, fmt.Sprint(i))
	}
	return s
}

var bothDrivers = []string{JSONFile, Local}

func TestRoundTrip(t *testing.T) {
	for _, driver := range bothDrivers {
		cfg := testConfig(t, driver, nil)
		cfg.Attrs = map[string]string{"a": "1", "b": `"x"`}
		w := openTest(t, cfg)
		want := []Record{
			{time.Unix(1, 2).UTC(), Stdout, []byte("plain\n"), cfg.Attrs},
			{time.Unix(1<<31, 999_999_999).UTC(), Stderr, []byte("\"\\<>&\t\r\x00\x7f ä € 𝄞 \u2028\u2029\n"), cfg.Attrs},
			{time.Unix(0, 0).UTC(), Stdout, []byte{}, cfg.Attrs},
			{time.Unix(5, 0).UTC(), Stdout, bytes.Repeat([]byte{'x'}, MaxLine), cfg.Attrs},
		}
		for _, r := range want {
			w.Append(r)
		}
		if _, err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		var i int
		err := Read(t.Context(), cfg, Options{Stdout: true, Stderr: true, Tail: -1}, func(r Record) error {
			if w := want[i]; !r.Time.Equal(w.Time) || r.Stream != w.Stream || !bytes.Equal(r.Line, w.Line) || r.Attrs["b"] != `"x"` {
				t.Errorf("%s: record %d: got %+v, want %+v", driver, i, r, w)
			}
			i++
			return nil
		})
		if err != nil || i != len(want) {
			t.Errorf("%s: %d records, %v", driver, i, err)
		}
	}
}

// TestDockerFormat pins the bytes that Docker's own readers and others parse.
func TestDockerFormat(t *testing.T) {
	r := Record{Time: time.Unix(1700000000, 1000), Stream: Stdout, Line: []byte("a<b\xff\n")}
	got := string(jsonCodec{}.append(nil, r, jsonCodec{}.attrs(map[string]string{"k": "v"})))
	want := `{"log":"a\u003cb\ufffd\n","stream":"stdout","attrs":{"k":"v"},"time":"2023-11-14T22:13:20.000001000Z"}` + "\n"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		driver  string
		options map[string]string
		want    string // "" is no error
	}{
		{"", nil, ""},
		{JSONFile, map[string]string{"max-size": "10m", "max-file": "3", "compress": "true", "labels": "x"}, ""},
		{JSONFile, map[string]string{"max-size": "-1"}, ""},
		{None, map[string]string{"x": "y"}, ""},
		{JSONFile, map[string]string{"x": "y"}, "unknown log opt 'x' for json-file log driver"},
		{Local, map[string]string{"labels": "y"}, "unknown log opt 'labels' for local log driver"},
		{"syslogg", nil, "logger: no log driver named 'syslogg' is registered"},
		{JSONFile, map[string]string{"max-file": "0"}, "max-file cannot be less than 1"},
		{JSONFile, map[string]string{"max-size": "0"}, "max-size must be a positive number"},
		{JSONFile, map[string]string{"max-size": "x"}, "max-size: "},
		{JSONFile, map[string]string{"max-file": "1", "compress": "true"}, "compress cannot be true when max-file is less than 2 or max-size is not set"},
	} {
		err := Validate(c.driver, c.options)
		if c.want == "" && err != nil || c.want != "" && (!errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%s %v: got %v, want %q", c.driver, c.options, err, c.want)
		}
	}
}

func TestRotationBoundsAndTail(t *testing.T) {
	for _, driver := range bothDrivers {
		for _, compress := range []string{"false", "true"} {
			cfg := testConfig(t, driver, map[string]string{"max-size": "1k", "max-file": "4", "compress": compress})
			w := openTest(t, cfg)
			const n = 200
			for i := range n {
				put(t, w, fmt.Sprintf("%d\n", i), int64(i))
			}
			w.compressing.Wait()
			files, _ := filepath.Glob(cfg.Path + "*")
			if len(files) != 4 {
				t.Errorf("%s: files %v, want 4", driver, files)
			}
			all := lines(t, cfg, Options{Tail: -1})
			if first := n - len(all); first <= 0 || !slices.Equal(all, numbers(first, n)) {
				t.Fatalf("%s: read %v", driver, all)
			}
			for _, tail := range []int{0, 1, 5, 30, len(all) - 1, len(all), n} {
				if got, want := lines(t, cfg, Options{Tail: tail}), numbers(n-min(tail, len(all)), n); !slices.Equal(got, want) {
					t.Errorf("%s compress=%s: tail %d: got %v, want %v", driver, compress, tail, got, want)
				}
			}
			if got, want := lines(t, cfg, Options{Tail: -1, Since: time.Unix(190, 0), Until: time.Unix(195, 5)}), numbers(190, 196); !slices.Equal(got, want) {
				t.Errorf("%s: since and until: got %v, want %v", driver, got, want)
			}
		}
	}
}

// TestFollow reads while a writer writes, rotates and is replaced by another
// after a kill in the middle of a record.
func TestFollow(t *testing.T) {
	for _, driver := range bothDrivers {
		for _, options := range []map[string]string{
			{"max-size": "10k", "max-file": "40"},
			{"max-size": "10k", "max-file": "40", "compress": "true"},
			{"max-size": "-1"},
		} {
			cfg := testConfig(t, driver, options)
			const n = 3000
			ended := make(chan struct{})
			result := make(chan []string)
			started := make(chan struct{}, 1)
			go func() {
				var got []string
				err := Read(t.Context(), cfg, Options{Stdout: true, Follow: true, Tail: -1, Ended: ended}, func(r Record) error {
					got = append(got, strings.TrimSpace(string(r.Line)))
					select {
					case started <- struct{}{}:
					default:
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				result <- got
			}()
			w := openTest(t, cfg)
			for i := range n {
				put(t, w, fmt.Sprintf("%d\n", i), int64(i))
				if i == 0 {
					<-started
				}
				if i%500 == 250 {
					// Killed in the middle of a record.
					torn := w.codec.append(nil, Record{Time: time.Unix(0, 0), Stream: Stdout, Line: []byte("torn")}, nil)
					if _, err := w.f.WriteAt(torn[:len(torn)-3], w.size); err != nil {
						t.Fatal(err)
					}
					_ = w.Close()
					w = openTest(t, cfg)
				}
			}
			close(ended)
			if got := <-result; !slices.Equal(got, numbers(0, n)) {
				i := 0
				for i < len(got) && got[i] == fmt.Sprint(i) {
					i++
				}
				t.Errorf("%s %v: %d records, wrong from %d on: %v", driver, options, len(got), i, got[i:min(i+3, len(got))])
			}
		}
	}
}

func TestFollowEnds(t *testing.T) {
	cfg := testConfig(t, JSONFile, nil)
	put(t, openTest(t, cfg), "x\n", 1)
	ctx, cancel := context.WithCancel(t.Context())
	err := Read(ctx, cfg, Options{Stdout: true, Follow: true, Tail: -1}, func(Record) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	stop := errors.New("stop")
	if err := Read(t.Context(), cfg, Options{Stdout: true, Follow: true, Tail: -1}, func(Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("fn's error: %v", err)
	}
	if err := Read(t.Context(), cfg, Options{Stdout: true, Follow: true, Tail: -1, Until: time.Now()}, func(Record) error { return nil }); err != nil {
		t.Errorf("until now: %v", err)
	}
}

func TestReadNothing(t *testing.T) {
	if err := Read(t.Context(), Config{Driver: None}, Options{}, nil); !errdefs.IsNotImplemented(err) {
		t.Errorf("driver none: %v", err)
	}
	if got := lines(t, testConfig(t, JSONFile, nil), Options{Tail: 5}); got != nil {
		t.Errorf("a log that was never written: %v", got)
	}
}

// TestReplay is a backend that is killed after writing and before storing the
// mark, also around a rotation.
func TestReplay(t *testing.T) {
	for _, driver := range bothDrivers {
		cfg := testConfig(t, driver, map[string]string{"max-size": "1k", "max-file": "3"})
		w := openTest(t, cfg)
		var m Mark
		for i := range 100 {
			before := w.Mark()
			rotated := put(t, w, fmt.Sprintf("%d\n", i), int64(i))
			_ = w.Close()
			w = openTest(t, cfg)
			var got []string
			if err := w.Replay(m, func(r Record) { got = append(got, strings.TrimSpace(string(r.Line))) }); err != nil {
				t.Fatal(err)
			}
			if rotated.Offset != 0 && !slices.Equal(got, []string{fmt.Sprint(i)}) {
				t.Fatalf("%s: replay after %v gave %v, want %d", driver, before, got, i)
			}
			m = rotated
			if rotated.Offset == 0 && i%2 == 0 {
				m = Mark{before.File, before.Offset + 50} // the mark before Rotate was the last one stored
			}
		}
	}
}

func TestDamagedRecordsArePassedOver(t *testing.T) {
	cfg := testConfig(t, JSONFile, nil)
	content := `{"log":"a\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}
garbage
{"log":"x","stream":"nowhere","time":"2023-11-14T22:13:20Z"}
{"log":"b\n","stream":"stderr","time":"2023-11-14T22:13:20.5Z"}
{"log":"torn`
	if err := os.WriteFile(cfg.Path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, cfg, Options{Tail: -1}); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %v", got)
	}
	w := openTest(t, cfg)
	put(t, w, "c\n", 1)
	if got := lines(t, cfg, Options{Tail: -1}); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("after the torn record was cut off: got %v", got)
	}
}

func FuzzJSONString(f *testing.F) {
	f.Add([]byte("a\"b\\\n\x00\xff\u2028<"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got string
		if err := json.Unmarshal(appendJSONString(nil, b), &got); err != nil {
			t.Fatal(err)
		}
		if want := strings.ToValidUTF8(string(b), "\ufffd"); len([]rune(got)) < len([]rune(want)) {
			t.Errorf("%q became %q", b, got)
		}
	})
}

// FuzzScanner feeds anything to the parsers: they must end, and never give more
// than they got.
func FuzzScanner(f *testing.F) {
	r := Record{Time: time.Unix(1, 1), Stream: Stderr, Line: []byte("line\n")}
	f.Add(jsonCodec{}.append(nil, r, nil))
	f.Add(localCodec{}.append(nil, r, []byte(`{"a":"b"}`)))
	f.Add([]byte("\x00\x00\x00\x0b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range []codec{jsonCodec{}, localCodec{}} {
			s := scanner{codec: c, read: bytes.NewReader(b).ReadAt, skipDamaged: true}
			total := 0
			for {
				r, err := s.next()
				if err != nil {
					break
				}
				total += len(r.Line)
			}
			if total > 3*len(b) || s.pos > int64(len(b)) {
				t.Errorf("%T: %d bytes of lines, position %d, from %d", c, total, s.pos, len(b))
			}
			if end, err := soundEnd(bytes.NewReader(b), int64(len(b)), c); err != nil || end > int64(len(b)) {
				t.Errorf("%T: sound end %d of %d: %v", c, end, len(b), err)
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	cfg := Config{Path: filepath.Join(b.TempDir(), "c.log")}
	w, err := OpenWriter(cfg)
	if err != nil {
		b.Fatal(err)
	}
	line := []byte(strings.Repeat("some words of output ", 5) + "\n")
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		full := w.Append(Record{Time: time.Unix(1, 1), Stream: Stdout, Line: line})
		if w.Buffered() > 256<<10 || full {
			if _, err := w.Flush(); err != nil {
				b.Fatal(err)
			}
		}
		if full {
			if _, err := w.Rotate(); err != nil {
				b.Fatal(err)
			}
		}
	}
	_ = w.Close()
}
