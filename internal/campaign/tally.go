package campaign

import (
	"maps"
	"math"
	"time"

	"statusq/internal/queue"
)

// rateWindow is the time over which a Tally measures its rate.
const rateWindow = 30 * time.Second

// Tally counts how jobs ended. Feed it results in the order of the ledger, from the beginning. It is used by one
// goroutine.
type Tally struct {
	total    int
	only     map[string]target // nil: every job counts
	ends     map[string]end
	outcomes map[queue.Outcome]int
	reasons  map[string]int

	// The newest results per second, oldest first, none older than rateWindow before the newest.
	recent []second
}

// target is what a job acts on.
type target struct{ app, record int64 }

// end is how a job ended, as far as is known.
type end struct {
	record  int64 // of the job
	outcome queue.Outcome
	reason  string
}

type second struct {
	unix int64
	n    int
}

// reasonIDReused is the worker's reason for a job whose id was used before for another record.
const reasonIDReused = "id_reused"

// leastLeft is the share of the jobs below which the rate says nothing about the rest any more: the last ones are mostly
// parked, and wait for a time or for somebody.
const leastLeft = 0.02

// NewTally expects total jobs. With jobs, which have ids, only the results of those count, and total is how many they
// are; without, every result counts, and a total of 0 means that it is not known.
func NewTally(total int, jobs []queue.Job) *Tally {
	t := &Tally{total: total, ends: make(map[string]end), outcomes: make(map[queue.Outcome]int), reasons: make(map[string]int)}
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
// this one.
func (t *Tally) Add(r queue.Result) bool {
	was, known := t.ends[r.Job]
	is := end{record: r.Record, outcome: r.Outcome}
	if r.Outcome == queue.Dead || r.Outcome == queue.Unknown {
		is.reason = r.Reason
	}
	record := was.record
	if t.only != nil {
		job, meant := t.only[r.Job]
		if !meant || r.App != job.app { // each app has ids of its own
			return false
		}
		record = job.record
	}
	switch {
	case t.only == nil && !known, r.Record == record:
	case known, r.Outcome == queue.Duplicate, r.Reason == reasonIDReused: // the other job came later, and is the one that was not run
		return false
	default:
		is = end{record: record, outcome: queue.Dead, reason: reasonIDReused}
	}
	if known && (r.Outcome == queue.Duplicate || was == is) {
		return false
	}
	if known {
		t.count(was, -1)
	} else {
		t.mark(r.At)
	}
	t.ends[r.Job] = is
	t.count(is, 1)
	return true
}

func (t *Tally) count(e end, n int) {
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

// Ended returns how many jobs have ended, in whatever way.
func (t *Tally) Ended() int { return len(t.ends) }

// Done reports whether every expected job has ended. Without a total nothing is ever done.
func (t *Tally) Done() bool { return t.total > 0 && len(t.ends) >= t.total }

// Count returns how many jobs ended in this way.
func (t *Tally) Count(o queue.Outcome) int { return t.outcomes[o] }

// Outcomes returns how many jobs ended in which way.
func (t *Tally) Outcomes() map[queue.Outcome]int { return maps.Clone(t.outcomes) }

// Reasons returns how many jobs are dead or unknown for which reason.
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
	rest := float64(t.total - len(t.ends))
	if rate == 0 || rest <= 0 || rest < leastLeft*float64(t.total) {
		return 0, false
	}
	if seconds := rest / rate; seconds < math.MaxInt64/float64(time.Second) {
		return time.Duration(seconds * float64(time.Second)).Round(time.Second), true
	}
	return math.MaxInt64, true
}
