package dispatch

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// ask asks the owner of the site.
func ask[T any](w *world, verb string, question any) T {
	w.t.Helper()
	raw, err := json.Marshal(question)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Minute)
	defer cancel()
	reply, err := w.queue.Ask(ctx, "main", verb, raw)
	if err != nil {
		w.t.Fatalf("%s: %v", verb, err)
	}
	var answer T
	if err := json.Unmarshal(reply, &answer); err != nil {
		w.t.Fatalf("%s: %v", verb, err)
	}
	return answer
}

// hanging is the one request that is out.
func (w *world) hanging() FlightStatus {
	w.t.Helper()
	s := ask[InflightStatus](w, "inflight", nil)
	if len(s.Flights) != 1 {
		w.t.Fatalf("%d requests are out, want 1: %+v", len(s.Flights), s)
	}
	return s.Flights[0]
}

// resolve says what became of a request, as somebody who has not been told that it is held.
func (w *world) resolve(f FlightStatus, how queue.Resolution, job string) ResolveAnswer {
	w.t.Helper()
	return w.resolveHeld(f, how, job, time.Time{})
}

// resolveHeld says what became of a request, as somebody who was told until when it is held, and looked then.
func (w *world) resolveHeld(f FlightStatus, how queue.Resolution, job string, held time.Time) ResolveAnswer {
	w.t.Helper()
	return ask[ResolveAnswer](w, "inflight-resolve", ResolveRequest{V: 1, App: f.App, Request: f.Request, Job: job, How: how,
		By: "ito", Reason: "seen in the history", Wait: 3 * time.Minute, Held: held})
}

// resolveForSure lets the request be held first, as an operator has to.
func (w *world) resolveForSure(how queue.Resolution, job string) ResolveAnswer {
	w.t.Helper()
	f := w.hanging()
	a := w.resolve(f, how, job)
	if how != queue.ResolveApplied {
		if a.State != ResolveHeld {
			w.t.Fatalf("%s at first: %+v, want that it is held", how, a)
		}
		a = w.resolveHeld(f, how, job, a.Until)
	}
	if a.State != ResolveDone {
		w.t.Fatalf("%s: %+v", how, a)
	}
	return a
}

// calls counts the status requests that have reached kintone.
func (w *world) calls() int { return w.sim.Requests().Kinds["PUT records/status.json"] }

