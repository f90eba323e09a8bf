package kintone

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
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
)

// Config describes a site. Only BaseURL is required.
type Config struct {
	// BaseURL is where the site is, such as https://sample.cybozu.com. Its host is one of kintone's domains or, with
	// AllowHost, any; for those a path is kept as a prefix. Plain http is accepted only to a loopback host.
	BaseURL   string
	AllowHost bool

	// Credentials are what requests sign in with at first.
	Credentials Credentials

	// Renew reads the credentials again, for Client.Renew; nil if they never change.
	Renew func() (Credentials, error) `json:"-"`

	// Proxy is the URL of the proxy that requests pass, http, https or socks5, which may hold a user and a password. Empty:
	// the one of HTTPS_PROXY and NO_PROXY, if any.
	Proxy Secret

	// AcceptLanguage is sent with every request; default "ja". For a user whose language follows the browser it decides
	// which names actions have, and sources disagree on what its absence means (docs/kintone.md 3).
	AcceptLanguage string

	UserAgent string // default "statusq"

	// Timeout bounds one request, from dialling to the last byte of the answer; default 60 s. Waiting at the gate is not
	// part of it. A request that is out is given up after it, so a permit of the gate comes back by then at the latest.
	Timeout time.Duration

	// Transport sends the requests; nil makes an own http.Transport. One that repeats requests or follows redirects by
	// itself must not be used here. To go by a Proxy or with a certificate it has to be an *http.Transport, which is then
	// cloned; without a Proxy here, its own stays.
	Transport http.RoundTripper

	// Gate is what all requests of the site pass; nil for none.
	Gate *Gate
}

// App says how one app is reached.
type App struct {
	ID         int64
	GuestSpace int64 // id of the guest space that the app is in; 0 for none

	// LeaveBy is when a call that still waits at the gate stops waiting: it fails with ErrTooLate and was not sent. Zero:
	// it waits as long as its context. What is known of a record grows old at the gate.
	LeaveBy time.Time

	// Resolving says that the call finds out what became of a request that may have been carried out. It may spend the
	// reserve of the day's budget.
	Resolving bool
}

// ErrTooLate says that a call did not get through the gate before its App.LeaveBy.
var ErrTooLate = errors.New("still at the gate when it had to have left")

// Client makes the calls of one site. It is safe for use by many goroutines.
type Client struct {
	base           *url.URL
	acceptLanguage string
	userAgent      string
	timeout        time.Duration
	transport      http.RoundTripper // without a certificate
	gate           *Gate
	renew          func() (Credentials, error)
	proxy          func() (host string, secrets []string) // a function, so that no field holds what %+v would print

	// signing is behind a pointer for the same reason. Renew swaps it.
	signing *atomic.Pointer[signing]

	clock *atomic.Pointer[time.Duration] // what ClockDifference returns; nil as long as kintone has not answered
}

// NewClient checks cfg and returns a client. The error joins everything that is wrong with it.
func NewClient(cfg Config) (*Client, error) {
	base, err := parseBase(cfg.BaseURL, cfg.AllowHost)
	errs := []error{err}
	wrong := func(is bool, text string) {
		if is {
			errs = append(errs, errors.New(text))
		}
	}
	wrong(!printable(cfg.AcceptLanguage), "accept language is not printable ASCII")
	wrong(!printable(cfg.UserAgent), "user agent is not printable ASCII")
	wrong(cfg.Timeout < 0, "timeout is negative")

	c := &Client{
		base:           base,
		acceptLanguage: cmp.Or(cfg.AcceptLanguage, "ja"),
		userAgent:      cmp.Or(cfg.UserAgent, "statusq"),
		timeout:        cmp.Or(cfg.Timeout, time.Minute),
		gate:           cfg.Gate,
		renew:          cfg.Renew,
		signing:        new(atomic.Pointer[signing]),
		clock:          new(atomic.Pointer[time.Duration]),
	}
	if base == nil {
		c.base = new(url.URL) // for the rest of what is wrong
	}
	proxy, err := cfg.route(c)
	errs = append(errs, err)
	c.proxy = func() (string, []string) {
		if proxy == nil {
			return "", nil
		}
		return proxy.Host, secretsOf(proxy)
	}
	first, err := c.sign(cfg.Credentials, nil)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	c.signing.Store(first)
	return c, nil
}

// route gives c its transport, and returns the proxy that it goes by, nil for none that is known.
func (cfg Config) route(c *Client) (*url.URL, error) {
	var proxy *url.URL
	switch {
	case cfg.Proxy != "":
		var err error
		if proxy, err = parseProxy(cfg.Proxy); err != nil {
			return nil, err
		}
	case cfg.Transport == nil:
		// Asked here for the one host that there is. What is no URL it would pass over, and go without a proxy.
		if err := checkEnvironment(); err != nil {
			return nil, err
		}
		var err error
		if proxy, err = http.ProxyFromEnvironment(&http.Request{URL: c.base}); err != nil {
			return nil, errors.New("the proxy of the environment cannot be used") // err would quote it
		}
	}
	c.transport = cfg.Transport
	if c.transport == nil {
		t := newTransport()
		t.Proxy = http.ProxyURL(proxy)
		c.transport = t
	} else if proxy != nil {
		given, ok := c.transport.(*http.Transport)
		if !ok {
			return nil, errors.New("a proxy needs an http.Transport")
		}
		t := given.Clone()
		t.Proxy = http.ProxyURL(proxy)
		c.transport = t
	}
	return proxy, nil
}

