//go:build crash

package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
	"statusq/test/programs"
)

// Operators change the process settings of an app whose jobs run, by enqueue, and the owner dies over it. While the
// settings change no status request may be out. A change ends once, and afterwards kintone has what its end says.

// wish is a change that an operator asked for, from then until what became of it was compared with what kintone has.
type wish struct {
	by      string // who asked: it tells the change from others
	asker   *process
	before  simulator.SettingsState
	want    string // the process settings that it leads to
	action  string // that it brings; "" if none
	puts    int64  // how often it changes the preview when it goes well
	publish bool   // others' changes as well
	keep    bool   // in the preview
	sent    bool   // home, before he had an answer
	hitch   hitch
}

// hitch is what gets in the way of a change.
type hitch struct {
	ends  simulator.DeployState // of its deploy; Success = nothing is in the way there
	rival string                // at which of its requests somebody else changes the preview; "" = nobody does
	takes time.Duration         // of a deploy
	plain bool                  // it is deployed, with whatever else waits
}

// The requests that change settings, as the simulator is asked for them.
const (
	putSettings    = "PUT preview/app/status.json"
	deploySettings = "POST preview/app/deploy.json"
)

// story is what became of the changes of all sites.
type story struct {
	mu      sync.Mutex // guards what follows
	ends    map[string]int
	owners  map[int]int // how many changes had so many owners
	unheard int         // that were never begun
}

func newStory() *story { return &story{ends: make(map[string]int), owners: make(map[int]int)} }

// report says how changes ended. With kills enough there have to be some of each kind, and some that had several owners.
func (y *story) report(t *testing.T, whole bool) {
	t.Helper()
	several := 0
	for n, count := range y.owners {
		if n > 1 {
			several += count
		}
	}
	t.Logf("%d changes of settings: %v; %d that were asked for were not begun; by number of owners: %v", sum(y.ends), y.ends, y.unheard, y.owners)
	if !whole {
		return
	}
	deployed := y.ends["failed deploy_failed, as_it_was"] + y.ends["failed deploy_cancelled, as_it_was"]
	if y.ends["done, in_force"] == 0 || deployed == 0 || y.ends["failed pending_changes, as_it_was"] == 0 || several < 10 {
		t.Errorf("too few changes of some kind, or with several owners (%d, want 10): the test shows nothing", several)
	}
}

// atChange reports whether a fail point lies in a change of the settings.
func atChange(point string) bool { return strings.HasPrefix(point, "change.") }

// change has an operator change the settings while jobs run. The owner dies over it, at a point or at any moment.
func (s *site) change(c card) (card, bool, int) {
	s.t.Helper()
	kills := 1
	if c.point == "change.claimed" && s.wish == nil {
		s.leave()
		kills++
	}
	order := ""
	patience := time.Duration(100+s.rng.IntN(4000)) * time.Millisecond
	if c.point != "" {
		order = fmt.Sprintf("STATUSQ_FAILPOINT=%s:%d", c.point, 1+s.rng.IntN(max(1, most[c.point])))
		patience = 12 * time.Second
	}
	p := s.begin(order)
	s.owned(p)
	s.serves(p)
	if q, done := s.open(p); q != nil {
		for deadline := time.Now().Add(patience); p.alive() && time.Now().Before(deadline); p.ends(100 * time.Millisecond) {
			if s.account(q) {
				if c.point == "change.claimed" {
					break // nothing to claim was left
				}
				h := s.draw(c.point)
				if c.point == "change.reverting" && s.pending() {
					h.ends = simulator.Success // nothing else may wait in a preview that is reverted
				}
				s.apply(p, h)
			}
			s.drip(p)
		}
		done()
	}
	hit := c.point == "" || p.at() == c.point
	if !hit && !p.alive() {
		s.t.Errorf("%s: a worker that was to die at %s ended by itself: %v\n%s", s.name, c.point, p.cmd.ProcessState, p.tail(2000))
	}
	s.bury(p)
	return c, hit, kills
}

// leave has an owner die in the middle of a change.
func (s *site) leave() {
	s.t.Helper()
	p := s.begin("")
	s.owned(p)
	s.serves(p)
	s.apply(p, s.draw("change.polled"))
	if q, done := s.open(p); q != nil {
		within(5*time.Second, func() bool {
			c, err := q.Change(s.t.Context(), s.name, app)
			return err == nil && c.By == s.wish.by || !p.alive()
		})
		done()
	}
	p.ends(time.Duration(s.rng.IntN(1500)) * time.Millisecond)
	s.bury(p)
}

