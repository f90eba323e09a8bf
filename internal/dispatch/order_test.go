package dispatch

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

func TestJobsThatWaitForLaterDoNotBlockTheirApp(t *testing.T) {
	const n = 1200 // three jobs each: more than the lane keeps in memory
	inWorld(t, n, func(w *world) {
		later := time.Now().Add(2 * time.Hour)
		var js []queue.Job
		for i, action := range []string{"Start", "Approve", "Reopen"} {
			for _, j := range jobs(n, action) {
				j.ID = fmt.Sprintf("%s-%d", j.ID, i)
				if i == 1 {
					j.NotBefore = later
				}
				js = append(js, j)
			}
		}
		w.publish(js...)
		wk := w.start("one")
		time.Sleep(110 * time.Minute)
		if c := count(w.results()); c[queue.Applied] != n {
			w.t.Errorf("%v had ended before later, want %d applied", c, n)
		}
		got := w.settle(3*n, 4*time.Hour)
		w.end(wk)
		if c := count(got); c[queue.Applied] != 3*n {
			w.t.Errorf("outcomes %v, want %d applied", c, 3*n)
		}
		w.reconcile(got, js)
	})
}

func TestAJobBehindAParkedOneKeepsItsOwnTime(t *testing.T) {
	inWorld(t, 10, func(w *world) {
		w.sim.Put(testApp, 4, func(r *simulator.RecordState) { r.Assignees = []string{"sato"} })
		first, second := job(4, "Start"), job(4, "Approve")
		second.ID, second.NotBefore = "j4b", time.Now().Add(time.Hour)
		w.publish(first)
		wk := w.start("one")
		time.Sleep(10 * time.Second)
		w.publish(second)
		w.sim.Put(testApp, 4, func(r *simulator.RecordState) { r.Assignees = nil })
		time.Sleep(30 * time.Minute)
		if got := w.results(); got["j4"].Outcome != queue.Applied || got["j4b"].Outcome != "" {
			w.t.Errorf("after half an hour: first %q, second %q; want applied and nothing", got["j4"].Outcome, got["j4b"].Outcome)
		}
		got := w.settle(2, time.Hour)
		w.end(wk)
		w.reconcile(got, []queue.Job{first, second})
	})
}

func TestJobsWithoutAnIdAreToldApartByTheirPlace(t *testing.T) {
	inWorld(t, 10, func(w *world) {
		w.sim.Put(testApp, 4, func(r *simulator.RecordState) { r.Assignees = []string{"sato"} })
		var hang atomic.Bool
		hang.Store(true)
		w.strike(func(r simulator.Request) simulator.Fault {
			if r.Method == "PUT" && hang.Load() {
				return simulator.Fault{Kind: simulator.Hang}
			}
			return simulator.Fault{}
		})
		js := []queue.Job{job(4, "Start"), job(4, "Start"), job(5, "Start"), job(5, "Approve"), job(6, "Start")}
		for i := range js {
			js[i].ID = ""
		}
		w.publish(js...)
		wk := w.start("one")
		time.Sleep(5 * time.Second)
		w.crash(wk) // with a request in a slot
		hang.Store(false)
		time.Sleep(20 * time.Second)
		wk = w.start("two")
		got := w.settle(5, time.Hour)
		w.end(wk)
		if c := count(got); c[queue.Applied] != 3 || c[queue.Dead] != 2 {
			w.t.Errorf("outcomes %v, want 3 applied and 2 dead", c)
		}
		if d := w.dead(); len(d) != 2 || d[0].Job.ID == d[1].Job.ID {
			w.t.Errorf("dead letters %+v, want two of different names", d)
		}
		if n := w.sim.CommitCount(); n != 3 {
			w.t.Errorf("kintone ran %d actions, want 3", n)
		}
	})
}

func TestARecordDeletedOrEditedWhileItsLoneJobIsOnTheWay(t *testing.T) {
	for _, tt := range []struct {
		name    string
		change  func(w *world)
		outcome queue.Outcome
		reason  string
	}{
		{"deleted", func(w *world) { w.sim.Delete(testApp, 4) }, queue.Dead, ReasonRecordNotFound},
		{"edited once", func(w *world) { w.sim.Edit(testApp, 4, "sato") }, queue.Applied, ""},
		{"moved by somebody", func(w *world) { w.sim.Act(testApp, 4, "sato", "Start", "") }, queue.Already, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, 10, func(w *world) {
				// An action of ours on a record that somebody else had changed shows that actions leave our name.
				w.sim.Edit(testApp, 9, "suzuki")
				w.publish(job(9, "Start"))
				wk := w.start("one")
				w.settle(1, time.Minute)
				changed := false
				w.strike(func(r simulator.Request) simulator.Fault {
					if r.Method == "PUT" && !changed {
						changed = true
						tt.change(w)
					}
					return simulator.Fault{}
				})
				w.publish(job(4, "Start"))
				got := w.settle(2, time.Hour)
				w.end(wk)
				if r := got["j4"]; r.Outcome != tt.outcome || r.Reason != tt.reason {
					w.t.Errorf("ended as %s (%s: %s), want %s (%s)", r.Outcome, r.Reason, r.Message, tt.outcome, tt.reason)
				}
			})
		})
	}
}

