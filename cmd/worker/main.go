// Command worker runs the actions that wait in the queue on kintone.
//
//	worker              serve the sites of the configuration
//	worker demo         the whole system in one process, with nothing configured
//	worker simulate     a simulated kintone on a port, for trying any client
//	worker check        what works, what will fail, and how to mend it
//	worker probe        ask a real kintone, in a test app, what its documentation leaves open
//	worker setup        the streams and buckets in NATS
//
// Settings come from flags, then the environment, then the file of --config, then defaults. Secrets have no flags. A
// first SIGINT or SIGTERM ends gracefully: requests in hand finish within --drain, what has not left stays in the queue.
// A second one ends at once, and that loses nothing either. SIGHUP reads the secrets again, and lets what
// stands still try at once, such as a site whose login was refused.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"
	_ "golang.org/x/crypto/x509roots/fallback" // certificate authorities for an image with nothing else in it

	"statusq/internal/queue"
	"statusq/internal/queue/embedded"
)

// Exit codes. They are a promise to scripts and supervisors.
const (
	exitDone    = 0
	exitError   = 1
	exitUsage   = 2 // flags or configuration: nothing was started
	exitNoQueue = 6 // NATS cannot be reached, refuses us, or its directory is in use
)

// usageError is a mistake in what was configured.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

type cli struct {
	Run      runCmd      `cmd:"" default:"withargs" help:"Serve the sites of the configuration (the default)."`
	Demo     demoCmd     `cmd:"" help:"Run the whole system in one process, with nothing configured."`
	Simulate simulateCmd `cmd:"" help:"Run a simulated kintone on a port, for trying any client."`
	Check    checkCmd    `cmd:"" help:"Say what works, what will fail, and how to mend it."`
	Probe    probeCmd    `cmd:"" help:"Ask a real kintone, in a test app, what its documentation leaves open."`
	Setup    setupCmd    `cmd:"" help:"Show the streams and buckets in NATS; with --apply create what is missing, and adjust replicas and size."`
	Version  versionCmd  `cmd:"" help:"Show the version."`
}

// terminal is where a command talks to people.
type terminal struct {
	stdout, stderr io.Writer
}

func main() {
	// The first signal asks, the second one ends everything at once.
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(stop, cancel)
	os.Exit(run(stop, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole command; it returns the exit code. The end of stop asks it to end gracefully.
func run(stop context.Context, args []string, stdout, stderr io.Writer) (code int) {
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
		kong.Name("worker"),
		kong.Description("Change kintone record statuses in bulk, from a queue, and never twice."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { panic(ended{code}) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Vars{"store": queue.DefaultStoreDir()},
	)
	if err != nil {
		fmt.Fprintf(stderr, "worker: %v\n", err)
		return exitError
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "worker: %v\nsee worker --help\n", err)
		return exitUsage
	}
	parsed.BindTo(stop, (*context.Context)(nil))
	err = parsed.Run(&terminal{stdout, stderr})
	if err == nil {
		return exitDone
	}
	fmt.Fprintf(stderr, "worker: %v\n", err)
	switch {
	case isUsage(err), errors.Is(err, embedded.ErrConfig):
		return exitUsage
	case errors.Is(err, queue.ErrUnreachable), errors.Is(err, queue.ErrRefused), errors.Is(err, queue.ErrNoQueue), errors.Is(err, embedded.ErrLocked):
		return exitNoQueue
	}
	return exitError
}

func isUsage(err error) bool {
	_, ok := errors.AsType[usageError](err)
	return ok
}

type versionCmd struct{}

func (versionCmd) Run(t *terminal) error {
	fmt.Fprintln(t.stdout, "statusq-worker", version())
	return nil
}

// version is what the program was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value
		}
	}
	if v == "" {
		v = "(devel)"
	}
	return v
}
