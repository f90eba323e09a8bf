package queue_test

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/queue"
	"statusq/internal/queue/queuetest"
)

// end settles n jobs with Ledger.Write, as a lane does: so many results in a message.
func end(tb testing.TB, l *queue.Ledger, n, each int) {
	tb.Helper()
	for first := 1; first <= n; first += each {
		results := make([]queue.Result, min(each, n-first+1))
		for i := range results {
			seq := first + i
			results[i] = queue.Result{
				Seq: uint64(seq), Job: fmt.Sprintf("inv-2026-%06d", seq), Record: int64(seq), Outcome: queue.Applied,
				Revision: 14, Campaign: "month-end", At: time.Now().UTC(),
			}
		}
		if err := l.Write(tb.Context(), 0, queue.Slot{}, &queue.Settlement{Request: queue.NewID(), Results: results}); err != nil {
			tb.Fatal(err)
		}
	}
}

// ended is what Load gives of results.
func ended(results []queue.Result) []queue.End {
	var ends []queue.End
	for _, r := range results {
		ends = append(ends, queue.End{Seq: r.Seq, Job: r.Job, Record: r.Record, Outcome: r.Outcome, Reason: r.Reason})
	}
	return ends
}

// A member of Result that shapeOfEnds does not know would make every start ten times slower, and nothing else.
func TestResultsAreReadByTheirShape(t *testing.T) {
	full := queue.Result{
		Seq: 1<<53 + 1, Job: "j1", Record: 999_999_999_999_999_999, Outcome: queue.Dead, Revision: 14, Reason: "refused", Code: "GAIA_X",
		Message: `"quoted", \, }, ]}, <b>, 待`, Ref: "PO-77", Parent: `p "1"`, Matches: 3,
		Key: &queue.Key{Field: "code", Value: `"}], C-1`}, At: time.Now().UTC(),
		Attempts: []queue.Attempt{{At: time.Now().UTC(), Request: "r", Reason: "busy", Code: "c", Message: `{"seq":9}`}, {}},
	}
	for field, value := range reflect.ValueOf(full).Fields() {
		if value.IsZero() && field.Tag.Get("json") != "-" {
			t.Errorf("this test does not fill %s", field.Name)
		}
	}
	for name, results := range map[string][]queue.Result{
		"every member":  {full, full},
		"no member":     {{}},
		"no result":     {},
		"every outcome": {{Outcome: queue.Applied}, {Outcome: queue.Already}, {Outcome: queue.Unknown}, {Outcome: queue.Cancelled}, {Outcome: queue.Duplicate}, {Outcome: queue.Matched}, {Outcome: "new"}},
		"some members":  {{Reason: `"odd", {[ 待`}, {Revision: 3, Message: "m"}, {Code: "c", Reason: "r"}, {Attempts: []queue.Attempt{{}}}, {Reason: "r"}},
		"odd names":     {{Job: `a"b`}, {Job: `\`}, {Job: `\"`}, {Job: "請求-1"}, {Job: "<&>"}, {Job: "\u2028"}, {Job: "a\xffb"}},
	} {
		for _, request := range []string{"", "r1"} {
			for _, campaign := range []string{"", `month "end"`} {
				data, err := queue.EncodeResults(request, campaign, results)
				if err != nil {
					t.Fatal(err)
				}
				ends, quick, err := queue.DecodeEnds(data)
				if err != nil || !quick {
					t.Errorf("%s: read by its shape %t, error %v: %s", name, quick, err, data)
				}
				want := ended(results)
				for i := range want {
					if want[i].Job == "a\xffb" {
						want[i].Job = "a\ufffdb" // as JSON has it
					}
				}
				if !slices.Equal(ends, want) {
					t.Errorf("%s: read %+v, want %+v", name, ends, want)
				}
			}
		}
	}
}

func TestResultsOfAnotherShapeAreReadAllTheSame(t *testing.T) {
	want := []queue.End{{Seq: 7, Job: "j", Record: 8, Outcome: queue.Applied}}
	reused := []queue.End{{Seq: 7, Job: "j", Record: 8, Outcome: queue.Dead, Reason: "id_reused"}}
	for _, behind := range []string{
		`"reason":"id_reused","revision":3`, `"code":"c","reason":"id_reused"`, `"new":{},"reason":"id_reused"`, `"at":"2026-11-22T05:31:30Z","reason":"id_reused"`,
		`"attempts":[{"reason":"busy"}],"reason":"id_reused"`, `"reason":"busy","reason":"id_reused"`, `"Reason":"id_reused"`, `"reason" : "id_reused"`,
		`"revision":-3,"reason":"id_reused"`, `"reason":"id_reused","attempts":null`, `"reason":"id_reused","new":1`,
	} {
		data := `{"v":1,"results":[{"seq":7,"job":"j","record":8,"outcome":"dead",` + behind + `}]}`
		if ends, quick, err := queue.DecodeEnds([]byte(data)); quick || err != nil || !slices.Equal(ends, reused) {
			t.Errorf("%s: read by its shape %t, as %+v, error %v", data, quick, ends, err)
		}
	}
	for data, ok := range map[string]bool{
		`{"results":[{"outcome":"applied","record":8,"job":"j","seq":7}],"v":1}`:               true,
		`{ "v": 1, "results": [ { "seq": 7, "job": "j", "record": 8, "outcome": "applied" }]}`: true,
		`{"v":1,"results":[{"seq":7,"job":"j","record":8,"by":"x","outcome":"applied"}]}`:      true,
		`{"v":1,"more":{},"results":[{"seq":7,"job":"j","record":8,"outcome":"applied"}]}`:     true,
		`{"v":1,"results":[{"seq":7,"job":"j","record":8,"outcome":"applied"}],"more":1}`:      true,
		`{"v":2,"results":[{"seq":7,"job":"j","record":8,"outcome":"applied"}]}`:               false,
		`{"v":1,"results":[{"seq":-7,"job":"j","record":8,"outcome":"applied"}]}`:              false,
		`{"v":1,"results":[{"seq":7,"job":"j","record":8,"outcome":"applied"}]`:                false,
		`{"v":1,"results":[{"seq":7,"job":"j","record":8,"outcome":"applied"},]}`:              false,
		`{"v":1,"results":[{"seq":7,"job":"j","record":8,"outcome":"app`:                       false,
		`{"v":1,"results":[{"seq":07,"job":"j","record":8,"outcome":"applied"}]}`:              false,
		`{"v":1,"results":[{"seq":7,"job":"j`:                                                  false,
		`{"v":1`:                                                                               false,
		``:                                                                                     false,
	} {
		ends, quick, err := queue.DecodeEnds([]byte(data))
		if quick || (err == nil) != ok || ok && !slices.Equal(ends, want) {
			t.Errorf("%s: read by its shape %t, as %+v, error %v", data, quick, ends, err)
		}
	}
}

func FuzzEnds(f *testing.F) {
	f.Add(uint64(7), "j", int64(8), "applied", int64(14), "id_reused", "a message", "r1", []byte(`{"v":1,"results":[{"seq":1,"job":"`))
	f.Add(uint64(1e18), `\"`, int64(-1), "", int64(-1), `"`, `}]}`, "", []byte(`{"v":1,"results":[{"seq":1,"job":"a","outcome":"b","at":["\"`))
	f.Fuzz(func(t *testing.T, seq uint64, job string, record int64, outcome string, revision int64, reason, message, ref string, raw []byte) {
		_, _, _ = queue.DecodeEnds(raw) // whatever it is, this comes back
		results := []queue.Result{{Seq: seq, Job: job, Record: record, Outcome: queue.Outcome(outcome), Revision: revision, Reason: reason, Message: message, Ref: ref}, {Seq: 2, Job: "after"}}
		data, err := queue.EncodeResults("r", "c", results)
		if err != nil {
			t.Fatal(err)
		}
		ends, quick, err := queue.DecodeEnds(data)
		if err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		if want := seq < 1e18 && record >= 0 && record < 1e18 && revision >= 0 && revision < 1e18; quick != want {
			t.Errorf("%s: read by its shape %t, want %t", data, quick, want)
		}
		want := ended(results)
		plain := func(text string) string { return strings.ReplaceAll(strings.ToValidUTF8(text, ""), "\ufffd", "") }
		for _, e := range []*queue.End{&want[0], &ends[0]} {
			e.Job, e.Outcome, e.Reason = plain(e.Job), queue.Outcome(plain(string(e.Outcome))), plain(e.Reason)
		}
		if !slices.Equal(ends, want) {
			t.Errorf("%s: read %+v, want %+v", data, ends, want)
		}
	})
}

// What the server has of an app beside what is parked and ended must not stop the load, nor what it has of others.
func TestLoadReadsOneAppAmongOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := start(t)
		for _, app := range []int64{5, 55, 6} {
			l, _, err := q.OpenLedger(t.Context(), "main", app, 7, "worker")
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := l.Write(t.Context(), 3, queue.Slot{Request: request("r", 9)}, nil); err != nil {
					t.Fatal(err)
				}
				set := settlement(fmt.Sprintf("r%d", app))
				for i := range set.Results {
					set.Results[i].Record = app
				}
				if err := l.Write(t.Context(), 3, queue.Slot{}, set); err != nil {
					t.Fatal(err)
				}
			}
		}
		l, _, err := q.OpenLedger(t.Context(), "main", 5, 8, "worker")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		got := load(t, l)
		if len(got.ended) != 9 || names(got.parked) != "j4 j5" {
			t.Errorf("loaded %d ends, want 9, and parked %q, want j4 and j5", len(got.ended), names(got.parked))
		}
		for _, e := range got.ended {
			if e.Record != 5 {
				t.Errorf("an end of another app came: %+v", e)
			}
		}
	})
}