// A request whose every answer is lost is ended by what a person has seen. Nothing of it is sent ever again, by this
// owner or the next, also if the person was wrong and a late copy is carried out afterwards.
func TestARequestWhoseAnswersAreAlwaysLostIsResolvedByHand(t *testing.T) {
	const late = 20 * time.Minute
	tests := []struct {
		name    string
		how     queue.Resolution
		fault   simulator.Fault // of the first copy; all others are lost and not carried out
		outcome queue.Outcome
		reason  string
		commits int // per record
	}{
		{"applied, and it was", queue.ResolveApplied, simulator.Fault{Kind: simulator.LostReply, Applied: true}, queue.Applied, queue.ReasonResolved, 1},
		{"not applied, and it was not", queue.ResolveNotApplied, simulator.Fault{Kind: simulator.LostReply}, queue.Dead, queue.ReasonResolvedNotApplied, 0},
		{"applied, and it will be", queue.ResolveApplied, simulator.Fault{Kind: simulator.LateCommit, Applied: true, Delay: late}, queue.Applied, queue.ReasonResolved, 1},
		{"not applied, and it will be", queue.ResolveNotApplied, simulator.Fault{Kind: simulator.LateCommit, Applied: true, Delay: late}, queue.Dead, queue.ReasonResolvedNotApplied, 1},
		{"retried, and it was not", queue.ResolveRetry, simulator.Fault{Kind: simulator.LostReply}, queue.Applied, "", 1},
		{"retried, and it was", queue.ResolveRetry, simulator.Fault{Kind: simulator.LostReply, Applied: true}, queue.Already, "", 1},
		{"retried, and a late copy comes", queue.ResolveRetry, simulator.Fault{Kind: simulator.LateCommit, Applied: true, Delay: late}, queue.Applied, "", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, 3, func(w *world) {
				n := 0
				w.strike(func(r simulator.Request) simulator.Fault {
					if r.Method != "PUT" {
						return simulator.Fault{}
					}
					if n++; n == 1 {
						return tt.fault
					}
					return simulator.Fault{Kind: simulator.LostReply}
				})
				js := jobs(3, "Start")
				js[1].Campaign = "c"
				w.publish(js...)
				wk := w.start("one")
				time.Sleep(11 * time.Minute) // longer than the log knows its ids
				if n := len(w.results()); n != 0 {
					w.t.Fatalf("%d jobs have ended: nothing hangs", n)
				}
				f := w.hanging()
				if len(f.Parts) != 1 || len(f.Parts[0].Members) != 3 || f.Parts[0].Sends < 3 || f.Parts[0].Unclear.IsZero() || f.HeardReason != ReasonUnreachable {
					w.t.Errorf("the request is shown as %+v", f)
				}

				a := w.resolveForSure(tt.how, "")
				if slices.Sort(a.Jobs); strings.Join(a.Jobs, " ") != "j1 j2 j3" {
					w.t.Errorf("resolved are %v", a.Jobs)
				}
				if tt.how != queue.ResolveRetry {
					time.Sleep(time.Second)
					if s, _ := w.queue.Slots(w.t.Context(), "main", testApp); slices.ContainsFunc(s, func(v queue.SlotView) bool { return v.Slot.Request != nil }) {
						w.t.Error("a slot is still filled")
					}
				}
				sent := w.calls()
				w.strike(nil)
				got := w.settle(3, time.Hour)
				time.Sleep(time.Minute)
				w.crash(wk)
				wk = w.start("two")
				time.Sleep(5 * time.Minute)
				w.sim.Flush()
				w.publish(js...) // the ids have ended, and stay known
				time.Sleep(time.Minute)
				w.end(wk)

				if n := w.calls() - sent; tt.how != queue.ResolveRetry && n != 0 {
					w.t.Errorf("%d requests left after it was resolved", n)
				}
				commits := make(map[int64]int)
				for _, c := range w.sim.Commits() {
					commits[c.Record]++
				}
				for _, j := range js {
					r := got[j.ID]
					if r.Outcome != tt.outcome || r.Reason != tt.reason {
						w.t.Errorf("%s ended as %s (%s %s), want %s", j.ID, r.Outcome, r.Reason, r.Message, tt.outcome)
					}
					if tt.reason != "" && (r.Message != "ito: seen in the history" || r.Request != f.Request || r.Campaign != j.Campaign) {
						w.t.Errorf("its result is %+v", r)
					}
					if commits[j.Record] != tt.commits {
						w.t.Errorf("%s was run %d times, want %d", j.ID, commits[j.Record], tt.commits)
					}
					s, err := w.queue.FindJob(w.t.Context(), "main", testApp, j.ID)
					if err != nil {
						w.t.Fatal(err)
					}
					if s.Results[len(s.Results)-1].Outcome != queue.Duplicate {
						w.t.Errorf("%s was not known when it came again: %+v", j.ID, s.Results)
					}
					if len(s.Acts) != 1 || s.Acts[0].Verb != "inflight resolve --"+string(tt.how) || s.Acts[0].By != "ito" ||
						s.Acts[0].Reason != "seen in the history" || s.Acts[0].Request != f.Request || s.Acts[0].N != 3 {
						w.t.Errorf("the audit says %+v", s.Acts)
					}
					var history []string
					for _, a := range r.Attempts {
						history = append(history, a.Reason+" "+a.Request)
					}
					want := ReasonUnreachable + " " + f.Request
					if tt.how == queue.ResolveRetry {
						want += ", " + queue.ReasonRetried + " " + f.Request
					}
					if got := strings.Join(history, ", "); got != want {
						w.t.Errorf("its history is %q, want %q", got, want)
					}
				}
				if d := w.dead(); len(d) != 0 {
					w.t.Errorf("%d dead letters, want none: somebody has seen to them", len(d))
				}
			})
		})
	}
}

