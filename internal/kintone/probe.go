package kintone

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Prober asks kintone what its documentation leaves open (docs/kintone.md 7). It may send what nothing else here sends: a
// record named twice, two copies at a time, a request that is cut off. In return it knows only the apps that it was made
// for and the few calls of probeCalls, refuses everything else before it is sent, and makes no more requests than it was
// allowed. Deletions are not counted against that: what it has made may be taken away in any case.
//
// It passes no gate: some questions are about what happens when requests meet.
type Prober struct {
	client *Client
	apps   []App
	most   int
	saw    func(Exchange)

	mu      sync.Mutex // guards what follows, and that saw hears one exchange at a time; never held while waiting
	sent    int
	deleted int // of sent, those that were deletions
	refused int
}

// probeCalls are the calls that a Prober makes.
var probeCalls = []string{
	"GET record.json", "GET records.json", "GET app/status.json", "GET preview/app/status.json", "GET preview/app/deploy.json",
	"POST records.json", "DELETE records.json", "PUT record/status.json", "PUT records/status.json", "POST bulkRequest.json",
	"POST preview/app/deploy.json",
}

// Prober returns a prober for some apps that makes at most so many requests besides deletions. saw is told of every request that was made,
// one at a time, when it has ended.
func (c *Client) Prober(most int, saw func(Exchange), apps ...App) *Prober {
	return &Prober{client: c, apps: apps, most: most, saw: saw}
}

// Attempt is a request of a Prober.
type Attempt struct {
	Method string     // GET, POST, PUT or DELETE
	API    string     // such as "records/status.json"
	Query  url.Values // of a GET or DELETE
	Body   any        // of the others; a GET that has one goes as POST with the override

	Language   string // Accept-Language, instead of the client's
	NoLanguage bool   // without Accept-Language
	Blanks     int    // so many spaces behind the body
	TokensOf   int64  // signs in with the tokens of this other app
	Cut        bool   // the connection is cut as soon as the request has been written; no answer is waited for
}

// Exchange is a request of a Prober and what came back. Nothing in it but Answer holds a secret or the host.
type Exchange struct {
	Method, Target string // Target is the path with its query
	Sent           string // the body; long ones are cut
	Began          time.Time
	Took           time.Duration

	Status  int      // 0 without an answer
	Headers []string // those that tell something, such as "X-Cybozu-Error: GAIA_CO02"
	Answer  []byte   // the body as it came, to be read by programs
	Shown   string   // the body for people
	Err     *Error   // nil for a 200
}

// Errors of a Prober that refuses to send.
var (
	errNotNamed = errors.New("the request is for an app that was not named")
	errSpent    = errors.New("the probe has made as many requests as it said it would")
)

