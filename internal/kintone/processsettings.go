package kintone

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

// ProcessSettings are the process management settings of an app as people write and keep them: the body of PUT
// preview/app/status.json and the answer of GET app/status.json, without loss between the two (SEED1, S-get). A part
// that is left out stays as it is; a status that is left out of States is deleted. [Process] is the same as it is in
// force, for those who act.
type ProcessSettings struct {
	App      int64 // that they were written for; 0: they do not say
	Enable   *bool
	States   map[string]StateSettings // by the name that the status has now; a new one by the name that it shall have
	Actions  []ActionSettings
	Revision int64 // of the app's settings that the change is meant for, or Unchecked
}

// StateSettings is one status.
type StateSettings struct {
	Name     string // as it shall be; "" for the name that it is listed by
	Index    int    // orders the statuses, the smallest first; meaningless without HasIndex
	HasIndex bool
	Assignee *AssigneeRule // nil: stays; kintone makes up one for a new status (docs/kintone.md 5)
}

// ActionSettings is one action. From and To are names of statuses as they shall be (SEED1).
type ActionSettings struct {
	Name, From, To string
	FilterCond     string
	Type           ActionType // "" means ActionPrimary
	Executable     []Entity   // who may run an ActionSecondary, not nil of one that was read; empty for all who see the record
}

// ChangeKind says what a SettingsChange changes.
type ChangeKind string

// What Before and After of a SettingsChange hold is said here, nil if nothing is.
const (
	ChangeEnable        ChangeKind = "enable"         // bool
	ChangeStateAdded    ChangeKind = "state_added"    // After is an int, the place in the list from 0
	ChangeStateDeleted  ChangeKind = "state_deleted"  // Before is an int
	ChangeStateRenamed  ChangeKind = "state_renamed"  // string; Name is that from before
	ChangeStateMoved    ChangeKind = "state_moved"    // int
	ChangeStateAssignee ChangeKind = "state_assignee" // AssigneeRule; Before is nil for a new status
	ChangeActionAdded   ChangeKind = "action_added"   // After is ActionSettings
	ChangeActionDeleted ChangeKind = "action_deleted" // Before is ActionSettings
	ChangeActionChanged ChangeKind = "action_changed" // ActionSettings; those of Before have the new names of statuses
	ChangeActionsOrder  ChangeKind = "actions_order"  // []string, the names in their order
)

// SettingsChange is one difference between process settings and others. Apart from a renaming, Name is that of the
// status or action afterwards, or from before if it vanishes.
type SettingsChange struct {
	What   ChangeKind `json:"what"`
	Name   string     `json:"name,omitzero"`
	From   string     `json:"from,omitzero"` // of an action
	To     string     `json:"to,omitzero"`
	Before any        `json:"before,omitempty"`
	After  any        `json:"after,omitempty"`
}

// DeployState says how far the last deploy of an app's settings is.
type DeployState string

const (
	DeployProcessing DeployState = "PROCESSING"
	DeploySuccess    DeployState = "SUCCESS" // also of an app of which nothing was deployed (docs/kintone.md 5)
	DeployFail       DeployState = "FAIL"
	DeployCancel     DeployState = "CANCEL" // the deploy of another app in the same call failed
)

