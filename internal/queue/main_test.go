package queue_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"statusq/internal/queue"
	"statusq/internal/queue/queuetest"
)

func TestMain(m *testing.M) { queuetest.Main(m) }

// serve starts a server that ends with the test.
func serve(t testing.TB) *queuetest.Server {
	t.Helper()
	// The client keeps old timers in a pool. Those of an earlier bubble must not come into this one; a pool loses what it
	// holds in two collections.
	runtime.GC()
	runtime.GC()
	// Comes after the server's end, whose file writers look every millisecond whether they should stop: a bubble has to
	// outlive them.
	t.Cleanup(func() { time.Sleep(10 * time.Millisecond) })
	return queuetest.StartDir(t, t.TempDir())
}

// start gives a queue that is set up and empty.
func start(t testing.TB) *queue.Queue {
	t.Helper()
	return serve(t).Connect(t)
}

// job is a job of site main.
func job(app int64, id string, record int64) queue.Job {
	return queue.Job{ID: id, Site: "main", App: app, Record: record, Action: "Approve", Revision: -1}
}

// jobs are n jobs of one app with ids.
func jobs(app int64, n int) []queue.Job {
	all := make([]queue.Job, n)
	for i := range all {
		all[i] = job(app, fmt.Sprintf("j%d", i), int64(i+1))
	}
	return all
}

// wire is a connection's network, which a test breaks. It acts on what a client sends, once.
type wire struct {
	dial func() (net.Conn, error)

	mu   sync.Mutex // guards the rest
	on   []byte     // act on the write that contains this
	act  func(*broken, []byte) (int, error)
	late *broken // what hold has kept
	held []byte
}

// connect connects a client through a wire.
func connect(t *testing.T, s *queuetest.Server) (*queue.Queue, *wire) {
	t.Helper()
	cfg := s.Config()
	w := &wire{dial: cfg.Dial}
	cfg.Dial = func() (net.Conn, error) {
		conn, err := w.dial()
		return &broken{Conn: conn, wire: w}, err
	}
	q, err := queue.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	return q, w
}

// lose cuts the connection instead of sending what contains text.
func (w *wire) lose(text string) {
	w.arm(text, func(c *broken, _ []byte) (int, error) {
		c.Conn.Close()
		return 0, io.ErrClosedPipe
	})
}

// cut sends what contains text, and cuts the connection before an answer can come back.
func (w *wire) cut(text string) {
	w.arm(text, func(c *broken, p []byte) (int, error) {
		c.deafen()
		n, err := c.Conn.Write(p)
		// The server handles what it has read before it notices the end.
		c.Conn.Close()
		return n, err
	})
}

// hold cuts the client off and keeps what contains text, to be delivered late.
func (w *wire) hold(text string) {
	w.arm(text, func(c *broken, p []byte) (int, error) {
		c.deafen()
		c.wire.mu.Lock()
		c.wire.late, c.wire.held = c, bytes.Clone(p)
		c.wire.mu.Unlock()
		return len(p), nil
	})
}

// before runs f, and then sends what contains text.
func (w *wire) before(text string, f func()) {
	w.arm(text, func(c *broken, p []byte) (int, error) {
		f()
		return c.Conn.Write(p)
	})
}

// deliver lets arrive what hold has kept.
func (w *wire) deliver(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	c, p := w.late, w.held
	w.mu.Unlock()
	if c == nil {
		t.Fatal("nothing was held")
	}
	if _, err := c.Conn.Write(p); err != nil {
		t.Fatalf("deliver late: %v", err)
	}
	// An answer to a ping says that all before it has been handled.
	if _, err := c.Conn.Write([]byte("PING\r\n")); err != nil {
		t.Fatalf("deliver late: %v", err)
	}
	c.Conn.Close()
}

// wantBroken fails unless the fault has happened.
func (w *wire) wantBroken(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.act != nil {
		t.Fatalf("%q was never sent, nothing was broken", w.on)
	}
}

func (w *wire) arm(text string, act func(*broken, []byte) (int, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on, w.act = []byte(text), act
}

// broken is one connection of a wire.
type broken struct {
	net.Conn
	wire *wire

	mu   sync.Mutex // guards deaf
	deaf chan struct{}
}

func (c *broken) Write(p []byte) (int, error) {
	c.wire.mu.Lock()
	if c.wire.late == c { // the rest of what is held
		c.wire.held = append(c.wire.held, p...)
		c.wire.mu.Unlock()
		return len(p), nil
	}
	act := c.wire.act
	if act == nil || !bytes.Contains(p, c.wire.on) {
		act = nil
	} else {
		c.wire.act = nil
	}
	c.wire.mu.Unlock()
	if act != nil {
		return act(c, p)
	}
	return c.Conn.Write(p)
}

// deafen makes the client see the end of the connection, while the server still sees a client that reads.
func (c *broken) deafen() {
	c.mu.Lock()
	c.deaf = make(chan struct{})
	c.mu.Unlock()
}

func (c *broken) isDeaf() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deaf != nil
}

func (c *broken) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.isDeaf() {
		return 0, errors.Join(io.EOF, err)
	}
	return n, err
}

// Close leaves the server's end open when the connection is held.
func (c *broken) Close() error {
	if c.isDeaf() {
		go io.Copy(io.Discard, c.Conn) // ends with the server
		return nil
	}
	return c.Conn.Close()
}

// drain collects a sequence and fails the test on an error.
func drain[T any](t *testing.T, all func(func(T, error) bool)) []T {
	t.Helper()
	var got []T
	for v, err := range all {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, v)
	}
	return got
}

// wantErr fails unless err is want.
func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: error is %v, want %v", what, err, want)
	}
}

// connectTo connects to whichever server runs.
func connectTo(t *testing.T, s *atomic.Pointer[queuetest.Server]) *queue.Queue {
	t.Helper()
	cfg := s.Load().Config()
	cfg.Dial = func() (net.Conn, error) { return s.Load().Config().Dial() }
	q, err := queue.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	return q
}
