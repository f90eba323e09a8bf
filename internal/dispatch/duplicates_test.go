package dispatch

import (
	"slices"
	"strings"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// pastWindow is longer than the log knows the ids of jobs. The server's clock is the bubble's.
const pastWindow = 11 * time.Minute

// parkedFor is long enough that a job is still parked when all that happens to it has happened.
const parkedFor = 14 * time.Minute

// loses makes every status call that names a record lose its answer, carried out or not.
func (w *world) loses(record int64, applied bool) {
	w.strike(func(r simulator.Request) simulator.Fault {
		if r.Method == "PUT" && slices.Contains(r.Records, record) {
			return simulator.Fault{Kind: simulator.LostReply, Applied: applied}
		}
		return simulator.Fault{}
	})
}

// reopen lets Start be run on a record once more, so that a second run shows.
func (w *world) reopen(record int64) {
	w.t.Helper()
	if err := w.sim.Put(testApp, record, func(r *simulator.RecordState) { r.Status = "Not started" }); err != nil {
		w.t.Fatal(err)
	}
}

// runs counts what the worker did to a record.
func (w *world) runs(record int64) int {
	w.sim.Flush()
	n := 0
	for _, c := range w.sim.Commits() {
		if c.Record == record && !c.Foreign {
			n++
		}
	}
	return n
}

// ends are the outcomes of a job, in the order in which they came, but for duplicates, which are counted.
func (w *world) ends(id string) (outcomes []queue.Outcome, duplicates int) {
	w.t.Helper()
	for r, err := range w.queue.Results(w.t.Context(), queue.ResultFilter{Site: "main", App: testApp, Job: id}) {
		if err != nil {
			w.t.Fatal(err)
		}
		if r.Outcome == queue.Duplicate {
			duplicates++
		} else {
			outcomes = append(outcomes, r.Outcome)
		}
	}
	return outcomes, duplicates
}

// letter is the only dead letter.
func (w *world) letter() queue.DeadLetter {
	w.t.Helper()
	letters := w.dead()
	if len(letters) != 1 {
		w.t.Fatalf("%d dead letters, want 1", len(letters))
	}
	return letters[0]
}

// A situation is where a job, j1 on record 1, stands when it is published once more.
type situation struct {
	name   string
	reach  func(w *world, j queue.Job) queue.Job // before the worker starts: publish the job, as it is given back
	just   func(w *world)                        // immediately before the second publication; may be nil
	finish func(w *world)                        // after it: let the job end; may be nil
	ends   []queue.Outcome
	runs   int
}

var situations = []situation{
	{"in a slot, not carried out", func(w *world, j queue.Job) queue.Job {
		w.loses(1, false)
		w.publish(j)
		return j
	}, nil, func(w *world) { w.strike(nil) }, []queue.Outcome{queue.Applied}, 1},
	{"in a slot, carried out", func(w *world, j queue.Job) queue.Job {
		w.loses(1, true)
		w.publish(j)
		return j
	}, nil, func(w *world) { w.strike(nil) }, []queue.Outcome{queue.Applied}, 1},
	{"parked until its time", func(w *world, j queue.Job) queue.Job {
		j.NotBefore = time.Now().Add(parkedFor).UTC()
		w.publish(j)
		return j
	}, nil, nil, []queue.Outcome{queue.Applied}, 1},
	{"parked after a failure", func(w *world, j queue.Job) queue.Job {
		w.apps[testApp] = AppConfig{DailyRequests: -1, Attempts: 1000}
		w.sim.Put(testApp, 1, func(r *simulator.RecordState) { r.Assignees = []string{"sato"} })
		w.publish(j)
		return j
	}, nil, func(w *world) {
		w.sim.Put(testApp, 1, func(r *simulator.RecordState) { r.Assignees = nil })
	}, []queue.Outcome{queue.Applied}, 1},
	{"parked behind another", func(w *world, j queue.Job) queue.Job {
		first := job(1, "Start")
		first.ID, first.NotBefore = "first", time.Now().Add(parkedFor).UTC()
		j.Action = "Approve"
		w.publish(first, j)
		return j
	}, nil, nil, []queue.Outcome{queue.Applied}, 2}, // with the other one
	{"applied", func(w *world, j queue.Job) queue.Job {
		w.publish(j)
		return j
	}, func(w *world) { w.reopen(1) }, nil, []queue.Outcome{queue.Applied}, 1},
	{"already", func(w *world, j queue.Job) queue.Job {
		if err := w.sim.Act(testApp, 1, "sato", "Start", ""); err != nil {
			w.t.Fatal(err)
		}
		w.publish(j)
		return j
	}, func(w *world) { w.reopen(1) }, nil, []queue.Outcome{queue.Already}, 0},
	{"dead", die, func(w *world) { w.letter(); revive(w) }, nil, []queue.Outcome{queue.Dead}, 0},
	{"dead, and sent again by an operator at the same time", die, func(w *world) {
		revive(w)
		if err := w.queue.RetryDead(w.t.Context(), w.letter(), "ito", "mended"); err != nil {
			w.t.Error(err)
		}
	}, nil, []queue.Outcome{queue.Dead, queue.Applied}, 1},
	{"dead, and discarded by an operator", die, func(w *world) {
		revive(w)
		if err := w.queue.DiscardDead(w.t.Context(), w.letter(), "ito", "not wanted"); err != nil {
			w.t.Error(err)
		}
	}, nil, []queue.Outcome{queue.Dead}, 0},
	{"unknown", func(w *world, j queue.Job) queue.Job {
		n := 0
		w.strike(func(r simulator.Request) simulator.Fault {
			if r.Method != "PUT" {
				return simulator.Fault{}
			}
			if n++; n == 1 {
				return simulator.Fault{Kind: simulator.LostReply, Applied: true}
			}
			if n == 2 {
				w.sim.Edit(testApp, 1, "sato")
			}
			return simulator.Fault{}
		})
		w.publish(j)
		return j
	}, func(w *world) { w.letter(); w.reopen(1) }, nil, []queue.Outcome{queue.Unknown}, 1},
}

// die publishes a job that dies of who has to act on its record; revive mends that.
func die(w *world, j queue.Job) queue.Job {
	w.apps[testApp] = AppConfig{DailyRequests: -1, Attempts: 1}
	w.sim.Put(testApp, 1, func(r *simulator.RecordState) { r.Assignees = []string{"sato"} })
	w.publish(j)
	return j
}

func revive(w *world) {
	w.sim.Put(testApp, 1, func(r *simulator.RecordState) { r.Assignees = nil })
}

// occasions are when a job is published once more; each gives the worker that is at work afterwards. just has to be
// called immediately before.
var occasions = []struct {
	name   string
	window bool // the log still knows the id
	again  func(w *world, wk *worker, just func(), publish func()) *worker
}{
	{"inside the window", true, func(_ *world, wk *worker, just, publish func()) *worker {
		time.Sleep(time.Minute)
		just()
		publish()
		return wk
	}},
	{"after the window", false, func(_ *world, wk *worker, just, publish func()) *worker {
		time.Sleep(pastWindow)
		just()
		publish()
		return wk
	}},
	{"after a restart", false, func(w *world, wk *worker, just, publish func()) *worker {
		time.Sleep(time.Minute)
		w.end(wk)
		wk = w.start("again")
		time.Sleep(pastWindow)
		just()
		publish()
		return wk
	}},
	{"while nobody works", false, func(w *world, wk *worker, just, publish func()) *worker {
		time.Sleep(pastWindow)
		w.crash(wk)
		just()
		publish()
		return w.start("two")
	}},
	{"after a takeover by a standby", false, func(w *world, wk *worker, just, publish func()) *worker {
		standby := w.start("standby")
		time.Sleep(time.Minute)
		w.crash(wk)
		time.Sleep(pastWindow)
		just()
		publish()
		return standby
	}},
}

func TestAJobThatIsPublishedTwiceActsOnceWhereverItStands(t *testing.T) {
	for _, s := range situations {
		for _, o := range occasions {
			t.Run(s.name+"/"+o.name, func(t *testing.T) {
				inWorld(t, 2, func(w *world) {
					j := s.reach(w, job(1, "Start"))
					just := func() {
						if s.just != nil {
							s.just(w)
						}
					}
					wk := o.again(w, w.start("one"), just, func() {
						if before, _ := w.ends(j.ID); len(before) == 0 != (s.just == nil) {
							w.t.Errorf("it ended %v before it was published again: not what was meant", before)
						}
						acks, err := w.queue.Publish(w.t.Context(), []queue.Job{j})
						if err != nil {
							w.t.Fatal(err)
						}
						if acks[0].Duplicate != o.window {
							w.t.Errorf("the log calls it a duplicate: %t, want %t", acks[0].Duplicate, o.window)
						}
					})
					time.Sleep(2 * time.Minute)
					if s.finish != nil {
						s.finish(w)
					}
					time.Sleep(12 * time.Minute) // whatever is parked has had its time
					w.end(wk)

					want := 1
					if o.window {
						want = 0
					}
					if ends, duplicates := w.ends(j.ID); !slices.Equal(ends, s.ends) || duplicates != want {
						w.t.Errorf("it ended %v with %d duplicates, want %v with %d", ends, duplicates, s.ends, want)
					}
					if n := w.runs(1); n != s.runs {
						w.t.Errorf("kintone ran %d actions, want %d", n, s.runs)
					}
					if log, _ := w.queue.Backlog(w.t.Context(), "main"); log[testApp] != 0 {
						w.t.Errorf("%d jobs are left in the log", log[testApp])
					}
				})
			})
		}
	}
}

// Another job under an id that is taken is not lost in silence: it dies with a letter of its own, which an operator can
// send again, and the job that had the id first goes its way.
func TestAnIdOfAnotherRecordDiesWithALetterOfItsOwn(t *testing.T) {
	for _, s := range situations {
		if slices.Contains(s.ends, queue.Dead) || slices.Contains(s.ends, queue.Unknown) {
			continue // they have letters, too
		}
		for _, o := range occasions {
			if o.window || o.name == "after a restart" || o.name == "after a takeover by a standby" {
				continue // inside the window the log cannot tell the two apart: it knows ids; the others are as good as these
			}
			t.Run(s.name+"/"+o.name, func(t *testing.T) {
				inWorld(t, 2, func(w *world) {
					j := s.reach(w, job(1, "Start"))
					just := func() {
						if s.just != nil {
							s.just(w)
						}
					}
					other := job(2, "Start")
					other.ID = j.ID
					wk := o.again(w, w.start("one"), just, func() { w.publish(other) })
					time.Sleep(2 * time.Minute)
					d := w.letter()
					if d.Reason != ReasonIDReused || d.Job.Record != 2 || d.Job.ID == j.ID {
						w.t.Errorf("the letter is %+v", d)
					}
					if n := w.runs(2); n != 0 {
						w.t.Errorf("it ran %d times all the same", n)
					}
					if err := w.queue.RetryDead(w.t.Context(), d, "ito", "it is another one"); err != nil {
						w.t.Error(err)
					}
					if s.finish != nil {
						s.finish(w)
					}
					time.Sleep(12 * time.Minute)
					w.end(wk)
					if n := w.runs(2); n != 1 {
						w.t.Errorf("after it was sent again it ran %d times, want once", n)
					}
					if ends, _ := w.ends(d.Job.ID); !slices.Equal(ends, []queue.Outcome{queue.Applied}) {
						w.t.Errorf("as %s it ended %v", d.Job.ID, ends)
					}
					if n := w.runs(1); n != s.runs {
						w.t.Errorf("the first one ran %d times, want %d", n, s.runs)
					}
				})
			})
		}
	}
}

// The job that died because its id was another's does not take the id over: whoever finds its end in the ledger, and the
// first job still in the log, runs the first job.
func TestAnIdThatWasReusedStaysTheFirstJobsAfterARestart(t *testing.T) {
	for _, how := range []string{"stop", "crash"} {
		t.Run(how, func(t *testing.T) {
			inWorld(t, 2, func(w *world) {
				w.strike(func(r simulator.Request) simulator.Fault {
					if r.Method == "GET" && strings.Contains(r.API, "records") {
						return simulator.Fault{Kind: simulator.LostReply} // nothing is planned
					}
					return simulator.Fault{}
				})
				first, second := job(1, "Start"), job(2, "Start")
				first.ID, second.ID = "x", "x"
				w.publish(first)
				time.Sleep(pastWindow)
				w.publish(second)
				wk := w.start("one")
				time.Sleep(30 * time.Second)
				if ends, _ := w.ends("x"); !slices.Equal(ends, []queue.Outcome{queue.Dead}) {
					w.t.Fatalf("before the restart it ended %v, want that only the second is dead", ends)
				}
				if how == "stop" {
					w.end(wk)
				} else {
					w.crash(wk)
				}
				w.strike(nil)
				wk = w.start("two")
				time.Sleep(time.Minute)
				w.end(wk)
				if ends, duplicates := w.ends("x"); !slices.Equal(ends, []queue.Outcome{queue.Dead, queue.Applied}) || duplicates != 0 {
					w.t.Errorf("it ended %v with %d duplicates, want that the first is applied", ends, duplicates)
				}
				if first, second := w.runs(1), w.runs(2); first != 1 || second != 0 {
					w.t.Errorf("the first ran %d times and the second %d, want 1 and 0", first, second)
				}
			})
		})
	}
}

// Two publications without an id are two jobs. They are told apart by their places in the log alone, also by the next
// owner, who finds those that have ended in the log once more: it keeps all that stands behind a job in a slot.
func TestJobsWithoutAnIdRunOncePerPublication(t *testing.T) {
	for _, how := range []string{"stop", "crash"} {
		t.Run(how, func(t *testing.T) {
			inWorld(t, 10, func(w *world) {
				unnamed := func() {
					for r := int64(2); r <= 10; r++ {
						j := job(r, "Start")
						j.ID = ""
						w.publish(j)
					}
				}
				w.loses(1, false)
				w.publish(job(1, "Start"))
				wk := w.start("one")
				time.Sleep(time.Minute)
				for range 2 {
					unnamed()
					time.Sleep(2 * time.Minute)
					for r := int64(2); r <= 10; r++ {
						w.reopen(r)
					}
				}
				for range 2 {
					if log, _ := w.queue.Backlog(w.t.Context(), "main"); log[testApp] != 19 {
						w.t.Fatalf("%d jobs stand in the log, want 19: nothing is read again", log[testApp])
					}
					if how == "stop" {
						w.end(wk)
					} else {
						w.crash(wk)
					}
					wk = w.start("next")
					time.Sleep(5 * time.Minute)
				}
				w.strike(nil)
				time.Sleep(12 * time.Minute)
				w.end(wk)
				for r := int64(2); r <= 10; r++ {
					if n := w.runs(r); n != 2 {
						w.t.Errorf("record %d: %d runs, want 2", r, n)
					}
				}
				got := w.results()
				if n := count(got); len(got) != 19 || n[queue.Applied] != 19 {
					w.t.Errorf("%d jobs ended as %v, want 19 applied", len(got), n)
				}
				if log, _ := w.queue.Backlog(w.t.Context(), "main"); log[testApp] != 0 {
					w.t.Errorf("%d jobs are left in the log", log[testApp])
				}
			})
		})
	}
}

// What has ended below the first job of the log will never be read again and is not kept for it, nor anything when the
// log is empty; and what is kept is dropped when it has been passed.
func TestALaneKeepsNoSequencesThatTheLogHasNot(t *testing.T) {
	inWorld(t, 100, func(w *world) {
		kept := func(want int) {
			w.t.Helper()
			wk := w.start("look")
			time.Sleep(time.Minute)
			wk.owner.mu.Lock()
			l := wk.owner.lanes[testApp]
			wk.owner.mu.Unlock()
			w.crash(wk) // the lane stands still, and holds what it held
			if len(l.ended) != want || l.known.size() != len(w.results()) {
				w.t.Errorf("%d sequences and %d ids are kept, want %d and %d", len(l.ended), l.known.size(), want, len(w.results()))
			}
		}
		w.publish(jobs(50, "Start")...)
		kept(0) // nothing at the start, everything from the log
		kept(0) // everything at the start, nothing from the log
		w.loses(51, false)
		hung := job(51, "Start")
		hung.ID = "hung"
		w.publish(hung)
		wk := w.start("one")
		time.Sleep(30 * time.Second)
		w.publish(jobs(50, "Approve")...) // the log knows their ids: nothing comes of it
		late := jobs(100, "Start")[51:]
		w.publish(late...)
		time.Sleep(time.Minute)
		w.crash(wk)
		if log, _ := w.queue.Backlog(w.t.Context(), "main"); log[testApp] != uint64(1+len(late)) {
			w.t.Fatalf("%d jobs stand in the log, want %d", log[testApp], 1+len(late))
		}
		w.strike(nil)
		kept(0) // one and 49 were kept, and passed
	})
}
