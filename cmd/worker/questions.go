package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"statusq/internal/kintone"
)

// question is something that docs/kintone.md does not know for sure. Each brings its own records and leaves nothing that
// another one needs, so that any of them can be asked alone.
type question struct {
	name    string
	asks    string
	settles string // the place in docs/kintone.md
	plan    func(*terrain) plan
}

// plan is how a question can be asked in one app.
type plan struct {
	missing  string // what the app would need for it; "" if it can be asked
	records  int    // that it uses up, all in the first status
	requests int    // at most
	ask      func(context.Context, *expedition, []kintone.Record) finding
}

// finding is the answer to a question.
type finding struct {
	Verdict verdict `json:"verdict"`
	Saw     string  `json:"saw"`
}

// verdict compares what was seen with what statusq takes for true.
type verdict string

const (
	asAssumed verdict = "as assumed"
	differs   verdict = "differs" // statusq relies on something else
	learned   verdict = "learned" // statusq relies on nothing here
	open      verdict = "open"    // it could not be settled
)

// questions in the order of their worth to us.
var questions = []question{
	{"step", "What does an action leave on a record: which revision, whose name?",
		`3, "One action raises a record's revision by 2"; "The answer holds ids and revisions, in the order of the request"`, planStep},
	{"all", "What does an action do in a status where everybody must act, when others have yet to act?",
		`7.1; 3, Assignees, "ALL: the record moves with the last one"`, planAll},
	{"race", "Of two copies of a request at the same time, is exactly one carried out?",
		`7.4; 3, "A revision that is given has to be the record's"`, planRace},
	{"whole", "Is a call for several records carried out wholly or not at all?",
		`3, "A call for many records is carried out wholly or not at all"`, planWhole},
	{"current", "Does a read right after a change show it?", "7.4", planCurrent},
	{"mismatch", "Which code comes for what does not match: revision, status, assignee, id?", "2.2, 2.3", planMismatch},
	{"late", "What becomes of a request whose connection is cut, and how late?", "7.2", planLate},
	{"twice", "What does a record that is named twice in a call give?", "7.3", planTwice},
	{"samename", "What do two actions of one name in a status give?", `7.3; 3, "Two actions of one name"`, planSameName},
	{"condition", "What does an action give whose condition the record does not meet?", `3, "An action with a condition"`, planCondition},
	{"language", "Which language is taken without Accept-Language?", "7.6; 3, Names and language", planLanguage},
	{"limits", "How large may a body be, how long a list of ids?", "7.6; 1.1", planLimits},
	{"count", "Do refused requests count for the day, and as how many does a bulkRequest count?", "7.5", planCount},
	{"token", "What does a token of another app give?", "7.6; 2.3, GAIA_IA02 and GAIA_AP15", planToken},
	{"deploy", "What is answered while a deploy runs?", "7.3", planDeploy},
}

// says is an answer in a word: "200", "409 GAIA_CO02", "no answer".
func says(x kintone.Exchange) string {
	switch {
	case x.Err == nil:
		return strconv.Itoa(x.Status)
	case x.Err.NotSent:
		return "not sent"
	case x.Status == 0:
		return "no answer"
	case x.Err.Code != "":
		return strconv.Itoa(x.Status) + " " + x.Err.Code
	}
	if code, call, ok := refusedCall(x); ok {
		return fmt.Sprintf("%d %s for call %d", x.Status, code, call)
	}
	return strconv.Itoa(x.Status) + " with a page that is not kintone's"
}

// refusedCall tells which call of a bulkRequest was refused, from 1 on, and with which code. It reports false for any other
// answer: among the results of one that was refused, all but one are empty.
func refusedCall(x kintone.Exchange) (code string, call int, ok bool) {
	var answer struct {
		Results []struct {
			Code string `json:"code"`
		} `json:"results"`
	}
	if x.Err == nil || json.Unmarshal(x.Answer, &answer) != nil {
		return "", 0, false
	}
	for i, r := range answer.Results {
		if r.Code != "" {
			return harmless(r.Code), i + 1, true // not cut: half a secret could not be hidden
		}
	}
	return "", 0, false
}

// refused reports whether kintone has refused a request for a reason that lies in the request.
func refused(x kintone.Exchange) bool {
	return x.Err != nil && x.Err.Code != "" && x.Err.Code != "GAIA_DA02" && x.Err.Code != "GAIA_TO04" && x.Status < 500
}

