package simulator_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"statusq/internal/kintone/simulator"
)

// token is the one of app 5 in these tests.
const token = "abc"

// reply is an answer, taken apart.
type reply struct {
	status  int
	header  http.Header
	body    string
	Code    string `json:"code"`
	ID      string `json:"id"`
	Message string `json:"message"`
	Errors  map[string]struct {
		Messages []string `json:"messages"`
	} `json:"errors"`
	Revision string `json:"revision"`
	Records  []struct {
		ID       string `json:"id"`
		Revision string `json:"revision"`
	} `json:"records"`
}

// newKintone returns a domain with the users sato and mori (password: their name) and one app, 5 unless it says
// otherwise, with the workflow and the token unless it brings its own.
func newKintone(t *testing.T, app simulator.App) *simulator.Kintone {
	t.Helper()
	k := simulator.New(simulator.Config{Seed: 1})
	k.AddUser("sato", "sato")
	k.AddUser("mori", "mori")
	if app.ID == 0 {
		app.ID = 5
	}
	if app.Tokens == nil {
		app.Tokens = []simulator.Token{simulator.ViewToken(token)}
	}
	if app.Process.States == nil {
		app.Process = simulator.Workflow()
	}
	if app.Records == 0 {
		app.Records = 10
	}
	k.AddApp(app)
	return k
}

// request makes a request by token; options change it.
func request(method, target, body string, options ...func(*http.Request)) *http.Request {
	r := httptest.NewRequest(method, "http://kintone.example"+target, strings.NewReader(body))
	r.Header.Set("X-Cybozu-API-Token", token)
	r.Header.Set("Accept-Language", "en")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, o := range options {
		o(r)
	}
	return r
}

// as logs a user in by password, beside the token.
func as(login, password string) func(*http.Request) {
	return header("X-Cybozu-Authorization", base64.StdEncoding.EncodeToString([]byte(login+":"+password)))
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) {
		if value == "" {
			r.Header.Del(name)
			return
		}
		r.Header.Set(name, value)
	}
}

func send(t *testing.T, k *simulator.Kintone, r *http.Request) reply {
	t.Helper()
	w := httptest.NewRecorder()
	k.ServeHTTP(w, r)
	a := reply{status: w.Code, header: w.Header(), body: w.Body.String()}
	if strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			// Answers of reads have another form of records; only errors and status answers are taken apart.
			if a.status != http.StatusOK || r.Method == http.MethodPut {
				t.Fatalf("answer %q is no JSON object: %v", a.body, err)
			}
		}
	}
	return a
}

func put(t *testing.T, k *simulator.Kintone, body string, options ...func(*http.Request)) reply {
	t.Helper()
	return send(t, k, request("PUT", "/k/v1/records/status.json", body, options...))
}

func putOne(t *testing.T, k *simulator.Kintone, body string, options ...func(*http.Request)) reply {
	t.Helper()
	return send(t, k, request("PUT", "/k/v1/record/status.json", body, options...))
}

func get(t *testing.T, k *simulator.Kintone, target string, options ...func(*http.Request)) reply {
	t.Helper()
	return send(t, k, request("GET", target, "", options...))
}

func wantOK(t *testing.T, a reply) {
	t.Helper()
	if a.status != http.StatusOK {
		t.Fatalf("answer is %d %s, want 200", a.status, a.body)
	}
}

func wantRefusal(t *testing.T, a reply, status int, code string) {
	t.Helper()
	if a.status != status || a.Code != code {
		t.Fatalf("answer is %d %s, want %d %s", a.status, a.body, status, code)
	}
}

func wantInvalid(t *testing.T, a reply, paths ...string) {
	t.Helper()
	wantRefusal(t, a, http.StatusBadRequest, "CB_VA01")
	for _, path := range paths {
		if len(a.Errors[path].Messages) == 0 {
			t.Errorf("errors of %s say nothing about %s", a.body, path)
		}
	}
	if len(a.Errors) != len(paths) {
		t.Errorf("errors of %s are about %d paths, want %q", a.body, len(a.Errors), paths)
	}
}

// wantRecord checks a record's revision, status and assignees.
func wantRecord(t *testing.T, k *simulator.Kintone, id, revision int64, status string, assignees ...string) {
	t.Helper()
	r, ok := k.Record(5, id)
	if !ok || r.Revision != revision || r.Status != status || !slices.Equal(r.Assignees, assignees) {
		t.Errorf("record %d is at revision %d in %q of %q (there: %v), want %d in %q of %q",
			id, r.Revision, r.Status, r.Assignees, ok, revision, status, assignees)
	}
}

// wantUntouched checks that no action happened.
func wantUntouched(t *testing.T, k *simulator.Kintone) {
	t.Helper()
	if n := k.CommitCount(); n != 0 {
		t.Errorf("%d actions happened, want none: %+v", n, k.Commits())
	}
}

func mustPut(t *testing.T, k *simulator.Kintone, id int64, change func(*simulator.RecordState)) {
	t.Helper()
	if err := k.Put(5, id, change); err != nil {
		t.Fatal(err)
	}
}

// members makes the body of a records/status call that starts n records.
func members(from, n int) string {
	b := new(strings.Builder)
	b.WriteString(`{"app":5,"records":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(b, `{"id":%d,"action":"Start","revision":1}`, from+i)
	}
	b.WriteString("]}")
	return b.String()
}
