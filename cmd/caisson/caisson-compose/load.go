package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/compose"
)

// options are the command line's.
type options struct {
	compose.Files
	format   string
	raw      bool // leave variables as they are
	whole    bool // read files of variables
	services []string
}

var errNoFiles = errors.New("no configuration file provided: not found")

// load reads the project with the services that the profiles and the command
// line choose.
func load(ctx context.Context, o options) (*types.Project, error) {
	fns := []cli.ProjectOptionsFn{
		cli.WithWorkingDirectory(o.Dir), cli.WithOsEnv,
		// The directory of the files, which .env is read from, may come from .env.
		cli.WithEnvFiles(o.EnvFiles...), cli.WithDotEnv, cli.WithConfigFileEnv, cli.WithDefaultConfigPath,
		cli.WithEnvFiles(o.EnvFiles...), cli.WithDotEnv,
		cli.WithDefaultProfiles(o.Profiles...), cli.WithName(o.Name), cli.WithInterpolation(!o.raw),
	}
	if !o.whole {
		fns = append(fns, cli.WithoutEnvironmentResolution)
	}
	opts, err := cli.NewProjectOptions(o.Paths, fns...)
	if err != nil {
		return nil, err
	}
	if len(opts.ConfigPaths) == 0 {
		return nil, errNoFiles
	}
	for _, p := range opts.ConfigPaths {
		if strings.Contains(p, "://") || strings.HasPrefix(p, "git@") {
			return nil, fmt.Errorf("%s: Compose files are read from this machine only; fetch it first", p)
		}
	}
	p, err := opts.LoadProject(ctx)
	if err != nil {
		return nil, err
	}
	if p.Name == "" {
		return nil, errors.New("project name can't be empty. Use `--project-name` to set a valid name")
	}
	for _, s := range o.services {
		if _, dormant := p.DisabledServices[s]; !dormant && !slices.Contains(p.ServiceNames(), s) {
			return nil, fmt.Errorf("no such service: %s", s)
		}
	}
	return p.WithServicesEnabled(o.services...)
}

// printConfig writes the project as Compose's canonical form.
func printConfig(w io.Writer, p *types.Project, format string) error {
	marshal := map[string]func() ([]byte, error){
		"yaml": func() ([]byte, error) { return p.MarshalYAML() },
		"json": func() ([]byte, error) { return p.MarshalJSON() },
	}[format]
	if marshal == nil {
		return fmt.Errorf("invalid format %q: must be one of yaml, json", format)
	}
	b, err := marshal()
	if err != nil {
		return err
	}
	if format == "json" {
		b = append(b, '\n')
	}
	_, err = w.Write(b)
	return err
}

// readAll reads a file of a path in the project, bounded.
func readAll(p *types.Project, name string, limit int64) ([]byte, error) {
	f, err := os.Open(p.RelativePath(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d MiB", name, limit>>20)
	}
	return b, err
}
