package kintone

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// site is a server that answers one thing, what was asked of it, and a client that asks.
type site struct {
	*Client
	server *httptest.Server

	mu    sync.Mutex // guards asked
	asked []asked
}

type asked struct {
	method, uri string
	header      http.Header
	body        string
}

func newSite(t *testing.T, answer http.HandlerFunc, change ...func(*Config)) *site {
	t.Helper()
	s := &site{}
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		s.mu.Lock()
		s.asked = append(s.asked, asked{r.Method, r.RequestURI, r.Header.Clone(), string(body)})
		s.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(s.server.Close)
	cfg := Config{BaseURL: s.server.URL, Credentials: Credentials{Tokens: []Secret{"token-of-the-site"}}, Transport: &http.Transport{}}
	for _, f := range change {
		f(&cfg)
	}
	s.Client = newTestClient(t, cfg)
	return s
}

func newTestClient(t *testing.T, cfg Config) *Client {
	t.Helper()
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatalf("NewClient: %v", err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// requests returns what has been asked so far.
func (s *site) requests() []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]asked(nil), s.asked...)
}

// only returns the one request that there was.
func (s *site) only(t *testing.T) asked {
	t.Helper()
	all := s.requests()
	if len(all) != 1 {
		t.Fatalf("the site was asked %d times, want once", len(all))
	}
	return all[0]
}

func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

const appAnswer = `{"appId":"5","name":"Orders","spaceId":null}`

var change = StatusChange{Record: 1, Revision: 1, Action: "Approve"}

func failure(t *testing.T, err error) *Error {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("the call gave %v (%T), want an *Error", err, err)
	}
	return e
}

