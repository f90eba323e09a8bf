package queue

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nuid"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"statusq/schema"
)

// MaxJobBytes is the most that one encoded job may weigh.
const MaxJobBytes = 16 << 10

// Values of Job.Match.
const (
	MatchOne = "one" // none or several matches are an error
	MatchAll = "all" // every match becomes a child job
)

// ErrNewerVersion says that a job is written in a form that came after this program. Such a job is not wrong: it waits
// for a worker that knows it.
var ErrNewerVersion = errors.New("job of a newer version: worker too old")

// Job is one action on one record, or on the records that a key field matches. Its wire form is schema/job.v1.json;
// [DecodeJob] and [Job.Encode] are the strict ways in and out. As part of a ledger entry a job is marshalled without
// being judged again, because the ledger also holds what was refused.
type Job struct {
	ID        string // the publisher's; "" until the stream has numbered it, then s and that number
	Site      string
	App       int64
	Record    int64  // 0 with a Key
	Key       *Key   // nil with a Record
	Match     string // MatchOne or MatchAll with a Key, else ""
	Action    string
	Assignee  string // login name, "" = none
	Revision  int64  // that the record must still have; -1 = any, 0 is refused
	Campaign  string
	By        string    // who asked
	Ref       string    // echoed in the result
	NotBefore time.Time // UTC; zero = at once
	Expires   time.Time // UTC; zero = never
}

// Key names records by the value of a field.
type Key struct {
	Field string `json:"field"` // field code
	Value string `json:"value"`
}

// DecodeError lists everything that is wrong with a job.
type DecodeError struct {
	Problems []Problem // at least one, ordered by Pointer
}

// Problem is one thing wrong with a job.
type Problem struct {
	Pointer string // JSON pointer (RFC 6901); "" is the job as a whole
	Text    string // says what is wrong without repeating the value
}

// Error names the first few problems.
func (e *DecodeError) Error() string {
	const shown = 5
	var b strings.Builder
	for i, p := range e.Problems {
		if i == shown {
			fmt.Fprintf(&b, "; and %d more", len(e.Problems)-shown)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(p.String())
	}
	return b.String()
}

// String gives the pointer and the text on one line, whatever characters a stranger put into a member's name.
func (p Problem) String() string {
	if p.Pointer == "" {
		return p.Text
	}
	pointer := p.Pointer
	if strings.ContainsFunc(pointer, func(r rune) bool { return !unicode.IsPrint(r) }) {
		pointer = strconv.Quote(pointer)
	}
	return pointer + ": " + p.Text
}

// NewID returns an id for a job whose publisher gave none, so that publishing it again is recognised.
func NewID() string { return nuid.Next() }

// DecodeJob reads a job that came under a site and an app, which fill in what the job leaves out and must agree with
// what it says. With "" and 0 nothing is known beforehand, and the job itself must say them.
//
// The error is [ErrNewerVersion], or a *[DecodeError] with every problem found.
func DecodeJob(raw []byte, site string, app int64) (Job, error) {
	doc, problems := parse(raw)
	if doc == nil {
		return Job{}, decodeError(problems)
	}
	if doc.newer {
		return Job{}, ErrNewerVersion
	}
	if problems := append(problems, violations(doc.value)...); len(problems) > 0 {
		return Job{}, decodeError(problems)
	}

	var f form
	if err := json.Unmarshal(raw, &f); err != nil {
		return Job{}, decodeError([]Problem{{Text: err.Error()}})
	}
	j, problems := f.job()
	if len(problems) > 0 {
		return Job{}, decodeError(problems)
	}
	if problems := j.complete(site, app); len(problems) > 0 {
		return Job{}, decodeError(problems)
	}
	return j, nil
}

// Encode gives the job's wire form. It refuses, with the same errors, whatever DecodeJob would refuse; what DecodeJob
// accepted always encodes.
func (j Job) Encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(j.form()); err != nil {
		return nil, decodeError([]Problem{{Text: err.Error()}})
	}
	raw := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if _, err := DecodeJob(raw, "", 0); err != nil {
		return nil, err
	}
	return raw, nil
}

