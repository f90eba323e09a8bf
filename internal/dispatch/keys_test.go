package dispatch

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// keyed is an app whose records have keys: code is C-1 and so on, one for each; group is shared by every third record;
// all is the same everywhere.
func keyed(records int) simulator.App {
	return simulator.App{
		ID: testApp, Name: "Orders", Records: records, AppCode: "ORD", Process: simulator.Workflow(),
		Tokens: []simulator.Token{simulator.ViewToken(testToken)},
		Fields: []simulator.Field{
			{Code: "code", Type: "SINGLE_LINE_TEXT", Default: func(r int64) string { return fmt.Sprintf("C-%d", r) }},
			{Code: "group", Type: "SINGLE_LINE_TEXT", Default: func(r int64) string { return fmt.Sprintf("G-%d", r%3) }},
			{Code: "all", Type: "SINGLE_LINE_TEXT", Default: func(int64) string { return "every" }},
			{Code: "number", Type: "NUMBER", Default: func(r int64) string { return fmt.Sprintf("%d.50", r) }},
			{Code: "notes", Type: "MULTI_LINE_TEXT"},
			{Code: "who", Type: "USER_SELECT"},
		},
	}
}

// byKey is a job that means the records that have a value in a field.
func byKey(id, field, value, match, action string) queue.Job {
	return queue.Job{ID: id, Site: "main", App: testApp, Key: &queue.Key{Field: field, Value: value}, Match: match, Action: action, Revision: -1}
}

func TestKeysAreLookedUpTogether(t *testing.T) {
	inWorldOf(t, keyed(1000), func(w *world) {
		var js []queue.Job
		for r := 1; r <= 1000; r++ {
			js = append(js, byKey(fmt.Sprintf("k%d", r), "code", fmt.Sprintf("C-%d", r), "", "Start"))
		}
		w.publish(js...)
		wk := w.start("one")
		got := w.settle(1000, time.Hour)
		w.end(wk)
		if n := count(got); n[queue.Applied] != 1000 {
			t.Fatalf("outcomes %v, want all applied", n)
		}
		for r := int64(1); r <= 1000; r++ {
			if end := got[fmt.Sprintf("k%d", r)]; end.Record != r || end.Revision != 3 {
				t.Fatalf("job k%d ended on record %d at revision %d", r, end.Record, end.Revision)
			}
		}
		c := w.sim.Requests()
		t.Logf("requests: %v", c.Kinds)
		if c.Kinds["PUT records/status.json"] != 10 || c.Total > 10+5+3+3 {
			t.Errorf("%d requests, %v: want 10 calls, 5 look-ups of 200 keys, 3 to begin and hardly a read besides", c.Total, c.Kinds)
		}
	})
}

