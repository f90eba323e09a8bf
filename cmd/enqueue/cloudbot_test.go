package main

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"statusq/internal/queue"
)

// next takes the next job of an app out of the log, as a worker reads it.
func (p *place) next(t *testing.T, app int64) (queue.Job, uint64) {
	t.Helper()
	r, err := p.q.ReadLog(t.Context(), "main", app, 0)
	if err != nil {
		t.Error(err)
		return queue.Job{}, 0
	}
	defer r.Stop()
	entry, err := r.Next(t.Context())
	if err != nil {
		t.Error(err)
		return queue.Job{}, 0
	}
	job, err := queue.DecodeJob(entry.Data, "main", app)
	if err != nil {
		t.Error(err)
	}
	return job, entry.Seq
}

// matched is what a worker writes of a job whose key matches several records: its own end, and that of each job that was
// made of it.
func matched(job queue.Job, seq uint64, children ...queue.Result) queue.Settlement {
	at := time.Date(2026, 12, 1, 1, 2, 3, 0, time.UTC)
	set := queue.Settlement{Results: []queue.Result{
		{Seq: seq, Job: job.ID, Outcome: queue.Matched, Matches: len(children), Campaign: job.Campaign, Ref: job.Ref, At: at}}}
	for _, r := range children {
		r.Seq, r.Job, r.Parent, r.Campaign, r.At = seq, queue.ChildID(job.ID, r.Record), job.ID, job.Campaign, at
		set.Results = append(set.Results, r)
		if r.Outcome == queue.Dead || r.Outcome == queue.Unknown {
			child := queue.Job{ID: r.Job, Site: "main", App: job.App, Record: r.Record, Action: job.Action, Revision: -1, Campaign: job.Campaign}
			set.Dead = append(set.Dead, &queue.DeadLetter{V: 1, Job: child, Site: "main", App: job.App, Seq: seq, Outcome: r.Outcome, Reason: r.Reason,
				Code: r.Code, Message: r.Message, Died: at, Parent: job.ID})
		}
	}
	return set
}

