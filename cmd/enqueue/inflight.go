package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"statusq/internal/campaign"
	"statusq/internal/queue"
)

// A request is one that stands in a slot: as the worker that owns the site tells of it, or as it was last written into
// the ledger, which is not at every try.
type request struct {
	Site  string
	Owner string // who filled the slot
	Epoch uint64
	Stale bool // from the ledger alone
	flightAnswer
}

// inflightAnswer is what the worker says when asked for "inflight".
type inflightAnswer struct {
	V       int            `json:"v"`
	Owner   string         `json:"owner"`
	Epoch   uint64         `json:"epoch"`
	Silent  []int64        `json:"silent"` // apps of which it cannot tell
	Flights []flightAnswer `json:"flights"`
}

type flightAnswer struct {
	App       int64     `json:"app"`
	Slot      int       `json:"slot"`
	Request   string    `json:"request"`
	At        time.Time `json:"at"`
	Inherited bool      `json:"inherited"`
	Doing     string    `json:"doing"` // sending, reading, waiting, looking, halted or held
	Until     time.Time `json:"until"`
	Reason    string    `json:"reason"` // why its lane is halted

	Heard        time.Time `json:"heard"` // when the last answer came that did not carry it out, or was lost
	HeardReason  string    `json:"heardReason"`
	HeardCode    string    `json:"heardCode"`
	HeardMessage string    `json:"heardMessage"`

	Parts []partAnswer `json:"parts"`
}

type partAnswer struct {
	Members []queue.Member `json:"members"`
	Sends   int            `json:"sends"`
	Unclear time.Time      `json:"unclear"`
	GiveUp  time.Time      `json:"giveUp"`
	Reason  string         `json:"reason"`
	Code    string         `json:"code"`
	Message string         `json:"message"`
}

// requests gives what is out, of one app or of all with app 0. Without a worker it is what the ledger has, and the error
// that says why is in unheard.
func (e *env) requests(ctx context.Context, q *queue.Queue, app int64) (out []request, unheard, err error) {
	views, err := q.Slots(ctx, e.Site, app)
	if err != nil {
		return nil, nil, err
	}
	a, unheard := e.askInflight(ctx, q, app)
	for _, v := range views {
		if v.Slot.Request != nil && (unheard != nil || slices.Contains(a.Silent, v.App)) {
			out = append(out, stale(v))
		}
	}
	for _, f := range a.Flights {
		if app == 0 || app == f.App {
			out = append(out, request{Site: e.Site, Owner: a.Owner, Epoch: a.Epoch, flightAnswer: f})
		}
	}
	slices.SortFunc(out, func(a, b request) int {
		if a.App != b.App {
			return int(a.App - b.App)
		}
		return a.Slot - b.Slot
	})
	return out, unheard, nil
}

// outOf is the request of one slot.
func (e *env) outOf(ctx context.Context, q *queue.Queue, v queue.SlotView) (request, error) {
	all, _, err := e.requests(ctx, q, v.App)
	for _, r := range all {
		if r.Request == v.Slot.Request.ID {
			return r, err
		}
	}
	return stale(v), err // it has just ended
}

func (e *env) askInflight(ctx context.Context, q *queue.Queue, app int64) (inflightAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	var a inflightAnswer
	raw, err := q.Ask(ctx, e.Site, "inflight", fmt.Appendf(nil, `{"app":%d}`, app))
	if err == nil {
		err = json.Unmarshal(raw, &a)
	}
	if err == nil && a.V != 1 {
		err = fmt.Errorf("the worker answers in version %d, this program knows 1", a.V)
	}
	if err != nil {
		return inflightAnswer{}, err
	}
	return a, nil
}

// stale is a request as the ledger has it.
func stale(v queue.SlotView) request {
	r := request{Site: v.Site, Owner: v.Slot.Owner, Epoch: v.Slot.Epoch, Stale: true,
		flightAnswer: flightAnswer{App: v.App, Slot: v.N, Request: v.Slot.Request.ID, At: v.Slot.Request.At}}
	for _, p := range v.Slot.Request.Parts {
		r.Parts = append(r.Parts, partAnswer{Members: p.Members, Sends: p.Sends, Unclear: p.Unclear})
	}
	return r
}

// part is the request with only the part that holds a job, or all of it without one.
func (r request) part(job string) (request, bool) {
	if job != "" {
		r.Parts = slices.DeleteFunc(slices.Clone(r.Parts), func(p partAnswer) bool {
			return !slices.ContainsFunc(p.Members, func(m queue.Member) bool { return m.Job == job })
		})
	}
	return r, len(r.Parts) > 0
}

