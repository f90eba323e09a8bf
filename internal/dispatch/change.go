package dispatch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"statusq/internal/failpoint"
	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// This file changes an app's process management settings for an operator. The lane of the app does it, so that no status
// request is out meanwhile: none has to be understood across two versions of the settings.
//
// A change goes through stages, and each is stored (queue.Change) before its first request leaves. Nobody remembers what
// was answered: after each request, and as a new owner, it looks at the preview, at what is in force and at kintone's
// deploy state, and the pure function nextMove tells from that what to do. So a new owner does in every stage what the old
// one would have done:
//
//	waiting    Nothing was sent. Once no request is out: look, compare, refuse or go on with putting.
//	putting    The preview has the revision that was found (c.Preview): PUT, again and again, expecting that revision, so
//	           that of all copies one at most is carried out. It has another one: by its content it is ours or not.
//	deploying  The revision of what we put (c.Put) is known: POST deploy, again and again, expecting it, until what is in
//	           force has it, or kintone says FAIL or CANCEL to a deploy that it had accepted from this owner.
//	undoing    It failed. If only we had changed the preview, it is reverted; if others had too, or if a copy of the deploy
//	           or of a revert may be on its way, the old process settings are put over ours. Both expect the revision that
//	           was seen.
//
// What it cannot tell apart, and why that is safe: (1) Whether a preview that holds exactly what was wanted was written by
// us or by somebody who wanted the same: it holds what was wanted. (2) Whether an answer that was lost means that nothing
// happened or that it will happen later: every request expects a revision, and the next change moves that on. Only a
// revert may give a revision back. So there is none while a copy of a deploy or of another revert may be on its way,
// except where nothing else brings a deleted status back; a copy of a PUT that comes after a revert, or after the change
// was given up, waits in the preview, where it is seen before anything else is put into force. (3) Whether FAIL is about
// our deploy or an older one, if the answer to ours was lost: then it deploys again, and kintone says FAIL again.
// (4) Whether SUCCESS is about a deploy at all: only what is in force counts, by its revision and its content.
//
// Every stage has a deadline, after which the change fails, says what it left, and the lane goes on.

// How long the stages of a change may take. That of waiting is the operator's.
const (
	longestWait   = 24 * time.Hour   // for requests that are out; what an operator may ask for at most
	defaultWait   = 10 * time.Minute // and what he gets
	startTime     = 5 * time.Minute  // from when none is out until the first stage is stored
	putTime       = 10 * time.Minute
	deployTime    = 20 * time.Minute // a few seconds are usual, 5 minutes are the ceiling of others (docs/kintone.md 1.2)
	undoTime      = 10 * time.Minute
	refreshTime   = 5 * time.Minute // for reading the new settings before the lane goes on
	slowestPoll   = 15 * time.Second
	mostOdd       = 3         // refusals with a code that nobody has written down count as one that would not change
	mostOfAChange = 256 << 10 // bytes of the settings that are wanted
)

// changing is a lane's work on its app's settings. Owned by run.
type changing struct {
	record *queue.Changer
	c      queue.Change

	busy  bool      // a question or a request is at kintone, or at the gate
	due   time.Time // of the next
	tries int       // in a row that changed nothing; the pause grows with them

	put     int64          // the revision that kintone gave to what was put
	posted  bool           // kintone has accepted a deploy of ours
	doubt   bool           // a copy of a deploy or of a revert may be on its way
	refused *kintone.Error // it refused the last request, and nothing was looked at since
	odd     int            // refusals in a row with codes that nobody has written down: a deploy may have run
	seen    changeSighting // by the last look

	end    move      // how it ends, while the settings are read again
	ending time.Time // since when; zero = it does not end yet
}

// changeSighting is what a look at an app's settings saw.
type changeSighting struct {
	state         kintone.DeployState
	preview, live *kintone.ProcessSettings // nil while kintone deploys
}

