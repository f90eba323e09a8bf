package simulator

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// assignment is what PUT record/assignees.json is asked for.
type assignment struct {
	record, revision int64
	assignees        []string
}

// deletion is one member of DELETE records.json.
type deletion struct{ record, revision int64 }

func readAssignees(f *form) any {
	x := assignment{record: f.id("id"), revision: f.revision()}
	list, _ := f.list("assignees", true, true)
	if len(list) > maxMembers {
		f.bad.add("assignees", tooMany)
	}
	for i, v := range list {
		login, _ := v.(string)
		if login == "" || slices.Contains(x.assignees, login) {
			f.bad.add("assignees["+strconv.Itoa(i)+"]", notAString)
		}
		x.assignees = append(x.assignees, login)
	}
	return x
}

// putAssignees changes who has to act on a record. It takes management of the app and raises the revision by 1
// (docs/kintone.md 3). That a ONE status takes no more than one assignee is the stricter reading.
func (k *Kintone) putAssignees(a *app, by caller, _ *call, params any, now time.Time) ([]byte, *Refusal) {
	x := params.(assignment)
	if !a.flow.Enabled {
		return nil, refuse("GAIA_ST02", "")
	}
	r := a.look(x.record)
	switch {
	case r.condition != present:
		return nil, refuse("GAIA_RE01", strconv.FormatInt(x.record, 10))
	case r.more != nil && r.more.hidden:
		return nil, refuse("CB_NO02", "")
	case x.revision != anyRevision && x.revision != r.revision:
		return nil, refuse("GAIA_CO02", "")
	}
	for _, login := range x.assignees {
		if _, known := k.users[login]; !known {
			return nil, refuse("GAIA_IL26", login)
		}
	}
	if len(x.assignees) > 1 && a.assigneeType(r) == One {
		bad := complaints{}
		bad.add("assignees", oneAssignee)
		return nil, bad.refusal()
	}
	r = a.touch(x.record)
	r.revision++
	r.assignees, r.modifier, r.updated = x.assignees, by.login, now.UnixNano()
	return fmt.Appendf(nil, `{"revision":"%d"}`, r.revision), nil
}

// readNewRecords reads 1 to 100 objects, each of codes and values.
func readNewRecords(f *form) any {
	list, _ := f.list("records", true, false)
	if len(list) > maxMembers {
		f.bad.add("records", tooMany)
		return nil
	}
	var records []map[string]any
	for i, v := range list {
		record := f.within("records["+strconv.Itoa(i)+"]", v)
		if record == nil {
			continue
		}
		values := map[string]any{}
		for code := range record.members {
			if field := record.object(code, true); field != nil {
				value, given := field.get("value")
				if !given {
					f.bad.add(field.at+"value", isRequired)
				}
				values[code] = value
				field.rest()
			}
		}
		records = append(records, values)
	}
	return records
}

// postRecords makes records in the first status. The status cannot be written (GAIA_UN10), and neither, which is the
// stricter reading, can any other built-in field or a table; a code that the app does not have is refused, which kintone
// may pass over.
func (k *Kintone) postRecords(a *app, by caller, _ *call, params any, now time.Time) ([]byte, *Refusal) {
	records := params.([]map[string]any)
	values := make([]map[string]string, len(records))
	bad := complaints{}
	for i, record := range records {
		values[i] = map[string]string{}
		for _, code := range slices.Sorted(maps.Keys(record)) {
			at := fmt.Sprintf("records[%d].%s", i, code)
			f, ok := a.fields[code]
			switch {
			case !ok || f.Table != "":
				bad.add(at, isUnknown)
				continue
			case f.builtin || f.Type == "SUBTABLE" || f.Type == "CALC":
				return nil, refuse("GAIA_UN10", code)
			}
			value, ok, refusal := k.written(f, record[code])
			switch {
			case refusal != nil:
				return nil, refusal
			case !ok:
				bad.add(at+".value", badValue)
			}
			values[i][code] = value
		}
	}
	if refusal := bad.refusal(); refusal != nil {
		return nil, refusal
	}
	answer := struct {
		IDs       []string `json:"ids"`
		Revisions []string `json:"revisions"`
	}{}
	for i := range records {
		id := a.last + 1
		s := a.state(id, &recordData{})
		s.Modifier, s.Creator, s.Updated = by.login, by.login, now
		s.Status, s.Assignees = "", nil
		maps.Copy(s.Fields, values[i])
		if len(a.flow.States) > 0 {
			s.Status = a.flow.States[0].Name
		}
		a.set(id, s)
		if r := a.touch(id); len(a.flow.States) > 0 {
			r.assignees = a.resolve(a.flow.States[0].Entities, r)
		}
		answer.IDs = append(answer.IDs, strconv.FormatInt(id, 10))
		answer.Revisions = append(answer.Revisions, "1")
	}
	return marshal(answer), nil
}

