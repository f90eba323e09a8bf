package simulator_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/kintone/simulator"
)

// managed returns an app like newKintone, whose token may do everything.
func managed(t *testing.T, cfg simulator.Config, app simulator.App) *simulator.Kintone {
	t.Helper()
	cfg.Seed = 1
	k := simulator.New(cfg)
	k.AddUser("sato", "sato")
	k.AddUser("mori", "mori")
	k.AddUser("user1", "")
	app.ID, app.Records = 5, 10
	if app.Tokens == nil {
		app.Tokens = []simulator.Token{simulator.FullToken(token)}
	}
	if app.Process.States == nil {
		app.Process = simulator.Workflow()
	}
	k.AddApp(app)
	return k
}

func putSettings(t *testing.T, k *simulator.Kintone, body string, options ...func(*http.Request)) reply {
	t.Helper()
	return send(t, k, request("PUT", "/k/v1/preview/app/status.json", body, options...))
}

func deploy(t *testing.T, k *simulator.Kintone, body string, options ...func(*http.Request)) reply {
	t.Helper()
	return send(t, k, request("POST", "/k/v1/preview/app/deploy.json", body, options...))
}

func wantDeploy(t *testing.T, k *simulator.Kintone, state simulator.DeployState) {
	t.Helper()
	a := get(t, k, "/k/v1/preview/app/deploy.json?apps%5B0%5D=5")
	if want := fmt.Sprintf(`{"apps":[{"app":"5","status":"%s"}]}`, state); a.body != want {
		t.Errorf("state of the deploy is %d %s, want %s", a.status, a.body, want)
	}
}

