package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"statusq/internal/kintone"
)

// variables are all that the configuration looks at.
var variables = []string{
	"KINTONE_BASE_URL", "KINTONE_GUEST_SPACE_ID", "KINTONE_USERNAME", "KINTONE_BASIC_AUTH_USERNAME",
	"KINTONE_API_TOKEN", "KINTONE_API_TOKEN_FILE", "KINTONE_PASSWORD", "KINTONE_PASSWORD_FILE",
	"KINTONE_BASIC_AUTH_PASSWORD", "KINTONE_BASIC_AUTH_PASSWORD_FILE", "KINTONE_PFX_FILE_PATH", "KINTONE_PFX_FILE_PASSWORD",
	"STATUSQ_CONFIG", "STATUSQ_SITE", "STATUSQ_NATS_URL", "STATUSQ_NATS_CREDS", "STATUSQ_NATS_LISTEN", "STATUSQ_STORE_DIR",
	"STATUSQ_SYNC", "STATUSQ_PREFIX", "STATUSQ_LOG_FORMAT", "STATUSQ_LOG_LEVEL", "STATUSQ_DRAIN", "STATUSQ_REPLICAS", "STATUSQ_LOG_BYTES",
}

// environ gives the test an environment of which the configuration sees nothing but pairs.
func environ(t *testing.T, pairs ...string) {
	t.Helper()
	for _, name := range variables {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	for _, p := range pairs {
		name, value, _ := strings.Cut(p, "=")
		t.Setenv(name, value)
	}
}

// configured reads flags, environment and file as the worker does.
func configured(t *testing.T, args ...string) ([]site, *runCmd, error) {
	t.Helper()
	var c cli
	parser, err := kong.New(&c, kong.Name("worker"), kong.Writers(io.Discard, io.Discard), kong.Vars{"store": "data"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(args); err != nil {
		t.Fatalf("parse %q: %v", args, err)
	}
	sites, err := c.Run.sites()
	return sites, &c.Run, err
}

// write writes a file of a directory that the test owns.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMistakesInTheFileAreNamed(t *testing.T) {
	const good = "sites:\n  main:\n    baseUrl: https://sample.cybozu.com\n    tokenFile: token\n"
	for name, c := range map[string]struct {
		file string
		want []string // each in the error; one with a ! before it must not be
	}{
		"a typo in a site":           {good + "    gestSpace: 3\n", []string{`[5:5] unknown field "gestSpace"`, ">  5 |     gestSpace: 3"}},
		"a typo in a token file":     {"sites:\n  main:\n    tokenfile: token\n", []string{`[3:5] unknown field "tokenfile"`, ">  3 |     tokenfile: token"}},
		"a typo in an app":           {good + "    apps:\n      5:\n        inflght: 3\n", []string{`[7:9] unknown field "inflght"`, ">  7 |"}},
		"a typo at the top":          {"site:\n  main: {}\n", []string{`[1:1] unknown field "site"`}},
		"wrong case":                 {good + "    guestspace: 3\n", []string{`[5:5] unknown field "guestspace"`}},
		"a word for a number":        {good + "    apps:\n      5: {inflight: many}\n", []string{"[6:21]", "of type int", "^"}},
		"a list for a word":          {good + "    apps:\n      5:\n        call: [bulk]\n", []string{"[7:15]", "of type string"}},
		"a list for the sites":       {"sites: [main]\n", []string{"[1:8]", "mapping"}},
		"a number that is too large": {good + "    concurrency: 99999999999999999999\n", []string{"[5:18]", "overflow"}},
		"a site twice":               {good + "  main:\n    guestSpace: 1\n", []string{"[5:3]", "already defined at [2:3]"}},
		"not YAML":                   {"sites:\n\tmain: x\n", []string{"[2:1]", "cannot start any token"}},
		"a bracket left open":        {"sites:\n  main:\n    baseUrl: [x\n", []string{"[3:14]"}},
		"nothing in it":              {"", []string{"there is no site in it"}},
		"no site in it":              {"sites: {}\n", []string{"there is no site in it"}},

		"a secret where none belongs": {"sites:\n  main:\n    token: geheim\n", []string{`[3:5] unknown field "token"`, "tokenFile", "!geheim"}},
		"a secret over two lines":     {"sites:\n  main:\n    password: \"x\n      geheim\"\n", []string{`[3:5] unknown field "password"`, "!geheim"}},
		"a secret near a mistake":     {"sites:\n  main:\n    basicPassword: geheim\n    apps: many\n", []string{"[4:11]", "!geheim"}},

		"a site's name":             {"sites:\n  Main Site: {}\n", []string{`site "Main Site": a site's name has small letters`}},
		"a word for an app":         {good + "    apps: {orders: {}}\n", []string{`apps: "orders" is not an app id`}},
		"app 0":                     {good + "    apps: {0: {}}\n", []string{`apps: "0" is not an app id`}},
		"an app below 0":            {good + "    apps: {-5: {}}\n", []string{`apps: "-5" is not an app id`}},
		"an app twice, differently": {good + "    apps: {\"5\": {}, \"05\": {}}\n", []string{`apps: "05" is not an app id`}},
		"a call":                    {good + "    apps: {5: {call: batch}}\n", []string{`app 5: call: "batch" is neither bulk nor single`}},
		"an identity":               {good + "    apps: {5: {identity: mine}}\n", []string{`app 5: identity: "mine" is neither dedicated nor shared`}},
		"a time without a unit":     {good + "    apps: {5: {backoff: 15}}\n", []string{`app 5: backoff: "15" is not a time such as 15s`}},
		"a time below 0":            {good + "    apps: {5: {lateWindow: -1h}}\n", []string{`app 5: lateWindow: "-1h" is not a time`}},
		"too much in flight":        {good + "    apps: {5: {inflight: 16}}\n", []string{"app 5: inflight: 1 to 15"}},
		"attempts below 0":          {good + "    apps: {5: {attempts: -1}}\n", []string{"app 5: attempts: at least 1"}},
		"a budget below -1":         {good + "    apps: {5: {dailyRequests: -2}}\n", []string{"app 5: dailyRequests: a number, or -1"}},
		"a guest space below 0":     {good + "    apps: {5: {guestSpace: -1}}\n", []string{"app 5: guest space id is negative"}},
		"a mistake in the defaults": {good + "    defaults: {call: batch}\n", []string{`defaults: call: "batch"`}},
		"a token for all apps":      {good + "    defaults: {tokenFile: token}\n", []string{"defaults: tokenFile: a token belongs to one app"}},
		"a rate below 0":            {good + "    requestsPerSecond: -1\n", []string{"requestsPerSecond"}},
		"a rate that is no number":  {good + "    requestsPerSecond: .nan\n", []string{"requestsPerSecond"}},
		"too many at a time":        {good + "    concurrency: 100\n", []string{"concurrency: 1 to 80"}},
		"everything at once": {good + "    apps: {5: {call: batch, identity: mine}, x: {}}\n    concurrency: -1\n",
			[]string{`call: "batch"`, `identity: "mine"`, `apps: "x"`, "concurrency"}},

		"http to another machine": {"sites: {main: {baseUrl: http://sample.cybozu.com, tokenFile: token}}\n", []string{"site main: base URL is http, which is for loopback hosts only"}},
		"no scheme":               {"sites: {main: {baseUrl: sample.cybozu.com, tokenFile: token}}\n", []string{"site main: base URL"}},
		"a password in the URL":   {"sites: {main: {baseUrl: \"https://u:geheim@sample.cybozu.com\", tokenFile: token}}\n", []string{"base URL has a user in it", "!geheim"}},
		"no URL":                  {"sites: {main: {tokenFile: token}}\n", []string{"site main: where is kintone? set KINTONE_BASE_URL", "worker demo"}},
		"no way to sign in":       {"sites: {main: {baseUrl: https://sample.cybozu.com}}\n", []string{"site main: no way to sign in: set KINTONE_API_TOKEN"}},
		"a user without password": {"sites: {main: {baseUrl: https://sample.cybozu.com, username: sato}}\n", []string{"a user name but no password: set KINTONE_PASSWORD"}},
		"a password without user": {"sites: {main: {baseUrl: https://sample.cybozu.com, passwordFile: token}}\n", []string{"a password but no user name: set KINTONE_USERNAME"}},
		"no such token file":      {"sites: {main: {baseUrl: https://sample.cybozu.com, tokenFile: absent}}\n", []string{"tokenFile: there is no file", "absent"}},
		"an empty token file":     {"sites: {main: {baseUrl: https://sample.cybozu.com, tokenFile: blank}}\n", []string{"tokenFile:", "blank is empty"}},
		"ten tokens":              {"sites: {main: {baseUrl: https://sample.cybozu.com, tokenFile: ten}}\n", []string{"10 API tokens, but kintone takes at most 9", "!geheim"}},
		"ten tokens of an app":    {good + "    apps: {5: {tokenFile: ten}}\n", []string{"app 5: 10 API tokens", "!geheim"}},
		"a token that cannot be":  {"sites: {main: {baseUrl: https://sample.cybozu.com, tokenFile: odd}}\n", []string{"API token 2 has a character", "!geheim"}},
		"an app's token file":     {good + "    apps: {5: {tokenFile: absent}}\n", []string{"app 5: tokenFile: there is no file"}},
	} {
		t.Run(name, func(t *testing.T) {
			environ(t)
			dir := t.TempDir()
			write(t, dir, "token", "geheim1\n")
			write(t, dir, "blank", " \n")
			write(t, dir, "ten", strings.Repeat("geheim,", 9)+"geheim")
			write(t, dir, "odd", "good, ge heim")
			path := write(t, dir, "statusq.yaml", c.file)
			_, _, err := configured(t, "--config", path)
			if err == nil {
				t.Fatal("the configuration was accepted")
			}
			if !isUsage(err) {
				t.Errorf("the error is not one of usage, so that the exit code would not be 2: %v", err)
			}
			for _, want := range c.want {
				text, absent := strings.CutPrefix(want, "!")
				if strings.Contains(err.Error(), text) == absent {
					t.Errorf("the error should say %q:\n%v", want, err)
				}
			}
		})
	}
}

func TestMistakesInTheEnvironmentAreNamed(t *testing.T) {
	dir := t.TempDir()
	token := write(t, dir, "token", "geheim\n")
	blank := write(t, dir, "blank", "\n")
	base := "KINTONE_BASE_URL=https://sample.cybozu.com"
	for name, c := range map[string]struct {
		env  []string
		args []string
		want []string
	}{
		"nothing at all":        {nil, nil, []string{"where is kintone?", "no way to sign in"}},
		"no secret":             {[]string{base}, nil, []string{"no way to sign in"}},
		"a token twice":         {[]string{base, "KINTONE_API_TOKEN=geheim", "KINTONE_API_TOKEN_FILE=" + token}, nil, []string{"KINTONE_API_TOKEN and KINTONE_API_TOKEN_FILE are both set"}},
		"a password twice":      {[]string{base, "KINTONE_USERNAME=sato", "KINTONE_PASSWORD=geheim", "KINTONE_PASSWORD_FILE=" + token}, nil, []string{"KINTONE_PASSWORD and KINTONE_PASSWORD_FILE are both set"}},
		"a missing file":        {[]string{base, "KINTONE_API_TOKEN_FILE=" + filepath.Join(dir, "absent")}, nil, []string{"KINTONE_API_TOKEN_FILE: there is no file"}},
		"an empty file":         {[]string{base, "KINTONE_API_TOKEN_FILE=" + blank}, nil, []string{"KINTONE_API_TOKEN_FILE:", "is empty"}},
		"a directory":           {[]string{base, "KINTONE_API_TOKEN_FILE=" + dir}, nil, []string{"KINTONE_API_TOKEN_FILE:", "directory"}},
		"ten tokens":            {[]string{base, "KINTONE_API_TOKEN=" + strings.Repeat("geheim,", 9) + "geheim"}, nil, []string{"10 API tokens", "!geheim"}},
		"a user alone":          {[]string{base, "KINTONE_USERNAME=sato"}, nil, []string{"a user name but no password"}},
		"a password alone":      {[]string{base, "KINTONE_PASSWORD=geheim"}, nil, []string{"a password but no user name", "!geheim"}},
		"basic password alone":  {[]string{base, "KINTONE_API_TOKEN=t", "KINTONE_BASIC_AUTH_PASSWORD=geheim"}, nil, []string{"basic authentication: password without a username", "!geheim"}},
		"a client certificate":  {[]string{base, "KINTONE_API_TOKEN=t", "KINTONE_PFX_FILE_PATH=cert.pfx"}, nil, []string{"KINTONE_PFX_FILE_PATH", "does not sign in with client certificates"}},
		"plain http":            {[]string{"KINTONE_BASE_URL=http://sample.cybozu.com", "KINTONE_API_TOKEN=t"}, nil, []string{"http, which is for loopback hosts only"}},
		"a site's name":         {[]string{base, "KINTONE_API_TOKEN=t", "STATUSQ_SITE=Main"}, nil, []string{`--site "Main"`}},
		"a configuration file":  {[]string{base, "STATUSQ_CONFIG=" + filepath.Join(dir, "absent.yaml")}, nil, []string{"configuration: open", "absent.yaml"}},
		"a guest space below 0": {[]string{base, "KINTONE_API_TOKEN=t"}, []string{"--guest-space-id=-1"}, []string{"guest space id is negative"}},
	} {
		t.Run(name, func(t *testing.T) {
			environ(t, c.env...)
			_, _, err := configured(t, c.args...)
			if err == nil || !isUsage(err) {
				t.Fatalf("the error is %v, want one of usage", err)
			}
			for _, want := range c.want {
				text, absent := strings.CutPrefix(want, "!")
				if strings.Contains(err.Error(), text) == absent {
					t.Errorf("the error should say %q:\n%v", want, err)
				}
			}
		})
	}
}

func TestFlagsComeBeforeTheEnvironmentBeforeTheFileBeforeDefaults(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "token", "from-file")
	path := write(t, dir, "statusq.yaml", `
sites:
  main:
    baseUrl: https://file.cybozu.com
    guestSpace: 1
    tokenFile: token
    apps:
      6: {guestSpace: 9}
  osaka:
    baseUrl: https://osaka.cybozu.com
    tokenFile: token
`)
	config := "STATUSQ_CONFIG=" + path
	for _, c := range []struct {
		name              string
		env, args         []string
		url, token, store string
		space             int64
	}{
		{"the file", []string{config}, nil, "https://file.cybozu.com", "from-file", "data", 1},
		{"the environment over it", []string{config, "KINTONE_BASE_URL=https://env.cybozu.com", "KINTONE_GUEST_SPACE_ID=2", "KINTONE_API_TOKEN=from-env", "STATUSQ_STORE_DIR=env"},
			nil, "https://env.cybozu.com", "from-env", "env", 2},
		{"flags over both", []string{config, "KINTONE_BASE_URL=https://env.cybozu.com", "KINTONE_GUEST_SPACE_ID=2", "KINTONE_API_TOKEN=from-env", "STATUSQ_STORE_DIR=env"},
			[]string{"--base-url", "https://flag.cybozu.com", "--guest-space-id", "3", "--store-dir", "flag"}, "https://flag.cybozu.com", "from-env", "flag", 3},
		{"the file's path by flag", []string{"STATUSQ_CONFIG=absent.yaml"}, []string{"--config", path}, "https://file.cybozu.com", "from-file", "data", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			environ(t, c.env...)
			sites, cmd, err := configured(t, c.args...)
			if err != nil {
				t.Fatal(err)
			}
			if len(sites) != 2 || sites[0].name != "main" || sites[1].name != "osaka" {
				t.Fatalf("there are %d sites, want main and osaka", len(sites))
			}
			main := sites[0]
			if got := main.client.BaseURL; got != c.url {
				t.Errorf("base URL %s, want %s", got, c.url)
			}
			if got := main.client.Tokens; !slices.Equal(got, []kintone.Secret{kintone.Secret(c.token)}) {
				t.Errorf("the token is not the one of %s", c.token)
			}
			if main.other.GuestSpace != c.space || main.apps[6].GuestSpace != 9 {
				t.Errorf("guest space %d, of app 6 %d; want %d, and 9 as the app itself says", main.other.GuestSpace, main.apps[6].GuestSpace, c.space)
			}
			if cmd.StoreDir != c.store {
				t.Errorf("store %s, want %s", cmd.StoreDir, c.store)
			}
			// What the environment says is for one site.
			if got := sites[1]; got.client.BaseURL != "https://osaka.cybozu.com" || got.client.Tokens[0] != "from-file" || got.other.GuestSpace != 0 {
				t.Errorf("the environment reached another site: %s, guest space %d", got.client.BaseURL, got.other.GuestSpace)
			}
		})
	}
}

