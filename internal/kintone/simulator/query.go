package simulator

import (
	"cmp"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// predicate reports whether a record meets a condition.
type predicate func(id int64, r *recordData) bool

// query is a compiled query: conditions, order, limit and offset (docs/kintone.md 6). What the simulator does not speak
// (like, functions) is refused as unreadable.
type query struct {
	filter
	order         []ordering
	limit, offset int
	usesStatus    bool

	// What the text said itself, as opposed to defaults.
	ordered, limited, skipped bool
}

// filter is a condition. Beside the predicate it knows which record numbers can match at all, so that looking records up
// by $id does not walk through a million of them.
type filter struct {
	matches   predicate
	ids       func() []int64 // if there is one: no other record can match
	low, high int64          // inclusive
}

type ordering struct {
	field      appField
	descending bool
}

const (
	defaultLimit = 100
	maxLimit     = 500
	maxOffset    = 10_000
)

// idField is $id, which every app has without listing it.
var idField = appField{Field{Code: "$id", Type: "__ID__"}, true}

// operators says which operators a type of field takes (docs/kintone.md 6).
var operators = map[string]string{
	"__ID__": numeric, "RECORD_NUMBER": numeric, "NUMBER": numeric, "CALC": numeric,
	"SINGLE_LINE_TEXT": textual, "LINK": textual, "STATUS": textual,
	"DATE": dated, "TIME": dated, "DATETIME": dated, "CREATED_TIME": dated, "UPDATED_TIME": dated,
	"STATUS_ASSIGNEE": listed, "CREATOR": listed, "MODIFIER": listed, "USER_SELECT": listed, "GROUP_SELECT": listed,
	"ORGANIZATION_SELECT": listed, "CHECK_BOX": listed, "RADIO_BUTTON": listed, "DROP_DOWN": listed, "MULTI_SELECT": listed,
	"MULTI_LINE_TEXT": "", "RICH_TEXT": "", // like only
	"SUBTABLE": "", "FILE": "", // its fields, or nothing
}

const (
	numeric = "=|!=|>|<|>=|<=|in|not in"
	textual = "=|!=|in|not in"
	dated   = "=|!=|>|<|>=|<="
	listed  = "in|not in"
)

// compile reads a query as the caller means it.
func (k *Kintone) compile(a *app, source string, by caller) (*query, *Refusal) {
	p := &parser{k: k, a: a, by: by}
	if !p.scan(source) {
		return nil, unreadable()
	}
	q := &query{limit: defaultLimit}
	q.filter = filter{low: 1, high: math.MaxInt64}
	if !p.at("order") && !p.at("limit") && !p.at("offset") && p.token().kind != end {
		q.filter = p.alternatives()
	}
	if p.take("order") {
		p.expect("by")
		q.ordered = true
		for {
			o := ordering{field: p.field(), descending: true}
			if o.field.Table != "" || operators[o.field.Type] == "" {
				p.fail(unreadable()) // not recorded
			}
			if p.take("asc") {
				o.descending = false
			} else {
				p.take("desc")
			}
			q.order = append(q.order, o)
			if !p.take(",") {
				break
			}
		}
	}
	if p.take("limit") {
		q.limited, q.limit = true, p.count()
	}
	if p.take("offset") {
		q.skipped, q.offset = true, p.count()
	}
	q.usesStatus = p.usesStatus
	switch {
	case p.refusal != nil:
		return nil, p.refusal
	case p.token().kind != end:
		return nil, unreadable()
	case q.limit < 1 || q.limit > maxLimit:
		return nil, refuse("GAIA_QU01", "")
	case q.offset > maxOffset:
		return nil, refuse("GAIA_QU02", "")
	case p.usesStatus && !a.flow.Enabled:
		return nil, refuse("GAIA_ST02", "")
	}
	if len(q.order) == 0 {
		q.order = []ordering{{idField, true}}
	}
	return q, nil
}

// unreadable is a mistake in the query (docs/kintone.md 2.3: CB_VA01 with errors.query).
func unreadable() *Refusal {
	c := complaints{}
	c.add("query", badQuery)
	return c.refusal()
}

// run returns the numbers of the records that match and may be seen, ordered, from offset and up to limit, and how many
// match in all if that is wanted.
func (q *query) run(a *app, wantTotal bool) (ids []int64, total int) {
	if len(q.order) > 1 || q.order[0].field.Type != "__ID__" && q.order[0].field.Type != "RECORD_NUMBER" {
		for id := range q.candidates(a, false) {
			if q.hits(a, id) {
				ids = append(ids, id)
			}
		}
		slices.SortStableFunc(ids, func(x, y int64) int { return q.compare(a, x, y) })
		from := min(q.offset, len(ids))
		return ids[from:min(from+q.limit, len(ids))], len(ids)
	}
	for id := range q.candidates(a, q.order[0].descending) {
		if !q.hits(a, id) {
			continue
		}
		if total++; total > q.offset && len(ids) < q.limit {
			ids = append(ids, id)
		}
		if len(ids) == q.limit && !wantTotal {
			break
		}
	}
	return ids, total
}

func (q *query) hits(a *app, id int64) bool {
	r := a.look(id)
	if r.condition != present || r.more != nil && r.more.hidden {
		return false
	}
	return q.matches == nil || q.matches(id, r)
}

// candidates yields the record numbers that can match, each once, in ascending or descending order.
func (q *query) candidates(a *app, descending bool) func(yield func(int64) bool) {
	low, high := max(q.low, 1), min(q.high, a.last)
	return func(yield func(int64) bool) {
		if q.ids != nil {
			ids := slices.Compact(slices.Sorted(slices.Values(q.ids())))
			if descending {
				slices.Reverse(ids)
			}
			for _, id := range ids {
				if !yield(id) {
					return
				}
			}
			return
		}
		for n := range high - low + 1 {
			id := low + n
			if descending {
				id = high - n
			}
			if !yield(id) {
				return
			}
		}
	}
}

func (q *query) compare(a *app, x, y int64) int {
	for _, o := range q.order {
		c := cmp.Compare(x, y)
		if o.field.Type != "__ID__" && o.field.Type != "RECORD_NUMBER" {
			c = compare(o.field.Type, a.canonical(o.field, x, a.look(x)), a.canonical(o.field, y, a.look(y)))
		}
		if o.descending {
			c = -c
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(y, x)
}

// plain returns what a record holds in a field as one string; several users are separated by commas.
func (a *app) plain(f appField, id int64, r *recordData) string {
	switch f.Type {
	case "__ID__", "RECORD_NUMBER":
		return strconv.FormatInt(id, 10)
	case "STATUS":
		return r.status
	case "STATUS_ASSIGNEE":
		return strings.Join(r.assignees, ",")
	case "MODIFIER":
		return r.modifier
	case "CREATOR":
		return r.creator()
	case "UPDATED_TIME":
		return stamp(r.updated)
	case "CREATED_TIME":
		return stamp(a.template.updated)
	}
	return a.value(id, r, f)
}

// stamp writes a time as kintone does, in whole minutes.
func stamp(unixNano int64) string {
	return time.Unix(0, unixNano).UTC().Format("2006-01-02T15:04:00Z")
}

// number reads a decimal number exactly; nil if it is none.
func number(s string) *big.Rat {
	if !decimal(s) {
		return nil
	}
	n, _ := new(big.Rat).SetString(s)
	return n
}

// canonical writes a value in the one way in which two equal ones are alike: numbers as fractions, times in UTC. What is
// written otherwise than kintone writes it is none: false. "" stays "", which is no value.
func canonical(fieldType, s string) (string, bool) {
	layout := ""
	switch operators[fieldType] {
	case numeric:
		if n := number(s); n != nil {
			return n.RatString(), true
		}
		return s, s == ""
	case dated:
		switch fieldType {
		case "DATE":
			layout = time.DateOnly
		case "TIME":
			layout = "15:04"
		default:
			layout = time.RFC3339
		}
		t, err := time.Parse(layout, s)
		if err != nil {
			return s, s == ""
		}
		return t.UTC().Format(layout), true
	}
	return s, true
}

// decimal reports whether s is digits, perhaps with a minus before and a fraction behind.
func decimal(s string) bool {
	whole, fraction, pointed := strings.Cut(strings.TrimPrefix(s, "-"), ".")
	return digits(whole) && (!pointed || digits(fraction))
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// parser reads one query. After the first refusal it stands at the end, so that every loop comes to its own.
type parser struct {
	k          *Kintone
	a          *app
	by         caller
	tokens     []token
	pos        int
	refusal    *Refusal
	usesStatus bool
}

type token struct {
	kind tokenKind
	text string
}

type tokenKind byte

const (
	end tokenKind = iota
	word
	numberLiteral
	stringLiteral
	sign
)

// scan takes the source apart. It reports false where that cannot be done.
func (p *parser) scan(s string) bool {
	for {
		s = strings.TrimLeft(s, " \t\r\n\u3000")
		if s == "" {
			return true
		}
		c, _ := utf8.DecodeRuneInString(s)
		length := 0
		switch {
		case c == '"':
			literal, n, ok := scanString(s)
			if !ok {
				return false
			}
			p.tokens = append(p.tokens, token{stringLiteral, literal})
			s = s[n:]
			continue
		case strings.ContainsRune("(),=", c):
			length = 1
			p.tokens = append(p.tokens, token{sign, s[:1]})
		case strings.ContainsRune("<>!", c):
			length = 1
			if len(s) > 1 && s[1] == '=' {
				length = 2
			}
			p.tokens = append(p.tokens, token{sign, s[:length]})
		case c == '-' || c >= '0' && c <= '9':
			length = len(s) - len(strings.TrimLeft(s, "-.0123456789"))
			if !decimal(s[:length]) {
				return false
			}
			p.tokens = append(p.tokens, token{numberLiteral, s[:length]})
		default:
			// A dot cannot be part of a field code, but is read as if, to be refused as kintone does (docs/kintone.md 6).
			length = strings.IndexFunc(s, func(c rune) bool { return c != '.' && !inWord(c) })
			if length < 0 {
				length = len(s)
			}
			if length == 0 {
				return false
			}
			p.tokens = append(p.tokens, token{word, s[:length]})
		}
		s = s[length:]
	}
}

func inWord(c rune) bool {
	return strings.ContainsRune("$_＿・･＄￥", c) || unicode.IsLetter(c) || unicode.IsDigit(c) || unicode.IsMark(c)
}

// scanString reads a literal in double quotes. Backslash stands before quote, backslash, t and n; raw tabs and line
// breaks are refused (docs/kintone.md 6).
func scanString(s string) (literal string, length int, ok bool) {
	b := new(strings.Builder)
	for i := 1; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			return b.String(), i + 1, true
		case '\t', '\n', '\r':
			return "", 0, false
		case '\\':
			i++
			if i == len(s) {
				return "", 0, false
			}
			at := strings.IndexByte(`"\tn`, s[i])
			if at < 0 {
				return "", 0, false
			}
			b.WriteByte("\"\\\t\n"[at])
		default:
			b.WriteByte(c)
		}
	}
	return "", 0, false
}

func (p *parser) token() token {
	if p.pos >= len(p.tokens) {
		return token{}
	}
	return p.tokens[p.pos]
}

func (p *parser) next() token {
	t := p.token()
	p.pos++
	return t
}

// at reports whether the next token is a given word or sign. Words count in either case.
func (p *parser) at(s string) bool {
	t := p.token()
	return t.kind == sign && t.text == s || t.kind == word && strings.EqualFold(t.text, s)
}

func (p *parser) take(s string) bool {
	if p.at(s) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) expect(s string) {
	if !p.take(s) {
		p.fail(unreadable())
	}
}

func (p *parser) fail(r *Refusal) {
	if p.refusal == nil {
		p.refusal = r
	}
	p.pos = len(p.tokens)
}

func (p *parser) count() int {
	t := p.next()
	n, err := strconv.Atoi(t.text)
	if t.kind != numberLiteral || err != nil || n < 0 {
		p.fail(unreadable())
	}
	return n
}

// field reads a field code.
func (p *parser) field() appField {
	t := p.next()
	if t.kind != word || p.at("(") {
		p.fail(unreadable())
		return idField
	}
	if t.text == "$id" {
		return idField
	}
	f, ok := p.a.fields[t.text]
	if strings.Contains(t.text, ".") {
		p.fail(refuse("GAIA_IR02", t.text))
		return idField
	}
	// What becomes of a field that the caller may not view is not recorded; here it is not there for him. The condition
	// of an action is nobody's question.
	if hidden := p.by.login != "" && slices.Contains(p.a.HiddenFields, t.text); !ok || hidden {
		p.fail(refuse("GAIA_IQ11", t.text))
		return idField
	}
	if f.Type == "STATUS" || f.Type == "STATUS_ASSIGNEE" {
		p.usesStatus = true
	}
	return f
}

func (p *parser) alternatives() filter {
	f := p.conjunction()
	for p.take("or") {
		g := p.conjunction()
		left, right := f.matches, g.matches
		these, those := f.ids, g.ids
		f = filter{low: 1, high: math.MaxInt64}
		if these != nil && those != nil {
			f.ids = func() []int64 { return slices.Concat(these(), those()) }
		}
		f.matches = func(id int64, r *recordData) bool { return left(id, r) || right(id, r) }
	}
	return f
}

func (p *parser) conjunction() filter {
	f := p.term()
	for p.take("and") {
		left, g := f.matches, p.term()
		right := g.matches
		f.matches = func(id int64, r *recordData) bool { return left(id, r) && right(id, r) }
		f.low, f.high = max(f.low, g.low), min(f.high, g.high)
		if f.ids == nil {
			f.ids = g.ids
		}
	}
	return f
}

func (p *parser) term() filter {
	if p.take("(") {
		f := p.alternatives()
		p.expect(")")
		return f
	}
	return p.comparison()
}

func (p *parser) comparison() filter {
	f := p.field()
	operator := strings.ToLower(p.next().text)
	if operator == "not" {
		operator = "not " + strings.ToLower(p.next().text)
	}
	var values []string
	quoted := true
	value := func() {
		t := p.next()
		if t.kind != stringLiteral && t.kind != numberLiteral {
			p.fail(unreadable())
		}
		quoted = quoted && t.kind == stringLiteral
		values = append(values, t.text)
	}
	if operator == "in" || operator == "not in" {
		p.expect("(")
		for value(); p.take(","); {
			value()
		}
		p.expect(")")
	} else {
		value()
	}
	takes := operators[f.Type]
	switch {
	case p.refusal != nil:
	case !slices.Contains(strings.Split(numeric, "|"), operator): // like, or no operator at all
		p.fail(unreadable())
	case !slices.Contains(strings.Split(takes, "|"), operator):
		p.fail(refuse("GAIA_IQ03", f.Code))
	case f.Table != "" && operator != "in" && operator != "not in":
		p.fail(refuse("GAIA_IQ07", f.Code)) // recorded for = (docs/kintone.md 6)
	case !quoted && takes != numeric:
		p.fail(unreadable()) // only numbers can stand without quotes; what kintone does otherwise is not recorded
	}
	if p.refusal != nil {
		return filter{matches: func(int64, *recordData) bool { return false }}
	}
	switch {
	case f.Type == "__ID__" || f.Type == "RECORD_NUMBER":
		return p.numbered(f, operator, values)
	case takes == listed:
		return p.users(f, operator, values)
	}
	return p.plain(f, operator, values)
}

// numbered compares record numbers, which may carry the app's code; $id may not (docs/kintone.md 6).
func (p *parser) numbered(f appField, operator string, values []string) filter {
	ids := make([]int64, len(values))
	for i, v := range values {
		if f.Type == "RECORD_NUMBER" && p.a.AppCode != "" {
			v = strings.TrimPrefix(v, p.a.AppCode+"-")
		}
		id, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			p.fail(unreadable())
		}
		ids[i] = id
	}
	return byID(operator, ids)
}

// byID also works out which numbers can match.
func byID(operator string, ids []int64) filter {
	f := filter{low: 1, high: math.MaxInt64}
	switch operator {
	case "=":
		f.ids = func() []int64 { return ids }
	case "in", "not in":
		set := make(map[int64]struct{}, len(ids))
		for _, id := range ids {
			set[id] = struct{}{}
		}
		if operator == "in" {
			f.ids = func() []int64 { return ids }
		}
		f.matches = func(id int64, _ *recordData) bool {
			_, hit := set[id]
			return hit == (operator == "in")
		}
		return f
	case ">":
		f.low = max(f.low, ids[0]+1)
	case ">=":
		f.low = max(f.low, ids[0])
	case "<":
		f.high = ids[0] - 1
	case "<=":
		f.high = ids[0]
	}
	f.matches = func(id int64, _ *recordData) bool { return satisfies(operator, cmp.Compare(id, ids[0])) }
	return f
}

// users compares fields that hold several things, of which one has to be among the values.
func (p *parser) users(f appField, operator string, values []string) filter {
	a := p.a
	switch f.Type {
	case "STATUS_ASSIGNEE", "CREATOR", "MODIFIER", "USER_SELECT", "GROUP_SELECT", "ORGANIZATION_SELECT":
		for _, v := range values {
			if refusal := p.k.knows(f.Type, v); v != "" && refusal != nil {
				p.fail(refusal)
			}
		}
	}
	for _, v := range values {
		if f.Options != nil && v != "" && !slices.Contains(f.Options, v) {
			p.fail(refuse("GAIA_IQ10", f.Code))
		}
	}
	return unbounded(func(id int64, r *recordData) bool {
		have := split(a.plain(f, id, r))
		hit := len(have) == 0 && slices.Contains(values, "")
		for _, h := range have {
			hit = hit || slices.Contains(values, h)
		}
		return hit == (operator == "in")
	})
}

// plain compares texts, numbers and times by their canonical form: texts exactly, so that case and width count, numbers
// by value. A status has to exist, and goes by its name in the caller's language. In a table one row has to meet in, and
// not in is met by all rows of at least one (docs/kintone.md 6).
func (p *parser) plain(f appField, operator string, values []string) filter {
	a := p.a
	if f.Type == "STATUS" {
		for i, v := range values {
			at := slices.IndexFunc(a.flow.States, func(s State) bool { return a.flow.say(p.by.language, s.Name) == v })
			if at < 0 {
				if a.flow.Enabled {
					p.fail(refuse("GAIA_IQ10", f.Code))
				}
				continue // refused with GAIA_ST02
			}
			values[i] = a.flow.States[at].Name
		}
	}
	wanted := make(map[string]struct{}, len(values))
	for i, v := range values {
		c, ok := canonical(f.Type, v)
		if !ok {
			p.fail(unreadable()) // not recorded
			return filter{}
		}
		values[i] = c
		wanted[c] = struct{}{}
	}
	among := func(value string) bool {
		_, hit := wanted[value]
		return hit
	}
	held := a.canonical
	if operators[f.Type] == textual {
		held = a.plain // the same, and quicker
	}
	g := filter{low: 1, high: math.MaxInt64}
	switch {
	case f.Table != "":
		g.matches = func(id int64, r *recordData) bool {
			rows := a.rows(f, id, r)
			if operator == "in" {
				return slices.ContainsFunc(rows, among)
			}
			return len(rows) > 0 && !slices.ContainsFunc(rows, among)
		}
	case operator == "=" || operator == "in":
		g.matches = func(id int64, r *recordData) bool { return among(held(f, id, r)) }
	case operator == "!=" || operator == "not in":
		g.matches = func(id int64, r *recordData) bool { return !among(held(f, id, r)) }
	default:
		g.matches = func(id int64, r *recordData) bool {
			have := held(f, id, r)
			if have == "" || values[0] == "" {
				return false // no value is neither greater nor less than another
			}
			return satisfies(operator, compare(f.Type, have, values[0]))
		}
	}
	if !f.builtin && (operator == "=" || operator == "in") && !among("") {
		g.ids = func() []int64 { return a.holding(f, values) }
	}
	return g
}

// compare compares two canonical values.
func compare(fieldType, v, w string) int {
	if operators[fieldType] == numeric {
		m, isNumber := new(big.Rat).SetString(v)
		n, isToo := new(big.Rat).SetString(w)
		if isNumber && isToo {
			return m.Cmp(n)
		}
	}
	return cmp.Compare(v, w)
}

// canonical returns what a record holds in a field, to be compared.
func (a *app) canonical(f appField, id int64, r *recordData) string {
	s, _ := canonical(f.Type, a.plain(f, id, r))
	return s
}

// rows returns what a record holds in a column of a table.
func (a *app) rows(f appField, id int64, r *recordData) []string {
	s := a.value(id, r, f)
	if s == "" {
		return nil
	}
	rows := strings.Split(s, "\n")
	for i := range rows {
		rows[i], _ = canonical(f.Type, rows[i])
	}
	return rows
}

// keys leads from canonical values of one field to the records that hold them, so that a look-up by key does not walk
// through all records. Most values are of one record. A record that has another value by now stays in: who looks up
// compares anyway.
type keys struct {
	first map[string]int64
	more  map[string][]int64
}

func (k keys) note(value string, record int64) {
	switch first, taken := k.first[value]; {
	case value == "" || taken && first == record:
	case !taken:
		k.first[value] = record
	default:
		if more := k.more[value]; len(more) == 0 || more[len(more)-1] != record {
			k.more[value] = append(more, record) // perhaps once too often, which does no harm
		}
	}
}

// holding returns the records that may hold one of the values, none of which is "". The first question about a field
// takes as long as walking through all records.
func (a *app) holding(f appField, values []string) []int64 {
	known, ok := a.keys[f.Code]
	if !ok {
		known = keys{make(map[string]int64, a.live), map[string][]int64{}}
		a.keys[f.Code] = known
		for id := int64(1); id <= a.last; id++ {
			if r := a.look(id); r.condition == present {
				a.note(known, f, id, r)
			}
		}
	}
	var ids []int64
	for _, v := range values {
		if first, ok := known.first[v]; ok {
			ids = append(append(ids, first), known.more[v]...)
		}
	}
	return ids
}

func (a *app) note(known keys, f appField, id int64, r *recordData) {
	if f.Table == "" {
		known.note(a.canonical(f, id, r), id)
		return
	}
	for _, row := range a.rows(f, id, r) {
		known.note(row, id)
	}
}

// noteKeys keeps what is known of keys right after a record was written to.
func (a *app) noteKeys(id int64, r *recordData) {
	for code, known := range a.keys {
		a.note(known, a.fields[code], id, r)
	}
}

func unbounded(matches predicate) filter {
	return filter{matches: matches, low: 1, high: math.MaxInt64}
}

// satisfies reports whether what compared as c meets an operator other than in and not in.
func satisfies(operator string, c int) bool {
	switch operator {
	case "=":
		return c == 0
	case "!=":
		return c != 0
	case ">":
		return c > 0
	case ">=":
		return c >= 0
	case "<":
		return c < 0
	}
	return c <= 0
}