// written turns a value of JSON into the one that a record holds. It reports false if it does not fit the field.
func (k *Kintone) written(f appField, v any) (value string, ok bool, _ *Refusal) {
	switch f.Type {
	case "USER_SELECT", "GROUP_SELECT", "ORGANIZATION_SELECT", "CHECK_BOX", "MULTI_SELECT":
		list, isList := v.([]any)
		var items []string
		for _, v := range list {
			if f.Type == "CHECK_BOX" || f.Type == "MULTI_SELECT" {
				item, _ := v.(string)
				items = append(items, item)
				continue
			}
			entity, _ := v.(map[string]any)
			code, _ := entity["code"].(string)
			if refusal := k.knows(f.Type, code); refusal != nil {
				return "", false, refusal
			}
			items = append(items, code)
		}
		return strings.Join(items, ","), isList && !slices.Contains(items, ""), nil
	}
	switch v := v.(type) {
	case string:
		value, ok = v, true
	case json.Number:
		value, ok = v.String(), f.Type == "NUMBER"
	}
	if _, fits := canonical(f.Type, value); value != "" && !fits {
		ok = false
	}
	return value, ok, nil
}

// knows refuses the code of a user, group or organisation that does not exist, as fits a type of field.
func (k *Kintone) knows(fieldType, code string) *Refusal {
	var ok bool
	switch fieldType {
	case "GROUP_SELECT":
		if _, ok = k.groups[group{"GROUP", code}]; !ok {
			return unreadable() // the code is not recorded
		}
	case "ORGANIZATION_SELECT":
		if _, ok = k.groups[group{"ORGANIZATION", code}]; !ok {
			return refuse("GAIA_IL28", code)
		}
	default:
		if _, ok = k.users[code]; !ok {
			return refuse("GAIA_IL26", code)
		}
	}
	return nil
}

// readDeletions reads 1 to 100 ids and, if there are any, as many revisions.
func readDeletions(f *form) any {
	ids, _ := f.list("ids", true, false)
	revisions, given := f.list("revisions", false, false)
	switch {
	case len(ids) > maxMembers:
		f.bad.add("ids", tooMany)
		return nil
	case given && len(revisions) != len(ids):
		f.bad.add("revisions", notAnArray)
		return nil
	}
	var deletions []deletion
	for i, v := range ids {
		at := "[" + strconv.Itoa(i) + "]"
		d := deletion{revision: anyRevision}
		var valid bool
		if d.record, valid = integer(v); !valid || d.record < 1 {
			f.bad.add("ids"+at, notAnID)
		}
		if slices.ContainsFunc(deletions, func(o deletion) bool { return o.record == d.record }) {
			f.bad.add("ids"+at, isRepeated)
		}
		if given {
			if d.revision, valid = integer(revisions[i]); !valid || d.revision < anyRevision {
				f.bad.add("revisions"+at, notARevision)
			}
		}
		deletions = append(deletions, d)
	}
	return deletions
}

// deleteRecords deletes all or none. Numbers are never used again.
func (k *Kintone) deleteRecords(a *app, _ caller, _ *call, params any, _ time.Time) ([]byte, *Refusal) {
	deletions := params.([]deletion)
	for _, d := range deletions {
		r := a.look(d.record)
		switch {
		case r.condition != present:
			return nil, refuse("GAIA_RE01", strconv.FormatInt(d.record, 10))
		case r.more != nil && r.more.hidden:
			return nil, refuse("CB_NO02", "")
		case d.revision != anyRevision && d.revision != r.revision:
			return nil, refuse("GAIA_CO02", "")
		}
	}
	for _, d := range deletions {
		a.remove(d.record)
	}
	return []byte("{}"), nil
}
