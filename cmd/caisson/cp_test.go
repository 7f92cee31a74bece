package main

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"testing"
)

// files is a container's filesystem: directories end in a slash, links are
// "->target".
type files map[string]string

func (fsys files) stat(p string) (mode fs.FileMode, target string, ok bool) {
	p = path.Clean(p)
	if text, ok := fsys[p]; ok {
		if t, ok := strings.CutPrefix(text, "->"); ok {
			return fs.ModeSymlink | 0o777, t, true
		}
		return 0o644, "", true
	}
	if _, ok := fsys[p+"/"]; ok || p == "/" {
		return fs.ModeDir | 0o755, "", true
	}
	return 0, "", false
}

// archive answers the three archive requests.
func (fsys files) archive(w http.ResponseWriter, r *http.Request) {
	p := r.URL.Query().Get("path")
	mode, target, ok := fsys.stat(p)
	if !ok {
		sends(http.StatusNotFound, map[string]string{"message": "Could not find the file " + p + " in container c"})(w, r)
		return
	}
	st, _ := json.Marshal(object{"name": path.Base(p), "mode": uint32(mode), "linkTarget": target})
	w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(st))
	if r.Method != http.MethodGet {
		return
	}
	base := path.Base(p)
	if strings.HasSuffix(p, "/.") || p == "/" {
		base = "."
	}
	tw := tar.NewWriter(w)
	names := make([]string, 0, len(fsys))
	for n := range fsys {
		names = append(names, n)
	}
	sort.Strings(names)
	clean := path.Clean(p)
	for _, n := range names {
		rel, ok := strings.CutPrefix(strings.TrimSuffix(n, "/"), strings.TrimSuffix(clean, "/"))
		if !ok || rel != "" && rel[0] != '/' {
			continue
		}
		h := &tar.Header{Name: base + rel, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(fsys[n]))}
		if strings.HasSuffix(n, "/") {
			h.Name, h.Mode, h.Typeflag, h.Size = h.Name+"/", 0o755, tar.TypeDir, 0
		} else if t, ok := strings.CutPrefix(fsys[n], "->"); ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, t, 0
		}
		tw.WriteHeader(h)
		if h.Typeflag == tar.TypeReg {
			io.WriteString(tw, fsys[n])
		}
	}
	tw.Close()
}

var container = files{
	"/etc/": "", "/etc/conf": "text", "/etc/sub/": "", "/etc/sub/deep": "d", "/link": "->/etc", "/rel": "->etc/conf", "/loop": "->/loop",
}

// list is what a directory holds, as "a=text b/ b/c=text l->t".
func list(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, _ error) error {
		rel, _ := filepath.Rel(dir, p)
		switch {
		case rel == ".":
		case d.IsDir():
			out = append(out, rel+"/")
		case d.Type()&fs.ModeSymlink != 0:
			l, _ := os.Readlink(p)
			out = append(out, rel+"->"+l)
		default:
			b, _ := os.ReadFile(p)
			out = append(out, rel+"="+string(b))
		}
		return nil
	})
	return strings.Join(out, " ")
}

func TestCopyFromContainer(t *testing.T) {
	m := newMock(t, map[string]answer{"GET /containers/c/archive": container.archive, "HEAD /containers/c/archive": container.archive})
	for _, x := range []struct{ args, want, err string }{
		{"c:/etc/conf D", "conf=text have/ have/old=1", ""},
		{"c:/etc/conf D/new", "have/ have/old=1 new=text", ""},
		{"c:/etc/conf D/have/old", "have/ have/old=text", ""},
		{"c:etc/conf D/have/", "have/ have/conf=text have/old=1", ""},
		{"c:/etc D", "etc/ etc/conf=text etc/sub/ etc/sub/deep=d have/ have/old=1", ""},
		{"c:/etc/ D/new", "have/ have/old=1 new/ new/conf=text new/sub/ new/sub/deep=d", ""},
		{"c:/etc/. D/have", "have/ have/conf=text have/old=1 have/sub/ have/sub/deep=d", ""},
		{"c:/etc/. D/new", "have/ have/old=1 new/ new/conf=text new/sub/ new/sub/deep=d", ""},
		{"c:/link D", "have/ have/old=1 link->/etc", ""},
		{"-L c:/link D", "have/ have/old=1 link/ link/conf=text link/sub/ link/sub/deep=d", ""},
		{"-L c:/rel D", "have/ have/old=1 rel=text", ""},
		{"-L c:/loop D", "have/ have/old=1", "too many links at c:/loop"},
		{"c:/nosuch D", "have/ have/old=1", "Could not find the file /nosuch"},
		{"c:/etc D/have/old", "have/ have/old=1", "cannot copy a directory to the file"},
		{"c:/etc/conf D/no/such", "have/ have/old=1", "does not exist"},
		{"c:/etc/conf D/no/", "have/ have/old=1", "no such directory"},
		{"c:/a d:/b", "have/ have/old=1", "copying between containers is not supported"},
		{"D/a D/b", "have/ have/old=1", "must specify at least one container source"},
	} {
		dir := t.TempDir()
		os.Mkdir(filepath.Join(dir, "have"), 0o755)
		os.WriteFile(filepath.Join(dir, "have/old"), []byte("1"), 0o644)
		r := m.caisson(t, "", append([]string{"cp"}, strings.Fields(strings.ReplaceAll(x.args, "D", dir))...)...)
		if got := list(t, dir); got != x.want || (r.code != 0) != (x.err != "") || !strings.Contains(r.err, x.err) {
			t.Errorf("cp %s: %s, want %s; %+v", x.args, got, x.want, r)
		}
	}
}

