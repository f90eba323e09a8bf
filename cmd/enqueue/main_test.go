package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"statusq/internal/queue"
	"statusq/internal/queue/embedded"
)

// place is a queue on this machine, as a worker would have made it, and a directory for files.
type place struct {
	dir    string
	q      *queue.Queue
	ledger map[int64]*queue.Ledger
}

func newPlace(t *testing.T, layout queue.Layout) *place {
	t.Helper()
	p := emptyPlace(t)
	if err := p.q.Setup(t.Context(), layout); err != nil {
		t.Fatalf("set up the queue: %v", err)
	}
	return p
}

// emptyPlace has a server and no streams.
func emptyPlace(t *testing.T) *place {
	t.Helper()
	dir := t.TempDir()
	s, err := embedded.Start(embedded.Config{Dir: dir, Listen: "127.0.0.1:0", Sync: embedded.SyncNever})
	if err != nil {
		t.Fatalf("start a server: %v", err)
	}
	t.Cleanup(s.Close)
	q, err := queue.Connect(t.Context(), s.Config())
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(q.Close)
	for _, name := range []string{"STATUSQ_NATS_URL", "STATUSQ_NATS_CREDS", "STATUSQ_SITE", "STATUSQ_PREFIX"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	t.Setenv("STATUSQ_STORE_DIR", dir)
	t.Setenv("LC_ALL", "C")
	return &place{dir: dir, q: q, ledger: make(map[int64]*queue.Ledger)}
}

// file writes a file and returns its path.
func (p *place) file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// settle writes what a worker would have written.
func (p *place) settle(t *testing.T, app int64, set queue.Settlement) {
	t.Helper()
	l := p.ledger[app]
	if l == nil {
		var err error
		if l, _, err = p.q.OpenLedger(t.Context(), "main", app, 7, "w1"); err != nil {
			t.Fatalf("open ledger: %v", err)
		}
		p.ledger[app] = l
	}
	if err := l.Write(t.Context(), 0, queue.Slot{V: 1}, &set); err != nil {
		t.Fatalf("settle: %v", err)
	}
}

// die buries a job.
func (p *place) die(t *testing.T, job queue.Job, reason, code string) {
	t.Helper()
	outcome := queue.Dead
	if reason == "outcome_unknown" {
		outcome = queue.Unknown
	}
	job.Site, job.Revision = "main", -1
	died := time.Date(2026, 12, 1, 1, 2, 3, 0, time.UTC)
	d := queue.DeadLetter{V: 1, Job: job, Site: "main", App: job.App, Seq: 40 + uint64(job.Record), Outcome: outcome, Reason: reason, Code: code,
		Message: "kintone's own words", Died: died, Attempts: []queue.Attempt{{At: died.Add(-time.Minute), Request: "r1", Reason: reason, Code: code}}}
	if outcome == queue.Unknown {
		d.Evidence = &queue.Evidence{Request: "r1", Pin: 3, Revision: 7, Status: "承認済", Modifier: "sato", UnclearAt: died.Add(-time.Hour)}
	}
	p.settle(t, job.App, queue.Settlement{Dead: []*queue.DeadLetter{&d}, Results: []queue.Result{{Seq: d.Seq, Job: job.ID, Record: job.Record,
		Outcome: outcome, Reason: reason, Code: code, Campaign: job.Campaign, At: died}}})
}

type output struct {
	code     int
	out, err string
}

func enqueue(t *testing.T, args ...string) output {
	t.Helper()
	return enqueueWith(t, t.Context(), "", args...)
}

func enqueueWith(t *testing.T, ctx context.Context, stdin string, args ...string) output {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(ctx, args, strings.NewReader(stdin), &out, &errs)
	return output{code, out.String(), errs.String()}
}

// want checks the exit code and that the streams contain what they should. A part that begins with "!" must be absent.
func (o output) want(t *testing.T, code int, out, errs []string) {
	t.Helper()
	if o.code != code {
		t.Errorf("exit code %d, want %d", o.code, code)
	}
	check := func(stream, text string, parts []string) {
		for _, part := range parts {
			absent, not := strings.CutPrefix(part, "!")
			if strings.Contains(text, cmp.Or(absent, part)) == not {
				t.Errorf("%s: want %q", stream, part)
			}
		}
	}
	check("stdout", o.out, out)
	check("stderr", o.err, errs)
	if t.Failed() {
		t.Logf("stdout:\n%s\nstderr:\n%s", o.out, o.err)
	}
}

// lines decodes JSON lines.
func (o output) lines(t *testing.T) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for line := range strings.Lines(o.out) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("not JSON: %q: %v", line, err)
		}
		if v["type"] == "" || v["v"] != 1.0 {
			t.Errorf("line without type and v: %s", line)
		}
		lines = append(lines, v)
	}
	return lines
}