func settings(t *testing.T, k *simulator.Kintone) simulator.SettingsState {
	t.Helper()
	s, err := k.Settings(5)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// names returns the statuses of a process in their order.
func names(p simulator.Process) string {
	var list []string
	for _, s := range p.States {
		list = append(list, s.Name)
	}
	return strings.Join(list, " > ")
}

// states makes a body that sets the statuses of the workflow, each given as key or key=name.
func states(list ...string) string {
	b := new(strings.Builder)
	for i, s := range list {
		key, name, renamed := strings.Cut(s, "=")
		if !renamed {
			name = key
		}
		fmt.Fprintf(b, `,%q:{"name":%q,"index":"%d","assignee":{"type":"ONE","entities":[]}}`, key, name, i)
	}
	return `"states":{` + b.String()[1:] + "}"
}

const noActions = `"actions":[]`

// SEED1: the seed's own body is accepted as it is, goes to the preview only, and comes back as it was sent.
func TestSeedBodyChangesThePreview(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := managed(t, simulator.Config{}, simulator.App{})
		live := get(t, k, "/k/v1/app/status.json?app=5").body
		a := putSettings(t, k, `{"app":"5","enable":true,"states":{
			"Not started":{"name":"Not started","index":"0","assignee":{"type":"ONE","entities":[]}},
			"In progress":{"name":"In progress","index":"1","assignee":{"type":"ALL","entities":[
				{"entity":{"type":"USER","code":"user1"},"includeSubs":false},
				{"entity":{"type":"FIELD_ENTITY","code":"Created_by"},"includeSubs":false},
				{"entity":{"type":"CUSTOM_FIELD","code":"Boss"},"includeSubs":false}]}},
			"Completed":{"name":"Completed","index":"2","assignee":{"type":"ONE","entities":[]}}},
			"actions":[{"name":"Start","from":"Not started","to":"In progress","filterCond":"Record_number = \"1\""},
				{"name":"Complete","from":"In progress","to":"Completed","filterCond":""}]}`)
		wantOK(t, a)
		if a.body != `{"revision":"2"}` {
			t.Errorf("answer is %s, want the preview's new revision", a.body)
		}
		if now := get(t, k, "/k/v1/app/status.json?app=5").body; now != live {
			t.Errorf("live settings became %s before any deploy", now)
		}
		preview := get(t, k, "/k/v1/preview/app/status.json?app=5&lang=default").body
		for _, want := range []string{
			`"revision":"2"`, `"In progress":{"name":"In progress","index":"1","assignee":{"type":"ALL"`, `{"type":"CUSTOM_FIELD","code":"Boss"}`,
			`"filterCond":"Record_number = \"1\"","type":"PRIMARY"`,
		} {
			if !strings.Contains(preview, want) {
				t.Errorf("preview is %s, want %s in it", preview, want)
			}
		}
		// The sample's first status is one that the seed asks no assignee for, and the action is still the old one.
		wantOK(t, putOne(t, k, `{"app":5,"id":2,"action":"Start"}`))
		wantOK(t, deploy(t, k, `{"apps":[{"app":5,"revision":2}]}`))
		time.Sleep(2 * time.Second)
		wantRefusal(t, putOne(t, k, `{"app":5,"id":3,"action":"Start"}`), 400, "GAIA_IL03") // the condition is for record 1
		wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`))
		wantRecord(t, k, 1, 3, "In progress", "user1", "Administrator")
	})
}

// SEED1: parts that are left out stay, booleans and numbers may be strings, and a state goes by the name it had: other
// name renames, new key adds, left out deletes. Actions that are left out follow renames.
func TestPartsOfTheSettings(t *testing.T) {
	k := managed(t, simulator.Config{}, simulator.App{})
	wantOK(t, putSettings(t, k, `{"app":5,"enable":"false"}`))
	if s := settings(t, k); s.Preview.Enabled || !s.Live.Enabled || len(s.Preview.States) != 3 || len(s.Preview.Actions) != 3 {
		t.Errorf("after enable alone the preview is %+v", s.Preview)
	}
	wantOK(t, putSettings(t, k, `{"app":5,`+states("Not started=New", "Waiting", "In progress=Completed", "Completed=In progress")+`}`))
	s := settings(t, k)
	if got := names(s.Preview); got != "New > Waiting > Completed > In progress" {
		t.Errorf("statuses are %s", got)
	}
	for i, want := range []string{"New > Completed", "Completed > In progress", "In progress > New"} {
		if x := s.Preview.Actions[i]; x.From+" > "+x.To != want {
			t.Errorf("action %s leads from %s to %s, want %s", x.Name, x.From, x.To, want)
		}
	}
	wantOK(t, putSettings(t, k, `{"app":5,"revision":"3","actions":[{"name":"Go","from":"New","to":"Waiting"}]}`))
	wantOK(t, putSettings(t, k, `{"app":5,"revision":-1,`+states("New", "Waiting")+`}`))
	wantOK(t, putSettings(t, k, `{"app":5}`))
	if s := settings(t, k); names(s.Preview) != "New > Waiting" || len(s.Preview.Actions) != 1 || s.PreviewRevision != 6 || s.LiveRevision != 1 {
		t.Errorf("settings are %+v", s)
	}
}

// SEED1, S-get: what was got can be put, all of it: type and executableUser, includeSubs, every type of entity.
func TestSettingsSurviveGetAndPut(t *testing.T) {
	k := managed(t, simulator.Config{}, simulator.App{
		Fields: []simulator.Field{{Code: "boss", Type: "USER_SELECT"}, {Code: "team", Type: "ORGANIZATION_SELECT"}},
		Process: simulator.Process{Enabled: true,
			States: []simulator.State{{Name: "New"}, {Name: "Check", AssigneeType: simulator.Any, Entities: []simulator.Entity{
				simulator.User("sato"), {Type: "GROUP", Code: "staff", Members: []string{"mori"}}, {Type: "CREATOR"},
				{Type: "ORGANIZATION", Code: "sales", IncludeSubs: true}, {Type: "FIELD_ENTITY", Code: "boss"},
				{Type: "FIELD_ENTITY", Code: "team"}, {Type: "CUSTOM_FIELD", Code: "elsewhere"}}}},
			Actions: []simulator.Action{{Name: "Go", From: "New", To: "Check", FilterCond: `boss in ("sato")`},
				{Name: "Back", From: "Check", To: "New", Secondary: true, Executable: []simulator.Entity{{Type: "GROUP", Code: "staff"}}}}}})
	before := get(t, k, "/k/v1/app/status.json?app=5&lang=default").body
	wantOK(t, putSettings(t, k, `{"app":5,`+strings.TrimPrefix(before, "{")))
	after := get(t, k, "/k/v1/preview/app/status.json?app=5&lang=default").body
	if want := strings.Replace(before, `"revision":"1"`, `"revision":"2"`, 1); after != want {
		t.Errorf("preview is\n%s, want\n%s", after, want)
	}
	if members := settings(t, k).Preview.States[1].Entities[1].Members; !slices.Equal(members, []string{"mori"}) {
		t.Errorf("members of the group are %q after the round trip", members)
	}
	// Without a type an action is PRIMARY, which the stricter reading makes of one that was SECONDARY.
	wantOK(t, putSettings(t, k, `{"app":5,"actions":[{"name":"Back","from":"Check","to":"New"}]}`))
	if s := settings(t, k); s.Preview.Actions[0].Secondary {
		t.Error("an action without a type is SECONDARY")
	}
}

// SEED1; docs/kintone.md 3 and 5: what is not taken.
func TestSettingsThatAreRefused(t *testing.T) {
	k := managed(t, simulator.Config{}, simulator.App{})
	k.AddOrganization("sales", "mori")
	one := `"assignee":{"type":"ONE","entities":[]}`
	entity := func(e string) string {
		return `"states":{"Not started":{"index":0,` + one + `},"In progress":{"index":1,"assignee":{"type":"ONE","entities":[` + e + `]}},"Completed":{"index":2}}`
	}
	action := func(more string) string {
		return `"actions":[{"name":"Go","from":"Not started","to":"Completed"` + more + `}]`
	}
	long := strings.Repeat("長", 65)
	for body, want := range map[string]string{
		`"enable":1`:       "CB_VA01 enable",
		`"enable":null`:    "CB_VA01 enable",
		`"states":{}`:      "CB_VA01 states",
		`"states":null`:    "CB_VA01 states",
		`"actions":null`:   "CB_VA01 actions",
		`"revision":-2`:    "CB_VA01 revision",
		`"lang":"ja"`:      "CB_VA01 lang",
		`"revision":9`:     "GAIA_CO03",
		`"revision":"999"`: "GAIA_CO03",
		`"states":{"Not started":{"name":"Not started"},"In progress":{"index":1},"Completed":{"index":2}}`:                                                                       "CB_VA01 states.Not started.index",
		`"states":{"Not started":{"index":0,` + one + `},"In progress":{"index":2},"Completed":{"index":3}}`:                                                                      "CB_VA01 states.Completed.index states.In progress.index",
		`"states":{"Not started":{"index":0,` + one + `},"In progress":{"index":1},"Completed":{"index":1}}`:                                                                      "CB_VA01 states.In progress.index",
		`"states":{"Not started":{"index":0,` + one + `},"In progress":{"index":1},"Completed":{"index":2},"New":{"index":3}}`:                                                    "CB_VA01 states.New.name",
		states("Not started", "In progress", "Completed", "New=Brand new"):                                                                                                        "CB_VA01 states.New.name",
		states("New", "Not started", "In progress", "Completed"):                                                                                                                  "CB_VA01 states.New",
		states("In progress", "Completed") + `,` + noActions:                                                                                                                      "CB_VA01 states.In progress",
		states("In progress", "Not started", "Completed"):                                                                                                                         "CB_VA01 states.In progress",
		states("Not started", "In progress=Completed", "Completed"):                                                                                                               "CB_VA01 states.Completed.name",
		states("Not started", "Completed="+long, "In progress"):                                                                                                                   "CB_VA01 states." + long + ".name",
		states("Not started", "In progress"):                                                                                                                                      "CB_VA01 actions[1].to actions[2].from",
		`"states":{"Not started":{"index":0,"assignee":{"type":"ANY","entities":[]}},"In progress":{"index":1},"Completed":{"index":2}}`:                                          "CB_VA01 states.Not started.assignee",
		`"states":{"Not started":{"index":0,"assignee":{"type":"ONE","entities":[{"entity":{"type":"CREATOR","code":null}}]}},"In progress":{"index":1},"Completed":{"index":2}}`: "CB_VA01 states.Not started.assignee",
		`"states":{"Not started":{"index":0,"assignee":{}},"In progress":{"index":1},"Completed":{"index":2}}`:                                                                    "CB_VA01 states.Not started.assignee.entities states.Not started.assignee.type",
		entity(`{"entity":{"type":"USER"}}`):                                                                                                                                      "CB_VA01 states.In progress.assignee.entities[0].entity.code",
		entity(`{"entity":{"type":"ROLE","code":"x"}}`):                                                                                                                           "CB_VA01 states.In progress.assignee.entities[0].entity.type",
		entity(`{"entity":{"type":"USER","code":"sato"},"includeSubs":"yes"}`):                                                                                                    "CB_VA01 states.In progress.assignee.entities[0].includeSubs",
		entity(`{"entity":{"type":"USER","code":"nobody"}}`):                                                                                                                      "GAIA_IL26",
		entity(`{"entity":{"type":"USER","code":"guest/bob"}}`):                                                                                                                   "CB_VA01 states.In progress.assignee.entities[0].entity.code",
		entity(`{"entity":{"type":"ORGANIZATION","code":"moon"}}`):                                                                                                                "GAIA_IL28",
		entity(`{"entity":{"type":"GROUP","code":"moon"}}`):                                                                                                                       "CB_VA01 states.In progress.assignee.entities[0].entity.code",
		entity(`{"entity":{"type":"FIELD_ENTITY","code":"Record_number"}}`):                                                                                                       "CB_VA01 states.In progress.assignee.entities[0].entity.code",
		`"actions":[{"name":"Go","from":"Not started"}]`:                                                                                                                          "CB_VA01 actions[0].to",
		`"actions":[{"name":"Go","from":"Not started","to":"Nowhere"}]`:                                                                                                           "CB_VA01 actions[0].to",
		`"actions":[{"name":"` + long + `","from":"Not started","to":"Completed"}]`:                                                                                               "CB_VA01 actions[0].name",
		action(`,"type":"THIRD"`):                                                "CB_VA01 actions[0].type",
		action(`,"executableUser":{"entities":[]}`):                              "CB_VA01 actions[0].executableUser",
		action(`,"filterCond":5`):                                                "CB_VA01 actions[0].filterCond",
		action(`,"filterCond":"Status = \"Completed\""`):                         "CB_VA01 actions[0].filterCond",
		action(`,"filterCond":"$id > 1 order by $id asc"`):                       "CB_VA01 actions[0].filterCond",
		action(`,"filterCond":"nothing = \"x\""`):                                "GAIA_IQ11",
		action(`,"assignee":"sato"`):                                             "CB_VA01 actions[0].assignee",
		states("Not started=A", "In progress=B", "Completed") + `,` + action(""): "CB_VA01 actions[0].from",
	} {
		a := putSettings(t, k, `{"app":5,`+body+`}`)
		got := a.Code
		for _, path := range slices.Sorted(maps.Keys(a.Errors)) {
			got += " " + path
		}
		if got != want {
			t.Errorf("%s\nis answered with %d %s, want %s", body, a.status, a.body, want)
		}
	}
	if s := settings(t, k); s.PreviewRevision != 1 || len(s.Pending) != 0 {
		t.Errorf("after refusals only, the settings are %+v", s)
	}
	empty := simulator.New(simulator.Config{})
	empty.AddApp(simulator.App{ID: 5, Tokens: []simulator.Token{simulator.FullToken(token)}})
	wantInvalid(t, putSettings(t, empty, `{"app":5,"enable":true}`), "enable")
	wantOK(t, putSettings(t, empty, `{"app":5,"enable":true,`+states("First", "Last")+`}`))
}

// EMU (docs/kintone.md 3, Assignees): a first status whose assignee is left out has the creator's field; another one stays
// as it is, or has nobody.
func TestAssigneeLeftOut(t *testing.T) {
	p := simulator.Workflow()
	p.States[1].Entities = []simulator.Entity{simulator.User("sato")}
	k := managed(t, simulator.Config{}, simulator.App{Process: p})
	wantOK(t, putSettings(t, k, `{"app":5,"states":{"Not started":{"index":"0"},"In progress":{"index":"1"},"Completed":{"index":"2"},"New":{"name":"New","index":"3"}}}`))
	var got []string
	for _, s := range settings(t, k).Preview.States {
		got = append(got, fmt.Sprint(s.Name, s.AssigneeType, s.Entities))
	}
	want := []string{"Not startedONE[{FIELD_ENTITY Created_by [] false}]", "In progressONE[{USER sato [] false}]", "CompletedONE[]", "NewONE[]"}
	if !slices.Equal(got, want) {
		t.Errorf("assignees are %q, want %q", got, want)
	}
}

// SEED1, S-get, S-deploy: settings and deploys take management of the app, for a token and for a user; reading the live
// settings takes view or add.
func TestSettingsTakeManagement(t *testing.T) {
	k := managed(t, simulator.Config{LockAfterDeploy: -1}, simulator.App{Managers: []string{"mori"}, Tokens: []simulator.Token{
		simulator.ViewToken("view"), {Value: "add", Add: true, Activated: true}, {Value: "manage", Manage: true, Activated: true}}})
	calls := map[string]func() *http.Request{
		"GET":    func() *http.Request { return request("GET", "/k/v1/preview/app/status.json?app=5", "") },
		"fields": func() *http.Request { return request("GET", "/k/v1/preview/app/form/fields.json?app=5", "") },
		"PUT": func() *http.Request {
			return request("PUT", "/k/v1/preview/app/status.json", `{"app":5,"enable":true}`)
		},
		"deploy":       func() *http.Request { return request("POST", "/k/v1/preview/app/deploy.json", `{"apps":[{"app":5}]}`) },
		"deploy state": func() *http.Request { return request("GET", "/k/v1/preview/app/deploy.json?apps%5B0%5D=5", "") },
		"assignees": func() *http.Request {
			return request("PUT", "/k/v1/record/assignees.json", `{"app":5,"id":1,"assignees":["sato"]}`)
		},
	}
	k.SetDeploy(0, simulator.Success)
	for name, call := range calls {
		for value, want := range map[string]string{"view": "GAIA_NO01", "add": "GAIA_NO01", "manage": ""} {
			r := call()
			r.Header.Set("X-Cybozu-API-Token", value)
			if a := send(t, k, r); a.Code != want {
				t.Errorf("%s with token %q is answered with %s, want %q", name, value, a.body, want)
			}
		}
		for login, want := range map[string]string{"sato": "CB_NO02", "mori": ""} {
			r := call()
			as(login, login)(r)
			if a := send(t, k, r); a.Code != want {
				t.Errorf("%s by %s is answered with %s, want %q", name, login, a.body, want)
			}
		}
	}
	for value, want := range map[string]string{"view": "", "add": "", "manage": "GAIA_NO01"} {
		if a := get(t, k, "/k/v1/app/status.json?app=5", header("X-Cybozu-API-Token", value)); a.Code != want {
			t.Errorf("live settings with token %q are %s, want %q", value, a.body, want)
		}
	}
}

// SEED1: guest spaces have a path of their own, know users as guest/login, and take no departments.
func TestSettingsInGuestSpaces(t *testing.T) {
	k := managed(t, simulator.Config{}, simulator.App{GuestSpace: 3})
	k.AddUser("guest/bob", "")
	k.AddOrganization("sales")
	body := func(kind, code string) string {
		return `{"app":5,"states":{"Not started":{"index":0,"assignee":{"type":"ONE","entities":[]}},"In progress":{"index":1,"assignee":{"type":"ONE","entities":[` +
			`{"entity":{"type":"` + kind + `","code":"` + code + `"}}]}},"Completed":{"index":2}}}`
	}
	wantRefusal(t, putSettings(t, k, body("USER", "guest/bob")), 400, "GAIA_IL23")
	wantOK(t, send(t, k, request("PUT", "/k/guest/3/v1/preview/app/status.json", body("USER", "guest/bob"))))
	wantInvalid(t, send(t, k, request("PUT", "/k/guest/3/v1/preview/app/status.json", body("ORGANIZATION", "sales"))),
		"states.In progress.assignee.entities[0].entity.type")
	wantOK(t, send(t, k, request("POST", "/k/guest/3/v1/preview/app/deploy.json", `{"apps":[{"app":5}]}`)))
	wantRefusal(t, get(t, k, "/k/v1/preview/app/deploy.json?apps%5B0%5D=5"), 400, "GAIA_IL23")
	wantOK(t, get(t, k, "/k/guest/3/v1/preview/app/deploy.json?apps%5B0%5D=5"))
}

// S-deploy, TF (docs/kintone.md 5): a deploy is asynchronous; the live revision becomes the preview's; an idle app says
// SUCCESS, as before; settings calls fail while it runs, record calls do not.
func TestDeploy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := managed(t, simulator.Config{}, simulator.App{})
		k.SetDeploy(5*time.Second, simulator.Success)
		wantDeploy(t, k, simulator.Success)
		wantOK(t, putSettings(t, k, `{"app":5,"revision":1,`+states("Not started", "In progress", "Completed", "Archived")+`}`))
		wantDeploy(t, k, simulator.Success)
		wantRefusal(t, deploy(t, k, `{"apps":[{"app":5,"revision":1}]}`), 409, "GAIA_CO03")
		if a := deploy(t, k, `{"apps":[{"app":"5","revision":"2"}]}`); a.status != 200 || a.body != "{}" {
			t.Fatalf("deploy is answered with %d %s", a.status, a.body)
		}
		time.Sleep(5*time.Second - 1)
		wantDeploy(t, k, simulator.Processing)
		for name, r := range map[string]*http.Request{
			"live settings":    request("GET", "/k/v1/app/status.json?app=5", ""),
			"fields":           request("GET", "/k/v1/app/form/fields.json?app=5", ""),
			"preview":          request("GET", "/k/v1/preview/app/status.json?app=5", ""),
			"a change":         request("PUT", "/k/v1/preview/app/status.json", `{"app":5}`),
			"another deploy":   request("POST", "/k/v1/preview/app/deploy.json", `{"apps":[{"app":5}]}`),
			"its being undone": request("POST", "/k/v1/preview/app/deploy.json", `{"apps":[{"app":5}],"revert":true}`),
		} {
			if a := send(t, k, r); a.status != 400 || a.Code != "GAIA_XX01" {
				t.Errorf("%s during a deploy: answer is %d %s", name, a.status, a.body)
			}
		}
		wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`))
		if s := settings(t, k); s.LiveRevision != 1 {
			t.Errorf("live revision is %d before the end", s.LiveRevision)
		}
		time.Sleep(time.Nanosecond)
		wantDeploy(t, k, simulator.Success)
		if s := settings(t, k); s.LiveRevision != 2 || s.PreviewRevision != 2 || names(s.Live) != "Not started > In progress > Completed > Archived" || s.Pending != nil {
			t.Errorf("settings are %+v after the deploy", s)
		}
		// CLI (docs/kintone.md 5): writing records right after it may meet a lock.
		wantRefusal(t, putOne(t, k, `{"app":5,"id":2,"action":"Start"}`), 400, "GAIA_DA02")
		time.Sleep(200 * time.Millisecond)
		wantOK(t, putOne(t, k, `{"app":5,"id":2,"action":"Start"}`))
	})
}