func TestKeysThatMeanNoRecordOrTooMany(t *testing.T) {
	// Sources: docs/kintone.md 6 (Q, EMU).
	tests := []struct {
		name    string
		job     queue.Job
		outcome queue.Outcome
		reason  string
		record  int64
	}{
		{"text", byKey("k", "code", "C-7", "", "Start"), queue.Applied, "", 7},
		{"text in another case is another text", byKey("k", "code", "c-7", "", "Start"), queue.Dead, ReasonKeyNotFound, 0},
		{"quotes stay quotes", byKey("k", "code", `x" or code != "`, "", "Start"), queue.Dead, ReasonKeyNotFound, 0},
		{"number written otherwise", byKey("k", "number", "7.5", "", "Start"), queue.Applied, "", 7},
		{"not a number", byKey("k", "number", "seven", "", "Start"), queue.Dead, ReasonKeyInvalid, 0},
		{"the id itself", byKey("k", "$id", "7", "", "Start"), queue.Applied, "", 7},
		{"an id that is not there", byKey("k", "$id", "700", "", "Start"), queue.Dead, ReasonRecordNotFound, 700},
		{"record number", byKey("k", "Record_number", "7", "", "Start"), queue.Applied, "", 7},
		{"record number with the app's code", byKey("k", "Record_number", "ORD-7", "", "Start"), queue.Applied, "", 7},
		{"record number with another code", byKey("k", "Record_number", "XYZ-7", "", "Start"), queue.Dead, ReasonKeyRefused, 0},
		{"several", byKey("k", "group", "G-1", "", "Start"), queue.Dead, ReasonKeyAmbiguous, 0},
		{"several, for one revision", func() queue.Job {
			j := byKey("k", "group", "G-1", queue.MatchAll, "Start")
			j.Revision = 1
			return j
		}(), queue.Dead, ReasonKeyRevision, 0},
		{"all of none", byKey("k", "group", "G-9", queue.MatchAll, "Start"), queue.Dead, ReasonKeyNotFound, 0},
		{"blank", byKey("k", "code", " ", "", "Start"), queue.Dead, ReasonKeyInvalid, 0},
		{"no such field", byKey("k", "kode", "C-7", "", "Start"), queue.Dead, ReasonKeyFieldInvalid, 0},
		{"a field that cannot be compared", byKey("k", "notes", "x", "", "Start"), queue.Dead, ReasonKeyFieldInvalid, 0},
		{"a field with several values", byKey("k", "who", "sato", "", "Start"), queue.Dead, ReasonKeyFieldInvalid, 0},
		{"the record stands elsewhere", byKey("k", "code", "C-7", "", "Approve"), queue.Dead, ReasonStatusMismatch, 7},
		{"the revision has moved", func() queue.Job { j := byKey("k", "code", "C-7", "", "Start"); j.Revision = 9; return j }(), queue.Dead, ReasonRevisionConflict, 7},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inWorldOf(t, keyed(30), func(w *world) {
				w.publish(tt.job)
				wk := w.start("one")
				got := w.settle(1, time.Hour)["k"]
				w.end(wk)
				if got.Outcome != tt.outcome || got.Reason != tt.reason || got.Record != tt.record {
					t.Errorf("ended %+v, want %s %s on record %d", got, tt.outcome, tt.reason, tt.record)
				}
				if n := len(w.sim.Commits()); n > 1 || (n == 1) != (tt.outcome == queue.Applied) {
					t.Errorf("%d commits for a job that ended %s", n, got.Outcome)
				}
			})
		})
	}
}

func TestAKeyWaitsForItsRecord(t *testing.T) {
	inWorldOf(t, keyed(3), func(w *world) {
		w.publish(byKey("a", "code", "C-9", "", "Start"), byKey("b", "code", "C-9", "", "Approve"), job(2, "Start"))
		wk := w.start("one")
		w.settle(1, time.Minute) // record 2 does not wait for a key that finds nothing
		w.crash(wk)
		if err := w.sim.Put(testApp, 9, func(*simulator.RecordState) {}); err != nil {
			t.Fatal(err)
		}
		wk = w.start("two")
		got := w.settle(3, time.Hour)
		w.end(wk)
		if n := count(got); n[queue.Applied] != 3 || got["a"].Record != 9 || got["b"].Revision != 5 {
			t.Errorf("ended %+v", got)
		}
	})
}

// Who has the same record by its id waits for who came before with its key, and the other way round.
func TestOrderHoldsAcrossKeysAndIDs(t *testing.T) {
	inWorldOf(t, keyed(300), func(w *world) {
		rng := rand.New(rand.NewPCG(7, 7))
		next := []string{"Start", "Approve", "Reopen"}
		var js []queue.Job
		at := make(map[int64]int)
		for i := range 1500 {
			r := int64(rng.IntN(100) + 1)
			j := job(r, next[at[r]%3])
			at[r]++
			j.ID = fmt.Sprintf("o%d", i)
			switch rng.IntN(4) {
			case 0:
				j = byKey(j.ID, "code", fmt.Sprintf("C-%d", r), "", j.Action)
			case 1:
				j = byKey(j.ID, "Record_number", fmt.Sprintf("ORD-%d", r), "", j.Action)
			}
			js = append(js, j)
		}
		w.publish(js...)
		wk := w.start("one")
		got := w.settle(len(js), 2*time.Hour)
		w.end(wk)
		if n := count(got); n[queue.Applied] != len(js) {
			t.Errorf("outcomes %v, want all applied: any other order meets the wrong status", n)
		}
		if n := len(w.sim.Commits()); n != len(js) {
			t.Errorf("%d commits of %d jobs", n, len(js))
		}
	})
}

