package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// This file is what operators ask of an owner about an app's process management settings: to show them, to compare them
// with what is wanted, and to change them, which is the lane's work (change.go).

// SettingsRequest is the question "settings-get", "settings-diff" and "settings-apply".
type SettingsRequest struct {
	V    int             `json:"v"`
	App  int64           `json:"app"`
	Want json.RawMessage `json:"want,omitempty"` // a body of PUT preview/app/status.json; none = what is in the preview, to be deployed

	// Of "settings-apply" alone.
	ID      string        `json:"id,omitempty"` // names the change: who asks twice for it gets it once
	By      string        `json:"by,omitempty"`
	Reason  string        `json:"reason,omitempty"`
	Base    int64         `json:"base,omitempty"` // revision of the preview that was looked at; 0 or -1 = whatever it is
	Deploy  bool          `json:"deploy,omitempty"`
	Publish bool          `json:"publish,omitempty"` // with whatever else waits in the preview
	Wait    time.Duration `json:"wait,omitempty"`    // nanoseconds; for requests that are out. 0 = 10 minutes
}

// SettingsAnswer is the answer to them.
type SettingsAnswer struct {
	V       int    `json:"v"`
	App     int64  `json:"app"`
	Name    string `json:"name,omitempty"`
	State   State  `json:"state"`          // of "settings-apply"; SettingsShown for the others
	Text    string `json:"text,omitempty"` // why it was not begun
	Deploys bool   `json:"deploys,omitempty"`

	// What kintone has. Preview is missing, and PreviewText says why, where the credentials may not manage the app.
	Live        *kintone.ProcessSettings `json:"live,omitempty"`
	Preview     *kintone.ProcessSettings `json:"preview,omitempty"`
	PreviewText string                   `json:"previewText,omitempty"`

	// Of a comparison: what would be in the preview, how that differs from the preview now, and the preview from what is
	// in force; what kintone would refuse; and how many records stand in the statuses that would vanish.
	Whole    *kintone.ProcessSettings `json:"whole,omitempty"`
	Changes  []kintone.SettingsChange `json:"changes,omitempty"`
	Waiting  []kintone.SettingsChange `json:"waiting,omitempty"`
	Pending  bool                     `json:"pending,omitempty"` // something waits in the preview, perhaps of other settings
	Problems []SettingsProblem        `json:"problems,omitempty"`
	Standing []Standing               `json:"standing,omitempty"`

	Change *queue.Change `json:"change,omitempty"` // that is under way, or was begun
}

// SettingsProblem is something in the settings that are wanted that kintone would refuse.
type SettingsProblem struct {
	Path []string `json:"path"` // from the top of the body
	Text string   `json:"text"`
}

// Standing is how many records are in a status.
type Standing struct {
	Status  string `json:"status"`
	Records int    `json:"records"`
	Text    string `json:"text,omitempty"` // why they could not be counted
}

// State is what became of such a question.
type State string

const (
	SettingsShown    State = "shown"
	SettingsBegun    State = "begun"
	SettingsRefused  State = "refused"   // nothing was done, and Text, Problems or Change says why
	SettingsUnserved State = "not_ready" // the app's lane has not taken over yet; nothing was done
)

// longestAnswer is how long a question may take: a few requests to kintone, perhaps at the gate.
const longestAnswer = time.Minute

// changeVerbs are what the owner answers about settings.
func (o *Owner) changeVerbs() map[string]func(context.Context, []byte) ([]byte, error) {
	verb := func(answer func(*lane, context.Context, SettingsRequest) (SettingsAnswer, error)) func(context.Context, []byte) ([]byte, error) {
		return func(ctx context.Context, question []byte) ([]byte, error) {
			var ask SettingsRequest
			switch err := json.Unmarshal(question, &ask); {
			case err != nil:
				return nil, fmt.Errorf("unreadable question: %w", err)
			case ask.V != 1:
				return nil, fmt.Errorf("the question is in version %d, this worker knows 1", ask.V)
			}
			o.mu.Lock()
			l := o.lanes[ask.App]
			o.mu.Unlock()
			if l == nil {
				return json.Marshal(SettingsAnswer{V: 1, App: ask.App, State: SettingsUnserved,
					Text: fmt.Sprintf("app %d has no lane: name it in the worker's configuration", ask.App)})
			}
			ctx, cancel := context.WithTimeout(ctx, longestAnswer)
			defer cancel()
			a, err := answer(l, ctx, ask)
			if err != nil {
				return nil, err
			}
			a.V, a.App, a.Name = 1, ask.App, l.Status().Name
			return json.Marshal(a)
		}
	}
	return map[string]func(context.Context, []byte) ([]byte, error){
		"settings-get":   verb((*lane).showSettings),
		"settings-diff":  verb((*lane).compareSettings),
		"settings-apply": verb((*lane).applySettings),
	}
}

// What follows runs beside the lane's goroutine and touches only what was set once.

// showSettings reads the settings in force and those in the preview.
func (l *lane) showSettings(ctx context.Context, _ SettingsRequest) (SettingsAnswer, error) {
	a := SettingsAnswer{State: SettingsShown}
	state, err := l.client.DeployState(ctx, l.app)
	a.Deploys = err == nil && state == kintone.DeployProcessing
	if a.Live, err = l.client.ProcessSettings(ctx, l.app, false); err != nil {
		return a, err
	}
	if a.Preview, err = l.client.ProcessSettings(ctx, l.app, true); err != nil {
		a.Preview, a.PreviewText = nil, err.Error()
		if e, ok := errors.AsType[*kintone.Error](err); ok && (e.Code == "GAIA_NO01" || e.Code == "CB_NO02") {
			a.PreviewText += " (the preview needs the permission to manage the app)"
		}
	}
	return a, nil
}

