package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"statusq/internal/campaign"
	"statusq/internal/queue"
)

const (
	// sendChunk is how many jobs go out between two looks at progress. The queue takes them in atomic batches of as many.
	sendChunk = 500
	// noteEvery is how often the campaign's record is told how far publishing got.
	noteEvery = 5 * time.Second
	// farewell bounds what still has to be written after Ctrl-C.
	farewell = 3 * time.Second
)

type sendCmd struct {
	File     string            `short:"f" placeholder:"FILE" help:"Read jobs from this CSV or NDJSON file; - is stdin. The flags below fill what its rows leave out."`
	Format   string            `enum:"auto,csv,ndjson" default:"auto" help:"Format of the file: auto, csv or ndjson."`
	Encoding string            `enum:"auto,utf8,sjis" default:"auto" help:"Encoding of the file: auto, utf8 or sjis."`
	Map      map[string]string `mapsep:"none" placeholder:"COLUMN=NAME" help:"Take a column of the file for one of ours; COLUMN=- ignores it. May be repeated."`

	Domain    givenDomain `placeholder:"HOST" help:"Domain of kintone, as c-bot.cybozu.com: chooses the site that a worker serves there, in place of --site."`
	App       int64       `placeholder:"ID" help:"App id."`
	Record    int64       `placeholder:"ID" help:"Record id."`
	KeyField  string      `placeholder:"CODE" help:"Code of the field whose value names the record, in place of --record. With --file the values are in the column key_value."`
	Key       *string     `aliases:"key-value" placeholder:"VALUE" help:"Value that the key field must have."`
	Match     string      `placeholder:"one|all" help:"How many records a key may match: one, which is the default, or all, which makes one job of each."`
	Action    string      `placeholder:"NAME" help:"Name of the action to run, as kintone shows it."`
	Assignee  string      `placeholder:"LOGIN" help:"Login name of the next assignee, for actions that need one."`
	Revision  int64       `placeholder:"N" default:"-1" help:"Only if the record still has this revision."`
	ID        givenID     `name:"job" placeholder:"ID" help:"Job id. A job that is sent again under its id does not run again."`
	Ref       string      `placeholder:"TEXT" help:"Text to find again in the result."`
	By        string      `default:"${user}" placeholder:"NAME" help:"Who asks (${default})."`
	NotBefore time.Time   `placeholder:"TIME" help:"Not before this time, as 2026-12-01T09:00:00+09:00."`
	Expires   time.Time   `placeholder:"TIME" help:"Not after this time."`
	Campaign  string      `placeholder:"NAME" help:"Name of the campaign. A file that brings none gets one made of its name and content."`
	MaxDead   *int        `placeholder:"N" help:"Cancel what is left of the campaign once more than N of its jobs are dead; 0 stops at the first."`

	DryRun  bool          `help:"Read and check everything, send nothing."`
	Wait    bool          `help:"Wait until all jobs have ended; the exit code says how."`
	Timeout time.Duration `placeholder:"TIME" help:"With --wait: wait at most this long, as 90s or 2h."`
}

func (c *sendCmd) Run(ctx context.Context, e *env) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.Domain != "" {
		if err := e.chooseSite(ctx, string(c.Domain)); err != nil {
			return err
		}
	}
	if c.File == "" {
		return c.sendOne(ctx, e)
	}
	return c.sendFile(ctx, e)
}

