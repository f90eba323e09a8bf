package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"statusq/internal/dispatch"
	"statusq/internal/kintone"
	"statusq/internal/kintone/simulator"
	"statusq/internal/queue"
	"statusq/internal/queue/embedded"
)

type demoCmd struct {
	Jobs int  `default:"10000" help:"How many jobs, over three apps (${default})."`
	Keep bool `help:"Leave the queue open at the end, to look at it with enqueue, until interrupted."`
	logging
}

// Apps of the demonstration.
var demoApps = []struct {
	id    int64
	name  string
	token kintone.Secret
}{{5, "Orders", "demotoken5"}, {6, "Invoices", "demotoken6"}, {7, "Leave requests", "demotoken7"}}

// demoCampaign is the name that the demonstration's jobs are published under.
const demoCampaign = "demo"

// Run shows the whole system at work: an embedded NATS on disk, a simulated kintone behind HTTP, a worker, jobs of which
// seven must fail, and two mishaps on the way. It is an error if anything ends otherwise than it should.
func (c *demoCmd) Run(stop context.Context, t *terminal) error {
	if c.Jobs < 100 {
		return usageError{errors.New("--jobs: at least 100")}
	}
	began := time.Now()
	dir, err := os.MkdirTemp("", "statusq-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	lg := slog.New(slog.DiscardHandler)
	if c.LogLevel == "debug" {
		lg = c.logger(t.stderr)
	}

	listen := ""
	if c.Keep {
		listen = "127.0.0.1:0"
	}
	server, err := embedded.Start(embedded.Config{Dir: dir, Listen: listen})
	if err != nil {
		return err
	}
	defer server.Close()
	q, err := queue.Connect(stop, server.Config())
	if err != nil {
		return err
	}
	defer q.Close()
	if err := q.Setup(stop, queue.Layout{}); err != nil {
		return err
	}

	kin := demoKintone(c.Jobs)
	transport, quit := simulator.Serve(kin)
	defer quit()
	jobs := demoJobs(c.Jobs)
	fmt.Fprintf(t.stdout, "An embedded NATS (every write on disk), a simulated kintone with %d apps, and a worker.\n", len(demoApps))
	fmt.Fprintf(t.stdout, "Publishing %d jobs, one per record; seven of them are bound to fail.\n", len(jobs))
	if _, err := q.Publish(stop, jobs); err != nil {
		return fmt.Errorf("publish: %w", err)
	}

	fast := dispatch.AppConfig{Attempts: 2, Backoff: time.Second}
	s := site{
		name:   "main",
		client: kintone.Config{BaseURL: "http://127.0.0.1", Transport: transport, Credentials: kintone.Credentials{AppTokens: make(map[int64][]kintone.Secret)}},
		gate:   kintone.GateConfig{RequestsPerSecond: 50},
		apps:   make(map[int64]dispatch.AppConfig),
	}
	for _, a := range demoApps {
		s.apps[a.id] = fast
		s.client.Credentials.AppTokens[a.id] = []kintone.Secret{a.token}
	}
	running, end := context.WithCancel(stop)
	defer end()
	var (
		wg     sync.WaitGroup
		failed error
	)
	wg.Go(func() { failed = serve(running, 10*time.Second, q, []site{s}, lg, observer(lg)) })

	tally, err := demoWatch(running, t.stdout, q, kin, len(jobs))
	if err != nil {
		end()
		wg.Wait()
		return cmp.Or(failed, err)
	}
	took := time.Since(began)
	verdict := demoReport(stop, t.stdout, q, kin, tally, took)
	if c.Keep && verdict == nil {
		fmt.Fprintf(t.stdout, "\nThe queue stays open until Ctrl-C. In another terminal:\n\n"+
			"  go run ./cmd/enqueue dead ls --store-dir %[1]s\n  go run ./cmd/enqueue dead show bad-4 --store-dir %[1]s\n  go run ./cmd/enqueue lanes --store-dir %[1]s\n", dir)
		<-stop.Done()
	} else if verdict == nil {
		fmt.Fprintf(t.stdout, "\nTo look around with enqueue (dead ls, dead show, job, lanes), run it again with --keep.\n")
	}
	end()
	wg.Wait()
	return errors.Join(verdict, failed)
}

// demoKintone has three apps, and two mishaps: an answer that is lost although the call was executed, and a second in
// which kintone is not there.
func demoKintone(jobs int) *simulator.Kintone {
	k := simulator.New(simulator.Config{Latency: 30 * time.Millisecond})
	k.AddUser("sato", "sato")
	review := simulator.Workflow()
	review.States = append(review.States, simulator.State{Name: "In review", Entities: []simulator.Entity{simulator.User("sato")}})
	review.Actions = append(review.Actions, simulator.Action{Name: "Review", From: "Not started", To: "In review"})
	for _, a := range demoApps {
		k.AddApp(simulator.App{
			ID: a.id, Name: a.name, Records: jobs, Process: review,
			Tokens: []simulator.Token{simulator.ViewToken(a.token.Reveal())},
		})
	}
	// Somebody else's record, and somebody who was quicker.
	must(k.Put(6, 13, func(r *simulator.RecordState) { r.Assignees = []string{"sato"} }))
	must(k.Put(7, 17, func(r *simulator.RecordState) { r.Status = "In review"; r.Assignees = []string{"sato"} }))
	var calls, lost, away atomic.Int64
	k.SetFault(func(r simulator.Request) simulator.Fault {
		if r.Method != "PUT" {
			return simulator.Fault{}
		}
		now := time.Now().UnixNano()
		switch n := calls.Add(1); {
		case n == 12 && lost.CompareAndSwap(0, 1):
			return simulator.Fault{Kind: simulator.LostReply, Applied: true}
		case n == 30:
			away.Store(now)
		}
		if a := away.Load(); a != 0 && time.Duration(now-a) < time.Second {
			return simulator.Fault{Kind: simulator.Unavailable}
		}
		return simulator.Fault{}
	})
	return k
}

func must(err error) {
	if err != nil {
		panic(err) // the demonstration's own set-up
	}
}

// demoJobs are one job per record, over the three apps in turn, and among them the seven that must fail.
func demoJobs(n int) []queue.Job {
	jobs := make([]queue.Job, n)
	for i := range jobs {
		jobs[i] = queue.Job{
			ID: fmt.Sprintf("demo-%d", i+1), Site: "main", App: demoApps[i%3].id, Record: int64(i/3 + 20),
			Action: "Start", Revision: -1, Campaign: demoCampaign, By: "demo",
		}
	}
	bad := []queue.Job{
		{App: 5, Record: 9_999_999, Action: "Start", Revision: -1},              // not there
		{App: 5, Record: 1, Action: "Aprove", Revision: -1},                     // a typo
		{App: 6, Record: 2, Action: "Review", Revision: -1},                     // an assignee is missing
		{App: 6, Record: 13, Action: "Start", Revision: -1},                     // somebody else's record
		{App: 7, Record: 3, Action: "Start", Revision: 7},                       // changed since the publisher looked
		{App: 7, Record: 17, Action: "Approve", Revision: -1},                   // stands somewhere else
		{App: 5, Record: 4, Action: "Review", Assignee: "nobody", Revision: -1}, // kintone alone knows that there is no such user
	}
	for i, j := range bad {
		j.ID, j.Site, j.Campaign, j.By = fmt.Sprintf("bad-%d", i+1), "main", demoCampaign, "demo"
		jobs[(i+1)*n/(len(bad)+1)] = j
	}
	return jobs
}

// demoWatch follows the results until every job has ended.
func demoWatch(ctx context.Context, w io.Writer, q *queue.Queue, k *simulator.Kintone, total int) (map[string]queue.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	ended := make(map[string]queue.Result, total)
	next := total / 5
	for r, err := range q.WatchResults(ctx, queue.ResultFilter{Site: "main", Campaign: demoCampaign}) {
		if err != nil {
			return nil, fmt.Errorf("%d of %d jobs ended: %w", len(ended), total, err)
		}
		if r.Job == "" {
			continue
		}
		ended[r.Job] = r
		if len(ended) >= next || len(ended) == total {
			fmt.Fprintf(w, "  %6d of %d jobs ended, after %d requests to kintone\n", len(ended), total, k.Requests().Total)
			next += total / 5
		}
		if len(ended) == total {
			return ended, nil
		}
	}
	return nil, fmt.Errorf("%d of %d jobs ended: %w", len(ended), total, context.Cause(ctx))
}

// demoReport prints what became of the jobs, and compares it with what the simulated kintone did.
func demoReport(ctx context.Context, w io.Writer, q *queue.Queue, k *simulator.Kintone, ended map[string]queue.Result, took time.Duration) error {
	k.Flush()
	outcomes := make(map[queue.Outcome]int)
	for _, r := range ended {
		outcomes[r.Outcome]++
	}
	runs := make(map[[2]int64]int)
	twice := 0
	for _, c := range k.Commits() {
		key := [2]int64{c.App, c.Record}
		if runs[key]++; runs[key] == 2 {
			twice++
		}
	}
	counts := k.Requests()
	fmt.Fprintf(w, "\n%d jobs in %.1f s, with %d requests to kintone (%.2f per 100 jobs), although an answer was lost and kintone was away for a second.\n\n",
		len(ended), took.Seconds(), counts.Total, 100*float64(counts.Total)/float64(len(ended)))
	tw := table.NewWriter()
	tw.SetStyle(table.StyleLight)
	tw.AppendHeader(table.Row{"outcome", "jobs"})
	for _, o := range slices.Sorted(maps.Keys(outcomes)) {
		tw.AppendRow(table.Row{o, outcomes[o]})
	}
	tw.AppendRow(table.Row{"run twice in kintone", twice})
	fmt.Fprintln(w, tw.Render())

	tw = table.NewWriter()
	tw.SetStyle(table.StyleLight)
	tw.AppendHeader(table.Row{"dead letter", "app", "record", "action", "reason", "code", "what kintone or the worker said"})
	tw.SetColumnConfigs([]table.ColumnConfig{{Number: 7, WidthMax: 60, WidthMaxEnforcer: text.WrapSoft}})
	dead := 0
	for d, err := range q.Dead(ctx, queue.DeadFilter{Site: "main"}) {
		if err != nil {
			return err
		}
		dead++
		tw.AppendRow(table.Row{d.Job.ID, d.App, d.Job.Record, d.Job.Action, d.Reason, d.Code, d.Message})
	}
	fmt.Fprintln(w, tw.Render())

	switch {
	case twice != 0:
		return fmt.Errorf("%d actions ran twice", twice)
	case outcomes[queue.Applied] != len(ended)-7 || outcomes[queue.Dead] != 7 || dead != 7:
		return fmt.Errorf("7 of %d jobs should have died and the others been applied, but the outcomes are %v", len(ended), outcomes)
	case k.CommitCount() != outcomes[queue.Applied]:
		return fmt.Errorf("the results say that %d actions ran, kintone ran %d", outcomes[queue.Applied], k.CommitCount())
	}
	fmt.Fprintln(w, "Every job ended as it should: kintone's own log and the results agree.")
	return nil
}
