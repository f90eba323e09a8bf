package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"statusq/internal/queue"
)

// graveyard has three dead letters and one unknown.
func graveyard(t *testing.T) *place {
	t.Helper()
	p := newPlace(t, queue.Layout{})
	p.die(t, queue.Job{ID: "a", App: 5, Record: 1001, Action: "承認", Campaign: "m", By: "erp", Ref: "PO-1"}, "not_assignee", "GAIA_NT01")
	p.die(t, queue.Job{ID: "b", App: 5, Record: 1002, Action: "承認する", Campaign: "m"}, "record_not_found", "GAIA_RE01")
	p.die(t, queue.Job{ID: "長い名前", App: 6, Record: 1003, Action: "Approve"}, "not_assignee", "GAIA_NT01")
	p.die(t, queue.Job{ID: "d", App: 6, Record: 1004, Action: "Close"}, "outcome_unknown", "")
	return p
}

func (p *place) deadJobs(t *testing.T) string {
	t.Helper()
	var jobs []string
	for d, err := range p.q.Dead(t.Context(), queue.DeadFilter{Site: "main"}) {
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, d.Job.ID)
	}
	return strings.Join(jobs, " ")
}

func TestDeadLs(t *testing.T) {
	newPlace(t, queue.Layout{})
	enqueue(t, "dead", "ls").want(t, exitDone, []string{"no dead letters"}, nil)
	graveyard(t)
	o := enqueue(t, "dead", "ls")
	died := time.Date(2026, 12, 1, 1, 2, 3, 0, time.UTC).Local().Format("2006-01-02 15:04:05")
	want := "" +
		"APP  RECORD  JOB       ACTION    REASON            CODE       ATTEMPTS  DIED\n" +
		"  5    1001  a         承認      not_assignee      GAIA_NT01         1  " + died + "\n" +
		"  5    1002  b         承認する  record_not_found  GAIA_RE01         1  " + died + "\n" +
		"  6    1003  長い名前  Approve   not_assignee      GAIA_NT01         1  " + died + "\n" +
		"  6    1004  d         Close     outcome_unknown   -                 1  " + died + "\n" +
		"\n4 dead letters\n" +
		"  2  not_assignee      somebody else is the assignee of the record\n"
	if !strings.HasPrefix(o.out, want) {
		t.Errorf("printed\n%s, want\n%s", o.out, want)
	}
	enqueue(t, "dead", "ls", "--lang", "ja").want(t, exitDone, []string{"レコードの作業者が別の人です"}, nil)
	enqueue(t, "dead", "list", "--limit", "1").want(t, exitDone, []string{"4 dead letters, the first 1 are shown", "!1002"}, nil)

	for filter, want := range map[string]int{"--app=5": 2, "--campaign=m": 2, "--job=長い名前": 1, "--reason=not_assignee": 2, "--code=GAIA_RE01": 1, "--record=1004": 1, "--limit=3": 3, "--limit=0": 4, "--app=99": 0} {
		if lines := enqueue(t, "dead", "ls", "--json", filter).lines(t); len(lines) != want {
			t.Errorf("dead ls %s printed %d letters, want %d", filter, len(lines), want)
		}
	}
	line := enqueue(t, "dead", "ls", "--json", "--job", "d").lines(t)[0]
	if line["app"] != "6" || line["record"] != "1004" || line["seq"] != "1044" || line["outcome"] != "unknown" || line["died"] != "2026-12-01T01:02:03Z" ||
		line["evidence"].(map[string]any)["revision"] != "7" || len(line["attempts"].([]any)) != 1 {
		t.Errorf("dead ls --json printed %v", line)
	}
}

