//go:build docker

package test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"
	dockernet "github.com/testcontainers/testcontainers-go/network"

	"statusq/test/programs"
)

// The streams whose leaders matter: jobs, what is decided about them, who owns a site, what is known of an app.
const (
	jobsStream    = "STATUSQ_JOBS"
	ledgerStream  = "STATUSQ_LEDGER"
	leasesStream  = "KV_statusq_leases"
	controlStream = "KV_statusq_control"
)

// cluster is three NATS servers in containers, set up as deploy/nats.conf says. Each is on two networks: its clients
// reach it over one, the other servers over the other, which can be taken away from it alone.
type cluster struct {
	servers []*server
	routes  string // the name of the network between the servers
}

type server struct {
	*testcontainers.DockerContainer
	name    string
	url     string
	monitor string
}

// clusterConf is what a server of a cluster says beyond deploy/nats.conf. A route that is cut off is noticed within
// seconds, so that a test sees both the parting and the return.
const clusterConf = `include nats.conf

server_name: $NATS_NAME
cluster {
  name: statusq
  listen: 0.0.0.0:6222
  routes: [nats://n1:6222, nats://n2:6222, nats://n3:6222]
  no_advertise: true # clients know the addresses that are published on this machine
  ping_interval: "1s"
  ping_max: 3
}
`

func startCluster(t *testing.T) *cluster {
	t.Helper()
	image := t.TempDir()
	programs.CopyFile(t, filepath.Join(image, "nats-server"), filepath.Join(programs.Bin, "nats-server"), 0o755)
	programs.CopyFile(t, filepath.Join(image, "nats.conf"), "../deploy/nats.conf", 0o644)
	programs.WriteFile(t, filepath.Join(image, "cluster.conf"), clusterConf)
	programs.WriteFile(t, filepath.Join(image, "Dockerfile"),
		"FROM scratch\nCOPY nats-server nats.conf cluster.conf /\nENTRYPOINT [\"/nats-server\", \"-c\", \"/cluster.conf\"]\n")

	routes, err := dockernet.New(t.Context(), dockernet.WithInternal())
	testcontainers.CleanupNetwork(t, routes)
	if err != nil {
		t.Fatalf("make the network between the servers: %v", err)
	}
	c := &cluster{routes: routes.Name}
	for i := range 3 {
		c.servers = append(c.servers, startServer(t, fmt.Sprintf("n%d", i+1), image, routes))
	}
	c.waitHealthy(t)
	return c
}

func startServer(t *testing.T, name, image string, routes *testcontainers.DockerNetwork) *server {
	t.Helper()
	data := t.TempDir()
	client, monitor := fixedAddress(t), fixedAddress(t)
	bind := func(a netip.AddrPort) []network.PortBinding {
		return []network.PortBinding{{HostIP: a.Addr(), HostPort: fmt.Sprint(a.Port())}}
	}
	c, err := testcontainers.Run(t.Context(), "",
		testcontainers.WithDockerfile(testcontainers.FromDockerfile{Context: image}),
		testcontainers.WithLogger(log.TestLogger(t)),
		testcontainers.WithEnv(map[string]string{"NATS_NAME": name}),
		testcontainers.WithExposedPorts("4222/tcp", "8222/tcp"),
		dockernet.WithBridgeNetwork(),
		dockernet.WithNetwork([]string{name}, routes),
		testcontainers.WithConfigModifier(func(c *container.Config) {
			c.User = fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()) // whoever tests can remove the data
		}),
		testcontainers.WithHostConfigModifier(func(c *container.HostConfig) {
			c.PortBindings = network.PortMap{
				network.MustParsePort("4222/tcp"): bind(client), network.MustParsePort("8222/tcp"): bind(monitor),
			}
			c.Binds = []string{data + ":/data"}
			c.ReadonlyRootfs = true
		}),
	)
	testcontainers.CleanupContainer(t, c)
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	s := &server{DockerContainer: c, name: name, url: "nats://" + client.String(), monitor: "http://" + monitor.String()}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		all, err := s.replicas(ctx)
		for stream, r := range all {
			t.Logf("%s: %s is led by %q, %+v", name, stream, r.Cluster.Leader, r.State)
		}
		t.Logf("%s (%v) said:\n%s", name, err, s.said())
	})
	return s
}

// fixedAddress is a loopback address that a server keeps over its restarts. It is below the ports that the kernel gives
// to connections, one of which could otherwise take it while the server is away.
func fixedAddress(t *testing.T) netip.AddrPort {
	t.Helper()
	for range 100 {
		address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(20000+rand.IntN(10000)))
		if l, err := net.Listen("tcp", address.String()); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no port between 20000 and 30000 is free")
	return netip.AddrPort{}
}

