package dispatch

import (
	"strings"
	"testing"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// office is an app with every kind of status and action.
func office() (*kintone.Process, kintone.Fields) {
	user := func(codes ...string) (es []kintone.Entity) {
		for _, c := range codes {
			es = append(es, kintone.Entity{Type: kintone.EntityUser, Code: c})
		}
		return es
	}
	p := &kintone.Process{Enabled: true, Revision: 7, States: map[string]kintone.State{
		"New":     {Name: "New", Assignee: kintone.AssigneeRule{Type: kintone.AssigneeOne}},
		"Working": {Name: "Working", Index: 1, Assignee: kintone.AssigneeRule{Type: kintone.AssigneeOne}},
		"Review":  {Name: "Review", Index: 2, Assignee: kintone.AssigneeRule{Type: kintone.AssigneeOne, Entities: user("sato")}},
		"Group":   {Name: "Group", Index: 3, Assignee: kintone.AssigneeRule{Type: kintone.AssigneeOne, Entities: []kintone.Entity{{Type: kintone.EntityGroup, Code: "g"}}}},
		"Anyone":  {Name: "Anyone", Index: 4, Assignee: kintone.AssigneeRule{Type: kintone.AssigneeAny, Entities: user("sato", "us")}},
		"All":     {Name: "All", Index: 5, Assignee: kintone.AssigneeRule{Type: kintone.AssigneeAll, Entities: user("sato", "us")}},
	}}
	p.Actions = []kintone.Action{
		edge("Start", "New", "Working"), edge("Ask", "New", "Review"), edge("Ask group", "New", "Group"),
		edge("Ask anyone", "New", "Anyone"), edge("Ask all", "New", "All"), edge("Agree", "All", "Working"),
		edge("Twin", "New", "Working"), edge("Twin", "New", "Review"),
		edge("Remind", "Working", "Working"),
		{Name: "Withdraw", From: "Review", To: "New", Type: kintone.ActionSecondary},
		edge("Reject", "Review", "New"),
	}
	return p, kintone.Fields{Types: map[string]string{"Boss": "USER_SELECT", "Creator": "CREATOR"}}
}

func TestInspectionNamesEveryJobThatKintoneWouldRefuse(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		name     string
		action   string
		job      func(*queue.Job)
		record   func(*kintone.Record)
		process  func(*kintone.Process)
		gone     bool
		fate     fate
		reason   string
		code     string
		settings bool   // the verdict rests on the settings
		says     string // in the message
	}{
		{name: "an action that the status has", action: "Start", fate: fit},
		{name: "expired long ago", action: "Start", job: func(j *queue.Job) { j.Expires = now.Add(-time.Hour) }, fate: unfit, reason: ReasonExpired, says: "2026-11-22T11:00:00Z"},
		{name: "expired this moment", action: "Start", job: func(j *queue.Job) { j.Expires = now }, fate: unfit, reason: ReasonExpired},
		{name: "about to expire", action: "Start", job: func(j *queue.Job) { j.Expires = now.Add(time.Nanosecond) }, fate: fit},
		{name: "expired comes before everything else", action: "None", gone: true, job: func(j *queue.Job) { j.Expires = now }, fate: unfit, reason: ReasonExpired},
		{name: "no such record", action: "Start", gone: true, fate: unfit, reason: ReasonRecordNotFound, code: "GAIA_RE01", says: "record 1"},
		{name: "the revision that the job expects", action: "Start", job: func(j *queue.Job) { j.Revision = 3 }, fate: fit},
		{name: "another revision", action: "Start", job: func(j *queue.Job) { j.Revision = 2 }, fate: unfit, reason: ReasonRevisionConflict, code: "GAIA_CO02", says: "revision 2, the record is at 3"},
		{name: "another revision of a record that stands there already", action: "Ask", record: in("Review"), job: func(j *queue.Job) { j.Revision = 2 }, fate: unfit, reason: ReasonRevisionConflict, code: "GAIA_CO02"},
		{name: "process management off", action: "Start", process: func(p *kintone.Process) { p.Enabled = false }, fate: appUnable, reason: ReasonProcessDisabled, code: "GAIA_ST02", settings: true},
		{name: "a record without a status", action: "Start", record: in(""), fate: appUnable, reason: ReasonProcessDisabled, code: "GAIA_ST02", settings: true},
		{name: "no action of that name", action: "Begin", fate: unfit, reason: ReasonActionUnknown, code: "GAIA_IL03", settings: true, says: `"Start", "Ask"`},
		{name: "an app without actions", action: "Start", process: func(p *kintone.Process) { p.Actions = nil }, fate: unfit, reason: ReasonActionUnknown, code: "GAIA_IL03", settings: true, says: "it has none"},
		{name: "the name in another case", action: "start", fate: unfit, reason: ReasonActionUnknown, code: "GAIA_IL03", settings: true},
		{name: "two actions of one name", action: "Twin", fate: unfit, reason: ReasonActionAmbiguous, code: "GAIA_IL03", settings: true},
		{name: "the record stands there before", action: "Start", record: in("Working"), fate: already, settings: true},
		{name: "the record stands there, for an action that leads back to where it starts", action: "Remind", record: in("Working"), fate: fit},
		{name: "two actions of one name, and the record stands where one leads", action: "Twin", record: in("Review"), fate: already, settings: true},
		{name: "the action is another status's", action: "Reject", fate: already, settings: true},
		{name: "the action is another status's and leads elsewhere", action: "Reject", record: in("Working"), fate: unfit, reason: ReasonStatusMismatch, code: "GAIA_IL03", settings: true, says: `stands in "Working"`},
		{name: "we are the assignee", action: "Start", record: assigned("sato", "us"), fate: fit},
		{name: "somebody else is", action: "Start", record: assigned("sato", "suzuki"), fate: unfit, reason: ReasonNotAssignee, code: "GAIA_NT01", settings: true, says: "sato, suzuki"},
		{name: "somebody else is, for an action that others can run", action: "Withdraw", record: func(r *kintone.Record) { in("Review")(r); assigned("sato")(r) }, fate: fit},
		{name: "an assignee is needed", action: "Ask", fate: unfit, reason: ReasonAssigneeRequired, code: "GAIA_SA01", settings: true, says: `leads to "Review"`},
		{name: "an assignee is needed and named", action: "Ask", job: naming("sato"), fate: fit},
		{name: "an assignee is named where there is none to choose", action: "Start", job: naming("sato"), fate: unfit, reason: ReasonAssigneeSuperfluous, code: "GAIA_SA04", settings: true},
		{name: "an assignee is named where any may act", action: "Ask anyone", job: naming("sato"), fate: unfit, reason: ReasonAssigneeSuperfluous, code: "GAIA_SA04", settings: true},
		{name: "an assignee is named where all must act", action: "Ask all", job: naming("sato"), fate: unfit, reason: ReasonAssigneeSuperfluous, code: "GAIA_SA04", settings: true},
		{name: "only kintone knows who is in a group: with an assignee", action: "Ask group", job: naming("sato"), fate: fit},
		{name: "only kintone knows who is in a group: without", action: "Ask group", fate: fit},
		{name: "a user that kintone did not know a while ago", action: "Ask", job: naming("ghost"), fate: unfit, reason: ReasonAssigneeUnknown, code: "GAIA_IL26", says: `"ghost"`},
		{name: "a user that kintone did not know long ago", action: "Ask", job: naming("newcomer"), fate: fit},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, f := office()
			r := &kintone.Record{ID: 1, Revision: 3, Status: "New", Modifier: "sato"}
			j := job(1, tt.action)
			if tt.job != nil {
				tt.job(&j)
			}
			if tt.record != nil {
				tt.record(r)
			}
			if tt.process != nil {
				tt.process(p)
			}
			if tt.gone {
				r = nil
			}
			bad := map[string]time.Time{"ghost": now.Add(time.Second), "newcomer": now}
			got := inspectJob(j, r, p, f, "us", bad, now)
			if got.fate != tt.fate || got.reason != tt.reason || got.code != tt.code || got.bySettings != tt.settings {
				t.Errorf("found %+v, want fate %d, reason %q, code %q, by settings %t", got, tt.fate, tt.reason, tt.code, tt.settings)
			}
			if !strings.Contains(got.message, tt.says) || (got.message == "") != (tt.fate == fit || tt.fate == already) {
				t.Errorf("it says %q, want something with %q", got.message, tt.says)
			}
			if got.fate == fit && (got.action.Name != j.Action || got.action.From != r.Status || got.settings != p.Revision || got.step != revisionStep) {
				t.Errorf("fit for %+v by %d steps under settings %d, want the action %q from %q", got.action, got.step, got.settings, j.Action, r.Status)
			}
		})
	}
}

