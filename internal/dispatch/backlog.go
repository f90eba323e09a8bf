package dispatch

import (
	"container/heap"
	"math"
	"slices"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// A task is one job on its way. It stands in the backlog from the moment it is read until it is settled.
type task struct {
	seq    uint64
	id     string
	record int64
	state  state
	inLog  bool      // the job still stands in the log, so that the low-water mark may not pass it
	parked uint64    // ledger sequence of its parked message; 0 while it has none
	due    time.Time // of a parked one; zero for one that only waits behind an earlier job

	// In memory only while the task is open, reading, flying or deciding; nil while it is parked out.
	job      *queue.Job
	attempts []queue.Attempt
	gutted   bool // the job itself is gone from the log; only what stands in the slot is left of it
	replans  int  // times that somebody else's change made us start afresh

	// What this owner saw of the record last; nil = to be read.
	pin   *kintone.Record
	pinAt time.Time
	found *finding // what inspection said about pin; nil = nothing yet
}

// isFound reports whether inspection has found the way that the job's action takes.
func (t *task) isFound() bool { return t.found != nil && t.found.action.Name != "" }

type state uint8

const (
	stateOpen     state = iota // in memory, waiting for its turn
	stateReading               // its record is being read
	stateFlying                // in a slot
	stateDeciding              // its end or its parking waits for the next write to the ledger
	stateWaking                // parked out, and being brought back
	stateParked                // only its place and due time are in memory; the job itself is in the ledger
)

// A backlog holds every job of an app that the lane knows and has not settled, and keeps the order per record: only
// the first job of a record may be read for, planned or woken. It belongs to the lane's goroutine.
type backlog struct {
	chains map[int64][]*task // by record, in order of the log; no chain is empty

	// Heads of chains. Entries may be out of date (the head changed): valid tells, and who becomes head again is pushed
	// again.
	toRead taskHeap // open, no pin
	fit    taskHeap // open, with a pin, found fit
	due    dueHeap  // parked
	// Parked ones that the log may hold earlier jobs of their record for: a new owner knows all that is parked before it
	// has read the log. It has been read up to readTo.
	ahead  taskHeap
	readTo uint64

	log    taskHeap // those that still stand in the log, and some that did; the first is the low-water mark
	open   int      // tasks whose job is in memory
	parked int
}

func newBacklog() *backlog {
	return &backlog{chains: make(map[int64][]*task), readTo: math.MaxUint64}
}

// add puts a task in its place among those of its record: by log sequence, but never before one that is being read
// for or in a slot.
func (b *backlog) add(t *task) {
	if t.inLog {
		heap.Push(&b.log, t)
	}
	if t.state == stateParked {
		b.parked++
	} else {
		b.open++
	}
	b.place(t)
}

// place puts a task into the chain of its record.
func (b *backlog) place(t *task) {
	chain := b.chains[t.record]
	at, _ := slices.BinarySearchFunc(chain, t.seq, func(o *task, seq uint64) int {
		if o.state == stateFlying || o.state == stateReading || o.seq < seq {
			return -1
		}
		return 1
	})
	chain = slices.Insert(chain, at, t)
	b.chains[t.record] = chain
	// Whatever was known of the record is not what the jobs behind t will meet.
	for _, o := range chain[at+1:] {
		o.pin, o.found = nil, nil
	}
	b.activate(chain[0])
}

// replace puts a task that was read for or in a slot back into its place: another, earlier in the log, may have come in
// meanwhile.
func (b *backlog) replace(t *task) {
	chain := b.chains[t.record]
	at := slices.Index(chain, t)
	b.chains[t.record] = slices.Delete(chain, at, at+1)
	b.place(t)
}

// behindParked reports whether a new job of the record has to wait for one that is parked or about to be.
func (b *backlog) behindParked(record int64) bool {
	chain := b.chains[record]
	return len(chain) > 0 && chain[0].state >= stateDeciding
}

// stranded are the jobs of a record that wait in memory behind one that does not: they hold the room that it needs to
// come back.
func (b *backlog) stranded(record int64) []*task {
	chain := b.chains[record]
	if len(chain) == 0 || chain[0].state != stateParked {
		return nil
	}
	var rest []*task
	for _, o := range chain[1:] {
		if o.state == stateOpen {
			rest = append(rest, o)
		}
	}
	return rest
}

// remove takes a settled task out and lets the next job of its record come forward.
func (b *backlog) remove(t *task) {
	chain := b.chains[t.record]
	at := slices.Index(chain, t)
	if at < 0 {
		return
	}
	t.inLog = false
	if t.state >= stateWaking {
		b.parked--
	} else {
		b.open--
	}
	chain = slices.Delete(chain, at, at+1)
	if len(chain) == 0 {
		delete(b.chains, t.record)
		return
	}
	b.chains[t.record] = chain
	if at == 0 {
		// The record is not what it was when somebody looked at it for this job.
		chain[0].pin, chain[0].found = nil, nil
		b.activate(chain[0])
	}
}

// park keeps only the task's place; at is where its message stands in the ledger.
func (b *backlog) park(t *task, at uint64, due time.Time) {
	b.open--
	b.parked++
	t.state, t.parked, t.due, t.inLog = stateParked, at, due, false
	t.job, t.attempts, t.pin, t.found = nil, nil, nil, nil
	b.replace(t)
}

// wake brings a parked task's job back into memory.
func (b *backlog) wake(t *task, p queue.Parked) {
	b.parked--
	b.open++
	t.state, t.job, t.attempts = stateOpen, &p.Job, p.Attempts
	b.activate(t)
}

// reopen makes a task wait for its turn again, with nothing known about its record.
func (b *backlog) reopen(t *task) {
	t.state, t.pin, t.found = stateOpen, nil, nil
	b.replace(t)
}

// markFit makes a task ready to be planned, once it is first.
func (b *backlog) markFit(t *task, f finding) {
	t.state, t.found = stateOpen, &f
	b.replace(t)
}

// activate enters a task where heads are looked for, if it is the head of its chain.
func (b *backlog) activate(t *task) {
	if b.chains[t.record][0] != t {
		return
	}
	switch {
	case t.state == stateParked && t.seq > b.readTo:
		heap.Push(&b.ahead, t)
	case t.state == stateParked:
		heap.Push(&b.due, dueTask{t.due, t})
	case t.state == stateOpen && t.pin == nil:
		heap.Push(&b.toRead, t)
	case t.state == stateOpen && t.isFound():
		heap.Push(&b.fit, t)
	}
}

// nextToRead takes up to n tasks whose records have to be read, in order of the log.
func (b *backlog) nextToRead(n int) []*task {
	var out []*task
	for len(out) < n && len(b.toRead) > 0 {
		t := heap.Pop(&b.toRead).(*task)
		if b.isUnread(t) {
			t.state = stateReading
			out = append(out, t)
		}
	}
	return out
}

// nextFit takes up to n tasks that are ready to be sent, in order of the log, each of another record. A pin that was
// taken before oldest is not used: the task goes back to be read.
func (b *backlog) nextFit(n int, oldest time.Time, settings int64) []*task {
	var out []*task
	for len(out) < n && len(b.fit) > 0 {
		t := heap.Pop(&b.fit).(*task)
		if !b.isFit(t) {
			continue
		}
		if t.pinAt.Before(oldest) || t.found.settings != settings {
			b.reopen(t)
			continue
		}
		t.state = stateFlying
		out = append(out, t)
	}
	return out
}

// read says how far the log has been read: what is parked up to there has no earlier job in it any more.
func (b *backlog) read(to uint64) {
	b.readTo = max(b.readTo, to)
	for len(b.ahead) > 0 && b.ahead[0].seq <= b.readTo {
		if t := heap.Pop(&b.ahead).(*task); t.state == stateParked && b.isHead(t) {
			b.activate(t)
		}
	}
}

// nextDue takes up to n parked tasks whose time has come.
func (b *backlog) nextDue(now time.Time, n int) []*task {
	var out []*task
	for len(out) < n && len(b.due) > 0 {
		d := b.due[0]
		if d.task.state == stateParked && b.isHead(d.task) && d.at.Equal(d.task.due) {
			if d.at.After(now) {
				break
			}
			d.task.state = stateWaking
			out = append(out, d.task)
		}
		heap.Pop(&b.due)
	}
	return out
}

// firstDue is when the next parked task wants to be woken; zero when there is none.
func (b *backlog) firstDue() time.Time {
	for len(b.due) > 0 {
		d := b.due[0]
		if d.task.state == stateParked && b.isHead(d.task) && d.at.Equal(d.task.due) {
			return d.at
		}
		heap.Pop(&b.due)
	}
	return time.Time{}
}

// lowWater is the sequence of the first job that still has to stand in the log; next is what it is when there is none
// before it.
func (b *backlog) lowWater(next uint64) uint64 {
	for len(b.log) > 0 && !b.log[0].inLog {
		heap.Pop(&b.log)
	}
	if len(b.log) == 0 {
		return next
	}
	return min(next, b.log[0].seq)
}

// tidy forgets entries that are out of date at the front of the heaps, so that their lengths mean something.
func (b *backlog) tidy() {
	for len(b.fit) > 0 && !b.isFit(b.fit[0]) {
		heap.Pop(&b.fit)
	}
	for len(b.toRead) > 0 && !b.isUnread(b.toRead[0]) {
		heap.Pop(&b.toRead)
	}
}

func (b *backlog) isFit(t *task) bool {
	return b.isHead(t) && t.state == stateOpen && t.pin != nil && t.isFound()
}

func (b *backlog) isUnread(t *task) bool {
	return b.isHead(t) && t.state == stateOpen && t.pin == nil
}

func (b *backlog) isHead(t *task) bool {
	chain := b.chains[t.record]
	return len(chain) > 0 && chain[0] == t
}

type taskHeap []*task

func (h taskHeap) Len() int           { return len(h) }
func (h taskHeap) Less(i, j int) bool { return h[i].seq < h[j].seq }
func (h taskHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *taskHeap) Push(x any)        { *h = append(*h, x.(*task)) }
func (h *taskHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return t
}

type dueTask struct {
	at   time.Time
	task *task
}

type dueHeap []dueTask

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(dueTask)) }
func (h *dueHeap) Pop() any {
	old := *h
	d := old[len(old)-1]
	old[len(old)-1] = dueTask{}
	*h = old[:len(old)-1]
	return d
}
