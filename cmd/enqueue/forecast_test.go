package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"statusq/internal/queue"
)

// jobsOn are n jobs of app 5, each on a record of its own.
func jobsOn(n int) []queue.Job {
	jobs := make([]queue.Job, n)
	for i := range jobs {
		jobs[i] = queue.Job{App: 5, Record: int64(i + 1), Action: "Approve"}
	}
	return jobs
}

func byKeys(field, match string, n int) []queue.Job {
	jobs := make([]queue.Job, n)
	for i := range jobs {
		jobs[i] = queue.Job{App: 5, Key: &queue.Key{Field: field, Value: fmt.Sprint(i)}, Match: match, Action: "Approve"}
	}
	return jobs
}

func TestCost(t *testing.T) {
	oneRecord := jobsOn(30)
	for i := range oneRecord {
		oneRecord[i].Record = 7
	}
	for _, c := range []struct {
		name    string
		jobs    []queue.Job
		single  bool
		want    int64
		atLeast bool
	}{
		{"one job", jobsOn(1), false, 2 + 1 + 1, false},
		{"a full batch", jobsOn(100), false, 2 + 1 + 1, false},
		{"one more", jobsOn(101), false, 2 + 2 + 1, false},
		{"ten thousand", jobsOn(10_000), false, 2 + 100 + 20, false},
		{"one by one", jobsOn(250), true, 2 + 250 + 1, false},
		{"thirty jobs on one record go one after the other", oneRecord, false, 2 + 30 + 1, false},
		{"by keys", byKeys("code", queue.MatchOne, 450), false, 2 + 5 + 3, false},
		{"by keys of two fields", append(byKeys("code", queue.MatchOne, 1), byKeys("no", queue.MatchOne, 1)...), false, 2 + 1 + 2, false},
		{"by a key that may match many", byKeys("code", queue.MatchAll, 1), false, 2 + 1 + 1, true},
	} {
		if got, atLeast := cost(c.jobs, c.single); got != c.want || atLeast != c.atLeast {
			t.Errorf("%s: %d requests (at least: %v), want %d (%v)", c.name, got, atLeast, c.want, c.atLeast)
		}
	}
}

func TestForecast(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	midnight := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	late := jobsOn(1)
	late[0].NotBefore = now.Add(48 * time.Hour)
	// 10,000 jobs are 122 requests, which is 30.5 s with four at a time.
	for _, c := range []struct {
		name string
		jobs []queue.Job
		lane lane
		rate float64
		ends time.Time
		left int64
	}{
		{"fits into today", jobsOn(10_000), lane{Budget: 10_000, Reserve: 1000, RequestsToday: 500, WhenSpent: "halt"}, 10, now.Add(30500 * time.Millisecond), 8500},
		{"more at a time", jobsOn(10_000), lane{Budget: 10_000, Reserve: 1000, InflightLimit: 8}, 10, now.Add(15250 * time.Millisecond), 9000},
		{"the site is slower", jobsOn(10_000), lane{Budget: 10_000, Reserve: 1000}, 1, now.Add(122 * time.Second), 9000},
		{"behind others", jobsOn(10_000), lane{Budget: 10_000, Reserve: 1000, Backlog: 1000}, 10, now.Add(33500 * time.Millisecond), 9000},
		{"today's rest is just enough", jobsOn(10_000), lane{Budget: 10_000, Reserve: 1000, RequestsToday: 9000 - 122}, 10, now.Add(30500 * time.Millisecond), 122},
		{"one is left over", jobsOn(10_000), lane{Budget: 10_000, Reserve: 1000, RequestsToday: 9000 - 121}, 10, midnight.Add(250 * time.Millisecond), 121},
		{"nothing is left today", jobsOn(10_000), lane{Budget: 10_000, Reserve: 1000, RequestsToday: 9400}, 10, midnight.Add(30500 * time.Millisecond), 0},
		{"days of it", jobsOn(10_000), lane{Budget: 50, Reserve: 5, RequestsToday: 45}, 10, midnight.Add(48 * time.Hour).Add(8 * time.Second), 0},
		{"days that are filled to the last", jobsOn(10_000), lane{Budget: 61, WhenSpent: "halt", RequestsToday: 61}, 10, midnight.Add(24 * time.Hour).Add(15250 * time.Millisecond), 0},
		{"only warned", jobsOn(10_000), lane{Budget: 50, RequestsToday: 500, WhenSpent: "warn"}, 10, now.Add(30500 * time.Millisecond), 0},
		{"without a limit", jobsOn(10_000), lane{}, 10, now.Add(30500 * time.Millisecond), 0},
		{"one by one", jobsOn(100), lane{Call: "single", Budget: 10_000, Reserve: 1000}, 10, now.Add(25750 * time.Millisecond), 9000},
		{"not before", late, lane{Budget: 10_000, Reserve: 1000}, 10, now.Add(48 * time.Hour), 9000},
	} {
		got := forecastApp(c.lane, c.jobs, c.rate, now)
		if !got.ends.Equal(c.ends) || got.Left != c.left || got.Ends != utc(c.ends) {
			t.Errorf("%s: ended at %v with %d left, want %v and %d", c.name, got.ends, got.Left, c.ends, c.left)
		}
		if c.lane.Budget > 0 && math.Abs(got.OfBudget-float64(got.Requests)/float64(c.lane.Budget)) > 1e-9 {
			t.Errorf("%s: %d requests are %v of %d", c.name, got.Requests, got.OfBudget, c.lane.Budget)
		}
	}
}

