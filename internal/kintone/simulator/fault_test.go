package simulator_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/kintone/simulator"
)

const start = `{"app":5,"id":1,"action":"Start","revision":1}`

// roundTrip makes a request through a real client and server. body is what could be read, err what failed.
func roundTrip(t *testing.T, via http.RoundTripper, address string, r *http.Request) (status int, header http.Header, body string, err error) {
	t.Helper()
	r.RequestURI = ""
	r.URL.Host = address
	r.Host = ""
	r.GetBody = nil // a transport that can send a body again would, after a cut
	resp, err := via.RoundTrip(r)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	read, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(read), err
}

// once makes a fault happen to the first request.
func once(f simulator.Fault) func(simulator.Request) simulator.Fault {
	return func(q simulator.Request) simulator.Fault {
		if q.N == 1 {
			return f
		}
		return simulator.Fault{}
	}
}

// What each fault shows to the caller, and whether the request is executed. Over pipes in a bubble and over TCP.
var faults = map[string]struct {
	fault   simulator.Fault
	status  int // 0: the connection is cut
	code    string
	html    bool
	cut     bool // the body ends too early
	commits int
	header  [2]string
}{
	"none":                 {fault: simulator.Fault{}, status: 200, commits: 1},
	"lost reply":           {fault: simulator.Fault{Kind: simulator.LostReply}},
	"lost reply, applied":  {fault: simulator.Fault{Kind: simulator.LostReply, Applied: true}, commits: 1},
	"late commit":          {fault: simulator.Fault{Kind: simulator.LateCommit}, commits: 1},
	"server error":         {fault: simulator.Fault{Kind: simulator.ServerError}, status: 500, code: "GAIA_XX00"},
	"server error applied": {fault: simulator.Fault{Kind: simulator.ServerError, Applied: true}, status: 500, code: "GAIA_XX00", commits: 1},
	"bad gateway":          {fault: simulator.Fault{Kind: simulator.BadGateway}, status: 502, html: true},
	"bad gateway, applied": {fault: simulator.Fault{Kind: simulator.BadGateway, Applied: true}, status: 502, html: true, commits: 1},
	"unavailable": {fault: simulator.Fault{Kind: simulator.Unavailable, RetryAfter: 1500 * time.Millisecond}, status: 503, html: true,
		header: [2]string{"Retry-After", "2"}},
	"unavailable, applied":   {fault: simulator.Fault{Kind: simulator.Unavailable, Applied: true}, status: 503, html: true, commits: 1, header: [2]string{"Retry-After", ""}},
	"too many requests":      {fault: simulator.Fault{Kind: simulator.TooManyRequests}, status: 429, code: "GAIA_TO04", header: [2]string{"X-ConcurrencyLimit-Running", "101"}},
	"too many, Retry-After":  {fault: simulator.Fault{Kind: simulator.TooManyRequests, RetryAfter: time.Minute}, status: 429, code: "GAIA_TO04", header: [2]string{"Retry-After", "60"}},
	"locked":                 {fault: simulator.Fault{Kind: simulator.Locked}, status: 400, code: "GAIA_DA02", header: [2]string{"X-Cybozu-Error", "GAIA_DA02"}},
	"cut body":               {fault: simulator.Fault{Kind: simulator.CutBody}, status: 200, cut: true},
	"cut body, applied":      {fault: simulator.Fault{Kind: simulator.CutBody, Applied: true}, status: 200, cut: true, commits: 1},
	"a page":                 {fault: simulator.Fault{Kind: simulator.HTML200}, status: 200, html: true, header: [2]string{"X-ConcurrencyLimit-Limit", ""}},
	"a page, applied":        {fault: simulator.Fault{Kind: simulator.HTML200, Applied: true}, status: 200, html: true, commits: 1},
	"repeated, and executed": {fault: simulator.Fault{Kind: simulator.Repeat}, status: 409, code: "GAIA_CO02", commits: 1},
	"520":                    {fault: simulator.Fault{Kind: simulator.Status520}, status: 520, html: true},
	"520, applied":           {fault: simulator.Fault{Kind: simulator.Status520, Applied: true}, status: 520, html: true, commits: 1},
}

