package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"

	"statusq/internal/dispatch"
	"statusq/internal/kintone"
	"statusq/internal/kintone/simulator"
)

// checked is what a check has said.
type checked struct {
	output
	rows    []checkRow
	actions []actionRow
}

func (c checked) row(t *testing.T, what string) checkRow {
	t.Helper()
	i := slices.IndexFunc(c.rows, func(r checkRow) bool { return r.What == what })
	if i < 0 {
		t.Fatalf("there is no finding on %s:\n%s", what, c.out)
	}
	return c.rows[i]
}

// readChecked takes the JSON lines of a check apart.
func readChecked(t *testing.T, o output) checked {
	t.Helper()
	c := checked{output: o}
	for line := range strings.Lines(o.out) {
		var kind head
		if err := json.Unmarshal([]byte(line), &kind); err != nil {
			t.Fatalf("check prints %q: %v", line, err)
		}
		switch kind.Type {
		case "check":
			var r checkRow
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			c.rows = append(c.rows, r)
		case "action":
			var a actionRow
			if err := json.Unmarshal([]byte(line), &a); err != nil {
				t.Fatal(err)
			}
			c.actions = append(c.actions, a)
		default:
			t.Errorf("check prints a %s", kind.Type)
		}
	}
	return c
}

type head struct {
	Type string `json:"type"`
}

// check runs a check of a simulated kintone with a configuration of one site; no NATS runs.
func check(t *testing.T, k *simulator.Kintone, site string, secrets map[string]string, args ...string) output {
	t.Helper()
	s := httptest.NewServer(k)
	t.Cleanup(s.Close)
	environ(t)
	dir := t.TempDir()
	for name, secret := range secrets {
		write(t, dir, name, secret)
	}
	conf := write(t, dir, "statusq.yaml", fmt.Sprintf("sites:\n  main:\n    baseUrl: %s\n%s", s.URL, site))
	var out, errs bytes.Buffer
	code := run(t.Context(), append([]string{"check", "--config", conf, "--store-dir", filepath.Join(dir, "none")}, args...), &out, &errs)
	return output{code, out.String(), errs.String()}
}

