package dispatch

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

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
		more := l.moreComing() || l.reading || len(l.backlog.toRead) >= kintone.MaxRecords
		if !mayLeave(len(l.backlog.fit), most, l.out, more) {
			return nil
		}
		tasks := l.backlog.nextFit(most, now.Add(-freshPin), l.process.Revision)
		if len(tasks) == 0 {
			return nil
		}
		f := newFlight(n, tasks, now)
		if err := l.settle(n, f.request(), f.id, nil); err != nil {
			return err
		}
		l.flights[n] = f
		l.send(f)
	}
	return nil
}

// goOn sends a waiting flight again, or looks into it, when its time has come.
func (l *lane) goOn(f *flight, now time.Time) bool {
	if f == nil || f.phase > lookingNext || f.due.After(now) || l.out >= l.cfg.Inflight {
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
	if f.parts[0].sends == 0 && len(f.parts) == 1 && !f.inherited {
		app.LeaveBy = f.at.Add(freshPin) // better not at all than on what was seen long ago
	}
	l.wg.Go(func() {
		a := answer{flight: f}
		changes := make([]kintone.StatusChange, len(members))
		for i, m := range members {
			changes[i] = kintone.StatusChange{Record: m.Record, Revision: m.Pin, Action: m.Action, Assignee: m.Assignee}
		}
		if l.cfg.Single && len(changes) == 1 {
			var r kintone.RecordRevision
			r, a.err = l.client.UpdateStatus(l.work, app, changes[0])
			a.revisions = []kintone.RecordRevision{r}
		} else {
			a.revisions, a.err = l.client.UpdateStatuses(l.work, app, changes)
		}
		l.answer(a)
	})
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
	case a.look != nil:
		l.looked(a.look, a.err)
		return nil
	case a.inquiry != nil:
		l.out--
		return l.understood(a.flight, a.inquiry, a.err)
	default:
		l.out--
		return l.sent(a.flight, a.revisions, a.err)
	}
}

// sent judges the answer to a status request.
func (l *lane) sent(f *flight, revisions []kintone.RecordRevision, err error) error {
	p := f.parts[0]
	now := time.Now()
	j := judge(err)
	f.phase = waiting
	if j.known != notSent {
		p.sends++
	}
	if j.known == acted {
		l.passed(true)
		return l.landed(f, revisions)
	}

	if j.known == notSent && p.sends == 0 && len(f.parts) == 1 && !f.inherited {
		// Nothing of it ever left: its jobs go back to where they stood.
		if err := l.settle(f.n, nil, f.id, nil); err != nil {
			return err
		}
		l.flights[f.n] = nil
		for _, t := range f.tasks {
			l.backlog.reopen(t)
		}
		l.failed(j)
		return nil
	}

	if j.known == refused {
		p.last = j
		if j.user != "" {
			l.badUsers[j.user] = now.Add(knownBad)
		}
		if j.decides {
			l.passed(false)
			l.investigate(f)
			return nil
		}
	}
	if p.tries++; p.tries == 1 {
		p.since = now
	}
	if j.known == unclear {
		p.doubt = now
	}
	// Perhaps it is one member that brings kintone down, or the size. While nobody gets through it is neither, unless
	// the app itself answers so.
	others := l.passedAt.After(p.since)
	tired := p.tries >= 5 && j.charge != chargeNobody
	most := time.Minute
	if tired && others && j.charge == chargeApp && len(p.members) == 1 {
		most = 5 * time.Minute // it alone fares so: it takes its time, and the app is not to wait for it
	}
	d := backOff(p.tries, most, j.after)
	if j.known == unclear {
		l.tell(Event{Kind: EventUnclear, Request: f.id, Reason: j.reason, Detail: j.message, Until: now.Add(d)})
	}
	if most > time.Minute {
		l.unprobed()
	} else {
		l.failed(j)
	}
	p.due = now.Add(d)
	if tired && len(p.members) > 1 && (others || j.charge == chargeApp && j.known == unclear) {
		return l.halve(f)
	}
	f.turn()
	return nil
}

// again puts the part at work off, and lets another part of its flight come forward.
func (l *lane) again(f *flight, d time.Duration) {
	f.parts[0].due = time.Now().Add(d)
	f.turn()
}

