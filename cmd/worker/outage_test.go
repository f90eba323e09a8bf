package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
	"statusq/internal/queue/embedded"
)

// server starts a NATS server on the place's directory, at the address it had before if there was one.
func (p *place) server() *embedded.Server {
	p.t.Helper()
	listen := "127.0.0.1:0"
	if f, err := queue.ReadClientFile(p.dir); err == nil && f.URL != "" {
		listen = strings.TrimPrefix(f.URL, "nats://")
	}
	s, err := embedded.Start(embedded.Config{Dir: p.dir, Listen: listen, Sync: embedded.SyncNever})
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// outside is the URL of the place's server for a worker that starts none, with its password.
func (p *place) outside() string {
	p.t.Helper()
	f, err := queue.ReadClientFile(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	return fmt.Sprintf("nats://%s:%s@%s", f.User, f.Password.Reveal(), strings.TrimPrefix(f.URL, "nats://"))
}

func TestWithoutNATSTheWorkerDoesNotStart(t *testing.T) {
	t.Parallel()
	p := newPlace(t, 1)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	url := "nats://statusq:geheim@" + closed.Addr().String()
	for _, command := range []string{"run", "setup"} {
		o := p.worker(command, "--nats-url", url)
		o.want(t, exitNoQueue, "worker: cannot reach NATS", "!geheim", "!panic")
		if n := strings.Count(o.err, "\n"); n != 1 {
			t.Errorf("%s says %d lines, want one:\n%s", command, n, o.err)
		}
	}
	p.worker("check", "--nats-url", url).want(t, exitError, "BAD", "cannot reach NATS", "STATUSQ_NATS_URL", "!geheim")

	p.worker("setup").want(t, exitUsage, "--nats-url")
	s := p.server()
	defer s.Close()
	wrong := strings.Replace(url, closed.Addr().String(), strings.TrimPrefix(s.URL(), "nats://"), 1)
	p.worker("--nats-url", wrong).want(t, exitNoQueue, "NATS refused the credential", "!geheim")
	p.worker("--nats-url", "nats://statusq:geheim@[").want(t, exitUsage, "--nats-url is not a URL", "!geheim")
	p.worker("check", "--nats-url", "nats://statusq:geheim@[").want(t, exitError, "--nats-url is not a URL", "!geheim")
	p.worker("setup", "--nats-url", p.outside()).want(t, exitError, "STATUSQ_JOBS", "missing", "--apply")
	p.worker("setup", "--nats-url", p.outside(), "--apply").want(t, exitDone, "STATUSQ_LEDGER", "!BAD")
	p.worker("setup", "--nats-url", strings.TrimPrefix(p.outside(), "nats://")).want(t, exitDone, "!BAD")
}

// What stands otherwise than it is asked for is told by whoever asks for it: setup changes it, a worker leaves it.
func TestReplicasAndSizeThatDifferAreTold(t *testing.T) {
	t.Parallel()
	p := newPlace(t, 1)
	s := p.server()
	defer s.Close()
	setup := func(args ...string) output {
		return p.worker(append([]string{"setup", "--nats-url", p.outside()}, args...)...)
	}
	setup("--apply", "--replicas", "3").want(t, exitError, "3 are wanted", "single server")
	setup("--replicas", "9").want(t, exitUsage, "--replicas: 1 to 5")
	setup("--log-bytes", "1").want(t, exitUsage, "--log-bytes: at least 65536")
	setup("--apply").want(t, exitDone, "!BAD", "replicas: 1")
	setup("--replicas", "3").want(t, exitError, "BAD  STATUSQ_JOBS", "BAD  statusq_leases", "replicas: 1, and not 3", "single server", "leave --replicas out", "!--apply")
	setup("--apply", "--replicas", "3").want(t, exitError, "3 are wanted", "single server", "!ok ")

	bytes := []string{"--log-bytes", "1048576"}
	setup(bytes...).want(t, exitError, "BAD  STATUSQ_JOBS", "max bytes: 10737418240, and not 1048576", "--apply")
	p.worker(append([]string{"check", "--nats-url", p.outside()}, bytes...)...).want(t, exitError, "BAD", "and not 1048576", "worker setup --apply")
	w := p.start(append([]string{"--nats-url", p.outside()}, bytes...)...)
	w.stop()
	if said := w.err.String(); !strings.Contains(said, "left as it is") || !strings.Contains(said, "max bytes: 10737418240, and not 1048576") {
		t.Errorf("the worker does not say that the log is larger than it is told to be:\n%s", said)
	}
	p.worker(append([]string{"setup", "--apply"}, bytes...)...).want(t, exitDone, "of 1048576,", "!BAD") // of the server that runs here
	setup(bytes...).want(t, exitDone, "!BAD")

	p.worker("--replicas", "3").want(t, exitUsage, "--replicas", "embedded server keeps one copy")
}

func TestWithoutAPortTheWorkerDoesNotStart(t *testing.T) {
	t.Parallel()
	p := newPlace(t, 1)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p.worker("--nats-listen", taken.Addr().String()).want(t, exitError, taken.Addr().String()+" is taken", "use that server by its URL")
	p.worker("--nats-listen", "0.0.0.0:4222").want(t, exitUsage, "is not loopback")
}

func TestTwoWorkersDoNotShareADirectory(t *testing.T) {
	t.Parallel()
	p := newPlace(t, 10)
	w := p.start()
	p.worker().want(t, exitNoQueue, p.dir, "in use by another server", "process "+strconv.Itoa(w.cmd.Process.Pid))
	// The first one has not noticed.
	p.enqueue(one("--wait", "--timeout", "20s")...).want(t, exitDone)
	w.stop()
	if n := strings.Count(w.err.String(), `"msg":"owner"`); n != 1 {
		t.Errorf("the first worker took its site %d times, want once", n)
	}
}

func TestTheWorkerOutlivesNATS(t *testing.T) {
	t.Parallel()
	const n = 3000
	p := newPlace(t, n)
	s := p.server()
	t.Cleanup(func() { s.Close() })
	p.slow(40 * time.Millisecond)
	w := p.start("--nats-url", p.outside())
	p.enqueue("send", "--file", p.file(n, "Start"), "--campaign", "c").want(t, exitDone)
	eventually(t, 20*time.Second, "the worker is at it", func() bool { return p.sim.CommitCount() > 500 })

	s.Close()
	done := p.sim.CommitCount()
	time.Sleep(2 * time.Second)
	if done >= n-500 {
		t.Fatalf("%d of %d jobs had run when NATS went away: the test does not bite", done, n)
	}
	p.enqueue(one()...).want(t, exitNoQueue, "cannot reach NATS")
	s = p.server()

	p.enqueue("watch", "c", "--timeout", "30s").want(t, exitDone, fmt.Sprintf("%d of %d jobs ended", n, n))
	p.once(n, "Start")
	w.stop()
	if !strings.Contains(w.err.String(), "connection to NATS lost") || !strings.Contains(w.err.String(), "connection to NATS restored") {
		t.Error("the worker did not say that NATS went away and came back")
	}
}

func TestAFullLogTakesWhatFitsAndTheRestLater(t *testing.T) {
	t.Parallel()
	const n = 2000
	p := newPlace(t, n)
	s := p.server()
	t.Cleanup(s.Close)
	p.worker("setup", "--nats-url", p.outside(), "--apply", "--log-bytes", strconv.Itoa(300<<10)).want(t, exitDone)

	send := []string{"send", "--file", p.file(n, "Start"), "--campaign", "c"}
	o := p.enqueue(send...)
	o.want(t, 4, "the log is full", "of 2000 jobs accepted", "sending the same file again is safe")
	said := regexp.MustCompile(`(\d+) of 2000 jobs accepted`).FindStringSubmatch(o.err)
	if said == nil {
		t.Fatal("it is not said how many were accepted")
	}
	accepted, _ := strconv.Atoi(said[1])
	if held := backlog(t, p.queue(), testApp); accepted != held || accepted == 0 || accepted == n {
		t.Errorf("%d jobs are said to be accepted, the log holds %d of %d", accepted, held, n)
	}
	// Again while it is full: nothing new, and no doubt about it.
	p.enqueue(send...).want(t, 4, "the log is full", said[0])

	w := p.start("--nats-url", p.outside())
	q := p.queue()
	eventually(t, 20*time.Second, "the worker drains the log", func() bool { return backlog(t, q, testApp) == 0 })
	if len(results(t, q, "")) != accepted {
		t.Errorf("%d jobs have ended, want the %d that were accepted", len(results(t, q, "")), accepted)
	}
	for i := 0; ; i++ {
		// A log this small fills faster than it drains, so it may take more than one turn.
		o := p.enqueue(append(send, "--wait", "--timeout", "30s")...)
		if o.code == exitDone {
			break
		}
		if o.code != 4 || i == 20 {
			o.want(t, exitDone)
			t.FailNow()
		}
		eventually(t, 20*time.Second, "the worker drains the log", func() bool { return backlog(t, q, testApp) == 0 })
	}
	w.stop()
	p.once(n, "Start")
}

// awaitCall waits for the next status call.
func (p *place) awaitCall(t *testing.T) {
	t.Helper()
	calls := func() int { return p.sim.Requests().Kinds["PUT records/status.json"] }
	before := calls()
	eventually(t, 10*time.Second, "a status call is out", func() bool { return calls() > before })
}

// slow makes every status call take a while.
func (p *place) slow(d time.Duration) { p.sim.SetFault(delayed(d)) }

// The ways to end a worker in the middle of its work. Each time the next worker does the rest.
func TestAWorkerThatIsStoppedLosesNothing(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *place, *process){
		"asked to": func(t *testing.T, p *place, w *process) {
			w.stop()
			if !strings.Contains(w.err.String(), "stopping: requests in hand finish") {
				t.Error("the worker did not say that it stops")
			}
		},
		"asked twice": func(t *testing.T, p *place, w *process) {
			p.slow(5 * time.Second) // so that requests in hand would take a while to finish
			p.awaitCall(t)
			w.cmd.Process.Signal(syscall.SIGTERM)
			w.await("that it stops", "stopping: requests in hand finish")
			time.Sleep(300 * time.Millisecond)
			select {
			case <-w.exited:
				t.Fatal("the worker did not wait for the requests in hand")
			default:
			}
			began := time.Now()
			w.cmd.Process.Signal(syscall.SIGTERM)
			w.wait()
			if took := time.Since(began); took > time.Second {
				t.Errorf("the second signal took %v", took)
			}
			if s := w.cmd.ProcessState.Sys().(syscall.WaitStatus); !s.Signaled() || s.Signal() != syscall.SIGTERM {
				t.Errorf("the worker ended with %v, want by the signal", w.cmd.ProcessState)
			}
		},
		"asked to, with requests that take too long": func(t *testing.T, p *place, w *process) {
			p.slow(5 * time.Second)
			p.awaitCall(t)
			w.cmd.Process.Signal(syscall.SIGTERM)
			if code := w.wait(); code != exitError || !strings.Contains(w.err.String(), "requests in hand did not finish within --drain") {
				t.Errorf("the worker ended with exit code %d", code)
			}
		},
		"killed": func(_ *testing.T, _ *place, w *process) {
			w.cmd.Process.Kill()
			w.wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const n = 3000
			p := newPlace(t, n)
			p.env = []string{"STATUSQ_SYNC=always", "STATUSQ_DRAIN=2s"}
			p.slow(100 * time.Millisecond)
			w := p.start()
			p.enqueue("send", "--file", p.file(n, "Start"), "--campaign", "c").want(t, exitDone)
			eventually(t, 20*time.Second, "the worker is at it", func() bool { return p.sim.CommitCount() > 400 })
			end(t, p, w)
			if done := p.sim.CommitCount(); done > n-500 {
				t.Fatalf("%d of %d jobs had run at the end: the test does not bite", done, n)
			}
			p.slow(0)

			next := p.start()
			p.enqueue("watch", "c", "--timeout", "40s").want(t, exitDone, fmt.Sprintf("%d of %d jobs ended", n, n), strconv.Itoa(n)+"  applied")
			if inherited := strings.Contains(next.err.String(), `"msg":"inherited"`); inherited == (name == "asked to") {
				t.Errorf("the next worker found requests of the last one: %v", inherited)
			}
			next.stop()
			p.once(n, "Start")
			if _, err := os.Stat(filepath.Join(p.dir, queue.ClientFileName)); err != nil {
				t.Error(err)
			}
		})
	}
}

// delayed puts the execution of status calls off.
func delayed(d time.Duration) func(simulator.Request) simulator.Fault {
	return func(r simulator.Request) simulator.Fault {
		if r.Method != "PUT" {
			return simulator.Fault{}
		}
		return simulator.Fault{Delay: d}
	}
}
