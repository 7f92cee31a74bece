package main

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/registryauth"
)

var logoutCommand = command{
	name:     "logout",
	args:     "[SERVER]",
	short:    "Log out from a registry",
	long:     "Without a server it is Docker Hub.",
	examples: []string{"logout registry.example.com # Forget its credentials"},
	max:      1,
	setup: func(a *app, _ *pflag.FlagSet) action {
		return func(_ context.Context, args []string) error {
			server := registryauth.HubKey
			if len(args) > 0 {
				server = args[0]
			}
			had, err := a.credentials().Erase(server)
			if err != nil {
				return err
			}
			if !had {
				fmt.Fprintf(a.out, "Not logged in to %s\n", registryauth.Key(server))
				return nil
			}
			fmt.Fprintf(a.out, "Removing login credentials for %s\n", registryauth.Key(server))
			return nil
		}
	},
}
