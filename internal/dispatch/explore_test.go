package dispatch

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// The exhaustive search. A small world (two or three records, up to four jobs, kintone, the ledger, an owner and what its
// dead predecessors left in the air) is taken through every order of everything that can happen in it: requests that are
// carried out at once, late, twice or never, answers that arrive or not, people who edit, act and delete between any two
// reads of single records, an admin who edits the process, owners that die or fall asleep at any step. What the owner
// does is decided by the functions that the worker runs: backlog, inspectJob, newFlight, judge, inquiry and resolve,
// suspects, and the hearings of a flight (course.go). This file only does for them what the lane does: read, send,
// write. explore_world_test.go holds the world and its rules.
//
// STATUSQ_STATES=n searches until n states have been seen in all; a plain run stops much earlier. What it cannot see is
// what it leaves out: times (a pause may end at any moment), more than the bounds below, and the lane's own code.

// Bounds of the world.
const (
	xJobs    = 4
	xRecords = 3
	xFlights = 3
	xParts   = 3
	xCopies  = 4
)

// A setting is what stays the same in a search.
type setting struct {
	name    string
	records []int8 // the record of each job, in the order of the log
	actions []string
	process [2]*kintone.Process // before and after the admin's edit; nil = there is no edit
	shared  bool
	mark    markKind // what the owner knows of it
	leaves  bool     // whether our actions do leave our name
	batch   int      // most members of a request
	waits   bool     // a job is published too early
	hides   bool     // records may be hidden from us for a while
	poison  int8     // this record's action is refused for a reason that nobody can see; -1 = none

	faults, foreign, crashes int8
	first                    int8 // status of the records at the beginning
	weight                   int  // its share of the states
}

// xWorld is one state of everything. It is a value: a successor is a copy.
type xWorld struct {
	records [xRecords]xRecord
	jobs    [xJobs]xJob
	flights [xFlights]xFlight
	copies  [xCopies]xCopy // those that the flights do not wait for come first, sorted

	edited bool // the admin has edited the process
	cached bool // and the owner has read it since
	cured  bool // the poison is gone
	// What may still go wrong.
	faults, foreign, crashes int8
}

type xRecord struct {
	revision, status int8
	ours             bool // modifier
	gone, hidden     bool // hidden: not to be seen by us, and not to be changed
	touched          int8 // the revision that the last change by others led to
}

type xEnd int8

const (
	xOpen xEnd = iota
	xApplied
	xAlready
	xDead
	xUnknown
)

type xJob struct {
	commits  int8
	end      xEnd
	parked   bool
	attempts int8
	// What the owner read of its record; revision 0 = nothing.
	pin       int8
	pinStatus int8
	pinOurs   bool
}

// xCopy is a copy of a part that has left.
type xCopy struct {
	mask  uint8 // jobs
	pin   [xJobs]int8
	await int8 // number of the flight that waits for its answer, from 1; 0 = nobody does
}

type xPart struct {
	mask             uint8
	cut, sent, again bool
	moved            bool
	doubt            int8 // 0 never, 1 lately, 2 longer ago than the window
	last             int8 // refusal
	why              [xJobs]int8
}

type xFlight struct {
	used, dead, inherited bool
	phase                 phase
	settings              int8 // revision of the process that the pins were taken under; 0 = not known
	pin, step             [xJobs]int8
	parts                 [xParts]xPart // no mask = none
	q                     xInquiry
}

// xInquiry is an inquiry in the middle of its reads.
type xInquiry struct {
	read          [2][xJobs]xSeen // by member
	n             int8            // members read in all
	graph         bool
	asked         bool // the process was read
	checked       bool
	askedRevision int8
	early         bool // the window passed after the last read began
}

type xSeen struct {
	done, exists     bool
	revision, status int8
	ours             bool
}

// Refusals, as the last answer of a part.
const (
	xNone int8 = iota
	xConflict
	xStatus
	xGone // of the first record of the part that is gone
	xOdd
	xLocked
)

