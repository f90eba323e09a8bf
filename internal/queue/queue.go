package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"statusq/internal/kintone"
)

// Errors that callers ask for with [errors.Is].
var (
	// ErrUnreachable says that NATS cannot be reached, or did not answer in time.
	ErrUnreachable = errors.New("cannot reach NATS")
	// ErrRefused says that NATS refused the credential.
	ErrRefused = errors.New("NATS refused the credential")
	// ErrNoQueue says that the server has no streams of ours.
	ErrNoQueue = errors.New("no queue here: start a worker first")
	// ErrGone says that what was asked for is not there any more, or not as it was read.
	ErrGone = errors.New("not there any more")
	// ErrLogFull says that the log took no more jobs. Nothing that it had accepted is lost.
	ErrLogFull = errors.New("the log is full")
	// ErrLedgerFull says that the ledger refused a write for its size. Nothing of the write is stored.
	ErrLedgerFull = errors.New("the ledger is full")
	// ErrDeposed says that another owner has taken over.
	ErrDeposed = errors.New("another owner has taken over")
	// ErrUnclear says that a write was given up without an answer. The ledger has to be opened again.
	ErrUnclear = errors.New("a write was given up without an answer")
	// ErrOutcomeUnknown says that a dead letter cannot be retried as one that is dead.
	ErrOutcomeUnknown = errors.New("its outcome is unknown, so its action may have run already: it has to be resolved")
	// ErrOutcomeKnown says that there is nothing to resolve about a dead letter.
	ErrOutcomeKnown = errors.New("it is dead, which means that its action was not run: there is nothing to resolve")
	// ErrNoWorker says that no worker answers for a site.
	ErrNoWorker = errors.New("no worker answers")
)

// Config says how the queue is reached.
type Config struct {
	URL       string         // nats://127.0.0.1:4222; several with commas; ignored with Dial
	User      string         // user name, with Password
	Password  kintone.Secret // used with User
	CredsFile string         // a credentials file of NATS, instead of User and Password

	// Dial, if set, makes the connections: to a server in the same process, or through something that a test controls.
	Dial func() (net.Conn, error)

	Prefix string // first token of every subject, and of stream and bucket names; default "statusq"
	Name   string // name of this connection, as the server shows it; default the prefix

	// OnEvent, if set, is told in one line of connections lost and found and of errors that belong to no call. It must
	// not block.
	OnEvent func(string)
}

// Queue is a connection to the queue. It is safe for concurrent use.
type Queue struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	prefix string

	mu     sync.Mutex         // guards the two below
	link   context.Context    // ends when the connection has been replaced: what was on its way to us may be lost
	unlink context.CancelFunc // ends link
}

var prefixForm = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)

// Connect reaches the server and waits at most until ctx ends, or ten seconds. Its error wraps [ErrUnreachable] or
// [ErrRefused]. It creates nothing; see [Queue.Setup]. Later losses of the connection are mended for as long as it
// takes.
func Connect(ctx context.Context, cfg Config) (*Queue, error) {
	prefix := cmp.Or(cfg.Prefix, "statusq")
	if !prefixForm.MatchString(prefix) {
		return nil, fmt.Errorf("prefix %q: want 1 to 32 of a-z, 0-9, - and _", prefix)
	}
	tell := cfg.OnEvent
	if tell == nil {
		tell = func(string) {}
	}
	q := &Queue{prefix: prefix}
	q.link, q.unlink = context.WithCancel(context.Background())

	patience := 10 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline))
	}
	if patience <= 0 {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, context.Cause(ctx))
	}
	options := []nats.Option{
		nats.Name(cmp.Or(cfg.Name, prefix)),
		nats.Timeout(patience),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 250*time.Millisecond),
		nats.PingInterval(15 * time.Second),
		// A write that cannot go out now fails now: one that waits in a buffer and goes out later is a late copy.
		nats.ReconnectBufSize(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				tell("connection to NATS lost: " + err.Error())
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			q.relink()
			tell("connection to NATS restored")
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { tell("NATS: " + err.Error()) }),
	}
	if cfg.Dial != nil {
		options = append(options, nats.InProcessServer(inProcess(cfg.Dial)))
	}
	if cfg.User != "" {
		options = append(options, nats.UserInfo(cfg.User, cfg.Password.Reveal()))
	}
	if cfg.CredsFile != "" {
		options = append(options, nats.UserCredentials(cfg.CredsFile))
	}
	nc, err := nats.Connect(cfg.URL, options...)
	if err != nil {
		if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) {
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(attemptTimeout))
	if err != nil {
		nc.Close()
		return nil, err
	}
	q.nc, q.js = nc, js
	return q, nil
}

