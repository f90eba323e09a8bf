package kintone

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// ErrGateClosed is what Enter returns once the gate has been closed.
var ErrGateClosed = errors.New("gate closed")

// GateConfig says what a gate lets through. Its zero value is usable.
type GateConfig struct {
	// RequestsPerSecond is the rate of the whole site; 0 means 10. A second's worth may leave at once.
	RequestsPerSecond float64
	// Concurrency is the most requests out at a time; 0 means 10, and 80 is the most. kintone admits 100 per domain,
	// shared with everybody (docs/kintone.md 1.2).
	Concurrency int
	// OnChange is told of every change of what Why, Until, Breaker, Halted, Closed and Limit say, in order, one at a
	// time and under no lock. A caller of the gate or its timer runs it, so it should return soon. It may be nil.
	OnChange func(GateState)
}

// Gate is what all requests to one site pass. It makes callers wait and never fails a job: a caller gets a permit in
// the end, unless its own context ends or the gate is closed.
//
// A caller goes when, in this order, nobody has halted the site, the breaker does not hold, a place among the
// concurrent requests is free, its app's daily budget and the site's rate have a token, and the breaker allows it. All
// of that is taken in one step or not at all, by dispatch, so nobody ever waits with a half-taken permit in hand:
// neither the one probe of a breaker that is half-open, nor a token that another app could use.
//
// Apps take turns; within an app it is first come, first served, except that a request which resolves another passes
// those for which there is no budget left. The gate has no goroutine of its own, only a timer for
// when to look again.
type Gate struct {
	rate     *rate.Limiter // of the site
	onChange func(GateState)

	// mu guards everything below, the permits that wait or are out, and the order of calls into the two libraries. It
	// is never held while waiting, nor while onChange runs.
	mu      sync.Mutex
	closed  bool
	halted  string // why, "" when not
	breaker *breaker
	flow    flow
	lines   map[int64]*line
	turns   []*line // the lines in which somebody waits; the first goes next
	timer   *time.Timer

	told    face        // what onChange heard last
	news    []GateState // what it has yet to hear
	telling bool        // somebody is at it
}

// line is one app at the gate.
type line struct {
	app     int64
	waiting []*Permit // first come, first served
	budget  budget
}

// Permit allows one request. Whoever has it calls Leave when the request is over.
type Permit struct {
	gate      *Gate
	line      *line
	resolving bool // may spend the reserve of the budget

	// Owned by the gate, under its mu.
	ready   chan struct{} // closed with granted or err; nil if there was no wait
	granted bool
	err     error
	left    bool
	day     time.Time // the day whose budget paid

	// Owned by the breaker.
	done       func(error) // gobreaker's second step
	generation uint64      // of the breaker when it allowed this request
	probe      bool        // allowed to find out whether the site is back
}

// Answer is what became of a request.
type Answer struct {
	Err *Error // nil: done
	// Running and Limit are X-ConcurrencyLimit-Running and -Limit, which kintone sends with every answer
	// (docs/kintone.md 1.2); Limit 0 when absent.
	Running, Limit int
}

// NewGate returns an open gate. It needs Close only to send waiting callers away.
func NewGate(cfg GateConfig) *Gate {
	perSecond := cfg.RequestsPerSecond
	if !(perSecond > 0) { // not even NaN
		perSecond = 10
	}
	perSecond = min(perSecond, math.MaxFloat64) // which is rate.Inf
	most := min(cmp.Or(max(cfg.Concurrency, 0), 10), 80)
	return &Gate{
		// With a burst below 1 there would never be a whole token.
		rate:     rate.NewLimiter(rate.Limit(perSecond), int(min(max(math.Ceil(perSecond), 1), 100))),
		onChange: cfg.OnChange,
		breaker:  newBreaker(),
		flow:     flow{most: float64(most), limit: float64(most)},
		lines:    make(map[int64]*line),
		told:     face{breaker: BreakerClosed, limit: most},
	}
}

// Enter waits until a request to app may leave. It ends with a permit, with the end of ctx (the error wraps its cause)
// or with ErrGateClosed.
func (g *Gate) Enter(ctx context.Context, app int64) (*Permit, error) {
	return g.enter(ctx, app, false)
}

// EnterResolving is Enter for a request that finds out what became of another. It may spend the reserve of the app's
// budget.
func (g *Gate) EnterResolving(ctx context.Context, app int64) (*Permit, error) {
	return g.enter(ctx, app, true)
}

