package dispatch

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"statusq/internal/kintone"
)

// longestStretch bounds how long a batch waits to be filled for the sake of the budget: a job that comes alone is not to
// lie about for longer, however little is left.
const longestStretch = 10 * time.Minute

// requestsPerBatch is what a batch costs when nothing goes wrong: a read of its records, and the change.
const requestsPerBatch = 2

// stretch is how long a batch that is not full waits for more jobs, counted from when the last one of the app left, so
// that the requests that are left last for the rest of the day. It is 0, which is the rule of mayLeave alone, as long as
// the app has spent no more than a tenth of its budget, and an even share of the rest for the part of the day that is
// over. Beyond that the batches that are not full share what is left of the day among what is left of requests. Full
// batches never wait: nothing is cheaper.
//
// The share is of what ordinary requests may spend, without the reserve: an app that has jobs all day keeps to the line
// that ends at nothing left at midnight, not before.
func stretch(b kintone.AppBudget, now time.Time) time.Duration {
	if b.PerDay <= 0 || b.WhenSpent == kintone.SpentIgnored {
		return 0
	}
	const day = 24 * time.Hour
	over := now.Sub(b.Day)
	rest := day - over
	if rest <= 0 {
		return 0 // the new day has not been counted yet
	}
	atOnce := float64(b.PerDay) / 10
	even := float64(b.PerDay-b.Reserve) - atOnce
	if float64(b.Spent) <= atOnce+even*float64(over)/float64(day) {
		return 0
	}
	longest := min(longestStretch, rest)
	left := b.Left()
	if left == 0 {
		return longest
	}
	return min(time.Duration(requestsPerBatch*float64(rest)/float64(left)), longest)
}

// budget is what the gate is to hold the app to.
func (c AppConfig) budget() kintone.Budget {
	return kintone.Budget{PerDay: c.DailyRequests, WhenSpent: c.WhenSpent}
}

// describe says what operators see of the app's budget, and of how its jobs travel.
func (c AppConfig) describe(s *LaneStatus, b kintone.AppBudget, now time.Time) {
	s.RequestsToday, s.Budget = b.Spent, c.DailyRequests
	s.Reserve, s.WhenSpent, s.Stretch = 0, "", 0
	if c.DailyRequests > 0 {
		s.Reserve, s.WhenSpent = b.Reserve, cmp.Or(c.WhenSpent, kintone.SpentHalts)
		s.Stretch = int(math.Ceil(stretch(b, now).Seconds()))
	}
	s.Call, s.InflightLimit = "bulk", c.Inflight
	if c.Single {
		s.Call = "single"
	}
}

// weighBudget reports whether the day's budget is spent, so that nothing new may leave; what became of requests is still
// found out, from the reserve. It tells when that begins and ends.
func (l *lane) weighBudget(now time.Time) bool {
	b := l.gate.Budget(l.app.ID)
	exhausted := b.Exhausted()
	switch halts := b.WhenSpent == kintone.SpentHalts; {
	case exhausted && halts && l.broke.IsZero():
		l.broke = now
		l.tell(Event{Kind: EventHalted, Reason: ReasonBudgetSpent, Until: b.Day.Add(24 * time.Hour),
			Detail: fmt.Sprintf("%d of %d requests of the day are spent, the rest is for finding out what became of requests", b.Spent, b.PerDay)})
	case exhausted && !halts && !l.warned.Equal(b.Day):
		l.warned = b.Day
		l.tell(Event{Kind: EventTrouble, Reason: ReasonBudgetSpent, Detail: fmt.Sprintf("%d of %d requests of the day are spent, and the lane goes on", b.Spent, b.PerDay)})
	case !exhausted && !l.broke.IsZero():
		l.broke = time.Time{}
		l.tell(Event{Kind: EventResumed})
	}
	return !l.broke.IsZero()
}