// Ask makes a request. Its Err is an *Error like that of other calls; NotSent says that it was refused here.
func (p *Prober) Ask(ctx context.Context, app int64, a Attempt) Exchange {
	x := Exchange{Method: a.Method, Began: time.Now()}
	refuse := func(err error) Exchange {
		x.Err = &Error{Op: a.Method + " " + a.API, App: app, NotSent: true, Err: fmt.Errorf("%w: %w", ErrInvalidRequest, err)}
		return x
	}
	i := slices.IndexFunc(p.apps, func(named App) bool { return named.ID == app })
	if i < 0 {
		return refuse(errNotNamed)
	}
	if !slices.Contains(probeCalls, a.Method+" "+a.API) {
		return refuse(fmt.Errorf("a probe makes no %s %s", a.Method, a.API))
	}
	body, err := p.body(a)
	if err != nil {
		return refuse(err)
	}
	signsFor := p.apps[i]
	if a.TokensOf != 0 {
		signsFor.ID = a.TokensOf
	}
	pass, err := p.client.enter(signsFor)
	if err != nil {
		return refuse(err)
	}
	req, err := p.client.probeRequest(p.apps[i], a, body, pass)
	if err != nil {
		return refuse(err)
	}
	p.mu.Lock()
	deletes := a.Method == http.MethodDelete
	spent := !deletes && p.sent-p.deleted >= p.most
	if !spent {
		p.sent++
	}
	if deletes {
		p.deleted++
	}
	p.mu.Unlock()
	if spent {
		return refuse(errSpent)
	}

	x.Target, x.Sent = pass.hide(req.URL.RequestURI()), sample(pass.hide(string(body)))
	ctx, cancel := context.WithTimeoutCause(ctx, p.client.timeout,
		fmt.Errorf("no whole answer within %v: %w", p.client.timeout, context.DeadlineExceeded))
	defer cancel()
	if a.Cut {
		var done func()
		ctx, done = cutting(ctx, &pass)
		defer done()
	}
	x.Began = time.Now()
	observe(ctx, req, &x, pass)
	x.Took = time.Since(x.Began)
	if x.Err != nil {
		x.Err.Op, x.Err.App = a.Method+" "+a.API, app
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if x.Err != nil && x.Err.Code != "" {
		p.refused++
	}
	if p.saw != nil {
		p.saw(x)
	}
	return x
}

// errCut is why an Attempt with Cut has no answer.
var errCut = errors.New("connection cut on purpose")

// cutting gives a request a connection of its own, and a context that ends, which closes it, once the request has left.
func cutting(ctx context.Context, pass *pass) (context.Context, func()) {
	ctx, cut := context.WithCancelCause(ctx)
	var written atomic.Bool
	timer := time.AfterFunc(time.Hour, func() { cut(errCut) })
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) {
			// net/http says so before it flushes the last bytes, which are cut off then. The timer is for when there are none.
			written.Store(true)
			timer.Reset(100 * time.Millisecond)
		},
	})
	done := func() {
		cut(nil)
		timer.Stop()
	}
	shared, ok := pass.transport.(*http.Transport)
	if !ok {
		return ctx, done
	}
	own := shared.Clone()
	// With HTTP/2 it would only be a stream that ends, on a connection that goes on.
	own.ForceAttemptHTTP2, own.Protocols = false, nil
	own.TLSNextProto = make(map[string]func(string, *tls.Conn) http.RoundTripper)
	if own.TLSClientConfig != nil {
		own.TLSClientConfig.NextProtos = nil
	}
	dial := own.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	own.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &flushed{conn, func() {
			if written.Load() {
				cut(errCut)
				conn.Close() // without the farewell of TLS
			}
		}}, nil
	}
	pass.transport = own
	return ctx, func() {
		done()
		own.CloseIdleConnections()
	}
}

// flushed tells of every write that has been made.
type flushed struct {
	net.Conn
	tell func()
}

func (c *flushed) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.tell()
	return n, err
}

// Records reads records by id, as RecordsByID does.
func (p *Prober) Records(ctx context.Context, app int64, fields Fields, ids []int64) ([]Record, *Error) {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = strconv.FormatInt(id, 10)
	}
	query := url.Values{"app": {strconv.FormatInt(app, 10)},
		"query": {fmt.Sprintf("$id in (%s) order by $id asc limit %d", strings.Join(list, ","), MaxRecords)}}
	for i, code := range fields.wanted() {
		query.Set(fmt.Sprintf("fields[%d]", i), code)
	}
	x := p.Ask(ctx, app, Attempt{Method: http.MethodGet, API: "records.json", Query: query})
	if x.Err != nil {
		return nil, x.Err
	}
	records, err := decodeRecords(x.Answer, fields, slices.Sorted(slices.Values(ids)))
	if err != nil {
		return nil, &Error{Op: "GET records.json", App: app, Status: x.Status, Message: plain(err.Error(), maxText)}
	}
	return records, nil
}

// Counts returns how many requests were made, and how many of them kintone refused.
func (p *Prober) Counts() (sent, refused int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent, p.refused
}

// Hide takes the secrets that requests to the named apps are signed with out of a text.
func (p *Prober) Hide(text string) string {
	for _, app := range p.apps {
		if pass, err := p.client.enter(app); err == nil {
			text = pass.hide(text)
		}
	}
	return text
}

