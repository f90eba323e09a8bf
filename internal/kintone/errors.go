package kintone

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// ErrInvalidRequest is in the chain of an *Error whose request was refused here, before anything was sent: no
// credentials, too many records, an impossible id. Sending it again is of no use.
var ErrInvalidRequest = errors.New("invalid request")

// ErrNoCredentials is the reason why a request for an app was refused here that has no token where the site has none
// either.
var ErrNoCredentials = errors.New("no credentials: neither a username nor an API token for this app")

// Error is the one error of every call.
type Error struct {
	// Op is the method and the API, such as "PUT records/status.json". A read that travels as POST is named "GET".
	Op  string
	App int64

	// Status is the HTTP status; 0 when no answer came.
	Status int

	// Code, Message and ID are kintone's. Branch on Code alone: kintone writes Message in the language of the user
	// (docs/kintone.md 2.1), and has changed the HTTP status of codes over the years. ID is what its support asks for.
	// If Code is empty the answer is not kintone's, or not what was asked for, and Message tells in our words.
	Code, Message, ID string

	// Errors are the complaints of CB_VA01 by the path of the parameter, such as "records[3].id". Other codes have none.
	Errors map[string][]string

	// Indexes are the members of the request that Errors names by position; sorted, each once, within the request.
	Indexes []int

	// Records are the record ids that the text of GAIA_RE01 names; sorted, each once.
	Records []int64

	// User is the user code that the text of GAIA_IL26 names.
	User string

	// MayHaveActed says that the request may have taken effect, or may do so later: everything but a definite refusal by
	// kintone and a failure before the first byte left. It is false for all reads.
	MayHaveActed bool

	// NotSent says that no byte of the request left: refused here, gate closed, context ended while waiting, no connection.
	NotSent bool

	// RetryAfter is how long the answer asks to wait; 0 when it does not, an hour at most.
	RetryAfter time.Duration

	// Signing is Client.Signing as it was when the request was signed; 0 if it never was.
	Signing int

	// Err is the failure below HTTP, with URL, headers and secrets taken out; nil when a whole answer came.
	Err error
}

