package campaign

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"statusq/internal/queue"
)

// readNDJSON returns the lines that are valid jobs and adds what is wrong with the others to problems. A line is judged
// by the rules for published jobs, after the defaults have been added to it as members of their own: what a line says
// itself is never changed, so that a member that is misspelt or stands there twice is still found.
func readNDJSON(text []byte, o ReadOptions, problems *RowErrors) []Row {
	if start := bytes.TrimSpace(text); start[0] == '[' {
		problems.add(1, "", "is a JSON array; write one object per line, without brackets and commas around them")
		return nil
	}
	var rows []Row
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		before := problems.Total
		job, err := queue.DecodeJob(withDefaults(line, o.Defaults), o.Defaults.Site, 0)
		if err == nil {
			rows = append(rows, Row{number, job})
		} else if refused, ok := errors.AsType[*queue.DecodeError](err); ok {
			for _, p := range refused.Problems {
				problems.add(number, p.Pointer, "%s", p.Text)
			}
		}
		if err != nil && problems.Total == before {
			problems.add(number, "", "%v", err)
		}
	}
	return rows
}

// withDefaults adds the defaults to a JSON object, as members before its own, where it has none of that name. What they
// say of keys is for an object that has a key. What is not an object comes back as it is.
func withDefaults(line []byte, d queue.Job) []byte {
	has, ok := members(line)
	if !ok {
		return line
	}
	if d.Key != nil {
		line = withKeyField(line, has["key"], d.Key.Field)
	}
	var b bytes.Buffer
	add := func(name string, given bool, value any) {
		if _, own := has[name]; !given || own {
			return
		}
		text, err := json.Marshal(value)
		if err != nil {
			return // strings, numbers and times always can be
		}
		b.WriteString(`"` + name + `":`)
		b.Write(text)
		b.WriteByte(',')
	}
	_, keyed := has["key"]
	b.WriteByte('{')
	add("v", true, 1)
	add("site", d.Site != "", d.Site)
	add("app", d.App != 0, d.App)
	add("match", d.Match != "" && keyed, d.Match)
	add("action", d.Action != "", d.Action)
	add("assignee", d.Assignee != "", d.Assignee)
	add("revision", d.Revision > 0, d.Revision)
	add("campaign", d.Campaign != "", d.Campaign)
	add("by", d.By != "", d.By)
	add("ref", d.Ref != "", d.Ref)
	add("notBefore", !d.NotBefore.IsZero(), d.NotBefore.UTC().Format(time.RFC3339))
	add("expires", !d.Expires.IsZero(), d.Expires.UTC().Format(time.RFC3339))
	rest := bytes.TrimSpace(line[1:])
	if len(has) == 0 { // {} : the last comma would be one too many
		b.Truncate(max(1, b.Len()-1))
	}
	b.Write(rest)
	return b.Bytes()
}

// withKeyField adds a field to the key of an object, if it has a key that names none.
func withKeyField(line []byte, key place, field string) []byte {
	own, ok := members(line[key.from:key.to])
	if _, given := own["field"]; !ok || given {
		return line
	}
	text, err := json.Marshal(field)
	if err != nil {
		return line // a string always can be
	}
	member := []byte(`"field":` + string(text))
	if len(own) > 0 {
		member = append(member, ',')
	}
	inside := int(key.from) + bytes.IndexByte(line[key.from:], '{') + 1
	return slices.Insert(slices.Clone(line), inside, member...)
}

// place is where the value of a member stands.
type place struct{ from, to int64 }

// members returns where an object has its members, by their names, and whether the text begins like an object at all. Of
// one that stands there twice, which will be refused, it is the last.
func members(text []byte) (map[string]place, bool) {
	in := json.NewDecoder(bytes.NewReader(text))
	if t, err := in.Token(); err != nil || t != json.Delim('{') {
		return nil, false
	}
	has := make(map[string]place)
	for in.More() {
		name, err := in.Token()
		if err != nil {
			return nil, false
		}
		s, ok := name.(string)
		if !ok {
			return nil, false
		}
		var value json.RawMessage
		if in.Decode(&value) != nil {
			return nil, false
		}
		end := in.InputOffset()
		has[s] = place{end - int64(len(value)), end}
	}
	return has, true
}