// unclear reports whether an answer says nothing about the question: none came, it is not kintone's, kintone was busy.
func unclear(x kintone.Exchange) bool { return x.Err != nil && !refused(x) }

// stuck is what is found when the way to the answer is barred.
func stuck(err error) finding { return finding{open, "it did not get so far: " + err.Error()} }

func stuckAt(x kintone.Exchange) finding {
	if x.Err == nil {
		return stuck(errors.New("an answer of success that cannot be read"))
	}
	return stuck(x.Err)
}

// assuming is asAssumed or differs.
func assuming(holds bool) verdict {
	if holds {
		return asAssumed
	}
	return differs
}

const noPlainStep = "an action from the first status without a condition, whose name is the only one of its kind there, and which we may run"

func planStep(t *terrain) plan {
	s, ok := t.plain()
	if !ok {
		return plan{missing: noPlainStep}
	}
	return plan{records: 3, requests: 3, ask: func(ctx context.Context, e *expedition, rs []kintone.Record) finding {
		alone := e.single(ctx, change(rs[0], s))
		together := e.bulk(ctx, change(rs[2], s), change(rs[1], s)) // against the order of their ids
		first, err := revisionsIn(alone)
		if err != nil {
			return stuck(err)
		}
		rest, err := revisionsIn(together)
		if err != nil {
			return stuck(err)
		}
		now, err := e.read(ctx, rs...)
		if err != nil {
			return stuck(err)
		}
		inOrder := len(rest) == 2 && rest[0].Record == rs[2].ID && rest[1].Record == rs[1].ID
		var steps []int64
		same, moved, ours := true, true, true
		for i, r := range now {
			steps = append(steps, r.Revision-rs[i].Revision)
			same = same && steps[i] == 2
			moved = moved && r.Status == s.To
			ours = ours && r.Modifier == e.us
		}
		agree := first[0].Revision == now[0].Revision
		for _, r := range rest {
			agree = agree && slices.ContainsFunc(now, func(n kintone.Record) bool { return n.ID == r.Record && n.Revision == r.Revision })
		}
		saw := fmt.Sprintf("revisions rose by %s (the first record alone, two in one call)", list(steps))
		saw += either(agree, "", "; the answers named other revisions than a read shows")
		saw += either(inOrder, "; the answer names records in the order of the request", "; the answer does not name the records in the order of the request")
		saw += either(moved, "", fmt.Sprintf("; not all of them stand in %q", s.To))
		saw += either(ours, "; the last change is in our name", fmt.Sprintf("; the last change is in the name of %q, ours is %q", now[0].Modifier, e.us))
		return finding{assuming(same && moved && ours && agree && inOrder), saw}
	}}
}

func planAll(t *terrain) plan {
	way, ok := t.way(func(s kintone.State) bool { return t.lets(s) && t.waits(s) && len(t.steps(s.Name)) > 0 })
	if !ok {
		return plan{missing: "a status of type ALL with " + t.us + " and another user as its assignees, with an action that leaves it, which our actions reach"}
	}
	from := t.process.First()
	if len(way) > 0 {
		from = way[len(way)-1].To
	}
	s := t.steps(from)[0]
	return plan{records: 1, requests: len(way) + 5, ask: func(ctx context.Context, e *expedition, rs []kintone.Record) finding {
		r, err := e.walk(ctx, rs[0], way)
		if err != nil {
			return stuck(err)
		}
		before, err := e.read(ctx, r)
		if err != nil {
			return stuck(err)
		}
		x := e.single(ctx, change(before[0], s))
		if unclear(x) {
			return stuckAt(x)
		}
		if x.Err != nil {
			return finding{differs, "an action in the ALL status " + from + " was answered " + says(x)}
		}
		after, err := e.read(ctx, r)
		if err != nil {
			return stuck(err)
		}
		was, is := before[0], after[0]
		rise := is.Revision - was.Revision
		stays := is.Status == was.Status
		saw := fmt.Sprintf("answered 200; the revision rose by %d, the status %s, the assignees went from %s to %s, the last change is in the name of %q (ours is %q)",
			rise, either(stays, "stayed", "became "+is.Status), names(was.Assignees), names(is.Assignees), is.Modifier, e.us)
		again := e.single(ctx, change(is, s))
		saw += "; acting once more was answered " + says(again)
		if again.Err == nil {
			if last, err := e.read(ctx, r); err == nil {
				saw += fmt.Sprintf(" and raised the revision by %d", last[0].Revision-is.Revision)
			}
		}
		return finding{assuming(stays && rise >= 1 && rise <= 2 && is.Modifier == e.us), saw}
	}}
}

