package dispatch

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// Whatever happens to requests, records, workers and networks, every job ends, none twice, none untrue, and those of a
// record in order (checker_test.go). A seed that fails is run again alone with STATUSQ_SEED=n; STATUSQ_SEEDS=n runs n of
// them, from STATUSQ_FIRST=n on.
func TestStorm(t *testing.T) {
	first, n := number(t, "STATUSQ_FIRST", 1), number(t, "STATUSQ_SEEDS", 16)
	if seed := number(t, "STATUSQ_SEED", 0); seed != 0 {
		first, n = seed, 1
	}
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // memory for time
	sum := newTally()
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newStorm(t, uint64(seed), sum).run() })
		})
	}
	t.Log(sum)
	sum.check(t)
}

// number reads a number from the environment.
func number(t *testing.T, name string, without int) int {
	s := os.Getenv(name)
	if s == "" {
		return without
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s=%s is no number", name, s)
	}
	return n
}

const (
	stormJobs = 100
	// stormWindow is the lateWindow of a storm: no request is carried out later than that after its answer was given up.
	stormWindow = 6 * time.Minute
	// latest is by how much a request is put off at most, with room for the minute that a caller waits.
	latest = 4 * time.Minute
)

// A storm is one run, all of it drawn from its seed.
type storm struct {
	*world
	t    *testing.T
	seed uint64
	sum  *tally
	flow course
	h    history

	calm       time.Time // from then on nothing bad happens any more
	dark, dawn time.Time // nothing gets through between them

	// What this seed is made of.
	rate     int // percent of requests that are struck
	records  int
	robot    bool // edits each record 50 ms after we changed it
	admin    bool // changes settings
	freezing bool // networks, while requests are held
	two      bool // workers at once
	operator bool
	deleting bool
	reforms  *reforms // changes of the settings that an operator asks for; nil = none
	campaign *venture // what some of the jobs belong to; nil = no campaign

	jobs   []queue.Job
	crew   []*worker // alive
	hired  int
	public sync.WaitGroup // people, robots, admin, operators

	notes  sync.Mutex              // guards the rest, and h.edits, h.gone, h.asked, reforms
	faults map[int]simulator.Fault // by request
}

// rng is a source of randomness of its own for each use, so that goroutines do not take from each other's.
func (s *storm) rng(use uint64) *rand.Rand { return rand.New(rand.NewPCG(s.seed, use)) }

// chance is true in so many percent.
func chance(r *rand.Rand, percent int) bool { return r.IntN(100) < percent }

// within is a time between from and to.
func within(r *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(r.Int64N(int64(to-from)))
}

func newStorm(t *testing.T, seed uint64, sum *tally) *storm {
	s := &storm{t: t, seed: seed, sum: sum, faults: make(map[int]simulator.Fault)}
	r := s.rng(1)
	s.flow = courses[r.IntN(len(courses))]
	s.rate = 30 + r.IntN(30)
	s.records = []int{4, 12, 40, 100}[r.IntN(4)]
	s.robot, s.admin, s.deleting = chance(r, 20), chance(r, 25), chance(r, 30)
	s.freezing, s.operator = chance(r, 50), chance(r, 60)
	s.two = s.freezing || chance(r, 30)
	cfg := AppConfig{
		DailyRequests: -1, Backoff: 5 * time.Second, LateWindow: stormWindow, Attempts: 2 + r.IntN(4),
		Inflight: 1 + r.IntN(4), Single: chance(r, 15), Shared: chance(r, 15),
	}
	s.draw(r)
	if c := s.rng(11); chance(c, 20) {
		s.campaign = s.join(c)
	}

	app := simulator.App{
		ID: testApp, Name: "Orders", Records: s.records, Tokens: []simulator.Token{simulator.ViewToken(testToken)},
		Process: s.process(),
		Fields: []simulator.Field{{Code: "Kind", Type: "SINGLE_LINE_TEXT", Default: func(record int64) string {
			return string(rune('A' + record%5))
		}}, {Code: "code", Type: "SINGLE_LINE_TEXT", Default: func(record int64) string { return fmt.Sprintf("C-%d", record) }}},
	}
	if chance(s.rng(9), 75) {
		app.HiddenFields = []string{"Kind"} // so that nobody can ask which records satisfy the condition
	}
	if c := s.rng(10); chance(c, 25) {
		app.Tokens = []simulator.Token{simulator.FullToken(testToken)}
		s.reforms = &reforms{s: s, rng: c, air: make(map[*worker]int), doom: make(chan struct{}, 1)}
	}
	s.world = newWorld(t, app)
	if s.reforms != nil {
		s.reforms.watch()
	}
	s.apps[testApp] = cfg
	s.discover = time.Minute
	s.h = history{
		shared: cfg.Shared, inflight: cfg.Inflight, gone: make(map[int64]bool),
		letters: make(map[uint64][]queue.DeadLetter), operated: make(map[uint64]*operation),
	}
	return s
}

