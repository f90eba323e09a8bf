package simulator

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Administrator is the user that API tokens act as (docs/kintone.md 4). It always exists; it can log in with a password
// only after AddUser gave it one.
const Administrator = "Administrator"

// Config holds what belongs to a whole domain. The zero value is usable.
type Config struct {
	// ConcurrencyLimit is how many requests may be in flight at a time; the next one gets 429 GAIA_TO04. Default 100.
	ConcurrencyLimit int

	// Latency is how long every admitted request waits before it is executed. Jitter is the most that is added to it at
	// random.
	Latency, Jitter time.Duration

	// Language of messages when a request has no Accept-Language that is known here: "en" (default) or "ja".
	Language string

	// DeployTime is how long a deploy of settings takes, unless SetDeploy says otherwise. Default 1 s: too long for a
	// client that does not poll.
	DeployTime time.Duration

	// LockAfterDeploy is how long record writes meet GAIA_DA02 after a deploy went well (docs/kintone.md 5). Default 200 ms;
	// anything negative is not at all.
	LockAfterDeploy time.Duration

	// ClockSkew is how far the Date header of every answer is ahead of the clock.
	ClockSkew time.Duration

	// The rest turns what nobody knows about kintone one way or the other (docs/kintone.md 7). Codes can be any text, also
	// one that the simulator does not use otherwise; the HTTP status is then 400.

	// PartialStep is what an action adds to the revision when not all assignees of an ALL status have acted yet, so that
	// the status stays. Default 1; NoStep is none at all.
	PartialStep int64

	// NamedTwice is the code for a record that is named twice in a call. Default CB_VA01 with its place in the request;
	// InTurn carries both out, one after the other.
	NamedTwice string

	// TwoActions is the code for an action that exists twice from the record's status. Default GAIA_IL03.
	TwoActions string

	// WhileDeploying is the code that settings calls get while the app is being deployed. Default GAIA_XX01, which does
	// not exist, so that a client which waits for a certain code is found out.
	WhileDeploying string

	// VanishingStatus is the code with which PUT preview/app/status.json refuses to leave out a status that records stand
	// in. Default "": it is taken, and the deploy fails, which leaves more to clean up.
	VanishingStatus string

	// RevertRaises has a revert count as one more change, so that the preview's revision is beyond the live one's although
	// nothing is pending. By default the preview gets the live settings' revision back, and the next change a number that
	// was there before.
	RevertRaises bool

	// RefusedFree leaves requests that kintone refuses (4xx) out of the day counter.
	RefusedFree bool

	// BulkCount is as how many requests of the day a bulkRequest counts, whether it is carried out or not. Default EachCall.
	BulkCount BulkCount

	// NotInBulk is the code for a bulkRequest of more than twenty calls, of a call that is not allowed in one, or of several
	// guest spaces. Default CB_VA01 with its place in the request.
	NotInBulk string

	// BulkWebhooks has the call for one record fire webhooks in a bulkRequest too.
	BulkWebhooks bool

	// Overtaken is the code for a record that still had the revision which a status call gives when that arrived, and was
	// changed before it was carried out. Default GAIA_CO02, as where it had another one from the start; others were seen to
	// get GAIA_DA02 then, and what GAIA_UN03 says fits it (docs/kintone.md 2.3).
	Overtaken string

	// Statuses are HTTP statuses of codes instead of the recent ones: kintone has changed them over the years, and those of
	// some are not known. A bulkRequest has the status of the call that was refused.
	Statuses map[string]int

	// Basic is the name and password, with a colon between, that the domain wants by basic authentication on top of any
	// other. "": it wants none.
	Basic string

	// Seed drives support ids and jitter.
	Seed uint64
}

// NoStep as Config.PartialStep: an action that does not move the record leaves its revision alone.
const NoStep = -1

// InTurn as Config.NamedTwice: a record that is named twice in a call gets both actions, the second one judged by what the
// first one left.
const InTurn = "in turn"