// check refuses flags that do not go together.
func (c *sendCmd) check() error {
	switch {
	case c.Timeout < 0:
		return usage("--timeout: must not be negative")
	case c.Timeout != 0 && !c.Wait:
		return usage("--timeout goes with --wait")
	case c.DryRun && c.Wait:
		return usage("--dry-run sends nothing that --wait could wait for")
	case c.Match != "" && c.Match != queue.MatchOne && c.Match != queue.MatchAll:
		return usage("--match: must be one or all")
	case c.MaxDead != nil && *c.MaxDead < 0:
		return usage("--max-dead: must not be negative")
	case c.Key != nil && strings.TrimSpace(*c.Key) == "":
		return usage("--key: must not be empty: it would match every record without a value")
	case c.File != "":
		return c.checkFile()
	case c.Key != nil && c.KeyField == "":
		return usage("--key needs --key-field")
	case c.Key == nil && c.KeyField != "":
		return usage("--key-field needs --key, or a --file with a column key_value")
	case c.Key != nil && c.Record != 0:
		return usage("a job has --record, or --key-field and --key, not both")
	case c.Key == nil && c.Match != "":
		return usage("--match is for jobs with --key-field and --key")
	case c.App == 0 || c.Record == 0 && c.Key == nil || c.Action == "":
		return usage("one job needs --app, --record (or --key-field and --key) and --action; many need --file")
	case c.MaxDead != nil && !c.Wait && c.Campaign == "":
		return usage("--max-dead of one job needs --wait or --campaign: nobody would see what was cancelled")
	}
	return nil
}

func (c *sendCmd) checkFile() error {
	switch {
	case c.Record != 0 || c.ID != "":
		return usage("--record and --job are for one job; with --file they come from the rows")
	case c.Key != nil:
		return usage("--key is for one job; with --file the values come from the column key_value")
	}
	return nil
}

// job is what the flags say about a job, or about every row of a file.
func (c *sendCmd) job(site string) queue.Job {
	j := queue.Job{
		Site: site, App: c.App, Record: c.Record, Match: c.Match, Action: c.Action, Assignee: c.Assignee, Revision: c.Revision,
		ID: string(c.ID), Ref: c.Ref, By: c.By, NotBefore: c.NotBefore, Expires: c.Expires, Campaign: c.Campaign,
	}
	if c.KeyField != "" {
		j.Key = &queue.Key{Field: c.KeyField}
	}
	if c.Key != nil {
		j.Key.Value = *c.Key
	}
	return j
}

// chooseSite makes the site at a domain the one that is meant.
func (e *env) chooseSite(ctx context.Context, domain string) error {
	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	given := ""
	if e.siteGiven {
		given = e.Site
	}
	site, err := q.SiteOfDomain(ctx, domain, given)
	switch {
	case err == nil:
		e.Site = site
	case errors.Is(err, queue.ErrGone):
		_, known, _ := strings.Cut(err.Error(), queue.ErrGone.Error()+": ") // which of our domains there are, if any
		err = usage("--domain: no worker of this queue has served %q (%s): correct the domain, or start a worker with a site whose baseUrl has it, and send again",
			domain, known)
	case codeOf(err) == exitError: // the queue has answered, and so it is the flag
		err = usage("--domain: %w", err)
	}
	return err
}

// checkSite refuses a site that no worker has ever owned, while others are known: what is sent there would lie unseen.
// Before the first worker has run any site will do.
func (e *env) checkSite(ctx context.Context, q *queue.Queue) error {
	known, err := q.Sites(ctx)
	switch {
	case err != nil:
		return err
	case len(known) > 0 && !slices.Contains(known, e.Site):
		return usage("--site: no worker of this queue has served a site %q (known: %s): correct it, or start a worker with this site, and send again; nothing was sent",
			e.Site, strings.Join(known, ", "))
	}
	return nil
}

// sent is what became of a send, for scripts.
type sent struct {
	head
	Campaign   string         `json:"campaign,omitempty"`
	Job        string         `json:"job,omitempty"` // of a single job, as the next five
	App        id             `json:"app,omitempty"`
	Record     id             `json:"record,omitempty"`
	Key        *queue.Key     `json:"key,omitempty"`
	Match      string         `json:"match,omitempty"`
	Seq        id             `json:"seq,omitempty"`
	Total      int            `json:"total"`
	Accepted   int            `json:"accepted"`
	Duplicates int            `json:"duplicates"`
	Apps       map[string]int `json:"apps,omitempty"` // rows per app
	DryRun     bool           `json:"dryRun,omitempty"`
	Forecast   *outlook       `json:"forecast,omitempty"` // of a dry run
}