// HELP-proc (docs/kintone.md 3): records go along with a status that is renamed, and assignees stay as they are.
func TestRecordsMoveWithARenamedStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := managed(t, simulator.Config{}, simulator.App{})
		mustPut(t, k, 2, func(r *simulator.RecordState) { r.Status, r.Assignees = "In progress", []string{"sato"} })
		mustPut(t, k, 3, func(r *simulator.RecordState) { r.Status = "Completed" })
		// Two steps, and two names that change places.
		wantOK(t, putSettings(t, k, `{"app":5,`+states("Not started=Fresh", "In progress", "Completed")+`}`))
		wantOK(t, putSettings(t, k, `{"app":5,`+states("Fresh=New", "In progress=Completed", "Completed=In progress")+`}`))
		wantRecord(t, k, 1, 1, "Not started")
		wantOK(t, deploy(t, k, `{"apps":[{"app":5}]}`))
		time.Sleep(time.Minute)
		wantDeploy(t, k, simulator.Success)
		wantRecord(t, k, 1, 1, "New")
		wantRecord(t, k, 2, 1, "Completed", "sato")
		wantRecord(t, k, 3, 1, "In progress")
		if got, want := ask(t, k, "GET", "/records?app=5", "", 200), `{"app":5,"statuses":{"Completed":1,"In progress":1,"New":8},"total":10}`+"\n"; got != want {
			t.Errorf("records are %s, want %s", got, want)
		}
		wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`))
		wantRecord(t, k, 1, 3, "Completed")
	})
}

// HELP-proc (docs/kintone.md 3): a status with records in it cannot be deleted. Whether the change or the deploy says so is
// not recorded; here the deploy fails, unless configured, and leaves everything as it was, the preview too.
func TestStatusWithRecordsCannotVanish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		without := `{"app":5,` + states("Not started", "Completed") + `,` + noActions + `}`
		k := managed(t, simulator.Config{}, simulator.App{})
		wantOK(t, putSettings(t, k, without))
		wantOK(t, deploy(t, k, `{"apps":[{"app":5}]}`))
		wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`)) // a record comes in while the deploy runs
		time.Sleep(time.Second)
		wantDeploy(t, k, simulator.Fail)
		if s := settings(t, k); len(s.Live.States) != 3 || s.LiveRevision != 1 || len(s.Preview.States) != 2 || s.PreviewRevision != 2 || len(s.Pending) != 1 {
			t.Errorf("settings are %+v after a deploy that failed", s)
		}
		// The name that was deleted and comes back is another status.
		wantOK(t, putSettings(t, k, `{"app":5,`+states("Not started", "In progress", "Completed")+`}`))
		wantOK(t, deploy(t, k, `{"apps":[{"app":5}]}`))
		time.Sleep(time.Second)
		wantDeploy(t, k, simulator.Fail)
		// Throwing all of it away works.
		wantOK(t, deploy(t, k, `{"apps":[{"app":5}],"revert":true}`))
		time.Sleep(time.Second)
		wantDeploy(t, k, simulator.Success)
		if s := settings(t, k); names(s.Preview) != names(s.Live) || len(s.Preview.Actions) != 3 || s.Pending != nil {
			t.Errorf("settings are %+v after revert", s)
		}

		other := managed(t, simulator.Config{VanishingStatus: "GAIA_XX02"}, simulator.App{})
		mustPut(t, other, 1, func(r *simulator.RecordState) { r.Status = "In progress" })
		wantRefusal(t, putSettings(t, other, without), 400, "GAIA_XX02")
	})
}

