package simulator_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/kintone/simulator"
)

// docs/kintone.md 2.1: errors are {code, id, message}, errors only with CB_VA01; the code is in a header as well.
func TestErrorEnvelope(t *testing.T) {
	k := newKintone(t, simulator.App{})
	a := putOne(t, k, `{"app":5,"id":1,"action":"Approve"}`)
	wantRefusal(t, a, 400, "GAIA_IL03")
	b := putOne(t, k, `{"app":5,"id":1,"action":"Approve"}`)
	if !regexp.MustCompile(`^[A-Za-z0-9]{20}$`).MatchString(a.ID) || a.ID == b.ID || a.Message == "" {
		t.Errorf("envelopes are %s and %s, want two random ids of 20 characters and a message", a.body, b.body)
	}
	if got := a.header.Get("X-Cybozu-Error"); got != "GAIA_IL03" {
		t.Errorf("X-Cybozu-Error is %q, want the code", got)
	}
	if strings.Contains(a.body, `"errors"`) {
		t.Errorf("answer %s has errors without being a validation error", a.body)
	}
}

// docs/kintone.md 2.1: messages follow Accept-Language, and without one the domain.
func TestMessagesFollowTheLanguage(t *testing.T) {
	k := newKintone(t, simulator.App{})
	japanese := regexp.MustCompile(`\p{Han}|\p{Katakana}`)
	for language, want := range map[string]bool{"ja": true, "ja-JP,en;q=0.8": true, "en-US": false, "en,ja": false, "*": false, "": false, "fr, ja": true} {
		a := putOne(t, k, `{"app":5,"id":0,"action":"Approve"}`, header("Accept-Language", language))
		if got := japanese.MatchString(a.Message) && japanese.MatchString(a.Errors["id"].Messages[0]); got != want {
			t.Errorf("with Accept-Language %q the answer is %s, want Japanese: %v", language, a.body, want)
		}
	}
	k = simulator.New(simulator.Config{Language: "ja"})
	if a := get(t, k, "/k/v1/app.json?id=5", header("Accept-Language", "")); !japanese.MatchString(a.Message) {
		t.Errorf("answer of a Japanese domain is %s", a.body)
	}
}

// docs/kintone.md 1.2: the concurrency headers are on every answer, good or bad.
func TestConcurrencyHeadersOnEveryAnswer(t *testing.T) {
	k := newKintone(t, simulator.App{})
	for _, a := range []reply{get(t, k, "/k/v1/app.json?id=5"), get(t, k, "/k/v1/app.json?id=6")} {
		if l, r := a.header.Get("X-ConcurrencyLimit-Limit"), a.header.Get("X-ConcurrencyLimit-Running"); l != "100" || r != "1" {
			t.Errorf("answer %d has limit %q and running %q, want 100 and 1", a.status, l, r)
		}
	}
}

// docs/kintone.md 1.2: request 101 of a domain gets 429 GAIA_TO04, in English, with the number running, no Retry-After,
// and is not executed.
func TestConcurrencyLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := simulator.New(simulator.Config{ConcurrencyLimit: 3, Latency: time.Second})
		k.AddApp(simulator.App{ID: 5, Tokens: []simulator.Token{simulator.ViewToken(token)}, Process: simulator.Workflow(), Records: 10})
		answers := make(chan reply, 5)
		for id := range 5 {
			go func() {
				time.Sleep(time.Duration(id) * time.Millisecond)
				answers <- putOne(t, k, fmt.Sprintf(`{"app":5,"id":%d,"action":"Start"}`, id+1), header("Accept-Language", "ja"))
			}()
		}
		for range 2 {
			a := <-answers
			wantRefusal(t, a, 429, "GAIA_TO04")
			for name, want := range map[string]string{
				"X-ConcurrencyLimit-Limit": "3", "X-ConcurrencyLimit-Running": "4", "Cache-Control": "no-store",
				"X-Cybozu-Error": "GAIA_TO04", "Retry-After": "",
			} {
				if got := a.header.Get(name); got != want {
					t.Errorf("429 has %s %q, want %q", name, got, want)
				}
			}
			if !strings.Contains(a.Message, "requests") {
				t.Errorf("text of 429 is %q, want English", a.Message)
			}
		}
		for range 3 {
			wantOK(t, <-answers)
		}
		if n, c := k.CommitCount(), k.Requests(); n != 3 || c.Peak != 3 || c.Refused != 2 || c.Codes["GAIA_TO04"] != 2 {
			t.Errorf("%d actions, counts %+v; want 3 actions, peak 3, 2 refused", n, c)
		}
		wantOK(t, putOne(t, k, `{"app":5,"id":9,"action":"Start"}`))
	})
}

