package simulator

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// pageSize is how many records are copied out of an app's template when the first of them is written to.
const pageSize = 64

// app is one app with its records. Everything in it is guarded by the mutex of its Kintone.
type app struct {
	App
	fields map[string]appField
	order  []string // field codes as kintone lists them, without those in tables

	flow    *flow       // the settings that are live
	preview *flow       // the settings as they will be after the next deploy
	pending []string    // who changed the preview since it was last live, in order
	deploy  DeployState // of the last deploy, "" if there was none
	locked  time.Time   // until when records cannot be written, because of a deploy

	// Records nobody has written to are not there: they look like template. Pages hold the others; record n is in page
	// (n-1)/pageSize. Record numbers past the last page and past App.Records were never used.
	template recordData
	pages    []*[pageSize]recordData
	last     int64 // greatest record number ever used
	live     int
	standing map[string]int  // by status: how many records are in it
	keys     map[string]keys // by field: of those that were asked for by value
	past     *past           // while what happens may have to be taken back
}

// appField is a field of an app, built in or further.
type appField struct {
	Field
	builtin bool
}

// recordData is what differs from record to record.
type recordData struct {
	revision  int64
	status    string
	modifier  string
	assignees []string // never altered in place
	updated   int64    // Unix time in ns
	more      *rareData
	condition condition
}

// rareData is what hardly any record has.
type rareData struct {
	creator string
	hidden  bool
	fields  map[string]string
}

type condition byte

const (
	unused condition = iota
	present
	deleted
)

// newApp checks and completes an app.
func (k *Kintone) newApp(spec App) (*app, error) {
	a := &app{App: spec, fields: map[string]appField{}, standing: map[string]int{}, keys: map[string]keys{}, flow: &flow{}}
	orDefault(&a.StatusField, "Status")
	orDefault(&a.AssigneeField, "Assignee")
	orDefault(&a.RecordNumberField, "Record_number")
	orDefault(&a.ModifierField, "Updated_by")
	orDefault(&a.CreatorField, "Created_by")
	orDefault(&a.Name, fmt.Sprintf("App %d", a.ID))
	a.Tokens, a.Viewers, a.HiddenFields = slices.Clone(a.Tokens), slices.Clone(a.Viewers), slices.Clone(a.HiddenFields)

	var wrong []error
	if a.ID < 1 || a.GuestSpace < 0 || a.Records < 0 {
		wrong = append(wrong, errors.New("app id, guest space and number of records cannot be negative"))
	}
	for _, t := range a.Tokens {
		if t.Value == "" || strings.ContainsAny(t.Value, ", ") {
			wrong = append(wrong, errors.New("a token is empty or holds a comma or space"))
		}
	}
	for _, f := range []Field{
		{Code: a.RecordNumberField, Type: "RECORD_NUMBER"}, {Code: a.CreatorField, Type: "CREATOR"},
		{Code: a.ModifierField, Type: "MODIFIER"}, {Code: a.StatusField, Type: "STATUS"},
		{Code: a.AssigneeField, Type: "STATUS_ASSIGNEE"},
		{Code: "Created_datetime", Type: "CREATED_TIME"}, {Code: "Updated_datetime", Type: "UPDATED_TIME"},
	} {
		if _, taken := a.fields[f.Code]; taken {
			wrong = append(wrong, fmt.Errorf("two fields with code %q", f.Code))
		}
		a.fields[f.Code] = appField{f, true}
		a.order = append(a.order, f.Code)
	}
	for _, f := range a.App.Fields {
		_, taken := a.fields[f.Code]
		table, there := a.fields[f.Table]
		if _, known := operators[f.Type]; !known || taken || f.Code == "" || f.Table != "" && there && table.Type != "SUBTABLE" {
			wrong = append(wrong, fmt.Errorf("field %q of type %q: code taken or type not known", f.Code, f.Type))
		}
		a.addField(f)
	}
	k.learn(a.Process)
	f, refusal := k.newFlow(a, a.Process)
	if refusal != nil {
		wrong = append(wrong, refusal)
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}
	f.revision = 1
	a.template = recordData{revision: 1, modifier: Administrator, updated: time.Now().UnixNano(), condition: present}
	a.last, a.live = int64(a.Records), a.Records
	a.standing[""] = a.Records
	a.goLive(f)
	return a, nil
}

