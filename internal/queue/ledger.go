package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"statusq/internal/failpoint"
)

// Slots is how many requests of one app may be out at a time.
const Slots = 16

// Slot is one place for a request that may be out, as it stands in the ledger.
type Slot struct {
	V       int      `json:"v"`
	Epoch   uint64   `json:"epoch"`             // of the owner that wrote it
	Owner   string   `json:"owner"`             // its name, for people
	Write   string   `json:"write"`             // nonce of the write, set by Ledger
	Request *Request `json:"request,omitempty"` // nil = free
	Day     string   `json:"day,omitempty"`     // kintone's request day, as 2026-12-01
	Spent   int      `json:"spent,omitempty"`   // requests spent in that day, counted by this slot
}

// Request is what is sent to kintone in one call, or in one call after another.
type Request struct {
	ID string    `json:"id"`
	At time.Time `json:"at"`
	// Settings is the revision of the process settings that the members were inspected against; 0 = not one for all.
	Settings int64  `json:"settings,omitempty"`
	Parts    []Part `json:"parts"`
}

// Part is a call of a request.
type Part struct {
	Members []Member  `json:"members"`
	Sends   int       `json:"sends,omitempty"`
	Unclear time.Time `json:"unclear,omitzero"` // of the last attempt with an unclear answer; zero = none known
}

// Member is a job in a request, with what was known when it was planned.
type Member struct {
	Seq      uint64 `json:"seq"`
	Job      string `json:"job"`
	Record   int64  `json:"record"`
	Pin      int64  `json:"pin"` // the revision that the record must have
	Action   string `json:"action"`
	Assignee string `json:"assignee,omitempty"`
	From     string `json:"from,omitempty"`
	To       string `json:"to,omitempty"`
	Step     int    `json:"step,omitempty"` // by how much the action raises the revision
	Campaign string `json:"campaign,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
	Parked   uint64 `json:"parked,omitempty"` // ledger sequence of its parked message; 0 = it came from the log
}

// Outcome is how a job ended.
type Outcome string

// The outcomes. Every job that ends has exactly one.
const (
	Applied   Outcome = "applied"   // our request did it
	Already   Outcome = "already"   // the record stood there before
	Dead      Outcome = "dead"      // it did not happen
	Unknown   Outcome = "unknown"   // nobody can tell but a person
	Cancelled Outcome = "cancelled" // taken back before it was sent
	Duplicate Outcome = "duplicate" // a job of this id had ended before
	// Matched is the end of a job with a key and match "all": it became one job for each record that the key found. How
	// those end stands with them; their results name it as Parent.
	Matched Outcome = "matched"
)

// Result is the end of a job.
type Result struct {
	Seq      uint64    `json:"seq"` // the job's place in the log
	Job      string    `json:"job"`
	Record   int64     `json:"record,omitempty"`
	Outcome  Outcome   `json:"outcome"`
	Revision int64     `json:"revision,omitempty"` // of the record after it
	Reason   string    `json:"reason,omitempty"`   // stable ASCII code
	Code     string    `json:"code,omitempty"`     // kintone's
	Message  string    `json:"message,omitempty"`  // kintone's, or an operator's
	Ref      string    `json:"ref,omitempty"`
	Key      *Key      `json:"key,omitempty"`     // of a job that ended without a record of its own
	Parent   string    `json:"parent,omitempty"`  // the job that this one was made of, when its key found the record
	Matches  int       `json:"matches,omitempty"` // of one that ended as Matched: how many jobs were made of it
	Campaign string    `json:"-"`                 // in the ledger it stands once for many results, as do the next three
	At       time.Time `json:"at"`
	Attempts []Attempt `json:"attempts,omitempty"` // the tries before this end, oldest first

	Site    string `json:"-"` // filled in by reading
	App     int64  `json:"-"` // filled in by reading
	Request string `json:"-"` // filled in by reading; "" for a job that was never sent
}

// storedResults is a message with results, all of one campaign and one request.
type storedResults struct {
	V        int      `json:"v"`
	Request  string   `json:"request,omitempty"`
	Campaign string   `json:"campaign,omitempty"`
	Results  []Result `json:"results"`
}

// Attempt is a try that did not end its job.
type Attempt struct {
	At      time.Time `json:"at"`
	Request string    `json:"request,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Code    string    `json:"code,omitempty"`
	Message string    `json:"message,omitempty"`
}