// A course is a process that records run through, and what jobs ask for in it.
type course struct {
	name    string
	states  []simulator.State
	actions []simulator.Action
}

// courses are the kinds of process. In each a job may ask for any action; people know them as well.
var courses = []course{
	{"one way", named("New", "Doing", "Done"), []simulator.Action{
		{Name: "Start", From: "New", To: "Doing"}, {Name: "Finish", From: "Doing", To: "Done"}, {Name: "Note", From: "Doing", To: "Doing"},
	}},
	{"cyclic", named("New", "Doing", "Done"), []simulator.Action{
		{Name: "Start", From: "New", To: "Doing"}, {Name: "Finish", From: "Doing", To: "Done"}, {Name: "Reopen", From: "Done", To: "New"},
		{Name: "Touch", From: "New", To: "New"}, {Name: "Touch", From: "Doing", To: "Doing"}, {Name: "Touch", From: "Done", To: "Done"},
	}},
	{"one name, two ways", named("New", "Doing", "Done"), []simulator.Action{
		{Name: "Advance", From: "New", To: "Doing"}, {Name: "Advance", From: "Doing", To: "Done"}, {Name: "Reopen", From: "Done", To: "New"},
		{Name: "Only A", From: "New", To: "Done", FilterCond: `Kind = "A"`},
	}},
	{"all", append(named("New", "Doing", "Done"), simulator.State{Name: "For all", AssigneeType: simulator.All, Entities: eligible}), []simulator.Action{
		{Name: "Ask", From: "New", To: "For all"}, {Name: "Agree", From: "For all", To: "Done"}, {Name: "Back", From: "For all", To: "New"},
		{Name: "Reopen", From: "Done", To: "New"}, {Name: "Touch", From: "New", To: "New"}, {Name: "Touch", From: "For all", To: "For all"},
	}},
	{"any", append(named("New", "Doing", "Done"), simulator.State{Name: "For any", AssigneeType: simulator.Any, Entities: eligible}), []simulator.Action{
		{Name: "Ask", From: "New", To: "For any"}, {Name: "Agree", From: "For any", To: "Done"}, {Name: "Touch", From: "For any", To: "For any"},
		{Name: "Reopen", From: "Done", To: "New"},
	}},
	{"one", append(named("New", "Doing", "Done"), simulator.State{Name: "In review", AssigneeType: simulator.One, Entities: eligible}), []simulator.Action{
		{Name: "Review", From: "New", To: "In review"}, {Name: "Agree", From: "In review", To: "Done"}, {Name: "Reopen", From: "Done", To: "New"},
		{Name: "Touch", From: "Done", To: "Done"},
	}},
}

// eligible are those who may be asked to act: the worker, as which tokens act, and a person.
var eligible = []simulator.Entity{simulator.User(simulator.Administrator), simulator.User("sato")}