func TestAllThatMatchBecomeJobsOfTheirOwn(t *testing.T) {
	inWorldOf(t, keyed(1300), func(w *world) {
		p := byKey("month-end", "all", "every", queue.MatchAll, "Start")
		p.Ref, p.Campaign = "PO-1", "m"
		after := job(1300, "Approve") // waits for the last of them
		w.publish(p, after)
		w.sim.Put(testApp, 700, func(r *simulator.RecordState) { r.Assignees = []string{"sato"} })
		wk := w.start("one")
		got := w.settle(1302, time.Hour)
		w.end(wk)
		if r := got["month-end"]; r.Outcome != queue.Matched || r.Matches != 1300 || r.Ref != "PO-1" {
			t.Errorf("the parent ended %+v", r)
		}
		if n := count(got); n[queue.Applied] != 1300 || n[queue.Dead] != 1 {
			t.Errorf("outcomes %v, want 1,299 applied and the one after, and one dead", n)
		}
		child := got["month-end/700"]
		if child.Outcome != queue.Dead || child.Reason != ReasonNotAssignee || child.Parent != "month-end" || child.Campaign != "m" {
			t.Errorf("the child whose record is another's ended %+v", child)
		}
		letters := w.dead()
		if len(letters) != 1 || letters[0].Parent != "month-end" || letters[0].Job.Record != 700 || letters[0].Job.Key != nil {
			t.Fatalf("letters %+v", letters)
		}
		// Sent again, it is a job like any other.
		w.sim.Put(testApp, 700, func(r *simulator.RecordState) { r.Assignees = nil })
		if err := w.queue.RetryDead(w.t.Context(), letters[0], "ops", "assigned"); err != nil {
			t.Fatal(err)
		}
		wk = w.start("two")
		for w.results()["month-end/700"].Outcome != queue.Applied {
			time.Sleep(time.Second)
		}
		w.end(wk)
		if r := w.results()["month-end/700"]; r.Parent != "month-end" {
			t.Errorf("after the retry %+v", r)
		}
		if n := len(w.sim.Commits()); n != 1301 {
			t.Errorf("%d commits, want 1,301", n)
		}
	})
}

// An owner dies while it makes jobs of what matches, again and again: each record gets one job.
func TestMatchesAreMadeOnceThoughOwnersDie(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inWorldOf(t, keyed(1200), func(w *world) {
				rng, pause := rand.New(rand.NewPCG(seed, 4)), rand.New(rand.NewPCG(seed, 5)) // kintone has one of its own
				w.publish(byKey("a", "all", "every", queue.MatchAll, "Start"), byKey("b", "group", "G-1", queue.MatchAll, "Approve"),
					byKey("c", "code", "C-1", "", "Reopen"))
				w.strike(func(r simulator.Request) simulator.Fault {
					if rng.IntN(4) == 0 {
						return simulator.Fault{Kind: simulator.LostReply}
					}
					return simulator.Fault{}
				})
				for i := range 12 {
					wk := w.start(fmt.Sprintf("w%d", i))
					time.Sleep(15*time.Second + time.Duration(pause.IntN(3000))*time.Millisecond)
					w.crash(wk)
				}
				w.strike(nil)
				wk := w.start("last")
				want := 1 + 1200 + 1 + 400 + 1
				got := w.settle(want, 12*time.Hour)
				w.end(wk)
				if n := count(got); n[queue.Applied]+n[queue.Unknown] != 1601 || n[queue.Matched] != 2 {
					t.Errorf("outcomes %v", n)
				}
				acts := make(map[string]int)
				for _, c := range w.sim.Commits() {
					acts[fmt.Sprintf("%d %s", c.Record, c.Action)]++
				}
				for act, n := range acts {
					if n != 1 {
						t.Errorf("%s ran %d times", act, n)
					}
				}
				if len(acts) != 1601 {
					t.Errorf("%d actions ran, want 1,601", len(acts))
				}
			})
		})
	}
}

func TestAnIDThatAChildWouldHaveIsNotTakenTwice(t *testing.T) {
	inWorldOf(t, keyed(3), func(w *world) {
		own := job(2, "Start")
		own.ID, own.NotBefore = "p/2", time.Now().Add(time.Hour)
		w.publish(own, byKey("p", "all", "every", queue.MatchAll, "Start"))
		wk := w.start("one")
		w.settle(3, 10*time.Minute) // p, p/1, p/3, and p/2 as a duplicate
		time.Sleep(2 * time.Hour)
		got := w.results()
		w.end(wk)
		if got["p/2"].Outcome != queue.Applied || got["p"].Matches != 3 {
			t.Errorf("ended %+v", got)
		}
		if n := len(w.sim.Commits()); n != 3 {
			t.Errorf("%d commits, want 3", n)
		}
	})
}

