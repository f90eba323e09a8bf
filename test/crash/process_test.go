//go:build crash

package crash

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"statusq/test/programs"
)

// process is a worker, or an enqueue, that may be killed at any time.
type process struct {
	cmd     *exec.Cmd
	started time.Time
	exited  chan struct{}
	ended   time.Time // read after exited

	mu   sync.Mutex // guards said
	said bytes.Buffer
}

// spawn runs a program of this module until it ends or the test does.
func spawn(t *testing.T, env []string, program string, args ...string) *process {
	t.Helper()
	p := &process{exited: make(chan struct{}), started: time.Now()}
	p.cmd = exec.Command(filepath.Join(programs.Bin, program), args...)
	p.cmd.Env = append([]string{"HOME=" + os.TempDir(), "PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}, env...)
	p.cmd.Env = slices.DeleteFunc(p.cmd.Env, func(v string) bool { return v == "" })
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // waited for by the cleanup
		_ = p.cmd.Wait() // ProcessState tells
		p.ended = time.Now()
		close(p.exited)
	}()
	t.Cleanup(p.kill)
	return p
}

// Write takes what the process says.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.Write(b)
}

func (p *process) says(text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Contains(p.said.Bytes(), []byte(text))
}

// tail is the end of what the process has said.
func (p *process) tail(n int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.said.Bytes()
	return string(b[max(0, len(b)-n):])
}

// forget keeps the end of what a process that has ended has said.
func (p *process) forget() {
	end := p.tail(4000)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said = *bytes.NewBufferString(end)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// ends waits for the end of the process, and reports whether it came in time.
func (p *process) ends(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.exited:
		return true
	case <-timer.C:
		return false
	}
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) } // it may have ended

// kill ends the process at once, also a stopped one.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.exited
}

// stopped reports whether the process is held by SIGSTOP.
func (p *process) stopped() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid()))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "T")
}

// at names the fail point that the process has reached, "" if none.
func (p *process) at() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, rest, found := strings.Cut(p.said.String(), "failpoint: ")
	name, _, whole := strings.Cut(rest, "\n")
	if !found || !whole {
		return ""
	}
	return name
}
