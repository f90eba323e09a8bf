package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Change is a change of an app's process management settings: what an operator wants, how far its owner got with it, and
// how it ended. The last one of an app is kept, ended or not.
type Change struct {
	V      int       `json:"v"`
	ID     string    `json:"id"` // "" = there never was one
	By     string    `json:"by,omitempty"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at,omitzero"` // when it was asked for

	Want    json.RawMessage `json:"want,omitempty"` // the body of PUT preview/app/status.json; none = only deploy what is in the preview
	Base    int64           `json:"base,omitempty"` // revision of the preview that the operator has seen; -1 = whatever it is
	Deploy  bool            `json:"deploy"`         // false = leave it in the preview
	Publish bool            `json:"publish"`        // other changes that wait in the preview may come into force with it
	EmptyBy time.Time       `json:"emptyBy"`        // when requests are still out by then, it is given up

	Stage ChangeStage `json:"stage"`
	Since time.Time   `json:"since,omitzero"` // of the stage

	// What was found before anything was done: the revisions of the preview and of what is in force, and the settings
	// in the preview. Written with the stage putting.
	Preview int64           `json:"preview,omitempty"`
	Live    int64           `json:"live,omitempty"`
	Before  json.RawMessage `json:"before,omitempty"`
	Whole   json.RawMessage `json:"whole,omitempty"` // the settings in the preview as they have to be afterwards
	// Put is the revision of the preview that holds what is wanted. Written with the stage deploying.
	Put int64 `json:"put,omitempty"`

	// How it ended, or why it is undone: a stable code, words, and what is left of it in kintone.
	Why  string     `json:"why,omitempty"`
	Text string     `json:"text,omitempty"`
	Left ChangeLeft `json:"left,omitempty"`

	// Filled in by writing.
	Epoch uint64 `json:"epoch"`
	Owner string `json:"owner"`
	Write string `json:"write"`
}

// ChangeStage is how far a change is. A stage is written before its first request leaves.
type ChangeStage string

const (
	ChangeWaiting   ChangeStage = "waiting"   // until no request is out any more; kintone was asked nothing but questions
	ChangePutting   ChangeStage = "putting"   // the preview is changed
	ChangeDeploying ChangeStage = "deploying" // the preview comes into force
	ChangeUndoing   ChangeStage = "undoing"   // it failed: the preview is put back
	ChangeDone      ChangeStage = "done"
	ChangeFailed    ChangeStage = "failed"
)

// Ended reports whether nothing happens any more.
func (s ChangeStage) Ended() bool { return s == ChangeDone || s == ChangeFailed || s == "" }

// ChangeLeft is what a change that has ended left in kintone.
type ChangeLeft string

const (
	LeftInForce   ChangeLeft = "in_force"   // what was wanted is in force
	LeftPreview   ChangeLeft = "in_preview" // it is in the preview, and not in force
	LeftAsItWas   ChangeLeft = "as_it_was"  // nothing of it
	LeftOthers    ChangeLeft = "others"     // somebody else changed the same settings, which were left alone
	LeftDeploying ChangeLeft = "deploying"  // kintone had not finished deploying
	LeftUnknown   ChangeLeft = "unknown"    // kintone could not be asked
)

// Changer writes the change of one app, as long as nobody else has claimed it.
type Changer struct {
	q      *Queue
	site   string
	app    int64
	epoch  uint64
	owner  string
	at     uint64 // sequence of what it wrote last
	broken error
}

// ClaimChange takes over the change of an app: from now on an owner of an older epoch can write nothing to it. It gives
// what stands there; a Change without an ID if there never was one. The error wraps [ErrDeposed] if a newer owner has
// claimed it.
func (q *Queue) ClaimChange(ctx context.Context, site string, app int64, epoch uint64, owner string) (*Changer, Change, error) {
	w := &Changer{q: q, site: site, app: app, epoch: epoch, owner: owner}
	stream, subject := w.place()
	for attempt := 0; ; attempt++ {
		m, err := q.last(ctx, stream, subject)
		var c Change
		if err == nil && !m.gone() {
			if err := decode(m, &c); err != nil {
				return nil, c, fmt.Errorf("settings change of app %d: %w", app, err)
			}
		}
		if err == nil && c.Epoch > epoch {
			return nil, c, fmt.Errorf("settings change of app %d: %w: %s, epoch %d", app, ErrDeposed, c.Owner, c.Epoch)
		}
		if err == nil {
			w.at = m.Seq
			if err = w.write(ctx, &c); err == nil {
				return w, c, nil
			}
			if errors.Is(err, errSwapLost) {
				continue // the old owner was quicker: what it wrote is what to keep
			}
			return nil, c, fmt.Errorf("settings change of app %d: %w", app, err)
		}
		if errors.Is(err, ErrNoQueue) || !pause(ctx, attempt) {
			return nil, c, fmt.Errorf("settings change of app %d: %w", app, err)
		}
	}
}

// Write stores c over what this owner wrote last. Epoch, Owner and Write are filled in. A write without an answer is sent
// again until ctx ends. The error wraps [ErrDeposed], [ErrLedgerFull] and [ErrUnclear] as that of [Ledger.Write] does.
func (w *Changer) Write(ctx context.Context, c Change) error {
	err := w.broken
	if err == nil {
		if err = w.write(ctx, &c); errors.Is(err, errSwapLost) {
			err = ErrDeposed
		}
		if errors.Is(err, ErrDeposed) || errors.Is(err, ErrUnclear) {
			w.broken = err
		}
	}
	if err != nil {
		return fmt.Errorf("settings change of app %d: %w", w.app, err)
	}
	return nil
}

func (w *Changer) write(ctx context.Context, c *Change) error {
	c.V, c.Epoch, c.Owner, c.Write = 1, w.epoch, w.owner, NewID()
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	stream, subject := w.place()
	m := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{headerStream: {stream}}}
	seq, err := w.q.swapIn(ctx, stream, w.at, []*nats.Msg{m}, func(m stored) bool {
		var there Change
		return decode(m, &there) == nil && there.Write == c.Write
	})
	if err == nil {
		w.at = seq
	}
	return err
}

func (w *Changer) place() (stream, subject string) {
	bucket := w.q.bucket("control")
	return "KV_" + bucket, "$KV." + bucket + "." + changeKey(w.site, w.app)
}

// Change reads the last settings change of an app. The error wraps [ErrGone] if there never was one.
func (q *Queue) Change(ctx context.Context, site string, app int64) (Change, error) {
	var c Change
	err := q.read(ctx, q.bucket("control"), changeKey(site, app), &c)
	if err == nil && c.ID == "" {
		err = ErrGone
	}
	if err != nil {
		return Change{}, fmt.Errorf("settings change of app %d: %w", app, err)
	}
	return c, nil
}

func changeKey(site string, app int64) string { return controlKey(site, app) + ".change" }
