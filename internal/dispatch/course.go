package dispatch

import (
	"time"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// This file is what becomes of a flight, hearing by hearing. It decides and changes the flight, and does nothing else:
// the lane reads, sends and writes (send.go, prove.go), and the exhaustive search of explore_test.go does the same in a
// world of its own.

// An ending takes one member out of its flight.
type ending struct {
	member   queue.Member
	fate     ended
	revision int64           // of the record, when it was applied
	found    finding         // what the ladder is to weigh, when it failed
	evidence *queue.Evidence // what a person needs, when nobody can tell
}

type ended uint8

const (
	endApplied ended = iota // our request did it
	endFailed               // it did not and never will, and something speaks against the job
	endUnknown              // nobody can tell but a person
	endAfresh               // it did not and never will: the job is planned again, with a new pin
)

// hearing is what an answer to a status request asks for.
type hearing int

const (
	heardActed     hearing = iota // kintone executed it: landed
	heardNeverLeft                // nothing of the flight has ever left: its slot can be freed
	heardReason                   // refused for a reason that holds: a read may decide
	heardNothing                  // the same again, after a pause
	heardTooOften                 // the same too often: in halves
)

// answered takes in the answer to the part at work. passed is when kintone last did for the app what it was asked to.
func (f *flight) answered(j judgement, passed, now time.Time) hearing {
	p := f.parts[0]
	f.phase = waiting
	if j.known != notSent {
		p.sends++
	}
	switch {
	case j.known == acted:
		return heardActed
	case j.known == notSent && p.sends == 0 && !p.cut && !f.inherited:
		return heardNeverLeft
	case j.known == refused:
		p.last, p.moved = j, p.moved || j.reason == ReasonRevisionConflict
		if j.decides {
			return heardReason
		}
	case j.known == unclear:
		p.doubt = now
	}
	if j.known == notSent && j.charge == chargeNobody {
		return heardNothing // it was not tried
	}
	if p.tries++; p.tries == 1 {
		p.since = now
	}
	// Perhaps it is one member that brings kintone down, or the size. While nobody gets through it is neither, unless
	// the app itself answers so.
	if f.tired(j) && len(p.members) > 1 && (passed.After(p.since) || j.charge == chargeApp && j.known == unclear) {
		return heardTooOften
	}
	return heardNothing
}

// tired says that the part at work has met with the same too often for it to be chance.
func (f *flight) tired(j judgement) bool { return f.parts[0].tries >= 5 && j.charge != chargeNobody }

// landed ends the part that kintone just executed, with the revisions that it returned. The commit proves that no older
// copy of the whole had committed, and none can any more; so those that were only ever sent as the whole are free.
func (f *flight) landed(revisions []int64) []ending {
	p := f.parts[0]
	ends := make([]ending, len(p.members))
	for i, m := range p.members {
		ends[i] = ending{member: m, fate: endApplied, revision: revisions[i]} //nolint:gosec // the client has checked that there is one for each
	}
	f.parts, f.dead = f.parts[1:], true
	return f.releaseUnsent(ends)
}

// learned ends what the decision about the part at work ends. Undecided is for next to go on with.
func (f *flight) learned(d decision, ev evidence) []ending {
	p := f.parts[0]
	var ends []ending
	switch d {
	case applied:
		for _, m := range p.members {
			ends = append(ends, ending{member: m, fate: endApplied, revision: m.Pin + int64(m.Step)})
		}
		f.parts, f.dead = f.parts[1:], true
		return ends

	case notApplied:
		// No copy of the whole committed either, since it holds these members.
		for _, m := range p.members {
			ends = append(ends, ending{member: m, fate: endAfresh})
		}
		f.parts, f.dead = f.parts[1:], true
		return f.releaseUnsent(ends)

	case unknown:
		for i, m := range p.members {
			s := ev.latest()[i]
			ends = append(ends, ending{member: m, fate: endUnknown, found: finding{code: p.last.code}, evidence: &queue.Evidence{
				Request: f.id, Pin: m.Pin, Revision: s.revision, Status: s.status, Modifier: s.modifier, UnclearAt: p.doubt,
			}})
		}
		// A record that is gone may only be hidden: it kills no pin.
		f.parts, f.dead = f.parts[1:], f.dead || anyMoved(p.members, ev.first)
		return ends
	}
	if f.dead && p.sends == 0 && !f.inherited && allStill(p.members, ev.first) {
		// An earlier part moved, and this one had not when it was read after that: no copy of the whole ever committed.
		f.parts = f.parts[1:]
		return f.release(p, nil)
	}
	return nil
}

// next is what has to be done about the part at work after a read that decided nothing and that began at read. why are
// the members that something speaks against.
func (f *flight) next(why map[int64]finding, window time.Duration, read time.Time) nextStep {
	p := f.parts[0]
	if p.sends == 0 || p.last.charge != chargeJobs {
		return sendNow // these members were not refused
	}
	p.why = why
	return afterRefusal(refusal{
		size: len(p.members), suspects: len(p.why), again: p.again,
		settled: p.doubt.IsZero() || read.Sub(p.doubt) >= window, // a copy may come between the read and now
		lag:     p.last.reason == ReasonRevisionConflict && p.tries < 10,
	})
}

// splitSuspects lets those that nothing speaks against go first.
func (f *flight) splitSuspects() {
	rest, suspects := partition(f.parts[0].members, f.parts[0].why)
	f.split(rest, suspects)
	f.parts[0].why = nil
}

// givenUp ends the part at work by the ladder: no copy of it is about any more.
func (f *flight) givenUp() []ending {
	p := f.parts[0]
	var ends []ending
	for _, m := range p.members {
		found, named := p.why[m.Record]
		if !named {
			found = finding{fate: unfit, reason: p.last.reason, code: p.last.code, message: p.last.message}
		}
		ends = append(ends, ending{member: m, fate: endFailed, found: found})
	}
	f.parts = f.parts[1:]
	return ends
}

// carryOn makes what is left of a flight wait for its turn.
func (f *flight) carryOn() {
	f.phase = waiting
	f.turn()
	if f.dead && !f.inherited {
		f.phase = lookingNext // it may be over for this part as well, and then nothing need be sent
	}
}

// releaseUnsent releases the parts that never left on their own, once the whole is known to be dead and not executed.
func (f *flight) releaseUnsent(ends []ending) []ending {
	if f.inherited {
		return ends // nobody knows what left
	}
	var rest []*part
	for _, q := range f.parts {
		if q.sends > 0 {
			rest = append(rest, q)
		} else {
			ends = f.release(q, ends)
		}
	}
	f.parts = rest
	return ends
}

// release ends a part that was surely never executed and never will be: those that something speaks against by the
// ladder, the others start afresh.
func (f *flight) release(q *part, ends []ending) []ending {
	for _, m := range q.members {
		if found, bad := q.why[m.Record]; bad {
			ends = append(ends, ending{member: m, fate: endFailed, found: found})
		} else {
			ends = append(ends, ending{member: m, fate: endAfresh})
		}
	}
	return ends
}

// inquiry finds out by reads what became of the part at work. It says what it wants to see next, until it has decided.
type inquiry struct {
	members  []queue.Member
	settings int64 // revision that the pins were taken under; 0 = not known
	// stale says that the cached settings are old enough, and the refusal odd enough, to look at them again.
	stale    bool
	evidence evidence
	decision decision
	rule     rule // what the decision rests on

	records map[int64]*kintone.Record // of the last read
	began   time.Time                 // of that read
	process *kintone.Process          // when it was read again
	fields  *kintone.Fields           // when they were read again, by investigate
	checked bool                      // the settings were read after the last read of records
}

type want int

const (
	wantNothing want = iota
	wantRecords
	wantProcess
)

// wants is what has to be read next; with wantNothing the decision stands.
func (q *inquiry) wants() want {
	if q.evidence.first == nil {
		return wantRecords
	}
	if !q.checked {
		// What statuses and steps prove depends on the settings being those that the pins were taken under, before and
		// after.
		moved := anyMoved(q.members, q.evidence.first)
		if q.evidence.second == nil && (moved && q.settings != 0 || !moved && q.stale) ||
			q.evidence.second != nil && q.evidence.graph != nil {
			return wantProcess
		}
	}
	q.decision, q.rule = resolve(q.members, q.evidence)
	if q.decision == readAgain {
		if q.evidence.second == nil {
			return wantRecords
		}
		q.decision = undecided // they move while we look
	}
	return wantNothing
}

// sawRecords takes in a read that began then, after the one before had arrived.
func (q *inquiry) sawRecords(records map[int64]*kintone.Record, began time.Time) {
	q.records, q.began, q.checked = records, began, false
	if q.evidence.first == nil {
		q.evidence.first = seenBy(q.members, records)
	} else {
		q.evidence.second = seenBy(q.members, records)
	}
}

// sawProcess takes in the settings.
func (q *inquiry) sawProcess(p *kintone.Process) {
	q.process, q.checked = p, true
	q.evidence.graph = nil
	if p.Revision == q.settings {
		q.evidence.graph = p
	}
}

func seenBy(members []queue.Member, records map[int64]*kintone.Record) []seen {
	out := make([]seen, len(members))
	for i, m := range members {
		if r := records[m.Record]; r != nil {
			out[i] = seen{exists: true, revision: r.Revision, status: r.Status, modifier: r.Modifier}
		}
	}
	return out
}

// inDoubt says that a copy that holds these members may have been executed, or may still be. A refusal because the
// revision moved may be the answer to the repetition of one that had committed.
func (p *part) inDoubt() bool {
	return !p.doubt.IsZero() || p.moved
}