// TestEverythingThatCanHappen searches. It fails with the shortest way to a promise that was broken.
func TestEverythingThatCanHappen(t *testing.T) {
	most := 250_000
	if s := os.Getenv("STATUSQ_STATES"); s != "" {
		most, _ = strconv.Atoi(s)
	}
	all := settings()
	weights := 0
	for _, s := range all {
		weights += s.weight
	}
	var (
		seen, complete atomic.Int64
		found          atomic.Bool // one broken promise is enough
	)
	t.Run("of", func(t *testing.T) {
		for _, s := range all {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				n, whole := search(t, s, most*s.weight/weights, &found)
				seen.Add(int64(n))
				if whole {
					complete.Add(1)
				}
			})
		}
	})
	t.Logf("%d states of %d worlds, %d of them searched to the end", seen.Load(), len(all), complete.Load())
}

// search visits states by their distance from the beginning, at most so many, and says whether that was all.
func search(t *testing.T, s setting, most int, found *atomic.Bool) (states int, whole bool) {
	x := newExplorer(s)
	type step struct {
		from int32
		nth  int16 // successor
	}
	var (
		seed  = maphash.MakeSeed()
		seen  = make(map[uint64]int32) // to their numbers
		calm  [][2]int32               // steps that need no misfortune, backwards: to, from
		ended []int32                  // states in which every job has ended
		steps = []step{{-1, 0}}
		layer = []xWorld{x.start()}
		first = 0 // number of the first state of the layer
		rules = make(map[string]int)
	)
	seen[maphash.Comparable(seed, layer[0])] = 0
	for len(layer) > 0 {
		var next []xWorld
		begin := len(steps)
		for i := range layer {
			at := int32(first + i)
			nth := int16(0)
			x.successors(&layer[i], func(_ func() string, w *xWorld, broken string) {
				nth++
				if broken != "" {
					found.Store(true)
					var way []int16
					way = append(way, nth)
					for at := at; at > 0; at = steps[at].from {
						way = append(way, steps[at].nth)
					}
					slices.Reverse(way)
					t.Fatalf("%s\n%s", broken, x.tell(way))
				}
				w.normalise()
				h := maphash.Comparable(seed, *w)
				to, known := seen[h]
				if !known {
					to = int32(len(steps))
					seen[h] = to
					steps = append(steps, step{at, nth})
					next = append(next, *w)
					if w.over(len(x.jobs)) {
						ended = append(ended, to)
					}
				}
				if w.faults == layer[i].faults && w.foreign == layer[i].foreign && w.crashes == layer[i].crashes {
					calm = append(calm, [2]int32{to, at})
				}
			})
			for r, n := range x.rules {
				rules[r] += n
			}
			clear(x.rules)
			if len(steps) >= most || found.Load() {
				t.Logf("%d states, not all; %v", len(steps), rules)
				return len(steps), false
			}
		}
		first, layer = begin, next
	}
	t.Logf("%d states, all; %v", len(steps), rules)
	if stuck := unreached(len(steps), calm, ended); stuck >= 0 {
		found.Store(true)
		var way []int16
		for at := stuck; at > 0; at = steps[at].from {
			way = append(way, steps[at].nth)
		}
		slices.Reverse(way)
		t.Fatalf("a job never ends, whatever happens from here on without more misfortune\n%s", x.tell(way))
	}
	return len(steps), true
}

// unreached is the first state from which no end can be reached; -1 = there is none.
func unreached(states int, back [][2]int32, ends []int32) int32 {
	slices.SortFunc(back, func(a, b [2]int32) int { return cmp.Compare(a[0], b[0]) })
	good := make([]bool, states)
	for _, at := range ends {
		good[at] = true
	}
	for todo := ends; len(todo) > 0; {
		to := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		i, _ := slices.BinarySearchFunc(back, to, func(e [2]int32, to int32) int { return cmp.Compare(e[0], to) })
		for ; i < len(back) && back[i][0] == to; i++ {
			if from := back[i][1]; !good[from] {
				good[from] = true
				todo = append(todo, from)
			}
		}
	}
	for at, ok := range good {
		if !ok {
			return int32(at)
		}
	}
	return -1
}

