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

	"github.com/goccy/go-yaml"

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

// file is the YAML file. Every member may be left out.
type file struct {
	Sites map[string]fileSite `yaml:"sites"`
}

// fileSite is one kintone domain.
type fileSite struct {
	BaseURL           string             `yaml:"baseUrl"`
	TokenFile         string             `yaml:"tokenFile"` // API tokens, separated by commas
	Username          string             `yaml:"username"`
	PasswordFile      string             `yaml:"passwordFile"`
	BasicUsername     string             `yaml:"basicUsername"`
	BasicPasswordFile string             `yaml:"basicPasswordFile"`
	GuestSpace        int64              `yaml:"guestSpace"`
	Language          string             `yaml:"language"`          // of the action names, for users that follow the browser; default ja
	RequestsPerSecond float64            `yaml:"requestsPerSecond"` // default 10
	Concurrency       int                `yaml:"concurrency"`       // requests at a time, default 10
	Defaults          fileApp            `yaml:"defaults"`          // for apps that do not say otherwise
	Apps              map[string]fileApp `yaml:"apps"`              // by app id
}

// fileApp is one app.
type fileApp struct {
	TokenFile     string `yaml:"tokenFile"`
	GuestSpace    int64  `yaml:"guestSpace"`
	Call          string `yaml:"call"`          // bulk (default) or single: one call for each record, so that webhooks fire
	Inflight      int    `yaml:"inflight"`      // status calls at a time, default 4
	DailyRequests int    `yaml:"dailyRequests"` // default 10000, -1 = no limit
	Identity      string `yaml:"identity"`      // dedicated (default) or shared: others act under the worker's name too
	Attempts      int    `yaml:"attempts"`      // default 5
	Backoff       string `yaml:"backoff"`       // before the second attempt, default 15s
	LateWindow    string `yaml:"lateWindow"`    // default 1h
}

// site is a site with everything that is needed to serve it.
type site struct {
	name    string
	client  kintone.Config
	gate    kintone.GateConfig
	apps    map[int64]dispatch.AppConfig
	other   dispatch.AppConfig
	signsIn string // for people: how it signs in
}

// Bounds of what a site may be configured to. The gate would silently take the nearest that makes sense.
const (
	mostPerSecond   = 10_000
	mostConcurrency = 80
)

var siteName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// sites puts the configuration together: the file first, and the environment over it.
func (s *settings) sites() ([]site, error) {
	var (
		f    file
		errs []error
	)
	if s.Config != "" {
		raw, err := os.ReadFile(s.Config)
		if err != nil {
			return nil, usageError{fmt.Errorf("configuration: %w", err)}
		}
		if err := yaml.UnmarshalWithOptions(raw, &f, yaml.Strict()); err != nil {
			return nil, usageError{fmt.Errorf("configuration %s:\n%s", s.Config, excerpt(err))}
		}
	}
	if !siteName.MatchString(s.Site) {
		return nil, usageError{fmt.Errorf("--site %q: small letters, digits and hyphens, at most 32", s.Site)}
	}
	env, err := fromEnvironment()
	if err != nil {
		errs = append(errs, err)
	}
	if f.Sites == nil {
		f.Sites = make(map[string]fileSite)
	}
	if _, named := f.Sites[s.Site]; !named && (s.BaseURL != "" || s.Config == "") {
		f.Sites[s.Site] = fileSite{}
	}
	if len(f.Sites) == 0 {
		errs = append(errs, fmt.Errorf("configuration %s: there is no site in it", s.Config))
	}
	dir := filepath.Dir(s.Config)
	var sites []site
	for _, name := range slices.Sorted(maps.Keys(f.Sites)) {
		in := f.Sites[name]
		if !siteName.MatchString(name) {
			errs = append(errs, fmt.Errorf("site %q: a site's name has small letters, digits and hyphens, at most 32", name))
			continue
		}
		over := environment{}
		if name == s.Site {
			over = env
			in.BaseURL = cmp.Or(s.BaseURL, in.BaseURL)
			in.GuestSpace = cmp.Or(s.GuestSpaceID, in.GuestSpace)
		}
		out, err := in.site(name, dir, over)
		if err != nil {
			errs = append(errs, fmt.Errorf("site %s: %w", name, err))
			continue
		}
		sites = append(sites, out)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, usageError{err}
	}
	return sites, nil
}

// excerpt says what is wrong in the file, with the lines around it, unless somebody has written a secret there.
func excerpt(err error) string {
	text := strings.TrimSpace(yaml.FormatError(err, false, true))
	first, _, _ := strings.Cut(text, "\n")
	if secretMember.MatchString(secretFileMember.ReplaceAllString(text, "")) {
		return first + "\n(its lines are not shown, as there may be a secret in them; secrets stand in files of their own: tokenFile, passwordFile)"
	}
	return text
}

