package kintone_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/kintone"
)

// Answers of a site, good and bad.
var (
	fine      = kintone.Answer{}
	refused   = kintone.Answer{Err: &kintone.Error{Status: 400, Code: "GAIA_IL03"}}
	down      = kintone.Answer{Err: &kintone.Error{NotSent: true, Err: syscall.ECONNREFUSED}}
	timedOut  = kintone.Answer{Err: &kintone.Error{MayHaveActed: true, Err: context.DeadlineExceeded}}
	tooMany   = kintone.Answer{Err: &kintone.Error{Status: 429, Code: "GAIA_TO04"}}
	cancelled = kintone.Answer{Err: &kintone.Error{NotSent: true, Err: context.Canceled}}
	appBroken = kintone.Answer{Err: &kintone.Error{Status: 500, Code: "CB_AA01"}}
)

func later(status int, code string, d time.Duration) kintone.Answer {
	return kintone.Answer{Err: &kintone.Error{Status: status, Code: code, RetryAfter: d}}
}

// open is a config in which nothing but the subject of a test limits.
var open = kintone.GateConfig{RequestsPerSecond: math.Inf(1), Concurrency: 80}

// caller is somebody who entered, or was sent away.
type caller struct {
	app    int64
	n      int
	at     time.Time
	permit *kintone.Permit
	err    error
}

// enter enters at once or ends the test.
func enter(t *testing.T, g *kintone.Gate, app int64) *kintone.Permit {
	t.Helper()
	before := time.Now()
	p, err := g.Enter(t.Context(), app)
	if err != nil {
		t.Fatalf("app %d: Enter: %v", app, err)
	}
	if waited := time.Since(before); waited > 0 {
		t.Fatalf("app %d waited %v at a gate that should be open", app, waited)
	}
	return p
}

// resolving enters at once, to resolve another request, or ends the test.
func resolving(t *testing.T, g *kintone.Gate, app int64) *kintone.Permit {
	t.Helper()
	before := time.Now()
	p, err := g.EnterResolving(t.Context(), app)
	if err != nil || time.Since(before) > 0 {
		t.Fatalf("app %d: EnterResolving after %v: %v", app, time.Since(before), err)
	}
	return p
}

// come sends n callers of app to the gate, in order, and returns where they are told when they are through.
func come(ctx context.Context, g *kintone.Gate, app int64, n int) <-chan caller {
	through := make(chan caller, n)
	for i := range n {
		go func() {
			p, err := g.Enter(ctx, app)
			through <- caller{app, i, time.Now(), p, err}
		}()
		synctest.Wait()
	}
	return through
}

// notYet ends the test if somebody is through.
func notYet(t *testing.T, why string, through ...<-chan caller) {
	t.Helper()
	synctest.Wait()
	for _, c := range through {
		if len(c) > 0 {
			got := <-c
			t.Fatalf("%s: caller %d of app %d is through (%v)", why, got.n, got.app, got.err)
		}
	}
}

// breakOpen fails requests until the breaker opens.
func breakOpen(t *testing.T, g *kintone.Gate, app int64) {
	t.Helper()
	for range 3 {
		enter(t, g, app).Leave(down)
	}
	wantBreaker(t, g, kintone.BreakerOpen)
}

func wantBreaker(t *testing.T, g *kintone.Gate, want kintone.BreakerState) {
	t.Helper()
	if s := g.State(); s.Breaker != want {
		t.Fatalf("breaker is %s (%s), want %s", s.Breaker, s.Why, want)
	}
}

// wantWithin checks a duration that is subject to jitter.
func wantWithin(t *testing.T, what string, got, least, most time.Duration) {
	t.Helper()
	if got < least || got > most {
		t.Errorf("%s after %v, want between %v and %v", what, got, least, most)
	}
}

func TestGateHoldsATwoHourOutageWithFewProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(kintone.GateConfig{})
		start := time.Now()
		back := start.Add(2 * time.Hour)

		var mu sync.Mutex
		var out int
		var asked []int64 // apps, of requests after the first second
		var wg sync.WaitGroup
		for n := range 12 {
			app := int64(n%3 + 1)
			wg.Go(func() {
				for {
					p, err := g.Enter(t.Context(), app)
					if err != nil {
						t.Errorf("the gate failed a caller: %v", err)
						return
					}
					mu.Lock()
					out++
					if since := time.Since(start); since > time.Second && time.Now().Before(back) {
						asked = append(asked, app)
						if out != 1 {
							t.Errorf("%d requests are out %v into the outage, want one probe at a time", out, since)
						}
					}
					mu.Unlock()

					time.Sleep(100 * time.Millisecond)
					answer := fine
					if time.Now().Before(back) {
						answer = down
					}
					mu.Lock()
					out--
					mu.Unlock()
					p.Leave(answer)
					if answer.Err == nil {
						return
					}
				}
			})
		}
		wg.Wait()

		if got := len(asked); got < 7200/75 || got > 7200/45 {
			t.Errorf("%d probes in two hours, want about one a minute", got)
		}
		for i, app := range asked[1:] {
			if app == asked[i] {
				t.Errorf("probes %d and %d are both of app %d, want the apps to take turns", i, i+1, app)
			}
		}
		wantWithin(t, "everybody was through", time.Since(back), 0, 75*time.Second)
		wantBreaker(t, g, kintone.BreakerClosed)
	})
}

func TestGateDoublesItsHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(open)
		breakOpen(t, g, 1)
		for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
			want *= time.Second
			before := time.Now()
			p, err := g.Enter(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			wantWithin(t, "probe", time.Since(before), want*8/10, want*12/10)
			p.Leave(down)
		}
		// One success, and the next outage starts small.
		p, err := g.Enter(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		p.Leave(fine)
		breakOpen(t, g, 1)
		wantWithin(t, "hold ends", time.Until(g.State().Until), 800*time.Millisecond, 1200*time.Millisecond)
	})
}

func TestGateStartsSmallAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(open)
		breakOpen(t, g, 1)
		p, _ := g.Enter(t.Context(), 1)
		p.Leave(refused) // a refusal is an answer
		wantBreaker(t, g, kintone.BreakerClosed)
		if got := g.State().Limit; got != 2 {
			t.Fatalf("%d at a time after an outage, want 2", got)
		}
		for range 10 {
			enter(t, g, 1).Leave(fine)
		}
		if got := g.State().Limit; got < 4 || got > 6 {
			t.Errorf("%d at a time after 10 answers, want about one more per round", got)
		}
	})
}

func TestGateObeysRetryAfter(t *testing.T) {
	for _, test := range []struct {
		rule        string
		asks        time.Duration
		least, most time.Duration
	}{
		{"a page that says when", 90 * time.Second, 90 * time.Second, 108 * time.Second},
		{"less than the gate's own hold", time.Millisecond, 800 * time.Millisecond, 1200 * time.Millisecond},
		{"no more than an hour", 50 * time.Hour, time.Hour, time.Hour},
	} {
		t.Run(test.rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := kintone.NewGate(open)
				enter(t, g, 1).Leave(later(503, "", test.asks))
				wantBreaker(t, g, kintone.BreakerOpen)
				before := time.Now()
				p, err := g.Enter(t.Context(), 1)
				if err != nil {
					t.Fatal(err)
				}
				wantWithin(t, "probe", time.Since(before), test.least, test.most)
				p.Leave(fine)
				wantBreaker(t, g, kintone.BreakerClosed)
			})
		})
	}
}

func TestGateLetsEveryAnswerCountForWhatItIs(t *testing.T) {
	e := func(status int, code string, err error) kintone.Answer {
		return kintone.Answer{Err: &kintone.Error{Status: status, Code: code, Err: err}}
	}
	for _, test := range []struct {
		answer kintone.Answer
		opens  bool
	}{
		{fine, false},
		{down, true},
		{timedOut, true},
		{e(0, "", nil), true},
		{e(200, "", nil), false}, // a page of somebody in between
		{e(200, "", errors.New("unexpected EOF")), true},
		{e(302, "", nil), false},
		{refused, false},
		{e(400, "GAIA_DA02", nil), false},
		{e(401, "CB_WA01", nil), false},
		{e(401, "", nil), false},
		{e(403, "GAIA_NO01", nil), false},
		{e(403, "", nil), false},
		{e(404, "GAIA_RE01", nil), false},
		{e(408, "", nil), true},
		{e(409, "GAIA_CO02", nil), false},
		{tooMany, false},
		{e(429, "", nil), false},
		{e(429, "", errors.New("unexpected EOF")), false},
		{appBroken, false}, // from one app
		{e(500, "", nil), true},
		{e(502, "", nil), true},
		{e(503, "", nil), true},
		{e(503, "CB_AA01", nil), true},
		{e(504, "", nil), true},
		{e(520, "GAIA_IL03", nil), false},
		{e(520, "", nil), true},
		{cancelled, false},
		{e(0, "", fmt.Errorf("read: %w", context.Canceled)), false},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := kintone.NewGate(open)
			for range 3 {
				p, err := g.Enter(t.Context(), 1)
				if err != nil {
					t.Fatal(err)
				}
				p.Leave(test.answer)
			}
			if got := g.State().Breaker == kintone.BreakerOpen; got != test.opens {
				t.Errorf("three times %+v: breaker open is %v, want %v", test.answer.Err, got, test.opens)
			}
		})
	}
}

func TestGateTellsACallerThatLeavesFromASiteThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(open)
		c, err := kintone.NewClient(kintone.Config{
			BaseURL:     "https://sample.cybozu.com",
			Credentials: kintone.Credentials{Tokens: []kintone.Secret{"token"}},
			Timeout:     time.Minute,
			Transport:   hanging{},
			Gate:        g,
		})
		if err != nil {
			t.Fatal(err)
		}
		change := kintone.StatusChange{Record: 1, Revision: 1, Action: "Approve"}
		three := func(ctx context.Context) {
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					if _, err := c.UpdateStatus(ctx, kintone.App{ID: 1}, change); err == nil {
						t.Error("a request that hangs gave no error")
					}
				})
			}
			wg.Wait()
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errors.New("the worker is stopping")) })
		three(ctx)
		wantBreaker(t, g, kintone.BreakerClosed)
		three(t.Context()) // until the client's own timeout
		wantBreaker(t, g, kintone.BreakerOpen)
	})
}

// hanging is a site that never answers.
type hanging struct{}

