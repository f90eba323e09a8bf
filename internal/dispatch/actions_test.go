package dispatch

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// TestWhoMayActAndWithWhom is the table of what kintone knows about actions and assignees (docs/kintone.md 3): how each
// case ends, and that it ends so before anything is sent where that can be known.
func TestWhoMayActAndWithWhom(t *testing.T) {
	user := simulator.User
	process := func() simulator.Process {
		p := simulator.Workflow()
		p.States = append(p.States,
			simulator.State{Name: "One", AssigneeType: simulator.One, Entities: []simulator.Entity{user("sato"), user("suzuki")}},
			simulator.State{Name: "Any", AssigneeType: simulator.Any, Entities: []simulator.Entity{user("sato"), user(simulator.Administrator)}},
			simulator.State{Name: "All", AssigneeType: simulator.All, Entities: []simulator.Entity{user("sato"), user(simulator.Administrator)}},
		)
		p.Actions = append(p.Actions,
			simulator.Action{Name: "To one", From: "Not started", To: "One"},
			simulator.Action{Name: "To any", From: "Not started", To: "Any"},
			simulator.Action{Name: "To all", From: "Not started", To: "All"},
			simulator.Action{Name: "Agree", From: "All", To: "Completed"},
			simulator.Action{Name: "Take", From: "Any", To: "Completed"},
			simulator.Action{Name: "Done", From: "One", To: "Completed"},
			simulator.Action{Name: "Help", From: "One", To: "Completed", Secondary: true},
			simulator.Action{Name: "Help us", From: "One", To: "Completed", Secondary: true, Executable: []simulator.Entity{user("suzuki")}},
			simulator.Action{Name: "Help me", From: "One", To: "Completed", Secondary: true, Executable: []simulator.Entity{user(simulator.Administrator)}},
			simulator.Action{Name: "Large", From: "Not started", To: "Completed", FilterCond: `amount > 100`},
			simulator.Action{Name: "Twin", From: "Not started", To: "Completed"},
			simulator.Action{Name: "Twin", From: "Not started", To: "In progress"},
		)
		return p
	}
	in := func(status string, assignees ...string) func(*simulator.RecordState) {
		return func(r *simulator.RecordState) { r.Status, r.Assignees = status, assignees }
	}
	tests := []struct {
		name     string
		record   func(*simulator.RecordState)
		action   string
		assignee string
		outcome  queue.Outcome
		reason   string
		calls    int // status calls
	}{
		{"ONE needs an assignee", nil, "To one", "", queue.Dead, ReasonAssigneeRequired, 0},
		{"ONE with one of its list", nil, "To one", "sato", queue.Applied, "", 1},
		{"ONE with a user that is not there", nil, "To one", "nobody", queue.Dead, ReasonAssigneeUnknown, 1},
		{"ONE with a user outside its list", nil, "To one", "tanaka", queue.Dead, ReasonAssigneeRequired, 1},
		{"ANY takes no assignee", nil, "To any", "sato", queue.Dead, ReasonAssigneeSuperfluous, 0},
		{"ANY without", nil, "To any", "", queue.Applied, "", 1},
		{"ALL takes no assignee", nil, "To all", "sato", queue.Dead, ReasonAssigneeSuperfluous, 0},
		{"ALL without", nil, "To all", "", queue.Applied, "", 1},
		{"ANY: one of the list acts", in("Any", "sato", simulator.Administrator), "Take", "", queue.Applied, "", 1},
		{"ALL: acted, and the record stays", in("All", "sato", simulator.Administrator), "Agree", "", queue.Applied, ReasonActedNotMoved, 1},
		{"ALL: the last one moves it", in("All", simulator.Administrator), "Agree", "", queue.Applied, "", 1},
		{"ALL: somebody else's turn", in("All", "sato"), "Agree", "", queue.Dead, ReasonNotAssignee, 0},
		{"a token acts as Administrator", in("One", "sato"), "Done", "", queue.Dead, ReasonNotAssignee, 0},
		{"and may if that is the assignee", in("One", simulator.Administrator), "Done", "", queue.Applied, "", 1},
		{"SECONDARY for everybody", in("One", "sato"), "Help", "", queue.Applied, "", 1},
		{"SECONDARY for others", in("One", "sato"), "Help us", "", queue.Dead, ReasonNotExecutable, 0},
		{"SECONDARY for us", in("One", "sato"), "Help me", "", queue.Applied, "", 1},
		{"a condition that is met", func(r *simulator.RecordState) { r.Fields = map[string]string{"amount": "101"} }, "Large", "", queue.Applied, "", 1},
		{"a condition that is not", func(r *simulator.RecordState) { r.Fields = map[string]string{"amount": "99"} }, "Large", "", queue.Dead, ReasonConditionUnmet, 0},
		{"two actions of one name", nil, "Twin", "", queue.Dead, ReasonActionAmbiguous, 0},
		{"no such action in this language", nil, "着手", "", queue.Dead, ReasonActionUnknown, 0},
		{"an action of another status", nil, "Agree", "", queue.Dead, ReasonStatusMismatch, 0},
		{"there already", in("Completed"), "Agree", "", queue.Already, "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			app := simulator.App{
				ID: testApp, Name: "Orders", Records: 3, Tokens: []simulator.Token{simulator.ViewToken(testToken)},
				Fields: []simulator.Field{{Code: "amount", Type: "NUMBER"}},
			}
			inWorldOf(t, app, func(w *world) {
				w.sim.AddUser("tanaka", "pw")
				if err := w.sim.SetProcess(testApp, process()); err != nil {
					t.Fatal(err)
				}
				if tt.record != nil {
					if err := w.sim.Put(testApp, 1, tt.record); err != nil {
						t.Fatal(err)
					}
				}
				j := job(1, tt.action)
				j.Assignee = tt.assignee
				w.publish(j)
				wk := w.start("one")
				got := w.settle(1, 2*time.Hour)["j1"]
				w.end(wk)
				if got.Outcome != tt.outcome || got.Reason != tt.reason {
					t.Errorf("ended %s %s (%s), want %s %s", got.Outcome, got.Reason, got.Message, tt.outcome, tt.reason)
				}
				if tt.outcome == queue.Dead && got.Message == "" {
					t.Error("dead without a word")
				}
				calls := w.sim.Requests().Kinds["PUT records/status.json"]
				if calls < tt.calls || tt.calls == 0 && calls > 0 || calls > 4*tt.calls {
					t.Errorf("%d status calls, want about %d", calls, tt.calls)
				}
				if acts := len(w.sim.Commits()); (acts == 1) != (tt.outcome == queue.Applied) {
					t.Errorf("%d commits of a job that ended %s", acts, got.Outcome)
				}
			})
		})
	}
}

