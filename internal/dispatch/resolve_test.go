package dispatch

import (
	"encoding/binary"
	"fmt"
	"testing"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// workflow makes process settings of the statuses A, B, C; those named in all are for everybody to act in.
func workflow(all string, actions ...kintone.Action) *kintone.Process {
	p := &kintone.Process{Enabled: true, Revision: 7, States: make(map[string]kintone.State), Actions: actions}
	for i, name := range []string{"A", "B", "C"} {
		rule := kintone.AssigneeRule{Type: kintone.AssigneeOne}
		if name == all {
			rule = kintone.AssigneeRule{Type: kintone.AssigneeAll, Entities: []kintone.Entity{{Type: kintone.EntityUser, Code: "us"}}}
		}
		p.States[name] = kintone.State{Name: name, Index: i, Assignee: rule}
	}
	return p
}

func edge(name, from, to string) kintone.Action {
	return kintone.Action{Name: name, From: from, To: to, Type: kintone.ActionPrimary}
}

// oneWay can only go on, cyclic comes round again.
func oneWay() *kintone.Process { return workflow("", edge("Go", "A", "B"), edge("Next", "B", "C")) }
func cyclic() *kintone.Process {
	return workflow("", edge("Go", "A", "B"), edge("Next", "B", "C"), edge("Back", "C", "A"))
}

// going is a member at pin 10 whose action leads from A to B.
func going(record int64) queue.Member {
	return queue.Member{Seq: uint64(record), Job: fmt.Sprintf("j%d", record), Record: record, Pin: 10, Action: "Go", From: "A", To: "B", Step: revisionStep}
}

// at is a record as a read shows it.
func at(revision int64, status, modifier string) seen {
	return seen{exists: true, revision: revision, status: status, modifier: modifier}
}

var gone seen

// What the rules of docs/design.md section 4 make of each thing that can be seen. Two members at pin 10, unless said
// otherwise; the evidence is that of a lane whose answer was lost and that knows all there is to know.
func TestResolveFollowsTheRules(t *testing.T) {
	still, ours, theirs := at(10, "A", "sato"), at(12, "B", "us"), at(11, "A", "sato")
	reads := func(s ...seen) []seen { return s }
	tests := []struct {
		name          string
		first, second []seen
		change        func(*evidence, []queue.Member)
		want          decision
	}{
		// Nobody moved.
		{"nobody moved: a copy may still come", reads(still, still), nil, nil, undecided},
		{"nobody moved, and one is gone: the other may still move", reads(still, gone), nil, nil, undecided},
		{"nobody moved, nothing ever in doubt: refused again and again is not a proof", reads(still, still), nil, certain, undecided},

		// A change that leaves no room.
		{"one was edited: no room for two steps", reads(theirs, still), nil, nil, notApplied},
		{"one was edited and the other is gone", reads(theirs, gone), nil, nil, notApplied},
		{"one was edited, shared identity", reads(theirs, still), nil, shared, notApplied},
		{"one was edited, settings not known: the read has to be repeated", reads(theirs, still), nil, noGraph, readAgain},
		{"two steps by somebody else", reads(at(12, "B", "sato"), still), nil, nil, notApplied},
		{"two steps by somebody else, and nobody knows yet whether our actions leave our name", reads(at(12, "B", "sato"), still), nil, markless, readAgain},
		{"two steps by somebody else, and our actions do not leave our name", reads(at(12, "B", "sato"), still), nil, unmarking, readAgain},
		{"three steps by somebody else may hold our two", reads(at(13, "B", "sato"), at(12, "B", "sato")), nil, markless, unknown},
		{"a status that our action cannot have led to in the room left", reads(at(13, "A", "sato"), at(13, "B", "sato")), nil, nil, notApplied},
		{"a status that needs one action more than there is room for", reads(at(13, "C", "sato"), at(14, "B", "sato")), nil, nil, notApplied},
		{"a status that one action more leads to", reads(at(14, "C", "sato"), at(14, "B", "sato")), nil, nil, unknown},
		{"a status that a round trip leads to", reads(at(16, "A", "sato"), at(14, "B", "sato")), nil, cycle, unknown},
		{"a status that a round trip leads to, but not so fast", reads(at(15, "A", "sato"), at(14, "B", "sato")), nil, cycle, notApplied},
		{"a status that cannot be seen proves nothing", reads(at(14, "", "sato"), at(14, "B", "sato")), nil, nil, unknown},
		{"what the second read shows proves as much", reads(at(12, "B", "us"), still), reads(at(12, "B", "us"), theirs), nil, notApplied},
		{"what the first read showed is not forgotten", reads(theirs, still), reads(at(14, "B", "sato"), at(14, "B", "sato")), nil, notApplied},

		// One moved and another did not.
		{"one moved, another stands at its pin: read in the wrong order, perhaps", reads(ours, still), nil, nil, readAgain},
		{"and still does after the move had been seen", reads(ours, still), reads(ours, still), nil, notApplied},
		{"and still does, shared identity", reads(ours, still), reads(ours, still), shared, notApplied},
		{"and still does, settings not known", reads(ours, still), reads(ours, still), noGraph, notApplied},
		{"and has moved meanwhile, too", reads(ours, still), reads(ours, at(12, "B", "us")), nil, applied},
		{"nobody had moved at first, one has since: only a later read can tell", reads(still, still), reads(ours, still), nil, readAgain},
		{"the one that moved is gone: the other may still move", reads(ours, still), reads(gone, still), nil, undecided},

		// Everybody moved.
		{"everybody stands where our action leads, by our hand", reads(ours, ours), nil, nil, applied},
		{"one does, the other was changed since", reads(at(13, "B", "sato"), ours), nil, nil, applied},
		{"one did in the first read, and was changed before the second", reads(ours, still), reads(at(13, "B", "sato"), at(13, "B", "sato")), nil, applied},
		{"one does, the other is gone", reads(gone, ours), nil, nil, applied},
		{"by our hand, but further than our action leads", reads(at(14, "B", "us"), at(14, "B", "us")), nil, cycle, unknown},
		{"by our hand, in a status that only another action of the same length leads to", reads(at(12, "C", "us"), at(13, "B", "sato")), nil, noGraph, unknown},
		{"our name is not left by our actions, so it proves nothing", reads(ours, ours), nil, unmarking, unknown},
		{"our name, which no action of ours was seen to leave yet", reads(ours, ours), nil, markless, applied},
		{"our name is not ours alone", reads(ours, ours), nil, shared, unknown},
		{"settings not known: the name and the status are enough", reads(ours, ours), nil, noGraph, applied},
		{"everybody was changed by somebody else since", reads(at(13, "B", "sato"), at(13, "B", "sato")), nil, nil, unknown},

		// Everybody is gone. A record that is only hidden from us keeps its pin.
		{"everybody is gone, and an answer was lost", reads(gone, gone), nil, nil, unknown},
		{"everybody is gone, and every copy was refused", reads(gone, gone), nil, certain, notApplied},

		// Where everybody must act, one action raises the revision by one or by two, and the status stays or goes.
		{"ALL: one step by our hand", reads(at(11, "A", "us"), at(11, "A", "us")), nil, everybody, applied},
		{"ALL: two steps by our hand, the status stays", reads(at(12, "A", "us"), at(11, "A", "us")), nil, everybody, applied},
		{"ALL: the last of them moves the status", reads(at(12, "B", "us"), at(12, "B", "us")), nil, everybody, applied},
		{"ALL: three steps are not ours alone", reads(at(13, "A", "us"), at(13, "A", "us")), nil, everybody, unknown},
		{"ALL: one step by somebody else", reads(at(11, "A", "sato"), still), nil, everybody, notApplied},
		{"ALL: two steps, the last by somebody else, may be ours and theirs", reads(at(12, "A", "sato"), at(12, "A", "sato")), nil, everybody, unknown},
		{"ALL: a status that is far away proves nothing", reads(at(12, "C", "sato"), at(12, "A", "sato")), nil, everybody, unknown},
		{"ALL: one moved, another not, also after it had been seen", reads(at(11, "A", "us"), still), reads(at(11, "A", "us"), still), everybody, notApplied},
		{"ALL elsewhere: others may have needed one step per action", reads(at(13, "C", "sato"), at(13, "B", "sato")), nil, elsewhere, unknown},
		{"ALL elsewhere: but not less", reads(at(12, "C", "us"), at(13, "B", "sato")), nil, elsewhere, notApplied},

		// Reads that cannot be.
		{"older than the pin: a stale read", reads(at(9, "A", "sato"), still), nil, nil, undecided},
		{"older than the pin, beside one that moved far enough", reads(at(9, "A", "sato"), ours), nil, nil, undecided},
		{"stale at first, sound then", reads(at(9, "A", "sato"), ours), reads(ours, ours), nil, applied},
		{"sound at first, stale then", reads(ours, still), reads(at(9, "A", "sato"), still), nil, undecided},
		{"the first read lacks a member", reads(ours), nil, nil, undecided},
		{"the second read lacks a member", reads(ours, still), reads(ours), nil, undecided},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			members := []queue.Member{going(1), going(2)}
			ev := evidence{first: tt.first, second: tt.second, us: "us", mark: markOurs, doubt: true, dedicated: true, graph: oneWay()}
			if tt.change != nil {
				tt.change(&ev, members)
			}
			if got, _ := resolve(members, ev); got != tt.want {
				t.Errorf("resolve says %q, want %q", got, tt.want)
			}
		})
	}
}

