package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/text"

	"statusq/internal/kintone"
)

type probeCmd struct {
	settings
	App    []int64       `placeholder:"ID" help:"Test apps to ask. Nothing is ever sent to any other app; without one the probe refuses."`
	Record []int64       `placeholder:"ID" help:"Records to use up instead of new ones, where the form has required fields. They must be in the first status, and are not deleted."`
	Only   []string      `placeholder:"NAME" help:"Ask these questions only (step, all, race and so on; what can be asked is listed before anything is done)."`
	Watch  time.Duration `default:"30s" help:"How long to look after requests whose connection was cut (${default})."`
	Deploy bool          `help:"Ask also what happens during a deploy: deploys the app's settings as they are."`
	Yes    bool          `short:"y" help:"Do not ask before writing."`
	Out    string        `placeholder:"FILE" help:"Transcript, which must not exist yet (statusq-probe-SITE-APP-TIME.md)."`
	JSON   bool          `name:"json" help:"Print JSON, one object per line."`
}

var errProbe = errors.New("the probe")

// Run asks a real kintone what docs/kintone.md leaves open. Up to the question whether to go on it only reads; afterwards
// it writes to the named apps alone, and at its end, whatever brings that about, it deletes the records that it has made.
func (c *probeCmd) Run(stop context.Context, t *terminal) error {
	if len(c.App) == 0 {
		return usageError{errors.New("say with --app which test app the probe may write to; it makes records there, runs actions on them and deletes them")}
	}
	apps := slices.Compact(slices.Sorted(slices.Values(c.App)))
	if len(apps) > 1 && (len(c.Record) > 0 || c.Out != "") {
		return usageError{errors.New("--record and --out go with one --app")}
	}
	if c.Watch < 0 || c.Watch > 24*time.Hour {
		return usageError{errors.New("--watch: from 0 to 24h")}
	}
	for _, name := range c.Only {
		if !slices.ContainsFunc(questions, func(q question) bool { return q.name == name }) {
			var known []string
			for _, q := range questions {
				known = append(known, q.name)
			}
			return usageError{fmt.Errorf("--only %s: the questions are %s", name, strings.Join(known, ", "))}
		}
	}
	s, err := c.site()
	if err != nil {
		return err
	}
	client, err := kintone.NewClient(s.client)
	if err != nil {
		return usageError{fmt.Errorf("site %s: %w", s.name, err)}
	}
	bad := 0
	for _, id := range apps {
		differing, err := c.probe(stop, t, s, client, id)
		if err != nil {
			return fmt.Errorf("app %d: %w", id, err)
		}
		bad += differing
	}
	if bad > 0 {
		return fmt.Errorf("%w found %d answers that differ from what statusq relies on: send the transcript to its developers, and do not use it here before", errProbe, bad)
	}
	return nil
}

// site is the one that is asked: the only one, or the one of --site.
func (c *probeCmd) site() (site, error) {
	sites, err := c.sites()
	if err != nil {
		return site{}, err
	}
	if len(sites) == 1 {
		return sites[0], nil
	}
	i := slices.IndexFunc(sites, func(s site) bool { return s.name == c.Site })
	if i < 0 {
		return site{}, usageError{fmt.Errorf("there are %d sites in the configuration and none is called %s: say which with --site", len(sites), c.Site)}
	}
	return sites[i], nil
}

// survey reads what has to be known of an app before anything is planned.
func (c *probeCmd) survey(ctx context.Context, s site, client *kintone.Client, id int64) (*terrain, error) {
	cfg, ok := s.apps[id]
	if !ok {
		cfg = s.other
	}
	t := &terrain{app: kintone.App{ID: id, GuestSpace: cfg.GuestSpace}, signsIn: s.signsIn, deploy: c.Deploy, watch: c.Watch}
	t.us = client.Identity(t.app)
	var err error
	advise := func(err error) error {
		if todo := adviceFor(err); todo != "" {
			return fmt.Errorf("%w\n→ %s", err, todo)
		}
		return err
	}
	if t.process, err = client.Process(ctx, t.app); err != nil {
		return nil, advise(err)
	}
	if t.fields, err = client.FormFields(ctx, t.app); err != nil {
		return nil, advise(err)
	}
	if !t.process.Enabled || !t.fields.Enabled {
		return nil, errors.New("process management is off: switch it on in the app's settings")
	}
	creds := s.client.Credentials
	if creds.Username == "" && len(creds.AppTokens[id]) > 0 {
		for _, other := range slices.Sorted(maps.Keys(creds.AppTokens)) {
			if other != id && !slices.Equal(creds.AppTokens[other], creds.AppTokens[id]) {
				t.foreign = other
				break
			}
		}
	}
	return t, nil
}

