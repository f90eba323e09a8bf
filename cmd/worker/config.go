package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"statusq/internal/dispatch"
	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// settings are the flags that have to do with where things are. Each has its environment variable; secrets have only
// that.
type settings struct {
	Config       string `placeholder:"FILE" env:"STATUSQ_CONFIG" help:"YAML file with sites and apps."`
	BaseURL      string `placeholder:"URL" env:"KINTONE_BASE_URL" help:"kintone, such as https://sample.cybozu.com. With this alone there is one site."`
	GuestSpaceID int64  `name:"guest-space-id" placeholder:"ID" env:"KINTONE_GUEST_SPACE_ID" help:"Guest space that the site's apps are in."`
	Site         string `default:"main" placeholder:"NAME" env:"STATUSQ_SITE" help:"Site that the KINTONE_ variables are for (${default})."`

	NATSURL    string `name:"nats-url" placeholder:"URL" env:"STATUSQ_NATS_URL" help:"NATS with JetStream. Without it a server is embedded."`
	NATSCreds  string `name:"nats-creds" placeholder:"FILE" env:"STATUSQ_NATS_CREDS" help:"Credentials file for NATS."`
	NATSListen string `name:"nats-listen" default:"127.0.0.1:4222" placeholder:"ADDR" env:"STATUSQ_NATS_LISTEN" help:"Where the embedded server listens; loopback only (${default})."`
	StoreDir   string `default:"${store}" placeholder:"DIR" env:"STATUSQ_STORE_DIR" help:"Where the embedded server keeps its data (${default})."`
	Sync       string `default:"always" enum:"always,interval,never" env:"STATUSQ_SYNC" help:"When the embedded server's writes reach the disk: always, interval (a second) or never."`
	Prefix     string `default:"statusq" placeholder:"NAME" env:"STATUSQ_PREFIX" help:"Prefix of the queue's names in NATS (${default})."`
}

// sizing are the flags that say how the queue is set up in NATS.
type sizing struct {
	Replicas int   `placeholder:"N" env:"STATUSQ_REPLICAS" help:"Replicas of streams and buckets; 3 on a cluster (what is created has 1)."`
	LogBytes int64 `name:"log-bytes" placeholder:"N" env:"STATUSQ_LOG_BYTES" help:"Size of the log (one that is created has 10 GiB)."`
}

// leastLog is how small a log may be, in bytes.
const leastLog = 64 << 10

func (s *sizing) layout() (queue.Layout, error) {
	switch {
	case s.Replicas < 0 || s.Replicas > queue.MaxReplicas:
		return queue.Layout{}, usageError{fmt.Errorf("--replicas: 1 to %d", queue.MaxReplicas)}
	case s.LogBytes != 0 && s.LogBytes < leastLog:
		return queue.Layout{}, usageError{fmt.Errorf("--log-bytes: at least %d, or 0 for the default of 10 GiB", leastLog)}
	}
	return queue.Layout{Replicas: s.Replicas, LogBytes: s.LogBytes}, nil
}

// file is the YAML file. Every member may be left out. The tags doc are its reference: messages quote them, and so do the
// documents.
type file struct {
	Sites map[string]fileSite `yaml:"sites" doc:"kintone domains by a name of your own: small letters, digits, hyphens"`
}