// tell repeats a way, step by step.
func (x *explorer) tell(way []int16) string {
	var b strings.Builder
	w := x.start()
	for _, want := range way {
		nth := int16(0)
		var to xWorld
		x.successors(&w, func(label func() string, next *xWorld, _ string) {
			if nth++; nth == want {
				fmt.Fprintf(&b, "  %s\n", label())
				to = *next
			}
		})
		to.normalise()
		w = to
	}
	return b.String()
}

// normalise gives worlds that differ in nothing the same form.
func (w *xWorld) normalise() {
	slices.SortFunc(w.copies[:], func(a, b xCopy) int {
		return cmp.Or(cmp.Compare(b.mask, a.mask), cmp.Compare(a.await, b.await), slices.Compare(a.pin[:], b.pin[:]))
	})
	for i := range w.jobs {
		if w.jobs[i].end != xOpen {
			w.jobs[i].pin, w.jobs[i].pinStatus, w.jobs[i].pinOurs, w.jobs[i].parked, w.jobs[i].attempts = 0, 0, false, false, 0
		}
	}
}

// An explorer does for the production functions what a lane does.
type explorer struct {
	setting
	now   time.Time
	jobs  []queue.Job
	rules map[string]int
}

func newExplorer(s setting) *explorer {
	x := &explorer{setting: s, now: time.Unix(1_800_000_000, 0), rules: make(map[string]int)}
	for i, r := range s.records {
		x.jobs = append(x.jobs, queue.Job{ID: fmt.Sprintf("j%d", i+1), App: 5, Record: int64(r) + 1, Action: s.actions[i], Revision: -1})
	}
	if x.process[1] == nil {
		x.process[1] = x.process[0]
	}
	return x
}

const (
	xWindow   = time.Hour
	xAttempts = 2
)

var xStates = []string{"A", "B", "C"}

// successors gives every state that one step leads to. A broken promise comes with it.
func (x *explorer) successors(w *xWorld, emit func(label func() string, next *xWorld, broken string)) {
	x.kintoneActs(w, emit)
	x.othersAct(w, emit)
	if w.over(len(x.jobs)) {
		return
	}
	x.ownersDie(w, emit)
	n := 0
	x.ownerActs(w, func(label func() string, next *xWorld, broken string) {
		n++
		emit(label, next, broken)
	})
	if n == 0 && w.copies == [xCopies]xCopy{} && !w.mayAge() {
		emit(func() string { return "nothing more is done" }, w, "a job never ends")
	}
}

func (w *xWorld) over(jobs int) bool {
	for i := range jobs {
		if w.jobs[i].end == xOpen {
			return false
		}
	}
	return true
}

func (w *xWorld) awaits() bool {
	for _, c := range w.copies {
		if c.await > 0 {
			return true
		}
	}
	return false
}

// mayAge says that the window may pass: nobody waits for an answer, and something is in doubt.
func (w *xWorld) mayAge() bool {
	if w.awaits() {
		return false
	}
	for _, f := range w.flights {
		for _, p := range f.parts {
			if p.doubt == 1 {
				return true
			}
		}
	}
	return false
}