// Which of a hundred records satisfy a condition is one question, and who does not costs nobody else anything.
func TestConditionsAreAskedForAllAtOnce(t *testing.T) {
	p := simulator.Workflow()
	p.Actions = append(p.Actions, simulator.Action{Name: "Large", From: "Not started", To: "Completed", FilterCond: `amount > 100 or amount < 3`})
	app := simulator.App{
		ID: testApp, Name: "Orders", Records: 1000, Process: p, Tokens: []simulator.Token{simulator.ViewToken(testToken)},
		Fields: []simulator.Field{{Code: "amount", Type: "NUMBER", Default: func(r int64) string { return fmt.Sprint(r) }}},
	}
	inWorldOf(t, app, func(w *world) {
		w.apps[testApp] = AppConfig{DailyRequests: -1, Attempts: 1}
		js := jobs(1000, "Large")
		w.publish(js...)
		wk := w.start("one")
		got := w.settle(1000, time.Hour)
		w.end(wk)
		if n := count(got); n[queue.Applied] != 902 || n[queue.Dead] != 98 {
			t.Errorf("outcomes %v, want 902 applied and 98 dead", n)
		}
		if r := got["j50"]; r.Reason != ReasonConditionUnmet || !strings.Contains(r.Message, "amount > 100") {
			t.Errorf("a small one ended %+v", r)
		}
		c := w.sim.Requests()
		if c.Kinds["PUT records/status.json"] > 11 || c.Total > 11+2+2+3+2 {
			t.Errorf("%d requests, %v: want 10 calls, 2 reads, 2 questions for the condition and 3 to begin", c.Total, c.Kinds)
		}
	})
}

// Somebody renames an action while the worker runs: the settings are read again when kintone refuses what they allow.
func TestSettingsAreReadAgainWhenARefusalContradictsThem(t *testing.T) {
	inWorld(t, 300, func(w *world) {
		w.publish(jobs(100, "Start")...)
		wk := w.start("one")
		w.settle(100, time.Minute)
		p := simulator.Workflow()
		p.Actions[0] = simulator.Action{Name: "Begin", From: "Not started", To: "In progress"}
		if err := w.sim.SetProcess(testApp, p); err != nil {
			t.Fatal(err)
		}
		var js []queue.Job
		for r := int64(101); r <= 200; r++ {
			js = append(js, job(r, "Start"))
		}
		w.publish(js...)
		w.settle(200, 2*time.Hour)
		w.publish(job(201, "Begin"))
		got := w.settle(201, 2*time.Hour)
		w.end(wk)
		if n := count(got); n[queue.Applied] != 101 || got["j201"].Outcome != queue.Applied || got["j150"].Reason != ReasonActionUnknown {
			t.Errorf("outcomes %v, j150 %+v", n, got["j150"])
		}
		if calls := w.sim.Requests().Kinds["PUT records/status.json"]; calls > 6 {
			t.Errorf("%d status calls: nobody should have been sent one by one", calls)
		}
	})
}

// Who names an action in another language than the worker's is told what it is called there, and reads the names once.
func TestAnActionInAnotherLanguageIsNamed(t *testing.T) {
	app := simulator.App{ID: testApp, Name: "Orders", Records: 50, Process: simulator.Workflow(), Tokens: []simulator.Token{simulator.ViewToken(testToken)}}
	app.Process.Translations = map[string]map[string]string{"en": {"Start": "Begin"}, "ja": {"Start": "着手"}}
	inWorldOf(t, app, func(w *world) {
		js := jobs(40, "着手")
		w.publish(js...)
		wk := w.start("one")
		got := w.settle(40, time.Hour)["j7"]
		w.publish(func() queue.Job { j := job(45, "Begin"); j.ID = "late"; return j }())
		late := w.settle(41, time.Hour)["late"]
		w.end(wk)
		for _, r := range []queue.Result{got, late} {
			if r.Reason != ReasonActionUnknown || !strings.Contains(r.Message, `is what "Start" is called in another language`) {
				t.Errorf("ended %s %s: %s", r.Outcome, r.Reason, r.Message)
			}
		}
		if n := w.sim.Requests().Kinds["GET app/status.json"]; n > 1+3+1 {
			t.Errorf("the settings were read %d times", n)
		}
	})
}
