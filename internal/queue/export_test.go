package queue

import (
	"context"
	"encoding/json"

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

// Queue is the connection that the ledger writes by.
func (l *Ledger) Queue() *Queue { return l.q }

// DecodeEnds reads a message with results as Load does, and reports whether its shape was known.
func DecodeEnds(data []byte) (ends []End, quick bool, err error) {
	_, quick = shapeOfEnds(nil, data)
	ends, err = decodeEnds(nil, stored{Data: data})
	return ends, quick, err
}

// EncodeResults gives a message with results as Write stores it.
func EncodeResults(request, campaign string, results []Result) ([]byte, error) {
	return json.Marshal(storedResults{V: 1, Request: request, Campaign: campaign, Results: results})
}
