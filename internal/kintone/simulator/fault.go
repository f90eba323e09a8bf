package simulator

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Request is what a fault function sees of a request, before anything about it was checked.
type Request struct {
	N       int     // 1, 2, 3, … in order of arrival
	Method  string  // "GET", also where it came as POST with X-HTTP-Method-Override
	API     string  // "records/status.json"
	App     int64   // 0 if the request does not say; the first by number if it names several
	Records []int64 // the records that a status call names, where they can be read
	Body    []byte  // not to be altered
}

// Fault is what happens to a request.
type Fault struct {
	Kind FaultKind

	// Applied has the request executed although the caller is told otherwise, and after Delay if there is one.
	Applied bool

	// Delay puts off the execution. With None and Repeat the caller waits along.
	Delay time.Duration

	// RetryAfter becomes a header of Unavailable and TooManyRequests, in whole seconds. Zero: no header.
	RetryAfter time.Duration
}

// FaultKind says what the caller gets to see.
type FaultKind int

// The kinds of fault. All but TooManyRequests and Locked can have executed the request (Applied).
const (
	None            FaultKind = iota // no fault; with Delay a slow answer
	LostReply                        // the connection is cut without an answer
	LateCommit                       // as LostReply, but executed after Delay, with all checks made then
	ServerError                      // 500 with kintone's envelope
	BadGateway                       // 502, a proxy's page
	Unavailable                      // 503, the maintenance page
	TooManyRequests                  // 429 GAIA_TO04, never executed
	Locked                           // 400 GAIA_DA02, never executed
	CutBody                          // the answer's body ends too early
	HTML200                          // 200 with a page that is not kintone's answer
	Repeat                           // a proxy sends the request twice; the caller gets the second answer
	Status520                        // 520 with a proxy's page
	Hang                             // no answer until the caller leaves
)

var faultNames = [...]string{
	"none", "lostReply", "lateCommit", "serverError", "badGateway", "unavailable", "tooManyRequests", "locked", "cutBody",
	"html200", "repeat", "status520", "hang",
}

// String returns the name that the admin API uses: "lostReply".
func (f FaultKind) String() string {
	if f < 0 || int(f) >= len(faultNames) {
		return "fault" + strconv.Itoa(int(f))
	}
	return faultNames[f]
}

// SetFault has decide asked about every admitted request from now on; nil ends all faults. It is called with no lock
// held, from many goroutines at once. A fault that cannot be (Applied with TooManyRequests or Locked) panics in the
// request it was meant for.
func (k *Kintone) SetFault(decide func(Request) Fault) {
	k.lock()
	defer k.mu.Unlock()
	k.fault = decide
}

// Flush executes every request that was put off now, in the order in which they were due, and ends running deploys.
// Requests that are still on their way (Config.Latency) are not among them.
func (k *Kintone) Flush() {
	k.lock()
	defer k.mu.Unlock()
	now := time.Now()
	for len(k.late) > 0 {
		l := k.late[0]
		k.late = k.late[1:]
		l.run(now)
	}
}

// lateCall is something that will happen, whoever waits for it or not: a request that was put off, the end of a deploy.
type lateCall struct {
	due time.Time
	run func(now time.Time) // with the mutex held
}

// later puts a request off.
func (k *Kintone) later(c *call, delay time.Duration) {
	k.lock()
	defer k.mu.Unlock()
	k.plan(time.Now().Add(delay), func(now time.Time) { k.execute(c, now) })
}

// plan has something happen at a time. Two that are due at the same moment keep their order. The mutex is held.
func (k *Kintone) plan(due time.Time, run func(now time.Time)) {
	at, _ := slices.BinarySearchFunc(k.late, due, func(l lateCall, due time.Time) int {
		return cmp.Or(l.due.Compare(due), -1)
	})
	k.late = slices.Insert(k.late, at, lateCall{due, run})
}

// catchUp has happen what was due until now, each at its own time. The mutex is held.
func (k *Kintone) catchUp(now time.Time) {
	for len(k.late) > 0 && !k.late[0].due.After(now) {
		l := k.late[0]
		k.late = k.late[1:]
		l.run(l.due)
	}
}

