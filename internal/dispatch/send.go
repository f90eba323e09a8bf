package dispatch

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"statusq/internal/failpoint"
	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// moreComing says that a batch would fill without waiting for anybody.
func (l *lane) moreComing() bool {
	return l.behind > 0 && l.backlog.open < room && l.stuck == nil && time.Since(l.takenAt) < patience
}

// launch records and sends new requests while there is room for them.
func (l *lane) launch(now time.Time) error {
	most := kintone.MaxStatusChanges
	if l.cfg.Single {
		most = 1
	}
	for l.out < l.cfg.Inflight {
		n := slices.Index(l.flights[:fence], nil)
		if n < 0 {
			return nil
		}
		more := l.moreComing() || l.reading || l.backlog.readable() >= kintone.MaxRecords || l.paced(now)
		if !mayLeave(l.backlog.ready(), most, l.out, more) {
			return nil
		}
		tasks := l.backlog.nextFit(most, now.Add(-freshPin), l.process.Revision)
		if len(tasks) == 0 {
			return nil
		}
		l.leftAt = now
		f := newFlight(n, tasks, now)
		failpoint.Hit("slot.filling")
		if err := l.settle(n, f.request(), f.id, nil); err != nil {
			return err
		}
		failpoint.Hit("slot.filled")
		l.flights[n] = f
		l.send(f)
	}
	return nil
}

// paced reports whether what is not full has to wait, because the budget of the day would not last.
func (l *lane) paced(now time.Time) bool {
	return now.Before(l.leftAt.Add(stretch(l.gate.Budget(l.app.ID), now)))
}

// goOn sends a waiting flight again, or looks into it, when its time has come.
func (l *lane) goOn(f *flight, now time.Time) bool {
	if f == nil || f.phase > lookingNext || l.out >= l.cfg.Inflight {
		return false
	}
	if _, rests := f.rests(now); rests {
		return false
	}
	if f.phase == lookingNext {
		l.investigate(f)
	} else {
		l.send(f)
	}
	return true
}

// send lets the part at work leave. Whether it left, and what became of it, is in the answer.
func (l *lane) send(f *flight) {
	f.phase = sending
	l.out++
	members := f.parts[0].members
	app := l.app
	app.LeaveBy = time.Now().Add(freshPin)
	if f.parts[0].sends == 0 && !f.parts[0].cut && !f.inherited {
		app.LeaveBy = f.at.Add(freshPin) // better not at all than on what was seen long ago
	}
	app.Resolving = f.inherited || f.parts[0].inDoubt() // the answer tells what became of an earlier copy
	process, fields := l.process, l.fields
	l.wg.Go(func() {
		a := answer{flight: f}
		changes := make([]kintone.StatusChange, len(members))
		for i, m := range members {
			changes[i] = kintone.StatusChange{Record: m.Record, Revision: m.Pin, Action: m.Action, Assignee: m.Assignee}
		}
		failpoint.Hit("send.leaving")
		if l.cfg.Single && len(changes) == 1 {
			var r kintone.RecordRevision
			r, a.err = l.client.UpdateStatus(l.work, app, changes[0])
			a.revisions = []kintone.RecordRevision{r}
		} else {
			a.revisions, a.err = l.client.UpdateStatuses(l.work, app, changes)
		}
		failpoint.Hit("send.answered")
		if a.err == nil {
			a.notes = l.followUp(members, a.revisions, process, fields)
		}
		l.answer(a)
	})
}

// followUp says of members that acted in a status where everybody has to act whether they are there still: kintone's
// answer does not tell, as the record moves with the last of them (docs/kintone.md 3). It runs beside the lane.
func (l *lane) followUp(members []queue.Member, returned []kintone.RecordRevision, process *kintone.Process, fields kintone.Fields) map[int64]finding {
	waits := make(map[int64]queue.Member)
	for _, m := range members {
		if process.States[m.From].Assignee.Type == kintone.AssigneeAll {
			waits[m.Record] = m
		}
	}
	if len(waits) == 0 {
		return nil
	}
	notes := make(map[int64]finding, len(waits))
	app := l.app
	app.Resolving = true
	for n := 1; n <= 3; n++ {
		app.LeaveBy = time.Now().Add(10 * time.Second)
		records, err := l.client.RecordsByID(l.work, app, fields, slices.Collect(maps.Keys(waits)))
		if err != nil {
			if sleep(l.work, backOff(n, 5*time.Second, 0)) != nil {
				break
			}
			continue
		}
		read := make(map[int64]kintone.Record, len(records))
		for _, r := range records {
			read[r.ID] = r
		}
		for _, r := range returned {
			m, waited := waits[r.Record]
			switch now := read[r.Record]; {
			case !waited:
			case now.Revision != r.Revision:
				notes[r.Record] = unverified(m)
			case now.Status == m.From:
				notes[r.Record] = finding{reason: ReasonActedNotMoved,
					message: fmt.Sprintf("acted; the record stays in %q until %s", m.From, others(now.Assignees, l.us))}
			}
		}
		return notes
	}
	for record, m := range waits {
		notes[record] = unverified(m)
	}
	return notes
}

