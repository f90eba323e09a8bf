package network

import (
	"os"
	"testing"
	"time"
)

// fault is something that happens to the connections through a proxy, comes and goes.
type fault struct {
	name   string
	resets bool                     // connections between worker and kintone end with a reset
	begin  func(*testing.T, *proxy) // nil: it is always there
	end    func(*testing.T, *proxy) // default pass
	on     time.Duration            // how long it lasts each time; default 700 ms
	waves  int                      // of jobs, each of which meets it twice; default 3
	once   bool                     // each wave meets it once

	unclear int // so many of the answers to status calls must have been unclear at least; -1: none may have been
}

// longer is how long a fault goes on at least.
func longer(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("STATUSQ_NETWORK_FOR")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("STATUSQ_NETWORK_FOR: %v", err)
	}
	return d
}

// withDefaults fills in what a fault leaves out.
func (f fault) withDefaults() fault {
	if f.end == nil {
		f.end = pass
	}
	if f.on == 0 {
		f.on = 700 * time.Millisecond
	}
	if f.waves == 0 {
		f.waves = 3
	}
	return f
}

// meet sends waves of jobs and lets each of them meet the fault in mid-work.
func (w *world) meet(t *testing.T, p *proxy, f fault) {
	t.Helper()
	f = f.withDefaults()
	begin := time.Now()
	unclear := events(t, w.worker, "unclear")
	carried := 0 // actions while the fault came and went
	strike := func() {
		f.begin(t, p)
		time.Sleep(f.on)
		f.end(t, p)
	}
	for n := 0; n < f.waves || time.Since(begin) < longer(t); n++ {
		campaign := w.send(t)
		w.begun(t)
		if f.begin != nil {
			met, done := p.met(), len(w.kintone.Commits(t))
			strike()
			if !f.once {
				time.Sleep(f.on)
				strike()
			}
			done = len(w.kintone.Commits(t)) - done
			carried += done
			if p.met() == met && done == 0 {
				t.Errorf("the fault met nothing in wave %d", w.waves)
			}
		}
		w.settle(t, campaign, perWave)
	}
	unclear = events(t, w.worker, "unclear") - unclear
	switch {
	case f.unclear > unclear:
		t.Errorf("%d answers were unclear, want at least %d: the fault met too little", unclear, f.unclear)
	case f.unclear < 0 && unclear > 0:
		t.Errorf("%d answers were unclear, want none", unclear)
	}
	t.Logf("%d waves of %d jobs in %v; the wires did something %d times, %d actions meanwhile; %d answers unclear, %d copies refused for their revision",
		w.waves-1, perWave, time.Since(begin).Round(100*time.Millisecond), p.met(), carried, unclear, w.refusedCopies(t))
}

// pass ends a fault of the wires.
func pass(_ *testing.T, p *proxy) { p.pass() }

// passAnew ends a fault after which the connections are of no use, because something of what they carried is missing.
func passAnew(_ *testing.T, p *proxy) {
	p.drop()
	p.pass()
}

// up and down are faults of one direction: towards the server, and back.
func up(r rule) func(*testing.T, *proxy)   { return func(_ *testing.T, p *proxy) { p.up.set(r) } }
func down(r rule) func(*testing.T, *proxy) { return func(_ *testing.T, p *proxy) { p.down.set(r) } }

func both(r rule) func(*testing.T, *proxy) {
	return func(_ *testing.T, p *proxy) { p.up.set(r); p.down.set(r) }
}

// away and back are a server that nobody listens for.
func away(_ *testing.T, p *proxy) {
	p.Stop()
	p.down.met.Add(1)
}

func back(t *testing.T, p *proxy) { p.again(t) }

// sliced and slow are toxics of toxiproxy's, in both directions.
func sliced(t *testing.T, p *proxy) {
	p.add(t, `{"name": "up", "type": "slicer", "stream": "upstream", "attributes": {"average_size": 40, "size_variation": 20, "delay": 100}}`)
	p.add(t, `{"name": "down", "type": "slicer", "stream": "downstream", "attributes": {"average_size": 40, "size_variation": 20, "delay": 100}}`)
}

func slow(t *testing.T, p *proxy) {
	p.add(t, `{"name": "up", "type": "latency", "stream": "upstream", "attributes": {"latency": 250, "jitter": 200}}`)
	p.add(t, `{"name": "down", "type": "bandwidth", "stream": "downstream", "attributes": {"rate": 20}}`)
}

func unsliced(t *testing.T, p *proxy) {
	p.remove(t, "up")
	p.remove(t, "down")
}
