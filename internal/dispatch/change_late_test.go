package dispatch

import (
	"bytes"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// A copy of a revert that comes after the change has ended must not throw away what somebody else has put into the preview
// since: another copy of it would have given the revision back that the late one expects.
func TestALateRevertThrowsNobodysChangesAway(t *testing.T) {
	inSettingsWorld(t, 10, func(w *world) {
		w.start("one")
		w.settleIn()
		before := w.settings()
		late := 0
		w.strike(func(r simulator.Request) simulator.Fault {
			if r.Method+" "+r.API == "POST preview/app/deploy.json" && bytes.Contains(r.Body, []byte(`"revert":true`)) {
				if late++; late == 1 {
					return simulator.Fault{Kind: simulator.LateCommit, Applied: true, Delay: 30 * time.Minute}
				}
			}
			return simulator.Fault{}
		})
		w.sim.SetDeploy(time.Second, simulator.Fail)
		w.begin(wish("c1", withReject))
		time.Sleep(1500 * time.Millisecond) // that deploy has failed, the next ones go well
		w.sim.SetDeploy(time.Second, simulator.Success)
		w.mustEnd(w.ended("c1", time.Hour), queue.ChangeFailed, ChangeDeployFail, queue.LeftAsItWas)
		if late == 0 {
			t.Fatal("nothing was reverted")
		}
		if err := w.sim.Pend(testApp, "sato", nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if s := w.settings(); s.LiveRevision != before.LiveRevision || !slices.Contains(s.Pending, "sato") {
			w.t.Errorf("the late copy threw it away: in force is %d, pending %v", s.LiveRevision, s.Pending)
		}
	})
}

// A deploy that is refused because somebody deploys on the screen just then would not be refused again, though nobody knows
// the code (docs/kintone.md 5). That the other one failed says nothing about ours.
func TestADeployThatMeetsAnotherOneIsNotRefusedForGood(t *testing.T) {
	inSettingsWorld(t, 10, func(w *world) {
		w.start("one")
		w.settleIn()
		var once atomic.Bool
		w.sim.SetFault(func(r simulator.Request) simulator.Fault {
			if r.Method+" "+r.API != "POST preview/app/deploy.json" || once.Swap(true) {
				return simulator.Fault{}
			}
			w.sim.SetDeploy(500*time.Millisecond, simulator.Fail)
			if status, err := w.deployOnScreen(`{"app":5}`); err != nil || status != http.StatusOK {
				w.t.Errorf("deploy on the screen: %d %v", status, err)
				return simulator.Fault{}
			}
			w.sim.SetDeploy(time.Second, simulator.Success)
			return simulator.Fault{}
		})
		w.begin(wish("c1", withReject))
		w.mustEnd(w.ended("c1", time.Hour), queue.ChangeDone, "", queue.LeftInForce)
		if !once.Load() {
			t.Error("nobody deployed on the screen")
		}
	})
}
