//go:build docker

package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"statusq/internal/queue"
	"statusq/test/programs"
)

const (
	clusterApp     = 5
	clusterRecords = 1000
	// takeoverLimit is what docs/design.md promises of an owner that died, as long as NATS is well.
	takeoverLimit = 20 * time.Second
)

// Two workers serve two sites on three NATS servers, while one server after the other is killed, cut off or paused, most
// often the one that leads, and an owner is killed. Nobody who published was told a lie, every job ends once and ran
// once, those of a record in their order, and the three servers hold the same in the end.
//
// STATUSQ_CLUSTER_FOR=1h goes on with faults of every kind for that long; STATUSQ_SEED=n chooses their order.
func TestJobsSurviveTheFaultsOfACluster(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := startCluster(t)
	p := startPlant(t, c, "a", "b")
	p.startSpread(t)
	p.publish(t, 10_000)
	p.progress(t, time.Minute)
	// What was learned of an app is what it would be taken for anyway, so that only forgetting it shows.
	q := programs.Connect(t, c.urls())
	learned := queue.Facts{AppName: "Simulated app 5", Step: 2}
	for _, s := range p.sites {
		if err := q.PutFacts(t.Context(), s.name, clusterApp, learned); err != nil {
			t.Fatal(err)
		}
	}

	for _, kind := range []fault{
		killLedgerLeader, killJobsLeader, killLeasesLeader, killFollower, cutLedgerLeader, pauseLedgerLeader, killOwner, forgetful,
	} {
		p.inflict(t, kind)
	}
	if more := os.Getenv("STATUSQ_CLUSTER_FOR"); more != "" {
		p.inflictFor(t, more)
	}

	p.finish(t)
	p.checkOutcomes(t)
	for _, s := range p.sites {
		if facts, err := q.Facts(t.Context(), s.name, clusterApp); err != nil || facts != learned {
			t.Errorf("site %s: what was learned of the app is %+v (%v), want %+v", s.name, facts, err, learned)
		}
	}
	p.stopWorkers(t)
	p.checkReplicas(t)
	p.report(t)
}

// plant is everything that works on a cluster: a kintone for each site, the workers, and a publisher that keeps them
// busy.
type plant struct {
	cluster *cluster
	dir     string
	urls    string     // where the publisher reaches the cluster
	nc      *nats.Conn // to move leaders, and to read what a server holds
	sites   []*site
	workers []*programs.Process
	faults  []incident

	restarts int // of workers that could not start at once

	publishing context.CancelFunc // lets the publisher end
	published  sync.WaitGroup
}

// site is one kintone and what happens there. Each of its records goes round the three statuses; a lap takes every
// record one step further.
type site struct {
	name    string
	kintone programs.Simulated

	mu      sync.Mutex // guards what follows
	laps    int        // that were accepted whole
	refused int        // sends that failed and were repeated
	commits []commit
}

// commit is a line of kintone's own account, with its time.
type commit struct {
	programs.Commit
	Time time.Time
}

// incident is a fault that was inflicted.
type incident struct {
	fault
	began, ended time.Time // ended when everything was well again and had gone on
	takeover     time.Duration
}

var laps = [3]string{"Start", "Approve", "Reopen"}

func startPlant(t *testing.T, c *cluster, names ...string) *plant {
	t.Helper()
	p := &plant{cluster: c, dir: t.TempDir(), urls: c.urls()}
	nc, err := nats.Connect(c.urls(), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	p.nc = nc
	var following sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); following.Wait() })
	for _, name := range names {
		s := &site{name: name, kintone: programs.StartSimulator(t, clusterRecords)}
		p.sites = append(p.sites, s)
		programs.WriteFile(t, filepath.Join(p.dir, name+".token"), s.kintone.Token)
		following.Go(func() {
			if err := s.follow(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("follow kintone %s: %v", s.name, err)
			}
		})
	}
	return p
}