// changeAnswer is what a request of a change brings back.
type changeAnswer struct {
	did      string // look, put, deploy, revert, put back, refresh
	seen     changeSighting
	revision int64 // of a put
	process  *kintone.Process
	fields   kintone.Fields
}

// previewIs is what the preview holds, from where a change stands.
type previewIs int

const (
	previewUntouched previewIs = iota // the revision that the change found
	previewOurs                       // ours, and nobody changed anything since
	previewOursMore                   // ours, and somebody changed something else since
	previewAsBefore                   // it has moved on, and the process settings are those from before
	previewOthers                     // it has moved on, and the process settings are neither
)

// liveIs is what is in force.
type liveIs int

const (
	liveOld    liveIs = iota // what was in force before, or in any case not what we put
	liveOurs                 // the revision that we put, or a later one, with our settings
	liveOthers               // that revision or a later one with other settings
)

// scene is everything that the next move of a change depends on.
type scene struct {
	stage   queue.ChangeStage
	state   kintone.DeployState
	preview previewIs
	live    liveIs

	deploy  bool // it is to be deployed
	publish bool // with whatever else waits in the preview
	clean   bool // nothing waited in the preview before
	idle    bool // the preview held what is wanted before: there is nothing to put, nor to put back
	stale   bool // the preview is not the one that the operator has seen
	posted  bool
	doubt   bool // a copy of a deploy or of a revert may be on its way, and the settings from before can be put back as they were
	refused bool
	late    bool // the stage's time is over
}

// act is what a move does.
type act int

const (
	actLook    act = iota // again, later
	actPut                // the stage is putting: PUT
	actDeploy             // the stage is deploying: POST deploy
	actUndo               // the stage is undoing: look again
	actRevert             // POST deploy with revert
	actPutBack            // PUT the settings from before
	actDone
	actFail
)

// move is the next thing to do about a change.
type move struct {
	act  act
	why  string // of actUndo, actFail and sometimes actDone: one of the change reasons
	left queue.ChangeLeft
}

// Why a change was not made, or not wholly. They are stable.
const (
	ChangeNothing    = "nothing_to_change" // done: it was like that before
	ChangeNormalized = "normalized"        // done: kintone reads the settings otherwise than they were written
	ChangeBusy       = "requests_out"      // requests were out until its time was over
	ChangeStale      = "stale_revision"    // somebody changed the settings since they were looked at (GAIA_CO03)
	ChangePending    = "pending_changes"   // other changes wait in the preview, and would come into force with it
	ChangeRefused    = "refused"           // kintone refused it
	ChangeDeployFail = "deploy_failed"     // kintone said FAIL
	ChangeCancelled  = "deploy_cancelled"  // kintone said CANCEL
	ChangeSuperseded = "superseded"        // somebody else changed the same settings meanwhile
	ChangeTimeout    = "timeout"           // a stage took too long
)