// Close ends the connection. What still waits for an answer ends with an error.
func (q *Queue) Close() {
	q.nc.Close()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.unlink()
}

// Connected reports whether there is a connection at this moment.
func (q *Queue) Connected() bool { return q.nc.IsConnected() }

// inProcess gives a dial function the shape that nats.go asks for.
type inProcess func() (net.Conn, error)

func (dial inProcess) InProcessConn() (net.Conn, error) { return dial() }

// relink ends the context of the connection that was lost.
func (q *Queue) relink() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.unlink()
	q.link, q.unlink = context.WithCancel(context.Background())
}

// connection returns a context that ends when the present connection has been replaced.
func (q *Queue) connection() context.Context {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.link
}

func (q *Queue) logName() string    { return strings.ToUpper(q.prefix) + "_JOBS" }
func (q *Queue) ledgerName() string { return strings.ToUpper(q.prefix) + "_LEDGER" }

// filter is a subject that matches every message of a kind whose parts are as given; "" stands for any.
func (q *Queue) filter(kind string, parts ...string) string {
	subject := q.prefix + "." + kind
	for _, part := range parts {
		subject += "." + cmp.Or(part, "*")
	}
	return subject
}

// orAny encodes a part for filter.
func orAny(name string) string {
	if name == "" {
		return ""
	}
	return token(name)
}

// orAnyNumber encodes an app or a record for filter; 0 stands for any.
func orAnyNumber(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

const (
	attemptTimeout = 5 * time.Second        // how long one attempt waits for its answer
	firstPause     = 100 * time.Millisecond // between two attempts, doubled each time
	longestPause   = 2 * time.Second
)

// Headers that we set or read.
const (
	headerGone     = "Statusq-Gone" // marks a tombstone
	headerTTL      = "Nats-TTL"
	headerExpected = "Nats-Expected-Last-Subject-Sequence"
	headerStream   = "Nats-Expected-Stream"
	headerID       = "Nats-Msg-Id"
)

// Error codes of the server, from its errors.json. Some have names in nats.go or orbit.go, most do not.
const (
	codeAccountLimit    = 10002
	codeNoPeers         = 10005 // for as many replicas
	codeNoResources     = 10023
	codeNoLeader        = 10008 // a server that knows no leader now may answer so; another may know one
	codeStreamNotFound  = 10059
	codeWrongSequence   = 10071
	codeNotClustered    = 10074 // and more than one replica is wanted
	codeStoreFailed     = 10077 // the text says whether for lack of room
	codeNoStorage       = 10047
	codeIDInProcess     = 10158
	codeWrongSequenceR3 = 10164
	codeBatchIncomplete = 10176
	codeBatchKnownID    = 10201
	codeBatchesTooMany  = 10210
)

// send publishes messages to one stream and waits for the answer of this one attempt: a single message as it is, several
// as an atomic batch. It returns the sequence of the last; those of a batch follow each other without a gap.
//
// An error that wraps a [*jetstream.APIError] is a refusal: nothing of this attempt is stored or will be. After any
// other error it may be stored, now or later.
func (q *Queue) send(ctx context.Context, messages []*nats.Msg) (last uint64, duplicate bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	defer context.AfterFunc(q.connection(), cancel)() // the answer would have come by the connection that was lost
	if len(messages) == 1 {
		ack, err := q.js.PublishMsg(ctx, messages[0], jetstream.WithRetryAttempts(0))
		if err != nil {
			return 0, false, err
		}
		return ack.Sequence, ack.Duplicate, nil
	}
	// Without flow control the whole batch is one round trip. A member that is refused before the commit is only seen as
	// a batch that is incomplete, which is sent again.
	ack, err := jetstreamext.PublishMsgBatch(ctx, q.js, messages, jetstreamext.BatchFlowControl{})
	if err != nil {
		return 0, false, err
	}
	return ack.Sequence, false, nil
}

// refusal returns the server's code when err says that it refused, and 0 when it is not known what it did.
func refusal(err error) int {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return int(api.ErrorCode)
	}
	if js, ok := errors.AsType[jetstream.JetStreamError](err); ok && js.APIError() != nil {
		return int(js.APIError().ErrorCode)
	}
	return 0
}