// BenchmarkLoad loads a ledger in which jobs have ended, as a lane does at its start. Set STATUSQ_MEASURE for the sizes
// at which it matters; the largest takes some minutes to be written.
//
//	STATUSQ_MEASURE=1 go test -run '^$' -bench Load -benchtime 1x ./internal/queue
func BenchmarkLoad(b *testing.B) {
	type size struct{ n, each int }
	sizes := []size{{100_000, 100}, {10_000, 1}}
	if os.Getenv("STATUSQ_MEASURE") != "" {
		sizes = append(sizes, size{1_000_000, 100}, size{10_000_000, 100}, size{100_000, 1})
	}
	for _, s := range sizes {
		b.Run(fmt.Sprintf("ended=%d/each=%d", s.n, s.each), func(b *testing.B) {
			q := queuetest.StartDir(b, b.TempDir()).Connect(b)
			l, _, err := q.OpenLedger(b.Context(), "main", 5, 1, "bench")
			if err != nil {
				b.Fatal(err)
			}
			began := time.Now()
			end(b, l, s.n, s.each)
			b.ReportMetric(time.Since(began).Seconds(), "write-s")
			for b.Loop() {
				l, _, err := q.OpenLedger(b.Context(), "main", 5, 2, "bench")
				if err != nil {
					b.Fatal(err)
				}
				n := 0
				if err := l.Load(b.Context(), queue.Loader{Ended: func(queue.End) { n++ }}); err != nil {
					b.Fatal(err)
				}
				l.Close()
				if n != s.n {
					b.Fatalf("%d jobs have ended, want %d", n, s.n)
				}
			}
			b.ReportMetric(float64(s.n*b.N)/b.Elapsed().Seconds(), "ended/s")
		})
	}
}