// nextMove decides what to do about a change whose app was looked at. It is pure.
func nextMove(s scene) move {
	fail := func(why string, left queue.ChangeLeft) move { return move{actFail, why, left} }
	if s.state == kintone.DeployProcessing {
		// Nothing can be done while it runs, whoever began it (docs/kintone.md 5).
		if !s.late {
			return move{act: actLook}
		}
		if s.stage == queue.ChangeWaiting {
			return fail(ChangeTimeout, queue.LeftAsItWas)
		}
		return fail(ChangeTimeout, queue.LeftDeploying)
	}
	switch s.stage {
	case queue.ChangeWaiting:
		switch {
		case s.stale:
			return fail(ChangeStale, queue.LeftAsItWas)
		case s.idle && (s.clean || !s.deploy):
			left := queue.LeftInForce
			if !s.clean {
				left = queue.LeftPreview
			}
			return move{actDone, ChangeNothing, left}
		case s.deploy && !s.clean && !s.publish:
			return fail(ChangePending, queue.LeftAsItWas)
		case s.late:
			return fail(ChangeTimeout, queue.LeftAsItWas)
		case s.idle:
			return move{act: actDeploy}
		}
		return move{act: actPut}

	case queue.ChangePutting:
		if s.live == liveOurs {
			return move{actDone, "", queue.LeftInForce} // somebody else has deployed it
		}
		switch s.preview {
		case previewUntouched:
			switch {
			case s.refused:
				return fail(ChangeRefused, queue.LeftAsItWas)
			case s.late:
				return fail(ChangeTimeout, queue.LeftAsItWas)
			}
			return move{act: actPut}
		case previewOurs, previewOursMore:
			switch {
			case !s.deploy:
				return move{actDone, "", queue.LeftPreview}
			case s.preview == previewOursMore && !s.publish:
				return move{act: actUndo, why: ChangePending}
			}
			return move{act: actDeploy}
		case previewAsBefore:
			return fail(ChangeStale, queue.LeftAsItWas)
		}
		return fail(ChangeSuperseded, queue.LeftOthers)

	case queue.ChangeDeploying, queue.ChangeUndoing:
		switch s.live {
		case liveOurs:
			return move{actDone, "", queue.LeftInForce}
		case liveOthers:
			return fail(ChangeSuperseded, queue.LeftOthers)
		}
		if s.stage == queue.ChangeUndoing {
			return s.undo()
		}
		failed := move{act: actUndo}
		if s.idle {
			failed = move{act: actFail, left: queue.LeftAsItWas} // the preview held it before
		}
		because := func(why string) move { failed.why = why; return failed }
		switch s.preview {
		case previewUntouched, previewAsBefore:
			return fail(ChangeStale, queue.LeftAsItWas) // somebody reverted it
		case previewOthers:
			return fail(ChangeSuperseded, queue.LeftOthers)
		case previewOursMore:
			if !s.publish {
				return because(ChangePending)
			}
		}
		switch {
		case s.posted && s.state == kintone.DeployFail:
			return because(ChangeDeployFail)
		case s.posted && s.state == kintone.DeployCancel:
			return because(ChangeCancelled)
		case s.refused && s.preview == previewOurs:
			return because(ChangeRefused)
		case s.late:
			return because(ChangeTimeout)
		}
		return move{act: actDeploy}
	}
	return move{act: actLook}
}

// undo is nextMove while the change is undone: it is not in force.
func (s scene) undo() move {
	end := func(left queue.ChangeLeft) move { return move{act: actFail, left: left} }
	switch s.preview {
	case previewUntouched, previewAsBefore:
		return end(queue.LeftAsItWas)
	case previewOthers:
		return end(queue.LeftOthers)
	}
	switch {
	case s.idle:
		return end(queue.LeftAsItWas)
	case s.late, s.refused && s.preview == previewOurs:
		return end(queue.LeftPreview)
	case s.clean && s.preview == previewOurs && !s.doubt:
		return move{act: actRevert}
	}
	return move{act: actPutBack}
}

// loadChange takes over what another owner, or this one before, left of a change.
func (l *lane) loadChange(ctx context.Context) error {
	record, c, err := l.queue.ClaimChange(ctx, l.site, l.app.ID, l.epoch, l.owner)
	if err != nil {
		return fmt.Errorf("app %d: %w", l.app.ID, err)
	}
	l.change = changing{record: record, c: c, doubt: c.Stage == queue.ChangeDeploying || c.Stage == queue.ChangeUndoing}
	if l.change.on() {
		failpoint.Hit("change.claimed")
		l.tell(Event{Kind: EventSettings, Reason: string(c.Stage), Detail: "taken over: " + c.Text})
	}
	return nil
}

// on reports whether a change is under way.
func (g *changing) on() bool { return !g.c.Stage.Ended() }

