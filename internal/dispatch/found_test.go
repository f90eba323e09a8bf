package dispatch

import (
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// What TestStorm and hostile readers found, each pinned by the shortest way to it.

// While process management is off, reads show no status, and "by our hand" cannot be seen: that is no reason to ask a
// person (seeds 60, 119 and 125).
func TestALostReplyIsNotUnknownBecauseProcessManagementIsOff(t *testing.T) {
	inWorld(t, 10, func(w *world) {
		off := simulator.Workflow()
		off.Enabled = false
		calls, looked := 0, false
		w.strike(func(r simulator.Request) simulator.Fault {
			switch {
			case r.Method == "PUT":
				if calls++; calls == 1 {
					return simulator.Fault{Kind: simulator.LostReply, Applied: true}
				}
			case r.API == "records.json" && calls == 2 && !looked:
				// The second copy was refused for its revision. Before anybody can look why, it is switched off.
				looked = true
				if err := w.sim.SetProcess(testApp, off); err != nil {
					t.Error(err)
				}
			}
			return simulator.Fault{}
		})
		w.publish(jobs(3, "Start")...)
		wk := w.start("one")
		time.Sleep(10 * time.Minute)
		if err := w.sim.SetProcess(testApp, simulator.Workflow()); err != nil {
			t.Fatal(err)
		}
		got := w.settle(3, time.Hour)
		w.end(wk)
		if n := count(got); n[queue.Applied] != 3 || !looked {
			t.Errorf("outcomes %v, want 3 applied", n)
		}
		w.reconcile(got, jobs(3, "Start"))
	})
}

// A job that was parked for its notBefore may stand behind an earlier one of its record that is still in the log. The
// next owner knows the parked one first, and if the log is slow to come it must not begin with it (seed 426, in one run
// of forty).
func TestNothingParkedIsWokenBeforeTheLogIsReadUpToIt(t *testing.T) {
	now := time.Now()
	b := newBacklog()
	b.readTo = 0 // as an owner begins that finds jobs in the log
	later := &task{seq: 93, record: 13, state: stateParked, due: now.Add(-time.Minute)}
	b.add(later)
	if got := b.nextDue(now, 10); len(got) > 0 || !b.firstDue().IsZero() {
		t.Fatalf("%d parked jobs are woken before anything of the log is read, want none", len(got))
	}
	earlier := &task{seq: 57, record: 13, state: stateOpen, inLog: true, job: &queue.Job{}}
	b.add(earlier)
	b.read(57)
	b.read(100)
	if got := b.nextDue(now, 10); len(got) > 0 {
		t.Errorf("%d parked jobs are woken before the earlier one of their record, want none", len(got))
	}
	b.remove(earlier)
	if got := b.nextDue(now, 10); len(got) != 1 || got[0] != later {
		t.Errorf("%d parked jobs are woken when their turn has come, want one", len(got))
	}

	// One that has nothing before it comes as soon as that is known.
	other := &task{seq: 120, record: 14, state: stateParked, due: now.Add(-time.Minute)}
	b.add(other)
	if got := b.nextDue(now, 10); len(got) > 0 {
		t.Errorf("%d parked jobs are woken at 120 with the log read up to 100, want none", len(got))
	}
	b.read(120)
	if got := b.nextDue(now, 10); len(got) != 1 {
		t.Errorf("%d parked jobs are woken with the log read, want one", len(got))
	}
}

// A stream that is said not to be there, as a server may say that has just begun to lead, ends the reading of the log. The
// site is given up and begun again: a lane that reads nothing more must not stand there as if it ran.
func TestALaneWhoseReaderEndsBeginsAgain(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		wk := w.start("one")
		w.publish(job(1, "Start"))
		w.settle(1, time.Minute)
		wk.line.misdirect("STATUSQ_JOBS", "STATUSQ_JOBX")
		wk.line.drop()
		time.Sleep(4 * time.Second)
		wk.line.misdirect("", "")
		w.publish(job(2, "Start"))
		got := w.settle(2, 2*time.Minute)
		if got["j2"].Outcome != queue.Applied {
			t.Errorf("the job ended %s, want applied", got["j2"].Outcome)
		}
		if w.told(EventDeposed, "") == 0 {
			t.Error("nothing was given up: the reader was not hit")
		}
		w.end(wk)
	})
}

// That the log says nothing for a while does not mean that it holds nothing: what is parked waits for its place in line.
func TestASlowLogDoesNotLetAParkedJobOvertake(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		w.strike(func(r simulator.Request) simulator.Fault {
			if r.Method == "GET" && r.API == "records.json" {
				return simulator.Fault{Kind: simulator.LostReply}
			}
			return simulator.Fault{}
		})
		first, second := job(1, "Start"), job(1, "Start")
		first.ID, second.ID = "first", "second"
		second.NotBefore = time.Now().Add(15 * time.Second).UTC()
		w.publish(first, second)
		wk := w.start("one")
		time.Sleep(10 * time.Second)
		w.crash(wk)
		w.strike(nil)
		wk = w.start("two")
		wk.line.misdirect("CONSUMER.MSG.NEXT.STATUSQ_JOBS", "CONSUMER.MSG.NEXT.STATUSQ_JOBX")
		time.Sleep(time.Minute)
		wk.line.misdirect("", "")
		got := w.settle(2, 5*time.Minute)
		if got["first"].Outcome != queue.Applied || got["second"].Outcome != queue.Already {
			t.Errorf("first ended %s, second %s; want applied, already", got["first"].Outcome, got["second"].Outcome)
		}
		w.end(wk)
	})
}
