package dispatch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"statusq/internal/queue"
)

// open claims the ledger, takes over what stands in it, and only then reads jobs (docs/design.md section 4, rule 8).
func (l *lane) open(ctx context.Context) (<-chan queue.Entry, <-chan queue.Parked, error) {
	ledger, slots, err := l.queue.OpenLedger(ctx, l.site, l.app.ID, l.epoch, l.owner)
	if err != nil {
		return nil, nil, fmt.Errorf("app %d: claim the ledger: %w", l.app.ID, err)
	}
	l.ledger = ledger

	// The low-water mark only bounds what has to be remembered of the sequences that ended.
	log, err := l.queue.ReadLog(ctx, l.site, l.app.ID, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("app %d: read the log: %w", l.app.ID, err)
	}
	low, first, err := l.peek(ctx, log)
	if err != nil {
		log.Stop()
		return nil, nil, fmt.Errorf("app %d: read the log: %w", l.app.ID, err)
	}

	var parked []queue.Parked
	err = ledger.Load(ctx, queue.Loader{
		Parked: func(p queue.Parked) {
			p.Attempts = nil // read again when its time comes
			parked = append(parked, p)
		},
		Ended: func(r queue.Result) {
			if r.Seq >= low {
				l.ended[r.Seq] = struct{}{}
			}
			if r.Outcome != queue.Duplicate {
				l.remember(r.Job, r.Record)
			}
		},
	})
	if err != nil {
		log.Stop()
		return nil, nil, fmt.Errorf("app %d: load the ledger: %w", l.app.ID, err)
	}

	if err := l.inheritSlots(ctx, slots, parked); err != nil {
		log.Stop()
		return nil, nil, err
	}
	spent := 0
	today := time.Now().UTC().Format(time.DateOnly)
	for _, s := range slots {
		if s.Day == today {
			spent = max(spent, s.Spent)
		}
	}
	_, used := l.gate.Spent(l.app.ID)
	l.gate.SetBudget(l.app.ID, l.cfg.DailyRequests, max(spent, used))

	entries := make(chan queue.Entry, room)
	l.wg.Go(func() {
		defer log.Stop()
		for e := first; ; {
			if e != nil {
				select {
				case entries <- *e:
				case <-ctx.Done():
					return
				}
			}
			next, err := log.Next(ctx)
			if err != nil {
				return // only the end of ctx ends the reading
			}
			e = &next
		}
	})
	retried := make(chan queue.Parked)
	l.wg.Go(func() {
		for {
			p, err := ledger.Retried(ctx)
			if err != nil {
				return
			}
			select {
			case retried <- p:
			case <-ctx.Done():
				return
			}
		}
	})
	return entries, retried, nil
}

// peek reads the first entry of the log, if there is one.
func (l *lane) peek(ctx context.Context, log *queue.LogReader) (low uint64, first *queue.Entry, err error) {
	counts, err := l.queue.Backlog(ctx, l.site)
	if err != nil {
		return 0, nil, err
	}
	if counts[l.app.ID] == 0 {
		return 0, nil, nil
	}
	wait, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	e, err := log.Next(wait)
	switch {
	case err == nil:
		return e.Seq, &e, nil
	case ctx.Err() != nil:
		return 0, nil, context.Cause(ctx)
	}
	return 0, nil, nil // purged meanwhile: everything that ended is remembered
}

// inheritSlots puts what another owner, or this one before, left in the slots back into the air, and the parked jobs
// into the backlog.
func (l *lane) inheritSlots(ctx context.Context, slots [queue.Slots]queue.Slot, parked []queue.Parked) error {
	now := time.Now()
	aloft := make(map[uint64]bool)
	for n, s := range slots {
		if s.Request == nil {
			continue
		}
		f := inherit(n, *s.Request, now)
		for _, p := range f.parts {
			for _, m := range p.members {
				t, err := l.recall(ctx, m)
				if err != nil {
					return fmt.Errorf("app %d: slot %d: job %s: %w", l.app.ID, n, m.Job, err)
				}
				f.tasks[m.Seq] = t
				l.backlog.add(t)
				l.remember(m.Job, m.Record)
				l.ended[m.Seq] = struct{}{} // not to be read from the log again
				aloft[m.Seq] = true
			}
		}
		l.flights[n] = f
		l.tell(Event{Kind: EventInherited, Request: f.id, Detail: fmt.Sprintf("slot %d: %d jobs", n, len(f.tasks))})
	}
	for _, p := range parked {
		l.remember(p.Job.ID, p.Job.Record)
		l.ended[p.Seq] = struct{}{}
		if !aloft[p.Seq] {
			l.backlog.add(&task{seq: p.Seq, id: name(p.Job, p.Seq), record: p.Job.Record, state: stateParked, parked: p.At, due: p.Due})
		}
	}
	return nil
}

// recall makes a task of a member whose job stands in the log or among the parked.
func (l *lane) recall(ctx context.Context, m queue.Member) (*task, error) {
	t := &task{seq: m.Seq, id: m.Job, record: m.Record, state: stateFlying, parked: m.Parked}
	if m.Parked > 0 {
		p, err := l.parkedAt(ctx, m.Parked)
		if err == nil {
			t.job, t.attempts = &p.Job, p.Attempts
			return t, nil
		}
		if !errors.Is(err, queue.ErrGone) {
			return nil, err
		}
	} else {
		t.inLog = true
		var e queue.Entry
		err := l.insist(ctx, func() (err error) { e, err = l.queue.LogEntry(ctx, m.Seq); return err })
		if err == nil {
			if j, err := queue.DecodeJob(e.Data, l.site, l.app.ID); err == nil {
				j.ID = m.Job
				t.job = &j
				return t, nil
			}
		} else if !errors.Is(err, queue.ErrGone) {
			return nil, err
		}
	}
	// Somebody removed the job itself. What the request needs stands in the slot; it cannot be planned afresh.
	t.inLog, t.gutted = false, true
	t.job = &queue.Job{ID: m.Job, Site: l.site, App: l.app.ID, Record: m.Record, Action: m.Action, Assignee: m.Assignee, Revision: -1, Campaign: m.Campaign}
	return t, nil
}

// insist repeats a read of the queue until it is answered, one way or the other, or ctx ends: a new leader takes
// seconds to be found.
func (l *lane) insist(ctx context.Context, read func() error) error {
	for n := 1; ; n++ {
		err := read()
		if err == nil || errors.Is(err, queue.ErrGone) || errors.Is(err, queue.ErrNewerVersion) || ctx.Err() != nil {
			return err
		}
		l.tell(Event{Kind: EventTrouble, Detail: err.Error()})
		if sleep(ctx, backOff(n, 10*time.Second, 0)) != nil {
			return err
		}
	}
}

func (l *lane) parkedAt(ctx context.Context, at uint64) (p queue.Parked, err error) {
	err = l.insist(ctx, func() (err error) { p, err = l.queue.ParkedAt(ctx, at); return err })
	return p, err
}
