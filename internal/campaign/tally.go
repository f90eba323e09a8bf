package campaign

import (
	"cmp"
	"maps"
	"math"
	"time"

	"statusq/internal/queue"
)

// rateWindow is the time over which a Tally measures its rate.
const rateWindow = 30 * time.Second

// Tally counts how jobs ended. Feed it results in the order of the ledger, from the beginning. It is used by one
// goroutine.
//
// A job whose key matched several records is one job of many ends: those of the jobs that were made of it, one for each
// record. It has ended when all of them have, and in the counts of outcomes and reasons it is they that stand.
type Tally struct {
	total    int
	only     map[string]target // nil: every job counts
	ends     map[string]end    // of jobs, and of those that were made of them
	families map[string]family // by job, of those that jobs were made of
	outcomes map[queue.Outcome]int
	reasons  map[string]int

	ended    int // jobs, with all that were made of them
	children int // jobs that were made of others and have ended
	expected int // how many of those there will be, as far as is known

	// The newest results per second, oldest first, none older than rateWindow before the newest.
	recent []second
}

// target is what a job acts on. Which record a key leads to is not known before it ends: 0.
type target struct{ app, record int64 }

// end is how a job ended, as far as is known.
type end struct {
	record  int64 // of the job
	outcome queue.Outcome
	reason  string
}

// family is what is known of the jobs that were made of one.
type family struct {
	size  int // how many there are, once their parent has ended
	ended int
}

type second struct {
	unix int64
	n    int
}

// The worker's reasons that a tally knows. They are spelt here as well, because clients of the queue have no worker in them.
const (
	ReasonUnderWay        = "under_way"        // of a duplicate whose job has not ended: its end is still to come
	ReasonIDReused        = "id_reused"        // of a job whose id was used before for another record
	ReasonActedNotMoved   = "acted_not_moved"  // of a job that was applied, while its record waits for the others who must act
	ReasonActedUnverified = "acted_unverified" // of a job that was applied, and where its record stands could not be read
)

// leastLeft is the share of the jobs below which the rate says nothing about the rest any more: the last ones are mostly
// parked, and wait for a time or for somebody.
const leastLeft = 0.02

// NewTally expects total jobs. With jobs, which have ids, only the results of those count, and total is how many they
// are; without, every result counts, and a total of 0 means that it is not known.
func NewTally(total int, jobs []queue.Job) *Tally {
	t := &Tally{total: total, ends: make(map[string]end), families: make(map[string]family), outcomes: make(map[queue.Outcome]int),
		reasons: make(map[string]int)}
	if jobs != nil {
		t.only = make(map[string]target, len(jobs))
		for _, job := range jobs {
			t.only[job.ID] = target{job.App, job.Record}
		}
		t.total = len(t.only)
	}
	return t
}

// Add takes a result into account and reports whether it changed the counts. A job's newest outcome counts, so that one
// that was dead and was retried is what became of it in the end; a duplicate says nothing about the job it repeats and
// only counts while nothing else is known.
//
// An id belongs to the record that it was used for first. A job whose id turns out to have ended for another record is
// dead with the reason id_reused, as the worker runs nothing for it: that the other job was applied says nothing about
// this one. Of a job with a key the record is not known before, and may differ when its key is looked up once more.
func (t *Tally) Add(r queue.Result) bool {
	if r.Outcome == queue.Duplicate && r.Reason == ReasonUnderWay {
		return false
	}
	was, known := t.ends[r.Job]
	is := end{record: r.Record, outcome: r.Outcome}
	switch r.Outcome {
	case queue.Dead, queue.Unknown, queue.Cancelled:
		is.reason = r.Reason
	case queue.Applied: // most need no reason, and these want a look
		if r.Reason == ReasonActedNotMoved || r.Reason == ReasonActedUnverified {
			is.reason = r.Reason
		}
	}
	job := cmp.Or(r.Parent, r.Job) // as it was sent
	record := was.record
	if t.only != nil {
		meant, ok := t.only[job]
		if !ok || r.App != meant.app { // each app has ids of its own
			return false
		}
		record = 0
		if r.Parent == "" {
			record = meant.record
		}
	}
	switch reused := r.Reason == ReasonIDReused; {
	case record == 0 && !(t.only == nil && known && reused), r.Record == record:
	case known, r.Outcome == queue.Duplicate, reused: // the other job came later, and is the one that was not run
		return false
	default:
		is = end{record: record, outcome: queue.Dead, reason: ReasonIDReused}
	}
	if known && (r.Outcome == queue.Duplicate || was == is && r.Matches == t.families[r.Job].size) {
		return false
	}

	over := t.over(job)
	if known {
		t.count(was, -1)
	} else {
		t.mark(r.At)
	}
	t.ends[r.Job] = is
	t.count(is, 1)
	t.relate(r, job, known)
	switch now := t.over(job); {
	case now && !over:
		t.ended++
	case over && !now: // it was tried again, and became many
		t.ended--
	}
	return true
}

