package dispatch

import (
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// asking is an app in which every kind of refusal can be met: an action that needs an assignee, one that takes none,
// one with a condition, two of one name, one that everybody must run.
func asking() simulator.App {
	p := simulator.Workflow()
	p.States = append(p.States,
		simulator.State{Name: "In review", AssigneeType: simulator.One, Entities: []simulator.Entity{simulator.User("sato"), simulator.User("suzuki")}},
		simulator.State{Name: "For all", AssigneeType: simulator.All, Entities: []simulator.Entity{simulator.User("sato"), simulator.User("suzuki")}},
	)
	p.Actions = append(p.Actions,
		simulator.Action{Name: "Review", From: "Not started", To: "In review"},
		simulator.Action{Name: "Twin", From: "Not started", To: "In progress"},
		simulator.Action{Name: "Twin", From: "Not started", To: "Completed"},
		simulator.Action{Name: "Only A", From: "Not started", To: "Completed", FilterCond: `Kind = "A"`},
		simulator.Action{Name: "Ask all", From: "Not started", To: "For all"},
	)
	return simulator.App{
		ID: testApp, Name: "Orders", Records: 2000, Tokens: []simulator.Token{simulator.ViewToken(testToken)}, Process: p,
		Fields: []simulator.Field{{Code: "Kind", Type: "SINGLE_LINE_TEXT", Default: func(r int64) string {
			if r == 500 {
				return "B"
			}
			return "A"
		}}},
	}
}

func TestPoisonOfEveryKindCostsOneDeadLetterAndNotAHundred(t *testing.T) {
	tests := []struct {
		name   string
		job    queue.Job // for record 500
		before func(*world)
		reason string
		calls  int // the most status calls that the whole run of 1000 jobs may take
	}{
		{"record not there", queue.Job{Record: 99999, Action: "Start"}, nil, ReasonRecordNotFound, 11},
		{"wrong status", queue.Job{Action: "Approve", Record: 500}, nil, ReasonStatusMismatch, 11},
		{"no such action", queue.Job{Action: "承認", Record: 500}, nil, ReasonActionUnknown, 11},
		{"two actions of one name", queue.Job{Action: "Twin", Record: 500}, nil, ReasonActionAmbiguous, 11},
		{"assignee missing", queue.Job{Action: "Review", Record: 500}, nil, ReasonAssigneeRequired, 11},
		{"assignee superfluous", queue.Job{Action: "Start", Record: 500, Assignee: "sato"}, nil, ReasonAssigneeSuperfluous, 11},
		{"assignee unknown", queue.Job{Action: "Review", Record: 500, Assignee: "nobody"}, nil, ReasonAssigneeUnknown, 12},
		{"not the assignee", queue.Job{Action: "Start", Record: 500}, func(w *world) {
			w.sim.Put(testApp, 500, func(r *simulator.RecordState) { r.Assignees = []string{"sato"} })
		}, ReasonNotAssignee, 11},
		{"revision moved", queue.Job{Action: "Start", Record: 500, Revision: 7}, nil, ReasonRevisionConflict, 11},
		{"a condition that only kintone knows", queue.Job{Action: "Only A", Record: 500}, nil, ReasonConditionUnmet, 11},
		{"a hidden record", queue.Job{Action: "Start", Record: 500}, func(w *world) {
			w.sim.Put(testApp, 500, func(r *simulator.RecordState) { r.Hidden = true })
		}, ReasonRecordNotFound, 11},
		{"expired", queue.Job{Action: "Start", Record: 500, Expires: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)}, nil, ReasonExpired, 11},
		{"a key", queue.Job{Action: "Start", Key: &queue.Key{Field: "Kind", Value: "A"}}, nil, ReasonKeyAmbiguous, 12},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inWorldOf(t, asking(), func(w *world) {
				if tt.before != nil {
					tt.before(w)
				}
				bad := tt.job
				bad.ID, bad.Site, bad.App = "bad", "main", testApp
				if bad.Revision == 0 {
					bad.Revision = -1
				}
				js := jobs(1000, "Start")
				js[499] = bad
				w.publish(js...)
				wk := w.start("one")
				got := w.settle(1000, time.Hour)
				w.end(wk)
				if n := count(got); n[queue.Applied] != 999 || n[queue.Dead] != 1 {
					w.t.Errorf("outcomes %v, want 999 applied and 1 dead", n)
				}
				if r := got["bad"]; r.Reason != tt.reason {
					w.t.Errorf("the bad job ended with %q (%s), want %q", r.Reason, r.Message, tt.reason)
				}
				dead := w.dead()
				if len(dead) != 1 || dead[0].Job.ID != "bad" {
					w.t.Errorf("dead letters %+v, want one for the bad job", dead)
				}
				if n := w.sim.Requests().Kinds["PUT records/status.json"]; n > tt.calls {
					w.t.Errorf("%d status calls for 1000 jobs, want at most %d", n, tt.calls)
				}
				w.reconcile(got, js)
			})
		})
	}
}

