package simulator

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxURL        = 8 << 10 // docs/kintone.md 1.1
	maxBody       = 8 << 20 // kintone's own limit is not recorded
	maxTokens     = 9       // docs/kintone.md 1.1
	maxMembers    = 100     // SEED2
	maxJSONDepth  = 16
	jsonMediaType = "application/json"
)

// call is a request as it arrived. That does not change, so that it can be executed late or twice.
type call struct {
	n           int
	method, api string // "GET", "records.json"
	guestSpace  int64
	header      http.Header
	language    string // of messages
	rawQuery    string
	body        []byte
	decoded     any // the body; nil if it is none or no JSON
	decodeErr   error
	endpoint    endpoint
	calls       []*call // of a bulkRequest, in their order; nil where there is none to be read
	inBulk      bool    // it is one of those

	// Guarded by the mutex of Kintone.
	pinned     map[pin]bool // nil if nobody wants to know (Config.Overtaken)
	executions int          // so far
	answer     *answer      // to the last execution
}

// answer is what kintone itself says to a call.
type answer struct {
	status int
	code   string // of an error
	body   []byte
}

// endpoint is one API: which parameters it knows, what it takes to use it, and what it does. run is called with the mutex
// held, after credentials, app, path and permission were found good; where a call names several apps, app is "" and run
// enters them itself.
type endpoint struct {
	app   string          // the parameter that names the app
	read  func(*form) any // the other parameters
	needs need
	run   func(k *Kintone, a *app, by caller, c *call, params any, now time.Time) ([]byte, *Refusal)
	bulk  bool // it may stand in a bulkRequest
}

var endpoints = map[string]endpoint{
	"GET records.json":                 {"app", readRecordsQuery, need{right: toView}, (*Kintone).getRecords, false},
	"POST records.json":                {"app", readNewRecords, need{right: toAdd, writes: true}, (*Kintone).postRecords, true},
	"DELETE records.json":              {"app", readDeletions, need{right: toDelete, writes: true}, (*Kintone).deleteRecords, true},
	"GET record.json":                  {"app", readRecordID, need{right: toView}, (*Kintone).getRecord, false},
	"PUT record/status.json":           {"app", readStatusChange, need{right: toView, writes: true}, (*Kintone).putStatus, true},
	"PUT records/status.json":          {"app", readStatusChanges, need{right: toView, writes: true}, (*Kintone).putStatuses, true},
	"PUT record/assignees.json":        {"app", readAssignees, need{right: toManage, writes: true}, (*Kintone).putAssignees, true},
	"GET app.json":                     {"id", readNothing, need{right: toKnow}, (*Kintone).getApp, false},
	"GET app/status.json":              {"app", readLanguage, need{right: toRead, settings: true}, (*Kintone).getProcess, false},
	"GET app/form/fields.json":         {"app", readLanguage, need{right: toRead, settings: true}, (*Kintone).getFields, false},
	"GET preview/app/status.json":      {"app", readLanguage, need{right: toManage, settings: true}, (*Kintone).getPreviewProcess, false},
	"PUT preview/app/status.json":      {"app", readProcessChange, need{right: toManage, settings: true}, (*Kintone).putProcess, false},
	"GET preview/app/form/fields.json": {"app", readLanguage, need{right: toManage, settings: true}, (*Kintone).getPreviewFields, false},
	"POST preview/app/deploy.json":     {"", readDeploy, need{right: toManage, settings: true}, (*Kintone).postDeploy, false},
	"GET preview/app/deploy.json":      {"", readDeployed, need{right: toManage}, (*Kintone).getDeploy, false},
	"POST bulkRequest.json":            {"", readBulk, need{}, (*Kintone).postBulk, false},
}

// need is what a call asks of its caller and of the moment.
type need struct {
	right    right
	settings bool // the call is refused while settings are being deployed
	writes   bool // the call needs a lock on records
}

// right is a permission, by what it is for.
type right byte

