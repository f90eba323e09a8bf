package kintone

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"statusq/schema"
)

const bodyURN = "urn:statusq:schema:kintone:"

// bodySchemas are those of schema/kintone, compiled, by the name of their file.
func bodySchemas(t *testing.T) map[string]*jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	files, err := schema.Kintone.ReadDir("kintone")
	if err != nil {
		t.Fatal(err)
	}
	compiled := make(map[string]*jsonschema.Schema)
	for _, f := range files {
		content, err := schema.Kintone.ReadFile("kintone/" + f.Name())
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(content))
		if err != nil {
			t.Fatalf("%s: %v", f.Name(), err)
		}
		name := strings.TrimSuffix(f.Name(), ".json")
		if id := doc.(map[string]any)["$id"]; id != bodyURN+name {
			t.Errorf("%s has the $id %v", f.Name(), id)
		}
		if err := c.AddResource(bodyURN+name, doc); err != nil {
			t.Fatal(err)
		}
		compiled[name] = nil
	}
	for name := range compiled {
		compiled[name] = c.MustCompile(bodyURN + name)
	}
	return compiled
}

// fits holds a body against the schema of its call.
func fits(s *jsonschema.Schema, body string) error {
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
	if err != nil {
		return err
	}
	return s.Validate(doc)
}

// everySetting uses every parameter of SEED1, and the two of an action that came later (S-get).
func everySetting() *ProcessSettings {
	everybody := []Entity{{EntityUser, "guest/kim", false}, {EntityGroup, "bosses", false}, {EntityOrganization, "sales", true},
		{EntityField, "Created_by", false}, {EntityCreator, "", false}, {EntityCustomField, "Boss", false}}
	return &ProcessSettings{
		Enable: new(true), Revision: 12,
		States: map[string]StateSettings{
			"Not started": {Name: "Open", Index: 0, HasIndex: true, Assignee: &AssigneeRule{Type: AssigneeOne}},
			"In progress": {Index: 1, HasIndex: true, Assignee: &AssigneeRule{AssigneeAll, everybody}},
			"Checked":     {Name: "Checked", Index: 2, HasIndex: true, Assignee: &AssigneeRule{Type: AssigneeAny}},
			"Done":        {Name: "Done", Index: 3, HasIndex: true},
		},
		Actions: []ActionSettings{
			{Name: "Start", From: "Open", To: "In progress", FilterCond: `Record_number > "1" and Text = "<&>"`},
			{Name: "Finish", From: "In progress", To: "Done", Type: ActionPrimary, Executable: []Entity{}},
			{Name: "Take back", From: "Done", To: "Open", Type: ActionSecondary, Executable: everybody},
		},
	}
}

// What leaves the client, byte for byte as a server gets it, against schemas that were written from Cybozu's pages; and
// every parameter, and every value of those that have a list of them, is among what was sent.
func TestBodiesFitTheDocuments(t *testing.T) {
	schemas := bodySchemas(t)
	app := App{ID: 5}
	hundred := make([]StatusChange, MaxStatusChanges)
	for i := range hundred {
		hundred[i] = StatusChange{Record: int64(i + 1), Revision: Unchecked, Action: "承認"}
	}
	sent := make(map[string]map[string]bool) // by schema, the members and values that were in a body
	for _, c := range []struct {
		method, api string
		call        func(*Client) error
	}{
		{"PUT", "record/status", func(c *Client) error {
			_, err := c.UpdateStatus(t.Context(), app, StatusChange{Record: 1, Revision: 1, Action: "申请", Assignee: "user2"})
			return err
		}},
		{"PUT", "record/status", func(c *Client) error {
			_, err := c.UpdateStatus(t.Context(), app, StatusChange{Record: 1001, Revision: Unchecked, Action: "申请"})
			return err
		}},
		{"PUT", "records/status", func(c *Client) error {
			_, err := c.UpdateStatuses(t.Context(), app, []StatusChange{
				{Record: 1, Revision: 1, Action: "申請する", Assignee: "user2"}, {Record: 2, Revision: Unchecked, Action: "承認"}})
			return err
		}},
		{"PUT", "records/status", func(c *Client) error {
			_, err := c.UpdateStatuses(t.Context(), app, hundred)
			return err
		}},
		{"PUT", "preview/app/status", func(c *Client) error {
			_, err := c.UpdateProcessSettings(t.Context(), app, everySetting())
			return err
		}},
		{"PUT", "preview/app/status", func(c *Client) error {
			_, err := c.UpdateProcessSettings(t.Context(), app, &ProcessSettings{App: 5, Enable: new(false), Revision: Unchecked})
			return err
		}},
		{"PUT", "preview/app/status", func(c *Client) error {
			_, err := c.UpdateProcessSettings(t.Context(), app, &ProcessSettings{Actions: []ActionSettings{}, Revision: 1})
			return err
		}},
		{"POST", "preview/app/deploy", func(c *Client) error { return c.Deploy(t.Context(), app, 45, false) }},
		{"POST", "preview/app/deploy", func(c *Client) error { return c.Deploy(t.Context(), app, Unchecked, true) }},
	} {
		for _, guest := range []int64{0, 7} {
			app.GuestSpace = guest
			s := newSite(t, answers(200, `{"revision":"3"}`))
			err := c.call(s.Client) // the answer suits some of the calls only
			r := s.only(t)
			base := "/k/v1/"
			if guest != 0 {
				base = "/k/guest/7/v1/"
			}
			if r.method != c.method || r.uri != base+c.api+".json" {
				t.Fatalf("%s %s was %s %s (%v)", c.method, c.api, r.method, r.uri, err)
			}
			name := strings.ReplaceAll(c.api, "/", "-") + "." + strings.ToLower(c.method)
			if err := fits(schemas[name], r.body); err != nil {
				t.Errorf("%s\n%s\n%v", name, r.body, err)
			}
			if sent[name] == nil {
				sent[name] = make(map[string]bool)
			}
			var doc any
			if err := json.Unmarshal([]byte(r.body), &doc); err != nil {
				t.Fatal(err)
			}
			note(sent[name], "", doc)
		}
	}

	for name, s := range schemas {
		if name == "common" {
			continue
		}
		for _, parameter := range parameters(s, "") {
			found := false
			for path := range sent[name] {
				found = found || sameParameter(parameter, path)
			}
			if !found {
				t.Errorf("%s: no body had %s", name, parameter)
			}
		}
	}
}

