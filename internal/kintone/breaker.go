package kintone

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/sony/gobreaker/v2"
)

// BreakerState is the state of a site's circuit breaker.
type BreakerState string

// The states: requests go; nobody goes until the hold is over; one request at a time goes to find out.
const (
	BreakerClosed   BreakerState = "closed"
	BreakerOpen     BreakerState = "open"
	BreakerHalfOpen BreakerState = "half-open"
)

// What opens the breaker and how long it holds.
const (
	failuresInARow = 3
	failuresLeast  = 10 // counted answers in the window before their ratio matters
	// The window must be longer than any request takes: gobreaker drops the result of a request that began before it.
	breakerWindow = 5 * time.Minute
	breakerBucket = 30 * time.Second
	openFirst     = time.Second
	openMost      = time.Minute
	// Two apps with kintone's own 5xx this close together are the site's matter.
	faultsTogether = 30 * time.Second
)

// breaker is gobreaker's state machine with what it lacks: an open time that grows and obeys Retry-After. gobreaker
// counts and decides when to open and to close; this type decides when to ask it again.
//
// Guarded by the gate's mu, which is also held around every call into gobreaker. gobreaker runs the callbacks under its
// own lock: they touch the fields here and call nothing.
type breaker struct {
	cb         *gobreaker.TwoStepCircuitBreaker[any]
	state      gobreaker.State // as OnStateChange told it
	generation uint64          // counts changes of state
	asked      bool            // read by ReadyToTrip: the site itself asked for a pause

	probing bool      // the one probe is out
	until   time.Time // unless closed: no probe before
	opened  int       // times in a row without a success
	why     string    // the failure that opened it

	faults map[int64]time.Time // last 5xx of kintone's own per app, since the last success
}

func newBreaker() *breaker {
	b := &breaker{faults: make(map[int64]time.Time)}
	b.cb = gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		MaxRequests:  1,
		Interval:     breakerWindow, // at 0 nothing would ever be forgotten
		BucketPeriod: breakerBucket,
		Timeout:      time.Nanosecond, // fixed, so out of the way: until counts
		ReadyToTrip: func(c gobreaker.Counts) bool {
			counted := c.TotalSuccesses + c.TotalFailures
			return b.asked ||
				c.ConsecutiveFailures >= failuresInARow ||
				counted >= failuresLeast && 2*c.TotalFailures >= counted
		},
		OnStateChange: func(_ string, _, to gobreaker.State) {
			b.state = to
			b.generation++
		},
		IsSuccessful: func(err error) bool { return err == nil },
		IsExcluded:   func(err error) bool { return errors.Is(err, errUndecided) },
	})
	return b
}

// What gobreaker is told; nil is a success.
var (
	errSiteFailed = errors.New("site failed")
	errUndecided  = errors.New("undecided")
)

// wait returns 0 when a request, or the one probe, may go.
func (b *breaker) wait(now time.Time) time.Duration {
	switch {
	case b.state == gobreaker.StateClosed:
		return 0
	case b.probing: // until it leaves, at the latest with the client's hard timeout
		return forever
	default:
		return max(b.until.Sub(now), 0)
	}
}

// allow takes gobreaker's first step for p. It comes last: whoever is allowed leaves at once, since a probe that waits
// would keep the breaker half-open.
func (b *breaker) allow(p *Permit) bool {
	done, err := b.cb.Allow()
	if err != nil {
		return false
	}
	p.done, p.generation = done, b.generation
	p.probe = b.state != gobreaker.StateClosed
	b.probing = p.probe
	return true
}

// release takes the second step for a request that never left.
func (b *breaker) release(p *Permit) {
	if p.probe {
		b.probing = false
	}
	p.done(errUndecided)
}

// report takes the second step with what the answer to p said. It reports whether the breaker has closed by it.
func (b *breaker) report(p *Permit, v verdict, e *Error, now time.Time) (closed bool) {
	// gobreaker drops results of older generations: what went out before an outage says nothing about the time after
	// it. So do we, but for one thing.
	current := p.generation == b.generation
	if p.probe {
		b.probing = false
	}
	result := errUndecided
	switch v {
	case answered:
		result = nil
	case failed:
		result = errSiteFailed
	}
	b.asked = v == failed && e.RetryAfter > 0
	p.done(result)

	switch {
	case current && v == failed && b.state == gobreaker.StateOpen:
		b.until = now.Add(b.hold(e.RetryAfter))
		b.opened++
		b.why = e.Error()
	case current && p.probe && b.state == gobreaker.StateClosed:
		b.until, b.opened, b.why = time.Time{}, 0, ""
		return true
	case current && p.probe:
		// Undecided: somebody else asks, though not at once.
		b.until = now.Add(spread(openFirst))
	case b.asked && b.state != gobreaker.StateClosed:
		// A late answer cannot open the breaker, but it can ask for more time.
		if end := now.Add(obey(e.RetryAfter)); end.After(b.until) {
			b.until = end
		}
	}
	return false
}

// hold returns how long to stay open this time.
func (b *breaker) hold(retryAfter time.Duration) time.Duration {
	open := min(openFirst<<min(b.opened, 6), openMost)
	return max(spread(open), obey(retryAfter))
}

// shown returns the state as an operator sees it. gobreaker's own word would be half-open from the first nanosecond.
func (b *breaker) shown(now time.Time) BreakerState {
	switch {
	case b.state == gobreaker.StateClosed:
		return BreakerClosed
	case !b.probing && b.until.After(now):
		return BreakerOpen
	default:
		return BreakerHalfOpen
	}
}

// verdict is what an answer says about the site.
type verdict int

const (
	answered  verdict = iota // kintone spoke, if only to refuse
	failed                   // the site could not be reached, or is down
	faulty                   // kintone's own 5xx: the app's matter, so far
	throttled                // 429: too many at a time, which is the flow's matter
	undecided                // says nothing: cancelled, or somebody in between spoke
)

// weigh judges an answer in the light of those before it: kintone's own 5xx is the app's matter until a second app has
// one with no success between.
func (b *breaker) weigh(app int64, e *Error, now time.Time) verdict {
	v := judgeSite(e)
	switch v {
	case answered:
		clear(b.faults)
	case faulty:
		for other, at := range b.faults {
			if other != app && now.Sub(at) <= faultsTogether {
				v = failed
			}
		}
		b.faults[app] = now
	}
	return v
}

// judgeSite judges an answer by itself.
func judgeSite(e *Error) verdict {
	switch {
	case e == nil:
		return answered
	case e.Status == http.StatusTooManyRequests:
		return throttled
	case errors.Is(e.Err, context.Canceled): // the caller left, whatever its reason
		return undecided
	case e.Err != nil, e.Status == 0, e.Status == http.StatusServiceUnavailable:
		return failed
	case e.Code != "" && (e.Status < 500 || e.Status == 520 && refusals520[e.Code]):
		return answered
	case e.Code != "":
		return faulty
	case e.Status >= 500, e.Status == http.StatusRequestTimeout:
		return failed
	default:
		return undecided
	}
}
