package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"statusq/internal/failpoint"
)

// Layout is what an installation chooses. What is 0 is not chosen: it is created with the default, and any that stands
// will do.
type Layout struct {
	Replicas    int   // copies of each stream and bucket; default 1. More takes a cluster with as many servers
	LogBytes    int64 // most that the log holds, in bytes; default 10 GiB
	LedgerBytes int64 // most that the ledger holds, in bytes; default 10 GiB
}

// MaxReplicas is the most copies that NATS keeps of a stream.
const MaxReplicas = 5

// Finding is one line of [Queue.Inspect].
type Finding struct {
	Name    string // of the stream or bucket
	OK      bool
	Missing bool
	Unlike  bool // it keeps the promises, and differs from what the layout chooses: [Queue.Adjust] changes it
	TooFew  bool // it is Unlike, and Adjust cannot change it: there are fewer servers than copies to be kept
	Detail  string
}

// ErrDiffers says that a stream or bucket is there and set up so that a promise would not hold.
var ErrDiffers = errors.New("set up differently from what the promises need")

// ErrReplicas says that NATS cannot keep so many copies.
var ErrReplicas = errors.New("not enough servers for so many replicas")

const (
	dedupWindow   = 10 * time.Minute
	maxLogMessage = 32 << 10
	defaultBytes  = 10 << 30
)

// Setup creates what is missing. It never changes what is there: where something differs so that a promise would not
// hold, the error wraps [ErrDiffers] and names the differences, and everything that was missing is created all the same.
// Where something only differs from the layout it says nothing, [Queue.Inspect] does. Replicas that NATS cannot keep are
// an [ErrReplicas].
func (q *Queue) Setup(ctx context.Context, layout Layout) error {
	return persist(ctx, func(ctx context.Context) error { return q.setupOnce(ctx, layout) })
}

// Adjust changes the copies and sizes of what is there to what the layout chooses, and nothing else of it. It
// changes nothing if it finds that something cannot be: a log that holds more than it is to hold, or, as an
// [ErrReplicas], replicas that NATS cannot keep. New copies fill up while the queue is in use.
func (q *Queue) Adjust(ctx context.Context, layout Layout) error {
	return persist(ctx, func(ctx context.Context) error { return q.adjustOnce(ctx, layout) })
}

// persist tries again while NATS refuses for a reason that passes, as it does during an election.
func persist(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, publishPatience)
	defer cancel()
	for attempt := 0; ; attempt++ {
		err := do(ctx)
		if err == nil || !isPassing(err) || !pause(ctx, attempt) {
			return err
		}
	}
}

func (q *Queue) setupOnce(ctx context.Context, layout Layout) error {
	var problems []error
	for _, want := range q.streams(layout) {
		err := ensure(func() error { return q.compare(ctx, want) }, func() error {
			_, err := q.js.CreateStream(ctx, want)
			failpoint.Hit("setup.stream")
			return wanting(err, want.Replicas)
		})
		if errors.Is(err, ErrReplicas) { // so has everything else
			return err
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("stream %s: %w", want.Name, q.setupError(err)))
		}
	}
	for _, want := range q.buckets(layout) {
		err := ensure(func() error { return q.compare(ctx, asStream(want)) }, func() error {
			_, err := q.js.CreateKeyValue(ctx, want)
			failpoint.Hit("setup.bucket")
			return wanting(err, want.Replicas)
		})
		if err != nil {
			problems = append(problems, fmt.Errorf("bucket %s: %w", want.Bucket, q.setupError(err)))
		}
	}
	return errors.Join(problems...)
}

// ensure creates what is missing. It compares first, because the server wants room for a stream that is there once more
// before it says that it is there; and again afterwards, because somebody else may be setting up at the same time.
func ensure(compare, create func() error) error {
	err := compare()
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	failure := create()
	if failure == nil {
		return nil
	}
	if err = compare(); errors.Is(err, jetstream.ErrStreamNotFound) {
		return failure
	}
	return err
}

