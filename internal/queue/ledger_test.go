package queue_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"statusq/internal/queue"
	"statusq/internal/queue/queuetest"
)

// open opens the ledger of app 5 of site main.
func open(t *testing.T, q *queue.Queue, epoch uint64) (*queue.Ledger, [queue.Slots]queue.Slot) {
	t.Helper()
	l, slots, err := q.OpenLedger(t.Context(), "main", 5, epoch, fmt.Sprintf("worker-%d", epoch))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l, slots
}

// request is a request with one member.
func request(id string, seq uint64) *queue.Request {
	return &queue.Request{ID: id, At: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), Parts: []queue.Part{
		{Members: []queue.Member{{Seq: seq, Job: fmt.Sprintf("j%d", seq), Record: 1001, Pin: 12, Action: "Approve", Step: 2}}}}}
}

// settlement ends three jobs, parks two, one of them anew, and buries one.
func settlement(id string) *queue.Settlement {
	return &queue.Settlement{
		Request: id,
		Results: []queue.Result{
			{Seq: 1, Job: "j1", Record: 1, Outcome: queue.Applied, Revision: 14, Campaign: "c"},
			{Seq: 2, Job: "j2", Record: 2, Outcome: queue.Already, Campaign: ""},
			{Seq: 3, Job: "j3", Record: 3, Outcome: queue.Dead, Reason: "gone", Code: "GAIA_RE01", Campaign: "c"},
		},
		Park: []*queue.Parked{
			{Job: job(5, "j5", 5), Seq: 5, Due: time.Date(2026, 12, 1, 1, 0, 0, 0, time.UTC), Reason: "not_found"},
			{Job: job(5, "j4", 5), Seq: 4, Attempts: []queue.Attempt{{Reason: "busy", Message: "待"}}},
		},
		Dead:  []*queue.DeadLetter{{Job: job(5, "j3", 3), Seq: 3, Outcome: queue.Dead, Reason: "gone", Code: "GAIA_RE01"}},
		Audit: &queue.Audit{Verb: "test"},
	}
}

type loaded struct {
	parked []queue.Parked
	ended  []queue.End
}

