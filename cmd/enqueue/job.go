package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"statusq/internal/campaign"
	"statusq/internal/queue"
)

type jobCmd struct {
	ID  givenID `arg:"" name:"job" help:"Job id; s<number> for a job that was published without one."`
	App int64   `placeholder:"ID" help:"Only in this app, which is faster."`
}

// jobView is all that is known of a job, for scripts.
type jobView struct {
	head
	Job      string     `json:"job"`
	State    string     `json:"state"` // waiting, in-flight, parked, dead, unknown, or an outcome
	App      id         `json:"app,omitempty"`
	Record   id         `json:"record,omitempty"`
	Key      *queue.Key `json:"key,omitempty"`
	Match    string     `json:"match,omitempty"`
	Parent   string     `json:"parent,omitempty"` // the job that this one was made of
	Action   string     `json:"action,omitempty"`
	Assignee string     `json:"assignee,omitempty"`
	Campaign string     `json:"campaign,omitempty"`
	By       string     `json:"by,omitempty"`
	Ref      string     `json:"ref,omitempty"`
	Reason   string     `json:"reason,omitempty"`
	Due      string     `json:"due,omitempty"`  // of a parked job
	Held     []string   `json:"held,omitempty"` // what keeps a job from going on that waits for nothing of its own
	Request  string     `json:"request,omitempty"`
	Out      *inflight  `json:"inflight,omitempty"` // the request that it is in
	Seqs     []id       `json:"seqs,omitempty"`     // its places in the log, while it waits there
	Attempts []attempt  `json:"attempts"`
	Results  []jobEnded `json:"results"`
	History  []moment   `json:"history"` // all of it, the oldest first

	// Of a job whose key matches several records, for each of which there is a job of its own.
	Matches  int            `json:"matches,omitempty"` // how many there are so far; when it has ended as matched, all
	States   map[string]int `json:"states,omitempty"`  // how many of them are in which state
	Children []child        `json:"children,omitempty"`
}

