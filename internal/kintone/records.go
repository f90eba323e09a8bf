package kintone

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

const (
	// MaxStatusChanges is how many records one call of UpdateStatuses changes at most (SEED2).
	MaxStatusChanges = 100

	// MaxRecords is how many records one call of RecordsByID reads at most (docs/kintone.md 1.1).
	MaxRecords = 500
)

// Unchecked as the Revision of a StatusChange lets the record have any revision (SEED2, SEED3).
const Unchecked = -1

// StatusChange is one action on one record.
type StatusChange struct {
	Record int64

	// Revision is the one that the record must have, or Unchecked. Zero is refused: a forgotten pin is not "unchecked".
	Revision int64

	// Action is the action's name in the language of the executing user (SEED2).
	Action string

	// Assignee is a login name, or "" for none. kintone demands it where the status to come is one that a user picks the
	// assignee of (GAIA_SA01) and refuses it elsewhere (GAIA_SA04; docs/kintone.md 3).
	Assignee string
}

// RecordRevision is a record's revision after a change. One action adds 2: the action and the change of the status are
// counted (SEED2, SEED3).
type RecordRevision struct{ Record, Revision int64 }

// Record is what a status change needs to know of a record.
type Record struct {
	ID, Revision int64
	Status       string   // "" if the app has no process management, or the field may not be seen
	Assignees    []string // login names
	Modifier     string   // login name of who changed it last
}

// UpdateStatus runs one action on one record: PUT record/status.json. Unlike UpdateStatuses it fires webhooks
// (docs/kintone.md 3). The error is an *Error.
func (c *Client) UpdateStatus(ctx context.Context, app App, change StatusChange) (RecordRevision, error) {
	result := RecordRevision{Record: change.Record}
	err := c.do(ctx, app, request{
		method: http.MethodPut,
		api:    "record/status.json",
		body: struct {
			App int64 `json:"app"`
			member
		}{app.ID, change.member()},
		reject: change.check(),
	}, func(body []byte) error {
		var answer struct {
			Revision decimal `json:"revision"`
		}
		if err := decode(body, &answer); err != nil {
			return err
		}
		if answer.Revision < 1 {
			return errors.New("answer has no revision")
		}
		result.Revision = int64(answer.Revision)
		return nil
	})
	if err != nil {
		return RecordRevision{}, err
	}
	return result, nil
}

// UpdateStatuses runs 1 to MaxStatusChanges actions, each on a record of its own: PUT records/status.json. kintone runs
// all of them or none (docs/kintone.md 3). The revisions come in the order of the changes. The error is an *Error; an
// answer of success that does not fit the changes one by one is an error, too, and one that may have acted.
func (c *Client) UpdateStatuses(ctx context.Context, app App, changes []StatusChange) ([]RecordRevision, error) {
	members := make([]member, len(changes))
	for i, ch := range changes {
		members[i] = ch.member()
	}
	var revisions []RecordRevision
	err := c.do(ctx, app, request{
		method: http.MethodPut,
		api:    "records/status.json",
		body: struct {
			App     int64    `json:"app"`
			Records []member `json:"records"`
		}{app.ID, members},
		reject: checkChanges(changes),
	}, func(body []byte) (err error) {
		revisions, err = decodeRevisions(body, changes)
		return err
	})
	if err != nil {
		// Callers look members up by these, so they must be members.
		err.Indexes = slices.DeleteFunc(err.Indexes, func(i int) bool { return i >= len(changes) })
		return nil, err
	}
	return revisions, nil
}

// RecordsByID reads 1 to MaxRecords records: GET records.json. They come by ascending id, each once; records that are
// not there, or may not be seen, are absent from the result. fields says what to ask for besides id and revision; the
// status and its assignees only while process management is on. The error is an *Error.
func (c *Client) RecordsByID(ctx context.Context, app App, fields Fields, ids []int64) ([]Record, error) {
	ids, reject := checkIDs(ids)
	query := fmt.Sprintf("$id in (%s) limit %d", joinIDs(ids), MaxRecords)
	var records []Record
	err := c.do(ctx, app, readRecords(app, query, fields.wanted(), reject), func(body []byte) (err error) {
		records, err = decodeRecords(body, fields, ids)
		return err
	})
	if err != nil {
		return nil, err
	}
	return records, nil
}

// member is a StatusChange on the wire.
type member struct {
	ID       int64  `json:"id"`
	Action   string `json:"action"`
	Assignee string `json:"assignee,omitempty"`
	Revision int64  `json:"revision"`
}

func (s StatusChange) member() member {
	return member{ID: s.Record, Action: s.Action, Assignee: s.Assignee, Revision: s.Revision}
}

func (s StatusChange) check() error {
	switch {
	case s.Record < 1:
		return fmt.Errorf("record id %d is below 1", s.Record)
	case s.Revision < 1 && s.Revision != Unchecked:
		return fmt.Errorf("record %d: revision %d is neither positive nor %d", s.Record, s.Revision, Unchecked)
	case s.Action == "":
		return fmt.Errorf("record %d: no action", s.Record)
	}
	return nil
}

