package simulator_test

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
)

// SEED2, SEED3: running the action and changing the status are two operations, so the revision rises by 2.
func TestActionRaisesRevisionByTwo(t *testing.T) {
	k := newKintone(t, simulator.App{})
	a := putOne(t, k, `{"app":"5","id":"1","action":"Start","revision":"1"}`)
	wantOK(t, a)
	if a.body != `{"revision":"3"}` {
		t.Errorf("answer is %s, want the new revision as a string", a.body)
	}
	wantRecord(t, k, 1, 3, "In progress")
}

// SEED2: the answer lists id and revision of each member, as strings, in the order of the request.
func TestAnswerFollowsRequestOrder(t *testing.T) {
	k := newKintone(t, simulator.App{})
	mustPut(t, k, 2, func(r *simulator.RecordState) { r.Revision = 7 })
	a := put(t, k, `{"app":5,"records":[{"id":3,"action":"Start"},{"id":"2","action":"Start","revision":7},{"id":1,"action":"Start","revision":-1}]}`)
	wantOK(t, a)
	if want := `{"records":[{"id":"3","revision":"3"},{"id":"2","revision":"9"},{"id":"1","revision":"3"}]}`; a.body != want {
		t.Errorf("answer is %s, want %s", a.body, want)
	}
}

// docs/kintone.md 3 (EMU-notes): one failing member rolls everything back, members before it too.
func TestOneBadMemberRollsBackAll(t *testing.T) {
	k := newKintone(t, simulator.App{})
	a := put(t, k, `{"app":5,"records":[{"id":1,"action":"Start"},{"id":2,"action":"Approve"},{"id":3,"action":"Start"}]}`)
	wantRefusal(t, a, 400, "GAIA_IL03")
	wantUntouched(t, k)
	wantRecord(t, k, 1, 1, "Not started")
}

// docs/kintone.md 2.3: GAIA_CO02 409 when the revision is not the latest; -1 or none is unchecked (SEED2).
func TestStaleRevisionIsRefused(t *testing.T) {
	k := newKintone(t, simulator.App{})
	if err := k.Edit(5, 1, "sato"); err != nil {
		t.Fatal(err)
	}
	for _, revision := range []string{"1", "3", "0"} {
		wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Start","revision":`+revision+`}`), 409, "GAIA_CO02")
	}
	wantUntouched(t, k)
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Start","revision":2}`))
	wantOK(t, putOne(t, k, `{"app":5,"id":2,"action":"Start","revision":-1}`))
	wantOK(t, putOne(t, k, `{"app":5,"id":3,"action":"Start"}`))
}

// Of any number of requests pinned at one revision at most one commits, also in a workflow that
// comes back to where it was.
func TestPinCommitsOnceInACycle(t *testing.T) {
	k := newKintone(t, simulator.App{})
	pinned := `{"app":5,"id":1,"action":"Start","revision":1}`
	wantOK(t, putOne(t, k, pinned))
	wantRefusal(t, putOne(t, k, pinned), 409, "GAIA_CO02")
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Approve"}`))
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Reopen"}`))
	wantRefusal(t, putOne(t, k, pinned), 409, "GAIA_CO02")
	if n := k.CommitCount(); n != 3 {
		t.Errorf("%d actions happened, want 3", n)
	}
}

// docs/kintone.md 2.2: GAIA_RE01 has the record's number in its text and no index.
func TestMissingRecordIsNamedInTheText(t *testing.T) {
	k := newKintone(t, simulator.App{})
	if err := k.Delete(5, 2); err != nil {
		t.Fatal(err)
	}
	for _, language := range []string{"en", "ja"} {
		a := put(t, k, `{"app":5,"records":[{"id":1,"action":"Start"},{"id":2,"action":"Start"}]}`, header("Accept-Language", language))
		wantRefusal(t, a, 404, "GAIA_RE01")
		if !strings.Contains(a.Message, ": 2") || a.Errors != nil {
			t.Errorf("answer is %s, want record 2 in the text only", a.body)
		}
	}
	a := put(t, k, `{"app":5,"records":[{"id":4711,"action":"Start"}]}`)
	if wantRefusal(t, a, 404, "GAIA_RE01"); !strings.Contains(a.Message, "4711") {
		t.Errorf("text %q does not name record 4711", a.Message)
	}
}

