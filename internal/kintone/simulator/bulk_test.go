package simulator_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/kintone/simulator"
)

// one is a call in a bulkRequest.
func one(method, api, payload string) string {
	return fmt.Sprintf(`{"method":%q,"api":"/k/v1/%s","payload":%s}`, method, api, payload)
}

// act is a call that runs an action on a record of app 5.
func act(record int, action, more string) string {
	return one("PUT", "record/status.json", fmt.Sprintf(`{"app":5,"id":%d,"action":%q%s}`, record, action, more))
}

func bulk(t *testing.T, k *simulator.Kintone, calls []string, options ...func(*http.Request)) reply {
	t.Helper()
	return send(t, k, request("POST", "/k/v1/bulkRequest.json", `{"requests":[`+strings.Join(calls, ",")+`]}`, options...))
}

// wantRefusedCall checks that a bulkRequest of so many calls was refused for one of them: its envelope in its place, empty
// objects in the others, and the status of the refusal (R-bulk-request).
func wantRefusedCall(t *testing.T, a reply, status int, code string, call, calls int) {
	t.Helper()
	var body struct {
		Results []map[string]any `json:"results"`
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || len(body.Results) != calls || a.status != status || a.Code != "" {
		t.Fatalf("answer is %d %s, want %d and %d results", a.status, a.body, status, calls)
	}
	for i, r := range body.Results {
		if i != call && len(r) > 0 || i == call && (r["code"] != code || r["id"] == nil || r["message"] == nil) {
			t.Errorf("result %d of %s is %v, want %s in place %d only", i, a.body, r, code, call)
		}
	}
	if got := a.header.Get("X-Cybozu-Error"); got != code {
		t.Errorf("X-Cybozu-Error is %q, want %s", got, code)
	}
}

// R-bulk-request: the calls are carried out in their order, each on what those before it left, and the answers come in
// that order too. Customine: so somebody can be made the assignee and act in one request.
func TestBulkRequest(t *testing.T) {
	k := managed(t, simulator.Config{}, simulator.App{Process: assigned()})
	mustPut(t, k, 1, func(r *simulator.RecordState) { r.Status, r.Assignees = "Check", []string{"sato"} })
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Done"}`), 403, "GAIA_NT01")
	a := bulk(t, k, []string{
		one("PUT", "record/assignees.json", `{"app":5,"id":1,"assignees":["Administrator"],"revision":1}`),
		act(1, "Done", `,"revision":2`),
		one("PUT", "records/status.json", `{"app":5,"records":[{"id":3,"action":"To all"},{"id":2,"action":"To any"}]}`),
		one("POST", "records.json", `{"app":"5","records":[{}]}`),
		act(11, "To all", ""),
		one("DELETE", "records.json", `{"app":5,"ids":[4],"revisions":[1]}`),
	})
	want := `{"results":[{"revision":"2"},{"revision":"4"},{"records":[{"id":"3","revision":"3"},{"id":"2","revision":"3"}]},` +
		`{"ids":["11"],"revisions":["1"]},{"revision":"3"},{}]}`
	if a.status != 200 || a.body != want {
		t.Fatalf("answer is %d %s, want %s", a.status, a.body, want)
	}
	if _, there := k.Record(5, 4); there {
		t.Error("record 4 was not deleted")
	}
	var log []string
	for _, c := range k.Commits() {
		log = append(log, fmt.Sprintf("%s: %d %s %d-%d", c.Request, c.Record, c.Action, c.Before, c.After))
	}
	if want := []string{"2: 1 Done 2-4", "2: 3 To all 1-3", "2: 2 To any 1-3", "2: 11 To all 1-3"}; !slices.Equal(log, want) {
		t.Errorf("log is %q, want %q", log, want)
	}
}

// R-bulk-request: what comes before the call that is refused is taken back, what comes after it never happens.
func TestBulkRequestIsCarriedOutWhollyOrNotAtAll(t *testing.T) {
	k := managed(t, simulator.Config{}, simulator.App{Fields: []simulator.Field{{Code: "code", Type: "SINGLE_LINE_TEXT"}}})
	k.AddApp(simulator.App{ID: 6, Records: 3, Process: simulator.Workflow(), Tokens: []simulator.Token{simulator.FullToken("other")}})
	both := header("X-Cybozu-API-Token", token+",other")
	wantOK(t, putOne(t, k, `{"app":5,"id":5,"action":"Start"}`))
	find := func() string {
		return get(t, k, "/k/v1/records.json?app=5&totalCount=true&query=code+in+(%22K-1%22,%22K-2%22)").body
	}
	state := func() string {
		b := new(strings.Builder)
		for app := range int64(2) {
			for id := range int64(13) {
				r, there := k.Record(5+app, 1+id)
				fmt.Fprintln(b, r, there)
			}
		}
		return b.String() + ask(t, k, "GET", "/records?app=5", "", 200) + ask(t, k, "GET", "/records?app=6", "", 200) + find() + fmt.Sprint(k.Commits())
	}
	find() // makes the index
	before := state()
	good := []string{
		one("POST", "records.json", `{"app":5,"records":[{"code":{"value":"K-1"}},{}]}`),
		act(11, "Start", `,"revision":1`),
		one("DELETE", "records.json", `{"app":5,"ids":[2,12]}`),
		one("PUT", "record/assignees.json", `{"app":5,"id":5,"assignees":["Administrator"]}`),
		one("PUT", "records/status.json", members(3, 2)),
		act(3, "Approve", `,"revision":3`),
		one("PUT", "record/status.json", `{"app":6,"id":1,"action":"Start"}`),
	}
	for i := range good {
		for code, bad := range map[string]string{"GAIA_CO02": act(7, "Start", `,"revision":2`), "GAIA_RE01": act(99, "Start", "")} {
			status := map[string]int{"GAIA_CO02": 409, "GAIA_RE01": 404}[code]
			wantRefusedCall(t, bulk(t, k, slices.Insert(slices.Clone(good), i+1, bad), both), status, code, i+1, len(good)+1)
			if after := state(); after != before {
				t.Fatalf("%s after %d calls leaves\n%s, want\n%s", code, i+1, after, before)
			}
		}
	}
	a := bulk(t, k, good, both)
	if wantOK(t, a); !strings.Contains(a.body, `"ids":["11","12"]`) || k.CommitCount() != 6 {
		t.Errorf("the calls without the bad one are answered %s with %d actions in all", a.body, k.CommitCount())
	}
	if !strings.Contains(find(), `"totalCount":"1"`) || strings.Contains(before, `"totalCount":"1"`) {
		t.Errorf("the new record is found as %s", find())
	}
	wantRecord(t, k, 3, 5, "Completed")
	if got, want := ask(t, k, "GET", "/records?app=5", "", 200), `{"app":5,"statuses":{"Completed":1,"In progress":3,"Not started":6},"total":10}`+"\n"; got != want {
		t.Errorf("records are %s, want %s", got, want)
	}
}

// Status calls are judged in a bulkRequest as they are alone: the same code and status, the same complaints, and another
// call's actions are taken back for them.
func TestBulkRequestJudgesLikeTheCallsAlone(t *testing.T) {
	p := assigned()
	p.Actions = append(p.Actions, simulator.Action{Name: "Twin", From: "New", To: "All"}, simulator.Action{Name: "Twin", From: "New", To: "Any"},
		simulator.Action{Name: "If", From: "New", To: "Any", FilterCond: "$id > 5"})
	ground := func() *simulator.Kintone {
		k := managed(t, simulator.Config{}, simulator.App{Process: p})
		mustPut(t, k, 2, func(r *simulator.RecordState) { r.Status, r.Assignees = "Check", []string{"sato"} })
		mustPut(t, k, 3, func(r *simulator.RecordState) { r.Hidden = true })
		return k
	}
	for name, members := range map[string]string{
		"a revision": `"id":1,"action":"To all","revision":2`, "no record": `"id":77,"action":"To all"`, "hidden": `"id":3,"action":"To all"`,
		"an assignee": `"id":2,"action":"Done"`, "no action": `"id":1,"action":"Done"`, "two actions": `"id":1,"action":"Twin"`,
		"a condition": `"id":1,"action":"If"`, "none given": `"id":1,"action":"To check"`, "one too many": `"id":1,"action":"To all","assignee":"sato"`,
		"nobody": `"id":1,"action":"To check","assignee":"x"`, "form": `"id":0,"action":""`, "a member": `"id":1,"action":"To all","lang":"en"`,
	} {
		for api, payload := range map[string]string{
			"record/status.json": `{"app":5,` + members + `}`, "records/status.json": `{"app":5,"records":[{"id":4,"action":"To all"},{` + members + `}]}`,
		} {
			alone := send(t, ground(), request("PUT", "/k/v1/"+api, payload))
			if alone.Code == "" {
				t.Fatalf("%s: alone it is answered with %d %s", name, alone.status, alone.body)
			}
			k := ground()
			a := bulk(t, k, []string{act(9, "To all", ""), one("PUT", api, payload), act(10, "To all", "")})
			wantRefusedCall(t, a, alone.status, alone.Code, 1, 3)
			var body struct{ Results []reply }
			if err := json.Unmarshal([]byte(a.body), &body); err != nil || !reflect.DeepEqual(body.Results[1].Errors, alone.Errors) {
				t.Errorf("%s: %s complains %v, alone %v", name, api, body.Results[1].Errors, alone.Errors)
			}
			wantUntouched(t, k)
			wantRecord(t, k, 9, 1, "New")
		}
	}
	k := ground()
	wantOK(t, bulk(t, k, []string{act(7, "If", `,"revision":1`), act(8, "If", "")}))
	wantRecord(t, k, 7, 3, "Any", "sato", "mori")
}

// R-bulk-request: twenty calls, of some APIs only, within one guest space. The codes are not known.
func TestBulkRequestsThatAreNone(t *testing.T) {
	k := managed(t, simulator.Config{}, simulator.App{})
	many := func(n int) (calls []string) {
		for range n {
			calls = append(calls, one("PUT", "record/assignees.json", `{"app":5,"id":1,"assignees":[]}`))
		}
		return calls
	}
	wantOK(t, bulk(t, k, many(20)))
	wantInvalid(t, bulk(t, k, many(21)), "requests")
	wantRecord(t, k, 1, 21, "Not started")
	wantInvalid(t, bulk(t, k, nil), "requests")
	for body, paths := range map[string][]string{
		`{}`:                        {"requests"},
		`{"requests":{}}`:           {"requests"},
		`{"requests":[{}],"app":5}`: {"app", "requests[0].method", "requests[0].api", "requests[0].payload"},
		`{"requests":[1]}`:          {"requests[0]"},
		`{"requests":[{"method":"PUT","api":"/k/v1/record/status.json","payload":[],"id":1}]}`: {"requests[0].payload", "requests[0].id"},
		`{"requests":[{"method":1,"api":"","payload":{}}]}`:                                    {"requests[0].method", "requests[0].api"},
	} {
		wantInvalid(t, send(t, k, request("POST", "/k/v1/bulkRequest.json", body)), paths...)
	}
	wantRefusal(t, send(t, k, request("POST", "/k/v1/bulkRequest.json", `[]`)), 400, "CB_IL02")
	wantRefusal(t, send(t, k, request("POST", "/k/v1/bulkRequest.json", `{`)), 400, "CB_IJ01")
	wantRefusal(t, bulk(t, k, many(1), header("X-Cybozu-API-Token", "")), 401, "CB_AU01")

	start := `{"app":5,"id":2,"action":"Start"}`
	for name, call := range map[string]string{
		"a read":             one("GET", "records.json", `{"app":5}`),
		"another method":     one("POST", "record/status.json", start),
		"settings":           one("PUT", "preview/app/status.json", `{"app":5,"enable":false}`),
		"a deploy":           one("POST", "preview/app/deploy.json", `{"apps":[{"app":5}]}`),
		"another bulk":       one("POST", "bulkRequest.json", `{"requests":[`+act(3, "Start", "")+`]}`),
		"an API that is not": one("PUT", "unicorns.json", start),
		"a URL":              `{"method":"PUT","api":"https://kintone.example/k/v1/record/status.json","payload":` + start + `}`,
		"a name":             `{"method":"PUT","api":"record/status.json","payload":` + start + `}`,
		"a guest space":      `{"method":"PUT","api":"/k/guest/3/v1/record/status.json","payload":` + start + `}`,
		"no guest space":     `{"method":"PUT","api":"/k/guest/x/v1/record/status.json","payload":` + start + `}`,
	} {
		a := bulk(t, k, []string{act(2, "Start", ""), call})
		if a.Code != "CB_VA01" || len(a.Errors["requests[1].api"].Messages) == 0 || len(a.Errors) != 1 {
			t.Errorf("%s is answered with %s", name, a.body)
		}
	}
	for _, call := range []string{one("POST", "record.json", `{"app":5}`), one("PUT", "record.json", `{"app":5,"id":1}`), one("PUT", "records.json", `{"app":5}`)} {
		if a := bulk(t, k, []string{act(2, "Start", ""), call}); a.status != 404 || a.Code != "" {
			t.Errorf("%s, which kintone takes and the simulator does not know, is answered with %d %s", call, a.status, a.body)
		}
	}
	wantUntouched(t, k)

	// Turned the other way (docs/kintone.md 7).
	k = managed(t, simulator.Config{NotInBulk: "GAIA_XX07"}, simulator.App{})
	wantRefusal(t, bulk(t, k, many(21)), 400, "GAIA_XX07")
	wantRefusal(t, bulk(t, k, []string{one("GET", "records.json", `{"app":5}`)}), 400, "GAIA_XX07")
	wantInvalid(t, bulk(t, k, []string{`{}`}), "requests[0].method", "requests[0].api", "requests[0].payload")
}

// R-bulk-request: a bulkRequest in a guest space holds calls of that space only.
func TestBulkRequestInAGuestSpace(t *testing.T) {
	k := newKintone(t, simulator.App{GuestSpace: 3})
	k.AddApp(simulator.App{ID: 6, Process: simulator.Workflow(), Records: 3, Tokens: []simulator.Token{simulator.ViewToken("other")}})
	for space, want := range map[string]string{"guest/3/": "", "guest/4/": "requests[0].api", "": "requests[0].api"} {
		body := `{"requests":[{"method":"PUT","api":"/k/` + space + `v1/records/status.json","payload":` + members(1, 2) + `}]}`
		a := send(t, k, request("POST", "/k/guest/3/v1/bulkRequest.json", body))
		if want == "" {
			wantOK(t, a)
		} else {
			wantInvalid(t, a, want)
		}
	}
	// The path is right and the app is not of that space: as alone.
	call := `{"requests":[{"method":"PUT","api":"/k/guest/3/v1/record/status.json","payload":{"app":6,"id":1,"action":"Start"}}]}`
	wantRefusedCall(t, send(t, k, request("POST", "/k/guest/3/v1/bulkRequest.json", call, header("X-Cybozu-API-Token", "abc,other"))), 403, "CB_NO02", 0, 1)
	wantRefusedCall(t, bulk(t, k, []string{act(1, "Approve", "")}), 400, "GAIA_IL23", 0, 1)
	if n := k.CommitCount(); n != 2 {
		t.Errorf("%d actions happened, want 2", n)
	}
}

// R-bulk-request: every call needs the rights that it needs alone, and with tokens one of its app; a password does for all.
func TestBulkRequestNeedsTheRightsOfItsCalls(t *testing.T) {
	k := newKintone(t, simulator.App{Viewers: []string{"sato"}})
	k.AddApp(simulator.App{ID: 6, Process: simulator.Workflow(), Records: 3, Tokens: []simulator.Token{simulator.ViewToken("other")}})
	calls := []string{act(1, "Start", ""), one("PUT", "record/status.json", `{"app":6,"id":1,"action":"Start"}`)}
	wantRefusedCall(t, bulk(t, k, calls), 400, "GAIA_IA02", 1, 2)
	wantRefusedCall(t, bulk(t, k, calls, header("X-Cybozu-API-Token", "other")), 400, "GAIA_IA02", 0, 2)
	wantRefusedCall(t, bulk(t, k, calls, as("mori", "mori")), 403, "CB_NO02", 0, 2)
	wantRefusedCall(t, bulk(t, k, []string{calls[0], one("DELETE", "records.json", `{"app":5,"ids":[2]}`)}), 403, "GAIA_NO01", 1, 2)
	wantUntouched(t, k)
	wantOK(t, bulk(t, k, calls, header("X-Cybozu-API-Token", "other,abc")))
	wantOK(t, bulk(t, k, []string{act(1, "Approve", `,"revision":3`), one("PUT", "record/status.json", `{"app":6,"id":1,"action":"Approve"}`)}, as("sato", "sato")))
}

// What a bulkRequest counts as is not known: each call for its app, once for each app, or once for the first. It is one
// request of those in flight, which no source says either.
func TestBulkRequestCounts(t *testing.T) {
	for count, want := range map[simulator.BulkCount][2]int{simulator.EachCall: {3, 1}, simulator.EachApp: {1, 1}, simulator.FirstCall: {0, 1}} {
		for _, free := range []bool{false, true} {
			k := managed(t, simulator.Config{BulkCount: count, RefusedFree: free}, simulator.App{})
			k.AddApp(simulator.App{ID: 6, Process: simulator.Workflow(), Records: 3, Tokens: []simulator.Token{simulator.ViewToken("other")}})
			calls := []string{one("PUT", "record/status.json", `{"app":6,"id":1,"action":"Start"}`), act(1, "Start", ""), act(2, "Start", ""), act(3, "Start", "")}
			a := bulk(t, k, calls, header("X-Cybozu-API-Token", "abc,other"))
			wantOK(t, a)
			c := k.Requests()
			if c.Today[5] != want[0] || c.Today[6] != want[1] || c.Total != 1 || c.Kinds["POST bulkRequest.json"] != 1 || c.Peak != 1 || a.header.Get("X-ConcurrencyLimit-Running") != "1" {
				t.Errorf("BulkCount %d: counts are %+v, want %v", count, c, want)
			}
			wantRefusedCall(t, bulk(t, k, calls, header("X-Cybozu-API-Token", "abc,other")), 400, "GAIA_IL03", 0, 4)
			factor := map[bool]int{false: 2, true: 1}[free]
			if c := k.Requests(); c.Today[5] != factor*want[0] || c.Today[6] != factor*want[1] || c.Refused != 1 || c.Codes["GAIA_IL03"] != 1 {
				t.Errorf("BulkCount %d, RefusedFree %v: after a refusal the counts are %+v", count, free, c)
			}
		}
	}
}

// A bulkRequest meets faults as one request: late, twice, never.
func TestBulkRequestMeetsFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loop := simulator.Workflow()
		loop.Actions = append(loop.Actions, simulator.Action{Name: "Again", From: "Not started", To: "Not started"})
		k := newKintone(t, simulator.App{Process: loop})
		var seen simulator.Request
		fault := simulator.Fault{Kind: simulator.Repeat}
		k.SetFault(func(q simulator.Request) simulator.Fault {
			seen = q
			return fault
		})
		pinned := []string{act(1, "Start", `,"revision":1`), one("PUT", "records/status.json", members(2, 2))}
		wantRefusedCall(t, bulk(t, k, pinned), 409, "GAIA_CO02", 0, 2)
		if seen.Method != "POST" || seen.API != "bulkRequest.json" || seen.App != 5 || !slices.Equal(seen.Records, []int64{1, 2, 3}) {
			t.Errorf("the fault function was shown %+v", seen)
		}
		if n, c := k.CommitCount(), k.Requests(); n != 3 || c.Today[5] != 4 {
			t.Errorf("%d actions happened, counts %+v; want 3 actions and 4 of the day", n, c)
		}
		wantOK(t, bulk(t, k, []string{act(6, "Again", ""), act(7, "Again", "")}))
		var order []string
		for _, c := range k.CommitsSince(3) {
			order = append(order, fmt.Sprintf("%s: %d", c.Request, c.Record))
		}
		if want := []string{"2: 6", "2: 7", "2/2: 6", "2/2: 7"}; !slices.Equal(order, want) {
			t.Errorf("without revisions a repeated one was carried out as %q, want %q", order, want)
		}
		fault = simulator.Fault{Kind: simulator.BadGateway, Applied: true, Delay: time.Hour}
		if a := bulk(t, k, []string{act(4, "Start", ""), act(5, "Start", `,"revision":1`)}); a.status != 502 {
			t.Fatalf("answer is %d", a.status)
		}
		if err := k.Edit(5, 5, "sato"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		wantRecord(t, k, 4, 1, "Not started") // the second call found its record changed
		fault = simulator.Fault{Kind: simulator.Locked}
		wantRefusal(t, bulk(t, k, pinned), 400, "GAIA_DA02")
	})
}

// HELP (docs/kintone.md 3): a call for one record fires webhooks, one for many does not. What a call for one does in a
// bulkRequest is not known.
func TestWebhooks(t *testing.T) {
	for _, inBulk := range []bool{false, true} {
		k := managed(t, simulator.Config{BulkWebhooks: inBulk}, simulator.App{})
		wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`))
		wantOK(t, put(t, k, members(2, 1)))
		wantOK(t, bulk(t, k, []string{act(3, "Start", ""), one("PUT", "records/status.json", members(4, 1))}))
		if err := k.Act(5, 5, "sato", "Start", ""); err != nil {
			t.Fatal(err)
		}
		var fired []bool
		for _, c := range k.Commits() {
			fired = append(fired, c.Webhook)
		}
		if want := []bool{true, false, inBulk, false, true}; !slices.Equal(fired, want) {
			t.Errorf("webhooks were fired %v, want %v", fired, want)
		}
	}
}