// compareSettings says what a change would change.
func (l *lane) compareSettings(ctx context.Context, ask SettingsRequest) (SettingsAnswer, error) {
	a, err := l.showSettings(ctx, ask)
	if err != nil {
		return a, err
	}
	if a.Preview == nil {
		a.State, a.Text = SettingsRefused, a.PreviewText
		return a, nil
	}
	want, err := settingsOf(ask.Want)
	if err != nil {
		return a, fmt.Errorf("the settings that are wanted: %w", err)
	}
	a.Pending = a.Preview.Revision != a.Live.Revision
	a.Waiting = kintone.DiffProcess(a.Live, a.Preview)
	a.Whole = a.Preview
	fields, err := l.client.FormFields(ctx, l.app)
	if err != nil {
		return a, err
	}
	if want != nil {
		want.App = 0
		a.Whole = want.Over(a.Preview)
		a.Changes = kintone.DiffProcess(a.Preview, a.Whole)
		for _, m := range kintone.SettingsMistakes(want.Check(l.app, fields, a.Preview)) {
			a.Problems = append(a.Problems, SettingsProblem{m.Path, m.Text})
		}
	}
	// A status that vanishes from what is in force: by this change, or by what waits already.
	deleted := make(map[string]bool)
	for _, c := range slices.Concat(a.Waiting, a.Changes) {
		if _, there := a.Live.States[c.Name]; there && c.What == kintone.ChangeStateDeleted {
			deleted[c.Name] = true
		}
	}
	for _, status := range slices.Sorted(maps.Keys(deleted)) {
		s := Standing{Status: status}
		if s.Records, err = l.client.CountByStatus(ctx, l.app, fields, status); err != nil {
			s.Text = err.Error()
		}
		a.Standing = append(a.Standing, s)
	}
	return a, nil
}

// applySettings begins a change, unless it is plain already that it would be refused.
func (l *lane) applySettings(ctx context.Context, ask SettingsRequest) (SettingsAnswer, error) {
	switch {
	case ask.ID == "":
		return SettingsAnswer{}, errors.New("the change needs an id")
	case len(ask.Want) == 0 && !ask.Deploy:
		return SettingsAnswer{}, errors.New("nothing is wanted: neither settings nor a deploy")
	case len(ask.Want) > mostOfAChange:
		return SettingsAnswer{}, fmt.Errorf("the settings are larger than %d KiB", mostOfAChange>>10)
	case ask.Wait < 0 || ask.Wait > longestWait:
		return SettingsAnswer{}, fmt.Errorf("waiting for requests that are out: 0 to %v", longestWait)
	}
	if s := l.Status(); s.State == "starting" || s.State == "unserved" || s.Why == ReasonWorkerTooOld {
		return SettingsAnswer{State: SettingsUnserved, Text: fmt.Sprintf("app %d is %s: %s %s", ask.App, s.State, s.Why, s.Detail)}, nil
	}
	if c, err := l.queue.Change(ctx, l.site, l.app.ID); err == nil && (c.ID == ask.ID || !c.Stage.Ended()) {
		return begun(c, ask.ID), nil
	}
	a, err := l.compareSettings(ctx, ask)
	if err != nil || a.State == SettingsRefused {
		return a, err
	}
	refuse := func(format string, args ...any) (SettingsAnswer, error) {
		a.State, a.Text = SettingsRefused, fmt.Sprintf(format, args...)
		return a, nil
	}
	switch {
	case len(a.Problems) > 0:
		return refuse("kintone would refuse these settings")
	case ask.Base > 0 && ask.Base != a.Preview.Revision:
		return refuse("the preview has revision %d, not %d: somebody changed the app's settings since", a.Preview.Revision, ask.Base)
	case ask.Deploy && a.Pending && !ask.Publish:
		return refuse("other changes wait in the app's preview (revision %d, in force is %d), and deploying would publish them too", a.Preview.Revision, a.Live.Revision)
	}
	now := time.Now()
	wait := ask.Wait
	if wait == 0 {
		wait = defaultWait
	}
	e := errand{begin: &queue.Change{
		ID: ask.ID, By: ask.By, Reason: ask.Reason, At: now.UTC(), Want: ask.Want, Base: ask.Base,
		Deploy: ask.Deploy, Publish: ask.Publish, EmptyBy: now.Add(wait).UTC(),
	}}
	r, err := e.run(ctx, l)
	if errors.Is(err, errNoTime) {
		return SettingsAnswer{State: SettingsUnserved, Text: "the app's lane had no time, ask again"}, nil
	}
	if err != nil {
		return SettingsAnswer{}, err
	}
	return begun(r.change, ask.ID), nil
}

// begun is the answer with the change that is under way.
func begun(c queue.Change, id string) SettingsAnswer {
	a := SettingsAnswer{State: SettingsBegun, Change: &c}
	if c.ID != id {
		a.State, a.Text = SettingsRefused, fmt.Sprintf("another change is under way: %s, by %s", c.Stage, queue.Signed(c.By, c.Reason))
	}
	return a
}
