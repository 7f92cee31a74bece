package compose

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caisson-engine/caisson/engine/client"
)

// Summary is a project as it is on the engine.
type Summary struct {
	Name   string
	Status string // "running(2), exited(1)"
	Files  string
}

// Projects lists the projects that have containers, running ones without all.
func Projects(ctx context.Context, api *client.Client, all bool) ([]Summary, error) {
	list, err := api.List(ctx, client.ListOptions{All: all, Filters: client.Filters{"label": {labelProject}}})
	if err != nil {
		return nil, err
	}
	states := map[string]map[string]int{}
	files := map[string]string{}
	for _, c := range list {
		name := c.Labels[labelProject]
		if states[name] == nil {
			states[name] = map[string]int{}
		}
		states[name][c.State]++
		files[name] = c.Labels[labelFiles]
	}
	var out []Summary
	for _, name := range slices.Sorted(maps.Keys(states)) {
		var parts []string
		for _, state := range slices.Sorted(maps.Keys(states[name])) {
			parts = append(parts, fmt.Sprintf("%s(%d)", state, states[name][state]))
		}
		out = append(out, Summary{Name: name, Status: strings.Join(parts, ", "), Files: files[name]})
	}
	return out, nil
}
