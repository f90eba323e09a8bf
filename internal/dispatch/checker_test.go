package dispatch

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// A history is everything that the outside of a worker can know about a run. Four parties wrote it: publishers, who
// keep what they were told; the ledger, with results, letters and slots; kintone, with its log of what it really carried
// out; and everybody else who touched records. check holds them against each other.
type history struct {
	shared   bool // others act under the worker's login
	inflight int  // status requests that may be out at a time
	peak     int  // those that were

	accepted []accepted // what publishers were told, in the order of the log
	results  []queue.Result
	letters  map[uint64][]queue.DeadLetter // every letter that was seen, by the place of its job in the log
	left     []queue.DeadLetter            // those that lie there at the end
	operated map[uint64]*operation         // what operators did, by the same
	slots    []queue.SlotView              // at the end
	log      uint64                        // messages in it at the end
	commits  []simulator.Commit
	edits    []edit
	gone     map[int64]bool // records that were deleted
	asked    []asked        // status requests as they came to kintone
}

// accepted is a job that a publisher was told is in the log. In a storm no two jobs of one record have the same action,
// so that an action of the commit log belongs to one job.
type accepted struct {
	job queue.Job
	seq uint64
}

// operation is how often operators did something about one job.
type operation struct {
	retried  int  // each lets it end once more
	resolved int  // each adds a result
	unclear  int  // some of them may not have happened
	removed  bool // its last letter was discarded or resolved
}

// edit is a change of a record by somebody else that is no action.
type edit struct{ record, revision int64 }

// asked is one status request.
type asked struct {
	n       int
	at      time.Time
	members []change
}

type deed struct {
	record int64
	action string
}

// check returns what contradicts the promises.
func (h *history) check() error {
	var wrong []error
	broken := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }

	ends := make(map[uint64][]queue.Result)
	for _, r := range h.results {
		ends[r.Seq] = append(ends[r.Seq], r)
	}
	run := make(map[deed][]simulator.Commit)
	for _, c := range h.commits {
		if !c.Foreign {
			run[deed{c.Record, c.Action}] = append(run[deed{c.Record, c.Action}], c)
		}
	}

	first := make(map[string]accepted) // the job that an id was used for first
	owner := make(map[deed]accepted)   // the job that an action belongs to
	known := make(map[uint64]bool)
	for _, a := range h.accepted {
		known[a.seq] = true
		d := deed{a.job.Record, a.job.Action}
		before, again := first[a.job.ID]
		again = again && a.job.ID != ""
		switch {
		case again:
			h.checkAgain(broken, a, before, ends[a.seq])
			continue
		case a.job.ID != "":
			first[a.job.ID] = a
		}
		owner[d] = a
		h.checkJob(broken, a, ends[a.seq], run[d])
	}
	for seq, rs := range ends {
		if !known[seq] {
			broken("sequence %d ended %v, and nobody published it", seq, outcomes(rs))
		}
	}
	for d, cs := range run {
		if _, ours := owner[d]; !ours {
			broken("record %d: %q was run %d times, and no job asks for it", d.record, d.action, len(cs))
		}
	}
	h.checkOrder(broken, owner)
	h.checkRequests(broken)
	h.checkRest(broken, ends)
	return errors.Join(wrong...)
}

