package campaign

import (
	"maps"
	"testing"
	"time"

	"statusq/internal/queue"
)

var start = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)

func result(job string, o queue.Outcome, reason string, after time.Duration) queue.Result {
	return queue.Result{Job: job, Outcome: o, Reason: reason, At: start.Add(after)}
}

func TestTallyCountsEachJobOnce(t *testing.T) {
	tally := NewTally(4, nil)
	for i, step := range []struct {
		add     queue.Result
		changed bool
		ended   int
	}{
		{result("a", queue.Applied, "", 0), true, 1},
		{result("a", queue.Duplicate, "", 0), false, 1},
		{result("b", queue.Dead, "not_assignee", 0), true, 2},
		{result("b", queue.Dead, "not_assignee", 0), false, 2},
		{result("c", queue.Duplicate, "", 0), true, 3},
		{result("c", queue.Unknown, "outcome_unknown", 0), true, 3},
		{result("b", queue.Applied, "", 0), true, 3},
		{result("d", queue.Already, "", 0), true, 4},
	} {
		if tally.Done() {
			t.Errorf("step %d: done too early", i)
		}
		if changed := tally.Add(step.add); changed != step.changed || tally.Ended() != step.ended {
			t.Errorf("step %d: Add = %v with %d ended, want %v with %d", i, changed, tally.Ended(), step.changed, step.ended)
		}
	}
	if !tally.Done() {
		t.Error("not done after all four")
	}
	want := map[queue.Outcome]int{queue.Applied: 2, queue.Already: 1, queue.Unknown: 1}
	if got := tally.Outcomes(); !maps.Equal(got, want) {
		t.Errorf("outcomes %v, want %v", got, want)
	}
	if got, want := tally.Reasons(), map[string]int{"outcome_unknown": 1}; !maps.Equal(got, want) {
		t.Errorf("reasons %v, want %v: what was retried with success has none any more", got, want)
	}
}

// Of what was applied only that has a reason of which somebody should know.
func TestTallyOfWhatWasAppliedAndNotSeenToMove(t *testing.T) {
	tally := NewTally(4, nil)
	for job, reason := range map[string]string{"a": ReasonActedNotMoved, "b": ReasonActedUnverified, "c": "resolved", "d": ""} {
		tally.Add(result(job, queue.Applied, reason, 0))
	}
	if got, want := tally.Reasons(), map[string]int{"acted_not_moved": 1, "acted_unverified": 1}; !maps.Equal(got, want) || tally.Count(queue.Applied) != 4 {
		t.Errorf("%d applied, reasons %v; want 4, %v", tally.Count(queue.Applied), got, want)
	}
}

func TestTallyOfSomeJobsLeavesOthersAlone(t *testing.T) {
	tally := NewTally(0, []queue.Job{{ID: "a"}, {ID: "b"}, {ID: "a"}})
	if tally.Total() != 2 {
		t.Errorf("total %d, want 2", tally.Total())
	}
	if tally.Add(result("x", queue.Applied, "", 0)) || tally.Ended() != 0 {
		t.Error("another send's job was counted")
	}
	tally.Add(result("a", queue.Applied, "", 0))
	tally.Add(result("b", queue.Applied, "", 0))
	if !tally.Done() {
		t.Error("not done after both")
	}
}

