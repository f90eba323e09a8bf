package kintone

import (
	"cmp"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
)

const (
	// maxTokens is how many API tokens kintone takes in one request (docs/kintone.md 1.1).
	maxTokens = 9

	// tokenIdentity is the user whose mark a request with an API token leaves (docs/kintone.md 4).
	tokenIdentity = "Administrator"
)

// Credentials are what the requests of a site sign in with. All of it may be left out, but then no request leaves.
//
// kintone itself prefers a password to a token when it gets both, so a stale password would silently win
// (docs/kintone.md 4). A client sends one of them, and the choice is kintone's own: with a Username, tokens are not used.
type Credentials struct {
	Tokens    []Secret           // API tokens for apps that have none of their own; at most 9
	AppTokens map[int64][]Secret // API tokens by app id; at most 9 each

	Username string
	Password Secret

	// BasicUsername and BasicPassword pass the basic authentication that may stand before a whole site.
	BasicUsername string
	BasicPassword Secret

	// Certificate is the content of a PKCS #12 file (.pfx) with a client certificate and its key, and goes with a host
	// such as sample.s.cybozu.com (docs/kintone.md 4). It comes in addition to the others: it lets a connection in, and
	// says nothing about who acts.
	Certificate         Secret
	CertificatePassword Secret
}

// Identity returns the login name whose mark these leave on a record: the user, or Administrator for API tokens.
func (c Credentials) Identity() string { return cmp.Or(c.Username, tokenIdentity) }

