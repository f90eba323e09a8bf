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
	record int64 // or the line of its key, below 0, as long as nobody knows its record
	state  state
	inLog  bool   // the job still stands in the log, so that the low-water mark may not pass it
	parked uint64 // ledger sequence of its parked message; 0 while it has none
	home   int64  // record in the subject of that message; 0 if none was known when it was written
	parent string // the job that it was made of, when a key found its record; "" for one that was published

	campaign string    // of a parked one
	due      time.Time // of a parked one; zero for one that only waits behind an earlier job

	// In memory only while the task is open, reading, flying or deciding; nil while it is parked out.
	job      *queue.Job
	attempts []queue.Attempt
	gutted   bool // the job itself is gone from the log; only what stands in the slot is left of it
	replans  int  // times that somebody else's change made us start afresh

	// Of a job whose key matches more records than one page holds: how many were made into jobs, and the last of them.
	matches int
	after   int64

	misses int // look-ups of its key alone that were not answered, while kintone answered others

	// What this owner saw of the record last; nil = to be read.
	pin   *kintone.Record
	pinAt time.Time
	found *finding // what inspection said about pin; nil = nothing yet
}

// isFound reports whether inspection has found the way that the job's action takes.
func (t *task) isFound() bool { return t.found != nil && t.found.action.Name != "" }

// unbound reports whether the job names a record by a key that has not been looked up.
func (t *task) unbound() bool { return t.record < 0 }

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

	// Jobs with a key stand in the line of their key until it is looked up, so that they keep their order, too. Its number
	// is below 0.
	lines map[queue.Key]int64
	keys  map[int64]queue.Key // the reverse
	line  int64               // the last that was given

	// Heads of chains. Entries may be out of date (the head changed): valid tells, and who becomes head again is pushed
	// again.
	toFind taskHeap // open, unbound
	toRead taskHeap // open, no pin
	fit    taskHeap // open, with a pin, found fit
	due    dueHeap  // parked
	// Parked ones that the log may hold earlier jobs of their record for: a new owner knows all that is parked before it
	// has read the log. It has been read up to readTo.
	ahead  taskHeap
	readTo uint64

	// Unbound ones that are not parked, or due, and some that were: any record may be theirs, so nothing behind the first
	// of them may be read for or planned.
	unfound taskHeap
	dueKeys dueHeap // parked unbound ones
	ripe    []*task // of those, the ones whose time has come; they come back before all others

	log    taskHeap // those that still stand in the log, and some that did; the first is the low-water mark
	open   int      // tasks whose job is in memory
	parked int
}

func newBacklog() *backlog {
	return &backlog{
		chains: make(map[int64][]*task), lines: make(map[queue.Key]int64), keys: make(map[int64]queue.Key), readTo: math.MaxUint64,
	}
}

// lineOf is the chain that a job belongs to: that of its record or, while nobody knows it, of its key.
func (b *backlog) lineOf(j queue.Job) int64 {
	if j.Key == nil || j.Record > 0 {
		return j.Record
	}
	line, ok := b.lines[*j.Key]
	if !ok {
		b.line--
		line = b.line
		b.lines[*j.Key], b.keys[line] = line, *j.Key
	}
	return line
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
	b.await(t)
	b.place(t)
}

// await keeps what is behind an unbound task waiting.
func (b *backlog) await(t *task) {
	if t.awaited() {
		heap.Push(&b.unfound, t)
	}
}

// awaited reports whether the key of the task is about to be looked up.
func (t *task) awaited() bool {
	return t.unbound() && (t.state == stateOpen || t.state == stateReading || t.state == stateWaking)
}

// barrier is the place in the log of the first job of which nobody knows the record.
func (b *backlog) barrier() uint64 {
	for len(b.unfound) > 0 {
		if t := b.unfound[0]; t.awaited() {
			return t.seq
		}
		heap.Pop(&b.unfound)
	}
	return math.MaxUint64
}

// underWay reports whether a job of the same id has not ended yet: in the line of a record, or of the key that it names.
// It has to be of the same campaign, or be looked for by its id alone: who follows another one does not hear of its end.
func (b *backlog) underWay(j queue.Job, record int64) bool {
	lines := []int64{record}
	if j.Key != nil {
		if line, ok := b.lines[*j.Key]; ok {
			lines = append(lines, line)
		}
	}
	for _, line := range lines {
		for _, t := range b.chains[line] {
			if t.id != j.ID || t.state == stateDeciding && t.record == 0 {
				continue
			}
			campaign := t.campaign
			if t.job != nil {
				campaign = t.job.Campaign
			}
			if j.Campaign == "" || j.Campaign == campaign {
				return true
			}
		}
	}
	return false
}

// bind gives a task the record that its key has found, and its place among the jobs of that record.
func (b *backlog) bind(t *task, record int64) {
	b.leave(t)
	t.record, t.job.Record, t.state = record, record, stateOpen
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
	if !slices.Contains(b.chains[t.record], t) {
		return
	}
	t.inLog = false
	if t.state >= stateWaking {
		b.parked--
	} else {
		b.open--
	}
	t.state = stateDeciding // nobody waits for its key any more
	b.leave(t)
}

