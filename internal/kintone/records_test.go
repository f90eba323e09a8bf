package kintone

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

// The body of the call for one record and its answer, as in SEED3; the revision comes as a string.
func TestUpdateStatus(t *testing.T) {
	s := newSite(t, answers(200, `{"revision":"3"}`))
	got, err := s.UpdateStatus(t.Context(), App{ID: 4, GuestSpace: 7}, StatusChange{Record: 1, Revision: 1, Action: "申请", Assignee: "user2"})
	if err != nil || got != (RecordRevision{Record: 1, Revision: 3}) {
		t.Errorf("UpdateStatus returned %+v, %v; want record 1 at revision 3", got, err)
	}
	r := s.only(t)
	if r.method != "PUT" || r.uri != "/k/guest/7/v1/record/status.json" {
		t.Errorf("asked %s %s", r.method, r.uri)
	}
	sameJSON(t, r.body, `{"app":4,"id":1,"action":"申请","assignee":"user2","revision":1}`)
}

// The body of the call for many records, as in SEED2. Without an assignee the member must be absent: an assignee where
// none may be given is GAIA_SA04 (docs/kintone.md 3).
func TestUpdateStatuses(t *testing.T) {
	s := newSite(t, answers(200, `{"records":[{"id":"2","revision":"3"},{"id":1,"revision":9}]}`))
	got, err := s.UpdateStatuses(t.Context(), App{ID: 4}, []StatusChange{
		{Record: 2, Revision: 1, Action: "申請する", Assignee: "user2"},
		{Record: 1, Revision: Unchecked, Action: "承認"},
	})
	if want := []RecordRevision{{2, 3}, {1, 9}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("UpdateStatuses returned %+v, %v; want %+v", got, err, want)
	}
	r := s.only(t)
	if r.method != "PUT" || r.uri != "/k/v1/records/status.json" {
		t.Errorf("asked %s %s", r.method, r.uri)
	}
	sameJSON(t, r.body, `{"app":4,"records":[
		{"id":2,"action":"申請する","assignee":"user2","revision":1},
		{"id":1,"action":"承認","revision":-1}]}`)
}

func TestUpdateStatusesTakesAHundred(t *testing.T) { // SEED2
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		var records []string
		for _, id := range manyIDs(1, 100) {
			records = append(records, fmt.Sprintf(`{"id":"%d","revision":"%d"}`, id, id+3))
		}
		answers(200, `{"records":[`+strings.Join(records, ",")+`]}`)(w, r)
	})
	got, err := s.UpdateStatuses(t.Context(), App{ID: 4}, changesOf(manyIDs(1, 100)...))
	if err != nil || len(got) != 100 || got[99] != (RecordRevision{100, 103}) {
		t.Errorf("UpdateStatuses returned %d revisions, %v; want 100", len(got), err)
	}
}

// A success that is not the answer to what was asked proves nothing about it.
func TestUpdateStatusesDoubtsAnAnswerThatDoesNotFit(t *testing.T) {
	for name, answer := range map[string]string{
		"fewer records":     `{"records":[{"id":"1","revision":"3"}]}`,
		"more records":      `{"records":[{"id":"1","revision":"3"},{"id":"2","revision":"4"},{"id":"3","revision":"5"}]}`,
		"another order":     `{"records":[{"id":"2","revision":"4"},{"id":"1","revision":"3"}]}`,
		"another record":    `{"records":[{"id":"1","revision":"3"},{"id":"3","revision":"4"}]}`,
		"a record twice":    `{"records":[{"id":"1","revision":"3"},{"id":"1","revision":"3"}]}`,
		"no revision":       `{"records":[{"id":"1","revision":"3"},{"id":"2"}]}`,
		"a null revision":   `{"records":[{"id":"1","revision":"3"},{"id":"2","revision":null}]}`,
		"revision 0":        `{"records":[{"id":"1","revision":"3"},{"id":"2","revision":"0"}]}`,
		"a broken revision": `{"records":[{"id":"1","revision":"3"},{"id":"2","revision":"4.0"}]}`,
		"a wordy revision":  `{"records":[{"id":"1","revision":"3"},{"id":"2","revision":"four"}]}`,
		"a huge revision":   `{"records":[{"id":"1","revision":"3"},{"id":"2","revision":1e3}]}`,
		"an odd id":         `{"records":[{"id":"1","revision":"3"},{"id":"02","revision":"4"}]}`,
		"null":              `null`,
		"records null":      `{"records":null}`,
		"an array":          `[]`,
		"an envelope":       `{"code":"GAIA_IL03","id":"x","message":"m"}`,
		"HTML":              `<html></html>`,
	} {
		s := newSite(t, answers(200, answer))
		got, err := s.UpdateStatuses(t.Context(), App{ID: 4}, changesOf(1, 2))
		if e := failure(t, err); got != nil || !e.MayHaveActed || e.Status != 200 || e.Code != "" || e.Message == "" {
			t.Errorf("%s: %v, %v (MayHaveActed %v); want no revisions and doubt", name, got, e, e.MayHaveActed)
		}
	}
}