// docs/kintone.md 2.2: IL03, NT01, SA01, SA04, CO02, ST02 and CB_NO02 name neither index nor record.
func TestOtherRefusalsNameNobody(t *testing.T) {
	k := newKintone(t, simulator.App{Process: assigned()})
	mustPut(t, k, 71, func(r *simulator.RecordState) { r.Status, r.Assignees = "Check", []string{"sato"} })
	mustPut(t, k, 72, func(r *simulator.RecordState) { r.Hidden = true })
	for member, code := range map[string]string{
		`{"id":73,"action":"Nothing"}`:                    "GAIA_RE01", // the control: it does name
		`{"id":1,"action":"Nothing"}`:                     "GAIA_IL03",
		`{"id":1,"action":"To check"}`:                    "GAIA_SA01",
		`{"id":1,"action":"To any","assignee":"sato"}`:    "GAIA_SA04",
		`{"id":71,"action":"Done"}`:                       "GAIA_NT01",
		`{"id":71,"action":"Done","revision":71}`:         "GAIA_CO02",
		`{"id":72,"action":"To check","assignee":"sato"}`: "CB_NO02",
	} {
		a := put(t, k, `{"app":5,"records":[`+member+`]}`)
		if a.Code != code {
			t.Errorf("%s is answered with %s, want %s", member, a.body, code)
		}
		if names := strings.ContainsAny(a.Message, "0123456789"); names != (code == "GAIA_RE01") || a.Errors != nil {
			t.Errorf("%s is answered with %s: only GAIA_RE01 may name a record", member, a.body)
		}
	}
}

// docs/kintone.md 2.3: GAIA_IL03 for an unknown action and for one that does not start here.
func TestImpossibleActionIsRefused(t *testing.T) {
	k := newKintone(t, simulator.App{})
	for _, action := range []string{"Approve", "start", "Start ", "開始"} {
		wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"`+action+`"}`), 400, "GAIA_IL03")
	}
	wantUntouched(t, k)
}

// SEED2, SEED3: two actions of one name in the current status are an error, even if only one's condition holds; the code
// is not recorded. From another status the same name is fine.
func TestTwoActionsOfOneNameAreRefused(t *testing.T) {
	p := simulator.Workflow()
	p.Actions = append(p.Actions,
		simulator.Action{Name: "Start", From: "Not started", To: "Completed", FilterCond: `Record_number = "9"`},
		simulator.Action{Name: "Start", From: "Completed", To: "In progress"})
	k := newKintone(t, simulator.App{Process: p})
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`), 400, "GAIA_IL03")
	mustPut(t, k, 1, func(r *simulator.RecordState) { r.Status = "Completed" })
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`))
}

// SEED1 filterCond; docs/kintone.md 2.3: an unmet condition is GAIA_IL03.
func TestFilterConditionHasToHold(t *testing.T) {
	p := simulator.Workflow()
	p.Actions[0].FilterCond = `Record_number = "1" or code in ("C-1", "C-2")`
	k := newKintone(t, simulator.App{Process: p, Fields: []simulator.Field{{Code: "code", Type: "SINGLE_LINE_TEXT"}}})
	mustPut(t, k, 2, func(r *simulator.RecordState) { r.Fields["code"] = "C-2" })
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`))
	wantOK(t, putOne(t, k, `{"app":5,"id":2,"action":"Start"}`))
	wantRefusal(t, putOne(t, k, `{"app":5,"id":3,"action":"Start"}`), 400, "GAIA_IL03")
}

// docs/kintone.md 2.3: GAIA_ST02 while process management is off; statuses are kept for when it comes back (3).
func TestDisabledProcess(t *testing.T) {
	k := newKintone(t, simulator.App{})
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`))
	off := simulator.Workflow()
	off.Enabled = false
	if err := k.SetProcess(5, off); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Approve"}`), 400, "GAIA_ST02")
	wantRefusal(t, get(t, k, `/k/v1/records.json?app=5&query=Status+%3D+%22Completed%22`), 400, "GAIA_ST02")
	if a := get(t, k, "/k/v1/record.json?app=5&id=1"); strings.Contains(a.body, "Status") || strings.Contains(a.body, "Assignee") {
		t.Errorf("record is %s, want no status in it", a.body)
	}
	if a := get(t, k, "/k/v1/app/form/fields.json?app=5"); !strings.Contains(a.body, `"Status":{"type":"STATUS","code":"Status","label":"Status","enabled":false}`) {
		t.Errorf("fields are %s, want a status field that is not enabled", a.body)
	}
	if err := k.SetProcess(5, simulator.Workflow()); err != nil {
		t.Fatal(err)
	}
	wantRecord(t, k, 1, 3, "In progress")
}

