package kintone

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"
)

// Every row of the code table (docs/kintone.md 2.3), with the HTTP statuses recorded for it and the texts where one is
// parsed. Rows whose text names nobody must name nobody (docs/kintone.md 2.2).
var refusals = []struct {
	statuses []int
	code     string
	message  string // "" for one that names nobody
	errors   string // the errors member, for CB_VA01
	indexes  []int
	records  []int64
	user     string
}{
	{statuses: []int{400}, code: "CB_VA01", message: "Missing or invalid input.",
		errors:  `{"records[3].id":{"messages":["must be greater than or equal to 1"]},"records[0].action":{"messages":["Required field."]},"records[3].revision":{"messages":["a","b"]},"records[12].assignee":{"messages":[]}}`,
		indexes: []int{0, 3, 12}},
	{statuses: []int{400}, code: "CB_VA01", message: "Missing or invalid input.", // over 100 records (LABS)
		errors: `{"records":{"messages":["A maximum of 100 records can be updated at one time."]}}`},
	{statuses: []int{400}, code: "CB_VA01", message: "x", // of the call for one record: no positions (LABS)
		errors: `{"id":{"messages":["must be greater than or equal to 1"]},"action":{"messages":["Required field."]}}`},
	{statuses: []int{400}, code: "CB_VA01", message: "x", errors: `"{}"`}, // recorded once as a string (LABS)
	{statuses: []int{400}, code: "CB_IJ01"},
	{statuses: []int{400, 520}, code: "CB_IL02"},
	{statuses: []int{401}, code: "CB_AU01"},
	{statuses: []int{401}, code: "CB_WA01"},
	{statuses: []int{401}, code: "CB_TW02"},
	{statuses: []int{403}, code: "CB_NO02"},
	{statuses: []int{403, 520}, code: "GAIA_NO01"},
	{statuses: []int{400, 520}, code: "GAIA_IA02"},
	{statuses: []int{403}, code: "GAIA_AP15"},
	{statuses: []int{404, 400}, code: "GAIA_AP01", message: "The app (ID: 444444) not found. The app may have been deleted."},
	{statuses: []int{400, 520}, code: "GAIA_IL23"},
	{statuses: []int{404}, code: "GAIA_RE01", message: "The specified record (ID: 4444) is not found.", records: []int64{4444}},
	{statuses: []int{404}, code: "GAIA_RE01", message: "指定したレコード（id: 4444）が見つかりません。", records: []int64{4444}},
	{statuses: []int{404}, code: "GAIA_RE01", message: "(ID：9) (ID: 7) (ID: 9)", records: []int64{7, 9}},
	{statuses: []int{404}, code: "GAIA_RE01", message: "(ID: 99999999999999999999) (ID: 0) (paid: 3)"},
	{statuses: []int{400}, code: "GAIA_IL03"},
	{statuses: []int{400, 520}, code: "GAIA_ST02"},
	{statuses: []int{400, 403, 520}, code: "GAIA_SA01"},
	{statuses: []int{400, 520}, code: "GAIA_SA04"},
	{statuses: []int{403}, code: "GAIA_NT01"},
	{statuses: []int{400, 520}, code: "GAIA_IL26", message: "The specified user (code：unexist_user) not found.", user: "unexist_user"},
	{statuses: []int{400}, code: "GAIA_IL26", message: "指定したユーザー（code：佐藤(2)）が見つかりません。", user: "佐藤(2)"},
	{statuses: []int{400}, code: "GAIA_IL26", message: "指定したユーザー(code:a b)が見つかりません。", user: "a b"},
	{statuses: []int{400}, code: "GAIA_IL28", message: "指定した組織(code:eigyo)が見つかりません。"},
	{statuses: []int{409}, code: "GAIA_CO02"},
	{statuses: []int{409}, code: "GAIA_CO03"},
	{statuses: []int{409}, code: "GAIA_UN03"},
	{statuses: []int{400, 520}, code: "GAIA_DA02"},
	{statuses: []int{400}, code: "GAIA_RE18"},
	{statuses: []int{400}, code: "GAIA_LT01"},
	{statuses: []int{429}, code: "GAIA_TO04"}, // an admission refusal: nothing was run (docs/kintone.md 1.2)
	{statuses: []int{429}, code: "GAIA_TM12"},
	{statuses: []int{404}, code: "GAIA_CN01"},
	{statuses: []int{400}, code: "GAIA_TO03"},
	{statuses: []int{400}, code: "GAIA_QU01"},
	{statuses: []int{400}, code: "GAIA_QU02"},
	{statuses: []int{400}, code: "GAIA_IQ03"},
	{statuses: []int{400}, code: "GAIA_IQ07"},
	{statuses: []int{400}, code: "GAIA_IQ10"},
	{statuses: []int{400}, code: "GAIA_IQ11"},
	{statuses: []int{400}, code: "GAIA_IQ23"},
	{statuses: []int{400}, code: "GAIA_IQ25"},
	{statuses: []int{400}, code: "GAIA_IL08"},
	{statuses: []int{400}, code: "GAIA_IR02"},
	{statuses: []int{400}, code: "GAIA_UN10"},
	{statuses: []int{404}, code: "GAIA_RE20"},
	{statuses: []int{400}, code: "GAIA_IQ27"},
	{statuses: []int{403}, code: "GAIA_NO02"},
}

