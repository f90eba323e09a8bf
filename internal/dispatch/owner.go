package dispatch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// AppConfig is what an operator may say about one app. The zero value is useful.
type AppConfig struct {
	GuestSpace    int64             // 0 = none
	Single        bool              // one call per record, for apps whose webhooks must fire: bulk calls fire none
	Inflight      int               // status requests at a time; default 4, at most 15
	DailyRequests int               // budget per day; default 10,000 (kintone's Standard course), negative = no limit
	WhenSpent     kintone.WhenSpent // what happens when it is spent; default kintone.SpentHalts
	Shared        bool              // others act under the worker's login name too: a lost answer is then harder to explain
	Attempts      int               // of a job whose reason may pass; default 5
	Backoff       time.Duration     // before the second attempt, doubling; default 15 s
	LateWindow    time.Duration     // how long after an unclear answer a copy of the request is taken to be about; default 1 h
}

func (c AppConfig) withDefaults() AppConfig {
	or := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	or(&c.Inflight, 4)
	or(&c.DailyRequests, 10_000)
	or(&c.Attempts, 5)
	c.Inflight = min(max(c.Inflight, 1), fence)
	c.DailyRequests = max(c.DailyRequests, 0)
	if c.Backoff <= 0 {
		c.Backoff = 15 * time.Second
	}
	if c.LateWindow <= 0 {
		c.LateWindow = time.Hour
	}
	return c
}

// Config is what an Owner needs.
type Config struct {
	Site     string
	Name     string // of this worker, for operators; unique among workers
	Client   *kintone.Client
	Gate     *kintone.Gate
	Queue    *queue.Queue
	Apps     map[int64]AppConfig // apps to serve even before the first job
	Default  AppConfig           // of apps that are not in Apps
	Discover time.Duration       // how often it looks for apps that have no lane yet; default 1 s
	Turns    *Turns              // shared by the owners of one process; may be nil
	Observe  func(Event)         // may be nil; must not block
}

// Turns spreads the sites over the workers that could serve them: who has more of them lets the others go first when one
// is free. A site that is owned stays where it is.
type Turns struct {
	owners atomic.Int32 // in this process
	owned  atomic.Int32 // sites
}

// yield is how long an owner lets others go first: not so long that a takeover takes more than 20 s.
func (t *Turns) yield() time.Duration {
	const turn = 500 * time.Millisecond
	return time.Duration(min(t.owned.Load(), 2))*turn + rand.N(turn/2)
}

// An Owner serves one site whenever it holds the site's lease, and stands by otherwise.
type Owner struct {
	cfg  Config
	rank int32 // among the owners of its process

	// Owned by Run.
	staggered bool
	signing   int       // the credentials that everything has been tried with
	renewedAt time.Time // when the secrets were read last
	trouble   string    // why they could not be

	mu    sync.Mutex // guards what follows
	epoch uint64     // 0 while standing by
	lanes map[int64]*lane
	log   map[int64]uint64 // jobs in the log by app, as last seen
}

// NewOwner makes an owner; Run sets it to work.
func NewOwner(cfg Config) *Owner {
	o := &Owner{cfg: cfg, lanes: make(map[int64]*lane), signing: cfg.Client.Signing()}
	if cfg.Turns != nil {
		o.rank = cfg.Turns.owners.Add(1) - 1
	}
	return o
}