// That somebody has seen nothing of it says nothing about a copy that left afterwards. The request is held first, so that
// he can look while nothing happens to it.
func TestACopyThatLeftAfterTheLookIsNotResolved(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		w.strike(func(r simulator.Request) simulator.Fault {
			if r.Method == "PUT" {
				return simulator.Fault{Kind: simulator.LostReply}
			}
			return simulator.Fault{}
		})
		w.publish(jobs(2, "Start")...)
		wk := w.start("one")
		time.Sleep(5 * time.Second)
		f := w.hanging()
		time.Sleep(10 * time.Minute)
		a := w.resolve(f, queue.ResolveNotApplied, "")
		if a.State != ResolveHeld || time.Until(a.Until) < 9*time.Minute {
			w.t.Fatalf("answer %+v, want that it is held", a)
		}
		sent := w.calls()
		time.Sleep(9 * time.Minute)
		if f := w.hanging(); w.calls() != sent || f.Doing != DoingHold || !f.Until.Equal(a.Until) {
			w.t.Errorf("%d copies left while it was held; it is shown as %+v", w.calls()-sent, f)
		}
		if len(w.results()) != 0 {
			w.t.Error("it was resolved all the same")
		}
		time.Sleep(5 * time.Minute)
		if w.calls() == sent {
			w.t.Error("it does not go on by itself")
		}
		if again := w.resolveHeld(f, queue.ResolveRetry, "", a.Until); again.State != ResolveHeld || time.Until(again.Until) < 9*time.Minute {
			w.t.Errorf("when it had gone on: %+v, want that it is held once more", again)
		}
		// That it was carried out stays true whatever left later.
		if a := w.resolve(f, queue.ResolveApplied, ""); a.State != ResolveDone {
			w.t.Errorf("answer %+v, want it resolved", a)
		}
		if a := w.resolve(f, queue.ResolveApplied, ""); a.State != ResolveEnded {
			w.t.Errorf("a second time: %+v, want that it has ended", a)
		}
		w.end(wk)
		if n := count(w.results()); n[queue.Applied] != 2 {
			w.t.Errorf("outcomes %v", n)
		}
	})
}

// A hold is of use to who was told of it and looked then. What another has seen before counts no more because of it, and the
// questions of many do not prolong it.
func TestAHoldIsOnlyOfUseToWhoWasToldOfIt(t *testing.T) {
	for _, how := range []queue.Resolution{queue.ResolveRetry, queue.ResolveNotApplied} {
		t.Run(string(how), func(t *testing.T) {
			inWorld(t, 1, func(w *world) {
				w.loses(1, false)
				w.publish(job(1, "Start"))
				wk := w.start("one")
				time.Sleep(10 * time.Minute)
				f := w.hanging()
				first := w.resolve(f, how, "")
				if first.State != ResolveHeld {
					w.t.Fatalf("the first is told %+v, want that it is held", first)
				}
				time.Sleep(4 * time.Minute)
				sent := w.calls()
				var second ResolveAnswer
				for name, held := range map[string]time.Time{"nothing": {}, "a time of his own": first.Until.Add(-time.Nanosecond), "a later time": first.Until.Add(time.Hour)} {
					second = w.resolveHeld(f, how, "", held)
					if second.State != ResolveHeld || !second.Until.Equal(first.Until) || len(second.Jobs) != 0 {
						w.t.Errorf("another, who was told %s, is told %+v, want that it is held until %v", name, second, first.Until)
					}
				}
				if f := w.hanging(); f.Doing != DoingHold || !f.Until.Equal(first.Until) {
					w.t.Errorf("it is shown as %+v", f)
				}
				if n := w.told(EventOperator, ""); n != 1 {
					w.t.Errorf("%d holds were told of, want 1", n)
				}
				if n := w.calls(); n != sent {
					w.t.Errorf("%d more copies left while it was held", n-sent)
				}
				// With retry the job is planned afresh at once, which is a request of its own.
				a := w.resolveHeld(f, how, "", second.Until)
				if n := w.calls(); a.State != ResolveDone || how != queue.ResolveRetry && n != sent {
					w.t.Errorf("when he had looked: %+v after %d more copies, want it resolved after none", a, n-sent)
				}
				w.strike(nil)
				time.Sleep(5 * time.Minute)
				w.end(wk)
				want := map[queue.Resolution]queue.Outcome{queue.ResolveRetry: queue.Applied, queue.ResolveNotApplied: queue.Dead}[how]
				if n := count(w.results()); n[want] != 1 {
					w.t.Errorf("outcomes %v, want one %s", n, want)
				}
			})
		})
	}
}