// note gathers the path of every member of v, and path=value for texts.
func note(paths map[string]bool, at string, v any) {
	paths[at] = true
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			note(paths, at+"/"+name, member)
		}
	case []any:
		for _, element := range v {
			note(paths, at+"/*", element)
		}
	case string:
		paths[at+"="+v] = true
	}
}

// parameters lists what a schema knows: the path of every member with * for any name or position, and path=value for
// every text of an enumeration.
func parameters(s *jsonschema.Schema, at string) []string {
	for s.Ref != nil {
		s = s.Ref
	}
	paths := []string{at}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		paths = append(paths, parameters(s.Properties[name], at+"/"+name)...)
	}
	for _, more := range []any{s.AdditionalProperties, s.Items, s.Items2020} {
		if m, ok := more.(*jsonschema.Schema); ok && m != nil {
			paths = append(paths, parameters(m, at+"/*")...)
		}
	}
	if s.Enum != nil && !slices.Contains(s.Enum.Values, any(true)) {
		for _, value := range s.Enum.Values {
			paths = append(paths, fmt.Sprintf("%s=%v", at, value))
		}
	}
	return paths
}

func sameParameter(pattern, path string) bool {
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	return slices.EqualFunc(want, have, func(w, h string) bool { return w == "*" || w == h })
}

// The documents' own samples. That of SEED3 for several records has blanks in its names and a comma too many; it is here
// as it is meant.
const (
	seed1Body = `{"app":"5","enable":true,"states":{
		"Not started":{"name":"Not started","index":"0","assignee":{"type":"ONE","entities":[]}},
		"In progress":{"name":"In progress","index":"1","assignee":{"type":"ALL","entities":[
			{"entity":{"type":"USER","code":"user1"},"includeSubs":false},
			{"entity":{"type":"FIELD_ENTITY","code":"Created_by"},"includeSubs":false},
			{"entity":{"type":"CUSTOM_FIELD","code":"Boss"},"includeSubs":false}]}},
		"Completed":{"name":"Completed","index":"2","assignee":{"type":"ONE","entities":[]}}},
		"actions":[
		{"name":"Start","from":"Not started","to":"In progress","filterCond":"Record_number = \"1\""},
		{"name":"Complete","from":"In progress","to":"Completed","filterCond":""}]}`
	seed2Body        = `{"app":4,"records":[{"id":1,"action":"申請する","assignee":"user2","revision":1},{"id":2,"action":"承認"}]}`
	seed3Body        = `{"app":4,"id":1,"action":"申请","assignee":"user2","revision":1}`
	seed3RecordsBody = `{"app":4,"records":[{"id":1,"action":"申请","assignee":"user2","revision":1},{"id":2,"action":"批准"},{"id":3,"action":"拒绝","revision":5}]}`
)