// The form of Cloud BOT's extension "kintone / Update status" and its result screen (SEED0): app name, target record key,
// revision, number of updates and of errors, error, details; "if an error occurs, further processing is aborted".
func TestCloudBotForm(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	for app, facts := range map[int64]queue.Facts{0: {Domain: "c-bot.s.cybozu.com"}, 5: {AppName: "受注管理"}} {
		if err := p.q.PutFacts(t.Context(), "main", app, facts); err != nil {
			t.Fatal(err)
		}
	}
	args := func(job string, more ...string) []string {
		return append([]string{"send", "--domain", "c-bot.cybozu.com", "--app", "5", "--key-field", "code", "--key", "C-1", "--match", "all",
			"--revision", "12", "--action", "承認", "--assignee", "sato", "--max-dead", "0", "--job", job, "--wait", "--timeout", "20s"}, more...)
	}
	three := []queue.Result{
		{Record: 1001, Outcome: queue.Applied, Revision: 14},
		{Record: 1002, Outcome: queue.Dead, Reason: "not_assignee", Code: "GAIA_NT01", Message: "作業者ではありません"},
		{Record: 1003, Outcome: queue.Cancelled, Reason: "max_dead"},
	}
	for _, c := range []struct {
		job  string
		more []string
		end  []queue.Result // of the jobs that are made of it, or of the job itself
		many bool
		code int
		out  string // behind the line that says that it was accepted
	}{
		{"a", nil, three, true, exitDead, "" +
			"Job                      a\n" +
			"App name                 受注管理\n" +
			"Target record key        code = C-1\n" +
			"Revision number          14 (record 1001)\n" +
			"Number of updates        1\n" +
			"Number of update errors  1\n" +
			"Not run any more         1\n" +
			"Error                    somebody else is the assignee of the record\n" +
			"Error details            record 1002: GAIA_NT01 作業者ではありません → let the assignee act, or make the account that statusq uses the assignee (Administrator for API tokens), then retry\n"},
		{"b", []string{"--lang", "ja"}, three, true, exitDead, "" +
			"ジョブ              b\n" +
			"アプリ名            受注管理\n" +
			"対象レコードのキー  code = C-1\n" +
			"リビジョン番号      14 (レコード1001)\n" +
			"更新件数            1\n" +
			"更新エラー件数      1\n" +
			"中止（未実行）      1\n" +
			"エラー              レコードの作業者が別の人です\n" +
			"エラー詳細          レコード1002: GAIA_NT01 作業者ではありません → 作業者に実行してもらうか、statusqが使うアカウント（APIトークンならAdministrator）を作業者にしてから再試行してください\n"},
		{"c", nil, three[:1], true, exitDone, "" +
			"Job                      c\n" +
			"App name                 受注管理\n" +
			"Target record key        code = C-1\n" +
			"Revision number          14\n" +
			"Number of updates        1\n" +
			"Number of update errors  0\n" +
			"Error                    -\n" +
			"Error details            -\n"},
		{"d", nil, []queue.Result{{Outcome: queue.Dead, Reason: "key_not_found", Message: "none"}}, false, exitDead, "" +
			"Job                      d\n" +
			"App name                 受注管理\n" +
			"Target record key        code = C-1\n" +
			"Revision number          -\n" +
			"Number of updates        0\n" +
			"Number of update errors  1\n" +
			"Error                    no record has that value in the key field\n" +
			"Error details            none → check field and value, and that the account or token may view the record; retry once the record is there\n"},
		{"e", nil, []queue.Result{
			{Record: 1, Outcome: queue.Already, Revision: 3}, {Record: 2, Outcome: queue.Unknown, Reason: "outcome_unknown"},
			{Record: 3, Outcome: queue.Dead, Reason: "refused", Code: "GAIA_XX99"}, {Record: 4, Outcome: queue.Duplicate}}, true, exitUnknown, "" +
			"Job                        e\n" +
			"App name                   受注管理\n" +
			"Target record key          code = C-1\n" +
			"Revision number            3 (record 1)\n" +
			"Number of updates          0\n" +
			"Number of update errors    2\n" +
			"of these not known         1\n" +
			"Already there before       1\n" +
			"Done under this id before  1\n" +
			"Error                      an answer was lost and the record was changed by somebody else meanwhile: whether the action ran cannot be proved\n" +
			"Error details              record 2: look at the record's history in kintone, then say what it shows with dead resolve: --applied, --not-applied or --retry\n" +
			"                           record 3: kintone refuses the action [GAIA_XX99]\n"},
	} {
		t.Run(c.job, func(t *testing.T) {
			var wg sync.WaitGroup
			wg.Go(func() {
				job, seq := p.next(t, 5)
				want := queue.Job{ID: c.job, Site: "main", App: 5, Key: &queue.Key{Field: "code", Value: "C-1"}, Match: "all", Action: "承認",
					Assignee: "sato", Revision: 12, Campaign: c.job, By: job.By}
				if !reflect.DeepEqual(job, want) {
					t.Errorf("the log has %+v, want %+v", job, want)
				}
				if record, err := p.q.Campaign(t.Context(), job.Campaign); err != nil || record.MaxDead == nil || *record.MaxDead != 0 || record.Site != "main" {
					t.Errorf("before its job can be read, the campaign is %+v (%v)", record, err)
				}
				set := matched(job, seq, c.end...)
				if !c.many {
					set.Results = set.Results[1:]
					set.Results[0].Job, set.Results[0].Parent = job.ID, ""
					set.Dead = nil
				}
				p.settle(t, 5, set)
				if err := p.q.PurgeLog(t.Context(), "main", 5, seq+1); err != nil {
					t.Error(err)
				}
			})
			o := enqueue(t, args(c.job, c.more...)...)
			wg.Wait()
			said := "job %s (app 5, all records with code = C-1, 承認): accepted\n"
			if slices.Contains(c.more, "ja") {
				said = "ジョブ %s（アプリ5、code = C-1 のすべてのレコード、アクション「承認」）: 受け付けました\n"
			}
			want := fmt.Sprintf(said, c.job) + c.out
			if o.code != c.code || o.out != want {
				t.Errorf("exit code %d, printed\n%s%s, want %d and\n%s", o.code, o.out, o.err, c.code, want)
			}
			if record, err := p.q.Campaign(t.Context(), c.job); err != nil || record.Total != 1 || record.Published != 1 {
				t.Errorf("the campaign is %+v (%v)", record, err)
			}
		})
	}

	// The same job again: nothing runs, and the screen says what became of it.
	o := enqueue(t, args("a", "--json")...)
	lines := o.lines(t)
	if o.code != exitDead || len(lines) != 3 || lines[0]["duplicates"] != 1.0 || lines[0]["match"] != "all" {
		t.Fatalf("exit code %d, printed %v", o.code, lines)
	}
	if end := lines[1]; end["type"] != "end" || end["total"] != 1.0 || end["matched"] != 3.0 || end["done"] != true {
		t.Errorf("the end is %v", end)
	}
	screen := lines[2]
	for name, want := range map[string]any{"type": "update-status", "v": 1.0, "job": "a", "campaign": "a", "app": "5", "appName": "受注管理", "match": "all",
		"key": map[string]any{"field": "code", "value": "C-1"}, "revision": nil, "updated": 1.0, "errors": 1.0, "cancelled": 1.0, "already": nil,
		"reason": "not_assignee", "error": "somebody else is the assignee of the record", "done": true} {
		if !reflect.DeepEqual(screen[name], want) {
			t.Errorf("--json: %s is %v, want %v", name, screen[name], want)
		}
	}
	records, _ := screen["records"].([]any)
	want := map[string]any{"job": "a/1002", "record": "1002", "outcome": "dead", "reason": "not_assignee", "code": "GAIA_NT01", "message": "作業者ではありません"}
	if len(records) != 3 || !reflect.DeepEqual(records[1], want) {
		t.Errorf("--json: records are %v", records)
	}
}

