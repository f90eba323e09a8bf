package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"unicode/utf8"

	"statusq/internal/queue"
)

// deadFilter says which dead letters are meant. The reason code has a longer name where --reason is the operator's own.
type deadFilter struct {
	App      int64   `placeholder:"ID" help:"Only of this app."`
	Campaign givenID `placeholder:"NAME" help:"Only of this campaign."`
	Record   int64   `placeholder:"ID" help:"Only of this record."`
	Code     string  `placeholder:"CODE" help:"Only with this error code of kintone."`
	Request  givenID `placeholder:"ID" help:"Only of this request, with an unknown outcome: its jobs share one fate."`
	Parent   givenID `placeholder:"JOB" help:"Only of the jobs that were made of this one, whose key matched several records."`
}

func (f deadFilter) of(site string) queue.DeadFilter {
	return queue.DeadFilter{Site: site, App: f.App, Campaign: string(f.Campaign), Record: f.Record, Code: f.Code, Request: string(f.Request), Parent: string(f.Parent)}
}

// deadLetter is a dead letter for scripts.
type deadLetter struct {
	head
	Site     string        `json:"site"`
	App      id            `json:"app"`
	Record   id            `json:"record,omitempty"`
	Job      string        `json:"job"`
	Key      *queue.Key    `json:"key,omitempty"`
	Match    string        `json:"match,omitempty"`
	Parent   string        `json:"parent,omitempty"` // the job that this one was made of
	Campaign string        `json:"campaign,omitempty"`
	Action   string        `json:"action,omitempty"`
	Assignee string        `json:"assignee,omitempty"`
	By       string        `json:"by,omitempty"`
	Ref      string        `json:"ref,omitempty"`
	Seq      id            `json:"seq"`
	Outcome  queue.Outcome `json:"outcome"`
	Reason   string        `json:"reason,omitempty"`
	Code     string        `json:"code,omitempty"`
	Message  string        `json:"message,omitempty"`
	Died     string        `json:"died"`
	Attempts []attempt     `json:"attempts"`
	History  []moment      `json:"history,omitempty"` // with show: attempts, ends and what operators did, the oldest first
	Evidence *evidence     `json:"evidence,omitempty"`
	Raw      string        `json:"raw,omitempty"` // a job that could not be decoded, as it came
}

type evidence struct {
	Request  string `json:"request"`
	Pin      id     `json:"pin"`      // the revision that our request expected
	Revision id     `json:"revision"` // the one that was found
	Status   string `json:"status,omitempty"`
	Modifier string `json:"modifier,omitempty"`
	Unclear  string `json:"unclear,omitempty"` // when an answer was lost
}

func letterOf(d queue.DeadLetter) deadLetter {
	out := deadLetter{
		head: of("dead"), Site: d.Site, App: id(d.App), Record: id(d.Job.Record), Job: d.Job.ID, Key: d.Job.Key, Match: d.Job.Match, Parent: d.Parent, Campaign: d.Job.Campaign,
		Action: d.Job.Action, Assignee: d.Job.Assignee, By: d.Job.By, Ref: d.Job.Ref, Seq: id(d.Seq), Outcome: d.Outcome,
		Reason: d.Reason, Code: d.Code, Message: d.Message, Died: utc(d.Died), Attempts: []attempt{}, Raw: string(d.Raw),
	}
	for _, a := range d.Attempts {
		out.Attempts = append(out.Attempts, attempt{utc(a.At), a.Request, a.Reason, a.Code, a.Message})
	}
	if v := d.Evidence; v != nil {
		out.Evidence = &evidence{v.Request, id(v.Pin), id(v.Revision), v.Status, v.Modifier, utc(v.UnclearAt)}
	}
	return out
}

type deadLsCmd struct {
	deadFilter

	Job    givenID `placeholder:"ID" help:"Only of this job."`
	Reason string  `aliases:"reason-code" placeholder:"REASON" help:"Only with this reason, as not_assignee."`
	Limit  *int    `short:"n" placeholder:"N" help:"Show at most this many, 0 for all (100, and all with --json). All are counted."`
}

