package dispatch

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"statusq/internal/kintone"
)

// settings are the worlds that are searched. One-way, cyclic, self-loop and ALL processes, dedicated and shared
// identity, with what each makes dangerous.
func settings() []setting {
	loop := func() *kintone.Process {
		return workflow("", edge("Touch", "A", "A"), edge("Go", "A", "B"), edge("Back", "B", "A"))
	}
	round := func() *kintone.Process { return workflow("", edge("Go", "A", "B"), edge("Back", "B", "A")) }
	all := func() *kintone.Process { return workflow("A", edge("Go", "A", "B"), edge("Back", "B", "A")) }
	later := func(p *kintone.Process, more ...kintone.Action) *kintone.Process {
		p.Revision++
		p.Actions = append(p.Actions, more...)
		return p
	}
	list := []setting{
		// Small enough to be searched to the end.
		{name: "small: one record, one way", process: [2]*kintone.Process{oneWay()},
			records: []int8{0, 0}, actions: []string{"Go", "Next"}, batch: 1, faults: 1, foreign: 1, crashes: 1, weight: 3},
		{name: "small: one record, round", process: [2]*kintone.Process{round()},
			records: []int8{0, 0, 0}, actions: []string{"Go", "Back", "Go"}, batch: 1, faults: 1, foreign: 1, crashes: 1, weight: 3},
		{name: "small: one record, self-loop", process: [2]*kintone.Process{loop()},
			records: []int8{0, 0}, actions: []string{"Touch", "Touch"}, batch: 1, faults: 2, foreign: 1, crashes: 1, weight: 3},
		{name: "small: two records", process: [2]*kintone.Process{round()},
			records: []int8{0, 1}, actions: []string{"Go", "Go"}, batch: 2, faults: 1, foreign: 1, crashes: 1, weight: 3},
		{name: "small: two records and people", process: [2]*kintone.Process{round()},
			records: []int8{0, 1}, actions: []string{"Go", "Go"}, batch: 2, faults: 1, foreign: 2, crashes: 0, weight: 3},
		{name: "small: two records, everybody", process: [2]*kintone.Process{all()},
			records: []int8{0, 1}, actions: []string{"Go", "Go"}, batch: 2, faults: 1, foreign: 1, crashes: 0, weight: 3},
		{name: "small: two records, shared", process: [2]*kintone.Process{round()}, shared: true,
			records: []int8{0, 1}, actions: []string{"Go", "Go"}, batch: 2, faults: 1, foreign: 1, crashes: 1, weight: 3},
		{name: "small: three records in halves", process: [2]*kintone.Process{round()}, poison: 1,
			records: []int8{0, 1, 2}, actions: []string{"Go", "Go", "Go"}, batch: 3, faults: 1, foreign: 0, crashes: 0, weight: 3},
		{name: "small: poison alone", process: [2]*kintone.Process{round()}, poison: 0,
			records: []int8{0, 0}, actions: []string{"Go", "Back"}, batch: 1, faults: 1, foreign: 1, crashes: 1, weight: 3},
		{name: "small: two records, one poisoned", process: [2]*kintone.Process{round()}, poison: 1,
			records: []int8{0, 1}, actions: []string{"Go", "Go"}, batch: 2, faults: 1, foreign: 1, crashes: 0, weight: 3},
		{name: "small: two records, one poisoned, an owner dies", process: [2]*kintone.Process{round()}, poison: 1,
			records: []int8{0, 1}, actions: []string{"Go", "Go"}, batch: 2, faults: 1, foreign: 0, crashes: 1, weight: 3},
		{name: "small: parts of parts", process: [2]*kintone.Process{round()},
			records: []int8{0, 1, 2, 0}, actions: []string{"Go", "Go", "Go", "Back"}, batch: 3, faults: 2, foreign: 0, crashes: 0, weight: 3},
		{name: "small: two records, one hidden", process: [2]*kintone.Process{round()}, hides: true,
			records: []int8{0, 1}, actions: []string{"Go", "Go"}, batch: 2, faults: 2, foreign: 2, crashes: 0, weight: 3},
		{name: "small: an admin takes the way back away", process: [2]*kintone.Process{round(), later(workflow("", edge("Go", "A", "B")))},
			records: []int8{0}, actions: []string{"Go"}, batch: 1, faults: 1, foreign: 2, crashes: 0, weight: 3},
		{name: "small: our name is not left", process: [2]*kintone.Process{round()}, mark: markNotOurs,
			records: []int8{0, 1}, actions: []string{"Go", "Go"}, batch: 2, faults: 1, foreign: 1, crashes: 0, weight: 3},

		{name: "one way", process: [2]*kintone.Process{oneWay()},
			records: []int8{0, 1, 0}, actions: []string{"Go", "Go", "Next"}, batch: 2, faults: 2, foreign: 2, crashes: 1, weight: 3},
		{name: "one way, owners die twice", process: [2]*kintone.Process{oneWay()},
			records: []int8{0, 1}, actions: []string{"Go", "Go"}, batch: 2, faults: 2, foreign: 1, crashes: 2, weight: 2},
		{name: "round", process: [2]*kintone.Process{round()},
			records: []int8{0, 1, 0, 0}, actions: []string{"Go", "Go", "Back", "Go"}, batch: 2, faults: 2, foreign: 2, crashes: 1, weight: 4},
		{name: "round, owners die twice", process: [2]*kintone.Process{round()},
			records: []int8{0, 0, 1}, actions: []string{"Go", "Back", "Go"}, batch: 2, faults: 2, foreign: 1, crashes: 2, weight: 3},
		{name: "self-loop", process: [2]*kintone.Process{loop()},
			records: []int8{0, 1, 0, 1}, actions: []string{"Touch", "Touch", "Touch", "Touch"}, batch: 2, faults: 2, foreign: 2, crashes: 1, weight: 4},
		{name: "self-loop, one record", process: [2]*kintone.Process{loop()},
			records: []int8{0, 0, 0}, actions: []string{"Touch", "Touch", "Touch"}, batch: 1, faults: 3, foreign: 2, crashes: 2, weight: 3},
		{name: "everybody must act", process: [2]*kintone.Process{all()},
			records: []int8{0, 1, 0}, actions: []string{"Go", "Go", "Back"}, batch: 2, faults: 2, foreign: 2, crashes: 1, weight: 3},
		{name: "three records in halves", process: [2]*kintone.Process{round()},
			records: []int8{0, 1, 2, 0}, actions: []string{"Go", "Go", "Go", "Back"}, batch: 3, faults: 3, foreign: 1, crashes: 0, weight: 4},
		{name: "three records, an owner dies", process: [2]*kintone.Process{round()},
			records: []int8{0, 1, 2}, actions: []string{"Go", "Go", "Go"}, batch: 3, faults: 2, foreign: 1, crashes: 1, weight: 4},
		{name: "a poisoned record", process: [2]*kintone.Process{round()}, poison: 1,
			records: []int8{0, 1, 2}, actions: []string{"Go", "Go", "Go"}, batch: 3, faults: 2, foreign: 1, crashes: 1, weight: 4},
		{name: "a poisoned record alone", process: [2]*kintone.Process{loop()}, poison: 0,
			records: []int8{0, 0}, actions: []string{"Touch", "Touch"}, batch: 1, faults: 2, foreign: 2, crashes: 2, weight: 2},
		{name: "shared identity", process: [2]*kintone.Process{round()}, shared: true,
			records: []int8{0, 1, 0}, actions: []string{"Go", "Go", "Back"}, batch: 2, faults: 2, foreign: 2, crashes: 1, weight: 3},
		{name: "nobody knows whether our name is left", process: [2]*kintone.Process{round()}, mark: markUnseen,
			records: []int8{0, 1, 0}, actions: []string{"Go", "Go", "Back"}, batch: 2, faults: 2, foreign: 2, crashes: 1, weight: 2},
		{name: "our name is not left", process: [2]*kintone.Process{round()}, mark: markNotOurs,
			records: []int8{0, 1, 0}, actions: []string{"Go", "Go", "Back"}, batch: 2, faults: 2, foreign: 2, crashes: 1, weight: 2},
		{name: "an admin adds a way back", process: [2]*kintone.Process{oneWay(), later(oneWay(), edge("Back", "B", "A"))},
			records: []int8{0, 1, 0}, actions: []string{"Go", "Go", "Next"}, batch: 2, faults: 2, foreign: 3, crashes: 1, weight: 3},
		{name: "an admin lets everybody act", process: [2]*kintone.Process{round(), later(all())},
			records: []int8{0, 1}, actions: []string{"Go", "Go"}, batch: 2, faults: 2, foreign: 3, crashes: 1, weight: 2},
		{name: "the second job must wait for a person", process: [2]*kintone.Process{oneWay()},
			records: []int8{0, 0, 1}, actions: []string{"Next", "Go", "Go"}, batch: 2, faults: 2, foreign: 2, crashes: 1, weight: 2, waits: true},
	}
	for i := range list {
		s := &list[i]
		if !strings.Contains(s.name, "poison") {
			s.poison = -1
		}
		switch {
		case strings.HasSuffix(s.name, "nobody knows whether our name is left"):
			s.leaves = true
		case strings.HasSuffix(s.name, "our name is not left"):
			s.leaves = false
		default:
			s.mark, s.leaves = markOurs, true
		}
	}
	return list
}

