package dispatch

import (
	"time"

	"statusq/internal/kintone"
)

// An Event is something that an operator may want to know. The package logs nothing itself: it tells events to one
// observer, in the order in which they happened per lane, and the observer must not block.
type Event struct {
	Kind   EventKind
	Site   string
	App    int64  // 0 where the event is the site's
	Reason string // one of the Reason constants, or ""
	Detail string // for people
	Until  time.Time

	// Of a settled request.
	Request string
	Applied int
	Already int
	Dead    int
	Unknown int
	Parked  int
	Matched int // jobs that one with a key became
}

// EventKind says what happened.
type EventKind string

const (
	EventOwner     EventKind = "owner"     // this worker owns the site now
	EventStandby   EventKind = "standby"   // another worker owns the site; this one waits
	EventDeposed   EventKind = "deposed"   // the lease or a compare-and-swap was lost: the site is given up
	EventLane      EventKind = "lane"      // a lane serves an app
	EventUnserved  EventKind = "unserved"  // jobs wait for an app that kintone does not confirm
	EventHalted    EventKind = "halted"    // a lane waits
	EventResumed   EventKind = "resumed"   // and goes on
	EventSettled   EventKind = "settled"   // a request, or a batch of jobs that were never sent, has ended
	EventUnclear   EventKind = "unclear"   // an answer was lost: the same request is sent again
	EventProved    EventKind = "proved"    // a read told what became of a request: Reason is the decision, Detail the rule
	EventCut       EventKind = "cut"       // a request goes on in parts: Reason is "suspects" or "halves"
	EventOperator  EventKind = "operator"  // an operator held a request or said what became of it: Detail is what, who and why
	EventInherited EventKind = "inherited" // a slot was found filled at the start
	EventRenewed   EventKind = "renewed"   // the secrets have changed: what stood still for the old ones tries again
	EventSettings  EventKind = "settings"  // a change of the app's settings goes on: Reason is its stage, or why it failed
	EventTrouble   EventKind = "trouble"   // something went wrong that is tried again
)

// LaneStatus is what operators see of a lane.
type LaneStatus struct {
	App           int64     `json:"app"`
	Name          string    `json:"name,omitempty"`
	State         string    `json:"state"` // running, changing (its settings), halted, unserved, stopped
	Why           string    `json:"why,omitempty"`
	Detail        string    `json:"detail,omitempty"`
	Since         time.Time `json:"since,omitzero"`
	Until         time.Time `json:"until,omitzero"` // when what keeps a running lane waiting is over
	Backlog       uint64    `json:"backlog"`        // jobs in the log that are not settled or parked
	Ready         int       `json:"ready"`
	InFlight      int       `json:"inflight"` // jobs in slots
	Slots         int       `json:"slots"`
	Parked        int       `json:"parked"`
	Applied       int       `json:"applied"` // since this worker owns the lane
	Already       int       `json:"already"`
	Dead          int       `json:"dead"`
	Unknown       int       `json:"unknown"`
	RequestsToday int       `json:"requestsToday"`
	Budget        int       `json:"budget"` // of requests a day; 0 = no limit

	Reserve   int               `json:"reserve,omitzero"`        // of the budget, for requests that resolve others
	WhenSpent kintone.WhenSpent `json:"whenSpent,omitempty"`     // empty without a budget
	Stretch   int               `json:"stretchSeconds,omitzero"` // from one batch that is not full to the next, so that the budget lasts

	Call          string `json:"call,omitempty"`         // bulk, or single: one call per record
	InflightLimit int    `json:"inflightLimit,omitzero"` // status requests at a time
}