// next are the jobs at the front of the line of a key that mean one record, as far as they are in memory.
func (b *backlog) next(line int64) []*task {
	var out []*task
	for _, t := range b.chains[line] {
		if t.state != stateOpen || t.job.Match == queue.MatchAll {
			break
		}
		out = append(out, t)
	}
	return out
}

// leave takes a task out of its chain and lets the next one come forward.
func (b *backlog) leave(t *task) {
	chain := b.chains[t.record]
	at := slices.Index(chain, t)
	chain = slices.Delete(chain, at, at+1)
	if len(chain) == 0 {
		delete(b.chains, t.record)
		if key, ok := b.keys[t.record]; ok {
			delete(b.lines, key)
			delete(b.keys, t.record)
		}
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
	t.state, t.parked, t.home, t.due, t.inLog = stateParked, at, max(t.record, 0), due, false
	t.campaign = t.job.Campaign
	t.job, t.attempts, t.pin, t.found = nil, nil, nil, nil
	b.replace(t)
}

// hasten makes a parked task due.
func (b *backlog) hasten(t *task) {
	if t.due.IsZero() {
		return
	}
	t.due = time.Time{}
	b.activate(t)
}

// wake brings a parked task's job back into memory.
func (b *backlog) wake(t *task, p queue.Parked) {
	b.parked--
	b.open++
	t.state, t.job, t.attempts, t.parent, t.matches, t.after = stateOpen, &p.Job, p.Attempts, p.Parent, p.Matches, p.After
	b.await(t)
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
	case t.state == stateParked && t.unbound():
		heap.Push(&b.dueKeys, dueTask{t.due, t})
	case t.state == stateParked:
		heap.Push(&b.due, dueTask{t.due, t})
	case t.state == stateOpen && t.unbound():
		heap.Push(&b.toFind, t)
	case t.state == stateOpen && t.pin == nil:
		heap.Push(&b.toRead, t)
	case t.state == stateOpen && t.isFound():
		heap.Push(&b.fit, t)
	}
}

// nextToFind takes up to n tasks whose keys have to be looked up, in order of the log.
func (b *backlog) nextToFind(n int) []*task {
	var out []*task
	for len(out) < n && len(b.toFind) > 0 {
		t := heap.Pop(&b.toFind).(*task)
		if b.isUnfound(t) {
			t.state = stateReading
			out = append(out, t)
		}
	}
	return out
}

// nextToRead takes up to n tasks whose records have to be read, in order of the log.
func (b *backlog) nextToRead(n int) []*task {
	var out []*task
	for barrier := b.barrier(); len(out) < n && len(b.toRead) > 0 && b.toRead[0].seq < barrier; {
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
	for barrier := b.barrier(); len(out) < n && len(b.fit) > 0 && b.fit[0].seq < barrier; {
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
	for d := b.dueKeys.first(b); d != nil && !d.at.After(now); d = b.dueKeys.first(b) {
		d.task.state = stateWaking
		b.await(d.task)
		b.ripe = append(b.ripe, d.task)
		heap.Pop(&b.dueKeys)
	}
	out := slices.Clone(b.ripe[:min(n, len(b.ripe))])
	b.ripe = slices.Delete(b.ripe, 0, len(out))
	for d := b.due.first(b); len(out) < n && d != nil && !d.at.After(now); d = b.due.first(b) {
		d.task.state = stateWaking
		out = append(out, d.task)
		heap.Pop(&b.due)
	}
	return out
}

// firstDue is when the next parked task wants to be woken; zero when there is none.
func (b *backlog) firstDue() time.Time {
	var at time.Time
	for _, d := range []*dueTask{b.due.first(b), b.dueKeys.first(b)} {
		if d != nil && (at.IsZero() || d.at.Before(at)) {
			at = d.at
			if at.IsZero() {
				at = time.Unix(0, 0) // long due, and not none
			}
		}
	}
	if len(b.ripe) > 0 {
		at = time.Unix(0, 0)
	}
	return at
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

// ready and readable are about how many tasks may be planned, and read for, now: none if they all stand behind one whose
// key is not looked up.
func (b *backlog) ready() int    { return b.before(b.fit) }
func (b *backlog) readable() int { return b.before(b.toRead) }

func (b *backlog) before(h taskHeap) int {
	if len(h) == 0 || h[0].seq >= b.barrier() {
		return 0
	}
	return len(h)
}

// tidy forgets entries that are out of date at the front of the heaps, so that their lengths mean something.
func (b *backlog) tidy() {
	for len(b.toFind) > 0 && !b.isUnfound(b.toFind[0]) {
		heap.Pop(&b.toFind)
	}
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
	return b.isHead(t) && t.state == stateOpen && t.pin == nil && !t.unbound()
}

func (b *backlog) isUnfound(t *task) bool {
	return b.isHead(t) && t.state == stateOpen && t.unbound()
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

// first is the one that is due first, nil if there is none. It forgets entries that are out of date.
func (h *dueHeap) first(b *backlog) *dueTask {
	for len(*h) > 0 {
		if d := &(*h)[0]; d.task.state == stateParked && b.isHead(d.task) && d.at.Equal(d.task.due) {
			return d
		}
		heap.Pop(h)
	}
	return nil
}

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
