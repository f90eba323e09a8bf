package dispatch

import (
	"testing"
	"time"

	"statusq/internal/kintone"
)

func TestStretch(t *testing.T) {
	day := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		perDay int
		spent  int
		when   kintone.WhenSpent
		at     time.Duration // of the day
		want   time.Duration
	}{
		{"nothing spent", 10_000, 0, "", 0, 0},
		{"a tenth at once", 10_000, 1000, "", 0, 0},
		{"more than a tenth at once: what is left, two a batch, over the day", 10_000, 1001, "", 0, 2 * 24 * time.Hour / 7999},
		{"half the day over, on the line", 10_000, 5000, "", 12 * time.Hour, 0},
		{"half the day over, above the line", 10_000, 6600, "", 12 * time.Hour, 36 * time.Second},
		{"much spent early", 10_000, 8900, "", time.Hour, 10 * time.Minute},
		{"almost nothing left", 10_000, 8999, "", 12 * time.Hour, 10 * time.Minute},
		{"nothing but the reserve left", 10_000, 9000, "", 12 * time.Hour, 10 * time.Minute},
		{"overdrawn", 10_000, 20_000, "", 12 * time.Hour, 10 * time.Minute},
		{"never beyond the day", 10_000, 9000, "", 24*time.Hour - 3*time.Minute, 3 * time.Minute},
		{"the end of the day on the line", 10_000, 8990, "", 24*time.Hour - time.Minute, 0},
		{"a small budget", 100, 50, "", 6 * time.Hour, 10 * time.Minute},
		{"a large one", 1_000_000, 200_000, "", 0, 2 * 24 * time.Hour / 700_000},
		{"warned: as if it were a limit, without a reserve", 10_000, 6400, kintone.SpentWarns, 12 * time.Hour, 24 * time.Second},
		{"warned and overdrawn", 10_000, 12_000, kintone.SpentWarns, 12 * time.Hour, 10 * time.Minute},
		{"off", 10_000, 9999, kintone.SpentIgnored, time.Hour, 0},
		{"no limit", 0, 1_000_000, "", time.Hour, 0},
		{"a day that is over", 10_000, 9000, "", 24 * time.Hour, 0},
	} {
		b := kintone.AppBudget{Budget: kintone.Budget{PerDay: c.perDay, WhenSpent: c.when}, Spent: c.spent, Day: day}
		if c.when == "" {
			b.Reserve = c.perDay / 10
		}
		if got := stretch(b, day.Add(c.at)); (got - c.want).Abs() > time.Microsecond {
			t.Errorf("%s (%d of %d spent at %v): a batch waits %v, want %v", c.name, c.spent, c.perDay, c.at, got, c.want)
		}
	}
}

// A day in which a job comes every so many seconds, and each would leave by itself if it were not for the budget: the
// budget lasts until the day ends, nothing waits longer than ten minutes, and where there are few jobs nothing waits.
func TestStretchLastsTheDay(t *testing.T) {
	day := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		perDay  int
		every   time.Duration // a job
		batches bool          // some have to wait
	}{
		{10_000, time.Second, true}, {10_000, 5 * time.Second, true}, {10_000, 30 * time.Second, false}, {1000, 10 * time.Second, true},
		{1000, 10 * time.Minute, false}, {100_000, 500 * time.Millisecond, true},
	} {
		b := kintone.AppBudget{Budget: kintone.Budget{PerDay: c.perDay}, Reserve: c.perDay / 10, Day: day}
		var left, last time.Time
		var longest time.Duration
		waiting, oldest := 0, time.Time{}
		for now := day; now.Before(day.Add(24 * time.Hour)); now = now.Add(c.every) {
			if waiting == 0 {
				oldest = now
			}
			waiting++
			if waiting < kintone.MaxStatusChanges && now.Before(left.Add(stretch(b, now))) || b.Left() < requestsPerBatch {
				continue
			}
			longest = max(longest, now.Sub(oldest))
			b.Spent += requestsPerBatch
			waiting, left, last = 0, now, now
		}
		if rest := day.Add(24 * time.Hour).Sub(last); rest > 11*time.Minute {
			t.Errorf("%d requests, a job every %v: the last batch left %v before the day was over, with %d left", c.perDay, c.every, rest, b.Left())
		}
		if longest > longestStretch+c.every || !c.batches && longest > 0 || c.batches && longest == 0 {
			t.Errorf("%d requests, a job every %v: a job waited %v", c.perDay, c.every, longest)
		}
	}
}
