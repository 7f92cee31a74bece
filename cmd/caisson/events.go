package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/when"
	"github.com/caisson-engine/caisson/engine/client"
)

var eventsCommand = command{
	name:  "events",
	args:  "[OPTIONS]",
	short: "Get real time events from the server",
	examples: []string{
		"events --filter event=die # Every end of a container",
		"events --since 1h --until 0s --format json # The last hour, for programs",
	},
	sameAs: []string{"system events", "events"},
	flags:  map[string]completer{"filter": completeWords("container=", "daemon=", "event=", "image=", "label=", "network=", "type=", "volume=")},
	setup: func(a *app, f *pflag.FlagSet) action {
		var filter opts.Filter
		var since, until string
		f.VarP(&filter, "filter", "f", "Filter output based on conditions provided")
		tmpl := f.String("format", "", objectFormatUsage)
		f.StringVar(&since, "since", "", "Show all events created since timestamp")
		f.StringVar(&until, "until", "", "Stream events until this timestamp")
		return func(ctx context.Context, _ []string) error {
			print, err := eventPrinter(a.out, *tmpl)
			if err != nil {
				return &statusError{code: 64, err: err}
			}
			now := time.Now()
			if since, err = when.Parse(since, now); err != nil {
				return usageStatus("events", err)
			}
			if until, err = when.Parse(until, now); err != nil {
				return usageStatus("events", err)
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			r, err := api.Events(ctx, since, until, filter.Values)
			if err != nil {
				return err
			}
			defer r.Close()
			dec := json.NewDecoder(r)
			for {
				var raw json.RawMessage
				if err := dec.Decode(&raw); err != nil {
					if errors.Is(err, io.EOF) {
						return nil
					}
					return err
				}
				if err := print(raw); err != nil {
					return err
				}
			}
		}
	},
}

// eventPrinter returns what prints one event.
func eventPrinter(w io.Writer, tmpl string) (func(json.RawMessage) error, error) {
	if tmpl == "json" {
		return func(raw json.RawMessage) error {
			_, err := fmt.Fprintln(w, string(bytes.TrimSpace(raw)))
			return err
		}, nil
	}
	if tmpl == "" {
		return func(raw json.RawMessage) error {
			var e client.Event
			if err := json.Unmarshal(raw, &e); err != nil {
				return err
			}
			_, err := fmt.Fprintln(w, eventLine(e))
			return err
		}, nil
	}
	t, err := format.Parse(tmpl)
	if err != nil {
		return nil, err
	}
	return func(raw json.RawMessage) error {
		var e client.Event
		if err := json.Unmarshal(raw, &e); err != nil {
			return err
		}
		// Fields that templates written for older engines use.
		old := struct {
			client.Event
			Status, ID, From string
		}{e, e.Action, e.Actor.ID, e.Actor.Attributes["image"]}
		if err := t.Execute(w, old); err != nil {
			return err
		}
		_, err := fmt.Fprintln(w)
		return err
	}, nil
}

func eventLine(e client.Event) string {
	t := time.Unix(0, e.TimeNano)
	if e.TimeNano == 0 {
		t = time.Unix(e.Time, 0)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s %s", t.Format("2006-01-02T15:04:05.000000000Z07:00"), e.Type, e.Action, e.Actor.ID)
	if len(e.Actor.Attributes) > 0 {
		attrs := make([]string, 0, len(e.Actor.Attributes))
		for k, v := range e.Actor.Attributes {
			attrs = append(attrs, k+"="+v)
		}
		slices.Sort(attrs)
		fmt.Fprintf(&b, " (%s)", strings.Join(attrs, ", "))
	}
	return b.String()
}
