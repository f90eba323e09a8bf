package kintone

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// KeyField is a field that records are looked up by, got from [Fields.Key].
type KeyField struct {
	Code string // "$id" for the record's id
	Type string // as in Fields.Types; "__ID__" for $id
}

// KeyedRecord is a record with the value that its key field has.
type KeyedRecord struct {
	Record
	Key string // as the record holds it, which [KeyField.Same] compares with what was asked for
}

const (
	idCode = "$id"
	idType = "__ID__"
)

// perIn and perEqual bound the values of one query. kintone publishes no bound, and a list of 100 ids is everyday; "or"
// is slower than "in" (docs/kintone.md 6), so that fewer go into one.
const (
	perIn    = 200
	perEqual = 50
)

// keyTypes says which types a key can have, and how kintone compares a field of the type with one value exactly: with
// "in", or with "=" only (docs/kintone.md 6). What is not here cannot be compared exactly (texts of several lines), holds
// several values, or changes by itself.
var keyTypes = map[string]string{
	idType: "in", "RECORD_NUMBER": "in", "SINGLE_LINE_TEXT": "in", "LINK": "in", "NUMBER": "in", "CALC": "in",
	"DATE": "=", "TIME": "=", "DATETIME": "=",
}

// Key returns the field of that code as a key, or says in words why it cannot be one. Codes cannot be quoted in a query
// (docs/kintone.md 6), so nothing but a code of the form ever gets into one.
func (f Fields) Key(code string) (KeyField, error) {
	if code == idCode {
		return KeyField{idCode, idType}, nil
	}
	kind, ok := f.Types[code]
	table, inTable := f.InTables[code]
	switch {
	case inTable:
		return KeyField{}, fmt.Errorf("field %q is in the table %q: a record has a value of it in every row", code, table)
	case !ok:
		return KeyField{}, fmt.Errorf("field %q is not in the form", code)
	case keyTypes[kind] == "":
		return KeyField{}, fmt.Errorf("field %q is of type %s, and records can be looked up by $id and by fields of type "+
			"RECORD_NUMBER, SINGLE_LINE_TEXT, NUMBER, LINK, CALC, DATE, TIME and DATETIME only", code, kind)
	case strings.ContainsFunc(code, func(r rune) bool { return !inCode(r) }):
		return KeyField{}, fmt.Errorf("field %q has a character in its code that would end it in a query", code)
	}
	return KeyField{code, kind}, nil
}

// PerQuery is how many values go into one call of RecordsByKey at most.
func (k KeyField) PerQuery() int {
	if keyTypes[k.Type] == "=" {
		return perEqual
	}
	return perIn
}

// Check says in words what is wrong with a value to look for. An empty one would match every record without a value
// (docs/kintone.md 6).
func (k KeyField) Check(value string) error {
	hidden := func(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) }
	switch {
	case !utf8.ValidString(value):
		return errors.New("key is not UTF-8")
	case strings.ContainsFunc(value, unicode.IsControl):
		return errors.New("key has a control character in it, such as a tab or a line break")
	case !strings.ContainsFunc(value, func(r rune) bool { return !hidden(r) }):
		return errors.New("key is empty")
	}
	switch k.Type {
	case idType:
		if recordID(value) == 0 {
			return fmt.Errorf("key %q is not a record id: digits only, without the app's code", value)
		}
	case "RECORD_NUMBER":
		if code, id := cutRecordNumber(value); recordID(id) == 0 || strings.TrimSpace(code) != code {
			return fmt.Errorf("key %q is not a record number: want one such as 12 or, with the app's code, APP-12", value)
		}
	case "NUMBER", "CALC":
		if len(value) > maxNumber || !plainNumber.MatchString(value) {
			return fmt.Errorf("key %q is not a number: want one such as -1234.5, without separators, unit or exponent", value)
		}
	case "DATE":
		if _, ok := canonicalTime(time.DateOnly, value); !ok {
			return fmt.Errorf("key %q is not a date: want one such as 2026-11-22", value)
		}
	case "TIME":
		if _, ok := canonicalTime(hourMinute, value); !ok {
			return fmt.Errorf("key %q is not a time of day: want one such as 09:30", value)
		}
	case "DATETIME":
		if _, ok := canonicalTime(time.RFC3339, value); !ok {
			return fmt.Errorf("key %q is not a date and time in whole minutes: want one such as 2026-11-22T09:30:00+09:00", value)
		}
	}
	return nil
}

