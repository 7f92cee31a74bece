//go:build linux

package initproc

import (
	"errors"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// lookPath finds the program as execvp does, with the rights of the caller and
// in the PATH that the program gets.
func lookPath(file string, env []string) (string, *Failure) {
	if strings.Contains(file, "/") {
		if err := executable(file); err != nil {
			return "", notExecuted(file, err, true)
		}
		return file, nil
	}
	path := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	var denied error
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		full := dir + "/" + file
		err := executable(full)
		if err == nil {
			return full, nil
		}
		if errors.Is(err, syscall.EACCES) {
			denied = err
		}
	}
	if denied != nil {
		return "", notExecuted(file, denied, false)
	}
	return "", &Failure{Kind: KindNoCommand, Text: "exec: " + strconv.Quote(file) + ": executable file not found in $PATH"}
}

func executable(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return syscall.EISDIR
	}
	if st.Mode&0o111 == 0 {
		return syscall.EACCES
	}
	// Not access(2), which asks for the real ids. ENOSYS: before Linux 5.8; then
	// execve says it.
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS); err != nil && !errors.Is(err, syscall.ENOSYS) {
		return err
	}
	return nil
}

// notExecuted words why a program cannot be executed as Docker does.
func notExecuted(file string, err error, stat bool) *Failure {
	f := &Failure{Text: "exec: " + strconv.Quote(file) + ": "}
	var errno syscall.Errno
	_ = errors.As(err, &errno)
	switch errno {
	case syscall.ENOENT, syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG:
		f.Kind = KindNoCommand
		if stat {
			f.Text += "stat " + file + ": "
		}
	case syscall.EACCES, syscall.EPERM, syscall.EISDIR, syscall.ENOEXEC, syscall.ETXTBSY:
		f.Kind = KindNotExecutable
	}
	f.Text += err.Error()
	return f
}