func in(status string) func(*kintone.Record) { return func(r *kintone.Record) { r.Status = status } }
func assigned(users ...string) func(*kintone.Record) {
	return func(r *kintone.Record) { r.Assignees = users }
}
func naming(user string) func(*queue.Job) { return func(j *queue.Job) { j.Assignee = user } }

func TestAnActionOutOfAStatusForAllMayRaiseTheRevisionByLess(t *testing.T) {
	p, f := office()
	r := &kintone.Record{ID: 1, Revision: 3, Status: "All", Assignees: []string{"us"}}
	if got := inspectJob(job(1, "Agree"), r, p, f, "us", nil, time.Now()); got.fate != fit || got.step != 1 {
		t.Errorf("found %+v, want fit by one step", got)
	}
	r.Status, r.Assignees = "New", nil
	if got := inspectJob(job(1, "Ask all"), r, p, f, "us", nil, time.Now()); got.fate != fit || got.step != 2 {
		t.Errorf("into such a status: found %+v, want fit by two steps", got)
	}
}

func TestTheDestinationSaysWhetherAnAssigneeIsNeeded(t *testing.T) {
	f := kintone.Fields{Types: map[string]string{"Creator": "CREATOR", "Modifier": "MODIFIER", "Boss": "USER_SELECT"}}
	one := func(es ...kintone.Entity) kintone.AssigneeRule {
		return kintone.AssigneeRule{Type: kintone.AssigneeOne, Entities: es}
	}
	e := func(t kintone.EntityType, code string) kintone.Entity { return kintone.Entity{Type: t, Code: code} }
	tests := []struct {
		name string
		rule kintone.AssigneeRule
		want need
	}{
		{"nothing is said", kintone.AssigneeRule{}, superfluous},
		{"one of nobody", one(), superfluous},
		{"one of a user", one(e(kintone.EntityUser, "sato")), needed},
		{"one of the creator", one(e(kintone.EntityCreator, "")), needed},
		{"one of the creator's field", one(e(kintone.EntityField, "Creator")), needed},
		{"one of the modifier's field", one(e(kintone.EntityField, "Modifier")), needed},
		{"one of a field that may be empty", one(e(kintone.EntityField, "Boss")), uncertain},
		{"one of a field that the form does not show", one(e(kintone.EntityField, "Secret")), uncertain},
		{"one of a group", one(e(kintone.EntityGroup, "g")), uncertain},
		{"one of an organisation", one(e(kintone.EntityOrganization, "o")), uncertain},
		{"one of a custom field of the users", one(e(kintone.EntityCustomField, "c")), uncertain},
		{"one of a group or a user", one(e(kintone.EntityGroup, "g"), e(kintone.EntityUser, "sato")), needed},
		{"any", kintone.AssigneeRule{Type: kintone.AssigneeAny, Entities: []kintone.Entity{e(kintone.EntityUser, "sato")}}, superfluous},
		{"all", kintone.AssigneeRule{Type: kintone.AssigneeAll, Entities: []kintone.Entity{e(kintone.EntityUser, "sato")}}, superfluous},
	}
	for _, tt := range tests {
		if got := assigneeNeed(tt.rule, f); got != tt.want {
			t.Errorf("%s: need %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestWhatIsForetoldIsWhatOurActionLeaves(t *testing.T) {
	p, _ := office()
	tests := []struct {
		name      string
		to        string
		assignee  string
		step      int
		revision  int64
		ok        bool
		assignees int
	}{
		{"a status without assignees", "Working", "", 2, 5, true, 0},
		{"a status with the one that we named", "Review", "sato", 2, 5, true, 1},
		{"a status whose assignees kintone chooses", "Anyone", "", 2, 5, false, 0},
		{"one of a group, and we named none", "Group", "", 2, 5, false, 0},
		{"a status that the settings no longer have", "Lost", "", 2, 5, false, 0},
		{"an action that may leave the status", "Working", "", 1, 5, false, 0},
		{"a revision further than our action leads", "Working", "", 2, 6, false, 0},
		{"a revision less far", "Working", "", 2, 4, false, 0},
	}
	for _, tt := range tests {
		m := queue.Member{Record: 1, Pin: 3, Action: "Start", To: tt.to, Assignee: tt.assignee, Step: tt.step}
		r, ok := after(m, tt.revision, p, "us")
		if ok != tt.ok {
			t.Errorf("%s: foretold %t, want %t", tt.name, ok, tt.ok)
		}
		if ok && (r.ID != 1 || r.Revision != tt.revision || r.Status != tt.to || r.Modifier != "us" || len(r.Assignees) != tt.assignees) {
			t.Errorf("%s: foretold %+v", tt.name, r)
		}
	}
}

func TestOnlyWhatMayPassByItselfIsTriedAgain(t *testing.T) {
	for _, reason := range []string{
		ReasonRecordNotFound, ReasonStatusMismatch, ReasonActionUnknown, ReasonActionAmbiguous, ReasonNotAssignee,
		ReasonAssigneeRequired, ReasonAssigneeSuperfluous, ReasonAssigneeUnknown, ReasonRevisionConflict, ReasonExpired,
		ReasonUndecodable, ReasonKeyNotFound, ReasonKeyAmbiguous, ReasonKeyInvalid, ReasonKeyFieldInvalid, ReasonKeyRevision, ReasonKeyRefused,
		ReasonConditionUnmet, ReasonNotExecutable, ReasonRefused, ReasonNoPermission, "", "new",
	} {
		passes := reason == ReasonRecordNotFound || reason == ReasonStatusMismatch || reason == ReasonNotAssignee ||
			reason == ReasonKeyNotFound || reason == ReasonConditionUnmet || reason == ReasonNotExecutable
		for spent, want := range []bool{true, true, true, true, false, false} {
			if got := ladder(reason, spent, 5); got != (want && passes) {
				t.Errorf("%q after %d attempts of 5: parked %t, want %t", reason, spent, got, want && passes)
			}
		}
		if ladder(reason, 0, 1) {
			t.Errorf("%q is parked although one attempt is all there is", reason)
		}
	}
}

func TestAttemptsCountFromTheLastRetryByAnOperator(t *testing.T) {
	failed, retried := queue.Attempt{Reason: ReasonStatusMismatch}, queue.Attempt{Reason: queue.ReasonRetried}
	for want, attempts := range [][]queue.Attempt{
		{failed, failed, failed, retried},
		{failed, retried, failed},
		{retried, failed, retried, failed, failed},
		{failed, failed, failed},
	} {
		if got := spent(attempts); got != want {
			t.Errorf("%d attempts are spent of %v, want %d", got, attempts, want)
		}
	}
	if got := spent(nil); got != 0 {
		t.Errorf("%d attempts are spent of none", got)
	}
}

func TestThePauseDoublesToTenMinutesAndIsSpread(t *testing.T) {
	middle := func() float64 { return 0.5 }
	for _, tt := range []struct {
		n     int
		first time.Duration
		want  time.Duration
	}{
		{1, 15 * time.Second, 15 * time.Second},
		{2, 15 * time.Second, 30 * time.Second},
		{6, 15 * time.Second, 8 * time.Minute},
		{7, 15 * time.Second, 10 * time.Minute},
		{21, 15 * time.Second, 10 * time.Minute},
		{1 << 40, 15 * time.Second, 10 * time.Minute},
		{3, time.Hour, time.Hour}, // who wants longer gets longer, and no more than that
		{21, 1 << 50, 1 << 50},    // too long to be doubled
		{1, time.Nanosecond, time.Nanosecond},
	} {
		if got := pause(tt.n, tt.first, middle); got != tt.want {
			t.Errorf("the pause after failure %d from %v is %v, want %v", tt.n, tt.first, got, tt.want)
		}
	}
	low, high := pause(1, time.Minute, func() float64 { return 0 }), pause(1, time.Minute, func() float64 { return 1 })
	if low != 54*time.Second || high != 66*time.Second {
		t.Errorf("a minute is spread from %v to %v, want a tenth either way", low, high)
	}
}
