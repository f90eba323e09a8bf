package embedded

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/crypto/bcrypt"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// Values of Config.Sync: when what was written reaches the disk.
const (
	SyncAlways   = "always"   // before it is acknowledged; the promises hold over a power failure
	SyncInterval = "interval" // within a second; a power failure loses up to that, a crash of the process nothing
	SyncNever    = "never"    // when the operating system sees fit; for tests and throw-away data
)

// DefaultMaxStore is the disk that JetStream may take unless configured. It must exceed the sum of what the streams
// reserve (10 GiB each for log and ledger, unless configured) or they cannot be created.
const DefaultMaxStore = 24 << 30

// maxMemory bounds what JetStream holds in memory storage, where only short-lived consumers keep their state.
const maxMemory = 256 << 20

// readyTimeout bounds the wait for connections after the stored data have been read back.
const readyTimeout = 10 * time.Second

// ErrLocked says that another server uses the directory.
var ErrLocked = errors.New("directory in use by another server")

// ErrConfig says that no server can run as the [Config] asks: without a directory, with a listen address that is none or
// is not loopback, or with a sync that does not exist.
var ErrConfig = errors.New("wrong configuration")

// Config says where and how a server runs.
type Config struct {
	Dir      string                   // required; created (mode 0700) if absent
	Listen   string                   // host:port, loopback only, port 0 for any free one; "" = this process only
	Sync     string                   // SyncAlways ("" means that, too), SyncInterval or SyncNever
	MaxStore int64                    // bytes of disk; 0 = DefaultMaxStore
	Logger   func(level, text string) // level is info, warn or error; called from many goroutines; nil = silent
}

// Server is a running server. It must be closed.
type Server struct {
	nats   *server.Server
	lock   *os.File
	client queue.ClientFile

	closing atomic.Bool
	closed  chan struct{} // closed when everything is
}

