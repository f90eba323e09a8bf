package network

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"statusq/internal/queue"
	"statusq/test/programs"
)

// Two apps, so that both kinds of call are met: app 5 takes jobs by the hundred, app 6 one at a time.
const (
	bulkApp, bulkRecords     = 5, 100
	singleApp, singleRecords = 6, 24
)

// round is what happens to every record in each wave of jobs. It ends where it began, so that a copy of an earlier wave
// finds the record in a status in which it could act again: nothing but its revision speaks against it.
var round = []string{"Start", "Approve", "Reopen"}

// world is one NATS, one kintone and a worker, each a process, with a proxy wherever two of them meet.
type world struct {
	kintone   programs.Simulated
	broker    string // where NATS is, with nothing in between
	q         *queue.Queue
	toKintone *proxy // from the worker
	toNATS    *proxy // from the worker
	fromUs    *proxy // from enqueue to NATS
	worker    *programs.Process
	files     int // that the worker has open when nothing is under way

	waves int
	want  map[string]string // the reason for which a job has to die, "" for one that has to be applied
}

// setting is how a world differs from the usual one.
type setting struct {
	resets bool                        // connections between worker and kintone end with a reset
	front  func(kintone string) string // what else stands before kintone, and where it is then
}

// newWorld starts everything and lets one wave of jobs go through it while all is well.
func newWorld(t *testing.T, s setting) *world {
	t.Helper()
	w := &world{want: map[string]string{}}
	w.kintone = programs.StartSimulator(t, bulkRecords, "--apps", "2", "--latency", "100ms")
	w.broker = startNATS(t)
	kintone := w.kintone.URL
	if s.front != nil {
		kintone = s.front(kintone)
	}
	w.toKintone = startProxy(t, "kintone", hostOf(t, kintone), s.resets)
	w.toNATS = startProxy(t, "nats", hostOf(t, w.broker), false)
	w.fromUs = startProxy(t, "enqueue", hostOf(t, w.broker), false)
	w.worker = w.startWorker(t, "http://"+w.toKintone.Listen, "nats://"+w.toNATS.Listen)
	w.q = programs.Connect(t, w.broker)
	waitFor(t, w.worker, "owner", 1) // by then it has made all of the queue

	w.settle(t, w.send(t), perWave)
	w.toKintone.drop()
	w.files = leastFiles(t, w.worker, 0)
	return w
}

// startWorker starts a worker that is told where kintone and NATS are.
func (w *world) startWorker(t *testing.T, kintone, nats string) *programs.Process {
	t.Helper()
	config := filepath.Join(t.TempDir(), "statusq.yaml")
	programs.WriteFile(t, config, `sites: {main: {requestsPerSecond: 60,
  defaults: {attempts: 2, backoff: 300ms, dailyRequests: -1}, apps: {"5": {}, "6": {call: single}}}}`)
	return programs.Start(t, "worker", []string{
		"KINTONE_BASE_URL=" + kintone, "KINTONE_API_TOKEN=" + w.kintone.Token, "STATUSQ_NATS_URL=" + nats,
	}, "--config", config)
}

// startNATS starts a server that keeps its data until the test ends, and returns where it is.
func startNATS(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	server := programs.Start(t, "nats-server", nil, "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", filepath.Join(dir, "data"),
		"--ports_file_dir", dir)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		files, err := filepath.Glob(filepath.Join(dir, "*.ports"))
		if err != nil {
			t.Fatal(err)
		}
		var ports struct{ NATS []string }
		if len(files) == 1 {
			text, err := os.ReadFile(files[0])
			if err == nil && json.Unmarshal(text, &ports) == nil && len(ports.NATS) == 1 {
				return ports.NATS[0]
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("nats-server did not say within 30 s where it listens:\n%s", server.Said())
		}
	}
}

// send publishes a wave of jobs through the proxy and returns its campaign: a round for every record and some jobs that
// cannot be done, those in the middle of the rounds of their records.
func (w *world) send(t *testing.T) string {
	t.Helper()
	campaign, file := w.write(t, 1)
	w.sent(t, programs.Call(t, "enqueue", w.toSend(), "send", "--json", "--file", file, "--campaign", campaign))
	return campaign
}

// toSend is the environment of an enqueue that goes through the proxy.
func (w *world) toSend() []string { return []string{"STATUSQ_NATS_URL=nats://" + w.fromUs.Listen} }

