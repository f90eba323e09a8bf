//go:build docker

package test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"
	"github.com/testcontainers/testcontainers-go/wait"

	"statusq/test/programs"
)

// The image runs with nothing beside the programs: no shell, no root, nothing to write to but /data.
func TestImage(t *testing.T) {
	image := finalStage(t)
	for _, c := range []struct {
		name string
		args []string
		want string // in what it says
	}{
		{"help", []string{"run", "--help"}, "KINTONE_BASE_URL"},
		{"demo", []string{"demo"}, "Every job ended as it should"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, said := runImage(t, image, c.args)
			if code != 0 {
				t.Errorf("worker %q ended with exit code %d, want 0; it said:\n%s", c.args, code, said)
			}
			if !strings.Contains(said, c.want) {
				t.Errorf("worker %q said nothing of %q:\n%s", c.args, c.want, said)
			}
		})
	}
}

// finalStage makes a build context for the last stage of deploy/Dockerfile, with programs built here instead of in its
// first stage, whose image would have to be pulled.
func finalStage(t *testing.T) testcontainers.FromDockerfile {
	t.Helper()
	file, err := os.ReadFile("../deploy/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	at := strings.LastIndex(string(file), "\nFROM ")
	stage := strings.ReplaceAll(string(file[at+1:]), "--from=build ", "")
	if !strings.HasPrefix(stage, "FROM scratch\n") {
		t.Fatalf("deploy/Dockerfile ends with a stage that is not from scratch:\n%s", stage)
	}
	dir := t.TempDir()
	programs.WriteFile(t, filepath.Join(dir, "Dockerfile"), stage)
	if err := os.MkdirAll(filepath.Join(dir, "out", "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"worker", "enqueue"} {
		programs.CopyFile(t, filepath.Join(dir, "out", program), filepath.Join(programs.Bin, program), 0o755)
	}
	return testcontainers.FromDockerfile{Context: dir}
}

// runImage runs the image to its end, as its user and without any right, and returns the exit code and what it said.
func runImage(t *testing.T, image testcontainers.FromDockerfile, args []string) (code int, said string) {
	t.Helper()
	c, err := testcontainers.Run(t.Context(), "",
		testcontainers.WithLogger(log.TestLogger(t)),
		testcontainers.WithDockerfile(image),
		testcontainers.WithCmd(args...),
		testcontainers.WithHostConfigModifier(func(c *container.HostConfig) {
			c.ReadonlyRootfs = true
			c.CapDrop = []string{"ALL"}
			c.SecurityOpt = []string{"no-new-privileges"}
		}),
		testcontainers.WithWaitStrategy(wait.ForExit().WithExitTimeout(2*time.Minute)),
	)
	testcontainers.CleanupContainer(t, c)
	if err != nil {
		t.Fatalf("run image: %v", err)
	}
	inspect, err := c.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if user := inspect.Config.User; user != "65532:65532" {
		t.Errorf("the image runs as %q, want 65532:65532", user)
	}
	logs, err := c.Logs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	text, err := io.ReadAll(logs)
	if err != nil {
		t.Fatal(err)
	}
	return inspect.State.ExitCode, string(text)
}