// ownerActs is the lane.
func (x *explorer) ownerActs(w *xWorld, emit func(func() string, *xWorld, string)) {
	b, _ := x.backlog(w)
	if heads := b.nextToRead(xJobs); len(heads) > 0 {
		next := *w
		broken := ""
		for _, t := range heads {
			broken = cmp.Or(broken, x.weigh(&next, int(t.seq)-1, next.records[t.record-1], true))
		}
		emit(func() string { return "the owner reads for inspection" }, &next, broken)
	}
	b, _ = x.backlog(w)
	for _, t := range b.nextDue(x.now, xJobs) {
		next := *w
		next.jobs[t.seq-1].parked = false
		emit(func() string { return fmt.Sprintf("job %d is due again", t.seq) }, &next, "")
	}
	if n := slices.IndexFunc(w.flights[:], func(f xFlight) bool { return !f.used }); n >= 0 {
		for most := 1; most <= x.batch; most++ {
			b, tasks := x.backlog(w)
			fit := b.nextFit(most, x.now.Add(-freshPin), x.known(w).Revision)
			if len(fit) < most {
				if len(fit) == 0 {
					x.adopt(w, tasks, emit)
				}
				break
			}
			f := newFlight(n, fit, x.now)
			next := *w
			for _, t := range fit {
				next.jobs[t.seq-1].pin = 0
			}
			for _, m := range f.parts[0].members {
				next.flights[n].pin[m.Seq-1], next.flights[n].step[m.Seq-1] = int8(m.Pin), int8(m.Step)
			}
			next.flights[n].used, next.flights[n].settings = true, int8(f.settings)
			x.store(&next, n, f)
			emit(func() string { return fmt.Sprintf("slot %d is written: %s", n, next.flights[n].describe()) }, &next, "")
		}
	}
	for n := range w.flights {
		if f := &w.flights[n]; f.used {
			x.flightGoesOn(w, n, emit)
		}
	}
}

// adopt writes back what nextFit sent back to be read again: pins from settings that were replaced.
func (x *explorer) adopt(w *xWorld, tasks []*task, emit func(func() string, *xWorld, string)) {
	next := *w
	for i, t := range tasks {
		if t != nil && t.pin == nil {
			next.jobs[i].pin, next.jobs[i].pinStatus, next.jobs[i].pinOurs = 0, 0, false
		}
	}
	if next != *w {
		emit(func() string { return "pins from older settings are dropped" }, &next, "")
	}
}

// backlog is the production backlog of the jobs that have not ended.
func (x *explorer) backlog(w *xWorld) (*backlog, []*task) {
	b := newBacklog()
	tasks := make([]*task, len(x.jobs))
	for i := range x.jobs {
		j := &w.jobs[i]
		if j.end != xOpen {
			continue
		}
		t := &task{seq: uint64(i + 1), id: x.jobs[i].ID, record: x.jobs[i].Record, job: &x.jobs[i], state: stateOpen}
		switch {
		case w.inFlight(i):
			t.state = stateFlying
		case j.parked:
			t.state = stateParked
		case j.pin > 0:
			t.pin, t.pinAt = x.pinned(w, i), x.now
			t.found = new(x.inspect(w, i, t.pin))
		}
		tasks[i] = t
		b.add(t)
		if t.state == stateOpen && b.chains[t.record][0] != t {
			t.pin = nil // only the first has one
		}
	}
	return b, tasks
}

func (w *xWorld) inFlight(job int) bool {
	for _, f := range w.flights {
		for _, p := range f.parts {
			if p.mask&(1<<job) != 0 {
				return true
			}
		}
	}
	return false
}

func (x *explorer) pinned(w *xWorld, job int) *kintone.Record {
	j := &w.jobs[job]
	return x.record(x.jobs[job].Record, xRecord{revision: j.pin, status: j.pinStatus, ours: j.pinOurs})
}

// record is what a read shows.
func (x *explorer) record(id int64, r xRecord) *kintone.Record {
	if r.gone || r.hidden {
		return nil
	}
	return &kintone.Record{ID: id, Revision: int64(r.revision), Status: xStates[r.status], Modifier: modifier(r.ours)}
}

func modifier(ours bool) string {
	if ours {
		return "us"
	}
	return "sato"
}

func (x *explorer) inspect(w *xWorld, job int, r *kintone.Record) finding {
	return inspectJob(x.jobs[job], r, x.known(w), kintone.Fields{}, "us", nil, x.now)
}

// known is the process as the owner knows it.
func (x *explorer) known(w *xWorld) *kintone.Process {
	if w.cached {
		return x.process[1]
	}
	return x.process[0]
}

// real is the process as it is.
func (x *explorer) real(w *xWorld) *kintone.Process {
	if w.edited {
		return x.process[1]
	}
	return x.process[0]
}