func certain(ev *evidence, _ []queue.Member)   { ev.doubt = false }
func shared(ev *evidence, _ []queue.Member)    { ev.dedicated = false }
func noGraph(ev *evidence, _ []queue.Member)   { ev.graph = nil }
func markless(ev *evidence, _ []queue.Member)  { ev.mark = markUnseen }
func unmarking(ev *evidence, _ []queue.Member) { ev.mark = markNotOurs }
func cycle(ev *evidence, _ []queue.Member)     { ev.graph = cyclic() }
func elsewhere(ev *evidence, _ []queue.Member) {
	ev.graph = workflow("B", edge("Go", "A", "B"), edge("Next", "B", "C"))
}
func everybody(ev *evidence, ms []queue.Member) {
	ev.graph = workflow("A", edge("Go", "A", "B"), edge("Next", "B", "C"))
	for i := range ms {
		ms[i].Step = 1
	}
}

func TestALoneMemberIsDecidedByItself(t *testing.T) {
	for name, tt := range map[string]struct {
		seen seen
		want decision
	}{
		"at its pin":           {at(10, "A", "sato"), undecided},
		"where we lead it":     {at(12, "B", "us"), applied},
		"edited":               {at(11, "A", "sato"), notApplied},
		"acted on by somebody": {at(12, "B", "sato"), notApplied},
		"changed twice":        {at(13, "B", "sato"), unknown},
		"gone":                 {gone, unknown},
	} {
		ev := evidence{first: []seen{tt.seen}, us: "us", mark: markOurs, doubt: true, dedicated: true, graph: oneWay()}
		if got, _ := resolve([]queue.Member{going(1)}, ev); got != tt.want {
			t.Errorf("%s: resolve says %q, want %q", name, got, tt.want)
		}
	}
}