func named(states ...string) []simulator.State {
	var all []simulator.State
	for _, name := range states {
		all = append(all, simulator.State{Name: name})
	}
	return all
}

// draw makes the jobs: mostly such as follow from those before them on their record, so that chains get somewhere. The
// k-th of a record calls its action by a name with k in it.
func (s *storm) draw(r *rand.Rand) {
	at := make(map[int64]string)
	nth := make(map[int64]int)
	began := time.Now()
	for i := range stormJobs {
		record := int64(1 + r.IntN(s.records))
		status := cmp.Or(at[record], s.flow.states[0].Name)
		may := slices.DeleteFunc(slices.Clone(s.flow.actions), func(a simulator.Action) bool { return a.From != status })
		if len(may) == 0 || chance(r, 10) {
			may = s.flow.actions
		}
		a := may[r.IntN(len(may))]
		at[record] = a.To
		j := job(record, fmt.Sprintf("%s %d", a.Name, nth[record]))
		nth[record]++
		j.ID = fmt.Sprintf("job-%d", i)
		if chance(r, 10) {
			j.ID = ""
		}
		if a.To == "In review" {
			j.Assignee = []string{simulator.Administrator, simulator.Administrator, "sato", "", "nobody"}[r.IntN(5)]
		}
		switch r.IntN(40) {
		case 0:
			j.NotBefore = began.Add(within(r, 0, 12*time.Minute)).Truncate(time.Second)
		case 1:
			j.Expires = began.Add(within(r, time.Minute, 12*time.Minute)).Truncate(time.Second)
		case 2:
			j.Revision = 1
		case 3:
			j.Record += 1000
		}
		s.jobs = append(s.jobs, j)
	}
	if key := s.rng(8); chance(key, 50) {
		for i := range s.jobs {
			// Who is not to run yet takes no place in the line of its record before its time.
			if j := &s.jobs[i]; j.NotBefore.IsZero() && chance(key, 30) {
				j.Key = &queue.Key{Field: "code", Value: fmt.Sprintf("C-%d", j.Record)}
			}
		}
	}
}

// process is the process with each action under all names that jobs have for it.
func (s *storm) process() simulator.Process {
	p := simulator.Process{Enabled: true, States: s.flow.states, Actions: slices.Clone(s.flow.actions)}
	seen := make(map[string]bool)
	jobs := s.jobs
	if s.campaign != nil {
		jobs = slices.Concat(jobs, s.campaign.held)
	}
	for _, j := range jobs {
		verb := j.Action[:strings.LastIndexByte(j.Action, ' ')]
		if seen[j.Action] {
			continue
		}
		seen[j.Action] = true
		for _, a := range s.flow.actions {
			if a.Name == verb {
				a.Name = j.Action
				p.Actions = append(p.Actions, a)
			}
		}
	}
	return p
}

func (s *storm) run() {
	began := time.Now()
	r := s.rng(2)
	s.calm = began.Add(within(r, 6*time.Minute, 10*time.Minute))
	if chance(r, 40) {
		s.dark = began.Add(within(r, time.Minute, 5*time.Minute))
		s.dawn = s.dark.Add(within(r, 5*time.Second, 2*time.Minute))
	}
	s.strike(s.fault(s.rng(3)))
	s.hire()
	if s.two {
		s.hire()
	}
	s.people()
	if s.campaign != nil {
		s.found()
	}
	s.conduct(s.rng(4))
	time.Sleep(time.Until(s.calm))
	stormy := s.sim.Requests().Total
	s.public.Wait()
	if len(s.crew) == 0 {
		s.hire()
	}
	if s.ends(3 * time.Hour) {
		s.republish(s.rng(5))
		s.ends(time.Hour)
	}
	s.finish(stormy, time.Since(began))
}

