package simulator

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// SettingsState is what the settings of an app are at one moment. It is a copy.
type SettingsState struct {
	Live, Preview                 Process
	LiveRevision, PreviewRevision int64
	Pending                       []string    // who changed the preview since it was last live, in order
	Deploy                        DeployState // of the last deploy; Success if there was none
}

// Settings returns an app's settings as they are now.
func (k *Kintone) Settings(app int64) (SettingsState, error) {
	k.lock()
	defer k.mu.Unlock()
	a, err := k.app(app)
	if err != nil {
		return SettingsState{}, err
	}
	return SettingsState{
		Live: a.flow.clone(), Preview: a.preview.clone(), LiveRevision: a.flow.revision, PreviewRevision: a.preview.revision,
		Pending: slices.Clone(a.pending), Deploy: cmp.Or(a.deploy, Success),
	}, nil
}

// Pend is somebody else who changes the preview and does not deploy: its revision rises, and whoever deploys next
// publishes this too. With change nil it is something other than the process settings. Statuses go by their names: one
// with another name is a new one. change must not call the simulator.
func (k *Kintone) Pend(app int64, user string, change func(*Process)) error {
	k.lock()
	defer k.mu.Unlock()
	a, err := k.app(app)
	if err != nil {
		return err
	}
	if _, known := k.users[user]; !known {
		return fmt.Errorf("change the settings of app %d: no user %q", app, user)
	}
	if a.deploy == Processing {
		return fmt.Errorf("change the settings of app %d: they are being deployed", app)
	}
	p, origins := a.preview.clone(), map[string]string{}
	for i, s := range p.States {
		origins[s.Name] = a.preview.origins[i]
	}
	if change != nil {
		change(&p)
	}
	k.learn(p)
	f, refusal := k.newFlow(a, p)
	if refusal != nil {
		return fmt.Errorf("change the settings of app %d: %w", app, refusal)
	}
	for i, s := range f.States {
		f.origins[i] = origins[s.Name]
	}
	a.pend(f, user)
	return nil
}

// pend replaces the preview.
func (a *app) pend(f *flow, user string) {
	f.revision = a.preview.revision + 1
	a.preview = f
	a.pending = append(a.pending, user)
}

// settled returns settings in which every status counts as live under its name.
func (f *flow) settled() *flow {
	s := *f
	s.origins = nil
	for _, state := range s.States {
		s.origins = append(s.origins, state.Name)
	}
	return &s
}

// processChange is what PUT preview/app/status.json is asked for. What is nil stays as it is (SEED1).
type processChange struct {
	enable   *bool
	states   map[string]stateChange
	actions  []Action // not nil even if there are none
	revision int64
}

// stateChange is one member of states. name is "" and assignee nil where the call says nothing.
type stateChange struct {
	name     string
	index    int64
	assignee *assigneeRule
}

type assigneeRule struct {
	kind     AssigneeType
	entities []Entity
}

// readProcessChange reads the body of SEED1. Booleans and numbers may be strings, as the seed says. A part that is null
// is refused: whether kintone takes it for left out or for empty is not recorded.
func readProcessChange(f *form) any {
	c := processChange{revision: f.revision()}
	if _, given := f.members["enable"]; given {
		c.enable = new(f.flag("enable"))
	}
	if states := f.object("states", false); states != nil {
		c.states = map[string]stateChange{}
		if len(states.members) == 0 {
			f.bad.add("states", notAnObject) // it would delete the first status too
		}
		for key, v := range states.members {
			states.known = append(states.known, key)
			badName(f.bad, "states."+key, key)
			if state := states.within(key, v); state != nil {
				c.states[key] = readState(state)
				state.rest()
			}
		}
	}
	if actions, given := f.list("actions", false, true); given {
		c.actions = []Action{}
		for i, v := range actions {
			if action := f.within("actions["+strconv.Itoa(i)+"]", v); action != nil {
				c.actions = append(c.actions, readAction(action))
				action.rest()
			}
		}
	}
	return c
}

// readState reads one status. An index is asked for always (docs/kintone.md 5), though SEED1 calls it conditional.
func readState(f *form) stateChange {
	s := stateChange{name: f.text("name", false)}
	v, given := f.get("index")
	index, valid := integer(v)
	switch {
	case !given:
		f.bad.add(f.at+"index", isRequired)
	case !valid || index < 0:
		f.bad.add(f.at+"index", notANumber)
	}
	s.index = index
	if assignee := f.object("assignee", false); assignee != nil {
		s.assignee = &assigneeRule{AssigneeType(assignee.text("type", true)), readEntities(assignee)}
		assignee.rest()
	}
	return s
}

