package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// settingsAnswer is what the worker says about an app's process management settings.
type settingsAnswer struct {
	V           int                      `json:"v"`
	App         int64                    `json:"app"`
	Name        string                   `json:"name"`
	State       string                   `json:"state"` // shown, begun, refused or not_ready
	Text        string                   `json:"text"`
	Deploys     bool                     `json:"deploys"`
	Live        *kintone.ProcessSettings `json:"live"`
	Preview     *kintone.ProcessSettings `json:"preview"`
	PreviewText string                   `json:"previewText"` // why the preview could not be read
	Changes     []settingsChange         `json:"changes"`     // that are wanted
	Waiting     []settingsChange         `json:"waiting"`     // of the process settings, that wait in the preview
	Pending     bool                     `json:"pending"`     // something waits in the preview
	Problems    []struct {
		Path []string `json:"path"`
		Text string   `json:"text"`
	} `json:"problems"`
	Standing []standing    `json:"standing"`
	Change   *queue.Change `json:"change"`
}

// settingsChange is one difference.
type settingsChange struct {
	What   kintone.ChangeKind `json:"what"`
	Name   string             `json:"name,omitempty"`
	From   string             `json:"from,omitempty"`
	To     string             `json:"to,omitempty"`
	Before json.RawMessage    `json:"before,omitempty"`
	After  json.RawMessage    `json:"after,omitempty"`
}

type standing struct {
	Status  string `json:"status"`
	Records int    `json:"records"`
	Text    string `json:"text,omitempty"`
}

// settingsQuestion is what the worker is asked.
type settingsQuestion struct {
	V       int             `json:"v"`
	App     int64           `json:"app"`
	Want    json.RawMessage `json:"want,omitempty"`
	ID      string          `json:"id,omitempty"`
	By      string          `json:"by,omitempty"`
	Reason  string          `json:"reason,omitempty"`
	Base    int64           `json:"base,omitempty"`
	Deploy  bool            `json:"deploy,omitempty"`
	Publish bool            `json:"publish,omitempty"`
	Wait    time.Duration   `json:"wait,omitempty"`
}

// settingsPatience is how long the worker may take to ask kintone several questions.
const settingsPatience = 90 * time.Second

func (e *env) askSettings(ctx context.Context, q *queue.Queue, verb string, question settingsQuestion) (settingsAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, settingsPatience)
	defer cancel()
	question.V = 1
	raw, err := json.Marshal(question)
	if err != nil {
		return settingsAnswer{}, err
	}
	if raw, err = q.Ask(ctx, e.Site, verb, raw); err != nil {
		return settingsAnswer{}, err
	}
	var a settingsAnswer
	if err := json.Unmarshal(raw, &a); err != nil || a.V != 1 {
		return a, errors.Join(fmt.Errorf("the worker's answer: version %d", a.V), err)
	}
	if a.State == "not_ready" {
		return a, &exit{exitHeld, errors.New(a.Text)}
	}
	return a, nil
}

type settingsGetCmd struct {
	App     int64  `required:"" placeholder:"ID" help:"The app."`
	Preview bool   `help:"What waits in the preview, instead of what is in force."`
	Output  string `short:"o" enum:"yaml,json" default:"yaml" placeholder:"FORM" help:"yaml or json (${default})."`
}

// Run writes settings as a file that apply reads.
func (c *settingsGetCmd) Run(ctx context.Context, e *env) error {
	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	a, err := e.askSettings(ctx, q, "settings-get", settingsQuestion{App: c.App})
	if err != nil {
		return err
	}
	s := a.Live
	if c.Preview {
		if s = a.Preview; s == nil {
			return errors.New(a.PreviewText)
		}
	}
	if s == nil {
		return e.failure(exitError, "the worker's answer holds no settings")
	}
	s.App = c.App
	if e.JSON {
		return e.emit(struct {
			head
			App      id                       `json:"app"`
			Name     string                   `json:"name,omitempty"`
			Preview  bool                     `json:"preview"`
			Pending  bool                     `json:"pending"`
			Settings *kintone.ProcessSettings `json:"settings"`
		}{of("settings"), id(c.App), a.Name, c.Preview, a.Preview != nil && a.Preview.Revision != a.Live.Revision, s})
	}
	body, err := inJSON(s)
	if c.Output == "yaml" {
		body, err = inYAML(s)
	}
	if err != nil {
		return err
	}
	if a.Preview != nil && a.Preview.Revision != a.Live.Revision {
		e.say("something waits in the app's preview: revision %d, in force is %d", a.Preview.Revision, a.Live.Revision)
	}
	return e.print("%s\n", strings.TrimRight(string(body), "\n"))
}