func TestSamplesOfTheDocumentsFitTheSchemas(t *testing.T) {
	schemas := bodySchemas(t)
	for body, name := range map[string]string{
		seed1Body:        "preview-app-status.put",
		seed2Body:        "records-status.put",
		seed3Body:        "record-status.put",
		seed3RecordsBody: "records-status.put",
		`{"apps":[{"app":"1","revision":"57"},{"app":1001}],"revert":"true"}`: "preview-app-deploy.post",
	} {
		if err := fits(schemas[name], body); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// A schema that takes everything would prove nothing: each of these breaks one line of the documents.
func TestSchemasRefuse(t *testing.T) {
	schemas := bodySchemas(t)
	state := func(s string) string { return `{"app":5,"states":{"Open":` + s + `}}` }
	entity := func(s string) string {
		return state(`{"index":0,"assignee":{"type":"ONE","entities":[` + s + `]}}`)
	}
	action := func(s string) string { return `{"app":5,"actions":[` + s + `]}` }
	long := strings.Repeat("名", maxName+1)
	for name, bodies := range map[string][]string{
		"record-status.put": {
			`{}`, `{"id":1,"action":"a"}`, `{"app":4,"action":"a"}`, `{"app":4,"id":1}`, `{"app":0,"id":1,"action":"a"}`,
			`{"app":4,"id":"x","action":"a"}`, `{"app":4,"id":1,"action":""}`, `{"app":4,"id":1,"action":"` + long + `"}`,
			`{"app":4,"id":1,"action":"a","revision":-2}`, `{"app":4,"id":1,"action":"a","revision":0}`,
			`{"app":4,"id":1,"action":"a","assignee":null}`, `{"app":4,"id":1,"action":"a","assignee":["b"]}`,
			`{"app":4,"id":1,"action":"a","status":"Done"}`, `{"app":4,"id":1.5,"action":"a"}`,
		},
		"records-status.put": {
			`{"app":4}`, `{"app":4,"records":[]}`, `{"records":[{"id":1,"action":"a"}]}`, `{"app":4,"records":[{"id":1}]}`,
			`{"app":4,"records":[{"action":"a"}]}`, `{"app":4,"records":[{" id ":1,"action":"a"}]}`,
			`{"app":4,"records":[` + strings.Repeat(`{"id":1,"action":"a"},`, MaxStatusChanges) + `{"id":1,"action":"a"}]}`,
		},
		"preview-app-status.put": {
			`{}`, `{"app":5,"enable":"yes"}`, `{"app":5,"enable":1}`, `{"app":5,"states":{}}`, `{"app":5,"states":[]}`, `{"app":5,"states":null}`,
			state(`{}`), state(`{"index":-1}`), state(`{"index":"first"}`), state(`{"index":0,"name":""}`),
			state(`{"index":0,"name":"` + long + `"}`), state(`{"index":0,"color":"red"}`), state(`{"index":0,"assignee":{"type":"ONE"}}`),
			state(`{"index":0,"assignee":{"entities":[]}}`), state(`{"index":0,"assignee":{"type":"SOME","entities":[]}}`),
			entity(`{}`), entity(`{"entity":{"code":"a"}}`), entity(`{"entity":{"type":"ROBOT","code":"a"}}`),
			entity(`{"entity":{"type":"USER"}}`), entity(`{"entity":{"type":"USER","code":"a"},"includeSubs":"no"}`),
			action(`{"from":"a","to":"b"}`), action(`{"name":"x","to":"b"}`), action(`{"name":"x","from":"a"}`),
			action(`{"name":"x","from":"a","to":"b","filterCond":1}`), action(`{"name":"x","from":"a","to":"b","type":"THIRD"}`),
			action(`{"name":"x","from":"a","to":"b","executableUser":{}}`), action(`{"name":"x","from":"a","to":"b","when":"now"}`),
			`{"app":5,"revision":"latest"}`, `{"app":5,"__REQUEST_TOKEN__":"t"}`,
		},
		"preview-app-deploy.post": {
			`{}`, `{"apps":[]}`, `{"apps":[{}]}`, `{"apps":[5]}`, `{"apps":[{"app":5,"revision":-2}]}`, `{"apps":[{"app":5}],"revert":"maybe"}`,
			`{"apps":[{"app":5,"revert":true}]}`,
		},
	} {
		for _, body := range bodies {
			if err := fits(schemas[name], body); err == nil {
				t.Errorf("%s takes %s", name, body)
			}
		}
	}
}

// What kintone answered, put back as a change, is a body that kintone takes, and says the same.
func TestSettingsSurviveFromReadToChange(t *testing.T) {
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			answers(200, `{"revision":"18"}`)(w, r)
			return
		}
		answers(200, processAnswer)(w, r)
	})
	got, err := s.ProcessSettings(t.Context(), App{ID: 5}, true)
	if err != nil {
		t.Fatal(err)
	}
	revision, err := s.UpdateProcessSettings(t.Context(), App{ID: 5}, got)
	if err != nil || revision != 18 {
		t.Fatalf("the change gave %d, %v", revision, err)
	}
	all := s.requests()
	if all[0].uri != "/k/v1/preview/app/status.json?app=5&lang=default" {
		t.Errorf("asked %s", all[0].uri)
	}
	if err := fits(bodySchemas(t)["preview-app-status.put"], all[1].body); err == nil {
		var back ProcessSettings
		if err := json.Unmarshal([]byte(all[1].body), &back); err != nil || !back.Same(got) || back.Revision != 17 || back.App != 5 {
			t.Errorf("put back %s, %v", all[1].body, err)
		}
	} else {
		t.Errorf("%s\n%v", all[1].body, err)
	}
}
