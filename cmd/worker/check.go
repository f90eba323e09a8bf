package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"statusq/internal/dispatch"
	"statusq/internal/kintone"
	"statusq/internal/queue"
)

type checkCmd struct {
	settings
	App  []int64 `placeholder:"ID" help:"Apps to look at besides those of the configuration and those with jobs."`
	JSON bool    `name:"json" help:"Print JSON, one object per line."`
}

// checkRow is one line of the answer.
type checkRow struct {
	Type   string `json:"type"`
	V      int    `json:"v"`
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Todo   string `json:"todo,omitempty"`
}

var errCheck = errors.New("not everything works")

// Run asks everybody that the worker depends on. It sends no job, changes nothing, and takes two or three requests per
// app. It is not the worker: an embedded server that is not running is only looked for.
func (c *checkCmd) Run(stop context.Context, t *terminal) error {
	sites, err := c.sites()
	if err != nil {
		return err
	}
	var rows []checkRow
	add := func(what string, err error, detail, todo string) {
		r := checkRow{Type: "check", V: 1, What: what, OK: err == nil, Detail: detail}
		if err != nil {
			r.Detail, r.Todo = err.Error(), todo
		}
		rows = append(rows, r)
	}

	backlog := make(map[string]map[int64]uint64)
	q, where, err := c.connect(stop)
	add("NATS", err, where, "start the worker, or say with STATUSQ_NATS_URL where NATS is")
	if err == nil {
		defer q.Close()
		findings, err := q.Inspect(stop)
		if err != nil {
			add("streams", err, "", "")
		}
		for _, f := range findings {
			var wrong error
			if !f.OK {
				wrong = errors.New(f.Detail)
			}
			add(f.Name, wrong, f.Detail, "worker setup shows what is missing; --apply creates it")
		}
		names := make([]string, len(sites))
		for i, s := range sites {
			names[i] = s.name
		}
		if strays, err := q.Strays(stop, names); err == nil && len(strays) > 0 {
			subjects := slices.Sorted(maps.Keys(strays))
			add("strays", fmt.Errorf("jobs that no site of this worker reads, on %s", strings.Join(subjects[:min(len(subjects), 5)], ", ")),
				"", "the publisher's subject is wrong, or the site is missing in the configuration; nothing is lost, and nothing is done for them")
		}
		for _, s := range sites {
			if counts, err := q.Backlog(stop, s.name); err == nil {
				backlog[s.name] = counts
			}
		}
	}

	for _, s := range sites {
		client, err := kintone.NewClient(s.client)
		if err != nil {
			return usageError{err}
		}
		add("site "+s.name, nil, s.client.BaseURL+", signs in "+s.signsIn, "")
		apps := slices.Collect(maps.Keys(s.apps))
		apps = append(apps, slices.Collect(maps.Keys(backlog[s.name]))...)
		apps = append(apps, c.App...)
		slices.Sort(apps)
		apps = slices.Compact(apps)
		if len(apps) == 0 {
			add("apps of "+s.name, nil, "none configured and none with jobs; look at one with --app ID", "")
		}
		for _, id := range apps {
			cfg, ok := s.apps[id]
			if !ok {
				cfg = s.other
			}
			detail, todo, err := checkApp(stop, client, id, cfg)
			if n := backlog[s.name][id]; err == nil && n > 0 {
				detail += fmt.Sprintf("; %d jobs in the log", n)
			}
			add(fmt.Sprintf("app %d of %s", id, s.name), err, detail, todo)
		}
	}

	bad := 0
	for _, r := range rows {
		if !r.OK {
			bad++
		}
	}
	if c.JSON {
		lines := json.NewEncoder(t.stdout)
		for _, r := range rows {
			if err := lines.Encode(r); err != nil {
				return err
			}
		}
	} else {
		tw := table.NewWriter()
		tw.SetStyle(table.StyleLight)
		tw.AppendHeader(table.Row{"", "what", "finding"})
		tw.SetColumnConfigs([]table.ColumnConfig{{Number: 3, WidthMax: 90, WidthMaxEnforcer: text.WrapSoft}})
		for _, r := range rows {
			mark, said := "ok", r.Detail
			if !r.OK {
				mark = "BAD"
				if r.Todo != "" {
					said += "\n→ " + r.Todo
				}
			}
			tw.AppendRow(table.Row{mark, r.What, said})
		}
		fmt.Fprintln(t.stdout, tw.Render())
	}
	if bad > 0 {
		return fmt.Errorf("%w: %d of %d findings are bad", errCheck, bad, len(rows))
	}
	return nil
}