// inJSON writes settings for people. Conditions are full of < and >, which stay as they are.
func inJSON(s *kintone.ProcessSettings) ([]byte, error) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(s)
	return text.Bytes(), err
}

func inYAML(s *kintone.ProcessSettings) ([]byte, error) {
	text, err := inJSON(s)
	if err == nil {
		text, err = yaml.JSONToYAML(text)
	}
	if err != nil {
		return nil, err
	}
	// What is kept in a file has to come back as it was, whatever names are in it.
	if back, err := parseSettings("", text); err != nil || !back.settings.Same(s) {
		return nil, errors.New("these settings cannot be written as YAML without a change: use -o json")
	}
	return text, nil
}

// wanted is a file with settings, and the app that they are for.
type wanted struct {
	App  int64  `placeholder:"ID" help:"The app, unless the file says it. It may be another than that in the file."`
	File string `required:"" placeholder:"FILE" help:"The settings as YAML or JSON, as kintone's API has them; - for stdin. What is left out stays as it is, but a status that is left out of states is deleted."`
}

// read gives what the file wants, and for which revision of the app's preview; 0 if for any.
func (w wanted) read(e *env) (settingsFile, settingsQuestion, error) {
	f, err := readSettingsFile(w.File, e.stdin)
	if err != nil {
		return f, settingsQuestion{}, e.tellMistakes(err)
	}
	question := settingsQuestion{App: w.App, Want: f.body}
	switch {
	case w.App == 0 && f.settings.App == 0:
		return f, question, usage("--app is missing, and %s does not name an app", f.name)
	case w.App == 0:
		question.App = f.settings.App
	case f.settings.App != 0 && f.settings.App != w.App:
		e.say("%s was written for app %d, and is used for app %d", f.name, f.settings.App, w.App)
		f.settings.Revision = kintone.Unchecked
	}
	if f.settings.Revision > 0 {
		question.Base = f.settings.Revision
	}
	return f, question, nil
}

type settingsDiffCmd struct{ wanted }

// compareSettings asks what a file would change, and shows it.
func (e *env) compareSettings(ctx context.Context, q *queue.Queue, f settingsFile, question settingsQuestion) (settingsAnswer, error) {
	a, err := e.askSettings(ctx, q, "settings-diff", question)
	if err != nil {
		return a, err
	}
	if err := e.tellMistakes(f.renamedBefore(a.Preview)); err != nil {
		return a, err
	}
	return a, e.showDiff(a, true)
}

// Run exits with 0 whether or not something differs.
func (c *settingsDiffCmd) Run(ctx context.Context, e *env) error {
	f, question, err := c.read(e)
	if err != nil {
		return err
	}
	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	a, err := e.compareSettings(ctx, q, f, question)
	if err != nil {
		return err
	}
	return e.tellMistakes(f.refused(a))
}

// showDiff tells what changes, or with wants = false what waits in the preview.
func (e *env) showDiff(a settingsAnswer, wants bool) error {
	if a.State == "refused" {
		return &exit{exitError, errors.New(a.Text)}
	}
	if e.JSON {
		out := struct {
			head
			App      id               `json:"app"`
			Name     string           `json:"name,omitempty"`
			Live     id               `json:"liveRevision"`
			Preview  id               `json:"previewRevision"`
			Pending  bool             `json:"pending"`
			Changes  []settingsChange `json:"changes"`
			Waiting  []settingsChange `json:"waiting"`
			Standing []standing       `json:"standing"`
			Words    []string         `json:"words"`
		}{head: of("settings-diff"), App: id(a.App), Name: a.Name, Pending: a.Pending,
			Changes: append([]settingsChange{}, a.Changes...), Waiting: append([]settingsChange{}, a.Waiting...), Standing: append([]standing{}, a.Standing...), Words: []string{}}
		if a.Live != nil && a.Preview != nil {
			out.Live, out.Preview = id(a.Live.Revision), id(a.Preview.Revision)
		}
		for _, c := range a.Changes {
			out.Words = append(out.Words, c.words(e.Lang))
		}
		return e.emit(out)
	}
	t := settingsTexts(e.Lang)
	if a.Pending {
		if err := e.print("%s\n", fmt.Sprintf(t.pending, a.Preview.Revision, a.Live.Revision)); err != nil {
			return err
		}
		for _, c := range a.Waiting {
			if err := e.print("  %s\n", printable(c.words(e.Lang))); err != nil {
				return err
			}
		}
		if len(a.Waiting) == 0 {
			if err := e.print("  %s\n", t.otherSettings); err != nil {
				return err
			}
		}
	}
	if wants {
		if len(a.Changes) == 0 {
			if err := e.print("%s\n", t.nothing); err != nil {
				return err
			}
		}
		for _, c := range a.Changes {
			if err := e.print("%s\n", printable(c.words(e.Lang))); err != nil {
				return err
			}
		}
	}
	for _, s := range a.Standing {
		text := fmt.Sprintf(t.standing, s.Status, s.Records)
		switch {
		case s.Text != "":
			text = fmt.Sprintf(t.uncounted, s.Status, s.Text)
		case s.Records == 0:
			text = fmt.Sprintf(t.empty, s.Status)
		}
		if err := e.print("%s\n", printable(text)); err != nil {
			return err
		}
	}
	return nil
}

