package when

import (
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	t.Setenv("TZ", "UTC")
	old := time.Local
	time.Local = time.UTC
	defer func() { time.Local = old }()
	now := time.Unix(1_000_000, 500)
	for in, want := range map[string]string{
		"":                              "",
		"0":                             "0",
		"1136073600.000000001":          "1136073600.000000001",
		"-5":                            "-5",
		"0s":                            "1000000.000000500",
		"1h30m":                         "994600.000000500",
		"2013-01-02T13:23:37Z":          "1357133017.000000000",
		"2013-01-02T13:23:37.5+01:00":   "1357129417.500000000",
		"2013-01-02T13:23":              "1357132980.000000000",
		"2013-01-02":                    "1357084800.000000000",
		"2013-01-02T13:23:37.999999999": "1357133017.999999999",
		"yesterday":                     "error",
		"1.x":                           "error",
		"2013-13-01":                    "error",
	} {
		got, err := Parse(in, now)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
