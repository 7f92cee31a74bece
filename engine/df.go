package engine

import (
	"context"

	"github.com/caisson-engine/caisson/images"
)

// DiskUsage tells what images, containers and volumes take on disk.
func (e *Engine) DiskUsage(ctx context.Context) (DiskUsage, error) {
	if err := e.await(ctx); err != nil {
		return DiskUsage{}, err
	}
	list, err := e.cfg.Images.List(ctx, images.ListOptions{})
	if err != nil {
		return DiskUsage{}, err
	}
	size, err := e.cfg.Images.DiskUsage(ctx)
	if err != nil {
		return DiskUsage{}, err
	}
	ctrs, err := e.List(ctx, true, true, 0, nil)
	if err != nil {
		return DiskUsage{}, err
	}
	vols, err := e.volumeUsage(ctx)
	if err != nil {
		return DiskUsage{}, err
	}
	return DiskUsage{Images: list, LayersSize: size, Containers: ctrs, Volumes: vols}, nil
}
