package simulator

import (
	"cmp"
	"fmt"
	"strconv"
	"time"
)

// DeployState is what kintone says of the last deploy of an app.
type DeployState string

// The states of a deploy (docs/kintone.md 5). An app that was never deployed says SUCCESS.
const (
	Processing DeployState = "PROCESSING"
	Success    DeployState = "SUCCESS"
	Fail       DeployState = "FAIL"
	Cancel     DeployState = "CANCEL" // what another app of the same deploy met
)

// maxDeployed is how many apps one deploy takes (docs/kintone.md 1.1).
const maxDeployed = 300

// deployEnd is how deploys go.
type deployEnd struct {
	takes time.Duration
	ends  DeployState
}

// SetDeploy says how deploys go that begin from now on: how long they take, and with what they end. Fail and Cancel leave
// the live settings and the preview as they were, with all that is pending. Success fails nevertheless where a status
// vanishes that records stand in.
func (k *Kintone) SetDeploy(takes time.Duration, ends DeployState) {
	end := deployEnd{takes, ends}
	if err := end.validate(); err != nil {
		panic(err)
	}
	k.lock()
	defer k.mu.Unlock()
	k.ending = end
}

func (d deployEnd) validate() error {
	if d.takes < 0 || d.ends != Success && d.ends != Fail && d.ends != Cancel {
		return fmt.Errorf("simulator: a deploy takes %v and ends with %q, want SUCCESS, FAIL or CANCEL", d.takes, d.ends)
	}
	return nil
}

// deployOrder is what POST preview/app/deploy.json is asked for.
type deployOrder struct {
	apps   []appRevision
	revert bool
}

type appRevision struct{ app, revision int64 }

func readDeploy(f *form) any {
	order := deployOrder{revert: f.flag("revert")}
	list, _ := f.list("apps", true, false)
	if len(list) > maxDeployed {
		f.bad.add("apps", tooManyApps)
		return order
	}
	named := map[int64]bool{}
	for i, v := range list {
		member := f.within("apps["+strconv.Itoa(i)+"]", v)
		if member == nil {
			continue
		}
		x := appRevision{member.id("app"), member.revision()}
		if named[x.app] {
			f.bad.add(member.at+"app", isTaken)
		}
		named[x.app] = true
		member.rest()
		order.apps = append(order.apps, x)
	}
	return order
}

// postDeploy begins a deploy and does not wait for its end. It takes apps as a whole: everything that is pending is
// published, whoever made it, or thrown away (docs/kintone.md 5). A token is of one app, so several apps need several.
// What a deploy says of itself while another one of the app runs is not recorded; like all settings calls it is refused.
func (k *Kintone) postDeploy(_ *app, by caller, c *call, params any, now time.Time) ([]byte, *Refusal) {
	order := params.(deployOrder)
	var apps []*app
	for _, x := range order.apps {
		a, refusal := k.enter(c, by, x.app, need{right: toManage, settings: true}, now)
		if refusal != nil {
			return nil, refusal
		}
		if x.revision != anyRevision && x.revision != a.preview.revision {
			return nil, refuse("GAIA_CO03", "")
		}
		apps = append(apps, a)
	}
	for _, a := range apps {
		a.deploy = Processing
	}
	how := k.ending
	k.plan(now.Add(how.takes), func(now time.Time) { k.endDeploy(apps, order.revert, how.ends, now) })
	return []byte("{}"), nil
}

// endDeploy publishes the previews of all apps, or of none: where one cannot be, it fails and the others are cancelled.
func (k *Kintone) endDeploy(apps []*app, revert bool, ends DeployState, now time.Time) {
	failed := false
	for _, a := range apps {
		a.deploy = ends
		if _, n := a.vanishing(a.preview); n > 0 && !revert && ends == Success {
			a.deploy, failed = Fail, true
		}
	}
	for _, a := range apps {
		switch {
		case a.deploy != Success:
		case failed:
			a.deploy = Cancel
		case revert:
			a.revert(k.cfg.RevertRaises)
		default:
			a.goLive(a.preview)
			a.locked = now.Add(k.cfg.LockAfterDeploy)
			for i := range a.Tokens {
				a.Tokens[i].Activated = true // tokens are inert until the app is updated (docs/kintone.md 4)
			}
		}
	}
}

// revert throws away what is pending.
func (a *app) revert(raises bool) {
	last := a.preview.revision
	a.preview, a.pending = a.flow, nil
	if raises {
		f := *a.flow
		f.revision = last + 1
		a.preview = &f
	}
}

func readDeployed(f *form) any {
	list, _ := f.list("apps", true, false)
	if len(list) > maxDeployed {
		f.bad.add("apps", tooManyApps)
		return nil
	}
	var apps []int64
	for i, v := range list {
		app, valid := integer(v)
		if !valid || app < 1 {
			f.bad.add("apps["+strconv.Itoa(i)+"]", notAnID)
		}
		apps = append(apps, app)
	}
	return apps
}

// getDeploy says how the last deploy of each app stands, which an app that was never deployed cannot be told from one
// whose deploy went well (docs/kintone.md 5).
func (k *Kintone) getDeploy(_ *app, by caller, c *call, params any, now time.Time) ([]byte, *Refusal) {
	type state struct {
		App    string      `json:"app"`
		Status DeployState `json:"status"`
	}
	states := []state{}
	for _, id := range params.([]int64) {
		a, refusal := k.enter(c, by, id, need{right: toManage}, now)
		if refusal != nil {
			return nil, refusal
		}
		states = append(states, state{strconv.FormatInt(id, 10), cmp.Or(a.deploy, Success)})
	}
	return marshal(map[string]any{"apps": states}), nil
}
