package dispatch

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"statusq/internal/failpoint"
	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// This file finds the records that jobs name by a key. A job that means one record takes its place among the jobs of that
// record; one that means all that match becomes a job for each of them.

// finds is what the look-up of one key gave.
type finds struct {
	records []kintone.Record // by ascending id, at most a page of them
	more    bool             // there may be more behind the last
	unread  bool             // they were not read: the key is the id itself
	trouble finding          // why the key could not be looked up; without a reason it was
}

// find starts the look-up of the keys that are first in line. Everything behind them waits for it.
func (l *lane) find() {
	l.backlog.tidy()
	if l.reading || time.Now().Before(l.lookAfter) {
		return
	}
	if !mayRead(len(l.backlog.toFind), kintone.MaxRecords, l.out, l.backlog.ready(), l.moreComing() || l.paced(time.Now())) {
		return
	}
	if tasks := l.backlog.nextToFind(l.keysAtOnce()); len(tasks) > 0 {
		l.lookAt(tasks)
	}
}

// keysAtOnce is how many keys one look takes: few as long as the questions are small, for each question is a request.
func (l *lane) keysAtOnce() int {
	const few = 20
	return max(l.pool, few)
}

// search looks the keys of tasks up, those of one field together. It runs beside the lane. A question that kintone does
// not answer ends it; what was found before counts, if kintone has answered anything.
func (l *lane) search(k *look, fields kintone.Fields, stale bool) (kintone.Fields, error) {
	k.finds = make(map[*task]*finds)
	var pools [][]*task // each of one field, and none larger than a question may be
	fieldOf := make(map[*task]kintone.KeyField)
	filling := make(map[kintone.KeyField]int) // the pool of a field that is not full
	var last [][]*task                        // of those that were not answered before: they are not to keep the others waiting
	for _, t := range k.tasks {
		if !t.unbound() {
			continue
		}
		key := *t.job.Key
		field, err := fields.Key(key.Field)
		if err != nil && stale {
			// The field may have come since the form was read.
			read, failed := l.client.FormFields(l.work, k.app)
			if failed != nil {
				return fields, failed
			}
			fields, stale, k.fields, k.heard = read, false, &read, true
			field, err = fields.Key(key.Field)
		}
		f := new(finds)
		k.finds[t] = f
		if expired := expiry(*t.job, time.Now()); expired != "" && t.matches == 0 {
			f.trouble = finding{fate: unfit, reason: ReasonExpired, message: expired}
			continue
		}
		if err != nil {
			f.trouble = fieldTrouble(err)
			continue
		}
		if err := field.Check(key.Value); err != nil {
			f.trouble = finding{fate: unfit, reason: ReasonKeyInvalid, message: fmt.Sprintf("field %s: %v", key.Field, err)}
			continue
		}
		if field.Code == "$id" {
			id, _ := strconv.ParseInt(strings.TrimSpace(key.Value), 10, 64) // as Check has seen
			f.records, f.unread = []kintone.Record{{ID: id}}, true
			continue
		}
		fieldOf[t] = field
		delete(k.finds, t) // until there is an answer
		switch n, open := filling[field]; {
		case t.misses > 0:
			last = append(last, []*task{t})
		case t.after > 0:
			pools = append(pools, []*task{t})
		case open && len(pools[n]) < min(field.PerQuery(), k.pool):
			pools[n] = append(pools[n], t)
		default:
			filling[field] = len(pools)
			pools = append(pools, []*task{t})
		}
	}
	for _, pool := range append(pools, last...) {
		if err := l.ask(k, &fields, fieldOf[pool[0]], pool); err != nil {
			if !k.heard || len(k.finds) == 0 {
				return fields, err
			}
			k.failed = err
			break
		}
	}
	return fields, nil
}

// ask asks for the keys of several tasks at a time. Where kintone refuses the question, or a page does not hold the whole
// answer, each half is asked for alone.
func (l *lane) ask(k *look, fields *kintone.Fields, field kintone.KeyField, tasks []*task) error {
	values := make([]string, len(tasks))
	for i, t := range tasks {
		values[i] = t.job.Key.Value
	}
	records, err := l.client.RecordsByKey(l.work, k.app, *fields, field, values, tasks[0].after)
	alone := len(tasks) == 1
	k.heard = k.heard || err == nil
	if err != nil {
		j := judge(err)
		if j.known != refused || j.charge != chargeJobs || j.reason == ReasonNoPermission {
			if alone {
				k.alone = tasks[0]
			}
			return err
		}
		k.heard = true
		if k.fields == nil {
			// Perhaps the field is gone.
			read, err := l.client.FormFields(l.work, k.app)
			if err != nil {
				return err
			}
			*fields, k.fields = read, &read
		}
		if _, err := fields.Key(field.Code); err != nil {
			for _, t := range tasks {
				k.finds[t] = &finds{trouble: fieldTrouble(err)}
			}
			return nil
		}
		if alone {
			k.finds[tasks[0]] = &finds{trouble: finding{fate: unfit, reason: ReasonKeyRefused, code: j.code, message: j.message}}
			return nil
		}
	} else if full := len(records) >= kintone.MaxRecords; !full || alone {
		for _, t := range tasks {
			k.finds[t] = &finds{more: full}
		}
		share(k, field, tasks, records)
		return nil
	}
	half := len(tasks) / 2
	if err := l.ask(k, fields, field, tasks[:half]); err != nil {
		return err
	}
	return l.ask(k, fields, field, tasks[half:])
}