// pending reports whether anything waits in the preview.
func (s *site) pending() bool {
	st, err := s.kintone.sim.Settings(app)
	if err != nil {
		s.t.Fatal(err)
	}
	return st.PreviewRevision != st.LiveRevision
}

// drip brings a few jobs, so that there is always something to send; now and then so many that a request is full, and
// waits for no other.
func (s *site) drip(p *process) {
	s.t.Helper()
	for range 2 {
		s.link(s.rng.IntN(chains))
	}
	if s.rng.IntN(25) == 0 {
		for range 110 {
			s.add(touched, s.fresh(), "Start")
		}
	}
	s.publish(p)
}

// draw says what gets in the way of the next change: what leads to a fail point, or anything.
func (s *site) draw(point string) hitch {
	h := hitch{ends: simulator.Success, takes: time.Duration(200+s.rng.IntN(1500)) * time.Millisecond}
	failing := [...]simulator.DeployState{simulator.Fail, simulator.Cancel}[s.rng.IntN(2)]
	switch point {
	case "change.reverting":
		h.plain, h.ends = true, failing
		return h
	case "change.restoring":
		h.rival = deploySettings
		return h
	case "change.polled":
		h.plain, h.takes = true, h.takes+2*time.Second
		return h
	case "change.putting", "change.deploying":
		h.plain = true
		return h
	}
	switch s.rng.IntN(8) {
	case 0, 1:
		h.ends = failing
	case 2:
		h.rival = putSettings
	case 3:
		h.rival = deploySettings
	case 4:
		h.ends, h.rival = failing, deploySettings
	}
	return h
}

// apply asks for a change as an operator does. What comes of it is heard of later.
func (s *site) apply(p *process, h hitch) {
	s.t.Helper()
	st, err := s.kintone.sim.Settings(app)
	if err != nil {
		s.t.Fatal(err)
	}
	s.wishes++
	w := &wish{by: fmt.Sprintf("operator-%d", s.wishes), before: st, hitch: h, puts: 1}
	want := st.Preview
	want.States, want.Actions = slices.Clone(want.States), slices.Clone(want.Actions)
	body := s.redo(w, &want)
	w.want = textOf(want)
	args := []string{"settings", "apply", "--app", fmt.Sprint(app), "--yes", "--by", w.by, "--reason", "new rules"}
	pending := st.PreviewRevision != st.LiveRevision
	if differs := textOf(st.Preview) != textOf(st.Live); differs && !h.plain && s.rng.IntN(2) == 0 {
		// What was left in the preview is to come into force as it is.
		w.want, w.puts, w.action, w.publish = textOf(st.Preview), 0, "", true
		args[1] = "deploy"
	} else {
		path := filepath.Join(s.dir, w.by+".json")
		programs.WriteFile(s.t, path, body)
		args = append(args, "--file", path)
		switch {
		case h == hitch{ends: simulator.Success, takes: h.takes} && s.rng.IntN(6) == 0:
			w.keep = true
			args = append(args, "--no-deploy")
		case pending && (h.plain || s.rng.IntN(4) > 0):
			w.publish = true
			args = append(args, "--publish-pending")
		}
	}
	kept := []string{textOf(st.Preview)}
	if w.keep {
		kept = append(kept, w.want)
	}
	s.kintone.expect(h, kept...)
	w.asker = spawn(s.t, s.env(), "enqueue", args...)
	s.wish = w
}