// An id says which job is meant, and jobs of different records are different jobs whatever they are called.
func TestTallyDoesNotTakeTheEndOfAnotherRecordForAJobsOwn(t *testing.T) {
	of := func(app, record int64, o queue.Outcome, reason string) queue.Result {
		return queue.Result{Job: "a", App: app, Record: record, Outcome: o, Reason: reason, At: start}
	}
	reused := map[string]int{"id_reused": 1}
	for _, c := range []struct {
		name    string
		results []queue.Result
		outcome queue.Outcome // "" if the job has not ended
		reasons map[string]int
	}{
		{"its own", []queue.Result{of(5, 2, queue.Applied, "")}, queue.Applied, nil},
		{"used before", []queue.Result{of(5, 1, queue.Applied, "")}, queue.Dead, reused},
		{"used before, and the worker noticed", []queue.Result{of(5, 1, queue.Already, ""), of(5, 2, queue.Dead, "id_reused")}, queue.Dead, reused},
		{"used before, with an older worker", []queue.Result{of(5, 1, queue.Applied, ""), of(5, 2, queue.Duplicate, "")}, queue.Dead, reused},
		{"used again before it ended", []queue.Result{of(5, 1, queue.Dead, "id_reused"), of(5, 1, queue.Duplicate, "")}, "", nil},
		{"used again after it ended", []queue.Result{of(5, 2, queue.Applied, ""), of(5, 1, queue.Dead, "id_reused"), of(5, 1, queue.Applied, "")}, queue.Applied, nil},
		{"used in another app", []queue.Result{of(6, 2, queue.Applied, "")}, "", nil},
	} {
		tally := NewTally(0, []queue.Job{{ID: "a", App: 5, Record: 2}})
		for _, r := range c.results {
			tally.Add(r)
		}
		if tally.Done() != (c.outcome != "") || c.outcome != "" && tally.Count(c.outcome) != 1 || !maps.Equal(tally.Reasons(), c.reasons) {
			t.Errorf("%s: outcomes %v, reasons %v; want %q, %v", c.name, tally.Outcomes(), tally.Reasons(), c.outcome, c.reasons)
		}
	}

	// A whole campaign does not know what was sent: the first record that an id ended for is its record.
	tally := NewTally(1, nil)
	tally.Add(of(5, 2, queue.Applied, ""))
	if tally.Add(of(5, 1, queue.Dead, "id_reused")) || tally.Count(queue.Applied) != 1 || tally.Ended() != 1 {
		t.Errorf("after another job of the same id died: %v", tally.Outcomes())
	}
}