// docs/kintone.md 2.3 and SEED2: validation names every bad member by index.
func TestValidation(t *testing.T) {
	k := newKintone(t, simulator.App{})
	long := strings.Repeat("長", 65)
	for body, paths := range map[string][]string{
		`{}`:                          {"app", "records"},
		`{"app":"five","records":[]}`: {"app", "records"},
		`{"app":5,"records":{}}`:      {"records"},
		`{"app":5,"records":null}`:    {"records"},
		`{"app":5,"records":[1]}`:     {"records[0]"},
		`{"app":0,"records":[{"id":1,"action":"Start"}]}`:                                      {"app"},
		`{"app":5,"records":[{"id":1,"action":"Start"},{"id":0,"action":"Start"},{"id":"x"}]}`: {"records[1].id", "records[2].id", "records[2].action"},
		`{"app":5,"records":[{"action":"Start"},{"id":1.5,"action":"Start"}]}`:                 {"records[0].id", "records[1].id"},
		`{"app":5,"records":[{"id":1e1,"action":"Start"},{"id":"01","action":"Start"}]}`:       {"records[0].id", "records[1].id"},
		`{"app":5,"records":[{"id":1,"action":""},{"id":2,"action":5}]}`:                       {"records[0].action", "records[1].action"},
		`{"app":5,"records":[{"id":1,"action":"` + long + `"}]}`:                               {"records[0].action"},
		`{"app":5,"records":[{"id":1,"action":"Start","revision":-2}]}`:                        {"records[0].revision"},
		`{"app":5,"records":[{"id":1,"action":"Start","revision":null}]}`:                      {"records[0].revision"},
		`{"app":5,"records":[{"id":1,"action":"Start","assignee":""}]}`:                        {"records[0].assignee"},
		`{"app":5,"records":[{"id":1,"action":"Start","assignee":null}]}`:                      {"records[0].assignee"},
		`{"app":5,"records":[{"id":1,"action":"Start","status":"x","ID":1}]}`:                  {"records[0].status", "records[0].ID"},
		`{"app":5,"lang":"ja","records":[{"id":1,"action":"Start"}]}`:                          {"lang"},
		`{"app":5,"records":[{"id":1,"action":"Start"},{"id":"1","action":"Start"}]}`:          {"records[1].id"},
		members(1, 101): {"records"},
	} {
		a := put(t, k, body)
		if a.Code != "CB_VA01" {
			t.Errorf("%s is answered with %s, want CB_VA01", body, a.body)
			continue
		}
		wantInvalid(t, a, paths...)
	}
	wantInvalid(t, putOne(t, k, `{"app":5,"records":[]}`), "id", "action", "records")
	wantUntouched(t, k)
}

// SEED2: 100 members are allowed, more are not (above).
func TestHundredMembers(t *testing.T) {
	k := newKintone(t, simulator.App{Records: 100})
	wantOK(t, put(t, k, members(1, 100)))
	if n := k.CommitCount(); n != 100 {
		t.Errorf("%d actions happened, want 100", n)
	}
}