// user is somebody who can log in if he has a password.
type user struct {
	password     string
	language     string // "": what the request says
	secondFactor bool
}

// Kintone is one simulated domain. It is an http.Handler; all its methods may be called at any time by anyone.
type Kintone struct {
	cfg Config

	mu      sync.Mutex // guards everything below; never held while waiting
	random  *rand.Rand
	users   map[string]user    // by login name
	groups  map[group][]string // members
	ending  deployEnd
	apps    map[int64]*app
	log     []entry
	late    []lateCall // by due time, then by arrival
	fault   func(Request) Fault
	running int
	arrived int
	foreign int
	counts  RequestCounts
	perDay  map[int64]int // by app, of counts.Day
	busiest map[int64]int // by app, of any day
}

// App describes an app for AddApp.
type App struct {
	ID         int64
	GuestSpace int64 // 0: not in a guest space
	Name       string
	Tokens     []Token
	Viewers    []string // users that may see the app; nil: everybody
	Managers   []string // users that may manage it; nil: Administrator
	Process    Process
	Records    int // records 1 to n exist from the start: first status, revision 1, made by Administrator

	// Codes of the built-in fields. Defaults: Status, Assignee, Record_number, Updated_by, Created_by.
	StatusField, AssigneeField, RecordNumberField, ModifierField, CreatorField string

	Fields       []Field  // further fields
	HiddenFields []string // codes of fields that no caller of the API may see; hiding status or assignee forbids actions

	AppCode string // with a code, record numbers read CODE-1
}

// Field is a further field of an app.
type Field struct {
	Code string
	Type string // kintone's name of the type: SINGLE_LINE_TEXT, NUMBER, LINK, USER_SELECT, …

	// Table is the code of the table that the field is a column of; the table need not be listed itself. "": no table.
	// The value of such a field has one line per row.
	Table string

	// Options are the choices of a field that has some; a query for another one is refused. nil: any will do.
	Options []string

	// Default makes the value of a record that nobody has written to, so that a million records with keys cost nothing.
	// nil: empty. Values of user fields are login names separated by commas.
	Default func(record int64) string
}

// Token is an API token of an app.
type Token struct {
	Value     string
	View      bool // may view records
	Add       bool // may add records; does not imply View, nor do the others
	Delete    bool // may delete records
	Manage    bool // may manage the app
	Activated bool // the app was updated after the token was made; until then, or until a deploy, the token is refused
}

// ViewToken returns an activated token that may view records, which is all that status actions need.
func ViewToken(value string) Token {
	return Token{Value: value, View: true, Activated: true}
}

// FullToken returns an activated token that may do everything.
func FullToken(value string) Token {
	return Token{Value: value, View: true, Add: true, Delete: true, Manage: true, Activated: true}
}

// Process is an app's process management. The zero value was never set up.
type Process struct {
	Enabled bool
	States  []State // in display order; the first one is where records start
	Actions []Action

	// Translations holds the names of states and actions in other languages: "ja", "en" or "zh" to name to translated
	// name. A user has to use the names in his own language (Accept-Language), a token the untranslated ones.
	Translations map[string]map[string]string
}

// State is one status.
type State struct {
	Name         string
	AssigneeType AssigneeType // "" means One
	Entities     []Entity
}

// AssigneeType says who has to act on a record in a state.
type AssigneeType string

// The assignee types of kintone (SEED1).
const (
	One AssigneeType = "ONE" // one user, chosen from the entities by whoever moves the record here
	Any AssigneeType = "ANY" // any one of the entities
	All AssigneeType = "ALL" // every one of the entities
)

// Entity names users. Type is USER, GROUP, ORGANIZATION, FIELD_ENTITY, CREATOR or CUSTOM_FIELD.
type Entity struct {
	Type        string
	Code        string   // login name, group, organisation, or field code
	Members     []string // of a group or organisation, unless AddGroup or AddOrganization has said so
	IncludeSubs bool
}

