package simulator

import (
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

	// Guarded by the mutex of Kintone.
	executions int     // so far
	answer     *answer // to the last execution
}

// answer is what kintone itself says to a call.
type answer struct {
	status int
	code   string // of an error
	body   []byte
}

// endpoint is one API: which parameters it knows, and what it does. run is called with the mutex held, after
// credentials, app, path and permission were found good.
type endpoint struct {
	read func(*form) any // the parameters beside app
	may  func(Token) bool
	run  func(k *Kintone, a *app, by caller, c *call, params any, now time.Time) ([]byte, *Refusal)
}

var endpoints = map[string]endpoint{
	"GET records.json":         {readRecordsQuery, mayView, (*Kintone).getRecords},
	"GET record.json":          {readRecordID, mayView, (*Kintone).getRecord},
	"PUT record/status.json":   {readStatusChange, mayView, (*Kintone).putStatus},
	"PUT records/status.json":  {readStatusChanges, mayView, (*Kintone).putStatuses},
	"GET app/status.json":      {readLanguage, mayView, (*Kintone).getProcess},
	"GET app/form/fields.json": {readLanguage, mayView, (*Kintone).getFields},
	"GET app.json":             {readNothing, mayViewOrManage, (*Kintone).getApp},
}

func mayView(t Token) bool         { return t.View }
func mayViewOrManage(t Token) bool { return t.View || t.Manage }

// ServeHTTP answers one request.
func (k *Kintone) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(r.URL.RequestURI()) > maxURL {
		page(w, http.StatusRequestURITooLong, "Request URL too large")
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
	k.suffer(w, r, c, k.decide(c))
}

// newCall returns nil where kintone has no such API.
func newCall(r *http.Request, body []byte, language string) *call {
	c := &call{method: r.Method, header: r.Header, rawQuery: r.URL.RawQuery, body: body}
	if r.Method == http.MethodPost && strings.EqualFold(r.Header.Get("X-HTTP-Method-Override"), http.MethodGet) {
		c.method = http.MethodGet
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/k/")
	if guest, inGuest := strings.CutPrefix(path, "guest/"); ok && inGuest {
		space, rest, _ := strings.Cut(guest, "/")
		id, err := strconv.ParseInt(space, 10, 64)
		if err != nil || id < 1 {
			return nil
		}
		c.guestSpace, path = id, rest
	}
	c.api, ok = strings.CutPrefix(path, "v1/")
	if _, known := endpoints[c.kind()]; !ok || !known {
		return nil
	}
	c.language = preferred(r.Header.Get("Accept-Language"), language)
	if len(body) > 0 {
		c.decoded, c.decodeErr = decode(body)
	}
	return c
}

func (c *call) kind() string { return c.method + " " + c.api }

// app is the app that a call names, before anything was checked.
func (c *call) app() int64 {
	if m, ok := c.decoded.(map[string]any); ok {
		id, _ := integer(m["app"])
		return id
	}
	if len(c.body) > 0 {
		return 0
	}
	values, _ := url.ParseQuery(c.rawQuery)
	name := "app"
	if c.api == "app.json" {
		name = "id"
	}
	id, _ := integer(values.Get(name))
	return id
}

// records are the record numbers that a status call names, before anything was checked.
func (c *call) records() []int64 {
	m, ok := c.decoded.(map[string]any)
	if !ok || c.method != http.MethodPut {
		return nil
	}
	var ids []int64
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
	k.count(c.app(), time.Now())
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
	h := w.Header()
	h.Set("Content-Type", "application/json;charset=UTF-8")
	h.Set("X-ConcurrencyLimit-Limit", strconv.Itoa(k.cfg.ConcurrencyLimit))
	h.Set("X-ConcurrencyLimit-Running", strconv.Itoa(min(running, k.cfg.ConcurrencyLimit)))
	if a.code != "" {
		h.Set("X-Cybozu-Error", a.code)
	}
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
	by, tokens, refusal := k.authenticate(c)
	if refusal != nil {
		return nil, refusal
	}
	members, refusal := c.members()
	if refusal != nil {
		return nil, refusal
	}
	e := endpoints[c.kind()]
	name := "app"
	if c.api == "app.json" {
		name = "id"
	}
	f := &form{members: members, bad: complaints{}, inURL: len(c.body) == 0}
	id := f.id(name)
	params := e.read(f)
	f.rest()
	if refusal := f.bad.refusal(); refusal != nil {
		return nil, refusal
	}
	a, refusal := k.reach(c, id)
	if refusal != nil {
		return nil, refusal
	}
	if refusal := k.admit(a, by, tokens, e.may); refusal != nil {
		return nil, refusal
	}
	return e.run(k, a, by, c, params, now)
}

// authenticate finds out who calls. A password wins over tokens, even a wrong one over good ones (docs/kintone.md 4).
// OAuth, session and basic authentication are not spoken: a request with nothing else is not logged in.
func (k *Kintone) authenticate(c *call) (caller, []string, *Refusal) {
	if sent := c.header.Values("X-Cybozu-Authorization"); len(sent) > 0 {
		plain, err := base64.StdEncoding.DecodeString(sent[0])
		login, password, ok := strings.Cut(string(plain), ":")
		want, known := k.users[login]
		if err != nil || !ok || len(sent) > 1 || !known || want == "" || password != want {
			return caller{}, nil, refuse("CB_WA01", "")
		}
		return caller{login: login, language: preferred(c.header.Get("Accept-Language"), "")}, nil, nil
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
		return caller{}, nil, refuse("CB_AU01", "")
	case len(tokens) > maxTokens:
		return caller{}, nil, refuse("GAIA_IA02", "") // the code is not recorded
	}
	return caller{login: Administrator, token: true}, tokens, nil
}

// reach finds the app and checks that the path is the one for it (docs/kintone.md 2.3 and 4).
func (k *Kintone) reach(c *call, id int64) (*app, *Refusal) {
	a, ok := k.apps[id]
	switch {
	case !ok:
		return nil, refuse("GAIA_AP01", strconv.FormatInt(id, 10))
	case a.GuestSpace != 0 && c.guestSpace == 0:
		return nil, refuse("GAIA_IL23", "")
	case a.GuestSpace != c.guestSpace:
		return nil, refuse("CB_NO02", "")
	}
	return a, nil
}

// admit checks what the caller may do with the app. Every token that is sent has to exist and to be in force, and one of
// them has to be the app's: GAIA_IA02 stands for tokens of other apps and for tokens whose app was not updated yet
// (docs/kintone.md 2.3).
func (k *Kintone) admit(a *app, by caller, tokens []string, may func(Token) bool) *Refusal {
	if !by.token {
		if a.Viewers != nil && !slices.Contains(a.Viewers, by.login) {
			return refuse("CB_NO02", "")
		}
		return nil
	}
	own, allowed := false, false
	for _, value := range tokens {
		t, of := k.token(value)
		if of == nil || !t.Activated {
			return refuse("GAIA_IA02", "")
		}
		own = own || of == a
		allowed = allowed || of == a && may(t)
	}
	switch {
	case !own:
		return refuse("GAIA_IA02", "")
	case !allowed:
		return refuse("GAIA_NO01", "")
	}
	return nil
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
	return &answer{status: r.Status, code: r.Code, body: body}
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
