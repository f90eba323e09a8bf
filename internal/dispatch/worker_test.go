package dispatch

import (
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

func TestJobsOfOneAppTravelInFullCalls(t *testing.T) {
	inWorld(t, 1000, func(w *world) {
		w.publish(jobs(1000, "Start")...)
		wk := w.start("one")
		got := w.settle(1000, time.Minute)
		w.end(wk)
		if n := count(got); n[queue.Applied] != 1000 {
			w.t.Errorf("outcomes %v, want 1000 applied", n)
		}
		w.reconcile(got, jobs(1000, "Start"))
		kinds := w.sim.Requests().Kinds
		if kinds["PUT records/status.json"] != 10 || kinds["GET records.json"] != 2 {
			w.t.Errorf("1000 jobs took %v, want 10 calls and 2 reads", kinds)
		}
		if log, _ := w.queue.Backlog(w.t.Context(), "main"); log[testApp] != 0 {
			w.t.Errorf("%d jobs are left in the log", log[testApp])
		}
	})
}

func TestALoneJobLeavesAtOnce(t *testing.T) {
	inWorld(t, 10, func(w *world) {
		wk := w.start("one")
		time.Sleep(10 * time.Second)
		began := time.Now()
		w.publish(job(3, "Start"))
		for len(w.results()) == 0 {
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(began); took > 50*time.Millisecond {
			w.t.Errorf("a lone job took %v", took)
		}
		w.end(wk)
	})
}

func TestAnOutageOfTwoHoursKillsNoJob(t *testing.T) {
	inWorld(t, 3000, func(w *world) {
		var from, until time.Time
		w.strike(func(r simulator.Request) simulator.Fault {
			if now := time.Now(); now.After(from) && now.Before(until) {
				return simulator.Fault{Kind: simulator.Unavailable}
			}
			return simulator.Fault{}
		})
		from = time.Now().Add(2 * time.Second)
		until = from.Add(2 * time.Hour)
		wk := w.start("one")
		w.publish(jobs(1000, "Start")...)
		w.settle(1000, time.Minute)
		time.Sleep(3 * time.Second)
		during := w.sim.Requests().Total
		js := jobs(3000, "Start")
		w.publish(js[1000:]...)
		time.Sleep(2*time.Hour - 10*time.Second)
		if n := len(w.results()); n != 1000 {
			w.t.Errorf("%d jobs had ended in the outage, want the 1000 from before it", n)
		}
		if n := w.sim.Requests().Total - during; n > 200 {
			w.t.Errorf("%d requests went into an outage of two hours, want at most 200", n)
		}
		got := w.settle(3000, 10*time.Minute)
		w.end(wk)
		if n := count(got); n[queue.Applied] != 3000 {
			w.t.Errorf("outcomes %v, want 3000 applied", n)
		}
		w.reconcile(got, js)
	})
}

func TestAnOutageOfTenSecondsTakesFewCalls(t *testing.T) {
	inWorld(t, 20_000, func(w *world) {
		var from time.Time
		calls := 0
		w.strike(func(r simulator.Request) simulator.Fault {
			if from.IsZero() && r.Method == "PUT" && w.sim.CommitCount() > 5000 {
				from = time.Now()
			}
			if !from.IsZero() && time.Since(from) < 10*time.Second {
				calls++
				return simulator.Fault{Kind: simulator.Unavailable}
			}
			return simulator.Fault{}
		})
		js := jobs(20_000, "Start")
		w.publish(js...)
		wk := w.start("one")
		got := w.settle(20_000, 5*time.Minute)
		w.end(wk)
		if n := count(got); n[queue.Applied] != 20_000 {
			w.t.Errorf("outcomes %v, want 20000 applied", n)
		}
		if calls > 10 {
			w.t.Errorf("%d calls went into an outage of ten seconds, want at most 10", calls)
		}
		w.t.Logf("%d calls went into the outage", calls)
		w.reconcile(got, js)
	})
}

// once returns a fault function that strikes the first status call, once.
func once(f simulator.Fault) func(simulator.Request) simulator.Fault {
	struck := false
	return func(r simulator.Request) simulator.Fault {
		if r.Method == "PUT" && !struck {
			struck = true
			return f
		}
		return simulator.Fault{}
	}
}

func TestEveryFaultOfAStatusCallEndsWithEachActionOnce(t *testing.T) {
	for name, fault := range map[string]simulator.Fault{
		"lost reply, not applied":  {Kind: simulator.LostReply},
		"lost reply, applied":      {Kind: simulator.LostReply, Applied: true},
		"late commit, 300 ms":      {Kind: simulator.LateCommit, Applied: true, Delay: 300 * time.Millisecond},
		"late commit, 5 min":       {Kind: simulator.LateCommit, Applied: true, Delay: 5 * time.Minute},
		"500, not applied":         {Kind: simulator.ServerError},
		"500, applied":             {Kind: simulator.ServerError, Applied: true},
		"502, not applied":         {Kind: simulator.BadGateway},
		"502, applied":             {Kind: simulator.BadGateway, Applied: true},
		"503, not applied":         {Kind: simulator.Unavailable},
		"503, applied":             {Kind: simulator.Unavailable, Applied: true, RetryAfter: 20 * time.Second},
		"429":                      {Kind: simulator.TooManyRequests},
		"DA02":                     {Kind: simulator.Locked},
		"cut body, not applied":    {Kind: simulator.CutBody},
		"cut body, applied":        {Kind: simulator.CutBody, Applied: true},
		"HTML with 200":            {Kind: simulator.HTML200},
		"HTML with 200, applied":   {Kind: simulator.HTML200, Applied: true},
		"a proxy repeats the call": {Kind: simulator.Repeat},
		"520":                      {Kind: simulator.Status520},
		"520, applied":             {Kind: simulator.Status520, Applied: true},
		"no answer":                {Kind: simulator.Hang},
		"no answer, applied":       {Kind: simulator.Hang, Applied: true},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 500, func(w *world) {
				w.strike(once(fault))
				js := append(jobs(250, "Start"), jobs(50, "Approve")...)
				for i := range js[250:] {
					js[250+i].ID += "b"
				}
				w.publish(js...)
				wk := w.start("one")
				got := w.settle(300, 2*time.Hour)
				w.end(wk)
				if n := count(got); n[queue.Applied] != 300 {
					w.t.Errorf("outcomes %v, want 300 applied", n)
				}
				w.reconcile(got, js)
			})
		})
	}
}

