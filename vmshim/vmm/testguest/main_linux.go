// Command testguest is the init of this package's test machines. It answers one
// line with one line on the port "agent".
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	for _, m := range []struct{ fs, at string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/tmp"}} {
		if err := unix.Mount(m.fs, m.at, m.fs, 0, ""); err != nil {
			fmt.Println("testguest:", m.at, err)
		}
	}
	loadModules()
	port := openPort("agent")
	if echo := openPort("echo"); echo != nil {
		go func() { _, _ = io.Copy(echo, echo) }()
	}
	for lines := bufio.NewScanner(port); lines.Scan(); {
		answer, err := do(strings.Fields(lines.Text()))
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Fprintln(port, answer)
	}
	// The end of init is a panic.
}

func loadModules() {
	list, err := os.ReadFile("/lib/modules/load")
	if err != nil {
		return
	}
	for _, name := range strings.Fields(string(list)) {
		f, err := os.Open("/lib/modules/" + name)
		if err == nil {
			err = unix.FinitModule(int(f.Fd()), "", 0)
			f.Close()
		}
		if err != nil {
			fmt.Println("testguest:", name, err)
		}
	}
}

// openPort waits for a port by name.
func openPort(want string) *os.File {
	for range 200 {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, file := range names {
			name, _ := os.ReadFile(file)
			if strings.TrimSpace(string(name)) == want {
				f, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_RDWR, 0)
				if err == nil {
					return f
				}
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

func do(words []string) (string, error) {
	if len(words) == 0 {
		return "", nil
	}
	switch words[0] {
	case "ping":
		return "pong " + strings.Join(words[1:], " "), nil
	case "random":
		f, err := os.Open("/dev/urandom")
		if err != nil {
			return "", err
		}
		defer f.Close()
		b := make([]byte, 16)
		_, err = io.ReadFull(f, b)
		return hex.EncodeToString(b), err
	case "entropy":
		return "ok", addEntropy(words[1])
	case "size":
		data, err := os.ReadFile("/sys/block/" + words[1] + "/size")
		return strings.TrimSpace(string(data)), err
	case "ro":
		data, err := os.ReadFile("/sys/block/" + words[1] + "/ro")
		return strings.TrimSpace(string(data)), err
	case "read":
		return readAt(words[1], words[2])
	case "write":
		return "ok", writeAt(words[1], words[2], words[3])
	case "mount":
		return "ok", unix.Mount("/dev/"+words[1], "/mnt", words[2], uintptr(number(words[3])), "")
	case "cat":
		data, err := os.ReadFile(words[1])
		return strings.ReplaceAll(strings.TrimSpace(string(data)), "\n", "|"), err
	case "net":
		return "ok", setUp(words[1], words[2])
	case "dial":
		c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", words[1])
		if err != nil {
			return "", err
		}
		defer c.Close()
		data, err := io.ReadAll(c)
		return string(data), err
	case "sleep":
		time.Sleep(time.Duration(number(words[1])) * time.Millisecond)
		return "ok", nil
	case "touch":
		// Memory, in MiB, that stays in use.
		n := number(words[1])
		held = append(held, make([]byte, n<<20))
		last := held[len(held)-1]
		for i := 0; i < len(last); i += 4096 {
			last[i] = 1
		}
		return "ok", nil
	case "say":
		f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		_, err = f.WriteString("<0>" + strings.Join(words[1:], " "))
		return "ok", err
	case "exit":
		os.Exit(3)
	case "reboot":
		return "", unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	return "", fmt.Errorf("what is %q", words[0])
}

var held [][]byte

func number(s string) int64 {
	n, _ := strconv.ParseInt(s, 0, 64)
	return n
}

func readAt(disk, at string) (string, error) {
	f, err := os.Open("/dev/" + disk)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, 16)
	_, err = f.ReadAt(b, number(at))
	return strings.TrimRight(string(b), "\x00 "), err
}

func writeAt(disk, at, text string) error {
	f, err := os.OpenFile("/dev/"+disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), number(at)); err != nil {
		return err
	}
	return f.Sync()
}
