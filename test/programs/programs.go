// Package programs builds and runs the programs of this module for tests that look at them from outside: worker, enqueue,
// nats-server and the simulated kintone, each a process of its own.
package programs

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"statusq/internal/queue"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Bin is where the programs are: worker, enqueue, nats-server. They are static, so that they also run in an image with
// nothing else.
var Bin string

// Main builds the programs, with the build tags given, and runs the tests of a package. It is the whole of TestMain.
func Main(m *testing.M, tags ...string) {
	code, err := buildAndRun(m, tags)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M, tags []string) (code int, err error) {
	if Bin, err = os.MkdirTemp("", "statusq-test-"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(Bin)
	// Built where go.mod is, so that a module of its own for tests ships what we ship.
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "statusq").Output()
	if err != nil {
		return 0, fmt.Errorf("find the module: %w", err)
	}
	// The server is the one of go.mod, the version that the worker embeds.
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-tags", strings.Join(tags, ","), "-o", Bin+"/",
		"statusq/cmd/worker", "statusq/cmd/enqueue")
	server := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(Bin, "nats-server"),
		"github.com/nats-io/nats-server/v2")
	for _, c := range []*exec.Cmd{cmd, server} {
		c.Dir = strings.TrimSpace(string(root))
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%v: %w\n%s", c.Args, err, out)
		}
	}
	return m.Run(), nil
}

// Process is a running program.
type Process struct {
	name   string
	Cmd    *exec.Cmd
	first  chan string // the first line of standard output
	Exited chan struct{}
	Err    error // of its end; read after exited

	mu     sync.Mutex // guards output
	output bytes.Buffer
}

// Start runs a program of this module until the test ends. If the test has failed, what the program said is shown.
func Start(t *testing.T, name string, env []string, args ...string) *Process {
	t.Helper()
	p := &Process{name: name, first: make(chan string, 1), Exited: make(chan struct{})}
	p.Cmd = exec.Command(filepath.Join(Bin, name), args...)
	p.Cmd.Env = clean(t, env)
	p.Cmd.Stderr = p
	stdout, err := p.Cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // waited for by stop
		defer close(p.Exited)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			select {
			case p.first <- lines.Text():
			default:
			}
			fmt.Fprintln(p, lines.Text())
		}
		p.Err = p.Cmd.Wait()
	}()
	t.Cleanup(func() {
		p.Stop(t)
		if t.Failed() {
			t.Logf("%s said:\n%s", name, p.Said())
		}
	})
	return p
}

// Write takes what the program says.
func (p *Process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.Write(b)
}

// Said is what the program has said so far.
func (p *Process) Said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// Stop asks the program to end, waits for that, and says so if it ends badly. A second call does nothing.
func (p *Process) Stop(t *testing.T) {
	t.Helper()
	select {
	case <-p.Exited:
		return
	default:
	}
	p.Cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.Exited:
		if p.Err != nil {
			t.Errorf("%s ended with %v after SIGTERM, want exit code 0", p.name, p.Err)
		}
	case <-time.After(30 * time.Second):
		p.Cmd.Process.Kill()
		<-p.Exited
		t.Errorf("%s did not end within 30 s of SIGTERM", p.name)
	}
}

// Greeting decodes the JSON line that the program begins with.
func (p *Process) Greeting(t *testing.T, into any) {
	t.Helper()
	select {
	case line := <-p.first:
		if err := json.Unmarshal([]byte(line), into); err != nil {
			t.Fatalf("%s began with %q: %v", p.name, line, err)
		}
	case <-p.Exited:
		t.Fatalf("%s ended at once: %v\n%s", p.name, p.Err, p.Said())
	case <-time.After(30 * time.Second):
		t.Fatalf("%s said nothing for 30 s", p.name)
	}
}

// Call runs a program to its end and returns what it wrote to standard output. It must succeed.
func Call(t *testing.T, name string, env []string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(Bin, name), args...)
	cmd.Env = clean(t, env)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, &stderr)
	}
	return out
}

// clean is an environment with nothing of the tester's: a KINTONE_API_TOKEN of theirs must not reach a program here.
func clean(t *testing.T, env []string) []string {
	t.Helper()
	return append([]string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}, env...)
}

// Simulated is a `worker simulate` in a process of its own.
type Simulated struct {
	URL   string `json:"url"`
	Token string `json:"token"`
	Admin string `json:"admin"`
}

// Commit is a line of the simulator's log, as far as it matters here.
type Commit struct {
	N       int
	App     int64
	Record  int64
	Action  string
	Foreign bool
}

// StartSimulator runs a simulator with an app 5 of so many records, and what else the flags say.
func StartSimulator(t *testing.T, records int, flags ...string) Simulated {
	t.Helper()
	var s Simulated
	args := append([]string{"simulate", "--listen", "127.0.0.1:0", "--records", fmt.Sprint(records)}, flags...)
	Start(t, "worker", nil, args...).Greeting(t, &s)
	return s
}

// Commits returns every action that kintone carried out, in order.
func (s Simulated) Commits(t *testing.T) []Commit {
	t.Helper()
	resp, err := http.Get(s.Admin + "/commits?since=0")
	if err != nil {
		t.Fatalf("ask the simulator: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("ask the simulator: %s", resp.Status)
	}
	var all []Commit
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		var c Commit
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatalf("the simulator's log holds %q: %v", lines.Text(), err)
		}
		all = append(all, c)
	}
	return all
}

// Fail makes the simulator misbehave.
func (s Simulated) Fail(t *testing.T, fault string) {
	t.Helper()
	resp, err := http.Post(s.Admin+"/faults", "application/json", strings.NewReader(fault))
	if err != nil {
		t.Fatalf("ask the simulator: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Fatalf("ask the simulator for %s: %s", fault, resp.Status)
	}
}

// WaitForCommits waits until kintone has carried out at least n actions, as long as the worker lives.
func (s Simulated) WaitForCommits(t *testing.T, worker *Process, n int) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		have := len(s.Commits(t))
		if have >= n {
			return
		}
		select {
		case <-worker.Exited:
			t.Fatalf("the worker ended (%v) after %d of %d actions", worker.Err, have, n)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("kintone has carried out %d actions after 2 min, want %d", have, n)
		}
	}
}

// Connect opens the queue to look at it, with patience until the worker has made it.
func Connect(t *testing.T, url string) *queue.Queue {
	t.Helper()
	q, err := queue.Connect(t.Context(), queue.Config{URL: url, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		_, err := q.Backlog(t.Context(), "main")
		if err == nil {
			return q
		}
		if time.Now().After(deadline) {
			t.Fatalf("the worker made no queue: %v", err)
		}
	}
}

// FreeAddress is a loopback address that nobody listened on a moment ago.
func FreeAddress(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// WriteFile writes a text file that everybody may read.
func WriteFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// CopyFile copies a file.
func CopyFile(t *testing.T, to, from string, mode os.FileMode) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, mode); err != nil {
		t.Fatal(err)
	}
}