func planRace(t *terrain) plan {
	s, ok := t.plain()
	if !ok {
		return plan{missing: noPlainStep}
	}
	const pairs = 5
	return plan{records: 2 * pairs, requests: 2*pairs + 3, ask: func(ctx context.Context, e *expedition, rs []kintone.Record) finding {
		var wins []int
		losers := map[string]int{}
		pair := func(send func() kintone.Exchange) {
			won := 0
			for _, x := range atOnce(send) {
				if x.Err == nil {
					won++
				} else {
					losers[says(x)]++
				}
			}
			wins = append(wins, won)
		}
		for _, r := range rs[:pairs] {
			pair(func() kintone.Exchange { return e.single(ctx, change(r, s)) })
		}
		var cs []kintone.StatusChange
		for _, r := range rs[pairs:] {
			cs = append(cs, change(r, s))
		}
		pair(func() kintone.Exchange { return e.bulk(ctx, cs...) })
		now, err := e.read(ctx, rs...)
		if err != nil {
			return stuck(err)
		}
		twice := 0
		for i, r := range now {
			if r.Revision > rs[i].Revision+2 {
				twice++
			}
		}
		saw := fmt.Sprintf("of %d pairs, %d had exactly one copy carried out, %d both, %d none; the losers were answered %s",
			len(wins), tally(wins, 1), tally(wins, 2), tally(wins, 0), counted(losers))
		saw += either(twice == 0, "", fmt.Sprintf("; %d records rose by more than one action's worth", twice))
		if tally(wins, 0) > 0 && twice == 0 && tally(wins, 2) == 0 { // they failed for another reason
			return finding{open, saw}
		}
		return finding{assuming(tally(wins, 1) == len(wins) && twice == 0), saw}
	}}
}

// atOnce makes a request twice at the same time.
func atOnce(send func() kintone.Exchange) [2]kintone.Exchange {
	var (
		both  [2]kintone.Exchange
		wg    sync.WaitGroup
		start = make(chan struct{})
	)
	for i := range both {
		wg.Go(func() {
			<-start
			both[i] = send()
		})
	}
	close(start)
	wg.Wait()
	return both
}

func planWhole(t *terrain) plan {
	s, ok := t.plain()
	if !ok {
		return plan{missing: noPlainStep}
	}
	return plan{records: 3, requests: 2, ask: func(ctx context.Context, e *expedition, rs []kintone.Record) finding {
		ahead := change(rs[1], s)
		ahead.Revision += 2
		x := e.bulk(ctx, change(rs[0], s), ahead, change(rs[2], s))
		if unclear(x) {
			return stuckAt(x)
		}
		now, err := e.read(ctx, rs...)
		if err != nil {
			return stuck(err)
		}
		moved := 0
		for i, r := range now {
			if r.Revision != rs[i].Revision {
				moved++
			}
		}
		return finding{assuming(refused(x) && moved == 0),
			fmt.Sprintf("a call for three records, the second with a revision that is not its own, was answered %s and changed %d of them", says(x), moved)}
	}}
}

func planCurrent(t *terrain) plan {
	s, ok := t.plain()
	if !ok {
		return plan{missing: noPlainStep}
	}
	const trials = 10
	return plan{records: trials, requests: 2 * trials, ask: func(ctx context.Context, e *expedition, rs []kintone.Record) finding {
		stale := 0
		for _, r := range rs {
			x := e.single(ctx, change(r, s))
			rev, err := revisionsIn(x)
			if err != nil {
				return stuckAt(x)
			}
			now, err := e.read(ctx, r)
			if err != nil {
				return stuck(err)
			}
			if now[0].Revision != rev[0].Revision || now[0].Status != s.To {
				stale++
			}
		}
		return finding{assuming(stale == 0), fmt.Sprintf("of %d reads right after a change, %d showed it and %d showed what was before", len(rs), len(rs)-stale, stale)}
	}}
}

// noRecord is an id that no app will ever have given to a record.
const noRecord = 2_147_483_000

