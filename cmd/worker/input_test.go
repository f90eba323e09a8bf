package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"statusq/internal/dispatch"
	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// one are the flags of a single job on record 1 of app 5.
func one(more ...string) []string {
	return append([]string{"send", "--app", "5", "--record", "1", "--action", "Start"}, more...)
}

func TestAJobForAnAppThatIsNotThereWaits(t *testing.T) {
	t.Parallel()
	p := newPlace(t, 10)
	w := p.start()
	lost := []string{"send", "--app", "999", "--record", "1", "--action", "Start", "--job", "lost"}
	p.enqueue(lost...).want(t, exitDone)
	p.awaitLane(999, "unserved", "app_not_found")
	p.enqueue(append(lost, "--wait", "--timeout", "1s")...).want(t, 4, "app 999", "the app does not exist", "check the app id")
	q := p.queue()
	if n := backlog(t, q, 999); n != 1 {
		t.Errorf("the log holds %d jobs for app 999, want the one that was sent", n)
	}
	if r := results(t, q, ""); len(r) != 0 {
		t.Errorf("the job has ended: %+v", r)
	}
	p.enqueue("job", "lost").want(t, exitDone, "lost")

	// Nobody else waits behind it.
	p.enqueue(one("--wait", "--timeout", "20s")...).want(t, exitDone)
	w.stop()

	// The app is made, and the job runs.
	p.sim.AddApp(simulator.App{
		ID: 999, Name: "Late", Records: 1, Tokens: []simulator.Token{simulator.ViewToken("another")}, Process: simulator.Workflow(),
	})
	p.env = append(p.env, "KINTONE_API_TOKEN="+testToken+",another")
	w = p.start()
	eventually(t, 10*time.Second, "the job ends", func() bool { return len(results(t, p.queue(), "lost")) == 1 })
	w.stop()
	if n := p.sim.CommitCount(); n != 2 {
		t.Errorf("kintone ran %d actions, want both jobs once", n)
	}
}

// What a publisher got wrong, with NATS's own tools and not with enqueue: a version that nobody here can read, and
// subjects that nobody reads.
func TestAJobOfANewerVersionWaitsUntilItIsTakenAway(t *testing.T) {
	t.Parallel()
	p := newPlace(t, 10)
	w := p.start()
	p.enqueue(one("--wait", "--timeout", "20s")...).want(t, exitDone)
	wire := p.wire()
	wire.publish(t, "statusq.jobs.main.5", `{"v":2,"job":"newer","record":2,"action":"Start"}`) // sequence 2
	wire.publish(t, "statusq.jobs.main.5", `{"v":1,"job":"behind","record":3,"action":"Start"}`)
	wire.publish(t, "statusq.jobs.other.5", `{"v":1,"job":"stray","record":4,"action":"Start"}`)
	p.awaitLane(testApp, "halted", "worker_too_old")
	p.enqueue("lanes").want(t, exitDone, "sequence 2")
	p.worker("check").want(t, exitError, "strays", "statusq.jobs.other.5")
	q := p.queue()
	if r := results(t, q, "behind"); len(r) != 0 {
		t.Errorf("the job behind it has ended before its turn: %+v", r)
	}
	wire.publish(t, "$JS.API.STREAM.MSG.DELETE.STATUSQ_JOBS", `{"seq":2}`)
	eventually(t, 30*time.Second, "the job behind it ends", func() bool { return len(results(t, q, "behind")) == 1 })
	w.stop()
	if n := p.sim.CommitCount(); n != 2 {
		t.Errorf("kintone ran %d actions, want the first job and the one behind", n)
	}
}

func TestAWrongTokenHoldsTheJobs(t *testing.T) {
	t.Parallel()
	p := newPlace(t, 10)
	p.env = []string{"KINTONE_API_TOKEN=nonsense"}
	w := p.start()
	p.enqueue(one("--job", "a")...).want(t, exitDone)
	p.awaitLane(testApp, "unserved", "token_invalid")
	p.enqueue(one("--job", "b", "--wait", "--timeout", "1s")...).want(t, 4, "kintone does not accept the API token for this app")
	p.worker("check").want(t, exitError, "BAD", "GAIA_IA02", "the token is of another app", "findings are bad")
	q := p.queue()
	if n := backlog(t, q, testApp); n != 2 || len(results(t, q, "")) != 0 {
		t.Errorf("the log holds %d jobs, want both", n)
	}
	w.stop()

	p.env = nil
	w = p.start()
	p.enqueue("send", "--app", "5", "--record", "2", "--action", "Start", "--wait", "--timeout", "20s").want(t, exitDone)
	w.stop()
	if n := p.sim.CommitCount(); n != 2 {
		t.Errorf("kintone ran %d actions, want 2: job b found its record moved on", n)
	}
}

