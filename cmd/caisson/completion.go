package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/spf13/pflag"
)

// Each shell's script asks `caisson __complete WORD…` what to propose; all that
// the shells differ in is how they are told.
var (
	//go:embed scripts/bash
	bashScript string
	//go:embed scripts/zsh
	zshScript string
	//go:embed scripts/fish
	fishScript string
	//go:embed scripts/powershell
	powershellScript string
)

var completionScripts = map[string]*string{
	"bash": &bashScript, "zsh": &zshScript, "fish": &fishScript, "powershell": &powershellScript,
}

var completionCommand = command{
	name:  "completion",
	args:  "SHELL",
	short: "Print the script that completes caisson's command line in a shell",
	examples: []string{
		"completion bash > /etc/bash_completion.d/caisson # Bash, for everybody",
		"completion zsh > \"${fpath[1]}/_caisson\" # Zsh",
		"completion fish > ~/.config/fish/completions/caisson.fish # Fish",
		"completion powershell | Out-String | Invoke-Expression # PowerShell, this session",
	},
	min:      1,
	max:      1,
	complete: completeFirst(completeWords("bash", "zsh", "fish", "powershell")),
	setup: func(a *app, _ *pflag.FlagSet) action {
		return func(_ context.Context, args []string) error {
			s, ok := completionScripts[args[0]]
			if !ok {
				return fmt.Errorf("no completion for the shell %q; there is bash, zsh, fish and powershell: %w", args[0], errdefs.ErrInvalidArgument)
			}
			_, err := io.WriteString(a.out, *s)
			return err
		}
	},
}
