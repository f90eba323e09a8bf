package kintone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// Fields are the codes of the fields that a status change looks at. They are found by type: their codes depend on the
// language that the app was made in, and can be changed (docs/kintone.md 3). A code is "" if the app has no such field.
type Fields struct {
	Status       string // type STATUS
	Assignee     string // type STATUS_ASSIGNEE
	Modifier     string // type MODIFIER
	RecordNumber string // type RECORD_NUMBER

	// Enabled says that process management is on. While it is off the form still lists the status field, but records
	// have no value for it (docs/kintone.md 3).
	Enabled bool

	// Types maps the code of every top-level field to its type. The fields in a table are not in it.
	Types map[string]string

	// InTables maps the code of every field in a table to the code of the table. Nil if there is none.
	InTables map[string]string
}

// Process is an app's process management as it is in force.
type Process struct {
	Enabled  bool
	Revision int64            // of the app's settings, not of a record
	States   map[string]State // by name; nil if process management was never set up
	Actions  []Action
}

// State is one status.
type State struct {
	Name     string
	Index    int // place in the list; the first status has 0
	Assignee AssigneeRule
}

// AssigneeRule says who is assignee in a status.
type AssigneeRule struct {
	Type     AssigneeType
	Entities []Entity
}

// AssigneeType says how many of the entities must act.
type AssigneeType string

const (
	AssigneeOne AssigneeType = "ONE" // one of them, picked by the acting user
	AssigneeAll AssigneeType = "ALL" // every one; the status moves after the last, not with the first 200 (docs/kintone.md 3)
	AssigneeAny AssigneeType = "ANY" // any one of them
)

// Entity is a user, or something that stands for users.
type Entity struct {
	Type        EntityType
	Code        string // "" for CREATOR
	IncludeSubs bool   // of an organisation: those below it as well
}

// EntityType is the kind of an Entity.
type EntityType string

const (
	EntityUser         EntityType = "USER"
	EntityGroup        EntityType = "GROUP"
	EntityOrganization EntityType = "ORGANIZATION"
	EntityField        EntityType = "FIELD_ENTITY"
	EntityCreator      EntityType = "CREATOR"
	EntityCustomField  EntityType = "CUSTOM_FIELD"
)

// Action leads from one status to another. Names, From and To are in the language of the executing user.
type Action struct {
	Name, From, To string
	FilterCond     string     // the record must match it; "" for every record
	Type           ActionType // never "": an answer without it means ActionPrimary
	Executable     []Entity   // who may run an ActionSecondary; empty for all who see the record
}

// ActionType tells the assignee's actions from those that others can run.
type ActionType string

const (
	ActionPrimary   ActionType = "PRIMARY"
	ActionSecondary ActionType = "SECONDARY"
)

// AppInfo is what an app is called and where it is.
type AppInfo struct {
	ID      int64
	Name    string
	SpaceID int64 // 0 if it is in no space
}

// FormFields reads which fields the app has: GET app/form/fields.json. The error is an *Error.
func (c *Client) FormFields(ctx context.Context, app App) (Fields, error) {
	var fields Fields
	err := c.do(ctx, app, request{
		method: http.MethodGet,
		api:    "app/form/fields.json",
		query:  url.Values{"app": {strconv.FormatInt(app.ID, 10)}},
	}, func(body []byte) (err error) {
		fields, err = decodeFields(body)
		return err
	})
	if err != nil {
		return Fields{}, err
	}
	return fields, nil
}

// Process reads the app's process management: GET app/status.json. The names are those that the executing user must
// send (docs/kintone.md 3). The error is an *Error.
func (c *Client) Process(ctx context.Context, app App) (*Process, error) {
	return c.ProcessIn(ctx, app, "user")
}

// ProcessIn is Process with the names of a language: ja, en, zh, "user" for that of the executing user, or "default". It
// is for telling people what an action is called in theirs; what is sent has to be in that of the executing user.
func (c *Client) ProcessIn(ctx context.Context, app App, lang string) (*Process, error) {
	var reject error
	if lang == "" {
		reject = errors.New("no language")
	}
	var process *Process
	err := c.do(ctx, app, request{
		method: http.MethodGet,
		api:    "app/status.json",
		query:  url.Values{"app": {strconv.FormatInt(app.ID, 10)}, "lang": {lang}},
		reject: reject,
	}, func(body []byte) (err error) {
		process, err = decodeProcess(body)
		return err
	})
	if err != nil {
		return nil, err
	}
	return process, nil
}

// AppInfo reads the app's name and space: GET app.json. The error is an *Error.
func (c *Client) AppInfo(ctx context.Context, app App) (AppInfo, error) {
	var info AppInfo
	err := c.do(ctx, app, request{
		method: http.MethodGet,
		api:    "app.json",
		query:  url.Values{"id": {strconv.FormatInt(app.ID, 10)}},
	}, func(body []byte) error {
		var answer struct {
			ID      decimal `json:"appId"`
			Name    string  `json:"name"`
			SpaceID decimal `json:"spaceId"`
		}
		if err := decode(body, &answer); err != nil {
			return err
		}
		if int64(answer.ID) != app.ID {
			return fmt.Errorf("answer is about app %d", answer.ID)
		}
		info = AppInfo{ID: app.ID, Name: answer.Name, SpaceID: int64(answer.SpaceID)}
		return nil
	})
	if err != nil {
		return AppInfo{}, err
	}
	return info, nil
}

