//go:build crash

package crash

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"statusq/internal/failpoint"
	"statusq/internal/queue"
)

// Workers die hundreds of times, at every fail point and anywhere, and at the end every job has ended once, and kintone
// did each action that is called applied once and in its turn, and no other.
func TestKills(t *testing.T) {
	t.Parallel()
	const shared, embedded = 18, 6
	began := time.Now()
	seed := seed(t)
	d := newDeck(rand.New(rand.NewPCG(seed, 0)), setting(t, "STATUSQ_KILLS", 300))
	b := newBroker(t)
	w := b.watch()
	q := b.connect()

	var (
		mu    sync.Mutex // guards what follows
		all   tally
		taken []takeover
	)
	all.outcomes = make(map[queue.Outcome]int)
	changes := newStory()
	t.Run("sites", func(t *testing.T) {
		for n := range shared + embedded {
			name := fmt.Sprintf("s%02d", n)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, name, rand.New(rand.NewPCG(seed, uint64(n+1))), "4s")
				s.story = changes
				if n < shared {
					s.join(b, w, q)
				} else {
					s.embed()
					for _, point := range []string{"embedded.started", "setup.stream", "setup.stream", "setup.bucket", "setup.bucket:2", "setup.done"} {
						d.took(s.die(card{point: point}))
					}
				}
				for !t.Failed() {
					c, more := d.deal(s)
					if !more {
						break
					}
					d.took(s.cycle(c))
				}
				s.kintone.calmDown()
				p := s.begin("")
				s.owned(p)
				s.conclude(p)
				s.finish(p, 90*time.Second)
				one := s.check(p)
				s.stop(p)
				mu.Lock()
				defer mu.Unlock()
				taken = append(taken, s.takeovers()...)
				all.jobs += one.jobs
				for outcome, n := range one.outcomes {
					all.outcomes[outcome] += n
				}
			})
		}
	})
	for _, wrong := range w.complaints() {
		t.Error(wrong)
	}
	took := time.Since(began)
	t.Logf("%d kills in %v, %.0f a minute; %d jobs: %v", d.kills, took.Round(time.Second), float64(d.kills)/took.Minutes(), all.jobs, all.outcomes)
	d.report(t)
	changes.report(t, d.budget >= 250)
	judge(t, taken)
	if all.outcomes[queue.Applied] < all.jobs/2 {
		t.Errorf("only %d of %d jobs were applied: the test shows nothing", all.outcomes[queue.Applied], all.jobs)
	}
}

// card is one way to die.
type card struct {
	point  string // "" = at random
	stolen bool   // two workers believe that they own the site, and both die
	change bool   // at random, over a change of the settings
}

// Points that only some workers, or only enqueue, come by, or that need something to happen.
var (
	atSetup  = []string{"embedded.started", "setup.stream", "setup.bucket"}
	atRetry  = []string{"retry.sending", "retry.stored", "retried.heard", "retried.adopted"}
	atStop   = []string{"stop.begun", "stop.done", "lane.stopping", "lease.releasing"}
	ofClient = []string{"retry.sending", "retry.stored", "publish.stored"}
)

// most is how often a point is hit in a short life: the hit that kills is drawn from so many. Of others it is the first.
var most = map[string]int{
	"claim.read": 16, "claim.stored": 16, "load.entry": 10, "ledger.sending": 30, "ledger.answered": 30, "ledger.settled": 4,
	"parking.settled": 2, "log.entry": 20, "log.taken": 2, "gate.waiting": 10, "gate.passed": 10, "http.connected": 10, "http.headers": 10,
	"http.body": 4, "http.written": 10, "http.answered": 10, "http.read": 10, "look.asking": 2, "look.read": 2, "slot.filling": 3,
	"slot.filled": 3, "send.leaving": 4, "send.answered": 4, "settle.begun": 3, "settle.done": 3, "ends.decided": 2, "ends.stored": 2,
	"change.noted": 2, "change.looked": 4, "change.stored": 2, "change.answered": 2, "change.polled": 2,
}

// deck deals the ways to die to all sites, so that each has its turn.
type deck struct {
	mu     sync.Mutex // guards what follows
	rng    *rand.Rand
	budget int
	kills  int
	cards  []card
	hits   map[string]int
	missed map[string]int
	random int
	change int // of them, over a change of the settings
	stolen int
}

func newDeck(rng *rand.Rand, budget int) *deck {
	return &deck{rng: rng, budget: budget, hits: make(map[string]int), missed: make(map[string]int)}
}