// S-deploy, TF: a deploy publishes what anybody has pending; revert throws all of it away. The preview's revision after
// that is not recorded: the live one, or one more than ever.
func TestPendingChangesOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, raises := range []bool{false, true} {
			k := managed(t, simulator.Config{RevertRaises: raises}, simulator.App{})
			if err := k.Pend(5, "mori", nil); err != nil {
				t.Fatal(err)
			}
			if err := k.Pend(5, "sato", func(p *simulator.Process) {
				p.States = append(p.States, simulator.State{Name: "Archived"})
			}); err != nil {
				t.Fatal(err)
			}
			s := settings(t, k)
			if s.PreviewRevision != 3 || s.LiveRevision != 1 || len(s.Preview.States) != 4 || len(s.Live.States) != 3 || !slices.Equal(s.Pending, []string{"mori", "sato"}) {
				t.Errorf("settings are %+v", s)
			}
			wantRefusal(t, putSettings(t, k, `{"app":5,"revision":1}`), 409, "GAIA_CO03")
			wantOK(t, deploy(t, k, `{"apps":[{"app":5,"revision":3}],"revert":true}`))
			if err := k.Pend(5, "mori", nil); err == nil {
				t.Error("settings changed while they were being deployed")
			}
			time.Sleep(time.Second)
			want := int64(1)
			if raises {
				want = 4
			}
			if s := settings(t, k); s.PreviewRevision != want || s.LiveRevision != 1 || len(s.Preview.States) != 3 {
				t.Errorf("settings after revert are %+v, want the preview at revision %d", s, want)
			}
			if err := k.Pend(5, "sato", func(p *simulator.Process) { p.Actions[0].Name = "Begin" }); err != nil {
				t.Fatal(err)
			}
			wantOK(t, deploy(t, k, `{"apps":[{"app":5}]}`))
			time.Sleep(2 * time.Second)
			wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Begin"}`))
		}
		k := managed(t, simulator.Config{}, simulator.App{})
		for name, err := range map[string]error{
			"app":     k.Pend(6, "mori", nil),
			"user":    k.Pend(5, "nobody", nil),
			"process": k.Pend(5, "mori", func(p *simulator.Process) { p.States = nil }),
		} {
			if err == nil {
				t.Errorf("a change with a bad %s was taken", name)
			}
		}
		if _, err := k.Settings(6); err == nil {
			t.Error("an app that does not exist has settings")
		}
	})
}

