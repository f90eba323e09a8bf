package kintone

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// Domains of kintone: docs/kintone.md 4. A token must never go anywhere else by a slip.
func TestHosts(t *testing.T) {
	for _, c := range []struct {
		url                    string
		allowHost, certificate bool
		want                   string // in the error; "" for none
	}{
		{"https://sample.cybozu.com", false, false, ""},
		{"https://SAMPLE.Cybozu.COM/", false, false, ""},
		{"https://sample.cybozu.com.", false, false, ""},
		{"https://sample.cybozu.com:443", false, false, ""},
		{"https://sample.kintone.com", false, false, ""},
		{"https://sample.cybozu.cn", false, false, ""},
		{"https://sample.cybozu-dev.com", false, false, ""},
		{"https://sample.kintone-dev.com", false, false, ""},
		{"https://sample.cybozu-dev.cn", false, false, ""},
		{"https://sample.s.cybozu.com", false, true, ""},
		{"https://sample.s.kintone.com", true, true, ""},
		{"https://s.cybozu.com", false, false, ""}, // a subdomain like any other
		{"https://gateway.example.com/kintone/", true, false, ""},
		{"https://gateway.example.com", true, true, ""},
		{"http://127.0.0.1:8080/prefix", false, false, ""},
		{"http://localhost", false, true, ""},

		{"https://sample.kintone.cn", false, false, "sample.kintone.cn is none of kintone's hosts"},
		{"https://samplecybozu.com", false, false, "is it mistyped?"},
		{"https://cybozu.com.example.com", false, false, "allowHost: true"},
		{"https://sample.cybozu.com.example.com", false, false, "none of kintone's"},
		{"https://sample.cybozu.com@example.com", true, false, "has a user in it"},
		{"https://10.0.0.1", false, false, "none of kintone's"},
		{"https://cybozu.com", false, false, "has no subdomain"},
		{"https://.cybozu.com", false, false, "has no subdomain"},
		{"https://sample.cybozu.com/k/5/", false, false, "nothing belongs behind sample.cybozu.com"},
		{"https://sample.cybozu.com/k/5/", true, false, "nothing belongs behind"},
		{"http://sample.cybozu.com", true, false, "http, which is for loopback hosts only"},
		{"http://gateway.example.com", true, false, "http, which is for loopback hosts only"},
		{"https://sample.s.cybozu.com", false, false, "use sample.cybozu.com"},
		{"https://sample.s.cybozu.com", true, false, "only clients with a certificate"},
		{"https://sample.cybozu.com", false, true, "use sample.s.cybozu.com with it"},
	} {
		err := CheckURL(c.url, c.allowHost, c.certificate)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s (allowHost %v, certificate %v): %v, want %q", c.url, c.allowHost, c.certificate, err, c.want)
		}
		if !c.certificate {
			_, of := NewClient(Config{BaseURL: c.url, AllowHost: c.allowHost})
			if (of == nil) != (err == nil) {
				t.Errorf("%s: NewClient says %v, CheckURL %v", c.url, of, err)
			}
		}
	}
}

// What the secrets are may change while requests are out, wait, and come.
func TestRenew(t *testing.T) {
	now := Credentials{Tokens: []Secret{"old"}, AppTokens: map[int64][]Secret{6: {"six"}}}
	var trouble error
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("X-Cybozu-API-Token"), "old") {
			answers(403, `{"code":"GAIA_IA02","id":"x","message":"no"}`)(w, r)
			return
		}
		answers(200, appAnswer)(w, r)
	}, func(cfg *Config) {
		cfg.Credentials = now
		cfg.Renew = func() (Credentials, error) { return now, trouble }
	})
	renew := func(want bool, text string) {
		t.Helper()
		before := s.Signing()
		changed, err := s.Renew()
		if changed != want || (err == nil) != (text == "") || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("Renew: %v, %v; want %v and %q", changed, err, want, text)
		}
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("Renew shows a secret: %v", err)
		}
		if got := s.Signing() - before; got != map[bool]int{true: 1}[want] {
			t.Errorf("Signing went up by %d", got)
		}
	}
	renew(false, "")
	_, err := s.AppInfo(t.Context(), App{ID: 5})
	if e := failure(t, err); e.Signing != 1 || e.Code != "GAIA_IA02" {
		t.Errorf("an old token gave %v, signed with %d; want 1", e, e.Signing)
	}
	// The client does not look at what it was given once more.
	now.AppTokens[6][0], now.AppTokens[7] = "six", []Secret{"seven"}
	renew(true, "")
	now.Tokens = []Secret{"new"}
	renew(true, "")
	if _, err := s.AppInfo(t.Context(), App{ID: 5}); err != nil || s.Signing() != 3 {
		t.Errorf("a new token gave %v, signed with %d", err, s.Signing())
	}

	now.Tokens, trouble = nil, errors.New("there is no file token")
	renew(false, "read the secrets again: there is no file token")
	trouble = nil
	now.Tokens = []Secret{"canary canary"}
	renew(false, "cannot be used: API token 1 has a character")
	now.Tokens = []Secret{"new"}
	// Whose mark a change leaves is how what became of one is found out: it must not change under way.
	now.Username, now.Password = "sato", "canary"
	renew(false, "sign in as sato and no longer as Administrator: that takes a restart")
	if got := s.Identity(App{ID: 5}); got != "Administrator" {
		t.Errorf("the identity is %s now", got)
	}
	if _, err := s.AppInfo(t.Context(), App{ID: 5}); err != nil {
		t.Errorf("after renewals that failed: %v", err)
	}
	now.Username, now.Password = "", ""
	renew(false, "")

	fixed := newTestClient(t, Config{BaseURL: s.server.URL, Credentials: Credentials{Tokens: []Secret{"t"}}})
	if changed, err := fixed.Renew(); changed || err != nil {
		t.Errorf("without a way to read them again: %v, %v", changed, err)
	}
}

