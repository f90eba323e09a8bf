package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"statusq/internal/failpoint"
)

// Layout is what an installation chooses. The zero value is a single server.
type Layout struct {
	Replicas    int   // copies of each stream; default 1, 3 on a cluster
	LogBytes    int64 // most that the log holds, in bytes; default 10 GiB
	LedgerBytes int64 // most that the ledger holds, in bytes; default 10 GiB
}

// Finding is one line of [Queue.Inspect].
type Finding struct {
	Name   string // of the stream or bucket
	OK     bool
	Detail string
}

// ErrDiffers says that a stream or bucket is there and set up so that a promise would not hold.
var ErrDiffers = errors.New("set up differently from what the promises need")

const (
	dedupWindow   = 10 * time.Minute
	maxLogMessage = 32 << 10
	defaultBytes  = 10 << 30
)

// Setup creates what is missing. It never changes what is there: where something differs so that a promise would not
// hold, the error wraps [ErrDiffers] and names the differences, and everything that was missing is created all the same.
func (q *Queue) Setup(ctx context.Context, layout Layout) error {
	ctx, cancel := context.WithTimeout(ctx, publishPatience)
	defer cancel()
	for attempt := 0; ; attempt++ {
		err := q.setupOnce(ctx, layout)
		if err == nil || !isPassing(err) || !pause(ctx, attempt) {
			return err
		}
	}
}

func (q *Queue) setupOnce(ctx context.Context, layout Layout) error {
	var problems []error
	for _, want := range q.streams(layout) {
		err := ensure(func() error { return q.compare(ctx, want) }, jetstream.ErrStreamNotFound, func() error {
			_, err := q.js.CreateStream(ctx, want)
			failpoint.Hit("setup.stream")
			return err
		})
		if err != nil {
			problems = append(problems, fmt.Errorf("stream %s: %w", want.Name, q.setupError(err)))
		}
	}
	for _, want := range q.buckets(layout) {
		err := ensure(func() error { return q.compareBucket(ctx, want) }, jetstream.ErrBucketNotFound, func() error {
			_, err := q.js.CreateKeyValue(ctx, want)
			failpoint.Hit("setup.bucket")
			return err
		})
		if err != nil {
			problems = append(problems, fmt.Errorf("bucket %s: %w", want.Bucket, q.setupError(err)))
		}
	}
	return errors.Join(problems...)
}

// ensure creates what is missing. It compares first, because the server wants room for a stream that is there once more
// before it says that it is there; and again afterwards, because somebody else may be setting up at the same time.
func ensure(compare func() error, missing error, create func() error) error {
	err := compare()
	if !errors.Is(err, missing) {
		return err
	}
	failure := create()
	if failure == nil {
		return nil
	}
	if err = compare(); errors.Is(err, missing) {
		return failure
	}
	return err
}

// Inspect says of each stream and bucket whether it is there and as it should be. The error is only about reaching NATS.
func (q *Queue) Inspect(ctx context.Context) ([]Finding, error) {
	var findings []Finding
	report := func(name string, detail string, err error) error {
		switch {
		case err == nil:
			findings = append(findings, Finding{Name: name, OK: true, Detail: detail})
		case errors.Is(err, ErrDiffers):
			findings = append(findings, Finding{Name: name, Detail: err.Error()})
		case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrBucketNotFound):
			findings = append(findings, Finding{Name: name, Detail: "missing"})
		default:
			return fmt.Errorf("inspect %s: %w", name, q.setupError(err))
		}
		return nil
	}
	for _, want := range q.streams(Layout{}) {
		var detail string
		stream, err := q.js.Stream(ctx, want.Name)
		if err == nil {
			info := stream.CachedInfo()
			detail = fmt.Sprintf("%d messages, %d of %d bytes, %d replicas", info.State.Msgs, info.State.Bytes,
				info.Config.MaxBytes, info.Config.Replicas)
			err = differences(want, info.Config)
		}
		if err := report(want.Name, detail, err); err != nil {
			return nil, err
		}
	}
	for _, want := range q.buckets(Layout{}) {
		if err := report(want.Bucket, "", q.compareBucket(ctx, want)); err != nil {
			return nil, err
		}
	}
	return findings, nil
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

func (q *Queue) compareBucket(ctx context.Context, want jetstream.KeyValueConfig) error {
	bucket, err := q.js.KeyValue(ctx, want.Bucket)
	if err != nil {
		return err
	}
	status, err := bucket.Status(ctx)
	if err != nil {
		return err
	}
	if status.TTL() != want.TTL {
		return fmt.Errorf("%w: keys expire after %v, must not by themselves", ErrDiffers, status.TTL())
	}
	if status.LimitMarkerTTL() == 0 && want.LimitMarkerTTL > 0 {
		return fmt.Errorf("%w: expired keys leave no marker", ErrDiffers)
	}
	return nil
}

// setupError tells a server that cannot be reached from one that says no.
func (q *Queue) setupError(err error) error {
	if errors.Is(err, ErrDiffers) || refusal(err) != 0 {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}
