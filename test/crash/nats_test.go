//go:build crash

package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"statusq/internal/queue"
	"statusq/test/programs"
)

// broker is a nats-server that several sites share.
type broker struct {
	t      *testing.T
	conf   string
	url    string
	server *process
}

func newBroker(t *testing.T) *broker {
	t.Helper()
	port := freePort(t)
	b := &broker{t: t, conf: filepath.Join(t.TempDir(), "nats.conf"), url: "nats://127.0.0.1:" + strconv.Itoa(port)}
	// Processes die here, machines do not: what was written is there again, synced or not.
	programs.WriteFile(t, b.conf, fmt.Sprintf(`
listen: 127.0.0.1:%d
jetstream {
  store_dir: %q
  max_file_store: 24G
  max_memory_store: 256M
}
`, port, t.TempDir()))
	b.start()
	programs.Call(t, "worker", []string{"STATUSQ_NATS_URL=" + b.url}, "setup", "--apply")
	return b
}

func (b *broker) start() {
	b.t.Helper()
	b.server = spawn(b.t, nil, "nats-server", "-c", b.conf)
	if !within(20*time.Second, func() bool { return b.server.says("Server is ready") || !b.server.alive() }) || !b.server.alive() {
		b.t.Fatalf("nats-server does not start:\n%s", b.server.tail(2000))
	}
}

var ports atomic.Int32 // that freePort has given

// freePort is one that no outgoing connection takes meanwhile: systems take those from 32768 on.
func freePort(t *testing.T) int {
	t.Helper()
	for port := 20000 + os.Getpid()%1000*10 + int(ports.Add(1)); port < 32000; port = 20000 + os.Getpid()%1000*10 + int(ports.Add(1)) {
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// connect opens the queue.
func (b *broker) connect() *queue.Queue {
	b.t.Helper()
	q, err := queue.Connect(b.t.Context(), queue.Config{URL: b.url, Name: "test"})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(q.Close)
	return q
}

// watch follows what is stored in the ledger's slots, who holds which lease and how changes of settings fare, and what anybody wanted to store in a
// slot.
type watch struct {
	conn *nats.Conn

	mu      sync.Mutex                 // guards what follows
	stored  map[string]uint64          // epoch by subject of a slot
	claims  map[string][]holder        // by site: the first write to a slot under each epoch
	leases  map[string][]holder        // by site
	request map[string]map[string]bool // by site: each part of a request that anybody wanted to store
	turns   map[string][]turn          // by site: changes of settings
	wrong   []string
}

// holder is an owner, or somebody who holds the lease.
type holder struct {
	mark  string // what tells this holding from others: the epoch, or the nonce of the lease
	pid   int
	epoch uint64
	at    time.Time // when the server stored it
}

func (b *broker) watch() *watch {
	b.t.Helper()
	conn, err := nats.Connect(b.url, nats.MaxReconnects(-1))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(conn.Close)
	w := &watch{conn: conn, stored: map[string]uint64{}, claims: map[string][]holder{}, leases: map[string][]holder{}, request: map[string]map[string]bool{}, turns: map[string][]turn{}}
	js, err := jetstream.New(conn)
	if err != nil {
		b.t.Fatal(err)
	}
	follow := func(stream, subject string, take func(subject string, data []byte, at time.Time)) {
		b.t.Helper()
		consumer, err := js.OrderedConsumer(b.t.Context(), stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}})
		if err != nil {
			b.t.Fatal(err)
		}
		consuming, err := consumer.Consume(func(m jetstream.Msg) {
			meta, err := m.Metadata()
			if err != nil {
				return
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			take(m.Subject(), m.Data(), meta.Timestamp)
		})
		if err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(consuming.Stop)
	}
	follow("STATUSQ_LEDGER", "statusq.slot.>", w.slot)
	follow("KV_statusq_leases", "$KV.statusq_leases.>", w.lease)
	follow("KV_statusq_control", "$KV.statusq_control.>", w.change)
	wanted, err := conn.Subscribe("statusq.slot.>", func(m *nats.Msg) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.wanted(m.Subject, m.Data)
	})
	if err != nil {
		b.t.Fatal(err)
	}
	// It must not be cut off for being slow while the machine is busy.
	if err := wanted.SetPendingLimits(-1, -1); err != nil {
		b.t.Fatal(err)
	}
	return w
}

