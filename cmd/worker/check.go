package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"statusq/internal/dispatch"
	"statusq/internal/kintone"
	"statusq/internal/queue"
)

type checkCmd struct {
	settings
	sizing
	App  []int64 `placeholder:"ID" help:"Apps to look at besides those of the configuration, those with jobs and those served today."`
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

	Unasked bool       `json:"unasked,omitempty"` // neither good nor bad: there was nothing by which it could be found out
	Budget  *budgetRow `json:"budget,omitempty"`  // of an app with a limit, where the queue is known
}

// budgetRow is how an app's requests of today stand.
type budgetRow struct {
	PerDay        int `json:"perDay"`
	Counted       int `json:"counted"`
	LeftForJobs   int `json:"leftForJobs"`
	KeptInReserve int `json:"keptInReserve"` // what is left of the reserve
}

// actionRow is an action of an app, as those who write jobs need to know it.
type actionRow struct {
	Type     string   `json:"type"`
	V        int      `json:"v"`
	Site     string   `json:"site"`
	App      string   `json:"app"`
	From     string   `json:"from"`
	Action   string   `json:"action"` // as a job has to name it
	To       string   `json:"to"`
	MayAct   mayAct   `json:"mayAct"`
	Why      string   `json:"why"`
	Assignee []string `json:"assignee,omitempty"` // a job has to name one of these
}

// mayAct says whether the worker's user may run an action.
type mayAct string

const (
	mayYes     mayAct = "yes"
	mayNo      mayAct = "no"
	mayDepends mayAct = "depends" // on the record
)

// Errors of a check that has run.
var (
	errCheck   = errors.New("not everything works")
	errUnasked = errors.New("nothing bad was found, but not everything could be asked")
)

// examination is what a check has found so far.
type examination struct {
	rows    []checkRow
	actions []actionRow
	backlog map[string]map[int64]uint64 // by site and app: jobs in the log
	spent   map[string]map[int64]int    // by site and app: requests of today that a worker has counted; nil without a queue
}

// add notes a finding. What is there to do is told only with an error.
func (x *examination) add(what string, err error, detail, todo string) {
	r := checkRow{Type: "check", V: 1, What: what, OK: err == nil, Detail: detail}
	if err != nil {
		r.Detail, r.Todo = err.Error(), todo
	}
	x.rows = append(x.rows, r)
}

// Run asks everybody that the worker depends on. It sends no job, changes nothing, and takes four requests per app. It is
// not the worker: an embedded server that is not running is only looked for.
func (c *checkCmd) Run(stop context.Context, t *terminal) error {
	sites, err := c.sites()
	if err != nil {
		return err
	}
	layout, err := c.layout()
	if err != nil {
		return err
	}
	x := &examination{backlog: make(map[string]map[int64]uint64), spent: make(map[string]map[int64]int)}
	q, where, err := c.connect(stop, "statusq-check")
	x.add("NATS", err, where, "start the worker, or say with STATUSQ_NATS_URL where NATS is")
	if err == nil {
		defer q.Close()
		x.queue(stop, q, layout, sites)
	}
	for _, s := range sites {
		if err := x.site(stop, s, c.App); err != nil {
			return err
		}
	}
	if c.JSON {
		err = x.encode(t.stdout)
	} else {
		_, err = fmt.Fprintln(t.stdout, x.tables())
	}
	if err != nil {
		return err
	}
	bad, unasked := 0, 0
	for _, r := range x.rows {
		switch {
		case r.Unasked:
			unasked++
		case !r.OK:
			bad++
		}
	}
	switch {
	case bad > 0:
		return fmt.Errorf("%w: %d of %d findings are bad", errCheck, bad, len(x.rows))
	case unasked > 0:
		return errUnasked
	}
	return nil
}

// queue looks at the streams, at what nobody reads, and at what is counted there of kintone's requests.
func (x *examination) queue(ctx context.Context, q *queue.Queue, layout queue.Layout, sites []site) {
	findings, err := q.Inspect(ctx, layout)
	if err != nil {
		x.add("streams", err, "", "")
	}
	for _, f := range findings {
		var wrong error
		if !f.OK {
			wrong = errors.New(f.Detail)
		}
		x.add(f.Name, wrong, f.Detail, toSetUp(f))
	}
	names := make([]string, len(sites))
	for i, s := range sites {
		names[i] = s.name
	}
	if strays, err := q.Strays(ctx, names); err == nil && len(strays) > 0 {
		subjects := slices.Sorted(maps.Keys(strays))
		x.add("strays", fmt.Errorf("jobs that no site of this worker reads, on %s", strings.Join(subjects[:min(len(subjects), 5)], ", ")),
			"", "the publisher's subject is wrong, or the site is missing in the configuration; nothing is lost, and nothing is done for them")
	}
	for _, s := range sites {
		if counts, err := q.Backlog(ctx, s.name); err == nil {
			x.backlog[s.name] = counts
		}
		x.spent[s.name] = spentToday(ctx, q, s.name)
	}
}