func TestWaitableFailuresAreTriedAgainWhileLaterJobsOfTheRecordWait(t *testing.T) {
	inWorld(t, 10, func(w *world) {
		w.sim.Put(testApp, 4, func(r *simulator.RecordState) { r.Assignees = []string{"sato"} })
		first, second := job(4, "Start"), job(4, "Approve")
		second.ID = "j4b"
		w.publish(first, second, job(5, "Start"))
		wk := w.start("one")
		time.Sleep(20 * time.Second)
		if got := w.results(); len(got) != 1 || got["j5"].Outcome != queue.Applied {
			w.t.Errorf("after 20 s %v have ended, want only j5", got)
		}
		w.end(wk)
		w.sim.Put(testApp, 4, func(r *simulator.RecordState) { r.Assignees = nil })
		wk = w.start("two") // what is parked survives
		got := w.settle(3, time.Hour)
		w.end(wk)
		if n := count(got); n[queue.Applied] != 3 {
			w.t.Errorf("outcomes %v, want 3 applied", n)
		}
		w.reconcile(got, []queue.Job{first, second, job(5, "Start")})
	})
}

func TestAnAppThatCannotActHaltsAndKillsNothing(t *testing.T) {
	tests := []struct {
		name   string
		broken func(*world)
		mended func(*world)
		reason string
	}{
		{"process management off", func(w *world) {
			p := simulator.Workflow()
			p.Enabled = false
			w.sim.SetProcess(testApp, p)
		}, func(w *world) { w.sim.SetProcess(testApp, simulator.Workflow()) }, ReasonProcessDisabled},
		{"5xx with an answer", func(w *world) {
			w.strike(func(r simulator.Request) simulator.Fault { return simulator.Fault{Kind: simulator.ServerError} })
		}, func(w *world) { w.strike(nil) }, ReasonServerError},
		{"another program answers", func(w *world) {
			w.strike(func(r simulator.Request) simulator.Fault {
				if r.Method == "PUT" {
					return simulator.Fault{Kind: simulator.HTML200}
				}
				return simulator.Fault{}
			})
		}, func(w *world) { w.strike(nil) }, ReasonNotKintone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, 2000, func(w *world) {
				wk := w.start("one")
				w.publish(jobs(500, "Start")...)
				w.settle(500, time.Minute)
				tt.broken(w)
				js := jobs(2000, "Start")
				w.publish(js[500:]...)
				before := w.sim.Requests().Total
				time.Sleep(time.Hour)
				if n := len(w.results()); n != 500 {
					w.t.Errorf("%d jobs have ended, want the 500 from before", n)
				}
				if n := w.sim.Requests().Total - before; n > 150 {
					w.t.Errorf("%d requests in an hour of it, want at most 150", n)
				}
				if tt.reason != "" && w.told(EventHalted, tt.reason) == 0 {
					w.t.Errorf("nobody was told that the lane halted with %s", tt.reason)
				}
				tt.mended(w)
				got := w.settle(2000, 6*time.Minute) // the first probe sets it going again
				w.end(wk)
				if n := count(got); n[queue.Applied] != 2000 {
					w.t.Errorf("outcomes %v, want 2000 applied", n)
				}
				w.reconcile(got, js)
			})
		})
	}
}

func TestTheSameJobTwiceActsOnce(t *testing.T) {
	inWorld(t, 10, func(w *world) {
		cyclic := func(id string) queue.Job { j := job(1, "Start"); j.ID = id; return j }
		w.publish(cyclic("a"))
		wk := w.start("one")
		w.settle(1, time.Minute)
		reopen := func() {
			if err := w.sim.Act(testApp, 1, "sato", "Approve", ""); err != nil {
				w.t.Fatal(err)
			}
			if err := w.sim.Act(testApp, 1, "sato", "Reopen", ""); err != nil {
				w.t.Fatal(err)
			}
		}
		reopen() // "Start" is possible again: a second run would show
		time.Sleep(11 * time.Minute)
		w.publish(cyclic("a")) // the stream's window is over: only the ledger knows
		time.Sleep(time.Minute)
		w.end(wk)
		wk = w.start("two")
		time.Sleep(11 * time.Minute)
		w.publish(cyclic("a"))
		time.Sleep(time.Minute)
		w.end(wk)
		ours, duplicates := 0, 0
		for _, c := range w.sim.Commits() {
			if !c.Foreign {
				ours++
			}
		}
		for r, err := range w.queue.Results(w.t.Context(), queue.ResultFilter{Site: "main"}) {
			if err != nil {
				w.t.Fatal(err)
			}
			if r.Outcome == queue.Duplicate {
				duplicates++
			}
		}
		if ours != 1 || duplicates != 2 {
			w.t.Errorf("the action ran %d times with %d duplicates told, want 1 and 2", ours, duplicates)
		}
	})
}