// Same reports whether found, which a record holds, is the value that was asked for. Texts have to be equal to the last
// bit, as kintone compares them (docs/kintone.md 6); numbers and times may be written otherwise, and a record number
// without the app's code is the one that has it.
func (k KeyField) Same(value, found string) bool {
	if value == found {
		return true
	}
	switch k.Type {
	case idType:
		id := recordID(value)
		return id != 0 && id == recordID(found)
	case "RECORD_NUMBER":
		code, id := cutRecordNumber(value)
		foundCode, foundID := cutRecordNumber(found)
		return recordID(id) != 0 && recordID(id) == recordID(foundID) && (code == "" || code == foundCode)
	case "NUMBER", "CALC":
		a, b := number(value), number(found)
		return a != nil && b != nil && a.Cmp(b) == 0
	case "DATETIME":
		a, ok := canonicalTime(time.RFC3339, value)
		b, also := canonicalTime(time.RFC3339, found)
		return ok && also && a == b
	}
	return false
}

// RecordsByKey reads the records whose key field has one of 1 to PerQuery values and whose id is above after: GET
// records.json, one request. They come by ascending id. With MaxRecords of them there may be more, above the last one;
// with fewer there are not. A key that the records hold several times comes with each of them, in no order but that of
// the ids. f is the form that k was got from. The error is an *Error.
func (c *Client) RecordsByKey(ctx context.Context, app App, f Fields, k KeyField, values []string, after int64) ([]KeyedRecord, error) {
	reject := k.checkAll(f, values)
	if after < 0 {
		reject = errors.Join(reject, fmt.Errorf("record id %d to begin after is negative", after))
	}
	var query string
	if reject == nil {
		query = k.query(values, after)
	}
	codes := f.wanted()
	if k.Code != idCode && !slices.Contains(codes, k.Code) {
		codes = append(codes, k.Code)
	}
	var records []KeyedRecord
	err := c.do(ctx, app, readRecords(app, query, codes, reject), func(body []byte) (err error) {
		records, err = decodeKeyed(body, f, k, after)
		return err
	})
	if err != nil {
		return nil, err
	}
	return records, nil
}

