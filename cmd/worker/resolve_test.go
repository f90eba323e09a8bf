package main

import (
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
)

// What an operator does about a request whose answers are always lost, with the programs themselves.
func TestAHangingRequestIsResolvedByHand(t *testing.T) {
	t.Parallel()
	p := newPlace(t, 10)
	var lose, carryOut atomic.Bool // the answers to status calls; and the next call all the same
	p.sim.SetFault(func(r simulator.Request) simulator.Fault {
		if r.Method != "PUT" || !lose.Load() {
			return simulator.Fault{}
		}
		return simulator.Fault{Kind: simulator.LostReply, Applied: carryOut.Swap(false)}
	})
	w := p.start()
	type request struct {
		Request, Doing, Unclear string
		Stale                   bool
		Sends                   int
	}
	hanging := func() (r request) {
		t.Helper()
		eventually(t, 30*time.Second, "the request was sent twice", func() bool {
			o := p.enqueue("inflight", "--json")
			r = request{}
			return o.code == exitDone && json.Unmarshal([]byte(o.out), &r) == nil && r.Sends >= 2
		})
		return r
	}
	resolve := func(r request, more ...string) output {
		t.Helper()
		return p.enqueue(append([]string{"inflight", "resolve", r.Request, "--reason", "seen in the history", "--by", "ito", "--yes"}, more...)...)
	}

	// It was run, and only the answer was lost.
	lose.Store(true)
	carryOut.Store(true)
	p.enqueue(one("--job", "u1")...).want(t, exitDone)
	r := hanging()
	if r.Stale || r.Doing == "" || r.Unclear == "" {
		t.Errorf("it is shown as %+v", r)
	}
	p.enqueue("inflight", "show", r.Request).want(t, exitDone, "lost answer", "now ", "u1", "Start", "In progress")
	p.enqueue("job", "u1").want(t, exitDone, "in request "+r.Request, "lost answer")
	resolve(r, "--applied", "--dry-run").want(t, exitDone, "would resolve 1 job as applied")
	resolve(r, "--applied").want(t, exitDone, "resolved 1 job as applied")
	resolve(r, "--applied").want(t, exitError, "no request "+r.Request+" is out")
	p.enqueue("job", "u1").want(t, exitDone, "applied, as somebody has seen", "inflight resolve --applied by ito", "ito: seen in the history")
	p.enqueue(one("--job", "u1", "--wait", "--timeout", "20s")...).want(t, exitDone, "1  applied")

	// Nothing of it was ever run.
	p.enqueue("send", "--app", "5", "--record", "2", "--action", "Start", "--job", "u2").want(t, exitDone)
	r = hanging()
	o := resolve(r, "--retry", "--json")
	o.want(t, 4, "it may have been sent since you looked", "look at its records in kintone now")
	var told struct{ Held string }
	if err := json.Unmarshal([]byte(o.out), &told); err != nil || told.Held == "" || !strings.Contains(o.err, "repeat this command with --held "+told.Held) {
		t.Fatalf("it is not told what to repeat the command with: %q, %q, error %v", o.out, o.err, err)
	}
	resolve(r, "--retry").want(t, 4, "it may have been sent since you looked", "--held "+told.Held) // another, who only now learns that it is held
	p.enqueue("inflight").want(t, exitDone, "held until ")
	lose.Store(false)
	resolve(r, "--retry", "--held", told.Held).want(t, exitDone, "resolved 1 job as retry")
	eventually(t, 30*time.Second, "the job ends", func() bool { return len(results(t, p.queue(), "u2")) == 1 })
	o = p.enqueue("job", "u2")
	o.want(t, exitDone, "applied, revision 3", "inflight resolve --retry by ito")
	if strings.Count(o.out, "seen in the history") != 1 {
		t.Errorf("the operator's act is told more than once:\n%s", o.out)
	}
	w.stop()
	if n := p.sim.CommitCount(); n != 2 {
		t.Errorf("kintone ran %d actions, want each job once", n)
	}
}