// MarshalJSON gives the wire form unjudged, for entries of the ledger.
func (j Job) MarshalJSON() ([]byte, error) { return json.Marshal(j.form()) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (j *Job) UnmarshalJSON(raw []byte) error {
	var f form
	if err := json.Unmarshal(raw, &f); err != nil {
		return err
	}
	job, problems := f.job()
	if len(problems) > 0 {
		return decodeError(problems)
	}
	*j = job
	return nil
}

// complete finishes a decoded job with what stands in its subject and checks what a schema cannot.
func (j *Job) complete(site string, app int64) []Problem {
	var problems []Problem
	switch {
	case site == "" && j.Site == "":
		problems = append(problems, Problem{"/site", "missing"})
	case j.Site == "":
		j.Site = site
	case site != "" && j.Site != site:
		problems = append(problems, Problem{"/site", "differs from the site it was sent to"})
	}
	switch {
	case app == 0 && j.App == 0:
		problems = append(problems, Problem{"/app", "missing"})
	case j.App == 0:
		j.App = app
	case app != 0 && j.App != app:
		problems = append(problems, Problem{"/app", "differs from the app it was sent to"})
	}
	if j.Key != nil {
		j.Match = cmp.Or(j.Match, MatchOne)
	}
	if !j.Expires.IsZero() && !j.NotBefore.Before(j.Expires) {
		problems = append(problems, Problem{"/expires", "must be later than notBefore"})
	}
	return problems
}

// form is the wire form, member by member as in the schema.
type form struct {
	V         int     `json:"v"`
	Job       string  `json:"job,omitempty"`
	Site      string  `json:"site,omitempty"`
	App       number  `json:"app,omitempty"`
	Record    number  `json:"record,omitempty"`
	Key       *Key    `json:"key,omitempty"`
	Match     string  `json:"match,omitempty"`
	Action    string  `json:"action"`
	Assignee  string  `json:"assignee,omitempty"`
	Revision  *number `json:"revision,omitempty"`
	Campaign  string  `json:"campaign,omitempty"`
	By        string  `json:"by,omitempty"`
	Ref       string  `json:"ref,omitempty"`
	NotBefore string  `json:"notBefore,omitempty"`
	Expires   string  `json:"expires,omitempty"`
}

func (j Job) form() form {
	f := form{
		V: 1, Job: j.ID, Site: j.Site, App: number(j.App), Record: number(j.Record), Key: j.Key, Match: j.Match,
		Action: j.Action, Assignee: j.Assignee, Campaign: j.Campaign, By: j.By, Ref: j.Ref,
		NotBefore: formatTime(j.NotBefore), Expires: formatTime(j.Expires),
	}
	if j.Revision != -1 {
		f.Revision = new(number(j.Revision))
	}
	return f
}

func (f form) job() (Job, []Problem) {
	j := Job{
		ID: f.Job, Site: f.Site, App: int64(f.App), Record: int64(f.Record), Key: f.Key, Match: f.Match,
		Action: f.Action, Assignee: f.Assignee, Revision: -1, Campaign: f.Campaign, By: f.By, Ref: f.Ref,
	}
	if f.Revision != nil {
		j.Revision = int64(*f.Revision)
	}
	var problems []Problem
	read := func(pointer, text string) (t time.Time) {
		if text == "" {
			return t
		}
		t, err := time.Parse(time.RFC3339, text)
		// A leap second passes the schema; and a time that UTC moves out of the four-digit years, or onto the zero
		// time, could not be written down again.
		if t = t.UTC(); err != nil || t.IsZero() || t.Year() < 1 || t.Year() > 9999 {
			problems = append(problems, Problem{pointer, notATime})
		}
		return t
	}
	j.NotBefore = read("/notBefore", f.NotBefore)
	j.Expires = read("/expires", f.Expires)
	return j, problems
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// number is an integer that may also come as a decimal string, as kintone writes ids and revisions.
type number int64

func (n *number) UnmarshalJSON(raw []byte) error {
	i, err := strconv.ParseInt(strings.Trim(string(raw), `"`), 10, 64)
	*n = number(i)
	return err
}

// document is a job that is well-formed JSON, ready to be held against the schema.
type document struct {
	value any  // where something was wrong with a value, a harmless one stands in its place
	newer bool // its version is newer: nobody here can know what else is right in it
}

// parse reads raw as strictly as the schema cannot. The document is nil if there is none.
func parse(raw []byte) (*document, []Problem) {
	// Twice the limit is what the stream takes at all; a newer form might use it, nothing may use more.
	if len(raw) > 2*MaxJobBytes {
		return nil, []Problem{{"", tooBig(len(raw))}}
	}
	if !utf8.Valid(raw) {
		return nil, []Problem{{"", "not valid UTF-8"}}
	}
	if !json.Valid(raw) {
		var whole json.RawMessage
		err := json.Unmarshal(raw, &whole)
		text := fmt.Sprintf("not JSON: %v", err)
		if e, ok := errors.AsType[*json.SyntaxError](err); ok {
			text = fmt.Sprintf("%s (byte %d)", text, e.Offset)
		}
		return nil, []Problem{{"", text}}
	}

	s := scanner{raw: raw}
	doc := &document{value: s.value("", 1)}
	if o, ok := doc.value.(map[string]any); ok && !s.repeatedVersion {
		v, ok := o["v"].(json.Number)
		doc.newer = ok && v != "0" && v != "1" && !strings.HasPrefix(v.String(), "-")
	}
	if s.tooDeep {
		s.report("", "nested more than %d levels deep", maxDepth)
	}
	if len(raw) > MaxJobBytes {
		s.report("", "%s", tooBig(len(raw)))
	}
	return doc, s.problems
}

// maxDepth is how deep a job may nest. Version 1 needs two levels.
const maxDepth = 4

func tooBig(n int) string { return fmt.Sprintf("%d bytes, at most %d are taken", n, MaxJobBytes) }

// scanner walks over JSON that is known to be well-formed, which the decoder of encoding/json would prove once more at
// every token.
type scanner struct {
	raw []byte // what is left to read

	problems        []Problem
	tooDeep         bool
	repeatedVersion bool
}

func (s *scanner) value(pointer string, depth int) any {
	switch s.peek() {
	case '{':
		return s.object(pointer, depth)
	case '[':
		return s.array(pointer, depth)
	case '"':
		text := s.text()
		// Escapes of half a surrogate pair become the replacement character, and so does text that was converted
		// from another encoding and could not be: different ids would become the same.
		if strings.ContainsRune(text, utf8.RuneError) {
			s.report(pointer, "contains U+FFFD, the mark of broken text")
		}
		return text
	case 't':
		s.raw = s.raw[len("true"):]
		return true
	case 'f':
		s.raw = s.raw[len("false"):]
		return false
	case 'n':
		s.raw = s.raw[len("null"):]
		return nil
	default:
		digits := s.raw[:len(s.raw)-len(bytes.TrimLeft(s.raw, "+-.0123456789eE"))]
		s.raw = s.raw[len(digits):]
		// An exponent of a few digits is a number of a few gigabytes to whoever computes it.
		if bytes.ContainsAny(digits, ".eE") {
			s.report(pointer, "must be written as a whole number")
			return json.Number("1")
		}
		return json.Number(digits)
	}
}

func (s *scanner) object(pointer string, depth int) any {
	o := make(map[string]any)
	for s.more(depth) {
		s.peek()
		name := s.text()
		at := s.below(pointer, name, depth)
		if _, repeated := o[name]; repeated {
			s.repeatedVersion = s.repeatedVersion || depth == 1 && name == "v"
			s.report(at, "given more than once")
		}
		s.peek() // the colon
		s.raw = s.raw[1:]
		o[name] = s.value(at, depth+1)
	}
	return o
}

func (s *scanner) array(pointer string, depth int) any {
	a := []any{}
	for s.more(depth) {
		a = append(a, s.value(s.below(pointer, strconv.Itoa(len(a)), depth), depth+1))
	}
	return a
}

// peek passes over white space and returns the first byte behind it.
func (s *scanner) peek() byte {
	s.raw = bytes.TrimLeft(s.raw, " \t\r\n")
	return s.raw[0]
}

// more passes over the bracket that opens an object or array of this depth, or over what follows an item, and reports
// whether an item comes.
func (s *scanner) more(depth int) bool {
	s.tooDeep = s.tooDeep || depth > maxDepth
	switch s.peek() {
	case '{', '[':
		s.raw = s.raw[1:]
		if c := s.peek(); c != '}' && c != ']' {
			return true
		}
	case ',':
		s.raw = s.raw[1:]
		return true
	}
	s.raw = s.raw[1:]
	return false
}

// text reads a string.
func (s *scanner) text() string {
	end := 1
	for escaped := false; ; end++ {
		switch c := s.raw[end]; {
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
		case c == '"':
			quoted := s.raw[:end+1]
			s.raw = s.raw[end+1:]
			if !bytes.ContainsRune(quoted, '\\') {
				return string(quoted[1:end])
			}
			var text string
			_ = json.Unmarshal(quoted, &text) // well-formed
			return text
		}
	}
}

// below is the pointer of a member or an item; below the greatest depth, where everything is refused, nobody needs it.
func (s *scanner) below(pointer, part string, depth int) string {
	if depth > maxDepth {
		return pointer
	}
	return pointer + "/" + escapePointer(part)
}

func (s *scanner) report(pointer, format string, args ...any) {
	s.problems = append(s.problems, Problem{pointer, fmt.Sprintf(format, args...)})
}

// jobSchema is schema/job.v1.json, compiled once, and the names of the members by the pointer of their object.
var jobSchema = sync.OnceValues(func() (*jsonschema.Schema, map[string][]string) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema.Job))
	if err != nil {
		panic("schema/job.v1.json: " + err.Error()) // embedded at build time, held by a test
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(schema.JobURL, doc); err != nil {
		panic("schema/job.v1.json: " + err.Error())
	}
	compiled := c.MustCompile(schema.JobURL)
	return compiled, map[string][]string{
		"":     slices.Sorted(maps.Keys(compiled.Properties)),
		"/key": slices.Sorted(maps.Keys(compiled.Properties["key"].Properties)),
	}
})

