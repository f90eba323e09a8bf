package queuetest_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/queue"
	"statusq/internal/queue/queuetest"
)

func TestMain(m *testing.M) { queuetest.Main(m) }

// If this test hangs, nats-server has begun to share something else between the inside and the outside of a bubble; see
// Main.
func TestHoursPassInABubble(t *testing.T) {
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		q := queuetest.Start(t)
		start := time.Now()
		log, err := q.ReadLog(t.Context(), "main", 5, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer log.Stop()

		published := make(chan error)
		go func() {
			time.Sleep(2 * time.Hour)
			_, err := q.Publish(t.Context(), []queue.Job{job("late")})
			published <- err
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		entry, err := log.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-published; err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited < 2*time.Hour || waited > 2*time.Hour+time.Minute {
			t.Errorf("the job came after %v of the bubble's time, want two hours", waited)
		}
		if waited := entry.At.Sub(start); waited < 2*time.Hour || waited > 2*time.Hour+time.Minute {
			t.Errorf("the server stamped the job %v after the start, want two hours", waited)
		}
	})
	if took := time.Since(began); took > time.Minute {
		t.Errorf("two hours took %v, want them to pass at once", took)
	}
}

func TestDirectoryKeepsItsData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		for round := range 3 {
			s := queuetest.StartDir(t, dir)
			q := s.Connect(t)
			if _, err := q.Publish(t.Context(), []queue.Job{job("a"), job("b")}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour) // past the window in which the stream knows the ids
			apps, err := q.Backlog(t.Context(), "main")
			if err != nil {
				t.Fatal(err)
			}
			if want := uint64(2*round + 2); apps[5] != want {
				t.Errorf("round %d: the log has %d jobs, want %d", round, apps[5], want)
			}
			s.Close()
		}
	})
}

func job(id string) queue.Job {
	return queue.Job{ID: id, Site: "main", App: 5, Record: 1, Action: "Approve", Revision: -1}
}
