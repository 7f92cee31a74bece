//go:build !linux

package logs

import "context"

func watch(ctx context.Context, _ string) (<-chan struct{}, func(), error) { return poll(ctx) }
