//go:build docker

package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bin is where the programs are: worker, enqueue, nats-server. They are static, so that they also run in an image with
// nothing else.
var bin string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (code int, err error) {
	if bin, err = os.MkdirTemp("", "statusq-test-"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(bin)
	// The server is the one of go.mod, the version that the worker embeds.
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin+"/",
		"statusq/cmd/worker", "statusq/cmd/enqueue")
	server := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(bin, "nats-server"),
		"github.com/nats-io/nats-server/v2")
	for _, c := range []*exec.Cmd{cmd, server} {
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%v: %w\n%s", c.Args, err, out)
		}
	}
	return m.Run(), nil
}

// process is a running program.
type process struct {
	name   string
	cmd    *exec.Cmd
	first  chan string // the first line of standard output
	exited chan struct{}
	err    error // of its end; read after exited

	mu     sync.Mutex // guards output
	output bytes.Buffer
}

// start runs a program of this module until the test ends. If the test has failed, what the program said is shown.
func start(t *testing.T, name string, env []string, args ...string) *process {
	t.Helper()
	p := &process{name: name, first: make(chan string, 1), exited: make(chan struct{})}
	p.cmd = exec.Command(filepath.Join(bin, name), args...)
	p.cmd.Env = clean(t, env)
	p.cmd.Stderr = p
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // waited for by stop
		defer close(p.exited)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			select {
			case p.first <- lines.Text():
			default:
			}
			fmt.Fprintln(p, lines.Text())
		}
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.stop(t)
		if t.Failed() {
			t.Logf("%s said:\n%s", name, p.said())
		}
	})
	return p
}

// Write takes what the program says.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.Write(b)
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// stop asks the program to end, waits for that, and says so if it ends badly. A second call does nothing.
func (p *process) stop(t *testing.T) {
	t.Helper()
	select {
	case <-p.exited:
		return
	default:
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		if p.err != nil {
			t.Errorf("%s ended with %v after SIGTERM, want exit code 0", p.name, p.err)
		}
	case <-time.After(30 * time.Second):
		p.cmd.Process.Kill()
		<-p.exited
		t.Errorf("%s did not end within 30 s of SIGTERM", p.name)
	}
}

// greeting decodes the JSON line that the program begins with.
func (p *process) greeting(t *testing.T, into any) {
	t.Helper()
	select {
	case line := <-p.first:
		if err := json.Unmarshal([]byte(line), into); err != nil {
			t.Fatalf("%s began with %q: %v", p.name, line, err)
		}
	case <-p.exited:
		t.Fatalf("%s ended at once: %v\n%s", p.name, p.err, p.said())
	case <-time.After(30 * time.Second):
		t.Fatalf("%s said nothing for 30 s", p.name)
	}
}

// call runs a program to its end and returns what it wrote to standard output. It must succeed.
func call(t *testing.T, name string, env []string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, name), args...)
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
