package main

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"statusq/internal/queue"
)

// hang fills a slot of app 5 as a worker would have, with two parts.
func (p *place) hang(t *testing.T) {
	t.Helper()
	p.settle(t, 5, queue.Settlement{})
	lost := time.Date(2026, 12, 1, 1, 2, 3, 0, time.UTC)
	r := &queue.Request{ID: "r9", At: lost.Add(-time.Minute), Parts: []queue.Part{
		{Sends: 2, Unclear: lost, Members: []queue.Member{{Seq: 1, Job: "a", Record: 1001, Pin: 4, Action: "承認", To: "済"}, {Seq: 2, Job: "b", Record: 1002, Pin: 7, Action: "承認", Assignee: "sato", To: "済"}}},
		{Members: []queue.Member{{Seq: 3, Job: "c", Record: 1003, Pin: 9, Action: "却下"}}},
	}}
	if err := p.ledger[5].Write(t.Context(), 3, queue.Slot{V: 1, Request: r}, nil); err != nil {
		t.Fatal(err)
	}
}

// worker answers as one that owns the site would, and notes what it is asked to resolve.
func (p *place) worker(t *testing.T, inflight, resolve string) *[]string {
	t.Helper()
	var asked []string
	stop, err := p.q.Serve(t.Context(), "main", map[string]queue.Handler{
		"inflight": func(context.Context, []byte) ([]byte, error) { return []byte(inflight), nil },
		"inflight-resolve": func(_ context.Context, question []byte) ([]byte, error) {
			asked = append(asked, string(question))
			return []byte(resolve), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return &asked
}

// told is the answer of a worker with the request of hang, six minutes later.
const told = `{"v":1,"owner":"w1","epoch":7,"flights":[{"app":5,"slot":3,"request":"r9","at":"2026-12-01T01:01:03Z","inherited":true,
	"doing":"waiting","until":"2026-12-01T01:12:00Z","heard":"2026-12-01T01:08:00Z","heardReason":"unreachable","heardMessage":"timeout","parts":[
	{"members":[{"seq":1,"job":"a","record":1001,"pin":4,"action":"承認","to":"済"},{"seq":2,"job":"b","record":1002,"pin":7,"action":"承認","assignee":"sato","to":"済"}],
	 "sends":5,"unclear":"2026-12-01T01:08:00Z"},
	{"members":[{"seq":3,"job":"c","record":1003,"pin":9,"action":"却下"}],"sends":1,"unclear":"2026-12-01T01:02:03Z",
	 "reason":"status_mismatch","code":"GAIA_IL03","message":"wrong status","giveUp":"2026-12-01T02:02:03Z"}]}]}`

func TestInflightFromTheLedger(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	enqueue(t, "inflight").want(t, exitDone, []string{"no request is out"}, nil)
	p.hang(t)
	lost := local(time.Date(2026, 12, 1, 1, 2, 3, 0, time.UTC))
	enqueue(t, "inflight").want(t, exitDone, []string{"r9", "1001, 1002, 1003", "承認, 却下", lost, "w1", "1 request out", "from the ledger, which is not told of every try"}, nil)
	enqueue(t, "inflight", "ls", "--app", "6").want(t, exitDone, []string{"no request is out"}, nil)
	enqueue(t, "inflight", "show", "r9").want(t, exitDone, []string{"app          5, slot 3", "2, each sent for itself", "2 times by w1, as far as the ledger knows",
		"lost answer  " + lost, "   1  b      1002         7  承認    sato      済", "   2  c      1003         9  却下", "from the ledger"}, nil)
	line := enqueue(t, "inflight", "show", "r9", "--json").lines(t)[0]
	if line["type"] != "request" || line["stale"] != true || line["sends"] != 2.0 || len(line["jobs"].([]any)) != 3 || len(line["parts"].([]any)) != 2 {
		t.Errorf("printed %v", line)
	}
	enqueue(t, "inflight", "show", "nope").want(t, exitError, nil, []string{"no request nope is out: it has ended"})

	// Only the owner may end it.
	resolve := []string{"inflight", "resolve", "r9", "--applied", "--reason", "seen"}
	enqueue(t, append(resolve, "--yes")...).want(t, exitNoQueue, nil, []string{"no worker answers"})
	enqueue(t, append(resolve, "--dry-run")...).want(t, exitDone, []string{"would resolve 3 jobs as applied", "nothing was done", "from the ledger"}, nil)
}

func TestInflightInJapanese(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	ja := func(args ...string) output { return enqueue(t, append(args, "--lang", "ja")...) }
	ja("inflight").want(t, exitDone, []string{"送信中のリクエストはありません\n"}, nil)
	p.hang(t)
	ja("inflight").want(t, exitDone, []string{"スロット", "応答の喪失", "不明。処理を引き継いだワーカーが送り直します", "\n送信中のリクエスト1件。詳細: enqueue inflight show", "\n台帳の記録です。"}, nil)
	ja("inflight", "show", "r9").want(t, exitDone, []string{"5（スロット3）", "送信", "台帳の記録による", "作業者", "実行後のステータス"}, nil)
	ja("inflight", "show", "r1").want(t, exitError, nil, []string{"リクエスト r1 は送信中ではありません"})
	ja("inflight", "resolve", "r9", "--applied", "--reason", "x", "--dry-run").want(t, exitDone,
		[]string{"ジョブ3件をappliedとして確定する対象です（今後は実行済みとして扱われます）。何も実行していません"}, nil)
}

func TestInflightFromItsOwner(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	p.hang(t)
	p.worker(t, told, "")
	at := func(clock string) string {
		when, err := time.Parse(time.RFC3339, "2026-12-01T"+clock+"Z")
		if err != nil {
			t.Fatal(err)
		}
		return local(when)
	}
	enqueue(t, "inflight").want(t, exitDone, []string{"     6  " + at("01:08:00") + "  unreachable", "sent again at " + at("01:12:00")[11:], "!from the ledger"}, nil)
	enqueue(t, "inflight", "show", "r9").want(t, exitDone, []string{"6 times by w1, and who knows how often by another worker", "last answer  " + at("01:08:00") + "  unreachable timeout",
		"refused      status_mismatch GAIA_IL03 wrong status (part of job c)", "does not count before " + at("02:02:03"), "now          sent again at"}, nil)
	enqueue(t, "job", "b").want(t, exitDone, []string{"in request r9, which may be out (enqueue inflight show r9)", "lost answer", "now ", "1002"}, nil)
	v := enqueue(t, "job", "b", "--json").lines(t)[0]
	if out := v["inflight"].(map[string]any); v["state"] != "in-flight" || out["doing"] != "waiting" || out["until"] != "2026-12-01T01:12:00Z" || out["unclear"] != "2026-12-01T01:08:00Z" {
		t.Errorf("printed %v", v)
	}
}

// The requests of a lane that does not run, or had no time, are shown as the ledger has them.
func TestInflightOfASilentLane(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	p.hang(t)
	p.worker(t, `{"v":1,"owner":"w2","epoch":8,"silent":[5],"flights":[]}`, "")
	enqueue(t, "inflight").want(t, exitDone, []string{"r9", "w1", "some from the ledger"}, nil)
}

func TestInflightResolve(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	p.hang(t)
	asked := p.worker(t, told, `{"v":1,"state":"resolved","jobs":["a","b","c"]}`)
	resolve := func(more ...string) output {
		return enqueue(t, append([]string{"inflight", "resolve", "r9", "--reason", "履歴にあり", "--by", "ito"}, more...)...)
	}
	resolve("--yes").want(t, exitUsage, nil, []string{"one of --applied, --not-applied and --retry"})
	resolve("--applied").want(t, exitUsage, nil, []string{"--yes"})
	enqueue(t, "inflight", "resolve", "r9", "--applied", "--yes").want(t, exitUsage, nil, []string{"--reason is missing"})
	resolve("--applied", "--yes", "--job", "zzz").want(t, exitError, nil, []string{"job zzz is not in request r9"})
	resolve("--retry", "--job", "a", "--dry-run").want(t, exitDone, []string{"would resolve 2 jobs as retry: they are run afresh", "!1003"}, nil)
	if len(*asked) != 0 {
		t.Fatalf("the worker was asked %q", *asked)
	}

	resolve("--not-applied", "--yes", "--timeout", "5s").want(t, exitDone, []string{"resolved 3 jobs as not-applied\n"}, nil)
	line := resolve("--applied", "--yes", "--job", "c", "--json").lines(t)[0]
	resolve("--retry", "--yes", "--held", "2026-12-01T01:12:00.123456789Z").want(t, exitDone, []string{"resolved 3 jobs as retry\n"}, nil)
	resolve("--retry", "--yes", "--held", "01:12:00").want(t, exitUsage, nil, []string{"--held"})
	if line["type"] != "inflight-resolve" || line["state"] != "resolved" || line["how"] != "applied" {
		t.Errorf("printed %v", line)
	}
	for i, want := range []map[string]any{
		{"v": 1.0, "app": 5.0, "request": "r9", "how": "not-applied", "by": "ito", "reason": "履歴にあり", "wait": 5e9, "held": nil},
		{"v": 1.0, "app": 5.0, "request": "r9", "job": "c", "how": "applied", "by": "ito", "reason": "履歴にあり", "wait": 150e9},
		{"how": "retry", "held": "2026-12-01T01:12:00.123456789Z"},
	} {
		var got map[string]any
		if err := json.Unmarshal([]byte((*asked)[i]), &got); err != nil {
			t.Fatal(err)
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("question %d: %s is %v, want %v", i, k, got[k], v)
			}
		}
	}
}

func TestInflightResolveThatIsNotDone(t *testing.T) {
	for state, want := range map[string]struct {
		code int
		say  string
	}{
		"busy":      {exitHeld, "busy, try again: why; nothing was done"},
		"held":      {exitHeld, "then repeat this command with --held 2026-12-01T01:12:00.00000005Z"},
		"not_ready": {exitHeld, "once the lane runs"},
		"ended":     {exitError, "why; nothing was done"},
	} {
		t.Run(state, func(t *testing.T) {
			p := newPlace(t, queue.Layout{})
			p.hang(t)
			p.worker(t, told, `{"v":1,"state":"`+state+`","text":"why","until":"2026-12-01T10:12:00.00000005+09:00"}`)
			enqueue(t, "inflight", "resolve", "r9", "--retry", "--reason", "seen", "--yes").want(t, want.code, []string{"!resolved"}, []string{want.say})
		})
	}
}