func (p *place) backlog(t *testing.T, app int64) int {
	t.Helper()
	b, err := p.q.Backlog(t.Context(), "main")
	if err != nil {
		t.Fatalf("backlog: %v", err)
	}
	return int(b[app])
}

func TestUsageErrorsExitWith2AndSendNothing(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	one := []string{"send", "--app", "5", "--record", "1001", "--action", "承認"}
	byKey := []string{"send", "--app", "5", "--action", "承認"}
	csv := p.file(t, "a.csv", "app,record,action\n5,1,承認\n")
	for _, c := range []struct {
		args []string
		say  string
	}{
		{nil, "expected one of"},
		{[]string{"sned"}, "sned"},
		{[]string{"send", "--nope"}, "--nope"},
		{[]string{"send"}, "--app, --record (or --key-field and --key) and --action"},
		{[]string{"send", "--app", "x"}, "--app"},
		{[]string{"send", "--app", "5", "--record", "1"}, "--action"},
		{append(one, "--lang", "fr"), "--lang"},
		{append(one, "--timeout", "1s"), "--timeout goes with --wait"},
		{[]string{"send", "--file", csv, "--timeout", "1s"}, "--timeout goes with --wait"},
		{append(one, "--wait", "--timeout=-1s"), "--timeout: must not be negative"},
		{[]string{"watch", "c", "--timeout=-1s"}, "--timeout: must not be negative"},
		{append(one, "--wait", "--dry-run"), "--dry-run"},
		{append(one, "--key-field", "code", "--key-value", "C-1"), "not both"},
		{append(one, "--match", "all"), "--match is for jobs with"},
		{append(one, "--match", "many"), "--match: must be one or all"},
		{append(one, "--max-dead", "0"), "--max-dead of one job needs --wait or --campaign"},
		{append(one, "--max-dead=-1", "--wait"), "--max-dead: must not be negative"},
		{append(byKey, "--key-field", "code"), "--key-field needs --key"},
		{append(byKey, "--key", "C-1"), "--key needs --key-field"},
		{append(byKey, "--key-field", "code", "--key", ""), "--key: must not be empty"},
		{append(byKey, "--key-field", "code", "--key", " \t"), "--key: must not be empty"},
		{append(byKey, "--key-field", "code", "--key", "C\n1"), "--key: must not contain control characters"},
		{append(byKey, "--key-field", strings.Repeat("x", 129), "--key", "C-1"), "--key-field: has 129"},
		{append(byKey, "--key-field", "code", "--key", "C-1", "--domain", "other.cybozu.com"), "no worker has told its domain yet"},
		{[]string{"send", "--file", csv, "--key", "C-1"}, "--key is for one job"},
		{[]string{"send", "--file", p.file(t, "keys.csv", "app,key_field,key_value,action\n5,code,C-1,承認\n5,code,,承認\n")}, "line 3, key_value: is empty"},
		{append(one, "--revision", "0"), "--revision: must be at least 1"},
		{append(one, "--job", " x"), "--job: must be printable"},
		{append(one, "--job", ""), "--job: an id that is given may not be empty"},
		{append(one, "--domain", ""), "--domain: a domain that is given may not be empty"},
		{[]string{"job", ""}, "an id that is given may not be empty"},
		{[]string{"watch", ""}, "an id that is given may not be empty"},
		{[]string{"results", ""}, "an id that is given may not be empty"},
		{[]string{"results", "c", "--outcome", "done"}, "--outcome: \"done\" is none of"},
		{[]string{"dead", "ls", "--job", ""}, "an id that is given may not be empty"},
		{[]string{"dead", "show", ""}, "an id that is given may not be empty"},
		{[]string{"dead", "retry", "", "--yes"}, "an id that is given may not be empty"},
		{[]string{"dead", "discard", "a", "", "--yes"}, "an id that is given may not be empty"},
		{[]string{"dead", "discard", "--app", "5", "--campaign", "", "--yes"}, "an id that is given may not be empty"},
		{append(one, "--job", "s12"), "--job: must not be s and a number"},
		{append(one, "--site", "Main Site"), "--site: must be"},
		{append(one, "--ref", strings.Repeat("x", 17<<10)), "--ref"},
		{append(one, "--action", strings.Repeat("x", 65)), "--action: has 65"},
		{append(one, "--not-before", "2026-12-02T00:00:00Z", "--expires", "2026-12-01T00:00:00Z"), "--expires: must be later"},
		{[]string{"send", "--file", csv, "--record", "1"}, "--record and --job"},
		{[]string{"send", "--file", filepath.Join(p.dir, "absent.csv")}, "no such file"},
		{[]string{"send", "--file", p.dir}, "is a directory"},
		{[]string{"send", "--file", p.file(t, "bad.csv", "app,record,action\n5,1,承認\n5,x,承認\n")}, "line 3, record"},
		{[]string{"send", "--file", p.file(t, "big.ndjson", `{"app":5,"record":1,"action":"a","ref":"`+strings.Repeat("x", 17<<10)+`"}`)}, "line 1"},
		{[]string{"--nats-url", "nats://u:geheim@[", "lanes"}, "--nats-url is not a URL"},
		{[]string{"dead", "retry"}, "--all"},
		{[]string{"dead", "retry", "--all", "a"}, "--all goes without"},
	} {
		o := enqueue(t, c.args...)
		o.want(t, exitUsage, nil, []string{c.say, "!geheim"})
		if t.Failed() {
			t.Fatalf("args %.200q", c.args)
		}
	}
	if n := p.backlog(t, 5); n != 0 {
		t.Errorf("%d jobs were published", n)
	}
}