// A key that means one record ends under the job's own id, with the record that was found.
func TestCloudBotFormOfOneRecord(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	stop, err := p.q.Serve(t.Context(), "main", map[string]queue.Handler{"lanes": answer(t, "running")})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	p.settle(t, 5, queue.Settlement{Results: []queue.Result{
		{Seq: 1, Job: "a", Outcome: queue.Dead, Reason: "key_not_found", At: time.Now()},
		{Seq: 1, Job: "a", Record: 1001, Outcome: queue.Applied, Revision: 3, At: time.Now()}, // after a retry
	}})
	args := []string{"send", "--app", "5", "--key-field", "code", "--key-value", "C-1", "--action", "承認", "--job", "a", "--wait", "--timeout", "20s"}
	enqueue(t, args...).want(t, exitDone, []string{"the record with code = C-1", "App name                 受注\n", "Number of updates        1", "Revision number          3", "Number of update errors  0"}, nil)
	if job, _ := p.next(t, 5); job.Match != queue.MatchOne || job.Campaign != "" {
		t.Errorf("the log has %+v", job)
	}
	enqueue(t, "job", "a").want(t, exitDone, []string{"applied, the record had revision 3 after it", "record", "1001"}, nil)
}

// Records that end in any order are told in the order of their numbers.
func TestCloudBotFormOfManyRecords(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	var ends []queue.Result
	for _, record := range []int64{5, 1005, 995, 35, 15, 25} {
		ends = append(ends, queue.Result{Record: record, Outcome: queue.Applied, Revision: 3})
	}
	ends[4] = queue.Result{Record: 15, Outcome: queue.Dead, Reason: "refused"}
	ends[1] = queue.Result{Record: 1005, Outcome: queue.Dead, Reason: "not_assignee"}
	p.settle(t, 5, matched(queue.Job{ID: "a", App: 5, Action: "承認"}, 1, ends...))
	args := []string{"send", "--app", "5", "--key-field", "code", "--key", "C-1", "--match", "all", "--action", "承認", "--job", "a", "--wait", "--timeout", "20s"}
	enqueue(t, args...).want(t, exitDead, []string{"3 (record 5), 3 (record 25), 3 (record 35), 3 (record 995)\n", "Error details            record 15: ", "  record 1005: "},
		[]string{"see each record with: enqueue job a"})
	ends[4], ends[1] = queue.Result{Record: 15, Outcome: queue.Applied, Revision: 3}, queue.Result{Record: 1005, Outcome: queue.Applied, Revision: 3}
	p.settle(t, 5, matched(queue.Job{ID: "b", App: 5, Action: "承認"}, 2, ends...))
	args[12] = "b"
	enqueue(t, append(args, "--lang", "ja")...).want(t, exitDone, []string{"3 (レコード5), 3 (レコード15), 3 (レコード25), 3 (レコード35), … ほか2件\n"},
		[]string{"レコードごとの結果: enqueue job b"})
}

