package dispatch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// reforms are the changes of the process settings in a storm: an operator asks for one after the other, sato changes other
// things in the preview, somebody deploys on the screen, and requests about it are struck as all others are. Each change
// ends once, and what is said of its end is held against what kintone has at that moment. No change takes away what jobs ask
// for.
type reforms struct {
	s    *storm
	doom chan struct{} // the owner is to die of what it just does

	// Guarded by storm.notes.
	rng      *rand.Rand      // of everybody but the operator
	now      *reform         // asked for, and not known to have ended
	n        int             // changes so far
	left     *reform         // ended while kintone was still deploying it
	strays   []time.Time     // when copies of requests come that were answered before
	sent     time.Time       // when the last request left that changes something
	looked   time.Time       // when the preview was read last
	air      map[*worker]int // status requests that are out
	live     simulator.SettingsState
	waiting  int  // changes of sato's in the preview
	pressed  bool // somebody deploys on the screen, or is about to (pressing)
	pressing bool
	last     queue.Change // that ended
	ends     map[string]queue.ChangeStage
	wrong    []error
}

// A reform is one change of the settings.
type reform struct {
	kind  reformKind
	ask   SettingsRequest
	began time.Time

	before          simulator.SettingsState // when it was asked for
	want            simulator.Process       // what is to be there then, as a whole
	states, actions bool                    // what the request names
	takes           time.Duration           // the deploy
	ends            simulator.DeployState   // and how

	// Guarded by storm.notes.
	shut    bool        // its first request has left
	during  []time.Time // status requests that left since
	pends   int         // of sato's, meanwhile
	meddled int         // others changed the same settings, meanwhile
	told    int         // ends that were told
	end     *simulator.SettingsState
}

type reformKind string

const (
	reformCondition reformKind = "condition" // an action gets one that all records satisfy
	reformStatus    reformKind = "new status"
	reformRename    reformKind = "renamed status"
	reformAction    reformKind = "new action"
	reformAssignee  reformKind = "assignee"
	reformDelete    reformKind = "deleted status" // that no record stands in
	reformNothing   reformKind = "nothing new"
	reformWaiting   reformKind = "what waits"     // is deployed
	reformUnknown   reformKind = "unknown user"   // kintone refuses it
	reformNowhere   reformKind = "from nowhere"   // it is seen that kintone would
	reformStale     reformKind = "stale revision" // the operator has not looked for long
)

// isSettings reports whether a request asks to change or to deploy settings.
func isSettings(q simulator.Request) bool {
	return q.Method == "PUT" && q.API == "preview/app/status.json" || q.Method == "POST" && q.API == "preview/app/deploy.json"
}

// watch has the changes seen from all sides. It comes before the first worker.
func (f *reforms) watch() {
	f.live, f.ends = f.s.settings(), make(map[string]queue.ChangeStage)
	f.s.leaving, f.s.hearing = f.leaving, f.heard
}

func (f *reforms) broken(format string, args ...any) {
	name := "settings: "
	if f.now != nil {
		name = fmt.Sprintf("settings, change %s (%s): ", f.now.ask.ID, f.now.kind)
	}
	f.wrong = append(f.wrong, fmt.Errorf(time.Now().UTC().Format("15:04:05.000 ")+name+format, args...))
}

// leaving is told of each request before it leaves a worker. From the first one of a change on no status request may.
func (f *reforms) leaving(wk *worker, r *http.Request) (back func()) {
	settings := r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/preview/app/status.json") ||
		r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/preview/app/deploy.json")
	if !settings && r.Method != http.MethodPut {
		return func() {}
	}
	f.s.notes.Lock()
	defer f.s.notes.Unlock()
	now := time.Now()
	switch {
	case !settings:
		if f.now != nil && f.now.shut {
			f.now.during = append(f.now.during, now)
		}
		f.air[wk]++
		return func() {
			f.s.notes.Lock()
			defer f.s.notes.Unlock()
			f.air[wk]--
		}
	case f.now == nil:
		f.broken("%s sent %s %s, and nobody has asked for it", wk.name, r.Method, r.URL.Path)
		return func() {}
	case f.air[wk] > 0:
		f.broken("%s sent %s %s while %d status requests of it were out", wk.name, r.Method, r.URL.Path, f.air[wk])
	}
	f.sent, f.now.shut = now, true
	return func() {}
}