// fault is what befalls requests.
func (s *storm) fault(r *rand.Rand) func(simulator.Request) simulator.Fault {
	return func(q simulator.Request) simulator.Fault {
		put, rate := q.Method == "PUT", s.rate
		if s.reforms != nil {
			put, rate = s.reforms.arrives(q)
		}
		if put && !isSettings(q) {
			s.note(q)
		}
		now := time.Now()
		if now.After(s.calm) || !chance(r, rate) && (now.Before(s.dark) || now.After(s.dawn)) {
			return simulator.Fault{}
		}
		s.sum.struck++
		f := simulator.Fault{Kind: simulator.FaultKind(1 + r.IntN(int(simulator.Hang)))}
		if chance(r, 15) {
			f.Kind = simulator.LateCommit
		}
		if !put {
			// What acts on nothing can only be lost, refused or slow.
			f.Kind = []simulator.FaultKind{simulator.LostReply, simulator.Unavailable, simulator.TooManyRequests, simulator.CutBody,
				simulator.HTML200, simulator.ServerError, simulator.Locked}[r.IntN(7)]
			return f
		}
		f.Applied = chance(r, 50)
		switch f.Kind {
		case simulator.LateCommit:
			f.Applied, f.Delay = true, s.delay(r)
		case simulator.TooManyRequests, simulator.Locked:
			f.Applied = false
		case simulator.Repeat:
			f.Applied = false
		case simulator.Unavailable:
			f.RetryAfter = time.Duration(r.IntN(3)) * time.Second
		case simulator.ServerError, simulator.BadGateway, simulator.Status520, simulator.Hang:
			if f.Applied && chance(r, 40) {
				f.Delay = s.delay(r)
			}
		}
		if isSettings(q) {
			s.reforms.struck(f)
			return f
		}
		s.notes.Lock()
		s.faults[q.N] = f
		s.notes.Unlock()
		return f
	}
}

// delay is how late a request is carried out: often so soon that the next copy of it has not come yet.
func (s *storm) delay(r *rand.Rand) time.Duration {
	if chance(r, 60) {
		return within(r, 50*time.Millisecond, 2*time.Second)
	}
	return within(r, 2*time.Second, latest)
}

// note keeps a status request as it came.
func (s *storm) note(q simulator.Request) {
	var body struct {
		ID, Revision json.Number
		Action       string
		Records      []struct {
			ID, Revision json.Number
			Action       string
		}
	}
	if err := json.Unmarshal(q.Body, &body); err != nil {
		s.t.Errorf("request %d: %v", q.N, err)
		return
	}
	a := asked{n: q.N, at: time.Now()}
	add := func(id, revision json.Number, action string) {
		record, _ := id.Int64()
		pin, _ := revision.Int64()
		a.members = append(a.members, change{record, pin, action})
	}
	if body.ID != "" {
		add(body.ID, body.Revision, body.Action)
	}
	for _, m := range body.Records {
		add(m.ID, m.Revision, m.Action)
	}
	s.notes.Lock()
	defer s.notes.Unlock()
	s.h.asked = append(s.h.asked, a)
	if s.robot {
		s.public.Go(func() {
			time.Sleep(50 * time.Millisecond)
			for _, m := range a.members {
				if st, ok := s.sim.Record(testApp, m.Record); ok && st.Revision > m.Revision && st.Modifier == simulator.Administrator {
					s.edit(m.Record, "sato")
				}
			}
		})
	}
}

// edit is somebody who writes to a record.
func (s *storm) edit(record int64, who string) {
	if s.sim.Edit(testApp, record, who) != nil {
		return // it is gone
	}
	st, _ := s.sim.Record(testApp, record)
	s.notes.Lock()
	defer s.notes.Unlock()
	s.h.edits = append(s.h.edits, edit{record, st.Revision})
}

