package simulator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// members returns the parameters of a call, from its body or from its URL, not from both.
func (c *call) members() (map[string]any, *Refusal) {
	contentType := c.header.Get("Content-Type")
	media, _, _ := strings.Cut(contentType, ";")
	isJSON := strings.EqualFold(strings.TrimSpace(media), jsonMediaType)
	switch {
	case len(c.body) == 0 && (c.method == http.MethodGet || c.method == http.MethodDelete):
		if contentType != "" {
			return nil, refuse("CB_IL02", "") // docs/kintone.md 1.3
		}
		return c.urlMembers()
	case !isJSON || c.rawQuery != "":
		return nil, refuse("CB_IL02", "")
	case len(c.body) == 0 || c.decodeErr != nil:
		return nil, refuse("CB_IJ01", "")
	}
	m, ok := c.decoded.(map[string]any)
	if !ok {
		return nil, refuse("CB_IL02", "") // "bad shape"
	}
	return m, nil
}

// lists are the parameters that a URL holds as fields[0], fields[1] and so on.
var lists = []string{"fields", "apps", "ids", "revisions"}

// urlMembers reads a query string. Brackets have to be percent-encoded (docs/kintone.md 1.3: raw ones were once answered
// with CB_IL02). The numbers of a list's members may leave gaps.
func (c *call) urlMembers() (map[string]any, *Refusal) {
	values, err := url.ParseQuery(c.rawQuery)
	if err != nil || strings.ContainsAny(c.rawQuery, "[]") {
		return nil, refuse("CB_IL02", "")
	}
	members := map[string]any{}
	numbered := map[string]map[int64]any{}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if len(values[name]) > 1 {
			return nil, refuse("CB_IL02", "")
		}
		value := values[name][0]
		list, index, _ := strings.Cut(name, "[")
		n, valid := integer(strings.TrimSuffix(index, "]"))
		switch {
		case !slices.Contains(lists, list):
			members[name] = value
		case name == list:
			members[name+" "] = value // refused as unknown: only the indexed form is known
		case !valid || n < 0 || list == "fields" && n > 99 || !strings.HasSuffix(index, "]"):
			members[name] = value // refused as unknown
		default:
			if numbered[list] == nil {
				numbered[list] = map[int64]any{}
			}
			numbered[list][n] = value
		}
	}
	for name, list := range numbered {
		var ordered []any
		for _, n := range slices.Sorted(maps.Keys(list)) {
			ordered = append(ordered, list[n])
		}
		members[name] = ordered
	}
	return members, nil
}

// decode reads JSON strictly: valid UTF-8, one value, no member twice. Objects become map[string]any, numbers
// json.Number.
func decode(body []byte) (any, error) {
	if !utf8.Valid(body) || !json.Valid(body) {
		return nil, errors.New("invalid JSON")
	}
	v, _, err := decodeValue(body, 0)
	return v, err
}

// decodeValue takes the first value off JSON that is known to be valid, and returns what follows. encoding/json could do
// it, but would keep the last of two members of one name, and read a body of 100 records ten times as slowly by tokens.
func decodeValue(b []byte, depth int) (v any, rest []byte, err error) {
	if depth > maxJSONDepth {
		return nil, nil, errors.New("nested too deep")
	}
	b = skipSpace(b)
	switch b[0] {
	case '{':
		object := map[string]any{}
		for b = skipSpace(b[1:]); b[0] != '}'; b = skipSpace(b) {
			if b[0] == ',' {
				b = skipSpace(b[1:])
			}
			name, rest := decodeString(b)
			if _, twice := object[name]; twice {
				return nil, nil, fmt.Errorf("member %q twice", name)
			}
			if object[name], b, err = decodeValue(skipSpace(rest)[1:], depth+1); err != nil { // past the colon
				return nil, nil, err
			}
		}
		return object, b[1:], nil
	case '[':
		list := []any{}
		for b = skipSpace(b[1:]); b[0] != ']'; b = skipSpace(b) {
			if b[0] == ',' {
				b = b[1:]
			}
			if v, b, err = decodeValue(b, depth+1); err != nil {
				return nil, nil, err
			}
			list = append(list, v)
		}
		return list, b[1:], nil
	case '"':
		s, rest := decodeString(b)
		return s, rest, nil
	case 't':
		return true, b[len("true"):], nil
	case 'f':
		return false, b[len("false"):], nil
	case 'n':
		return nil, b[len("null"):], nil
	}
	length := len(b) - len(bytes.TrimLeft(b, "+-.0123456789eE"))
	return json.Number(b[:length]), b[length:], nil
}

func skipSpace(b []byte) []byte { return bytes.TrimLeft(b, " \t\r\n") }

func decodeString(b []byte) (s string, rest []byte) {
	last, escaped := 1, false
	for ; b[last] != '"'; last++ {
		if b[last] == '\\' {
			last, escaped = last+1, true
		}
	}
	if !escaped {
		return string(b[1:last]), b[last+1:]
	}
	if err := json.Unmarshal(b[:last+1], &s); err != nil {
		panic(err) // valid, as the whole body is
	}
	return s, b[last+1:]
}

