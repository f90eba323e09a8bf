package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"statusq/internal/kintone/simulator"
)

// withKeys has app 5 with n records, all "Not started" but for record 3, which is "In progress". Every record has a code
// of its own, and all have one customer.
func withKeys(t *testing.T, n int) *place {
	t.Helper()
	p := newPlace(t, 0)
	const app = 7
	p.sim.AddApp(simulator.App{
		ID: app, Name: "受注管理", Records: n, Tokens: []simulator.Token{simulator.FullToken("keytoken")}, Process: simulator.Workflow(),
		Fields: []simulator.Field{
			{Code: "code", Type: "SINGLE_LINE_TEXT", Default: func(record int64) string { return fmt.Sprintf("C-%d", record) }},
			{Code: "customer", Type: "SINGLE_LINE_TEXT", Default: func(int64) string { return `K "1"` }},
		},
	})
	conf := t.TempDir()
	write(t, conf, "token", "keytoken")
	p.conf = write(t, conf, "statusq.yaml", fmt.Sprintf(`
sites:
  main:
    baseUrl: %s
    requestsPerSecond: 1000
    defaults: {dailyRequests: -1, backoff: 1s, attempts: 1}
    apps:
      7:
        tokenFile: token
`, p.url))
	return p
}

// The form of Cloud BOT's extension "kintone / Update status" over a real worker: the domain chooses the site, a key the
// records, and the result screen says how many were updated (SEED0). "If an error occurs, further processing is aborted":
// --max-dead 0.
func TestCloudBotFormOverAWorker(t *testing.T) {
	t.Parallel()
	p := withKeys(t, 5)
	p.start()
	domain := strings.TrimPrefix(p.url, "http://")
	eventually(t, 20*time.Second, "the worker tells at which domain it serves the site", func() bool {
		return p.enqueue("send", "--domain", domain, "--app", "7", "--record", "1", "--action", "Start", "--dry-run").code == exitDone
	})
	send := func(args ...string) output {
		return p.enqueue(append([]string{"send", "--domain", domain, "--app", "7", "--action", "Start", "--wait", "--timeout", "40s"}, args...)...)
	}
	send("--key-field", "code", "--key", "C-3", "--revision", "1", "--job", "one").want(t, exitDone,
		"the record with code = C-3", "App name                 受注管理\n", "Target record key        code = C-3\n", "Revision number          3\n",
		"Number of updates        1\n", "Number of update errors  0\n", "Error                    -\n")
	send("--key-field", "code", "--key", "C-9", "--match", "all", "--job", "none").want(t, 3,
		"Number of updates        0\n", "Number of update errors  1\n", "Error                    no record has that value in the key field\n")
	send("--key-field", "customer", "--key", `K "1"`, "--job", "ambiguous").want(t, 3, "several records have that value in the key field, and the job is for one")
	send("--key-field", "customer", "--key", `K "1"`, "--match", "all", "--revision", "1", "--job", "pinned").want(t, 3,
		"the key matches several records, and one revision cannot be right for all of them")
	send("--key-field", "顧客", "--key", "x", "--job", "field", "--lang", "ja").want(t, 3, "エラー", "キーに使えるフィールドがアプリにありません")

	// Record 3 stands where the action does not start from, and that is an error; what became of each of the others is told.
	o := send("--key-field", "customer", "--key", `K "1"`, "--match", "all", "--job", "many", "--json", "--max-dead", "4")
	var screen struct {
		Type            string
		Updated, Errors int
		Already         int
		AppName, Reason string
		Records         []struct{ Job, Record, Outcome string }
	}
	lines := strings.Split(strings.TrimSpace(o.out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &screen); err != nil {
		t.Fatalf("%v: %s%s", err, o.out, o.err)
	}
	if screen.Type != "update-status" || screen.Updated != 4 || screen.Errors+screen.Already != 1 || len(screen.Records) != 5 || screen.AppName != "受注管理" {
		t.Errorf("the screen is %+v; stderr: %s", screen, o.err)
	}
	p.enqueue("job", "many").want(t, exitDone, "matched 5 records, each a job of its own", "many/3", "4 applied")

	// All five are in progress now. The first that dies ends the rest, and what had not left does not leave.
	p.enqueue("send", "--app", "7", "--key-field", "customer", "--key", `K "1"`, "--match", "all", "--action", "Nope", "--job", "stopped", "--max-dead", "0",
		"--wait", "--timeout", "40s").want(t, 3, "Number of updates        0\n", "the app has no action of that name")
	p.enqueue("watch", "stopped").want(t, 3, "once more than 0 are dead, the rest is cancelled", "it was cancelled on")
}