func (c *deadLsCmd) Run(ctx context.Context, e *env) error {
	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	filter := c.of(e.Site)
	filter.Job, filter.Reason = string(c.Job), c.Reason

	limit := 100
	if e.JSON { // a script would not see that some are missing
		limit = 0
	}
	if c.Limit != nil {
		limit = *c.Limit
	}

	g := e.deadGrid()
	total := 0
	reasons := make(map[string]int)
	for d, err := range q.Dead(ctx, filter) {
		if err != nil {
			return err
		}
		total++
		reasons[d.Reason]++
		if limit > 0 && total > limit {
			if e.JSON {
				break
			}
			continue
		}
		if !e.JSON {
			g.addLetter(d)
		} else if err := e.emit(letterOf(d)); err != nil {
			return err
		}
	}
	if e.JSON {
		return nil
	}
	if total == 0 {
		return e.print("no dead letters\n")
	}
	if err := e.write(g, ""); err != nil {
		return err
	}
	shown := ""
	if limit > 0 && total > limit {
		shown = in(e.Lang, ", the first %d are shown", limit)
	}
	if err := e.print("\n%s%s\n", count(e.Lang, total, "dead letter"), shown); err != nil {
		return err
	}
	return e.explainReasons(reasons)
}

func (e *env) deadGrid() grid {
	return e.newGrid("APP>", "RECORD>", "JOB", "ACTION", "REASON", "CODE", "ATTEMPTS>", "DIED")
}

func (g grid) addLetter(d queue.DeadLetter) {
	g.add(d.App, recordOrKey(d.Job.Record, d.Job.Key), d.Job.ID, orDash(d.Job.Action), orDash(d.Reason), orDash(d.Code), tries(d.Attempts), local(d.Died))
}

type deadShowCmd struct {
	Job givenID `arg:"" help:"Job id."`
	App int64   `placeholder:"ID" help:"Only of this app."`
}

func (c *deadShowCmd) Run(ctx context.Context, e *env) error {
	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	n := 0
	for d, err := range q.Dead(ctx, queue.DeadFilter{Site: e.Site, App: c.App, Job: string(c.Job)}) {
		if err != nil {
			return err
		}
		s, err := q.FindJob(ctx, e.Site, d.App, string(c.Job))
		if err != nil {
			return err
		}
		s.Parked, s.Dead = nil, &d // this letter's history, of all that the job may have
		history := historyOf(s)
		if n++; e.JSON {
			letter := letterOf(d)
			letter.History = history
			err = e.emit(letter)
		} else {
			err = c.show(e, d, n, history)
		}
		if err != nil {
			return err
		}
	}
	if n == 0 {
		return e.noLetter(ctx, q, c.Job)
	}
	return nil
}

// noLetter says that a job has no dead letter, and whether the jobs that were made of it have.
func (e *env) noLetter(ctx context.Context, q *queue.Queue, job givenID) error {
	made := 0
	for _, err := range q.Dead(ctx, queue.DeadFilter{Site: e.Site, Parent: string(job)}) {
		if err != nil {
			break // it only would have been a hint
		}
		made++
	}
	if made == 0 {
		return e.failure(exitError, "no dead letter of job %s", job)
	}
	return e.failure(exitError, "no dead letter of job %[1]s itself, but %[2]s of the jobs that were made of it: choose them by --parent %[1]s", job, count(e.Lang, made, "letter"))
}

