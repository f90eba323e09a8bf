package dispatch

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
	"statusq/internal/queue/queuetest"
)

// caches is how long the server, which is in this process too, keeps what it has read.
const caches = 15 * time.Second

// BenchmarkStart starts a worker on an app of which many jobs have ended, and tells how long it takes from the claim of
// the site to the first job, and what then lives on the heap that did not before. With STATUSQ_MEASURE it goes on to ten
// million, which take some minutes to be written.
//
//	STATUSQ_MEASURE=1 go test -run '^$' -bench Start -benchtime 1x ./internal/dispatch
func BenchmarkStart(b *testing.B) {
	sizes := []int{100_000}
	if os.Getenv("STATUSQ_MEASURE") != "" {
		sizes = append(sizes, 1_000_000, 10_000_000)
	}
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			server := queuetest.StartDir(b, b.TempDir())
			q := server.Connect(b)
			writeEnded(b, q, n)
			sim := simulator.New(simulator.Config{})
			sim.AddApp(simulator.App{
				ID: testApp, Name: "Orders", Records: 1, Process: simulator.Workflow(),
				Tokens: []simulator.Token{simulator.ViewToken(testToken)},
			})
			transport, quit := simulator.Serve(sim)
			defer quit()
			for b.Loop() {
				gate := kintone.NewGate(kintone.GateConfig{})
				client, err := kintone.NewClient(kintone.Config{
					BaseURL: "http://127.0.0.1", Credentials: kintone.Credentials{Tokens: []kintone.Secret{testToken}}, Transport: transport, Gate: gate,
				})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				time.Sleep(caches)
				before := heapInUse()
				b.StartTimer()
				started := make(chan struct{})
				owner := NewOwner(Config{
					Site: "main", Name: "bench", Client: client, Gate: gate, Queue: q,
					Apps: map[int64]AppConfig{testApp: {DailyRequests: -1}},
					Observe: func(e Event) {
						if e.Kind == EventLane {
							close(started)
						}
					},
				})
				stop, cancel := context.WithCancel(b.Context())
				done := make(chan error, 1)
				began := time.Now()
				go func() { done <- owner.Run(stop, b.Context()) }()
				<-started
				b.ReportMetric(time.Since(began).Seconds(), "start-s")
				b.StopTimer()
				time.Sleep(caches)
				owner.mu.Lock()
				lane := owner.lanes[testApp]
				owner.mu.Unlock()
				after := heapInUse()
				cancel()
				if err := <-done; err != nil {
					b.Fatal(err)
				}
				if kept := lane.known.size(); kept != n {
					b.Errorf("%d ids are known, want %d", kept, n)
				}
				b.ReportMetric((float64(after)-float64(before))/(1<<20), "MiB")
				b.StartTimer()
			}
		})
	}
}

// writeEnded ends n jobs as a lane does: a hundred in a request that stood in a slot before. The log never held them, so
// they have no place in it.
func writeEnded(b *testing.B, q *queue.Queue, n int) {
	b.Helper()
	ledger, _, err := q.OpenLedger(b.Context(), "main", testApp, 1, "bench")
	if err != nil {
		b.Fatal(err)
	}
	defer ledger.Close()
	for first := 1; first <= n; first += 100 {
		request := &queue.Request{ID: queue.NewID(), At: time.Now(), Parts: make([]queue.Part, 1)}
		set := &queue.Settlement{Request: request.ID}
		for n := first; n < first+100; n++ {
			id := fmt.Sprintf("inv-2026-%06d", n)
			request.Parts[0].Members = append(request.Parts[0].Members, queue.Member{Job: id, Record: int64(n), Pin: 12})
			set.Results = append(set.Results, queue.Result{
				Job: id, Record: int64(n), Outcome: queue.Applied, Revision: 14, Campaign: "month-end", At: time.Now().UTC(),
			})
		}
		if err := ledger.Write(b.Context(), 0, queue.Slot{Request: request}, nil); err != nil {
			b.Fatal(err)
		}
		if err := ledger.Write(b.Context(), 0, queue.Slot{}, set); err != nil {
			b.Fatal(err)
		}
	}
}
