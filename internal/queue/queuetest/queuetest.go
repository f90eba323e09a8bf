// Package queuetest gives tests a real queue: an embedded server without a network, whose clock is the test's.
//
// It works inside a testing/synctest bubble, where hours pass in milliseconds, if the test binary was started by [Main]:
//
//	func TestMain(m *testing.M) { queuetest.Main(m) }
//
// In a bubble nothing may be shared with the outside: start the server inside it.
package queuetest

import (
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"

	"statusq/internal/queue"
	"statusq/internal/queue/embedded"
)

// Main runs a package's tests. It starts nats-server's access-time ticker, one goroutine for the whole process, before
// any bubble can: a ticker that belonged to a bubble would wait on a channel outside of it, and the bubble's clock would
// never move.
func Main(m *testing.M) {
	ats.Register()
	os.Exit(m.Run())
}

// Start returns a queue that is set up and empty. It ends with the test.
func Start(t testing.TB) *queue.Queue {
	t.Helper()
	return StartDir(t, t.TempDir()).Connect(t)
}

// Server is a running server of a test.
type Server struct {
	*embedded.Server
}

// StartDir starts a server on a directory, which may hold the data of an earlier one. It ends with the test, unless the
// test closes it before, as it must to start another one on the same directory.
func StartDir(t testing.TB, dir string) *Server {
	t.Helper()
	return start(t, dir, embedded.SyncNever)
}

// StartSynced starts a server that has every write on the disk before it acknowledges it, as a worker's does.
func StartSynced(t testing.TB) *Server {
	t.Helper()
	return start(t, t.TempDir(), embedded.SyncAlways)
}

func start(t testing.TB, dir, sync string) *Server {
	t.Helper()
	// nats.go keeps timers in a pool of the process. One that was made in an earlier bubble is fatal in this one; two
	// collections empty the pool. Bubbles that run side by side would share it all the same: they must not.
	runtime.GC()
	runtime.GC()
	s, err := embedded.Start(embedded.Config{
		Dir:  dir,
		Sync: sync,
		Logger: func(level, text string) {
			if level == "error" {
				t.Logf("nats-server: %s", text)
			}
		},
	})
	if err != nil {
		t.Fatalf("start a queue: %v", err)
	}
	t.Cleanup(func() {
		s.Close()
		time.Sleep(20 * time.Millisecond) // a file that was written to just before is flushed by a goroutine that nobody waits for
	})
	return &Server{s}
}

// Connect connects another client and sets the queue up if it is new. The connection ends with the test.
func (s *Server) Connect(t testing.TB) *queue.Queue {
	t.Helper()
	q, err := queue.Connect(t.Context(), s.Config())
	if err != nil {
		t.Fatalf("connect to the queue: %v", err)
	}
	t.Cleanup(q.Close)
	if err := q.Setup(t.Context(), queue.Layout{}); err != nil {
		t.Fatalf("set up the queue: %v", err)
	}
	return q
}
