package dispatch

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"statusq/internal/failpoint"
	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// look is the result of a read for inspection.
type look struct {
	tasks   []*task
	app     kintone.App
	finds   map[*task]*finds // of those whose key was looked up
	tongues tongues
	pool    int   // keys in one question
	alone   *task // the one whose key was asked for alone when a question was not answered
	failed  error // why it was not; what was found before it counts
	heard   bool  // kintone has answered something
	records map[int64]*kintone.Record
	met     conditions
	process *kintone.Process // when the settings were read again
	fields  *kintone.Fields
}

// conditions says by condition of an action which of the records that were asked about satisfy it.
type conditions map[string]map[int64]bool

// inspect starts a read of the records whose jobs are first in line, or a look-up of the keys that come before them.
func (l *lane) inspect() {
	l.find()
	if l.reading || l.backlog.ready() >= kintone.MaxRecords || time.Now().Before(l.lookAfter) {
		return
	}
	if !mayRead(l.backlog.readable(), kintone.MaxRecords, l.out, l.backlog.ready(), l.moreComing() || l.paced(time.Now())) {
		return
	}
	if tasks := l.backlog.nextToRead(kintone.MaxRecords); len(tasks) > 0 {
		l.lookAt(tasks)
	}
}

// lookAt reads the records of the tasks, or looks them up by their keys. Without any it only reads the settings again.
func (l *lane) lookAt(tasks []*task) {
	l.reading = true
	clear(l.touched)
	var (
		process = l.process
		fields  = l.fields
		stale   = time.Since(l.readAt) > freshSettings
		suspect = l.suspect
		pool    = l.pool
		tongues = l.tongues
		ids     []int64
		app     = l.app
	)
	app.LeaveBy = time.Now().Add(longestLook) // what was asked first grows old while the rest waits at the gate
	for _, t := range tasks {
		if !t.unbound() {
			ids = append(ids, t.record)
		}
	}
	l.wg.Go(func() {
		k := &look{tasks: tasks, pool: pool, app: app}
		err := func() (err error) {
			readSettings := func() error {
				if k.process, err = l.client.Process(l.work, k.app); err != nil {
					return err
				}
				if fields, err = l.client.FormFields(l.work, k.app); err != nil {
					return err
				}
				process, k.fields, k.heard, stale = k.process, &fields, true, false
				return nil
			}
			if !process.Enabled {
				// First, since records show their status only to who knows that it is on again.
				if err := readSettings(); err != nil {
					return err
				}
			}
			if len(ids) < len(tasks) {
				failpoint.Hit("find.asking")
				if fields, err = l.search(k, fields, stale); err != nil {
					if k.alone != nil && !k.heard {
						// Is it this key, or does nobody get an answer?
						_, failed := l.client.Process(l.work, k.app)
						k.heard = failed == nil
					}
					return err
				}
				failpoint.Hit("find.found")
			}
			if len(ids) > 0 {
				failpoint.Hit("look.asking")
				if k.records, err = l.read(k.app, fields, ids); err != nil {
					return err
				}
				failpoint.Hit("look.read")
				k.heard = true
			}
			unfitting := func(t *task) bool {
				r, read := k.record(t)
				if !read {
					return false
				}
				found := inspectJob(*t.job, r, process, fields, l.us, nil, time.Now())
				return found.fate == appUnable || found.fate != fit && found.bySettings && stale
			}
			if k.process == nil && (len(tasks) == 0 || suspect || slices.ContainsFunc(tasks, unfitting)) {
				// No job dies of settings that somebody may have mended meanwhile.
				if err := readSettings(); err != nil {
					return err
				}
			}
			k.tongues = l.learnTongues(k, tongues, process, fields)
			return l.askConditions(k, process, fields)
		}()
		l.answer(answer{look: k, err: err})
	})
}

// record is what was read of the record of a task: nil if there is none. It reports false if none was to be read.
func (k *look) record(t *task) (*kintone.Record, bool) {
	f := k.finds[t]
	switch {
	case f == nil:
		return k.records[t.record], !t.unbound()
	case f.unread || f.more || len(f.records) != 1 || t.job.Match == queue.MatchAll:
		return nil, false
	}
	return &f.records[0], true
}

// tongues is what actions are called in other languages than the worker's, to tell people who named one so.
type tongues struct {
	settings int64             // revision that they were read at; 0 = never
	names    map[string]string // by the name elsewhere: ours
}

// learnTongues reads the names in the other languages of kintone when a job names an action that there is not, once for
// each revision of the settings. What cannot be read is left out: it only makes a message better.
func (l *lane) learnTongues(k *look, known tongues, process *kintone.Process, fields kintone.Fields) tongues {
	lost := func(t *task) bool {
		r, read := k.record(t)
		return read && r != nil && inspectJob(*t.job, r, process, fields, l.us, nil, time.Now()).reason == ReasonActionUnknown
	}
	if known.settings == process.Revision || !slices.ContainsFunc(k.tasks, lost) {
		return known
	}
	known = tongues{settings: process.Revision, names: make(map[string]string)}
	for _, lang := range []string{"ja", "en", "zh"} {
		other, err := l.client.ProcessIn(l.work, k.app, lang)
		if err != nil || other.Revision != process.Revision || len(other.Actions) != len(process.Actions) {
			continue
		}
		for i, a := range other.Actions { // in the same order, whatever the language
			if ours := process.Actions[i].Name; a.Name != ours {
				known.names[a.Name] = ours
			}
		}
	}
	return known
}