// Run serves the site until stop ends; requests that are out then finish, unless work ends before. It returns nil
// after a stop that finished, and otherwise why it could not go on. Losing the lease is not an error: it stands by
// again.
func (o *Owner) Run(stop, work context.Context) error {
	for n := 1; ; n++ {
		o.tell(Event{Kind: EventStandby})
		lease, err := o.acquire(stop)
		if err != nil {
			if stop.Err() != nil {
				return nil
			}
			return fmt.Errorf("site %s: acquire the lease: %w", o.cfg.Site, err)
		}
		began := time.Now()
		if o.cfg.Turns != nil {
			o.cfg.Turns.owned.Add(1)
		}
		err = o.serve(stop, work, lease)
		if o.cfg.Turns != nil {
			o.cfg.Turns.owned.Add(-1)
		}
		if time.Since(began) > time.Minute {
			n = 1
		}
		o.mu.Lock()
		o.epoch = 0
		o.lanes = make(map[int64]*lane)
		o.mu.Unlock()
		// After a clean end the next owner need not wait; a deposed one has nothing to release.
		release, cancel := context.WithTimeout(context.WithoutCancel(work), 3*time.Second)
		released := lease.Release(release)
		cancel()
		switch {
		case stop.Err() != nil && err == nil:
			return nil
		case stop.Err() != nil:
			return fmt.Errorf("site %s: %w", o.cfg.Site, err)
		case work.Err() != nil:
			return context.Cause(work)
		}
		o.tell(Event{Kind: EventDeposed, Detail: errors.Join(err, released).Error()})
		if err := sleep(stop, backOff(n, 30*time.Second, 0)); err != nil {
			return nil
		}
	}
}