// body encodes an attempt's body. Whatever in it, or in the query, is called app has to be an app that was named, however
// deep it stands.
func (p *Prober) body(a Attempt) ([]byte, error) {
	for name, values := range a.Query {
		if name == "app" || strings.HasPrefix(name, "apps[") {
			for _, v := range values {
				if !p.named(json.Number(v)) {
					return nil, errNotNamed
				}
			}
		}
	}
	if a.Body == nil {
		return nil, nil
	}
	body, err := json.Marshal(a.Body)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	if !p.confined(tree) {
		return nil, errNotNamed
	}
	if a.Blanks > 0 {
		body = append(body, bytes.Repeat([]byte(" "), a.Blanks)...)
	}
	return body, nil
}

func (p *Prober) confined(tree any) bool {
	switch tree := tree.(type) {
	case map[string]any:
		for name, v := range tree {
			if name == "app" && !p.named(v) || !p.confined(v) {
				return false
			}
		}
	case []any:
		for _, v := range tree {
			if !p.confined(v) {
				return false
			}
		}
	}
	return true
}

func (p *Prober) named(app any) bool {
	id := fmt.Sprint(app)
	return slices.ContainsFunc(p.apps, func(a App) bool { return strconv.FormatInt(a.ID, 10) == id })
}

// probeRequest puts an attempt into HTTP.
func (c *Client) probeRequest(app App, a Attempt, body []byte, pass pass) (*http.Request, error) {
	// The client's own way gives the path and the headers; what an attempt does differently is put over it.
	req, err := c.httpRequest(app, request{method: http.MethodGet, api: a.API, query: a.Query})
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, pass.header)
	req.Method = a.Method
	if body != nil {
		req.Body = io.NopCloser(bytes.NewReader(body))
		req.ContentLength = int64(len(body))
		req.Header.Set("Content-Type", "application/json")
		if a.Method == http.MethodGet {
			req.Method = http.MethodPost
			req.Header.Set("X-HTTP-Method-Override", http.MethodGet)
		}
	}
	switch {
	case a.NoLanguage:
		req.Header.Del("Accept-Language")
	case a.Language != "":
		req.Header.Set("Accept-Language", a.Language)
	}
	return req, nil
}

// tellingHeaders are the headers of an answer that an Exchange keeps.
var tellingHeaders = []string{
	"Date", "Content-Type", "Retry-After", "X-Cybozu-Error", "X-Cybozu-Warning", "X-ConcurrencyLimit-Limit", "X-ConcurrencyLimit-Running",
}

// observe makes the one attempt and fills x.
func observe(ctx context.Context, req *http.Request, x *Exchange, pass pass) {
	acts, hide := req.Method != http.MethodGet, pass.hide
	resp, err := pass.transport.RoundTrip(req.WithContext(ctx))
	if err != nil {
		x.Err = &Error{MayHaveActed: acts, Err: cause(ctx, err, hide)}
		return
	}
	defer resp.Body.Close()
	x.Status = resp.StatusCode
	for _, name := range tellingHeaders {
		if v := resp.Header.Get(name); v != "" {
			x.Headers = append(x.Headers, name+": "+plain(hide(v), maxComplaint))
		}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	x.Answer, x.Shown = body, sample(hide(string(body)))
	switch {
	case err != nil:
		x.Err = &Error{Status: resp.StatusCode, Message: "answer cut short", MayHaveActed: acts, Err: cause(ctx, err, hide)}
	case resp.StatusCode != http.StatusOK:
		x.Err = parseError(resp.StatusCode, resp.Header.Get("Content-Type"), body, acts, hide)
	}
}

// sample is a body for people to read, on one line: the beginning of a long one.
func sample(body string) string {
	const most = 1200
	text := plain(body, most)
	if len(body) > most {
		return fmt.Sprintf("%s… (%d bytes)", text, len(body))
	}
	return text
}
