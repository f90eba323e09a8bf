package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// sample is the body of kintone's own sample (SEED1), as it stands there: no JSON, with single quotes.
const sample = `{
  'app': '5',
  'enable': true,
  'states': {
    'Not started': {
      'name': 'Not started',
      'index': '0',
      'assignee': {
        'type': 'ONE',
        'entities': [
        ]
      }
    },
    'In progress': {
      'name': 'In progress',
      'index': '1',
      'assignee': {
        'type': 'ALL',
        'entities': [
          {
            'entity': {
              'type': 'USER',
              'code': 'user1'
            },
            'includeSubs': false
          },
          {
            'entity': {
              'type': 'FIELD_ENTITY',
              'code': 'Created_by'
            },
            'includeSubs': false
          }
        ]
      }
    },
    'Completed': {
      'name': 'Completed',
      'index': '2',
      'assignee': {
        'type': 'ONE',
        'entities': [
        ]
      }
    }
  },
  'actions': [
    {
      'name': 'Start',
      'from': 'Not started',
      'to': 'In progress',
      'filterCond': 'Record_number = "1"'
    },
    {
      'name': 'Complete',
      'from': 'In progress',
      'to': 'Completed',
      'filterCond': ''
    }
  ]
}
`

// manager is a worker that answers questions about settings as a real one does, and does what it is asked at once.
type manager struct {
	p      *place
	asked  []settingsQuestion
	diff   string // the rest of the answer to a comparison
	refuse string
	ends   queue.Change // what a change comes to
}

const liveSettings = `{"app":5,"enable":true,"states":{"未処理":{"name":"未処理","index":0,"assignee":{"type":"ONE","entities":[]}},"完了":{"name":"完了","index":1,"assignee":{"type":"ONE","entities":[]}}},
	"actions":[{"name":"承認","from":"未処理","to":"完了","filterCond":"金額 < \"1000\"","type":"PRIMARY"}],"revision":7}`

