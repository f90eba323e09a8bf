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
	request := strconv.Itoa(c.n)
	if c.executions > 1 {
		request += "/" + strconv.Itoa(c.executions)
	}
	o := origin{request: request, time: now, webhook: c.api == "record/status.json" && (!c.inBulk || k.cfg.BulkWebhooks)}
	for i, x := range changes {
		changes[i].pinned = c.pinned[pin{a.ID, x.record, x.revision}]
	}
	if k.cfg.NamedTwice == InTurn && repeated(changes) {
		return k.inTurn(a, by, changes, o)
	}
	moves, refusal := k.judge(a, by, changes)
	if refusal != nil {
		return nil, refusal
	}
	return k.commit(a, by, moves, o), nil
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
		case "SUBTABLE":
			b = a.appendTable(b, code, id, r)
		default:
			b = appendValue(b, f.Type, a.plain(f, id, r))
		}
		b = append(b, '}')
	}
	return append(b, '}')
}

// appendValue writes a value that has the same form in a table.
func appendValue(b []byte, fieldType, value string) []byte {
	switch fieldType {
	case "STATUS_ASSIGNEE", "USER_SELECT", "GROUP_SELECT", "ORGANIZATION_SELECT":
		return appendList(b, split(value), appendUser)
	case "CHECK_BOX", "MULTI_SELECT":
		return appendList(b, split(value), appendString)
	}
	return appendString(b, value)
}

// appendTable writes as many rows as the longest column has lines.
func (a *app) appendTable(b []byte, table string, id int64, r *recordData) []byte {
	columns := map[string][]string{}
	rows := 0
	for code, f := range a.fields {
		if f.Table == table {
			if value := a.value(id, r, f); value != "" {
				columns[code] = strings.Split(value, "\n")
			}
			rows = max(rows, len(columns[code]))
		}
	}
	b = append(b, '[')
	for row := range rows {
		if row > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"id":"%d","value":{`, row+1)
		for i, code := range slices.Sorted(maps.Keys(columns)) {
			if i > 0 {
				b = append(b, ',')
			}
			value := ""
			if row < len(columns[code]) {
				value = columns[code][row]
			}
			b = append(appendString(b, code), `:{"type":"`+a.fields[code].Type+`","value":`...)
			b = append(appendValue(b, a.fields[code].Type, value), '}')
		}
		b = append(b, "}}"...)
	}
	return append(b, ']')
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

// getFields lists the fields with the status fields among them even while process management is off, then marked as not
// enabled (docs/kintone.md 3, Disabled process). Fields in a table are listed below the table only.
func (k *Kintone) getFields(a *app, _ caller, _ *call, _ any, _ time.Time) ([]byte, *Refusal) {
	return a.form(a.flow), nil
}

// getPreviewFields lists the same fields, since nothing here changes them, with the revision of the preview.
func (k *Kintone) getPreviewFields(a *app, _ caller, _ *call, _ any, _ time.Time) ([]byte, *Refusal) {
	return a.form(a.preview), nil
}

func (a *app) form(settings *flow) []byte {
	type property struct {
		Type    string              `json:"type"`
		Code    string              `json:"code"`
		Label   string              `json:"label"`
		NoLabel *bool               `json:"noLabel,omitempty"`
		Enabled *bool               `json:"enabled,omitempty"`
		Fields  map[string]property `json:"fields,omitempty"`
	}
	list := func(table string) map[string]property {
		properties := map[string]property{}
		for code, f := range a.fields {
			if f.Table != table {
				continue
			}
			p := property{Type: f.Type, Code: code, Label: code}
			switch f.Type {
			case "STATUS", "STATUS_ASSIGNEE":
				p.Enabled = new(settings.Enabled)
			default:
				p.NoLabel = new(false)
			}
			properties[code] = p
		}
		return properties
	}
	properties := list("")
	for code, p := range properties {
		if p.Type == "SUBTABLE" {
			p.Fields = list(code)
			properties[code] = p
		}
	}
	return marshal(map[string]any{"properties": properties, "revision": strconv.FormatInt(settings.revision, 10)})
}
