//go:build crash

package crash

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
)

// Owners are stopped for longer than their lease lives, at the worst places, and go on when others have done their work.
// They write nothing more, send at most what they had written down, and stand by.
func TestZombies(t *testing.T) {
	t.Parallel()
	const atOnce = 14
	seed := seed(t)
	n := setting(t, "STATUSQ_ZOMBIES", 14)
	b := newBroker(t)
	w := b.watch()
	q := b.connect()
	// Where a zombie is held; "" is anywhere. With a request or a write that may still leave, or one that is on its way.
	points := []string{
		"gate.passed", "send.leaving", onTheWay, "ledger.sending", "", "slot.filled", "settle.begun", "http.body",
		"lease.renewing", "http.answered", "claim.read", onTheWay, "change.putting", "change.deploying",
	}
	changes := newStory()
	var (
		mu    sync.Mutex // guards what follows
		taken []takeover
		late  int // requests that arrived after their owner had been replaced
		held  = make(map[string]int)
	)
	t.Run("sites", func(t *testing.T) {
		for at := range min(n, atOnce) {
			t.Run(fmt.Sprintf("z%02d", at), func(t *testing.T) {
				t.Parallel()
				rng := rand.New(rand.NewPCG(seed, uint64(at)))
				// A zombie's request may be as late as the zombie is.
				s := newSite(t, fmt.Sprintf("z%02d", at), rng, "5m")
				s.kintone.calmDown()
				s.story = changes
				s.join(b, w, q)
				for round := at; round < n && !t.Failed(); round += atOnce {
					point := points[(round+round/len(points))%len(points)]
					sent := s.zombie(point)
					mu.Lock()
					held[point]++
					late += sent
					mu.Unlock()
				}
				last := s.start()
				s.owned(last)
				s.finish(last, 90*time.Second)
				s.check(last)
				s.stop(last)
				mu.Lock()
				defer mu.Unlock()
				for _, o := range s.takeovers() {
					if s.wishes > 0 {
						o.commit = 0 // a change of the settings came first
					}
					taken = append(taken, o)
				}
			})
		}
	})
	for _, wrong := range w.complaints() {
		t.Error(wrong)
	}
	t.Logf("%d zombies, held at %v; %d requests arrived after their owner had been replaced", n, held, late)
	if n >= len(points) && late == 0 {
		t.Error("no request arrived after its owner had been replaced: the test shows nothing")
	}
	changes.report(t, false)
	judge(t, taken)
	for _, o := range taken {
		if o.commit > 20*time.Second {
			t.Errorf("%s: the first commit of a new owner came after %v, want at most 20 s", o.site, o.commit)
		}
	}
}

// onTheWay stops a worker whose request has left and has not arrived. It arrives when the worker goes on.
const onTheWay = "on the way"

