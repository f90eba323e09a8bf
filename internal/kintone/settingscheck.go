package kintone

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// SettingsMistake is something in process settings that cannot be read, or that kintone would refuse.
type SettingsMistake struct {
	Path []string // from the top of the body, such as "states", "In progress", "index"; positions in a list are decimal
	Text string
}

// Error says where and what.
func (m *SettingsMistake) Error() string {
	if len(m.Path) == 0 {
		return m.Text
	}
	return strings.Join(m.Path, ".") + ": " + m.Text
}

// SettingsMistakes takes the errors of UnmarshalJSON and Check apart. An error that says nothing of a place is a mistake
// nowhere in particular.
func SettingsMistakes(err error) []*SettingsMistake {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*SettingsMistake
		for _, e := range joined.Unwrap() {
			all = append(all, SettingsMistakes(e)...)
		}
		return all
	}
	if m, ok := errors.AsType[*SettingsMistake](err); ok {
		return []*SettingsMistake{m}
	}
	return []*SettingsMistake{{Text: err.Error()}}
}

// Check returns everything that kintone would refuse in s, as joined [SettingsMistake] errors; nil if it finds nothing.
// f is the form of the app; with a zero Fields nothing is said of fields. now is what the preview has, so that it can be
// told which status is new and which vanishes; nil leaves that out. What only kintone knows (whether a user exists) is
// left to kintone.
func (s *ProcessSettings) Check(app App, f Fields, now *ProcessSettings) error {
	c := checker{app: app, fields: f}
	if err := checkRevision(s.Revision); err != nil {
		c.wrong(err.Error(), "revision")
	}
	c.states(s, now)
	c.actions(s, now)
	return errors.Join(c.mistakes...)
}

// maxName is how many characters a status's or an action's name has at most (SEED1).
const maxName = 64

// entityFields are the types of field whose users, groups or departments can be assignees (SEED1).
var entityFields = []string{"CREATOR", "MODIFIER", "USER_SELECT", "ORGANIZATION_SELECT", "GROUP_SELECT"}

// checker gathers what kintone would refuse.
type checker struct {
	app      App
	fields   Fields
	mistakes []error
}

func (c *checker) wrong(text string, path ...string) {
	c.mistakes = append(c.mistakes, &SettingsMistake{Path: slices.Clone(path), Text: text})
}

func (c *checker) states(s, now *ProcessSettings) {
	if s.States == nil {
		return
	}
	if len(s.States) == 0 {
		c.wrong("no status is left, and the first one cannot be deleted", "states")
		return
	}
	ordered := true
	name, index := make(map[string]string), make(map[int]string) // to the key that has it
	for _, key := range s.order() {
		state := s.States[key]
		shall := cmp.Or(state.Name, key)
		c.name(shall, "states", key, "name")
		if other, ok := name[shall]; ok {
			c.wrong(fmt.Sprintf("%q and %q would have one name", other, key), "states", key, "name")
		}
		name[shall] = key
		other, taken := index[state.Index]
		switch {
		case !state.HasIndex:
			ordered = false
			c.wrong("is missing: every status that is listed needs its place", "states", key, "index")
		case state.Index < 0:
			c.wrong("is negative", "states", key, "index")
		case taken:
			c.wrong(fmt.Sprintf("is that of %q, too", other), "states", key, "index")
		default:
			index[state.Index] = key
		}
		if now.known() && shall != key {
			if _, ok := now.States[key]; !ok {
				c.wrong(fmt.Sprintf("there is no status %q now that could be renamed; a new one is listed by its own name", key), "states", key, "name")
			}
		}
		if state.Assignee != nil {
			c.assignee(*state.Assignee, "states", key, "assignee")
		}
	}
	if ordered {
		c.first(s, now)
	}
}

// first checks the status that new records have. It can be renamed, and neither added nor deleted (S-update); a page of
// Cybozu's that has it changed by renaming is read as keeping it in its place.
func (c *checker) first(s, now *ProcessSettings) {
	first := s.order()[0]
	if rule := s.States[first].Assignee; rule != nil {
		c.firstAssignee(*rule, "states", first, "assignee")
	}
	if !now.known() {
		return
	}
	was := now.order()[0]
	if _, ok := s.States[was]; !ok {
		c.wrong(fmt.Sprintf("the first status, %q, cannot be deleted; it can be renamed", was), "states")
	} else if first != was {
		c.wrong(fmt.Sprintf("the first status is %q and stays so; it can be renamed", was), "states", first, "index")
	}
}

// known reports whether it is known which statuses there are.
func (s *ProcessSettings) known() bool { return s != nil && len(s.States) > 0 }

func (c *checker) name(name string, path ...string) {
	switch n := utf8.RuneCountInString(name); {
	case strings.TrimSpace(name) == "":
		c.wrong("is empty", path...)
	case n > maxName:
		c.wrong(fmt.Sprintf("has %d characters, %d are the most", n, maxName), path...)
	}
}

func (c *checker) assignee(rule AssigneeRule, path ...string) {
	switch rule.Type {
	case AssigneeOne, AssigneeAll, AssigneeAny:
	default:
		c.wrong(fmt.Sprintf("is %q, and can be ONE, ALL or ANY", rule.Type), append(path, "type")...)
	}
	c.entities(rule.Entities, append(path, "entities")...)
}