// weigh is lane.weigh.
func (x *explorer) weigh(w *xWorld, job int, r xRecord, judge bool) (broken string) {
	j := &w.jobs[job]
	found := x.inspect(w, job, x.record(x.jobs[job].Record, r))
	if found.fate != fit && found.bySettings && w.cached != w.edited {
		// No job dies of settings that somebody may have mended meanwhile.
		w.cached = w.edited
		found = x.inspect(w, job, x.record(x.jobs[job].Record, r))
	}
	switch {
	case found.fate == fit:
		j.pin, j.pinStatus, j.pinOurs = r.revision, r.status, r.ours
	case !judge:
		j.pin = 0
	case found.fate == already:
		return w.ends(job, xAlready)
	default:
		return x.fails(w, job, found)
	}
	return ""
}

// fails is lane.failure.
func (x *explorer) fails(w *xWorld, job int, found finding) string {
	if found.fate == already {
		return w.ends(job, xAlready)
	}
	j := &w.jobs[job]
	j.pin, j.pinStatus, j.pinOurs = 0, 0, false
	if ladder(found.reason, int(j.attempts), xAttempts) {
		j.parked = true
		j.attempts++
		return ""
	}
	return cmp.Or(w.ends(job, xDead), x.blames(w, job))
}

// flightGoesOn sends, looks or hears.
func (x *explorer) flightGoesOn(w *xWorld, n int, emit func(func() string, *xWorld, string)) {
	f := &w.flights[n]
	switch f.phase {
	case waiting, lookingNext:
		for k := range f.count() {
			next := *w
			g := &next.flights[n]
			g.parts[0], g.parts[k] = g.parts[k], g.parts[0] // whichever comes first
			if f.phase == lookingNext {
				g.phase = investigating
				emit(func() string { return fmt.Sprintf("slot %d looks into jobs %s", n, jobsOf(g.parts[0].mask)) }, &next, "")
				continue
			}
			at := slices.IndexFunc(next.copies[:], func(c xCopy) bool { return c.mask == 0 })
			if at < 0 {
				continue
			}
			g.phase = sending
			next.copies[at] = xCopy{mask: g.parts[0].mask, await: int8(n + 1)}
			for i := range x.jobs {
				if g.parts[0].mask&(1<<i) != 0 {
					next.copies[at].pin[i] = g.pin[i]
				}
			}
			emit(func() string { return fmt.Sprintf("slot %d sends jobs %s", n, jobsOf(g.parts[0].mask)) }, &next, "")
		}
	case investigating:
		x.inquire(w, n, emit)
	}
}

// hear is lane.sent: the answer to the part at work of flight n. often says that it was not the first of its kind.
func (x *explorer) hear(w *xWorld, n int, err error, revisions []int64, often bool) (broken string) {
	f := x.flight(w, n)
	p := f.parts[0]
	passed := time.Time{}
	if often {
		p.tries, passed = 9, x.now.Add(time.Second)
	}
	j := judge(err)
	was := p.members
	switch f.answered(j, passed, x.now) {
	case heardActed:
		broken = x.conclude(w, n, f, f.landed(revisions), nil)
		for i, m := range was {
			rec, ok := after(m, revisions[i], x.known(w), "us")
			if !ok || f.settings != x.known(w).Revision {
				continue
			}
			// The next job of the record needs no read.
			b, _ := x.backlog(w)
			if chain := b.chains[m.Record]; len(chain) > 0 && chain[0].state == stateOpen && chain[0].pin == nil {
				to := int(chain[0].seq) - 1
				status := int8(slices.Index(xStates, rec.Status))
				x.foretell(w, to, xRecord{revision: int8(rec.Revision), status: status, ours: true})
			}
		}
		return broken
	case heardNeverLeft:
		w.flights[n] = xFlight{}
		return ""
	case heardReason:
		x.store(w, n, f)
		w.flights[n].phase = investigating
		return ""
	case heardTooOften:
		if f.count()+1 > xParts {
			x.store(w, n, f) // beyond the bounds: not cut
			w.flights[n].phase = waiting
			return ""
		}
		f.halve()
	}
	x.store(w, n, f)
	w.flights[n].phase = waiting
	return ""
}

