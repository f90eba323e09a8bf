package dispatch

import (
	"fmt"
	"slices"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// inquiry is what a read made of a request that may have been executed.
type inquiry struct {
	decision decision
	evidence evidence
	records  map[int64]*kintone.Record
	process  *kintone.Process // when it was read again
}

// investigate reads the members of the part at work until something is proved, or cannot be.
func (l *lane) investigate(f *flight) {
	f.phase = investigating
	l.out++
	var (
		p          = f.parts[0]
		m          = l.mark
		fields     = l.fields
		settings   = f.settings
		old        = time.Since(l.readAt) > 10*time.Second
		suspicious = p.last.charge == chargeJobs && p.last.user == "" && p.last.reason != ReasonRevisionConflict
	)
	ids := make([]int64, 0, len(p.members)+1)
	for _, m := range p.members {
		ids = append(ids, m.Record)
	}
	if m.record != 0 && !slices.Contains(ids, m.record) && len(ids) < kintone.MaxRecords {
		ids = append(ids, m.record)
	}
	l.wg.Go(func() {
		q := &inquiry{evidence: evidence{us: l.us, mark: m.kind, doubt: !p.doubt.IsZero() || p.last.reason == ReasonRevisionConflict, dedicated: !l.cfg.Shared}}
		err := func() error {
			read := func() ([]seen, error) {
				records, err := l.read(fields, ids)
				if err != nil {
					return nil, err
				}
				q.records = records
				if r := records[m.record]; m.kind == markUnseen && r != nil && r.Revision == m.revision {
					q.evidence.mark = markNotOurs
					if r.Modifier == l.us {
						q.evidence.mark = markOurs
					}
				}
				return seenBy(p.members, records), nil
			}
			var err error
			if q.evidence.first, err = read(); err != nil {
				return err
			}
			moved := anyMoved(p.members, q.evidence.first)
			if moved && settings != 0 || !moved && suspicious && old {
				// What statuses and steps prove depends on the settings being those that the pins were taken under.
				if q.process, err = l.client.Process(l.work, l.app); err != nil {
					return err
				}
				if q.process.Revision == settings {
					q.evidence.graph = q.process
				}
			}
			if q.decision = resolve(p.members, q.evidence); q.decision == readAgain {
				if q.evidence.second, err = read(); err != nil {
					return err
				}
				if q.evidence.graph != nil {
					// The settings have to be the same after the last read as well.
					if q.process, err = l.client.Process(l.work, l.app); err != nil {
						return err
					}
					if q.process.Revision != settings {
						q.evidence.graph = nil
					}
				}
				if q.decision = resolve(p.members, q.evidence); q.decision == readAgain {
					q.decision = undecided // they move while we look
				}
			}
			return nil
		}()
		l.answer(answer{flight: f, inquiry: q, err: err})
	})
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

// understood acts on what a read proved.
func (l *lane) understood(f *flight, q *inquiry, err error) error {
	p := f.parts[0]
	now := time.Now()
	if err != nil {
		f.phase = lookingNext
		p.tries++
		j := judge(err)
		f.due = now.Add(backOff(p.tries, time.Minute, j.after))
		if j.charge == chargeJobs {
			j.charge = chargeApp // a read names no record
		}
		l.failed(j)
		return nil
	}
	f.phase = waiting
	if q.process != nil {
		l.process, l.readAt = q.process, now
	}
	if q.evidence.mark != markUnseen { // another inquiry may have seen it while this one was out
		l.mark.kind = q.evidence.mark
	}
	l.passed(false)

	var (
		verdicts []verdict
		reopen   []*task
		pins     = make(map[int64]*kintone.Record, len(p.members))
	)
	for _, m := range p.members {
		pins[m.Record] = q.records[m.Record]
	}
	switch q.decision {
	case applied:
		l.streak = 0
		for _, m := range p.members {
			verdicts = append(verdicts, verdict{task: f.tasks[m.Seq], outcome: queue.Applied, revision: m.Pin + int64(m.Step), request: f.id})
		}
		f.parts, f.dead = f.parts[1:], true
		return l.finish(f, verdicts, nil, nil)

	case notApplied:
		// No copy of the whole committed either, since it holds these members.
		_, reopen = l.release(f, &part{members: p.members}, nil, nil)
		f.parts, f.dead = f.parts[1:], true
		verdicts, reopen = l.releaseUnsent(f, nil, reopen)
		return l.finish(f, verdicts, reopen, pins)

	case unknown:
		l.streak = 0
		why := "an answer was lost, and the record was changed by others meanwhile: look at its history and decide"
		if p.doubt.IsZero() {
			why = "the record was changed more than once by others while it was being sent, so that the refusal alone proves nothing: look at its history and decide"
		}
		for i, m := range p.members {
			s := q.evidence.first[i]
			if q.evidence.second != nil {
				s = q.evidence.second[i]
			}
			verdicts = append(verdicts, verdict{
				task: f.tasks[m.Seq], outcome: queue.Unknown, reason: ReasonOutcomeUnknown, code: p.last.code, request: f.id, attempt: true,
				message:  why,
				evidence: &queue.Evidence{Request: f.id, Pin: m.Pin, Revision: s.revision, Status: s.status, Modifier: s.modifier, UnclearAt: p.doubt},
			})
		}
		// A record that is gone may only be hidden: it kills no pin.
		f.parts, f.dead = f.parts[1:], f.dead || anyMoved(p.members, q.evidence.first)
		return l.finish(f, verdicts, nil, nil)
	}

	// Undecided: nobody moved.
	if f.dead && p.sends == 0 && !f.inherited && allStill(p.members, q.evidence.first) {
		// An earlier part moved, and this one had not when it was read after that: no copy of the whole ever committed.
		verdicts, reopen = l.release(f, p, nil, nil)
		f.parts = f.parts[1:]
		return l.finish(f, verdicts, reopen, pins)
	}
	if p.sends == 0 || p.last.charge != chargeJobs {
		l.again(f, 0) // these members were not refused: they are sent (again)
		return nil
	}
	p.why = suspects(p, q.records, f.tasks, l.process, l.fields, l.us, now)
	step := afterRefusal(refusal{
		size: len(p.members), suspects: len(p.why), again: p.again,
		settled: p.doubt.IsZero() || now.Sub(p.doubt) >= l.cfg.LateWindow,
		lag:     p.last.reason == ReasonRevisionConflict && p.tries < 10,
	})
	switch step {
	case splitOff:
		rest, bad := partition(p.members, p.why)
		f.split(rest, bad)
		f.parts[0].why = nil
		return l.recut(f)
	case halve:
		return l.halve(f)
	case giveUp:
		if l.inexplicable(p) {
			l.again(f, l.halt.until.Sub(now))
			return nil
		}
		for _, m := range p.members {
			found, named := p.why[m.Seq]
			if !named {
				found = finding{fate: unfit, reason: p.last.reason, code: p.last.code, message: p.last.message}
			}
			verdicts = append(verdicts, l.failure(f.tasks[m.Seq], found, f.id))
		}
		f.parts = f.parts[1:]
		return l.finish(f, verdicts, nil, nil)
	default:
		p.again = true
		p.tries++
		l.again(f, backOff(p.tries, 5*time.Minute, 0))
		return nil
	}
}

// inexplicable guards against an app that refuses everything for a reason that nobody has written down: after three
// jobs in a row the lane halts instead of killing a fourth.
func (l *lane) inexplicable(p *part) bool {
	if p.last.reason != ReasonRefused && p.last.reason != ReasonNoPermission {
		return false
	}
	if len(p.why) > 0 && len(p.last.indexes) > 0 {
		return false // kintone named them
	}
	if l.streak++; l.streak <= 3 {
		return false
	}
	l.stop(p.last.reason, fmt.Sprintf("kintone refuses one job after the other: %s %s", p.last.code, p.last.message), 0)
	return true
}