func TestActionsFor(t *testing.T) {
	user := func(code string) kintone.Entity { return kintone.Entity{Type: kintone.EntityUser, Code: code} }
	group := kintone.Entity{Type: kintone.EntityGroup, Code: "managers"}
	p := &kintone.Process{Enabled: true,
		States: map[string]kintone.State{
			"open":   {Name: "open", Index: 0, Assignee: kintone.AssigneeRule{Type: kintone.AssigneeOne}},
			"chosen": {Name: "chosen", Index: 1, Assignee: kintone.AssigneeRule{Type: kintone.AssigneeOne, Entities: []kintone.Entity{user("us"), group}}},
			"any":    {Name: "any", Index: 2, Assignee: kintone.AssigneeRule{Type: kintone.AssigneeAny, Entities: []kintone.Entity{user("us"), user("sato")}}},
			"all":    {Name: "all", Index: 3, Assignee: kintone.AssigneeRule{Type: kintone.AssigneeAll, Entities: []kintone.Entity{user("us"), user("sato")}}},
			"others": {Name: "others", Index: 4, Assignee: kintone.AssigneeRule{Type: kintone.AssigneeAny, Entities: []kintone.Entity{user("sato")}}},
			"group":  {Name: "group", Index: 5, Assignee: kintone.AssigneeRule{Type: kintone.AssigneeAny, Entities: []kintone.Entity{group}}},
		}}
	secondary := func(from, name string, who ...kintone.Entity) {
		p.Actions = append(p.Actions, kintone.Action{Name: name, From: from, To: "open", Type: kintone.ActionSecondary, Executable: who})
	}
	primary := func(from, name, to, cond string) {
		p.Actions = append(p.Actions, kintone.Action{Name: name, From: from, To: to, Type: kintone.ActionPrimary, FilterCond: cond})
	}
	primary("others", "theirs", "open", "")
	primary("open", "go", "open", "")
	primary("open", "choose", "chosen", "")
	primary("open", "if", "open", `amount > "1"`)
	primary("open", "twin", "open", "")
	primary("open", "twin", "any", "")
	primary("chosen", "approve", "open", "")
	primary("any", "take", "open", "")
	primary("all", "agree", "open", "")
	primary("group", "lead", "open", "")
	secondary("others", "for all")
	secondary("others", "for us", user("us"))
	secondary("others", "for sato", user("sato"))
	secondary("others", "for managers", group)

	got := make(map[string]string)
	var order []string
	for _, a := range actionsFor(p, "us") {
		line := fmt.Sprintf("%s: %s", a.MayAct, a.Why)
		if len(a.Assignee) > 0 {
			line += " <- " + strings.Join(a.Assignee, ", ")
		}
		got[a.Action] = line
		order = append(order, a.From)
	}
	want := map[string]string{
		"go":           "yes: nobody is assignee",
		"choose":       "yes: nobody is assignee <- us, group managers",
		"if":           `depends: nobody is assignee; where amount > "1"`,
		"twin":         "no: two actions of this name leave the status, and kintone refuses to choose",
		"approve":      "depends: where us was chosen as assignee",
		"take":         "yes: us is one of them",
		"agree":        "yes: the record moves with the last of its assignees",
		"theirs":       "no: us is not among its assignees",
		"lead":         "depends: where us belongs to group managers",
		"for all":      "yes: for everybody who may view the record",
		"for us":       "yes: us is one of them",
		"for sato":     "no: us is not among those who can run it",
		"for managers": "depends: where us belongs to group managers",
	}
	for name, line := range want {
		if got[name] != line {
			t.Errorf("%s: %q\nwant %q", name, got[name], line)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d actions, want %d", len(got), len(want))
	}
	if want := []string{"open", "chosen", "any", "all", "others", "group"}; !slices.Equal(slices.Compact(order), want) {
		t.Errorf("the statuses come as %q, want their order, %q", slices.Compact(order), want)
	}
}

func TestBudgetsAreTold(t *testing.T) {
	for name, c := range map[string]struct {
		cfg   dispatch.AppConfig
		spent map[int64]int
		ok    bool
		says  string
		row   *budgetRow
	}{
		"some left": {dispatch.AppConfig{DailyRequests: 100}, map[int64]int{5: 30}, true,
			"60 of 100 requests left for jobs today, 10 kept in reserve", &budgetRow{100, 30, 60, 10}},
		"nothing counted": {dispatch.AppConfig{}, map[int64]int{}, true,
			"9000 of 10000 requests left for jobs today, 1000 kept in reserve", &budgetRow{10000, 0, 9000, 1000}},
		"no queue": {dispatch.AppConfig{DailyRequests: 100}, nil, true,
			"100 requests a day, 10 kept in reserve for finding out what became of requests; without the queue it is not known", nil},
		"no limit": {dispatch.AppConfig{DailyRequests: -1}, map[int64]int{5: 30}, true, "no limit; 30 requests counted today", nil},
		"only the reserve": {dispatch.AppConfig{DailyRequests: 30}, map[int64]int{5: 27}, false,
			"0 of 30 requests left for jobs today, 3 kept in reserve", &budgetRow{30, 27, 0, 3}},
		"some of the reserve": {dispatch.AppConfig{DailyRequests: 30}, map[int64]int{5: 29}, false,
			"0 of 30 requests left for jobs today, 1 kept in reserve", &budgetRow{30, 29, 0, 1}},
		"spent": {dispatch.AppConfig{DailyRequests: 30}, map[int64]int{5: 30}, false,
			"0 of 30 requests left for jobs today, 0 kept in reserve", &budgetRow{30, 30, 0, 0}},
		"nothing is kept back": {dispatch.AppConfig{DailyRequests: 30, WhenSpent: kintone.SpentIgnored}, map[int64]int{5: 28}, true,
			"2 of 30 requests left for jobs today", &budgetRow{30, 28, 2, 0}},
		"spent, and it goes on": {dispatch.AppConfig{DailyRequests: 30, WhenSpent: kintone.SpentWarns}, map[int64]int{5: 31}, true,
			"31 requests counted today, of 30; the worker goes on (whenSpent: warn)", &budgetRow{30, 31, 0, 0}},
	} {
		x := &examination{spent: map[string]map[int64]int{"main": c.spent}}
		x.budget("main", 5, c.cfg)
		if r := x.rows[0]; r.OK != c.ok || !strings.Contains(r.Detail, c.says) {
			t.Errorf("%s: %v, %q; want %v, %q", name, r.OK, r.Detail, c.ok, c.says)
		}
		if r := x.rows[0]; (r.Budget == nil) != (c.row == nil) || r.Budget != nil && *r.Budget != *c.row {
			t.Errorf("%s: %+v, want %+v", name, r.Budget, c.row)
		}
	}
}

// The budget that a default says is dispatch's own.
func TestDefaultBudgetIsTheLanes(t *testing.T) {
	t.Parallel()
	p := newPlace(t, 3)
	p.conf = write(t, filepath.Dir(p.conf), "plain.yaml", fmt.Sprintf("sites: {main: {baseUrl: %q, tokenFile: token}}", p.url))
	w := p.start()
	if o := p.enqueue("send", "--file", p.file(3, "Start"), "--wait"); o.code != exitDone {
		t.Fatalf("send: %s%s", o.out, o.err)
	}
	counted := p.lane(5)
	if counted["budget"] != float64(defaultDailyRequests) {
		t.Errorf("the lane's budget is %v, check takes it for %d", counted["budget"], defaultDailyRequests)
	}
	spent := int(counted["requestsToday"].(float64))
	left, kept := counted["leftForJobs"], counted["keptInReserve"]
	if left != float64(defaultDailyRequests*9/10-spent) || kept != float64(defaultDailyRequests/10) {
		t.Errorf("the lane has %v left for jobs and keeps %v", left, kept)
	}
	want := fmt.Sprintf("%v of %d requests left for jobs today, %v kept in reserve for finding out what became of requests", left, defaultDailyRequests, kept)
	c := readChecked(t, p.worker("check", "--json", "--app", "5"))
	if got := c.row(t, "budget of app 5").Detail; got != want {
		t.Errorf("while the worker runs: %q, want %q", got, want)
	}
	if c.code != exitDone || c.row(t, "NATS").Detail != "reached" {
		t.Errorf("exit code %d, want 0: %s", c.code, c.out)
	}
	w.stop()
}

// Which token is at fault, kintone does not say: check finds out.
func TestCheckFindsTheTokenAtFault(t *testing.T) {
	k := simulator.New(simulator.Config{})
	for id, token := range map[int64]simulator.Token{
		5: simulator.ViewToken("five"), 6: simulator.ViewToken("six"), 7: {Value: "seven", View: true},
	} {
		k.AddApp(simulator.App{ID: id, Records: 1, Process: simulator.Workflow(), Tokens: []simulator.Token{token}})
	}
	c := readChecked(t, check(t, k, "    tokenFile: all\n    apps: {5: {}, 6: {}, 7: {}}\n", map[string]string{"all": "five,six,seven"}, "--json"))
	r := c.row(t, "tokens of main")
	if r.OK || r.Detail != "token 1 opens app 5; token 2 opens app 6; token 3 opens none of these apps" || !strings.Contains(r.Todo, "take it out") {
		t.Errorf("tokens: %+v", r)
	}
	if c.code != exitError {
		t.Errorf("exit code %d, want 1", c.code)
	}
	for _, token := range []string{"five", "six", "seven"} {
		if strings.Contains(c.out+c.err, token) {
			t.Errorf("the output holds the token %q", token)
		}
	}

	c = readChecked(t, check(t, k, "    tokenFile: two\n    apps: {5: {}, 6: {}, 7: {}}\n", map[string]string{"two": "five,six"}, "--json"))
	if r := c.row(t, "tokens of main"); !r.OK || r.Detail != "token 1 opens app 5; token 2 opens app 6" {
		t.Errorf("with good tokens and an app that has none: %+v", r)
	}
	if r := c.row(t, "app 7 of main"); r.OK || !strings.Contains(r.Detail, "GAIA_IA02") || !strings.Contains(r.Todo, "the token is of another app") {
		t.Errorf("app 7: %+v", r)
	}
}

func TestCheckTellsWhatIsWrongWithAnApp(t *testing.T) {
	for name, c := range map[string]struct {
		token simulator.Token
		app   func(*simulator.App)
		site  string
		says  string
		todo  string
	}{
		"no right to view":         {token: simulator.Token{Value: "token", Add: true, Manage: true, Activated: true}, says: "GAIA_NO01", todo: "may not view the app's records"},
		"a guest space":            {app: func(a *simulator.App) { a.GuestSpace = 3 }, says: "GAIA_IL23", todo: "guestSpace of the app"},
		"no guest space":           {site: "    guestSpace: 4\n", says: "CB_NO02", todo: "may not view"},
		"process management off":   {app: func(a *simulator.App) { a.Process.Enabled = false }, says: "process management is off", todo: "switch process management on"},
		"no token for another app": {site: "    apps: {5: {tokenFile: token}, 9: {}}\n", says: "no credentials", todo: "give the app a token"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.token.Value == "" {
				c.token = simulator.ViewToken("token")
			}
			app := simulator.App{ID: 5, Records: 1, Process: simulator.Workflow(), Tokens: []simulator.Token{c.token}}
			if c.app != nil {
				c.app(&app)
			}
			k := simulator.New(simulator.Config{})
			k.AddApp(app)
			if !strings.Contains(c.site, "tokenFile") {
				c.site += "    tokenFile: token\n"
			}
			got := readChecked(t, check(t, k, c.site, map[string]string{"token": "token"}, "--json", "--app", "5"))
			if got.code != exitError {
				t.Errorf("exit code %d, want 1", got.code)
			}
			i := slices.IndexFunc(got.rows, func(r checkRow) bool { return !r.OK && strings.HasPrefix(r.What, "app ") })
			if i < 0 || !strings.Contains(got.rows[i].Detail, c.says) || !strings.Contains(got.rows[i].Todo, c.todo) {
				t.Errorf("found\n%s\nwant %q, %q", got.out, c.says, c.todo)
			}
		})
	}
}