func (c *sendCmd) sendOne(ctx context.Context, e *env) error {
	job := c.job(e.Site)
	job.ID = cmp.Or(job.ID, queue.NewID()) // so that it can be told from another, and be sent again
	if _, err := job.Encode(); err != nil {
		return flagErrors(err)
	}
	if job.Key != nil {
		job.Match = cmp.Or(job.Match, queue.MatchOne)
	}
	if c.MaxDead != nil { // which is a campaign's
		job.Campaign = cmp.Or(job.Campaign, job.ID)
	}
	what := in(e.Lang, "job %s (app %d, %s, %s)", job.ID, job.App, targetOf(job, e.Lang), job.Action)
	out := sent{head: of("send"), Campaign: job.Campaign, Job: job.ID, App: id(job.App), Record: id(job.Record), Key: job.Key, Match: job.Match,
		Total: 1, DryRun: c.DryRun}
	if c.DryRun {
		costs, err := e.forecast(ctx, []queue.Job{job})
		if err != nil {
			return err
		}
		if e.JSON {
			out.Forecast = &costs
			return e.emit(out)
		}
		if err := costs.show(e); err != nil {
			return err
		}
		return e.print("\n%s is valid; nothing was sent\n", printable(what))
	}

	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	if err := e.checkSite(ctx, q); err != nil {
		return err
	}
	if c.MaxDead != nil {
		if err := c.enterOne(ctx, q, job); err != nil {
			return err
		}
	}
	acks, err := q.Publish(ctx, []queue.Job{job})
	if err != nil {
		return e.notSent(ctx, err, 0, 1, in(e.Lang, "it is not certain that it was not; sending it again with --job %s is safe", job.ID))
	}
	out.Seq = id(acks[0].Seq)
	verdict := in(e.Lang, "accepted")
	if acks[0].Duplicate {
		out.Duplicates, verdict = 1, in(e.Lang, "a duplicate: it was sent before and does not run again")
	} else {
		out.Accepted = 1
	}
	if c.MaxDead != nil && out.Accepted == 1 {
		err := q.UpdateCampaign(ctx, job.Campaign, func(c *queue.Campaign) error {
			c.Total, c.Published, c.Finished = c.Total+1, c.Published+1, time.Now().UTC()
			return nil
		})
		if err != nil {
			e.say("enqueue: the job was accepted, but not counted: %s", printable(err.Error()))
		}
	}
	if e.JSON {
		err = e.emit(out)
	} else {
		err = e.print("%s: %s\n", printable(what), verdict)
	}
	if err != nil || !c.Wait {
		return err
	}
	f := following{
		filter: queue.ResultFilter{Site: job.Site, App: job.App, Job: job.ID, Children: true},
		tally:  campaign.NewTally(1, []queue.Job{job}), apps: []int64{job.App}, job: job.ID, timeout: c.Timeout,
	}
	if job.Key != nil {
		f.screen = newScreen(job)
	}
	return e.follow(ctx, q, f)
}

// targetOf says in words what a job acts on.
func targetOf(job queue.Job, lang string) string {
	switch {
	case job.Key == nil:
		return in(lang, "record %d", job.Record)
	case job.Match == queue.MatchAll:
		return in(lang, "all records with %s = %s", job.Key.Field, job.Key.Value)
	}
	return in(lang, "the record with %s = %s", job.Key.Field, job.Key.Value)
}

