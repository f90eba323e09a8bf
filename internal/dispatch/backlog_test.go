package dispatch

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// fromLog is a job of a record as the lane takes it from the log.
func fromLog(seq uint64, record int64) *task {
	j := job(record, "Start")
	return &task{seq: seq, id: fmt.Sprintf("j%d", seq), record: record, job: &j, inLog: true}
}

// parkedOut is a job of a record that waits in the ledger.
func parkedOut(seq uint64, record int64, due time.Time) *task {
	return &task{seq: seq, id: fmt.Sprintf("j%d", seq), record: record, state: stateParked, parked: 1000 + seq, due: due}
}

// wakeUp brings a parked task back as the lane does.
func wakeUp(b *backlog, t *task) {
	b.wake(t, queue.Parked{Job: job(t.record, "Start"), Seq: t.seq})
}

// ready marks a task as read and found fit.
func ready(b *backlog, now time.Time, tasks ...*task) {
	for _, t := range tasks {
		t.pin, t.pinAt = &kintone.Record{ID: t.record, Revision: 1, Status: "New"}, now
		b.markFit(t, finding{fate: fit, action: edge("Start", "New", "Working"), step: 2, settings: 7})
	}
}

func sequences(tasks []*task) []uint64 {
	out := []uint64{}
	for _, t := range tasks {
		out = append(out, t.seq)
	}
	return out
}

func wantTasks(t *testing.T, what string, got []*task, want ...uint64) {
	t.Helper()
	if !slices.Equal(sequences(got), want) && len(got)+len(want) > 0 {
		t.Errorf("%s are %v, want %v", what, sequences(got), want)
	}
}

func TestOnlyTheFirstJobOfARecordIsReadAndSent(t *testing.T) {
	b, now := newBacklog(), time.Now()
	one, two, three := fromLog(1, 5), fromLog(2, 5), fromLog(3, 6)
	for _, o := range []*task{one, two, three} {
		b.add(o)
	}
	wantTasks(t, "tasks to read", b.nextToRead(10), 1, 3)
	wantTasks(t, "more tasks to read", b.nextToRead(10))
	ready(b, now, three, one)
	wantTasks(t, "tasks to send", b.nextFit(10, now, 7), 1, 3)
	b.remove(one)
	wantTasks(t, "tasks to read once the first has ended", b.nextToRead(10), 2)
	b.remove(two)
	b.remove(three)
	if b.open != 0 || len(b.chains) != 0 {
		t.Errorf("%d tasks in %d chains are left", b.open, len(b.chains))
	}
}

func TestBatchesAreFilledInTheOrderOfTheLog(t *testing.T) {
	b, now := newBacklog(), time.Now()
	for seq := uint64(1); seq <= 7; seq++ {
		b.add(fromLog(seq, int64(10-seq)))
	}
	first := b.nextToRead(3)
	wantTasks(t, "tasks to read", first, 1, 2, 3)
	ready(b, now, b.nextToRead(4)...)
	ready(b, now, first...)
	wantTasks(t, "tasks to send", b.nextFit(2, now, 7), 1, 2)
	wantTasks(t, "tasks to send then", b.nextFit(100, now, 7), 3, 4, 5, 6, 7)
}

func TestAPinThatIsOldOrFromOtherSettingsIsReadAgain(t *testing.T) {
	b, now := newBacklog(), time.Now()
	old, fresh, other := fromLog(1, 1), fromLog(2, 2), fromLog(3, 3)
	for _, o := range []*task{old, fresh, other} {
		b.add(o)
	}
	b.nextToRead(3)
	ready(b, now.Add(-time.Second), old)
	ready(b, now, fresh, other)
	other.found.settings = 6
	wantTasks(t, "tasks to send", b.nextFit(10, now, 7), 2)
	wantTasks(t, "tasks to read again", b.nextToRead(10), 1, 3)
	if old.pin != nil || other.pin != nil {
		t.Error("a pin that is not to be used was kept")
	}
}

