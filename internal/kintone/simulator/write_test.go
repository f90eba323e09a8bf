package simulator_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"statusq/internal/kintone/simulator"
)

// writable is an app with a field of each kind that can be written, and its first status is the creator's.
func writable(t *testing.T) *simulator.Kintone {
	t.Helper()
	p := simulator.Workflow()
	p.States[0].Entities = []simulator.Entity{{Type: "FIELD_ENTITY", Code: "Created_by"}}
	k := managed(t, simulator.Config{}, simulator.App{Process: p, Fields: []simulator.Field{
		{Code: "code", Type: "SINGLE_LINE_TEXT"}, {Code: "amount", Type: "NUMBER"}, {Code: "due", Type: "DATE"}, {Code: "owner", Type: "USER_SELECT"},
		{Code: "team", Type: "ORGANIZATION_SELECT"}, {Code: "tags", Type: "CHECK_BOX"}, {Code: "sum", Type: "CALC"},
		{Code: "item", Type: "SINGLE_LINE_TEXT", Table: "items"},
	}})
	k.AddOrganization("sales")
	return k
}

func post(t *testing.T, k *simulator.Kintone, body string, options ...func(*http.Request)) reply {
	t.Helper()
	return send(t, k, request("POST", "/k/v1/records.json", body, options...))
}

// R-add-records: new records are in the first status at revision 1, made by the caller, and have the values they were given.
func TestPostRecords(t *testing.T) {
	k := writable(t)
	a := post(t, k, `{"app":"5","records":[
		{"code":{"value":"K-1"},"amount":{"value":12.50},"due":{"value":"2026-11-22"},"owner":{"value":[{"code":"sato"},{"code":"mori"}]},
		 "team":{"value":[{"code":"sales"}]},"tags":{"value":["a","b"]}},{}]}`)
	if want := `{"ids":["11","12"],"revisions":["1","1"]}`; a.body != want {
		t.Fatalf("answer is %d %s, want %s", a.status, a.body, want)
	}
	wantRecord(t, k, 11, 1, "Not started", "Administrator")
	wantRecord(t, k, 12, 1, "Not started", "Administrator")
	r, _ := k.Record(5, 11)
	if got := fmt.Sprint(r.Fields); got != "map[amount:12.50 code:K-1 due:2026-11-22 owner:sato,mori tags:a,b team:sales]" || r.Creator != "Administrator" {
		t.Errorf("record 11 is by %s with %s", r.Creator, got)
	}
	wantOK(t, post(t, k, `{"app":5,"records":[{"code":{"value":"K-2"}}]}`, as("mori", "mori")))
	wantRecord(t, k, 13, 1, "Not started", "mori")
	if ids := found(t, get(t, k, "/k/v1/records.json?app=5&query=code+in+(%22K-1%22,%22K-2%22)")); strings.Join(ids, " ") != "13 11" {
		t.Errorf("records by key are %q, want 13 and 11", ids)
	}
	wantUntouched(t, k)
}

// LABS: a status cannot be written (GAIA_UN10). The rest is the stricter reading of what no source says.
func TestPostRecordsRefuses(t *testing.T) {
	k := writable(t)
	for body, want := range map[string]string{
		`{"Status":{"value":"Completed"}}`:      "GAIA_UN10",
		`{"Assignee":{"value":[]}}`:             "GAIA_UN10",
		`{"sum":{"value":"1"}}`:                 "GAIA_UN10",
		`{"items":{"value":[]}}`:                "GAIA_UN10",
		`{"owner":{"value":[{"code":"x"}]}}`:    "GAIA_IL26",
		`{"team":{"value":[{"code":"x"}]}}`:     "GAIA_IL28",
		`{"nothing":{"value":"x"}}`:             "CB_VA01",
		`{"item":{"value":"x"}}`:                "CB_VA01",
		`{"code":"x"}`:                          "CB_VA01",
		`{"code":{"value":"x","type":"FIELD"}}`: "CB_VA01",
		`{"code":{"value":5}}`:                  "CB_VA01",
		`{"amount":{"value":"ten"}}`:            "CB_VA01",
		`{"due":{"value":"22.11.2026"}}`:        "CB_VA01",
		`{"owner":{"value":"sato"}}`:            "CB_VA01",
	} {
		if a := post(t, k, `{"app":5,"records":[{},`+body+`]}`); a.status != 400 || a.Code != want {
			t.Errorf("%s is answered with %d %s, want %s", body, a.status, a.body, want)
		}
	}
	wantInvalid(t, post(t, k, `{"app":5,"records":[`+strings.Repeat("{},", 100)+`{}]}`), "records")
	wantRefusal(t, post(t, k, `{"app":5,"records":[{}]}`, header("X-HTTP-Method-Override", "GET")), 400, "CB_VA01")
	if _, made := k.Record(5, 11); made {
		t.Error("a refused call made a record")
	}
	view := newKintone(t, simulator.App{})
	wantRefusal(t, post(t, view, `{"app":5,"records":[{}]}`), 403, "GAIA_NO01")
}