// changeFlags are common to what changes an app.
type changeFlags struct {
	Reason  string        `placeholder:"TEXT" help:"Why, for the audit."`
	By      string        `default:"${user}" placeholder:"NAME" help:"Who you are, for the audit (${default})."`
	Within  time.Duration `default:"10m" placeholder:"TIME" help:"How long to wait for status requests that are out, before it is given up (${default}). Nothing new is sent meanwhile."`
	Timeout time.Duration `default:"0" placeholder:"TIME" help:"Stop watching after this time, and exit with 5. The change goes on. 0: watch until it has ended."`
	Yes     bool          `short:"y" help:"Do not ask."`
}

func (c changeFlags) check(e *env) error {
	switch {
	case c.Within <= 0 || c.Within > 24*time.Hour:
		return usage("--within: must be more than nothing, and at most a day")
	case c.Timeout < 0:
		return usage("--timeout: must not be negative")
	case !c.Yes && !isTerminal(e.stdin):
		return usage("this needs an answer, and stdin is not a terminal; use --yes, or enqueue settings diff to look first")
	}
	return nil
}

type settingsApplyCmd struct {
	wanted
	changeFlags
	NoDeploy       bool   `help:"Leave it in the preview. Nothing comes into force."`
	PublishPending bool   `help:"Deploy although other changes wait in the app's preview: they come into force too, whoever made them."`
	Revision       *int64 `placeholder:"N" help:"Only if the preview has this revision, instead of that in the file or that of the comparison; -1 for any."`
}

// Help is shown by --help.
func (c *settingsApplyCmd) Help() string {
	return "Compares, asks, and lets the worker that owns the site do it: it sends nothing new for the app, waits until no status request is out, " +
		"changes the preview, deploys it, waits until it is in force, and goes on. If somebody else was quicker, or the deploy fails, the app " +
		"stays, or becomes again, what it was. Should the worker die, the next one carries it through."
}

func (c *settingsApplyCmd) Run(ctx context.Context, e *env) error {
	if err := c.check(e); err != nil {
		return err
	}
	f, question, err := c.read(e)
	if err != nil {
		return err
	}
	if !c.Yes && c.File == "-" {
		return usage("the settings and the answer cannot both come from stdin; use --yes")
	}
	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	a, err := e.compareSettings(ctx, q, f, question)
	if err != nil {
		return err
	}
	if err := e.tellMistakes(f.refused(a)); err != nil {
		return err
	}
	question.Deploy, question.Publish = !c.NoDeploy, c.PublishPending
	switch {
	case c.Revision != nil:
		question.Base = *c.Revision
	case question.Base == 0:
		question.Base = a.Preview.Revision // what is shown is what is changed
	}
	return c.run(ctx, e, q, question)
}

type settingsDeployCmd struct {
	App int64 `required:"" placeholder:"ID" help:"The app."`
	changeFlags
}

// Run puts into force what waits in the preview.
func (c *settingsDeployCmd) Run(ctx context.Context, e *env) error {
	if err := c.check(e); err != nil {
		return err
	}
	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	question := settingsQuestion{App: c.App}
	a, err := e.askSettings(ctx, q, "settings-diff", question)
	if err != nil {
		return err
	}
	if err := e.showDiff(a, false); err != nil {
		return err
	}
	if !a.Pending {
		if e.JSON {
			return nil
		}
		return e.print("%s\n", settingsTexts(e.Lang).nothingWaits)
	}
	question.Deploy, question.Publish, question.Base = true, true, a.Preview.Revision
	return c.run(ctx, e, q, question)
}

// run asks, begins and watches.
func (c changeFlags) run(ctx context.Context, e *env, q *queue.Queue, question settingsQuestion) error {
	t := settingsTexts(e.Lang)
	if !c.Yes {
		fmt.Fprintf(e.stderr, "\n%s [y/N] ", t.ask(question))
		line, _ := bufio.NewReader(e.stdin).ReadString('\n') // no answer is no
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes", "はい":
		default:
			return &exit{exitError, errors.New(t.notDone)}
		}
	}
	question.ID, question.By, question.Reason, question.Wait = queue.NewID(), c.By, c.Reason, c.Within
	a, err := e.askSettings(ctx, q, "settings-apply", question)
	if err != nil {
		return err
	}
	if a.State != "begun" {
		return &exit{exitHeld, fmt.Errorf("%s; %s", a.Text, t.notDone)}
	}
	return e.watchChange(ctx, q, question.App, question.ID, c.Timeout)
}

