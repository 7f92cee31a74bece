package main

import (
	"fmt"
	"io"
	"strings"
)

const helpHead = `caissond runs containers for its clients: caisson, docker, anything that speaks
the Docker Engine API.

Usage:
  caissond [options]

Start one to try it, with everything below a directory of your own:
  caissond --data-root /tmp/c/data --exec-root /tmp/c/run
  caisson -H unix:///tmp/c/run/caisson.sock run --rm caisson/hello

Options may also stand in the config file, under their names there (in brackets
where they differ). What a flag says the file must not say again. SIGHUP makes a
running daemon read the file and the policy again; options marked * change at
once, the others with the next start. SIGTERM ends the daemon and leaves the
containers running; the next one finds them. SIGUSR1 writes what all goroutines
do to a file in exec-root.
`

// printHelp writes the help, made of the option table.
func printHelp(w io.Writer) {
	fmt.Fprint(w, helpHead)
	c := defaults()
	group := ""
	for _, o := range options {
		if o.group != group {
			group = o.group
			fmt.Fprintf(w, "\n%s:\n", group)
		}
		v := o.value(c)
		name := "      --" + o.flag
		if o.short != "" {
			name = "  -" + o.short + ", --" + o.flag
		}
		if t := v.Type(); t != "" {
			name += " " + t
		}
		if o.key != o.flag {
			name += " [" + o.key + "]"
		}
		if o.live {
			name += " *"
		}
		help := o.help
		if d := v.String(); d != "" && d != "false" && d != "0" && !strings.Contains(help, "(default") {
			help += " (default " + d + ")"
		}
		fmt.Fprintf(w, "%s\n%s\n", name, wrap(help, 10, 80))
	}
	fmt.Fprintf(w, `
The program itself:
      --config-file file
          JSON file with options (default %s, if it exists)
      --validate
          Check the configuration, say what is wrong with it, and end
  -v, --version
          Print the version and end
  -h, --help
          Print this and end
`, defaultConfigFile)
}

// wrap breaks text into lines of at most width columns, indented.
func wrap(text string, indent, width int) string {
	pad := strings.Repeat(" ", indent)
	var b strings.Builder
	line := pad
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > width && line != pad {
			b.WriteString(line + "\n")
			line = pad
		}
		if line != pad {
			line += " "
		}
		line += word
	}
	b.WriteString(line)
	return b.String()
}
