package network

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"statusq/test/programs"
)

// sentWaves make a file of four batches.
const sentWaves = 4

// What the network between enqueue and NATS can do in the middle of a file: the batch that it hit is published again under
// the same ids, so that each job acts once.
func TestTheNetworkFromEnqueue(t *testing.T) {
	t.Parallel()
	for _, f := range []fault{
		{name: "batches cut", begin: up(rule{cut: inTheMiddle, share: 0.5}), on: 2 * time.Second},
		{name: "answers cut", begin: down(rule{cut: atOnce, share: 0.5}), on: 2 * time.Second},
		{name: "batches lost, then cut", begin: up(rule{lose: true}), end: passAnew, on: 2 * time.Second},
		{name: "answers lost, then cut", begin: down(rule{lose: true}), end: passAnew, on: 2 * time.Second},
		{name: "batches late", begin: late},
		{name: "stalled for longer than an attempt waits", begin: both(rule{hold: true}), on: 6 * time.Second},
		{name: "gone and back", begin: away, end: back, on: 2 * time.Second},
		{name: "sliced", begin: sliced, end: unsliced, on: 2 * time.Second},
		{name: "slow", begin: slow, end: unsliced, on: 2 * time.Second},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setting{})
			w.narrow(t)
			f = f.withDefaults()
			begin := time.Now()
			for n := 0; n == 0 || time.Since(begin) < longer(t); n++ {
				campaign, file := w.write(t, sentWaves)
				enqueue := w.startSend(t, campaign, file)
				w.accepted(t)
				f.begin(t, w.fromUs)
				enqueue.goesOn(t)
				time.Sleep(f.on)
				f.end(t, w.fromUs)
				if code := enqueue.end(t); code != 0 {
					t.Fatalf("enqueue ended with exit code %d, want 0", code)
				}
				w.sent(t, enqueue.stdout.Bytes())
				w.settle(t, campaign, sentWaves*perWave)
			}
			t.Logf("%d jobs: the wires did something %d times", (w.waves-1)*perWave, w.fromUs.met())
			w.check(t)
			w.checkFiles(t)
		})
	}
}

// A sender whose patience ends says so, and the same file can be sent again.
func TestASendThatWasGivenUpCanBeRepeated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{})
	w.narrow(t)
	campaign, file := w.write(t, sentWaves)
	enqueue := w.startSend(t, campaign, file)
	w.accepted(t)
	enqueue.goesOn(t)
	w.fromUs.down.set(rule{lose: true}) // what is sent arrives, and nobody hears of it
	if code := enqueue.end(t); code != 6 || !strings.Contains(enqueue.stderr.String(), "sending the same file again is safe") {
		t.Errorf("enqueue ended with exit code %d, want 6 and advice; it said %s", code, &enqueue.stderr)
	}
	passAnew(t, w.fromUs)
	enqueue = w.startSend(t, campaign, file)
	if code := enqueue.end(t); code != 0 {
		t.Fatalf("enqueue ended with exit code %d when it was repeated, want 0", code)
	}
	w.sent(t, enqueue.stdout.Bytes())
	w.settle(t, campaign, sentWaves*perWave)
	w.check(t)
}

// narrow makes the way from enqueue to NATS so narrow that a file takes seconds to send.
func (w *world) narrow(t *testing.T) {
	t.Helper()
	w.fromUs.add(t, `{"name": "narrow", "type": "bandwidth", "stream": "upstream", "attributes": {"rate": 80}}`)
}

// accepted waits until the log has taken the first batch of a file.
func (w *world) accepted(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		backlog, err := w.q.Backlog(t.Context(), "main")
		if err != nil {
			t.Fatal(err)
		}
		if backlog[bulkApp] > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing has come into the log within 30 s")
		}
	}
}

// sender is an enqueue that is sending a file.
type sender struct {
	stdout, stderr bytes.Buffer // read after done
	cmd            *exec.Cmd
	done           chan struct{}
}

func (w *world) startSend(t *testing.T, campaign, file string) *sender {
	t.Helper()
	s := &sender{done: make(chan struct{})}
	s.cmd = exec.CommandContext(t.Context(), filepath.Join(programs.Bin, "enqueue"), "send", "--json", "--file", file, "--campaign", campaign)
	s.cmd.Env = append(w.toSend(), "HOME="+t.TempDir())
	s.cmd.Stdout, s.cmd.Stderr = &s.stdout, &s.stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // waited for by the cleanup; t's context has ended by then
		defer close(s.done)
		_ = s.cmd.Wait() // its exit code tells
	}()
	t.Cleanup(func() {
		<-s.done
		if t.Failed() {
			t.Logf("enqueue said:\n%s%s", &s.stdout, &s.stderr)
		}
	})
	return s
}

// goesOn makes sure that there is something left to send.
func (s *sender) goesOn(t *testing.T) {
	t.Helper()
	select {
	case <-s.done:
		t.Fatal("enqueue had sent everything before the fault began")
	default:
	}
}

// end waits for the end of enqueue, which gives up by itself after half a minute without progress.
func (s *sender) end(t *testing.T) (code int) {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(90 * time.Second):
		t.Fatal("enqueue has not ended within 90 s of the fault")
	}
	return s.cmd.ProcessState.ExitCode()
}