func TestAJobInsertedInFrontComesFirstAndThoseBehindLoseTheirPins(t *testing.T) {
	b, now := newBacklog(), time.Now()
	late := fromLog(8, 5)
	b.add(late)
	b.nextToRead(1)
	ready(b, now, late)
	retried := parkedOut(3, 5, now)
	b.add(retried)
	if late.pin != nil || late.found != nil {
		t.Error("the job behind kept what was seen of the record")
	}
	wantTasks(t, "tasks to send", b.nextFit(10, now, 7))
	wantTasks(t, "stranded tasks", b.stranded(5), 8)
	wantTasks(t, "due tasks", b.nextDue(now, 10), 3)
	wakeUp(b, retried)
	wantTasks(t, "stranded tasks behind one that is awake", b.stranded(5))
	wantTasks(t, "tasks to read", b.nextToRead(10), 3)
	b.remove(retried)
	wantTasks(t, "tasks to read then", b.nextToRead(10), 8)
}

func TestNothingIsInsertedBeforeAJobThatIsBeingReadOrSent(t *testing.T) {
	for name, state := range map[string]state{"being read": stateReading, "in a slot": stateFlying} {
		b := newBacklog()
		first := fromLog(8, 5)
		b.add(first)
		b.nextToRead(1)
		first.state = state
		b.add(fromLog(9, 5))
		b.add(parkedOut(3, 5, time.Now()))
		wantTasks(t, "the jobs of a record whose first is "+name, b.chains[5], 8, 3, 9)
		if !b.firstDue().IsZero() {
			t.Errorf("a parked job behind one %s is woken", name)
		}
	}
}

func TestOnlyTheFirstParkedJobOfARecordIsWokenAndAtItsTime(t *testing.T) {
	b, now := newBacklog(), time.Now()
	first, behind, other := parkedOut(1, 5, now.Add(time.Hour)), parkedOut(2, 5, time.Time{}), parkedOut(3, 6, now.Add(time.Minute))
	for _, o := range []*task{behind, first, other} {
		b.add(o)
	}
	wantTasks(t, "due tasks", b.nextDue(now, 10))
	if got := b.firstDue(); !got.Equal(other.due) {
		t.Errorf("the next is due at %v, want %v", got, other.due)
	}
	wantTasks(t, "due tasks a minute later", b.nextDue(now.Add(time.Minute), 10), 3)
	wantTasks(t, "due tasks an hour later", b.nextDue(now.Add(time.Hour), 10), 1)
	wakeUp(b, first)
	b.remove(first)
	wantTasks(t, "due tasks once the first has ended", b.nextDue(now, 10), 2)
	if b.parked != 2 || b.open != 0 {
		t.Errorf("%d are parked and %d open, want 2 and 0", b.parked, b.open)
	}
}

func TestALaterJobWaitsBehindAParkedOneOrOneThatIsAboutToBe(t *testing.T) {
	b, now := newBacklog(), time.Now()
	if b.behindParked(5) {
		t.Error("a job waits behind nobody")
	}
	first := fromLog(1, 5)
	b.add(first)
	if b.behindParked(5) {
		t.Error("a job is parked behind one that is open")
	}
	first.state = stateDeciding
	if !b.behindParked(5) {
		t.Error("a job is not parked behind one whose parking is being written")
	}
	b.park(first, 1001, now.Add(time.Minute))
	if !b.behindParked(5) || b.open != 0 || b.parked != 1 {
		t.Errorf("behind parked %t, %d open, %d parked", b.behindParked(5), b.open, b.parked)
	}
	if first.job != nil || first.pin != nil || first.inLog || first.parked != 1001 {
		t.Errorf("a parked task keeps more than its place: %+v", first)
	}
}

