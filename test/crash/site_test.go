//go:build crash

package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"statusq/internal/queue"
	"statusq/test/programs"
)

// site is a kintone, the jobs for it, and one worker process after the other.
type site struct {
	t       *testing.T
	name    string
	rng     *rand.Rand
	kintone *kintone
	dir     string // of its configuration

	// One of the two: a server that others use as well, or a directory for the server of its own workers.
	broker *broker
	watch  *watch
	store  string

	shared *queue.Queue // to the broker

	procs  []*process
	deaths []death
	held   bool // the last worker died with a lease that is still to be removed
	served bool // a worker has

	jobs   []*published // in the order of publication
	told   int          // of them, how many the log is known to have
	chain  [chains]int  // how many jobs each chain has had
	record int64        // the first that was never used
	late   []*published // that wait for a person to act on their record

	wish   *wish // a change of the settings; nil when there is none
	wishes int
	trial  int64 // how many records were acted on by what changes brought
	story  *story
}

// death is the end of a worker, or the moment at which it was stopped.
type death struct {
	pid     int
	at      time.Time
	removed bool // the test took its lease away
}

// published is a job, and what may become of it.
type published struct {
	queue.Job
	class class
	wire  bool // it is published with its key alone: only the test knows its record
}

// class says what a job is for.
type class int

const (
	chained class = iota // one of several on a record that nobody else touches: it has to be applied
	doomed               // no such action, or no such record: it has to die
	touched              // somebody may edit, move or delete its record meanwhile: anything, but the truth
	waiting              // its record is not ready: it waits, or dies and is sent again
	parent               // it means all records of a family, and has to become a job for each
	child                // one of those: it is not published, and touched for the rest
)

// family is how many records have the same value in the field of that name.
const family = 3

func newSite(t *testing.T, name string, rng *rand.Rand, lateWindow string) *site {
	t.Helper()
	s := &site{
		t: t, name: name, rng: rng, dir: t.TempDir(), record: freshFrom,
		kintone: newKintone(t, rand.New(rand.NewPCG(rng.Uint64(), 1))),
	}
	programs.WriteFile(t, filepath.Join(s.dir, "token"), token)
	programs.WriteFile(t, filepath.Join(s.dir, "statusq.yaml"), fmt.Sprintf(`
sites:
  %s:
    tokenFile: token
    requestsPerSecond: 1000
    defaults: {dailyRequests: -1, backoff: 1s, attempts: 2, lateWindow: %s}
    apps: {"%d": {}}
`, name, lateWindow, app))
	return s
}

// embed gives the site's workers a queue of their own.
func (s *site) embed() { s.store = filepath.Join(s.dir, "queue") }

// join has the site served over a server that others use as well.
func (s *site) join(b *broker, w *watch, q *queue.Queue) { s.broker, s.watch, s.shared = b, w, q }

// env is where everything is, for worker and enqueue.
func (s *site) env() []string {
	env := []string{"STATUSQ_SITE=" + s.name, "STATUSQ_CONFIG=" + filepath.Join(s.dir, "statusq.yaml"), "STATUSQ_LOG_LEVEL=debug", "STATUSQ_DRAIN=5s"}
	if s.broker != nil {
		return append(env, "STATUSQ_NATS_URL="+s.broker.url)
	}
	return append(env, "STATUSQ_STORE_DIR="+s.store, "STATUSQ_NATS_LISTEN=127.0.0.1:0", "STATUSQ_SYNC=never")
}

// start starts a worker, with an order to die or to stop if there is one.
func (s *site) start(order ...string) *process {
	s.t.Helper()
	address := "KINTONE_BASE_URL=" + s.kintone.address(len(s.procs))
	p := spawn(s.t, append(append(s.env(), address), order...), "worker")
	s.procs = append(s.procs, p)
	return p
}

// enqueue runs a command of the client to its end, which may be an early one.
func (s *site) enqueue(order string, args ...string) *process {
	s.t.Helper()
	p := spawn(s.t, append(s.env(), order), "enqueue", args...)
	if !p.ends(40 * time.Second) {
		s.t.Errorf("%s: enqueue %q does not end", s.name, args)
		p.kill()
	}
	return p
}