// arrives is told of each request that comes to kintone, and says whether it does something and how often such are struck.
// What is only a question about settings is struck less often: it takes three answers to go one step on.
func (f *reforms) arrives(q simulator.Request) (acts bool, rate int) {
	acts, rate = q.Method == "PUT" || isSettings(q), f.s.rate
	if acts && bytes.Contains(q.Body, []byte(onScreen)) {
		return false, 0
	}
	f.s.notes.Lock()
	defer f.s.notes.Unlock()
	if f.now == nil {
		return acts, rate
	}
	if !acts && q.API != "records.json" {
		rate /= 3
	}
	switch {
	case q.API == "preview/app/status.json" && !acts:
		f.looked = time.Now()
	case isSettings(q):
		f.look()
		if f.sent != time.Now() {
			f.strays = append(f.strays, time.Now()) // it was held on the way
		}
		if chance(f.rng, 6) {
			f.pend()
		}
		if chance(f.rng, 10) {
			select {
			case f.doom <- struct{}{}:
			default:
			}
		}
	}
	return acts, rate
}

// struck is told of what befalls a request that changes something.
func (f *reforms) struck(fault simulator.Fault) {
	f.s.sum.count("settings request struck", 1)
	f.s.notes.Lock()
	defer f.s.notes.Unlock()
	if !fault.Applied || fault.Delay == 0 {
		return
	}
	f.strays = append(f.strays, time.Now().Add(fault.Delay))
	if chance(f.rng, 30) && (f.now == nil || f.now.kind != reformDelete) {
		after := within(f.rng, 0, fault.Delay)
		f.s.public.Go(func() {
			time.Sleep(after)
			f.s.notes.Lock()
			defer f.s.notes.Unlock()
			f.pend()
		})
	}
}

// heard is told of each event. The end of a change is told right after it was stored.
func (f *reforms) heard(e Event) {
	if e.Kind != EventSettings {
		return
	}
	f.s.notes.Lock()
	defer f.s.notes.Unlock()
	if strings.HasPrefix(e.Detail, "taken over") {
		f.s.sum.count("change taken over "+e.Reason, 1)
	}
	if r := f.now; r != nil && (strings.HasSuffix(e.Detail, ", done, by "+r.ask.By) || strings.HasSuffix(e.Detail, ", failed, by "+r.ask.By)) {
		r.told++
		f.look()
		r.end = new(f.s.settings())
	}
}

// look holds the settings against those that were seen last: only who was told to publishes what others have put into the
// preview, and nobody throws it away. notes is held.
func (f *reforms) look() {
	was, is := f.live, f.s.settings()
	sato := 0
	for _, who := range is.Pending {
		if who == "sato" {
			sato++
		}
	}
	if is.LiveRevision != was.LiveRevision {
		r := f.now
		if r == nil || !r.shut {
			r = f.left
		}
		switch {
		case f.pressed:
		case r == nil || !r.ask.Deploy:
			f.broken("revision %d came into force, and nobody wanted that", is.LiveRevision)
		case f.waiting > 0 && !r.ask.Publish:
			f.broken("revision %d came into force with %d changes of others", is.LiveRevision, f.waiting)
		case f.waiting > 0:
			f.s.sum.count("others' changes published", 1)
		}
	} else if sato != f.waiting {
		f.broken("%d changes of others wait in the preview, there were %d", sato, f.waiting)
	}
	if f.pressed && f.now != nil {
		f.now.meddled++
	}
	f.pressed = f.pressing || f.pressed && is.Deploy == simulator.Processing
	f.live, f.waiting = is, sato
}

// interfered takes note that somebody has changed the settings in force. notes is held.
func (f *reforms) interfered() {
	f.live, f.waiting, f.pressed = f.s.settings(), 0, false
	if f.now != nil {
		f.now.meddled++
	}
}

