package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"statusq/internal/kintone"
	"statusq/internal/kintone/simulator"
)

// authority signs certificates for servers and clients alike.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	made int64
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true})
	return a
}

func (a *authority) sign(c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.made++
	c.SerialNumber, c.NotBefore = big.NewInt(a.made), time.Now().Add(-48*time.Hour)
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Date(2090, 2, 3, 4, 5, 6, 0, time.UTC)
	}
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = c, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// pfx is the file of a client.
func (a *authority) pfx(name, password string, until time.Time) string {
	a.t.Helper()
	cert, key := a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	raw, err := pkcs12.Modern.Encode(key, cert, nil, password)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(raw)
}

func TestHowASiteSignsInIsTold(t *testing.T) {
	dir := t.TempDir()
	a := newAuthority(t)
	write(t, dir, "token", "t1")
	write(t, dir, "password", "pw")
	write(t, dir, "proxy", "http://robot:geheim@gate.example.com:8080")
	write(t, dir, "robot.pfx", a.pfx("robot", "pw", time.Time{}))
	write(t, dir, "ended.pfx", a.pfx("robot", "pw", time.Now().Add(-24*time.Hour)))
	plain, secure := "    baseUrl: https://sample.cybozu.com\n", "    baseUrl: https://sample.s.cybozu.com\n"
	for name, c := range map[string]struct {
		file string
		env  []string
		want string
	}{
		"a token":            {plain + "    tokenFile: token\n", nil, "as Administrator by 1 API token(s)"},
		"tokens of the apps": {plain + "    apps: {5: {tokenFile: token}}\n", nil, "as Administrator by API tokens of the apps"},
		"tokens of both": {plain + "    tokenFile: token\n    apps: {5: {tokenFile: token}, 7: {tokenFile: token}, 8: {}}\n", nil,
			"as Administrator by 1 API token(s), for apps 5, 7 by their own"},
		"a token of the environment": {plain + "    tokenFile: absent\n", []string{"KINTONE_API_TOKEN=a,b"},
			"as Administrator by 2 API token(s); not used: tokenFile (KINTONE_API_TOKEN comes first)"},
		"a password": {plain + "    username: sato\n    passwordFile: password\n    tokenFile: absent\n    apps: {5: {tokenFile: absent}}\n", nil,
			"as sato by password; not used: the API token (a password wins), the tokens of the apps (a password wins)"},
		"a password of the environment": {plain + "    username: sato\n    passwordFile: absent\n", []string{"KINTONE_PASSWORD=pw"},
			"as sato by password; not used: passwordFile (KINTONE_PASSWORD comes first)"},
		"basic authentication": {plain + "    tokenFile: token\n    basicUsername: gate\n    basicPasswordFile: password\n", nil,
			"as Administrator by 1 API token(s), past basic authentication as gate"},
		"a certificate by a proxy": {secure + "    tokenFile: token\n    pfxFile: robot.pfx\n    pfxPasswordFile: password\n    proxyFile: proxy\n", nil,
			"as Administrator by 1 API token(s), with a client certificate that ends on 2090-02-03, by the proxy gate.example.com:8080"},
		"a certificate that has ended": {secure + "    tokenFile: token\n    pfxFile: ended.pfx\n    pfxPasswordFile: password\n", nil,
			"as Administrator by 1 API token(s), with a client certificate that HAS ENDED on " + time.Now().Add(-24*time.Hour).UTC().Format(time.DateOnly)},
		"a certificate of the environment": {secure + "    tokenFile: token\n    pfxFile: absent.pfx\n",
			[]string{"KINTONE_PFX_FILE_PATH=" + filepath.Join(dir, "robot.pfx"), "KINTONE_PFX_FILE_PASSWORD_FILE=" + filepath.Join(dir, "password")},
			"as Administrator by 1 API token(s), with a client certificate that ends on 2090-02-03; not used: pfxFile (KINTONE_PFX_FILE_PATH comes first)"},
		"the password of no certificate": {plain + "    tokenFile: token\n", []string{"KINTONE_PFX_FILE_PASSWORD=geheim"},
			"as Administrator by 1 API token(s); not used: KINTONE_PFX_FILE_PASSWORD (there is no certificate)"},
		"another host": {"    baseUrl: https://gateway.example.com/kintone\n    allowHost: true\n    tokenFile: token\n    proxy: http://gate.example.com\n", nil,
			"as Administrator by 1 API token(s), by the proxy gate.example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			environ(t, c.env...)
			sites, _, err := configured(t, "--config", write(t, dir, "statusq.yaml", "sites:\n  main:\n"+c.file))
			if err != nil {
				t.Fatal(err)
			}
			if sites[0].signsIn != c.want {
				t.Errorf("it signs in %s\nwant %s", sites[0].signsIn, c.want)
			}
		})
	}
}

