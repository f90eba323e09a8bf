package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Campaign is a set of jobs that were published together.
type Campaign struct {
	V            int               `json:"v"`
	Name         string            `json:"name"`
	Site         string            `json:"site"`
	FileSHA256   string            `json:"fileSha256,omitempty"`
	By           string            `json:"by,omitempty"`
	Total        int               `json:"total"`
	Published    int               `json:"published"` // how far publishing got
	Started      time.Time         `json:"started"`
	Finished     time.Time         `json:"finished,omitzero"`  // of publishing
	Cancelled    time.Time         `json:"cancelled,omitzero"` // jobs not yet sent are not to be sent
	CancelledBy  string            `json:"cancelledBy,omitempty"`
	CancelledWhy string            `json:"cancelledWhy,omitempty"` // reason code; "" = somebody wanted it
	MaxDead      *int              `json:"maxDead,omitempty"`      // more dead than this cancel the rest; nil = any number
	Options      map[string]string `json:"options,omitempty"`
}

// PutCampaign stores a campaign as it is, over whatever was there.
func (q *Queue) PutCampaign(ctx context.Context, c Campaign) error {
	return q.UpdateCampaign(ctx, c.Name, func(have *Campaign) error {
		*have = c
		return nil
	})
}

// UpdateCampaign changes a campaign by compare-and-swap, so that the progress of its publisher and the cancellation of
// an operator do not undo each other. One that is not there is handed to change with nothing but its name. A change can be
// asked for more than once, and may find its own effect; an error of it ends the update.
func (q *Queue) UpdateCampaign(ctx context.Context, name string, change func(*Campaign) error) error {
	err := update(ctx, q, q.bucket("campaigns"), token(name), func(c *Campaign) error {
		if err := change(c); err != nil {
			return err
		}
		c.V, c.Name = 1, name
		return nil
	})
	if err != nil {
		return fmt.Errorf("campaign %q: %w", name, err)
	}
	return nil
}

// Campaign reads a campaign. The error wraps [ErrGone] if there is none of that name.
func (q *Queue) Campaign(ctx context.Context, name string) (Campaign, error) {
	var c Campaign
	if err := q.read(ctx, q.bucket("campaigns"), token(name), &c); err != nil {
		return Campaign{}, fmt.Errorf("campaign %q: %w", name, err)
	}
	return c, nil
}

// Campaigns gives all campaigns of a site, or of all sites with "", as they were changed last. One that cannot be read is
// an error of its own, after which the others come.
func (q *Queue) Campaigns(ctx context.Context, site string) iter.Seq2[Campaign, error] {
	return func(yield func(Campaign, error) bool) {
		bucket := q.bucket("campaigns")
		for m, err := range q.scan(ctx, "KV_"+bucket, "$KV."+bucket+".*") {
			if err != nil {
				yield(Campaign{}, fmt.Errorf("read campaigns: %w", err))
				return
			}
			if !yieldCampaign(m.stored, site, yield) {
				return
			}
		}
	}
}

// WatchCampaigns gives all campaigns of a site as they are, and then each that changes, until ctx ends. One that cannot be
// read is an error of its own, after which the others come.
func (q *Queue) WatchCampaigns(ctx context.Context, site string) iter.Seq2[Campaign, error] {
	return func(yield func(Campaign, error) bool) {
		bucket := q.bucket("campaigns")
		r := q.newReader("KV_"+bucket, 0, "$KV."+bucket+".*")
		defer r.abandon()
		for {
			m, err := r.next(ctx)
			if err != nil {
				yield(Campaign{}, fmt.Errorf("watch campaigns: %w", err))
				return
			}
			if !yieldCampaign(m.stored, site, yield) {
				return
			}
		}
	}
}

// yieldCampaign hands out a campaign if it is of the site, and reports whether to go on.
func yieldCampaign(m stored, site string, yield func(Campaign, error) bool) bool {
	if m.gone() {
		return true
	}
	var of struct {
		Site string `json:"site"`
	}
	if err := json.Unmarshal(m.Data, &of); err == nil && site != "" && of.Site != site {
		return true // whatever its form
	}
	var c Campaign
	if err := decode(m, &c); err != nil {
		return yield(Campaign{Site: of.Site}, fmt.Errorf("campaign in %s: %w", m.Subject, err))
	}
	return yield(c, nil)
}

// Pause stops the sending for a site or an app.
type Pause struct {
	By     string    `json:"by,omitempty"`
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // zero = until somebody resumes
}

// Facts is what was learned about an app.
type Facts struct {
	AppName     string    `json:"appName,omitempty"`
	Domain      string    `json:"domain,omitempty"`      // of a site: the host that its owner reaches kintone at
	StatusField string    `json:"statusField,omitempty"` // its field code
	Step        int       `json:"step,omitempty"`        // by how much one action raises the revision; 0 = not known
	Learned     time.Time `json:"learned,omitzero"`
}

