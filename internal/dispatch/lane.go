package dispatch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// Sizes and times of a lane. What an operator may set is in AppConfig.
const (
	// room is how many jobs a lane keeps in memory; the rest waits in the log.
	room = 2000
	// fence is the slot that is never filled: the batches of jobs that are never sent are fenced by it.
	fence = queue.Slots - 1
	// mostVerdicts is how many jobs end in one atomic batch.
	mostVerdicts = 200
	// freshPin is how long a read is good enough to be sent on. An older one is not wrong, but likelier to cost a refusal.
	freshPin = time.Minute
	// freshSettings is how old the process settings may be when a job dies of them.
	freshSettings = time.Minute
	// knownBad is how long a user that kintone did not know is not tried again.
	knownBad = 10 * time.Minute
	// purgeEvery jobs, or as soon as the lane is idle, the log is cut at the low-water mark.
	purgeEvery = 2000
	// patience is how long a batch waits for jobs that the log is said to hold.
	patience = time.Second
	// gather is how long the ends of jobs that are never sent wait for company.
	gather = 20 * time.Millisecond
)

// A lane serves one app. One goroutine, in run, owns all its state; requests run beside it and answer on a channel.
type lane struct {
	site  string
	cfg   AppConfig
	app   kintone.App
	us    string
	epoch uint64
	owner string

	client  *kintone.Client
	gate    *kintone.Gate
	queue   *queue.Queue
	observe func(Event)

	answers chan answer
	wg      sync.WaitGroup // requests and readers; run waits for all of them

	// Owned by run.
	ledger  *queue.Ledger
	work    context.Context // ends when everything has to stop at once
	backlog *backlog
	flights [queue.Slots]*flight
	process *kintone.Process
	fields  kintone.Fields
	readAt  time.Time // when process was read
	name    string
	halt    halt

	lookAfter time.Time // no read for inspection before, because the last ones failed
	looks     int       // that failed in a row
	out       int       // status requests and the reads that understand them, at kintone or at the gate
	reading   bool      // a read for inspection is out
	verdicts  []verdict
	decided   time.Time // when the oldest of verdicts was reached

	known    map[[16]byte]struct{} // ids of all jobs that ended, wait or are under way: the same id never acts twice
	ended    map[uint64]struct{}   // sequences above the low-water mark at the start that must not be read again
	badUsers map[string]time.Time
	mark     mark
	step     int       // the smallest by which an action of ours ever raised a revision here
	streak   int       // jobs in a row that ended by a refusal nobody can explain
	passedAt time.Time // when kintone last did for this app what it was asked to
	probes   int       // where the next probe looks for a flight first

	last     uint64 // sequence of the last entry taken from the log
	behind   uint64 // entries behind it when it was taken, at takenAt
	takenAt  time.Time
	pruned   bool // ended holds nothing below the first entry that was taken
	stuck    *queue.Entry
	purged   uint64
	settled  int // since the last purge
	stopping bool

	mu     sync.Mutex // guards status
	status LaneStatus
}

// halt is why a lane takes nothing for the time being.
type halt struct {
	reason, detail string
	since, until   time.Time
	times          int  // probes that failed in a row
	probing        bool // one request is out to see whether it is over
}

// mark is how a lane learns whether an action leaves our name on the record: it remembers one that it moved and that
// somebody else had changed last.
type mark struct {
	record, revision int64
	kind             markKind
}

// answer is what comes back to the lane's goroutine.
type answer struct {
	flight    *flight
	revisions []kintone.RecordRevision // of a status request
	inquiry   *inquiry                 // of a read that understands one
	look      *look                    // of a read for inspection
	err       error
}

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
	raw      []byte        // of an undecodable one
	parked   *queue.Parked // what was written for a parked one
}

var errStopped = errors.New("lane stopped")

