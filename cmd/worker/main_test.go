package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// The tests here run the commands as processes of their own, as those who use them do: the worker is this very test
// binary, which is the worker when asWorker is set; enqueue is built once.
const asWorker = "STATUSQ_TEST_AS_WORKER"

var enqueueProgram string

func TestMain(m *testing.M) {
	if os.Getenv(asWorker) != "" {
		main()
	}
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"} {
		os.Unsetenv(name) // nothing of the tester's; net/http reads them once
	}
	flag.Parse()
	if fuzzed := flag.Lookup("test.fuzz"); fuzzed != nil && fuzzed.Value.String() != "" {
		os.Exit(m.Run()) // what is fuzzed needs no programs, and each of its workers would build them
	}
	// These tests wait for leases and for processes much more than they compute.
	if err := flag.Set("test.parallel", "32"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "statusq-worker-test-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	enqueueProgram = filepath.Join(dir, "enqueue")
	if out, err := exec.Command("go", "build", "-o", enqueueProgram, "statusq/cmd/enqueue").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build enqueue: %w\n%s", err, out)
	}
	return m.Run(), nil
}

const (
	testApp   = 5
	testToken = "testtoken"
)

// A place is a kintone, and a directory for a worker's queue and configuration.
type place struct {
	t    *testing.T
	sim  *simulator.Kintone
	url  string   // of kintone
	dir  string   // of the queue
	conf string   // path of the configuration file
	env  []string // of worker and enqueue, besides what clean gives them
}

// newPlace has app 5 with records from 1 to n, all "Not started", and the user sato with the password pw.
func newPlace(t *testing.T, n int) *place {
	t.Helper()
	p := &place{t: t, sim: simulator.New(simulator.Config{}), dir: filepath.Join(t.TempDir(), "queue")}
	p.sim.AddUser("sato", "pw")
	p.sim.AddApp(simulator.App{
		ID: testApp, Name: "Orders", Records: n,
		Tokens: []simulator.Token{simulator.ViewToken(testToken)}, Process: simulator.Workflow(),
	})
	p.url = p.serve(p.sim)
	conf := t.TempDir()
	write(t, conf, "token", testToken)
	p.conf = write(t, conf, "statusq.yaml", fmt.Sprintf(`
sites:
  main:
    baseUrl: %s
    tokenFile: token
    requestsPerSecond: 1000
    defaults: {dailyRequests: -1, backoff: 1s}
`, p.url))
	return p
}