// begin stores a change that an operator wants; from now on nothing new is sent. Without an error the answer is the
// change that is under way: that one, or the one that was before it.
func (l *lane) begin(c queue.Change, now time.Time) (queue.Change, error) {
	g := &l.change
	if g.on() || g.c.ID == c.ID {
		return g.c, nil
	}
	c.Stage, c.Since = queue.ChangeWaiting, now.UTC()
	if err := l.noteChange(c, "asked for"); err != nil {
		return c, err
	}
	*g = changing{record: g.record, c: c, due: now}
	return c, nil
}

// runChange goes on with a change, if there is one, and reports whether nothing new may be sent.
func (l *lane) runChange(now time.Time) (hold bool, err error) {
	g := &l.change
	if !g.on() {
		return false, nil
	}
	if g.busy || l.stopping {
		return true, nil
	}
	if g.c.Stage == queue.ChangeWaiting && g.ending.IsZero() && l.aloft() {
		if now.Before(g.c.EmptyBy) {
			return true, nil
		}
		return false, l.endChange(move{actFail, ChangeBusy, queue.LeftAsItWas}, now)
	}
	if now.Before(g.due) {
		return true, nil
	}
	if g.ending.IsZero() {
		l.askChange("look", l.lookAtSettings)
		return true, nil
	}
	l.askChange("refresh", func(ctx context.Context, app kintone.App, a *changeAnswer) (err error) {
		if a.process, err = l.client.Process(ctx, app); err == nil {
			a.fields, err = l.client.FormFields(ctx, app)
		}
		return err
	})
	return true, nil
}

// changeDue is when the lane has to go on with a change; zero = when somebody answers, or never.
func (l *lane) changeDue() time.Time {
	g := &l.change
	switch {
	case !g.on() || g.busy || l.stopping:
		return time.Time{}
	case g.c.Stage == queue.ChangeWaiting && g.ending.IsZero() && l.aloft():
		return g.c.EmptyBy
	}
	return g.due
}

// aloft reports whether requests are out, or reads under way whose jobs would be judged by settings that are about to
// change. Requests that wait for process management to be switched on would wait for ever for a change that does it: that
// they are proved across two versions of the settings is as when somebody does it in kintone.
func (l *lane) aloft() bool {
	if l.reading || l.out > 0 {
		return true
	}
	if l.halt.reason == ReasonProcessDisabled && l.change.turnsOn() {
		return false
	}
	for _, f := range l.flights {
		if f != nil {
			return true
		}
	}
	return false
}

// turnsOn reports whether the change switches process management on.
func (g *changing) turnsOn() bool {
	want, err := settingsOf(g.c.Want)
	return err == nil && want != nil && want.Enable != nil && *want.Enable
}

// askChange lets one thing be asked of kintone, beside the lane's goroutine.
func (l *lane) askChange(did string, ask func(context.Context, kintone.App, *changeAnswer) error) {
	l.change.busy = true
	l.out++
	app := l.app
	app.LeaveBy = time.Now().Add(freshPin)
	app.Resolving = l.change.c.Stage != queue.ChangeWaiting // what was begun is brought to its end
	l.wg.Go(func() {
		a := answer{change: &changeAnswer{did: did}}
		a.err = ask(l.work, app, a.change)
		l.answer(a)
	})
}

// lookAtSettings reads what the next move depends on. While kintone deploys that is all there is to see.
func (l *lane) lookAtSettings(ctx context.Context, app kintone.App, a *changeAnswer) (err error) {
	if a.seen.state, err = l.client.DeployState(ctx, app); err != nil || a.seen.state == kintone.DeployProcessing {
		return err
	}
	// The preview last: one that is untouched was untouched when the other was read.
	if a.seen.live, err = l.client.ProcessSettings(ctx, app, false); err != nil {
		return err
	}
	a.seen.preview, err = l.client.ProcessSettings(ctx, app, true)
	return err
}

