package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"statusq/internal/failpoint"
)

// A lease is renewed every 4 s and given up by its holder 10 s after the last renewal that succeeded. The server lets
// others take it 15 s after the last renewal that it stored, so the holder stops first, by a margin of 5 s.
const (
	leaseTTL   = 15 * time.Second
	leaseTrust = 10 * time.Second
	leaseRenew = 4 * time.Second
	leasePoll  = 2 * time.Second // how often a standby looks by itself
	// One renewal does not wait long for its answer, so that there is time for more when a leader has died with the first.
	leaseAttempt = 1500 * time.Millisecond
)

// Lease makes its holder the owner of a site.
type Lease struct {
	q       *Queue
	site    string
	subject string
	value   []byte
	nonce   string
	yield   func() time.Duration
	epoch   uint64

	ctx  context.Context
	end  context.CancelCauseFunc
	done chan struct{} // closed when keep has returned

	// Owned by keep, and by Release after it.
	revision uint64    // of the last renewal that is known to have succeeded
	trusted  time.Time // when that renewal was sent
}

type leaseValue struct {
	V     int    `json:"v"`
	Owner string `json:"owner"`
	Nonce string `json:"nonce"` // of this acquisition
}

// leaseHeader makes a lease expire. It is a TTL of the message: nats-server 2.15 measures the age limit of a stream with
// a clock of its own that knows no synctest bubble.
func leaseHeader() nats.Header { return nats.Header{headerTTL: {leaseTTL.String()}} }

// errReleased is why the context of a lease ends that was released.
var errReleased = errors.New("lease released")

// Acquire waits until nobody holds the site's lease, takes it and keeps it until Release. Its holder works under
// [Lease.Context]. If yield is not nil, it says for how long others may go first when the lease is found free.
func (q *Queue) Acquire(ctx context.Context, site, owner string, yield func() time.Duration) (*Lease, error) {
	l := &Lease{
		q: q, site: site, subject: "$KV." + q.bucket("leases") + "." + site, nonce: NewID(), yield: yield, done: make(chan struct{}),
	}
	value, err := json.Marshal(leaseValue{V: 1, Owner: owner, Nonce: l.nonce})
	if err != nil {
		return nil, err
	}
	l.value = value
	if err := l.acquire(ctx); err != nil {
		return nil, fmt.Errorf("lease of %s: %w", site, err)
	}
	failpoint.Hit("lease.acquired")
	l.ctx, l.end = context.WithCancelCause(context.WithoutCancel(ctx))
	go l.keep()
	return l, nil
}

// Epoch is the number of this ownership. It is greater than that of every owner before.
func (l *Lease) Epoch() uint64 { return l.epoch }

// Context ends when the lease may not be trusted any more, with the cause [ErrDeposed], or when it is released.
func (l *Lease) Context() context.Context { return l.ctx }

// Release gives the lease back, so that a standby need not wait for it to expire. It is for the end of the work that was
// done under the lease, and is called once, also for a lease that was lost.
func (l *Lease) Release(ctx context.Context) error {
	l.end(errReleased)
	<-l.done
	failpoint.Hit("lease.releasing")
	for attempt := 0; ; attempt++ {
		// A renewal whose answer was lost has moved the revision: the leader knows.
		m, err := l.q.last(ctx, l.stream(), l.subject)
		if err == nil {
			if !l.isOurs(m) {
				return nil
			}
			_, err = l.q.write(ctx, l.stream(), l.subject, m.Seq, nil, nats.Header{"KV-Operation": {"DEL"}})
		}
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrNoQueue) || !pause(ctx, attempt) {
			return fmt.Errorf("release lease of %s: %w", l.site, err)
		}
	}
}

func (l *Lease) stream() string { return "KV_" + l.q.bucket("leases") }

// acquire tries to create the key whenever it is not there. Only the swap decides.
func (l *Lease) acquire(ctx context.Context) error {
	changes := l.q.newReader(l.stream(), 0, l.subject)
	defer changes.abandon()
	yielded := l.yield == nil
	for attempt := 0; ; {
		m, err := l.q.last(ctx, l.stream(), l.subject)
		switch {
		case err != nil:
		case m.gone() && !yielded:
			yielded = true
			if wait := time.NewTimer(l.yield()); ctx.Err() == nil {
				select {
				case <-wait.C:
				case <-ctx.Done():
				}
				wait.Stop()
			}
			continue
		case m.gone():
			l.trusted = time.Now()
			l.epoch, err = l.q.write(ctx, l.stream(), l.subject, m.Seq, l.value, leaseHeader())
			if err == nil {
				l.revision = l.epoch
				return nil
			}
		case l.isOurs(m):
			// An attempt without an answer had succeeded, nobody knows when: it counts from a renewal now.
			l.trusted = time.Now()
			l.revision, err = l.q.write(ctx, l.stream(), l.subject, m.Seq, l.value, leaseHeader())
			if err == nil {
				l.epoch = m.Seq
				return nil
			}
			// Should that renewal be stored as well, the next round takes its sequence for the epoch. It is ours as much,
			// and greater than all before it.
		default:
			attempt, yielded = 0, l.yield == nil
			changes.from = max(changes.from, m.Seq+1)
			soon, cancel := context.WithTimeout(ctx, leasePoll)
			_, _ = changes.next(soon) // a change, or time to look: the message on the subject tells
			cancel()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			continue
		}
		if errors.Is(err, ErrNoQueue) || errors.Is(err, nats.ErrConnectionClosed) || !pause(ctx, attempt) {
			return err
		}
		attempt++
	}
}

// keep renews the lease until it is released or lost.
func (l *Lease) keep() {
	defer close(l.done)
	for {
		timer := time.NewTimer(time.Until(l.trusted.Add(leaseRenew)))
		select {
		case <-timer.C:
		case <-l.ctx.Done():
			timer.Stop()
			return
		}
		if err := l.renew(); err != nil {
			l.end(err)
			return
		}
	}
}

// renew tries until the lease is renewed or may not be trusted any more.
func (l *Lease) renew() error {
	ctx, cancel := context.WithDeadline(l.ctx, l.trusted.Add(leaseTrust))
	defer cancel()
	for attempt := 0; ; attempt++ {
		sent := time.Now()
		failpoint.Hit("lease.renewing")
		soon, cancel := context.WithTimeout(ctx, leaseAttempt)
		revision, err := l.q.write(soon, l.stream(), l.subject, l.revision, l.value, leaseHeader())
		cancel()
		if err == nil {
			failpoint.Hit("lease.renewed")
			l.revision, l.trusted = revision, sent
			return nil
		}
		if isSwapRefused(err) {
			m, err := l.q.last(ctx, l.stream(), l.subject)
			if err == nil && m.Seq != l.revision {
				if !l.isOurs(m) {
					return fmt.Errorf("lease of %s: %w", l.site, ErrDeposed)
				}
				l.revision = m.Seq // a renewal without an answer had succeeded
				continue
			}
		}
		if !pause(ctx, attempt) {
			if l.ctx.Err() != nil {
				return errReleased
			}
			return fmt.Errorf("lease of %s: not renewed for %v: %w", l.site, leaseTrust, ErrDeposed)
		}
	}
}

// isOurs reports whether a message is of this acquisition.
func (l *Lease) isOurs(m stored) bool {
	var value leaseValue
	return !m.gone() && json.Unmarshal(m.Data, &value) == nil && value.Nonce == l.nonce
}