func planMismatch(t *terrain) plan {
	s, ok := t.plain()
	if !ok {
		return plan{missing: noPlainStep}
	}
	var choice *step // leads to where an assignee has to be chosen
	for _, c := range t.steps(t.process.First()) {
		if c.assignee != "" {
			choice = &c
			break
		}
	}
	away, others := t.way(func(st kintone.State) bool {
		return !t.lets(st) && len(t.steps(st.Name)) > 0 &&
			!slices.ContainsFunc(st.Assignee.Entities, func(e kintone.Entity) bool { return e.Type != kintone.EntityUser })
	})
	if !others {
		away, others = t.toSomebodyElse()
	}
	return plan{records: 3, requests: 14 + len(away), ask: func(ctx context.Context, e *expedition, rs []kintone.Record) finding {
		var saw []string
		good, clear := true, true
		try := func(what, want string, x kintone.Exchange) {
			text := what + ": " + says(x)
			if refused(x) && namesOne(x, rs) {
				text += " (names the record)"
			}
			if code := codeOf(x); unclear(x) {
				clear = false
			} else if want != "" && code != want {
				good = false
				text += ", where " + want + " was expected"
			}
			saw = append(saw, text)
		}
		with := func(c kintone.StatusChange, alter func(*kintone.StatusChange)) kintone.StatusChange {
			alter(&c)
			return c
		}
		fresh := change(rs[0], s)
		ahead := with(fresh, func(c *kintone.StatusChange) { c.Revision += 2 })
		try("a revision ahead of the record", "GAIA_CO02", e.single(ctx, ahead))
		try("the same in a call for many", "GAIA_CO02", e.bulk(ctx, ahead))
		try("no such action", "GAIA_IL03", e.single(ctx, with(fresh, func(c *kintone.StatusChange) { c.Action = "statusq-probe" })))
		try("no such record", "GAIA_RE01", e.single(ctx, with(fresh, func(c *kintone.StatusChange) { c.Record = noRecord })))
		try("no such record, in a call for many", "GAIA_RE01",
			e.bulk(ctx, change(rs[1], s), with(fresh, func(c *kintone.StatusChange) { c.Record = noRecord })))
		if s.assignee == "" {
			try("an assignee where none belongs", "GAIA_SA04", e.single(ctx, with(fresh, func(c *kintone.StatusChange) { c.Assignee = e.us })))
		}
		if choice != nil {
			c := change(rs[0], *choice)
			try("an assignee is missing", "GAIA_SA01", e.single(ctx, with(c, func(c *kintone.StatusChange) { c.Assignee = "" })))
			try("an assignee that nobody knows", "GAIA_IL26", e.single(ctx, with(c, func(c *kintone.StatusChange) { c.Assignee = "statusq-probe" })))
		}
		x := e.single(ctx, fresh)
		rev, err := revisionsIn(x)
		if err != nil {
			return finding{open, strings.Join(append(saw, "then it did not get further: "+says(x)), "; ")}
		}
		moved := rs[0]
		moved.Revision, moved.Status = rev[0].Revision, s.To
		if len(t.process.ActionsFrom(s.To, s.Name)) == 0 {
			try("the right revision, an action of another status", "GAIA_IL03", e.single(ctx, change(moved, s)))
			try("an old revision and an action of another status", "", e.single(ctx, fresh))
		}
		if next := t.steps(s.To); len(next) > 0 && t.lets(t.process.States[s.To]) {
			try("an old revision", "GAIA_CO02", e.single(ctx, change(rs[0], next[0])))
		}
		if others {
			r, err := e.walk(ctx, rs[2], away)
			if err != nil {
				return finding{open, strings.Join(append(saw, "then it did not get further: "+err.Error()), "; ")}
			}
			try("a record that is assigned to somebody else", "GAIA_NT01", e.single(ctx, change(r, t.steps(r.Status)[0])))
		} else {
			saw = append(saw, "not tried, for want of a status that is another user's: the code for those who are not its assignee")
		}
		if choice == nil {
			saw = append(saw, "not tried, for want of a status with an assignee to choose: a missing one, an unknown one")
		}
		if good && !clear {
			return finding{open, strings.Join(saw, "; ")}
		}
		return finding{assuming(good), strings.Join(saw, "; ")}
	}}
}