const (
	toView   right = iota // records
	toAdd                 // records
	toDelete              // records
	toManage              // the app: its settings, the assignees of its records
	toRead                // live settings: whoever may view or add records (docs/kintone.md 5)
	toKnow                // the app's name: whoever may view records or manage
)

func (t Token) may(r right) bool {
	switch r {
	case toView:
		return t.View
	case toAdd:
		return t.Add
	case toDelete:
		return t.Delete
	case toManage:
		return t.Manage
	case toRead:
		return t.View || t.Add
	}
	return t.View || t.Manage
}

// ServeHTTP answers one request.
func (k *Kintone) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.date(w)
	if len(r.URL.RequestURI()) > maxURL {
		page(w, http.StatusRequestURITooLong, "Request URL too large")
		return
	}
	if name, password, ok := r.BasicAuth(); k.cfg.Basic != "" && (!ok || name+":"+password != k.cfg.Basic) {
		w.Header().Set("WWW-Authenticate", `Basic realm="kintone"`)
		page(w, http.StatusUnauthorized, "Authorization required") // the gate before kintone; what it says is not recorded
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case err != nil:
		panic(http.ErrAbortHandler) // it never arrived whole
	case len(body) > maxBody:
		page(w, http.StatusRequestEntityTooLarge, "Request body too large")
		return
	}
	c := newCall(r, body, k.cfg.Language)
	if c == nil {
		page(w, http.StatusNotFound, "Not found")
		return
	}

	running, wait := k.arrive(c)
	defer k.leave()
	if running > k.cfg.ConcurrencyLimit {
		k.admissionRefusal(w, c, running, 0)
		return
	}
	time.Sleep(wait)
	k.date(w)
	k.suffer(w, r, c, k.decide(c))
}

// newCall returns nil where kintone has no such API.
func newCall(r *http.Request, body []byte, language string) *call {
	c := &call{method: r.Method, header: r.Header, rawQuery: r.URL.RawQuery, body: body}
	if r.Method == http.MethodPost && strings.EqualFold(r.Header.Get("X-HTTP-Method-Override"), http.MethodGet) {
		c.method = http.MethodGet
	}
	var ok, known bool
	c.guestSpace, c.api, ok = locate(r.URL.Path)
	if c.endpoint, known = endpoints[c.kind()]; !ok || !known {
		return nil
	}
	c.language = preferred(r.Header.Get("Accept-Language"), language)
	if len(body) > 0 {
		c.decoded, c.decodeErr = decode(body)
	}
	if c.api == bulkRequest {
		c.calls = c.inside()
	}
	if slices.ContainsFunc(c.calls, func(one *call) bool { return one != nil && slices.Contains(unspoken, one.kind()) }) {
		return nil
	}
	return c
}

// locate takes a path apart. It reports false if that is not one of kintone's API, and api is "" then.
func locate(path string) (guestSpace int64, api string, ok bool) {
	path, ok = strings.CutPrefix(path, "/k/")
	if guest, inGuest := strings.CutPrefix(path, "guest/"); ok && inGuest {
		space, rest, _ := strings.Cut(guest, "/")
		id, err := strconv.ParseInt(space, 10, 64)
		if err != nil || id < 1 {
			return 0, "", false
		}
		guestSpace, path = id, rest
	}
	if !ok {
		return 0, "", false
	}
	if api, ok = strings.CutPrefix(path, "v1/"); !ok {
		return 0, "", false
	}
	return guestSpace, api, true
}

func (c *call) kind() string { return c.method + " " + c.api }