// pend is sato, who changes something in the preview, mostly not the process. notes is held.
func (f *reforms) pend() {
	f.look()
	var change func(*simulator.Process)
	if chance(f.rng, 25) {
		change = func(p *simulator.Process) {
			first := p.States[0].Name
			p.Actions = append(p.Actions, simulator.Action{Name: fmt.Sprintf("Sato %d", f.rng.IntN(1000)), From: first, To: first})
		}
	}
	if f.s.sim.Pend(testApp, "sato", change) != nil {
		return // it is being deployed
	}
	f.s.sum.count("others' changes in the preview", 1)
	f.waiting++
	if f.now != nil {
		f.now.pends++
		if change != nil {
			f.now.meddled++
		}
	}
}

// onScreen is in the body of somebody's request who deploys on the screen. Workers write revisions as numbers.
const onScreen = `"revision":"-1"`

// press is somebody who deploys on the screen.
func (f *reforms) press() {
	f.s.notes.Lock()
	f.look()
	f.pressed, f.pressing = true, true
	f.s.notes.Unlock()
	defer func() {
		f.s.notes.Lock()
		defer f.s.notes.Unlock()
		f.pressing = false
		f.look()
	}()
	if _, err := f.s.deployOnScreen(fmt.Sprintf(`{"app":%d,%s}`, testApp, onScreen)); err != nil {
		return // kintone cannot be reached
	}
	f.s.sum.count("deployed on the screen", 1)
}

// run is the operator: until the calm he asks for changes, and waits for the end of each.
func (f *reforms) run() {
	s := f.s
	r := s.rng(12)
	for n := 1 + r.IntN(5); n > 0; n-- {
		time.Sleep(within(r, time.Second, 80*time.Second))
		if !time.Now().Before(s.calm) {
			return
		}
		f.order(r)
		s.notes.Lock()
		one := f.draw(r)
		f.now = one
		s.notes.Unlock()
		s.sim.SetDeploy(one.takes, one.ends)
		later := func(percent int, most time.Duration, do func()) {
			if after := within(r, 0, most); chance(r, percent) {
				s.public.Go(func() { time.Sleep(after); do() })
			}
		}
		if one.ends != simulator.Success {
			later(60, time.Minute, func() { s.sim.SetDeploy(time.Second, simulator.Success) })
		}
		if one.kind != reformDelete {
			later(10, 30*time.Second, f.press)
			later(20, 4*time.Minute, func() {
				s.notes.Lock()
				defer s.notes.Unlock()
				f.pend()
			})
		}
		f.settle(r, one)
		s.notes.Lock()
		f.now = nil
		s.notes.Unlock()
		s.sim.SetDeploy(time.Second, simulator.Success)
	}
}

// order is somebody who now and then clears the preview of what waits there, or sato.
func (f *reforms) order(r *rand.Rand) {
	f.s.notes.Lock()
	f.look()
	waits := f.live.PreviewRevision != f.live.LiveRevision
	if !waits && chance(r, 15) {
		f.pend()
	}
	f.s.notes.Unlock()
	if waits && chance(r, 60) {
		f.s.interfere(func(*simulator.Process) {})
	}
}

// draw makes a change of what is in the preview. notes is held.
func (f *reforms) draw(r *rand.Rand) *reform {
	f.look()
	f.n++
	p := f.live.Preview
	o := &reform{before: f.live, began: time.Now(), takes: within(r, 500*time.Millisecond, 20*time.Second), ends: simulator.Success}
	o.want = simulator.Process{Enabled: p.Enabled, States: slices.Clone(p.States), Actions: slices.Clone(p.Actions)}
	o.ask = SettingsRequest{
		V: 1, App: testApp, ID: fmt.Sprintf("c%d", f.n), By: fmt.Sprintf("operator %d", f.n),
		Deploy: chance(r, 85), Publish: chance(r, 25), Wait: within(r, 20*time.Second, 6*time.Minute),
	}
	if chance(r, 30) {
		o.ask.Base = f.live.PreviewRevision
	}
	switch r.IntN(8) {
	case 0, 1:
		o.ends = simulator.Fail
	case 2:
		o.ends = simulator.Cancel
	}
	if chance(r, 3) {
		o.takes = deployTime + within(r, time.Minute, 10*time.Minute)
	}
	o.kind = []reformKind{
		reformCondition, reformCondition, reformStatus, reformStatus, reformRename, reformRename, reformRename, reformAction, reformAction,
		reformAssignee, reformDelete, reformNothing, reformWaiting, reformUnknown, reformNowhere, reformStale,
	}[r.IntN(16)]
	o.alter(r, f.n)
	return o
}