func TestFaults(t *testing.T) {
	for name, c := range faults {
		check := func(t *testing.T, k *simulator.Kintone, via http.RoundTripper, address string) {
			t.Helper()
			k.SetFault(once(c.fault))
			status, h, body, err := roundTrip(t, via, address, request("PUT", "/k/v1/record/status.json", start))
			if cut := err != nil; cut != (c.cut || c.status == 0) {
				t.Errorf("%s: reading ended with %v, want a cut: %v", name, err, !cut)
			}
			if status != c.status || c.html != strings.Contains(body, "<html>") || c.code != "" && !strings.Contains(body, `"`+c.code+`"`) {
				t.Errorf("%s: answer is %d %q", name, status, body)
			}
			if c.header[0] != "" && h.Get(c.header[0]) != c.header[1] {
				t.Errorf("%s: %s is %q, want %q", name, c.header[0], h.Get(c.header[0]), c.header[1])
			}
			if n := k.CommitCount(); n != c.commits {
				t.Errorf("%s: %d actions happened, want %d", name, n, c.commits)
			}
			if n := k.Requests().Faulted; n != min(1, int(c.fault.Kind)) {
				t.Errorf("%s: %d requests count as faulted", name, n)
			}
			// The next request is none the worse.
			if status, _, body, err := roundTrip(t, via, address, request("GET", "/k/v1/app.json?id=5", "")); status != 200 {
				t.Errorf("%s: the next request is answered with %d %q, %v", name, status, body, err)
			}
		}
		synctest.Test(t, func(t *testing.T) {
			k := newKintone(t, simulator.App{})
			via, stop := simulator.Serve(k)
			defer stop()
			check(t, k, via, "kintone.example")
		})
		k := newKintone(t, simulator.App{})
		server := httptest.NewServer(k)
		via := &http.Transport{}
		check(t, k, via, server.Listener.Addr().String())
		via.CloseIdleConnections()
		server.Close()
	}
}

// A late commit happens after we looked, with every check made then.
func TestLateCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKintone(t, simulator.App{})
		via, stop := simulator.Serve(k)
		defer stop()
		late := func(body string, delay time.Duration) {
			k.SetFault(func(simulator.Request) simulator.Fault {
				return simulator.Fault{Kind: simulator.LateCommit, Delay: delay}
			})
			if _, _, _, err := roundTrip(t, via, "k", request("PUT", "/k/v1/record/status.json", body)); err == nil {
				t.Error("a late commit was answered")
			}
			k.SetFault(nil)
		}
		sent := time.Now()
		late(start, 6*time.Hour)                                                  // will commit
		late(start, 7*time.Hour)                                                  // will meet the revision of the first
		late(`{"app":5,"id":2,"action":"Start","revision":1}`, time.Hour)         // a person will be faster
		late(`{"app":5,"id":1,"action":"Approve","revision":3}`, 390*time.Minute) // between the first two
		if err := k.Edit(5, 2, "sato"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6*time.Hour - time.Nanosecond)
		wantUntouched(t, k)
		time.Sleep(time.Nanosecond)
		wantRecord(t, k, 1, 3, "In progress")
		time.Sleep(24 * time.Hour)
		commits := k.Commits()
		if len(commits) != 2 || !commits[0].Time.Equal(sent.Add(6*time.Hour)) || commits[1].Action != "Approve" || !commits[1].Time.Equal(sent.Add(390*time.Minute)) {
			t.Errorf("log is %+v, want the first at 6h and Approve at 6h30m", commits)
		}
		wantRecord(t, k, 2, 2, "Not started")
		if c := k.Requests(); c.Codes["GAIA_CO02"] != 2 {
			t.Errorf("counts are %+v, want 2 refused for their revision", c)
		}
	})
}

// Nobody sees a state in which a request that was due is missing, whatever he asks for.
func TestEveryLookSeesWhatWasDue(t *testing.T) {
	looks := map[string]func(*simulator.Kintone) int64{
		"Record":  func(k *simulator.Kintone) int64 { r, _ := k.Record(5, 1); return r.Revision },
		"Commits": func(k *simulator.Kintone) int64 { return k.Commits()[0].After },
		"Edit": func(k *simulator.Kintone) int64 {
			k.Edit(5, 1, "sato")
			r, _ := k.Record(5, 1)
			return r.Revision - 1
		},
		"Put": func(k *simulator.Kintone) (n int64) {
			k.Put(5, 1, func(r *simulator.RecordState) { n = r.Revision })
			return n
		},
	}
	for name, look := range looks {
		synctest.Test(t, func(t *testing.T) {
			k := newKintone(t, simulator.App{})
			k.SetFault(once(simulator.Fault{Kind: simulator.BadGateway, Applied: true, Delay: time.Minute}))
			if a := putOne(t, k, start); a.status != 502 {
				t.Fatalf("answer is %d", a.status)
			}
			time.Sleep(time.Minute)
			if got := look(k); got != 3 {
				t.Errorf("%s sees revision %d, want 3", name, got)
			}
		})
	}
}