// Callers look members up by Indexes; a position outside of the request would be a panic there.
func TestUpdateStatusesNamesOnlyItsMembers(t *testing.T) {
	s := newSite(t, answers(400, `{"code":"CB_VA01","id":"x","message":"m","errors":{
		"records[1].id":{"messages":["a"]},"records[2].id":{"messages":["b"]},"records[500].id":{"messages":["c"]}}}`))
	_, err := s.UpdateStatuses(t.Context(), App{ID: 4}, changesOf(1, 2))
	if e := failure(t, err); !reflect.DeepEqual(e.Indexes, []int{1}) || e.MayHaveActed {
		t.Errorf("two members were sent, and named were %v (MayHaveActed %v); want [1]", e.Indexes, e.MayHaveActed)
	}
}

// GAIA_CO02 comes with 409 and names nobody (docs/kintone.md 2.2, 2.3).
func TestRefusalOverTheWire(t *testing.T) {
	s := newSite(t, answers(409, `{"code":"GAIA_CO02","id":"abc","message":"not the latest"}`))
	_, err := s.UpdateStatuses(t.Context(), App{ID: 4}, changesOf(1, 2))
	e := failure(t, err)
	if want := "app 4: PUT records/status.json: HTTP 409 GAIA_CO02: not the latest (id abc)"; e.Error() != want || e.MayHaveActed || e.NotSent {
		t.Errorf("a refusal gave %q (MayHaveActed %v, NotSent %v), want %q", e, e.MayHaveActed, e.NotSent, want)
	}
}

var someFields = Fields{Status: "ステータス", Assignee: "作業者", Modifier: "更新者", RecordNumber: "No", Enabled: true}

