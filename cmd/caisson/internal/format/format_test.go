package format

import (
	"bytes"
	"strings"
	"testing"
)

type row struct {
	ID, Name string
	Size     string
	hidden   int
}

func (r row) Label(name string) string { return "label-" + name }

var testList = List{
	Table: `{{.ID}}\t{{.Name}}`, Quiet: `{{.ID}}`, Raw: "id: {{.ID}}\n",
	Headers: Headers{"ID": "IDENTIFIER", "Name": "NAME", "Size": "SIZE"},
}

var testRows = []row{{"0123", "first", "1kB", 0}, {"4567", "the second", "", 0}}

func TestWrite(t *testing.T) {
	for _, x := range []struct {
		format string
		quiet  bool
		want   string
	}{
		{"", false, "IDENTIFIER   NAME\n0123         first\n4567         the second\n"},
		{"table", false, "IDENTIFIER   NAME\n0123         first\n4567         the second\n"},
		{"", true, "0123\n4567\n"},
		{"{{.Name}}", true, "first\nthe second\n"},
		{"json", false, `{"ID":"0123","Name":"first","Size":"1kB"}` + "\n" + `{"ID":"4567","Name":"the second","Size":""}` + "\n"},
		{"raw", false, "id: 0123\n\nid: 4567\n\n"},
		{`{{.ID}}\t{{.Name}}`, false, "0123\tfirst\n4567\tthe second\n"},
		{`table {{.Name}}\t{{.Size}}`, false, "NAME         SIZE\nfirst        1kB\nthe second   \n"},
		{"table {{upper .Name}}", false, "NAME\nFIRST\nTHE SECOND\n"},
		{"table {{.Label \"com.example\"}}", false, "com example\nlabel-com.example\nlabel-com.example\n"},
		{`{{join (split .Name " ") "-"}} {{lower .Name}} {{title .Name}} {{truncate .Name 3}}`, false, "first first First fir\nthe-second the second The Second the\n"},
		{"{{json .Name}}{{pad .Size 1 2}}|", false, "\"first\" 1kB  |\n\"the second\"|\n"},
		{"{{json .}}", false, `{"ID":"0123","Name":"first","Size":"1kB"}` + "\n" + `{"ID":"4567","Name":"the second","Size":""}` + "\n"},
	} {
		var b bytes.Buffer
		if err := Write(&b, testList, x.format, x.quiet, testRows); err != nil {
			t.Errorf("%s: %v", x.format, err)
		}
		if b.String() != x.want {
			t.Errorf("%s (quiet %v):\n%q, want\n%q", x.format, x.quiet, b.String(), x.want)
		}
	}
}

func TestBadTemplates(t *testing.T) {
	for _, f := range []string{"{{", "{{.Nosuch}}", "{{nosuch .ID}}", "table {{.hidden}}"} {
		err := Write(&bytes.Buffer{}, testList, f, false, testRows)
		if err == nil || !strings.HasPrefix(err.Error(), "template parsing error: ") {
			t.Errorf("%s: %v", f, err)
		}
	}
}

func TestObject(t *testing.T) {
	v := map[string]any{"A": []any{"x", 1}, "B": "<&>"}
	for f, want := range map[string]string{
		`{{join .A ","}}`: "x,1\n", "json": `{"A":["x",1],"B":"<&>"}` + "\n", "{{.A}}": "[x 1]\n", "{{.Nosuch}}": "<no value>\n",
	} {
		var b bytes.Buffer
		if err := Object(&b, f, v); err != nil || b.String() != want {
			t.Errorf("%s: %q %v, want %q", f, b.String(), err, want)
		}
	}
}

// A field that the engine left out has its zero value, one that the type does
// not know is what was sent, one that neither knows is a mistake.
func TestEither(t *testing.T) {
	typed := struct {
		Known []string
		Name  string
	}{Name: "n"}
	sent := map[string]any{"Name": "n", "Extra": "e"}
	for f, want := range map[string]string{
		"{{.Known}} {{.Name}}": "[] n\n", "{{.Extra}}": "e\n", "json": `{"Extra":"e","Name":"n"}` + "\n",
		"{{.Nosuch}}": "template parsing error: template: :1:2: executing \"\" at <.Nosuch>: can't evaluate field Nosuch in type struct { Known []string; Name string }",
	} {
		var b bytes.Buffer
		got := ""
		if err := Either(&b, f, typed, sent); err != nil {
			got = err.Error()
		}
		if got += b.String(); got != want {
			t.Errorf("%s: %q, want %q", f, got, want)
		}
	}
}

func TestEllipsisAndShortID(t *testing.T) {
	if Ellipsis("abcdef", 4) != "abc…" || Ellipsis("äöü", 3) != "äöü" {
		t.Error("ellipsis")
	}
	if ShortID("sha256:0123456789abcdef") != "0123456789ab" || ShortID("short") != "short" {
		t.Error("short id")
	}
}