// Parked is a job that waits outside the log.
type Parked struct {
	V        int       `json:"v"`
	Job      Job       `json:"job"`
	Seq      uint64    `json:"seq"` // its place in the log, which is its place in line
	Due      time.Time `json:"due,omitzero"`
	Behind   bool      `json:"behind,omitempty"` // it waits for an earlier job of its record
	Reason   string    `json:"reason,omitempty"`
	Attempts []Attempt `json:"attempts,omitempty"`
	Epoch    uint64    `json:"epoch,omitempty"`  // of the owner that parked it; 0 = an operator did, by RetryDead
	Parent   string    `json:"parent,omitempty"` // the job that it was made of, when a key found its record
	// Of a job whose key matches so many records that they are made into jobs page by page: how many so far, and the last.
	Matches int   `json:"matches,omitempty"`
	After   int64 `json:"after,omitempty"`

	At uint64 `json:"-"` // its place in the ledger
}

// ParkedRef names a parked job.
type ParkedRef struct {
	Record int64
	Job    string
	At     uint64 // its place in the ledger
}

// Ref names the parked job.
func (p Parked) Ref() ParkedRef { return ParkedRef{Record: p.Job.Record, Job: p.Job.ID, At: p.At} }

// DeadLetter is a job that ended dead or unknown, kept until a person deals with it.
type DeadLetter struct {
	V        int       `json:"v"`
	Job      Job       `json:"job"`
	Raw      []byte    `json:"raw,omitempty"` // a job that could not be decoded, as it came
	Site     string    `json:"site"`
	App      int64     `json:"app"`
	Seq      uint64    `json:"seq"`
	Outcome  Outcome   `json:"outcome"`
	Reason   string    `json:"reason,omitempty"`
	Code     string    `json:"code,omitempty"`
	Message  string    `json:"message,omitempty"`
	Attempts []Attempt `json:"attempts,omitempty"`
	Evidence *Evidence `json:"evidence,omitempty"`
	Died     time.Time `json:"died"`
	Parent   string    `json:"parent,omitempty"`  // the job that it was made of, when a key found its record
	Matches  int       `json:"matches,omitempty"` // as in Parked, so that one that is sent again goes on where it was
	After    int64     `json:"after,omitempty"`

	At      uint64 `json:"-"` // its place in the ledger
	subject string // where it was read; the job may be edited afterwards
}

// Evidence is what is known about a job whose outcome is unknown.
type Evidence struct {
	Request   string    `json:"request"`
	Pin       int64     `json:"pin"`      // the revision that the request expected
	Revision  int64     `json:"revision"` // the one that was found
	Status    string    `json:"status,omitempty"`
	Modifier  string    `json:"modifier,omitempty"`
	UnclearAt time.Time `json:"unclearAt,omitzero"`
}

// Settlement is everything that one verdict changes beside its slot.
type Settlement struct {
	Request string // the request that is settled; "" for jobs that were never sent
	Results []Result
	Park    []*Parked   // At is filled in
	Unpark  []ParkedRef // leave the ledger; one that Park parks again need not be here
	Dead    []*DeadLetter
	Audit   *Audit
}

const (
	resultsTTL   = 400 * 24 * time.Hour
	tombstoneTTL = time.Hour
	// maxSettlement is how many messages one settlement may have. The server takes batches of 1,000.
	maxSettlement = 900
	// maxResultsBytes is about how much results go into one message; the server takes 1 MiB.
	maxResultsBytes = 256 << 10
)

// Ledger is one lane's hand on the ledger of one app. It is used by one goroutine, except for Retried, which may run
// beside it.
type Ledger struct {
	q     *Queue
	site  string
	app   int64
	epoch uint64
	owner string

	at     [Slots]uint64 // the sequence of each slot's message: what the next write expects
	broken error         // set by a write that was given up unanswered, or that found another owner's

	retried *reader // parked messages behind the barrier; made by Load
}