// namesOne reports whether a refusal tells whose fault it was: by a position, or by the id of a record.
func namesOne(x kintone.Exchange, rs []kintone.Record) bool {
	text := string(x.Answer)
	return strings.Contains(text, "records[") || strings.Contains(text, strconv.Itoa(noRecord)) ||
		slices.ContainsFunc(rs, func(r kintone.Record) bool { return slices.Contains(x.Err.Records, r.ID) })
}

func codeOf(x kintone.Exchange) string {
	if x.Err == nil {
		return "200"
	}
	return x.Err.Code
}

func planLate(t *terrain) plan {
	s, ok := t.plain()
	if !ok {
		return plan{missing: noPlainStep}
	}
	const alone, together = 4, 4
	looks := 2
	for wait := firstLook; wait < t.watch; wait *= 2 {
		looks++
	}
	return plan{records: alone + together, requests: 2*(alone+1) + looks + 1, ask: func(ctx context.Context, e *expedition, rs []kintone.Record) finding {
		var attempts []kintone.Attempt
		for _, r := range rs[:alone] {
			attempts = append(attempts, e.bulkAttempt(change(r, s)))
		}
		var cs []kintone.StatusChange
		for _, r := range rs[alone:] {
			cs = append(cs, change(r, s))
		}
		attempts = append(attempts, e.bulkAttempt(cs...))
		answered := 0
		for _, a := range attempts {
			a.Cut = true
			if x := e.prober.Ask(ctx, e.app.ID, a); x.Err == nil {
				answered++
			}
		}
		// Each record's first appearance as changed.
		began := time.Now()
		seen := make([]time.Duration, len(rs))
		look := func() error {
			now, err := e.read(ctx, rs...)
			if err != nil {
				return err
			}
			for i, r := range now {
				if seen[i] == 0 && r.Revision != rs[i].Revision {
					seen[i] = max(time.Since(began), 1)
				}
			}
			return nil
		}
		for wait, n := firstLook, 0; ; wait, n = wait*2, n+1 {
			if err := look(); err != nil {
				return stuck(err)
			}
			left := e.watch - time.Since(began)
			if left <= 0 || n == looks-1 {
				break
			}
			select {
			case <-time.After(min(wait, left)):
			case <-ctx.Done():
				return stuck(context.Cause(ctx))
			}
		}
		done, last := 0, time.Duration(0)
		for _, at := range seen {
			if at > 0 {
				done++
				last = max(last, at)
			}
		}
		replies := map[string]int{}
		for _, a := range attempts {
			replies[says(e.prober.Ask(ctx, e.app.ID, a))]++
		}
		now, err := e.read(ctx, rs...)
		if err != nil {
			return stuck(err)
		}
		twice := 0
		for i, r := range now {
			if r.Revision > rs[i].Revision+2 {
				twice++
			}
		}
		saw := fmt.Sprintf("%d requests for %d records were cut off as soon as they were written (%d were answered all the same): ", len(attempts), len(rs), answered)
		if done == 0 {
			saw += fmt.Sprintf("none was carried out in the %s that were watched", told(time.Since(began)))
		} else {
			saw += fmt.Sprintf("%d records had changed, the last was seen after %s; none came later in the %s that were watched", done, told(last), told(e.watch))
		}
		saw += fmt.Sprintf("; the same requests sent again were answered %s, and %d records were changed twice", counted(replies), twice)
		return finding{assuming(twice == 0), saw}
	}}
}

// firstLook is how long after the cut the first look follows; each later one waits twice as long.
const firstLook = 250 * time.Millisecond

func planTwice(t *terrain) plan {
	s, ok := t.plain()
	if !ok {
		return plan{missing: noPlainStep}
	}
	return plan{records: 1, requests: 2, ask: func(ctx context.Context, e *expedition, rs []kintone.Record) finding {
		x := e.bulk(ctx, change(rs[0], s), change(rs[0], s))
		if unclear(x) {
			return stuckAt(x)
		}
		now, err := e.read(ctx, rs...)
		if err != nil {
			return stuck(err)
		}
		return finding{learned, fmt.Sprintf("one record twice in a call, with the same revision, was answered %s; the revision rose by %d (statusq never sends this)",
			says(x), now[0].Revision-rs[0].Revision)}
	}}
}

