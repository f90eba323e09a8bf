//go:build docker

package test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"
	"github.com/testcontainers/testcontainers-go/wait"

	"statusq/internal/queue"
)

// broker is a NATS server in a container, configured as deploy/nats.conf says, with its data outside the container.
type broker struct {
	*testcontainers.DockerContainer
	url string
}

func startBroker(t *testing.T) *broker {
	t.Helper()
	image := t.TempDir()
	copyFile(t, filepath.Join(image, "nats-server"), filepath.Join(bin, "nats-server"), 0o755)
	copyFile(t, filepath.Join(image, "nats.conf"), "../deploy/nats.conf", 0o644)
	writeFile(t, filepath.Join(image, "Dockerfile"),
		"FROM scratch\nCOPY nats-server nats.conf /\nENTRYPOINT [\"/nats-server\", \"-c\", \"/nats.conf\"]\n")

	data := t.TempDir()
	address := freeAddress(t) // the same before and after a restart, as a server's is
	client := network.MustParsePort("4222/tcp")
	c, err := testcontainers.Run(t.Context(), "",
		testcontainers.WithDockerfile(testcontainers.FromDockerfile{Context: image}),
		testcontainers.WithLogger(log.TestLogger(t)),
		testcontainers.WithExposedPorts("4222/tcp", "8222/tcp"),
		testcontainers.WithConfigModifier(func(c *container.Config) {
			c.User = fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()) // whoever tests can remove the data
		}),
		testcontainers.WithHostConfigModifier(func(c *container.HostConfig) {
			c.PortBindings = network.PortMap{client: {{HostIP: address.Addr(), HostPort: fmt.Sprint(address.Port())}}}
			c.Binds = []string{data + ":/data"}
			c.ReadonlyRootfs = true
		}),
		testcontainers.WithWaitStrategy(wait.ForHTTP("/healthz?js-enabled-only=true").WithPort("8222/tcp").WithStartupTimeout(time.Minute)),
	)
	testcontainers.CleanupContainer(t, c)
	if err != nil {
		t.Fatalf("start broker: %v", err)
	}
	return &broker{DockerContainer: c, url: "nats://" + address.String()}
}

// restart ends the server, gently or at once, leaves it away for a while, and starts it on the same data.
func (b *broker) restart(t *testing.T, grace, away time.Duration) {
	t.Helper()
	if err := b.Stop(t.Context(), &grace); err != nil {
		t.Fatalf("stop broker: %v", err)
	}
	time.Sleep(away)
	if err := b.Start(t.Context()); err != nil {
		t.Fatalf("start broker again: %v", err)
	}
}

// A worker goes on after its broker has been stopped, and after it has been killed: every job ends once, every action
// happened once and in its order, and nothing is left over.
func TestJobsSurviveTheirBroker(t *testing.T) {
	const app, records = 5, 1500 // each record is started, then approved: 3,000 jobs
	nats := startBroker(t)
	kintone := startSimulator(t, records)
	config := filepath.Join(t.TempDir(), "statusq.yaml")
	writeFile(t, config, "sites: {main: {requestsPerSecond: 4}}\n") // slow enough to be met in mid-work
	worker := start(t, "worker", []string{
		"KINTONE_BASE_URL=" + kintone.URL, "KINTONE_API_TOKEN=" + kintone.Token, "STATUSQ_NATS_URL=" + nats.url,
	}, "--config", config)
	env := []string{"STATUSQ_NATS_URL=" + nats.url}
	q := connect(t, nats.url)

	// While the broker is away, two requests wait for an answer that will never come, although they were carried out.
	kintone.fail(t, `{"kind":"lostReply","applied":true,"method":"PUT","count":2}`)
	send(t, env, app, "Start", records)
	kintone.waitForCommits(t, worker, 300)
	nats.restart(t, 10*time.Second, 2*time.Second)
	if n := len(kintone.commits(t)); n >= records {
		t.Fatalf("%d of %d jobs were done before the broker was back: its stop met nothing", n, records)
	}

	send(t, env, app, "Approve", records)
	kintone.waitForCommits(t, worker, records+300)
	nats.restart(t, 0, time.Second)
	if n := len(kintone.commits(t)); n >= 2*records {
		t.Fatalf("%d of %d jobs were done before the broker was back: its death met nothing", n, 2*records)
	}

	kintone.waitForCommits(t, worker, 2*records)
	checkResults(t, q, app, 2*records)
	worker.stop(t)
	checkCommits(t, kintone.commits(t), records)
	checkNothingIsLeft(t, q, app)
}

// send publishes one job for every record, with ids that say what they are for.
func send(t *testing.T, env []string, app int, action string, records int) {
	t.Helper()
	var csv strings.Builder
	csv.WriteString("job,record,action\n")
	for r := range records {
		fmt.Fprintf(&csv, "%s-%d,%d,%s\n", action, r+1, r+1, action)
	}
	file := filepath.Join(t.TempDir(), action+".csv")
	writeFile(t, file, csv.String())
	call(t, "enqueue", env, "send", "--app", fmt.Sprint(app), "--file", file, "--campaign", action)
}

