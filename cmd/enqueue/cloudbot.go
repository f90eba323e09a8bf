package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"statusq/internal/campaign"
	"statusq/internal/queue"
)

// screen gathers what is shown when a job with a key has ended: what Cloud BOT's extension "kintone / Update status"
// shows in the same place (SEED0), so that who moves from there finds everything again.
type screen struct {
	job  queue.Job
	ends ends // of the job, and of those that were made of it
}

func newScreen(job queue.Job) *screen { return &screen{job: job} }

// updateStatus is the screen for scripts. Reason is a code, error and details are in words, in the language of --lang.
type updateStatus struct {
	head
	Job      string    `json:"job"`
	Campaign string    `json:"campaign,omitempty"`
	App      id        `json:"app"`
	AppName  string    `json:"appName"`
	Key      queue.Key `json:"key"`
	Match    string    `json:"match"`
	Revision id        `json:"revision,omitempty"` // of the record afterwards, if there is just one
	Updated  int       `json:"updated"`
	Errors   int       `json:"errors"` // what is dead, and what is unknown
	Reason   string    `json:"reason,omitempty"`
	Error    string    `json:"error"`   // the first one
	Details  string    `json:"details"` // of the first one

	Unknown   int            `json:"unknown,omitempty"` // of the errors: it is not known whether the status was updated
	Already   int            `json:"already,omitempty"` // the record stood there before
	Duplicate int            `json:"duplicate,omitempty"`
	Cancelled int            `json:"cancelled,omitempty"` // not run any more, after --max-dead errors
	Records   []recordUpdate `json:"records"`             // in the order of their numbers
	Done      bool           `json:"done"`
}