func TestCloudBotFormTimesOut(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	job := queue.Job{ID: "a", App: 5, Action: "承認"}
	set := matched(job, 1, queue.Result{Record: 1001, Outcome: queue.Applied, Revision: 14}, queue.Result{Record: 1002, Outcome: queue.Applied})
	set.Results = set.Results[:2] // record 1002 has not ended
	p.settle(t, 5, set)
	enqueue(t, "send", "--app", "5", "--key-field", "code", "--key", "C-1", "--match", "all", "--action", "承認", "--job", "a", "--wait", "--timeout", "300ms").
		want(t, exitTimeout, []string{"App name                 -\n", "Number of updates        1", "Not ended yet            1"},
			[]string{"ended 0 of 1 job (1 of 2 matched records, 1 applied", "the jobs go on"})
}

func TestDomainChoosesTheSite(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	for site, domain := range map[string]string{"main": "a.cybozu.com", "east": "b.kintone.com", "west": "b.kintone.com"} {
		if err := p.q.PutFacts(t.Context(), site, 0, queue.Facts{Domain: domain}); err != nil {
			t.Fatal(err)
		}
	}
	send := func(args ...string) output {
		return enqueue(t, append([]string{"send", "--app", "5", "--record", "1", "--action", "承認"}, args...)...)
	}
	send("--domain", "c.cybozu.com").want(t, exitUsage, nil, []string{`--domain: no worker of this queue has served "c.cybozu.com"`, "correct the domain, or start a worker", "!any more", "known are a.cybozu.com (site main), b.kintone.com (site east), b.kintone.com (site west)"})
	send("--domain", "b.kintone.com").want(t, exitUsage, nil, []string{"belongs to the sites east, west: say which"})
	send("--domain", "a.cybozu.com", "--site", "west").want(t, exitUsage, nil, []string{"belongs to site main, not to west"})
	send("--domain", "b.kintone.com", "--site", "west").want(t, exitDone, []string{"accepted"}, nil)
	send("--domain", "b.s.kintone.com", "--site", "east", "--dry-run").want(t, exitDone, []string{"is valid"}, nil)
	t.Setenv("STATUSQ_SITE", "west")
	send("--domain", "https://A.cybozu.com/k/5/").want(t, exitDone, []string{"accepted"}, nil)
	for site, want := range map[string]uint64{"main": 1, "west": 1, "east": 0} {
		if b, err := p.q.Backlog(t.Context(), site); err != nil || b[5] != want {
			t.Errorf("site %s has %v (%v), want %d", site, b, err, want)
		}
	}
}

// What is sent to a site that nobody serves would lie unseen. As long as no worker has run, any site will do.
func TestSendRefusesAnUnknownSite(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	one := []string{"send", "--app", "5", "--record", "1", "--action", "承認", "--site"}
	enqueue(t, append(one, "early")...).want(t, exitDone, []string{"accepted"}, nil)
	for _, site := range []string{"main", "east"} {
		if err := p.q.PutFacts(t.Context(), site, 0, queue.Facts{Domain: site + ".cybozu.com"}); err != nil {
			t.Fatal(err)
		}
	}
	known := []string{`--site: no worker of this queue has served a site "nosuch" (known: east, main)`}
	enqueue(t, append(one, "nosuch")...).want(t, exitUsage, nil, known)
	enqueue(t, append(one, "nosuch", "--dry-run")...).want(t, exitUsage, nil, known)
	file := []string{"send", "--file", p.file(t, "a.csv", csvOf(2)), "--campaign", "c", "--site", "nosuch"}
	enqueue(t, file...).want(t, exitUsage, nil, known)
	enqueue(t, append(file, "--dry-run")...).want(t, exitUsage, nil, known)
	if _, err := p.q.Campaign(t.Context(), "c"); !errors.Is(err, queue.ErrGone) {
		t.Errorf("the campaign was entered: %v", err)
	}
	if b, err := p.q.Backlog(t.Context(), "nosuch"); err != nil || len(b) != 0 {
		t.Errorf("site nosuch has %v (%v)", b, err)
	}
	enqueue(t, append(one, "east")...).want(t, exitDone, []string{"accepted"}, nil)
}