// fileSite is one kintone domain.
type fileSite struct {
	BaseURL           string             `yaml:"baseUrl" doc:"where it is, such as https://sample.cybozu.com"`
	AllowHost         bool               `yaml:"allowHost" doc:"true: baseUrl may have a host that is none of kintone's"`
	TokenFile         string             `yaml:"tokenFile" doc:"file with API tokens, separated by commas, at most 9, for apps without tokens of their own"`
	Username          string             `yaml:"username" doc:"login name; with a password it is used instead of tokens"`
	PasswordFile      string             `yaml:"passwordFile" doc:"file with the user's password"`
	BasicUsername     string             `yaml:"basicUsername" doc:"user of the basic authentication before the site"`
	BasicPasswordFile string             `yaml:"basicPasswordFile" doc:"file with its password"`
	PFXFile           string             `yaml:"pfxFile" doc:"client certificate with its key (PKCS #12), for hosts such as sample.s.cybozu.com"`
	PFXPasswordFile   string             `yaml:"pfxPasswordFile" doc:"file with the password of pfxFile"`
	Proxy             string             `yaml:"proxy" doc:"proxy to go by, such as http://gate.example.com:8080; default HTTPS_PROXY of the environment"`
	ProxyFile         string             `yaml:"proxyFile" doc:"file with the proxy's URL, when there is a password in it"`
	GuestSpace        int64              `yaml:"guestSpace" doc:"guest space that the apps are in"`
	Language          string             `yaml:"language" doc:"language of the action names, for users whose language follows the browser: ja (default), en or zh"`
	RequestsPerSecond float64            `yaml:"requestsPerSecond" doc:"requests per second to the whole site; default 10"`
	Concurrency       int                `yaml:"concurrency" doc:"requests at a time to the whole site, 1 to 80; default 10"`
	Defaults          fileApp            `yaml:"defaults" doc:"for apps that do not say otherwise"`
	Apps              map[string]fileApp `yaml:"apps" doc:"settings of apps, by app id"`
}

// fileApp is one app.
type fileApp struct {
	TokenFile     string `yaml:"tokenFile" doc:"file with API tokens of this app, separated by commas, at most 9"`
	GuestSpace    int64  `yaml:"guestSpace" doc:"guest space that the app is in"`
	Call          string `yaml:"call" doc:"bulk (default), or single: one call for each record, so that webhooks fire"`
	Inflight      int    `yaml:"inflight" doc:"status calls at a time, 1 to 15; default 4"`
	DailyRequests int    `yaml:"dailyRequests" doc:"requests a day, or -1 for no limit; default 10000"`
	WhenSpent     string `yaml:"whenSpent" doc:"when the day's requests are spent: halt (default), warn or off"`
	Identity      string `yaml:"identity" doc:"dedicated (default), or shared: others act under the worker's name too"`
	Attempts      int    `yaml:"attempts" doc:"of a job whose reason may pass; default 5"`
	Backoff       string `yaml:"backoff" doc:"wait before the second attempt, doubling; default 15s"`
	LateWindow    string `yaml:"lateWindow" doc:"how long after an unclear answer a copy of the request may still arrive; default 1h"`
}

// site is a site with everything that is needed to serve it.
type site struct {
	name    string
	client  kintone.Config
	gate    kintone.GateConfig
	apps    map[int64]dispatch.AppConfig
	other   dispatch.AppConfig
	signsIn string // for people: how it signs in, and what is not used for it
}

// Bounds of what a site may be configured to. The gate would silently take the nearest that makes sense.
const (
	mostPerSecond   = 10_000
	mostConcurrency = 80
)

var siteName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// sites puts the configuration together: the file first, and the environment over it. The error tells everything that is
// wrong at once.
func (s *settings) sites() ([]site, error) {
	var f file
	d := new(document)
	if s.Config != "" {
		raw, err := os.ReadFile(s.Config)
		if err != nil {
			return nil, usageError{fmt.Errorf("configuration: %w", err)}
		}
		d = readDocument(raw, &f)
	}
	if !siteName.MatchString(s.Site) {
		return nil, usageError{fmt.Errorf("--site %q: small letters, digits and hyphens, at most 32", s.Site)}
	}
	env, err := fromEnvironment()
	if err != nil {
		d.fail("", err.Error())
	}
	if f.Sites == nil {
		f.Sites = make(map[string]fileSite)
	}
	if _, named := f.Sites[s.Site]; !named && (s.BaseURL != "" || s.Config == "") {
		f.Sites[s.Site] = fileSite{}
	}
	if len(f.Sites) == 0 && !d.spoilt {
		d.fail("", fmt.Sprintf("configuration %s: there is no site in it", s.Config))
	}
	var sites []site
	for _, name := range slices.Sorted(maps.Keys(f.Sites)) {
		r := siteReader{d: d, name: name, path: "sites/" + name, dir: filepath.Dir(s.Config), file: f.Sites[name]}
		if !siteName.MatchString(name) {
			d.failKey(r.path, fmt.Sprintf("site %q: a site's name has small letters, digits and hyphens, at most 32", name))
			continue
		}
		if name == s.Site {
			r.named, r.env, r.baseURL, r.guestSpace = true, env, s.BaseURL, s.GuestSpaceID
		}
		sites = append(sites, r.read())
	}
	if wrong := d.explain(s.Config); wrong != "" {
		return nil, usageError{errors.New(wrong)}
	}
	return sites, nil
}

