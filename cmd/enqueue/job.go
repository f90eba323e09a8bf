package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

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
	Action   string     `json:"action,omitempty"`
	Assignee string     `json:"assignee,omitempty"`
	Campaign string     `json:"campaign,omitempty"`
	By       string     `json:"by,omitempty"`
	Ref      string     `json:"ref,omitempty"`
	Reason   string     `json:"reason,omitempty"`
	Due      string     `json:"due,omitempty"` // of a parked job
	Request  string     `json:"request,omitempty"`
	Seqs     []id       `json:"seqs,omitempty"` // its places in the log, while it waits there
	Attempts []attempt  `json:"attempts"`
	Results  []jobEnded `json:"results"`
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
		return fmt.Errorf("no job %s in site %s: neither waiting nor ended in the last 400 days "+
			"(a message that could not be read is called s and its number: see enqueue dead ls --reason undecodable)", c.ID, e.Site)
	}
	v, attempts := viewOf(string(c.ID), e.Site, s)
	if e.JSON {
		return e.emit(v)
	}

	g := listing(0, "", "")
	g.addFact("job", v.Job)
	g.addFact("state", stateText(v, s))
	g.addReason(v.Reason, e.Lang)
	g.addNumber("app", int64(v.App))
	g.addNumber("record", int64(v.Record))
	g.addFact("action", v.Action)
	g.addFact("assignee", v.Assignee)
	g.addFact("campaign", v.Campaign)
	g.addFact("by", v.By)
	g.addFact("ref", v.Ref)
	if err := e.write(g, ""); err != nil {
		return err
	}
	if err := e.showAttempts(attempts); err != nil {
		return err
	}
	return e.showResults(s.Results)
}

// viewOf puts together what is known of a job. Where it stands now decides its state: a job that has ended and stands in
// the log once more has ended, as the second copy will find out.
func viewOf(job, site string, s queue.JobState) (jobView, []queue.Attempt) {
	v := jobView{head: of("job"), Job: job, Attempts: []attempt{}, Results: []jobEnded{}}
	var attempts []queue.Attempt
	describe := func(j queue.Job) {
		v.App, v.Record = cmp.Or(v.App, id(j.App)), cmp.Or(v.Record, id(j.Record))
		v.Action, v.Assignee = cmp.Or(v.Action, j.Action), cmp.Or(v.Assignee, j.Assignee)
		v.Campaign, v.By, v.Ref = cmp.Or(v.Campaign, j.Campaign), cmp.Or(v.By, j.By), cmp.Or(v.Ref, j.Ref)
	}
	for _, r := range s.Results {
		v.State, v.App, v.Record = string(r.Outcome), id(r.App), cmp.Or(id(r.Record), v.Record)
		v.Campaign, v.Ref, v.Reason = cmp.Or(v.Campaign, r.Campaign), cmp.Or(v.Ref, r.Ref), r.Reason
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
		v.App = cmp.Or(v.App, id(s.Dead.App))
		v.State, v.Reason, attempts = string(s.Dead.Outcome), s.Dead.Reason, s.Dead.Attempts
	}
	if s.Parked != nil {
		describe(s.Parked.Job)
		v.State, v.Reason, v.Due, attempts = "parked", s.Parked.Reason, utc(s.Parked.Due), s.Parked.Attempts
		if s.Parked.Behind {
			v.Reason, v.Due = "behind", ""
		}
	}
	if m := s.Slot; m != nil {
		describe(queue.Job{Record: m.Record, Action: m.Action, Assignee: m.Assignee, Campaign: m.Campaign})
		v.State, v.Reason, v.Due, v.Request = "in-flight", "", "", s.Request
	}
	for _, a := range attempts {
		v.Attempts = append(v.Attempts, attempt{utc(a.At), a.Request, a.Reason, a.Code, a.Message})
	}
	return v, attempts
}

// undecoded takes what it can from a job that is not valid.
func undecoded(raw []byte) queue.Job {
	var form struct{ Action, Campaign, By, Ref string }
	_ = json.Unmarshal(raw, &form)
	return queue.Job{Action: form.Action, Campaign: form.Campaign, By: form.By, Ref: form.Ref}
}

// stateText says in words where a job is.
func stateText(v jobView, s queue.JobState) string {
	switch v.State {
	case "waiting":
		return fmt.Sprintf("waiting in the log since %s, nobody has looked at it yet", local(s.InLog[0].At))
	case "in-flight":
		return fmt.Sprintf("in request %s, which may be out (enqueue inflight)", v.Request)
	case "parked":
		if s.Parked.Behind {
			return "parked behind an earlier job of its record"
		}
		if wait := time.Until(s.Parked.Due); wait > 0 {
			return fmt.Sprintf("parked until %s (in %s)", local(s.Parked.Due), span(wait))
		}
		return "parked, due now"
	case string(queue.Dead), string(queue.Unknown):
		if s.Dead == nil {
			return v.State + "; the dead letter has been discarded"
		}
		return v.State + " since " + local(s.Dead.Died)
	}
	text := v.State
	if last := s.Results[len(s.Results)-1]; last.Revision > 0 {
		text += fmt.Sprintf(", the record had revision %d after it", last.Revision)
	}
	if len(s.InLog) > 0 {
		text += "; it stands in the log once more, which will end as a duplicate"
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

// showAttempts lists tries that did not end a job and the marks between them, the newest first. Only tries are numbered.
func (e *env) showAttempts(attempts []queue.Attempt) error {
	if len(attempts) == 0 {
		return nil
	}
	g := newGrid("ATTEMPT>", "WHEN", "REASON", "CODE", "MESSAGE")
	for i, a := range slices.Backward(attempts) {
		n := "-"
		if a.Reason != queue.ReasonRetried {
			n = strconv.Itoa(tries(attempts[:i+1]))
		}
		g.add(n, local(a.At), orDash(a.Reason), orDash(a.Code), orDash(a.Message))
	}
	if err := e.print("\n"); err != nil {
		return err
	}
	return e.write(g, "")
}

// showResults lists the ends of a job, the newest first.
func (e *env) showResults(results []queue.Result) error {
	if len(results) == 0 {
		return nil
	}
	g := newGrid("ENDED", "OUTCOME", "REVISION>", "REASON", "CODE", "MESSAGE")
	for _, r := range slices.Backward(results) {
		revision := "-"
		if r.Revision > 0 {
			revision = fmt.Sprint(r.Revision)
		}
		g.add(local(r.At), r.Outcome, revision, orDash(r.Reason), orDash(r.Code), orDash(r.Message))
	}
	if err := e.print("\n"); err != nil {
		return err
	}
	return e.write(g, "")
}
