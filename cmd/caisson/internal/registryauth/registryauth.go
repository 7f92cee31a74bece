// Package registryauth reads and writes registries' credentials where Docker
// keeps them, ~/.docker/config.json and the credential helpers it names, so that
// one login serves both command lines. What else the file holds is kept.
package registryauth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/caisson-engine/caisson/engine/client"
)

// HubKey is the name under which Docker Hub's credentials are kept.
const HubKey = "https://index.docker.io/v1/"

// tokenUser is the name that helpers give to an identity token.
const tokenUser = "<token>"

// File is the configuration that credentials are in.
type File struct{ path string }

// Open returns the user's file, which need not exist: $DOCKER_CONFIG or
// ~/.docker.
func Open() *File {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, _ := os.UserHomeDir()
		dir = filepath.Join(home, ".docker")
	}
	return &File{filepath.Join(dir, "config.json")}
}

// Path is where the file is.
func (f *File) Path() string { return f.path }

// entry is one registry's credentials in the file.
type entry struct {
	Auth          string `json:"auth,omitempty"` // base64 of user:password
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

// config is what of the file matters here; rest holds all of it.
type config struct {
	auths       map[string]entry
	credsStore  string
	credHelpers map[string]string
	rest        map[string]json.RawMessage
}

func (f *File) read() (config, error) {
	c := config{auths: map[string]entry{}, rest: map[string]json.RawMessage{}}
	b, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil && len(bytes.TrimSpace(b)) > 0 {
		err = json.Unmarshal(b, &c.rest)
	}
	for key, dst := range map[string]any{"auths": &c.auths, "credsStore": &c.credsStore, "credHelpers": &c.credHelpers} {
		if raw, ok := c.rest[key]; ok && err == nil {
			err = json.Unmarshal(raw, dst)
		}
	}
	if err != nil {
		return c, fmt.Errorf("cannot read registry credentials from %s: %w", f.path, err)
	}
	if c.auths == nil {
		c.auths = map[string]entry{}
	}
	return c, nil
}

// Key is the name under which a registry's credentials are kept.
func Key(domain string) string {
	switch strings.TrimSuffix(strings.TrimPrefix(domain, "https://"), "/") {
	case "", "docker.io", "index.docker.io", "registry-1.docker.io", "index.docker.io/v1":
		return HubKey
	}
	return Host(domain)
}

// Host strips scheme and path, which older clients wrote.
func Host(s string) string {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://")
	s, _, _ = strings.Cut(s, "/")
	return s
}

// helper is the credential helper for key, "" for the file itself.
func (c config) helper(key string) string {
	if h := c.credHelpers[key]; h != "" {
		return h
	}
	if h := c.credHelpers[Host(key)]; h != "" {
		return h
	}
	return c.credsStore
}

// Get returns the credentials for a registry, nil if there are none.
func (f *File) Get(domain string) (*client.AuthConfig, error) {
	c, err := f.read()
	if err != nil {
		return nil, err
	}
	key := Key(domain)
	if h := c.helper(key); h != "" {
		return fromHelper(h, key)
	}
	e, ok := c.auths[key]
	if !ok {
		for k, v := range c.auths {
			if key != HubKey && Host(k) == Host(key) {
				e, ok = v, true
				break
			}
		}
	}
	if !ok {
		return nil, nil
	}
	return e.decode(key)
}

func (e entry) decode(key string) (*client.AuthConfig, error) {
	a := &client.AuthConfig{ServerAddress: key, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth == "" {
		if a.IdentityToken == "" && a.RegistryToken == "" {
			return nil, nil
		}
		return a, nil
	}
	b, err := base64.StdEncoding.DecodeString(e.Auth)
	user, pass, ok := strings.Cut(string(b), ":")
	if err != nil || !ok {
		return nil, fmt.Errorf("the stored credentials for %s are damaged; log in again with `caisson login %s`", key, Host(key))
	}
	a.Username, a.Password = user, strings.TrimRight(pass, "\x00")
	return a, nil
}

// Store keeps credentials; in says where.
func (f *File) Store(a client.AuthConfig) (in string, err error) {
	c, err := f.read()
	if err != nil {
		return "", err
	}
	key := Key(a.ServerAddress)
	e := entry{}
	if h := c.helper(key); h != "" {
		user, secret := a.Username, a.Password
		if a.IdentityToken != "" {
			user, secret = tokenUser, a.IdentityToken
		}
		in, _ := json.Marshal(helperCreds{ServerURL: key, Username: user, Secret: secret}) // strings always encode
		if _, err := runHelper(h, "store", in); err != nil {
			return "", err
		}
		// The entry without a secret says that there is one in the helper.
	} else {
		e.IdentityToken = a.IdentityToken
		secret := a.Password
		if a.IdentityToken != "" {
			secret = ""
		}
		e.Auth = base64.StdEncoding.EncodeToString([]byte(a.Username + ":" + secret))
	}
	c.auths[key] = e
	return c.helper(key), f.write(c)
}

// Erase forgets a registry's credentials; it says whether there were any.
func (f *File) Erase(domain string) (bool, error) {
	c, err := f.read()
	if err != nil {
		return false, err
	}
	key := Key(domain)
	_, had := c.auths[key]
	if h := c.helper(key); h != "" {
		if _, err := runHelper(h, "erase", []byte(key)); err != nil {
			return had, err
		}
	}
	if !had {
		return false, nil
	}
	delete(c.auths, key)
	return true, f.write(c)
}

// write replaces the file whole and keeps it private.
func (f *File) write(c config) error {
	raw, err := json.Marshal(c.auths)
	if err != nil {
		return err
	}
	c.rest["auths"] = raw
	b, err := json.MarshalIndent(c.rest, "", "\t")
	if err != nil {
		return err
	}
	// A link is followed: people keep the file elsewhere.
	path := f.path
	if p, err := filepath.EvalSymlinks(path); err == nil {
		path = p
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, "config.json.*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(b, '\n'))
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// helperCreds is what credential helpers speak.
type helperCreds struct {
	ServerURL string
	Username  string
	Secret    string
}

func fromHelper(name, key string) (*client.AuthConfig, error) {
	out, err := runHelper(name, "get", []byte(key))
	if err != nil {
		if strings.Contains(err.Error(), "credentials not found") {
			return nil, nil
		}
		return nil, err
	}
	var c helperCreds
	if err := json.Unmarshal(out, &c); err != nil {
		return nil, fmt.Errorf("credential helper docker-credential-%s gave an answer that is not JSON: %w", name, err)
	}
	a := &client.AuthConfig{ServerAddress: key, Username: c.Username, Password: c.Secret}
	if c.Username == tokenUser {
		a.Username, a.Password, a.IdentityToken = "", "", c.Secret
	}
	return a, nil
}

func runHelper(name, verb string, in []byte) ([]byte, error) {
	if strings.ContainsAny(name, `/\`) {
		return nil, fmt.Errorf("credential helper %q: its name must not be a path", name)
	}
	// It may ask a person something: it has all the time that that takes.
	cmd := exec.Command("docker-credential-"+name, verb) //nolint:noctx
	cmd.Stdin = bytes.NewReader(in)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		// Helpers report failures on standard output.
		msg := strings.TrimSpace(string(out) + errOut.String())
		return nil, fmt.Errorf("credential helper docker-credential-%s %s: %w: %s", name, verb, err, msg)
	}
	return out, nil
}
