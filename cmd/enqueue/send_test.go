package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"statusq/internal/campaign"
	"statusq/internal/queue"
)

func TestSendOne(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	args := []string{"send", "--app", "5", "--record", "1001", "--action", "承認", "--assignee", "sato", "--revision", "12",
		"--job", "inv-1", "--ref", "PO-77", "--by", "erp", "--expires", "2036-12-01T00:00:00Z"}

	enqueue(t, append(args, "--dry-run")...).want(t, exitDone, []string{"job inv-1", "nothing was sent"}, nil)
	if n := p.backlog(t, 5); n != 0 {
		t.Fatalf("--dry-run published %d jobs", n)
	}
	enqueue(t, args...).want(t, exitDone, []string{"job inv-1 (app 5, record 1001, 承認): accepted"}, nil)
	enqueue(t, args...).want(t, exitDone, []string{"a duplicate"}, nil)
	again := enqueue(t, append(args, "--json")...).lines(t)
	if len(again) != 1 || again[0]["type"] != "send" || again[0]["app"] != "5" || again[0]["record"] != "1001" || again[0]["seq"] != "1" ||
		again[0]["accepted"] != 0.0 || again[0]["duplicates"] != 1.0 {
		t.Errorf("--json printed %v", again)
	}

	entry, err := p.q.LogEntry(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := queue.DecodeJob(entry.Data, "main", 5)
	want := queue.Job{ID: "inv-1", Site: "main", App: 5, Record: 1001, Action: "承認", Assignee: "sato", Revision: 12, Ref: "PO-77", By: "erp",
		Expires: time.Date(2036, 12, 1, 0, 0, 0, 0, time.UTC)}
	if err != nil || got != want {
		t.Errorf("the log has %+v, %v; want %+v", got, err, want)
	}
	if n := p.backlog(t, 5); n != 1 {
		t.Errorf("%d jobs in the log, want 1", n)
	}
}

func TestSendFile(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	path := p.file(t, "月末.csv", csvOf(1200))

	enqueue(t, "send", "--file", path, "--dry-run").want(t, exitDone, []string{"月末-", "5   600", "6   600", "1200 jobs, all valid"}, nil)
	dry := enqueue(t, "send", "--file", path, "--dry-run", "--json").lines(t)
	if apps, _ := dry[0]["apps"].(map[string]any); apps["5"] != 600.0 || dry[0]["dryRun"] != true {
		t.Errorf("--dry-run --json printed %v", dry)
	}
	if n := p.backlog(t, 5); n != 0 {
		t.Fatalf("--dry-run published %d jobs", n)
	}

	sent := enqueue(t, "send", "--file", path, "--by", "erp", "--json")
	line := sent.lines(t)[0]
	name, _ := line["campaign"].(string)
	if sent.code != exitDone || line["accepted"] != 1200.0 || line["duplicates"] != 0.0 || !strings.HasPrefix(name, "月末-") {
		t.Fatalf("exit code %d, %v", sent.code, line)
	}
	record, err := p.q.Campaign(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if record.Total != 1200 || record.Published != 1200 || record.Finished.IsZero() || record.By != "erp" || len(record.FileSHA256) != 64 || record.Options["apps"] != "5,6" {
		t.Errorf("the campaign's record is %+v", record)
	}

	enqueue(t, "send", "--file", path).want(t, exitDone, []string{"all 1200 jobs were sent before", "give another --campaign"},
		[]string{"was sent on", "1200 of 1200 jobs"})
	if a, b := p.backlog(t, 5), p.backlog(t, 6); a != 600 || b != 600 {
		t.Errorf("%d and %d jobs in the log, want 600 each", a, b)
	}

	stdin := enqueueWith(t, t.Context(), csvOf(3000), "send", "--file", "-", "--campaign", "month-end")
	stdin.want(t, exitDone, []string{"campaign month-end: 3000 jobs accepted"},
		[]string{"published 2000 of 3000 jobs\n", "published 3000 of 3000 jobs\n", "enqueue watch month-end"})
	enqueueWith(t, t.Context(), csvOf(3), "send", "--file", "-", "--campaign", "month-end").
		want(t, exitUsage, nil, []string{"campaign month-end was sent on", "with other jobs"})
}

func TestSendRefusesTheWholeFileForOneBadRow(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	path := p.file(t, "a.csv", csvOf(600)+"5,x,承認\n5,1,\n")
	enqueue(t, "send", "--file", path).want(t, exitUsage, nil,
		[]string{"2 problems, nothing was sent", `line 602, record: "x" is not a whole number`, "line 603, action: is empty"})
	if n := p.backlog(t, 5); n != 0 {
		t.Errorf("%d jobs were published", n)
	}
}

func TestSendToAFullLogSaysHowManyItTook(t *testing.T) {
	p := newPlace(t, queue.Layout{LogBytes: 300 << 10})
	path := p.file(t, "a.csv", csvOf(3000))
	o := enqueue(t, "send", "--file", path, "--json")
	in := p.backlog(t, 5) + p.backlog(t, 6)
	o.want(t, exitHeld, nil, []string{"the log is full", fmt.Sprintf("%d of 3000 jobs accepted", in), "sending the same file again is safe"})
	if line := o.lines(t)[0]; line["accepted"] != float64(in) || in == 0 || in == 3000 {
		t.Errorf("%d jobs in the log, printed %v", in, line)
	}
	record, err := p.q.Campaign(t.Context(), o.lines(t)[0]["campaign"].(string))
	if err != nil || record.Published != in || !record.Finished.IsZero() {
		t.Errorf("the campaign's record is %+v, %v; want %d published", record, err, in)
	}

	// When there is room again the same file completes it, and nothing twice.
	for _, app := range []int64{5, 6} {
		if err := p.q.PurgeLog(t.Context(), "main", app, 1<<40); err != nil {
			t.Fatal(err)
		}
	}
	o = enqueue(t, "send", "--file", path, "--json")
	if line := o.lines(t)[0]; line["duplicates"] != float64(in) {
		t.Errorf("sent again: %v, want %d duplicates", line, in)
	}
}

func TestSendInterruptedSaysHowManyWereAccepted(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		for p.backlog(t, 5) <= sendChunk && ctx.Err() == nil { // two batches or more: the first has been answered
			time.Sleep(time.Millisecond)
		}
	})
	o := enqueueWith(t, ctx, csvOf(40_000), "send", "--file", "-", "--campaign", "c", "--json")
	cancel()
	wg.Wait()
	o.want(t, exitError, nil, []string{"interrupted: ", "of 40000 jobs accepted; sending the same file again is safe"})
	accepted, _ := o.lines(t)[0]["accepted"].(float64)
	if in := p.backlog(t, 5) + p.backlog(t, 6); accepted == 0 || int(accepted) > in || in == 40_000 {
		t.Errorf("said %v accepted, the log has %d", accepted, in)
	}
	if record, err := p.q.Campaign(t.Context(), "c"); err != nil || record.Published != int(accepted) {
		t.Errorf("the campaign's record is %+v, %v; want %v published", record, err, accepted)
	}
}

