package dispatch

import (
	"os"
	"testing"
	"time"

	"statusq/internal/queue"
)

// spoil makes every n-th job fail, in seven ways in turn.
func spoil(js []queue.Job, n int) (bad int) {
	for i := n - 1; i < len(js); i += n {
		j := &js[i]
		switch bad % 7 {
		case 0:
			j.Record += 10_000_000 // not there
		case 1:
			j.Action = "Approve" // from another status
		case 2:
			j.Action = "承認" // no such action
		case 3:
			j.Revision = 7 // the record is at 1
		case 4:
			j.Action, j.Assignee = "Review", "nobody" // no such user
		case 5:
			j.Action = "Review" // without an assignee
		case 6:
			j.Assignee = "sato" // where none may be named
		}
		bad++
	}
	return bad
}

// A backlog must take at most so many requests per 100 jobs, and a few once. STATUSQ_MEASURE makes it 100,000 jobs.
func TestRequestsPerHundredJobsOfABacklog(t *testing.T) {
	n := 8_000
	if os.Getenv("STATUSQ_MEASURE") != "" {
		n = 100_000
	}
	for _, tt := range []struct {
		name  string
		every int // so many jobs, one bad one
		most  float64
		once  int // requests that are made however many jobs there are: at the start, and when a refusal contradicts the settings
	}{
		{"none bad", 0, 1.21, 3},
		{"1 % bad", 100, 1.25, 22},
		{"10 % bad", 10, 1.25, 22},
	} {
		t.Run(tt.name, func(t *testing.T) {
			app := asking()
			app.Records = n
			inWorldOf(t, app, func(w *world) {
				js, bad := jobs(n, "Start"), 0
				if tt.every > 0 {
					bad = spoil(js, tt.every)
				}
				w.publish(js...)
				wk := w.start("one")
				w.drained(n, time.Hour)
				w.end(wk)
				got := w.results()
				if c := count(got); c[queue.Applied] != n-bad || c[queue.Dead] != bad {
					w.t.Errorf("outcomes %v, want %d applied and %d dead", c, n-bad, bad)
				}
				total := w.sim.Requests().Total
				per := 100 * float64(total) / float64(n)
				w.t.Logf("%d jobs, %d bad: %d requests, %.3f per 100 jobs; %v", n, bad, total, per, w.sim.Requests().Kinds)
				if most := tt.most*float64(n)/100 + float64(tt.once); float64(total) > most {
					w.t.Errorf("%d requests, want at most %.0f: %.2f per 100 jobs and %d once", total, most, tt.most, tt.once)
				}
			})
		})
	}
}

func TestOneBadRecordAmongTenThousandCostsOneDeadLetter(t *testing.T) {
	for _, tt := range []struct {
		name string
		bad  queue.Job
		more int // requests above those of ten thousand good jobs
	}{
		// 10,000 jobs make 100 calls and 20 reads, after the 3 requests that a lane begins with.
		{"kintone names it", queue.Job{Record: 5000, Action: "Review", Assignee: "nobody"}, 2},
		{"only a read shows it", queue.Job{Record: 999_999, Action: "Start"}, 4},
		{"nobody can name it", queue.Job{Record: 500, Action: "Only A"}, 60}, // and it is tried five times
	} {
		t.Run(tt.name, func(t *testing.T) {
			app := asking()
			app.Records = 10_000
			inWorldOf(t, app, func(w *world) {
				js := jobs(10_000, "Start")
				at := 4999
				if tt.bad.Record == 500 {
					at = 499
				}
				js[at] = tt.bad
				js[at].ID, js[at].Site, js[at].App, js[at].Revision = "bad", "main", testApp, -1
				w.publish(js...)
				wk := w.start("one")
				w.drained(len(js), time.Hour)
				w.end(wk)
				if dead := w.dead(); len(dead) != 1 || dead[0].Job.ID != "bad" {
					w.t.Errorf("%d dead letters, want the one of the bad job", len(dead))
				}
				total := w.sim.Requests().Total
				w.t.Logf("%d requests", total)
				if total > 123+tt.more {
					w.t.Errorf("%d requests, want at most %d", total, 123+tt.more)
				}
			})
		})
	}
}

// drained waits until n jobs have ended by the owner's own count; cheaper than reading all results again and again.
func (w *world) drained(n int, d time.Duration) {
	w.t.Helper()
	deadline := time.Now().Add(d)
	for {
		w.mu.Lock()
		ended := 0
		for _, e := range w.events {
			if e.Kind == EventSettled {
				ended += e.Applied + e.Already + e.Dead + e.Unknown
			}
		}
		w.mu.Unlock()
		if ended >= n {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%d of %d jobs ended within %v; %s", ended, n, d, w.whereabouts())
		}
		time.Sleep(time.Second)
	}
}
