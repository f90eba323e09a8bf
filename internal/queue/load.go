package queue

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"

	"statusq/internal/failpoint"
)

// Loader is told what [Ledger.Load] reads.
type Loader struct {
	Parked func(Waiting) // jobs that are parked, in the order of the log
	Ended  func(End)     // ends of jobs, in the order of the ledger
}

// Waiting is a parked job as a lane keeps it. The job itself stays in the ledger: [Queue.ParkedAt] reads it.
type Waiting struct {
	ParkedRef
	Seq      uint64 // its place in the log, which is its place in line
	Due      time.Time
	Key      *Key // of one whose record is not known yet
	Campaign string
}

// End is what a lane keeps of a [Result].
type End struct {
	Seq     uint64
	Job     string
	Record  int64
	Outcome Outcome
	Reason  string
}

// Load puts a barrier into the ledger and reads up to it what is parked and what has ended. A replica that lags has no
// barrier to show, so nothing that was decided before is missed. What operators park afterwards comes by Retried.
//
// The error wraps [ErrNewerVersion] if a newer program has written what this one cannot read.
func (l *Ledger) Load(ctx context.Context, load Loader) error {
	barrier, err := l.barrier(ctx)
	if err != nil {
		return fmt.Errorf("app %d: barrier: %w", l.app, err)
	}
	failpoint.Hit("barrier.stored")
	// All that the ledger has of the app, the barrier too, although not all of it is wanted: a consumer with several
	// filters makes the server go through the index of a whole block for each message.
	r := l.q.newHastyReader(l.q.ledgerName(), 0, fmt.Sprintf("%s.*.%s.%d.>", l.q.prefix, l.site, l.app))
	defer r.abandon()
	type place struct { // a subject
		record int64
		job    string
	}
	parked := make(map[place]Waiting)
	var ends []End
	for {
		m, err := r.next(ctx)
		if err != nil {
			return fmt.Errorf("app %d: load ledger: %w", l.app, err)
		}
		if m.Seq >= barrier {
			break
		}
		failpoint.Hit("load.entry")
		if _, _, record, job, ok := parseParkedSubject(l.q.prefix, m.Subject); ok {
			at := place{record, job}
			if m.gone() {
				delete(parked, at)
				continue
			}
			w, err := decodeWaiting(m.stored)
			if err != nil {
				return fmt.Errorf("app %d: ledger entry %d: %w", l.app, m.Seq, err)
			}
			if w.ParkedRef = (ParkedRef{Record: record, Job: job, At: m.Seq}); record > 0 {
				w.Key = nil // it was found
			}
			parked[at] = w
			continue
		}
		if _, _, _, _, ok := parseResultsSubject(l.q.prefix, m.Subject); !ok || load.Ended == nil {
			continue
		}
		if ends, err = decodeEnds(ends[:0], m.stored); err != nil {
			return fmt.Errorf("app %d: ledger entry %d: %w", l.app, m.Seq, err)
		}
		for _, end := range ends {
			load.Ended(end)
		}
	}
	for _, p := range slices.SortedFunc(maps.Values(parked), inLine) {
		if load.Parked != nil {
			load.Parked(p)
		}
	}
	if l.retried != nil {
		l.retried.abandon()
	}
	failpoint.Hit("load.done")
	l.retried = l.q.newReader(l.q.ledgerName(), barrier+1, l.q.filter("parked", l.site, orAnyNumber(l.app), "", ""))
	return nil
}

// decodeWaiting reads what a lane keeps of a parked job, apart from what stands in its subject.
func decodeWaiting(m stored) (Waiting, error) {
	var form struct {
		V   int       `json:"v"`
		Seq uint64    `json:"seq"`
		Due time.Time `json:"due"`
	}
	if err := decode(m, &form); err != nil {
		return Waiting{}, err
	}
	var of struct {
		Job struct {
			Key      *Key   `json:"key"`
			Campaign string `json:"campaign"`
		} `json:"job"`
	}
	if err := json.Unmarshal(m.Data, &of); err != nil {
		return Waiting{}, fmt.Errorf("unreadable: %w", err)
	}
	return Waiting{Seq: form.Seq, Due: form.Due, Key: of.Job.Key, Campaign: of.Job.Campaign}, nil
}

