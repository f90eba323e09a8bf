package queue

import (
	"context"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What tests in package queue_test need to see of the wire.

func (q *Queue) JetStream() jetstream.JetStream { return q.js }
func (q *Queue) Conn() *nats.Conn               { return q.nc }

// LastHeader gives the sequence and the header of a subject's last message in the ledger.
func (q *Queue) LastHeader(ctx context.Context, subject string) (uint64, nats.Header, error) {
	m, err := q.last(ctx, q.ledgerName(), subject)
	return m.Seq, m.Header, err
}

// LeaseSubject is where a site's lease is stored.
func (q *Queue) LeaseSubject(site string) (stream, subject string) {
	return "KV_" + q.bucket("leases"), "$KV." + q.bucket("leases") + "." + site
}