func TestDeadLettersRetriedByAnOperatorRunOnce(t *testing.T) {
	inWorld(t, 10, func(w *world) {
		w.apps[testApp] = AppConfig{DailyRequests: -1, Attempts: 1}
		w.sim.Put(testApp, 4, func(r *simulator.RecordState) { r.Assignees = []string{"sato"} })
		w.publish(job(4, "Start"))
		wk := w.start("one")
		w.settle(1, time.Minute)
		dead := w.dead()
		if len(dead) != 1 {
			w.t.Fatalf("dead letters %+v, want one", dead)
		}
		w.sim.Put(testApp, 4, func(r *simulator.RecordState) { r.Assignees = nil })
		if err := w.queue.RetryDead(w.t.Context(), dead[0], "operator", "assignee removed"); err != nil {
			w.t.Fatal(err)
		}
		if err := w.queue.RetryDead(w.t.Context(), dead[0], "operator", "twice"); err == nil {
			w.t.Error("the same dead letter was retried twice")
		}
		time.Sleep(time.Minute)
		w.end(wk)
		got := w.results()
		if got["j4"].Outcome != queue.Applied || len(w.dead()) != 0 || w.sim.CommitCount() != 1 {
			w.t.Errorf("after the retry: %+v, %d dead letters, %d commits", got["j4"], len(w.dead()), w.sim.CommitCount())
		}
	})
}

func TestForeignChangesCostTwoRequestsAndNoJob(t *testing.T) {
	inWorld(t, 1000, func(w *world) {
		edited := false
		w.strike(func(r simulator.Request) simulator.Fault {
			if r.Method == "PUT" && !edited {
				edited = true
				if err := w.sim.Edit(testApp, r.Records[17], "sato"); err != nil {
					w.t.Error(err)
				}
				if err := w.sim.Delete(testApp, r.Records[18]); err != nil {
					w.t.Error(err)
				}
			}
			return simulator.Fault{}
		})
		js := jobs(1000, "Start")
		w.publish(js...)
		wk := w.start("one")
		got := w.settle(1000, time.Hour)
		w.end(wk)
		if n := count(got); n[queue.Applied] != 999 || n[queue.Dead] != 1 {
			w.t.Errorf("outcomes %v, want 999 applied and the deleted one dead", n)
		}
		if n := w.sim.Requests().Kinds["PUT records/status.json"]; n > 12 {
			w.t.Errorf("%d status calls, want at most 12", n)
		}
		w.reconcile(got, js)
	})
}

func TestALostReplyAndAForeignChangeAreToldApart(t *testing.T) {
	tests := []struct {
		name    string
		applied bool
		then    func(w *world, records []int64) // by people, before the call is sent again
		outcome queue.Outcome
	}{
		{"applied, then edited by somebody: a batch-mate tells", true, func(w *world, r []int64) {
			w.sim.Edit(testApp, r[0], "sato")
		}, queue.Applied},
		{"not applied, then edited: planned again", false, func(w *world, r []int64) {
			w.sim.Edit(testApp, r[0], "sato")
		}, queue.Applied},
		{"not applied, then moved by somebody: the others go", false, func(w *world, r []int64) {
			w.sim.Act(testApp, r[0], "sato", "Start", "")
		}, queue.Applied},
		{"applied, then every record edited: nobody can tell", true, func(w *world, r []int64) {
			for _, id := range r {
				w.sim.Edit(testApp, id, "sato")
			}
		}, queue.Unknown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, 50, func(w *world) {
				n := 0
				w.strike(func(r simulator.Request) simulator.Fault {
					if r.Method != "PUT" {
						return simulator.Fault{}
					}
					if n++; n == 1 {
						return simulator.Fault{Kind: simulator.LostReply, Applied: tt.applied}
					}
					if n == 2 {
						tt.then(w, r.Records)
					}
					return simulator.Fault{}
				})
				js := jobs(50, "Start")
				w.publish(js...)
				wk := w.start("one")
				got := w.settle(50, time.Hour)
				w.end(wk)
				for id, r := range got {
					if r.Outcome != tt.outcome && !(r.Outcome == queue.Already && !tt.applied) {
						w.t.Errorf("%s ended as %s (%s), want %s", id, r.Outcome, r.Message, tt.outcome)
						break
					}
				}
				if tt.outcome != queue.Unknown {
					w.reconcile(got, js)
				}
				for _, d := range w.dead() {
					if d.Outcome == queue.Unknown && d.Evidence == nil {
						w.t.Errorf("unknown without evidence: %+v", d)
					}
				}
			})
		})
	}
}
