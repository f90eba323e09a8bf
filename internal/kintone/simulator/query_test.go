package simulator_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"statusq/internal/kintone/simulator"
)

// library is an app of ten records to ask about.
func library(t *testing.T) *simulator.Kintone {
	t.Helper()
	k := newKintone(t, simulator.App{AppCode: "LIB", Fields: []simulator.Field{
		{Code: "code", Type: "SINGLE_LINE_TEXT", Default: func(record int64) string { return fmt.Sprintf("C-%d", record) }},
		{Code: "数量", Type: "NUMBER"}, {Code: "due", Type: "DATE"}, {Code: "owner", Type: "USER_SELECT"}, {Code: "note", Type: "MULTI_LINE_TEXT"},
		{Code: "at", Type: "DATETIME"}, {Code: "from", Type: "TIME"}, {Code: "site", Type: "LINK"}, {Code: "sum", Type: "CALC"},
		{Code: "kind", Type: "DROP_DOWN", Options: []string{"A", "B"}},
		{Code: "team", Type: "ORGANIZATION_SELECT"}, {Code: "＄額_・", Type: "NUMBER"},
		{Code: "part", Type: "SINGLE_LINE_TEXT", Table: "lines"}, {Code: "count", Type: "NUMBER", Table: "lines"},
	}})
	k.AddOrganization("sales")
	mustPut(t, k, 1, func(r *simulator.RecordState) { r.Fields["数量"], r.Fields["due"] = "10", "2026-11-22" })
	mustPut(t, k, 2, func(r *simulator.RecordState) { r.Fields["数量"], r.Fields["owner"] = "9.50", "sato,mori" })
	mustPut(t, k, 3, func(r *simulator.RecordState) { r.Fields["code"], r.Status = `say "a\b"`, "Completed" })
	mustPut(t, k, 4, func(r *simulator.RecordState) { r.Fields["code"], r.Assignees = "", []string{"mori"} })
	mustPut(t, k, 5, func(r *simulator.RecordState) {
		r.Fields["at"], r.Fields["from"], r.Fields["site"], r.Fields["sum"] = "2026-11-22T01:30:00Z", "09:30", "https://a.example/?b=1", "-0.50"
		r.Fields["part"], r.Fields["count"] = "bolt\nnut", "4\n10.0"
	})
	mustPut(t, k, 8, func(r *simulator.RecordState) { r.Fields["part"] = "nut" })
	if err := k.Delete(5, 6); err != nil {
		t.Fatal(err)
	}
	mustPut(t, k, 7, func(r *simulator.RecordState) { r.Hidden = true })
	return k
}

// found returns the ids of an answer, in its order.
func found(t *testing.T, a reply) []string {
	t.Helper()
	var page struct {
		Records []map[string]struct {
			Value any `json:"value"`
		} `json:"records"`
	}
	wantOK(t, a)
	if err := json.Unmarshal([]byte(a.body), &page); err != nil {
		t.Fatalf("answer %s: %v", a.body, err)
	}
	ids := []string{}
	for _, r := range page.Records {
		ids = append(ids, r["$id"].Value.(string))
	}
	return ids
}

