//go:build docker

package test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"testing"
	"time"

	"statusq/internal/queue"
	"statusq/test/programs"
)

// A server that leads everything is cut off, and for a while does not know that it leads no more. Work goes on without
// it, the owner dies, and the moment the server is back a new owner that knows no other server takes over through it.
// What that one acts on is never older than the ledger, although whoever asks the server without a barrier is told of
// what was.
//
// STATUSQ_CLUSTER_FOR=1h repeats it for that long.
func TestATakeoverThroughAServerThatWasCutOff(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := startCluster(t)
	p := startPlant(t, c, "a")
	lost := c.servers[2]
	p.urls = c.urls(lost)
	p.workers = append(p.workers, p.startWorker(t, p.urls, "a"))
	p.waitOwner(t, "a", time.Now().Add(30*time.Second))
	there := programs.Connect(t, p.urls)    // the rest of the cluster
	behind := programs.Connect(t, lost.url) // the server that will be cut off
	p.publish(t, 2000)
	p.progress(t, time.Minute)

	var total answers
	end := time.Now()
	if more := os.Getenv("STATUSQ_CLUSTER_FOR"); more != "" {
		d, err := time.ParseDuration(more)
		if err != nil {
			t.Fatalf("STATUSQ_CLUSTER_FOR: %v", err)
		}
		end = end.Add(d)
	}
	epoch := uint64(1) // of the books
	for round := 1; round == 1 || time.Now().Before(end); round++ {
		standby := p.startWorker(t, lost.url, "a")
		p.workers = append(p.workers, standby)
		for _, stream := range []string{jobsStream, ledgerStream, leasesStream, controlStream} {
			c.moveLeader(t, p.nc, stream, lost)
		}
		before := keepBooks(t, there, p.urls, epoch)

		began := time.Now()
		c.cut(t, lost)
		asking := ask(t, behind, there)
		before.goOn(t, 100)
		p.progress(t, time.Minute)
		first := p.workers[0]
		first.Cmd.Process.Kill()
		<-first.Exited
		died := time.Now()
		before.goOn(t, 100)
		time.Sleep(time.Until(died.Add(15 * time.Second))) // its lease is over now, or within moments
		c.heal(t, lost)
		healed := time.Now()
		for range 5 {
			before.takeOver(t, behind, p.urls)
		}
		epoch = before.ledger.Epoch() + 1
		p.workers = p.workers[1:]
		_, since := p.waitOwner(t, "a", time.Now().Add(time.Minute))
		p.progress(t, time.Minute)
		total.add(asking())
		t.Logf("round %d: cut off for %.1f s, taken over %.1f s after the owner's death and %.1f s after the server was back",
			round, healed.Sub(began).Seconds(), since.Sub(died).Seconds(), since.Sub(healed).Seconds())

		// Back to the beginning, with an owner that does not depend on the server that will be lost.
		p.workers = append(p.workers, p.startWorker(t, p.urls, "a"))
		c.waitHealthy(t)
		standby.Stop(t)
		p.workers = p.workers[1:]
		p.waitOwner(t, "a", time.Now().Add(time.Minute))
	}
	p.finish(t)
	p.checkOutcomes(t)
	p.stopWorkers(t)
	p.checkReplicas(t)
	if total.JobsDenied > 0 {
		t.Errorf("%d times a job that is in the log was said to be gone", total.JobsDenied)
	}
	t.Logf("asked without a barrier: %+v", total)
}

// answers counts what the server that was cut off said to those who asked it without a barrier.
type answers struct {
	Asked, Failed int
	// Untrue or out of date, and given as if it were neither:
	JobsDenied    int // a job that is in the log, said not to be there
	ResultsMissed int // lists of results that lacked some
	SlotsOutdated int // slots as they had been
}

func (a *answers) add(b answers) {
	a.Asked += b.Asked
	a.Failed += b.Failed
	a.JobsDenied += b.JobsDenied
	a.ResultsMissed += b.ResultsMissed
	a.SlotsOutdated += b.SlotsOutdated
}

// ask asks one connection over and over for what the other has just been told. What it returns ends that.
func ask(t *testing.T, behind, there *queue.Queue) func() answers {
	ctx, cancel := context.WithCancel(t.Context())
	var (
		a  answers
		wg sync.WaitGroup
	)
	wg.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			a.askOnce(ctx, behind, there, n)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return func() answers { cancel(); wg.Wait(); return a }
}

func (a *answers) askOnce(ctx context.Context, behind, there *queue.Queue, n int) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	acks, err := there.Publish(ctx, []queue.Job{{Site: "nobody", App: 1, Record: 1, Action: "Start", Revision: -1}})
	if err != nil {
		return
	}
	truth, err := bookSize(ctx, there)
	if err != nil {
		return
	}
	a.Asked++
	if _, err := behind.LogEntry(ctx, acks[0].Seq); errors.Is(err, queue.ErrGone) {
		a.JobsDenied++
	} else if err != nil {
		a.Failed++
	}
	if n%5 > 0 {
		return
	}
	if seen, err := bookSize(ctx, behind); err == nil && seen.results < truth.results {
		a.ResultsMissed++
	} else if err == nil && seen.slots < truth.slots {
		a.SlotsOutdated++
	}
}