// A job that became several has ended when they have, and it is how they ended that counts.
func TestTallyOfJobsThatBecameSeveral(t *testing.T) {
	parent := func(n int) queue.Result {
		return queue.Result{Job: "a", App: 5, Outcome: queue.Matched, Matches: n, At: start}
	}
	child := func(record int64, o queue.Outcome, reason string) queue.Result {
		return queue.Result{Job: queue.ChildID("a", record), Parent: "a", App: 5, Record: record, Outcome: o, Reason: reason, At: start}
	}
	dead := queue.Result{Job: "a", App: 5, Outcome: queue.Dead, Reason: "key_not_found", At: start}
	for _, c := range []struct {
		name           string
		results        []queue.Result
		done           bool
		ended, matched int // jobs that were made of it
		outcomes       map[queue.Outcome]int
		reasons        map[string]int
	}{
		{"none of its own has ended", []queue.Result{parent(2)}, false, 0, 2, nil, nil},
		{"one has", []queue.Result{parent(2), child(1, queue.Applied, "")}, false, 1, 2, map[queue.Outcome]int{queue.Applied: 1}, nil},
		{"all have", []queue.Result{parent(2), child(1, queue.Applied, ""), child(2, queue.Dead, "not_assignee")}, true, 2, 2,
			map[queue.Outcome]int{queue.Applied: 1, queue.Dead: 1}, map[string]int{"not_assignee": 1}},
		{"they ended before it", []queue.Result{child(1, queue.Applied, ""), child(2, queue.Applied, "")}, false, 2, 2, map[queue.Outcome]int{queue.Applied: 2}, nil},
		{"and then it did", []queue.Result{child(1, queue.Applied, ""), child(2, queue.Applied, ""), parent(2)}, true, 2, 2, map[queue.Outcome]int{queue.Applied: 2}, nil},
		{"one was retried", []queue.Result{parent(1), child(1, queue.Dead, "x"), child(1, queue.Applied, ""), child(1, queue.Duplicate, "")}, true, 1, 1, map[queue.Outcome]int{queue.Applied: 1}, nil},
		{"it died and was retried", []queue.Result{dead, parent(1)}, false, 0, 1, nil, nil},
		{"and has ended", []queue.Result{dead, parent(1), child(1, queue.Already, "")}, true, 1, 1, map[queue.Outcome]int{queue.Already: 1}, nil},
		{"it was cancelled among its own", []queue.Result{child(1, queue.Dead, "x"),
			{Job: "a", App: 5, Outcome: queue.Cancelled, Reason: "max_dead", Matches: 1, At: start}}, true, 1, 1,
			map[queue.Outcome]int{queue.Dead: 1, queue.Cancelled: 1}, map[string]int{"x": 1, "max_dead": 1}},
		{"a key led nowhere, and then to a record", []queue.Result{dead, {Job: "a", App: 5, Record: 7, Outcome: queue.Applied, At: start}}, true, 0, 0,
			map[queue.Outcome]int{queue.Applied: 1}, nil},
	} {
		for which, tally := range map[string]*Tally{
			"a campaign": NewTally(1, nil),
			"one job":    NewTally(0, []queue.Job{{ID: "a", App: 5, Key: &queue.Key{Field: "code", Value: "C-1"}}}),
		} {
			for _, r := range c.results {
				tally.Add(r)
			}
			ended, matched := tally.Matched()
			if tally.Done() != c.done || (tally.Ended() == 1) != c.done || ended != c.ended || matched != c.matched ||
				!maps.Equal(tally.Outcomes(), c.outcomes) || !maps.Equal(tally.Reasons(), c.reasons) {
				t.Errorf("%s, of %s: done %v, %d of %d, %v, %v; want %v, %d of %d, %v, %v", c.name, which, tally.Done(), ended, matched,
					tally.Outcomes(), tally.Reasons(), c.done, c.ended, c.matched, c.outcomes, c.reasons)
			}
		}
	}

	tally := NewTally(0, []queue.Job{{ID: "a", App: 5, Key: &queue.Key{Field: "code", Value: "C-1"}}})
	if r := child(1, queue.Applied, ""); tally.Add(queue.Result{Job: r.Job, Parent: "b", App: 5, Outcome: queue.Applied}) ||
		tally.Add(queue.Result{Job: r.Job, Parent: "a", App: 6, Outcome: queue.Applied}) {
		t.Error("what was made of another job was counted")
	}
	tally.Add(queue.Result{Job: "a", App: 5, Record: 7, Outcome: queue.Applied})
	if tally.Add(queue.Result{Job: "a", App: 5, Record: 8, Outcome: queue.Dead, Reason: "id_reused"}); tally.Count(queue.Dead) != 1 {
		t.Errorf("of a key whose id was used before: %v, want it dead", tally.Outcomes())
	}
	if done, all := tally.Steps(); done != 1 || all != 1 {
		t.Errorf("%d of %d steps, want 1 of 1", done, all)
	}
}

func TestTallyRateAndTimeLeft(t *testing.T) {
	tally := NewTally(1000, nil)
	if _, known := tally.Left(start); known || tally.Rate(start) != 0 {
		t.Error("a rate before anything ended")
	}
	job := 0
	for second := range 60 { // ten a second
		for range 10 {
			job++
			tally.Add(result(time.Duration(job).String(), queue.Applied, "", time.Duration(second)*time.Second))
		}
		if rate := tally.Rate(start.Add(time.Duration(second) * time.Second)); rate < 9.9 || rate > 10.1 {
			t.Fatalf("after %d s: %.2f a second, want 10", second, rate)
		}
	}
	now := start.Add(59 * time.Second)
	if left, known := tally.Left(now); !known || left != 40*time.Second {
		t.Errorf("%v left (%v), want 40s", left, known)
	}
	for ; job < 981; job++ {
		tally.Add(result("more "+time.Duration(job).String(), queue.Applied, "", 59*time.Second))
	}
	if left, known := tally.Left(now); known {
		t.Errorf("%v left for the last 19 of 1000, which are parked for whatever time they need", left)
	}
	if rate := tally.Rate(now.Add(time.Minute)); rate != 0 {
		t.Errorf("%.2f a second after a minute of nothing, want 0", rate)
	}
	if _, known := tally.Left(now.Add(time.Minute)); known {
		t.Error("time left is known while nothing moves")
	}
}

func TestTallyWithoutATotalIsNeverDone(t *testing.T) {
	tally := NewTally(0, nil)
	tally.Add(result("a", queue.Applied, "", 0))
	if tally.Done() {
		t.Error("done without a total")
	}
}