// alter makes what is wanted, and its request.
func (o *reform) alter(r *rand.Rand, n int) {
	p := &o.want
	was := make(map[string]string) // names of statuses, of those that get a new one
	filed := slices.IndexFunc(p.States, func(s simulator.State) bool { return strings.HasPrefix(s.Name, "Filed") })
	asked := slices.IndexFunc(p.States, func(s simulator.State) bool {
		return strings.HasPrefix(s.Name, "Filed") || strings.HasPrefix(s.Name, "For any") || strings.HasPrefix(s.Name, "In review")
	})
	switch {
	case o.kind == reformDelete && filed < 0:
		o.kind = reformStatus
	case o.kind == reformAssignee && asked < 0:
		o.kind = reformAction
	}
	anywhere := func() string { return p.States[r.IntN(len(p.States))].Name }
	for i, a := range p.Actions {
		if a.FilterCond == nobodys {
			p.Actions[i].FilterCond = ""
		}
	}
	switch o.kind {
	case reformCondition, reformStale, reformNothing:
		o.actions = true
		for i := range p.Actions {
			if a := &p.Actions[i]; o.kind != reformNothing && (a.FilterCond == "" || strings.HasPrefix(a.FilterCond, "code")) && chance(r, 10) {
				a.FilterCond = fmt.Sprintf("code != \"~%d\"", n)
			}
		}
	case reformStatus, reformUnknown:
		o.states, o.actions = true, true
		filed := simulator.State{Name: fmt.Sprintf("Filed %d", n), AssigneeType: simulator.One}
		if o.kind == reformUnknown {
			filed.Entities = []simulator.Entity{simulator.User("nobody")}
		}
		p.Actions = append(p.Actions, simulator.Action{Name: fmt.Sprintf("File %d", n), From: anywhere(), To: filed.Name})
		p.States = append(p.States, filed)
	case reformRename:
		o.states, o.actions = true, chance(r, 50)
		at := r.IntN(len(p.States))
		old := p.States[at].Name
		base, _, _ := strings.Cut(old, "~")
		name := fmt.Sprintf("%s~%d", base, n)
		p.States[at].Name, was[name] = name, old
		for i := range p.Actions {
			a := &p.Actions[i]
			if a.From == old {
				a.From = name
			}
			if a.To == old {
				a.To = name
			}
		}
	case reformAction, reformNowhere:
		o.actions = true
		name, from, to := fmt.Sprintf("Extra %d", n), anywhere(), anywhere()
		if o.kind == reformNowhere {
			from = "Nowhere"
		}
		extra := slices.IndexFunc(p.Actions, func(a simulator.Action) bool { return strings.HasPrefix(a.Name, "Extra") })
		if extra >= 0 && o.kind == reformAction {
			p.Actions[extra].Name = name
		} else {
			p.Actions = append(p.Actions, simulator.Action{Name: name, From: from, To: to})
		}
	case reformAssignee:
		o.states = true
		entities := p.States[asked].Entities
		suzuki := simulator.User("suzuki")
		p.States[asked].Entities = slices.DeleteFunc(slices.Clone(entities), func(e simulator.Entity) bool { return e.Code == suzuki.Code })
		if len(p.States[asked].Entities) == len(entities) {
			p.States[asked].Entities = append(p.States[asked].Entities, suzuki)
		}
	case reformDelete:
		o.states, o.actions, o.ends = true, true, simulator.Success
		gone := p.States[filed].Name
		p.States = slices.Delete(p.States, filed, filed+1)
		p.Actions = slices.DeleteFunc(p.Actions, func(a simulator.Action) bool { return a.From == gone || a.To == gone })
	case reformWaiting:
		o.states, o.actions, o.ask.Deploy, o.ask.Publish = true, true, true, chance(r, 70)
		o.want = o.before.Preview
		return
	}
	if o.kind == reformStale {
		o.ask.Base = o.before.PreviewRevision + 7
	}
	o.ask.Want = o.body(was, chance(r, 50), chance(r, 20))
}