func TestJobsWithKeysAreDuplicatesByTheirID(t *testing.T) {
	inWorldOf(t, keyed(5), func(w *world) {
		w.publish(byKey("a", "code", "C-1", "", "Start"))
		wk := w.start("one")
		w.settle(1, time.Minute)
		w.crash(wk)
		time.Sleep(15 * time.Minute) // NATS has forgotten the id
		w.publish(byKey("a", "code", "C-1", "", "Start"), byKey("b", "code", "C-2", "", "Start"))
		wk = w.start("two")
		w.settle(2, time.Minute)
		w.end(wk)
		if n := len(w.sim.Commits()); n != 2 {
			t.Errorf("%d commits, want 2: a ran before", n)
		}
	})
}

// A job that is sent again while the first is still to come is told so: whoever waits for it waits for the first.
func TestADuplicateOfAJobThatHasNotEndedSaysSo(t *testing.T) {
	inWorldOf(t, keyed(1300), func(w *world) {
		later := job(2, "Start")
		later.ID, later.NotBefore, later.Campaign = "later", time.Now().Add(2*time.Hour), "m"
		missing := byKey("missing", "code", "C-9999", "", "Start")
		missing.NotBefore = time.Now().Add(2 * time.Hour)
		done := byKey("done", "code", "C-7", "", "Start")
		w.publish(later, missing, done)
		wk := w.start("one")
		w.settle(1, time.Minute)
		w.crash(wk)
		time.Sleep(15 * time.Minute) // NATS has forgotten the ids
		wk = w.start("two")
		other := later
		other.Campaign = "another"
		w.publish(later, missing, done)
		time.Sleep(15 * time.Minute)
		w.publish(other)
		time.Sleep(time.Minute)
		told := make(map[string]int)
		for r, err := range w.queue.Results(w.t.Context(), queue.ResultFilter{Site: "main"}) {
			if err != nil {
				t.Fatal(err)
			}
			told[fmt.Sprint(r.Job, " ", r.Outcome, " ", r.Reason)]++
		}
		w.end(wk)
		for _, want := range []string{"later duplicate under_way", "later duplicate ", "missing duplicate under_way", "done duplicate ", "done applied "} {
			if told[want] != 1 {
				t.Errorf("%q was told %d times: %v", want, told[want], told)
			}
		}
	})
}

// kintone refuses a question for one key's sake, or does not answer it: the others are found all the same.
func TestOneBadKeyDoesNotSpoilTheQuestion(t *testing.T) {
	inWorldOf(t, keyed(400), func(w *world) {
		slow := &tooSlowFor{next: w.transport, text: "%22C-77%22"}
		w.transport = slow
		var js []queue.Job
		for r := 1; r <= 200; r++ {
			js = append(js, byKey(fmt.Sprintf("k%d", r), "code", fmt.Sprintf("C-%d", r), "", "Start"))
		}
		wk := w.start("one")
		w.publish(js...)
		got := w.settle(200, 6*time.Hour)
		w.end(wk)
		if n := count(got); n[queue.Applied] != 199 || got["k77"].Reason != ReasonKeyRefused {
			t.Errorf("outcomes %v, k77 %+v", n, got["k77"])
		}
		if n := slow.n.Load(); n == 0 || n > 40 {
			t.Errorf("%d questions failed", n)
		}
	})
}

// tooSlowFor does not answer what has a text in its URL.
type tooSlowFor struct {
	next http.RoundTripper
	text string
	n    atomic.Int32
}

func (s *tooSlowFor) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.Contains(r.URL.RawQuery, s.text) {
		s.n.Add(1)
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return s.next.RoundTrip(r)
}