// redo changes process settings so that every job can be run before and after, and gives the body that does it: one more
// action, or another name for the status in the middle.
func (s *site) redo(w *wish, p *simulator.Process) (body string) {
	s.t.Helper()
	middle := &p.States[1].Name
	var b any
	if s.rng.IntN(3) == 0 {
		renamed := map[string]string{"In progress": "Doing", "Doing": "In progress"}[*middle]
		states := make(map[string]map[string]any)
		for i, state := range p.States {
			states[state.Name] = map[string]any{"name": state.Name, "index": i}
		}
		states[*middle]["name"] = renamed
		b = map[string]any{"states": states}
		for i := range p.Actions {
			a := &p.Actions[i]
			for _, name := range []*string{&a.From, &a.To} {
				if *name == *middle {
					*name = renamed
				}
			}
		}
		*middle = renamed
	} else {
		w.action = "Back" + w.by
		p.Actions = append(p.Actions, simulator.Action{Name: w.action, From: *middle, To: p.States[0].Name})
		var actions []map[string]any
		for _, a := range p.Actions {
			actions = append(actions, map[string]any{"name": a.Name, "from": a.From, "to": a.To, "filterCond": ""})
		}
		b = map[string]any{"actions": actions}
	}
	text, err := json.Marshal(b)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// textOf writes process settings so that they can be compared.
func textOf(p simulator.Process) string {
	var b strings.Builder
	fmt.Fprint(&b, p.Enabled)
	for _, x := range p.States {
		fmt.Fprintf(&b, "; %s %v", x.Name, x.Entities)
	}
	for _, x := range p.Actions {
		fmt.Fprintf(&b, "; %s: %s to %s", x.Name, x.From, x.To)
	}
	return b.String()
}

// dismiss sends an operator home whose owner is dead: nobody has begun, or will begin, what he asked for. He who watches a
// change may go on, unless the queue died with the owner.
func (s *site) dismiss() {
	if s.wish == nil || !s.wish.asker.alive() {
		return
	}
	if s.shared != nil {
		if c, err := s.shared.Change(s.t.Context(), s.name, app); err == nil && c.By == s.wish.by {
			return
		}
	}
	s.wish.sent = true
	s.wish.asker.kill()
}

// account compares a change that has ended with what kintone has, and reports whether there is none any more of which that
// is to be done.
func (s *site) account(q *queue.Queue) bool {
	s.t.Helper()
	w := s.wish
	if w == nil {
		return true
	}
	gone := !w.asker.alive() // asked before the change is read
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Second)
	defer cancel()
	c, err := q.Change(ctx, s.name, app)
	begun := err == nil && c.By == w.by
	switch {
	case err != nil && !errors.Is(err, queue.ErrGone):
		return false
	case !begun && !gone, begun && !c.Stage.Ended():
		return false
	}
	notes, err := s.notesOf(ctx, q, c.ID)
	if err != nil {
		return false
	}
	s.wish = nil
	now, err := s.kintone.sim.Settings(app)
	if err != nil {
		s.t.Fatal(err)
	}
	rivals := s.kintone.expect(hitch{ends: simulator.Success}, textOf(now.Preview))
	wrong := func(format string, args ...any) {
		s.t.Helper()
		s.t.Errorf("%s: the change by %s (%+v, %d others) ended %s %q, left %q (%s): %s\nbefore: %s\nwanted: %s\nkintone: %s", s.name, w.by, w.hitch, rivals,
			c.Stage, c.Why, c.Left, c.Text, fmt.Sprintf(format, args...), settingsText(w.before), w.want, settingsText(now))
	}
	untouched := textOf(now.Live) == textOf(w.before.Live) && now.LiveRevision == w.before.LiveRevision
	if !begun {
		s.story.note("", 0)
		c = queue.Change{Stage: "never begun"}
		if !untouched || textOf(now.Preview) != textOf(w.before.Preview) || now.PreviewRevision != w.before.PreviewRevision+rivals {
			wrong("it changed something")
		}
		return true
	}
	s.story.note(strings.Join(strings.Fields(string(c.Stage)+" "+c.Why), " ")+", "+string(c.Left), s.ownersOf(c.ID))

	others := count(now.Pending, rival) - count(w.before.Pending, rival) // that still wait
	switch {
	case c.Stage == queue.ChangeDone && c.Left == queue.LeftInForce:
		switch {
		case textOf(now.Live) != w.want:
			wrong("that is not in force")
		case !w.publish && now.LiveRevision != w.before.PreviewRevision+w.puts:
			wrong("more was put into force, or more often, than what was wanted")
		case !w.publish && others != rivals:
			wrong("others' changes do not wait any more")
		case now.PreviewRevision != w.before.PreviewRevision+w.puts+rivals:
			wrong("the preview was changed %d times", now.PreviewRevision-w.before.PreviewRevision)
		}
	case c.Stage == queue.ChangeDone && c.Left == queue.LeftPreview:
		if !w.keep || !untouched || textOf(now.Preview) != w.want {
			wrong("that is not so")
		}
	case c.Stage == queue.ChangeFailed && c.Left == queue.LeftAsItWas:
		switch {
		case !untouched:
			wrong("something else is in force")
		case textOf(now.Preview) != textOf(w.before.Preview):
			wrong("something of it is left in the preview")
		case others != rivals:
			wrong("others' changes do not wait any more")
		}
	default:
		wrong("no such end is to be expected")
	}
	if c.Stage == queue.ChangeFailed && w.hitch.ends == simulator.Success && rivals == 0 {
		wrong("nothing was in its way")
	}
	// One that died before it could store what it had noted is followed by one that notes it again.
	if all := slices.Compact(notes); !slices.Equal(all, []string{"asked for", string(c.Stage)}) {
		wrong("the audit tells %q", all)
	}
	if gone && !w.sent && w.asker.cmd.ProcessState.ExitCode() == 0 && c.Stage != queue.ChangeDone {
		wrong("the operator was told that it is done")
	}
	if c.Stage == queue.ChangeDone && c.Left == queue.LeftInForce && w.action != "" {
		// Nobody dies of the settings from before.
		s.trial++
		s.add(chained, firstTrial+s.trial, "Start")
		s.add(chained, firstTrial+s.trial, w.action)
	}
	return true
}

