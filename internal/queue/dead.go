package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"statusq/internal/failpoint"
)

// DeadFilter says which dead letters are meant. Zero fields match any.
type DeadFilter struct {
	Site                        string
	App                         int64
	Campaign, Job, Reason, Code string
	Request                     string // of an unknown outcome: all jobs of a request share one fate
	Parent                      string // of jobs that were made of this one
	Record                      int64
	Limit                       int // at most so many; 0 = all
}

// Dead gives the dead letters that match, in the order of their deaths. What comes or goes meanwhile may be missing.
func (q *Queue) Dead(ctx context.Context, f DeadFilter) iter.Seq2[DeadLetter, error] {
	filter := q.filter("dead", f.Site, orAnyNumber(f.App), orAny(f.Campaign), orAny(f.Job))
	return func(yield func(DeadLetter, error) bool) {
		n := 0
		for m, err := range q.scan(ctx, q.ledgerName(), filter) {
			if err == nil && m.gone() {
				continue
			}
			var d DeadLetter
			if err == nil {
				d, err = decodeDead(m.stored)
			}
			if err != nil {
				yield(DeadLetter{}, fmt.Errorf("read dead letters: %w", err))
				return
			}
			if f.Record != 0 && f.Record != d.Job.Record || f.Reason != "" && f.Reason != d.Reason || f.Code != "" && f.Code != d.Code ||
				f.Parent != "" && f.Parent != d.Parent || f.Request != "" && (d.Evidence == nil || f.Request != d.Evidence.Request) {
				continue
			}
			if !yield(d, nil) {
				return
			}
			if n++; n == f.Limit {
				return
			}
		}
	}
}

// Reasons that operators give rise to.
const (
	// ReasonRetried marks, in the history of a job, that an operator sent it again.
	ReasonRetried = "retried"
	// ReasonResolved is that of a job that was applied, because an operator has seen so.
	ReasonResolved = "resolved"
	// ReasonResolvedNotApplied is that of a job that is dead, because an operator has seen that its action was not run.
	ReasonResolvedNotApplied = "resolved_not_applied"
)

// Resolution is what an operator says about a job of which no program can tell whether its action was run.
type Resolution string

// The resolutions, by the names of their flags.
const (
	ResolveApplied    Resolution = "applied"     // it was run: the job counts as applied
	ResolveNotApplied Resolution = "not-applied" // it was not, and need not be: the job is dead, and nobody has to see to it
	ResolveRetry      Resolution = "retry"       // it was not, and shall be
)

// Ending is how a job ends that is resolved so, and its reason. A job that is to be retried does not end.
func (r Resolution) Ending() (Outcome, string) {
	switch r {
	case ResolveApplied:
		return Applied, ReasonResolved
	case ResolveNotApplied:
		return Dead, ReasonResolvedNotApplied
	default:
		return "", ReasonRetried
	}
}

// RetryDead takes a dead letter out and parks its job, due now, in one atomic batch. It may differ from what was read in
// its job, if an operator has mended it; the history stays with the job. The error wraps [ErrGone] if the letter is not
// there as it was read: somebody else has dealt with it, or the job has died again. It wraps [ErrOutcomeUnknown] for a
// letter whose action may have been run: that one takes [Queue.ResolveDead].
func (q *Queue) RetryDead(ctx context.Context, d DeadLetter, by, reason string) error {
	err := ErrOutcomeUnknown
	if d.Outcome != Unknown {
		err = q.revive(ctx, d, Audit{Verb: "dead retry", By: by, Reason: reason})
	}
	if err != nil {
		return fmt.Errorf("retry job %q of app %d: %w", d.Job.ID, d.App, err)
	}
	return nil
}

// ResolveDead takes a letter with an unknown outcome out, with what an operator has found out, in one atomic batch: the
// job's end as a result, newer than the unknown one, or the job itself, parked and due now. The error wraps [ErrGone] as
// with [Queue.RetryDead], and [ErrOutcomeKnown] for a letter that is dead.
func (q *Queue) ResolveDead(ctx context.Context, d DeadLetter, how Resolution, by, reason string) error {
	err := ErrOutcomeKnown
	if d.Outcome == Unknown {
		note := Audit{Verb: "dead resolve --" + string(how), By: by, Reason: reason}
		switch how {
		case ResolveApplied, ResolveNotApplied:
			err = q.remove(ctx, d, note, func(b *batch) { q.addResolved(b, d, how, Signed(by, reason)) })
		case ResolveRetry:
			err = q.revive(ctx, d, note)
		default:
			err = fmt.Errorf("%q is no resolution", how)
		}
	}
	if err != nil {
		return fmt.Errorf("resolve job %q of app %d: %w", d.Job.ID, d.App, err)
	}
	return nil
}

