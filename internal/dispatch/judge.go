package dispatch

import (
	"context"
	"errors"
	"net/http"
	"time"

	"statusq/internal/kintone"
)

// known is what one answer tells about the very copy of the request that it answers. It says nothing about older
// copies: what became of the request as a whole is for resolve to find out.
type known int

const (
	// unclear: this copy may have been executed, or may still be.
	unclear known = iota
	// acted: kintone executed it and returned the revisions.
	acted
	// refused: kintone answered that it executed nothing of this copy.
	refused
	// notSent: this copy never left.
	notSent
)

// charge is the smallest thing that can own a failure (docs/design.md section 5).
type charge int

const (
	chargeNobody charge = iota // try the same again a little later: locks, 429
	chargeJobs                 // something about one or more of the jobs
	chargeApp                  // the lane halts and probes slowly
	chargeSite                 // the gate shuts for all lanes
	chargeLogin                // the site halts until somebody acts: probing could lock the login
)

// judgement is what an answer means: what is known, who owns the failure, and whom it names.
type judgement struct {
	known  known
	charge charge
	// decides says that kintone gave a reason which will hold as long as the records stay as they are, so that a read
	// begun after it may decide what became of the request.
	decides bool
	// listed is false for a code that the sheet does not know.
	listed  bool
	reason  string
	code    string
	message string
	// Members that the answer names: by position, by record, or by the user code they assign.
	indexes []int
	records []int64
	user    string
	after   time.Duration // Retry-After
	signing int           // kintone.Error.Signing: with which credentials it was sent; 0 if it was not
}

// Reasons are stable: operators filter by them, programs branch on them.
const (
	ReasonRecordNotFound      = "record_not_found"
	ReasonStatusMismatch      = "status_mismatch"
	ReasonActionUnknown       = "action_unknown"
	ReasonActionAmbiguous     = "action_ambiguous"
	ReasonNotAssignee         = "not_assignee"
	ReasonAssigneeRequired    = "assignee_required"
	ReasonAssigneeSuperfluous = "assignee_superfluous"
	ReasonAssigneeUnknown     = "assignee_unknown"
	ReasonRevisionConflict    = "revision_conflict"
	ReasonExpired             = "expired"
	ReasonUndecodable         = "undecodable"
	ReasonKeyNotFound         = "key_not_found"
	ReasonKeyAmbiguous        = "key_ambiguous"
	ReasonKeyInvalid          = "key_invalid"
	ReasonKeyFieldInvalid     = "key_field_invalid"
	ReasonKeyRevision         = "key_revision"
	ReasonKeyRefused          = "key_refused"
	ReasonMatched             = "matched"
	ReasonConditionUnmet      = "condition_unmet"
	ReasonNotExecutable       = "not_executable"
	ReasonActedNotMoved       = "acted_not_moved"
	ReasonActedUnverified     = "acted_unverified"
	ReasonCancelled           = "cancelled"
	ReasonMaxDead             = "max_dead"
	ReasonBudgetSpent         = "budget_spent"
	ReasonBudgetPaced         = "budget_paced"
	ReasonSettingsChange      = "settings_change"
	ReasonIDReused            = "id_reused"
	ReasonUnderWay            = "under_way"
	ReasonRefused             = "refused"
	ReasonOutcomeUnknown      = "outcome_unknown"
	ReasonBehind              = "behind"
	ReasonNotBefore           = "not_before"
	ReasonProcessDisabled     = "process_disabled"
	ReasonAppNotFound         = "app_not_found"
	ReasonTokenInvalid        = "token_invalid"
	ReasonNoPermission        = "no_permission"
	ReasonGuestSpaceWrong     = "guest_space_wrong"
	ReasonServerError         = "server_error"
	ReasonNotKintone          = "not_kintone"
	ReasonUnreachable         = "unreachable"
	ReasonThrottled           = "throttled"
	ReasonLocked              = "locked"
	ReasonLoginRefused        = "login_refused"
	ReasonWorkerTooOld        = "worker_too_old"
	ReasonLedgerFull          = "ledger_full"
)