// checkJob holds the ends of one job against what kintone did for it.
func (h *history) checkJob(broken func(string, ...any), a accepted, ends []queue.Result, run []simulator.Commit) {
	name := fmt.Sprintf("job %s (sequence %d, record %d, %s)", a.job.ID, a.seq, a.job.Record, a.job.Action)
	op := h.operation(a.seq)
	if len(ends) == 0 {
		broken("%s never ended: it is lost", name)
		return
	}
	most, least := 1+op.retried+op.resolved, 1+op.retried+op.resolved-op.unclear
	if len(ends) > most || len(ends) < least {
		broken("%s ended %d times (%v); operators retried it %d times and resolved it %d times", name, len(ends), outcomes(ends), op.retried, op.resolved)
	}
	if len(run) > 1 {
		broken("%s was run %d times: %s", name, len(run), tell(run))
	}
	last := ends[len(ends)-1]
	for i, r := range ends {
		if unfound := a.job.Key != nil && (r.Outcome == queue.Dead || r.Outcome == queue.Cancelled) && r.Record == 0; r.Record != a.job.Record && !unfound {
			broken("%s: a result names record %d", name, r.Record)
		}
		if r.Outcome == queue.Duplicate {
			broken("%s is called a duplicate, and was the first of its id", name)
		}
		if i < len(ends)-1 && (r.Outcome == queue.Applied || r.Outcome == queue.Already) {
			broken("%s ended %v: it went on after it was done", name, outcomes(ends))
		}
	}
	switch last.Outcome {
	case queue.Applied:
		if len(run) != 1 {
			broken("%s is called applied, and was run %d times", name, len(run))
		} else if c := run[0]; last.Revision != 0 && (last.Revision <= c.Before || last.Revision > c.After) {
			broken("%s is called applied at revision %d, and was run %s", name, last.Revision, tell(run))
		}
	case queue.Already, queue.Dead, queue.Cancelled:
		if len(run) > 0 {
			broken("%s is called %s (%s), and was run: %s", name, last.Outcome, last.Reason, tell(run))
		}
	case queue.Unknown:
	default:
		broken("%s ended as %q", name, last.Outcome)
	}
	for _, r := range ends {
		if r.Outcome == queue.Unknown {
			h.checkUnknown(broken, name, a, r)
		}
	}
}

// checkAgain holds what became of a job that was published under an id that had been used.
func (h *history) checkAgain(broken func(string, ...any), a, before accepted, ends []queue.Result) {
	name := fmt.Sprintf("job %s, published again at sequence %d", a.job.ID, a.seq)
	if len(ends) != 1 {
		broken("%s ended %d times (%v)", name, len(ends), outcomes(ends))
		return
	}
	switch r := ends[0]; {
	case a.job.Record == before.job.Record && r.Outcome != queue.Duplicate:
		broken("%s ended %s, want duplicate", name, r.Outcome)
	case before.job.Key != nil && r.Outcome == queue.Duplicate: // of which it was not known then what record it meant
	case a.job.Record != before.job.Record && (r.Outcome != queue.Dead || r.Reason != ReasonIDReused):
		broken("%s for another record ended %s %s, want dead, %s", name, r.Outcome, r.Reason, ReasonIDReused)
	}
}

// checkUnknown holds that an outcome is unknown only where nobody could tell: the record was changed by somebody else
// after its pin, or is gone, or others act under our name.
func (h *history) checkUnknown(broken func(string, ...any), name string, a accepted, r queue.Result) {
	if h.shared || h.gone[a.job.Record] {
		return
	}
	at := slices.IndexFunc(h.letters[a.seq], func(d queue.DeadLetter) bool { return d.Evidence != nil && d.Evidence.Request == r.Request })
	if at < 0 {
		broken("%s is unknown, and no letter has evidence of request %s", name, r.Request)
		return
	}
	ev := *h.letters[a.seq][at].Evidence
	pin := ev.Pin
	if slices.ContainsFunc(h.edits, func(e edit) bool { return e.record == a.job.Record && e.revision > pin }) ||
		slices.ContainsFunc(h.commits, func(c simulator.Commit) bool { return c.Foreign && c.Record == a.job.Record && c.After > pin }) {
		return
	}
	broken("%s is unknown, and nobody else changed the record after its pin %d; found at revision %d, status %q, modifier %q", name, pin, ev.Revision, ev.Status, ev.Modifier)
}

// checkOrder holds that the actions of a record happened in the order of the log. A job that an operator sent again
// comes when it comes.
func (h *history) checkOrder(broken func(string, ...any), owner map[deed]accepted) {
	last := make(map[int64]accepted)
	for _, c := range h.commits {
		a, ours := owner[deed{c.Record, c.Action}]
		if c.Foreign || !ours || h.operation(a.seq).retried > 0 {
			continue
		}
		if before := last[c.Record]; before.seq > a.seq {
			broken("record %d: %s of sequence %d was run after %s of sequence %d:%s", c.Record, a.job.Action, a.seq, before.job.Action, before.seq, h.story(c.Record))
		}
		last[c.Record] = a
	}
}