// decide asks the fault function.
func (k *Kintone) decide(c *call) Fault {
	k.mu.Lock()
	ask := k.fault
	k.mu.Unlock()
	if ask == nil {
		return Fault{}
	}
	q := Request{N: c.n, Method: c.method, API: c.api, Records: c.records(), Body: c.body}
	if apps := c.apps(); len(apps) > 0 {
		q.App = apps[0]
	}
	f := ask(q)
	if err := f.validate(); err != nil {
		panic(err)
	}
	if f.Kind != None || f.Delay > 0 {
		k.mu.Lock()
		k.counts.Faulted++
		k.mu.Unlock()
	}
	return f
}

// validate refuses what kintone never does: 429 and DA02 are given before anything is executed (docs/kintone.md 1.2
// and 2.3).
func (f Fault) validate() error {
	switch {
	case f.Kind < None || f.Kind > Hang:
		return fmt.Errorf("simulator: no fault %d", f.Kind)
	case f.Applied && (f.Kind == TooManyRequests || f.Kind == Locked):
		return fmt.Errorf("simulator: %s never executes a request", f.Kind)
	case f.Delay < 0 || f.RetryAfter < 0:
		return fmt.Errorf("simulator: %s with a negative time", f.Kind)
	}
	return nil
}

// suffer answers a request that met a fault.
func (k *Kintone) suffer(w http.ResponseWriter, r *http.Request, c *call, f Fault) {
	switch f.Kind {
	case None:
		k.send(w, c, k.slowly(c, f.Delay))

	case Repeat:
		k.do(c)
		k.countAgain(c)
		k.send(w, c, k.slowly(c, f.Delay))

	case LostReply:
		k.underneath(c, f)
		panic(http.ErrAbortHandler)

	case LateCommit:
		k.later(c, f.Delay)
		panic(http.ErrAbortHandler)

	case ServerError:
		// No source records the code of a 500. This one has kintone's form and does not exist, so that a client which
		// trusts a code whatever the status is found out.
		k.underneath(c, f)
		k.send(w, c, k.objection(c, &Refusal{Status: http.StatusInternalServerError, Code: "GAIA_XX00"}))

	case TooManyRequests:
		k.admissionRefusal(w, c, k.cfg.ConcurrencyLimit+1, f.RetryAfter)

	case Locked:
		k.send(w, c, k.objection(c, refuse("GAIA_DA02", "")))

	case BadGateway:
		k.underneath(c, f)
		page(w, http.StatusBadGateway, "Bad gateway")

	case Unavailable:
		k.underneath(c, f)
		retryAfter(w, f.RetryAfter)
		page(w, http.StatusServiceUnavailable, "The service is being maintained")

	case Status520:
		k.underneath(c, f)
		page(w, 520, "The web server returned an unknown error")

	case HTML200:
		k.underneath(c, f)
		page(w, http.StatusOK, "Welcome to the guest network")

	case CutBody:
		a := k.underneath(c, f)
		if a == nil {
			a = &answer{status: http.StatusOK, body: []byte(`{"records":[{"id":"1","revision":"3"}]}`)}
		}
		k.headers(w, a)
		w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
		w.WriteHeader(a.status)
		w.Write(a.body[:len(a.body)/2])
		http.NewResponseController(w).Flush() // a writer that cannot flush has nothing to lose
		panic(http.ErrAbortHandler)

	case Hang:
		k.underneath(c, f)
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
}

// slowly has a request executed after a delay, or earlier by Flush, and waits along.
func (k *Kintone) slowly(c *call, delay time.Duration) *answer {
	if delay == 0 {
		return k.do(c)
	}
	k.later(c, delay)
	time.Sleep(delay)
	k.lock() // which executes it at the latest
	defer k.mu.Unlock()
	return c.answer
}

// countAgain is the second arrival of a request that a proxy repeats.
func (k *Kintone) countAgain(c *call) {
	k.lock()
	defer k.mu.Unlock()
	k.count(c, time.Now())
}

// underneath executes a request whose caller will be told something else, if the fault says so. It returns kintone's
// own answer, or nil if there is none yet.
func (k *Kintone) underneath(c *call, f Fault) *answer {
	switch {
	case !f.Applied:
		return nil
	case f.Delay > 0:
		k.later(c, f.Delay)
		return nil
	}
	return k.do(c)
}

// page answers like a proxy or a maintenance server: no JSON, and none of kintone's headers.
func page(w http.ResponseWriter, status int, title string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<!DOCTYPE html>\n<html><head><title>%s</title></head><body><h1>%s</h1></body></html>\n", title, title)
}

// retryAfter sets the header in whole seconds, rounded up.
func retryAfter(w http.ResponseWriter, d time.Duration) {
	if d > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((d+time.Second-1)/time.Second)))
	}
}