// apps are the apps that a call names, before anything was checked.
func (c *call) apps() []int64 {
	var ids []int64
	for _, one := range c.calls {
		if one != nil {
			ids = append(ids, one.apps()...)
		}
	}
	name := c.endpoint.app
	var named []any
	if m, ok := c.decoded.(map[string]any); ok {
		if name != "" {
			named = []any{m[name]}
		} else if list, _ := m["apps"].([]any); c.method == http.MethodPost {
			for _, v := range list {
				member, _ := v.(map[string]any)
				named = append(named, member["app"])
			}
		} else {
			named = list
		}
	} else if len(c.body) == 0 {
		values, _ := url.ParseQuery(c.rawQuery)
		for parameter := range values {
			if parameter == name || name == "" && strings.HasPrefix(parameter, "apps[") {
				named = append(named, values.Get(parameter))
			}
		}
	}
	for _, v := range named {
		if id, ok := integer(v); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// records are the record numbers that a status call names, or those in a bulkRequest, before anything was checked.
func (c *call) records() []int64 {
	var ids []int64
	for _, one := range c.calls {
		if one != nil {
			ids = append(ids, one.records()...)
		}
	}
	m, ok := c.decoded.(map[string]any)
	if !ok || c.method != http.MethodPut {
		return ids
	}
	members, _ := m["records"].([]any)
	for _, member := range append(members, m) {
		if fields, ok := member.(map[string]any); ok {
			if id, ok := integer(fields["id"]); ok {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// arrive counts a call in and says how many are in flight and how long this one has to wait.
func (k *Kintone) arrive(c *call) (running int, wait time.Duration) {
	k.lock()
	defer k.mu.Unlock()
	k.arrived++
	c.n = k.arrived
	k.counts.Total++
	k.counts.Kinds[c.kind()]++
	k.count(c, time.Now())
	if k.cfg.Overtaken != "GAIA_CO02" {
		c.pinned = k.pins(c)
	}
	k.running++
	if k.running <= k.cfg.ConcurrencyLimit {
		k.counts.Peak = max(k.counts.Peak, k.running)
	}
	wait = k.cfg.Latency
	if k.cfg.Jitter > 0 {
		wait += time.Duration(k.random.Int64N(int64(k.cfg.Jitter)))
	}
	return k.running, wait
}

// pin is a revision that a record had when a call arrived that names it.
type pin struct{ app, record, revision int64 }

func (k *Kintone) pins(c *call) map[pin]bool {
	pins := map[pin]bool{}
	for _, id := range c.apps() {
		if a, ok := k.apps[id]; ok {
			for _, record := range c.records() {
				pins[pin{id, record, a.look(record).revision}] = true
			}
		}
	}
	return pins
}

func (k *Kintone) leave() {
	k.mu.Lock()
	k.running--
	k.mu.Unlock()
}

// admissionRefusal is 429: nothing was executed, the text is English whatever language is asked for, and there is no
// Retry-After unless a fault wants one (docs/kintone.md 1.2).
func (k *Kintone) admissionRefusal(w http.ResponseWriter, c *call, running int, after time.Duration) {
	a := k.objection(c, refuse("GAIA_TO04", ""))
	k.headers(w, a)
	w.Header().Set("X-ConcurrencyLimit-Running", strconv.Itoa(running))
	w.Header().Set("Cache-Control", "no-store")
	retryAfter(w, after)
	w.WriteHeader(a.status)
	w.Write(a.body)
}

// send writes kintone's own answer.
func (k *Kintone) send(w http.ResponseWriter, c *call, a *answer) {
	k.headers(w, a)
	w.WriteHeader(a.status)
	w.Write(a.body)
}

// headers sets what every answer of kintone's own carries, good or bad.
func (k *Kintone) headers(w http.ResponseWriter, a *answer) {
	k.mu.Lock()
	running := k.running
	k.mu.Unlock()
	k.date(w)
	h := w.Header()
	h.Set("Content-Type", "application/json;charset=UTF-8")
	h.Set("X-ConcurrencyLimit-Limit", strconv.Itoa(k.cfg.ConcurrencyLimit))
	h.Set("X-ConcurrencyLimit-Running", strconv.Itoa(min(running, k.cfg.ConcurrencyLimit)))
	if a.code != "" {
		h.Set("X-Cybozu-Error", a.code)
	}
}

// date tells the time of an answer, as kintone's clock has it.
func (k *Kintone) date(w http.ResponseWriter) {
	w.Header().Set("Date", time.Now().Add(k.cfg.ClockSkew).UTC().Format(http.TimeFormat))
}

// do executes a call now.
func (k *Kintone) do(c *call) *answer {
	k.lock()
	defer k.mu.Unlock()
	return k.execute(c, time.Now())
}

// objection is an error that kintone gives without executing anything.
func (k *Kintone) objection(c *call, r *Refusal) *answer {
	k.lock()
	defer k.mu.Unlock()
	return k.envelope(c, r)
}

// execute is kintone: every check and every change of one call, at one moment. The mutex is held.
func (k *Kintone) execute(c *call, now time.Time) *answer {
	c.executions++
	body, refusal := k.perform(c, now)
	c.answer = &answer{status: http.StatusOK, body: body}
	if refusal != nil {
		c.answer = k.envelope(c, refusal)
	}
	return c.answer
}

func (k *Kintone) perform(c *call, now time.Time) ([]byte, *Refusal) {
	by, refusal := k.authenticate(c)
	if refusal != nil {
		return nil, refusal
	}
	members, refusal := c.members()
	if refusal != nil {
		return nil, refusal
	}
	return k.carryOut(c, by, members, now)
}

// carryOut does what a call wants whose caller is known.
func (k *Kintone) carryOut(c *call, by caller, members map[string]any, now time.Time) ([]byte, *Refusal) {
	e := c.endpoint
	f := &form{members: members, bad: complaints{}, inURL: len(c.body) == 0 && !c.inBulk, twice: k.cfg.NamedTwice}
	var id int64
	if e.app != "" {
		id = f.id(e.app)
	}
	params := e.read(f)
	f.rest()
	refusal := f.bad.refusal()
	if refusal != nil {
		return nil, refusal
	}
	var a *app
	if e.app != "" {
		if a, refusal = k.enter(c, by, id, e.needs, now); refusal != nil {
			return nil, refusal
		}
	}
	return e.run(k, a, by, c, params, now)
}

// authenticate finds out who calls. A password wins over tokens, even a wrong one over good ones (docs/kintone.md 4).
// OAuth and session are not spoken: a request with nothing else is not logged in.
func (k *Kintone) authenticate(c *call) (caller, *Refusal) {
	if sent := c.header.Values("X-Cybozu-Authorization"); len(sent) > 0 {
		plain, err := base64.StdEncoding.DecodeString(sent[0])
		login, password, ok := strings.Cut(string(plain), ":")
		u := k.users[login]
		switch {
		case err != nil || !ok || len(sent) > 1 || u.password == "" || password != u.password:
			return caller{}, refuse("CB_WA01", "")
		case u.secondFactor:
			return caller{}, refuse("CB_TW02", "")
		}
		return caller{login: login, language: cmp.Or(u.language, preferred(c.header.Get("Accept-Language"), ""))}, nil
	}
	var tokens []string
	for _, sent := range c.header.Values("X-Cybozu-API-Token") {
		for t := range strings.SplitSeq(sent, ",") {
			if t = strings.TrimSpace(t); t != "" {
				tokens = append(tokens, t)
			}
		}
	}
	switch {
	case len(tokens) == 0:
		return caller{}, refuse("CB_AU01", "")
	case len(tokens) > maxTokens:
		return caller{}, refuse("GAIA_IA02", "") // the code is not recorded
	}
	return caller{login: Administrator, tokens: tokens}, nil
}

// enter finds the app, and checks that the path is the one for it (docs/kintone.md 2.3 and 4), that the caller has the
// right, and that the moment is good: settings calls are refused while the app is being deployed, and writing records right
// after it (docs/kintone.md 5).
func (k *Kintone) enter(c *call, by caller, id int64, needs need, now time.Time) (*app, *Refusal) {
	a, ok := k.apps[id]
	switch {
	case !ok:
		return nil, refuse("GAIA_AP01", strconv.FormatInt(id, 10))
	case a.GuestSpace != 0 && c.guestSpace == 0:
		return nil, refuse("GAIA_IL23", "")
	case a.GuestSpace != c.guestSpace:
		return nil, refuse("CB_NO02", "")
	}
	if refusal := k.admit(a, by, needs.right); refusal != nil {
		return nil, refusal
	}
	if needs.settings && a.deploy == Processing {
		return nil, refuse(k.cfg.WhileDeploying, "")
	}
	if needs.writes && now.Before(a.locked) {
		return nil, refuse("GAIA_DA02", "")
	}
	return a, nil
}

// admit checks what the caller may do with the app. Every token that is sent has to exist and to be in force, and one of
// them has to be the app's: GAIA_IA02 stands for tokens of other apps and for tokens whose app was not updated yet
// (docs/kintone.md 2.3).
func (k *Kintone) admit(a *app, by caller, r right) *Refusal {
	if by.tokens == nil {
		if !a.userMay(by.login, r) {
			return refuse("CB_NO02", "")
		}
		return nil
	}
	own, allowed := false, false
	for _, value := range by.tokens {
		t, of := k.token(value)
		if of == nil || !t.Activated {
			return refuse("GAIA_IA02", "")
		}
		own = own || of == a
		allowed = allowed || of == a && t.may(r)
	}
	switch {
	case !own:
		return refuse("GAIA_IA02", "")
	case !allowed:
		return refuse("GAIA_NO01", "")
	}
	return nil
}

// userMay: who may see an app may do everything with its records; to manage it takes more.
func (a *app) userMay(login string, r right) bool {
	manages := login == Administrator && a.Managers == nil || slices.Contains(a.Managers, login)
	switch r {
	case toManage:
		return manages
	case toKnow:
		if manages {
			return true
		}
	}
	return a.Viewers == nil || slices.Contains(a.Viewers, login)
}

func (k *Kintone) token(value string) (Token, *app) {
	for _, a := range k.apps {
		for _, t := range a.Tokens {
			if t.Value == value {
				return t, a
			}
		}
	}
	return Token{}, nil
}

// envelope is the form of every error (docs/kintone.md 2.1). The mutex is held.
func (k *Kintone) envelope(c *call, r *Refusal) *answer {
	k.counts.Refused++
	k.counts.Codes[r.Code]++
	if k.cfg.RefusedFree && r.Status < http.StatusInternalServerError {
		k.uncount(c)
	}
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	id := make([]byte, 20)
	for i := range id {
		id[i] = letters[k.random.IntN(len(letters))]
	}
	type messages struct {
		Messages []string `json:"messages"`
	}
	e := struct {
		Code    string              `json:"code"`
		ID      string              `json:"id"`
		Message string              `json:"message"`
		Errors  map[string]messages `json:"errors,omitempty"`
	}{Code: r.Code, ID: string(id), Message: r.message(c.language)}
	for path, texts := range r.invalid {
		if e.Errors == nil {
			e.Errors = map[string]messages{}
		}
		var m messages
		for _, t := range texts {
			m.Messages = append(m.Messages, t.in(c.language))
		}
		e.Errors[path] = m
	}
	body, err := json.Marshal(e)
	if err != nil {
		panic(err) // strings only: cannot happen
	}
	if r.calls > 0 {
		body = amongResults(body, r.call, r.calls)
	}
	status := r.Status
	if other, ok := k.cfg.Statuses[r.Code]; ok {
		status = other
	}
	return &answer{status: status, code: r.Code, body: body}
}

// preferred returns "ja", "en" or "zh" for the first of these languages in an Accept-Language header. A lone * counts as
// none (docs/kintone.md 3).
func preferred(header, otherwise string) string {
	for tag := range strings.SplitSeq(header, ",") {
		tag, _, _ = strings.Cut(strings.TrimSpace(tag), ";")
		tag, _, _ = strings.Cut(tag, "-")
		switch tag = strings.ToLower(tag); tag {
		case "ja", "en", "zh":
			return tag
		}
	}
	return otherwise
}
