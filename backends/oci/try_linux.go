package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/backends/oci/monitor"
)

// tryKey is its key at the monitor, which no container has.
const tryKey = "try:"

// tryID is the container that is made to see whether the runtime works.
const tryID = "caisson-try"

// try proves that the runtime works on this host: it makes a container with an
// empty root, up to where the program would be looked for. Some look for it right
// then; that they do not find it shows that all else was made.
func (b *Backend) try(ctx context.Context) (err error) {
	dir := filepath.Join(b.cfg.StateDir, "try")
	defer func() { _ = os.RemoveAll(dir) }()
	root := filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	g, _, err := b.cgroups.Create(path.Join(b.cfg.CgroupParent, "try-"+b.cfg.Runtime.Name), nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Kill(ctx), g.Delete(ctx)) }()
	log, pids := filepath.Join(dir, logFile), filepath.Join(dir, "pid")
	if _, err := os.Stat(filepath.Join(dir, "config.json")); err == nil {
		// We were killed while we tried.
		if err := g.Kill(ctx); err != nil {
			return err
		}
		_, _ = b.command(ctx, log, "delete", "--force", tryID)
	}
	spec := &specs.Spec{
		Version: "1.0.2", Root: &specs.Root{Path: root}, Hostname: "try",
		Process: &specs.Process{Args: []string{"/try"}, Cwd: "/", NoNewPrivileges: true},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
		},
		Linux: &specs.Linux{CgroupsPath: g.Path(), Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.UTSNamespace}, {Type: specs.IPCNamespace}, {Type: specs.NetworkNamespace},
		}},
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600); err != nil {
		return err
	}
	// Through the monitor, which collects what a sandbox leaves at once.
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	if err := b.monitor.Hold(tryKey, "null", null); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.monitor.Drop(tryKey)) }()
	res, err := b.monitor.Run(tryKey, monitor.Command{
		Argv: b.argv(log, "create", "--bundle", dir, "--pid-file", pids), Last: []string{tryID}, Env: environment(), PIDFile: pids,
	}, [3]*os.File{}, nil)
	if err != nil {
		return err
	}
	if res.Pidfd != nil {
		defer res.Pidfd.Close()
		_ = kill(res.Pidfd)
	}
	if res.Status != 0 {
		f := b.failed(log, "create", "")
		if f.notExecuted("/try") == nil {
			err = fmt.Errorf("it does not work on this host: %w: %w", f, errdefs.ErrFailedPrecondition)
		}
	}
	_, _ = b.command(ctx, log, "delete", "--force", tryID) // what failed may have left something
	return err
}

func kill(pidfd *os.File) error {
	c, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := c.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) }); cerr != nil {
		return cerr
	}
	return err
}