// changed takes in what was answered.
func (l *lane) changed(a *changeAnswer, err error) error {
	g := &l.change
	g.busy = false
	l.out--
	now := time.Now()
	e, _ := errors.AsType[*kintone.Error](err)
	if err != nil && e == nil {
		e = &kintone.Error{App: l.app.ID, Op: a.did, Message: err.Error()}
	}
	if j := judge(err); j.charge == chargeLogin {
		l.failed(j)
	}
	if a.did == "refresh" {
		failpoint.Hit("change.refreshed")
		return l.finishChange(a, err, now)
	}
	if a.did != "look" {
		// Only a look tells what became of it.
		failpoint.Hit("change.answered")
		g.refused = nil
		switch {
		case err == nil && a.did == "put" && g.c.Stage == queue.ChangePutting:
			g.put, g.tries = a.revision, 0
		case err == nil && a.did == "deploy":
			if !g.posted {
				g.posted, g.tries = true, 0
			}
		case err == nil:
			g.tries = 0
		case refusedForGood(e):
			if g.odd++; judge(e).listed || g.odd == mostOdd {
				g.refused, g.odd = e, 0
			}
		case (a.did == "deploy" || a.did == "revert") && e.MayHaveActed:
			g.doubt = true
		}
		g.wait(now, err)
		return nil
	}
	if err != nil {
		g.c.Text = e.Error()
		switch late := !now.Before(g.deadline()); {
		case g.c.Stage == queue.ChangeWaiting && hopeless(e):
			return l.endChange(move{actFail, ChangeRefused, queue.LeftAsItWas}, now)
		case g.c.Stage == queue.ChangeWaiting && late:
			return l.endChange(move{actFail, ChangeTimeout, queue.LeftAsItWas}, now)
		case late:
			return l.endChange(move{actFail, ChangeTimeout, queue.LeftUnknown}, now)
		}
		g.wait(now, err)
		return nil
	}
	g.seen = a.seen
	failpoint.Hit("change.looked")
	return l.decideChange(now)
}

// wait puts the next look off: at once after a request that was answered, later each time after what was not, and while
// kintone deploys.
func (g *changing) wait(now time.Time, err error) {
	g.due = now
	if err != nil || g.posted {
		g.tries++
		g.due = now.Add(min(time.Second<<min(g.tries-1, 10), slowestPoll))
	}
}

// deadline is when the time of the present stage is over.
func (g *changing) deadline() time.Time {
	switch g.c.Stage {
	case queue.ChangeWaiting:
		return g.c.EmptyBy.Add(startTime)
	case queue.ChangePutting:
		return g.c.Since.Add(putTime)
	case queue.ChangeUndoing:
		return g.c.Since.Add(undoTime)
	}
	return g.c.Since.Add(deployTime)
}

// refusedForGood reports whether kintone said that it did nothing, and would say so again.
func refusedForGood(e *kintone.Error) bool {
	j := judge(e)
	return j.known == refused && e.Code != "" && j.charge != chargeNobody && j.charge != chargeLogin && e.Status < http.StatusInternalServerError ||
		e.NotSent && errors.Is(e.Err, kintone.ErrInvalidRequest)
}

// hopeless reports whether a question about settings would be refused for as long as nobody does something about it. A
// code that nobody has written down may mean that a deploy runs (docs/kintone.md 5).
func hopeless(e *kintone.Error) bool {
	switch e.Code {
	case "GAIA_NO01", "GAIA_NO02", "GAIA_IA02", "GAIA_AP15", "GAIA_AP01", "GAIA_IL23", "CB_NO02":
		return true
	}
	return e.NotSent && errors.Is(e.Err, kintone.ErrInvalidRequest)
}

// plan is what a change notes about the app before it does anything.
type plan struct {
	preview, live int64
	before, whole json.RawMessage
}