// planned is a question with the way to ask it here.
type planned struct {
	question
	plan
}

// probe asks one app. It returns how many answers differ from what statusq relies on.
func (c *probeCmd) probe(stop context.Context, out *terminal, s site, client *kintone.Client, id int64) (differing int, err error) {
	t, err := c.survey(stop, s, client, id)
	if err != nil {
		return 0, err
	}
	info, err := client.AppInfo(stop, t.app)
	if err != nil {
		info.Name = "name not readable"
	}
	var ask, cannot []planned
	records, requests := 0, 0 // the requests without the deletion
	for _, q := range questions {
		if len(c.Only) > 0 && !slices.Contains(c.Only, q.name) {
			continue
		}
		p := planned{q, q.plan(t)}
		if p.missing == "" && len(c.Record) > 0 && records+p.records > len(c.Record) {
			p.missing = fmt.Sprintf("%d more records by --record", records+p.records-len(c.Record))
		}
		if p.missing != "" {
			cannot = append(cannot, p)
			continue
		}
		ask = append(ask, p)
		records += p.records
		requests += p.requests
	}
	if records > 0 {
		requests++ // the first look at them
		if len(c.Record) == 0 {
			requests++ // making them, a hundred at a time: the questions want fewer
		}
	}
	most := requests
	if records > 0 && len(c.Record) == 0 {
		most++ // the deletion
	}
	name := cmp.Or(c.Out, fmt.Sprintf("statusq-probe-%s-%d-%s.md", s.name, id, time.Now().UTC().Format("20060102-150405")))
	w := out.stdout
	if c.JSON {
		w = out.stderr
	}
	c.announce(w, s, t, info.Name, name, ask, cannot, records, most)
	if len(ask) == 0 {
		return 0, errors.New("there is nothing that could be asked in this app")
	}
	if !c.Yes {
		if err := confirm(stop, out.stderr); err != nil {
			return 0, err
		}
	}

	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, fmt.Errorf("transcript: %w", err)
	}
	paper := &transcript{file: file}
	defer func() { err = errors.Join(err, paper.close()) }()
	e := &expedition{terrain: t}
	e.prober = client.Prober(requests, func(x kintone.Exchange) {
		paper.exchange(x)
		e.hear(x)
	}, t.app)
	paper.hide = e.prober.Hide
	paper.head(s, t)

	began := time.Now()
	var made []int64 // and not deleted yet
	clean := func() error {
		if len(made) == 0 {
			return nil
		}
		ids := made
		made = nil
		return e.clean(stop, w, ids)
	}
	defer func() { err = errors.Join(err, clean()) }()
	var pool []kintone.Record
	if records > 0 {
		ids := c.Record
		if len(ids) == 0 {
			if ids, err = e.make(stop, records); err != nil {
				return 0, err
			}
			made = ids
			fmt.Fprintf(w, "made %s, from %d on\n", some(len(ids), "record"), ids[0])
		}
		if pool, err = e.fresh(stop, ids); err != nil {
			return 0, err
		}
	}
	for _, p := range ask {
		if stop.Err() != nil {
			return differing, errors.New("interrupted")
		}
		paper.begin(p.question)
		mine := pool[:p.records]
		pool = pool[p.records:]
		f := p.ask(stop, e, mine)
		if stop.Err() != nil {
			return differing, errors.New("interrupted")
		}
		f.Saw = e.prober.Hide(f.Saw)
		paper.end(f)
		if f.Verdict == differs {
			differing++
		}
		if err := c.report(out.stdout, id, p.question, f); err != nil {
			return differing, err
		}
	}
	for _, p := range cannot {
		f := finding{open, "it takes " + p.missing}
		paper.begin(p.question)
		paper.end(f)
		if c.JSON {
			if err := c.report(out.stdout, id, p.question, f); err != nil {
				return differing, err
			}
		}
	}
	unclean := clean() // is counted, too
	c.bill(w, paper, e, t, began, most, slices.ContainsFunc(ask, func(p planned) bool { return p.name == "count" }))
	fmt.Fprintf(w, "transcript: %s (no token, password or host in it; read it before you pass it on)\n", name)
	return differing, unclean
}