// work plays the worker for one app: it reads n jobs and ends each as verdict says.
func (p *place) work(t *testing.T, app int64, n int, verdict func(queue.Job) queue.Result) {
	t.Helper()
	r, err := p.q.ReadLog(t.Context(), "main", app, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer r.Stop()
	var results []queue.Result
	for range n {
		entry, err := r.Next(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		job, err := queue.DecodeJob(entry.Data, "main", app)
		if err != nil {
			t.Error(err)
			return
		}
		result := verdict(job)
		result.Seq, result.Job, result.Record, result.Campaign, result.At = entry.Seq, job.ID, job.Record, job.Campaign, time.Now()
		results = append(results, result)
	}
	p.settle(t, app, queue.Settlement{Results: results})
}

func TestSendWaits(t *testing.T) {
	applied := func(queue.Job) queue.Result { return queue.Result{Outcome: queue.Applied, Revision: 3} }
	for _, c := range []struct {
		name    string
		verdict func(queue.Job) queue.Result
		code    int
		out     []string
	}{
		{"all applied", applied, exitDone, []string{"40 of 40 jobs ended", "40  applied", "!dead"}},
		{"some dead", func(j queue.Job) queue.Result {
			if j.Record%10 == 1 {
				return queue.Result{Outcome: queue.Dead, Reason: "not_assignee", Code: "GAIA_NT01"}
			}
			return applied(j)
		}, exitDead, []string{"36  applied", "4  dead", "4  not_assignee  somebody else is the assignee", "→ let the assignee act"}},
		{"unknown weighs more", func(j queue.Job) queue.Result {
			if j.Record == 1001 {
				return queue.Result{Outcome: queue.Unknown, Reason: "outcome_unknown"}
			}
			return queue.Result{Outcome: queue.Dead, Reason: "record_not_found"}
		}, exitUnknown, []string{"1  unknown", "39  dead", "39  record_not_found"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlace(t, queue.Layout{})
			path := p.file(t, "a.csv", csvOf(40))
			var wg sync.WaitGroup
			wg.Go(func() {
				p.work(t, 5, 20, c.verdict)
				p.work(t, 6, 20, c.verdict)
			})
			o := enqueue(t, "send", "--file", path, "--wait")
			wg.Wait()
			o.want(t, c.code, c.out, []string{"no worker serves this site", "ended 40 of 40 jobs"})

			// Sent again, everything has happened already: the same answer, at once.
			enqueue(t, "send", "--file", path, "--wait", "--timeout", "20s").want(t, c.code, c.out, nil)
		})
	}
}

func TestSendOneWaits(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	var wg sync.WaitGroup
	wg.Go(func() {
		p.work(t, 5, 1, func(queue.Job) queue.Result {
			return queue.Result{Outcome: queue.Dead, Reason: "record_not_found", Code: "GAIA_RE01"}
		})
	})
	o := enqueue(t, "send", "--app", "5", "--record", "9", "--action", "承認", "--job", "a", "--wait", "--json", "--lang", "ja")
	wg.Wait()
	lines := o.lines(t)
	if o.code != exitDead || len(lines) != 2 {
		t.Fatalf("exit code %d, %v", o.code, lines)
	}
	end := lines[1]
	if end["type"] != "end" || end["job"] != "a" || end["done"] != true || end["outcomes"].(map[string]any)["dead"] != 1.0 ||
		end["reasons"].(map[string]any)["record_not_found"] != 1.0 {
		t.Errorf("the end is %v", end)
	}
}

// An action after which the record stays has run, and a summary that says no more than that would mislead.
func TestWhatActedAndDidNotMoveIsTold(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	acted := func(reason string) func(queue.Job) queue.Result {
		return func(queue.Job) queue.Result { return queue.Result{Outcome: queue.Applied, Reason: reason} }
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.work(t, 5, 1, acted("acted_not_moved")) })
	o := enqueue(t, "send", "--app", "5", "--record", "9", "--action", "承認", "--job", "a", "--wait", "--timeout", "20s")
	wg.Wait()
	o.want(t, exitDone, []string{"  1  applied\n", "\n  1  acted_not_moved  the action was run, and the record waits", "→ leave it: the record moves on when all"}, []string{"!dead ls"})

	enqueueWith(t, t.Context(), "app,record,action\n6,1,承認\n", "send", "--file", "-", "--campaign", "c").want(t, exitDone, nil, nil)
	p.work(t, 6, 1, acted("acted_unverified"))
	enqueue(t, "watch", "c", "--timeout", "20s", "--lang", "ja").want(t, exitDone, []string{"  1  applied  実行済み\n", "1  acted_unverified  アクションは実行されましたが", "→ kintoneでレコードを確認"}, []string{"!dead ls"})
	end := enqueue(t, "watch", "c", "--timeout", "20s", "--json").lines(t)[0]
	if end["outcomes"].(map[string]any)["applied"] != 1.0 || end["reasons"].(map[string]any)["acted_unverified"] != 1.0 {
		t.Errorf("the end is %v", end)
	}
}

// An old result under the id is no news of this job, whatever became of the other.
func TestSendOneSaysThatItsIdWasUsedForAnotherRecord(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	send := func(record string) output {
		return enqueue(t, "send", "--app", "5", "--record", record, "--action", "承認", "--job", "a", "--wait", "--timeout", "20s")
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		p.work(t, 5, 1, func(queue.Job) queue.Result { return queue.Result{Outcome: queue.Applied} })
	})
	send("9").want(t, exitDone, []string{"1  applied"}, nil)
	wg.Wait()
	send("10").want(t, exitDead, []string{"1  dead", "!applied", "1  id_reused  this id was used before for another record; nothing was run for this job",
		"→ give every job an id of its own"}, []string{"!dead ls"}) // the worker has buried none
	send("9").want(t, exitDone, []string{"1  applied"}, nil)
}

