package queue

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"
)

// Audit is a note of who did what.
type Audit struct {
	V      int       `json:"v"`
	At     time.Time `json:"at"`
	Verb   string    `json:"verb"`             // takeover, or the command: dead retry, inflight resolve --applied, …
	By     string    `json:"by,omitempty"`     // who asked
	Reason string    `json:"reason,omitempty"` // why, in the asker's words
	Owner  string    `json:"owner,omitempty"`
	Epoch  uint64    `json:"epoch,omitempty"`
	Site   string    `json:"site"`
	App    int64     `json:"app"`
	// What it was about: one job, or all jobs of a request, or of a part of it.
	Job     string   `json:"job,omitempty"`
	Request string   `json:"request,omitempty"`
	Jobs    []string `json:"jobs,omitempty"`
	N       int      `json:"n,omitempty"` // how many they are
}

// About reports whether the note is about a job.
func (a Audit) About(job string) bool {
	return job != "" && (a.Job == job || slices.Contains(a.Jobs, job))
}

// Signed is an operator's reason with who gave it, for where there is room for one text: "ito: seen in the history".
func Signed(by, reason string) string {
	return strings.TrimSuffix(strings.TrimPrefix(by+": "+reason, ": "), ": ")
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