// startWorker runs a worker for some of the sites.
func (p *plant) startWorker(t *testing.T, urls string, names ...string) *programs.Process {
	t.Helper()
	config := "sites:\n"
	for _, s := range p.sites {
		if slices.Contains(names, s.name) {
			// So slow that the faults, and not the work, decide how long it takes.
			config += fmt.Sprintf("  %s: {baseUrl: %q, tokenFile: %s.token, requestsPerSecond: 2, defaults: {dailyRequests: -1}}\n",
				s.name, s.kintone.URL, s.name)
		}
	}
	file := filepath.Join(p.dir, "worker-"+strings.Join(names, "-")+".yaml")
	programs.WriteFile(t, file, config)
	// A worker that meets an election when it starts says so and ends. Its supervisor starts it again.
	for deadline := time.Now().Add(time.Minute); ; p.restarts++ {
		w := programs.Start(t, "worker", []string{"STATUSQ_NATS_URL=" + urls}, "--config", file, "--replicas", "3")
		for alive := true; alive; {
			select {
			case <-w.Exited:
				alive = false
			case <-time.After(50 * time.Millisecond):
				if strings.Contains(w.Said(), `"standby"`) {
					return w
				}
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no worker has started for a minute; the last said:\n%s", w.Said())
		}
	}
}

// startSpread starts two workers, each of which owns one of the two sites and stands by for the other.
func (p *plant) startSpread(t *testing.T) {
	t.Helper()
	// Who starts alone takes all there is. So a third one holds the first site until the two are there, and gives it back
	// while the owner of the second is stopped for a moment.
	soon := func() time.Time { return time.Now().Add(30 * time.Second) }
	holder := p.startWorker(t, p.urls, "a")
	p.workers = append(p.workers, holder)
	p.waitOwner(t, "a", soon())
	busy := p.startWorker(t, p.urls, "a", "b")
	p.workers = append(p.workers, busy)
	p.waitOwner(t, "b", soon())
	idle := p.startWorker(t, p.urls, "a", "b")
	p.workers = []*programs.Process{busy, idle}
	busy.Cmd.Process.Signal(syscall.SIGSTOP)
	holder.Stop(t)
	p.waitOwner(t, "a", soon())
	busy.Cmd.Process.Signal(syscall.SIGCONT)
}

// publish keeps every site busy from now on, until finish, with at least so many jobs each.
func (p *plant) publish(t *testing.T, atLeast int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p.publishing = cancel
	t.Cleanup(func() { cancel(); p.published.Wait() })
	for _, s := range p.sites {
		p.published.Go(func() {
			for lap := 0; ctx.Err() == nil || lap*clusterRecords < atLeast; {
				if t.Context().Err() != nil {
					return
				}
				if lap*clusterRecords-s.count() > 2*clusterRecords {
					time.Sleep(100 * time.Millisecond)
					continue
				}
				if err := p.sendLap(t.Context(), s, lap); err != nil {
					// It was said to have failed, so it is sent again, under the same ids.
					t.Logf("site %s, lap %d: %v", s.name, lap, err)
					s.mu.Lock()
					s.refused++
					s.mu.Unlock()
					time.Sleep(time.Second)
					continue
				}
				lap++
				s.mu.Lock()
				s.laps = lap
				s.mu.Unlock()
			}
		})
	}
}

// sendLap publishes one job for every record of a site.
func (p *plant) sendLap(ctx context.Context, s *site, lap int) error {
	var csv strings.Builder
	csv.WriteString("job,record,action\n")
	for r := range clusterRecords {
		fmt.Fprintf(&csv, "%d-%d,%d,%s\n", lap, r+1, r+1, laps[lap%len(laps)])
	}
	cmd := exec.CommandContext(ctx, filepath.Join(programs.Bin, "enqueue"), "send", "--app", fmt.Sprint(clusterApp),
		"--site", s.name, "--file", "-", "--campaign", fmt.Sprintf("%s-%d", s.name, lap))
	cmd.Env = []string{"HOME=" + p.dir, "STATUSQ_NATS_URL=" + p.urls}
	cmd.Stdin = strings.NewReader(csv.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("enqueue send: %w\n%s", err, out)
	}
	return nil
}

// follow reads kintone's account as it grows.
func (s *site) follow(ctx context.Context) error {
	for {
		resp, err := http.Get(fmt.Sprintf("%s/commits?since=%d", s.kintone.Admin, s.count()))
		if err != nil {
			return err
		}
		var more []commit
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			var c commit
			if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
				resp.Body.Close()
				return err
			}
			more = append(more, c)
		}
		resp.Body.Close()
		s.mu.Lock()
		s.commits = append(s.commits, more...)
		s.mu.Unlock()
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}

// count is how many actions kintone has carried out.
func (s *site) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.commits)
}

// progress waits until every site has gone on by three calls' worth.
func (p *plant) progress(t *testing.T, patience time.Duration) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for _, s := range p.sites {
		for want := s.count() + 300; s.count() < want; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("site %s has not gone on within %v of %d actions", s.name, patience, s.count())
			}
		}
	}
}

// owner is the worker that said last that it owns a site, and when; nil if none that lives does.
func (p *plant) owner(site string) (owner *programs.Process, since time.Time) {
	for _, w := range p.workers {
		select {
		case <-w.Exited:
			continue
		default:
		}
		if at, owns := owns(w, site); owns && at.After(since) {
			owner, since = w, at
		}
	}
	return owner, since
}

// owns reads from what a worker said whether it owns a site, and since when.
func owns(w *programs.Process, site string) (since time.Time, yes bool) {
	for line := range strings.Lines(w.Said()) {
		var e struct {
			Time      time.Time
			Msg, Site string
		}
		if json.Unmarshal([]byte(line), &e) != nil || e.Site != site {
			continue
		}
		switch e.Msg {
		case "owner":
			since, yes = e.Time, true
		case "deposed", "standby":
			yes = false
		}
	}
	return since, yes
}