func TestSentCountsDuplicatesInWords(t *testing.T) {
	for want, out := range map[string]sent{
		"campaign c: 3 jobs accepted\n":                                                                           {Total: 3, Accepted: 3},
		"campaign c: 2 jobs accepted, 1 duplicate that does not run again\n":                                      {Total: 3, Accepted: 2, Duplicates: 1},
		"campaign c: 1 job accepted, 2 duplicates that do not run again\n":                                        {Total: 3, Accepted: 1, Duplicates: 2},
		"campaign c: its job was sent before and does not run again (if it shall, give another --campaign)\n":     {Total: 1, Duplicates: 1},
		"campaign c: all 2 jobs were sent before and do not run again (if they shall, give another --campaign)\n": {Total: 2, Duplicates: 2},
	} {
		var b strings.Builder
		out.Campaign = "c"
		if err := new(sendCmd).showSent(&env{stdout: &b}, out); err != nil || b.String() != want {
			t.Errorf("printed %q, %v; want %q", b.String(), err, want)
		}
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1400 * time.Millisecond:  "1s",
		90 * time.Minute:         "1h30m0s",
		365*24*time.Hour + 1:     "more than a year",
		time.Duration(1<<63 - 1): "more than a year",
	} {
		if got := span("en", d); got != want {
			t.Errorf("span(%d) = %q, want %q", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{90 * time.Minute: "1時間30分0秒", 1400 * time.Millisecond: "1.4秒", 300 * time.Millisecond: "300ミリ秒"} {
		if got := duration("ja", d); got != want {
			t.Errorf("duration(%d) = %q in Japanese, want %q", d, got, want)
		}
	}
}

func TestJobThatIsNotThereMayHaveAnotherName(t *testing.T) {
	newPlace(t, queue.Layout{})
	enqueue(t, "job", "x").want(t, exitError, nil, []string{"no job x in site main", "is called s and its number: see enqueue dead ls --reason undecodable"})
}

func TestWaitTimesOut(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	args := []string{"send", "--app", "5", "--record", "9", "--action", "承認", "--wait", "--timeout", "300ms"}
	enqueue(t, args...).want(t, exitTimeout, []string{"0 of 1 job ended"}, []string{"no worker serves this site", "the jobs go on"})

	stop, err := p.q.Serve(t.Context(), "main", map[string]queue.Handler{"lanes": answer(t, "halted")})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	enqueue(t, args...).want(t, exitHeld, []string{"0 of 1 job ended"},
		[]string{"waiting: app 5 (受注) is halted: kintone does not accept the API token", "[GAIA_IA02] → check", "!app 6", "!parked"})
	args[2] = "6" // whose lane runs, whatever app 5 is in
	enqueue(t, args...).want(t, exitTimeout, nil, []string{"!halted"})
}

// What is parked when all else has ended must not look like a program that hangs. That the lane moves is no reason to say
// it at every answer.
func TestWaitSaysThatTheLastJobsAreParked(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	stop, err := p.q.Serve(t.Context(), "main", map[string]queue.Handler{"lanes": answer(t, "running")})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	const said = "parked: 3 jobs of app 5 (受注); such jobs wait for another attempt"
	args := []string{"send", "--app", "5", "--record", "9", "--action", "承認", "--wait", "--timeout", "1800ms"}
	o := enqueue(t, args...)
	o.want(t, exitTimeout, []string{"0 of 1 job ended"}, []string{said, "!app 6", "!waiting"})
	if n := strings.Count(o.err, said); n != 1 {
		t.Errorf("it was said %d times, want once", n)
	}
	args[2] = "6" // which has nothing parked
	enqueue(t, args...).want(t, exitTimeout, nil, []string{"!parked"})
}

func TestSendAndWatchInJapanese(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	ja := func(args ...string) output { return enqueue(t, append(args, "--lang", "ja")...) }
	path := p.file(t, "a.csv", "app,record,action\n5,1,承認\n5,2,承認\n")
	ja("send", "--file", path, "--campaign", "c").want(t, exitDone,
		[]string{"キャンペーン c: ジョブ2件を受け付けました\n"}, []string{"進み具合の確認: enqueue watch c\n"})
	ja("send", "--file", path, "--campaign", "c").want(t, exitDone,
		[]string{"キャンペーン c: ジョブ2件はすべて送信済みなので"}, []string{"キャンペーン c は", "に送信済みです（ジョブ2件中2件）。"})
	ja("watch", "c", "--timeout", "1s").want(t, exitTimeout, []string{"キャンペーン c: ジョブ2件中0件が終了\n"},
		[]string{"キャンペーン c、ジョブ2件、送信 ", "待機中: このサイトを処理するワーカーが動いていません", "enqueue: 1秒たっても終わらないジョブがあります。処理は続いています\n"})
	ja("lanes").want(t, exitNoQueue, nil, []string{"enqueue: lanes of main: no worker answers\n  → 応答するワーカーがありません。"})
	ja("job", "none").want(t, exitError, nil, []string{"ジョブ none はサイト main にありません"})
	ja("watch", "none").want(t, exitError, nil, []string{"キャンペーン none はありません"})
	p.work(t, 5, 2, func(j queue.Job) queue.Result {
		if j.Record == 1 {
			return queue.Result{Outcome: queue.Dead, Reason: "not_assignee"}
		}
		return queue.Result{Outcome: queue.Applied, Revision: 3}
	})
	ja("watch", "c", "--timeout", "20s").want(t, exitDead, []string{"キャンペーン c: ジョブ2件中2件が終了\n", "  1  applied  実行済み\n  1  dead     エラー\n", "レコードの作業者が別の人です"},
		[]string{"終了: ジョブ2件中2件（実行済み1件、エラー1件）\n"})
	o := ja("send", "--app", "5", "--record", "9", "--action", "承認", "--job", "x", "--json")
	if line := o.lines(t)[0]; line["type"] != "send" || line["job"] != "x" || line["accepted"] != 1.0 {
		t.Errorf("with --json the language changes %v", line)
	}
	ja("send", "--app", "5", "--record", "9", "--action", "承認", "--job", "y", "--dry-run").want(t, exitDone,
		[]string{"\nジョブ y（アプリ5、レコード9、アクション「承認」）: 問題ありません。何も送信していません\n"}, nil)

	// A full log, and the language of the environment.
	t.Setenv("LC_ALL", "ja_JP.UTF-8")
	enqueue(t, "results", "c").want(t, exitDone, []string{"ジョブ", "アプリ  レコード  結果", "終了日時"}, nil)
	enqueue(t, "results", "c", "--lang", "en").want(t, exitDone, []string{"JOB", "APP  RECORD  OUTCOME", "ENDED"}, nil)
}

func TestParkedNamesTheLanes(t *testing.T) {
	a := lanesAnswer{Lanes: []lane{{App: 5, Parked: 50}, {App: 6}, {App: 7, Name: "Orders", Parked: 1}}}
	for want, apps := range map[string][]int64{
		"parked: 50 jobs of app 5, 1 job of app 7 (Orders); such jobs": nil,
		"parked: 1 job of app 7 (Orders); such jobs":                   {6, 7},
	} {
		if got := a.parked(apps, "en"); !strings.HasPrefix(got, want) {
			t.Errorf("parked(%v) = %q, want %q …", apps, got, want)
		}
	}
	if got := a.parked([]int64{6}, "en"); got != "" {
		t.Errorf("parked([6]) = %q, want nothing", got)
	}
}

func TestWaitInterruptedSaysThatTheJobsGoOn(t *testing.T) {
	newPlace(t, queue.Layout{})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(500*time.Millisecond, cancel)
	o := enqueueWith(t, ctx, csvOf(4), "send", "--file", "-", "--campaign", "c", "--wait")
	o.want(t, exitError, []string{"4 jobs accepted"}, []string{"stopped waiting, 0 of 4 jobs ended; the jobs go on (enqueue watch c)"})
}

func TestWatch(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	enqueue(t, "watch", "month-end").want(t, exitError, nil, []string{"there is no campaign month-end: nothing was ever published under this name, or its record is gone"})
	enqueueWith(t, t.Context(), csvOf(20), "send", "--file", "-", "--campaign", "month-end")
	p.work(t, 5, 10, func(queue.Job) queue.Result { return queue.Result{Outcome: queue.Applied} })
	enqueue(t, "watch", "month-end", "--timeout", "500ms").want(t, exitTimeout, []string{"10 of 20 jobs ended", "10  applied"},
		[]string{"campaign month-end, 20 jobs", "ended 10 of 20 jobs (10 applied"})
	p.work(t, 6, 10, func(queue.Job) queue.Result { return queue.Result{Outcome: queue.Already} })
	enqueue(t, "watch", "month-end").want(t, exitDone, []string{"20 of 20 jobs ended", "10  already"}, nil)
}

// answer is a worker's answer about two lanes, the first of which is in a state.
func answer(t *testing.T, state string) queue.Handler {
	a := lanesAnswer{V: 1, Site: "main", Owner: "w1", Epoch: 7, Gate: gate{Breaker: "closed", Concurrency: 4, InUse: 1}, Lanes: []lane{
		{App: 5, Name: "受注", State: state, Backlog: 123, Ready: 10, InFlight: 2, Parked: 3, Applied: 1000, Dead: 2, RequestsToday: 17, Budget: 10000},
		{App: 6, Name: "Orders", State: "running", Backlog: 4},
	}}
	if state != "running" {
		a.Lanes[0].Why, a.Lanes[0].Detail, a.Lanes[0].Since = "token_invalid", "GAIA_IA02", "2026-12-01T00:00:00Z"
	}
	raw, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return func(context.Context, []byte) ([]byte, error) { return raw, nil }
}

func TestHolds(t *testing.T) {
	running := lane{App: 5, Name: "Orders", State: "running"}
	for _, c := range []struct {
		name string
		a    lanesAnswer
		apps []int64
		want []string
	}{
		{"all well", lanesAnswer{Gate: gate{Breaker: "closed"}, Lanes: []lane{running}}, nil, nil},
		{"breaker", lanesAnswer{Gate: gate{Breaker: "open", Why: "HTTP 503"}}, nil, []string{"(breaker open): HTTP 503"}},
		{"halted site", lanesAnswer{Gate: gate{Breaker: "closed", Halted: "login_refused", Why: "CB_WA01: wrong password"}}, nil,
			[]string{"the site stands still: kintone refuses the login [CB_WA01: wrong password] → correct the login name and password"}},
		{"halted lane", lanesAnswer{Lanes: []lane{{App: 9, State: "halted", Why: "server_error", Detail: "GAIA_XX99"}}}, nil,
			[]string{"app 9 is halted: kintone answers with server errors [GAIA_XX99] → wait: the lane tries again by itself; if that lasts"}},
		{"for a reason of another version", lanesAnswer{Lanes: []lane{{App: 9, State: "halted", Why: "moon_phase", Detail: "waxing"}}}, nil,
			[]string{"app 9 is halted: moon_phase [waxing]"}},
		{"lanes on their way", lanesAnswer{Lanes: []lane{{App: 9, State: "starting"}, {App: 10, State: "stopping"}}}, nil, nil},
		{"unserved", lanesAnswer{Lanes: []lane{{App: 9, State: "unserved", Why: "app_not_found"}}}, nil, []string{"app 9 is unserved: the app does not exist"}},
		{"somebody else's lane", lanesAnswer{Lanes: []lane{{App: 9, State: "unserved"}}}, []int64{5}, nil},
		{"budget", lanesAnswer{Lanes: []lane{{App: 9, State: "running", Budget: 10, RequestsToday: 10}}}, nil, []string{"app 9 waits: the app has used up its requests of today [10 of 10 requests]"}},
		{"the reserve of a budget", lanesAnswer{Lanes: []lane{{App: 9, State: "running", Budget: 10, Reserve: 1, RequestsToday: 9, WhenSpent: "halt"}}}, nil,
			[]string{"[9 of 10 requests, 1 kept in reserve] → wait: it goes on at 09:00 Japan time"}},
		{"a budget that is spent while it is spread", lanesAnswer{Lanes: []lane{{App: 9, State: "running", Why: "budget_paced", Budget: 10, RequestsToday: 10}}}, nil,
			[]string{"app 9 waits: the app has used up"}},
		{"a budget that is spread, and the time has come", lanesAnswer{Lanes: []lane{{App: 9, State: "running", Why: "budget_paced", Until: utc(time.Now().Add(-time.Minute))}}}, nil,
			[]string{"app 9 gathers jobs into fuller batches, as the day's budget is short"}},
		{"a budget that only warns", lanesAnswer{Lanes: []lane{{App: 9, State: "running", Budget: 10, RequestsToday: 12, WhenSpent: "warn"}}}, nil, nil},
	} {
		got := c.a.holds(c.apps, "en")
		if !slices.EqualFunc(got, c.want, func(h hold, want string) bool { return strings.Contains(h.String(), want) }) {
			t.Errorf("%s: holds = %q, want %q", c.name, got, c.want)
		}
	}
	if got := (lanesAnswer{Lanes: []lane{{App: 9, State: "halted", Why: "deploying"}}}).holds(nil, "ja"); len(got) != 1 || !strings.Contains(got[0].what, "反映中") {
		t.Errorf("in Japanese: %q", got)
	}
}

// A lane that keeps jobs back for its budget's sake holds them up as far as anybody who waits can see.
func TestALaneThatGathersJobsIsAHold(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	until := time.Now().Add(time.Hour).Truncate(time.Second)
	raw, err := json.Marshal(lanesAnswer{V: 1, Site: "main", Lanes: []lane{
		{App: 5, State: "running", Why: "budget_paced", Until: until.Format(time.RFC3339), Budget: 100, RequestsToday: 60, Stretch: 900}}})
	if err != nil {
		t.Fatal(err)
	}
	stop, err := p.q.Serve(t.Context(), "main", map[string]queue.Handler{"lanes": func(context.Context, []byte) ([]byte, error) { return raw, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	at := until.Local().Format("15:04:05")
	line := "app 5 gathers jobs into fuller batches, as the day's budget is short; the next leaves at " + at + "\n"
	enqueue(t, "lanes").want(t, exitDone, []string{line}, nil)
	enqueue(t, "lanes", "--lang", "ja").want(t, exitDone, []string{"アプリ5は、", "（次の送信は" + at + "）\n", "!gathers"}, nil)
	if lines := enqueue(t, "lanes", "--json").lines(t); lines[1]["why"] != "budget_paced" || lines[1]["until"] != until.Format(time.RFC3339) {
		t.Errorf("lanes --json printed %v", lines)
	}
	enqueue(t, "send", "--app", "5", "--record", "1", "--action", "承認", "--wait", "--timeout", "300ms").
		want(t, exitHeld, nil, []string{"waiting: " + line, "the jobs go on when nothing holds them up"})
}

// While nothing has ended, nothing is said about how.
func TestProgressOfMatchesThatHaveNotEnded(t *testing.T) {
	var b strings.Builder
	e := &env{stderr: &b}
	now := time.Now()
	tally := campaign.NewTally(1, nil)
	tally.Add(queue.Result{Job: "a", Outcome: queue.Matched, Matches: 100, At: now})
	e.progress("ended", 1).ended(tally, now)
	if want := "ended 0 of 1 job (0 of 100 matched records, 1/s, 1m40s left)\n"; b.String() != want {
		t.Errorf("printed %q, want %q", b.String(), want)
	}
}

func TestProgressLines(t *testing.T) {
	var b strings.Builder
	e := &env{stderr: &b}
	p := e.progress("ended", 3)
	tally := campaign.NewTally(3, nil)
	now := time.Now()
	for i, o := range []queue.Outcome{queue.Applied, queue.Dead, queue.Applied} {
		tally.Add(queue.Result{Job: fmt.Sprint(i), Outcome: o, At: now})
		p.ended(tally, now)
		p.ended(tally, now)
		now = now.Add(time.Second)
	}
	want := "ended 1 of 3 jobs (1 applied, 1/s, 2s left)\nended 3 of 3 jobs (2 applied, 1 dead)\n"
	if b.String() != want {
		t.Errorf("printed\n%s, want\n%s", b.String(), want)
	}
}