func TestRecordsByID(t *testing.T) {
	s := newSite(t, answers(200, `{"records":[
		{"$id":{"type":"__ID__","value":"9"},"$revision":{"type":"__REVISION__","value":"12"},
		 "ステータス":{"type":"STATUS","value":"処理中"},
		 "作業者":{"type":"STATUS_ASSIGNEE","value":[{"code":"sato","name":"佐藤"},{"code":"kato","name":"加藤"}]},
		 "更新者":{"type":"MODIFIER","value":{"code":"Administrator","name":"admin"}}},
		{"$id":{"type":"__ID__","value":"1"},"$revision":{"type":"__REVISION__","value":"1"},
		 "ステータス":{"type":"STATUS","value":"未処理"},"作業者":{"type":"STATUS_ASSIGNEE","value":[]},
		 "更新者":{"type":"MODIFIER","value":null}}
		],"totalCount":null}`))
	got, err := s.RecordsByID(t.Context(), App{ID: 5}, someFields, []int64{9, 4, 1, 9})
	want := []Record{
		{ID: 1, Revision: 1, Status: "未処理"},
		{ID: 9, Revision: 12, Status: "処理中", Assignees: []string{"sato", "kato"}, Modifier: "Administrator"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("RecordsByID returned %+v, %v; want %+v", got, err, want)
	}
	r := s.only(t)
	u, err := url.Parse(r.uri)
	if err != nil || u.Path != "/k/v1/records.json" || r.method != "GET" {
		t.Fatalf("asked %s %s", r.method, r.uri)
	}
	wantQuery := url.Values{"app": {"5"}, "query": {"$id in (1,4,9) limit 500"},
		"fields[0]": {"$id"}, "fields[1]": {"$revision"}, "fields[2]": {"ステータス"}, "fields[3]": {"作業者"}, "fields[4]": {"更新者"}}
	if got := u.Query(); !reflect.DeepEqual(got, wantQuery) {
		t.Errorf("the query is %v, want %v", got, wantQuery)
	}
	// Raw brackets were once CB_IL02 (docs/kintone.md 1.3); a plus is a space in forms only.
	if strings.ContainsAny(r.uri, "[]+") {
		t.Errorf("the URL has brackets or pluses as they are: %s", r.uri)
	}
}

// A URL that is too long is refused; the remedy is POST with X-HTTP-Method-Override (docs/kintone.md 1.1).
func TestRecordsByIDOverridesLongURLs(t *testing.T) {
	for _, c := range []struct {
		ids      []int64
		override bool
	}{
		{manyIDs(1, 100), false},
		{manyIDs(1_000_000_000, 500), true},
	} {
		s := newSite(t, answers(200, `{"records":[]}`))
		got, err := s.RecordsByID(t.Context(), App{ID: 5, GuestSpace: 3}, someFields, c.ids)
		if err != nil || len(got) != 0 {
			t.Errorf("RecordsByID returned %v, %v", got, err)
		}
		r := s.only(t)
		if !c.override {
			if r.method != "GET" || r.body != "" || r.header.Get("X-HTTP-Method-Override") != "" {
				t.Errorf("%d ids went as %s with body %q", len(c.ids), r.method, r.body)
			}
			continue
		}
		if r.method != "POST" || r.uri != "/k/guest/3/v1/records.json" || r.header.Get("X-HTTP-Method-Override") != "GET" ||
			r.header.Get("Content-Type") != "application/json" {
			t.Errorf("%d ids went as %s %.60s with %v", len(c.ids), r.method, r.uri, r.header)
		}
		var body struct {
			App    int64
			Query  string
			Fields []string
		}
		if err := json.Unmarshal([]byte(r.body), &body); err != nil {
			t.Fatal(err)
		}
		if body.App != 5 || !strings.HasPrefix(body.Query, "$id in (1000000000,1000000001,") ||
			!strings.HasSuffix(body.Query, ",1000000499) limit 500") || !reflect.DeepEqual(body.Fields, someFields.wanted()) {
			t.Errorf("the body is %.100s… with fields %v", r.body, body.Fields)
		}
	}
}

// The longest GET has a URL of 4,096 bytes; one byte more and it is a POST.
func TestOverrideBeginsAt4097Bytes(t *testing.T) {
	c := newTestClient(t, Config{BaseURL: "https://sample.cybozu.com", Credentials: Credentials{Tokens: []Secret{"t"}}})
	rest := len("https://sample.cybozu.com/k/v1/records.json?query=")
	for length, want := range map[int]string{4096: "GET", 4097: "POST"} {
		req, err := c.httpRequest(App{ID: 5}, request{
			method: "GET",
			api:    "records.json",
			query:  url.Values{"query": {strings.Repeat("x", length-rest)}},
			body:   struct{}{},
		})
		if err != nil {
			t.Fatal(err)
		}
		if req.Method != want {
			t.Errorf("a URL of %d bytes makes a %s, want %s", length, req.Method, want)
		}
		if n := len(req.URL.String()); want == "GET" && n != length {
			t.Errorf("the URL has %d bytes, want %d", n, length)
		}
	}
}

// A read by override is still a read: it can have done nothing.
func TestOverriddenReadNeverActs(t *testing.T) {
	s := newSite(t, answers(502, "<html></html>"))
	_, err := s.RecordsByID(t.Context(), App{ID: 5}, someFields, manyIDs(1_000_000_000, 500))
	if e := failure(t, err); e.MayHaveActed || e.Op != "GET records.json" || s.only(t).method != "POST" {
		t.Errorf("a read by POST gave %v (MayHaveActed %v)", e, e.MayHaveActed)
	}
}

// While process management is off, records have no status and the form still lists the field (docs/kintone.md 3).
func TestRecordsByIDWithoutProcessManagement(t *testing.T) {
	s := newSite(t, answers(200, `{"records":[{"$id":{"value":"1"},"$revision":{"value":"2"},"更新者":{"value":{"code":"sato"}}}]}`))
	off := someFields
	off.Enabled = false
	got, err := s.RecordsByID(t.Context(), App{ID: 5}, off, []int64{1})
	if want := []Record{{ID: 1, Revision: 2, Modifier: "sato"}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("RecordsByID returned %+v, %v; want %+v", got, err, want)
	}
	if uri := s.only(t).uri; strings.Contains(uri, url.QueryEscape("ステータス")) || strings.Contains(uri, url.QueryEscape("作業者")) {
		t.Errorf("the status was asked for: %s", uri)
	}
}

func TestRecordsByIDDoubtsAnAnswerThatDoesNotFit(t *testing.T) {
	for name, answer := range map[string]string{
		"a stranger":     `{"records":[{"$id":{"value":"7"},"$revision":{"value":"2"}}]}`,
		"a record twice": `{"records":[{"$id":{"value":"1"},"$revision":{"value":"2"}},{"$id":{"value":"1"},"$revision":{"value":"2"}}]}`,
		"no id":          `{"records":[{"$revision":{"value":"2"}}]}`,
		"no revision":    `{"records":[{"$id":{"value":"1"}}]}`,
		"odd status":     `{"records":[{"$id":{"value":"1"},"$revision":{"value":"2"},"ステータス":{"value":7}}]}`,
		"odd assignee":   `{"records":[{"$id":{"value":"1"},"$revision":{"value":"2"},"作業者":{"value":"sato"}}]}`,
		"no records":     `{}`,
		"HTML":           `<html></html>`,
	} {
		s := newSite(t, answers(200, answer))
		got, err := s.RecordsByID(t.Context(), App{ID: 5}, someFields, []int64{1, 2})
		if e := failure(t, err); got != nil || e.Status != 200 || e.Code != "" || e.MayHaveActed || e.NotSent {
			t.Errorf("%s: %v, %v; want no records and an error", name, got, e)
		}
	}
}

// No answer may make a decoder panic or accept what was not asked for.
func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{
		`{"records":[{"id":"1","revision":"3"},{"id":"2","revision":"9"}]}`,
		`{"records":[{"$id":{"value":"1"},"$revision":{"value":"2"},"ステータス":{"value":"x"},"作業者":{"value":[{"code":"a"}]},"更新者":{"value":{"code":"b"}}}]}`,
		`{"records":[{"$id":{"value":null},"$revision":{},"ステータス":null}]}`,
		`{"properties":{"Status":{"type":"STATUS","enabled":true}}}`,
		processAnswer, appAnswer, `null`, `[]`, `<html>`, ``,
	} {
		f.Add([]byte(seed))
	}
	changes, ids := changesOf(1, 2), []int64{1, 2}
	f.Fuzz(func(t *testing.T, body []byte) {
		if revisions, err := decodeRevisions(body, changes); err == nil {
			for i, r := range revisions {
				if len(revisions) != 2 || r.Record != changes[i].Record || r.Revision < 1 {
					t.Errorf("%s was taken as %+v", body, revisions)
				}
			}
		}
		if records, err := decodeRecords(body, someFields, ids); err == nil {
			for i, r := range records {
				if r.ID < 1 || r.ID > 2 || r.Revision < 1 || i > 0 && records[i-1].ID >= r.ID {
					t.Errorf("%s was taken as %+v", body, records)
				}
			}
		}
		if fields, err := decodeFields(body); err == nil && fields.Status != "" && fields.Types[fields.Status] != "STATUS" {
			t.Errorf("%s was taken as %+v", body, fields)
		}
		if p, err := decodeProcess(body); err == nil {
			for name, s := range p.States {
				if s.Name != name {
					t.Errorf("status %q is filed as %q", s.Name, name)
				}
			}
			for _, a := range p.Actions {
				if a.Type == "" {
					t.Errorf("action %q has no type", a.Name)
				}
			}
		}
	})
}

func sameJSON(t *testing.T, got, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatalf("not JSON: %q", got)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("the body is %s, want %s", got, want)
	}
}
