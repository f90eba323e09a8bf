package main

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"statusq/internal/campaign"
	"statusq/internal/queue"
)

type resultsCmd struct {
	Campaign givenID       `arg:"" help:"Name of the campaign."`
	App      int64         `placeholder:"ID" help:"Only of this app."`
	Outcome  queue.Outcome `placeholder:"OUTCOME" help:"Only jobs that ended so: applied, already, duplicate, cancelled, dead, unknown or matched."`
}

// jobResult is how a job ended, for scripts.
type jobResult struct {
	head
	Job      string        `json:"job"`
	App      id            `json:"app"`
	Record   id            `json:"record,omitempty"`
	Key      *queue.Key    `json:"key,omitempty"` // of a job that ended without a record of its own
	Outcome  queue.Outcome `json:"outcome"`
	Revision id            `json:"revision,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Code     string        `json:"code,omitempty"`
	Parent   string        `json:"parent,omitempty"`  // the job that this one was made of
	Matches  int           `json:"matches,omitempty"` // how many jobs were made of this one
	Ended    string        `json:"ended"`
}

func (c *resultsCmd) Run(ctx context.Context, e *env) error {
	if c.Outcome != "" && c.Outcome != queue.Matched && !slices.Contains(outcomes, c.Outcome) {
		return usage("--outcome: %q is none of applied, already, duplicate, cancelled, dead, unknown, matched", c.Outcome)
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
		return e.noCampaign(c.Campaign)
	}
	if c.Outcome != "" {
		ends = slices.DeleteFunc(ends, func(r queue.Result) bool { return r.Outcome != c.Outcome })
	}
	if e.JSON {
		for _, r := range ends {
			err := e.emit(jobResult{of("result"), r.Job, id(r.App), id(r.Record), r.Key, r.Outcome, id(r.Revision), r.Reason, r.Code, r.Parent, r.Matches, utc(r.At)})
			if err != nil {
				return err
			}
		}
		return nil
	}
	return e.showEnds(ends)
}

// lastEnds gives the newest end of each job, in the order in which the jobs ended first.
func lastEnds(ctx context.Context, q *queue.Queue, f queue.ResultFilter) ([]queue.Result, error) {
	var all ends
	for r, err := range q.Results(ctx, f) {
		if err != nil {
			return nil, err
		}
		all.add(r)
	}
	return all.list, nil
}

// ends gathers the newest end of each job. A duplicate only stands for a job of which nothing else is known. Jobs of
// different records are different jobs, also under one id; one with a key that had led to no record may have led to one
// since.
type ends struct {
	list []queue.Result // in the order in which the jobs ended first
	at   map[endOf]int  // in list
}

type endOf struct {
	app, record int64
	job         string
}

func (e *ends) add(r queue.Result) {
	if e.at == nil {
		e.at = make(map[endOf]int)
	}
	k, nowhere := endOf{r.App, r.Record, r.Job}, endOf{r.App, 0, r.Job}
	i, before := e.at[k]
	if n, was := e.at[nowhere]; was && !before && r.Reason != campaign.ReasonIDReused {
		delete(e.at, nowhere)
		e.at[k], i, before = n, n, true
	}
	switch {
	case !before:
		e.at[k] = len(e.list)
		e.list = append(e.list, r)
	case r.Outcome != queue.Duplicate:
		e.list[i] = r
	}
}

// showEnds writes the first of the ends as a table.
func (e *env) showEnds(ends []queue.Result) error {
	const shown = 100
	if len(ends) == 0 {
		return e.print("no such job has ended\n")
	}
	g := e.newGrid("JOB", "APP>", "RECORD>", "OUTCOME", "REVISION>", "REASON", "CODE", "ENDED")
	for _, r := range ends[:min(shown, len(ends))] {
		reason := r.Reason
		if r.Outcome == queue.Matched {
			reason = count(e.Lang, r.Matches, "record")
		}
		g.add(r.Job, r.App, recordOrKey(r.Record, r.Key), r.Outcome, numberOrDash(r.Revision), orDash(reason), orDash(r.Code), local(r.At))
	}
	if err := e.write(g, ""); err != nil {
		return err
	}
	if more := len(ends) - shown; more > 0 {
		return e.print("… and %d more (use --json)\n", more)
	}
	return nil
}

// recordOrKey is a record in a table, or the key that has led to none.
func recordOrKey(record int64, key *queue.Key) string {
	if record == 0 && key != nil {
		return key.Field + " = " + key.Value
	}
	return numberOrDash(record)
}

// numberOrDash is orDash for a number, of which 0 means none.
func numberOrDash(n int64) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}