func (r request) members() (all []queue.Member) {
	for _, p := range r.Parts {
		all = append(all, p.Members...)
	}
	return all
}

func (r request) sends() (n int) {
	for _, p := range r.Parts {
		n += p.Sends
	}
	return n
}

// unclear is when the last answer was lost.
func (r request) unclear() (last time.Time) {
	for _, p := range r.Parts {
		if p.Unclear.After(last) {
			last = p.Unclear
		}
	}
	return last
}

// doing says in words what goes on with it, and until when.
func (r request) doing(lang string) string {
	at := r.Until.Local().Format("15:04:05")
	switch r.Doing {
	case "sending":
		return in(lang, "a copy is at kintone, or about to leave")
	case "reading":
		return in(lang, "its records are being read, to find out what became of it")
	case "waiting":
		return in(lang, "sent again at %s", at)
	case "looking":
		return in(lang, "its records are read at %s", at)
	case "halted":
		what, _ := campaign.ReasonText(r.Reason, lang)
		return in(lang, "its lane is halted until %s at least: %s", at, what)
	case "held":
		return in(lang, "held until %s, for somebody to look at its records", at)
	}
	return in(lang, "not known; whoever takes over its lane sends it again")
}

// addFacts adds what a person needs to decide about it to a listing.
func (r request) addFacts(g grid) {
	lang := g.lang
	g.addFact("planned", ago(lang, r.At))
	sent := in(lang, "%s by %s", times(lang, r.sends()), r.Owner)
	if r.Inherited {
		sent += in(lang, ", and who knows how often by another worker")
	}
	if r.Stale {
		sent += in(lang, ", as far as the ledger knows: it is not told of every try")
	}
	if len(r.Parts) > 1 {
		g.addFact("parts", in(lang, "%d, each sent for itself", len(r.Parts)))
	}
	g.addFact("sent", sent)
	if at := r.unclear(); !at.IsZero() {
		g.addFact("lost answer", ago(lang, at))
	}
	if !r.Heard.IsZero() {
		g.addFact("last answer", ago(lang, r.Heard)+"  "+strings.Join(strings.Fields(r.HeardReason+" "+r.HeardCode+" "+r.HeardMessage), " "))
	}
	for _, p := range r.Parts {
		if p.Reason == "" {
			continue
		}
		text := strings.Join(strings.Fields(p.Reason+" "+p.Code+" "+p.Message), " ")
		if len(r.Parts) > 1 {
			text += in(lang, " (part of job %s)", p.Members[0].Job)
		}
		g.addFact("refused", text)
		if !p.GiveUp.IsZero() {
			g.addFact("", in(lang, "which does not count before %s, as a copy may be on its way", local(p.GiveUp)))
		}
	}
	g.addFact("now", r.doing(lang))
}

// ago is a time, and how long ago that was. A clock that is behind the worker's cannot tell that.
func ago(lang string, t time.Time) string {
	if d := time.Since(t); d > 0 {
		return in(lang, "%s (%s ago)", local(t), span(lang, d))
	}
	return local(t)
}

func times(lang string, n int) string {
	if n == 1 {
		return in(lang, "once")
	}
	return in(lang, "%d times", n)
}

// show writes all about a request.
func (e *env) show(r request) error {
	g := e.listing(0, "", "")
	g.addFact("request", r.Request)
	g.addFact("app", in(e.Lang, "%d, slot %d", r.App, r.Slot))
	r.addFacts(g)
	if err := e.write(g, ""); err != nil {
		return err
	}
	t := e.newGrid("PART>", "JOB", "RECORD>", "REVISION>", "ACTION", "ASSIGNEE", "LEADS TO")
	for i, p := range r.Parts {
		for _, m := range p.Members {
			t.add(i+1, m.Job, m.Record, m.Pin, m.Action, orDash(m.Assignee), orDash(m.To))
		}
	}
	if err := e.print("\n"); err != nil {
		return err
	}
	return e.write(t, "")
}

// inflight is a request for scripts.
type inflight struct {
	head
	Site      string   `json:"site"`
	App       id       `json:"app"`
	Slot      int      `json:"slot"`
	Request   string   `json:"request"`
	At        string   `json:"at"`
	Sends     int      `json:"sends"`
	Unclear   string   `json:"unclear,omitempty"` // the last answer that was lost
	Owner     string   `json:"owner"`
	Epoch     string   `json:"epoch"`
	Inherited bool     `json:"inherited,omitempty"`
	Stale     bool     `json:"stale,omitempty"` // from the ledger: no worker told, and what follows is not known
	Doing     string   `json:"doing,omitempty"` // sending, reading, waiting, looking, halted or held
	Until     string   `json:"until,omitempty"`
	Reason    string   `json:"reason,omitempty"` // why its lane is halted
	Heard     *attempt `json:"heard,omitempty"`  // the last answer
	Parts     []parted `json:"parts"`
	Jobs      []member `json:"jobs"`
}