// Control is what operators want of a site or an app, and what is known of it.
type Control struct {
	V     int    `json:"v"`
	Pause *Pause `json:"pause,omitempty"` // nil = not paused
	Facts *Facts `json:"facts,omitempty"` // nil = nothing learned

	Site string `json:"-"` // filled in by reading
	App  int64  `json:"-"` // filled in by reading; 0 = the site as a whole
}

// PutFacts stores what was learned about an app.
func (q *Queue) PutFacts(ctx context.Context, site string, app int64, facts Facts) error {
	return q.control(ctx, site, app, func(c *Control) { c.Facts = &facts })
}

// Facts reads what was learned about an app. The error wraps [ErrGone] if it is nothing.
func (q *Queue) Facts(ctx context.Context, site string, app int64) (Facts, error) {
	var c Control
	err := q.read(ctx, q.bucket("control"), controlKey(site, app), &c)
	if err == nil && c.Facts == nil {
		err = ErrGone
	}
	if err != nil {
		return Facts{}, fmt.Errorf("facts of app %d: %w", app, err)
	}
	return *c.Facts, nil
}

// Sites names the sites that a worker has owned, in alphabetical order. There are none before the first has run.
func (q *Queue) Sites(ctx context.Context) ([]string, error) {
	domains, err := q.domains(ctx)
	if err != nil {
		return nil, fmt.Errorf("read sites: %w", err)
	}
	return slices.Sorted(maps.Keys(domains)), nil
}

// domains gives the domain of each site that a worker has owned.
func (q *Queue) domains(ctx context.Context) (map[string]string, error) {
	domains := make(map[string]string)
	for m, err := range q.scan(ctx, "KV_"+q.bucket("control"), "$KV."+q.bucket("control")+".*") {
		if err == nil && m.gone() {
			continue
		}
		var c Control
		if err == nil {
			c, err = q.decodeControl(m.stored)
		}
		if err != nil {
			return nil, err
		}
		if c.Facts != nil && c.Facts.Domain != "" {
			domains[c.Site] = c.Facts.Domain
		}
	}
	return domains, nil
}

// SiteOfDomain returns the site whose owner reaches kintone at a domain, which may be written as in a browser
// ("https://c-bot.cybozu.com/") and with or without the .s. of hosts that ask for a client certificate. One with a port
// means that port; one without means any. A site that is given ("" = any) must be that one. The error says which domains
// are known: those at which a worker has owned a site.
func (q *Queue) SiteOfDomain(ctx context.Context, domain, site string) (string, error) {
	domains, err := q.domains(ctx)
	if err != nil {
		return "", fmt.Errorf("site of domain %q: %w", domain, err)
	}
	var sites, known []string
	for name, of := range domains {
		if isDomain(of, domain) {
			sites = append(sites, name)
		}
		known = append(known, fmt.Sprintf("%s (site %s)", of, name))
	}
	slices.Sort(sites)
	slices.Sort(known)
	switch {
	case site != "" && slices.Contains(sites, site):
		return site, nil
	case site != "" && len(sites) > 0:
		return "", fmt.Errorf("domain %q belongs to site %s, not to %s", domain, strings.Join(sites, " and "), site)
	case len(sites) > 1:
		return "", fmt.Errorf("domain %q belongs to the sites %s: say which", domain, strings.Join(sites, ", "))
	case len(sites) == 1:
		return sites[0], nil
	case len(known) == 0:
		return "", fmt.Errorf("domain %q: %w: no worker has told its domain yet", domain, ErrGone)
	}
	return "", fmt.Errorf("domain %q: %w: known are %s", domain, ErrGone, strings.Join(known, ", "))
}

// isDomain reports whether a site's domain is the one that is meant. A site's that has no port is at the usual one of its
// scheme, which it does not tell.
func isDomain(of, meant string) bool {
	host, port := plainHost(of)
	meantHost, meantPort := plainHost(meant)
	switch {
	case host != meantHost:
		return false
	case port == "":
		return meantPort == "" || meantPort == "443" || meantPort == "80"
	}
	return meantPort == "" || meantPort == port
}

// plainHost is a domain as domains are compared: without scheme and path, in lower case, without the label s that kintone
// puts behind the subdomain for those who bring a client certificate (JAVA: example.s.cybozu.com), and its port, if any.
func plainHost(domain string) (host, port string) {
	host = strings.ToLower(strings.TrimSpace(domain))
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host = rest
	}
	host, _, _ = strings.Cut(host, "/")
	if name, after, ok := strings.Cut(host, ":"); ok && !strings.Contains(after, ":") {
		host, port = name, after
	} else if i := strings.LastIndex(host, "]:"); i >= 0 { // [::1]:8080
		host, port = host[:i+1], host[i+2:]
	}
	host = strings.TrimSuffix(host, ".")
	if labels := strings.Split(host, "."); len(labels) > 3 && labels[1] == "s" {
		host = strings.Join(slices.Delete(labels, 1, 2), ".")
	}
	return host, port
}