func fieldTrouble(err error) finding {
	return finding{fate: unfit, reason: ReasonKeyFieldInvalid, message: err.Error()}
}

// share gives each task the records that hold its very key. A record that holds none of them is nobody's, whatever
// kintone takes for the same.
func share(k *look, field kintone.KeyField, tasks []*task, records []kintone.KeyedRecord) {
	byText := make(map[string]*task, len(tasks))
	var others []*task // whose keys may be written in another way
	for _, t := range tasks {
		byText[t.job.Key.Value] = t
		if field.Type != "SINGLE_LINE_TEXT" && field.Type != "LINK" {
			others = append(others, t)
		}
	}
	for _, r := range records {
		owner := byText[r.Key]
		if owner != nil {
			k.finds[owner].records = append(k.finds[owner].records, r.Record)
		}
		for _, t := range others {
			if t != owner && field.Same(t.job.Key.Value, r.Key) {
				k.finds[t].records = append(k.finds[t].records, r.Record)
			}
		}
	}
	if f := k.finds[tasks[0]]; f.more && len(f.records) == 0 {
		f.trouble = finding{fate: unfit, reason: ReasonKeyRefused,
			message: fmt.Sprintf("kintone found %d records for %q, and none of them holds just that", len(records), tasks[0].job.Key.Value)}
	}
}

// missed makes the next question smaller after one that failed. A key that fails alone, again and again while kintone
// answers what else it is asked, is not to hold the app up for ever.
func (l *lane) missed(k *look) {
	if k.finds == nil {
		return // no key was asked for
	}
	l.pool = max(1, l.pool/2)
	t := k.alone
	if t == nil || !k.heard || t.state != stateOpen {
		return
	}
	if t.misses++; t.misses >= 5 {
		l.decide(l.failure(t, finding{fate: unfit, reason: ReasonKeyRefused,
			message: fmt.Sprintf("kintone did not answer the look-up of %q in field %s, %d times", t.job.Key.Value, t.job.Key.Field, t.misses)}, ""))
	}
}

// found goes on with a job whose key was looked up.
func (l *lane) found(t *task, f *finds, met conditions, now time.Time) (finding, error) {
	key := *t.job.Key
	n := t.matches + len(f.records)
	refuse := func(reason, format string, args ...any) (finding, error) {
		l.decide(l.failure(t, finding{fate: unfit, reason: reason, message: fmt.Sprintf(format, args...)}, ""))
		return finding{}, nil
	}
	switch {
	case f.trouble.reason != "":
		l.decide(l.failure(t, f.trouble, ""))
		return finding{}, nil
	case n == 0:
		return refuse(ReasonKeyNotFound, "no record that may be seen has %q in field %s", key.Value, key.Field)
	case t.job.Match == queue.MatchAll && n > 1 && t.matches == 0 && t.job.Revision >= 0:
		return refuse(ReasonKeyRevision, "%s records have %q in field %s, and one revision cannot be that of all of them", counted(n, f.more), key.Value, key.Field)
	case t.job.Match == queue.MatchAll:
		return finding{}, l.multiply(t, f, now)
	case n > 1 || f.more:
		return refuse(ReasonKeyAmbiguous, "%s records have %q in field %s: %s; say match all if all are meant", counted(n, f.more), key.Value, key.Field, someIDs(f.records))
	}
	r := &f.records[0]
	line := t.record
	l.bind(t, r.ID)
	for _, o := range l.backlog.next(line) {
		l.bind(o, r.ID) // the same key, one line
	}
	l.strand(line)
	if l.backlog.isHead(t) && !f.unread && !l.touched[r.ID] {
		found := l.weigh(t, r, met, now)
		l.strand(r.ID)
		return found, nil
	}
	// Its record may have been read before another request of ours changed it.
	l.strand(r.ID)
	return finding{}, nil
}

// bind gives a job its record.
func (l *lane) bind(t *task, record int64) {
	l.backlog.bind(t, record)
	l.known.amend(t.id, record)
}