// remote is how the NATS server of --nats-url is reached.
func (s *settings) remote() (queue.Config, error) {
	for u := range strings.SplitSeq(s.NATSURL, ",") {
		if !strings.Contains(u, "://") {
			u = "nats://" + strings.TrimSpace(u) // as the client reads it
		}
		// A URL may hold a password, and the error of a URL holds the URL.
		if _, err := url.Parse(strings.TrimSpace(u)); err != nil {
			return queue.Config{}, usageError{errors.New("--nats-url is not a URL")}
		}
	}
	return queue.Config{URL: s.NATSURL, CredsFile: s.NATSCreds}, nil
}

// keeper is where a secret is kept. It is read when the worker starts and whenever it may have changed.
type keeper struct {
	what  string         // for people, such as tokenFile or KINTONE_API_TOKEN
	at    string         // path in the configuration file; "" for the environment
	value kintone.Secret // from the environment itself
	file  string         // or in this file
	raw   bool           // the file is not text
}

func (k keeper) isSet() bool { return k.value != "" || k.file != "" }

func (k keeper) read() (kintone.Secret, error) {
	if k.file == "" {
		return k.value, nil
	}
	raw, err := os.ReadFile(k.file)
	switch {
	case err != nil && likeSecret(k.file):
		return "", errSecretItself
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("there is no file %s", k.file)
	case err != nil:
		return "", err
	case k.raw:
		return kintone.Secret(raw), nil
	}
	s := strings.TrimSpace(string(raw))
	if s == "" {
		return "", fmt.Errorf("%s is empty", k.file)
	}
	return kintone.Secret(s), nil
}

// likeSecret reports whether the name of a file looks as if somebody had written the secret where its file belongs.
func likeSecret(file string) bool {
	name := filepath.Base(file)
	return len(name) >= 16 && !strings.ContainsAny(name, "._- ") || len(name) > 200
}

// errSecretItself does not quote what may be a secret.
var errSecretItself = errors.New("there is no such file, and its name looks as if it were the secret itself: put that into a file, and name the file here")

// tokens takes a list with commas apart, as kintone's own tools take it.
func tokens(s kintone.Secret) []kintone.Secret {
	var out []kintone.Secret
	for t := range strings.SplitSeq(s.Reveal(), ",") {
		if t = strings.TrimSpace(t); t != "" {
			out = append(out, kintone.Secret(t))
		}
	}
	return out
}

// environment is what the KINTONE_ variables say.
type environment struct {
	tokens, password, basicPassword, pfx, pfxPassword keeper
	username, basicUsername                           string
}

func fromEnvironment() (environment, error) {
	var errs []error
	secret := func(name string) keeper {
		value, path := os.Getenv(name), os.Getenv(name+"_FILE")
		switch {
		case value != "" && path != "":
			errs = append(errs, fmt.Errorf("%s and %[1]s_FILE are both set: keep one", name))
			return keeper{what: name, value: kintone.Secret(value)}
		case path != "":
			return keeper{what: name + "_FILE", file: path}
		}
		return keeper{what: name, value: kintone.Secret(value)}
	}
	e := environment{
		tokens:        secret("KINTONE_API_TOKEN"),
		username:      os.Getenv("KINTONE_USERNAME"),
		password:      secret("KINTONE_PASSWORD"),
		basicUsername: os.Getenv("KINTONE_BASIC_AUTH_USERNAME"),
		basicPassword: secret("KINTONE_BASIC_AUTH_PASSWORD"),
		pfx:           keeper{what: "KINTONE_PFX_FILE_PATH", file: os.Getenv("KINTONE_PFX_FILE_PATH"), raw: true},
		pfxPassword:   secret("KINTONE_PFX_FILE_PASSWORD"),
	}
	return e, errors.Join(errs...)
}

// signIn is how a site signs in: names, and where the secrets are kept.
type signIn struct {
	tokens        keeper
	appTokens     map[int64]keeper
	username      string
	password      keeper
	basicUsername string
	basicPassword keeper
	pfx           keeper
	pfxPassword   keeper
}

