package campaign

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"statusq/internal/queue"
)

// Format says how the rows of a file are written.
type Format string

// The formats. Auto, which the zero value means as well, goes by the file's name and then by its first character.
const (
	Auto   Format = "auto"
	CSV    Format = "csv"
	NDJSON Format = "ndjson"
)

// ReadOptions say how to read a file. The zero value reads a CSV or NDJSON file that needs no help.
type ReadOptions struct {
	// Name is the file's name, for messages, for the format and for the campaign's default name; "" or "-" is
	// standard input.
	Name string

	Format   Format
	Encoding string // "auto" (default), "utf8" or "sjis"; a byte order mark wins over all three

	// Map renames CSV columns: heading in the file to one of [Columns], or to "-" for a column to be ignored.
	Map map[string]string

	// Defaults fill what a row leaves out. Its Site holds for every row. A zero Revision means none.
	Defaults queue.Job
}

// Row is one job and where in the file it stands.
type Row struct {
	Line int // 1-based; the first line of a row whose cells span several
	Job  queue.Job
}

// File is a file that was read wholly and is valid.
type File struct {
	Campaign string // the default's name, or the one that the rows give, or "<file>-<first 12 digits of Digest>"
	SHA256   string // of the bytes as they were read, hex
	Digest   string // of what the rows ask for, hex: the same jobs in the same order have the same digest
	Format   Format // what Auto turned out to be
	Encoding string // "utf8", "utf16" or "sjis"
	Rows     []Row  // at least one, each with a job id
}

// Apps returns the number of rows for each app.
func (f *File) Apps() map[int64]int {
	apps := make(map[int64]int)
	for _, r := range f.Rows {
		apps[r.Job.App]++
	}
	return apps
}

// Jobs returns the jobs of all rows, in order.
func (f *File) Jobs() []queue.Job {
	jobs := make([]queue.Job, len(f.Rows))
	for i, r := range f.Rows {
		jobs[i] = r.Job
	}
	return jobs
}

// keptProblems is how many problems of a file are kept in full; the rest are counted.
const keptProblems = 20

// RowProblem is one thing wrong with one row.
type RowProblem struct {
	Line   int    // 1-based
	Column string // a column's heading, a JSON pointer, or "" for the row as a whole
	Text   string
}

func (p RowProblem) String() string {
	if p.Column == "" {
		return fmt.Sprintf("line %d: %s", p.Line, p.Text)
	}
	return fmt.Sprintf("line %d, %s: %s", p.Line, p.Column, p.Text)
}

// RowErrors says what is wrong with a file. Nothing of such a file may be sent.
type RowErrors struct {
	Name     string       // the file's name
	Problems []RowProblem // the first 20, by line
	Total    int          // of all problems found
}

func (e *RowErrors) Error() string {
	text := e.Name + ": " + e.Problems[0].String()
	if e.Total > 1 {
		text += fmt.Sprintf(" (and %d more)", e.Total-1)
	}
	return text
}

func (e *RowErrors) add(line int, column, format string, args ...any) {
	e.Total++
	if len(e.Problems) < keptProblems {
		e.Problems = append(e.Problems, RowProblem{line, column, fmt.Sprintf(format, args...)})
	}
}

// Read reads a whole file. Its error is a [*RowErrors] when the content is at fault; anything else is a reader that
// failed or an option that does not exist.
func Read(r io.Reader, o ReadOptions) (*File, error) {
	if o.Name == "" || o.Name == "-" {
		o.Name = "stdin"
	}
	if o.Defaults.Revision == 0 {
		o.Defaults.Revision = -1
	}

	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", o.Name, err)
	}
	text, encoding, err := decode(raw, o.Encoding)
	if err != nil {
		return nil, err
	}
	format, err := formatOf(text, o)
	if err != nil {
		return nil, err
	}

	sum := sha256.Sum256(raw)
	f := &File{SHA256: hex.EncodeToString(sum[:]), Format: format, Encoding: encoding}
	problems := &RowErrors{Name: o.Name}
	switch {
	case len(bytes.TrimSpace(text)) == 0:
		problems.add(1, "", "no rows: the file is empty")
	case format == CSV:
		f.Rows = readCSV(text, encoding, o, problems)
	default:
		f.Rows = readNDJSON(text, o, problems)
	}
	f.name(o, problems)
	refuseTwins(f.Rows, problems)
	if problems.Total > 0 {
		slices.SortStableFunc(problems.Problems, func(a, b RowProblem) int { return cmp.Compare(a.Line, b.Line) })
		return nil, problems
	}
	return f, nil
}