// inLine orders parked jobs as their jobs stand in the log; children of one job, which share its place, as they were
// parked.
func inLine(a, b Waiting) int { return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.At, b.At)) }

// Retried waits for the next job that an operator parked after Load. It may run beside Write; it is used by one
// goroutine, and it has returned before Close or the next Load.
func (l *Ledger) Retried(ctx context.Context) (Parked, error) {
	if l.retried == nil {
		return Parked{}, fmt.Errorf("app %d: ledger not loaded", l.app)
	}
	for {
		m, err := l.retried.next(ctx)
		if err != nil {
			return Parked{}, fmt.Errorf("app %d: read retried jobs: %w", l.app, err)
		}
		if m.gone() {
			continue
		}
		p, err := decodeParked(m.stored)
		if err != nil {
			return Parked{}, fmt.Errorf("app %d: ledger entry %d: %w", l.app, m.Seq, err)
		}
		if p.Epoch == 0 {
			failpoint.Hit("retried.heard")
			return p, nil
		}
	}
}

// LogOf says how many messages the log holds of an app, and the sequence of the last that it took of any. No message of
// the app that it did not hold then has a sequence that is not higher.
func (q *Queue) LogOf(ctx context.Context, site string, app int64) (count, last uint64, err error) {
	subject := jobsSubject(q.prefix, site, app)
	stream, err := q.js.Stream(ctx, q.logName())
	if err == nil {
		var info *jetstream.StreamInfo
		if info, err = stream.Info(ctx, jetstream.WithSubjectFilter(subject)); err == nil {
			return info.State.Subjects[subject], info.State.LastSeq, nil
		}
	}
	return 0, 0, fmt.Errorf("app %d: look into the log: %w", app, q.unanswered(ctx, q.logName(), err))
}

// LogHolds reports whether the log holds a job of an app between two places, both of them included. It is an error, and no
// answer, if whoever answers has not heard of the last of them yet, as a leader may not that has been voted out.
func (q *Queue) LogHolds(ctx context.Context, site string, app int64, from, to uint64) (bool, error) {
	m, err := q.get(ctx, q.logName(), map[string]any{"seq": from, "next_by_subj": jobsSubject(q.prefix, site, app)})
	if err == nil && m.Seq == 0 {
		var last uint64
		if _, last, err = q.LogOf(ctx, site, app); err == nil && last < to {
			err = fmt.Errorf("%w: the log is said to end at %d", ErrUnreachable, last)
		}
	}
	if err != nil {
		return false, fmt.Errorf("app %d: look into the log: %w", app, err)
	}
	return m.Seq != 0 && m.Seq <= to, nil
}

// barrier writes the audit note of a takeover and gives its place.
func (l *Ledger) barrier(ctx context.Context) (uint64, error) {
	for attempt := 0; ; attempt++ {
		// Each attempt has a subject of its own: a late copy is one more note, and not the barrier.
		b := l.q.newBatch()
		b.addAudit(l.signed(Audit{Verb: "takeover"}))
		messages, err := b.done()
		if err != nil {
			return 0, err
		}
		seq, _, err := l.q.send(ctx, messages)
		if err == nil {
			return seq, nil
		}
		if isFull(err) {
			return 0, fmt.Errorf("%w: %w", ErrLedgerFull, err)
		}
		failure := l.q.unanswered(ctx, l.q.ledgerName(), err)
		if errors.Is(failure, ErrNoQueue) || refusal(err) != 0 && !isPassing(err) || !pause(ctx, attempt) {
			return 0, failure
		}
	}
}

// decodeEnds appends the ends that stand in a message with results. A lane reads millions of them at its start, so it
// reads what storedResults writes by its shape, a tenth of the work, and anything else as any JSON.
func decodeEnds(ends []End, m stored) ([]End, error) {
	if quick, ok := shapeOfEnds(ends, m.Data); ok {
		return quick, nil
	}
	var s storedResults
	if err := decode(m, &s); err != nil {
		return ends, err
	}
	for _, r := range s.Results {
		ends = append(ends, End{Seq: r.Seq, Job: r.Job, Record: r.Record, Outcome: r.Outcome, Reason: r.Reason})
	}
	return ends, nil
}