func (g *Gate) enter(ctx context.Context, app int64, resolving bool) (*Permit, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("wait at the gate: %w", context.Cause(ctx))
	}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return nil, ErrGateClosed
	}
	l := g.line(app)
	p := &Permit{gate: g, line: l, resolving: resolving}
	if l.waiting = append(l.waiting, p); len(l.waiting) == 1 {
		g.turns = append(g.turns, l)
	}
	g.dispatch(time.Now())
	if p.granted {
		g.unlock()
		return p, nil
	}
	p.ready = make(chan struct{})
	g.unlock()

	select {
	case <-p.ready:
		if p.err != nil {
			return nil, p.err
		}
		return p, nil
	case <-ctx.Done():
		g.withdraw(p)
		return nil, fmt.Errorf("wait at the gate: %w", context.Cause(ctx))
	}
}

// Leave says what became of the request. It belongs to every permit once, however late; a second call does nothing. A
// request that never left gives its part of the daily budget back.
func (p *Permit) Leave(a Answer) {
	g := p.gate
	g.mu.Lock()
	if p.left {
		g.mu.Unlock()
		return
	}
	p.left = true
	now := time.Now()
	g.flow.inUse--
	if a.Err != nil && a.Err.NotSent {
		p.line.budget.giveBack(p.day, now)
	}
	v := g.breaker.weigh(p.line.app, a.Err, now)
	g.flow.learn(v, a, now)
	if g.breaker.report(p, v, a.Err, now) {
		g.flow.restart()
	}
	g.dispatch(now)
	g.unlock()
}

// SetBudget sets the daily budget of an app. spentToday is what is known to have left since 00:00 UTC, before this gate
// was made for example; the gate believes the larger of that and its own count.
func (g *Gate) SetBudget(app int64, b Budget, spentToday int) {
	g.mu.Lock()
	now := time.Now()
	g.line(app).budget.set(b, spentToday, now)
	g.dispatch(now)
	g.unlock()
}

// Budget returns how the budget of an app stands.
func (g *Gate) Budget(app int64) AppBudget {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if l := g.lines[app]; l != nil {
		return l.state(now)
	}
	return (&budget{}).state(app, now)
}

// Spent returns the day, such as "2026-11-22", and how many requests to app have left in it. kintone's day turns at
// 00:00 UTC, which is 09:00 in Japan (docs/kintone.md 1.2).
func (g *Gate) Spent(app int64) (day string, requests int) {
	b := g.Budget(app)
	return b.Day.Format(time.DateOnly), b.Spent
}

// Halt makes everybody wait until Resume: for what a probe would only make worse, such as a refused password (CB_WA01,
// 401). Requests that are out go on.
func (g *Gate) Halt(reason string) {
	g.mu.Lock()
	g.halted = cmp.Or(reason, "halted")
	g.dispatch(time.Now())
	g.unlock()
}

// Resume ends Halt. What the breaker holds stays held. One request goes first, as after a Halt it may be a password that
// is tried: many wrong ones at a time could lock the login.
func (g *Gate) Resume() {
	g.mu.Lock()
	now := time.Now()
	if g.halted != "" && g.breaker.shown(now) == BreakerClosed {
		g.flow.limit = 1
	}
	g.halted = ""
	g.dispatch(now)
	g.unlock()
}

// Close sends everybody who waits, and everybody who comes, away with ErrGateClosed. Requests that are out go on, and
// Leave as ever.
func (g *Gate) Close() {
	g.mu.Lock()
	g.closed = true
	for _, l := range g.turns {
		for _, p := range l.waiting {
			p.err = ErrGateClosed
			close(p.ready)
		}
		l.waiting = nil
	}
	g.turns = nil
	g.dispatch(time.Now())
	g.unlock()
}

// GateState is a gate as an operator sees it.
type GateState struct {
	Breaker BreakerState
	Halted  bool
	Closed  bool
	// Why says why nobody may go, or only a probe: the reason of the halt, the failure that opened the breaker, the
	// pause after a 429. Empty when the gate is open; a lack of tokens or places does not count.
	Why string
	// Until is the earliest end of that; zero when it has no known end.
	Until time.Time
	// Limit is how many requests may be out at a time now, InUse how many are, Waiting how many callers wait.
	Limit, InUse, Waiting int
	RequestsPerSecond     float64
	Apps                  []AppBudget // by id
}