// ProcessSettings reads the settings in force, or those of the preview: GET [preview/]app/status.json. Names are the
// default ones, those that a change sets. The preview needs the permission to manage the app. An answer with a member
// that is not known here is an error: put back, the settings would lose it. The error is an *Error.
func (c *Client) ProcessSettings(ctx context.Context, app App, preview bool) (*ProcessSettings, error) {
	api := "app/status.json"
	if preview {
		api = "preview/" + api
	}
	settings := new(ProcessSettings)
	err := c.do(ctx, app, request{
		method: http.MethodGet,
		api:    api,
		query:  url.Values{"app": {strconv.FormatInt(app.ID, 10)}, "lang": {"default"}},
	}, func(body []byte) error {
		if err := decode(body, settings); err != nil {
			return err
		}
		if settings.Enable == nil || settings.Revision < 1 {
			return errors.New("answer does not say whether process management is on, or of which revision it is")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return settings, nil
}

// UpdateProcessSettings puts s into the preview of the app: PUT preview/app/status.json, with statuses counted from
// 0 in the order that s gives them. It takes effect with [Client.Deploy]. If s.Revision is not that of the preview, kintone refuses with GAIA_CO03; zero is refused here, a
// forgotten revision is not "unchecked". The result is the new revision of the preview. The error is an *Error.
func (c *Client) UpdateProcessSettings(ctx context.Context, app App, s *ProcessSettings) (revision int64, err error) {
	body := *s
	body.App = app.ID
	body.States = maps.Clone(s.States)
	for place, key := range s.order() {
		if state := s.States[key]; state.HasIndex {
			state.Index = place // no source says what kintone does with gaps
			body.States[key] = state
		}
	}
	reject := checkRevision(s.Revision)
	if s.App != 0 && s.App != app.ID {
		reject = fmt.Errorf("the settings are written for app %d", s.App)
	}
	e := c.do(ctx, app, request{
		method: http.MethodPut,
		api:    "preview/app/status.json",
		body:   body,
		reject: reject,
	}, func(body []byte) error {
		var answer struct {
			Revision decimal `json:"revision"`
		}
		if err := decode(body, &answer); err != nil {
			return err
		}
		if answer.Revision < 1 {
			return errors.New("answer has no revision")
		}
		revision = int64(answer.Revision)
		return nil
	})
	if e != nil {
		return 0, e
	}
	return revision, nil
}

// Deploy begins to put the whole preview of the app into force, whoever changed it; with revert it throws away what the
// preview has and the app has not: POST preview/app/deploy.json. The end is seen by [Client.DeployState]. revision is
// that of the preview, or Unchecked. The error is an *Error.
func (c *Client) Deploy(ctx context.Context, app App, revision int64, revert bool) error {
	type member struct {
		App      int64 `json:"app"`
		Revision int64 `json:"revision"`
	}
	err := c.do(ctx, app, request{
		method: http.MethodPost,
		api:    "preview/app/deploy.json",
		body: struct {
			Apps   []member `json:"apps"`
			Revert bool     `json:"revert,omitzero"`
		}{[]member{{app.ID, revision}}, revert},
		reject: checkRevision(revision),
	}, func(body []byte) error {
		return decode(body, new(struct{}))
	})
	if err != nil {
		return err
	}
	return nil
}

// DeployState reads how far the last deploy of the app is: GET preview/app/deploy.json. That it succeeded does not say
// whose it was; the revision of [Client.ProcessSettings] does. The error is an *Error.
func (c *Client) DeployState(ctx context.Context, app App) (DeployState, error) {
	var state DeployState
	err := c.do(ctx, app, request{
		method: http.MethodGet,
		api:    "preview/app/deploy.json",
		query:  url.Values{"apps[0]": {strconv.FormatInt(app.ID, 10)}},
	}, func(body []byte) error {
		var answer struct {
			Apps []struct {
				App    decimal     `json:"app"`
				Status DeployState `json:"status"`
			} `json:"apps"`
		}
		if err := decode(body, &answer); err != nil {
			return err
		}
		if len(answer.Apps) != 1 || int64(answer.Apps[0].App) != app.ID {
			return errors.New("answer is not about this app alone")
		}
		state = answer.Apps[0].Status
		switch state {
		case DeployProcessing, DeploySuccess, DeployFail, DeployCancel:
			return nil
		}
		return fmt.Errorf("answer has a deploy state %q that is not known", state)
	})
	if err != nil {
		return "", err
	}
	return state, nil
}

// CountByStatus counts the records that stand in a status: GET records.json with totalCount. Records that may not be
// seen do not count. The error is an *Error.
func (c *Client) CountByStatus(ctx context.Context, app App, fields Fields, status string) (int, error) {
	var reject error
	if !fields.Enabled || fields.Status == "" {
		reject = errors.New("process management is off: records have no status")
	}
	var count int
	err := c.do(ctx, app, request{
		method: http.MethodGet,
		api:    "records.json",
		query: url.Values{
			"app":        {strconv.FormatInt(app.ID, 10)},
			"query":      {fields.Status + " = " + quote(status) + " limit 1"},
			"fields[0]":  {idCode},
			"totalCount": {"true"},
		},
		reject: reject,
	}, func(body []byte) error {
		var answer struct {
			Total *decimal `json:"totalCount"`
		}
		if err := decode(body, &answer); err != nil {
			return err
		}
		if answer.Total == nil || *answer.Total < 0 {
			return errors.New("answer has no total")
		}
		count = int(*answer.Total)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return count, nil
}

func checkRevision(revision int64) error {
	if revision < 1 && revision != Unchecked {
		return fmt.Errorf("revision %d is neither positive nor %d", revision, Unchecked)
	}
	return nil
}

// Over returns the whole as it will be after s has been put over now: what s leaves out is as in now, under its new
// name. The revision is that of s, and so is the app if s says one.
func (s *ProcessSettings) Over(now *ProcessSettings) *ProcessSettings {
	whole := &ProcessSettings{
		App:      cmp.Or(s.App, now.App),
		Enable:   cmp.Or(s.Enable, now.Enable),
		States:   maps.Clone(s.States),
		Actions:  slices.Clone(s.Actions),
		Revision: s.Revision,
	}
	if s.States == nil {
		whole.States = maps.Clone(now.States)
	}
	for key, state := range whole.States {
		was := now.States[key]
		state.Name = cmp.Or(state.Name, key)
		if !state.HasIndex {
			state.Index, state.HasIndex = was.Index, was.HasIndex
		}
		state.Assignee = cmp.Or(state.Assignee, was.Assignee)
		whole.States[key] = state
	}
	if s.Actions == nil {
		whole.Actions = now.renamed(whole)
	}
	return whole
}

// For returns s as it is to be sent over now. It is s, except that the assignee of the first status is said if s does not
// say it: for what is left out there kintone was seen to put in the record's creator (EMU), where SEED1 has it stay.
func (s *ProcessSettings) For(now *ProcessSettings) *ProcessSettings {
	out := *s
	out.States = maps.Clone(s.States)
	if keys := s.order(); len(keys) > 0 {
		first := s.States[keys[0]]
		first.Assignee = cmp.Or(first.Assignee, now.States[keys[0]].Assignee)
		out.States[keys[0]] = first
	}
	return &out
}

// Same reports whether s and o are the same settings, whatever their revision, the app that they were written for and
// the numbers that order their statuses. A status whose assignee one of them does not say is the same with any.
func (s *ProcessSettings) Same(o *ProcessSettings) bool {
	if (s.Enable != nil && *s.Enable) != (o.Enable != nil && *o.Enable) ||
		(s.States == nil) != (o.States == nil) || len(s.States) != len(o.States) {
		return false
	}
	theirs := o.order()
	for i, key := range s.order() {
		mine, other := s.States[key], o.States[theirs[i]]
		if cmp.Or(mine.Name, key) != cmp.Or(other.Name, theirs[i]) || !sameAssignee(mine.Assignee, other.Assignee) {
			return false
		}
	}
	return slices.EqualFunc(s.Actions, o.Actions, sameAction)
}

// DiffProcess returns what then changes about now; what then leaves out is no change. First whether process management
// is on, then the statuses in their order, then those that vanish, then actions.
func DiffProcess(now, then *ProcessSettings) []SettingsChange {
	then = then.Over(now)
	var changes []SettingsChange
	if on, willBe := now.Enable != nil && *now.Enable, then.Enable != nil && *then.Enable; on != willBe {
		changes = append(changes, SettingsChange{What: ChangeEnable, Before: on, After: willBe})
	}
	changes = append(changes, diffStates(now, then)...)
	return append(changes, diffActions(now.renamed(then), then.Actions)...)
}

// order returns the keys of the statuses in the order of the statuses.
func (s *ProcessSettings) order() []string {
	return slices.SortedFunc(maps.Keys(s.States), func(a, b string) int {
		return cmp.Or(cmp.Compare(s.States[a].Index, s.States[b].Index), cmp.Compare(a, b))
	})
}

// keyOf returns the key of the status that has a name, "" if none has.
func (s *ProcessSettings) keyOf(name string) string {
	for key, state := range s.States {
		if cmp.Or(state.Name, key) == name {
			return key
		}
	}
	return ""
}

// renamed returns the actions of s with the names that their statuses have in then.
func (s *ProcessSettings) renamed(then *ProcessSettings) []ActionSettings {
	name := func(was string) string {
		key := s.keyOf(was)
		if state, ok := then.States[key]; ok {
			return cmp.Or(state.Name, key)
		}
		return was
	}
	actions := slices.Clone(s.Actions)
	for i, a := range actions {
		actions[i].From, actions[i].To = name(a.From), name(a.To)
	}
	return actions
}

func diffStates(now, then *ProcessSettings) []SettingsChange {
	var changes []SettingsChange
	before, after := now.order(), then.order()
	stays := func(key string) bool {
		_, was := now.States[key]
		_, willBe := then.States[key]
		return was && willBe
	}
	inPlace := stayInOrder(before, after)
	for place, key := range after {
		state := then.States[key]
		if !stays(key) {
			changes = append(changes, SettingsChange{What: ChangeStateAdded, Name: state.Name, After: place})
			if state.Assignee != nil {
				changes = append(changes, SettingsChange{What: ChangeStateAssignee, Name: state.Name, After: *state.Assignee})
			}
			continue
		}
		was := now.States[key]
		if name := cmp.Or(was.Name, key); name != state.Name {
			changes = append(changes, SettingsChange{What: ChangeStateRenamed, Name: name, Before: name, After: state.Name})
		}
		if !slices.Contains(inPlace, key) {
			changes = append(changes, SettingsChange{What: ChangeStateMoved, Name: state.Name,
				Before: slices.Index(before, key), After: place})
		}
		if !sameAssignee(was.Assignee, state.Assignee) {
			changes = append(changes, SettingsChange{What: ChangeStateAssignee, Name: state.Name,
				Before: *was.Assignee, After: *state.Assignee})
		}
	}
	for place, key := range before {
		if !stays(key) {
			changes = append(changes, SettingsChange{What: ChangeStateDeleted, Name: cmp.Or(now.States[key].Name, key), Before: place})
		}
	}
	return changes
}

// stayInOrder returns as many of the statuses that stay as have kept their order among each other: the others have moved.
func stayInOrder(before, after []string) []string {
	var best []string
	longest := make([][]string, len(after)) // that end with after[i]
	for i, key := range after {
		place := slices.Index(before, key)
		if place < 0 {
			continue
		}
		for _, l := range longest[:i] {
			if len(l) > len(longest[i]) && slices.Index(before, l[len(l)-1]) < place {
				longest[i] = l
			}
		}
		longest[i] = append(slices.Clone(longest[i]), key)
		if len(longest[i]) > len(best) {
			best = longest[i]
		}
	}
	return best
}

// diffActions pairs actions before and after by what they have most in common, and reports pairs that differ and actions
// that have no partner. Actions have no key: even two of one name may start in one status.
func diffActions(before, after []ActionSettings) []SettingsChange {
	partner := make([]int, len(after)) // of after[i] in before, or -1
	for i := range partner {
		partner[i] = -1
	}
	for _, alike := range []func(a, b ActionSettings) bool{
		sameAction,
		func(a, b ActionSettings) bool { return a.Name == b.Name && a.From == b.From && a.To == b.To },
		func(a, b ActionSettings) bool { return a.Name == b.Name && a.From == b.From },
		func(a, b ActionSettings) bool { return a.From == b.From && a.To == b.To },
	} {
		for i := range after {
			for j := range before {
				if partner[i] < 0 && !slices.Contains(partner, j) && alike(before[j], after[i]) {
					partner[i] = j
				}
			}
		}
	}

	var changes []SettingsChange
	var was, is []string // the names of those that stay, as they shall be
	for i, a := range after {
		change := SettingsChange{Name: a.Name, From: a.From, To: a.To, After: a}
		if partner[i] < 0 {
			change.What = ChangeActionAdded
		} else {
			is = append(is, a.Name)
			change.What, change.Before = ChangeActionChanged, before[partner[i]]
			if sameAction(before[partner[i]], a) {
				continue
			}
		}
		changes = append(changes, change)
	}
	for j, b := range before {
		if i := slices.Index(partner, j); i >= 0 {
			was = append(was, after[i].Name)
			continue
		}
		changes = append(changes, SettingsChange{What: ChangeActionDeleted, Name: b.Name, From: b.From, To: b.To, Before: b})
	}
	if order := slices.DeleteFunc(slices.Clone(partner), func(j int) bool { return j < 0 }); !slices.IsSorted(order) {
		changes = append(changes, SettingsChange{What: ChangeActionsOrder, Before: was, After: is})
	}
	return changes
}

// sameAssignee compares rules, of which nil is like any.
func sameAssignee(a, b *AssigneeRule) bool {
	return a == nil || b == nil || a.Type == b.Type && sameEntities(a.Entities, b.Entities)
}

func sameAction(a, b ActionSettings) bool {
	return a.Name == b.Name && a.From == b.From && a.To == b.To && a.FilterCond == b.FilterCond &&
		cmp.Or(a.Type, ActionPrimary) == cmp.Or(b.Type, ActionPrimary) && sameEntities(a.Executable, b.Executable)
}

// sameEntities compares lists in any order.
func sameEntities(a, b []Entity) bool {
	sorted := func(es []Entity) []Entity {
		return slices.SortedFunc(slices.Values(es), func(x, y Entity) int {
			return cmp.Or(cmp.Compare(x.Type, y.Type), cmp.Compare(x.Code, y.Code))
		})
	}
	return slices.Equal(sorted(a), sorted(b))
}
