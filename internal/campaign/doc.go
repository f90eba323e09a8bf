// Package campaign turns files into jobs and results into progress.
//
// A campaign is a set of jobs published under one name. It usually begins as a CSV or NDJSON file: [Read] reads all of
// it before anything is published, and either every row has become a valid job or the answer is a [*RowErrors] that
// names each bad row by line and column. Half a file is never sent because of a typo in its middle.
//
// Names are chosen so that sending the same work twice is harmless. A campaign that was given no name is called after
// its file and a digest of the jobs in it, and a row that was given no job id is called after its campaign and its row
// number. The same rows therefore always carry the same ids, whatever encoding or spreadsheet they came through, and the
// queue recognises them.
//
// [Tally] is the other end: it is fed the results that the ledger holds and knows at any time how far the campaign is,
// how fast it goes and what its dead letters died of. A row whose key matches several records becomes a job for each of
// them; it has ended when they have, and how they ended is how it did. [ReasonText] puts the stable reason codes into words for people.
package campaign
