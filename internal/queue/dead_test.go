package queue_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/queue"
)

// bury makes n dead letters of app 5 by way of a settlement.
func bury(t *testing.T, l *queue.Ledger, n int) {
	t.Helper()
	set := &queue.Settlement{Request: "r"}
	for i := range n {
		j := job(5, fmt.Sprintf("j%d", i), int64(i+1))
		j.Campaign = "c" + fmt.Sprint(i%2)
		set.Dead = append(set.Dead, &queue.DeadLetter{Job: j, Seq: uint64(i + 1), Outcome: queue.Dead, Reason: "gone", Died: time.Now(),
			Attempts: []queue.Attempt{{Reason: "busy"}}})
		set.Results = append(set.Results, queue.Result{Seq: uint64(i + 1), Job: j.ID, Record: j.Record, Outcome: queue.Dead, Campaign: j.Campaign})
	}
	if err := l.Write(t.Context(), 0, queue.Slot{}, set); err != nil {
		t.Fatal(err)
	}
}

func TestDeadLettersAreFiltered(t *testing.T) {
	q := start(t)
	l, _ := open(t, q, 7)
	bury(t, l, 10)
	for want, f := range map[string]queue.DeadFilter{
		"j0 j1 j2 j3 j4 j5 j6 j7 j8 j9": {},
		"j1 j3 j5 j7 j9":                {Site: "main", App: 5, Campaign: "c1"},
		"j4":                            {Job: "j4"},
		"j6":                            {Record: 7},
		"j0 j2 j4":                      {Campaign: "c0", Limit: 3, Reason: "gone"},
		"":                              {Code: "GAIA_RE01"},
	} {
		var got []string
		for _, d := range drain(t, q.Dead(t.Context(), f)) {
			got = append(got, d.Job.ID)
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%+v gives %q, want %q", f, s, want)
		}
	}
	if n := len(drain(t, q.Dead(t.Context(), queue.DeadFilter{App: 55}))); n != 0 {
		t.Errorf("app 55 has %d dead letters", n)
	}
}

func TestRetryDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := start(t)
		l, _ := open(t, q, 7)
		bury(t, l, 3)
		load(t, l)
		letters := drain(t, q.Dead(t.Context(), queue.DeadFilter{}))

		retried := make(chan queue.Parked)
		go func() {
			p, err := l.Retried(t.Context())
			if err != nil {
				t.Error(err)
			}
			retried <- p
		}()
		// What the lane parks itself is not a retry.
		set := &queue.Settlement{Park: []*queue.Parked{{Job: job(5, "own", 9), Seq: 9}}}
		if err := l.Write(t.Context(), 0, queue.Slot{}, set); err != nil {
			t.Fatal(err)
		}
		if err := q.RetryDead(t.Context(), letters[1], "sato", "mended"); err != nil {
			t.Fatal(err)
		}
		p := <-retried
		if p.Job.ID != "j1" || p.Epoch != 0 || p.Seq != 2 || p.Due.After(time.Now()) || len(p.Attempts) != 3 ||
			p.Attempts[1].Reason != "gone" || p.Attempts[2].Reason != queue.ReasonRetried {
			t.Errorf("the lane hears of %+v, want j1, due, with its history", p)
		}
		if got, err := q.ParkedAt(t.Context(), p.At); err != nil || got.Job.ID != "j1" {
			t.Errorf("at %d stands %q (%v)", p.At, got.Job.ID, err)
		}
		wantErr(t, "a second retry", q.RetryDead(t.Context(), letters[1], "sato", ""), queue.ErrGone)
		wantErr(t, "a discard after it", q.DiscardDead(t.Context(), letters[1], "sato", ""), queue.ErrGone)
		if err := q.DiscardDead(t.Context(), letters[2], "suzuki", "not needed"); err != nil {
			t.Fatal(err)
		}
		if left := drain(t, q.Dead(t.Context(), queue.DeadFilter{})); len(left) != 1 || left[0].Job.ID != "j0" {
			t.Errorf("left are %+v, want j0", left)
		}

		// Dies again: what was read before is not what is there.
		again := &queue.Settlement{Unpark: []queue.ParkedRef{p.Ref()}, Dead: []*queue.DeadLetter{{Job: p.Job, Seq: p.Seq, Outcome: queue.Dead}}}
		if err := l.Write(t.Context(), 0, queue.Slot{}, again); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "a retry of the first death", q.RetryDead(t.Context(), letters[1], "sato", ""), queue.ErrGone)

		// A job that an operator has mended leaves the letter that was read, also under another name.
		mended := letters[0]
		mended.Job.Campaign, mended.Job.Record = "elsewhere", 77
		if err := q.RetryDead(t.Context(), mended, "sato", "edited"); err != nil {
			t.Fatal(err)
		}
		if left := drain(t, q.Dead(t.Context(), queue.DeadFilter{})); len(left) != 1 || left[0].Job.ID != "j1" {
			t.Errorf("left are %+v, want j1", left)
		}

		next, _ := open(t, q, 8)
		if got := names(load(t, next).parked); got != "j0 own" {
			t.Errorf("the next owner finds %q parked, want j0 and own", got)
		}
		var verbs []string
		for _, a := range drain(t, q.Audits(t.Context(), "main", 5)) {
			verbs = append(verbs, a.Verb+" "+a.By+" "+a.Job)
		}
		want := "takeover  ; dead retry sato j1; dead discard suzuki j2; dead retry sato j0; takeover  "
		if got := strings.Join(verbs, "; "); got != want {
			t.Errorf("the audit says %q, want %q", got, want)
		}
	})
}