// firstAssignee checks that of the first status, where only the record's creator can be (docs/kintone.md 5).
func (c *checker) firstAssignee(rule AssigneeRule, path ...string) {
	if rule.Type != AssigneeOne {
		c.wrong(fmt.Sprintf("is %q, and is always ONE for the first status", rule.Type), append(path, "type")...)
	}
	for i, e := range rule.Entities {
		kind, known := c.fields.Types[e.Code]
		if e.Type != EntityField || len(rule.Entities) > 1 || known && kind != "CREATOR" {
			c.wrong(`for the first status this can be nobody, or FIELD_ENTITY with the "Created by" field and nobody else`,
				append(path, "entities", strconv.Itoa(i))...)
		}
	}
}

func (c *checker) entities(list []Entity, path ...string) {
	for i, e := range list {
		at := append(slices.Clone(path), strconv.Itoa(i), "entity")
		code := append(slices.Clone(at), "code")
		switch e.Type {
		case EntityCreator:
			continue // a code is ignored (SEED1)
		case EntityUser, EntityGroup, EntityCustomField, EntityField:
		case EntityOrganization:
			if c.app.GuestSpace != 0 {
				c.wrong("departments cannot be set in an app of a guest space", at...)
			}
		default:
			c.wrong(fmt.Sprintf("is %q, and can be USER, GROUP, ORGANIZATION, FIELD_ENTITY, CREATOR or CUSTOM_FIELD", e.Type), append(at, "type")...)
		}
		if e.Code == "" {
			c.wrong("is missing", code...)
			continue
		}
		if e.Type != EntityField || c.fields.Types == nil {
			continue
		}
		if kind, ok := c.fields.Types[e.Code]; !ok {
			c.wrong(fmt.Sprintf("the form has no field %q outside of tables", e.Code), code...)
		} else if !slices.Contains(entityFields, kind) {
			c.wrong(fmt.Sprintf("field %q is of type %s, and holds no user, group or department", e.Code, kind), code...)
		}
	}
}

func (c *checker) actions(s, now *ProcessSettings) {
	if s.Actions == nil && len(s.States) > 0 && now.known() {
		for _, a := range now.Actions {
			for _, end := range []string{a.From, a.To} {
				if _, ok := s.States[now.keyOf(end)]; !ok {
					c.wrong(fmt.Sprintf("is left out, but the action %q of now leads from or to %q, which would be deleted", a.Name, end), "actions")
				}
			}
		}
	}
	whole := s
	if s.States == nil {
		whole = now
	}
	for i, a := range s.Actions {
		at := func(names ...string) []string { return append([]string{"actions", strconv.Itoa(i)}, names...) }
		c.name(a.Name, at("name")...)
		c.status(a.From, whole, at("from")...)
		c.status(a.To, whole, at("to")...)
		switch a.Type {
		case "", ActionPrimary:
			if len(a.Executable) > 0 {
				c.wrong("is only for actions of type SECONDARY", at("executableUser")...)
			}
		case ActionSecondary:
		default:
			c.wrong(fmt.Sprintf("is %q, and can be PRIMARY or SECONDARY", a.Type), at("type")...)
		}
		c.entities(a.Executable, at("executableUser", "entities")...)
		c.condition(a.FilterCond, at("filterCond")...)
	}
}

// status checks one end of an action.
func (c *checker) status(name string, whole *ProcessSettings, path ...string) {
	if name == "" {
		c.wrong("is missing", path...)
	} else if whole.known() && whole.keyOf(name) == "" {
		c.wrong(fmt.Sprintf("there will be no status %q", name), path...)
	}
}

// condition checks a filterCond: the status cannot be in it (SEED1), and every field has to be in the form.
func (c *checker) condition(cond string, path ...string) {
	codes, ok := conditionFields(cond)
	if !ok {
		c.wrong("a quotation mark is not closed", path...)
	}
	for _, code := range codes {
		kind, known := c.fields.Types[code]
		_, inTable := c.fields.InTables[code]
		related, _, _ := strings.Cut(code, ".")
		switch {
		case c.fields.Types == nil:
		case kind == "STATUS":
			c.wrong(fmt.Sprintf("the status (field %q) cannot be part of a condition", code), path...)
		case !known && !inTable && code != idCode && c.fields.Types[related] != "REFERENCE_TABLE":
			c.wrong(fmt.Sprintf("the form has no field %q", code), path...)
		}
	}
}

// conditionFields returns the field codes that are compared in a condition. It reports false if a text in it is not closed.
func conditionFields(cond string) (codes []string, closed bool) {
	var tokens []string // words, comparisons and other signs; a text in quotes as one quotation mark
	for rest := cond; rest != ""; {
		r, size := utf8.DecodeRuneInString(rest)
		switch {
		case unicode.IsSpace(r):
		case r == '"':
			text := quotedText(rest)
			if text == "" {
				return nil, false
			}
			size = len(text)
			tokens = append(tokens, `"`)
		case strings.ContainsRune("()=!<>,", r):
			tokens = append(tokens, string(r))
		default:
			if end := strings.IndexFunc(rest, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`"()=!<>,`, r) }); end > 0 {
				size = end
			} else {
				size = len(rest)
			}
			tokens = append(tokens, rest[:size])
		}
		rest = rest[size:]
	}
	operators := []string{"=", "!", "<", ">", "in", "not", "like", "is"}
	for i, token := range tokens[:max(len(tokens)-1, 0)] {
		word := !strings.ContainsAny(token, `"()=!<>,`) && !slices.Contains(operators, strings.ToLower(token))
		if word && slices.Contains(operators, strings.ToLower(tokens[i+1])) && !slices.Contains(codes, token) {
			codes = append(codes, token)
		}
	}
	return codes, true
}

// quotedText returns the text in quotes that s begins with, "" if it does not end.
func quotedText(s string) string {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return s[:i+1]
		}
	}
	return ""
}