// askConditions asks kintone which of the records satisfy the condition of the action that their job is to run. Only
// kintone can tell: conditions may speak of today, of the acting user, of fields that were not read.
func (l *lane) askConditions(k *look, process *kintone.Process, fields kintone.Fields) error {
	ask := make(map[string][]int64)
	for _, t := range k.tasks {
		if r, read := k.record(t); read && r != nil {
			if found := inspectJob(*t.job, r, process, fields, l.us, nil, time.Now()); found.fate == fit && found.action.FilterCond != "" {
				ask[found.action.FilterCond] = append(ask[found.action.FilterCond], r.ID)
			}
		}
	}
	for _, condition := range slices.Sorted(maps.Keys(ask)) {
		met, err := l.client.RecordsMatching(l.work, k.app, ask[condition], condition)
		if err != nil {
			if j := judge(err); j.known == refused && j.charge == chargeJobs {
				continue // a condition that cannot be asked for is left to kintone's own check
			}
			return err
		}
		if k.met == nil {
			k.met = make(conditions)
		}
		k.met[condition] = make(map[int64]bool, len(ask[condition]))
		for _, id := range ask[condition] {
			k.met[condition][id] = met[id]
		}
	}
	return nil
}

// read reads records by id.
func (l *lane) read(app kintone.App, fields kintone.Fields, ids []int64) (map[int64]*kintone.Record, error) {
	list, err := l.client.RecordsByID(l.work, app, fields, ids)
	if err != nil {
		return nil, err
	}
	records := make(map[int64]*kintone.Record, len(list))
	for i := range list {
		records[list[i].ID] = &list[i]
	}
	return records, nil
}

// looked judges the jobs whose records were read.
func (l *lane) looked(k *look, err error) error {
	l.reading = false
	now := time.Now()
	if k.fields != nil {
		l.fields = *k.fields
	}
	if err != nil {
		for _, t := range k.tasks {
			l.backlog.reopen(t)
		}
		l.swept = false
		l.missed(k)
		j := judge(err)
		if j.charge == chargeJobs {
			j.charge = chargeApp // a read names no record
		}
		l.looks++
		l.lookAfter = now.Add(backOff(l.looks, time.Minute, j.after))
		l.failed(j)
		return nil
	}
	l.looks, l.lookAfter = 0, time.Time{}
	l.tongues = k.tongues
	if k.failed == nil {
		l.pool = min(2*l.pool, kintone.MaxRecords)
	}
	if k.process != nil {
		l.process, l.readAt, l.suspect = k.process, now, false
	}
	unable := finding{}
	for _, t := range k.tasks {
		var found finding
		switch reason, f := l.over(t), k.finds[t]; {
		case reason != "":
			l.decide(cancelled(t, reason))
		case f != nil:
			if found, err = l.found(t, f, k.met, now); err != nil {
				return err
			}
		case t.unbound():
			l.backlog.reopen(t) // nobody answered
		case l.change.on():
			l.backlog.reopen(t) // the settings that it would be judged by are about to change
		default:
			found = l.weigh(t, k.records[t.record], k.met, now)
		}
		if found.fate == appUnable {
			unable = found
		}
	}
	if unable.fate == appUnable {
		l.stop(unable.reason, unable.message, 0)
	} else if k.heard {
		l.passed(false)
	} else {
		l.halt.probing = false // nothing was asked, so nothing is known
	}
	if k.failed != nil {
		l.missed(k)
	}
	return nil
}

// weigh judges one job by what was read of its record, and by which conditions it meets.
func (l *lane) weigh(t *task, r *kintone.Record, met conditions, now time.Time) finding {
	found := inspectJob(*t.job, r, l.process, l.fields, l.us, l.badUsers, now)
	found.step = min(found.step, l.step)
	if condition := found.action.FilterCond; found.fate == fit && condition != "" {
		if yes, asked := met[condition][t.record]; asked && !yes {
			found = finding{fate: unfit, reason: ReasonConditionUnmet, code: "GAIA_IL03", bySettings: true,
				message: fmt.Sprintf("action %q is for records that satisfy %s, and this one does not", t.job.Action, condition)}
		}
	}
	if ours, ok := l.tongues.names[t.job.Action]; ok && found.reason == ReasonActionUnknown {
		found.message += fmt.Sprintf("; %q is what %q is called in another language", t.job.Action, ours)
	}
	switch found.fate {
	case fit:
		t.pin, t.pinAt = r, now
		l.backlog.markFit(t, found)
	case already:
		l.decide(verdict{task: t, outcome: queue.Already, revision: r.Revision})
	case unfit:
		l.decide(l.failure(t, found, ""))
	case appUnable:
		l.backlog.reopen(t)
	}
	return found
}

// failure is the verdict that the ladder gives a job.
func (l *lane) failure(t *task, found finding, request string) verdict {
	v := verdict{task: t, reason: found.reason, code: found.code, message: found.message, request: request, attempt: true}
	if found.fate == already {
		v.outcome, v.attempt = queue.Already, false
		return v
	}
	if n := spent(t.attempts); ladder(found.reason, n, l.cfg.Attempts) {
		v.due = time.Now().Add(pause(n+1, l.cfg.Backoff, rand.Float64))
		if grid := pause(n+1, l.cfg.Backoff, func() float64 { return 0.5 }) / 4; grid > 0 {
			v.due = v.due.Truncate(grid).Add(grid) // so that those that failed together are read together
		}
		return v
	}
	v.outcome = queue.Dead
	return v
}
