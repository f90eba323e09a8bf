package simulator

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Refusal is an answer of kintone that is not a success.
type Refusal struct {
	Status int    // HTTP status
	Code   string // "GAIA_IL03"
	Detail string // what the text names: a record, an app or a user; most name nothing (docs/kintone.md 2.2)

	invalid     map[string][]text // with CB_VA01 only: "records[3].id" to what is wrong there
	call, calls int               // which call of how many in a bulkRequest it is about; calls is 0 elsewhere
}

// Error returns the code and the English text.
func (r *Refusal) Error() string {
	b := new(strings.Builder)
	fmt.Fprintf(b, "%s: %s", r.Code, r.message("en"))
	for _, path := range slices.Sorted(maps.Keys(r.invalid)) {
		for _, t := range r.invalid[path] {
			fmt.Fprintf(b, " %s: %s", path, t.en)
		}
	}
	return b.String()
}

// text is one sentence in the two languages.
type text struct{ en, ja string }

func (t text) in(language string) string {
	if language == "ja" {
		return t.ja
	}
	return t.en
}

// catalogue holds what the simulator can answer. Statuses are the recent ones of docs/kintone.md 2.3; the sentences are
// the simulator's own, since a client may branch on the code only. %s is the detail.
var catalogue = map[string]struct {
	status int
	text   text
}{
	"CB_VA01": {http.StatusBadRequest, text{"The input is not valid.", "入力に誤りがあります。"}},
	"CB_IJ01": {http.StatusBadRequest, text{"The body is not valid JSON.", "本文がJSONとして正しくありません。"}},
	"CB_IL02": {http.StatusBadRequest, text{"The request is illegal.", "リクエストが不正です。"}},
	"CB_AU01": {http.StatusUnauthorized, text{"Please log in.", "ログインが必要です。"}},
	"CB_WA01": {http.StatusUnauthorized, text{
		"Login name or password of X-Cybozu-Authorization is wrong.", "X-Cybozu-Authorizationのログイン名またはパスワードが違います。"}},
	"CB_TW02": {http.StatusUnauthorized, text{
		"Users with two-factor authentication cannot log in like this.", "2要素認証を使うユーザーはこの方法ではログインできません。"}},
	"CB_NO02":   {http.StatusForbidden, text{"You have no privilege for this.", "この操作の権限がありません。"}},
	"GAIA_NO01": {http.StatusForbidden, text{"The API token has no permission for this API.", "このAPIトークンではこのAPIを使えません。"}},
	"GAIA_IA02": {http.StatusBadRequest, text{
		"The API token cannot be used for this app.", "このアプリでは使えないAPIトークンです。"}},
	"GAIA_AP01": {http.StatusNotFound, text{
		"There is no such app (ID: %s). It may have been deleted.", "アプリ（id: %s）がありません。削除された可能性があります。"}},
	"GAIA_IL23": {http.StatusBadRequest, text{
		"Apps of guest spaces have a path of their own.", "ゲストスペースのアプリには専用のパスを使ってください。"}},
	"GAIA_RE01": {http.StatusNotFound, text{"There is no such record (ID: %s).", "レコード（id: %s）がありません。"}},
	"GAIA_IL03": {http.StatusBadRequest, text{
		"The action cannot be run. The status or the settings may have been changed.", "アクションを実行できません。ステータスか設定が変わった可能性があります。"}},
	"GAIA_ST02": {http.StatusBadRequest, text{"Process management is not enabled.", "プロセス管理が有効ではありません。"}},
	"GAIA_SA01": {http.StatusBadRequest, text{"An assignee is needed.", "作業者の指定が必要です。"}},
	"GAIA_SA04": {http.StatusBadRequest, text{"An assignee cannot be given here.", "ここでは作業者を指定できません。"}},
	"GAIA_NT01": {http.StatusForbidden, text{"Only the assignee can do this.", "作業者だけが実行できます。"}},
	"GAIA_IL26": {http.StatusBadRequest, text{"There is no such user (code: %s).", "ユーザー（code: %s）がいません。"}},
	"GAIA_CO02": {http.StatusConflict, text{
		"The revision is not the latest. Somebody may have changed the record.", "リビジョンが最新ではありません。ほかのユーザーが更新した可能性があります。"}},
	"GAIA_UN03": {http.StatusConflict, text{
		"Please load the record again. Somebody has changed it meanwhile.", "その間にほかのユーザーがレコードを変更しました。読み込み直してください。"}},
	"GAIA_DA02": {http.StatusBadRequest, text{"The database could not be locked.", "データベースのロックに失敗しました。"}},
	"GAIA_TO04": {http.StatusTooManyRequests, text{
		"Too many requests at a time.", "Too many requests at a time."}}, // always English: docs/kintone.md 1.2
	"GAIA_QU01": {http.StatusBadRequest, text{"limit can be 1 to 500.", "limitは1から500です。"}},
	"GAIA_QU02": {http.StatusBadRequest, text{"offset can be 0 to 10000.", "offsetは0から10000です。"}},
	"GAIA_IQ03": {http.StatusBadRequest, text{
		"The operator cannot be used with the type of field %s.", "フィールド%sの型では使えない演算子です。"}},
	"GAIA_IQ10": {http.StatusBadRequest, text{"Field %s has no such choice.", "フィールド%sに無い選択肢です。"}},
	"GAIA_IQ11": {http.StatusBadRequest, text{"There is no field %s.", "フィールド%sがありません。"}},
	"GAIA_IL28": {http.StatusBadRequest, text{"There is no such department (code: %s).", "組織（code: %s）がありません。"}},
	"GAIA_CO03": {http.StatusConflict, text{
		"The revision of the app's settings is not the latest.", "アプリの設定のリビジョンが最新ではありません。"}},
	"GAIA_UN10": {http.StatusBadRequest, text{
		"Field %s cannot be written.", "フィールド%sには書き込めません。"}},
	"GAIA_IQ07": {http.StatusBadRequest, text{
		"Field %s is in a table: only in and not in can be used.", "テーブル内のフィールド%sにはin, not inだけを使えます。"}},
	"GAIA_IR02": {http.StatusBadRequest, text{"The name %s has a dot in it.", "%sに「.」は使えません。"}},
	"GAIA_XX00": {http.StatusInternalServerError, text{"Something broke.", "内部エラーです。"}},
}

