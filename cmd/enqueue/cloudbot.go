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

// showScreen shows how a job with a key has ended, or how far it is.
func (e *env) showScreen(ctx context.Context, q *queue.Queue, f following, done bool) error {
	v := f.screen.of(e.Lang)
	v.AppName, v.Done = appName(ctx, q, f.filter.Site, f.filter.App), done
	if e.JSON {
		return e.emit(v)
	}
	// The names are those of Cloud BOT as far as it has them.
	g := e.listing(0, "", "")
	g.add(word(e.Lang, "Job"), v.Job)
	g.add(word(e.Lang, "App name"), orDash(v.AppName))
	g.add(word(e.Lang, "Target record key"), v.Key.Field+" = "+v.Key.Value)
	g.add(word(e.Lang, "Revision number"), v.revisions(e.Lang))
	g.add(word(e.Lang, "Number of updates"), v.Updated)
	g.add(word(e.Lang, "Number of update errors"), v.Errors)
	g.addNumber("of these not known", int64(v.Unknown))
	g.addNumber("Already there before", int64(v.Already))
	g.addNumber("Done under this id before", int64(v.Duplicate))
	g.addNumber("Not run any more", int64(v.Cancelled))
	if steps, all := f.tally.Steps(); !done {
		g.add(word(e.Lang, "Not ended yet"), max(1, all-steps))
	}
	g.add(word(e.Lang, "Error"), orDash(v.Error))
	g.add(word(e.Lang, "Error details"), orDash(v.Details))
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
		e.say("see each record with: enqueue job %s", v.Job)
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
	if record == 0 {
		return ""
	}
	return in(lang, "record %d", record)
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