// docs/kintone.md 1.3 and 2.3: what is wrong with a request before its content is looked at.
func TestFormOfRequests(t *testing.T) {
	k := newKintone(t, simulator.App{})
	good := `{"app":5,"id":1,"action":"Start"}`
	for name, c := range map[string]struct {
		request *http.Request
		code    string
	}{
		"GET with Content-Type and no body": {request("GET", "/k/v1/app.json?id=5", "", header("Content-Type", "application/json")), "CB_IL02"},
		"raw brackets in the URL":           {request("GET", "/k/v1/records.json?app=5&fields[0]=Status", ""), "CB_IL02"},
		"a parameter twice":                 {request("GET", "/k/v1/app.json?id=5&id=5", ""), "CB_IL02"},
		"PUT without Content-Type":          {request("PUT", "/k/v1/record/status.json", good, header("Content-Type", "")), "CB_IL02"},
		"PUT as text":                       {request("PUT", "/k/v1/record/status.json", good, header("Content-Type", "text/plain")), "CB_IL02"},
		"PUT with a query string":           {request("PUT", "/k/v1/record/status.json?app=5", good), "CB_IL02"},
		"PUT of an array":                   {request("PUT", "/k/v1/record/status.json", "[]"), "CB_IL02"},
		"PUT of nothing":                    {request("PUT", "/k/v1/record/status.json", "", header("Content-Type", "application/json")), "CB_IJ01"},
		"PUT of no JSON":                    {request("PUT", "/k/v1/record/status.json", `{"app":5,`), "CB_IJ01"},
		"PUT of JSON and more":              {request("PUT", "/k/v1/record/status.json", good+good), "CB_IJ01"},
		"PUT of a member twice":             {request("PUT", "/k/v1/record/status.json", `{"app":5,"id":1,"id":2,"action":"Start"}`), "CB_IJ01"},
		"PUT of bad UTF-8":                  {request("PUT", "/k/v1/record/status.json", "{\"app\":5,\"id\":1,\"action\":\"\xff\"}"), "CB_IJ01"},
		"PUT nested without end":            {request("PUT", "/k/v1/record/status.json", strings.Repeat("[", 50)+strings.Repeat("]", 50)), "CB_IJ01"},
	} {
		if a := send(t, k, c.request); a.status != 400 || a.Code != c.code {
			t.Errorf("%s is answered with %d %s, want %s", name, a.status, a.body, c.code)
		}
	}
	wantUntouched(t, k)
	wantOK(t, putOne(t, k, good, header("Content-Type", "Application/JSON; charset=utf-8")))
}

// docs/kintone.md 1.1: URLs over 8 KB are refused. What is not there is no JSON.
func TestPagesThatAreNotKintones(t *testing.T) {
	k := newKintone(t, simulator.App{})
	for name, c := range map[string]struct {
		request *http.Request
		status  int
	}{
		"a long URL":            {request("GET", "/k/v1/records.json?app=5&query="+strings.Repeat("x", 8<<10), ""), 414},
		"an API of the future":  {request("GET", "/k/v1/unicorns.json", ""), 404},
		"a wrong method":        {request("POST", "/k/v1/records/status.json", `{"app":5}`), 404},
		"an override of PUT":    {request("POST", "/k/v1/record/status.json", `{"app":5,"id":1,"action":"Start"}`, header("X-HTTP-Method-Override", "PUT")), 404},
		"another version":       {request("GET", "/k/v2/app.json?id=5", ""), 404},
		"no guest space":        {request("GET", "/k/guest/x/v1/app.json?id=5", ""), 404},
		"another root":          {request("GET", "/v1/app.json?id=5", ""), 404},
		"a body beyond reading": {request("PUT", "/k/v1/record/status.json", strings.Repeat(" ", 8<<20+1)), 413},
	} {
		a := send(t, k, c.request)
		if a.status != c.status || !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") || a.header.Get("X-ConcurrencyLimit-Limit") != "" {
			t.Errorf("%s is answered with %d %v, want a page with %d", name, a.status, a.header, c.status)
		}
	}
	wantUntouched(t, k)
}

