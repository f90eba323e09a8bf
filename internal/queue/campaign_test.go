package queue_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/queue"
)

func TestCampaigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		q := s.Connect(t)
		_, err := q.Campaign(t.Context(), "月末")
		wantErr(t, "a campaign that is not there", err, queue.ErrGone)
		for name, site := range map[string]string{"月末": "main", "b": "main", "c": "other"} {
			if err := q.PutCampaign(t.Context(), queue.Campaign{Name: name, Site: site, Total: 10, Options: map[string]string{"file": "x.csv"}}); err != nil {
				t.Fatal(err)
			}
		}
		// Progress and cancellation do not undo each other.
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				err := q.UpdateCampaign(t.Context(), "月末", func(c *queue.Campaign) error {
					c.Published++
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			err := q.UpdateCampaign(t.Context(), "月末", func(c *queue.Campaign) error {
				c.Cancelled, c.CancelledBy = time.Now(), "sato"
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		c, err := q.Campaign(t.Context(), "月末")
		if err != nil || c.Published != 10 || c.CancelledBy != "sato" || c.Total != 10 || c.Options["file"] != "x.csv" || c.V != 1 {
			t.Errorf("the campaign is %+v (%v)", c, err)
		}
		if n := len(drain(t, q.Campaigns(t.Context(), "main"))); n != 2 {
			t.Errorf("main has %d campaigns, want 2", n)
		}
		refused := errors.New("refused")
		err = q.UpdateCampaign(t.Context(), "b", func(*queue.Campaign) error { return refused })
		wantErr(t, "a change that refuses", err, refused)

		ctx, cancel := context.WithCancel(t.Context())
		seen := make(chan queue.Campaign)
		go func() {
			defer close(seen)
			for c, err := range q.WatchCampaigns(ctx, "main") {
				if err != nil {
					return
				}
				seen <- c
			}
		}()
		<-seen
		<-seen
		if err := q.UpdateCampaign(t.Context(), "b", func(c *queue.Campaign) error { c.Cancelled = time.Now(); return nil }); err != nil {
			t.Fatal(err)
		}
		if c := <-seen; c.Name != "b" || c.Cancelled.IsZero() {
			t.Errorf("the watcher sees %+v, want b cancelled", c)
		}
		cancel()
		<-seen
	})
}

func TestControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		q := s.Connect(t)
		_, err := q.Facts(t.Context(), "main", 5)
		wantErr(t, "facts that nobody has learned", err, queue.ErrGone)
		facts := queue.Facts{AppName: "受注", StatusField: "ステータス", Step: 2}
		if err := q.PutFacts(t.Context(), "main", 5, facts); err != nil {
			t.Fatal(err)
		}
		if err := q.SetPause(t.Context(), "main", 5, &queue.Pause{By: "sato", Reason: "audit"}); err != nil {
			t.Fatal(err)
		}
		if err := q.SetPause(t.Context(), "main", 0, &queue.Pause{By: "suzuki"}); err != nil {
			t.Fatal(err)
		}
		if err := q.SetPause(t.Context(), "main-2", 7, &queue.Pause{}); err != nil {
			t.Fatal(err)
		}
		if got, err := q.Facts(t.Context(), "main", 5); err != nil || got != facts {
			t.Errorf("the facts are %+v (%v), want them kept over a pause", got, err)
		}
		controls, err := q.Controls(t.Context(), "main")
		if err != nil || len(controls) != 2 {
			t.Fatalf("main has %+v (%v), want the app's and the site's", controls, err)
		}
		for _, c := range controls {
			if c.Site != "main" || c.Pause == nil || (c.App == 5) != (c.Pause.By == "sato") {
				t.Errorf("control %+v", c)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		seen := make(chan queue.Control)
		go func() {
			defer close(seen)
			for c, err := range q.WatchControl(ctx, "main") {
				if err != nil {
					return
				}
				seen <- c
			}
		}()
		<-seen
		<-seen
		s.Disconnect()
		time.Sleep(time.Minute)
		if err := q.SetPause(t.Context(), "main", 5, nil); err != nil {
			t.Fatal(err)
		}
		if c := <-seen; c.App != 5 || c.Pause != nil || *c.Facts != facts {
			t.Errorf("the watcher sees %+v, want app 5 resumed", c)
		}
		cancel()
		<-seen
	})
}

func TestAskAndServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		owner, client := s.Connect(t), s.Connect(t)
		_, err := client.Ask(t.Context(), "main", "lanes", nil)
		wantErr(t, "nobody serves", err, queue.ErrNoWorker)
		begun := make(chan bool)
		stop, err := owner.Serve(t.Context(), "main", map[string]queue.Handler{
			"lanes": func(_ context.Context, request []byte) ([]byte, error) {
				return append([]byte("got "), request...), nil
			},
			"fail": func(context.Context, []byte) ([]byte, error) { return nil, errors.New("app 5:\nno such app") },
			"slow": func(ctx context.Context, _ []byte) ([]byte, error) {
				begun <- true
				<-ctx.Done()
				return nil, ctx.Err()
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		slow := make(chan error)
		go func() {
			_, err := client.Ask(t.Context(), "main", "slow", nil)
			slow <- err
		}()
		<-begun
		if got, err := client.Ask(t.Context(), "main", "lanes", []byte("all")); err != nil || string(got) != "got all" {
			t.Errorf("beside a slow question: %q, %v", got, err)
		}
		_, err = client.Ask(t.Context(), "main", "fail", nil)
		if e, ok := errors.AsType[*queue.RemoteError](err); !ok || e.Text != "app 5: no such app" {
			t.Errorf("a handler that fails: %v", err)
		}
		_, err = client.Ask(t.Context(), "other", "lanes", nil)
		wantErr(t, "another site", err, queue.ErrNoWorker)
		stop()
		if err := <-slow; err == nil {
			t.Error("a stopped handler answered")
		}
		_, err = client.Ask(t.Context(), "main", "lanes", nil)
		wantErr(t, "after stop", err, queue.ErrNoWorker)
	})
}

// A domain is the same domain however it is written, and with the .s. of those who bring a client certificate
// (JAVA: the host becomes {sub}.s.cybozu.com).
func TestSiteOfDomain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		q := s.Connect(t)
		_, err := q.SiteOfDomain(t.Context(), "c-bot.cybozu.com", "")
		wantErr(t, "before a worker has run", err, queue.ErrGone)
		if sites, err := q.Sites(t.Context()); err != nil || len(sites) != 0 {
			t.Errorf("before a worker has run there are the sites %q (%v)", sites, err)
		}
		if err := q.SetPause(t.Context(), "paused", 0, &queue.Pause{}); err != nil { // which anybody can do to any name
			t.Fatal(err)
		}
		for site, domain := range map[string]string{"main": "c-bot.s.cybozu.com", "abroad": "C-Bot.kintone.com", "test": "127.0.0.1:8080", "six": "[::1]:8080", "east": "x.cybozu.cn", "west": "x.cybozu.cn"} {
			if err := q.PutFacts(t.Context(), site, 0, queue.Facts{Domain: domain}); err != nil {
				t.Fatal(err)
			}
		}
		// What is known of an app, or is stored under a longer key, is not about a site.
		if err := q.PutFacts(t.Context(), "main", 5, queue.Facts{AppName: "受注", Domain: "x.cybozu.com"}); err != nil {
			t.Fatal(err)
		}
		if sites, err := q.Sites(t.Context()); err != nil || !slices.Equal(sites, []string{"abroad", "east", "main", "six", "test", "west"}) {
			t.Errorf("the sites are %q (%v)", sites, err)
		}
		for _, c := range []struct{ domain, site, want string }{
			{"c-bot.cybozu.com", "", "main"},
			{"C-BOT.S.Cybozu.com.", "", "main"},
			{" https://c-bot.cybozu.com/k/5/show#record=1 ", "", "main"},
			{"c-bot.cybozu.com:443", "main", "main"},
			{"c-bot.kintone.com", "", "abroad"},
			{"127.0.0.1", "", "test"},
			{"http://127.0.0.1:8080", "", "test"},
			{"http://127.0.0.1:8081/", "", ""},
			{"127.0.0.1:443", "", ""},
			{"c-bot.cybozu.com:8443", "", ""},
			{"http://[::1]:8080/", "", "six"},
			{"[::1]", "", "six"},
			{"[::1]:8081", "", ""},
			{"x.cybozu.cn", "west", "west"},
			{"x.cybozu.cn", "", ""},     // which of the two?
			{"x.cybozu.cn", "main", ""}, // another one's
			{"c-bot.cybozu.com", "abroad", ""},
			{"x.cybozu.com", "", ""},
			{"bot.cybozu.com", "", ""},
			{"c-bot.cybozu.cn", "", ""},
			{"s.cybozu.com", "", ""},
			{"", "", ""},
		} {
			site, err := q.SiteOfDomain(t.Context(), c.domain, c.site)
			if site != c.want || (err == nil) != (c.want != "") {
				t.Errorf("SiteOfDomain(%q, %q) = %q, %v; want %q", c.domain, c.site, site, err, c.want)
			}
		}
	})
}