// assigned is a process with all kinds of assignees.
func assigned() simulator.Process {
	sato, mori, admin := simulator.User("sato"), simulator.User("mori"), simulator.User(simulator.Administrator)
	return simulator.Process{
		Enabled: true,
		States: []simulator.State{
			{Name: "New"},
			{Name: "Check", Entities: []simulator.Entity{sato, mori}},
			{Name: "Any", AssigneeType: simulator.Any, Entities: []simulator.Entity{sato, mori}},
			{Name: "All", AssigneeType: simulator.All, Entities: []simulator.Entity{sato, admin}},
			{Name: "Done"},
		},
		Actions: []simulator.Action{
			{Name: "To check", From: "New", To: "Check"}, {Name: "To any", From: "New", To: "Any"}, {Name: "To all", From: "New", To: "All"},
			{Name: "Done", From: "Check", To: "Done"}, {Name: "Done", From: "Any", To: "Done"}, {Name: "Done", From: "All", To: "Done"},
			{Name: "Pass on", From: "All", To: "Check"},
			{Name: "Recall", From: "Check", To: "New", Secondary: true},
			{Name: "Escalate", From: "Check", To: "Any", Secondary: true, Executable: []simulator.Entity{mori}},
		},
	}
}

// SEED2; docs/kintone.md 3: ONE with users to choose from needs one of them as assignee, who then is the only one to act.
func TestOneNeedsAnAssignee(t *testing.T) {
	k := newKintone(t, simulator.App{Process: assigned()})
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"To check"}`), 400, "GAIA_SA01")
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"To check","assignee":"mori"}`))
	wantRecord(t, k, 1, 3, "Check", "mori")
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Done"}`, as("sato", "sato")), 403, "GAIA_NT01")
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Done"}`, as("mori", "mori")))
	wantRecord(t, k, 1, 5, "Done")
}

// docs/kintone.md 2.2, 2.3: GAIA_IL26 names the user in its text. One who exists but is not on the list is refused too;
// the code of that is not recorded.
func TestAssigneeHasToExistAndBeOnTheList(t *testing.T) {
	k := newKintone(t, simulator.App{Process: assigned()})
	a := putOne(t, k, `{"app":5,"id":1,"action":"To check","assignee":"nobody@example.com"}`)
	if wantRefusal(t, a, 400, "GAIA_IL26"); !strings.Contains(a.Message, "nobody@example.com") {
		t.Errorf("text %q does not name the user", a.Message)
	}
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"To check","assignee":"Administrator"}`), 400, "GAIA_SA01")
	wantUntouched(t, k)
}

// docs/kintone.md 3: with ANY, ALL or nobody to choose from, an assignee is GAIA_SA04.
func TestSuperfluousAssigneeIsRefused(t *testing.T) {
	k := newKintone(t, simulator.App{Process: assigned()})
	for _, action := range []string{"To any", "To all"} {
		wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"`+action+`","assignee":"sato"}`), 400, "GAIA_SA04")
	}
	mustPut(t, k, 2, func(r *simulator.RecordState) { r.Status = "Check" })
	wantRefusal(t, putOne(t, k, `{"app":5,"id":2,"action":"Done","assignee":"sato"}`), 400, "GAIA_SA04")
	wantUntouched(t, k)
}

// SEED1: in ANY one of the list may act.
func TestAnyOneOfTheListActs(t *testing.T) {
	k := newKintone(t, simulator.App{Process: assigned()})
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"To any"}`))
	wantRecord(t, k, 1, 3, "Any", "sato", "mori")
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Done"}`), 403, "GAIA_NT01")
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Done"}`, as("mori", "mori")))
	wantRecord(t, k, 1, 5, "Done")
}

