package dispatch

import (
	"context"
	"testing"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/kintone/simulator"
	"statusq/internal/queue/queuetest"
)

// BenchmarkWorker runs a backlog through the whole worker, with every write on the disk and a simulated kintone that
// answers at once, and reads the same log bare and in order before that: what the worker costs is the ratio of the two.
//
//	go test -run '^$' -bench Worker -benchtime 1x ./internal/dispatch
func BenchmarkWorker(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		ctx := b.Context()
		sim := simulator.New(simulator.Config{})
		sim.AddApp(simulator.App{
			ID: testApp, Name: "Orders", Records: n, Process: simulator.Workflow(),
			Tokens: []simulator.Token{simulator.ViewToken(testToken)},
		})
		transport, quit := simulator.Serve(sim)
		server := queuetest.StartSynced(b)
		q := server.Connect(b)
		began := time.Now()
		if _, err := q.Publish(ctx, jobs(n, "Start")); err != nil {
			b.Fatal(err)
		}
		published := time.Since(began)

		began = time.Now()
		log, err := q.ReadLog(ctx, "main", testApp, 0)
		if err != nil {
			b.Fatal(err)
		}
		for range n {
			if _, err := log.Next(ctx); err != nil {
				b.Fatal(err)
			}
		}
		log.Stop()
		read := time.Since(began)

		gate := kintone.NewGate(kintone.GateConfig{RequestsPerSecond: 100_000})
		client, err := kintone.NewClient(kintone.Config{
			BaseURL: "http://127.0.0.1", Credentials: kintone.Credentials{Tokens: []kintone.Secret{testToken}}, Transport: transport, Gate: gate,
		})
		if err != nil {
			b.Fatal(err)
		}
		ended := make(chan struct{})
		applied := 0
		owner := NewOwner(Config{
			Site: "main", Name: "bench", Client: client, Gate: gate, Queue: q,
			Apps: map[int64]AppConfig{testApp: {DailyRequests: -1}},
			Observe: func(e Event) { // one lane: one event at a time
				if applied += e.Applied; e.Kind == EventSettled && applied == n {
					close(ended)
				}
			},
		})
		stop, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		began = time.Now()
		go func() { done <- owner.Run(stop, ctx) }()
		<-ended
		worked := time.Since(began)
		cancel()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		q.Close()
		server.Close()
		quit()
		b.ReportMetric(n/published.Seconds(), "published/s")
		b.ReportMetric(n/read.Seconds(), "read/s")
		b.ReportMetric(n/worked.Seconds(), "worked/s")
		b.ReportMetric(worked.Seconds()/read.Seconds(), "worked:read")
		if c := sim.CommitCount(); c != n {
			b.Fatalf("kintone ran %d actions, want %d", c, n)
		}
	}
}