// violations holds a scanned document against the schema.
func violations(doc any) []Problem {
	compiled, _ := jobSchema()
	err := compiled.Validate(doc)
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return []Problem{{"", err.Error()}}
	}
	return explain(nil, e)
}

const notATime = "must be a time as in 2026-12-01T09:00:00+09:00"

// explain puts a schema's findings into words and appends them to problems.
func explain(problems []Problem, e *jsonschema.ValidationError) []Problem {
	var pointer string
	for _, part := range e.InstanceLocation {
		pointer += "/" + escapePointer(part)
	}
	say := func(text string) []Problem { return append(problems, Problem{pointer, text}) }

	switch k := e.ErrorKind.(type) {
	case *kind.OneOf: // of record and key
		if k.Subschemas == nil {
			return say("record or key is missing")
		}
		return say("has both record and key")
	case *kind.AnyOf: // of a revision's values
		return say("must be at least 1, or -1 for any")
	case *kind.DependentRequired:
		return append(problems, Problem{pointer + "/" + k.Prop, "is for jobs with a key"})
	case *kind.Required:
		for _, name := range k.Missing {
			problems = append(problems, Problem{pointer + "/" + name, "missing"})
		}
		return problems
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			text := "unknown member"
			if meant := meant(pointer, name); meant != "" {
				text += ", did you mean " + meant + "?"
			}
			problems = append(problems, Problem{pointer + "/" + escapePointer(name), text})
		}
		return problems
	case *kind.Type:
		return say("must be " + describeTypes(k.Want))
	case *kind.Enum:
		return say("must be " + MatchOne + " or " + MatchAll)
	case *kind.Not: // of the names that jobs without an id get
		return say("must not be s and a number: jobs without an id are called like that")
	case *kind.Const:
		return say(fmt.Sprintf("must be %v", k.Want))
	case *kind.Minimum:
		return say("must be at least " + k.Want.RatString())
	case *kind.Maximum:
		return say("must be at most " + k.Want.RatString())
	case *kind.MinLength:
		return say("must not be empty")
	case *kind.MaxLength:
		return say(fmt.Sprintf("has %d characters, at most %d are taken", k.Got, k.Want))
	case *kind.Format:
		return say(notATime)
	case *kind.Pattern:
		return say(describePattern(pointer))
	}
	if len(e.Causes) == 0 {
		return say(e.Error())
	}
	for _, cause := range e.Causes {
		problems = explain(problems, cause)
	}
	return problems
}

