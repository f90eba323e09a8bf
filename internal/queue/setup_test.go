package queue_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"statusq/internal/kintone"
	"statusq/internal/queue"
	"statusq/internal/queue/embedded"
)

func TestConnectSaysWhatIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		cfg := s.Config()
		cfg.Dial = func() (net.Conn, error) { return nil, errors.New("no route") }
		_, err := queue.Connect(t.Context(), cfg)
		wantErr(t, "nobody there", err, queue.ErrUnreachable)
		cfg.Prefix = "Status.Q"
		if _, err = queue.Connect(t.Context(), cfg); err == nil {
			t.Error("a prefix that is no token was taken")
		}
		ended, cancel := context.WithTimeout(t.Context(), -1)
		defer cancel()
		_, err = queue.Connect(ended, s.Config())
		wantErr(t, "no time", err, queue.ErrUnreachable)
	})
}

func TestConnectWithAWrongPassword(t *testing.T) {
	s, err := embedded.Start(embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cfg := queue.Config{URL: s.URL(), User: s.Config().User, Password: kintone.Secret("not-the-password")}
	_, err = queue.Connect(t.Context(), cfg)
	wantErr(t, "a wrong password", err, queue.ErrRefused)
	if strings.Contains(err.Error(), "not-the-password") {
		t.Errorf("the error shows the password: %v", err)
	}
	cfg.Password = s.Config().Password
	q, err := queue.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	q.Close()
}

func TestConnectionIsMendedAndSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		s.Connect(t)
		var mu sync.Mutex
		var events []string
		cfg := s.Config()
		cfg.OnEvent = func(event string) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, event)
		}
		q, err := queue.Connect(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		s.Disconnect()
		time.Sleep(10 * time.Second)
		if !q.Connected() {
			t.Error("ten seconds after a cut there is no connection")
		}
		if _, err := q.Publish(t.Context(), jobs(5, 1)); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if got := strings.Join(events, "; "); !strings.Contains(got, "lost") || !strings.Contains(got, "restored") {
			t.Errorf("told %q, want the loss and the restoration", got)
		}
	})
}

func TestSetupCreatesWhatIsMissingAndChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		q, err := queue.Connect(t.Context(), s.Config())
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		ok := func() (ok, bad []string) {
			findings, err := q.Inspect(t.Context(), queue.Layout{})
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range findings {
				if f.OK {
					ok = append(ok, f.Name)
				} else {
					bad = append(bad, f.Name+": "+f.Detail)
				}
			}
			return ok, bad
		}
		if good, bad := ok(); len(good) != 0 || len(bad) != 5 {
			t.Errorf("before: %q good, %q bad, want five missing", good, bad)
		}
		// Workers that start together set up together.
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := q.Setup(t.Context(), queue.Layout{}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if good, bad := ok(); len(good) != 5 {
			t.Errorf("after: %q bad", bad)
		}
		if _, err := q.Publish(t.Context(), jobs(5, 3)); err != nil {
			t.Fatal(err)
		}

		stream, err := q.JetStream().Stream(t.Context(), "STATUSQ_JOBS")
		if err != nil {
			t.Fatal(err)
		}
		if got := stream.CachedInfo().Config; got.MaxConsumers != 5000 || got.Duplicates != 10*time.Minute || !got.AllowDirect ||
			got.Discard != jetstream.DiscardNew || got.MaxBytes != 10<<30 || got.MaxMsgSize != 32<<10 {
			t.Errorf("the log is set up as %+v", got)
		}
		// What an operator may choose is left alone and fine; what endangers a promise is left alone and told.
		changed := stream.CachedInfo().Config
		changed.MaxBytes = 1 << 20
		if _, err := q.JetStream().UpdateStream(t.Context(), changed); err != nil {
			t.Fatal(err)
		}
		if err := q.Setup(t.Context(), queue.Layout{}); err != nil {
			t.Errorf("a smaller log: %v", err)
		}
		changed.Discard, changed.AllowAtomicPublish = jetstream.DiscardOld, false
		if _, err := q.JetStream().UpdateStream(t.Context(), changed); err != nil {
			t.Fatal(err)
		}
		err = q.Setup(t.Context(), queue.Layout{})
		wantErr(t, "setup over a log that discards", err, queue.ErrDiffers)
		if !strings.Contains(err.Error(), "discard") || !strings.Contains(err.Error(), "atomic") {
			t.Errorf("the error is %v, want it to name the differences", err)
		}
		if _, bad := ok(); len(bad) != 1 || !strings.Contains(bad[0], "STATUSQ_JOBS") {
			t.Errorf("inspection finds %q, want the log", bad)
		}
		stream, err = q.JetStream().Stream(t.Context(), "STATUSQ_JOBS")
		if err != nil {
			t.Fatal(err)
		}
		if info := stream.CachedInfo(); info.Config.Discard != jetstream.DiscardOld || info.State.Msgs != 3 {
			t.Errorf("setup has changed the stream: %+v", info)
		}
	})
}