// watchChange follows a change to its end.
func (e *env) watchChange(ctx context.Context, q *queue.Queue, app int64, name string, timeout time.Duration) error {
	t := settingsTexts(e.Lang)
	var over <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		over = timer.C
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	var told queue.ChangeStage
	for {
		c, err := q.Change(ctx, e.Site, app)
		switch {
		case err != nil && !errors.Is(err, queue.ErrUnreachable):
			return err
		case err == nil && c.ID != name:
			return e.failure(exitError, "another change has begun since; the audit tells how this one ended (%s)", name)
		case err == nil && c.Stage.Ended():
			return e.endOfChange(c, app)
		case err == nil && c.Stage != told:
			told = c.Stage
			e.say("%s", t.stages[c.Stage])
		}
		select {
		case <-tick.C:
		case <-over:
			return &exit{exitTimeout, errors.New(t.goesOn)}
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", t.goesOn, context.Cause(ctx))
		}
	}
}

// changeLine is a change for scripts.
type changeLine struct {
	head
	App     id                `json:"app"`
	Change  string            `json:"change"`
	Stage   queue.ChangeStage `json:"stage"` // waiting, putting, deploying, undoing, done or failed
	Why     string            `json:"why,omitempty"`
	Text    string            `json:"text,omitempty"`
	Left    queue.ChangeLeft  `json:"left,omitempty"`
	By      string            `json:"by,omitempty"`
	Reason  string            `json:"reason,omitempty"`
	At      string            `json:"at"`
	Since   string            `json:"since"`
	EmptyBy string            `json:"emptyBy"`
	Owner   string            `json:"owner,omitempty"`
}

// endOfChange tells how a change ended, or how far it is, and gives the exit code.
func (e *env) endOfChange(c queue.Change, app int64) error {
	t := settingsTexts(e.Lang)
	if e.JSON {
		if err := e.emit(changeLine{of("settings-change"), id(app), c.ID, c.Stage, c.Why, c.Text, c.Left, c.By, c.Reason,
			utc(c.At), utc(c.Since), utc(c.EmptyBy), c.Owner}); err != nil {
			return err
		}
	}
	text := t.left[c.Left]
	if why := t.why[c.Why]; why != "" {
		text = why + "; " + text
	}
	if c.Text != "" {
		text += " (" + c.Text + ")"
	}
	code := exitError
	switch {
	case c.Stage == queue.ChangeDone:
		if e.JSON {
			return nil
		}
		return e.print("%s\n", printable(text))
	case c.Left == queue.LeftUnknown || c.Left == queue.LeftDeploying:
		code = exitUnknown
	case c.Why == "requests_out" || c.Why == "pending_changes" || c.Why == "stale_revision" || c.Why == "timeout":
		code = exitHeld
	}
	return &exit{code, errors.New(text)}
}

type settingsStatusCmd struct {
	App int64 `required:"" placeholder:"ID" help:"The app."`
}

// Run tells of the last change, from the queue: it needs no worker.
func (c *settingsStatusCmd) Run(ctx context.Context, e *env) error {
	q, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	t := settingsTexts(e.Lang)
	change, err := q.Change(ctx, e.Site, c.App)
	switch {
	case errors.Is(err, queue.ErrGone) && e.JSON:
		return nil
	case errors.Is(err, queue.ErrGone):
		return e.print("%s\n", t.never)
	case err != nil:
		return err
	case e.JSON:
		return e.emit(changeLine{of("settings-change"), id(c.App), change.ID, change.Stage, change.Why, change.Text, change.Left, change.By,
			change.Reason, utc(change.At), utc(change.Since), utc(change.EmptyBy), change.Owner})
	}
	g := e.listing(0, "", "")
	g.addFact("change", change.ID)
	g.addFact("asked for", ago(e.Lang, change.At)+"  "+queue.Signed(change.By, change.Reason))
	g.addFact("stage", string(change.Stage)+", "+t.stages[change.Stage])
	g.addFact("since", ago(e.Lang, change.Since))
	if change.Stage == queue.ChangeWaiting {
		g.addFact("until", local(change.EmptyBy))
	}
	if why := t.why[change.Why]; why != "" {
		g.addFact("why", change.Why+", "+why)
	}
	g.addFact("", change.Text)
	g.addFact("left", t.left[change.Left])
	g.addFact("worker", change.Owner)
	return e.write(g, "")
}