// SEED1; docs/kintone.md 3: in ALL everyone has to act, and a 200 for all but the last does not move the record. How much
// the revision rises then is unknown; here by 1, or as configured.
func TestAllWaitsForTheLast(t *testing.T) {
	k := newKintone(t, simulator.App{Process: assigned()})
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"To all"}`))
	wantRecord(t, k, 1, 3, "All", "sato", "Administrator")

	a := putOne(t, k, `{"app":5,"id":1,"action":"Done","revision":3}`)
	if wantOK(t, a); a.Revision != "4" {
		t.Errorf("revision after the first of two is %s, want 4", a.Revision)
	}
	wantRecord(t, k, 1, 4, "All", "sato")
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Done"}`), 403, "GAIA_NT01")
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Done","revision":4}`, as("sato", "sato")))
	wantRecord(t, k, 1, 6, "Done")

	waiting := k.Commits()[1]
	if waiting.From != "All" || waiting.To != "All" || waiting.Before != 3 || waiting.After != 4 {
		t.Errorf("log has %+v, want an action that left the status as it was", waiting)
	}

	other := simulator.New(simulator.Config{PartialStep: 2})
	other.AddUser("sato", "sato")
	other.AddUser("mori", "mori")
	other.AddApp(simulator.App{ID: 5, Tokens: []simulator.Token{simulator.ViewToken(token)}, Process: assigned(), Records: 1})
	wantOK(t, putOne(t, other, `{"app":5,"id":1,"action":"To all"}`))
	if a := putOne(t, other, `{"app":5,"id":1,"action":"Done"}`); a.Revision != "5" {
		t.Errorf("revision with PartialStep 2 is %s, want 5", a.Revision)
	}
}

// SEED2, SEED3: a token may act if nobody or Administrator is assignee, a user if nobody or he himself is.
func TestTokenActsAsAdministrator(t *testing.T) {
	k := newKintone(t, simulator.App{Process: assigned()})
	for id, assignee := range []string{"", "Administrator", "sato"} {
		mustPut(t, k, int64(id+1), func(r *simulator.RecordState) {
			r.Status, r.Assignees = "Check", nil
			if assignee != "" {
				r.Assignees = []string{assignee}
			}
		})
	}
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Done"}`))
	wantOK(t, putOne(t, k, `{"app":5,"id":2,"action":"Done"}`))
	wantRefusal(t, putOne(t, k, `{"app":5,"id":3,"action":"Done"}`), 403, "GAIA_NT01")
	wantOK(t, putOne(t, k, `{"app":5,"id":3,"action":"Done"}`, as("sato", "sato")))

	// The actor becomes the modifier.
	for id, modifier := range map[int64]string{1: "Administrator", 3: "sato"} {
		if r, _ := k.Record(5, id); r.Modifier != modifier {
			t.Errorf("modifier of record %d is %q, want %q", id, r.Modifier, modifier)
		}
	}
}

// docs/kintone.md 3: secondary actions are for their executable users, or for every viewer, though they are no assignees.
func TestSecondaryActionsAreForOthers(t *testing.T) {
	k := newKintone(t, simulator.App{Process: assigned()})
	for id := range int64(4) {
		mustPut(t, k, id+1, func(r *simulator.RecordState) { r.Status, r.Assignees = "Check", []string{"sato"} })
	}
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Recall"}`))
	wantRecord(t, k, 1, 3, "New")
	wantRefusal(t, putOne(t, k, `{"app":5,"id":2,"action":"Escalate"}`), 403, "GAIA_NT01")
	wantOK(t, putOne(t, k, `{"app":5,"id":2,"action":"Escalate"}`, as("mori", "mori")))
	wantRefusal(t, putOne(t, k, `{"app":5,"id":3,"action":"Escalate"}`, as("sato", "sato")), 403, "GAIA_NT01")
}

// docs/kintone.md 3: a process made without saying who is first assignee has the creator there, so that going back to the
// first status needs an assignee by surprise (SEED2 too).
func TestFirstStatusWithTheCreator(t *testing.T) {
	p := simulator.Workflow()
	p.States[0].Entities = []simulator.Entity{{Type: "FIELD_ENTITY", Code: "Created_by"}}
	k := newKintone(t, simulator.App{Process: p})
	wantRecord(t, k, 1, 1, "Not started", "Administrator")
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`, as("sato", "sato")), 403, "GAIA_NT01")
	mustPut(t, k, 1, func(r *simulator.RecordState) { r.Status, r.Assignees = "Completed", nil })
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Reopen"}`), 400, "GAIA_SA01")
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Reopen","assignee":"Administrator"}`))
	wantRecord(t, k, 1, 3, "Not started", "Administrator")
}

