package dispatch

import (
	"testing"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

func TestABatchLeavesWhenItIsFullOrWhenWaitingIsOfNoUse(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fit    int
		most   int
		out    int
		more   bool
		leaves bool
	}{
		{"nothing to send", 0, 100, 0, false, false},
		{"nothing to send, and more is coming", 0, 100, 0, true, false},
		{"a lone job with nothing out", 1, 100, 0, false, true},
		{"a lone job while more is coming", 1, 100, 0, true, false},
		{"a lone job while a request is out", 1, 100, 1, false, false},
		{"99 jobs while a request is out", 99, 100, 1, false, false},
		{"a full batch while requests are out and more is coming", 100, 100, 3, true, true},
		{"more than a batch", 250, 100, 3, true, true},
		{"one record at a time", 1, 1, 3, true, true},
	} {
		if got := mayLeave(tt.fit, tt.most, tt.out, tt.more); got != tt.leaves {
			t.Errorf("%s: leaves %t, want %t", tt.name, got, tt.leaves)
		}
	}
}

func TestAReadLeavesWhenItIsFullOrWhenNothingElseCouldBeDone(t *testing.T) {
	for _, tt := range []struct {
		name   string
		unread int
		out    int
		fit    int
		more   bool
		leaves bool
	}{
		{"nothing to read", 0, 0, 0, false, false},
		{"one record with nothing else to do", 1, 0, 0, false, true},
		{"one record while more jobs are coming", 1, 0, 0, true, false},
		{"one record while a request is out", 1, 1, 0, false, false},
		{"one record while others can be sent", 1, 0, 7, false, false},
		{"499 records while others can be sent", 499, 2, 7, true, false},
		{"500 records, whatever else there is", 500, 4, 300, true, true},
	} {
		if got := mayRead(tt.unread, kintone.MaxRecords, tt.out, tt.fit, tt.more); got != tt.leaves {
			t.Errorf("%s: leaves %t, want %t", tt.name, got, tt.leaves)
		}
	}
}

func TestARefusalCostsTheCulpritAndNotItsCompanions(t *testing.T) {
	for _, tt := range []struct {
		name string
		r    refusal
		want nextStep
	}{
		{"nobody is named: once more, to be sure", refusal{size: 100, settled: true}, sendAgain},
		{"and once more was refused, too: halves", refusal{size: 100, again: true, settled: true}, halve},
		{"two are left, nobody is named", refusal{size: 2, again: true}, halve},
		{"one is suspected: it waits, the others go", refusal{size: 100, suspects: 1, settled: true}, splitOff},
		{"99 are suspected", refusal{size: 100, suspects: 99}, splitOff},
		{"one is suspected, while a copy may be about: splitting is safe all the same", refusal{size: 100, suspects: 1}, splitOff},
		{"all are suspected: nobody to let go first", refusal{size: 100, suspects: 100, settled: true}, giveUp},
		{"all are suspected while a copy may be about", refusal{size: 100, suspects: 100, again: true}, sendAgain},
		{"a lone one, for whatever reason", refusal{size: 1, settled: true}, giveUp},
		{"a lone one, again", refusal{size: 1, suspects: 1, again: true, settled: true}, giveUp},
		{"a lone one while a copy may be about", refusal{size: 1, suspects: 1, again: true}, sendAgain},
		{"a revision that kintone says has moved and the read does not show", refusal{size: 1, settled: true, lag: true}, sendAgain},
		{"the same, with somebody suspected", refusal{size: 100, suspects: 1, again: true, settled: true, lag: true}, sendAgain},
	} {
		if got := afterRefusal(tt.r); got != tt.want {
			t.Errorf("%s: step %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestNobodyIsGivenUpWhileACopyMayBeAbout(t *testing.T) {
	for size := 1; size <= 4; size++ {
		for suspects := 0; suspects <= size; suspects++ {
			for flags := range 8 {
				r := refusal{size: size, suspects: suspects, again: flags&1 != 0, settled: flags&2 != 0, lag: flags&4 != 0}
				switch step := afterRefusal(r); {
				case step == giveUp && (!r.settled || r.lag || size > 1 && suspects < size):
					t.Errorf("%+v is given up", r)
				case (step == halve || step == splitOff) && size == 1:
					t.Errorf("%+v is cut although it is one", r)
				case step == splitOff && (suspects == 0 || suspects == size):
					t.Errorf("%+v is split into all and nobody", r)
				}
			}
		}
	}
}

func TestAMemberTakesItsPinFromTheReadAndItsEdgeFromTheFinding(t *testing.T) {
	j := job(4, "Start")
	j.Assignee, j.Campaign, j.Revision = "sato", "november", 12
	planned := &task{
		seq: 9, id: "j4", record: 4, job: &j, parked: 33, attempts: make([]queue.Attempt, 2),
		pin: &kintone.Record{ID: 4, Revision: 12, Status: "New"}, pinAt: time.Now(),
		found: &finding{fate: fit, action: edge("Start", "New", "Working"), step: 2, settings: 7},
	}
	want := queue.Member{Seq: 9, Job: "j4", Record: 4, Pin: 12, Action: "Start", Assignee: "sato", From: "New", To: "Working",
		Step: 2, Campaign: "november", Attempts: 2, Parked: 33}
	if got := members([]*task{planned}); len(got) != 1 || got[0] != want {
		t.Errorf("the members are %+v, want %+v", got, want)
	}
}