// A bodyless GET with a Content-Type is CB_IL02 (docs/kintone.md 1.3); without Accept-Language the language of action
// names is anybody's guess (docs/kintone.md 3).
func TestHeadersOfARead(t *testing.T) {
	s := newSite(t, answers(200, appAnswer))
	if _, err := s.AppInfo(t.Context(), App{ID: 5}); err != nil {
		t.Fatal(err)
	}
	r := s.only(t)
	if _, ok := r.header["Content-Type"]; ok || r.body != "" || r.method != "GET" {
		t.Errorf("a read was a %s with Content-Type %q and body %q", r.method, r.header["Content-Type"], r.body)
	}
	for name, want := range map[string]string{
		"Accept-Language":        "ja",
		"User-Agent":             "statusq",
		"X-Cybozu-Api-Token":     "token-of-the-site",
		"Authorization":          "",
		"X-Http-Method-Override": "",
	} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestHeadersOfAChange(t *testing.T) {
	s := newSite(t, answers(200, `{"revision":"3"}`), func(cfg *Config) {
		cfg.AcceptLanguage, cfg.UserAgent = "en", "tester/1"
	})
	if _, err := s.UpdateStatus(t.Context(), App{ID: 5}, change); err != nil {
		t.Fatal(err)
	}
	r := s.only(t)
	for name, want := range map[string]string{
		"Content-Type":    "application/json",
		"Accept-Language": "en",
		"User-Agent":      "tester/1",
		"Idempotency-Key": "", // net/http would repeat a PUT that has one
	} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// kintone prefers a password to a token when both come (docs/kintone.md 4): one of them is sent.
func TestCredentials(t *testing.T) {
	basic := func(user, password string) string {
		return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	}
	for _, c := range []struct {
		name  string
		creds Credentials
		want  map[string]string
	}{
		{"tokens of the site", Credentials{Tokens: []Secret{"t1", "t2"}},
			map[string]string{"X-Cybozu-API-Token": "t1,t2"}},
		{"tokens of the app", Credentials{Tokens: []Secret{"t1"}, AppTokens: map[int64][]Secret{5: {"a1", "a2"}, 6: {"b"}}},
			map[string]string{"X-Cybozu-API-Token": "a1,a2"}},
		{"a password wins", Credentials{Tokens: []Secret{"t1"}, Username: "佐藤", Password: "p:w", AppTokens: map[int64][]Secret{5: {"a1"}}},
			map[string]string{"X-Cybozu-Authorization": basic("佐藤", "p:w")}},
		{"basic authentication on top", Credentials{Tokens: []Secret{"t1"}, BasicUsername: "gate", BasicPassword: "keeper"},
			map[string]string{"X-Cybozu-API-Token": "t1", "Authorization": "Basic " + basic("gate", "keeper")}},
	} {
		s := newSite(t, answers(200, appAnswer), func(cfg *Config) {
			cfg.Credentials = c.creds
		})
		if _, err := s.AppInfo(t.Context(), App{ID: 5}); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		header := s.only(t).header
		for _, name := range []string{"X-Cybozu-API-Token", "X-Cybozu-Authorization", "Authorization"} {
			if got := header.Get(name); got != c.want[name] {
				t.Errorf("%s: %s is %q, want %q", c.name, name, got, c.want[name])
			}
		}
	}
}

func TestIdentity(t *testing.T) {
	byToken := newTestClient(t, Config{BaseURL: "https://sample.cybozu.com", Credentials: Credentials{Tokens: []Secret{"t"}}})
	byName := newTestClient(t, Config{BaseURL: "https://sample.cybozu.com", Credentials: Credentials{Username: "robot", Password: "x", Tokens: []Secret{"t"}}})
	// A token acts as Administrator (docs/kintone.md 4).
	if got := byToken.Identity(App{ID: 5}); got != "Administrator" {
		t.Errorf("a token acts as %q, want Administrator", got)
	}
	if got := byName.Identity(App{ID: 5}); got != "robot" {
		t.Errorf("a user acts as %q, want robot", got)
	}
}

// The paths of apps in guest spaces are others (SEED2, SEED3), and a site may stand behind a prefix.
func TestPaths(t *testing.T) {
	for _, c := range []struct {
		prefix string
		guest  int64
		want   string
	}{
		{"", 0, "/k/v1/app.json?id=5"},
		{"/", 0, "/k/v1/app.json?id=5"},
		{"", 12, "/k/guest/12/v1/app.json?id=5"},
		{"/proxy/a%20b", 0, "/proxy/a%20b/k/v1/app.json?id=5"},
		{"/proxy/", 12, "/proxy/k/guest/12/v1/app.json?id=5"},
	} {
		s := newSite(t, answers(200, appAnswer), func(cfg *Config) { cfg.BaseURL += c.prefix })
		if _, err := s.AppInfo(t.Context(), App{ID: 5, GuestSpace: c.guest}); err != nil {
			t.Errorf("prefix %q, guest space %d: %v", c.prefix, c.guest, err)
		}
		if got := s.only(t).uri; got != c.want {
			t.Errorf("prefix %q, guest space %d: asked %s, want %s", c.prefix, c.guest, got, c.want)
		}
	}
}

func TestNewClientRefuses(t *testing.T) {
	ten := make([]Secret, 10)
	for i := range ten {
		ten[i] = Secret(fmt.Sprintf("canary%d", i))
	}
	good := Config{BaseURL: "https://sample.cybozu.com", Credentials: Credentials{Tokens: ten[:9]}}
	newTestClient(t, good)

	for want, change := range map[string]func(*Config){
		"base URL is missing":            func(c *Config) { c.BaseURL = "" },
		"is not a URL":                   func(c *Config) { c.BaseURL = "https://u:canary@x:pp" },
		"has no host":                    func(c *Config) { c.BaseURL = "https:///k" },
		"is not https":                   func(c *Config) { c.BaseURL = "ftp://sample.cybozu.com" },
		"loopback hosts only":            func(c *Config) { c.BaseURL = "http://sample.cybozu.com" },
		"for loopback hosts":             func(c *Config) { c.BaseURL = "http://localhost.example.com" },
		"is for loopback":                func(c *Config) { c.BaseURL = "http://10.0.0.1" },
		"has a user in it":               func(c *Config) { c.BaseURL = "https://u:canary@sample.cybozu.com" },
		"a query or a fragment":          func(c *Config) { c.BaseURL = "https://sample.cybozu.com/?token=canary" },
		"query or a fragment":            func(c *Config) { c.BaseURL = "https://sample.cybozu.com?" },
		"or a fragment":                  func(c *Config) { c.BaseURL = "https://sample.cybozu.com#" },
		"10 API tokens":                  func(c *Config) { c.Credentials.Tokens = ten },
		"API token 1 is empty":           func(c *Config) { c.Credentials.Tokens = []Secret{""} },
		"API token 2 has a character":    func(c *Config) { c.Credentials.Tokens = []Secret{"a", "canary,canary"} },
		"API token 1 has a character":    func(c *Config) { c.Credentials.Tokens = []Secret{"canary\r\nX: y"} },
		"token 1 has a character":        func(c *Config) { c.Credentials.Tokens = []Secret{"canaryあ"} },
		"1 has a character":              func(c *Config) { c.Credentials.Tokens = []Secret{"canary canary"} },
		"app 5: 10 API tokens":           func(c *Config) { c.Credentials.AppTokens = map[int64][]Secret{5: ten} },
		"app 7: API token 1 has a":       func(c *Config) { c.Credentials.AppTokens = map[int64][]Secret{7: {"canary,b"}} },
		"tokens for app 0":               func(c *Config) { c.Credentials.AppTokens = map[int64][]Secret{0: {"canary"}} },
		"password without a username":    func(c *Config) { c.Credentials.Password = "canary" },
		"username without a password":    func(c *Config) { c.Credentials.Username = "u" },
		"username has a colon":           func(c *Config) { c.Credentials.Username, c.Credentials.Password = "a:b", "canary" },
		"basic authentication: password": func(c *Config) { c.Credentials.BasicPassword = "canary" },
		"basic authentication: username": func(c *Config) { c.Credentials.BasicUsername = "a:b" },
		"accept language":                func(c *Config) { c.AcceptLanguage = "ja\n" },
		"user agent is not":              func(c *Config) { c.UserAgent = "日本" },
		"timeout is negative":            func(c *Config) { c.Timeout = -1 },
	} {
		cfg := good
		change(&cfg)
		c, err := NewClient(cfg)
		if c != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewClient gave the error %v, want one with %q", err, want)
		} else if strings.Contains(err.Error(), "canary") {
			t.Errorf("NewClient's error shows a secret: %v", err)
		}
	}

	_, err := NewClient(Config{Credentials: Credentials{Tokens: ten, Password: "x"}, Timeout: -1})
	for _, want := range []string{"base URL", "10 API tokens", "password without", "timeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewClient's error is %v, want %q among the others", err, want)
		}
	}

	for _, base := range []string{"http://localhost:8080", "http://LOCALHOST", "http://127.3.2.1", "http://[::1]:80/x"} {
		if _, err := NewClient(Config{BaseURL: base}); err != nil {
			t.Errorf("NewClient with %s: %v", base, err)
		}
	}
}

