// Package schema holds the stored forms of statusq as JSON Schema 2020-12, and those of the bodies that kintone takes.
// The files are written by hand and come first: the code checks jobs against them, the tests tie the Go types to them,
// and the documents are made from them.
package schema

import "embed"

// JobURL is the $id of [Job]. It is a name only: nothing is ever fetched.
const JobURL = "urn:statusq:schema:job.v1"

// Job is the schema of a job as it is published, version 1.
//
// What a schema cannot say is checked beside it, in statusq/internal/queue: one document of at most 16 KiB, valid UTF-8,
// every member once, no more than four levels deep, whole numbers without fraction or exponent, and agreement with the
// subject.
//
//go:embed job.v1.json
var Job []byte

// Kintone holds the schemas of the bodies that kintone takes, written from Cybozu's pages and not from the client: one
// file for each call, named by its path and method, and common.json. What the client sends is checked against them in
// the tests of statusq/internal/kintone. Their $id is urn:statusq:schema:kintone: and the file's name without .json.
//
//go:embed kintone/*.json
var Kintone embed.FS
