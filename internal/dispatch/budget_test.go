package dispatch

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// budgeted is a world whose app may make so many requests a day, with a record for each of its jobs.
func budgeted(t *testing.T, cfg AppConfig) *world {
	w := newWorld(t, simulator.App{
		ID: testApp, Records: 2000, Tokens: []simulator.Token{simulator.ViewToken(testToken)}, Process: simulator.Workflow(),
	})
	w.apps[testApp] = cfg
	return w
}

// A spent budget stops the lane until 00:00 UTC, but not the request whose answer was lost when it was spent: the reserve
// is for that.
func TestAnUnclearRequestIsResolvedFromTheReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perDay = 30 // 27 and a reserve of 3
		midnight := time.Now().Add(24 * time.Hour)
		time.Sleep(21 * time.Hour)
		w := budgeted(t, AppConfig{DailyRequests: perDay})
		wk := w.start("worker")
		time.Sleep(time.Minute)
		wk.gate.SetBudget(testApp, kintone.Budget{PerDay: perDay}, 25) // a read, and the change, whose answer gets lost
		lost := false
		w.strike(func(r simulator.Request) simulator.Fault {
			if r.Method == http.MethodPut && !lost {
				lost = true
				return simulator.Fault{Kind: simulator.LostReply, Applied: true}
			}
			return simulator.Fault{}
		})
		w.publish(job(1, "Start"))
		if got := w.settle(1, time.Hour)["j1"]; got.Outcome != queue.Applied || !lost {
			t.Errorf("the job whose answer got lost ended %s %s", got.Outcome, got.Reason)
		}
		if b := wk.gate.Budget(testApp); b.Spent <= 27 || b.Spent > perDay {
			t.Errorf("%d requests of %d were spent, want some of the reserve and no more", b.Spent, perDay)
		}

		w.publish(job(2, "Start"))
		time.Sleep(time.Hour)
		if n := len(w.results()); n != 1 {
			t.Errorf("%d jobs have ended with the budget spent, want 1", n)
		}
		s := wk.owner.Status().Lanes[0]
		if s.Budget != perDay || s.Reserve != 3 || s.WhenSpent != kintone.SpentHalts || s.RequestsToday <= 27 || s.Stretch == 0 || s.Call != "bulk" {
			t.Errorf("the lane with its budget spent says %+v", s)
		}
		if got := w.settle(2, 24*time.Hour)["j2"]; got.Outcome != queue.Applied || got.At.Before(midnight) {
			t.Errorf("job 2 ended %s at %v, want applied after midnight", got.Outcome, got.At)
		}
		w.end(wk)
	})
}

// Where the budget only warns, nothing waits for the new day.
func TestABudgetThatWarnsStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := budgeted(t, AppConfig{DailyRequests: 10, WhenSpent: kintone.SpentWarns})
		wk := w.start("worker")
		for n := range 12 {
			w.publish(job(int64(n+1), "Start"))
			if n == 11 {
				time.Sleep(time.Minute)
				if s := wk.owner.Status().Lanes[0]; s.State != "running" || s.Why != ReasonBudgetPaced || time.Until(s.Until) <= 0 || time.Until(s.Until) > longestStretch {
					t.Errorf("a lane that gathers jobs says %+v", s)
				}
			}
			w.settle(n+1, 15*time.Minute) // ten minutes at most, for the sake of the budget
		}
		if b := wk.gate.Budget(testApp); b.Spent <= 10 || !b.Exhausted() {
			t.Errorf("12 jobs one by one took %d requests of 10, want more", b.Spent)
		}
		w.end(wk)
	})
}

// Jobs that trickle in for the last hours of a day, and one by one would take ten times what is left of the budget: they
// travel together, none waits much longer than ten minutes, and the budget lasts. The worker is started anew meanwhile,
// and knows what was spent.
func TestABudgetLastsTheDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perDay, spent = 2000, 1700 // and a reserve of 200
		midnight := time.Now().Add(24 * time.Hour)
		time.Sleep(21 * time.Hour)
		w := budgeted(t, AppConfig{DailyRequests: perDay})
		start := time.Now()
		wk := w.start("first")
		time.Sleep(time.Minute)
		wk.gate.SetBudget(testApp, kintone.Budget{PerDay: perDay}, spent)
		earlier := w.sim.Requests().Today[testApp] // those of the start, which count among what was spent
		published := make(map[string]time.Time)
		n := 0
		for time.Until(midnight) > 20*time.Minute {
			n++
			j := job(int64(n), "Start")
			j.ID = fmt.Sprintf("job-%d", n)
			published[j.ID] = time.Now()
			w.publish(j)
			if n == 240 {
				before := wk.gate.Budget(testApp).Spent
				w.end(wk)
				wk = w.start("second")
				time.Sleep(20 * time.Second)
				if b := wk.gate.Budget(testApp); b.Spent < before || b.Spent > before+10 {
					t.Errorf("%d requests were spent before a new start and %d are after it", before, b.Spent)
				}
			}
			time.Sleep(20 * time.Second)
		}
		time.Sleep(time.Until(midnight.Add(-time.Second)))
		got := w.results()
		var longest time.Duration
		for id, at := range published {
			r := got[id]
			longest = max(longest, r.At.Sub(at))
			if r.Outcome != queue.Applied {
				t.Errorf("job %s, published %v after the start, has not ended (%s)", id, at.Sub(start), r.Outcome)
			}
		}
		if longest < 2*time.Minute || longest > 11*time.Minute {
			t.Errorf("the longest that a job waited was %v, want minutes, and ten at most", longest)
		}
		b := wk.gate.Budget(testApp)
		if asked := w.sim.Requests().Today[testApp] - earlier; b.Spent > perDay-b.Reserve || b.Spent != spent+asked {
			t.Errorf("%d requests were spent of %d; kintone got %d after the first %d", b.Spent, perDay, asked, spent)
		}
		t.Logf("%d jobs took %d requests, the longest wait was %v", n, b.Spent-spent, longest)
		w.end(wk)
	})
}