// body is the request. The first status's assignee need not be said.
func (o *reform) body(was map[string]string, first, enable bool) json.RawMessage {
	type object = map[string]any
	body := object{}
	if enable {
		body["enable"], o.want.Enabled = true, true
	}
	if o.states {
		states := object{}
		for i, s := range o.want.States {
			entities := []object{}
			for _, e := range s.Entities {
				entities = append(entities, object{"entity": object{"type": e.Type, "code": e.Code}})
			}
			state := object{"name": s.Name, "index": i, "assignee": object{"type": s.AssigneeType, "entities": entities}}
			if i == 0 && !first {
				delete(state, "assignee")
			}
			name := s.Name
			if old, renamed := was[name]; renamed {
				name = old
			}
			states[name] = state
		}
		body["states"] = states
	}
	if o.actions {
		actions := []object{}
		for _, a := range o.want.Actions {
			actions = append(actions, object{"name": a.Name, "from": a.From, "to": a.To, "filterCond": a.FilterCond})
		}
		body["actions"] = actions
	}
	raw, err := json.Marshal(body)
	if err != nil {
		panic(err) // it is made of texts and numbers
	}
	return raw
}

// settle asks for a change until somebody has answered, and waits for its end.
func (f *reforms) settle(r *rand.Rand, o *reform) {
	s := f.s
	a, answered := f.apply(r, o)
	if !answered {
		return
	}
	c, err := s.queue.Change(s.t.Context(), "main", testApp)
	if a.State == SettingsRefused {
		s.notes.Lock()
		defer s.notes.Unlock()
		f.refused(o, a, err == nil && c.ID == o.ask.ID)
		return
	}
	deadline := time.Now().Add(3 * time.Hour)
	for err != nil || c.ID != o.ask.ID || !c.Stage.Ended() {
		if time.Now().After(deadline) {
			s.t.Errorf("change %s (%s) is %s of %s: %s", o.ask.ID, o.kind, c.Stage, c.ID, s.whereabouts())
			return
		}
		time.Sleep(2 * time.Second)
		c, err = s.queue.Change(s.t.Context(), "main", testApp)
	}
	s.notes.Lock()
	defer s.notes.Unlock()
	f.ended(o, c)
}

// apply asks for a change until there is an answer. The same id makes it one change, however often it is asked for.
func (f *reforms) apply(r *rand.Rand, o *reform) (a SettingsAnswer, answered bool) {
	s := f.s
	question, err := json.Marshal(o.ask)
	if err != nil {
		s.t.Error(err)
		return a, false
	}
	for deadline := time.Now().Add(2 * time.Hour); time.Now().Before(deadline); time.Sleep(within(r, time.Second, 5*time.Second)) {
		ctx, cancel := context.WithTimeout(s.t.Context(), 90*time.Second)
		reply, err := s.queue.Ask(ctx, "main", "settings-apply", question)
		cancel()
		a = SettingsAnswer{}
		if err == nil {
			err = json.Unmarshal(reply, &a)
		}
		switch {
		case err != nil || a.State == SettingsUnserved:
		case a.State == SettingsRefused && a.Live != nil && a.Preview == nil: // the preview could not be read
		default:
			return a, true
		}
		s.sum.count("change asked for again", 1)
	}
	s.t.Errorf("nobody answers to change %s (%s): %s", o.ask.ID, o.kind, s.whereabouts())
	return a, false
}