// docs/kintone.md 6.
func TestQueries(t *testing.T) {
	k := library(t)
	for query, want := range map[string]string{
		``:                                       "10 9 8 5 4 3 2 1",
		`order by $id asc`:                       "1 2 3 4 5 8 9 10",
		`order by $id`:                           "10 9 8 5 4 3 2 1",
		`order by $id asc limit 2`:               "1 2",
		`order by $id asc limit 2 offset 3`:      "4 5",
		`limit 1`:                                "10",
		`$id in (3, 1, "2", 6, 7, 99, 1)`:        "3 2 1",
		`$id in (1,2,3,4,5,6,7,8,9) and $id > 5`: "9 8",
		`$id = 4`:                                "4",
		`$id != 4 and $id < 6 order by $id asc`:  "1 2 3 5",
		`$id >= 9`:                               "10 9",
		`$id <= 2`:                               "2 1",
		`$id > 3 and $id not in (5, 8)`:          "10 9 4",
		`Record_number = "LIB-2"`:                "2",
		`Record_number in (1, "LIB-3")`:          "3 1",
		`code = "C-5"`:                           "5",
		`code in ("C-5", "c-1", "C-1")`:          "5 1",
		`code = "c-5"`:                           "",
		`code = "Ｃ-5"`:                           "",
		`code = "say \"a\\b\""`:                  "3",
		`code in ("")`:                           "4",
		`code != "C-5" and $id in (4, 5)`:        "4",
		`数量 = 9.5`:                               "2",
		`数量 in ("10.0", "9.5")`:                  "2 1",
		`数量 > 9.5`:                               "1",
		`数量 in ("") and $id < 4`:                 "3",
		`数量 = 10 or code = "C-5" and $id > 100`:  "1",
		`(数量 = 10 or code = "C-5") and $id > 1`:  "5",
		`Status = "Completed"`:                   "3",
		`Status in ("Completed", "In progress")`: "3",
		`Status not in ("Not started")`:          "3",
		`due = "2026-11-22"`:                     "1",
		`due > "2026-01-01"`:                     "1",
		`owner in ("mori")`:                      "2",
		`owner not in ("mori") and $id <= 2`:     "1",
		`Assignee in ("mori")`:                   "4",
		`Assignee in ("") and $id in (3, 4)`:     "3",
		`数量 != "" order by 数量 asc`:               "2 1",
		`$id < 4 ORDER BY code asc, $id desc`:    "1 2 3",
		`$id > 8 AND (code = "C-9")`:             "9",

		// Keys of each type, as many as one likes, in the pages of a look-up.
		`(code in ("C-10", "C-8", "C-999")) and $id > 8 order by $id asc limit 500`: "10",
		`数量 in (10, "9.500", 7) order by $id asc`:                                   "1 2",
		`sum = -0.5`:                       "5",
		`site = "https://a.example/?b=1"`:  "5",
		`at = "2026-11-22T01:30:00Z"`:      "5",
		`at = "2026-11-22T10:30:00+09:00"`: "5",
		`at < "2026-11-22T10:30:01+09:00"`: "5",
		`from = "09:30"`:                   "5",
		`from >= "09:31"`:                  "",
		`due = ""  and $id < 3`:            "2",
		`due = "2026-11-22" or due = "2026-11-23" or code = "C-9" order by $id asc`: "1 9",
		`Record_number in ("LIB-9", "3") and $id > 3`:                               "9",
		`＄額_・ in ("")  and $id > 9`:                                                 "10",
		`team in ("sales")`:                                                         "",

		`kind in ("", "A") and $id > 9`: "10",

		// In a table one row is enough; not in wants all rows, and at least one.
		`part in ("nut")`:       "8 5",
		`part in ("bolt", "x")`: "5",
		`part not in ("bolt")`:  "8",
		`count in (10)`:         "5",
		`count not in (10)`:     "",
	} {
		ids := found(t, get(t, k, "/k/v1/records.json?app=5&query="+url.QueryEscape(query)))
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%s finds %q, want %q", query, got, want)
		}
	}
}

// docs/kintone.md 2.3 and 6: what queries are refused for.
func TestBadQueries(t *testing.T) {
	k := library(t)
	for query, code := range map[string]string{
		`$id in ()`:                      "CB_VA01",
		`$id in (1`:                      "CB_VA01",
		`$id = `:                         "CB_VA01",
		`$id == 1`:                       "CB_VA01",
		`$id = "LIB-1"`:                  "CB_VA01",
		`$id = 1 $id = 2`:                "CB_VA01",
		`$id = 1 and`:                    "CB_VA01",
		`code = 'C-1'`:                   "CB_VA01",
		"code = \"C\t1\"":                "CB_VA01",
		`code = "C-1`:                    "CB_VA01",
		`code = "\x"`:                    "CB_VA01",
		`"code" = "C-1"`:                 "CB_VA01",
		`code like "C"`:                  "CB_VA01",
		`owner in (LOGINUSER())`:         "CB_VA01",
		`数量 = "ten"`:                     "CB_VA01",
		`limit 5 order by $id asc`:       "CB_VA01",
		`limit -1`:                       "CB_VA01",
		`offset x`:                       "CB_VA01",
		`(($id = 1)`:                     "CB_VA01",
		`limit 0`:                        "GAIA_QU01",
		`limit 501`:                      "GAIA_QU01",
		`offset 10001`:                   "GAIA_QU02",
		`code > "C-1"`:                   "GAIA_IQ03",
		`due in ("2026-11-22")`:          "GAIA_IQ03",
		`owner = "sato"`:                 "GAIA_IQ03",
		`note = "x"`:                     "GAIA_IQ03",
		`Status = "Nowhere"`:             "GAIA_IQ10",
		`nothing = "x"`:                  "GAIA_IQ11",
		`order by nothing asc`:           "GAIA_IQ11",
		`owner in ("nobody")`:            "GAIA_IL26",
		`team in ("nobody")`:             "GAIA_IL28",
		`kind in ("C")`:                  "GAIA_IQ10",
		`kind = "A"`:                     "GAIA_IQ03",
		`part = "nut"`:                   "GAIA_IQ07",
		`count > 3`:                      "GAIA_IQ07",
		`lines.part in ("nut")`:          "GAIA_IR02",
		`lines in ("nut")`:               "GAIA_IQ03",
		`order by part asc`:              "CB_VA01",
		`at in ("2026-11-22T01:30:00Z")`: "GAIA_IQ03",
		`due = "22.11.2026"`:             "CB_VA01",
		`due = "2026-02-30"`:             "CB_VA01",
		`due = 20261122`:                 "CB_VA01",
		`at = "2026-11-22"`:              "CB_VA01",
		`at = "2026-11-22T01:30:00"`:     "CB_VA01",
		`from = "9.30"`:                  "CB_VA01",
		`code = 5`:                       "CB_VA01",
		`code in ("C-1", 5)`:             "CB_VA01",
		`数量 = "1e3"`:                     "CB_VA01",
		`数量 = "１０"`:                      "CB_VA01",
		`Record_number = "XYZ-2"`:        "CB_VA01",
		`Record_number = "lib-2"`:        "CB_VA01",
		`$id in ("")`:                    "CB_VA01",
	} {
		a := get(t, k, "/k/v1/records.json?app=5&query="+url.QueryEscape(query))
		if a.status != 400 || a.Code != code {
			t.Errorf("%s is answered with %d %s, want %s", query, a.status, a.body, code)
		}
		if code == "CB_VA01" && len(a.Errors["query"].Messages) == 0 {
			t.Errorf("%s is answered with %s, want the query named", query, a.body)
		}
	}
}

