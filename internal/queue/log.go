package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"statusq/internal/failpoint"
)

// Entry is one message of the log, as it was published.
type Entry struct {
	Seq     uint64
	At      time.Time // when the log took it
	Data    []byte
	Pending uint64 // how many of the same app were behind it when it was handed out
}

// LogReader reads one app's part of the log, in order and without gaps, over losses of the connection too. It is used
// by one goroutine.
type LogReader struct {
	reader *reader
	app    int64
}

// ReadLog starts to read an app's jobs at the first sequence that is not below from.
func (q *Queue) ReadLog(ctx context.Context, site string, app int64, from uint64) (*LogReader, error) {
	r := q.newReader(q.logName(), from, jobsSubject(q.prefix, site, app))
	if err := r.open(ctx); err != nil {
		return nil, fmt.Errorf("app %d: read log: %w", app, err)
	}
	return &LogReader{reader: r, app: app}, nil
}

// Next waits for the next job until ctx ends.
func (r *LogReader) Next(ctx context.Context) (Entry, error) {
	m, err := r.reader.next(ctx)
	if err != nil {
		return Entry{}, fmt.Errorf("app %d: read log: %w", r.app, err)
	}
	failpoint.Hit("log.entry")
	return Entry{Seq: m.Seq, At: m.At, Data: m.Data, Pending: m.pending}, nil
}

// Stop ends the reading. It does not wait, and comes after the last Next has returned.
func (r *LogReader) Stop() { r.reader.abandon() }

// LogEntry reads one job by its sequence. The error wraps [ErrGone] when it is not in the log any more.
func (q *Queue) LogEntry(ctx context.Context, seq uint64) (Entry, error) {
	m, err := q.at(ctx, q.logName(), seq)
	if err != nil {
		return Entry{}, fmt.Errorf("log entry %d: %w", seq, err)
	}
	if m.Seq == 0 {
		return Entry{}, fmt.Errorf("log entry %d: %w", seq, ErrGone)
	}
	return Entry{Seq: m.Seq, At: m.At, Data: m.Data}, nil
}

// Backlog says how many messages the log holds for each app of a site.
func (q *Queue) Backlog(ctx context.Context, site string) (map[int64]uint64, error) {
	stream, err := q.js.Stream(ctx, q.logName())
	if err == nil {
		var info *jetstream.StreamInfo
		info, err = stream.Info(ctx, jetstream.WithSubjectFilter(q.filter("jobs", site, "")))
		if err == nil {
			backlog := make(map[int64]uint64, len(info.State.Subjects))
			for subject, n := range info.State.Subjects {
				// A stranger's subject that no app can have is nobody's backlog.
				if _, app, ok := parseJobsSubject(q.prefix, subject); ok {
					backlog[app] = n
				}
			}
			return backlog, nil
		}
	}
	return nil, fmt.Errorf("backlog of %s: %w", site, q.unanswered(ctx, q.logName(), err))
}

// Strays counts the messages that stand in the log on subjects which no lane of the given sites reads: of other sites,
// or of what cannot be an app. Nobody will ever look at them.
func (q *Queue) Strays(ctx context.Context, sites []string) (map[string]uint64, error) {
	stream, err := q.js.Stream(ctx, q.logName())
	if err == nil {
		var info *jetstream.StreamInfo
		info, err = stream.Info(ctx, jetstream.WithSubjectFilter(q.prefix+".jobs.>"))
		if err == nil {
			strays := make(map[string]uint64)
			for subject, n := range info.State.Subjects {
				if site, _, ok := parseJobsSubject(q.prefix, subject); !ok || !slices.Contains(sites, site) {
					strays[subject] = n
				}
			}
			return strays, nil
		}
	}
	return nil, fmt.Errorf("look for strays: %w", q.unanswered(ctx, q.logName(), err))
}

// PurgeLog removes an app's messages with a sequence lower than below.
func (q *Queue) PurgeLog(ctx context.Context, site string, app int64, below uint64) error {
	if below <= 1 {
		return nil // to the server, a limit of 0 is none at all
	}
	stream, err := q.js.Stream(ctx, q.logName())
	if err == nil {
		failpoint.Hit("log.purging")
		err = stream.Purge(ctx, jetstream.WithPurgeSubject(jobsSubject(q.prefix, site, app)), jetstream.WithPurgeSequence(below))
	}
	if err != nil {
		return fmt.Errorf("app %d: purge log below %d: %w", app, below, q.unanswered(ctx, q.logName(), err))
	}
	failpoint.Hit("log.purged")
	return nil
}

// delivered is a message as a reader hands it out.
type delivered struct {
	stored
	pending uint64
}

// reader hands out the messages of some subjects of a stream in their order, from a sequence on. The consumer behind it
// acknowledges nothing and lives in memory; when a message of it is missing, or the connection was replaced, or the
// server has forgotten it, a new one goes on where the reader stands. It is used by one goroutine.
//
// The ordered consumer of nats.go does the same, but its repair cannot be ended by a context.
type reader struct {
	q       *Queue
	stream  string
	filters []string
	from    uint64 // the next sequence that is wanted

	consumer jetstream.Consumer
	messages jetstream.MessagesContext // nil when a consumer has to be made
	serial   uint64                    // of the last message of this consumer
	unlinked func() bool               // releases what stops messages when the connection is replaced

	heartbeat time.Duration // of the server, when there is nothing to say; a consumer that misses two is given up
}