func TestABurstOf429SlowsDownAndFailsNothing(t *testing.T) {
	inWorld(t, 5000, func(w *world) {
		n := 0
		w.strike(func(r simulator.Request) simulator.Fault {
			if n++; n > 10 && n < 40 {
				return simulator.Fault{Kind: simulator.TooManyRequests}
			}
			return simulator.Fault{}
		})
		js := jobs(5000, "Start")
		w.publish(js...)
		wk := w.start("one")
		got := w.settle(5000, 10*time.Minute)
		w.end(wk)
		if n := count(got); n[queue.Applied] != 5000 {
			w.t.Errorf("outcomes %v, want 5000 applied", n)
		}
		if n := w.told(EventHalted, ""); n != 0 {
			w.t.Errorf("the lane halted %d times for a 429", n)
		}
		w.reconcile(got, js)
	})
}

func TestARestartGoesOnWhereItStopped(t *testing.T) {
	for _, how := range []string{"stop", "crash"} {
		t.Run(how, func(t *testing.T) {
			inWorld(t, 5000, func(w *world) {
				w.strike(func(r simulator.Request) simulator.Fault {
					return simulator.Fault{Delay: 150 * time.Millisecond}
				})
				js := jobs(5000, "Start")
				w.publish(js...)
				for i := range 3 {
					wk := w.start("worker")
					time.Sleep(900*time.Millisecond + time.Duration(i)*37*time.Millisecond)
					if how == "stop" {
						w.end(wk)
					} else {
						w.crash(wk)
						time.Sleep(20 * time.Second) // the lease runs out
					}
				}
				if n := len(w.results()); n == 0 || n == 5000 {
					w.t.Fatalf("%d jobs ended before the last start: the test does not bite", n)
				}
				wk := w.start("last")
				got := w.settle(5000, 10*time.Minute)
				w.end(wk)
				if n := count(got); n[queue.Applied] != 5000 {
					w.t.Errorf("outcomes %v, want 5000 applied", n)
				}
				w.reconcile(got, js)
				if log, _ := w.queue.Backlog(w.t.Context(), "main"); log[testApp] != 0 {
					w.t.Errorf("%d jobs are left in the log", log[testApp])
				}
			})
		})
	}
}
