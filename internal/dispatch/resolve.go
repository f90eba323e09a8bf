package dispatch

import (
	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// seen is what one read showed of one member of a request.
type seen struct {
	exists   bool
	revision int64
	status   string
	modifier string
}

// evidence is all that resolve may look at. Reads are in the order of the members.
type evidence struct {
	// first is a read that began after kintone's refusal, or after the last unclear answer.
	first []seen
	// second is a read that began after first had arrived; nil while nobody asked for it.
	second []seen
	// us is the login name that our own actions leave as the modifier.
	us string
	// mark says whether our actions leave us as the modifier, which is not documented. Until it has been seen, "the
	// modifier is somebody else" proves nothing; once the contrary has been seen, "the modifier is us" does not either.
	mark markKind
	// doubt says that some copy of the request met with an unclear answer, or may have been sent by another owner.
	doubt bool
	// dedicated says that nobody else acts under our name (configuration: identity).
	dedicated bool
	// graph is the process as it stood when the pins were taken and still stood after the reads; nil when that cannot be
	// said, and then no conclusion is drawn from statuses or from the size of a step.
	graph *kintone.Process
}

// latest is the last read.
func (ev evidence) latest() []seen {
	if ev.second != nil {
		return ev.second
	}
	return ev.first
}

type markKind uint8

const (
	markUnseen  markKind = iota
	markOurs             // an action of ours left us as the modifier of a record that somebody else had changed last
	markNotOurs          // and once it did not
)

// decision is what the evidence proves about a request: all its members share one fate, because kintone commits a
// request wholly or not at all.
type decision int

const (
	// undecided: nobody moved, so a copy may still commit. The same again.
	undecided decision = iota
	// readAgain: somebody moved and somebody did not; only a read that begins now can tell.
	readAgain
	// applied: our request did it.
	applied
	// notApplied: it did not and never will: every pin of the request is dead.
	notApplied
	// unknown: it may have been executed or not, and nothing that can be read will ever tell.
	unknown
)

func (d decision) String() string {
	return [...]string{"undecided", "read again", "applied", "not applied", "unknown"}[d]
}

// resolve decides what became of a request that may have been executed, from what its members look like now. It relies
// on three facts: at most one request pinned at a revision ever commits; a commit raises every member's revision by
// at least its step; every request that contains these members contains all of them (parts of a request are only ever
// sent with the same pins, so older copies are supersets).
//
// It also says by which rule, for people and for the tests that count.
func resolve(members []queue.Member, ev evidence) (decision, rule) {
	if len(ev.first) != len(members) || ev.second != nil && len(ev.second) != len(members) {
		return undecided, ruleNone
	}
	latest := ev.latest()

	// Proof that it did not happen: a change that leaves no room for ours.
	for i, m := range members {
		if r := noRoom(m, ev.first[i], ev); r != ruleNone {
			return notApplied, r
		}
		if r := noRoom(m, latest[i], ev); r != ruleNone {
			return notApplied, r
		}
	}

	moved, still, gone := 0, 0, 0
	for i, m := range members {
		switch s := latest[i]; {
		case !s.exists:
			gone++ // deleted, or hidden from us: that alone kills no pin
		case s.revision > m.Pin:
			moved++
		case s.revision == m.Pin:
			still++
		default:
			return undecided, ruleNone // older than a revision we have seen: such a read proves nothing
		}
	}
	switch {
	case moved == 0 && still > 0:
		return undecided, ruleNobodyMoved
	case moved == 0 && ev.doubt:
		return unknown, ruleAllGone // nobody is left to tell
	case moved == 0:
		return notApplied, ruleAllGone // refused, never in doubt, and nothing is left that could be done twice
	case still > 0 && (ev.second == nil || !anyMoved(members, ev.first)):
		return readAgain, ruleLeftBehind
	case still > 0:
		// The one was read after the other had been seen to move: a request moves all its members at once.
		return notApplied, ruleLeftBehind
	}

	// Everybody moved far enough. One of them stands exactly where our action leaves it, by our hand.
	if !ev.dedicated {
		return unknown, ruleShared
	}
	for i, m := range members {
		if byUs(m, latest[i], ev) || byUs(m, ev.first[i], ev) {
			return applied, ruleOurHand
		}
	}
	return unknown, ruleOthersSince
}

// rule is what a decision rests on.
type rule string

const (
	ruleNone        rule = ""
	ruleStepTooFew  rule = "changed by less than our action does"
	ruleNotOurHand  rule = "changed by just as much, but last by somebody else"
	ruleOutOfReach  rule = "stands where our action and what followed could not have brought it"
	ruleNobodyMoved rule = "nobody moved"
	ruleAllGone     rule = "all records are gone"
	ruleLeftBehind  rule = "one moved and another, read later, had not"
	ruleOurHand     rule = "all moved, one of them exactly as far as our action does, by our hand"
	ruleShared      rule = "all moved, and others act under our name"
	ruleOthersSince rule = "all were changed by others as well"
)

// noRoom names the rule by which the member was changed in a way that leaves no room for our action.
func noRoom(m queue.Member, s seen, ev evidence) rule {
	if !s.exists || s.revision <= m.Pin {
		return ruleNone
	}
	step := int64(m.Step)
	switch {
	case ev.graph == nil:
		return ruleNone
	case s.revision < m.Pin+step:
		return ruleStepTooFew
	case s.revision == m.Pin+step && ev.mark == markOurs && s.modifier != ev.us:
		return ruleNotOurHand // the last of just these changes is someone else's, and ours would have been all of them
	case step < revisionStep || s.status == "":
		// Where everybody must act (ALL), the status need not have moved with our action, and the room left cannot be
		// counted in actions.
		return ruleNone
	}
	left := int((s.revision - m.Pin - step) / smallestStep(ev.graph))
	if ev.graph.Reaches(m.To, s.status, left) {
		return ruleNone
	}
	return ruleOutOfReach
}

// byUs reports whether the member stands exactly where our action, and nothing after it, leaves a record.
func byUs(m queue.Member, s seen, ev evidence) bool {
	if !s.exists || s.modifier != ev.us || ev.mark == markNotOurs {
		return false
	}
	if m.Step < revisionStep {
		// ALL: an action that does not move the status may raise the revision by one or by two; which is not known.
		return s.revision == m.Pin+1 || s.revision == m.Pin+2
	}
	return s.revision == m.Pin+int64(m.Step) && s.status == m.To
}

// smallestStep is the least by which one action can raise a revision in this process.
func smallestStep(p *kintone.Process) int64 {
	for _, s := range p.States {
		if s.Assignee.Type == kintone.AssigneeAll {
			return 1
		}
	}
	return revisionStep
}

// anyMoved reports whether the read shows a member that has moved past its pin.
func anyMoved(members []queue.Member, read []seen) bool {
	for i, m := range members {
		if read[i].exists && read[i].revision > m.Pin {
			return true
		}
	}
	return false
}

// allStill reports whether the read shows every member at its pin.
func allStill(members []queue.Member, read []seen) bool {
	for i, m := range members {
		if !read[i].exists || read[i].revision != m.Pin {
			return false
		}
	}
	return true
}