// spentToday is how many requests of today the workers have counted, by app: what they have written down and, if one runs,
// what it says itself.
func spentToday(ctx context.Context, q *queue.Queue, site string) map[int64]int {
	spent := make(map[int64]int)
	today := time.Now().UTC().Format(time.DateOnly)
	if slots, err := q.Slots(ctx, site, 0); err == nil {
		for _, s := range slots {
			if s.Slot.Day == today {
				spent[s.App] = max(spent[s.App], s.Slot.Spent)
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var answer struct {
		Lanes []struct {
			App           int64 `json:"app"`
			RequestsToday int   `json:"requestsToday"`
		} `json:"lanes"`
	}
	if raw, err := q.Ask(ctx, site, "lanes", nil); err == nil && json.Unmarshal(raw, &answer) == nil {
		for _, l := range answer.Lanes {
			spent[l.App] = max(spent[l.App], l.RequestsToday)
		}
	}
	return spent
}

// site looks at a kintone and at its apps: those of the configuration, those with jobs, those that were served today, and
// more.
func (x *examination) site(ctx context.Context, s site, more []int64) error {
	client, err := kintone.NewClient(s.client)
	if err != nil {
		return usageError{err}
	}
	defer client.CloseIdleConnections()
	apps := slices.Collect(maps.Keys(s.apps))
	apps = append(apps, slices.Collect(maps.Keys(x.backlog[s.name]))...)
	apps = append(apps, slices.Collect(maps.Keys(x.spent[s.name]))...)
	apps = append(apps, more...)
	slices.Sort(apps)
	apps = slices.Compact(apps)
	what, detail := "site "+s.name, s.client.BaseURL+", signs in "+s.signsIn
	if len(apps) == 0 {
		x.rows = append(x.rows, checkRow{Type: "check", V: 1, What: what, Unasked: true,
			Detail: detail + "; kintone was not asked, as no app is configured, and none has jobs or was served today", Todo: "name an app to look at with --app ID"})
		return nil
	}
	x.add(what, nil, detail, "")
	mismatch := false
	for _, id := range apps {
		err := x.app(ctx, s, client, id)
		if e, ok := errors.AsType[*kintone.Error](err); ok && (e.Code == "GAIA_IA02" || e.Code == "GAIA_AP15") {
			mismatch = true
		}
	}
	if mismatch && len(s.client.Credentials.Tokens) > 1 {
		x.tokens(ctx, s, apps)
	}
	if ahead, known := client.ClockDifference(); known {
		x.clock(s.name, ahead)
	}
	return nil
}

// app asks kintone what a lane would ask.
func (x *examination) app(ctx context.Context, s site, client *kintone.Client, id int64) error {
	cfg, ok := s.apps[id]
	if !ok {
		cfg = s.other
	}
	what := fmt.Sprintf("app %d of %s", id, s.name)
	app := kintone.App{ID: id, GuestSpace: cfg.GuestSpace}
	began := time.Now()
	p, err := client.Process(ctx, app)
	took := max(time.Since(began).Round(time.Millisecond), time.Millisecond)
	var fields kintone.Fields
	if err == nil {
		fields, err = client.FormFields(ctx, app)
	}
	if err == nil && p.Enabled {
		// Whether there is a record 1 does not matter: who may not view records is told so.
		_, err = client.RecordsByID(ctx, app, fields, []int64{1})
	}
	if err != nil {
		x.add(what, err, "", adviceFor(err))
		return err
	}
	if !p.Enabled {
		x.add(what, errors.New("process management is off"), "", "switch process management on in the app's settings")
		return nil
	}
	name := "name not readable"
	if info, err := client.AppInfo(ctx, app); err == nil {
		name = info.Name
	}
	detail := fmt.Sprintf("%s, %v, %d actions", name, took, len(p.Actions))
	if n := x.backlog[s.name][id]; n > 0 {
		detail += fmt.Sprintf("; %d jobs in the log", n)
	}
	x.add(what, nil, detail, "")
	x.budget(s.name, id, cfg)
	for _, a := range actionsFor(p, client.Identity(app)) {
		a.Site, a.App = s.name, strconv.FormatInt(id, 10)
		x.actions = append(x.actions, a)
	}
	return nil
}

// budget says how many requests are left for today: for jobs, and in the reserve, which only finds out what became of
// requests.
func (x *examination) budget(site string, id int64, cfg dispatch.AppConfig) {
	what := fmt.Sprintf("budget of app %d", id)
	most := cmp.Or(cfg.DailyRequests, defaultDailyRequests)
	spent, known := x.spent[site][id], x.spent[site] != nil
	day := kintone.Budget{PerDay: most, WhenSpent: cfg.WhenSpent}.After(id, spent, time.Now())
	row := budgetRow{PerDay: day.PerDay, Counted: spent, LeftForJobs: day.Left(), KeptInReserve: day.Kept()}
	kept := ""
	if day.Reserve > 0 {
		kept = fmt.Sprintf(", %d kept in reserve for finding out what became of requests", row.KeptInReserve)
	}
	switch {
	case most < 0:
		x.add(what, nil, fmt.Sprintf("no limit; %d requests counted today", spent), "")
		return
	case !known:
		x.add(what, nil, fmt.Sprintf("%d requests a day%s; without the queue it is not known how many are left", most, kept), "")
		return
	case day.Left() > 0:
		x.add(what, nil, fmt.Sprintf("%d of %d requests left for jobs today%s", day.Left(), most, kept), "")
	case day.WhenSpent == kintone.SpentHalts:
		x.add(what, fmt.Errorf("0 of %d requests left for jobs today%s", most, kept), "",
			"kintone's day ends at 00:00 UTC (09:00 in Japan), and jobs wait until then; dailyRequests and whenSpent of the app say otherwise")
	default:
		x.add(what, nil, fmt.Sprintf("%d requests counted today, of %d; the worker goes on (whenSpent: %s)", spent, most, cfg.WhenSpent), "")
	}
	x.rows[len(x.rows)-1].Budget = &row
}

// defaultDailyRequests is what an app may spend whose configuration does not say: dispatch has the same.
const defaultDailyRequests = 10_000

// tokens finds out which of the site's tokens opens which app, after one was refused: kintone does not say which.
func (x *examination) tokens(ctx context.Context, s site, apps []int64) {
	all := s.client.Credentials.Tokens
	var said []string
	useless := 0
	for i, token := range all {
		one := s.client
		one.Credentials.Tokens, one.Credentials.AppTokens = []kintone.Secret{token}, nil
		client, err := kintone.NewClient(one)
		if err != nil {
			continue // it would have been refused as one of several
		}
		var opens []string
		for _, id := range apps {
			cfg, ok := s.apps[id]
			if !ok {
				cfg = s.other
			}
			if _, err := client.Process(ctx, kintone.App{ID: id, GuestSpace: cfg.GuestSpace}); err == nil {
				opens = append(opens, strconv.FormatInt(id, 10))
			}
		}
		client.CloseIdleConnections()
		if len(opens) == 0 {
			useless++
			said = append(said, fmt.Sprintf("token %d opens none of these apps", i+1))
		} else {
			said = append(said, fmt.Sprintf("token %d opens app %s", i+1, strings.Join(opens, ", ")))
		}
	}
	var wrong error
	if useless > 0 {
		wrong = errors.New(strings.Join(said, "; "))
	}
	x.add("tokens of "+s.name, wrong, strings.Join(said, "; "),
		"one token that is deleted, or whose app was not updated after it was made, makes kintone refuse the others that are sent with it: take it out")
}

// clock compares this machine's clock with kintone's.
func (x *examination) clock(site string, ahead time.Duration) {
	off, side := ahead.Round(time.Second), "behind"
	if off < 0 {
		off, side = -off, "ahead of"
	}
	detail := fmt.Sprintf("%v %s kintone's", off, side)
	if off <= time.Second {
		detail = "as kintone's"
	}
	var wrong error
	if off > tolerableClock {
		wrong = errors.New(detail)
	}
	x.add("clock, at "+site, wrong, detail, "set this machine's clock (NTP): notBefore and expires of jobs, and the day of the budget, go by it")
}

// tolerableClock is how far two clocks may be apart. Nothing in the worker needs better.
const tolerableClock = time.Minute

// actionsFor says of each action whether a user may run it, as far as the settings tell. They come by status.
func actionsFor(p *kintone.Process, us string) []actionRow {
	var rows []actionRow
	for _, a := range p.Actions {
		r := actionRow{Type: "action", V: 1, From: a.From, Action: a.Name, To: a.To}
		from, to := p.States[a.From], p.States[a.To]
		switch {
		case len(p.ActionsFrom(a.From, a.Name)) > 1:
			r.MayAct, r.Why = mayNo, "two actions of this name leave the status, and kintone refuses to choose"
		case a.Type == kintone.ActionSecondary:
			r.MayAct, r.Why = amongst(a.Executable, us)
			if r.MayAct == mayNo {
				r.Why = us + " is not among those who can run it"
			}
		case len(from.Assignee.Entities) == 0:
			r.MayAct, r.Why = mayYes, "nobody is assignee"
		default:
			r.MayAct, r.Why = amongst(from.Assignee.Entities, us)
			switch {
			case r.MayAct == mayNo:
				r.Why = us + " is not among its assignees"
			case from.Assignee.Type == kintone.AssigneeOne:
				r.MayAct, r.Why = mayDepends, "where "+us+" was chosen as assignee"
			case from.Assignee.Type == kintone.AssigneeAll && len(from.Assignee.Entities) > 1:
				r.Why = "the record moves with the last of its assignees"
			}
		}
		if r.MayAct != mayNo && a.FilterCond != "" {
			r.MayAct = mayDepends
			r.Why = strings.TrimPrefix(r.Why+"; ", "; ") + "where " + a.FilterCond
		}
		if to.Assignee.Type == kintone.AssigneeOne {
			for _, e := range to.Assignee.Entities {
				r.Assignee = append(r.Assignee, entityText(e))
			}
		}
		rows = append(rows, r)
	}
	slices.SortStableFunc(rows, func(a, b actionRow) int {
		return cmp.Compare(p.States[a.From].Index, p.States[b.From].Index)
	})
	return rows
}

// amongst says whether a user is one of entities. Groups, organisations and fields cannot be looked into from here.
func amongst(entities []kintone.Entity, us string) (mayAct, string) {
	var others []string
	for _, e := range entities {
		switch {
		case e.Type == kintone.EntityUser && e.Code == us:
			return mayYes, us + " is one of them"
		case e.Type != kintone.EntityUser:
			others = append(others, entityText(e))
		}
	}
	switch {
	case len(entities) == 0:
		return mayYes, "for everybody who may view the record"
	case len(others) > 0:
		return mayDepends, "where " + us + " belongs to " + strings.Join(others, ", ")
	}
	return mayNo, ""
}

// entityText names an entity: a user by the login name that a job would give, others by what they are.
func entityText(e kintone.Entity) string {
	switch e.Type {
	case kintone.EntityUser:
		return e.Code
	case kintone.EntityCreator:
		return "the creator"
	case kintone.EntityGroup:
		return "group " + e.Code
	case kintone.EntityOrganization:
		return "organization " + e.Code
	}
	return "field " + e.Code
}

// encode writes everything as JSON, one object per line.
func (x *examination) encode(w io.Writer) error {
	lines := json.NewEncoder(w)
	lines.SetEscapeHTML(false)
	for _, r := range x.rows {
		if err := lines.Encode(r); err != nil {
			return err
		}
	}
	for _, a := range x.actions {
		if err := lines.Encode(a); err != nil {
			return err
		}
	}
	return nil
}

// tables are what people read: the findings, and below them the actions of all apps.
func (x *examination) tables() string {
	tw := table.NewWriter()
	tw.SetStyle(table.StyleLight)
	tw.AppendHeader(table.Row{"", "what", "finding"})
	tw.SetColumnConfigs([]table.ColumnConfig{{Number: 3, WidthMax: 90, WidthMaxEnforcer: wrapped}})
	for _, r := range x.rows {
		mark, said := "ok", harmless(r.Detail)
		if !r.OK {
			mark = "BAD"
			if r.Unasked {
				mark = "?"
			}
			if r.Todo != "" {
				said += "\n→ " + r.Todo
			}
		}
		tw.AppendRow(table.Row{mark, r.What, said})
	}
	out := tw.Render()
	if len(x.actions) == 0 {
		return out
	}
	tw = table.NewWriter()
	tw.SetStyle(table.StyleLight)
	tw.AppendHeader(table.Row{"app", "from", "action", "to", "we may", "why", "assignee to name"})
	tw.SetColumnConfigs([]table.ColumnConfig{
		{Number: 6, WidthMax: 50, WidthMaxEnforcer: wrapped}, {Number: 7, WidthMax: 30, WidthMaxEnforcer: wrapped}})
	several := slices.ContainsFunc(x.actions, func(a actionRow) bool { return a.Site != x.actions[0].Site })
	for i, a := range x.actions {
		app, from := a.App, a.From
		if several {
			app = a.Site + " " + app
		}
		if i > 0 && x.actions[i-1].Site == a.Site && x.actions[i-1].App == a.App {
			app = ""
			if x.actions[i-1].From == a.From {
				from = ""
			}
		} else if i > 0 {
			tw.AppendSeparator()
		}
		tw.AppendRow(table.Row{app, harmless(from), harmless(a.Action), harmless(a.To), a.MayAct, harmless(a.Why), harmless(strings.Join(a.Assignee, ", "))})
	}
	return out + "\n\n" + tw.Render()
}

// adviceFor says what to do about what kintone answered.
func adviceFor(err error) string {
	e, ok := errors.AsType[*kintone.Error](err)
	if !ok {
		return ""
	}
	switch {
	case errors.Is(err, kintone.ErrNoCredentials):
		return "give the app a token (tokenFile of the app or of the site, or KINTONE_API_TOKEN), or sign in by password"
	case e.Status == 0:
		return "is KINTONE_BASE_URL right, and can this machine reach it (proxy, firewall)?"
	case e.Code == "":
		return "this is not kintone's answer: is KINTONE_BASE_URL right?"
	case e.Code == "GAIA_IA02", e.Code == "GAIA_AP15":
		return "the token is of another app, was deleted, or the app was not updated after it was made"
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

// connect reaches NATS under a name as the worker would, without starting anything.
func (s *settings) connect(ctx context.Context, name string) (*queue.Queue, string, error) {
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
	cfg.Prefix, cfg.Name = s.Prefix, name
	q, err := queue.Connect(ctx, cfg)
	return q, "reached", err
}

type setupCmd struct {
	settings
	sizing
	Apply bool `help:"Create what is missing, and change replicas and size of what is there to what is said here. Nothing else of it is ever changed."`
}

// Run shows what stands in NATS, and with --apply first makes it what it should be. Without a URL it is that of the worker
// which runs on this machine.
func (c *setupCmd) Run(stop context.Context, t *terminal) error {
	layout, err := c.layout()
	if err != nil {
		return err
	}
	if _, err := queue.ReadClientFile(c.StoreDir); c.NATSURL == "" && err != nil {
		return usageError{fmt.Errorf("--nats-url is missing, and no embedded server has kept data in %s (a worker sets its own up by itself)", c.StoreDir)}
	}
	q, _, err := c.connect(stop, "statusq-setup")
	if err != nil {
		return err
	}
	defer q.Close()
	if c.Apply {
		if err := q.Setup(stop, layout); err != nil {
			return err
		}
		if err := q.Adjust(stop, layout); err != nil {
			return err
		}
	}
	findings, err := q.Inspect(stop, layout)
	if err != nil {
		return err
	}
	var todo []string
	for _, f := range findings {
		mark := "ok "
		if !f.OK {
			mark = "BAD"
			todo = append(todo, toSetUp(f))
		}
		fmt.Fprintf(t.stdout, "%s  %-24s %s\n", mark, f.Name, f.Detail)
	}
	if len(todo) > 0 {
		slices.Sort(todo)
		return fmt.Errorf("%w: %s", errCheck, strings.Join(slices.Compact(todo), "; "))
	}
	return nil
}

// toSetUp says what to do about a stream or bucket that is not as it should be.
func toSetUp(f queue.Finding) string {
	switch {
	case f.Missing:
		return "worker setup --apply creates what is missing"
	case f.TooFew:
		return "leave --replicas out, or run NATS as a cluster of as many servers"
	case f.Unlike:
		return "worker setup --apply with the same --replicas and --log-bytes changes replicas and size"
	}
	return "what breaks a promise is not changed by statusq: mend it with the tools of NATS, or move to a new store"
}
