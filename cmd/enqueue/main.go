// Command enqueue is the client of the queue: it publishes jobs, follows them, and deals with those that died.
//
//	enqueue send --app 5 --record 1001 --action 承認     one job
//	enqueue send --app 5 --key-field code --key C-1 --match all --action 承認 --wait   the records with a value in a field
//	enqueue send --file month-end.csv --action 承認 --wait   many, until all have ended
//	enqueue watch month-end-1f0c5be2a911                 how far they are
//	enqueue results month-end-1f0c5be2a911               how each of them ended
//	enqueue job inv-2026-000123                          where one of them is, and why it waits
//	enqueue dead ls --campaign month-end-1f0c5be2a911    those that died
//	enqueue dead retry --reason-code not_assignee        once the cause is gone
//	enqueue dead resolve u-1 --applied --reason "seen"   what no program can find out
//	enqueue inflight                                     the requests that may be out
//	enqueue lanes                                        what the worker is doing
//	enqueue settings apply --app 5 --file flow.yaml      change an app's process management, and put it into force
//
// It holds no secret of kintone and creates nothing in NATS: without a queue it says so and nothing was accepted. Results
// go to stdout, progress and messages to stderr. With --json, stdout has one object per line, each with its type and a
// version v.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/signal"
	"os/user"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"statusq/internal/campaign"
	"statusq/internal/queue"
)

// The exit codes. They are a promise to scripts.
const (
	exitDone    = 0
	exitError   = 1 // whatever has no code of its own, and Ctrl-C
	exitUsage   = 2 // wrong flags, invalid rows: nothing was sent or changed
	exitDead    = 3 // all ended, some dead
	exitHeld    = 4 // a limit, a pause, the breaker or a full log is in the way
	exitTimeout = 5 // --timeout was over first
	exitNoQueue = 6 // cannot connect, no queue there, or no worker where one must answer
	exitUnknown = 7 // all ended, with some it is not known how
)

// exit is an error that brings its exit code. Without an err, everything has been said already.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exit) Unwrap() error { return e.err }

// usage is an error in what was typed.
func usage(format string, args ...any) error { return &exit{exitUsage, fmt.Errorf(format, args...)} }

// givenID is a job id or a campaign's name on the command line. An empty one is what a script's unset variable leaves
// behind, and must not be taken for none: as a filter it would mean everything.
type givenID string

// UnmarshalText reads what was given.
func (i *givenID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New("an id that is given may not be empty")
	}
	*i = givenID(text)
	return nil
}

// givenDomain is a domain on the command line. It may not be empty for the same reason: the jobs would go to the site
// that is meant without one.
type givenDomain string

// UnmarshalText reads what was given.
func (d *givenDomain) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New("a domain that is given may not be empty")
	}
	*d = givenDomain(text)
	return nil
}

// env is what every command has: the global flags and the three streams.
type env struct {
	globals
	siteGiven      bool // on the command line, and not by default
	stdin          io.Reader
	stdout, stderr io.Writer
}

type globals struct {
	NATSURL   string `name:"nats-url" group:"common" env:"STATUSQ_NATS_URL" placeholder:"URL" help:"Where NATS is. Without it, the worker on this machine is found by --store-dir."`
	NATSCreds string `name:"nats-creds" group:"common" env:"STATUSQ_NATS_CREDS" placeholder:"FILE" help:"Credentials file for NATS."`
	StoreDir  string `group:"common" env:"STATUSQ_STORE_DIR" default:"${store}" placeholder:"DIR" help:"Where the worker keeps its data (${default})."`
	Site      string `group:"common" env:"STATUSQ_SITE" default:"main" placeholder:"NAME" help:"Site that the jobs are for (${default})."`
	Prefix    string `group:"common" env:"STATUSQ_PREFIX" default:"statusq" placeholder:"NAME" help:"Prefix of the queue's names in NATS (${default})."`
	JSON      bool   `name:"json" group:"common" help:"Print JSON, one object per line."`
	Lang      string `group:"common" enum:"en,ja" default:"${lang}" placeholder:"LANG" help:"Language of what people read, en or ja (from LANG: ${default})."`
}

