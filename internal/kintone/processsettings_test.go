package kintone

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
)

func readSettings(t *testing.T, text string) *ProcessSettings {
	t.Helper()
	s := new(ProcessSettings)
	if err := json.Unmarshal([]byte(text), s); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return s
}

// mistakes returns the paths of those in err, each with its text.
func mistakes(t *testing.T, err error) map[string]string {
	t.Helper()
	found := make(map[string]string)
	if err == nil {
		return found
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%v (%T) is not joined", err, err)
	}
	for _, e := range joined.Unwrap() {
		m, ok := errors.AsType[*SettingsMistake](e)
		if !ok {
			t.Fatalf("%v (%T) is not a mistake", e, e)
		}
		found[strings.Join(m.Path, "/")] += m.Text
	}
	return found
}

// The form that goes with SEED1's sample.
var seedForm = Fields{Status: "Status", Enabled: true, InTables: map[string]string{"Inner": "Table"}, Types: map[string]string{
	"Status": "STATUS", "Assignee": "STATUS_ASSIGNEE", "Record_number": "RECORD_NUMBER", "Created_by": "CREATOR",
	"Updated_by": "MODIFIER", "Amount": "NUMBER", "Memo": "SINGLE_LINE_TEXT", "Users": "USER_SELECT", "Groups": "GROUP_SELECT",
	"Departments": "ORGANIZATION_SELECT", "Table": "SUBTABLE", "Related": "REFERENCE_TABLE"}}

// SEED1's sample is read as it stands there, with its app, and with its index in strings.
func TestSeedBodyIsReadAsItIs(t *testing.T) {
	want := &ProcessSettings{App: 5, Enable: new(true), Revision: Unchecked,
		States: map[string]StateSettings{
			"Not started": {"Not started", 0, true, &AssigneeRule{AssigneeOne, []Entity{}}},
			"In progress": {"In progress", 1, true, &AssigneeRule{AssigneeAll, []Entity{
				{EntityUser, "user1", false}, {EntityField, "Created_by", false}, {EntityCustomField, "Boss", false}}}},
			"Completed": {"Completed", 2, true, &AssigneeRule{AssigneeOne, []Entity{}}},
		},
		Actions: []ActionSettings{
			{Name: "Start", From: "Not started", To: "In progress", FilterCond: `Record_number = "1"`},
			{Name: "Complete", From: "In progress", To: "Completed"},
		}}
	got := readSettings(t, seed1Body)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, want %+v", got, want)
	}
	for _, now := range []*ProcessSettings{nil, {Enable: new(false)}, got} {
		if err := got.Check(App{ID: 5}, seedForm, now); err != nil {
			t.Errorf("over %+v: %v", now, err)
		}
	}
}

// Numbers and booleans may be strings (SEED1), what is left out may be null (S-get), and writing loses none of it.
func TestSettingsAreReadAsKintoneReadsThem(t *testing.T) {
	for _, c := range []struct{ one, other string }{
		{`{"app":5,"enable":true,"revision":3}`, `{"app":"5","enable":"true","revision":"3"}`},
		{`{"enable":false}`, `{"enable":"false","states":null,"actions":null,"revision":-1,"app":null}`},
		{`{"revision":-1}`, `{"revision":"-1"}`},
		{`{"states":{"a":{"index":0}}}`, `{"states":{"a":{"index":"0","name":"a","assignee":null}}}`},
		{`{"states":{"a":{"assignee":{"type":"ONE","entities":[{"entity":{"type":"ORGANIZATION","code":"x"},"includeSubs":true}]}}}}`,
			`{"states":{"a":{"assignee":{"type":"ONE","entities":[{"entity":{"type":"ORGANIZATION","code":"x"},"includeSubs":"true"}]}}}}`},
		{`{"states":{"a":{"assignee":{"type":"ONE","entities":[{"entity":{"type":"CREATOR"}}]}}}}`,
			`{"states":{"a":{"assignee":{"type":"ONE","entities":[{"entity":{"type":"CREATOR","code":null},"includeSubs":"false"}]}}}}`},
		{`{"actions":[{"name":"x","from":"a","to":"b"}]}`, `{"actions":[{"name":"x","from":"a","to":"b","filterCond":"","type":""}]}`},
		{`{"actions":[{"name":"x","from":"a","to":"b","type":"PRIMARY"}]}`, `{"actions":[{"name":"x","from":"a","to":"b","type":"PRIMARY","executableUser":{"entities":[]}}]}`},
	} {
		one, other := readSettings(t, c.one), readSettings(t, c.other)
		if !reflect.DeepEqual(one, other) || !one.Same(other) {
			t.Errorf("%s is %+v, but %s is %+v", c.one, one, c.other, other)
		}
	}
	for _, s := range []*ProcessSettings{everySetting(), readSettings(t, seed1Body), readSettings(t, processAnswer), {Revision: Unchecked}} {
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if back := readSettings(t, string(text)); !back.Same(s) || len(DiffProcess(s, back)) > 0 || back.Revision != s.Revision || back.App != s.App {
			t.Errorf("%+v came back as %+v from %s", s, back, text)
		}
	}
}

// Who may run an action is said for SECONDARY actions alone: nobody in particular is said as an empty list.
func TestExecutableUserIsForSecondaryActions(t *testing.T) {
	for want, a := range map[string]ActionSettings{
		`{"name":"x","from":"a","to":"b","filterCond":""}`:                                                     {Name: "x", From: "a", To: "b", Executable: []Entity{}},
		`{"name":"x","from":"a","to":"b","filterCond":"","type":"PRIMARY"}`:                                    {Name: "x", From: "a", To: "b", Type: ActionPrimary, Executable: []Entity{}},
		`{"name":"x","from":"a","to":"b","filterCond":"","type":"SECONDARY","executableUser":{"entities":[]}}`: {Name: "x", From: "a", To: "b", Type: ActionSecondary, Executable: []Entity{}},
	} {
		if got, err := a.MarshalJSON(); err != nil || string(got) != want {
			t.Errorf("wrote %s, %v; want %s", got, err, want)
		}
	}
}

