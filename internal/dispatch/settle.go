package dispatch

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"statusq/internal/failpoint"
	"statusq/internal/queue"
)

// verdict is the end of a job, or its parking.
type verdict struct {
	task     *task
	outcome  queue.Outcome // "" = parked
	revision int64
	request  string
	reason   string
	code     string
	message  string
	attempt  bool // one of the job's attempts is spent
	due      time.Time
	evidence *queue.Evidence
	resolved bool          // an operator said so: nobody has to see to it any more, and there is no dead letter
	raw      []byte        // of an undecodable one
	parked   *queue.Parked // what was written for a parked one
}

// decide keeps the end of a job that is not in a slot until the next write.
func (l *lane) decide(v verdict) {
	v.task.state = stateDeciding
	l.mourn(v)
	if len(l.verdicts) == 0 {
		l.decided = time.Now()
	}
	l.verdicts = append(l.verdicts, v)
}

// flush writes the ends of jobs that were never sent, fenced by the slot that is never filled.
func (l *lane) flush() error {
	for len(l.verdicts) > 0 {
		n := min(mostVerdicts, len(l.verdicts))
		batch := l.verdicts[:n:n]
		l.verdicts = l.verdicts[n:]
		failpoint.Hit("ends.decided")
		if err := l.settle(fence, nil, "", batch); err != nil {
			return err
		}
		failpoint.Hit("ends.stored")
		l.done(batch)
	}
	l.verdicts = nil
	return nil
}

// settle writes a slot, and with it the ends of jobs, in one atomic batch. It waits while the ledger is full.
func (l *lane) settle(n int, rest *queue.Request, request string, verdicts []verdict) error {
	return l.write(n, rest, l.settlement(request, verdicts))
}

func (l *lane) write(n int, rest *queue.Request, set *queue.Settlement) error {
	day, spent := l.gate.Spent(l.app.ID)
	slot := queue.Slot{Request: rest, Day: day, Spent: spent}
	for {
		err := l.ledger.Write(l.work, n, slot, set)
		switch {
		case err == nil:
			l.notedDay, l.noted = day, spent
			if l.halt.reason == ReasonLedgerFull {
				l.halt = halt{}
				l.tell(Event{Kind: EventResumed})
			}
			return nil
		case !errors.Is(err, queue.ErrLedgerFull), errors.Is(err, queue.ErrUnclear), errors.Is(err, queue.ErrDeposed):
			return fmt.Errorf("app %d: write slot %d: %w", l.app.ID, n, err)
		}
		l.stop(ReasonLedgerFull, err.Error(), 5*time.Second)
		l.publish()
		if err := sleep(l.work, 5*time.Second); err != nil {
			return err
		}
	}
}

// settlement is what the verdicts mean to the ledger; nil when there are none.
func (l *lane) settlement(request string, verdicts []verdict) *queue.Settlement {
	if len(verdicts) == 0 {
		return nil
	}
	if request == "" {
		request = queue.NewID()
	}
	set := &queue.Settlement{Request: request}
	now := time.Now().UTC()
	for i := range verdicts {
		v := &verdicts[i]
		t := v.task
		attempts := t.attempts
		if v.attempt {
			attempts = append(slices.Clip(attempts), queue.Attempt{At: now, Request: v.request, Reason: v.reason, Code: v.code, Message: v.message})
		}
		if v.outcome == "" {
			v.parked = &queue.Parked{Job: *t.job, Seq: t.seq, Due: v.due, Behind: v.reason == ReasonBehind, Reason: v.reason, Attempts: attempts,
				Epoch: l.epoch, Parent: t.parent, Matches: t.matches, After: t.after}
			set.Park = append(set.Park, v.parked)
			if t.parked > 0 && t.home != t.job.Record { // its record was found meanwhile
				set.Unpark = append(set.Unpark, queue.ParkedRef{Record: t.home, Job: t.id, At: t.parked})
			}
			continue
		}
		r := queue.Result{
			Seq: t.seq, Job: t.id, Record: t.job.Record, Outcome: v.outcome, Revision: v.revision,
			Reason: v.reason, Code: v.code, Message: v.message, Ref: t.job.Ref, Parent: t.parent,
			Campaign: t.job.Campaign, At: now, Attempts: t.attempts,
		}
		if t.unbound() {
			r.Key = t.job.Key
		}
		if (v.outcome == queue.Dead || v.outcome == queue.Unknown) && !v.resolved {
			set.Dead = append(set.Dead, &queue.DeadLetter{
				Job: *t.job, Raw: v.raw, Site: l.site, App: l.app.ID, Seq: t.seq, Outcome: v.outcome,
				Reason: v.reason, Code: v.code, Message: v.message, Attempts: attempts, Evidence: v.evidence, Died: now, Parent: t.parent, Matches: t.matches, After: t.after,
			})
		}
		set.Results = append(set.Results, r)
		if t.parked > 0 {
			set.Unpark = append(set.Unpark, queue.ParkedRef{Record: t.home, Job: t.id, At: t.parked})
		}
	}
	return set
}

// done brings the lane's memory up to what was written.
func (l *lane) done(verdicts []verdict) {
	e := Event{Kind: EventSettled}
	for _, v := range verdicts {
		t := v.task
		if v.request != "" {
			e.Request = v.request
		}
		l.settled++
		if v.outcome == "" {
			e.Parked++
			failpoint.Hit("parked.done")
			over := l.over(t) != "" // meanwhile: it is not to wait for its time
			l.backlog.park(t, v.parked.At, v.due)
			if over {
				l.backlog.hasten(t)
			}
			l.strand(t.record)
			continue
		}
		switch v.outcome {
		case queue.Applied:
			e.Applied++
		case queue.Already:
			e.Already++
		case queue.Dead:
			e.Dead++
			e.Reason, e.Detail = v.reason, fmt.Sprintf("job %s, record %d: %s", t.id, t.job.Record, v.message)
		case queue.Unknown:
			e.Unknown++
			e.Reason, e.Detail = v.reason, fmt.Sprintf("job %s, record %d: %s", t.id, t.job.Record, v.message)
		}
		l.backlog.remove(t)
		l.strand(t.record)
	}
	if len(verdicts) > 0 {
		l.mu.Lock()
		l.status.Applied += e.Applied
		l.status.Already += e.Already
		l.status.Dead += e.Dead
		l.status.Unknown += e.Unknown
		l.mu.Unlock()
		l.tell(e)
	}
}

// cutLog purges what is settled or parked from the log, from time to time.
func (l *lane) cutLog(now bool) {
	if l.settled == 0 || !now && l.settled < purgeEvery && (l.out > 0 || l.reading || l.behind > 0) {
		return
	}
	low := l.backlog.lowWater(l.last + 1)
	if low <= l.purged {
		l.settled = 0
		return
	}
	if err := l.queue.PurgeLog(l.work, l.site, l.app.ID, low); err != nil {
		if l.work.Err() == nil {
			l.tell(Event{Kind: EventTrouble, Detail: "purge the log: " + err.Error()})
		}
		return
	}
	l.purged, l.settled = low, 0
}