func TestParseErrorReadsEveryRefusal(t *testing.T) {
	for _, row := range refusals {
		for _, status := range row.statuses {
			message := row.message
			if message == "" {
				message = "Some text with (a) bracket, id and code but nobody named."
			}
			body := fmt.Sprintf(`{"code":%q,"id":"1505999166-897850006","message":%q}`, row.code, message)
			if row.errors != "" {
				body = strings.TrimSuffix(body, "}") + `,"errors":` + row.errors + `}`
			}
			e := parseError(status, "application/json", []byte(body), true, strings.Clone)
			name := fmt.Sprintf("%s with %d, %q", row.code, status, message)
			if e.Status != status || e.Code != row.code || e.Message != message || e.ID != "1505999166-897850006" {
				t.Errorf("%s was read as %d %s %q %q", name, e.Status, e.Code, e.Message, e.ID)
			}
			if e.MayHaveActed || e.NotSent {
				t.Errorf("%s: MayHaveActed %v, NotSent %v; a refusal is neither", name, e.MayHaveActed, e.NotSent)
			}
			if !slices.Equal(e.Indexes, row.indexes) {
				t.Errorf("%s names the members %v, want %v", name, e.Indexes, row.indexes)
			}
			if !slices.Equal(e.Records, row.records) {
				t.Errorf("%s names the records %v, want %v", name, e.Records, row.records)
			}
			if e.User != row.user {
				t.Errorf("%s names the user %q, want %q", name, e.User, row.user)
			}
		}
	}
}

func TestParseErrorKeepsComplaintsByPath(t *testing.T) {
	e := parseError(400, "application/json", []byte(`{"code":"CB_VA01","id":"x","message":"m","errors":{
		"records[1].id":{"messages":["one","two"]}, "odd":"shape", "query":{"messages":["three"]}}}`), true, strings.Clone)
	want := map[string][]string{"records[1].id": {"one", "two"}, "query": {"three"}}
	if !reflect.DeepEqual(e.Errors, want) {
		t.Errorf("Errors is %v, want %v", e.Errors, want)
	}
	// The errors member comes with CB_VA01 only (docs/kintone.md 2.1); under another code it is not trusted.
	e = parseError(400, "application/json", []byte(`{"code":"GAIA_IL03","errors":{"records[1].id":{"messages":["one"]}}}`), true, strings.Clone)
	if e.Errors != nil || e.Indexes != nil {
		t.Errorf("GAIA_IL03 names %v at %v, want nobody", e.Errors, e.Indexes)
	}
}