// OpenLedger claims all slots of an app, empty or not, in their order, and gives their content. A claim is a
// compare-and-swap write that carries the new epoch and keeps the content, so that from then on every write of an older
// owner is refused, also one that is still under way. Content counts only once the swap that keeps it has succeeded.
//
// The error wraps [ErrDeposed] if a slot carries a newer epoch. NATS being away is waited for until ctx ends.
func (q *Queue) OpenLedger(ctx context.Context, site string, app int64, epoch uint64, owner string) (*Ledger, [Slots]Slot, error) {
	l := &Ledger{q: q, site: site, app: app, epoch: epoch, owner: owner}
	var slots [Slots]Slot
	for n := range slots {
		slot, err := l.claim(ctx, n)
		if err != nil {
			return nil, slots, fmt.Errorf("app %d: claim slot %d: %w", app, n, err)
		}
		slots[n] = slot
	}
	failpoint.Hit("claims.done")
	return l, slots, nil
}

// Epoch is the epoch that the ledger was claimed with.
func (l *Ledger) Epoch() uint64 { return l.epoch }

// Write puts s into slot n by compare-and-swap, and with it, in one atomic batch, a settlement if there is one. Epoch,
// Owner and Write of s are filled in, and At of what is parked and dead.
//
// A write without an answer is sent again until ctx ends. The error wraps [ErrDeposed] if another owner has claimed the
// slot, and [ErrLedgerFull] if there is no room; then nothing of the write is stored. It wraps [ErrUnclear] as well if
// an attempt is unanswered when Write gives up, and then, as after ErrDeposed, the ledger takes no further write.
func (l *Ledger) Write(ctx context.Context, n int, s Slot, set *Settlement) error {
	if l.broken != nil {
		return fmt.Errorf("app %d: write slot %d: %w", l.app, n, l.broken)
	}
	messages, err := l.messages(n, &s, set)
	if err != nil {
		return fmt.Errorf("app %d: write slot %d: %w", l.app, n, err)
	}
	seq, err := l.q.swap(ctx, l.at[n], messages, wrote(s.Write))
	if err != nil {
		if errors.Is(err, errSwapLost) {
			err = ErrDeposed
		}
		if errors.Is(err, ErrDeposed) || errors.Is(err, ErrUnclear) {
			l.broken = err
		}
		return fmt.Errorf("app %d: write slot %d: %w", l.app, n, err)
	}
	l.at[n] = seq
	if set != nil {
		failpoint.Hit("ledger.settled")
		// What has a place to be told of stands last in the batch.
		at := seq + uint64(len(messages)-len(set.Park)-len(set.Dead))
		for _, p := range set.Park {
			failpoint.Hit("parking.settled")
			p.At = at
			at++
		}
		for _, d := range set.Dead {
			d.At = at
			at++
		}
	}
	return nil
}

// Close ends what Load has started. Nothing is released in the ledger: the next owner claims it.
func (l *Ledger) Close() {
	if l.retried != nil {
		l.retried.abandon()
	}
}

// ParkedAt reads a parked job by its place in the ledger. The error wraps [ErrGone] if it is not there any more.
func (q *Queue) ParkedAt(ctx context.Context, at uint64) (Parked, error) {
	m, err := q.at(ctx, q.ledgerName(), at)
	if err != nil {
		return Parked{}, fmt.Errorf("parked job at %d: %w", at, err)
	}
	if _, _, _, _, ok := parseParkedSubject(q.prefix, m.Subject); !ok || m.gone() {
		return Parked{}, fmt.Errorf("parked job at %d: %w", at, ErrGone)
	}
	p, err := decodeParked(m)
	if err != nil {
		return Parked{}, fmt.Errorf("parked job at %d: %w", at, err)
	}
	failpoint.Hit("parked.read")
	return p, nil
}

// SlotView is a slot as [Queue.Slots] shows it.
type SlotView struct {
	Site string
	App  int64
	N    int
	Slot Slot
	At   time.Time // of its last write
}