func load(t *testing.T, l *queue.Ledger) loaded {
	t.Helper()
	var got loaded
	err := l.Load(t.Context(), queue.Loader{
		Parked: func(p queue.Waiting) {
			whole, err := l.Queue().ParkedAt(t.Context(), p.At)
			if err != nil {
				t.Errorf("parked job %s of record %d: %v", p.Job, p.Record, err)
			}
			if whole.Ref() != p.ParkedRef || whole.Seq != p.Seq || !whole.Due.Equal(p.Due) {
				t.Errorf("what is parked as %+v is loaded as %+v", whole, p)
			}
			got.parked = append(got.parked, whole)
		},
		Ended: func(r queue.End) { got.ended = append(got.ended, r) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func names(parked []queue.Parked) string {
	var all []string
	for _, p := range parked {
		all = append(all, p.Job.ID)
	}
	return strings.Join(all, " ")
}

// No publisher may call a job s and a number, and the ledger is full of jobs that are called so: those that came without
// an id.
func TestLedgerKeepsJobsThatTheStreamHasNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := start(t)
		l, _ := open(t, q, 7)
		waits, dead := job(5, "s12", 1), job(5, "s13", 2)
		set := &queue.Settlement{
			Results: []queue.Result{{Seq: 13, Job: "s13", Record: 2, Outcome: queue.Dead}},
			Park:    []*queue.Parked{{Job: waits, Seq: 12}},
			Dead:    []*queue.DeadLetter{{Job: dead, Seq: 13, Outcome: queue.Dead}},
		}
		if err := l.Write(t.Context(), 0, queue.Slot{}, set); err != nil {
			t.Fatal(err)
		}
		letters := drain(t, q.Dead(t.Context(), queue.DeadFilter{Job: "s13"}))
		if len(letters) != 1 || letters[0].Job != dead {
			t.Fatalf("dead letters of s13 are %+v", letters)
		}
		if err := q.RetryDead(t.Context(), letters[0], "sato", ""); err != nil {
			t.Fatal(err)
		}
		second, _ := open(t, q, 8)
		state := load(t, second)
		if got := names(state.parked); got != "s12 s13" || state.parked[0].Job != waits || state.parked[1].Job != dead {
			t.Errorf("parked are %+v, want %+v and %+v", state.parked, waits, dead)
		}
		if s, err := q.FindJob(t.Context(), "main", 5, "s12"); err != nil || s.Parked == nil {
			t.Errorf("s12 is found as %+v (error %v)", s, err)
		}
	})
}

func TestLedgerGivesTheNextOwnerWhatWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := start(t)
		first, slots := open(t, q, 7)
		for n, slot := range slots {
			if slot.Request != nil {
				t.Fatalf("slot %d of a new app holds a request", n)
			}
		}
		want := request("r1", 10)
		if err := first.Write(t.Context(), 3, queue.Slot{Request: want, Day: "2026-12-01", Spent: 4}, nil); err != nil {
			t.Fatal(err)
		}
		set := settlement("r2")
		if err := first.Write(t.Context(), 4, queue.Slot{Day: "2026-12-01", Spent: 5}, set); err != nil {
			t.Fatal(err)
		}
		for _, p := range set.Park {
			got, err := q.ParkedAt(t.Context(), p.At)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, *p) {
				t.Errorf("at %d stands %+v, want %+v", p.At, got, *p)
			}
		}
		// Parked anew, and one that leaves.
		again := &queue.Settlement{
			Results: []queue.Result{{Seq: 5, Job: "j5", Record: 5, Outcome: queue.Applied}},
			Park:    []*queue.Parked{{Job: job(5, "j4", 5), Seq: 4, Reason: "again"}, {Job: job(5, "j6", 5), Seq: 6, Behind: true}},
			Unpark:  []queue.ParkedRef{set.Park[0].Ref(), set.Park[1].Ref()},
		}
		if err := first.Write(t.Context(), 4, queue.Slot{}, again); err != nil {
			t.Fatal(err)
		}

		second, slots := open(t, q, 8)
		got := slots[3]
		if got.Epoch != 8 || got.Owner != "worker-8" || got.Day != "2026-12-01" || got.Spent != 4 || !reflect.DeepEqual(got.Request, want) {
			t.Errorf("slot 3 was claimed with %+v, want the request and the day kept", got)
		}
		state := load(t, second)
		if got := names(state.parked); got != "j4 j6" {
			t.Errorf("parked are %q, want j4 and j6, in the order of the log", got)
		}
		if state.parked[0].Reason != "again" || !state.parked[1].Behind || state.parked[0].Epoch != 7 {
			t.Errorf("parked are %+v", state.parked)
		}
		if len(state.ended) != 4 {
			t.Errorf("%d jobs ended, want 4: %+v", len(state.ended), state.ended)
		}
		for _, result := range drain(t, q.Results(t.Context(), queue.ResultFilter{})) {
			if result.Job == "j3" && (result.Outcome != queue.Dead || result.Code != "GAIA_RE01" || result.Campaign != "c" ||
				result.Site != "main" || result.App != 5 || result.Request != "r2") {
				t.Errorf("j3 ended with %+v", result)
			}
		}
		if _, err := q.ParkedAt(t.Context(), set.Park[0].At); !errors.Is(err, queue.ErrGone) {
			t.Errorf("what has left is still there: %v", err)
		}
	})
}

func TestLedgerRefusesADeposedOwnerWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := start(t)
		old, _ := open(t, q, 7)
		fresh, _ := open(t, q, 8)
		wantErr(t, "a deposed owner settles", old.Write(t.Context(), 0, queue.Slot{}, settlement("r1")), queue.ErrDeposed)
		wantErr(t, "and tries once more", old.Write(t.Context(), 1, queue.Slot{}, nil), queue.ErrDeposed)
		if got := load(t, fresh); len(got.parked)+len(got.ended) != 0 {
			t.Errorf("it has left %+v", got)
		}
		if dead := drain(t, q.Dead(t.Context(), queue.DeadFilter{})); len(dead) != 0 {
			t.Errorf("it has left %+v", dead)
		}
		_, _, err := q.OpenLedger(t.Context(), "main", 5, 7, "worker-7")
		wantErr(t, "it opens again", err, queue.ErrDeposed)
		if err := fresh.Write(t.Context(), 0, queue.Slot{}, settlement("r2")); err != nil {
			t.Errorf("the new owner: %v", err)
		}
	})
}