// What can be seen to be wrong here costs no request of the day, and says that it is no use to try again.
func TestCallsRefusedHere(t *testing.T) {
	s := newSite(t, answers(200, `{}`))
	none := newTestClient(t, Config{BaseURL: s.server.URL})
	ctx := t.Context()
	calls := map[string]func() error{
		"app 0":          func() error { _, err := s.AppInfo(ctx, App{}); return err },
		"guest space -1": func() error { _, err := s.AppInfo(ctx, App{ID: 5, GuestSpace: -1}); return err },
		"no credentials": func() error { _, err := none.AppInfo(ctx, App{ID: 5}); return err },
		"no changes":     func() error { _, err := s.UpdateStatuses(ctx, App{ID: 5}, nil); return err },
		"no record ids":  func() error { _, err := s.RecordsByID(ctx, App{ID: 5}, Fields{}, nil); return err },
		"501 record ids": func() error { _, err := s.RecordsByID(ctx, App{ID: 5}, Fields{}, manyIDs(1, 501)); return err },
		"record id 0":    func() error { _, err := s.RecordsByID(ctx, App{ID: 5}, Fields{}, []int64{3, 0}); return err },
		"no action": func() error {
			_, err := s.UpdateStatus(ctx, App{ID: 5}, StatusChange{Record: 1, Revision: 1})
			return err
		},
		"a forgotten pin": func() error {
			_, err := s.UpdateStatus(ctx, App{ID: 5}, StatusChange{Record: 1, Action: "x"})
			return err
		},
		"revision -2": func() error {
			_, err := s.UpdateStatus(ctx, App{ID: 5}, StatusChange{Record: 1, Action: "x", Revision: -2})
			return err
		},
		"101 changes": func() error { // SEED2
			_, err := s.UpdateStatuses(ctx, App{ID: 5}, changesOf(manyIDs(1, 101)...))
			return err
		},
		"a record twice": func() error { // what kintone does is unknown (docs/kintone.md 3)
			_, err := s.UpdateStatuses(ctx, App{ID: 5}, changesOf(1, 2, 1))
			return err
		},
	}
	for name, call := range calls {
		e := failure(t, call())
		if !e.NotSent || e.MayHaveActed || e.Status != 0 || !errors.Is(e, ErrInvalidRequest) {
			t.Errorf("%s: %v (NotSent %v, MayHaveActed %v); want it refused here", name, e, e.NotSent, e.MayHaveActed)
		}
	}
	if n := len(s.requests()); n != 0 {
		t.Errorf("%d requests left, want none", n)
	}
}

