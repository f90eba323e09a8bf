package dispatch

import (
	"statusq/internal/queue"
)

// mayLeave says whether those that are fit may travel now. A batch that is not full leaves only when nothing is out and
// nothing more is coming: so a lone job leaves at once, and batches fill while requests are out.
func mayLeave(fit, most, out int, moreComing bool) bool {
	return fit > 0 && (fit >= most || out == 0 && !moreComing)
}

// mayRead is the same rule for reads of records: 500 of them cost as much as one.
func mayRead(unread, most, out, fit int, moreComing bool) bool {
	return unread > 0 && (unread >= most || out == 0 && fit == 0 && !moreComing)
}

// members writes down who travels with which pin. The tasks are fit and carry the read that says so.
func members(tasks []*task) []queue.Member {
	ms := make([]queue.Member, len(tasks))
	for i, t := range tasks {
		ms[i] = queue.Member{
			Seq: t.seq, Job: t.id, Record: t.record, Pin: t.pin.Revision,
			Action: t.job.Action, Assignee: t.job.Assignee,
			From: t.found.action.From, To: t.found.action.To, Step: t.found.step,
			Campaign: t.job.Campaign, Attempts: len(t.attempts), Parked: t.parked,
		}
	}
	return ms
}

// nextStep is what has to be done about a part of a request that kintone refused although nobody moved.
type nextStep int

const (
	sendNow   nextStep = iota // it was not refused: the same members with the same pins, at once
	sendAgain                 // the same after a pause
	giveUp                    // each member ends by the ladder, for the reason it is suspected of
	splitOff                  // suspects wait, the others go first
	halve                     // nobody is named and nothing was found: the culprit is in one of the halves
)

// refusal is what is known about such a part.
type refusal struct {
	size     int
	suspects int
	again    bool // it was sent again already, to be sure
	settled  bool // no unclear attempt is young enough for a copy to be about still
	lag      bool // kintone says that a revision moved, and the read does not show it
}

// afterRefusal decides the next step. Splitting keeps the pins: the first part that commits kills every older copy of
// the whole, and a culprit costs its own dead letter and not its companions'.
func afterRefusal(r refusal) nextStep {
	switch {
	case r.lag:
		return sendAgain
	case r.size == 1 || r.suspects == r.size:
		if r.settled {
			return giveUp
		}
		return sendAgain
	case r.suspects > 0:
		return splitOff
	case !r.again:
		return sendAgain
	default:
		return halve
	}
}
