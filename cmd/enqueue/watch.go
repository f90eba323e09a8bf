package main

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"statusq/internal/campaign"
	"statusq/internal/queue"
)

const (
	// askEvery is how often the worker is asked why the jobs wait.
	askEvery = 5 * time.Second
	// askPatience bounds one question.
	askPatience = 3 * time.Second
	// parkedEvery is the least time between two lines about jobs that are parked.
	parkedEvery = time.Minute
	// lookEvery is how often progress is drawn.
	lookEvery = 500 * time.Millisecond
)

type watchCmd struct {
	Campaign givenID       `arg:"" help:"Name of the campaign."`
	Timeout  time.Duration `placeholder:"TIME" help:"Watch at most this long, as 90s or 2h."`
}

func (c *watchCmd) Run(ctx context.Context, e *env) error {
	if c.Timeout < 0 {
		return usage("--timeout: must not be negative")
	}
	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	record, err := q.Campaign(ctx, string(c.Campaign))
	switch {
	case errors.Is(err, queue.ErrGone):
		return e.noCampaign(c.Campaign)
	case err != nil:
		return err
	}
	e.say("campaign %s, %s, sent on %s by %s", record.Name, count(e.Lang, record.Total, "job"), local(record.Started), orDash(record.By))
	if record.MaxDead != nil {
		e.say("once more than %d are dead, the rest is cancelled", *record.MaxDead)
	}
	switch {
	case !record.Cancelled.IsZero():
		why, _ := campaign.ReasonText(record.CancelledWhy, e.Lang)
		e.say("it was cancelled on %s by %s; what had not been sent by then is not sent", local(record.Cancelled),
			join(orDash(printable(record.CancelledBy)), " ", bracketed(why)))
	case record.Finished.IsZero():
		e.say("only %d have been published so far; if nobody is sending it any more, send the file again", record.Published)
	}
	return e.follow(ctx, q, following{
		filter: queue.ResultFilter{Site: record.Site, Campaign: record.Name}, tally: campaign.NewTally(record.Total, nil),
		apps: splitApps(record.Options["apps"]), campaign: record.Name, timeout: c.Timeout,
	})
}

func (e *env) noCampaign(name givenID) error {
	return e.failure(exitError, "there is no campaign %s: nothing was ever published under this name, or its record is gone", name)
}

// following is what is followed.
type following struct {
	filter   queue.ResultFilter
	tally    *campaign.Tally
	apps     []int64       // whose lanes matter; nil means all
	campaign string        // for the summary; "" for a single job
	job      string        // likewise
	screen   *screen       // shown at the end in place of the summary; nil = the summary
	timeout  time.Duration // 0 means none
}

// follow shows progress until every job has ended, and then how: in the summary on stdout and in the exit code. While
// jobs wait it says why, as far as the worker knows.
func (e *env) follow(ctx context.Context, q *queue.Queue, f following) error {
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()

	results := make(chan queue.Result, 1024)
	broken := make(chan error, 1)
	wg.Go(func() {
		for r, err := range q.WatchResults(watching, f.filter) {
			if err != nil {
				broken <- err
				return
			}
			select {
			case results <- r:
			case <-watching.Done():
				return
			}
		}
	})
	news := make(chan laneNews)
	wg.Go(func() { askLanes(watching, q, f.filter.Site, news) })

	p := e.progress("ended", f.tally.Total())
	defer p.close()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var over <-chan time.Time
	if f.timeout > 0 {
		timer := time.NewTimer(f.timeout)
		defer timer.Stop()
		over = timer.C
	}

	var held []hold // why lanes stand still, as the worker said last
	var told []string
	var parked string // which jobs wait although no lane stands still, likewise
	var parkedTold time.Time
	caughtUp := false
	for !caughtUp || !f.tally.Done() {
		select {
		case r := <-results:
			if r.Seq == 0 { // what was there has been read
				caughtUp = true
				p.ended(f.tally, time.Now())
				continue
			}
			f.tally.Add(r)
			if f.screen != nil {
				f.screen.ends.add(r)
			}
		case <-look.C:
			if !caughtUp {
				continue
			}
			now := time.Now()
			p.ended(f.tally, now)
			if parked != "" && now.Sub(parkedTold) >= parkedEvery {
				p.say("%s", parked)
				parkedTold = now
			}
		case n := <-news:
			if n.err != nil && !errors.Is(n.err, queue.ErrNoWorker) {
				continue // a lost connection is told when it happens; what one answer got wrong the next may get right
			}
			var why []string
			held, why = n.why(f.apps, e.Lang)
			if !slices.Equal(why, told) {
				p.waiting(why)
				told = why
			}
			if parked = ""; len(why) == 0 {
				parked = n.lanes.parked(f.apps, e.Lang)
			}
		case err := <-broken:
			if ctx.Err() != nil {
				return e.leave(p, f)
			}
			return err
		case <-ctx.Done():
			return e.leave(p, f)
		case <-over:
			// The last answer may be from before the lane had tried anything.
			if lanes, err := ask(ctx, q, f.filter.Site); err == nil {
				var why []string
				held, why = laneNews{lanes: lanes}.why(f.apps, e.Lang)
				if len(why) > 0 && !slices.Equal(why, told) {
					p.waiting(why)
				}
			}
			p.close()
			return e.timedOut(ctx, q, f, len(held) > 0)
		}
	}
	p.ended(f.tally, time.Now())
	p.close()
	if err := e.summarise(ctx, q, f, true); err != nil {
		return err
	}
	switch {
	case f.tally.Count(queue.Unknown) > 0:
		return &exit{code: exitUnknown}
	case f.tally.Count(queue.Dead) > 0, f.tally.Count(queue.Cancelled) > 0:
		return &exit{code: exitDead}
	}
	return nil
}