func TestACampaignThatIsCancelledLeavesNothingToRun(t *testing.T) {
	inWorldOf(t, keyed(500), func(w *world) {
		ctx := context.Background()
		if err := w.queue.PutCampaign(ctx, queue.Campaign{Name: "m", Site: "main", Total: 400, Started: time.Now()}); err != nil {
			t.Fatal(err)
		}
		js := jobs(400, "Start")
		for i := range js {
			js[i].Campaign = "m"
			if i%2 == 1 {
				js[i].NotBefore = time.Now().Add(24 * time.Hour)
			}
		}
		other := job(450, "Start")
		wk := w.start("one")
		time.Sleep(time.Second)
		w.strike(func(simulator.Request) simulator.Fault { return simulator.Fault{Kind: simulator.Unavailable} })
		w.publish(append(js, other)...)
		time.Sleep(time.Minute)
		err := w.queue.UpdateCampaign(ctx, "m", func(c *queue.Campaign) error { c.Cancelled, c.CancelledBy = time.Now(), "ops"; return nil })
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		w.strike(nil)
		got := w.settle(401, 2*time.Hour)
		w.end(wk)
		n := count(got)
		if n[queue.Cancelled] < 200 || n[queue.Applied]+n[queue.Cancelled] != 401 || got["j450"].Outcome != queue.Applied {
			t.Errorf("outcomes %v", n)
		}
		if got["j2"].Outcome != queue.Cancelled || got["j2"].Reason != ReasonCancelled {
			t.Errorf("a job of tomorrow ended %+v", got["j2"])
		}
		if c := len(w.sim.Commits()); c != n[queue.Applied] {
			t.Errorf("%d commits, %d applied", c, n[queue.Applied])
		}
	})
}

func TestTheFirstDeadStopsACampaignThatWantsNone(t *testing.T) {
	inWorldOf(t, keyed(2000), func(w *world) {
		none := 0
		if err := w.queue.PutCampaign(context.Background(), queue.Campaign{Name: "m", Site: "main", Total: 1000, Started: time.Now(), MaxDead: &none}); err != nil {
			t.Fatal(err)
		}
		js := jobs(1500, "Start")
		for i := range js {
			js[i].Campaign = "m"
		}
		js[200].Action = "no such action"
		wk := w.start("one")
		time.Sleep(time.Second)
		w.publish(js...)
		got := w.settle(1500, time.Hour)
		n := count(got)
		if n[queue.Dead] != 1 || n[queue.Cancelled] < 900 || n[queue.Applied]+n[queue.Cancelled] != 1499 {
			t.Errorf("outcomes %v", n)
		}
		if got["j1500"].Reason != ReasonMaxDead {
			t.Errorf("the last ended %+v", got["j1500"])
		}
		c, err := w.queue.Campaign(context.Background(), "m")
		if err != nil || c.Cancelled.IsZero() || c.CancelledWhy != ReasonMaxDead {
			t.Errorf("campaign %+v, %v: who sends it is to hear", c, err)
		}
		// The next owner knows, too; and what an operator sends again is his wish.
		w.crash(wk)
		wk = w.start("two")
		late := job(1600, "Start")
		late.Campaign = "m"
		w.publish(late)
		if got := w.settle(1501, time.Hour)["j1600"]; got.Outcome != queue.Cancelled {
			t.Errorf("a late job ended %+v", got)
		}
		d := w.dead()[0]
		d.Job.Action = "Start"
		if err := w.queue.RetryDead(w.t.Context(), d, "ops", "mended"); err != nil {
			t.Fatal(err)
		}
		for range 600 {
			if w.results()["j201"].Outcome == queue.Applied {
				break
			}
			time.Sleep(time.Second)
		}
		if got := w.results()["j201"]; got.Outcome != queue.Applied {
			t.Errorf("the one that was sent again ended %+v", got)
		}
		w.end(wk)
	})
}

// loops is an app whose actions leave a record where it is, so that nothing but their order tells them apart.
func loops(records int) simulator.App {
	app := keyed(records)
	app.Process = simulator.Process{
		Enabled: true, States: []simulator.State{{Name: "Open"}},
		Actions: []simulator.Action{{Name: "A", From: "Open", To: "Open"}, {Name: "B", From: "Open", To: "Open"}},
	}
	return app
}

