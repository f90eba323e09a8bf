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
	"KINTONE_BASIC_AUTH_PASSWORD", "KINTONE_BASIC_AUTH_PASSWORD_FILE", "KINTONE_PFX_FILE_PATH", "KINTONE_PFX_FILE_PASSWORD", "KINTONE_PFX_FILE_PASSWORD_FILE",
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
		"a typo in a site":           {good + "    gestSpace: 3\n", []string{`[5:5] unknown field "gestSpace": is guestSpace meant (guest space that the apps are in)?`, ">  5 |     gestSpace: 3"}},
		"a typo in a token file":     {"sites:\n  main:\n    tokenfile: token\n", []string{`[3:5] unknown field "tokenfile": is tokenFile meant`, "!no way to sign in", ">  3 |     tokenfile: token"}},
		"a typo in an app":           {good + "    apps:\n      5:\n        inflght: 3\n", []string{`[7:9] unknown field "inflght"`, ">  7 |"}},
		"a typo at the top":          {"site:\n  main: {}\n", []string{`[1:1] unknown field "site"`}},
		"wrong case":                 {good + "    guestspace: 3\n", []string{`[5:5] unknown field "guestspace"`}},
		"a word for a number":        {good + "    apps:\n      5: {inflight: many}\n", []string{"[6:21] inflight: a whole number is wanted here, not text", "^", "!1 to 15"}},
		"a list for a word":          {good + "    apps:\n      5:\n        call: [bulk]\n", []string{"[7:15] call: text is wanted here, not a list"}},
		"a list for the sites":       {"sites: [main]\n", []string{"[1:8] sites: a mapping (name: value) is wanted here, not a list", "!no site"}},
		"a number that is too large": {good + "    concurrency: 99999999999999999999\n", []string{"[5:18] concurrency: a whole number is wanted here, not such a large number", "!1 to 80"}},
		"a site twice":               {good + "  main:\n    guestSpace: 1\n", []string{"[5:3]", "already defined at [2:3]"}},
		"not YAML":                   {"sites:\n\tmain: x\n", []string{"[2:1]", "cannot start any token"}},
		"a bracket left open":        {"sites:\n  main:\n    baseUrl: [x\n", []string{"[3:14]"}},
		"half a number":              {good + "    apps: {5: {attempts: 2.5}}\n", []string{"[5:26] attempts: a whole number is wanted here, not a number like this"}},
		"a number for yes or no":     {good + "    allowHost: 1\n", []string{"[5:16] allowHost: true or false is wanted here"}},
		"a mapping for a word":       {good + "    language:\n      ja: true\n", []string{"[6:7] language: text is wanted here, not a mapping"}},
		"no anchor":                  {good + "    apps: {5: *usual}\n", []string{"[5:15] there is no anchor &usual before this"}},
		"a typo behind an anchor":    {good + "    defaults: &usual {inflght: 3}\n    apps: {5: *usual}\n", []string{`[5:23] unknown field "inflght": is inflight meant (status calls at a time, 1 to 15; default 4)?`}},
		"an anchor in itself":        {good + "    apps: {5: &a {<<: *a}, 6: *a}\n", []string{"[5:23] there is no anchor &a before this"}},
		"two documents":              {good + "---\nsites: {}\n", []string{"[6:1] a second document"}},
		"nothing in it":              {"", []string{"there is no site in it"}},
		"no site in it":              {"sites: {}\n", []string{"there is no site in it"}},

		"a secret where none belongs": {"sites:\n  main:\n    token: geheim\n", []string{`[3:5] unknown field "token"`, "tokenFile", "!geheim"}},
		"a secret over two lines":     {"sites:\n  main:\n    password: \"x\n      geheim\"\n", []string{`[3:5] unknown field "password"`, "!geheim"}},
		"a secret near a mistake":     {"sites:\n  main:\n    basicPassword: geheim\n    apps: many\n", []string{"[4:11]", "!geheim"}},

		"a site's name":             {"sites:\n  Main Site: {}\n", []string{`[2:3] site "Main Site": a site's name has small letters`}},
		"a word for an app":         {good + "    apps: {orders: {}}\n", []string{`[5:12] site main: apps: "orders" is not an app id`}},
		"app 0":                     {good + "    apps: {0: {}}\n", []string{`[5:12] site main: apps: "0" is not an app id`}},
		"an app below 0":            {good + "    apps: {-5: {}}\n", []string{`[5:12] site main: apps: "-5" is not an app id`}},
		"an app twice, differently": {good + "    apps: {\"5\": {}, \"05\": {}}\n", []string{`[5:21] site main: apps: "05" is not an app id`}},
		"a call":                    {good + "    apps: {5: {call: batch}}\n", []string{`[5:22] site main: app 5: call: "batch" is none of bulk, single`}},
		"an identity":               {good + "    apps: {5: {identity: mine}}\n", []string{`[5:26] site main: app 5: identity: "mine" is none of dedicated, shared`}},
		"a time without a unit":     {good + "    apps: {5: {backoff: 15}}\n", []string{`[5:25] site main: app 5: backoff: "15" is not a time such as 15s`}},
		"a time below 0":            {good + "    apps: {5: {lateWindow: -1h}}\n", []string{`[5:28] site main: app 5: lateWindow: "-1h" is not a time`}},
		"too much in flight":        {good + "    apps: {5: {inflight: 16}}\n", []string{"[5:26] site main: app 5: inflight: 1 to 15"}},
		"attempts below 0":          {good + "    apps: {5: {attempts: -1}}\n", []string{"[5:26] site main: app 5: attempts: at least 1"}},
		"a budget below -1":         {good + "    apps: {5: {dailyRequests: -2}}\n", []string{"[5:31] site main: app 5: dailyRequests: a number, or -1"}},
		"a guest space below 0":     {good + "    apps: {5: {guestSpace: -1}}\n", []string{"[5:28] site main: app 5: guest space id is negative"}},
		"a mistake in the defaults": {good + "    defaults: {call: batch}\n", []string{`[5:22] site main: defaults: call: "batch"`}},
		"a token for all apps":      {good + "    defaults: {tokenFile: token}\n", []string{"[5:27] site main: defaults: tokenFile: a token belongs to one app"}},
		"a rate below 0":            {good + "    requestsPerSecond: -1\n", []string{"[5:24] site main: requestsPerSecond: a number above 0"}},
		"a rate that is no number":  {good + "    requestsPerSecond: .nan\n", []string{"[5:24] site main: requestsPerSecond: a number above 0"}},
		"too many at a time":        {good + "    concurrency: 100\n", []string{"[5:18] site main: concurrency: 1 to 80"}},
		"everything at once": {good + "    apps: {5: {call: batch, identity: mine}, x: {}}\n    concurrency: -1\n",
			[]string{`[5:22] site main: app 5: call: "batch"`, `[5:39] site main: app 5: identity: "mine"`, `[5:46] site main: apps: "x"`, "[6:18] site main: concurrency"}},

		"http to another machine":  {"sites: {main: {baseUrl: http://sample.cybozu.com, tokenFile: token}}\n", []string{"[1:25] site main: base URL is http, which is for loopback hosts only"}},
		"no scheme":                {"sites: {main: {baseUrl: sample.cybozu.com, tokenFile: token}}\n", []string{"[1:25] site main: base URL"}},
		"a password in the URL":    {"sites: {main: {baseUrl: \"https://u:geheim@sample.cybozu.com\", tokenFile: token}}\n", []string{"[1:25] site main: base URL has a user in it", "!geheim", "its lines are not shown"}},
		"no URL":                   {"sites: {main: {tokenFile: token}}\n", []string{"[1:15] site main: where is kintone? set KINTONE_BASE_URL", "worker demo"}},
		"no way to sign in":        {"sites: {main: {baseUrl: https://sample.cybozu.com}}\n", []string{"[1:15] site main: no way to sign in: set KINTONE_API_TOKEN"}},
		"a user without password":  {"sites: {main: {baseUrl: https://sample.cybozu.com, username: sato}}\n", []string{"[1:62] site main: there is a user name but no password: set KINTONE_PASSWORD"}},
		"a password without user":  {"sites: {main: {baseUrl: https://sample.cybozu.com, passwordFile: token}}\n", []string{"[1:66] site main: there is a password but no user name: set KINTONE_USERNAME"}},
		"no such token file":       {"sites: {main: {baseUrl: https://sample.cybozu.com, tokenFile: absent}}\n", []string{"[1:63] site main: tokenFile: there is no file", "absent"}},
		"an empty token file":      {"sites: {main: {baseUrl: https://sample.cybozu.com, tokenFile: blank}}\n", []string{"[1:63] site main: tokenFile:", "blank is empty"}},
		"ten tokens":               {"sites: {main: {baseUrl: https://sample.cybozu.com, tokenFile: ten}}\n", []string{"[1:63] site main: tokenFile: 10 API tokens, but kintone takes at most 9", "!geheim"}},
		"ten tokens of an app":     {good + "    apps: {5: {tokenFile: ten}}\n", []string{"[5:27] site main: app 5: tokenFile: 10 API tokens", "!geheim"}},
		"a token that cannot be":   {"sites: {main: {baseUrl: https://sample.cybozu.com, tokenFile: odd}}\n", []string{"[1:63] site main: tokenFile: API token 2 has a character", "!geheim"}},
		"a secret for a file":      {"sites: {main: {baseUrl: https://sample.cybozu.com, tokenFile: geheimgeheimgeheim}}\n", []string{"[1:63] site main: tokenFile: there is no such file, and its name looks as if it were the secret", "!geheim"}},
		"a long secret for a file": {"sites: {main: {baseUrl: https://sample.cybozu.com, tokenFile: " + strings.Repeat("geheim-", 60) + "}}\n", []string{"there is no such file", "!geheim"}},
		"no token in the file":     {"sites: {main: {baseUrl: https://sample.cybozu.com, tokenFile: commas}}\n", []string{"[1:63] site main: tokenFile: there is no token in it"}},
		"a colon in the user":      {"sites: {main: {baseUrl: https://sample.cybozu.com, username: 'a:b', passwordFile: token}}\n", []string{"[1:62] site main: username has a colon in it"}},
		"basic user alone":         {good + "    basicUsername: gate\n", []string{"[5:20] site main: basic authentication: username without a password"}},
		"basic password alone":     {good + "    basicPasswordFile: token\n", []string{"[5:24] site main: basic authentication: password without a username"}},
		"a colon in basic":         {good + "    basicUsername: 'a:b'\n    basicPasswordFile: token\n", []string{"[5:20] site main: basic authentication: username has a colon"}},
		"a language in itself":     {good + "    language: 日本語\n", []string{"[5:15] site main: language: \"日本語\" is none of ja, en, zh"}},
		"a language unknown to it": {good + "    language: fr\n", []string{"[5:15] site main: language: \"fr\" is none of ja, en, zh"}},
		"what is no language":      {good + "    language: user\n", []string{"[5:15] site main: language: \"user\" is none of ja, en, zh"}},
		"what happens when spent":  {good + "    apps: {5: {whenSpent: stop}}\n", []string{`[5:27] site main: app 5: whenSpent: "stop" is none of halt, warn, off`}},
		"a budget of nothing":      {good + "    apps: {5: {dailyRequests: 0}}\n", []string{"[5:31] site main: app 5: dailyRequests: a number, or -1"}},
		"nothing in flight":        {good + "    defaults: {inflight: 0}\n", []string{"[5:26] site main: defaults: inflight: 1 to 15"}},
		"none at a time":           {good + "    concurrency: 0\n", []string{"[5:18] site main: concurrency: 1 to 80"}},
		"a rate of nothing":        {good + "    requestsPerSecond: 0\n", []string{"[5:24] site main: requestsPerSecond: a number above 0"}},
		"a site's guest space":     {good + "    guestSpace: -3\n", []string{"[5:17] site main: guest space id is negative"}},
		"in two sites": {good + "    concurrency: -1\n  other: {baseUrl: 'https://other.cybozu.com'}\n",
			[]string{"[5:18] site main: concurrency", "[6:10] site other: no way to sign in: set tokenFile or username and passwordFile"}},

		"a host that is not kintone's": {"sites: {main: {baseUrl: https://sample.cybozu.co, tokenFile: token}}\n", []string{"[1:25] site main: base URL: sample.cybozu.co is none of kintone's hosts", "allowHost: true"}},
		"a path behind the host":       {"sites: {main: {baseUrl: https://sample.cybozu.com/k/5, tokenFile: token}}\n", []string{"[1:25] site main: base URL: nothing belongs behind sample.cybozu.com"}},
		"a host for certificates":      {"sites: {main: {baseUrl: https://sample.s.cybozu.com, tokenFile: token}}\n", []string{"[1:25] site main: sample.s.cybozu.com lets only clients with a certificate in", "pfxFile", "use sample.cybozu.com"}},
		"a certificate for any host":   {good + "    pfxFile: token\n", []string{"[3:14] site main: a client certificate is not asked for by sample.cybozu.com: use sample.s.cybozu.com"}},
		"no certificate in the file":   {"sites:\n  main:\n    baseUrl: https://sample.s.cybozu.com\n    tokenFile: token\n    pfxFile: token\n", []string{"[5:14] site main: pfxFile: client certificate: not a PKCS #12", "!geheim"}},
		"no certificate file":          {"sites:\n  main:\n    baseUrl: https://sample.s.cybozu.com\n    tokenFile: token\n    pfxFile: absent.pfx\n", []string{"[5:14] site main: pfxFile: there is no file", "absent.pfx"}},
		"a certificate's password":     {good + "    pfxPasswordFile: token\n", []string{"[5:22] site main: pfxPasswordFile: the password of a certificate without"}},
		"two proxies":                  {good + "    proxy: http://proxy:8080\n    proxyFile: token\n", []string{"[6:16] site main: proxy and proxyFile are both set"}},
		"a proxy's password":           {good + "    proxy: http://u:geheim@proxy:8080\n", []string{"[5:12] site main: proxy: a URL with a user in it stands in a file", "!geheim"}},
		"a proxy without scheme":       {good + "    proxy: proxy:8080\n", []string{"[5:12] site main: the proxy's URL begins with none of http://"}},
		"a proxy file without a proxy": {good + "    proxyFile: token\n", []string{"[5:16] site main: proxyFile: the proxy's URL begins with none", "!geheim"}},
		"a proxy near a mistake":       {good + "    proxy: 'http://u:geheim@proxy:8080'\n    concurrency: 99\n", []string{"[6:18] site main: concurrency", "!geheim"}},

		"an app's token file": {good + "    apps: {5: {tokenFile: absent}}\n", []string{"[5:27] site main: app 5: tokenFile: there is no file"}},
	} {
		t.Run(name, func(t *testing.T) {
			environ(t)
			dir := t.TempDir()
			write(t, dir, "token", "geheim1\n")
			write(t, dir, "blank", " \n")
			write(t, dir, "commas", " , ,\n")
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
		"no such certificate":   {[]string{base, "KINTONE_API_TOKEN=t", "KINTONE_PFX_FILE_PATH=cert.pfx"}, nil, []string{"KINTONE_PFX_FILE_PATH: there is no file cert.pfx", "use sample.s.cybozu.com with it"}},
		"no certificate at all": {[]string{"KINTONE_BASE_URL=https://sample.s.cybozu.com", "KINTONE_API_TOKEN=t"}, nil, []string{"sample.s.cybozu.com lets only clients with a certificate in", "KINTONE_PFX_FILE_PATH"}},
		"a file of no use":      {[]string{"KINTONE_BASE_URL=https://sample.s.cybozu.com", "KINTONE_API_TOKEN=t", "KINTONE_PFX_FILE_PATH=" + token}, nil, []string{"KINTONE_PFX_FILE_PATH: client certificate: not a PKCS #12", "!geheim"}},
		"another host":          {[]string{"KINTONE_BASE_URL=https://kintone.example.com", "KINTONE_API_TOKEN=t"}, nil, []string{"kintone.example.com is none of kintone's hosts", "is it mistyped?", "allowHost: true"}},
		"a colon in the user":   {[]string{base, "KINTONE_USERNAME=a:b", "KINTONE_PASSWORD=geheim"}, nil, []string{"username has a colon", "!geheim"}},
		"a secret for a file":   {[]string{base, "KINTONE_API_TOKEN_FILE=geheimgeheimgeheim"}, nil, []string{"KINTONE_API_TOKEN_FILE: there is no such file", "!geheim"}},
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
			if got := main.client.Credentials.Tokens; !slices.Equal(got, []kintone.Secret{kintone.Secret(c.token)}) {
				t.Errorf("the token is not the one of %s", c.token)
			}
			if main.other.GuestSpace != c.space || main.apps[6].GuestSpace != 9 {
				t.Errorf("guest space %d, of app 6 %d; want %d, and 9 as the app itself says", main.other.GuestSpace, main.apps[6].GuestSpace, c.space)
			}
			if cmd.StoreDir != c.store {
				t.Errorf("store %s, want %s", cmd.StoreDir, c.store)
			}
			// What the environment says is for one site.
			if got := sites[1]; got.client.BaseURL != "https://osaka.cybozu.com" || got.client.Credentials.Tokens[0] != "from-file" || got.other.GuestSpace != 0 {
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
	if len(sites) != 1 || sites[0].name != "osaka-2" || !slices.Equal(sites[0].client.Credentials.Tokens, []kintone.Secret{"one", "two"}) {
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
	c := sites[0].client.Credentials
	if len(c.Tokens) != 0 || c.Username != "sato" || c.Password != "with space inside" {
		t.Errorf("%d tokens, user %s; want the password alone", len(c.Tokens), c.Username)
	}
	if want := "as sato by password; not used: the API token (a password wins)"; sites[0].signsIn != want {
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
    defaults: {call: single, inflight: 2, dailyRequests: -1, whenSpent: warn, identity: shared, attempts: 3, backoff: 1m, lateWindow: 2h}
    apps:
      5:
      6: {call: bulk, inflight: 15, dailyRequests: 500, whenSpent: off, identity: dedicated, attempts: 9, backoff: 1s, lateWindow: 1m, guestSpace: 8}
`)
	sites, _, err := configured(t, "--config", path)
	if err != nil {
		t.Fatal(err)
	}
	s := sites[0]
	if s.gate.RequestsPerSecond != 2.5 || s.gate.Concurrency != 7 {
		t.Errorf("the gate is %+v", s.gate)
	}
	const defaults = "{4 true 2 -1 warn true 3 1m0s 2h0m0s}"
	for what, got := range map[string]string{defaults: fmt.Sprint(s.apps[5]), "{8 false 15 500 off false 9 1s 1m0s}": fmt.Sprint(s.apps[6])} {
		if got != what {
			t.Errorf("an app is %s, want %s", got, what)
		}
	}
	if got := fmt.Sprint(s.other); got != defaults {
		t.Errorf("other apps are %s, want %s", got, defaults)
	}
}