// checkResults waits until so many jobs have ended, and for a while longer, and says which ended badly or twice.
func checkResults(t *testing.T, q *queue.Queue, app, want int) {
	t.Helper()
	ended := map[string]int{}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		clear(ended)
		for r, err := range q.Results(t.Context(), queue.ResultFilter{Site: "main", App: int64(app)}) {
			if err != nil {
				t.Fatalf("read results: %v", err)
			}
			ended[r.Job]++
			if r.Outcome != queue.Applied {
				t.Errorf("job %s ended %s (%s %s), want %s", r.Job, r.Outcome, r.Reason, r.Code, queue.Applied)
			}
		}
		if len(ended) >= want || t.Failed() || time.Now().After(deadline) {
			break
		}
	}
	if len(ended) != want {
		t.Errorf("%d jobs have ended, want %d", len(ended), want)
	}
	for job, n := range ended {
		if n != 1 {
			t.Errorf("job %s ended %d times, want once", job, n)
		}
	}
}

// checkCommits compares kintone's own account with what was asked for.
func checkCommits(t *testing.T, commits []commit, records int) {
	t.Helper()
	actions := map[int64][]string{}
	for _, c := range commits {
		if c.Foreign {
			t.Errorf("record %d: somebody else did %s", c.Record, c.Action)
		}
		actions[c.Record] = append(actions[c.Record], c.Action)
	}
	for r := range int64(records) {
		if got := strings.Join(actions[r+1], " "); got != "Start Approve" {
			t.Errorf("record %d had the actions %q, want %q", r+1, got, "Start Approve")
		}
	}
	if len(commits) != 2*records {
		t.Errorf("kintone committed %d actions, want %d", len(commits), 2*records)
	}
}

func checkNothingIsLeft(t *testing.T, q *queue.Queue, app int) {
	t.Helper()
	for d, err := range q.Dead(t.Context(), queue.DeadFilter{Site: "main"}) {
		if err != nil {
			t.Fatalf("read dead letters: %v", err)
		}
		t.Errorf("job %s is dead (%s %s), want none", d.Job.ID, d.Reason, d.Message)
	}
	slots, err := q.Slots(t.Context(), "main", int64(app))
	if err != nil {
		t.Fatalf("read slots: %v", err)
	}
	for _, s := range slots {
		if s.Slot.Request != nil {
			t.Errorf("slot %d holds request %s after all jobs have ended", s.N, s.Slot.Request.ID)
		}
	}
	backlog, err := q.Backlog(t.Context(), "main")
	if err != nil {
		t.Fatalf("read backlog: %v", err)
	}
	if n := backlog[int64(app)]; n > 0 {
		t.Errorf("%d jobs are still in the log, want none", n)
	}
}

// simulated is a `worker simulate` in a process of its own.
type simulated struct {
	URL   string `json:"url"`
	Token string `json:"token"`
	Admin string `json:"admin"`
}

// commit is a line of the simulator's log, as far as it matters here.
type commit struct {
	N       int
	Record  int64
	Action  string
	Foreign bool
}

func startSimulator(t *testing.T, records int) simulated {
	t.Helper()
	var s simulated
	start(t, "worker", nil, "simulate", "--listen", "127.0.0.1:0", "--records", fmt.Sprint(records)).greeting(t, &s)
	return s
}

// commits returns every action that kintone carried out, in order.
func (s simulated) commits(t *testing.T) []commit {
	t.Helper()
	resp, err := http.Get(s.Admin + "/commits?since=0")
	if err != nil {
		t.Fatalf("ask the simulator: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("ask the simulator: %s", resp.Status)
	}
	var all []commit
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		var c commit
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatalf("the simulator's log holds %q: %v", lines.Text(), err)
		}
		all = append(all, c)
	}
	return all
}

// fail makes the simulator misbehave.
func (s simulated) fail(t *testing.T, fault string) {
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

// waitForCommits waits until kintone has carried out at least n actions, as long as the worker lives.
func (s simulated) waitForCommits(t *testing.T, worker *process, n int) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		have := len(s.commits(t))
		if have >= n {
			return
		}
		select {
		case <-worker.exited:
			t.Fatalf("the worker ended (%v) after %d of %d actions", worker.err, have, n)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("kintone has carried out %d actions after 2 min, want %d", have, n)
		}
	}
}

// connect opens the queue to look at it, with patience until the worker has made it.
func connect(t *testing.T, url string) *queue.Queue {
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

// freeAddress is a loopback address that nobody listened on a moment ago.
func freeAddress(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, to, from string, mode os.FileMode) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, mode); err != nil {
		t.Fatal(err)
	}
}