// name gives the campaign its name and each row that has no job id an id made of the campaign and the row's number.
// NDJSON rows may name the campaign themselves, but only one: a file is one campaign.
func (f *File) name(o ReadOptions, problems *RowErrors) {
	h := sha256.New()
	for _, r := range f.Rows {
		j := r.Job
		fmt.Fprintf(h, "%d %d %d %q %q %q %q", j.App, j.Record, j.Revision, j.Action, j.Assignee, j.ID, j.Match)
		if j.Key != nil {
			fmt.Fprintf(h, " %q %q", j.Key.Field, j.Key.Value)
		}
		h.Write([]byte{'\n'})
	}
	f.Digest = hex.EncodeToString(h.Sum(nil))
	f.Campaign = o.Defaults.Campaign
	if f.Campaign == "" && len(f.Rows) > 0 {
		f.Campaign = f.Rows[0].Job.Campaign
	}
	f.Campaign = cmp.Or(f.Campaign, baseName(o.Name)+"-"+f.Digest[:12])

	for i := range f.Rows {
		j := &f.Rows[i].Job
		if j.Campaign != "" && j.Campaign != f.Campaign {
			problems.add(f.Rows[i].Line, "campaign", "is %q, but the file is sent as campaign %q", j.Campaign, f.Campaign)
		}
		j.Campaign = f.Campaign
		j.ID = cmp.Or(j.ID, f.Campaign+"-"+strconv.Itoa(i+1))
	}
}

// refuseTwins reports job ids that stand in the file twice: the queue would take the second for a repetition of the
// first and never run it.
func refuseTwins(rows []Row, problems *RowErrors) {
	first := make(map[string]int, len(rows))
	for _, r := range rows {
		if line, ok := first[r.Job.ID]; ok {
			problems.add(r.Line, "job", "%q is the id of line %d already", r.Job.ID, line)
			continue
		}
		first[r.Job.ID] = r.Line
	}
}

// maxBaseName bounds the part of a campaign's default name that comes from the file, in characters, so that ids made
// from it stay well inside the 128 that a job id may have.
const maxBaseName = 40

// baseName makes a file's name fit for ids: its folder and extension go, what is neither letter nor digit becomes "-".
func baseName(file string) string {
	base := filepath.Base(file)
	base = strings.TrimSuffix(base, filepath.Ext(base))
	var b strings.Builder
	n := 0
	for _, c := range base {
		if n++; n > maxBaseName {
			break
		}
		if !unicode.IsLetter(c) && !unicode.IsDigit(c) && c != '_' {
			c = '-'
		}
		b.WriteRune(c)
	}
	return cmp.Or(strings.Trim(b.String(), "-"), "jobs")
}

func formatOf(text []byte, o ReadOptions) (Format, error) {
	switch o.Format {
	case CSV, NDJSON:
		return o.Format, nil
	case Auto, "":
	default:
		return "", fmt.Errorf("format %q: not one of auto, csv, ndjson", o.Format)
	}
	switch strings.ToLower(filepath.Ext(o.Name)) {
	case ".csv", ".tsv", ".txt":
		return CSV, nil
	case ".ndjson", ".jsonl":
		return NDJSON, nil
	}
	if start := bytes.TrimSpace(text); len(start) > 0 && (start[0] == '{' || start[0] == '[') {
		return NDJSON, nil
	}
	return CSV, nil
}
