package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"regexp"
	"slices"
)

// ResultFilter says which results are meant. Zero fields match any.
type ResultFilter struct {
	Site          string
	App           int64
	Campaign, Job string
	Children      bool // with Job: also those of the jobs that were made of it
}

func (q *Queue) resultsFilter(f ResultFilter) string {
	return q.filter("results", f.Site, orAnyNumber(f.App), orAny(f.Campaign), "")
}

// Results gives the results that are there now, in the order of the ledger.
func (q *Queue) Results(ctx context.Context, f ResultFilter) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) {
		for m, err := range q.scan(ctx, q.ledgerName(), q.resultsFilter(f)) {
			if !q.yieldResults(m, err, f, yield) {
				return
			}
		}
	}
}

// WatchResults gives the results that are there, then once the zero Result to say so, and then those that come, until ctx
// ends.
func (q *Queue) WatchResults(ctx context.Context, f ResultFilter) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) {
		last := uint64(0)
		for m, err := range q.scan(ctx, q.ledgerName(), q.resultsFilter(f)) {
			if !q.yieldResults(m, err, f, yield) {
				return
			}
			last = m.Seq
		}
		if !yield(Result{}, nil) {
			return
		}
		r := q.newReader(q.ledgerName(), last+1, q.resultsFilter(f))
		defer r.abandon()
		for {
			m, err := r.next(ctx)
			if !q.yieldResults(m, err, f, yield) {
				return
			}
		}
	}
}

// yieldResults hands out the results of one message and reports whether to go on.
func (q *Queue) yieldResults(m delivered, err error, f ResultFilter, yield func(Result, error) bool) bool {
	var results []Result
	if err == nil && !m.gone() {
		results, err = q.decodeResults(m.stored)
	}
	if err != nil {
		yield(Result{}, fmt.Errorf("read results: %w", err))
		return false
	}
	for _, result := range results {
		if f.Job != "" && f.Job != result.Job && !(f.Children && f.Job == result.Parent) {
			continue
		}
		if !yield(result, nil) {
			return false
		}
	}
	return true
}

// JobState is all that the queue knows of a job. A job can be at several places: one that was published again after it
// had ended stands in the log once more.
type JobState struct {
	Results []Result    // its ends, oldest first
	Parked  *Parked     // where it waits
	Dead    *DeadLetter // where it lies
	Slot    *Member     // as a member of a request that may be out
	Request string      // of Slot
	InSlot  *SlotView   // which has Slot in it
	InLog   []Entry     // as it was published and is not decided yet
	Acts    []Audit     // what operators did about it, oldest first
}

// Found reports whether the queue knows the job at all.
func (s JobState) Found() bool {
	return len(s.Results) > 0 || s.Parked != nil || s.Dead != nil || s.Slot != nil || len(s.InLog) > 0
}

// FindJob looks for a job everywhere in a site, or in one app of it; app 0 means all. It reads through the site's
// results, slots, log and audit.
func (q *Queue) FindJob(ctx context.Context, site string, app int64, job string) (JobState, error) {
	state, err := q.findJob(ctx, site, app, job)
	if err != nil {
		return state, fmt.Errorf("find job %q: %w", job, err)
	}
	return state, nil
}