func TestTheLowWaterMarkStopsAtTheFirstJobThatTheLogHasToKeep(t *testing.T) {
	b, now := newBacklog(), time.Now()
	mark := func(want uint64, when string) {
		t.Helper()
		if got := b.lowWater(20); got != want {
			t.Errorf("%s the mark is %d, want %d", when, got, want)
		}
	}
	mark(20, "with nothing")
	b.add(parkedOut(2, 9, now))
	mark(20, "with a job that stands in the ledger")
	inherited := fromLog(4, 1)
	inherited.state = stateFlying
	one, two, same := fromLog(10, 2), fromLog(11, 3), fromLog(12, 2)
	for _, o := range []*task{two, same, one, inherited} {
		b.add(o)
	}
	mark(4, "with a job in a slot of another owner")
	b.remove(inherited)
	mark(10, "once that has ended")
	b.remove(two)
	mark(10, "once a later one has ended")
	one.state = stateDeciding
	b.park(one, 1001, now)
	mark(12, "once the first is parked")
	b.remove(same)
	mark(20, "once all are settled or parked")
}

// naive is the backlog as one would write it without a thought of speed: all tasks in one list, looked through whole.
type naive struct{ tasks []*task }

func (n *naive) head(t *task) bool {
	i := slices.IndexFunc(n.tasks, func(o *task) bool { return o.record == t.record })
	return n.tasks[i] == t
}

// add keeps the jobs of a record in order of the log, behind those that are being read for or in a slot.
func (n *naive) add(t *task) {
	at := slices.IndexFunc(n.tasks, func(o *task) bool {
		return o.record == t.record && o.state != stateReading && o.state != stateFlying && o.seq > t.seq
	})
	if at < 0 {
		at = len(n.tasks)
	}
	n.tasks = slices.Insert(n.tasks, at, t)
}

func (n *naive) remove(t *task) {
	n.tasks = slices.DeleteFunc(n.tasks, func(o *task) bool { return o == t })
}

// heads are the first jobs of their records that are so, in order of the log.
func (n *naive) heads(are func(*task) bool) []*task {
	var out []*task
	for _, t := range n.tasks {
		if n.head(t) && are(t) {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b *task) int { return cmp.Compare(a.seq, b.seq) })
	return out
}

func (n *naive) count(are func(*task) bool) (c int) {
	for _, t := range n.tasks {
		if are(t) {
			c++
		}
	}
	return c
}

