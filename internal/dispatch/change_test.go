package dispatch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// What is done about a change, seen from each stage.
func TestNextMove(t *testing.T) {
	fail := func(why string, left queue.ChangeLeft) move { return move{actFail, why, left} }
	done := func(why string, left queue.ChangeLeft) move { return move{actDone, why, left} }
	undo := func(why string) move { return move{act: actUndo, why: why} }
	w, p, d, u := queue.ChangeWaiting, queue.ChangePutting, queue.ChangeDeploying, queue.ChangeUndoing
	for _, tt := range []struct {
		name string
		s    scene
		want move
	}{
		{"somebody deploys: wait", scene{stage: w, state: kintone.DeployProcessing, deploy: true, clean: true}, move{act: actLook}},
		{"somebody deploys for ever", scene{stage: w, state: kintone.DeployProcessing, late: true}, fail(ChangeTimeout, queue.LeftAsItWas)},
		{"nothing in the way", scene{stage: w, deploy: true, clean: true}, move{act: actPut}},
		{"the settings were changed since they were looked at", scene{stage: w, deploy: true, clean: true, stale: true}, fail(ChangeStale, queue.LeftAsItWas)},
		{"others have pending changes", scene{stage: w, deploy: true}, fail(ChangePending, queue.LeftAsItWas)},
		{"others have, and they may be published", scene{stage: w, deploy: true, publish: true}, move{act: actPut}},
		{"others have, and nothing is deployed", scene{stage: w}, move{act: actPut}},
		{"it is like that", scene{stage: w, deploy: true, clean: true, idle: true}, done(ChangeNothing, queue.LeftInForce)},
		{"the preview is like that", scene{stage: w, idle: true}, done(ChangeNothing, queue.LeftPreview)},
		{"what waits is to be deployed", scene{stage: w, deploy: true, publish: true, idle: true}, move{act: actDeploy}},

		{"a PUT was lost, or never left", scene{stage: p, deploy: true, clean: true}, move{act: actPut}},
		{"a PUT was refused", scene{stage: p, deploy: true, clean: true, refused: true}, fail(ChangeRefused, queue.LeftAsItWas)},
		{"every PUT is lost", scene{stage: p, deploy: true, clean: true, late: true}, fail(ChangeTimeout, queue.LeftAsItWas)},
		{"it was put", scene{stage: p, preview: previewOurs, deploy: true, clean: true}, move{act: actDeploy}},
		{"it was put, and the answer to a copy was a refusal", scene{stage: p, preview: previewOurs, deploy: true, clean: true, refused: true}, move{act: actDeploy}},
		{"it was put, and stays in the preview", scene{stage: p, preview: previewOurs}, done("", queue.LeftPreview)},
		{"it was put, and somebody deployed it", scene{stage: p, preview: previewOurs, live: liveOurs}, done("", queue.LeftInForce)},
		{"it was put, and somebody changed something else", scene{stage: p, preview: previewOursMore, deploy: true, clean: true}, undo(ChangePending)},
		{"somebody was quicker", scene{stage: p, preview: previewAsBefore, deploy: true, clean: true}, fail(ChangeStale, queue.LeftAsItWas)},
		{"somebody changed the same settings", scene{stage: p, preview: previewOthers, deploy: true, clean: true}, fail(ChangeSuperseded, queue.LeftOthers)},

		{"a deploy was lost, or never left", scene{stage: d, state: kintone.DeploySuccess, preview: previewOurs, deploy: true, clean: true}, move{act: actDeploy}},
		{"an old FAIL", scene{stage: d, state: kintone.DeployFail, preview: previewOurs, deploy: true, clean: true}, move{act: actDeploy}},
		{"our FAIL", scene{stage: d, state: kintone.DeployFail, preview: previewOurs, deploy: true, clean: true, posted: true}, undo(ChangeDeployFail)},
		{"our CANCEL", scene{stage: d, state: kintone.DeployCancel, preview: previewOurs, deploy: true, clean: true, posted: true}, undo(ChangeCancelled)},
		{"a FAIL of what others had put", scene{stage: d, state: kintone.DeployFail, preview: previewOurs, deploy: true, publish: true, idle: true, posted: true},
			fail(ChangeDeployFail, queue.LeftAsItWas)},
		{"in force", scene{stage: d, state: kintone.DeploySuccess, preview: previewOurs, live: liveOurs, deploy: true, clean: true}, done("", queue.LeftInForce)},
		{"in force, and somebody goes on", scene{stage: d, preview: previewOthers, live: liveOurs, deploy: true, clean: true}, done("", queue.LeftInForce)},
		{"a deploy was refused", scene{stage: d, preview: previewOurs, deploy: true, clean: true, refused: true}, undo(ChangeRefused)},
		{"somebody changed something else (GAIA_CO03)", scene{stage: d, preview: previewOursMore, deploy: true, clean: true, refused: true}, undo(ChangePending)},
		{"somebody did, and it may be published", scene{stage: d, preview: previewOursMore, deploy: true, publish: true, refused: true}, move{act: actDeploy}},
		{"somebody reverted it", scene{stage: d, preview: previewUntouched, deploy: true, clean: true}, fail(ChangeStale, queue.LeftAsItWas)},
		{"others' settings are in force", scene{stage: d, preview: previewOthers, live: liveOthers, deploy: true, clean: true}, fail(ChangeSuperseded, queue.LeftOthers)},
		{"it never ends", scene{stage: d, state: kintone.DeployProcessing, deploy: true, clean: true, late: true}, fail(ChangeTimeout, queue.LeftDeploying)},

		{"only we had changed the preview", scene{stage: u, preview: previewOurs, deploy: true, clean: true}, move{act: actRevert}},
		{"a copy of the deploy may come", scene{stage: u, preview: previewOurs, deploy: true, clean: true, doubt: true}, move{act: actPutBack}},
		{"others had, too", scene{stage: u, preview: previewOurs, deploy: true}, move{act: actPutBack}},
		{"others have since", scene{stage: u, preview: previewOursMore, deploy: true, clean: true}, move{act: actPutBack}},
		{"undone", scene{stage: u, preview: previewUntouched, deploy: true, clean: true}, fail("", queue.LeftAsItWas)},
		{"put back", scene{stage: u, preview: previewAsBefore, deploy: true}, fail("", queue.LeftAsItWas)},
		{"it cannot be undone", scene{stage: u, preview: previewOurs, deploy: true, clean: true, refused: true}, fail("", queue.LeftPreview)},
		{"it came into force after all", scene{stage: u, preview: previewOurs, live: liveOurs, deploy: true, clean: true}, done("", queue.LeftInForce)},
	} {
		if got := nextMove(tt.s); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// Whatever is seen, a change does nothing that it may not, says nothing that is not so, and ends.
func TestNextMoveKeepsItsRules(t *testing.T) {
	stages := []queue.ChangeStage{queue.ChangeWaiting, queue.ChangePutting, queue.ChangeDeploying, queue.ChangeUndoing}
	n := 0
	for stage := range stages {
		for _, state := range []kintone.DeployState{kintone.DeployProcessing, kintone.DeploySuccess, kintone.DeployFail, kintone.DeployCancel} {
			for preview := previewUntouched; preview <= previewOthers; preview++ {
				for live := liveOld; live <= liveOthers; live++ {
					for bits := range 1 << 9 {
						bit := func(i int) bool { return bits>>i&1 == 1 }
						s := scene{stage: stages[stage], state: state, preview: preview, live: live, deploy: bit(0), publish: bit(1), clean: bit(2),
							idle: bit(3), stale: bit(4), posted: bit(5), doubt: bit(6), refused: bit(7), late: bit(8)}
						if !s.deploy && stage >= 2 || stages[stage] == queue.ChangePutting && (s.idle || s.live == liveOthers) {
							continue // a change does not come there
						}
						n++
						if wrong := wrongMove(s, nextMove(s)); wrong != "" {
							t.Fatalf("%+v: %+v: %s", s, nextMove(s), wrong)
						}
					}
				}
			}
		}
	}
	if n < 50_000 {
		t.Errorf("%d combinations were looked at", n)
	}
}

// wrongMove says what is wrong with a move; "" if nothing is.
func wrongMove(s scene, m move) string {
	w, p, d, u := s.stage == queue.ChangeWaiting, s.stage == queue.ChangePutting, s.stage == queue.ChangeDeploying, s.stage == queue.ChangeUndoing
	ours := s.preview == previewOurs || s.preview == previewOursMore
	gone := s.preview == previewUntouched || s.preview == previewAsBefore
	busy := s.state == kintone.DeployProcessing
	others := !s.clean || s.preview == previewOursMore // something else waits in the preview
	var rules = []struct {
		holds bool
		text  string
	}{
		{!busy || m.act == actLook || s.late && m.act == actFail && m.why == ChangeTimeout, "settings are asked for while kintone deploys"},
		{busy || m.act != actLook, "it waits for nothing"},
		{!s.late || m.act != actLook && m.act != actPut && !(d && m.act == actDeploy) && !(u && m.act != actFail && m.act != actDone), "it does not end"},
		{m.act != actPut || w && !s.idle || p && s.preview == previewUntouched && !s.refused, "PUT out of place"},
		{m.act != actPut || !w || !s.stale && (!s.deploy || s.clean || s.publish), "PUT without leave"},
		{m.act != actDeploy || s.deploy && (w && s.idle && !s.stale || ours), "deploy of something else"},
		{m.act != actDeploy || !w || s.publish, "deploy of nothing, or of others' changes"},
		{m.act != actDeploy || !(p || d) || s.publish || s.preview != previewOursMore, "deploy of others' changes"},
		{m.act != actUndo || (p || d) && ours && s.live == liveOld && m.why != "" && !s.idle, "undo out of place"},
		{m.act != actRevert || u && s.preview == previewOurs && !others && !s.doubt && s.live == liveOld && !s.idle, "revert throws others' changes away, or gives a revision back too early"},
		{m.act != actPutBack || u && ours && s.live == liveOld && !s.idle, "put back over what is not ours"},
		{m.act != actDone || m.left == queue.LeftInForce || m.left == queue.LeftPreview && !s.deploy, "done without what was wanted"},
		{m.act != actDone || m.left != queue.LeftInForce || s.live == liveOurs || w && s.idle && s.clean, "it is not in force"},
		{m.act != actFail || m.left != queue.LeftAsItWas || w || s.live != liveOurs && (gone || s.idle), "it is not as it was"},
		{m.act != actFail || m.left != queue.LeftOthers || s.preview == previewOthers || s.live == liveOthers, "nobody else was there"},
		{m.act != actFail || m.why != "" || u, "it does not say why"},
		{m.act != actFail || m.left != "", "it does not say what it left"},
	}
	for _, r := range rules {
		if !r.holds {
			return r.text
		}
	}
	return ""
}

// inSettingsWorld runs a test in a bubble with an app whose token may manage it.
func inSettingsWorld(t *testing.T, records int, test func(*world)) {
	t.Helper()
	inWorldOf(t, simulator.App{
		ID: testApp, Name: "Orders", Records: records,
		Tokens:  []simulator.Token{simulator.FullToken(testToken)},
		Process: simulator.Workflow(),
	}, test)
}

// Three bodies. The first renames an action and adds another, the second renames a status and an action, the third
// deletes a status.
const (
	withReject = `{"actions":[{"name":"Start","from":"Not started","to":"In progress","filterCond":""},
		{"name":"Approve","from":"In progress","to":"Completed"},{"name":"Reject","from":"In progress","to":"Not started"}]}`
	withDoing = `{"app":"5","states":{"Not started":{"name":"Not started","index":"0","assignee":{"type":"ONE","entities":[]}},"In progress":{"name":"Doing","index":"1"},"Completed":{"name":"Completed","index":"2"}}}`
	withoutIt = `{"states":{"Not started":{"name":"Not started","index":0},"In progress":{"name":"In progress","index":1}},
		"actions":[{"name":"Start","from":"Not started","to":"In progress"}]}`
)

// wish is a question that begins a change.
func wish(id, want string) SettingsRequest {
	return SettingsRequest{V: 1, App: testApp, ID: id, Want: json.RawMessage(want), By: "ito", Reason: "new rules", Deploy: true}
}

// begin asks for a change and expects that it begins.
func (w *world) begin(ask SettingsRequest) {
	w.t.Helper()
	if a := askSettings(w, "settings-apply", ask); a.State != SettingsBegun {
		w.t.Fatalf("settings-apply: %s %s %v", a.State, a.Text, a.Problems)
	}
}

// deployOnScreen is somebody who deploys an app by hand. It returns the HTTP status, or why there was no answer.
func (w *world) deployOnScreen(app string) (int, error) {
	q, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, "http://127.0.0.1/k/v1/preview/app/deploy.json",
		strings.NewReader(`{"apps":[`+app+`]}`))
	if err != nil {
		return 0, err
	}
	q.Header.Set("X-Cybozu-API-Token", testToken)
	q.Header.Set("Content-Type", "application/json")
	resp, err := w.transport.RoundTrip(q)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

func askSettings(w *world, verb string, question SettingsRequest) SettingsAnswer {
	w.t.Helper()
	return ask[SettingsAnswer](w, verb, question)
}

// ended waits until a change has ended, at most d of the bubble's time.
func (w *world) ended(id string, d time.Duration) queue.Change {
	w.t.Helper()
	for deadline := time.Now().Add(d); ; {
		c, err := w.queue.Change(w.t.Context(), "main", testApp)
		if err == nil && c.ID == id && c.Stage.Ended() {
			return c
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the change is %q after %v (%v): %s", c.Stage, d, err, w.whereabouts())
		}
		time.Sleep(max(20*time.Millisecond, d/1000))
	}
}

// settings is what kintone has.
func (w *world) settings() simulator.SettingsState {
	w.t.Helper()
	s, err := w.sim.Settings(testApp)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func actionsOf(p simulator.Process) string {
	var names []string
	for _, a := range p.Actions {
		names = append(names, a.Name)
	}
	return strings.Join(names, " ")
}

func statusesOf(p simulator.Process) string {
	var names []string
	for _, s := range p.States {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

// end says how a change has to end, and that kintone has what it says.
func (w *world) mustEnd(c queue.Change, stage queue.ChangeStage, why string, left queue.ChangeLeft) {
	w.t.Helper()
	if c.Stage != stage || c.Why != why || c.Left != left {
		w.t.Errorf("the change ended %s %q, left %s (%s), want %s %q, left %s", c.Stage, c.Why, c.Left, c.Text, stage, why, left)
	}
}

// unchanged holds that the app is as it was before anything, preview and all.
func (w *world) unchanged(before simulator.SettingsState) {
	w.t.Helper()
	after := w.settings()
	if fmt.Sprint(after.Live) != fmt.Sprint(before.Live) || after.LiveRevision != before.LiveRevision {
		w.t.Errorf("in force is %+v at %d, was %+v at %d", after.Live, after.LiveRevision, before.Live, before.LiveRevision)
	}
	if fmt.Sprint(after.Preview) != fmt.Sprint(before.Preview) || fmt.Sprint(after.Pending) != fmt.Sprint(before.Pending) {
		w.t.Errorf("the preview is %+v by %v, was %+v by %v", after.Preview, after.Pending, before.Preview, before.Pending)
	}
}

// works holds that jobs are run again: nothing is stuck.
func (w *world) works(from int, action string) {
	w.t.Helper()
	js := make([]queue.Job, 3)
	for i := range js {
		js[i] = job(int64(from+i), action)
		js[i].ID = fmt.Sprintf("after%d", i)
	}
	w.publish(js...)
	deadline := time.Now().Add(10 * time.Minute)
	for {
		got := w.results()
		if got["after0"].Outcome == queue.Applied && got["after1"].Outcome == queue.Applied && got["after2"].Outcome == queue.Applied {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("no job is run after the change: %v; %s", got["after0"], w.whereabouts())
		}
		time.Sleep(time.Second)
	}
}

// What is put under load comes into force without a request in the air, and no job is lost or dies of it.
func TestSettingsAreAppliedUnderLoad(t *testing.T) {
	inSettingsWorld(t, 3000, func(w *world) {
		w.sim.SetDeploy(3*time.Second, simulator.Success)
		var during, puts int
		w.strike(func(r simulator.Request) simulator.Fault {
			switch {
			case r.API == "preview/app/status.json" && r.Method == "PUT":
				puts++
			case r.API == "records/status.json":
				if w.sim.Requests().Kinds["PUT preview/app/status.json"] > 0 && w.settings().LiveRevision < w.settings().PreviewRevision {
					during++
				}
				return simulator.Fault{Delay: 2 * time.Second}
			}
			return simulator.Fault{}
		})
		wk := w.start("one")
		js := jobs(3000, "Start")
		w.publish(js[:1500]...)
		w.settle(300, time.Minute)
		w.begin(wish("c1", withDoing))
		w.publish(js[1500:]...)
		c := w.ended("c1", 5*time.Minute)
		w.mustEnd(c, queue.ChangeDone, "", queue.LeftInForce)
		if n := len(w.results()); n >= 3000 {
			w.t.Fatal("there was no load")
		}
		got := w.settle(3000, 5*time.Minute)
		if n := count(got); n[queue.Applied] != 3000 {
			w.t.Errorf("outcomes %v, want 3000 applied", n)
		}
		w.reconcile(got, js)
		if during > 0 || puts != 1 {
			w.t.Errorf("%d status requests came while the settings changed; %d changes of them", during, puts)
		}
		if s := w.settings(); statusesOf(s.Live) != "Not started, Doing, Completed" || s.LiveRevision != s.PreviewRevision {
			w.t.Errorf("in force: %s at %d of %d", statusesOf(s.Live), s.LiveRevision, s.PreviewRevision)
		}
		var notes []string
		for a, err := range w.queue.Audits(w.t.Context(), "main", testApp) {
			if err == nil && strings.HasPrefix(a.Verb, "settings") {
				notes = append(notes, a.Verb+" by "+a.By)
			}
		}
		if fmt.Sprint(notes) != "[settings apply: asked for by ito settings apply: done by ito]" {
			w.t.Errorf("the audit tells %q", notes)
		}
		w.end(wk)
	})
}

// kintone gives a first status without an assignee the creator of the record (docs/kintone.md 3). What is left out stays, so
// what was there is said.
func TestAnAssigneeThatIsLeftOutStays(t *testing.T) {
	inSettingsWorld(t, 10, func(w *world) {
		w.start("one")
		w.settleIn()
		w.begin(wish("c1", `{"states":{"Not started":{"index":0},"In progress":{"index":1},"Completed":{"index":2},"Filed":{"name":"Filed","index":3}}}`))
		w.mustEnd(w.ended("c1", time.Minute), queue.ChangeDone, "", queue.LeftInForce)
		if first := w.settings().Live.States[0]; len(first.Entities) != 0 {
			w.t.Errorf("the first status is %+v now, and had no assignee before", first)
		}
	})
}

// What kintone makes of a change otherwise than it was written is said, and is no reason to take it for somebody else's.
func TestWhatKintoneMakesOfAChangeIsSaid(t *testing.T) {
	inSettingsWorld(t, 10, func(w *world) {
		w.transport = forgetful{w.transport}
		w.start("one")
		w.settleIn()
		w.begin(wish("c1", `{"states":{"Not started":{"index":0},"In progress":{"index":1},"Completed":{"index":2},"Filed":{"name":"Filed","index":3}}}`))
		w.mustEnd(w.ended("c1", time.Minute), queue.ChangeDone, ChangeNormalized, queue.LeftInForce)
	})
}

// forgetful loses what a change says of the first status's assignee, so that kintone puts the creator in.
type forgetful struct{ http.RoundTripper }

func (f forgetful) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPut || !strings.HasSuffix(r.URL.Path, "preview/app/status.json") {
		return f.RoundTripper.RoundTrip(r)
	}
	var body map[string]any
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return nil, err
	}
	delete(body["states"].(map[string]any)["Not started"].(map[string]any), "assignee")
	changed, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	again := r.Clone(r.Context())
	again.Body, again.ContentLength = io.NopCloser(bytes.NewReader(changed)), int64(len(changed))
	return f.RoundTripper.RoundTrip(again)
}

// A job whose action the change brings waits for it, and does not die of the settings from before.
func TestAJobOfANewActionRunsRightAfterTheChange(t *testing.T) {
	inSettingsWorld(t, 20, func(w *world) {
		w.start("one")
		w.publish(jobs(10, "Start")...)
		w.settle(10, time.Minute)
		w.begin(wish("c1", withReject))
		js := jobs(10, "Reject")
		for i := range js {
			js[i].ID = "r" + js[i].ID
		}
		w.publish(js...)
		w.mustEnd(w.ended("c1", time.Minute), queue.ChangeDone, "", queue.LeftInForce)
		if n := count(w.settle(20, time.Minute)); n[queue.Applied] != 20 {
			w.t.Errorf("outcomes %v", n)
		}
		if names := actionsOf(w.settings().Live); names != "Start Approve Reject" {
			w.t.Errorf("actions %s", names)
		}
	})
}

// A read that was under way when a change was asked for is waited for, and nobody dies of what it finds: the jobs are looked
// at again under the settings that come.
func TestNoJobDiesOfSettingsFromBeforeTheChange(t *testing.T) {
	inSettingsWorld(t, 10, func(w *world) {
		w.start("one")
		w.settleIn()
		w.publish(jobs(3, "Start")...)
		w.settle(3, time.Minute)
		w.strike(func(r simulator.Request) simulator.Fault {
			if r.API == "records.json" {
				return simulator.Fault{Delay: 20 * time.Second}
			}
			return simulator.Fault{}
		})
		js := jobs(3, "Reject")
		for i := range js {
			js[i].ID = "r" + js[i].ID
		}
		w.publish(js...)
		time.Sleep(time.Second)
		w.begin(wish("c1", withReject))
		w.mustEnd(w.ended("c1", 5*time.Minute), queue.ChangeDone, "", queue.LeftInForce)
		if n := count(w.settle(6, 5*time.Minute)); n[queue.Applied] != 6 {
			w.t.Errorf("outcomes %v, want 6 applied", n)
		}
	})
}

// Deploying publishes what everybody has put into the preview, so it needs to be told to.
func TestPendingChangesOfOthersAreOnlyPublishedWhenTold(t *testing.T) {
	inSettingsWorld(t, 10, func(w *world) {
		w.start("one")
		w.settleIn()
		if err := w.sim.Pend(testApp, "sato", nil); err != nil {
			t.Fatal(err)
		}
		before := w.settings()
		a := askSettings(w, "settings-apply", wish("c1", withReject))
		if a.State != SettingsRefused || !strings.Contains(a.Text, "other changes wait") || !a.Pending {
			w.t.Errorf("with pending changes: %s %s", a.State, a.Text)
		}
		w.unchanged(before)

		// Into the preview they do no harm.
		ask := wish("c2", withReject)
		ask.Deploy = false
		w.begin(ask)
		w.mustEnd(w.ended("c2", time.Minute), queue.ChangeDone, "", queue.LeftPreview)
		if s := w.settings(); s.LiveRevision != before.LiveRevision || actionsOf(s.Preview) != "Start Approve Reject" {
			w.t.Errorf("without a deploy: %+v", s)
		}
		w.works(1, "Start")

		ask = SettingsRequest{V: 1, App: testApp, ID: "c3", Deploy: true, Publish: true, Reason: "all of it"}
		w.begin(ask)
		w.mustEnd(w.ended("c3", time.Minute), queue.ChangeDone, "", queue.LeftInForce)
		if s := w.settings(); len(s.Pending) > 0 || actionsOf(s.Live) != "Start Approve Reject" {
			w.t.Errorf("after a deploy: %+v", s)
		}
	})
}

// settleIn waits until the lane runs.
func (w *world) settleIn() {
	w.t.Helper()
	for range 1000 {
		if a, err := w.queue.Ask(w.t.Context(), "main", "lanes", nil); err == nil && strings.Contains(string(a), `"state":"running"`) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.t.Fatal("the lane does not run")
}

// Somebody who is quicker is seen, whenever he comes: before the question, while requests are out, between PUT and deploy.
func TestAStaleRevisionLeavesTheAppAsItWas(t *testing.T) {
	pend := func(w *world) {
		if err := w.sim.Pend(testApp, "sato", nil); err != nil {
			w.t.Error(err)
		}
	}
	for name, tt := range map[string]struct {
		when func(w *world, r simulator.Request) bool // somebody changes the preview when this request comes
		why  string
	}{
		"before the PUT": {func(_ *world, r simulator.Request) bool {
			return r.Method == "PUT" && r.API == "preview/app/status.json"
		}, ChangeStale},
		"before the deploy": {func(_ *world, r simulator.Request) bool {
			return r.Method == "POST" && r.API == "preview/app/deploy.json"
		}, ChangePending},
	} {
		t.Run(name, func(t *testing.T) {
			inSettingsWorld(t, 10, func(w *world) {
				w.start("one")
				w.settleIn()
				before := w.settings()
				struck := false
				w.strike(func(r simulator.Request) simulator.Fault {
					if !struck && tt.when(w, r) {
						struck = true
						pend(w)
					}
					return simulator.Fault{}
				})
				w.begin(wish("c1", withReject))
				c := w.ended("c1", time.Hour)
				w.mustEnd(c, queue.ChangeFailed, tt.why, queue.LeftAsItWas)
				if c.Text == "" {
					w.t.Error("it does not say which revisions are meant")
				}
				after := w.settings()
				if after.LiveRevision != before.LiveRevision || fmt.Sprint(after.Preview) != fmt.Sprint(before.Preview) {
					w.t.Errorf("the process settings are %+v", after)
				}
				if !slices.Contains(after.Pending, "sato") {
					w.t.Error("what the other person did is gone")
				}
				w.works(1, "Start")
			})
		})
	}
	t.Run("before the question", func(t *testing.T) {
		inSettingsWorld(t, 10, func(w *world) {
			w.start("one")
			w.settleIn()
			ask := wish("c1", withReject)
			ask.Publish = true
			ask.Base = askSettings(w, "settings-diff", ask).Preview.Revision
			pend(w)
			if a := askSettings(w, "settings-apply", ask); a.State != SettingsRefused || !strings.Contains(a.Text, "somebody changed") {
				w.t.Errorf("%s %s", a.State, a.Text)
			}
		})
	})
	t.Run("while requests are out", func(t *testing.T) {
		inSettingsWorld(t, 10, func(w *world) {
			w.strike(func(r simulator.Request) simulator.Fault {
				if r.API == "records/status.json" {
					return simulator.Fault{Delay: 20 * time.Second}
				}
				return simulator.Fault{}
			})
			w.start("one")
			w.settleIn()
			w.publish(jobs(5, "Start")...)
			time.Sleep(5 * time.Second)
			ask := wish("c1", withReject)
			ask.Publish = true
			ask.Base = askSettings(w, "settings-diff", ask).Preview.Revision
			w.begin(ask)
			pend(w)
			w.mustEnd(w.ended("c1", time.Minute), queue.ChangeFailed, ChangeStale, queue.LeftAsItWas)
			w.works(6, "Start")
		})
	})
}

// FAIL and CANCEL put the app back as it was: by a revert, or where others' changes wait there, by the old settings.
func TestADeployThatFailsLeavesTheAppAsItWas(t *testing.T) {
	for name, tt := range map[string]struct {
		ends    simulator.DeployState
		want    string
		pending bool
		why     string
	}{
		"FAIL":                          {simulator.Fail, withReject, false, ChangeDeployFail},
		"CANCEL":                        {simulator.Cancel, withReject, false, ChangeCancelled},
		"FAIL with others' changes":     {simulator.Fail, withDoing, true, ChangeDeployFail},
		"a status that records are in":  {simulator.Success, withoutIt, false, ChangeDeployFail},
		"FAIL of several renamed names": {simulator.Fail, `{"states":{"Not started":{"name":"In progress","index":0},"In progress":{"name":"Not started","index":1},"Completed":{"index":2}}}`, true, ChangeDeployFail},
	} {
		t.Run(name, func(t *testing.T) {
			inSettingsWorld(t, 10, func(w *world) {
				w.start("one")
				w.settleIn()
				if tt.want == withoutIt {
					if err := w.sim.Act(testApp, 9, "sato", "Start", ""); err != nil {
						t.Fatal(err)
					}
					if err := w.sim.Act(testApp, 9, "sato", "Approve", ""); err != nil {
						t.Fatal(err)
					}
				}
				if tt.pending {
					if err := w.sim.Pend(testApp, "sato", nil); err != nil {
						t.Fatal(err)
					}
				}
				before := w.settings()
				w.sim.SetDeploy(2*time.Second, tt.ends)
				ask := wish("c1", tt.want)
				ask.Publish = tt.pending
				w.begin(ask)
				go func() { // the revert is not to fail as well
					time.Sleep(time.Second)
					w.sim.SetDeploy(2*time.Second, simulator.Success)
				}()
				w.mustEnd(w.ended("c1", time.Hour), queue.ChangeFailed, tt.why, queue.LeftAsItWas)
				if after := w.settings(); tt.pending {
					before.Pending = after.Pending // it is put back by one more change
				}
				w.unchanged(before)
				w.works(1, "Start")
			})
		})
	}
}

// Lost answers of PUT and deploy, carried out or not, or late: what is wanted comes into force once.
func TestLostAnswersOfAChange(t *testing.T) {
	for name, f := range map[string]simulator.Fault{
		"lost, carried out":     {Kind: simulator.LostReply, Applied: true},
		"lost, not carried out": {Kind: simulator.LostReply},
		"late":                  {Kind: simulator.LateCommit, Applied: true, Delay: 30 * time.Second},
		"unavailable":           {Kind: simulator.Unavailable},
		"520, carried out":      {Kind: simulator.Status520, Applied: true},
		"locked":                {Kind: simulator.Locked},
		"repeated by a proxy":   {Kind: simulator.Repeat},
	} {
		for _, call := range []string{"PUT preview/app/status.json", "POST preview/app/deploy.json", "GET preview/app/status.json", "GET preview/app/deploy.json"} {
			if strings.HasPrefix(call, "GET") && f.Kind == simulator.LateCommit {
				continue
			}
			t.Run(name+" "+call, func(t *testing.T) {
				inSettingsWorld(t, 10, func(w *world) {
					w.start("one")
					w.settleIn()
					n := 0
					if strings.HasPrefix(call, "GET") {
						n-- // the first is for the answer to the asker
					}
					w.strike(func(r simulator.Request) simulator.Fault {
						if r.Method+" "+r.API == call {
							if n++; n == 1 || n == 2 {
								return f
							}
						}
						return simulator.Fault{}
					})
					w.begin(wish("c1", withReject))
					w.mustEnd(w.ended("c1", time.Hour), queue.ChangeDone, "", queue.LeftInForce)
					time.Sleep(time.Minute)
					w.sim.Flush()
					if s := w.settings(); actionsOf(s.Live) != "Start Approve Reject" || len(s.Pending) > 0 {
						w.t.Errorf("in force is %s at %d, pending %v", actionsOf(s.Live), s.LiveRevision, s.Pending)
					}
					if n < 1 {
						w.t.Errorf("the fault was never met (%d)", n)
					}
					w.works(1, "Start")
				})
			})
		}
	}
}

// An owner that dies at any request of a change is followed by one that brings it to its end, whether or not the request
// was carried out.
func TestAChangeOutlivesItsOwner(t *testing.T) {
	for _, tt := range []struct {
		call    string
		nth     int
		applied bool
	}{
		{"GET preview/app/deploy.json", 2, true}, // the look before anything is done; the first is for the answer to the asker
		{"GET preview/app/status.json", 2, true},
		{"PUT preview/app/status.json", 1, true},
		{"PUT preview/app/status.json", 1, false},
		{"GET preview/app/status.json", 3, true}, // after the PUT
		{"POST preview/app/deploy.json", 1, true},
		{"POST preview/app/deploy.json", 1, false},
		{"GET preview/app/deploy.json", 4, true}, // kintone deploys
		{"GET preview/app/status.json", 4, true}, // it is in force
		{"GET app/status.json", 5, true},         // the settings are read again
	} {
		t.Run(fmt.Sprintf("%s, number %d, %v", tt.call, tt.nth, tt.applied), func(t *testing.T) {
			inSettingsWorld(t, 10, func(w *world) {
				w.sim.SetDeploy(5*time.Second, simulator.Success)
				wk := w.start("one")
				w.settleIn()
				reached := make(chan struct{}, 1)
				n := 0
				w.strike(func(r simulator.Request) simulator.Fault {
					if r.Method+" "+r.API == tt.call {
						if n++; n == tt.nth {
							reached <- struct{}{}
							return simulator.Fault{Kind: simulator.LostReply, Applied: tt.applied}
						}
					}
					return simulator.Fault{}
				})
				w.begin(wish("c1", withDoing))
				select {
				case <-reached:
				case <-time.After(time.Minute):
					w.t.Fatal("the change does not come there")
				}
				w.crash(wk)
				w.strike(nil)
				w.start("two")
				w.mustEnd(w.ended("c1", time.Hour), queue.ChangeDone, "", queue.LeftInForce)
				if s := w.settings(); statusesOf(s.Live) != "Not started, Doing, Completed" || len(s.Pending) > 0 {
					w.t.Errorf("in force is %s, pending %v", statusesOf(s.Live), s.Pending)
				}
				w.works(1, "Start")
			})
		})
	}
}

// In whatever stage an owner dies, or is stopped in good order, the next one goes on with it.
func TestEveryStageIsTakenOver(t *testing.T) {
	for _, stage := range []queue.ChangeStage{queue.ChangeWaiting, queue.ChangePutting, queue.ChangeDeploying, queue.ChangeUndoing} {
		for _, how := range []string{"dies", "is stopped"} {
			t.Run(string(stage)+", "+how, func(t *testing.T) {
				inSettingsWorld(t, 10, func(w *world) {
					before := w.settings()
					w.sim.SetDeploy(5*time.Second, simulator.Success)
					if stage == queue.ChangeUndoing {
						w.sim.SetDeploy(5*time.Second, simulator.Fail)
					}
					wk := w.start("one")
					w.settleIn()
					w.strike(func(simulator.Request) simulator.Fault { return simulator.Fault{Delay: 500 * time.Millisecond} })
					w.publish(jobs(3, "Start")...) // to wait for
					time.Sleep(100 * time.Millisecond)
					w.begin(wish("c1", withDoing))
					for {
						c, err := w.queue.Change(w.t.Context(), "main", testApp)
						if err != nil || c.Stage.Ended() {
							w.t.Fatalf("the change is %q: %v", c.Stage, err)
						}
						if c.Stage == stage {
							break
						}
						time.Sleep(50 * time.Millisecond)
					}
					if how == "dies" {
						w.crash(wk)
					} else {
						w.end(wk)
					}
					w.sim.SetDeploy(5*time.Second, simulator.Success)
					w.start("two")
					c := w.ended("c1", time.Hour)
					if stage == queue.ChangeUndoing {
						w.mustEnd(c, queue.ChangeFailed, ChangeDeployFail, queue.LeftAsItWas)
						before.Pending = w.settings().Pending // an owner that inherits it does not revert
						w.unchanged(before)
					} else {
						w.mustEnd(c, queue.ChangeDone, "", queue.LeftInForce)
					}
					w.works(4, "Start")
				})
			})
		}
	}
}

// Of a change that has ended there is a note in the audit, whenever its owner died: nobody writes one later.
func TestTheEndOfAChangeIsInTheAuditFirst(t *testing.T) {
	inSettingsWorld(t, 10, func(w *world) {
		notes := func() (n int) {
			for a, err := range w.queue.Audits(w.t.Context(), "main", testApp) {
				if err == nil && a.Request == "c1" && a.Verb == "settings apply: done" {
					n++
				}
			}
			return n
		}
		w.sim.SetDeploy(2*time.Second, simulator.Success)
		wk := w.start("one")
		w.settleIn()
		w.begin(wish("c1", withReject))
		wk.line.misdirect("statusq.audit.", "statusq.audix.")
		time.Sleep(time.Minute)
		if actionsOf(w.settings().Live) != "Start Approve Reject" {
			w.t.Fatal("the change is not in force")
		}
		if c, err := w.queue.Change(w.t.Context(), "main", testApp); err != nil || c.Stage.Ended() || notes() != 0 {
			w.t.Errorf("the change is %q with %d notes of its end (%v)", c.Stage, notes(), err)
		}
		w.crash(wk)
		w.start("two")
		w.mustEnd(w.ended("c1", time.Minute), queue.ChangeDone, "", queue.LeftInForce)
		if n := notes(); n != 1 {
			w.t.Errorf("%d notes of its end, want 1", n)
		}
		w.works(1, "Start")
	})
}

// When requests are out for good, the change is given up and nothing has changed; when kintone never ends a deploy, or
// cannot be reached, that is said. The lane goes on in each case.
func TestNothingIsHeldForEver(t *testing.T) {
	t.Run("a request that is always lost", func(t *testing.T) {
		inSettingsWorld(t, 10, func(w *world) {
			w.strike(func(r simulator.Request) simulator.Fault {
				if r.API == "records/status.json" && len(r.Records) > 0 && r.Records[0] == 1 {
					return simulator.Fault{Kind: simulator.LostReply}
				}
				return simulator.Fault{}
			})
			w.start("one")
			w.settleIn()
			w.publish(job(1, "Start"))
			time.Sleep(10 * time.Second)
			before := w.settings()
			ask := wish("c1", withReject)
			ask.Wait = 3 * time.Minute
			began := time.Now()
			w.begin(ask)
			w.publish(job(2, "Start"))
			time.Sleep(2 * time.Minute)
			if n := len(w.results()); n != 0 {
				w.t.Errorf("%d jobs were run while the change waits", n)
			}
			w.mustEnd(w.ended("c1", time.Hour), queue.ChangeFailed, ChangeBusy, queue.LeftAsItWas)
			if d := time.Since(began); d > 4*time.Minute {
				w.t.Errorf("it was given up after %v, want 3 minutes", d)
			}
			w.unchanged(before)
			w.strike(nil)
			w.settle(2, time.Hour)
		})
	})
	t.Run("a deploy without end", func(t *testing.T) {
		inSettingsWorld(t, 10, func(w *world) {
			w.start("one")
			w.settleIn()
			w.sim.SetDeploy(5*time.Hour, simulator.Success)
			calls := w.sim.Requests().Total
			w.begin(wish("c1", withReject))
			w.mustEnd(w.ended("c1", time.Hour), queue.ChangeFailed, ChangeTimeout, queue.LeftDeploying)
			if n := w.sim.Requests().Total - calls; n > 120 {
				w.t.Errorf("waiting cost %d requests", n)
			}
			w.works(1, "Start")
		})
	})
	for _, call := range []string{"PUT preview/app/status.json", "POST preview/app/deploy.json", "GET preview/app/deploy.json", "GET preview/app/status.json"} {
		t.Run("never an answer to "+call, func(t *testing.T) {
			inSettingsWorld(t, 10, func(w *world) {
				w.start("one")
				w.settleIn()
				w.strike(func(r simulator.Request) simulator.Fault {
					if r.Method+" "+r.API == call {
						return simulator.Fault{Kind: simulator.CutBody, Applied: false}
					}
					return simulator.Fault{}
				})
				ask := wish("c1", withReject)
				ask.Base = 1
				before := w.settings()
				if strings.HasPrefix(call, "GET preview/app/status") {
					w.strike(nil)
				}
				w.begin(ask)
				if strings.HasPrefix(call, "GET preview/app/status") {
					w.strike(func(r simulator.Request) simulator.Fault {
						if r.Method+" "+r.API == call {
							return simulator.Fault{Kind: simulator.Unavailable}
						}
						return simulator.Fault{}
					})
				}
				c := w.ended("c1", 2*time.Hour)
				if c.Stage != queue.ChangeFailed || c.Why != ChangeTimeout {
					w.t.Errorf("it ended %s %s, left %s: %s", c.Stage, c.Why, c.Left, c.Text)
				}
				if s := w.settings(); s.LiveRevision != before.LiveRevision {
					w.t.Errorf("in force is %d", s.LiveRevision)
				}
				w.strike(nil)
				w.works(1, "Start")
			})
		})
	}
}

// Process management is switched off and on again: the first halts the lane, and the second must not wait for requests
// that cannot end before.
func TestProcessManagementIsSwitchedOffAndOn(t *testing.T) {
	inSettingsWorld(t, 10, func(w *world) {
		w.start("one")
		w.settleIn()
		w.begin(wish("off", `{"enable":"false"}`))
		w.mustEnd(w.ended("off", time.Minute), queue.ChangeDone, "", queue.LeftInForce)
		w.publish(jobs(5, "Start")...)
		time.Sleep(time.Minute)
		if w.told(EventHalted, ReasonProcessDisabled) == 0 || len(w.results()) > 0 {
			w.t.Fatal("the lane goes on without process management")
		}
		w.begin(wish("on", `{"enable":true}`))
		w.mustEnd(w.ended("on", time.Minute), queue.ChangeDone, "", queue.LeftInForce)
		if n := count(w.settle(5, time.Minute)); n[queue.Applied] != 5 {
			w.t.Errorf("outcomes %v", n)
		}
	})
	t.Run("by somebody else, with a request in its slot", func(t *testing.T) {
		inSettingsWorld(t, 10, func(w *world) {
			w.start("one")
			w.settleIn()
			off := simulator.Workflow()
			off.Enabled = false
			struck := false
			w.strike(func(r simulator.Request) simulator.Fault {
				if r.API == "records/status.json" && !struck {
					struck = true
					if err := w.sim.SetProcess(testApp, off); err != nil {
						w.t.Error(err)
					}
				}
				return simulator.Fault{}
			})
			w.publish(jobs(5, "Start")...)
			time.Sleep(time.Minute)
			if w.told(EventHalted, ReasonProcessDisabled) == 0 {
				w.t.Fatal("the lane goes on without process management")
			}
			w.begin(wish("on", `{"enable":true}`))
			w.mustEnd(w.ended("on", time.Minute), queue.ChangeDone, "", queue.LeftInForce)
			if n := count(w.settle(5, 10*time.Minute)); n[queue.Applied] != 5 {
				w.t.Errorf("outcomes %v", n)
			}
			w.reconcile(w.results(), jobs(5, "Start"))
		})
	})
}

// A copy of a deploy that comes after everything was given up must not publish what somebody else has put into the preview
// since, whether or not a revert gives a revision back.
func TestALateDeployPublishesNobodysChanges(t *testing.T) {
	inSettingsWorld(t, 10, func(w *world) {
		w.start("one")
		w.settleIn()
		before := w.settings()
		n := 0
		w.strike(func(r simulator.Request) simulator.Fault {
			if r.Method+" "+r.API == "POST preview/app/deploy.json" {
				if n++; n == 1 {
					return simulator.Fault{Kind: simulator.LateCommit, Applied: true, Delay: 30 * time.Minute}
				}
			}
			return simulator.Fault{}
		})
		w.sim.SetDeploy(time.Second, simulator.Fail)
		w.begin(wish("c1", withReject))
		time.Sleep(1500 * time.Millisecond) // the second copy has been taken
		w.sim.SetDeploy(time.Second, simulator.Success)
		w.mustEnd(w.ended("c1", time.Hour), queue.ChangeFailed, ChangeDeployFail, queue.LeftAsItWas)
		if err := w.sim.Pend(testApp, "sato", nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if s := w.settings(); s.LiveRevision != before.LiveRevision || !slices.Contains(s.Pending, "sato") {
			w.t.Errorf("the late copy published it: in force is %d, pending %v", s.LiveRevision, s.Pending)
		}
	})
}

// What would be refused anyway is refused before the lane stands still for it.
func TestAChangeThatCannotBeIsRefusedAtOnce(t *testing.T) {
	inSettingsWorld(t, 10, func(w *world) {
		w.start("one")
		w.settleIn()
		if a := askSettings(w, "settings-apply", wish("c1", `{"actions":[{"name":"Start","from":"Nowhere","to":"In progress"}]}`)); a.State != SettingsRefused || len(a.Problems) == 0 {
			w.t.Errorf("an action from nowhere: %s %s %v", a.State, a.Text, a.Problems)
		}
		if a := askSettings(w, "settings-apply", SettingsRequest{V: 1, App: 6, ID: "x", Reason: "r", Deploy: true}); a.State != SettingsUnserved {
			w.t.Errorf("an app without a lane: %s", a.State)
		}
		// One at a time, and who asks twice for the same gets it once.
		w.sim.SetDeploy(10*time.Second, simulator.Success)
		w.begin(wish("c2", withReject))
		w.begin(wish("c2", withReject))
		if a := askSettings(w, "settings-apply", wish("c3", withDoing)); a.State != SettingsRefused || a.Change == nil || a.Change.ID != "c2" {
			w.t.Errorf("two at a time: %s %s", a.State, a.Text)
		}
		w.mustEnd(w.ended("c2", time.Minute), queue.ChangeDone, "", queue.LeftInForce)
		w.begin(wish("c2", withReject))
		w.begin(wish("c4", withReject))
		w.mustEnd(w.ended("c4", time.Minute), queue.ChangeDone, ChangeNothing, queue.LeftInForce)
		if n := w.sim.Requests().Kinds["PUT preview/app/status.json"]; n != 1 {
			w.t.Errorf("%d changes were sent, want 1", n)
		}
	})
}

// A token that may only see records serves jobs; it cannot show the preview, nor change anything.
func TestWithoutThePermissionToManageTheApp(t *testing.T) {
	inWorld(t, 10, func(w *world) {
		w.start("one")
		w.settleIn()
		a := askSettings(w, "settings-get", SettingsRequest{V: 1, App: testApp})
		if a.Live == nil || a.Preview != nil || !strings.Contains(a.PreviewText, "GAIA_NO01") {
			w.t.Errorf("settings-get: %+v", a)
		}
		if a := askSettings(w, "settings-apply", wish("c1", withReject)); a.State != SettingsRefused || !strings.Contains(a.Text, "GAIA_NO01") {
			w.t.Errorf("settings-apply: %s %s", a.State, a.Text)
		}
		w.works(1, "Start")
	})
}

// An app in a guest space is changed by way of its space; it can have no departments (SEED1).
func TestSettingsOfAnAppInAGuestSpace(t *testing.T) {
	inWorldOf(t, simulator.App{
		ID: testApp, GuestSpace: 3, Name: "Guests", Records: 10,
		Tokens: []simulator.Token{simulator.FullToken(testToken)}, Process: simulator.Workflow(),
	}, func(w *world) {
		w.apps = map[int64]AppConfig{testApp: {DailyRequests: -1, GuestSpace: 3}}
		w.start("one")
		w.settleIn()
		department := strings.Replace(withDoing, `"entities":[]`, `"entities":[{"entity":{"type":"ORGANIZATION","code":"sales"}}]`, 1)
		if a := askSettings(w, "settings-apply", wish("c1", department)); a.State != SettingsRefused || len(a.Problems) == 0 {
			w.t.Errorf("a department: %s %s", a.State, a.Text)
		}
		w.begin(wish("c2", withDoing))
		w.mustEnd(w.ended("c2", time.Minute), queue.ChangeDone, "", queue.LeftInForce)
		w.works(1, "Start")
	})
}

// A site that stands still answers questions about settings in good time, and nothing is held by them.
func TestQuestionsAboutSettingsEnd(t *testing.T) {
	inSettingsWorld(t, 10, func(w *world) {
		wk := w.start("one")
		w.settleIn()
		wk.gate.Halt("login_refused: somebody has to see to it")
		began := time.Now()
		_, err := w.queue.Ask(w.t.Context(), "main", "settings-get", []byte(`{"v":1,"app":5}`))
		if err == nil || time.Since(began) > 2*longestAnswer {
			w.t.Errorf("answered %v after %v", err, time.Since(began))
		}
		wk.gate.Resume()
		w.works(1, "Start")
	})
}

// Nobody is answered by an owner that has lost its lease: what it would still ask of kintone for that does not leave.
func TestQuestionsEndWithTheLease(t *testing.T) {
	inSettingsWorld(t, 10, func(w *world) {
		wk := w.start("one")
		w.settleIn()
		asked := 0
		w.strike(func(r simulator.Request) simulator.Fault {
			if r.API != "preview/app/deploy.json" {
				return simulator.Fault{}
			}
			asked++
			return simulator.Fault{Delay: trust + 1500*time.Millisecond}
		})
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
		defer cancel()
		w.late.Go(func() { _, _ = w.queue.Ask(ctx, "main", "settings-get", []byte(`{"v":1,"app":5}`)) })
		time.Sleep(time.Second)
		wk.tap.setCutOff(time.Now())
		wk.line.freeze()
		time.Sleep(time.Minute)
		wk.tap.setCutOff(time.Time{})
		wk.line.thaw()
		if asked != 1 || w.told(EventDeposed, "") != 1 {
			w.t.Errorf("kintone was asked %d times, and the owner deposed %d times", asked, w.told(EventDeposed, ""))
		}
	})
}

// A comparison says what changes, what waits already, and how many records stand where there would be nothing to stand in.
func TestSettingsAreCompared(t *testing.T) {
	inSettingsWorld(t, 10, func(w *world) {
		w.start("one")
		w.settleIn()
		w.publish(jobs(4, "Start")...)
		w.settle(4, time.Minute)
		js := jobs(3, "Approve")
		for i := range js {
			js[i].ID = "a" + js[i].ID
		}
		w.publish(js...)
		w.settle(7, time.Minute)
		a := askSettings(w, "settings-diff", wish("", withoutIt))
		var kinds []string
		for _, c := range a.Changes {
			kinds = append(kinds, string(c.What)+" "+c.Name)
		}
		if !slices.Contains(kinds, "state_deleted Completed") || !slices.Contains(kinds, "action_deleted Approve") || a.Pending || len(a.Waiting) > 0 {
			w.t.Errorf("changes %v, waiting %v", kinds, a.Waiting)
		}
		if len(a.Standing) != 1 || a.Standing[0] != (Standing{Status: "Completed", Records: 3}) {
			w.t.Errorf("standing %+v", a.Standing)
		}
	})
}