func (hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestGateTakesTwoAppsFaultsForTheSites(t *testing.T) {
	faults := func(t *testing.T, g *kintone.Gate, apps ...int64) {
		for _, app := range apps {
			enter(t, g, app).Leave(appBroken)
		}
	}
	for _, test := range []struct {
		rule string
		do   func(t *testing.T, g *kintone.Gate)
		want kintone.BreakerState
	}{
		{"one app alone", func(t *testing.T, g *kintone.Gate) { faults(t, g, 1, 1, 1, 1, 1, 1) }, kintone.BreakerClosed},
		{"two apps", func(t *testing.T, g *kintone.Gate) { faults(t, g, 1, 2, 1, 2) }, kintone.BreakerOpen},
		{"one after the other", func(t *testing.T, g *kintone.Gate) { faults(t, g, 1, 2, 2, 2) }, kintone.BreakerOpen},
		{"a success between", func(t *testing.T, g *kintone.Gate) {
			for range 5 {
				faults(t, g, 1)
				enter(t, g, 3).Leave(fine)
				faults(t, g, 2)
				enter(t, g, 3).Leave(refused)
			}
		}, kintone.BreakerClosed},
		{"some seconds apart", func(t *testing.T, g *kintone.Gate) {
			for _, app := range []int64{1, 2, 1, 2} {
				time.Sleep(29 * time.Second)
				faults(t, g, app)
			}
		}, kintone.BreakerOpen},
		{"refusals as they used to be", func(t *testing.T, g *kintone.Gate) {
			for n := range int64(6) {
				enter(t, g, n+1).Leave(kintone.Answer{Err: &kintone.Error{Status: 520, Code: "GAIA_IL03"}})
			}
		}, kintone.BreakerClosed},
		{"520 for an unknown reason", func(t *testing.T, g *kintone.Gate) {
			for n := range int64(4) {
				enter(t, g, n+1).Leave(kintone.Answer{Err: &kintone.Error{Status: 520, Code: "GAIA_XX99"}})
			}
		}, kintone.BreakerOpen},
		{"too far apart", func(t *testing.T, g *kintone.Gate) {
			for range 5 {
				faults(t, g, 1)
				time.Sleep(31 * time.Second)
				faults(t, g, 2)
				time.Sleep(31 * time.Second)
			}
		}, kintone.BreakerClosed},
	} {
		t.Run(test.rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := kintone.NewGate(open)
				test.do(t, g)
				wantBreaker(t, g, test.want)
			})
		})
	}
}

func TestGateOpensOnARatioHoweverLongAllWasWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(open)
		for range 10 * 3600 {
			enter(t, g, 1).Leave(fine)
			time.Sleep(100 * time.Millisecond)
		}
		before := time.Now()
		for n := 0; g.State().Breaker == kintone.BreakerClosed; n++ {
			if time.Since(before) > 5*time.Minute {
				t.Fatal("two of three requests have failed for five minutes, and the breaker is closed")
			}
			answer := down
			if n%3 == 2 {
				answer = fine
			}
			enter(t, g, 1).Leave(answer)
			time.Sleep(100 * time.Millisecond)
		}
	})
}

func TestGateWaitsForAHungProbeAndNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(open)
		breakOpen(t, g, 1)
		probe, err := g.Enter(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		wantBreaker(t, g, kintone.BreakerHalfOpen)
		first, second := come(t.Context(), g, 1, 3), come(t.Context(), g, 2, 3)
		time.Sleep(time.Minute)
		notYet(t, "while the probe hangs", first, second)

		failed := time.Now()
		probe.Leave(timedOut)
		next := <-first
		wantWithin(t, "the next probe", next.at.Sub(failed), 1600*time.Millisecond, 2400*time.Millisecond)
		notYet(t, "beside the probe", first, second)

		next.permit.Leave(fine)
		synctest.Wait()
		if got := len(first) + len(second); got != 2 {
			t.Errorf("%d went when the breaker closed, want 2", got)
		}
		var wg sync.WaitGroup
		wg.Go(func() { drain(first, 2) })
		wg.Go(func() { drain(second, 3) })
		wg.Wait()
	})
}

// drain lets the last n of a group through.
func drain(through <-chan caller, n int) {
	for range n {
		if c := <-through; c.err == nil {
			c.permit.Leave(fine)
		}
	}
}

func TestGateLetsProbesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(open)
		breakOpen(t, g, 1)
		groups := map[int64]<-chan caller{1: come(t.Context(), g, 1, 3), 2: come(t.Context(), g, 2, 3)}
		var apps []int64
		for range 5 {
			var c caller
			select {
			case c = <-groups[1]:
			case c = <-groups[2]:
			}
			apps = append(apps, c.app)
			c.permit.Leave(down)
		}
		if want := []int64{1, 2, 1, 2, 1}; !slices.Equal(apps, want) {
			t.Errorf("probes of apps %v, want %v", apps, want)
		}
		drain(groups[2], 1)
	})
}

func TestGateAsksAgainAfterAProbeThatSaysNothing(t *testing.T) {
	for _, answer := range []kintone.Answer{cancelled, tooMany, appBroken} {
		synctest.Test(t, func(t *testing.T) {
			g := kintone.NewGate(open)
			breakOpen(t, g, 1)
			one, two := come(t.Context(), g, 1, 1), come(t.Context(), g, 2, 1)
			probe := <-one
			probe.permit.Leave(answer)
			next := <-two
			wantWithin(t, fmt.Sprintf("after %v the next probe", answer.Err), next.at.Sub(probe.at), 800*time.Millisecond, 1200*time.Millisecond)
			wantBreaker(t, g, kintone.BreakerHalfOpen)
			next.permit.Leave(fine)
			wantBreaker(t, g, kintone.BreakerClosed)
		})
	}
}

func TestGateDoesNotLetLateAnswersJudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(open)
		var before []*kintone.Permit
		for range 8 {
			before = append(before, enter(t, g, 1))
		}
		breakOpen(t, g, 1)

		until := g.State().Until
		before[0].Leave(fine)
		before[1].Leave(down)
		if got := g.State().Until; !got.Equal(until) {
			t.Errorf("late answers moved the hold from %v to %v", until, got)
		}
		wantBreaker(t, g, kintone.BreakerOpen)

		before[2].Leave(later(503, "", 10*time.Minute))
		wantWithin(t, "a late Retry-After: the hold ends", time.Until(g.State().Until), 10*time.Minute, 12*time.Minute)
		before[3].Leave(later(503, "", time.Minute))
		wantWithin(t, "a shorter one: the hold ends", time.Until(g.State().Until), 10*time.Minute, 12*time.Minute)

		probe, err := g.Enter(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		before[4].Leave(fine)
		wantBreaker(t, g, kintone.BreakerHalfOpen)
		probe.Leave(fine)
		for _, p := range before[5:] {
			p.Leave(later(503, "", time.Minute))
		}
		wantBreaker(t, g, kintone.BreakerClosed)
		if s := g.State(); s.InUse != 0 || s.Limit != 2 {
			t.Errorf("%d of %d in use at the end, want 0 of 2", s.InUse, s.Limit)
		}
	})
}

func TestGateHalvesOnceForABurstOf429(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(kintone.GateConfig{RequestsPerSecond: math.Inf(1), Concurrency: 16})
		for _, want := range []int{8, 4, 2, 1, 1} {
			var out []*kintone.Permit
			for range g.State().Limit {
				out = append(out, enter(t, g, 1))
			}
			for _, p := range out {
				p.Leave(tooMany)
			}
			s := g.State()
			if s.Limit != want || s.Breaker != kintone.BreakerClosed {
				t.Fatalf("after %d times 429: limit %d, breaker %s, want %d and closed", len(out), s.Limit, s.Breaker, want)
			}
			if s.Why == "" {
				t.Error("a pause without a reason")
			}
			refusedAt := time.Now()
			c := <-come(t.Context(), g, 2, 1)
			wantWithin(t, "the pause ended", c.at.Sub(refusedAt), 800*time.Millisecond, 1200*time.Millisecond)
			c.permit.Leave(cancelled)
			time.Sleep(time.Second)
		}

		// And it grows by about one for every round of answers.
		for range 150 {
			enter(t, g, 1).Leave(fine)
		}
		if got := g.State().Limit; got != 16 {
			t.Errorf("limit %d after many answers, want 16 again", got)
		}
	})
}

func TestGatePausesAsLongAs429Asks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(open)
		long, short := enter(t, g, 1), enter(t, g, 1)
		start := time.Now()
		long.Leave(later(429, "GAIA_TO04", 30*time.Second))
		short.Leave(tooMany) // does not shorten it
		c := <-come(t.Context(), g, 1, 1)
		wantWithin(t, "the pause ended", c.at.Sub(start), 30*time.Second, 36*time.Second)
		c.permit.Leave(fine)
	})
}

func TestGateStepsBackNearKintonesLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(kintone.GateConfig{RequestsPerSecond: math.Inf(1), Concurrency: 4})
		for _, test := range []struct{ running, limit, want int }{
			{79, 100, 4}, {80, 100, 3}, {99, 100, 2}, {100, 100, 1}, {100, 100, 1}, {5, 100, 2}, {0, 0, 2}, {0, 0, 2}, {0, 0, 3},
		} {
			enter(t, g, 1).Leave(kintone.Answer{Running: test.running, Limit: test.limit})
			if got := g.State().Limit; got != test.want {
				t.Errorf("limit %d after %d of %d running, want %d", got, test.running, test.limit, test.want)
			}
		}
	})
}

func TestGateTakesTurnsAmongAppsInOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(kintone.GateConfig{RequestsPerSecond: math.Inf(1), Concurrency: 1})
		holder := enter(t, g, 9)
		one, two, three := come(t.Context(), g, 1, 5), come(t.Context(), g, 2, 2), come(t.Context(), g, 3, 1)
		holder.Leave(refused)
		var order []string
		for range 8 {
			var c caller
			select {
			case c = <-one:
			case c = <-two:
			case c = <-three:
			}
			notYet(t, "beside the only place", one, two, three)
			order = append(order, fmt.Sprintf("%d.%d", c.app, c.n))
			c.permit.Leave(refused)
		}
		if want := []string{"1.0", "2.0", "3.0", "1.1", "2.1", "1.2", "1.3", "1.4"}; !slices.Equal(order, want) {
			t.Errorf("order (app.caller) %v, want %v", order, want)
		}
	})
}

func TestGateKeepsToRateAndConcurrency(t *testing.T) {
	for _, test := range []struct {
		cfg       kintone.GateConfig
		limit     int
		perSecond float64
	}{
		{kintone.GateConfig{}, 10, 10},
		{kintone.GateConfig{RequestsPerSecond: -1, Concurrency: -1}, 10, 10},
		{kintone.GateConfig{RequestsPerSecond: math.NaN(), Concurrency: 500}, 80, 10},
		{kintone.GateConfig{RequestsPerSecond: 0.5, Concurrency: 1}, 1, 0.5},
		{kintone.GateConfig{RequestsPerSecond: 40, Concurrency: 3}, 3, 40},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := kintone.NewGate(test.cfg)
			if s := g.State(); s.Limit != test.limit || s.RequestsPerSecond != test.perSecond {
				t.Errorf("%+v gives %d at a time and %v a second, want %d and %v",
					test.cfg, s.Limit, s.RequestsPerSecond, test.limit, test.perSecond)
			}
			start, n := time.Now(), int(test.perSecond*30)+1
			group := come(t.Context(), g, 1, n+test.limit)
			for range n {
				(<-group).permit.Leave(refused)
			}
			// What a full bucket holds goes at once.
			burst := max(test.perSecond, 1)
			least := time.Duration((float64(n) - burst) / test.perSecond * float64(time.Second))
			wantWithin(t, fmt.Sprintf("%d requests were through", n), time.Since(start), least-time.Millisecond, least+time.Millisecond)
			drain(group, test.limit)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(kintone.GateConfig{RequestsPerSecond: math.Inf(1)})
		group := come(t.Context(), g, 1, 12)
		if got := len(group); got != 10 {
			t.Errorf("%d went at once, want 10", got)
		}
		drain(group, 12)
	})
}