// R-delete-records: all or none, with revisions if wanted, in a body or in the URL.
func TestDeleteRecords(t *testing.T) {
	k := managed(t, simulator.Config{}, simulator.App{})
	remove := func(body string) reply { return send(t, k, request("DELETE", "/k/v1/records.json", body)) }
	wantOK(t, remove(`{"app":5,"ids":[1,"2"],"revisions":["1",-1]}`))
	a := remove(`{"app":5,"ids":[3,2]}`)
	if wantRefusal(t, a, 404, "GAIA_RE01"); !strings.Contains(a.Message, "2") {
		t.Errorf("text %q does not name the record", a.Message)
	}
	wantRefusal(t, remove(`{"app":5,"ids":[3,4],"revisions":[1,7]}`), 409, "GAIA_CO02")
	wantInvalid(t, remove(`{"app":5}`), "ids")
	wantInvalid(t, remove(`{"app":5,"ids":[3,3,0]}`), "ids[1]", "ids[2]")
	wantInvalid(t, remove(`{"app":5,"ids":[3,4],"revisions":[1]}`), "revisions")
	wantInvalid(t, remove(`{"app":5,"ids":[3],"revisions":["x"]}`), "revisions[0]")
	wantOK(t, send(t, k, request("DELETE", "/k/v1/records.json?app=5&ids%5B0%5D=9&ids%5B1%5D=10&revisions%5B1%5D=1&revisions%5B0%5D=-1", "")))
	for id, want := range map[int64]bool{1: false, 2: false, 3: true, 4: true, 9: false, 10: false} {
		if _, there := k.Record(5, id); there != want {
			t.Errorf("record %d is there: %v, want %v", id, there, want)
		}
	}
	// A number is never used again.
	if a := post(t, k, `{"app":5,"records":[{}]}`); !strings.Contains(a.body, `"ids":["11"]`) {
		t.Errorf("new record is %s, want 11", a.body)
	}
	view := newKintone(t, simulator.App{})
	wantRefusal(t, send(t, view, request("DELETE", "/k/v1/records.json", `{"app":5,"ids":[1]}`)), 403, "GAIA_NO01")
}

// docs/kintone.md 3, Assignees: putting assignees raises the revision, and takes management of the app
// (TestSettingsTakeManagement).
func TestPutAssignees(t *testing.T) {
	p := simulator.Workflow()
	p.States[1].AssigneeType, p.States[1].Entities = simulator.All, []simulator.Entity{simulator.User("sato")}
	k := managed(t, simulator.Config{}, simulator.App{Process: p})
	assign := func(body string) reply {
		return send(t, k, request("PUT", "/k/v1/record/assignees.json", `{"app":5,`+body+`}`))
	}
	if a := assign(`"id":1,"assignees":["Administrator"],"revision":"1"`); a.body != `{"revision":"2"}` {
		t.Errorf("answer is %s, want revision 2", a.body)
	}
	wantRecord(t, k, 1, 2, "Not started", "Administrator")
	wantOK(t, assign(`"id":1,"assignees":[]`))
	wantRecord(t, k, 1, 3, "Not started")
	mustPut(t, k, 2, func(r *simulator.RecordState) { r.Status = "In progress" })
	wantOK(t, assign(`"id":2,"assignees":["sato","mori"]`))
	wantRecord(t, k, 2, 2, "In progress", "sato", "mori")

	wantRefusal(t, assign(`"id":1,"assignees":["sato"],"revision":1`), 409, "GAIA_CO02")
	wantRefusal(t, assign(`"id":99,"assignees":["sato"]`), 404, "GAIA_RE01")
	wantRefusal(t, assign(`"id":1,"assignees":["nobody"]`), 400, "GAIA_IL26")
	wantInvalid(t, assign(`"id":1,"assignees":["sato","mori"]`), "assignees")
	wantInvalid(t, assign(`"id":1,"assignees":["sato","sato",""]`), "assignees[1]", "assignees[2]")
	wantInvalid(t, assign(`"id":1`), "assignees")
	wantRecord(t, k, 1, 3, "Not started")
	if err := k.SetProcess(5, simulator.Process{States: p.States}); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, assign(`"id":1,"assignees":[]`), 400, "GAIA_ST02")
	wantUntouched(t, k)
}
