package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/copy"
	"github.com/caisson-engine/caisson/engine/client"
)

var cpCommand = command{
	name:  "cp",
	args:  "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|- | SRC_PATH|- CONTAINER:DEST_PATH",
	short: "Copy files/folders between a container and the local filesystem",
	long: "Use '-' as the source to read a tar archive from stdin and extract it to a directory\n" +
		"destination in a container. Use '-' as the destination to stream a tar archive of a\n" +
		"container source to stdout.",
	examples: []string{
		"cp web:/etc/nginx/nginx.conf . # From a container to this directory",
		"cp site/. web:/usr/share/nginx/html # What is in a directory, into one of the container",
		"cp web:/var/log - | tar x # As an archive",
	},
	sameAs: []string{"container cp", "cp"},
	min:    2,
	max:    2,
	complete: func(ctx context.Context, a *app, _ []string, prefix string) []string {
		out := []string{directiveFiles, directiveNoSpace}
		if !strings.ContainsAny(prefix, ":/.") {
			for _, c := range completeContainers(ctx, a, nil, prefix) {
				name, desc, _ := strings.Cut(c, "\t")
				out = append(out, name+":\t"+desc)
			}
		}
		return out
	},
	setup: func(a *app, f *pflag.FlagSet) action {
		c := &copier{app: a}
		f.BoolVarP(&c.archive, "archive", "a", false, "Archive mode (copy all uid/gid information)")
		f.BoolVarP(&c.follow, "follow-link", "L", false, "Always follow symbol link in SRC_PATH")
		f.BoolVarP(&c.quiet, "quiet", "q", false, "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached")
		return func(ctx context.Context, args []string) error {
			if !f.Changed("quiet") {
				c.quiet = !a.errTTY.Is()
			}
			return c.run(ctx, args[0], args[1])
		}
	},
}

// copier is the cp verb.
type copier struct {
	app                    *app
	api                    *client.Client
	archive, follow, quiet bool
}

func (c *copier) run(ctx context.Context, src, dst string) error {
	if src == "" || dst == "" {
		return errors.New("source and destination can not be empty")
	}
	var err error
	if c.api, err = c.app.client(); err != nil {
		return err
	}
	from, srcPath := splitCopyArg(src)
	to, dstPath := splitCopyArg(dst)
	switch {
	case from != "" && to != "":
		return errors.New("copying between containers is not supported")
	case from != "":
		return c.fromContainer(ctx, from, srcPath, dstPath)
	case to != "":
		return c.toContainer(ctx, srcPath, to, dstPath)
	}
	return errors.New("must specify at least one container source")
}

// splitCopyArg splits CONTAINER:PATH. A path is a local one if it is absolute,
// starts with a dot or has no colon.
func splitCopyArg(arg string) (container, p string) {
	if filepath.IsAbs(arg) {
		return "", arg
	}
	container, p, ok := strings.Cut(arg, ":")
	if !ok || strings.HasPrefix(container, ".") {
		return "", arg
	}
	return container, p
}

// counter counts what passes.
type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *copier) done(n int64, to string) {
	if !c.quiet {
		fmt.Fprintf(c.app.err, "Successfully copied %s to %s\n", units.HumanSize(float64(n)), to)
	}
}

// maxLinks bounds how many links of the container's are followed.
const maxLinks = 40

// resolve follows links of a container's path; "" error for one that is missing
// is the engine's to report.
func (c *copier) resolve(ctx context.Context, container, p string) (string, client.PathStat, error) {
	trailing := strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.")
	for range maxLinks {
		st, err := c.api.StatPath(ctx, container, p)
		if err != nil || fs.FileMode(st.Mode)&fs.ModeSymlink == 0 {
			return p, st, err
		}
		target := st.LinkTarget
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(strings.TrimSuffix(strings.TrimSuffix(p, "."), "/")), target)
		}
		p = target
		if trailing {
			p += "/"
		}
	}
	return p, client.PathStat{}, fmt.Errorf("too many links at %s:%s", container, p)
}

func (c *copier) fromContainer(ctx context.Context, container, src, dst string) error {
	src = cleanContainerPath(src)
	base := path.Base(src) // the name that the user knows
	if c.follow {
		resolved, _, err := c.resolve(ctx, container, src)
		if err != nil {
			return err
		}
		src = resolved
	}
	r, st, err := c.api.ReadArchive(ctx, container, src)
	if err != nil {
		return err
	}
	defer r.Close()
	cr := &counter{Reader: r}
	if dst == "-" {
		if c.app.outTTY.Is() {
			return errors.New("cowardly refusing to copy to a terminal. Redirect standard output")
		}
		_, err := io.Copy(c.app.out, cr)
		return err
	}
	isDir := fs.FileMode(st.Mode).IsDir()
	contents := strings.HasSuffix(src, "/.") || src == "/" || src == "."
	dir, name, err := localTarget(dst, base, isDir, contents)
	if err != nil {
		return err
	}
	from := path.Base(src)
	if contents {
		from = "."
	}
	err = copy.Unpack(cr, dir, copy.Options{
		From: from, To: name, Archive: c.archive,
		Skipped: func(name, why string) { fmt.Fprintf(c.app.err, "skipped %s: %s\n", name, why) },
	})
	if err != nil {
		return err
	}
	c.done(cr.n, dst)
	return nil
}