// people sets everybody else to work until the calm.
func (s *storm) people() {
	every := func(r *rand.Rand, from, to time.Duration, do func()) {
		s.public.Go(func() {
			for {
				time.Sleep(within(r, from, to))
				if !time.Now().Before(s.calm) {
					return
				}
				do()
			}
		})
	}
	p := s.rng(6)
	every(p, time.Second, 20*time.Second, func() {
		record := int64(1 + p.IntN(s.records))
		who := []string{"sato", "suzuki"}[p.IntN(2)]
		if s.h.shared && chance(p, 50) {
			who = simulator.Administrator
		}
		if chance(p, 60) {
			s.edit(record, who)
			return
		}
		// Not every action is possible everywhere: then nothing happens.
		a := s.flow.actions[p.IntN(len(s.flow.actions))]
		assignee := ""
		if a.To == "In review" {
			assignee = "sato"
		}
		_ = s.sim.Act(testApp, record, who, a.Name, assignee)
	})
	if s.deleting {
		d := s.rng(7)
		every(d, 2*time.Minute, 4*time.Minute, func() {
			record := int64(1 + d.IntN(s.records))
			if s.sim.Delete(testApp, record) == nil {
				s.notes.Lock()
				s.h.gone[record] = true
				s.notes.Unlock()
			}
		})
	}
	if s.operator {
		o := s.rng(8)
		every(o, time.Minute, 3*time.Minute, func() { s.operate(o) })
	}
	if s.reforms != nil {
		s.public.Go(s.reforms.run)
	}
	if s.admin {
		s.public.Go(func() { s.administer(s.rng(9)) })
	}
}

// nobodys is a condition that no record satisfies.
const nobodys = `Kind = "nothing"`

// administer changes the process settings: to no effect, so that an action is refused, or that none is possible. At the
// calm all is as it was.
func (s *storm) administer(r *rand.Rand) {
	set := func(change func(*simulator.Process)) {
		s.interfere(change)
		s.sum.count("settings changed", 1)
	}
	restore := func(p *simulator.Process) {
		conds := make(map[string]string)
		for _, a := range s.process().Actions {
			conds[a.Name] = a.FilterCond
		}
		for i := range p.Actions {
			if p.Actions[i].FilterCond == nobodys {
				p.Actions[i].FilterCond = conds[p.Actions[i].Name]
			}
		}
		p.Enabled = true
	}
	for time.Now().Before(s.calm) {
		time.Sleep(within(r, 30*time.Second, 3*time.Minute))
		switch r.IntN(3) {
		case 0:
			set(restore)
			continue
		case 1:
			verb := s.flow.actions[r.IntN(len(s.flow.actions))].Name
			set(func(p *simulator.Process) {
				for i := range p.Actions {
					if strings.HasPrefix(p.Actions[i].Name, verb) {
						p.Actions[i].FilterCond = nobodys
					}
				}
			})
		case 2:
			set(func(p *simulator.Process) { p.Enabled = false })
		}
		time.Sleep(within(r, 10*time.Second, 2*time.Minute))
		set(restore)
	}
}

// interfere is somebody who changes the settings in force, on the screen and at once. What waits in the preview is gone.
func (s *storm) interfere(change func(*simulator.Process)) {
	s.notes.Lock()
	defer s.notes.Unlock()
	if s.reforms != nil {
		s.reforms.look()
	}
	now, err := s.sim.Settings(testApp)
	if err == nil {
		change(&now.Live)
		err = s.sim.SetProcess(testApp, now.Live)
	}
	if err != nil {
		s.t.Errorf("change settings: %v", err)
	}
	if s.reforms != nil {
		s.reforms.interfered()
	}
}

