package kintone

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
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
	"sync/atomic"
	"time"

	"statusq/internal/failpoint"
)

const (
	// maxURL is the longest URL in bytes that a read sends as a GET. kintone refuses URLs over 8 KB; its own JavaScript
	// client turns to the override at this length (docs/kintone.md 1.1).
	maxURL = 4096

	// maxBody bounds an answer, after decompression. 500 records of five short fields stay far below it.
	maxBody = 8 << 20

	// maxTokens is how many API tokens kintone takes in one request (docs/kintone.md 1.1).
	maxTokens = 9

	// tokenIdentity is the user whose mark a request with an API token leaves (docs/kintone.md 4).
	tokenIdentity = "Administrator"
)

// Config describes a site. Only BaseURL is required.
type Config struct {
	// BaseURL is where the site is, such as https://sample.cybozu.com. A path is kept as a prefix. Plain http is accepted
	// only to a loopback host.
	BaseURL string

	// Tokens are the API tokens for apps that bring none of their own; at most 9.
	Tokens []Secret

	// Username and Password, if set, are used instead of tokens. kintone itself prefers a password to a token when it gets
	// both, so a stale one would silently win (docs/kintone.md 4); sending only one keeps the choice here.
	Username string
	Password Secret

	// BasicUsername and BasicPassword pass the basic authentication that may stand before a whole site.
	BasicUsername string
	BasicPassword Secret

	// AcceptLanguage is sent with every request; default "ja". For a user whose language follows the browser it decides
	// which names actions have, and sources disagree on what its absence means (docs/kintone.md 3).
	AcceptLanguage string

	UserAgent string // default "statusq"

	// Timeout bounds one request, from dialling to the last byte of the answer; default 60 s. Waiting at the gate is not
	// part of it. A request that is out is given up after it, so a permit of the gate comes back by then at the latest.
	Timeout time.Duration

	// Transport sends the requests. Nil makes an own http.Transport, which takes a proxy from the environment. One that
	// repeats requests or follows redirects by itself must not be used here.
	Transport http.RoundTripper

	// Gate is what all requests of the site pass; nil for none.
	Gate *Gate
}

// App says how one app is reached.
type App struct {
	ID         int64
	GuestSpace int64    // id of the guest space that the app is in; 0 for none
	Tokens     []Secret // API tokens of the app, at most 9; nil for those of the site

	// LeaveBy is when a call that still waits at the gate stops waiting: it fails with ErrTooLate and was not sent. Zero:
	// it waits as long as its context. What is known of a record grows old at the gate.
	LeaveBy time.Time
}

// ErrTooLate says that a call did not get through the gate before its App.LeaveBy.
var ErrTooLate = errors.New("still at the gate when it had to have left")

// Client makes the calls of one site. It is safe for use by many goroutines.
type Client struct {
	base           *url.URL
	acceptLanguage string
	userAgent      string
	timeout        time.Duration
	username       string
	transport      http.RoundTripper
	gate           *Gate

	// credentials returns those for an app. It is a function so that no field holds a secret that %+v would print.
	credentials func(App) (credentials, error)
}

// credentials are the headers that let a request in, and what takes the secrets in them out of a text: a server may echo
// a header in its answer, a transport in an error.
type credentials struct {
	header http.Header
	hide   func(string) string
}

// NewClient checks cfg and returns a client. The error joins everything that is wrong with it.
func NewClient(cfg Config) (*Client, error) {
	base, err := parseBase(cfg.BaseURL)
	errs := []error{err, checkTokens(cfg.Tokens)}
	wrong := func(is bool, text string) {
		if is {
			errs = append(errs, errors.New(text))
		}
	}
	wrong(cfg.Username == "" && cfg.Password != "", "password without a username")
	wrong(cfg.Username != "" && cfg.Password == "", "username without a password")
	wrong(cfg.BasicUsername == "" && cfg.BasicPassword != "", "basic authentication: password without a username")
	wrong(strings.Contains(cfg.Username, ":"), "username has a colon in it")
	wrong(strings.Contains(cfg.BasicUsername, ":"), "basic authentication: username has a colon in it")
	wrong(!printable(cfg.AcceptLanguage), "accept language is not printable ASCII")
	wrong(!printable(cfg.UserAgent), "user agent is not printable ASCII")
	wrong(cfg.Timeout < 0, "timeout is negative")
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}

	c := &Client{
		base:           base,
		acceptLanguage: cmp.Or(cfg.AcceptLanguage, "ja"),
		userAgent:      cmp.Or(cfg.UserAgent, "statusq"),
		timeout:        cmp.Or(cfg.Timeout, time.Minute),
		username:       cfg.Username,
		transport:      cfg.Transport,
		gate:           cfg.Gate,
		credentials:    cfg.credentials,
	}
	if c.transport == nil {
		c.transport = newTransport()
	}
	return c, nil
}

