package dispatch

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// Parked jobs cost storage, and a worker no more than 100 MB for 200,000 of them; they survive takeovers, and run when
// their time has come, each once, in order per record. Unless STATUSQ_MEASURE is set a twentieth of them has to do.
//
//	STATUSQ_MEASURE=1 go test -run ManyParked -v ./internal/dispatch
func TestManyParkedJobsCostLittleAndRunInOrder(t *testing.T) {
	n := 5_000
	if os.Getenv("STATUSQ_MEASURE") != "" {
		n = 200_000
	}
	const most = 500 // bytes a job
	app := simulator.App{
		ID: testApp, Name: "Orders", Records: n / 2,
		Tokens:  []simulator.Token{simulator.ViewToken(testToken)},
		Process: simulator.Workflow(),
	}
	clock := wallClock(t)
	inWorldOf(t, app, func(w *world) {
		// Two jobs a record, the second behind the first.
		due := time.Now().Add(3 * time.Hour).Truncate(time.Second).UTC()
		js := make([]queue.Job, n)
		for i := range js {
			record, action := int64(i%(n/2)+1), "Start"
			if i >= n/2 {
				action = "Approve"
			}
			js[i] = job(record, action)
			js[i].ID, js[i].NotBefore = fmt.Sprintf("inv-2026-%06d", i), due
		}
		began := time.Now()
		park := func() (parked int) {
			wk := w.start("parks")
			for parked < n && time.Since(began) < time.Hour {
				time.Sleep(time.Second)
				parked = 0
				w.mu.Lock()
				for _, e := range w.events {
					parked += e.Parked
				}
				w.mu.Unlock()
			}
			time.Sleep(time.Minute) // and the log is cut
			w.end(wk)
			return parked
		}
		w.publish(js...)
		if parked := park(); parked != n {
			w.t.Fatalf("%d jobs are parked, want %d", parked, n)
		}
		if log, _ := w.queue.Backlog(w.t.Context(), "main"); log[testApp] != 0 {
			w.t.Fatalf("%d jobs are left in the log", log[testApp])
		}

		time.Sleep(time.Minute) // the server's caches are dropped
		without := heapInUse()
		from := clock()
		wk := w.start("one")
		for w.told(EventLane, "") < 2 {
			time.Sleep(time.Second)
		}
		took := clock() - from
		time.Sleep(time.Minute)
		with := heapInUse()
		per := (float64(with) - float64(without)) / float64(n)
		w.t.Logf("%d parked jobs: %.1f MB, %.0f bytes each; loaded in %v", n, (float64(with)-float64(without))/1e6, per, took)
		if per > most {
			w.t.Errorf("a parked job takes %.0f bytes, want at most %d", per, most)
		}

		w.crash(wk)
		wk = w.start("two")
		w.strike(func(simulator.Request) simulator.Fault { return simulator.Fault{Delay: 300 * time.Millisecond} })
		time.Sleep(time.Until(due) + 3*time.Second)
		from = clock()
		if ended := len(w.results()); ended == 0 || ended == n {
			w.t.Errorf("%d of %d jobs have ended: nothing is taken over", ended, n)
		}
		w.crash(wk) // amid the work
		wk = w.start("three")
		got := w.settle(n, 12*time.Hour)
		w.t.Logf("the rest ran in %v", clock()-from)
		w.end(wk)
		if c := count(got); c[queue.Applied] != n {
			w.t.Errorf("outcomes %v, want %d applied", c, n)
		}
		w.reconcile(got, js)
	})
}

// wallClock reads a clock that goes on outside of a bubble, whoever asks.
func wallClock(t *testing.T) func() time.Duration {
	var now atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for began := time.Now(); ctx.Err() == nil; <-ticker.C {
			now.Store(int64(time.Since(began)))
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	return func() time.Duration { return time.Duration(now.Load()) }
}
