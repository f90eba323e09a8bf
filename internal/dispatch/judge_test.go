package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"statusq/internal/kintone"
	"statusq/internal/kintone/simulator"
)

// answering is a site that gives every request the same answer.
type answering struct {
	status int
	body   string
	header http.Header
	err    error
}

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	if a.err != nil {
		return nil, a.err
	}
	if r.Body != nil {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return nil, err
		}
	}
	header := a.header
	if header == nil {
		header = make(http.Header)
	}
	return &http.Response{StatusCode: a.status, Header: header, Body: io.NopCloser(strings.NewReader(a.body)), Request: r}, nil
}

// askFor sends a status request for two records and returns what the client makes of the answer.
func askFor(t *testing.T, transport http.RoundTripper) error {
	t.Helper()
	c, err := kintone.NewClient(kintone.Config{BaseURL: "http://127.0.0.1", Credentials: kintone.Credentials{Tokens: []kintone.Secret{testToken}}, Transport: transport})
	if err != nil {
		t.Fatalf("client: %v", err)
	}
	_, err = c.UpdateStatuses(t.Context(), kintone.App{ID: testApp}, []kintone.StatusChange{
		{Record: 1, Revision: 3, Action: "Start"}, {Record: 2, Revision: 5, Action: "Start", Assignee: "sato"},
	})
	return err
}

func envelope(code, message string) string {
	return fmt.Sprintf(`{"code":%q,"id":"abc","message":%q}`, code, message)
}

type sheetCode struct {
	code     string
	statuses []int
	charge   charge
	decides  bool
	reason   string
}

// sheetCodes are the codes of docs/kintone.md (errors) with what the worker owes each, written down a second time: the
// table in judge.go is held against it.
var sheetCodes = []sheetCode{
	{"GAIA_RE01", []int{404, 400, 520}, chargeJobs, true, ReasonRecordNotFound},
	{"GAIA_IL03", []int{400, 520}, chargeJobs, true, ReasonStatusMismatch},
	{"GAIA_NT01", []int{403, 520}, chargeJobs, true, ReasonNotAssignee},
	{"GAIA_SA01", []int{400, 403, 520}, chargeJobs, true, ReasonAssigneeRequired},
	{"GAIA_SA04", []int{400, 520}, chargeJobs, true, ReasonAssigneeSuperfluous},
	{"GAIA_IL26", []int{400, 520}, chargeJobs, true, ReasonAssigneeUnknown},
	{"GAIA_IL28", []int{400, 520}, chargeJobs, true, ReasonRefused},
	{"GAIA_IL08", []int{400, 520}, chargeJobs, true, ReasonRefused},
	{"GAIA_CO02", []int{409, 520}, chargeJobs, true, ReasonRevisionConflict},
	{"GAIA_UN03", []int{409, 520}, chargeJobs, true, ReasonRevisionConflict},
	{"CB_VA01", []int{400, 520}, chargeJobs, true, ReasonRefused},
	{"CB_NO02", []int{403, 400, 520}, chargeJobs, true, ReasonNoPermission},

	{"GAIA_ST02", []int{400, 520}, chargeApp, false, ReasonProcessDisabled},
	{"GAIA_AP01", []int{404, 400, 520}, chargeApp, false, ReasonAppNotFound},
	{"GAIA_IA02", []int{400, 520}, chargeApp, false, ReasonTokenInvalid},
	{"GAIA_AP15", []int{403, 520}, chargeApp, false, ReasonTokenInvalid},
	{"GAIA_NO01", []int{403, 520}, chargeApp, false, ReasonNoPermission},
	{"GAIA_NO02", []int{403}, chargeApp, false, ReasonNoPermission},
	{"GAIA_IL23", []int{400, 520}, chargeApp, false, ReasonGuestSpaceWrong},
	{"CB_IL02", []int{400, 520}, chargeApp, false, ReasonRefused},
	{"CB_IJ01", []int{400, 520}, chargeApp, false, ReasonRefused},
	{"GAIA_TO03", []int{400}, chargeApp, false, ReasonRefused},

	{"GAIA_DA02", []int{400, 520}, chargeNobody, false, ReasonLocked},
	{"GAIA_RE18", []int{400}, chargeNobody, false, ReasonLocked},
	{"GAIA_LT01", []int{400}, chargeNobody, false, ReasonLocked},
	{"GAIA_TO04", []int{429}, chargeNobody, false, ReasonThrottled},
	{"GAIA_TM12", []int{429}, chargeNobody, false, ReasonThrottled},

	{"CB_AU01", []int{401, 520}, chargeLogin, false, ReasonLoginRefused},
	{"CB_WA01", []int{401, 520}, chargeLogin, false, ReasonLoginRefused},
	{"CB_TW02", []int{401, 403, 520}, chargeLogin, false, ReasonLoginRefused},
}