// net/http takes Authorization off a redirect to another host, but not X-Cybozu-API-Token (docs/kintone.md 4).
func TestRedirectIsNotFollowed(t *testing.T) {
	thief := newSite(t, answers(200, appAnswer))
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, thief.server.URL+r.RequestURI, status)
		})
		_, err := s.AppInfo(t.Context(), App{ID: 5})
		if e := failure(t, err); e.Status != status || e.MayHaveActed {
			t.Errorf("a read that was redirected gave %v (MayHaveActed %v), want HTTP %d", e, e.MayHaveActed, status)
		}
		_, err = s.UpdateStatus(t.Context(), App{ID: 5}, change)
		if e := failure(t, err); e.Status != status || !e.MayHaveActed {
			t.Errorf("a change that was redirected gave %v (MayHaveActed %v), want HTTP %d and doubt", e, e.MayHaveActed, status)
		}
	}
	if got := thief.requests(); len(got) != 0 {
		t.Errorf("the other host was asked %d times and got the token %q", len(got), got[0].header.Get("X-Cybozu-API-Token"))
	}
}

// With GetBody or an Idempotency-Key, net/http may send a PUT again on its own.
func TestChangeIsSentOnce(t *testing.T) {
	var getBody atomic.Bool
	s := newSite(t, func(http.ResponseWriter, *http.Request) {
		panic(http.ErrAbortHandler) // read whole, then cut without an answer
	}, func(cfg *Config) {
		inner := cfg.Transport
		cfg.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			getBody.Store(r.GetBody != nil)
			return inner.RoundTrip(r)
		})
	})
	_, err := s.UpdateStatuses(t.Context(), App{ID: 5}, changesOf(1, 2))
	e := failure(t, err)
	if !e.MayHaveActed || e.NotSent || e.Status != 0 || e.Err == nil {
		t.Errorf("a cut connection gave %v (MayHaveActed %v, NotSent %v), want doubt", e, e.MayHaveActed, e.NotSent)
	}
	s.only(t)
	if getBody.Load() {
		t.Error("the transport was given GetBody")
	}
}

// A connection that was used before and then breaks is the case in which net/http repeats what it may.
func TestChangeIsSentOnceOnAnOldConnection(t *testing.T) {
	var requests atomic.Int32
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) > 1 {
			panic(http.ErrAbortHandler)
		}
		answers(200, appAnswer)(w, r)
	})
	if _, err := s.AppInfo(t.Context(), App{ID: 5}); err != nil {
		t.Fatal(err)
	}
	_, err := s.UpdateStatus(t.Context(), App{ID: 5}, change)
	if e := failure(t, err); !e.MayHaveActed {
		t.Errorf("a cut connection gave %v without doubt", e)
	}
	if n := requests.Load(); n != 2 {
		t.Errorf("the site saw %d requests, want 2: the read and the change once", n)
	}
}