// announce says what will be done, before it is.
func (c *probeCmd) announce(w io.Writer, s site, t *terrain, app, transcript string, ask, cannot []planned, records, most int) {
	fmt.Fprintf(w, "App %d %q of %s, %s, signs in %s.\n\n", t.app.ID, harmless(app), s.name, s.client.BaseURL, s.signsIn)
	fmt.Fprintf(w, "The probe makes at most %d more requests", most)
	switch {
	case records == 0:
		fmt.Fprint(w, " and changes nothing.\n")
	case len(c.Record) > 0:
		fmt.Fprintf(w, ".\nIt runs actions on %d of the records that were named, and does not bring them back.\n", records)
	default:
		fmt.Fprintf(w, ".\nIt makes %s with nothing in them, runs actions on them, and deletes them at the end, also when it is\ninterrupted: by the last of these requests, which is repeated, up to %d times, if kintone does not answer it or is\nbusy. Their numbers are not given again.\n", some(records, "record"), deleteAgain)
	}
	if slices.ContainsFunc(ask, func(p planned) bool { return p.name == "deploy" }) {
		fmt.Fprint(w, "It deploys the app's settings as they are, unless changes wait there.\n")
	}
	if !c.Yes && slices.ContainsFunc(ask, func(p planned) bool { return p.name == "count" }) {
		fmt.Fprint(w, "For count, note now how many requests of today kintone's system administration shows for the app (App management).\n")
	}
	if records > 0 {
		fmt.Fprint(w, "Assignees may be notified, and webhooks of the app fire. Use an app that nobody works with, while no worker serves it.\n")
	}
	fmt.Fprint(w, "\nIt asks:\n")
	for _, p := range ask {
		fmt.Fprintf(w, "  %-10s %s\n", p.name, p.asks)
	}
	if len(cannot) > 0 {
		fmt.Fprint(w, "\nIt cannot ask, and what that would take:\n")
		for _, p := range cannot {
			fmt.Fprintf(w, "  %-10s %s\n", p.name, indent(p.missing, 13))
		}
	}
	fmt.Fprintf(w, "\nEvery request and answer goes into %s.\n", transcript)
}

// confirm asks. No answer is no.
func confirm(stop context.Context, w io.Writer) error {
	fmt.Fprint(w, "Go on? [y/N] ")
	said := make(chan string, 1)
	go func() { // ends with the process at the latest: nothing can take a read from a terminal back
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		said <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case answer := <-said:
		switch answer {
		case "y", "yes", "はい":
			return nil
		}
	case <-stop.Done():
	}
	fmt.Fprintln(w)
	return errors.New("nothing was done")
}

// report prints a finding.
func (c *probeCmd) report(w io.Writer, app int64, q question, f finding) error {
	if c.JSON {
		return json.NewEncoder(w).Encode(struct {
			Type     string `json:"type"`
			V        int    `json:"v"`
			App      string `json:"app"`
			Question string `json:"question"`
			Asks     string `json:"asks"`
			Settles  string `json:"settles"`
			finding
		}{"finding", 1, strconv.FormatInt(app, 10), q.name, q.asks, q.settles, f})
	}
	_, err := fmt.Fprintf(w, "\n%s: %s\n  %s\n  (docs/kintone.md %s)\n", q.name, f.Verdict, indent(harmless(f.Saw), 2), q.settles)
	return err
}

// bill says how many requests were made and, if somebody wants to know what counts, how far the administration's count has
// risen in each case: the API does not show it.
func (c *probeCmd) bill(w io.Writer, paper *transcript, e *expedition, t *terrain, began time.Time, most int, counts bool) {
	sent, refused := e.prober.Counts()
	if _, _, inBulk := refusedCall(e.calls); inBulk {
		refused++
	}
	text := fmt.Sprintf("%d requests to look at the app, and then %d of the at most %d that were announced, in %s; kintone refused %d of them.",
		surveyRequests, min(sent, most), most, told(time.Since(began)), refused)
	if sent > most {
		text += fmt.Sprintf(" On top of those came %d, because the deletion had to be repeated.", sent-most)
	}
	switch {
	case !counts:
	case e.calls.Target == "" || e.calls.Err != nil:
		text += " As the bulkRequest was not carried out, how far kintone's count has risen would tell little: ask once more, with --only count."
	default:
		since := "the probe asked whether to go on"
		if c.Yes {
			since = "before the probe"
			sent += surveyRequests
		}
		text += fmt.Sprintf(" If nobody else uses app %d, its requests of today in the administration (App management) have risen, since %s, by\n"+
			"- %d if refused requests count and the bulkRequest as one,\n"+
			"- %d if refused requests count and the bulkRequest as %d,\n"+
			"- %d if refused requests do not count and the bulkRequest as one,\n"+
			"- %d if refused requests do not count and the bulkRequest as %[5]d.", t.app.ID, since,
			sent, sent+countMembers-1, countMembers, sent-refused, sent-refused+countMembers-1)
		if e.silent > 0 {
			text += fmt.Sprintf("\n\nOr by up to %d less: so many got no answer of kintone's. With --only count there are none of these.", e.silent)
		}
	}
	paper.note(text)
	fmt.Fprintf(w, "\n%s\n", indent(text, 0))
}

