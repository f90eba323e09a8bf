package dispatch

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A mutant is a rule broken on purpose: one place of the production code, changed.
type mutant struct {
	name, world, file, old, new string // world is the smallest that is known to show it
}

var mutants = []mutant{
	{"an unclear answer is taken for a refusal", "poison alone", "judge.go",
		"j.known = unclear\n\tdefault:", "j.known = refused\n\tdefault:"},
	{"after an unclear answer the jobs are planned afresh", "one record, one way", "course.go",
		"case j.known == notSent && p.sends == 0 && !p.cut && !f.inherited:", "case j.known == notSent || j.known == unclear:"},
	{"what never left in a part is taken for what never left at all", "two records, one hidden", "course.go",
		"p.sends == 0 && !p.cut && !f.inherited:", "p.sends == 0 && len(f.parts) == 1 && !f.inherited:"},
	{"nobody moved: not applied", "poison alone", "resolve.go",
		"return undecided, ruleNobodyMoved", "return notApplied, ruleNobodyMoved"},
	{"one moved, another not: decided by the first read", "parts of parts", "resolve.go",
		"case still > 0 && (ev.second == nil || !anyMoved(members, ev.first)):", "case still > 0 && false:"},
	{"all moved: applied, whoever did it", "our name is not left", "resolve.go",
		"if byUs(m, latest[i], ev) || byUs(m, ev.first[i], ev) {", "if latest[i].exists || byUs(m, ev.first[i], ev) {"},
	{"all moved: applied, also where others act under our name", "two records, shared", "resolve.go",
		"if !ev.dedicated {", "if false {"},
	{"all are gone: not applied, also after a lost answer", "one record, one way", "resolve.go",
		"case moved == 0 && ev.doubt:", "case false:"},
	{"a change of just our size leaves no room for ours", "one record, one way", "resolve.go",
		"case s.revision < m.Pin+step:", "case s.revision <= m.Pin+step:"},
	{"our size, and the name is not ours, although it is never left", "our name is not left", "resolve.go",
		"ev.mark == markOurs && s.modifier != ev.us", "s.modifier != ev.us"},
	{"statuses prove something although the settings changed", "an admin takes the way back away", "course.go",
		"if p.Revision == q.settings {", "if true {"},
	{"where everybody must act, an action counts two steps", "two records, everybody", "inspect.go",
		"step = 1 // it may not move the status, and then raise the revision by less", "step = 2"},
	{"a conflict is not taken for the answer to a repetition", "one record, one way", "course.go",
		"return !p.doubt.IsZero() || p.moved", "return !p.doubt.IsZero()"},
	{"given up while a copy may be about", "poison alone", "course.go",
		"settled: p.doubt.IsZero() || read.Sub(p.doubt) >= window,", "settled: true,"},
	{"halves without a culprit are given up together", "two records, one poisoned", "plan.go",
		"case r.size == 1 || r.suspects == r.size:", "case r.size == 1 || r.suspects == r.size || r.again:"},
	{"a part is given up for what the whole was refused for", "two records, one poisoned", "flight.go",
		"why: old.why, again: true", "why: old.why, last: old.last, again: true"},
	{"nothing is ever given up", "poison alone", "plan.go",
		"if r.settled {", "if false {"},
	{"given up by a read from before the end of the window", "poison alone", "course.go",
		"read.Sub(p.doubt) >= window,", "read.Sub(p.doubt) >= window-time.Minute,"},
	{"what another owner sent is not in doubt", "poison alone", "flight.go",
		"&part{members: p.Members, doubt: now}", "&part{members: p.Members}"},
	{"parts that another owner may have sent are released", "two records, shared", "course.go",
		"if f.inherited {\n\t\treturn ends // nobody knows what left\n\t}", ""},
	{"a part of a part that was sent counts as never sent", "parts of parts", "flight.go",
		"sends = old.sends // a copy of a part may outlive the whole", "sends = 0"},
	{"parts of a dead whole are released although they were sent", "two records, one poisoned", "course.go",
		"if q.sends > 0 {\n\t\t\trest = append(rest, q)\n\t\t} else {", "if false {\n\t\t\trest = append(rest, q)\n\t\t} else {"},
	{"a record that is gone kills the pins of the other parts", "two records, one hidden", "course.go",
		"f.parts, f.dead = f.parts[1:], f.dead || anyMoved(p.members, ev.first)", "f.parts, f.dead = f.parts[1:], true"},
	{"an applied part releases the others, although the whole may have done it", "three records in halves", "course.go",
		"f.parts, f.dead = f.parts[1:], true\n\t\treturn ends\n", "f.parts, f.dead = f.parts[1:], true\n\t\treturn f.releaseUnsent(ends)\n"},
	{"an applied job's part keeps the pin of its job: the next job takes it", "one record, self-loop", "inspect.go",
		"Revision: revision, Status: m.To, Modifier: us}", "Revision: m.Pin, Status: m.To, Modifier: us}"},
}

var brokenPromise = regexp.MustCompile(`job \d is (carried out|said)|a job never ends`)

// TestTheSearchFindsEveryBrokenRule breaks the rules one at a time and searches again. It builds the package once for each,
// which takes minutes, so it waits to be asked for with STATUSQ_MUTANTS=1.
func TestTheSearchFindsEveryBrokenRule(t *testing.T) {
	if os.Getenv("STATUSQ_MUTANTS") == "" {
		for _, m := range mutants {
			if m.changed(t) == "" {
				t.Errorf("%s: %s has no such place any more", m.name, m.file)
			}
		}
		return
	}
	// In a copy of the module, so that nobody meets a broken one.
	module := t.TempDir()
	for _, part := range []string{"go.mod", "go.sum", "schema", "internal"} {
		if out, err := exec.Command("cp", "-r", filepath.Join("../..", part), module).CombinedOutput(); err != nil {
			t.Fatalf("copy %s: %v\n%s", part, err, out)
		}
	}
	dir := filepath.Join(module, "internal", "dispatch")
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			sound, err := os.ReadFile(m.file)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, m.file)
			defer os.WriteFile(path, sound, 0o644)
			if err := os.WriteFile(path, []byte(m.changed(t)), 0o644); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-vet=off", "-ldflags=-s -w", "-run", "^TestEverythingThatCanHappen$/of/small:_"+strings.ReplaceAll(m.world, " ", "_")+"$", ".")
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "STATUSQ_MUTANTS=", "STATUSQ_STATES=100000000")
			out, err := cmd.CombinedOutput()
			found := brokenPromise.FindString(string(out))
			if err == nil || found == "" {
				t.Fatalf("not found: %v\n%.2000s", err, out)
			}
			t.Logf("found: %s", found)
		})
	}
}

// changed is the text of the mutant's file; "" if there is not exactly one such place.
func (m mutant) changed(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(m.file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), m.old) != 1 {
		return ""
	}
	return strings.Replace(string(text), m.old, m.new, 1)
}