func TestDeadShow(t *testing.T) {
	p := graveyard(t)
	enqueue(t, "dead", "show", "a").want(t, exitDone,
		[]string{"not_assignee", "→ let the assignee act", "kintone   GAIA_NT01 kintone's own words", "PO-1", "attempt 1", "erp"}, nil)
	enqueue(t, "dead", "show", "d").want(t, exitDone, []string{"unknown", "revision 3", "revision 7, status 承認済, last changed by sato"}, nil)
	enqueue(t, "dead", "show", "nope").want(t, exitError, nil, []string{"no dead letter of job nope"})

	p.settle(t, 5, queue.Settlement{Dead: []*queue.DeadLetter{{V: 1, Site: "main", App: 5, Seq: 77, Job: queue.Job{ID: "s77", Site: "main", App: 5, Revision: -1},
		Outcome: queue.Dead, Reason: "undecodable", Message: "/recrd: unknown member", Raw: []byte("{\"recrd\": 1,\n \"x\":\"\x1b[2J\"}"), Died: time.Now()}}})
	enqueue(t, "dead", "show", "s77").want(t, exitDone, []string{"as it came", `{"recrd": 1,`, "message     /recrd: unknown member", "!kintone", "!\x1b"}, nil)
}

// A job that died, was put back to work and died again had two attempts, with a mark between them.
func TestAttemptsAreCountedWithoutTheMarksOfRetries(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	died := time.Date(2026, 12, 1, 1, 2, 3, 0, time.UTC)
	p.settle(t, 5, queue.Settlement{Dead: []*queue.DeadLetter{{V: 1, Site: "main", App: 5, Seq: 41, Outcome: queue.Dead, Reason: "not_assignee",
		Job: queue.Job{ID: "a", Site: "main", App: 5, Record: 1001, Action: "承認", Revision: -1}, Died: died, Attempts: []queue.Attempt{
			{At: died, Reason: "not_assignee", Code: "GAIA_NT01"},
			{At: died.Add(time.Minute), Reason: queue.ReasonRetried, Message: "suzuki: 作業者を直した"},
			{At: died.Add(2 * time.Minute), Reason: "not_assignee", Code: "GAIA_NT01"},
		}}}})
	enqueue(t, "dead", "ls").want(t, exitDone, []string{"not_assignee  -            2  " + local(died)}, nil)
	for _, show := range [][]string{{"dead", "show", "a"}, {"job", "a"}} {
		enqueue(t, show...).want(t, exitDone, []string{
			local(died) + "  attempt 1  not_assignee  GAIA_NT01",
			local(died.Add(time.Minute)) + "  retry      retried       -          -        suzuki: 作業者を直した",
			local(died.Add(2*time.Minute)) + "  attempt 2  not_assignee  GAIA_NT01",
		}, nil)
	}
}

func TestDeadLettersInJapanese(t *testing.T) {
	p := graveyard(t)
	ja := func(args ...string) output { return enqueue(t, append(args, "--lang", "ja")...) }
	ja("dead", "ls").want(t, exitDone, []string{"アプリ  レコード  ジョブ", "アクション", "理由", "エラー日時", "\nデッドレター4件\n"}, []string{"!dead"})
	ja("dead", "ls", "-n", "1").want(t, exitDone, []string{"\nデッドレター4件（最初の1件を表示）\n"}, nil)
	ja("dead", "show", "d").want(t, exitDone, []string{"結果不明", "期待した状態", "リビジョン3", "リビジョン7、ステータス「承認済」、更新者 sato", "試行1回目"}, nil)
	ja("dead", "retry", "--all", "--dry-run").want(t, exitError, []string{"\nデッドレター3件の再試行が対象です。何も実行していません\n"}, []string{"enqueue: デッドレター1件は対象外です: 結果不明のため"})
	ja("dead", "resolve", "d", "--applied", "--reason", "x", "--dry-run").want(t, exitDone, []string{"\nデッドレター1件（appliedとして）の確定が対象です"}, nil)
	ja("dead", "retry", "b", "--yes").want(t, exitDone, []string{"デッドレター1件を再試行に戻しました\n"}, nil)
	ja("dead", "discard", "a", "--yes").want(t, exitDone, []string{"デッドレター1件を破棄しました\n"}, nil)
	ja("dead", "discard", "a", "--yes").want(t, exitError, nil, []string{"enqueue: ジョブ a のデッドレターはありません。何も実行していません"})
	if got := p.deadJobs(t); got != "長い名前 d" {
		t.Errorf("what is dead now: %s", got)
	}
}