// sent reads what enqueue says when it has put everything into the log.
func (w *world) sent(t *testing.T, said []byte) {
	t.Helper()
	var sent struct{ Total, Accepted, Duplicates int }
	if err := json.Unmarshal(said, &sent); err != nil {
		t.Fatalf("enqueue said %q: %v", said, err)
	}
	if sent.Accepted+sent.Duplicates != sent.Total {
		t.Errorf("enqueue has put %d + %d of %d jobs into the log, want all", sent.Accepted, sent.Duplicates, sent.Total)
	}
}

// write writes some waves into one file.
func (w *world) write(t *testing.T, waves int) (campaign, file string) {
	t.Helper()
	var csv strings.Builder
	csv.WriteString("job,app,record,action,revision\n")
	for range waves {
		w.waves++
		w.writeWave(&csv)
	}
	campaign = fmt.Sprintf("wave-%d", w.waves)
	file = filepath.Join(t.TempDir(), campaign+".csv")
	programs.WriteFile(t, file, csv.String())
	return campaign, file
}

func (w *world) writeWave(csv *strings.Builder) {
	add := func(what string, app, record int, action, revision, reason string) {
		job := fmt.Sprintf("%d-%d-%d-%s", w.waves, app, record, what)
		w.want[job] = reason
		fmt.Fprintf(csv, "%s,%d,%d,%s,%s\n", job, app, record, action, revision)
	}
	for _, app := range []struct{ id, records int }{{bulkApp, bulkRecords}, {singleApp, singleRecords}} {
		add("gone", app.id, 1_000_000+w.waves, "Start", "", "record_not_found")
		for r := 1; r <= app.records; r++ {
			for i, action := range round {
				switch {
				case r == 1 && i == 0:
					add("early", app.id, r, "Approve", "", "status_mismatch")
				case r == 2 && i == 1:
					add("nonsense", app.id, r, "Nonsense", "", "action_unknown")
				case r == 3 && i == 2:
					add("moved", app.id, r, "Reopen", "1000000", "revision_conflict")
				}
				add(action, app.id, r, action, "", "")
			}
		}
	}
}

// perWave is how many jobs a wave has, perRound how many of them are to be applied.
var (
	perRound = (bulkRecords + singleRecords) * len(round)
	perWave  = perRound + 2*4
)