// Who calls Renew at the same time as others is told of the change as well; it happens once.
func TestRenewByMany(t *testing.T) {
	var token atomic.Pointer[string]
	first, second := "one", "two"
	token.Store(&first)
	read := func() (Credentials, error) { return Credentials{Tokens: []Secret{Secret(*token.Load())}}, nil }
	creds, _ := read()
	c := newTestClient(t, Config{BaseURL: "https://sample.cybozu.com", Credentials: creds, Renew: read})
	token.Store(&second)
	var (
		wg   sync.WaitGroup
		told atomic.Int32
	)
	for range 50 {
		wg.Go(func() {
			if changed, err := c.Renew(); err != nil {
				t.Error(err)
			} else if changed {
				told.Add(1)
			}
		})
	}
	wg.Wait()
	if told.Load() < 1 || c.Signing() != 2 {
		t.Errorf("%d were told of a change, signing %d; want it once", told.Load(), c.Signing())
	}
}

// A request that waited at the gate while a password was refused is signed with the one that opened it.
func TestRequestsAreSignedBehindTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := Credentials{Username: "sato", Password: "old"}
		gate := NewGate(GateConfig{})
		var sent []string
		c := newTestClient(t, Config{BaseURL: "https://sample.cybozu.com", Credentials: now, Gate: gate,
			Renew: func() (Credentials, error) { return now, nil },
			Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				raw, _ := base64.StdEncoding.DecodeString(r.Header.Get("X-Cybozu-Authorization"))
				sent = append(sent, string(raw))
				return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(appAnswer))}, nil
			})})
		gate.Halt("login refused")
		done := make(chan error)
		go func() {
			_, err := c.AppInfo(t.Context(), App{ID: 5})
			done <- err
		}()
		synctest.Wait()
		now.Password = "new"
		if changed, err := c.Renew(); !changed || err != nil {
			t.Errorf("Renew: %v, %v", changed, err)
		}
		gate.Resume()
		if err := <-done; err != nil || fmt.Sprint(sent) != "[sato:new]" {
			t.Errorf("the request gave %v and was signed by %q, want the new password", err, sent)
		}
	})
}

// After a halt one request goes first: ten wrong passwords at a time might lock the login.
func TestOneRequestGoesFirstAfterAHalt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := NewGate(GateConfig{RequestsPerSecond: 1000, Concurrency: 10})
		gate.Halt("login refused")
		entered := make(chan *Permit, 20)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if p, err := gate.Enter(ctx, 5); err == nil {
					entered <- p
				}
			})
		}
		synctest.Wait()
		gate.Resume()
		synctest.Wait()
		if len(entered) != 1 {
			t.Errorf("%d requests left at once", len(entered))
		}
		(<-entered).Leave(Answer{})
		synctest.Wait()
		if len(entered) < 1 {
			t.Error("nobody followed after an answer")
		}
		for range 15 {
			(<-entered).Leave(Answer{})
			synctest.Wait()
		}
		cancel()
		wg.Wait()
	})
}

// kintone's answers have a Date; a worker whose clock is off by much decides wrongly about expiry.
func TestClockDifference(t *testing.T) {
	ahead, status := 90*time.Second, 502
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
		answers(status, appAnswer)(w, r)
	})
	s.AppInfo(t.Context(), App{ID: 5})
	if d, known := s.ClockDifference(); known {
		t.Errorf("a 502, which may be a proxy's, told a difference of %v", d)
	}
	status = 200
	for _, ahead = range []time.Duration{90 * time.Second, -time.Hour, 0} {
		if _, err := s.AppInfo(t.Context(), App{ID: 5}); err != nil {
			t.Fatal(err)
		}
		if d, known := s.ClockDifference(); !known || (d-ahead).Abs() > 2*time.Second {
			t.Errorf("the difference is %v (known %v), want %v", d, known, ahead)
		}
	}
}

