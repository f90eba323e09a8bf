package campaign

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/unicode"

	"statusq/internal/queue"
)

func site(j queue.Job) queue.Job {
	j.Site = "main"
	return j
}

func read(t *testing.T, text string, o ReadOptions) *File {
	t.Helper()
	o.Defaults = site(o.Defaults)
	f, err := Read(strings.NewReader(text), o)
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	return f
}

func sjis(t *testing.T, text string) string {
	t.Helper()
	s, err := japanese.ShiftJIS.NewEncoder().String(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReadCSV(t *testing.T) {
	utf16, err := unicode.UTF16(unicode.LittleEndian, unicode.UseBOM).NewEncoder().String("record\tapp\taction\r\n1001\t5\t承認\r\n")
	if err != nil {
		t.Fatal(err)
	}
	plain := queue.Job{Site: "main", App: 5, Record: 1001, Action: "承認", Revision: -1}
	with := func(change func(*queue.Job)) queue.Job {
		j := plain
		change(&j)
		return j
	}

	for _, c := range []struct {
		name, text string
		o          ReadOptions
		want       []Row
	}{
		{name: "plain", text: "app,record,action\n5,1001,承認\n", want: []Row{{2, plain}}},
		{name: "no newline at the end", text: "app,record,action\n5,1001,承認", want: []Row{{2, plain}}},
		{name: "CRLF", text: "app,record,action\r\n5,1001,承認\r\n", want: []Row{{2, plain}}},
		{name: "byte order mark before a quoted heading", text: "\ufeff\"app\",record,action\n5,1001,承認\n", want: []Row{{2, plain}}},
		{name: "Shift_JIS guessed", text: sjis(t, "app,record,action\r\n5,1001,承認\r\n"), want: []Row{{2, plain}}},
		{name: "Shift_JIS said", text: sjis(t, "app,record,action\r\n5,1001,承認\r\n"), o: ReadOptions{Encoding: "sjis"}, want: []Row{{2, plain}}},
		{name: "a mark wins over what is said", text: "\ufeffapp,record,action\n5,1001,承認\n", o: ReadOptions{Encoding: "sjis"}, want: []Row{{2, plain}}},
		{name: "UTF-16 with tabs, Excel's Unicode text", text: utf16, want: []Row{{2, plain}}},
		{name: "semicolons", text: "app;record;action\n5;1001;承認\n", want: []Row{{2, plain}}},
		{name: "headings in other case, width and spacing", text: " APP ,Ｒｅｃｏｒｄ,Action\n5,1001,承認\n", want: []Row{{2, plain}}},
		{name: "full-width digits and spaces", text: "app,record,action\n５, １００１ ,　承認　\n", want: []Row{{2, plain}}},
		{name: "empty lines and rows of commas", text: "app,record,action\n\n,,\n5,1001,承認\n\n , ,\n", want: []Row{{4, plain}}},
		{
			name: "a cell over three lines, and the row after it", text: "ref,app,record,action\n\"a\nb\r\nc\",5,1001,承認\n,5,1002,承認\n",
			o:    ReadOptions{Map: map[string]string{"ref": "-"}},
			want: []Row{{2, plain}, {5, with(func(j *queue.Job) { j.Record = 1002 })}},
		},
		{
			name: "every column", text: "job,app,record,action,assignee,revision,ref\nj-1,5,1001,承認,sato,12,PO-77\n",
			want: []Row{{2, with(func(j *queue.Job) { j.ID, j.Assignee, j.Revision, j.Ref = "j-1", "sato", 12, "PO-77" })}},
		},
		{
			name: "defaults fill what is empty or absent", text: "record,action,assignee\n1001,,\n1002,却下,suzuki\n",
			o: ReadOptions{Defaults: queue.Job{App: 5, Action: "承認", Assignee: "sato"}},
			want: []Row{
				{2, with(func(j *queue.Job) { j.Assignee = "sato" })},
				{3, with(func(j *queue.Job) { j.Record, j.Action, j.Assignee = 1002, "却下", "suzuki" })},
			},
		},
		{name: "revision -1 is none", text: "app,record,action,revision\n5,1001,承認,-1\n", want: []Row{{2, plain}}},
		{
			name: "renamed and ignored columns", text: "レコード番号,ステータス,備考\n1001,未処理,x\n",
			o: ReadOptions{
				Map:      map[string]string{"レコード番号": "record", "ステータス": "-", "備考": "-"},
				Defaults: queue.Job{App: 5, Action: "承認"},
			},
			want: []Row{{2, plain}},
		},
		{
			name: "a renamed column wins over one of that name that is ignored", text: "record,番号,app,action\n7,1001,5,承認\n",
			o:    ReadOptions{Map: map[string]string{"record": "-", "番号": "record"}},
			want: []Row{{2, plain}},
		},
		{
			name: "the same record twice", text: "app,record,action\n5,1001,承認\n5,1001,承認\n",
			want: []Row{{2, plain}, {3, plain}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Name = "orders.csv"
			f := read(t, c.text, c.o)
			for i := range c.want {
				c.want[i].Job.Campaign = f.Campaign
				if c.want[i].Job.ID == "" {
					c.want[i].Job.ID = fmt.Sprintf("%s-%d", f.Campaign, i+1)
				}
			}
			if !slices.Equal(f.Rows, c.want) {
				t.Errorf("rows\n%+v, want\n%+v", f.Rows, c.want)
			}
		})
	}
}

func TestReadKeys(t *testing.T) {
	keyed := func(field, value, match string) queue.Job {
		return queue.Job{Site: "main", App: 5, Key: &queue.Key{Field: field, Value: value}, Match: match, Action: "承認", Revision: -1}
	}
	plain := queue.Job{Site: "main", App: 5, Record: 1001, Action: "承認", Revision: -1}
	flags := queue.Job{App: 5, Action: "承認", Key: &queue.Key{Field: "code"}, Match: queue.MatchAll}
	for _, c := range []struct {
		name, text string
		o          ReadOptions
		want       []queue.Job
	}{
		{name: "columns", text: "app,key_field,key_value,match,action\n5,code,C-1,ALL,承認\n5,$id,12,,承認\n",
			want: []queue.Job{keyed("code", "C-1", "all"), keyed("$id", "12", "one")}},
		{name: "flags, and a column for the values", text: "コード\nC-1\n\"a\"\"b\"\n", o: ReadOptions{Map: map[string]string{"コード": "key_value"}, Defaults: flags},
			want: []queue.Job{keyed("code", "C-1", "all"), keyed("code", `a"b`, "all")}},
		{name: "values keep their space, nothing else does", text: " コード , action \n\" sp1\", 承認 \nsp1\u3000 ,\t承認\n", o: ReadOptions{Map: map[string]string{"コード": "key_value"}, Defaults: flags},
			want: []queue.Job{keyed("code", " sp1", "all"), keyed("code", "sp1\u3000 ", "all")}},
		{name: "a row says more than a flag", text: "key_field,key_value,match\nname,x,one\n", o: ReadOptions{Defaults: flags}, want: []queue.Job{keyed("name", "x", "one")}},
		{name: "records and keys in one file: flags of keys are for keys", text: "record,key_value\n1001,\n,C-1\n", o: ReadOptions{Defaults: flags},
			want: []queue.Job{plain, keyed("code", "C-1", "all")}},
		{name: "flags of keys and a file of records", text: "record\n1001\n", o: ReadOptions{Defaults: flags}, want: []queue.Job{plain}},
		{name: "NDJSON", text: `{"app":5,"action":"承認","key":{"field":"code","value":"C-1"},"match":"all"}` + "\n" + `{"app":5,"action":"承認","key":{"field":"code","value":"2"}}`,
			o: ReadOptions{Format: NDJSON}, want: []queue.Job{keyed("code", "C-1", "all"), keyed("code", "2", "one")}},
		{name: "NDJSON and flags", text: `{ "ref":"x{", "key" : { "value":"C-1" } }` + "\n" + `{"record":1001}` + "\n" + `{"key":{"field":"name","value":"y"},"match":"one"}`,
			o: ReadOptions{Format: NDJSON, Defaults: flags}, want: []queue.Job{
				func() queue.Job { j := keyed("code", "C-1", "all"); j.Ref = "x{"; return j }(), plain, keyed("name", "y", "one")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := read(t, c.text, c.o)
			for i := range c.want {
				c.want[i].Campaign, c.want[i].ID = f.Campaign, fmt.Sprintf("%s-%d", f.Campaign, i+1)
			}
			if got := f.Jobs(); !reflect.DeepEqual(got, c.want) {
				t.Errorf("jobs\n%+v, want\n%+v", got, c.want)
			}
		})
	}

	// Jobs that differ in nothing but their keys are different jobs.
	name := func(text string) string { return read(t, text, ReadOptions{Defaults: flags}).Campaign }
	if a, b := name("key_value\nC-1\n"), name("key_value\nC-2\n"); a == b {
		t.Errorf("two files of different keys are both called %s", a)
	}
}

func TestReadNamesWhatIsWrong(t *testing.T) {
	const head = "app,record,action\n"
	for _, c := range []struct {
		name, text string
		o          ReadOptions
		want       string // "line|column|part of the text", one per line
	}{
		{name: "empty", text: "", want: "1||no rows"},
		{name: "only space", text: " \n\n", want: "1||no rows"},
		{name: "header only", text: head, want: "1||no rows"},
		{name: "header and empty rows", text: head + "\n,,\n", want: "1||no rows"},
		{name: "not a number", text: head + "5,abc,承認\n", want: `2|record|"abc" is not a whole number`},
		{name: "a number with a fraction", text: head + "5,1001.0,承認\n", want: "2|record|not a whole number"},
		{name: "a record with the app's code", text: head + "5,SALES-12,承認\n", want: "2|record|without the app's code"},
		{name: "zero", text: head + "0,1001,承認\n", want: "2|app|0 is too small"},
		{name: "negative", text: head + "5,-3,承認\n", want: "2|record|-3 is too small"},
		{name: "too large", text: head + "5,99999999999999999999,承認\n", want: "2|record|too large"},
		{name: "revision 0", text: "app,record,action,revision\n5,1,承認,0\n", want: "2|revision|at least 1, or -1"},
		{name: "empty record", text: head + "5,,承認\n", want: "2|record|is empty"},
		{name: "everything empty but the ref", text: "app,record,action,ref\n,,,x\n", want: "2|app|is empty\n2|record|is empty\n2|action|is empty"},
		{name: "an action of 65 characters", text: head + "5,1," + strings.Repeat("あ", 65) + "\n", want: "2|action|65 characters"},
		{name: "a control character", text: head + "5,1,\"a\x00b\"\n", want: "2|action|control characters"},
		{name: "the file's own heading is named", text: "アプリ,record,action\nx,1,承認\n", o: ReadOptions{Map: map[string]string{"アプリ": "app"}}, want: "2|アプリ|not a whole number"},
		{name: "ragged", text: head + "5,1,承認\n5,2\n5,3,承認,x\n", want: "3||has 2 cells, the header has 3\n4||has 4 cells, the header has 3"},
		{name: "unknown column", text: "app,record,action,memo\n", want: "1|memo|unknown column (known: job, app, record, key_field, key_value, match, action, assignee, revision, ref); use --map memo=NAME, or --map memo=- to ignore it"},
		{name: "unknown column to be quoted", text: "app,record,action,my memo\n", want: "1|my memo|--map 'my memo'=-"},
		{name: "kintone's record number", text: "app,レコード番号,action\n", want: "1|レコード番号|--map レコード番号=record"},
		{name: "a status is not an action", text: "app,record,ステータス\n5,1,承認\n", want: "1|ステータス|not an action; use --map ステータス=-"},
		{name: "a column of values and no field", text: "app,key_value,action\n", want: "1||the column key_field is missing: add it, or give --key-field"},
		{name: "a field and no values", text: "app,key_field,action\n", want: "1||--map COLUMN=key_value with --key-field"},
		{name: "an empty key", text: "app,key_field,key_value,action\n5,code,,承認\n", want: "2|key_value|is empty"},
		{name: "a key of nothing but space", text: "app,key_field,key_value,action\n5,code,\"  \",承認\n", want: "2|key_value|is empty"},
		{name: "an empty field", text: "app,key_field,key_value,action\n5,,C-1,承認\n", want: "2|key_field|is empty"},
		{name: "neither record nor key", text: "app,record,コード,action\n5,,,承認\n", o: ReadOptions{Map: map[string]string{"コード": "key_value"}, Defaults: queue.Job{Key: &queue.Key{Field: "code"}}},
			want: "2|record|is empty, and so is コード"},
		{name: "record and key", text: "app,record,key_field,key_value,action\n5,1,code,C-1,承認\n", want: "2||has both record and key"},
		{name: "a match that is none", text: "app,key_field,key_value,match,action\n5,code,C-1,some,承認\n", want: "2|match|must be one or all"},
		{name: "a match without a key", text: "app,record,key_field,key_value,match,action\n5,1,,,all,承認\n", want: "2|match|is for jobs with a key"},
		{name: "a key with control characters", text: "app,key_field,key_value,action\n5,code,\"C\x00\",承認\n", want: "2|key_value|control characters"},
		{name: "a column twice", text: "app,record,action,RECORD\n", want: `1|RECORD|is the column record, and so is "record"`},
		{name: "a heading missing", text: "app,record,action,\n5,1,承認,\n", want: "1||no heading"},
		{name: "no record column", text: "app,action\n5,承認\n", want: "1||the column record is missing: add it, or use --map COLUMN=record"},
		{name: "no app anywhere", text: "record,action\n1,承認\n", want: "1||the column app is missing: add it, or give --app"},
		{name: "mapping a column that is not there", text: head + "5,1,承認\n", o: ReadOptions{Map: map[string]string{"nope": "-"}}, want: `1||--map names a column "nope"`},
		{name: "mapping to what does not exist", text: "app,record,action,x\n5,1,承認,\n", o: ReadOptions{Map: map[string]string{"x": "memo"}}, want: "1|x|there is no column \"memo\"\n1|x|unknown column"},
		{name: "a job twice", text: "job,app,record,action\na,5,1,承認\nb,5,2,承認\na,6,3,承認\n", want: `4|job|"a" is the id of line 2`},
		{name: "a job that is called as the stream would call it", text: "job,app,record,action\ns12,5,1,承認\n", want: "2|job|must not be s and a number"},
		{name: "a job that has a row's own name", text: "job,app,record,action\nc-2,5,1,承認\n,5,2,承認\n", o: ReadOptions{Defaults: queue.Job{Campaign: "c"}}, want: `3|job|"c-2" is the id of line 2`},
		{name: "a quote in the middle", text: head + "5,1,a\"b\n", want: "2||inside a cell"},
		{name: "a quote that never ends", text: head + "5,1,承認\n5,2,\"承認\n5,3,承認\n", want: "3||does not end properly"},
		{name: "neither UTF-8 nor Shift_JIS", text: head + "5,1,\x81\xff\n5,2,承認\n", want: "2|action|not Shift_JIS either\n3|action|not Shift_JIS either"},
		{name: "Shift_JIS said to be UTF-8", text: head + "5,1," + sjis(t, "承認") + "\n", o: ReadOptions{Encoding: "utf8"}, want: "2|action|not UTF-8"},
		{name: "characters that were damaged before", text: head + "5,1,承\ufffd\n", want: "2|action|damaged"},
		{name: "a damaged heading", text: "app,record,action,\xff\n5,1,承認,x\n", o: ReadOptions{Encoding: "utf8"}, want: "1|\xff|not UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Name, c.o.Defaults = "orders.csv", site(c.o.Defaults)
			wrong(t, c.text, c.o, c.want)
		})
	}
}

// wrong reads a file that must be refused for exactly these problems.
func wrong(t *testing.T, text string, o ReadOptions, want string) {
	t.Helper()
	f, err := Read(strings.NewReader(text), o)
	problems, ok := errors.AsType[*RowErrors](err)
	if !ok {
		t.Fatalf("Read = %+v, %v; want *RowErrors", f, err)
	}
	wants := strings.Split(want, "\n")
	if problems.Total != len(wants) || len(problems.Problems) != len(wants) {
		t.Fatalf("%d problems %v, want %d", problems.Total, problems.Problems, len(wants))
	}
	for i, w := range wants {
		parts := strings.SplitN(w, "|", 3)
		p := problems.Problems[i]
		if fmt.Sprint(p.Line) != parts[0] || p.Column != parts[1] || !strings.Contains(p.Text, parts[2]) {
			t.Errorf("problem %d is %q, want line %s, column %q, text with %q", i, p, parts[0], parts[1], parts[2])
		}
	}
}

func TestReadNDJSON(t *testing.T) {
	f := read(t, "\ufeff"+`{"v":1,"job":"a","app":5,"record":1001,"action":"承認","revision":"12"}`+"\r\n\r\n"+
		`  {"record":"1002"} `+"\n"+`{"app":6,"record":1003,"assignee":"sato","notBefore":"2026-12-01T00:00:00Z"}`,
		ReadOptions{Name: "-", Defaults: queue.Job{App: 5, Action: "却下", By: "erp"}})
	if f.Format != NDJSON {
		t.Fatalf("format %q, want ndjson", f.Format)
	}
	var got []string
	for _, r := range f.Rows {
		j := r.Job
		got = append(got, fmt.Sprintf("%d %s %s/%d/%d %s %s %d %s", r.Line, j.ID, j.Site, j.App, j.Record, j.Action, j.Assignee, j.Revision, j.By))
	}
	want := []string{
		"1 a main/5/1001 承認  12 erp",
		"3 " + f.Campaign + "-2 main/5/1002 却下  -1 erp",
		"4 " + f.Campaign + "-3 main/6/1003 却下 sato -1 erp",
	}
	if !slices.Equal(got, want) {
		t.Errorf("rows\n%s, want\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !strings.HasPrefix(f.Campaign, "stdin-") {
		t.Errorf("campaign %q, want stdin-…", f.Campaign)
	}
	if f.Rows[2].Job.NotBefore.IsZero() {
		t.Error("notBefore was lost")
	}
}

func TestReadNDJSONNamesWhatIsWrong(t *testing.T) {
	defaults := queue.Job{Site: "main", App: 5, Action: "承認"}
	for _, c := range []struct{ name, text, want string }{
		{"an array", `[{"record":1}]`, "1||JSON array"},
		{"not an object", `{"record":1}` + "\n7\n", "2||"},
		{"not JSON", `{"record":1,}`, "1||not JSON"},
		{"a misspelt member", `{"recrd":1,"record":1}`, "1|/recrd|did you mean record"},
		{"wrong case with a default for it", `{"record":1,"Action":"却下"}`, "1|/Action|did you mean action"},
		{"a member twice", `{"record":1,"app":6,"app":7}`, "1|/app|more than once"},
		{"another site", `{"record":1,"site":"other"}`, "1|/site|differs"},
		{"a key without a field", `{"key":{"value":"C-1"}}`, "1|/key/field|missing"},
		{"a key and a record", `{"record":1,"key":{"field":"code","value":"C-1"}}`, "1||has both record and key"},
		{"a match without a key", `{"record":1,"match":"all"}`, "1|/match|is for jobs with a key"},
		{"nothing but defaults", `{}`, "1||record or key is missing"},
		{"two campaigns", `{"record":1,"campaign":"a"}` + "\n" + `{"record":2,"campaign":"b"}`, `2|campaign|is "b"`},
		{"a newer version", `{"v":2,"record":1}`, "1||newer version"},
		{"two at once, in order", `{"record":0,"x":1}`, "1|/record|\n1|/x|unknown"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wrong(t, c.text, ReadOptions{Name: "jobs.ndjson", Defaults: defaults}, c.want)
		})
	}
}

func TestReadKeepsTwentyProblemsAndCountsAll(t *testing.T) {
	text := "app,record,action\n" + strings.Repeat("5,x,承認\n", 1200)
	_, err := Read(strings.NewReader(text), ReadOptions{Name: "orders.csv", Defaults: site(queue.Job{})})
	problems, ok := errors.AsType[*RowErrors](err)
	if !ok {
		t.Fatalf("error %v, want *RowErrors", err)
	}
	if len(problems.Problems) != 20 || problems.Total != 1200 {
		t.Errorf("%d problems kept of %d, want 20 of 1200", len(problems.Problems), problems.Total)
	}
	if want := `orders.csv: line 2, record: "x" is not a whole number (and 1199 more)`; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}

func TestReadNamesTheSameWorkTheSame(t *testing.T) {
	const text = "app,record,action\n5,1001,承認\n5,1002,承認\n"
	name := func(text string, o ReadOptions) string {
		if o.Name == "" {
			o.Name = "/data/月末 処理.v2.csv"
		}
		return read(t, text, o).Campaign
	}
	first := name(text, ReadOptions{})
	if !strings.HasPrefix(first, "月末-処理-v2-") || len(first) != len("月末-処理-v2-")+12 {
		t.Errorf("campaign %q, want 月末-処理-v2- and 12 digits", first)
	}
	for why, same := range map[string]string{
		"Shift_JIS":         name(sjis(t, text), ReadOptions{}),
		"columns moved":     name("record,action,app\n1001,承認,5\n1002,承認,5\n", ReadOptions{}),
		"an action by flag": name("app,record\n5,1001\n5,1002\n", ReadOptions{Defaults: queue.Job{Action: "承認"}}),
		"another requester": name(text, ReadOptions{Defaults: queue.Job{By: "erp"}}),
	} {
		if same != first {
			t.Errorf("%s: campaign %q, want %q", why, same, first)
		}
	}
	for why, other := range map[string]string{
		"another action by flag": name("app,record\n5,1001\n5,1002\n", ReadOptions{Defaults: queue.Job{Action: "却下"}}),
		"another app by flag":    name("record,action\n1001,承認\n1002,承認\n", ReadOptions{Defaults: queue.Job{App: 6}}),
		"another order":          name("app,record,action\n5,1002,承認\n5,1001,承認\n", ReadOptions{}),
		"another name":           name(text, ReadOptions{Name: "x.csv"}),
	} {
		if other == first {
			t.Errorf("%s: campaign is %q again", why, other)
		}
	}
	if got := name(text, ReadOptions{Defaults: queue.Job{Campaign: "month-end"}}); got != "month-end" {
		t.Errorf("campaign %q, want the one that was given", got)
	}
	if got := name(text, ReadOptions{Name: strings.Repeat("長", 300) + ".csv"}); len([]rune(got)) != 40+1+12 {
		t.Errorf("campaign of a long name has %d characters, want 53", len([]rune(got)))
	}
}

func TestReadSaysThatReadingFailed(t *testing.T) {
	_, err := Read(iotest.ErrReader(io.ErrUnexpectedEOF), ReadOptions{Name: "orders.csv"})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v, want the reader's", err)
	}
	for _, o := range []ReadOptions{{Format: "xlsx"}, {Encoding: "latin1"}} {
		_, err := Read(strings.NewReader("app,record,action\n5,1,x\n"), o)
		if _, isRows := errors.AsType[*RowErrors](err); err == nil || isRows {
			t.Errorf("%+v: error %v, want one about the option", o, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add("app,record,action\n5,1001,承認\n")
	f.Add("\ufeff\"app\",record,action,ref\r\n5,1001,\"a\r\n\"\"b\"\"\",x\r\n")
	f.Add(`{"v":1,"record":1001}` + "\n{}\n[")
	f.Add("\xff\xfea\x00,\x00")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Read(strings.NewReader(text), ReadOptions{Defaults: queue.Job{Site: "main", App: 5, Action: "承認"}})
		if err != nil {
			if problems, ok := errors.AsType[*RowErrors](err); ok && (problems.Total < 1 || len(problems.Problems) < 1) {
				t.Errorf("refused for no reason: %v", err)
			}
			return
		}
		if len(file.Rows) == 0 {
			t.Error("no error and no rows")
		}
		for _, r := range file.Rows {
			if _, err := r.Job.Encode(); err != nil {
				t.Errorf("line %d was accepted and cannot be published: %v", r.Line, err)
			}
		}
	})
}
