package kintone

import (
	"reflect"
	"testing"
)

// Codes of built-in fields follow the language in which the app was made; they are found by type (docs/kintone.md 3).
func TestFormFields(t *testing.T) {
	s := newSite(t, answers(200, `{"revision":"2","properties":{
		"状态":{"type":"STATUS","code":"状态","label":"状态","enabled":true},
		"执行者":{"type":"STATUS_ASSIGNEE","code":"执行者","enabled":true},
		"更新人":{"type":"MODIFIER","code":"更新人"},
		"记录编号":{"type":"RECORD_NUMBER","code":"记录编号"},
		"code":{"type":"SINGLE_LINE_TEXT","code":"code","unique":true},
		"表":{"type":"SUBTABLE","code":"表","fields":{"内":{"type":"NUMBER","code":"内"}}}}}`))
	got, err := s.FormFields(t.Context(), App{ID: 5})
	want := Fields{Status: "状态", Assignee: "执行者", Modifier: "更新人", RecordNumber: "记录编号", Enabled: true,
		Types: map[string]string{"状态": "STATUS", "执行者": "STATUS_ASSIGNEE", "更新人": "MODIFIER", "记录编号": "RECORD_NUMBER",
			"code": "SINGLE_LINE_TEXT", "表": "SUBTABLE"},
		InTables: map[string]string{"内": "表"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("FormFields returned %+v, %v; want %+v", got, err, want)
	}
	if uri := s.only(t).uri; uri != "/k/v1/app/form/fields.json?app=5" {
		t.Errorf("asked %s", uri)
	}
}

// While process management is off the form still lists the field, with enabled false (docs/kintone.md 3).
func TestFormFieldsWithProcessManagementOff(t *testing.T) {
	s := newSite(t, answers(200, `{"properties":{"Status":{"type":"STATUS","enabled":false}}}`))
	got, err := s.FormFields(t.Context(), App{ID: 5})
	if err != nil || got.Status != "Status" || got.Enabled {
		t.Errorf("FormFields returned %+v, %v; want the field and Enabled false", got, err)
	}
	s = newSite(t, answers(200, `{"revision":"2"}`))
	if _, err := s.FormFields(t.Context(), App{ID: 5}); failure(t, err).Status != 200 {
		t.Errorf("an answer without properties gave %v", err)
	}
}

// The answer's shape is that of docs/kintone.md 5: indexes and the revision are strings, a CREATOR has the code null,
// answers from before 2025 have neither type nor executableUser.
const processAnswer = `{"enable":true,"revision":"17","states":{
	"Not started":{"name":"Not started","index":"0","assignee":{"type":"ONE","entities":[{"entity":{"type":"FIELD_ENTITY","code":"creator"},"includeSubs":false}]}},
	"In progress":{"name":"In progress","index":"1","assignee":{"type":"ALL","entities":[
		{"entity":{"type":"USER","code":"sato"},"includeSubs":false},
		{"entity":{"type":"ORGANIZATION","code":"sales"},"includeSubs":true},
		{"entity":{"type":"CREATOR","code":null},"includeSubs":false}]}},
	"Completed":{"name":"Completed","index":"2","assignee":{"type":"ANY","entities":[]}}},
	"actions":[
	{"name":"Start","from":"Not started","to":"In progress","filterCond":""},
	{"name":"Approve","from":"In progress","to":"Completed","filterCond":"amount < \"100\"","type":"PRIMARY","executableUser":{"entities":[]}},
	{"name":"Approve","from":"In progress","to":"Not started","filterCond":"","type":"SECONDARY",
	 "executableUser":{"entities":[{"entity":{"type":"GROUP","code":"bosses"},"includeSubs":false}]}},
	{"name":"Approve","from":"Completed","to":"Completed","filterCond":"","type":""}]}`

func readProcess(t *testing.T, answer string) *Process {
	t.Helper()
	s := newSite(t, answers(200, answer))
	p, err := s.Process(t.Context(), App{ID: 5})
	if err != nil {
		t.Fatal(err)
	}
	// lang=user gives the names that the executing user has to send (docs/kintone.md 3).
	if uri := s.only(t).uri; uri != "/k/v1/app/status.json?app=5&lang=user" {
		t.Errorf("asked %s", uri)
	}
	return p
}

func TestProcess(t *testing.T) {
	want := &Process{Enabled: true, Revision: 17,
		States: map[string]State{
			"Not started": {"Not started", 0, AssigneeRule{AssigneeOne, []Entity{{EntityField, "creator", false}}}},
			"In progress": {"In progress", 1, AssigneeRule{AssigneeAll, []Entity{
				{EntityUser, "sato", false}, {EntityOrganization, "sales", true}, {EntityCreator, "", false}}}},
			"Completed": {"Completed", 2, AssigneeRule{Type: AssigneeAny}},
		},
		Actions: []Action{
			{Name: "Start", From: "Not started", To: "In progress", Type: ActionPrimary},
			{Name: "Approve", From: "In progress", To: "Completed", Type: ActionPrimary, FilterCond: `amount < "100"`},
			{Name: "Approve", From: "In progress", To: "Not started", Type: ActionSecondary, Executable: []Entity{{EntityGroup, "bosses", false}}},
			{Name: "Approve", From: "Completed", To: "Completed", Type: ActionPrimary},
		}}
	got := readProcess(t, processAnswer)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Process returned %+v, want %+v", got, want)
	}
	if got.First() != "Not started" {
		t.Errorf("the first status is %q", got.First())
	}
	if n := len(got.ActionsNamed("Approve")); n != 3 {
		t.Errorf("%d actions are called Approve, want 3", n)
	}
	if a := got.ActionsFrom("In progress", "Approve"); len(a) != 2 || a[0].To != "Completed" || a[1].To != "Not started" {
		t.Errorf("Approve leads from In progress by %+v, want two ways", a)
	}
	if a := got.ActionsFrom("Not started", "Approve"); a != nil {
		t.Errorf("Approve leads from Not started by %+v, want none", a)
	}
}

