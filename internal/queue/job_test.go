package queue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"statusq/schema"
)

// everything is the job of the design's example, with a record.
const everything = `{"v":1,"job":"inv-2026-000123","site":"main","app":5,"record":1001,"action":"Approve",` +
	`"assignee":"sato","revision":12,"campaign":"month-end-2026-11","by":"erp","ref":"PO-77",` +
	`"notBefore":"2026-12-01T00:00:00Z","expires":"2026-12-02T00:00:00Z"}`

func TestDecodeJobReadsEveryMember(t *testing.T) {
	want := Job{
		ID: "inv-2026-000123", Site: "main", App: 5, Record: 1001, Action: "Approve", Assignee: "sato", Revision: 12,
		Campaign: "month-end-2026-11", By: "erp", Ref: "PO-77",
		NotBefore: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), Expires: time.Date(2026, 12, 2, 0, 0, 0, 0, time.UTC),
	}
	got, err := DecodeJob([]byte(everything), "main", 5)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("DecodeJob gave\n%+v, want\n%+v", got, want)
	}
	raw, err := got.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if string(raw) != everything {
		t.Errorf("Encode gave\n%s, want\n%s", raw, everything)
	}
}

func TestDecodeJobAccepts(t *testing.T) {
	base := Job{Site: "main", App: 5, Record: 1, Action: "承認", Revision: -1}
	with := func(change func(*Job)) Job {
		j := base
		change(&j)
		return j
	}
	tests := map[string]struct {
		raw  string
		want Job
	}{
		"the least there is":            {`{"record":1,"action":"承認"}`, base},
		"white space around it":         {" \r\n{\"record\":1,\"action\":\"承認\"}\n", base},
		"a version":                     {`{"v":1,"record":1,"action":"承認"}`, base},
		"the site and app that it has":  {`{"site":"main","app":5,"record":1,"action":"承認"}`, base},
		"numbers as decimal strings":    {`{"app":"5","record":"1","revision":"7","action":"承認"}`, with(func(j *Job) { j.Revision = 7 })},
		"the largest number":            {`{"record":999999999999999999,"action":"承認"}`, with(func(j *Job) { j.Record = 1e18 - 1 })},
		"the largest number as text":    {`{"record":"999999999999999999","action":"承認"}`, with(func(j *Job) { j.Record = 1e18 - 1 })},
		"revision -1":                   {`{"record":1,"revision":-1,"action":"承認"}`, base},
		"revision -1 as text":           {`{"record":1,"revision":"-1","action":"承認"}`, base},
		"revision 1":                    {`{"record":1,"revision":1,"action":"承認"}`, with(func(j *Job) { j.Revision = 1 })},
		"an action of 64 characters":    {`{"record":1,"action":"` + strings.Repeat("あ", 64) + `"}`, with(func(j *Job) { j.Action = strings.Repeat("あ", 64) })},
		"a job id of 128 characters":    {`{"job":"` + strings.Repeat("あ", 128) + `","record":1,"action":"承認"}`, with(func(j *Job) { j.ID = strings.Repeat("あ", 128) })},
		"a job id with a space within":  {`{"job":"a b","record":1,"action":"承認"}`, with(func(j *Job) { j.ID = "a b" })},
		"a job id that is only an s":    {`{"job":"s","record":1,"action":"承認"}`, with(func(j *Job) { j.ID = "s" })},
		"a job id like a sequence's":    {`{"job":"s12-1","record":1,"action":"承認"}`, with(func(j *Job) { j.ID = "s12-1" })},
		"another one":                   {`{"job":"S12","record":1,"action":"承認"}`, with(func(j *Job) { j.ID = "S12" })},
		"a job id of one character":     {`{"job":"*","record":1,"action":"承認"}`, with(func(j *Job) { j.ID = "*" })},
		"escapes in text":               {`{"record":1,"action":"\u627f\u8a8d","ref":"\ud83d\ude00"}`, with(func(j *Job) { j.Ref = "😀" })},
		"a time with an offset":         {`{"record":1,"action":"承認","notBefore":"2026-12-01T09:00:00.5+09:00"}`, with(func(j *Job) { j.NotBefore = time.Date(2026, 12, 1, 0, 0, 0, 5e8, time.UTC) })},
		"a key, which matches one":      {`{"key":{"field":"code","value":"C-1"},"action":"承認"}`, with(func(j *Job) { j.Record, j.Key, j.Match = 0, &Key{"code", "C-1"}, MatchOne })},
		"a key that may match all":      {`{"key":{"field":"顧客","value":" x "},"match":"all","action":"承認"}`, with(func(j *Job) { j.Record, j.Key, j.Match = 0, &Key{"顧客", " x "}, MatchAll })},
		"exactly 16 KiB (of space, so)": {`{"record":1,"action":"承認"}` + strings.Repeat(" ", MaxJobBytes-len(`{"record":1,"action":"承認"}`)), base},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := DecodeJob([]byte(tt.raw), "main", 5)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("DecodeJob gave\n%+v, want\n%+v", got, tt.want)
			}
		})
	}
}

