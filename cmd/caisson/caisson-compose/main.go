// Command caisson-compose reads Compose files for `caisson compose`: it prints
// what they come to, in the engine's terms, as one JSON object.
//
// It is a program of its own because the library that knows the format costs
// more at start than all that the command line does otherwise. People do not
// call it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/compose"
)

func main() {
	// The loader's warnings are the reader's: without time and level names.
	logrus.SetFormatter(messages{})
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.Is(err, errNoFiles) {
			os.Exit(compose.ExitNoFiles)
		}
		os.Exit(1)
	}
}

// messages are written without anything around them.
type messages struct{}

func (messages) Format(e *logrus.Entry) ([]byte, error) {
	return []byte("WARNING: " + e.Message + "\n"), nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	f := pflag.NewFlagSet("caisson-compose", pflag.ContinueOnError)
	var o options
	o.Register(f)
	f.StringVar(&o.format, "config", "", "Print the resolved files as yaml or json instead")
	f.BoolVar(&o.whole, "whole", true, "Read the files of variables, too")
	f.BoolVar(&o.raw, "no-interpolate", false, "Leave variables as they are")
	if err := f.Parse(args); err != nil {
		return err
	}
	o.services = f.Args()
	p, err := load(ctx, o)
	if err != nil {
		return err
	}
	if o.format != "" {
		return printConfig(out, p, o.format)
	}
	plan, err := translate(p, o.EnvFiles)
	if err != nil {
		return err
	}
	return plan.Encode(out)
}
