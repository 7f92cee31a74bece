package kit

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// Realtime signals as programs see them: the C library keeps the first two.
const sigRTMin, sigRTMax = 34, 64

// ParseSignal reads a canonical name such as SIGTERM or SIGRTMIN+3.
func ParseSignal(name string) (syscall.Signal, error) {
	if s := unix.SignalNum(name); s != 0 {
		return s, nil
	}
	for base, from := range map[string]int{"SIGRTMIN": sigRTMin, "SIGRTMAX": sigRTMax} {
		if rest, ok := strings.CutPrefix(name, base); ok {
			n, err := strconv.Atoi(cmp.Or(rest, "+0"))
			if (rest == "" || rest[0] == '+' || rest[0] == '-') && err == nil && from+n >= sigRTMin && from+n <= sigRTMax {
				return syscall.Signal(from + n), nil
			}
		}
	}
	return 0, fmt.Errorf("invalid signal: %s: %w", name, errdefs.ErrInvalidArgument)
}

// SetSize sets a terminal's size. Zero leaves a dimension's meaning to programs.
func SetSize(console *os.File, rows, cols uint32) error {
	if rows > 0xffff || cols > 0xffff {
		return fmt.Errorf("terminal size %dx%d: %w", rows, cols, errdefs.ErrInvalidArgument)
	}
	if err := control(console, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(cols)})
	}); err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	return nil
}

// NetworkStats reads the counters of a process's network namespace, without the
// loopback device.
func NetworkStats(pid int) ([]*backendpb.NetworkStats, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/net/dev")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []*backendpb.NetworkStats
	for s := bufio.NewScanner(f); s.Scan(); {
		name, rest, ok := strings.Cut(s.Text(), ":")
		v := strings.Fields(rest)
		if name = strings.TrimSpace(name); !ok || len(v) < 12 || name == "lo" {
			continue
		}
		n := func(i int) uint64 { x, _ := strconv.ParseUint(v[i], 10, 64); return x }
		list = append(list, &backendpb.NetworkStats{
			Name: name, RxBytes: n(0), RxPackets: n(1), RxErrors: n(2), RxDropped: n(3),
			TxBytes: n(8), TxPackets: n(9), TxErrors: n(10), TxDropped: n(11),
		})
	}
	return list, nil
}
