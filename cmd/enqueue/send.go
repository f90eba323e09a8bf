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

	App       int64     `placeholder:"ID" help:"App id."`
	Record    int64     `placeholder:"ID" help:"Record id."`
	Action    string    `placeholder:"NAME" help:"Name of the action to run, as kintone shows it."`
	Assignee  string    `placeholder:"LOGIN" help:"Login name of the next assignee, for actions that need one."`
	Revision  int64     `placeholder:"N" default:"-1" help:"Only if the record still has this revision."`
	ID        givenID   `name:"job" placeholder:"ID" help:"Job id. A job that is sent again under its id does not run again."`
	Ref       string    `placeholder:"TEXT" help:"Text to find again in the result."`
	By        string    `default:"${user}" placeholder:"NAME" help:"Who asks (${default})."`
	NotBefore time.Time `placeholder:"TIME" help:"Not before this time, as 2026-12-01T09:00:00+09:00."`
	Expires   time.Time `placeholder:"TIME" help:"Not after this time."`
	Campaign  string    `placeholder:"NAME" help:"Name of the campaign. A file that brings none gets one made of its name and content."`

	KeyField string `hidden:""`
	KeyValue string `hidden:""`

	DryRun  bool          `help:"Read and check everything, send nothing."`
	Wait    bool          `help:"Wait until all jobs have ended; the exit code says how."`
	Timeout time.Duration `placeholder:"TIME" help:"With --wait: wait at most this long, as 90s or 2h."`
}

func (c *sendCmd) Run(ctx context.Context, e *env) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.File == "" {
		return c.sendOne(ctx, e)
	}
	return c.sendFile(ctx, e)
}

// check refuses flags that do not go together.
func (c *sendCmd) check() error {
	switch {
	case c.KeyField != "" || c.KeyValue != "":
		return usage("keys are not supported by this version; give record ids")
	case c.Timeout < 0:
		return usage("--timeout: must not be negative")
	case c.Timeout != 0 && !c.Wait:
		return usage("--timeout goes with --wait")
	case c.DryRun && c.Wait:
		return usage("--dry-run sends nothing that --wait could wait for")
	case c.File != "" && (c.Record != 0 || c.ID != ""):
		return usage("--record and --job are for one job; with --file they come from the rows")
	case c.File == "" && (c.App == 0 || c.Record == 0 || c.Action == ""):
		return usage("one job needs --app, --record and --action; many need --file")
	}
	return nil
}

// job is what the flags say about a job, or about every row of a file.
func (c *sendCmd) job(site string) queue.Job {
	return queue.Job{
		Site: site, App: c.App, Record: c.Record, Action: c.Action, Assignee: c.Assignee, Revision: c.Revision,
		ID: string(c.ID), Ref: c.Ref, By: c.By, NotBefore: c.NotBefore, Expires: c.Expires, Campaign: c.Campaign,
	}
}

// sent is what became of a send, for scripts.
type sent struct {
	head
	Campaign   string         `json:"campaign,omitempty"`
	Job        string         `json:"job,omitempty"` // of a single job, as the next three
	App        id             `json:"app,omitempty"`
	Record     id             `json:"record,omitempty"`
	Seq        id             `json:"seq,omitempty"`
	Total      int            `json:"total"`
	Accepted   int            `json:"accepted"`
	Duplicates int            `json:"duplicates"`
	Apps       map[string]int `json:"apps,omitempty"` // rows per app
	DryRun     bool           `json:"dryRun,omitempty"`
}

func (c *sendCmd) sendOne(ctx context.Context, e *env) error {
	job := c.job(e.Site)
	job.ID = cmp.Or(job.ID, queue.NewID()) // so that it can be told from another, and be sent again
	if _, err := job.Encode(); err != nil {
		return flagErrors(err)
	}
	what := fmt.Sprintf("job %s (app %d, record %d, %s)", job.ID, job.App, job.Record, job.Action)
	out := sent{head: of("send"), Campaign: job.Campaign, Job: job.ID, App: id(job.App), Record: id(job.Record), Total: 1, DryRun: c.DryRun}
	if c.DryRun {
		if e.JSON {
			return e.emit(out)
		}
		return e.print("%s is valid; nothing was sent\n", printable(what))
	}

	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	acks, err := q.Publish(ctx, []queue.Job{job})
	if err != nil {
		return notSent(ctx, err, 0, 1, fmt.Sprintf("it is not certain that it was not; sending it again with --job %s is safe", job.ID))
	}
	out.Seq = id(acks[0].Seq)
	verdict := "accepted"
	if acks[0].Duplicate {
		out.Duplicates, verdict = 1, "a duplicate: it was sent before and does not run again"
	} else {
		out.Accepted = 1
	}
	if e.JSON {
		err = e.emit(out)
	} else {
		err = e.print("%s: %s\n", printable(what), verdict)
	}
	if err != nil || !c.Wait {
		return err
	}
	return e.follow(ctx, q, following{
		filter: queue.ResultFilter{Site: job.Site, App: job.App, Job: job.ID},
		tally:  campaign.NewTally(1, []queue.Job{job}), apps: []int64{job.App}, job: job.ID, timeout: c.Timeout,
	})
}