// Look-ups by key stay right when values change, and records come and go.
func TestKeysFollowTheRecords(t *testing.T) {
	k := library(t)
	want := func(query, ids string) {
		t.Helper()
		if got := strings.Join(found(t, get(t, k, "/k/v1/records.json?app=5&query="+url.QueryEscape(query))), " "); got != ids {
			t.Errorf("%s finds %q, want %q", query, got, ids)
		}
	}
	want(`code = "C-9"`, "9")
	want(`part in ("washer")`, "")
	mustPut(t, k, 9, func(r *simulator.RecordState) { r.Fields["code"], r.Fields["part"] = "C-8", "nut\nwasher" })
	mustPut(t, k, 33, func(r *simulator.RecordState) { r.Fields["code"] = "C-8" })
	want(`code = "C-9"`, "")
	want(`code = "C-8"`, "33 9 8")
	want(`code in ("C-8", "C-10") order by $id asc limit 3`, "8 9 10")
	want(`part in ("washer")`, "9")
	if err := k.Delete(5, 8); err != nil {
		t.Fatal(err)
	}
	mustPut(t, k, 9, func(r *simulator.RecordState) { r.Fields["code"], r.Fields["part"] = "C-9", "" })
	want(`code in ("C-8", "C-9")`, "33 9")
	want(`part in ("washer")`, "")
}

// docs/kintone.md 6: tables are in the form with their fields below them, and in records by rows.
func TestTables(t *testing.T) {
	k := library(t)
	if a := get(t, k, "/k/v1/app/form/fields.json?app=5"); !strings.Contains(a.body, `"lines":{"type":"SUBTABLE","code":"lines","label":"lines","noLabel":false,"fields":{"count":{"type":"NUMBER"`) ||
		strings.Count(a.body, `"code":"part"`) != 1 {
		t.Errorf("form is %s", a.body)
	}
	a := get(t, k, "/k/v1/record.json?app=5&id=5")
	want := `"lines":{"type":"SUBTABLE","value":[{"id":"1","value":{"count":{"type":"NUMBER","value":"4"},"part":{"type":"SINGLE_LINE_TEXT","value":"bolt"}}},` +
		`{"id":"2","value":{"count":{"type":"NUMBER","value":"10.0"},"part":{"type":"SINGLE_LINE_TEXT","value":"nut"}}}]}`
	if !strings.Contains(a.body, want) || strings.Count(a.body, `"part"`) != 2 {
		t.Errorf("record is %s, want %s in it", a.body, want)
	}
}