// Slots reads the slots of an app, or of all apps of a site with app 0, to show them. Slots that were never claimed are
// absent.
func (q *Queue) Slots(ctx context.Context, site string, app int64) ([]SlotView, error) {
	var views []SlotView
	for m, err := range q.scan(ctx, q.ledgerName(), q.filter("slot", site, orAnyNumber(app), "")) {
		if err != nil {
			return nil, fmt.Errorf("read slots: %w", err)
		}
		site, app, n, ok := parseSlotSubject(q.prefix, m.Subject)
		if !ok || m.gone() {
			continue
		}
		slot, err := decodeSlot(m.stored)
		if err != nil {
			return nil, fmt.Errorf("slot %d of app %d: %w", n, app, err)
		}
		views = append(views, SlotView{Site: site, App: app, N: n, Slot: slot, At: m.At})
	}
	slices.SortFunc(views, func(a, b SlotView) int {
		return cmp.Or(cmp.Compare(a.Site, b.Site), cmp.Compare(a.App, b.App), cmp.Compare(a.N, b.N))
	})
	return views, nil
}

// errSwapLost says that somebody else wrote the subject: no copy of the write can be stored any more.
var errSwapLost = errors.New("somebody else was first")

// swap sends messages, the first of which replaces the message at sequence expected of its subject, until it is known
// what became of them. It returns the sequence of the first. The function mine tells whether a message on that subject
// is the first one of this write.
//
// All copies expect the same sequence, so at most one is ever stored. A refusal of one copy says nothing about the
// copies before it.
func (q *Queue) swap(ctx context.Context, expected uint64, messages []*nats.Msg, mine func(stored) bool) (uint64, error) {
	return q.swapIn(ctx, q.ledgerName(), expected, messages, mine)
}

// swapIn is swap in any stream.
func (q *Queue) swapIn(ctx context.Context, stream string, expected uint64, messages []*nats.Msg, mine func(stored) bool) (uint64, error) {
	subject := messages[0].Subject
	messages[0].Header[headerExpected] = []string{strconv.FormatUint(expected, 10)}
	unclear := false
	giveUp := func(err error) (uint64, error) {
		if unclear {
			return 0, fmt.Errorf("%w: %w", ErrUnclear, err)
		}
		return 0, err
	}
	for attempt := 0; ; attempt++ {
		if ctx.Err() != nil {
			return giveUp(context.Cause(ctx))
		}
		copies := make([]*nats.Msg, len(messages))
		for i, m := range messages {
			copies[i] = copyMessage(m)
		}
		failpoint.Hit("ledger.sending")
		last, _, err := q.send(ctx, copies)
		if err == nil {
			failpoint.Hit("ledger.answered")
			return last - uint64(len(messages)) + 1, nil
		}
		failure := q.unanswered(ctx, stream, err)
		if errors.Is(failure, ErrNoQueue) {
			return giveUp(failure)
		}
		unclear = unclear || refusal(err) == 0

		if refusal(err) != 0 && (isSwapRefused(err) || unclear) {
			// Somebody's write is in the way, or perhaps an earlier copy of ours. The leader knows; and even one that has
			// been voted out and does not know it yet only tells of what was true.
			m, readErr := q.last(ctx, stream, subject)
			// Who shows an older message than we have seen leads no more.
			if readErr == nil && m.Seq != expected && (m.Seq > expected || m.Seq == 0) {
				if mine(m) {
					return m.Seq, nil
				}
				return 0, errSwapLost
			}
			if readErr != nil {
				failure = readErr
			}
			// The subject stands as we left it: some copy may be on its way through the replicas. Or it could not be
			// read. Both pass.
		}
		switch {
		case isFull(err):
			return giveUp(fmt.Errorf("%w: %w", ErrLedgerFull, err))
		case refusal(err) != 0 && !isSwapRefused(err) && !isPassing(err):
			return giveUp(err)
		}
		if !pause(ctx, attempt) {
			return giveUp(failure)
		}
	}
}

