package queue

import (
	"regexp"
	"strings"
	"testing"
)

func TestSubjectsReadBack(t *testing.T) {
	const site, app = "osaka-2", int64(1e18 - 1)
	for _, text := range []string{"", "a", "A_b-9", "a.b", "*", ">", "=", "=YQ", "承認", "a b", strings.Repeat("x", 64), strings.Repeat("x", 65)} {
		if s, a, ok := parseJobsSubject("statusq", jobsSubject("statusq", site, app)); !ok || s != site || a != app {
			t.Errorf("jobs subject gave %s, %d, %t", s, a, ok)
		}
		if s, a, n, ok := parseSlotSubject("p", slotSubject("p", site, app, 15)); !ok || s != site || a != app || n != 15 {
			t.Errorf("slot subject gave %s, %d, %d, %t", s, a, n, ok)
		}
		if s, a, r, j, ok := parseParkedSubject("p", parkedSubject("p", site, app, 0, text)); !ok || s != site || a != app || r != 0 || j != text {
			t.Errorf("parked subject of %q gave %s, %d, %d, %q, %t", text, s, a, r, j, ok)
		}
		if s, a, c, j, ok := parseDeadSubject("p", deadSubject("p", site, app, text, "j")); !ok || s != site || a != app || c != text || j != "j" {
			t.Errorf("dead subject of campaign %q gave %s, %d, %q, %q, %t", text, s, a, c, j, ok)
		}
		if s, a, c, r, ok := parseResultsSubject("p", resultsSubject("p", site, app, "c", text)); !ok || s != site || a != app || c != "c" || r != text {
			t.Errorf("results subject of request %q gave %s, %d, %q, %q, %t", text, s, a, c, r, ok)
		}
		if s, a, w, ok := parseAuditSubject("p", auditSubject("p", site, app, text)); !ok || s != site || a != app || w != text {
			t.Errorf("audit subject of %q gave %s, %d, %q, %t", text, s, a, w, ok)
		}
	}
}

// What the builders never write is read by none, so that no two subjects mean the same.
func TestSubjectsOfStrangersAreNotRead(t *testing.T) {
	readers := map[string]func(string) bool{
		"jobs":    func(s string) bool { _, _, ok := parseJobsSubject("statusq", s); return ok },
		"slot":    func(s string) bool { _, _, _, ok := parseSlotSubject("statusq", s); return ok },
		"parked":  func(s string) bool { _, _, _, _, ok := parseParkedSubject("statusq", s); return ok },
		"dead":    func(s string) bool { _, _, _, _, ok := parseDeadSubject("statusq", s); return ok },
		"results": func(s string) bool { _, _, _, _, ok := parseResultsSubject("statusq", s); return ok },
		"audit":   func(s string) bool { _, _, _, ok := parseAuditSubject("statusq", s); return ok },
	}
	for _, subject := range []string{
		"",
		"statusq",
		"statusq.jobs",
		"statusq.jobs.main",
		"statusq.jobs.main.5.6",
		"statusq.jobs.main.05",
		"statusq.jobs.main.+5",
		"statusq.jobs.main.0",
		"statusq.jobs.main.-5",
		"statusq.jobs.main.1000000000000000000",
		"statusq.jobs.Main.5",
		"statusq.jobs..5",
		"statusq.jobs." + strings.Repeat("a", 33) + ".5",
		"statusq.jobsx.main.5",
		"statusqx.jobs.main.5",
		"x.statusq.jobs.main.5",
		"statusq.slot.main.5.01",
		"statusq.slot.main.5.-1",
		"statusq.slot.main.5.99999999999",
		"statusq.slot.main.5.x",
		"statusq.parked.main.5.1",
		"statusq.parked.main.5.x.a",
		"statusq.parked.main.5.1.",
		"statusq.parked.main.5.1.a.b",
		"statusq.dead.main.5.=.a+b",
		"statusq.dead.main.5.=YQ.a",
		"statusq.results.main.5.=.=4",
		"statusq.audit.main.5.",
	} {
		for kind, read := range readers {
			if read(subject) {
				t.Errorf("%q was read as a subject of %s", subject, kind)
			}
		}
	}
}

func TestTokens(t *testing.T) {
	for text, want := range map[string]string{
		"":                      "=",
		"inv-2026_1":            "inv-2026_1",
		"a.b":                   "=YS5i",
		"é":                     "=w6k",
		strings.Repeat("x", 64): strings.Repeat("x", 64),
	} {
		if got := token(text); got != want {
			t.Errorf("token(%q) is %q, want %q", text, got, want)
		}
	}
	for _, part := range []string{"", "a.b", "==", "=YQ", "=YS5i=", "=YS5j\n", "=w6l", "=\n", strings.Repeat("x", 65)} {
		if text, ok := untoken(part); ok {
			t.Errorf("untoken(%q) gave %q, want nothing: token never writes it", part, text)
		}
	}
}

var oneToken = regexp.MustCompile(`^[A-Za-z0-9_=-]+$`)

// Texts and tokens are a bijection: no two texts share a token, and what is read as a token is the one of its text.
func FuzzTokens(f *testing.F) {
	for _, seed := range []string{"", "a", "a.b", "=", "=YQ", "=YS5i", "承認", "\xff", "a\n", strings.Repeat("x", 65)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		part := token(text)
		if !oneToken.MatchString(part) {
			t.Fatalf("token(%q) is %q, which is no subject token", text, part)
		}
		if back, ok := untoken(part); !ok || back != text {
			t.Fatalf("token(%q) is %q, which reads back as %q, %t", text, part, back, ok)
		}
		if meaning, ok := untoken(text); ok && token(meaning) != text {
			t.Fatalf("untoken(%q) is %q, whose token is %q", text, meaning, token(meaning))
		}
	})
}
