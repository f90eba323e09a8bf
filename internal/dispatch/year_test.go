package dispatch

import (
	"fmt"
	"os"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// A year of a quiet app in one worker, with STATUSQ_YEAR=1: some jobs every hour, maintenance every night, a day each
// week on which the budget is spent before noon, a restart each week. What ended is still known at the end, and nothing
// grows that should not. STATUSQ_YEAR=d runs d days.
func TestYear(t *testing.T) {
	if os.Getenv("STATUSQ_YEAR") == "" {
		t.Log("set STATUSQ_YEAR=1 to simulate a year")
		return
	}
	days := number(t, "STATUSQ_YEAR", 1)
	if days == 1 {
		days = 366
	}
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	began := time.Now()
	var simulated time.Duration
	synctest.Test(t, func(t *testing.T) { simulated = year(t, days) })
	t.Logf("%v simulated in %v", simulated.Round(time.Hour), time.Since(began).Round(time.Second))
}

func year(t *testing.T, days int) time.Duration {
	const (
		budget  = 120 // requests a day
		records = 50
	)
	app := simulator.App{
		ID: testApp, Name: "Orders", Records: records, Tokens: []simulator.Token{simulator.ViewToken(testToken)},
		Process: simulator.Workflow(),
	}
	for _, state := range app.Process.States {
		app.Process.Actions = append(app.Process.Actions, simulator.Action{Name: "Touch", From: state.Name, To: state.Name})
	}
	w := newWorld(t, app)
	w.apps[testApp] = AppConfig{DailyRequests: budget}
	w.discover = 10 * time.Minute
	start := time.Now()
	w.strike(func(simulator.Request) simulator.Fault {
		// Maintenance from two to four at night, kintone's time, which is nine hours ahead.
		if hour := time.Now().UTC().Hour(); hour == 17 || hour == 18 {
			return simulator.Fault{Kind: simulator.Unavailable}
		}
		return simulator.Fault{}
	})

	want := make(map[int64]int)
	n := 0
	publish := func(jobs int) {
		js := make([]queue.Job, jobs)
		for i := range js {
			js[i] = job(int64(1+n%records), "Touch")
			js[i].ID = fmt.Sprintf("job-%d", n)
			want[js[i].Record]++
			n++
		}
		w.publish(js...)
	}
	wk := w.start("worker")
	for day := range days {
		switch day % 7 {
		case 3:
			w.end(wk)
			wk = w.start("worker")
		case 5:
			// More than the budget can carry: one record, one job after the other.
			js := make([]queue.Job, 3*budget)
			for i := range js {
				js[i] = job(1, "Touch")
				js[i].ID = fmt.Sprintf("job-%d", n)
				n++
			}
			want[1] += len(js)
			w.publish(js...)
		}
		for range 8 {
			publish(2)
			time.Sleep(3 * time.Hour)
		}
	}
	// What the last days left over takes days more.
	for left := uint64(1); left > 0 && time.Since(start) < time.Duration(days+30)*24*time.Hour; {
		time.Sleep(time.Hour)
		l := wk.owner.Status().Lanes[0]
		left = l.Backlog + uint64(l.Slots+l.Parked)
	}
	w.publish(queue.Job{ID: "job-0", Site: "main", App: testApp, Record: 1, Action: "Touch", Revision: -1})
	time.Sleep(time.Minute)
	w.end(wk)
	w.sim.Flush()

	applied, again := 0, 0
	for r, err := range w.queue.Results(t.Context(), queue.ResultFilter{Site: "main"}) {
		switch {
		case err != nil:
			t.Fatalf("read results: %v", err)
		case r.Outcome == queue.Applied:
			applied++
		case r.Outcome == queue.Duplicate:
			again++
		default:
			t.Errorf("job %s ended %s %s", r.Job, r.Outcome, r.Reason)
		}
	}
	if applied != n || again != 1 {
		t.Errorf("%d jobs were applied and %d were duplicates; want %d and 1", applied, again, n)
	}
	run := make(map[int64]int)
	for _, c := range w.sim.Commits() {
		run[c.Record]++
	}
	for record, n := range want {
		if run[record] != n {
			t.Errorf("record %d was touched %d times, %d jobs asked for it", record, run[record], n)
		}
	}
	requests := w.sim.Requests()
	if most := requests.Busiest[testApp]; most > budget {
		t.Errorf("%d requests were sent in one day, %d are allowed", most, budget)
	}
	t.Logf("%d jobs, %d requests, at most %d a day", n, requests.Total, requests.Busiest[testApp])
	return time.Since(start)
}