// A proxy is one that tunnels to a single server, whatever it is asked for, for who knows the password.
type proxy struct {
	*httptest.Server
	status int // of a refusal; 0 = none

	mu    sync.Mutex // guards asked
	asked []string
}

const proxyPassword = "canary-p:r/o%x y"

func newProxy(t *testing.T, to *httptest.Server) *proxy {
	t.Helper()
	p := &proxy{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asked = append(p.asked, r.Method+" "+r.RequestURI)
		p.mu.Unlock()
		if _, password, ok := parseProxyAuth(r); !ok || password != proxyPassword {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		if p.status != 0 {
			w.WriteHeader(p.status)
			fmt.Fprint(w, r.Header)
			return
		}
		if r.Method != http.MethodConnect {
			to.Config.Handler.ServeHTTP(w, r)
			return
		}
		out, err := net.Dial("tcp", to.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		in, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprint(in, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(out, in); out.Close() }()
		io.Copy(in, out)
		in.Close()
	}))
	t.Cleanup(p.Close)
	return p
}

func parseProxyAuth(r *http.Request) (user, password string, ok bool) {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(r.Header.Get("Proxy-Authorization"), "Basic "))
	user, password, ok = strings.Cut(string(raw), ":")
	return user, password, ok && err == nil
}

// address is the proxy's URL with the password in it, escaped as it has to be.
func (p *proxy) address() Secret {
	return Secret("http://robot:canary-p%3Ar%2Fo%25x%20y@" + p.Listener.Addr().String())
}

func (p *proxy) requests() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.asked, "; ")
}

func TestProxy(t *testing.T) {
	clients := newAuthority(t, "authority of the clients")
	s := newSecure(t, clients, tls.RequireAndVerifyClientCert)
	p := newProxy(t, s.server)
	creds := Credentials{Certificate: clients.pfx("robot", pkcs12.Modern, "pw"), CertificatePassword: "pw"}
	c := s.client(t, creds, func(cfg *Config) {
		cfg.Proxy = p.address()
		cfg.Transport = &http.Transport{TLSClientConfig: s.transport.TLSClientConfig}
	})
	if _, err := c.AppInfo(t.Context(), App{ID: 5}); err != nil {
		t.Fatal(err)
	}
	if got, want := p.requests(), "CONNECT "+secureHost+":443"; got != want || fmt.Sprint(s.names()) != "[robot]" {
		t.Errorf("the proxy was asked %q, the site saw %q; want %q and robot", got, s.names(), want)
	}
	if got := c.Proxy(); got != p.Listener.Addr().String() {
		t.Errorf("the proxy is %s", got)
	}
	// What is in the clear goes through it as a whole.
	open := newSite(t, answers(200, appAnswer))
	p = newProxy(t, open.server)
	by := newTestClient(t, Config{BaseURL: open.server.URL, Credentials: Credentials{Tokens: []Secret{"t"}}, Proxy: p.address()})
	if _, err := by.AppInfo(t.Context(), App{ID: 5}); err != nil || p.requests() != "GET "+open.server.URL+"/k/v1/app.json?id=5" {
		t.Errorf("in the clear: %v, the proxy was asked %q", err, p.requests())
	}
}