func checkChanges(changes []StatusChange) error {
	if len(changes) == 0 || len(changes) > MaxStatusChanges {
		return fmt.Errorf("%d status changes: must be 1 to %d", len(changes), MaxStatusChanges)
	}
	seen := make(map[int64]bool)
	for _, ch := range changes {
		if err := ch.check(); err != nil {
			return err
		}
		if seen[ch.Record] {
			// What kintone does then is not known (docs/kintone.md 3).
			return fmt.Errorf("record %d is there twice", ch.Record)
		}
		seen[ch.Record] = true
	}
	return nil
}

// decodeRevisions reads the answer to changes, which must name each of their records in their order (SEED2).
func decodeRevisions(body []byte, changes []StatusChange) ([]RecordRevision, error) {
	var answer struct {
		Records []struct {
			ID       decimal `json:"id"`
			Revision decimal `json:"revision"`
		} `json:"records"`
	}
	if err := decode(body, &answer); err != nil {
		return nil, err
	}
	if len(answer.Records) != len(changes) {
		return nil, fmt.Errorf("answer names %d records, %d were sent", len(answer.Records), len(changes))
	}
	revisions := make([]RecordRevision, len(changes))
	for i, r := range answer.Records {
		if int64(r.ID) != changes[i].Record {
			return nil, fmt.Errorf("answer names record %d where %d was sent", r.ID, changes[i].Record)
		}
		if r.Revision < 1 {
			return nil, fmt.Errorf("answer has no revision of record %d", r.ID)
		}
		revisions[i] = RecordRevision{Record: int64(r.ID), Revision: int64(r.Revision)}
	}
	return revisions, nil
}

// wanted are the field codes that a read asks for.
func (f Fields) wanted() []string {
	codes := []string{"$id", "$revision"}
	if f.Enabled {
		codes = append(codes, f.Status, f.Assignee)
	}
	codes = append(codes, f.Modifier)
	return slices.DeleteFunc(codes, func(code string) bool { return code == "" })
}

// recordValues is a record on the wire: the values of its fields by code.
type recordValues map[string]struct {
	Value json.RawMessage `json:"value"`
}

// decodeAnswer takes the records out of an answer.
func decodeAnswer(body []byte) ([]recordValues, error) {
	var answer struct {
		Records []recordValues `json:"records"`
	}
	if err := decode(body, &answer); err != nil {
		return nil, err
	}
	if answer.Records == nil {
		return nil, errors.New("answer has no records")
	}
	return answer.Records, nil
}

// decodeRecords reads records, which must be among ids (sorted).
func decodeRecords(body []byte, fields Fields, ids []int64) ([]Record, error) {
	all, err := decodeAnswer(body)
	if err != nil {
		return nil, err
	}
	records := make([]Record, 0, len(all))
	for _, values := range all {
		r, err := decodeRecord(values, fields)
		if err != nil {
			return nil, err
		}
		if _, asked := slices.BinarySearch(ids, r.ID); !asked {
			return nil, fmt.Errorf("answer has a record %d of revision %d that was not asked for", r.ID, r.Revision)
		}
		records = append(records, r)
	}
	slices.SortFunc(records, func(a, b Record) int { return cmp.Compare(a.ID, b.ID) })
	for i := 1; i < len(records); i++ {
		if records[i].ID == records[i-1].ID {
			return nil, fmt.Errorf("answer has record %d twice", records[i].ID)
		}
	}
	return records, nil
}

// decodeRecord reads one record.
func decodeRecord(values recordValues, fields Fields) (Record, error) {
	type user struct {
		Code string `json:"code"`
	}
	var id, revision decimal
	var status *string
	var assignees []user
	var modifier *user
	var errs []error
	value := func(code string, into any) {
		if raw := values[code].Value; code != "" && raw != nil {
			errs = append(errs, json.Unmarshal(raw, into))
		}
	}
	value("$id", &id)
	value("$revision", &revision)
	value(fields.Status, &status)
	value(fields.Assignee, &assignees)
	value(fields.Modifier, &modifier)
	if err := errors.Join(errs...); err != nil {
		return Record{}, fmt.Errorf("answer has a record %d that cannot be read: %w", id, err)
	}
	if revision < 1 {
		return Record{}, fmt.Errorf("answer has a record %d of revision %d", id, revision)
	}

	r := Record{ID: int64(id), Revision: int64(revision)}
	if status != nil {
		r.Status = *status
	}
	for _, u := range assignees {
		r.Assignees = append(r.Assignees, u.Code)
	}
	if modifier != nil {
		r.Modifier = modifier.Code
	}
	return r, nil
}

// decode reads an answer of success. Its error says nothing of what is in the body: that is not ours to show.
func decode(body []byte, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		if _, ok := errors.AsType[*json.SyntaxError](err); ok {
			return fmt.Errorf("not an answer of kintone's: no JSON (%d bytes)", len(body))
		}
		return fmt.Errorf("answer cannot be read: %w", err)
	}
	return nil
}

// decimal is a number that kintone writes as a string, mostly (SEED2: "revision": "3"). It reads both.
type decimal int64

func (d *decimal) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	if s == "null" {
		return nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != s {
		return errors.New("a number is not a plain decimal")
	}
	*d = decimal(n)
	return nil
}
