package queue

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Subjects, below a prefix that is "statusq" unless configured. Every part is one token, so that the parts can be read
// back without knowing what was in them:
//
//	<prefix>.jobs.<site>.<app>
//	<prefix>.slot.<site>.<app>.<n>
//	<prefix>.parked.<site>.<app>.<record>.<job>
//	<prefix>.dead.<site>.<app>.<campaign>.<job>
//	<prefix>.results.<site>.<app>.<campaign>.<request>
//	<prefix>.audit.<site>.<app>.<what>
//
// Publishers choose ids and campaigns, so two subjects are compared by their parts: as strings, "a" would begin "ab".

func jobsSubject(prefix, site string, app int64) string {
	return fmt.Sprintf("%s.jobs.%s.%d", prefix, site, app)
}

func slotSubject(prefix, site string, app int64, n int) string {
	return fmt.Sprintf("%s.slot.%s.%d.%d", prefix, site, app, n)
}

// parkedSubject takes record 0 for a job whose record is not known yet, because its key has not been looked up.
func parkedSubject(prefix, site string, app, record int64, job string) string {
	return fmt.Sprintf("%s.parked.%s.%d.%d.%s", prefix, site, app, record, token(job))
}

func deadSubject(prefix, site string, app int64, campaign, job string) string {
	return fmt.Sprintf("%s.dead.%s.%d.%s.%s", prefix, site, app, token(campaign), token(job))
}

func resultsSubject(prefix, site string, app int64, campaign, request string) string {
	return fmt.Sprintf("%s.results.%s.%d.%s.%s", prefix, site, app, token(campaign), token(request))
}

func auditSubject(prefix, site string, app int64, what string) string {
	return fmt.Sprintf("%s.audit.%s.%d.%s", prefix, site, app, token(what))
}

func parseJobsSubject(prefix, subject string) (site string, app int64, ok bool) {
	site, app, _, ok = parseSubject(prefix, "jobs", subject, 0)
	return site, app, ok
}

func parseSlotSubject(prefix, subject string) (site string, app int64, n int, ok bool) {
	site, app, rest, ok := parseSubject(prefix, "slot", subject, 1)
	if !ok {
		return "", 0, 0, false
	}
	slot, ok := parseNumber(rest[0])
	if !ok || slot > 1<<16 {
		return "", 0, 0, false
	}
	return site, app, int(slot), true
}

func parseParkedSubject(prefix, subject string) (site string, app, record int64, job string, ok bool) {
	site, app, rest, ok := parseSubject(prefix, "parked", subject, 2)
	if !ok {
		return "", 0, 0, "", false
	}
	record, okRecord := parseNumber(rest[0])
	job, okJob := untoken(rest[1])
	if !okRecord || !okJob {
		return "", 0, 0, "", false
	}
	return site, app, record, job, true
}

func parseDeadSubject(prefix, subject string) (site string, app int64, campaign, job string, ok bool) {
	return parseTwoTokens(prefix, "dead", subject)
}

func parseResultsSubject(prefix, subject string) (site string, app int64, campaign, request string, ok bool) {
	return parseTwoTokens(prefix, "results", subject)
}

func parseAuditSubject(prefix, subject string) (site string, app int64, what string, ok bool) {
	site, app, rest, ok := parseSubject(prefix, "audit", subject, 1)
	if !ok {
		return "", 0, "", false
	}
	if what, ok = untoken(rest[0]); !ok {
		return "", 0, "", false
	}
	return site, app, what, true
}

func parseTwoTokens(prefix, kind, subject string) (site string, app int64, first, second string, ok bool) {
	site, app, rest, ok := parseSubject(prefix, kind, subject, 2)
	if !ok {
		return "", 0, "", "", false
	}
	first, okFirst := untoken(rest[0])
	second, okSecond := untoken(rest[1])
	if !okFirst || !okSecond {
		return "", 0, "", "", false
	}
	return site, app, first, second, true
}

// parseSubject reads the parts that all subjects have in common and hands back the further ones, of which there must be
// exactly that many. It accepts only what the functions above could have written: one subject for one meaning.
func parseSubject(prefix, kind, subject string, further int) (site string, app int64, rest []string, ok bool) {
	tail, ok := strings.CutPrefix(subject, prefix+"."+kind+".")
	if !ok {
		return "", 0, nil, false
	}
	parts := strings.Split(tail, ".")
	if len(parts) != 2+further || !validSite(parts[0]) {
		return "", 0, nil, false
	}
	app, ok = parseNumber(parts[1])
	if !ok || !validApp(app) {
		return "", 0, nil, false
	}
	return parts[0], app, parts[2:], true
}

var (
	sitePattern  = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
	plainPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

func validSite(site string) bool { return sitePattern.MatchString(site) }

// validApp allows the 18 digits that the schema of a job allows.
func validApp(app int64) bool { return app > 0 && app < 1e18 }

// parseNumber reads a number that is not negative, written in the one way that strconv writes it.
func parseNumber(part string) (int64, bool) {
	n, err := strconv.ParseInt(part, 10, 64)
	return n, err == nil && n >= 0 && strconv.FormatInt(n, 10) == part
}

// token makes one subject token of any text: as it is where that is plain, else "=" and base64url, and "=" alone for
// none. Two texts never share a token, and untoken gives the text back.
func token(text string) string {
	if plainPattern.MatchString(text) {
		return text
	}
	return "=" + base64.RawURLEncoding.EncodeToString([]byte(text))
}

// untoken reports false for what token never writes, so that no text has two tokens either.
func untoken(part string) (string, bool) {
	code, coded := strings.CutPrefix(part, "=")
	if !coded {
		return part, plainPattern.MatchString(part)
	}
	text, err := base64.RawURLEncoding.DecodeString(code)
	if err != nil || token(string(text)) != part {
		return "", false
	}
	return string(text), true
}