// User returns the entity of one user.
func User(login string) Entity { return Entity{Type: "USER", Code: login} }

// Action leads from one state to another.
type Action struct {
	Name, From, To string
	FilterCond     string // a query that the record must match
	Secondary      bool   // others than the assignee may run it: Executable, or every viewer if that is empty
	Executable     []Entity
}

// Workflow is a process in which nobody is ever asked for an assignee:
//
//	Not started --Start--> In progress --Approve--> Completed --Reopen--> Not started
func Workflow() Process {
	return Process{
		Enabled: true,
		States:  []State{{Name: "Not started"}, {Name: "In progress"}, {Name: "Completed"}},
		Actions: []Action{
			{Name: "Start", From: "Not started", To: "In progress"},
			{Name: "Approve", From: "In progress", To: "Completed"},
			{Name: "Reopen", From: "Completed", To: "Not started"},
		},
	}
}

// RecordState is what a record looks like at one moment. It is a copy.
type RecordState struct {
	ID        int64
	Revision  int64
	Status    string // untranslated; "" if process management was never set up
	Assignees []string
	Modifier  string
	Creator   string
	Updated   time.Time
	Hidden    bool              // no caller of the API may see the record
	Fields    map[string]string // of the app's further fields, where not empty
}

// Commit is one status action that happened.
type Commit struct {
	N             int // 1, 2, 3, …: the total order
	Time          time.Time
	Request       string // the request's number; a second execution of the same request has "/2" after it
	App, Record   int64
	Before, After int64 // revisions
	Action        string
	From, To      string // equal when an ALL status still waits for other assignees
	Actor         string // login name; Administrator for tokens
	Foreign       bool   // by Act, not by a request
	Webhook       bool   // a webhook of the app, if it has one, is told: not by calls for many records (HELP)
}

// RequestCounts counts requests.
type RequestCounts struct {
	Total   int            // all that arrived
	Kinds   map[string]int // "PUT records/status.json" and so on to how many arrived
	Day     string         // the current day, UTC: "2026-11-22"
	Today   map[int64]int  // by app: all that arrived since 00:00 UTC, even what a proxy kept from kintone
	Busiest map[int64]int  // by app: the most of any one day so far
	Refused int            // answered by kintone with an error
	Codes   map[string]int // error code to how often it was the answer
	Faulted int            // touched by a fault
	Peak    int            // the most that were in flight at a time
}

// New returns an empty domain.
func New(cfg Config) *Kintone {
	cfg.ConcurrencyLimit = cmp.Or(cfg.ConcurrencyLimit, 100)
	cfg.PartialStep = max(0, cmp.Or(cfg.PartialStep, 1))
	cfg.DeployTime = cmp.Or(cfg.DeployTime, time.Second)
	cfg.LockAfterDeploy = max(0, cmp.Or(cfg.LockAfterDeploy, 200*time.Millisecond))
	cfg.NamedTwice = cmp.Or(cfg.NamedTwice, "CB_VA01")
	cfg.TwoActions = cmp.Or(cfg.TwoActions, "GAIA_IL03")
	cfg.NotInBulk = cmp.Or(cfg.NotInBulk, "CB_VA01")
	cfg.Overtaken = cmp.Or(cfg.Overtaken, "GAIA_CO02")
	cfg.WhileDeploying = cmp.Or(cfg.WhileDeploying, "GAIA_XX01")
	cfg.Language = cmp.Or(cfg.Language, "en")
	return &Kintone{
		cfg:     cfg,
		random:  rand.New(rand.NewPCG(cfg.Seed, 0x6b696e746f6e65)),
		users:   map[string]user{Administrator: {}},
		groups:  map[group][]string{},
		ending:  deployEnd{cfg.DeployTime, Success},
		apps:    map[int64]*app{},
		counts:  RequestCounts{Kinds: map[string]int{}, Codes: map[string]int{}},
		perDay:  map[int64]int{},
		busiest: map[int64]int{},
	}
}