// truth is a small world of two records with all that can happen to them around a request of ours, and what was read of
// them. It is small so that millions of worlds can be compared.
type truth struct {
	records       [2]standing
	committed     bool
	refused       bool // a copy was executed and refused
	first, second [2]glance
}

type standing struct {
	revision int8
	status   byte // 'A', 'B' or 'C'
	modifier byte
	hidden   bool // from us; its pin lives
	deleted  bool
}

type glance struct {
	done bool
	standing
}

const (
	us     = 'u'
	sato   = 's'
	yamada = 'y' // changed both records before the pins were taken
	pinned = 10
)

func complete(g [2]glance) bool { return g[0].done && g[1].done }

// shown is a read as resolve gets it; nil while it is not complete.
func shown(g [2]glance) []seen {
	if !complete(g) {
		return nil
	}
	out := make([]seen, len(g))
	for i, s := range g {
		if !s.hidden && !s.deleted {
			out[i] = at(int64(s.revision), string(s.status), map[byte]string{us: "us", sato: "sato", yamada: "yamada"}[s.modifier])
		}
	}
	return out
}

// rules are what is so in such a world.
type rules struct {
	graph     *kintone.Process // the action "Go" of our request starts in A
	step      int              // of it, as the members carry it
	marks     bool             // an action leaves its actor's name
	dedicated bool             // nobody else acts in our name
	doubt     bool             // copies may come at any time and any number of times; else one came, was refused, and no other is about
	before    byte             // the modifier that the records had
}

// act runs an action in every way that it may change a record: by how much, and where to.
func (w rules) act(s standing, a kintone.Action, who byte) (ways []standing) {
	if w.marks {
		s.modifier = who
	}
	raise := func(n int8, to byte) {
		way := s
		way.revision, way.status = s.revision+n, to
		ways = append(ways, way)
	}
	raise(2, a.To[0])
	if w.graph.States[a.From].Assignee.Type == kintone.AssigneeAll {
		raise(1, a.To[0])
		raise(1, s.status)
		raise(2, s.status)
	}
	return ways
}

