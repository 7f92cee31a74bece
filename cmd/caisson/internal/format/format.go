// Package format prints lists and objects the way --format asks: tables with
// Docker's columns, JSON, or Go templates with Docker's functions.
package format

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"text/template"
)

// funcs are the functions that templates have beside Go's own.
var funcs = template.FuncMap{
	"json":     toJSON,
	"split":    strings.Split,
	"join":     join,
	"title":    title,
	"lower":    strings.ToLower,
	"upper":    strings.ToUpper,
	"pad":      pad,
	"truncate": truncate,
	"println":  fmt.Sprintln,
}

// headerFuncs replace functions for a table's first line, which shows a
// column's name whatever is done to its values.
var headerFuncs = template.FuncMap{
	"json":     func(s string) string { return s },
	"split":    func(s, _ string) string { return s },
	"join":     func(s, _ string) string { return s },
	"title":    func(s string) string { return s },
	"lower":    func(s string) string { return s },
	"upper":    func(s string) string { return s },
	"truncate": func(s string, _ int) string { return s },
}

func toJSON(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return strings.TrimSpace(b.String()), err
}

// join takes any list: what was decoded from JSON is not a []string.
func join(list any, sep string) (string, error) {
	v := reflect.ValueOf(list)
	if v.Kind() != reflect.Slice && v.Kind() != reflect.Array {
		return "", fmt.Errorf("join: %T is not a list", list)
	}
	out := make([]string, v.Len())
	for i := range out {
		out[i] = fmt.Sprint(v.Index(i).Interface())
	}
	return strings.Join(out, sep), nil
}

func title(s string) string {
	prev := ' '
	return strings.Map(func(r rune) rune {
		first := prev == ' '
		prev = r
		if first && 'a' <= r && r <= 'z' {
			return r - 'a' + 'A'
		}
		return r
	}, s)
}

func pad(s string, before, after int) string {
	if s == "" {
		return s
	}
	return strings.Repeat(" ", before) + s + strings.Repeat(" ", after)
}

func truncate(s string, n int) string {
	if len(s) < n {
		return s
	}
	return s[:n]
}

// Parse reads a template.
func Parse(text string) (*template.Template, error) {
	t, err := template.New("").Funcs(funcs).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("template parsing error: %w", err)
	}
	return t, nil
}

// Headers name the columns of a list by the fields that templates use.
type Headers map[string]string

// Label is the column of a single label.
func (h Headers) Label(name string) string {
	return strings.NewReplacer(".", " ", "-", " ", "_", " ").Replace(name)
}

// List describes how a kind of object is listed.
type List struct {
	Table   string // the template of the default table, fields split by \t
	Quiet   string // the template of --quiet
	Raw     string // the template of --format raw, "" if there is none
	Headers Headers
}

// Uses says whether a format asks for a field that the default table lacks.
func Uses(format, field string) bool {
	return strings.Contains(format, "."+field) || format == "json"
}

// Write prints rows, structs or pointers to structs, as format asks.
func Write[T any](w io.Writer, l List, format string, quiet bool, rows []T) error {
	table := false
	switch {
	case quiet && (format == "" || format == "table"):
		format = l.Quiet
	case format == "" || format == "table":
		table, format = true, l.Table
	case format == "raw" && l.Raw != "":
		format = l.Raw
	case format == "json":
		return writeJSON(w, rows)
	case strings.HasPrefix(format, "table"):
		table, format = true, strings.TrimPrefix(format, "table")
	}
	format = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(strings.Trim(format, " "))
	t, err := Parse(format)
	if err != nil {
		return err
	}
	var body bytes.Buffer
	for _, r := range rows {
		if err := t.Execute(&body, r); err != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
		body.WriteByte('\n')
	}
	if !table {
		_, err = body.WriteTo(w)
		return err
	}
	tw := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	if err := t.Funcs(headerFuncs).Execute(tw, l.Headers); err != nil {
		return fmt.Errorf("template parsing error: %w", err)
	}
	fmt.Fprintln(tw)
	if _, err := body.WriteTo(tw); err != nil {
		return err
	}
	return tw.Flush()
}

// writeJSON prints a line of JSON for each row.
func writeJSON[T any](w io.Writer, rows []T) error {
	for _, r := range rows {
		b, err := json.Marshal(fields(r))
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w, string(b)); err != nil {
			return err
		}
	}
	return nil
}

// fields makes a map of a struct's fields, which JSON then has in the order of
// their names.
func fields(row any) map[string]any {
	v := reflect.Indirect(reflect.ValueOf(row))
	m := map[string]any{}
	for i := range v.NumField() {
		if f := v.Type().Field(i); f.IsExported() {
			m[f.Name] = v.Field(i).Interface()
		}
	}
	return m
}

// Object prints one object as a template asks.
func Object(w io.Writer, text string, v any) error { return Either(w, text, v, v) }

// Either prints an object that is known in two forms: by its type, in which
// fields that the engine left out have their zero value, and as it was sent,
// which may have fields that the type has not. The template is tried on both.
func Either(w io.Writer, text string, typed, sent any) error {
	if text == "json" || text == "{{json .}}" {
		s, err := toJSON(sent)
		if err == nil {
			_, err = fmt.Fprintln(w, s)
		}
		return err
	}
	t, err := Parse(text)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, typed); err != nil {
		b.Reset()
		if t.Option("missingkey=error").Execute(&b, sent) != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
	}
	b.WriteByte('\n')
	_, err = b.WriteTo(w)
	return err
}

// Ellipsis shortens s to n characters.
func Ellipsis(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// ShortID is the first 12 characters of an id, without its algorithm.
func ShortID(id string) string {
	if _, hex, ok := strings.Cut(id, ":"); ok {
		id = hex
	}
	if len(id) > 12 {
		id = id[:12]
	}
	return id
}
