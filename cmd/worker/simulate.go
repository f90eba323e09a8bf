package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"statusq/internal/kintone/simulator"
)

type simulateCmd struct {
	Listen  string        `default:"127.0.0.1:8090" placeholder:"ADDR" help:"Where kintone is simulated; loopback only (${default})."`
	Admin   string        `default:"127.0.0.1:0" placeholder:"ADDR" help:"Where its commit log and faults are; loopback only, any free port."`
	Apps    int           `default:"1" help:"How many plain apps, with the ids 5, 6, 7 and so on (${default})."`
	Records int           `default:"1000" help:"Records in each, numbered from 1, all in the first status (${default})."`
	Token   string        `default:"demotoken" help:"API token of the apps (${default}); it protects nothing."`
	Latency time.Duration `default:"0s" help:"How long every answer takes (${default})."`
	Write   string        `placeholder:"DIR" help:"Write a configuration for a worker there: statusq.yaml and the files with the tokens."`
	Out     bool          `name:"json" help:"Print the addresses as one JSON object even on a terminal."`
}

// Apps of the simulation besides the plain ones, which begin at 5.
const (
	approvalApp = 201 // everything that assignees and conditions can do
	guestApp    = 202 // in a guest space

	guestSpace = 3
)

// Run serves until stop ends.
func (c *simulateCmd) Run(stop context.Context, t *terminal) error {
	if c.Apps < 1 || c.Apps > 100 || c.Records < 0 {
		return usageError{errors.New("--apps from 1 to 100, --records at least 0")}
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

	k, tokens := c.kintone()
	addresses := struct {
		URL    string            `json:"url"`
		Token  string            `json:"token"` // of the plain apps
		Admin  string            `json:"admin"`
		Tokens map[string]string `json:"tokens"` // by app
	}{"http://" + main.Addr().String(), c.Token, "http://" + admin.Addr().String(), make(map[string]string)}
	for i := 1; i < c.Apps; i++ {
		addresses.Token += "," + tokens[int64(5+i)]
	}
	for app, token := range tokens {
		addresses.Tokens[strconv.FormatInt(app, 10)] = token
	}
	if c.Write != "" {
		if err := writeConfiguration(c.Write, addresses.URL, tokens); err != nil {
			return err
		}
	}
	if c.Out || !isTerminal(t.stdout) {
		if err := json.NewEncoder(t.stdout).Encode(addresses); err != nil {
			return err
		}
	} else {
		plain := strings.Split(addresses.Token, ",")
		sent := append(plain[:min(len(plain), 8)], tokens[approvalApp]) // a request takes nine
		c.explain(t.stdout, addresses.URL, strings.Join(sent, ","), addresses.Admin)
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

// kintone makes the simulated domain. It returns the token of each app.
func (c *simulateCmd) kintone() (*simulator.Kintone, map[int64]string) {
	k := simulator.New(simulator.Config{Latency: c.Latency})
	for _, u := range []string{"sato", "suzuki"} {
		k.AddUser(u, u+"-password")
	}
	tokens := make(map[int64]string)
	for i := range c.Apps {
		id := int64(5 + i)
		tokens[id] = c.Token
		app := simulator.App{ID: id, Name: fmt.Sprintf("Simulated app %d", id), Records: c.Records, Process: simulator.Workflow(), Fields: keyFields()}
		if i == 0 {
			app.AppCode = "ORD"
		} else {
			tokens[id] = fmt.Sprintf("%s%d", c.Token, id) // a token belongs to one app
		}
		app.Tokens = []simulator.Token{simulator.ViewToken(tokens[id])}
		k.AddApp(app)
	}
	for id, app := range map[int64]simulator.App{
		approvalApp: {Name: "Approvals", Process: approvals(), Fields: append(keyFields(),
			simulator.Field{Code: "amount", Type: "NUMBER", Default: func(record int64) string { return strconv.FormatInt(100*record, 10) }})},
		guestApp: {Name: "Guests' requests", GuestSpace: guestSpace, Process: simulator.Workflow(), Fields: keyFields()},
	} {
		tokens[id] = fmt.Sprintf("%s%d", c.Token, id)
		app.ID, app.Records, app.Tokens = id, c.Records, []simulator.Token{simulator.FullToken(tokens[id])}
		k.AddApp(app)
	}
	return k, tokens
}

// keyFields are fields to find records by: code is each record's own, customer is shared by every tenth.
func keyFields() []simulator.Field {
	return []simulator.Field{
		{Code: "code", Type: "SINGLE_LINE_TEXT", Default: func(record int64) string { return fmt.Sprintf("C-%d", record) }},
		{Code: "customer", Type: "SINGLE_LINE_TEXT", Default: func(record int64) string { return fmt.Sprintf("K-%d", record%10) }},
	}
}

// approvals is a process with an action for everything that can go well or wrong with assignees and conditions. A token
// acts as Administrator.
func approvals() simulator.Process {
	us, sato, suzuki := simulator.User(simulator.Administrator), simulator.User("sato"), simulator.User("suzuki")
	return simulator.Process{
		Enabled: true,
		States: []simulator.State{
			{Name: "Draft"},
			{Name: "Review", AssigneeType: simulator.One, Entities: []simulator.Entity{us, sato, suzuki}},
			{Name: "Board", AssigneeType: simulator.All, Entities: []simulator.Entity{us, sato}},
			{Name: "Desk", AssigneeType: simulator.Any, Entities: []simulator.Entity{sato, suzuki}},
			{Name: "Done"},
		},
		Actions: []simulator.Action{
			{Name: "Finish", From: "Draft", To: "Done"},
			{Name: "Submit", From: "Draft", To: "Review"},
			{Name: "Ask the board", From: "Draft", To: "Board"},
			{Name: "Pass on", From: "Draft", To: "Desk"},
			{Name: "Wave through", From: "Draft", To: "Done", FilterCond: `amount < "1000"`},
			{Name: "Close", From: "Draft", To: "Done"},
			{Name: "Close", From: "Draft", To: "Desk"},
			{Name: "Approve", From: "Review", To: "Done"},
			{Name: "Agree", From: "Board", To: "Done"},
			{Name: "Take", From: "Desk", To: "Done"},
			{Name: "Pull back", From: "Desk", To: "Draft", Secondary: true},
			{Name: "Overrule", From: "Desk", To: "Done", Secondary: true, Executable: []simulator.Entity{suzuki}},
			{Name: "Reopen", From: "Done", To: "Draft"},
		},
	}
}

// writeConfiguration writes what a worker needs to serve all apps of the simulation.
func writeConfiguration(dir, url string, tokens map[int64]string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# For a simulated kintone: worker --config %s\nsites:\n  main:\n    baseUrl: %s\n"+
		"    defaults: {attempts: 2, backoff: 1s} # what waits for a change that never comes ends soon\n    apps:\n", filepath.Join(dir, "statusq.yaml"), url)
	for _, app := range slices.Sorted(maps.Keys(tokens)) {
		name := fmt.Sprintf("token-%d", app)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(tokens[app]+"\n"), 0o600); err != nil {
			return err
		}
		fmt.Fprintf(&b, "      %d:\n        tokenFile: %s\n", app, name)
		if app == guestApp {
			fmt.Fprintf(&b, "        guestSpace: %d\n        call: single\n", guestSpace)
		}
	}
	return os.WriteFile(filepath.Join(dir, "statusq.yaml"), []byte(b.String()), 0o600)
}

// explain says how everything can be tried.
func (c *simulateCmd) explain(w io.Writer, url, tokens, admin string) {
	with := "" // what makes a command find the kintone
	if c.Write == "" {
		fmt.Fprintf(w, `A simulated kintone. Point a worker at it:

  export KINTONE_BASE_URL=%s
  export KINTONE_API_TOKEN=%s

(A request takes 9 tokens at most. With --write DIR you get a configuration for all apps, with short waits.)

`, url, tokens)
	} else {
		with = " --config " + filepath.Join(c.Write, "statusq.yaml")
		fmt.Fprintf(w, "A simulated kintone. A worker for it:\n\n  worker%s\n\n", with)
	}
	fmt.Fprintf(w, `%[1]d app(s) from 5 on, %[2]d records each, all "Not started":
  Start (-> In progress), Approve (-> Completed), Reopen (-> Not started)
  keys: code (C-1, C-2, ...), customer (K-0 to K-9, many records each); record numbers of app 5 read ORD-1

App %[3]d, "Approvals", all "Draft": Finish, Submit (needs an assignee), Ask the board (all must act), Pass on
  (to others), Wave through (amount below 1000: records 1 to 9), Close (two of that name)
App %[4]d, in guest space %[5]d: as app 5 (it takes a configuration that says so: --write DIR)
Users sato (sato-password) and suzuki (suzuki-password); a token acts as Administrator.

What to try, with the worker running:
  what works           worker check%[6]s --app 5 --app %[3]d
  one record           enqueue send --app 5 --record 1 --action Start --wait
  by its key           enqueue send --app 5 --key-field code --key C-2 --action Start --wait
  by record number     enqueue send --app 5 --key-field Record_number --key ORD-4 --action Start --wait
  all of a key         enqueue send --app 5 --key-field customer --key K-3 --match all --action Start --wait
  an assignee          enqueue send --app %[3]d --record 1 --action Submit --assignee sato --wait
  none given           enqueue send --app %[3]d --record 2 --action Submit --wait
  one too many         enqueue send --app %[3]d --record 2 --action Finish --assignee sato --wait
  somebody else's      enqueue send --app %[3]d --record 3 --action "Pass on" --wait, then --action Take
  secondary actions    after that --action "Pull back" (for all), --action Overrule (for suzuki)
  all must act         enqueue send --app %[3]d --record 4 --action "Ask the board" --wait, then --action Agree
  a condition          enqueue send --app %[3]d --record 5 --action "Wave through" --wait, then --record 50
  two of one name      enqueue send --app %[3]d --record 6 --action Close --wait
  its settings         enqueue settings get --app %[3]d, settings diff and apply --file
  what nobody knows    worker probe%[6]s --app %[3]d

Its commit log:   curl '%[7]s/commits?since=0'
Its counters:     curl %[7]s/requests
Make it fail:     curl -X POST -d '{"kind":"unavailable","for":"10s"}' %[7]s/faults
`, c.Apps, c.Records, approvalApp, guestApp, guestSpace, with, admin)
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
