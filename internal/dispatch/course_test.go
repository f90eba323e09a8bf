package dispatch

import (
	"testing"
	"time"

	"statusq/internal/queue"
)

// A part of a part may have been executed by a copy of the part that it was cut from, which outlives the whole: it is not
// free when the whole turns out to be dead.
func TestAPartOfAPartThatWasSentIsNotReleasedWithTheWhole(t *testing.T) {
	now := time.Now()
	unclear := judgement{known: unclear, charge: chargeApp}
	f := &flight{parts: []*part{{members: []queue.Member{{Seq: 1}, {Seq: 2}, {Seq: 3}}}}}
	f.answered(unclear, time.Time{}, now)
	f.halve() // 1 | 2 3
	f.parts[0], f.parts[1] = f.parts[1], f.parts[0]
	f.answered(unclear, time.Time{}, now)
	f.halve() // 2 | 3 | 1
	f.parts = append(f.parts[2:], f.parts[:2]...)
	ends := f.landed([]int64{3})
	if len(ends) != 1 || len(f.parts) != 2 {
		t.Errorf("with record 1, %d members left and %d parts stay: 2 and 3 may still be executed together", len(ends), len(f.parts))
	}
}

// A part that never left on its own may have left with the whole.
func TestAPartIsNotTakenForOneThatNeverLeft(t *testing.T) {
	now := time.Now()
	f := &flight{parts: []*part{{members: []queue.Member{{Seq: 1}, {Seq: 2}}}}}
	f.answered(judgement{known: unclear, charge: chargeApp}, time.Time{}, now)
	f.halve()
	f.parts = f.parts[1:] // the first ended unknown
	if h := f.answered(judgement{known: notSent, charge: chargeSite}, time.Time{}, now); h == heardNeverLeft {
		t.Error("the slot would be freed, and the member planned afresh, although the whole was sent")
	}
}
