package dispatch

import (
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
	records map[int64]*kintone.Record
	process *kintone.Process // when the settings were read again
	fields  *kintone.Fields
}

// inspect starts a read of the records whose jobs are first in line.
func (l *lane) inspect() {
	l.backlog.tidy()
	if l.reading || len(l.backlog.fit) >= kintone.MaxRecords || time.Now().Before(l.lookAfter) {
		return
	}
	if !mayRead(len(l.backlog.toRead), kintone.MaxRecords, l.out, len(l.backlog.fit), l.moreComing()) {
		return
	}
	if tasks := l.backlog.nextToRead(kintone.MaxRecords); len(tasks) > 0 {
		l.lookAt(tasks)
	}
}

// lookAt reads the records of the tasks. Without any it only reads the settings again.
func (l *lane) lookAt(tasks []*task) {
	l.reading = true
	var (
		process   = l.process
		fields    = l.fields
		stale     = time.Since(l.readAt) > freshSettings
		ids       = make([]int64, len(tasks))
		unfitting = func(t *task, records map[int64]*kintone.Record) bool {
			found := inspectJob(*t.job, records[t.record], process, fields, l.us, nil, time.Now())
			return found.fate == appUnable || found.fate != fit && found.bySettings && stale
		}
	)
	for i, t := range tasks {
		ids[i] = t.record
	}
	l.wg.Go(func() {
		k := &look{tasks: tasks}
		err := func() error {
			if len(ids) > 0 {
				failpoint.Hit("look.asking")
				records, err := l.read(fields, ids)
				if err != nil {
					return err
				}
				k.records = records
				failpoint.Hit("look.read")
			}
			if len(tasks) == 0 || slices.ContainsFunc(tasks, func(t *task) bool { return unfitting(t, k.records) }) {
				// No job dies of settings that somebody may have mended meanwhile.
				p, err := l.client.Process(l.work, l.app)
				if err != nil {
					return err
				}
				k.process = p
				f, err := l.client.FormFields(l.work, l.app)
				if err != nil {
					return err
				}
				k.fields = &f
			}
			return nil
		}()
		l.answer(answer{look: k, err: err})
	})
}

// read reads records by id.
func (l *lane) read(fields kintone.Fields, ids []int64) (map[int64]*kintone.Record, error) {
	list, err := l.client.RecordsByID(l.work, l.app, fields, ids)
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
func (l *lane) looked(k *look, err error) {
	l.reading = false
	now := time.Now()
	if err != nil {
		for _, t := range k.tasks {
			l.backlog.reopen(t)
		}
		j := judge(err)
		if j.charge == chargeJobs {
			j.charge = chargeApp // a read names no record
		}
		l.looks++
		l.lookAfter = now.Add(backOff(l.looks, time.Minute, j.after))
		l.failed(j)
		return
	}
	l.looks, l.lookAfter = 0, time.Time{}
	if k.process != nil {
		l.process, l.readAt = k.process, now
		if k.fields != nil {
			l.fields = *k.fields
		}
	}
	unable := finding{}
	for _, t := range k.tasks {
		if found := l.weigh(t, k.records[t.record], now); found.fate == appUnable {
			unable = found
		}
	}
	if unable.fate == appUnable {
		l.stop(unable.reason, unable.message, 0)
	} else {
		l.passed(false)
	}
}

// weigh judges one job by what was read of its record.
func (l *lane) weigh(t *task, r *kintone.Record, now time.Time) finding {
	found := inspectJob(*t.job, r, l.process, l.fields, l.us, l.badUsers, now)
	found.step = min(found.step, l.step)
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