// A campaign of keys has ended when all that was made of its jobs has, and its exit code is theirs.
func TestCampaignOfKeys(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	path := p.file(t, "keys.csv", "コード,match\nC-1,all\nC-2,\n")
	args := []string{"send", "--file", path, "--map", "コード=key_value", "--key-field", "code", "--app", "5", "--action", "承認", "--campaign", "m", "--max-dead", "3"}
	enqueue(t, args...).want(t, exitDone, []string{"campaign m: 2 jobs accepted"}, nil)
	if record, err := p.q.Campaign(t.Context(), "m"); err != nil || record.MaxDead == nil || *record.MaxDead != 3 {
		t.Fatalf("the campaign is %+v (%v)", record, err)
	}
	first, seq := p.next(t, 5)
	if first.Match != queue.MatchAll || first.Key == nil || *first.Key != (queue.Key{Field: "code", Value: "C-1"}) {
		t.Fatalf("the first job is %+v", first)
	}
	set := matched(first, seq, queue.Result{Record: 1, Outcome: queue.Applied}, queue.Result{Record: 2, Outcome: queue.Dead, Reason: "not_assignee"})
	set.Results = append(set.Results[:2:2], queue.Result{Seq: 2, Job: "m-2", Record: 9, Outcome: queue.Applied, Campaign: "m", At: time.Now()}, set.Results[2])
	late := queue.Settlement{Results: set.Results[3:], Dead: set.Dead}
	set.Results, set.Dead = set.Results[:3], nil
	p.settle(t, 5, set)
	enqueue(t, "watch", "m", "--timeout", "300ms").want(t, exitTimeout, []string{"campaign m: 1 of 2 jobs ended", "1 of 2 matched records ended, each a job of its own", "2  applied"},
		[]string{"once more than 3 are dead, the rest is cancelled"})
	p.settle(t, 5, late)
	enqueue(t, "watch", "m").want(t, exitDead, []string{"campaign m: 2 of 2 jobs ended", "2 of 2 matched records", "2  applied", "1  dead", "1  not_assignee"}, nil)
	enqueue(t, "results", "m").want(t, exitDone, []string{"m-1/2", "matched", "2 records"}, nil)
	results := enqueue(t, "results", "m", "--outcome", "matched", "--json").lines(t)
	if len(results) != 1 || results[0]["job"] != "m-1" || results[0]["matches"] != 2.0 {
		t.Errorf("matched are %v", results)
	}
	if results := enqueue(t, "results", "m", "--outcome", "dead", "--json").lines(t); len(results) != 1 || results[0]["parent"] != "m-1" {
		t.Errorf("dead are %v", results)
	}

	// The record that failed is retried alone, and the whole is what became of it.
	enqueue(t, "dead", "retry", "m-1", "--yes").want(t, exitError, nil, []string{"no dead letter of job m-1 itself, but 1 letter of the jobs that were made of it: choose them by --parent m-1"})
	enqueue(t, "dead", "show", "m-1/2").want(t, exitDone, []string{"made of   m-1"}, nil)
	enqueue(t, "dead", "retry", "--parent", "m-1", "--yes", "--reason", "assignee cleared").want(t, exitDone, []string{"retried 1 dead letter"}, nil)
	enqueue(t, "job", "m-1").want(t, exitDone, []string{"matched 2 records, each a job of its own: 1 parked, 1 applied", "m-1/2"}, nil)
	enqueue(t, "job", "m-1/2").want(t, exitDone, []string{"parked, due now", "made of   m-1"}, nil)
	again := late.Results[0]
	again.Outcome, again.Reason, again.Revision = queue.Applied, "", 7
	p.settle(t, 5, queue.Settlement{Results: []queue.Result{again}, Unpark: []queue.ParkedRef{{Record: 2, Job: "m-1/2"}}})
	enqueue(t, "watch", "m").want(t, exitDone, []string{"campaign m: 2 of 2 jobs ended", "3  applied", "!dead"}, nil)
	enqueue(t, "job", "m-1").want(t, exitDone, []string{"2 records, each a job of its own: 2 applied", "matched 2 records"}, nil)

	// Sent again with another limit, the limit is the new one; one that was cancelled is not sent any more.
	enqueue(t, append(args[:len(args)-1:len(args)-1], "9")...).want(t, exitDone, []string{"all 2 jobs were sent before"}, nil)
	if record, err := p.q.Campaign(t.Context(), "m"); err != nil || *record.MaxDead != 9 {
		t.Errorf("the campaign is %+v (%v)", record, err)
	}
	one := []string{"send", "--app", "5", "--key-field", "code", "--key", "C-3", "--action", "承認", "--max-dead", "0", "--campaign"}
	enqueue(t, append(one, "m")...).want(t, exitUsage, nil, []string{"it was sent from a file"})
	enqueue(t, append(one, "by-hand")...).want(t, exitDone, []string{"accepted"}, nil)
	enqueue(t, append(one, "by-hand", "--app", "6")...).want(t, exitDone, []string{"accepted"}, nil)
	record, err := p.q.Campaign(t.Context(), "by-hand")
	if err != nil || record.Total != 2 || record.Options["apps"] != "5,6" {
		t.Errorf("the campaign is %+v (%v)", record, err)
	}
	p.cancel(t, "by-hand")
	enqueue(t, "watch", "by-hand", "--timeout", "100ms").want(t, exitTimeout, nil, []string{"by statusq [more jobs of the campaign died than it allows]; what"})
	enqueue(t, append(one, "by-hand")...).want(t, exitUsage, nil, []string{"it was cancelled on"})
}