func (c *sendCmd) sendFile(ctx context.Context, e *env) error {
	file, err := c.read(e)
	if err != nil {
		return err
	}
	out := sent{head: of("send"), Campaign: file.Campaign, Total: len(file.Rows), DryRun: c.DryRun}
	if c.DryRun {
		return c.showDry(e, file, out)
	}

	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	again, err := c.enter(ctx, e, q, file)
	if err != nil {
		return err
	}
	acks, err := c.publish(ctx, e, q, file)
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
	if err == nil && !again && out.Duplicates > 0 {
		err = q.UpdateCampaign(ctx, file.Campaign, func(c *queue.Campaign) error {
			c.Total = out.Accepted
			return nil
		})
	}
	if err != nil {
		if e.JSON {
			_ = e.emit(out) // the error that follows matters more
		}
		return notSent(ctx, err, out.Accepted+out.Duplicates, out.Total,
			"sending the same file again is safe: what was accepted does not run twice")
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
	return e.follow(ctx, q, following{
		filter: queue.ResultFilter{Site: e.Site, Campaign: file.Campaign}, tally: campaign.NewTally(0, wait),
		apps: slices.Sorted(maps.Keys(file.Apps())), campaign: file.Campaign, timeout: c.Timeout,
	})
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
			V: 1, Name: file.Campaign, Site: e.Site, FileSHA256: file.SHA256, By: c.By, Total: len(file.Rows), Started: time.Now().UTC(),
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
		before.Name, local(before.Started), before.Published, count(before.Total, "job"))
	return true, nil
}

// errCancelled ends a send whose campaign somebody has cancelled meanwhile.
var errCancelled = errors.New("the campaign was cancelled")

// publish sends a file's jobs chunk by chunk and notes in the campaign how far it got. It returns an Ack for each job of
// the chunks that were sent, also with an error.
func (c *sendCmd) publish(ctx context.Context, e *env, q *queue.Queue, file *campaign.File) ([]queue.Ack, error) {
	p := e.progress("published", len(file.Rows))
	defer p.close()
	note := func(ctx context.Context, published int, finished time.Time) error {
		return q.UpdateCampaign(ctx, file.Campaign, func(c *queue.Campaign) error {
			c.Published, c.Finished = max(c.Published, published), finished
			if !c.Cancelled.IsZero() {
				return errCancelled
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
		if time.Since(noted) >= noteEvery {
			if err := note(ctx, len(acks), time.Time{}); err != nil {
				return acks, err
			}
			noted = time.Now()
		}
	}
	return acks, note(ctx, len(acks), time.Now().UTC())
}

func (c *sendCmd) showDry(e *env, file *campaign.File, out sent) error {
	apps := file.Apps()
	if e.JSON {
		out.Apps = make(map[string]int, len(apps))
		for app, n := range apps {
			out.Apps[strconv.FormatInt(app, 10)] = n
		}
		return e.emit(out)
	}
	top := listing(0, "", "")
	top.add("file", fmt.Sprintf("%s (%s, %s)", c.File, file.Format, file.Encoding))
	top.add("campaign", file.Campaign)
	if err := e.write(top, ""); err != nil {
		return err
	}
	if err := e.print("\n"); err != nil {
		return err
	}
	g := newGrid("APP>", "JOBS>")
	for _, app := range slices.Sorted(maps.Keys(apps)) {
		g.add(app, apps[app])
	}
	if err := e.write(g, ""); err != nil {
		return err
	}
	return e.print("\n%s, all valid; nothing was sent\n", count(out.Total, "job"))
}

func (c *sendCmd) showSent(e *env, out sent) error {
	if e.JSON {
		return e.emit(out)
	}
	text := fmt.Sprintf("campaign %s: %s accepted", out.Campaign, count(out.Accepted, "job"))
	switch {
	case out.Duplicates == out.Total && out.Total == 1:
		text = fmt.Sprintf("campaign %s: its job was sent before and does not run again (if it shall, give another --campaign)", out.Campaign)
	case out.Duplicates == out.Total:
		text = fmt.Sprintf("campaign %s: all %s were sent before and do not run again (if they shall, give another --campaign)",
			out.Campaign, count(out.Total, "job"))
	case out.Duplicates == 1:
		text += ", 1 duplicate that does not run again"
	case out.Duplicates > 0:
		text += fmt.Sprintf(", %d duplicates that do not run again", out.Duplicates)
	}
	return e.print("%s\n", printable(text))
}

// notSent says how far a send got, and what is safe to do now unless it is certain that nothing was accepted.
func notSent(ctx context.Context, err error, accepted, total int, advice string) error {
	code := codeOf(err)
	certain := errors.Is(err, queue.ErrNoQueue) || errors.Is(err, queue.ErrLogFull)
	if p, ok := errors.AsType[*queue.PublishError](err); ok {
		err = p.Err
	}
	if ctx.Err() != nil {
		err, code = errors.New("interrupted"), exitError
	}
	if accepted == 0 && certain {
		advice = "nothing was sent"
	}
	return &exit{code, fmt.Errorf("%w: %d of %s accepted; %s", err, accepted, count(total, "job"), advice)}
}

// flagErrors puts what is wrong with a job in terms of the flags that it was made from.
func flagErrors(err error) error {
	refused, ok := errors.AsType[*queue.DecodeError](err)
	if !ok {
		return usage("%w", err)
	}
	flags := map[string]string{"/notBefore": "--not-before"}
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
