package dispatch

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"
)

func TestTheFirstUseOfAnIdIsRemembered(t *testing.T) {
	const rounds = 300_000
	r := rand.New(rand.NewPCG(3, 5))
	var got ids
	want := make(map[string]int64)
	records := []int64{0, 1, farRecord - 2, farRecord - 1, farRecord, farRecord + 1, math.MaxInt64, -1}
	for n := range rounds {
		id := fmt.Sprintf("inv-%d", r.IntN(rounds)) // more than a third come again
		record := r.Int64N(1 << 31)
		if n < 10*len(records) {
			record = records[n%len(records)]
		}
		known, used := got.usedFor(id)
		before, usedBefore := want[id]
		if known != before && usedBefore || used != usedBefore {
			t.Fatalf("%q: used %t for %d, want %t for %d", id, used, known, usedBefore, before)
		}
		got.remember(id, record)
		if !usedBefore {
			want[id] = record
		}
	}
	if got.size() != len(want) {
		t.Errorf("%d ids are remembered, want %d", got.size(), len(want))
	}
	for id, record := range want {
		if known, used := got.usedFor(id); !used || known != record {
			t.Fatalf("%q: used %t for %d, want record %d", id, used, known, record)
		}
	}
	for n := range rounds {
		if _, used := got.usedFor(fmt.Sprintf("other-%d", n)); used {
			t.Fatalf("other-%d is called used", n)
		}
	}
}

func TestNoIdIsNeverRemembered(t *testing.T) {
	var s ids
	s.remember("", 7)
	if _, used := s.usedFor(""); used || s.size() != 0 {
		t.Errorf("two jobs without an id are taken for the same one")
	}
}

// Ids that share a home, also at the end of the table, where the search goes on at its beginning.
func TestIdsThatMeetAreKeptApart(t *testing.T) {
	for _, home := range []uint32{0, 1 << 31, math.MaxUint32} {
		var s shard
		for n := range uint32(1000) {
			if (s.used+1)*100 > len(s.entries)*fill {
				s.grow()
			}
			f := fingerprint{home, n, 0}
			if e, found := s.find(f); found {
				t.Fatalf("home %d: %v is found as %v before it is there", home, f, e)
			}
			s.put(entry{f, n + 1})
		}
		for n := range uint32(1000) {
			if e, found := s.find(fingerprint{home, n, 0}); !found || e.record != n+1 {
				t.Fatalf("home %d: entry %d is found %t as %v", home, n, found, e)
			}
			if _, found := s.find(fingerprint{home, n, 1}); found {
				t.Fatalf("home %d: an id that differs in its last bits is taken for entry %d", home, n)
			}
		}
	}
}

func TestAnIdTakesAtMost24Bytes(t *testing.T) {
	var s ids
	id := make([]byte, 0, 32)
	for n := 1; n <= 1_000_000; n++ {
		s.remember(string(strconv.AppendInt(append(id[:0], "inv-2026-"...), int64(n), 10)), int64(n))
		if n < 100_000 || n%1000 != 0 {
			continue
		}
		places := 0
		for i := range s.shards {
			places += cap(s.shards[i].entries)
		}
		if per := 16 * float64(places) / float64(n); per > 24 {
			t.Fatalf("%d ids take %.1f bytes each", n, per)
		}
	}
}

func TestOnlyAJobThatTheLogHasNamedIsCalledByItsPlace(t *testing.T) {
	for id, want := range map[string]bool{
		"s17": true, "s18": false, "s017": false, "S17": false, "s": false, "17": false, "": false, "s17 ": false, "inv-17": false,
	} {
		if got := isNumbered(id, 17); got != want {
			t.Errorf("isNumbered(%q, 17) = %t", id, got)
		}
	}
}

// What ten million ids cost, and what it costs to look one up; a hundred thousand unless STATUSQ_MEASURE is set.
//
//	STATUSQ_MEASURE=1 go test -run '^$' -bench IDs ./internal/dispatch
func BenchmarkIDs(b *testing.B) {
	n := 100_000
	if os.Getenv("STATUSQ_MEASURE") != "" {
		n = 10_000_000
	}
	names := make([]string, 1<<16) // more than fits into the processor's caches, looked up in no order of the table
	other := make([]string, 1<<16)
	for i := range names {
		names[i] = fmt.Sprintf("inv-2026-%d", 1+rand.IntN(n))
		other[i] = fmt.Sprintf("inv-2027-%d", 1+rand.IntN(n))
	}
	before := heapInUse()
	var s ids
	id := make([]byte, 0, 32)
	for i := range n {
		s.remember(string(strconv.AppendInt(append(id[:0], "inv-2026-"...), int64(i+1), 10)), int64(i+1))
	}
	taken := float64(heapInUse() - before)
	for name, look := range map[string][]string{"known": names, "new": other} {
		b.Run(name, func(b *testing.B) {
			i, found := 0, 0
			for b.Loop() {
				if _, used := s.usedFor(look[i&(len(look)-1)]); used {
					found++
				}
				i++
			}
			if (found > 0) != (name == "known") {
				b.Errorf("%d of %d ids were found", found, i)
			}
			b.ReportMetric(taken/(1<<20), "MiB")
			b.ReportMetric(taken/float64(n), "bytes/id")
		})
	}
}

// heapInUse is what lives on the heap.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
