// Package dispatch turns jobs into requests and requests into outcomes.
//
// An [Owner] holds a site's lease and runs a lane for each of its apps. A lane is one goroutine that owns all that is
// known about the app's jobs; requests run beside it. It works in nine steps, each in the place of its name:
//
//	take      a job from the log, in order                                     lane.take, backlog
//	find      the records that jobs name by a key; one job for each that matches lane.search, lane.multiply
//	inspect   read up to 500 records; name every job that kintone would refuse lane.inspect, inspectJob
//	plan      up to 100 jobs, each record once, order per record kept          mayLeave, backlog.nextFit
//	record    the request into a slot of the ledger, before it leaves          lane.launch
//	send      through the gate, every member pinned to a revision              lane.send
//	judge     what one answer means                                            judge
//	hear      what that means for the flight: settle, look, wait, cut            course.go
//	settle    the outcomes and the slot in one atomic batch                    lane.settle
//
// When an answer is unclear or a refusal, the same members are sent again with the same pins, or read, until resolve
// can prove what happened (docs/design.md section 4). The functions that decide are pure: judge, resolve, inspectJob,
// ladder, afterRefusal, mayLeave, mayRead, and what a flight hears. They are what the tests, and the exhaustive search
// (explore_test.go), run. What operators ask of a lane is in operator.go, the ids that never act twice in ids.go, the
// campaigns that end early in campaigns.go, and how long a batch waits for the sake of the day's budget in pace.go. A
// change of an app's process settings is made by its lane between two requests (change.go; the questions before and about
// it are in settings.go).
//
// The package imports neither a logger nor metrics: it tells [Event] values to one observer.
package dispatch
