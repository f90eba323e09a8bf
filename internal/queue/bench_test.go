package queue_test

import (
	"context"
	"fmt"
	"testing"

	"statusq/internal/queue"
	"statusq/internal/queue/embedded"
)

// durable gives a queue whose server writes everything to the disk before it acknowledges it, as in production.
func durable(b *testing.B) *queue.Queue {
	b.Helper()
	s, err := embedded.Start(embedded.Config{Dir: b.TempDir(), Sync: embedded.SyncAlways})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.Close)
	q, err := queue.Connect(b.Context(), s.Config())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(q.Close)
	if err := q.Setup(b.Context(), queue.Layout{}); err != nil {
		b.Fatal(err)
	}
	return q
}

func jobsPerSecond(b *testing.B, n int) { b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "jobs/s") }

// BenchmarkPublish publishes batches of 500 with an fsync each.
func BenchmarkPublish(b *testing.B) {
	for _, withID := range []bool{true, false} {
		b.Run(fmt.Sprintf("id=%t", withID), func(b *testing.B) {
			q := durable(b)
			n := 0
			for b.Loop() {
				batch := make([]queue.Job, 500)
				for i := range batch {
					batch[i] = job(5, "", int64(i+1))
					if withID {
						batch[i].ID = fmt.Sprintf("j%d", n)
					}
					n++
				}
				if _, err := q.Publish(context.Background(), batch); err != nil {
					b.Fatal(err)
				}
			}
			jobsPerSecond(b, n)
		})
	}
}

// BenchmarkReadLog reads the log and does nothing with what it reads.
func BenchmarkReadLog(b *testing.B) {
	q := durable(b)
	const stored = 50_000
	all := make([]queue.Job, stored)
	for i := range all {
		all[i] = job(5, "", int64(i+1))
	}
	if _, err := q.Publish(b.Context(), all); err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		r, err := q.ReadLog(b.Context(), "main", 5, 0)
		if err != nil {
			b.Fatal(err)
		}
		for range stored {
			if _, err := r.Next(b.Context()); err != nil {
				b.Fatal(err)
			}
			n++
		}
		r.Stop()
	}
	jobsPerSecond(b, n)
}

// BenchmarkWrite records a request of 100 jobs in a slot and settles it, with an fsync each.
func BenchmarkWrite(b *testing.B) {
	q := durable(b)
	l, _, err := q.OpenLedger(b.Context(), "main", 5, 1, "bench")
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		part := queue.Part{Members: make([]queue.Member, 100)}
		set := &queue.Settlement{Request: queue.NewID(), Results: make([]queue.Result, 100)}
		for i := range part.Members {
			n++
			id := fmt.Sprintf("inv-2026-%d", n)
			part.Members[i] = queue.Member{Seq: uint64(n), Job: id, Record: int64(n), Pin: 12, Action: "Approve", From: "New", To: "Done", Step: 2}
			set.Results[i] = queue.Result{Seq: uint64(n), Job: id, Record: int64(n), Outcome: queue.Applied, Revision: 14}
		}
		slot := queue.Slot{Request: &queue.Request{ID: set.Request, Parts: []queue.Part{part}}}
		if err := l.Write(b.Context(), 0, slot, nil); err != nil {
			b.Fatal(err)
		}
		if err := l.Write(b.Context(), 0, queue.Slot{}, set); err != nil {
			b.Fatal(err)
		}
	}
	jobsPerSecond(b, n)
}
