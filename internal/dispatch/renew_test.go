package dispatch

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// A vault is where the secrets of a world's worker are kept.
type vault struct {
	mu    sync.Mutex // guards what follows
	now   kintone.Credentials
	wrong error
	reads int
}

// inVault puts the world's secrets into a vault.
func (w *world) inVault(c kintone.Credentials) *vault {
	v := &vault{now: c}
	w.secrets = func() (kintone.Credentials, error) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.reads++
		return v.now, v.wrong
	}
	return v
}

func (v *vault) put(c kintone.Credentials, wrong error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now, v.wrong = c, wrong
}

func token(s kintone.Secret) kintone.Credentials {
	return kintone.Credentials{AppTokens: map[int64][]kintone.Secret{testApp: {s}}}
}

// slow has every request take a while, so that something is out whenever a test looks.
func slow(simulator.Request) simulator.Fault { return simulator.Fault{Delay: 100 * time.Millisecond} }

// commits waits until kintone has carried out n actions, at most d.
func (w *world) commits(n int, d time.Duration) {
	w.t.Helper()
	for end := time.Now().Add(d); w.sim.CommitCount() < n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%d of %d actions were run within %v; %s", w.sim.CommitCount(), n, d, w.whereabouts())
		}
	}
}

// applied holds that every job was applied, once, in order.
func (w *world) applied(js []queue.Job) {
	w.t.Helper()
	results := w.settle(len(js), time.Minute)
	w.reconcile(results, js)
	if n := count(results); n[queue.Applied] != len(js) {
		w.t.Errorf("the outcomes are %v, want %d applied", n, len(js))
	}
}

// Who replaces a token before the old one is revoked does not notice anything.
func TestATokenIsReplacedBeforeTheOldOneIsRevoked(t *testing.T) {
	inWorld(t, 3000, func(w *world) {
		w.discover = 0 // the secrets are looked at as often
		v := w.inVault(token(testToken))
		w.strike(slow)
		js := jobs(3000, "Start")
		w.start("a")
		w.publish(js...)
		w.commits(500, time.Minute)
		v.put(token("another"), nil)
		must(t, w.sim.SetTokens(testApp, simulator.ViewToken("another")))
		w.applied(js)
		if n := w.told(EventHalted, ""); n != 0 {
			t.Errorf("the lane halted %d times", n)
		}
		if n := w.told(EventRenewed, ""); n != 1 {
			t.Errorf("it was told %d times that the secrets were renewed, want once", n)
		}
	})
}

// A token that is revoked while jobs run halts its app; no job pays, and the app goes on by itself when the secret has
// changed.
func TestARevokedTokenHaltsUntilTheSecretChanges(t *testing.T) {
	inWorld(t, 3000, func(w *world) {
		w.discover = 0 // the secrets are looked at as often
		v := w.inVault(token(testToken))
		w.strike(slow)
		js := jobs(3000, "Start")
		w.start("a")
		w.publish(js...)
		w.commits(500, time.Minute)
		must(t, w.sim.SetTokens(testApp, simulator.ViewToken("another")))
		time.Sleep(5 * time.Second)
		done, asked := w.sim.CommitCount(), w.sim.Requests().Total
		time.Sleep(time.Hour)
		if w.sim.CommitCount() != done || done >= 3000 {
			t.Fatalf("%d actions were run, then %d without a token", done, w.sim.CommitCount())
		}
		if n := w.sim.Requests().Total - asked; n < 5 || n > 40 {
			t.Errorf("kintone was asked %d times in an hour without a token, want a slow probe", n)
		}
		if w.told(EventHalted, ReasonTokenInvalid) != 1 || w.told(EventRenewed, "") != 0 {
			t.Errorf("told of %d halts and %d renewals, want one and none", w.told(EventHalted, ReasonTokenInvalid), w.told(EventRenewed, ""))
		}
		if v.reads < 100 {
			t.Errorf("the secrets were read %d times in an hour", v.reads)
		}

		// Half written, then as somebody else's login, then as it has to be.
		v.put(kintone.Credentials{}, errors.New("token is empty"))
		time.Sleep(time.Minute)
		v.put(kintone.Credentials{Username: "sato", Password: "pw"}, nil)
		time.Sleep(time.Minute)
		if n := w.told(EventTrouble, ""); w.sim.CommitCount() != done || n != 2 {
			t.Errorf("%d actions were run, told %d times that the secrets cannot be read; want none and each once", w.sim.CommitCount()-done, n)
		}
		v.put(token("another"), nil)
		w.commits(done+1, 2*renewEvery)
		w.applied(js)
		if w.told(EventResumed, "") != 1 || w.told(EventRenewed, "") != 1 {
			t.Errorf("told %d times of the end, %d times of the renewal; want once each", w.told(EventResumed, ""), w.told(EventRenewed, ""))
		}
	})
}

