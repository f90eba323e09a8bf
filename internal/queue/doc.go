// Package queue keeps jobs, and everything decided about them, in NATS JetStream. It is the only package that knows
// NATS.
//
// # A log and a ledger
//
// Jobs are published to a log, one subject per app, and stay there in order ([Queue.Publish], [Queue.ReadLog]). What is
// decided about a job stands in a ledger: the slots of an app hold the requests that may be out, and beside them stand
// parked jobs, dead letters, results and audit notes. The ledger is the truth. The log is only read and purged; no
// message of it is ever acknowledged.
//
//	log      <prefix>.jobs.<site>.<app>
//	ledger   <prefix>.slot.<site>.<app>.<n>                        one of 16 places for a request
//	         <prefix>.parked.<site>.<app>.<record>.<job>           a job that waits
//	         <prefix>.dead.<site>.<app>.<campaign>.<job>           a job that ended badly
//	         <prefix>.results.<site>.<app>.<campaign>.<request>    the ends of jobs, many in a message, kept 400 days
//	         <prefix>.audit.<site>.<app>.<id>                      who did what
//
// A subject of the ledger holds one message. What is gone is replaced by a tombstone, an empty message with the header
// Statusq-Gone that expires after an hour, because a removal has to be part of the same atomic batch as its reason.
//
// # One writer per slot
//
// A [Ledger] is one lane's hand on the ledger of one app. Every one of its writes is a compare-and-swap on a slot, and
// what belongs to the decision (results, parked jobs, dead letters) rides in the same atomic batch. So a batch of an
// owner that has been deposed is refused whole: the new owner claims all slots before it does anything else, and each
// claim moves the sequence that the old owner's next batch expects.
//
// # Writes whose answer was lost
//
// A write can be lost, or stored while its acknowledgement is lost, or arrive late after we have given it up. Three
// things make all of these harmless.
//
// A slot's write carries a nonce and expects the slot's last sequence. It is sent again as it is, so of all its copies at
// most one is stored. If a copy is refused, the stream leader is asked what stands in the slot: our nonce means that an
// earlier copy is in; the expected sequence means that none is yet, and it is sent again; anything else means that
// somebody else wrote, and then no copy of ours can ever be stored.
//
// A write that is given up unanswered (its context ended) leaves the ledger unusable ([ErrUnclear]): a late copy could
// still arrive, and only a new claim of the slot makes that impossible.
//
// A published job carries a message id that the stream remembers for ten minutes, also when it has no id of its own, so
// publishing can be repeated. A batch with an id that is known is refused whole and then repeated one by one.
//
// # What is known, wanted and sent
//
// Three buckets stand beside the ledger. One holds the leases; one what was learned of sites and apps ([Facts]) and the
// change of an app's settings that is under way ([Change], one writer like a slot); one the campaigns ([Campaign]), which say
// how many jobs were sent under a name and when they are to stop.
//
// # Leases
//
// The owner of a site holds a [Lease]. Its epoch grows with every owner, is written into every slot, and decides who is
// newer. The lease only keeps two owners from working at the same time; what makes it safe when it fails is the ledger.
package queue