// deal gives the next card that the site can play, as long as there are kills left.
func (d *deck) deal(s *site) (card, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.kills >= d.budget {
		return card{}, false
	}
	if len(d.cards) == 0 {
		for _, point := range failpoint.Names {
			if !slices.Contains(atSetup, point) {
				d.cards = append(d.cards, card{point: point})
			}
		}
		for range 12 {
			d.cards = append(d.cards, card{})
		}
		for range 4 {
			d.cards = append(d.cards, card{stolen: true})
		}
		for range 8 {
			d.cards = append(d.cards, card{change: true})
		}
		d.rng.Shuffle(len(d.cards), func(i, j int) { d.cards[i], d.cards[j] = d.cards[j], d.cards[i] })
	}
	for i, c := range d.cards {
		if c.point == "publish.stored" && !s.served {
			continue // enqueue would refuse a site that it has never heard of, among others that it has
		}
		if s.broker != nil || !c.stolen && !slices.Contains(atRetry, c.point) && !slices.Contains(ofClient, c.point) {
			d.cards = slices.Delete(d.cards, i, i+1)
			return c, true
		}
	}
	return card{}, true
}

// took notes how a card was played. A point that was missed is dealt again soon.
func (d *deck) took(c card, hit bool, kills int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kills += kills
	name, _, _ := strings.Cut(c.point, ":")
	switch {
	case c.stolen:
		d.stolen++
	case name == "":
		d.random++
		if c.change {
			d.change++
		}
	case hit:
		d.hits[name]++
	default:
		d.missed[name]++
		if !slices.Contains(atSetup, name) {
			d.cards = slices.Insert(d.cards, 0, c)
		}
	}
}

// report says how often each point was hit; each has to have been.
func (d *deck) report(t *testing.T) {
	t.Helper()
	t.Logf("%d at random, %d of them over a change of settings, %d times two that believed to own a site, %d at points, %d points missed at first", d.random, d.change, d.stolen,
		sum(d.hits), sum(d.missed))
	var b strings.Builder
	for _, name := range failpoint.Names {
		fmt.Fprintf(&b, "\n%4d  %s", d.hits[name], name)
		if d.missed[name] > 0 {
			fmt.Fprintf(&b, " (missed %d times)", d.missed[name])
		}
		if d.hits[name] == 0 && d.budget >= 250 {
			t.Errorf("nobody died at %s", name)
		}
	}
	t.Log("hits:" + b.String())
}

func sum(counts map[string]int) (n int) {
	for c := range maps.Values(counts) {
		n += c
	}
	return n
}

// begin starts a worker and gives it something to do. A lease that is to be removed is.
func (s *site) begin(order string) *process {
	s.t.Helper()
	p := s.start(order)
	if s.held {
		s.held = false
		s.removeLease(p)
	}
	s.publish(p)
	return p
}

// bury notes the death of a worker that was or is killed. Three times of four its lease is removed.
func (s *site) bury(p *process) {
	s.t.Helper()
	p.kill()
	p.forget()
	s.dismiss()
	d := death{pid: p.pid(), at: p.ended, removed: s.rng.IntN(4) > 0}
	s.deaths = append(s.deaths, d)
	if !d.removed {
		return
	}
	if s.broker != nil {
		s.removeLease(p)
	} else {
		s.held = true // by the next worker's server
	}
}

// cycle brings new jobs, and one or two deaths.
func (s *site) cycle(c card) (card, bool, int) {
	s.t.Helper()
	s.batch()
	s.help()
	s.meddle()
	switch {
	case c.stolen:
		return s.steal(c)
	case c.change, atChange(c.point):
		return s.change(c)
	case slices.Contains(atRetry, c.point):
		return s.retry(c)
	case c.point == "publish.stored":
		return s.send(c)
	case c.point == "":
		p := s.begin("")
		if s.rng.IntN(2) == 0 {
			s.owned(p)
		}
		p.ends(time.Duration(50+s.rng.IntN(1500)) * time.Millisecond)
		if !p.alive() {
			s.t.Errorf("%s: a worker ended by itself: %v\n%s", s.name, p.cmd.ProcessState, p.tail(2000))
		}
		s.bury(p)
		return c, true, 1
	}
	return s.die(c)
}

// owned waits until a worker that nothing but a lease can hold up owns its site, or is dead.
func (s *site) owned(p *process) {
	s.t.Helper()
	if !s.owns(p, 25*time.Second) && p.alive() {
		s.t.Errorf("%s: a worker does not own its site after 25 s\n%s", s.name, p.tail(2000))
	}
}

