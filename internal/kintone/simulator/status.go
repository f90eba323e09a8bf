package simulator

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// flow is an app's process management, checked and made quick to use.
type flow struct {
	Process
	revision int64          // of the app's settings; unrelated to the revisions of records (docs/kintone.md 5)
	states   map[string]int // name to position
	origins  []string       // by position: the live status that this one was renamed from, "" for a new one
	leaving  map[leave][]arrow
}

// leave is a pair of a state and an action's untranslated name.
type leave struct{ from, action string }

// arrow is an action with its condition. matches is nil if there is none.
type arrow struct {
	Action
	matches predicate
}

// statusChange is one member of a status call.
type statusChange struct {
	record   int64
	revision int64 // anyRevision: not checked
	action   string
	assignee string // "": none given
	again    bool   // the call named the record before
	pinned   bool   // the revision was the record's when the call arrived
}

// anyRevision is what a client sends, or implies by sending none, to have the revision not checked (SEED2, SEED3).
const anyRevision = -1

// caller is who makes a request. A token acts as Administrator.
type caller struct {
	login    string
	language string   // of action and status names: "" means the untranslated ones
	tokens   []string // nil: by password
}

// move is a status change that was found to be possible.
type move struct {
	record    int64
	action    string
	from, to  string
	step      int64
	assignees []string
}

// entry is a line of the commit log.
type entry struct {
	origin           *origin
	record           int64
	before, after    int64
	action, from, to string
}

// origin is what the lines of one request have in common.
type origin struct {
	request string
	time    time.Time
	app     int64
	actor   string
	foreign bool
	webhook bool
}

// newFlow checks process settings as kintone does when they are saved. Every status counts as one that is live under its
// name; who renames some has to say so in origins. Paths of what is wrong go by the names of statuses.
func (k *Kintone) newFlow(a *app, p Process) (*flow, *Refusal) {
	f := &flow{Process: p.clone(), states: map[string]int{}, leaving: map[leave][]arrow{}}
	bad := complaints{}
	var unknown *Refusal // the first one of those that have a code of their own
	object := func(r *Refusal) {
		if unknown == nil {
			unknown = r
		}
	}
	if p.Enabled && len(p.States) == 0 {
		bad.add("enable", wantsStatus)
	}
	for i := range f.States {
		s := &f.States[i]
		at := "states." + s.Name
		if s.AssigneeType == "" {
			s.AssigneeType = One
		}
		f.origins = append(f.origins, s.Name)
		badName(bad, at+".name", s.Name)
		if _, twice := f.states[s.Name]; twice {
			bad.add(at+".name", isTaken)
		}
		f.states[s.Name] = i
		if !slices.Contains([]AssigneeType{One, Any, All}, s.AssigneeType) {
			bad.add(at+".assignee.type", notAMember)
		}
		// The first status is always ONE with nobody or the creator's field, and CREATOR itself is refused there
		// (docs/kintone.md 3, Assignees).
		byCreator := len(s.Entities) == 1 && s.Entities[0].Type == "FIELD_ENTITY" && s.Entities[0].Code == a.CreatorField
		if i == 0 && (s.AssigneeType != One || len(s.Entities) > 0 && !byCreator) {
			bad.add(at+".assignee", firstByNobody)
		}
		object(k.checkEntities(a, s.Entities, at+".assignee.entities", bad))
	}
	for i := range f.Actions {
		action := &f.Actions[i]
		at := "actions[" + strconv.Itoa(i) + "]"
		badName(bad, at+".name", action.Name)
		if _, ok := f.states[action.From]; !ok {
			bad.add(at+".from", noSuchStatus)
		}
		if _, ok := f.states[action.To]; !ok {
			bad.add(at+".to", noSuchStatus)
		}
		if len(action.Executable) > 0 && !action.Secondary {
			bad.add(at+".executableUser", onlySecondary)
		}
		object(k.checkEntities(a, action.Executable, at+".executableUser.entities", bad))
		matches, refusal := k.condition(a, action.FilterCond)
		if refusal != nil && refusal.Code == "CB_VA01" {
			bad.add(at+".filterCond", noCondition)
		} else {
			object(refusal)
		}
		exit := leave{action.From, action.Name}
		f.leaving[exit] = append(f.leaving[exit], arrow{*action, matches})
	}
	if refusal := bad.refusal(); refusal != nil {
		return nil, refusal
	}
	return f, unknown
}