func TestAWrongPasswordHaltsTheSiteUntilSomebodyActs(t *testing.T) {
	t.Parallel()
	p := newPlace(t, 10)
	p.env = []string{"KINTONE_USERNAME=sato", "KINTONE_PASSWORD=guessed"}
	w := p.start()
	p.enqueue(one("--job", "a")...).want(t, exitDone)
	eventually(t, 15*time.Second, "the site halts", func() bool {
		return strings.Contains(p.enqueue("lanes").out, "breaker halted")
	})
	p.enqueue(one("--job", "b", "--wait", "--timeout", "1s")...).want(t, 4, "the site stands still", "login")
	tried := p.sim.Requests().Total
	time.Sleep(1500 * time.Millisecond)
	if n := p.sim.Requests().Total - tried; n != 0 {
		t.Errorf("%d more requests went out with a password that was refused, which locks the login in the end", n)
	}
	// The administrator gives the account this password, and says so to the worker.
	p.sim.AddUser("sato", "guessed")
	w.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, 20*time.Second, "the jobs end", func() bool { return len(results(t, p.queue(), "")) == 2 })

	// The password is changed while the worker is at work.
	p.sim.AddUser("sato", "changed")
	p.enqueue("send", "--app", "5", "--record", "2", "--action", "Start", "--job", "c").want(t, exitDone)
	eventually(t, 15*time.Second, "the worker says once more why the site halts", func() bool {
		return strings.Count(w.err.String(), `"breaker":"closed","halted":true,"why":"login_refused`) == 2
	})
	p.sim.AddUser("sato", "guessed")
	w.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, 20*time.Second, "the job ends", func() bool { return len(results(t, p.queue(), "c")) == 1 })
	w.stop()
	if n := p.sim.CommitCount(); n != 2 {
		t.Errorf("kintone ran %d actions, want 2", n)
	}
}

func TestAWrongAddressHoldsTheJobsAndSaysWhatAnswers(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, c := range map[string]struct {
		url   func(*place) string
		why   string
		check []string
	}{
		"nobody there": {func(*place) string { return "http://" + closed.Addr().String() }, "unreachable", []string{"connection refused", "is KINTONE_BASE_URL right"}},
		"another web site": {func(p *place) string {
			return p.serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				io.WriteString(w, "<html><title>Welcome</title></html>")
			}))
		}, "not_kintone", []string{"is KINTONE_BASE_URL right"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, 10)
			p.env = []string{"KINTONE_BASE_URL=" + c.url(p)}
			w := p.start()
			p.enqueue(one("--job", "a")...).want(t, exitDone)
			p.awaitLane(testApp, "unserved", c.why)
			p.enqueue(one("--job", "b", "--wait", "--timeout", "1s")...).want(t, 4, "app 5")
			p.worker("check", "--json").want(t, exitError, append([]string{`"ok":false`, "app 5 of main"}, c.check...)...)
			q := p.queue()
			if n := backlog(t, q, testApp); n != 2 || len(results(t, q, "")) != 0 {
				t.Errorf("the log holds %d jobs, want both", n)
			}
			w.stop()
		})
	}
}

func TestWithoutProcessManagementTheLaneHaltsAndGoesOnByItself(t *testing.T) {
	t.Parallel()
	p := newPlace(t, 10)
	off := simulator.Workflow()
	off.Enabled = false
	if err := p.sim.SetProcess(testApp, off); err != nil {
		t.Fatal(err)
	}
	w := p.start()
	p.enqueue(one("--job", "a")...).want(t, exitDone)
	p.awaitLane(testApp, "halted", "process_disabled")
	p.enqueue(one("--job", "b", "--wait", "--timeout", "1s")...).want(t, 4, "process management is switched off in the app")
	p.worker("check").want(t, exitError, "process management is off", "switch process management on")
	q := p.queue()
	if r := results(t, q, ""); len(r) != 0 {
		t.Errorf("jobs have ended: %+v", r)
	}
	if err := p.sim.SetProcess(testApp, simulator.Workflow()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "both jobs end", func() bool { return len(results(t, q, "")) == 2 })
	w.stop()
	p.once(1, "Start")
}

