package dispatch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"statusq/internal/queue"
)

// This file is what operators ask of an owner about the requests that hang in its slots: to show them, and to end one
// of which no program can tell what became of it, by what a person has seen in kintone.

// InflightRequest is the question "inflight". Nothing at all asks the same as its zero value.
type InflightRequest struct {
	App int64 `json:"app,omitempty"` // only this app
}

// InflightStatus is the owner's answer to it.
type InflightStatus struct {
	V       int            `json:"v"`
	Site    string         `json:"site"`
	Owner   string         `json:"owner"`
	Epoch   uint64         `json:"epoch"`
	Silent  []int64        `json:"silent,omitempty"` // apps left out: their lanes had no time, do not run yet, or told too much
	Flights []FlightStatus `json:"flights"`
}

// FlightStatus is what a person needs to decide about one request.
type FlightStatus struct {
	App       int64     `json:"app"`
	Slot      int       `json:"slot"`
	Request   string    `json:"request"`
	At        time.Time `json:"at"`                  // when it was planned
	Inherited bool      `json:"inherited,omitempty"` // from another owner: nobody knows how often that one sent it

	Doing  Doing     `json:"doing"`
	Until  time.Time `json:"until,omitzero"`   // when that ends; zero = when somebody answers
	Reason string    `json:"reason,omitempty"` // why its lane stands still

	// The last answer to a copy of it that did not carry it out.
	Heard        time.Time `json:"heard,omitzero"`
	HeardReason  string    `json:"heardReason,omitempty"`
	HeardCode    string    `json:"heardCode,omitempty"`
	HeardMessage string    `json:"heardMessage,omitempty"`

	Parts []PartStatus `json:"parts"` // the first is the one at work
}

// PartStatus is one part of a request that was cut, or all of one that was not.
type PartStatus struct {
	Members []queue.Member `json:"members"`
	Sends   int            `json:"sends"`            // copies that left under this owner
	Unclear time.Time      `json:"unclear,omitzero"` // the last answer that was lost, of any copy that holds these members
	Due     time.Time      `json:"due,omitzero"`
	// GiveUp is until when a refusal by kintone does not count, because a copy may be about.
	GiveUp time.Time `json:"giveUp,omitzero"`
	// How kintone refused it last.
	Reason  string `json:"reason,omitempty"`
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}

// Doing is what goes on with a request.
type Doing string

const (
	DoingSend Doing = "sending" // a copy is at kintone, or for a minute at most at the gate
	DoingRead Doing = "reading" // its records are being read, to find out what became of it
	DoingWait Doing = "waiting" // it is sent again at a time
	DoingLook Doing = "looking" // its records are read again at a time
	DoingHalt Doing = "halted"  // its lane stands still, and probes at a time
	DoingHold Doing = "held"    // an operator looks at its records; it goes on at a time
)

// ResolveRequest is the question "inflight-resolve".
type ResolveRequest struct {
	V       int              `json:"v"`
	App     int64            `json:"app"`
	Request string           `json:"request"`
	Job     string           `json:"job,omitempty"` // only the part that holds this job
	How     queue.Resolution `json:"how"`
	By      string           `json:"by,omitempty"`
	Reason  string           `json:"reason"`
	Wait    time.Duration    `json:"wait"` // nanoseconds; how long the operator waits while a copy is out
	// Held is Until of the ResolveHeld after which the operator looked at the records; zero = nobody told him yet.
	Held time.Time `json:"held,omitzero"`
}

// ResolveAnswer is the answer to it.
type ResolveAnswer struct {
	V     int          `json:"v"`
	State ResolveState `json:"state"`
	Text  string       `json:"text,omitempty"` // why it was not done
	Until time.Time    `json:"until,omitzero"` // with ResolveHeld: until when the request is not sent again, and what to ask with
	Jobs  []string     `json:"jobs,omitempty"` // what was resolved
}

// ResolveState says what became of such a question.
type ResolveState string