// Identity returns the login name whose mark kintone leaves on what this client does to the app: the user, or
// Administrator for API tokens.
func (c *Client) Identity(App) string {
	return c.signing.Load().credentials.Identity()
}

// Host returns the host of the site as it is known to people: sample.cybozu.com also where the client signs in with a
// certificate, at sample.s.cybozu.com (docs/kintone.md 4). With a port that is not the usual one it has that.
func (c *Client) Host() string {
	if name, domain := split(c.base.Host); domain != "" {
		return strings.TrimSuffix(name, ".s") + "." + domain
	}
	return c.base.Host
}

// CloseIdleConnections closes the connections that no request uses, as http.Client does.
func (c *Client) CloseIdleConnections() {
	closeIdle(c.transport)
	closeIdle(c.signing.Load().transport)
}

// Proxy returns the host of the proxy that requests pass; empty for none, or for one that only a given transport knows.
func (c *Client) Proxy() string {
	host, _ := c.proxy()
	return host
}

// ClockDifference returns by how much kintone's clock is ahead of this machine's, give or take a second, as the Date of
// the last answer had it; false as long as none came.
func (c *Client) ClockDifference() (ahead time.Duration, known bool) {
	if d := c.clock.Load(); d != nil {
		return *d, true
	}
	return 0, false
}

// Validate reports what is wrong with a: ids that cannot be.
func (a App) Validate() error {
	var errs []error
	if a.ID < 1 {
		errs = append(errs, errors.New("app id is below 1"))
	}
	if a.GuestSpace < 0 {
		errs = append(errs, errors.New("guest space id is negative"))
	}
	return errors.Join(errs...)
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
	invalid := func(err error) *Error { return unsent(fmt.Errorf("%w: %w", ErrInvalidRequest, err)) }
	_, err := c.enter(app)
	if err = errors.Join(r.reject, app.Validate(), err); err != nil {
		return invalid(err)
	}
	req, err := c.httpRequest(app, r)
	if err != nil {
		return invalid(err)
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
		enter := c.gate.Enter
		if app.Resolving {
			enter = c.gate.EnterResolving
		}
		permit, err := enter(waiting, app.ID)
		if err != nil {
			return unsent(err)
		}
		defer func() { permit.Leave(answer) }()
	}
	// Signed only now: it may have waited at the gate for other credentials than those that it came with.
	pass, err := c.enter(app)
	if err != nil {
		answer.Err = invalid(err)
		return answer.Err
	}
	if ctx.Err() != nil {
		// Once the transport has been asked, an ended context no longer proves that nothing left.
		answer.Err = unsent(cause(ctx, nil, pass.hide))
		return answer.Err
	}
	maps.Copy(req.Header, pass.header)
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout,
		fmt.Errorf("no whole answer within %v: %w", c.timeout, context.DeadlineExceeded))
	defer cancel()
	failpoint.Hit("gate.passed")
	answer = c.exchange(ctx, req, r.method != http.MethodGet, pass, read)
	if answer.Err != nil {
		answer.Err.Op, answer.Err.App, answer.Err.Signing = r.op(), app.ID, pass.signing
	}
	return answer.Err
}

// pass is what lets one request in.
type pass struct {
	signing   int
	header    http.Header
	transport http.RoundTripper
	certified bool                // by a client certificate
	hide      func(string) string // takes the secrets out of a text
}

// enter makes the pass of a request to the app that leaves now.
func (c *Client) enter(app App) (pass, error) {
	s := c.signing.Load()
	header, secrets, err := s.credentials.signed(app.ID)
	if err != nil {
		return pass{}, err
	}
	_, more := c.proxy()
	secrets = append(secrets, more...)
	if s.credentials.CertificatePassword != "" {
		secrets = append(secrets, s.credentials.CertificatePassword.Reveal())
	}
	return pass{s.number, header, s.transport, s.credentials.Certificate != "", hiding(secrets)}, nil
}

func (r request) op() string { return r.method + " " + r.api }