// Before the checker runs, everything that was put off is executed, in its order.
func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKintone(t, simulator.App{})
		for i, delay := range []time.Duration{3 * time.Hour, time.Hour, 2 * time.Hour, time.Hour} {
			k.SetFault(func(simulator.Request) simulator.Fault {
				return simulator.Fault{Kind: simulator.Unavailable, Applied: true, Delay: delay}
			})
			putOne(t, k, `{"app":5,"id":`+string(rune('1'+i))+`,"action":"Start"}`)
		}
		wantUntouched(t, k)
		k.Flush()
		var order []int64
		for _, c := range k.Commits() {
			order = append(order, c.Record)
		}
		if want := []int64{2, 4, 3, 1}; !slices.Equal(order, want) {
			t.Errorf("flushed in order %v, want %v", order, want)
		}
		time.Sleep(24 * time.Hour)
		if n := k.CommitCount(); n != 4 {
			t.Errorf("%d actions happened in the end, want 4", n)
		}
	})
}

// A slow answer: the request is executed after the delay, also when its caller has gone by then.
func TestSlowAnswerOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKintone(t, simulator.App{})
		via, stop := simulator.Serve(k)
		defer stop()
		k.SetFault(once(simulator.Fault{Delay: time.Minute}))
		sent := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, _, err := roundTrip(t, via, "k", request("PUT", "/k/v1/record/status.json", start).WithContext(ctx))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("caller got %v, want its own timeout", err)
		}
		wantUntouched(t, k)
		time.Sleep(time.Minute)
		wantRecord(t, k, 1, 3, "In progress")
		if c := k.Commits(); c[0].Time.Sub(sent) != time.Minute {
			t.Errorf("executed after %v, want 1m", c[0].Time.Sub(sent))
		}
	})
}

// Flush does not wait for the slow ones either, and their callers get the answer of that execution.
func TestFlushExecutesSlowRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKintone(t, simulator.App{})
		k.SetFault(once(simulator.Fault{Delay: time.Minute}))
		answered := make(chan reply)
		go func() { answered <- putOne(t, k, start) }()
		time.Sleep(time.Second)
		k.Flush()
		wantRecord(t, k, 1, 3, "In progress")
		wantOK(t, putOne(t, k, `{"app":5,"id":1,"action":"Approve"}`))
		if a := <-answered; a.Revision != "3" {
			t.Errorf("slow answer is %d %s, want revision 3", a.status, a.body)
		}
		if n := k.CommitCount(); n != 2 {
			t.Errorf("%d actions happened, want 2", n)
		}
	})
}

// Hang answers nothing until the caller leaves, and holds one of the concurrent requests meanwhile.
func TestHang(t *testing.T) {
	for _, applied := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			k := newKintone(t, simulator.App{})
			via, stop := simulator.Serve(k)
			defer stop()
			k.SetFault(once(simulator.Fault{Kind: simulator.Hang, Applied: applied}))
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			go func() {
				time.Sleep(time.Minute)
				if a := get(t, k, "/k/v1/app.json?id=5"); a.header.Get("X-ConcurrencyLimit-Running") != "2" {
					t.Errorf("running beside a hanging request: %q, want 2", a.header.Get("X-ConcurrencyLimit-Running"))
				}
			}()
			_, _, _, err := roundTrip(t, via, "k", request("PUT", "/k/v1/record/status.json", start).WithContext(ctx))
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Hour {
				t.Errorf("caller got %v after %v, want its own timeout after 1h", err, time.Since(began))
			}
			if n := k.CommitCount(); (n == 1) != applied {
				t.Errorf("%d actions happened, applied: %v", n, applied)
			}
			synctest.Wait()
			if a := get(t, k, "/k/v1/app.json?id=5"); a.header.Get("X-ConcurrencyLimit-Running") != "1" {
				t.Errorf("running after it: %q, want 1", a.header.Get("X-ConcurrencyLimit-Running"))
			}
		})
	}
}