// zombie makes one out of an owner and returns how many of its requests arrived after it had been replaced.
func (s *site) zombie(point string) (late int) {
	s.t.Helper()
	order := ""
	if point != "" && point != onTheWay {
		// Behind the first requests and writes of a start, mostly; claims and what comes once at the first.
		count := map[string]int{"ledger.sending": 17 + s.rng.IntN(4), "gate.passed": 4 + s.rng.IntN(3), "http.connected": 4 + s.rng.IntN(3),
			"http.answered": 4 + s.rng.IntN(3), "claim.read": 1 + s.rng.IntN(16)}[point]
		order = fmt.Sprintf("STATUSQ_FAILPOINT_STOP=%s:%d", point, max(1, count))
	}
	s.work()
	let := func() {}
	if point == onTheWay {
		let = s.kintone.hold(len(s.procs))
		defer let()
	}
	before := s.kintone.travelling()
	owner := s.start(order)
	number := len(s.procs) - 1
	s.publish(owner)
	s.owned(owner)
	if atChange(point) {
		s.serves(owner)
		s.apply(owner, s.draw(point))
	}
	switch point {
	case onTheWay:
		if !within(8*time.Second, func() bool { return s.kintone.travelling() > before }) {
			s.t.Errorf("%s: a worker sends nothing\n%s", s.name, owner.tail(2000))
		}
		owner.signal(syscall.SIGSTOP)
	case "":
		time.Sleep(time.Duration(s.rng.IntN(400)) * time.Millisecond)
		owner.signal(syscall.SIGSTOP)
	}
	if !within(8*time.Second, owner.stopped) {
		s.t.Errorf("%s: a worker does not come to %s\n%s", s.name, point, owner.tail(2000))
		owner.signal(syscall.SIGSTOP)
		within(time.Second, owner.stopped)
	}
	stopped := time.Now()
	s.deaths = append(s.deaths, death{pid: owner.pid(), at: stopped})

	standby := s.start()
	s.work()
	s.publish(standby)
	if !within(22*time.Second, func() bool { _, at := s.watch.firstClaim(s.name, standby.pid()); return !at.IsZero() }) {
		s.t.Errorf("%s: nobody takes over from a stopped owner within 22 s\n%s", s.name, standby.tail(2000))
	}
	var settings simulator.SettingsState
	if atChange(point) {
		settings = s.outrun(number, standby)
	}
	// Now and then the zombie wakes while the new owner is at it, mostly when everything is done.
	if s.rng.IntN(3) > 0 {
		s.finish(standby, 30*time.Second)
	}
	if d := time.Until(stopped.Add(16 * time.Second)); d > 0 {
		time.Sleep(d)
	}

	epoch, _ := s.watch.epoch(s.name)
	arrived := len(s.kintone.asked())
	let()
	owner.signal(syscall.SIGCONT)
	if !within(10*time.Second, func() bool { return owner.says(`"msg":"deposed"`) }) {
		s.t.Errorf("%s: an owner that was stopped past its lease goes on\n%s", s.name, owner.tail(3000))
	}
	s.work()
	s.publish(standby)
	s.finish(standby, 30*time.Second)
	if now, pid := s.watch.epoch(s.name); now != epoch || pid != standby.pid() {
		s.t.Errorf("%s: the ledger is of epoch %d by process %d, want %d by %d, which lives", s.name, now, pid, epoch, standby.pid())
	}
	for _, c := range s.kintone.asked()[arrived:] {
		if c.worker == number {
			late++ // that it stood in a slot is checked at the end, for all
		}
	}
	if after, err := s.kintone.sim.Settings(app); atChange(point) && (err != nil || settingsText(after) != settingsText(settings)) {
		s.t.Errorf("%s: a zombie changed the settings (%v):\nbefore: %s\nafter: %s", s.name, err, settingsText(settings), settingsText(after))
	}
	if late > 4 {
		s.t.Errorf("%s: a zombie sent %d requests, want no more than it had out", s.name, late)
	}

	// It is a worker like any other again: when the other goes, it takes over.
	s.deaths = append(s.deaths, death{pid: standby.pid(), at: time.Now(), removed: true})
	s.stop(standby)
	s.work()
	s.publish(owner)
	s.finish(owner, 60*time.Second) // it may still wait after its deposition
	s.stop(owner)
	s.deaths = append(s.deaths, death{pid: owner.pid(), at: owner.ended, removed: true})
	return late
}

// outrun lets the new owner bring a change to its end whose request the zombie still holds. Then somebody else changes the
// preview, which is nothing for the zombie to deploy. It gives what the settings have to be from now on.
func (s *site) outrun(zombie int, owner *process) simulator.SettingsState {
	s.t.Helper()
	s.kintone.depose(zombie)
	if !within(40*time.Second, func() bool { return s.account(s.shared) }) {
		s.t.Errorf("%s: a change of the settings that a stopped owner had begun does not end\n%s", s.name, owner.tail(3000))
	}
	err := s.kintone.sim.Pend(app, rival, nil)
	now, err2 := s.kintone.sim.Settings(app)
	if err != nil || err2 != nil {
		s.t.Error(s.name, err, err2)
	}
	return now
}

// work makes jobs on records that nobody touches, so that they are done as soon as somebody does them.
func (s *site) work() {
	for range 60 {
		s.link(s.rng.IntN(chains))
	}
}