func unverified(m queue.Member) finding {
	return finding{reason: ReasonActedUnverified,
		message: fmt.Sprintf("acted; whether the record has left %q, where everybody has to act, could not be seen", m.From)}
}

// others names who has to act yet.
func others(assignees []string, us string) string {
	rest := slices.DeleteFunc(slices.Clone(assignees), func(a string) bool { return a == us })
	if len(rest) == 0 {
		return "the others have acted"
	}
	return strings.Join(rest, ", ") + " have acted"
}

func (l *lane) answer(a answer) {
	select {
	case l.answers <- a:
	case <-l.work.Done():
	}
}

// hear takes an answer in.
func (l *lane) hear(a answer) error {
	switch {
	case a.change != nil:
		return l.changed(a.change, a.err)
	case a.look != nil:
		return l.looked(a.look, a.err)
	case a.inquiry != nil:
		l.out--
		return l.understood(a.flight, a.inquiry, a.err)
	default:
		l.out--
		return l.sent(a.flight, a.revisions, a.notes, a.err)
	}
}

// sent judges the answer to a status request.
func (l *lane) sent(f *flight, revisions []kintone.RecordRevision, notes map[int64]finding, err error) error {
	p := f.parts[0]
	now := time.Now()
	j := judge(err)
	if j.known == refused && j.user != "" {
		l.badUsers[j.user] = now.Add(knownBad)
	}
	f.heard, f.heardAt = j, now
	switch f.answered(j, l.passedAt, now) {
	case heardActed:
		l.passed(true)
		return l.landed(f, revisions, notes)

	case heardNeverLeft:
		if err := l.settle(f.n, nil, f.id, nil); err != nil {
			return err
		}
		l.flights[f.n] = nil
		for _, t := range f.tasks {
			l.backlog.reopen(t) // to where it stood
		}
		l.swept = false
		l.failed(j)
		return nil

	case heardReason:
		l.passed(false)
		l.suspect = l.suspect || contradicts(j)
		l.investigate(f)
		return nil

	case heardTooOften:
		l.failed(j)
		p.due = now.Add(l.pauseBefore(f, j, time.Minute))
		f.halve()
		return l.recut(f, "halves")

	default:
		most := time.Minute
		if f.tired(j) && l.passedAt.After(p.since) && j.charge == chargeApp && len(p.members) == 1 {
			most = 5 * time.Minute // it alone fares so: it takes its time, and the app is not to wait for it
			l.unprobed()
		} else {
			l.failed(j)
		}
		p.due = now.Add(l.pauseBefore(f, j, most))
		f.turn()
		return nil
	}
}

// contradicts reports whether a refusal speaks against what inspection had found by the settings that the lane knows.
func contradicts(j judgement) bool {
	switch j.reason {
	case ReasonStatusMismatch, ReasonNotAssignee, ReasonAssigneeRequired, ReasonAssigneeSuperfluous:
		return true
	}
	return false
}

// pauseBefore is how long the part at work waits before it is sent again.
func (l *lane) pauseBefore(f *flight, j judgement, most time.Duration) time.Duration {
	d := backOff(max(1, f.parts[0].tries), most, j.after)
	if j.known == unclear {
		l.tell(Event{Kind: EventUnclear, Request: f.id, Reason: j.reason, Detail: j.message, Until: time.Now().Add(d)})
	}
	return d
}

// again puts the part at work off, and lets another part of its flight come forward.
func (l *lane) again(f *flight, d time.Duration) {
	f.parts[0].due = time.Now().Add(d)
	f.turn()
}

// landed settles the part that kintone just executed, and foretells what it leaves to the next jobs of its records.
func (l *lane) landed(f *flight, returned []kintone.RecordRevision, notes map[int64]finding) error {
	p := f.parts[0]
	type next struct {
		record int64
		pin    kintone.Record
	}
	var foretold []next
	revisions := make([]int64, len(returned))
	for i, m := range p.members {
		r := returned[i].Revision
		revisions[i] = r
		if rec, ok := after(m, r, l.process, l.us); ok && f.settings == l.process.Revision {
			foretold = append(foretold, next{m.Record, rec})
		}
		t := f.tasks[m.Record]
		if t.pin != nil && t.pin.Modifier != "" && t.pin.Modifier != l.us && l.mark.kind == markUnseen {
			l.mark.record, l.mark.revision = m.Record, r
		}
		if step := int(r - m.Pin); step > 0 && m.Step == revisionStep && (step < l.step || step == l.step && l.stepLost) {
			if err := l.learnStep(step); err != nil {
				l.tell(Event{Kind: EventTrouble, Detail: err.Error()})
			}
		}
	}
	l.streak = 0
	ends := f.landed(revisions)
	for i := range ends {
		if ends[i].fate == endApplied {
			ends[i].found = notes[ends[i].member.Record]
		}
	}
	if err := l.conclude(f, ends, nil); err != nil {
		return err
	}
	now := time.Now()
	for _, n := range foretold {
		chain := l.backlog.chains[n.record]
		if len(chain) == 0 || chain[0].state != stateOpen || chain[0].pin != nil {
			continue
		}
		t := chain[0]
		if found := inspectJob(*t.job, &n.pin, l.process, l.fields, l.us, l.badUsers, now); foretells(found) {
			t.pin, t.pinAt = &n.pin, now
			l.backlog.markFit(t, found)
		}
	}
	return nil
}

