package network

import (
	"testing"
	"time"

	"statusq/test/programs"
)

// natsFaults are what the network between worker and NATS can do, none of it for so long that the lease could not be renewed
// in time.
func natsFaults() []fault {
	return []fault{
		{name: "writes cut", begin: up(rule{cut: inTheMiddle, share: 0.25}), on: 1500 * time.Millisecond, once: true},
		{name: "answers cut", begin: down(rule{cut: inTheMiddle, share: 0.25}), on: 1500 * time.Millisecond, once: true},
		{name: "writes lost, then cut", begin: up(rule{lose: true}), end: passAnew, on: 2 * time.Second, once: true},
		{name: "answers lost, then cut", begin: down(rule{lose: true}), end: passAnew, on: 2 * time.Second, once: true},
		{name: "writes late", begin: late},
		{name: "gone and back", begin: away, end: back},
		{name: "stalled", begin: both(rule{hold: true}), on: 3500 * time.Millisecond, once: true},
		{name: "sliced", begin: sliced, end: unsliced, on: 1500 * time.Millisecond},
		{name: "slow", begin: slow, end: unsliced, on: 2500 * time.Millisecond, once: true},
	}
}

func TestTheNetworkToNATS(t *testing.T) {
	t.Parallel()
	for _, f := range natsFaults() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setting{})
			w.meet(t, w.toNATS, f)
			if n := events(t, w.worker, "deposed"); n > 0 {
				t.Errorf("the worker lost its site %d times, want never", n)
			}
			w.check(t)
			w.checkFiles(t)
		})
	}
}

// A worker that cannot reach NATS for longer than its lease may be trusted gives its site up, and one that can takes it
// over. What the first had on its way comes in later, and changes nothing.
func TestTakeoverFromAWorkerThatIsCutOff(t *testing.T) {
	t.Parallel()
	for _, f := range []fault{
		{name: "stalled", begin: both(rule{hold: true})},
		{name: "writes lost, then cut", begin: up(rule{lose: true}), end: passAnew},
		{name: "answers lost, then cut", begin: down(rule{lose: true}), end: passAnew},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setting{})
			standby := w.startWorker(t, w.kintone.URL, w.broker)
			waitFor(t, standby, "standby", 1)
			campaign := w.send(t)
			w.begun(t)

			f = f.withDefaults()
			begin := time.Now()
			f.begin(t, w.toNATS)
			waitFor(t, standby, "owner", 1)
			took := time.Since(begin)
			waitFor(t, w.worker, "deposed", 1)
			w.settle(t, campaign, perWave)
			f.end(t, w.toNATS)
			if took > 20*time.Second {
				t.Errorf("the standby needed %v to take over, want at most 20 s", took)
			}
			t.Logf("taken over after %v, %d slots inherited; the wires did something %d times", took.Round(100*time.Millisecond),
				events(t, standby, "inherited"), w.toNATS.met())

			// The first stands by now. When the other is stopped in mid-work, it is the owner again.
			waitFor(t, w.worker, "standby", 2)
			campaign = w.send(t)
			w.begun(t)
			standby.Stop(t)
			waitFor(t, w.worker, "owner", 2)
			w.settle(t, campaign, perWave)
			w.check(t)
			w.checkFiles(t)
		})
	}
}

// Every connection is cut after so many bytes, wherever that is.
func TestConnectionsToNATSThatDoNotLast(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{})
	w.toNATS.add(t, `{"name": "up", "type": "limit_data", "stream": "upstream", "attributes": {"bytes": 100000}}`)
	w.toNATS.add(t, `{"name": "down", "type": "limit_data", "stream": "downstream", "attributes": {"bytes": 100000}}`)
	w.meet(t, w.toNATS, fault{waves: 2})
	if n := events(t, w.worker, "nats", "restored"); n < 4 {
		t.Errorf("the worker found NATS again %d times, want at least 4", n)
	}
	w.check(t)
	w.checkFiles(t)
}

// waitFor waits until a worker's log has so many lines with this message.
func waitFor(t *testing.T, p *programs.Process, msg string, n int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); events(t, p, msg) < n; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the worker has not said %q %d times within a minute", msg, n)
		}
	}
}