// People read what is written: statuses in their order, conditions without escapes.
func TestSettingsAreWrittenForPeople(t *testing.T) {
	text, err := everySetting().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	at := -1
	for _, part := range []string{`"Not started":{"name":"Open","index":0`, `"In progress":{"name":"In progress","index":1`, `"Checked":`, `"Done":`, `> \"1\" and Text = \"<&>\"`} {
		i := strings.Index(string(text), part)
		if i <= at {
			t.Errorf("%q is not behind the one before it in %s", part, text)
		}
		at = i
	}
}

func TestSettingsThatCannotBeRead(t *testing.T) {
	deep := strings.Repeat("[", maxDepth+2) + strings.Repeat("]", maxDepth+2)
	for text, want := range map[string][]string{
		`[]`:                                           {""},
		`{"enable":1}`:                                 {"enable"},
		`{"enable":"yes"}`:                             {"enable"},
		`{"enabled":true}`:                             {"enabled"},
		`{"__REQUEST_TOKEN__":"x"}`:                    {"__REQUEST_TOKEN__"},
		`{"app":0}`:                                    {"app"},
		`{"app":1.5}`:                                  {"app"},
		`{"app":"05"}`:                                 {"app"},
		`{"revision":"latest"}`:                        {"revision"},
		`{"revision":1e3}`:                             {"revision"},
		`{"enable":true,"enable":false}`:               {"enable"},
		`{"states":[]}`:                                {"states"},
		`{"states":{"a":{},"a":{}}}`:                   {"states/a"},
		`{"states":{"a":null}}`:                        {"states/a"},
		`{"states":{"a":{"index":"x"}}}`:               {"states/a/index"},
		`{"states":{"a":{"name":""}}}`:                 {"states/a/name"},
		`{"states":{"a":{"name":7}}}`:                  {"states/a/name"},
		`{"states":{"":{}}}`:                           {"states//name"},
		`{"states":{"a":{"indexes":"0"}}}`:             {"states/a/indexes"},
		`{"states":{"a":{"assignee":{"type":"ONE"}}}}`: {"states/a/assignee/entities"},
		`{"states":{"a":{"assignee":[]}}}`:             {"states/a/assignee"},
		`{"states":{"a":{"assignee":{"type":"ONE","entities":[{}]}}}}`:                            {"states/a/assignee/entities/0/entity"},
		`{"states":{"a":{"assignee":{"type":"ONE","entities":[{"entity":{"id":1}}]}}}}`:           {"states/a/assignee/entities/0/entity/id"},
		`{"states":{"a":{"assignee":{"type":"ONE","entities":[{"entity":{},"includeSubs":2}]}}}}`: {"states/a/assignee/entities/0/includeSubs"},
		`{"actions":{}}`:                                   {"actions"},
		`{"actions":[null]}`:                               {"actions/0"},
		`{"actions":[{"name":"x"},{"nome":"y"}]}`:          {"actions/1/nome"},
		`{"actions":[{"executableUser":[]}]}`:              {"actions/0/executableUser"},
		`{"actions":[{"executableUser":{"entities":{}}}]}`: {"actions/0/executableUser/entities"},
		`{"x":` + deep + `}`:                               {""},
		"{\"states\":{\"\xff\":{}}}":                       {""},
		`{"app":"x","enable":2,"z":0}`:                     {"app", "enable", "z"}, // all at once
	} {
		s := &ProcessSettings{App: 77}
		err := s.UnmarshalJSON([]byte(text))
		found := mistakes(t, err)
		if len(found) != len(want) || s.App != 77 {
			t.Errorf("%s gave %v, want mistakes at %q and the settings as they were", text, err, want)
		}
		for _, path := range want {
			if found[path] == "" {
				t.Errorf("%s gave %v, want a mistake at %q", text, err, path)
			}
		}
	}
	for _, text := range []string{``, `{`, `{"app":5`, `{"app":5}}`, `{} {}`} {
		if err := new(ProcessSettings).UnmarshalJSON([]byte(text)); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

// now are the settings that the changes below are put over.
const settingsNow = `{"enable":true,"revision":"7","states":{
	"Open":{"name":"Open","index":"0","assignee":{"type":"ONE","entities":[]}},
	"Review":{"name":"Review","index":"1","assignee":{"type":"ANY","entities":[{"entity":{"type":"USER","code":"sato"}}]}},
	"Done":{"name":"Done","index":"2","assignee":{"type":"ONE","entities":[]}}},
	"actions":[
	{"name":"Submit","from":"Open","to":"Review","filterCond":"","type":"PRIMARY","executableUser":{"entities":[]}},
	{"name":"Approve","from":"Review","to":"Done","filterCond":"Amount < \"100\"","type":"PRIMARY","executableUser":{"entities":[]}},
	{"name":"Reject","from":"Review","to":"Open","filterCond":"","type":"SECONDARY","executableUser":{"entities":[{"entity":{"type":"GROUP","code":"bosses"}}]}}]}`

// checkCase is a change of settingsNow with what Check says of it: words by the path of the mistake.
type checkCase struct {
	text string
	want map[string]string
	here string // why the simulated kintone cannot be asked about it; "" if it can
}

func checkCases() []checkCase {
	states := func(rest string) string { return `{"states":{` + rest + `}}` }
	const three = `"Open":{"index":0},"Review":{"index":1},"Done":{"index":2}`
	first := func(assignee string) string {
		return states(`"Open":{"index":0,"assignee":` + assignee + `},"Review":{"index":1},"Done":{"index":2}`)
	}
	action := func(rest string) string {
		return `{"actions":[{"name":"Go","from":"Open","to":"Done"` + rest + `}]}`
	}
	long, most := strings.Repeat("名", maxName+1), strings.Repeat("名", maxName)
	at := func(path, text string) map[string]string { return map[string]string{path: text} }
	return []checkCase{
		{`{"enable":false}`, nil, ""},
		{`{"revision":0}`, at("revision", "neither positive"), ""},
		{`{"revision":-2}`, at("revision", "neither positive"), ""},

		// Statuses: SEED1, S-update.
		{states(three), nil, ""},
		{states(`"Open":{"index":3},"Review":{"index":50},"Done":{"index":700}`), nil, ""},
		{states(``), at("states", "no status is left"), ""},
		{states(`"Open":{"index":0,"name":"` + most + `"},"Review":{"index":1},"Done":{"index":2}`), nil, ""},
		{states(`"Open":{"index":0,"name":"` + long + `"},"Review":{"index":1},"Done":{"index":2}`), at("states/Open/name", "65 characters"), ""},
		{states(`"Open":{"index":0},"Review":{"index":1,"name":" "},"Done":{"index":2}`), at("states/Review/name", "is empty"), "a space is a name"},
		{states(`"Open":{"index":0},"Review":{"index":1,"name":"Done"},"Done":{"index":2}`), at("states/Done/name", "one name"), ""},
		{states(`"Open":{"index":0},"Review":{},"Done":{"index":2}`), at("states/Review/index", "is missing"), ""},
		{states(`"Open":{"index":-1},"Review":{"index":1},"Done":{"index":2}`), at("states/Open/index", "is negative"), "places are counted again before they are sent"},
		{states(`"Open":{"index":0},"Review":{"index":1},"Done":{"index":1}`), at("states/Review/index", `that of "Done"`), "places are counted again before they are sent"},
		{states(three + `,"Paid":{"index":3}`), nil, ""},
		{states(three + `,"Paid":{"index":3,"name":"Paid out"}`), at("states/Paid/name", "listed by its own name"), ""},
		{states(`"New":{"index":0},"Open":{"index":1},"Review":{"index":2},"Done":{"index":3}`), at("states/New/index", `the first status is "Open"`), ""},
		{states(`"Open":{"index":2},"Review":{"index":0},"Done":{"index":1}`), at("states/Review/index", `the first status is "Open"`), ""},
		{`{"states":{"Review":{"index":0},"Done":{"index":1}},"actions":[]}`, at("states", `the first status, "Open", cannot be deleted`), ""},
		{states(`"Open":{"index":0},"Review":{"index":1}`), at("actions", `the action "Approve" of now leads from or to "Done"`), ""},
		{`{"states":{"Open":{"index":0},"Review":{"index":1}},"actions":[{"name":"Submit","from":"Open","to":"Review"}]}`, nil, ""},

		// The assignee of the first status: EMU.
		{first(`{"type":"ONE","entities":[]}`), nil, ""},
		{first(`{"type":"ONE","entities":[{"entity":{"type":"FIELD_ENTITY","code":"Created_by"}}]}`), nil, ""},
		{first(`{"type":"ONE","entities":[{"entity":{"type":"FIELD_ENTITY","code":"Created_by"}},{"entity":{"type":"FIELD_ENTITY","code":"Created_by"}}]}`),
			map[string]string{"states/Open/assignee/entities/0": "nobody else", "states/Open/assignee/entities/1": "nobody else"}, ""},
		{first(`{"type":"ALL","entities":[]}`), at("states/Open/assignee/type", "always ONE"), ""},
		{first(`{"type":"ONE","entities":[{"entity":{"type":"CREATOR"}}]}`), at("states/Open/assignee/entities/0", "Created by"), ""},
		{first(`{"type":"ONE","entities":[{"entity":{"type":"USER","code":"sato"}}]}`), at("states/Open/assignee/entities/0", "Created by"), ""},
		{first(`{"type":"ONE","entities":[{"entity":{"type":"FIELD_ENTITY","code":"Updated_by"}}]}`), at("states/Open/assignee/entities/0", "Created by"), ""},

		// Entities: SEED1.
		{second(`{"entity":{"type":"CREATOR"}},{"entity":{"type":"USER","code":"guest/kim"}},{"entity":{"type":"GROUP","code":"g"}}`), nil, "there are no guests"},
		{second(`{"entity":{"type":"CUSTOM_FIELD","code":"Boss"}},{"entity":{"type":"ORGANIZATION","code":"o"},"includeSubs":true}`), nil, ""},
		{second(`{"entity":{"type":"FIELD_ENTITY","code":"Users"}},{"entity":{"type":"FIELD_ENTITY","code":"Groups"}},
			{"entity":{"type":"FIELD_ENTITY","code":"Departments"}},{"entity":{"type":"FIELD_ENTITY","code":"Updated_by"}}`), nil, ""},
		{second(`{"entity":{"type":"USER"}}`), at("states/Review/assignee/entities/0/entity/code", "is missing"), ""},
		{second(`{"entity":{"type":"ROBOT","code":"x"}}`), at("states/Review/assignee/entities/0/entity/type", "ROBOT"), ""},
		{second(`{"entity":{"type":"FIELD_ENTITY","code":"Amount"}}`), at("states/Review/assignee/entities/0/entity/code", "type NUMBER"), ""},
		{second(`{"entity":{"type":"FIELD_ENTITY","code":"Inner"}}`), at("states/Review/assignee/entities/0/entity/code", "no field"), ""},
		{second(`{"entity":{"type":"FIELD_ENTITY","code":"Users"}},{"entity":{"type":"FIELD_ENTITY","code":"Gone"}}`), at("states/Review/assignee/entities/1/entity/code", "no field"), ""},
		{states(`"Open":{"index":0},"Review":{"index":1,"assignee":{"type":"SOME","entities":[]}},"Done":{"index":2}`), at("states/Review/assignee/type", "SOME"), ""},

		// Actions: SEED1, S-get.
		{action(``), nil, ""},
		{`{"actions":[]}`, nil, ""},
		{`{"actions":[{"name":"","from":"Open","to":"Done"}]}`, at("actions/0/name", "is empty"), ""},
		{`{"actions":[{"name":"` + long + `","from":"Open","to":"Done"}]}`, at("actions/0/name", "65 characters"), ""},
		{`{"actions":[{"name":"Go","from":"Open"}]}`, at("actions/0/to", "is missing"), ""},
		{`{"actions":[{"name":"Go","from":"Gone","to":"Done"}]}`, at("actions/0/from", `no status "Gone"`), ""},
		{`{"states":{"Open":{"index":0,"name":"New"},"Review":{"index":1}},"actions":[{"name":"Go","from":"New","to":"Review"}]}`, nil, ""},
		{`{"states":{"Open":{"index":0,"name":"New"},"Review":{"index":1}},"actions":[{"name":"Go","from":"Open","to":"Review"}]}`, at("actions/0/from", `no status "Open"`), ""},
		{action(`,"type":"THIRD"`), at("actions/0/type", "THIRD"), ""},
		{action(`,"type":"SECONDARY","executableUser":{"entities":[{"entity":{"type":"USER","code":"sato"}}]}`), nil, ""},
		{action(`,"type":"SECONDARY","executableUser":{"entities":[{"entity":{"type":"USER"}}]}`), at("actions/0/executableUser/entities/0/entity/code", "is missing"), ""},
		{action(`,"executableUser":{"entities":[{"entity":{"type":"USER","code":"sato"}}]}`), at("actions/0/executableUser", "SECONDARY"), ""},

		// Conditions: SEED1.
		{action(`,"filterCond":"Amount >= \"100\" and (Record_number not in (\"1\", \"2\") or Inner in (\"a\\\"Status = 1\"))"`), nil, ""},
		{action(`,"filterCond":"Users in (LOGINUSER()) and Related.Amount = \"1\" and Memo not like \"a\""`), nil, "there are no related records"},
		{action(`,"filterCond":"Amount > \"1\" and Status = \"Open\""`), at("actions/0/filterCond", "cannot be part"), ""},
		{action(`,"filterCond":"Status not in (\"Open\")"`), at("actions/0/filterCond", "cannot be part"), ""},
		{action(`,"filterCond":"Memo=\"Status\""`), nil, ""},
		{action(`,"filterCond":"Gone=\"1\""`), at("actions/0/filterCond", `no field "Gone"`), ""},
		{action(`,"filterCond":"Amount = \"1"`), at("actions/0/filterCond", "not closed"), ""},
	}
}

func second(entities string) string {
	return `{"states":{"Open":{"index":0},"Review":{"index":1,"assignee":{"type":"ALL","entities":[` + entities + `]}},"Done":{"index":2}}}`
}

func TestCheckSaysWhatKintoneWouldRefuse(t *testing.T) {
	for _, c := range checkCases() {
		err := readSettings(t, c.text).Check(App{ID: 5}, seedForm, readSettings(t, settingsNow))
		found := mistakes(t, err)
		if len(found) != len(c.want) {
			t.Errorf("%s\ngave %v, want %q", c.text, err, c.want)
		}
		for path, words := range c.want {
			if !strings.Contains(found[path], words) {
				t.Errorf("%s\ngave %v, want %q at %s", c.text, err, words, path)
			}
		}
	}

	// Departments cannot be specified in guest space apps (SEED1).
	err := readSettings(t, second(`{"entity":{"type":"ORGANIZATION","code":"o"}}`)).Check(App{ID: 5, GuestSpace: 7}, seedForm, nil)
	if found := mistakes(t, err); !strings.Contains(found["states/Review/assignee/entities/0/entity"], "guest space") {
		t.Errorf("a department in a guest space gave %v", err)
	}
	// Without the form nothing is said of fields, without what there is now nothing of new statuses.
	for _, text := range []string{second(`{"entity":{"type":"FIELD_ENTITY","code":"Gone"}}`), `{"actions":[{"name":"Go","from":"Open","to":"Done","filterCond":"Gone = 1"}]}`,
		`{"states":{"New":{"index":0}}}`, `{"actions":[{"name":"Go","from":"x","to":"y"}]}`} {
		if err := readSettings(t, text).Check(App{ID: 5}, Fields{}, nil); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// What is left out stays, under its new name (SEED1).
func TestSettingsOverThoseOfNow(t *testing.T) {
	now := readSettings(t, settingsNow)
	whole := readSettings(t, `{"app":5,"states":{"Open":{"name":"New","index":0},"Review":{"index":1},"Paid":{"index":3,"assignee":{"type":"ONE","entities":[]}},"Done":{}}}`).Over(now)
	want := &ProcessSettings{App: 5, Enable: new(true), Revision: Unchecked,
		States: map[string]StateSettings{
			"Open":   {"New", 0, true, now.States["Open"].Assignee},
			"Review": {"Review", 1, true, now.States["Review"].Assignee},
			"Done":   {"Done", 2, true, now.States["Done"].Assignee},
			"Paid":   {"Paid", 3, true, &AssigneeRule{AssigneeOne, []Entity{}}},
		},
		Actions: slices.Clone(now.Actions)}
	want.Actions[0].From, want.Actions[2].To = "New", "New"
	if !reflect.DeepEqual(whole, want) {
		t.Errorf("the whole is %+v, want %+v", whole, want)
	}
	if now.Actions[0].From != "Open" || now.States["Open"].Name != "Open" {
		t.Errorf("what there is now was changed to %+v", now)
	}
	if again := whole.Over(now); !reflect.DeepEqual(again, whole) {
		t.Errorf("a second time it is %+v", again)
	}
	off := readSettings(t, `{"enable":false,"actions":[],"revision":7}`).Over(now)
	if *off.Enable || len(off.States) != 3 || len(off.Actions) != 0 || off.Revision != 7 {
		t.Errorf("the whole is %+v, want the statuses of now and nothing else", off)
	}
}

// kintone was seen to make the creator assignee of a first status whose assignee a change leaves out (EMU).
func TestFirstAssigneeIsSaid(t *testing.T) {
	now := readSettings(t, settingsNow)
	s := readSettings(t, `{"states":{"Open":{"index":0,"name":"New"},"Review":{"index":1},"Done":{"index":2}}}`)
	out := s.For(now)
	if out.States["Open"].Assignee != now.States["Open"].Assignee || out.States["Open"].Name != "New" || out.States["Review"].Assignee != nil ||
		out.Actions != nil || out.Enable != nil || s.States["Open"].Assignee != nil {
		t.Errorf("to be sent is %+v of %+v", out, s)
	}
	if out := readSettings(t, `{"enable":false}`).For(now); out.States != nil {
		t.Errorf("statuses that are left out are sent: %+v", out)
	}
}

// After a deploy the settings are compared with what was wanted: the numbers that order statuses, the order of assignees,
// what a key was before, and "" for PRIMARY say nothing.
func TestSameSettings(t *testing.T) {
	now := readSettings(t, settingsNow)
	wanted := readSettings(t, `{"states":{"Open":{"name":"New","index":0},"Review":{"index":5},"Done":{"index":10},"Paid":{"index":11}},"revision":7}`).Over(now)
	live := readSettings(t, strings.NewReplacer(`"Open"`, `"New"`, `"revision":"7"`, `"revision":"9"`,
		`"index":"2","assignee":{"type":"ONE","entities":[]}}`,
		`"index":"2","assignee":{"type":"ONE","entities":[]}},"Paid":{"name":"Paid","index":"3","assignee":{"type":"ONE","entities":[{"entity":{"type":"FIELD_ENTITY","code":"Created_by"}}]}}`,
	).Replace(settingsNow))
	if !wanted.Same(live) || !live.Same(wanted) {
		t.Errorf("%+v and %+v differ", wanted, live)
	}
	for name, text := range map[string]string{
		"enable":     `{"enable":false}`,
		"a name":     `{"states":{"Open":{"name":"Neu","index":0},"Review":{"index":1},"Done":{"index":2}}}`,
		"the order":  `{"states":{"Open":{"index":0},"Review":{"index":2},"Done":{"index":1}}}`,
		"a status":   `{"states":{"Open":{"index":0},"Review":{"index":1},"Done":{"index":2},"Paid":{"index":3}}}`,
		"assignees":  `{"states":{"Open":{"index":0},"Review":{"index":1,"assignee":{"type":"ALL","entities":[{"entity":{"type":"USER","code":"sato"}}]}},"Done":{"index":2}}}`,
		"an action":  `{"actions":[]}`,
		"conditions": strings.Replace(settingsNow, `\"100\"`, `\"200\"`, 1),
		"type":       strings.Replace(settingsNow, "SECONDARY", "PRIMARY", 1),
		"executable": strings.Replace(settingsNow, "bosses", "staff", 1),
	} {
		if then := readSettings(t, text).Over(now); then.Same(now) || now.Same(then) {
			t.Errorf("with other %s they are the same", name)
		}
	}
	if never := readSettings(t, `{"enable":true,"states":null,"actions":[],"revision":"1"}`); never.Same(now) || now.Same(never) {
		t.Error("settings that never were set up are the same as others")
	}
}

func TestDiffProcess(t *testing.T) {
	now := readSettings(t, settingsNow)
	say := func(changes []SettingsChange) []string {
		var said []string
		for _, c := range changes {
			text := strings.Join(strings.Fields(fmt.Sprintf("%s %s %s>%s", c.What, c.Name, c.From, c.To)), " ")
			switch c.What {
			case ChangeActionAdded, ChangeActionDeleted, ChangeActionChanged, ChangeStateAssignee:
			default:
				text = strings.TrimSuffix(text, " >") + fmt.Sprintf(" %v:%v", c.Before, c.After)
			}
			said = append(said, strings.ReplaceAll(text, " >", ""))
		}
		return said
	}
	for _, c := range []struct {
		then string
		want []string
	}{
		{`{}`, nil},
		{settingsNow, nil},
		{`{"enable":"false"}`, []string{"enable true:false"}},
		{`{"states":{"Open":{"name":"New","index":0},"Review":{"index":1},"Done":{"index":2}}}`, []string{"state_renamed Open Open:New"}},
		{`{"states":{"Open":{"index":0},"Check":{"index":1},"Review":{"index":2},"Done":{"index":3}}}`, []string{"state_added Check <nil>:1"}},
		{`{"states":{"Open":{"index":0},"Check":{"index":1,"assignee":{"type":"ONE","entities":[]}},"Review":{"index":2},"Done":{"index":3}}}`,
			[]string{"state_added Check <nil>:1", "state_assignee Check"}},
		{`{"states":{"Open":{"index":0},"Done":{"index":1},"Review":{"index":2}}}`, []string{"state_moved Review 1:2"}},
		{`{"states":{"Done":{"index":0},"Open":{"index":1},"Review":{"index":2}}}`, []string{"state_moved Done 2:0"}},
		{`{"states":{"Review":{"index":0},"Done":{"index":1},"Open":{"index":2}}}`, []string{"state_moved Open 0:2"}},
		{`{"states":{"Open":{"index":0},"Review":{"index":1,"assignee":{"type":"ONE","entities":[]}},"Done":{"index":2}}}`, []string{"state_assignee Review"}},
		{`{"states":{"Open":{"index":0},"Review":{"index":1}},"actions":[{"name":"Submit","from":"Open","to":"Review"}]}`,
			[]string{"state_deleted Done 2:<nil>", "action_deleted Approve Review>Done", "action_deleted Reject Review>Open"}},
		{strings.Replace(settingsNow, `\"100\"`, `\"200\"`, 1), []string{"action_changed Approve Review>Done"}},
		{strings.Replace(settingsNow, "SECONDARY", "PRIMARY", 1), []string{"action_changed Reject Review>Open"}},
		{strings.Replace(settingsNow, `"name":"Approve"`, `"name":"Accept"`, 1), []string{"action_changed Accept Review>Done"}},
		{strings.Replace(settingsNow, `"to":"Done"`, `"to":"Open"`, 1), []string{"action_changed Approve Review>Open"}},
		{strings.Replace(settingsNow, `"actions":[`, `"actions":[{"name":"Skip","from":"Open","to":"Done"},`, 1), []string{"action_added Skip Open>Done"}},
		{strings.Replace(settingsNow, `"actions":[`, `"actions":[{"name":"Submit","from":"Open","to":"Review","filterCond":"Amount > 1"},`, 1),
			[]string{"action_added Submit Open>Review"}},
		{`{"actions":[{"name":"Reject","from":"Review","to":"Open","type":"SECONDARY","executableUser":{"entities":[{"entity":{"type":"GROUP","code":"bosses"}}]}},
			{"name":"Submit","from":"Open","to":"Review"},{"name":"Approve","from":"Review","to":"Done","filterCond":"Amount < \"100\""}]}`,
			[]string{"actions_order [Submit Approve Reject]:[Reject Submit Approve]"}},
	} {
		changes := DiffProcess(now, readSettings(t, c.then))
		if got := say(changes); !slices.Equal(got, c.want) {
			t.Errorf("%s\nchanges %q, want %q", c.then, got, c.want)
		}
		if _, err := json.Marshal(changes); err != nil {
			t.Errorf("changes cannot be JSON: %v", err)
		}
	}
	// From nothing, as an app is that never had process management.
	if got := say(DiffProcess(readSettings(t, `{"enable":false,"states":null,"actions":null,"revision":"1"}`), readSettings(t, seed1Body))); len(got) != 9 {
		t.Errorf("SEED1's sample from nothing changes %q", got)
	}
}

func TestProcessSettingsCalls(t *testing.T) {
	for preview, uri := range map[bool]string{
		false: "/k/v1/app/status.json?app=5&lang=default",
		true:  "/k/v1/preview/app/status.json?app=5&lang=default",
	} {
		s := newSite(t, answers(200, processAnswer))
		got, err := s.ProcessSettings(t.Context(), App{ID: 5}, preview)
		if err != nil || got.Revision != 17 || !*got.Enable || len(got.States) != 3 || got.Actions[2].Type != ActionSecondary || got.Actions[0].Type != "" {
			t.Errorf("ProcessSettings returned %+v, %v", got, err)
		}
		if asked := s.only(t).uri; asked != uri {
			t.Errorf("asked %s, want %s", asked, uri)
		}
	}
	never := newSite(t, answers(200, `{"enable":false,"states":null,"actions":null,"revision":"1"}`))
	if got, err := never.ProcessSettings(t.Context(), App{ID: 5}, false); err != nil || got.States != nil || got.Actions != nil {
		t.Errorf("settings that never were set up are %+v, %v", got, err)
	}
	for _, answer := range []string{`null`, `[]`, `{}`, `<html>`, `{"enable":true,"states":null}`, `{"states":null,"revision":"1"}`,
		strings.Replace(processAnswer, `"index":"0"`, `"index":"0","color":"red"`, 1)} {
		s := newSite(t, answers(200, answer))
		if got, err := s.ProcessSettings(t.Context(), App{ID: 5}, false); got != nil || failure(t, err).MayHaveActed {
			t.Errorf("the answer %s gave %+v, %v", answer, got, err)
		}
	}
}

// Changing settings and deploying them may have acted like any change; a stale revision is a refusal (TF).
func TestSettingsChangesOverTheWire(t *testing.T) {
	app := App{ID: 5}
	update := func(s *ProcessSettings) func(*site) error {
		return func(site *site) error {
			_, err := site.UpdateProcessSettings(t.Context(), app, s)
			return err
		}
	}
	deploy := func(site *site) error { return site.Deploy(t.Context(), app, 18, false) }
	change := update(&ProcessSettings{Enable: new(true), Revision: 17})

	for _, unsent := range []func(*site) error{
		update(&ProcessSettings{Enable: new(true)}),
		update(&ProcessSettings{Enable: new(true), Revision: -2}),
		update(&ProcessSettings{App: 6, Enable: new(true), Revision: 17}),
		func(site *site) error { return site.Deploy(t.Context(), app, 0, false) },
	} {
		s := newSite(t, answers(200, `{"revision":"18"}`))
		if e := failure(t, unsent(s)); !e.NotSent || !errors.Is(e, ErrInvalidRequest) || len(s.requests()) > 0 {
			t.Errorf("it gave %v, want a refusal before anything is sent", e)
		}
	}
	for name, call := range map[string]func(*site) error{"change": change, "deploy": deploy} {
		stale := newSite(t, answers(409, `{"code":"GAIA_CO03","id":"x","message":"the revision is not the latest"}`))
		if e := failure(t, call(stale)); e.Code != "GAIA_CO03" || e.Status != 409 || e.MayHaveActed {
			t.Errorf("a stale %s gave %v, want a refusal", name, e)
		}
		broken := newSite(t, answers(502, `<html>`))
		if e := failure(t, call(broken)); !e.MayHaveActed {
			t.Errorf("a %s without an answer gave %v, want one that may have acted", name, e)
		}
		odd := newSite(t, answers(200, `<html>`))
		if e := failure(t, call(odd)); !e.MayHaveActed {
			t.Errorf("a %s with a page as its answer gave %v, want one that may have acted", name, e)
		}
	}
	odd := newSite(t, answers(200, `{}`))
	if e := failure(t, change(odd)); !e.MayHaveActed {
		t.Errorf("an answer without a revision gave %v", e)
	}
	ok := newSite(t, answers(200, `{}`)) // a deploy answers nothing (S-deploy)
	if err := deploy(ok); err != nil || ok.only(t).body != `{"apps":[{"app":5,"revision":18}]}` {
		t.Errorf("deploying %s gave %v", ok.only(t).body, err)
	}
	ok = newSite(t, answers(200, `{}`))
	if err := ok.Deploy(t.Context(), app, Unchecked, true); err != nil || ok.only(t).body != `{"apps":[{"app":5,"revision":-1}],"revert":true}` {
		t.Errorf("reverting %s gave %v", ok.only(t).body, err)
	}
}

// tenant is a simulated kintone whose app 5 has settingsNow and seedForm, and a client that may manage the app.
func tenant(t *testing.T, cfg simulator.Config, process simulator.Process, records int) (*simulator.Kintone, *site) {
	t.Helper()
	k := simulator.New(cfg)
	for _, login := range []string{"sato", "user1"} {
		k.AddUser(login, "")
	}
	k.AddGroup("bosses", "sato")
	k.AddGroup("g", "sato")
	k.AddOrganization("o", "sato")
	k.AddApp(simulator.App{
		ID: 5, Records: records, Process: process,
		Tokens: []simulator.Token{simulator.FullToken("token-of-the-site")},
		Fields: []simulator.Field{{Code: "Amount", Type: "NUMBER"}, {Code: "Memo", Type: "SINGLE_LINE_TEXT"}, {Code: "Inner", Type: "SINGLE_LINE_TEXT", Table: "Table"},
			{Code: "Users", Type: "USER_SELECT"}, {Code: "Groups", Type: "GROUP_SELECT"}, {Code: "Departments", Type: "ORGANIZATION_SELECT"}},
	})
	return k, newSite(t, k.ServeHTTP)
}

func simulatedNow() simulator.Process {
	return simulator.Process{
		Enabled: true,
		States: []simulator.State{{Name: "Open"}, {Name: "Review", AssigneeType: simulator.Any, Entities: []simulator.Entity{simulator.User("sato")}},
			{Name: "Done"}},
		Actions: []simulator.Action{
			{Name: "Submit", From: "Open", To: "Review"},
			{Name: "Approve", From: "Review", To: "Done", FilterCond: `Amount < "100"`},
			{Name: "Reject", From: "Review", To: "Open", Secondary: true, Executable: []simulator.Entity{{Type: "GROUP", Code: "bosses"}}},
		},
	}
}

// A kintone that was written from the documents without this code refuses what Check refuses, and takes the rest; and
// what it takes becomes what Over says.
func TestCheckAgreesWithTheSimulator(t *testing.T) {
	app := App{ID: 5}
	for _, c := range checkCases() {
		if c.here != "" {
			continue
		}
		_, s := tenant(t, simulator.Config{Seed: 1}, simulatedNow(), 0)
		now, err := s.ProcessSettings(t.Context(), app, true)
		if err != nil {
			t.Fatal(err)
		}
		if !now.Same(readSettings(t, settingsNow)) {
			t.Fatalf("the simulator has %+v", now)
		}
		change := readSettings(t, c.text)
		revision, err := s.UpdateProcessSettings(t.Context(), app, change.For(now))
		if (err != nil) != (c.want != nil) {
			t.Errorf("%s\ngave %v, and Check says %q", c.text, err, c.want)
			continue
		}
		if err != nil {
			continue
		}
		then, err := s.ProcessSettings(t.Context(), app, true)
		if err != nil {
			t.Fatal(err)
		}
		if whole := change.Over(now); !then.Same(whole) || then.Revision != revision || revision <= now.Revision {
			t.Errorf("%s\nbecame %+v, want %+v", c.text, then, whole)
		}
	}
}

// Names in another language are for people; a change is made of the default ones (S-get).
func TestNamesInOtherLanguages(t *testing.T) {
	process := simulatedNow()
	process.Translations = map[string]map[string]string{"en": {"Submit": "Hand in"}, "ja": {"Open": "未処理", "Submit": "提出する"}}
	_, s := tenant(t, simulator.Config{Seed: 1}, process, 0)
	for lang, want := range map[string]string{"ja": "未処理 提出する", "en": "Open Hand in", "default": "Open Submit"} {
		p, err := s.ProcessIn(t.Context(), App{ID: 5}, lang)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.First() + " " + p.Actions[0].Name; got != want {
			t.Errorf("in %s it is %q, want %q", lang, got, want)
		}
	}
	settings, err := s.ProcessSettings(t.Context(), App{ID: 5}, true)
	if err != nil || settings.Actions[0].Name != "Submit" || settings.keyOf("Open") != "Open" {
		t.Errorf("the settings are %+v, %v; want the default names", settings, err)
	}
}

// The whole way, with SEED1's sample on an app that never had process management, and with the result put back as it is.
func TestSettingsGoLive(t *testing.T) {
	app := App{ID: 5}
	k, s := tenant(t, simulator.Config{Seed: 1, DeployTime: time.Nanosecond}, simulator.Process{}, 3)
	live := func() *ProcessSettings {
		t.Helper()
		got, err := s.ProcessSettings(t.Context(), app, false)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	deploy := func(revision int64, revert bool, want DeployState) {
		t.Helper()
		if err := s.Deploy(t.Context(), app, revision, revert); err != nil {
			t.Fatal(err)
		}
		for {
			state, err := s.DeployState(t.Context(), app)
			if err != nil || state != DeployProcessing && state != want {
				t.Fatalf("the deploy is %s, %v; want %s", state, err, want)
			}
			if state == want {
				return
			}
		}
	}
	put := func(change *ProcessSettings) int64 {
		t.Helper()
		revision, err := s.UpdateProcessSettings(t.Context(), app, change)
		if err != nil {
			t.Fatal(err)
		}
		return revision
	}

	never := live()
	if *never.Enable || never.States != nil {
		t.Fatalf("at first there is %+v", never)
	}
	wanted := readSettings(t, seed1Body)
	deploy(put(wanted), false, DeploySuccess)
	got := live()
	if !got.Same(wanted.Over(never)) || got.Revision <= never.Revision {
		t.Fatalf("live is %+v, want %+v", got, wanted)
	}
	fields, err := s.FormFields(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.CountByStatus(t.Context(), app, fields, "Not started"); err != nil || n != 3 {
		t.Errorf("%d records are not started, %v; want all 3", n, err)
	}

	// A rename takes the records with it; what was got is put back unchanged, with type and executableUser.
	rename := readSettings(t, `{"states":{"Not started":{"name":"Open","index":"0"},"In progress":{"index":"1"},"Completed":{"index":"2"}}}`)
	deploy(put(rename.For(got)), false, DeploySuccess)
	renamed := live()
	if !renamed.Same(rename.Over(got)) || renamed.Actions[0].From != "Open" {
		t.Errorf("live is %+v, want it renamed", renamed)
	}
	if n, err := s.CountByStatus(t.Context(), app, fields, "Open"); err != nil || n != 3 {
		t.Errorf("%d records are open, %v; want all 3", n, err)
	}
	if put(renamed); len(DiffProcess(renamed, live())) > 0 {
		t.Error("putting back what was read changes it")
	}

	// A stale revision is refused and changes nothing (TF); a revert throws away what is pending (S-deploy).
	if err := k.Pend(5, simulator.Administrator, nil); err != nil {
		t.Fatal(err)
	}
	_, err = s.UpdateProcessSettings(t.Context(), app, renamed)
	if e := failure(t, err); e.Code != "GAIA_CO03" || e.MayHaveActed {
		t.Errorf("a stale change gave %v", e)
	}
	if e := failure(t, s.Deploy(t.Context(), app, renamed.Revision, false)); e.Code != "GAIA_CO03" {
		t.Errorf("a stale deploy gave %v", e)
	}
	preview, err := s.ProcessSettings(t.Context(), app, true)
	if err != nil {
		t.Fatal(err)
	}
	deploy(preview.Revision, true, DeploySuccess)
	if state, err := k.Settings(5); err != nil || len(state.Pending) > 0 {
		t.Errorf("after the revert %q are pending, %v", state.Pending, err)
	}

	// A deploy that fails or is cancelled leaves what is in force.
	for state, ends := range map[DeployState]simulator.DeployState{DeployFail: simulator.Fail, DeployCancel: simulator.Cancel} {
		k.SetDeploy(time.Nanosecond, ends)
		deploy(put(&ProcessSettings{Enable: new(false), Revision: Unchecked}), false, state)
		if now := live(); !now.Same(renamed) {
			t.Errorf("after %s live is %+v", state, now)
		}
	}
}

func TestDeployState(t *testing.T) {
	for _, state := range []DeployState{DeployProcessing, DeploySuccess, DeployFail, DeployCancel} {
		s := newSite(t, answers(200, `{"apps":[{"app":"5","status":"`+string(state)+`"}]}`))
		if got, err := s.DeployState(t.Context(), App{ID: 5}); err != nil || got != state {
			t.Errorf("DeployState returned %s, %v; want %s", got, err, state)
		}
		if r := s.only(t); r.method != http.MethodGet || r.uri != "/k/v1/preview/app/deploy.json?apps%5B0%5D=5" {
			t.Errorf("asked %s %s", r.method, r.uri)
		}
	}
	for _, answer := range []string{`{}`, `{"apps":[]}`, `{"apps":[{"app":"6","status":"SUCCESS"}]}`, `{"apps":[{"app":"5","status":"DONE"}]}`, `{"apps":[{"app":"5"}]}`} {
		s := newSite(t, answers(200, answer))
		if got, err := s.DeployState(t.Context(), App{ID: 5}); got != "" || failure(t, err).MayHaveActed {
			t.Errorf("the answer %s gave %q, %v", answer, got, err)
		}
	}
}

func TestCountByStatus(t *testing.T) {
	fields := Fields{Status: "ステータス", Enabled: true}
	s := newSite(t, answers(200, `{"records":[{"$id":{"type":"__ID__","value":"1"}}],"totalCount":"1203"}`))
	if n, err := s.CountByStatus(t.Context(), App{ID: 5}, fields, `"処理中" or`); err != nil || n != 1203 {
		t.Errorf("CountByStatus returned %d, %v", n, err)
	}
	request, err := http.NewRequest("GET", s.only(t).uri, nil)
	if err != nil {
		t.Fatal(err)
	}
	q := request.URL.Query()
	if request.URL.Path != "/k/v1/records.json" || q.Get("app") != "5" || q.Get("totalCount") != "true" || q.Get("fields[0]") != "$id" ||
		q.Get("query") != `ステータス = "\"処理中\" or" limit 1` {
		t.Errorf("asked %s", request.URL)
	}
	for _, answer := range []string{`{"records":[],"totalCount":null}`, `{"records":[]}`, `{"totalCount":"-1"}`, `{"totalCount":"many"}`} {
		s := newSite(t, answers(200, answer))
		if n, err := s.CountByStatus(t.Context(), App{ID: 5}, fields, "Open"); n != 0 || failure(t, err).Status != 200 {
			t.Errorf("the answer %s gave %d, %v", answer, n, err)
		}
	}
	for _, off := range []Fields{{Status: "Status"}, {Enabled: true}} {
		s := newSite(t, answers(200, `{"records":[],"totalCount":"0"}`))
		if _, err := s.CountByStatus(t.Context(), App{ID: 5}, off, "Open"); !failure(t, err).NotSent {
			t.Errorf("with %+v it gave %v, want a refusal before it is sent", off, err)
		}
	}
}

// Whatever can be read is read again as the same from what is written.
func FuzzProcessSettings(f *testing.F) {
	for _, seed := range []string{seed1Body, processAnswer, settingsNow, `{}`, `{"app":"5","enable":"false","states":{},"actions":[],"revision":"0"}`,
		`{"states":{"":{}}}`, `{"states":{"":{"name":"x","index":"-9"},"b":{"assignee":{"type":"?","entities":[{"entity":{"type":"CREATOR","code":"x"},"includeSubs":"true"}]}}}}`,
		`{"actions":[{"filterCond":"a = \"\\\u2028<","type":"X","executableUser":{}},{"executableUser":{"entities":[]}}]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var first ProcessSettings
		if first.UnmarshalJSON(text) != nil {
			return
		}
		written, err := first.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var second ProcessSettings
		if err := json.Unmarshal(written, &second); err != nil {
			t.Fatalf("%s was written as %s: %v", text, written, err)
		}
		if !reflect.DeepEqual(first, second) {
			t.Fatalf("%s is %+v, and was written as %s, which is %+v", text, first, written, second)
		}
		if !first.Same(&second) || len(DiffProcess(&first, &second)) > 0 {
			t.Fatalf("%s differs from itself by %+v", text, DiffProcess(&first, &second))
		}
		first.Check(App{ID: 1}, seedForm, &second) // does not panic
	})
}
