package main

import (
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
}

// lane is one app.
type lane struct {
	App           int64  `json:"app"`
	Name          string `json:"name"`
	State         string `json:"state"` // starting, running, halted, unserved, stopping or stopped
	Why           string `json:"why"`   // reason code
	Detail        string `json:"detail"`
	Since         string `json:"since"` // of the state
	Backlog       int64  `json:"backlog"`
	Ready         int64  `json:"ready"`
	InFlight      int64  `json:"inflight"`
	Parked        int64  `json:"parked"`
	Applied       int64  `json:"applied"`
	Dead          int64  `json:"dead"`
	RequestsToday int64  `json:"requestsToday"`
	Budget        int64  `json:"budget"` // of requests a day; 0 = none
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
		held = append(held, because("the site stands still", g.Halted, g.Why, lang))
	case g.Breaker == "open" || g.Breaker == "half-open":
		h := because("kintone does not answer as it should (breaker "+g.Breaker+")", g.Why, "", lang)
		if at, err := time.Parse(time.RFC3339, g.Until); err == nil && time.Until(at) > 0 {
			h.what += ", next probe at " + at.Local().Format("15:04:05")
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
			held = append(held, because(l.title()+" is "+l.State, l.Why, l.Detail, lang))
		case l.spent():
			held = append(held, hold{what: fmt.Sprintf("%s has used its %d requests of today (kintone's day begins at 09:00 Japan time)", l.title(), l.Budget)})
		}
	}
	return held
}

// parked says how many jobs wait for another attempt in the lanes of apps, or in all with none given. It is empty when
// none does.
func (a lanesAnswer) parked(apps []int64) string {
	var lanes []string
	for _, l := range a.Lanes {
		if l.Parked > 0 && among(apps, l.App) {
			lanes = append(lanes, fmt.Sprintf("%s of %s", count(l.Parked, "job"), l.title()))
		}
	}
	if len(lanes) == 0 {
		return ""
	}
	return "parked: " + few(lanes) + "; such jobs wait for another attempt, for a reason that may pass (as record_not_found may), " +
		"or for the time that they name; most end within minutes"
}

// among reports whether an app is one of apps, which mean all if there are none.
func among(apps []int64, app int64) bool { return len(apps) == 0 || slices.Contains(apps, app) }

func (l lane) title() string {
	if l.Name == "" {
		return fmt.Sprintf("app %d", l.App)
	}
	return fmt.Sprintf("app %d (%s)", l.App, l.Name)
}

func (l lane) spent() bool { return l.Budget > 0 && l.RequestsToday >= l.Budget }

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
	t := newGrid("APP>", "NAME", "STATE", "BACKLOG>", "READY>", "IN FLIGHT>", "PARKED>", "APPLIED>", "DEAD>", "REQUESTS TODAY>")
	for _, l := range a.Lanes {
		requests := strconv.FormatInt(l.RequestsToday, 10)
		if l.Budget > 0 {
			requests += fmt.Sprintf(" of %d", l.Budget)
		}
		state := l.State
		if at, err := time.Parse(time.RFC3339, l.Since); err == nil && state != "running" {
			state += " since " + at.Local().Format("01-02 15:04")
		}
		t.add(l.App, orDash(l.Name), state, l.Backlog, l.Ready, l.InFlight, l.Parked, l.Applied, l.Dead, requests)
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
		err := e.emit(struct {
			head
			Site string `json:"site"`
			App  id     `json:"app"` // instead of the lane's own, which is a number
			lane
		}{of("lane"), a.Site, id(l.App), l})
		if err != nil {
			return err
		}
	}
	return nil
}

// few lists the first of many.
func few(list []string) string {
	const shown = 4
	if len(list) <= shown {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s, … %d more", strings.Join(list[:shown], ", "), len(list)-shown)
}