// ActionsFrom returns the actions of that name that start in that status. kintone refuses to choose if there are
// several (SEED2).
func (p *Process) ActionsFrom(status, name string) []Action {
	var actions []Action
	for _, a := range p.Actions {
		if a.From == status && a.Name == name {
			actions = append(actions, a)
		}
	}
	return actions
}

// ActionsNamed returns the actions of that name, wherever they start.
func (p *Process) ActionsNamed(name string) []Action {
	var actions []Action
	for _, a := range p.Actions {
		if a.Name == name {
			actions = append(actions, a)
		}
	}
	return actions
}

// Reaches reports whether a record in status from can come to status to by at most so many actions. Conditions and
// assignees are left aside, so false is sure and true is not. By no action a status reaches only itself.
func (p *Process) Reaches(from, to string, actions int) bool {
	reached := map[string]bool{from: true}
	edge := []string{from}
	for ; actions > 0 && len(edge) > 0 && !reached[to]; actions-- {
		var next []string
		for _, a := range p.Actions {
			for _, status := range edge {
				if a.From == status && !reached[a.To] {
					reached[a.To] = true
					next = append(next, a.To)
				}
			}
		}
		edge = next
	}
	return reached[to]
}

// First returns the name of the status that new records have, "" if there is none.
func (p *Process) First() string {
	for name, s := range p.States {
		if s.Index == 0 {
			return name
		}
	}
	return ""
}

func decodeFields(body []byte) (Fields, error) {
	var answer struct {
		Properties map[string]struct {
			Type    string                     `json:"type"`
			Enabled json.RawMessage            `json:"enabled"`
			Fields  map[string]json.RawMessage `json:"fields"` // of a table
		} `json:"properties"`
	}
	if err := decode(body, &answer); err != nil {
		return Fields{}, err
	}
	if answer.Properties == nil {
		return Fields{}, errors.New("answer has no properties")
	}
	fields := Fields{Types: make(map[string]string, len(answer.Properties))}
	for code, p := range answer.Properties {
		fields.Types[code] = p.Type
		switch p.Type {
		case "STATUS":
			fields.Status = code
			fields.Enabled = string(p.Enabled) == "true"
		case "STATUS_ASSIGNEE":
			fields.Assignee = code
		case "MODIFIER":
			fields.Modifier = code
		case "RECORD_NUMBER":
			fields.RecordNumber = code
		case "SUBTABLE":
			for inner := range p.Fields {
				if fields.InTables == nil {
					fields.InTables = make(map[string]string)
				}
				fields.InTables[inner] = code
			}
		}
	}
	return fields, nil
}

// entities is a list of Entity on the wire. The code of a CREATOR is null.
type entities []struct {
	Entity struct {
		Type EntityType `json:"type"`
		Code string     `json:"code"`
	} `json:"entity"`
	IncludeSubs bool `json:"includeSubs"`
}

func (es entities) list() []Entity {
	var list []Entity
	for _, e := range es {
		list = append(list, Entity{Type: e.Entity.Type, Code: e.Entity.Code, IncludeSubs: e.IncludeSubs})
	}
	return list
}

func decodeProcess(body []byte) (*Process, error) {
	var answer struct {
		Enable *bool `json:"enable"`
		States map[string]struct {
			Name     string  `json:"name"`
			Index    decimal `json:"index"`
			Assignee struct {
				Type     AssigneeType `json:"type"`
				Entities entities     `json:"entities"`
			} `json:"assignee"`
		} `json:"states"`
		Actions []struct {
			Name           string     `json:"name"`
			From           string     `json:"from"`
			To             string     `json:"to"`
			FilterCond     string     `json:"filterCond"`
			Type           ActionType `json:"type"`
			ExecutableUser struct {
				Entities entities `json:"entities"`
			} `json:"executableUser"`
		} `json:"actions"`
		Revision decimal `json:"revision"`
	}
	if err := decode(body, &answer); err != nil {
		return nil, err
	}
	if answer.Enable == nil {
		return nil, errors.New("answer does not say whether process management is on")
	}
	process := &Process{Enabled: *answer.Enable, Revision: int64(answer.Revision)}
	if answer.States != nil {
		process.States = make(map[string]State, len(answer.States))
	}
	for key, s := range answer.States {
		// The name is in the language that was asked for, as are From and To of the actions; the key need not be.
		name := s.Name
		if name == "" {
			name = key
		}
		if _, ok := process.States[name]; ok {
			return nil, fmt.Errorf("answer has two statuses called %q", name)
		}
		process.States[name] = State{
			Name:     name,
			Index:    int(s.Index),
			Assignee: AssigneeRule{Type: s.Assignee.Type, Entities: s.Assignee.Entities.list()},
		}
	}
	for _, a := range answer.Actions {
		if a.Type == "" {
			a.Type = ActionPrimary // answers from before SECONDARY actions came do not have it (docs/kintone.md 5)
		}
		process.Actions = append(process.Actions, Action{
			Name: a.Name, From: a.From, To: a.To,
			FilterCond: a.FilterCond,
			Type:       a.Type,
			Executable: a.ExecutableUser.Entities.list(),
		})
	}
	return process, nil
}