// checkApp asks kintone what a lane would ask.
func checkApp(ctx context.Context, client *kintone.Client, id int64, cfg dispatch.AppConfig) (detail, todo string, err error) {
	app := kintone.App{ID: id, GuestSpace: cfg.GuestSpace, Tokens: cfg.Tokens}
	began := time.Now()
	p, err := client.Process(ctx, app)
	if err != nil {
		return "", adviceFor(err), err
	}
	took := time.Since(began).Round(time.Millisecond)
	if _, err := client.FormFields(ctx, app); err != nil {
		return "", adviceFor(err), err
	}
	if !p.Enabled {
		return "", "switch process management on in the app's settings", errors.New("process management is off")
	}
	name := "name not readable"
	if info, err := client.AppInfo(ctx, app); err == nil {
		name = info.Name
	}
	var actions []string
	for _, a := range p.Actions {
		actions = append(actions, fmt.Sprintf("%s (%s → %s)", a.Name, a.From, a.To))
	}
	return fmt.Sprintf("%s, %v, actions: %s", name, took, strings.Join(actions, ", ")), "", nil
}

// adviceFor says what to do about what kintone answered.
func adviceFor(err error) string {
	e, ok := errors.AsType[*kintone.Error](err)
	if !ok {
		return ""
	}
	switch {
	case e.Status == 0:
		return "is KINTONE_BASE_URL right, and can this machine reach it (proxy, firewall)?"
	case e.Code == "":
		return "this is not kintone's answer: is KINTONE_BASE_URL right?"
	case e.Code == "GAIA_IA02":
		return "the token is of another app, or the app was not updated after the token was made"
	case e.Code == "GAIA_AP01":
		return "there is no app of that id on this domain"
	case e.Code == "GAIA_IL23":
		return "the app is in a guest space: say which (KINTONE_GUEST_SPACE_ID, or guestSpace of the app)"
	case e.Status == 401:
		return "check KINTONE_USERNAME and KINTONE_PASSWORD, or KINTONE_API_TOKEN"
	case e.Code == "CB_NO02", e.Code == "GAIA_NO01":
		return "the token or user may not view the app's records"
	}
	return ""
}

// connect reaches NATS as the worker would, without starting anything.
func (s *settings) connect(ctx context.Context) (*queue.Queue, string, error) {
	cfg, err := s.remote()
	if err != nil {
		return nil, "", err
	}
	if s.NATSURL == "" {
		f, err := queue.ReadClientFile(s.StoreDir)
		if err != nil {
			return nil, "", fmt.Errorf("no embedded NATS runs with its data in %s", s.StoreDir)
		}
		cfg = f.Config()
	}
	cfg.Prefix, cfg.Name = s.Prefix, "statusq-check"
	q, err := queue.Connect(ctx, cfg)
	return q, "reached", err
}

type setupCmd struct {
	settings
	Replicas int   `default:"1" help:"Replicas of what is created (${default}; 3 on a cluster)."`
	LogBytes int64 `name:"log-bytes" help:"Size of the log that is created (10 GiB)."`
	Apply    bool  `help:"Create what is missing. What is there is never changed."`
}

func (c *setupCmd) Run(stop context.Context, t *terminal) error {
	if c.NATSURL == "" {
		return usageError{errors.New("--nats-url: an embedded server is set up by the worker itself")}
	}
	cfg, err := c.remote()
	if err != nil {
		return err
	}
	cfg.Prefix, cfg.Name = c.Prefix, "statusq-setup"
	q, err := queue.Connect(stop, cfg)
	if err != nil {
		return err
	}
	defer q.Close()
	if c.Apply {
		if err := q.Setup(stop, queue.Layout{Replicas: c.Replicas, LogBytes: c.LogBytes}); err != nil {
			return err
		}
	}
	findings, err := q.Inspect(stop)
	if err != nil {
		return err
	}
	bad := false
	for _, f := range findings {
		mark := "ok "
		if !f.OK {
			mark, bad = "BAD", true
		}
		fmt.Fprintf(t.stdout, "%s  %-24s %s\n", mark, f.Name, f.Detail)
	}
	if bad {
		return fmt.Errorf("%w: --apply creates what is missing", errCheck)
	}
	return nil
}