func TestDeadRetryAndDiscardNeedAnAnswer(t *testing.T) {
	p := graveyard(t)
	enqueueWith(t, t.Context(), "y\n", "dead", "discard", "--all").want(t, exitUsage, nil, []string{"--yes"})
	enqueue(t, "dead", "discard", "--all", "--dry-run").want(t, exitDone, []string{"would discard 4 dead letters; nothing was done"}, nil)
	enqueue(t, "dead", "retry", "a", "nope", "--yes").want(t, exitError, nil, []string{"no dead letter of job nope; nothing was done"})
	enqueue(t, "dead", "retry", "--app", "99", "--yes").want(t, exitDone, []string{"no dead letters match"}, nil)
	if got := p.deadJobs(t); got != "a b 長い名前 d" {
		t.Errorf("dead letters %s, want all four", got)
	}
}

func TestDeadRetry(t *testing.T) {
	p := graveyard(t)
	enqueue(t, "dead", "retry", "--reason-code", "not_assignee", "--yes", "--reason", "作業者を直した", "--by", "suzuki").
		want(t, exitDone, []string{"retried 2 dead letters\n"}, nil)
	if got := p.deadJobs(t); got != "b d" {
		t.Errorf("dead letters %s, want b d", got)
	}
	enqueue(t, "job", "a").want(t, exitDone, []string{"parked, due now", "1001", "attempt 1             not_assignee", "GAIA_NT01", "dead retry by suzuki", "作業者を直した", "no worker serves this site"}, nil)

	var audits []string
	for a, err := range p.q.Audits(t.Context(), "main", 0) {
		if err != nil {
			t.Fatal(err)
		}
		if a.Verb == "dead retry" {
			audits = append(audits, a.By+" "+a.Reason+" "+a.Job)
		}
	}
	if got, want := strings.Join(audits, ", "), "suzuki 作業者を直した a, suzuki 作業者を直した 長い名前"; got != want {
		t.Errorf("the audit says %q, want %q", got, want)
	}

	// One that cannot be retried does not keep the others, and shows in the exit code.
	p.settle(t, 5, queue.Settlement{Dead: []*queue.DeadLetter{{V: 1, Site: "main", App: 5, Seq: 77, Job: queue.Job{ID: "s77", Site: "main", App: 5, Revision: -1},
		Outcome: queue.Dead, Reason: "undecodable", Raw: []byte("{}"), Died: time.Now()}}})
	enqueue(t, "dead", "retry", "s77", "b", "--yes", "--json").want(t, exitError, []string{`"done":1`, `"refused":1`}, []string{"could not be decoded"})
	if got := p.deadJobs(t); got != "d s77" {
		t.Errorf("dead letters %s, want d s77", got)
	}
}

// A retry of what may have run already has to be meant.
func TestDeadRetryLeavesUnknownOutcomesAlone(t *testing.T) {
	p := graveyard(t)
	for _, which := range [][]string{{"d"}, {"--reason-code", "outcome_unknown"}} {
		enqueue(t, append([]string{"dead", "retry", "--yes"}, which...)...).
			want(t, exitError, nil, []string{"1 dead letter refused: with an unknown outcome", "a second time", "enqueue dead resolve --retry"})
	}
	enqueue(t, "dead", "retry", "--app", "6", "--dry-run").want(t, exitError, []string{"would retry 1 dead letter;", "長い名前", "!1004"}, []string{"1 dead letter refused"})
	line := enqueue(t, "dead", "retry", "--all", "--yes", "--json").lines(t)[0]
	if line["matched"] != 4.0 || line["done"] != 3.0 || line["refused"] != 1.0 {
		t.Errorf("printed %v", line)
	}
	if got := p.deadJobs(t); got != "d" {
		t.Errorf("dead letters %s, want d", got)
	}
}