func TestNotSentWithoutConnection(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + listener.Addr().String()
	listener.Close()

	stranger := httptest.NewTLSServer(answers(200, appAnswer))
	t.Cleanup(stranger.Close)
	stranger.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)

	mute, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never says a word of TLS
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mute.Close() })

	for name, cfg := range map[string]Config{
		"nobody listens":          {BaseURL: closed},
		"an unknown certificate":  {BaseURL: stranger.URL},
		"no TLS within the time":  {BaseURL: "https://" + mute.Addr().String(), Timeout: 50 * time.Millisecond},
		"a transport of our own":  {BaseURL: "https://sample.cybozu.com", Transport: failing(&net.OpError{Op: "dial", Err: io.EOF})},
		"the same in a url.Error": {BaseURL: "https://sample.cybozu.com", Transport: failing(&url.Error{Op: "Put", URL: "https://x", Err: &net.OpError{Op: "dial", Err: io.EOF}})},
	} {
		cfg.Credentials.Tokens = []Secret{"t"}
		c := newTestClient(t, cfg)
		_, err := c.UpdateStatus(t.Context(), App{ID: 5}, change)
		if e := failure(t, err); !e.NotSent || e.MayHaveActed || e.Err == nil || e.Status != 0 {
			t.Errorf("%s: %v (NotSent %v, MayHaveActed %v), want NotSent", name, e, e.NotSent, e.MayHaveActed)
		}
	}
}

// Doubt is the default: a transport that says nothing about its connection, or that has begun, may have sent.
func TestBrokenRequestMayHaveActed(t *testing.T) {
	for name, transport := range map[string]http.RoundTripper{
		"an unknown error": failing(errors.New("boom")),
		"a reset":          failing(&net.OpError{Op: "read", Err: io.EOF}),
		"a dial after a connection": roundTripper(func(r *http.Request) (*http.Response, error) {
			trace := httptrace.ContextClientTrace(r.Context())
			trace.GetConn("sample.cybozu.com:443")
			trace.GotConn(httptrace.GotConnInfo{})
			return nil, &net.OpError{Op: "dial", Err: io.EOF}
		}),
		"a dial after the body was read": roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Body != nil {
				io.Copy(io.Discard, r.Body)
			}
			return nil, &net.OpError{Op: "dial", Err: io.EOF}
		}),
	} {
		c := newTestClient(t, Config{BaseURL: "https://sample.cybozu.com", Credentials: Credentials{Tokens: []Secret{"t"}}, Transport: transport})
		_, err := c.UpdateStatus(t.Context(), App{ID: 5}, change)
		if e := failure(t, err); e.NotSent || !e.MayHaveActed {
			t.Errorf("%s: NotSent %v, MayHaveActed %v; want doubt", name, e.NotSent, e.MayHaveActed)
		}
		_, err = c.AppInfo(t.Context(), App{ID: 5})
		if e := failure(t, err); e.MayHaveActed {
			t.Errorf("%s: a read cannot have acted", name)
		}
	}
}

func TestBrokenHTTP2RequestMayHaveActed(t *testing.T) {
	var protocol atomic.Value
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		protocol.Store(r.Proto)
		panic(http.ErrAbortHandler)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	c := newTestClient(t, Config{BaseURL: server.URL, Credentials: Credentials{Tokens: []Secret{"t"}}, Transport: server.Client().Transport})
	_, err := c.UpdateStatus(t.Context(), App{ID: 5}, change)
	if e := failure(t, err); e.NotSent || !e.MayHaveActed || protocol.Load() != "HTTP/2.0" {
		t.Errorf("a stream reset over %v: NotSent %v, MayHaveActed %v; want doubt", protocol.Load(), e.NotSent, e.MayHaveActed)
	}
}

