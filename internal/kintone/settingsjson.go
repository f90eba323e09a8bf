package kintone

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MarshalJSON writes the body of PUT preview/app/status.json, with the statuses in their order.
func (s ProcessSettings) MarshalJSON() ([]byte, error) {
	var body object
	if s.App != 0 {
		body = append(body, property{"app", s.App})
	}
	if s.Enable != nil {
		body = append(body, property{"enable", *s.Enable})
	}
	if s.States != nil {
		states := object{}
		for _, key := range s.order() {
			states = append(states, property{key, s.States[key].wire(key)})
		}
		body = append(body, property{"states", states})
	}
	if s.Actions != nil {
		body = append(body, property{"actions", s.Actions})
	}
	return marshal(append(body, property{"revision", s.Revision}))
}

// UnmarshalJSON reads the body of a change or the answer to a read. Like kintone it takes numbers and booleans as
// strings, too, and null for what is left out (SEED1, S-get). Beyond kintone it is strict: a member that is not known, or
// there twice, is refused before it can get lost. The error joins a [SettingsMistake] for each. What a change means is
// for [ProcessSettings.Check].
func (s *ProcessSettings) UnmarshalJSON(b []byte) error {
	var r reader
	settings := r.settings(r.tree(b))
	if err := errors.Join(r.mistakes...); err != nil {
		return err
	}
	*s = settings
	return nil
}

// MarshalJSON writes the action as a member of actions.
func (a ActionSettings) MarshalJSON() ([]byte, error) {
	body := object{{"name", a.Name}, {"from", a.From}, {"to", a.To}, {"filterCond", a.FilterCond}}
	if a.Type != "" {
		body = append(body, property{"type", a.Type})
	}
	if len(a.Executable) > 0 || a.Executable != nil && a.Type == ActionSecondary {
		body = append(body, property{"executableUser", object{{"entities", entitiesOf(a.Executable)}}})
	}
	return marshal(body)
}

// MarshalJSON writes the rule as the assignee of a status.
func (r AssigneeRule) MarshalJSON() ([]byte, error) {
	return marshal(object{{"type", r.Type}, {"entities", entitiesOf(r.Entities)}})
}

func (s StateSettings) wire(key string) object {
	state := object{{"name", cmp.Or(s.Name, key)}}
	if s.HasIndex {
		state = append(state, property{"index", s.Index})
	}
	if s.Assignee != nil {
		state = append(state, property{"assignee", *s.Assignee})
	}
	return state
}

func entitiesOf(list []Entity) []object {
	out := []object{} // never null
	for _, e := range list {
		entity := object{{"type", e.Type}}
		if e.Type != EntityCreator {
			entity = append(entity, property{"code", e.Code})
		}
		out = append(out, object{{"entity", entity}, {"includeSubs", e.IncludeSubs}})
	}
	return out
}

// object is a JSON object whose members have an order.
type object []property

type property struct {
	name  string
	value any
}

// MarshalJSON writes the members in their order.
func (o object) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, p := range o {
		name, err := marshal(p.name)
		if err != nil {
			return nil, err
		}
		value, err := marshal(p.value)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = slices.Concat(b, name, []byte{':'}, value)
	}
	return append(b, '}'), nil
}

// marshal is json.Marshal without the escapes that are for HTML: conditions are full of < and >, and people read them.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), nil
}

// maxDepth is how deep settings are read; they go down to states.NAME.assignee.entities.0.entity.code.
const maxDepth = 12

// reader takes process settings out of JSON, and gathers what is wrong with it.
type reader struct {
	mistakes []error
}

func (r *reader) wrong(path []string, text string) {
	r.mistakes = append(r.mistakes, &SettingsMistake{Path: slices.Clone(path), Text: text})
}

// tree reads JSON into maps, lists and plain values. encoding/json alone would take the last of two equal members, and
// replace what is not UTF-8.
func (r *reader) tree(b []byte) any {
	if !utf8.Valid(b) {
		r.wrong(nil, "is not UTF-8")
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	value, err := r.node(dec, nil)
	if err == nil {
		if _, end := dec.Token(); end != io.EOF {
			err = errors.New("something follows after the end")
		}
	}
	if err != nil {
		r.wrong(nil, err.Error())
		return nil
	}
	return value
}

func (r *reader) node(dec *json.Decoder, path []string) (any, error) {
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	if len(path) > maxDepth {
		return nil, errors.New("is nested too deeply")
	}
	switch token {
	case json.Delim('{'):
		members := make(map[string]any)
		for dec.More() {
			token, err := dec.Token()
			if err != nil {
				return nil, err
			}
			name := token.(string)
			at := append(slices.Clone(path), name)
			if _, ok := members[name]; ok {
				r.wrong(at, "is there twice")
			}
			if members[name], err = r.node(dec, at); err != nil {
				return nil, err
			}
		}
		_, err = dec.Token()
		return members, err
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			element, err := r.node(dec, append(slices.Clone(path), strconv.Itoa(len(list))))
			if err != nil {
				return nil, err
			}
			list = append(list, element)
		}
		_, err = dec.Token()
		return list, err
	}
	return token, nil
}