type cli struct {
	globals

	Send    sendCmd    `cmd:"" help:"Publish one job from flags, or many from a CSV or NDJSON file."`
	Watch   watchCmd   `cmd:"" help:"Follow a campaign until all of its jobs have ended."`
	Results resultsCmd `cmd:"" help:"List how the jobs of a campaign ended, those that have."`
	Job     jobCmd     `cmd:"" help:"Show where a job is, why it waits and how it ended."`
	Dead    struct {
		Ls      deadLsCmd      `cmd:"" aliases:"list" help:"List dead letters."`
		Show    deadShowCmd    `cmd:"" help:"Show all that is known about the dead letters of a job."`
		Retry   deadRetryCmd   `cmd:"" help:"Put dead letters back to work, in their old place in line."`
		Resolve deadResolveCmd `cmd:"" help:"Say what became of jobs whose outcome is unknown."`
		Discard deadDiscardCmd `cmd:"" help:"Remove dead letters for good."`
	} `cmd:"" help:"Deal with jobs that died or whose outcome is unknown."`
	Lanes    lanesCmd `cmd:"" help:"Ask the worker what it is doing for each app."`
	Inflight struct {
		Ls      inflightLsCmd      `cmd:"" aliases:"list" default:"withargs" help:"List the requests that may be out."`
		Show    inflightShowCmd    `cmd:"" help:"Show all that is known about a request."`
		Resolve inflightResolveCmd `cmd:"" help:"Say what became of a request, where the worker cannot find out."`
	} `cmd:"" help:"See the requests that may be out, and end one that hangs."`
	Settings struct {
		Get    settingsGetCmd    `cmd:"" help:"Write the settings in force, or those in the preview, as a file for apply."`
		Diff   settingsDiffCmd   `cmd:"" help:"Say in words what a file would change."`
		Apply  settingsApplyCmd  `cmd:"" help:"Change the settings to what a file says, and put them into force."`
		Deploy settingsDeployCmd `cmd:"" help:"Put into force what waits in the preview."`
		Status settingsStatusCmd `cmd:"" help:"Show how far the last change is, or how it ended."`
	} `cmd:"" help:"See and change the process management settings of an app."`
	Version versionCmd `cmd:"" help:"Show the version."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole command; it returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	var c cli
	// Kong ends the process after --help. Here that is a panic which ends no further than this function.
	type ended struct{ code int }
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(ended)
			if !ok {
				panic(r)
			}
			code = e.code
		}
	}()
	parser, err := kong.New(&c,
		kong.Name("enqueue"),
		kong.Description("Change kintone record statuses in bulk, through the queue."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { panic(ended{code}) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.ExplicitGroups([]kong.Group{{Key: "common", Title: "Flags of all commands:"}}),
		kong.Vars{"store": queue.DefaultStoreDir(), "lang": language(), "user": userName()},
	)
	if err != nil {
		fmt.Fprintf(stderr, "enqueue: %v\n", err)
		return exitError
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "enqueue: %v\n", err)
		fmt.Fprintln(stderr, "see enqueue --help")
		return exitUsage
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	siteGiven := slices.ContainsFunc(parsed.Path, func(p *kong.Path) bool { return p.Flag != nil && p.Flag.Name == "site" })
	err = parsed.Run(&env{globals: c.globals, siteGiven: siteGiven, stdin: stdin, stdout: stdout, stderr: stderr})
	report(stderr, err, c.Lang)
	return codeOf(err)
}

// codeOf chooses the exit code for an error.
func codeOf(err error) int {
	if err == nil {
		return exitDone
	}
	if e, ok := errors.AsType[*exit](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[*campaign.RowErrors](err); ok {
		return exitUsage
	}
	switch {
	case errors.Is(err, context.Canceled):
		return exitError
	case errors.Is(err, queue.ErrLogFull), errors.Is(err, queue.ErrLedgerFull):
		return exitHeld
	case errors.Is(err, queue.ErrUnreachable), errors.Is(err, queue.ErrRefused),
		errors.Is(err, queue.ErrNoQueue), errors.Is(err, queue.ErrNoWorker):
		return exitNoQueue
	}
	return exitError
}

// plights are the errors of the queue that people meet, whatever they did. The queue names them in English; in another
// language a line follows that explains.
var plights = []error{queue.ErrUnreachable, queue.ErrRefused, queue.ErrNoQueue, queue.ErrNoWorker, queue.ErrLogFull, queue.ErrLedgerFull}

// report says on stderr what went wrong, each problem of a file on its own line.
func report(stderr io.Writer, err error, lang string) {
	if e, ok := errors.AsType[*exit](err); err == nil || ok && e.err == nil {
		return
	}
	rows, ok := errors.AsType[*campaign.RowErrors](err)
	if !ok {
		fmt.Fprintf(stderr, "enqueue: %s\n", printable(err.Error()))
		for _, plight := range plights {
			if text := gloss(lang, plight.Error()); text != "" && errors.Is(err, plight) {
				fmt.Fprintf(stderr, "  → %s\n", text)
			}
		}
		return
	}
	fmt.Fprintf(stderr, "enqueue: %s: %s, nothing was sent\n", printable(rows.Name), count("en", rows.Total, "problem"))
	for _, p := range rows.Problems {
		fmt.Fprintf(stderr, "  %s\n", printable(p.String()))
	}
	if more := rows.Total - len(rows.Problems); more > 0 {
		fmt.Fprintf(stderr, "  and %d more\n", more)
	}
}

// connect reaches the queue: by --nats-url, or as the worker on this machine left it in its directory.
func (e *env) connect(ctx context.Context) (*queue.Queue, error) {
	cfg, err := e.config()
	if err != nil {
		return nil, err
	}
	cfg.Prefix, cfg.Name = e.Prefix, "enqueue"
	cfg.OnEvent = func(text string) { fmt.Fprintf(e.stderr, "enqueue: %s\n", text) }
	return queue.Connect(ctx, cfg)
}

func (e *env) config() (queue.Config, error) {
	if e.NATSURL != "" {
		for u := range strings.SplitSeq(e.NATSURL, ",") {
			if !strings.Contains(u, "://") {
				u = "nats://" + strings.TrimSpace(u) // as the client reads it
			}
			// A URL may hold a password, and the error of a URL holds the URL.
			if _, err := url.Parse(strings.TrimSpace(u)); err != nil {
				return queue.Config{}, usage("--nats-url is not a URL")
			}
		}
		return queue.Config{URL: e.NATSURL, CredsFile: e.NATSCreds}, nil
	}
	f, err := queue.ReadClientFile(e.StoreDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return queue.Config{}, e.failure(exitNoQueue, "no worker has kept data in %s: start one, or give --nats-url or --store-dir", e.StoreDir)
	case err != nil:
		return queue.Config{}, &exit{exitNoQueue, err}
	case f.URL == "":
		return queue.Config{}, e.failure(exitNoQueue, "the queue in %s takes no connections from outside its process", e.StoreDir)
	}
	return f.Config(), nil
}

// language is what the environment asks for, in the order in which programs look.
func language() string {
	if strings.HasPrefix(cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_MESSAGES"), os.Getenv("LANG")), "ja") {
		return "ja"
	}
	return "en"
}

// userName is who asks, unless --by says otherwise.
func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

type versionCmd struct{}

func (versionCmd) Run(e *env) error {
	v := struct {
		head
		Version string `json:"version"`
		Commit  string `json:"commit,omitempty"`
		Go      string `json:"go"`
	}{head: of("version"), Version: "unknown"}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Version, v.Go = cmp.Or(info.Main.Version, v.Version), info.GoVersion
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Commit = s.Value
			}
		}
	}
	if e.JSON {
		return e.emit(v)
	}
	commit := ""
	if v.Commit != "" {
		commit = ", " + v.Commit[:min(12, len(v.Commit))]
	}
	return e.print("enqueue %s (%s%s)\n", v.Version, v.Go, commit)
}