func TestTimeout(t *testing.T) {
	leave := make(chan struct{})
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet { // a read gets the head and half the body in time
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "{")
			w.(http.Flusher).Flush()
		}
		select {
		case <-r.Context().Done():
		case <-leave:
		}
	}, func(cfg *Config) { cfg.Timeout = 50 * time.Millisecond })
	t.Cleanup(func() { close(leave) })

	_, err := s.UpdateStatus(t.Context(), App{ID: 5}, change)
	e := failure(t, err)
	if !e.MayHaveActed || e.NotSent || !errors.Is(e, context.DeadlineExceeded) || errors.Is(e, context.Canceled) {
		t.Errorf("a timeout gave %v (MayHaveActed %v, NotSent %v)", e, e.MayHaveActed, e.NotSent)
	}
	_, err = s.AppInfo(t.Context(), App{ID: 5})
	e = failure(t, err)
	if e.MayHaveActed || e.Status != 200 || !errors.Is(e, context.DeadlineExceeded) {
		t.Errorf("a timeout in the body of a read gave %v (MayHaveActed %v)", e, e.MayHaveActed)
	}
}

func TestCallerLeaves(t *testing.T) {
	why := errors.New("the worker stops")
	ctx, cancel := context.WithCancelCause(t.Context())
	s := newSite(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel(why)
		<-r.Context().Done()
	})
	_, err := s.UpdateStatus(ctx, App{ID: 5}, change)
	if e := failure(t, err); !e.MayHaveActed || e.NotSent || !errors.Is(e, why) || !errors.Is(e, context.Canceled) {
		t.Errorf("leaving during a request gave %v (MayHaveActed %v, NotSent %v), want doubt and the cause", e, e.MayHaveActed, e.NotSent)
	}
	_, err = s.UpdateStatus(ctx, App{ID: 5}, change)
	if e := failure(t, err); e.MayHaveActed || !e.NotSent || !errors.Is(e, why) {
		t.Errorf("calling after leaving gave %v (MayHaveActed %v, NotSent %v), want NotSent", e, e.MayHaveActed, e.NotSent)
	}
	s.only(t)
}

func TestUnreadableAnswers(t *testing.T) {
	big := strings.Repeat(" ", maxBody+1)
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		status int
		broken bool // below HTTP
	}{
		"HTML with 200":        {answers(200, "<html>sign in</html>"), 200, false},
		"nothing with 200":     {answers(200, ""), 200, false},
		"half JSON":            {answers(200, `{"revision":`), 200, false},
		"no revision":          {answers(200, `{}`), 200, false},
		"a body over 8 MiB":    {answers(200, `{"revision":"3"}`+big), 200, false},
		"a refusal over 8 MiB": {answers(400, `{"code":"GAIA_IL03"}`+big), 400, false},
		"a gzip bomb": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			io.WriteString(z, big)
			z.Close()
		}, 200, false},
		"a cut body": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, `{"revision":"3"}`)
		}, 200, true},
		"a cut refusal": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(400)
			io.WriteString(w, `{"code":"GAIA_IL03"}`)
		}, 400, true},
		"200 in name only": {answers(202, `{"revision":"3"}`), 202, false},
	} {
		s := newSite(t, c.answer)
		_, err := s.UpdateStatus(t.Context(), App{ID: 5}, change)
		e := failure(t, err)
		if !e.MayHaveActed || e.NotSent || e.Status != c.status || e.Code != "" || (e.Err != nil) != c.broken {
			t.Errorf("%s gave %v (MayHaveActed %v, NotSent %v), want HTTP %d and doubt", name, e, e.MayHaveActed, e.NotSent, c.status)
		}
		if len(e.Error()) > 500 {
			t.Errorf("%s: the error has %d bytes", name, len(e.Error()))
		}
	}
}

func TestAnswerHeaders(t *testing.T) {
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "30")
		answers(503, "<html>maintenance</html>")(w, r)
	})
	_, err := s.AppInfo(t.Context(), App{ID: 5})
	if e := failure(t, err); e.RetryAfter != 30*time.Second || e.Op != "GET app.json" || e.App != 5 {
		t.Errorf("a 503 gave %q for app %d of %q, RetryAfter %v", e, e.App, e.Op, e.RetryAfter)
	}
}