func TestAPoisonThatBringsKintoneDownDoesNotHoldUpTheOthers(t *testing.T) {
	inWorld(t, 1000, func(w *world) {
		var poison atomic.Bool
		poison.Store(true)
		w.strike(func(r simulator.Request) simulator.Fault {
			if r.Method != "PUT" || !poison.Load() {
				return simulator.Fault{}
			}
			if slices.Contains(r.Records, 500) {
				return simulator.Fault{Kind: simulator.ServerError}
			}
			return simulator.Fault{}
		})
		js := jobs(1000, "Start")
		w.publish(js...)
		wk := w.start("one")
		got := w.settle(999, 12*time.Hour)
		if c := count(got); c[queue.Applied] != 999 {
			w.t.Errorf("outcomes %v, want the other 999 applied", c)
		}
		poison.Store(false)
		got = w.settle(1000, time.Hour)
		w.end(wk)
		w.reconcile(got, js)
	})
}

func TestPinsThatGrewOldAtTheGateAreNotSent(t *testing.T) {
	inWorld(t, 100, func(w *world) {
		w.apps[testApp] = AppConfig{DailyRequests: -1}
		wk := w.start("one")
		w.publish(jobs(10, "Start")...)
		w.settle(10, time.Minute)
		js := jobs(20, "Start")
		first := true
		w.strike(func(r simulator.Request) simulator.Fault {
			if r.API == "records.json" && first {
				first = false
				wk.gate.Halt("test") // nothing gets through after this read
			}
			return simulator.Fault{}
		})
		w.publish(js[10:]...)
		time.Sleep(5 * time.Minute)
		for r := int64(11); r <= 20; r++ {
			w.sim.Edit(testApp, r, "sato")
			w.sim.Edit(testApp, r, "sato")
		}
		before := w.sim.Requests().Kinds["PUT records/status.json"]
		wk.gate.Resume()
		got := w.settle(20, time.Hour)
		w.end(wk)
		if c := count(got); c[queue.Applied] != 20 {
			w.t.Errorf("outcomes %v, want 20 applied", c)
		}
		if n := w.sim.Requests().Kinds["PUT records/status.json"] - before; n != 1 {
			w.t.Errorf("%d status calls after the gate opened, want 1: the old pins must not be tried", n)
		}
		w.reconcile(got, js)
	})
}

func TestAParkedJobIsServedAfterARestartAlthoughNothingIsInTheLog(t *testing.T) {
	inWorld(t, 10, func(w *world) {
		w.apps = nil // no app is configured: the owner has to find out
		w.sim.Put(testApp, 4, func(r *simulator.RecordState) { r.Assignees = []string{"sato"} })
		w.publish(job(4, "Start"))
		wk := w.start("one")
		time.Sleep(5 * time.Second)
		w.end(wk)
		if log, _ := w.queue.Backlog(w.t.Context(), "main"); len(log) != 0 {
			w.t.Fatalf("the log holds %v, want nothing: the test does not bite", log)
		}
		wk = w.start("two")
		w.settle(1, time.Hour)
		dead := w.dead()
		if len(dead) != 1 {
			w.t.Fatalf("dead letters %+v, want one", dead)
		}
		w.end(wk)
		w.sim.Put(testApp, 4, func(r *simulator.RecordState) { r.Assignees = nil })
		if err := w.queue.RetryDead(w.t.Context(), dead[0], "operator", ""); err != nil {
			w.t.Fatal(err)
		}
		wk = w.start("three")
		time.Sleep(time.Minute)
		w.end(wk)
		if r := w.results()["j4"]; r.Outcome != queue.Applied {
			w.t.Errorf("the retried job ended as %q, want applied", r.Outcome)
		}
	})
}

func TestOnlyTheOwnerAnswersForASite(t *testing.T) {
	inWorld(t, 10, func(w *world) {
		one := w.start("one")
		time.Sleep(5 * time.Second)
		two := w.start("two")
		time.Sleep(5 * time.Second)
		for range 10 {
			raw, err := w.queue.Ask(w.t.Context(), "main", "lanes", nil)
			if err != nil {
				w.t.Fatal(err)
			}
			var s SiteStatus
			if err := json.Unmarshal(raw, &s); err != nil {
				w.t.Fatal(err)
			}
			if s.Owner != "one" || s.Epoch == 0 {
				w.t.Errorf("%s of epoch %d answered, want the owner", s.Owner, s.Epoch)
			}
		}
		w.end(one)
		time.Sleep(5 * time.Second)
		if _, err := w.queue.Ask(w.t.Context(), "main", "lanes", nil); err != nil {
			w.t.Errorf("after a clean stop the standby does not answer: %v", err)
		}
		w.end(two)
	})
}

func TestAnIdThatIsUsedForAnotherRecordIsToldAndRunsNothing(t *testing.T) {
	inWorld(t, 10, func(w *world) {
		wk := w.start("one")
		first := job(4, "Start")
		first.ID, first.Campaign = "same", "a"
		w.publish(first)
		w.settle(1, time.Minute)
		w.end(wk)
		time.Sleep(11 * time.Minute) // the stream has forgotten the id
		wk = w.start("two")
		other := job(5, "Start")
		other.ID, other.Campaign = "same", "a"
		w.publish(other)
		time.Sleep(time.Minute)
		w.end(wk)
		if n := w.sim.CommitCount(); n != 1 {
			w.t.Errorf("kintone ran %d actions, want 1", n)
		}
		dead := w.dead()
		if len(dead) != 1 || dead[0].Reason != ReasonIDReused || dead[0].Job.Record != 5 || dead[0].Job.ID == "same" {
			w.t.Errorf("dead letters %+v, want one for record 5 under a name of its own", dead)
		}
		var last queue.Result
		for r, err := range w.queue.Results(w.t.Context(), queue.ResultFilter{Site: "main", Job: "same"}) {
			if err != nil {
				w.t.Fatal(err)
			}
			last = r
		}
		if last.Record != 5 || last.Outcome != queue.Dead {
			w.t.Errorf("the newest result of the id is %+v, want dead for record 5", last)
		}
	})
}