// credentials reads the secrets. What is wrong with one is told to fail.
func (s signIn) credentials(fail func(keeper, error)) kintone.Credentials {
	c := kintone.Credentials{Username: s.username, BasicUsername: s.basicUsername}
	read := func(k keeper) kintone.Secret {
		v, err := k.read()
		if err != nil {
			fail(k, err)
		}
		return v
	}
	list := func(k keeper) []kintone.Secret {
		v, err := k.read()
		list := tokens(v)
		if err == nil && len(list) == 0 {
			err = errors.New("there is no token in it")
		}
		if err = cmp.Or(err, kintone.Credentials{Tokens: list}.Validate()); err != nil {
			fail(k, err)
		}
		return list
	}
	if s.tokens.isSet() {
		c.Tokens = list(s.tokens)
	}
	for app, k := range s.appTokens {
		if c.AppTokens == nil {
			c.AppTokens = make(map[int64][]kintone.Secret)
		}
		c.AppTokens[app] = list(k)
	}
	c.Password, c.BasicPassword = read(s.password), read(s.basicPassword)
	c.Certificate, c.CertificatePassword = read(s.pfx), read(s.pfxPassword)
	if c.Certificate != "" && (c.CertificatePassword != "" || !s.pfxPassword.isSet()) {
		if _, err := kintone.CertificateUntil(c.Certificate, c.CertificatePassword); err != nil {
			fail(s.pfx, err)
		}
	}
	return c
}

// renew reads the secrets once more.
func (s signIn) renew() (kintone.Credentials, error) {
	var errs []error
	c := s.credentials(func(k keeper, err error) { errs = append(errs, fmt.Errorf("%s: %w", k.what, err)) })
	return c, errors.Join(errs...)
}

// siteReader makes a site of what the file and the environment say of it.
type siteReader struct {
	d          *document
	name, path string // of the site; the path is that in the file
	dir        string // that file names are relative to
	file       fileSite
	named      bool // by --site: what the environment and flags say is for it
	env        environment
	baseURL    string // by flag or environment
	guestSpace int64

	unused []string // what is given and not used, and why
}

// fail notes a mistake in a field of the site; "" is the site as a whole.
func (r *siteReader) fail(field, text string) {
	r.d.fail(strings.TrimSuffix(r.path+"/"+field, "/"), "site "+r.name+": "+text)
}

// set says what to set, in the environment where that is for this site, or else in the file.
func (r *siteReader) set(variable, field string) string {
	if r.named {
		return "set " + variable + ", or " + field
	}
	return "set " + field
}

// kept is the place of a secret that a field names the file of.
func (r *siteReader) kept(field, file string) keeper {
	k := keeper{what: strings.ReplaceAll(strings.TrimPrefix(field, "apps/"), "/", ": "), at: r.path + "/" + field, file: file}
	if strings.HasPrefix(field, "apps/") {
		k.what = "app " + k.what
	}
	if file != "" && !filepath.IsAbs(file) {
		k.file = filepath.Join(r.dir, file)
	}
	return k
}

// first is the environment's if that has it, and notes what is not used then.
func (r *siteReader) first(env, file keeper) keeper {
	if !env.isSet() {
		return file
	}
	if file.isSet() {
		r.unused = append(r.unused, fmt.Sprintf("%s (%s comes first)", file.what, env.what))
	}
	return env
}