// RecordsMatching reports which of 1 to MaxRecords records meet a condition of the app, such as an action's FilterCond:
// GET records.json, one request. It is kintone that judges, so functions in the condition, such as TODAY() and
// LOGINUSER(), mean what they mean for the user who asks. Records that are not there, or may not be seen, do not meet it.
// The error is an *Error.
func (c *Client) RecordsMatching(ctx context.Context, app App, ids []int64, condition string) (map[int64]bool, error) {
	ids, reject := checkIDs(ids)
	if strings.TrimSpace(condition) == "" {
		reject = errors.Join(reject, errors.New("no condition"))
	}
	query := fmt.Sprintf("($id in (%s)) and (%s) limit %d", joinIDs(ids), condition, MaxRecords)
	matching := make(map[int64]bool)
	err := c.do(ctx, app, readRecords(app, query, []string{idCode, "$revision"}, reject), func(body []byte) error {
		records, err := decodeRecords(body, Fields{}, ids)
		for _, r := range records {
			matching[r.ID] = true
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return matching, nil
}

// quote makes a literal of a query out of a value. It is the only way in which a value gets into one: kintone has no
// parameters, and the two characters that could end the literal or escape its end are escaped (docs/kintone.md 6).
func quote(value string) string { return `"` + escaper.Replace(value) + `"` }

var escaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// checkAll reports what keeps a request for values from being sent.
func (k KeyField) checkAll(f Fields, values []string) error {
	known, err := f.Key(k.Code)
	switch {
	case err != nil:
		return err
	case known != k:
		return fmt.Errorf("field %q is of type %s, not %s", k.Code, known.Type, k.Type)
	case len(values) == 0 || len(values) > k.PerQuery():
		return fmt.Errorf("%d keys: must be 1 to %d", len(values), k.PerQuery())
	}
	for _, value := range values {
		if err := k.Check(value); err != nil {
			return err
		}
	}
	return nil
}

// query asks for the records above after that have one of the values. They have been checked.
func (k KeyField) query(values []string, after int64) string {
	literals := make([]string, len(values))
	for i, value := range values {
		literals[i] = k.literal(value)
	}
	literals = slices.Compact(slices.Sorted(slices.Values(literals)))
	condition := k.Code + " in (" + strings.Join(literals, ",") + ")"
	if keyTypes[k.Type] == "=" {
		condition = k.Code + " = " + strings.Join(literals, " or "+k.Code+" = ")
	}
	return fmt.Sprintf("(%s) and $id > %d order by $id asc limit %d", condition, after, MaxRecords)
}

// literal is a checked value as a query has it.
func (k KeyField) literal(value string) string {
	switch k.Type {
	case idType:
		return strconv.FormatInt(recordID(value), 10)
	case "DATETIME":
		if at, ok := canonicalTime(time.RFC3339, value); ok {
			return quote(at)
		}
	}
	return quote(value)
}

// decodeKeyed reads the answer to a look-up. kintone may find more alike than [KeyField.Same] does; that is for the
// caller to see.
func decodeKeyed(body []byte, f Fields, k KeyField, after int64) ([]KeyedRecord, error) {
	all, err := decodeAnswer(body)
	if err != nil {
		return nil, err
	}
	records := make([]KeyedRecord, 0, len(all))
	for _, values := range all {
		r, err := decodeRecord(values, f)
		if err != nil {
			return nil, err
		}
		if r.ID <= after {
			return nil, fmt.Errorf("answer has a record %d that was not asked for", r.ID)
		}
		keyed := KeyedRecord{Record: r, Key: strconv.FormatInt(r.ID, 10)}
		if k.Code != idCode {
			var key *string
			if raw := values[k.Code].Value; raw != nil {
				if err := json.Unmarshal(raw, &key); err != nil {
					return nil, fmt.Errorf("answer has a record %d that cannot be read: %w", r.ID, err)
				}
			}
			if key == nil {
				return nil, fmt.Errorf("answer has a record %d without a value of %q: may the field be seen?", r.ID, k.Code)
			}
			keyed.Key = *key
		}
		records = append(records, keyed)
	}
	slices.SortFunc(records, func(a, b KeyedRecord) int { return cmp.Compare(a.ID, b.ID) })
	for i := 1; i < len(records); i++ {
		if records[i].ID == records[i-1].ID {
			return nil, fmt.Errorf("answer has record %d twice", records[i].ID)
		}
	}
	return records, nil
}

// readRecords is the request for the records that a query names.
func readRecords(app App, query string, codes []string, reject error) request {
	params := url.Values{"app": {strconv.FormatInt(app.ID, 10)}, "query": {query}}
	for i, code := range codes {
		params.Set(fmt.Sprintf("fields[%d]", i), code)
	}
	return request{
		method: http.MethodGet,
		api:    "records.json",
		query:  params,
		body: struct {
			App    int64    `json:"app"`
			Query  string   `json:"query"`
			Fields []string `json:"fields"`
		}{app.ID, query, codes},
		reject: reject,
	}
}

// checkIDs sorts ids, each once, and reports whether one read can have them.
func checkIDs(ids []int64) ([]int64, error) {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	switch {
	case len(ids) == 0 || len(ids) > MaxRecords:
		return ids, fmt.Errorf("%d record ids: must be 1 to %d", len(ids), MaxRecords)
	case ids[0] < 1:
		return ids, fmt.Errorf("record id %d is below 1", ids[0])
	}
	return ids, nil
}

func joinIDs(ids []int64) string {
	var list []byte
	for i, id := range ids {
		if i > 0 {
			list = append(list, ',')
		}
		list = strconv.AppendInt(list, id, 10)
	}
	return string(list)
}

// inCode reports whether a field code may have r in it: letters of every script, digits, underscores, middle dots and
// signs of currency (docs/kintone.md 6). None of them ends an identifier.
func inCode(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.Sc, unicode.Pc) || r == '・' || r == '･'
}

// recordID reads a record's id; 0 if it is none.
func recordID(s string) int64 {
	if strings.Trim(s, "0123456789") != "" {
		return 0 // ParseInt would take a sign
	}
	id, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return id
}

// cutRecordNumber takes the app's code off a record number; "" if it has none.
func cutRecordNumber(s string) (code, id string) {
	i := strings.LastIndexByte(s, '-')
	if i <= 0 {
		return "", s
	}
	return s[:i], s[i+1:]
}

var (
	// plainNumber is what may be asked for, anyNumber what a record may hold. The bound on the exponent keeps numbers small.
	plainNumber = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?$`)
	anyNumber   = regexp.MustCompile(`^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?$`)
)

// maxNumber bounds the digits that are calculated with; kintone's numbers have far fewer.
const maxNumber = 1024

// number reads a number exactly; nil if it is none.
func number(s string) *big.Rat {
	if len(s) > maxNumber || !anyNumber.MatchString(s) {
		return nil
	}
	n, ok := new(big.Rat).SetString(s)
	if !ok {
		return nil
	}
	return n
}

const hourMinute = "15:04"

// canonicalTime reads a time in a layout and writes it as kintone does, with times of a day in UTC. It reports false if
// it is none, or finer than kintone's minutes.
func canonicalTime(layout, s string) (string, bool) {
	t, err := time.Parse(layout, s)
	if err != nil || layout != time.RFC3339 && t.Format(layout) != s || !t.Equal(t.Truncate(time.Minute)) {
		return "", false
	}
	if layout == time.RFC3339 {
		return t.UTC().Format("2006-01-02T15:04:00Z"), true
	}
	return s, true
}
