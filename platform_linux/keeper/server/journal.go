//go:build linux

package server

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/keeper/wire"
)

// maxJournal is the size in bytes at which the journal is written anew.
const maxJournal = 256 << 10

// journal is the append-only file that outlives the keeper. Lines:
//
//	S <pid> <start> <key>                born
//	E <status> <unknown 0|1> <at> <key>  ended
//	D <key>                              forgotten
//
// One write makes one line, and the page cache outlives us; the directory is on
// a tmpfs, so there is nothing to sync. A failed write (the tmpfs is full) costs
// only what a second failure, of keeper and backend at once, would have needed.
type journal struct {
	path string
	fd   int
	size int
}

func (j *journal) write(line []byte) {
	n, _ := unix.Write(j.fd, line)
	j.size += max(n, 0)
}

func (j *journal) born(e *entry) { j.write(bornLine(nil, e)) }

func bornLine(b []byte, e *entry) []byte {
	b = append(b, "S "...)
	b = strconv.AppendInt(b, int64(e.pid), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, e.start, 10)
	b = append(b, ' ')
	b = append(b, e.key...)
	return append(b, '\n')
}

func (j *journal) ended(p *wire.Process) { j.write(endedLine(nil, p)) }

func endedLine(b []byte, p *wire.Process) []byte {
	b = append(b, "E "...)
	b = strconv.AppendUint(b, uint64(p.Status), 10)
	if p.Unknown {
		b = append(b, " 1 "...)
	} else {
		b = append(b, " 0 "...)
	}
	b = strconv.AppendInt(b, p.At, 10)
	b = append(b, ' ')
	b = append(b, p.Key...)
	return append(b, '\n')
}

// forgotten writes that key is gone, and all others anew when that makes the
// file much smaller.
func (j *journal) forgotten(key string, entries map[string]*entry) {
	if j.size > maxJournal && j.rewrite(entries) == nil {
		return
	}
	j.write([]byte("D " + key + "\n"))
}

// rewrite replaces the journal by one of entries alone.
func (j *journal) rewrite(entries map[string]*entry) error {
	temp := j.path + ".new"
	fd, err := unix.Open(temp, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_APPEND|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return wrap("open "+temp, err)
	}
	var text []byte
	for _, e := range entries {
		if e.pid == 0 {
			continue
		}
		text = bornLine(text, e)
		if e.exit != nil {
			text = endedLine(text, e.exit)
		}
	}
	if n, err := unix.Write(fd, text); err != nil || n != len(text) {
		unix.Close(fd)
		return wrap("write "+temp, syscall.ENOSPC)
	}
	if err := unix.Rename(temp, j.path); err != nil {
		unix.Close(fd)
		return wrap("rename "+temp, err)
	}
	if j.fd > 0 {
		unix.Close(j.fd)
	}
	j.fd, j.size = fd, len(text)
	return nil
}

// parseJournal returns what the lines leave. Lines that are none are passed
// over: the last one may have been cut short by a full disk.
func parseJournal(text []byte) map[string]*entry {
	entries := map[string]*entry{}
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		switch {
		case len(f) == 4 && f[0] == "S" && wire.ValidKey(f[3]):
			pid, err1 := strconv.Atoi(f[1])
			start, err2 := strconv.ParseUint(f[2], 10, 64)
			if err1 == nil && err2 == nil && pid > 0 {
				entries[f[3]] = &entry{key: f[3], pid: pid, start: start, pidfd: -1}
			}
		case len(f) == 5 && f[0] == "E":
			e := entries[f[4]]
			status, err1 := strconv.ParseUint(f[1], 10, 32)
			at, err2 := strconv.ParseInt(f[3], 10, 64)
			if e != nil && err1 == nil && err2 == nil {
				e.exit = &wire.Process{Key: e.key, PID: e.pid, Start: e.start, Exited: true,
					Status: uint32(status), Unknown: f[2] == "1", At: at}
			}
		case len(f) == 2 && f[0] == "D":
			delete(entries, f[1])
		}
	}
	return entries
}

// restore finds the processes that a dead keeper's journal names.
func (s *server) restore() error {
	s.journal.path = s.dir + "/" + journalName
	text, err := readFile(s.journal.path)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return wrap("read "+s.journal.path, err)
	}
	s.entries = parseJournal(text)
	if err := s.journal.rewrite(s.entries); err != nil {
		return err
	}
	for _, e := range s.entries {
		if e.exit != nil {
			continue
		}
		pidfd, err := unix.PidfdOpen(e.pid, 0)
		if err == nil {
			// Only now the number cannot be given to another any more.
			if start, err := startTime(e.pid); err == nil && start == e.start {
				e.pidfd = pidfd
				s.follow(e)
				continue
			}
			unix.Close(pidfd)
		}
		s.setExit(e, &wire.Process{Key: e.key, PID: e.pid, Start: e.start, Exited: true, Unknown: true, At: time.Now().UnixNano()})
	}
	return nil
}

func readFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var text []byte
	buf := make([]byte, 8<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return text, nil
		}
		text = append(text, buf[:n]...)
	}
}

// startTime reads when a process was born, in clock ticks after boot.
func startTime(pid int) (uint64, error) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var buf [1024]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return 0, err
	}
	return parseStart(buf[:n])
}

// parseStart finds field 22 of /proc/<pid>/stat. Field 2, the name in
// parentheses, may hold anything, so counting starts behind its last one.
func parseStart(stat []byte) (uint64, error) {
	_, rest, ok := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(" "))
	if ok {
		fields := bytes.Fields(rest)
		if len(fields) > 19 {
			return strconv.ParseUint(string(fields[19]), 10, 64)
		}
	}
	return 0, syscall.EINVAL
}
