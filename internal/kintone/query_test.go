package kintone

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"statusq/internal/kintone/simulator"
)

// keyForm is a form with a field of every kind that matters here.
var keyForm = Fields{
	Status: "ステータス", Assignee: "作業者", Modifier: "更新者", RecordNumber: "No", Enabled: true,
	Types: map[string]string{
		"No": "RECORD_NUMBER", "code": "SINGLE_LINE_TEXT", "url": "LINK", "amount": "NUMBER", "total": "CALC",
		"day": "DATE", "hour": "TIME", "at": "DATETIME",
		"ステータス": "STATUS", "作業者": "STATUS_ASSIGNEE", "更新者": "MODIFIER", "note": "MULTI_LINE_TEXT", "choice": "DROP_DOWN",
		"made": "CREATED_TIME", "lines": "SUBTABLE", "顧客・コード_1": "SINGLE_LINE_TEXT", "bad code": "SINGLE_LINE_TEXT",
	},
	InTables: map[string]string{"part": "lines"},
}

func keyOf(t *testing.T, f Fields, code string) KeyField {
	t.Helper()
	k, err := f.Key(code)
	if err != nil {
		t.Fatalf("Key(%q): %v", code, err)
	}
	return k
}

// The types that kintone compares exactly, and how (Q; docs/kintone.md 6).
func TestKey(t *testing.T) {
	for code, want := range map[string]KeyField{
		"$id": {"$id", "__ID__"}, "No": {"No", "RECORD_NUMBER"}, "code": {"code", "SINGLE_LINE_TEXT"}, "url": {"url", "LINK"},
		"amount": {"amount", "NUMBER"}, "total": {"total", "CALC"}, "day": {"day", "DATE"}, "hour": {"hour", "TIME"},
		"at": {"at", "DATETIME"}, "顧客・コード_1": {"顧客・コード_1", "SINGLE_LINE_TEXT"},
	} {
		if got, err := keyForm.Key(code); err != nil || got != want {
			t.Errorf("Key(%q) is %+v, %v; want %+v", code, got, err, want)
		}
	}
	for code, want := range map[string]string{
		"nothing": "is not in the form", "": "is not in the form", "Code": "is not in the form",
		`code in ("a") or code`: "is not in the form",
		"part":                  `in the table "lines"`,
		"note":                  "of type MULTI_LINE_TEXT", "choice": "of type DROP_DOWN", "made": "of type CREATED_TIME", "lines": "of type SUBTABLE",
		"ステータス": "of type STATUS", "作業者": "of type STATUS_ASSIGNEE",
		"bad code": "a character in its code",
	} {
		if k, err := keyForm.Key(code); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Key(%q) is %+v, %v; want an error that says %q", code, k, err, want)
		}
	}
}