// run serves the app until stop ends (then it finishes what is out) or work ends (then it drops everything). It
// returns nil after a stop, and an error that means "give up the site" otherwise.
func (l *lane) run(stop, work context.Context) error {
	work, cancel := context.WithCancelCause(work)
	defer l.wg.Wait()
	defer cancel(errStopped)
	l.work = work
	either, cease := context.WithCancelCause(work)
	defer context.AfterFunc(stop, func() { cease(errStopped) })()
	defer cease(nil)
	if err := l.confirm(either); err != nil {
		if work.Err() == nil {
			return nil // stopped before it began
		}
		return err
	}
	entries, retried, err := l.open(work)
	if errors.Is(err, queue.ErrNewerVersion) {
		// A newer worker wrote to the ledger. It waits for one, and so does whatever stands there.
		l.halt = halt{reason: ReasonWorkerTooOld, detail: err.Error(), since: time.Now()}
		l.setState("halted")
		l.tell(Event{Kind: EventHalted, Reason: ReasonWorkerTooOld, Detail: err.Error()})
		<-either.Done()
		return context.Cause(work)
	}
	if err != nil {
		return err
	}
	l.tell(Event{Kind: EventLane, Detail: l.name})

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if err := l.turn(stop); err != nil {
			return err
		}
		l.publish()
		if l.stopping && l.out == 0 && !l.reading {
			return l.close(work)
		}
		timer.Reset(l.nextLook())
		in := entries
		if l.stopping || l.halted() || l.stuck != nil || l.backlog.open >= room {
			in = nil
		}
		stopped := stop.Done()
		if l.stopping {
			stopped = nil
		}
		select {
		case e := <-in:
			l.take(e)
			for more := true; more && l.backlog.open < room && l.stuck == nil; {
				select {
				case e := <-in:
					l.take(e)
				default:
					more = false
				}
			}
		case a := <-l.answers:
			if err := l.hear(a); err != nil {
				return err
			}
		case p := <-retried:
			l.adopt(p)
		case <-timer.C:
		case <-stopped:
			l.stopping = true
		case <-work.Done():
			return context.Cause(work)
		}
	}
}

