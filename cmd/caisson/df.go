package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/engine/client"
)

var dfCommand = command{
	name:  "df",
	args:  "[OPTIONS]",
	short: "Show disk usage",
	examples: []string{
		"system df # What takes how much, and what could be given back",
		"system df -v # Image by image, container by container",
	},
	setup: func(a *app, f *pflag.FlagSet) action {
		tmpl := formatFlag(f)
		verbose := f.BoolP("verbose", "v", false, "Show detailed information on space usage")
		return func(ctx context.Context, _ []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			u, err := api.DiskUsage(ctx, *verbose)
			if err != nil {
				return err
			}
			if *verbose {
				return dfVerbose(a, u, *tmpl)
			}
			return format.Write(a.out, dfList, *tmpl, false, dfRows(u))
		}
	},
}

var dfList = format.List{
	Table: `{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}`,
	Headers: format.Headers{
		"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE",
	},
}

// dfRow is a kind of object as templates see it.
type dfRow struct{ Active, Reclaimable, Size, TotalCount, Type string }

// usage is the part of a Usage that does not depend on its objects.
type usage struct{ active, total, size, reclaimable int64 }

func usageOf[T any](u *client.Usage[T]) usage {
	if u == nil {
		return usage{}
	}
	return usage{u.ActiveCount, u.TotalCount, u.TotalSize, u.Reclaimable}
}

func (u usage) row(kind string) dfRow {
	r := dfRow{
		Type: kind, TotalCount: strconv.FormatInt(u.total, 10), Active: strconv.FormatInt(u.active, 10),
		Size: units.HumanSize(float64(u.size)), Reclaimable: units.HumanSize(float64(u.reclaimable)),
	}
	if u.size > 0 {
		r.Reclaimable += fmt.Sprintf(" (%d%%)", u.reclaimable*100/u.size)
	}
	return r
}

func dfRows(d client.DiskUsage) []dfRow {
	kinds := [4]usage{usageOf(d.ImageUsage), usageOf(d.ContainerUsage), usageOf(d.VolumeUsage), usageOf(d.BuildCacheUsage)}
	if d.ImageUsage == nil && d.ContainerUsage == nil {
		kinds = legacyUsage(d)
	}
	var out []dfRow
	for i, name := range []string{"Images", "Containers", "Local Volumes", "Build Cache"} {
		out = append(out, kinds[i].row(name))
	}
	return out
}

// legacyUsage adds up what engines before API 1.52 list.
func legacyUsage(d client.DiskUsage) [4]usage {
	images := usage{total: int64(len(d.Images)), size: d.LayersSize}
	var used int64
	for _, i := range d.Images {
		if i.Containers > 0 {
			images.active++
			used += i.Size - max(i.SharedSize, 0)
		}
	}
	images.reclaimable = max(d.LayersSize-used, 0)
	containers := usage{total: int64(len(d.Containers))}
	for _, c := range d.Containers {
		containers.size += c.SizeRw
		if c.State == "running" || c.State == "paused" || c.State == "restarting" {
			containers.active++
		} else {
			containers.reclaimable += c.SizeRw
		}
	}
	volumes := usage{total: int64(len(d.Volumes))}
	for _, v := range d.Volumes {
		if v.UsageData == nil {
			continue
		}
		volumes.size += max(v.UsageData.Size, 0)
		if v.UsageData.RefCount > 0 {
			volumes.active++
		} else {
			volumes.reclaimable += max(v.UsageData.Size, 0)
		}
	}
	cache := usage{total: int64(len(d.BuildCache))}
	for _, b := range d.BuildCache {
		cache.size += b.Size
		if b.InUse {
			cache.active++
		} else if !b.Shared {
			cache.reclaimable += b.Size
		}
	}
	return [4]usage{images, containers, volumes, cache}
}

func dfVerbose(a *app, d client.DiskUsage, tmpl string) error {
	images, containers, volumes := d.Images, d.Containers, d.Volumes
	if d.ImageUsage != nil {
		images = d.ImageUsage.Items
	}
	if d.ContainerUsage != nil {
		containers = d.ContainerUsage.Items
	}
	if d.VolumeUsage != nil {
		volumes = d.VolumeUsage.Items
	}
	if tmpl != "" {
		return format.Object(a.out, tmpl, map[string]any{"Images": images, "Containers": containers, "Volumes": volumes, "BuildCache": d.BuildCache})
	}
	var imgRows []imageRow
	for _, i := range images {
		imgRows = append(imgRows, imageRows(i, true, false)...)
	}
	fmt.Fprint(a.out, "Images space usage:\n\n")
	l := imageList
	l.Table = `{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.VirtualSize}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}`
	if err := format.Write(a.out, l, "", false, imgRows); err != nil {
		return err
	}
	var ctrRows []containerRow
	for _, c := range containers {
		ctrRows = append(ctrRows, newContainerRow(c, true))
	}
	fmt.Fprint(a.out, "\nContainers space usage:\n\n")
	lc := containerList
	lc.Table = `{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}`
	if err := format.Write(a.out, lc, "", false, ctrRows); err != nil {
		return err
	}
	var volRows []volumeRow
	for _, v := range volumes {
		volRows = append(volRows, newVolumeRow(v))
	}
	fmt.Fprint(a.out, "\nLocal Volumes space usage:\n\n")
	lv := volumeList
	lv.Table = `{{.Name}}\t{{.Links}}\t{{.Size}}`
	return format.Write(a.out, lv, "", false, volRows)
}