func TestSecretsAreReadAgainFromWhereTheyWere(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "token", "from-file")
	env := write(t, dir, "env", "one")
	environ(t, "KINTONE_API_TOKEN_FILE="+env)
	sites, _, err := configured(t, "--config", write(t, dir, "statusq.yaml",
		"sites:\n  main:\n    baseUrl: https://sample.cybozu.com\n    basicUsername: gate\n    basicPasswordFile: token\n    apps: {5: {tokenFile: token}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	renew := sites[0].client.Renew
	write(t, dir, "token", "changed, twice\n")
	write(t, dir, "env", "two")
	got, err := renew()
	want := kintone.Credentials{Tokens: []kintone.Secret{"two"}, AppTokens: map[int64][]kintone.Secret{5: {"changed", "twice"}},
		BasicUsername: "gate", BasicPassword: "changed, twice"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("they were read again as others, error %v", err)
	}
	write(t, dir, "token", "")
	if err := os.Remove(env); err != nil {
		t.Fatal(err)
	}
	_, err = renew()
	for _, part := range []string{"KINTONE_API_TOKEN_FILE: there is no file", "app 5: tokenFile: ", "is empty", "basicPasswordFile: "} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error should say %q: %v", part, err)
		}
	}
}

// Messages quote what a field is, and the documents are made of it.
func TestEveryFieldIsExplained(t *testing.T) {
	for _, form := range []any{file{}, fileSite{}, fileApp{}} {
		v := reflect.TypeOf(form)
		for f := range v.Fields() {
			name, doc := f.Tag.Get("yaml"), f.Tag.Get("doc")
			if !strings.EqualFold(name, f.Name) || doc == "" || strings.HasSuffix(doc, ".") {
				t.Errorf("%s.%s: yaml %q, doc %q", v.Name(), f.Name, name, doc)
			}
		}
	}
}

func TestAnchorsAndMergesAreRead(t *testing.T) {
	environ(t, "KINTONE_API_TOKEN=t")
	dir := t.TempDir()
	write(t, dir, "password", "pw")
	sites, _, err := configured(t, "--config", write(t, dir, "statusq.yaml", `
sites:
  main:
    baseUrl: &where !!str https://sample.cybozu.com
    language: |-
      en
    requestsPerSecond: 1_0.5
    apps:
      5: &slow {inflight: 1, call: single}
      6: *slow
      7:
        <<: *slow
        call: "bulk"
      8: {inflight: null}
  other:
    baseUrl: *where
    tokenFile: null
    defaults: ~
    apps:
    username: 007
    passwordFile: password
`))
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(sites[0].client.AcceptLanguage, sites[0].gate.RequestsPerSecond)
	for _, id := range []int64{5, 6, 7, 8} {
		got += fmt.Sprint(" ", sites[0].apps[id].Inflight, sites[0].apps[id].Single)
	}
	got += fmt.Sprint(" ", sites[1].client.BaseURL, " ", sites[1].client.Credentials.Username)
	if want := "en10.5 1 true 1 true 1 false 0 false https://sample.cybozu.com 007"; got != want {
		t.Errorf("read %s, want %s", got, want)
	}
}

// A token and a password are replaced while the worker runs: by itself, and by SIGHUP.
func TestSecretsChangeWhileTheWorkerRuns(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file   string // that holds the secret
		config string
		change func(*place)
		secret string
		hangup bool
	}{
		"a token":    {"token", "tokenFile: token", func(p *place) { p.sim.SetTokens(testApp, simulator.ViewToken("another")) }, "another", false},
		"a password": {"password", "username: sato, passwordFile: password", func(p *place) { p.sim.AddUser("sato", "another") }, "another", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, 10)
			dir := filepath.Dir(p.conf)
			write(t, dir, "password", "pw")
			write(t, dir, "statusq.yaml", fmt.Sprintf("sites: {main: {baseUrl: %q, %s, defaults: {dailyRequests: -1}}}\n", p.url, c.config))
			w := p.start()
			p.enqueue(one("--job", "a", "--wait", "--timeout", "20s")...).want(t, exitDone)
			c.change(p)
			p.enqueue("send", "--app", "5", "--record", "2", "--action", "Start", "--job", "b").want(t, exitDone)
			eventually(t, 15*time.Second, "it says what is wrong", func() bool {
				return strings.Contains(w.err.String(), "token_invalid") || strings.Contains(w.err.String(), "login_refused")
			})
			write(t, dir, c.file, c.secret)
			if c.hangup {
				w.cmd.Process.Signal(syscall.SIGHUP)
			}
			eventually(t, 20*time.Second, "the job ends", func() bool { return len(results(t, p.queue(), "b")) == 1 })
			w.await("that the secrets were renewed", `"msg":"renewed"`)
			w.stop()
			if n := p.sim.CommitCount(); n != 2 {
				t.Errorf("kintone ran %d actions, want 2", n)
			}
		})
	}
}