// scene puts the last look in relation to where the change stands, and gives the plan while it waits.
func (g *changing) scene(now time.Time) (scene, plan, error) {
	c := g.c
	s := scene{stage: c.Stage, state: g.seen.state, deploy: c.Deploy, publish: c.Publish,
		posted: g.posted, refused: g.refused != nil, late: !now.Before(g.deadline())}
	preview, live := g.seen.preview, g.seen.live
	if s.state == kintone.DeployProcessing {
		return s, plan{}, nil
	}
	if c.Stage == queue.ChangeWaiting {
		want, err := settingsOf(c.Want)
		if err != nil {
			return s, plan{}, err
		}
		whole := preview
		if want != nil {
			whole = want.Over(preview)
		}
		s.clean = preview.Revision == live.Revision
		s.stale = c.Base > 0 && c.Base != preview.Revision
		s.idle = whole.Same(preview)
		p := plan{preview: preview.Revision, live: live.Revision}
		p.before, err = json.Marshal(preview)
		if err == nil {
			p.whole, err = json.Marshal(whole)
		}
		return s, p, err
	}
	before, err := settingsOf(c.Before)
	if err != nil {
		return s, plan{}, err
	}
	whole, err := settingsOf(c.Whole)
	if err != nil {
		return s, plan{}, err
	}
	if before == nil || whole == nil {
		return s, plan{}, errors.New("what was found before is not noted")
	}
	s.clean, s.idle = c.Preview == c.Live, whole.Same(before)
	// Revisions alone do not tell: after a revert by somebody they may count up from a smaller one (docs/kintone.md 5).
	switch {
	case g.put > 0 && preview.Revision == g.put && c.Stage == queue.ChangePutting:
		s.preview = previewOurs // whatever kintone made of what was put
	case whole.Same(preview) && preview.Revision == cmp.Or(c.Put, c.Preview+1):
		s.preview = previewOurs
	case before.Same(preview) && preview.Revision == c.Preview:
		s.preview = previewUntouched
	case whole.Same(preview):
		s.preview = previewOursMore
	case before.Same(preview):
		s.preview = previewAsBefore
	default:
		s.preview = previewOthers
	}
	switch {
	case whole.Same(live) && (c.Put > 0 && live.Revision >= c.Put || c.Put == 0 && live.Revision > c.Live):
		s.live = liveOurs
	case c.Put > 0 && live.Revision >= c.Put:
		s.live = liveOthers
	}
	if g.doubt && c.Stage == queue.ChangeUndoing {
		s.doubt = restores(c)
	}
	return s, plan{}, nil
}

// decideChange does what the last look calls for: it stores the stage that comes, and lets its first request leave.
func (l *lane) decideChange(now time.Time) error {
	g := &l.change
	s, found, err := g.scene(now)
	if err != nil {
		g.c.Text = err.Error()
		return l.endChange(move{actFail, ChangeRefused, queue.LeftUnknown}, now)
	}
	m := nextMove(s)
	if m.act != actLook {
		g.c.Text = g.words(m.why)
	}
	g.refused = nil
	c := g.c
	switch m.act {
	case actLook:
		failpoint.Hit("change.polled")
		g.tries++
		g.odd = 0
		g.due = now.Add(min(time.Second<<min(g.tries-1, 10), slowestPoll))
		return nil
	case actDone, actFail:
		return l.endChange(m, now)
	case actPut:
		c.Stage = queue.ChangePutting
	case actDeploy:
		c.Stage, c.Put = queue.ChangeDeploying, g.seen.preview.Revision
	case actUndo:
		c.Stage, c.Why = queue.ChangeUndoing, m.why
	}
	if g.c.Stage == queue.ChangeWaiting {
		c.Preview, c.Live, c.Before, c.Whole = found.preview, found.live, found.before, found.whole
	}
	if g.c.Stage == queue.ChangePutting && c.Stage == queue.ChangeDeploying && s.preview == previewOurs {
		// What kintone made of it is what it will put into force.
		if whole, _ := settingsOf(c.Whole); !whole.Same(g.seen.preview) {
			c.Why = ChangeNormalized
		}
		if c.Whole, err = json.Marshal(g.seen.preview); err != nil {
			return fmt.Errorf("app %d: settings change: %w", l.app.ID, err)
		}
	}
	if c.Stage != g.c.Stage {
		c.Since = now.UTC()
	}
	if c.Stage != g.c.Stage || c.Put != g.c.Put {
		if err := l.writeChange(c); err != nil {
			return err
		}
		failpoint.Hit("change.stored")
		if c.Stage != g.c.Stage {
			g.tries, g.odd = 0, 0
			l.tell(Event{Kind: EventSettings, Reason: string(c.Stage), Detail: c.Text})
		}
	}
	g.c = c
	if l.stopping {
		return nil // whoever comes next does it
	}
	return l.act(m, now)
}