// The books are a ledger of an app that no worker serves, kept by the test.
const (
	bookSite = "books"
	bookApp  = 9
)

type books struct {
	urls    string // where they can be reached if the connection at hand does not do
	ledger  *queue.Ledger
	writes  int // the last was number so many, and went to slot writes % 16
	parked  map[string]uint64
	results map[string]bool
}

// keepBooks opens the books and takes over what stands there.
func keepBooks(t *testing.T, q *queue.Queue, urls string, epoch uint64) *books {
	t.Helper()
	b := &books{urls: urls, parked: make(map[string]uint64), results: make(map[string]bool)}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ledger, slots, err := q.OpenLedger(ctx, bookSite, bookApp, epoch, "test")
	if err != nil {
		t.Fatalf("open the books: %v", err)
	}
	for _, s := range slots {
		b.writes = max(b.writes, s.Spent)
	}
	b.ledger = ledger
	if err := ledger.Load(ctx, queue.Loader{
		Parked: func(p queue.Waiting) { b.parked[p.Job] = p.At },
		Ended:  func(e queue.End) { b.results[e.Job] = true },
	}); err != nil {
		t.Fatalf("load the books: %v", err)
	}
	return b
}

// goOn makes entries: each takes the number on in a slot, ends some jobs and parks another, and every third brings one
// back that was parked.
func (b *books) goOn(t *testing.T, entries int) {
	t.Helper()
	for end := b.writes + entries; b.writes < end; {
		err := b.enter(t.Context())
		if err == nil {
			continue
		}
		// One server can be without a way to the leader for long while others have one, and a connection does not leave
		// it by itself. A new owner elsewhere knows what became of the entry.
		t.Logf("entry %d of the books: %v; once more over a new connection", b.writes+1, err)
		*b = *keepBooks(t, programs.Connect(t, b.urls), b.urls, b.ledger.Epoch()+1)
	}
}

// enter makes one entry.
func (b *books) enter(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	n := b.writes + 1
	set := &queue.Settlement{Request: fmt.Sprintf("r%d", n)}
	for i := range 20 {
		job := fmt.Sprintf("j%d-%d", n, i)
		set.Results = append(set.Results, queue.Result{Seq: uint64(n), Job: job, Record: int64(i + 1), Outcome: queue.Applied, At: time.Now()})
	}
	parked := &queue.Parked{Seq: uint64(n), Job: queue.Job{ID: fmt.Sprintf("p%d", n), Site: bookSite, App: bookApp, Record: int64(n), Action: "Start", Revision: -1}}
	set.Park = []*queue.Parked{parked}
	back := fmt.Sprintf("p%d", n-2)
	if n%3 == 0 && b.parked[back] > 0 {
		set.Unpark = []queue.ParkedRef{{Record: int64(n - 2), Job: back, At: b.parked[back]}}
	}
	if err := b.ledger.Write(ctx, n%queue.Slots, queue.Slot{Spent: n}, set); err != nil {
		return err
	}
	for _, r := range set.Results {
		b.results[r.Job] = true
	}
	for _, r := range set.Unpark {
		delete(b.parked, r.Job)
	}
	b.parked[parked.Job.ID] = parked.At
	b.writes = n
	return nil
}

// takeOver opens the books through another connection, which must find all that was written in them, and after which
// the one before writes nothing more.
func (b *books) takeOver(t *testing.T, q *queue.Queue, urls string) {
	t.Helper()
	after := keepBooks(t, q, urls, b.ledger.Epoch()+1)
	if after.writes != b.writes {
		t.Errorf("the slots go up to entry %d for the new owner, and %d was written", after.writes, b.writes)
	}
	if !maps.Equal(after.parked, b.parked) {
		t.Errorf("%d jobs are parked for the new owner, want %d, or at other places", len(after.parked), len(b.parked))
	}
	if !maps.Equal(after.results, b.results) {
		t.Errorf("%d jobs have ended for the new owner, want %d", len(after.results), len(b.results))
	}
	for job, at := range after.parked {
		if _, err := q.ParkedAt(t.Context(), at); errors.Is(err, queue.ErrGone) {
			t.Errorf("parked job %s at %d is said to be gone", job, at)
			break
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := b.ledger.Write(ctx, 0, queue.Slot{Spent: b.writes + 1}, nil)
	if !errors.Is(err, queue.ErrDeposed) {
		t.Errorf("the owner before could still write, or it is not known: %v", err)
	}
	*b = *after
}

// size is how much stands in the books.
type size struct{ results, slots int }

// bookSize looks without a barrier, as one does to show it.
func bookSize(ctx context.Context, q *queue.Queue) (size, error) {
	var s size
	for _, err := range q.Results(ctx, queue.ResultFilter{Site: bookSite, App: bookApp}) {
		if err != nil {
			return s, err
		}
		s.results++
	}
	views, err := q.Slots(ctx, bookSite, bookApp)
	for _, v := range views {
		s.slots = max(s.slots, v.Slot.Spent)
	}
	return s, err
}