// AddUser makes a user, or gives an existing one another password. Without a password the user cannot log in.
func (k *Kintone) AddUser(login, password string) {
	if login == "" {
		panic("simulator: a user needs a login name")
	}
	k.lock()
	defer k.mu.Unlock()
	u := k.users[login]
	u.password = password
	k.users[login] = u
}

// SetLanguage gives a user a display language of his own, "ja", "en" or "zh", which goes before Accept-Language; with ""
// he follows that again.
func (k *Kintone) SetLanguage(login, language string) error {
	return k.alter(login, func(u *user) { u.language = language })
}

// SetSecondFactor has a user log in with a second factor from now on, so that his password alone is refused.
func (k *Kintone) SetSecondFactor(login string) error {
	return k.alter(login, func(u *user) { u.secondFactor = true })
}

func (k *Kintone) alter(login string, change func(*user)) error {
	k.lock()
	defer k.mu.Unlock()
	u, known := k.users[login]
	if !known {
		return fmt.Errorf("no user %q", login)
	}
	change(&u)
	k.users[login] = u
	return nil
}

// RemoveUser deletes a user. Settings no longer name him, live or not, and their revision stays; the records that wait for
// him go on doing so, and nobody can act on them until somebody assigns them anew.
func (k *Kintone) RemoveUser(login string) {
	k.lock()
	defer k.mu.Unlock()
	delete(k.users, login)
	for _, a := range k.apps {
		live, preview := a.flow, a.preview
		a.flow = k.forget(a, live, login)
		if a.preview = a.flow; live != preview {
			a.preview = k.forget(a, preview, login)
		}
	}
}

// forget returns settings without a user.
func (k *Kintone) forget(a *app, f *flow, login string) *flow {
	p := f.clone()
	without := func(entities []Entity) []Entity {
		return slices.DeleteFunc(entities, func(e Entity) bool { return e.Type == "USER" && e.Code == login })
	}
	for i := range p.States {
		p.States[i].Entities = without(p.States[i].Entities)
	}
	for i := range p.Actions {
		p.Actions[i].Executable = without(p.Actions[i].Executable)
	}
	next, refusal := k.newFlow(a, p)
	if refusal != nil { // a condition names him, which kintone would keep as it is
		return f
	}
	next.revision, next.origins = f.revision, f.origins
	return next
}

// AddGroup makes a group, or gives an existing one other members. Process settings that name an unknown group are refused.
func (k *Kintone) AddGroup(code string, members ...string) { k.addGroup(group{"GROUP", code}, members) }

// AddOrganization does the same for an organisation (a department).
func (k *Kintone) AddOrganization(code string, members ...string) {
	k.addGroup(group{"ORGANIZATION", code}, members)
}

func (k *Kintone) addGroup(g group, members []string) {
	if g.code == "" {
		panic("simulator: a group or organisation needs a code")
	}
	k.lock()
	defer k.mu.Unlock()
	k.groups[g] = slices.Clone(members)
}

// AddApp makes an app. It panics if the app makes no sense, for instance if its process names a user that AddUser has
// not made.
func (k *Kintone) AddApp(spec App) {
	k.lock()
	defer k.mu.Unlock()
	if _, taken := k.apps[spec.ID]; taken {
		panic(fmt.Sprintf("simulator: app %d exists already", spec.ID))
	}
	a, err := k.newApp(spec)
	if err != nil {
		panic(fmt.Sprintf("simulator: app %d: %v", spec.ID, err))
	}
	k.apps[spec.ID] = a
}

// SetTokens replaces an app's tokens, as an administrator does who revokes one.
func (k *Kintone) SetTokens(app int64, tokens ...Token) error {
	k.lock()
	defer k.mu.Unlock()
	a, err := k.app(app)
	if err != nil {
		return err
	}
	a.Tokens = slices.Clone(tokens)
	return nil
}