func TestDecodeJobRefuses(t *testing.T) {
	job := func(members string) string { return `{"record":1,"action":"a",` + members + `}` }
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	tests := map[string]struct {
		raw  string
		want []string // problems, in order
	}{
		"nothing":                        {``, []string{`not JSON: unexpected end of JSON input (byte 0)`}},
		"something cut off":              {`{"record":1,`, []string{`not JSON: unexpected end of JSON input (byte 12)`}},
		"trailing data":                  {`{"record":1,"action":"a"} {}`, []string{`not JSON: invalid character '{' after top-level value (byte 27)`}},
		"a trailing comma":               {`{"record":1,"action":"a",}`, []string{`not JSON: invalid character '}' looking for beginning of object key string (byte 26)`}},
		"an array":                       {`[{"record":1,"action":"a"}]`, []string{`must be an object`}},
		"null":                           {`null`, []string{`must be an object`}},
		"invalid UTF-8":                  {"{\"record\":1,\"action\":\"\xff\"}", []string{`not valid UTF-8`}},
		"half a surrogate pair":          {job(`"ref":"\ud800"`), []string{`/ref: contains U+FFFD, the mark of broken text`}},
		"text broken before it came":     {job(`"ref":"` + "\uFFFD" + `"`), []string{`/ref: contains U+FFFD, the mark of broken text`}},
		"more than 16 KiB":               {job(`"ref":"r"`) + strings.Repeat(" ", MaxJobBytes), []string{`16419 bytes, at most 16384 are taken`}},
		"far more than 16 KiB":           {strings.Repeat(" ", 1<<20), []string{`1048576 bytes, at most 16384 are taken`}},
		"nesting of five levels":         {job(`"key":` + deep(4)), []string{`has both record and key`, `nested more than 4 levels deep`, `/key: must be an object`}},
		"nesting without end":            {job(`"key":` + deep(8000)), []string{`has both record and key`, `nested more than 4 levels deep`, `/key: must be an object`}},
		"unknown member":                 {job(`"colour":"red"`), []string{`/colour: unknown member`}},
		"wrong case":                     {`{"Record":1,"ACTION":"a"}`, []string{`record or key is missing`, `/ACTION: unknown member, did you mean action?`, `/Record: unknown member, did you mean record?`, `/action: missing`}},
		"snake case":                     {job(`"not_before":"x"`), []string{`/not_before: unknown member, did you mean notBefore?`}},
		"a typo":                         {job(`"asignee":"x"`), []string{`/asignee: unknown member, did you mean assignee?`}},
		"id":                             {`{"id":1,"action":"a"}`, []string{`record or key is missing`, `/id: unknown member, did you mean record?`}},
		"code in a key":                  {`{"key":{"code":"c","value":"v"},"action":"a"}`, []string{`/key/code: unknown member, did you mean field?`, `/key/field: missing`}},
		"wrong case in a key":            {`{"key":{"field":"c","Value":"v"},"action":"a"}`, []string{`/key/Value: unknown member, did you mean value?`, `/key/value: missing`}},
		"a name that needs escaping":     {job(`"a/b~c":1`), []string{`/a~1b~0c: unknown member`}},
		"a name that needs quoting":      {job(`"a\u001b[2J":1`), []string{`"/a\x1b[2J": unknown member`}},
		"a member twice":                 {job(`"record":1`), []string{`/record: given more than once`}},
		"a member twice, by an escape":   {job(`"\u0072ecord":2`), []string{`/record: given more than once`}},
		"a member of the key twice":      {`{"key":{"field":"c","value":"v","value":"w"},"action":"a"}`, []string{`/key/value: given more than once`}},
		"the version twice":              {job(`"v":2,"v":1`), []string{`/v: given more than once`}},
		"the version twice, newer last":  {job(`"v":1,"v":2`), []string{`/v: given more than once`, `/v: must be 1`}},
		"version 0":                      {job(`"v":0`), []string{`/v: must be 1`}},
		"a negative version":             {job(`"v":-2`), []string{`/v: must be 1`}},
		"a version with an exponent":     {job(`"v":2e0`), []string{`/v: must be written as a whole number`}},
		"a version as text":              {job(`"v":"1"`), []string{`/v: must be a whole number`}},
		"neither record nor key":         {`{"action":"a"}`, []string{`record or key is missing`}},
		"record and key":                 {job(`"key":{"field":"c","value":"v"}`), []string{`has both record and key`}},
		"match without key":              {job(`"match":"one"`), []string{`/match: is for jobs with a key`}},
		"match neither one nor all":      {`{"key":{"field":"c","value":"v"},"match":"some","action":"a"}`, []string{`/match: must be one or all`}},
		"a key that is text":             {`{"key":"c","action":"a"}`, []string{`/key: must be an object`}},
		"an empty key value":             {`{"key":{"field":"c","value":""},"action":"a"}`, []string{`/key/value: must not be empty`}},
		"a key value with a line break":  {`{"key":{"field":"c","value":"a\nb"},"action":"a"}`, []string{`/key/value: must not contain control characters`}},
		"record 0":                       {`{"record":0,"action":"a"}`, []string{`/record: must be at least 1`}},
		"record -1":                      {`{"record":-1,"action":"a"}`, []string{`/record: must be at least 1`}},
		"record 0 as text":               {`{"record":"0","action":"a"}`, []string{`/record: must be a positive whole number of at most 18 decimal digits`}},
		"record with a leading zero":     {`{"record":"01","action":"a"}`, []string{`/record: must be a positive whole number of at most 18 decimal digits`}},
		"record with a line break":       {`{"record":"1\n","action":"a"}`, []string{`/record: must be a positive whole number of at most 18 decimal digits`}},
		"record with other digits":       {`{"record":"１","action":"a"}`, []string{`/record: must be a positive whole number of at most 18 decimal digits`}},
		"record too large":               {`{"record":1000000000000000000,"action":"a"}`, []string{`/record: must be at most 999999999999999999`}},
		"record too large as text":       {`{"record":"1000000000000000000","action":"a"}`, []string{`/record: must be a positive whole number of at most 18 decimal digits`}},
		"record with a fraction":         {`{"record":1.0,"action":"a"}`, []string{`/record: must be written as a whole number`}},
		"record with a huge exponent":    {`{"record":1e999999999,"action":"a"}`, []string{`/record: must be written as a whole number`}},
		"record null":                    {`{"record":null,"action":"a"}`, []string{`/record: must be a whole number or the same as a decimal string`}},
		"app 0":                          {job(`"app":0`), []string{`/app: must be at least 1`}},
		"app as path":                    {job(`"app":"5/../6"`), []string{`/app: must be a positive whole number of at most 18 decimal digits`}},
		"revision 0":                     {job(`"revision":0`), []string{`/revision: must be at least 1, or -1 for any`}},
		"revision -2":                    {job(`"revision":-2`), []string{`/revision: must be at least 1, or -1 for any`}},
		"revision x":                     {job(`"revision":"x"`), []string{`/revision: must be a positive whole number of at most 18 decimal digits, or -1 for any`}},
		"revision too large":             {job(`"revision":"1000000000000000000"`), []string{`/revision: must be a positive whole number of at most 18 decimal digits, or -1 for any`}},
		"no action":                      {`{"record":1}`, []string{`/action: missing`}},
		"an empty action":                {`{"record":1,"action":""}`, []string{`/action: must not be empty`}},
		"an action of 65 characters":     {`{"record":1,"action":"` + strings.Repeat("あ", 65) + `"}`, []string{`/action: has 65 characters, at most 64 are taken`}},
		"an action that is no text":      {`{"record":1,"action":7}`, []string{`/action: must be a string`}},
		"a job id of the stream's":       {job(`"job":"s12"`), []string{`/job: must not be s and a number: jobs without an id are called like that`}},
		"the same with leading zeros":    {job(`"job":"s007"`), []string{`/job: must not be s and a number: jobs without an id are called like that`}},
		"the same by an escape":          {job(`"job":"\u007312"`), []string{`/job: must not be s and a number: jobs without an id are called like that`}},
		"a job id that is a number":      {job(`"job":12`), []string{`/job: must be a string`}},
		"an empty job id":                {job(`"job":""`), []string{`/job: must be printable characters with no space at either end`, `/job: must not be empty`}},
		"a job id of 129 characters":     {job(`"job":"` + strings.Repeat("x", 129) + `"`), []string{`/job: has 129 characters, at most 128 are taken`}},
		"a job id with a line break":     {job(`"job":"a\nb"`), []string{`/job: must be printable characters with no space at either end`}},
		"a job id with a zero width":     {job(`"job":"a\u200bb"`), []string{`/job: must be printable characters with no space at either end`}},
		"a job id ending in a space":     {job(`"job":"a "`), []string{`/job: must be printable characters with no space at either end`}},
		"a campaign starting in a space": {job(`"campaign":"\u3000a"`), []string{`/campaign: must be printable characters with no space at either end`}},
		"a control character in by":      {job(`"by":"a\u001b[2J"`), []string{`/by: must not contain control characters`}},
		"another site":                   {job(`"site":"other"`), []string{`/site: differs from the site it was sent to`}},
		"another app":                    {job(`"app":6`), []string{`/app: differs from the app it was sent to`}},
		"a site that is a host":          {job(`"site":"example.cybozu.com"`), []string{`/site: must be 1 to 32 of a to z, 0 to 9 and -`}},
		"a time without offset":          {job(`"notBefore":"2026-12-01T00:00:00"`), []string{`/notBefore: must be a time as in 2026-12-01T09:00:00+09:00`}},
		"a date":                         {job(`"expires":"2026-12-01"`), []string{`/expires: must be a time as in 2026-12-01T09:00:00+09:00`}},
		"a day that does not exist":      {job(`"expires":"2026-02-30T00:00:00Z"`), []string{`/expires: must be a time as in 2026-12-01T09:00:00+09:00`}},
		"a leap second":                  {job(`"expires":"2016-12-31T23:59:60Z"`), []string{`/expires: must be a time as in 2026-12-01T09:00:00+09:00`}},
		"a year of five digits in UTC":   {job(`"expires":"9999-12-31T23:59:59-01:00"`), []string{`/expires: must be a time as in 2026-12-01T09:00:00+09:00`}},
		"the zero time":                  {job(`"notBefore":"0001-01-01T00:00:00Z"`), []string{`/notBefore: must be a time as in 2026-12-01T09:00:00+09:00`}},
		"expiry before it may be sent":   {job(`"notBefore":"2026-12-02T00:00:00Z","expires":"2026-12-02T00:00:00Z"`), []string{`/expires: must be later than notBefore`}},
		"everything at once":             {`{"id":1,"record":0,"revision":"x"}`, []string{`/action: missing`, `/id: unknown member, did you mean record?`, `/record: must be at least 1`, `/revision: must be a positive whole number of at most 18 decimal digits, or -1 for any`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			j, err := DecodeJob([]byte(tt.raw), "main", 5)
			if got := problems(t, err); !slices.Equal(got, tt.want) {
				t.Errorf("DecodeJob found\n%q, want\n%q", got, tt.want)
			}
			if !reflect.DeepEqual(j, Job{}) {
				t.Errorf("DecodeJob gave a job with its error: %+v", j)
			}
		})
	}
}