// serve answers requests on a port of this machine until the test ends.
func (p *place) serve(h http.Handler) (url string) {
	s := httptest.NewServer(h)
	p.t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

// clean is an environment with nothing of the tester's: a KINTONE_API_TOKEN of theirs must not reach a program here.
func (p *place) clean() []string {
	return append([]string{
		"HOME=" + p.t.TempDir(), "PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC",
		"STATUSQ_STORE_DIR=" + p.dir, "STATUSQ_CONFIG=" + p.conf,
		"STATUSQ_NATS_LISTEN=127.0.0.1:0", "STATUSQ_SYNC=never", "STATUSQ_LOG_LEVEL=debug",
	}, p.env...)
}

// output is how a command ended.
type output struct {
	code     int // -1: by a signal
	out, err string
}

// want checks the exit code and that all parts appear, whatever stream they are on. One with a ! before it must not.
func (o output) want(t *testing.T, code int, parts ...string) {
	t.Helper()
	if o.code != code {
		t.Errorf("exit code %d, want %d", o.code, code)
	}
	for _, part := range parts {
		text, absent := strings.CutPrefix(part, "!")
		if strings.Contains(o.out+o.err, text) == absent {
			t.Errorf("the output should say %q", part)
		}
	}
	if t.Failed() {
		t.Logf("stdout:\n%s\nstderr:\n%s", o.out, o.err)
	}
}

// call runs a command to its end.
func (p *place) call(program string, env []string, args ...string) output {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(p.clean(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if _, ended := errors.AsType[*exec.ExitError](err); !ended {
			p.t.Fatalf("%s %q: %v", filepath.Base(program), args, err)
		}
	}
	return output{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func (p *place) enqueue(args ...string) output {
	p.t.Helper()
	return p.call(enqueueProgram, nil, args...)
}

// worker runs a worker to its end: one that cannot start, or a command that is not run.
func (p *place) worker(args ...string) output {
	p.t.Helper()
	return p.call(os.Args[0], []string{asWorker + "=1"}, args...)
}

// process is a worker that runs.
type process struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, err lines
	exited   chan struct{}
}

// lines is what a process has said so far.
type lines struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// start starts a worker and waits until it owns its site, or has ended. It ends with the test.
func (p *place) start(args ...string) *process {
	p.t.Helper()
	w := p.launch(args...)
	w.await("that it owns the site", `"msg":"owner"`)
	return w
}

// launch starts a worker and does not wait.
func (p *place) launch(args ...string) *process {
	p.t.Helper()
	w := &process{t: p.t, cmd: exec.Command(os.Args[0], args...), exited: make(chan struct{})}
	w.cmd.Env = append(p.clean(), asWorker+"=1")
	w.cmd.Stdout, w.cmd.Stderr = &w.out, &w.err
	if err := w.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() { // waited for by the cleanup
		_ = w.cmd.Wait() // code tells
		close(w.exited)
	}()
	p.t.Cleanup(func() {
		w.cmd.Process.Kill()
		<-w.exited
		if p.t.Failed() {
			p.t.Logf("the worker said (last 4000 bytes):\n%s", tail(w.err.String(), 4000))
		}
	})
	return w
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// await waits until the worker has said any of some texts, and fails if it ends before.
func (w *process) await(what string, any ...string) {
	w.t.Helper()
	eventually(w.t, 30*time.Second, "the worker says "+what, func() bool {
		said := w.err.String()
		for _, text := range any {
			if strings.Contains(said, text) {
				return true
			}
		}
		select {
		case <-w.exited:
			w.t.Fatalf("the worker ended with %v before it said %s:\n%s", w.cmd.ProcessState, what, tail(said, 2000))
		default:
		}
		return false
	})
}

// stop asks the worker to end, and expects that it does so well.
func (w *process) stop() {
	w.t.Helper()
	w.cmd.Process.Signal(syscall.SIGTERM)
	if code := w.wait(); code != exitDone {
		w.t.Errorf("after SIGTERM the worker ended with %v, want exit code 0", w.cmd.ProcessState)
	}
}

// wait waits for the end and returns the exit code.
func (w *process) wait() int {
	w.t.Helper()
	select {
	case <-w.exited:
	case <-time.After(40 * time.Second):
		w.t.Fatalf("the worker does not end")
	}
	return w.cmd.ProcessState.ExitCode()
}

// eventually waits until a condition holds.
func eventually(t *testing.T, d time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(d); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}

// queue connects to the place's queue, whoever runs it.
func (p *place) queue() *queue.Queue {
	p.t.Helper()
	f, err := queue.ReadClientFile(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	q, err := queue.Connect(p.t.Context(), f.Config())
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(q.Close)
	return q
}

// results are the ends of a job, or of all with "".
func results(t *testing.T, q *queue.Queue, job string) []queue.Result {
	t.Helper()
	var out []queue.Result
	for r, err := range q.Results(t.Context(), queue.ResultFilter{Site: "main", Job: job}) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func deadLetters(t *testing.T, q *queue.Queue) []queue.DeadLetter {
	t.Helper()
	var out []queue.DeadLetter
	for d, err := range q.Dead(t.Context(), queue.DeadFilter{Site: "main"}) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, d)
	}
	return out
}

func backlog(t *testing.T, q *queue.Queue, app int64) int {
	t.Helper()
	b, err := q.Backlog(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	return int(b[app])
}

// lane is what enqueue lanes says of an app; empty if it says nothing.
func (p *place) lane(app int) map[string]any {
	p.t.Helper()
	o := p.enqueue("lanes", "--json")
	for line := range strings.Lines(o.out) {
		var l map[string]any
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			p.t.Fatalf("lanes says %q: %v", line, err)
		}
		if l["type"] == "lane" && l["app"] == strconv.Itoa(app) {
			return l
		}
	}
	return nil
}

// awaitLane waits until an app's lane is in a state for a reason, which enqueue lanes must also explain to people.
func (p *place) awaitLane(app int, state, why string) {
	p.t.Helper()
	var last map[string]any
	eventually(p.t, 20*time.Second, fmt.Sprintf("the lane of app %d is %s for %q", app, state, why), func() bool {
		last = p.lane(app)
		time.Sleep(200 * time.Millisecond) // a process each time
		return last["state"] == state && last["why"] == why
	})
	p.enqueue("lanes").want(p.t, exitDone, state, strconv.Itoa(app))
}

// file makes a CSV file with the action for records 1 to n of app 5.
func (p *place) file(n int, action string) string {
	p.t.Helper()
	var b strings.Builder
	b.WriteString("job,app,record,action\n")
	for i := range n {
		fmt.Fprintf(&b, "%s-%d,%d,%d,%s\n", action, i+1, testApp, i+1, action)
	}
	return write(p.t, p.t.TempDir(), action+".csv", b.String())
}

// once checks that the action has run exactly once on each of the records 1 to n, and nothing else has.
func (p *place) once(n int, action string) {
	p.t.Helper()
	p.sim.Flush()
	runs := make(map[int64]int)
	for _, c := range p.sim.Commits() {
		if c.Action != action || c.Record > int64(n) {
			p.t.Fatalf("kintone ran %s on record %d, which nobody asked for", c.Action, c.Record)
		}
		runs[c.Record]++
	}
	never, twice := 0, 0
	for r := range int64(n) {
		switch {
		case runs[r+1] == 0:
			never++
		case runs[r+1] > 1:
			twice++
		}
	}
	if never+twice > 0 {
		p.t.Errorf("of %d records %s never ran on %d and ran twice or more on %d", n, action, never, twice)
	}
}

// wire is the plainest client of NATS: it hears every message that passes, whoever it is for, and can publish what the
// real one would not.
type wire struct {
	conn  net.Conn
	heard lines
	pong  chan struct{}
	done  chan struct{}
}

func (p *place) wire() *wire {
	p.t.Helper()
	f, err := queue.ReadClientFile(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.URL, "nats://"))
	if err != nil {
		p.t.Fatal(err)
	}
	w := &wire{conn: conn, pong: make(chan struct{}, 1), done: make(chan struct{})}
	go func() { // waited for by the cleanup
		defer close(w.done)
		w.listen()
	}()
	p.t.Cleanup(func() { conn.Close(); <-w.done })
	connect, err := json.Marshal(map[string]any{"verbose": false, "pedantic": false, "headers": true, "user": f.User, "pass": f.Password.Reveal(), "lang": "go", "version": "1", "protocol": 1})
	if err != nil {
		p.t.Fatal(err)
	}
	fmt.Fprintf(conn, "CONNECT %s\r\nSUB > 1\r\n", connect)
	w.flush(p.t)
	return w
}

func (w *wire) listen() {
	r := bufio.NewReader(w.conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		switch parts := strings.Fields(line); parts[0] {
		case "PING":
			io.WriteString(w.conn, "PONG\r\n")
		case "PONG":
			w.pong <- struct{}{}
		case "MSG", "HMSG":
			n, err := strconv.Atoi(parts[len(parts)-1])
			if err != nil {
				return
			}
			payload := make([]byte, n+2)
			if _, err := io.ReadFull(r, payload); err != nil {
				return
			}
			fmt.Fprintf(&w.heard, "%s%s", line, payload)
		}
	}
}

// flush waits until the server has taken all that was sent to it.
func (w *wire) flush(t *testing.T) {
	t.Helper()
	io.WriteString(w.conn, "PING\r\n")
	select {
	case <-w.pong:
	case <-w.done:
		t.Fatal("NATS has closed the connection")
	case <-time.After(10 * time.Second):
		t.Fatal("NATS does not answer")
	}
}

// publish publishes without any of the checks, and without an id for the message.
func (w *wire) publish(t *testing.T, subject, data string) {
	t.Helper()
	fmt.Fprintf(w.conn, "PUB %s %d\r\n%s\r\n", subject, len(data), data)
	w.flush(t)
}