// Of many operators that retry or discard the same letter, one does.
func TestDeadLetterRace(t *testing.T) {
	q := start(t)
	l, _ := open(t, q, 7)
	bury(t, l, 1)
	d := drain(t, q.Dead(t.Context(), queue.DeadFilter{}))[0]
	var wg sync.WaitGroup
	errs := make(chan error, 16)
	for i := range 16 {
		wg.Go(func() {
			if i%2 == 0 {
				errs <- q.RetryDead(t.Context(), d, "a", "")
			} else {
				errs <- q.DiscardDead(t.Context(), d, "b", "")
			}
		})
	}
	wg.Wait()
	close(errs)
	done := 0
	for err := range errs {
		if err == nil {
			done++
		}
	}
	if done != 1 {
		t.Errorf("%d of 16 succeeded, want 1", done)
	}
}

func TestRetryDeadOverABrokenWire(t *testing.T) {
	for name, breakIt := range map[string]func(*wire, string){"lost": (*wire).lose, "ack lost": (*wire).cut, "late": (*wire).hold} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := serve(t)
				plain := s.Connect(t)
				l, _ := open(t, plain, 7)
				bury(t, l, 1)
				q, w := connect(t, s)
				d := drain(t, q.Dead(t.Context(), queue.DeadFilter{}))[0]
				breakIt(w, "marker")
				if err := q.RetryDead(t.Context(), d, "sato", "marker"); err != nil {
					t.Fatal(err)
				}
				w.wantBroken(t)
				if name == "late" {
					w.deliver(t)
					time.Sleep(time.Second)
				}
				if got := names(load(t, l).parked); got != "j0" {
					t.Errorf("parked are %q, want j0", got)
				}
				retries := 0
				for _, a := range drain(t, plain.Audits(t.Context(), "main", 5)) {
					if a.Verb == "dead retry" {
						retries++
					}
				}
				if retries != 1 {
					t.Errorf("the audit tells of %d retries, want 1", retries)
				}
			})
		})
	}
}

// doubt makes n letters of app 5 with an unknown outcome, all of one request.
func doubt(t *testing.T, l *queue.Ledger, n int) {
	t.Helper()
	set := &queue.Settlement{Request: "r"}
	for i := range n {
		j := job(5, fmt.Sprintf("u%d", i), int64(i+1))
		j.Campaign, j.Ref = "c", "PO"
		tries := []queue.Attempt{{At: time.Now().UTC(), Request: "r", Reason: "outcome_unknown"}}
		set.Dead = append(set.Dead, &queue.DeadLetter{Job: j, Seq: uint64(i + 1), Outcome: queue.Unknown, Reason: "outcome_unknown", Died: time.Now(),
			Attempts: tries, Evidence: &queue.Evidence{Request: "r", Pin: 3, Revision: 7}})
		set.Results = append(set.Results, queue.Result{Seq: uint64(i + 1), Job: j.ID, Record: j.Record, Outcome: queue.Unknown, Campaign: j.Campaign})
	}
	if err := l.Write(t.Context(), 0, queue.Slot{}, set); err != nil {
		t.Fatal(err)
	}
}