func TestDeadResolve(t *testing.T) {
	p := graveyard(t)
	for _, c := range []struct {
		args []string
		say  string
	}{
		{[]string{"d", "--reason", "seen"}, "one of --applied, --not-applied and --retry"},
		{[]string{"d", "--reason", "seen", "--applied", "--retry"}, "one of --applied"},
		{[]string{"d", "--applied"}, "--reason is missing"},
		{[]string{"d", "--applied", "--reason", " "}, "--reason is missing"},
		{[]string{"--applied", "--reason", "seen"}, "say which"},
	} {
		enqueue(t, append([]string{"dead", "resolve", "--yes"}, c.args...)...).want(t, exitUsage, nil, []string{c.say})
	}
	enqueueWith(t, t.Context(), "y\n", "dead", "resolve", "d", "--applied", "--reason", "seen").want(t, exitUsage, nil, []string{"--yes"})
	enqueue(t, "dead", "resolve", "a", "d", "--applied", "--reason", "seen", "--dry-run").
		want(t, exitError, []string{"would resolve 1 dead letter as applied; nothing was done"}, []string{"1 dead letter refused: dead, which means"})
	enqueue(t, "dead", "resolve", "--all", "--not-applied", "--reason", "seen", "--dry-run").want(t, exitDone, []string{"would resolve 1 dead letter as not-applied", "!1001"}, nil)
	enqueue(t, "dead", "resolve", "--request", "r9", "--applied", "--reason", "seen", "--yes").want(t, exitDone, []string{"no dead letters match"}, nil)
	if got := p.deadJobs(t); got != "a b 長い名前 d" {
		t.Errorf("dead letters %s, want all four", got)
	}

	enqueue(t, "dead", "resolve", "--request", "r1", "--applied", "--reason", "履歴にあり", "--by", "ito", "--yes").
		want(t, exitDone, []string{"resolved 1 dead letter as applied\n"}, nil)
	enqueue(t, "dead", "resolve", "d", "--retry", "--reason", "seen", "--yes").want(t, exitError, nil, []string{"no dead letter of job d"})
	if got := p.deadJobs(t); got != "a b 長い名前" {
		t.Errorf("dead letters %s, want all but d", got)
	}
	enqueue(t, "job", "d").want(t, exitDone, []string{"applied, as somebody has seen", "reason  resolved", "unknown", "dead resolve --applied by ito", "ito: 履歴にあり"}, nil)
	v := enqueue(t, "job", "d", "--json").lines(t)[0]
	var told []string
	for _, m := range v["history"].([]any) {
		m := m.(map[string]any)
		told = append(told, strings.TrimSpace(m["what"].(string)+" "+textIn(m["outcome"])+textIn(m["act"])+" "+textIn(m["by"])+textIn(m["reason"])+textIn(m["request"])))
	}
	slices.Sort(told) // the letter's clock is not that of this machine
	if got, want := strings.Join(told, ", "), "act dead resolve --applied ito, attempt  outcome_unknownr1, end applied resolvedr1, end unknown outcome_unknown"; v["state"] != "applied" || got != want {
		t.Errorf("the history says %q, want %q (state %v)", got, want, v["state"])
	}
}

