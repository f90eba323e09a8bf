package queue_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/queue"
)

func TestPublishOneJob(t *testing.T) {
	q := start(t)
	acks, err := q.Publish(t.Context(), []queue.Job{job(5, "", 1)})
	if err != nil {
		t.Fatal(err)
	}
	if acks[0].Seq != 1 || acks[0].Duplicate {
		t.Errorf("Publish acknowledged %+v, want sequence 1", acks[0])
	}
	entry, err := q.LogEntry(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := queue.DecodeJob(entry.Data, "main", 5)
	if err != nil {
		t.Fatal(err)
	}
	if got != job(5, "", 1) {
		t.Errorf("the log holds %+v, want what was published", got)
	}
}

// The sequences of a batch follow each other whatever else is published at the same time: Ack.Seq is computed from it.
func TestPublishTellsTheSequenceOfEachJob(t *testing.T) {
	q := start(t)
	const publishers, each = 4, 1200
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			app := int64(p + 1)
			acks, err := q.Publish(t.Context(), jobs(app, each))
			if err != nil {
				t.Error(err)
				return
			}
			for i, ack := range acks {
				if i%97 != 0 && i != each-1 {
					continue
				}
				entry, err := q.LogEntry(t.Context(), ack.Seq)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := queue.DecodeJob(entry.Data, "main", app)
				if want := fmt.Sprintf("j%d", i); err != nil || got.ID != want {
					t.Errorf("app %d: sequence %d holds %q (%v), want %s", app, ack.Seq, got.ID, err, want)
				}
			}
		})
		wg.Go(func() { // single messages get in between
			for range 50 {
				if _, err := q.Publish(t.Context(), []queue.Job{job(99, "", 1)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestPublishSaysWhatItHasAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := start(t)
		first, err := q.Publish(t.Context(), jobs(5, 3))
		if err != nil {
			t.Fatal(err)
		}
		// A batch with known ids among new ones, and with one that it brings twice.
		mixed := append(jobs(5, 3)[1:2], job(5, "new", 9), job(5, "new", 9), job(5, "", 9))
		acks, err := q.Publish(t.Context(), mixed)
		if err != nil {
			t.Fatal(err)
		}
		want := []queue.Ack{{Seq: first[1].Seq, Duplicate: true}, {Seq: 4}, {Seq: 4, Duplicate: true}, {Seq: 5}}
		for i := range want {
			if acks[i] != want[i] {
				t.Errorf("job %d was acknowledged with %+v, want %+v", i, acks[i], want[i])
			}
		}
		// The same id under another app is another job.
		if acks, err := q.Publish(t.Context(), jobs(6, 1)); err != nil || acks[0].Duplicate {
			t.Errorf("job of another app: %+v, %v, want it accepted", acks, err)
		}
		time.Sleep(11 * time.Minute)
		if acks, err := q.Publish(t.Context(), jobs(5, 1)); err != nil || acks[0].Duplicate {
			t.Errorf("after the window: %+v, %v, want it accepted", acks, err)
		}
	})
}

func TestPublishSendsNothingWhenAJobIsWrong(t *testing.T) {
	q := start(t)
	acks, err := q.Publish(t.Context(), []queue.Job{job(5, "a", 1), job(5, "b", 0)})
	e, ok := errors.AsType[*queue.PublishError](err)
	if !ok || e.Accepted != 0 {
		t.Fatalf("error is %v, want a PublishError with nothing accepted", err)
	}
	if _, ok := errors.AsType[*queue.DecodeError](err); !ok {
		t.Errorf("error is %v, want it to wrap a DecodeError", err)
	}
	if acks[0].Seq != 0 {
		t.Errorf("the right job was sent: %+v", acks[0])
	}
}

func TestPublishIntoAFullLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		q, err := queue.Connect(t.Context(), s.Config())
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		if err := q.Setup(t.Context(), queue.Layout{LogBytes: 200 << 10}); err != nil {
			t.Fatal(err)
		}
		all := jobs(5, 2000)
		acks, err := q.Publish(t.Context(), all)
		wantErr(t, "publish too much", err, queue.ErrLogFull)
		e, _ := errors.AsType[*queue.PublishError](err)
		n := 0
		for i, ack := range acks {
			if ack.Seq == 0 {
				continue
			}
			n++
			entry, err := q.LogEntry(t.Context(), ack.Seq)
			if err != nil || !strings.Contains(string(entry.Data), `"`+all[i].ID+`"`) {
				t.Fatalf("job %s was acknowledged at %d, which holds %s (%v)", all[i].ID, ack.Seq, entry.Data, err)
			}
		}
		if n == 0 || n == len(all) || n != e.Accepted {
			t.Errorf("%d acknowledged, the error says %d, of %d", n, e.Accepted, len(all))
		}
		backlog, err := q.Backlog(t.Context(), "main")
		if err != nil || backlog[5] != uint64(n) {
			t.Errorf("the log holds %d (%v), want %d: batches are refused whole", backlog[5], err, n)
		}
	})
}

func TestPublishWithoutAQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		q, err := queue.Connect(t.Context(), s.Config())
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		for _, n := range []int{1, 10} {
			_, err = q.Publish(t.Context(), jobs(5, n))
			wantErr(t, fmt.Sprintf("publish %d", n), err, queue.ErrNoQueue)
		}
		_, err = q.Backlog(t.Context(), "main")
		wantErr(t, "backlog", err, queue.ErrNoQueue)
		s.Close()
		_, err = q.Publish(t.Context(), jobs(5, 1))
		wantErr(t, "publish to nobody", err, queue.ErrUnreachable)
	})
}

// Whatever happens to the message or to its answer, each job is in the log once and its place is told.
func TestPublishOverABrokenWire(t *testing.T) {
	for _, n := range []int{1, 20, 400} { // 400 go out in several writes, of which the last is broken
		for name, breakIt := range map[string]func(*wire, string){"lost": (*wire).lose, "ack lost": (*wire).cut, "late": (*wire).hold} {
			t.Run(fmt.Sprintf("%d %s", n, name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := serve(t)
					plain := s.Connect(t)
					q, w := connect(t, s)
					all := jobs(5, n)
					all[n-1].ID = "" // its message id is made up, and has to be the same in both attempts
					breakIt(w, `"record":`+fmt.Sprint(n))
					acks, err := q.Publish(t.Context(), all)
					if err != nil {
						t.Fatal(err)
					}
					w.wantBroken(t)
					if name == "late" {
						w.deliver(t)
						time.Sleep(time.Second)
					}
					backlog, err := plain.Backlog(t.Context(), "main")
					if err != nil || backlog[5] != uint64(n) {
						t.Fatalf("the log holds %d jobs (%v), want %d", backlog[5], err, n)
					}
					for i, ack := range acks {
						if ack.Seq != uint64(i+1) {
							t.Errorf("job %d was acknowledged at %d, want %d", i, ack.Seq, i+1)
						}
					}
					if acks[n-1].Duplicate {
						t.Error("a job without an id is called a duplicate of itself")
					}
				})
			})
		}
	}
}