// Entities that are fields, groups or the creator stand for users of the record.
func TestEntitiesStandForUsers(t *testing.T) {
	p := simulator.Workflow()
	p.States[1].AssigneeType = simulator.Any
	p.States[1].Entities = []simulator.Entity{
		{Type: "CREATOR"}, {Type: "FIELD_ENTITY", Code: "boss"}, {Type: "GROUP", Code: "staff", Members: []string{"mori", "sato"}},
		{Type: "CUSTOM_FIELD", Code: "elsewhere"},
	}
	k := newKintone(t, simulator.App{Process: p, Fields: []simulator.Field{{Code: "boss", Type: "USER_SELECT"}}})
	mustPut(t, k, 1, func(r *simulator.RecordState) { r.Creator, r.Fields["boss"] = "mori", "sato" })
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`))
	wantRecord(t, k, 1, 3, "In progress", "mori", "sato")
}

// The guessed order of checks, which clients may not rely on but tests of clients have to know: record, permission,
// revision, actor, action, assignee.
func TestOrderOfChecks(t *testing.T) {
	k := newKintone(t, simulator.App{Process: assigned()})
	worst := func(r *simulator.RecordState) {
		r.Status, r.Assignees, r.Revision, r.Hidden = "Check", []string{"sato"}, 9, true
	}
	try := func(code string, change func(*simulator.RecordState)) {
		t.Helper()
		mustPut(t, k, 42, change)
		if a := putOne(t, k, `{"app":5,"id":42,"action":"Nothing","assignee":"nobody","revision":1}`); a.Code != code {
			t.Errorf("answer is %s, want %s", a.body, code)
		}
	}
	try("CB_NO02", worst)
	try("GAIA_CO02", func(r *simulator.RecordState) { r.Hidden = false })
	try("GAIA_NT01", func(r *simulator.RecordState) { r.Revision = 1 })
	try("GAIA_IL03", func(r *simulator.RecordState) { r.Assignees = nil })
	if a := put(t, k, `{"app":5,"records":[{"id":1,"action":"Nothing"},{"id":99,"action":"Nothing"}]}`); a.Code != "GAIA_IL03" {
		t.Errorf("answer is %s, want the objection to the first member", a.body)
	}
}

// SEED2, SEED3: view permission is all it takes; without it CB_NO02 for records and fields that cannot be seen.
func TestHiddenFieldForbidsActions(t *testing.T) {
	k := newKintone(t, simulator.App{HiddenFields: []string{"Assignee"}})
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`), 403, "CB_NO02")
	if a := get(t, k, "/k/v1/record.json?app=5&id=1"); strings.Contains(a.body, "Assignee") || !strings.Contains(a.body, "Not started") {
		t.Errorf("record is %s, want all but the assignee", a.body)
	}
}