// confirm asks kintone whether the app can be served, as long as it takes. Until then the lane claims nothing.
func (l *lane) confirm(ctx context.Context) error {
	for n := 1; ; n++ {
		err := l.learn(ctx)
		if err == nil {
			if l.halt.reason != "" {
				l.halt = halt{}
				l.tell(Event{Kind: EventResumed})
			}
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		j := judge(err)
		if j.charge == chargeLogin {
			l.gate.Halt(j.reason + ": " + j.message)
		}
		if l.halt.reason != j.reason {
			l.halt = halt{reason: j.reason, detail: j.message, since: time.Now()}
			l.tell(Event{Kind: EventUnserved, Reason: j.reason, Detail: j.message})
		}
		l.setState("unserved")
		if err := sleep(ctx, backOff(n+2, 5*time.Minute, 0)); err != nil {
			return err
		}
	}
}

// learn reads what the lane has to know of its app: three requests.
func (l *lane) learn(ctx context.Context) error {
	process, err := l.client.Process(ctx, l.app)
	if err != nil {
		return err
	}
	fields, err := l.client.FormFields(ctx, l.app)
	if err != nil {
		return err
	}
	l.process, l.fields, l.readAt = process, fields, time.Now()
	facts, err := l.queue.Facts(ctx, l.site, l.app.ID)
	l.step = revisionStep
	if err == nil && facts.Step > 0 {
		l.step = facts.Step
	}
	if err == nil && facts.AppName != "" {
		l.name = facts.AppName
		return nil
	}
	if info, err := l.client.AppInfo(ctx, l.app); err == nil && info.Name != "" {
		l.name = info.Name
		facts.AppName = info.Name
		if err := l.queue.PutFacts(ctx, l.site, l.app.ID, facts); err != nil {
			l.tell(Event{Kind: EventTrouble, Detail: err.Error()})
		}
	}
	return nil
}

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
				l.remember(r.Job)
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
				l.remember(m.Job)
				l.ended[m.Seq] = struct{}{} // not to be read from the log again
				aloft[m.Seq] = true
			}
		}
		l.flights[n] = f
		l.tell(Event{Kind: EventInherited, Request: f.id, Detail: fmt.Sprintf("slot %d: %d jobs", n, len(f.tasks))})
	}
	for _, p := range parked {
		l.remember(p.Job.ID)
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

// turn does whatever can be done without waiting for anybody but the ledger.
func (l *lane) turn(stop context.Context) error {
	now := time.Now()
	if stop.Err() != nil {
		l.stopping = true
	}
	if len(l.verdicts) >= mostVerdicts || len(l.verdicts) > 0 && (l.behind == 0 || l.stopping || now.Sub(l.decided) >= gather) {
		if err := l.flush(); err != nil {
			return err
		}
	}
	if !l.stopping {
		if err := l.wakeDue(now); err != nil {
			return err
		}
		if l.halted() {
			l.probe(now)
		} else {
			for _, f := range l.flights {
				l.goOn(f, now)
			}
			l.inspect()
			if err := l.launch(now); err != nil {
				return err
			}
			l.inspect() // what was looked at too long ago has to be looked at again
		}
	}
	l.cutLog(false)
	return nil
}

// nextLook is when the lane has to look again although nobody calls.
func (l *lane) nextLook() time.Duration {
	now := time.Now()
	next := now.Add(time.Hour)
	sooner := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	future := func(t time.Time) {
		if t.After(now) {
			sooner(t)
		}
	}
	l.backlog.tidy()
	if len(l.verdicts) > 0 {
		sooner(l.decided.Add(gather))
	}
	if l.settled > 0 {
		sooner(now.Add(time.Second))
	}
	if !l.stopping {
		sooner(l.backlog.firstDue())
		if len(l.backlog.toRead) > 0 {
			future(l.lookAfter)
		}
		if l.behind > 0 {
			future(l.takenAt.Add(patience))
		}
		if l.halted() {
			if !l.halt.probing && l.out == 0 && !l.reading {
				sooner(l.halt.until)
			}
		} else {
			for _, f := range l.flights {
				if f != nil && f.phase <= lookingNext && l.out < l.cfg.Inflight {
					sooner(f.due)
				}
			}
		}
	}
	return max(0, next.Sub(now))
}

// take looks at one job of the log: what is already decided about it, whether it can be understood, who is before it.
func (l *lane) take(e queue.Entry) {
	l.last, l.behind, l.takenAt = e.Seq, e.Pending, time.Now()
	l.forget(e.Seq)
	if _, done := l.ended[e.Seq]; done {
		delete(l.ended, e.Seq)
		return
	}
	t := &task{seq: e.Seq, state: stateDeciding, inLog: true}
	j, err := queue.DecodeJob(e.Data, l.site, l.app.ID)
	switch {
	case errors.Is(err, queue.ErrNewerVersion):
		// It may be worth more than we understand: it waits, and everything behind it, until a newer worker reads it.
		l.stuck = &e
		l.last = e.Seq - 1
		l.tell(Event{Kind: EventHalted, Reason: ReasonWorkerTooOld, Detail: fmt.Sprintf("the job at sequence %d was written for a newer worker", e.Seq)})
		return
	case err != nil:
		t.id = name(queue.Job{}, e.Seq)
		t.job = &queue.Job{ID: t.id, Site: l.site, App: l.app.ID, Revision: -1}
		l.backlog.add(t)
		l.decide(verdict{task: t, outcome: queue.Dead, reason: ReasonUndecodable, message: err.Error(), raw: e.Data})
		return
	}
	t.id, t.record, t.job = name(j, e.Seq), j.Record, &j
	if l.isKnown(j.ID) {
		// Its end needs no turn: nothing is done for it.
		t.record = 0
		l.backlog.add(t)
		l.decide(verdict{task: t, outcome: queue.Duplicate})
		return
	}
	l.remember(j.ID)
	j.ID = t.id
	now := time.Now()
	switch {
	case j.Key != nil:
		t.record = 0
		l.backlog.add(t)
		l.decide(verdict{task: t, outcome: queue.Dead, reason: ReasonKeyUnsupported, message: keyUnsupported})
	case l.backlog.behindParked(j.Record):
		l.backlog.add(t)
		l.decide(verdict{task: t, reason: ReasonBehind, due: j.NotBefore})
	case j.NotBefore.After(now):
		l.backlog.add(t)
		l.decide(verdict{task: t, reason: ReasonNotBefore, due: j.NotBefore})
	default:
		t.state = stateOpen
		l.backlog.add(t)
	}
}

// forget drops what had to be remembered of sequences that the log has left behind.
func (l *lane) forget(below uint64) {
	if l.pruned {
		return
	}
	l.pruned = true
	maps.DeleteFunc(l.ended, func(seq uint64, _ struct{}) bool { return seq < below })
}

// adopt takes in a job that an operator sent again.
func (l *lane) adopt(p queue.Parked) {
	l.remember(p.Job.ID)
	l.backlog.add(&task{seq: p.Seq, id: name(p.Job, p.Seq), record: p.Job.Record, state: stateParked, parked: p.At, due: p.Due})
	l.strand(p.Job.Record)
}

// strand parks the jobs that wait in memory behind one that is parked: it may need their room to come back.
func (l *lane) strand(record int64) {
	for _, t := range l.backlog.stranded(record) {
		l.decide(verdict{task: t, reason: ReasonBehind})
	}
}

// wakeDue brings parked jobs whose time has come back into memory, always a few even when there is no room.
func (l *lane) wakeDue(now time.Time) error {
	const few = 50
	for _, t := range l.backlog.nextDue(now, min(kintone.MaxRecords, max(few, room-l.backlog.open))) {
		p, err := l.parkedAt(l.work, t.parked)
		switch {
		case errors.Is(err, queue.ErrGone):
			// An operator took it out of the ledger by hand.
			l.backlog.remove(t)
			l.tell(Event{Kind: EventTrouble, Detail: fmt.Sprintf("parked job %s of record %d is gone from the ledger", t.id, t.record)})
		case err != nil:
			return fmt.Errorf("app %d: read parked job %s: %w", l.app.ID, t.id, err)
		case p.Job.Key != nil || p.Job.Record < 1:
			l.backlog.wake(t, p)
			l.decide(verdict{task: t, outcome: queue.Dead, reason: ReasonKeyUnsupported, message: keyUnsupported})
		default:
			l.backlog.wake(t, p)
		}
	}
	return nil
}

const keyUnsupported = "this worker does not look up records by key; publish the job with the record's id"

// look is the result of a read for inspection.
type look struct {
	tasks   []*task
	records map[int64]*kintone.Record
	process *kintone.Process // when the settings were read again
	fields  *kintone.Fields
}

// inspect starts a read of the records whose jobs are first in line.
func (l *lane) inspect() {
	l.backlog.tidy()
	if l.reading || len(l.backlog.fit) >= kintone.MaxRecords || time.Now().Before(l.lookAfter) {
		return
	}
	if !mayRead(len(l.backlog.toRead), kintone.MaxRecords, l.out, len(l.backlog.fit), l.moreComing()) {
		return
	}
	if tasks := l.backlog.nextToRead(kintone.MaxRecords); len(tasks) > 0 {
		l.lookAt(tasks)
	}
}

// lookAt reads the records of the tasks. Without any it only reads the settings again.
func (l *lane) lookAt(tasks []*task) {
	l.reading = true
	var (
		process   = l.process
		fields    = l.fields
		stale     = time.Since(l.readAt) > freshSettings
		ids       = make([]int64, len(tasks))
		unfitting = func(t *task, records map[int64]*kintone.Record) bool {
			found := inspectJob(*t.job, records[t.record], process, fields, l.us, nil, time.Now())
			return found.fate == appUnable || found.fate != fit && found.bySettings && stale
		}
	)
	for i, t := range tasks {
		ids[i] = t.record
	}
	l.wg.Go(func() {
		k := &look{tasks: tasks}
		err := func() error {
			if len(ids) > 0 {
				records, err := l.read(fields, ids)
				if err != nil {
					return err
				}
				k.records = records
			}
			if len(tasks) == 0 || slices.ContainsFunc(tasks, func(t *task) bool { return unfitting(t, k.records) }) {
				// No job dies of settings that somebody may have mended meanwhile.
				p, err := l.client.Process(l.work, l.app)
				if err != nil {
					return err
				}
				k.process = p
				f, err := l.client.FormFields(l.work, l.app)
				if err != nil {
					return err
				}
				k.fields = &f
			}
			return nil
		}()
		l.answer(answer{look: k, err: err})
	})
}

// read reads records by id.
func (l *lane) read(fields kintone.Fields, ids []int64) (map[int64]*kintone.Record, error) {
	list, err := l.client.RecordsByID(l.work, l.app, fields, ids)
	if err != nil {
		return nil, err
	}
	records := make(map[int64]*kintone.Record, len(list))
	for i := range list {
		records[list[i].ID] = &list[i]
	}
	return records, nil
}

// looked judges the jobs whose records were read.
func (l *lane) looked(k *look, err error) {
	l.reading = false
	now := time.Now()
	if err != nil {
		for _, t := range k.tasks {
			l.backlog.reopen(t, nil, now)
		}
		j := judge(err)
		if j.charge == chargeJobs {
			j.charge = chargeApp // a read names no record
		}
		l.looks++
		l.lookAfter = now.Add(backOff(l.looks, time.Minute, j.after))
		l.failed(j)
		return
	}
	l.looks, l.lookAfter = 0, time.Time{}
	if k.process != nil {
		l.process, l.readAt = k.process, now
		if k.fields != nil {
			l.fields = *k.fields
		}
	}
	unable := finding{}
	for _, t := range k.tasks {
		if found := l.weigh(t, k.records[t.record], now); found.fate == appUnable {
			unable = found
		}
	}
	if unable.fate == appUnable {
		l.stop(unable.reason, unable.message, 0)
	} else {
		l.passed(false)
	}
}

// weigh judges one job by what was read of its record.
func (l *lane) weigh(t *task, r *kintone.Record, now time.Time) finding {
	found := inspectJob(*t.job, r, l.process, l.fields, l.us, l.badUsers, now)
	found.step = min(found.step, l.step)
	switch found.fate {
	case fit:
		t.pin, t.pinAt = r, now
		l.backlog.markFit(t, found)
	case already:
		l.decide(verdict{task: t, outcome: queue.Already, revision: r.Revision})
	case unfit:
		l.decide(l.failure(t, found, ""))
	case appUnable:
		l.backlog.reopen(t, nil, now)
	}
	return found
}

// failure is the verdict that the ladder gives a job.
func (l *lane) failure(t *task, found finding, request string) verdict {
	v := verdict{task: t, reason: found.reason, code: found.code, message: found.message, request: request, attempt: true}
	if found.fate == already {
		v.outcome, v.attempt = queue.Already, false
		return v
	}
	if n := spent(t.attempts); ladder(found.reason, n, l.cfg.Attempts) {
		v.due = time.Now().Add(pause(n+1, l.cfg.Backoff, rand.Float64))
		if grid := l.cfg.Backoff / 4; grid > 0 {
			v.due = v.due.Truncate(grid).Add(grid) // so that those that failed together are read together
		}
		return v
	}
	v.outcome = queue.Dead
	return v
}

// decide keeps the end of a job that is not in a slot until the next write.
func (l *lane) decide(v verdict) {
	v.task.state = stateDeciding
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
		if err := l.settle(fence, nil, "", batch); err != nil {
			return err
		}
		l.done(batch)
	}
	l.verdicts = nil
	return nil
}

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
			l.backlog.reopen(t, nil, now)
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
	l.again(f, backOff(p.tries, time.Minute, j.after))
	if j.known == unclear {
		l.tell(Event{Kind: EventUnclear, Request: f.id, Reason: j.reason, Detail: j.message, Until: p.due})
	}

	// Perhaps it is one member that brings kintone down, or the size. While nobody gets through it is neither, unless
	// the app itself answers so.
	others := l.passedAt.After(p.since)
	switch {
	case p.tries >= 5 && j.charge != chargeNobody && len(p.members) > 1 && (others || j.charge == chargeApp && j.known == unclear):
		l.failed(j)
		return l.halve(f)
	case p.tries >= 5 && j.charge == chargeApp && others:
		// It alone fares so: the app is not to wait for it.
		p.due = now.Add(backOff(p.tries, 5*time.Minute, j.after))
		f.turn()
		l.unprobed()
	default:
		l.failed(j)
	}
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
			l.backlog.reopen(t, nil, now)
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
		q := &inquiry{evidence: evidence{us: l.us, mark: m.kind, doubt: !p.doubt.IsZero(), dedicated: !l.cfg.Shared}}
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
	l.mark.kind = q.evidence.mark
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
		f.parts, f.dead = f.parts[1:], true
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

