package kintone_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"statusq/internal/kintone"
)

// listener notes the requests that reach a server, and answers as it is told.
type listener struct {
	mu     sync.Mutex // guards what follows
	heads  []http.Header
	lines  []string // method and path with query
	bodies []string
	answer func(w http.ResponseWriter, r *http.Request)
}

func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	l.mu.Lock()
	l.heads = append(l.heads, r.Header.Clone())
	l.lines = append(l.lines, r.Method+" "+r.URL.RequestURI())
	l.bodies = append(l.bodies, string(body))
	l.mu.Unlock()
	if l.answer != nil {
		l.answer(w, r)
		return
	}
	w.Write([]byte("{}"))
}

func (l *listener) heard() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lines)
}

// probing returns a prober for apps 5 and 6 of a server that l plays, and what it showed.
func probing(t *testing.T, l *listener, most int) (*kintone.Prober, *[]kintone.Exchange) {
	t.Helper()
	s := httptest.NewServer(l)
	t.Cleanup(s.Close)
	c, err := kintone.NewClient(kintone.Config{BaseURL: s.URL, Credentials: kintone.Credentials{
		AppTokens: map[int64][]kintone.Secret{5: {"canaryfive"}, 6: {"canarysix"}, 7: {"canaryseven"}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	var seen []kintone.Exchange
	return c.Prober(most, func(x kintone.Exchange) { seen = append(seen, x) }, kintone.App{ID: 5}, kintone.App{ID: 6, GuestSpace: 3}), &seen
}

func TestProberKeepsToItsApps(t *testing.T) {
	l := new(listener)
	p, seen := probing(t, l, 100)
	for name, c := range map[string]struct {
		app     int64
		attempt kintone.Attempt
	}{
		"another app":               {7, kintone.Attempt{Method: "GET", API: "records.json", Query: url.Values{"app": {"7"}}}},
		"another app in the query":  {5, kintone.Attempt{Method: "DELETE", API: "records.json", Query: url.Values{"app": {"7"}, "ids[0]": {"1"}}}},
		"another app besides":       {5, kintone.Attempt{Method: "DELETE", API: "records.json", Query: url.Values{"app": {"5", "7"}}}},
		"another app in a list":     {5, kintone.Attempt{Method: "GET", API: "preview/app/deploy.json", Query: url.Values{"apps[0]": {"7"}}}},
		"another app in the body":   {5, kintone.Attempt{Method: "PUT", API: "record/status.json", Body: map[string]any{"app": 7, "id": 1}}},
		"another app as a string":   {5, kintone.Attempt{Method: "PUT", API: "record/status.json", Body: map[string]any{"app": "7", "id": 1}}},
		"another app to deploy":     {5, kintone.Attempt{Method: "POST", API: "preview/app/deploy.json", Body: map[string]any{"apps": []any{map[string]any{"app": 5}, map[string]any{"app": 7}}}}},
		"another app in a bulk":     {5, kintone.Attempt{Method: "POST", API: "bulkRequest.json", Body: map[string]any{"requests": []any{map[string]any{"payload": map[string]any{"app": 7}}}}}},
		"a number that looks alike": {5, kintone.Attempt{Method: "PUT", API: "record/status.json", Body: map[string]any{"app": 5.5}}},
		"a call that changes more":  {5, kintone.Attempt{Method: "PUT", API: "preview/app/status.json", Body: map[string]any{"app": 5}}},
		"an app of its own":         {5, kintone.Attempt{Method: "POST", API: "preview/app.json", Body: map[string]any{"name": "x"}}},
		"records of others":         {5, kintone.Attempt{Method: "PUT", API: "records.json", Body: map[string]any{"app": 5}}},
	} {
		x := p.Ask(t.Context(), c.app, c.attempt)
		if x.Err == nil || !x.Err.NotSent || !errors.Is(x.Err, kintone.ErrInvalidRequest) {
			t.Errorf("%s: %v, want a refusal before it was sent", name, x.Err)
		}
	}
	if n := l.heard(); n != 0 || len(*seen) != 0 {
		t.Errorf("%d requests were made and %d shown, want none: %q", n, len(*seen), l.lines)
	}
	if sent, _ := p.Counts(); sent != 0 {
		t.Errorf("%d requests were counted that were never made", sent)
	}
	for _, app := range []int64{5, 6} {
		if x := p.Ask(t.Context(), app, kintone.Attempt{Method: "PUT", API: "record/status.json", Body: map[string]any{"app": app}}); x.Err != nil {
			t.Errorf("app %d, which was named: %v", app, x.Err)
		}
	}
	if want := []string{"PUT /k/v1/record/status.json", "PUT /k/guest/3/v1/record/status.json"}; !slices.Equal(l.lines, want) {
		t.Errorf("the server heard %q, want %q", l.lines, want)
	}
}

// Deletions are neither counted against the bound nor kept by it: what was made may be taken away in any case.
func TestProberStopsAtItsMost(t *testing.T) {
	l := new(listener)
	p, _ := probing(t, l, 2)
	remove := func(when string) {
		t.Helper()
		if x := p.Ask(t.Context(), 5, kintone.Attempt{Method: "DELETE", API: "records.json", Query: url.Values{"app": {"5"}, "ids[0]": {"1"}}}); x.Err != nil {
			t.Errorf("a deletion %s: %v", when, x.Err)
		}
	}
	remove("at first")
	for i := range 4 {
		x := p.Ask(t.Context(), 5, kintone.Attempt{Method: "GET", API: "app/status.json", Query: url.Values{"app": {"5"}}})
		if (x.Err == nil) != (i < 2) {
			t.Errorf("request %d: %v", i+1, x.Err)
		}
	}
	remove("behind the bound")
	if sent, _ := p.Counts(); l.heard() != 4 || sent != 4 {
		t.Errorf("%d requests were made and %d counted, want the 2 that were allowed and 2 deletions", l.heard(), sent)
	}
}

func TestProberShowsNoSecret(t *testing.T) {
	l := &listener{answer: func(w http.ResponseWriter, r *http.Request) {
		token := r.Header.Get("X-Cybozu-API-Token")
		w.Header().Set("X-Cybozu-Warning", token)
		w.WriteHeader(400)
		fmt.Fprintf(w, `{"code":"GAIA_RE01","id":%q,"message":%q}`, token, token)
	}}
	p, seen := probing(t, l, 10)
	p.Ask(t.Context(), 5, kintone.Attempt{Method: "PUT", API: "record/status.json", Body: map[string]any{"app": 5, "action": "canaryfive"}})
	p.Ask(t.Context(), 5, kintone.Attempt{Method: "GET", API: "records.json", Query: url.Values{"app": {"5"}, "query": {"canaryfive"}}})
	if len(*seen) != 2 {
		t.Fatalf("%d exchanges were shown, want 2", len(*seen))
	}
	for _, x := range *seen {
		if !strings.Contains(string(x.Answer), "canaryfive") {
			t.Error("the answer as it came should hold the token: the test does not bite")
		}
		x.Answer = nil
		if said := fmt.Sprintf("%+v %v", x, x.Err); strings.Contains(said, "canary") || !strings.Contains(said, "[redacted]") {
			t.Errorf("an exchange shows a token: %s", said)
		}
	}
	if got := p.Hide("a canaryfive, b canarysix"); got != "a [redacted], b [redacted]" {
		t.Errorf("Hide gives %q", got)
	}
}

func TestProberSendsWhatNothingElseDoes(t *testing.T) {
	l := new(listener)
	p, seen := probing(t, l, 10)
	ask := func(a kintone.Attempt) {
		t.Helper()
		if x := p.Ask(t.Context(), 5, a); x.Err != nil {
			t.Fatal(x.Err)
		}
	}
	app := url.Values{"app": {"5"}}
	ask(kintone.Attempt{Method: "GET", API: "app/status.json", Query: app, NoLanguage: true})
	ask(kintone.Attempt{Method: "GET", API: "app/status.json", Query: app, Language: "zh"})
	ask(kintone.Attempt{Method: "GET", API: "app/status.json", Query: app, TokensOf: 7})
	ask(kintone.Attempt{Method: "GET", API: "records.json", Body: map[string]any{"app": 5}, Blanks: 5000})
	ask(kintone.Attempt{Method: "DELETE", API: "records.json", Query: url.Values{"app": {"5"}, "ids[0]": {"1"}}})

	if _, there := l.heads[0]["Accept-Language"]; there {
		t.Error("a request without Accept-Language has one")
	}
	if got := l.heads[1].Get("Accept-Language"); got != "zh" {
		t.Errorf("Accept-Language is %q, want zh", got)
	}
	if got := l.heads[2].Get("X-Cybozu-API-Token"); got != "canaryseven" {
		t.Errorf("the token is %q, want that of app 7", got)
	}
	if l.lines[3] != "POST /k/v1/records.json" || l.heads[3].Get("X-HTTP-Method-Override") != "GET" || len(l.bodies[3]) < 5000 {
		t.Errorf("a read with a body went as %s, %v, %d bytes", l.lines[3], l.heads[3], len(l.bodies[3]))
	}
	if got := (*seen)[3].Sent; got != `{"app":5}… (5009 bytes)` {
		t.Errorf("the body is shown as %q", got)
	}
	if l.lines[4] != "DELETE /k/v1/records.json?app=5&ids%5B0%5D=1" || l.heads[4].Get("Content-Type") != "" {
		t.Errorf("a deletion went as %s with Content-Type %q", l.lines[4], l.heads[4].Get("Content-Type"))
	}
	for i, h := range l.heads {
		if (l.bodies[i] == "") != (h.Get("Content-Type") == "") {
			t.Errorf("request %d has a body of %d bytes and Content-Type %q", i+1, len(l.bodies[i]), h.Get("Content-Type"))
		}
	}
}

// What is cut is the connection, not a stream on one that goes on: it is HTTP/1 where everything else is HTTP/2.
func TestProberCutsAConnection(t *testing.T) {
	gone := make(chan string, 1)
	l := &listener{answer: func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
			gone <- r.Proto
			panic(http.ErrAbortHandler)
		case <-time.After(10 * time.Second):
		}
	}}
	s := httptest.NewUnstartedServer(l)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	transport := s.Client().Transport.(*http.Transport)
	c, err := kintone.NewClient(kintone.Config{BaseURL: s.URL, Credentials: kintone.Credentials{Tokens: []kintone.Secret{"token"}}, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	p := c.Prober(10, nil, kintone.App{ID: 5})
	x := p.Ask(t.Context(), 5, kintone.Attempt{Method: "PUT", API: "record/status.json", Body: map[string]any{"app": 5}, Cut: true})
	if x.Err == nil || x.Status != 0 || !x.Err.MayHaveActed || !errors.Is(x.Err, context.Canceled) {
		t.Fatalf("a request that was cut off ends with %v, want no answer, and that it may have acted", x.Err)
	}
	select {
	case proto := <-gone:
		if proto != "HTTP/1.1" {
			t.Errorf("the request that was cut went by %s", proto)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the server never saw the connection go")
	}
	if l.heard() != 1 || l.bodies[0] != `{"app":5}` {
		t.Errorf("the server heard %d requests, the first with the body %q; want one that is whole", l.heard(), l.bodies[0])
	}
}