func (x *explorer) start() xWorld {
	w := xWorld{faults: x.faults, foreign: x.foreign, crashes: x.crashes}
	for i := range w.records {
		w.records[i] = xRecord{revision: 1, status: x.first}
	}
	return w
}

// kintoneActs carries out what is in the air, or loses it.
func (x *explorer) kintoneActs(w *xWorld, emit func(func() string, *xWorld, string)) {
	for at := range w.copies {
		c := w.copies[at]
		if c.mask == 0 {
			continue
		}
		n := int(c.await) - 1
		several := c.mask&(c.mask-1) != 0
		without := *w // this copy is gone
		without.copies[at] = xCopy{}

		// answer lets the owner hear, if one waits.
		answer := func(from xWorld, broken, what string, err error, revisions []int64) {
			said := func() string { return fmt.Sprintf("jobs %s: %s", jobsOf(c.mask), what) }
			if n < 0 {
				emit(said, &from, broken)
				return
			}
			next := from
			broken = cmp.Or(broken, x.hear(&next, n, err, revisions, false))
			emit(said, &next, broken)
		}
		// lose leaves the owner without an answer.
		lose := func(from xWorld, broken, what string, err error) {
			if n < 0 || from.faults == 0 {
				return
			}
			from.faults--
			next := from
			emit(func() string { return fmt.Sprintf("jobs %s: %s", jobsOf(c.mask), what) }, &next, cmp.Or(broken, x.hear(&next, n, err, nil, false)))
			if several {
				next := from
				emit(func() string { return fmt.Sprintf("jobs %s: %s, once too often", jobsOf(c.mask), what) }, &next, cmp.Or(broken, x.hear(&next, n, err, nil, true)))
			}
		}

		if refusals := x.refusals(w, c); len(refusals) == 0 {
			for _, way := range x.ways(w, c) {
				next := without
				broken, revisions := x.commit(&next, c, way)
				answer(next, broken, "carried out", nil, revisions)
				lose(next, broken, "carried out, the answer is lost", unanswered)
				if n >= 0 && next.faults > 0 {
					next.faults--
					answer(next, broken, "carried out, and refused when a proxy sent it again", x.refusal(xConflict, 0), nil)
				}
			}
		} else {
			for _, r := range refusals {
				answer(without, "", "refused", x.refusal(r.kind, r.record), nil)
			}
			lose(without, "", "refused, the answer is lost", unanswered)
		}
		if n >= 0 {
			late := *w
			late.copies[at].await = 0
			lose(late, "", "no answer, and still under way", unanswered)
			lose(without, "", "not sent", &kintone.Error{Op: "PUT records/status.json", App: 5, NotSent: true, Err: errNoAnswer})
			lose(without, "", "refused for a lock", x.refusal(xLocked, 0))
		} else if !slices.ContainsFunc(w.copies[:], func(c xCopy) bool { return c.mask == 0 }) {
			emit(func() string { return fmt.Sprintf("jobs %s: an old copy is lost for good", jobsOf(c.mask)) }, &without, "") // for want of room
		}
	}
	if w.mayAge() {
		next := *w
		next.copies = [xCopies]xCopy{}
		for i := range next.flights {
			if next.flights[i].q.n > 0 {
				next.flights[i].q.early = true
			}
			for k := range next.flights[i].parts {
				if p := &next.flights[i].parts[k]; p.doubt == 1 {
					p.doubt = 2
				}
			}
		}
		emit(func() string { return "the window passes: what was under way is lost for good" }, &next, "")
	}
}

