// Package internal_test holds the rules on who may import whom. A rule is broken in one line and found out months
// later, so they are checked like everything else.
package internal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "statusq"

type layer struct {
	name    string
	imports []string
	tests   []string // what its tests import besides
	why     string
}

// layers says which packages of this module a package may import. The order is that of the dependencies, from those
// that know nobody to the commands; each line can only name packages above it. A
// package that is not in the table is a mistake, so that a new one finds its place before it finds users.
var layers = []layer{
	{"schema", nil, nil,
		"the contract with those who publish jobs depends on nobody"},
	{"internal/failpoint", nil, nil,
		"a place where a test may kill a program knows nothing of the program"},
	{"internal/kintone", []string{"internal/failpoint"}, []string{"schema", "internal/kintone/simulator"},
		"what kintone accepts and refuses is the same with and without a queue"},
	{"internal/kintone/simulator", nil, nil,
		"the oracle shares no code with the client that it examines, or one misunderstanding sits on both sides"},
	{"internal/queue", []string{"schema", "internal/failpoint", "internal/kintone"}, []string{"internal/queue/embedded", "internal/queue/queuetest"},
		"it keeps jobs and decisions, and decides nothing itself; of kintone it needs the type Secret"},
	{"internal/queue/embedded", []string{"internal/kintone", "internal/queue"}, nil,
		"a server in the same process is an option of the queue"},
	{"internal/queue/queuetest", []string{"internal/queue", "internal/queue/embedded"}, nil,
		"tests use the same server as the product"},
	{"internal/dispatch", []string{"internal/failpoint", "internal/kintone", "internal/queue"}, []string{"internal/kintone/simulator", "internal/queue/queuetest"},
		"from jobs to requests to outcomes: it knows both ends, and nobody who configures or watches it"},
	{"internal/campaign", []string{"internal/kintone", "internal/queue", "internal/dispatch"}, []string{"internal/queue/queuetest"},
		"it prepares and reports work, and has no hand in it"},
	{"internal/console", []string{"internal/kintone", "internal/queue", "internal/dispatch", "internal/campaign"}, []string{"internal/kintone/simulator", "internal/queue/queuetest"},
		"it shows and accepts, and has no hand in the work"},
	{"internal", nil, nil,
		"these rules"},
	{"cmd/worker", []string{"schema", "internal/failpoint", "internal/kintone", "internal/kintone/simulator", "internal/queue", "internal/queue/embedded", "internal/dispatch", "internal/campaign", "internal/console"}, []string{"internal/queue/queuetest"},
		"the wiring knows everybody; the simulator is part of it as worker demo and worker simulate"},
	{"cmd/enqueue", []string{"schema", "internal/kintone", "internal/queue", "internal/campaign"}, []string{"internal/queue/embedded", "internal/queue/queuetest"},
		"the client reads and writes the queue, and cannot do the worker's work"},
	{"test/programs", []string{"internal/queue"}, nil,
		"it runs programs for tests, and reads the queue to see what they did"},
	{"test", []string{"test/programs"}, []string{"internal/queue", "internal/kintone"},
		"it tests programs from outside; of the inside it may borrow names and forms"},
	{"test/crash", []string{"test/programs"}, []string{"internal/failpoint", "internal/queue", "internal/kintone/simulator"},
		"it kills programs from outside; it plays kintone, and reads the queue to see what they did"},
}

