package dispatch

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
	"statusq/internal/queue/queuetest"
)

func TestMain(m *testing.M) { queuetest.Main(m) }

const (
	testApp   = 5
	testToken = "testtoken"
)

// A world is everything around a worker, all of it real but kintone: an embedded JetStream, the simulator behind a real
// HTTP server, and workers that come and go. It lives in a synctest bubble, so that hours pass in no time.
type world struct {
	t         testing.TB
	sim       *simulator.Kintone
	server    *queuetest.Server
	queue     *queue.Queue // the publisher's and the operator's
	transport http.RoundTripper
	apps      map[int64]AppConfig
	secrets   func() (kintone.Credentials, error)
	discover  time.Duration  // how often workers look for apps that have no lane; 0 = as in production
	late      sync.WaitGroup // requests that taps hold

	// Who wants to know what workers send and tell; nil = nobody. Set before the first worker starts.
	leaving func(*worker, *http.Request) (back func()) // a request leaves, and back is called when its answer is there
	hearing func(Event)

	mu      sync.Mutex // guards the rest
	events  []Event
	owner   *worker // who was the last to own the site
	workers []*worker
	zombies int // requests of a deposed or dead owner that reached kintone all the same
}

// inWorld runs a test in a bubble with an app of n records, all "Not started".
func inWorld(t *testing.T, records int, test func(*world)) {
	t.Helper()
	inWorldOf(t, simulator.App{
		ID: testApp, Name: "Orders", Records: records,
		Tokens:  []simulator.Token{simulator.ViewToken(testToken)},
		Process: simulator.Workflow(),
	}, test)
}

// inWorldOf runs a test in a bubble with the given apps.
func inWorldOf(t *testing.T, app simulator.App, test func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newWorld(t, app)) })
}

func newWorld(t testing.TB, app simulator.App) *world {
	sim := simulator.New(simulator.Config{})
	sim.AddUser("sato", "pw")
	sim.AddUser("suzuki", "pw")
	sim.AddApp(app)
	transport, stop := simulator.Serve(sim)
	t.Cleanup(stop)
	w := &world{t: t, sim: sim, server: queuetest.StartDir(t, t.TempDir())}
	w.discover = time.Minute // the app is configured; looking for more each second of hours takes longer than all the rest
	w.queue = w.server.Connect(t)
	w.transport = transport
	w.apps = map[int64]AppConfig{testApp: {DailyRequests: -1}}
	w.secrets = func() (kintone.Credentials, error) {
		return kintone.Credentials{Tokens: []kintone.Secret{testToken}}, nil
	}
	return w
}

// A worker is one process's worth of statusq.
type worker struct {
	name  string
	owner *Owner
	gate  *kintone.Gate
	line  *line // to NATS
	tap   *tap  // to kintone
	stop  context.CancelFunc
	kill  context.CancelFunc
	done  chan error
}

// start sets a worker to work, on its own connections to the queue and to kintone.
func (w *world) start(name string) *worker {
	w.t.Helper()
	wk := &worker{name: name, done: make(chan error, 1)}
	link := w.server.Config()
	wk.line = &line{dial: link.Dial}
	link.Dial = wk.line.connect
	q, err := queue.Connect(w.t.Context(), link)
	if err != nil {
		w.t.Fatalf("connect worker %s: %v", name, err)
	}
	wk.tap = &tap{next: w.transport, refuse: func(format string, args ...any) { w.t.Errorf(name+": "+format, args...) }, late: &w.late}
	wk.tap.passed = func(time.Duration) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.owner != wk {
			w.zombies++
		}
	}
	wk.gate = kintone.NewGate(kintone.GateConfig{RequestsPerSecond: 1000})
	credentials, err := w.secrets()
	if err != nil {
		w.t.Fatalf("credentials: %v", err)
	}
	var transport http.RoundTripper = wk.tap
	if w.leaving != nil {
		transport = &witness{wk, w.leaving}
	}
	client, err := kintone.NewClient(kintone.Config{
		BaseURL: "http://127.0.0.1", Credentials: credentials, Renew: w.secrets, Transport: transport, Gate: wk.gate,
	})
	if err != nil {
		w.t.Fatalf("client: %v", err)
	}
	stop, stopNow := context.WithCancel(context.Background())
	work, kill := context.WithCancel(context.Background())
	wk.stop, wk.kill = stopNow, kill
	wk.owner = NewOwner(Config{
		Site: "main", Name: name, Client: client, Gate: wk.gate, Queue: q, Apps: w.apps, Discover: w.discover,
		Observe: func(e Event) { w.observe(wk, e) },
	})
	go func() {
		defer q.Close()
		wk.done <- wk.owner.Run(stop, work)
	}()
	w.mu.Lock()
	w.workers = append(w.workers, wk)
	w.mu.Unlock()
	w.t.Cleanup(func() { wk.kill(); wk.stop(); <-wk.done; wk.line.die() })
	return wk
}

// end stops a worker gracefully and waits for it.
func (w *world) end(wk *worker) {
	w.t.Helper()
	wk.stop()
	if err := <-wk.done; err != nil {
		w.t.Errorf("worker stopped with: %v", err)
	}
	wk.done <- nil
}

// crash ends a worker as if its process had died: nothing is finished, nothing released.
func (w *world) crash(wk *worker) {
	wk.line.die()
	wk.kill()
	wk.stop() // or a standby would wait on for the lease
	<-wk.done
	wk.tap.die()
	wk.done <- nil
}

// A witness is told of each request before a worker's tap has it, and of its end.
type witness struct {
	of      *worker
	leaving func(*worker, *http.Request) func()
}

func (n *witness) RoundTrip(r *http.Request) (*http.Response, error) {
	defer n.leaving(n.of, r)()
	return n.of.tap.RoundTrip(r)
}