// settle waits until all jobs of a campaign have ended. Nothing but a bug stops the worker for longer than two minutes.
func (w *world) settle(t *testing.T, campaign string, jobs int) {
	t.Helper()
	last, at := -1, time.Now()
	for ; ; time.Sleep(200 * time.Millisecond) {
		n := 0
		for _, err := range w.q.Results(t.Context(), queue.ResultFilter{Site: "main", Campaign: campaign}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n >= jobs {
			return
		}
		if n != last {
			last, at = n, time.Now()
		}
		w.alive(t, w.worker)
		if time.Since(at) > 2*time.Minute {
			t.Fatalf("%d of %d jobs of %s have ended, and no other within 2 min", n, jobs, campaign)
		}
	}
}

// begun waits until kintone has carried out something of a wave, but not all.
func (w *world) begun(t *testing.T) {
	t.Helper()
	before := (w.waves - 1) * perRound
	w.kintone.WaitForCommits(t, w.worker, before+20)
	if n := len(w.kintone.Commits(t)); n >= before+perRound {
		t.Errorf("kintone has carried out %d actions, as many as the whole wave has: the fault comes too late, or it did some twice", n)
	}
}

func (w *world) alive(t *testing.T, worker *programs.Process) {
	t.Helper()
	select {
	case <-worker.Exited:
		t.Fatalf("the worker ended: %v", worker.Err)
	default:
	}
}

// check looks at everything when all has ended: what was promised, what kintone says happened, and what is left over.
func (w *world) check(t *testing.T) {
	t.Helper()
	w.alive(t, w.worker)
	w.checkEnds(t)
	w.checkCommits(t)
	for _, app := range []int64{bulkApp, singleApp} {
		slots, err := w.q.Slots(t.Context(), "main", app)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range slots {
			if s.Slot.Request != nil {
				t.Errorf("app %d: slot %d holds request %s after all jobs have ended", app, s.N, s.Slot.Request.ID)
			}
		}
	}
	w.checkLog(t)
}

// checkEnds compares how the jobs ended with how they had to.
func (w *world) checkEnds(t *testing.T) {
	t.Helper()
	wrong := complaints{t: t}
	ended := map[string]int{}
	for r, err := range w.q.Results(t.Context(), queue.ResultFilter{Site: "main"}) {
		if err != nil {
			t.Fatal(err)
		}
		want := queue.Applied
		if w.want[r.Job] != "" {
			want = queue.Dead
		}
		if r.Outcome != want || r.Reason != w.want[r.Job] {
			wrong.add("job %s ended %s (%s %s), want %s %s", r.Job, r.Outcome, r.Reason, r.Code, want, w.want[r.Job])
		}
		ended[r.Job]++
	}
	dead := map[string]int{}
	for d, err := range w.q.Dead(t.Context(), queue.DeadFilter{Site: "main"}) {
		if err != nil {
			t.Fatal(err)
		}
		dead[d.Job.ID]++
	}
	for job, reason := range w.want {
		if ended[job] != 1 {
			wrong.add("job %s ended %d times, want once", job, ended[job])
		}
		if letters := dead[job]; letters > 1 || (letters == 1) != (reason != "") {
			wrong.add("job %s has %d dead letters", job, letters)
		}
	}
	wrong.sum("ends")
}

// checkCommits compares kintone's own account with the rounds that were asked for.
func (w *world) checkCommits(t *testing.T) {
	t.Helper()
	type record struct{ app, id int64 }
	did := map[record][]string{}
	commits := w.kintone.Commits(t)
	for _, c := range commits {
		did[record{c.App, c.Record}] = append(did[record{c.App, c.Record}], c.Action)
	}
	wrong := complaints{t: t}
	want := strings.Join(slices.Repeat(round, w.waves), " ")
	for _, app := range []struct{ id, records int64 }{{bulkApp, bulkRecords}, {singleApp, singleRecords}} {
		for r := int64(1); r <= app.records; r++ {
			if got := strings.Join(did[record{app.id, r}], " "); got != want {
				wrong.add("record %d of app %d had the actions %q, want %q", r, app.id, got, want)
			}
		}
	}
	wrong.sum("records")
	if want := w.waves * perRound; len(commits) != want {
		t.Errorf("kintone committed %d actions, want %d", len(commits), want)
	}
}

// complaints shows the first few of what may be a thousand.
type complaints struct {
	t *testing.T
	n int
}

func (c *complaints) add(format string, args ...any) {
	c.t.Helper()
	if c.n++; c.n <= 5 {
		c.t.Errorf(format, args...)
	}
}

func (c *complaints) sum(of string) {
	c.t.Helper()
	if c.n > 5 {
		c.t.Errorf("%d such complaints about %s in all", c.n, of)
	}
}

// checkLog waits for the log to become empty, which the worker does in its own time.
func (w *world) checkLog(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		backlog, err := w.q.Backlog(t.Context(), "main")
		if err != nil {
			t.Fatal(err)
		}
		left := uint64(0)
		for _, n := range backlog {
			left += n
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d jobs are still in the log 20 s after all have ended", left)
			return
		}
	}
}

// checkFiles compares what the worker has open with what it had. Connections to kintone that nobody uses may stay open
// for a while, so they are cut first.
func (w *world) checkFiles(t *testing.T) {
	t.Helper()
	w.toKintone.drop()
	if n := leastFiles(t, w.worker, w.files); n > w.files {
		t.Errorf("the worker has %d files open, %d more than before the faults", n, n-w.files)
	}
}

// leastFiles is the smallest number of files that a process has open within some seconds; it stops at enough.
func leastFiles(t *testing.T, p *programs.Process, enough int) int {
	t.Helper()
	least := 0
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		if n := len(files); least == 0 || n < least {
			least = n
		}
		if least <= enough || enough == 0 && time.Now().After(deadline) || time.Now().After(deadline.Add(20*time.Second)) {
			return least
		}
	}
}

// refusedCopies is how often kintone refused a status call because a record had moved: nearly always because an earlier
// copy of the very call had moved it.
func (w *world) refusedCopies(t *testing.T) int {
	t.Helper()
	resp, err := http.Get(w.kintone.Admin + "/requests")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var counts struct{ Codes map[string]int }
	if err := json.NewDecoder(resp.Body).Decode(&counts); err != nil {
		t.Fatal(err)
	}
	return counts.Codes["GAIA_CO02"]
}

// events counts the lines of a worker's log that say msg, and have all of the other texts in them.
func events(t *testing.T, p *programs.Process, msg string, with ...string) int {
	t.Helper()
	n := 0
lines:
	for line := range strings.Lines(p.Said()) {
		var said struct{ Msg string }
		if json.Unmarshal([]byte(line), &said) != nil || said.Msg != msg {
			continue
		}
		for _, text := range with {
			if !strings.Contains(line, text) {
				continue lines
			}
		}
		n++
	}
	return n
}

func hostOf(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}