// strangeCodes have kintone's form, and judge.go has nothing on them.
var strangeCodes = []string{
	"GAIA_ST01", "GAIA_IL28", "GAIA_CO03", "GAIA_CN01", "GAIA_QU01", "GAIA_QU02", "GAIA_IQ03", "GAIA_IQ07", "GAIA_IQ10",
	"GAIA_IQ11", "GAIA_IQ23", "GAIA_IQ25", "GAIA_IQ27", "GAIA_IL08", "GAIA_IR02", "GAIA_UN10", "GAIA_RE20", "GAIA_DB01",
	"CB_ZZ99", "SLASH_ZZ99", "GAIA_XX9999",
}

func TestEveryCodeOfTheSheetIsChargedToTheSmallestThingThatOwnsIt(t *testing.T) {
	for _, tt := range sheetCodes {
		for _, status := range tt.statuses {
			j := judge(askFor(t, answering{status: status, body: envelope(tt.code, "text")}))
			if j.known != refused || !j.listed || j.code != tt.code || j.charge != tt.charge || j.decides != tt.decides || j.reason != tt.reason {
				t.Errorf("HTTP %d %s is judged %+v, want a listed refusal with charge %d, decides %t, reason %s", status, tt.code, j, tt.charge, tt.decides, tt.reason)
			}
		}
	}
	for code := range codes {
		if !slices.ContainsFunc(sheetCodes, func(c sheetCode) bool { return c.code == code }) {
			t.Errorf("judge.go knows %s and this table does not", code)
		}
	}
}

func TestAnAnswerThatIsNotKintonesDecidesNothingAtAnyHTTPStatus(t *testing.T) {
	bodies := map[string]string{
		"a page":                    "<html><title>Sorry</title></html>",
		"nothing":                   "",
		"a proxy's JSON":            `{"code":403,"message":"forbidden"}`,
		"a code of another program": `{"code":"forbidden","message":"no"}`,
		"JSON of no known form":     `[1,2]`,
	}
	for name, body := range bodies {
		for status := 100; status < 600; status++ {
			j := judge(askFor(t, answering{status: status, body: body}))
			want, reason := chargeApp, ReasonNotKintone
			switch {
			case status == 401:
				want, reason = chargeLogin, ReasonLoginRefused
			case status == 429:
				want, reason = chargeNobody, ReasonThrottled
			case status >= 500:
				want, reason = chargeSite, ReasonUnreachable
			}
			if j.known != unclear || j.decides || j.charge != want || j.reason != reason {
				t.Errorf("HTTP %d with %s is judged %+v, want unclear, charge %d, reason %s", status, name, j, want, reason)
			}
		}
	}
}

func TestACodeThatNobodyHasWrittenDownIsIsolatedAndNotFatal(t *testing.T) {
	for status := 100; status < 600; status++ {
		j := judge(askFor(t, answering{status: status, body: envelope("GAIA_ZZ99", "text")}))
		var want judgement
		switch {
		case status == 200: // an envelope is no answer to a success
			want = judgement{known: unclear, charge: chargeApp, reason: ReasonNotKintone}
		case status == 401:
			want = judgement{known: refused, charge: chargeLogin, reason: ReasonLoginRefused}
		case status == 429:
			want = judgement{known: refused, charge: chargeNobody, reason: ReasonThrottled}
		case status == 503:
			want = judgement{known: unclear, charge: chargeSite, reason: ReasonUnreachable}
		case status >= 500:
			want = judgement{known: unclear, charge: chargeApp, reason: ReasonServerError}
		case status >= 400 && status != 403:
			want = judgement{known: refused, charge: chargeJobs, decides: true, reason: ReasonRefused}
		case status == 403:
			continue // what a strange 403 means is the ladder's to say; the properties below hold for it, too
		default:
			want = judgement{known: unclear, charge: chargeSite, reason: ReasonUnreachable}
		}
		if j.known != want.known || j.charge != want.charge || j.decides != want.decides || j.reason != want.reason || j.listed {
			t.Errorf("HTTP %d with an unknown code is judged %+v, want %+v", status, j, want)
		}
	}
}