// SetProcess replaces an app's process settings, as somebody does who changes them and deploys at once: they are live
// immediately, nothing is pending any more, and the settings revision rises. Turning process management on for the first
// time puts every record into the first status. A status that a record stands in cannot be taken away.
func (k *Kintone) SetProcess(app int64, p Process) error {
	k.lock()
	defer k.mu.Unlock()
	a, err := k.app(app)
	if err != nil {
		return err
	}
	k.learn(p)
	f, refusal := k.newFlow(a, p)
	if refusal != nil {
		return fmt.Errorf("app %d: %w", app, refusal)
	}
	if status, n := a.vanishing(f); n > 0 {
		return fmt.Errorf("app %d: status %q cannot be deleted: %d records are in it", app, status, n)
	}
	f.revision = max(a.flow.revision, a.preview.revision) + 1
	a.goLive(f)
	return nil
}

// Record returns a record as it is now. It reports false if there is none.
func (k *Kintone) Record(app, record int64) (RecordState, bool) {
	k.lock()
	defer k.mu.Unlock()
	a, r, err := k.record(app, record)
	if err != nil {
		return RecordState{}, false
	}
	return a.state(record, r), true
}

// Edit is a person who writes to a record without touching its status: the revision rises by 1 and the person becomes
// the modifier.
func (k *Kintone) Edit(app, record int64, user string) error {
	k.lock()
	defer k.mu.Unlock()
	a, _, err := k.record(app, record)
	if err != nil {
		return err
	}
	r := a.touch(record)
	r.revision++
	r.modifier = user
	r.updated = time.Now().UnixNano()
	return nil
}

// Act is a person who runs an action on the screen, under the same rules as a request without a revision. The commit
// is marked foreign. A refusal is a *Refusal.
func (k *Kintone) Act(app, record int64, user, action, assignee string) error {
	k.lock()
	defer k.mu.Unlock()
	a, err := k.app(app)
	if err != nil {
		return err
	}
	if _, known := k.users[user]; !known {
		return fmt.Errorf("act on record %d of app %d: no user %q", record, app, user)
	}
	step := statusChange{record: record, revision: anyRevision, action: action, assignee: assignee}
	actor := caller{login: user}
	moves, refusal := k.judge(a, actor, []statusChange{step})
	if refusal != nil {
		return refusal
	}
	k.foreign++
	k.commit(a, actor, moves, origin{request: "person " + strconv.Itoa(k.foreign), time: time.Now(), foreign: true, webhook: true})
	return nil
}

// Put sets a record up for a test: change gets the record as it is and alters it, the revision too if it likes. Nothing
// is checked but that the status exists, and nothing is logged. A record number that was never used makes a new record
// at revision 1; a deleted one stays deleted. A further field that the app does not have yet becomes a
// SINGLE_LINE_TEXT field. change must not call the simulator.
func (k *Kintone) Put(app, record int64, change func(*RecordState)) error {
	k.lock()
	defer k.mu.Unlock()
	a, err := k.app(app)
	if err != nil {
		return err
	}
	if record < 1 || record > math.MaxInt32 {
		return fmt.Errorf("put record %d of app %d: number out of range", record, app)
	}
	r := a.look(record)
	if r.condition == deleted {
		return fmt.Errorf("put record %d of app %d: it was deleted", record, app)
	}
	s := a.state(record, r)
	change(&s)
	if _, ok := a.flow.states[s.Status]; !ok && (s.Status != "" || len(a.flow.states) > 0) {
		return fmt.Errorf("put record %d of app %d: no status %q", record, app, s.Status)
	}
	for _, code := range slices.Sorted(maps.Keys(s.Fields)) {
		if _, ok := a.fields[code]; !ok {
			a.addField(Field{Code: code, Type: "SINGLE_LINE_TEXT"})
		} else if a.fields[code].builtin {
			return fmt.Errorf("put record %d of app %d: field %q cannot be written", record, app, code)
		}
	}
	a.set(record, s)
	return nil
}