// surveyRequests are those that are made before anything is asked.
const surveyRequests = 3

// make makes records with nothing in them.
func (e *expedition) make(ctx context.Context, n int) ([]int64, error) {
	empty := make([]map[string]any, n)
	for i := range empty {
		empty[i] = map[string]any{}
	}
	x := e.prober.Ask(ctx, e.app.ID, kintone.Attempt{Method: http.MethodPost, API: "records.json",
		Body: map[string]any{"app": e.app.ID, "records": empty}})
	switch {
	case x.Err == nil:
	case x.Err.Code == "CB_VA01":
		return nil, fmt.Errorf("the form does not take empty records, probably because fields are required or must be unique (%s): use an app without such fields, or make %d records by hand and name them with --record",
			strings.Join(slices.Sorted(maps.Keys(x.Err.Errors)), ", "), n)
	case x.Err.Code == "CB_NO02" || x.Err.Code == "GAIA_NO01":
		return nil, fmt.Errorf("make records: %w\n→ the token or user needs the rights to add and to delete records of this app; or make %d records by hand and name them with --record", x.Err, n)
	case x.Err.MayHaveActed:
		return nil, fmt.Errorf("make records: %w\n→ it is not known whether %d records with nothing in them were made; look, and delete them by hand", x.Err, n)
	default:
		return nil, fmt.Errorf("make records: %w", x.Err)
	}
	var answer struct {
		IDs []json.Number `json:"ids"`
	}
	var ids []int64
	err := json.Unmarshal(x.Answer, &answer)
	for _, s := range answer.IDs {
		id, _ := s.Int64()
		ids = append(ids, id)
	}
	if err != nil || len(ids) != n || slices.Contains(ids, 0) {
		return nil, fmt.Errorf("make records: the answer does not name %d records (%.200s): look, and delete by hand what was made", n, x.Answer)
	}
	return ids, nil
}

// fresh reads the records that are to be used up. All have to be there, in the first status.
func (e *expedition) fresh(ctx context.Context, ids []int64) ([]kintone.Record, error) {
	records, err := e.prober.Records(ctx, e.app.ID, e.fields, ids)
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	for _, id := range ids {
		i := slices.IndexFunc(records, func(r kintone.Record) bool { return r.ID == id })
		switch {
		case i < 0:
			return nil, fmt.Errorf("there is no record %d in app %d, or it may not be seen", id, e.app.ID)
		case records[i].Status != e.process.First():
			return nil, fmt.Errorf("record %d is in status %q: it has to be in the first one, %q", id, records[i].Status, e.process.First())
		}
	}
	return records, nil
}

// deleteAgain is how often the deletion is repeated, within half a minute.
const deleteAgain = 5

// clean deletes the records that make made, also when the probe was interrupted. What may pass, as a lock after a deploy
// does, is waited for.
func (e *expedition) clean(ctx context.Context, w io.Writer, ids []int64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	query := url.Values{"app": {strconv.FormatInt(e.app.ID, 10)}}
	for i, id := range ids {
		query.Set(fmt.Sprintf("ids[%d]", i), strconv.FormatInt(id, 10))
	}
	unclear := false
	for wait, again := time.Second, 0; ; wait, again = wait*2, again+1 {
		x := e.prober.Ask(ctx, e.app.ID, kintone.Attempt{Method: http.MethodDelete, API: "records.json", Query: query})
		// Whoever may not know whether they are gone is told that one is not there.
		if x.Err == nil || unclear && x.Err.Code == "GAIA_RE01" {
			fmt.Fprintf(w, "deleted the %s that it had made\n", some(len(ids), "record"))
			return nil
		}
		unclear = unclear || x.Err.MayHaveActed
		passing := x.Err.MayHaveActed || x.Err.Code == "GAIA_DA02" || x.Status == http.StatusTooManyRequests
		if passing && again < deleteAgain {
			select {
			case <-time.After(wait):
				continue
			case <-ctx.Done():
			}
		}
		return fmt.Errorf("delete records: %w\n→ delete records %d to %d of app %d by hand (%s)", x.Err, slices.Min(ids), slices.Max(ids), e.app.ID, some(len(ids), "record"))
	}
}