// SetPause pauses an app, or a whole site with app 0; nil resumes it.
func (q *Queue) SetPause(ctx context.Context, site string, app int64, p *Pause) error {
	return q.control(ctx, site, app, func(c *Control) { c.Pause = p })
}

// Controls gives what is stored for a site and its apps.
func (q *Queue) Controls(ctx context.Context, site string) ([]Control, error) {
	var controls []Control
	for m, err := range q.scan(ctx, "KV_"+q.bucket("control"), q.controlFilters(site)...) {
		if err == nil && m.gone() {
			continue
		}
		var c Control
		if err == nil {
			c, err = q.decodeControl(m.stored)
		}
		if err != nil {
			return nil, fmt.Errorf("read controls of %s: %w", site, err)
		}
		controls = append(controls, c)
	}
	return controls, nil
}

// WatchControl gives what is stored for a site and its apps, and then each change, until ctx ends.
func (q *Queue) WatchControl(ctx context.Context, site string) iter.Seq2[Control, error] {
	return func(yield func(Control, error) bool) {
		r := q.newReader("KV_"+q.bucket("control"), 0, q.controlFilters(site)...)
		defer r.abandon()
		for {
			m, err := r.next(ctx)
			if err == nil && m.gone() {
				continue
			}
			var c Control
			if err == nil {
				c, err = q.decodeControl(m.stored)
			}
			if err != nil {
				yield(Control{}, fmt.Errorf("watch controls of %s: %w", site, err))
				return
			}
			if !yield(c, nil) {
				return
			}
		}
	}
}

func (q *Queue) control(ctx context.Context, site string, app int64, change func(*Control)) error {
	err := update(ctx, q, q.bucket("control"), controlKey(site, app), func(c *Control) error {
		change(c)
		c.V = 1
		return nil
	})
	if err != nil {
		return fmt.Errorf("control of app %d: %w", app, err)
	}
	return nil
}

func controlKey(site string, app int64) string {
	if app == 0 {
		return site
	}
	return site + "." + strconv.FormatInt(app, 10)
}

func (q *Queue) controlFilters(site string) []string {
	subject := "$KV." + q.bucket("control") + "." + site
	return []string{subject, subject + ".*"}
}

func (q *Queue) decodeControl(m stored) (Control, error) {
	var c Control
	if err := decode(m, &c); err != nil {
		return c, err
	}
	key := strings.TrimPrefix(m.Subject, "$KV."+q.bucket("control")+".")
	site, app, ofApp := strings.Cut(key, ".")
	c.Site = site
	if ofApp {
		n, ok := parseNumber(app)
		if !ok {
			return c, fmt.Errorf("key %q: not an app", key)
		}
		c.App = n
	}
	return c, nil
}

// read reads a key from the leader of its bucket, with patience while one is being voted.
func (q *Queue) read(ctx context.Context, bucket, key string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, publishPatience)
	defer cancel()
	for attempt := 0; ; attempt++ {
		m, err := q.last(ctx, "KV_"+bucket, "$KV."+bucket+"."+key)
		switch {
		case err == nil && m.gone():
			return ErrGone
		case err == nil:
			return decode(m, into)
		case !isPassing(err), !pause(ctx, attempt):
			return err
		}
	}
}

// update changes a key by compare-and-swap. A lost swap reads again.
func update[T any](ctx context.Context, q *Queue, bucket, key string, change func(*T) error) error {
	ctx, cancel := context.WithTimeout(ctx, publishPatience)
	defer cancel()
	stream, subject := "KV_"+bucket, "$KV."+bucket+"."+key
	for attempt := 0; ; attempt++ {
		var value T
		m, err := q.last(ctx, stream, subject)
		if err == nil && !m.gone() {
			if err := decode(m, &value); err != nil {
				return err
			}
		}
		if err == nil {
			if err := change(&value); err != nil {
				return err
			}
			if err = q.put(ctx, stream, subject, m.Seq, value); err == nil {
				return nil
			}
		}
		if errors.Is(err, ErrNoQueue) || refusal(err) != 0 && !isSwapRefused(err) && !isPassing(err) || !pause(ctx, attempt) {
			return err
		}
	}
}

// put writes a value over the message at sequence expected, in one attempt.
func (q *Queue) put(ctx context.Context, stream, subject string, expected uint64, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = q.write(ctx, stream, subject, expected, data, nil)
	return err
}

// write is put for any message. It gives the sequence.
func (q *Queue) write(ctx context.Context, stream, subject string, expected uint64, data []byte, header nats.Header) (uint64, error) {
	m := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{
		headerStream: {stream}, headerExpected: {strconv.FormatUint(expected, 10)}}}
	maps.Copy(m.Header, header)
	seq, _, err := q.send(ctx, []*nats.Msg{m})
	if err != nil {
		return 0, q.unanswered(ctx, stream, err)
	}
	return seq, nil
}