// Delete removes a record. Its number is never used again.
func (k *Kintone) Delete(app, record int64) error {
	k.lock()
	defer k.mu.Unlock()
	a, _, err := k.record(app, record)
	if err != nil {
		return err
	}
	a.remove(record)
	return nil
}

// Commits returns every status action that happened, in order.
func (k *Kintone) Commits() []Commit { return k.CommitsSince(0) }

// CommitsSince returns the commits whose N is greater than n, in order.
func (k *Kintone) CommitsSince(n int) []Commit {
	k.lock()
	defer k.mu.Unlock()
	n = min(max(n, 0), len(k.log))
	commits := make([]Commit, 0, len(k.log)-n)
	for i, e := range k.log[n:] {
		commits = append(commits, Commit{
			N: n + i + 1, Time: e.origin.time, Request: e.origin.request, App: e.origin.app, Record: e.record,
			Before: e.before, After: e.after, Action: e.action, From: e.from, To: e.to,
			Actor: e.origin.actor, Foreign: e.origin.foreign, Webhook: e.origin.webhook,
		})
	}
	return commits
}

// CommitCount returns how many status actions happened so far.
func (k *Kintone) CommitCount() int {
	k.lock()
	defer k.mu.Unlock()
	return len(k.log)
}

// Requests returns the counts so far. They are copies.
func (k *Kintone) Requests() RequestCounts {
	k.lock()
	defer k.mu.Unlock()
	k.turnDay(time.Now())
	k.tally()
	c := k.counts
	c.Kinds, c.Codes = maps.Clone(c.Kinds), maps.Clone(c.Codes)
	c.Today, c.Busiest = maps.Clone(k.perDay), maps.Clone(k.busiest)
	return c
}

// lock takes the mutex and first carries out what was due before now, so that its holder sees the state of this moment.
func (k *Kintone) lock() {
	k.mu.Lock()
	k.catchUp(time.Now())
}

func (k *Kintone) app(id int64) (*app, error) {
	if a, ok := k.apps[id]; ok {
		return a, nil
	}
	return nil, fmt.Errorf("no app %d", id)
}

func (k *Kintone) record(app, record int64) (*app, *recordData, error) {
	a, err := k.app(app)
	if err != nil {
		return nil, nil, err
	}
	r := a.look(record)
	if r.condition != present {
		return nil, nil, fmt.Errorf("app %d: no record %d", app, record)
	}
	return a, r, nil
}

// count enters a request into the day counter of each app that it names; polling a deploy counts for the app that is
// polled. Kintone's day begins at 09:00 JST, which is 00:00 UTC (docs/kintone.md 1.2). Refused requests count as well,
// unless Config.RefusedFree says otherwise.
func (k *Kintone) count(c *call, now time.Time) {
	k.turnDay(now)
	for app, n := range k.costs(c) {
		if _, ok := k.apps[app]; ok {
			k.perDay[app] += n
		}
	}
}

// uncount takes a refused request out of the day counter.
func (k *Kintone) uncount(c *call) {
	for app, n := range k.costs(c) {
		if _, ok := k.apps[app]; ok {
			k.perDay[app] = max(0, k.perDay[app]-n)
		}
	}
}

// turnDay brings the counters to the day of now.
func (k *Kintone) turnDay(now time.Time) {
	if day := now.UTC().Format(time.DateOnly); day != k.counts.Day {
		k.tally()
		k.counts.Day = day
		clear(k.perDay)
	}
}

// tally keeps the greatest count of any day.
func (k *Kintone) tally() {
	for app, n := range k.perDay {
		k.busiest[app] = max(k.busiest[app], n)
	}
}