// cleanContainerPath makes a container's path absolute and keeps a trailing
// slash or dot, which say something about what is meant.
func cleanContainerPath(p string) string {
	clean := path.Join("/", p)
	switch {
	case clean == "/":
	case strings.HasSuffix(p, "/.") || p == ".":
		clean += "/."
	case strings.HasSuffix(p, "/"):
		clean += "/"
	}
	return clean
}

// localTarget says into which directory to extract and under which name: below
// a directory that exists, in the place of a file, or as a new name. name is ""
// when the contents of a directory go straight into dir.
func localTarget(dst, base string, isDir, contents bool) (dir, name string, err error) {
	fi, err := os.Stat(dst)
	switch {
	case err == nil && fi.IsDir():
		if contents {
			return dst, "", nil
		}
		return dst, base, nil
	case err == nil && isDir:
		return "", "", fmt.Errorf("cannot copy a directory to the file %s", dst)
	case err == nil && hasTrailingSlash(dst):
		return "", "", fmt.Errorf("%s is not a directory", dst)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", "", err
	case err != nil && !isDir && hasTrailingSlash(dst):
		return "", "", fmt.Errorf("no such directory: %s", dst)
	}
	dir = filepath.Dir(filepath.Clean(dst))
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return "", "", fmt.Errorf("invalid output path: directory %q does not exist", dir)
	}
	return dir, filepath.Base(filepath.Clean(dst)), nil
}

func hasTrailingSlash(p string) bool {
	return p != "" && (os.IsPathSeparator(p[len(p)-1]) || strings.HasSuffix(p, string(filepath.Separator)+".") || strings.HasSuffix(p, "/."))
}

func (c *copier) toContainer(ctx context.Context, src, container, dst string) error {
	userDst := dst
	dst = cleanContainerPath(dst)
	resolved, st, err := c.resolve(ctx, container, dst)
	exists := err == nil
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if exists {
		dst = resolved
	} else if resolved != dst {
		dst = resolved // a link that dangles: what it names is made
	}
	dstIsDir := exists && fs.FileMode(st.Mode).IsDir()
	if src == "-" {
		if !dstIsDir {
			return fmt.Errorf("destination \"%s:%s\" must be a directory", container, userDst)
		}
		return c.api.WriteArchive(ctx, container, dst, c.app.in, true, c.archive)
	}
	local, base, err := c.localSource(src)
	if err != nil {
		return err
	}
	fi, err := os.Lstat(local)
	if err != nil {
		return err
	}
	contents := strings.HasSuffix(src, string(filepath.Separator)+".") || strings.HasSuffix(src, "/.") || src == "."
	dir, name := dst, base
	switch {
	case dstIsDir && contents && fi.IsDir():
		name = "."
	case dstIsDir:
	case exists && fi.IsDir():
		return fmt.Errorf("cannot copy a directory to the file %s:%s", container, userDst)
	case exists && strings.HasSuffix(dst, "/"):
		return fmt.Errorf("%s:%s is not a directory", container, userDst)
	case !fi.IsDir() && strings.HasSuffix(dst, "/"):
		return fmt.Errorf("no such directory: %s:%s", container, userDst)
	default:
		clean := path.Clean(dst)
		dir, name = path.Dir(clean), path.Base(clean)
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(copy.Pack(pw, local, name)) }()
	defer func() { _ = pr.Close() }()
	cr := &counter{Reader: pr}
	if err := c.api.WriteArchive(ctx, container, dir, cr, true, c.archive); err != nil {
		return err
	}
	c.done(cr.n, container+":"+userDst)
	return nil
}

// localSource is the path to read and the name that it has in the archive. A
// link is followed if it was asked for, or if a slash after it says so.
func (c *copier) localSource(src string) (local, base string, err error) {
	abs, err := filepath.Abs(src)
	if err != nil {
		return "", "", err
	}
	base = filepath.Base(abs)
	if c.follow || hasTrailingSlash(src) {
		if abs, err = filepath.EvalSymlinks(abs); err != nil {
			return "", "", err
		}
	}
	if fi, err := os.Stat(abs); err == nil && !fi.IsDir() && hasTrailingSlash(src) {
		return "", "", fmt.Errorf("%s is not a directory", src)
	}
	return abs, base, nil
}