// docs/kintone.md 1.1: default limit 100, totalCount null unless asked for.
func TestPagesAndTotals(t *testing.T) {
	k := newKintone(t, simulator.App{Records: 1234})
	if ids := found(t, get(t, k, "/k/v1/records.json?app=5")); len(ids) != 100 || ids[0] != "1234" || ids[99] != "1135" {
		t.Errorf("first page has %d records from %s, want 100 from 1234", len(ids), ids[0])
	}
	last, pages := "0", 0
	for {
		q := url.QueryEscape("($id > 0) and $id > " + last + " order by $id asc limit 500")
		a := get(t, k, "/k/v1/records.json?app=5&query="+q)
		if !strings.HasSuffix(a.body, `"totalCount":null}`) {
			t.Fatalf("answer ends with %q, want no total", a.body[len(a.body)-40:])
		}
		ids := found(t, a)
		if pages++; len(ids) < 500 {
			if pages != 3 || len(ids) != 234 || ids[233] != "1234" {
				t.Errorf("page %d ends with %d records", pages, len(ids))
			}
			break
		}
		last = ids[499]
	}
	for query, want := range map[string]string{"limit 1": "1234", "$id > 1000 limit 1": "234", "order by Updated_by asc limit 1": "1234"} {
		a := get(t, k, "/k/v1/records.json?app=5&totalCount=true&query="+url.QueryEscape(query))
		if !strings.HasSuffix(a.body, `"totalCount":"`+want+`"}`) {
			t.Errorf("%s counts %q, want %s", query, a.body[len(a.body)-40:], want)
		}
	}
}

// docs/kintone.md 1.1 and 1.3: parameters in a body, by GET or by POST with an override; 100 fields in a URL, 1000 in a
// body.
func TestParametersInABody(t *testing.T) {
	k := newKintone(t, simulator.App{})
	body := `{"app":5,"query":"$id in (2, 3)","fields":["$id","Status","nothing"],"totalCount":true}`
	want := `{"records":[{"$id":{"type":"__ID__","value":"3"},"Status":{"type":"STATUS","value":"Not started"}},` +
		`{"$id":{"type":"__ID__","value":"2"},"Status":{"type":"STATUS","value":"Not started"}}],"totalCount":"2"}`
	override := header("X-HTTP-Method-Override", "GET")
	if a := send(t, k, request("POST", "/k/v1/records.json", body, override)); a.body != want {
		t.Errorf("POST is answered with %s, want %s", a.body, want)
	}
	if a := send(t, k, request("GET", "/k/v1/records.json", body)); a.body != want {
		t.Errorf("GET is answered with %s, want %s", a.body, want)
	}
	inURL := "app=5&query=" + url.QueryEscape("$id in (2,3)") + "&totalCount=true&" +
		url.QueryEscape("fields[0]") + "=%24id&" + url.QueryEscape("fields[1]") + "=Status"
	if a := get(t, k, "/k/v1/records.json?"+inURL); a.body != want {
		t.Errorf("GET with a query string is answered with %s, want %s", a.body, want)
	}
	wantInvalid(t, get(t, k, "/k/v1/records.json?app=5&fields=%24id"), "fields")
	wantInvalid(t, get(t, k, "/k/v1/records.json?app=5&fields%5B100%5D=%24id"), "fields[100]")
	wantInvalid(t, get(t, k, "/k/v1/records.json?app=5&totalCount=1"), "totalCount")
	many := `{"app":5,"fields":["$id"` + strings.Repeat(`,"$id"`, 1000) + `]}`
	wantInvalid(t, send(t, k, request("POST", "/k/v1/records.json", many, override)), "fields")
	wantInvalid(t, send(t, k, request("POST", "/k/v1/records.json", `{"app":5,"query":5,"fields":"$id","size":1}`, override)), "query", "fields", "size")
}

// Any text may be asked for: the query either is refused or finds what it says.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{`$id in (1,2) and code = "a\"b" order by $id asc limit 5 offset 1`, `((`, `数量 >= -1.5 or not in`, `"`, `due = "2026-11-22" or part in ("x")`} {
		f.Add(seed)
	}
	k := simulator.New(simulator.Config{})
	k.AddApp(simulator.App{ID: 5, Records: 20, Process: simulator.Workflow(), Tokens: []simulator.Token{simulator.ViewToken(token)},
		Fields: []simulator.Field{{Code: "code", Type: "SINGLE_LINE_TEXT"}, {Code: "数量", Type: "NUMBER"}, {Code: "due", Type: "DATE"},
			{Code: "part", Type: "SINGLE_LINE_TEXT", Table: "lines"}}})
	f.Fuzz(func(t *testing.T, query string) {
		body, err := json.Marshal(map[string]any{"app": 5, "query": query})
		if err != nil {
			t.Fatal(err)
		}
		a := send(t, k, request("POST", "/k/v1/records.json", string(body), header("X-HTTP-Method-Override", "GET")))
		switch a.status {
		case 400:
			if a.Code == "" {
				t.Errorf("refusal %s has no code", a.body)
			}
		case 200:
			ids := found(t, a)
			if slices.Sort(ids); len(slices.Compact(ids)) != len(ids) {
				t.Errorf("%q finds records twice: %q", query, ids)
			}
		default:
			t.Errorf("%q is answered with %d %s", query, a.status, a.body)
		}
	})
}
