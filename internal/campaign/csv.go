package campaign

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/text/unicode/norm"

	"statusq/internal/queue"
)

// Columns are the headings that a CSV file may have, in the order in which messages list them. They are recognised
// whatever their case and width and with space around them.
var Columns = []string{"job", "app", "record", "key_field", "key_value", "match", "action", "assignee", "revision", "ref"}

// wellKnown says what to do about headings that kintone's own exports have. A status is where a record stands, not an
// action: taking it for one would run whatever action happens to be named like it.
var wellKnown = map[string]string{
	"レコード番号": "record", "record number": "record", "record_number": "record", "记录编号": "record",
	"作業者": "assignee", "执行者": "assignee",
	"アクション": "action", "动作": "action",
	"アプリid": "app", "アプリ": "app",
	"リビジョン": "revision", "$id": "record", "$revision": "revision",
	"ステータス": "-", "status": "-", "状态": "-",
}

// sheet is a CSV file while it is read.
type sheet struct {
	encoding string
	defaults queue.Job
	headings []string // as in the file, trimmed
	names    []string // our name for each, "" for a column to be ignored
	problems *RowErrors
}

// readCSV returns the rows that are valid and adds what is wrong with the others to problems.
func readCSV(text []byte, encoding string, o ReadOptions, problems *RowErrors) []Row {
	in := csv.NewReader(bytes.NewReader(text))
	in.Comma = separator(text)
	in.FieldsPerRecord = -1 // counted here, so that the message can say more
	in.ReuseRecord = true

	s := &sheet{encoding: encoding, defaults: o.Defaults, problems: problems}
	header, err := in.Read()
	if err != nil {
		s.syntax(err)
		return nil
	}
	line, _ := in.FieldPos(0)
	if !s.readHeader(line, header, o.Map) {
		return nil
	}

	var rows []Row
	for {
		cells, err := in.Read()
		if err == io.EOF {
			break
		}
		if err != nil { // where the next row starts is no longer certain
			s.syntax(err)
			break
		}
		line, _ := in.FieldPos(0)
		if blank(cells) { // spreadsheets leave rows of nothing but commas behind
			continue
		}
		if row, ok := s.readRow(line, cells); ok {
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 && problems.Total == 0 {
		problems.add(line, "", "no rows: there is nothing below the header")
	}
	return rows
}

// readHeader finds out what each column is and reports whether the rows below can be read.
func (s *sheet) readHeader(line int, cells []string, renamed map[string]string) bool {
	before := s.problems.Total
	rename := make(map[string]string, len(renamed))
	for heading, name := range renamed {
		name = fold(name)
		if name != "-" && !slices.Contains(Columns, name) {
			s.problems.add(line, heading, "there is no column %q to map it to (known: %s; - to ignore it)", name, strings.Join(Columns, ", "))
		}
		rename[fold(heading)] = name
	}

	taken := make(map[string]string)
	for _, cell := range cells {
		heading := strings.TrimSpace(cell)
		name := fold(heading)
		to, mapped := rename[name]
		delete(rename, name)
		if mapped {
			name = to
		}
		s.headings = append(s.headings, heading)

		text := unreadable(heading, s.encoding)
		switch {
		case text != "":
		case name == "-":
			name = ""
		case name == "":
			text = "this column has no heading"
		case !slices.Contains(Columns, name):
			text = unknownColumn(heading)
		case taken[name] != "":
			text = fmt.Sprintf("is the column %s, and so is %q; use --map %s=- for the one to be ignored", name, taken[name], quoteArg(heading))
		}
		if text != "" {
			s.problems.add(line, heading, "%s", text)
		}
		taken[name] = heading
		s.names = append(s.names, name)
	}
	for _, name := range slices.Sorted(maps.Keys(rename)) {
		s.problems.add(line, "", "--map names a column %q that the file does not have", name)
	}

	for _, need := range []struct {
		name  string
		given bool
		how   string
	}{
		{"record", taken["key_value"] != "", "add it, or use --map COLUMN=record, or --map COLUMN=key_value with --key-field for records that a field's value names"},
		{"key_field", taken["key_value"] == "" || s.defaults.Key != nil, "add it, or give --key-field"},
		{"app", s.defaults.App != 0, "add it, or give --app"},
		{"action", s.defaults.Action != "", "add it, or give --action"},
	} {
		// A file with unknown columns has had its say: the missing one is most likely among them.
		if s.problems.Total == before && !need.given && taken[need.name] == "" {
			s.problems.add(line, "", "the column %s is missing: %s", need.name, need.how)
		}
	}
	return s.problems.Total == before
}

func (s *sheet) readRow(line int, cells []string) (Row, bool) {
	before := s.problems.Total
	if len(cells) != len(s.names) {
		s.problems.add(line, "", "has %d cells, the header has %d (a comma or quote too many or too few?)", len(cells), len(s.names))
		return Row{}, false
	}
	job := s.defaults
	key := queue.Key{}
	if job.Key != nil {
		key = *job.Key
	}
	match := ""
	for i, raw := range cells {
		cell := strings.TrimSpace(raw)
		if s.names[i] == "" || cell == "" {
			continue
		}
		if text := unreadable(cell, s.encoding); text != "" {
			s.problems.add(line, s.headings[i], "%s", text)
			continue
		}
		switch s.names[i] {
		case "job":
			job.ID = strings.Clone(cell)
		case "app":
			s.number(&job.App, line, i, cell, 1)
		case "record":
			s.number(&job.Record, line, i, cell, 1)
		case "key_field":
			key.Field = strings.Clone(cell)
		case "key_value":
			key.Value = strings.Clone(raw) // space in it may be what tells two records apart
		case "match":
			match = strings.ToLower(cell)
		case "revision":
			s.number(&job.Revision, line, i, cell, -1)
		case "action":
			job.Action = strings.Clone(cell)
		case "assignee":
			job.Assignee = strings.Clone(cell)
		case "ref":
			job.Ref = strings.Clone(cell)
		}
	}
	if s.problems.Total > before {
		return Row{}, false
	}
	// What the flags say of keys is for the rows that have one.
	keyed := key.Value != ""
	job.Key = nil
	if keyed {
		job.Key = &key
		match = cmp.Or(match, job.Match, queue.MatchOne)
	}
	job.Match = match
	byKey, byRecord := slices.Contains(s.names, "key_value"), slices.Contains(s.names, "record")
	for _, lack := range []struct {
		name string
		is   bool
	}{
		{"app", job.App == 0},
		{"record", job.Record == 0 && !byKey},
		{"key_value", !keyed && !byRecord},
		{"key_field", keyed && key.Field == ""},
		{"action", job.Action == ""},
	} {
		if lack.is {
			s.problems.add(line, s.heading(lack.name), "is empty")
		}
	}
	if job.Record == 0 && !keyed && byKey && byRecord {
		s.problems.add(line, s.heading("record"), "is empty, and so is %s: one of them has to say which record", s.heading("key_value"))
	}
	if s.problems.Total == before {
		checkJob(line, job, s.heading, s.problems)
	}
	return Row{Line: line, Job: job}, s.problems.Total == before
}

// number reads an integer of at least low. Japanese input methods write digits in full width; NFKC makes them plain.
func (s *sheet) number(to *int64, line, i int, cell string, low int64) {
	n, err := strconv.ParseInt(norm.NFKC.String(cell), 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		s.problems.add(line, s.headings[i], "%s is too large", cell)
	case err != nil && s.names[i] == "record" && strings.Contains(cell, "-"):
		s.problems.add(line, s.headings[i], "%q is not a record id; give the number alone, without the app's code", cell)
	case err != nil:
		s.problems.add(line, s.headings[i], "%q is not a whole number", cell)
	case n < low:
		s.problems.add(line, s.headings[i], "%d is too small, the least is %d", n, low)
	default:
		*to = n
	}
}

// heading returns the file's heading of one of our columns, or our own name for it if it has none.
func (s *sheet) heading(name string) string {
	if i := slices.Index(s.names, name); i >= 0 {
		return s.headings[i]
	}
	return name
}

// syntax reports what the CSV reader could not read.
func (s *sheet) syntax(err error) {
	p, ok := errors.AsType[*csv.ParseError](err)
	if !ok {
		s.problems.add(1, "", "%v", err)
		return
	}
	text := p.Err.Error()
	switch {
	case errors.Is(err, csv.ErrBareQuote):
		text = fmt.Sprintf("has a \" inside a cell that does not begin with one (line %d, byte %d); write the cell as \"…\" with every \" doubled", p.Line, p.Column)
	case errors.Is(err, csv.ErrQuote):
		text = fmt.Sprintf("has a quoted cell that does not end properly (noticed in line %d)", p.Line)
	}
	s.problems.add(p.StartLine, "", "%s; the rows below were not read", text)
}

// checkJob puts a job through the rules that hold for every published job and reports what they say in terms of the
// file's columns.
func checkJob(line int, job queue.Job, heading func(string) string, problems *RowErrors) {
	if job.ID == "" { // the id comes later and is always well formed; the rules must not miss it now
		job.ID = "row"
	}
	_, err := job.Encode()
	if err == nil {
		return
	}
	refused, ok := errors.AsType[*queue.DecodeError](err)
	if !ok {
		problems.add(line, "", "%v", err)
		return
	}
	for _, p := range refused.Problems {
		// /key/value is the column key_value.
		name := strings.ReplaceAll(strings.TrimPrefix(p.Pointer, "/"), "/", "_")
		problems.add(line, heading(name), "%s", p.Text)
	}
}

func unknownColumn(heading string) string {
	arg := quoteArg(heading)
	known := "unknown column (known: " + strings.Join(Columns, ", ") + "); "
	switch to := wellKnown[fold(heading)]; to {
	case "":
		return known + fmt.Sprintf("use --map %s=NAME, or --map %s=- to ignore it", arg, arg)
	case "-":
		return known + fmt.Sprintf("a status is where a record stands, not an action; use --map %s=- to ignore it", arg)
	default:
		return known + fmt.Sprintf("use --map %s=%s, or --map %s=- to ignore it", arg, to, arg)
	}
}

// quoteArg writes a heading as a shell would need it.
func quoteArg(s string) string {
	if strings.ContainsAny(s, " \t\n'\"\\$`&;|<>()*?[]{}!#~") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// fold makes headings comparable: width (NFKC), case and the space around them do not matter.
func fold(heading string) string {
	return strings.ToLower(strings.TrimSpace(norm.NFKC.String(heading)))
}

func blank(cells []string) bool {
	return !slices.ContainsFunc(cells, func(c string) bool { return strings.TrimSpace(c) != "" })
}

// separator is the comma, unless the first line has none but has what spreadsheets write instead: tabs in "Unicode
// text", semicolons where the comma is the decimal mark.
func separator(text []byte) rune {
	first, _, _ := bytes.Cut(bytes.TrimLeft(text, "\r\n"), []byte{'\n'})
	switch {
	case bytes.ContainsRune(first, ','):
		return ','
	case bytes.ContainsRune(first, '\t'):
		return '\t'
	case bytes.ContainsRune(first, ';'):
		return ';'
	}
	return ','
}
