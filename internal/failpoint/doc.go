// Package failpoint lets a test kill or stop a program at a named place.
//
// In a normal build Hit does nothing and costs nothing: it is empty, and the compiler leaves it out. Built with the tag
// failpoints, a program obeys two variables of its environment, each holding the name of a point, or name:n for the n-th
// time it is reached:
//
//	STATUSQ_FAILPOINT=claim.stored:3    the process kills itself there with SIGKILL
//	STATUSQ_FAILPOINT_STOP=gate.passed  it stops there with SIGSTOP, and goes on after SIGCONT
//
// Either says so on standard error first, as "failpoint: NAME". A name that is not in Names ends the program at its
// start. The tag is for systems with these signals.
package failpoint

// Names are all points. Each is hit at exactly one place of the source, which a test holds.
var Names = []string{
	// A worker starts.
	"embedded.started", // the embedded server runs, and nothing was looked at or created in it
	"setup.stream",     // a stream was created, and perhaps not the next one
	"setup.bucket",     // a bucket was created, and perhaps not the next one
	"setup.done",       // everything is there, no owner has started

	// The lease.
	"lease.acquired",  // it is taken, nothing was done under it
	"lease.renewing",  // before a renewal is written
	"lease.renewed",   // after it was stored
	"lease.releasing", // everything has ended, the lease not yet

	// A takeover.
	"claim.read",     // a slot was read and is about to be claimed
	"claim.stored",   // its claim is stored; the first time it is slot 0
	"claims.done",    // all slots are claimed
	"barrier.stored", // the barrier stands in the ledger
	"load.entry",     // amid the reading of what is parked and what has ended
	"load.done",      // after it

	"slots.inherited", // what the dead owner had out is in the air again, and the parked jobs are known

	// A lane.
	"log.taken",       // the first of some entries was looked at, nothing is decided
	"find.asking",     // keys are about to be looked up
	"find.found",      // their records are known
	"matches.making",  // a key has found several records, no job was made for them
	"matches.made",    // the jobs are in the ledger, and memory does not know
	"look.asking",     // records are about to be read for inspection
	"look.read",       // they were read
	"slot.filling",    // a request is planned and does not stand in a slot yet
	"slot.filled",     // it does, and has not left
	"send.leaving",    // it is about to be handed to the client, or again
	"send.answered",   // it was answered, nobody has judged the answer
	"settle.begun",    // its end is known, and not written
	"settle.done",     // written, and memory does not know
	"prove.begun",     // an inquiry begins
	"prove.read",      // records were read for it
	"prove.again",     // they have to be read a second time
	"cut.decided",     // a request is to go on in parts, which is not written
	"cut.stored",      // it is written, and no part has left
	"ends.decided",    // jobs that were never sent are about to end or to be parked
	"ends.stored",     // that is written, and memory does not know
	"parked.done",     // amid what memory learns of parked jobs
	"retried.adopted", // a job that an operator sent again is in memory
	"lane.stopping",   // the lane has heard that it is to stop

	// A change of an app's process settings.
	"change.claimed",   // one that another owner had begun was taken over
	"change.noted",     // it is about to begin, or has ended, and so far only the audit says so
	"change.looked",    // the preview and what is in force were read, nothing is decided
	"change.stored",    // a stage is stored, and its first request has not left
	"change.putting",   // the preview is about to be changed
	"change.deploying", // the preview is about to be deployed
	"change.answered",  // kintone took or refused one of these, or of the next two, and nobody has looked
	"change.reverting", // it failed, and the preview is about to be reverted
	"change.restoring", // or the settings from before to be put back
	"change.polled",    // kintone still deploys
	"change.refreshed", // it has ended, the settings were read again, and nothing of that is stored
	"change.ended",     // it has ended, and the lane has not gone on

	// Any write to the ledger.
	"ledger.sending",  // before an attempt leaves
	"ledger.answered", // it is stored, and only the connection knows
	"ledger.settled",  // with ends of jobs in it; the lane does not know yet
	"parking.settled", // with parked jobs among them

	// The log.
	"log.entry",   // an entry was handed out
	"log.purging", // before the log is cut
	"log.purged",  // after it

	// Parked jobs and dead letters.
	"parked.read",    // a parked job was read, to be woken or to be taken over in a slot
	"retried.heard",  // a lane has read of a job that an operator sent again
	"retry.sending",  // an operator's retry of a dead letter is about to be written
	"retry.stored",   // it is stored, the operator does not know
	"publish.stored", // a batch of jobs is stored, the publisher does not know

	// Any request to kintone.
	"gate.waiting",   // it comes to the gate
	"gate.passed",    // it may leave
	"http.connected", // it has a connection
	"http.headers",   // its headers are written, perhaps only to a buffer
	"http.body",      // its body is being read to be written: a status request
	"http.written",   // all of it has left
	"http.answered",  // the headers of the answer are there
	"http.read",      // all of the answer is there, nobody has judged it

	// The end.
	"stop.begun", // the first signal was heard
	"stop.done",  // all owners have ended, the connection to NATS has not
}