// send executes a copy of our request: wholly or not at all, and only on records at their pins.
func (w rules) send(t truth) (out []truth) {
	if !t.mayCommit() {
		t.refused = true
		return []truth{t}
	}
	ours := w.graph.ActionsFrom("A", "Go")[0]
	for _, a := range w.act(t.records[0], ours, us) {
		for _, b := range w.act(t.records[1], ours, us) {
			next := t
			next.records, next.committed = [2]standing{a, b}, true
			out = append(out, next)
		}
	}
	return out
}

// mayCommit reports whether a copy that came now would commit.
func (t truth) mayCommit() bool {
	a, b := t.records[0], t.records[1]
	return !a.deleted && a.revision == pinned && !b.deleted && b.revision == pinned
}

// others are all that other people can do to record i.
func (w rules) others(t truth, i int) (out []truth) {
	s := t.records[i]
	if s.deleted {
		return nil
	}
	put := func(s standing) {
		next := t
		next.records[i] = s
		out = append(out, next)
	}
	names := []byte{sato}
	if !w.dedicated {
		names = append(names, us)
	}
	for _, who := range names {
		edited := s
		edited.revision, edited.modifier = s.revision+1, who
		put(edited)
		for _, a := range w.graph.Actions {
			if a.From[0] == s.status {
				for _, way := range w.act(s, a, who) {
					put(way)
				}
			}
		}
	}
	deleted, turned := s, s
	deleted.deleted = true
	turned.hidden = !s.hidden
	put(deleted)
	put(turned)
	return out
}

// look reads record i, for the second read only when the first is complete. The first read takes the records in their
// order: the worlds in which it does not are these with the records changed round.
func (t truth) look(i int) (truth, bool) {
	into := &t.first
	if complete(t.first) {
		into = &t.second
	} else if i == 1 && !t.first[0].done {
		return t, false
	}
	if into[i].done {
		return t, false
	}
	into[i] = glance{true, t.records[i]}
	return t, true
}

// explore visits every world that so many events lead to, once each, however the reads lie between them, and holds
// resolve against the truth. It counts what resolve says.
func (w rules) explore(t *testing.T, events int) map[decision]int {
	members := []queue.Member{going(1), going(2)}
	for i := range members {
		members[i].Step = w.step
		members[i].To = w.graph.ActionsFrom("A", "Go")[0].To
	}
	marks := []markKind{markUnseen, markNotOurs}
	if w.marks {
		marks[1] = markOurs
	}
	said, lies := make(map[decision]int), 0
	check := func(now truth) {
		for _, mark := range marks {
			for _, graph := range []*kintone.Process{nil, w.graph} {
				ev := evidence{first: shown(now.first), second: shown(now.second), us: "us", mark: mark, doubt: w.doubt, dedicated: w.dedicated, graph: graph}
				d, _ := resolve(members, ev)
				said[d]++
				lie := ""
				switch {
				case d == applied && !now.committed:
					lie = "our request did not commit"
				case d == notApplied && now.committed:
					lie = "our request did commit"
				case d == notApplied && w.doubt && now.mayCommit():
					lie = "a copy can still commit"
				default:
					continue
				}
				if lies++; lies <= 3 {
					t.Errorf("resolve says %q, but %s: %+v in a world of %+v, with mark %d, graph %t", d, lie, now, w, mark, graph != nil)
				}
			}
		}
	}

	start := standing{revision: pinned, status: 'A', modifier: w.before}
	layer := []truth{{records: [2]standing{start, start}}}
	visited := make(map[truth]bool)
	for n := 0; n <= events; n++ {
		var next []truth
		for len(layer) > 0 {
			now := layer[len(layer)-1]
			layer = layer[:len(layer)-1]
			mayLook := w.doubt || now.refused
			if complete(now.first) && (complete(now.second) || now.second == [2]glance{}) {
				check(now)
			}
			reach := func(into *[]truth, o truth) {
				if !visited[o] {
					visited[o] = true
					*into = append(*into, o)
				}
			}
			for i := range now.records {
				if o, ok := now.look(i); ok && mayLook {
					reach(&layer, o)
				}
				if n < events {
					for _, o := range w.others(now, i) {
						reach(&next, o)
					}
				}
			}
			if n < events && (w.doubt || !now.refused) {
				for _, o := range w.send(now) {
					if w.doubt || !o.committed {
						reach(&next, o)
					}
				}
			}
		}
		layer = next
	}
	return said
}

