package opts

import (
	"encoding/csv"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/caisson-engine/caisson/engine/client"
)

// List is a flag that may be given several times. Check, if set, refuses a
// value or gives it its final form.
type List struct {
	Values []string
	Check  func(string) (string, error)
}

// Set adds a value.
func (l *List) Set(v string) error {
	if l.Check != nil {
		var err error
		if v, err = l.Check(v); err != nil {
			return err
		}
	}
	l.Values = append(l.Values, v)
	return nil
}

// Type names the value in help.
func (*List) Type() string { return "list" }

func (l *List) String() string {
	if len(l.Values) == 0 {
		return ""
	}
	return fmt.Sprint(l.Values)
}

// Map is a flag of key=value pairs that may be given several times.
type Map struct {
	Values map[string]string
	Check  func(string) (string, error)
}

// Set adds a pair.
func (m *Map) Set(v string) error {
	if m.Check != nil {
		var err error
		if v, err = m.Check(v); err != nil {
			return err
		}
	}
	if m.Values == nil {
		m.Values = map[string]string{}
	}
	k, val, _ := strings.Cut(v, "=")
	m.Values[k] = val
	return nil
}

// Type names the value in help.
func (*Map) Type() string { return "map" }

func (m *Map) String() string {
	if len(m.Values) == 0 {
		return ""
	}
	return fmt.Sprint(m.Values)
}

// Bytes is a size such as 512m. Minus1 allows -1, for unlimited.
type Bytes struct {
	Value  int64
	Minus1 bool
}

// Set parses a size.
func (b *Bytes) Set(v string) error {
	if b.Minus1 && v == "-1" {
		b.Value = -1
		return nil
	}
	n, err := units.RAMInBytes(v)
	b.Value = n
	return err
}

// Type names the value in help.
func (*Bytes) Type() string { return "bytes" }

func (b *Bytes) String() string {
	if b.Value == 0 {
		return "0"
	}
	return units.BytesSize(float64(b.Value))
}

// CPUs is a number of CPUs, kept as a billionth.
type CPUs struct{ Nano int64 }

// Set parses a decimal or a fraction.
func (c *CPUs) Set(v string) error {
	r, ok := new(big.Rat).SetString(v)
	if !ok {
		return fmt.Errorf("failed to parse %v as a rational number", v)
	}
	r.Mul(r, big.NewRat(1e9, 1))
	if !r.IsInt() {
		return errors.New("value is too precise")
	}
	c.Nano = r.Num().Int64()
	return nil
}

// Type names the value in help.
func (*CPUs) Type() string { return "decimal" }

func (c *CPUs) String() string {
	if c.Nano == 0 {
		return ""
	}
	return big.NewRat(c.Nano, 1e9).FloatString(3)
}

// Umask is permission bits that new files do not get; nil is the engine's default.
type Umask struct{ Value *uint32 }

// Set parses an octal number.
func (u *Umask) Set(v string) error {
	n, err := strconv.ParseUint(v, 8, 32)
	if err != nil || n > 0o777 {
		return fmt.Errorf("invalid umask %q: it must be an octal number up to 0777", v)
	}
	m := uint32(n)
	u.Value = &m
	return nil
}

// Type names the value in help.
func (*Umask) Type() string { return "umask" }

func (u *Umask) String() string {
	if u.Value == nil {
		return ""
	}
	return fmt.Sprintf("%#04o", *u.Value)
}

// Ulimits are resource limits by name; a later one replaces an earlier one.
type Ulimits struct{ byName map[string]client.Ulimit }

// Set parses name=soft[:hard].
func (u *Ulimits) Set(v string) error {
	l, err := units.ParseUlimit(v)
	if err != nil {
		return err
	}
	if u.byName == nil {
		u.byName = map[string]client.Ulimit{}
	}
	u.byName[l.Name] = client.Ulimit{Name: l.Name, Hard: l.Hard, Soft: l.Soft}
	return nil
}

// Type names the value in help.
func (*Ulimits) Type() string { return "ulimit" }

func (u *Ulimits) String() string {
	if len(u.byName) == 0 {
		return ""
	}
	return fmt.Sprint(u.List())
}

