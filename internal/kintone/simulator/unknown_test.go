package simulator_test

import (
	"cmp"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/kintone/simulator"
)

// docs/kintone.md 7: what nobody knows can be turned one way and the other.

// An ALL action that does not move the record: by 1, by 2 (TestAllWaitsForTheLast) or not at all.
func TestPartialStepOfNone(t *testing.T) {
	k := managed(t, simulator.Config{PartialStep: simulator.NoStep}, simulator.App{Process: assigned()})
	wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"To all"}`))
	if a := putOne(t, k, `{"app":5,"id":1,"action":"Done"}`); a.Revision != "3" {
		t.Errorf("answer is %s, want the revision as it was", a.body)
	}
	wantRecord(t, k, 1, 3, "All", "sato")
}

// A record that is named twice: CB_VA01 (TestValidation), another code, or both actions in turn, all or nothing.
func TestRecordNamedTwice(t *testing.T) {
	twice := `{"app":5,"records":[{"id":1,"action":"Start"},{"id":2,"action":"Start"},{"id":1,"action":"Approve"}]}`
	k := managed(t, simulator.Config{NamedTwice: "GAIA_CO02"}, simulator.App{})
	wantRefusal(t, put(t, k, twice), 409, "GAIA_CO02")
	k = managed(t, simulator.Config{NamedTwice: "GAIA_XX09"}, simulator.App{})
	wantRefusal(t, put(t, k, twice), 400, "GAIA_XX09")
	wantUntouched(t, k)

	k = managed(t, simulator.Config{NamedTwice: simulator.InTurn}, simulator.App{})
	wantRefusal(t, put(t, k, `{"app":5,"records":[{"id":1,"action":"Start","revision":1},{"id":1,"action":"Approve","revision":1}]}`), 409, "GAIA_CO02")
	wantRefusal(t, put(t, k, `{"app":5,"records":[{"id":1,"action":"Start"},{"id":2,"action":"Start"},{"id":1,"action":"Start"}]}`), 400, "GAIA_IL03")
	wantRefusedCall(t, bulk(t, k, []string{act(2, "Start", ""), one("PUT", "records/status.json",
		`{"app":5,"records":[{"id":1,"action":"Start"},{"id":1,"action":"Start"}]}`)}), 400, "GAIA_IL03", 1, 2)
	wantUntouched(t, k)
	wantRecord(t, k, 1, 1, "Not started")
	wantRecord(t, k, 2, 1, "Not started")
	if got, want := ask(t, k, "GET", "/records?app=5", "", 200), `{"app":5,"statuses":{"Not started":10},"total":10}`+"\n"; got != want {
		t.Errorf("records are %s after calls that were taken back, want %s", got, want)
	}
	if a := put(t, k, twice); a.body != `{"records":[{"id":"1","revision":"3"},{"id":"2","revision":"3"},{"id":"1","revision":"5"}]}` {
		t.Errorf("answer is %d %s", a.status, a.body)
	}
	wantRecord(t, k, 1, 5, "Completed")
	wantRecord(t, k, 2, 3, "In progress")
	if n := k.CommitCount(); n != 3 {
		t.Errorf("%d actions happened, want 3", n)
	}
}

// Two actions of one name: GAIA_IL03 (TestTwoActionsOfOneNameAreRefused), or another code.
func TestCodeOfTwoActions(t *testing.T) {
	p := simulator.Workflow()
	p.Actions = append(p.Actions, simulator.Action{Name: "Start", From: "Not started", To: "Completed"})
	k := managed(t, simulator.Config{TwoActions: "GAIA_XX08"}, simulator.App{Process: p})
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Start"}`), 400, "GAIA_XX08")
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Nothing"}`), 400, "GAIA_IL03")
}

// While a deploy runs: a code that does not exist (TestDeploy), or another one.
func TestCodeWhileDeploying(t *testing.T) {
	k := managed(t, simulator.Config{WhileDeploying: "GAIA_DA02"}, simulator.App{})
	k.SetDeploy(time.Hour, simulator.Success)
	wantOK(t, deploy(t, k, `{"apps":[{"app":5}]}`))
	wantRefusal(t, get(t, k, "/k/v1/preview/app/status.json?app=5"), 400, "GAIA_DA02")
}