// Requests pass the gate and tell it what came, the two headers of docs/kintone.md 1.2 included.
func TestRequestsPassTheGate(t *testing.T) {
	gate := NewGate(GateConfig{RequestsPerSecond: 1000, Concurrency: 40})
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if inUse := gate.State().InUse; inUse != 1 {
			t.Errorf("the gate counts %d requests out during one", inUse)
		}
		w.Header().Set("X-ConcurrencyLimit-Limit", "100")
		w.Header().Set("X-ConcurrencyLimit-Running", "90")
		answers(200, appAnswer)(w, r)
	}, func(cfg *Config) { cfg.Gate = gate })
	before := gate.State()
	if _, err := s.AppInfo(t.Context(), App{ID: 5}); err != nil {
		t.Fatal(err)
	}
	after := gate.State()
	if after.InUse != 0 || after.Limit >= before.Limit {
		t.Errorf("after an answer near kintone's limit the gate has %d out of %d, had %d", after.InUse, after.Limit, before.Limit)
	}

	gate.Close()
	_, err := s.UpdateStatus(t.Context(), App{ID: 5}, change)
	if e := failure(t, err); !e.NotSent || e.MayHaveActed || !errors.Is(e, ErrGateClosed) {
		t.Errorf("a closed gate gave %v (NotSent %v, MayHaveActed %v)", e, e.NotSent, e.MayHaveActed)
	}
	s.only(t)
}

// A server may send back what it was sent, and a transport may quote it. None of that is shown.
func TestSecretsStayInside(t *testing.T) {
	const canary = "canary-0123456789"
	pair := base64.StdEncoding.EncodeToString([]byte("robot:" + canary))
	echoes := canary + " " + pair
	envelope := func(code string) http.HandlerFunc {
		return answers(400, fmt.Sprintf(`{"code":%q,"id":%[2]q,"message":"(code: %[3]s)","errors":{%[2]q:{"messages":[%[2]q]}}}`, code, echoes, canary))
	}
	handlers := map[string]http.HandlerFunc{
		"CB_VA01":   envelope("CB_VA01"),
		"GAIA_IL26": envelope("GAIA_IL26"),
		"HTML": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", canary)
			io.WriteString(w, echoes)
		},
		"HTML with 502": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", canary)
			w.WriteHeader(502)
		},
		"another record":           answers(200, `{"records":[{"id":"`+canary+`","revision":"1"}]}`),
		"a secret at the cut":      answers(400, `{"code":"GAIA_IL03","message":"`+strings.Repeat("x", maxText-8)+canary+`"}`),
		"two statuses of one name": answers(200, `{"enable":true,"states":{"a":{"name":"`+canary+`"},"b":{"name":"`+canary+`"}}}`),
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/%zz"+canary)
			w.WriteHeader(302)
		},
		"no HTTP at all": func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			out := bufio.NewWriter(conn)
			fmt.Fprintf(out, "%s\r\n\r\n", canary)
			out.Flush()
		},
	}
	transports := map[string]http.RoundTripper{
		"a url.Error": failing(&url.Error{Op: "Put", URL: "https://x/" + canary, Err: io.ErrUnexpectedEOF}),
		"a quote":     failing(fmt.Errorf("bad header %q: %w", echoes, io.ErrUnexpectedEOF)),
	}
	ways := map[string]func(*Config) App{
		"token of the site": func(cfg *Config) App { cfg.Credentials.Tokens = []Secret{"canary", canary}; return App{ID: 5} },
		"token of the app":  func(cfg *Config) App { cfg.Credentials.AppTokens = map[int64][]Secret{5: {canary}}; return App{ID: 5} },
		"password": func(cfg *Config) App {
			cfg.Credentials.Username, cfg.Credentials.Password = "robot", canary
			cfg.Credentials.BasicUsername, cfg.Credentials.BasicPassword = "robot", canary
			return App{ID: 5}
		},
	}

	// Neither may a part show: the beginning where a text is cut, the end behind a shorter secret.
	parts := []string{"canary-", "-0123456789"}
	check := func(name string, c *Client, app App, secrets ...string) {
		t.Helper()
		_, bulk := c.UpdateStatuses(t.Context(), app, changesOf(1))
		_, single := c.UpdateStatus(t.Context(), app, change)
		_, process := c.Process(t.Context(), app)
		var out strings.Builder
		for _, v := range []any{bulk, single, process, app, failure(t, bulk), *failure(t, single)} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
				fmt.Fprintf(&out, verb+"\n", v)
			}
			slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
			slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		}
		fmt.Fprintf(&out, "%v %+v %#v %v %+v %#v\n", c, c, c, *c, *c, *c)
		for err := bulk; err != nil; err = errors.Unwrap(err) {
			fmt.Fprintf(&out, "%v\n%+v\n%#v\n", err, err, err)
		}
		for _, part := range parts {
			if strings.Contains(out.String(), part) {
				t.Errorf("%s: a part of a secret shows", name)
			}
		}
		for _, secret := range secrets {
			if at := strings.Index(out.String(), secret); at >= 0 {
				t.Errorf("%s: a secret shows: …%s", name, out.String()[max(0, at-200):at])
			}
			if leaks(out.String(), secret) {
				t.Errorf("%s: a secret shows in hex", name)
			}
		}
	}
	for wayName, way := range ways {
		secrets := []string{canary}
		if wayName == "password" {
			secrets = append(secrets, pair)
		}
		for name, handler := range handlers {
			var app App
			s := newSite(t, handler, func(cfg *Config) { cfg.Credentials.Tokens = nil; app = way(cfg) })
			check(wayName+", "+name, s.Client, app, secrets...)
		}
		for name, transport := range transports {
			cfg := Config{BaseURL: "https://sample.cybozu.com", Transport: transport}
			app := way(&cfg)
			check(wayName+", "+name, newTestClient(t, cfg), app, secrets...)
		}
	}
}

