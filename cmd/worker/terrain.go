package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"statusq/internal/kintone"
)

// terrain is what is known of an app before anything is written.
type terrain struct {
	app     kintone.App
	us      string // whose name our actions leave
	process *kintone.Process
	fields  kintone.Fields
	signsIn string        // for people
	foreign int64         // another app whose own token is known; 0 for none
	deploy  bool          // it may be deployed
	watch   time.Duration // how long cut requests are looked after
}

// expedition asks the questions of one app.
type expedition struct {
	*terrain
	prober *kintone.Prober

	// For the bill.
	silent int              // requests that kintone has not answered: it may not have counted them, or not have got them
	calls  kintone.Exchange // the last bulkRequest that it has answered
}

// hear notes what a request means for the bill. It is told of one at a time.
func (e *expedition) hear(x kintone.Exchange) {
	switch _, _, refused := refusedCall(x); {
	case strings.HasSuffix(x.Target, "/bulkRequest.json") && (x.Err == nil || refused):
		e.calls = x
	case x.Err != nil && x.Err.Code == "":
		e.silent++
	}
}

// step is an action that can be sent without knowing the record: it has no condition, and its name is the only one of
// its kind in its status.
type step struct {
	kintone.Action
	assignee string
}

// isUs reports whether an entity stands for us, on a record that we have made.
func (t *terrain) isUs(e kintone.Entity) bool {
	switch e.Type {
	case kintone.EntityUser:
		return e.Code == t.us
	case kintone.EntityCreator:
		return true
	case kintone.EntityField:
		return t.fields.Types[e.Code] == "CREATOR" || t.fields.Types[e.Code] == "MODIFIER"
	}
	return false
}

// lets reports whether we may act on a record that stands in a status, brought there by our steps.
func (t *terrain) lets(s kintone.State) bool {
	return len(s.Assignee.Entities) == 0 || slices.ContainsFunc(s.Assignee.Entities, t.isUs)
}

// waits reports whether a status keeps a record after we have acted.
func (t *terrain) waits(s kintone.State) bool {
	return s.Assignee.Type == kintone.AssigneeAll && !every(s.Assignee.Entities, t.isUs)
}

func every(es []kintone.Entity, is func(kintone.Entity) bool) bool {
	return !slices.ContainsFunc(es, func(e kintone.Entity) bool { return !is(e) })
}

// assignee is who is named when a record goes to a status: we, if we can be; "" where nobody has to be named. It reports
// false if somebody has to be and nobody is known.
func (t *terrain) assignee(to kintone.State) (string, bool) {
	if to.Assignee.Type != kintone.AssigneeOne || len(to.Assignee.Entities) == 0 {
		return "", true
	}
	if slices.ContainsFunc(to.Assignee.Entities, t.isUs) {
		return t.us, true
	}
	for _, e := range to.Assignee.Entities {
		if e.Type == kintone.EntityUser {
			return e.Code, true
		}
	}
	return "", false
}