// isFull reports whether err is a refusal for lack of room: of the stream, the account or the disk.
func isFull(err error) bool {
	switch refusal(err) {
	case codeAccountLimit, codeNoResources, codeNoStorage:
		return true
	case codeStoreFailed:
		return strings.Contains(err.Error(), "maximum bytes exceeded") || strings.Contains(err.Error(), "maximum messages exceeded")
	}
	return false
}

// isPassing reports whether err is a refusal that has nothing to do with what was sent and passes by itself.
func isPassing(err error) bool {
	switch code := refusal(err); code {
	case codeBatchIncomplete, codeBatchesTooMany, codeIDInProcess, codeStoreFailed, codeNoLeader:
		return true
	default:
		return false
	}
}

// isSwapRefused reports whether err is a refusal of a compare-and-swap.
func isSwapRefused(err error) bool {
	code := refusal(err)
	return code == codeWrongSequence || code == codeWrongSequenceR3
}

// unanswered says in our words why there was no answer. When nobody listens on a subject it asks whether the stream is
// there at all.
func (q *Queue) unanswered(ctx context.Context, stream string, err error) error {
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) {
		if _, infoErr := q.js.Stream(ctx, stream); errors.Is(infoErr, jetstream.ErrStreamNotFound) {
			return ErrNoQueue
		}
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return ErrNoQueue
	}
	if refusal(err) != 0 {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// pause waits between two attempts, longer each time, and reports false when ctx has ended.
func pause(ctx context.Context, attempt int) bool {
	timer := time.NewTimer(min(longestPause, firstPause<<min(attempt, 10)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// stored is a message as a stream holds it.
type stored struct {
	Seq     uint64
	Subject string
	Header  nats.Header
	Data    []byte
	At      time.Time
}

// gone reports whether the message is a tombstone of ours, or the mark of a key that was deleted or has expired.
func (s stored) gone() bool {
	return s.Seq == 0 || isGone(s.Header)
}

func isGone(header nats.Header) bool {
	return header.Get(headerGone) != "" || header.Get("KV-Operation") != "" || header.Get("Nats-Marker-Reason") != ""
}

// last reads the last message of a subject from the leader of its stream. A direct get could be answered by a replica
// that lags. Seq 0 means that there is none.
func (q *Queue) last(ctx context.Context, stream, subject string) (stored, error) {
	return q.get(ctx, stream, map[string]any{"last_by_subj": subject})
}

// at reads the message with a sequence from the leader of its stream. Seq 0 means that it was there and is gone.
//
// A leader that has been voted out and does not know it yet knows nothing of what came since. So only who has seen what
// stands behind the message, or that the stream has ended behind it, is believed that it is gone.
func (q *Queue) at(ctx context.Context, stream string, seq uint64) (stored, error) {
	m, err := q.get(ctx, stream, map[string]any{"seq": seq, "next_by_subj": ">"})
	switch {
	case err != nil || m.Seq == seq:
		return m, err
	case m.Seq > seq:
		return stored{}, nil
	}
	s, err := q.js.Stream(ctx, stream)
	var info *jetstream.StreamInfo
	if err == nil {
		info, err = s.Info(ctx, jetstream.WithDeletedDetails(true))
	}
	if err != nil {
		return stored{}, q.unanswered(ctx, stream, err)
	}
	if info.State.LastSeq >= seq && (info.State.FirstSeq > seq || slices.Contains(info.State.Deleted, seq)) {
		return stored{}, nil
	}
	return stored{}, fmt.Errorf("%w: who answers has not heard of message %d of %s", ErrUnreachable, seq, stream)
}

func (q *Queue) get(ctx context.Context, stream string, query map[string]any) (stored, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	defer context.AfterFunc(q.connection(), cancel)() // as in send
	request, err := json.Marshal(query)
	if err != nil {
		return stored{}, err
	}
	reply, err := q.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, request)
	if err != nil {
		return stored{}, q.unanswered(ctx, stream, err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return stored{}, fmt.Errorf("answer of the stream: %w", err)
	}
	if answer.Error != nil {
		if answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return stored{}, nil
		}
		return stored{}, q.unanswered(ctx, stream, answer.Error)
	}
	m := stored{Seq: answer.Message.Seq, Subject: answer.Message.Subject, Data: answer.Message.Data, At: answer.Message.Time}
	if len(answer.Message.Header) > 0 {
		if m.Header, err = nats.DecodeHeadersMsg(answer.Message.Header); err != nil {
			return stored{}, fmt.Errorf("answer of the stream: %w", err)
		}
	}
	return m, nil
}
