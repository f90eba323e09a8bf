// Package simulator is a kintone to test against and to demonstrate with.
//
// It speaks the part of kintone's REST API that changing statuses needs, and it is the oracle of this product: whatever
// a worker claims to have done is compared with the simulator's commit log, which lists every status action that really
// happened, in one total order. It shares no code with the client, so that a misunderstanding cannot sit on both sides.
//
// # What it answers
//
//	GET, POST, DELETE  records.json                    GET also as POST with X-HTTP-Method-Override: GET
//	GET                record.json
//	PUT                record/status.json
//	PUT                records/status.json
//	PUT                record/assignees.json
//	GET                app.json
//	GET                app/status.json
//	GET                app/form/fields.json
//	GET, PUT           preview/app/status.json
//	GET                preview/app/form/fields.json
//	GET, POST          preview/app/deploy.json
//	POST               bulkRequest.json                of those that write records
//
// each below /k/v1/ and /k/guest/{space}/v1/. Every other path or method gets a 404 page that is not JSON: what kintone
// says there is not recorded, and a client that takes such a page for a refusal by kintone should be found out. A
// bulkRequest with a call that kintone takes and the simulator does not know gets one, too.
//
// # Settings
//
// An app has two sets of process settings: those that are live, and the preview that a call changes. A deploy makes the
// preview live after a while, with everything that anybody has pending in it, or fails and leaves both as they were. They
// share one counter of revisions. A status has an identity beside its name: one that is renamed takes its records along,
// one that is deleted and made anew does not get them back. While a deploy runs, every call about the app's settings is
// refused, reading the live ones too.
//
// # How strict it is
//
// What docs/kintone.md knows (comments give its sources by their short names), it does. What that sheet leaves open takes
// the stricter reading, so that a client which passes here makes no use of a kindness that kintone may not have: a record
// named twice in one call, a member of the body that is not known, an empty assignee, a raw bracket in the query string
// are all refused. The sheet has no code for some of these; each such choice is commented where it is made. Config turns
// the most important of them the other way, for whoever has to be right in both worlds.
//
// Requests are judged in this order: arrival (URL length, concurrency), the fault of the day, credentials, form of the
// request, validation, app, kind of path, permission, a deploy that is running or just over, process management, then the
// records one by one in the order of the request. The first objection is the answer, and nothing is changed (all or nothing).
// The calls of a bulkRequest are judged one after the other in the same way, from their validation on.
//
// # Time and faults
//
// State changes under one mutex which is never held while anything waits, so a simulator works inside a testing/synctest
// bubble. It owns no goroutine and no timer: a request whose execution was put off (a late commit) is carried out, at the
// moment it was due, by whoever next looks at the state, and a deploy ends in the same way. A request whose client has gone
// away is executed all the same.
//
// Faults that cut the connection need a real net/http server, over TCP or over a Network of pipes; a
// httptest.ResponseRecorder cannot show them.
package simulator
