package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"statusq/internal/queue"
)

// simulated runs a worker simulate as a process, and returns what it says of itself and the worker configuration that it
// has written.
func simulated(t *testing.T, args ...string) (addresses struct{ URL, Token, Admin string }, conf string) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], append([]string{"simulate", "--listen", "127.0.0.1:0", "--write", dir}, args...)...)
	cmd.Env = []string{asWorker + "=1", "HOME=" + dir}
	var out lines
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	eventually(t, 20*time.Second, "the simulator says where it is", func() bool { return strings.Contains(out.String(), "\n") })
	if err := json.Unmarshal([]byte(out.String()), &addresses); err != nil {
		t.Fatalf("the simulator says %q: %v", out.String(), err)
	}
	return addresses, filepath.Join(dir, "statusq.yaml")
}

// What worker simulate offers can be done with it, by the commands that it prints.
func TestEverythingThatTheSimulatorOffersWorks(t *testing.T) {
	t.Parallel()
	_, conf := simulated(t, "--records", "60")
	p := &place{t: t, dir: filepath.Join(t.TempDir(), "queue"), conf: conf}
	p.start()
	var offer bytes.Buffer
	(&simulateCmd{Apps: 1, Records: 60}).explain(&offer, "URL", "TOKEN", "ADMIN")

	for i, c := range []struct {
		line    string // of the offer
		args    string // what stands in it otherwise
		outcome queue.Outcome
	}{
		{line: "--app 5 --record 1 --action Start", outcome: queue.Applied},
		{line: "--app 5 --key-field code --key C-2 --action Start", outcome: queue.Applied},
		{line: "--app 5 --key-field Record_number --key ORD-4 --action Start", outcome: queue.Applied},
		{line: "--app 5 --key-field customer --key K-3 --match all --action Start", outcome: queue.Matched},
		{line: "--app 201 --record 1 --action Submit --assignee sato", outcome: queue.Applied},
		{line: "--app 201 --record 2 --action Submit", outcome: queue.Dead},
		{line: "--app 201 --record 2 --action Finish --assignee sato", outcome: queue.Dead},
		{line: `--app 201 --record 3 --action "Pass on"`, outcome: queue.Applied},
		{args: `--app 201 --record 3 --action Overrule`, outcome: queue.Dead},
		{args: `--app 201 --record 3 --action "Pull back"`, outcome: queue.Applied},
		{args: `--app 201 --record 7 --action "Pass on"`, outcome: queue.Applied},
		{args: `--app 201 --record 7 --action Take`, outcome: queue.Dead},
		{line: `--app 201 --record 4 --action "Ask the board"`, outcome: queue.Applied},
		{args: `--app 201 --record 4 --action Agree`, outcome: queue.Applied}, // acted, and not moved
		{line: `--app 201 --record 5 --action "Wave through"`, outcome: queue.Applied},
		{args: `--app 201 --record 50 --action "Wave through"`, outcome: queue.Dead},
		{line: "--app 201 --record 6 --action Close", outcome: queue.Dead},
		{args: "--app 202 --record 1 --action Start", outcome: queue.Applied},
	} {
		if c.line != "" && !strings.Contains(offer.String(), "enqueue send "+c.line+" --wait") {
			t.Errorf("the simulator does not offer %s:\n%s", c.line, offer.String())
		}
		job := fmt.Sprintf("try-%d", i)
		o := p.enqueue(append(words(c.line+c.args), "--job", job, "--wait", "--timeout", "10s")...)
		rs := results(t, p.queue(), job)
		if len(rs) == 0 || rs[0].Outcome != c.outcome {
			t.Errorf("%s: %+v, want %s\n%s%s", c.line+c.args, rs, c.outcome, o.out, o.err)
		}
	}
}

// words takes the flags of enqueue send apart, with some in double quotes.
func words(line string) []string {
	out := []string{"send"}
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			out = append(out, part)
		} else {
			out = append(out, strings.Fields(part)...)
		}
	}
	return out
}

func TestSimulatorsConfigurationIsGood(t *testing.T) {
	environ(t)
	c := &simulateCmd{Apps: 2, Records: 10, Token: "demotoken"}
	k, tokens := c.kintone()
	s := httptest.NewServer(k)
	t.Cleanup(s.Close)
	dir := filepath.Join(t.TempDir(), "conf")
	if err := writeConfiguration(dir, s.URL, tokens); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"check", "--config", filepath.Join(dir, "statusq.yaml"), "--store-dir", filepath.Join(dir, "none"), "--json"}, &out, &errs)
	got := readChecked(t, output{code, out.String(), errs.String()})
	for _, app := range []string{"5", "6", "201", "202"} {
		if r := got.row(t, "app "+app+" of main"); !r.OK {
			t.Errorf("app %s: %s", app, r.Detail)
		}
	}
	may := make(map[mayAct]bool)
	for _, a := range got.actions {
		may[a.MayAct] = true
	}
	if !may[mayYes] || !may[mayNo] || !may[mayDepends] {
		t.Errorf("the apps should show every answer to whether we may act, they show %v", may)
	}
	for _, name := range []string{"token-5", "token-201", "statusq.yaml"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want it readable for its owner alone", name, info, err)
		}
	}
}