func (f *flight) count() int { return len(f.parts) }

// foretell gives the next job the pin that kintone has just returned.
func (x *explorer) foretell(w *xWorld, job int, r xRecord) {
	if x.inspect(w, job, x.record(x.jobs[job].Record, r)).fate == fit {
		j := &w.jobs[job]
		j.pin, j.pinStatus, j.pinOurs = r.revision, r.status, r.ours
	}
}

// conclude is lane.conclude: one write to the ledger, and what follows from it.
func (x *explorer) conclude(w *xWorld, n int, f *flight, ends []ending, read map[int64]*kintone.Record) (broken string) {
	var reopen []int
	for _, e := range ends {
		job := int(e.member.Seq) - 1
		switch e.fate {
		case endApplied:
			broken = cmp.Or(broken, w.ends(job, xApplied))
		case endFailed:
			broken = cmp.Or(broken, x.fails(w, job, e.found))
		case endUnknown:
			broken = cmp.Or(broken, x.excuses(w, n, job), w.ends(job, xUnknown))
		case endAfresh:
			reopen = append(reopen, job)
		}
	}
	if len(f.parts) == 0 {
		w.flights[n] = xFlight{}
	} else {
		f.carryOn()
		x.store(w, n, f)
		w.flights[n].phase = f.phase
		w.flights[n].q = xInquiry{}
	}
	for _, job := range reopen {
		if r := read[x.jobs[job].Record]; r != nil {
			x.weigh(w, job, xRecord{revision: int8(r.Revision), status: int8(slices.Index(xStates, r.Status)), ours: r.Modifier == "us"}, false)
		}
	}
	return broken
}

// flight is flight n as the production code has it.
func (x *explorer) flight(w *xWorld, n int) *flight {
	in := &w.flights[n]
	f := &flight{n: n, id: "r", at: x.now, settings: int64(in.settings), inherited: in.inherited, dead: in.dead, phase: in.phase, tasks: map[int64]*task{}}
	for _, p := range in.parts {
		if p.mask == 0 {
			break
		}
		out := &part{cut: p.cut, again: p.again, moved: p.moved}
		if p.last != xNone {
			out.last = judge(x.refusal(p.last, x.goneOf(w, p.mask)))
		}
		if p.sent {
			out.sends = 1
		}
		switch p.doubt {
		case 1:
			out.doubt = x.now
		case 2:
			out.doubt = x.now.Add(-xWindow)
		}
		for i := range x.jobs {
			if p.mask&(1<<i) == 0 {
				continue
			}
			out.members = append(out.members, x.member(w, n, i))
			f.tasks[x.jobs[i].Record] = &task{seq: uint64(i + 1), id: x.jobs[i].ID, record: x.jobs[i].Record, job: &x.jobs[i], state: stateFlying}
			if p.why[i] > 0 {
				if out.why == nil {
					out.why = make(map[int64]finding)
				}
				out.why[x.jobs[i].Record] = xFindings[p.why[i]-1]
			}
		}
		f.parts = append(f.parts, out)
	}
	return f
}

// goneOf is the first record of the jobs that is gone.
func (x *explorer) goneOf(w *xWorld, mask uint8) int64 {
	for i := range x.jobs {
		if r := x.setting.records[i]; mask&(1<<i) != 0 && (w.records[r].gone || w.records[r].hidden) {
			return int64(r) + 1
		}
	}
	return 0
}

// member is what newFlight wrote down for the job.
func (x *explorer) member(w *xWorld, n, job int) queue.Member {
	in := &w.flights[n]
	p := x.process[0]
	if int64(in.settings) == x.process[1].Revision {
		p = x.process[1]
	}
	m := queue.Member{Seq: uint64(job + 1), Job: x.jobs[job].ID, Record: x.jobs[job].Record, Pin: int64(in.pin[job]), Action: x.jobs[job].Action, Step: int(in.step[job])}
	a := p.ActionsNamed(m.Action)[0]
	m.From, m.To = a.From, a.To
	return m
}