func (q *Queue) findJob(ctx context.Context, site string, app int64, job string) (JobState, error) {
	var state JobState
	// From where a job comes to where it goes, so that one that moves meanwhile is not missed.
	for m, err := range q.scan(ctx, q.logName(), q.filter("jobs", site, orAnyNumber(app))) {
		if err != nil {
			return state, err
		}
		if nameInLog(m.stored) == job {
			state.InLog = append(state.InLog, Entry{Seq: m.Seq, At: m.At, Data: m.Data, Pending: m.pending})
		}
	}
	for m, err := range q.scan(ctx, q.ledgerName(), q.filter("parked", site, orAnyNumber(app), "", orAny(job))) {
		if err != nil {
			return state, err
		}
		if m.gone() {
			continue
		}
		p, err := decodeParked(m.stored)
		if err != nil {
			return state, err
		}
		state.Parked = &p
	}
	views, err := q.Slots(ctx, site, app)
	if err != nil {
		return state, err
	}
	for _, view := range views {
		if view.Slot.Request == nil {
			continue
		}
		for _, part := range view.Slot.Request.Parts {
			if i := slices.IndexFunc(part.Members, func(m Member) bool { return m.Job == job }); i >= 0 {
				state.Slot, state.Request, state.InSlot = &part.Members[i], view.Slot.Request.ID, &view
			}
		}
	}
	for d, err := range q.Dead(ctx, DeadFilter{Site: site, App: app, Job: job}) {
		if err != nil {
			return state, err
		}
		state.Dead = &d
	}
	for result, err := range q.Results(ctx, ResultFilter{Site: site, App: app, Job: job}) {
		if err != nil {
			return state, err
		}
		state.Results = append(state.Results, result)
	}
	for a, err := range q.Audits(ctx, site, app) {
		if err != nil {
			return state, err
		}
		if a.About(job) {
			state.Acts = append(state.Acts, a)
		}
	}
	return state, nil
}

// Children gives what is known of the jobs that were made of a job in an app, by their ids: where they wait, lie or are
// under way, and how they ended. What operators did about one is told by FindJob. It reads through what the app has
// parked, its dead letters, its slots and its results.
func (q *Queue) Children(ctx context.Context, site string, app int64, parent string) (map[string]*JobState, error) {
	children, err := q.children(ctx, site, app, parent)
	if err != nil {
		return nil, fmt.Errorf("jobs made of %q: %w", parent, err)
	}
	return children, nil
}

func (q *Queue) children(ctx context.Context, site string, app int64, parent string) (map[string]*JobState, error) {
	children := make(map[string]*JobState)
	child := func(id string) *JobState {
		if children[id] == nil {
			children[id] = new(JobState)
		}
		return children[id]
	}
	// In the order in which findJob looks, for the same reason.
	for m, err := range q.scan(ctx, q.ledgerName(), q.filter("parked", site, orAnyNumber(app), "", "")) {
		if err != nil {
			return nil, err
		}
		if m.gone() {
			continue
		}
		p, err := decodeParked(m.stored)
		if err != nil {
			return nil, err
		}
		if p.Parent == parent {
			child(p.Job.ID).Parked = &p
		}
	}
	views, err := q.Slots(ctx, site, app)
	if err != nil {
		return nil, err
	}
	for _, view := range views {
		if view.Slot.Request == nil {
			continue
		}
		for _, part := range view.Slot.Request.Parts {
			for i, m := range part.Members {
				// A member does not name the job that it was made of, but is called after it and its record.
				if m.Job == ChildID(parent, m.Record) {
					s := child(m.Job)
					s.Slot, s.Request, s.InSlot = &part.Members[i], view.Slot.Request.ID, &view
				}
			}
		}
	}
	for d, err := range q.Dead(ctx, DeadFilter{Site: site, App: app, Parent: parent}) {
		if err != nil {
			return nil, err
		}
		child(d.Job.ID).Dead = &d
	}
	for r, err := range q.Results(ctx, ResultFilter{Site: site, App: app, Job: parent, Children: true}) {
		if err != nil {
			return nil, err
		}
		if r.Parent == parent {
			s := child(r.Job)
			s.Results = append(s.Results, r)
		}
	}
	return children, nil
}

// ChildID is what a job is called that was made of another one for a record that its key matches.
func ChildID(parent string, record int64) string { return fmt.Sprintf("%s/%d", parent, record) }

// unnamed is what jobs without an id are called; a publisher may not call one so.
var unnamed = regexp.MustCompile(`^s[0-9]+$`)

// nameInLog is what a job in the log is called. It asks less than DecodeJob does: a job that will be refused has a name
// as well.
func nameInLog(m stored) string {
	var form struct {
		Job string `json:"job"`
	}
	if err := json.Unmarshal(m.Data, &form); err == nil && form.Job != "" && !unnamed.MatchString(form.Job) {
		return form.Job
	}
	return fmt.Sprintf("s%d", m.Seq)
}
