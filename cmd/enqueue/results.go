package main

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"statusq/internal/queue"
)

type resultsCmd struct {
	Campaign givenID       `arg:"" help:"Name of the campaign."`
	App      int64         `placeholder:"ID" help:"Only of this app."`
	Outcome  queue.Outcome `placeholder:"OUTCOME" help:"Only jobs that ended so: applied, already, duplicate, cancelled, dead or unknown."`
}

// jobResult is how a job ended, for scripts.
type jobResult struct {
	head
	Job      string        `json:"job"`
	App      id            `json:"app"`
	Record   id            `json:"record,omitempty"`
	Outcome  queue.Outcome `json:"outcome"`
	Revision id            `json:"revision,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Code     string        `json:"code,omitempty"`
	Ended    string        `json:"ended"`
}

func (c *resultsCmd) Run(ctx context.Context, e *env) error {
	if c.Outcome != "" && !slices.Contains(outcomes, c.Outcome) {
		return usage("--outcome: %q is none of applied, already, duplicate, cancelled, dead, unknown", c.Outcome)
	}
	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	site := e.Site
	record, err := q.Campaign(ctx, string(c.Campaign))
	known := err == nil
	switch {
	case known:
		site = record.Site
	case !errors.Is(err, queue.ErrGone): // jobs that name a campaign need no record of it
		return err
	}
	ends, err := lastEnds(ctx, q, queue.ResultFilter{Site: site, App: c.App, Campaign: string(c.Campaign)})
	switch {
	case err != nil:
		return err
	case len(ends) == 0 && !known:
		return noCampaign(c.Campaign)
	}
	if c.Outcome != "" {
		ends = slices.DeleteFunc(ends, func(r queue.Result) bool { return r.Outcome != c.Outcome })
	}
	if e.JSON {
		for _, r := range ends {
			err := e.emit(jobResult{of("result"), r.Job, id(r.App), id(r.Record), r.Outcome, id(r.Revision), r.Reason, r.Code, utc(r.At)})
			if err != nil {
				return err
			}
		}
		return nil
	}
	return e.showEnds(ends)
}

// lastEnds gives the newest end of each job, in the order in which the jobs ended first. A duplicate only stands for a
// job of which nothing else is known. Jobs of different records are different jobs, also under one id.
func lastEnds(ctx context.Context, q *queue.Queue, f queue.ResultFilter) ([]queue.Result, error) {
	type key struct {
		app, record int64
		job         string
	}
	var ends []queue.Result
	at := make(map[key]int) // in ends
	for r, err := range q.Results(ctx, f) {
		if err != nil {
			return nil, err
		}
		k := key{r.App, r.Record, r.Job}
		i, before := at[k]
		switch {
		case !before:
			at[k] = len(ends)
			ends = append(ends, r)
		case r.Outcome != queue.Duplicate:
			ends[i] = r
		}
	}
	return ends, nil
}

// showEnds writes the first of the ends as a table.
func (e *env) showEnds(ends []queue.Result) error {
	const shown = 100
	if len(ends) == 0 {
		return e.print("no such job has ended\n")
	}
	g := newGrid("JOB", "APP>", "RECORD>", "OUTCOME", "REVISION>", "REASON", "CODE", "ENDED")
	for _, r := range ends[:min(shown, len(ends))] {
		g.add(r.Job, r.App, numberOrDash(r.Record), r.Outcome, numberOrDash(r.Revision), orDash(r.Reason), orDash(r.Code), local(r.At))
	}
	if err := e.write(g, ""); err != nil {
		return err
	}
	if more := len(ends) - shown; more > 0 {
		return e.print("… and %d more (use --json)\n", more)
	}
	return nil
}

// numberOrDash is orDash for a number, of which 0 means none.
func numberOrDash(n int64) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}
