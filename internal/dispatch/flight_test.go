package dispatch

import (
	"maps"
	"slices"
	"testing"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// boarding are n tasks for the records 1 to n, found fit under the given settings.
func boarding(n int, settings int64) []*task {
	tasks := make([]*task, n)
	for i, j := range jobs(n, "Start") {
		tasks[i] = &task{
			seq: uint64(i + 1), id: j.ID, record: j.Record, job: &j, state: stateFlying, inLog: true,
			pin:   &kintone.Record{ID: j.Record, Revision: int64(10 + i), Status: "New"},
			found: &finding{action: edge("Start", "New", "Working"), step: 2, settings: settings},
		}
	}
	return tasks
}

func seqs(ms []queue.Member) (out []uint64) {
	for _, m := range ms {
		out = append(out, m.Seq)
	}
	return out
}

func TestAFlightKnowsTheSettingsOnlyIfAllItsMembersWereJudgedByThem(t *testing.T) {
	tasks := boarding(3, 7)
	if f := newFlight(0, tasks, time.Now()); f.settings != 7 {
		t.Errorf("settings %d, want 7", f.settings)
	}
	tasks[1].found.settings = 8
	if f := newFlight(0, tasks, time.Now()); f.settings != 0 {
		t.Errorf("settings %d of members judged by 7 and 8, want none", f.settings)
	}
}

func TestSplittingKeepsMembersPinsAndDoubt(t *testing.T) {
	now := time.Now()
	f := newFlight(3, boarding(6, 7), now)
	f.parts[0].doubt, f.parts[0].tries, f.parts[0].sends = now, 4, 2
	f.parts[0].last, f.parts[0].moved = judgement{code: "GAIA_CO02"}, true
	before := slices.Clone(f.parts[0].members)

	f.split(before[:2], before[2:])
	f.split(before[:1], before[1:2])
	var after []queue.Member
	for i, p := range f.parts {
		after = append(after, p.members...)
		if p.doubt != now || p.tries != 4 || !p.moved || !p.again {
			t.Errorf("part %d forgot what was known of the whole: %+v", i, p)
		}
		if p.last.code != "" {
			t.Errorf("part %d would be given up for what the whole was refused for", i)
		}
		if p.sends != 0 {
			t.Errorf("part %d was sent %d times, want none on its own", i, p.sends)
		}
	}
	if len(f.parts) != 3 || !slices.Equal(after, before) {
		t.Errorf("%d parts with the members %v, want 3 with %v", len(f.parts), after, before)
	}
	r := f.request()
	if len(r.Parts) != 3 || r.ID != f.id || r.At != now || r.Settings != 7 || r.Parts[2].Unclear != now || !slices.Equal(r.Parts[2].Members, before[2:]) {
		t.Errorf("the slot says %+v", r)
	}
}

func TestPartitionKeepsTheOrderOfSuspectsAndOfTheRest(t *testing.T) {
	ms := members(boarding(5, 7))
	rest, bad := partition(ms, map[int64]finding{2: {}, 5: {}, 99: {}})
	if !slices.Equal(seqs(rest), []uint64{1, 3, 4}) || !slices.Equal(seqs(bad), []uint64{2, 5}) {
		t.Errorf("the rest is %v and the suspects are %v", seqs(rest), seqs(bad))
	}
}

func TestThePartWhoseTimeComesFirstIsAtWork(t *testing.T) {
	now := time.Now()
	f := newFlight(0, boarding(4, 7), now)
	ms := f.parts[0].members
	f.split(ms[:1], ms[1:2], ms[2:3], ms[3:])
	for i, s := range []time.Duration{30, 20, 10, 40} {
		f.parts[i].due = now.Add(s * time.Second)
	}
	var order []uint64
	for range 6 {
		f.turn()
		p := f.parts[0]
		if f.due != p.due {
			t.Errorf("the flight is due at %v, its part at %v", f.due, p.due)
		}
		order = append(order, p.members[0].Seq)
		p.due = p.due.Add(25 * time.Second)
	}
	if want := []uint64{3, 2, 1, 3, 4, 2}; !slices.Equal(order, want) {
		t.Errorf("the parts were at work in the order %v, want %v", order, want)
	}
	f.parts[0].due, f.parts[1].due = now, now
	first := f.parts[0]
	if f.turn(); f.parts[0] != first {
		t.Error("a part gave way to another that is due at the same time")
	}
}

func TestEveryPartOfAnInheritedFlightMayHaveBeenSent(t *testing.T) {
	then, now := time.Now().Add(-time.Hour), time.Now()
	left := newFlight(4, boarding(5, 7), then)
	ms := left.parts[0].members
	left.split(ms[:2], ms[2:])
	f := inherit(4, *left.request(), now)
	if f.id != left.id || f.n != 4 || !f.at.Equal(then) || f.settings != 7 || !f.inherited || f.dead || f.phase != waiting || f.due.After(now) {
		t.Errorf("inherited %+v", f)
	}
	if len(f.parts) != 2 || !slices.Equal(f.parts[0].members, ms[:2]) || !slices.Equal(f.parts[1].members, ms[2:]) {
		t.Fatalf("inherited %d parts with other members or pins", len(f.parts))
	}
	for i, p := range f.parts {
		if p.doubt != now {
			t.Errorf("part %d is in doubt since %v, want since it was taken over", i, p.doubt)
		}
	}
}

func TestSuspectsAreThoseThatTheRefusalOrTheReadSpeaksAgainst(t *testing.T) {
	process, fields := office()
	now := time.Now()
	tests := []struct {
		name   string
		last   judgement
		change func(tasks []*task, read map[int64]*kintone.Record)
		want   map[int64]string // reason by record
	}{
		{"nobody", judgement{reason: ReasonStatusMismatch}, nil, map[int64]string{}},
		{"named by position", judgement{reason: ReasonRefused, indexes: []int{0, 2}}, nil, map[int64]string{1: ReasonRefused, 3: ReasonRefused}},
		{"named by record", judgement{reason: ReasonRecordNotFound, records: []int64{2}}, nil, map[int64]string{2: ReasonRecordNotFound}},
		{"named by the user that is not there", judgement{reason: ReasonAssigneeUnknown, user: "ghost"}, nil, map[int64]string{4: ReasonAssigneeUnknown}},
		{"not there any more", judgement{reason: ReasonRecordNotFound}, func(_ []*task, read map[int64]*kintone.Record) { delete(read, 3) }, map[int64]string{3: ReasonRecordNotFound}},
		{"in another status", judgement{reason: ReasonStatusMismatch}, func(_ []*task, read map[int64]*kintone.Record) { read[1].Status = "All" }, map[int64]string{1: ReasonStatusMismatch}},
		{"where the action would have led", judgement{reason: ReasonStatusMismatch}, func(_ []*task, read map[int64]*kintone.Record) { read[1].Status = "Working" }, map[int64]string{1: ReasonStatusMismatch}},
		{"somebody else's", judgement{reason: ReasonNotAssignee}, func(_ []*task, read map[int64]*kintone.Record) { read[2].Assignees = []string{"sato"} }, map[int64]string{2: ReasonNotAssignee}},
		{"what the job expects of the revision was compared before", judgement{reason: ReasonStatusMismatch}, func(tasks []*task, _ map[int64]*kintone.Record) {
			tasks[0].job.Revision = 3
			tasks[1].job.Expires = now.Add(-time.Hour)
		}, map[int64]string{}},
		{"a job that is gone can be named, but not inspected", judgement{reason: ReasonRecordNotFound, records: []int64{2}}, func(tasks []*task, read map[int64]*kintone.Record) {
			tasks[0].job, tasks[1].job = nil, nil
			delete(read, 1)
		}, map[int64]string{2: ReasonRecordNotFound}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tasks := boarding(4, 7)
			tasks[3].job.Action, tasks[3].job.Assignee = "Ask", "ghost"
			read, byRecord := make(map[int64]*kintone.Record), make(map[int64]*task)
			for _, task := range tasks {
				r := *task.pin
				read[task.record], byRecord[task.record] = &r, task
			}
			if tt.change != nil {
				tt.change(tasks, read)
			}
			p := &part{last: tt.last}
			for _, task := range tasks {
				m := queue.Member{Seq: task.seq, Record: task.record, Pin: task.pin.Revision}
				if task.job != nil {
					m.Assignee = task.job.Assignee
				}
				p.members = append(p.members, m)
			}
			got := make(map[int64]string)
			for record, f := range suspects(p, read, byRecord, process, fields, "us", now) {
				got[record] = f.reason
			}
			if !maps.Equal(got, tt.want) {
				t.Errorf("suspects %v, want %v", got, tt.want)
			}
		})
	}
	p := &part{members: members(boarding(2, 7)), last: judgement{reason: ReasonStatusMismatch}}
	off := *process
	off.Enabled = false
	if got := suspects(p, nil, nil, nil, fields, "us", now); len(got) != 0 {
		t.Errorf("suspects %v without settings or jobs, want none", got)
	}
	one := boarding(1, 7)
	if got := suspects(&part{members: members(one)}, map[int64]*kintone.Record{1: one[0].pin}, map[int64]*task{1: one[0]}, &off, fields, "us", now); len(got) != 0 {
		t.Errorf("suspects %v in an app that cannot act at all, want none", got)
	}
}
