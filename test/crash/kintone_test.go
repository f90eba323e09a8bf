//go:build crash

package crash

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
)

const (
	app   = 5
	token = "testtoken"
)

// site's records: those of chains are acted on again and again, by jobs alone. Each of the others is for one job or two.
const (
	chains     = 40
	firstTrial = 100 // of actions that changes of the settings bring
	freshFrom  = 1000
	absent     = 1_000_000
)

// kintone is the simulated domain of a site. Each worker reaches it under a path of its own, so that it is known who
// asked for what.
type kintone struct {
	sim    *simulator.Kintone
	server *httptest.Server

	mu       sync.Mutex // guards what follows
	rng      *rand.Rand
	calm     bool
	meddle   func(record int64) // what happens to a record just before the next status request that names it
	calls    []*call
	onTheWay int
	held     map[int]chan struct{} // by worker: its status requests are on the way until the channel is closed

	// Of changes of the settings.
	hitch   hitch
	rivals  int64        // how often somebody else has changed the preview since the last was asked for
	kept    []string     // settings that may wait in the preview while requests are sent
	deposed map[int]bool // workers
	wrong   []string
}

// call is a status request that arrived.
type call struct {
	worker   int
	members  string // what it asks for, as membersOf has it
	arrived  time.Time
	executed time.Time
}

func newKintone(t *testing.T, rng *rand.Rand) *kintone {
	t.Helper()
	k := &kintone{sim: simulator.New(simulator.Config{RevertRaises: rng.IntN(2) == 0}), rng: rng, deposed: make(map[int]bool)}
	k.sim.AddUser(rival, "pw")
	k.sim.AddApp(simulator.App{
		ID: app, Name: "Orders", Records: 60_000, Tokens: []simulator.Token{simulator.FullToken(token)}, Process: simulator.Workflow(),
		Fields: []simulator.Field{
			{Code: "code", Type: "SINGLE_LINE_TEXT", Default: func(r int64) string { return fmt.Sprintf("C-%d", r) }},
			{Code: "family", Type: "SINGLE_LINE_TEXT", Default: func(r int64) string { return fmt.Sprintf("F-%d", r/family) }},
		},
	})
	k.sim.SetFault(k.fault)
	k.server = httptest.NewServer(k)
	t.Cleanup(func() {
		k.server.CloseClientConnections()
		k.server.Close()
	})
	return k
}

// address is kintone's for worker n.
func (k *kintone) address(n int) string { return fmt.Sprintf("%s/w%d", k.server.URL, n) }

// ServeHTTP notes status requests on their way to the simulator.
func (k *kintone) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/w"), "/")
	worker, err := strconv.Atoi(name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	r.URL.Path = "/" + path
	if isStatus(r) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler) // it never arrived whole
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		k.travel(worker)
		k.aloft(worker)
		c := &call{worker: worker, members: membersOf(body), arrived: time.Now()}
		k.mu.Lock()
		k.calls = append(k.calls, c)
		k.mu.Unlock()
		w = &answered{w, func() {
			k.mu.Lock()
			defer k.mu.Unlock()
			c.executed = time.Now()
		}}
	}
	k.sim.ServeHTTP(w, r)
}

// hold keeps the status requests of a worker on their way to kintone, until let is called: then they arrive, whatever has
// become of who sent them.
func (k *kintone) hold(worker int) (let func()) {
	gate := make(chan struct{})
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held == nil {
		k.held = make(map[int]chan struct{})
	}
	k.held[worker] = gate
	return sync.OnceFunc(func() { close(gate) })
}

// travel is the way of a status request to kintone.
func (k *kintone) travel(worker int) {
	k.mu.Lock()
	gate := k.held[worker]
	if gate != nil {
		k.onTheWay++
	}
	k.mu.Unlock()
	if gate != nil {
		<-gate
	}
}

// travelling is how many requests were ever held on their way.
func (k *kintone) travelling() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.onTheWay
}

// answered hears of a 200.
type answered struct {
	http.ResponseWriter
	ok func()
}

func (a *answered) WriteHeader(status int) {
	if status == http.StatusOK {
		a.ok()
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// membersOf writes a status request as its records with their pins, in their order: 12@3 13@7.
func membersOf(body []byte) string {
	var request struct {
		Records []struct {
			ID       json.Number `json:"id"`
			Revision json.Number `json:"revision"`
		} `json:"records"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return fmt.Sprintf("unreadable: %v", err)
	}
	var b strings.Builder
	for _, r := range request.Records {
		fmt.Fprintf(&b, "%s@%s ", r.ID, r.Revision)
	}
	return b.String()
}

// fault is the weather: a quarter of the requests that change something go wrong, and some of the reads of records. Reads of an app's
// settings do not: a lane makes them before it claims the ledger and tries a lost one again after 4 s, which belongs to
// kintone's failing and not to the takeovers that are timed here.
func (k *kintone) fault(q simulator.Request) simulator.Fault {
	if q.Method != http.MethodGet {
		k.settings(q)
	}
	k.mu.Lock()
	meddle := k.meddle
	fresh := slices.IndexFunc(q.Records, func(r int64) bool { return r >= freshFrom })
	if q.Method != http.MethodPut || fresh < 0 || len(q.Records) < 2 {
		meddle = nil
	}
	if meddle != nil {
		k.meddle = nil
	}
	f := k.draw(q)
	k.mu.Unlock()
	if meddle != nil {
		meddle(q.Records[fresh])
		return simulator.Fault{}
	}
	return f
}

// draw is called with mu held.
func (k *kintone) draw(q simulator.Request) simulator.Fault {
	n := k.rng.IntN(100)
	var well simulator.Fault
	if strings.HasPrefix(q.API, "preview/") {
		well.Delay = time.Duration(30+k.rng.IntN(200)) * time.Millisecond // settings take their time
	}
	switch {
	case k.calm:
		return simulator.Fault{}
	case q.API == "records.json" && n < 4:
		return simulator.Fault{Kind: simulator.LostReply}
	case q.Method == http.MethodGet:
		return well
	case n < 6:
		return simulator.Fault{Kind: simulator.LostReply, Applied: true}
	case n < 10:
		return simulator.Fault{Kind: simulator.LostReply}
	case n < 15:
		return simulator.Fault{Kind: simulator.LateCommit, Applied: true, Delay: time.Duration(100+k.rng.IntN(900)) * time.Millisecond}
	case n < 18:
		return simulator.Fault{Kind: simulator.Repeat}
	case n < 20:
		return simulator.Fault{Kind: simulator.CutBody, Applied: true}
	case n < 23:
		return simulator.Fault{Kind: simulator.Locked}
	case n < 24:
		return simulator.Fault{Kind: simulator.TooManyRequests}
	case n < 25:
		return simulator.Fault{Kind: simulator.ServerError, Applied: k.rng.IntN(2) == 0}
	}
	return well
}

// calmDown ends the weather.
func (k *kintone) calmDown() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calm, k.meddle = true, nil
}

// next has something done to a record just before a status request that names it.
func (k *kintone) next(meddle func(record int64)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.meddle = meddle
}

// asked are the status requests so far.
func (k *kintone) asked() []call {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]call, len(k.calls))
	for i, c := range k.calls {
		out[i] = *c
	}
	return out
}
