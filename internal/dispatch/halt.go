package dispatch

import (
	"context"
	"time"

	"statusq/internal/kintone"
)

// renewEvery is how often the owner reads the secrets again while something stands still that new ones might set going.
const renewEvery = 5 * time.Second

// halt is why a lane takes nothing for the time being.
type halt struct {
	reason, detail string
	since, until   time.Time
	times          int  // probes that failed in a row
	probing        bool // one request is out to see whether it is over
}

// failed charges the app or the site with a failure; a job never pays for it.
func (l *lane) failed(j judgement) {
	if l.renewed(j) {
		l.halt.probing = false
		l.halt.until = time.Now()
		return
	}
	switch j.charge {
	case chargeApp:
		l.stop(j.reason, j.message, j.after)
		return
	case chargeLogin:
		l.haltSite(j)
	}
	l.unprobed()
}

// renewed reports whether a refusal may be past already: the request was signed with what has been replaced since, or the
// secrets are others now that they are read again.
func (l *lane) renewed(j judgement) bool {
	if j.charge != chargeLogin && j.reason != ReasonTokenInvalid && j.reason != ReasonNoPermission {
		return false
	}
	if l.outdated(j) {
		return true
	}
	changed, _ := l.client.Renew() // what is wrong with it the owner tells, who goes on reading
	return changed
}

func (l *lane) outdated(j judgement) bool { return j.signing != 0 && j.signing < l.client.Signing() }

// haltSite stops the whole site until the secrets change or somebody resumes it.
func (l *lane) haltSite(j judgement) {
	l.gate.Halt(j.reason + ": " + j.message)
	if l.outdated(j) {
		l.gate.Resume() // they have changed in this moment, and the owner may have resumed it just before
	}
}

// retry lets everything try at once that waits for a better time.
func (l *lane) retry() {
	now := time.Now()
	l.halt.until = now
	l.lookAfter = time.Time{}
	for _, f := range l.flights {
		if f != nil && f.phase <= lookingNext {
			f.due = now
		}
	}
}

// resume has the lane try again at once. It may be called from anywhere.
func (l *lane) resume() {
	select {
	case l.resumed <- struct{}{}:
	default: // it is going to
	}
}

// rest waits like sleep, but no longer than until somebody resumes.
func (l *lane) rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-l.resumed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// unprobed puts the next probe off when one has told nothing.
func (l *lane) unprobed() {
	if l.halt.probing {
		l.halt.probing = false
		l.halt.until = time.Now().Add(backOff(l.halt.times+2, 5*time.Minute, 0))
	}
}

// passed ends a halt: kintone does for this app what it is asked to. A halt that returns before anything was committed
// lasts longer each time.
func (l *lane) passed(committed bool) {
	l.passedAt = time.Now()
	times := l.halt.times
	if committed {
		times = 0
	}
	if l.halted() {
		l.tell(Event{Kind: EventResumed})
	}
	l.halt = halt{times: times}
}

// stop halts the lane. Its jobs stay where they are, and one request at a time looks whether it is over.
func (l *lane) stop(reason, detail string, after time.Duration) {
	if l.halt.reason == reason && !l.halt.probing {
		return // one more of those that were out when it began
	}
	now := time.Now()
	h := halt{reason: reason, detail: detail, since: now, times: l.halt.times + 1}
	if l.halt.reason == reason {
		h.since = l.halt.since
	}
	h.until = now.Add(backOff(h.times+2, 5*time.Minute, after))
	if l.halt.reason != reason || l.halt.detail != detail {
		l.tell(Event{Kind: EventHalted, Reason: reason, Detail: detail, Until: h.until})
	}
	l.halt = h
}

func (l *lane) halted() bool { return l.halt.reason != "" }

// probe sends one thing to see whether a halt is over: in turn each flight that waits, and a read for the jobs that
// wait on the ground. One flight that never gets through must not keep the others from trying.
func (l *lane) probe(now time.Time) {
	if l.halt.probing || now.Before(l.halt.until) || l.out > 0 || l.reading {
		return
	}
	l.halt.probing = true
	l.backlog.tidy()
	grounded := len(l.backlog.toFind)+len(l.backlog.toRead)+len(l.backlog.fit) > 0
	for range len(l.flights) + 1 {
		n := l.probes % (len(l.flights) + 1)
		l.probes++
		if n == len(l.flights) {
			if grounded {
				break
			}
			continue
		}
		if f := l.flights[n]; f != nil && f.phase <= lookingNext {
			f.due = now
			if l.goOn(f, now) {
				return
			}
		}
	}
	if tasks := l.backlog.nextToFind(l.keysAtOnce()); len(tasks) > 0 {
		l.lookAt(tasks)
		return
	}
	l.lookAt(l.backlog.nextToRead(kintone.MaxRecords))
}
