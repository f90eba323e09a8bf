package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"statusq/internal/queue"
)

// What a forecast assumes of a worker that cannot be asked, or does not know the app yet: its defaults, and that nothing
// was spent today.
const (
	usualBudget    = 10_000 // requests a day
	usualReserve   = usualBudget / 10
	usualRate      = 10.0 // requests a second, of the site
	usualInflight  = 4    // status requests at a time, of an app
	usualRoundTrip = time.Second
)

// What goes into one request: the worker's sizes (kintone's limits, and its own for look-ups by key).
const (
	changesPerRequest = 100
	recordsPerRead    = 500
	keysPerLookUp     = 200
	settingsReads     = 2 // the process settings and the form, as a worker reads them again when it begins
)

// outlook is what jobs will cost, and when they will have ended if nothing goes wrong.
type outlook struct {
	Apps    []appOutlook `json:"apps"`
	Ends    string       `json:"ends"`
	Assumed bool         `json:"assumed"` // no worker was asked about some of the apps
	holds   []hold       // what keeps the worker from working now
}

// appOutlook is the part of one app.
type appOutlook struct {
	App      id      `json:"app"`
	Jobs     int     `json:"jobs"`
	Ahead    int64   `json:"ahead"` // jobs that come first
	Requests int64   `json:"requests"`
	AtLeast  bool    `json:"atLeast,omitempty"` // how many records the keys match is not known
	Budget   int64   `json:"budget"`            // a day; 0 = no limit
	Left     int64   `json:"left"`              // of today's, without the reserve
	OfBudget float64 `json:"ofBudget"`          // the requests as a part of a whole day's budget: 0.01 is a hundredth
	OfLeft   float64 `json:"ofLeft"`            // and of what is left today; over 1 they do not fit into today. 0 when nothing is left
	Ends     string  `json:"ends"`
	ends     time.Time
}

// forecast says what jobs will cost. It asks the worker how it stands, and assumes the usual when there is none: a dry run
// needs no queue. Where there is one, it refuses a site that a send would refuse.
func (e *env) forecast(ctx context.Context, jobs []queue.Job) (outlook, error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	var answer *lanesAnswer
	if q, err := e.connect(ctx); err == nil {
		defer q.Close()
		if err := e.checkSite(ctx, q); err != nil && codeOf(err) == exitUsage {
			return outlook{}, err
		}
		if a, err := ask(ctx, q, e.Site); err == nil {
			answer = &a
		}
	}
	return forecast(jobs, answer, e.Lang, time.Now()), nil
}

// forecast is the calculation. It takes full batches, answers within a second, and no failures.
func forecast(jobs []queue.Job, answer *lanesAnswer, lang string, now time.Time) outlook {
	byApp := make(map[int64][]queue.Job)
	for _, j := range jobs {
		byApp[j.App] = append(byApp[j.App], j)
	}
	apps := slices.Sorted(maps.Keys(byApp))
	rate := usualRate
	if answer != nil && answer.Gate.RequestsPerSecond > 0 {
		rate = answer.Gate.RequestsPerSecond
	}

	var out outlook
	var last time.Time
	for _, app := range apps {
		l := lane{App: app, Budget: usualBudget, Reserve: usualReserve}
		known := false
		if answer != nil {
			if i := slices.IndexFunc(answer.Lanes, func(l lane) bool { return l.App == app }); i >= 0 {
				l, known = answer.Lanes[i], true
			}
		}
		out.Assumed = out.Assumed || !known
		a := forecastApp(l, byApp[app], rate/float64(len(apps)), now)
		out.Apps = append(out.Apps, a)
		if a.ends.After(last) {
			last = a.ends
		}
	}
	out.Ends = utc(last)
	if answer != nil {
		out.holds = answer.holds(apps, lang)
	}
	return out
}

// forecastApp takes one app, which has so many requests of the site's rate for itself.
func forecastApp(l lane, jobs []queue.Job, rate float64, now time.Time) appOutlook {
	requests, atLeast := cost(jobs, l.Call == "single")
	a := appOutlook{
		App: id(l.App), Jobs: len(jobs), Ahead: l.Backlog, Requests: requests, AtLeast: atLeast, Budget: l.Budget, Left: l.left(),
	}
	if l.Budget > 0 {
		a.OfBudget = float64(requests) / float64(l.Budget)
	}
	if a.Left > 0 {
		a.OfLeft = float64(requests) / float64(a.Left)
	}
	ahead := ceil(l.Backlog, changesPerRequest) + ceil(l.Backlog, recordsPerRead)
	if l.Call == "single" {
		ahead = l.Backlog + ceil(l.Backlog, recordsPerRead)
	}
	rate = min(rate, float64(cmp.Or(l.InflightLimit, usualInflight))/usualRoundTrip.Seconds())
	a.ends = l.finish(requests+ahead, rate, now)
	for _, j := range jobs {
		if j.NotBefore.After(a.ends) {
			a.ends = j.NotBefore
		}
	}
	a.Ends = utc(a.ends)
	return a
}