// What is not surely a refusal by kintone may have acted: a proxy that speaks for it may have passed the request on.
func TestParseErrorDoubts(t *testing.T) {
	envelope := `{"code":"GAIA_IL03","id":"x","message":"m"}`
	for _, c := range []struct {
		name   string
		status int
		body   string
		code   string // as read
	}{
		{"a proxy's numeric code", 403, `{"code":403,"message":"forbidden"}`, ""},
		{"a proxy's word", 403, `{"code":"forbidden","message":"no"}`, ""},
		{"an upper-case word", 403, `{"code":"GAIA_FORBIDDEN"}`, ""},
		{"an empty code", 400, `{"code":"","message":"no"}`, ""},
		{"another case", 400, `{"Code":"GAIA_IL03"}`, ""},
		{"HTML with 400", 400, `<html><body>Bad Request</body></html>`, ""},
		{"HTML with 404", 404, `<html></html>`, ""},
		{"429 of a proxy", 429, `Too Many Requests`, ""},
		{"nothing with 400", 400, ``, ""},
		{"null", 400, `null`, ""},
		{"an array", 400, `[` + envelope + `]`, ""},
		{"a cut envelope", 400, envelope[:20], ""},
		{"an envelope with more behind it", 400, envelope + `<html>`, ""},
		{"500 with an envelope", 500, envelope, "GAIA_IL03"},
		{"503 with an envelope", 503, envelope, "GAIA_IL03"},
		{"503, the maintenance page", 503, `<html>Service Unavailable</html>`, ""},
		{"520 with an unknown code", 520, `{"code":"GAIA_ZZ99","message":"m"}`, "GAIA_ZZ99"},
		{"520 with HTML", 520, `<html>Web server is returning an unknown error</html>`, ""},
		{"302 with an envelope", 302, envelope, "GAIA_IL03"},
		{"204", 204, ``, ""},
		{"600 with an envelope", 600, envelope, "GAIA_IL03"},
	} {
		e := parseError(c.status, "text/html", []byte(c.body), true, strings.Clone)
		if !e.MayHaveActed || e.Code != c.code {
			t.Errorf("%s: MayHaveActed %v, code %q; want true, %q", c.name, e.MayHaveActed, e.Code, c.code)
		}
		if e := parseError(c.status, "text/html", []byte(c.body), false, strings.Clone); e.MayHaveActed {
			t.Errorf("%s: a read cannot have acted", c.name)
		}
	}
}

func TestErrorReadsFromOutsideIn(t *testing.T) {
	for _, c := range []struct {
		err  Error
		want string
	}{
		{Error{Op: "PUT records/status.json", App: 5, Status: 409, Code: "GAIA_CO02", Message: "not the latest", ID: "abc"},
			"app 5: PUT records/status.json: HTTP 409 GAIA_CO02: not the latest (id abc)"},
		{Error{Op: "GET app.json", App: 5, NotSent: true, Err: http.ErrServerClosed},
			"app 5: GET app.json: not sent: http: Server closed"},
		{Error{Op: "GET app.json", App: 5, Err: http.ErrServerClosed},
			"app 5: GET app.json: no answer: http: Server closed"},
		{Error{Op: "PUT record/status.json", App: 5, Status: 400, Code: "CB_VA01", Message: "m",
			Errors: map[string][]string{"records[1].id": {"b"}, "records[0].id": {"a", "c"}}},
			"app 5: PUT record/status.json: HTTP 400 CB_VA01: m; records[0].id: a, c; records[1].id: b"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("Error says %q, want %q", got, c.want)
		}
	}
}