// Without an app there is nothing to ask kintone for: that is no good news, and is not told as such.
func TestCheckOfASiteWithoutApps(t *testing.T) {
	environ(t)
	conf := write(t, t.TempDir(), "statusq.yaml", "sites: {main: {baseUrl: https://sample.cybozu.com, tokenFile: token, proxy: 'http://gate.example.com:8080'}}")
	write(t, filepath.Dir(conf), "token", "token")
	run := func(args ...string) output {
		var out, errs bytes.Buffer
		code := run(t.Context(), append([]string{"check", "--config", conf, "--store-dir", filepath.Join(filepath.Dir(conf), "none")}, args...), &out, &errs)
		return output{code, out.String(), errs.String()}
	}
	c := readChecked(t, run("--json"))
	r := c.row(t, "site main")
	if r.OK || !r.Unasked || !strings.Contains(r.Detail, "kintone was not asked, as no app is configured") || !strings.Contains(r.Todo, "--app ID") {
		t.Errorf("the site: %+v", r)
	}
	if n := strings.Count(r.Detail, "gate.example.com"); n != 1 {
		t.Errorf("the proxy is named %d times: %s", n, r.Detail)
	}
	o := run()
	o.want(t, exitError, "│ ?   │ site main", "→ name an app to look at with --app ID", "1 of 2 findings are bad") // NATS is
}