func (c *deadShowCmd) show(e *env, d queue.DeadLetter, n int, history []moment) error {
	if n > 1 {
		if err := e.print("\n"); err != nil {
			return err
		}
	}
	g := e.listing(0, "", "")
	g.addFact("job", d.Job.ID)
	g.addFact(string(d.Outcome), local(d.Died))
	g.addReason(d.Reason)
	g.addFact(whose(d), strings.TrimSpace(d.Code+" "+d.Message))
	g.addNumber("app", d.App)
	g.addNumber("record", d.Job.Record)
	g.addKey(d.Job.Key, d.Job.Match)
	g.addFact("made of", d.Parent)
	g.addFact("action", d.Job.Action)
	g.addFact("assignee", d.Job.Assignee)
	g.addNumber("revision", max(0, d.Job.Revision))
	g.addFact("campaign", d.Job.Campaign)
	g.addFact("by", d.Job.By)
	g.addFact("ref", d.Job.Ref)
	g.addNumber("log", int64(d.Seq))
	if v := d.Evidence; v != nil {
		g.addFact("request", v.Request)
		g.addFact("lost answer", local(v.UnclearAt))
		g.addFact("expected", in(e.Lang, "revision %d", v.Pin))
		g.addFact("found", in(e.Lang, "revision %d, status %s, last changed by %s", v.Revision, orDash(v.Status), orDash(v.Modifier)))
	}
	if len(d.Raw) > 0 {
		g.addFact("as it came", rawText(d.Raw))
	}
	if err := e.write(g, ""); err != nil {
		return err
	}
	return e.showHistory(history)
}

// whose says who spoke of a death: kintone, which gives a code, or the worker.
func whose(d queue.DeadLetter) string {
	switch d.Reason {
	case "undecodable", "expired", "outcome_unknown": // never sent, or nobody's word
		return "message"
	}
	if d.Code == "" {
		return "message"
	}
	return "kintone"
}

// rawText shows a message that is no valid job as well as it can be shown.
func rawText(raw []byte) string {
	var b bytes.Buffer
	switch {
	case json.Compact(&b, raw) == nil:
		return b.String()
	case utf8.Valid(raw):
		return string(raw)
	}
	return strconv.Quote(string(raw))
}

// mass is what retry, resolve and discard have in common: which letters, and the care that is taken before they are touched.
type mass struct {
	deadFilter

	Jobs       []givenID `arg:"" optional:"" name:"job" help:"Job ids. Without any, the filters below choose."`
	ReasonCode string    `placeholder:"REASON" help:"Only with this reason, as not_assignee."`
	All        bool      `help:"All dead letters of the site."`
	Reason     string    `placeholder:"TEXT" help:"Why you do this, for the audit."`
	By         string    `default:"${user}" placeholder:"NAME" help:"Who you are, for the audit (${default})."`
	DryRun     bool      `help:"Only show what would be done."`
	Yes        bool      `short:"y" help:"Do not ask."`
}

type (
	deadRetryCmd   struct{ mass }
	deadDiscardCmd struct{ mass }
	deadResolveCmd struct {
		mass
		resolution
	}
)

func (c *deadRetryCmd) Run(ctx context.Context, e *env) error {
	return c.run(ctx, e, deed{verb: "retry", done: "retried", takes: queue.Dead, all: true, do: (*queue.Queue).RetryDead,
		refusal: "with an unknown outcome: their action may have run already, and a retry can run it a second time; " +
			"look in kintone, then use enqueue dead resolve --retry"})
}

func (c *deadDiscardCmd) Run(ctx context.Context, e *env) error {
	return c.run(ctx, e, deed{verb: "discard", done: "discarded", warn: "nobody will be reminded to find out",
		do: (*queue.Queue).DiscardDead})
}

// Help is shown by --help.
func (c *deadResolveCmd) Help() string {
	return "For letters with an unknown outcome. Look at the record's history in kintone first (enqueue dead show tells what to look for), then say what it shows. " +
		"kintone carries out a request wholly or not at all: what is true of one letter is true of all with the same request (--request)."
}

