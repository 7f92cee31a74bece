package compose

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
)

// reader is the program that reads Compose files.
const reader = "caisson-compose"

// ExitNoFiles is its exit code when there are none to read.
const ExitNoFiles = 14

// Files say which files make a project, and how.
type Files struct {
	Paths, Profiles, EnvFiles []string
	Name, Dir                 string
}

// Register adds Docker's flags for them.
func (o *Files) Register(f *pflag.FlagSet) {
	f.StringArrayVarP(&o.Paths, "file", "f", nil, "Compose configuration files")
	f.StringVarP(&o.Name, "project-name", "p", "", "Project name")
	f.StringArrayVar(&o.Profiles, "profile", nil, "Specify a profile to enable")
	f.StringArrayVar(&o.EnvFiles, "env-file", nil, "Specify an alternate environment file")
	f.StringVar(&o.Dir, "project-directory", "", "Specify an alternate working directory (default: the path of the first Compose file)")
}

// args is the command line that Register reads.
func (o *Files) args() []string {
	var args []string
	for _, x := range []struct {
		flag   string
		values []string
	}{
		{"--file=", o.Paths}, {"--profile=", o.Profiles}, {"--env-file=", o.EnvFiles},
		{"--project-name=", []string{o.Name}}, {"--project-directory=", []string{o.Dir}},
	} {
		for _, v := range x.values {
			if v != "" {
				args = append(args, x.flag+v)
			}
		}
	}
	return args
}

// Load reads the project. Services that are named are in it whatever their
// profile. Without whole, which takes it to make containers, files of variables
// are not read: they may be missing. Without Compose files, but with a name, the
// project is whatever bears the name on the engine: it has no services.
func (o *Files) Load(ctx context.Context, whole bool, services ...string) (*Project, error) {
	var out bytes.Buffer
	err := o.read(ctx, &out, append([]string{fmt.Sprintf("--whole=%t", whole), "--"}, services...)...)
	if name := o.name(); name != "" && len(o.Paths) == 0 && errors.Is(err, errNoFiles) {
		return &Project{Name: name}, nil
	}
	if err != nil {
		return nil, err
	}
	return Decode(&out)
}

// name is what the project is called whatever the files say.
func (o *Files) name() string {
	if o.Name != "" {
		return o.Name
	}
	return os.Getenv("COMPOSE_PROJECT_NAME")
}

// Config is the resolved files as yaml or json.
func (o *Files) Config(ctx context.Context, format string, interpolate bool, services ...string) ([]byte, error) {
	var out bytes.Buffer
	args := []string{"--config=" + format, fmt.Sprintf("--no-interpolate=%t", !interpolate), "--"}
	err := o.read(ctx, &out, append(args, services...)...)
	return out.Bytes(), err
}

var errNoFiles = errors.New("no configuration file provided: not found")

// read runs the reader. What it complains of goes to our standard error as it
// comes; what it fails with is the error.
func (o *Files) read(ctx context.Context, out *bytes.Buffer, args ...string) error {
	path, err := findReader()
	if err != nil {
		return err
	}
	var complaints bytes.Buffer
	cmd := exec.CommandContext(ctx, path, append(o.args(), args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, out, &complaints
	err = cmd.Run()
	var failed *exec.ExitError
	switch {
	case err == nil:
		_, err = os.Stderr.Write(complaints.Bytes())
		return err
	case errors.As(err, &failed) && failed.ExitCode() == ExitNoFiles:
		return errNoFiles
	case errors.As(err, &failed) && complaints.Len() > 0:
		return errors.New(strings.TrimSpace(complaints.String()))
	}
	return fmt.Errorf("reading the Compose files: %w", err)
}

// findReader looks beside our own program and where `make install` puts it.
func findReader() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return "", err
	}
	dir := filepath.Dir(self)
	for _, d := range []string{dir, filepath.Join(dir, "../libexec/caisson")} {
		if p, err := exec.LookPath(filepath.Join(d, reader)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not installed beside %s: `make install` puts it there", reader, self)
}