// A refused request counts for the day (TestDayCounterTurnsAtMidnightUTC), or does not.
func TestRefusedRequestsThatCostNothing(t *testing.T) {
	for free, want := range map[bool]int{false: 3, true: 1} {
		k := managed(t, simulator.Config{RefusedFree: free}, simulator.App{})
		wantOK(t, get(t, k, "/k/v1/app.json?id=5"))
		wantRefusal(t, get(t, k, "/k/v1/app.json?id=5", header("X-Cybozu-API-Token", "x")), 400, "GAIA_IA02")
		wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Nothing"}`), 400, "GAIA_IL03")
		if c := k.Requests(); c.Today[5] != want || c.Busiest[5] != want || c.Total != 3 {
			t.Errorf("with RefusedFree %v the counts are %+v, want %d", free, c, want)
		}
	}
}

// A record that is changed between the arrival of a request and its turn: GAIA_CO02, as when it was changed before, or
// GAIA_UN03 (TASKSYNC, AIRBYTE: to be loaded again, as somebody has changed it meanwhile), or GAIA_DA02 (GEMBA).
func TestRecordOvertaken(t *testing.T) {
	for code, status := range map[string]int{"": 409, "GAIA_UN03": 409, "GAIA_DA02": 400} {
		synctest.Test(t, func(t *testing.T) {
			k := managed(t, simulator.Config{Overtaken: code, Latency: time.Second}, simulator.App{})
			edit := time.AfterFunc(time.Millisecond, func() {
				if err := k.Edit(5, 2, "sato"); err != nil {
					t.Error(err)
				}
			})
			defer edit.Stop()
			want := cmp.Or(code, "GAIA_CO02")
			wantRefusal(t, put(t, k, members(1, 2)), status, want)
			edit.Reset(time.Millisecond)
			wantRefusal(t, putOne(t, k, `{"app":5,"id":2,"action":"Start","revision":"2"}`), status, want)
			edit.Reset(time.Millisecond)
			wantRefusedCall(t, bulk(t, k, []string{act(1, "Start", ""), act(2, "Start", `,"revision":3`)}), status, want, 1, 2)
			edit.Reset(time.Millisecond)
			wantRefusal(t, putOne(t, k, `{"app":5,"id":2,"action":"Start","revision":3}`), 409, "GAIA_CO02") // stale from the start
			edit.Reset(time.Millisecond)
			wantOK(t, putOne(t, k, `{"app":5,"id":2,"action":"Start"}`)) // not pinned
			wantRecord(t, k, 1, 1, "Not started")
		})
	}
}

// CLI, JS (docs/kintone.md 2.1): the HTTP statuses of codes have changed over the years, and those of CB_TW02 and GAIA_UN03
// are not known.
func TestStatusesOfCodes(t *testing.T) {
	k := managed(t, simulator.Config{Statuses: map[string]int{"CB_TW02": 403, "GAIA_CO02": 520, "GAIA_TO04": 503}}, simulator.App{})
	if err := k.SetSecondFactor("sato"); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, get(t, k, "/k/v1/app.json?id=5", as("sato", "sato")), 403, "CB_TW02")
	wantRefusal(t, get(t, k, "/k/v1/app.json?id=5", as("mori", "x")), 401, "CB_WA01")
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Start","revision":2}`), 520, "GAIA_CO02")
	wantRefusedCall(t, bulk(t, k, []string{act(1, "Start", `,"revision":2`)}), 520, "GAIA_CO02", 0, 1)
	k.SetFault(func(simulator.Request) simulator.Fault { return simulator.Fault{Kind: simulator.TooManyRequests} })
	wantRefusal(t, get(t, k, "/k/v1/app.json?id=5"), 503, "GAIA_TO04")
}

// Every answer has a Date, of a clock that may be wrong.
func TestClockSkew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, skew := range []time.Duration{0, 90 * time.Second, -time.Hour} {
			k := managed(t, simulator.Config{ClockSkew: skew}, simulator.App{})
			for name, a := range map[string]reply{
				"an answer": get(t, k, "/k/v1/app.json?id=5"), "a refusal": get(t, k, "/k/v1/app.json?id=6"), "a page": get(t, k, "/k/v1/nothing.json"),
			} {
				at, err := http.ParseTime(a.header.Get("Date"))
				if err != nil || !at.Equal(time.Now().Add(skew)) {
					t.Errorf("%s is dated %v (%v), want %v from now", name, at, err, skew)
				}
			}
		}
	})
}