func TestGateGivesUpWaitingWithItsContextAndNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(kintone.GateConfig{RequestsPerSecond: 1})
		enter(t, g, 1).Leave(fine)
		start := time.Now()
		cause := errors.New("the lane is stopping")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, cause)
		defer cancel()
		first := come(ctx, g, 1, 1)
		second := come(t.Context(), g, 1, 1)

		c := <-first
		if !errors.Is(c.err, cause) || c.permit != nil {
			t.Errorf("Enter = %v, %v, want an error that wraps its context's cause", c.permit, c.err)
		}
		wantWithin(t, "the impatient caller left", c.at.Sub(start), 500*time.Millisecond, 500*time.Millisecond)
		// It took nothing along: the next token, a second after the first, is the other's.
		c = <-second
		wantWithin(t, "the patient caller went", c.at.Sub(start), time.Second, time.Second)
		c.permit.Leave(fine)
		if _, spent := g.Spent(1); spent != 2 {
			t.Errorf("%d requests spent, want 2", spent)
		}

		if _, err := g.Enter(ctx, 1); !errors.Is(err, cause) {
			t.Errorf("Enter with a context that has ended = %v, want its cause", err)
		}
		if s := g.State(); s.Waiting != 0 || s.InUse != 0 {
			t.Errorf("%d wait and %d are out, want nobody", s.Waiting, s.InUse)
		}
	})
}

func TestGateTakesBackAPermitThatComesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(kintone.GateConfig{RequestsPerSecond: math.Inf(1), Concurrency: 1})
		g.SetBudget(1, kintone.Budget{PerDay: 1000}, 0)
		left := 0
		for n := range 400 {
			p := enter(t, g, 1)
			left++
			ctx, cancel := context.WithCancel(t.Context())
			group := come(ctx, g, 1, 1)
			// The end of the context and the permit come in the same moment.
			if n%2 == 0 {
				cancel()
				p.Leave(fine)
			} else {
				p.Leave(fine)
				cancel()
			}
			if c := <-group; c.err == nil {
				c.permit.Leave(fine)
				left++
			}
			cancel()
		}
		if s := g.State(); s.InUse != 0 || s.Waiting != 0 || s.Apps[0].Spent != left {
			t.Errorf("%d out, %d waiting, %d spent at the end, want 0, 0, %d", s.InUse, s.Waiting, s.Apps[0].Spent, left)
		}
		// All that was given back can be spent: the budget without its reserve.
		for range 900 - left {
			enter(t, g, 1).Leave(fine)
		}
		notYet(t, "without a token", come(t.Context(), g, 1, 1))
		g.Close()
	})
}

func TestGatePassesTheProbeOnWhenItsCallerIsGone(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			g := kintone.NewGate(open)
			breakOpen(t, g, 1)
			g.Halt("so that the probe comes when the test wants it")
			ctx, cancel := context.WithCancel(t.Context())
			gone, next := come(ctx, g, 1, 1), come(t.Context(), g, 2, 1)
			time.Sleep(time.Minute)
			asked := time.Now()
			cancel()
			g.Resume() // the probe goes to one who is about to leave
			if c := <-gone; !errors.Is(c.err, context.Canceled) {
				t.Errorf("Enter = %v, want the end of its context", c.err)
			}
			c := <-next
			wantWithin(t, "the probe passed on", c.at.Sub(asked), 0, 0)
			c.permit.Leave(fine)
			wantBreaker(t, g, kintone.BreakerClosed)
		})
	}
}

func TestGateClosesOnThoseWhoWait(t *testing.T) {
	for _, test := range []struct {
		why  string
		shut func(t *testing.T, g *kintone.Gate)
	}{
		{"a place", func(t *testing.T, g *kintone.Gate) {}},
		{"the breaker", func(t *testing.T, g *kintone.Gate) { enter(t, g, 3).Leave(later(503, "", time.Hour)) }},
		{"a halt", func(t *testing.T, g *kintone.Gate) { g.Halt("CB_WA01") }},
		{"its budget", func(t *testing.T, g *kintone.Gate) {
			g.SetBudget(1, kintone.Budget{PerDay: 10}, 10)
			g.SetBudget(2, kintone.Budget{PerDay: 10}, 10)
		}},
	} {
		t.Run("for "+test.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := kintone.NewGate(kintone.GateConfig{Concurrency: 2})
				out := enter(t, g, 1)
				test.shut(t, g)
				if test.why == "a place" {
					defer enter(t, g, 1).Leave(fine)
				}
				one, two := come(t.Context(), g, 1, 3), come(t.Context(), g, 2, 2)
				notYet(t, "waiting for "+test.why, one, two)
				g.Close()
				for range 3 {
					if c := <-one; !errors.Is(c.err, kintone.ErrGateClosed) {
						t.Errorf("Enter = %v, want ErrGateClosed", c.err)
					}
				}
				for range 2 {
					if c := <-two; !errors.Is(c.err, kintone.ErrGateClosed) {
						t.Errorf("Enter = %v, want ErrGateClosed", c.err)
					}
				}
				if _, err := g.Enter(t.Context(), 1); !errors.Is(err, kintone.ErrGateClosed) {
					t.Errorf("Enter at a closed gate = %v, want ErrGateClosed", err)
				}
				inUse := g.State().InUse
				out.Leave(fine) // what is out goes on
				g.Close()
				if s := g.State(); !s.Closed || s.InUse != inUse-1 || s.Waiting != 0 {
					t.Errorf("state after Close: %+v", s)
				}
			})
		})
	}
}

func TestGateHaltsUntilResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(open)
		out := enter(t, g, 1)
		g.Halt("password refused (CB_WA01)")
		group := come(t.Context(), g, 1, 2)
		time.Sleep(24 * time.Hour)
		out.Leave(kintone.Answer{Err: &kintone.Error{Status: 401, Code: "CB_WA01"}})
		notYet(t, "halted", group)
		if s := g.State(); !s.Halted || s.Why != "password refused (CB_WA01)" || s.Waiting != 2 || s.Breaker != kintone.BreakerClosed {
			t.Errorf("state of a halted gate: %+v", s)
		}
		g.Resume()
		drain(group, 2)
		if s := g.State(); s.Halted || s.Why != "" {
			t.Errorf("state of a gate that goes on: %+v", s)
		}

		// A halt and the breaker do not end each other.
		breakOpen(t, g, 1)
		g.Halt("")
		group = come(t.Context(), g, 1, 1)
		time.Sleep(time.Minute)
		notYet(t, "halted, though the breaker would probe", group)
		if !g.State().Halted {
			t.Error("a halt without a reason is none")
		}
		g.Resume()
		synctest.Wait()
		wantBreaker(t, g, kintone.BreakerHalfOpen)
		drain(group, 1)
	})
}

// Nine tenths of a day may be spent on anything, at once if need be: pacing is for those who make the requests. The last
// tenth is for requests that find out what became of others. (It used to come back over the day to whoever came first, so
// that an app with a backlog had nothing left for what it had to find out.)
func TestGateSpendsNoMoreThanTheDaysBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(open)
		g.SetBudget(5, kintone.Budget{PerDay: 100}, 0)
		start := time.Now() // bubbles begin at 00:00 UTC
		for day := range 3 {
			for n := range 90 {
				enter(t, g, 5).Leave(fine)
				if name, spent := g.Spent(5); spent != n+1 || name != []string{"2000-01-01", "2000-01-02", "2000-01-03"}[day] {
					t.Errorf("Spent = %s, %d on day %d after %d requests", name, spent, day, n+1)
				}
			}
			ordinary := come(t.Context(), g, 5, 1)
			notYet(t, "with the reserve only", ordinary)
			if b := g.Budget(5); b.Left() != 0 || !b.Exhausted() || b.WhenSpent != kintone.SpentHalts || b.Reserve != 10 || b.Spent != 90 || b.Waiting != 1 {
				t.Errorf("after nine tenths the budget is %+v", b)
			}
			for range 10 {
				resolving(t, g, 5).Leave(fine) // past the one that waits
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			if _, err := g.EnterResolving(ctx, 5); err == nil {
				t.Error("request 101 of the day left, to resolve another")
			}
			cancel()
			// At midnight the one that waits goes with the new budget, which it gives back here.
			c := <-ordinary
			wantWithin(t, "the one that waited went", c.at.Sub(start), time.Duration(day+1)*24*time.Hour, time.Duration(day+1)*24*time.Hour)
			c.permit.Leave(cancelled)
		}
	})
}

// Within the reserve those who resolve pass, and among themselves keep their order. The others keep theirs, too.
func TestGateKeepsItsReserveForThoseWhoResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(open)
		g.SetBudget(1, kintone.Budget{PerDay: 20}, 20)
		ordinary := come(t.Context(), g, 1, 3)
		through := make(chan int, 3)
		for n := range 3 {
			go func() {
				if p, err := g.EnterResolving(t.Context(), 1); err == nil {
					p.Leave(fine)
					through <- n
				}
			}()
			synctest.Wait()
		}
		g.SetBudget(1, kintone.Budget{PerDay: 22}, 0) // two, which are in reserve
		notYet(t, "while the reserve lasts", ordinary)
		if len(through) != 2 || <-through+<-through != 0+1 { // they are told in any order
			t.Error("with a reserve of two, others went than the first two that resolve")
		}
		g.SetBudget(1, kintone.Budget{PerDay: 26}, 0) // two more, and two in reserve
		synctest.Wait()
		if len(through) != 1 || len(ordinary) != 2 || (<-ordinary).n+(<-ordinary).n != 0+1 {
			t.Error("with two requests and a reserve of two, others went than the first two and the one that resolves")
		}
		g.SetBudget(1, kintone.Budget{PerDay: 40}, 0)
		if c := <-ordinary; c.n != 2 {
			t.Errorf("caller %d went last, want 2", c.n)
		}
	})
}

