package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// Handler answers one question. Its context ends when the answer is not wanted any more: the service stops, or has no right to
// answer any longer.
type Handler = func(ctx context.Context, request []byte) ([]byte, error)

// RemoteError is what a handler returned.
type RemoteError struct {
	Verb string
	Text string
}

func (e *RemoteError) Error() string { return e.Verb + ": " + e.Text }

// Serve answers questions about a site under <prefix>.rpc.<site>.<verb>. Of several that serve a verb, one answers each
// question, so only the owner should. Handlers' contexts end with ctx at the latest, whether or not NATS can be reached. What
// stop returns after is that no handler runs any more.
func (q *Queue) Serve(ctx context.Context, site string, verbs map[string]Handler) (stop func(), err error) {
	service, err := micro.AddService(q.nc, micro.Config{
		Name:        q.prefix + "-" + site,
		Version:     "1.0.0",
		Description: "answers what needs the owner of a site",
	})
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", site, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var (
		running sync.WaitGroup
		mu      sync.Mutex // guards stopped, so that nothing is added to running after the wait has begun
		stopped bool
	)
	stop = sync.OnceFunc(func() {
		_ = service.Stop() // on a lost connection there is nothing to unsubscribe
		q.flush()
		cancel()
		mu.Lock()
		stopped = true
		mu.Unlock()
		running.Wait()
	})
	for verb, handle := range verbs {
		answer := func(request micro.Request) {
			mu.Lock()
			defer mu.Unlock()
			if stopped {
				_ = request.Error("503", "stopping", nil)
				return
			}
			// A question that takes long must not keep the others waiting.
			running.Go(func() {
				reply, err := handle(ctx, request.Data())
				if err == nil {
					err = request.Respond(reply)
				}
				if err != nil {
					_ = request.Error("500", oneLine(err.Error()), nil) // the asker's wait ends with its context
				}
			})
		}
		err := service.AddEndpoint(verb, micro.HandlerFunc(answer), micro.WithEndpointSubject(q.rpcSubject(site, verb)))
		if err != nil {
			stop()
			return nil, fmt.Errorf("serve %s of %s: %w", verb, site, err)
		}
	}
	q.flush()
	return stop, nil
}

// flush waits until the server knows what has been subscribed. Without a connection there is nothing to wait for: all
// subscriptions are made again with the next one.
func (q *Queue) flush() {
	ctx, cancel := context.WithTimeout(q.connection(), attemptTimeout)
	defer cancel()
	_ = q.nc.FlushWithContext(ctx)
}

// Ask asks the owner of a site. The error wraps [ErrNoWorker] when nobody serves it, and is a *[RemoteError] when the
// handler failed. It waits until ctx ends.
func (q *Queue) Ask(ctx context.Context, site, verb string, request []byte) ([]byte, error) {
	reply, err := q.nc.RequestWithContext(ctx, q.rpcSubject(site, verb), request)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, fmt.Errorf("%s of %s: %w", verb, site, ErrNoWorker)
	case err != nil && q.Connected():
		return nil, fmt.Errorf("%s of %s: %w: one took the question and has not answered, ask again", verb, site, ErrNoWorker)
	case err != nil:
		return nil, fmt.Errorf("%s of %s: %w: %w", verb, site, ErrUnreachable, err)
	}
	if text := reply.Header.Get(micro.ErrorHeader); text != "" {
		return nil, &RemoteError{Verb: verb, Text: text}
	}
	return reply.Data, nil
}

func (q *Queue) rpcSubject(site, verb string) string { return q.prefix + ".rpc." + site + "." + verb }

// oneLine makes a text fit into a header.
func oneLine(text string) string {
	if text = strings.Join(strings.Fields(text), " "); text == "" {
		return "failed"
	}
	return text
}