// operate is an operator who goes through the letters. Of an unknown outcome he knows the truth, as from the history of
// the record.
func (s *storm) operate(r *rand.Rand) {
	letters, _ := s.collect()
	for _, d := range letters {
		if d.Reason == ReasonIDReused || !chance(r, 40) {
			continue
		}
		op := s.h.operated[d.Seq]
		if op == nil {
			op = &operation{}
			s.h.operated[d.Seq] = op
		}
		var err error
		var done func()
		switch {
		case d.Outcome == queue.Unknown:
			how := queue.ResolveApplied
			done = func() { op.resolved++; op.removed = true }
			if !s.wasRun(d.Job) {
				how = queue.ResolveNotApplied
				if chance(r, 50) {
					how = queue.ResolveRetry
					done = func() { op.retried++; op.removed = false }
				}
			}
			s.sum.count("letter resolved", 1)
			err = s.queue.ResolveDead(s.t.Context(), d, how, "operator", "storm")
		case chance(r, 75):
			s.sum.count("letter retried", 1)
			done = func() { op.retried++; op.removed = false }
			err = s.queue.RetryDead(s.t.Context(), d, "operator", "storm")
		default:
			s.sum.count("letter discarded", 1)
			done = func() { op.removed = true }
			err = s.queue.DiscardDead(s.t.Context(), d, "operator", "storm")
		}
		switch {
		case err == nil:
			done()
		case !errors.Is(err, queue.ErrGone):
			done()
			op.unclear++
		}
	}
}

func (s *storm) wasRun(j queue.Job) bool {
	return slices.ContainsFunc(s.sim.Commits(), func(c simulator.Commit) bool {
		return !c.Foreign && c.Record == j.Record && c.Action == j.Action
	})
}

// collect reads the letters and keeps their evidence. While connections are cut it may see only some of them.
func (s *storm) collect() ([]queue.DeadLetter, error) {
	var all []queue.DeadLetter
	for d, err := range s.queue.Dead(s.t.Context(), queue.DeadFilter{Site: "main"}) {
		if err != nil {
			return all, err
		}
		all = append(all, d)
		s.h.letters[d.Seq] = append(s.h.letters[d.Seq], d)
	}
	return all, nil
}

func (s *storm) hire() {
	s.hired++
	s.crew = append(s.crew, s.start(fmt.Sprintf("w%d", s.hired)))
}

// conduct publishes the jobs and makes workers come and go, until shortly before the calm.
func (s *storm) conduct(r *rand.Rand) {
	next := 0
	batch := func() {
		if some := min(3+r.IntN(15), len(s.jobs)-next); some > 0 {
			s.send(s.jobs[next : next+some])
			next += some
		} else if chance(r, 30) {
			s.sendAgain(r, 3)
		}
	}
	for time.Until(s.calm) > time.Minute || next < len(s.jobs) {
		batch()
		s.pause(r, within(r, 100*time.Millisecond, []time.Duration{2 * time.Second, 40 * time.Second}[r.IntN(2)]))
		at := r.IntN(len(s.crew))
		wk := s.crew[at]
		switch r.IntN(14) {
		case 0, 1:
			s.sum.count("crash", 1)
			s.crash(wk)
			s.replace(r, at, wk)
		case 2:
			s.sum.count("stop", 1)
			s.end(wk)
			s.replace(r, at, wk)
		case 3:
			s.sum.count("disconnect", s.server.Disconnect())
		case 4, 5, 6:
			if s.freezing {
				s.paralyse(r, batch)
			}
		}
	}
}

// pause waits, and kills the owner meanwhile if it is to die of what it does.
func (s *storm) pause(r *rand.Rand, d time.Duration) {
	var doom chan struct{}
	if s.reforms != nil {
		doom = s.reforms.doom
	}
	select {
	case <-time.After(d):
	case <-doom:
		s.mu.Lock()
		wk := s.owner
		s.mu.Unlock()
		if at := slices.Index(s.crew, wk); at >= 0 {
			s.sum.count("crash in a change", 1)
			s.crash(wk)
			s.replace(r, at, wk)
		}
	}
}

func (s *storm) replace(r *rand.Rand, at int, wk *worker) {
	s.leave(wk)
	s.crew = slices.Delete(s.crew, at, at+1)
	if len(s.crew) == 0 || chance(r, 60) {
		time.Sleep(within(r, 0, 20*time.Second))
		s.hire()
	}
}

func (s *storm) leave(wk *worker) { s.h.peak = max(s.h.peak, wk.tap.peak()) }

