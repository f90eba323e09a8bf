package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
)

// canaries are the secrets of a place: none may be seen anywhere but in the headers of a request to kintone.
var canaries = map[string]string{
	"token":          "canaryT0kenA1b2C3d4E5f6",
	"password":       "canaryPassw0rdG7h8I9j0K1",
	"basic password": "canaryBas1cL2m3N4o5P6q7",
	"PFX password":   "canaryPf1xR8s9T0u1V2w3",
	"NATS password":  "canaryNatsX4y5Z6a7B8c9",
	"proxy password": "canaryPr0xyD0e1F2g3H4i5",
}

// leaks says which canaries are in a text, in the clear, in hexadecimal or in base64, alone or behind anything else.
func leaks(text string) []string {
	var found []string
	lower := strings.ToLower(text)
	for name, canary := range canaries {
		leaked := strings.Contains(text, canary) || strings.Contains(lower, hex.EncodeToString([]byte(canary)))
		for before := range 3 {
			// What stands before moves the canary within the groups of three; the characters at both ends are shared with it.
			code := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", before) + canary))
			code = strings.TrimRight(code, "=")
			code = code[[]int{0, 2, 3}[before] : len(code)-1]
			leaked = leaked || strings.Contains(text, code)
		}
		if leaked {
			found = append(found, name)
		}
	}
	return found
}

func TestLeaksAreFound(t *testing.T) {
	for _, before := range []string{"", "a", "sato:", "user:", "abcdefgh:"} {
		for name, canary := range canaries {
			secret := before + canary + ",x"
			for form, text := range map[string]string{
				"clear": secret, "hex": fmt.Sprintf("%X", secret), "base64": base64.StdEncoding.EncodeToString([]byte(secret)),
				"base64 for URLs": base64.RawURLEncoding.EncodeToString([]byte(secret)),
			} {
				if got := leaks("said " + text + "."); len(got) != 1 || got[0] != name {
					t.Errorf("the %s behind %q as %s: found %q", name, before, form, got)
				}
			}
		}
	}
	if got := leaks("canary [redacted] c2F0bzpjYW5hcnk="); len(got) != 0 {
		t.Errorf("found %q where nothing is", got)
	}
}

// witness notes which canaries a server gets to see, so that a test that hides nothing is found out.
type witness struct {
	http.Handler
	mu   sync.Mutex // guards seen
	seen map[string]bool
}

func (w *witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	for _, values := range r.Header {
		for _, name := range leaks(strings.Join(values, " ")) {
			w.seen[name] = true
		}
	}
	w.mu.Unlock()
	w.Handler.ServeHTTP(rw, r)
}

// echo is a server that repeats all it is told, as kintone's envelope or as a page.
func echo(rw http.ResponseWriter, r *http.Request) {
	var said strings.Builder
	for name, values := range r.Header {
		fmt.Fprintf(&said, "%s: %s; ", name, strings.Join(values, ","))
	}
	if strings.Contains(r.URL.Path, "status") {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(rw, `{"code":"CB_VA01","id":%q,"message":%q,"errors":{%q:{"messages":[%[2]q]}}}`, r.Header.Get("X-Cybozu-API-Token"), said.String(), "records[0]."+said.String())
		return
	}
	rw.Header().Set("Content-Type", "text/html; "+said.String())
	fmt.Fprint(rw, said.String())
}