// What an operator chooses (replicas, the size of the log) is told where it is otherwise, and changed only when he asks.
func TestWhatDiffersFromTheLayoutIsToldAndAdjusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := serve(t).Connect(t)
		if _, err := q.Publish(t.Context(), jobs(5, 3)); err != nil {
			t.Fatal(err)
		}
		const smaller = 1 << 20
		want := queue.Layout{LogBytes: smaller}
		if err := q.Setup(t.Context(), want); err != nil {
			t.Fatalf("setup over a larger log: %v", err)
		}
		wantFinding(t, q, want, "STATUSQ_JOBS", false, "max bytes: 10737418240, and not 1048576")
		wantFinding(t, q, want, "STATUSQ_LEDGER", true, "bytes: 0 of 10737418240")
		wantFinding(t, q, queue.Layout{}, "STATUSQ_JOBS", true, "messages: 3")

		if err := q.Adjust(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		wantFinding(t, q, want, "STATUSQ_JOBS", true, "of 1048576, replicas: 1")
		stream, err := q.JetStream().Stream(t.Context(), "STATUSQ_JOBS")
		if err != nil {
			t.Fatal(err)
		}
		if cfg := stream.CachedInfo().Config; cfg.MaxBytes != smaller || !cfg.AllowAtomicPublish || cfg.Discard != jetstream.DiscardNew || stream.CachedInfo().State.Msgs != 3 {
			t.Errorf("adjusting the size has made the log %+v", stream.CachedInfo())
		}
		if err := q.Adjust(t.Context(), queue.Layout{LogBytes: 1}); err == nil || !strings.Contains(err.Error(), "STATUSQ_JOBS: it holds") {
			t.Errorf("a log that holds more than it is to hold: %v", err)
		}
		wantFinding(t, q, want, "STATUSQ_JOBS", true, "messages: 3")

		// A single server keeps one copy, whether the streams are there or not.
		three := queue.Layout{Replicas: 3}
		wantFinding(t, q, three, "STATUSQ_LEDGER", false, "replicas: 1, and not 3 (this NATS is a single server")
		wantFinding(t, q, three, "statusq_leases", false, "replicas: 1, and not 3")
		wantErr(t, "three copies on a single server", q.Adjust(t.Context(), three), queue.ErrReplicas)
		cfg := serve(t).Config()
		empty, err := queue.Connect(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer empty.Close()
		err = empty.Setup(t.Context(), three)
		wantErr(t, "three copies on an empty server", err, queue.ErrReplicas)
		if strings.Count(err.Error(), "single server") != 1 {
			t.Errorf("the error is %v, want it to say once that it is a single server", err)
		}
	})
}

// What stands otherwise than it is created is told, even if it may be meant; a bucket in memory breaks a promise.
func TestWhatStandsOtherwiseIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		q, err := queue.Connect(t.Context(), s.Config())
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		if _, err := q.JetStream().CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "statusq_control", Storage: jetstream.MemoryStorage}); err != nil {
			t.Fatal(err)
		}
		if _, err := q.JetStream().CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "statusq_campaigns", Storage: jetstream.FileStorage, MaxBytes: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "setup over a bucket in memory", q.Setup(t.Context(), queue.Layout{}), queue.ErrDiffers)
		wantFinding(t, q, queue.Layout{}, "statusq_control", false, "storage is Memory, must be File")
		wantFinding(t, q, queue.Layout{}, "statusq_campaigns", true, "unusual: max bytes: 1048576 (usually none)")

		stream, err := q.JetStream().Stream(t.Context(), "STATUSQ_JOBS")
		if err != nil {
			t.Fatal(err)
		}
		changed := stream.CachedInfo().Config
		changed.MaxConsumers, changed.MaxBytes, changed.AllowDirect = 100, -1, false
		changed.Subjects = append(changed.Subjects, "elsewhere.>")
		if _, err := q.JetStream().UpdateStream(t.Context(), changed); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"max bytes: none", "direct get is not allowed", "it also takes elsewhere.>", "max consumers: 100 (usually 5000)"} {
			wantFinding(t, q, queue.Layout{}, "STATUSQ_JOBS", true, text)
		}
	})
}

func wantFinding(t *testing.T, q *queue.Queue, layout queue.Layout, name string, ok bool, text string) {
	t.Helper()
	findings, err := q.Inspect(t.Context(), layout)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		if f.Name != name {
			continue
		}
		if f.OK != ok || !strings.Contains(f.Detail, text) {
			t.Errorf("%s: ok %v, %q; want ok %v with %q", name, f.OK, f.Detail, ok, text)
		}
		if few := strings.Contains(text, "single server"); few && !f.TooFew {
			t.Errorf("%s: nothing says that there are too few servers", name)
		}
		return
	}
	t.Errorf("nothing is found about %s", name)
}