func (p *plant) waitOwner(t *testing.T, site string, deadline time.Time) (*programs.Process, time.Time) {
	t.Helper()
	for ; ; time.Sleep(100 * time.Millisecond) {
		if w, since := p.owner(site); w != nil {
			return w, since
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody of %d workers owns site %s", len(p.workers), site)
		}
	}
}

// fault is something that happens to a server or a worker, and passes.
type fault string

const (
	killLedgerLeader  fault = "kill the leader of the ledger"
	killJobsLeader    fault = "kill the leader of the log"
	killLeasesLeader  fault = "kill the leader of the leases"
	killFollower      fault = "kill a follower"
	cutLedgerLeader   fault = "cut off the leader of the ledger"
	cutJobsLeader     fault = "cut off the leader of the log"
	cutLeasesLeader   fault = "cut off the leader of the leases"
	cutFollower       fault = "cut off a follower"
	pauseLedgerLeader fault = "pause the leader of the ledger"
	pauseLeasesLeader fault = "pause the leader of the leases"
	pauseFollower     fault = "pause a follower"
	slowLeader        fault = "slow down the leader of the ledger"
	slowFollower      fault = "slow down a follower"
	rolling           fault = "restart one server after the other"
	killOwner         fault = "kill an owner"
	stopOwner         fault = "stop an owner"
	pauseOwner        fault = "pause an owner past its lease"
	killBoth          fault = "kill an owner and the leader of the leases"
	forgetful         fault = "stop an owner without the leader of what is known of apps"
)

var allFaults = []fault{
	killLedgerLeader, killJobsLeader, killLeasesLeader, killFollower,
	cutLedgerLeader, cutJobsLeader, cutLeasesLeader, cutFollower,
	pauseLedgerLeader, pauseLeasesLeader, pauseFollower, slowLeader, slowFollower,
	rolling, killOwner, stopOwner, pauseOwner, killBoth, forgetful,
}

// inflict lets one fault happen and pass, and waits until everything is well again.
func (p *plant) inflict(t *testing.T, kind fault) {
	t.Helper()
	c := p.cluster
	now := incident{fault: kind, began: time.Now()}
	done := 0
	for _, s := range p.sites {
		done += s.count()
	}
	t.Logf("%s, after %d actions", kind, done)
	leader := func() *server {
		switch kind {
		case killLedgerLeader, cutLedgerLeader, pauseLedgerLeader, slowLeader:
			return c.leader(t, ledgerStream)
		case killJobsLeader, cutJobsLeader:
			return c.leader(t, jobsStream)
		case killLeasesLeader, cutLeasesLeader, pauseLeasesLeader, killBoth:
			return c.leader(t, leasesStream)
		case forgetful:
			for _, stream := range []string{jobsStream, ledgerStream, leasesStream} {
				c.moveLeader(t, p.nc, stream, c.servers[0])
			}
			c.moveLeader(t, p.nc, controlStream, c.servers[1])
			return c.servers[1]
		default:
			return c.follower(t, ledgerStream)
		}
	}
	switch kind {
	case killLedgerLeader, killJobsLeader, killLeasesLeader, killFollower:
		s := leader()
		s.kill(t)
		time.Sleep(rand.N(4 * time.Second))
		s.start(t)
	case cutLedgerLeader, cutJobsLeader, cutLeasesLeader, cutFollower:
		s := leader()
		c.cut(t, s)
		time.Sleep(15 * time.Second)
		c.heal(t, s)
	case pauseLedgerLeader, pauseLeasesLeader, pauseFollower:
		s := leader()
		s.pause(t)
		time.Sleep(20 * time.Second)
		s.unpause(t)
	case slowLeader, slowFollower:
		s := leader()
		s.slow(t)
		time.Sleep(15 * time.Second)
		s.fast(t)
	case rolling:
		for _, s := range c.servers {
			s.stop(t)
			s.start(t)
			c.waitHealthy(t)
		}
	case killOwner, stopOwner, killBoth, forgetful:
		now.takeover = p.replaceOwner(t, kind, leader)
		if kind == killOwner && now.takeover > takeoverLimit {
			t.Errorf("%s: %v until another owned its sites, want at most %v", kind, now.takeover, takeoverLimit)
		}
	case pauseOwner:
		w, _ := p.owner(p.sites[0].name)
		w.Cmd.Process.Signal(syscall.SIGSTOP)
		time.Sleep(20 * time.Second)
		w.Cmd.Process.Signal(syscall.SIGCONT)
	default:
		t.Fatalf("no such fault: %s", kind)
	}
	c.waitHealthy(t)
	p.progress(t, 2*time.Minute)
	now.ended = time.Now()
	p.faults = append(p.faults, now)
}