// badName notes a name that kintone does not take for a status or an action (SEED1: at most 64 characters).
func badName(bad complaints, at, name string) {
	switch {
	case name == "":
		bad.add(at, notAString)
	case utf8.RuneCountInString(name) > maxName:
		bad.add(at, isTooLong)
	}
}

const maxName = 64

// group names a group or an organisation.
type group struct{ kind, code string }

// learn makes the groups and organisations known that a test or a demonstration names in its settings.
func (k *Kintone) learn(p Process) {
	note := func(entities []Entity) {
		for _, e := range entities {
			g := group{e.Type, e.Code}
			if _, known := k.groups[g]; (e.Type == "GROUP" || e.Type == "ORGANIZATION") && (e.Members != nil || !known) {
				k.groups[g] = slices.Clone(e.Members)
			}
		}
	}
	for _, s := range p.States {
		note(s.Entities)
	}
	for _, action := range p.Actions {
		note(action.Executable)
	}
}

// checkEntities refuses entities that do not exist, and fills in the members of groups and organisations. Users of a
// guest space are written guest/login, and departments cannot stand in its apps (SEED1). An external custom field cannot be
// checked. What does not exist has a code of its own if it is a user or an organisation (docs/kintone.md 2.3); for the
// rest none is recorded.
func (k *Kintone) checkEntities(a *app, entities []Entity, at string, bad complaints) *Refusal {
	for i := range entities {
		e := &entities[i]
		path := at + "[" + strconv.Itoa(i) + "].entity"
		switch e.Type {
		case "USER":
			if strings.HasPrefix(e.Code, "guest/") && a.GuestSpace == 0 {
				bad.add(path+".code", noSuchEntity)
			} else if _, ok := k.users[e.Code]; !ok {
				return refuse("GAIA_IL26", e.Code)
			}
		case "GROUP", "ORGANIZATION":
			members, ok := k.groups[group{e.Type, e.Code}]
			switch {
			case e.Type == "ORGANIZATION" && a.GuestSpace != 0:
				bad.add(path+".type", noSuchEntity)
			case !ok && e.Type == "ORGANIZATION":
				return refuse("GAIA_IL28", e.Code)
			case !ok:
				bad.add(path+".code", noSuchEntity)
			}
			e.Members = members
		case "FIELD_ENTITY":
			switch a.fields[e.Code].Type {
			case "CREATOR", "MODIFIER", "USER_SELECT", "GROUP_SELECT", "ORGANIZATION_SELECT":
			default:
				bad.add(path+".code", noSuchEntity)
			}
		case "CUSTOM_FIELD":
			if e.Code == "" {
				bad.add(path+".code", notAString)
			}
		case "CREATOR":
		default:
			bad.add(path+".type", notAMember)
		}
	}
	return nil
}

// condition compiles a filter condition. The status field cannot be used in it (SEED1).
func (k *Kintone) condition(a *app, cond string) (predicate, *Refusal) {
	if strings.TrimSpace(cond) == "" {
		return nil, nil
	}
	q, refusal := k.compile(a, cond, caller{})
	switch {
	case refusal != nil && refusal.Code != "GAIA_ST02":
		return nil, refusal
	case refusal != nil || q.ordered || q.limited || q.skipped || q.usesStatus:
		return nil, unreadable()
	}
	return q.matches, nil
}