// refused holds that there is a reason for which nothing was begun, and that nothing was. notes is held.
func (f *reforms) refused(o *reform, a SettingsAnswer, begun bool) {
	f.look()
	why := ""
	switch others := o.pends > 0 || o.meddled > 0 || f.strayed(o.began); {
	case len(a.Problems) > 0:
		if why = "problems"; o.kind != reformNowhere {
			f.broken("refused for %v", a.Problems)
		}
	case strings.Contains(a.Text, "somebody changed"):
		if why = "stale"; o.kind != reformStale && (o.ask.Base == 0 || !others) {
			f.broken("refused, and nobody else was there: %s", a.Text)
		}
	case strings.Contains(a.Text, "other changes wait"):
		if why = "pending"; o.ask.Publish || !o.ask.Deploy || o.before.PreviewRevision == o.before.LiveRevision && !others {
			f.broken("refused, and nothing waits: %s", a.Text)
		}
	default:
		f.broken("refused: %s", a.Text)
	}
	if begun || o.shut || o.told > 0 {
		f.broken("refused, and begun (asked %v, sent %v, ended %d)", begun, o.shut, o.told)
	}
	f.s.sum.count("change refused at once: "+why, 1)
}

// strayed reports whether a copy of a request about settings was carried out late, since a time.
func (f *reforms) strayed(since time.Time) bool {
	now := time.Now()
	return slices.ContainsFunc(f.strays, func(at time.Time) bool { return !at.Before(since) && !at.After(now) })
}

// ended holds the end of a change against what kintone has. notes is held.
func (f *reforms) ended(o *reform, c queue.Change) {
	f.look()
	f.last, f.ends[c.ID] = c, c.Stage
	end := f.live
	if o.end != nil {
		end = *o.end
	}
	f.s.sum.count(strings.TrimSpace(fmt.Sprintf("change %s, left %s %s", c.Stage, c.Left, c.Why)), 1)
	whole := func(p simulator.Process) string { return f.text(p, true, true) }
	ours := func(p simulator.Process) bool {
		return f.text(p, o.states, o.actions) == f.text(o.want, o.states, o.actions)
	}
	var (
		meddled = o.meddled > 0
		strayed = f.strayed(o.began)
		recent  = f.strayed(f.looked) // nobody has looked since
		others  = o.pends > 0 || meddled || strayed
		idle    = ours(o.before.Preview)
		sameNow = end.LiveRevision == o.before.LiveRevision && whole(end.Live) == whole(o.before.Live)
		waited  = o.before.PreviewRevision != o.before.LiveRevision
	)
	must := func(holds bool, what string) {
		if !holds {
			f.broken("ended %s %s, left %s (%s), and %s:\nbefore %s at %d, preview %s at %d\nwant %s\nnow %s at %d, preview %s at %d; pending %v, %d pends, meddled %d, strays %v",
				c.Stage, c.Why, c.Left, c.Text, what, whole(o.before.Live), o.before.LiveRevision, whole(o.before.Preview), o.before.PreviewRevision,
				whole(o.want), whole(end.Live), end.LiveRevision, whole(end.Preview), end.PreviewRevision, end.Pending, o.pends, o.meddled, f.strays)
		}
	}
	must(o.told <= 1, fmt.Sprintf("that was told %d times", o.told))
	for _, at := range o.during {
		must(!at.Before(c.Since), fmt.Sprintf("a status request left at %v, before its end at %v", at.UTC(), c.Since))
	}
	must(o.kind != reformNowhere && o.kind != reformStale, "it was to be refused at once")
	switch {
	case c.Stage == queue.ChangeDone && c.Left == queue.LeftInForce:
		must(ours(end.Live) || o.kind == reformWaiting && meddled, "that is not in force")
		must(whole(end.Live) == whole(o.want) || meddled || strayed, "something else is in force as well")
		must(o.ask.Deploy || meddled || c.Why == ChangeNothing, "nobody was to deploy it")
		must(c.Why == "" || c.Why == ChangeNothing && (idle || others), "that is not why")
		must(c.Why != ChangeNothing || sameNow || others, "something was changed")
	case c.Stage == queue.ChangeDone:
		must(c.Left == queue.LeftPreview, "that is no success")
		must(!o.ask.Deploy, "it was to be deployed")
		must(ours(end.Preview) || meddled, "that is not in the preview")
		must(sameNow || meddled, "what is in force has changed")
	default:
		must(sameNow || meddled || c.Left == queue.LeftDeploying || c.Left == queue.LeftUnknown, "what is in force has changed")
		switch c.Left {
		case queue.LeftAsItWas:
			must(idle || !ours(end.Preview) || recent, "it is in the preview")
			must(whole(end.Preview) == whole(o.before.Preview) || meddled || strayed, "the preview is not as it was")
		case queue.LeftPreview:
			must(ours(end.Preview) || meddled, "it is not in the preview")
		case queue.LeftOthers:
			must(meddled || strayed, "nobody else was there")
		case queue.LeftDeploying, queue.LeftUnknown:
			must(o.takes > deployTime, "kintone could be asked")
			f.left = o
		default:
			must(false, "it does not say what it left")
		}
		switch c.Why {
		case ChangeRefused:
			must(o.kind == reformUnknown, "there is no reason to refuse it")
		case ChangeStale, ChangePending:
			must(others || c.Why == ChangePending && waited, "nobody else was there")
		case ChangeDeployFail:
			must(o.ends == simulator.Fail, "no deploy fails")
		case ChangeCancelled:
			must(o.ends == simulator.Cancel, "no deploy is cancelled")
		case ChangeSuperseded:
			must(meddled || strayed, "nobody else was there")
		case ChangeBusy:
			must(!c.Since.Before(c.EmptyBy), "there was more time")
		case ChangeTimeout:
		default:
			must(false, "that is no reason")
		}
	}
}