// act lets the request of a move leave. Its stage is stored.
func (l *lane) act(m move, now time.Time) error {
	g := &l.change
	switch m.act {
	case actPut:
		want, err := settingsOf(g.c.Want)
		if err != nil || want == nil {
			g.c.Text = "what is wanted cannot be read"
			return l.endChange(move{actFail, ChangeRefused, queue.LeftAsItWas}, now)
		}
		if g.seen.preview != nil { // as it was found: nobody has touched it
			want = want.For(g.seen.preview)
		}
		want.App, want.Revision = 0, g.c.Preview
		l.askChange("put", func(ctx context.Context, app kintone.App, a *changeAnswer) (err error) {
			failpoint.Hit("change.putting")
			a.revision, err = l.client.UpdateProcessSettings(ctx, app, want)
			return err
		})
	case actDeploy:
		put := g.c.Put
		l.askChange("deploy", func(ctx context.Context, app kintone.App, _ *changeAnswer) error {
			failpoint.Hit("change.deploying")
			return l.client.Deploy(ctx, app, put, false)
		})
	case actRevert:
		revision := g.seen.preview.Revision
		l.askChange("revert", func(ctx context.Context, app kintone.App, _ *changeAnswer) error {
			failpoint.Hit("change.reverting")
			return l.client.Deploy(ctx, app, revision, true)
		})
	case actPutBack:
		back, err := putBack(g.c)
		if err != nil {
			return l.endChange(move{act: actFail, left: queue.LeftPreview}, now)
		}
		back.Revision = g.seen.preview.Revision
		l.askChange("put back", func(ctx context.Context, app kintone.App, _ *changeAnswer) error {
			failpoint.Hit("change.restoring")
			_, err := l.client.UpdateProcessSettings(ctx, app, back)
			return err
		})
	default:
		g.due = now
	}
	return nil
}

// putBack is the body that makes the process settings what they were, from what the change made of them. States are named
// by the names that they have now.
func putBack(c queue.Change) (*kintone.ProcessSettings, error) {
	want, err := settingsOf(c.Want)
	if err != nil {
		return nil, err
	}
	before, err := settingsOf(c.Before)
	if err != nil {
		return nil, err
	}
	if want == nil || before == nil {
		return nil, errors.New("what was found before is not noted")
	}
	back := &kintone.ProcessSettings{}
	if want.Enable != nil {
		back.Enable = before.Enable
	}
	if want.States != nil || want.Actions != nil {
		back.Actions = before.Actions
	}
	if want.States != nil {
		back.States = make(map[string]kintone.StateSettings, len(before.States))
		for name, state := range before.States {
			state.Name = cmp.Or(state.Name, name)
			back.States[cmp.Or(want.States[name].Name, name)] = state
		}
	}
	return back, nil
}

// restores reports whether the body of putBack makes everything as it was: a status that was deleted is not the same when
// it is added again.
func restores(c queue.Change) bool {
	want, _ := settingsOf(c.Want)
	before, _ := settingsOf(c.Before)
	if want == nil || before == nil {
		return false
	}
	for name := range before.States {
		if _, kept := want.States[name]; want.States != nil && !kept {
			return false
		}
	}
	return true
}