// State returns how the gate stands.
func (g *Gate) State() GateState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state(time.Now())
}

// dispatch lets everybody go who may go now, and sets the timer for when to look again. Every change of the gate ends
// with it. Requires mu.
func (g *Gate) dispatch(now time.Time) {
	var wait time.Duration
	for wait == 0 {
		wait = g.admit(now)
	}
	switch {
	case wait == forever && g.timer == nil:
	case wait == forever:
		g.timer.Stop()
	case g.timer == nil:
		g.timer = time.AfterFunc(min(wait, longestSleep), g.look)
	default:
		g.timer.Reset(min(wait, longestSleep))
	}
}

const (
	// forever is how long to wait for what no timer brings, only another call.
	forever = time.Duration(math.MaxInt64)
	// A timer follows the monotonic clock and the day the wall clock; a host that slept must not wait for the old
	// midnight.
	longestSleep = time.Minute
)

// admit lets the next caller go and returns 0, or returns how long nobody may. Requires mu.
func (g *Gate) admit(now time.Time) time.Duration {
	if g.halted != "" || len(g.turns) == 0 {
		return forever
	}
	if wait := g.breaker.wait(now); wait > 0 {
		return wait
	}
	if wait := g.flow.wait(now); wait > 0 {
		return wait
	}
	wait := forever
	for i, l := range g.turns {
		// An app without budget keeps its turn and stands in nobody's way.
		first, short := l.first(now)
		if short > 0 {
			wait = min(wait, short)
			continue
		}
		p := l.waiting[first]
		if short := take(g.rate, now); short > 0 {
			return short
		}
		if !g.breaker.allow(p) {
			// The two disagree only if a clock did; look again.
			giveBack(g.rate, now)
			return openFirst
		}
		l.budget.take()
		p.day = l.budget.day
		g.flow.inUse++
		g.turns = slices.Delete(g.turns, i, i+1)
		if l.waiting = slices.Delete(l.waiting, first, first+1); len(l.waiting) > 0 {
			g.turns = append(g.turns, l)
		}
		p.granted = true
		if p.ready != nil {
			close(p.ready)
		}
		return 0
	}
	return wait
}

// look is the timer's: something was to become possible about now.
func (g *Gate) look() {
	g.mu.Lock()
	g.dispatch(time.Now())
	g.unlock()
}

// withdraw takes a caller out whose context has ended. The permit may have come in that very moment; then everything
// that it took goes back, as if it had not.
func (g *Gate) withdraw(p *Permit) {
	g.mu.Lock()
	now := time.Now()
	l := p.line
	switch i := slices.Index(l.waiting, p); {
	case p.granted:
		p.left = true
		l.budget.giveBack(p.day, now)
		giveBack(g.rate, now)
		g.flow.inUse--
		g.breaker.release(p)
	case i >= 0:
		if l.waiting = slices.Delete(l.waiting, i, i+1); len(l.waiting) == 0 {
			i := slices.Index(g.turns, l)
			g.turns = slices.Delete(g.turns, i, i+1)
		}
	}
	g.dispatch(now)
	g.unlock()
}

// first returns which of those who wait in the line goes next as far as the budget is concerned, or how long none may.
func (l *line) first(now time.Time) (i int, wait time.Duration) {
	if wait = l.budget.wait(now, l.waiting[0].resolving); wait == 0 {
		return 0, 0
	}
	// Nothing is left but the reserve, or nothing at all.
	if i := slices.IndexFunc(l.waiting, func(p *Permit) bool { return p.resolving }); i >= 0 {
		return i, l.budget.wait(now, true)
	}
	return 0, wait
}

func (l *line) state(now time.Time) AppBudget {
	s := l.budget.state(l.app, now)
	s.Waiting = len(l.waiting)
	return s
}

// line returns an app's line, a new one for a new app. Requires mu.
func (g *Gate) line(app int64) *line {
	l := g.lines[app]
	if l == nil {
		l = &line{app: app}
		g.lines[app] = l
	}
	return l
}

// unlock unlocks mu and tells onChange what is new. Only one goroutine tells at a time, so that news come in order;
// onChange may call the gate.
func (g *Gate) unlock() {
	if g.onChange != nil {
		now := time.Now()
		if f := g.face(now); f != g.told {
			g.told = f
			g.news = append(g.news, g.state(now))
		}
	}
	for !g.telling && len(g.news) > 0 {
		s := g.news[0]
		g.news = slices.Delete(g.news, 0, 1)
		g.telling = true
		g.mu.Unlock()
		g.onChange(s)
		g.mu.Lock()
		g.telling = false
	}
	g.mu.Unlock()
}