// acquire waits for the site.
func (o *Owner) acquire(ctx context.Context) (*queue.Lease, error) {
	if o.cfg.Turns == nil {
		return o.cfg.Queue.Acquire(ctx, o.cfg.Site, o.cfg.Name, nil)
	}
	if !o.staggered {
		// When a process begins, its owners do not reach for all sites at once.
		o.staggered = true
		if err := sleep(ctx, time.Duration(min(o.rank, 5))*300*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return o.cfg.Queue.Acquire(ctx, o.cfg.Site, o.cfg.Name, o.cfg.Turns.yield)
}

// serve runs the site's lanes while the lease holds.
func (o *Owner) serve(stop, work context.Context, lease *queue.Lease) error {
	held, cancel := context.WithCancelCause(work)
	defer cancel(nil)
	defer context.AfterFunc(lease.Context(), func() { cancel(context.Cause(lease.Context())) })()

	o.mu.Lock()
	o.epoch = lease.Epoch()
	o.mu.Unlock()
	o.tell(Event{Kind: EventOwner, Detail: fmt.Sprintf("epoch %d", lease.Epoch())})

	var (
		wg     sync.WaitGroup
		failed = make(chan error, 1)
	)
	defer wg.Wait()
	campaigns := newCampaigns(o.cfg.Queue, o.cfg.Site, o.tell)
	if err := campaigns.load(held); err != nil {
		return fmt.Errorf("read campaigns: %w", err)
	}
	watching, unwatch := context.WithCancel(held)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		o.introduce(watching)
		campaigns.watch(watching)
	}()
	defer func() { unwatch(); <-watched }()
	start := func(app int64) {
		l := o.newLane(app, lease.Epoch())
		l.campaigns = campaigns
		campaigns.join(l.poked)
		wg.Go(func() {
			if err := l.run(stop, held); err != nil {
				// A lane that lost a compare-and-swap, or cannot go on, gives up the whole site.
				select {
				case failed <- err:
				default:
				}
				cancel(err)
			}
		})
	}
	end, err := o.cfg.Queue.Serve(held, o.cfg.Site, o.Verbs())
	if err != nil {
		return fmt.Errorf("answer questions: %w", err)
	}
	defer end()
	apps, err := o.known(held)
	if err != nil {
		return err
	}
	for _, app := range apps {
		start(app)
	}
	looked := time.Now()
	for {
		if time.Since(looked) > recheck {
			// The list may have come from a server that lagged behind.
			if apps, err := o.known(held); err == nil {
				looked = time.Now()
				for _, app := range apps {
					if !o.serves(app) {
						start(app)
					}
				}
			}
		}
		counts, err := o.cfg.Queue.Backlog(held, o.cfg.Site)
		if err == nil {
			o.mu.Lock()
			o.log = counts
			var missing []int64
			for app := range counts {
				if o.lanes[app] == nil {
					missing = append(missing, app)
				}
			}
			o.mu.Unlock()
			slices.Sort(missing)
			for _, app := range missing {
				start(app)
			}
		} else if held.Err() == nil && stop.Err() == nil {
			o.tell(Event{Kind: EventTrouble, Detail: "look for apps: " + err.Error()})
		}
		o.renew()
		tick := time.NewTimer(cmp.Or(o.cfg.Discover, time.Second))
		select {
		case <-tick.C:
		case <-held.Done():
			tick.Stop()
			wg.Wait()
			select {
			case err := <-failed:
				return err
			default:
				return context.Cause(held)
			}
		case <-stop.Done():
			tick.Stop()
			// Who waits at the gate has not left, and need not.
			o.cfg.Gate.Close()
			wg.Wait()
			select {
			case err := <-failed:
				return err
			default:
				return nil
			}
		}
	}
}

// introduce writes down at which domain the site is, for those who know a domain and look for its site.
func (o *Owner) introduce(ctx context.Context) {
	facts, err := o.cfg.Queue.Facts(ctx, o.cfg.Site, 0)
	if err != nil && !errors.Is(err, queue.ErrGone) || facts.Domain == o.cfg.Client.Host() {
		return
	}
	facts.Domain = o.cfg.Client.Host()
	if err := o.cfg.Queue.PutFacts(ctx, o.cfg.Site, 0, facts); err != nil && ctx.Err() == nil {
		o.tell(Event{Kind: EventTrouble, Detail: err.Error()})
	}
}

// recheck is how often the owner looks again for apps that have nothing in the log.
const recheck = time.Minute

func (o *Owner) serves(app int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lanes[app] != nil
}

// known are the apps that need a lane although their log may be empty: those of the configuration, and those that ever
// had one, for jobs may be parked there or stand in a slot.
func (o *Owner) known(ctx context.Context) ([]int64, error) {
	apps := slices.Collect(maps.Keys(o.cfg.Apps))
	slots, err := o.cfg.Queue.Slots(ctx, o.cfg.Site, 0)
	if err != nil {
		return nil, err
	}
	for _, s := range slots {
		apps = append(apps, s.App)
	}
	slices.Sort(apps)
	return slices.Compact(apps), nil
}

// renew reads the secrets again while something stands still that new ones might set going. When they have changed,
// whoever has found that out, it lets everything try again.
func (o *Owner) renew() {
	if time.Since(o.renewedAt) >= renewEvery && o.waits() {
		o.renewedAt = time.Now()
		trouble := ""
		if _, err := o.cfg.Client.Renew(); err != nil {
			trouble = err.Error()
		}
		if trouble != "" && trouble != o.trouble {
			o.tell(Event{Kind: EventTrouble, Detail: trouble})
		}
		o.trouble = trouble
	}
	if n := o.cfg.Client.Signing(); n != o.signing {
		o.signing = n
		o.tell(Event{Kind: EventRenewed})
		o.resumeAll()
	}
}

// waits reports whether the site or one of its apps stands still.
func (o *Owner) waits() bool {
	if g := o.cfg.Gate.State(); g.Halted || g.Breaker != kintone.BreakerClosed {
		return true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, l := range o.lanes {
		if s := l.Status(); s.State == "halted" || s.State == "unserved" {
			return true
		}
	}
	return false
}

// Resume reads the secrets again, and lets the site and all its apps try at once that stand still, whether or not anything
// has changed. The error says why the secrets could not be read; the old ones are tried then. It may be called from
// anywhere.
func (o *Owner) Resume() error {
	_, err := o.cfg.Client.Renew()
	o.resumeAll()
	if err != nil {
		return fmt.Errorf("site %s: %w", o.cfg.Site, err)
	}
	return nil
}

func (o *Owner) resumeAll() {
	o.cfg.Gate.Resume()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, l := range o.lanes {
		l.resume()
	}
}

func (o *Owner) newLane(app int64, epoch uint64) *lane {
	cfg, ok := o.cfg.Apps[app]
	if !ok {
		cfg = o.cfg.Default
	}
	cfg = cfg.withDefaults()
	l := &lane{
		site: o.cfg.Site, cfg: cfg, epoch: epoch, owner: o.cfg.Name,
		app:    kintone.App{ID: app, GuestSpace: cfg.GuestSpace},
		client: o.cfg.Client, gate: o.cfg.Gate, queue: o.cfg.Queue, observe: o.cfg.Observe,
		answers:  make(chan answer),
		asked:    make(chan *errand),
		resumed:  make(chan struct{}, 1),
		broken:   make(chan error, 1),
		backlog:  newBacklog(),
		ended:    make(map[uint64]struct{}),
		touched:  make(map[int64]bool),
		poked:    make(chan struct{}, 1),
		pool:     kintone.MaxRecords,
		badUsers: make(map[string]time.Time),
	}
	l.us = l.client.Identity(l.app)
	l.setState("starting")
	o.mu.Lock()
	o.lanes[app] = l
	o.mu.Unlock()
	return l
}

// SiteStatus is what operators see of a site.
type SiteStatus struct {
	V     int          `json:"v"`
	Site  string       `json:"site"`
	Owner string       `json:"owner"`
	Epoch uint64       `json:"epoch"` // 0 while standing by
	Gate  GateStatus   `json:"gate"`
	Lanes []LaneStatus `json:"lanes"`
}

// GateStatus is what operators see of what all requests of a site pass.
type GateStatus struct {
	Breaker     kintone.BreakerState `json:"breaker"`
	Halted      string               `json:"halted,omitempty"` // why the site waits for somebody to act
	Why         string               `json:"why,omitempty"`
	Until       time.Time            `json:"until,omitzero"`
	Concurrency int                  `json:"concurrency"` // requests that may be out at a time now
	InUse       int                  `json:"inUse"`
	Waiting     int                  `json:"waiting"`

	RequestsPerSecond float64 `json:"requestsPerSecond"` // at most
}

// Status is what the owner knows now. It may be called from anywhere.
func (o *Owner) Status() SiteStatus {
	o.mu.Lock()
	s := SiteStatus{V: 1, Site: o.cfg.Site, Owner: o.cfg.Name, Epoch: o.epoch}
	lanes := slices.Collect(maps.Values(o.lanes))
	log := o.log
	o.mu.Unlock()
	g := o.cfg.Gate.State()
	s.Gate = GateStatus{Breaker: g.Breaker, Why: g.Why, Until: g.Until, Concurrency: g.Limit, InUse: g.InUse, Waiting: g.Waiting, RequestsPerSecond: g.RequestsPerSecond}
	if g.Halted {
		s.Gate.Halted, s.Gate.Why, _ = strings.Cut(g.Why, ": ")
	}
	for _, l := range lanes {
		st := l.Status()
		if st.State != "running" && st.State != "halted" || st.Why == ReasonWorkerTooOld {
			st.Backlog = log[st.App]
		}
		s.Lanes = append(s.Lanes, st)
	}
	slices.SortFunc(s.Lanes, func(a, b LaneStatus) int { return int(a.App - b.App) })
	return s
}

// Verbs are what the owner answers over the queue's request-reply (statusq.rpc.<site>.<verb>).
func (o *Owner) Verbs() map[string]func(context.Context, []byte) ([]byte, error) {
	verbs := map[string]func(context.Context, []byte) ([]byte, error){
		"lanes": func(context.Context, []byte) ([]byte, error) { return json.Marshal(o.Status()) },
		"resume": func(context.Context, []byte) ([]byte, error) {
			if err := o.Resume(); err != nil {
				return nil, err
			}
			return json.Marshal(o.Status())
		},
		"inflight":         o.showFlights,
		"inflight-resolve": o.resolveFlight,
	}
	maps.Copy(verbs, o.changeVerbs())
	return verbs
}

func (o *Owner) tell(e Event) {
	if o.cfg.Observe != nil {
		e.Site = o.cfg.Site
		o.cfg.Observe(e)
	}
}