// cost is how many requests jobs take when nothing goes wrong. It reports true if it may be more, because a key may match
// several records.
func cost(jobs []queue.Job, single bool) (requests int64, atLeast bool) {
	records := make(map[int64]int64) // jobs by record
	keys := make(map[queue.Key]int64)
	fields := make(map[string]int64) // keys by field: a look-up is in one
	var most int64                   // jobs on one record: they go one after the other
	for _, j := range jobs {
		if j.Key == nil {
			records[j.Record]++
			most = max(most, records[j.Record])
			continue
		}
		if keys[*j.Key]++; keys[*j.Key] == 1 {
			fields[j.Key.Field]++
		}
		most = max(most, keys[*j.Key])
		atLeast = atLeast || j.Match == queue.MatchAll
	}
	n := int64(len(jobs))
	changes := n
	if !single {
		changes = max(ceil(n, changesPerRequest), most)
	}
	requests = settingsReads + changes + ceil(int64(len(records)), recordsPerRead)
	for _, n := range fields {
		requests += ceil(n, keysPerLookUp)
	}
	return requests, atLeast
}

// finish is when so many requests have been made at a rate, on as many days as the budget takes. Full batches are not
// slowed down for the budget's sake.
func (l lane) finish(requests int64, rate float64, now time.Time) time.Time {
	const day = 24 * time.Hour
	start := now
	if perDay := l.Budget - l.Reserve; l.halts() && perDay > 0 && requests > l.left() {
		requests -= l.left()
		days := (requests - 1) / perDay // that are filled wholly, after today
		requests -= days * perDay
		start = now.UTC().Truncate(day).Add(time.Duration(min(days, 100_000)+1) * day)
	}
	return start.Add(time.Duration(float64(requests) / rate * float64(time.Second)))
}

func ceil(n, per int64) int64 { return (n + per - 1) / per }

// show writes the outlook for people.
func (o outlook) show(e *env) error {
	g := e.newGrid("APP>", "JOBS>", "REQUESTS>", "OF A DAY'S>", "OF TODAY'S REST>", "ENDED ABOUT")
	for _, a := range o.Apps {
		requests := fmt.Sprint(a.Requests)
		if a.AtLeast {
			requests = in(e.Lang, "at least %d", a.Requests)
		}
		ofBudget, ofLeft := "-", "-"
		if a.Budget > 0 {
			ofBudget = in(e.Lang, "%s of %d", percent(a.OfBudget), a.Budget)
			ofLeft = in(e.Lang, "nothing is left")
			if a.Left > 0 {
				ofLeft = in(e.Lang, "%s of %d", percent(a.OfLeft), a.Left)
			}
		}
		g.add(a.App, a.Jobs, requests, ofBudget, ofLeft, local(a.ends))
	}
	if err := e.write(g, ""); err != nil {
		return err
	}
	stop := word(e.Lang, ".") + "\n"
	text := "\n" + in(e.Lang, "if nothing goes wrong, with full batches and a second for each request")
	for _, a := range o.Apps {
		if a.Ahead > 0 {
			text += in(e.Lang, "; %s of app %d come first", count(e.Lang, a.Ahead, "job"), a.App)
		}
	}
	if o.Assumed {
		text += stop + in(e.Lang, "No worker could be asked about all apps. Where none could, it is assumed that an app may make %d requests a day, "+
			"that %d of them are kept in reserve and none was made today, and that the site takes %.0f a second", usualBudget, usualReserve, usualRate)
	}
	if err := e.print("%s", text+stop); err != nil {
		return err
	}
	for _, h := range o.holds {
		if err := e.print("now: %s\n", printable(h.String())); err != nil {
			return err
		}
	}
	return nil
}

// percent is a part of a whole for people.
func percent(part float64) string {
	switch {
	case part > 0 && part < 0.001:
		return "<0.1%"
	case part < 0.1:
		return fmt.Sprintf("%.1f%%", part*100)
	}
	return fmt.Sprintf("%.0f%%", part*100)
}
