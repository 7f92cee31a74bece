package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/registryauth"
	"github.com/caisson-engine/caisson/engine/client"
)

// maxPassword bounds what is read as a password.
const maxPassword = 64 << 10

var loginCommand = command{
	name:  "login",
	args:  "[OPTIONS] [SERVER]",
	short: "Authenticate to a registry",
	long:  "Without a server it is Docker Hub. The credentials are kept where Docker keeps them.",
	examples: []string{
		"login registry.example.com # Ask for name and password",
		"login -u ci --password-stdin registry.example.com < token # For scripts",
	},
	max: 1,
	setup: func(a *app, f *pflag.FlagSet) action {
		l := &login{app: a}
		f.StringVarP(&l.user, "username", "u", "", "Username")
		f.StringVarP(&l.password, "password", "p", "", "Password or Personal Access Token (PAT)")
		f.BoolVar(&l.stdin, "password-stdin", false, "Take the Password or Personal Access Token (PAT) from stdin")
		return l.run
	},
}

// login is the login verb.
type login struct {
	app            *app
	user, password string
	stdin          bool
}

func (l *login) run(ctx context.Context, args []string) error {
	a := l.app
	server := ""
	if len(args) > 0 {
		server = args[0]
	}
	key := registryauth.Key(server)
	switch {
	case l.password != "" && l.stdin:
		return errors.New("--password and --password-stdin are mutually exclusive")
	case l.stdin && l.user == "":
		return errors.New("must provide --username with --password-stdin")
	case l.password != "":
		fmt.Fprintln(a.err, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	case l.stdin:
		b, err := io.ReadAll(io.LimitReader(a.in, maxPassword))
		if err != nil {
			return err
		}
		l.password = strings.TrimRight(string(b), "\r\n")
	}
	auth := client.AuthConfig{Username: l.user, Password: l.password, ServerAddress: key}
	if l.user == "" && l.password == "" {
		if stored, err := a.credentials().Get(key); err == nil && stored != nil {
			stored.ServerAddress = key
			fmt.Fprintln(a.out, "Authenticating with existing credentials...")
			if err := l.check(ctx, *stored); err == nil {
				return nil
			}
			fmt.Fprintln(a.err, "Login did not succeed with the stored credentials")
			auth.Username = stored.Username
		}
	}
	if err := l.ask(&auth); err != nil {
		return err
	}
	return l.check(ctx, auth)
}

// check has the engine try the credentials, and keeps them if they are right.
func (l *login) check(ctx context.Context, auth client.AuthConfig) error {
	api, err := l.app.client()
	if err != nil {
		return err
	}
	resp, err := api.Login(ctx, auth)
	if err != nil {
		return err
	}
	if resp.IdentityToken != "" {
		auth.Password, auth.IdentityToken = "", resp.IdentityToken
	}
	helper, err := l.app.credentials().Store(auth)
	if err != nil {
		return fmt.Errorf("error saving credentials: %w", err)
	}
	if helper == "" {
		fmt.Fprintf(l.app.err, "WARNING! Your credentials are stored unencrypted in '%s'.\nConfigure a credential helper to remove this warning.\n\n", l.app.credentials().Path())
	}
	status := resp.Status
	if status == "" {
		status = "Login Succeeded"
	}
	fmt.Fprintln(l.app.out, status)
	return nil
}

// ask completes credentials at the terminal.
func (l *login) ask(auth *client.AuthConfig) error {
	a := l.app
	if auth.Username != "" && auth.Password != "" {
		return nil
	}
	if !a.inTTY.Is() {
		return errors.New("cannot perform an interactive login from a non-TTY device; use --username with --password-stdin")
	}
	in := bufio.NewReader(a.in)
	if auth.Username == "" || l.user == "" {
		prompt := "Username: "
		if auth.Username != "" {
			prompt = fmt.Sprintf("Username (%s): ", auth.Username)
		}
		fmt.Fprint(a.out, prompt)
		user, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		if user = strings.TrimSpace(user); user != "" {
			auth.Username = user
		}
		if auth.Username == "" {
			return errors.New("username is required")
		}
	}
	if auth.Password == "" || l.password == "" {
		restore, err := a.inTTY.NoEcho()
		if err != nil {
			return err
		}
		defer restore()
		fmt.Fprint(a.out, "Password: ")
		pass, err := in.ReadString('\n')
		fmt.Fprintln(a.out)
		if err != nil {
			return err
		}
		auth.Password = strings.TrimRight(pass, "\r\n")
		if auth.Password == "" {
			return errors.New("password is required")
		}
	}
	return nil
}