func (q *Queue) adjustOnce(ctx context.Context, layout Layout) error {
	var changed []jetstream.StreamConfig
	var problems []error
	for _, want := range q.chosen(layout) {
		stream, err := q.js.Stream(ctx, want.Name)
		if err != nil {
			return fmt.Errorf("stream %s: %w", want.Name, q.setupError(err))
		}
		info := stream.CachedInfo()
		cfg := info.Config
		cfg.Replicas = cmp.Or(want.Replicas, cfg.Replicas)
		cfg.MaxBytes = cmp.Or(want.MaxBytes, cfg.MaxBytes)
		switch {
		case cfg.Replicas == info.Config.Replicas && cfg.MaxBytes == info.Config.MaxBytes:
			continue
		case cfg.Replicas != info.Config.Replicas && !clustered(info): // not every server says so itself
			return singleServer(cfg.Replicas)
		case want.MaxBytes > 0 && info.State.Bytes > uint64(want.MaxBytes):
			err = fmt.Errorf("it holds %d bytes, which is more than %d", info.State.Bytes, want.MaxBytes)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("stream %s: %w", want.Name, err))
		}
		changed = append(changed, cfg)
	}
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	for _, cfg := range changed {
		if _, err := q.js.UpdateStream(ctx, cfg); err != nil {
			return fmt.Errorf("stream %s: %w", cfg.Name, q.setupError(wanting(err, cfg.Replicas)))
		}
	}
	return nil
}

// Inspect says of each stream and bucket whether it is there and as it should be, and where it differs from what the
// layout chooses. The error is only about reaching NATS.
func (q *Queue) Inspect(ctx context.Context, layout Layout) ([]Finding, error) {
	var findings []Finding
	chosen := q.chosen(layout)
	wanted := q.streams(Layout{})
	for _, bucket := range q.buckets(Layout{}) {
		wanted = append(wanted, asStream(bucket))
	}
	for i, want := range wanted {
		name := strings.TrimPrefix(want.Name, bucketStream)
		stream, err := q.js.Stream(ctx, want.Name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			findings = append(findings, Finding{Name: name, Missing: true, Detail: "missing"})
			continue
		case err != nil:
			return nil, fmt.Errorf("inspect %s: %w", name, q.setupError(err))
		}
		info := stream.CachedInfo()
		f := Finding{Name: name, OK: true, Detail: describe(info)}
		if unlike := unlike(chosen[i], info); len(unlike) > 0 {
			f.OK, f.Unlike, f.Detail = false, true, strings.Join(unlike, "; ")
			f.TooFew = chosen[i].Replicas > 1 && !clustered(info)
		}
		if other := unusual(want, info.Config); len(other) > 0 {
			f.Detail += "; unusual: " + strings.Join(other, "; ")
		}
		if err := differences(want, info.Config); err != nil {
			f.OK, f.Unlike, f.Detail = false, false, err.Error()
		}
		findings = append(findings, f)
	}
	return findings, nil
}

// describe says what a stream holds, and how many copies of it there are.
func describe(info *jetstream.StreamInfo) string {
	text := fmt.Sprintf("messages: %d, bytes: %d", info.State.Msgs, info.State.Bytes)
	if info.Config.MaxBytes > 0 {
		text += fmt.Sprintf(" of %d", info.Config.MaxBytes)
	}
	text += fmt.Sprintf(", replicas: %d", info.Config.Replicas)
	if !clustered(info) {
		return text
	}
	behind := info.Config.Replicas - 1 // its leader is not among those that are listed
	for _, peer := range info.Cluster.Replicas {
		if peer.Current {
			behind--
		}
	}
	if behind > 0 {
		text += fmt.Sprintf(" (%d not up to date)", behind)
	}
	return text
}

// clustered reports whether a stream is on a cluster. A single server may tell of one without a name, which is itself.
func clustered(info *jetstream.StreamInfo) bool {
	return info.Cluster != nil && info.Cluster.Name != ""
}

// chosen is what a layout chooses of each stream, those of the buckets behind the others; 0 is no choice.
func (q *Queue) chosen(layout Layout) []jetstream.StreamConfig {
	all := []jetstream.StreamConfig{
		{Name: q.logName(), MaxBytes: layout.LogBytes, Replicas: layout.Replicas},
		{Name: q.ledgerName(), MaxBytes: layout.LedgerBytes, Replicas: layout.Replicas},
	}
	for _, bucket := range q.buckets(layout) {
		all = append(all, jetstream.StreamConfig{Name: bucketStream + bucket.Bucket, Replicas: layout.Replicas})
	}
	return all
}

// bucketStream begins the name of the stream that NATS keeps a bucket in.
const bucketStream = "KV_"