// story is everything that happened to a record, for people.
func (h *history) story(record int64) string {
	type line struct {
		at   time.Time
		text string
	}
	var lines []line
	for _, c := range h.commits {
		if c.Record == record {
			lines = append(lines, line{c.Time, fmt.Sprintf("%s run by request %s of %s, %d to %d", c.Action, c.Request, c.Actor, c.Before, c.After)})
		}
	}
	for _, r := range h.results {
		if r.Record == record {
			lines = append(lines, line{r.At, fmt.Sprintf("sequence %d ended %s %s by %s", r.Seq, r.Outcome, r.Reason, r.Request)})
		}
	}
	for _, q := range h.asked {
		for _, m := range q.members {
			if m.Record == record {
				lines = append(lines, line{q.at, fmt.Sprintf("request %d of %d: %s at pin %d", q.n, len(q.members), m.Action, m.Revision)})
			}
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return a.at.Compare(b.at) })
	var s strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&s, "\n\t%s %s", l.at.UTC().Format("15:04:05.000"), l.text)
	}
	return s.String()
}

// checkRequests holds the form of what was sent.
func (h *history) checkRequests(broken func(string, ...any)) {
	if h.peak > h.inflight {
		broken("%d status requests were out at a time, %d are allowed", h.peak, h.inflight)
	}
	for _, q := range h.asked {
		records := make(map[int64]bool)
		for _, m := range q.members {
			if m.Revision < 1 {
				broken("request %d: record %d is not pinned", q.n, m.Record)
			}
			if records[m.Record] {
				broken("request %d holds record %d twice", q.n, m.Record)
			}
			records[m.Record] = true
		}
	}
}

// checkRest holds that nothing is left where it should not be, and that a letter lies there for each job whose end asks
// for a person.
func (h *history) checkRest(broken func(string, ...any), ends map[uint64][]queue.Result) {
	for _, s := range h.slots {
		if s.Slot.Request != nil {
			broken("slot %d still holds request %s", s.N, s.Slot.Request.ID)
		}
	}
	if h.log > 0 {
		broken("%d jobs are left in the log", h.log)
	}
	lying := make(map[uint64]bool)
	for _, d := range h.left {
		lying[d.Seq] = true
	}
	for seq, rs := range ends {
		last := rs[len(rs)-1]
		wanted := last.Outcome == queue.Unknown || last.Outcome == queue.Dead && last.Reason != queue.ReasonResolvedNotApplied
		op := h.operation(seq)
		if wanted && !lying[seq] && !op.removed && op.unclear == 0 {
			broken("sequence %d ended %s, and its letter is not there", seq, last.Outcome)
		}
		if !wanted && lying[seq] {
			broken("sequence %d ended %s, and has a letter", seq, last.Outcome)
		}
		delete(lying, seq)
	}
	for _, seq := range slices.Sorted(maps.Keys(lying)) {
		broken("sequence %d has a letter, and never ended", seq)
	}
}

func (h *history) operation(seq uint64) operation {
	if op := h.operated[seq]; op != nil {
		return *op
	}
	return operation{}
}

func outcomes(rs []queue.Result) string {
	var s []string
	for _, r := range rs {
		s = append(s, strings.TrimSpace(string(r.Outcome)+" "+r.Reason))
	}
	return strings.Join(s, ", ")
}

func tell(cs []simulator.Commit) string {
	var s []string
	for _, c := range cs {
		s = append(s, fmt.Sprintf("%s by request %s, revision %d to %d", c.Time.UTC().Format(time.TimeOnly), c.Request, c.Before, c.After))
	}
	return strings.Join(s, "; ")
}

// requestNumber is the number of the request that a commit came from, and whether it was a repetition.
func requestNumber(c simulator.Commit) (n int, again bool) {
	number, _, again := strings.Cut(c.Request, "/")
	n, _ = strconv.Atoi(number) // 0 for a person
	return n, again
}

// change is a member of a status request, as it was sent.
type change struct {
	Record   int64
	Revision int64
	Action   string
}
