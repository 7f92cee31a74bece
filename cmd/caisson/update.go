package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
	"github.com/caisson-engine/caisson/engine/client"
)

var updateCommand = command{
	name:  "update",
	args:  "[OPTIONS] CONTAINER [CONTAINER...]",
	short: "Update configuration of one or more containers",
	examples: []string{
		"update -m 512m --memory-swap 512m web # Another memory limit, at once",
		"update --restart unless-stopped web # Start it with the host",
	},
	sameAs:   []string{"container update", "update"},
	min:      1,
	max:      -1,
	complete: completeContainers,
	flags:    map[string]completer{"restart": createCompletions["restart"]},
	setup: func(a *app, f *pflag.FlagSet) action {
		var r client.Resources
		var cpus opts.CPUs
		var memory, reservation, kernel opts.Bytes
		swap := opts.Bytes{Minus1: true}
		var pids int64
		var restart string
		f.Uint16Var(&r.BlkioWeight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
		f.Int64Var(&r.CPUPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
		f.Int64Var(&r.CPUQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
		f.Int64Var(&r.CPURealtimePeriod, "cpu-rt-period", 0, "Limit the CPU real-time period in microseconds")
		f.Int64Var(&r.CPURealtimeRuntime, "cpu-rt-runtime", 0, "Limit the CPU real-time runtime in microseconds")
		f.Int64VarP(&r.CPUShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
		f.Var(&cpus, "cpus", "Number of CPUs")
		f.StringVar(&r.CpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
		f.StringVar(&r.CpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
		f.VarP(&memory, "memory", "m", "Memory limit")
		f.Var(&reservation, "memory-reservation", "Memory soft limit")
		f.Var(&swap, "memory-swap", "Swap limit equal to memory plus swap: -1 to enable unlimited swap")
		f.Var(&kernel, "kernel-memory", "Kernel memory limit")
		f.Lookup("kernel-memory").Hidden = true
		f.Int64Var(&pids, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
		f.StringVar(&restart, "restart", "", "Restart policy to apply when a container exits")
		return func(ctx context.Context, names []string) error {
			if f.NFlag() == 0 {
				return errors.New("you must provide one or more flags when using this command")
			}
			policy, err := opts.ParseRestart(restart)
			if err != nil {
				return err
			}
			r.NanoCPUs, r.Memory, r.MemoryReservation, r.MemorySwap, r.KernelMemory = cpus.Nano, memory.Value, reservation.Value, swap.Value, kernel.Value
			if f.Changed("pids-limit") {
				r.PidsLimit = &pids
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			var warnings []string
			err = a.each(ctx, names, func(ctx context.Context, n string) error {
				w, err := api.Update(ctx, n, client.UpdateConfig{Resources: r, RestartPolicy: policy})
				warnings = append(warnings, w...)
				return err
			})
			for _, w := range warnings {
				fmt.Fprintln(a.err, "WARNING:", w)
			}
			return err
		}
	},
}