// settingsOf reads stored settings; nil if there are none.
func settingsOf(raw json.RawMessage) (*kintone.ProcessSettings, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var s kintone.ProcessSettings
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// words tells more about why than its code does: what kintone said, or which revisions are meant.
func (g *changing) words(why string) string {
	switch why {
	case ChangeRefused:
		if g.refused != nil {
			return g.refused.Error()
		}
	case ChangePending, ChangeStale:
		if p, v := g.seen.preview, g.seen.live; p != nil && v != nil {
			return fmt.Sprintf("the preview has revision %d, in force is %d, looked at was %d", p.Revision, v.Revision, max(g.c.Base, g.c.Preview))
		}
	case ChangeDeployFail, ChangeCancelled:
		return fmt.Sprintf("kintone says %s", g.seen.state)
	case "":
		return g.c.Text
	}
	return ""
}

// endChange ends a change. If the settings may have changed they are read again before anything is sent.
func (l *lane) endChange(m move, now time.Time) error {
	g := &l.change
	g.end, g.ending, g.due, g.tries = m, now, now, 0
	if g.c.Stage == queue.ChangeWaiting {
		return l.finishChange(nil, nil, now)
	}
	return nil
}

// finishChange notes the end of a change once the settings were read again, or could not be for long.
func (l *lane) finishChange(a *changeAnswer, err error, now time.Time) error {
	g := &l.change
	if err != nil && now.Sub(g.ending) < refreshTime {
		g.wait(now, err)
		return nil
	}
	switch {
	case a != nil && err == nil:
		l.process, l.fields, l.readAt, l.suspect = a.process, a.fields, now, false
	case a != nil:
		// Whoever would die of them lets them be read. The others need not wait: kintone may refuse that for as long as it
		// deploys.
		l.readAt = time.Time{}
	}
	c := g.c
	c.Stage, c.Since, c.Left = queue.ChangeFailed, now.UTC(), g.end.left
	if g.end.act == actDone {
		c.Stage, c.Text = queue.ChangeDone, ""
		if g.c.Stage == queue.ChangeUndoing {
			c.Why = ""
		}
	}
	if g.end.why != "" && (g.c.Stage != queue.ChangeUndoing || g.end.act == actDone) {
		c.Why = g.end.why
	}
	if err := l.noteChange(c, string(c.Stage)); err != nil {
		return err
	}
	failpoint.Hit("change.ended")
	*g = changing{record: g.record, c: c}
	if l.halted() {
		l.halt.until = now // that may have been the cure
	}
	return nil
}

// noteChange stores a change that begins or ends, and before that a note of it in the audit: of one that has ended nobody
// would write it later. If the owner dies in between, a beginning was asked for and nothing more, and an end is noted again
// by the next owner.
func (l *lane) noteChange(c queue.Change, what string) error {
	verb := "settings apply"
	if len(c.Want) == 0 {
		verb = "settings deploy"
	}
	err := l.write(fence, nil, &queue.Settlement{Audit: &queue.Audit{
		Verb: verb + ": " + what, By: c.By, Reason: c.Reason, Request: c.ID,
	}})
	if err != nil {
		return err
	}
	failpoint.Hit("change.noted")
	if err := l.writeChange(c); err != nil {
		return err
	}
	l.tell(Event{Kind: EventSettings, Reason: cmp.Or(c.Why, string(c.Stage)), Detail: fmt.Sprintf("%s, %s, by %s", verb, what, queue.Signed(c.By, c.Reason))})
	return nil
}

// writeChange stores a change. It waits while there is no room.
func (l *lane) writeChange(c queue.Change) error {
	for {
		err := l.change.record.Write(l.work, c)
		if err == nil || !errors.Is(err, queue.ErrLedgerFull) || errors.Is(err, queue.ErrUnclear) || errors.Is(err, queue.ErrDeposed) {
			if err != nil {
				err = fmt.Errorf("app %d: %w", l.app.ID, err)
			}
			return err
		}
		l.tell(Event{Kind: EventTrouble, Detail: err.Error()})
		if err := sleep(l.work, 5*time.Second); err != nil {
			return err
		}
	}
}
