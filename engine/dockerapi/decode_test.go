package dockerapi

import (
	"encoding/base64"
	"encoding/json"
	"reflect"

	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/images"
)

func TestParseAuth(t *testing.T) {
	url := base64.URLEncoding.EncodeToString
	full := `{"username":"u?>","password":"p","serveraddress":"r"}`
	want := &images.Auth{Username: "u?>", Password: "p", ServerAddress: "r"}
	for _, c := range []struct {
		in   string
		want *images.Auth
		bad  bool
	}{
		{"", nil, false},
		{url([]byte("{}")), nil, false},
		{url([]byte("null")), nil, false},
		{url([]byte(`{"serveraddress":"r"}`)), nil, false},
		{url([]byte(full)), want, false},
		{base64.RawURLEncoding.EncodeToString([]byte(full)), want, false},
		{base64.StdEncoding.EncodeToString([]byte(full)), want, false},
		{url([]byte(`{"auth":"dTpw"}`)), &images.Auth{Username: "u", Password: "p"}, false},
		{url([]byte(`{"identitytoken":"t"}`)), &images.Auth{IdentityToken: "t"}, false},
		{url([]byte(`{"auth":"%"}`)), nil, true},
		{url([]byte(`{`)), nil, true},
		{"%%%", nil, true},
		{strings.Repeat("A", 200<<10), nil, true},
	} {
		got, err := parseAuth(c.in)
		if (err != nil) != c.bad || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%.40q: got %v, %v", c.in, got, err)
		}
		if err != nil && (!errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "dTpw")) {
			t.Errorf("%.40q: error %v", c.in, err)
		}
	}
}

func FuzzParseAuth(f *testing.F) {
	f.Add("eyJ1c2VybmFtZSI6InUiLCJwYXNzd29yZCI6InAifQ==")
	f.Add("bnVsbA==")
	f.Fuzz(func(t *testing.T, in string) {
		if a, err := parseAuth(in); err != nil && a != nil {
			t.Errorf("both %v and %v", a, err)
		} else if err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("kind of %v", err)
		}
	})
}

func FuzzParseFilters(f *testing.F) {
	f.Add(`{"label":{"a=b":true,"c":false}}`)
	f.Add(`{"label":["a","b"]}`)
	f.Fuzz(func(t *testing.T, in string) {
		got, err := parseFilters(in)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("kind of %v", err)
			}
			return
		}
		// What was read must survive being written again.
		if got == nil {
			return
		}
		out, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseFilters(string(out))
		if err != nil || len(again) != len(got) {
			t.Errorf("%s reads as %v, %v", out, again, err)
		}
	})
}

func TestParseFilters(t *testing.T) {
	for in, want := range map[string]Filters{
		``:                                     nil,
		`{}`:                                   {},
		`{"a":{"y":true,"x":true,"no":false}}`: {"a": {"x", "y"}},
		`{"a":["y","x"]}`:                      {"a": {"y", "x"}},
	} {
		got, err := parseFilters(in)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, %v", in, got, err)
		}
	}
	for _, in := range []string{`[]`, `{"a":1}`, `{"a":"b"}`, `x`, `{"a":[` + strings.Repeat(`"x",`, 2000) + `"x"]}`} {
		if _, err := parseFilters(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.20s: %v", in, err)
		}
	}
}

func TestParseTime(t *testing.T) {
	for in, want := range map[string]time.Time{
		"":                          {},
		"0":                         time.Unix(0, 0),
		"1":                         time.Unix(1, 0),
		"1700000000.000000012":      time.Unix(1700000000, 12),
		"1700000000.5":              time.Unix(1700000000, 5e8),
		"2023-11-14T22:13:20.5Z":    time.Unix(1700000000, 5e8),
		"2023-11-14T23:13:20+01:00": time.Unix(1700000000, 0),
	} {
		got, err := parseTime("since", in)
		if err != nil || !got.Equal(want) {
			t.Errorf("%q: got %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"x", "1.x", "1.0000000001", "2023"[:0] + "-", "1.-1"} {
		if got, err := parseTime("since", in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %v, %v", in, got, err)
		}
	}
}
