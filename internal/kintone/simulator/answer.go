package simulator

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (k *Kintone) putStatus(a *app, by caller, c *call, params any, now time.Time) ([]byte, *Refusal) {
	revisions, refusal := k.change(a, by, c, []statusChange{params.(statusChange)}, now)
	if refusal != nil {
		return nil, refusal
	}
	return fmt.Appendf(nil, `{"revision":"%d"}`, revisions[0]), nil
}

func (k *Kintone) putStatuses(a *app, by caller, c *call, params any, now time.Time) ([]byte, *Refusal) {
	changes := params.([]statusChange)
	revisions, refusal := k.change(a, by, c, changes, now)
	if refusal != nil {
		return nil, refusal
	}
	b := append(make([]byte, 0, 48*len(changes)), `{"records":[`...)
	for i, change := range changes {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(append(b, `{"id":"`...), change.record, 10)
		b = strconv.AppendInt(append(b, `","revision":"`...), revisions[i], 10)
		b = append(b, `"}`...)
	}
	return append(b, "]}"...), nil
}

// change makes all changes of a call or none.
func (k *Kintone) change(a *app, by caller, c *call, changes []statusChange, now time.Time) ([]int64, *Refusal) {
	moves, refusal := k.judge(a, by, changes)
	if refusal != nil {
		return nil, refusal
	}
	request := strconv.Itoa(c.n)
	if c.executions > 1 {
		request += "/" + strconv.Itoa(c.executions)
	}
	return k.commit(a, by, moves, origin{request: request, time: now}), nil
}

func (k *Kintone) getRecords(a *app, by caller, _ *call, params any, _ time.Time) ([]byte, *Refusal) {
	want := params.(recordsQuery)
	q, refusal := k.compile(a, want.query, by)
	if refusal != nil {
		return nil, refusal
	}
	ids, total := q.run(a, want.totalCount)
	b := append(make([]byte, 0, 256*len(ids)+64), `{"records":[`...)
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = a.appendRecord(b, id, a.look(id), want.fields, by)
	}
	if want.totalCount {
		return fmt.Appendf(b, `],"totalCount":"%d"}`, total), nil
	}
	return append(b, `],"totalCount":null}`...), nil
}

func (k *Kintone) getRecord(a *app, by caller, _ *call, params any, _ time.Time) ([]byte, *Refusal) {
	id := params.(int64)
	r := a.look(id)
	switch {
	case r.condition != present:
		return nil, refuse("GAIA_RE01", strconv.FormatInt(id, 10))
	case r.more != nil && r.more.hidden:
		return nil, refuse("CB_NO02", "")
	}
	return append(a.appendRecord([]byte(`{"record":`), id, r, nil, by), '}'), nil
}

// appendRecord writes a record. Fields that are not wanted, that the caller may not see, or that belong to process
// management while it is off are not there at all (docs/kintone.md 3); codes that do not exist are passed over.
func (a *app) appendRecord(b []byte, id int64, r *recordData, wanted map[string]bool, by caller) []byte {
	b = append(b, '{')
	first := true
	begin := func(code, fieldType string) bool {
		if wanted != nil && !wanted[code] {
			return false
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendString(b, code)
		b = append(b, `:{"type":"`...)
		b = append(b, fieldType...)
		b = append(b, `","value":`...)
		return true
	}
	if begin("$id", "__ID__") {
		b = append(strconv.AppendInt(append(b, '"'), id, 10), `"}`...)
	}
	if begin("$revision", "__REVISION__") {
		b = append(strconv.AppendInt(append(b, '"'), r.revision, 10), `"}`...)
	}
	for _, code := range a.order {
		f := a.fields[code]
		ofProcess := f.Type == "STATUS" || f.Type == "STATUS_ASSIGNEE"
		if ofProcess && !a.flow.Enabled || slices.Contains(a.HiddenFields, code) || !begin(code, f.Type) {
			continue
		}
		switch f.Type {
		case "RECORD_NUMBER":
			number := strconv.FormatInt(id, 10)
			if a.AppCode != "" {
				number = a.AppCode + "-" + number
			}
			b = appendString(b, number)
		case "STATUS":
			b = appendString(b, a.flow.say(by.language, r.status))
		case "CREATOR", "MODIFIER":
			b = appendUser(b, a.plain(f, id, r))
		case "STATUS_ASSIGNEE", "USER_SELECT":
			b = appendList(b, split(a.plain(f, id, r)), appendUser)
		case "CHECK_BOX", "MULTI_SELECT":
			b = appendList(b, split(a.plain(f, id, r)), appendString)
		default:
			b = appendString(b, a.plain(f, id, r))
		}
		b = append(b, '}')
	}
	return append(b, '}')
}

func appendUser(b []byte, login string) []byte {
	b = appendString(append(b, `{"code":`...), login)
	b = appendString(append(b, `,"name":`...), login)
	return append(b, '}')
}

func appendList(b []byte, items []string, each func([]byte, string) []byte) []byte {
	b = append(b, '[')
	for i, item := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = each(b, item)
	}
	return append(b, ']')
}

