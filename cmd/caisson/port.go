package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/engine/client"
)

var portCommand = command{
	name:     "port",
	args:     "CONTAINER [PRIVATE_PORT[/PROTO]]",
	short:    "List port mappings or a specific mapping for the container",
	examples: []string{"port web 80 # Where its port 80 is on this host"},
	sameAs:   []string{"container port", "port"},
	min:      1,
	max:      2,
	complete: completeFirst(completeRunning),
	setup: func(a *app, _ *pflag.FlagSet) action {
		return func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			c, _, err := api.Inspect(ctx, args[0], false)
			if err != nil {
				return err
			}
			ports := c.NetworkSettings.Ports
			if len(args) == 1 {
				for _, p := range sortedPorts(ports) {
					for _, b := range ports[p] {
						fmt.Fprintf(a.out, "%s -> %s\n", p, hostPort(b))
					}
				}
				return nil
			}
			port, proto, _ := strings.Cut(args[1], "/")
			if proto == "" {
				proto = "tcp"
			}
			if _, err := strconv.ParseUint(port, 10, 16); err != nil {
				return fmt.Errorf("invalid port: %s", port)
			}
			bindings := ports[port+"/"+proto]
			if len(bindings) == 0 {
				return fmt.Errorf("no public port '%s' published for %s", args[1], args[0])
			}
			for _, b := range bindings {
				fmt.Fprintln(a.out, hostPort(b))
			}
			return nil
		}
	},
}

func hostPort(b client.PortBinding) string { return net.JoinHostPort(b.HostIP, b.HostPort) }

// sortedPorts are the keys in the order of numbers, then protocols.
func sortedPorts(m map[string][]client.PortBinding) []string {
	out := make([]string, 0, len(m))
	for p := range m {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b string) int {
		an, ap, _ := strings.Cut(a, "/")
		bn, bp, _ := strings.Cut(b, "/")
		x, _ := strconv.Atoi(an)
		y, _ := strconv.Atoi(bn)
		if x != y {
			return x - y
		}
		return strings.Compare(ap, bp)
	})
	return out
}
