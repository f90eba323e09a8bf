package simulator_test

import (
	"fmt"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"statusq/internal/kintone/simulator"
)

func big(records int) *simulator.Kintone {
	k := simulator.New(simulator.Config{})
	k.AddApp(simulator.App{ID: 5, Tokens: []simulator.Token{simulator.ViewToken(token)}, Process: simulator.Workflow(), Records: records})
	return k
}

// A million records cost nothing until somebody writes to them.
func TestMillionRecordsAreCheap(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	k := big(1_000_000)
	mustPut(t, k, 1_000_000, func(r *simulator.RecordState) { r.Status = "Completed" })
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
		t.Errorf("a million records allocated %d bytes, want less than 1 MiB", grown)
	}
	wantRecord(t, k, 1_000_000, 1, "Completed")
	wantRecord(t, k, 999_999, 1, "Not started")
}

// BenchmarkPut changes 100 records in one call.
func BenchmarkPut(b *testing.B) {
	k := big(1_000_000)
	actions := []string{"Start", "Approve", "Reopen"}
	var bodies []string
	for _, action := range actions {
		m := new(strings.Builder)
		for i := range 100 {
			fmt.Fprintf(m, `,{"id":%d,"action":%q,"revision":-1}`, i*7+1, action)
		}
		bodies = append(bodies, `{"app":5,"records":[`+m.String()[1:]+`]}`)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		w := httptest.NewRecorder()
		k.ServeHTTP(w, request("PUT", "/k/v1/records/status.json", bodies[n%3]))
		if n++; w.Code != 200 {
			b.Fatal(w.Body)
		}
	}
}

// BenchmarkGet reads 500 records by their ids.
func BenchmarkGet(b *testing.B) {
	k := big(1_000_000)
	ids := new(strings.Builder)
	for i := range 500 {
		fmt.Fprintf(ids, ",%d", i*1000+1)
	}
	parameters := url.Values{"app": {"5"}, "query": {"$id in (" + ids.String()[1:] + ") limit 500"}}
	for i, code := range []string{"$id", "$revision", "Status", "Assignee", "Updated_by"} {
		parameters.Set(fmt.Sprintf("fields[%d]", i), code)
	}
	target := "/k/v1/records.json?" + parameters.Encode()
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		k.ServeHTTP(w, request("GET", target, ""))
		if w.Code != 200 {
			b.Fatal(w.Body)
		}
	}
}

// BenchmarkGetByKey looks 200 keys up among a million records, of which the first look-up has made an index.
func BenchmarkGetByKey(b *testing.B) {
	k := simulator.New(simulator.Config{})
	k.AddApp(simulator.App{ID: 5, Tokens: []simulator.Token{simulator.ViewToken(token)}, Process: simulator.Workflow(), Records: 1_000_000,
		Fields: []simulator.Field{{Code: "code", Type: "SINGLE_LINE_TEXT", Default: func(record int64) string { return fmt.Sprintf("C-%d", record) }}}})
	keys := new(strings.Builder)
	for i := range 200 {
		fmt.Fprintf(keys, `,"C-%d"`, i*1000+1)
	}
	target := "/k/v1/records.json?" + url.Values{"app": {"5"}, "query": {"(code in (" + keys.String()[1:] + ")) and $id > 0 order by $id asc limit 500"}}.Encode()
	ask := func() {
		w := httptest.NewRecorder()
		k.ServeHTTP(w, request("GET", target, ""))
		if w.Code != 200 {
			b.Fatal(w.Body)
		}
	}
	ask()
	b.ReportAllocs()
	for b.Loop() {
		ask()
	}
}