func TestWithoutAQueueExitsWith6(t *testing.T) {
	one := []string{"send", "--app", "5", "--record", "1001", "--action", "承認"}
	p := emptyPlace(t)
	csv := p.file(t, "a.csv", "app,record,action\n5,1,承認\n")
	for _, args := range [][]string{one, {"send", "--file", csv}, {"watch", "c"}, {"results", "c"}, {"job", "a"}, {"dead", "ls"}, {"dead", "discard", "--all", "--yes"}, {"inflight"}} {
		enqueue(t, args...).want(t, exitNoQueue, nil, []string{"no queue here"})
	}
	enqueue(t, "lanes").want(t, exitNoQueue, nil, []string{"no worker answers"})

	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	enqueue(t, append(one, "--nats-url", "nats://u:geheim@"+closed.Addr().String())...).
		want(t, exitNoQueue, nil, []string{"cannot reach NATS", "!geheim"})
	client, err := queue.ReadClientFile(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	enqueue(t, append(one, "--nats-url", client.URL)...).want(t, exitNoQueue, nil, []string{"refused the credential"})
	enqueue(t, append(one, "--store-dir", t.TempDir())...).want(t, exitNoQueue, nil, []string{"start one, or give --nats-url or --store-dir"})
}

func TestHelpAndVersionExitWith0(t *testing.T) {
	enqueue(t, "--help").want(t, exitDone, []string{"Commands:", "dead retry"}, nil)
	enqueue(t, "send", "--help").want(t, exitDone, []string{"--file", "$STATUSQ_SITE", "--key-field", "--max-dead"}, nil)
	enqueue(t, "version").want(t, exitDone, []string{"enqueue ", "go1."}, nil)
	if v := enqueue(t, "version", "--json").lines(t); len(v) != 1 || v[0]["type"] != "version" {
		t.Errorf("version --json is %v", v)
	}
}

// The client of the queue must stay small and must not be able to start a server by mistake; kintone's secrets have no
// business in it.
func TestEnqueueDoesNotLinkTheServer(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	if !strings.Contains(string(out), "github.com/nats-io/nats.go\n") {
		t.Fatal("the list of dependencies lacks the client library: is it one?")
	}
	for dep := range strings.Lines(string(out)) {
		for _, bad := range []string{"nats-server", "internal/queue/embedded", "internal/dispatch", "internal/console"} {
			if strings.Contains(dep, bad) {
				t.Errorf("enqueue links %s", strings.TrimSpace(dep))
			}
		}
	}
}

func csvOf(rows int) string {
	var b strings.Builder
	b.WriteString("app,record,action\n")
	for i := range rows {
		fmt.Fprintf(&b, "%d,%d,承認\n", 5+i%2, 1001+i)
	}
	return b.String()
}
