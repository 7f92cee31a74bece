package main

import (
	"context"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
	"github.com/caisson-engine/caisson/engine/client"
)

var importCommand = command{
	name:  "import",
	args:  "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
	short: "Import the contents from a tarball to create a filesystem image",
	examples: []string{
		"import rootfs.tar my/base # From a file",
		"export web | caisson import -c 'CMD [\"sh\"]' - my/web # From another container",
	},
	sameAs: []string{"image import", "import"},
	min:    1,
	max:    2,
	flags:  map[string]completer{"platform": completePlatforms},
	complete: func(_ context.Context, _ *app, args []string, _ string) []string {
		if len(args) == 0 {
			return []string{directiveFiles}
		}
		return nil
	},
	setup: setupImport,
}

func setupImport(a *app, f *pflag.FlagSet) action {
	var o client.ImportOptions
	var changes opts.List
	f.VarP(&changes, "change", "c", "Apply Dockerfile instruction to the created image")
	f.StringVarP(&o.Message, "message", "m", "", "Set commit message for imported image")
	f.StringVar(&o.Platform, "platform", "", "Set platform if server is multi-platform capable")
	return func(ctx context.Context, args []string) error {
		o.Changes = changes.Values
		if len(args) > 1 {
			o.Repo, o.Tag = repoTag(args[1])
		}
		var in io.ReadCloser
		if isURL(args[0]) {
			o.SourceURL = args[0]
		} else {
			var err error
			if in, err = openArchive(a, args[0]); err != nil {
				return err
			}
			defer in.Close()
		}
		api, err := a.client()
		if err != nil {
			return err
		}
		m, err := api.Import(ctx, in, o)
		if err != nil {
			return err
		}
		defer m.Close()
		return showProgress(m, a.out, a.outTTY, nil)
	}
}

// isURL says whether the engine is to fetch the archive itself.
func isURL(s string) bool {
	return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://")
}

func openArchive(a *app, name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(a.in), nil
	}
	return os.Open(name)
}
