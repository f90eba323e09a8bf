// Package kintone knows what kintone accepts, refuses and can bear.
//
// A Client speaks for one site: one domain, one set of credentials. It makes the two calls that change statuses
// ([Client.UpdateStatus] for one record, [Client.UpdateStatuses] for up to a hundred), the read that looks at records
// before and after ([Client.RecordsByID]), those that find them by a key or by the condition of an action
// ([Client.RecordsByKey], [Client.RecordsMatching]), and the three reads that explain an app ([Client.FormFields],
// [Client.Process], [Client.AppInfo]). Those who change an app's process management read and write it whole, as
// [ProcessSettings], and put it into force ([Client.UpdateProcessSettings], [Client.Deploy]). A Client sends each request
// once. It never repeats one, never follows a redirect and never guesses: what to do after a failure is for the caller,
// who knows what else is under way.
//
// What the caller needs for that is in [Error], the one error of every call. Two of its fields matter most. NotSent
// says that the request never left, so that sending it is still the first time. MayHaveActed says that nobody on this
// side of the wire can tell whether kintone carried it out. The second is the default for everything that a status
// change can meet; only a refusal that is surely kintone's own, or a failure before the first byte, takes it away.
// A wrong "may have acted" costs one more request with the same pins; a wrong "has not" would run an approval twice.
//
// kintone carries out a request with many records wholly or not at all, and usually does not say which record it
// refused (docs/kintone.md 2.2). Where it does, Error has the positions, the record ids or the user.
//
// All requests of a site pass its [Gate], which bounds how many are out at a time, how many leave per second and per
// day, and stops them while the site is down. The gate makes callers wait; it fails nobody.
//
// How a site is signed in to, by password, tokens, a certificate and through a proxy, is in [Credentials]; they can be
// renewed while requests wait and are out ([Client.Renew]).
//
// Secrets have a type of their own, [Secret], and stay inside: no error, no String and no %+v of this package shows
// one, even if a server answers with what it was sent.
package kintone
