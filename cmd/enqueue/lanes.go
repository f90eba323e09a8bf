package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"statusq/internal/campaign"
	"statusq/internal/queue"
)

// lanesAnswer is what the worker says about itself when asked for "lanes".
type lanesAnswer struct {
	V     int    `json:"v"`
	Site  string `json:"site"`
	Owner string `json:"owner"`
	Epoch uint64 `json:"epoch"`
	Gate  gate   `json:"gate"`
	Lanes []lane `json:"lanes"`
}

// gate is what all requests of a site pass.
type gate struct {
	Breaker     string `json:"breaker"` // closed, open or half-open
	Why         string `json:"why"`     // what was seen: of the breaker, or of the halt
	Until       string `json:"until"`   // of the next probe
	Concurrency int    `json:"concurrency"`
	InUse       int    `json:"inUse"`
	Halted      string `json:"halted"` // reason code, if the site stands still until somebody does something

	RequestsPerSecond float64 `json:"requestsPerSecond"` // at most; 0 from a worker that does not say
}

// lane is one app.
type lane struct {
	App           int64  `json:"app"`
	Name          string `json:"name"`
	State         string `json:"state"` // starting, running, halted, changing, unserved, stopping or stopped
	Why           string `json:"why"`   // reason code; of one that runs, what makes it slow
	Until         string `json:"until"` // of one that gathers jobs: when its next batch leaves
	Detail        string `json:"detail"`
	Since         string `json:"since"` // of the state
	Backlog       int64  `json:"backlog"`
	Ready         int64  `json:"ready"`
	InFlight      int64  `json:"inflight"`
	Parked        int64  `json:"parked"`
	Applied       int64  `json:"applied"`
	Dead          int64  `json:"dead"`
	RequestsToday int64  `json:"requestsToday"`
	Budget        int64  `json:"budget"`         // of requests a day; 0 = no limit
	Reserve       int64  `json:"reserve"`        // of the budget, for requests that find out what became of others
	WhenSpent     string `json:"whenSpent"`      // halt, warn or off; "" without a budget
	Stretch       int64  `json:"stretchSeconds"` // from one batch that is not full to the next, so that the budget lasts
	Call          string `json:"call"`           // bulk or single
	InflightLimit int64  `json:"inflightLimit"`  // status requests at a time
}

// ask asks the worker that owns a site.
func ask(ctx context.Context, q *queue.Queue, site string) (lanesAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	raw, err := q.Ask(ctx, site, "lanes", nil)
	if err != nil {
		return lanesAnswer{}, err
	}
	var a lanesAnswer
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, fmt.Errorf("the worker's answer: %w", err)
	}
	if a.V != 1 {
		return a, fmt.Errorf("the worker answers in version %d, this program knows 1", a.V)
	}
	return a, nil
}

// hold is one thing that keeps lanes from working, and what can be done about it.
type hold struct{ what, todo string }

// String is the hold on one line.
func (h hold) String() string {
	if h.todo == "" {
		return h.what
	}
	return h.what + " → " + h.todo
}

// holds says what keeps the lanes of apps from working, or all lanes with none given. It is empty when nothing does.
func (a lanesAnswer) holds(apps []int64, lang string) []hold {
	var held []hold
	g := a.Gate
	switch {
	case g.Halted != "":
		held = append(held, because(in(lang, "the site stands still"), g.Halted, g.Why, lang))
	case g.Breaker == "open" || g.Breaker == "half-open":
		h := because(in(lang, "kintone does not answer as it should (breaker %s)", g.Breaker), g.Why, "", lang)
		if at, err := time.Parse(time.RFC3339, g.Until); err == nil && time.Until(at) > 0 {
			h.what += in(lang, ", next probe at %s", at.Local().Format("15:04:05"))
		}
		held = append(held, h)
	}
	for _, l := range a.Lanes {
		if !among(apps, l.App) {
			continue
		}
		switch {
		case l.State == "starting", l.State == "stopping": // on the way to something else, in a moment
		case l.State != "running":
			held = append(held, because(in(lang, "%s is %s", l.title(lang), l.State), l.Why, l.Detail, lang))
		case l.halts() && l.left() == 0:
			held = append(held, because(in(lang, "%s waits", l.title(lang)), budgetSpent, l.spent(lang), lang))
		case l.Why == budgetPaced:
			held = append(held, l.gathers(lang))
		}
	}
	return held
}