// While a copy is out nothing is decided: its answer may tell more than anybody has seen.
func TestNothingIsResolvedWhileACopyIsOut(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		w.strike(func(r simulator.Request) simulator.Fault {
			if r.Method == "PUT" {
				return simulator.Fault{Delay: 30 * time.Second} // slow, and then carried out
			}
			return simulator.Fault{}
		})
		w.publish(jobs(2, "Start")...)
		wk := w.start("one")
		time.Sleep(5 * time.Second)
		f := w.hanging()
		if f.Doing != DoingSend {
			w.t.Fatalf("the request is shown as %+v: no copy is out", f)
		}
		busy := ask[ResolveAnswer](w, "inflight-resolve", ResolveRequest{V: 1, App: testApp, Request: f.Request, How: queue.ResolveRetry, Reason: "r", Wait: time.Second})
		if busy.State != ResolveBusy {
			w.t.Errorf("answer %+v, want busy", busy)
		}
		if a := w.resolve(f, queue.ResolveRetry, ""); a.State != ResolveEnded {
			w.t.Errorf("answer %+v, want that it has ended meanwhile", a)
		}
		w.end(wk)
		got := w.results()
		if n := count(got); n[queue.Applied] != 2 || w.calls() != 1 {
			w.t.Errorf("outcomes %v after %d calls", n, w.calls())
		}
		w.reconcile(got, jobs(2, "Start"))
	})
}

// A request that was cut stands in its slot in parts. One of them is resolved, the other goes its own way, and the later
// job of the resolved one's record goes on.
func TestAPartOfARequestIsResolvedByItself(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		w.strike(func(r simulator.Request) simulator.Fault {
			if r.Method == "PUT" {
				return simulator.Fault{Kind: simulator.ServerError}
			}
			return simulator.Fault{}
		})
		js := append(jobs(3, "Start"), queue.Job{ID: "later", Site: "main", App: testApp, Record: 2, Action: "Start", Revision: -1})
		w.publish(js[1:]...)
		wk := w.start("one")
		time.Sleep(10 * time.Minute)
		if f := w.hanging(); len(f.Parts) != 2 {
			w.t.Fatalf("it stands in %d parts, want 2: %+v", len(f.Parts), f)
		}
		if a := w.resolve(w.hanging(), queue.ResolveApplied, "nobody"); a.State != ResolveEnded {
			w.t.Errorf("a job that is not in it: %+v", a)
		}
		if a := w.resolveForSure(queue.ResolveNotApplied, "j2"); strings.Join(a.Jobs, " ") != "j2" {
			w.t.Errorf("resolved are %v, want j2", a.Jobs)
		}
		if r := w.settle(1, time.Minute)["j2"]; r.Outcome != queue.Dead || r.Reason != queue.ReasonResolvedNotApplied {
			w.t.Errorf("j2 ended as %+v", r)
		}
		w.strike(nil)
		got := w.settle(3, 2*time.Hour)
		w.end(wk)
		if got["j3"].Outcome != queue.Applied || got["later"].Outcome != queue.Applied {
			w.t.Errorf("j3 ended as %+v, the later job of j2's record as %+v, want both applied", got["j3"], got["later"])
		}
		w.reconcile(got, js[2:])
	})
}

