package simulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Admin returns a handler for those who run the simulator as a process of its own:
//
//	GET    /commits?since=N             the commit log after N, one JSON object per line
//	GET    /requests                    RequestCounts
//	GET    /records?app=5[&status=S]    how many records are in which status
//	GET    /record?app=5&id=1001        one record
//	POST   /faults                      {"kind":"unavailable","count":10,"for":"10s","applied":false,"retryAfter":"2s",
//	                                    "delay":"…","method":"PUT","app":5}: replaces what SetFault set; ends after count
//	                                    requests or that time, whichever comes first
//	DELETE /faults                      no faults any more
//	POST   /edit                        {"app":5,"record":1001,"user":"sato"}: Edit
//	POST   /secondfactor                {"user":"sato"}: SetSecondFactor
//	GET    /settings?app=5              SettingsState
//	POST   /pend                        {"app":5,"user":"sato"}: Pend, with something other than the process settings
//	POST   /deploys                     {"takes":"5s","ends":"FAIL"}: SetDeploy
//	POST   /flush                       Flush
//
// It is meant for a loopback address: nobody is asked who he is. Mistakes are answered with {"error":"…"}.
func (k *Kintone) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /commits", k.adminCommits)
	mux.HandleFunc("GET /requests", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, k.Requests()) })
	mux.HandleFunc("GET /records", k.adminRecords)
	mux.HandleFunc("GET /record", k.adminRecord)
	mux.HandleFunc("POST /faults", k.adminFaults)
	mux.HandleFunc("DELETE /faults", func(w http.ResponseWriter, _ *http.Request) {
		k.SetFault(nil)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /edit", k.adminEdit)
	mux.HandleFunc("POST /secondfactor", k.adminSecondFactor)
	mux.HandleFunc("GET /settings", k.adminSettings)
	mux.HandleFunc("POST /pend", k.adminPend)
	mux.HandleFunc("POST /deploys", k.adminDeploys)
	mux.HandleFunc("POST /flush", func(w http.ResponseWriter, _ *http.Request) {
		k.Flush()
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

func (k *Kintone) adminCommits(w http.ResponseWriter, r *http.Request) {
	since, err := parameter(r, "since")
	if err != nil {
		complain(w, http.StatusBadRequest, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	lines := json.NewEncoder(w)
	for _, c := range k.CommitsSince(int(since)) {
		if lines.Encode(c) != nil {
			return // the reader has gone
		}
	}
}

func (k *Kintone) adminRecords(w http.ResponseWriter, r *http.Request) {
	id, err := parameter(r, "app")
	if err != nil {
		complain(w, http.StatusBadRequest, err)
		return
	}
	counts, total, err := k.standing(id)
	if err != nil {
		complain(w, http.StatusNotFound, err)
		return
	}
	if r.URL.Query().Has("status") {
		status := r.URL.Query().Get("status")
		counts = map[string]int{status: counts[status]}
	}
	reply(w, http.StatusOK, map[string]any{"app": id, "total": total, "statuses": counts})
}

// standing counts an app's records by status.
func (k *Kintone) standing(id int64) (counts map[string]int, total int, err error) {
	k.lock()
	defer k.mu.Unlock()
	a, err := k.app(id)
	if err != nil {
		return nil, 0, err
	}
	counts = map[string]int{}
	for status, n := range a.standing {
		if n > 0 {
			counts[status] = n
		}
	}
	return counts, a.live, nil
}

func (k *Kintone) adminRecord(w http.ResponseWriter, r *http.Request) {
	app, err := parameter(r, "app")
	record, err2 := parameter(r, "id")
	if err := errors.Join(err, err2); err != nil {
		complain(w, http.StatusBadRequest, err)
		return
	}
	s, ok := k.Record(app, record)
	if !ok {
		complain(w, http.StatusNotFound, fmt.Errorf("app %d: no record %d", app, record))
		return
	}
	reply(w, http.StatusOK, s)
}

func (k *Kintone) adminFaults(w http.ResponseWriter, r *http.Request) {
	var order struct {
		Kind       string   `json:"kind"`
		Count      int      `json:"count"`
		For        duration `json:"for"`
		Applied    bool     `json:"applied"`
		RetryAfter duration `json:"retryAfter"`
		Delay      duration `json:"delay"`
		Method     string   `json:"method"`
		App        int64    `json:"app"`
	}
	if err := accept(r, &order); err != nil {
		complain(w, http.StatusBadRequest, err)
		return
	}
	kind := slices.Index(faultNames[:], order.Kind)
	fault := Fault{
		Kind: FaultKind(kind), Applied: order.Applied,
		Delay: time.Duration(order.Delay), RetryAfter: time.Duration(order.RetryAfter),
	}
	if kind < 0 {
		complain(w, http.StatusBadRequest, fmt.Errorf("kind has to be one of %q", faultNames))
		return
	}
	if err := fault.validate(); err != nil {
		complain(w, http.StatusBadRequest, err)
		return
	}
	if order.Count < 0 || order.For < 0 {
		complain(w, http.StatusBadRequest, errors.New("count and for cannot be negative"))
		return
	}
	until := time.Now().Add(time.Duration(order.For))
	var mu sync.Mutex // guards met
	met := 0
	k.SetFault(func(q Request) Fault {
		if order.For > 0 && time.Now().After(until) ||
			order.Method != "" && q.Method != order.Method || order.App != 0 && q.App != order.App {
			return Fault{}
		}
		mu.Lock()
		defer mu.Unlock()
		if order.Count > 0 && met == order.Count {
			return Fault{}
		}
		met++
		return fault
	})
	w.WriteHeader(http.StatusNoContent)
}

func (k *Kintone) adminEdit(w http.ResponseWriter, r *http.Request) {
	var order struct {
		App    int64  `json:"app"`
		Record int64  `json:"record"`
		User   string `json:"user"`
	}
	if err := accept(r, &order); err != nil {
		complain(w, http.StatusBadRequest, err)
		return
	}
	if err := k.Edit(order.App, order.Record, order.User); err != nil {
		complain(w, http.StatusNotFound, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (k *Kintone) adminSecondFactor(w http.ResponseWriter, r *http.Request) {
	var order struct {
		User string `json:"user"`
	}
	if err := accept(r, &order); err != nil {
		complain(w, http.StatusBadRequest, err)
		return
	}
	if err := k.SetSecondFactor(order.User); err != nil {
		complain(w, http.StatusNotFound, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (k *Kintone) adminSettings(w http.ResponseWriter, r *http.Request) {
	app, err := parameter(r, "app")
	if err != nil {
		complain(w, http.StatusBadRequest, err)
		return
	}
	s, err := k.Settings(app)
	if err != nil {
		complain(w, http.StatusNotFound, err)
		return
	}
	reply(w, http.StatusOK, s)
}

func (k *Kintone) adminPend(w http.ResponseWriter, r *http.Request) {
	var order struct {
		App  int64  `json:"app"`
		User string `json:"user"`
	}
	if err := accept(r, &order); err != nil {
		complain(w, http.StatusBadRequest, err)
		return
	}
	if err := k.Pend(order.App, order.User, nil); err != nil {
		complain(w, http.StatusNotFound, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (k *Kintone) adminDeploys(w http.ResponseWriter, r *http.Request) {
	var order struct {
		Takes duration    `json:"takes"`
		Ends  DeployState `json:"ends"`
	}
	if err := accept(r, &order); err != nil {
		complain(w, http.StatusBadRequest, err)
		return
	}
	end := deployEnd{time.Duration(order.Takes), order.Ends}
	if err := end.validate(); err != nil {
		complain(w, http.StatusBadRequest, err)
		return
	}
	k.SetDeploy(end.takes, end.ends)
	w.WriteHeader(http.StatusNoContent)
}

// duration is written as in Go: "1m30s".
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = duration(v)
	return err
}

// parameter reads an integer; one that is not given is 0.
func parameter(r *http.Request, name string) (int64, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s has to be an integer", name)
	}
	return n, nil
}

func accept(r *http.Request, into any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, 1<<20))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	return nil
}

func complain(w http.ResponseWriter, status int, err error) {
	reply(w, status, map[string]string{"error": err.Error()})
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(marshal(v), '\n'))
}