func TestTheEnvironmentAloneMakesOneSite(t *testing.T) {
	environ(t, "KINTONE_BASE_URL=https://sample.cybozu.com", "KINTONE_API_TOKEN= one , two,", "STATUSQ_SITE=osaka-2")
	sites, cmd, err := configured(t)
	if err != nil {
		t.Fatal(err)
	}
	if len(sites) != 1 || sites[0].name != "osaka-2" || !slices.Equal(sites[0].client.Tokens, []kintone.Secret{"one", "two"}) {
		t.Errorf("got %d sites, want osaka-2 with two tokens", len(sites))
	}
	if sites[0].signsIn != "as Administrator by 2 API token(s)" {
		t.Errorf("signs in %q", sites[0].signsIn)
	}
	if cmd.NATSListen != "127.0.0.1:4222" || cmd.Sync != "always" || cmd.Drain != 30*time.Second || cmd.Prefix != "statusq" {
		t.Errorf("the defaults are %+v", cmd.settings)
	}
}

func TestAPasswordWinsOverATokenAndSaysSo(t *testing.T) {
	dir := t.TempDir()
	token := write(t, dir, "token", "a-token")
	environ(t, "KINTONE_BASE_URL=https://sample.cybozu.com", "KINTONE_API_TOKEN_FILE="+token, "KINTONE_USERNAME=sato",
		"KINTONE_PASSWORD_FILE="+write(t, dir, "password", " with space inside \n"))
	sites, _, err := configured(t)
	if err != nil {
		t.Fatal(err)
	}
	c := sites[0].client
	if len(c.Tokens) != 0 || c.Username != "sato" || c.Password != "with space inside" {
		t.Errorf("%d tokens, user %s; want the password alone", len(c.Tokens), c.Username)
	}
	if want := "as sato by password (the API token is not used: a password wins)"; sites[0].signsIn != want {
		t.Errorf("signs in %q, want %q", sites[0].signsIn, want)
	}
}