// A letter with an unknown outcome is resolved once, and its id stays known whatever it was resolved to.
func TestWhatWasUnknownEndsAsSomebodySaid(t *testing.T) {
	for how, want := range map[queue.Resolution]queue.Outcome{
		queue.ResolveApplied: queue.Applied, queue.ResolveNotApplied: queue.Dead, queue.ResolveRetry: queue.Already,
	} {
		t.Run(string(how), func(t *testing.T) {
			inWorld(t, 1, func(w *world) {
				n := 0
				w.strike(func(r simulator.Request) simulator.Fault {
					if r.Method != "PUT" {
						return simulator.Fault{}
					}
					if n++; n == 1 {
						return simulator.Fault{Kind: simulator.LostReply, Applied: true}
					}
					if err := w.sim.Edit(testApp, 1, "sato"); err != nil {
						w.t.Error(err)
					}
					return simulator.Fault{}
				})
				w.publish(job(1, "Start"))
				wk := w.start("one")
				if r := w.settle(1, time.Hour)["j1"]; r.Outcome != queue.Unknown {
					w.t.Fatalf("it ended as %+v, want unknown", r)
				}
				if err := w.queue.RetryDead(w.t.Context(), w.dead()[0], "ito", ""); err == nil {
					w.t.Error("an unknown outcome was retried as if it were dead")
				}
				if err := w.queue.ResolveDead(w.t.Context(), w.dead()[0], how, "ito", "seen"); err != nil {
					w.t.Fatal(err)
				}
				time.Sleep(11 * time.Minute) // longer than the log knows its ids
				w.publish(job(1, "Start"))
				time.Sleep(time.Minute)
				w.crash(wk)
				wk = w.start("two")
				time.Sleep(11 * time.Minute)
				w.publish(job(1, "Start"))
				time.Sleep(time.Minute)
				w.end(wk)
				if r := w.results()["j1"]; r.Outcome != want {
					w.t.Errorf("it ended as %+v, want %s", r, want)
				}
				if n := len(w.sim.Commits()); n != 1 || len(w.dead()) != 0 {
					w.t.Errorf("it was run %d times, want once; %d letters are left", n, len(w.dead()))
				}
			})
		})
	}
}

func TestOnlyALaneThatRunsResolves(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.apps[77] = AppConfig{}
		wk := w.start("one")
		time.Sleep(time.Second)
		for app, want := range map[int64]ResolveState{77: ResolveUnserved, 78: ResolveUnserved, testApp: ResolveEnded} {
			a := ask[ResolveAnswer](w, "inflight-resolve", ResolveRequest{V: 1, App: app, Request: "r", How: queue.ResolveApplied, Reason: "r", Wait: time.Second})
			if a.State != want {
				w.t.Errorf("app %d: %+v, want %s", app, a, want)
			}
		}
		if s := ask[InflightStatus](w, "inflight", nil); len(s.Silent) != 1 || s.Silent[0] != 77 || s.Owner != "one" {
			w.t.Errorf("shown is %+v", s)
		}
		if s := ask[InflightStatus](w, "inflight", InflightRequest{App: testApp}); len(s.Silent) != 0 {
			w.t.Errorf("of app %d alone is shown %+v", testApp, s)
		}
		for _, wrong := range []ResolveRequest{
			{V: 2, App: testApp, Request: "r", How: queue.ResolveApplied, Reason: "r"},
			{V: 1, App: testApp, Request: "r", How: "perhaps", Reason: "r"},
			{V: 1, App: testApp, Request: "r", How: queue.ResolveApplied},
		} {
			raw, _ := json.Marshal(wrong)
			if reply, err := w.queue.Ask(w.t.Context(), "main", "inflight-resolve", raw); err == nil {
				w.t.Errorf("%+v is answered with %s, want an error", wrong, reply)
			}
		}
		w.end(wk)
	})
}
