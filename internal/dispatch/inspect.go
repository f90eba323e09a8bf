package dispatch

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// revisionStep is by how much one action raises a record's revision: the action and the change of status are recorded
// as two operations (both seeds that describe the status calls say so).
const revisionStep = 2

// fate is what inspection says about a job before anything is sent.
type fate int

const (
	fit       fate = iota // kintone would take it, as far as can be told
	already               // the record stands there before
	unfit                 // kintone would refuse it; the ladder decides what that costs
	appUnable             // nothing in this app can act now; the lane's matter, not the job's
)

// finding is what inspection found about one job.
type finding struct {
	fate    fate
	reason  string
	code    string // the code that kintone would have answered with
	message string
	// bySettings says that the verdict rests on the cached process settings, which may be out of date.
	bySettings bool
	// The edge that the action takes, for a fit job.
	action   kintone.Action
	step     int
	settings int64 // revision of the settings it was found by
}

// inspectJob says what would become of a job if it were sent for the record as read (nil: there is no such record).
// It is pure, and it names the record that kintone would only have hidden among a hundred.
func inspectJob(j queue.Job, r *kintone.Record, p *kintone.Process, f kintone.Fields, us string, badUsers map[string]time.Time, now time.Time) finding {
	if expired := expiry(j, now); expired != "" {
		return finding{fate: unfit, reason: ReasonExpired, message: expired}
	}
	if r == nil {
		return finding{fate: unfit, reason: ReasonRecordNotFound, code: "GAIA_RE01",
			message: fmt.Sprintf("record %d is not there, or may not be seen", j.Record)}
	}
	if j.Revision >= 0 && j.Revision != r.Revision {
		return finding{fate: unfit, reason: ReasonRevisionConflict, code: "GAIA_CO02",
			message: fmt.Sprintf("the job expects revision %d, the record is at %d", j.Revision, r.Revision)}
	}
	if !p.Enabled {
		return finding{fate: appUnable, reason: ReasonProcessDisabled, code: "GAIA_ST02", bySettings: true,
			message: "process management is switched off in this app"}
	}
	if r.Status == "" {
		return finding{fate: appUnable, reason: ReasonProcessDisabled, code: "GAIA_ST02", bySettings: true,
			message: "the record has no status although process management is on"}
	}

	named := p.ActionsNamed(j.Action)
	if len(named) == 0 {
		return finding{fate: unfit, reason: ReasonActionUnknown, code: "GAIA_IL03", bySettings: true,
			message: fmt.Sprintf("this app has no action %q in the language of the worker's user; it has %s", j.Action, actionNames(p))}
	}
	from := p.ActionsFrom(r.Status, j.Action)
	switch {
	case len(from) > 1:
		return finding{fate: unfit, reason: ReasonActionAmbiguous, code: "GAIA_IL03", bySettings: true,
			message: fmt.Sprintf("status %q has %d actions called %q", r.Status, len(from), j.Action)}
	case len(from) == 0 && slices.ContainsFunc(named, func(a kintone.Action) bool { return a.To == r.Status }):
		return finding{fate: already, bySettings: true}
	case len(from) == 0:
		return finding{fate: unfit, reason: ReasonStatusMismatch, code: "GAIA_IL03", bySettings: true,
			message: fmt.Sprintf("the record stands in %q, where there is no action %q", r.Status, j.Action)}
	}
	a := from[0]

	switch {
	case a.Type != kintone.ActionSecondary && len(r.Assignees) > 0 && !slices.Contains(r.Assignees, us):
		return finding{fate: unfit, reason: ReasonNotAssignee, code: "GAIA_NT01", bySettings: true,
			message: fmt.Sprintf("only the assignee may act: the record's is %s, the worker is %q", strings.Join(r.Assignees, ", "), us)}
	case a.Type == kintone.ActionSecondary && !mayExecute(a.Executable, us):
		return finding{fate: unfit, reason: ReasonNotExecutable, code: "GAIA_NT01", bySettings: true,
			message: fmt.Sprintf("action %q is for %s, the worker is %q", a.Name, entityNames(a.Executable), us)}
	}
	switch need := assigneeNeed(p.States[a.To].Assignee, f); {
	case need == needed && j.Assignee == "":
		return finding{fate: unfit, reason: ReasonAssigneeRequired, code: "GAIA_SA01", bySettings: true,
			message: fmt.Sprintf("%q leads to %q, which needs an assignee, and the job names none", j.Action, a.To)}
	case need == superfluous && j.Assignee != "":
		return finding{fate: unfit, reason: ReasonAssigneeSuperfluous, code: "GAIA_SA04", bySettings: true,
			message: fmt.Sprintf("%q leads to %q, where no assignee may be named", j.Action, a.To)}
	}
	if until, bad := badUsers[j.Assignee]; bad && now.Before(until) {
		return finding{fate: unfit, reason: ReasonAssigneeUnknown, code: "GAIA_IL26",
			message: fmt.Sprintf("kintone knows no user %q", j.Assignee)}
	}

	step := revisionStep
	if p.States[a.From].Assignee.Type == kintone.AssigneeAll {
		step = 1 // it may not move the status, and then raise the revision by less
	}
	return finding{fate: fit, action: a, step: step, settings: p.Revision}
}