// A write is stored once and known to be, whatever happens to it or to its answer.
func TestLedgerWriteOverABrokenWire(t *testing.T) {
	for name, breakIt := range map[string]func(*wire, string){"lost": (*wire).lose, "ack lost": (*wire).cut, "late": (*wire).hold} {
		for what, set := range map[string]*queue.Settlement{"slot": nil, "settlement": settlement("r1")} {
			t.Run(what+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := serve(t)
					plain := s.Connect(t)
					q, w := connect(t, s)
					l, _ := open(t, q, 7)
					breakIt(w, "marker")
					slot := queue.Slot{Day: "marker", Request: request("r1", 1)}
					if err := l.Write(t.Context(), 2, slot, set); err != nil {
						t.Fatal(err)
					}
					w.wantBroken(t)
					if name == "late" {
						w.deliver(t)
						time.Sleep(time.Second)
					}
					if set != nil {
						for _, p := range set.Park {
							if got, err := plain.ParkedAt(t.Context(), p.At); err != nil || got.Job.ID != p.Job.ID {
								t.Errorf("at %d stands %q (%v), want %q", p.At, got.Job.ID, err, p.Job.ID)
							}
						}
						if n := len(drain(t, plain.Results(t.Context(), queue.ResultFilter{}))); n != len(set.Results) {
							t.Errorf("%d results, want %d", n, len(set.Results))
						}
					}
					// The next write of the slot finds it as the ledger thinks it is.
					if err := l.Write(t.Context(), 2, queue.Slot{Day: "next"}, nil); err != nil {
						t.Fatal(err)
					}
					views, err := plain.Slots(t.Context(), "main", 5)
					if err != nil || len(views) != queue.Slots || views[2].Slot.Day != "next" {
						t.Errorf("the slots are %+v (%v)", views, err)
					}
				})
			})
		}
	}
}

// A write that was given up can still arrive. The ledger takes nothing more, and a new claim shuts the late copy out.
func TestLedgerGivenUpWrite(t *testing.T) {
	for _, late := range []string{"before the new claim", "after the new claim"} {
		t.Run(late, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := serve(t)
				plain := s.Connect(t)
				q, w := connect(t, s)
				l, _ := open(t, q, 7)
				w.hold("marker")
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				err := l.Write(ctx, 2, queue.Slot{Day: "marker"}, settlement("r1"))
				cancel()
				wantErr(t, "a write that was given up", err, queue.ErrUnclear)
				wantErr(t, "its reason", err, context.DeadlineExceeded)
				wantErr(t, "another slot", l.Write(t.Context(), 3, queue.Slot{}, nil), queue.ErrUnclear)

				if late == "before the new claim" {
					w.deliver(t)
					time.Sleep(time.Second)
				}
				again, slots := open(t, plain, 7)
				if late == "after the new claim" {
					w.deliver(t)
					time.Sleep(time.Second)
				}
				got := load(t, again)
				if stored := slots[2].Day == "marker"; stored != (late == "before the new claim") || stored != (len(got.ended) == 3) ||
					stored != (len(got.parked) == 2) {
					t.Errorf("slot %+v, %d ended, %d parked, want all of the write or nothing", slots[2], len(got.ended), len(got.parked))
				}
			})
		})
	}
}

func TestLedgerWriteWaitsForNATS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(10 * time.Millisecond) })
		dir := t.TempDir()
		s := queuetest.StartDir(t, dir)
		s.Connect(t)
		var current atomic.Pointer[queuetest.Server]
		current.Store(s)
		q := connectTo(t, &current)
		l, _ := open(t, q, 7)
		s.Close()
		wrote := make(chan error)
		go func() { wrote <- l.Write(t.Context(), 2, queue.Slot{Day: "marker"}, settlement("r1")) }()
		time.Sleep(time.Hour)
		current.Store(queuetest.StartDir(t, dir))
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
		if got := load(t, l); len(got.ended) != 3 || len(got.parked) != 2 {
			t.Errorf("after an hour without NATS: %+v", got)
		}
	})
}

func TestLedgerFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		q, err := queue.Connect(t.Context(), s.Config())
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		if err := q.Setup(t.Context(), queue.Layout{LedgerBytes: 64 << 10}); err != nil {
			t.Fatal(err)
		}
		l, _ := open(t, q, 7)
		var written int
		for err == nil {
			set := &queue.Settlement{Request: fmt.Sprint(written)}
			for i := range 10 {
				set.Results = append(set.Results, queue.Result{Seq: uint64(i), Job: fmt.Sprintf("j%d-%d", written, i), Message: strings.Repeat("x", 100)})
				set.Dead = append(set.Dead, &queue.DeadLetter{Job: job(5, fmt.Sprintf("j%d-%d", written, i), 1)})
			}
			if err = l.Write(t.Context(), 0, queue.Slot{}, set); err == nil {
				written++
			}
		}
		wantErr(t, "a write too many", err, queue.ErrLedgerFull)
		if errors.Is(err, queue.ErrUnclear) || written == 0 {
			t.Fatalf("after %d writes: %v, want a plain refusal", written, err)
		}
		if n := len(drain(t, q.Results(t.Context(), queue.ResultFilter{}))); n != written*10 {
			t.Errorf("%d results, want %d: what is full refuses whole and trims nothing", n, written*10)
		}
		if n := len(drain(t, q.Dead(t.Context(), queue.DeadFilter{}))); n != written*10 {
			t.Errorf("%d dead letters, want %d", n, written*10)
		}
		if err := l.Write(t.Context(), 0, queue.Slot{}, nil); err != nil {
			t.Errorf("a write that there is room for: %v, want the ledger to go on", err)
		}
		if err := q.JetStream().DeleteStream(t.Context(), "STATUSQ_LEDGER"); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "a ledger that is gone", l.Write(t.Context(), 0, queue.Slot{}, nil), queue.ErrNoQueue)
	})
}

func TestLedgerRefusesWhatIsTooMuch(t *testing.T) {
	q := start(t)
	l, _ := open(t, q, 7)
	var set queue.Settlement
	for i := range 901 {
		set.Park = append(set.Park, &queue.Parked{Job: job(5, fmt.Sprintf("j%d", i), 1)})
	}
	if err := l.Write(t.Context(), 0, queue.Slot{}, &set); err == nil {
		t.Error("902 messages in one settlement were taken")
	}
	set.Park = set.Park[:890]
	if err := l.Write(t.Context(), 0, queue.Slot{}, &set); err != nil {
		t.Errorf("891 messages in one settlement: %v", err)
	}
	if p, err := q.ParkedAt(t.Context(), set.Park[889].At); err != nil || p.Job.ID != "j889" {
		t.Errorf("the last parked job stands as %q (%v)", p.Job.ID, err)
	}
	set = queue.Settlement{Park: []*queue.Parked{set.Park[0], set.Park[0]}}
	if err := l.Write(t.Context(), 0, queue.Slot{}, &set); err == nil {
		t.Error("one job was parked twice in a settlement")
	}
	if err := l.Write(t.Context(), queue.Slots, queue.Slot{}, nil); err == nil {
		t.Error("there is a slot too many")
	}
}

// Results of one request can be settled in several writes, and many of one campaign in one: none replaces another.
func TestLedgerKeepsAllResults(t *testing.T) {
	q := start(t)
	l, _ := open(t, q, 7)
	const writes, each = 3, 3000
	for w := range writes {
		set := &queue.Settlement{Request: "r"}
		for i := range each {
			set.Results = append(set.Results, queue.Result{Job: fmt.Sprintf("%d-%d", w, i), Outcome: queue.Applied, Campaign: "月末",
				Message: strings.Repeat("長", 50)})
		}
		if err := l.Write(t.Context(), 0, queue.Slot{}, set); err != nil {
			t.Fatal(err)
		}
	}
	seen := make(map[string]bool)
	for _, r := range drain(t, q.Results(t.Context(), queue.ResultFilter{Site: "main", App: 5, Campaign: "月末"})) {
		if r.Request != "r" || r.Campaign != "月末" {
			t.Fatalf("result %+v", r)
		}
		seen[r.Job] = true
	}
	if len(seen) != writes*each {
		t.Errorf("%d results, want %d", len(seen), writes*each)
	}
}

func TestLedgerTimesToLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := start(t)
		l, _ := open(t, q, 7)
		set := settlement("r1")
		if err := l.Write(t.Context(), 0, queue.Slot{}, set); err != nil {
			t.Fatal(err)
		}
		if err := l.Write(t.Context(), 0, queue.Slot{}, &queue.Settlement{Unpark: []queue.ParkedRef{set.Park[0].Ref()}}); err != nil {
			t.Fatal(err)
		}
		tombstone := "statusq.parked.main.5.5.j5"
		for subject, want := range map[string]string{
			"statusq.slot.main.5.0": "", "statusq.parked.main.5.5.j4": "", "statusq.dead.main.5.=.j3": "", tombstone: "1h0m0s",
		} {
			seq, header, err := q.LastHeader(t.Context(), subject)
			if err != nil || seq == 0 || header.Get("Nats-TTL") != want {
				t.Errorf("%s stands at %d with TTL %q (%v), want %q", subject, seq, header.Get("Nats-TTL"), err, want)
			}
		}
		time.Sleep(2 * time.Hour)
		if seq, _, err := q.LastHeader(t.Context(), tombstone); err != nil || seq != 0 {
			t.Errorf("after two hours the tombstone stands at %d (%v)", seq, err)
		}
		stream, err := q.JetStream().Stream(t.Context(), "STATUSQ_LEDGER")
		if err != nil {
			t.Fatal(err)
		}
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter("statusq.results.>"))
		if err != nil || len(info.State.Subjects) != 2 {
			t.Fatalf("results stand at %v (%v), want two places, one for each campaign", info.State.Subjects, err)
		}
		for subject := range info.State.Subjects {
			_, header, err := q.LastHeader(t.Context(), subject)
			if err != nil || header.Get("Nats-TTL") != "9600h0m0s" {
				t.Errorf("results have TTL %q (%v), want 400 days", header.Get("Nats-TTL"), err)
			}
		}
	})
}

func TestLedgerNewerVersionIsNotRead(t *testing.T) {
	q := start(t)
	open(t, q, 7)
	if _, err := q.JetStream().Publish(t.Context(), "statusq.parked.main.5.1.j1", []byte(`{"v":2,"job":"?"}`)); err != nil {
		t.Fatal(err)
	}
	l, _ := open(t, q, 8)
	wantErr(t, "load", l.Load(t.Context(), queue.Loader{}), queue.ErrNewerVersion)
	if _, err := q.JetStream().Publish(t.Context(), "statusq.slot.main.5.3", []byte(`{"v":2}`)); err != nil {
		t.Fatal(err)
	}
	_, _, err := q.OpenLedger(t.Context(), "main", 5, 9, "w")
	wantErr(t, "open", err, queue.ErrNewerVersion)
}

// Two owners claim at the same time: the newer one ends up with all slots, and nothing that was written is lost.
func TestLedgerClaimsRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		q := s.Connect(t)
		old, _ := open(t, q, 7)
		written := make(chan int)
		go func() {
			n := 0
			for {
				err := old.Write(context.Background(), n%queue.Slots, queue.Slot{Spent: n + 1}, nil)
				if err != nil {
					if !errors.Is(err, queue.ErrDeposed) {
						t.Error(err)
					}
					written <- n
					return
				}
				n++
			}
		}()
		fresh := s.Connect(t)
		_, slots := open(t, fresh, 8)
		n := <-written
		most := 0
		for _, slot := range slots {
			most = max(most, slot.Spent)
		}
		if most != n {
			t.Errorf("the old owner wrote up to %d, the new one found %d", n, most)
		}
	})
}

// The old owner is quicker than a claim that has read already: its write is what the claim keeps.
func TestLedgerClaimThatLosesTheSwapReadsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		old, _ := open(t, s.Connect(t), 7)
		q, w := connect(t, s)
		w.before(`"epoch":8`, func() {
			if err := old.Write(t.Context(), 0, queue.Slot{Request: request("r1", 1)}, nil); err != nil {
				t.Error(err)
			}
		})
		_, slots := open(t, q, 8)
		w.wantBroken(t)
		if slots[0].Request == nil || slots[0].Request.ID != "r1" {
			t.Errorf("slot 0 was claimed as %+v, want the request that was written meanwhile", slots[0])
		}
		wantErr(t, "the old owner's next write", old.Write(t.Context(), 0, queue.Slot{}, nil), queue.ErrDeposed)
	})
}
