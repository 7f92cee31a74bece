package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/caisson-engine/caisson/engine/network"
)

// setting is a value that a flag and a key of the config file can set. Set is
// the flag's way, once per occurrence; decode is the file's.
type setting interface {
	String() string
	Set(string) error
	Type() string // shown by --help, "" for a switch
	decode(json.RawMessage) error
	take(from setting) // copies the value of the same option in another config
}

// scalar is a setting of one value. The file may write it as a string or in
// JSON's own type.
type scalar[T any] struct {
	v     *T
	name  string
	parse func(string) (T, error)
	show  func(T) string
}

func (s scalar[T]) Type() string   { return s.name }
func (s scalar[T]) String() string { return s.show(*s.v) }

func (s scalar[T]) Set(in string) error {
	v, err := s.parse(in)
	if err == nil {
		*s.v = v
	}
	return err
}

func (s scalar[T]) decode(raw json.RawMessage) error {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return s.Set(text)
	}
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || strings.IndexByte("{[n", raw[0]) >= 0 {
		return fmt.Errorf("want one value, not %s", raw)
	}
	return s.Set(string(raw))
}

func (s scalar[T]) take(from setting) { *s.v = *from.(scalar[T]).v }

func same(s string) (string, error) { return s, nil }

func text(v *string, name string) setting {
	return scalar[string]{v, name, same, func(s string) string { return s }}
}

// choice is one of the words given.
func choice(v *string, words ...string) setting {
	return scalar[string]{v, strings.Join(words, "|"), func(s string) (string, error) {
		if !slices.Contains(words, s) {
			return "", fmt.Errorf("must be one of %s", strings.Join(words, ", "))
		}
		return s, nil
	}, func(s string) string { return s }}
}

type switchValue struct{ scalar[bool] }

// IsBoolFlag lets the flag stand alone.
func (switchValue) IsBoolFlag() bool { return true }

func (s switchValue) take(from setting) { s.scalar.take(from.(switchValue).scalar) }

func toggle(v *bool) setting {
	return switchValue{scalar[bool]{v, "", strconv.ParseBool, strconv.FormatBool}}
}

// number is a whole number from low to high.
func number(v *int, name string, low, high int) setting {
	return scalar[int]{v, name, func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < low || n > high {
			return 0, fmt.Errorf("must be a number from %d to %d", low, high)
		}
		return n, nil
	}, strconv.Itoa}
}

// bytesize is a number of bytes, with or without a unit.
func bytesize(v *int64) setting {
	return scalar[int64]{v, "bytes", units.RAMInBytes, func(n int64) string {
		if n == 0 {
			return ""
		}
		return units.CustomSize("%g%s", float64(n), 1024, []string{"", "k", "m", "g", "t"})
	}}
}

func prefix(v *netip.Prefix, name string) setting {
	return scalar[netip.Prefix]{v, name, netip.ParsePrefix, func(p netip.Prefix) string {
		if !p.IsValid() {
			return ""
		}
		return p.String()
	}}
}

// list is a setting of several values: a repeated flag, or a list in the file.
type list[T any] struct {
	v     *[]T
	name  string
	parse func(string) (T, error)
	show  func(T) string
}

func (l list[T]) Type() string { return l.name }

func (l list[T]) String() string {
	out := make([]string, len(*l.v))
	for i, v := range *l.v {
		out[i] = l.show(v)
	}
	return strings.Join(out, ",")
}

func (l list[T]) Set(in string) error {
	v, err := l.parse(in)
	if err == nil {
		*l.v = append(*l.v, v)
	}
	return err
}

func (l list[T]) decode(raw json.RawMessage) error {
	var items []string
	if err := json.Unmarshal(raw, &items); err != nil {
		return errors.New("want a list of strings")
	}
	for _, s := range items {
		if err := l.Set(s); err != nil {
			return err
		}
	}
	return nil
}

func (l list[T]) take(from setting) { *l.v = *from.(list[T]).v }

func texts(v *[]string, name string) setting {
	return list[string]{v, name, same, func(s string) string { return s }}
}

func addrs(v *[]netip.Addr) setting {
	return list[netip.Addr]{v, "address", netip.ParseAddr, netip.Addr.String}
}

// pools are address pools; the file has them as objects, like dockerd's.
type pools struct{ list[network.AddressPool] }

func addressPools(v *[]network.AddressPool) setting {
	return pools{list[network.AddressPool]{v, "base=CIDR,size=N", network.ParseAddressPool, showPool}}
}

func showPool(p network.AddressPool) string { return fmt.Sprintf("base=%s,size=%d", p.Base, p.Size) }

func (p pools) take(from setting) { p.list.take(from.(pools).list) }

func (p pools) decode(raw json.RawMessage) error {
	var items []struct {
		Base string
		Size int
	}
	if err := json.Unmarshal(raw, &items); err != nil {
		return errors.New(`want a list like [{"base": "10.10.0.0/16", "size": 24}]`)
	}
	for _, i := range items {
		if err := p.Set(fmt.Sprintf("base=%s,size=%d", i.Base, i.Size)); err != nil {
			return err
		}
	}
	return nil
}

// pairs are key=value settings; the file has them as an object.
type pairs struct {
	v *map[string]string
}

func (p pairs) Type() string { return "key=value" }

func (p pairs) String() string {
	out := make([]string, 0, len(*p.v))
	for _, k := range slices.Sorted(maps.Keys(*p.v)) {
		out = append(out, k+"="+(*p.v)[k])
	}
	return strings.Join(out, ",")
}

func (p pairs) Set(in string) error {
	k, v, ok := strings.Cut(in, "=")
	if !ok || k == "" {
		return errors.New("want key=value")
	}
	if *p.v == nil {
		*p.v = make(map[string]string)
	}
	(*p.v)[k] = v
	return nil
}

func (p pairs) decode(raw json.RawMessage) error {
	var m map[string]string
	if err := json.Unmarshal(raw, &m); err != nil {
		return errors.New("want an object of strings")
	}
	if *p.v == nil {
		*p.v = make(map[string]string)
	}
	maps.Copy(*p.v, m)
	return nil
}

func (p pairs) take(from setting) { *p.v = *from.(pairs).v }

// ulimits are default limits by name; the file has them as dockerd's:
// {"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 2048}}.
type ulimits struct{ list[*units.Ulimit] }

func ulimitList(v *[]*units.Ulimit) setting {
	return ulimits{list[*units.Ulimit]{v, "name=soft[:hard]", units.ParseUlimit, (*units.Ulimit).String}}
}

func (u ulimits) take(from setting) { u.list.take(from.(ulimits).list) }

func (u ulimits) decode(raw json.RawMessage) error {
	var m map[string]struct{ Soft, Hard int64 }
	if err := json.Unmarshal(raw, &m); err != nil {
		return errors.New(`want an object like {"nofile": {"Soft": 1024, "Hard": 2048}}`)
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if err := u.Set(fmt.Sprintf("%s=%d:%d", name, m[name].Soft, m[name].Hard)); err != nil {
			return err
		}
	}
	return nil
}
