package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/engine/client"
)

const objectFormatUsage = `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template`

var inspectCommand = command{
	name:  "inspect",
	args:  "[OPTIONS] NAME|ID [NAME|ID...]",
	short: "Return low-level information on Caisson objects",
	examples: []string{
		"inspect web # All that the engine knows of a container, image or volume",
		"inspect -f '{{.State.Status}}' web # One fact",
		"inspect --type image debian # Only an image, whatever containers are called",
	},
	min:      1,
	max:      -1,
	complete: completeObjects,
	flags:    map[string]completer{"type": completeWords("container", "image", "network", "volume")},
	setup: func(a *app, f *pflag.FlagSet) action {
		var tmpl, typ string
		var size bool
		f.StringVarP(&tmpl, "format", "f", "", objectFormatUsage)
		f.StringVar(&typ, "type", "", "Only inspect objects of the given type")
		f.BoolVarP(&size, "size", "s", false, "Display total file sizes if the type is container")
		return func(ctx context.Context, names []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			var kinds []inspectKind
			for _, k := range inspectKinds {
				if typ == "" || typ == k.name {
					kinds = append(kinds, k)
				}
			}
			if len(kinds) == 0 {
				return fmt.Errorf("%q is not a valid value for --type; use container, image, network or volume: %w", typ, errdefs.ErrInvalidArgument)
			}
			return inspect(a.out, tmpl, names, func(name string) (json.RawMessage, any, error) {
				for _, k := range kinds {
					raw, err := k.get(ctx, api, name, size)
					if err == nil || !errdefs.IsNotFound(err) {
						return raw, k.typed(), err
					}
				}
				what := "object"
				if typ != "" {
					what = typ
				}
				return nil, nil, fmt.Errorf("error: no such %s: %s: %w", what, name, errNotFound)
			})
		}
	},
}

// errNotFound carries the kind without adding its words to the message.
var errNotFound error = quietNotFound{}

type quietNotFound struct{}

func (quietNotFound) Error() string { return "it is neither a name nor an id here" }
func (quietNotFound) NotFound()     {}

// inspectKind is a kind of object that inspect finds by name.
type inspectKind struct {
	name  string
	get   func(ctx context.Context, api *client.Client, name string, size bool) (json.RawMessage, error)
	typed func() any // what the answer decodes into for templates
}

// inspectKinds are in the order in which a name is looked up.
var inspectKinds = []inspectKind{
	{"container", func(ctx context.Context, api *client.Client, name string, size bool) (json.RawMessage, error) {
		_, raw, err := api.Inspect(ctx, name, size)
		return raw, err
	}, newContainerObject},
	{"image", func(ctx context.Context, api *client.Client, name string, _ bool) (json.RawMessage, error) {
		return api.ImageInspect(ctx, name, "")
	}, newImageObject},
	{"network", func(ctx context.Context, api *client.Client, name string, _ bool) (json.RawMessage, error) {
		return api.InspectNetwork(ctx, name)
	}, newNetworkObject},
	{"volume", func(ctx context.Context, api *client.Client, name string, _ bool) (json.RawMessage, error) {
		return api.VolumeInspect(ctx, name)
	}, func() any { return &client.Volume{} }},
}

var containerInspectCommand = command{
	name:     "inspect",
	args:     "[OPTIONS] CONTAINER [CONTAINER...]",
	short:    "Display detailed information on one or more containers",
	examples: []string{"container inspect -f '{{json .Mounts}}' web # Its mounts as JSON"},
	min:      1,
	max:      -1,
	complete: completeContainers,
	setup: func(a *app, f *pflag.FlagSet) action {
		tmpl := f.StringP("format", "f", "", objectFormatUsage)
		size := f.BoolP("size", "s", false, "Display total file sizes")
		return func(ctx context.Context, names []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			return inspect(a.out, *tmpl, names, func(name string) (json.RawMessage, any, error) {
				_, raw, err := api.Inspect(ctx, name, *size)
				return raw, newContainerObject(), err
			})
		}
	},
}

var imageInspectCommand = command{
	name:     "inspect",
	args:     "[OPTIONS] IMAGE [IMAGE...]",
	short:    "Display detailed information on one or more images",
	examples: []string{"image inspect -f '{{.Config.Cmd}}' debian # What it runs"},
	min:      1,
	max:      -1,
	complete: completeImages,
	flags:    map[string]completer{"platform": completePlatforms},
	setup: func(a *app, f *pflag.FlagSet) action {
		tmpl := f.StringP("format", "f", "", objectFormatUsage)
		platform := f.String("platform", "", "Inspect a specific platform of the multi-platform image")
		return func(ctx context.Context, names []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			return inspect(a.out, *tmpl, names, func(name string) (json.RawMessage, any, error) {
				raw, err := api.ImageInspect(ctx, name, *platform)
				return raw, newImageObject(), err
			})
		}
	},
}

// inspect prints objects as the engine sent them: a JSON list, or each through a
// template. get returns an object's JSON and what it decodes into. Objects that
// were found are printed even if others were not.
func inspect(w io.Writer, tmpl string, names []string, get func(string) (json.RawMessage, any, error)) error {
	if tmpl != "" && tmpl != "json" {
		if _, err := format.Parse(tmpl); err != nil {
			return &statusError{code: 64, err: err}
		}
	}
	found := []json.RawMessage{}
	var errs []error
	for _, n := range names {
		raw, typed, err := get(n)
		switch {
		case err != nil:
			errs = append(errs, err)
		case tmpl == "":
			found = append(found, raw)
		default:
			errs = append(errs, inspectOne(w, tmpl, raw, typed))
		}
	}
	if tmpl == "" {
		errs = append(errs, writeList(w, found))
	}
	return errors.Join(errs...)
}

func inspectOne(w io.Writer, tmpl string, raw json.RawMessage, typed any) error {
	sent, err := decode(raw)
	if err != nil {
		return err
	}
	if json.Unmarshal(raw, typed) != nil {
		typed = sent // an engine with other ideas of the types
	}
	return format.Either(w, tmpl, typed, sent)
}

// writeList prints objects as one indented list, each as it was sent.
func writeList(w io.Writer, list []json.RawMessage) error {
	raw := []byte{'['}
	for i, o := range list {
		if i > 0 {
			raw = append(raw, ',')
		}
		raw = append(raw, o...)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, append(raw, ']'), "", "    "); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, b.String())
	return err
}

// decode keeps numbers as they were written: an id or a size must not turn into
// a float.
func decode(raw json.RawMessage) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}