// slot takes what was stored. It and the next ones are called with mu held.
func (w *watch) slot(subject string, data []byte, at time.Time) {
	var s queue.Slot
	if err := json.Unmarshal(data, &s); err != nil {
		w.wrong = append(w.wrong, fmt.Sprintf("%s holds %q: %v", subject, data, err))
		return
	}
	if before := w.stored[subject]; s.Epoch < before {
		w.wrong = append(w.wrong, fmt.Sprintf("%s was written by %s of epoch %d after epoch %d had claimed it", subject, s.Owner, s.Epoch, before))
	}
	w.stored[subject] = max(s.Epoch, w.stored[subject])
	site := strings.Split(subject, ".")[2]
	w.claims[site] = note(w.claims[site], s.Owner, strconv.FormatUint(s.Epoch, 10), s.Epoch, at)
}

func (w *watch) lease(subject string, data []byte, at time.Time) {
	var l struct{ Owner, Nonce string }
	if json.Unmarshal(data, &l) != nil {
		return // released, removed or expired
	}
	site := subject[strings.LastIndex(subject, ".")+1:]
	w.leases[site] = note(w.leases[site], l.Owner, l.Nonce, 0, at)
}

// note adds a holder under a mark that is new.
func note(all []holder, owner, mark string, epoch uint64, at time.Time) []holder {
	if slices.ContainsFunc(all, func(h holder) bool { return h.mark == mark }) {
		return all
	}
	return append(all, holder{mark, pidOf(owner), epoch, at})
}

// pidOf reads the process id out of a worker's name, host-pid-random.
func pidOf(owner string) int {
	parts := strings.Split(owner, "-")
	if len(parts) < 3 {
		return 0
	}
	pid, _ := strconv.Atoi(parts[len(parts)-2])
	return pid
}

func (w *watch) wanted(subject string, data []byte) {
	var s queue.Slot
	if json.Unmarshal(data, &s) != nil || s.Request == nil {
		return
	}
	site := strings.Split(subject, ".")[2]
	if w.request[site] == nil {
		w.request[site] = make(map[string]bool)
	}
	for _, p := range s.Request.Parts {
		w.request[site][partText(p)] = true
	}
}

func partText(p queue.Part) string {
	var b strings.Builder
	for _, m := range p.Members {
		fmt.Fprintf(&b, "%d@%d ", m.Record, m.Pin)
	}
	return b.String()
}

// firstClaim is when a process first claimed a slot of a site; zero if it never did.
func (w *watch) firstClaim(site string, pid int) (epoch uint64, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.claims[site] {
		if h.pid == pid {
			return h.epoch, h.at
		}
	}
	return 0, time.Time{}
}

// epoch is the newest that a slot of the site has.
func (w *watch) epoch(site string) (epoch uint64, pid int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.claims[site] {
		if h.epoch >= epoch {
			epoch, pid = h.epoch, h.pid
		}
	}
	return epoch, pid
}

// stood reports whether a request was to be stored in a slot.
func (w *watch) stood(site, members string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.request[site][members]
}

// held are those who held the lease of a site, in turn.
func (w *watch) held(site string) []holder {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.leases[site])
}

// complaints are the writes that should have been refused.
func (w *watch) complaints() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.wrong)
}

// removeLease takes the lease of a site away, from whomever has it.
func removeLease(ctx context.Context, conn *nats.Conn, site string) error {
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	_, err = js.PublishMsg(ctx, &nats.Msg{
		Subject: "$KV.statusq_leases." + site, Header: nats.Header{"KV-Operation": {"DEL"}},
	})
	return err
}
