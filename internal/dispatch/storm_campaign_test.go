package dispatch

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"statusq/internal/queue"
)

// A venture is a campaign in a storm: somebody cancels it on the way, or it may have so many dead, or both.
type venture struct {
	cancelled time.Duration // after the beginning; 0 = by nobody
	most      *int
	held      []queue.Job          // published when all is over
	sent      map[uint64]time.Time // when jobs were published, by their place in the log
}

const ventureName = "month-end"

// heardBy is how long a campaign has ended when every owner knows.
const heardBy = 2 * time.Minute

// join makes a campaign of some of the jobs. The last ones are held back.
func (s *storm) join(r *rand.Rand) *venture {
	v := &venture{sent: make(map[uint64]time.Time)}
	kind := r.IntN(3)
	if kind != 0 {
		v.cancelled = within(r, 30*time.Second, 5*time.Minute)
	}
	if kind != 1 {
		v.most = new(r.IntN(12))
	}
	for i := range s.jobs {
		if chance(r, 50) {
			s.jobs[i].Campaign = ventureName
		}
	}
	const last = 3
	v.held = slices.Clone(s.jobs[len(s.jobs)-last:])
	s.jobs = s.jobs[:len(s.jobs)-last]
	for i := range v.held {
		v.held[i].Campaign, v.held[i].Expires = ventureName, time.Time{}
	}
	return v
}

// found puts the campaign into the queue, and has it cancelled when it is time.
func (s *storm) found() {
	v := s.campaign
	store := func(change func(*queue.Campaign)) {
		for s.queue.UpdateCampaign(s.t.Context(), ventureName, func(c *queue.Campaign) error { change(c); return nil }) != nil {
			time.Sleep(time.Second)
		}
	}
	store(func(c *queue.Campaign) {
		c.Site, c.Total, c.Started, c.MaxDead = "main", len(s.jobs), time.Now().UTC(), v.most
	})
	if v.cancelled == 0 {
		return
	}
	s.public.Go(func() {
		time.Sleep(v.cancelled)
		store(func(c *queue.Campaign) {
			if c.Cancelled.IsZero() {
				c.Cancelled, c.CancelledBy = time.Now().UTC(), "operator"
			}
		})
	})
}

// judgeCampaign holds that jobs are cancelled only with their campaign, that it ends for the reason that it gives, and that
// nothing of it is run that came after its end.
func (s *storm) judgeCampaign() error {
	v := s.campaign
	c, err := s.queue.Campaign(s.t.Context(), ventureName)
	if err != nil {
		return err
	}
	var wrong []error
	broken := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf("campaign: "+format, args...)) }
	jobs := make(map[uint64]queue.Job)
	for _, a := range s.h.accepted {
		jobs[a.seq] = a.job
	}
	dead, over := 0, !c.Cancelled.IsZero()
	for _, r := range s.h.results {
		if jobs[r.Seq].Campaign == "" {
			if r.Outcome == queue.Cancelled {
				broken("sequence %d was cancelled, and belongs to none", r.Seq)
			}
			continue
		}
		switch r.Outcome {
		case queue.Cancelled:
			switch {
			case !over:
				broken("sequence %d was cancelled, and the campaign goes on", r.Seq)
			case r.Reason == ReasonCancelled && (v.cancelled == 0 || r.At.Before(c.Cancelled)):
				broken("sequence %d was cancelled at %v, before anybody did that", r.Seq, r.At)
			case r.Reason == ReasonMaxDead && v.most == nil:
				broken("sequence %d was cancelled for too many dead, and there may be any number", r.Seq)
			}
		case queue.Dead, queue.Unknown:
			if r.Reason != queue.ReasonResolvedNotApplied {
				dead++
			}
		}
		late := over && s.campaign.sent[r.Seq].After(c.Cancelled.Add(heardBy))
		if late && (r.Outcome == queue.Applied || r.Outcome == queue.Already || r.Outcome == queue.Unknown) && s.h.operation(r.Seq).retried == 0 {
			broken("sequence %d was published at %v and ended %s; the campaign had ended at %v", r.Seq, s.campaign.sent[r.Seq], r.Outcome, c.Cancelled)
		}
		if late && r.Outcome == queue.Cancelled {
			s.sum.count("cancelled before it was published", 1)
		}
	}
	switch {
	case c.CancelledWhy == ReasonMaxDead:
		s.sum.count("campaign with too many dead", 1)
		if v.most == nil || dead <= *v.most {
			broken("it ended for too many dead, and %d have died", dead)
		}
	case over:
		s.sum.count("campaign cancelled", 1)
	case v.most != nil && dead > *v.most && !s.operator: // who takes letters away makes room for others
		broken("%d have died, %d may, and it goes on", dead, *v.most)
	}
	return errors.Join(wrong...)
}