// Error says, from outside in, which app, which call and what happened.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "app %d: %s: ", e.App, e.Op)
	switch {
	case e.NotSent:
		b.WriteString("not sent")
	case e.Status == 0:
		b.WriteString("no answer")
	default:
		fmt.Fprintf(&b, "HTTP %d", e.Status)
	}
	if e.Code != "" {
		b.WriteString(" " + e.Code)
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	for _, path := range e.paths() {
		fmt.Fprintf(&b, "; %s: %s", path, strings.Join(e.Errors[path], ", "))
	}
	if e.ID != "" {
		fmt.Fprintf(&b, " (id %s)", e.ID)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// mostPaths is how many complaints Error prints; the rest is in Errors.
const mostPaths = 5

func (e *Error) paths() []string {
	var paths []string
	for path := range e.Errors {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths[:min(len(paths), mostPaths)]
}

// Texts that a server sends are cut to these lengths in bytes, and stripped of what could confuse a log or a terminal.
const (
	maxText      = 2048
	maxComplaint = 256 // of a path in CB_VA01, and of each of its messages
	maxID        = 64

	mostComplaints = 4 // messages kept for one path
)

// codePattern is the shape of kintone's codes (docs/kintone.md 2.3). A proxy's {"code":403} or {"code":"forbidden"} does
// not have it.
var codePattern = regexp.MustCompile(`^(GAIA|CB|SLASH)_[A-Z]{2,4}[0-9]{1,4}$`)

// refusals520 are the codes that are known to say "nothing was done". kintone answered them with HTTP 520 before it
// moved to 4xx (docs/kintone.md 2.1); 520 with any other code is an unknown error and decides nothing.
var refusals520 = map[string]bool{
	"CB_AU01": true, "CB_IJ01": true, "CB_IL02": true, "CB_NO02": true, "CB_TW02": true, "CB_VA01": true, "CB_WA01": true,
	"GAIA_AP01": true, "GAIA_AP15": true, "GAIA_CO02": true, "GAIA_CO03": true, "GAIA_DA02": true, "GAIA_IA02": true,
	"GAIA_IL03": true, "GAIA_IL08": true, "GAIA_IL23": true, "GAIA_IL26": true, "GAIA_IL28": true, "GAIA_IQ03": true,
	"GAIA_IQ07": true, "GAIA_IQ10": true, "GAIA_IQ11": true, "GAIA_NO01": true, "GAIA_NT01": true, "GAIA_QU01": true,
	"GAIA_QU02": true, "GAIA_RE01": true, "GAIA_SA01": true, "GAIA_SA04": true, "GAIA_ST02": true, "GAIA_UN03": true,
}

var (
	indexPattern = regexp.MustCompile(`^records\[([0-9]{1,3})\]`)
	// "The specified record (ID: 4444) is not found.", and the same with full-width colon and brackets in Japanese.
	recordPattern = regexp.MustCompile(`(?i)\bid\s*[:：]\s*([1-9][0-9]{0,18})`)
	// "The specified user (code：user_notexist) not found." A code may hold brackets itself, so the last one closes.
	userPattern = regexp.MustCompile(`(?i)\bcode\s*[:：]\s*(.+?)\s*[)）][^)）]*$`)
)

// parseError makes an Error of a complete answer that is not a success: a refusal by kintone, or a page of something
// in between. acts says that the request was one that changes things. hide takes secrets out of a text; it comes before
// anything is cut, or half a secret would stay. Op, App and RetryAfter are the caller's to fill.
func parseError(status int, contentType string, body []byte, acts bool, hide func(string) string) *Error {
	e := &Error{Status: status}
	if !e.readEnvelope(body, hide) {
		e.Message = fmt.Sprintf("not an answer of kintone's (%s, %d bytes)", plain(hide(contentType), maxID), len(body))
	}
	refused := e.Code != "" && (400 <= status && status < 500 || status == 520 && refusals520[e.Code])
	e.MayHaveActed = acts && !refused
	return e
}

// readEnvelope fills e from {code, id, message, errors} and reports whether body is that.
func (e *Error) readEnvelope(body []byte, hide func(string) string) bool {
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) != nil {
		return false
	}
	code := text(members["code"])
	if !codePattern.MatchString(code) {
		return false
	}
	message := text(members["message"])
	e.Code = code
	e.Message = plain(hide(message), maxText)
	e.ID = plain(hide(text(members["id"])), maxID)

	switch code {
	case "CB_VA01":
		e.readErrors(members["errors"], hide)
	case "GAIA_RE01":
		for _, m := range recordPattern.FindAllStringSubmatch(message, -1) {
			if id, err := strconv.ParseInt(m[1], 10, 64); err == nil {
				e.Records = append(e.Records, id)
			}
		}
		slices.Sort(e.Records)
		e.Records = slices.Compact(e.Records)
	case "GAIA_IL26":
		if m := userPattern.FindStringSubmatch(message); m != nil {
			e.User = plain(hide(m[1]), maxText)
		}
	}
	return true
}

// readErrors fills Errors and Indexes. A member of another shape (some answers carry "errors": "{}") is passed over.
func (e *Error) readErrors(raw json.RawMessage, hide func(string) string) {
	var byPath map[string]json.RawMessage
	if json.Unmarshal(raw, &byPath) != nil {
		return
	}
	for path, raw := range byPath {
		var complaint struct {
			Messages []string `json:"messages"`
		}
		if json.Unmarshal(raw, &complaint) != nil {
			continue
		}
		if e.Errors == nil {
			e.Errors = make(map[string][]string)
		}
		messages := complaint.Messages[:min(len(complaint.Messages), mostComplaints)]
		for i, m := range messages {
			messages[i] = plain(hide(m), maxComplaint)
		}
		e.Errors[plain(hide(path), maxComplaint)] = messages
		if m := indexPattern.FindStringSubmatch(path); m != nil {
			n, _ := strconv.Atoi(m[1]) // at most three digits
			e.Indexes = append(e.Indexes, n)
		}
	}
	slices.Sort(e.Indexes)
	e.Indexes = slices.Compact(e.Indexes)
}

// retryAfter reads a Retry-After header, in seconds or as a date, of an answer that came just now.
func retryAfter(h http.Header) time.Duration {
	const most = time.Hour
	value := h.Get("Retry-After")
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		return time.Duration(min(max(seconds, 0), int64(most/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(time.Until(at), 0), most)
	}
	return 0
}

// text returns a JSON string's value, "" for anything else.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// plain makes a stranger's text safe to print: valid UTF-8, no control or formatting characters (which could forge log
// lines, drive a terminal or turn text around), at most n bytes.
func plain(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > n {
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	s = strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			return ' '
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}
