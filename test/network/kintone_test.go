package network

import (
	"testing"
	"time"
)

// kintoneFaults are what the network between worker and kintone can do to a request: after most of these, nobody can tell
// from the outside whether it was carried out.
func kintoneFaults() []fault {
	return []fault{
		{name: "stalled for longer than the client waits", begin: both(rule{hold: true}), on: 63 * time.Second, waves: 1, once: true, unclear: 3},
		{name: "reset before the headers", resets: true, begin: down(rule{cut: atOnce, share: 0.5}), unclear: 8},
		{name: "reset behind the headers", resets: true, begin: down(rule{cut: afterHeaders, share: 0.5}), unclear: 8},
		{name: "requests cut in their body", begin: up(rule{cut: inBody, share: 0.5}), unclear: 8},
		{name: "answers cut in their body", begin: down(rule{cut: inBody, share: 0.5}), unclear: 8},
		{name: "requests lost, then reset", resets: true, begin: up(rule{lose: true}), end: passAnew, on: 2 * time.Second, once: true, unclear: 4},
		{name: "answers lost, then reset", resets: true, begin: down(rule{lose: true}), end: passAnew, on: 2 * time.Second, once: true, unclear: 4},
		{name: "requests late", begin: late, unclear: 8},
		{name: "gone and back", begin: away, end: back, unclear: 4},
		{name: "stalled", begin: both(rule{hold: true}), unclear: -1, on: 2 * time.Second, once: true},
		{name: "sliced", begin: sliced, end: unsliced, on: 1500 * time.Millisecond, unclear: -1},
		{name: "slow", begin: slow, end: unsliced, on: 1500 * time.Millisecond, unclear: -1},
	}
}

func TestTheNetworkToKintone(t *testing.T) {
	t.Parallel()
	for _, f := range kintoneFaults() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setting{resets: f.resets})
			w.meet(t, w.toKintone, f)
			w.check(t)
			w.checkFiles(t)
		})
	}
}

// late keeps requests for three seconds, long after the worker has been cut off and has sent them again.
func late(_ *testing.T, p *proxy) {
	p.up.set(rule{late: 3 * time.Second})
	time.Sleep(200 * time.Millisecond)
	p.down.drop()
	p.pass()
}

// Every connection is cut after so many bytes, wherever that is.
func TestConnectionsToKintoneThatDoNotLast(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{})
	w.toKintone.add(t, `{"name": "up", "type": "limit_data", "stream": "upstream", "attributes": {"bytes": 9000}}`)
	w.toKintone.add(t, `{"name": "down", "type": "limit_data", "stream": "downstream", "attributes": {"bytes": 40000}}`)
	w.meet(t, w.toKintone, fault{unclear: 8})
	w.check(t)
	w.checkFiles(t)
}
