package kintone

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSecretNeverPrints(t *testing.T) {
	const canary = "canary-0123456789"
	type holder struct {
		Token  Secret
		Tokens []Secret
		ByApp  map[string]Secret
	}
	s := Secret(canary)
	every := Credentials{
		Tokens: []Secret{s}, AppTokens: map[int64][]Secret{5: {s}}, Password: s, BasicPassword: s, Certificate: s, CertificatePassword: s,
	}
	values := map[string]any{
		"secret":      s,
		"pointer":     &s,
		"slice":       []Secret{s},
		"struct":      holder{s, []Secret{s}, map[string]Secret{"5": s}},
		"config":      Config{Credentials: every, Proxy: "http://proxy:" + s + "@gate.example.com:8080"},
		"credentials": every,
	}
	for name, v := range values {
		// %d and %t are wrong verbs for a string: fmt's complaint would quote it.
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t", "%10.3s"} {
			if got := fmt.Sprintf(verb, v); leaks(got, canary) {
				t.Errorf("%s of a %s shows the secret: %s", verb, name, got)
			}
		}
		b, err := json.Marshal(v)
		if err != nil || leaks(string(b), canary) {
			t.Errorf("JSON of a %s: %s, error %v; the secret must not be in it", name, b, err)
		}
		var out bytes.Buffer
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v, "s", s, slog.Group("g", "v", v))
		if leaks(out.String(), canary) {
			t.Errorf("slog of a %s shows the secret: %s", name, out.String())
		}
	}
}

func TestEmptySecretPrintsNothing(t *testing.T) {
	if got := fmt.Sprintf("<%v>", Secret("")); got != "<>" {
		t.Errorf("an empty secret prints as %q, want nothing, to be told from a hidden one", got)
	}
	if got := Secret("abc").String(); got != "[redacted]" {
		t.Errorf("a secret prints as %q, want [redacted]", got)
	}
	if got := Secret("abc").GoString(); got != "[redacted]" {
		t.Errorf("GoString gives %q, want [redacted]", got)
	}
	if got := Secret("abc").Reveal(); got != "abc" {
		t.Errorf("Reveal gives %q, want abc", got)
	}
}

// leaks reports whether s holds the secret, as it is or in hex.
func leaks(s, secret string) bool {
	return strings.Contains(s, secret) || strings.Contains(strings.ToLower(s), fmt.Sprintf("%x", secret))
}