func (r *reader) settings(v any) ProcessSettings {
	s := ProcessSettings{Revision: Unchecked}
	top, _ := r.members(v, nil, "app", "enable", "states", "actions", "revision")
	if n, ok := r.number(top["app"], "app"); ok {
		if s.App = n; n < 1 {
			r.wrong([]string{"app"}, "is below 1")
		}
	}
	if on, ok := r.boolean(top["enable"], "enable"); ok {
		s.Enable = &on
	}
	if states, ok := r.members(top["states"], []string{"states"}); ok {
		s.States = make(map[string]StateSettings, len(states))
		for _, key := range slices.Sorted(maps.Keys(states)) {
			s.States[key] = r.state(states[key], key)
		}
	}
	if actions, ok := r.list(top["actions"], "actions"); ok {
		s.Actions = make([]ActionSettings, len(actions))
		for i, a := range actions {
			s.Actions[i] = r.action(a, "actions", strconv.Itoa(i))
		}
	}
	if n, ok := r.number(top["revision"], "revision"); ok {
		s.Revision = n
	}
	return s
}

func (r *reader) state(v any, key string) StateSettings {
	at := func(names ...string) []string { return append([]string{"states", key}, names...) }
	members, ok := r.members(v, at(), "name", "index", "assignee")
	if !ok {
		r.wrong(at(), "has nothing in it")
	}
	state := StateSettings{Name: key}
	if name, ok := r.text(members["name"], at("name")...); ok {
		state.Name = name
	}
	if state.Name == "" {
		r.wrong(at("name"), "is empty")
	}
	if n, ok := r.number(members["index"], at("index")...); ok {
		state.Index, state.HasIndex = int(n), true
	}
	if rule, ok := r.members(members["assignee"], at("assignee"), "type", "entities"); ok {
		state.Assignee = new(AssigneeRule)
		kind, _ := r.text(rule["type"], at("assignee", "type")...)
		state.Assignee.Type = AssigneeType(kind)
		if state.Assignee.Entities, ok = r.entities(rule["entities"], at("assignee", "entities")...); !ok {
			r.wrong(at("assignee", "entities"), "is missing")
		}
	}
	return state
}

func (r *reader) action(v any, path ...string) ActionSettings {
	at := func(name string) []string { return append(slices.Clone(path), name) }
	members, ok := r.members(v, path, "name", "from", "to", "filterCond", "type", "executableUser")
	if !ok {
		r.wrong(path, "has nothing in it")
	}
	text := func(name string) string {
		s, _ := r.text(members[name], at(name)...)
		return s
	}
	a := ActionSettings{Name: text("name"), From: text("from"), To: text("to"), FilterCond: text("filterCond"),
		Type: ActionType(text("type"))}
	if user, ok := r.members(members["executableUser"], at("executableUser"), "entities"); ok {
		a.Executable, _ = r.entities(user["entities"], append(at("executableUser"), "entities")...)
	}
	if len(a.Executable) == 0 && a.Type != ActionSecondary {
		a.Executable = nil // says nothing
	}
	return a
}

// entities reads a list of them, which is not nil if it is there.
func (r *reader) entities(v any, path ...string) ([]Entity, bool) {
	list, ok := r.list(v, path...)
	if !ok {
		return nil, false
	}
	entities := make([]Entity, len(list))
	for i, v := range list {
		at := append(slices.Clone(path), strconv.Itoa(i))
		entry, _ := r.members(v, at, "entity", "includeSubs")
		entity, ok := r.members(entry["entity"], append(at, "entity"), "type", "code")
		if !ok {
			r.wrong(append(at, "entity"), "is missing")
		}
		kind, _ := r.text(entity["type"], append(at, "entity", "type")...)
		code, _ := r.text(entity["code"], append(at, "entity", "code")...)
		if kind == string(EntityCreator) {
			code = "" // it is ignored (SEED1)
		}
		subs, _ := r.boolean(entry["includeSubs"], append(at, "includeSubs")...)
		entities[i] = Entity{Type: EntityType(kind), Code: code, IncludeSubs: subs}
	}
	return entities, true
}

// members returns those of an object. Without known names any are; null is no object, and no mistake.
func (r *reader) members(v any, path []string, known ...string) (map[string]any, bool) {
	object, ok := v.(map[string]any)
	if !ok {
		if v != nil {
			r.wrong(path, "is not an object")
		}
		return nil, false
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if len(known) > 0 && !slices.Contains(known, name) {
			r.wrong(append(slices.Clone(path), name), "is not known here; there can be "+strings.Join(known, ", "))
		}
	}
	return object, true
}

func (r *reader) list(v any, path ...string) ([]any, bool) {
	list, ok := v.([]any)
	if !ok && v != nil {
		r.wrong(path, "is not a list")
	}
	return list, ok
}

func (r *reader) text(v any, path ...string) (string, bool) {
	s, ok := v.(string)
	if !ok && v != nil {
		r.wrong(path, "is not a text")
	}
	return s, ok
}

// number reads a whole number, or one in a string.
func (r *reader) number(v any, path ...string) (int64, bool) {
	var s string
	switch v := v.(type) {
	case nil:
		return 0, false
	case json.Number:
		s = v.String()
	case string:
		s = v
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != s {
		r.wrong(path, "is not a whole number")
		return 0, false
	}
	return n, true
}

// boolean reads true or false, or one of them in a string.
func (r *reader) boolean(v any, path ...string) (value, ok bool) {
	switch v {
	case nil:
		return false, false
	case true, "true":
		return true, true
	case false, "false":
		return false, true
	}
	r.wrong(path, "is neither true nor false")
	return false, false
}
