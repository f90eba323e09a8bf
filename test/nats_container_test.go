//go:build docker

package test

import (
	"fmt"
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
	"statusq/test/programs"
)

// broker is a NATS server in a container, configured as deploy/nats.conf says, with its data outside the container.
type broker struct {
	*testcontainers.DockerContainer
	url string
}

func startBroker(t *testing.T) *broker {
	t.Helper()
	image := t.TempDir()
	programs.CopyFile(t, filepath.Join(image, "nats-server"), filepath.Join(programs.Bin, "nats-server"), 0o755)
	programs.CopyFile(t, filepath.Join(image, "nats.conf"), "../deploy/nats.conf", 0o644)
	programs.WriteFile(t, filepath.Join(image, "Dockerfile"),
		"FROM scratch\nCOPY nats-server nats.conf /\nENTRYPOINT [\"/nats-server\", \"-c\", \"/nats.conf\"]\n")

	data := t.TempDir()
	address := programs.FreeAddress(t) // the same before and after a restart, as a server's is
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
	kintone := programs.StartSimulator(t, records)
	config := filepath.Join(t.TempDir(), "statusq.yaml")
	programs.WriteFile(t, config, "sites: {main: {requestsPerSecond: 4}}\n") // slow enough to be met in mid-work
	worker := programs.Start(t, "worker", []string{
		"KINTONE_BASE_URL=" + kintone.URL, "KINTONE_API_TOKEN=" + kintone.Token, "STATUSQ_NATS_URL=" + nats.url,
	}, "--config", config)
	env := []string{"STATUSQ_NATS_URL=" + nats.url}
	q := programs.Connect(t, nats.url)

	// While the broker is away, two requests wait for an answer that will never come, although they were carried out.
	kintone.Fail(t, `{"kind":"lostReply","applied":true,"method":"PUT","count":2}`)
	send(t, env, app, "Start", records)
	kintone.WaitForCommits(t, worker, 300)
	nats.restart(t, 10*time.Second, 2*time.Second)
	if n := len(kintone.Commits(t)); n >= records {
		t.Fatalf("%d of %d jobs were done before the broker was back: its stop met nothing", n, records)
	}

	send(t, env, app, "Approve", records)
	kintone.WaitForCommits(t, worker, records+300)
	nats.restart(t, 0, time.Second)
	if n := len(kintone.Commits(t)); n >= 2*records {
		t.Fatalf("%d of %d jobs were done before the broker was back: its death met nothing", n, 2*records)
	}

	kintone.WaitForCommits(t, worker, 2*records)
	checkResults(t, q, app, 2*records)
	worker.Stop(t)
	checkCommits(t, kintone.Commits(t), records)
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
	programs.WriteFile(t, file, csv.String())
	programs.Call(t, "enqueue", env, "send", "--app", fmt.Sprint(app), "--file", file, "--campaign", action)
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
func checkCommits(t *testing.T, commits []programs.Commit, records int) {
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