const (
	ResolveDone     ResolveState = "resolved"
	ResolveBusy     ResolveState = "busy"      // a copy is out and was not answered in time; nothing was done
	ResolveEnded    ResolveState = "ended"     // it stands in no slot any more; nothing was done
	ResolveHeld     ResolveState = "held"      // it is held for a while: he may look now, and ask again
	ResolveUnserved ResolveState = "not_ready" // the app's lane has not taken over yet; nothing was done
)

// heldForLook is how long a request is not sent again, for a person to look at its records in peace. That it was run
// stays true whatever is sent; that it was not is only true of what was sent before he looked. So the latter is believed
// of a request that was held when he looked, and only of who was told so before he looked: that it is held because somebody
// else has asked says nothing about when this one looked.
const heldForLook = 10 * time.Minute

// errand is something that an operator asks of a lane. The lane's goroutine does it between two steps of its own.
type errand struct {
	resolve *ResolveRequest // nil: show the flights, unless
	begin   *queue.Change   // a change of the settings is to begin
	taken   atomic.Bool     // by the lane, which then replies; or by its asker, who has lost patience
	reply   chan errandReply
}

type errandReply struct {
	flights []FlightStatus
	answer  ResolveAnswer
	change  queue.Change
	err     error
}

var errNoTime = errors.New("the lane had no time")

// run asks a lane. The error is errNoTime if ctx ended before the lane began with it; then it never will.
func (e *errand) run(ctx context.Context, l *lane) (errandReply, error) {
	e.reply = make(chan errandReply, 1)
	select {
	case l.asked <- e:
	case <-ctx.Done():
		return errandReply{}, errNoTime
	}
	select {
	case r := <-e.reply:
		return r, r.err
	case <-ctx.Done():
		if e.taken.CompareAndSwap(false, true) {
			return errandReply{}, errNoTime
		}
		r := <-e.reply // it has begun, and says what came of it
		return r, r.err
	}
}

// mostShown is how many bytes about requests fit into one answer; NATS takes 1 MiB.
const mostShown = 800_000