// readAction reads one action. One without a type is PRIMARY, whatever it was before, so that a client which does not
// know of types (SEED1 does not) is found out.
func readAction(f *form) Action {
	x := Action{Name: f.text("name", true), From: f.text("from", true), To: f.text("to", true)}
	if v, given := f.get("filterCond"); given { // may be empty
		cond, ok := v.(string)
		if !ok {
			f.bad.add(f.at+"filterCond", notAString)
		}
		x.FilterCond = cond
	}
	kind := f.text("type", false)
	if x.Secondary = kind == "SECONDARY"; !x.Secondary && kind != "PRIMARY" && kind != "" {
		f.bad.add(f.at+"type", notAMember)
	}
	if executable := f.object("executableUser", false); executable != nil {
		if !x.Secondary {
			f.bad.add(f.at+"executableUser", onlySecondary)
		}
		x.Executable = readEntities(executable)
		executable.rest()
	}
	return x
}

// readEntities reads a list that may be empty but not missing. The code of a CREATOR is ignored (SEED1).
func readEntities(f *form) []Entity {
	list, _ := f.list("entities", true, true)
	entities := []Entity{}
	for i, v := range list {
		item := f.within("entities["+strconv.Itoa(i)+"]", v)
		if item == nil {
			continue
		}
		e := Entity{IncludeSubs: item.flag("includeSubs")}
		if entity := item.object("entity", true); entity != nil {
			if e.Type = entity.text("type", true); e.Type == "CREATOR" {
				entity.get("code")
			} else {
				e.Code = entity.text("code", true)
			}
			entity.rest()
		}
		item.rest()
		entities = append(entities, e)
	}
	return entities
}

// putProcess changes the preview. A revision that is given has to be the preview's, which is not the live one while
// something is pending (SEED1; docs/kintone.md 5).
func (k *Kintone) putProcess(a *app, by caller, _ *call, params any, _ time.Time) ([]byte, *Refusal) {
	change := params.(processChange)
	if change.revision != anyRevision && change.revision != a.preview.revision {
		return nil, refuse("GAIA_CO03", "")
	}
	f, refusal := k.altered(a, change)
	if refusal != nil {
		return nil, refusal
	}
	if _, n := a.vanishing(f); n > 0 && k.cfg.VanishingStatus != "" {
		return nil, refuse(k.cfg.VanishingStatus, "")
	}
	a.pend(f, by.login)
	return fmt.Appendf(nil, `{"revision":"%d"}`, f.revision), nil
}

// altered returns what the preview becomes by a change.
func (k *Kintone) altered(a *app, change processChange) (*flow, *Refusal) {
	p, origins := a.preview.clone(), a.preview.origins
	if change.enable != nil {
		p.Enabled = *change.enable
	}
	if change.states != nil {
		var renamed map[string]string
		var refusal *Refusal
		if p.States, origins, renamed, refusal = a.restated(change.states); refusal != nil {
			return nil, refusal
		}
		// Actions that the call leaves alone stay with their statuses; if one of these is gone they lead nowhere and the call
		// is refused, though kintone may well delete them.
		for i := range p.Actions {
			x := &p.Actions[i]
			x.From, x.To = renamed[x.From], renamed[x.To]
		}
	}
	if change.actions != nil {
		p.Actions = change.actions
	}
	f, refusal := k.newFlow(a, p)
	if refusal != nil {
		return nil, refusal
	}
	f.origins = slices.Clone(origins)
	return f, nil
}