func (w *world) observe(wk *worker, e Event) {
	if w.hearing != nil {
		w.hearing(e)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
	if e.Kind == EventOwner {
		w.owner = wk
	}
	if os.Getenv("STATUSQ_TEST_EVENTS") != "" {
		fmt.Printf("%s %s %+v\n", time.Now().Format(time.TimeOnly), wk.name, e)
	}
}

// strike decides the faults of requests, one after the other.
func (w *world) strike(fault func(simulator.Request) simulator.Fault) {
	if fault == nil {
		w.sim.SetFault(nil)
		return
	}
	var mu sync.Mutex // guards whatever the function keeps
	w.sim.SetFault(func(r simulator.Request) simulator.Fault {
		mu.Lock()
		defer mu.Unlock()
		return fault(r)
	})
}

// told counts events of a kind with a reason ("" = any).
func (w *world) told(kind EventKind, reason string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, e := range w.events {
		if e.Kind == kind && (reason == "" || e.Reason == reason) {
			n++
		}
	}
	return n
}

// job is a job for record r, called j<r>.
func job(r int64, action string) queue.Job {
	return queue.Job{ID: fmt.Sprintf("j%d", r), Site: "main", App: testApp, Record: r, Action: action, Revision: -1}
}

// jobs are n jobs for the records 1 to n.
func jobs(n int, action string) []queue.Job {
	js := make([]queue.Job, n)
	for i := range js {
		js[i] = job(int64(i+1), action)
	}
	return js
}

func (w *world) publish(js ...queue.Job) {
	w.t.Helper()
	acks, err := w.queue.Publish(w.t.Context(), js)
	if err != nil {
		w.t.Fatalf("publish: %v", err)
	}
	for i, a := range acks {
		if a.Seq == 0 {
			w.t.Fatalf("job %s was not accepted", js[i].ID)
		}
	}
}

// results are the ends of all jobs so far, by job; the newest that is not a duplicate's.
func (w *world) results() map[string]queue.Result {
	w.t.Helper()
	out := make(map[string]queue.Result)
	for r, err := range w.queue.Results(w.t.Context(), queue.ResultFilter{Site: "main"}) {
		if err != nil {
			w.t.Fatalf("read results: %v", err)
		}
		if r.Outcome == queue.Duplicate && out[r.Job].Outcome != "" {
			continue
		}
		out[r.Job] = r
	}
	return out
}

func (w *world) dead() []queue.DeadLetter {
	w.t.Helper()
	var out []queue.DeadLetter
	for d, err := range w.queue.Dead(w.t.Context(), queue.DeadFilter{Site: "main"}) {
		if err != nil {
			w.t.Fatalf("read dead letters: %v", err)
		}
		out = append(out, d)
	}
	return out
}

// settle waits until n jobs have ended, at most d of the bubble's time.
func (w *world) settle(n int, d time.Duration) map[string]queue.Result {
	w.t.Helper()
	deadline := time.Now().Add(d)
	for {
		got := w.results()
		if len(got) >= n {
			return got
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%d of %d jobs ended within %v; %s", len(got), n, d, w.whereabouts())
		}
		time.Sleep(max(50*time.Millisecond, d/500))
	}
}

func (w *world) whereabouts() string {
	slots, _ := w.queue.Slots(context.Background(), "main", 0)
	log, _ := w.queue.Backlog(context.Background(), "main")
	var b strings.Builder
	for _, s := range slots {
		if s.Slot.Request != nil {
			fmt.Fprintf(&b, "slot %d: %d parts; ", s.N, len(s.Slot.Request.Parts))
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("log %v; %s last events %+v", log, b.String(), w.events[max(0, len(w.events)-5):])
}

// count counts results by outcome.
func count(results map[string]queue.Result) map[queue.Outcome]int {
	n := make(map[queue.Outcome]int)
	for _, r := range results {
		n[r.Outcome]++
	}
	return n
}

// reconcile compares what the ledger says with what kintone did, after every delayed request was executed: every job
// that is applied was committed once, every other one never unless it is unknown, and the jobs of a record in the order
// of the log. Foreign commits are not ours.
func (w *world) reconcile(results map[string]queue.Result, js []queue.Job) {
	w.t.Helper()
	w.sim.Flush()
	type act struct {
		record int64
		action string
	}
	commits := make(map[act]int)
	order := make(map[int64][]string)
	for _, c := range w.sim.Commits() {
		if !c.Foreign {
			commits[act{c.Record, c.Action}]++
			order[c.Record] = append(order[c.Record], c.Action)
		}
	}
	applied, unknown := make(map[act]int), make(map[act]int)
	want := make(map[int64][]string)
	doubtful := make(map[int64]bool)
	for _, j := range js {
		if results[j.ID].Outcome == "" {
			w.t.Errorf("job %s has not ended", j.ID)
		}
		switch a := (act{j.Record, j.Action}); results[j.ID].Outcome {
		case queue.Applied:
			applied[a]++
			want[j.Record] = append(want[j.Record], j.Action)
		case queue.Unknown:
			unknown[a]++
			doubtful[j.Record] = true
		}
	}
	for a, n := range commits {
		if n > applied[a]+unknown[a] {
			w.t.Errorf("record %d: %s was run %d times; %d results say applied, %d unknown", a.record, a.action, n, applied[a], unknown[a])
		}
	}
	for a, n := range applied {
		if commits[a] < n {
			w.t.Errorf("record %d: %d results say that %s was run, kintone ran it %d times", a.record, n, a.action, commits[a])
		}
	}
	for record, actions := range want {
		if !doubtful[record] && fmt.Sprint(order[record]) != fmt.Sprint(actions) {
			w.t.Errorf("record %d: ran %v, published %v", record, order[record], actions)
		}
	}
}