func TestDecodeJobWithoutSubject(t *testing.T) {
	_, err := DecodeJob([]byte(`{"record":1,"action":"a"}`), "", 0)
	if got, want := problems(t, err), []string{"/app: missing", "/site: missing"}; !slices.Equal(got, want) {
		t.Errorf("DecodeJob found %q, want %q", got, want)
	}
	j, err := DecodeJob([]byte(`{"site":"osaka-2","app":"7","record":1,"action":"a"}`), "", 0)
	if err != nil || j.Site != "osaka-2" || j.App != 7 {
		t.Errorf("DecodeJob gave site %q, app %d, error %v; want osaka-2, 7", j.Site, j.App, err)
	}
}

func TestDecodeJobLeavesNewerVersionsAlone(t *testing.T) {
	for name, raw := range map[string]string{
		"alone":                       `{"v":2}`,
		"with members of its time":    `{"v":2,"records":[1,2,3],"do":{"a":{"b":{"c":{"d":1.5}}}}}`,
		"with the old members":        strings.Replace(everything, `"v":1`, `"v":3`, 1),
		"with a huge number":          `{"v":99999999999999999999}`,
		"larger than 16 KiB":          `{"v":2,"ref":"` + strings.Repeat("x", MaxJobBytes) + `"}`,
		"with other members repeated": `{"a":1,"v":2,"a":1}`,
	} {
		if _, err := DecodeJob([]byte(raw), "main", 5); !errors.Is(err, ErrNewerVersion) {
			t.Errorf("%s: DecodeJob gave error %v, want ErrNewerVersion", name, err)
		}
	}
}

