package queue

import (
	"context"
	"fmt"
	"iter"
	"time"
)

// Audit is a note of who did what.
type Audit struct {
	V      int       `json:"v"`
	At     time.Time `json:"at"`
	Verb   string    `json:"verb"`             // takeover, dead retry, dead discard, …
	By     string    `json:"by,omitempty"`     // who asked
	Reason string    `json:"reason,omitempty"` // why, in the asker's words
	Owner  string    `json:"owner,omitempty"`
	Epoch  uint64    `json:"epoch,omitempty"`
	Site   string    `json:"site"`
	App    int64     `json:"app"`
	Job    string    `json:"job,omitempty"`
	N      int       `json:"n,omitempty"` // how many jobs it was about
}

// Audits gives the audit notes of a site, or of one app of it, in the order they were written. App 0 means all apps.
func (q *Queue) Audits(ctx context.Context, site string, app int64) iter.Seq2[Audit, error] {
	return func(yield func(Audit, error) bool) {
		for m, err := range q.scan(ctx, q.ledgerName(), q.filter("audit", site, orAnyNumber(app), "")) {
			var a Audit
			if err == nil {
				err = decode(m.stored, &a)
			}
			if err != nil {
				err = fmt.Errorf("read audit: %w", err)
			}
			if !yield(a, err) || err != nil {
				return
			}
		}
	}
}
