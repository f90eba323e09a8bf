package queue_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/queue"
)

func acquire(t *testing.T, q *queue.Queue, owner string) *queue.Lease {
	t.Helper()
	l, err := q.Acquire(t.Context(), "main", owner, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func release(t *testing.T, l *queue.Lease) {
	t.Helper()
	if err := l.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestLeaseIsHeldByOneAndHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		first := acquire(t, s.Connect(t), "one")
		second := make(chan *queue.Lease)
		q := s.Connect(t)
		go func() {
			l, err := q.Acquire(t.Context(), "main", "two", nil)
			if err != nil {
				t.Error(err)
			}
			second <- l
		}()
		other, err := q.Acquire(t.Context(), "other", "two", nil)
		if err != nil {
			t.Fatal(err)
		}
		release(t, other)
		select {
		case <-second:
			t.Fatal("two hold the lease")
		case <-time.After(time.Hour):
		}
		if err := first.Context().Err(); err != nil {
			t.Fatalf("after an hour the first owner has lost it: %v", context.Cause(first.Context()))
		}
		began := time.Now()
		release(t, first)
		if first.Context().Err() == nil {
			t.Error("a released lease is still trusted")
		}
		l := <-second
		if took := time.Since(began); took > time.Second {
			t.Errorf("the standby waited %v for a released lease", took)
		}
		if l.Epoch() <= first.Epoch() {
			t.Errorf("epoch %d follows %d", l.Epoch(), first.Epoch())
		}
		release(t, l)
	})
}

func TestLeaseOfASilentOwnerIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		standby := s.Connect(t)
		q := s.Connect(t)
		first := acquire(t, q, "one")
		time.Sleep(3 * time.Second)
		began := time.Now()
		q.Close() // a process that hangs looks like this
		next := make(chan *queue.Lease)
		go func() { next <- acquire(t, standby, "two") }()
		<-first.Context().Done()
		if took := time.Since(began); took > 10*time.Second || !errors.Is(context.Cause(first.Context()), queue.ErrDeposed) {
			t.Errorf("the silent owner trusted its lease for %v, and then: %v", took, context.Cause(first.Context()))
		}
		l := <-next
		if took := time.Since(began); took > 20*time.Second || took < 10*time.Second {
			t.Errorf("the standby took over after %v, want it after the owner has stopped and within 20 s", took)
		}
		if l.Epoch() <= first.Epoch() {
			t.Errorf("epoch %d follows %d", l.Epoch(), first.Epoch())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := first.Release(ctx); err == nil {
			t.Error("a lease was released without a connection")
		}
		if err := l.Context().Err(); err != nil {
			t.Error("the new owner has lost it")
		}
		release(t, l)
	})
}

func TestLeaseTakenAwayEndsAtTheNextRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := start(t)
		l := acquire(t, q, "one")
		_, subject := q.LeaseSubject("main")
		if _, err := q.JetStream().Publish(t.Context(), subject, []byte(`{"v":1,"owner":"two","nonce":"x"}`)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		<-l.Context().Done()
		if took := time.Since(began); took > 5*time.Second || !errors.Is(context.Cause(l.Context()), queue.ErrDeposed) {
			t.Errorf("after %v: %v", took, context.Cause(l.Context()))
		}
		release(t, l) // leaves the other's alone
		m := drainLease(t, q)
		if m != `{"v":1,"owner":"two","nonce":"x"}` {
			t.Errorf("the lease is %s now", m)
		}
	})
}

func drainLease(t *testing.T, q *queue.Queue) string {
	t.Helper()
	stream, subject := q.LeaseSubject("main")
	s, err := q.JetStream().Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	return string(m.Data)
}

// Taking, renewing and giving back over a wire that loses the message or the answer.
func TestLeaseOverABrokenWire(t *testing.T) {
	for name, breakIt := range map[string]func(*wire, string){"lost": (*wire).lose, "ack lost": (*wire).cut, "late": (*wire).hold} {
		for _, when := range []string{"taking", "renewing", "giving back"} {
			t.Run(when+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := serve(t)
					s.Connect(t)
					q, w := connect(t, s)
					const text = `"owner":"one"`
					if when == "taking" {
						breakIt(w, text)
					}
					l := acquire(t, q, "one")
					if when == "renewing" {
						breakIt(w, text)
					}
					time.Sleep(5 * time.Second)
					if when == "giving back" {
						breakIt(w, "KV-Operation")
						release(t, l)
					}
					w.wantBroken(t)
					if name == "late" {
						w.deliver(t)
					}
					if when != "giving back" {
						time.Sleep(time.Minute)
						if l.Context().Err() != nil {
							t.Fatalf("lost: %v", context.Cause(l.Context()))
						}
						release(t, l)
					}
					began := time.Now()
					next := acquire(t, q, "two")
					if took := time.Since(began); took > time.Second {
						t.Errorf("the next owner waited %v", took)
					}
					if next.Epoch() <= l.Epoch() {
						t.Errorf("epoch %d follows %d", next.Epoch(), l.Epoch())
					}
					release(t, next)
				})
			})
		}
	}
}

func TestAcquireEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		q := s.Connect(t)
		l := acquire(t, q, "one")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := q.Acquire(ctx, "main", "two", nil)
		wantErr(t, "a standby that stops", err, context.DeadlineExceeded)
		release(t, l)
	})
}