// Where all else is well, what could not be asked keeps a check from ending well.
func TestCheckThatCouldNotAsk(t *testing.T) {
	t.Parallel()
	p := newPlace(t, 3)
	p.conf = write(t, filepath.Dir(p.conf), "plain.yaml", fmt.Sprintf("sites: {main: {baseUrl: %q, tokenFile: token}}", p.url))
	w := p.start()
	p.worker("check").want(t, exitError, "│ ?  │ site main", errUnasked.Error(), "!BAD")
	p.worker("check", "--app", "5").want(t, exitDone, "!not asked")
	w.stop()
}

func TestCheckComparesClocks(t *testing.T) {
	for skew, want := range map[time.Duration]struct {
		ok   bool
		says string
	}{
		0:                {true, "as kintone's"},
		30 * time.Second: {true, "behind kintone's"},
		-time.Hour:       {false, "ahead of kintone's"},
		2 * time.Minute:  {false, "behind kintone's"},
	} {
		k := simulator.New(simulator.Config{ClockSkew: skew})
		k.AddApp(simulator.App{ID: 5, Process: simulator.Workflow(), Tokens: []simulator.Token{simulator.ViewToken("token")}})
		c := readChecked(t, check(t, k, "    tokenFile: token\n", map[string]string{"token": "token"}, "--json", "--app", "5"))
		if r := c.row(t, "clock, at main"); r.OK != want.ok || !strings.Contains(r.Detail, want.says) {
			t.Errorf("kintone %v ahead: %v, %q; want %v, %q", skew, r.OK, r.Detail, want.ok, want.says)
		}
	}
}