// A server's text ends up in logs and terminals.
func TestParseErrorDisarmsText(t *testing.T) {
	body, err := json.Marshal(map[string]any{
		"code": "CB_VA01", "id": "a\nb", "message": "one\r\ntwo\x1b[31mred\u202eturned\u2028line" + strings.Repeat("あ", 5000),
		"errors": map[string]any{"records[1].id\x00": map[string]any{"messages": []string{"x\ny"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	e := parseError(400, "", body, true, strings.Clone)
	if got := e.Error(); strings.ContainsFunc(got, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl) }) {
		t.Errorf("Error shows control characters: %q", got[:100])
	}
	for _, pad := range []string{"", "x", "xx"} {
		if got := plain(pad+strings.Repeat("あ", maxText), maxText); len(got) < maxText-2 || len(got) > maxText || !utf8.ValidString(got) {
			t.Errorf("a long text was cut to %d bytes, valid %v; want %d or just below", len(got), utf8.ValidString(got), maxText)
		}
	}
	if len(e.Message) > maxText || !utf8.ValidString(e.Message) {
		t.Errorf("Message has %d bytes, valid %v; want at most %d, cut between runes", len(e.Message), utf8.ValidString(e.Message), maxText)
	}
}

func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // dates in it need a clock that stands
		now := time.Now().UTC()
		for value, want := range map[string]time.Duration{
			"":                     0,
			"7":                    7 * time.Second,
			"0":                    0,
			"-5":                   0,
			"soon":                 0,
			"3600":                 time.Hour,
			"86400":                time.Hour,
			"9223372036854775807":  time.Hour,
			"99999999999999999999": 0,
			now.Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second,
			now.Add(-time.Minute).Format(http.TimeFormat):     0,
			now.Add(48 * time.Hour).Format(http.TimeFormat):   time.Hour,
		} {
			if got := retryAfter(http.Header{"Retry-After": {value}}); got != want {
				t.Errorf("Retry-After %q gives %v, want %v", value, got, want)
			}
		}
	})
}

// No answer may make parseError panic, claim a refusal that is none, or pass on what callers cannot use.
func FuzzParseError(f *testing.F) {
	for _, row := range refusals {
		f.Add(row.statuses[0], "application/json",
			fmt.Appendf(nil, `{"code":%q,"id":"x","message":%q,"errors":%s}`, row.code, row.message, max(row.errors, "null")))
	}
	f.Add(503, "text/html; charset=utf-8", []byte("<html><body><h1>503 Service Unavailable</h1></body></html>"))
	f.Add(400, "", []byte(nil))
	f.Add(400, "application/json", []byte(`{"code":"CB_VA01","errors":{"records[999].id":{"messages":["\u202e\n"]},"records[99999999999999].id":{}}}`))
	f.Add(400, "application/json", []byte(`{"code":"GAIA_RE01","message":"`+strings.Repeat("(id: 12)", 10000)+`"}`))
	f.Add(520, "application/json", []byte(strings.Repeat("[", 100000)))
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		e := parseError(status, contentType, body, true, strings.Clone)
		if e.Status != status || e.NotSent || e.Err != nil {
			t.Errorf("an answer with %d became %+v", status, e)
		}
		refused := codePattern.MatchString(e.Code) && (status >= 400 && status < 500 || status == 520 && refusals520[e.Code])
		if e.MayHaveActed == refused {
			t.Errorf("%d %q: MayHaveActed is %v", status, e.Code, e.MayHaveActed)
		}
		if e.Code != "" && !json.Valid(body) {
			t.Errorf("code %q out of something that is not JSON", e.Code)
		}
		if !slices.IsSorted(e.Indexes) || len(slices.Compact(slices.Clone(e.Indexes))) != len(e.Indexes) ||
			len(e.Indexes) > 0 && (e.Code != "CB_VA01" || e.Indexes[0] < 0) {
			t.Errorf("%s names the members %v", e.Code, e.Indexes)
		}
		if !slices.IsSorted(e.Records) || len(slices.Compact(slices.Clone(e.Records))) != len(e.Records) ||
			len(e.Records) > 0 && (e.Code != "GAIA_RE01" || e.Records[0] < 1) {
			t.Errorf("%s names the records %v", e.Code, e.Records)
		}
		if e.User != "" && e.Code != "GAIA_IL26" || e.Errors != nil && e.Code != "CB_VA01" {
			t.Errorf("%s names the user %q and the paths %v", e.Code, e.User, e.Errors)
		}
		if n := len(e.Error()); n > 16<<10 {
			t.Errorf("the error has %d bytes", n)
		}
		texts := []string{e.Message, e.ID, e.User, e.Error()}
		for _, path := range slices.Sorted(maps.Keys(e.Errors)) {
			texts = append(append(texts, path), e.Errors[path]...)
		}
		for _, s := range texts {
			if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
				t.Errorf("a text is not safe to print: %q", s)
			}
		}
	})
}
