package kintone

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// authority signs certificates: a root, and one below it that is in the file of the client and not known to the server.
type authority struct {
	t     *testing.T
	root  *x509.Certificate
	below *x509.Certificate
	key   crypto.Signer // of below
	made  int64
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t}
	var rootKey crypto.Signer
	a.root, rootKey = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	a.below, a.key = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name + " below"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, a.root, rootKey)
	return a
}

// sign makes a certificate with a new key; one without a parent signs itself.
func (a *authority) sign(c *x509.Certificate, parent *x509.Certificate, by crypto.Signer) (*x509.Certificate, crypto.Signer) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.signFor(c, key, parent, by), key
}

func (a *authority) signFor(c *x509.Certificate, key crypto.Signer, parent *x509.Certificate, by crypto.Signer) *x509.Certificate {
	a.t.Helper()
	a.made++
	c.SerialNumber = big.NewInt(a.made)
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	c.NotBefore = time.Now().Add(-2 * time.Hour)
	if parent == nil {
		parent, by = c, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
	if err != nil {
		a.t.Fatal(err)
	}
	out, err := x509.ParseCertificate(raw)
	if err != nil {
		a.t.Fatal(err)
	}
	return out
}

// pfx makes the file of a client.
func (a *authority) pfx(name string, encoder *pkcs12.Encoder, password string, change ...func(*x509.Certificate)) Secret {
	a.t.Helper()
	c := &x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, f := range change {
		f(c)
	}
	leaf, key := a.sign(c, a.below, a.key)
	return a.pack(leaf, key, encoder, password)
}

func (a *authority) pack(leaf *x509.Certificate, key crypto.Signer, encoder *pkcs12.Encoder, password string) Secret {
	a.t.Helper()
	raw, err := encoder.Encode(key, leaf, []*x509.Certificate{a.below}, password)
	if err != nil {
		a.t.Fatal(err)
	}
	return Secret(raw)
}

// secureHost is a name that cybozu.com gives to hosts which want a client certificate.
const secureHost = "sample.s.cybozu.com"

// secure is a server for secureHost that lets only clients of one authority in.
type secure struct {
	server    *httptest.Server
	transport *http.Transport // dials it, and trusts it
	roots     *x509.CertPool

	mu  sync.Mutex // guards saw
	saw []string   // the name in the certificate of each request
}

func newSecure(t *testing.T, clients *authority, want tls.ClientAuthType) *secure {
	t.Helper()
	s := &secure{roots: x509.NewCertPool()}
	own := newAuthority(t, "authority of the server")
	leaf, key := own.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{secureHost, "sample.cybozu.com"}}, own.below, own.key)
	s.roots.AddCert(own.root)
	known := x509.NewCertPool()
	known.AddCert(clients.root)
	s.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := ""
		if len(r.TLS.PeerCertificates) > 0 {
			name = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		s.mu.Lock()
		s.saw = append(s.saw, name)
		s.mu.Unlock()
		answers(200, appAnswer)(w, r)
	}))
	s.server.TLS = &tls.Config{
		ClientAuth: want, ClientCAs: known,
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw, own.below.Raw}, PrivateKey: key}},
	}
	s.server.EnableHTTP2 = true
	s.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.server.StartTLS()
	t.Cleanup(s.server.Close)
	s.transport = &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: s.roots},
		ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr != secureHost+":443" {
				return nil, fmt.Errorf("dialled %s", addr)
			}
			return new(net.Dialer).DialContext(ctx, network, s.server.Listener.Addr().String())
		},
	}
	return s
}

func (s *secure) client(t *testing.T, c Credentials, change ...func(*Config)) *Client {
	t.Helper()
	c.Tokens = []Secret{"a-token"}
	cfg := Config{BaseURL: "https://" + secureHost, Credentials: c, Transport: s.transport}
	for _, f := range change {
		f(&cfg)
	}
	return newTestClient(t, cfg)
}

func (s *secure) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.saw...)
}