func TestEncodeRefusesWhatDecodeWould(t *testing.T) {
	good := Job{Site: "main", App: 5, Record: 1, Action: "a", Revision: -1}
	tests := map[string]struct {
		change func(*Job)
		want   []string
	}{
		"no site":               {func(j *Job) { j.Site = "" }, []string{"/site: missing"}},
		"no app":                {func(j *Job) { j.App = 0 }, []string{"/app: missing"}},
		"a revision forgotten":  {func(j *Job) { j.Revision = 0 }, []string{"/revision: must be at least 1, or -1 for any"}},
		"text that is no text":  {func(j *Job) { j.ID = "a\xffb" }, []string{"/job: contains U+FFFD, the mark of broken text"}},
		"an id of the stream's": {func(j *Job) { j.ID = "s12" }, []string{"/job: must not be s and a number: jobs without an id are called like that"}},
		"a site that is none":   {func(j *Job) { j.Site = "a.b" }, []string{"/site: must be 1 to 32 of a to z, 0 to 9 and -"}},
		"record and key":        {func(j *Job) { j.Key = &Key{"f", "v"} }, []string{"has both record and key"}},
		"neither of them":       {func(j *Job) { j.Record = 0 }, []string{"record or key is missing"}},
		"a year too far":        {func(j *Job) { j.Expires = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, []string{"/expires: must be a time as in 2026-12-01T09:00:00+09:00"}},
		"expiry first":          {func(j *Job) { j.NotBefore, j.Expires = time.Unix(2, 0), time.Unix(1, 0) }, []string{"/expires: must be later than notBefore"}},
	}
	if _, err := good.Encode(); err != nil {
		t.Fatal(err)
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			j := good
			tt.change(&j)
			raw, err := j.Encode()
			if got := problems(t, err); !slices.Equal(got, tt.want) || raw != nil {
				t.Errorf("Encode gave %q and found %q, want %q", raw, got, tt.want)
			}
		})
	}
}

