package network

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// gateway is an HTTP proxy before kintone that misbehaves. It never holds back a read.
type gateway struct {
	behave   func(g *gateway, w http.ResponseWriter, put exchange)
	upstream string
	client   http.Client
	late     sync.WaitGroup // copies that nobody waits for
	met      atomic.Int64
}

// exchange makes a PUT once and returns what kintone answers.
type exchange func() answer

type answer struct {
	status int
	header http.Header
	body   []byte
	err    error
}

// startGateway puts a gateway before kintone until the test ends.
func startGateway(t *testing.T, behave func(*gateway, http.ResponseWriter, exchange)) (g *gateway, front func(string) string) {
	t.Helper()
	g = &gateway{behave: behave, client: http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	server := httptest.NewServer(g)
	t.Cleanup(func() {
		server.Close()
		g.late.Wait()
		g.client.CloseIdleConnections()
	})
	return g, func(kintone string) string {
		g.upstream = kintone
		return server.URL
	}
}

// ServeHTTP passes a request on.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the worker has gone
	}
	once := func() answer {
		out, err := http.NewRequest(r.Method, g.upstream+r.URL.RequestURI(), bytes.NewReader(body))
		if err != nil {
			return answer{err: err}
		}
		out.Header = r.Header.Clone()
		resp, err := g.client.Do(out)
		if err != nil {
			return answer{err: err}
		}
		defer resp.Body.Close()
		a := answer{status: resp.StatusCode, header: resp.Header}
		a.body, a.err = io.ReadAll(resp.Body)
		return a
	}
	if r.Method == http.MethodPut {
		g.behave(g, w, once)
		return
	}
	once().write(w)
}

// write passes an answer on.
func (a answer) write(w http.ResponseWriter) {
	if a.err != nil {
		panic(http.ErrAbortHandler)
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the worker may have gone
}

// A proxy sends every change twice, or hides kintone's answer. What kintone says to the second copy may be what the
// worker gets to hear.
func TestProxiesThatMisbehave(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		copies  int // that kintone must at least have refused
		unclear int
		behave  func(g *gateway, w http.ResponseWriter, put exchange)
	}{
		{"twice, the first answer", 200, 0, func(g *gateway, w http.ResponseWriter, put exchange) {
			first := put()
			put()
			first.write(w)
		}},
		{"twice, the second answer", 200, 0, func(g *gateway, w http.ResponseWriter, put exchange) {
			put()
			put().write(w)
		}},
		{"twice at the same time", 200, 0, func(g *gateway, w http.ResponseWriter, put exchange) {
			answers := make(chan answer, 2)
			for range 2 {
				g.late.Go(func() { answers <- put() })
			}
			(<-answers).write(w)
		}},
		{"once more after two seconds", 200, 0, func(g *gateway, w http.ResponseWriter, put exchange) {
			g.late.Go(func() {
				time.Sleep(2 * time.Second)
				put()
			})
			put().write(w)
		}},
		{"only after two seconds, after it was said to have failed", 0, 8, func(g *gateway, w http.ResponseWriter, put exchange) {
			if rand.Float64() < 0.9 {
				put().write(w)
				return
			}
			g.late.Go(func() {
				time.Sleep(2 * time.Second)
				put()
			})
			answer{err: errors.New("nothing was done yet")}.write(w)
		}},
		{"502 in place of the answer", 8, 8, instead(http.StatusBadGateway)},
		{"504 in place of the answer", 8, 8, instead(http.StatusGatewayTimeout)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g, front := startGateway(t, func(g *gateway, w http.ResponseWriter, put exchange) {
				g.met.Add(1)
				c.behave(g, w, put)
			})
			w := newWorld(t, setting{front: front})
			w.meet(t, w.toKintone, fault{unclear: c.unclear})
			g.late.Wait()
			if n := w.refusedCopies(t); n < c.copies {
				t.Errorf("kintone refused %d copies, want at least %d: the proxy repeated too little", n, c.copies)
			}
			t.Logf("the proxy had %d status calls to pass on for %d actions", g.met.Load(), w.waves*perRound)
			w.check(t)
			w.checkFiles(t)
		})
	}
}

// instead has the change made and answers a page of its own, now and then.
func instead(status int) func(*gateway, http.ResponseWriter, exchange) {
	return func(g *gateway, w http.ResponseWriter, put exchange) {
		a := put()
		if rand.Float64() < 0.15 {
			a = answer{status: status, header: http.Header{"Content-Type": {"text/html"}},
				body: []byte("<html><body><h1>" + http.StatusText(status) + "</h1></body></html>")}
		}
		a.write(w)
	}
}