// open connects to the queue as long as a worker lives; nil when it died before.
func (s *site) open(p *process) (q *queue.Queue, done func()) {
	if s.shared != nil {
		return s.shared, func() {}
	}
	for p.alive() {
		// The file may still be the last worker's.
		f, err := queue.ReadClientFile(s.store)
		if err == nil && p.says(f.URL) {
			q, err := queue.Connect(s.t.Context(), f.Config())
			if err == nil {
				return q, q.Close
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil, nil
}

// removeLease takes the lease of a dead worker away, so that the next one need not wait for it.
func (s *site) removeLease(p *process) {
	s.t.Helper()
	if s.watch != nil {
		if err := removeLease(s.t.Context(), s.watch.conn, s.name); err != nil {
			s.t.Errorf("%s: remove the lease: %v", s.name, err)
		}
		return
	}
	for p.alive() { // the queue is the next worker's
		f, err := queue.ReadClientFile(s.store)
		if err == nil && p.says(f.URL) {
			conn, err := nats.Connect(f.URL, nats.UserInfo(f.User, f.Password.Reveal()))
			if err == nil {
				ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Second)
				err = removeLease(ctx, conn, s.name)
				cancel()
				conn.Close()
				if err == nil {
					return
				}
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// add makes a job.
func (s *site) add(class class, record int64, action string) *published {
	p := &published{class: class, Job: queue.Job{
		ID: fmt.Sprintf("%s-%d", s.name, len(s.jobs)), Site: s.name, App: app, Record: record, Action: action, Revision: -1,
	}}
	s.jobs = append(s.jobs, p)
	return p
}

func (s *site) fresh() int64 {
	s.record++
	return s.record - 1
}

// keyed makes a job name its record by its key.
func keyed(p *published) {
	p.Key, p.wire = &queue.Key{Field: "code", Value: fmt.Sprintf("C-%d", p.Record)}, true
}

// breed makes a job for a family, and notes the jobs that are to come of it.
func (s *site) breed() {
	for s.record%family != 0 {
		s.record++
	}
	first := s.record
	s.record += family
	p := s.add(parent, 0, "Start")
	p.Key, p.Match = &queue.Key{Field: "family", Value: fmt.Sprintf("F-%d", first/family)}, queue.MatchAll
	for r := first; r < s.record; r++ {
		s.add(child, r, "Start").ID = queue.ChildID(p.ID, r)
	}
}

// link makes the next job of a chain.
func (s *site) link(n int) *published {
	turns := [...]string{"Start", "Approve", "Reopen"}
	j := s.add(chained, int64(n+1), turns[s.chain[n]%len(turns)])
	s.chain[n]++
	return j
}

// batch makes jobs of all kinds.
func (s *site) batch() {
	for range 20 + s.rng.IntN(30) {
		j := s.link(s.rng.IntN(chains))
		if s.rng.IntN(3) == 0 {
			keyed(j)
		}
	}
	if s.rng.IntN(2) == 0 {
		s.breed()
	}
	for range 1 + s.rng.IntN(3) {
		s.add(touched, s.fresh(), "Start")
	}
	if s.rng.IntN(2) == 0 {
		s.add(doomed, s.fresh(), "Fly")
	}
	if s.rng.IntN(2) == 0 {
		s.add(doomed, absent+s.fresh(), "Start")
	}
	if s.rng.IntN(2) == 0 {
		record := s.fresh()
		s.late = append(s.late, s.add(waiting, record, "Approve"))
		s.add(waiting, record, "Reopen")
	}
}

// publish tells the log of the jobs that it does not have yet, as long as a worker lives. Jobs of which it is not known
// are published once more, which must not act twice.
func (s *site) publish(p *process) {
	s.t.Helper()
	if s.told == len(s.jobs) {
		return
	}
	q, done := s.open(p)
	if q == nil {
		return
	}
	defer done()
	jobs := make([]queue.Job, 0, len(s.jobs)-s.told)
	for _, j := range s.jobs[s.told:] {
		if j.class == child {
			continue
		}
		wire := j.Job
		if j.wire {
			wire.Record = 0
		}
		jobs = append(jobs, wire)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	if s.store != "" {
		go func() { // ends with ctx, or the process
			select {
			case <-p.exited:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	if _, err := q.Publish(ctx, jobs); err != nil {
		if p.alive() {
			s.t.Logf("%s: %v", s.name, err)
		}
		return
	}
	s.told = len(s.jobs)
}

// file writes the jobs that the log does not have yet for enqueue.
func (s *site) file() string {
	s.t.Helper()
	var b strings.Builder
	b.WriteString("job,record,key_field,key_value,match,action\n")
	for _, j := range s.jobs[s.told:] {
		switch {
		case j.class == child:
		case j.Key != nil:
			fmt.Fprintf(&b, "%s,,%s,%s,%s,%s\n", j.ID, j.Key.Field, j.Key.Value, j.Match, j.Action)
		default:
			fmt.Fprintf(&b, "%s,%d,,,,%s\n", j.ID, j.Record, j.Action)
		}
	}
	path := filepath.Join(s.dir, fmt.Sprintf("jobs-%d.csv", s.told))
	programs.WriteFile(s.t, path, b.String())
	return path
}

// help has a person do what the record of a waiting job waits for.
func (s *site) help() {
	if len(s.late) == 0 || s.rng.IntN(2) == 0 {
		return
	}
	s.ready(s.late[0])
}

func (s *site) ready(j *published) {
	// It may have been done before.
	_ = s.kintone.sim.Act(app, j.Record, "sato", "Start", "")
	s.late = s.late[1:]
}

// meddle has somebody get in the way of a request: by editing, moving or deleting one of its records.
func (s *site) meddle() {
	n := s.rng.IntN(8)
	s.kintone.next(func(record int64) {
		switch n {
		case 0:
			s.move(record)
		case 1:
			s.remove(record)
		case 2, 3:
			s.edit(record)
		}
	})
}

func (s *site) edit(record int64)   { _ = s.kintone.sim.Edit(app, record, "sato") } // it may be gone
func (s *site) remove(record int64) { _ = s.kintone.sim.Delete(app, record) }
func (s *site) move(record int64)   { _ = s.kintone.sim.Act(app, record, "sato", "Start", "") }

// owns waits until a worker has the lease of its site.
func (s *site) owns(p *process, d time.Duration) bool {
	within(d, func() bool { return p.says(`"msg":"owner"`) || !p.alive() })
	return p.says(`"msg":"owner"`)
}

// stop asks a worker to end and expects that it does so well.
func (s *site) stop(p *process) {
	s.t.Helper()
	p.signal(syscall.SIGTERM)
	if !p.ends(20 * time.Second) {
		s.t.Errorf("%s: a worker does not end within 20 s of SIGTERM", s.name)
		p.kill()
	} else if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		s.t.Errorf("%s: a worker ended with exit code %d after SIGTERM, want 0\n%s", s.name, code, p.tail(1000))
	}
}

// finish lets a worker do everything that is left.
func (s *site) finish(p *process, d time.Duration) {
	s.t.Helper()
	for deadline := time.Now().Add(d); ; time.Sleep(300 * time.Millisecond) {
		s.publish(p)
		left := "jobs that nobody has published"
		if s.told == len(s.jobs) {
			left = s.left(p)
		}
		switch {
		case left == "":
			return
		case !p.alive():
			s.t.Fatalf("%s: the last worker has ended: %v\n%s", s.name, p.cmd.ProcessState, p.tail(2000))
		case time.Now().After(deadline):
			s.t.Fatalf("%s: after %v without faults there are still %s\n%s", s.name, d, left, p.tail(4000))
		}
	}
}

// left says what has not ended yet.
func (s *site) left(p *process) string {
	s.t.Helper()
	q, done := s.open(p)
	if q == nil {
		return "things to do, and no worker"
	}
	defer done()
	log, err := q.Backlog(s.t.Context(), s.name)
	if err != nil {
		return err.Error()
	}
	if log[app] > 0 {
		return fmt.Sprintf("%d jobs in the log", log[app])
	}
	slots, err := q.Slots(s.t.Context(), s.name, app)
	if err != nil {
		return err.Error()
	}
	for _, v := range slots {
		if v.Slot.Request != nil {
			return fmt.Sprintf("jobs in slot %d", v.N)
		}
	}
	ended := make(map[string]queue.Outcome)
	for r, err := range q.Results(s.t.Context(), queue.ResultFilter{Site: s.name}) {
		if err != nil {
			return err.Error()
		}
		ended[r.Job] = r.Outcome
	}
	lies := make(map[string]bool)
	for d, err := range q.Dead(s.t.Context(), queue.DeadFilter{Site: s.name}) {
		if err != nil {
			return err.Error()
		}
		lies[d.Job.ID] = true
	}
	for job, outcome := range ended {
		if outcome == queue.Dead && !lies[job] {
			delete(ended, job) // it was sent again
		}
	}
	if n := len(s.jobs) - len(ended); n > 0 {
		return fmt.Sprintf("%d jobs without an end", n)
	}
	return ""
}

// tally is what a check counted.
type tally struct {
	jobs     int
	outcomes map[queue.Outcome]int
}

// check compares what the queue says of every job with what kintone did.
func (s *site) check(p *process) tally {
	s.t.Helper()
	q, done := s.open(p)
	if q == nil {
		s.t.Fatalf("%s: the last worker has ended", s.name)
	}
	defer done()
	wrong := func(format string, args ...any) {
		s.t.Helper()
		s.t.Errorf(s.name+": "+format, args...)
	}

	ends := make(map[string][]queue.Result)
	for r, err := range q.Results(s.t.Context(), queue.ResultFilter{Site: s.name}) {
		if err != nil {
			s.t.Fatal(err)
		}
		ends[r.Job] = append(ends[r.Job], r)
	}
	dead := make(map[string]queue.DeadLetter)
	for d, err := range q.Dead(s.t.Context(), queue.DeadFilter{Site: s.name}) {
		if err != nil {
			s.t.Fatal(err)
		}
		dead[d.Job.ID] = d
	}
	s.kintone.sim.Flush()
	type commit struct{ action, n, after string }
	commits := make(map[int64][]commit)
	for _, c := range s.kintone.sim.Commits() {
		if !c.Foreign {
			commits[c.Record] = append(commits[c.Record], commit{c.Action, c.Request, fmt.Sprint(c.After)})
		}
	}

	total := tally{jobs: len(s.jobs), outcomes: make(map[queue.Outcome]int)}
	doubtful := make(map[int64]bool) // records with a job of which nobody can tell
	for _, j := range s.jobs {
		rs := ends[j.ID]
		if len(rs) == 0 {
			wrong("job %s (record %d) is lost", j.ID, j.Record)
			continue
		}
		last := rs[len(rs)-1]
		total.outcomes[last.Outcome]++
		// A job that was sent again by a person has died before, which was true then.
		for _, r := range rs[:len(rs)-1] {
			if r.Outcome != queue.Dead || j.class != waiting {
				wrong("job %s (record %d) ended %s and then %s", j.ID, j.Record, r.Outcome, last.Outcome)
			}
		}
		if _, lies := dead[j.ID]; lies != (last.Outcome == queue.Dead || last.Outcome == queue.Unknown) {
			wrong("job %s ended %s, and lies among the dead letters: %v", j.ID, last.Outcome, lies)
		}

		// The next thing that kintone did to this record has to be this job, or not to be there.
		rest := commits[j.Record]
		next := len(rest) > 0 && rest[0].action == j.Action
		switch last.Outcome {
		case queue.Applied:
			switch {
			case !next && !doubtful[j.Record]:
				wrong("job %s is said to be applied, and kintone did not do %s to record %d in its turn; what is left of the record: %v", j.ID, j.Action, j.Record, rest)
			case next && fmt.Sprint(last.Revision) != rest[0].after:
				wrong("job %s is said to have led to revision %d of record %d, kintone says %s", j.ID, last.Revision, j.Record, rest[0].after)
			}
			if next {
				commits[j.Record] = rest[1:]
			}
		case queue.Unknown:
			doubtful[j.Record] = true
			if next {
				commits[j.Record] = rest[1:]
			}
		}
		switch {
		case j.class == chained && last.Outcome != queue.Applied:
			wrong("job %s on record %d, which nobody else touches, ended %s: %s %s %s", j.ID, j.Record, last.Outcome, last.Reason, last.Code, last.Message)
		case j.class == parent && (last.Outcome != queue.Matched || last.Matches != family):
			wrong("job %s, for a family of %d, ended %s with %d", j.ID, family, last.Outcome, last.Matches)
		case j.class == doomed && last.Outcome != queue.Dead:
			wrong("job %s, which cannot be done, ended %s", j.ID, last.Outcome)
		}
	}
	for record, rest := range commits {
		if len(rest) > 0 {
			wrong("kintone did to record %d what no job accounts for, or out of turn: %v", record, rest)
		}
	}
	if len(ends) > len(s.jobs) {
		wrong("%d jobs have ended, %d were published", len(ends), len(s.jobs))
	}
	if left := s.left(p); left != "" {
		wrong("there are %s after all", left)
	}

	s.quiet()

	// A request leaves only after it stands in a slot.
	if s.watch != nil {
		if err := s.watch.conn.FlushTimeout(5 * time.Second); err != nil {
			s.t.Fatal(err)
		}
		for _, c := range s.kintone.asked() {
			if !s.watch.stood(s.name, c.members) {
				wrong("worker %d sent a request that never stood in a slot: %s", c.worker, c.members)
			}
		}
	}
	return total
}
