package logs

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
)

// Drivers that this package knows.
const (
	JSONFile = "json-file" // Docker's format, which other tools read
	Local    = "local"     // smaller and cheaper
	None     = "none"      // nothing is kept
)

// Bounds of a log whose options say nothing: 100 MB per container.
const (
	DefaultMaxSize = 20_000_000
	DefaultMaxFile = 5
)

// MaxLine is how many bytes of a line one record holds. A longer line becomes
// several records, of which only the last ends with a newline.
const MaxLine = 16 << 10

// Config names one log.
type Config struct {
	Driver  string            // "" is json-file
	Path    string            // of the file being written; rotated ones are Path.1, Path.2, … or Path.1.gz
	Options map[string]string // as in docker run --log-opt
	Attrs   map[string]string // added to each record
}

// driver describes what a driver accepts and how it writes.
type driver struct {
	options []string
	codec   codec
}

var drivers = map[string]driver{
	JSONFile: {[]string{"max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag"}, jsonCodec{}},
	Local:    {[]string{"max-size", "max-file", "compress"}, localCodec{}},
	None:     {},
}

// Drivers lists the names of all drivers, sorted.
func Drivers() []string { return slices.Sorted(maps.Keys(drivers)) }

// Validate checks a driver's name and options. Its errors are InvalidArgument
// and read like Docker's.
func Validate(driver string, options map[string]string) error {
	_, err := Config{Driver: driver, Options: options}.parse()
	return err
}

// layout is a checked Config.
type layout struct {
	path     string
	codec    codec // nil: nothing is kept
	maxSize  int64 // bytes, -1: no limit
	maxFile  int   // files, the current one included
	compress bool
}

func (c Config) parse() (layout, error) {
	name := c.Driver
	if name == "" {
		name = JSONFile
	}
	d, ok := drivers[name]
	if !ok {
		return layout{}, fmt.Errorf("logger: no log driver named '%s' is registered: %w", name, errdefs.ErrInvalidArgument)
	}
	l := layout{path: c.Path, codec: d.codec, maxSize: DefaultMaxSize, maxFile: DefaultMaxFile}
	if name == None {
		return l, nil
	}
	for _, k := range slices.Sorted(maps.Keys(c.Options)) {
		if !slices.Contains(d.options, k) {
			return layout{}, fmt.Errorf("unknown log opt '%s' for %s log driver: %w", k, name, errdefs.ErrInvalidArgument)
		}
		v := c.Options[k]
		switch k {
		case "max-size":
			if v == "-1" {
				l.maxSize = -1
				continue
			}
			n, err := units.FromHumanSize(v)
			if err != nil {
				return layout{}, fmt.Errorf("max-size: %w: %w", err, errdefs.ErrInvalidArgument)
			}
			if n <= 0 {
				return layout{}, fmt.Errorf("max-size must be a positive number: %w", errdefs.ErrInvalidArgument)
			}
			l.maxSize = n
		case "max-file":
			n, err := strconv.Atoi(v)
			if err != nil {
				return layout{}, fmt.Errorf("max-file: %w: %w", err, errdefs.ErrInvalidArgument)
			}
			if n < 1 {
				return layout{}, fmt.Errorf("max-file cannot be less than 1: %w", errdefs.ErrInvalidArgument)
			}
			l.maxFile = min(n, 10_000)
		case "compress":
			b, err := strconv.ParseBool(v)
			if err != nil {
				return layout{}, fmt.Errorf("compress: %w: %w", err, errdefs.ErrInvalidArgument)
			}
			l.compress = b
		}
	}
	if l.compress && (l.maxFile < 2 || l.maxSize < 0) {
		return layout{}, fmt.Errorf("compress cannot be true when max-file is less than 2 or max-size is not set: %w", errdefs.ErrInvalidArgument)
	}
	return l, nil
}

// rotated is the name of the n-th file back; 0 is the current one.
func (l layout) rotated(n int) string {
	if n == 0 {
		return l.path
	}
	return l.path + "." + strconv.Itoa(n)
}

// occupied tells whether there is an n-th file back.
func (l layout) occupied(n int) bool {
	for _, suffix := range []string{"", ".gz"} {
		if _, err := os.Lstat(l.rotated(n) + suffix); err == nil {
			return true
		}
	}
	return false
}