// A dry run needs no worker; when there is one, it is asked.
func TestDryRunForecasts(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	csv := "app,record,action\n"
	for n := range 250 {
		csv += fmt.Sprintf("5,%d,承認\n", n+1)
	}
	path := p.file(t, "forecast.csv", csv)
	enqueue(t, "send", "--file", path, "--dry-run").want(t, exitDone, []string{
		"  5   250         6  <0.1% of 10000    <0.1% of 9000", "No worker could be asked", "250 jobs, all valid; nothing was sent"}, nil)
	enqueue(t, "send", "--file", path, "--dry-run", "--lang", "ja").want(t, exitDone, []string{"見込みです。\nワーカーに確認できなかったアプリは、1日10000件", "!%!"}, nil)

	a := lanesAnswer{V: 1, Site: "main", Gate: gate{Breaker: "closed", RequestsPerSecond: 1}, Lanes: []lane{{
		App: 5, State: "running", Backlog: 7, RequestsToday: 80, Budget: 100, Reserve: 10, WhenSpent: "halt", Call: "single", InflightLimit: 4,
	}}}
	stop, err := p.q.Serve(t.Context(), "main", map[string]queue.Handler{"lanes": func(context.Context, []byte) ([]byte, error) { return json.Marshal(a) }})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	enqueue(t, "send", "--file", path, "--dry-run").want(t, exitDone, []string{
		"  5   250       253  253% of 100      2530% of 10", "7 jobs of app 5 come first", "!No worker", "nothing was sent"}, nil)
	enqueue(t, "send", "--file", path, "--dry-run", "--lang", "ja").want(t, exitDone, []string{"本日の残りに対して", "100の253%", "10の2530%",
		"見込みです。アプリ5では先着のジョブ7件が先です。\n", "!APP", "!OF ", "!%!"}, nil)
	dry := enqueue(t, "send", "--app", "5", "--record", "1", "--action", "承認", "--dry-run", "--json").lines(t)[0]
	f, _ := dry["forecast"].(map[string]any)
	if f == nil || f["assumed"] != false || f["ends"] == "" {
		t.Fatalf("--dry-run --json printed %v", dry)
	}
	app := f["apps"].([]any)[0].(map[string]any)
	if app["app"] != "5" || app["requests"] != 4.0 || app["left"] != 10.0 || app["ofLeft"] != 0.4 || app["ahead"] != 7.0 {
		t.Errorf("the forecast is %v", app)
	}
	keys := []string{"send", "--app", "5", "--key-field", "code", "--key", "C-1", "--match", "all", "--action", "承認", "--dry-run"}
	enqueue(t, keys...).want(t, exitDone, []string{"at least 4"}, nil)

	// The app waits for the new day: it says so.
	a.Lanes[0].RequestsToday = 95
	enqueue(t, "send", "--file", path, "--dry-run").want(t, exitDone, []string{"nothing is left", "now: app 5 waits: the app has used up its requests of today [95 of 100 requests, 5 kept in reserve]"}, nil)
}

func TestLanesShowTheBudget(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	a := lanesAnswer{V: 1, Site: "main", Gate: gate{Breaker: "closed"}, Lanes: []lane{
		{App: 5, State: "running", RequestsToday: 5500, Budget: 10_000, Reserve: 1000, WhenSpent: "halt", Stretch: 75},
		{App: 6, State: "running", RequestsToday: 12, Budget: 100, WhenSpent: "warn"},
		{App: 7, State: "running", RequestsToday: 3},
		{App: 8, State: "unserved", Budget: 10_000, WhenSpent: "halt"},
	}}
	stop, err := p.q.Serve(t.Context(), "main", map[string]queue.Handler{"lanes": func(context.Context, []byte) ([]byte, error) { return json.Marshal(a) }})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	got := enqueue(t, "lanes")
	got.want(t, exitDone, []string{"5500 of 10000", "12 of 100",
		"APP  LEFT FOR JOBS TODAY  KEPT IN RESERVE  BATCHES",
		"  5                 3500             1000  every 1m15s                waits until 09:00 Japan time",
		"  6                   88                0  leave at once              goes on, and warns"}, nil)
	enqueue(t, "lanes", "--lang", "ja").want(t, exitDone, []string{"アプリ  本日の残り（ジョブ用）  予備として確保  満杯でないバッチ", "5500（上限10000）", "日本時間9時まで待機"}, nil)
	lines := enqueue(t, "lanes", "--json").lines(t)
	if l := lines[1]; l["leftForJobs"] != 3500.0 || l["keptInReserve"] != 1000.0 || l["app"] != "5" {
		t.Errorf("the lane of app 5 is %v", l)
	}
	if l := lines[3]; l["leftForJobs"] != nil || l["keptInReserve"] != nil {
		t.Errorf("the lane of app 7, without a budget, is %v", l)
	}
	a.Lanes[0].RequestsToday = 9700 // some of the reserve is spent
	enqueue(t, "lanes").want(t, exitDone, []string{"  5                    0              300  every 1m15s", "[9700 of 10000 requests, 300 kept in reserve]"}, nil)
	if n := strings.Count(got.out, "\n  7 "); n != 1 {
		t.Errorf("app 7, without a budget, is listed %d times:\n%s", n, got.out)
	}
	if n := strings.Count(got.out, "\n  8 "); n != 1 {
		t.Errorf("app 8, which kintone does not confirm, is listed %d times:\n%s", n, got.out)
	}
}