func (p Process) clone() Process {
	p.States, p.Actions = slices.Clone(p.States), slices.Clone(p.Actions)
	for i := range p.States {
		p.States[i].Entities = slices.Clone(p.States[i].Entities)
	}
	for i := range p.Actions {
		p.Actions[i].Executable = slices.Clone(p.Actions[i].Executable)
	}
	names := p.Translations
	p.Translations = map[string]map[string]string{}
	for language, words := range names {
		p.Translations[language] = maps.Clone(words)
	}
	return p
}

// say returns a name in a language, or as it is where there is no translation.
func (f *flow) say(language, name string) string {
	if word, ok := f.Translations[language][name]; ok {
		return word
	}
	return name
}

// named returns the actions that a caller may mean when a record is in a status. A translated action answers to its
// translation only: in another language it is unknown (docs/kintone.md 3, Action names and language).
func (f *flow) named(language, status, name string) []arrow {
	if len(f.Translations[language]) == 0 {
		return f.leaving[leave{status, name}]
	}
	var found []arrow
	for _, action := range f.Actions {
		if action.From == status && f.say(language, action.Name) == name {
			for _, candidate := range f.leaving[leave{status, action.Name}] {
				if !slices.ContainsFunc(found, func(a arrow) bool { return a.Name == candidate.Name && a.To == candidate.To }) {
					found = append(found, candidate)
				}
			}
		}
	}
	return found
}

// judge checks the members of one status call in their order, and returns the first objection or everything that is to
// happen. It changes nothing. The members are of different records; see inTurn for those that are not.
func (k *Kintone) judge(a *app, actor caller, changes []statusChange) ([]move, *Refusal) {
	if !a.flow.Enabled {
		return nil, refuse("GAIA_ST02", "")
	}
	if slices.Contains(a.HiddenFields, a.StatusField) || slices.Contains(a.HiddenFields, a.AssigneeField) {
		return nil, refuse("CB_NO02", "") // the caller must be able to view the fields (SEED2, SEED3)
	}
	if repeated(changes) {
		return nil, refuse(k.cfg.NamedTwice, "") // CB_VA01 was said earlier, with the place
	}
	moves := make([]move, 0, len(changes))
	for _, c := range changes {
		m, refusal := k.judgeOne(a, actor, c)
		if refusal != nil {
			return nil, refusal
		}
		moves = append(moves, m)
	}
	return moves, nil
}

// judgeOne holds the order in which kintone is taken to check one record: it exists, it may be seen, its revision, who
// acts, the action, the assignee. Sources record each refusal but not which of two comes first, so this order is a
// guess; it puts first what a client cannot mend by asking differently.
func (k *Kintone) judgeOne(a *app, actor caller, c statusChange) (move, *Refusal) {
	r := a.look(c.record)
	switch {
	case r.condition != present:
		return move{}, refuse("GAIA_RE01", strconv.FormatInt(c.record, 10))
	case r.more != nil && r.more.hidden:
		return move{}, refuse("CB_NO02", "")
	case c.revision != anyRevision && c.revision != r.revision && c.pinned:
		return move{}, refuse(k.cfg.Overtaken, "")
	case c.revision != anyRevision && c.revision != r.revision:
		return move{}, refuse("GAIA_CO02", "")
	}

	arrows := a.flow.named(actor.language, r.status, c.action)
	if !a.mayAct(actor, r, arrows) {
		return move{}, refuse("GAIA_NT01", "")
	}
	// Two actions of one name are an error even if only one's condition is met (SEED2, SEED3). The code of that error is
	// not recorded.
	if len(arrows) > 1 {
		return move{}, refuse(k.cfg.TwoActions, "")
	}
	if len(arrows) != 1 || arrows[0].matches != nil && !arrows[0].matches(c.record, r) {
		return move{}, refuse("GAIA_IL03", "")
	}
	action := arrows[0]
	to := a.flow.States[a.flow.states[action.To]]
	if refusal := k.checkAssignee(a, r, to, c.assignee); refusal != nil {
		return move{}, refusal
	}

	// In an ALL status the record stays until the last assignee has acted (docs/kintone.md 3, Assignees). What happens
	// when they choose different actions is not recorded; here the last one decides.
	if waiting := without(r.assignees, actor.login); a.assigneeType(r) == All && !action.Secondary && len(waiting) > 0 {
		return move{c.record, action.Name, r.status, r.status, k.cfg.PartialStep, waiting}, nil
	}
	var assignees []string
	switch {
	case to.AssigneeType != One:
		assignees = a.resolve(to.Entities, r)
	case c.assignee != "":
		assignees = []string{c.assignee}
	}
	return move{c.record, action.Name, r.status, action.To, 2, assignees}, nil
}