// wrote recognises a slot by the nonce of its write.
func wrote(nonce string) func(stored) bool {
	return func(m stored) bool {
		slot, err := decodeSlot(m)
		return err == nil && slot.Write == nonce
	}
}

// claim swaps the epoch into slot n and gives its content.
func (l *Ledger) claim(ctx context.Context, n int) (Slot, error) {
	subject := slotSubject(l.q.prefix, l.site, l.app, n)
	for attempt := 0; ; attempt++ {
		m, err := l.q.last(ctx, l.q.ledgerName(), subject)
		if err != nil {
			if errors.Is(err, ErrNoQueue) || !pause(ctx, attempt) {
				return Slot{}, err
			}
			continue
		}
		var slot Slot
		if !m.gone() {
			if slot, err = decodeSlot(m); err != nil {
				return Slot{}, err
			}
		}
		if slot.Epoch > l.epoch {
			return Slot{}, fmt.Errorf("%w: %s, epoch %d", ErrDeposed, slot.Owner, slot.Epoch)
		}
		l.at[n] = m.Seq
		messages, err := l.messages(n, &slot, nil)
		if err != nil {
			return Slot{}, err
		}
		failpoint.Hit("claim.read")
		seq, err := l.q.swap(ctx, l.at[n], messages, wrote(slot.Write))
		if errors.Is(err, errSwapLost) {
			continue // the old owner was quicker: its write is the content to keep
		}
		if err != nil {
			return Slot{}, err
		}
		failpoint.Hit("claim.stored")
		l.at[n] = seq
		return slot, nil
	}
}

// messages gives what a write consists of: the slot first, then results, tombstones, audit, and last what has a place to
// be told of.
func (l *Ledger) messages(n int, s *Slot, set *Settlement) ([]*nats.Msg, error) {
	if n < 0 || n >= Slots {
		return nil, fmt.Errorf("there are slots 0 to %d", Slots-1)
	}
	s.V, s.Epoch, s.Owner, s.Write = 1, l.epoch, l.owner, NewID()
	b := l.q.newBatch()
	b.add(slotSubject(l.q.prefix, l.site, l.app, n), s)
	if set == nil {
		return b.done()
	}
	// The sequence that the slot leaves is in no other settlement, so that no results can replace others.
	l.addResults(b, set, strconv.FormatUint(l.at[n], 36))
	again := make(map[ParkedRef]bool, len(set.Park))
	for _, p := range set.Park {
		again[ParkedRef{Record: p.Job.Record, Job: p.Job.ID}] = true
	}
	for _, ref := range set.Unpark {
		if !again[ParkedRef{Record: ref.Record, Job: ref.Job}] {
			b.addTombstone(parkedSubject(l.q.prefix, l.site, l.app, ref.Record, ref.Job), "1")
		}
	}
	if set.Audit != nil {
		b.addAudit(l.signed(*set.Audit))
	}
	for _, p := range set.Park {
		p.V, p.Epoch = 1, l.epoch
		b.add(parkedSubject(l.q.prefix, l.site, l.app, p.Job.Record, p.Job.ID), p)
	}
	for _, d := range set.Dead {
		d.V, d.Site, d.App = 1, l.site, l.app
		b.add(deadSubject(l.q.prefix, l.site, l.app, d.Job.Campaign, d.Job.ID), d)
	}
	return b.done()
}

// addResults adds one message for each campaign, or several when there are too many results for one.
func (l *Ledger) addResults(b *batch, set *Settlement, unique string) {
	byCampaign := make(map[string][]Result)
	for _, result := range set.Results {
		byCampaign[result.Campaign] = append(byCampaign[result.Campaign], result)
	}
	part := 0
	for _, campaign := range slices.Sorted(maps.Keys(byCampaign)) {
		results := byCampaign[campaign]
		for len(results) > 0 {
			size, some := 0, 0
			for some < len(results) && (some == 0 || size < maxResultsBytes) {
				r := &results[some]
				size += r.size()
				some++
			}
			name := set.Request + "-" + unique
			if part++; part > 1 {
				name += "-" + strconv.Itoa(part)
			}
			b.add(resultsSubject(l.q.prefix, l.site, l.app, campaign, name),
				storedResults{V: 1, Request: set.Request, Campaign: campaign, Results: results[:some]},
				headerTTL, resultsTTL.String())
			results = results[some:]
		}
	}
}

