package kintone

import (
	"time"

	"golang.org/x/time/rate"
)

// budget counts and limits the requests to one app in one day, which begins at 00:00 UTC. Nine tenths may be spent at
// once, the last tenth comes back evenly over the day, so that an app that spent early can still be asked what became
// of its requests. Guarded by the gate's mu.
type budget struct {
	perDay  int       // 0 = no limit
	day     time.Time // its start
	spent   int
	limiter *rate.Limiter // of this day; nil without a limit
}

const fullDay = 24 * time.Hour

func startOfDay(t time.Time) time.Time { return t.UTC().Truncate(fullDay) }

// set changes the budget; of two counts for today the larger one holds.
func (b *budget) set(perDay, spentToday int, now time.Time) {
	b.turn(now)
	b.perDay = perDay
	b.spent = max(b.spent, spentToday)
	b.renew()
}

// turn begins a new day if the old one is over.
func (b *budget) turn(now time.Time) {
	if now.Before(b.day.Add(fullDay)) {
		return
	}
	b.day = startOfDay(now)
	b.spent = 0
	b.renew()
}

// renew makes the limiter of the day as it would be had it been there since the day began and had everything been spent
// in that moment.
func (b *budget) renew() {
	if b.perDay == 0 {
		b.limiter = nil
		return
	}
	burst := b.perDay - b.perDay/10
	refill := rate.Limit(float64(b.perDay-burst) / fullDay.Seconds())
	b.limiter = rate.NewLimiter(refill, burst)
	// At most a burst at a time may be reserved. Beyond perDay nothing comes back before the day is over anyway.
	for owed := min(b.spent, b.perDay); owed > 0; owed -= burst {
		b.limiter.ReserveN(b.day, min(owed, burst))
	}
}

// take spends one request and returns 0, or returns how long there is none.
func (b *budget) take(now time.Time) time.Duration {
	b.turn(now)
	if b.limiter != nil {
		if wait := take(b.limiter, now); wait > 0 {
			return min(wait, b.day.Add(fullDay).Sub(now))
		}
	}
	b.spent++
	return 0
}

// giveBack returns a request that did not leave to the day that paid for it.
func (b *budget) giveBack(day, now time.Time) {
	b.turn(now)
	if !b.day.Equal(day) {
		return
	}
	b.spent--
	if b.limiter != nil {
		giveBack(b.limiter, now)
	}
}

// take takes a token of l and returns 0, or returns how long there is none. It leaves no reservation behind: whoever
// waits holds nothing, so a limiter can be replaced and a waiter can go away at any time.
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