// Every order of up to so many events (copies of our request, late and repeated; people editing, acting, deleting,
// hiding and showing), with the two reads anywhere between them, one record after the other.
func TestResolveNeverContradictsWhatReallyHappened(t *testing.T) {
	tests := map[string]struct {
		graph  *kintone.Process
		step   int
		events int
	}{
		"a one-way process":            {oneWay(), 2, 3},
		"a cyclic process":             {cyclic(), 2, 3},
		"an action that leads nowhere": {workflow("", edge("Go", "A", "A"), edge("Next", "A", "B")), 2, 3},
		"everybody must act":           {workflow("A", edge("Go", "A", "B"), edge("Back", "B", "A")), 1, 3},
		"everybody must act, later":    {workflow("B", edge("Go", "A", "B"), edge("Next", "B", "C")), 2, 3},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			said := make(map[decision]int)
			for n := range 12 {
				w := rules{graph: tt.graph, step: tt.step, dedicated: n&1 != 0, doubt: n&2 != 0, marks: n&4 != 0, before: yamada}
				if n >= 8 {
					// Only where actions leave names may the records have had ours before: where they do not, it would stay on them
					// whoever acts.
					w.marks, w.before = true, us
				}
				for d, n := range w.explore(t, tt.events) {
					said[d] += n
				}
			}
			for d := undecided; d <= unknown; d++ {
				if said[d] == 0 {
					t.Errorf("resolve never said %q: the search does not bite", d)
				}
			}
		})
	}
}

// FuzzResolve holds that resolve answers everything, the same each time, and leaves what it was given alone.
func FuzzResolve(f *testing.F) {
	f.Add([]byte{2, 0, 1})
	f.Add([]byte("\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12"))
	f.Add([]byte("\x03\x1f\x02\xff\xff\xff\xff\xff\xff\xff\x7f\x00\x00\x00\x00\x00\x00\x00\x80"))
	f.Fuzz(func(t *testing.T, data []byte) {
		take := func() byte {
			if len(data) == 0 {
				return 0
			}
			b := data[0]
			data = data[1:]
			return b
		}
		number := func() int64 {
			if take()%8 != 0 || len(data) < 8 {
				return 8 + int64(take()%8)
			}
			n := int64(binary.LittleEndian.Uint64(data))
			data = data[8:]
			return n
		}
		statuses, names := []string{"A", "B", "C", ""}, []string{"us", "sato", ""}
		var members []queue.Member
		for range take() % 5 {
			members = append(members, queue.Member{Pin: number(), From: statuses[take()%4], To: statuses[take()%4], Step: int(take() % 4)})
		}
		read := func() (r []seen) {
			n := len(members)
			if take()%16 == 0 {
				n = int(take() % 6)
			}
			for range n {
				r = append(r, seen{exists: take()%4 != 0, revision: number(), status: statuses[take()%4], modifier: names[take()%3]})
			}
			return r
		}
		flags := take()
		ev := evidence{us: "us", mark: markKind(flags & 3 % 3), doubt: flags&4 != 0, dedicated: flags&8 != 0, first: read()}
		if flags&16 != 0 {
			ev.second = read()
		}
		ev.graph = []*kintone.Process{nil, oneWay(), cyclic(), workflow("A", edge("Go", "A", "B"))}[flags>>5&3]
		before := fmt.Sprintf("%+v %+v", members, ev)
		d, _ := resolve(members, ev)
		if d < undecided || d > unknown {
			t.Errorf("resolve says %d, which is no decision", d)
		}
		if again, _ := resolve(members, ev); again != d {
			t.Errorf("resolve says %q and then %q", d, again)
		}
		if after := fmt.Sprintf("%+v %+v", members, ev); after != before {
			t.Errorf("resolve changed what it looked at: %s, before %s", after, before)
		}
		if d == applied && (!ev.dedicated || ev.mark == markNotOurs) {
			t.Errorf("resolve says %q by a name that proves nothing", d)
		}
		if d == notApplied && ev.doubt && !anyMoved(members, ev.first) && !anyMoved(members, ev.second) {
			t.Errorf("resolve says %q although nobody was seen to move and a copy may be about", d)
		}
	})
}