// serves waits until the owner of the site has begun with its app, or is dead.
func (s *site) serves(p *process) {
	s.t.Helper()
	within(10*time.Second, func() bool { return p.says(`"msg":"lane"`) || !p.alive() })
	s.served = s.served || p.says(`"msg":"lane"`)
}

// die lets a worker die at a point, or, if it does not come by it, after a while.
func (s *site) die(c card) (card, bool, int) {
	s.t.Helper()
	name, count, counted := strings.Cut(c.point, ":")
	if !counted {
		count = fmt.Sprint(1 + s.rng.IntN(max(1, most[name])))
	}
	patience := 3 * time.Second
	switch name {
	case "prove.again":
		s.kintone.next(s.move)
	case "cut.decided", "cut.stored":
		s.kintone.next(s.remove)
	case "lease.renewing", "lease.renewed":
		patience = 7 * time.Second
	case "parked.read":
		patience = 5 * time.Second
	}
	p := s.begin("STATUSQ_FAILPOINT=" + name + ":" + count)
	s.owned(p)
	s.serves(p)
	asked := slices.Contains(atStop, name)
	if asked {
		p.ends(time.Duration(s.rng.IntN(700)) * time.Millisecond)
		p.signal(syscall.SIGTERM)
		patience = 8 * time.Second
	}
	p.ends(patience)
	hit := p.at() == name
	if !hit && !p.alive() && !(asked && p.cmd.ProcessState.ExitCode() == 0) {
		s.t.Errorf("%s: a worker that was to die at %s ended by itself: %v\n%s", s.name, c.point, p.cmd.ProcessState, p.tail(2000))
	}
	s.bury(p)
	return c, hit, 1
}

// steal takes the lease of a living owner away. Another one owns the site at once, and the first has to notice.
func (s *site) steal(c card) (card, bool, int) {
	s.t.Helper()
	first := s.begin("")
	s.owned(first)
	second := s.start()
	if !within(5*time.Second, func() bool { return second.says(`"msg":"standby"`) }) {
		s.t.Errorf("%s: a second worker does not stand by", s.name)
	}
	s.batch()
	s.publish(second)
	if s.wish == nil && s.rng.IntN(2) == 0 {
		s.serves(first)
		s.apply(first, s.draw(""))
	}
	time.Sleep(time.Duration(s.rng.IntN(600)) * time.Millisecond)
	s.kintone.depose(len(s.procs) - 2)
	s.removeLease(first)
	if !within(20*time.Second, func() bool { _, at := s.watch.firstClaim(s.name, second.pid()); return !at.IsZero() }) {
		s.t.Errorf("%s: the lease was taken from its owner, and the standby does not claim the ledger\n%s", s.name, second.tail(2000))
	}
	if !within(15*time.Second, func() bool { return first.says(`"msg":"deposed"`) }) {
		s.t.Errorf("%s: an owner that was replaced goes on\n%s", s.name, first.tail(2000))
	}
	time.Sleep(time.Duration(s.rng.IntN(500)) * time.Millisecond)
	s.bury(first)
	s.bury(second)
	return c, true, 2
}

// retry has a person send a dead letter again. Somebody dies over it: the person's enqueue, or the worker that hears of
// it.
func (s *site) retry(c card) (card, bool, int) {
	s.t.Helper()
	j := s.add(waiting, s.fresh(), "Approve")
	p := s.begin("")
	s.owned(p)
	died := within(25*time.Second, func() bool {
		for _, err := range s.shared.Dead(s.t.Context(), queue.DeadFilter{Site: s.name, App: app, Job: j.ID}) {
			return err == nil
		}
		return false
	})
	if !died {
		s.t.Errorf("%s: job %s does not die although its record is not ready\n%s", s.name, j.ID, p.tail(3000))
	}
	s.move(j.Record)
	order := "STATUSQ_FAILPOINT=" + c.point
	again := []string{"dead", "retry", j.ID, "--app", fmt.Sprint(app), "--yes"}
	if slices.Contains(ofClient, c.point) {
		e := s.enqueue(order, again...)
		s.enqueue("", again...) // finds nothing any more if the first had got through
		time.Sleep(time.Duration(s.rng.IntN(300)) * time.Millisecond)
		s.bury(p)
		return c, e.at() == c.point, 2
	}
	s.bury(p)
	next := s.begin(order)
	s.owned(next)
	s.serves(next)
	if e := s.enqueue("", again...); e.cmd.ProcessState.ExitCode() != 0 {
		s.t.Errorf("%s: enqueue dead retry: %s", s.name, e.tail(1000))
	}
	next.ends(5 * time.Second)
	hit := next.at() == c.point
	s.bury(next)
	return c, hit, 2
}