// What must hold for every answer there is, whatever becomes of the tables.
func TestWhateverTheAnswerTheJudgementIsSafe(t *testing.T) {
	all := slices.Clone(strangeCodes)
	for _, c := range sheetCodes {
		all = append(all, c.code)
	}
	credentials := []string{"GAIA_NO01", "GAIA_NO02", "GAIA_IA02", "GAIA_AP15", "CB_AU01", "CB_WA01", "CB_TW02"}
	transient := []string{"GAIA_DA02", "GAIA_RE18", "GAIA_LT01", "GAIA_TO04", "GAIA_TM12"}
	for status := 100; status < 600; status++ {
		for _, code := range append(all, "") {
			body := "<html></html>"
			if code != "" {
				body = envelope(code, "text")
			}
			err := askFor(t, answering{status: status, body: body})
			e, ok := errors.AsType[*kintone.Error](err)
			if !ok {
				t.Fatalf("HTTP %d %s: the client returned %v, want a *kintone.Error", status, code, err)
			}
			j := judge(err)
			for _, broken := range []struct {
				is   bool
				rule string
			}{
				{j.known == acted, "an error is never taken for success"},
				{j.known == notSent, "an answer proves that the request left"},
				{e.MayHaveActed && j.known != unclear, "what may have acted is unclear and nothing else"},
				{j.known == refused && (status < 400 || status >= 500 && status != 520), "only a 4xx or an old 520 refuses"},
				{j.decides && j.known != refused, "only a refusal decides"},
				{j.decides && j.charge != chargeJobs, "only what is the jobs' matter decides"},
				{j.known == refused && j.charge == chargeJobs && !j.decides, "a job is only charged after a read that decides"},
				{j.decides && (status == 401 || status == 429 || status == 503), "401, 429 and 503 decide nothing"},
				{j.decides && e.Code == "", "an answer that is not kintone's decides nothing"},
				{j.decides && slices.Contains(credentials, code), "credentials decide nothing about a job"},
				{j.decides && slices.Contains(transient, code), "locks and limits decide nothing about a job"},
				{j.reason == "" || j.message == "", "reason and message are told"},
				{j.charge == chargeLogin && status != 401 && !slices.Contains(credentials, code), "only a refused login halts the site for good"},
			} {
				if broken.is {
					t.Errorf("HTTP %d %q is judged %+v; %s", status, code, j, broken.rule)
				}
			}
		}
	}
}

func TestWhatFailsBelowHTTPIsNeverAJobsMatter(t *testing.T) {
	wrapped := fmt.Errorf("lane: %w", &kintone.Error{Op: "PUT records/status.json", App: testApp, Status: 409, Code: "GAIA_CO02"})
	tests := []struct {
		name   string
		err    error
		known  known
		charge charge
		reason string
	}{
		{"success", nil, acted, chargeNobody, ""},
		{"an error that is not the client's", errors.New("strange"), unclear, chargeSite, ReasonUnreachable},
		{"no answer", &kintone.Error{MayHaveActed: true, Err: io.ErrUnexpectedEOF}, unclear, chargeSite, ReasonUnreachable},
		{"no answer in time", &kintone.Error{MayHaveActed: true, Err: context.DeadlineExceeded}, unclear, chargeSite, ReasonUnreachable},
		{"no answer to a read", &kintone.Error{Err: io.ErrUnexpectedEOF}, refused, chargeSite, ReasonUnreachable},
		{"half an answer of success", &kintone.Error{Status: 200, MayHaveActed: true, Err: io.ErrUnexpectedEOF}, unclear, chargeSite, ReasonUnreachable},
		{"half a refusal", &kintone.Error{Status: 400, MayHaveActed: true, Err: io.ErrUnexpectedEOF}, unclear, chargeSite, ReasonUnreachable},
		{"an answer of success that does not fit", &kintone.Error{Status: 200, MayHaveActed: true, Message: "names 1 record"}, unclear, chargeApp, ReasonNotKintone},
		{"no connection", &kintone.Error{NotSent: true, Err: errors.New("connection refused")}, notSent, chargeSite, ReasonUnreachable},
		{"the gate is closed", &kintone.Error{NotSent: true, Err: kintone.ErrGateClosed}, notSent, chargeNobody, ReasonUnreachable},
		{"too long at the gate", &kintone.Error{NotSent: true, Err: kintone.ErrTooLate}, notSent, chargeNobody, ReasonUnreachable},
		{"the worker stops", &kintone.Error{NotSent: true, Err: context.Canceled}, notSent, chargeNobody, ReasonUnreachable},
		{"our own mistake", &kintone.Error{NotSent: true, Err: fmt.Errorf("%w: twice", kintone.ErrInvalidRequest)}, notSent, chargeApp, ReasonRefused},
		{"a refusal inside another error", wrapped, refused, chargeJobs, ReasonRevisionConflict},
	}
	for _, tt := range tests {
		j := judge(tt.err)
		if j.known != tt.known || j.charge != tt.charge || j.reason != tt.reason {
			t.Errorf("%s: judged %+v, want known %d, charge %d, reason %q", tt.name, j, tt.known, tt.charge, tt.reason)
		}
		if tt.err != nil && j.message == "" {
			t.Errorf("%s: judged without a message", tt.name)
		}
	}
}