// enterOne writes the campaign of a single job into the queue, where the worker reads how many of its jobs may die. More
// jobs may follow under its name, one by one.
func (c *sendCmd) enterOne(ctx context.Context, q *queue.Queue, job queue.Job) error {
	return q.UpdateCampaign(ctx, job.Campaign, func(have *queue.Campaign) error {
		switch {
		case have.Started.IsZero():
			*have = queue.Campaign{Site: job.Site, By: job.By, Started: time.Now().UTC(), Options: map[string]string{}}
		case have.Site != job.Site:
			return usage("it belongs to site %s; give another --campaign", have.Site)
		case have.Options["jobs"] != "":
			return usage("it was sent from a file on %s; give another --campaign", local(have.Started))
		case !have.Cancelled.IsZero():
			return usage("it was cancelled on %s; give another --campaign", local(have.Cancelled))
		}
		apps := map[int64]int{job.App: 1}
		for _, app := range splitApps(have.Options["apps"]) {
			apps[app] = 1
		}
		have.MaxDead, have.Options["apps"] = c.MaxDead, joinApps(apps)
		return nil
	})
}

func (c *sendCmd) sendFile(ctx context.Context, e *env) error {
	file, err := c.read(e)
	if err != nil {
		return err
	}
	out := sent{head: of("send"), Campaign: file.Campaign, Total: len(file.Rows), DryRun: c.DryRun}
	if c.DryRun {
		costs, err := e.forecast(ctx, file.Jobs())
		if err != nil {
			return err
		}
		return c.showDry(e, file, costs, out)
	}

	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	if err := e.checkSite(ctx, q); err != nil {
		return err
	}
	again, err := c.enter(ctx, e, q, file)
	if err != nil {
		return err
	}
	acks, err := c.publish(ctx, e, q, file)
	_, ended := errors.AsType[*cancelled](err)
	if ended && c.Wait { // what was accepted ends, be it by being cancelled
		e.say("%s: %d of %s were published", printable(err.Error()), len(acks), count(e.Lang, len(file.Rows), "job"))
		err = nil
	}
	var wait []queue.Job // what --wait waits for
	for i, ack := range acks {
		if ack.Seq == 0 {
			continue
		}
		if ack.Duplicate {
			out.Duplicates++
		} else {
			out.Accepted++
		}
		// A duplicate of a campaign that was sent before is one of its own jobs, and its result will stand among the
		// others. Any other was sent under another name, and so was its result.
		if !ack.Duplicate || again {
			wait = append(wait, file.Rows[i].Job)
		}
	}
	// What was sent under another name is not this campaign's, and what it was cancelled before never will be.
	if err == nil && !again && out.Duplicates > 0 || ended {
		unnoted := q.UpdateCampaign(ctx, file.Campaign, func(c *queue.Campaign) error {
			c.Total = len(wait)
			return nil
		})
		if err == nil {
			err = unnoted
		}
	}
	if err != nil {
		if e.JSON {
			_ = e.emit(out) // the error that follows matters more
		}
		advice := in(e.Lang, "sending the same file again is safe: what was accepted does not run twice")
		if ended {
			advice = in(e.Lang, "send the rest in another --campaign, if it is still wanted")
		}
		return e.notSent(ctx, err, out.Accepted+out.Duplicates, out.Total, advice)
	}
	if err := c.showSent(e, out); err != nil {
		return err
	}
	if !c.Wait {
		if !e.JSON {
			e.say("follow it with: enqueue watch %s", file.Campaign)
		}
		return nil
	}
	if len(wait) == 0 {
		e.say("nothing to wait for: all of these jobs were sent under another campaign")
		return nil
	}
	err = e.follow(ctx, q, following{
		filter: queue.ResultFilter{Site: e.Site, Campaign: file.Campaign}, tally: campaign.NewTally(0, wait),
		apps: slices.Sorted(maps.Keys(file.Apps())), campaign: file.Campaign, timeout: c.Timeout,
	})
	if unsent := len(file.Rows) - len(acks); err == nil && unsent > 0 { // its campaign was cancelled
		err = e.failure(exitDead, "%s of the file were not sent", count(e.Lang, unsent, "job"))
	}
	return err
}