// said is the end of what the server wrote.
func (s *server) said() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	logs, err := s.Logs(ctx)
	if err != nil {
		return err.Error()
	}
	defer logs.Close()
	text, err := io.ReadAll(logs)
	if err != nil {
		return err.Error()
	}
	lines := slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool {
		return strings.Contains(line, "connect to route") || strings.Contains(line, "rid:") || strings.Contains(line, "Healthcheck")
	})
	return strings.Join(lines[max(0, len(lines)-80):], "\n")
}

// urls are the addresses of all servers but those left out, for one connection.
func (c *cluster) urls(without ...*server) string {
	var urls []string
	for _, s := range c.servers {
		if !slices.Contains(without, s) {
			urls = append(urls, s.url)
		}
	}
	return strings.Join(urls, ",")
}

// The faults. What they do to a server is undone by their opposite.

func (s *server) kill(t *testing.T)  { docker(t, "kill", s.ID) }
func (s *server) start(t *testing.T) { docker(t, "start", s.ID) }
func (s *server) stop(t *testing.T)  { docker(t, "stop", "--time", "20", s.ID) }

// pause stops the server's processes in mid-thought. Its connections stay, and so does what it believes.
func (s *server) pause(t *testing.T)   { docker(t, "pause", s.ID) }
func (s *server) unpause(t *testing.T) { docker(t, "unpause", s.ID) }

// slow leaves the server a fiftieth of a processor.
func (s *server) slow(t *testing.T) {
	docker(t, "update", "--cpu-period", "100000", "--cpu-quota", "2000", s.ID)
}
func (s *server) fast(t *testing.T) {
	docker(t, "update", "--cpu-period", "100000", "--cpu-quota", "-1", s.ID)
}

// cut takes the server away from the others. Its clients still reach it.
func (c *cluster) cut(t *testing.T, s *server) { docker(t, "network", "disconnect", c.routes, s.ID) }
func (c *cluster) heal(t *testing.T, s *server) {
	docker(t, "network", "connect", "--alias", s.name, c.routes, s.ID)
}

func docker(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "docker", args...).CombinedOutput(); err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// replica is a stream as one server sees it.
type replica struct {
	Name    string
	Cluster struct {
		Leader   string
		Replicas []struct {
			Name    string
			Current bool
		}
	}
	State struct {
		Messages    uint64 `json:"messages"`
		FirstSeq    uint64 `json:"first_seq"`
		LastSeq     uint64 `json:"last_seq"`
		NumSubjects int    `json:"num_subjects"`
	}
}

// replicas asks the server for its copy of every stream, by the stream's name.
func (s *server) replicas(ctx context.Context) (map[string]replica, error) {
	var info struct {
		Accounts []struct {
			Streams []replica `json:"stream_detail"`
		} `json:"account_details"`
	}
	body, err := s.ask(ctx, "/jsz?streams=true")
	if err == nil {
		err = json.Unmarshal(body, &info)
	}
	if err != nil {
		return nil, err
	}
	all := make(map[string]replica)
	for _, a := range info.Accounts {
		for _, r := range a.Streams {
			all[r.Name] = r
		}
	}
	return all, nil
}

// ask gets a page of the server's monitoring. Anything but 200 is an error.
func (s *server) ask(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.monitor+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", s.name, resp.Status, body)
	}
	return body, err
}

// waitHealthy waits until every server says that it is up, follows a leader and has caught up in every stream.
func (c *cluster) waitHealthy(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		var unwell error
		for _, s := range c.servers {
			if _, err := s.ask(t.Context(), "/healthz"); err != nil {
				unwell = err
			}
		}
		if unwell == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the cluster is not healthy after 90 s: %v", unwell)
		}
	}
}

// leader is the server that leads a stream, once all three agree on it.
func (c *cluster) leader(t *testing.T, stream string) *server {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		leaders := make(map[string]int)
		for _, s := range c.servers {
			if all, err := s.replicas(t.Context()); err == nil {
				leaders[all[stream].Cluster.Leader]++
			}
		}
		for _, s := range c.servers {
			if leaders[s.name] == len(c.servers) {
				return s
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no agreement on the leader of %s after 60 s: %v", stream, leaders)
		}
	}
}

// follower is a server that does not lead a stream.
func (c *cluster) follower(t *testing.T, stream string) *server {
	t.Helper()
	leader := c.leader(t, stream)
	return c.servers[(slices.Index(c.servers, leader)+1)%len(c.servers)]
}