// Not recorded; the stricter reading: who may not view a field cannot ask for records by it, and the action that has it
// in its condition is for them all the same.
func TestHiddenFieldsAreNotForQueries(t *testing.T) {
	p := simulator.Workflow()
	p.Actions[0].FilterCond = `Kind = "A"`
	k := newKintone(t, simulator.App{Process: p, HiddenFields: []string{"Kind"}, Fields: []simulator.Field{
		{Code: "Kind", Type: "SINGLE_LINE_TEXT", Default: func(r int64) string { return string(rune('A' + r - 1)) }},
	}})
	wantRefusal(t, get(t, k, "/k/v1/records.json?app=5&query="+url.QueryEscape(`Kind = "A"`)), 400, "GAIA_IQ11")
	wantRefusal(t, putOne(t, k, `{"app":5,"id":2,"action":"Start"}`), 400, "GAIA_IL03")
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`))
}

// docs/kintone.md 3, Action names and language: a user has to use the names in his language, a token the untranslated.
func TestActionNamesDependOnTheLanguage(t *testing.T) {
	p := simulator.Workflow()
	p.Translations = map[string]map[string]string{"ja": {"Start": "開始", "Not started": "未着手", "In progress": "作業中"}}
	k := newKintone(t, simulator.App{Process: p})
	ja := header("Accept-Language", "ja")
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`, as("sato", "sato"), ja), 400, "GAIA_IL03")
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"開始"}`, as("sato", "sato"), ja))
	wantRefusal(t, putOne(t, k, `{"app":5,"id":2,"action":"開始"}`, ja), 400, "GAIA_IL03")
	wantOK(t, putOne(t, k, `{"app":5,"id":2,"action":"Start"}`, ja))

	for target, want := range map[string]string{
		"user": "開始", "ja": "開始", "default": "Start", "en": "Start",
	} {
		a := get(t, k, "/k/v1/app/status.json?app=5&lang="+target, as("sato", "sato"), ja)
		if !strings.Contains(a.body, `"name":"`+want+`"`) {
			t.Errorf("settings in %s are %s, want action %s", target, a.body, want)
		}
	}
	if a := get(t, k, "/k/v1/app/status.json?app=5&lang=user", ja); !strings.Contains(a.body, `"name":"Start"`) {
		t.Errorf("settings for a token are %s, want the untranslated names", a.body)
	}
	if a := get(t, k, "/k/v1/record.json?app=5&id=1", as("sato", "sato"), ja); !strings.Contains(a.body, "作業中") {
		t.Errorf("record is %s, want its status in the user's language", a.body)
	}
}

// EMU (docs/kintone.md 3, Action names and language): a user's own setting goes before Accept-Language.
func TestLanguageOfTheUserWins(t *testing.T) {
	p := simulator.Workflow()
	p.Translations = map[string]map[string]string{"ja": {"Start": "開始"}}
	k := newKintone(t, simulator.App{Process: p})
	if err := k.SetLanguage("sato", "ja"); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`, as("sato", "sato")), 400, "GAIA_IL03")
	if a := get(t, k, "/k/v1/app/status.json?app=5&lang=user", as("sato", "sato")); !strings.Contains(a.body, "開始") {
		t.Errorf("settings are %s, want them in Japanese", a.body)
	}
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"開始"}`, as("sato", "sato")))
	wantOK(t, putOne(t, k, `{"app":5,"id":2,"action":"Start"}`, as("mori", "mori")))
}

// S-get, HELP-proc (docs/kintone.md 3 and 5): a user who is gone is left out of the settings, and the records that wait for
// him are stuck until somebody else is assigned.
func TestRemovedUser(t *testing.T) {
	k := managed(t, simulator.Config{}, simulator.App{Process: assigned()})
	wantOK(t, putSettings(t, k, `{"app":5,"enable":true}`))
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"To check","assignee":"mori"}`))
	k.RemoveUser("mori")
	for _, target := range []string{"/k/v1/app/status.json?app=5", "/k/v1/preview/app/status.json?app=5"} {
		if a := get(t, k, target); strings.Contains(a.body, "mori") || !strings.Contains(a.body, "sato") {
			t.Errorf("settings are %s, want sato and not mori", a.body)
		}
	}
	if s := settings(t, k); s.LiveRevision != 1 || s.PreviewRevision != 2 {
		t.Errorf("revisions are %d and %d, want them as they were", s.LiveRevision, s.PreviewRevision)
	}
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Done"}`), 403, "GAIA_NT01")
	wantRefusal(t, putOne(t, k, `{"app":5,"id":2,"action":"To check","assignee":"mori"}`), 400, "GAIA_IL26")
	wantRefusal(t, get(t, k, "/k/v1/app.json?id=5", as("mori", "mori")), 401, "CB_WA01")
	wantOK(t, send(t, k, request("PUT", "/k/v1/record/assignees.json", `{"app":5,"id":1,"assignees":["sato"]}`)))
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Done"}`, as("sato", "sato")))
}