// docs/kintone.md 4: who may ask, and with what.
func TestCredentials(t *testing.T) {
	k := newKintone(t, simulator.App{Tokens: []simulator.Token{
		simulator.ViewToken(token), {Value: "inert", View: true}, {Value: "manager", Manage: true, Activated: true}, {Value: "blind", Activated: true},
	}})
	k.AddApp(simulator.App{ID: 6, Tokens: []simulator.Token{simulator.ViewToken("other")}, Viewers: []string{"mori"}})
	tokens := func(list string) func(*http.Request) { return header("X-Cybozu-API-Token", list) }
	noToken := tokens("")
	for name, c := range map[string]struct {
		request *http.Request
		status  int
		code    string
	}{
		"a token":                        {request("GET", "/k/v1/record.json?app=5&id=1", ""), 200, ""},
		"nobody":                         {request("GET", "/k/v1/record.json?app=5&id=1", "", noToken), 401, "CB_AU01"},
		"Bearer only":                    {request("GET", "/k/v1/record.json?app=5&id=1", "", noToken, header("Authorization", "Bearer x")), 401, "CB_AU01"},
		"Basic only":                     {request("GET", "/k/v1/record.json?app=5&id=1", "", noToken, header("Authorization", "Basic x")), 401, "CB_AU01"},
		"a password":                     {request("GET", "/k/v1/record.json?app=5&id=1", "", noToken, as("sato", "sato")), 200, ""},
		"a wrong password":               {request("GET", "/k/v1/record.json?app=5&id=1", "", noToken, as("sato", "x")), 401, "CB_WA01"},
		"a wrong user":                   {request("GET", "/k/v1/record.json?app=5&id=1", "", noToken, as("nobody", "")), 401, "CB_WA01"},
		"a user without a password":      {request("GET", "/k/v1/record.json?app=5&id=1", "", noToken, as("Administrator", "")), 401, "CB_WA01"},
		"no base64":                      {request("GET", "/k/v1/record.json?app=5&id=1", "", header("X-Cybozu-Authorization", "?")), 401, "CB_WA01"},
		"a wrong password, a good token": {request("GET", "/k/v1/record.json?app=5&id=1", "", as("sato", "x")), 401, "CB_WA01"},
		"a header with no token in it":   {request("GET", "/k/v1/record.json?app=5&id=1", "", tokens(" , ")), 401, "CB_AU01"},
		"an unknown token":               {request("GET", "/k/v1/record.json?app=5&id=1", "", tokens("zzz")), 400, "GAIA_IA02"},
		"a good and an unknown token":    {request("GET", "/k/v1/record.json?app=5&id=1", "", tokens("abc,zzz")), 400, "GAIA_IA02"},
		"a token not in force yet":       {request("GET", "/k/v1/record.json?app=5&id=1", "", tokens("inert")), 400, "GAIA_IA02"},
		"a token of another app":         {request("GET", "/k/v1/record.json?app=5&id=1", "", tokens("other")), 400, "GAIA_IA02"},
		"tokens of both apps":            {request("GET", "/k/v1/record.json?app=5&id=1", "", tokens("other, abc")), 200, ""},
		"9 tokens":                       {request("GET", "/k/v1/record.json?app=5&id=1", "", tokens(strings.Repeat("abc,", 8)+"abc")), 200, ""},
		"10 tokens":                      {request("GET", "/k/v1/record.json?app=5&id=1", "", tokens(strings.Repeat("abc,", 9)+"abc")), 400, "GAIA_IA02"},
		"a token that may not view":      {request("GET", "/k/v1/record.json?app=5&id=1", "", tokens("blind")), 403, "GAIA_NO01"},
		"a token that may only manage":   {request("GET", "/k/v1/record.json?app=5&id=1", "", tokens("manager")), 403, "GAIA_NO01"},
		"the app, for who may manage":    {request("GET", "/k/v1/app.json?id=5", "", tokens("manager")), 200, ""},
		"the app, for who may nothing":   {request("GET", "/k/v1/app.json?id=5", "", tokens("blind")), 403, "GAIA_NO01"},
		"an app one may not see":         {request("GET", "/k/v1/app.json?id=6", "", noToken, as("sato", "sato")), 403, "CB_NO02"},
		"an app one may see":             {request("GET", "/k/v1/app.json?id=6", "", noToken, as("mori", "mori")), 200, ""},
		"no app":                         {request("GET", "/k/v1/app.json?id=77", ""), 404, "GAIA_AP01"},
		"credentials are checked first":  {request("PUT", "/k/v1/record/status.json", "no json", noToken), 401, "CB_AU01"},
		"validation before the app":      {request("PUT", "/k/v1/record/status.json", `{"app":77}`), 400, "CB_VA01"},
	} {
		if a := send(t, k, c.request); a.status != c.status || a.Code != c.code {
			t.Errorf("%s: answer is %d %s, want %d %s", name, a.status, a.body, c.status, c.code)
		}
	}
	if err := k.SetTokens(5); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, get(t, k, "/k/v1/app.json?id=5"), 400, "GAIA_IA02")
}