// settle writes a slot, and with it the ends of jobs, in one atomic batch. It waits while the ledger is full.
func (l *lane) settle(n int, rest *queue.Request, request string, verdicts []verdict) error {
	day, spent := l.gate.Spent(l.app.ID)
	slot := queue.Slot{Request: rest, Day: day, Spent: spent}
	set := l.settlement(request, verdicts)
	for {
		err := l.ledger.Write(l.work, n, slot, set)
		switch {
		case err == nil:
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
			v.parked = &queue.Parked{Job: *t.job, Seq: t.seq, Due: v.due, Behind: v.reason == ReasonBehind, Reason: v.reason, Attempts: attempts, Epoch: l.epoch}
			set.Park = append(set.Park, v.parked)
			continue
		}
		r := queue.Result{
			Seq: t.seq, Job: t.id, Record: t.job.Record, Outcome: v.outcome, Revision: v.revision,
			Reason: v.reason, Code: v.code, Ref: t.job.Ref, Campaign: t.job.Campaign, At: now,
		}
		if v.outcome == queue.Dead || v.outcome == queue.Unknown {
			r.Message = v.message
			set.Dead = append(set.Dead, &queue.DeadLetter{
				Job: *t.job, Raw: v.raw, Site: l.site, App: l.app.ID, Seq: t.seq, Outcome: v.outcome,
				Reason: v.reason, Code: v.code, Message: v.message, Attempts: attempts, Evidence: v.evidence, Died: now,
			})
		}
		set.Results = append(set.Results, r)
		if t.parked > 0 {
			set.Unpark = append(set.Unpark, queue.ParkedRef{Record: t.record, Job: t.id, At: t.parked})
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
			l.backlog.park(t, v.parked.At, v.due)
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
			e.Reason, e.Detail = v.reason, fmt.Sprintf("job %s, record %d: %s", t.id, t.record, v.message)
		case queue.Unknown:
			e.Unknown++
			e.Reason, e.Detail = v.reason, fmt.Sprintf("job %s, record %d: %s", t.id, t.record, v.message)
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

// failed charges the app or the site with a failure; a job never pays for it.
func (l *lane) failed(j judgement) {
	switch j.charge {
	case chargeApp:
		l.stop(j.reason, j.message, j.after)
		return
	case chargeLogin:
		l.gate.Halt(j.reason + ": " + j.message)
	}
	l.unprobed()
}

// unprobed puts the next probe off when one has told nothing.
func (l *lane) unprobed() {
	if l.halt.probing {
		l.halt.probing = false
		l.halt.until = time.Now().Add(backOff(l.halt.times+2, 5*time.Minute, 0))
	}
}

// passed ends a halt: kintone does for this app what it is asked to. A halt that returns before anything was committed
// lasts longer each time.
func (l *lane) passed(committed bool) {
	l.passedAt = time.Now()
	times := l.halt.times
	if committed {
		times = 0
	}
	if l.halted() {
		l.tell(Event{Kind: EventResumed})
	}
	l.halt = halt{times: times}
}

// stop halts the lane. Its jobs stay where they are, and one request at a time looks whether it is over.
func (l *lane) stop(reason, detail string, after time.Duration) {
	if l.halt.reason == reason && !l.halt.probing {
		return // one more of those that were out when it began
	}
	now := time.Now()
	h := halt{reason: reason, detail: detail, since: now, times: l.halt.times + 1}
	if l.halt.reason == reason {
		h.since = l.halt.since
	}
	h.until = now.Add(backOff(h.times+2, 5*time.Minute, after))
	if l.halt.reason != reason || l.halt.detail != detail {
		l.tell(Event{Kind: EventHalted, Reason: reason, Detail: detail, Until: h.until})
	}
	l.halt = h
}

func (l *lane) halted() bool { return l.halt.reason != "" }

// probe sends one thing to see whether a halt is over: what is in the air first, for it cannot come down otherwise.
func (l *lane) probe(now time.Time) {
	if l.halt.probing || now.Before(l.halt.until) || l.out > 0 || l.reading {
		return
	}
	l.halt.probing = true
	for range l.flights {
		f := l.flights[l.probes%len(l.flights)]
		l.probes++
		if f != nil && f.phase <= lookingNext {
			f.due = now
			if l.goOn(f, now) {
				return
			}
		}
	}
	l.lookAt(l.backlog.nextToRead(kintone.MaxRecords))
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

// close ends a lane that has nothing out any more.
func (l *lane) close(ctx context.Context) error {
	if err := l.flush(); err != nil {
		return err
	}
	l.cutLog(true)
	l.setState("stopped")
	return nil
}

// remember keeps an id for as long as this owner serves the app. A hash of 16 bytes stands for it: that two of ten
// million differ and meet is less likely than one in 10^24.
func (l *lane) remember(id string) {
	if id != "" {
		l.known[digest(id)] = struct{}{}
	}
}

func (l *lane) isKnown(id string) bool {
	if id == "" {
		return false
	}
	_, known := l.known[digest(id)]
	return known
}

func digest(id string) [16]byte {
	sum := sha256.Sum256([]byte(id))
	return [16]byte(sum[:16])
}

// name is what a job is called: by its publisher, or by its place in the log.
func name(j queue.Job, seq uint64) string {
	if j.ID != "" {
		return j.ID
	}
	return fmt.Sprintf("s%d", seq)
}

// publish makes the lane's state visible to operators.
func (l *lane) publish() {
	s := LaneStatus{App: l.app.ID, Name: l.name, State: "running", Ready: l.backlog.open, Parked: l.backlog.parked}
	switch {
	case l.halted():
		s.State, s.Why, s.Detail, s.Since = "halted", l.halt.reason, l.halt.detail, l.halt.since
	case l.stuck != nil:
		s.State, s.Why, s.Detail = "halted", ReasonWorkerTooOld, fmt.Sprintf("the job at sequence %d was written for a newer worker", l.stuck.Seq)
	case l.stopping:
		s.State = "stopping"
	}
	for _, f := range l.flights {
		if f != nil {
			s.Slots++
			s.InFlight += len(f.tasks)
		}
	}
	s.Backlog = l.behind + uint64(l.backlog.open)
	l.mu.Lock()
	s.Applied, s.Already, s.Dead, s.Unknown = l.status.Applied, l.status.Already, l.status.Dead, l.status.Unknown
	l.status = s
	l.mu.Unlock()
}

func (l *lane) setState(state string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.App, l.status.Name = l.app.ID, l.name
	l.status.State, l.status.Why, l.status.Detail, l.status.Since = state, l.halt.reason, l.halt.detail, l.halt.since
}

// Status is what operators see. It may be called from anywhere.
func (l *lane) Status() LaneStatus {
	l.mu.Lock()
	s := l.status
	l.mu.Unlock()
	_, s.RequestsToday = l.gate.Spent(l.app.ID)
	s.Budget = l.cfg.DailyRequests
	return s
}

func (l *lane) tell(e Event) {
	if l.observe != nil {
		e.Site, e.App = l.site, l.app.ID
		l.observe(e)
	}
}

// backOff doubles from one second to at most most, a tenth more or less; never less than what the server asked for.
func backOff(n int, most, atLeast time.Duration) time.Duration {
	d := min(time.Second<<min(n-1, 20), most)
	return max(atLeast, time.Duration(float64(d)*(0.9+0.2*rand.Float64())))
}

// sleep waits, or says why it was not to.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