// leave is Ctrl-C: who waits goes, the jobs stay.
func (e *env) leave(p *progress, f following) error {
	p.close()
	again := "enqueue job " + f.job
	if f.campaign != "" {
		again = "enqueue watch " + f.campaign
	}
	return e.failure(exitError, "stopped waiting, %d of %s ended; the jobs go on (%s)", f.tally.Ended(), count(e.Lang, f.tally.Total(), "job"), again)
}

// timedOut ends a wait that was long enough. What holds the jobs up has been said when it began.
func (e *env) timedOut(ctx context.Context, q *queue.Queue, f following, held bool) error {
	if err := e.summarise(ctx, q, f, false); err != nil {
		return err
	}
	if held {
		return e.failure(exitHeld, "not all had ended after %s; the jobs go on when nothing holds them up any more", duration(e.Lang, f.timeout))
	}
	return e.failure(exitTimeout, "not all had ended after %s; the jobs go on", duration(e.Lang, f.timeout))
}

// ending is the summary for scripts.
type ending struct {
	head
	Campaign string                `json:"campaign,omitempty"`
	Job      string                `json:"job,omitempty"`
	Total    int                   `json:"total"`
	Ended    int                   `json:"ended"`
	Outcomes map[queue.Outcome]int `json:"outcomes"`
	Reasons  map[string]int        `json:"reasons"`
	Matched  int                   `json:"matched,omitempty"` // jobs that were made of others, as far as is known; outcomes count them in place of those
	Done     bool                  `json:"done"`
}

// summarise writes to stdout how the jobs ended, done or not.
func (e *env) summarise(ctx context.Context, q *queue.Queue, f following, done bool) error {
	t := f.tally
	ended, matched := t.Matched()
	if e.JSON {
		err := e.emit(ending{head: of("end"), Campaign: f.campaign, Job: f.job, Total: t.Total(), Ended: t.Ended(),
			Outcomes: t.Outcomes(), Reasons: t.Reasons(), Matched: matched, Done: done})
		if err != nil || f.screen == nil {
			return err
		}
	}
	if f.screen != nil {
		return e.showScreen(ctx, q, f, done)
	}
	name := in(e.Lang, "job %s", f.job)
	if f.campaign != "" {
		name = in(e.Lang, "campaign %s", f.campaign)
	}
	if err := e.print("%s: %d of %s ended\n", printable(name), t.Ended(), count(e.Lang, t.Total(), "job")); err != nil {
		return err
	}
	if matched > 0 {
		if err := e.print("  %d of %s ended, each a job of its own\n", ended, count(e.Lang, matched, "matched record")); err != nil {
			return err
		}
	}
	g := e.listing(0, ">", "", "")
	for _, o := range outcomes {
		if n := t.Count(o); n > 0 {
			g.add(n, o, gloss(e.Lang, string(o)))
		}
	}
	if len(t.Outcomes()) > 0 {
		if err := e.write(g, "  "); err != nil {
			return err
		}
	}
	if len(t.Reasons()) == 0 {
		return nil
	}
	if err := e.print("\n"); err != nil {
		return err
	}
	if err := e.explainReasons(t.Reasons()); err != nil {
		return err
	}
	if how := lettersOf(ctx, q, f); how != "" {
		e.say("see them with: enqueue dead ls %s", how)
	}
	return nil
}

// lettersOf says how to list the dead letters of what was followed; "" if there are none. Not all that is told with a
// reason has one: what was cancelled or applied never had, and somebody may have resolved or discarded the others.
func lettersOf(ctx context.Context, q *queue.Queue, f following) (how string) {
	if f.tally.Count(queue.Dead)+f.tally.Count(queue.Unknown) == 0 {
		return ""
	}
	filter, list := queue.DeadFilter{Site: f.filter.Site, App: f.filter.App, Job: f.job, Limit: 1}, "--job "+f.job
	if f.campaign != "" {
		filter, list = queue.DeadFilter{Site: f.filter.Site, Campaign: f.campaign, Limit: 1}, "--campaign "+f.campaign
	}
	for _, err := range q.Dead(ctx, filter) {
		if how = list; err != nil { // the list will tell it
			break
		}
	}
	return how
}

// laneNews is an answer about the lanes, or why there is none.
type laneNews struct {
	lanes lanesAnswer
	err   error
}

// askLanes asks the worker again and again, until ctx ends.
func askLanes(ctx context.Context, q *queue.Queue, site string, news chan<- laneNews) {
	every := time.NewTicker(askEvery)
	defer every.Stop()
	for {
		lanes, err := ask(ctx, q, site)
		select {
		case news <- laneNews{lanes, err}:
		case <-ctx.Done():
			return
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

// why says what holds the lanes of apps up, and line by line what there is to say about it: nothing when all goes its
// way. An answer that failed is taken for that of no worker.
func (n laneNews) why(apps []int64, lang string) (held []hold, lines []string) {
	if n.err != nil {
		return nil, []string{in(lang, "no worker serves this site: the jobs wait until one runs")}
	}
	held = n.lanes.holds(apps, lang)
	for _, h := range held {
		lines = append(lines, h.String())
	}
	return held, lines
}

func splitApps(list string) []int64 {
	var apps []int64
	for part := range strings.SplitSeq(list, ",") {
		if app, err := strconv.ParseInt(part, 10, 64); err == nil {
			apps = append(apps, app)
		}
	}
	slices.Sort(apps)
	return apps
}