func (c *sendCmd) read(e *env) (*campaign.File, error) {
	in := e.stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return nil, &exit{exitUsage, err}
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return nil, &exit{exitUsage, err}
		}
		if info.IsDir() {
			return nil, usage("--file: %s is a directory", c.File)
		}
		in = io.Reader(f)
	}
	return campaign.Read(in, campaign.ReadOptions{
		Name: c.File, Format: campaign.Format(c.Format), Encoding: c.Encoding, Map: c.Map, Defaults: c.job(e.Site),
	})
}

// enter writes the campaign into the queue before its first job goes there. It reports whether the very same jobs were
// sent under this name before, and refuses to mix others into it: their ids could be the same.
func (c *sendCmd) enter(ctx context.Context, e *env, q *queue.Queue, file *campaign.File) (again bool, err error) {
	before, err := q.Campaign(ctx, file.Campaign)
	switch {
	case errors.Is(err, queue.ErrGone):
		return false, q.PutCampaign(ctx, queue.Campaign{
			V: 1, Name: file.Campaign, Site: e.Site, FileSHA256: file.SHA256, By: c.By, Total: len(file.Rows), Started: time.Now().UTC(), MaxDead: c.MaxDead,
			Options: map[string]string{"file": c.File, "jobs": file.Digest, "apps": joinApps(file.Apps())},
		})
	case err != nil:
		return false, err
	case before.Site != e.Site:
		return false, usage("campaign %s belongs to site %s; give another --campaign", before.Name, before.Site)
	case before.Options["jobs"] != file.Digest:
		return false, usage("campaign %s was sent on %s with other jobs; give another --campaign", before.Name, local(before.Started))
	case !before.Cancelled.IsZero():
		return false, usage("campaign %s was cancelled on %s; give another --campaign", before.Name, local(before.Cancelled))
	}
	e.say("campaign %s was sent on %s already (%d of %s); what the queue has of it does not run again",
		before.Name, local(before.Started), before.Published, count(e.Lang, before.Total, "job"))
	if c.MaxDead == nil {
		return true, nil
	}
	return true, q.UpdateCampaign(ctx, file.Campaign, func(have *queue.Campaign) error {
		have.MaxDead = c.MaxDead
		return nil
	})
}

// cancelled ends a send whose campaign somebody has cancelled meanwhile.
type cancelled struct{ text string }

func (c *cancelled) Error() string { return c.text }

// publish sends a file's jobs chunk by chunk and notes in the campaign how far it got. It returns an Ack for each job of
// the chunks that were sent, also with an error.
func (c *sendCmd) publish(ctx context.Context, e *env, q *queue.Queue, file *campaign.File) ([]queue.Ack, error) {
	p := e.progress("published", len(file.Rows))
	defer p.close()
	note := func(ctx context.Context, published int, finished time.Time) error {
		return q.UpdateCampaign(ctx, file.Campaign, func(c *queue.Campaign) error {
			c.Published, c.Finished = max(c.Published, published), finished
			if !c.Cancelled.IsZero() {
				return &cancelled{in(e.Lang, "it was cancelled by %s (%s)", orDash(c.CancelledBy), cmp.Or(c.CancelledWhy, "cancelled"))}
			}
			return nil
		})
	}
	acks := make([]queue.Ack, 0, len(file.Rows))
	noted := time.Now()
	for jobs := range slices.Chunk(file.Jobs(), sendChunk) {
		chunk, err := q.Publish(ctx, jobs)
		acks = append(acks, chunk...)
		if err != nil {
			published := 0
			for _, ack := range acks {
				if ack.Seq > 0 {
					published++
				}
			}
			// That this fails too is likely and changes nothing: the note is for people, the log knows what it has.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
			defer cancel()
			_ = note(ctx, published, time.Time{})
			return acks, err
		}
		p.published(len(acks))
		if time.Since(noted) >= noteEvery || c.MaxDead != nil { // with a limit there may be an end at any time
			if err := note(ctx, len(acks), time.Time{}); err != nil {
				return acks, err
			}
			noted = time.Now()
		}
	}
	return acks, note(ctx, len(acks), time.Now().UTC())
}

