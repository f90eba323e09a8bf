package queue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"statusq/internal/queue"
)

// read reads n entries and checks that they are the jobs of that app from first on, in order.
func read(t *testing.T, r *queue.LogReader, app int64, first, n int) (last queue.Entry) {
	t.Helper()
	for i := range n {
		entry, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, err := queue.DecodeJob(entry.Data, "main", app)
		if want := fmt.Sprintf("j%d", first+i); err != nil || got.ID != want {
			t.Fatalf("entry %d is %q (%v), want %s", entry.Seq, got.ID, err, want)
		}
		last = entry
	}
	return last
}

func TestReadLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		q := s.Connect(t)
		for _, app := range []int64{5, 6, 55} {
			if _, err := q.Publish(t.Context(), jobs(app, 600)); err != nil {
				t.Fatal(err)
			}
		}
		r, err := q.ReadLog(t.Context(), "main", 5, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Stop()
		entry := read(t, r, 5, 0, 200)
		if entry.Pending != 400 || time.Since(entry.At) > time.Minute {
			t.Errorf("entry 200 is of %v with %d pending, want 400", entry.At, entry.Pending)
		}
		s.Disconnect()
		time.Sleep(5 * time.Second)
		entry = read(t, r, 5, 200, 400)
		if entry.Pending != 0 {
			t.Errorf("the last entry has %d pending", entry.Pending)
		}

		soon, cancel := context.WithTimeout(t.Context(), time.Hour)
		_, err = r.Next(soon)
		cancel()
		wantErr(t, "an hour without jobs", err, context.DeadlineExceeded)
		if _, err := q.Publish(t.Context(), []queue.Job{job(5, "j600", 1)}); err != nil {
			t.Fatal(err)
		}
		at600 := read(t, r, 5, 600, 1)

		backlog, err := q.Backlog(t.Context(), "main")
		if err != nil || len(backlog) != 3 || backlog[5] != 601 || backlog[55] != 600 {
			t.Errorf("the backlog is %v (%v)", backlog, err)
		}
		if err := q.PurgeLog(t.Context(), "main", 5, 0); err != nil {
			t.Fatal(err)
		}
		if err := q.PurgeLog(t.Context(), "main", 5, at600.Seq); err != nil {
			t.Fatal(err)
		}
		backlog, err = q.Backlog(t.Context(), "main")
		if err != nil || backlog[5] != 1 || backlog[6] != 600 || backlog[55] != 600 {
			t.Errorf("after a purge below the last job, the backlog is %v (%v)", backlog, err)
		}
		_, err = q.LogEntry(t.Context(), 1)
		wantErr(t, "a purged entry", err, queue.ErrGone)
		from, err := q.ReadLog(t.Context(), "main", 5, 17)
		if err != nil {
			t.Fatal(err)
		}
		defer from.Stop()
		read(t, from, 5, 600, 1)
	})
}

// A job that the server has sent into a connection that was lost is read, although nothing follows it.
func TestReadLogMissesNothingWhileCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		plain := s.Connect(t)
		q, w := connect(t, s)
		r, err := q.ReadLog(t.Context(), "main", 5, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Stop()
		got := make(chan error)
		go func() {
			_, err := r.Next(t.Context())
			got <- err
		}()
		synctest.Wait()
		w.hold("cut-here")
		if err := q.Conn().Publish("x", []byte("cut-here")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the server still takes the old connection for good
		if _, err := plain.Publish(t.Context(), jobs(5, 1)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the job was read after %v", took)
		}
		w.wantBroken(t)
		q.Close()
		_, err = r.Next(t.Context())
		if !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("after Close: %v, want the reading to end", err)
		}
	})
}

// A consumer that the server has forgotten is made anew.
func TestReadLogOverAForgottenConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := start(t)
		if _, err := q.Publish(t.Context(), jobs(5, 600)); err != nil {
			t.Fatal(err)
		}
		r, err := q.ReadLog(t.Context(), "main", 5, 0)
		if err != nil {
			t.Fatal(err)
		}
		read(t, r, 5, 0, 10)
		stream, err := q.JetStream().Stream(t.Context(), "STATUSQ_JOBS")
		if err != nil {
			t.Fatal(err)
		}
		for name := range stream.ConsumerNames(t.Context()).Name() {
			if err := stream.DeleteConsumer(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		read(t, r, 5, 10, 590)
		time.Sleep(10 * time.Minute) // a lane that is busy elsewhere
		if _, err := q.Publish(t.Context(), []queue.Job{job(5, "j600", 1)}); err != nil {
			t.Fatal(err)
		}
		read(t, r, 5, 600, 1)

		r.Stop()
		time.Sleep(time.Second)
		info, err := stream.Info(t.Context())
		if err != nil || info.State.Consumers != 0 {
			t.Errorf("after Stop %d consumers are left (%v)", info.State.Consumers, err)
		}
	})
}