// What was resolved counts as that, and not as unknown, wherever outcomes are counted.
func TestWhatWasResolvedIsCounted(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	csv := p.file(t, "c.csv", "app,record,action,job\n5,1,承認,u1\n5,2,承認,u2\n5,3,承認,u3\n")
	enqueue(t, "send", "--file", csv, "--campaign", "c").want(t, exitDone, nil, nil)
	for i, id := range []string{"u1", "u2", "u3"} {
		p.die(t, queue.Job{ID: id, App: 5, Record: int64(i + 1), Action: "承認", Campaign: "c"}, "outcome_unknown", "")
	}
	enqueue(t, "watch", "c").want(t, exitUnknown, []string{"3  unknown"}, nil)
	enqueue(t, "dead", "resolve", "u1", "--applied", "--reason", "seen", "--yes").want(t, exitDone, nil, nil)
	enqueue(t, "dead", "resolve", "u2", "--not-applied", "--reason", "seen", "--yes").want(t, exitDone, nil, nil)
	enqueue(t, "watch", "c").want(t, exitUnknown, []string{"1  applied", "1  dead", "1  unknown", "1  resolved_not_applied"}, []string{"see them with: enqueue dead ls --campaign c"})
	enqueue(t, "results", "c").want(t, exitDone, []string{"applied         -  resolved ", "dead            -  resolved_not_applied "}, nil)
	enqueue(t, "dead", "resolve", "u3", "--applied", "--reason", "seen", "--yes").want(t, exitDone, nil, nil)
	enqueue(t, "watch", "c").want(t, exitDead, []string{"2  applied", "1  dead", "!unknown"}, []string{"!dead ls"}) // no letter is left
	enqueue(t, "job", "u2").want(t, exitDone, []string{"dead, as somebody has seen; there is no dead letter any more"}, nil)
	// Another copy of the job does not change what became of it.
	p.settle(t, 5, queue.Settlement{Results: []queue.Result{{Seq: 99, Job: "u1", Record: 1, Outcome: queue.Duplicate, Campaign: "c", At: time.Now()}}})
	enqueue(t, "job", "u1").want(t, exitDone, []string{"applied, as somebody has seen", "duplicate"}, nil)
}

// textIn is a member of a JSON object that may be missing.
func textIn(v any) string {
	s, _ := v.(string)
	return s
}

func TestDeadDiscard(t *testing.T) {
	p := graveyard(t)
	line := enqueue(t, "dead", "discard", "--campaign", "m", "--yes", "--json").lines(t)[0]
	if line["type"] != "dead-discard" || line["matched"] != 2.0 || line["done"] != 2.0 {
		t.Errorf("printed %v", line)
	}
	if got := p.deadJobs(t); got != "長い名前 d" {
		t.Errorf("dead letters %s", got)
	}
	enqueue(t, "job", "b").want(t, exitDone, []string{"dead; the dead letter has been discarded"}, nil)
}

func TestJob(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	enqueue(t, "job", "a").want(t, exitError, nil, []string{"no job a in site main"})
	enqueue(t, "send", "--app", "5", "--record", "1001", "--action", "承認", "--job", "a", "--campaign", "c", "--by", "erp")
	enqueue(t, "job", "a").want(t, exitDone, []string{"waiting in the log since", "1001", "承認", "erp"}, nil)

	job := queue.Job{ID: "a", Site: "main", App: 5, Record: 1001, Action: "承認", Campaign: "c", Revision: -1}
	due := time.Now().Add(time.Hour)
	parked := &queue.Parked{V: 1, Job: job, Seq: 1, Due: due, Reason: "status_mismatch", Attempts: []queue.Attempt{{At: time.Now(), Reason: "status_mismatch", Code: "GAIA_IL03"}}}
	p.settle(t, 5, queue.Settlement{Park: []*queue.Parked{parked}})
	if err := p.q.PurgeLog(t.Context(), "main", 5, 2); err != nil {
		t.Fatal(err)
	}
	enqueue(t, "job", "a", "--app", "5").want(t, exitDone, []string{"parked until " + local(due), "does not start from the record's present status", "GAIA_IL03"}, nil)
	line := enqueue(t, "job", "a", "--json").lines(t)[0]
	if line["type"] != "job" || line["state"] != "parked" || line["reason"] != "status_mismatch" || line["due"] != utc(due) || line["record"] != "1001" {
		t.Errorf("job --json printed %v", line)
	}

	request := &queue.Request{ID: "r9", At: time.Now(), Parts: []queue.Part{{Sends: 2, Unclear: time.Now(), Members: []queue.Member{{Seq: 1, Job: "a", Record: 1001, Pin: 4, Action: "承認"}}}}}
	enqueue(t, "inflight").want(t, exitDone, []string{"no request is out"}, nil)
	if err := p.ledger[5].Write(t.Context(), 3, queue.Slot{V: 1, Request: request}, nil); err != nil {
		t.Fatal(err)
	}
	enqueue(t, "job", "a").want(t, exitDone, []string{"in request r9"}, nil)
	enqueue(t, "inflight").want(t, exitDone, []string{"r9", "1001", "w1", "1 request out"}, nil)
	slot := enqueue(t, "inflight", "--app", "5", "--json").lines(t)[0]
	if slot["app"] != "5" || slot["slot"] != 3.0 || slot["sends"] != 2.0 || slot["jobs"].([]any)[0].(map[string]any)["revision"] != "4" {
		t.Errorf("inflight --json printed %v", slot)
	}

	if err := p.ledger[5].Write(t.Context(), 3, queue.Slot{V: 1}, &queue.Settlement{Request: "r9", Unpark: []queue.ParkedRef{parked.Ref()},
		Results: []queue.Result{{Seq: 1, Job: "a", Record: 1001, Outcome: queue.Applied, Revision: 6, Campaign: "c", At: time.Now()}}}); err != nil {
		t.Fatal(err)
	}
	enqueue(t, "job", "a").want(t, exitDone, []string{"applied, the record had revision 6 after it", "applied, revision 6"}, nil)
}