func planSameName(t *terrain) plan {
	twin := func(s kintone.State) (string, bool) {
		for _, a := range t.process.Actions {
			if a.From == s.Name && len(t.process.ActionsFrom(s.Name, a.Name)) > 1 {
				return a.Name, true
			}
		}
		return "", false
	}
	way, ok := t.way(func(s kintone.State) bool { _, is := twin(s); return is && t.lets(s) })
	if !ok {
		return plan{missing: "two actions of one name from the same status, one that our actions reach"}
	}
	from := t.process.First()
	if len(way) > 0 {
		from = way[len(way)-1].To
	}
	name, _ := twin(t.process.States[from])
	return plan{records: 1, requests: len(way) + 2, ask: func(ctx context.Context, e *expedition, rs []kintone.Record) finding {
		r, err := e.walk(ctx, rs[0], way)
		if err != nil {
			return stuck(err)
		}
		x := e.single(ctx, kintone.StatusChange{Record: r.ID, Revision: r.Revision, Action: name})
		if unclear(x) {
			return stuckAt(x)
		}
		now, err := e.read(ctx, r)
		if err != nil {
			return stuck(err)
		}
		return finding{assuming(refused(x) && now[0].Revision == r.Revision),
			fmt.Sprintf("an action whose name two in its status have was answered %s; the revision rose by %d", says(x), now[0].Revision-r.Revision)}
	}}
}

func planCondition(t *terrain) plan {
	var guarded *kintone.Action
	for _, a := range t.process.Actions {
		if a.From == t.process.First() && a.FilterCond != "" && a.Type == kintone.ActionPrimary && len(t.process.ActionsFrom(a.From, a.Name)) == 1 {
			guarded = &a
			break
		}
	}
	if guarded == nil {
		return plan{missing: "an action from the first status with a condition that an empty record does not meet"}
	}
	return plan{records: 1, requests: 3, ask: func(ctx context.Context, e *expedition, rs []kintone.Record) finding {
		query := fmt.Sprintf("$id in (%d) and (%s)", rs[0].ID, guarded.FilterCond)
		x := e.prober.Ask(ctx, e.app.ID, kintone.Attempt{Method: http.MethodGet, API: "records.json", Query: url.Values{
			"app": {strconv.FormatInt(e.app.ID, 10)}, "query": {query}, "fields[0]": {"$id"}}})
		var met struct {
			Records []json.RawMessage `json:"records"`
		}
		if x.Err != nil || json.Unmarshal(x.Answer, &met) != nil {
			return stuckAt(x)
		}
		if len(met.Records) > 0 {
			return finding{open, fmt.Sprintf("our records meet the condition of %q, so nothing was tried", guarded.Name)}
		}
		who, _ := t.assignee(t.process.States[guarded.To])
		acted := e.single(ctx, kintone.StatusChange{Record: rs[0].ID, Revision: rs[0].Revision, Action: guarded.Name, Assignee: who})
		if unclear(acted) {
			return stuckAt(acted)
		}
		now, err := e.read(ctx, rs...)
		if err != nil {
			return stuck(err)
		}
		return finding{assuming(codeOf(acted) == "GAIA_IL03" && now[0].Revision == rs[0].Revision),
			fmt.Sprintf("an action whose condition the record does not meet (a query says so) was answered %s; the revision rose by %d", says(acted), now[0].Revision-rs[0].Revision)}
	}}
}

func planLanguage(t *terrain) plan {
	languages := []string{"ja", "en", "zh"}
	return plan{requests: 2 * (len(languages) + 1), ask: func(ctx context.Context, e *expedition, _ []kintone.Record) finding {
		id := strconv.FormatInt(e.app.ID, 10)
		ask := func(a kintone.Attempt, language string) kintone.Exchange {
			a.Language, a.NoLanguage = language, language == ""
			return e.prober.Ask(ctx, e.app.ID, a)
		}
		message := func(language string) string {
			x := ask(kintone.Attempt{Method: http.MethodGet, API: "record.json",
				Query: url.Values{"app": {id}, "id": {strconv.Itoa(noRecord)}}}, language)
			if x.Err == nil {
				return ""
			}
			return x.Err.Message
		}
		named := func(language string) string {
			x := ask(kintone.Attempt{Method: http.MethodGet, API: "app/status.json", Query: url.Values{"app": {id}, "lang": {"user"}}}, language)
			return actionNames(x)
		}
		// like says which languages give the same as none.
		like := func(of func(string) string) string {
			none := of("")
			var same []string
			for _, l := range languages {
				if of(l) == none {
					same = append(same, l)
				}
			}
			switch len(same) {
			case 0:
				return "like none of " + strings.Join(languages, ", ")
			case len(languages):
				return "the same in all languages"
			}
			return "as with " + strings.Join(same, " or ")
		}
		return finding{learned, fmt.Sprintf("without Accept-Language, the text of an error is %s; names of actions (lang=user) are %s", like(message), like(named))}
	}}
}