// relate keeps the books of a job and those that were made of it.
func (t *Tally) relate(r queue.Result, job string, again bool) {
	f := t.families[job]
	switch {
	case r.Parent == "":
		t.expected += r.Matches - f.size
		f.size = r.Matches
	case !again:
		t.children++
		f.ended++
	}
	if f != (family{}) {
		t.families[job] = f
	}
}

// over reports whether a job has ended, and all that were made of it.
func (t *Tally) over(job string) bool {
	_, ended := t.ends[job]
	f := t.families[job]
	return ended && f.ended >= f.size
}

// count adds n to the counts of an end.
func (t *Tally) count(e end, n int) {
	if e.outcome == queue.Matched { // the jobs that were made of it are counted
		return
	}
	if t.outcomes[e.outcome] += n; t.outcomes[e.outcome] == 0 {
		delete(t.outcomes, e.outcome)
	}
	if e.reason == "" {
		return
	}
	if t.reasons[e.reason] += n; t.reasons[e.reason] == 0 {
		delete(t.reasons, e.reason)
	}
}

// mark notes the time at which a job ended, for the rate.
func (t *Tally) mark(at time.Time) {
	now := at.Unix()
	if n := len(t.recent); n > 0 && t.recent[n-1].unix >= now { // lanes of several apps may be a little out of step
		t.recent[n-1].n++
		return
	}
	t.recent = append(t.recent, second{now, 1})
	for t.recent[0].unix <= now-int64(rateWindow/time.Second) {
		t.recent = t.recent[1:]
	}
}

// Total returns how many jobs are expected, 0 if that is not known.
func (t *Tally) Total() int { return t.total }

// Ended returns how many jobs have ended, in whatever way, and with them all jobs that were made of them.
func (t *Tally) Ended() int { return t.ended }

// Done reports whether every expected job has ended. Without a total nothing is ever done.
func (t *Tally) Done() bool { return t.total > 0 && t.ended >= t.total }

// Matched returns how many jobs were made of others, one for each record that a key matched, as far as is known, and how
// many of them have ended.
func (t *Tally) Matched() (ended, jobs int) { return t.children, max(t.expected, t.children) }

// Steps returns how much there is to do, as far as is known, and how much of it is done: a job that became several counts
// once for itself and once for each of them.
func (t *Tally) Steps() (done, all int) {
	_, jobs := t.Matched()
	return len(t.ends), t.total + jobs
}

// Count returns how many jobs ended in this way. Those that became several are not among them.
func (t *Tally) Count(o queue.Outcome) int { return t.outcomes[o] }

// Outcomes returns how many jobs ended in which way.
func (t *Tally) Outcomes() map[queue.Outcome]int { return maps.Clone(t.outcomes) }

// Reasons returns how many jobs are dead, unknown or cancelled for which reason, and how many were applied without the
// record having been seen to move ([ReasonActedNotMoved], [ReasonActedUnverified]).
func (t *Tally) Reasons() map[string]int { return maps.Clone(t.reasons) }

// Rate returns how many jobs ended per second lately, as seen at now.
func (t *Tally) Rate(now time.Time) float64 {
	since := now.Add(-rateWindow).Unix()
	n := 0
	first := int64(0)
	for _, s := range t.recent {
		if s.unix <= since {
			continue
		}
		if first == 0 {
			first = s.unix
		}
		n += s.n
	}
	if n == 0 {
		return 0
	}
	// A campaign that has just begun is measured over its own age, not over a window that is mostly empty.
	return float64(n) / max(1, float64(now.Unix()-first+1))
}

// Left returns how long the rest will take at the present rate, and false while that cannot be said. Nor can it of the
// last jobs: they are mostly parked, and end when what they wait for comes.
func (t *Tally) Left(now time.Time) (time.Duration, bool) {
	rate := t.Rate(now)
	done, all := t.Steps()
	rest := float64(all - done)
	if rate == 0 || rest <= 0 || rest < leastLeft*float64(all) {
		return 0, false
	}
	if seconds := rest / rate; seconds < math.MaxInt64/float64(time.Second) {
		return time.Duration(seconds * float64(time.Second)).Round(time.Second), true
	}
	return math.MaxInt64, true
}