// asStream is what a bucket has to be as a stream, as far as it is compared.
func asStream(bucket jetstream.KeyValueConfig) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:                   bucketStream + bucket.Bucket,
		Subjects:               []string{"$KV." + bucket.Bucket + ".>"},
		Storage:                bucket.Storage,
		Discard:                jetstream.DiscardNew,
		MaxBytes:               -1,
		MaxMsgSize:             -1,
		MaxMsgs:                -1,
		MaxMsgsPerSubject:      1,
		MaxConsumers:           -1,
		AllowMsgTTL:            bucket.LimitMarkerTTL > 0,
		SubjectDeleteMarkerTTL: bucket.LimitMarkerTTL,
	}
}

// wanting puts a refusal for want of servers or of room into our words.
func wanting(err error, replicas int) error {
	switch refusal(err) {
	case codeNotClustered:
		return singleServer(replicas)
	case codeNoPeers:
		return fmt.Errorf("%w: %d are wanted: %w", ErrReplicas, replicas, err)
	case codeAccountLimit, codeNoResources, codeNoStorage:
		return fmt.Errorf("NATS has not so much room, all of which it sets aside at once: give it more, or choose less: %w", err)
	}
	return err
}

func singleServer(replicas int) error {
	return fmt.Errorf("%w: %d are wanted, and this NATS is a single server, which keeps 1; more takes a cluster of as many servers", ErrReplicas, replicas)
}

// streams gives both streams as they should be.
func (q *Queue) streams(layout Layout) []jetstream.StreamConfig {
	replicas := cmp.Or(layout.Replicas, 1)
	ledger := q.prefix + "."
	return []jetstream.StreamConfig{{
		Name:               q.logName(),
		Description:        "jobs as they were published, in order, until they are decided",
		Subjects:           []string{q.prefix + ".jobs.*.*"},
		Retention:          jetstream.LimitsPolicy,
		Storage:            jetstream.FileStorage,
		Discard:            jetstream.DiscardNew,
		MaxBytes:           cmp.Or(layout.LogBytes, defaultBytes),
		MaxMsgSize:         maxLogMessage,
		MaxMsgs:            -1,
		MaxMsgsPerSubject:  -1,
		MaxConsumers:       5000, // the server's own default is 1,000, and each lane has one
		Duplicates:         dedupWindow,
		Replicas:           replicas,
		AllowDirect:        true,
		AllowAtomicPublish: true,
	}, {
		Name:        q.ledgerName(),
		Description: "what is decided about jobs",
		Subjects: []string{ledger + "slot.*.*.*", ledger + "parked.*.*.*.*", ledger + "dead.*.*.*.*",
			ledger + "results.*.*.*.*", ledger + "audit.*.*.*"},
		Retention:          jetstream.LimitsPolicy,
		Storage:            jetstream.FileStorage,
		Discard:            jetstream.DiscardNew,
		MaxBytes:           cmp.Or(layout.LedgerBytes, defaultBytes),
		MaxMsgSize:         -1,
		MaxMsgs:            -1,
		MaxMsgsPerSubject:  1,
		MaxConsumers:       5000,
		Duplicates:         dedupWindow,
		Replicas:           replicas,
		AllowDirect:        true,
		AllowAtomicPublish: true,
		AllowMsgTTL:        true,
	}}
}

// buckets gives the buckets as they should be.
func (q *Queue) buckets(layout Layout) []jetstream.KeyValueConfig {
	replicas := cmp.Or(layout.Replicas, 1)
	return []jetstream.KeyValueConfig{{
		Bucket:         q.bucket("leases"),
		Description:    "who owns a site",
		LimitMarkerTTL: leaseTTL, // expired leases leave a marker, which standbys see; each lease brings its own TTL
		Storage:        jetstream.FileStorage,
		Replicas:       replicas,
	}, {
		Bucket:      q.bucket("campaigns"),
		Description: "jobs that were published together",
		Storage:     jetstream.FileStorage,
		Replicas:    replicas,
	}, {
		Bucket:      q.bucket("control"),
		Description: "pauses, and what was learned about sites and apps",
		Storage:     jetstream.FileStorage,
		Replicas:    replicas,
	}}
}

func (q *Queue) bucket(name string) string { return q.prefix + "_" + name }

func (q *Queue) compare(ctx context.Context, want jetstream.StreamConfig) error {
	stream, err := q.js.Stream(ctx, want.Name)
	if err != nil {
		return err
	}
	return differences(want, stream.CachedInfo().Config)
}