// text is a process in words. Where somebody switches it and its conditions on and off on the screen, without them.
func (f *reforms) text(p simulator.Process, states, actions bool) string {
	var b strings.Builder
	if states {
		for _, s := range p.States {
			fmt.Fprintf(&b, "%s %s %v, ", s.Name, s.AssigneeType, s.Entities)
		}
	}
	if actions {
		for _, a := range p.Actions {
			if f.s.admin {
				a.FilterCond = ""
			}
			fmt.Fprintf(&b, "%s %s %s %s, ", a.Name, a.From, a.To, a.FilterCond)
		}
	}
	if !f.s.admin {
		fmt.Fprint(&b, p.Enabled)
	}
	return b.String()
}

// finish holds that no change is under way any more, that each ended once, and that everything is still as it was when the
// last one ended.
func (f *reforms) finish() {
	s := f.s
	s.notes.Lock()
	defer s.notes.Unlock()
	f.look()
	c, err := s.queue.Change(s.t.Context(), "main", testApp)
	if err != nil && !errors.Is(err, queue.ErrGone) {
		f.broken("%v", err)
	}
	if !c.Stage.Ended() || c.ID != f.last.ID || c.Stage != f.last.Stage || c.Why != f.last.Why || c.Left != f.last.Left {
		f.broken("the last change is %s %s %s, it ended as %s %s %s", c.ID, c.Stage, c.Why, f.last.ID, f.last.Stage, f.last.Why)
	}
	notes := make(map[string]queue.Audit) // of ends, the last of each change
	for a, err := range s.queue.Audits(s.t.Context(), "main", testApp) {
		if err != nil {
			f.broken("%v", err)
			return
		}
		if strings.HasPrefix(a.Verb, "settings") && !strings.HasSuffix(a.Verb, "asked for") {
			// The note comes before the end: an owner that dies in between leaves it to the next one to note it again.
			if b, again := notes[a.Request]; again && a.Epoch <= b.Epoch {
				f.broken("the audit has the end of change %s twice: %+v and %+v", a.Request, b, a)
			}
			notes[a.Request] = a
		}
	}
	for id, stage := range f.ends {
		if !strings.HasSuffix(notes[id].Verb, ": "+string(stage)) {
			f.broken("change %s ended %s, and the audit says %q", id, stage, notes[id].Verb)
		}
	}
	s.sum.count("changes", f.n)
}