func TestCopyFromContainerAsArchive(t *testing.T) {
	m := newMock(t, map[string]answer{"GET /containers/c/archive": container.archive})
	r := m.caisson(t, "", "cp", "c:/etc/conf", "-")
	h, err := tar.NewReader(strings.NewReader(r.out)).Next()
	if err != nil || h.Name != "conf" {
		t.Errorf("%+v %v", h, err)
	}
}

func TestCopyToContainer(t *testing.T) {
	routes := map[string]answer{"HEAD /containers/c/archive": container.archive, "PUT /containers/c/archive": nil}
	for _, x := range []struct{ args, path, names, err string }{
		{"D/f c:/etc", "/etc", "f", ""},
		{"D/f c:/etc/", "/etc/", "f", ""},
		{"D/f c:/etc/new", "/etc", "new", ""},
		{"D/f c:/etc/conf", "/etc", "conf", ""},
		{"D/f c:/link", "/etc", "f", ""},
		{"D/f c:/rel", "/etc", "conf", ""},
		{"D/d c:/etc", "/etc", "d/ d/x", ""},
		{"D/d/. c:/etc", "/etc", "./ x", ""},
		{"D/d c:/etc/new", "/etc", "new/ new/x", ""},
		{"D/d/. c:/etc/new", "/etc", "new/ new/x", ""},
		{"D/l c:/etc", "/etc", "l", ""},
		{"-L D/l c:/etc", "/etc", "l/ l/x", ""},
		{"- c:/etc", "/etc", "stdin", ""},
		{"- c:/etc/conf", "", "", `destination "c:/etc/conf" must be a directory`},
		{"D/d c:/etc/conf", "", "", "cannot copy a directory to the file"},
		{"D/f c:/nosuch/", "", "", "no such directory: c:/nosuch/"},
		{"D/f/ c:/etc", "", "", "not a directory"},
		{"D/nosuch c:/etc", "", "", "no such file or directory"},
	} {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "f"), []byte("1"), 0o644)
		os.Mkdir(filepath.Join(dir, "d"), 0o755)
		os.WriteFile(filepath.Join(dir, "d/x"), []byte("2"), 0o644)
		os.Symlink("d", filepath.Join(dir, "l"))
		m := newMock(t, routes)
		r := m.caisson(t, "not checked here", append([]string{"cp"}, strings.Fields(strings.ReplaceAll(x.args, "D", dir))...)...)
		puts := m.find(http.MethodPut, "/containers/c/archive")
		if x.err != "" {
			if r.code == 0 || !strings.Contains(r.err, x.err) || len(puts) > 0 {
				t.Errorf("cp %s: %+v, %d uploads, want %s", x.args, r, len(puts), x.err)
			}
			continue
		}
		if r.code != 0 || len(puts) != 1 {
			t.Errorf("cp %s: %+v, %d uploads", x.args, r, len(puts))
			continue
		}
		names := "stdin"
		if x.names != names {
			names = tarNames(puts[0].Body)
		}
		if q := "noOverwriteDirNonDir=true&path=" + strings.ReplaceAll(x.path, "/", "%2F"); puts[0].Query != q || names != x.names {
			t.Errorf("cp %s: uploaded %q to %s, want %q to %s", x.args, names, puts[0].Query, x.names, q)
		}
	}
}

func tarNames(b []byte) string {
	var out []string
	tr := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := tr.Next()
		if err != nil {
			return strings.Join(out, " ")
		}
		out = append(out, h.Name)
	}
}
