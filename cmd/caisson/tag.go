package main

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/refs"
)

var tagCommand = command{
	name:     "tag",
	args:     "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
	short:    "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
	examples: []string{"tag app:dev registry.example.com/team/app:1.2 # Name it for a registry, then push it"},
	sameAs:   []string{"image tag", "tag"},
	min:      2,
	max:      2,
	complete: completeImages,
	setup: func(a *app, _ *pflag.FlagSet) action {
		return func(ctx context.Context, args []string) error {
			if refs.Parse(args[1]).Digest != "" {
				return fmt.Errorf("refusing to create a tag with a digest reference: %w", errdefs.ErrInvalidArgument)
			}
			repo, tag := repoTag(args[1])
			api, err := a.client()
			if err != nil {
				return err
			}
			return api.Tag(ctx, args[0], repo, tag)
		}
	},
}