// The error's chain stays where it can, so that callers can ask what it was.
func TestTransportErrorKeepsItsChain(t *testing.T) {
	c := newTestClient(t, Config{BaseURL: "https://sample.cybozu.com", Credentials: Credentials{Tokens: []Secret{"t-o-k-e-n"}},
		Transport: failing(&url.Error{Op: "Put", URL: "https://sample.cybozu.com/k/v1", Err: fmt.Errorf("read: %w", io.ErrUnexpectedEOF)})})
	_, err := c.UpdateStatus(t.Context(), App{ID: 5}, change)
	e := failure(t, err)
	if _, ok := errors.AsType[*url.Error](err); ok || strings.Contains(e.Error(), "https://") {
		t.Errorf("the error shows the URL: %v", e)
	}
	if !errors.Is(e, io.ErrUnexpectedEOF) {
		t.Errorf("the error %v lost its cause", e)
	}
}

func TestOwnTransport(t *testing.T) {
	server := httptest.NewServer(answers(200, appAnswer))
	t.Cleanup(server.Close)
	c := newTestClient(t, Config{BaseURL: server.URL, Credentials: Credentials{Tokens: []Secret{"t"}}})
	if _, err := c.AppInfo(t.Context(), App{ID: 5}); err != nil {
		t.Error(err)
	}
	own := newTransport()
	if own.TLSHandshakeTimeout == 0 || own.DialContext == nil || own.Proxy == nil {
		t.Errorf("the own transport lacks a bound or the proxy: %+v", own)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func failing(err error) http.RoundTripper {
	return roundTripper(func(*http.Request) (*http.Response, error) { return nil, err })
}

func manyIDs(first, n int64) []int64 {
	ids := make([]int64, n)
	for i := range ids {
		ids[i] = first + int64(i)
	}
	return ids
}

func changesOf(records ...int64) []StatusChange {
	changes := make([]StatusChange, len(records))
	for i, id := range records {
		changes[i] = StatusChange{Record: id, Revision: id + 1, Action: "Approve"}
	}
	return changes
}
