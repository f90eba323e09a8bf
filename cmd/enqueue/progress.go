package main

import (
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"statusq/internal/campaign"
	"statusq/internal/queue"
)

const (
	// linesEvery is how many published jobs there are to a line where nobody watches a bar.
	linesEvery = 2000
	// quiet is the least time between two lines about jobs that end.
	quiet = 10 * time.Second
)

// progress shows on stderr how far something is: as a bar on a terminal, else as lines that read well in a log.
type progress struct {
	e     *env
	verb  string
	total int
	bar   *progressbar.ProgressBar // nil: lines

	shown  int       // the count in the last line
	last   time.Time // of the last line about jobs that ended
	ending string    // the last line itself
}

func (e *env) progress(verb string, total int) *progress {
	p := &progress{e: e, verb: verb, total: total}
	if isTerminal(e.stderr) && total > 0 {
		p.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(e.stderr), progressbar.OptionSetWidth(24),
			progressbar.OptionShowCount(), progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionSetDescription(word(e.Lang, verb)))
	}
	return p
}

// published shows that n jobs have been published.
func (p *progress) published(n int) {
	switch {
	case p.bar != nil:
		_ = p.bar.Set(n) // a bar that cannot be drawn is no reason to stop
	case n/linesEvery > p.shown/linesEvery || n == p.total && p.total > linesEvery:
		p.e.say("%s %d of %s%s", word(p.e.Lang, p.verb), n, count(p.e.Lang, p.total, "job"), "")
		p.shown = n
	}
}

// ended shows how many jobs have ended in which way, how fast it goes and how long the rest will take.
func (p *progress) ended(t *campaign.Tally, now time.Time) {
	lang := p.e.Lang
	done, all := t.Steps()
	var parts []string
	if ended, jobs := t.Matched(); jobs > 0 {
		parts = append(parts, in(lang, "%d of %s", ended, count(lang, jobs, "matched record")))
	}
	if counts := endings(t, lang); counts != "" {
		parts = append(parts, counts)
	}
	if rate := t.Rate(now); rate > 0 && !t.Done() {
		parts = append(parts, in(lang, "%.3g/s", rate))
		if left, ok := t.Left(now); ok {
			parts = append(parts, in(lang, "%s left", span(lang, left)))
		}
	}
	text := strings.Join(parts, word(lang, ", "))
	if p.bar != nil {
		p.bar.Describe(text)
		if all != p.total { // jobs have become several
			p.total = all
			p.bar.ChangeMax(all)
		}
		_ = p.bar.Set(done)
		return
	}
	if text == p.ending || now.Sub(p.last) < quiet && !t.Done() {
		return
	}
	p.ending, p.last = text, now
	if text != "" {
		text = in(lang, " (%s)", text)
	}
	p.e.say("%s %d of %s%s", word(lang, p.verb), t.Ended(), count(lang, t.Total(), "job"), text)
}

// waiting says what the jobs wait for, or that it has passed.
func (p *progress) waiting(why []string) {
	if len(why) == 0 {
		p.say("nothing holds the jobs up any more")
	}
	for _, line := range why {
		p.say("waiting: %s", line)
	}
}

// say writes a line that stays, above the bar if there is one.
func (p *progress) say(format string, args ...any) {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	p.e.say("%s", printable(in(p.e.Lang, format, args...)))
}

// close takes the bar away.
func (p *progress) close() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}

// outcomes is the order in which they are told.
var outcomes = []queue.Outcome{queue.Applied, queue.Already, queue.Duplicate, queue.Cancelled, queue.Dead, queue.Unknown}

// endings counts the outcomes in words: "1190 applied, 10 dead".
func endings(t *campaign.Tally, lang string) string {
	var parts []string
	for _, o := range outcomes {
		if n := t.Count(o); n > 0 {
			parts = append(parts, in(lang, "%d %s", n, word(lang, string(o))))
		}
	}
	return strings.Join(parts, word(lang, ", "))
}