// refuse makes a refusal out of the catalogue. A code that is not in it comes from the Config and is a 400.
func refuse(code, detail string) *Refusal {
	if entry, ok := catalogue[code]; ok {
		return &Refusal{Status: entry.status, Code: code, Detail: detail}
	}
	return &Refusal{Status: http.StatusBadRequest, Code: code, Detail: detail}
}

func (r *Refusal) message(language string) string {
	entry, ok := catalogue[r.Code]
	if !ok {
		entry.text = text{"This cannot be done now.", "現在は実行できません。"}
	}
	t := entry.text.in(language)
	if strings.Contains(t, "%s") {
		return fmt.Sprintf(t, r.Detail)
	}
	return t
}

// complaints gathers what is wrong with the form of one request, by path, so that CB_VA01 names all of it at once.
type complaints map[string][]text

func (c complaints) add(path string, t text) {
	c[path] = append(c[path], t)
}

// refusal is nil if nothing is wrong.
func (c complaints) refusal() *Refusal {
	if len(c) == 0 {
		return nil
	}
	r := refuse("CB_VA01", "")
	r.invalid = c
	return r
}

// The sentences of validation.
var (
	isRequired    = text{"This is required.", "必須です。"}
	isUnknown     = text{"This is not known here.", "不明な項目です。"}
	notANumber    = text{"This has to be an integer.", "整数で指定してください。"}
	notAnID       = text{"This has to be 1 or more.", "1以上で指定してください。"}
	notARevision  = text{"This has to be -1 or more.", "-1以上で指定してください。"}
	notAString    = text{"This has to be a string that is not empty.", "空でない文字列で指定してください。"}
	notABoolean   = text{"This has to be true or false.", "trueかfalseで指定してください。"}
	notAnArray    = text{"This has to be an array that is not empty.", "空でない配列で指定してください。"}
	notAnObject   = text{"This has to be an object.", "オブジェクトで指定してください。"}
	notALanguage  = text{"This has to be one of default, user, ja, en, zh.", "default, user, ja, en, zhのどれかで指定してください。"}
	isTooLong     = text{"This can have 64 characters at most.", "64文字以内で指定してください。"}
	tooManyFields = text{"This can have 100 entries at most in a URL and 1000 in a body.", "URLでは100件、本文では1000件までです。"}
	tooManyCalls  = text{"There can be 1 to 20.", "1件から20件までです。"}
	notInBulk     = text{"This cannot stand here: another API, or another guest space.", "ここでは使えないAPIか、別のゲストスペースのAPIです。"}
	tooMany       = text{"A maximum of 100 can be updated at a time.", "一度に更新できるのは100件までです。"}
	isRepeated    = text{"The record is named twice.", "同じレコードが重複しています。"}
	tooManyApps   = text{"There can be 0 to 300.", "300件までです。"}
	notAMember    = text{"This has to be one of the values that are allowed.", "許可された値で指定してください。"}
	isTaken       = text{"This is there already.", "重複しています。"}
	noSuchStatus  = text{"There is no such status.", "そのステータスはありません。"}
	noSuchEntity  = text{"There is no such user, group, department or field, or it cannot stand here.", "ユーザー、グループ、組織、フィールドがないか、ここでは指定できません。"}
	wantsStatus   = text{"Process management without a status cannot be enabled.", "ステータスがないため有効にできません。"}
	wantsItsKey   = text{"A new status has to have its key as its name.", "新しいステータスの名前はキーと同じにしてください。"}
	firstStays    = text{"The first status cannot be added, deleted or moved.", "最初のステータスは追加、削除、移動できません。"}
	firstByNobody = text{"The first status can have nobody or the creator's field as ONE.", "最初のステータスの作業者はONEで、なしか作成者フィールドだけです。"}
	oneToNumber   = text{"Indexes have to be 0, 1, 2 and so on, each once.", "indexは0からの連番で指定してください。"}
	onlySecondary = text{"Only a SECONDARY action has executable users.", "SECONDARYのアクションにだけ指定できます。"}
	noCondition   = text{"This cannot be a condition: no order, limit, offset or status in it.", "条件として使えません（order by、limit、offset、ステータスは使えません）。"}
	oneAssignee   = text{"The status takes one assignee.", "このステータスの作業者は1人です。"}
	badValue      = text{"The value does not fit the field.", "フィールドに合わない値です。"}
	badQuery      = text{"The query cannot be read.", "クエリを解釈できません。"}
)