// send has jobs published by an enqueue that dies over it, and by another one.
func (s *site) send(c card) (card, bool, int) {
	s.t.Helper()
	file := s.file()
	all := []string{"send", "--app", fmt.Sprint(app), "--file", file}
	first := s.enqueue("STATUSQ_FAILPOINT="+c.point, all...)
	if second := s.enqueue("", all...); second.cmd.ProcessState.ExitCode() == 0 {
		s.told = len(s.jobs)
	} else {
		s.t.Errorf("%s: enqueue send, the second time: %s", s.name, second.tail(1000))
	}
	p := s.begin("")
	s.owned(p)
	p.ends(time.Duration(s.rng.IntN(800)) * time.Millisecond)
	s.bury(p)
	return c, first.at() == c.point, 2
}

// takeover is how long a site was without an owner.
type takeover struct {
	site   string
	lease  time.Duration // from the end of one owner to the lease of the next one
	claim  time.Duration // to its first claim of a slot
	commit time.Duration // to its first request that kintone carried out; 0 if there was none
}

// takeovers are those in which a worker had to wait for the lease of a dead or stopped one, and was there to take it.
func (s *site) takeovers() []takeover {
	if s.watch == nil {
		return nil
	}
	var out []takeover
	held := s.watch.held(s.name)
	for i := 1; i < len(held); i++ {
		before, after := held[i-1], held[i]
		at := slices.IndexFunc(s.deaths, func(d death) bool { return d.pid == before.pid })
		n := slices.IndexFunc(s.procs, func(p *process) bool { return p.pid() == after.pid })
		if before.pid == after.pid || at < 0 || n < 0 {
			continue
		}
		end := s.deaths[at]
		_, claimed := s.watch.firstClaim(s.name, after.pid)
		if end.removed || s.procs[n].started.After(end.at.Add(time.Second)) || claimed.Before(end.at) {
			continue
		}
		took := takeover{site: s.name, lease: after.at.Sub(end.at), claim: claimed.Sub(end.at)}
		for _, c := range s.kintone.asked() {
			if c.worker == n && !c.executed.IsZero() {
				took.commit = c.executed.Sub(end.at)
				break
			}
		}
		out = append(out, took)
	}
	return out
}

// judge says how long takeovers took. None may take more than 20 s.
func judge(t *testing.T, all []takeover) {
	t.Helper()
	var leases, claims, commits []time.Duration
	for _, o := range all {
		leases = append(leases, o.lease)
		claims = append(claims, o.claim)
		if o.commit > 0 {
			commits = append(commits, o.commit)
		}
		if o.claim > 20*time.Second {
			t.Errorf("%s: a takeover took %v, of which the lease took %v, want at most 20 s", o.site, o.claim, o.lease)
		}
	}
	if len(claims) == 0 || len(commits) == 0 {
		t.Error("no takeover was seen to its end")
		return
	}
	spread := func(all []time.Duration) string {
		slices.Sort(all)
		return fmt.Sprintf("%v (median), %v (slowest)", all[len(all)/2].Round(time.Millisecond), all[len(all)-1].Round(time.Millisecond))
	}
	t.Logf("%d takeovers waited for a lease: lease after %s; first claim after %s; first commit (of %d) after %s", len(claims),
		spread(leases), spread(claims), len(commits), spread(commits))
}

// A worker dies when its last job has ended and before anybody else knows. The next one finds nothing to do, and leaves
// nothing behind all the same.
func TestDeathBehindTheLastJob(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	w := b.watch()
	q := b.connect()
	for _, point := range []string{"ledger.answered:17", "ledger.answered:18", "ledger.settled", "settle.done", "log.purging", "log.purged", "lease.releasing"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			name, _, _ := strings.Cut(point, ":")
			s := newSite(t, strings.NewReplacer(".", "-", ":", "-").Replace(point), rand.New(rand.NewPCG(1, 1)), "4s")
			s.kintone.calmDown()
			s.join(b, w, q)
			s.add(chained, s.fresh(), "Start")
			first := s.begin("STATUSQ_FAILPOINT=" + point)
			if point == "lease.releasing" {
				s.finish(first, 10*time.Second)
				first.signal(syscall.SIGTERM)
			}
			if !first.ends(10*time.Second) || first.at() != name {
				t.Fatalf("a worker does not die at %s\n%s", point, first.tail(2000))
			}
			s.removeLease(first)
			next := s.begin("")
			s.owned(next)
			s.finish(next, 20*time.Second)
			s.check(next)
			s.stop(next)
		})
	}
}
