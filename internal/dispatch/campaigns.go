package dispatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"statusq/internal/queue"
)

// campaigns is what an owner knows of the campaigns of its site that end before their last job: taken back by somebody,
// or with more dead than was agreed. All lanes share it.
type campaigns struct {
	queue *queue.Queue
	site  string
	tell  func(Event)

	mu     sync.Mutex // guards what follows
	over   map[string]string
	limits map[string]*deadLimit
	pokes  []chan struct{} // of the lanes
}

// deadLimit is how many of a campaign's jobs may die, and how many have.
type deadLimit struct{ most, dead int }

func newCampaigns(q *queue.Queue, site string, tell func(Event)) *campaigns {
	return &campaigns{queue: q, site: site, tell: tell, over: make(map[string]string), limits: make(map[string]*deadLimit)}
}

// load reads what stands in the queue, before any lane begins. A campaign that only a newer program can read is told of;
// its jobs run.
func (c *campaigns) load(ctx context.Context) error {
	for one, err := range c.queue.Campaigns(ctx, c.site) {
		switch {
		case err == nil:
			err = c.heard(ctx, one)
		case one.Site != "":
			c.tell(Event{Kind: EventTrouble, Detail: err.Error()})
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// watch follows what changes until ctx ends.
func (c *campaigns) watch(ctx context.Context) {
	for n := 1; ctx.Err() == nil; n++ {
		for one, err := range c.queue.WatchCampaigns(ctx, c.site) {
			if err == nil {
				if err = c.heard(ctx, one); err == nil {
					n = 1
					continue
				}
			}
			if ctx.Err() == nil {
				c.tell(Event{Kind: EventTrouble, Detail: err.Error()})
			}
			if one.Site == "" {
				break
			}
		}
		_ = sleep(ctx, backOff(n, time.Minute, 0))
	}
}

// heard takes in a campaign as it stands in the queue.
func (c *campaigns) heard(ctx context.Context, one queue.Campaign) error {
	if !one.Cancelled.IsZero() {
		reason := ReasonCancelled
		if one.CancelledWhy != "" {
			reason = one.CancelledWhy
		}
		c.close(one.Name, reason)
		return nil
	}
	c.reopen(one.Name)
	if one.MaxDead == nil {
		return nil
	}
	c.mu.Lock()
	limit, counted := c.limits[one.Name]
	if !counted {
		limit = new(deadLimit)
		c.limits[one.Name] = limit // who dies from here on is counted
	}
	limit.most = *one.MaxDead
	exceeded := counted && limit.dead > limit.most
	c.mu.Unlock()
	if !counted {
		before, began := 0, time.Now()
		for d, err := range c.queue.Dead(ctx, queue.DeadFilter{Site: c.site, Campaign: one.Name}) {
			if err != nil {
				c.mu.Lock()
				delete(c.limits, one.Name) // it is counted anew
				c.mu.Unlock()
				return err
			}
			if d.Job.Campaign == one.Name && d.Died.Before(began) {
				before++
			}
		}
		c.mu.Lock()
		limit.dead += before
		exceeded = limit.dead > limit.most
		c.mu.Unlock()
	}
	if exceeded {
		c.close(one.Name, ReasonMaxDead)
		c.note(ctx, one.Name) // whoever found it out before may not have lived to
	}
	return nil
}

// reopen forgets that a campaign was cancelled: it was put into the queue again.
func (c *campaigns) reopen(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over[name] == ReasonCancelled {
		delete(c.over, name)
	}
}

// close ends a campaign for all lanes.
func (c *campaigns) close(name, reason string) {
	c.mu.Lock()
	_, was := c.over[name]
	if !was {
		c.over[name] = reason
	}
	pokes := c.pokes
	c.mu.Unlock()
	if was {
		return
	}
	for _, poke := range pokes {
		select {
		case poke <- struct{}{}:
		default: // it has to look anyway
		}
	}
}

// join makes a lane hear of what ends.
func (c *campaigns) join(poke chan struct{}) {
	c.mu.Lock()
	c.pokes = append(c.pokes, poke)
	c.mu.Unlock()
}

// ended says why the jobs of a campaign are not to be run any more; "" if they are.
func (c *campaigns) ended(name string) string {
	if name == "" {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over[name]
}

// died counts a dead job and reports whether it was the one too many.
func (c *campaigns) died(name string) bool {
	if name == "" {
		return false
	}
	c.mu.Lock()
	limit := c.limits[name]
	if limit == nil || c.over[name] != "" {
		c.mu.Unlock()
		return false
	}
	limit.dead++
	over := limit.dead > limit.most
	c.mu.Unlock()
	if over {
		c.close(name, ReasonMaxDead)
	}
	return over
}

// note writes down that a campaign has ended early, so that whoever sends it stops, and the next owner knows.
func (c *campaigns) note(ctx context.Context, name string) {
	for n := 1; ctx.Err() == nil; n++ {
		err := c.queue.UpdateCampaign(ctx, name, func(one *queue.Campaign) error {
			if one.Site == "" {
				return queue.ErrGone // somebody took its record away
			}
			if one.Cancelled.IsZero() {
				one.Cancelled, one.CancelledBy, one.CancelledWhy = time.Now().UTC(), "statusq", ReasonMaxDead
			}
			return nil
		})
		if err == nil || errors.Is(err, queue.ErrGone) {
			return
		}
		c.tell(Event{Kind: EventTrouble, Detail: err.Error()})
		_ = sleep(ctx, backOff(n, 10*time.Second, 0))
	}
}

// mourn counts a job that ends without having been run as it should.
func (l *lane) mourn(v verdict) {
	if v.outcome != queue.Dead && v.outcome != queue.Unknown || v.resolved {
		return
	}
	if name := v.task.job.Campaign; l.campaigns.died(name) {
		l.swept = false // before anything more leaves
		l.tell(Event{Kind: EventTrouble, Reason: ReasonMaxDead, Detail: fmt.Sprintf("campaign %s has more dead than it may have: what has not left does not leave", name)})
		l.wg.Go(func() { l.campaigns.note(l.work, name) })
	}
}

// over says why a job is not to be run any more, because its campaign has ended. What an operator has sent again since
// has his word.
func (l *lane) over(t *task) string {
	if slices.ContainsFunc(t.attempts, func(a queue.Attempt) bool { return a.Reason == queue.ReasonRetried }) {
		return ""
	}
	return l.campaigns.ended(t.job.Campaign)
}

// cancelled is the end of a job whose campaign has ended.
func cancelled(t *task, reason string) verdict {
	message := "its campaign was cancelled before it was sent"
	if reason == ReasonMaxDead {
		message = "more jobs of its campaign had died than it may have"
	}
	return verdict{task: t, outcome: queue.Cancelled, reason: reason, message: message}
}

// sweep ends the jobs of campaigns that have ended, those that are parked when they have come back, which is at once.
func (l *lane) sweep() {
	l.swept = true
	var open []*task
	for _, chain := range l.backlog.chains {
		for _, t := range chain {
			switch {
			case t.state == stateOpen && l.over(t) != "":
				open = append(open, t)
			case t.state == stateParked && l.campaigns.ended(t.campaign) != "":
				l.backlog.hasten(t)
			}
		}
	}
	slices.SortFunc(open, func(a, b *task) int { return cmp.Compare(a.seq, b.seq) })
	for _, t := range open {
		l.decide(cancelled(t, l.over(t)))
	}
}