type parted struct {
	Jobs    []string `json:"jobs"`
	Sends   int      `json:"sends"`
	Unclear string   `json:"unclear,omitempty"`
	Refused *refused `json:"refused,omitempty"` // how kintone refused it last
	GiveUp  string   `json:"giveUp,omitempty"`  // before this a refusal does not count
}

type refused struct {
	Reason  string `json:"reason"`
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}

type member struct {
	Job      string `json:"job"`
	Record   id     `json:"record"`
	Revision id     `json:"revision"` // that the request expects
	Action   string `json:"action"`
	Assignee string `json:"assignee,omitempty"`
}

func (r request) json() inflight {
	out := inflight{head: of("request"), Site: r.Site, App: id(r.App), Slot: r.Slot, Request: r.Request, At: utc(r.At), Sends: r.sends(),
		Unclear: utc(r.unclear()), Owner: r.Owner, Epoch: strconv.FormatUint(r.Epoch, 10), Inherited: r.Inherited, Stale: r.Stale,
		Doing: r.Doing, Until: utc(r.Until), Reason: r.Reason, Parts: []parted{}, Jobs: []member{}}
	if !r.Heard.IsZero() {
		out.Heard = &attempt{At: utc(r.Heard), Reason: r.HeardReason, Code: r.HeardCode, Message: r.HeardMessage}
	}
	for _, p := range r.Parts {
		part := parted{Jobs: []string{}, Sends: p.Sends, Unclear: utc(p.Unclear), GiveUp: utc(p.GiveUp)}
		if p.Reason != "" {
			part.Refused = &refused{p.Reason, p.Code, p.Message}
		}
		for _, m := range p.Members {
			part.Jobs = append(part.Jobs, m.Job)
			out.Jobs = append(out.Jobs, member{m.Job, id(m.Record), id(m.Pin), m.Action, m.Assignee})
		}
		out.Parts = append(out.Parts, part)
	}
	return out
}

type inflightLsCmd struct {
	App int64 `placeholder:"ID" help:"Only this app."`
}

// Run lists the slots. A request stands in its slot until its outcome is settled, so one that has been there for long is
// one whose answer was lost.
func (c *inflightLsCmd) Run(ctx context.Context, e *env) error {
	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	all, unheard, err := e.requests(ctx, q, c.App)
	if err != nil {
		return err
	}
	if e.JSON {
		for _, r := range all {
			if err := e.emit(r.json()); err != nil {
				return err
			}
		}
		return nil
	}
	if len(all) == 0 {
		return e.print("no request is out\n")
	}
	g := e.newGrid("APP>", "SLOT>", "REQUEST", "PLANNED", "JOBS>", "RECORDS", "ACTION", "SENT>", "LAST UNCLEAR", "LAST ANSWER", "WORKER", "NOW")
	for _, r := range all {
		var records, actions []string
		for _, m := range r.members() {
			records = append(records, strconv.FormatInt(m.Record, 10))
			if !slices.Contains(actions, m.Action) {
				actions = append(actions, m.Action)
			}
		}
		g.add(r.App, r.Slot, r.Request, local(r.At), len(records), few(records, e.Lang), few(actions, e.Lang), r.sends(), orDash(local(r.unclear())),
			orDash(strings.TrimSpace(r.HeardReason+" "+r.HeardCode)), r.Owner, r.doing(e.Lang))
	}
	if err := e.write(g, ""); err != nil {
		return err
	}
	if err := e.print("\n%s out; enqueue inflight show REQUEST tells all about one\n", count(e.Lang, len(all), "request")); err != nil {
		return err
	}
	return e.noteStale(all, unheard)
}

// noteStale says where what was shown may be out of date.
func (e *env) noteStale(shown []request, unheard error) error {
	switch {
	case unheard != nil:
		return e.print("\nfrom the ledger, which is not told of every try (%s)\n", printable(unheard.Error()))
	case slices.ContainsFunc(shown, func(r request) bool { return r.Stale }):
		return e.print("\nsome from the ledger, which is not told of every try: their lanes do not run, or had no time\n")
	}
	return nil
}

type inflightShowCmd struct {
	Request givenID `arg:"" help:"Request id, from enqueue inflight."`
}