func (r *siteReader) read() site {
	in := r.file
	out := site{name: r.name, apps: make(map[int64]dispatch.AppConfig)}
	login := signIn{appTokens: make(map[int64]keeper)}
	r.readApps(&out, login.appTokens)

	switch {
	case !(in.RequestsPerSecond >= 0), in.RequestsPerSecond > mostPerSecond, r.zero("requestsPerSecond", in.RequestsPerSecond == 0):
		r.fail("requestsPerSecond", fmt.Sprintf("requestsPerSecond: a number above 0, at most %d", mostPerSecond))
	}
	if in.Concurrency < 0 || in.Concurrency > mostConcurrency || r.zero("concurrency", in.Concurrency == 0) {
		r.fail("concurrency", fmt.Sprintf("concurrency: 1 to %d (kintone admits 100 for the whole domain, and others want some of them)", mostConcurrency))
	}
	out.gate = kintone.GateConfig{RequestsPerSecond: in.RequestsPerSecond, Concurrency: in.Concurrency}

	r.readLogin(&login)
	out.client = kintone.Config{
		BaseURL: cmp.Or(r.baseURL, in.BaseURL), AllowHost: in.AllowHost, AcceptLanguage: in.Language, UserAgent: "statusq-worker",
		Credentials: login.credentials(func(k keeper, err error) {
			text := fmt.Sprintf("site %s: %s: %v", r.name, k.what, err)
			if errors.Is(err, errSecretItself) {
				r.d.failBlind(k.at, text)
			} else {
				r.d.fail(k.at, text)
			}
		}),
		Renew: login.renew,
		Proxy: r.proxy(),
	}
	r.checkURL(login.pfx.isSet())
	if len(r.d.mistakes) > 0 {
		return out
	}
	// The client knows best what else is wrong.
	client, err := kintone.NewClient(out.client)
	if err != nil {
		r.fail("", err.Error())
		return out
	}
	out.signsIn = r.describe(login, out.client.Credentials, client.Proxy())
	return out
}

// zero reports whether a number that must not be 0 is said to be; one that is not mentioned has its default.
func (r *siteReader) zero(field string, zero bool) bool { return zero && r.d.has(r.path+"/"+field) }

// readApps reads what the file says of the apps, and where they keep tokens of their own.
func (r *siteReader) readApps(out *site, kept map[int64]keeper) {
	in := r.file
	space := cmp.Or(r.guestSpace, in.GuestSpace)
	switch {
	case r.guestSpace < 0:
		r.d.fail("", "site "+r.name+": guest space id is negative")
	case in.GuestSpace < 0:
		r.fail("guestSpace", "guest space id is negative")
	}
	for _, id := range slices.Sorted(maps.Keys(in.Apps)) {
		a, field := in.Apps[id], "apps/"+id
		n, err := strconv.ParseInt(id, 10, 64)
		if err != nil || n < 1 || strconv.FormatInt(n, 10) != id { // 05 would be a second 5
			r.d.failKey(r.path+"/"+field, fmt.Sprintf("site %s: apps: %q is not an app id", r.name, id))
			continue
		}
		r.checkApp(field, "app "+id, a)
		cfg := a.over(in.Defaults).config()
		cfg.GuestSpace = cmp.Or(cfg.GuestSpace, space)
		if a.TokenFile != "" {
			kept[n] = r.kept(field+"/tokenFile", a.TokenFile)
		}
		out.apps[n] = cfg
	}
	r.checkApp("defaults", "defaults", in.Defaults)
	if in.Defaults.TokenFile != "" {
		r.fail("defaults/tokenFile", "defaults: tokenFile: a token belongs to one app; put it under that app, or under the site for all")
	}
	out.other = in.Defaults.config()
	out.other.GuestSpace = cmp.Or(out.other.GuestSpace, space)
}

// checkApp notes what is wrong with what the file says of an app.
func (r *siteReader) checkApp(path, name string, a fileApp) {
	wrong := func(is bool, field, text string) {
		if is {
			r.fail(path+"/"+field, name+": "+text)
		}
	}
	oneOf := func(field, value string, known ...string) {
		wrong(value != "" && !slices.Contains(known, value), field,
			fmt.Sprintf("%s: %q is none of %s", field, value, strings.Join(known, ", ")))
	}
	span := func(field, value string) {
		d, err := time.ParseDuration(value)
		wrong(value != "" && (err != nil || d <= 0), field, fmt.Sprintf("%s: %q is not a time such as 15s or 1h", field, value))
	}
	zero := func(field string, n int) bool { return r.zero(path+"/"+field, n == 0) }
	wrong(a.GuestSpace < 0, "guestSpace", "guest space id is negative")
	oneOf("call", a.Call, "bulk", "single")
	oneOf("identity", a.Identity, "dedicated", "shared")
	oneOf("whenSpent", a.WhenSpent, "halt", "warn", "off")
	wrong(a.Inflight < 0 || a.Inflight > queue.Slots-1 || zero("inflight", a.Inflight), "inflight", fmt.Sprintf("inflight: 1 to %d", queue.Slots-1))
	wrong(a.Attempts < 0 || zero("attempts", a.Attempts), "attempts", "attempts: at least 1")
	wrong(a.DailyRequests < -1 || zero("dailyRequests", a.DailyRequests), "dailyRequests", "dailyRequests: a number, or -1 for no limit")
	span("backoff", a.Backoff)
	span("lateWindow", a.LateWindow)
}

