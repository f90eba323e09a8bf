package dispatch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// A line is a worker's way to NATS. Frozen, it does what a network does while a machine is paused or cut off: what the
// worker sends is kept, and arrives when the line thaws, even if the worker has hung up meanwhile; what the server sends
// waits, too. Cut, everything on it is lost for good.
type line struct {
	dial func() (net.Conn, error)

	mu     sync.Mutex // guards the rest, and what the connections hold
	frozen bool
	cut    bool
	garble [2][]byte // what the worker sends instead of what; of the same length
	conns  []*lineConn
	wg     sync.WaitGroup // those who drain connections that were hung up
}

var errLineDown = errors.New("the line is down")

func (l *line) connect() (net.Conn, error) {
	l.mu.Lock()
	down := l.frozen || l.cut
	l.mu.Unlock()
	if down {
		return nil, errLineDown
	}
	conn, err := l.dial()
	if err != nil {
		return nil, err
	}
	c := &lineConn{Conn: conn, line: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, c)
	return c, nil
}

// misdirect makes the worker ask for one thing instead of another; "" ends it. Both names have the same length.
func (l *line) misdirect(from, to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.garble = [2][]byte{[]byte(from), []byte(to)}
}

// drop ends every connection; the next ones are as good as before.
func (l *line) drop() {
	l.mu.Lock()
	conns := slices.Clone(l.conns)
	l.mu.Unlock()
	for _, c := range conns {
		c.Conn.Close()
	}
}

func (l *line) freeze() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen = true
	for _, c := range l.conns {
		if !c.closed && !c.frozen {
			c.frozen, c.thawed = true, make(chan struct{})
		}
	}
}

// thaw lets everything that was kept arrive, and then the line is as it was. It reports whether writes to slots were
// among it.
func (l *line) thaw() (slots bool) {
	l.mu.Lock()
	conns := l.conns
	l.conns, l.frozen = nil, false
	for _, c := range conns {
		slots = slots || bytes.Contains(c.out, []byte("statusq.slot.main."))
	}
	l.mu.Unlock()
	for _, c := range conns {
		if c.thaw() {
			l.mu.Lock()
			l.conns = append(l.conns, c)
			l.mu.Unlock()
		}
	}
	return slots
}

// die cuts the line for good.
func (l *line) die() {
	l.mu.Lock()
	conns := l.conns
	l.conns, l.cut = nil, true
	for _, c := range conns {
		c.out = nil
	}
	l.mu.Unlock()
	for _, c := range conns {
		c.thaw()
		c.Conn.Close()
	}
	l.wg.Wait()
}

// lineConn is one connection of a line.
type lineConn struct {
	net.Conn
	line *line

	// Guarded by the line's mutex.
	frozen  bool
	thawed  chan struct{} // closed when it is not frozen any more, or was hung up
	closed  bool          // by the client
	in, out []byte        // kept while frozen
	inErr   error         // how in ends
	woken   bool          // the read deadline was ours
}

// Write never waits while the line is frozen: nats.go holds a mutex around it.
func (c *lineConn) Write(p []byte) (int, error) {
	c.line.mu.Lock()
	if c.frozen {
		c.out = append(c.out, p...)
		c.line.mu.Unlock()
		return len(p), nil
	}
	garble := c.line.garble
	c.line.mu.Unlock()
	if len(garble[0]) > 0 {
		return c.Conn.Write(bytes.ReplaceAll(p, garble[0], garble[1]))
	}
	return c.Conn.Write(p)
}