// fences says which packages may import a library, counting every import path that begins with it.
var fences = []struct {
	library string
	allowed []string // packages of this module
	tests   []string // more packages whose tests may
	why     string
}{
	{"github.com/nats-io/nats.go", []string{"internal/queue"}, []string{"test", "test/crash"},
		"NATS is one package's knowledge"},
	{"github.com/synadia-io/orbit.go", []string{"internal/queue"}, nil,
		"it is more of the NATS client"},
	{"github.com/nats-io/nats-server", []string{"internal/queue/embedded", "internal/queue/queuetest"}, nil,
		"a server is started in one place"},
	{"net/http", []string{"internal/kintone", "internal/kintone/simulator", "internal/dispatch", "internal/console", "cmd/worker", "test/programs"}, []string{"cmd/enqueue", "test", "test/crash"},
		"only kintone talks HTTP to kintone; dispatch reads status codes by their names"},
	{"log/slog", []string{"internal/console", "cmd"}, []string{"internal/kintone"},
		"the core returns errors and tells events; logging is for those who run it (kintone's tests log a Secret)"},
	{"github.com/prometheus", []string{"internal/console", "cmd/worker"}, nil,
		"as with log/slog"},
	{"github.com/alecthomas/kong", []string{"cmd"}, nil,
		"flags belong to commands"},
	{"github.com/testcontainers", nil, []string{"test"},
		"the product needs no docker"},
}

// unlinked says what a program must not contain, by whatever way it could come in.
var unlinked = []struct {
	program, library, why string
}{
	{"cmd/enqueue", "github.com/nats-io/nats-server", "the client is small and cannot start a queue"},
	{"cmd/enqueue", "statusq/internal/kintone/simulator", "the client has no business with a kintone, not even a false one"},
	{"cmd/worker", "github.com/testcontainers", "the product needs no docker"},
	{"cmd/worker", "testing", "the product holds no tests"},
}

// pkg is what go list says about a package.
type pkg struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
	Deps                               []string // all that it links, without its tests
}

func TestDependenciesPointOneWay(t *testing.T) {
	packages := list(t)
	if len(packages) < 5 {
		t.Fatalf("go list found %d packages, want the whole module", len(packages))
	}
	for _, v := range violations(packages) {
		t.Error(v)
	}
}

// A layer can only rest on those above it in the table: what the table allows has no cycle, and reads in one direction.
func TestLayersAreInOrder(t *testing.T) {
	var seen []string
	for _, l := range layers {
		for _, i := range l.imports {
			if !slices.Contains(seen, i) {
				t.Errorf("%s may import %s, which does not stand above it in the table", l.name, i)
			}
		}
		seen = append(seen, l.name)
	}
}

// The checker itself: each rule, broken, is found, and named with its reason.
func TestViolationsAreFound(t *testing.T) {
	for _, c := range []struct {
		name string
		pkg  pkg
		want string // "" = nothing to object to
	}{
		{"all as it should be", pkg{ImportPath: "statusq/internal/queue",
			Imports:     []string{"context", "statusq/schema", "statusq/internal/kintone", "github.com/nats-io/nats.go/jetstream"},
			TestImports: []string{"statusq/internal/queue", "statusq/internal/queue/queuetest"}}, ""},
		{"a dependency upwards", pkg{ImportPath: "statusq/internal/kintone", Imports: []string{"statusq/internal/queue"}},
			"internal/kintone imports internal/queue: what kintone accepts"},
		{"an oracle that asks its client", pkg{ImportPath: "statusq/internal/kintone/simulator", XTestImports: []string{"statusq/internal/kintone"}},
			"internal/kintone/simulator (tests) imports internal/kintone: the oracle shares no code"},
		{"an import that only tests may have", pkg{ImportPath: "statusq/internal/dispatch", Imports: []string{"statusq/internal/kintone/simulator"}},
			"internal/dispatch imports internal/kintone/simulator: from jobs"},
		{"NATS outside queue", pkg{ImportPath: "statusq/internal/dispatch", Imports: []string{"github.com/nats-io/nats.go/jetstream"}},
			"internal/dispatch imports github.com/nats-io/nats.go/jetstream: NATS is one package's knowledge"},
		{"NATS in a command", pkg{ImportPath: "statusq/cmd/enqueue", Imports: []string{"github.com/nats-io/nats.go"}},
			"cmd/enqueue imports github.com/nats-io/nats.go: NATS is"},
		{"a server in the client of NATS", pkg{ImportPath: "statusq/internal/queue", Imports: []string{"github.com/nats-io/nats-server/v2/server"}},
			"internal/queue imports github.com/nats-io/nats-server/v2/server: a server"},
		{"a library of another name", pkg{ImportPath: "statusq/internal/dispatch", Imports: []string{"github.com/nats-io/nats.gopher"}}, ""},
		{"logging in the core", pkg{ImportPath: "statusq/internal/dispatch", Imports: []string{"log/slog"}},
			"internal/dispatch imports log/slog: the core returns"},
		{"metrics in the core", pkg{ImportPath: "statusq/internal/queue", Imports: []string{"github.com/prometheus/client_golang/prometheus"}},
			"internal/queue imports github.com/prometheus/client_golang/prometheus: as with"},
		{"a test library in the product", pkg{ImportPath: "statusq/cmd/worker", Imports: []string{"github.com/testcontainers/testcontainers-go"}},
			"cmd/worker imports github.com/testcontainers/testcontainers-go: the product"},
		{"a server linked by a detour", pkg{ImportPath: "statusq/cmd/enqueue", Deps: []string{"github.com/nats-io/nats-server/v2/server"}},
			"cmd/enqueue links github.com/nats-io/nats-server/v2/server: the client is small"},
		{"a package nobody thought about", pkg{ImportPath: "statusq/internal/util"},
			"internal/util is in no layer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := violations([]pkg{c.pkg})
			switch {
			case c.want == "" && len(got) > 0:
				t.Errorf("violations found %q, want none", got)
			case c.want != "" && (len(got) == 0 || !strings.HasPrefix(got[0], c.want)):
				t.Errorf("violations found %q, want one that begins with %q", got, c.want)
			}
		})
	}
}