// readLogin says where the secrets are: a password before tokens, as kintone itself has it, and the environment before the
// file. What is not used then is not read either.
func (r *siteReader) readLogin(login *signIn) {
	in, env := r.file, r.env
	login.username = cmp.Or(env.username, in.Username)
	login.password = r.first(env.password, r.kept("passwordFile", in.PasswordFile))
	login.basicUsername = cmp.Or(env.basicUsername, in.BasicUsername)
	login.basicPassword = r.first(env.basicPassword, r.kept("basicPasswordFile", in.BasicPasswordFile))
	pfx := r.kept("pfxFile", in.PFXFile)
	pfx.raw = true
	login.pfx = r.first(env.pfx, pfx)
	login.pfxPassword = r.first(env.pfxPassword, r.kept("pfxPasswordFile", in.PFXPasswordFile))
	login.tokens = r.first(env.tokens, r.kept("tokenFile", in.TokenFile))

	if !login.pfx.isSet() && login.pfxPassword.isSet() {
		if login.pfxPassword.at != "" {
			r.fail("pfxPasswordFile", "pfxPasswordFile: the password of a certificate without the certificate: set pfxFile")
		} else {
			r.unused = append(r.unused, login.pfxPassword.what+" (there is no certificate)")
		}
		login.pfxPassword = keeper{}
	}
	switch {
	case login.basicUsername == "" && login.basicPassword.isSet():
		r.d.fail(login.basicPassword.at, "site "+r.name+": basic authentication: password without a username: "+r.set("KINTONE_BASIC_AUTH_USERNAME", "basicUsername"))
	case login.basicUsername != "" && !login.basicPassword.isSet():
		r.fail("basicUsername", "basic authentication: username without a password: "+r.set("KINTONE_BASIC_AUTH_PASSWORD", "basicPasswordFile"))
	case strings.Contains(login.basicUsername, ":"):
		r.fail("basicUsername", "basic authentication: username has a colon in it")
	}
	switch {
	case login.username != "" && !login.password.isSet():
		r.fail("username", "there is a user name but no password: "+r.set("KINTONE_PASSWORD or KINTONE_PASSWORD_FILE", "passwordFile"))
	case strings.Contains(login.username, ":"):
		r.fail("username", "username has a colon in it")
	case login.username != "":
		if login.tokens.isSet() {
			r.unused = append(r.unused, "the API token (a password wins)")
		}
		if len(login.appTokens) > 0 {
			r.unused = append(r.unused, "the tokens of the apps (a password wins)")
		}
		login.tokens, login.appTokens = keeper{}, nil
	case login.password.isSet():
		r.d.fail(login.password.at, "site "+r.name+": there is a password but no user name: "+r.set("KINTONE_USERNAME", "username"))
	case !login.tokens.isSet() && len(login.appTokens) == 0 && !r.d.spoilt:
		r.fail("", "no way to sign in: "+r.set("KINTONE_API_TOKEN (or KINTONE_API_TOKEN_FILE) or KINTONE_USERNAME and KINTONE_PASSWORD", "tokenFile or username and passwordFile"))
	}
}

func (r *siteReader) proxy() kintone.Secret {
	in := r.file
	switch {
	case in.Proxy != "" && in.ProxyFile != "":
		r.fail("proxyFile", "proxy and proxyFile are both set: keep one")
	case in.Proxy != "":
		if strings.Contains(in.Proxy, "@") {
			r.d.failBlind(r.path+"/proxy", "site "+r.name+": proxy: a URL with a user in it stands in a file of its own: name that in proxyFile")
		} else if err := kintone.CheckProxy(kintone.Secret(in.Proxy)); err != nil {
			r.fail("proxy", err.Error())
		}
		return kintone.Secret(in.Proxy)
	case in.ProxyFile != "":
		s, err := r.kept("proxyFile", in.ProxyFile).read()
		if err = cmp.Or(err, kintone.CheckProxy(s)); err != nil {
			r.fail("proxyFile", "proxyFile: "+err.Error())
		}
		return s
	}
	return ""
}