func (c *deadResolveCmd) Run(ctx context.Context, e *env) error {
	how, err := c.how()
	switch {
	case err != nil:
		return err
	case strings.TrimSpace(c.Reason) == "":
		return usage("--reason is missing: what have you seen?")
	}
	return c.run(ctx, e, deed{verb: "resolve", how: string(how), done: "resolved", takes: queue.Unknown, warn: meaning(how),
		refusal: "dead, which means that their action was not run: there is nothing to resolve; see enqueue dead retry and discard",
		do: func(q *queue.Queue, ctx context.Context, d queue.DeadLetter, by, reason string) error {
			return q.ResolveDead(ctx, d, how, by, reason)
		}})
}

// deed is what is done to dead letters.
type deed struct {
	verb, done string
	how        string // of a resolution
	warn       string // about letters with an unknown outcome
	do         func(q *queue.Queue, ctx context.Context, d queue.DeadLetter, by, reason string) error

	takes   queue.Outcome // the only one that it is for; "" = any
	refusal string        // of letters with another one
	all     bool          // those are refused also where filters chose them, and not only where they were named
}

// as says how, if there are several ways.
func (d deed) as(lang string) string {
	if d.how == "" {
		return ""
	}
	return in(lang, " as %s", d.how)
}

// dealt is what became of a mass deed, for scripts.
type dealt struct {
	head
	Verb    string `json:"verb"`
	Matched int    `json:"matched"`
	Done    int    `json:"done"`
	Changed int    `json:"changed"` // by somebody else meanwhile, and so left alone
	Refused int    `json:"refused"`
	DryRun  bool   `json:"dryRun,omitempty"`
}

// run looks first, asks, and then touches exactly the letters that were counted: what has died meanwhile was not meant.
func (c *mass) run(ctx context.Context, e *env, d deed) error {
	anything := len(c.Jobs) > 0 || c.deadFilter != deadFilter{} || c.ReasonCode != ""
	switch {
	case !anything && !c.All:
		return usage("say which: job ids, filters, or --all")
	case c.All && anything:
		return usage("--all goes without job ids and filters")
	case !c.Yes && !c.DryRun && !isTerminal(e.stdin):
		return usage("this needs an answer, and stdin is not a terminal; use --yes, or --dry-run to look first")
	}
	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()

	out := dealt{head: of("dead-" + d.verb), Verb: d.verb, DryRun: c.DryRun}
	meant := make(map[uint64]bool) // their places in the ledger
	found := make(map[string]bool) // of the jobs that were named
	reasons := make(map[string]int)
	unknown := 0
	unfit := make(map[uint64]bool) // as meant, of those that the deed is not for
	g := e.deadGrid()
	for letter, err := range c.letters(ctx, q, e.Site) {
		if err != nil {
			return err
		}
		found[letter.Job.ID] = true
		if d.takes != "" && letter.Outcome != d.takes {
			if d.all || len(c.Jobs) > 0 {
				unfit[letter.At] = true
			}
			continue
		}
		meant[letter.At] = true
		reasons[letter.Reason]++
		if letter.Outcome == queue.Unknown {
			unknown++
		}
		const shown = 10
		if len(meant) <= shown {
			g.addLetter(letter)
		}
	}
	for _, job := range c.Jobs {
		if !found[string(job)] {
			return e.failure(exitError, "%w; nothing was done", e.noLetter(ctx, q, job))
		}
	}
	out.Refused = len(unfit)
	out.Matched = len(meant) + out.Refused
	if len(unfit) > 0 {
		e.say("enqueue: %s refused: %s", count(e.Lang, len(unfit), "dead letter"), word(e.Lang, d.refusal))
	}
	if len(meant) == 0 || c.DryRun {
		if err := c.foresee(e, d, out, g, reasons); err != nil || len(unfit) == 0 {
			return err
		}
		return &exit{code: exitError}
	}
	if !c.Yes {
		if err := c.ask(e, d, len(meant), unknown, reasons); err != nil {
			return err
		}
	}

	err = c.act(ctx, e, q, d, meant, &out)
	var unsaid error
	if e.JSON {
		unsaid = e.emit(out)
	} else {
		unsaid = e.print("%s %s%s%s\n", word(e.Lang, d.done), count(e.Lang, out.Done, "dead letter"), d.as(e.Lang), rest(out, e.Lang))
	}
	switch {
	case err != nil:
		return err
	case unsaid != nil:
		return unsaid
	case out.Refused > 0:
		return &exit{code: exitError}
	}
	return nil
}