// transcript is the paper that a probe leaves, in Markdown. It is written as the probe goes, so that one that is killed
// leaves it too.
type transcript struct {
	file *os.File
	hide func(string) string // takes secrets out
	err  error               // the first
}

func (t *transcript) write(format string, args ...any) {
	if t.err == nil {
		_, t.err = t.file.WriteString(t.hide(fmt.Sprintf(format, args...)))
	}
}

func (t *transcript) close() error {
	if err := errors.Join(t.err, t.file.Close()); err != nil {
		return fmt.Errorf("transcript: %w", err)
	}
	return nil
}

func (t *transcript) head(s site, about *terrain) {
	t.write("# What kintone answered\n\nURLs are shown decoded. App %d of site %s, %s, statusq %s, signs in %s.\n\n", about.app.ID, s.name,
		time.Now().UTC().Format(time.RFC3339), version(), s.signsIn)
	t.write("Statuses, in no order:\n\n")
	for _, name := range slices.Sorted(maps.Keys(about.process.States)) {
		a := about.process.States[name].Assignee
		var who []string
		for _, e := range a.Entities {
			who = append(who, strings.TrimSpace(string(e.Type)+" "+e.Code))
		}
		t.write("- %s: %s %s\n", harmless(name), a.Type, harmless(strings.Join(who, ", ")))
	}
	t.write("\nActions:\n\n")
	for _, a := range about.process.Actions {
		t.write("- %s: %s → %s, %s %s\n", harmless(a.Name), harmless(a.From), harmless(a.To), a.Type, harmless(a.FilterCond))
	}
	t.write("\n## At first\n\n")
}

func (t *transcript) begin(q question) {
	t.write("\n## %s\n\n%s Settles docs/kintone.md %s.\n\n", q.name, q.asks, q.settles)
}

func (t *transcript) end(f finding) { t.write("\n**%s**: %s\n", f.Verdict, harmless(f.Saw)) }

func (t *transcript) note(s string) { t.write("\n## In the end\n\n%s\n\n", s) }

// exchange writes a request and its answer down.
func (t *transcript) exchange(x kintone.Exchange) {
	target, err := url.QueryUnescape(x.Target)
	if err != nil {
		target = x.Target
	}
	t.write("- `%s %s` %s, %s: **%s**\n", x.Method, quoted(target), x.Began.UTC().Format("15:04:05.000"), told(x.Took), says(x))
	if x.Sent != "" {
		t.write("  - sent `%s`\n", quoted(x.Sent))
	}
	if len(x.Headers) > 0 {
		t.write("  - `%s`\n", harmless(strings.Join(x.Headers, "; ")))
	}
	switch {
	case x.Shown != "":
		t.write("  - answer `%s`\n", quoted(x.Shown))
	case x.Err != nil && x.Err.Err != nil:
		t.write("  - %s\n", harmless(x.Err.Err.Error()))
	}
}

// quoted makes a text fit for a pair of backticks.
func quoted(s string) string { return strings.ReplaceAll(harmless(s), "`", "'") }

// some is a number of things.
func some(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// harmless makes text from strangers fit for a terminal and for a line.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// indent wraps a text for people, with so many spaces before all lines but the first.
func indent(s string, by int) string {
	return strings.ReplaceAll(wrapped(s, 116-by), "\n", "\n"+strings.Repeat(" ", by))
}

// wrapped breaks lines between words, and keeps those that are there: text.WrapSoft takes them for spaces.
func wrapped(s string, width int) string {
	var lines []string
	for line := range strings.SplitSeq(s, "\n") {
		for piece := range strings.SplitSeq(text.WrapSoft(line, width), "\n") {
			lines = append(lines, strings.TrimRight(piece, " "))
		}
	}
	return strings.Join(lines, "\n")
}