func planLimits(t *terrain) plan {
	sizes := []int{1 << 20, 4 << 20, 10 << 20}
	lengths := []int{1_000, 10_000, 50_000}
	return plan{requests: len(sizes) + len(lengths), ask: func(ctx context.Context, e *expedition, _ []kintone.Record) finding {
		body := func(n int) map[string]any {
			ids := make([]string, n)
			for i := range ids {
				ids[i] = strconv.Itoa(noRecord - i)
			}
			return map[string]any{"app": e.app.ID, "query": "$id in (" + strings.Join(ids, ",") + ") limit 1", "fields": []string{"$id"}}
		}
		ask := func(a kintone.Attempt) string {
			a.Method, a.API = http.MethodGet, "records.json"
			x := e.prober.Ask(ctx, e.app.ID, a)
			return fmt.Sprintf("%s in %s", says(x), told(x.Took))
		}
		var saw []string
		for _, size := range sizes {
			saw = append(saw, fmt.Sprintf("a body of %d MiB: %s", size>>20, ask(kintone.Attempt{Body: body(1), Blanks: size})))
		}
		for _, n := range lengths {
			saw = append(saw, fmt.Sprintf("%d ids in a list: %s", n, ask(kintone.Attempt{Body: body(n)})))
		}
		return finding{learned, strings.Join(saw, "; ")}
	}}
}

// What planCount sends: so many calls in a bulkRequest, and so many requests that are refused. The latter are more than
// twice the former, so that no two of the answers come to the same number (bill).
const (
	countMembers = 5
	countRefused = 2*countMembers + 1
)

func planCount(t *terrain) plan {
	s, ok := t.plain()
	if !ok {
		return plan{missing: noPlainStep}
	}
	return plan{records: countMembers, requests: countRefused + 1, ask: func(ctx context.Context, e *expedition, rs []kintone.Record) finding {
		answers := map[string]int{}
		for range countRefused {
			x := e.prober.Ask(ctx, e.app.ID, kintone.Attempt{Method: http.MethodGet, API: "record.json",
				Query: url.Values{"app": {strconv.FormatInt(e.app.ID, 10)}, "id": {strconv.Itoa(noRecord)}}})
			answers[says(x)]++
		}
		path := "/k/v1/records/status.json"
		if e.app.GuestSpace != 0 {
			path = fmt.Sprintf("/k/guest/%d/v1/records/status.json", e.app.GuestSpace)
		}
		var requests []map[string]any
		for _, r := range rs {
			requests = append(requests, map[string]any{"method": http.MethodPut, "api": path,
				"payload": map[string]any{"app": e.app.ID, "records": membersOf([]kintone.StatusChange{change(r, s)})}})
		}
		x := e.prober.Ask(ctx, e.app.ID, kintone.Attempt{Method: http.MethodPost, API: "bulkRequest.json", Body: map[string]any{"requests": requests}})
		return finding{open, fmt.Sprintf("reads of a record that is not there were answered %s, and a bulkRequest of %d calls %s; only the administration tells what was counted: see the numbers at the end",
			counted(answers), countMembers, says(x))}
	}}
}

func planToken(t *terrain) plan {
	if t.foreign == 0 {
		return plan{missing: "signing in by API token, and another app in the configuration with a token of its own (tokenFile)"}
	}
	return plan{requests: 1, ask: func(ctx context.Context, e *expedition, _ []kintone.Record) finding {
		x := e.prober.Ask(ctx, e.app.ID, kintone.Attempt{Method: http.MethodGet, API: "app/status.json",
			Query: url.Values{"app": {strconv.FormatInt(e.app.ID, 10)}}, TokensOf: e.foreign})
		if unclear(x) {
			return stuckAt(x)
		}
		known := slices.Contains([]string{"GAIA_IA02", "GAIA_AP15", "GAIA_NO01"}, codeOf(x))
		return finding{assuming(known), "a read with the token of another app was answered " + says(x)}
	}}
}