// exchange makes the one attempt. acts says that the request changes things.
//
// It asks the transport and not an http.Client, because only the client has code that follows redirects. On the way to
// another host that code takes off Authorization and cookies, but would send X-Cybozu-API-Token on (docs/kintone.md 4).
func (c *Client) exchange(ctx context.Context, req *http.Request, acts bool, pass pass, read func([]byte) error) Answer {
	var way progress
	hide := pass.hide
	req = req.WithContext(httptrace.WithClientTrace(ctx, way.trace()))
	if req.Body != nil {
		req.Body = &watchedBody{ReadCloser: req.Body, read: &way.begun}
	}

	began := time.Now()
	resp, err := pass.transport.RoundTrip(req)
	if err != nil {
		unsent := way.stoppedBeforeSending(err)
		if pass.certified && way.fresh.Load() && ctx.Err() == nil && !strings.Contains(err.Error(), "certificate") {
			// A server tells that it refuses a certificate on the connection, which may be over before that is read.
			err = fmt.Errorf("%w; the client certificate may have been refused", err)
		}
		return Answer{Err: &Error{NotSent: unsent, MayHaveActed: acts && !unsent, Err: cause(ctx, err, hide)}}
	}
	defer resp.Body.Close()
	failpoint.Hit("http.answered")
	c.compareClocks(resp, began)
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

// compareClocks notes what the Date of a success says; that of anything else may be a proxy's.
func (c *Client) compareClocks(resp *http.Response, began time.Time) {
	if resp.StatusCode != http.StatusOK {
		return
	}
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		now := time.Now()
		// A Date has no fractions: on average it is half a second old.
		ahead := at.Add(time.Second / 2).Sub(now.Add(-now.Sub(began) / 2))
		c.clock.Store(&ahead)
	}
}

// httpRequest puts r into HTTP. The request is not signed and has no context yet.
func (c *Client) httpRequest(app App, r request) (*http.Request, error) {
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

// progress follows a request on its way out. The transport may call the hooks from other goroutines.
type progress struct {
	sought atomic.Bool // the transport looked for a connection, so it does report what it does
	fresh  atomic.Bool // that connection is new
	begun  atomic.Bool // it has a connection, or has read from the body: bytes may have left
}

func (p *progress) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn: func(string) { p.sought.Store(true) },
		GotConn: func(info httptrace.GotConnInfo) {
			p.fresh.Store(!info.Reused)
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

// domains are kintone's, the last three Cybozu's own for trials (docs/kintone.md 4).
var domains = []string{"cybozu.com", "kintone.com", "cybozu.cn", "cybozu-dev.com", "kintone-dev.com", "cybozu-dev.cn"}

// parseBase reads a site's address. Its errors do not quote it: people paste passwords into URLs.
func parseBase(s string, anyHost bool) (*url.URL, error) {
	if s == "" {
		return nil, errors.New("base URL is missing")
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("base URL is not a URL")
	}
	host := u.Hostname()
	switch {
	case u.User != nil:
		return nil, errors.New("base URL has a user in it")
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#"):
		return nil, errors.New("base URL has a query or a fragment")
	case host == "" || u.Opaque != "":
		return nil, errors.New("base URL has no host")
	case u.Scheme == "http" && !loopback(host):
		return nil, errors.New("base URL is http, which is for loopback hosts only: use https")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("base URL is not https")
	}
	name, domain := split(host)
	switch {
	case loopback(host):
	case domain == "" && !anyHost:
		return nil, fmt.Errorf("base URL: %s is none of kintone's hosts, which end in cybozu.com, kintone.com or cybozu.cn: is it mistyped? "+
			"If it is meant, say allowHost: true for the site in the configuration file", host)
	case domain != "" && name == "":
		return nil, fmt.Errorf("base URL: %s has no subdomain, such as sample in sample.%s", host, domain)
	case domain != "" && strings.Trim(u.Path, "/") != "":
		return nil, fmt.Errorf("base URL: nothing belongs behind %s", host)
	}
	return u, nil
}

// CheckURL reports why baseURL cannot be where a site is: NewClient would refuse it. allowHost is Config.AllowHost;
// certificate says that there is a client certificate.
func CheckURL(baseURL string, allowHost, certificate bool) error {
	u, err := parseBase(baseURL, allowHost)
	if err != nil {
		return err
	}
	return checkCertificateHost(u.Hostname(), certificate)
}

// split takes a host apart into what stands before kintone's domain, and the domain; that is "" for any other host.
func split(host string) (name, domain string) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for _, d := range domains {
		if before, ok := strings.CutSuffix(host, d); ok && (before == "" || strings.HasSuffix(before, ".")) {
			return strings.TrimSuffix(before, "."), d
		}
	}
	return "", ""
}

// checkCertificateHost holds that a client certificate and a host with .s. in it belong together (docs/kintone.md 4).
func checkCertificateHost(host string, certificate bool) error {
	name, domain := split(host)
	if domain == "" {
		return nil
	}
	plain, secure := strings.CutSuffix(name, ".s")
	switch {
	case secure && !certificate:
		return fmt.Errorf("%s lets only clients with a certificate in: give one (pfxFile, or KINTONE_PFX_FILE_PATH), or use %s.%s", host, plain, domain)
	case certificate && !secure:
		return fmt.Errorf("a client certificate is not asked for by %s: use %s.s.%s with it, or leave it away", host, name, domain)
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
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
