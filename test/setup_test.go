//go:build docker

package test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"statusq/internal/queue"
	"statusq/test/programs"
)

// A queue that was set up with one copy gets three when it is asked for, with what is in it; before that it is told that
// there is one. More copies than servers are refused.
func TestReplicasAreToldAndAdjusted(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	setup := func(want string, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(programs.Bin, "worker"), append([]string{"setup", "--nats-url", c.urls()}, args...)...)
		said, err := cmd.CombinedOutput()
		if bad := strings.Contains(want, "BAD") || strings.Contains(want, "not enough"); !strings.Contains(string(said), want) || bad != (err != nil) {
			t.Fatalf("setup %v: %v, want %q in:\n%s", args, err, want, said)
		}
	}
	setup("ok   STATUSQ_LEDGER", "--apply")
	q := programs.Connect(t, c.urls())
	if _, err := q.Publish(t.Context(), []queue.Job{{ID: "a", Site: "a", App: 5, Record: 1, Action: "Start", Revision: -1}}); err != nil {
		t.Fatal(err)
	}

	setup("BAD  STATUSQ_JOBS             replicas: 1, and not 3\n", "--replicas", "3")
	setup("not enough servers for so many replicas: 5 are wanted", "--replicas", "5", "--apply")
	setup("messages: 1, ", "--apply") // as it was, and without a choice it is good
	setup("replicas: 3", "--replicas", "3", "--apply")
	setup("ok   statusq_control", "--replicas", "3")

	// The new copies fill up: each server then holds the job.
	deadline := time.Now().Add(30 * time.Second)
	for _, s := range c.servers {
		for {
			all, err := s.replicas(t.Context())
			if err == nil && len(all) == 5 && all[jobsStream].State.Messages == 1 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s holds %+v: %v", s.name, all, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}
