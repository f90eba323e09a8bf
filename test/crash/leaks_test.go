//go:build crash

package crash

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
)

// holding is what a process has at a moment.
type holding struct {
	files, threads, megabytes int
}

// What a worker may have more than before, when it has been through everything and is idle again: connections to kintone
// that are kept for later (one for each request that it may have out), threads that Go never gives back, and memory for
// the ids of the jobs and for what the collector has not returned to the system.
var margin = holding{files: 8, threads: 8, megabytes: 32}

// moreGoroutines is how many goroutines it may have more than a worker that has seen no outage. One for each outage of
// NATS or of kintone would be 10.
const moreGoroutines = 4

// A worker that has been through twenty outages holds no more than before.
func TestLeaks(t *testing.T) {
	t.Parallel()
	const outages, jobs, warm = 20, 5000, 500
	rng := rand.New(rand.NewPCG(seed(t), 0))
	b := newBroker(t)
	q := b.connect()
	begin := func(name string) (*site, *process) {
		s := newSite(t, name, rand.New(rand.NewPCG(rng.Uint64(), 0)), "5m")
		s.kintone.calmDown()
		s.join(b, nil, q)
		s.orders(warm)
		p := s.begin("")
		s.finish(p, time.Minute)
		return s, p
	}
	s, p := begin("tried")
	quiet, idle := begin("spared")
	time.Sleep(2 * time.Second)
	base := p.holds(t)
	quiet.check(idle)
	fresh := idle.dump(t)

	for n := range outages {
		s.orders((jobs - warm) / outages)
		if n%2 == 0 {
			s.publish(p)
			time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
			b.server.kill()
			time.Sleep(time.Duration(200+rng.IntN(600)) * time.Millisecond)
			b.start()
			s.finish(p, 40*time.Second)
			continue
		}
		kinds := []simulator.FaultKind{simulator.LostReply, simulator.Hang, simulator.Unavailable, simulator.CutBody, simulator.BadGateway}
		f := simulator.Fault{Kind: kinds[n/2%len(kinds)], Applied: rng.IntN(2) == 0}
		s.kintone.sim.SetFault(func(simulator.Request) simulator.Fault { return f })
		s.publish(p)
		time.Sleep(time.Second)
		s.kintone.sim.SetFault(nil)
		if f.Kind == simulator.Hang {
			s.kintone.server.CloseClientConnections() // or it would wait out its minute
		}
		s.finish(p, 40*time.Second)
	}

	var now holding
	back := within(20*time.Second, func() bool {
		now = p.holds(t)
		return now.files <= base.files+margin.files && now.threads <= base.threads+margin.threads && now.megabytes <= base.megabytes+margin.megabytes
	})
	if !back {
		t.Errorf("after %d outages and %d jobs the worker holds %+v, before them %+v; it may hold more by %+v", outages, jobs, now, base, margin)
	}
	s.check(p)
	mine := p.dump(t)
	if mine > fresh+moreGoroutines {
		t.Errorf("after %d outages the worker has %d goroutines, one that saw none has %d\n%s", outages, mine, fresh, p.tail(30_000))
	}
	t.Logf("before: %+v and after %d outages and %d jobs: %+v; goroutines %d, of a worker that saw no outage %d", base, outages, jobs, now, mine, fresh)
}

// orders makes jobs for records of their own.
func (s *site) orders(n int) {
	for range n {
		s.add(chained, s.fresh(), "Start")
	}
}

// holds asks the system what a process has.
func (p *process) holds(t *testing.T) holding {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d", p.pid())
	files, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		t.Fatal(err)
	}
	h := holding{files: len(files)}
	for line := range strings.Lines(string(status)) {
		var kilobytes int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kilobytes); err == nil {
			h.megabytes = kilobytes >> 10
		}
		fmt.Sscanf(line, "Threads: %d", &h.threads)
	}
	if h.threads == 0 || h.megabytes == 0 {
		t.Fatalf("the system does not say what process %d has:\n%s", p.pid(), status)
	}
	return h
}

// dump ends a process so that it shows its goroutines, and counts those that do not belong to a connection kept for later.
func (p *process) dump(t *testing.T) (goroutines int) {
	t.Helper()
	p.signal(syscall.SIGQUIT)
	if !p.ends(10 * time.Second) {
		t.Fatal("a worker does not end on SIGQUIT")
	}
	_, dump, found := strings.Cut(p.tail(4<<20), "SIGQUIT: quit")
	if !found {
		t.Fatalf("a worker shows no goroutines on SIGQUIT:\n%s", p.tail(2000))
	}
	for stack := range strings.SplitSeq(dump, "\n\n") {
		if strings.HasPrefix(stack, "goroutine ") && !strings.Contains(stack, "persistConn") {
			goroutines++
		}
	}
	return goroutines
}
