package embedded_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"statusq/internal/queue"
	"statusq/internal/queue/embedded"
)

// heldDir tells a child process which directory to hold; see hold.
const heldDir = "STATUSQ_TEST_HELD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(heldDir); dir != "" {
		hold(dir)
	}
	os.Exit(m.Run())
}

// hold is the life of a child process: it publishes one job, says that it is ready, and waits to be killed.
func hold(dir string) {
	s, err := embedded.Start(embedded.Config{Dir: dir})
	if err == nil {
		err = publish(s.Config())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	runtime.GC() // a lock that only this function could reach would end here
	runtime.GC()
	fmt.Println("ready")
	select {}
}

func TestSecondServerOnADirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	first := start(t, embedded.Config{Dir: dir})
	if s, err := embedded.Start(embedded.Config{Dir: dir}); !errors.Is(err, embedded.ErrLocked) {
		if err == nil {
			s.Close()
		}
		t.Fatalf("a second server got error %v, want ErrLocked", err)
	}
	first.Close()
	first.Close() // harmless
	start(t, embedded.Config{Dir: dir})
}

func TestDirectoryOfAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), heldDir+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		t.Errorf("the child said %q, want ready", line)
	}

	s, err := embedded.Start(embedded.Config{Dir: dir})
	if err == nil {
		s.Close()
	}
	if !errors.Is(err, embedded.ErrLocked) {
		t.Errorf("while the child holds the directory the error is %v, want ErrLocked", err)
	}
	if err != nil && runtime.GOOS != "windows" && !strings.Contains(err.Error(), "process "+strconv.Itoa(child.Process.Pid)) {
		t.Errorf("the error %q does not name the process", err)
	}

	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // "signal: killed"
	q := connect(t, start(t, embedded.Config{Dir: dir}).Config())
	if n := backlog(t, q); n != 1 {
		t.Errorf("after the child was killed the log has %d jobs, want the 1 it published", n)
	}
}

func TestDataAndCredentialSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		s := start(t, embedded.Config{Dir: dir, Listen: "127.0.0.1:0"})
		if err := publish(s.Config()); err != nil {
			t.Fatal(err)
		}
		s.Close()

		s = start(t, embedded.Config{Dir: dir, Sync: embedded.SyncInterval})
		if n, want := backlog(t, connect(t, s.Config())), uint64(round+1); n != want {
			t.Errorf("after restart %d the log has %d jobs, want %d", round, n, want)
		}
		s.Close()
	}
}

func TestOnlyTheCredentialConnects(t *testing.T) {
	dir := t.TempDir()
	s := start(t, embedded.Config{Dir: dir, Listen: "localhost:0"})
	client, err := queue.ReadClientFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	if client.URL == "" || client.URL != s.URL() {
		t.Errorf("the client file has the URL %q, the server listens on %q", client.URL, s.URL())
	}
	if info, err := os.Stat(filepath.Join(dir, queue.ClientFileName)); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("the client file has mode %v, want 0600", info.Mode())
	}
	connect(t, client.Config())

	for name, cfg := range map[string]queue.Config{
		"nobody":         {URL: client.URL},
		"wrong password": {URL: client.URL, User: client.User, Password: client.Password + "x"},
	} {
		q, err := queue.Connect(t.Context(), cfg)
		if err == nil {
			q.Close()
		}
		if !errors.Is(err, queue.ErrRefused) {
			t.Errorf("%s: connecting gave error %v, want ErrRefused", name, err)
		}
	}
	// The same holds inside the process. Only the server's greeting is looked at: over a pipe without a buffer a refused
	// client and its server wait for each other until ten seconds are over.
	conn, err := s.Config().Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	greeting, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(greeting, `"auth_required":true`) {
		t.Errorf("inside the process the server greets with %q (error %v), want it to ask for the credential", greeting, err)
	}

	// The next server on the directory has another address and the same credential.
	s.Close()
	start(t, embedded.Config{Dir: dir})
	again, err := queue.ReadClientFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again.URL != "" || again.User != client.User || again.Password != client.Password {
		t.Errorf("after a restart without listening the client file has URL %q, and the same credential: %t", again.URL,
			again.User == client.User && again.Password == client.Password)
	}
	// And other directories have others.
	elsewhere := t.TempDir()
	start(t, embedded.Config{Dir: elsewhere})
	if other, err := queue.ReadClientFile(elsewhere); err != nil || other.Password == client.Password {
		t.Errorf("another directory has the same password: %t (error %v)", other.Password == client.Password, err)
	}
}

func TestStartRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, queue.ClientFileName), []byte(`{"v":1,"user":"hunter2"`), 0o600); err != nil {
		t.Fatal(err)
	}

	for name, tt := range map[string]struct {
		cfg   embedded.Config
		want  string
		usage bool // a mistake in the configuration
	}{
		"no directory":           {embedded.Config{}, "no directory", true},
		"a file as directory":    {embedded.Config{Dir: file}, "not a directory", false},
		"a broken client file":   {embedded.Config{Dir: broken}, "not readable as JSON", false},
		"every address":          {embedded.Config{Dir: t.TempDir(), Listen: ":4222"}, "not loopback", true},
		"every IPv4 address":     {embedded.Config{Dir: t.TempDir(), Listen: "0.0.0.0:4222"}, "not loopback", true},
		"every IPv6 address":     {embedded.Config{Dir: t.TempDir(), Listen: "[::]:4222"}, "not loopback", true},
		"an address of a net":    {embedded.Config{Dir: t.TempDir(), Listen: "192.168.1.2:4222"}, "not loopback", true},
		"a name":                 {embedded.Config{Dir: t.TempDir(), Listen: "nats.example.com:4222"}, "not loopback", true},
		"an address alone":       {embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1"}, "missing port", true},
		"a port that is none":    {embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:http"}, "port must be a number", true},
		"a port that is taken":   {embedded.Config{Dir: t.TempDir(), Listen: taken.Addr().String()}, taken.Addr().String() + " is taken", false},
		"a sync that is unknown": {embedded.Config{Dir: t.TempDir(), Sync: "sometimes"}, `sync "sometimes"`, true},
	} {
		s, err := embedded.Start(tt.cfg)
		if err == nil {
			s.Close()
			t.Errorf("%s: the server started", name)
			continue
		}
		if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error is %q, want it to say %q", name, err, tt.want)
		}
		if !strings.HasPrefix(err.Error(), "embedded queue: ") || strings.Count(err.Error(), "embedded queue") > 1 {
			t.Errorf("%s: the error is %q, want it to begin with embedded queue, once", name, err)
		}
		if errors.Is(err, embedded.ErrConfig) != tt.usage {
			t.Errorf("%s: the error %v is ErrConfig: %t, want %t", name, err, !tt.usage, tt.usage)
		}
		if name == "a port that is taken" {
			if !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("%s: the error %v is not EADDRINUSE", name, err)
			}
			start(t, embedded.Config{Dir: tt.cfg.Dir}) // a refused start keeps no lock
		}
	}
}

// The client file is for servers that run. One that could not listen must not tell clients that this directory takes no
// connections, nor forget the credential of the last that could.
func TestClientFileIsWrittenOnceTheServerListens(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	refused := func() {
		t.Helper()
		if s, err := embedded.Start(embedded.Config{Dir: dir, Listen: taken.Addr().String()}); err == nil {
			s.Close()
			t.Fatal("a server started on a port that is taken")
		}
	}

	refused()
	if c, err := queue.ReadClientFile(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after a first start that failed there is a client file with the URL %q (error %v), want none", c.URL, err)
	}
	s := start(t, embedded.Config{Dir: dir, Listen: "127.0.0.1:0"})
	want, err := queue.ReadClientFile(dir)
	if err != nil || want.URL == "" || want.URL != s.URL() {
		t.Errorf("the client file has the URL %q (error %v), want %q", want.URL, err, s.URL())
	}
	s.Close()
	refused()
	if got, err := queue.ReadClientFile(dir); err != nil || got != want {
		t.Errorf("after another start that failed the client file has the URL %q, and the same credential: %t (error %v)",
			got.URL, got.Password == want.Password, err)
	}
}

func TestDisconnectCutsAndServesOn(t *testing.T) {
	s := start(t, embedded.Config{Dir: t.TempDir(), Sync: embedded.SyncNever})
	cfg := s.Config()
	events := make(chan string, 10)
	cfg.OnEvent = func(event string) { events <- event }
	q := connect(t, cfg)
	if n := s.Disconnect(); n != 1 {
		t.Errorf("Disconnect cut %d connections, want 1", n)
	}
	for event := range events {
		if strings.Contains(event, "restored") {
			break
		}
	}
	if n := backlog(t, q); n != 0 {
		t.Errorf("after the reconnection the log has %d jobs, want 0", n)
	}
}

func TestLogger(t *testing.T) {
	lines := make(chan string, 100)
	s := start(t, embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Logger: func(level, text string) { lines <- level + " " + text }})
	s.Close()
	close(lines)
	var all strings.Builder
	for line := range lines {
		all.WriteString(line + "\n")
	}
	if !strings.Contains(all.String(), "info Listening for client connections") {
		t.Errorf("the server's log has no line of the listener:\n%s", &all)
	}
	if strings.Contains(all.String(), s.Config().Password.Reveal()) {
		t.Errorf("the server's log has the password:\n%s", &all)
	}
}

func start(t *testing.T, cfg embedded.Config) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func connect(t *testing.T, cfg queue.Config) *queue.Queue {
	t.Helper()
	q, err := queue.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	if err := q.Setup(t.Context(), queue.Layout{}); err != nil {
		t.Fatal(err)
	}
	return q
}

// publish sets a queue up and puts one job into its log.
func publish(cfg queue.Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	q, err := queue.Connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer q.Close()
	if err := q.Setup(ctx, queue.Layout{}); err != nil {
		return err
	}
	_, err = q.Publish(ctx, []queue.Job{{ID: queue.NewID(), Site: "main", App: 5, Record: 1, Action: "Approve", Revision: -1}})
	return err
}

func backlog(t *testing.T, q *queue.Queue) uint64 {
	t.Helper()
	apps, err := q.Backlog(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	return apps[5]
}