// Lines of a table end below each other, also with names that are twice as wide on the screen.
func TestTablesAreStraight(t *testing.T) {
	process := approvals()
	process.States[1].Name = "承認待ち"
	for i := range process.Actions {
		if a := &process.Actions[i]; a.To == "Review" {
			a.To, a.Name = "承認待ち", "申請する"
		} else if a.From == "Review" {
			a.From = "承認待ち"
		}
	}
	k := simulator.New(simulator.Config{})
	k.AddUser("sato", "pw")
	k.AddUser("suzuki", "pw")
	k.AddApp(simulator.App{ID: 5, Name: "注文", Process: process, Tokens: []simulator.Token{simulator.ViewToken("token")},
		Fields: []simulator.Field{{Code: "amount", Type: "NUMBER"}}})
	o := check(t, k, "    tokenFile: token\n", map[string]string{"token": "token"}, "--app", "5", "--app", "6")
	o.want(t, exitError, "申請する", "承認待ち", "BAD", "→ ", "注文", "where Administrator was chosen as assignee", "findings are bad")
	for table := range strings.SplitSeq(strings.TrimSpace(o.out), "\n\n") {
		width := 0
		for line := range strings.Lines(table) {
			w := text.StringWidthWithoutEscSequences(strings.TrimRight(line, "\n"))
			if width == 0 {
				width = w
			}
			if w != width {
				t.Errorf("a line is %d wide, the first one %d:\n%s", w, width, o.out)
			}
		}
		if width > 160 {
			t.Errorf("a table is %d wide:\n%s", width, o.out)
		}
	}
}

func TestCheckOfAConfigurationWithMistakesNamesThemAll(t *testing.T) {
	environ(t)
	conf := write(t, t.TempDir(), "statusq.yaml", "sites:\n  main:\n    baseUrl: https://sample.cybozu.com\n    tokenFile: absent\n    apps:\n      5: {call: batch}\n      6: {inflight: 99}\n")
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"check", "--config", conf}, &out, &errs)
	output{code, out.String(), errs.String()}.want(t, exitUsage, "absent", `call: "batch" is none of bulk, single`, "inflight: 1 to 15", "[6:")
	if _, err := os.Stat(filepath.Join(filepath.Dir(conf), "none")); err == nil {
		t.Error("it made something")
	}
}
