package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/compose"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/contexts"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/registryauth"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/tty"
	"github.com/caisson-engine/caisson/engine/client"
)

// version is set when the binary is linked.
var version = "dev"

// app is one run of the command line: where it reads and writes, the global
// flags, and what verbs need, made when first asked for.
type app struct {
	in       io.Reader
	out, err io.Writer
	// The terminals behind in, out and err; a zero one is not a terminal.
	inTTY, outTTY, errTTY tty.Terminal

	global  globals
	compose compose.Files // of the compose group
	root    *command      // the whole tree
	api     *client.Client
}

// globals are the flags before the verb.
type globals struct {
	host, context, config        string
	debug                        bool
	tls, tlsVerify, tlsVerifySet bool
	caCert, cert, key, logLevel  string
	help, version                bool
}

func newApp() *app {
	return &app{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		inTTY: tty.Of(os.Stdin), outTTY: tty.Of(os.Stdout), errTTY: tty.Of(os.Stderr),
	}
}

func (a *app) close() {
	if a.api != nil {
		a.api.Close()
	}
}

// register adds the global flags to f.
func (g *globals) register(f *pflag.FlagSet) {
	f.StringVarP(&g.host, "host", "H", "", "Engine to connect to: unix:///path, npipe:////./pipe/name or tcp://host:port")
	f.StringVarP(&g.context, "context", "c", "", "Context to use (overrides CAISSON_HOST and the context in use)")
	f.StringVar(&g.config, "config", "", "Directory of the client's own files (default ~/.caisson)")
	f.BoolVarP(&g.debug, "debug", "D", false, "Accepted for Docker's sake; the client logs nothing")
	f.StringVarP(&g.logLevel, "log-level", "l", "info", "Accepted for Docker's sake; the client logs nothing")
	f.BoolVar(&g.tls, "tls", false, "Use TLS; implied by --tlsverify")
	f.StringVar(&g.caCert, "tlscacert", "", "Trust certs signed only by this CA (default ca.pem in the certificate directory)")
	f.StringVar(&g.cert, "tlscert", "", "Client certificate (default cert.pem in the certificate directory)")
	f.StringVar(&g.key, "tlskey", "", "Client key (default key.pem in the certificate directory)")
	f.BoolVar(&g.tlsVerify, "tlsverify", false, "Use TLS and verify the engine's certificate")
	f.BoolVarP(&g.version, "version", "v", false, "Print version information and quit")
	f.BoolVar(&g.help, "help", false, "Print usage")
	f.Lookup("log-level").Hidden = true
	f.Lookup("debug").Hidden = true
}

// configDir holds our own files: contexts and the choice among them.
func (a *app) configDir() string {
	for _, d := range []string{a.global.config, os.Getenv("CAISSON_CONFIG")} {
		if d != "" {
			return d
		}
	}
	home, _ := os.UserHomeDir()
	return filepath.Join(home, ".caisson")
}

func (a *app) contexts() *contexts.Store { return contexts.Open(a.configDir()) }

// credentials are Docker's own, so that one login serves both.
func (a *app) credentials() *registryauth.File { return registryauth.Open() }

// client is the connection to the engine that flags, environment and contexts
// choose. It connects with the first request.
func (a *app) client() (*client.Client, error) {
	if a.api != nil {
		return a.api, nil
	}
	ep, err := a.endpoint()
	if err != nil {
		return nil, err
	}
	cfg, err := ep.tls()
	if err != nil {
		return nil, err
	}
	a.api, err = client.New(client.Options{
		Host:       ep.host,
		TLS:        cfg,
		UserAgent:  "Caisson-Client/" + version + " (" + runtime.GOOS + ")",
		APIVersion: os.Getenv("CAISSON_API_VERSION"),
	})
	return a.api, err
}

// endpoint is an engine and how to authenticate to it.
type endpoint struct {
	name          string // of the context
	host          string
	useTLS        bool
	skipVerify    bool
	ca, cert, key string
}

// endpoint chooses: -H, then -c, CAISSON_HOST, CAISSON_CONTEXT, the context in
// use, the default.
func (a *app) endpoint() (endpoint, error) {
	g := &a.global
	if g.host != "" && g.context != "" {
		return endpoint{}, errors.New("conflicting options: cannot specify both --host and --context")
	}
	name, err := a.contextName()
	if err != nil {
		return endpoint{}, err
	}
	if name != contexts.Default {
		c, err := a.contexts().Get(name)
		if err != nil {
			return endpoint{}, err
		}
		return endpoint{name: name, host: c.Host, useTLS: c.TLS(), skipVerify: c.SkipTLSVerify, ca: c.CA, cert: c.Cert, key: c.Key}, nil
	}
	ep := endpoint{name: contexts.Default, host: client.DefaultHost}
	if h := os.Getenv("CAISSON_HOST"); h != "" {
		ep.host = h
	}
	if g.host != "" {
		ep.host = g.host
	}
	verify := g.tlsVerify || !g.tlsVerifySet && os.Getenv("CAISSON_TLS_VERIFY") != ""
	ep.useTLS = verify || g.tls || strings.HasPrefix(ep.host, "https://")
	ep.skipVerify = !verify && !strings.HasPrefix(ep.host, "https://")
	if !ep.useTLS {
		return ep, nil
	}
	dir := os.Getenv("CAISSON_CERT_PATH")
	if dir == "" {
		dir = a.configDir()
	}
	// A file that was not named need not exist.
	pick := func(flag, file string) string {
		if flag != "" {
			return flag
		}
		p := filepath.Join(dir, file)
		if _, err := os.Stat(p); err != nil {
			return ""
		}
		return p
	}
	ep.ca, ep.cert, ep.key = pick(g.caCert, "ca.pem"), pick(g.cert, "cert.pem"), pick(g.key, "key.pem")
	return ep, nil
}

// contextName is the context in force.
func (a *app) contextName() (string, error) {
	switch {
	case a.global.host != "":
		return contexts.Default, nil
	case a.global.context != "":
		return a.global.context, nil
	case os.Getenv("CAISSON_HOST") != "":
		return contexts.Default, nil
	case os.Getenv("CAISSON_CONTEXT") != "":
		return os.Getenv("CAISSON_CONTEXT"), nil
	}
	return a.contexts().Current()
}

func (e endpoint) tls() (*tls.Config, error) {
	if !e.useTLS {
		return nil, nil
	}
	cfg := &tls.Config{InsecureSkipVerify: e.skipVerify, MinVersion: tls.VersionTLS12}
	if e.ca != "" && !e.skipVerify {
		pem, err := os.ReadFile(e.ca)
		if err != nil {
			return nil, fmt.Errorf("could not read CA certificate %q: %w", e.ca, err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in %q", e.ca)
		}
	}
	if e.cert != "" || e.key != "" {
		pair, err := tls.LoadX509KeyPair(e.cert, e.key)
		if err != nil {
			return nil, fmt.Errorf("could not load the TLS client certificate (%s, %s): %w", e.cert, e.key, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