// Whatever a proxy says or fails at, nothing was sent to kintone, and its password does not show.
func TestProxyFailures(t *testing.T) {
	s := newSecure(t, newAuthority(t, "nobody's"), tls.NoClientCert)
	base := &http.Transport{TLSClientConfig: s.transport.TLSClientConfig}
	closed := newProxy(t, s.server)
	away := closed.address()
	closed.Close()
	refuses, other := newProxy(t, s.server), newProxy(t, s.server)
	refuses.status = http.StatusForbidden
	for name, address := range map[string]Secret{
		"it is away":         away,
		"it refuses":         refuses.address(),
		"it wants another":   Secret("http://robot:canary-wrong@" + other.Listener.Addr().String()),
		"it speaks no HTTP":  Secret("socks5://robot:canary-wrong@" + other.Listener.Addr().String()),
		"there is no such":   "http://robot:canary-wrong@proxy.invalid:8080",
		"its port is closed": "https://robot:canary-wrong@127.0.0.1:1",
	} {
		c := newTestClient(t, Config{BaseURL: "https://sample.cybozu.com", Credentials: Credentials{Tokens: []Secret{"a-token"}}, Proxy: address, Transport: base, Timeout: time.Second})
		_, err := c.UpdateStatus(t.Context(), App{ID: 5}, change)
		e := failure(t, err)
		if !e.NotSent || e.MayHaveActed || e.Status != 0 {
			t.Errorf("%s: %v (NotSent %v, MayHaveActed %v), want NotSent", name, e, e.NotSent, e.MayHaveActed)
		}
		said := fmt.Sprintf("%v %+v %#v %v %+v %#v", err, err, e.Err, c, c, *c)
		for err := error(e); err != nil; err = errors.Unwrap(err) {
			said += fmt.Sprintf("%v %+v", err, err)
		}
		for _, secret := range []string{"canary", base64.StdEncoding.EncodeToString([]byte("robot:" + proxyPassword)), base64.StdEncoding.EncodeToString([]byte("robot:canary-wrong"))} {
			if strings.Contains(said, secret) {
				t.Errorf("%s: the password shows: %s", name, said)
			}
		}
	}
	if saw := s.names(); len(saw) != 0 {
		t.Errorf("kintone was asked %d times", len(saw))
	}
}

func TestProxiesThatCannotBe(t *testing.T) {
	for want, address := range map[string]Secret{
		"begins with none of":      "gate.example.com:8080",
		"with none of http://":     "ftp://u:canary@gate.example.com",
		"has no host":              "http://u:canary@:8080",
		"is not a URL":             "http://u:canary@proxy example.com",
		"not a URL such as":        "http://u:canary%@gate.example.com",
		"something behind":         "http://u:canary@gate.example.com/path",
		"something behind its":     "http://u:canary@gate.example.com?x=canary",
		"something behind its hos": "http://u:canary@gate.example.com#canary",
	} {
		_, err := NewClient(Config{BaseURL: "https://sample.cybozu.com", Proxy: address})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("the error is %v, want one with %q and no secret", err, want)
		}
		if of := CheckProxy(address); of == nil || !strings.Contains(err.Error(), of.Error()) {
			t.Errorf("CheckProxy says %v, NewClient %v", of, err)
		}
	}
	_, err := NewClient(Config{BaseURL: "https://sample.cybozu.com", Proxy: "http://gate.example.com", Transport: failing(nil)})
	if err == nil || !strings.Contains(err.Error(), "needs an http.Transport") {
		t.Errorf("a transport that cannot go by a proxy: %v", err)
	}
}

// net/http reads the environment once in a process, so the client of this test lives in another one: with its own
// transport, and the authority of the server in SSL_CERT_FILE.
func TestProxyOfTheEnvironment(t *testing.T) {
	if os.Getenv("STATUSQ_TEST_PROXY") != "" {
		c, err := NewClient(Config{BaseURL: "https://sample.cybozu.com", Credentials: Credentials{Tokens: []Secret{"a-token"}}, Timeout: 5 * time.Second})
		if err != nil {
			fmt.Println("refused:", err)
			return
		}
		info, err := c.AppInfo(t.Context(), App{ID: 5})
		fmt.Printf("by %q: %q, error %v\n", c.Proxy(), info.Name, err)
		return
	}
	s := newSecure(t, newAuthority(t, "nobody's"), tls.NoClientCert)
	p := newProxy(t, s.server)
	trusted := filepath.Join(t.TempDir(), "authorities.pem")
	raw := s.server.TLS.Certificates[0].Certificate[1] // what has signed the server's
	if err := os.WriteFile(trusted, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ env, want string }{
		"a proxy":             {"HTTPS_PROXY=" + p.address().Reveal(), fmt.Sprintf("by %q: \"Orders\", error <nil>", p.Listener.Addr())},
		"not for this host":   {"HTTPS_PROXY=http://127.0.0.1:1\nNO_PROXY=.cybozu.com", `by "": "", error app 5: GET app.json: not sent`},
		"one that cannot be":  {"HTTPS_PROXY=http://u:canary%@proxy", "refused: HTTPS_PROXY: the proxy is not a URL"},
		"with a wrong secret": {"HTTPS_PROXY=http://u:canary@" + p.Listener.Addr().String(), "not sent: Proxy Authentication Required"},
	} {
		run := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxyOfTheEnvironment$")
		run.Env = append(strings.Split(c.env, "\n"), "STATUSQ_TEST_PROXY=1", "SSL_CERT_FILE="+trusted, "SSL_CERT_DIR="+t.TempDir())
		out, err := run.CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.want) || strings.Contains(string(out), "canary") {
			t.Errorf("%s: %v\n%s\nwant %s", name, err, out, c.want)
		}
	}
}