// Whatever a lane does, in whatever order, the backlog with its chains and lazy heaps says what the naive one says.
func TestTheBacklogAgreesWithANaiveOne(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		b, n := newBacklog(), &naive{}
		now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
		next := uint64(100) // of the log; lower sequences are those of jobs that operators send again
		again := uint64(100)
		var ledger uint64
		add := func(o *task) {
			b.add(o)
			n.add(o)
		}
		for range r.IntN(4) { // what another owner left in the slots, each record once
			o := fromLog(next, int64(next))
			o.state = stateFlying
			next++
			add(o)
		}
		pick := func(are func(*task) bool) *task {
			if some := n.heads(are); len(some) > 0 {
				return some[r.IntN(len(some))]
			}
			return nil
		}
		is := func(s state) func(*task) bool { return func(o *task) bool { return o.state == s } }
		unread := func(o *task) bool { return o.state == stateOpen && o.pin == nil }
		fitting := func(o *task) bool { return o.state == stateOpen && o.pin != nil }
		say := func(what string, got, want []*task) {
			t.Helper()
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: %s are %v, want %v", seed, what, sequences(got), sequences(want))
			}
		}
		for range 400 {
			now = now.Add(time.Duration(r.IntN(3)) * time.Second)
			record, some := int64(1+r.IntN(6)), 1+r.IntN(3)
			switch r.IntN(12) {
			case 0, 1, 2: // the log has one more
				o := fromLog(next, record)
				next++
				if b.behindParked(record) {
					o.state = stateDeciding
				}
				add(o)
			case 3: // an operator sends one again
				if again--; again > 0 {
					add(parkedOut(again, record, now.Add(time.Duration(r.IntN(3))*time.Second)))
				}
			case 4: // read
				want := n.heads(unread)
				want = want[:min(some, len(want))]
				got := b.nextToRead(some)
				say("tasks to read", got, want)
			case 5, 6: // a read came back
				if o := pick(is(stateReading)); o != nil {
					if r.IntN(4) > 0 {
						ready(b, now, o)
					} else {
						b.reopen(o)
					}
					n.remove(o)
					n.add(o)
				}
			case 7: // send, on pins that are not older than three seconds
				oldest := now.Add(-3 * time.Second)
				var want []*task
				for _, o := range n.heads(fitting) {
					if len(want) < some && !o.pinAt.Before(oldest) {
						want = append(want, o)
					}
				}
				say("tasks to send", b.nextFit(some, oldest, 7), want)
			case 8: // a request came back
				if o := pick(is(stateFlying)); o != nil {
					switch r.IntN(3) {
					case 0:
						b.reopen(o)
						n.remove(o)
						n.add(o)
					case 1:
						o.state = stateDeciding
					default:
						b.remove(o)
						n.remove(o)
					}
				}
			case 9: // the ledger has written: parked or settled
				if i := slices.IndexFunc(n.tasks, is(stateDeciding)); i >= 0 {
					o := n.tasks[i]
					if ledger++; r.IntN(2) == 0 || !n.head(o) {
						b.park(o, ledger, now.Add(time.Duration(r.IntN(5))*time.Second))
						n.remove(o)
						n.add(o)
					} else {
						b.remove(o)
						n.remove(o)
					}
				}
			case 10: // wake
				due := n.heads(func(o *task) bool { return o.state == stateParked && !o.due.After(now) })
				got := b.nextDue(now, 100)
				slices.SortFunc(got, func(a, b *task) int { return cmp.Compare(a.seq, b.seq) })
				say("due tasks", got, due)
				for _, o := range got {
					wakeUp(b, o)
				}
			default: // strand
				for _, o := range b.stranded(record) {
					if o.state != stateOpen || n.head(o) {
						t.Fatalf("seed %d: task %d is stranded although it is first or not open", seed, o.seq)
					}
					o.state = stateDeciding
				}
			}

			for record, chain := range b.chains {
				var want []*task
				for _, o := range n.tasks {
					if o.record == record {
						want = append(want, o)
					}
				}
				say(fmt.Sprintf("the jobs of record %d", record), chain, want)
			}

			b.tidy()
			if got, want := len(b.toRead) > 0, n.count(func(o *task) bool { return n.head(o) && unread(o) }) > 0; got != want {
				t.Fatalf("seed %d: something to read %t, want %t", seed, got, want)
			}
			if got, want := len(b.fit) > 0, n.count(func(o *task) bool { return n.head(o) && fitting(o) }) > 0; got != want {
				t.Fatalf("seed %d: something to send %t, want %t", seed, got, want)
			}
			parked := n.count(is(stateParked))
			if b.parked != parked || b.open != len(n.tasks)-parked {
				t.Fatalf("seed %d: %d open and %d parked, want %d and %d", seed, b.open, b.parked, len(n.tasks)-parked, parked)
			}
			low := next
			for _, o := range n.tasks {
				if o.inLog {
					low = min(low, o.seq)
				}
			}
			if got := b.lowWater(next); got != low {
				t.Fatalf("seed %d: the low-water mark is %d, want %d", seed, got, low)
			}
			var first time.Time
			for _, o := range n.heads(is(stateParked)) {
				if first.IsZero() || o.due.Before(first) {
					first = o.due
				}
			}
			if got := b.firstDue(); !got.Equal(first) {
				t.Fatalf("seed %d: the first is due at %v, want %v", seed, got, first)
			}
		}
	}
}