// List returns the limits in the order of their names.
func (u *Ulimits) List() []client.Ulimit {
	out := make([]client.Ulimit, 0, len(u.byName))
	for _, l := range u.byName {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b client.Ulimit) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// devices holds per-device settings of the form path:value.
type devices[T any] struct {
	values []T
	parse  func(path, value, whole string) (T, error)
}

func (d *devices[T]) Set(v string) error {
	path, value, ok := strings.Cut(v, ":")
	if !ok || path == "" {
		return fmt.Errorf("bad format: %s", v)
	}
	if !strings.HasPrefix(path, "/dev/") {
		return fmt.Errorf("bad format for device path: %s", v)
	}
	t, err := d.parse(path, value, v)
	if err != nil {
		return err
	}
	d.values = append(d.values, t)
	return nil
}

func (*devices[T]) Type() string { return "list" }

func (d *devices[T]) String() string {
	if len(d.values) == 0 {
		return ""
	}
	return fmt.Sprint(d.values)
}

func (d *devices[T]) list() []T {
	if d.values == nil {
		return []T{}
	}
	return d.values
}

func parseWeight(path, value, whole string) (client.WeightDevice, error) {
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil || n > 0 && (n < 10 || n > 1000) {
		return client.WeightDevice{}, fmt.Errorf("invalid weight for device: %s", whole)
	}
	return client.WeightDevice{Path: path, Weight: uint16(n)}, nil
}

func parseBps(path, value, whole string) (client.ThrottleDevice, error) {
	n, err := units.RAMInBytes(value)
	if err != nil || n < 0 {
		return client.ThrottleDevice{}, fmt.Errorf("invalid rate for device: %s. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb", whole)
	}
	return client.ThrottleDevice{Path: path, Rate: uint64(n)}, nil
}

func parseIOps(path, value, whole string) (client.ThrottleDevice, error) {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return client.ThrottleDevice{}, fmt.Errorf("invalid rate for device: %s. The correct format is <device-path>:<number>. Number must be a positive integer", whole)
	}
	return client.ThrottleDevice{Path: path, Rate: n}, nil
}

// GPUs are requests of --gpus.
type GPUs struct{ Values []client.DeviceRequest }

// Set parses a count, "all", or device=…, capabilities=…, driver=…, options=….
func (g *GPUs) Set(v string) error {
	fields, err := csv.NewReader(strings.NewReader(v)).Read()
	if err != nil {
		return err
	}
	req := client.DeviceRequest{}
	seen := map[string]bool{}
	for _, field := range fields {
		key, val, ok := strings.Cut(field, "=")
		if !ok {
			key, val = "count", key
		}
		if seen[key] {
			return fmt.Errorf("gpu request key '%s' can be specified only once", key)
		}
		seen[key] = true
		switch key {
		case "driver":
			req.Driver = val
		case "count":
			if req.Count, err = gpuCount(val); err != nil {
				return err
			}
		case "device":
			req.DeviceIDs = strings.Split(val, ",")
		case "capabilities":
			req.Capabilities = [][]string{append(strings.Split(val, ","), "gpu")}
		case "options":
			opts, err := csv.NewReader(strings.NewReader(val)).Read()
			if err != nil {
				return fmt.Errorf("failed to read gpu options: %w", err)
			}
			req.Options = ToMap(opts)
		default:
			return fmt.Errorf("unexpected key '%s' in '%s'", key, field)
		}
	}
	if !seen["count"] && req.DeviceIDs == nil {
		req.Count = 1
	}
	if req.Options == nil {
		req.Options = map[string]string{}
	}
	if req.Capabilities == nil {
		req.Capabilities = [][]string{{"gpu"}}
	}
	g.Values = append(g.Values, req)
	return nil
}

func gpuCount(s string) (int, error) {
	if s == "all" {
		return -1, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf(`invalid count (%s): value must be either "all" or an integer`, s)
	}
	return n, nil
}

// Type names the value in help.
func (*GPUs) Type() string { return "gpu-request" }

func (g *GPUs) String() string {
	if len(g.Values) == 0 {
		return ""
	}
	return fmt.Sprint(g.Values)
}

// Filter is --filter key=value.
type Filter struct{ Values client.Filters }

// Set adds a filter.
func (f *Filter) Set(v string) error {
	if v == "" {
		return nil
	}
	k, val, ok := strings.Cut(v, "=")
	if !ok {
		return errors.New("bad format of filter (expected name=value)")
	}
	if f.Values == nil {
		f.Values = client.Filters{}
	}
	k = strings.ToLower(strings.TrimSpace(k))
	if val = strings.TrimSpace(val); !slices.Contains(f.Values[k], val) {
		f.Values[k] = append(f.Values[k], val)
	}
	return nil
}

// Type names the value in help.
func (*Filter) Type() string { return "filter" }

func (f *Filter) String() string {
	if len(f.Values) == 0 {
		return ""
	}
	return fmt.Sprint(f.Values)
}