func TestLanes(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	enqueue(t, "lanes").want(t, exitNoQueue, nil, []string{"no worker answers"})
	stop, err := p.q.Serve(t.Context(), "main", map[string]queue.Handler{"lanes": answer(t, "halted")})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	enqueue(t, "lanes").want(t, exitDone, []string{"site main   worker w1 (epoch 7)   breaker closed   1 of 4 requests at a time",
		"  5  受注    halted since", "17 of 10000", "  6  Orders  running", "app 5 (受注) is halted: kintone does not accept"}, nil)
	enqueue(t, "lanes", "--lang", "ja").want(t, exitDone, []string{"サイト main   ワーカー w1（epoch 7）", "同時リクエスト数 1（上限4）", "本日のリクエスト数", "17（上限10000）",
		"halted（", "使い切った場合", "!APP", "!BACKLOG", "!TODAY"}, nil)
	lines := enqueue(t, "lanes", "--json").lines(t)
	if len(lines) != 3 || lines[0]["type"] != "site" || lines[1]["type"] != "lane" || lines[1]["app"] != "5" || lines[1]["why"] != "token_invalid" || lines[1]["backlog"] != 123.0 {
		t.Errorf("lanes --json printed %v", lines)
	}
}

func TestLanesOfAHaltedSite(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	stop, err := p.q.Serve(t.Context(), "main", map[string]queue.Handler{"lanes": func(context.Context, []byte) ([]byte, error) {
		return []byte(`{"v":1,"site":"main","owner":"w1","epoch":7,"gate":{"breaker":"closed","halted":"login_refused","why":"CB_WA01: wrong password","concurrency":4}}`), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	enqueue(t, "lanes").want(t, exitDone, []string{"breaker halted", "no app has jobs\n\nthe site stands still: kintone refuses the login [CB_WA01: wrong password]\n",
		"  → correct the login name and password"}, nil)
	enqueue(t, "lanes", "--lang", "ja").want(t, exitDone, []string{"kintoneへのログインが拒否されました [CB_WA01: wrong password]", "  → ログイン名とパスワードを直してください"}, nil)
	line := enqueue(t, "lanes", "--json").lines(t)[0]
	if g := line["gate"].(map[string]any); g["halted"] != "login_refused" || g["why"] != "CB_WA01: wrong password" {
		t.Errorf("lanes --json printed %v", line)
	}
}

func TestLanesOfAWorkerThatAnswersOtherwise(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	for reply, say := range map[string]string{`{"v":2}`: "version 2", "nonsense": "the worker's answer"} {
		stop, err := p.q.Serve(t.Context(), "main", map[string]queue.Handler{
			"lanes": func(context.Context, []byte) ([]byte, error) { return []byte(reply), nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		enqueue(t, "lanes").want(t, exitError, nil, []string{say})
		stop()
	}
}