// differences names what would break a promise. Sizes and replicas are the operator's to choose.
func differences(want, have jetstream.StreamConfig) error {
	var found []string
	differs := func(name string, want, have any) {
		if want != have {
			found = append(found, fmt.Sprintf("%s is %v, must be %v", name, have, want))
		}
	}
	differs("retention", want.Retention, have.Retention)
	differs("storage", want.Storage, have.Storage)
	differs("discard", want.Discard, have.Discard)
	differs("discard new per subject", want.DiscardNewPerSubject, have.DiscardNewPerSubject)
	differs("max age", want.MaxAge, have.MaxAge)
	differs("max messages per subject", want.MaxMsgsPerSubject, have.MaxMsgsPerSubject)
	differs("max messages", want.MaxMsgs, have.MaxMsgs)
	differs("allow atomic publish", want.AllowAtomicPublish, have.AllowAtomicPublish)
	differs("allow message TTL", want.AllowMsgTTL, have.AllowMsgTTL)
	differs("sealed", want.Sealed, have.Sealed)
	differs("no ack", want.NoAck, have.NoAck)
	differs("deny purge", want.DenyPurge, have.DenyPurge)
	differs("persist mode", want.PersistMode, have.PersistMode)
	differs("subject transform", true, have.SubjectTransform == nil)
	differs("mirror", true, have.Mirror == nil)
	if have.Duplicates < want.Duplicates {
		differs("duplicate window", want.Duplicates, have.Duplicates)
	}
	if want.MaxMsgSize > 0 && have.MaxMsgSize > 0 && have.MaxMsgSize < want.MaxMsgSize {
		differs("max message size", want.MaxMsgSize, have.MaxMsgSize)
	}
	if want.MaxMsgSize < 0 && have.MaxMsgSize > 0 {
		differs("max message size", "unlimited", have.MaxMsgSize)
	}
	if want.SubjectDeleteMarkerTTL > 0 && have.SubjectDeleteMarkerTTL == 0 {
		found = append(found, "expired keys leave no marker")
	}
	for _, subject := range want.Subjects {
		if !slices.Contains(have.Subjects, subject) {
			found = append(found, "subject "+subject+" is missing")
		}
	}
	if len(found) > 0 {
		return fmt.Errorf("%w: %s", ErrDiffers, strings.Join(found, "; "))
	}
	return nil
}

// unlike names what differs from what an operator has chosen.
func unlike(chosen jetstream.StreamConfig, have *jetstream.StreamInfo) (found []string) {
	if n := have.Config.Replicas; chosen.Replicas != 0 && chosen.Replicas != n {
		text := fmt.Sprintf("replicas: %d, and not %d", n, chosen.Replicas)
		if !clustered(have) {
			text += " (this NATS is a single server, which keeps 1)"
		}
		found = append(found, text)
	}
	if n := have.Config.MaxBytes; chosen.MaxBytes != 0 && chosen.MaxBytes != n {
		found = append(found, fmt.Sprintf("max bytes: %d, and not %d", n, chosen.MaxBytes))
	}
	return found
}

// unusual names what is not as Setup creates it, and breaks no promise: it may be meant.
func unusual(want, have jetstream.StreamConfig) (found []string) {
	limit := func(name string, want, have int) {
		if have > 0 && (want < 0 || have < want) {
			usual := "none"
			if want > 0 {
				usual = strconv.Itoa(want)
			}
			found = append(found, fmt.Sprintf("%s: %d (usually %s)", name, have, usual))
		}
	}
	limit("max consumers", want.MaxConsumers, have.MaxConsumers)
	if want.MaxBytes < 0 {
		limit("max bytes", -1, int(have.MaxBytes))
	} else if have.MaxBytes < 0 {
		found = append(found, "max bytes: none")
	}
	if want.AllowDirect && !have.AllowDirect {
		found = append(found, "direct get is not allowed")
	}
	for _, subject := range have.Subjects {
		if !slices.Contains(want.Subjects, subject) {
			found = append(found, "it also takes "+subject)
		}
	}
	if len(have.Sources) > 0 {
		found = append(found, "it has sources")
	}
	return found
}

// setupError tells a server that cannot be reached from one that says no.
func (q *Queue) setupError(err error) error {
	if errors.Is(err, ErrDiffers) || errors.Is(err, ErrReplicas) || refusal(err) != 0 {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}
