package dispatch

import (
	"fmt"
	"slices"
	"time"

	"statusq/internal/failpoint"
	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// investigate reads the members of the part at work until something is proved, or cannot be.
func (l *lane) investigate(f *flight) {
	f.phase = investigating
	failpoint.Hit("prove.begun")
	l.out++
	var (
		p      = f.parts[0]
		m      = l.mark
		fields = l.fields
		q      = &inquiry{
			members: slices.Clone(p.members), settings: f.settings,
			stale:    p.last.charge == chargeJobs && p.last.user == "" && p.last.reason != ReasonRevisionConflict && !l.readAt.After(f.at),
			evidence: evidence{us: l.us, mark: m.kind, doubt: p.inDoubt(), dedicated: !l.cfg.Shared},
		}
	)
	for i := range q.members {
		q.members[i].Step = min(q.members[i].Step, l.step) // it may have been learned since they were planned
	}
	ids := make([]int64, 0, len(p.members)+1)
	for _, m := range p.members {
		ids = append(ids, m.Record)
	}
	if m.record != 0 && !slices.Contains(ids, m.record) && len(ids) < kintone.MaxRecords {
		ids = append(ids, m.record)
	}
	app := l.app
	app.Resolving = true
	l.wg.Go(func() {
		err := func() error {
			for {
				switch q.wants() {
				case wantRecords:
					if q.evidence.first != nil {
						failpoint.Hit("prove.again")
					}
					began := time.Now()
					records, err := l.read(app, fields, ids)
					if err != nil {
						return err
					}
					if r := records[m.record]; m.kind == markUnseen && r != nil && r.Revision == m.revision {
						q.evidence.mark = markNotOurs
						if r.Modifier == l.us {
							q.evidence.mark = markOurs
						}
					}
					if noStatus(p.members, records) {
						if q.fields != nil {
							return &kintone.Error{Code: "GAIA_ST02", Status: 400, Message: "process management is switched off: nobody can see where the records stand"}
						}
						// Or it was, when the lane learned what the field is called.
						if fields, err = l.client.FormFields(l.work, app); err != nil {
							return err
						}
						q.fields = &fields
						continue
					}
					q.sawRecords(records, began)
					failpoint.Hit("prove.read")
				case wantProcess:
					process, err := l.client.Process(l.work, app)
					if err != nil {
						return err
					}
					q.sawProcess(process)
				case wantNothing:
					return nil
				}
			}
		}()
		l.answer(answer{flight: f, inquiry: q, err: err})
	})
}

// noStatus reports whether a member was read without its status, as while process management is off. What such a read
// does not prove, a later one may.
func noStatus(members []queue.Member, records map[int64]*kintone.Record) bool {
	return slices.ContainsFunc(members, func(m queue.Member) bool {
		r := records[m.Record]
		return r != nil && r.Status == ""
	})
}

// understood acts on what a read proved.
func (l *lane) understood(f *flight, q *inquiry, err error) error {
	p := f.parts[0]
	now := time.Now()
	if q.fields != nil {
		l.fields = *q.fields
	}
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
	l.tell(Event{Kind: EventProved, Request: f.id, Reason: q.decision.String(), Detail: string(q.rule)})
	if q.decision == applied || q.decision == unknown {
		l.streak = 0
	}
	if ends := f.learned(q.decision, q.evidence); len(ends) > 0 {
		return l.conclude(f, ends, q.records)
	}
	switch f.next(suspects(p, q.records, f.tasks, l.process, l.fields, l.us, now), l.cfg.LateWindow, q.began) {
	case sendNow:
		l.again(f, 0)
	case splitOff:
		f.splitSuspects()
		return l.recut(f, "suspects")
	case halve:
		f.halve()
		return l.recut(f, "halves")
	case giveUp:
		if l.inexplicable(p) {
			l.again(f, l.halt.until.Sub(now))
			return nil
		}
		return l.conclude(f, f.givenUp(), nil)
	case sendAgain:
		p.again = true
		p.tries++
		l.again(f, backOff(p.tries, 5*time.Minute, 0))
	}
	return nil
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
