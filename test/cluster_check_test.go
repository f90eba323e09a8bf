//go:build docker

package test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"statusq/internal/queue"
	"statusq/test/programs"
)

// checkOutcomes compares what was published, what the ledger says became of it, and kintone's own account.
func (p *plant) checkOutcomes(t *testing.T) {
	t.Helper()
	q := programs.Connect(t, p.cluster.urls())
	for _, s := range p.sites {
		// A result is written after the action it tells of.
		want, ended := s.laps*clusterRecords, map[string][]queue.Outcome{}
		for deadline := time.Now().Add(time.Minute); len(ended) < want && time.Now().Before(deadline); time.Sleep(time.Second) {
			clear(ended)
			for r, err := range q.Results(t.Context(), queue.ResultFilter{Site: s.name}) {
				if err != nil {
					t.Fatalf("read results: %v", err)
				}
				ended[r.Job] = append(ended[r.Job], r.Outcome)
			}
		}
		for lap := range s.laps {
			for r := range clusterRecords {
				job := fmt.Sprintf("%d-%d", lap, r+1)
				if got := ended[job]; len(got) != 1 || got[0] != queue.Applied {
					t.Errorf("site %s: job %s, which was accepted, ended %q, want %s once", s.name, job, got, queue.Applied)
				}
				delete(ended, job)
			}
		}
		if len(ended) > 0 {
			t.Errorf("site %s: jobs have ended that nobody published: %v", s.name, ended)
		}
		s.checkCommits(t)
		for d, err := range q.Dead(t.Context(), queue.DeadFilter{Site: s.name}) {
			if err != nil {
				t.Fatalf("read dead letters: %v", err)
			}
			t.Errorf("site %s: job %s is dead (%s %s), want none", s.name, d.Job.ID, d.Reason, d.Message)
		}
		slots, err := q.Slots(t.Context(), s.name, clusterApp)
		if err != nil {
			t.Fatalf("read slots: %v", err)
		}
		for _, v := range slots {
			if v.Slot.Request != nil {
				t.Errorf("site %s: slot %d holds request %s after all jobs have ended", s.name, v.N, v.Slot.Request.ID)
			}
		}
	}
}

// checkCommits holds kintone's account against what was published: every record went round, one step a lap.
func (s *site) checkCommits(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	commits := slices.Clone(s.commits)
	s.mu.Unlock()
	done := make(map[int64]int)
	for _, c := range commits {
		if want := laps[done[c.Record]%len(laps)]; c.Action != want || c.Foreign {
			t.Errorf("site %s: action %d on record %d was %s (foreign: %v), want %s", s.name, done[c.Record]+1, c.Record, c.Action, c.Foreign, want)
		}
		done[c.Record]++
	}
	for r := range int64(clusterRecords) {
		if done[r+1] != s.laps {
			t.Errorf("site %s: record %d had %d actions, want %d", s.name, r+1, done[r+1], s.laps)
		}
	}
}

// checkReplicas lets each server lead the log and the ledger in turn and reads what it holds: no job of our sites in the
// log, none parked, and in the ledger the same as the others, message for message. Nobody may write meanwhile.
func (p *plant) checkReplicas(t *testing.T) {
	t.Helper()
	ledgers := make(map[string]map[uint64]held)
	for _, s := range p.cluster.servers {
		p.cluster.moveLeader(t, p.nc, jobsStream, s)
		p.cluster.moveLeader(t, p.nc, ledgerStream, s)
		log, ledger := readStream(t, p.nc, jobsStream), readStream(t, p.nc, ledgerStream)
		for _, site := range p.sites {
			for seq, m := range log {
				if strings.HasPrefix(m.subject, "statusq.jobs."+site.name+".") {
					t.Errorf("%s: the log of site %s still holds message %d", s.name, site.name, seq)
				}
			}
			for seq, m := range ledger {
				if strings.HasPrefix(m.subject, "statusq.parked."+site.name+".") {
					t.Errorf("%s: a job of site %s is still parked, at %d: %s", s.name, site.name, seq, m.subject)
				}
			}
		}
		ledgers[s.name] = ledger
	}
	first := ledgers[p.cluster.servers[0].name]
	if len(first) == 0 {
		t.Error("the ledger is empty")
	}
	for _, s := range p.cluster.servers[1:] {
		if !maps.Equal(first, ledgers[s.name]) {
			t.Errorf("the ledgers of n1 and %s differ: %d and %d messages", s.name, len(first), len(ledgers[s.name]))
		}
	}
}

// moveLeader makes a server the leader of a stream.
func (c *cluster) moveLeader(t *testing.T, nc *nats.Conn, stream string, to *server) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); c.leader(t, stream) != to; time.Sleep(200 * time.Millisecond) {
		_, _ = nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, to.name), 5*time.Second)
		if time.Now().After(deadline) {
			t.Fatalf("%s does not become the leader of %s", to.name, stream)
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// held is a message that a server holds: its subject, and the sum of its header and data.
type held struct {
	subject string
	sum     [sha256.Size]byte
}

// readStream reads every message that the leader of a stream holds, by sequence. Tombstones, which vanish by themselves,
// are left out.
func readStream(t *testing.T, nc *nats.Conn, stream string) map[uint64]held {
	t.Helper()
	all := make(map[uint64]held)
	for seq := uint64(1); ; seq++ {
		m, err := nextMessage(t.Context(), nc, stream, seq)
		if err != nil {
			t.Fatalf("read %s from %d: %v", stream, seq, err)
		}
		if m.Seq == 0 {
			return all
		}
		if seq = m.Seq; !bytes.Contains(m.Header, []byte("Statusq-Gone")) {
			all[seq] = held{m.Subject, sha256.Sum256(slices.Concat(m.Header, []byte{0}, m.Data))}
		}
	}
}

type message struct {
	Subject string
	Seq     uint64
	Header  []byte `json:"hdrs"`
	Data    []byte
}

// nextMessage asks the leader of a stream for the first message from a sequence on. Seq 0 means that there is none.
func nextMessage(ctx context.Context, nc *nats.Conn, stream string, from uint64) (message, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		m, err := askForMessage(ctx, nc, stream, from)
		if err == nil || ctx.Err() != nil {
			return m, err
		}
		time.Sleep(100 * time.Millisecond) // a leader has been moved a moment ago
	}
}

func askForMessage(ctx context.Context, nc *nats.Conn, stream string, from uint64) (message, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, fmt.Appendf(nil, `{"seq":%d,"next_by_subj":">"}`, from))
	if err != nil {
		return message{}, err
	}
	var answer struct {
		Error   *struct{ Code int }
		Message message
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return message{}, err
	}
	if answer.Error != nil && answer.Error.Code != http.StatusNotFound {
		return message{}, fmt.Errorf("the server says %s", reply.Data)
	}
	return answer.Message, nil
}
