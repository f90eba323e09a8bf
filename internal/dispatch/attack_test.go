package dispatch

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// failsFor answers what has a text in its URL with kintone's own 500, and everything else as it is.
type failsFor struct {
	next http.RoundTripper
	text string
	n    atomic.Int32
}

func (s *failsFor) RoundTrip(r *http.Request) (*http.Response, error) {
	if !strings.Contains(r.URL.RawQuery, s.text) {
		return s.next.RoundTrip(r)
	}
	s.n.Add(1)
	return &http.Response{
		StatusCode: http.StatusInternalServerError, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}},
		Body:   io.NopCloser(strings.NewReader(`{"code":"GAIA_XX00","id":"x","message":"internal"}`)),
	}, nil
}

// A key that kintone cannot answer, with nothing else to look up beside it, does not hold up what is behind it for ever.
func TestABadKeyByItselfDoesNotHoldUpTheApp(t *testing.T) {
	for _, kind := range []string{"not answered", "500"} {
		t.Run(kind, func(t *testing.T) {
			inWorldOf(t, keyed(100), func(w *world) {
				var asked *atomic.Int32
				if kind == "500" {
					s := &failsFor{next: w.transport, text: "%22C-77%22"}
					w.transport, asked = s, &s.n
				} else {
					s := &tooSlowFor{next: w.transport, text: "%22C-77%22"}
					w.transport, asked = s, &s.n
				}
				w.publish(byKey("k77", "code", "C-77", "", "Start"), job(2, "Start"))
				wk := w.start("one")
				got := w.settle(2, 6*time.Hour)
				w.end(wk)
				if got["j2"].Outcome != queue.Applied || got["k77"].Reason != ReasonKeyRefused {
					t.Errorf("ended %+v", got)
				}
				if n := asked.Load(); n < 5 || n > 20 {
					t.Errorf("the bad key was asked for %d times", n)
				}
			})
		})
	}
}

// Keys that need no question, or are not worth one, say nothing about kintone: in an outage no other key dies by them.
func TestAnOutageKillsNoKey(t *testing.T) {
	inWorldOf(t, keyed(100), func(w *world) {
		wk := w.start("one")
		for i := range 30 {
			bad, id := byKey(fmt.Sprintf("bad%d", i), "code", " ", "", "Start"), byKey(fmt.Sprintf("id%d", i), "$id", fmt.Sprint(10+i), "", "Start")
			bad.NotBefore = time.Now().Add(time.Duration(i+1) * 2 * time.Minute)
			id.NotBefore = bad.NotBefore
			w.publish(bad, id)
		}
		time.Sleep(10 * time.Second)
		w.strike(func(simulator.Request) simulator.Fault { return simulator.Fault{Kind: simulator.ServerError} })
		w.publish(byKey("good", "code", "C-1", "", "Start"))
		time.Sleep(time.Hour)
		w.strike(nil)
		got := w.settle(61, 6*time.Hour)
		w.end(wk)
		if got["good"].Outcome != queue.Applied {
			t.Errorf("a key that has its record ended %+v", got["good"])
		}
		if n := count(got); n[queue.Applied] != 31 || n[queue.Dead] != 30 {
			t.Errorf("outcomes %v", n)
		}
	})
}

// After an outage keys are asked for together again before the budget of the day is gone.
func TestKeysAfterAnOutageCostLittle(t *testing.T) {
	inWorldOf(t, keyed(2000), func(w *world) {
		wk := w.start("one")
		time.Sleep(10 * time.Second)
		w.strike(func(simulator.Request) simulator.Fault { return simulator.Fault{Kind: simulator.Unavailable} })
		var js []queue.Job
		for r := 1; r <= 2000; r++ {
			js = append(js, byKey(fmt.Sprintf("k%d", r), "code", fmt.Sprintf("C-%d", r), "", "Start"))
		}
		w.publish(js...)
		time.Sleep(time.Hour)
		w.strike(nil)
		before := w.sim.Requests().Total
		got := w.settle(2000, 6*time.Hour)
		w.end(wk)
		if n := count(got); n[queue.Applied] != 2000 {
			t.Errorf("outcomes %v", n)
		}
		if n := w.sim.Requests().Total - before; n > 150 {
			t.Errorf("%d requests for 2,000 keys after an outage, want about 20 calls, 10 look-ups and some more to begin with", n)
		}
	})
}