// prefetch is how many messages the server may send ahead: enough for a lane's take, and few enough for a thousand
// lanes.
const prefetch = 500

func (q *Queue) newReader(stream string, from uint64, filters ...string) *reader {
	return &reader{q: q, stream: stream, filters: filters, from: max(1, from), heartbeat: 5 * time.Second}
}

// newHastyReader is a reader for somebody who waits for its end: it soon gives up a consumer that is silent.
func (q *Queue) newHastyReader(stream string, from uint64, filters ...string) *reader {
	r := q.newReader(stream, from, filters...)
	r.heartbeat = time.Second
	return r
}

// open makes the consumer, once.
func (r *reader) open(ctx context.Context) error {
	link := r.q.connection()
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	cfg := jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       r.from,
		AckPolicy:         jetstream.AckNonePolicy,
		FilterSubjects:    r.filters,
		InactiveThreshold: time.Minute,
		MemoryStorage:     true,
		Replicas:          1,
	}
	if len(r.filters) == 1 {
		cfg.FilterSubject, cfg.FilterSubjects = r.filters[0], nil
	}
	consumer, err := r.q.js.CreateConsumer(ctx, r.stream, cfg)
	if err != nil {
		return r.q.unanswered(ctx, r.stream, err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(prefetch), jetstream.PullExpiry(10*time.Second),
		jetstream.PullHeartbeat(r.heartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return r.q.unanswered(ctx, r.stream, err)
	}
	r.consumer, r.messages, r.serial = consumer, messages, 0
	r.unlinked = context.AfterFunc(link, messages.Stop)
	return nil
}

// next waits for the next message. It gives up only when ctx has ended, the connection is closed for good, or the
// stream does not exist.
func (r *reader) next(ctx context.Context) (delivered, error) {
	for attempt := 0; ; {
		if r.messages == nil {
			if err := r.open(ctx); err != nil {
				if errors.Is(err, ErrNoQueue) || errors.Is(err, nats.ErrConnectionClosed) || !pause(ctx, attempt) {
					return delivered{}, err
				}
				attempt++
				continue
			}
		}
		m, err := r.messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			if ctx.Err() != nil {
				return delivered{}, context.Cause(ctx)
			}
			r.abandon()
			if !pause(ctx, attempt) {
				return delivered{}, context.Cause(ctx)
			}
			attempt++
			continue
		}
		meta, err := m.Metadata()
		if err != nil {
			return delivered{}, err
		}
		if meta.Sequence.Consumer != r.serial+1 || meta.Sequence.Stream < r.from {
			r.abandon()
			if !pause(ctx, attempt) {
				return delivered{}, context.Cause(ctx)
			}
			attempt++
			continue
		}
		r.serial, r.from = meta.Sequence.Consumer, meta.Sequence.Stream+1
		return delivered{
			stored: stored{Seq: meta.Sequence.Stream, Subject: m.Subject(), Header: m.Headers(), Data: m.Data(),
				At: meta.Timestamp},
			pending: meta.NumPending,
		}, nil
	}
}

// abandon gives up the consumer. The server removes it: at once if it hears of it, after a minute if not.
func (r *reader) abandon() {
	if r.messages == nil {
		return
	}
	r.unlinked()
	r.messages.Stop()
	_ = r.q.nc.Publish("$JS.API.CONSUMER.DELETE."+r.stream+"."+r.consumer.CachedInfo().Name, nil)
	r.messages = nil
}

// scan goes through what some subjects of a stream hold now. What is removed meanwhile may be missing, what comes
// meanwhile may be there.
func (q *Queue) scan(ctx context.Context, stream string, filters ...string) iter.Seq2[delivered, error] {
	return func(yield func(delivered, error) bool) {
		r := q.newHastyReader(stream, 0, filters...)
		if err := r.open(ctx); err != nil {
			yield(delivered{}, err)
			return
		}
		defer r.abandon()
		for pending := r.consumer.CachedInfo().NumPending; pending > 0; {
			m, err := r.nextSoon(ctx)
			if errors.Is(err, errNothingLeft) {
				return
			}
			if !yield(m, err) || err != nil {
				return
			}
			pending = m.pending
		}
	}
}

var errNothingLeft = errors.New("nothing left")

// nextSoon is next for a reader that should have a message. When none comes it asks whether there is one: the count
// behind the last message goes down unseen when messages are removed.
func (r *reader) nextSoon(ctx context.Context) (delivered, error) {
	for {
		soon, cancel := context.WithTimeout(ctx, 250*time.Millisecond)
		m, err := r.next(soon)
		cancel()
		if err == nil || ctx.Err() != nil || soon.Err() == nil {
			return m, err
		}
		if r.messages == nil {
			continue
		}
		info, err := r.consumer.Info(ctx)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			r.abandon()
			continue
		}
		if err == nil && info.NumPending == 0 && info.Delivered.Consumer == r.serial {
			return delivered{}, errNothingLeft
		}
	}
}