func orDefault(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

func (a *app) addField(f Field) {
	a.fields[f.Code] = appField{f, false}
	switch _, there := a.fields[f.Table]; {
	case f.Table == "":
		a.order = append(a.order, f.Code)
	case !there:
		a.addField(Field{Code: f.Table, Type: "SUBTABLE"})
	}
}

// start puts the records that have no status yet into the first one, once there is one: turning process management on
// in mid-life does that to every record (docs/kintone.md 3).
func (a *app) start() {
	if a.template.status != "" || len(a.flow.States) == 0 {
		return
	}
	first := a.flow.States[0]
	begin := func(r *recordData) {
		r.status, r.assignees = first.Name, a.resolve(first.Entities, r)
	}
	begin(&a.template)
	for _, p := range a.pages {
		for i := 0; p != nil && i < pageSize; i++ {
			if p[i].condition == present {
				begin(&p[i])
			}
		}
	}
	a.standing[first.Name] += a.standing[""]
	delete(a.standing, "")
}

// goLive puts settings in force: records move along with the statuses that were renamed, and the preview is the same from
// here on. No record may stand in a status that is gone (vanishing).
func (a *app) goLive(f *flow) {
	renamed := map[string]string{}
	for i, s := range f.States {
		if was := f.origins[i]; was != "" && was != s.Name {
			renamed[was] = s.Name
		}
	}
	if len(renamed) > 0 {
		move := func(r *recordData) {
			if name, ok := renamed[r.status]; ok {
				r.status = name
			}
		}
		move(&a.template)
		for _, p := range a.pages {
			for i := 0; p != nil && i < pageSize; i++ {
				move(&p[i])
			}
		}
		standing := map[string]int{}
		for status, n := range a.standing {
			if name, ok := renamed[status]; ok {
				status = name
			}
			standing[status] += n
		}
		a.standing = standing
	}
	a.flow = f.settled()
	a.preview, a.pending = a.flow, nil
	a.start()
}

// vanishing returns a status that records stand in and that settings do not have any more, and how many they are.
func (a *app) vanishing(f *flow) (status string, records int) {
	for status, n := range a.standing {
		if n > 0 && status != "" && !slices.Contains(f.origins, status) {
			return status, n
		}
	}
	return "", 0
}

// look returns a record to be read only; its condition may be other than present.
func (a *app) look(record int64) *recordData {
	if record < 1 || record > a.last {
		return &recordData{}
	}
	if page := (record - 1) / pageSize; page < int64(len(a.pages)) && a.pages[page] != nil {
		return &a.pages[page][(record-1)%pageSize]
	}
	if record <= int64(a.Records) {
		return &a.template
	}
	return &recordData{}
}

// touch returns a record to be written to.
func (a *app) touch(record int64) *recordData {
	page := (record - 1) / pageSize
	if missing := int(page) + 1 - len(a.pages); missing > 0 {
		a.pages = append(a.pages, make([]*[pageSize]recordData, missing)...)
	}
	p := a.pages[page]
	if p == nil {
		p = new([pageSize]recordData)
		for i := range p {
			if page*pageSize+int64(i) < int64(a.Records) {
				p[i] = a.template
			}
		}
		a.pages[page] = p
	}
	r := &p[(record-1)%pageSize]
	if a.past != nil {
		a.past.note(record, *r)
	}
	return r
}

// state copies a record out. A record that was never used looks like a new one.
func (a *app) state(record int64, r *recordData) RecordState {
	if r.condition != present {
		r = new(a.template)
		r.revision = 1
	}
	s := RecordState{
		ID: record, Revision: r.revision, Status: r.status, Assignees: slices.Clone(r.assignees), Modifier: r.modifier,
		Creator: r.creator(), Updated: time.Unix(0, r.updated), Hidden: r.more != nil && r.more.hidden,
		Fields: map[string]string{},
	}
	for code, f := range a.fields {
		if v := a.value(record, r, f); !f.builtin && v != "" {
			s.Fields[code] = v
		}
	}
	return s
}

// set stores what Put was given.
func (a *app) set(record int64, s RecordState) {
	r := a.touch(record)
	if r.condition == present {
		a.standing[r.status]--
	} else {
		a.live++
		a.last = max(a.last, record)
	}
	a.standing[s.Status]++
	more := rareData{creator: s.Creator, hidden: s.Hidden, fields: map[string]string{}}
	for code, f := range a.fields {
		if v := s.Fields[code]; !f.builtin && v != f.initial(record) {
			more.fields[code] = v
		}
	}
	*r = recordData{
		revision: s.Revision, status: s.Status, modifier: s.Modifier, assignees: slices.Clone(s.Assignees),
		updated: s.Updated.UnixNano(), condition: present,
	}
	if more.hidden || more.creator != Administrator || len(more.fields) > 0 {
		r.more = &more
	}
	a.noteKeys(record, r)
}

// remove deletes a record.
func (a *app) remove(record int64) {
	r := a.touch(record)
	a.standing[r.status]--
	*r = recordData{condition: deleted}
	a.live--
}

// value returns what a record holds in a further field.
func (a *app) value(record int64, r *recordData, f appField) string {
	if r.more != nil {
		if v, ok := r.more.fields[f.Code]; ok {
			return v
		}
	}
	return f.initial(record)
}

func (f Field) initial(record int64) string {
	if f.Default == nil {
		return ""
	}
	return f.Default(record)
}

func (r *recordData) creator() string {
	if r.more == nil {
		return Administrator
	}
	return r.more.creator
}

// resolve returns the users that entities stand for on one record, each once. Groups and organisations are their
// members; an external custom field is nobody that is known here.
func (a *app) resolve(entities []Entity, r *recordData) []string {
	var users []string
	add := func(logins ...string) {
		for _, u := range logins {
			if u != "" && !slices.Contains(users, u) {
				users = append(users, u)
			}
		}
	}
	for _, e := range entities {
		switch e.Type {
		case "USER":
			add(e.Code)
		case "GROUP", "ORGANIZATION":
			add(e.Members...)
		case "CREATOR":
			add(r.creator())
		case "FIELD_ENTITY":
			switch {
			case e.Code == a.CreatorField:
				add(r.creator())
			case e.Code == a.ModifierField:
				add(r.modifier)
			case r.more != nil:
				add(split(r.more.fields[e.Code])...)
			}
		}
	}
	return users
}

// split takes the value of a user field apart.
func split(logins string) []string {
	return strings.FieldsFunc(logins, func(c rune) bool { return c == ',' || c == ' ' })
}