func (c *sendCmd) showDry(e *env, file *campaign.File, costs outlook, out sent) error {
	apps := file.Apps()
	if e.JSON {
		out.Apps = make(map[string]int, len(apps))
		for app, n := range apps {
			out.Apps[strconv.FormatInt(app, 10)] = n
		}
		out.Forecast = &costs
		return e.emit(out)
	}
	top := e.listing(0, "", "")
	top.addFact("file", fmt.Sprintf("%s (%s, %s)", c.File, file.Format, file.Encoding))
	top.addFact("campaign", file.Campaign)
	if err := e.write(top, ""); err != nil {
		return err
	}
	if err := e.print("\n"); err != nil {
		return err
	}
	if err := costs.show(e); err != nil {
		return err
	}
	return e.print("\n%s, all valid; nothing was sent\n", count(e.Lang, out.Total, "job"))
}

func (c *sendCmd) showSent(e *env, out sent) error {
	if e.JSON {
		return e.emit(out)
	}
	text := in(e.Lang, "campaign %s: %s accepted", out.Campaign, count(e.Lang, out.Accepted, "job"))
	switch {
	case out.Duplicates == out.Total && out.Total == 1:
		text = in(e.Lang, "campaign %s: its job was sent before and does not run again (if it shall, give another --campaign)", out.Campaign)
	case out.Duplicates == out.Total:
		text = in(e.Lang, "campaign %s: all %s were sent before and do not run again (if they shall, give another --campaign)",
			out.Campaign, count(e.Lang, out.Total, "job"))
	case out.Duplicates == 1:
		text += in(e.Lang, ", 1 duplicate that does not run again")
	case out.Duplicates > 0:
		text += in(e.Lang, ", %d duplicates that do not run again", out.Duplicates)
	}
	return e.print("%s\n", printable(text))
}

// notSent says how far a send got, and what is safe to do now unless it is certain that nothing was accepted.
func (e *env) notSent(ctx context.Context, err error, accepted, total int, advice string) error {
	code := codeOf(err)
	certain := errors.Is(err, queue.ErrNoQueue) || errors.Is(err, queue.ErrLogFull)
	if p, ok := errors.AsType[*queue.PublishError](err); ok {
		err = p.Err
	}
	if ctx.Err() != nil {
		err, code = errors.New(in(e.Lang, "interrupted")), exitError
	}
	if accepted == 0 && certain {
		advice = in(e.Lang, "nothing was sent")
	}
	return e.failure(code, "%w: %d of %s accepted; %s", err, accepted, count(e.Lang, total, "job"), advice)
}

// flagErrors puts what is wrong with a job in terms of the flags that it was made from.
func flagErrors(err error) error {
	refused, ok := errors.AsType[*queue.DecodeError](err)
	if !ok {
		return usage("%w", err)
	}
	flags := map[string]string{"/notBefore": "--not-before", "/key/field": "--key-field", "/key/value": "--key"}
	var texts []string
	for _, p := range refused.Problems {
		flag := cmp.Or(flags[p.Pointer], "--"+strings.TrimPrefix(p.Pointer, "/"))
		if p.Pointer == "" {
			flag = "the job"
		}
		texts = append(texts, flag+": "+p.Text)
	}
	return usage("%s", strings.Join(texts, "; "))
}

func joinApps(apps map[int64]int) string {
	var ids []string
	for _, app := range slices.Sorted(maps.Keys(apps)) {
		ids = append(ids, strconv.FormatInt(app, 10))
	}
	return strings.Join(ids, ",")
}