// kintone does not refuse what is over the day's number (QUOTA, FORMS): whether it is a limit is for its owner to say.
func TestGateLetsWhoIsToBeWarnedGoOn(t *testing.T) {
	for _, when := range []kintone.WhenSpent{kintone.SpentWarns, kintone.SpentIgnored} {
		synctest.Test(t, func(t *testing.T) {
			g := kintone.NewGate(open)
			g.SetBudget(1, kintone.Budget{PerDay: 10, WhenSpent: when}, 9)
			if b := g.Budget(1); b.Reserve != 0 || b.Left() != 1 || b.Exhausted() {
				t.Errorf("%s: with one left the budget is %+v", when, b)
			}
			for range 5 {
				enter(t, g, 1).Leave(fine)
			}
			if b := g.Budget(1); b.Spent != 14 || b.Left() != 0 || b.Exhausted() != (when == kintone.SpentWarns) {
				t.Errorf("%s: four over, the budget is %+v (exhausted: %v)", when, b, b.Exhausted())
			}
			// From now on it is a limit.
			g.SetBudget(1, kintone.Budget{PerDay: 10, WhenSpent: kintone.SpentHalts}, 0)
			notYet(t, "over a budget that halts", come(t.Context(), g, 1, 1))
			g.Close()
		})
	}
}

func TestGateStartsADayWithWhatWasSpent(t *testing.T) {
	for _, test := range []struct {
		perDay, spent int
		now           int // requests that can leave at once
		resolving     int // and after them, to resolve others
	}{
		{100, 0, 90, 10},
		{100, 40, 50, 10},
		{100, 90, 0, 10},
		{100, 95, 0, 5},
		{100, 100, 0, 0},
		{100, math.MaxInt, 0, 0},
		{1, 0, 1, 0}, // a tenth of it is nothing
		{1, 1, 0, 0},
		{9, 0, 9, 0},
		{10, 0, 9, 1},
		{-1, 1_000_000, 200, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := kintone.NewGate(open)
			time.Sleep(7 * time.Hour) // the time of day makes no difference
			g.SetBudget(1, kintone.Budget{PerDay: test.perDay}, test.spent)
			for range test.now {
				enter(t, g, 1).Leave(fine)
			}
			if test.perDay < 0 {
				if b := g.Budget(1); b.Left() != math.MaxInt || b.Exhausted() {
					t.Errorf("without a limit the budget is %+v", b)
				}
				return
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			waits := come(ctx, g, 1, 1)
			notYet(t, fmt.Sprintf("%d of %d spent before, %d now", test.spent, test.perDay, test.now), waits)
			for range test.resolving {
				resolving(t, g, 1).Leave(fine)
			}
			cancel()
			drain(waits, 1)
			p, err := g.EnterResolving(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			p.Leave(fine)
			midnight := time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC)
			if at := time.Now(); !at.Equal(midnight) {
				t.Errorf("%d of %d spent before: one more than all left at %v, want midnight", test.spent, test.perDay, at)
			}
		})
	}
}

func TestGateLetsThoseWhoWaitForTheOldDayGoWithTheNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(open)
		g.SetBudget(1, kintone.Budget{PerDay: 10}, 10)
		g.SetBudget(2, kintone.Budget{PerDay: 10}, 10)
		start := time.Now()
		one, two := come(t.Context(), g, 1, 4), come(t.Context(), g, 2, 4)
		time.Sleep(24*time.Hour - time.Nanosecond)
		notYet(t, "before 00:00 UTC", one, two)
		for range 4 {
			for _, group := range []<-chan caller{one, two} {
				c := <-group
				wantWithin(t, "a waiter of yesterday went", c.at.Sub(start), 24*time.Hour, 24*time.Hour)
				c.permit.Leave(fine)
			}
		}
		if day, spent := g.Spent(1); day != "2000-01-02" || spent != 4 {
			t.Errorf("Spent = %s, %d, want 4 on 2000-01-02", day, spent)
		}
		// What was taken yesterday is not given back today.
		late := enter(t, g, 2)
		time.Sleep(24 * time.Hour)
		late.Leave(cancelled)
		if day, spent := g.Spent(2); day != "2000-01-03" || spent != 0 {
			t.Errorf("Spent = %s, %d, want 0 on 2000-01-03", day, spent)
		}
		if day, spent := g.Spent(77); day != "2000-01-03" || spent != 0 {
			t.Errorf("Spent of an unknown app = %s, %d, want 0 on 2000-01-03", day, spent)
		}
	})
}

func TestGateBelievesTheLargerCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(open)
		enter(t, g, 1).Leave(fine)
		enter(t, g, 1).Leave(fine)
		for _, test := range []struct{ perDay, spent, want int }{{100, 0, 2}, {100, 7, 7}, {50, 3, 7}, {0, 0, 7}} {
			g.SetBudget(1, kintone.Budget{PerDay: test.perDay}, test.spent)
			if s := g.State().Apps[0]; s.Spent != test.want || s.PerDay != test.perDay {
				t.Errorf("SetBudget(%d, %d) gives %+v, want %d spent", test.perDay, test.spent, s, test.want)
			}
		}
		// A larger budget lets those go who wait for it.
		g.SetBudget(1, kintone.Budget{PerDay: 10}, 10)
		group := come(t.Context(), g, 1, 1)
		notYet(t, "without budget", group)
		g.SetBudget(1, kintone.Budget{PerDay: 20}, 0)
		synctest.Wait()
		if len(group) == 0 {
			t.Fatal("a raised budget lets nobody go")
		}
		drain(group, 1)
	})
}

func TestGateGivesBackWhatDidNotLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(open)
		g.SetBudget(1, kintone.Budget{PerDay: 10}, 0)
		for range 20 {
			enter(t, g, 1).Leave(cancelled)
		}
		for range 9 {
			enter(t, g, 1).Leave(refused)
		}
		notYet(t, "after nine tenths", come(t.Context(), g, 1, 1))
		if _, spent := g.Spent(1); spent != 9 {
			t.Errorf("%d spent, want the 9 that left", spent)
		}

		// Even to a budget that was set anew: it makes room for one more.
		p := enter(t, g, 2)
		g.SetBudget(2, kintone.Budget{PerDay: 100}, 90)
		waits := come(t.Context(), g, 2, 1)
		notYet(t, "after nine tenths", waits)
		p.Leave(cancelled)
		drain(waits, 1)
		g.Close()
	})
}