// violations returns a sentence for everything that breaks a rule.
func violations(packages []pkg) []string {
	var found []string
	for _, p := range packages {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		tests := slices.Concat(p.TestImports, p.XTestImports)

		at := slices.IndexFunc(layers, func(l layer) bool { return l.name == name })
		if at < 0 {
			found = append(found, name+" is in no layer: say what it may import, and why")
			continue
		}
		l := layers[at]
		object := func(who, what, why string) {
			found = append(found, fmt.Sprintf("%s imports %s: %s", who, what, why))
		}
		for _, i := range own(p.Imports) {
			if !slices.Contains(l.imports, i) {
				object(name, i, l.why)
			}
		}
		for _, i := range own(tests) {
			if i != name && !slices.Contains(l.imports, i) && !slices.Contains(l.tests, i) {
				object(name+" (tests)", i, l.why)
			}
		}
		for _, f := range fences {
			if slices.ContainsFunc(f.allowed, func(dir string) bool { return within(name, dir) }) {
				continue
			}
			for _, i := range p.Imports {
				if within(i, f.library) {
					object(name, i, f.why)
				}
			}
			for _, i := range tests {
				if within(i, f.library) && !slices.Contains(f.tests, name) {
					object(name+" (tests)", i, f.why)
				}
			}
		}
		for _, u := range unlinked {
			for _, d := range p.Deps {
				if u.program == name && within(d, u.library) {
					found = append(found, fmt.Sprintf("%s links %s: %s", name, d, u.why))
				}
			}
		}
	}
	return found
}

// own returns those of the imports that are this module's, without its name.
func own(imports []string) []string {
	var names []string
	for _, i := range imports {
		if name, ok := strings.CutPrefix(i, module+"/"); ok {
			names = append(names, name)
		}
	}
	return names
}

// within reports whether path is dir or lies below it.
func within(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/')
}

// list asks the go command about every package of this module, those behind tags included.
func list(t *testing.T) []pkg {
	t.Helper()
	// A result is cached until a file changes that the test itself looked at, and go list is another process.
	if err := fs.WalkDir(os.DirFS(".."), ".", func(path string, d fs.DirEntry, err error) error {
		if path == ".git" {
			return fs.SkipDir
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-tags", "docker,crash",
		"-json=ImportPath,Imports,TestImports,XTestImports,Deps", module+"/...")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var packages []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("go list: read its answer: %v", err)
		}
		packages = append(packages, p)
	}
}