func describeTypes(want []string) string {
	if len(want) > 1 {
		return "a whole number or the same as a decimal string"
	}
	switch want[0] {
	case "integer":
		return "a whole number"
	case "object":
		return "an object"
	default:
		return "a " + want[0]
	}
}

func describePattern(pointer string) string {
	switch pointer {
	case "/site":
		return "must be 1 to 32 of a to z, 0 to 9 and -"
	case "/app", "/record":
		return "must be a positive whole number of at most 18 decimal digits"
	case "/revision":
		return "must be a positive whole number of at most 18 decimal digits, or -1 for any"
	case "/job", "/campaign":
		return "must be printable characters with no space at either end"
	default:
		return "must not contain control characters"
	}
}

// meant guesses which member of the object at pointer a publisher had in mind, "" if none.
func meant(pointer, name string) string {
	_, members := jobSchema()
	// kintone calls a record's number id, and a field's name code.
	if alias := map[string]string{"/id": "record", "/key/code": "field"}[pointer+"/"+strings.ToLower(name)]; alias != "" {
		return alias
	}
	if len(name) > 32 {
		return ""
	}
	plain := strings.NewReplacer("_", "", "-", "", " ", "").Replace
	best, distance := "", 3
	for _, member := range members[pointer] {
		d := edits(strings.ToLower(plain(name)), strings.ToLower(member))
		if d < distance && d < len(member)/2 {
			best, distance = member, d
		}
		if d == 0 {
			return member
		}
	}
	return best
}

// edits is the Levenshtein distance of two short strings, in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func escapePointer(part string) string {
	if !strings.ContainsAny(part, "~/") {
		return part
	}
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(part)
}

// decodeError orders problems and drops what was found twice.
func decodeError(problems []Problem) *DecodeError {
	slices.SortFunc(problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.Pointer, b.Pointer), strings.Compare(a.Text, b.Text))
	})
	return &DecodeError{Problems: slices.Compact(problems)}
}