// store keeps what the production code made of a flight.
func (x *explorer) store(w *xWorld, n int, f *flight) {
	out := &w.flights[n]
	out.dead = f.dead
	out.q = xInquiry{}
	out.parts = [xParts]xPart{}
	for i, p := range f.parts {
		q := &out.parts[i]
		q.cut, q.sent, q.again, q.moved = p.cut, p.sends > 0, p.again, p.moved
		switch {
		case p.doubt.IsZero():
		case x.now.Sub(p.doubt) >= xWindow:
			q.doubt = 2
		default:
			q.doubt = 1
		}
		q.last = refusalOf(p.last)
		for _, m := range p.members {
			q.mask |= 1 << (m.Seq - 1)
			if found, bad := p.why[m.Record]; bad {
				q.why[m.Seq-1] = findingNumber(found)
			}
		}
	}
	var mask uint8
	for _, p := range out.parts {
		mask |= p.mask
	}
	for i := range out.pin {
		if mask&(1<<i) == 0 {
			out.pin[i], out.step[i] = 0, 0
		}
	}
}

func (f *xFlight) count() int {
	n := 0
	for _, p := range f.parts {
		if p.mask != 0 {
			n++
		}
	}
	return n
}

func (f *xFlight) describe() string {
	var b strings.Builder
	for _, p := range f.parts[:f.count()] {
		b.WriteString("[" + jobsOf(p.mask) + "]")
	}
	return fmt.Sprintf("%s pins %v", b.String(), f.pin)
}

func jobsOf(mask uint8) string {
	var s []string
	for i := range xJobs {
		if mask&(1<<i) != 0 {
			s = append(s, strconv.Itoa(i+1))
		}
	}
	return strings.Join(s, ",")
}

// inquire takes an inquiry one read further, or acts on what it found.
func (x *explorer) inquire(w *xWorld, n int, emit func(func() string, *xWorld, string)) {
	f := x.flight(w, n)
	p := f.parts[0]
	in := &w.flights[n].q
	q := &inquiry{
		members: p.members, settings: f.settings,
		stale:    p.last.charge == chargeJobs && p.last.user == "" && p.last.reason != ReasonRevisionConflict,
		evidence: evidence{us: "us", mark: x.mark, doubt: p.inDoubt(), dedicated: !x.shared},
	}
	size := int8(len(p.members))
	for i := range 2 {
		if in.n < size*int8(i+1) {
			break
		}
		q.sawRecords(x.readOf(p.members, in.read[i]), x.now)
	}
	if in.early {
		q.began = x.now.Add(-time.Second)
	}
	if in.asked {
		q.process = x.process[0]
		if int64(in.askedRevision) == x.process[1].Revision {
			q.process = x.process[1]
		}
	}
	if in.graph {
		q.evidence.graph = q.process
	}
	q.checked = in.checked
	want := wantRecords
	if in.n%size == 0 {
		want = q.wants()
	}
	next := *w
	to := &next.flights[n].q
	switch want {
	case wantRecords:
		m := p.members[in.n%size]
		r := w.records[m.Record-1]
		to.read[in.n/size][in.n%size] = xSeen{done: true, exists: !r.gone && !r.hidden, revision: r.revision, status: r.status, ours: r.ours}
		if to.n%size == 0 {
			to.early = false
		}
		to.n++
		to.checked = false
		emit(func() string { return fmt.Sprintf("slot %d reads record %d: %+v", n, m.Record, r) }, &next, "")
	case wantProcess:
		q.sawProcess(x.real(w))
		to.asked, to.askedRevision, to.graph, to.checked = true, int8(x.real(w).Revision), q.evidence.graph != nil, true
		emit(func() string { return fmt.Sprintf("slot %d reads the settings", n) }, &next, "")
	case wantNothing:
		x.understand(w, n, f, q, emit)
	}
}

