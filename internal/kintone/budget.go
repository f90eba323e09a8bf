package kintone

import (
	"cmp"
	"math"
	"time"
)

// Budget is what an app may spend of requests in a day, which begins at 00:00 UTC (docs/kintone.md 1.2). Its zero value
// is no limit.
type Budget struct {
	PerDay    int       // 0 or less = no limit
	WhenSpent WhenSpent // "" = SpentHalts
}

// WhenSpent says what becomes of requests for which there is no budget left. kintone itself does not refuse them
// (docs/kintone.md 1.2): whether the day's number is a limit is for its owner to say.
type WhenSpent string

const (
	// SpentHalts makes them wait for the new day. A tenth of the budget is kept for requests that find out what became of
	// others: a worker that has spent everything must still be able to end what it began.
	SpentHalts WhenSpent = "halt"
	// SpentWarns lets them go, and says so.
	SpentWarns WhenSpent = "warn"
	// SpentIgnored lets them go; they are counted and nothing else.
	SpentIgnored WhenSpent = "off"
)

// reserve is the part of the budget that only requests which resolve others may spend.
func (b Budget) reserve() int {
	if b.halts() {
		return b.PerDay / 10
	}
	return 0
}

// After says how the budget of an app stands when so many requests have left on the day of now.
func (b Budget) After(app int64, spent int, now time.Time) AppBudget {
	var counted budget
	counted.set(b, spent, now)
	return counted.state(app, now)
}

func (b Budget) halts() bool { return b.WhenSpent == SpentHalts }

// AppBudget is how one app's budget stands.
type AppBudget struct {
	Budget
	App     int64
	Reserve int       // of PerDay, for requests that resolve others only
	Spent   int       // requests that left today
	Day     time.Time // its beginning
	Waiting int       // callers at the gate
}

// Left is how many requests the day has left for everything but resolving; a great many without a limit, and none, not
// less, when more has been spent.
func (b AppBudget) Left() int {
	if b.PerDay <= 0 {
		return math.MaxInt
	}
	return max(b.PerDay-b.Reserve-b.Spent, 0)
}

// Kept is what is left of the reserve.
func (b AppBudget) Kept() int { return min(b.Reserve, max(b.PerDay-b.Spent, 0)) }

// Exhausted reports whether the app has spent what it had, so that WhenSpent says what happens next. Under SpentIgnored it
// never has.
func (b AppBudget) Exhausted() bool { return b.WhenSpent != SpentIgnored && b.Left() == 0 }

// budget counts and limits the requests to one app in one day. Guarded by the gate's mu.
type budget struct {
	Budget
	day   time.Time // its start
	spent int
}

const fullDay = 24 * time.Hour

func startOfDay(t time.Time) time.Time { return t.UTC().Truncate(fullDay) }

// set changes the budget; of two counts for today the larger one holds.
func (b *budget) set(to Budget, spentToday int, now time.Time) {
	b.turn(now)
	to.PerDay = max(to.PerDay, 0)
	to.WhenSpent = cmp.Or(to.WhenSpent, SpentHalts)
	b.Budget = to
	b.spent = max(b.spent, min(spentToday, math.MaxInt32))
}

// turn begins a new day if the old one is over.
func (b *budget) turn(now time.Time) {
	if now.Before(b.day.Add(fullDay)) {
		return
	}
	b.day = startOfDay(now)
	b.spent = 0
}

// wait returns 0 if a request may leave, or how long none may. The reserve is for those that resolve others.
func (b *budget) wait(now time.Time, resolving bool) time.Duration {
	b.turn(now)
	limit := b.PerDay
	if !resolving {
		limit -= b.reserve()
	}
	if b.PerDay == 0 || !b.halts() || b.spent < limit {
		return 0
	}
	return b.day.Add(fullDay).Sub(now)
}

// take spends one request of today, after wait said that it may leave.
func (b *budget) take() { b.spent++ }

// giveBack returns a request that did not leave to the day that paid for it.
func (b *budget) giveBack(day, now time.Time) {
	b.turn(now)
	if b.day.Equal(day) {
		b.spent--
	}
}

// state is what others may know.
func (b *budget) state(app int64, now time.Time) AppBudget {
	b.turn(now)
	return AppBudget{Budget: b.Budget, App: app, Reserve: b.reserve(), Spent: b.spent, Day: b.day}
}