// letters gives the dead letters that are meant.
func (c *mass) letters(ctx context.Context, q *queue.Queue, site string) iter.Seq2[queue.DeadLetter, error] {
	filter := c.of(site)
	filter.Reason = c.ReasonCode
	if len(c.Jobs) == 0 {
		return q.Dead(ctx, filter)
	}
	return func(yield func(queue.DeadLetter, error) bool) {
		for _, job := range c.Jobs {
			filter.Job = string(job)
			for d, err := range q.Dead(ctx, filter) {
				if !yield(d, err) || err != nil {
					return
				}
			}
		}
	}
}

// foresee is --dry-run, or that there is nothing to do.
func (c *mass) foresee(e *env, d deed, out dealt, g grid, reasons map[string]int) error {
	if e.JSON {
		return e.emit(out)
	}
	n := out.Matched - out.Refused
	switch {
	case out.Matched == 0:
		return e.print("no dead letters match\n")
	case n == 0:
		return nil
	}
	if err := e.write(g, ""); err != nil {
		return err
	}
	if err := e.print("\nwould %s %s%s; nothing was done\n", word(e.Lang, d.verb), count(e.Lang, n, "dead letter"), d.as(e.Lang)); err != nil {
		return err
	}
	return e.explainReasons(reasons)
}

// ask asks on stderr, so that the answer of a script that reads stdout is not mixed with the question.
func (c *mass) ask(e *env, d deed, n, unknown int, reasons map[string]int) error {
	for _, reason := range byCount(reasons) {
		e.say("%6d  %s", reasons[reason], printable(orDash(reason)))
	}
	if unknown > 0 && d.warn != "" {
		e.say("%d with an unknown outcome: %s", unknown, word(e.Lang, d.warn))
	}
	fmt.Fprint(e.stderr, in(e.Lang, "%s %s%s? [y/N] ", word(e.Lang, d.verb), count(e.Lang, n, "dead letter"), d.as(e.Lang)))
	line, _ := bufio.NewReader(e.stdin).ReadString('\n') // no answer is no
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes", "はい":
		return nil
	}
	return e.failure(exitError, "nothing was done")
}

// act does the deed. A letter that somebody has touched meanwhile is left alone, and one that is refused does not keep
// the others; without the queue nothing can go on.
func (c *mass) act(ctx context.Context, e *env, q *queue.Queue, d deed, meant map[uint64]bool, out *dealt) error {
	seen := 0
	for letter, err := range c.letters(ctx, q, e.Site) {
		if err != nil {
			return err
		}
		if !meant[letter.At] {
			continue
		}
		seen++
		err = d.do(q, ctx, letter, c.By, c.Reason)
		switch {
		case err == nil:
			out.Done++
		case errors.Is(err, queue.ErrGone):
			out.Changed++
		case ctx.Err() != nil, codeOf(err) != exitError:
			return err
		default:
			out.Refused++
			e.say("enqueue: %s", printable(err.Error()))
		}
		if seen%linesEvery == 0 {
			e.say("%s %d of %s%s", word(e.Lang, d.done), out.Done, count(e.Lang, len(meant), "dead letter"), "")
		}
	}
	out.Changed += len(meant) - seen
	return nil
}

// rest says what was not done.
func rest(out dealt, lang string) string {
	text := ""
	if out.Changed > 0 {
		text += in(lang, ", %d were changed by somebody else meanwhile and left alone", out.Changed)
	}
	if out.Refused > 0 {
		text += in(lang, ", %d refused", out.Refused)
	}
	return text
}