func TestSecretsAppearNowhere(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, c := range []struct {
		name    string
		format  string
		env     []string
		seen    []string            // secrets that the server must have been shown
		handler func(*place) string // nil: the simulated kintone
		jobs    bool                // they end
		outside bool                // NATS is a server of its own
	}{
		{name: "wrong token", format: "json", seen: []string{"token", "basic password"}},
		{name: "wrong password", format: "text", env: []string{"KINTONE_USERNAME=sato"}, seen: []string{"password", "basic password"}},
		{name: "faults", format: "json", seen: []string{"token", "basic password"}, jobs: true},
		{name: "NATS goes away", format: "text", seen: []string{"token", "basic password"}, jobs: true, outside: true},
		{name: "an echo of the token", format: "json", handler: func(*place) string { return "echo" }, seen: []string{"token", "basic password"}},
		{name: "an echo of the password", format: "text", env: []string{"KINTONE_USERNAME=sato"}, handler: func(*place) string { return "echo" }, seen: []string{"password", "basic password"}},
		{name: "a proxy that is away", format: "json", env: []string{"KINTONE_BASE_URL=https://statusq-test.cybozu.com",
			"HTTPS_PROXY=http://proxy:" + canaries["proxy password"] + "@" + closed.Addr().String()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, 300)
			seen := &witness{Handler: p.sim, seen: make(map[string]bool)}
			if c.handler != nil {
				seen.Handler = http.HandlerFunc(echo)
			}
			p.env = append([]string{
				"KINTONE_BASE_URL=" + p.serve(seen),
				"KINTONE_API_TOKEN=" + canaries["token"],
				"KINTONE_BASIC_AUTH_USERNAME=gate", "KINTONE_BASIC_AUTH_PASSWORD=" + canaries["basic password"],
				"KINTONE_PFX_FILE_PASSWORD=" + canaries["PFX password"],
				"STATUSQ_LOG_FORMAT=" + c.format, "STATUSQ_LOG_LEVEL=debug",
			}, c.env...)
			if len(c.env) == 1 && strings.HasPrefix(c.env[0], "KINTONE_USERNAME") {
				p.env = append(p.env, "KINTONE_PASSWORD="+canaries["password"])
			}
			if c.jobs {
				if err := p.sim.SetTokens(testApp, simulator.ViewToken(canaries["token"])); err != nil {
					t.Fatal(err)
				}
				p.sim.SetFault(oneOfEach())
			}
			// The embedded server takes the credential that it finds.
			if err := os.MkdirAll(p.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := (queue.ClientFile{User: "statusq", Password: kintone.Secret(canaries["NATS password"])}).Write(p.dir); err != nil {
				t.Fatal(err)
			}
			away := func() {}
			if c.outside {
				s := p.server()
				t.Cleanup(s.Close)
				p.env = append(p.env, "STATUSQ_NATS_URL="+p.outside())
				away = s.Close
			}

			said := make(map[string]string)
			say := func(command string, o output) { said[command] = o.out + o.err }
			w := p.launch()
			w.await("that it owns the site", `"msg":"owner"`, " owner ")
			tap := p.wire()
			say("send", p.enqueue("send", "--file", p.file(300, "Start"), "--campaign", "c", "--json"))
			say("send one", p.enqueue("send", "--app", "5", "--record", "301", "--action", "Start", "--job", "a", "--wait", "--timeout", "2s"))
			w.cmd.Process.Signal(syscall.SIGHUP)
			say("check", p.worker("check", "--app", "5"))
			for _, args := range [][]string{{"lanes"}, {"inflight"}, {"job", "a"}, {"job", "Start-1"}, {"dead", "ls"}, {"watch", "c", "--timeout", "1s"}} {
				say(args[0], p.enqueue(args...))
				say(args[0]+" --json", p.enqueue(append(args, "--json")...))
			}
			check := p.worker("check", "--app", "5", "--json")
			say("check --json", check)
			if !strings.Contains(check.out, `"what":"app 5 of main"`) {
				t.Errorf("check did not look at the app: %s", check.out)
			}
			tap.flush(t)
			away()
			if c.outside {
				w.await("that NATS is away", "connection to NATS lost")
				say("send without NATS", p.enqueue(one()...))
				say("check without NATS", p.worker("check"))
			}
			w.cmd.Process.Signal(syscall.SIGTERM)
			w.wait()
			said["the worker"] = w.out.String() + w.err.String()
			said["NATS"] = tap.heard.String()
			for _, part := range []string{"statusq.jobs.main.5", "statusq.slot.main.5", "$KV.statusq_leases.main", "statusq.rpc.main.lanes", "_INBOX."} {
				if !strings.Contains(said["NATS"], part) && (part != "statusq.slot.main.5" || c.jobs) {
					t.Errorf("no message on %s was heard", part)
				}
			}
			err := filepath.WalkDir(p.dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() || d.Name() == queue.ClientFileName {
					return err
				}
				raw, err := os.ReadFile(path)
				said["file "+strings.TrimPrefix(path, p.dir)] = string(raw)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}

			for what, text := range said {
				for _, name := range leaks(text) {
					t.Errorf("the %s can be read in what %s has", name, what)
				}
			}
			seen.mu.Lock()
			defer seen.mu.Unlock()
			for _, name := range c.seen {
				if !seen.seen[name] {
					t.Errorf("the %s was never sent to kintone: the test does not bite", name)
				}
			}
			if done := p.sim.CommitCount(); c.jobs && done == 0 {
				t.Error("no job has run: the test does not bite")
			}
		})
	}
}

// oneOfEach lets the first status calls meet one fault after the other.
func oneOfEach() func(simulator.Request) simulator.Fault {
	faults := []simulator.Fault{
		{}, {Kind: simulator.LostReply, Applied: true}, {Kind: simulator.CutBody, Applied: true}, {Kind: simulator.HTML200},
		{Kind: simulator.ServerError, Applied: true}, {Kind: simulator.Locked}, {Kind: simulator.TooManyRequests, RetryAfter: time.Second},
	}
	var n atomic.Int64
	return func(r simulator.Request) simulator.Fault {
		if r.Method != http.MethodPut {
			return simulator.Fault{}
		}
		if i := int(n.Add(1)) - 1; i < len(faults) {
			return faults[i]
		}
		return simulator.Fault{}
	}
}