// What enqueue refuses is not sent; the same, published by somebody else's program, dies and harms nobody.
func TestWhatIsNoJobIsRefusedOrDies(t *testing.T) {
	t.Parallel()
	p := newPlace(t, 10)
	w := p.start()
	q := p.queue()
	raw := p.wire()
	bad := []struct{ name, job, says string }{
		{"17 KB", fmt.Sprintf(`{"v":1,"app":5,"record":1,"action":"Start","ref":%q}`, strings.Repeat("x", 17<<10)), "16384"},
		{"record 0", `{"v":1,"app":5,"record":0,"action":"Start"}`, "record"},
		{"no record", `{"v":1,"app":5,"action":"Start"}`, "record"},
		{"revision x", `{"v":1,"app":5,"record":1,"action":"Start","revision":"x"}`, "revision"},
		{"a member in wrong case", `{"v":1,"app":5,"Record":1,"action":"Start"}`, "record"},
		{"two jobs", `{"v":1,"app":5,"record":1,"action":"Start"}{"v":1,"app":5,"record":2,"action":"Start"}`, ""},
		{"not JSON", `Start record 1 of app 5, please`, ""},
		{"another app", `{"v":1,"app":6,"record":1,"action":"Start"}`, "app"},
	}
	for _, b := range bad {
		if b.name == "another app" {
			continue // a file may name any app
		}
		path := write(t, t.TempDir(), "jobs.ndjson", b.job+"\n")
		o := p.enqueue("send", "--file", path)
		o.want(t, exitUsage, "nothing was sent", "line 1", b.says)
	}
	p.enqueue("send", "--app", "5", "--record", "0", "--action", "Start").want(t, exitUsage)
	p.enqueue(one("--revision", "x")...).want(t, exitUsage, "--revision")
	if n := backlog(t, q, testApp); n != 0 {
		t.Errorf("%d jobs were sent", n)
	}

	for _, b := range bad {
		raw.publish(t, "statusq.jobs.main.5", b.job)
	}
	raw.publish(t, "statusq.jobs.main.5", "")
	p.enqueue("send", "--app", "5", "--record", "7", "--action", "Start", "--wait", "--timeout", "20s").want(t, exitDone)
	letters := deadLetters(t, q)
	if len(letters) != len(bad)+1 {
		t.Errorf("%d jobs died, want %d", len(letters), len(bad)+1)
	}
	for i, d := range letters {
		if d.Reason != "undecodable" || d.Outcome != queue.Dead {
			t.Errorf("letter %d is %s for %s: %s", i, d.Outcome, d.Reason, d.Message)
		}
		if i < len(bad) && (!strings.Contains(d.Message, bad[i].says) || string(d.Raw) != bad[i].job) {
			t.Errorf("%s: the letter says %q about %.100q", bad[i].name, d.Message, d.Raw)
		}
	}
	p.enqueue("dead", "ls").want(t, exitDone, "undecodable")
	w.stop()
	if c := p.sim.Commits(); len(c) != 1 || c[0].Record != 7 {
		t.Errorf("kintone ran %d actions, want the one good job", len(c))
	}
}

func TestAnIdThatIsSentAgainDoesNotActAgain(t *testing.T) {
	t.Parallel()
	p := newPlace(t, 10)
	w := p.start()
	q := p.queue()
	p.enqueue(one("--job", "a", "--wait", "--timeout", "20s")...).want(t, exitDone, "accepted")
	p.enqueue(one("--job", "a", "--wait", "--timeout", "20s")...).want(t, exitDone, "duplicate")

	// A program that sends no message id gets past the window of the stream; the lane knows the job all the same.
	p.wire().publish(t, "statusq.jobs.main.5", `{"v":1,"job":"a","record":1,"action":"Start"}`)
	eventually(t, 10*time.Second, "the copy ends", func() bool { return len(results(t, q, "a")) == 2 })
	if r := results(t, q, "a"); r[0].Outcome != queue.Applied || r[1].Outcome != queue.Duplicate {
		t.Errorf("the outcomes are %s and %s, want applied and duplicate", r[0].Outcome, r[1].Outcome)
	}
	w.stop()

	// And so does the next worker.
	w = p.start()
	p.wire().publish(t, "statusq.jobs.main.5", `{"v":1,"job":"a","record":3,"action":"Start"}`)
	q = p.queue()
	eventually(t, 10*time.Second, "the next copy ends", func() bool { return len(results(t, q, "a")) == 3 })
	if r := results(t, q, "a")[2]; r.Outcome != queue.Dead || r.Reason != dispatch.ReasonIDReused {
		t.Errorf("the same id for another record ended as %s (%s), want dead (id_reused)", r.Outcome, r.Reason)
	}
	w.stop()
	p.once(1, "Start")
}