// child is a job that was made of another one.
type child struct {
	Job      string `json:"job"`
	Record   id     `json:"record"`
	State    string `json:"state"` // as of any job
	Revision id     `json:"revision,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Code     string `json:"code,omitempty"`
	Message  string `json:"message,omitempty"`
	Due      string `json:"due,omitempty"` // of a parked job
}

type attempt struct {
	At      string `json:"at"`
	Request string `json:"request,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}

type jobEnded struct {
	At       string        `json:"at"`
	Outcome  queue.Outcome `json:"outcome"`
	Seq      id            `json:"seq"`
	Revision id            `json:"revision,omitempty"`
	Request  string        `json:"request,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Code     string        `json:"code,omitempty"`
	Message  string        `json:"message,omitempty"`
}

func (c *jobCmd) Run(ctx context.Context, e *env) error {
	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	s, err := q.FindJob(ctx, e.Site, c.App, string(c.ID))
	if err != nil {
		return err
	}
	if !s.Found() {
		return e.failure(exitError, "no job %s in site %s: neither waiting nor ended in the last 400 days "+
			"(a message that could not be read is called s and its number: see enqueue dead ls --reason undecodable)", c.ID, e.Site)
	}
	v := viewOf(string(c.ID), e.Site, s)
	if v.Matches > 0 {
		children, err := q.Children(ctx, e.Site, int64(v.App), string(c.ID))
		if err != nil {
			return err
		}
		v.addChildren(e.Site, children)
	}
	var out request
	switch v.State {
	case "in-flight":
		if out, err = e.outOf(ctx, q, *s.InSlot); err != nil {
			return err
		}
		v.Out = new(out.json())
	case "waiting", "parked":
		v.Held = e.held(ctx, q, int64(v.App))
	}
	if e.JSON {
		return e.emit(v)
	}

	g := e.listing(0, "", "")
	g.addFact("job", v.Job)
	g.addFact("state", stateText(v, s, e.Lang))
	if v.Out != nil {
		out.addFacts(g)
	}
	g.addReason(v.Reason)
	for _, line := range v.Held {
		g.addFact("held up", line)
	}
	g.addNumber("app", int64(v.App))
	g.addNumber("record", int64(v.Record))
	g.addKey(v.Key, v.Match)
	g.addFact("made of", v.Parent)
	g.addFact("action", v.Action)
	g.addFact("assignee", v.Assignee)
	g.addFact("campaign", v.Campaign)
	g.addFact("by", v.By)
	g.addFact("ref", v.Ref)
	if err := e.write(g, ""); err != nil {
		return err
	}
	if err := e.showChildren(v); err != nil {
		return err
	}
	return e.showHistory(historyOf(s))
}

// held asks the worker what keeps an app's jobs from going on. An answer that does not come is that of no worker.
func (e *env) held(ctx context.Context, q *queue.Queue, app int64) []string {
	lanes, err := ask(ctx, q, e.Site)
	_, lines := laneNews{lanes, err}.why([]int64{app}, e.Lang)
	return lines
}

// addKey adds a key to a listing, if there is one.
func (g grid) addKey(key *queue.Key, match string) {
	if key == nil {
		return
	}
	g.addFact("key", key.Field+" = "+key.Value)
	if match == queue.MatchAll {
		g.addFact("match", in(g.lang, "all records that have it"))
	}
}

// addChildren adds what is known of the jobs that were made of this one: those that have not gone well first, and then in
// the order of their records.
func (v *jobView) addChildren(site string, children map[string]*queue.JobState) {
	v.States = make(map[string]int)
	for job, s := range children {
		c := viewOf(job, site, *s)
		one := child{Job: job, Record: c.Record, State: c.State, Reason: c.Reason, Due: c.Due}
		if r := lastEnd(s.Results); r != nil && string(r.Outcome) == c.State {
			one.Revision, one.Code, one.Message = id(r.Revision), r.Code, r.Message
		}
		v.States[c.State]++
		v.Children = append(v.Children, one)
	}
	slices.SortFunc(v.Children, func(a, b child) int {
		return cmp.Or(cmp.Compare(severity(a.State), severity(b.State)), cmp.Compare(a.Record, b.Record))
	})
}

// severity orders states by how much there is for a person to see to.
func severity(state string) int {
	if i := slices.Index(states, state); i >= 0 {
		return i
	}
	return len(states)
}

// states are those that a job may be in, what needs a person first.
var states = []string{string(queue.Unknown), string(queue.Dead), string(queue.Cancelled), "in-flight", "parked", "waiting",
	string(queue.Applied), string(queue.Already), string(queue.Duplicate)}

// showChildren writes the jobs that were made of one as a table, the first of them.
func (e *env) showChildren(v jobView) error {
	const shown = 100
	if len(v.Children) == 0 {
		return nil
	}
	g := e.newGrid("JOB", "RECORD>", "STATE", "REVISION>", "REASON", "CODE")
	for _, c := range v.Children[:min(shown, len(v.Children))] {
		g.add(c.Job, numberOrDash(int64(c.Record)), c.State, numberOrDash(int64(c.Revision)), orDash(c.Reason), orDash(c.Code))
	}
	if err := e.print("\n"); err != nil {
		return err
	}
	if err := e.write(g, ""); err != nil {
		return err
	}
	if more := len(v.Children) - shown; more > 0 {
		return e.print("… and %d more (use --json)\n", more)
	}
	return nil
}

// matchedText says in words what became of the jobs that were made of one.
func (v jobView) matchedText(lang string) string {
	var parts []string
	for _, state := range states {
		if n := v.States[state]; n > 0 {
			parts = append(parts, in(lang, "%d %s", n, word(lang, state)))
		}
	}
	if lost := v.Matches - len(v.Children); lost > 0 {
		parts = append(parts, in(lang, "%d of which nothing is known any more", lost))
	}
	return in(lang, "matched %s, each a job of its own: %s", count(lang, v.Matches, "record"), orDash(strings.Join(parts, word(lang, ", "))))
}

// viewOf puts together what is known of a job. Where it stands now decides its state: a job that has ended and stands in
// the log once more has ended, as the second copy will find out.
func viewOf(job, site string, s queue.JobState) jobView {
	v := jobView{head: of("job"), Job: job, Attempts: []attempt{}, Results: []jobEnded{}, History: []moment{}}
	describe := func(j queue.Job) {
		v.App, v.Record = cmp.Or(v.App, id(j.App)), cmp.Or(v.Record, id(j.Record))
		v.Action, v.Assignee = cmp.Or(v.Action, j.Action), cmp.Or(v.Assignee, j.Assignee)
		v.Campaign, v.By, v.Ref = cmp.Or(v.Campaign, j.Campaign), cmp.Or(v.By, j.By), cmp.Or(v.Ref, j.Ref)
		v.Key, v.Match = cmp.Or(v.Key, j.Key), cmp.Or(v.Match, j.Match)
	}
	if r := lastEnd(s.Results); r != nil {
		v.State, v.App, v.Record, v.Reason = string(r.Outcome), id(r.App), id(r.Record), r.Reason
		v.Parent, v.Matches = r.Parent, r.Matches
	}
	for _, r := range s.Results {
		v.Campaign, v.Ref, v.Key = cmp.Or(v.Campaign, r.Campaign), cmp.Or(v.Ref, r.Ref), cmp.Or(v.Key, r.Key)
		v.Results = append(v.Results, jobEnded{utc(r.At), r.Outcome, id(r.Seq), id(r.Revision), r.Request, r.Reason, r.Code, r.Message})
	}
	for _, entry := range s.InLog {
		v.Seqs = append(v.Seqs, id(entry.Seq))
		// What cannot be decoded still waits; its lane will say what is wrong with it.
		if j, err := queue.DecodeJob(entry.Data, site, 0); err == nil {
			describe(j)
		} else {
			describe(undecoded(entry.Data))
		}
		v.State = cmp.Or(v.State, "waiting")
	}
	if s.Dead != nil {
		describe(s.Dead.Job)
		v.Parent, v.Matches = s.Dead.Parent, s.Dead.Matches
		v.App = cmp.Or(v.App, id(s.Dead.App))
		v.State, v.Reason = string(s.Dead.Outcome), s.Dead.Reason
	}
	if s.Parked != nil {
		describe(s.Parked.Job)
		v.Parent, v.Matches = s.Parked.Parent, s.Parked.Matches
		v.State, v.Reason, v.Due = "parked", s.Parked.Reason, utc(s.Parked.Due)
		if s.Parked.Behind {
			v.Reason, v.Due = "behind", ""
		}
	}
	if m := s.Slot; m != nil {
		describe(queue.Job{Record: m.Record, Action: m.Action, Assignee: m.Assignee, Campaign: m.Campaign})
		v.State, v.Reason, v.Due, v.Request, v.App = "in-flight", "", "", s.Request, id(s.InSlot.App)
	}
	for _, a := range tried(s) {
		v.Attempts = append(v.Attempts, attempt{utc(a.At), a.Request, a.Reason, a.Code, a.Message})
	}
	v.History = append(v.History, historyOf(s)...)
	return v
}

// lastEnd is the end that counts: the newest, but for duplicates, and but for other jobs that came under the same id and
// were not run. A key that had led to no record may have led to one since.
func lastEnd(results []queue.Result) *queue.Result {
	var last *queue.Result
	for i, r := range results {
		if last == nil || r.Outcome != queue.Duplicate && (r.Record == last.Record || last.Record == 0 && r.Reason != campaign.ReasonIDReused) {
			last = &results[i]
		}
	}
	return last
}

// tried is the history that the job itself carries, wherever it is now.
func tried(s queue.JobState) []queue.Attempt {
	switch {
	case s.Parked != nil:
		return s.Parked.Attempts
	case s.Dead != nil:
		return s.Dead.Attempts
	}
	if r := lastEnd(s.Results); r != nil {
		return r.Attempts
	}
	return nil
}

// undecoded takes what it can from a job that is not valid.
func undecoded(raw []byte) queue.Job {
	var form struct{ Action, Campaign, By, Ref string }
	_ = json.Unmarshal(raw, &form)
	return queue.Job{Action: form.Action, Campaign: form.Campaign, By: form.By, Ref: form.Ref}
}

// stateText says in words where a job is.
func stateText(v jobView, s queue.JobState, lang string) string {
	switch v.State {
	case "waiting":
		return in(lang, "waiting in the log since %s, nobody has looked at it yet", local(s.InLog[0].At))
	case "in-flight":
		return in(lang, "in request %s, which may be out (enqueue inflight show %[1]s)", v.Request)
	case "parked":
		if s.Parked.Behind {
			return in(lang, "parked behind an earlier job of its record")
		}
		if v.Matches > 0 { // it has not ended before all of them are jobs
			return in(lang, "%s; more records are being looked for", v.matchedText(lang))
		}
		if wait := time.Until(s.Parked.Due); wait > 0 {
			return in(lang, "parked until %s (in %s)", local(s.Parked.Due), span(lang, wait))
		}
		return in(lang, "parked, due now")
	case string(queue.Dead), string(queue.Unknown):
		switch {
		case s.Dead != nil:
			return in(lang, "%s since %s", word(lang, v.State), local(s.Dead.Died))
		case v.Reason == queue.ReasonResolvedNotApplied:
			return in(lang, "dead, as somebody has seen; there is no dead letter any more")
		}
		return in(lang, "%s; the dead letter has been discarded", word(lang, v.State))
	}
	if v.State == string(queue.Matched) {
		return v.matchedText(lang)
	}
	text := word(lang, v.State)
	last := lastEnd(s.Results)
	if last.Reason == queue.ReasonResolved {
		text += in(lang, ", as somebody has seen")
	}
	if last.Revision > 0 {
		text += in(lang, ", the record had revision %d after it", last.Revision)
	}
	if len(s.InLog) > 0 {
		text += in(lang, "; it stands in the log once more, which will end as a duplicate")
	}
	return text
}

// tries counts the attempts in a job's history, which also has a mark wherever an operator put the job back to work.
func tries(history []queue.Attempt) int {
	n := 0
	for _, a := range history {
		if a.Reason != queue.ReasonRetried {
			n++
		}
	}
	return n
}

// moment is something that happened to a job.
type moment struct {
	time     time.Time
	At       string        `json:"at"`
	What     happening     `json:"what"`
	Try      int           `json:"try,omitempty"`      // which attempt it was
	Outcome  queue.Outcome `json:"outcome,omitempty"`  // of an end
	Revision id            `json:"revision,omitempty"` // of the record, after an end
	Matches  int           `json:"matches,omitempty"`  // how many jobs it became, by this end
	Act      string        `json:"act,omitempty"`      // of an operator, as the command was called
	By       string        `json:"by,omitempty"`       // who did that
	Request  string        `json:"request,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Code     string        `json:"code,omitempty"`
	Message  string        `json:"message,omitempty"` // kintone's or the worker's; an operator's reason
}

type happening string

const (
	itWasTried happening = "attempt" // an attempt that did not end the job, or did and is told again as its end
	itEnded    happening = "end"
	itWasActed happening = "act" // an operator did something about it
)

// historyOf tells everything that is known to have happened to a job, the oldest first.
func historyOf(s queue.JobState) []moment {
	var all []moment
	add := func(at time.Time, m moment) {
		m.time, m.At = at, utc(at)
		all = append(all, m)
	}
	acted := func(a queue.Attempt) bool { // the job's own mark of what the audit tells as well
		return slices.ContainsFunc(s.Acts, func(act queue.Audit) bool {
			return a.Message == queue.Signed(act.By, act.Reason) && a.At.Sub(act.At).Abs() < time.Minute
		})
	}
	n := 0
	for _, a := range tried(s) {
		m := moment{What: itWasTried, Request: a.Request, Reason: a.Reason, Code: a.Code, Message: a.Message}
		if a.Reason == queue.ReasonRetried {
			if m.What = itWasActed; acted(a) {
				continue
			}
			m.Act = "retry"
		} else {
			n++
			m.Try = n
		}
		add(a.At, m)
	}
	for _, act := range s.Acts {
		add(act.At, moment{What: itWasActed, Act: act.Verb, By: act.By, Request: act.Request, Message: act.Reason})
	}
	for _, r := range s.Results {
		add(r.At, moment{What: itEnded, Outcome: r.Outcome, Revision: id(r.Revision), Matches: r.Matches, Request: r.Request, Reason: r.Reason, Code: r.Code, Message: r.Message})
	}
	if d := s.Dead; d != nil && !slices.ContainsFunc(s.Results, func(r queue.Result) bool { return r.Seq == d.Seq && r.Outcome == d.Outcome }) {
		add(d.Died, moment{What: itEnded, Outcome: d.Outcome, Reason: d.Reason, Code: d.Code, Message: d.Message})
	}
	order := []happening{itWasTried, itWasActed, itEnded} // of what has the same time
	slices.SortStableFunc(all, func(a, b moment) int {
		return cmp.Or(a.time.Compare(b.time), cmp.Compare(slices.Index(order, a.What), slices.Index(order, b.What)))
	})
	return all
}

func (m moment) what(lang string) string {
	switch m.What {
	case itWasTried:
		return in(lang, "attempt %d", m.Try)
	case itEnded:
		if m.Revision > 0 {
			return in(lang, "%s, revision %d", m.Outcome, m.Revision)
		}
		if m.Outcome == queue.Matched {
			return fmt.Sprintf("%s %s", m.Outcome, count(lang, m.Matches, "record"))
		}
		return string(m.Outcome)
	}
	if m.By != "" {
		return in(lang, "%s by %s", m.Act, m.By)
	}
	return m.Act
}

// showHistory writes what happened to a job. An end that only repeats the attempt before it says no more than that.
func (e *env) showHistory(history []moment) error {
	if len(history) == 0 {
		return nil
	}
	g := e.gridOf(0, "WHEN", "WHAT", "REASON", "CODE", "REQUEST", "MESSAGE")
	for i, m := range history {
		message := orDash(m.Message)
		if i > 0 && m.What == itEnded && m.Message == history[i-1].Message && m.Reason == history[i-1].Reason {
			message = "-"
		}
		g.add(local(m.time), m.what(e.Lang), orDash(m.Reason), orDash(m.Code), orDash(m.Request), message)
	}
	if err := e.print("\n"); err != nil {
		return err
	}
	return e.write(g, "")
}