// notesOf are those of the audit about a change, in their order.
func (s *site) notesOf(ctx context.Context, q *queue.Queue, id string) (notes []string, _ error) {
	for a, err := range q.Audits(ctx, s.name, app) {
		if err != nil {
			return nil, err
		}
		if _, note, found := strings.Cut(a.Verb, ": "); found && a.Request == id {
			notes = append(notes, note)
		}
	}
	return notes, nil
}

func settingsText(s simulator.SettingsState) string {
	return fmt.Sprintf("%d in force %s\n  %d in the preview %s, by %v", s.LiveRevision, textOf(s.Live), s.PreviewRevision, textOf(s.Preview), s.Pending)
}

func count(all []string, one string) (n int64) {
	for _, x := range all {
		if x == one {
			n++
		}
	}
	return n
}

// note takes the end of a change in, or with "" that it was never begun.
func (y *story) note(end string, owners int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if end == "" {
		y.unheard++
		return
	}
	y.ends[end]++
	if owners > 0 {
		y.owners[owners]++
	}
}

// conclude waits for the end of the last change, and holds that the app goes on.
func (s *site) conclude(p *process) {
	s.t.Helper()
	q, done := s.open(p)
	if q == nil {
		s.t.Fatalf("%s: the last worker has ended", s.name)
	}
	defer done()
	s.dismiss()
	if !within(60*time.Second, func() bool { return s.account(q) }) {
		c, err := q.Change(s.t.Context(), s.name, app)
		s.t.Fatalf("%s: a change of the settings is %q after a minute without faults (%v): %s\n%s", s.name, c.Stage, err, c.Text, p.tail(3000))
	}
	s.work()
}

// rival is somebody else who changes settings.
const rival = "sato"

// expect says how the next change fares and what may wait in the preview while requests are sent, and gives how often a
// rival has changed the preview during the last one.
func (k *kintone) expect(h hitch, kept ...string) (rivals int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	rivals = k.rivals
	k.hitch, k.rivals, k.kept = h, 0, kept
	return rivals
}

// settings is the fate of a request that changes settings. Somebody may be quicker, and the deploy go wrong.
func (k *kintone) settings(q simulator.Request) {
	k.mu.Lock()
	h := k.hitch
	strike := h.rival == q.Method+" "+q.API
	if strike {
		k.hitch.rival = ""
	}
	k.mu.Unlock()
	if strike && k.sim.Pend(app, rival, nil) == nil {
		k.mu.Lock()
		k.rivals++
		k.mu.Unlock()
	}
	if q.Method+" "+q.API != deploySettings {
		return
	}
	var order struct{ Revert bool }
	if json.Unmarshal(q.Body, &order) != nil || order.Revert || h.ends == "" {
		h.ends = simulator.Success
	}
	k.sim.SetDeploy(h.takes, h.ends)
}

// aloft is a status request that arrives. None may while what is in the preview is not what is in force.
func (k *kintone) aloft(worker int) {
	st, err := k.sim.Settings(app)
	if err != nil || textOf(st.Live) == textOf(st.Preview) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.Contains(k.kept, textOf(st.Preview)) && !k.deposed[worker] {
		k.wrong = append(k.wrong, fmt.Sprintf("worker %d sent a status request while settings changed: %s", worker, settingsText(st)))
	}
}

// depose says of a worker that it does not own its site any more and may not know yet: what it still has out is harmless
// by its pins alone.
func (k *kintone) depose(worker int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.deposed[worker] = true
}

