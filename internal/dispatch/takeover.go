package dispatch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"statusq/internal/failpoint"
	"statusq/internal/queue"
)

// open claims the ledger, takes over what stands in it, and only then reads jobs (docs/design.md section 4, rule 8).
func (l *lane) open(ctx context.Context) (<-chan queue.Entry, <-chan queue.Parked, error) {
	ledger, slots, err := l.queue.OpenLedger(ctx, l.site, l.app.ID, l.epoch, l.owner)
	if err != nil {
		return nil, nil, fmt.Errorf("app %d: claim the ledger: %w", l.app.ID, err)
	}
	l.ledger = ledger
	if err := l.loadChange(ctx); err != nil {
		return nil, nil, err
	}

	log, err := l.queue.ReadLog(ctx, l.site, l.app.ID, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("app %d: read the log: %w", l.app.ID, err)
	}
	first, err := l.peek(ctx, log)
	if err != nil {
		log.Stop()
		return nil, nil, fmt.Errorf("app %d: read the log: %w", l.app.ID, err)
	}

	var parked []queue.Waiting
	err = ledger.Load(ctx, queue.Loader{
		Parked: func(p queue.Waiting) { parked = append(parked, p) },
		Ended: func(r queue.End) {
			l.pass(r.Seq)
			// The id of a job that died of id_reused is another job's, which may be open yet.
			if r.Outcome != queue.Duplicate && r.Reason != ReasonIDReused && !isNumbered(r.Job, r.Seq) {
				l.known.remember(r.Job, r.Record)
			}
		},
	})
	if err != nil {
		log.Stop()
		return nil, nil, fmt.Errorf("app %d: load the ledger: %w", l.app.ID, err)
	}

	for _, p := range parked {
		l.parkedTo = max(l.parkedTo, p.Seq)
	}
	if l.parkedTo > 0 {
		l.backlog.readTo = 0 // until its jobs are known, nothing that is parked may come before them
	}
	if err := l.inheritSlots(ctx, slots, parked); err != nil {
		log.Stop()
		return nil, nil, err
	}
	failpoint.Hit("slots.inherited")
	spent := 0
	today := time.Now().UTC().Format(time.DateOnly)
	for _, s := range slots {
		if s.Day == today {
			spent = max(spent, s.Spent)
		}
	}
	_, used := l.gate.Spent(l.app.ID)
	// What the gate had counted before the lane began is in the slots already, or was spent by this process as another
	// lane of the app; what the lane itself has spent to begin is not.
	l.gate.SetBudget(l.app.ID, l.cfg.budget(), max(spent, l.before)+max(0, used-l.before))

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
				l.cut(ctx, fmt.Errorf("read the log: %w", err))
				return
			}
			e = &next
		}
	})
	retried := make(chan queue.Parked)
	l.wg.Go(func() {
		defer ledger.Close()
		for {
			p, err := ledger.Retried(ctx)
			if err != nil {
				l.cut(ctx, err)
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

// cut says that a reader has ended although nobody asked it to: a stream that is said not to be there, a form that only a
// newer worker reads. The site is given up, and begun again.
func (l *lane) cut(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	select {
	case l.broken <- err:
	default: // there is one already
	}
}

// peek reads the first entry of the log, if there is one, and finds from where on the log has to be looked at for jobs
// that are decided already.
func (l *lane) peek(ctx context.Context, log *queue.LogReader) (*queue.Entry, error) {
	count, last, err := l.queue.LogOf(ctx, l.site, l.app.ID)
	if err != nil {
		return nil, err
	}
	if count == 0 {
		l.low = last + 1
		return nil, nil
	}
	wait, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	e, err := log.Next(wait)
	switch {
	case err == nil:
		l.low = e.Seq
		return &e, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, nil // purged meanwhile, or slow: everything that is decided is remembered
}

// pass makes the lane pass over a job in the log that is decided, or under way, already.
func (l *lane) pass(seq uint64) {
	if seq >= l.low {
		l.ended[seq] = struct{}{}
	}
}

// inheritSlots puts what another owner, or this one before, left in the slots back into the air, and the parked jobs
// into the backlog.
func (l *lane) inheritSlots(ctx context.Context, slots [queue.Slots]queue.Slot, parked []queue.Waiting) error {
	now := time.Now()
	type place struct { // of a job; those that one with a key became share its sequence
		seq    uint64
		record int64
	}
	aloft := make(map[place]bool)
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
				f.tasks[m.Record] = t
				l.backlog.add(t)
				l.known.remember(m.Job, m.Record)
				l.pass(m.Seq)
				aloft[place{m.Seq, m.Record}] = true
				if t.parked > 0 {
					aloft[place{m.Seq, t.home}] = true
				}
			}
		}
		l.flights[n] = f
		l.tell(Event{Kind: EventInherited, Request: f.id, Detail: fmt.Sprintf("slot %d: %d jobs", n, len(f.tasks))})
	}
	names := make(map[string]string)
	once := func(campaign string) string { // one copy for all jobs of it
		if _, ok := names[campaign]; !ok {
			names[campaign] = campaign
		}
		return names[campaign]
	}
	for _, p := range parked {
		if !isNumbered(p.Job, p.Seq) {
			l.known.remember(p.Job, p.Record)
		}
		l.pass(p.Seq)
		if !aloft[place{p.Seq, p.Record}] {
			line := l.backlog.lineOf(queue.Job{Record: p.Record, Key: p.Key})
			l.backlog.add(&task{seq: p.Seq, id: p.Job, record: line, state: stateParked, parked: p.At, home: p.Record, due: p.Due, campaign: once(p.Campaign)})
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
			t.home, t.parent = p.Job.Record, p.Parent
			p.Job.Record = m.Record // found by its key, perhaps, since it was parked
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
			j, err := queue.DecodeJob(e.Data, l.site, l.app.ID)
			switch {
			case err == nil:
				j.ID, j.Record = m.Job, m.Record
				t.job = &j
				return t, nil
			case errors.Is(err, queue.ErrNewerVersion):
				return nil, err
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
