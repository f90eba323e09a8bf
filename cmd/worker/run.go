package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"statusq/internal/dispatch"
	"statusq/internal/failpoint"
	"statusq/internal/kintone"
	"statusq/internal/queue"
	"statusq/internal/queue/embedded"
)

type runCmd struct {
	settings
	logging
	sizing
	Drain time.Duration `default:"30s" env:"STATUSQ_DRAIN" help:"How long requests in hand may take to finish after a first signal (${default})."`
}

func (c *runCmd) Run(stop context.Context, t *terminal) error {
	sites, err := c.sites()
	if err != nil {
		return err
	}
	layout, err := c.layout()
	if err != nil {
		return err
	}
	if c.NATSURL == "" && c.Replicas > 1 {
		return usageError{fmt.Errorf("--replicas: the embedded server keeps one copy; %d take a cluster of NATS servers (--nats-url)", c.Replicas)}
	}
	lg := c.logger(t.stderr)
	q, done, err := c.queue(stop, lg, layout)
	if stop.Err() != nil && err != nil {
		return nil // asked to end before it had begun
	}
	if err != nil {
		return err
	}
	defer done()
	lg.Info("statusq", "version", version())
	for _, s := range sites {
		lg.Info("site", "site", s.name, "kintone", s.client.BaseURL, "signs in", s.signsIn)
	}
	return serve(stop, c.Drain, q, sites, lg, observer(lg))
}

// queue connects to NATS, or starts the embedded server, and creates what is missing there. What stands there already and
// is not as the layout chooses is left so, and told: a worker that starts does not move data about.
func (s *settings) queue(ctx context.Context, lg *slog.Logger, layout queue.Layout) (*queue.Queue, func(), error) {
	cfg, err := s.remote()
	if err != nil {
		return nil, nil, err
	}
	done := func() {}
	if s.NATSURL == "" {
		server, err := embedded.Start(embedded.Config{
			Dir: s.StoreDir, Listen: s.NATSListen, Sync: s.Sync,
			Logger: func(level, text string) {
				if level != "info" {
					lg.Warn("nats-server", "says", text)
				}
			},
		})
		if err != nil {
			return nil, nil, err
		}
		failpoint.Hit("embedded.started")
		done = server.Close
		cfg = server.Config()
		lg.Info("embedded NATS", "url", server.URL(), "store", s.StoreDir, "sync", s.Sync)
	}
	cfg.Prefix, cfg.Name = s.Prefix, "statusq-worker"
	cfg.OnEvent = func(text string) { lg.Warn("nats", "event", text) }
	q, err := queue.Connect(ctx, cfg)
	if err != nil {
		done()
		return nil, nil, err
	}
	err = q.Setup(ctx, layout)
	if err == nil && layout != (queue.Layout{}) {
		err = tellUnlike(ctx, q, layout, lg)
	}
	if err != nil {
		q.Close()
		done()
		return nil, nil, err
	}
	failpoint.Hit("setup.done")
	return q, func() { q.Close(); done() }, nil
}

// tellUnlike warns of streams and buckets that differ from what the layout chooses.
func tellUnlike(ctx context.Context, q *queue.Queue, layout queue.Layout, lg *slog.Logger) error {
	findings, err := q.Inspect(ctx, layout)
	for _, f := range findings {
		if f.Unlike {
			lg.Warn("set up before, and left as it is", "name", f.Name, "differs", f.Detail, "todo", toSetUp(f))
		}
	}
	return err
}

// serve runs an owner for each site until stop ends and they have finished, or drain is over.
func serve(stop context.Context, drain time.Duration, q *queue.Queue, sites []site, lg *slog.Logger, observe func(dispatch.Event)) error {
	work, kill := context.WithCancelCause(context.WithoutCancel(stop))
	defer kill(nil)
	// One site that cannot go on ends the process: a supervisor starts it again, and the others are not lost.
	stop, stopAll := context.WithCancel(stop)
	defer stopAll()
	defer context.AfterFunc(stop, func() {
		failpoint.Hit("stop.begun")
		lg.Info("stopping: requests in hand finish, nothing new leaves", "drain", drain)
		time.AfterFunc(drain, func() {
			kill(errors.New("requests in hand did not finish within --drain; they will be sent again with the same pins"))
		})
	})()

	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)

	var (
		wg     sync.WaitGroup
		mu     sync.Mutex // guards errs
		errs   []error
		owners []*dispatch.Owner
	)
	var turns *dispatch.Turns
	if len(sites) > 1 {
		turns = new(dispatch.Turns)
	}
	host, _ := os.Hostname()
	name := fmt.Sprintf("%s-%d-%s", host, os.Getpid(), queue.NewID()[16:])
	for _, s := range sites {
		s.gate.OnChange = gateObserver(lg, s.name)
		gate := kintone.NewGate(s.gate)
		s.client.Gate = gate
		client, err := kintone.NewClient(s.client)
		if err != nil {
			return usageError{fmt.Errorf("site %s: %w", s.name, err)}
		}
		owner := dispatch.NewOwner(dispatch.Config{
			Site: s.name, Name: name, Client: client, Gate: gate, Queue: q, Apps: s.apps, Default: s.other,
			Turns: turns, Observe: observe,
		})
		owners = append(owners, owner)
		wg.Go(func() {
			if err := owner.Run(stop, work); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
				stopAll()
			}
		})
	}
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	for {
		select {
		case <-hangup:
			lg.Info("SIGHUP: the secrets are read again, and what stands still tries again")
			for _, o := range owners {
				if err := o.Resume(); err != nil {
					lg.Warn("secrets", "trouble", err)
				}
			}
		case <-ended:
			failpoint.Hit("stop.done")
			return errors.Join(errs...)
		}
	}
}
