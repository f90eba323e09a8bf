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