// multiply makes a job for each record of a page, in one atomic batch with what becomes of the job that they are made of:
// it has ended, or goes on behind the last of them. So each record gets one job, however often this is begun.
func (l *lane) multiply(t *task, f *finds, now time.Time) error {
	if most := max(1, mostBytes/(len(t.job.Ref)+len(t.job.Action)+len(t.job.Key.Value)+1000)); len(f.records) > most {
		f.records, f.more = f.records[:most], true // the rest is found again
	}
	set := &queue.Settlement{Request: queue.NewID()}
	var sentAgain []queue.Attempt // by an operator: his word holds for what it becomes, too
	for _, a := range t.attempts {
		if a.Reason == queue.ReasonRetried {
			sentAgain = append(sentAgain, a)
		}
	}
	for _, r := range f.records {
		child := *t.job
		child.ID, child.Record, child.Key, child.Match = queue.ChildID(t.id, r.ID), r.ID, nil, ""
		if record, used := l.known.usedFor(child.ID); used {
			// Somebody called a job so. That one stands for this record, unless it is another record's.
			end := queue.Result{Seq: t.seq, Job: child.ID, Record: r.ID, Outcome: queue.Duplicate,
				Ref: child.Ref, Parent: t.id, Campaign: child.Campaign, At: now.UTC()}
			if record != r.ID && record != 0 {
				end.Outcome, end.Reason = queue.Dead, ReasonIDReused
				end.Message = fmt.Sprintf("the id %q was used before, for record %d", child.ID, record)
				child.ID = queue.ChildID(name(queue.Job{}, t.seq), r.ID) // as for any other, by its place
				set.Dead = append(set.Dead, &queue.DeadLetter{Job: child, Site: l.site, App: l.app.ID, Seq: t.seq, Outcome: end.Outcome,
					Reason: end.Reason, Message: end.Message, Died: end.At, Parent: t.id})
				l.mourn(verdict{task: t, outcome: end.Outcome})
			}
			set.Results = append(set.Results, end)
			continue
		}
		set.Park = append(set.Park, &queue.Parked{Job: child, Seq: t.seq, Due: now.UTC(), Reason: ReasonMatched, Epoch: l.epoch, Parent: t.id,
			Attempts: sentAgain})
	}
	children := len(set.Park)
	t.matches += len(f.records)
	if f.more {
		t.after = f.records[len(f.records)-1].ID
		set.Park = append(set.Park, &queue.Parked{Job: *t.job, Seq: t.seq, Due: now.UTC(), Reason: ReasonMatched, Epoch: l.epoch,
			Attempts: t.attempts, Matches: t.matches, After: t.after})
	} else {
		set.Results = append(set.Results, queue.Result{Seq: t.seq, Job: t.id, Outcome: queue.Matched, Matches: t.matches, Key: t.job.Key,
			Ref: t.job.Ref, Campaign: t.job.Campaign, At: now.UTC(), Attempts: t.attempts})
		if t.parked > 0 {
			set.Unpark = append(set.Unpark, queue.ParkedRef{Record: t.home, Job: t.id, At: t.parked})
		}
	}
	t.state = stateDeciding
	failpoint.Hit("matches.making")
	if err := l.write(fence, nil, set); err != nil {
		return err
	}
	failpoint.Hit("matches.made")
	l.settled++
	for _, p := range set.Park[:children] {
		l.known.remember(p.Job.ID, p.Job.Record)
		l.backlog.add(&task{seq: p.Seq, id: p.Job.ID, record: p.Job.Record, state: stateParked, parked: p.At, home: p.Job.Record, due: p.Due, parent: p.Parent, campaign: p.Job.Campaign})
		l.strand(p.Job.Record)
	}
	if f.more {
		t.parked, t.home, t.inLog = set.Park[children].At, 0, false
		l.backlog.reopen(t)
		return nil
	}
	line := t.record
	l.backlog.remove(t)
	l.strand(line)
	l.tell(Event{Kind: EventSettled, Request: set.Request, Matched: t.matches})
	return nil
}

// mostBytes is about how much goes into the ledger in one batch.
const mostBytes = 2 << 20

func counted(n int, more bool) string {
	if more {
		return fmt.Sprintf("at least %d", n)
	}
	return strconv.Itoa(n)
}

// someIDs names the first of many records.
func someIDs(records []kintone.Record) string {
	const most = 5
	ids := make([]string, 0, most)
	for _, r := range records[:min(most, len(records))] {
		ids = append(ids, strconv.FormatInt(r.ID, 10))
	}
	if len(records) > most {
		ids = append(ids, "…")
	}
	return strings.Join(ids, ", ")
}