func (c *inflightShowCmd) Run(ctx context.Context, e *env) error {
	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	r, unheard, err := e.request(ctx, q, string(c.Request))
	switch {
	case err != nil:
		return err
	case e.JSON:
		return e.emit(r.json())
	}
	if err := e.show(r); err != nil {
		return err
	}
	return e.noteStale([]request{r}, unheard)
}

func (e *env) request(ctx context.Context, q *queue.Queue, name string) (r request, unheard, err error) {
	all, unheard, err := e.requests(ctx, q, 0)
	if err != nil {
		return request{}, nil, err
	}
	for _, r := range all {
		if r.Request == name {
			return r, unheard, nil
		}
	}
	return request{}, nil, e.failure(exitError, "no request %s is out: it has ended, or there was none (enqueue job tells how its jobs ended)", name)
}

// resolution is what an operator has seen, one of three flags.
type resolution struct {
	Applied    bool `help:"It was run, as you have seen in kintone."`
	NotApplied bool `help:"It was not run, as you have seen in kintone, and need not be."`
	Retry      bool `help:"It was not run, as you have seen in kintone, and shall be: it is planned afresh. If it was run after all, it may run twice."`
}

func (r resolution) how() (queue.Resolution, error) {
	var said []queue.Resolution
	for how, given := range map[queue.Resolution]bool{queue.ResolveApplied: r.Applied, queue.ResolveNotApplied: r.NotApplied, queue.ResolveRetry: r.Retry} {
		if given {
			said = append(said, how)
		}
	}
	if len(said) != 1 {
		return "", usage("say what you have seen in kintone: one of --applied, --not-applied and --retry")
	}
	return said[0], nil
}

// meaning says what a resolution does to jobs.
func meaning(how queue.Resolution) string {
	switch how {
	case queue.ResolveApplied:
		return "they count as applied from now on"
	case queue.ResolveNotApplied:
		return "they count as dead from now on, without a dead letter; a copy that is still on its way to kintone may run all the same"
	default:
		return "they are run afresh; if they were run before after all, or a copy is still on its way to kintone, that can be twice"
	}
}

type inflightResolveCmd struct {
	Request givenID `arg:"" help:"Request id, from enqueue inflight."`
	Job     givenID `placeholder:"ID" help:"Only the part that holds this job, of a request that was cut into parts."`
	resolution
	Reason  string        `placeholder:"TEXT" help:"What you have seen, for the audit. Needed."`
	By      string        `default:"${user}" placeholder:"NAME" help:"Who you are, for the audit (${default})."`
	Timeout time.Duration `default:"2m30s" placeholder:"TIME" help:"How long to wait while a copy of it is out (${default})."`
	Held    time.Time     `placeholder:"TIME" help:"You looked at the records after you were told that it is held until this time, which you give as you were told."`
	DryRun  bool          `help:"Only show the request."`
	Yes     bool          `short:"y" help:"Do not ask."`
}

// Help is shown by --help.
func (c *inflightResolveCmd) Help() string {
	return "Ends a request of which the worker cannot find out what became of it, by what you have seen in kintone. " +
		"kintone carries out a request wholly or not at all, so all of its jobs share one fate. " +
		"That it was not run is only true of what was sent before you looked: so with --not-applied and --retry the request is first held " +
		"for ten minutes. Look at its records then, and answer, or with --yes repeat the command with --held and the time that it tells. " +
		"You also vouch that no copy that was sent before is still on its way to kintone."
}

// resolved is what became of it, for scripts.
type resolved struct {
	head
	Request string           `json:"request"`
	How     queue.Resolution `json:"how"`
	State   string           `json:"state"` // resolved, held, busy, ended or not_ready
	Text    string           `json:"text,omitempty"`
	Until   string           `json:"until,omitempty"`
	Held    string           `json:"held,omitempty"` // what to repeat the command with, after a look
	Jobs    []string         `json:"jobs"`
	DryRun  bool             `json:"dryRun,omitempty"`
}

