package dispatch

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// Workers that can serve the same sites share them, and take over those of one that dies.
func TestSitesAreSpreadOverWorkersAndTakenOver(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		const sites = 6
		var mu sync.Mutex // guards owner
		owner := make(map[string]string)
		process := func(name string) (kill func()) {
			stop, end := context.WithCancel(context.Background())
			turns := new(Turns)
			var wg sync.WaitGroup
			for i := range sites {
				q, err := queue.Connect(w.t.Context(), w.server.Config())
				if err != nil {
					w.t.Fatal(err)
				}
				gate := kintone.NewGate(kintone.GateConfig{RequestsPerSecond: 1000})
				client, err := kintone.NewClient(kintone.Config{
					BaseURL: "http://127.0.0.1", Credentials: kintone.Credentials{Tokens: []kintone.Secret{testToken}}, Transport: w.transport, Gate: gate,
				})
				if err != nil {
					w.t.Fatal(err)
				}
				o := NewOwner(Config{Site: fmt.Sprintf("site-%d", i), Name: name, Client: client, Gate: gate, Queue: q, Turns: turns, Observe: func(e Event) {
					if e.Kind == EventOwner {
						mu.Lock()
						owner[e.Site] = name
						mu.Unlock()
					}
				}})
				wg.Go(func() {
					defer q.Close()
					_ = o.Run(stop, stop)
				})
			}
			kill = func() { end(); wg.Wait() }
			w.t.Cleanup(kill)
			return kill
		}
		count := func() map[string]int {
			mu.Lock()
			defer mu.Unlock()
			n := make(map[string]int)
			for _, o := range owner {
				n[o]++
			}
			return n
		}
		killOne := process("one")
		process("two")
		time.Sleep(10 * time.Second)
		if n := count(); n["one"]+n["two"] != sites || n["one"] == 0 || n["two"] == 0 {
			w.t.Errorf("%d sites are spread as %v", sites, n)
		}
		killOne()
		time.Sleep(20 * time.Second)
		if n := count(); n["two"] != sites {
			w.t.Errorf("20 s after one died the sites are spread as %v", n)
		}
	})
}