// AIRBYTE (docs/kintone.md 4): a user with a second factor cannot log in by password.
func TestSecondFactorForbidsPasswords(t *testing.T) {
	k := newKintone(t, simulator.App{})
	wantOK(t, get(t, k, "/k/v1/app.json?id=5", as("sato", "sato")))
	if err := k.SetSecondFactor("sato"); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, get(t, k, "/k/v1/app.json?id=5", as("sato", "sato")), 401, "CB_TW02")
	wantRefusal(t, get(t, k, "/k/v1/app.json?id=5", as("sato", "x")), 401, "CB_WA01")
	if k.SetSecondFactor("nobody") == nil || k.SetLanguage("nobody", "ja") == nil {
		t.Error("somebody who is no user was altered")
	}
}

// OV (docs/kintone.md 4): basic authentication is asked for on top of any other, by a page that is not kintone's.
func TestBasicAuthenticationComesOnTop(t *testing.T) {
	k := managed(t, simulator.Config{Basic: "gate:open:sesame"}, simulator.App{})
	basic := func(name, password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(name, password) }
	}
	for name, a := range map[string]reply{
		"no basic authentication": get(t, k, "/k/v1/app.json?id=5"),
		"another password":        get(t, k, "/k/v1/app.json?id=5", basic("gate", "open")),
	} {
		if a.status != 401 || a.Code != "" || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Basic") {
			t.Errorf("%s is answered with %d %s, want a page with 401", name, a.status, a.body)
		}
	}
	wantOK(t, get(t, k, "/k/v1/app.json?id=5", basic("gate", "open:sesame")))
	wantRefusal(t, get(t, k, "/k/v1/app.json?id=5", basic("gate", "open:sesame"), header("X-Cybozu-API-Token", "")), 401, "CB_AU01")
}

// docs/kintone.md 2.3 and 4: apps of guest spaces have a path of their own.
func TestGuestSpaces(t *testing.T) {
	k := newKintone(t, simulator.App{GuestSpace: 3})
	k.AddApp(simulator.App{ID: 6, Tokens: []simulator.Token{simulator.ViewToken("other")}})
	wantOK(t, get(t, k, "/k/guest/3/v1/app.json?id=5"))
	wantOK(t, send(t, k, request("PUT", "/k/guest/3/v1/records/status.json", members(1, 3))))
	wantRefusal(t, get(t, k, "/k/v1/app.json?id=5"), 400, "GAIA_IL23")
	wantRefusal(t, get(t, k, "/k/guest/4/v1/app.json?id=5"), 403, "CB_NO02")
	wantRefusal(t, get(t, k, "/k/guest/3/v1/app.json?id=6", header("X-Cybozu-API-Token", "other")), 403, "CB_NO02")
}

// docs/kintone.md 5: the settings as GET app/status.json gives them; index is a string, CREATOR has no code.
func TestProcessSettings(t *testing.T) {
	p := simulator.Process{
		Enabled: true,
		States: []simulator.State{{Name: "New"}, {Name: "Check", AssigneeType: simulator.All,
			Entities: []simulator.Entity{simulator.User("sato"), {Type: "CREATOR"}, {Type: "ORGANIZATION", Code: "sales", IncludeSubs: true}}}},
		Actions: []simulator.Action{
			{Name: "Go", From: "New", To: "Check", FilterCond: `$id > 3`},
			{Name: "Back", From: "Check", To: "New", Secondary: true, Executable: []simulator.Entity{simulator.User("mori")}}},
	}
	k := newKintone(t, simulator.App{Process: p})
	a := get(t, k, "/k/v1/app/status.json?app=5&lang=user")
	want := `{"enable":true,"states":{` +
		`"Check":{"name":"Check","index":"1","assignee":{"type":"ALL","entities":[` +
		`{"entity":{"type":"USER","code":"sato"},"includeSubs":false},{"entity":{"type":"CREATOR","code":null},"includeSubs":false},` +
		`{"entity":{"type":"ORGANIZATION","code":"sales"},"includeSubs":true}]}},` +
		`"New":{"name":"New","index":"0","assignee":{"type":"ONE","entities":[]}}},` +
		`"actions":[{"name":"Go","from":"New","to":"Check","filterCond":"$id \u003e 3","type":"PRIMARY"},` +
		`{"name":"Back","from":"Check","to":"New","filterCond":"","type":"SECONDARY","executableUser":{"entities":[` +
		`{"entity":{"type":"USER","code":"mori"},"includeSubs":false}]}}],"revision":"1"}`
	if a.body != want {
		t.Errorf("settings are\n%s, want\n%s", a.body, want)
	}
	wantInvalid(t, get(t, k, "/k/v1/app/status.json?app=5&lang=fr"), "lang")
	wantInvalid(t, get(t, k, "/k/v1/app/status.json"), "app")
}