// The ledger keeps jobs that were refused, and jobs named by their sequence, as they are.
func TestJobInsideAnEntryIsNotJudged(t *testing.T) {
	for _, j := range []Job{
		{},
		{ID: "s12", Site: "main", App: 5, Record: -3, Revision: -1},
		{ID: "a", Key: &Key{"f", "<&>"}, Match: MatchAll, Revision: 4, Expires: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)},
	} {
		raw, err := json.Marshal(struct{ Job Job }{j})
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ Job Job }
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if !reflect.DeepEqual(got.Job, j) {
			t.Errorf("%s came back as %+v, want %+v", raw, got.Job, j)
		}
	}
}

func TestDecodeErrorIsShortWhateverCame(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"record":1,"action":"a"`)
	for i := range 1000 {
		fmt.Fprintf(&b, `,"m%d":0`, i)
	}
	b.WriteString("}")
	_, err := DecodeJob([]byte(b.String()), "main", 5)
	if got := len(problems(t, err)); got != 1000 {
		t.Errorf("DecodeJob found %d problems, want 1000", got)
	}
	if want := "; and 995 more"; !strings.HasSuffix(err.Error(), want) || len(err.Error()) > 300 {
		t.Errorf("the error has %d bytes and reads %.300s, want five problems%s", len(err.Error()), err, want)
	}
}

func TestNewIDsAreJobIDs(t *testing.T) {
	a, b := NewID(), NewID()
	if a == b {
		t.Errorf("NewID gave %s twice", a)
	}
	j := Job{ID: a, Site: "main", App: 5, Record: 1, Action: "a", Revision: -1}
	if _, err := j.Encode(); err != nil {
		t.Errorf("a job with id %s does not encode: %v", a, err)
	}
	if token(a) != a {
		t.Errorf("the subject token of %s is %s, want the id itself", a, token(a))
	}
}

// The schema is the one source: every member is in the Go form, every member of the form is in it, each is described.
func TestSchemaAndFormHaveTheSameMembers(t *testing.T) {
	type object struct {
		Description string            `json:"description"`
		Properties  map[string]object `json:"properties"`
		Examples    []any             `json:"examples"`
	}
	var s object
	if err := json.Unmarshal(schema.Job, &s); err != nil {
		t.Fatal(err)
	}
	compare := func(name string, s object, form reflect.Type) {
		var members []string
		for field := range form.Fields() {
			member, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			members = append(members, member)
		}
		slices.Sort(members)
		if want := slices.Sorted(maps.Keys(s.Properties)); !slices.Equal(members, want) {
			t.Errorf("%s has the members\n%q, the schema has\n%q", name, members, want)
		}
		for member, p := range s.Properties {
			if p.Description == "" {
				t.Errorf("%s: the schema does not describe %s", name, member)
			}
		}
	}
	compare("form", s, reflect.TypeFor[form]())
	compare("Key", s.Properties["key"], reflect.TypeFor[Key]())

	// The examples of the schema hold by its own rules.
	for member, p := range s.Properties {
		for _, example := range p.Examples {
			doc := map[string]any{"action": "a", "record": 1}
			doc[member] = example
			raw, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := DecodeJob(raw, "", 0); err != nil {
				for _, p := range problems(t, err) {
					if p != "/site: missing" && p != "/app: missing" {
						t.Errorf("the schema's example %s is refused: %s", raw, p)
					}
				}
			}
		}
	}
}

func FuzzDecodeJob(f *testing.F) {
	for _, seed := range []string{
		everything,
		`{"record":"1","action":"承認"}`,
		`{"key":{"field":"code","value":"C-1"},"match":"all","action":"Approve","revision":"-1"}`,
		`{"v":2}`,
		`{"v":2,"v":1}`,
		`{"id":1}`,
		`{"record":1e999999999}`,
		`{"job":"\ud800","action":"a","record":1,"expires":"9999-12-31T23:59:59-01:00"}`,
		`[[[[[[[[[[`,
		"\xff",
		"",
	} {
		f.Add([]byte(seed), "main", int64(5))
		f.Add([]byte(seed), "", int64(0))
	}
	f.Fuzz(func(t *testing.T, raw []byte, site string, app int64) {
		first, err := DecodeJob(raw, site, app)
		if err != nil {
			if _, ok := errors.AsType[*DecodeError](err); !ok && !errors.Is(err, ErrNewerVersion) {
				t.Fatalf("DecodeJob gave an error of another kind: %v", err)
			}
			return
		}
		if site != "" && !validSite(site) || app != 0 && !validApp(app) {
			return // no subject looks like that
		}
		encoded, err := first.Encode()
		if err != nil {
			t.Fatalf("%q was accepted, and %+v does not encode: %v", raw, first, err)
		}
		second, err := DecodeJob(encoded, first.Site, first.App)
		if err != nil {
			t.Fatalf("%q was accepted, and as %q it was not: %v", raw, encoded, err)
		}
		if !reflect.DeepEqual(first, second) {
			t.Fatalf("%q became %+v, and then %+v", raw, first, second)
		}
		again, err := second.Encode()
		if err != nil || !bytes.Equal(encoded, again) {
			t.Fatalf("the job is written as %q and then as %q (error %v)", encoded, again, err)
		}
	})
}

func BenchmarkDecodeJob(b *testing.B) {
	b.SetBytes(int64(len(everything)))
	for b.Loop() {
		if _, err := DecodeJob([]byte(everything), "main", 5); err != nil {
			b.Fatal(err)
		}
	}
}

// problems gives the problems of a *DecodeError as text, and fails the test for any other error.
func problems(t *testing.T, err error) []string {
	t.Helper()
	e, ok := errors.AsType[*DecodeError](err)
	if !ok {
		t.Fatalf("error is %v, want a *DecodeError", err)
	}
	var texts []string
	for _, p := range e.Problems {
		texts = append(texts, p.String())
	}
	return texts
}