// cancel is what the worker does to a campaign of which too many have died.
func (p *place) cancel(t *testing.T, campaign string) {
	t.Helper()
	err := p.q.UpdateCampaign(t.Context(), campaign, func(c *queue.Campaign) error {
		c.Cancelled, c.CancelledBy, c.CancelledWhy = time.Now(), "statusq", "max_dead"
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Who is still publishing when too many have died stops there. What was not published is no part of the campaign any more:
// nobody waits for it.
func TestPublishingStopsWhenItsCampaignIsCancelled(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	const rows = 20_000
	send := func(name string, args ...string) output {
		var wg sync.WaitGroup
		wg.Go(func() {
			for c, err := range p.q.WatchCampaigns(t.Context(), "main") {
				if err != nil {
					t.Error(err)
					return
				}
				if c.Name == name {
					p.cancel(t, name)
					return
				}
			}
		})
		defer wg.Wait()
		return enqueueWith(t, t.Context(), csvOf(rows), append([]string{"send", "--file", "-", "--campaign", name, "--max-dead", "0"}, args...)...)
	}
	o := send("a", "--json")
	o.want(t, exitError, nil, []string{"it was cancelled by statusq (max_dead)", "of 20000 jobs accepted; send the rest in another --campaign"})
	in := p.backlog(t, 5) + p.backlog(t, 6)
	record, err := p.q.Campaign(t.Context(), "a")
	if err != nil || record.Total != in || in == 0 || in == rows || o.lines(t)[0]["accepted"] != float64(in) {
		t.Errorf("%d jobs in the log, the campaign is %+v (%v), printed %s", in, record, err, o.out)
	}

	var wg sync.WaitGroup
	wg.Go(func() {
		for app := range int64(2) {
			var results []queue.Result
			for i := int(app); i < rows; i += 2 {
				results = append(results, queue.Result{Seq: uint64(rows + i + 1), Job: fmt.Sprintf("b-%d", i+1), Record: int64(1001 + i), Outcome: queue.Cancelled,
					Reason: "max_dead", Campaign: "b", At: time.Now()})
			}
			p.settle(t, 5+app, queue.Settlement{Results: results})
		}
	})
	o = send("b", "--wait", "--timeout", "20s")
	wg.Wait()
	o.want(t, exitDead, []string{"  cancelled\n", "  max_dead  more jobs of the campaign died than it allows", "!20000"}, []string{"of 20000 jobs were published"})
}

func TestJobOfManyRecords(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	job := queue.Job{ID: "a", App: 5, Action: "承認", Campaign: "m"}
	child := func(record int64) *queue.Parked {
		return &queue.Parked{V: 1, Job: queue.Job{ID: queue.ChildID("a", record), Site: "main", App: 5, Record: record, Action: "承認", Revision: -1, Campaign: "m"},
			Seq: 1, Due: time.Now().Add(time.Hour), Reason: "status_mismatch", Parent: "a"}
	}
	key := queue.Key{Field: "code", Value: "C-1"}
	parent := &queue.Parked{V: 1, Job: queue.Job{ID: "a", Site: "main", App: 5, Key: &key, Match: "all", Action: "承認", Revision: -1, Campaign: "m"},
		Seq: 1, Due: time.Now(), Reason: "matched", Matches: 2, After: 2}
	p.settle(t, 5, queue.Settlement{Park: []*queue.Parked{parent, child(1), child(2)}})
	enqueue(t, "job", "a").want(t, exitDone, []string{"matched 2 records, each a job of its own: 2 parked; more records are being looked for", "key       code = C-1",
		"match     all records that have it", "a/1", "a/2"}, nil)

	set := matched(job, 1, queue.Result{Record: 1, Outcome: queue.Applied, Revision: 3}, queue.Result{Record: 2, Outcome: queue.Applied},
		queue.Result{Record: 3, Outcome: queue.Dead, Reason: "refused", Code: "GAIA_XX99", Message: "no"}, queue.Result{Record: 4, Outcome: queue.Applied})
	set.Results = append(set.Results[:2], set.Results[3]) // 2 is parked, and of 4 nothing is known
	set.Unpark = []queue.ParkedRef{{Job: "a"}, {Record: 1, Job: "a/1"}}
	p.settle(t, 5, set)
	l := p.ledger[5]
	out := queue.Slot{V: 1, Request: &queue.Request{ID: "r1", At: time.Now(), Parts: []queue.Part{{Members: []queue.Member{{Seq: 1, Job: "a/5", Record: 5, Pin: 1}}}}}}
	if err := l.Write(t.Context(), 1, out, nil); err != nil {
		t.Fatal(err)
	}
	enqueue(t, "job", "a").want(t, exitDone, []string{"matched 4 records, each a job of its own: 1 dead, 1 in-flight, 1 parked, 1 applied",
		"JOB  RECORD  STATE      REVISION  REASON           CODE\n" +
			"a/3       3  dead              -  refused          GAIA_XX99\n" +
			"a/5       5  in-flight         -  -                -\n" +
			"a/2       2  parked            -  status_mismatch  -\n" +
			"a/1       1  applied           3  -                -\n"}, nil)
	v := enqueue(t, "job", "a", "--json").lines(t)[0]
	children, _ := v["children"].([]any)
	if v["state"] != "matched" || v["matches"] != 4.0 || len(children) != 4 || !reflect.DeepEqual(v["states"], map[string]any{"dead": 1.0, "in-flight": 1.0, "parked": 1.0, "applied": 1.0}) ||
		!reflect.DeepEqual(children[0], map[string]any{"job": "a/3", "record": "3", "state": "dead", "reason": "refused", "code": "GAIA_XX99", "message": "no"}) {
		t.Errorf("--json printed %v", v)
	}
	enqueue(t, "dead", "ls", "--parent", "a", "--json").want(t, exitDone, []string{`"job":"a/3","parent":"a"`}, nil)
	enqueue(t, "dead", "ls", "--parent", "b").want(t, exitDone, []string{"no dead letters"}, nil)

	letter := queue.Job{ID: "k", App: 5, Key: &key, Match: "one", Action: "承認"}
	p.die(t, letter, "key_not_found", "")
	enqueue(t, "dead", "ls", "--job", "k").want(t, exitDone, []string{"code = C-1", "no record has that value"}, nil)
	enqueue(t, "dead", "show", "k").want(t, exitDone, []string{"key      code = C-1"}, nil)
}