func TestAJudgementPassesOnWhomTheAnswerNames(t *testing.T) {
	t.Run("by position", func(t *testing.T) {
		j := judge(askFor(t, answering{status: 400, body: `{"code":"CB_VA01","id":"a","message":"m","errors":{"records[1].assignee":{"messages":["no"]},"records[700].id":{"messages":["no"]}}}`}))
		if !slices.Equal(j.indexes, []int{1}) {
			t.Errorf("the members named are %v, want the second", j.indexes)
		}
	})
	t.Run("by record", func(t *testing.T) {
		j := judge(askFor(t, answering{status: 404, body: envelope("GAIA_RE01", "The record (ID: 2) is not there.")}))
		if !slices.Equal(j.records, []int64{2}) {
			t.Errorf("the records named are %v, want 2", j.records)
		}
	})
	t.Run("by user", func(t *testing.T) {
		j := judge(askFor(t, answering{status: 400, body: envelope("GAIA_IL26", "No such user (code: sato).")}))
		if j.user != "sato" {
			t.Errorf("the user named is %q, want sato", j.user)
		}
	})
	t.Run("how long to wait", func(t *testing.T) {
		j := judge(askFor(t, answering{status: 503, body: "<html>", header: http.Header{"Retry-After": {"120"}}}))
		if j.after != 2*time.Minute {
			t.Errorf("it waits %v, want 2 m", j.after)
		}
	})
}

func TestTheSimulatorsAnswersAreJudgedAsKintones(t *testing.T) {
	tests := []struct {
		name   string
		before func(*testing.T, *simulator.Kintone)
		known  known
		charge charge
		reason string
	}{
		{"the right revision", nil, acted, chargeNobody, ""},
		{"a record that is gone", func(t *testing.T, k *simulator.Kintone) { must(t, k.Delete(testApp, 2)) }, refused, chargeJobs, ReasonRecordNotFound},
		{"a record that was edited", func(t *testing.T, k *simulator.Kintone) { must(t, k.Edit(testApp, 2, "sato")) }, refused, chargeJobs, ReasonRevisionConflict},
		{"process management off", func(t *testing.T, k *simulator.Kintone) {
			p := simulator.Workflow()
			p.Enabled = false
			must(t, k.SetProcess(testApp, p))
		}, refused, chargeApp, ReasonProcessDisabled},
		{"a token that is no longer", func(t *testing.T, k *simulator.Kintone) { must(t, k.SetTokens(testApp)) }, refused, chargeApp, ReasonTokenInvalid},
		{"DA02", faulty(simulator.Locked), refused, chargeNobody, ReasonLocked},
		{"429", faulty(simulator.TooManyRequests), refused, chargeNobody, ReasonThrottled},
		{"500 with an envelope", faulty(simulator.ServerError), unclear, chargeApp, ReasonServerError},
		{"502", faulty(simulator.BadGateway), unclear, chargeSite, ReasonUnreachable},
		{"503", faulty(simulator.Unavailable), unclear, chargeSite, ReasonUnreachable},
		{"520 with a page", faulty(simulator.Status520), unclear, chargeSite, ReasonUnreachable},
		{"a lost reply", faulty(simulator.LostReply), unclear, chargeSite, ReasonUnreachable},
		{"a cut body", faulty(simulator.CutBody), unclear, chargeSite, ReasonUnreachable},
		{"a page with 200", faulty(simulator.HTML200), unclear, chargeApp, ReasonNotKintone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := simulator.New(simulator.Config{})
			k.AddUser("sato", "pw")
			k.AddApp(simulator.App{ID: testApp, Name: "Orders", Records: 2, Tokens: []simulator.Token{simulator.ViewToken(testToken)}, Process: simulator.Workflow()})
			transport, stop := simulator.Serve(k)
			t.Cleanup(stop)
			var changes []kintone.StatusChange
			for id := int64(1); id <= 2; id++ {
				r, _ := k.Record(testApp, id)
				changes = append(changes, kintone.StatusChange{Record: id, Revision: r.Revision, Action: "Start"})
			}
			if tt.before != nil {
				tt.before(t, k)
			}
			c, err := kintone.NewClient(kintone.Config{BaseURL: "http://127.0.0.1", Credentials: kintone.Credentials{Tokens: []kintone.Secret{testToken}}, Transport: transport})
			must(t, err)
			_, err = c.UpdateStatuses(t.Context(), kintone.App{ID: testApp}, changes)
			if j := judge(err); j.known != tt.known || j.charge != tt.charge || j.reason != tt.reason {
				t.Errorf("judged %+v, want known %d, charge %d, reason %q", j, tt.known, tt.charge, tt.reason)
			}
		})
	}
}

func faulty(kind simulator.FaultKind) func(*testing.T, *simulator.Kintone) {
	return func(_ *testing.T, k *simulator.Kintone) {
		k.SetFault(func(simulator.Request) simulator.Fault { return simulator.Fault{Kind: kind} })
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