// shapeOfEnds reports false for whatever storedResults and Result do not write in the order of their fields. It goes through
// every member, so that none that it reads can stand in a result once more, or in another place.
func shapeOfEnds(ends []End, data []byte) ([]End, bool) {
	s := shape{data: data}
	s.want(`{"v":1`)
	if s.has(`,"request":`) {
		s.text()
	}
	if s.has(`,"campaign":`) {
		s.text()
	}
	s.want(`,"results":[`)
	for more := !s.has(`]`); more && !s.failed; {
		var end End
		s.want(`{"seq":`)
		end.Seq = s.number()
		s.want(`,"job":`)
		end.Job = string(s.text())
		if s.has(`,"record":`) {
			end.Record = int64(s.number())
		}
		s.want(`,"outcome":`)
		end.Outcome = knownOutcome(s.text())
		if s.has(`,"revision":`) {
			s.number()
		}
		if s.has(`,"reason":`) {
			end.Reason = string(s.text())
		}
		for _, unread := range [...]string{`,"code":`, `,"message":`, `,"ref":`} {
			if s.has(unread) {
				s.data = s.data[s.quoted():]
			}
		}
		if s.has(`,"key":{`) {
			s.leave()
		}
		if s.has(`,"parent":`) {
			s.data = s.data[s.quoted():]
		}
		if s.has(`,"matches":`) {
			s.number()
		}
		if s.has(`,"at":`) {
			s.data = s.data[s.quoted():]
		}
		if s.has(`,"attempts":[`) {
			s.leave()
		}
		s.want(`}`)
		ends = append(ends, end)
		if more = s.has(`,`); !more {
			s.want(`]`)
		}
	}
	s.want(`}`)
	return ends, !s.failed && len(s.data) == 0
}

// knownOutcome spares a string for each of millions.
func knownOutcome(text []byte) Outcome {
	for _, o := range []Outcome{Applied, Already, Dead, Unknown, Cancelled, Duplicate} {
		if string(text) == string(o) {
			return o
		}
	}
	return Outcome(text)
}

// shape reads JSON whose shape is known. After a failure nothing that it gives counts.
type shape struct {
	data   []byte // what is left
	failed bool
}

// has takes a text if it comes next.
func (s *shape) has(text string) bool {
	if len(s.data) < len(text) || string(s.data[:len(text)]) != text {
		return false
	}
	s.data = s.data[len(text):]
	return true
}

func (s *shape) want(text string) {
	if !s.has(text) {
		s.failed = true
	}
}

// number takes a number of at most 18 digits without a sign.
func (s *shape) number() uint64 {
	var n uint64
	digits := 0
	for ; digits < len(s.data) && digits < 19 && s.data[digits]-'0' < 10; digits++ {
		n = 10*n + uint64(s.data[digits]-'0')
	}
	if digits == 0 || digits > 18 || digits > 1 && s.data[0] == '0' {
		s.failed = true
	}
	s.data = s.data[digits:]
	return n
}

// text takes a string in its quotes.
func (s *shape) text() []byte {
	end := s.quoted()
	if s.failed {
		return nil
	}
	raw := s.data[:end]
	s.data = s.data[end:]
	inside := raw[1 : end-1]
	plain := true
	for _, c := range inside {
		if c < ' ' || c == '\\' || c >= utf8.RuneSelf {
			plain = false
			break
		}
	}
	if plain {
		return inside
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		s.failed = true
	}
	return []byte(text)
}

// quoted is the length of the string that comes next, with its quotes.
func (s *shape) quoted() int {
	if len(s.data) == 0 || s.data[0] != '"' {
		s.failed = true
		return 0
	}
	for at := 1; ; {
		n := bytes.IndexByte(s.data[at:], '"')
		if n < 0 {
			s.failed = true
			return 0
		}
		at += n + 1
		backslashes := 0
		for s.data[at-2-backslashes] == '\\' { // ends at the first quote
			backslashes++
		}
		if backslashes%2 == 0 {
			return at
		}
	}
}

// leave takes the rest of an array or an object.
func (s *shape) leave() {
	for depth := 1; !s.failed; {
		if len(s.data) == 0 {
			s.failed = true
			return
		}
		switch s.data[0] {
		case '"':
			s.data = s.data[s.quoted():]
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		s.data = s.data[1:]
		if depth == 0 {
			return
		}
	}
}