// appendString writes a JSON string; plain ASCII, the usual case, is copied.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || strings.IndexByte(`"\<>&`, c) >= 0 {
			quoted, err := json.Marshal(s)
			if err != nil {
				panic(err) // a string: cannot happen
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

func (k *Kintone) getProcess(a *app, by caller, _ *call, params any, _ time.Time) ([]byte, *Refusal) {
	language := params.(string)
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
	}{Enable: a.flow.Enabled, Revision: strconv.FormatInt(a.flow.revision, 10)}
	for i, s := range a.flow.States {
		if reply.States == nil {
			reply.States, reply.Actions = map[string]state{}, []action{}
		}
		name := a.flow.say(language, s.Name)
		reply.States[name] = state{name, strconv.Itoa(i), assignee{s.AssigneeType, list(s.Entities)}}
	}
	for _, x := range a.flow.Actions {
		item := action{
			Name: a.flow.say(language, x.Name), From: a.flow.say(language, x.From), To: a.flow.say(language, x.To),
			FilterCond: x.FilterCond, Type: "PRIMARY",
		}
		if x.Secondary {
			item.Type, item.ExecutableUser = "SECONDARY", &entityList{list(x.Executable)}
		}
		reply.Actions = append(reply.Actions, item)
	}
	return marshal(reply), nil
}

// getFields lists the fields with the status fields among them even while process management is off, then marked as not
// enabled (docs/kintone.md 3, Disabled process).
func (k *Kintone) getFields(a *app, _ caller, _ *call, _ any, _ time.Time) ([]byte, *Refusal) {
	type property struct {
		Type    string `json:"type"`
		Code    string `json:"code"`
		Label   string `json:"label"`
		NoLabel *bool  `json:"noLabel,omitempty"`
		Enabled *bool  `json:"enabled,omitempty"`
	}
	properties := map[string]property{}
	for code, f := range a.fields {
		p := property{Type: f.Type, Code: code, Label: code}
		switch f.Type {
		case "STATUS", "STATUS_ASSIGNEE":
			p.Enabled = new(a.flow.Enabled)
		default:
			p.NoLabel = new(false)
		}
		properties[code] = p
	}
	return marshal(map[string]any{"properties": properties, "revision": strconv.FormatInt(a.flow.revision, 10)}), nil
}

func (k *Kintone) getApp(a *app, _ caller, _ *call, _ any, _ time.Time) ([]byte, *Refusal) {
	var space *string
	if a.GuestSpace != 0 {
		space = new(strconv.FormatInt(a.GuestSpace, 10))
	}
	user := map[string]string{"code": Administrator, "name": Administrator}
	return marshal(map[string]any{
		"appId": strconv.FormatInt(a.ID, 10), "code": a.AppCode, "name": a.Name, "description": "",
		"createdAt": stamp(a.template.updated), "creator": user,
		"modifiedAt": stamp(a.template.updated), "modifier": user,
		"spaceId": space, "threadId": space,
	}), nil
}

func marshal(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // made of strings, numbers and maps: cannot happen
	}
	return body
}
