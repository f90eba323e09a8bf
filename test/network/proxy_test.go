package network

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

// proxy is a toxiproxy in front of one server. Each of its connections passes a wire in either direction.
type proxy struct {
	*toxiproxy.Proxy
	up, down *line // towards the server, and back
}

// startProxy starts a proxy on a port of its own until the test ends. With resets, what ends a connection is a reset (RST)
// and not a clean end (FIN); that is so for its whole life.
func startProxy(t *testing.T, name, upstream string, resets bool) *proxy {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := &proxy{Proxy: toxiproxy.NewProxy(server, name, "", upstream), up: newLine(), down: newLine()}
	p.add(t, `{"name": "wire up", "type": "wire", "stream": "upstream", "attributes": {"line": %q}}`, p.up.name)
	p.add(t, `{"name": "wire down", "type": "wire", "stream": "downstream", "attributes": {"line": %q}}`, p.down.name)
	if resets {
		// toxiproxy arms every connection for a reset where this toxic is in the chain, even if it never acts.
		p.add(t, `{"name": "arm up", "type": "reset_peer", "stream": "upstream", "toxicity": 0}`)
		p.add(t, `{"name": "arm down", "type": "reset_peer", "stream": "downstream", "toxicity": 0}`)
	}
	// Below the ports that systems give to whoever connects: a proxy that goes away finds its own free when it comes back.
	var err error
	for range 100 {
		p.Listen = fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000))
		if err = p.Start(); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Stop()
		p.pass()
		lines.Delete(p.up.name)
		lines.Delete(p.down.name)
	})
	return p
}

// add adds a toxic of toxiproxy's.
func (p *proxy) add(t *testing.T, toxic string, args ...any) {
	t.Helper()
	toxic = fmt.Sprintf(toxic, args...)
	if _, err := p.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
		t.Fatalf("add toxic %s: %v", toxic, err)
	}
}

// remove takes a toxic out again.
func (p *proxy) remove(t *testing.T, name string) {
	t.Helper()
	if err := p.Toxics.RemoveToxic(context.Background(), name); err != nil {
		t.Fatalf("remove toxic %s: %v", name, err)
	}
}

// pass lets everything pass again, first of all what was held.
func (p *proxy) pass() {
	p.up.set(rule{})
	p.down.set(rule{})
}

// drop ends all connections; new ones are welcome.
func (p *proxy) drop() {
	p.up.drop()
	p.down.drop()
}

// again listens again after a Stop, where it did before.
func (p *proxy) again(t *testing.T) {
	t.Helper()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
}

// met is how often one of the wires did something to what it carried.
func (p *proxy) met() int { return int(p.up.met.Load() + p.down.met.Load()) }

// line is what the wires of one direction of a proxy do at present.
type line struct {
	name string
	met  atomic.Int64

	mu      sync.Mutex // guards those below
	rule    rule
	drops   int
	changed chan struct{} // closed when one of the two changes
}

// rule says what happens to what comes. The zero rule lets it pass.
type rule struct {
	hold bool          // keep it, and the end of the connection too, until the rule changes
	late time.Duration // keep it so long, whatever the rule becomes
	lose bool          // throw it away, and keep the connection open

	// cut, if set, tells how much of what comes still passes before the connection is cut; -1 to let it pass whole.
	cut   func([]byte) int
	share float64 // how much of what comes is looked at by cut; 0 for all
}

// lines finds a line by its name: toxiproxy makes its toxics from JSON.
var (
	lines   sync.Map
	serials atomic.Int64
)

func newLine() *line {
	l := &line{name: fmt.Sprint(serials.Add(1)), changed: make(chan struct{})}
	lines.Store(l.name, l)
	return l
}

// set changes what happens from now on.
func (l *line) set(r rule) { l.change(func() { l.rule = r }) }

// drop ends the connections that there are, of which the other direction hears too.
func (l *line) drop() { l.change(func() { l.drops++ }) }

func (l *line) change(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *line) now() (r rule, drops int, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rule, l.drops, l.changed
}

// wire is a toxic that carries one direction of one connection and obeys the rule of its line, which may change at any
// time. Toxiproxy's own way to change is to take toxics out and put others in. That can hang for ever when a connection
// breaks at the same moment, and breaking them is what we are here for.
type wire struct {
	Line string `json:"line"`
}

// Pipe carries until the connection ends or toxiproxy changes the chain.
func (w *wire) Pipe(stub *toxics.ToxicStub) {
	found, _ := lines.Load(w.Line)
	l := found.(*line)
	type parcel struct {
		*stream.StreamChunk           // nil for the end of the connection
		due                 time.Time // zero: when the rule changes
	}
	var kept []parcel
	in := stub.Input
	_, born, _ := l.now()
	for {
		r, drops, changed := l.now()
		if drops > born {
			w.cut(stub, in)
			return
		}
		var timer <-chan time.Time
		for len(kept) > 0 && timer == nil {
			first := kept[0]
			if first.due.IsZero() && r.hold {
				break
			}
			if wait := time.Until(first.due); wait > 0 {
				timer = time.After(wait)
				break
			}
			if first.StreamChunk == nil {
				stub.Close()
				return
			}
			stub.Output <- first.StreamChunk
			kept = kept[1:]
		}
		select {
		case <-changed:
		case <-timer:
		case <-stub.Interrupt:
			for _, p := range kept {
				if p.StreamChunk != nil {
					stub.Output <- p.StreamChunk
				}
			}
			return
		case c := <-in:
			if c == nil {
				in = nil // it would go on to say so
			}
			switch {
			case r.hold:
				l.met.Add(1)
				kept = append(kept, parcel{c, time.Time{}})
			case r.late > 0:
				l.met.Add(1)
				kept = append(kept, parcel{c, time.Now().Add(r.late)})
			case len(kept) > 0:
				kept = append(kept, parcel{c, kept[len(kept)-1].due})
			case c == nil:
				stub.Close()
				return
			case r.lose:
				l.met.Add(1)
			default:
				n := -1
				if r.cut != nil && (r.share == 0 || rand.Float64() < r.share) {
					n = r.cut(c.Data)
				}
				if n < 0 {
					stub.Output <- c
					continue
				}
				l.met.Add(1)
				if n > 0 {
					stub.Output <- &stream.StreamChunk{Data: c.Data[:n], Timestamp: c.Timestamp}
				}
				w.cut(stub, in)
				return
			}
		}
	}
}

// cut ends the connection, and takes what still comes so that nobody is stuck who brings it.
func (w *wire) cut(stub *toxics.ToxicStub, in <-chan *stream.StreamChunk) {
	stub.Close()
	if in == nil {
		return
	}
	for c := range in {
		_ = c
	}
}

func init() { toxics.Register("wire", new(wire)) }

// atOnce cuts before anything has passed.
func atOnce([]byte) int { return 0 }

// inTheMiddle cuts anywhere.
func inTheMiddle(data []byte) int { return rand.IntN(len(data)) }

// afterHeaders cuts behind the headers of an HTTP message, before its body.
func afterHeaders(data []byte) int {
	if i := bytes.Index(data, []byte("\r\n\r\n")); i >= 0 {
		return i + 4
	}
	return -1
}

// inBody cuts in the middle of the body of an HTTP message.
func inBody(data []byte) int {
	begin := 0
	if i := bytes.Index(data, []byte("\r\n\r\n")); i >= 0 {
		begin = i + 4
	}
	if begin == len(data) {
		return -1
	}
	return begin + (len(data)-begin)/2
}
