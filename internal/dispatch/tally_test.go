package dispatch

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"statusq/internal/queue"
)

// A tally counts over all seeds what a storm was made of, so that a run in which nothing happened cannot pass.
type tally struct {
	seeds, jobs, requests, struck, stormy int
	simulated                             time.Duration

	mu     sync.Mutex // guards counts: people and publishers count at the same time
	counts map[string]int
}

// floors are the least of what has to happen in a hundred seeds, a third of what was seen or less. They are for
// rules and events that the promises rest on; a floor of zero would be a rule that no test reaches.
var floors = []struct {
	what string
	n    float64
}{
	{"late commit", 60},
	{"proxy repeated", 40},
	{"zombie", 10},
	{"takeover with filled slots", 100},
	{"deposed", 50},
	{"crash", 100},
	{"late ledger write", 2},
	{"republished in the window", 300},
	{"jobs with a key", 500},
	{"dead of " + ReasonConditionUnmet, 15},
	{"outcome duplicate", 100},
	{"outcome applied", 2500},
	{"outcome already", 300},
	{"outcome dead", 1000},
	{"outcome unknown", 60},
	{"letter retried", 80},
	{"letter resolved", 15},
	{"decision undecided", 500},
	{"decision applied", 80},
	{"decision not applied", 80},
	{"decision unknown", 50},
	{"rule " + string(ruleStepTooFew), 40},
	{"rule " + string(ruleNotOurHand), 0.5},
	{"rule " + string(ruleOutOfReach), 15},
	{"rule " + string(ruleNobodyMoved), 500},
	{"rule " + string(ruleAllGone), 0.5},
	{"rule " + string(ruleLeftBehind), 4},
	{"rule " + string(ruleOurHand), 80},
	{"rule " + string(ruleShared), 12},
	{"rule " + string(ruleOthersSince), 30},
	{"changes", 25},
	{"change done, left in_force", 6},
	{"change done, left in_force nothing_to_change", 1.5},
	{"change done, left in_preview", 2},
	{"change failed, left as_it_was deploy_cancelled", 0.3},
	{"change failed, left as_it_was deploy_failed", 0.3},
	{"change failed, left as_it_was pending_changes", 0.6},
	{"change failed, left as_it_was refused", 0.7},
	{"change failed, left as_it_was requests_out", 1},
	{"change failed, left as_it_was stale_revision", 1},
	{"change failed, left others superseded", 1},
	{"change refused at once: pending", 2},
	{"change refused at once: problems", 1},
	{"change refused at once: stale", 2},
	{"change taken over waiting", 4},
	{"change taken over putting", 2},
	{"change taken over deploying", 2},
	{"change taken over undoing", 0.3},
	{"crash in a change", 2},
	{"settings request struck", 12},
	{"deployed on the screen", 2},
	{"others' changes in the preview", 8},
	{"others' changes published", 0.3},
	{"campaign cancelled", 3},
	{"campaign with too many dead", 1.5},
	{"cancelled before it was published", 20},
	{"outcome cancelled", 150},
	{"cut suspects", 2},
	{"cut halves", 100},
}

func newTally() *tally { return &tally{counts: make(map[string]int)} }

func (c *tally) count(what string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[what] += n
}

// heard counts what workers told in one run.
func (c *tally) heard(events []Event) {
	owner := false
	for _, e := range events {
		switch e.Kind {
		case EventOwner:
			owner = true
		case EventInherited:
			if owner {
				c.count("takeover with filled slots", 1)
			}
			owner = false
		case EventDeposed:
			c.count("deposed", 1)
		case EventUnclear:
			c.count("unclear answer", 1)
		case EventHalted:
			c.count("halt "+e.Reason, 1)
		case EventCut:
			c.count("cut "+e.Reason, 1)
		case EventProved:
			c.count("decision "+e.Reason, 1)
			if e.Detail != "" {
				c.count("rule "+e.Detail, 1)
			}
		}
	}
}

// ended counts outcomes.
func (c *tally) ended(results []queue.Result) {
	for _, r := range results {
		c.count("outcome "+string(r.Outcome), 1)
		if r.Outcome == queue.Dead {
			c.count("dead of "+r.Reason, 1)
		}
	}
}

// check holds the floors, if enough seeds were run for them to mean something.
func (c *tally) check(t *testing.T) {
	t.Helper()
	if c.stormy > 0 && 100*c.struck < 25*c.stormy {
		t.Errorf("%d of %d requests were struck before the calm, want a quarter", c.struck, c.stormy)
	}
	if c.seeds < 200 {
		return
	}
	for _, f := range floors {
		if got := c.counts[f.what]; float64(got)*100 < f.n*float64(c.seeds) {
			t.Errorf("%q happened %d times in %d seeds, want %v per hundred", f.what, got, c.seeds, f.n)
		}
	}
}

func (c *tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d seeds, %d jobs, %d requests, %.0f%% of %d struck before the calm, %v simulated",
		c.seeds, c.jobs, c.requests, 100*float64(c.struck)/float64(max(1, c.stormy)), c.stormy, c.simulated.Round(time.Minute))
	var names []string
	for what := range c.counts {
		names = append(names, what)
	}
	slices.Sort(names)
	for _, what := range names {
		fmt.Fprintf(&b, "; %s %d", what, c.counts[what])
	}
	return b.String()
}