// codes is the one place where a kintone code gets a meaning. HTTP statuses moved over the years (520 to 400, 403 and
// 404), so the code alone decides (docs/kintone.md, errors).
var codes = map[string]struct {
	charge  charge
	decides bool
	reason  string
}{
	// One record's matter, or the job's.
	"GAIA_RE01": {chargeJobs, true, ReasonRecordNotFound},
	"GAIA_IL03": {chargeJobs, true, ReasonStatusMismatch},
	"GAIA_NT01": {chargeJobs, true, ReasonNotAssignee},
	"GAIA_SA01": {chargeJobs, true, ReasonAssigneeRequired},
	"GAIA_SA04": {chargeJobs, true, ReasonAssigneeSuperfluous},
	"GAIA_IL26": {chargeJobs, true, ReasonAssigneeUnknown},
	"GAIA_CO02": {chargeJobs, true, ReasonRevisionConflict},
	"GAIA_UN03": {chargeJobs, true, ReasonRevisionConflict},
	"GAIA_IL28": {chargeJobs, true, ReasonRefused},
	"GAIA_IL08": {chargeJobs, true, ReasonRefused},
	"CB_VA01":   {chargeJobs, true, ReasonRefused},
	// No privilege: a record's matter when the read that follows succeeds, the app's when it does not.
	"CB_NO02": {chargeJobs, true, ReasonNoPermission},

	// The app's: its settings, its token, its address.
	"GAIA_ST02": {chargeApp, false, ReasonProcessDisabled},
	"GAIA_AP01": {chargeApp, false, ReasonAppNotFound},
	"GAIA_IA02": {chargeApp, false, ReasonTokenInvalid},
	"GAIA_AP15": {chargeApp, false, ReasonTokenInvalid},
	"GAIA_NO01": {chargeApp, false, ReasonNoPermission},
	"GAIA_NO02": {chargeApp, false, ReasonNoPermission},
	"GAIA_IL23": {chargeApp, false, ReasonGuestSpaceWrong},
	// The request as we built it: our mistake, so no job may pay for it.
	"CB_IL02":   {chargeApp, false, ReasonRefused},
	"CB_IJ01":   {chargeApp, false, ReasonRefused},
	"GAIA_TO03": {chargeApp, false, ReasonRefused},

	// Locks and admission: 400 or 429, and transient all the same.
	"GAIA_DA02": {chargeNobody, false, ReasonLocked},
	"GAIA_RE18": {chargeNobody, false, ReasonLocked},
	"GAIA_LT01": {chargeNobody, false, ReasonLocked},
	"GAIA_TO04": {chargeNobody, false, ReasonThrottled},
	"GAIA_TM12": {chargeNobody, false, ReasonThrottled},

	// Who we are.
	"CB_AU01": {chargeLogin, false, ReasonLoginRefused},
	"CB_WA01": {chargeLogin, false, ReasonLoginRefused},
	"CB_TW02": {chargeLogin, false, ReasonLoginRefused},
}

// judge says what the answer to a request means. It is total: whatever it does not know is the mildest thing that is
// safe, which is never "dead".
func judge(err error) judgement {
	if err == nil {
		return judgement{known: acted, listed: true}
	}
	e, ok := errors.AsType[*kintone.Error](err)
	if !ok {
		// Not from the client: nothing says whether anything left.
		return judgement{known: unclear, charge: chargeSite, reason: ReasonUnreachable, message: err.Error()}
	}
	j := judgement{
		code: e.Code, message: e.Message, after: e.RetryAfter,
		indexes: e.Indexes, records: e.Records, user: e.User, signing: e.Signing,
	}
	if j.message == "" {
		j.message = e.Error()
	}
	switch {
	case e.NotSent:
		j.known, j.charge, j.reason = notSent, chargeSite, ReasonUnreachable
		switch {
		case errors.Is(e.Err, kintone.ErrNoCredentials):
			j.charge, j.reason = chargeApp, ReasonTokenInvalid
		case errors.Is(e.Err, kintone.ErrInvalidRequest):
			j.charge, j.reason = chargeApp, ReasonRefused // our own check; no job may pay for it
		case errors.Is(e.Err, kintone.ErrGateClosed), errors.Is(e.Err, kintone.ErrTooLate), errors.Is(e.Err, context.Canceled):
			j.charge = chargeNobody
		}
		return j
	case e.MayHaveActed:
		j.known = unclear
	default:
		j.known = refused
	}
	c, listed := codes[e.Code]
	j.listed = listed
	switch {
	case e.Status == http.StatusUnauthorized:
		j.charge, j.reason = chargeLogin, ReasonLoginRefused
	case e.Status == http.StatusTooManyRequests:
		j.charge, j.reason = chargeNobody, ReasonThrottled
	case e.Status == http.StatusServiceUnavailable, e.Status == 0:
		j.charge, j.reason = chargeSite, ReasonUnreachable
	case listed && (j.known == refused || e.Status < 500 || e.Status == 520):
		j.charge, j.decides, j.reason = c.charge, c.decides && j.known == refused, c.reason
	case e.Status >= 500 && e.Code != "":
		j.charge, j.reason = chargeApp, ReasonServerError
	case e.Status >= 500:
		j.charge, j.reason = chargeSite, ReasonUnreachable
	case e.Code == "" && e.Err != nil:
		// Half an answer: the network's doing.
		j.charge, j.reason = chargeSite, ReasonUnreachable
	case e.Code == "":
		j.charge, j.reason = chargeApp, ReasonNotKintone
	case j.known == refused && e.Status == http.StatusForbidden:
		j.charge, j.reason = chargeApp, ReasonNoPermission
	case j.known == refused:
		// kintone's envelope with a code that nobody has written down: isolate it like a record's matter.
		j.charge, j.decides, j.reason = chargeJobs, true, ReasonRefused
	default:
		j.charge, j.reason = chargeSite, ReasonUnreachable
	}
	return j
}