// S-deploy: a deploy of several apps is published as a whole: where one app fails, the others are cancelled. A test may
// wish for either end.
func TestDeploysThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := managed(t, simulator.Config{}, simulator.App{})
		k.AddApp(simulator.App{ID: 6, Tokens: []simulator.Token{simulator.FullToken("other")}, Process: simulator.Workflow(), Records: 1})
		both := header("X-Cybozu-API-Token", token+",other")
		for _, ends := range []simulator.DeployState{simulator.Fail, simulator.Cancel} {
			k.SetDeploy(time.Second, ends)
			wantOK(t, putSettings(t, k, `{"app":5,"enable":false}`))
			wantOK(t, deploy(t, k, `{"apps":[{"app":5}]}`))
			time.Sleep(time.Second)
			wantDeploy(t, k, ends)
			if s := settings(t, k); !s.Live.Enabled || s.Preview.Enabled || s.LiveRevision != 1 {
				t.Errorf("after %s the settings are %+v", ends, s)
			}
		}
		k.SetDeploy(0, simulator.Success)
		wantOK(t, putSettings(t, k, `{"app":6,`+states("Not started", "In progress", "Completed", "Archived")+`}`, header("X-Cybozu-API-Token", "other")))
		wantOK(t, putSettings(t, k, `{"app":5,"enable":true,`+states("Not started", "Completed")+`,`+noActions+`}`))
		mustPut(t, k, 1, func(r *simulator.RecordState) { r.Status = "In progress" })
		wantRefusal(t, deploy(t, k, `{"apps":[{"app":5},{"app":6}]}`), 400, "GAIA_IA02")
		wantRefusal(t, deploy(t, k, `{"apps":[{"app":5},{"app":7}]}`, both), 404, "GAIA_AP01")
		wantOK(t, deploy(t, k, `{"apps":[{"app":6},{"app":5}]}`, both))
		a := get(t, k, "/k/v1/preview/app/deploy.json?apps%5B1%5D=5&apps%5B0%5D=6", both)
		if want := `{"apps":[{"app":"6","status":"CANCEL"},{"app":"5","status":"FAIL"}]}`; a.body != want {
			t.Errorf("states are %s, want %s", a.body, want)
		}
		if c := k.Requests(); c.Kinds["GET preview/app/deploy.json"] != 3 || c.Today[6] != 4 {
			t.Errorf("counts are %+v; a call for several apps counts for each (TF)", c)
		}
	})
}