func TestWhatAnAppDoesNotSayTheDefaultsSay(t *testing.T) {
	environ(t, "KINTONE_API_TOKEN=t")
	path := write(t, t.TempDir(), "statusq.yaml", `
sites:
  main:
    baseUrl: https://sample.cybozu.com
    guestSpace: 4
    requestsPerSecond: 2.5
    concurrency: 7
    defaults: {call: single, inflight: 2, dailyRequests: -1, identity: shared, attempts: 3, backoff: 1m, lateWindow: 2h}
    apps:
      5:
      6: {call: bulk, inflight: 15, dailyRequests: 500, identity: dedicated, attempts: 9, backoff: 1s, lateWindow: 1m, guestSpace: 8}
`)
	sites, _, err := configured(t, "--config", path)
	if err != nil {
		t.Fatal(err)
	}
	s := sites[0]
	if s.gate.RequestsPerSecond != 2.5 || s.gate.Concurrency != 7 {
		t.Errorf("the gate is %+v", s.gate)
	}
	const defaults = "{4 [] true 2 -1 true 3 1m0s 2h0m0s}"
	for what, got := range map[string]string{defaults: fmt.Sprint(s.apps[5]), "{8 [] false 15 500 false 9 1s 1m0s}": fmt.Sprint(s.apps[6])} {
		if got != what {
			t.Errorf("an app is %s, want %s", got, what)
		}
	}
	if got := fmt.Sprint(s.other); got != defaults {
		t.Errorf("other apps are %s, want %s", got, defaults)
	}
}