func TestGateLeavesTheProbeToAnAppThatCanPay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(kintone.GateConfig{RequestsPerSecond: 0.2})
		g.SetBudget(1, kintone.Budget{PerDay: 10}, 10)
		enter(t, g, 2).Leave(later(503, "", time.Millisecond)) // open for a second, the next token comes after five
		start := time.Now()
		poor, rich := come(t.Context(), g, 1, 1), come(t.Context(), g, 2, 1)
		time.Sleep(4 * time.Second)
		notYet(t, "without a token of the site's rate", poor, rich)
		if s := g.State(); s.InUse != 0 {
			t.Errorf("%d requests are out while all wait for a token", s.InUse)
		}
		c := <-rich
		wantWithin(t, "the probe", c.at.Sub(start), 5*time.Second-time.Millisecond, 5*time.Second+time.Millisecond)
		c.permit.Leave(fine)
		wantBreaker(t, g, kintone.BreakerClosed)

		// Nor does an app without budget stand in the way of others afterwards.
		c = <-come(t.Context(), g, 2, 1)
		c.permit.Leave(fine)
		notYet(t, "without budget", poor)
		g.Close()
	})
}

func TestPermitLeavesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(open)
		p := enter(t, g, 1)
		for range 5 {
			p.Leave(down)
		}
		if s := g.State(); s.InUse != 0 || s.Breaker != kintone.BreakerClosed || s.Apps[0].Spent != 0 {
			t.Errorf("state after five Leaves of one permit: %+v", s)
		}
	})
}

func TestGateTellsItsChangesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g *kintone.Gate
		var told []string
		running := false
		g = kintone.NewGate(kintone.GateConfig{OnChange: func(s kintone.GateState) {
			if running {
				t.Error("OnChange runs twice at a time")
			}
			running = true
			told = append(told, fmt.Sprintf("%s, %d at a time, %q", s.Breaker, s.Limit, s.Why))
			g.State() // no lock is held
			if len(told) == 1 {
				g.Halt("by OnChange") // a change inside a change is told after it
				g.Resume()
			}
			running = false
		}})
		for range 3 {
			enter(t, g, 1).Leave(down)
		}
		p, err := g.Enter(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		p.Leave(fine)
		g.Close()
		synctest.Wait() // the timer that let the probe go may still be telling

		why := down.Err.Error()
		want := []string{
			fmt.Sprintf("open, 10 at a time, %q", why),
			`open, 10 at a time, "by OnChange"`,
			fmt.Sprintf("open, 10 at a time, %q", why),
			fmt.Sprintf("half-open, 10 at a time, %q", why),
			`closed, 2 at a time, ""`,
			`closed, 2 at a time, "gate closed"`,
		}
		if !slices.Equal(told, want) {
			t.Errorf("OnChange was told\n%q, want\n%q", told, want)
		}
	})
}

func TestGateKeepsItsCountsInAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := kintone.NewGate(kintone.GateConfig{RequestsPerSecond: 50, Concurrency: 8, OnChange: func(s kintone.GateState) {
			if s.InUse > 8 || s.Limit < 1 || s.Limit > 8 {
				t.Errorf("%d out, limit %d, of 8 at most", s.InUse, s.Limit)
			}
		}})
		answers := []kintone.Answer{
			fine, fine, fine, fine, refused, refused, down, timedOut, tooMany, cancelled, appBroken,
			later(503, "", 3*time.Second), later(429, "", 2*time.Second), {Running: 90, Limit: 100},
		}
		var mu sync.Mutex
		left := map[int64]int{}
		out := 0
		var wg sync.WaitGroup
		for n := range 48 {
			app := int64(n%6 + 1)
			wg.Go(func() {
				for range 60 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(20_000))*time.Millisecond)
					p, err := g.Enter(ctx, app)
					if err != nil {
						cancel()
						continue
					}
					answer := answers[rand.IntN(len(answers))]
					mu.Lock()
					if out++; out > 8 {
						t.Errorf("%d requests are out, 8 at most", out)
					}
					if answer.Err == nil || !answer.Err.NotSent {
						left[app]++
					}
					mu.Unlock()
					time.Sleep(time.Duration(rand.IntN(3000)) * time.Millisecond)
					mu.Lock()
					out--
					mu.Unlock()
					p.Leave(answer)
					cancel()
				}
			})
		}
		wg.Wait()
		s := g.State()
		if s.InUse != 0 || s.Waiting != 0 {
			t.Errorf("%d out and %d waiting at the end", s.InUse, s.Waiting)
		}
		for _, a := range s.Apps {
			if a.Spent != left[a.App] {
				t.Errorf("app %d: %d spent, %d left", a.App, a.Spent, left[a.App])
			}
		}
		// And the gate still works.
		for range 20 {
			p, err := g.Enter(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			p.Leave(fine)
		}
		wantBreaker(t, g, kintone.BreakerClosed)
	})
}

func BenchmarkGate(b *testing.B) {
	g := kintone.NewGate(kintone.GateConfig{RequestsPerSecond: math.Inf(1)})
	g.SetBudget(5, kintone.Budget{PerDay: math.MaxInt32}, 0)
	b.ReportAllocs()
	for b.Loop() {
		p, err := g.Enter(b.Context(), 5)
		if err != nil {
			b.Fatal(err)
		}
		p.Leave(fine)
	}
}