// The host of a site with client certificates is {subdomain}.s.cybozu.com (docs/kintone.md 4). The file may be old or new.
func TestClientCertificate(t *testing.T) {
	clients := newAuthority(t, "authority of the clients")
	for name, encoder := range map[string]*pkcs12.Encoder{
		"modern": pkcs12.Modern, "AES and SHA-256": pkcs12.Modern2023, "triple DES": pkcs12.LegacyDES, "RC2": pkcs12.LegacyRC2,
	} {
		s := newSecure(t, clients, tls.RequireAndVerifyClientCert)
		c := s.client(t, Credentials{Certificate: clients.pfx("robot", encoder, "pw 日本"), CertificatePassword: "pw 日本"})
		if _, err := c.AppInfo(t.Context(), App{ID: 5}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if saw := s.names(); len(saw) != 1 || saw[0] != "robot" {
			t.Errorf("%s: the server saw %q, want robot", name, saw)
		}
	}

	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	leaf := clients.signFor(&x509.Certificate{Subject: pkix.Name{CommonName: "with RSA"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, key, clients.below, clients.key)
	s := newSecure(t, clients, tls.RequireAndVerifyClientCert)
	c := s.client(t, Credentials{Certificate: clients.pack(leaf, key, pkcs12.Modern, "x"), CertificatePassword: "x"})
	if _, err := c.UpdateStatus(t.Context(), App{ID: 5}, change); failure(t, err).Status != 200 { // the answer is another's
		t.Errorf("with an RSA key: %v", err)
	}
}

// A refused certificate is told as such, also where the list of authorities that the server sends does not name its own.
func TestRefusedClientCertificate(t *testing.T) {
	clients, strangers := newAuthority(t, "authority of the clients"), newAuthority(t, "of strangers")
	s := newSecure(t, clients, tls.RequireAndVerifyClientCert)
	c := s.client(t, Credentials{Certificate: strangers.pfx("stranger", pkcs12.Modern, "canary-pw"), CertificatePassword: "canary-pw"})
	_, err := c.UpdateStatus(t.Context(), App{ID: 5}, change)
	e := failure(t, err)
	if e.Status != 0 || e.Err == nil || !strings.Contains(e.Error(), "certificate") || strings.Contains(e.Error(), "required") {
		t.Errorf("a stranger's certificate gave %v, want one that was refused", e)
	}
	if e.NotSent == e.MayHaveActed {
		t.Errorf("NotSent %v, MayHaveActed %v: one of them has to be", e.NotSent, e.MayHaveActed)
	}
	if saw := s.names(); len(saw) != 0 {
		t.Errorf("the server answered %q", saw)
	}
}

// A new certificate is used for the next request, on a connection of its own.
func TestRenewedClientCertificate(t *testing.T) {
	clients := newAuthority(t, "authority of the clients")
	s := newSecure(t, clients, tls.RequireAndVerifyClientCert)
	now := Credentials{Tokens: []Secret{"a-token"}, Certificate: clients.pfx("old", pkcs12.Modern, "a"), CertificatePassword: "a"}
	c := s.client(t, now, func(cfg *Config) { cfg.Renew = func() (Credentials, error) { return now, nil } })
	ask := func() {
		t.Helper()
		if _, err := c.AppInfo(t.Context(), App{ID: 5}); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	now.Certificate, now.CertificatePassword = clients.pfx("new", pkcs12.Modern, "b"), "b"
	if changed, err := c.Renew(); !changed || err != nil {
		t.Fatalf("Renew: %v, %v", changed, err)
	}
	ask()
	now.Tokens = []Secret{"t2"}
	if changed, err := c.Renew(); !changed || err != nil {
		t.Fatalf("Renew: %v, %v", changed, err)
	}
	ask() // another token, the same certificate

	now.Certificate = "half a file"
	if changed, err := c.Renew(); changed || err == nil || strings.Contains(err.Error(), "half a file") {
		t.Errorf("Renew with half a file: %v, %v", changed, err)
	}
	ask()
	if got := strings.Join(s.names(), " "); got != "old new new new" {
		t.Errorf("the server saw %s", got)
	}
}

func TestUnusableClientCertificates(t *testing.T) {
	clients := newAuthority(t, "authority of the clients")
	good := clients.pfx("robot", pkcs12.Modern, "canary-pw")
	ended := time.Now().Add(-time.Hour).Truncate(time.Second)
	trust, err := pkcs12.Modern.EncodeTrustStore([]*x509.Certificate{clients.root}, "canary-pw")
	if err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]Credentials{
		"the file wants a password":        {Certificate: good},
		"the password does not open":       {Certificate: good, CertificatePassword: "canary-other"},
		"not a PKCS #12 (.pfx) file":       {Certificate: "canary-----BEGIN CERTIFICATE-----", CertificatePassword: "canary-pw"},
		"(.pfx) file with a certificate":   {Certificate: good[:len(good)-1], CertificatePassword: "canary-pw"},
		"with a certificate and its key":   {Certificate: Secret(trust), CertificatePassword: "canary-pw"},
		"password of a client certificate": {CertificatePassword: "canary-pw"},
	} {
		c.Tokens = []Secret{"t"}
		_, err := NewClient(Config{BaseURL: "https://" + secureHost, Credentials: c})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("the error is %v, want one with %q and no secret", err, want)
		}
	}
	if until, err := CertificateUntil(clients.pfx("robot", pkcs12.Modern, "p", func(c *x509.Certificate) { c.NotAfter = ended }), "p"); err != nil || !until.Equal(ended) {
		t.Errorf("a certificate that has ended is good until %v, error %v; want %v", until, err, ended)
	}
	_, err = NewClient(Config{BaseURL: "https://" + secureHost, Transport: failing(nil),
		Credentials: Credentials{Tokens: []Secret{"t"}, Certificate: good, CertificatePassword: "canary-pw"}})
	if err == nil || !strings.Contains(err.Error(), "needs an http.Transport") {
		t.Errorf("a transport that cannot carry a certificate: %v", err)
	}
}