// foretells reports whether what was found needs no further question: which records satisfy a condition only kintone
// can tell.
func foretells(found finding) bool { return found.fate == fit && found.action.FilterCond == "" }

// learnStep remembers that an action raised a revision by less than it is said to. What is proved by counting steps
// counts with the smallest from then on.
func (l *lane) learnStep(step int) error {
	l.step, l.stepLost = step, true
	facts, err := l.queue.Facts(l.work, l.site, l.app.ID)
	if err != nil && !errors.Is(err, queue.ErrGone) {
		return err
	}
	facts.Step = step
	err = l.queue.PutFacts(l.work, l.site, l.app.ID, facts)
	l.stepLost = err != nil
	return err
}

// conclude settles the members that leave a flight and goes on with the rest of it. Those that start afresh get the pins
// that were read for them, if any.
func (l *lane) conclude(f *flight, ends []ending, pins map[int64]*kintone.Record) error {
	var (
		rest     *queue.Request
		verdicts []verdict
		reopen   []*task
	)
	if len(f.parts) > 0 {
		rest = f.request()
	}
	for _, e := range ends {
		t := f.tasks[e.member.Record]
		delete(f.tasks, e.member.Record)
		switch e.fate {
		case endApplied:
			verdicts = append(verdicts, verdict{task: t, outcome: queue.Applied, revision: e.revision, request: f.id, reason: e.found.reason, message: e.found.message})
		case endFailed:
			verdicts = append(verdicts, l.failure(t, e.found, f.id))
		case endUnknown:
			verdicts = append(verdicts, unknownVerdict(t, e, f))
		case endAfresh:
			reopen = append(reopen, t)
		}
	}
	for _, v := range verdicts {
		l.mourn(v)
	}
	failpoint.Hit("settle.begun")
	if err := l.settle(f.n, rest, f.id, verdicts); err != nil {
		return err
	}
	failpoint.Hit("settle.done")
	if rest == nil {
		l.flights[f.n] = nil
	} else {
		f.carryOn()
	}
	for _, e := range ends {
		l.touched[e.member.Record] = true
	}
	l.done(verdicts)
	for _, t := range reopen {
		l.startAfresh(f, t, pins)
	}
	return nil
}

// unknownVerdict asks a person.
func unknownVerdict(t *task, e ending, f *flight) verdict {
	v := verdict{task: t, outcome: queue.Unknown, reason: ReasonOutcomeUnknown, code: e.found.code, request: f.id, attempt: true, evidence: e.evidence,
		message: "an answer was lost, and the record was changed by others meanwhile: look at its history and decide"}
	if e.evidence.UnclearAt.IsZero() {
		v.message = "the record was changed more than once by others while it was being sent, so that the refusal alone proves nothing: look at its history and decide"
	}
	return v
}

// startAfresh plans a job again that was in a request which surely did not run and never will.
func (l *lane) startAfresh(f *flight, t *task, pins map[int64]*kintone.Record) {
	now := time.Now()
	t.replans++
	switch r, asked := pins[t.record]; {
	case l.over(t) != "":
		l.decide(cancelled(t, l.over(t)))
	case t.gutted:
		l.decide(verdict{task: t, outcome: queue.Dead, reason: ReasonRefused, request: f.id,
			message: "the action was not run, and the job itself is gone from the log"})
	case t.replans > 5:
		// Somebody changes this record as fast as we look at it: it may wait like any other that is not ready.
		v := l.failure(t, finding{fate: unfit, reason: ReasonRevisionConflict, message: "the record changed each time before the action could be run"}, f.id)
		if n := spent(t.attempts); n+1 < l.cfg.Attempts {
			v.outcome, v.due = "", now.Add(pause(n+1, l.cfg.Backoff, rand.Float64))
		}
		l.decide(v)
	case asked && foretells(inspectJob(*t.job, r, l.process, l.fields, l.us, l.badUsers, now)):
		l.weigh(t, r, nil, now)
	default:
		l.backlog.reopen(t)
		l.strand(t.record)
	}
}

// recut writes how a flight was cut before any part of it is sent.
func (l *lane) recut(f *flight, how string) error {
	failpoint.Hit("cut.decided")
	if err := l.settle(f.n, f.request(), f.id, nil); err != nil {
		return err
	}
	failpoint.Hit("cut.stored")
	l.tell(Event{Kind: EventCut, Request: f.id, Reason: how})
	f.phase, f.due = waiting, f.parts[0].due
	return nil
}