// showFlights is the verb "inflight".
func (o *Owner) showFlights(ctx context.Context, question []byte) ([]byte, error) {
	var ask InflightRequest
	if len(question) > 0 {
		if err := json.Unmarshal(question, &ask); err != nil {
			return nil, fmt.Errorf("unreadable question: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	o.mu.Lock()
	s := InflightStatus{V: 1, Site: o.cfg.Site, Owner: o.cfg.Name, Epoch: o.epoch, Flights: []FlightStatus{}}
	lanes := make([]*lane, 0, len(o.lanes))
	for _, l := range o.lanes {
		if ask.App == 0 || ask.App == l.app.ID {
			lanes = append(lanes, l)
		}
	}
	o.mu.Unlock()
	replies := make([]errandReply, len(lanes))
	var wg sync.WaitGroup
	for i, l := range lanes {
		wg.Go(func() {
			var e errand
			replies[i], replies[i].err = e.run(ctx, l)
		})
	}
	wg.Wait()
	size := 0
	for i, r := range replies {
		told, err := json.Marshal(r.flights)
		if size += len(told); err != nil || r.err != nil || size > mostShown {
			size -= len(told)
			s.Silent = append(s.Silent, lanes[i].app.ID)
			continue
		}
		s.Flights = append(s.Flights, r.flights...)
	}
	slices.Sort(s.Silent)
	return json.Marshal(s)
}

// resolveFlight is the verb "inflight-resolve".
func (o *Owner) resolveFlight(ctx context.Context, request []byte) ([]byte, error) {
	var ask ResolveRequest
	switch err := json.Unmarshal(request, &ask); {
	case err != nil:
		return nil, fmt.Errorf("unreadable question: %w", err)
	case ask.V != 1:
		return nil, fmt.Errorf("the question is in version %d, this worker knows 1", ask.V)
	case !slices.Contains([]queue.Resolution{queue.ResolveApplied, queue.ResolveNotApplied, queue.ResolveRetry}, ask.How):
		return nil, fmt.Errorf("%q is no resolution", ask.How)
	case ask.Request == "" || ask.Reason == "":
		return nil, errors.New("a request and a reason are needed")
	}
	o.mu.Lock()
	l := o.lanes[ask.App]
	o.mu.Unlock()
	if l == nil {
		return json.Marshal(ResolveAnswer{V: 1, State: ResolveUnserved, Text: fmt.Sprintf("app %d has no lane", ask.App)})
	}
	switch s := l.Status(); {
	case s.State == "starting", s.State == "unserved", s.Why == ReasonWorkerTooOld:
		return json.Marshal(ResolveAnswer{V: 1, State: ResolveUnserved, Text: fmt.Sprintf("app %d is %s: %s %s", ask.App, s.State, s.Why, s.Detail)})
	}
	ctx, cancel := context.WithTimeout(ctx, ask.Wait)
	defer cancel()
	e := errand{resolve: &ask}
	r, err := e.run(ctx, l)
	switch {
	case errors.Is(err, errNoTime):
		r.answer = ResolveAnswer{State: ResolveBusy, Text: "a copy of it is out and has not been answered, or its lane waits for the ledger"}
	case err != nil:
		return nil, err
	}
	r.answer.V = 1
	return json.Marshal(r.answer)
}

// runErrands does what operators have asked for. What concerns a request of which a copy is out waits for the answer;
// nothing is sent in between, as this comes first in a turn.
func (l *lane) runErrands(now time.Time) error {
	var waiting []*errand
	for _, e := range l.errands {
		var f *flight
		if e.resolve != nil {
			if f = l.sought(e.resolve.Request); f != nil && f.phase > lookingNext {
				if !e.taken.Load() {
					waiting = append(waiting, e)
				}
				continue
			}
		}
		if !e.taken.CompareAndSwap(false, true) {
			continue
		}
		if e.begin != nil {
			c, err := l.begin(*e.begin, now)
			e.reply <- errandReply{change: c, err: err}
			if err != nil {
				return err
			}
			continue
		}
		if e.resolve == nil {
			e.reply <- errandReply{flights: l.describe(now)}
			continue
		}
		answer, err := l.settleByHand(f, *e.resolve, now)
		e.reply <- errandReply{answer: answer, err: err}
		if err != nil {
			return err
		}
	}
	l.errands = waiting
	return nil
}

func (l *lane) sought(request string) *flight {
	for _, f := range l.flights {
		if f != nil && f.id == request {
			return f
		}
	}
	return nil
}

// settleByHand ends a request, or a part of it, by what an operator has seen. No copy of it is out; whether one is still
// about that was given up, he vouches for. An error means that the site has to be given up.
func (l *lane) settleByHand(f *flight, ask ResolveRequest, now time.Time) (ResolveAnswer, error) {
	if f == nil {
		return ResolveAnswer{State: ResolveEnded, Text: "no such request is out any more: it has ended"}, nil
	}
	meant := func(p *part) bool {
		return ask.Job == "" || slices.ContainsFunc(p.members, func(m queue.Member) bool { return m.Job == ask.Job })
	}
	i := slices.IndexFunc(f.parts, meant)
	if i < 0 {
		return ResolveAnswer{State: ResolveEnded, Text: fmt.Sprintf("job %s is not in this request any more", ask.Job)}, nil
	}
	if held := f.held.After(now); ask.How != queue.ResolveApplied && !(held && f.held.Equal(ask.Held)) {
		if !held {
			f.held = now.Add(heldForLook)
			l.tell(Event{Kind: EventOperator, Request: f.id, Until: f.held, Detail: "held, for " + queue.Signed(ask.By, ask.Reason)})
		}
		return ResolveAnswer{State: ResolveHeld, Until: f.held, Text: "it may have been sent since you looked at its records"}, nil
	}

	outcome, reason := ask.How.Ending()
	note := &queue.Audit{Verb: "inflight resolve --" + string(ask.How), By: ask.By, Reason: ask.Reason, Request: f.id}
	var (
		verdicts []verdict
		rest     []*part
	)
	for _, p := range f.parts {
		if !meant(p) {
			rest = append(rest, p)
			continue
		}
		unsettled := queue.Attempt{At: p.doubt.UTC(), Request: f.id, Reason: f.heard.reason, Code: f.heard.code,
			Message: fmt.Sprintf("sent %d times by this owner without finding out what became of it; last answer: %s", p.sends, cmp.Or(f.heard.message, "none"))}
		for _, m := range p.members {
			if t := f.tasks[m.Record]; !p.doubt.IsZero() {
				t.attempts = append(slices.Clip(t.attempts), unsettled)
			}
			v := verdict{task: f.tasks[m.Record], outcome: outcome, reason: reason, message: queue.Signed(ask.By, ask.Reason), request: f.id, resolved: true}
			if ask.How == queue.ResolveRetry {
				// By way of the ledger, so that its history tells of it.
				if v.attempt, v.due = true, now; v.task.gutted {
					v.outcome, v.reason, v.resolved = queue.Dead, ReasonRefused, false
					v.message = "the action was not run, and the job itself is gone from the log"
				}
			}
			verdicts = append(verdicts, v)
			note.Jobs = append(note.Jobs, m.Job)
			delete(f.tasks, m.Record)
		}
	}
	note.N = len(note.Jobs)
	f.parts = rest
	set := l.settlement(f.id, verdicts)
	set.Audit = note
	var left *queue.Request
	if len(rest) > 0 {
		left = f.request()
	}
	if err := l.write(f.n, left, set); err != nil {
		return ResolveAnswer{}, err
	}
	if left == nil {
		l.flights[f.n] = nil
	} else {
		f.carryOn()
	}
	l.done(verdicts)
	l.tell(Event{Kind: EventOperator, Request: f.id, Reason: reason, Detail: fmt.Sprintf("%s, %d jobs, by %s", ask.How, note.N, queue.Signed(ask.By, ask.Reason))})
	return ResolveAnswer{State: ResolveDone, Jobs: note.Jobs}, nil
}

// describe is what is known of the lane's requests.
func (l *lane) describe(now time.Time) []FlightStatus {
	var out []FlightStatus
	for _, f := range l.flights {
		if f != nil {
			out = append(out, l.describeFlight(f, now))
		}
	}
	return out
}

func (l *lane) describeFlight(f *flight, now time.Time) FlightStatus {
	s := FlightStatus{App: l.app.ID, Slot: f.n, Request: f.id, At: f.at, Inherited: f.inherited,
		Heard: f.heardAt, HeardReason: f.heard.reason, HeardCode: f.heard.code, HeardMessage: f.heard.message}
	switch f.phase {
	case sending:
		s.Doing = DoingSend
	case investigating:
		s.Doing = DoingRead
	case lookingNext:
		s.Doing = DoingLook
		s.Until, _ = f.rests(now)
	default:
		s.Doing = DoingWait
		s.Until, _ = f.rests(now)
	}
	switch {
	case f.phase > lookingNext:
	case f.held.After(now):
		s.Doing = DoingHold
	case l.halted():
		s.Doing, s.Until, s.Reason = DoingHalt, l.halt.until, l.halt.reason
	}
	for _, p := range f.parts {
		ps := PartStatus{Members: p.members, Sends: p.sends, Unclear: p.doubt, Due: p.due,
			Reason: p.last.reason, Code: p.last.code, Message: p.last.message}
		if p.last.charge == chargeJobs && !p.doubt.IsZero() {
			ps.GiveUp = p.doubt.Add(l.cfg.LateWindow)
		}
		s.Parts = append(s.Parts, ps)
	}
	return s
}