// isStatus reports whether a request is a status request.
func isStatus(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/status.json") && !strings.Contains(r.URL.Path, "/preview/")
}

// turn is a change at one moment, as it was stored.
type turn struct {
	id    string
	stage queue.ChangeStage
	end   string
	epoch uint64
	at    time.Time
}

// change takes a stored change of settings. It is called with mu held.
func (w *watch) change(subject string, data []byte, at time.Time) {
	var c queue.Change
	if !strings.HasSuffix(subject, ".change") || json.Unmarshal(data, &c) != nil || c.ID == "" {
		return
	}
	site := strings.Split(subject, ".")[2]
	now := turn{id: c.ID, stage: c.Stage, end: fmt.Sprintf("%s %s %s", c.Stage, c.Why, c.Left), epoch: c.Epoch, at: at}
	wrong := func(format string, args ...any) {
		w.wrong = append(w.wrong, fmt.Sprintf("%s: change %s: ", site, c.ID)+fmt.Sprintf(format, args...))
	}
	if all := w.turns[site]; len(all) > 0 {
		last := all[len(all)-1]
		switch rank := slices.Index(stages, now.stage); {
		case now.epoch < last.epoch:
			wrong("it was written under epoch %d after epoch %d had claimed it", now.epoch, last.epoch)
		case now.id != last.id && !last.stage.Ended():
			wrong("it begins while %s is %s", last.id, last.stage)
		case now.id != last.id:
		case last.stage.Ended() && now.end != last.end:
			wrong("it ended %s, and then %s", last.end, now.end)
		case rank < slices.Index(stages, last.stage):
			wrong("it was %s, and is %s", last.stage, now.stage)
		}
	}
	w.turns[site] = append(w.turns[site], now)
}

// stages are those of a change in their order.
var stages = []queue.ChangeStage{queue.ChangeWaiting, queue.ChangePutting, queue.ChangeDeploying, queue.ChangeUndoing, queue.ChangeDone, queue.ChangeFailed}

// ownersOf is how many owners a change has had until it had ended; 0 if that is not known.
func (s *site) ownersOf(id string) int {
	if s.watch == nil {
		return 0
	}
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	epochs := make(map[uint64]bool)
	for _, x := range s.watch.turns[s.name] {
		if x.id == id && (!x.stage.Ended() || len(epochs) == 0) {
			epochs[x.epoch] = true
		}
	}
	return len(slices.Collect(maps.Keys(epochs)))
}

// span is the time from the moment at which the first request of a change might leave until it had ended.
type span struct {
	id       string
	from, to time.Time
}

// changes are the times in which the settings of a site were being changed.
func (w *watch) changes(site string) []span {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []span
	for _, x := range w.turns[site] {
		n := len(out) - 1
		switch same := n >= 0 && out[n].id == x.id; {
		case x.stage == queue.ChangeWaiting:
		case !same && !x.stage.Ended():
			out = append(out, span{x.id, x.at, time.Time{}})
		case same && x.stage.Ended() && out[n].to.IsZero():
			out[n].to = x.at
		}
	}
	return slices.DeleteFunc(out, func(s span) bool { return s.to.IsZero() })
}

// quiet holds that no status request arrived, nor was carried out, while settings were changed.
func (s *site) quiet() {
	s.t.Helper()
	s.kintone.mu.Lock()
	wrong, deposed := slices.Clone(s.kintone.wrong), maps.Clone(s.kintone.deposed)
	s.kintone.mu.Unlock()
	for _, text := range wrong {
		s.t.Errorf("%s: %s", s.name, text)
	}
	if s.watch == nil {
		return
	}
	calls, commits := s.kintone.asked(), s.kintone.sim.Commits()
	for _, x := range s.watch.changes(s.name) {
		within := func(at time.Time) bool { return at.After(x.from) && at.Before(x.to) }
		for _, c := range calls {
			if within(c.arrived) && !deposed[c.worker] {
				s.t.Errorf("%s: worker %d sent %s at %v, while change %s was made (%v to %v)", s.name, c.worker, c.members, c.arrived, x.id, x.from, x.to)
				break // there may be many
			}
		}
		for _, c := range commits {
			if !c.Foreign && within(c.Time) {
				s.t.Errorf("%s: kintone did %s to record %d at %v, while change %s was made (%v to %v)", s.name, c.Action, c.Record, c.Time, x.id, x.from, x.to)
				break
			}
		}
	}
}