// Validate reports everything that is wrong with c. It names tokens by their positions only.
func (c Credentials) Validate() error {
	errs := []error{checkTokens(c.Tokens)}
	for _, app := range slices.Sorted(maps.Keys(c.AppTokens)) {
		if app < 1 {
			errs = append(errs, fmt.Errorf("API tokens for app %d: app id is below 1", app))
		}
		if err := checkTokens(c.AppTokens[app]); err != nil {
			errs = append(errs, fmt.Errorf("app %d: %w", app, err))
		}
	}
	wrong := func(is bool, text string) {
		if is {
			errs = append(errs, errors.New(text))
		}
	}
	wrong(c.Username == "" && c.Password != "", "password without a username")
	wrong(c.Username != "" && c.Password == "", "username without a password")
	wrong(c.BasicUsername == "" && c.BasicPassword != "", "basic authentication: password without a username")
	wrong(c.BasicUsername != "" && c.BasicPassword == "", "basic authentication: username without a password")
	wrong(strings.Contains(c.Username, ":"), "username has a colon in it")
	wrong(strings.Contains(c.BasicUsername, ":"), "basic authentication: username has a colon in it")
	wrong(c.Certificate == "" && c.CertificatePassword != "", "password of a client certificate without the certificate")
	if c.Certificate != "" {
		_, err := readCertificate(c.Certificate, c.CertificatePassword)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// equal reports whether requests look the same with c and with d.
func (c Credentials) equal(d Credentials) bool {
	return slices.Equal(c.Tokens, d.Tokens) && maps.EqualFunc(c.AppTokens, d.AppTokens, slices.Equal[[]Secret]) &&
		c.Username == d.Username && c.Password == d.Password &&
		c.BasicUsername == d.BasicUsername && c.BasicPassword == d.BasicPassword &&
		c.sameCertificate(d)
}

func (c Credentials) sameCertificate(d Credentials) bool {
	return c.Certificate == d.Certificate && c.CertificatePassword == d.CertificatePassword
}

// clone makes c independent of what its maker does with it.
func (c Credentials) clone() Credentials {
	c.Tokens, c.AppTokens = slices.Clone(c.Tokens), maps.Clone(c.AppTokens)
	return c
}

// signed are the headers that let a request in, and the secrets in them.
func (c Credentials) signed(app int64) (header http.Header, secrets []string, err error) {
	header = make(http.Header)
	pair := func(username string, password Secret) string {
		encoded := base64.StdEncoding.EncodeToString([]byte(username + ":" + password.Reveal()))
		secrets = append(secrets, password.Reveal(), encoded)
		return encoded
	}
	tokens := c.AppTokens[app]
	if len(tokens) == 0 {
		tokens = c.Tokens
	}
	switch {
	case c.Username != "":
		header.Set("X-Cybozu-Authorization", pair(c.Username, c.Password))
	case len(tokens) > 0:
		for _, t := range tokens {
			secrets = append(secrets, t.Reveal())
		}
		header.Set("X-Cybozu-API-Token", strings.Join(secrets, ","))
	default:
		return nil, nil, ErrNoCredentials
	}
	if c.BasicUsername != "" {
		header.Set("Authorization", "Basic "+pair(c.BasicUsername, c.BasicPassword))
	}
	return header, secrets, nil
}

// signing is how requests sign in from one renewal to the next. It is never changed.
type signing struct {
	number      int // of the renewal; 1 at first
	credentials Credentials
	transport   http.RoundTripper // with the certificate in it
}

// Signing tells one set of credentials from the next: 1 at first, one more with each that Renew brings. Error.Signing
// says with which one a request was sent.
func (c *Client) Signing() int { return c.signing.Load().number }

// Renew reads the credentials again with Config.Renew, and signs every request from now on with them. Requests that are
// out go on as they are. It reports whether anything has changed. With an error the old ones stay: also when they would
// sign in as somebody else, because what became of requests that are out is told by whose mark they leave.
//
// Any number of goroutines may call it at a time.
func (c *Client) Renew() (changed bool, err error) {
	if c.renew == nil {
		return false, nil
	}
	before := c.signing.Load()
	creds, err := c.renew()
	if err != nil {
		return false, fmt.Errorf("read the secrets again: %w", err)
	}
	if creds.equal(before.credentials) {
		return c.signing.Load() != before, nil
	}
	if old, now := before.credentials.Identity(), creds.Identity(); old != now {
		return false, fmt.Errorf("the new credentials sign in as %s and no longer as %s: that takes a restart", now, old)
	}
	next, err := c.sign(creds, before)
	if err != nil {
		return false, fmt.Errorf("the new credentials cannot be used: %w", err)
	}
	if c.signing.CompareAndSwap(before, next) && !creds.sameCertificate(before.credentials) {
		closeIdle(before.transport) // they were let in by the old certificate
	}
	return true, nil // by this call, or by one that was quicker
}

// sign makes the signing that follows before, which is nil for the first.
func (c *Client) sign(creds Credentials, before *signing) (*signing, error) {
	if err := errors.Join(creds.Validate(), checkCertificateHost(c.base.Hostname(), creds.Certificate != "")); err != nil {
		return nil, err
	}
	s := &signing{number: 1, credentials: creds.clone(), transport: c.transport}
	if before != nil {
		s.number = before.number + 1
		if creds.sameCertificate(before.credentials) {
			s.transport = before.transport
			return s, nil
		}
	}
	if creds.Certificate == "" {
		return s, nil
	}
	plain, ok := c.transport.(*http.Transport)
	if !ok {
		return nil, errors.New("a client certificate needs an http.Transport")
	}
	certificate, err := readCertificate(creds.Certificate, creds.CertificatePassword)
	if err != nil {
		return nil, err
	}
	own := plain.Clone()
	if own.TLSClientConfig == nil {
		own.TLSClientConfig = new(tls.Config)
	}
	// Not by Certificates: those are held back when the server's list of authorities does not name theirs, and the refusal
	// that follows then says that there was none.
	own.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return certificate, nil
	}
	s.transport = own
	return s, nil
}

func closeIdle(t http.RoundTripper) {
	if t, ok := t.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// hiding returns a function that puts [redacted] in the place of secrets: a server may echo a header in its answer, a
// transport in an error.
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

// CheckProxy reports why s cannot be the address of a proxy. It does not quote it: there may be a password in it.
func CheckProxy(s Secret) error {
	_, err := parseProxy(s)
	return err
}

func parseProxy(s Secret) (*url.URL, error) {
	u, err := url.Parse(s.Reveal())
	switch {
	case err != nil:
		return nil, errors.New("the proxy is not a URL such as http://gate.example.com:8080")
	case !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme):
		return nil, errors.New("the proxy's URL begins with none of http://, https://, socks5:// and socks5h://")
	case u.Hostname() == "":
		return nil, errors.New("the proxy's URL has no host")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("the proxy's URL has something behind its host")
	}
	return u, nil
}

// checkEnvironment reports why the proxy of the environment cannot be one.
func checkEnvironment() error {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy"} {
		value := os.Getenv(name)
		if value == "" {
			continue
		}
		if !strings.Contains(value, "://") {
			value = "http://" + value // as it is read
		}
		if err := CheckProxy(Secret(value)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// secretsOf are the texts by which the password in a proxy's URL could show.
func secretsOf(proxy *url.URL) []string {
	if proxy == nil || proxy.User == nil {
		return nil
	}
	password, _ := proxy.User.Password()
	pair := base64.StdEncoding.EncodeToString([]byte(proxy.User.Username() + ":" + password))
	secrets := []string{pair}
	if password != "" {
		secrets = append(secrets, password)
	}
	if _, escaped, ok := strings.Cut(proxy.User.String(), ":"); ok && escaped != "" {
		secrets = append(secrets, escaped)
	}
	return secrets
}