// parked says how many jobs wait for another attempt in the lanes of apps, or in all with none given. It is empty when
// none does.
func (a lanesAnswer) parked(apps []int64, lang string) string {
	var lanes []string
	for _, l := range a.Lanes {
		if l.Parked > 0 && among(apps, l.App) {
			lanes = append(lanes, in(lang, "%s of %s", count(lang, l.Parked, "job"), l.title(lang)))
		}
	}
	if len(lanes) == 0 {
		return ""
	}
	return in(lang, "parked: %s; such jobs wait for another attempt, for a reason that may pass (as record_not_found may), "+
		"or for the time that they name; most end within minutes", few(lanes, lang))
}

// among reports whether an app is one of apps, which mean all if there are none.
func among(apps []int64, app int64) bool { return len(apps) == 0 || slices.Contains(apps, app) }

func (l lane) title(lang string) string {
	if l.Name == "" {
		return in(lang, "app %d", l.App)
	}
	return in(lang, "app %d (%s)", l.App, l.Name)
}

// gathers says that the lane keeps jobs back so that the day's budget lasts, and until when.
func (l lane) gathers(lang string) hold {
	h := hold{what: in(lang, "app %d gathers jobs into fuller batches, as the day's budget is short", l.App)}
	if at, err := time.Parse(time.RFC3339, l.Until); err == nil && time.Until(at) > 0 {
		h.what += in(lang, "; the next leaves at %s", at.Local().Format("15:04:05"))
	}
	return h
}

// halts reports whether the lane waits for the next day when its budget is spent.
func (l lane) halts() bool { return l.Budget > 0 && (l.WhenSpent == "halt" || l.WhenSpent == "") }

// left is how many requests of today are left for jobs.
func (l lane) left() int64 { return max(l.Budget-l.Reserve-l.RequestsToday, 0) }

// kept is what is left of the reserve.
func (l lane) kept() int64 { return min(l.Reserve, max(l.Budget-l.RequestsToday, 0)) }

// spent says how the budget of a lane stands that waits for another day.
func (l lane) spent(lang string) string {
	if l.Reserve == 0 {
		return in(lang, "%d of %d requests", l.RequestsToday, l.Budget)
	}
	return in(lang, "%d of %d requests, %d kept in reserve", l.RequestsToday, l.Budget, l.kept())
}

// because adds to a fact what its reason code means and what else was said of it.
func because(fact, code, detail, lang string) hold {
	h := hold{what: fact}
	if code != "" {
		var what string
		what, h.todo = campaign.ReasonText(code, lang)
		h.what += ": " + what
	}
	if detail != "" {
		h.what += " [" + detail + "]"
	}
	return h
}

type lanesCmd struct{}

func (c *lanesCmd) Run(ctx context.Context, e *env) error {
	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	a, err := ask(ctx, q, e.Site)
	if err != nil {
		return err
	}
	if e.JSON {
		return c.emit(e, a)
	}

	g := a.Gate
	breaker := g.Breaker
	if g.Halted != "" {
		breaker = "halted"
	}
	err = e.print("site %s   worker %s (epoch %d)   breaker %s   %d of %d requests at a time\n\n",
		a.Site, printable(a.Owner), a.Epoch, breaker, g.InUse, g.Concurrency)
	if err != nil {
		return err
	}
	if err := a.table(e); err != nil {
		return err
	}
	if err := a.budgets(e); err != nil {
		return err
	}
	for i, h := range a.holds(nil, e.Lang) {
		text := printable(h.what) + "\n"
		if i == 0 {
			text = "\n" + text
		}
		if h.todo != "" {
			text += "  → " + h.todo + "\n"
		}
		if err := e.print("%s", text); err != nil {
			return err
		}
	}
	return nil
}