// Start locks the directory, starts a server on it and returns when the server takes connections. Only then is the client
// file written: a start that fails leaves the one of the last server, or none. A directory that another server uses gives
// an error that is [ErrLocked], a cfg that cannot be gives one that is [ErrConfig].
func Start(cfg Config) (_ *Server, err error) {
	opts, err := options(cfg)
	if err != nil {
		return nil, fmt.Errorf("embedded queue: %w: %w", ErrConfig, err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("embedded queue: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("embedded queue: %w", err)
	}
	s := &Server{lock: lock, closed: make(chan struct{})}
	defer func() {
		if err != nil {
			s.Close()
			err = fmt.Errorf("embedded queue: %w", err)
		}
	}()

	if s.client, err = credential(cfg.Dir); err != nil {
		return nil, err
	}
	// The least work is enough to hide a password of 260 random bits.
	hash, err := bcrypt.GenerateFromPassword([]byte(s.client.Password.Reveal()), bcrypt.MinCost)
	if err != nil {
		return nil, err
	}
	opts.Username, opts.Password = s.client.User, string(hash)
	if err := free(cfg.Listen); err != nil {
		return nil, err
	}
	if s.nats, err = server.NewServer(opts); err != nil {
		return nil, err
	}
	log := &logger{to: cfg.Logger, lock: lock}
	s.nats.SetLoggerV2(log, false, false, false)
	s.nats.Start()
	if reason := log.reason(); reason != "" {
		return nil, errors.New(reason)
	}
	if !s.nats.ReadyForConnections(readyTimeout) {
		return nil, fmt.Errorf("not ready after %v", readyTimeout)
	}

	s.client.URL = ""
	if !opts.DontListen {
		s.client.URL = s.nats.ClientURL()
	}
	return s, s.client.Write(cfg.Dir)
}

// URL returns the address for clients on this machine, "" if the server does not listen.
func (s *Server) URL() string { return s.client.URL }

// Config connects to the server inside this process, whether it listens or not.
func (s *Server) Config() queue.Config {
	return queue.Config{User: s.client.User, Password: s.client.Password, Dial: s.nats.InProcessConn}
}

// Disconnect cuts every connection, as a broken network would, and goes on serving. It returns how many it cut.
func (s *Server) Disconnect() int {
	conns, err := s.nats.Connz(&server.ConnzOptions{})
	if err != nil {
		return 0
	}
	cut := 0
	for _, c := range conns.Conns {
		if s.nats.DisconnectClientByID(c.Cid) == nil {
			cut++
		}
	}
	return cut
}

// Close shuts the server down, waits until it is, and unlocks the directory. It may be called more than once.
func (s *Server) Close() {
	if s.closing.CompareAndSwap(false, true) {
		if s.nats != nil {
			s.nats.Shutdown()
			s.nats.WaitForShutdown()
		}
		_ = s.lock.Close() // ends the lock; there is nothing in the file to lose
		close(s.closed)
	}
	<-s.closed
}

func options(cfg Config) (*server.Options, error) {
	if cfg.Dir == "" {
		return nil, errors.New("no directory configured")
	}
	opts := &server.Options{
		ServerName:             "statusq",
		DontListen:             cfg.Listen == "",
		NoSigs:                 true,
		JetStream:              true,
		StoreDir:               cfg.Dir,
		JetStreamMaxMemory:     maxMemory,
		JetStreamMaxStore:      DefaultMaxStore,
		DisableJetStreamBanner: true,
	}
	if cfg.MaxStore > 0 {
		opts.JetStreamMaxStore = cfg.MaxStore
	}
	switch cfg.Sync {
	case "", SyncAlways:
		opts.SyncAlways = true
	case SyncInterval:
		opts.SyncInterval = time.Second
	case SyncNever:
		opts.SyncInterval = 100 * 365 * 24 * time.Hour
	default:
		return nil, fmt.Errorf("sync %q: must be %s, %s or %s", cfg.Sync, SyncAlways, SyncInterval, SyncNever)
	}
	if cfg.Listen == "" {
		return opts, nil
	}

	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen address: %w", err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("listen address %s: port must be a number up to 65535", cfg.Listen)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.Unmap().IsLoopback() {
		return nil, fmt.Errorf("listen address %s is not loopback, and the embedded server has no TLS: "+
			"use 127.0.0.1, or a NATS server of its own for clients on other machines", cfg.Listen)
	}
	opts.Host, opts.Port = host, int(n)
	if n == 0 {
		opts.Port = server.RANDOM_PORT
	}
	return opts, nil
}

// credential reads the directory's credential, or makes one, which Start writes down once the server runs.
func credential(dir string) (queue.ClientFile, error) {
	c, err := queue.ReadClientFile(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	return queue.ClientFile{User: "statusq", Password: kintone.Secret(rand.Text() + rand.Text())}, nil
}

// free tries the address before the server does, whose own complaint would come as a log line.
func free(address string) error {
	if address == "" {
		return nil
	}
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is taken, perhaps by another NATS server: choose another address, or use that server by its URL: %w",
			address, syscall.EADDRINUSE)
	}
	if err != nil {
		return err
	}
	return l.Close()
}

// locked words the refusal of a directory whose lock somebody else holds, by process id as far as it is known.
func locked(dir, pid string) error {
	holder := ""
	if pid != "" {
		holder = " (process " + pid + ")"
	}
	return fmt.Errorf("%s: %w%s: stop that one, use another directory, or connect to it by its URL", dir, ErrLocked, holder)
}

// logger passes on what the server logs and keeps what it calls fatal: the server itself then just stays half started.
type logger struct {
	to func(level, text string)

	// A file that nobody can reach any more is closed by the garbage collector, and with it ends the lock. The server
	// holds its logger for as long as it runs, even if its owner has forgotten it.
	lock *os.File

	mu    sync.Mutex
	fatal string // the first; guarded by mu
}

func (l *logger) reason() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

func (l *logger) log(level, format string, v []any) {
	if l.to != nil {
		l.to(level, fmt.Sprintf(format, v...))
	}
}

func (l *logger) Fatalf(format string, v ...any) {
	l.mu.Lock()
	if l.fatal == "" {
		l.fatal = fmt.Sprintf(format, v...)
	}
	l.mu.Unlock()
	l.log("error", format, v)
}

func (l *logger) Errorf(format string, v ...any)  { l.log("error", format, v) }
func (l *logger) Warnf(format string, v ...any)   { l.log("warn", format, v) }
func (l *logger) Noticef(format string, v ...any) { l.log("info", format, v) }
func (l *logger) Debugf(string, ...any)           {}
func (l *logger) Tracef(string, ...any)           {}