// checkURL checks where the site is, and that its host goes with a client certificate if there is one.
func (r *siteReader) checkURL(certificate bool) {
	at, base := r.path+"/baseUrl", r.file.BaseURL
	if r.baseURL != "" {
		at, base = "", r.baseURL
	}
	if base == "" {
		if !r.d.spoilt {
			r.fail("", "where is kintone? "+r.set("KINTONE_BASE_URL", "baseUrl")+", such as https://sample.cybozu.com (to see statusq work without one: worker demo)")
		}
	} else if err := kintone.CheckURL(base, r.file.AllowHost, certificate); err != nil {
		r.d.fail(at, "site "+r.name+": "+err.Error())
	}
	if language := r.file.Language; language != "" && !slices.Contains(languages, language) {
		r.fail("language", fmt.Sprintf("language: %q is none of %s", language, strings.Join(languages, ", ")))
	}
}

// languages are those in which kintone's API has names of actions (docs/kintone.md 3). It would take another one without
// a word, and go on in some language or other.
var languages = []string{"ja", "en", "zh"}

// describe says how a site signs in, and what is given and not used.
func (r *siteReader) describe(login signIn, c kintone.Credentials, proxy string) string {
	var ways []string
	if c.Username != "" {
		ways = append(ways, fmt.Sprintf("as %s by password", c.Username))
	} else if n := len(c.Tokens); n > 0 {
		ways = append(ways, fmt.Sprintf("as %s by %d API token(s)", c.Identity(), n))
	} else {
		ways = append(ways, "as "+c.Identity()+" by API tokens of the apps")
	}
	if len(c.Tokens) > 0 && len(c.AppTokens) > 0 {
		ids := fmt.Sprint(slices.Sorted(maps.Keys(c.AppTokens)))
		ways = append(ways, "for apps "+strings.Trim(strings.ReplaceAll(ids, " ", ", "), "[]")+" by their own")
	}
	if login.pfx.isSet() {
		if until, err := kintone.CertificateUntil(c.Certificate, c.CertificatePassword); err == nil {
			end := "ends"
			if until.Before(time.Now()) {
				end = "HAS ENDED"
			}
			ways = append(ways, fmt.Sprintf("with a client certificate that %s on %s", end, until.UTC().Format(time.DateOnly)))
		}
	}
	if c.BasicUsername != "" {
		ways = append(ways, "past basic authentication as "+c.BasicUsername)
	}
	if proxy != "" {
		ways = append(ways, "by the proxy "+proxy)
	}
	out := strings.Join(ways, ", ")
	if len(r.unused) > 0 {
		out += "; not used: " + strings.Join(r.unused, ", ")
	}
	return out
}

// over gives the app's settings with defaults where it says nothing.
func (a fileApp) over(d fileApp) fileApp {
	return fileApp{
		TokenFile: a.TokenFile, GuestSpace: cmp.Or(a.GuestSpace, d.GuestSpace), Call: cmp.Or(a.Call, d.Call),
		Inflight: cmp.Or(a.Inflight, d.Inflight), DailyRequests: cmp.Or(a.DailyRequests, d.DailyRequests),
		WhenSpent: cmp.Or(a.WhenSpent, d.WhenSpent), Identity: cmp.Or(a.Identity, d.Identity),
		Attempts: cmp.Or(a.Attempts, d.Attempts), Backoff: cmp.Or(a.Backoff, d.Backoff), LateWindow: cmp.Or(a.LateWindow, d.LateWindow),
	}
}

// config is what the lane is told. What cannot be has been noted before.
func (a fileApp) config() dispatch.AppConfig {
	backoff, _ := time.ParseDuration(a.Backoff)
	late, _ := time.ParseDuration(a.LateWindow)
	return dispatch.AppConfig{
		GuestSpace: a.GuestSpace, Single: a.Call == "single", Inflight: a.Inflight,
		DailyRequests: a.DailyRequests, WhenSpent: kintone.WhenSpent(a.WhenSpent),
		Shared: a.Identity == "shared", Attempts: a.Attempts, Backoff: backoff, LateWindow: late,
	}
}