// paralyse cuts a worker off from NATS for a while, mostly the owner. What it hands to the transport before it gives up
// is held, and reaches kintone minutes later; what it wrote to NATS arrives when the line is mended.
func (s *storm) paralyse(r *rand.Rand, batch func()) {
	wk := s.crew[r.IntN(len(s.crew))]
	s.mu.Lock()
	if slices.Contains(s.crew, s.owner) && chance(r, 80) {
		wk = s.owner
	}
	s.mu.Unlock()
	brief := chance(r, 20)
	hold := rand.New(rand.NewPCG(s.seed, r.Uint64()))
	wk.tap.holding(func() time.Duration {
		if !chance(hold, 50) {
			return 0
		}
		return within(hold, time.Second, latest)
	})
	batch()
	for range 50 {
		if time.Sleep(300 * time.Millisecond); wk.tap.holds() > 0 {
			break
		}
	}
	time.Sleep(within(r, 0, time.Second))
	wk.line.freeze()
	wk.tap.setCutOff(time.Now())
	d := within(r, 12*time.Second, 80*time.Second)
	if brief {
		d = within(r, 100*time.Millisecond, 9*time.Second)
	}
	// Jobs come meanwhile, for the next owner to take.
	if chance(r, 50) {
		s.sendAgain(r, 1)
	}
	time.Sleep(d)
	s.mu.Lock()
	deposed := s.owner != wk
	s.mu.Unlock()
	s.sum.count("frozen", 1)
	wk.tap.holding(nil)
	wk.tap.setCutOff(time.Time{})
	before := s.epoch()
	if wk.line.thaw() && deposed {
		s.sum.count("late ledger write", 1)
	}
	for range 2 {
		time.Sleep(time.Second)
		if now := s.epoch(); before > 0 && now > 0 && now < before {
			s.t.Errorf("a slot stands at epoch %d, all stood at %d: an owner that was deposed wrote to it", now, before)
		}
	}
}

// epoch is the least that a slot stands at: what all owners before it wrote is gone. It is 0 when that cannot be seen.
func (s *storm) epoch() uint64 {
	slots, err := s.queue.Slots(s.t.Context(), "main", testApp)
	if err != nil || len(slots) < queue.Slots {
		return 0
	}
	return slices.MinFunc(slots, func(a, b queue.SlotView) int { return cmp.Compare(a.Slot.Epoch, b.Slot.Epoch) }).Slot.Epoch
}

// send publishes jobs and keeps what the log says.
func (s *storm) send(jobs []queue.Job) {
	wire := slices.Clone(jobs)
	for i := range wire {
		if wire[i].Key != nil {
			wire[i].Record = 0 // only the test knows it
			s.sum.count("jobs with a key", 1)
		}
	}
	acks, err := s.queue.Publish(s.t.Context(), wire)
	if err != nil {
		s.t.Errorf("publish: %v", err)
		return
	}
	for i, a := range acks {
		// A duplicate of nothing that was told before is that of an attempt whose answer was lost.
		if a.Duplicate && slices.ContainsFunc(s.h.accepted, func(b accepted) bool { return b.seq == a.Seq }) {
			s.sum.count("republished in the window", 1)
			continue
		}
		s.h.accepted = append(s.h.accepted, accepted{jobs[i], a.Seq})
		if s.campaign != nil {
			s.campaign.sent[a.Seq] = time.Now()
		}
	}
}

// sendAgain publishes some of the jobs that were published before once more.
func (s *storm) sendAgain(r *rand.Rand, n int) {
	var again []queue.Job
	for range n {
		if len(s.h.accepted) == 0 {
			return
		}
		j := s.h.accepted[r.IntN(len(s.h.accepted))].job
		if j.ID != "" && !slices.ContainsFunc(again, func(o queue.Job) bool { return o.ID == j.ID }) {
			again = append(again, j)
		}
	}
	s.send(again)
}