func (p *place) manager(t *testing.T) *manager {
	t.Helper()
	m := &manager{p: p, diff: `"changes":[]`, ends: queue.Change{Stage: queue.ChangeDone, Left: queue.LeftInForce}}
	claimed, _, err := p.q.ClaimChange(t.Context(), "main", 5, 7, "w1")
	if err != nil {
		t.Fatal(err)
	}
	answer := func(state, more string) ([]byte, error) {
		return fmt.Appendf(nil, `{"v":1,"app":5,"name":"受注","state":%q,"live":%s,"preview":%s,%s}`, state, liveSettings,
			strings.Replace(liveSettings, `"revision":7`, `"revision":8`, 1), more), nil
	}
	stop, err := p.q.Serve(t.Context(), "main", map[string]queue.Handler{
		"settings-get": func(context.Context, []byte) ([]byte, error) { return answer("shown", `"pending":true`) },
		"settings-diff": func(_ context.Context, question []byte) ([]byte, error) {
			m.note(question)
			return answer("shown", m.diff)
		},
		"settings-apply": func(ctx context.Context, question []byte) ([]byte, error) {
			ask := m.note(question)
			if m.refuse != "" {
				return answer("refused", fmt.Sprintf(`"text":%q`, m.refuse))
			}
			c := m.ends
			c.ID, c.By, c.Reason, c.At, c.Since = ask.ID, ask.By, ask.Reason, time.Now(), time.Now()
			if err := claimed.Write(ctx, c); err != nil {
				return nil, err
			}
			return answer("begun", `"pending":false`)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return m
}

func (m *manager) note(question []byte) settingsQuestion {
	var q settingsQuestion
	if json.Unmarshal(question, &q) == nil {
		m.asked = append(m.asked, q)
	}
	return q
}

// last is the last question.
func (m *manager) last() settingsQuestion { return m.asked[len(m.asked)-1] }

// What get writes is what apply reads, in both forms.
func TestSettingsGetWritesWhatApplyReads(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	p.manager(t)
	var want kintone.ProcessSettings
	if err := json.Unmarshal([]byte(liveSettings), &want); err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{"yaml", "json"} {
		o := enqueue(t, "settings", "get", "--app", "5", "-o", form)
		o.want(t, exitDone, []string{"未処理", `<`}, []string{"revision 8, in force is 7"})
		f, err := readSettingsFile(p.file(t, "s."+form, o.out), nil)
		if err != nil {
			t.Fatalf("%s: %v\n%s", form, err, o.out)
		}
		if !f.settings.Same(&want) || f.settings.App != 5 || f.settings.Revision != 7 {
			t.Errorf("%s: read %+v, want %+v", form, f.settings, want)
		}
	}
	enqueue(t, "settings", "get", "--app", "5", "--preview").want(t, exitDone, []string{"revision: 8"}, nil)
	line := enqueue(t, "settings", "get", "--app", "5", "--json").lines(t)[0]
	if line["type"] != "settings" || line["pending"] != true || line["settings"].(map[string]any)["enable"] != true {
		t.Errorf("printed %v", line)
	}
}

// Names that YAML could take for something else come back as they were.
func TestSettingsSurviveYAML(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	for _, name := range []string{"yes", "null", "1", "0x10", "1.5", "true", "~", "- a", "a: b", "# a", "'", `"`, "2026-01-01", "*a", "&a", "!a", "%a", "@a", "[a]", "{a}", "a\tb", " a ", "|", "承認\u3000済"} {
		on := true
		s := kintone.ProcessSettings{Enable: &on, Revision: kintone.Unchecked, States: map[string]kintone.StateSettings{name: {Name: name, HasIndex: true}},
			Actions: []kintone.ActionSettings{{Name: name, From: name, To: name, FilterCond: name}}}
		text, err := inYAML(&s)
		if name == "a\tb" {
			if err == nil {
				continue
			}
			if !strings.Contains(err.Error(), "-o json") {
				t.Errorf("%q: %v", name, err)
			}
			if text, err = inJSON(&s); err != nil {
				t.Fatal(err)
			}
		} else if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		f, err := readSettingsFile(p.file(t, "s.yaml", string(text)), nil)
		if err != nil || !f.settings.Same(&s) {
			t.Errorf("%q: %v\n%s", name, err, text)
		}
	}
}

func TestTheSampleOfKintoneIsAccepted(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	m := p.manager(t)
	enqueue(t, "settings", "diff", "--file", p.file(t, "body.js", sample)).want(t, exitDone, []string{"no difference"}, nil)
	var s kintone.ProcessSettings
	if err := json.Unmarshal(m.last().Want, &s); err != nil {
		t.Fatal(err)
	}
	if m.last().App != 5 || s.App != 0 || len(s.States) != 3 || s.States["In progress"].Index != 1 || len(s.States["In progress"].Assignee.Entities) != 2 ||
		len(s.Actions) != 2 || s.Actions[0].FilterCond != `Record_number = "1"` {
		t.Errorf("asked for app %d: %s", m.last().App, m.last().Want)
	}
	// JSON may be indented by tabs, and come by stdin.
	o := enqueueWith(t, t.Context(), "{\n\t\"enable\":\t\"false\",\n\t\"revision\": \"8\"\n}", "settings", "diff", "--app", "5", "--file", "-")
	o.want(t, exitDone, nil, nil)
	if q := m.last(); string(q.Want) != `{"enable":false,"revision":-1}` || q.Base != 8 {
		t.Errorf("asked %s at %d", q.Want, q.Base)
	}
}

// Whatever is wrong in a file is shown with its line and column, and nothing is asked of the worker.
func TestMistakesInSettingsAreShownWhereTheyStand(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	m := p.manager(t)
	for _, tt := range []struct{ name, text, say string }{
		{"a typo", "app: 5\nenabel: true\n", "[2:9] enabel: is not known here"},
		{"a number that is none", "app: 5\nstates:\n  A:\n    index: two\n", "[4:12] states.A.index"},
		{"two mistakes", "enable: maybe\nactions:\n- name: 7\n", "2 problems"},
		{"a name twice", "app: 5\nenable: true\nenable: false\n", "[3:1]"},
		{"no YAML", "app: 5\n  enable: [\n", "mapping value is not allowed"},
		{"two documents", "app: 5\n---\napp: 6\n", "2 settings are in it"},
		{"nothing", "# later\n", "0 settings are in it"},
		{"a list", "- app: 5\n", "1 problem"},
		{"JSON with a member twice", `{"app":5,"app":6}`, "1 problem"},
		{"no app", "enable: true\n", "--app is missing"},
	} {
		o := enqueue(t, "settings", "diff", "--file", p.file(t, "s.yaml", tt.text))
		if o.want(t, exitUsage, nil, []string{tt.say}); t.Failed() {
			t.Fatal(tt.name)
		}
	}
	enqueue(t, "settings", "diff", "--app", "5", "--file", filepath.Join(p.dir, "absent")).want(t, exitUsage, nil, []string{"no such file"})
	big := p.file(t, "big.yaml", "enable: true\n"+strings.Repeat("#", maxSettings))
	enqueue(t, "settings", "diff", "--app", "5", "--file", big).want(t, exitUsage, nil, []string{"larger than 256 KiB"})
	if len(m.asked) > 0 {
		t.Errorf("the worker was asked %+v", m.asked)
	}
	// What only the worker can know is shown in the file as well.
	m.diff = `"problems":[{"path":["actions","1","to"],"text":"there will be no status \"済\""}]`
	good := p.file(t, "s.yaml", "app: 5\nactions:\n- {name: a, from: b, to: c}\n- name: d\n  from: e\n  to: 済\n")
	enqueue(t, "settings", "apply", "--yes", "--file", good).want(t, exitUsage, nil, []string{"[6:7] actions.1.to: there will be no status", "  to: 済"})
	renames := p.file(t, "s.yaml", "app: 5\nstates: {済: {name: 終了}}\nactions:\n- {name: a, from: b, to: c}\n- name: d\n  from: e\n  to: 済\n")
	enqueue(t, "settings", "diff", "--file", renames).want(t, exitUsage, nil, []string{`[7:7] actions.1.to: there will be no status "済", as it is renamed to "終了": name it so in actions too`})
	if len(m.asked) != 2 {
		t.Errorf("it was applied nevertheless: %+v", m.asked)
	}
}

// everyChange is one change of each kind, as the worker tells them.
const everyChange = `"pending":true,"waiting":[{"what":"enable","after":true}],"changes":[
	{"what":"enable","before":true,"after":false},
	{"what":"state_added","name":"保留","after":2},
	{"what":"state_assignee","name":"保留","after":{"type":"ANY","entities":[{"entity":{"type":"ORGANIZATION","code":"sales"},"includeSubs":true}]}},
	{"what":"state_renamed","name":"未処理","before":"未処理","after":"未着手"},
	{"what":"state_moved","name":"完了","before":1,"after":3},
	{"what":"state_assignee","name":"完了","before":{"type":"ONE","entities":[]},"after":{"type":"ALL","entities":[{"entity":{"type":"USER","code":"sato"}},{"entity":{"type":"CREATOR"}}]}},
	{"what":"state_deleted","name":"古い","before":4},
	{"what":"action_added","name":"保留する","from":"未着手","to":"保留"},
	{"what":"action_changed","name":"承認","from":"a","to":"b","before":{"name":"承認","from":"a","to":"b","filterCond":"","type":"PRIMARY"},
	 "after":{"name":"承認","from":"a","to":"b","filterCond":"金額 > \"1\"","type":"SECONDARY","executableUser":{"entities":[{"entity":{"type":"GROUP","code":"g"}}]}}},
	{"what":"action_deleted","name":"却下","from":"a","to":"b"},
	{"what":"actions_order","before":["x","y"],"after":["y","x"]}],
	"standing":[{"status":"古い","records":12},{"status":"空","records":0},{"status":"謎","records":0,"text":"GAIA_NO01"}]`

func TestSettingsDiffInWords(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	p.manager(t).diff = everyChange
	file := p.file(t, "s.yaml", "app: 5\nenable: false\n")
	enqueue(t, "settings", "diff", "--file", file, "--lang", "en").want(t, exitDone, []string{
		"revision 8, in force is 7", "\n  process management is switched on\n", "is switched OFF", `+ status "保留", at place 3`, `~ status "保留", assignee: ANY [ORGANIZATION sales (and below)]`,
		`~ status "未処理" is renamed to "未着手"`, `~ status "完了" moves from place 2 to 4`, `~ status "完了", assignee: ONE nobody → ALL [USER sato, CREATOR]`, `- status "古い" is DELETED`,
		`+ action "保留する", from "未着手" to "保留"`, `~ action "承認": condition - → 金額 > "1"; type PRIMARY → SECONDARY; who may run it nobody → [GROUP g]`,
		`- action "却下"`, "x, y → y, x", `status "古い" vanishes; records in it: 12`, `no record stands in "空"`, "could not be counted: GAIA_NO01",
	}, nil)
	enqueue(t, "settings", "diff", "--file", file, "--lang", "ja").want(t, exitDone, []string{
		"未反映の変更", "プロセス管理を無効にします", "+ ステータス「保留」を追加（3番目）", "「未処理」の名前を「未着手」に変更", "「完了」を2番目から4番目に移動", "下位組織を含む",
		"- ステータス「古い」を削除", "+ アクション「保留する」を追加", "条件 - → 金額", "種別 PRIMARY → SECONDARY", "並び順: x, y → y, x", "「古い」に12件のレコード", "!%!", "!status",
	}, nil)
	line := enqueue(t, "settings", "diff", "--file", file, "--json").lines(t)[0]
	if line["type"] != "settings-diff" || len(line["changes"].([]any)) != 11 || len(line["words"].([]any)) != 11 || line["previewRevision"] != "8" {
		t.Errorf("printed %v", line)
	}
}

func TestSettingsApply(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	m := p.manager(t)
	m.diff = `"changes":[{"what":"enable","before":true,"after":false}]`
	file := p.file(t, "s.yaml", "app: 5\nenable: false\n")
	apply := func(more ...string) output {
		return enqueue(t, append([]string{"settings", "apply", "--file", file, "--by", "ito", "--lang", "en"}, more...)...)
	}
	apply().want(t, exitUsage, nil, []string{"--yes"})
	apply("--yes", "--within", "0s").want(t, exitUsage, nil, []string{"--within"})
	apply("--yes", "--within", "25h").want(t, exitUsage, nil, []string{"--within"})
	if len(m.asked) > 0 {
		t.Fatalf("the worker was asked %+v", m.asked)
	}
	enqueue(t, "settings", "status", "--app", "5", "--lang", "en").want(t, exitDone, []string{"has never changed"}, nil)

	apply("--yes", "--reason", "年度替わり").want(t, exitDone, []string{"switched OFF", "it is in force"}, nil)
	if q := m.last(); q.App != 5 || q.Base != 8 || !q.Deploy || q.Publish || q.By != "ito" || q.Reason != "年度替わり" || q.Wait != 10*time.Minute || q.ID == "" {
		t.Errorf("asked %+v", q)
	}
	enqueue(t, "settings", "status", "--app", "5", "--lang", "en").want(t, exitDone, []string{"ito: 年度替わり", "done", "it is in force"}, nil)
	line := enqueue(t, "settings", "status", "--app", "5", "--json").lines(t)[0]
	if line["stage"] != "done" || line["left"] != "in_force" || line["by"] != "ito" {
		t.Errorf("printed %v", line)
	}

	apply("--yes", "--no-deploy", "--revision=-1", "--within", "1h").want(t, exitDone, nil, nil)
	if q := m.last(); q.Deploy || q.Base != -1 || q.Wait != time.Hour {
		t.Errorf("asked %+v", q)
	}
	apply("--yes", "--publish-pending", "--revision", "3", "--json").want(t, exitDone, []string{`"stage":"done"`}, nil)
	if q := m.last(); !q.Publish || q.Base != 3 {
		t.Errorf("asked %+v", q)
	}

	for _, tt := range []struct {
		ends queue.Change
		code int
		say  string
	}{
		{queue.Change{Stage: queue.ChangeDone, Left: queue.LeftInForce, Why: "nothing_to_change"}, exitDone, ""},
		{queue.Change{Stage: queue.ChangeFailed, Left: queue.LeftAsItWas, Why: "stale_revision", Text: "GAIA_CO03"}, exitHeld, "somebody changed the app's settings since they were looked at: compare again; the app's process management is as it was (GAIA_CO03)"},
		{queue.Change{Stage: queue.ChangeFailed, Left: queue.LeftAsItWas, Why: "requests_out"}, exitHeld, "enqueue inflight"},
		{queue.Change{Stage: queue.ChangeFailed, Left: queue.LeftAsItWas, Why: "deploy_failed"}, exitError, "could not deploy it"},
		{queue.Change{Stage: queue.ChangeFailed, Left: queue.LeftDeploying, Why: "timeout"}, exitUnknown, "still deploying"},
		{queue.Change{Stage: queue.ChangeFailed, Left: queue.LeftUnknown, Why: "timeout"}, exitUnknown, "is not known"},
	} {
		m.ends = tt.ends
		apply("--yes").want(t, tt.code, nil, []string{tt.say})
	}
	m.ends = queue.Change{Stage: queue.ChangeDeploying}
	apply("--yes", "--timeout", "1s").want(t, exitTimeout, nil, []string{"deploying", "it goes on without us"})
	m.refuse = "another change is under way"
	apply("--yes").want(t, exitHeld, nil, []string{"another change is under way; nothing was changed"})
}

// A file that renames can be applied once: then its keys are names that are gone. What a comparison would say of that, a
// status deleted and one added, is not what anybody meant.
func TestARenameThatHasHappenedIsSaidToHave(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	m := p.manager(t)
	m.diff = `"changes":[{"what":"state_deleted","name":"完了","before":1}]`
	states := func(list string) string { return p.file(t, "s.yaml", "app: 5\nstates:\n"+list) }
	again := states("  未処理: {index: 0}\n  済み:\n    name: 完了\n    index: 1\n")
	for _, args := range [][]string{{"diff"}, {"apply", "--yes"}} {
		enqueue(t, append(append([]string{"settings"}, args...), "--file", again)...).want(t, exitUsage, []string{"!DELETED"},
			[]string{"1 problem, nothing was changed", "[5:11] states.済み.name: it has been renamed already", `there is no status "済み" any more, and there is "完了"`, `list it as "完了", in place of "済み"`})
	}
	if len(m.asked) != 2 {
		t.Errorf("it was applied nevertheless: %+v", m.asked)
	}
	for name, list := range map[string]string{
		"a rename that is to come":  "  未処理: {name: 未着手, index: 0}\n  完了: {index: 1}\n",
		"names that change places":  "  未処理: {name: 完了, index: 0}\n  完了: {name: 未処理, index: 1}\n",
		"its own name":              "  未処理: {name: 未処理, index: 0}\n  完了: {index: 1}\n",
		"a new one":                 "  未処理: {index: 0}\n  完了: {index: 1}\n  保留: {name: 保留, index: 2}\n",
		"a mistake of another sort": "  未処理: {index: 0}\n  済み: {name: 完了, index: 1}\n  完了: {index: 2}\n",
		"neither name is there":     "  未処理: {index: 0}\n  済み: {name: 終了, index: 1}\n",
	} {
		if enqueue(t, "settings", "diff", "--file", states(list)).want(t, exitDone, []string{"DELETED"}, []string{"!already"}); t.Failed() {
			t.Fatal(name)
		}
	}
}

func TestSettingsDeploy(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	m := p.manager(t)
	enqueue(t, "settings", "deploy", "--app", "5", "--yes", "--lang", "en").want(t, exitDone, []string{"nothing waits"}, nil)
	if len(m.asked) != 1 {
		t.Errorf("asked %+v", m.asked)
	}
	m.diff = `"pending":true`
	enqueue(t, "settings", "deploy", "--app", "5", "--yes", "--lang", "en").want(t, exitDone, []string{"none of process management", "it is in force"}, nil)
	if q := m.last(); len(q.Want) > 0 || !q.Deploy || !q.Publish || q.Base != 8 {
		t.Errorf("asked %+v", q)
	}
}

// Every reason and every end has words in both languages.
func TestSettingsTextsAreWhole(t *testing.T) {
	en, ja := settingsTexts("en"), settingsTexts("ja")
	source, err := os.ReadFile("../../internal/dispatch/change.go")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(source)) {
		if name, rest, ok := strings.Cut(strings.TrimSpace(line), "= \""); ok && strings.HasPrefix(name, "Change") {
			n++
			code, _, _ := strings.Cut(rest, "\"")
			if en.why[code] == "" || ja.why[code] == "" {
				t.Errorf("%s has no words", code)
			}
		}
	}
	if n < 10 || len(en.why) != n || len(ja.why) != n {
		t.Errorf("%d reasons in the source, %d and %d texts", n, len(en.why), len(ja.why))
	}
	for _, stage := range []queue.ChangeStage{queue.ChangeWaiting, queue.ChangePutting, queue.ChangeDeploying, queue.ChangeUndoing, queue.ChangeDone, queue.ChangeFailed} {
		if en.stages[stage] == "" || ja.stages[stage] == "" {
			t.Errorf("stage %s has no words", stage)
		}
	}
	for _, left := range []queue.ChangeLeft{queue.LeftInForce, queue.LeftPreview, queue.LeftAsItWas, queue.LeftOthers, queue.LeftDeploying, queue.LeftUnknown} {
		if en.left[left] == "" || ja.left[left] == "" {
			t.Errorf("%s has no words", left)
		}
	}
}