func TestResolveDead(t *testing.T) {
	q := start(t)
	l, _ := open(t, q, 7)
	doubt(t, l, 3)
	bury(t, l, 1)
	letters := drain(t, q.Dead(t.Context(), queue.DeadFilter{Request: "r"}))
	if len(letters) != 3 {
		t.Fatalf("%d letters of the request, want 3", len(letters))
	}
	plain := drain(t, q.Dead(t.Context(), queue.DeadFilter{Job: "j0"}))[0]
	wantErr(t, "a retry of an unknown outcome", q.RetryDead(t.Context(), letters[0], "ito", ""), queue.ErrOutcomeUnknown)
	wantErr(t, "a resolution of a dead one", q.ResolveDead(t.Context(), plain, queue.ResolveApplied, "ito", ""), queue.ErrOutcomeKnown)
	if err := q.ResolveDead(t.Context(), letters[0], "perhaps", "ito", ""); err == nil {
		t.Error("a resolution that is none was accepted")
	}
	if n := len(drain(t, q.Dead(t.Context(), queue.DeadFilter{}))); n != 4 {
		t.Errorf("%d letters are left, want all 4", n)
	}

	for i, how := range []queue.Resolution{queue.ResolveApplied, queue.ResolveNotApplied, queue.ResolveRetry} {
		if err := q.ResolveDead(t.Context(), letters[i], how, "ito", "seen"); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "a second time", q.ResolveDead(t.Context(), letters[i], how, "ito", "seen"), queue.ErrGone)
	}
	find := func(job string) queue.JobState {
		s, err := q.FindJob(t.Context(), "main", 5, job)
		if err != nil {
			t.Fatal(err)
		}
		if s.Dead != nil {
			t.Errorf("the letter of %s is still there", job)
		}
		if len(s.Acts) != 1 || s.Acts[0].By != "ito" || s.Acts[0].Reason != "seen" {
			t.Errorf("what was done about %s is %+v", job, s.Acts)
		}
		return s
	}
	for job, want := range map[string]queue.Result{
		"u0": {Outcome: queue.Applied, Reason: queue.ReasonResolved},
		"u1": {Outcome: queue.Dead, Reason: queue.ReasonResolvedNotApplied},
	} {
		s := find(job)
		if len(s.Results) != 2 {
			t.Fatalf("%s has the ends %+v, want unknown and what it was resolved to", job, s.Results)
		}
		r := s.Results[1]
		if r.Outcome != want.Outcome || r.Reason != want.Reason || r.Message != "ito: seen" || r.Request != "r" || r.Campaign != "c" || r.Ref != "PO" ||
			r.Record != s.Results[0].Record || r.Seq != s.Results[0].Seq || len(r.Attempts) != 1 {
			t.Errorf("%s ended as %+v", job, r)
		}
	}
	s := find("u2")
	if p := s.Parked; p == nil || p.Due.After(time.Now()) || p.Seq != 3 || len(p.Attempts) != 2 || p.Attempts[1].Reason != queue.ReasonRetried || len(s.Results) != 1 {
		t.Errorf("u2 is %+v, want it parked, due, with its history", s)
	}
	// The next owner knows all three.
	next, _ := open(t, q, 8)
	got := load(t, next)
	if names(got.parked) != "u2" || len(got.ended) != 6 {
		t.Errorf("the next owner finds %q parked and %d ends, want u2 and 6", names(got.parked), len(got.ended))
	}
}

// Of many operators that say different things about the same letter, one is heard, and the ledger tells of one.
func TestResolveDeadRace(t *testing.T) {
	q := start(t)
	l, _ := open(t, q, 7)
	doubt(t, l, 1)
	d := drain(t, q.Dead(t.Context(), queue.DeadFilter{}))[0]
	var wg sync.WaitGroup
	errs := make(chan error, 16)
	for i := range 16 {
		wg.Go(func() {
			switch i % 4 {
			case 0:
				errs <- q.DiscardDead(t.Context(), d, "d", "")
			case 1:
				errs <- q.ResolveDead(t.Context(), d, queue.ResolveRetry, "r", "")
			case 2:
				errs <- q.ResolveDead(t.Context(), d, queue.ResolveApplied, "a", "")
			default:
				errs <- q.ResolveDead(t.Context(), d, queue.ResolveNotApplied, "n", "")
			}
		})
	}
	wg.Wait()
	close(errs)
	done := 0
	for err := range errs {
		if err == nil {
			done++
		} else {
			wantErr(t, "who came later", err, queue.ErrGone)
		}
	}
	s, err := q.FindJob(t.Context(), "main", 5, "u0")
	if err != nil {
		t.Fatal(err)
	}
	if done != 1 || len(s.Acts) != 1 || len(s.Results) > 2 || s.Parked != nil && len(s.Results) != 1 {
		t.Errorf("%d of 16 succeeded, want 1; the job is %+v", done, s)
	}
}