// While requests are out a few keys wait for company and 500 records do not: they are not read for before the keys.
func TestNothingPassesAKeyThatIsNotLookedUp(t *testing.T) {
	inWorldOf(t, loops(2000), func(w *world) {
		w.strike(func(r simulator.Request) simulator.Fault {
			if r.Method == http.MethodPut {
				return simulator.Fault{Delay: 3 * time.Second}
			}
			return simulator.Fault{}
		})
		var first, then []queue.Job
		for r := int64(1000); r < 1100; r++ {
			first = append(first, job(r, "A"))
		}
		wk := w.start("one")
		time.Sleep(time.Second)
		w.publish(first...)
		time.Sleep(time.Second) // they are out
		then = append(then, byKey("k", "code", "C-1", "", "A"), job(1, "B"))
		for r := int64(2); r <= 700; r++ {
			then = append(then, job(r, "B"))
		}
		w.publish(then...)
		got := w.settle(len(first)+len(then), time.Hour)
		w.end(wk)
		if n := count(got); n[queue.Applied] != len(first)+len(then) {
			t.Errorf("outcomes %v", n)
		}
		var order string
		for _, c := range w.sim.Commits() {
			if c.Record == 1 {
				order += c.Action
			}
		}
		if order != "AB" {
			t.Errorf("record 1 saw %q, published was A by its key and then B by its id", order)
		}
	})
}

// A job that was parked before its key was found leaves the ledger where it stood there, under no record: the next owner
// would run it again.
func TestAKeyThatIsFoundLateIsNotKeptInItsOldPlace(t *testing.T) {
	inWorldOf(t, loops(3), func(w *world) {
		w.publish(byKey("a", "code", "C-9", "", "A"), byKey("b", "code", "C-8", "", "A"))
		wk := w.start("one")
		time.Sleep(5 * time.Second)
		for r := int64(8); r <= 9; r++ {
			if err := w.sim.Put(testApp, r, func(s *simulator.RecordState) {
				if r == 8 {
					s.Assignees = []string{"sato"} // found, and parked again under its record
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		w.settle(2, time.Hour)
		for _, id := range []string{"a", "b"} {
			if at, err := w.queue.FindJob(w.t.Context(), "main", testApp, id); err != nil || at.Parked != nil {
				t.Errorf("job %s has ended and is parked: %+v, %v", id, at.Parked, err)
			}
		}
		w.crash(wk)
		wk = w.start("two")
		time.Sleep(time.Hour)
		w.end(wk)
		if n := len(w.sim.Commits()); n != 1 {
			t.Errorf("%d actions ran, want that of job a alone", n)
		}
	})
}

// What a look-up saw of a record is no pin if a request of ours on it ended meanwhile: the lane did not know whose record
// it was when it asked.
func TestAFindIsNoPinOnceTheRecordHasMoved(t *testing.T) {
	inWorldOf(t, loops(2000), func(w *world) {
		w.strike(func(r simulator.Request) simulator.Fault {
			if r.Method == http.MethodPut {
				return simulator.Fault{Delay: 3 * time.Second}
			}
			return simulator.Fault{}
		})
		w.transport = lateAnswers{w.transport, "%22C-1%22"}
		w.apps[testApp] = AppConfig{DailyRequests: -1, Attempts: 1}
		wk := w.start("one")
		time.Sleep(time.Second)
		w.publish(job(1, "A"))
		time.Sleep(time.Second) // it is out
		js := []queue.Job{byKey("k", "code", "C-1", "", "A")}
		for r := 5001; r <= 5600; r++ { // so many do not wait for it; they find nothing, so that k travels alone
			js = append(js, byKey(fmt.Sprintf("k%d", r), "code", fmt.Sprintf("C-%d", r), "", "A"))
		}
		w.publish(js...)
		got := w.settle(602, time.Hour)
		w.end(wk)
		if n := count(got); n[queue.Applied] != 2 {
			t.Errorf("outcomes %v", n)
		}
		n := 0
		for _, c := range w.sim.Commits() {
			if c.Record == 1 {
				n++
			}
		}
		if n != 2 {
			t.Errorf("A ran %d times on record 1, and two jobs say that it was applied", n)
		}
	})
}

// lateAnswers holds back what was answered to requests with a text in their URL.
type lateAnswers struct {
	http.RoundTripper
	text string
}

func (l lateAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := l.RoundTripper.RoundTrip(r)
	if strings.Contains(r.URL.RawQuery, l.text) {
		time.Sleep(5 * time.Second)
	}
	return answer, err
}
