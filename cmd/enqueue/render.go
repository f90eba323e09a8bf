package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"

	"statusq/internal/campaign"
)

// head begins every JSON object on stdout.
type head struct {
	Type string `json:"type"`
	V    int    `json:"v"`
}

func of(kind string) head { return head{kind, 1} }

// id is a number that names something. In JSON it is a string, as kintone has it: no reader rounds it.
type id int64

func (n id) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(n), 10), nil }

// utc is a time in JSON: RFC 3339, UTC.
func utc(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// local is a time for people, in their own zone.
func local(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// emit writes one JSON object on a line of its own.
func (e *env) emit(v any) error {
	enc := json.NewEncoder(e.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// print writes text to stdout, in the language of --lang. Its error is that of a pipe whose reader has gone.
func (e *env) print(format string, args ...any) error {
	_, err := io.WriteString(e.stdout, in(e.Lang, format, args...))
	return err
}

// say writes a line to stderr, likewise.
func (e *env) say(format string, args ...any) {
	fmt.Fprintln(e.stderr, in(e.Lang, format, args...))
}

// printable makes text from strangers harmless for a terminal: control characters and direction marks become spaces,
// line ends stay within the line.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// grid is a table without lines. Columns are aligned by the width that characters have on screen, where 承 takes as much
// as two letters.
type grid struct {
	w    table.Writer
	lang string
}

// maxCell is how wide a table's cell may be on screen; more of it is in "show" and in JSON.
const maxCell = 60

// newGrid takes the headings. One that ends in ">" stands over a column of numbers, flush right.
func (e *env) newGrid(headings ...string) grid { return e.gridOf(maxCell, headings...) }

// gridOf is newGrid with cells cut to width, unless that is 0.
func (e *env) gridOf(width int, headings ...string) grid {
	g := e.listing(width, headings...)
	row := make(table.Row, len(headings))
	for i, h := range headings {
		row[i] = word(e.Lang, strings.TrimSuffix(h, ">"))
	}
	g.w.AppendHeader(row)
	return g
}

// listing is a grid without headings; what would be one only says whether its column is flush right. Cells are cut to
// width, unless that is 0.
func (e *env) listing(width int, columns ...string) grid {
	w := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header = text.FormatDefault
	w.SetStyle(style)
	w.SuppressTrailingSpaces()

	configs := make([]table.ColumnConfig, len(columns))
	for i, c := range columns {
		configs[i] = table.ColumnConfig{Number: i + 1, WidthMax: width, WidthMaxEnforcer: shorten}
		if strings.HasSuffix(c, ">") {
			configs[i].Align, configs[i].AlignHeader = text.AlignRight, text.AlignRight
		}
	}
	w.SetColumnConfigs(configs)
	return grid{w, e.Lang}
}

// shorten cuts s to a width on screen and shows that it did.
func shorten(s string, width int) string {
	if text.StringWidthWithoutEscSequences(s) <= width {
		return s
	}
	used := 0
	for i, r := range s {
		if used += text.RuneWidth(r); used >= width {
			return s[:i] + "…"
		}
	}
	return s
}

func (g grid) add(cells ...any) {
	row := make(table.Row, len(cells))
	for i, c := range cells {
		row[i] = printable(fmt.Sprint(c))
	}
	g.w.AppendRow(row)
}

// addFact adds a name and a text to a listing, if there is a text.
func (g grid) addFact(name, text string) {
	if text != "" {
		g.add(word(g.lang, name), text)
	}
}

// addNumber is addFact for a number, of which 0 means none.
func (g grid) addNumber(name string, n int64) {
	if n != 0 {
		g.add(word(g.lang, name), n)
	}
}

// addReason adds a reason code to a listing, with what it means and what can be done about it.
func (g grid) addReason(code string) {
	what, todo := campaign.ReasonText(code, g.lang)
	g.addFact("reason", code)
	if what != code {
		g.add("", what)
	}
	if todo != "" {
		g.add("", "→ "+todo)
	}
}

// write writes the table to stdout, each line behind an indent.
func (e *env) write(g grid, indent string) error {
	for line := range strings.SplitSeq(g.w.Render(), "\n") {
		if err := e.print("%s\n", strings.TrimRight(indent+line, " ")); err != nil {
			return err
		}
	}
	return nil
}

// count writes a number of things in words: "1 job", "2 jobs", ジョブ2件.
func count[N int | int64 | uint64](lang string, n N, thing string) string {
	if lang == "ja" {
		return fmt.Sprintf("%s%d件", word(lang, thing), n)
	}
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// span is how long something takes, to the second. What is beyond a year is not worth counting in hours.
func span(lang string, d time.Duration) string {
	if d > 365*24*time.Hour {
		return in(lang, "more than a year")
	}
	return duration(lang, d.Round(time.Second))
}

// duration is a time as "1h30m0s", 1時間30分0秒.
func duration(lang string, d time.Duration) string {
	text := d.String()
	if lang == "ja" {
		return strings.NewReplacer("ms", "ミリ秒", "µs", "マイクロ秒", "ns", "ナノ秒", "h", "時間", "m", "分", "s", "秒").Replace(text)
	}
	return text
}

// orDash stands for what is not there, so that a column does not look forgotten.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// byCount lists the keys of m, the most frequent first.
func byCount(m map[string]int) []string {
	return slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		if m[a] != m[b] {
			return m[b] - m[a]
		}
		return strings.Compare(a, b)
	})
}

// explainReasons writes how often each reason was given, what it means and what can be done about it.
func (e *env) explainReasons(reasons map[string]int) error {
	if len(reasons) == 0 {
		return nil
	}
	g := e.listing(0, ">", "", "")
	for _, code := range byCount(reasons) {
		what, todo := campaign.ReasonText(code, e.Lang)
		if what == code {
			what = ""
		}
		g.add(reasons[code], orDash(code), what)
		if todo != "" {
			g.add("", "", "→ "+todo)
		}
	}
	return e.write(g, "  ")
}

// isTerminal reports whether a stream is one at which a person sits.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
