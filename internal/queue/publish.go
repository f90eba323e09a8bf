package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"statusq/internal/failpoint"
)

const (
	// maxBatch is how many jobs share one atomic batch, and with it one write to disk. The server takes up to 1,000.
	maxBatch = 500
	// publishPatience is how long one batch is tried before its publisher is told that NATS cannot be reached.
	publishPatience = 30 * time.Second
)

// Ack says what became of one published job.
type Ack struct {
	Seq uint64 // its place in the log; 0 when the log did not say that it has it

	// Duplicate says that the log had a job of this id already, at Seq. After an attempt whose answer was lost, that job
	// can be the one of the lost attempt.
	Duplicate bool
}

// PublishError says how far publishing got.
type PublishError struct {
	Accepted int   // jobs that have an Ack with a Seq
	Err      error // why it went no further
}

func (e *PublishError) Error() string {
	return fmt.Sprintf("publish: %d jobs accepted, then: %v", e.Accepted, e.Err)
}

// Unwrap gives the reason.
func (e *PublishError) Unwrap() error { return e.Err }

// Publish puts jobs into the log, in their order. The answer has one Ack for each job; only what the log acknowledged
// has a Seq. An error is a *[PublishError]: its Err wraps a *[DecodeError] (then nothing was sent), [ErrLogFull],
// [ErrNoQueue] or [ErrUnreachable].
//
// Jobs with an id can be published again at any time: inside ten minutes the log itself answers with a duplicate. An
// attempt without an answer is repeated here with the same message ids, also for jobs without an id, so that none is
// stored twice. After an error the jobs without a Seq may still be in the log, and those without an id should only be
// published again if acting twice on them does no harm.
func (q *Queue) Publish(ctx context.Context, jobs []Job) ([]Ack, error) {
	acks := make([]Ack, len(jobs))
	messages := make([]*nats.Msg, len(jobs))
	for i, job := range jobs {
		raw, err := job.Encode()
		if err != nil {
			return acks, &PublishError{Err: fmt.Errorf("job %d of %d: %w", i+1, len(jobs), err)}
		}
		// No id of a job can look like one made up here, as those have slashes.
		id := "~" + NewID()
		if job.ID != "" {
			id = fmt.Sprintf("%s/%d/%s", job.Site, job.App, job.ID)
		}
		messages[i] = &nats.Msg{
			Subject: jobsSubject(q.prefix, job.Site, job.App),
			Header:  nats.Header{headerID: {id}, headerStream: {q.logName()}},
			Data:    raw,
		}
	}

	done := 0
	for batch := range slices.Chunk(messages, maxBatch) {
		part := acks[done : done+len(batch)]
		if err := q.publishBatch(ctx, batch, part); err != nil {
			accepted := 0
			for _, ack := range acks {
				if ack.Seq > 0 {
					accepted++
				}
			}
			return acks, &PublishError{Accepted: accepted, Err: err}
		}
		for i := range part {
			part[i].Duplicate = part[i].Duplicate && jobs[done+i].ID != ""
		}
		done += len(batch)
	}
	return acks, nil
}

// publishBatch publishes one batch, and one by one if the log knows one of its ids.
func (q *Queue) publishBatch(ctx context.Context, batch []*nats.Msg, acks []Ack) error {
	last, duplicate, err := q.publishOnce(ctx, batch)
	if len(batch) > 1 && refusal(err) == codeBatchKnownID {
		for i := range batch {
			seq, duplicate, err := q.publishOnce(ctx, batch[i:i+1])
			if err != nil {
				return err
			}
			acks[i] = Ack{Seq: seq, Duplicate: duplicate}
		}
		return nil
	}
	if err != nil {
		return err
	}
	failpoint.Hit("publish.stored")
	first := last - uint64(len(batch)) + 1
	for i := range acks {
		acks[i] = Ack{Seq: first + uint64(i), Duplicate: duplicate}
	}
	return nil
}

// publishOnce repeats one publication until it is answered, for as long as patience and ctx last.
func (q *Queue) publishOnce(ctx context.Context, batch []*nats.Msg) (last uint64, duplicate bool, err error) {
	waiting, cancel := context.WithTimeout(ctx, publishPatience)
	defer cancel()
	for attempt := 0; ; attempt++ {
		// A batch of one is sent as it is, without the headers of a batch that was refused.
		plain := make([]*nats.Msg, len(batch))
		for i, m := range batch {
			plain[i] = copyMessage(m)
		}
		last, duplicate, err := q.send(waiting, plain)
		switch {
		case err == nil:
			return last, duplicate, nil
		case isFull(err):
			return 0, false, fmt.Errorf("%w: %w", ErrLogFull, err)
		case refusal(err) == codeStreamNotFound:
			return 0, false, ErrNoQueue
		case refusal(err) != 0 && !isPassing(err):
			return 0, false, err
		}
		err = q.unanswered(waiting, q.logName(), err)
		if errors.Is(err, ErrNoQueue) {
			return 0, false, err
		}
		if !pause(waiting, attempt) {
			return 0, false, err
		}
	}
}

// copyMessage copies what a publisher sets; sending adds headers of its own.
func copyMessage(m *nats.Msg) *nats.Msg {
	header := make(nats.Header, len(m.Header)+3)
	maps.Copy(header, m.Header)
	return &nats.Msg{Subject: m.Subject, Header: header, Data: m.Data}
}
