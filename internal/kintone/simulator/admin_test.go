package simulator_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/kintone/simulator"
)

// ask calls the admin handler and checks the status of its answer.
func ask(t *testing.T, k *simulator.Kintone, method, target, body string, status int) string {
	t.Helper()
	w := httptest.NewRecorder()
	k.Admin().ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	if w.Code != status {
		t.Fatalf("%s %s %s is answered with %d %s, want %d", method, target, body, w.Code, w.Body, status)
	}
	return w.Body.String()
}

func TestAdminReads(t *testing.T) {
	k := newKintone(t, simulator.App{})
	wantOK(t, put(t, k, members(1, 3)))

	lines := strings.Split(strings.TrimSpace(ask(t, k, "GET", "/commits?since=1", "", 200)), "\n")
	var c simulator.Commit
	if err := json.Unmarshal([]byte(lines[0]), &c); err != nil || len(lines) != 2 || c.N != 2 || c.Record != 2 || c.After != 3 {
		t.Errorf("commits since 1 are %q (%v), want two lines from the second on", lines, err)
	}
	if got, want := ask(t, k, "GET", "/records?app=5", "", 200), `{"app":5,"statuses":{"In progress":3,"Not started":7},"total":10}`+"\n"; got != want {
		t.Errorf("records are %s, want %s", got, want)
	}
	if got, want := ask(t, k, "GET", "/records?app=5&status=Completed", "", 200), `{"app":5,"statuses":{"Completed":0},"total":10}`+"\n"; got != want {
		t.Errorf("completed records are %s, want %s", got, want)
	}
	if got := ask(t, k, "GET", "/record?app=5&id=2", "", 200); !strings.Contains(got, `"Revision":3,"Status":"In progress"`) {
		t.Errorf("record is %s", got)
	}
	if got := ask(t, k, "GET", "/requests", "", 200); !strings.Contains(got, `"Kinds":{"PUT records/status.json":1}`) {
		t.Errorf("requests are %s", got)
	}
	for target, status := range map[string]int{
		"/commits?since=x": 400, "/records?app=x": 400, "/records?app=6": 404, "/record?app=5&id=x": 400, "/record?app=5&id=99": 404, "/": 404,
	} {
		ask(t, k, "GET", target, "", status)
	}
}

func TestAdminWrites(t *testing.T) {
	k := newKintone(t, simulator.App{})
	ask(t, k, "POST", "/edit", `{"app":5,"record":1,"user":"sato"}`, 204)
	wantRecord(t, k, 1, 2, "Not started")
	ask(t, k, "POST", "/edit", `{"app":5,"record":99,"user":"sato"}`, 404)
	ask(t, k, "POST", "/edit", `{"application":5}`, 400)

	ask(t, k, "POST", "/secondfactor", `{"user":"sato"}`, 204)
	wantRefusal(t, get(t, k, "/k/v1/app.json?id=5", as("sato", "sato")), 401, "CB_TW02")
	ask(t, k, "POST", "/secondfactor", `{"user":"nobody"}`, 404)
	ask(t, k, "POST", "/secondfactor", `{"login":"sato"}`, 400)

	ask(t, k, "POST", "/faults", `{"kind":"badGateway","applied":true,"delay":"1h","method":"PUT","app":5,"count":1}`, 204)
	wantOK(t, get(t, k, "/k/v1/app.json?id=5"))
	if a := putOne(t, k, `{"app":5,"id":1,"action":"Start"}`); a.status != http.StatusBadGateway {
		t.Errorf("answer is %d, want 502", a.status)
	}
	wantUntouched(t, k)
	ask(t, k, "POST", "/flush", "", 204)
	wantRecord(t, k, 1, 4, "In progress")
	for _, body := range []string{
		`{"kind":"nothing"}`, `{"kind":"locked","applied":true}`, `{"kind":"hang","count":-1}`, `{"kind":"hang","for":"soon"}`, `{"kind":"hang","since":"1h"}`, ``,
	} {
		ask(t, k, "POST", "/faults", body, 400)
	}
}

// A fault ends after so many requests, after some time, or by DELETE.
func TestAdminFaultsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKintone(t, simulator.App{})
		want := func(status int) {
			t.Helper()
			if a := get(t, k, "/k/v1/app.json?id=5"); a.status != status {
				t.Errorf("answer is %d, want %d", a.status, status)
			}
		}
		ask(t, k, "POST", "/faults", `{"kind":"unavailable","count":2,"retryAfter":"2s"}`, 204)
		want(503)
		want(503)
		want(200)
		ask(t, k, "POST", "/faults", `{"kind":"status520","for":"10s"}`, 204)
		time.Sleep(10 * time.Second)
		want(520)
		time.Sleep(time.Nanosecond)
		want(200)
		ask(t, k, "POST", "/faults", `{"kind":"html200"}`, 204)
		if a := get(t, k, "/k/v1/app.json?id=5"); !strings.Contains(a.body, "<html>") {
			t.Errorf("answer is %s, want a page", a.body)
		}
		ask(t, k, "DELETE", "/faults", "", 204)
		if a := get(t, k, "/k/v1/app.json?id=5"); strings.Contains(a.body, "<html>") {
			t.Errorf("answer is %s after the fault was ended", a.body)
		}
	})
}