// face is the part of a GateState whose change is news.
type face struct {
	breaker        BreakerState
	halted, closed bool
	why            string
	until          time.Time
	limit          int
}

// face requires mu.
func (g *Gate) face(now time.Time) face {
	f := face{
		breaker: g.breaker.shown(now),
		halted:  g.halted != "",
		closed:  g.closed,
		limit:   int(g.flow.limit),
	}
	switch {
	case f.closed:
		f.why = ErrGateClosed.Error()
	case f.halted:
		f.why = g.halted
	case f.breaker == BreakerOpen:
		f.why, f.until = g.breaker.why, g.breaker.until
	case f.breaker == BreakerHalfOpen:
		f.why = g.breaker.why
	case g.flow.pausedUntil.After(now):
		f.why, f.until = "too many requests at a time (429)", g.flow.pausedUntil
	}
	return f
}

// state requires mu.
func (g *Gate) state(now time.Time) GateState {
	f := g.face(now)
	s := GateState{
		Breaker:           f.breaker,
		Halted:            f.halted,
		Closed:            f.closed,
		Why:               f.why,
		Until:             f.until,
		Limit:             f.limit,
		InUse:             g.flow.inUse,
		RequestsPerSecond: float64(g.rate.Limit()),
		Apps:              make([]AppBudget, 0, len(g.lines)),
	}
	for _, app := range slices.Sorted(maps.Keys(g.lines)) {
		b := g.lines[app].state(now)
		s.Apps = append(s.Apps, b)
		s.Waiting += b.Waiting
	}
	return s
}

// flow is how many requests may be out at a time: one more for every round of answers, half as many after a 429.
// kintone counts the requests of a domain and refuses the one too many, so its refusals steer and latency does not.
// Guarded by the gate's mu.
type flow struct {
	most, limit float64 // 1 <= limit <= most
	inUse       int     // permits that are out
	halved      time.Time
	pausedUntil time.Time // after a 429 nobody goes before
}

// Near its limit kintone's users are served before us: Cybozu's own sample backs off at 20 below (docs/kintone.md 1.2).
const headroom = 20

// wait returns 0 when one more may go.
func (f *flow) wait(now time.Time) time.Duration {
	if pause := f.pausedUntil.Sub(now); pause > 0 {
		return pause
	}
	if f.inUse >= int(f.limit) {
		return forever
	}
	return 0
}

// learn draws the conclusions of one answer.
func (f *flow) learn(v verdict, a Answer, now time.Time) {
	switch {
	case v == throttled:
		pause := spread(time.Second)
		if a.Err.RetryAfter > 0 {
			pause = obey(a.Err.RetryAfter)
		}
		if end := now.Add(pause); end.After(f.pausedUntil) {
			f.pausedUntil = end
		}
		// All requests that were out are refused for one and the same reason.
		if now.Sub(f.halved) >= time.Second {
			f.halved = now
			f.limit = max(f.limit/2, 1)
		}
	case a.Limit > 0 && a.Running >= a.Limit-headroom:
		f.limit = max(f.limit-1, 1)
	case v == answered:
		f.limit = min(f.limit+1/f.limit, f.most)
	}
}

// restart begins small again after an outage: the others come back as well.
func (f *flow) restart() { f.limit = min(2, f.most) }

// spread returns d, up to a fifth longer or shorter, so that those who were stopped together do not come back together.
func spread(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.4*float64(d))
}

// retryAfterMost bounds what a server may ask for.
const retryAfterMost = time.Hour

// obey returns the wait for a Retry-After: up to a fifth longer, never shorter, an hour at most.
func obey(retryAfter time.Duration) time.Duration {
	d := min(retryAfter, retryAfterMost)
	return min(d+time.Duration(rand.Float64()*0.2*float64(d)), retryAfterMost)
}

// take takes a token of l and returns 0, or returns how long there is none. It leaves no reservation behind: whoever
// waits holds nothing, so that a waiter can go away at any time.
func take(l *rate.Limiter, now time.Time) time.Duration {
	r := l.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// giveBack returns a token that was taken. Reservation.Cancel would do nothing, as the time of the reservation has come;
// reserving minus one does.
func giveBack(l *rate.Limiter, now time.Time) { l.ReserveN(now, -1) }