// The fields of an app go by their own codes; docs/kintone.md 3: the status field is the one of type STATUS.
func TestFieldCodes(t *testing.T) {
	k := newKintone(t, simulator.App{
		StatusField: "ステータス", AssigneeField: "作業者", ModifierField: "更新者", RecordNumberField: "番号", AppCode: "ORD",
		Fields: []simulator.Field{{Code: "code", Type: "SINGLE_LINE_TEXT"}},
	})
	a := get(t, k, "/k/v1/app/form/fields.json?app=5&lang=ja")
	for _, want := range []string{
		`"ステータス":{"type":"STATUS","code":"ステータス","label":"ステータス","enabled":true}`, `"作業者":{"type":"STATUS_ASSIGNEE"`,
		`"更新者":{"type":"MODIFIER"`, `"番号":{"type":"RECORD_NUMBER"`, `"code":{"type":"SINGLE_LINE_TEXT"`, `"revision":"1"`,
	} {
		if !strings.Contains(a.body, want) {
			t.Errorf("fields are %s, want %s in them", a.body, want)
		}
	}
	a = get(t, k, "/k/v1/record.json?app=5&id=2")
	for _, want := range []string{
		`"$id":{"type":"__ID__","value":"2"}`, `"$revision":{"type":"__REVISION__","value":"1"}`, `"番号":{"type":"RECORD_NUMBER","value":"ORD-2"}`,
		`"ステータス":{"type":"STATUS","value":"Not started"}`, `"作業者":{"type":"STATUS_ASSIGNEE","value":[]}`,
		`"更新者":{"type":"MODIFIER","value":{"code":"Administrator","name":"Administrator"}}`, `"code":{"type":"SINGLE_LINE_TEXT","value":""}`,
	} {
		if !strings.Contains(a.body, want) {
			t.Errorf("record is %s, want %s in it", a.body, want)
		}
	}
	if a := get(t, k, "/k/v1/app.json?id=5"); !strings.Contains(a.body, `"appId":"5"`) || !strings.Contains(a.body, `"spaceId":null`) {
		t.Errorf("app is %s", a.body)
	}
	wantRefusal(t, get(t, k, "/k/v1/record.json?app=5&id=77"), 404, "GAIA_RE01")
	wantInvalid(t, get(t, k, "/k/v1/app.json?app=5"), "id", "app")
}

// docs/kintone.md 1.2: the day of the quota begins at 09:00 JST, which is 00:00 UTC; calls past it are not refused.
func TestDayCounterTurnsAtMidnightUTC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at midnight UTC, 2000-01-01
		k := newKintone(t, simulator.App{})
		k.AddApp(simulator.App{ID: 6, Tokens: []simulator.Token{simulator.ViewToken("other")}})
		for range 3 {
			get(t, k, "/k/v1/app.json?id=5")
		}
		putOne(t, k, `{"app":5,"id":1,"action":"Nothing"}`)
		get(t, k, "/k/v1/app.json?id=6")
		get(t, k, "/k/v1/app.json?id=777")
		time.Sleep(24*time.Hour - time.Nanosecond)
		if c := k.Requests(); c.Day != "2000-01-01" || c.Today[5] != 4 || c.Today[6] != 1 || len(c.Today) != 2 {
			t.Errorf("counts of the first day are %+v, want 4 and 1", c)
		}
		time.Sleep(time.Nanosecond)
		get(t, k, "/k/v1/app.json?id=5")
		c := k.Requests()
		if c.Day != "2000-01-02" || c.Today[5] != 1 || c.Busiest[5] != 4 || c.Total != 7 || c.Kinds["GET app.json"] != 6 || c.Kinds["PUT record/status.json"] != 1 {
			t.Errorf("counts of the second day are %+v", c)
		}
	})
}