var (
	secretMember     = regexp.MustCompile(`(?i)(token|passw|secret)\w*["']?\s*:`)
	secretFileMember = regexp.MustCompile(`(?i)(token|password)file["']?\s*:`)
)

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

// environment is what the KINTONE_ variables say.
type environment struct {
	tokens        []kintone.Secret
	username      string
	password      kintone.Secret
	basicUsername string
	basicPassword kintone.Secret
}

func fromEnvironment() (environment, error) {
	var errs []error
	secret := func(name string) kintone.Secret {
		v, err := secretOf(name)
		if err != nil {
			errs = append(errs, err)
		}
		return v
	}
	e := environment{
		tokens:        tokens(secret("KINTONE_API_TOKEN")),
		username:      os.Getenv("KINTONE_USERNAME"),
		password:      secret("KINTONE_PASSWORD"),
		basicUsername: os.Getenv("KINTONE_BASIC_AUTH_USERNAME"),
		basicPassword: secret("KINTONE_BASIC_AUTH_PASSWORD"),
	}
	if os.Getenv("KINTONE_PFX_FILE_PATH") != "" {
		errs = append(errs, errors.New("KINTONE_PFX_FILE_PATH is set, but this version does not sign in with client certificates"))
	}
	return e, errors.Join(errs...)
}

// secretOf is the value of an environment variable, or of the file that NAME_FILE names.
func secretOf(name string) (kintone.Secret, error) {
	path := os.Getenv(name + "_FILE")
	if path == "" {
		return kintone.Secret(os.Getenv(name)), nil
	}
	if os.Getenv(name) != "" {
		return "", fmt.Errorf("%s and %s_FILE are both set: keep one", name, name)
	}
	s, err := secretFile(path)
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", name, err)
	}
	return s, nil
}

func secretFile(path string) (kintone.Secret, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("there is no file %s", path)
		}
		return "", err
	}
	s := strings.TrimSpace(string(raw))
	if s == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return kintone.Secret(s), nil
}

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

