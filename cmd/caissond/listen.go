package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
)

// Where tcp sockets listen if the address names no port, as dockerd has it.
const (
	plainPort = "2375"
	tlsPort   = "2376"
)

// endpoint is one -H, understood.
type endpoint struct {
	scheme  string // unix, tcp, fd, npipe
	address string // path, host:port, socket name or ""
}

func (e endpoint) String() string { return e.scheme + "://" + e.address }

// schemes tell how the address of each is read.
var schemes = map[string]func(addr string, c *config) (string, error){
	"unix":  unixAddress,
	"tcp":   tcpAddress,
	"fd":    func(addr string, _ *config) (string, error) { return addr, activatable() },
	"npipe": pipeAddress,
}

func parseHost(s string, c *config) (endpoint, error) {
	scheme, addr, ok := strings.Cut(s, "://")
	if !ok && strings.HasPrefix(s, "/") {
		scheme, addr = "unix", s
	}
	read, known := schemes[scheme]
	if !known {
		return endpoint{}, fmt.Errorf("host %q: want unix://path, tcp://address:port, fd:// or npipe:////./pipe/name", s)
	}
	addr, err := read(addr, c)
	if err != nil {
		return endpoint{}, fmt.Errorf("host %q: %w", s, err)
	}
	return endpoint{scheme, addr}, nil
}

// maxSocketPath is what the kernels take for a unix socket's path, in bytes.
const maxSocketPath = 103

func unixAddress(path string, _ *config) (string, error) {
	if !strings.HasPrefix(path, "/") {
		return "", errors.New("the path must be absolute")
	}
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("the path is longer than the %d bytes that a socket may have: choose a shorter --exec-root or another -H", maxSocketPath)
	}
	return path, nil
}

// tcpAddress refuses to give this host away: whoever reaches a socket that does
// not demand a certificate can do what root can.
func tcpAddress(addr string, c *config) (string, error) {
	port := plainPort
	if c.TLS {
		port = tlsPort
	}
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		host, p = strings.Trim(addr, "[]"), port
	}
	if p == "" {
		p = port
	}
	if host == "" {
		host = "127.0.0.1"
	}
	if !c.TLSVerify && !c.InsecureTCP && !isLoopback(host) {
		return "", errors.New("without --tlsverify anyone who can connect to this address could take over the host: " +
			"give --tlsverify with --tlscacert, --tlscert and --tlskey, listen on 127.0.0.1, or insist with --allow-insecure-tcp")
	}
	return net.JoinHostPort(host, p), nil
}

// isLoopback is about literal addresses only: what a name stands for may change.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// listener is a socket that accepts, and how to leave it behind.
type listener struct {
	net.Listener
	name    string
	release func() // removes what the socket left in the file system
}

// listen opens every endpoint, or none.
func listen(ctx context.Context, c *config) (_ []listener, err error) {
	var out []listener
	defer func() {
		if err != nil {
			for _, l := range out {
				_ = l.Close() // on the way out with a better error
				l.release()
			}
		}
	}()
	for _, h := range c.Hosts {
		e, err := parseHost(h, c)
		if err != nil {
			return nil, err
		}
		ls, err := openers[e.scheme](ctx, e.address, c)
		if err != nil {
			return nil, fmt.Errorf("listening on %s: %w", e, err)
		}
		out = append(out, ls...)
	}
	return out, nil
}

// openers make the sockets of each scheme.
var openers = map[string]func(context.Context, string, *config) ([]listener, error){
	"unix":  listenUnix,
	"tcp":   listenTCP,
	"fd":    listenActivated,
	"npipe": listenPipe,
}

func one(l net.Listener, name string, release func()) []listener {
	if release == nil {
		release = func() {}
	}
	return []listener{{l, name, release}}
}

func listenTCP(ctx context.Context, addr string, c *config) ([]listener, error) {
	t, err := tlsConfig(c)
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	name := "tcp://" + l.Addr().String()
	if t != nil {
		l = tls.NewListener(l, t)
	}
	return one(l, name, nil), nil
}

// tlsConfig is nil where tcp is not encrypted.
func tlsConfig(c *config) (*tls.Config, error) {
	if !c.TLS {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("this server's certificate (--tlscert, --tlskey): %w", err)
	}
	t := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if c.TLSVerify {
		pem, err := os.ReadFile(c.TLSCACert)
		if err != nil {
			return nil, fmt.Errorf("the CA of clients (--tlscacert): %w", err)
		}
		t.ClientCAs = x509.NewCertPool()
		if !t.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the CA of clients (--tlscacert): %s has no certificate in it", c.TLSCACert)
		}
		t.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return t, nil
}

// exposed tells whether l serves anyone who can reach it.
func (c *config) exposed(l listener) bool {
	return strings.HasPrefix(l.name, "tcp://") && !c.TLSVerify
}