// Identity returns the login name whose mark kintone leaves on what this client does to the app: the user, or
// Administrator for API tokens.
func (c *Client) Identity(App) string {
	return cmp.Or(c.username, tokenIdentity)
}

// CloseIdleConnections closes the connections that no request uses, as http.Client does.
func (c *Client) CloseIdleConnections() {
	if t, ok := c.transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// Validate reports what is wrong with a: ids that cannot be, tokens that cannot be sent.
func (a App) Validate() error {
	var errs []error
	if a.ID < 1 {
		errs = append(errs, errors.New("app id is below 1"))
	}
	if a.GuestSpace < 0 {
		errs = append(errs, errors.New("guest space id is negative"))
	}
	return errors.Join(append(errs, checkTokens(a.Tokens))...)
}

// request is a call before it is put into HTTP.
type request struct {
	method string     // PUT, or GET for a read
	api    string     // such as "records/status.json"
	query  url.Values // of a GET
	body   any        // of a PUT; for a GET the parameters once more, to be sent instead of a query that is too long
	reject error      // why it must not be sent; nil if it may
}

// do sends r and hands the body of a 200 to read, which returns an error if it is not the answer to r.
func (c *Client) do(ctx context.Context, app App, r request, read func(body []byte) error) *Error {
	unsent := func(err error) *Error {
		return &Error{Op: r.op(), App: app.ID, NotSent: true, Err: err}
	}
	creds, err := c.credentials(app)
	if err = errors.Join(r.reject, app.Validate(), err); err != nil {
		return unsent(fmt.Errorf("%w: %w", ErrInvalidRequest, err))
	}
	req, err := c.httpRequest(app, r, creds)
	if err != nil {
		return unsent(fmt.Errorf("%w: %w", ErrInvalidRequest, err))
	}
	var answer Answer
	if c.gate != nil {
		waiting := ctx
		if !app.LeaveBy.IsZero() {
			var cancel context.CancelFunc
			waiting, cancel = context.WithDeadlineCause(ctx, app.LeaveBy, ErrTooLate)
			defer cancel()
		}
		failpoint.Hit("gate.waiting")
		permit, err := c.gate.Enter(waiting, app.ID)
		if err != nil {
			return unsent(err)
		}
		defer func() { permit.Leave(answer) }()
	}
	if ctx.Err() != nil {
		// Once the transport has been asked, an ended context no longer proves that nothing left.
		answer.Err = unsent(cause(ctx, nil, creds.hide))
		return answer.Err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout,
		fmt.Errorf("no whole answer within %v: %w", c.timeout, context.DeadlineExceeded))
	defer cancel()
	failpoint.Hit("gate.passed")
	answer = c.exchange(ctx, req, r.method != http.MethodGet, creds.hide, read)
	if answer.Err != nil {
		answer.Err.Op, answer.Err.App = r.op(), app.ID
	}
	return answer.Err
}

func (r request) op() string { return r.method + " " + r.api }

// exchange makes the one attempt. acts says that the request changes things.
//
// It asks the transport and not an http.Client, because only the client has code that follows redirects. On the way to
// another host that code takes off Authorization and cookies, but would send X-Cybozu-API-Token on (docs/kintone.md 4).
func (c *Client) exchange(ctx context.Context, req *http.Request, acts bool, hide func(string) string,
	read func([]byte) error) Answer {

	var way progress
	req = req.WithContext(httptrace.WithClientTrace(ctx, way.trace()))
	if req.Body != nil {
		req.Body = &watchedBody{ReadCloser: req.Body, read: &way.begun}
	}

	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		unsent := way.stoppedBeforeSending(err)
		return Answer{Err: &Error{NotSent: unsent, MayHaveActed: acts && !unsent, Err: cause(ctx, err, hide)}}
	}
	defer resp.Body.Close()
	failpoint.Hit("http.answered")
	answer := Answer{
		Running: count(resp.Header.Get("X-ConcurrencyLimit-Running")),
		Limit:   count(resp.Header.Get("X-ConcurrencyLimit-Limit")),
	}

	// Reading to the end lets the connection be used again; closing one that has more to say drops it.
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	failpoint.Hit("http.read")
	switch {
	case err != nil:
		answer.Err = &Error{Status: resp.StatusCode, Message: "answer cut short", MayHaveActed: acts, Err: cause(ctx, err, hide)}
	case len(body) > maxBody:
		answer.Err = &Error{Status: resp.StatusCode, Message: "answer is over 8 MiB", MayHaveActed: acts}
	case resp.StatusCode != http.StatusOK:
		answer.Err = parseError(resp.StatusCode, resp.Header.Get("Content-Type"), body, acts, hide)
	default:
		if err := read(body); err != nil {
			answer.Err = &Error{Status: resp.StatusCode, Message: plain(hide(err.Error()), maxText), MayHaveActed: acts}
		}
	}
	if answer.Err != nil {
		answer.Err.RetryAfter = retryAfter(resp.Header)
	}
	return answer
}