// The commit log is the oracle: total order, revisions, actors, and what people did.
func TestCommitLog(t *testing.T) {
	k := newKintone(t, simulator.App{})
	wantOK(t, put(t, k, `{"app":5,"records":[{"id":2,"action":"Start"},{"id":1,"action":"Start"}]}`))
	if err := k.Act(5, 2, "sato", "Approve", ""); err != nil {
		t.Fatal(err)
	}
	commits := k.Commits()
	for i := range commits {
		if commits[i].Time.IsZero() {
			t.Errorf("commit %d has no time", i+1)
		}
		commits[i].Time = time.Time{}
	}
	want := []simulator.Commit{
		{N: 1, Request: "1", App: 5, Record: 2, Before: 1, After: 3, Action: "Start", From: "Not started", To: "In progress", Actor: "Administrator"},
		{N: 2, Request: "1", App: 5, Record: 1, Before: 1, After: 3, Action: "Start", From: "Not started", To: "In progress", Actor: "Administrator"},
		{N: 3, Request: "person 1", App: 5, Record: 2, Before: 3, After: 5, Action: "Approve", From: "In progress", To: "Completed", Actor: "sato", Foreign: true, Webhook: true},
	}
	if !slices.Equal(commits, want) {
		t.Errorf("log is %+v, want %+v", commits, want)
	}
	if since := k.CommitsSince(2); len(since) != 1 || since[0].N != 3 || k.CommitCount() != 3 || len(k.CommitsSince(9)) != 0 {
		t.Errorf("commits since 2 are %+v, want the third", since)
	}
}

// People are bound by the same rules.
func TestPeopleAreRefusedLikeRequests(t *testing.T) {
	k := newKintone(t, simulator.App{Process: assigned()})
	mustPut(t, k, 1, func(r *simulator.RecordState) { r.Status, r.Assignees = "Check", []string{"sato"} })
	err := k.Act(5, 1, "mori", "Done", "")
	if r, ok := errors.AsType[*simulator.Refusal](err); !ok || r.Code != "GAIA_NT01" || r.Status != http.StatusForbidden {
		t.Errorf("mori acts: %v, want GAIA_NT01", err)
	}
	if err := k.Act(5, 1, "nobody", "Done", ""); err == nil {
		t.Error("somebody who is no user acted")
	}
	if err := errors.Join(k.Edit(5, 99, "sato"), k.Delete(6, 1)); err == nil || !strings.Contains(err.Error(), "no record 99") {
		t.Errorf("edit and delete of nothing: %v", err)
	}
}

// Edit raises the revision by 1 and changes the modifier only.
func TestEdit(t *testing.T) {
	k := newKintone(t, simulator.App{})
	if err := k.Edit(5, 1, "sato"); err != nil {
		t.Fatal(err)
	}
	wantRecord(t, k, 1, 2, "Not started")
	wantRecord(t, k, 2, 1, "Not started")
	if r, _ := k.Record(5, 1); r.Modifier != "sato" {
		t.Errorf("modifier is %q, want sato", r.Modifier)
	}
	wantUntouched(t, k)
}

// Put can make records that were never there; a deleted one stays deleted, and a status has to exist.
func TestPut(t *testing.T) {
	k := newKintone(t, simulator.App{Records: 3})
	mustPut(t, k, 500, func(r *simulator.RecordState) { r.Fields["code"] = "C-1" })
	wantRecord(t, k, 500, 1, "Not started")
	if _, ok := k.Record(5, 499); ok {
		t.Error("record 499 exists beside the new record 500")
	}
	if r, _ := k.Record(5, 500); r.Fields["code"] != "C-1" {
		t.Errorf("fields are %v, want code C-1", r.Fields)
	}
	if err := k.Delete(5, 2); err != nil {
		t.Fatal(err)
	}
	mustPut(t, k, 6, func(r *simulator.RecordState) { r.Status = "Completed" })
	for id, want := range map[int64]bool{1: true, 2: false, 3: true, 4: false, 5: false, 6: true} {
		if _, ok := k.Record(5, id); ok != want {
			t.Errorf("record %d exists: %v, want %v", id, ok, want)
		}
	}
	if got, want := ask(t, k, "GET", "/records?app=5", "", 200), `{"app":5,"statuses":{"Completed":1,"Not started":3},"total":4}`+"\n"; got != want {
		t.Errorf("records are %s, want %s", got, want)
	}
	if err := k.Put(5, 2, func(*simulator.RecordState) {}); err == nil {
		t.Error("a deleted record came back")
	}
	if err := k.Put(5, 1, func(r *simulator.RecordState) { r.Status = "Nowhere" }); err == nil {
		t.Error("a record went into a status that does not exist")
	}
}