func (x *explorer) readOf(members []queue.Member, read [xJobs]xSeen) map[int64]*kintone.Record {
	out := make(map[int64]*kintone.Record)
	for i, m := range members {
		if s := read[i]; s.exists {
			out[m.Record] = x.record(m.Record, xRecord{revision: s.revision, status: s.status, ours: s.ours})
		}
	}
	return out
}

// understand is lane.understood.
func (x *explorer) understand(w *xWorld, n int, f *flight, q *inquiry, emit func(func() string, *xWorld, string)) {
	x.rules[fmt.Sprintf("%s: %s", q.decision, q.rule)]++
	next := *w
	if q.process != nil {
		next.cached = q.process == x.process[1] && x.process[1] != x.process[0]
	}
	said := func() string {
		return fmt.Sprintf("slot %d: jobs %s are %s (%s)", n, jobsOf(w.flights[n].parts[0].mask), q.decision, q.rule)
	}
	if ends := f.learned(q.decision, q.evidence); len(ends) > 0 {
		broken := x.conclude(&next, n, f, ends, q.records)
		emit(said, &next, broken)
		return
	}
	// Ten refusals for a revision that the read does not show are possible, but take long.
	for _, tries := range []int{0, 10} {
		f, next := x.flight(w, n), next
		p := f.parts[0]
		p.tries = tries
		step := f.next(suspects(p, q.records, f.tasks, x.known(&next), kintone.Fields{}, "us", x.now), xWindow, q.began)
		broken := ""
		switch step {
		case splitOff, halve:
			if f.count()+1 > xParts {
				break // beyond the bounds
			}
			if step == splitOff {
				f.splitSuspects()
			} else {
				f.halve()
			}
		case giveUp:
			broken = x.conclude(&next, n, f, f.givenUp(), nil)
			emit(func() string { return said() + ", given up" }, &next, broken)
			continue
		case sendAgain:
			p.again = true
		}
		x.store(&next, n, f)
		next.flights[n].phase = waiting
		emit(func() string { return fmt.Sprintf("%s, then %d", said(), step) }, &next, broken)
		if p.last.reason != ReasonRevisionConflict {
			break // tries make no difference
		}
	}
}

var errNoAnswer = errors.New("no answer")

// refusal is kintone's answer.
func (x *explorer) refusal(kind int8, record int64) error {
	e := &kintone.Error{Op: "PUT records/status.json", App: 5, Status: 400}
	switch kind {
	case xConflict:
		e.Status, e.Code = 409, "GAIA_CO02"
	case xStatus:
		e.Code = "GAIA_IL03"
	case xGone:
		e.Status, e.Code = 404, "GAIA_RE01"
		if record > 0 {
			e.Records = []int64{record}
		}
	case xOdd:
		e.Code = "GAIA_XX99"
	case xLocked:
		e.Code = "GAIA_DA02"
	}
	return e
}

func refusalOf(j judgement) int8 {
	switch {
	case j.code == "GAIA_CO02":
		return xConflict
	case j.code == "GAIA_IL03":
		return xStatus
	case j.code == "GAIA_RE01":
		return xGone
	case j.code == "GAIA_XX99":
		return xOdd
	case j.code == "GAIA_DA02":
		return xLocked
	}
	return xNone
}

// xFindings are what can speak against a job here. Zero = nothing.
var xFindings = []finding{
	{fate: already}, {fate: unfit, reason: ReasonStatusMismatch}, {fate: unfit, reason: ReasonRecordNotFound},
	{fate: unfit, reason: ReasonRefused}, {fate: unfit, reason: ReasonRevisionConflict}, {fate: unfit, reason: ReasonActionUnknown},
}

func findingNumber(f finding) int8 {
	for i, g := range xFindings {
		if f.fate == g.fate && (f.fate == already || f.reason == g.reason) {
			return int8(i + 1)
		}
	}
	panic(fmt.Sprintf("a finding that is not in the table: %+v", f))
}