// recordUpdate is what became of one record.
type recordUpdate struct {
	Job      string        `json:"job"`
	Record   id            `json:"record,omitempty"`
	Outcome  queue.Outcome `json:"outcome"`
	Revision id            `json:"revision,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Code     string        `json:"code,omitempty"`
	Message  string        `json:"message,omitempty"`
}

// of puts together what is known; the app's name and whether all has ended come from elsewhere.
func (s *screen) of(lang string) updateStatus {
	v := updateStatus{head: of("update-status"), Job: s.job.ID, Campaign: s.job.Campaign, App: id(s.job.App), Key: *s.job.Key, Match: s.job.Match,
		Records: []recordUpdate{}}
	inOrder := slices.SortedStableFunc(slices.Values(s.ends.list), func(a, b queue.Result) int { return cmp.Compare(a.Record, b.Record) })
	for _, r := range inOrder {
		switch r.Outcome {
		case queue.Matched: // what was made of it is counted
			continue
		case queue.Applied:
			v.Updated++
		case queue.Already:
			v.Already++
		case queue.Duplicate:
			v.Duplicate++
		case queue.Cancelled:
			v.Cancelled++
		case queue.Dead, queue.Unknown:
			if v.Errors++; r.Outcome == queue.Unknown {
				v.Unknown++
			}
			if v.Errors == 1 {
				what, todo := campaign.ReasonText(r.Reason, lang)
				v.Reason, v.Error = r.Reason, what
				v.Details = join(recordText(r.Record, lang), ": ", join(join(r.Code, " ", r.Message), " → ", todo))
			}
		}
		v.Records = append(v.Records, recordUpdate{r.Job, id(r.Record), r.Outcome, id(r.Revision), r.Reason, r.Code, r.Message})
	}
	if len(v.Records) == 1 {
		v.Revision = v.Records[0].Revision
	}
	return v
}

// revisions says which revision the updated records have now.
func (v updateStatus) revisions(lang string) string {
	if len(v.Records) == 1 {
		return numberOrDash(int64(v.Revision))
	}
	var all []string
	for _, r := range v.Records {
		if r.Revision > 0 {
			all = append(all, fmt.Sprintf("%d (%s)", r.Revision, recordText(int64(r.Record), lang)))
		}
	}
	return orDash(few(all, lang))
}

// screenTexts are the names of what a screen shows, as Cloud BOT has them as far as it has them.
var screenTexts = map[string]map[string]string{
	"en": {"job": "Job", "app": "App name", "key": "Target record key", "revision": "Revision number", "updated": "Number of updates",
		"errors": "Number of update errors", "unknown": "of these not known", "already": "Already there before", "duplicate": "Done under this id before",
		"cancelled": "Not run any more", "open": "Not ended yet", "error": "Error", "details": "Error details",
		"each": "see each record with"},
	"ja": {"job": "ジョブ", "app": "アプリ名", "key": "対象レコードのキー", "revision": "リビジョン番号", "updated": "更新件数",
		"errors": "更新エラー件数", "unknown": "うち結果不明", "already": "変更不要（更新済み）", "duplicate": "同じIDで実行済み",
		"cancelled": "中止（未実行）", "open": "未完了", "error": "エラー", "details": "エラー詳細",
		"each": "レコードごとの結果"},
}

// showScreen shows how a job with a key has ended, or how far it is.
func (e *env) showScreen(ctx context.Context, q *queue.Queue, f following, done bool) error {
	v := f.screen.of(e.Lang)
	v.AppName, v.Done = appName(ctx, q, f.filter.Site, f.filter.App), done
	if e.JSON {
		return e.emit(v)
	}
	name := screenTexts[e.Lang]
	g := listing(0, "", "")
	g.add(name["job"], v.Job)
	g.add(name["app"], orDash(v.AppName))
	g.add(name["key"], v.Key.Field+" = "+v.Key.Value)
	g.add(name["revision"], v.revisions(e.Lang))
	g.add(name["updated"], v.Updated)
	g.add(name["errors"], v.Errors)
	g.addNumber(name["unknown"], int64(v.Unknown))
	g.addNumber(name["already"], int64(v.Already))
	g.addNumber(name["duplicate"], int64(v.Duplicate))
	g.addNumber(name["cancelled"], int64(v.Cancelled))
	if steps, all := f.tally.Steps(); !done {
		g.add(name["open"], max(1, all-steps))
	}
	g.add(name["error"], orDash(v.Error))
	g.add(name["details"], orDash(v.Details))
	const shown = 5
	failed := 0
	for _, r := range v.Records {
		if r.Outcome != queue.Dead && r.Outcome != queue.Unknown {
			continue
		}
		if failed++; failed > 1 && failed <= shown {
			what, _ := campaign.ReasonText(r.Reason, e.Lang)
			g.add("", join(recordText(int64(r.Record), e.Lang), ": ", join(what, " ", bracketed(join(r.Code, " ", r.Message)))))
		}
	}
	if failed > shown {
		g.add("", fmt.Sprintf("… +%d", failed-shown))
	}
	if err := e.write(g, ""); err != nil {
		return err
	}
	if len(v.Records) > 1 || v.Errors > 0 {
		e.say("%s: enqueue job %s", name["each"], v.Job)
	}
	return nil
}

// appName is what an app is called, as the worker has noted or says; "" if it is not known.
func appName(ctx context.Context, q *queue.Queue, site string, app int64) string {
	// A name is worth no error: what matters has happened.
	if facts, err := q.Facts(ctx, site, app); err == nil && facts.AppName != "" {
		return facts.AppName
	}
	lanes, err := ask(ctx, q, site)
	if err != nil {
		return ""
	}
	name := ""
	for _, l := range lanes.Lanes {
		if l.App == app {
			name = cmp.Or(l.Name, name)
		}
	}
	return name
}

func recordText(record int64, lang string) string {
	switch {
	case record == 0:
		return ""
	case lang == "ja":
		return fmt.Sprintf("レコード%d", record)
	}
	return fmt.Sprintf("record %d", record)
}

// join puts two texts together, with what stands between them if both are there.
func join(a, between, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + between + b
}

func bracketed(text string) string {
	if text = strings.TrimSpace(text); text == "" {
		return ""
	}
	return "[" + text + "]"
}
