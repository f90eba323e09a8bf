package main

import (
	"fmt"
	"testing"
	"time"

	"statusq/internal/queue"
)

func TestResults(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	enqueue(t, "results", "m").want(t, exitError, nil, []string{"there is no campaign m: nothing was ever published"})
	enqueueWith(t, t.Context(), csvOf(4), "send", "--file", "-", "--campaign", "m").want(t, exitDone, nil, nil)
	enqueue(t, "results", "m").want(t, exitDone, []string{"no such job has ended"}, nil)
	if lines := enqueue(t, "results", "m", "--json").lines(t); len(lines) != 0 {
		t.Errorf("before any job ended, --json printed %v", lines)
	}

	at := time.Date(2026, 12, 1, 1, 2, 3, 0, time.UTC)
	settle := func(app int64, results ...queue.Result) {
		for i := range results {
			results[i].Campaign, results[i].At, results[i].Seq = "m", at, uint64(i+1)
		}
		p.settle(t, app, queue.Settlement{Results: results})
	}
	settle(5, queue.Result{Job: "a", Record: 1001, Outcome: queue.Dead, Reason: "not_assignee", Code: "GAIA_NT01"},
		queue.Result{Job: "b", Record: 1002, Outcome: queue.Duplicate})
	settle(6, queue.Result{Job: "c", Record: 1003, Outcome: queue.Applied, Revision: 8}, queue.Result{Job: "c", Record: 1003, Outcome: queue.Duplicate},
		queue.Result{Job: "c", Record: 1004, Outcome: queue.Dead, Reason: "id_reused"})
	settle(5, queue.Result{Job: "a", Record: 1001, Outcome: queue.Applied, Revision: 7}) // after a retry
	p.settle(t, 5, queue.Settlement{Results: []queue.Result{{Job: "x", Record: 1, Outcome: queue.Applied, Campaign: "other", At: at}}})

	ended := local(at)
	want := "" +
		"JOB  APP  RECORD  OUTCOME    REVISION  REASON     CODE  ENDED\n" +
		"a      5    1001  applied           7  -          -     " + ended + "\n" +
		"b      5    1002  duplicate         -  -          -     " + ended + "\n" +
		"c      6    1003  applied           8  -          -     " + ended + "\n" +
		"c      6    1004  dead              -  id_reused  -     " + ended + "\n"
	if o := enqueue(t, "results", "m"); o.code != exitDone || o.out != want {
		t.Errorf("exit code %d, printed\n%s%s, want\n%s", o.code, o.out, o.err, want)
	}
	lines := enqueue(t, "results", "m", "--json").lines(t)
	if len(lines) != 4 {
		t.Fatalf("--json printed %d lines, want 4: %v", len(lines), lines)
	}
	for name, value := range map[string]any{"type": "result", "v": 1.0, "job": "a", "app": "5", "record": "1001", "outcome": "applied", "revision": "7",
		"reason": nil, "ended": "2026-12-01T01:02:03Z"} {
		if lines[0][name] != value {
			t.Errorf("--json: %s is %v, want %v", name, lines[0][name], value)
		}
	}
	for filter, want := range map[string]int{"--app=5": 2, "--app=9": 0, "--outcome=applied": 2, "--outcome=dead": 1} {
		if lines := enqueue(t, "results", "m", "--json", filter).lines(t); len(lines) != want {
			t.Errorf("%s printed %d lines, want %d", filter, len(lines), want)
		}
	}
}

// A job whose key led to no record of its own is told from others by the key.
func TestResultsShowKeys(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	at := time.Date(2026, 12, 1, 1, 2, 3, 0, time.UTC)
	p.settle(t, 5, queue.Settlement{Results: []queue.Result{
		{Seq: 1, Job: "a", Key: &queue.Key{Field: "code", Value: "C-1"}, Outcome: queue.Dead, Reason: "record_not_found", Campaign: "m", At: at},
		{Seq: 2, Job: "b", Key: &queue.Key{Field: "code", Value: "C-2"}, Outcome: queue.Matched, Matches: 1, Campaign: "m", At: at},
		{Seq: 2, Job: "b/7", Record: 7, Parent: "b", Outcome: queue.Applied, Campaign: "m", At: at},
	}})
	ended := local(at)
	want := "" +
		"JOB  APP      RECORD  OUTCOME  REVISION  REASON            CODE  ENDED\n" +
		"a      5  code = C-1  dead            -  record_not_found  -     " + ended + "\n" +
		"b      5  code = C-2  matched         -  1 record          -     " + ended + "\n" +
		"b/7    5           7  applied         -  -                 -     " + ended + "\n"
	if o := enqueue(t, "results", "m"); o.code != exitDone || o.out != want {
		t.Errorf("exit code %d, printed\n%s%s, want\n%s", o.code, o.out, o.err, want)
	}
	lines := enqueue(t, "results", "m", "--json").lines(t)
	if len(lines) != 3 || fmt.Sprint(lines[0]["key"]) != "map[field:code value:C-1]" || lines[2]["key"] != nil {
		t.Errorf("--json printed %v", lines)
	}
	enqueue(t, "job", "b").want(t, exitDone, []string{"matched 1 record", "code = C-2"}, nil)
	if lines := enqueue(t, "job", "a", "--json").lines(t); fmt.Sprint(lines[0]["key"]) != "map[field:code value:C-1]" {
		t.Errorf("job --json printed %v", lines)
	}
}

// Jobs that other programs publish may name a campaign that nobody has entered into the queue.
func TestResultsOfManyAreCutAndNeedNoRecordOfTheCampaign(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	var results []queue.Result
	for i := range 103 {
		results = append(results, queue.Result{Seq: uint64(i + 1), Job: fmt.Sprintf("job-%d", i), Record: int64(i + 1), Outcome: queue.Applied, Campaign: "erp", At: time.Now()})
	}
	p.settle(t, 5, queue.Settlement{Results: results})
	enqueue(t, "results", "erp").want(t, exitDone, []string{"job-99 ", "!job-100", "\n… and 3 more (use --json)\n"}, nil)
	if lines := enqueue(t, "results", "erp", "--json").lines(t); len(lines) != 103 {
		t.Errorf("--json printed %d lines, want 103", len(lines))
	}
}