func planDeploy(t *terrain) plan {
	if !t.deploy {
		return plan{missing: "--deploy: it deploys the app's settings as they are, and needs the right to manage the app"}
	}
	s, ok := t.plain()
	if !ok {
		return plan{missing: noPlainStep}
	}
	const polls = 60
	return plan{records: 2, requests: 7 + polls, ask: func(ctx context.Context, e *expedition, rs []kintone.Record) finding {
		id := strconv.FormatInt(e.app.ID, 10)
		get := func(api string) kintone.Exchange {
			return e.prober.Ask(ctx, e.app.ID, kintone.Attempt{Method: http.MethodGet, API: api, Query: url.Values{"app": {id}}})
		}
		live, preview := get("app/status.json"), get("preview/app/status.json")
		if live.Err != nil || preview.Err != nil {
			return finding{open, "settings: live " + says(live) + ", preview " + says(preview)}
		}
		was, is := settingsRevision(live), settingsRevision(preview)
		if was == "" || was != is {
			return finding{open, fmt.Sprintf("changes wait in the app's settings (revision %s, in force is %s), and a deploy would publish them: deploy or discard them first", is, was)}
		}
		x := e.prober.Ask(ctx, e.app.ID, kintone.Attempt{Method: http.MethodPost, API: "preview/app/deploy.json",
			Body: map[string]any{"apps": []map[string]any{{"app": e.app.ID, "revision": is}}}})
		if x.Err != nil {
			return finding{open, "the deploy was answered " + says(x)}
		}
		began := time.Now()
		atFirst := fmt.Sprintf("right after the deploy was accepted: an action %s, a read of the settings %s, of those in preview %s",
			says(e.single(ctx, change(rs[0], s))), says(get("app/status.json")), says(get("preview/app/status.json")))
		for range polls {
			x := e.prober.Ask(ctx, e.app.ID, kintone.Attempt{Method: http.MethodGet, API: "preview/app/deploy.json", Query: url.Values{"apps[0]": {id}}})
			state := deployState(x)
			if state != "PROCESSING" {
				return finding{learned, fmt.Sprintf("%s; %s after %s, and then an action %s", atFirst, cmp.Or(state, says(x)), told(time.Since(began)),
					says(e.single(ctx, change(rs[1], s))))}
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return stuck(context.Cause(ctx))
			}
		}
		return finding{open, atFirst + "; it had not ended after a minute"}
	}}
}

// actionNames are those in an answer to app/status.json.
func actionNames(x kintone.Exchange) string {
	var answer struct {
		Actions []struct {
			Name string `json:"name"`
		} `json:"actions"`
	}
	if x.Err != nil || json.Unmarshal(x.Answer, &answer) != nil {
		return says(x)
	}
	return fmt.Sprint(answer.Actions)
}

func settingsRevision(x kintone.Exchange) string {
	var answer struct {
		Revision json.Number `json:"revision"`
	}
	if json.Unmarshal(x.Answer, &answer) != nil {
		return ""
	}
	return answer.Revision.String()
}

func deployState(x kintone.Exchange) string {
	var answer struct {
		Apps []struct {
			Status string `json:"status"`
		} `json:"apps"`
	}
	if x.Err != nil || json.Unmarshal(x.Answer, &answer) != nil || len(answer.Apps) != 1 {
		return ""
	}
	return answer.Apps[0].Status
}

func either(is bool, yes, no string) string {
	if is {
		return yes
	}
	return no
}

func list(ns []int64) string {
	out := make([]string, len(ns))
	for i, n := range ns {
		out[i] = strconv.FormatInt(n, 10)
	}
	return strings.Join(out, ", ")
}

func names(logins []string) string {
	if len(logins) == 0 {
		return "nobody"
	}
	return strings.Join(logins, " and ")
}

func tally(ns []int, of int) int {
	n := 0
	for _, m := range ns {
		if m == of {
			n++
		}
	}
	return n
}

// counted lists answers with how often each came.
func counted(answers map[string]int) string {
	if len(answers) == 0 {
		return "nothing"
	}
	var out []string
	for _, a := range slices.Sorted(maps.Keys(answers)) {
		out = append(out, fmt.Sprintf("%s (%d times)", a, answers[a]))
	}
	return strings.Join(out, ", ")
}

// told is a duration for people.
func told(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