// A site that wants a client certificate, reached by a proxy that wants a password, with basic authentication and a token
// on top: jobs run, no secret shows, and when the certificate is replaced the worker goes on by itself.
func TestASiteBehindACertificateAndAProxy(t *testing.T) {
	t.Parallel()
	p := newPlace(t, 10)
	clients, servers := newAuthority(t), newAuthority(t)
	if err := p.sim.SetTokens(testApp, simulator.ViewToken(canaries["token"])); err != nil {
		t.Fatal(err)
	}

	seen := &witness{Handler: p.sim, seen: make(map[string]bool)}
	known := x509.NewCertPool()
	known.AddCert(clients.cert)
	cert, key := servers.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"sample.s.cybozu.com"}})
	var wanted atomic.Pointer[string]
	old, next := "old", "new"
	wanted.Store(&old)
	site := httptest.NewUnstartedServer(seen)
	site.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	site.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: known,
		VerifyConnection: func(s tls.ConnectionState) error {
			if s.PeerCertificates[0].Subject.CommonName != *wanted.Load() {
				return errors.New("revoked")
			}
			return nil
		},
	}
	site.StartTLS()
	t.Cleanup(func() { site.CloseClientConnections(); site.Close() })

	var tunnels atomic.Int32
	proxy := p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		want := "Basic " + base64.StdEncoding.EncodeToString([]byte("robot:"+canaries["proxy password"]))
		if r.Method != http.MethodConnect || r.Host != "sample.s.cybozu.com:443" || r.Header.Get("Proxy-Authorization") != want {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		out, err := net.Dial("tcp", site.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		defer out.Close()
		in, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer in.Close()
		tunnels.Add(1)
		fmt.Fprint(in, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(out, in); out.Close() }()
		io.Copy(in, out)
	}))

	dir := filepath.Dir(p.conf)
	trusted := write(t, dir, "authorities.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: servers.cert.Raw})))
	write(t, dir, "token", canaries["token"])
	write(t, dir, "basic", canaries["basic password"])
	write(t, dir, "pfx-password", canaries["PFX password"])
	write(t, dir, "robot.pfx", clients.pfx("old", canaries["PFX password"], time.Time{}))
	write(t, dir, "proxy", strings.Replace(proxy, "http://", "http://robot:"+canaries["proxy password"]+"@", 1))
	write(t, dir, "statusq.yaml", `
sites:
  main:
    baseUrl: https://sample.s.cybozu.com
    tokenFile: token
    basicUsername: gate
    basicPasswordFile: basic
    pfxFile: robot.pfx
    pfxPasswordFile: pfx-password
    proxyFile: proxy
    defaults: {dailyRequests: -1}
`)
	p.env = []string{"SSL_CERT_FILE=" + trusted, "SSL_CERT_DIR=" + t.TempDir()}

	w := p.start()
	w.await("how it signs in", "by 1 API token(s), with a client certificate that ends on 2090-02-03, past basic authentication as gate, by the proxy 127.0.0.1:")
	sent := p.enqueue(one("--job", "a", "--wait", "--timeout", "20s")...)
	sent.want(t, exitDone)
	check := p.worker("check", "--json", "--app", "5")
	check.want(t, exitDone, "with a client certificate that ends on 2090-02-03")

	wanted.Store(&next)
	site.CloseClientConnections()
	p.enqueue("send", "--app", "5", "--record", "2", "--action", "Start", "--job", "b").want(t, exitDone)
	w.await("that kintone cannot be reached", `"breaker":"open"`, `"msg":"halted"`, `"msg":"unclear"`)
	write(t, dir, "robot.pfx", clients.pfx("new", canaries["PFX password"], time.Time{}))
	eventually(t, 30*time.Second, "the job ends", func() bool { return len(results(t, p.queue(), "b")) == 1 })
	w.stop()

	if n := p.sim.CommitCount(); n != 2 {
		t.Errorf("kintone ran %d actions, want 2", n)
	}
	if tunnels.Load() == 0 {
		t.Error("nobody came through the proxy")
	}
	for what, text := range map[string]string{"the worker": w.out.String() + w.err.String(), "send": sent.out + sent.err, "check": check.out + check.err} {
		for _, name := range leaks(text) {
			t.Errorf("the %s can be read in what %s says", name, what)
		}
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	for _, name := range []string{"token", "basic password"} {
		if !seen.seen[name] {
			t.Errorf("the %s was never sent to kintone: the test does not bite", name)
		}
	}
}