func checkAttach(v string) (string, error) {
	if s := strings.ToLower(v); s == "stdin" || s == "stdout" || s == "stderr" {
		return s, nil
	}
	return "", errors.New("valid streams are STDIN, STDOUT and STDERR")
}

// CheckEnv completes a variable without a value from our environment.
func CheckEnv(v string) (string, error) {
	k, _, ok := strings.Cut(v, "=")
	if k == "" {
		return "", errors.New("invalid environment variable: " + v)
	}
	if !ok {
		if val, ok := os.LookupEnv(k); ok {
			return k + "=" + val, nil
		}
	}
	return v, nil
}

func checkIP(v string) (string, error) {
	if ip := net.ParseIP(strings.TrimSpace(v)); ip != nil {
		return ip.String(), nil
	}
	return "", fmt.Errorf("IP address is not correctly formatted: %s", v)
}

// checkHost normalises host:ip and host=ip.
func checkHost(v string) (string, error) {
	host, ip, ok := strings.Cut(v, "=")
	if !ok {
		host, ip, ok = strings.Cut(v, ":")
	}
	if !ok || host == "" || strings.Contains(host, ":") {
		return "", fmt.Errorf("bad format for add-host: %q", v)
	}
	if ip != "host-gateway" {
		if len(ip) > 2 && ip[0] == '[' && ip[len(ip)-1] == ']' {
			ip = ip[1 : len(ip)-1]
		}
		if _, err := checkIP(ip); err != nil {
			return "", fmt.Errorf("invalid IP address in add-host: %q", ip)
		}
	}
	return host + ":" + ip, nil
}

// checkDomain wants labels of letters, digits and inner hyphens, with a letter
// somewhere; "." means no search domain.
func checkDomain(v string) (string, error) {
	v = strings.Trim(v, " ")
	if v == "." {
		return v, nil
	}
	bad := fmt.Errorf("%s is not a valid domain", v)
	name := strings.TrimSuffix(strings.TrimRight(v, " \t\r\n"), ".")
	letter := false
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return "", bad
		}
		for _, r := range label {
			isLetter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
			if !isLetter && r != '-' && (r < '0' || r > '9') {
				return "", bad
			}
			letter = letter || isLetter
		}
	}
	if !letter || len(name) >= 255 {
		return "", bad
	}
	return name, nil
}

func checkLabel(v string) (string, error) {
	key, _, _ := strings.Cut(v, "=")
	key = strings.TrimLeft(key, " \t")
	if key == "" {
		return "", fmt.Errorf("invalid label '%s': empty name", v)
	}
	if strings.ContainsAny(key, " \t") {
		return "", fmt.Errorf("label '%s' contains whitespaces", key)
	}
	return v, nil
}

func checkLink(v string) (string, error) {
	if v == "" {
		return "", errors.New("empty string specified for links")
	}
	if strings.Count(v, ":") > 1 {
		return "", errors.New("bad format for links: " + v)
	}
	return v, nil
}

// sysctls are those that belong to a namespace of the container; their
// prefixes end in a dot.
var sysctls = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
	"kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced", "net.", "fs.mqueue.",
}

func checkSysctl(v string) (string, error) {
	k, _, ok := strings.Cut(v, "=")
	if ok && k != "" {
		for _, s := range sysctls {
			if k == s || s[len(s)-1] == '.' && strings.HasPrefix(k, s) {
				return v, nil
			}
		}
	}
	return "", fmt.Errorf("sysctl '%s' is not allowed", v)
}

// checkDeviceRule wants "type major:minor mode", for example "c 13:* rwm".
func checkDeviceRule(v string) (string, error) {
	bad := fmt.Errorf("invalid device cgroup format '%s'", v)
	f := strings.Split(v, " ")
	if len(f) != 3 || len(f[0]) != 1 || !strings.Contains("acb", f[0]) {
		return "", bad
	}
	major, minor, ok := strings.Cut(f[1], ":")
	if !ok || !numberOrStar(major) || !numberOrStar(minor) {
		return "", bad
	}
	if len(f[2]) == 0 || len(f[2]) > 3 || strings.Trim(f[2], "rwm") != "" {
		return "", bad
	}
	return v, nil
}

func numberOrStar(s string) bool {
	return s == "*" || s != "" && strings.Trim(s, "0123456789") == ""
}

// ToMap splits key=value pairs; a pair without = has an empty value.
func ToMap(kv []string) map[string]string {
	m := make(map[string]string, len(kv))
	for _, s := range kv {
		k, v, _ := strings.Cut(s, "=")
		m[k] = v
	}
	return m
}