// addResolved adds the end of a job that an operator has resolved.
func (q *Queue) addResolved(b *batch, d DeadLetter, how Resolution, said string) {
	outcome, reason := how.Ending()
	request := ""
	if d.Evidence != nil {
		request = d.Evidence.Request
	}
	result := Result{
		Seq: d.Seq, Job: d.Job.ID, Record: d.Job.Record, Outcome: outcome, Reason: reason, Message: said, Ref: d.Job.Ref,
		Parent: d.Parent, At: time.Now().UTC(), Attempts: d.Attempts,
	}
	b.add(resultsSubject(q.prefix, d.Site, d.App, d.Job.Campaign, request+"-"+NewID()), // replaces no other results
		storedResults{V: 1, Request: request, Campaign: d.Job.Campaign, Results: []Result{result}},
		headerTTL, resultsTTL.String())
}

// revive takes a letter out and parks its job.
func (q *Queue) revive(ctx context.Context, d DeadLetter, note Audit) error {
	if d.Job.Action == "" || d.Job.ID == "" {
		return errors.New("it could not be decoded and has to be edited first")
	}
	subject := parkedSubject(q.prefix, d.Site, d.App, d.Job.Record, d.Job.ID)
	m, err := q.last(ctx, q.ledgerName(), subject)
	if err != nil {
		return err
	}
	if !m.gone() {
		return fmt.Errorf("%w: the job is parked already", ErrGone)
	}
	// The history tells of the death, if it does not yet, and of the new beginning: attempts count from there.
	attempts := slices.Clip(d.Attempts)
	if n := len(attempts); n == 0 || attempts[n-1].Reason != d.Reason {
		attempts = append(attempts, Attempt{At: d.Died, Reason: d.Reason, Code: d.Code, Message: d.Message})
	}
	attempts = append(attempts, Attempt{At: time.Now().UTC(), Reason: ReasonRetried, Message: Signed(note.By, note.Reason)})
	failpoint.Hit("retry.sending")
	err = q.remove(ctx, d, note, func(b *batch) {
		b.add(subject, Parked{V: 1, Job: d.Job, Seq: d.Seq, Due: time.Now(), Reason: ReasonRetried, Attempts: attempts, Parent: d.Parent, Matches: d.Matches, After: d.After})
	})
	if err == nil {
		failpoint.Hit("retry.stored")
	}
	return err
}

// DiscardDead takes a dead letter out for good. The error wraps [ErrGone] as with [Queue.RetryDead].
func (q *Queue) DiscardDead(ctx context.Context, d DeadLetter, by, reason string) error {
	err := q.remove(ctx, d, Audit{Verb: "dead discard", By: by, Reason: reason}, func(*batch) {})
	if err != nil {
		return fmt.Errorf("discard job %q of app %d: %w", d.Job.ID, d.App, err)
	}
	return nil
}

// remove takes a dead letter out by compare-and-swap, with an audit note and what more belongs to it in one batch.
func (q *Queue) remove(ctx context.Context, d DeadLetter, note Audit, more func(*batch)) error {
	if d.At == 0 {
		return fmt.Errorf("%w: it was not read from the ledger", ErrGone)
	}
	ctx, cancel := context.WithTimeout(ctx, publishPatience)
	defer cancel()
	mark := NewID()
	b := q.newBatch()
	b.addTombstone(d.subject, mark)
	note.At, note.Site, note.App, note.Job, note.N = time.Now(), d.Site, d.App, d.Job.ID, 1
	b.addAudit(note)
	more(b)
	messages, err := b.done()
	if err != nil {
		return err
	}
	_, err = q.swap(ctx, d.At, messages, func(m stored) bool { return m.Header.Get(headerGone) == mark })
	if errors.Is(err, errSwapLost) {
		return ErrGone
	}
	return err
}

func decodeDead(m stored) (DeadLetter, error) {
	var d DeadLetter
	err := decode(m, &d)
	d.At, d.subject = m.Seq, m.Subject
	return d, err
}