// docs/kintone.md 3: a status that a record is in cannot be deleted; 5: each change raises the settings revision.
func TestSettingsChange(t *testing.T) {
	k := newKintone(t, simulator.App{})
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`))
	p := simulator.Process{Enabled: true, States: []simulator.State{{Name: "Not started"}, {Name: "Completed"}}}
	if err := k.SetProcess(5, p); err == nil || !strings.Contains(err.Error(), "In progress") {
		t.Errorf("deleting a status in use: %v, want an error", err)
	}
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Approve"}`))
	if err := k.SetProcess(5, p); err != nil {
		t.Fatal(err)
	}
	if a := get(t, k, "/k/v1/app/status.json?app=5"); !strings.Contains(a.body, `"revision":"2"`) {
		t.Errorf("settings are %s, want revision 2", a.body)
	}
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Reopen"}`), 400, "GAIA_IL03")
}

// docs/kintone.md 5: states are null if never set up. Turning process management on puts every record into the first
// status (8).
func TestProcessTurnedOnInMidLife(t *testing.T) {
	k := simulator.New(simulator.Config{})
	k.AddApp(simulator.App{ID: 5, Records: 200, Tokens: []simulator.Token{simulator.ViewToken(token)}})
	if a := get(t, k, "/k/v1/app/status.json?app=5"); a.body != `{"enable":false,"states":null,"actions":null,"revision":"1"}` {
		t.Errorf("settings are %s, want null states", a.body)
	}
	if err := k.Edit(5, 100, "Administrator"); err != nil {
		t.Fatal(err)
	}
	if err := k.SetProcess(5, simulator.Workflow()); err != nil {
		t.Fatal(err)
	}
	wantRecord(t, k, 100, 2, "Not started")
	wantRecord(t, k, 200, 1, "Not started")
}

// Settings that kintone would not save, or that a test cannot mean, are refused.
func TestNonsensicalAppsPanic(t *testing.T) {
	process := func(change func(*simulator.Process)) simulator.App {
		p := assigned()
		change(&p)
		return simulator.App{ID: 7, Process: p}
	}
	for name, app := range map[string]simulator.App{
		"no id":           {Process: simulator.Workflow()},
		"enabled, empty":  {ID: 7, Process: simulator.Process{Enabled: true}},
		"same name twice": process(func(p *simulator.Process) { p.States[1].Name = "New" }),
		"long name":       process(func(p *simulator.Process) { p.States[4].Name = strings.Repeat("あ", 65) }),
		"unknown user":    process(func(p *simulator.Process) { p.States[1].Entities[0].Code = "nobody" }),
		"unknown field": process(func(p *simulator.Process) {
			p.States[1].Entities[0] = simulator.Entity{Type: "FIELD_ENTITY", Code: "x"}
		}),
		"first is ALL":     process(func(p *simulator.Process) { p.States[0].AssigneeType = simulator.All }),
		"first is CREATOR": process(func(p *simulator.Process) { p.States[0].Entities = []simulator.Entity{{Type: "CREATOR"}} }),
		"action to nowhere": process(func(p *simulator.Process) {
			p.Actions[0].To = "Nowhere"
		}),
		"condition on status":     process(func(p *simulator.Process) { p.Actions[0].FilterCond = `Status = "New"` }),
		"condition on no field":   process(func(p *simulator.Process) { p.Actions[0].FilterCond = `nothing = "x"` }),
		"condition with order":    process(func(p *simulator.Process) { p.Actions[0].FilterCond = `$id = 1 order by $id` }),
		"executable, not second.": process(func(p *simulator.Process) { p.Actions[0].Executable = []simulator.Entity{simulator.User("sato")} }),
		"token with a comma":      {ID: 7, Tokens: []simulator.Token{{Value: "a,b"}}},
		"two fields of one code":  {ID: 7, StatusField: "Assignee"},
		"field of no type":        {ID: 7, Fields: []simulator.Field{{Code: "x", Type: "TEXT"}}},
		"app exists":              {ID: 5},
	} {
		k := newKintone(t, simulator.App{})
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: AddApp took the app", name)
				}
			}()
			k.AddApp(app)
		}()
	}
}