var unanswered = &kintone.Error{Op: "PUT records/status.json", App: 5, Status: 500, Code: "CB_XX01", MayHaveActed: true}

type xRefusal struct {
	kind   int8
	record int64
}

// refusals are the reasons that kintone could give; none = it carries the copy out. Which of several it gives is not
// documented.
func (x *explorer) refusals(w *xWorld, c xCopy) []xRefusal {
	var out []xRefusal
	add := func(r xRefusal) {
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	for i := range x.jobs {
		if c.mask&(1<<i) == 0 {
			continue
		}
		r := w.records[x.setting.records[i]]
		switch {
		case r.gone || r.hidden:
			add(xRefusal{xGone, x.jobs[i].Record})
			add(xRefusal{xGone, 0})
		case r.revision != c.pin[i]:
			add(xRefusal{xConflict, 0})
			if len(x.real(w).ActionsFrom(xStates[r.status], x.jobs[i].Action)) == 0 {
				add(xRefusal{xStatus, 0})
			}
		case len(x.real(w).ActionsFrom(xStates[r.status], x.jobs[i].Action)) == 0:
			add(xRefusal{xStatus, 0})
		case x.poison == x.setting.records[i] && !w.cured:
			add(xRefusal{xOdd, 0})
		}
	}
	return out
}

// xWay is how an action changes a record where everybody must act.
type xWay struct {
	step int8
	move bool
}

func (x *explorer) ways(w *xWorld, c xCopy) []xWay {
	for i := range x.jobs {
		if c.mask&(1<<i) != 0 && x.everybody(w, w.records[x.setting.records[i]].status) {
			return []xWay{{2, true}, {1, false}, {2, false}}
		}
	}
	return []xWay{{2, true}}
}

func (x *explorer) everybody(w *xWorld, status int8) bool {
	return x.real(w).States[xStates[status]].Assignee.Type == kintone.AssigneeAll
}

// commit carries a copy out.
func (x *explorer) commit(w *xWorld, c xCopy, way xWay) (broken string, revisions []int64) {
	for i := range x.jobs {
		if c.mask&(1<<i) == 0 {
			continue
		}
		r := &w.records[x.setting.records[i]]
		step := xWay{2, true}
		if x.everybody(w, r.status) {
			step = way
		}
		a := x.real(w).ActionsFrom(xStates[r.status], x.jobs[i].Action)[0]
		r.revision += step.step
		if step.move {
			r.status = int8(slices.Index(xStates, a.To))
		}
		if x.leaves {
			r.ours = true
		}
		revisions = append(revisions, int64(r.revision))
		broken = cmp.Or(broken, x.committed(w, i))
	}
	return broken, revisions
}

// committed holds what must never happen at kintone.
func (x *explorer) committed(w *xWorld, job int) string {
	j := &w.jobs[job]
	j.commits++
	switch {
	case j.commits > 1:
		return fmt.Sprintf("job %d is carried out twice", job+1)
	case j.end == xDead || j.end == xAlready:
		return fmt.Sprintf("job %d is carried out although it was said not to be", job+1)
	}
	for i := range x.jobs {
		if x.setting.records[i] != x.setting.records[job] {
			continue
		}
		switch {
		case i > job && w.jobs[i].commits > 0 && j.end != xUnknown:
			return fmt.Sprintf("job %d is carried out after job %d of the same record", job+1, i+1)
		case i < job && w.jobs[i].end == xOpen:
			return fmt.Sprintf("job %d is carried out before job %d of the same record has ended", job+1, i+1)
		}
	}
	return ""
}

// ends holds what must never be said.
func (w *xWorld) ends(job int, end xEnd) string {
	j := &w.jobs[job]
	j.end = end
	switch {
	case end == xApplied && j.commits == 0:
		return fmt.Sprintf("job %d is said to be applied, and was not carried out", job+1)
	case (end == xDead || end == xAlready) && j.commits > 0:
		return fmt.Sprintf("job %d is said not to have been carried out, and was", job+1)
	}
	return ""
}

// blames holds that a job dies for something of its own, and not with its companions.
func (x *explorer) blames(w *xWorld, job int) string {
	at := x.setting.records[job]
	r := w.records[at]
	if x.poison == at || x.hides || w.edited || r.gone || r.touched > 0 || x.waits {
		return ""
	}
	for i := range job {
		if x.setting.records[i] == at && w.jobs[i].end != xApplied {
			return ""
		}
	}
	return fmt.Sprintf("job %d is said to be dead, and nothing was wrong with it", job+1)
}

// excuses holds that unknown is said only where nothing can decide.
func (x *explorer) excuses(w *xWorld, n, job int) string {
	r := w.records[x.setting.records[job]]
	if x.shared || !x.leaves || w.edited || r.gone || r.hidden || x.hides || r.touched > w.flights[n].pin[job] {
		return ""
	}
	return fmt.Sprintf("job %d is said to be unknown, and nobody else touched its record", job+1)
}

// othersAct are people, robots and admins.
func (x *explorer) othersAct(w *xWorld, emit func(func() string, *xWorld, string)) {
	if w.foreign == 0 {
		return
	}
	spent := *w
	spent.foreign--
	for i := range w.records {
		if w.over(len(x.jobs)) || !slices.Contains(x.setting.records, int8(i)) || w.records[i].gone {
			continue
		}
		change := func(what string, step, status int8) {
			for _, ours := range []bool{false, true} {
				if ours && !x.shared {
					continue
				}
				next := spent
				r := &next.records[i]
				r.revision += step
				r.status, r.ours, r.touched = status, ours, r.revision
				emit(func() string { return fmt.Sprintf("somebody %s record %d", what, i+1) }, &next, "")
			}
		}
		status := w.records[i].status
		change("edits", 1, status)
		for _, a := range x.real(w).Actions {
			if a.From != xStates[status] {
				continue
			}
			change("runs "+a.Name+" on", 2, int8(slices.Index(xStates, a.To)))
			if x.everybody(w, status) {
				change("is one of those who run "+a.Name+" on", 1, status)
			}
		}
		if x.hides {
			next := spent
			next.records[i].hidden = !w.records[i].hidden
			emit(func() string { return fmt.Sprintf("an admin hides or shows record %d", i+1) }, &next, "")
		}
		next := spent
		next.records[i] = xRecord{gone: true}
		emit(func() string { return fmt.Sprintf("somebody deletes record %d", i+1) }, &next, "")
	}
	if x.process[1] != x.process[0] && !w.edited {
		next := spent
		next.edited = true
		emit(func() string { return "an admin edits the process" }, &next, "")
	}
	if x.poison >= 0 && !w.cured {
		next := spent
		next.cured = true
		emit(func() string { return fmt.Sprintf("an admin cures record %d", x.poison+1) }, &next, "")
	}
}

// ownersDie ends the owner at any moment; the next one inherits what stands in the ledger. One that only sleeps may wake
// later and send what it was about to.
func (x *explorer) ownersDie(w *xWorld, emit func(func() string, *xWorld, string)) {
	if w.crashes == 0 {
		return
	}
	next := *w
	next.crashes--
	next.cached = w.edited
	for i := range next.copies {
		next.copies[i].await = 0
	}
	for i := range next.jobs {
		next.jobs[i].pin, next.jobs[i].pinStatus, next.jobs[i].pinOurs = 0, 0, false
	}
	for n := range next.flights {
		f := &next.flights[n]
		if !f.used {
			continue
		}
		in := x.flight(w, n)
		// The parts went through the slot and back.
		x.store(&next, n, inherit(n, *in.request(), x.now))
		f.inherited, f.phase = true, waiting
	}
	emit(func() string { return "the owner dies, another takes over" }, &next, "")
	for n := range w.flights {
		for _, p := range w.flights[n].parts {
			at := slices.IndexFunc(next.copies[:], func(c xCopy) bool { return c.mask == 0 })
			if p.mask == 0 || at < 0 {
				continue
			}
			asleep := next
			asleep.copies[at] = xCopy{mask: p.mask}
			for i := range x.jobs {
				if p.mask&(1<<i) != 0 {
					asleep.copies[at].pin[i] = w.flights[n].pin[i]
				}
			}
			emit(func() string {
				return fmt.Sprintf("the owner falls asleep about to send jobs %s, another takes over", jobsOf(p.mask))
			}, &asleep, "")
		}
	}
}