func TestResolveDeadOverABrokenWire(t *testing.T) {
	for name, breakIt := range map[string]func(*wire, string){"lost": (*wire).lose, "ack lost": (*wire).cut, "late": (*wire).hold} {
		for _, how := range []queue.Resolution{queue.ResolveApplied, queue.ResolveNotApplied, queue.ResolveRetry} {
			t.Run(name+" "+string(how), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := serve(t)
					plain := s.Connect(t)
					l, _ := open(t, plain, 7)
					doubt(t, l, 1)
					q, w := connect(t, s)
					d := drain(t, q.Dead(t.Context(), queue.DeadFilter{}))[0]
					breakIt(w, "marker")
					if err := q.ResolveDead(t.Context(), d, how, "ito", "marker"); err != nil {
						t.Fatal(err)
					}
					w.wantBroken(t)
					if name == "late" {
						w.deliver(t)
						time.Sleep(time.Second)
					}
					job, err := plain.FindJob(t.Context(), "main", 5, "u0")
					if err != nil {
						t.Fatal(err)
					}
					outcome, _ := how.Ending()
					if ends := len(job.Results) - 1; job.Dead != nil || len(job.Acts) != 1 || ends > 1 || (ends == 1) != (outcome != "") ||
						(job.Parked != nil) != (how == queue.ResolveRetry) {
						t.Errorf("the job is %+v", job)
					}
				})
			})
		}
	}
}

// A note about a request is one about each of its jobs.
func TestAuditsAreFoundByJob(t *testing.T) {
	a := queue.Audit{Job: "a", Jobs: []string{"b", "c"}}
	for job, want := range map[string]bool{"a": true, "c": true, "d": false, "": false} {
		if a.About(job) != want {
			t.Errorf("about %q: %v", job, !want)
		}
	}
	if (queue.Audit{}).About("") {
		t.Error("a takeover is about a job without a name")
	}
	for want, by := range map[string][2]string{"ito: seen": {"ito", "seen"}, "ito": {"ito", ""}, "seen": {"", "seen"}, "": {"", ""}} {
		if got := queue.Signed(by[0], by[1]); got != want {
			t.Errorf("signed by %q: %q, want %q", by, got, want)
		}
	}
}

func TestFindJob(t *testing.T) {
	q := start(t)
	if _, err := q.Publish(t.Context(), jobs(5, 4)); err != nil {
		t.Fatal(err)
	}
	acks, err := q.Publish(t.Context(), []queue.Job{job(6, "", 1)})
	if err != nil {
		t.Fatal(err)
	}
	l, _ := open(t, q, 7)
	set := settlement("r1") // ends j1, j2 and j3, and parks j5 and j4
	if err := l.Write(t.Context(), 2, queue.Slot{Request: request("r2", 2)}, set); err != nil {
		t.Fatal(err)
	}
	find := func(app int64, id string) queue.JobState {
		state, err := q.FindJob(t.Context(), "main", app, id)
		if err != nil {
			t.Fatal(err)
		}
		return state
	}
	if s := find(0, "j2"); len(s.Results) != 1 || s.Slot == nil || s.Request != "r2" || len(s.InLog) != 1 || s.Parked != nil || s.Dead != nil {
		t.Errorf("j2 is found as %+v", s)
	}
	if s := find(5, "j3"); s.Dead == nil || len(s.Results) != 1 || s.Results[0].Outcome != queue.Dead {
		t.Errorf("j3 is found as %+v", s)
	}
	if s := find(0, "j4"); s.Parked == nil || s.Parked.At != set.Park[1].At || len(s.InLog) != 0 {
		t.Errorf("j4 is found as %+v", s)
	}
	if s := find(0, fmt.Sprintf("s%d", acks[0].Seq)); len(s.InLog) != 1 {
		t.Errorf("a job without an id is found as %+v", s)
	}
	if s := find(6, "j2"); s.Found() {
		t.Errorf("j2 is found in another app: %+v", s)
	}
}

func TestWatchResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		q := s.Connect(t)
		l, _ := open(t, q, 7)
		write := func(id, campaign string) {
			set := &queue.Settlement{Results: []queue.Result{{Job: id, Outcome: queue.Applied, Campaign: campaign}}}
			if err := l.Write(t.Context(), 0, queue.Slot{}, set); err != nil {
				t.Error(err)
			}
		}
		write("a", "c")
		write("b", "d")
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan string)
		go func() {
			defer close(got)
			for r, err := range q.WatchResults(ctx, queue.ResultFilter{Site: "main", Campaign: "c"}) {
				if err != nil {
					got <- "error"
					return
				}
				got <- r.Job
			}
		}()
		if first, marker := <-got, <-got; first != "a" || marker != "" {
			t.Errorf("got %q and %q, want a and the marker", first, marker)
		}
		write("x", "d")
		s.Disconnect()
		time.Sleep(time.Minute)
		write("e", "c")
		if next := <-got; next != "e" {
			t.Errorf("got %q, want e", next)
		}
		cancel()
		if end := <-got; end != "error" {
			t.Errorf("after the end of the context: %q", end)
		}
		<-got
	})
}