// table writes the lanes, one per row.
func (a lanesAnswer) table(e *env) error {
	if len(a.Lanes) == 0 {
		return e.print("no app has jobs\n")
	}
	t := e.newGrid("APP>", "NAME", "STATE", "BACKLOG>", "READY>", "IN FLIGHT>", "PARKED>", "APPLIED>", "DEAD>", "REQUESTS TODAY>")
	for _, l := range a.Lanes {
		requests := strconv.FormatInt(l.RequestsToday, 10)
		if l.Budget > 0 {
			requests += in(e.Lang, " of %d", l.Budget)
		}
		state := l.State
		if at, err := time.Parse(time.RFC3339, l.Since); err == nil && state != "running" {
			state += in(e.Lang, " since %s", at.Local().Format("01-02 15:04"))
		}
		t.add(l.App, orDash(l.Name), state, l.Backlog, l.Ready, l.InFlight, l.Parked, l.Applied, l.Dead, requests)
	}
	return e.write(t, "")
}

// budgeted reports whether the lane spends of a budget: one that kintone does not confirm sends nothing.
func (l lane) budgeted() bool { return l.Budget > 0 && l.State != "unserved" }

// budgets writes what the day has left for those lanes that have a budget.
func (a lanesAnswer) budgets(e *env) error {
	t := e.newGrid("APP>", "LEFT FOR JOBS TODAY>", "KEPT IN RESERVE>", "BATCHES THAT ARE NOT FULL", "WHEN NOTHING IS LEFT")
	spent := map[string]string{ // by what the lane does when nothing is left
		"halt": in(e.Lang, "waits until 09:00 Japan time"), "warn": in(e.Lang, "goes on, and warns"), "off": in(e.Lang, "goes on"),
	}
	rows := 0
	for _, l := range a.Lanes {
		if !l.budgeted() {
			continue
		}
		pace := in(e.Lang, "leave at once")
		if l.Stretch > 0 {
			pace = in(e.Lang, "every %s", span(e.Lang, time.Duration(l.Stretch)*time.Second))
		}
		t.add(l.App, l.left(), l.kept(), pace, orDash(spent[cmp.Or(l.WhenSpent, "halt")]))
		rows++
	}
	if rows == 0 {
		return nil
	}
	if err := e.print("\n"); err != nil {
		return err
	}
	return e.write(t, "")
}

// emit writes the site and each lane as a line of its own.
func (c *lanesCmd) emit(e *env, a lanesAnswer) error {
	err := e.emit(struct {
		head
		Site  string `json:"site"`
		Owner string `json:"owner"`
		Epoch string `json:"epoch"`
		Gate  gate   `json:"gate"`
	}{of("site"), a.Site, a.Owner, strconv.FormatUint(a.Epoch, 10), a.Gate})
	if err != nil {
		return err
	}
	for _, l := range a.Lanes {
		ofBudget := func(n int64) *int64 {
			if !l.budgeted() {
				return nil
			}
			return &n
		}
		err := e.emit(struct {
			head
			Site string `json:"site"`
			App  id     `json:"app"` // instead of the lane's own, which is a number
			lane
			LeftForJobs   *int64 `json:"leftForJobs,omitempty"`   // of today's requests, where there is a budget
			KeptInReserve *int64 `json:"keptInReserve,omitempty"` // what is left of the reserve
		}{head: of("lane"), Site: a.Site, App: id(l.App), lane: l, LeftForJobs: ofBudget(l.left()), KeptInReserve: ofBudget(l.kept())})
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	// budgetSpent is the reason code of a lane that waits for the next day's requests.
	budgetSpent = "budget_spent"
	// budgetPaced is that of one that runs, and sends batches that are not full less often so that today's last.
	budgetPaced = "budget_paced"
)

// few lists the first of many.
func few(list []string, lang string) string {
	const shown = 4
	if len(list) <= shown {
		return strings.Join(list, ", ")
	}
	return in(lang, "%s, … %d more", strings.Join(list[:shown], ", "), len(list)-shown)
}
