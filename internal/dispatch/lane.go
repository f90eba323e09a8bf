package dispatch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"statusq/internal/failpoint"
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
	// longestLook bounds the questions of one read for inspection.
	longestLook = 5 * time.Minute
	// freshSettings is how old the process settings may be when a job dies of them.
	freshSettings = time.Minute
	// knownBad is how long a user that kintone did not know is not tried again.
	knownBad = 10 * time.Minute
	// purgeEvery jobs, or as soon as the lane is idle, the log is cut at the low-water mark.
	purgeEvery = 2000
	// patience is how long a batch waits for jobs that the log is said to hold.
	patience = time.Second
	// stuckEvery is how often it is looked whether an unreadable entry is still in the log.
	stuckEvery = 15 * time.Second
	// mostUnnoted is how many requests of the day may be unknown to the ledger.
	mostUnnoted = 20
	// gather is how long the ends of jobs that are never sent wait for company.
	gather = 20 * time.Millisecond
)

// A lane serves one app. One goroutine, in run, owns all its state; requests run beside it and answer on a channel.
type lane struct {
	// Set once, by Owner.newLane.
	site      string
	app       kintone.App
	cfg       AppConfig
	us        string // the login name that our actions are expected to leave
	epoch     uint64
	owner     string
	client    *kintone.Client
	gate      *kintone.Gate
	queue     *queue.Queue
	observe   func(Event)
	answers   chan answer
	asked     chan *errand
	resumed   chan struct{} // somebody has resumed the site: what waits is to try at once
	broken    chan error    // a reader has ended although nobody asked it to
	poked     chan struct{} // a campaign has ended
	campaigns *campaigns
	wg        sync.WaitGroup // requests and readers; run waits for all of them

	// Everything from here to mu is owned by run.
	work   context.Context // ends when everything has to stop at once
	ledger *queue.Ledger

	// What is known of the app.
	name    string
	process *kintone.Process
	fields  kintone.Fields
	readAt  time.Time // when process was read
	tongues tongues
	suspect bool // kintone has refused what process allows: it is read again
	step    int  // the smallest by which an action of ours ever raised a revision here
	// stepLost says that step was learned and could not be stored: the next action like it stores it.
	stepLost bool
	mark     mark
	// Users that kintone did not know, and until when they are not tried again.
	badUsers map[string]time.Time

	// The log.
	last     uint64 // sequence of the last entry taken
	behind   uint64 // entries behind it when it was taken, at takenAt
	takenAt  time.Time
	stuck    *queue.Entry // of a newer version: nothing behind it is taken; looked for last at stuckAt
	stuckAt  time.Time
	purged   uint64 // everything below is gone
	noted    int    // requests of the day notedDay that the ledger knows of
	notedDay string
	before   int // requests that the gate had counted when the lane began
	settled  int // jobs that were decided, or found decided, since the last purge

	// Jobs that are known already. The same id never acts twice.
	known ids    // of all that ended, wait or are under way
	low   uint64 // the log held nothing below it at the start
	// The last place in the log of a job that was parked at the start. Up to there the log may hold jobs that come first;
	// whether it does was asked last at askedAt.
	parkedTo uint64
	askedAt  time.Time
	ended    map[uint64]struct{} // sequences from low on, decided before the start and not to be taken from the log
	pruned   bool                // ended holds nothing below the first entry that was taken

	// Jobs on their way.
	backlog  *backlog
	flights  [queue.Slots]*flight
	verdicts []verdict // of jobs that are not in a slot, to be written; the oldest was reached at decided
	decided  time.Time

	// Requests that are out.
	out       int       // status requests and the reads that prove what became of them, at kintone or at the gate
	reading   bool      // a read for inspection
	lookAfter time.Time // no read for inspection before, because so many (looks) failed in a row
	looks     int
	leftAt    time.Time      // when the last new request was planned
	pool      int            // keys that go into one question, fewer after one that failed
	touched   map[int64]bool // records whose requests ended since the read for inspection began

	// How it goes.
	halt     halt
	probes   int       // where the next probe looks first
	passedAt time.Time // when kintone last did for this app what it was asked to
	streak   int       // jobs in a row that ended by a refusal nobody can explain
	stopping bool
	broke    time.Time // since when the budget of the day is spent; zero = it is not
	warned   time.Time // the day for which it was said that it is, and that the lane goes on
	errands  []*errand // of operators, not done yet
	change   changing  // of the app's settings, that somebody wants
	swept    bool      // the jobs of campaigns that have ended are

	mu     sync.Mutex // guards status
	status LaneStatus
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
	notes     map[int64]finding        // of one that was carried out: what there is to say about members, by record
	inquiry   *inquiry                 // of a read that understands one
	look      *look                    // of a read for inspection
	change    *changeAnswer            // of a question or a request of a change of the settings
	err       error
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
	_, l.before = l.gate.Spent(l.app.ID)
	if err := l.confirm(either); err != nil {
		if work.Err() == nil {
			return nil // stopped before it began
		}
		return err
	}
	entries, retried, err := l.open(work)
	for errors.Is(err, queue.ErrLedgerFull) && !errors.Is(err, queue.ErrUnclear) && either.Err() == nil {
		// As later on: it waits for room, and says so.
		l.stop(ReasonLedgerFull, err.Error(), 5*time.Second)
		l.setState("halted")
		if sleep(either, 5*time.Second) == nil {
			entries, retried, err = l.open(work)
		}
	}
	if errors.Is(err, queue.ErrLedgerFull) && work.Err() == nil && either.Err() != nil {
		return nil // stopped before it began
	}
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
	if l.halt.reason == ReasonLedgerFull {
		l.halt = halt{}
		l.tell(Event{Kind: EventResumed})
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
			failpoint.Hit("log.taken")
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
			failpoint.Hit("retried.adopted")
		case e := <-l.asked:
			l.errands = append(l.errands, e)
		case err := <-l.broken:
			return fmt.Errorf("app %d: %w", l.app.ID, err)
		case <-l.resumed:
			l.retry()
		case <-l.poked:
			l.swept = false
		case <-timer.C:
		case <-stopped:
			l.stopping = true
			failpoint.Hit("lane.stopping")
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
		if l.renewed(j) {
			continue
		}
		if j.charge == chargeLogin {
			l.haltSite(j)
		}
		if l.halt.reason != j.reason {
			l.halt = halt{reason: j.reason, detail: j.message, since: time.Now()}
			l.tell(Event{Kind: EventUnserved, Reason: j.reason, Detail: j.message})
		}
		l.setState("unserved")
		if err := l.rest(ctx, backOff(n, 5*time.Minute, 0)); err != nil {
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
	// No answer is not "nothing learned": the step decides what counts as proof, and would be written over below.
	var facts queue.Facts
	err = l.insist(ctx, func() (err error) { facts, err = l.queue.Facts(ctx, l.site, l.app.ID); return err })
	if err != nil && !errors.Is(err, queue.ErrGone) {
		return err
	}
	l.step = revisionStep
	if facts.Step > 0 {
		l.step = facts.Step
	}
	if facts.AppName != "" {
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

// turn does whatever can be done without waiting for anybody but the ledger.
func (l *lane) turn(stop context.Context) error {
	now := time.Now()
	if stop.Err() != nil {
		l.stopping = true
	}
	if err := l.runErrands(now); err != nil {
		return err
	}
	if !l.swept {
		l.sweep()
	}
	if len(l.verdicts) >= mostVerdicts || len(l.verdicts) > 0 && (l.behind == 0 || l.stopping || now.Sub(l.decided) >= gather) {
		if err := l.flush(); err != nil {
			return err
		}
	}
	if !l.stopping {
		l.unstick(now)
		l.catchUp(now)
		if err := l.wakeDue(now); err != nil {
			return err
		}
		hold, err := l.runChange(now)
		if err != nil {
			return err
		}
		switch {
		case l.halted():
			if !hold || l.aloft() {
				l.probe(now)
			}
		default:
			for _, f := range l.flights {
				l.goOn(f, now)
			}
			if broke := l.weighBudget(now); hold || broke {
				break // nothing new under settings that are about to change, or without a request to spend
			}
			l.inspect()
			if err := l.launch(now); err != nil {
				return err
			}
			l.inspect() // what was looked at too long ago has to be looked at again
		}
	}
	l.cutLog(false)
	return l.noteSpent(mostUnnoted)
}

// noteSpent writes down how many requests the day has cost if more than so many are not in the ledger: reads write no slot
// of their own.
func (l *lane) noteSpent(unnoted int) error {
	if day, spent := l.gate.Spent(l.app.ID); day != l.notedDay && spent <= unnoted || day == l.notedDay && spent-l.noted <= unnoted {
		return nil
	}
	return l.settle(fence, nil, "", nil)
}

// unstick goes on when somebody has taken the entry that nobody here can read out of the log.
func (l *lane) unstick(now time.Time) {
	if l.stuck == nil || now.Sub(l.stuckAt) < stuckEvery {
		return
	}
	l.stuckAt = now
	if _, err := l.queue.LogEntry(l.work, l.stuck.Seq); errors.Is(err, queue.ErrGone) {
		l.last, l.stuck = l.stuck.Seq, nil
		l.tell(Event{Kind: EventResumed})
	}
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
		sooner(l.changeDue())
		if l.stuck != nil {
			sooner(l.stuckAt.Add(stuckEvery))
		}
		if len(l.backlog.ahead) > 0 {
			sooner(l.askedAt.Add(patience))
		}
		if len(l.backlog.toRead)+len(l.backlog.toFind) > 0 {
			future(l.lookAfter)
		}
		if l.behind > 0 {
			future(l.takenAt.Add(patience))
		}
		if !l.broke.IsZero() {
			sooner(l.gate.Budget(l.app.ID).Day.Add(24 * time.Hour))
		} else if l.backlog.ready()+l.backlog.readable()+len(l.backlog.toFind) > 0 {
			future(l.leftAt.Add(stretch(l.gate.Budget(l.app.ID), now)))
		}
		if l.halted() {
			if !l.halt.probing && l.out == 0 && !l.reading && (!l.change.on() || l.aloft()) {
				sooner(l.halt.until)
			}
		} else {
			for _, f := range l.flights {
				if f != nil && f.phase <= lookingNext && l.out < l.cfg.Inflight {
					until, _ := f.rests(now)
					sooner(until)
				}
			}
		}
	}
	return max(0, next.Sub(now))
}

// take looks at one job of the log: what is already decided about it, whether it can be understood, who is before it.
func (l *lane) take(e queue.Entry) {
	l.last, l.behind, l.takenAt = e.Seq, e.Pending, time.Now()
	defer l.caughtUp()
	l.forget(e.Seq)
	if e.Seq < l.low {
		return // purged: a replica that lags still has it
	}
	if _, done := l.ended[e.Seq]; done {
		if delete(l.ended, e.Seq); len(l.ended) == 0 {
			l.ended = nil // it may have been large
		}
		l.settled++ // by an owner that did not live to cut the log
		return
	}
	t := &task{seq: e.Seq, state: stateDeciding, inLog: true}
	j, err := queue.DecodeJob(e.Data, l.site, l.app.ID)
	switch {
	case errors.Is(err, queue.ErrNewerVersion):
		// It may be worth more than we understand: it waits, and everything behind it, until a newer worker reads it.
		l.stuck, l.stuckAt = &e, time.Now()
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
	t.id, t.job = name(j, e.Seq), &j
	if record, used := l.known.usedFor(j.ID); used {
		// Its end needs no turn: nothing is done for it.
		l.backlog.add(t)
		if record == j.Record || j.Record == 0 || record == 0 { // a key names what was not known then, or is not known now
			v := verdict{task: t, outcome: queue.Duplicate}
			if l.backlog.underWay(j, record) {
				v.reason = ReasonUnderWay
			}
			l.decide(v)
			return
		}
		// Another job under the same name. Its letter is named by its place, not to take the place of the other's.
		v := verdict{task: t, outcome: queue.Dead, reason: ReasonIDReused,
			message: fmt.Sprintf("the id %q was used before, for record %d: give every job an id of its own", j.ID, record)}
		j.ID = name(queue.Job{}, e.Seq)
		l.decide(v)
		return
	}
	l.known.remember(j.ID, j.Record)
	t.record, j.ID = l.backlog.lineOf(j), t.id
	now := time.Now()
	switch {
	case l.over(t) != "":
		l.backlog.add(t)
		l.decide(cancelled(t, l.over(t)))
	case l.backlog.behindParked(t.record):
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

// caughtUp lets those parked jobs come whose place in line the reading of the log has passed.
func (l *lane) caughtUp() {
	to := l.last
	if to >= l.parkedTo {
		to = math.MaxUint64 // what comes now is later than all that was parked at the start
	}
	l.backlog.read(to)
}

// catchUp asks whether the log holds anything at all that might come before what was parked at the start. That nothing
// comes for a while tells nothing: a consumer may be slow, and its server lag behind.
func (l *lane) catchUp(now time.Time) {
	if len(l.backlog.ahead) == 0 || now.Sub(l.askedAt) < patience {
		return
	}
	l.askedAt = now
	if more, err := l.queue.LogHolds(l.work, l.site, l.app.ID, l.last+1, l.parkedTo); err == nil && !more {
		l.backlog.read(math.MaxUint64)
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
	l.known.remember(p.Job.ID, p.Job.Record)
	line := l.backlog.lineOf(p.Job)
	l.backlog.add(&task{seq: p.Seq, id: name(p.Job, p.Seq), record: line, state: stateParked, parked: p.At, home: p.Job.Record, due: p.Due, campaign: p.Job.Campaign})
	l.strand(line)
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
		default:
			l.backlog.wake(t, p)
			switch {
			case l.over(t) != "":
				l.decide(cancelled(t, l.over(t)))
			case p.Job.NotBefore.After(now): // it came early
				l.decide(verdict{task: t, reason: ReasonNotBefore, due: p.Job.NotBefore})
			}
		}
	}
	return nil
}

// close ends a lane that has nothing out any more.
func (l *lane) close(ctx context.Context) error {
	if err := l.flush(); err != nil {
		return err
	}
	if err := l.noteSpent(0); err != nil {
		return err
	}
	l.cutLog(true)
	l.setState("stopped")
	return nil
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
	case !l.broke.IsZero():
		s.State, s.Why, s.Detail, s.Since = "halted", ReasonBudgetSpent, "until 00:00 UTC", l.broke
	case l.change.on():
		s.State, s.Why, s.Detail, s.Since = "changing", ReasonSettingsChange, string(l.change.c.Stage), l.change.c.Since
	case l.paced(time.Now()) && l.backlog.ready()+l.backlog.readable()+len(l.backlog.toFind) > 0:
		s.Why, s.Until = ReasonBudgetPaced, l.leftAt.Add(stretch(l.gate.Budget(l.app.ID), time.Now()))
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
	l.cfg.describe(&s, l.gate.Budget(l.app.ID), time.Now())
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
