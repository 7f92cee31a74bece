package main

import (
	"context"

	"github.com/caisson-engine/caisson/engine/backend/plugin"
)

// giveBackMemory keeps the daemon as small at rest as its backends are: a pull
// of a large image may use memory, but not keep it.
func giveBackMemory(ctx context.Context) { plugin.KeepSmall(ctx) }
