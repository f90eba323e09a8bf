package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
)

// ground is a test app (5) of a simulated kintone for a probe, with a neighbour (6) that nobody names.
type ground struct {
	sim   *simulator.Kintone
	front func(http.Handler) http.Handler // stands before the simulated kintone, nil for nothing

	mu    sync.Mutex // guards what follows
	seen  []simulator.Request
	fault func(simulator.Request) simulator.Fault
}

func newGround(cfg simulator.Config, process simulator.Process) *ground {
	g := &ground{sim: simulator.New(cfg)}
	g.sim.AddUser("sato", "pw")
	g.sim.AddUser("suzuki", "pw")
	amount := simulator.Field{Code: "amount", Type: "NUMBER", Default: func(record int64) string { return strconv.FormatInt(100*record, 10) }}
	for _, id := range []int64{5, 6} {
		g.sim.AddApp(simulator.App{ID: id, Records: 20, Process: process, Fields: []simulator.Field{amount},
			Tokens: []simulator.Token{simulator.FullToken(fmt.Sprintf("token%d", id))}})
	}
	g.sim.SetFault(func(r simulator.Request) simulator.Fault {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.seen = append(g.seen, r)
		if g.fault != nil {
			return g.fault(r)
		}
		return simulator.Fault{}
	})
	return g
}

// configure serves the ground and writes a configuration with a token for each of its apps.
func (g *ground) configure(t *testing.T) (conf string) {
	t.Helper()
	handler := http.Handler(g.sim)
	if g.front != nil {
		handler = g.front(handler)
	}
	s := httptest.NewServer(handler)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	environ(t)
	dir := t.TempDir()
	write(t, dir, "token5", "token5")
	write(t, dir, "token6", "token6")
	return write(t, dir, "statusq.yaml", fmt.Sprintf("sites: {main: {baseUrl: %q, apps: {5: {tokenFile: token5}, 6: {tokenFile: token6}}}}", s.URL))
}

// said is what a probe has said.
type said struct {
	code       int
	out, err   string
	transcript string
	findings   map[string]finding
}

// probe runs a probe of app 5 to its end.
func (g *ground) probe(t *testing.T, args ...string) said {
	t.Helper()
	conf, paper := g.configure(t), filepath.Join(t.TempDir(), "paper.md")
	args = append([]string{"probe", "--config", conf, "--app", "5", "--out", paper, "--json"}, args...)
	var out, errs bytes.Buffer
	s := said{code: run(t.Context(), args, &out, &errs), findings: make(map[string]finding)}
	s.out, s.err = out.String(), errs.String()
	raw, err := os.ReadFile(paper)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	s.transcript = string(raw)
	for line := range strings.Lines(s.out) {
		var f struct {
			Type, Question string
			finding
		}
		if err := json.Unmarshal([]byte(line), &f); err != nil || f.Type != "finding" {
			t.Fatalf("the probe prints %q", line)
		}
		s.findings[f.Question] = f.finding
	}
	return s
}

// requests are those that reached kintone, without its day counter's view of them.
func (g *ground) requests() []simulator.Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.seen)
}

// standing is how many records an app has.
func (g *ground) standing(t *testing.T, app int64) int {
	t.Helper()
	n := 0
	for id := range int64(500) {
		if _, ok := g.sim.Record(app, id+1); ok {
			n++
		}
	}
	return n
}

// before puts something in front of the simulated kintone that may answer instead of it.
func before(instead func(w http.ResponseWriter, r *http.Request, body string, next http.Handler) bool) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			if !instead(w, r, string(body), next) {
				next.ServeHTTP(w, r)
			}
		})
	}
}

// rewriting changes the bodies of some answers.
func rewriting(path, old, now string) func(http.Handler) http.Handler {
	return before(func(w http.ResponseWriter, r *http.Request, _ string, next http.Handler) bool {
		if !strings.HasSuffix(r.URL.Path, path) {
			return false
		}
		kept := httptest.NewRecorder()
		next.ServeHTTP(kept, r)
		maps.Copy(w.Header(), kept.Header())
		w.WriteHeader(kept.Code)
		io.WriteString(w, strings.ReplaceAll(kept.Body.String(), old, now))
		return true
	})
}