// expiry says since when a job is not to be run any more; "" if it may be.
func expiry(j queue.Job, now time.Time) string {
	if j.Expires.IsZero() || now.Before(j.Expires) {
		return ""
	}
	return "expired at " + j.Expires.UTC().Format(time.RFC3339)
}

// mayExecute reports false if a SECONDARY action is surely for others: it lists users, and we are none of them. Who is
// in a group, an organisation or a field, only kintone knows. With nobody listed it is for all who see the record
// (docs/kintone.md 3).
func mayExecute(executable []kintone.Entity, us string) bool {
	for _, e := range executable {
		if e.Type != kintone.EntityUser || e.Code == us {
			return true
		}
	}
	return len(executable) == 0
}

func entityNames(entities []kintone.Entity) string {
	var names []string
	for _, e := range entities {
		names = append(names, e.Code)
	}
	return strings.Join(names, ", ")
}

// need says whether a job must, may or must not name an assignee.
type need int

const (
	uncertain need = iota // only kintone knows whether anybody can be chosen
	needed
	superfluous
)

// assigneeNeed follows the destination status: ONE with somebody to choose from needs an assignee, ANY, ALL and an
// empty ONE take none (docs/kintone.md, assignees). Where the choice depends on the record's fields or on
// memberships, it leaves the question to kintone.
func assigneeNeed(rule kintone.AssigneeRule, f kintone.Fields) need {
	if rule.Type != kintone.AssigneeOne || len(rule.Entities) == 0 {
		return superfluous
	}
	for _, e := range rule.Entities {
		switch e.Type {
		case kintone.EntityUser, kintone.EntityCreator:
			return needed
		case kintone.EntityField:
			if t := f.Types[e.Code]; t == "CREATOR" || t == "MODIFIER" {
				return needed
			}
		}
	}
	return uncertain
}

// after foretells the record as our action leaves it, so that the next job of the record needs no read. It says false
// where the new assignees or the status cannot be told from the settings alone.
func after(m queue.Member, revision int64, p *kintone.Process, us string) (kintone.Record, bool) {
	to, ok := p.States[m.To]
	if !ok || m.Step != revisionStep || revision != m.Pin+revisionStep {
		return kintone.Record{}, false
	}
	r := kintone.Record{ID: m.Record, Revision: revision, Status: m.To, Modifier: us}
	switch {
	case m.Assignee != "":
		r.Assignees = []string{m.Assignee}
	case len(to.Assignee.Entities) > 0:
		return kintone.Record{}, false
	}
	return r, true
}

func actionNames(p *kintone.Process) string {
	var names []string
	for _, a := range p.Actions {
		if q := fmt.Sprintf("%q", a.Name); !slices.Contains(names, q) {
			names = append(names, q)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	const most = 12
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// waitable are the reasons that may pass by themselves: somebody assigns the record, moves it, creates it. The others
// stay as they are however long one waits.
var waitable = map[string]bool{
	ReasonRecordNotFound: true,
	ReasonStatusMismatch: true,
	ReasonNotAssignee:    true,
	ReasonNotExecutable:  true,
	ReasonConditionUnmet: true,
	ReasonKeyNotFound:    true,
}

// ladder decides whether a job that failed for a reason of its own is parked for another attempt, or dead. attempts
// counts those already spent, this one not included.
func ladder(reason string, attempts, most int) (park bool) {
	return waitable[reason] && attempts+1 < most
}

// spent counts the attempts that a job has used up since it was published, or since an operator sent it again.
func spent(attempts []queue.Attempt) int {
	n := 0
	for _, a := range attempts {
		if n++; a.Reason == queue.ReasonRetried {
			n = 0
		}
	}
	return n
}

// pause is how long a job waits after its n-th failed attempt (from 1): doubling from first to at most ten minutes,
// spread by a tenth either way, on a grid so that jobs that failed together are read again together, 500 to a request.
func pause(n int, first time.Duration, random func() float64) time.Duration {
	d := first << min(n-1, 20)
	if d <= 0 || d > 10*time.Minute {
		d = max(10*time.Minute, first)
	}
	return time.Duration(float64(d) * (0.9 + 0.2*random()))
}