// docs/kintone.md 1.1: 300 apps in a deploy; S-deploy and SEED1 for the rest.
func TestDeployRequests(t *testing.T) {
	k := managed(t, simulator.Config{}, simulator.App{})
	wantInvalid(t, deploy(t, k, `{}`), "apps")
	wantInvalid(t, deploy(t, k, `{"apps":[]}`), "apps")
	wantInvalid(t, deploy(t, k, `{"apps":[{"app":5,"revision":-2},{"app":5},{"app":0},7],"revert":"no","app":5}`),
		"apps[0].revision", "apps[1].app", "apps[2].app", "apps[3]", "revert", "app")
	many := strings.Repeat(`{"app":5},`, 300) + `{"app":5}`
	wantInvalid(t, deploy(t, k, `{"apps":[`+many+`]}`), "apps")
	wantInvalid(t, get(t, k, "/k/v1/preview/app/deploy.json"), "apps")
	wantInvalid(t, get(t, k, "/k/v1/preview/app/deploy.json?apps%5B0%5D=x"), "apps[0]")
	wantInvalid(t, get(t, k, "/k/v1/preview/app/deploy.json?app=5"), "app", "apps")
	wantRefusal(t, get(t, k, "/k/v1/preview/app/deploy.json?apps[0]=5"), 400, "CB_IL02")
	a := send(t, k, request("GET", "/k/v1/preview/app/deploy.json", `{"apps":[5]}`))
	if want := `{"apps":[{"app":"5","status":"SUCCESS"}]}`; a.body != want {
		t.Errorf("state by a body is %s, want %s", a.body, want)
	}
}