// replaceOwner ends the owner of the first site and starts another worker, which will stand by. It returns how long it
// took until every site of the dead one was owned again.
func (p *plant) replaceOwner(t *testing.T, kind fault, leader func() *server) time.Duration {
	t.Helper()
	w, _ := p.waitOwner(t, p.sites[0].name, time.Now().Add(time.Minute))
	var lost []string
	for _, s := range p.sites {
		if owner, _ := p.owner(s.name); owner == w {
			lost = append(lost, s.name)
		}
	}
	var dead *server
	if kind == killBoth || kind == forgetful {
		dead = leader()
		dead.kill(t)
	}
	ended := time.Now()
	if kind == stopOwner || kind == forgetful {
		w.Stop(t)
	} else {
		w.Cmd.Process.Kill()
		<-w.Exited
	}
	p.workers = slices.DeleteFunc(p.workers, func(o *programs.Process) bool { return o == w })
	longest := time.Duration(0)
	for _, name := range lost {
		_, since := p.waitOwner(t, name, ended.Add(2*time.Minute))
		longest = max(longest, since.Sub(ended))
	}
	if dead != nil {
		dead.start(t)
	}
	var names []string
	for _, s := range p.sites {
		names = append(names, s.name)
	}
	p.workers = append(p.workers, p.startWorker(t, p.cluster.urls(), names...))
	return longest
}

// inflictFor lets faults of every kind happen, in an order that a seed decides, until the time is over.
func (p *plant) inflictFor(t *testing.T, howLong string) {
	t.Helper()
	d, err := time.ParseDuration(howLong)
	if err != nil {
		t.Fatalf("STATUSQ_CLUSTER_FOR: %v", err)
	}
	seed := rand.Uint64()
	if s := os.Getenv("STATUSQ_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatalf("STATUSQ_SEED: %v", err)
		}
	}
	t.Logf("faults for %v: STATUSQ_SEED=%d", d, seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for end := time.Now().Add(d); time.Now().Before(end); {
		for _, i := range rng.Perm(len(allFaults)) {
			if time.Now().Before(end) {
				p.inflict(t, allFaults[i])
			}
		}
	}
}

// finish lets the publisher end, and waits until everything that it was told is accepted has been carried out.
func (p *plant) finish(t *testing.T) {
	t.Helper()
	p.publishing()
	p.published.Wait()
	for _, s := range p.sites {
		want, last, since := s.laps*clusterRecords, 0, time.Now()
		for s.count() < want {
			if n := s.count(); n > last {
				last, since = n, time.Now()
			}
			if time.Since(since) > 2*time.Minute {
				t.Fatalf("site %s has carried out %d actions of %d, and none for 2 min", s.name, last, want)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// stopWorkers ends the workers, and says so if one has died before, or does not end well.
func (p *plant) stopWorkers(t *testing.T) {
	t.Helper()
	for _, w := range p.workers {
		select {
		case <-w.Exited:
			t.Errorf("a worker has died: %v", w.Err)
		default:
			w.Stop(t)
		}
	}
}

// report says how often each fault happened, and the longest time without an action that it brought about.
func (p *plant) report(t *testing.T) {
	t.Helper()
	type line struct {
		n               int
		stall, takeover time.Duration
	}
	lines := make(map[fault]line)
	for _, f := range p.faults {
		l := lines[f.fault]
		l.n++
		l.takeover = max(l.takeover, f.takeover)
		for _, s := range p.sites {
			l.stall = max(l.stall, s.stall(f.began, f.ended))
		}
		lines[f.fault] = l
	}
	var out bytes.Buffer
	for _, f := range allFaults {
		if l := lines[f]; l.n > 0 {
			fmt.Fprintf(&out, "\n%3d × %-45s at most %5.1f s without an action", l.n, f, l.stall.Seconds())
			if l.takeover > 0 {
				fmt.Fprintf(&out, ", %.1f s until taken over", l.takeover.Seconds())
			}
		}
	}
	fmt.Fprintf(&out, "\n%3d starts of a worker had to be repeated", p.restarts)
	for _, s := range p.sites {
		fmt.Fprintf(&out, "\nsite %s: %d jobs, %d sends had to be repeated", s.name, s.laps*clusterRecords, s.refused)
	}
	t.Log(out.String())
}

// stall is the longest time between two actions, as far as it lies between two moments.
func (s *site) stall(from, to time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	longest, last := time.Duration(0), from
	for _, c := range s.commits {
		if c.Time.Before(from) {
			continue
		}
		if c.Time.After(to) {
			break
		}
		longest, last = max(longest, c.Time.Sub(last)), c.Time
	}
	return max(longest, to.Sub(last))
}
