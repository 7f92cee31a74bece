// Package store keeps the engine's records: a journal on disk of small JSON
// values by key, and an index in memory by id and name.
//
// # The journal
//
// Apply appends a batch of puts and deletes with one write; after a crash a
// batch is there whole or not at all. Without sync a batch survives the death
// of the engine, with sync also that of the host. Values stay on disk; memory
// holds a key and a place for each. When more than half of the file is garbage
// the live values are copied to a new file, which takes the old one's name.
//
// A line is
//
//	<crc32c, 8 hex> <batch number> <i>/<n> put <key> <value>
//	<crc32c, 8 hex> <batch number> <i>/<n> del <key>
//
// with the checksum over everything after the first space. A file that ends in
// the middle of a batch, as a crash leaves it, loses that batch; a damaged line
// in the middle loses its batch, and is counted.
package store

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
)

const (
	// MaxValue bounds one value, in bytes.
	MaxValue = 16 << 20
	maxKey   = 512
	maxLine  = MaxValue + maxKey + 64
	maxBatch = 1 << 16
	// minGarbage is how much must be dead before compaction is thought of.
	minGarbage = 4 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Op is one change: Value nil deletes Key, else Value is what Key has from now
// on. A value has no newline (JSON from encoding/json never does).
type Op struct {
	Key   string
	Value []byte
}

// place is where a value lies in the file.
type place struct {
	off int64
	n   int
}

// Journal is an open journal. Its methods are safe for concurrent use.
type Journal struct {
	path string

	mu      sync.Mutex
	f       *os.File
	size    int64
	seq     uint64
	live    int64 // bytes of live values and keys
	places  map[string]place
	buf     []byte
	broken  error
	damaged int
}

// Open reads the journal at path, making it if missing.
func Open(path string) (*Journal, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{path: path, f: f, places: map[string]place{}}
	good, err := j.read(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read journal %s: %w", path, err)
	}
	// What follows the last good line can only be torn: later lines must not
	// be glued to it.
	if err := f.Truncate(good); err != nil {
		f.Close()
		return nil, fmt.Errorf("repair journal %s: %w", path, err)
	}
	j.size = good
	return j, nil
}

// read fills the index from r and returns the offset after the last good line.
func (j *Journal) read(r io.Reader) (good int64, err error) {
	type change struct {
		key string
		at  place
		del bool
	}
	var (
		br    = bufio.NewReaderSize(r, 64<<10)
		off   int64
		batch []change
		cur   uint64
	)
	for {
		line, n, err := readLine(br)
		start := off
		off += int64(n)
		if errors.Is(err, io.EOF) {
			return good, nil
		}
		if err != nil && !errors.Is(err, errDamaged) {
			return 0, err
		}
		var l parsed
		if err == nil {
			l, err = parseLine(line)
		}
		if err != nil {
			j.damaged++
			batch = nil
			continue
		}
		if l.i == 1 || l.seq != cur || l.i != len(batch)+1 {
			batch, cur = nil, l.seq
		}
		if l.i != len(batch)+1 {
			continue // the batch's beginning is lost
		}
		batch = append(batch, change{key: l.key, del: l.del, at: place{off: start + int64(l.valOff), n: l.valLen}})
		if l.i == l.n {
			for _, c := range batch {
				j.index(c.key, c.at, c.del)
			}
			batch = nil
			j.seq = max(j.seq, l.seq)
		}
		good = off
	}
}

var errDamaged = errors.New("damaged line")

// readLine returns a line without its newline and the bytes it took. A last
// line without newline is torn and reads as io.EOF; one longer than any that
// was ever written is skipped.
func readLine(br *bufio.Reader) (line []byte, n int, err error) {
	for {
		part, err := br.ReadSlice('\n')
		n += len(part)
		if n <= maxLine {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil:
			return nil, n, err
		case n > maxLine:
			return nil, n, errDamaged
		}
		return line[:len(line)-1], n, nil
	}
}

type parsed struct {
	seq            uint64
	i, n           int
	del            bool
	key            string
	valOff, valLen int // in the line
}

func parseLine(line []byte) (parsed, error) {
	if len(line) < 9 || line[8] != ' ' {
		return parsed{}, errDamaged
	}
	sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
	if err != nil || uint32(sum) != crc32.Checksum(line[9:], castagnoli) {
		return parsed{}, errDamaged
	}
	f := bytes.SplitN(line[9:], []byte(" "), 5)
	if len(f) < 4 {
		return parsed{}, errDamaged
	}
	var p parsed
	if p.seq, err = strconv.ParseUint(string(f[0]), 10, 64); err != nil {
		return parsed{}, errDamaged
	}
	is, ns, _ := strings.Cut(string(f[1]), "/")
	if p.i, err = strconv.Atoi(is); err != nil {
		return parsed{}, errDamaged
	}
	if p.n, err = strconv.Atoi(ns); err != nil || p.i < 1 || p.i > p.n || p.n > maxBatch {
		return parsed{}, errDamaged
	}
	p.key = string(f[3])
	if validKey(p.key) != nil {
		return parsed{}, errDamaged
	}
	switch string(f[2]) {
	case "put":
		if len(f) != 5 {
			return parsed{}, errDamaged
		}
		p.valLen = len(f[4])
		p.valOff = len(line) - p.valLen
	case "del":
		if len(f) != 4 {
			return parsed{}, errDamaged
		}
		p.del = true
	default:
		return parsed{}, errDamaged
	}
	return p, nil
}

func validKey(k string) error {
	if k == "" || len(k) > maxKey || strings.ContainsAny(k, " \n") {
		return fmt.Errorf("journal key %q: %w", k, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (j *Journal) index(key string, at place, del bool) {
	if old, ok := j.places[key]; ok {
		j.live -= int64(len(key) + old.n)
	}
	if del {
		delete(j.places, key)
		return
	}
	j.places[key] = at
	j.live += int64(len(key) + at.n)
}

// Apply makes a batch durable and visible. With sync it survives the host's
// death, otherwise only the engine's. After an error nothing of it is visible.
func (j *Journal) Apply(sync bool, ops ...Op) error {
	if len(ops) == 0 {
		return nil
	}
	if len(ops) > maxBatch {
		return fmt.Errorf("journal: batch of %d changes: %w", len(ops), errdefs.ErrInvalidArgument)
	}
	for _, op := range ops {
		if err := validKey(op.Key); err != nil {
			return err
		}
		if len(op.Value) > MaxValue || bytes.IndexByte(op.Value, '\n') >= 0 {
			return fmt.Errorf("journal: value of %s is too large or has a newline: %w", op.Key, errdefs.ErrInvalidArgument)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return j.broken
	}
	seq := j.seq + 1
	buf, places := encode(j.buf[:0], j.size, seq, ops)
	j.buf = buf
	if cap(j.buf) > 1<<20 {
		j.buf = nil // a rare giant must not stay in memory
	}
	if _, err := j.f.WriteAt(buf, j.size); err != nil {
		return j.rollback(err)
	}
	if sync {
		if err := j.f.Sync(); err != nil {
			return j.rollback(err)
		}
	}
	j.seq = seq
	j.size += int64(len(buf))
	for i, op := range ops {
		j.index(op.Key, places[i], op.Value == nil)
	}
	if j.size-j.live > minGarbage && j.size > 2*j.live {
		if err := j.compact(); err != nil {
			// The batch is safe in the old file; try again with the next one.
			return nil
		}
	}
	return nil
}

// rollback takes a failed batch off the file again. If even that fails the
// journal refuses further changes: memory and disk would drift apart.
func (j *Journal) rollback(cause error) error {
	if err := j.f.Truncate(j.size); err != nil {
		j.broken = fmt.Errorf("journal %s cannot be written any more (%w, then %w): free space on its filesystem and restart the engine: %w", j.path, cause, err, errdefs.ErrUnavailable)
		return j.broken
	}
	return fmt.Errorf("write journal: %w", cause)
}

// encode appends the lines of a batch to buf and tells where their values will
// lie if buf is written at base.
func encode(buf []byte, base int64, seq uint64, ops []Op) ([]byte, []place) {
	places := make([]place, len(ops))
	start := len(buf)
	for i, op := range ops {
		at := len(buf)
		buf = append(buf, "00000000 "...)
		buf = strconv.AppendUint(buf, seq, 10)
		buf = append(buf, ' ')
		buf = strconv.AppendInt(buf, int64(i+1), 10)
		buf = append(buf, '/')
		buf = strconv.AppendInt(buf, int64(len(ops)), 10)
		if op.Value == nil {
			buf = append(append(buf, " del "...), op.Key...)
		} else {
			buf = append(append(buf, " put "...), op.Key...)
			buf = append(buf, ' ')
			places[i] = place{off: base + int64(len(buf)-start), n: len(op.Value)}
			buf = append(buf, op.Value...)
		}
		const hex = "0123456789abcdef"
		sum := crc32.Checksum(buf[at+9:], castagnoli)
		for k := range 8 {
			buf[at+k] = hex[sum>>(28-4*k)&15]
		}
		buf = append(buf, '\n')
	}
	return buf, places
}

// Get reads one value. NotFound if there is none.
func (j *Journal) Get(key string) ([]byte, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.get(key)
}

func (j *Journal) get(key string) ([]byte, error) {
	p, ok := j.places[key]
	if !ok {
		return nil, fmt.Errorf("no journal entry %s: %w", key, errdefs.ErrNotFound)
	}
	b := make([]byte, p.n)
	if _, err := j.f.ReadAt(b, p.off); err != nil {
		return nil, fmt.Errorf("read journal entry %s: %w", key, err)
	}
	return b, nil
}

// Keys lists the keys that start with prefix, sorted.
func (j *Journal) Keys(prefix string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []string
	for k := range j.places {
		if strings.HasPrefix(k, prefix) {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

// Damaged counts the lines that Open could not read, but for a torn tail.
func (j *Journal) Damaged() int { return j.damaged }

// Size is the length of the file in bytes.
func (j *Journal) Size() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.size
}

// Compact copies what is live to a new file.
func (j *Journal) Compact() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.compact()
}

func (j *Journal) compact() (err error) {
	tmp := j.path + ".new"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("compact journal: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(tmp)
		}
	}()
	keys := make([]string, 0, len(j.places))
	for k := range j.places {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var (
		w      = bufio.NewWriterSize(f, 64<<10)
		size   int64
		seq    = j.seq
		buf    []byte
		places = make(map[string]place, len(keys))
	)
	for _, k := range keys {
		v, err := j.get(k)
		if err != nil {
			return err
		}
		seq++
		var at []place
		buf, at = encode(buf[:0], size, seq, []Op{{Key: k, Value: v}})
		if _, err := w.Write(buf); err != nil {
			return fmt.Errorf("compact journal: %w", err)
		}
		places[k] = at[0]
		size += int64(len(buf))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("compact journal: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("compact journal: %w", err)
	}
	nf, err := j.swap(f, tmp)
	if err != nil {
		return fmt.Errorf("compact journal: %w", err)
	}
	j.f, j.places, j.size, j.seq = nf, places, size, seq
	return nil
}

// swap gives tmp the journal's name and opens it. Both files are closed first:
// Windows renames neither an open file nor onto one.
func (j *Journal) swap(f *os.File, tmp string) (*os.File, error) {
	if err := f.Close(); err != nil {
		return nil, err
	}
	j.f.Close()
	err := os.Rename(tmp, j.path)
	// The directory's entry must be durable before the new file counts; where
	// that cannot be (Windows) the rename is atomic all the same.
	if d, derr := os.Open(filepath.Dir(j.path)); derr == nil {
		_ = d.Sync()
		d.Close()
	}
	nf, oerr := os.OpenFile(j.path, os.O_RDWR, 0o600)
	if oerr != nil {
		j.broken = fmt.Errorf("journal %s cannot be opened again (%w): restart the engine: %w", j.path, oerr, errdefs.ErrUnavailable)
		return nil, j.broken
	}
	if err != nil {
		j.f = nf // still the old one
	}
	return nf, err
}

// Close closes the file. Further calls fail.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.f == nil {
		return nil
	}
	err := j.f.Close()
	if j.broken == nil {
		j.broken = fmt.Errorf("journal %s is closed: %w", j.path, errdefs.ErrUnavailable)
	}
	return err
}