// Somebody takes a parked job with a key out of the ledger by hand, which its owner sees when it brings the job back: what
// is behind it does not wait for it.
func TestAParkedKeyThatIsGoneHoldsUpNobody(t *testing.T) {
	b := newBacklog()
	gone := &task{seq: 5, id: "gone", state: stateParked, record: b.lineOf(queue.Job{Key: &queue.Key{Field: "code", Value: "C-99"}})}
	behind := &task{seq: 7, id: "behind", record: 2, job: &queue.Job{Record: 2}}
	b.add(gone)
	b.add(behind)
	if due := b.nextDue(time.Now(), 10); len(due) != 1 || len(b.nextToRead(10)) != 0 {
		t.Fatalf("%d jobs come back, want the one that anybody's record may be", len(due))
	}
	b.remove(gone)
	if next := b.nextToRead(10); len(next) != 1 {
		t.Error("the job behind one that is gone waits for it")
	}
}

// A job for all that match that an operator sends again runs although its campaign has ended, and so do those made of it.
func TestAllThatMatchRunWhenSentAgainAfterTheirCampaign(t *testing.T) {
	inWorldOf(t, keyed(20), func(w *world) {
		none := 0
		if err := w.queue.PutCampaign(context.Background(), queue.Campaign{Name: "m", Site: "main", Total: 1, Started: time.Now(), MaxDead: &none}); err != nil {
			t.Fatal(err)
		}
		p := byKey("p", "code", " ", queue.MatchAll, "Start")
		p.Campaign = "m"
		wk := w.start("one")
		time.Sleep(time.Second)
		w.publish(p)
		w.settle(1, time.Hour)
		time.Sleep(time.Minute)
		d := w.dead()[0]
		d.Job.Key = &queue.Key{Field: "all", Value: "every"}
		if err := w.queue.RetryDead(w.t.Context(), d, "ops", "mended"); err != nil {
			t.Fatal(err)
		}
		got := w.settle(21, time.Hour)
		w.end(wk)
		if n := count(got); n[queue.Applied] != 20 || n[queue.Matched] != 1 {
			t.Errorf("outcomes %v", n)
		}
	})
}

// What has not left when the one too many dies does not leave, not even what was read together with it.
func TestNothingLeavesAfterTheOneTooMany(t *testing.T) {
	inWorldOf(t, keyed(400), func(w *world) {
		none := 0
		if err := w.queue.PutCampaign(context.Background(), queue.Campaign{Name: "m", Site: "main", Total: 400, Started: time.Now(), MaxDead: &none}); err != nil {
			t.Fatal(err)
		}
		js := jobs(400, "Start")
		for i := range js {
			js[i].Campaign = "m"
		}
		js[399].Action = "no such action"
		w.publish(js...)
		wk := w.start("one")
		got := w.settle(400, time.Hour)
		w.end(wk)
		if n := count(got); n[queue.Dead] != 1 || n[queue.Cancelled] != 399 {
			t.Errorf("outcomes %v: the last was seen to be bad before anything was sent", n)
		}
	})
}

// A child whose id belongs to a job of another record is not dropped in silence.
func TestAChildWhoseIDIsAnothersIsNotLost(t *testing.T) {
	inWorldOf(t, keyed(3), func(w *world) {
		own := job(3, "Start")
		own.ID = "p/2"
		w.publish(own, byKey("p", "code", "C-2", queue.MatchAll, "Start"))
		wk := w.start("one")
		w.settle(2, time.Hour)
		time.Sleep(10 * time.Minute)
		w.end(wk)
		ran := false
		for _, c := range w.sim.Commits() {
			ran = ran || c.Record == 2
		}
		if letters := w.dead(); !ran && len(letters) == 0 {
			t.Errorf("record 2 was neither acted on nor told of: %+v", w.results())
		}
	})
}