// AUTH, TF (docs/kintone.md 4): a new token is inert until the app is updated.
func TestDeployActivatesTokens(t *testing.T) {
	k := managed(t, simulator.Config{}, simulator.App{Tokens: []simulator.Token{simulator.FullToken(token), {Value: "young", View: true}}})
	young := header("X-Cybozu-API-Token", "young")
	wantRefusal(t, get(t, k, "/k/v1/app.json?id=5", young), 400, "GAIA_IA02")
	k.SetDeploy(0, simulator.Success)
	wantOK(t, deploy(t, k, `{"apps":[{"app":5}]}`))
	wantOK(t, get(t, k, "/k/v1/app.json?id=5", young))
}

// A deploy that somebody else makes in the meantime: SetProcess is both in one.
func TestSetProcessLeavesNothingPending(t *testing.T) {
	k := managed(t, simulator.Config{}, simulator.App{})
	wantOK(t, putSettings(t, k, `{"app":5,"enable":false}`))
	if err := k.SetProcess(5, simulator.Workflow()); err != nil {
		t.Fatal(err)
	}
	if s := settings(t, k); s.LiveRevision != 3 || s.PreviewRevision != 3 || !s.Preview.Enabled || s.Pending != nil {
		t.Errorf("settings are %+v", s)
	}
	wantRefusal(t, putSettings(t, k, `{"app":5,"revision":2}`), 409, "GAIA_CO03")
}

