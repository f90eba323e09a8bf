package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"statusq/internal/kintone/simulator"
)

type simulateCmd struct {
	Listen  string        `default:"127.0.0.1:8090" placeholder:"ADDR" help:"Where kintone is simulated; loopback only (${default})."`
	Admin   string        `default:"127.0.0.1:0" placeholder:"ADDR" help:"Where its commit log and faults are; loopback only, any free port."`
	Apps    int           `default:"1" help:"How many apps, with the ids 5, 6, 7 and so on (${default})."`
	Records int           `default:"1000" help:"Records in each, numbered from 1, all \"Not started\" (${default})."`
	Token   string        `default:"demotoken" help:"API token of the apps (${default}); it protects nothing."`
	Latency time.Duration `default:"0s" help:"How long every answer takes (${default})."`
	Out     bool          `name:"json" help:"Print the addresses as one JSON object even on a terminal."`
}

// Run serves until stop ends.
func (c *simulateCmd) Run(stop context.Context, t *terminal) error {
	if c.Apps < 1 || c.Apps > 100 || c.Records < 0 {
		return usageError{errors.New("--apps from 1 to 100, --records at least 0")}
	}
	k := simulator.New(simulator.Config{Latency: c.Latency})
	k.AddUser("sato", "sato")
	k.AddUser("suzuki", "suzuki")
	for i := range c.Apps {
		token := c.Token
		if i > 0 {
			token = fmt.Sprintf("%s%d", c.Token, i+5) // a token belongs to one app
		}
		k.AddApp(simulator.App{
			ID: int64(5 + i), Name: fmt.Sprintf("Simulated app %d", 5+i), Records: c.Records,
			Tokens: []simulator.Token{simulator.ViewToken(token)}, Process: simulator.Workflow(),
		})
	}
	main, err := listenLoopback(c.Listen)
	if err != nil {
		return err
	}
	defer main.Close()
	admin, err := listenLoopback(c.Admin)
	if err != nil {
		return err
	}
	defer admin.Close()

	addresses := struct {
		URL   string `json:"url"`
		Token string `json:"token"`
		Admin string `json:"admin"`
	}{"http://" + main.Addr().String(), c.Token, "http://" + admin.Addr().String()}
	for i := 1; i < c.Apps; i++ {
		addresses.Token += fmt.Sprintf(",%s%d", c.Token, i+5)
	}
	if c.Out || !isTerminal(t.stdout) {
		if err := json.NewEncoder(t.stdout).Encode(addresses); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(t.stdout, `A simulated kintone with %d app(s) of %d records. Point a worker at it:

  export KINTONE_BASE_URL=%s
  export KINTONE_API_TOKEN=%s

Actions: Start (Not started -> In progress), Approve (-> Completed), Reopen (-> Not started).
Its commit log:   curl '%s/commits?since=0'
Its counters:     curl %s/requests
Make it fail:     curl -X POST -d '{"kind":"unavailable","for":"10s"}' %s/faults
`, c.Apps, c.Records, addresses.URL, addresses.Token, addresses.Admin, addresses.Admin, addresses.Admin)
	}
	servers := []*http.Server{
		{Handler: k, ReadHeaderTimeout: 10 * time.Second},
		{Handler: k.Admin(), ReadHeaderTimeout: 10 * time.Second},
	}
	var wg sync.WaitGroup
	failed := make(chan error, len(servers))
	for i, l := range []net.Listener{main, admin} {
		wg.Go(func() { failed <- servers[i].Serve(l) })
	}
	select {
	case err = <-failed:
	case <-stop.Done():
	}
	for _, s := range servers {
		s.Close()
	}
	wg.Wait()
	return err
}

// listenLoopback listens where only this machine reaches.
func listenLoopback(address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, usageError{fmt.Errorf("address %q: %w", address, err)}
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, usageError{fmt.Errorf("address %q is not on the loopback interface: the simulator asks nobody who he is", address)}
	}
	return net.Listen("tcp", address)
}