// A refused password halts the site without a single further try, until the secret changes.
func TestAWrongPasswordHaltsTheSiteUntilTheSecretChanges(t *testing.T) {
	inWorld(t, 2000, func(w *world) {
		w.discover = 0 // the secrets are looked at as often
		login := func(password kintone.Secret) kintone.Credentials {
			return kintone.Credentials{Username: "sato", Password: password}
		}
		v := w.inVault(login("wrong"))
		js := jobs(2000, "Start")
		w.strike(slow)
		wk := w.start("a")
		w.publish(js...)
		time.Sleep(time.Hour)
		if n := w.sim.Requests().Total; n != 1 {
			t.Errorf("a wrong password was tried %d times in an hour, want once", n)
		}
		if s := wk.owner.Status(); s.Gate.Halted != ReasonLoginRefused {
			t.Errorf("the site is halted for %q", s.Gate.Halted)
		}
		v.put(login("pw"), nil)
		w.commits(500, 2*renewEvery+5*time.Second)

		// Changed under way: whatever is out is refused, and nothing more is tried than that and one more.
		w.sim.AddUser("sato", "pw2")
		time.Sleep(10 * time.Second)
		done, asked := w.sim.CommitCount(), w.sim.Requests().Total
		time.Sleep(time.Hour)
		if n := w.sim.Requests().Total - asked; n != 0 || done >= 2000 {
			t.Errorf("a password that holds no more was tried %d times in an hour, with %d actions run", n, done)
		}
		v.put(login("pw2"), nil)
		w.commits(done+1, 2*renewEvery+5*time.Second)
		w.applied(js)
	})
}

// An app whose token is wrong from the start is served as soon as the token is right.
func TestAnAppIsServedWhenItsTokenHasComeRight(t *testing.T) {
	inWorld(t, 10, func(w *world) {
		w.discover = 0 // the secrets are looked at as often
		v := w.inVault(token("wrong"))
		js := jobs(10, "Start")
		w.start("a")
		w.publish(js...)
		time.Sleep(time.Hour)
		if w.told(EventUnserved, ReasonTokenInvalid) != 1 || w.sim.CommitCount() != 0 {
			t.Fatalf("told %d times that the app is not served", w.told(EventUnserved, ReasonTokenInvalid))
		}
		v.put(token(testToken), nil)
		w.commits(10, 2*renewEvery+5*time.Second)
		w.applied(js)
	})
}

// Resume (SIGHUP, and the verb) asks at once although no secret has changed: somebody may have set things right in kintone.
func TestResumeTriesEverythingAtOnce(t *testing.T) {
	inWorld(t, 300, func(w *world) {
		w.discover = 0 // the secrets are looked at as often
		v := w.inVault(token(testToken))
		js := jobs(300, "Start")
		must(t, w.sim.SetTokens(testApp))
		wk := w.start("a")
		w.publish(js[:100]...)
		time.Sleep(time.Hour) // the next probe is minutes away
		must(t, w.sim.SetTokens(testApp, simulator.ViewToken(testToken)))
		must(t, wk.owner.Resume())
		w.commits(100, 10*time.Second)

		must(t, w.sim.SetTokens(testApp))
		w.publish(js[100:]...)
		time.Sleep(time.Hour)
		if w.told(EventHalted, ReasonTokenInvalid) != 1 {
			t.Fatalf("told of %d halts", w.told(EventHalted, ReasonTokenInvalid))
		}
		must(t, w.sim.SetTokens(testApp, simulator.ViewToken(testToken)))
		must(t, wk.owner.Resume())
		w.commits(101, 5*time.Second)
		w.applied(js)

		v.put(kintone.Credentials{}, errors.New("there is no file token"))
		if err := wk.owner.Resume(); err == nil || !strings.Contains(err.Error(), "site main: read the secrets again: there is no file token") {
			t.Errorf("Resume says %v", err)
		}
	})
}