// size is about how many bytes a result takes in the ledger.
func (r *Result) size() int {
	n := 200 + len(r.Job) + len(r.Reason) + len(r.Code) + 2*len(r.Message) + len(r.Ref)
	for _, a := range r.Attempts {
		n += 150 + len(a.Request) + len(a.Reason) + len(a.Code) + 2*len(a.Message)
	}
	return n
}

// signed fills in who writes an audit note.
func (l *Ledger) signed(a Audit) Audit {
	a.Site, a.App, a.Epoch, a.Owner = l.site, l.app, l.epoch, l.owner
	if a.At.IsZero() {
		a.At = time.Now()
	}
	return a
}

// batch gathers messages for the ledger. Its first error is told by done.
type batch struct {
	q        *Queue
	messages []*nats.Msg
	subjects map[string]bool
	err      error
}

func (q *Queue) newBatch() *batch { return &batch{q: q, subjects: make(map[string]bool)} }

// add adds a message with a value as JSON and headers as pairs.
func (b *batch) add(subject string, value any, headers ...string) {
	data, err := json.Marshal(value)
	if err == nil && int64(len(data)) > b.q.nc.MaxPayload()-4096 {
		err = fmt.Errorf("%d bytes are too many for one message", len(data))
	}
	b.addRaw(subject, data, err, headers...)
}

// addTombstone adds a removal. The mark is "1", or what the writer wants to recognise it by.
func (b *batch) addTombstone(subject, mark string) {
	b.addRaw(subject, nil, nil, headerGone, mark, headerTTL, tombstoneTTL.String())
}

// addAudit adds an audit note under a name of its own.
func (b *batch) addAudit(a Audit) {
	a.V = 1
	b.add(auditSubject(b.q.prefix, a.Site, a.App, NewID()), a)
}

func (b *batch) addRaw(subject string, data []byte, err error, headers ...string) {
	if err == nil && b.subjects[subject] {
		err = errors.New("twice in one batch")
	}
	if err != nil && b.err == nil {
		b.err = fmt.Errorf("%s: %w", subject, err)
	}
	b.subjects[subject] = true
	m := &nats.Msg{Subject: subject, Header: nats.Header{headerStream: {b.q.ledgerName()}}, Data: data}
	for pair := range slices.Chunk(headers, 2) {
		m.Header[pair[0]] = pair[1:]
	}
	b.messages = append(b.messages, m)
}

func (b *batch) done() ([]*nats.Msg, error) {
	if b.err == nil && len(b.messages) > maxSettlement {
		return nil, fmt.Errorf("%d messages in one batch, at most %d are possible", len(b.messages), maxSettlement)
	}
	return b.messages, b.err
}

// decode reads a stored form and refuses one of a newer version.
func decode(m stored, into any) error {
	var form struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(m.Data, &form); err != nil {
		return fmt.Errorf("unreadable: %w", err)
	}
	if form.V > 1 {
		return ErrNewerVersion
	}
	if err := json.Unmarshal(m.Data, into); err != nil {
		return fmt.Errorf("unreadable: %w", err)
	}
	return nil
}

func decodeSlot(m stored) (Slot, error) {
	var s Slot
	return s, decode(m, &s)
}

func decodeParked(m stored) (Parked, error) {
	p := Parked{}
	err := decode(m, &p)
	p.At = m.Seq
	return p, err
}

// decodeResults reads the results of one message.
func (q *Queue) decodeResults(m stored) ([]Result, error) {
	site, app, _, _, ok := parseResultsSubject(q.prefix, m.Subject)
	if !ok {
		return nil, nil
	}
	var s storedResults
	if err := decode(m, &s); err != nil {
		return nil, err
	}
	for i := range s.Results {
		r := &s.Results[i]
		r.Site, r.App, r.Campaign, r.Request = site, app, s.Campaign, s.Request
	}
	return s.Results, nil
}
