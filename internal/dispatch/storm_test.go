package dispatch

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// Whatever happens to requests, records and workers for twenty minutes, every job ends, none twice, none untrue, and
// those of a record in order. A seed that fails is run again alone with STATUSQ_SEED=n, and more of them with
// STATUSQ_SEEDS=n.
func TestStorm(t *testing.T) {
	first, n := uint64(1), 10
	if s := os.Getenv("STATUSQ_SEEDS"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("STATUSQ_SEED"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
		n = 1
	}
	for seed := first; seed < first+uint64(n); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { storm(t, seed) })
		})
	}
}

func storm(t *testing.T, seed uint64) {
	const records, n = 60, 200
	r := rand.New(rand.NewPCG(seed, 7))
	app := asking()
	app.Records = records
	// An action that is always possible, and leaves no trace in the status: run twice, only the commit log shows it.
	for _, state := range app.Process.States {
		app.Process.Actions = append(app.Process.Actions, simulator.Action{Name: "Touch", From: state.Name, To: state.Name})
	}
	w := newWorld(t, app)
	w.apps[testApp] = AppConfig{DailyRequests: -1, Backoff: 5 * time.Second, Single: seed%7 == 0, LateWindow: 20 * time.Minute}
	calm := time.Now().Add(20 * time.Minute)
	faults := rand.New(rand.NewPCG(seed, 8))
	touched := 0
	w.strike(func(q simulator.Request) simulator.Fault {
		if time.Now().After(calm) || faults.IntN(100) >= 30 {
			return simulator.Fault{}
		}
		touched++
		f := simulator.Fault{Kind: simulator.FaultKind(1 + faults.IntN(int(simulator.Hang))), Applied: faults.IntN(2) == 0}
		switch f.Kind {
		case simulator.LateCommit:
			f.Applied, f.Delay = true, time.Duration(1+faults.IntN(600))*time.Second
		case simulator.TooManyRequests, simulator.Locked:
			f.Applied = false
		case simulator.Repeat:
			f.Applied, f.Delay = false, 0
		case simulator.Unavailable:
			f.RetryAfter = time.Duration(faults.IntN(3)) * time.Second
		}
		if q.Method != "PUT" && f.Kind != simulator.Unavailable && f.Kind != simulator.TooManyRequests && f.Kind != simulator.LostReply {
			return simulator.Fault{}
		}
		return f
	})

	actions := []string{"Touch", "Start", "Approve", "Reopen", "Touch", "Only A", "Ask all", "Touch"}
	js := make([]queue.Job, n)
	for i := range js {
		js[i] = job(int64(1+r.IntN(records)), actions[r.IntN(len(actions))])
		js[i].ID = fmt.Sprintf("job-%d", i)
		if r.IntN(40) == 0 {
			js[i].Record += 1000
		}
	}
	people := make(chan struct{})
	go func() {
		defer close(people)
		p := rand.New(rand.NewPCG(seed, 9))
		for time.Now().Before(calm) {
			time.Sleep(time.Duration(1+p.IntN(20)) * time.Second)
			record := int64(1 + p.IntN(records))
			// Not every action is possible everywhere: then nothing happens.
			switch p.IntN(5) {
			case 0, 1, 2:
				_ = w.sim.Edit(testApp, record, "sato")
			default:
				_ = w.sim.Act(testApp, record, "suzuki", actions[p.IntN(5)], "")
			}
		}
	}()
	wk := w.start("worker")
	for at := 0; at < n; {
		some := min(1+r.IntN(60), n-at)
		w.publish(js[at : at+some]...)
		at += some
		time.Sleep(time.Duration(r.IntN(120)) * time.Second)
		switch r.IntN(5) {
		case 0:
			w.crash(wk)
			wk = w.start("worker")
		case 1:
			w.end(wk)
			wk = w.start("worker")
		}
	}
	<-people
	got := w.settle(n, 8*time.Hour)
	w.end(wk)
	w.reconcile(got, js)
	if touched < 10 {
		t.Errorf("only %d requests were struck: the storm does not bite", touched)
	}
	t.Logf("%v, %d requests, %d struck", count(got), w.sim.Requests().Total, touched)
}
