package dispatch

import (
	"slices"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// A flight is one request in its slot, from the write that records it to the one that frees the slot. Its members and
// pins never change; it may be cut into parts, which are decided one after the other and only ever sent with the same
// pins, so that every copy that holds one member of a part holds all of them.
type flight struct {
	n     int // slot
	id    string
	at    time.Time
	tasks map[int64]*task // by record
	parts []*part         // the first is the one at work

	// settings is the revision of the process settings that the members were inspected against; 0 = not known, as in a
	// slot that another owner filled under settings we never saw.
	settings int64
	// inherited says that another owner filled the slot: nobody knows what it sent.
	inherited bool
	// dead says that a part that was decided has moved past its pins: no copy of the whole can commit any more.
	dead bool

	phase phase
	due   time.Time // of a waiting flight
	held  time.Time // not sent before, whatever is due: an operator looks at its records

	// heard is the last answer to a copy that did not carry it out, for people.
	heard   judgement
	heardAt time.Time
}

// turn brings the part forward whose time comes first.
func (f *flight) turn() {
	at := 0
	for i, p := range f.parts {
		if p.due.Before(f.parts[at].due) {
			at = i
		}
	}
	f.parts[0], f.parts[at] = f.parts[at], f.parts[0]
	f.due = f.parts[0].due
}

// rests reports whether the flight has nothing to do yet, and until when.
func (f *flight) rests(now time.Time) (until time.Time, rests bool) {
	until = f.due
	if f.held.After(until) {
		until = f.held
	}
	return until, until.After(now)
}

type phase uint8

const (
	waiting       phase = iota // until due, then sent again
	lookingNext                // until due, then looked into (read), because a refusal is still to be understood
	sending                    // a copy is out, or at the gate
	investigating              // a read is out
)

// A part is what travels as one request: at first all members, later what a split left together.
type part struct {
	members []queue.Member
	cut     bool      // it was cut from the whole
	sends   int       // copies of it that left under this owner, and of the part that it was cut from, but not of the whole
	tries   int       // answers in a row that decided nothing; the back-off grows with them
	since   time.Time // the first of them
	due     time.Time // when it wants to be sent or looked into again
	doubt   time.Time // the last unclear attempt of any copy that holds these members; zero = there was none
	moved   bool      // kintone once said that a revision had moved
	again   bool      // refused, nobody named, and sent again to be sure
	last    judgement // why kintone refused it last, it and not what it was cut from
	why     map[int64]finding
}

func newFlight(n int, tasks []*task, now time.Time) *flight {
	f := &flight{n: n, id: queue.NewID(), at: now, tasks: make(map[int64]*task, len(tasks)), settings: tasks[0].found.settings}
	for _, t := range tasks {
		f.tasks[t.record] = t
		if t.found.settings != f.settings {
			f.settings = 0
		}
	}
	f.parts = []*part{{members: members(tasks)}}
	return f
}

// inherit takes over what a slot holds. Every part of it may have been sent, and may still be under way.
func inherit(n int, r queue.Request, now time.Time) *flight {
	f := &flight{n: n, id: r.ID, at: r.At, tasks: make(map[int64]*task), settings: r.Settings, inherited: true, due: now}
	for _, p := range r.Parts {
		f.parts = append(f.parts, &part{members: p.Members, doubt: now})
	}
	return f
}

// request is the slot's content.
func (f *flight) request() *queue.Request {
	r := &queue.Request{ID: f.id, At: f.at, Settings: f.settings}
	for _, p := range f.parts {
		r.Parts = append(r.Parts, queue.Part{Members: p.members, Sends: p.sends, Unclear: p.doubt})
	}
	return r
}

// split replaces the part at work by smaller ones. What was in doubt about it is in doubt about them.
func (f *flight) split(groups ...[]queue.Member) {
	old := f.parts[0]
	sends := 0
	if old.cut {
		sends = old.sends // a copy of a part may outlive the whole
	}
	parts := make([]*part, 0, len(groups)+len(f.parts)-1)
	for _, g := range groups {
		parts = append(parts, &part{
			members: g, cut: true, sends: sends, doubt: old.doubt, moved: old.moved,
			why: old.why, again: true, tries: old.tries, due: old.due,
		})
	}
	f.parts = append(parts, f.parts[1:]...)
}

// halve cuts the part at work in two.
func (f *flight) halve() {
	ms := f.parts[0].members
	f.split(ms[:len(ms)/2], ms[len(ms)/2:])
}

// partition cuts members into those that are suspected and the rest, both in their order.
func partition(ms []queue.Member, suspected map[int64]finding) (rest, suspects []queue.Member) {
	for _, m := range ms {
		if _, bad := suspected[m.Record]; bad {
			suspects = append(suspects, m)
		} else {
			rest = append(rest, m)
		}
	}
	return rest, suspects
}

// suspects names the members that the refusal or the read after it speaks against, with what to say about each.
func suspects(p *part, read map[int64]*kintone.Record, jobs map[int64]*task, process *kintone.Process, fields kintone.Fields, us string, now time.Time) map[int64]finding {
	out := make(map[int64]finding)
	blame := func(m queue.Member) {
		out[m.Record] = finding{fate: unfit, reason: p.last.reason, code: p.last.code, message: p.last.message}
	}
	for i, m := range p.members {
		switch {
		case slices.Contains(p.last.indexes, i), slices.Contains(p.last.records, m.Record),
			p.last.user != "" && p.last.user == m.Assignee:
			blame(m)
			continue
		}
		t := jobs[m.Record]
		if t == nil || t.job == nil || process == nil {
			continue
		}
		// What the job itself expects of the revision was compared before the pin was taken.
		job := *t.job
		job.Revision, job.Expires = -1, time.Time{}
		if found := inspectJob(job, read[m.Record], process, fields, us, nil, now); found.fate == unfit || found.fate == already {
			if found.reason == "" {
				found.reason, found.code = ReasonStatusMismatch, p.last.code
			}
			out[m.Record] = found
		}
	}
	return out
}