func (c *lineConn) Read(p []byte) (int, error) {
	for {
		c.line.mu.Lock()
		frozen, thawed, ended := c.frozen, c.thawed, c.inErr
		switch {
		case c.closed:
			c.line.mu.Unlock()
			return 0, net.ErrClosed
		case !frozen && len(c.in) > 0:
			n := copy(p, c.in)
			c.in = c.in[n:]
			c.line.mu.Unlock()
			return n, nil
		case !frozen && ended != nil:
			c.line.mu.Unlock()
			return 0, ended
		}
		c.line.mu.Unlock()
		if frozen && ended != nil {
			<-thawed
			continue
		}

		n, err := c.Conn.Read(p)
		c.line.mu.Lock()
		if c.woken && errors.Is(err, os.ErrDeadlineExceeded) {
			c.woken, err = false, nil
			_ = c.Conn.SetReadDeadline(time.Time{})
		}
		if c.frozen && !c.closed {
			c.in, c.inErr = append(c.in, p[:n]...), err
			n, err = 0, nil
		}
		c.line.mu.Unlock()
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Close hangs up. On a frozen line the server does not hear of it yet.
func (c *lineConn) Close() error {
	c.line.mu.Lock()
	frozen, before := c.frozen, c.closed
	c.closed = true
	if frozen && !before {
		c.wake()
		close(c.thawed)
		c.line.wg.Go(c.drain)
	}
	c.line.mu.Unlock()
	if frozen {
		return nil
	}
	return c.Conn.Close()
}

// drain takes what the server still sends to a client that has hung up, until the line thaws or dies.
func (c *lineConn) drain() {
	buf := make([]byte, 4096)
	for {
		_, err := c.Conn.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = c.Conn.SetReadDeadline(time.Time{})
		}
		if err != nil {
			return
		}
	}
}

// thaw delivers what was kept and reports whether the connection lives on.
func (c *lineConn) thaw() bool {
	for {
		c.line.mu.Lock()
		out := c.out
		c.out = nil
		if len(out) == 0 {
			if c.frozen && !c.closed {
				close(c.thawed)
			}
			c.frozen = false
			closed := c.closed
			c.wake()
			c.line.mu.Unlock()
			if closed {
				c.Conn.Close()
			}
			return !closed
		}
		c.line.mu.Unlock()
		_ = c.Conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
		_, _ = c.Conn.Write(out) // the server may have given the connection up
		_ = c.Conn.SetWriteDeadline(time.Time{})
	}
}

// wake ends a Read that waits. The mutex is held.
func (c *lineConn) wake() {
	c.woken = true
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
}

// A tap is a worker's way to kintone. It can hold a status request that the worker has handed over and let it go later,
// whoever waits for it or not: so a request leaves a machine that was paused, or a network that was stuck. It also
// watches how many requests are out and whether a worker that was cut off from NATS stops in time.
type tap struct {
	next   http.RoundTripper
	refuse func(format string, args ...any) // reports what must not be
	passed func(late time.Duration)         // told of each held request when it is let go
	late   *sync.WaitGroup                  // held requests

	mu        sync.Mutex // guards the rest
	hold      func() time.Duration
	cutOff    time.Time // since when the worker cannot reach NATS; zero = it can
	dead      bool
	out, most int
	held      int // since holding was called
}

// trust is how long an owner may go on after it was cut off: its lease is good for 10 s after the last renewal.
const trust = 10*time.Second + 100*time.Millisecond

func (p *tap) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	if off := time.Since(p.cutOff); !p.cutOff.IsZero() && off > trust {
		p.refuse("a worker that was cut off from NATS sent %s %s after %v", r.Method, r.URL.Path, off)
	}
	if p.dead {
		p.refuse("a dead worker sent %s %s", r.Method, r.URL.Path)
	}
	if r.Method != http.MethodPut {
		p.mu.Unlock()
		return p.next.RoundTrip(r)
	}
	p.out++
	p.most = max(p.most, p.out)
	var late time.Duration
	if p.hold != nil {
		if late = p.hold(); late > 0 {
			p.held++
		}
	}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.out--
	}()
	if late == 0 {
		return p.next.RoundTrip(r)
	}

	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body.Close()
	p.late.Go(func() {
		time.Sleep(late)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Minute)
		defer cancel()
		held := r.Clone(ctx)
		held.Body = io.NopCloser(bytes.NewReader(body))
		p.passed(late)
		if resp, err := p.next.RoundTrip(held); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func (p *tap) holding(hold func() time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold, p.held = hold, 0
}

// holds is how many requests were held since holding was called.
func (p *tap) holds() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
}

func (p *tap) setCutOff(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutOff = at
}

func (p *tap) die() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
}

// peak is the most status requests that were out at a time.
func (p *tap) peak() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.most
}