// steps returns what can be sent from a status. Those that lead to where we may act come first.
func (t *terrain) steps(from string) []step {
	var out []step
	for _, a := range t.process.Actions {
		if a.From != from || a.FilterCond != "" || a.Type != kintone.ActionPrimary || len(t.process.ActionsFrom(from, a.Name)) > 1 {
			continue
		}
		if who, ok := t.assignee(t.process.States[a.To]); ok {
			out = append(out, step{a, who})
		}
	}
	ease := func(s step) int {
		to := t.process.States[s.To]
		switch {
		case len(to.Assignee.Entities) == 0:
			return 0
		case t.lets(to):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(out, func(a, b step) int { return cmp.Compare(ease(a), ease(b)) })
	return out
}

// way returns the steps from the first status to the nearest that is wanted, over statuses in which we may act; nil and
// true if that is the first one itself.
func (t *terrain) way(wanted func(kintone.State) bool) ([]step, bool) {
	type place struct {
		status string
		way    []step
	}
	seen := map[string]bool{t.process.First(): true}
	for edge := []place{{status: t.process.First()}}; len(edge) > 0; {
		var next []place
		for _, p := range edge {
			s := t.process.States[p.status]
			if wanted(s) {
				return p.way, true
			}
			if !t.lets(s) || t.waits(s) {
				continue
			}
			for _, step := range t.steps(p.status) {
				if !seen[step.To] {
					seen[step.To] = true
					next = append(next, place{step.To, append(slices.Clone(p.way), step)})
				}
			}
		}
		edge = next
	}
	return nil, false
}

// toSomebodyElse returns a step after which another user is the assignee, where we could have been chosen too.
func (t *terrain) toSomebodyElse() ([]step, bool) {
	for _, s := range t.steps(t.process.First()) {
		to := t.process.States[s.To]
		if s.assignee == "" || len(t.steps(s.To)) == 0 {
			continue
		}
		for _, e := range to.Assignee.Entities {
			if e.Type == kintone.EntityUser && e.Code != t.us {
				return []step{{s.Action, e.Code}}, true
			}
		}
	}
	return nil, false
}

// plain is the step that most questions take; a record is in the first status before it.
func (t *terrain) plain() (step, bool) {
	steps := t.steps(t.process.First())
	if first := t.process.States[t.process.First()]; len(steps) == 0 || !t.lets(first) {
		return step{}, false
	}
	return steps[0], true
}

// change is a step on a record, pinned to the revision that it is known to have.
func change(r kintone.Record, s step) kintone.StatusChange {
	return kintone.StatusChange{Record: r.ID, Revision: r.Revision, Action: s.Name, Assignee: s.assignee}
}

// memberOf and membersOf make the bodies of the two status calls.
func memberOf(c kintone.StatusChange) map[string]any {
	m := map[string]any{"id": c.Record, "action": c.Action, "revision": c.Revision}
	if c.Assignee != "" {
		m["assignee"] = c.Assignee
	}
	return m
}

func membersOf(cs []kintone.StatusChange) []map[string]any {
	out := make([]map[string]any, len(cs))
	for i, c := range cs {
		out[i] = memberOf(c)
	}
	return out
}

// single makes the call for one record.
func (e *expedition) single(ctx context.Context, c kintone.StatusChange) kintone.Exchange {
	body := memberOf(c)
	body["app"] = e.app.ID
	return e.prober.Ask(ctx, e.app.ID, kintone.Attempt{Method: http.MethodPut, API: "record/status.json", Body: body})
}

// bulk makes the call for many records.
func (e *expedition) bulk(ctx context.Context, cs ...kintone.StatusChange) kintone.Exchange {
	return e.prober.Ask(ctx, e.app.ID, e.bulkAttempt(cs...))
}

func (e *expedition) bulkAttempt(cs ...kintone.StatusChange) kintone.Attempt {
	return kintone.Attempt{Method: http.MethodPut, API: "records/status.json", Body: map[string]any{"app": e.app.ID, "records": membersOf(cs)}}
}

func (e *expedition) read(ctx context.Context, records ...kintone.Record) ([]kintone.Record, error) {
	ids := make([]int64, len(records))
	for i, r := range records {
		ids[i] = r.ID
	}
	now, err := e.prober.Records(ctx, e.app.ID, e.fields, ids)
	switch {
	case err != nil:
		return nil, err
	case len(now) != len(ids):
		return nil, fmt.Errorf("a read shows %d of our %d records", len(now), len(ids))
	}
	return now, nil
}

// walk takes a record along a way, and returns it as it is then.
func (e *expedition) walk(ctx context.Context, r kintone.Record, way []step) (kintone.Record, error) {
	for _, s := range way {
		x := e.single(ctx, change(r, s))
		if x.Err != nil {
			return r, x.Err
		}
		rev, err := revisionsIn(x)
		if err != nil || len(rev) != 1 {
			return r, errors.New("the answer to an action holds no revision")
		}
		r.Revision, r.Status = rev[0].Revision, s.To
	}
	return r, nil
}

// revisionsIn reads the answer to either status call.
func revisionsIn(x kintone.Exchange) ([]kintone.RecordRevision, error) {
	if x.Err != nil {
		return nil, x.Err
	}
	type item struct {
		ID       json.Number `json:"id"`
		Revision json.Number `json:"revision"`
	}
	var answer struct {
		item
		Records []item `json:"records"`
	}
	if err := json.Unmarshal(x.Answer, &answer); err != nil {
		return nil, errors.New("the answer to an action is no JSON that we know")
	}
	if answer.Records == nil {
		answer.Records = []item{answer.item}
	}
	out := make([]kintone.RecordRevision, len(answer.Records))
	for i, a := range answer.Records {
		id, _ := a.ID.Int64() // the call for one record names none
		revision, err := a.Revision.Int64()
		if err != nil {
			return nil, errors.New("the answer to an action holds no revision")
		}
		out[i] = kintone.RecordRevision{Record: id, Revision: revision}
	}
	return out, nil
}