// Escapes, spaces and numbers of JSON mean what they mean everywhere.
func TestJSONIsReadAsJSON(t *testing.T) {
	k := newKintone(t, simulator.App{Fields: []simulator.Field{{Code: `a"b`, Type: "SINGLE_LINE_TEXT"}}})
	body := "\n{ \"app\" : 5 ,\t\"records\" : [ {\"\\u0069d\":\"1\" , \"action\":\"\\u0053tart\",\"revision\":-1}\r\n, {\"action\":\"Start\",\"id\":2} ] } "
	wantOK(t, put(t, k, body))
	wantRecord(t, k, 1, 3, "In progress")
	wantRecord(t, k, 2, 3, "In progress")
	a := send(t, k, request("POST", "/k/v1/records.json", `{"fields":["a\"b"],"app":5,"totalCount":false,"query":"limit 1"}`, header("X-HTTP-Method-Override", "GET")))
	if want := `{"records":[{"a\"b":{"type":"SINGLE_LINE_TEXT","value":""}}],"totalCount":null}`; a.body != want {
		t.Errorf("answer is %s, want %s", a.body, want)
	}
}

// Any body may be sent: what is no JSON is CB_IJ01, and the rest gets one of kintone's other answers. As a call in a
// bulkRequest it gets the same answer as alone, and nothing is left of the calls around it if that is a refusal.
func FuzzBody(f *testing.F) {
	for _, seed := range []string{members(1, 2), `{"a":{"b":[1,-2.5e3,"x\n\\",true,false,null,[],{}]}}`, `{"app":5,"app":5}`, `"\ud800"`, `[[[[`, "{}\xff",
		`{"app":5,"records":[{"id":9,"action":"Start"}]}`, `{"requests":[` + act(1, "Start", "") + `,{}]}`, `{"requests":[` + act(1, "Start", "") + `]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) == 0 {
			return
		}
		k := newKintone(t, simulator.App{})
		a := put(t, k, string(body))
		if a.status != 200 && a.Code == "" {
			t.Errorf("%q is answered with %d %s", body, a.status, a.body)
		}
		if !json.Valid(body) && a.Code != "CB_IJ01" {
			t.Errorf("%q is no JSON and answered with %s", body, a.body)
		}
		var members map[string]json.RawMessage
		isObject := json.Unmarshal(body, &members) == nil && members != nil
		if isObject && a.Code == "CB_IL02" {
			t.Errorf("%q is an object and answered with %s", body, a.body)
		}

		k = newKintone(t, simulator.App{})
		whole := send(t, k, request("POST", "/k/v1/bulkRequest.json", string(body)))
		if ran := strings.Contains(whole.body, `"results"`); whole.status != 200 && whole.status != 404 && whole.Code == "" && !ran {
			t.Errorf("as a bulkRequest %q is answered with %d %s", body, whole.status, whole.body)
		}
		if n := k.CommitCount(); whole.status != 200 && n != 0 {
			t.Errorf("as a bulkRequest %q is answered with %d after %d actions", body, whole.status, n)
		}
		if !isObject || a.Code == "CB_IJ01" {
			return
		}
		k = newKintone(t, simulator.App{})
		in := bulk(t, k, []string{act(10, "Start", ""), one("PUT", "records/status.json", string(body)), act(10, "Approve", `,"revision":3`)})
		switch {
		case a.status == 200 && strings.Contains(a.body, `"id":"10"`): // the calls around it want the same record
		case a.status == 200 && (in.status != 200 || !strings.Contains(in.body, a.body)):
			t.Errorf("%q is answered with %s, and in a bulkRequest with %s", body, a.body, in.body)
		case a.status != 200 && (in.status != a.status || !strings.Contains(in.body, `{"results":[{},{"code":"`+a.Code+`"`)) && in.Code != "CB_IJ01":
			t.Errorf("%q is answered with %d %s, and in a bulkRequest with %d %s", body, a.status, a.body, in.status, in.body)
		case in.status != 200 && k.CommitCount() > 0:
			t.Errorf("%q leaves %+v of a bulkRequest that was refused", body, k.Commits())
		}
	})
}
