package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/refs"
)

var pushCommand = command{
	name:  "push",
	args:  "[OPTIONS] NAME[:TAG]",
	short: "Upload an image to a registry",
	examples: []string{
		"push registry.example.com/team/app:1.2 # Upload one tag",
		"push -a registry.example.com/team/app # Upload all its tags",
	},
	sameAs:   []string{"image push", "push"},
	min:      1,
	max:      1,
	complete: completeFirst(completeImages),
	flags:    map[string]completer{"platform": completePlatforms},
	setup: func(a *app, f *pflag.FlagSet) action {
		var all, quiet bool
		var platform string
		f.BoolVarP(&all, "all-tags", "a", false, "Push all tags of an image to the repository")
		f.BoolVarP(&quiet, "quiet", "q", false, "Suppress verbose output")
		f.StringVar(&platform, "platform", "", "Push a platform-specific manifest as a single-platform image to the registry")
		hiddenTrustFlag(f)
		return func(ctx context.Context, args []string) error {
			ref := refs.Parse(args[0])
			tag := ref.Tag
			switch {
			case ref.Digest != "":
				return errors.New("cannot push a digest reference; push a tag")
			case all && tag != "":
				return errors.New("tag can't be used with --all-tags/-a")
			case !all && tag == "":
				tag = "latest"
				if !quiet {
					fmt.Fprintln(a.out, "Using default tag: latest")
				}
			}
			auth, err := a.credentials().Get(ref.Domain)
			if err != nil {
				fmt.Fprintln(a.err, "WARNING:", err)
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			m, err := api.Push(ctx, ref.Name(), tag, platform, auth)
			if err != nil {
				return err
			}
			defer m.Close()
			out := a.out
			if quiet {
				out = io.Discard
			}
			var notes []string
			err = showProgress(m, out, a.outTTY, func(raw []byte) { notes = append(notes, pushNote(raw)...) })
			if err != nil {
				return err
			}
			for _, n := range notes {
				fmt.Fprintln(a.err, n)
			}
			if quiet {
				fmt.Fprintln(a.out, ref.Name()+":"+tag)
			}
			return nil
		}
	},
}

// pushNote tells what of an image was not pushed.
func pushNote(raw []byte) []string {
	var aux struct {
		ManifestPushedInsteadOfIndex bool `json:"manifestPushedInsteadOfIndex"`
		SelectedManifest             struct {
			Digest string `json:"digest"`
		} `json:"selectedManifest"`
	}
	if json.Unmarshal(raw, &aux) != nil || !aux.ManifestPushedInsteadOfIndex {
		return nil
	}
	return []string{
		"i Info → Not all multiplatform-content is present and only the available single-platform image was pushed",
		"         " + aux.SelectedManifest.Digest,
	}
}