// integer reads what kintone calls "number or string": a JSON number without fraction or exponent, or its decimal digits
// in a string.
func integer(v any) (int64, bool) {
	var s string
	switch v := v.(type) {
	case json.Number:
		s = v.String()
	case string:
		s = v
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && strconv.FormatInt(n, 10) == s
}

// form reads the members of one object and notes what is wrong with them.
type form struct {
	members map[string]any
	known   []string
	at      string // path of the object, with a dot behind it
	bad     complaints
	inURL   bool
	twice   string // Config.NamedTwice
}

func (f *form) get(name string) (any, bool) {
	f.known = append(f.known, name)
	v, ok := f.members[name]
	return v, ok
}

// rest refuses the members that nobody asked for. Whether kintone does is not recorded.
func (f *form) rest() {
	if len(f.members) == 0 {
		return
	}
	for name := range f.members {
		if !slices.Contains(f.known, name) {
			f.bad.add(f.at+strings.TrimSpace(name), isUnknown)
		}
	}
}

// id reads a required number of an app or a record.
func (f *form) id(name string) int64 {
	v, ok := f.get(name)
	n, valid := integer(v)
	switch {
	case !ok || v == nil:
		f.bad.add(f.at+name, isRequired)
	case !valid:
		f.bad.add(f.at+name, notANumber)
	case n < 1:
		f.bad.add(f.at+name, notAnID)
	}
	return n
}

func (f *form) revision() int64 {
	v, ok := f.get("revision")
	if !ok {
		return anyRevision
	}
	n, valid := integer(v)
	switch {
	case !valid:
		f.bad.add(f.at+"revision", notANumber)
	case n < anyRevision:
		f.bad.add(f.at+"revision", notARevision)
	}
	return n
}

// text reads a string. One that is there has to have something in it, which is the stricter reading for assignees.
func (f *form) text(name string, required bool) string {
	v, ok := f.get(name)
	s, isString := v.(string)
	switch {
	case !ok && required:
		f.bad.add(f.at+name, isRequired)
	case ok && (!isString || s == ""):
		f.bad.add(f.at+name, notAString)
	}
	return s
}

// list reads an array; one that is there has to have something in it, unless it may be empty.
func (f *form) list(name string, required, mayBeEmpty bool) ([]any, bool) {
	v, ok := f.get(name)
	list, isList := v.([]any)
	switch {
	case !ok && required:
		f.bad.add(f.at+name, isRequired)
	case ok && (!isList || len(list) == 0 && !mayBeEmpty):
		f.bad.add(f.at+name, notAnArray)
	}
	return list, ok && isList
}

// object reads a member that is an object as a form of its own, which its reader has to end with rest. It is nil if
// there is none.
func (f *form) object(name string, required bool) *form {
	v, ok := f.get(name)
	if !ok {
		if required {
			f.bad.add(f.at+name, isRequired)
		}
		return nil
	}
	return f.within(name, v)
}

// within makes a form of what stands at a path below this one, or complains that it is no object.
func (f *form) within(path string, v any) *form {
	object, ok := v.(map[string]any)
	if !ok {
		f.bad.add(f.at+path, notAnObject)
		return nil
	}
	return &form{members: object, at: f.at + path + ".", bad: f.bad}
}

func (f *form) flag(name string) bool {
	v, ok := f.get(name)
	switch v {
	case true, "true":
		return true
	case false, "false":
		return false
	}
	if ok {
		f.bad.add(f.at+name, notABoolean)
	}
	return false
}

func readNothing(*form) any { return nil }

func readLanguage(f *form) any {
	lang := f.text("lang", false)
	if !slices.Contains([]string{"", "default", "user", "ja", "en", "zh"}, lang) {
		f.bad.add("lang", notALanguage)
	}
	return lang
}

func readRecordID(f *form) any { return f.id("id") }

func readStatusChange(f *form) any {
	c := statusChange{
		record: f.id("id"), action: f.text("action", true), assignee: f.text("assignee", false), revision: f.revision(),
	}
	if utf8.RuneCountInString(c.action) > maxName {
		f.bad.add(f.at+"action", isTooLong)
	}
	return c
}

// readStatusChanges reads 1 to 100 members. No source says what kintone does with a record that is named twice
// (docs/kintone.md 3): it is refused, or what Config.NamedTwice wants.
func readStatusChanges(f *form) any {
	members, ok := f.list("records", true, false)
	if !ok || len(members) == 0 {
		return nil
	}
	if len(members) > maxMembers {
		f.bad.add("records", tooMany)
		return nil
	}
	changes := make([]statusChange, 0, len(members))
	seen := make(map[int64]struct{}, len(members))
	for i, v := range members {
		at := "records[" + strconv.Itoa(i) + "]"
		object, ok := v.(map[string]any)
		if !ok {
			f.bad.add(at, notAnObject)
			continue
		}
		member := &form{members: object, at: at + ".", bad: f.bad, known: make([]string, 0, 4)}
		c := readStatusChange(member).(statusChange)
		member.rest()
		if _, c.again = seen[c.record]; c.again && c.record > 0 && f.twice == "CB_VA01" {
			f.bad.add(at+".id", isRepeated)
		}
		seen[c.record] = struct{}{}
		changes = append(changes, c)
	}
	return changes
}

// recordsQuery is what GET records.json is asked for. Fields nil means all.
type recordsQuery struct {
	query      string
	fields     map[string]bool
	totalCount bool
}

func readRecordsQuery(f *form) any {
	q := recordsQuery{totalCount: f.flag("totalCount")}
	if v, ok := f.get("query"); ok { // may be empty
		if q.query, ok = v.(string); !ok {
			f.bad.add("query", notAString)
		}
	}
	v, ok := f.get("fields")
	if !ok {
		return q
	}
	list, isList := v.([]any)
	if !isList {
		f.bad.add("fields", notAnArray)
	}
	if f.inURL && len(list) > 100 || len(list) > 1000 {
		f.bad.add("fields", tooManyFields)
	}
	for i, v := range list {
		code, _ := v.(string)
		if code == "" {
			f.bad.add("fields["+strconv.Itoa(i)+"]", notAString)
		}
		if q.fields == nil {
			q.fields = map[string]bool{}
		}
		q.fields[code] = true
	}
	return q
}