// repeated reports whether a record is named twice.
func repeated(changes []statusChange) bool {
	return slices.ContainsFunc(changes, func(c statusChange) bool { return c.again })
}

// inTurn carries the members of one call out one by one, each judged by what those before it left, and takes all of it
// back if one is refused.
func (k *Kintone) inTurn(a *app, by caller, changes []statusChange, o origin) (revisions []int64, _ *Refusal) {
	refusal := k.wholly([]*app{a}, func() *Refusal {
		for _, c := range changes {
			c.again = false
			moves, refusal := k.judge(a, by, []statusChange{c})
			if refusal != nil {
				return refusal
			}
			revisions = append(revisions, k.commit(a, by, moves, o)...)
		}
		return nil
	})
	return revisions, refusal
}

func (a *app) assigneeType(r *recordData) AssigneeType {
	return a.flow.States[a.flow.states[r.status]].AssigneeType
}

// mayAct: with no assignee anybody may act, otherwise the assignees only; a token counts as Administrator (SEED2,
// SEED3). A secondary action is for its executable users, or for every viewer if there are none; whether an assignee who
// is not among them may run it is not recorded, and refused here.
func (a *app) mayAct(actor caller, r *recordData, arrows []arrow) bool {
	if len(arrows) == 1 && arrows[0].Secondary {
		executable := arrows[0].Executable
		return len(executable) == 0 || slices.Contains(a.resolve(executable, r), actor.login)
	}
	return len(r.assignees) == 0 || slices.Contains(r.assignees, actor.login)
}

// checkAssignee: the state that is moved to asks for an assignee if it is ONE and has users to choose from, which a first
// status with the creator as assignee has as well; anywhere else none may be given (SEED2; docs/kintone.md 3). The code
// for a user who exists but cannot be chosen is not recorded; he counts as missing here.
func (k *Kintone) checkAssignee(a *app, r *recordData, to State, assignee string) *Refusal {
	var choice []string
	if to.AssigneeType == One {
		choice = a.resolve(to.Entities, r)
	}
	_, known := k.users[assignee]
	switch {
	case len(choice) == 0 && assignee != "":
		return refuse("GAIA_SA04", "")
	case len(choice) > 0 && assignee == "":
		return refuse("GAIA_SA01", "")
	case assignee != "" && !known:
		return refuse("GAIA_IL26", assignee)
	case assignee != "" && !slices.Contains(choice, assignee):
		return refuse("GAIA_SA01", "")
	}
	return nil
}

// commit makes moves happen and logs them. Action and change of status are both recorded, so that the revision rises by
// 2, and the actor becomes the modifier (SEED2, SEED3). It returns the new revisions.
func (k *Kintone) commit(a *app, actor caller, moves []move, o origin) []int64 {
	o.app, o.actor = a.ID, actor.login
	revisions := make([]int64, 0, len(moves))
	for _, m := range moves {
		r := a.touch(m.record)
		before := r.revision
		r.revision += m.step
		r.status, r.assignees, r.modifier, r.updated = m.to, m.assignees, actor.login, o.time.UnixNano()
		a.standing[m.from]--
		a.standing[m.to]++
		k.log = append(k.log, entry{&o, m.record, before, r.revision, m.action, m.from, m.to})
		revisions = append(revisions, r.revision)
	}
	return revisions
}

// without returns users but for one.
func without(users []string, user string) []string {
	return slices.DeleteFunc(slices.Clone(users), func(u string) bool { return u == user })
}