// S-get; docs/kintone.md 3: names come in the language that is asked for. Put back, translated names are new statuses, and
// the first one cannot be new.
func TestTranslatedNamesCannotBePutBack(t *testing.T) {
	p := simulator.Workflow()
	p.Translations = map[string]map[string]string{"ja": {"Not started": "未着手", "Start": "開始"}}
	k := managed(t, simulator.Config{}, simulator.App{Process: p})
	var got map[string]json.RawMessage
	a := get(t, k, "/k/v1/preview/app/status.json?app=5&lang=ja")
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatal(err)
	}
	wantInvalid(t, putSettings(t, k, `{"app":5,"states":`+string(got["states"])+`,"actions":`+string(got["actions"])+`}`), "states.未着手")
	a = get(t, k, "/k/v1/preview/app/status.json?app=5&lang=default")
	wantOK(t, putSettings(t, k, `{"app":5,`+strings.TrimPrefix(a.body, "{")))
}

func TestAdminSettings(t *testing.T) {
	k := managed(t, simulator.Config{}, simulator.App{})
	ask(t, k, "POST", "/pend", `{"app":5,"user":"mori"}`, 204)
	ask(t, k, "POST", "/pend", `{"app":6,"user":"mori"}`, 404)
	ask(t, k, "POST", "/pend", `{"application":6}`, 400)
	if got := ask(t, k, "GET", "/settings?app=5", "", 200); !strings.Contains(got, `"LiveRevision":1,"PreviewRevision":2,"Pending":["mori"],"Deploy":"SUCCESS"`) {
		t.Errorf("settings are %s", got)
	}
	ask(t, k, "GET", "/settings?app=6", "", 404)
	ask(t, k, "GET", "/settings?app=x", "", 400)
	ask(t, k, "POST", "/deploys", `{"takes":"1h","ends":"FAIL"}`, 204)
	ask(t, k, "POST", "/deploys", `{"takes":"1h","ends":"PROCESSING"}`, 400)
	ask(t, k, "POST", "/deploys", `{"takes":"-1h","ends":"FAIL"}`, 400)
	ask(t, k, "POST", "/deploys", `{"lasts":"1h"}`, 400)
	wantOK(t, deploy(t, k, `{"apps":[{"app":5}]}`))
	wantDeploy(t, k, simulator.Processing)
	ask(t, k, "POST", "/flush", "", 204)
	wantDeploy(t, k, simulator.Fail)
}

// Any settings may be put: they are refused with a code and change nothing, or they can be read, put back and deployed.
func FuzzSettings(f *testing.F) {
	for _, seed := range []string{
		`"enable":"true",` + states("Not started=A", "In progress", "New", "Completed"), noActions, `"revision":"1","states":{"":{}},"actions":[{}]`,
		`"actions":[{"name":"a","from":"Completed","to":"Completed","type":"SECONDARY","executableUser":{"entities":[{"entity":{"type":"CREATOR"}}]}}]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		k := managed(t, simulator.Config{LockAfterDeploy: -1}, simulator.App{})
		k.SetDeploy(0, simulator.Success)
		a := putSettings(t, k, `{"app":5,`+body+`}`)
		if a.status != http.StatusOK {
			if s := settings(t, k); a.Code == "" || s.PreviewRevision != 1 {
				t.Errorf("%s is answered with %d %s and leaves revision %d", body, a.status, a.body, s.PreviewRevision)
			}
			return
		}
		preview := get(t, k, "/k/v1/preview/app/status.json?app=5").body
		wantOK(t, putSettings(t, k, `{"app":5,`+strings.TrimPrefix(preview, "{")))
		wantOK(t, deploy(t, k, `{"apps":[{"app":5,"revision":3}]}`))
		live := get(t, k, "/k/v1/app/status.json?app=5").body
		s := settings(t, k)
		if vanished := !strings.Contains(preview, `"index":"0"`) && s.Preview.States != nil; vanished || s.Deploy == simulator.Success && live != strings.Replace(preview, `"revision":"2"`, `"revision":"3"`, 1) {
			t.Errorf("%s makes %s, and after %s live is %s", body, preview, s.Deploy, live)
		}
	})
}