// Somebody else resends our PUT. Unpinned it acts twice in a self-loop, pinned never.
func TestRepeat(t *testing.T) {
	loop := simulator.Workflow()
	loop.Actions = append(loop.Actions, simulator.Action{Name: "Again", From: "Not started", To: "Not started"})
	k := newKintone(t, simulator.App{Process: loop})
	k.SetFault(func(simulator.Request) simulator.Fault { return simulator.Fault{Kind: simulator.Repeat} })
	if a := putOne(t, k, `{"app":5,"id":1,"action":"Again"}`); a.Revision != "5" {
		t.Errorf("answer is %s, want the second one", a.body)
	}
	commits := k.Commits()
	if len(commits) != 2 || commits[0].Request != "1" || commits[1].Request != "1/2" {
		t.Errorf("log is %+v, want requests 1 and 1/2", commits)
	}
	wantRefusal(t, putOne(t, k, `{"app":5,"id":1,"action":"Again","revision":5}`), 409, "GAIA_CO02")
	wantRecord(t, k, 1, 7, "Not started")
	if c := k.Requests(); c.Total != 2 || c.Today[5] != 4 {
		t.Errorf("counts are %+v, want 2 that arrived and 4 in the day's count", c)
	}
}

// The function sees what it needs to choose, and may call the simulator.
func TestFaultFunctionSeesTheRequest(t *testing.T) {
	k := newKintone(t, simulator.App{})
	var seen []simulator.Request
	k.SetFault(func(q simulator.Request) simulator.Fault {
		k.Edit(5, 9, "sato")
		q.Body = nil
		seen = append(seen, q)
		return simulator.Fault{}
	})
	put(t, k, members(1, 3))
	putOne(t, k, `{"app":"5","id":"4","action":"Start"}`)
	get(t, k, "/k/v1/records.json?app=5")
	get(t, k, "/k/v1/app.json?id=5")
	send(t, k, request("POST", "/k/v1/records.json", `{"app":5}`, header("X-HTTP-Method-Override", "GET")))
	put(t, k, `no json`)
	put(t, k, `{"app":{},"records":[1,{"id":"x"},{"id":7}]}`)
	want := []simulator.Request{
		{N: 1, Method: "PUT", API: "records/status.json", App: 5, Records: []int64{1, 2, 3}},
		{N: 2, Method: "PUT", API: "record/status.json", App: 5, Records: []int64{4}},
		{N: 3, Method: "GET", API: "records.json", App: 5},
		{N: 4, Method: "GET", API: "app.json", App: 5},
		{N: 5, Method: "GET", API: "records.json", App: 5},
		{N: 6, Method: "PUT", API: "records/status.json"},
		{N: 7, Method: "PUT", API: "records/status.json", Records: []int64{7}},
	}
	if len(seen) != len(want) {
		t.Fatalf("asked %d times, want %d", len(seen), len(want))
	}
	for i, w := range want {
		if g := seen[i]; g.N != w.N || g.Method != w.Method || g.API != w.API || g.App != w.App || !slices.Equal(g.Records, w.Records) {
			t.Errorf("request %d was shown as %+v, want %+v", i+1, g, w)
		}
	}
	if r, _ := k.Record(5, 9); r.Revision != 8 {
		t.Errorf("record 9 is at revision %d, want 8: the function may call the simulator", r.Revision)
	}
}

// docs/kintone.md 1.2 and 2.3: 429 and GAIA_DA02 are given before anything is executed.
func TestImpossibleFaultsPanic(t *testing.T) {
	for _, f := range []simulator.Fault{
		{Kind: simulator.TooManyRequests, Applied: true}, {Kind: simulator.Locked, Applied: true}, {Kind: 99}, {Kind: -1}, {Delay: -1},
	} {
		k := newKintone(t, simulator.App{})
		k.SetFault(func(simulator.Request) simulator.Fault { return f })
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%v %+v was taken", f.Kind, f)
				}
			}()
			putOne(t, k, start)
		}()
		k.SetFault(nil)
		if a := get(t, k, "/k/v1/app.json?id=5"); a.header.Get("X-ConcurrencyLimit-Running") != "1" {
			t.Errorf("after a panic %q requests are running", a.header.Get("X-ConcurrencyLimit-Running"))
		}
	}
}

// Latency and jitter come before execution.
func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := simulator.New(simulator.Config{Latency: 200 * time.Millisecond, Jitter: 100 * time.Millisecond, Seed: 7})
		k.AddApp(simulator.App{ID: 5, Tokens: []simulator.Token{simulator.ViewToken(token)}, Process: simulator.Workflow(), Records: 1})
		began := time.Now()
		wantOK(t, putOne(t, k, start))
		took := time.Since(began)
		if took < 200*time.Millisecond || took >= 300*time.Millisecond || took%time.Millisecond == 0 {
			t.Errorf("an answer took %v, want 200 to 300 ms at random", took)
		}
		if c := k.Commits(); c[0].Time.Sub(began) != took {
			t.Errorf("executed after %v, want %v", c[0].Time.Sub(began), took)
		}
	})
}