// asking answers a status call with an error of kintone's.
func refusing(method, path, code, more string) func(http.Handler) http.Handler {
	return before(func(w http.ResponseWriter, r *http.Request, _ string, _ http.Handler) bool {
		if r.Method != method || !strings.HasSuffix(r.URL.Path, path) {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"code":%q,"id":"x","message":"no"%s}`, code, more)
		return true
	})
}

var bulkMember = regexp.MustCompile(`\{[^{}]*"id":[^{}]*\}`)

// Each question gets each of the answers that kintone could give, and tells them apart.
func TestProbeTellsAnswersApart(t *testing.T) {
	firstPuts := func(n int, f simulator.Fault) func(simulator.Request) simulator.Fault {
		return func(r simulator.Request) simulator.Fault {
			if r.Method != http.MethodPut || n == 0 {
				return simulator.Fault{}
			}
			n--
			return f
		}
	}
	for name, c := range map[string]struct {
		ask     string
		cfg     simulator.Config
		process func(*simulator.Process)
		prepare func(*ground)
		args    []string
		verdict verdict
		saw     string
	}{
		"an action as documented": {ask: "step", verdict: asAssumed, saw: "rose by 2, 2, 2 (the first record alone, two in one call); the answer names records in the order of the request; the last change is in our name"},
		"another name": {ask: "step", verdict: differs, saw: `in the name of "robot", ours is "Administrator"`,
			prepare: func(g *ground) {
				g.front = rewriting("records.json", `"Updated_by":{"type":"MODIFIER","value":{"code":"Administrator"`, `"Updated_by":{"type":"MODIFIER","value":{"code":"robot"`)
			}},
		"another step": {ask: "step", verdict: differs, saw: "rose by 1, 1, 1",
			prepare: func(g *ground) { g.front = rewriting("records.json", `"value":"3"`, `"value":"2"`) }},

		"ALL adds one":     {ask: "all", verdict: asAssumed, saw: "the revision rose by 1, the status stayed, the assignees went from Administrator and sato to sato"},
		"ALL adds two":     {ask: "all", cfg: simulator.Config{PartialStep: 2}, verdict: asAssumed, saw: "rose by 2, the status stayed"},
		"ALL adds nothing": {ask: "all", cfg: simulator.Config{PartialStep: simulator.NoStep}, verdict: differs, saw: "rose by 0, the status stayed"},
		"ALL with us alone": {ask: "all", verdict: open, saw: "it takes a status of type ALL with Administrator and another user",
			process: func(p *simulator.Process) { p.States[2].Entities = p.States[2].Entities[:1] }},

		"one of two copies": {ask: "race", verdict: asAssumed, saw: "of 6 pairs, 6 had exactly one copy carried out, 0 both, 0 none; the losers were answered 409 GAIA_CO02 (6 times)"},
		"both copies": {ask: "race", verdict: differs, saw: "6 both", prepare: func(g *ground) {
			var mu sync.Mutex
			first := make(map[string][]byte)
			g.front = before(func(w http.ResponseWriter, r *http.Request, body string, next http.Handler) bool {
				if r.Method != http.MethodPut {
					return false
				}
				mu.Lock()
				defer mu.Unlock()
				if first[body] == nil {
					kept := httptest.NewRecorder()
					next.ServeHTTP(kept, r)
					first[body] = kept.Body.Bytes()
				}
				w.Write(first[body])
				return true
			})
		}},

		"all or nothing": {ask: "whole", verdict: asAssumed, saw: "was answered 409 GAIA_CO02 and changed 0 of them"},
		"some of them": {ask: "whole", verdict: differs, saw: "changed 2 of them", prepare: func(g *ground) {
			g.front = before(func(w http.ResponseWriter, r *http.Request, body string, next http.Handler) bool {
				if r.Method != http.MethodPut || !strings.HasSuffix(r.URL.Path, "records/status.json") {
					return false
				}
				var last *httptest.ResponseRecorder
				for _, m := range bulkMember.FindAllString(body, -1) {
					alone := r.Clone(r.Context())
					alone.URL.Path = "/k/v1/record/status.json"
					alone.RequestURI = alone.URL.Path
					alone.Body = io.NopCloser(strings.NewReader(`{"app":5,` + m[1:]))
					kept := httptest.NewRecorder()
					if next.ServeHTTP(kept, alone); last == nil || kept.Code != http.StatusOK {
						last = kept
					}
				}
				w.WriteHeader(last.Code)
				w.Write(last.Body.Bytes())
				return true
			})
		}},

		"reads that are current": {ask: "current", verdict: asAssumed, saw: "of 10 reads right after a change, 10 showed it and 0 showed what was before"},
		"reads that lag behind": {ask: "current", verdict: differs, saw: "0 showed it and 10 showed what was before",
			prepare: func(g *ground) { g.front = rewriting("records.json", `"value":"3"`, `"value":"1"`) }},

		"codes as recorded": {ask: "mismatch", verdict: asAssumed, saw: "a record that is assigned to somebody else: 403 GAIA_NT01"},
		"somebody else chosen": {ask: "mismatch", verdict: asAssumed, saw: "a record that is assigned to somebody else: 403 GAIA_NT01",
			process: func(p *simulator.Process) {
				p.States[3].Entities = append(p.States[3].Entities, simulator.User(simulator.Administrator))
			}},
		"another code": {ask: "mismatch", verdict: differs, saw: "a revision ahead of the record: 409 GAIA_UN03, where GAIA_CO02 was expected",
			prepare: func(g *ground) { g.front = rewriting("status.json", "GAIA_CO02", "GAIA_UN03") }},
		"no choice of assignee": {ask: "mismatch", verdict: asAssumed, saw: "not tried, for want of a status with an assignee to choose",
			process: func(p *simulator.Process) { p.States[1].Entities = nil }},

		"cut and carried out": {ask: "late", args: []string{"--watch", "400ms"}, verdict: asAssumed, saw: "8 records had changed"},
		"cut and carried out late": {ask: "late", args: []string{"--watch", "1500ms"}, verdict: asAssumed, saw: "8 records had changed, the last was seen after 7",
			prepare: func(g *ground) {
				g.fault = firstPuts(5, simulator.Fault{Kind: simulator.LateCommit, Delay: 600 * time.Millisecond})
			}},
		"cut and lost": {ask: "late", args: []string{"--watch", "100ms"}, verdict: asAssumed, saw: "none was carried out in the",
			prepare: func(g *ground) { g.fault = firstPuts(5, simulator.Fault{Kind: simulator.LostReply}) }},

		"twice, refused": {ask: "twice", verdict: learned, saw: "was answered 400 CB_VA01; the revision rose by 0"},
		"twice, another code": {ask: "twice", cfg: simulator.Config{NamedTwice: "GAIA_ZZ99"}, verdict: learned,
			saw: "was answered 400 GAIA_ZZ99"},
		"twice, one after the other": {ask: "twice", cfg: simulator.Config{NamedTwice: simulator.InTurn}, verdict: learned, saw: "was answered 409 GAIA_CO02"},

		"two of one name": {ask: "samename", verdict: asAssumed, saw: "was answered 400 GAIA_IL03"},
		"two of one name, another code": {ask: "samename", cfg: simulator.Config{TwoActions: "GAIA_ZZ98"}, verdict: asAssumed,
			saw: "GAIA_ZZ98"},
		"all names once": {ask: "samename", verdict: open, saw: "it takes two actions of one name",
			process: func(p *simulator.Process) {
				p.Actions = slices.DeleteFunc(p.Actions, func(a simulator.Action) bool { return a.Name == "Close" })
			}},

		"a condition that is not met": {ask: "condition", verdict: asAssumed, saw: "was answered 400 GAIA_IL03; the revision rose by 0"},
		"a condition that is met": {ask: "condition", verdict: open, saw: `our records meet the condition of "Wave through"`,
			process: func(p *simulator.Process) { p.Actions[4].FilterCond = `amount > "1"` }},

		"English without a language":  {ask: "language", cfg: simulator.Config{Language: "en"}, verdict: learned, saw: "the text of an error is as with en"},
		"Japanese without a language": {ask: "language", cfg: simulator.Config{Language: "ja"}, verdict: learned, saw: "the text of an error is as with ja"},

		"a limit on bodies": {ask: "limits", verdict: learned, saw: "a body of 10 MiB: 413 with a page that is not kintone's"},
		"a limit on lists": {ask: "limits", verdict: learned, saw: "1000 ids in a list: 200 in", prepare: func(g *ground) {
			g.front = before(func(w http.ResponseWriter, _ *http.Request, body string, _ http.Handler) bool {
				if strings.Count(body, ",") > 20_000 {
					w.WriteHeader(http.StatusBadRequest)
					io.WriteString(w, `{"code":"GAIA_QU99","id":"x","message":"too many"}`)
					return true
				}
				return false
			})
		}},

		"another app's token": {ask: "token", verdict: asAssumed, saw: "was answered 400 GAIA_IA02"},
		"another app's token is taken": {ask: "token", verdict: differs, saw: "was answered 200", prepare: func(g *ground) {
			g.front = before(func(w http.ResponseWriter, r *http.Request, _ string, _ http.Handler) bool {
				if r.Header.Get("X-Cybozu-API-Token") == "token6" {
					io.WriteString(w, "{}")
					return true
				}
				return false
			})
		}},

		"the count": {ask: "count", verdict: open, saw: "a record that is not there were answered 404 GAIA_RE01 (11 times), and a bulkRequest of 5 calls 200; only the administration tells"},
		"a count without a bulkRequest": {ask: "count", verdict: open, saw: "and a bulkRequest of 5 calls 409 GAIA_CO02 for call 2; only the administration tells",
			prepare: func(g *ground) { g.fault = g.overtakingBulk }},
		"a count where nobody answers": {ask: "count", verdict: open, saw: "and a bulkRequest of 5 calls 502 with a page that is not kintone's; only",
			prepare: func(g *ground) {
				g.fault = func(r simulator.Request) simulator.Fault {
					if r.API == "bulkRequest.json" {
						return simulator.Fault{Kind: simulator.BadGateway}
					}
					return simulator.Fault{}
				}
			}},

		"a deploy":            {ask: "deploy", args: []string{"--deploy"}, verdict: learned, saw: "right after the deploy was accepted: an action 200, a read of the settings 400 GAIA_XX01"},
		"a deploy that fails": {ask: "deploy", args: []string{"--deploy"}, verdict: learned, saw: "FAIL after", prepare: func(g *ground) { g.sim.SetDeploy(0, simulator.Fail) }},
		"a deploy that is not asked for": {ask: "deploy", verdict: open, saw: "it takes --deploy",
			prepare: func(*ground) {}},
	} {
		t.Run(name, func(t *testing.T) {
			process := approvals()
			if c.process != nil {
				c.process(&process)
			}
			g := newGround(c.cfg, process)
			if c.prepare != nil {
				c.prepare(g)
			}
			// Asked alone, a question that cannot be asked leaves nothing to do; with another one it is told.
			args := append([]string{"--yes", "--only", c.ask + ",language"}, c.args...)
			s := g.probe(t, args...)
			f := s.findings[c.ask]
			if f.Verdict != c.verdict || !strings.Contains(f.Saw, c.saw) {
				t.Fatalf("found %q: %s\nwant %q: %s\n%s", f.Verdict, f.Saw, c.verdict, c.saw, s.err)
			}
			if want := either(c.verdict == differs, "1", "0"); strconv.Itoa(s.code) != want {
				t.Errorf("exit code %d, want %s: %s", s.code, want, s.err)
			}
			if !strings.Contains(s.transcript, string(f.Verdict)) || !strings.Contains(s.transcript, f.Saw) {
				t.Errorf("the transcript does not say what was found:\n%s", s.transcript)
			}
			if n := g.standing(t, 5); n != 20 {
				t.Errorf("there are %d records, 20 were there before", n)
			}
		})
	}
}

// overtakingBulk is somebody who writes to the second record of each bulkRequest before that is carried out.
func (g *ground) overtakingBulk(r simulator.Request) simulator.Fault {
	if r.API == "bulkRequest.json" {
		must(g.sim.Edit(r.App, r.Records[1], "sato"))
	}
	return simulator.Fault{}
}

var rises = regexp.MustCompile(`- (\d+) if refused requests (count|do not count) and the bulkRequest as (one|5)[,.]`)

// Whatever kintone counts, the one line of the bill that says so has the number that the administration shows then.
func TestProbeTellsHowFarTheCountHasRisen(t *testing.T) {
	for _, free := range []bool{false, true} {
		for count, as := range map[simulator.BulkCount]string{simulator.EachCall: "5", simulator.EachApp: "one", simulator.FirstCall: "one"} {
			g := newGround(simulator.Config{RefusedFree: free, BulkCount: count}, approvals())
			s := g.probe(t, "--yes", "--only", "count")
			output{s.code, s.out, oneLine(s.err)}.want(t, exitDone, "kintone refused 11 of them", "have risen, since before the probe, by")
			risen := strconv.Itoa(g.sim.Requests().Today[5])
			var right []string
			lines := rises.FindAllStringSubmatch(oneLine(s.err), -1)
			for _, line := range lines {
				if line[1] == risen {
					right = append(right, line[2]+", "+line[3])
				}
			}
			if want := either(free, "do not count", "count") + ", " + as; len(lines) != 4 || !slices.Equal(right, []string{want}) {
				t.Errorf("the count has risen by %s, and %q (want %q) of the bill says so:\n%s", risen, right, want, s.err)
			}
			if strings.Contains(s.err, "Or by up to") || strings.Count(oneLine(s.transcript), lines[0][0]) != 1 {
				t.Errorf("the bill is\n%s\nand in the transcript\n%s", s.err, s.transcript)
			}
		}
	}

	// One that was not carried out tells nothing of how it counts when it is.
	g := newGround(simulator.Config{}, approvals())
	g.fault = g.overtakingBulk
	s := g.probe(t, "--yes", "--only", "count")
	output{s.code, s.out, oneLine(s.err)}.want(t, exitDone, "kintone refused 12 of them. As the bulkRequest was not carried out", "ask once more, with --only count")
	if rises.MatchString(oneLine(s.err)) {
		t.Errorf("the bill is\n%s", s.err)
	}

	// Who notes the number when he is asked whether to go on has a part of the requests in it.
	g = newGround(simulator.Config{}, approvals())
	cmd := exec.Command(os.Args[0], "probe", "--config", g.configure(t), "--app", "5", "--only", "count")
	cmd.Dir = t.TempDir()
	cmd.Env = []string{asWorker + "=1", "HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	cmd.Stdin = strings.NewReader("y\n")
	raw, err := cmd.CombinedOutput()
	said := oneLine(string(raw))
	if err != nil || !strings.Contains(said, "note now how many requests of today") || !strings.Contains(said, "have risen, since the probe asked whether to go on, by") {
		t.Fatalf("the probe said, %v:\n%s", err, raw)
	}
	if lines := rises.FindAllStringSubmatch(said, -1); len(lines) != 4 || lines[1][1] != strconv.Itoa(g.sim.Requests().Today[5]-surveyRequests) {
		t.Errorf("the count has risen by %d, %d of them before; the bill is\n%s", g.sim.Requests().Today[5], surveyRequests, raw)
	}

	// Who does not answer may not have counted either.
	g = newGround(simulator.Config{}, approvals())
	g.fault = func(r simulator.Request) simulator.Fault {
		if r.API == "app/status.json" && r.N > surveyRequests {
			return simulator.Fault{Kind: simulator.BadGateway}
		}
		return simulator.Fault{}
	}
	s = g.probe(t, "--yes", "--only", "count,language")
	output{s.code, s.out, oneLine(s.err)}.want(t, exitDone, "Or by up to 4 less", "--only count")
}

// In a guest space, the calls in a bulkRequest have its path as well.
func TestProbeCountsInAGuestSpace(t *testing.T) {
	g := newGround(simulator.Config{}, approvals())
	g.sim.AddApp(simulator.App{ID: 7, GuestSpace: 3, Process: simulator.Workflow(), Tokens: []simulator.Token{simulator.FullToken("token7")}})
	conf := g.configure(t)
	raw, err := os.ReadFile(conf)
	must(err)
	dir := filepath.Dir(conf)
	write(t, dir, "token7", "token7")
	conf = write(t, dir, "statusq.yaml", strings.Replace(string(raw), "apps: {", "apps: {7: {tokenFile: token7, guestSpace: 3}, ", 1))
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"probe", "--config", conf, "--app", "7", "--only", "count", "--yes", "--out", filepath.Join(dir, "paper")}, &out, &errs)
	output{code, oneLine(out.String()), errs.String()}.want(t, exitDone, "a bulkRequest of 5 calls 200;")
	if n := g.sim.CommitCount(); n != 5 || g.sim.Requests().Today[5] != 0 {
		t.Errorf("%d actions happened, want 5", n)
	}
}

// What says nothing about a question is never taken for an answer that differs.
func TestProbeTakesNoMishapForAnAnswer(t *testing.T) {
	for name, f := range map[string]simulator.Fault{
		"no answer": {Kind: simulator.LostReply}, "a page": {Kind: simulator.BadGateway}, "an error of kintone's": {Kind: simulator.ServerError},
		"a lock": {Kind: simulator.Locked}, "too many requests": {Kind: simulator.TooManyRequests},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGround(simulator.Config{}, approvals())
			g.fault = func(r simulator.Request) simulator.Fault {
				if r.Method == http.MethodPut || r.API == "preview/app/status.json" {
					return f
				}
				return simulator.Fault{}
			}
			s := g.probe(t, "--yes", "--watch", "0s", "--deploy")
			if s.code != exitDone || len(s.findings) != len(questions) {
				t.Errorf("exit code %d, %d findings, want 0 and %d: %s", s.code, len(s.findings), len(questions), s.err)
			}
			for question, f := range s.findings {
				if f.Verdict == differs || f.Verdict == asAssumed && question != "token" && question != "late" {
					t.Errorf("%s: %s: %s", question, f.Verdict, f.Saw)
				}
			}
		})
	}
}

var (
	promised = regexp.MustCompile(`at most (\d+) more requests`)
	billed   = regexp.MustCompile(`(\d+) requests to look at the app, and then (\d+) of the at most (\d+) that were announced`)
)

// A whole probe asks everything, makes no more requests than it said, none for another app, and leaves nothing behind.
func TestProbeKeepsItsPromises(t *testing.T) {
	for name, watch := range map[string]string{"without watching": "0s", "watching": "1s"} {
		t.Run(name, func(t *testing.T) {
			g := newGround(simulator.Config{DeployTime: 100 * time.Millisecond}, approvals())
			var came atomic.Int64 // all of them: the simulated kintone counts none that it throws away unread
			g.front = func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					came.Add(1)
					next.ServeHTTP(w, r)
				})
			}
			s := g.probe(t, "--yes", "--deploy", "--watch", watch)
			if s.code != exitDone {
				t.Fatalf("exit code %d: %s", s.code, s.err)
			}
			for _, q := range questions {
				f, ok := s.findings[q.name]
				if !ok || (f.Verdict == open) != (q.name == "count") {
					t.Errorf("%s: %s: %s", q.name, f.Verdict, f.Saw)
				}
			}
			most := promised.FindStringSubmatch(s.err)
			if most == nil {
				t.Fatalf("it does not say how many requests it makes: %s", s.err)
			}
			n, _ := strconv.Atoi(most[1])
			made := int(came.Load())
			if made-surveyRequests > n {
				t.Errorf("it made %d requests beyond its survey, and had said %d at most", made-surveyRequests, n)
			}
			if want := []string{strconv.Itoa(surveyRequests), strconv.Itoa(made - surveyRequests), most[1]}; !slices.Equal(billed.FindStringSubmatch(oneLine(s.err))[1:], want) {
				t.Errorf("it made %d requests, and says in the end:\n%s\nwant %q", made, s.err, want)
			}
			if today := g.sim.Requests().Today[6]; today != 0 {
				t.Errorf("%d requests were for the app that nobody named", today)
			}
			for _, r := range g.requests() {
				if r.App != 5 && r.App != 0 {
					t.Errorf("a request was for app %d: %s %s", r.App, r.Method, r.API)
				}
			}
			if n := g.standing(t, 5); n != 20 {
				t.Errorf("there are %d records, 20 were there before", n)
			}
			for id := range int64(20) {
				if r, _ := g.sim.Record(5, id+1); r.Revision != 1 {
					t.Errorf("record %d, which was there before, was changed", id+1)
				}
			}
			for _, secret := range []string{"token5", "token6", "127.0.0.1"} {
				if strings.Contains(s.transcript, secret) {
					t.Errorf("the transcript holds %q", secret)
				}
			}
			if strings.Contains(s.out+s.err, "token5") || strings.Contains(s.out+s.err, "token6") {
				t.Error("the output holds a token")
			}
		})
	}
}

// oneLine undoes the wrapping of a text for people.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func TestProbeWritesNothingUnlessToldTo(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no app":                  {nil, exitUsage, "say with --app which test app"},
		"no answer is no":         {[]string{"--app", "5"}, exitError, "nothing was done"},
		"a question that is none": {[]string{"--app", "5", "--only", "steps", "-y"}, exitUsage, "--only steps: the questions are step, all, race"},
		"records of two apps":     {[]string{"--app", "5", "--app", "6", "--record", "1", "-y"}, exitUsage, "go with one --app"},
		"nothing to ask":          {[]string{"--app", "5", "--only", "deploy", "-y"}, exitError, "there is nothing that could be asked"},
		"a record that is not there": {[]string{"--app", "5", "--record", "1,2,999", "--only", "step", "-y"}, exitError,
			"there is no record 999"},
		"a record that has begun": {[]string{"--app", "5", "--record", "1,2,20", "--only", "step", "-y"}, exitError,
			`record 20 is in status "Done"`},
		"an app that is not there": {[]string{"--app", "99", "-y"}, exitError, "give the app a token"},
		"a site that is not there": {[]string{"--app", "5", "-y", "--site", "Other"}, exitUsage, "--site"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGround(simulator.Config{}, approvals())
			must(g.sim.Put(5, 20, func(r *simulator.RecordState) { r.Status = "Done" }))
			conf := g.configure(t)
			t.Chdir(t.TempDir())
			var out, errs bytes.Buffer
			code := run(t.Context(), append([]string{"probe", "--config", conf}, c.args...), &out, &errs)
			output{code, out.String(), errs.String()}.want(t, c.code, c.says)
			for _, r := range g.requests() {
				if r.Method != http.MethodGet {
					t.Errorf("it made a %s %s", r.Method, r.API)
				}
			}
		})
	}
}

func TestProbeSaysWhatKeepsItFromMakingRecords(t *testing.T) {
	for name, c := range map[string]struct {
		code, more, says string
	}{
		"a required field": {"CB_VA01", `,"errors":{"records[0].title.value":{"messages":["required"]}}`,
			"probably because fields are required or must be unique (records[0].title.value): use an app without such fields, or make 3 records by hand and name them with --record"},
		"no right": {"CB_NO02", "", "needs the rights to add and to delete records"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGround(simulator.Config{}, approvals())
			g.front = refusing(http.MethodPost, "/records.json", c.code, c.more)
			s := g.probe(t, "--yes", "--only", "step")
			output{s.code, s.out, s.err}.want(t, exitError, c.says)

			s = g.probe(t, "--yes", "--only", "step", "--record", "3,4,5")
			output{s.code, s.out, s.err}.want(t, exitDone, "does not bring them back")
			if f := s.findings["step"]; f.Verdict != asAssumed {
				t.Errorf("with records that were named: %s: %s", f.Verdict, f.Saw)
			}
			for id := range int64(20) {
				if r, ok := g.sim.Record(5, id+1); !ok || (r.Revision == 3) != (id+1 >= 3 && id+1 <= 5) {
					t.Errorf("record %d: there %v, revision %d", id+1, ok, r.Revision)
				}
			}
		})
	}
}

// What cannot be cleaned up is named, and an answer that is lost leaves no doubt unsaid.
func TestProbeNamesWhatItLeaves(t *testing.T) {
	g := newGround(simulator.Config{}, approvals())
	g.front = refusing(http.MethodDelete, "/records.json", "GAIA_NO01", "")
	s := g.probe(t, "--yes", "--only", "step")
	output{s.code, s.out, s.err}.want(t, exitError, "delete records 21 to 23 of app 5 by hand (3 records)")

	// A deletion that is not to be had at once is waited for, also when its answer is lost.
	for _, f := range []simulator.Fault{{Kind: simulator.Locked}, {Kind: simulator.LostReply, Applied: true}, {Kind: simulator.Unavailable}} {
		g = newGround(simulator.Config{}, approvals())
		deletions := 0
		g.fault = func(r simulator.Request) simulator.Fault {
			if r.Method != http.MethodDelete {
				return simulator.Fault{}
			}
			if deletions++; deletions > 1 {
				return simulator.Fault{}
			}
			return f
		}
		s = g.probe(t, "--yes", "--only", "step")
		output{s.code, s.out, oneLine(s.err)}.want(t, exitDone, "deleted the 3 records", "at most 6 more requests", "by the last of these requests, which is repeated, up to 5 times",
			"and then 6 of the at most 6 that were announced", "On top of those came 1, because the deletion had to be repeated")
		if n := g.standing(t, 5); n != 20 || deletions != 2 {
			t.Errorf("after %v and %d deletions there are %d records, 20 were there before", f.Kind, deletions, n)
		}
	}

	g = newGround(simulator.Config{}, approvals())
	g.fault = func(r simulator.Request) simulator.Fault {
		if r.Method == http.MethodPost {
			return simulator.Fault{Kind: simulator.LostReply, Applied: true}
		}
		return simulator.Fault{}
	}
	s = g.probe(t, "--yes", "--only", "step")
	output{s.code, s.out, s.err}.want(t, exitError, "it is not known whether 3 records with nothing in them were made")
}

// A probe that is interrupted deletes its records, as a process with a person before it.
func TestProbeCanBeInterrupted(t *testing.T) {
	g := newGround(simulator.Config{}, approvals())
	conf := g.configure(t)
	cmd := exec.Command(os.Args[0], "probe", "--config", conf, "--app", "5", "--only", "late", "--watch", "10m")
	cmd.Dir = t.TempDir()
	cmd.Env = []string{asWorker + "=1", "HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	cmd.Stdin = strings.NewReader("y\n")
	var out lines
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		if t.Failed() {
			t.Logf("the probe said:\n%s", out.String())
		}
	})
	eventually(t, 20*time.Second, "the probe has cut its requests and watches", func() bool { return g.sim.CommitCount() == 8 })
	if n := g.standing(t, 5); n != 28 {
		t.Errorf("there are %d records while it runs, want 20 and 8", n)
	}
	cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
	output{cmd.ProcessState.ExitCode(), out.String(), ""}.want(t, exitError, "Go on? [y/N]", "interrupted", "deleted the 8 records that it had made")
	if n := g.standing(t, 5); n != 20 {
		t.Errorf("there are %d records after it, 20 were there before", n)
	}
	papers, err := filepath.Glob(filepath.Join(cmd.Dir, "statusq-probe-main-5-*.md"))
	if err != nil || len(papers) != 1 {
		t.Fatalf("transcripts: %q, %v", papers, err)
	}
	raw, err := os.ReadFile(papers[0])
	if err != nil || !strings.Contains(string(raw), "DELETE /k/v1/records.json") {
		t.Errorf("the transcript does not hold the deletion: %v\n%s", err, raw)
	}
	if info, err := os.Stat(papers[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the transcript is readable for others: %v, %v", info.Mode(), err)
	}
}

// An answer that repeats the credentials reaches neither the paper nor the screen.
func TestProbeShowsNoSecret(t *testing.T) {
	secret := canaries["token"]
	g := newGround(simulator.Config{}, approvals())
	must(g.sim.SetTokens(5, simulator.FullToken(secret)))
	g.front = before(func(w http.ResponseWriter, r *http.Request, _ string, _ http.Handler) bool {
		if r.Method != http.MethodPut {
			return false
		}
		w.Header().Set("X-Cybozu-Error", r.Header.Get("X-Cybozu-API-Token"))
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"code":"GAIA_RE01","id":%q,"message":%[1]q}`, r.Header.Get("X-Cybozu-API-Token"))
		return true
	})
	conf := g.configure(t)
	write(t, filepath.Dir(conf), "token5", secret)
	t.Chdir(t.TempDir())
	for _, form := range []string{"--json=false", "--json"} {
		var out, errs bytes.Buffer
		paper := "paper" + form
		run(t.Context(), []string{"probe", "--config", conf, "--app", "5", "--yes", "--watch", "0s", "--out", paper, form}, &out, &errs)
		raw, err := os.ReadFile(paper)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(raw), "[redacted]") {
			t.Error("the transcript shows no place where the token was: the test does not bite")
		}
		for where, text := range map[string]string{"transcript": string(raw), "output": out.String(), "errors": errs.String()} {
			if found := leaks(text); len(found) > 0 {
				t.Errorf("%s: the %v can be read in the %s", form, found, where)
			}
		}
	}
}

// A probe that has no way to kintone says so and ends, and one that ends before it began has done nothing.
func TestProbeEndsWhenAsked(t *testing.T) {
	g := newGround(simulator.Config{}, approvals())
	conf := g.configure(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	if code := run(ctx, []string{"probe", "--config", conf, "--app", "5", "-y"}, &out, &errs); code != exitError {
		t.Errorf("exit code %d, want %d: %s", code, exitError, errs.String())
	}
	if n := len(g.requests()); n != 0 {
		t.Errorf("%d requests were made after the end", n)
	}
}
