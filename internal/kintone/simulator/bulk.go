package simulator

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"time"
)

// bulkRequest is the API that carries out several calls, maybe of several apps, wholly or not at all (R-bulk-request).
const bulkRequest = "bulkRequest.json"

// maxBulk is how many calls it takes (R-bulk-request).
const maxBulk = 20

// BulkCount says as how many requests of the day a bulkRequest counts.
type BulkCount int

// What a bulkRequest may count as.
const (
	EachCall  BulkCount = iota // each call in it as one of its app
	EachApp                    // once for each app that it names
	FirstCall                  // once, for the app of its first call
)

// unspoken are the calls that a bulkRequest takes and the simulator does not know. It gets the same page as they get alone.
var unspoken = []string{"POST record.json", "PUT record.json", "PUT records.json"}

// inside takes the calls out of a bulkRequest. One that does not have the form of a call is nil; what is wrong with it,
// readBulk says. They travel as c did.
func (c *call) inside() []*call {
	body, _ := c.decoded.(map[string]any)
	list, _ := body["requests"].([]any)
	calls := make([]*call, len(list))
	for i, v := range list {
		member, _ := v.(map[string]any)
		method, isMethod := member["method"].(string)
		path, isPath := member["api"].(string)
		payload, isPayload := member["payload"].(map[string]any)
		if !isMethod || !isPath || !isPayload {
			continue
		}
		one := &call{method: method, header: c.header, language: c.language, decoded: payload, inBulk: true}
		one.guestSpace, one.api, _ = locate(path)
		one.endpoint = endpoints[one.kind()]
		calls[i] = one
	}
	return calls
}

// costs returns what a call counts as for the day, by app. Which apps it names is read before anything was checked.
func (k *Kintone) costs(c *call) map[int64]int {
	costs := map[int64]int{}
	once := func(c *call) {
		for _, app := range c.apps() {
			costs[app]++
		}
	}
	calls := slices.DeleteFunc(slices.Clone(c.calls), func(one *call) bool { return one == nil })
	switch {
	case len(calls) > 0 && k.cfg.BulkCount == EachCall:
		for _, one := range calls {
			once(one)
		}
	case len(calls) > 0 && k.cfg.BulkCount == FirstCall:
		once(calls[0])
	default:
		once(c)
	}
	return costs
}

// readBulk checks the form of a bulkRequest. The calls' own parameters are checked when their turn comes.
func readBulk(f *form) any {
	list, _ := f.list("requests", true, false)
	for i, v := range list {
		if member := f.within("requests["+strconv.Itoa(i)+"]", v); member != nil {
			member.text("method", true)
			member.text("api", true)
			member.object("payload", true)
			member.rest()
		}
	}
	return nil
}

// postBulk carries the calls out in their order, each judged by what those before it left, and stops at the first that is
// refused: then all is taken back. It takes up to twenty calls of the APIs that are allowed in it, all in the guest space
// of its own path, or none in any. Each needs the rights that it needs alone, and of tokens one of its app
// (R-bulk-request).
func (k *Kintone) postBulk(_ *app, by caller, c *call, _ any, now time.Time) ([]byte, *Refusal) {
	if refusal := c.standsInBulk(); refusal != nil && k.cfg.NotInBulk != refusal.Code {
		return nil, refuse(k.cfg.NotInBulk, "")
	} else if refusal != nil {
		return nil, refusal
	}
	var apps []*app
	for _, id := range c.apps() {
		if a, ok := k.apps[id]; ok {
			apps = append(apps, a)
		}
	}
	answers := make([][]byte, len(c.calls))
	refusal := k.wholly(apps, func() *Refusal {
		for i, one := range c.calls {
			one.n, one.executions, one.pinned = c.n, c.executions, c.pinned
			body, refusal := k.carryOut(one, by, one.decoded.(map[string]any), now)
			if refusal != nil {
				refusal.call, refusal.calls = i, len(c.calls)
				return refusal
			}
			answers[i] = body
		}
		return nil
	})
	if refusal != nil {
		return nil, refusal
	}
	return results(answers), nil
}

// standsInBulk refuses a bulkRequest that cannot be one, whatever its calls want. No source has the code.
func (c *call) standsInBulk() *Refusal {
	bad := complaints{}
	if len(c.calls) > maxBulk {
		bad.add("requests", tooManyCalls)
	}
	for i, one := range c.calls {
		if !one.endpoint.bulk || one.guestSpace != c.guestSpace {
			bad.add("requests["+strconv.Itoa(i)+"].api", notInBulk)
		}
	}
	return bad.refusal()
}

// amongResults puts the envelope of a refused call into its place; the others, whether they were carried out and taken back
// or never begun, have an empty object (R-bulk-request).
func amongResults(envelope []byte, call, calls int) []byte {
	all := slices.Repeat([][]byte{[]byte("{}")}, calls)
	all[call] = envelope
	return results(all)
}

func results(all [][]byte) []byte {
	return slices.Concat([]byte(`{"results":[`), bytes.Join(all, []byte(",")), []byte("]}"))
}

// past is what an app was when something began that may have to be taken back.
type past struct {
	records  map[int64]recordData // those that were written to since, as they were
	last     int64
	live     int
	standing map[string]int
}

func (p *past) note(record int64, data recordData) {
	if _, known := p.records[record]; !known {
		p.records[record] = data
	}
}

// wholly has f happen, and takes back what it did to these apps and to the log if it is refused. One within another leaves
// the taking back to that.
func (k *Kintone) wholly(apps []*app, f func() *Refusal) *Refusal {
	logged := len(k.log)
	var mine []*app
	for _, a := range apps {
		if a.past == nil {
			a.past = &past{map[int64]recordData{}, a.last, a.live, maps.Clone(a.standing)}
			mine = append(mine, a)
		}
	}
	refusal := f()
	for _, a := range mine {
		was := a.past
		a.past = nil
		if refusal != nil {
			for record, data := range was.records {
				*a.touch(record) = data
			}
			a.last, a.live, a.standing = was.last, was.live, was.standing
		}
	}
	if refusal != nil {
		k.log = k.log[:logged]
	}
	return refusal
}