// httpRequest puts r into HTTP. The request has no context yet.
func (c *Client) httpRequest(app App, r request, creds credentials) (*http.Request, error) {
	path := "k/v1/" + r.api
	if app.GuestSpace != 0 {
		path = fmt.Sprintf("k/guest/%d/v1/%s", app.GuestSpace, r.api)
	}
	u := c.base.JoinPath(path)
	// Brackets leave as %5B: raw ones were once refused (docs/kintone.md 1.3). A plus for a space is for forms only.
	u.RawQuery = strings.ReplaceAll(r.query.Encode(), "+", "%20")

	method, body := r.method, r.body
	override := method == http.MethodGet && body != nil && len(u.String()) > maxURL
	switch {
	case override:
		method, u.RawQuery = http.MethodPost, ""
	case method == http.MethodGet:
		body = nil
	}

	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, u.String(), content)
	if err != nil {
		return nil, err
	}
	// With GetBody a transport may send a PUT a second time on its own when a connection breaks. Only the caller, who
	// knows the pins, may do that.
	req.GetBody = nil
	maps.Copy(req.Header, creds.header)
	req.Header.Set("Accept-Language", c.acceptLanguage)
	req.Header.Set("User-Agent", c.userAgent)
	if body != nil {
		// Without a body it must not be there: CB_IL02 (docs/kintone.md 1.3).
		req.Header.Set("Content-Type", "application/json")
	}
	if override {
		req.Header.Set("X-HTTP-Method-Override", http.MethodGet)
	}
	return req, nil
}

// credentials makes the headers for an app.
func (cfg Config) credentials(app App) (credentials, error) {
	header := make(http.Header)
	var secrets []string
	pair := func(username string, password Secret) string {
		encoded := base64.StdEncoding.EncodeToString([]byte(username + ":" + password.Reveal()))
		secrets = append(secrets, password.Reveal(), encoded)
		return encoded
	}

	tokens := app.Tokens
	if len(tokens) == 0 {
		tokens = cfg.Tokens
	}
	switch {
	case cfg.Username != "":
		header.Set("X-Cybozu-Authorization", pair(cfg.Username, cfg.Password))
	case len(tokens) > 0:
		for _, t := range tokens {
			secrets = append(secrets, t.Reveal())
		}
		header.Set("X-Cybozu-API-Token", strings.Join(secrets, ","))
	default:
		return credentials{}, ErrNoCredentials
	}
	if cfg.BasicUsername != "" {
		header.Set("Authorization", "Basic "+pair(cfg.BasicUsername, cfg.BasicPassword))
	}
	return credentials{header, hiding(secrets)}, nil
}