func (c *inflightResolveCmd) Run(ctx context.Context, e *env) error {
	how, err := c.how()
	switch {
	case err != nil:
		return err
	case strings.TrimSpace(c.Reason) == "":
		return usage("--reason is missing: what have you seen?")
	case c.Timeout <= 0:
		return usage("--timeout: must be more than nothing")
	case !c.Yes && !c.DryRun && !isTerminal(e.stdin):
		return usage("this needs an answer, and stdin is not a terminal; use --yes, or --dry-run to look first")
	}
	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	r, unheard, err := e.request(ctx, q, string(c.Request))
	if err != nil {
		return err
	}
	r, found := r.part(string(c.Job))
	if !found {
		return e.failure(exitError, "job %s is not in request %s", c.Job, c.Request)
	}
	out := resolved{head: of("inflight-resolve"), Request: r.Request, How: how, Jobs: []string{}, DryRun: c.DryRun}
	jobs := count(e.Lang, len(r.members()), "job")
	if !e.JSON {
		if err := e.show(r); err != nil {
			return err
		}
	}
	switch {
	case c.DryRun && e.JSON:
		for _, m := range r.members() {
			out.Jobs = append(out.Jobs, m.Job)
		}
		return e.emit(out)
	case c.DryRun:
		if err := e.noteStale([]request{r}, unheard); err != nil {
			return err
		}
		return e.print("\nwould resolve %s as %s: %s; nothing was done\n", jobs, how, word(e.Lang, meaning(how)))
	case unheard != nil: // only the owner may write to its slots
		return unheard
	}
	var a resolveAnswer
	held := c.Held
	if !c.Yes {
		if how != queue.ResolveApplied && held.IsZero() {
			// The first question holds it, and only the second is believed: it tells that he was told, and looked then.
			if a, err = c.ask(ctx, e, q, r, how, held); err != nil {
				return err
			}
			if a.State == "held" {
				held = a.Until
				e.say("\nit is not sent again before %s: look at its records in kintone now", a.Until.Local().Format("15:04:05"))
			}
		}
		if a.State == "" || a.State == "held" {
			fmt.Fprint(e.stderr, in(e.Lang, "\n%s\nresolve %s as %s? [y/N] ", word(e.Lang, meaning(how)), jobs, how))
			line, _ := bufio.NewReader(e.stdin).ReadString('\n') // no answer is no
			switch strings.ToLower(strings.TrimSpace(line)) {
			case "y", "yes", "はい":
				a = resolveAnswer{}
			default:
				return e.failure(exitError, "nothing was done")
			}
		}
	}
	if a.State == "" {
		if a, err = c.ask(ctx, e, q, r, how, held); err != nil {
			return err
		}
	}
	if a.State == "held" {
		out.Held = a.Until.UTC().Format(time.RFC3339Nano)
	}
	out.State, out.Text, out.Until, out.Jobs = a.State, a.Text, utc(a.Until), append(out.Jobs, a.Jobs...)
	if e.JSON {
		if err := e.emit(out); err != nil {
			return err
		}
	}
	switch a.State {
	case "resolved":
		if e.JSON {
			return nil
		}
		return e.print("\nresolved %s as %s\n", count(e.Lang, len(a.Jobs), "job"), how)
	case "busy":
		return e.failure(exitHeld, "busy, try again: %s; nothing was done", a.Text)
	case "held":
		return e.failure(exitHeld, "%s; nothing was done. It is not sent again before %s: look at its records in kintone now, then repeat this command with --held %s",
			a.Text, a.Until.Local().Format("15:04:05"), out.Held)
	case "not_ready":
		return e.failure(exitHeld, "%s; nothing was done. It can be resolved once the lane runs", a.Text)
	}
	return e.failure(exitError, "%s; nothing was done", a.Text)
}

// resolveAnswer is what the worker says when asked for "inflight-resolve".
type resolveAnswer struct {
	V     int       `json:"v"`
	State string    `json:"state"`
	Text  string    `json:"text"`
	Until time.Time `json:"until"`
	Jobs  []string  `json:"jobs"`
}

func (c *inflightResolveCmd) ask(ctx context.Context, e *env, q *queue.Queue, r request, how queue.Resolution, held time.Time) (resolveAnswer, error) {
	question, err := json.Marshal(struct {
		V       int              `json:"v"`
		App     int64            `json:"app"`
		Request string           `json:"request"`
		Job     string           `json:"job,omitempty"`
		How     queue.Resolution `json:"how"`
		By      string           `json:"by,omitempty"`
		Reason  string           `json:"reason"`
		Wait    time.Duration    `json:"wait"`
		Held    time.Time        `json:"held,omitzero"`
	}{1, r.App, r.Request, string(c.Job), how, c.By, c.Reason, c.Timeout, held})
	if err != nil {
		return resolveAnswer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout+askPatience)
	defer cancel()
	raw, err := q.Ask(ctx, e.Site, "inflight-resolve", question)
	if err != nil {
		return resolveAnswer{}, err
	}
	var a resolveAnswer
	if err := json.Unmarshal(raw, &a); err != nil || a.V != 1 {
		return a, errors.Join(fmt.Errorf("the worker's answer: version %d", a.V), err)
	}
	return a, nil
}