// republish sends jobs again when the log has forgotten their ids, and once an id with another record.
func (s *storm) republish(r *rand.Rand) {
	time.Sleep(time.Until(s.calm.Add(5 * time.Minute)))
	if chance(r, 50) {
		// The ids are read back from the ledger then.
		for _, wk := range s.crew {
			s.end(wk)
			s.leave(wk)
		}
		s.crew = nil
		s.hire()
	}
	if s.campaign != nil {
		s.send(s.campaign.held)
	}
	s.sendAgain(r, 5)
	other := s.h.accepted[0].job
	if other.ID != "" {
		other.Record += 500
		other.Key = nil
		s.send([]queue.Job{other})
	}
}

// ends waits until the owner says that nothing is left, and reports whether it did.
func (s *storm) ends(within time.Duration) bool {
	deadline := time.Now().Add(within)
	time.Sleep(5 * time.Second) // until the jobs that were published last are read
	for {
		for _, wk := range s.crew {
			st := wk.owner.Status()
			if st.Epoch == 0 || len(st.Lanes) != 1 || st.Lanes[0].State != "running" {
				continue
			}
			if l := st.Lanes[0]; l.Backlog == 0 && l.Slots == 0 && l.Parked == 0 {
				return true
			}
		}
		if time.Now().After(deadline) {
			s.t.Errorf("something is left after %v: %s", within, s.whereabouts())
			return false
		}
		time.Sleep(5 * time.Second)
	}
}

// finish gathers the four histories and has them checked.
func (s *storm) finish(stormy int, simulated time.Duration) {
	for _, wk := range s.crew {
		s.end(wk)
		s.leave(wk)
	}
	s.late.Wait()
	s.sim.Flush()
	s.public.Wait() // a robot that still followed a request

	for r, err := range s.queue.Results(s.t.Context(), queue.ResultFilter{Site: "main"}) {
		if err != nil {
			s.t.Fatalf("read results: %v", err)
		}
		s.h.results = append(s.h.results, r)
	}
	left, err := s.collect()
	if err != nil {
		s.t.Fatalf("read dead letters: %v", err)
	}
	slots, err := s.queue.Slots(s.t.Context(), "main", 0)
	if err != nil {
		s.t.Fatalf("read slots: %v", err)
	}
	log, err := s.queue.Backlog(s.t.Context(), "main")
	if err != nil {
		s.t.Fatalf("read the log: %v", err)
	}
	s.h.left, s.h.slots, s.h.log, s.h.commits = left, slots, log[testApp], s.sim.Commits()
	err = s.h.check()
	if s.campaign != nil {
		err = errors.Join(err, s.judgeCampaign())
	}
	if s.reforms != nil {
		s.reforms.finish()
		err = errors.Join(err, errors.Join(s.reforms.wrong...))
	}
	if err != nil {
		s.t.Errorf("%v, %d records, struck %d%%, robot %v, admin %v, freezing %v, two %v, operator %v, reforms %v, campaign %v, %+v:\n%v",
			s.flow.name, s.records, s.rate, s.robot, s.admin, s.freezing, s.two, s.operator, s.reforms != nil, s.campaign != nil, s.apps[testApp], err)
	}

	s.sum.seeds++
	s.sum.jobs += len(s.h.accepted)
	s.sum.requests += s.sim.Requests().Total
	s.sum.stormy += stormy
	s.sum.simulated += simulated
	s.sum.count("zombie", s.zombies)
	for _, c := range s.h.commits {
		n, again := requestNumber(c)
		f, struck := s.faults[n]
		switch {
		case c.Foreign || !struck:
		case again:
			s.sum.count("repetition that acted", 1)
		case f.Delay > 0:
			s.sum.count("late commit", 1)
		case f.Kind == simulator.Repeat:
			s.sum.count("proxy repeated", 1)
		}
	}
	s.sum.heard(s.events)
	s.sum.ended(s.h.results)
}