// hiding returns a function that puts [redacted] in the place of secrets.
func hiding(secrets []string) func(string) string {
	// The longest first, or the rest of a secret would show behind another that it begins with.
	slices.SortFunc(secrets, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	var pairs []string
	for _, s := range secrets {
		if s != "" {
			pairs = append(pairs, s, redacted)
		}
	}
	return strings.NewReplacer(pairs...).Replace
}

// progress follows a request on its way out. The transport may call the hooks from other goroutines.
type progress struct {
	sought atomic.Bool // the transport looked for a connection, so it does report what it does
	begun  atomic.Bool // it has a connection, or has read from the body: bytes may have left
}

func (p *progress) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn: func(string) { p.sought.Store(true) },
		GotConn: func(httptrace.GotConnInfo) {
			p.begun.Store(true)
			failpoint.Hit("http.connected")
		},
		WroteHeaders: func() { failpoint.Hit("http.headers") },
		WroteRequest: func(httptrace.WroteRequestInfo) { failpoint.Hit("http.written") },
	}
}

// stoppedBeforeSending reports whether a request that ended with err surely never left: no connection was ever had, and
// the transport is one that would have told, or says itself that it could not dial.
func (p *progress) stoppedBeforeSending(err error) bool {
	if p.begun.Load() {
		return false
	}
	op, ok := errors.AsType[*net.OpError](err)
	return p.sought.Load() || ok && op.Op == "dial"
}

// watchedBody notes that a request's body was read.
type watchedBody struct {
	io.ReadCloser
	read *atomic.Bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	failpoint.Hit("http.body")
	return b.ReadCloser.Read(p)
}

// cause is the reason why a request failed below HTTP: the context's if that ended, else err without the URL that a
// *url.Error would put before it. A context's reason is in the chain with context.Canceled or DeadlineExceeded, by which
// the gate tells a caller that left from a site that does not answer. Where a secret would show, only a text is left.
func cause(ctx context.Context, err error, hide func(string) string) error {
	if ctx.Err() != nil {
		why := context.Cause(ctx)
		if errors.Is(why, ctx.Err()) {
			return why
		}
		return fmt.Errorf("%w: %w", ctx.Err(), why)
	}
	for {
		wrapper, ok := errors.AsType[*url.Error](err)
		if !ok {
			break
		}
		err = wrapper.Err
	}
	if s := err.Error(); hide(s) != s {
		return errors.New(hide(s))
	}
	return err
}

// newTransport returns the transport of a client that is given none.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		ForceAttemptHTTP2:      true,
	}
}

// parseBase reads a site's address. Its errors do not quote it: people paste passwords into URLs.
func parseBase(s string) (*url.URL, error) {
	if s == "" {
		return nil, errors.New("base URL is missing")
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("base URL is not a URL")
	}
	switch {
	case u.User != nil:
		return nil, errors.New("base URL has a user in it")
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#"):
		return nil, errors.New("base URL has a query or a fragment")
	case u.Hostname() == "" || u.Opaque != "":
		return nil, errors.New("base URL has no host")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, errors.New("base URL is http, which is for loopback hosts only: use https")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("base URL is not https")
	}
	return u, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// checkTokens reports tokens that cannot go into a header. It names them by position only.
func checkTokens(tokens []Secret) error {
	var errs []error
	if len(tokens) > maxTokens {
		errs = append(errs, fmt.Errorf("%d API tokens, but kintone takes at most %d in one request", len(tokens), maxTokens))
	}
	for i, t := range tokens {
		switch s := t.Reveal(); {
		case s == "":
			errs = append(errs, fmt.Errorf("API token %d is empty", i+1))
		case !printable(s) || strings.ContainsAny(s, ", "):
			errs = append(errs, fmt.Errorf("API token %d has a character in it that no token has", i+1))
		}
	}
	return errors.Join(errs...)
}

// printable reports whether s is printable ASCII.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// count reads a header that holds a number; 0 if it does not.
func count(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return max(n, 0)
}