func (in fileSite) site(name, dir string, over environment) (site, error) {
	var (
		errs   []error
		unread bool // a file with a secret
	)
	file := func(what, path string) kintone.Secret {
		if path == "" {
			return ""
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		s, err := secretFile(path)
		if err != nil {
			unread = true
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
		return s
	}
	out := site{name: name, apps: make(map[int64]dispatch.AppConfig)}
	c := kintone.Config{
		BaseURL: in.BaseURL, AcceptLanguage: in.Language, UserAgent: "statusq-worker",
		Tokens:        over.tokens,
		Username:      cmp.Or(over.username, in.Username),
		Password:      over.password,
		BasicUsername: cmp.Or(over.basicUsername, in.BasicUsername),
		BasicPassword: over.basicPassword,
	}
	if c.BaseURL == "" {
		errs = append(errs, errors.New("where is kintone? set KINTONE_BASE_URL, such as https://sample.cybozu.com (to see statusq work without one: worker demo)"))
	}
	if len(c.Tokens) == 0 {
		c.Tokens = tokens(file("tokenFile", in.TokenFile))
	}
	if c.Password == "" {
		c.Password = file("passwordFile", in.PasswordFile)
	}
	if c.BasicPassword == "" {
		c.BasicPassword = file("basicPasswordFile", in.BasicPasswordFile)
	}

	appTokens := false
	for id, a := range in.Apps {
		n, err := strconv.ParseInt(id, 10, 64)
		if err != nil || n < 1 || strconv.FormatInt(n, 10) != id { // 05 would be a second 5
			errs = append(errs, fmt.Errorf("apps: %q is not an app id", id))
			continue
		}
		merged := a.over(in.Defaults)
		cfg, err := merged.app()
		if err != nil {
			errs = append(errs, fmt.Errorf("app %s: %w", id, err))
		}
		cfg.GuestSpace = cmp.Or(merged.GuestSpace, in.GuestSpace)
		cfg.Tokens = tokens(file("app "+id+": tokenFile", merged.TokenFile))
		if err := (kintone.App{ID: n, GuestSpace: cfg.GuestSpace, Tokens: cfg.Tokens}).Validate(); err != nil {
			errs = append(errs, fmt.Errorf("app %s: %w", id, err))
		}
		appTokens = appTokens || len(cfg.Tokens) > 0
		out.apps[n] = cfg
	}
	if in.Defaults.TokenFile != "" {
		errs = append(errs, errors.New("defaults: tokenFile: a token belongs to one app; put it under that app, or under the site for all"))
	}
	other, err := in.Defaults.app()
	if err != nil {
		errs = append(errs, fmt.Errorf("defaults: %w", err))
	}
	other.GuestSpace = cmp.Or(in.Defaults.GuestSpace, in.GuestSpace)
	out.other = other
	if other.GuestSpace < 0 {
		errs = append(errs, errors.New("guest space id is negative"))
	}
	if !(in.RequestsPerSecond >= 0) || in.RequestsPerSecond > mostPerSecond {
		errs = append(errs, fmt.Errorf("requestsPerSecond: a number above 0, at most %d", mostPerSecond))
	}
	if in.Concurrency < 0 || in.Concurrency > mostConcurrency {
		errs = append(errs, fmt.Errorf("concurrency: 1 to %d (kintone admits 100 for the whole domain, and others want some of them)", mostConcurrency))
	}
	out.gate = kintone.GateConfig{RequestsPerSecond: in.RequestsPerSecond, Concurrency: in.Concurrency}

	switch {
	case c.Username != "" && c.Password == "":
		errs = append(errs, errors.New("there is a user name but no password: set KINTONE_PASSWORD or KINTONE_PASSWORD_FILE"))
	case c.Password != "" && c.Username == "":
		errs = append(errs, errors.New("there is a password but no user name: set KINTONE_USERNAME"))
	case c.Username != "" && len(c.Tokens) > 0:
		// As kintone itself and its own tools have it.
		out.signsIn = fmt.Sprintf("as %s by password (the API token is not used: a password wins)", c.Username)
		c.Tokens = nil
	case c.Username != "":
		out.signsIn = fmt.Sprintf("as %s by password", c.Username)
	case len(c.Tokens) > 0:
		out.signsIn = fmt.Sprintf("as Administrator by %d API token(s)", len(c.Tokens))
	case appTokens:
		out.signsIn = "as Administrator by API tokens of the apps"
	case unread:
		// What is missing may be what could not be read.
	default:
		errs = append(errs, errors.New("no way to sign in: set KINTONE_API_TOKEN (or KINTONE_API_TOKEN_FILE), or KINTONE_USERNAME and KINTONE_PASSWORD"))
	}
	out.client = c
	if len(errs) == 0 {
		// The client knows best what is wrong with an address or a token.
		if _, err := kintone.NewClient(c); err != nil {
			errs = append(errs, err)
		}
	}
	return out, errors.Join(errs...)
}

// over gives the app's settings with defaults where it says nothing.
func (a fileApp) over(d fileApp) fileApp {
	return fileApp{
		TokenFile: a.TokenFile, GuestSpace: cmp.Or(a.GuestSpace, d.GuestSpace), Call: cmp.Or(a.Call, d.Call),
		Inflight: cmp.Or(a.Inflight, d.Inflight), DailyRequests: cmp.Or(a.DailyRequests, d.DailyRequests),
		Identity: cmp.Or(a.Identity, d.Identity), Attempts: cmp.Or(a.Attempts, d.Attempts),
		Backoff: cmp.Or(a.Backoff, d.Backoff), LateWindow: cmp.Or(a.LateWindow, d.LateWindow),
	}
}

func (a fileApp) app() (dispatch.AppConfig, error) {
	var errs []error
	duration := func(what, s string) time.Duration {
		if s == "" {
			return 0
		}
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			errs = append(errs, fmt.Errorf("%s: %q is not a time such as 15s or 1h", what, s))
		}
		return d
	}
	cfg := dispatch.AppConfig{
		Inflight: a.Inflight, DailyRequests: a.DailyRequests, Attempts: a.Attempts,
		Backoff: duration("backoff", a.Backoff), LateWindow: duration("lateWindow", a.LateWindow),
	}
	switch a.Call {
	case "", "bulk":
	case "single":
		cfg.Single = true
	default:
		errs = append(errs, fmt.Errorf("call: %q is neither bulk nor single", a.Call))
	}
	switch a.Identity {
	case "", "dedicated":
	case "shared":
		cfg.Shared = true
	default:
		errs = append(errs, fmt.Errorf("identity: %q is neither dedicated nor shared", a.Identity))
	}
	if a.Inflight < 0 || a.Inflight > queue.Slots-1 {
		errs = append(errs, fmt.Errorf("inflight: 1 to %d", queue.Slots-1))
	}
	if a.Attempts < 0 {
		errs = append(errs, errors.New("attempts: at least 1"))
	}
	if a.DailyRequests < -1 {
		errs = append(errs, errors.New("dailyRequests: a number, or -1 for no limit"))
	}
	return cfg, errors.Join(errs...)
}