func TestKeyCheck(t *testing.T) {
	for code, values := range map[string]struct{ good, bad []string }{
		"$id":    {[]string{"1", "007", "999999999999999999"}, []string{"0", "-1", "+1", "1.0", "APP-1", "one", "\uff11", "99999999999999999999"}},
		"No":     {[]string{"1", "APP-12", "my-app-3"}, []string{"0", "-12", "APP", "APP-", "APP-0", "APP-x", " APP-1", "APP -1"}},
		"code":   {[]string{"a", " a ", `"`, `\`, "佐藤", "é", "1' or 1=1", "😀"}, []string{"", " ", "\u3000", "\u200b", "a\tb", "a\nb", "\x00", "\u0085", "\xff"}},
		"amount": {[]string{"0", "-1", "1.50", "00012", "123456789012345678901234567890.5"}, []string{"1,000", "1.", ".5", "+1", "1e3", "１", "1 ", "¥1", "NaN", "0x1", "1_000"}},
		"total":  {[]string{"12.5"}, []string{"12:30"}},
		"day":    {[]string{"2026-02-28"}, []string{"2026-02-29", "2026-2-8", "2026/02/28", "28.2.2026", "2026-02-28T00:00:00Z"}},
		"hour":   {[]string{"09:30", "00:00", "23:59"}, []string{"24:00", "9:30", "09:30:00", "0930"}},
		"at":     {[]string{"2026-11-22T09:30:00+09:00", "2026-11-22T00:30:00Z"}, []string{"2026-11-22T09:30:01Z", "2026-11-22T09:30:00.5Z", "2026-11-22T09:30:00", "2026-11-22 09:30", "2026-11-22"}},
		"url":    {[]string{"https://example.com/?a=b&c"}, []string{""}},
	} {
		k := keyOf(t, keyForm, code)
		for _, v := range values.good {
			if err := k.Check(v); err != nil {
				t.Errorf("Check of %s refuses %q: %v", k.Type, v, err)
			}
		}
		for _, v := range values.bad {
			if err := k.Check(v); err == nil {
				t.Errorf("Check of %s takes %q", k.Type, v)
			}
		}
	}
}

// kintone compares texts exactly (KSQL) and numbers by what they are worth.
func TestKeySame(t *testing.T) {
	for _, c := range []struct {
		code, value, found string
		want               bool
	}{
		{"code", "a", "a", true}, {"code", "a", "A", false}, {"code", "a", "a ", false}, {"code", "1", "1.0", false}, {"code", "ｱ", "ア", false},
		{"code", "\u00e9", "e\u0301", false},
		{"amount", "1.0", "1", true}, {"amount", "1", "1.00", true}, {"amount", "-0", "0", true}, {"amount", "1", "10", false},
		{"amount", "0.1", "1e-1", true}, {"amount", "1", "", false}, {"amount", "1", "1e999999999", false},
		{"amount", "12345678901234567890.1", "12345678901234567890.2", false},
		{"$id", "007", "7", true}, {"$id", "7", "8", false},
		{"No", "12", "12", true}, {"No", "12", "APP-12", true}, {"No", "APP-12", "APP-12", true}, {"No", "APP-12", "12", false},
		{"No", "OLD-12", "APP-12", false}, {"No", "app-12", "APP-12", false}, {"No", "2", "APP-12", false},
		{"at", "2026-11-22T09:30:00+09:00", "2026-11-22T00:30:00Z", true}, {"at", "2026-11-22T09:30:00Z", "2026-11-22T09:31:00Z", false},
		{"day", "2026-11-22", "2026-11-22", true}, {"day", "2026-11-22", "2026-11-23", false}, {"hour", "09:30", "09:30", true},
	} {
		if got := keyOf(t, keyForm, c.code).Same(c.value, c.found); got != c.want {
			t.Errorf("asked for %q in a field of type %s and found %q: Same is %v", c.value, keyForm.Types[c.code], c.found, got)
		}
	}
}

// What goes over the wire: the operator that the type allows (= for dates, in elsewhere), each value once and in quotes,
// and the page by id.
func TestRecordsByKey(t *testing.T) {
	for _, c := range []struct {
		code   string
		values []string
		want   string
	}{
		{"code", []string{`say "hi"`, `C:\`, `say "hi"`}, `(code in ("C:\\","say \"hi\"")) and $id > 7 order by $id asc limit 500`},
		{"day", []string{"2026-11-22", "2026-11-23"}, `(day = "2026-11-22" or day = "2026-11-23") and $id > 7 order by $id asc limit 500`},
		{"at", []string{"2026-11-22T09:30:00+09:00"}, `(at = "2026-11-22T00:30:00Z") and $id > 7 order by $id asc limit 500`},
		{"$id", []string{"9", "008"}, `($id in (8,9)) and $id > 7 order by $id asc limit 500`},
	} {
		s := newSite(t, answers(200, fmt.Sprintf(`{"records":[
			{"$id":{"value":"9"},"$revision":{"value":"4"},"ステータス":{"value":"処理中"},"作業者":{"value":[{"code":"sato"}]},
			 "更新者":{"value":{"code":"kato"}},%q:{"value":"found"}},
			{"$id":{"value":"8"},"$revision":{"value":"2"},%[1]q:{"value":"other"}}]}`, c.code)))
		if c.code == "$id" {
			s = newSite(t, answers(200, `{"records":[{"$id":{"value":"8"},"$revision":{"value":"2"}}]}`))
		}
		got, err := s.RecordsByKey(t.Context(), App{ID: 5}, keyForm, keyOf(t, keyForm, c.code), c.values, 7)
		want := []KeyedRecord{
			{Record{ID: 8, Revision: 2}, "other"},
			{Record{ID: 9, Revision: 4, Status: "処理中", Assignees: []string{"sato"}, Modifier: "kato"}, "found"},
		}
		codes := []string{"$id", "$revision", "ステータス", "作業者", "更新者", c.code}
		if c.code == "$id" {
			want, codes = []KeyedRecord{{Record{ID: 8, Revision: 2}, "8"}}, codes[:5]
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("by %s: RecordsByKey returned %+v, %v; want %+v", c.code, got, err, want)
		}
		u, _ := url.Parse(s.only(t).uri)
		if q := u.Query().Get("query"); q != c.want {
			t.Errorf("by %s: the query is %s, want %s", c.code, q, c.want)
		}
		for i, code := range codes {
			if got := u.Query().Get(fmt.Sprintf("fields[%d]", i)); got != code {
				t.Errorf("by %s: field %d is %q, want %q", c.code, i, got, code)
			}
		}
	}
}

// A look-up that cannot mean what it says never leaves.
func TestRecordsByKeyRefuses(t *testing.T) {
	s := newSite(t, answers(200, `{"records":[]}`))
	code := keyOf(t, keyForm, "code")
	many := strings.Split(strings.Repeat("x", 201), "")
	for name, call := range map[string]func() error{
		"no values":       func() error { _, err := s.RecordsByKey(t.Context(), App{ID: 5}, keyForm, code, nil, 0); return err },
		"too many values": func() error { _, err := s.RecordsByKey(t.Context(), App{ID: 5}, keyForm, code, many, 0); return err },
		"too many dates": func() error {
			_, err := s.RecordsByKey(t.Context(), App{ID: 5}, keyForm, keyOf(t, keyForm, "day"), many[:51], 0)
			return err
		},
		"an empty value": func() error {
			_, err := s.RecordsByKey(t.Context(), App{ID: 5}, keyForm, code, []string{"a", ""}, 0)
			return err
		},
		"a page before 0": func() error {
			_, err := s.RecordsByKey(t.Context(), App{ID: 5}, keyForm, code, []string{"a"}, -1)
			return err
		},
		"a field made up": func() error {
			_, err := s.RecordsByKey(t.Context(), App{ID: 5}, keyForm, KeyField{`code = "" or code`, "SINGLE_LINE_TEXT"}, []string{"a"}, 0)
			return err
		},
		"a type made up": func() error {
			_, err := s.RecordsByKey(t.Context(), App{ID: 5}, keyForm, KeyField{"note", "SINGLE_LINE_TEXT"}, []string{"a"}, 0)
			return err
		},
		"no condition":       func() error { _, err := s.RecordsMatching(t.Context(), App{ID: 5}, []int64{1}, " "); return err },
		"no ids to look for": func() error { _, err := s.RecordsMatching(t.Context(), App{ID: 5}, nil, `code = "a"`); return err },
	} {
		if e := failure(t, call()); !e.NotSent || !errors.Is(e, ErrInvalidRequest) {
			t.Errorf("%s: %v, want a request that is refused here", name, e)
		}
	}
	if n := len(s.requests()); n > 0 {
		t.Errorf("%d requests were sent all the same", n)
	}
}

// An answer from which keys cannot be told is no answer: a job must not be told that nothing has its key.
func TestRecordsByKeyDoubtsAnAnswerThatDoesNotFit(t *testing.T) {
	for name, answer := range map[string]string{
		"a field that is not there": `{"records":[{"$id":{"value":"8"},"$revision":{"value":"2"}}]}`,
		"a null":                    `{"records":[{"$id":{"value":"8"},"$revision":{"value":"2"},"code":{"value":null}}]}`,
		"an object":                 `{"records":[{"$id":{"value":"8"},"$revision":{"value":"2"},"code":{"value":{}}}]}`,
		"an id of before":           `{"records":[{"$id":{"value":"7"},"$revision":{"value":"2"},"code":{"value":"a"}}]}`,
		"no id":                     `{"records":[{"$revision":{"value":"2"},"code":{"value":"a"}}]}`,
		"a record twice": `{"records":[{"$id":{"value":"8"},"$revision":{"value":"2"},"code":{"value":"a"}},
			{"$id":{"value":"8"},"$revision":{"value":"2"},"code":{"value":"a"}}]}`,
		"no records": `{}`,
	} {
		s := newSite(t, answers(200, answer))
		got, err := s.RecordsByKey(t.Context(), App{ID: 5}, keyForm, keyOf(t, keyForm, "code"), []string{"a"}, 7)
		if e := failure(t, err); got != nil || e.Status != 200 || e.MayHaveActed {
			t.Errorf("%s: %v, %v; want no records and an error", name, got, e)
		}
	}
}

// Against a kintone: values with everything in them that a query could trip over, pages beyond 500, record numbers with
// the app's code, numbers written in another way, and a body in the place of a URL that is too long.
func TestKeysAgainstTheSimulator(t *testing.T) {
	odd := []string{`a"b`, `a\`, `\"`, `") or ($id > 0`, "佐藤 太郎", "a,b", "\\n", "%26", "😀"}
	k := simulator.New(simulator.Config{Seed: 1})
	k.AddApp(simulator.App{
		ID: 5, Records: 1200, Process: simulator.Workflow(), AppCode: "APP",
		Tokens: []simulator.Token{simulator.ViewToken("token-of-the-site")},
		Fields: []simulator.Field{
			{Code: "code", Type: "SINGLE_LINE_TEXT", Default: func(id int64) string {
				if id <= int64(len(odd)) {
					return odd[id-1]
				}
				return fmt.Sprintf("C-%d", id%2)
			}},
			{Code: "amount", Type: "NUMBER", Default: func(id int64) string { return fmt.Sprintf("%d.0", id) }},
			{Code: "day", Type: "DATE", Default: func(id int64) string { return fmt.Sprintf("2026-11-%02d", id%30+1) }},
		},
	})
	s := newSite(t, k.ServeHTTP)
	app := App{ID: 5}
	form, err := s.FormFields(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	look := func(code string, after int64, values ...string) []KeyedRecord {
		t.Helper()
		records, err := s.RecordsByKey(t.Context(), app, form, keyOf(t, form, code), values, after)
		if err != nil {
			t.Fatalf("look for %q in %s: %v", values, code, err)
		}
		return records
	}

	for i, v := range odd {
		if got := look("code", 0, v); len(got) != 1 || got[0].ID != int64(i+1) || got[0].Key != v || got[0].Status == "" {
			t.Errorf("looked for %q and found %+v, want record %d", v, got, i+1)
		}
	}
	if got := look("code", 0, odd...); len(got) != len(odd) {
		t.Errorf("looked for all %d odd values and found %d", len(odd), len(got))
	}
	first := look("code", 0, "C-0")
	second := look("code", first[len(first)-1].ID, "C-0")
	if len(first) != MaxRecords || first[0].ID != 10 || len(second) != 96 || second[95].ID != 1200 {
		t.Errorf("596 records came as %d and %d, the last is %+v", len(first), len(second), second[len(second)-1])
	}
	for _, v := range []string{"12", "APP-12"} {
		number := keyOf(t, form, form.RecordNumber)
		if got := look(number.Code, 0, v); len(got) != 1 || got[0].ID != 12 || got[0].Key != "APP-12" || !number.Same(v, got[0].Key) {
			t.Errorf("looked for record number %s and found %+v", v, got)
		}
	}
	if got := look("amount", 0, "12", "013.00"); len(got) != 2 || got[0].ID != 12 || got[1].ID != 13 {
		t.Errorf("looked for 12 and 013.00 and found %+v", got)
	}
	if got := look("day", 1170, "2026-11-01", "2026-11-02"); len(got) != 2 || got[0].ID != 1171 || got[1].ID != 1200 {
		t.Errorf("looked for two days and found %+v", got)
	}
	long := make([]string, 200)
	for i := range long {
		long[i] = fmt.Sprintf("お客様コード第%d号", i)
	}
	if got := look("code", 0, append(long[1:], odd[0])...); len(got) != 1 {
		t.Errorf("looked for 200 long values and found %+v, want one record", got)
	}
	all := s.requests()
	if r := all[len(all)-1]; r.method != http.MethodPost || r.header.Get("X-HTTP-Method-Override") != http.MethodGet {
		t.Errorf("200 long values went as a %s to %.80s", r.method, r.uri)
	}
}

// kintone says which records meet an action's condition; whatever the condition is, it holds for the asked ones only.
func TestRecordsMatching(t *testing.T) {
	k := simulator.New(simulator.Config{Seed: 1})
	k.AddApp(simulator.App{
		ID: 5, Records: 20, Process: simulator.Workflow(),
		Tokens: []simulator.Token{simulator.ViewToken("token-of-the-site")},
		Fields: []simulator.Field{{Code: "amount", Type: "NUMBER", Default: func(id int64) string { return fmt.Sprint(id) }}},
	})
	s := newSite(t, k.ServeHTTP)
	got, err := s.RecordsMatching(t.Context(), App{ID: 5}, []int64{3, 9, 5, 99, 3}, `amount < 6 or amount = 20`)
	if want := map[int64]bool{3: true, 5: true}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("of 3, 5, 9 and 99 match %v, %v; want %v", got, err, want)
	}
	if _, err := s.RecordsMatching(t.Context(), App{ID: 5}, []int64{3}, `amount = 1) or ($id = 4`); err == nil {
		t.Error("a condition that leaves its parentheses brought in another record, and nobody noticed")
	}
}

// FuzzQuery looks for a value that gets out of its quotes. Whatever Check lets through has to be one literal, and the
// query around it has to be what it would be around any other value.
func FuzzQuery(f *testing.F) {
	for _, v := range []string{"", "a", `"`, `\`, `\"`, `a\\"`, `") or ($id > 0`, "\n", "\t", "\u2028", "\u0085", "\xff\"", "佐藤", "１２", "-1.5", "12",
		"APP-12", `x"-12`, "2026-11-22", "09:30", "2026-11-22T09:30:00+09:00", "1e5"} {
		f.Add(v, "other")
	}
	f.Fuzz(func(t *testing.T, value, other string) {
		if tokens, ok := lex(quote(value)); ok && !(len(tokens) == 1 && tokens[0] == lexeme{'"', value}) {
			t.Errorf("quote(%q) is read as %q", value, tokens)
		} else if !ok && utf8.ValidString(value) && !strings.ContainsFunc(value, unicode.IsControl) {
			t.Errorf("quote(%q) cannot be read", value)
		}
		for _, code := range []string{"$id", "No", "code", "url", "amount", "total", "day", "hour", "at", "顧客・コード_1"} {
			k, err := keyForm.Key(code)
			if err != nil {
				t.Fatal(err)
			}
			var values []string
			for _, v := range []string{value, other} {
				if k.Check(v) == nil {
					values = append(values, v)
				}
			}
			if len(values) == 0 {
				continue
			}
			query := k.query(values, 7)
			got, ok := lex(query)
			if !ok {
				t.Fatalf("%s cannot be read", query)
			}
			var literals []string
			var shape strings.Builder
			for i, token := range got {
				literal := token.kind == '"' || code == "$id" && token.kind == '1' && i < len(got)-8
				if literal {
					literals = append(literals, token.text)
					token.text = "?"
				}
				shape.WriteString(token.text + " ")
			}
			list := code + " in ( ?" + strings.Repeat(" , ?", len(literals)-1) + " "
			closing := ") ) "
			if k.PerQuery() == perEqual {
				list = code + " = ?" + strings.Repeat(" or "+code+" = ?", len(literals)-1) + " "
				closing = ") "
			}
			if want := "( " + list + closing + "and $id > 7 order by $id asc limit 500 "; shape.String() != want {
				t.Errorf("%q in a query reads as %s, want %s", values, shape.String(), want)
			}
			for _, v := range values {
				found := false
				for _, literal := range literals {
					found = found || k.Same(v, literal)
				}
				if !found {
					t.Errorf("%q is looked for in %s, and its query asks for %q", v, code, literals)
				}
			}
		}
	})
}

// lexeme is a word of a query: a literal in quotes ('"'), a number ('1'), a word ('a') or a sign.
type lexeme struct {
	kind rune
	text string
}

// lex takes a query apart as kintone's documentation describes it (Q, EMU), without the code that made it. It reports
// false for what kintone would not read: an open literal, an unknown escape, a raw tab or line break in a literal.
func lex(query string) (tokens []lexeme, ok bool) {
	rest := []rune(query)
	if !utf8.ValidString(query) {
		return nil, false
	}
	for len(rest) > 0 {
		c := rest[0]
		n := 1
		switch {
		case unicode.IsSpace(c):
			rest = rest[1:]
			continue
		case c == '"':
			var text []rune
			for {
				if n >= len(rest) {
					return nil, false
				}
				c := rest[n]
				n++
				if c == '"' {
					break
				}
				if unicode.IsControl(c) {
					return nil, false
				}
				if c == '\\' {
					if n >= len(rest) {
						return nil, false
					}
					escaped, known := map[rune]rune{'"': '"', '\\': '\\', 't': '\t', 'n': '\n'}[rest[n]]
					if !known {
						return nil, false
					}
					c = escaped
					n++
				}
				text = append(text, c)
			}
			tokens = append(tokens, lexeme{'"', string(text)})
			rest = rest[n:]
			continue
		case strings.ContainsRune("(),=<>!", c):
			tokens = append(tokens, lexeme{c, string(c)})
		default:
			for n < len(rest) && !unicode.IsSpace(rest[n]) && !strings.ContainsRune(`(),=<>!"`, rest[n]) {
				n++
			}
			kind := 'a'
			if c >= '0' && c <= '9' {
				kind = '1'
			}
			tokens = append(tokens, lexeme{kind, string(rest[:n])})
		}
		rest = rest[n:]
	}
	return tokens, true
}