// landed settles the part that kintone just executed. Its commit proves that no older copy of the whole had committed,
// and none can any more.
func (l *lane) landed(f *flight, revisions []kintone.RecordRevision) error {
	p := f.parts[0]
	verdicts := make([]verdict, 0, len(f.tasks))
	type next struct {
		record int64
		pin    kintone.Record
	}
	var foretold []next
	for i, m := range p.members {
		r := revisions[i].Revision
		verdicts = append(verdicts, verdict{task: f.tasks[m.Seq], outcome: queue.Applied, revision: r, request: f.id})
		if rec, ok := after(m, r, l.process, l.us); ok && f.settings == l.process.Revision {
			foretold = append(foretold, next{m.Record, rec})
		}
	}
	for i, m := range p.members {
		t := f.tasks[m.Seq]
		if t.pin != nil && t.pin.Modifier != "" && t.pin.Modifier != l.us && l.mark.kind == markUnseen {
			l.mark.record, l.mark.revision = m.Record, revisions[i].Revision
		}
		if step := int(revisions[i].Revision - m.Pin); step > 0 && step < l.step && m.Step == revisionStep {
			if err := l.learnStep(step); err != nil {
				l.tell(Event{Kind: EventTrouble, Detail: err.Error()})
			}
		}
	}
	l.streak = 0
	f.parts, f.dead = f.parts[1:], true
	verdicts, reopen := l.releaseUnsent(f, verdicts, nil)
	if err := l.finish(f, verdicts, reopen, nil); err != nil {
		return err
	}
	now := time.Now()
	for _, n := range foretold {
		chain := l.backlog.chains[n.record]
		if len(chain) == 0 || chain[0].state != stateOpen || chain[0].pin != nil {
			continue
		}
		t := chain[0]
		if found := inspectJob(*t.job, &n.pin, l.process, l.fields, l.us, l.badUsers, now); found.fate == fit {
			t.pin, t.pinAt = &n.pin, now
			l.backlog.markFit(t, found)
		}
	}
	return nil
}

// learnStep remembers that an action raised a revision by less than it is said to. What is proved by counting steps
// counts with the smallest from then on.
func (l *lane) learnStep(step int) error {
	l.step = step
	facts, err := l.queue.Facts(l.work, l.site, l.app.ID)
	if err != nil && !errors.Is(err, queue.ErrGone) {
		return err
	}
	facts.Step = step
	return l.queue.PutFacts(l.work, l.site, l.app.ID, facts)
}

// releaseUnsent releases the parts that never left on their own, once the whole is known to be dead and not executed.
func (l *lane) releaseUnsent(f *flight, verdicts []verdict, reopen []*task) ([]verdict, []*task) {
	if f.inherited {
		return verdicts, reopen // nobody knows what left
	}
	var rest []*part
	for _, q := range f.parts {
		if q.sends > 0 {
			rest = append(rest, q)
		} else {
			verdicts, reopen = l.release(f, q, verdicts, reopen)
		}
	}
	f.parts = rest
	return verdicts, reopen
}

// release ends a part that was surely never executed and never will be: those that something speaks against by the
// ladder, the others start afresh.
func (l *lane) release(f *flight, q *part, verdicts []verdict, reopen []*task) ([]verdict, []*task) {
	for _, m := range q.members {
		t := f.tasks[m.Seq]
		if found, bad := q.why[m.Seq]; bad {
			verdicts = append(verdicts, l.failure(t, found, f.id))
		} else {
			reopen = append(reopen, t)
		}
	}
	return verdicts, reopen
}

// finish settles what was decided of a flight and goes on with the rest of it. Tasks to reopen get the pins that were
// read for them, if any.
func (l *lane) finish(f *flight, verdicts []verdict, reopen []*task, pins map[int64]*kintone.Record) error {
	var rest *queue.Request
	if len(f.parts) > 0 {
		rest = f.request()
	}
	if err := l.settle(f.n, rest, f.id, verdicts); err != nil {
		return err
	}
	now := time.Now()
	if rest == nil {
		l.flights[f.n] = nil
	} else {
		for seq := range f.tasks {
			if !slices.ContainsFunc(f.parts, func(p *part) bool {
				return slices.ContainsFunc(p.members, func(m queue.Member) bool { return m.Seq == seq })
			}) {
				delete(f.tasks, seq)
			}
		}
		f.phase = waiting
		f.turn()
		if f.dead && !f.inherited {
			f.phase = lookingNext // it may be over for this part as well, and then nothing need be sent
		}
	}
	l.done(verdicts)
	for _, t := range reopen {
		t.replans++
		switch r, asked := pins[t.record]; {
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
		case asked && inspectJob(*t.job, r, l.process, l.fields, l.us, l.badUsers, now).fate == fit:
			l.weigh(t, r, now)
		default:
			l.backlog.reopen(t)
			l.strand(t.record)
		}
	}
	return nil
}

// halve cuts the part at work in two, with the same pins.
func (l *lane) halve(f *flight) error {
	ms := f.parts[0].members
	f.split(ms[:len(ms)/2], ms[len(ms)/2:])
	return l.recut(f)
}

// recut writes how a flight was cut before any part of it is sent.
func (l *lane) recut(f *flight) error {
	if err := l.settle(f.n, f.request(), f.id, nil); err != nil {
		return err
	}
	f.phase, f.due = waiting, f.parts[0].due
	return nil
}