// restated returns the statuses that a call wants, in their order, with the live statuses that they come from, and what
// those of the preview are called from now on. They go by the name that a status had before; one that is not mentioned is
// deleted, and an unknown one is new and has to have its key as its name. The first status can only be renamed (SEED1;
// docs/kintone.md 5): it has to stay the first. Where there is none yet, any will do.
//
// A first status without assignee setting has the creator's field, others have nobody if they are new and stay as they
// are if not (docs/kintone.md 3, Assignees). SEED1 lets one read that the first stays as it is, too.
func (a *app) restated(changes map[string]stateChange) (states []State, origins []string, renamed map[string]string, _ *Refusal) {
	bad := complaints{}
	renamed = map[string]string{}
	keys := slices.SortedFunc(maps.Keys(changes), func(x, y string) int {
		return cmp.Or(cmp.Compare(changes[x].index, changes[y].index), cmp.Compare(x, y))
	})
	for i, key := range keys {
		change := changes[key]
		if change.index != int64(i) {
			bad.add("states."+key+".index", oneToNumber) // no source says what gaps do
		}
		s, origin := State{Name: key, AssigneeType: One}, ""
		at, known := a.preview.states[key]
		switch {
		case known:
			s, origin = a.preview.States[at], a.preview.origins[at]
			s.Name = cmp.Or(change.name, key)
			renamed[key] = s.Name
		case change.name == "":
			bad.add("states."+key+".name", isRequired)
		case change.name != key:
			bad.add("states."+key+".name", wantsItsKey)
		}
		if first := len(a.preview.States) > 0; first && i == 0 && a.preview.States[0].Name != key {
			bad.add("states."+key, firstStays)
		}
		switch {
		case change.assignee != nil:
			s.AssigneeType, s.Entities = change.assignee.kind, change.assignee.entities
		case i == 0:
			s.AssigneeType, s.Entities = One, []Entity{{Type: "FIELD_ENTITY", Code: a.CreatorField}}
		}
		states, origins = append(states, s), append(origins, origin)
	}
	return states, origins, renamed, bad.refusal()
}

// getProcess answers with the live settings.
func (k *Kintone) getProcess(a *app, by caller, _ *call, params any, _ time.Time) ([]byte, *Refusal) {
	return a.flow.show(params.(string), by), nil
}

// getPreviewProcess answers with the settings as they will be after the next deploy.
func (k *Kintone) getPreviewProcess(a *app, by caller, _ *call, params any, _ time.Time) ([]byte, *Refusal) {
	return a.preview.show(params.(string), by), nil
}

// show writes settings as GET app/status.json gives them, in a language or, with "user", in the caller's.
func (f *flow) show(language string, by caller) []byte {
	switch language {
	case "", "default":
		language = ""
	case "user":
		language = by.language
	}
	type entity struct {
		Type string  `json:"type"`
		Code *string `json:"code"` // null for CREATOR
	}
	type entityItem struct {
		Entity      entity `json:"entity"`
		IncludeSubs bool   `json:"includeSubs"`
	}
	type assignee struct {
		Type     AssigneeType `json:"type"`
		Entities []entityItem `json:"entities"`
	}
	type state struct {
		Name     string   `json:"name"`
		Index    string   `json:"index"`
		Assignee assignee `json:"assignee"`
	}
	type entityList struct {
		Entities []entityItem `json:"entities"`
	}
	type action struct {
		Name           string      `json:"name"`
		From           string      `json:"from"`
		To             string      `json:"to"`
		FilterCond     string      `json:"filterCond"`
		Type           string      `json:"type"`
		ExecutableUser *entityList `json:"executableUser,omitempty"`
	}
	list := func(entities []Entity) []entityItem {
		items := []entityItem{}
		for _, e := range entities {
			item := entityItem{entity{Type: e.Type}, e.IncludeSubs}
			if e.Type != "CREATOR" {
				item.Entity.Code = new(e.Code)
			}
			items = append(items, item)
		}
		return items
	}
	reply := struct {
		Enable   bool             `json:"enable"`
		States   map[string]state `json:"states"` // null if never set up (docs/kintone.md 5)
		Actions  []action         `json:"actions"`
		Revision string           `json:"revision"`
	}{Enable: f.Enabled, Revision: strconv.FormatInt(f.revision, 10)}
	for i, s := range f.States {
		if reply.States == nil {
			reply.States, reply.Actions = map[string]state{}, []action{}
		}
		name := f.say(language, s.Name)
		reply.States[name] = state{name, strconv.Itoa(i), assignee{s.AssigneeType, list(s.Entities)}}
	}
	for _, x := range f.Actions {
		item := action{
			Name: f.say(language, x.Name), From: f.say(language, x.From), To: f.say(language, x.To),
			FilterCond: x.FilterCond, Type: "PRIMARY",
		}
		if x.Secondary {
			item.Type, item.ExecutableUser = "SECONDARY", &entityList{list(x.Executable)}
		}
		reply.Actions = append(reply.Actions, item)
	}
	return marshal(reply)
}

// getFields lists the fields with the status fields among them even while process management is off, then marked as not
// enabled (docs/kintone.md 3, Disabled process).