// States are null if process management was never set up (docs/kintone.md 5).
func TestProcessNeverSetUp(t *testing.T) {
	p := readProcess(t, `{"enable":false,"states":null,"actions":null,"revision":"1"}`)
	if p.Enabled || p.States != nil || p.Actions != nil || p.First() != "" {
		t.Errorf("Process returned %+v, want nothing", p)
	}
}

// From and To are in the language asked for, so the states must be found by names in that language.
func TestProcessKnowsStatesByTheirNames(t *testing.T) {
	p := readProcess(t, `{"enable":true,"states":{"未処理":{"name":"Open","index":"0"},"完了":{"index":"1"}},"actions":[{"name":"Close","from":"Open","to":"完了"}],"revision":"1"}`)
	if _, ok := p.States["Open"]; !ok || p.First() != "Open" || p.States["完了"].Index != 1 {
		t.Errorf("the states are %+v", p.States)
	}
}

func TestProcessDoubtsAnAnswerThatDoesNotFit(t *testing.T) {
	for name, answer := range map[string]string{
		"no enable":      `{"states":null,"actions":[],"revision":"1"}`,
		"one name twice": `{"enable":true,"states":{"a":{"name":"x","index":"0"},"b":{"name":"x","index":"1"}},"revision":"1"}`,
		"an odd index":   `{"enable":true,"states":{"a":{"name":"x","index":"first"}},"revision":"1"}`,
		"HTML":           `<html></html>`,
	} {
		s := newSite(t, answers(200, answer))
		p, err := s.Process(t.Context(), App{ID: 5})
		if e := failure(t, err); p != nil || e.Status != 200 || e.MayHaveActed {
			t.Errorf("%s: %+v, %v; want an error", name, p, e)
		}
	}
}

// What an action is called in other languages is asked for by name (S-get); the names of Process are those to send.
func TestProcessIn(t *testing.T) {
	for _, lang := range []string{"ja", "en", "zh", "user", "default"} {
		s := newSite(t, answers(200, processAnswer))
		if _, err := s.ProcessIn(t.Context(), App{ID: 5}, lang); err != nil {
			t.Fatal(err)
		}
		if uri := s.only(t).uri; uri != "/k/v1/app/status.json?app=5&lang="+lang {
			t.Errorf("in %s it asked %s", lang, uri)
		}
	}
	s := newSite(t, answers(200, processAnswer))
	if _, err := s.ProcessIn(t.Context(), App{ID: 5}, ""); !failure(t, err).NotSent {
		t.Errorf("no language gave %v, want a refusal before it is sent", err)
	}
}

func TestReaches(t *testing.T) {
	p := &Process{Actions: []Action{
		{From: "a", To: "b"}, {From: "b", To: "c"}, {From: "c", To: "a"}, {From: "c", To: "d"}, {From: "e", To: "e"},
	}}
	for _, c := range []struct {
		from, to string
		actions  int
		want     bool
	}{
		{"a", "a", 0, true},
		{"a", "b", 0, false},
		{"a", "b", 1, true},
		{"a", "c", 1, false},
		{"a", "c", 2, true},
		{"a", "d", 2, false},
		{"a", "d", 3, true},
		{"a", "d", 1 << 60, true}, // ends when nothing new is reached
		{"d", "a", 100, false},
		{"e", "e", 5, true},
		{"e", "a", 5, false},
		{"gone", "a", 5, false},
		{"a", "b", -1, false},
	} {
		if got := p.Reaches(c.from, c.to, c.actions); got != c.want {
			t.Errorf("Reaches(%s, %s, %d) is %v, want %v", c.from, c.to, c.actions, got, c.want)
		}
	}
}

func TestAppInfo(t *testing.T) {
	for answer, want := range map[string]AppInfo{
		`{"appId":"5","code":"","name":"Orders","spaceId":null,"threadId":null}`: {ID: 5, Name: "Orders"},
		`{"appId":"5","name":"受注","spaceId":"12","threadId":"13"}`:               {ID: 5, Name: "受注", SpaceID: 12},
	} {
		s := newSite(t, answers(200, answer))
		got, err := s.AppInfo(t.Context(), App{ID: 5})
		if err != nil || got != want {
			t.Errorf("AppInfo returned %+v, %v; want %+v", got, err, want)
		}
	}
	s := newSite(t, answers(200, `{"appId":"6","name":"Other"}`))
	if _, err := s.AppInfo(t.Context(), App{ID: 5}); failure(t, err).Status != 200 {
		t.Errorf("an answer about another app gave %v", err)
	}
}
