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

	invalid map[string][]text // with CB_VA01 only: "records[3].id" to what is wrong there
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
	"GAIA_DA02": {http.StatusBadRequest, text{"The database could not be locked.", "データベースのロックに失敗しました。"}},
	"GAIA_TO04": {http.StatusTooManyRequests, text{
		"Too many requests at a time.", "Too many requests at a time."}}, // always English: docs/kintone.md 1.2
	"GAIA_QU01": {http.StatusBadRequest, text{"limit can be 1 to 500.", "limitは1から500です。"}},
	"GAIA_QU02": {http.StatusBadRequest, text{"offset can be 0 to 10000.", "offsetは0から10000です。"}},
	"GAIA_IQ03": {http.StatusBadRequest, text{
		"The operator cannot be used with the type of field %s.", "フィールド%sの型では使えない演算子です。"}},
	"GAIA_IQ10": {http.StatusBadRequest, text{"Field %s has no such choice.", "フィールド%sに無い選択肢です。"}},
	"GAIA_IQ11": {http.StatusBadRequest, text{"There is no field %s.", "フィールド%sがありません。"}},
	"GAIA_XX00": {http.StatusInternalServerError, text{"Something broke.", "内部エラーです。"}},
}

// refuse makes a refusal out of the catalogue.
func refuse(code, detail string) *Refusal {
	entry, ok := catalogue[code]
	if !ok {
		panic("simulator: no text for " + code)
	}
	return &Refusal{Status: entry.status, Code: code, Detail: detail}
}

func (r *Refusal) message(language string) string {
	t := catalogue[r.Code].text.in(language)
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
	tooMany       = text{"A maximum of 100 can be updated at a time.", "一度に更新できるのは100件までです。"}
	isRepeated    = text{"The record is named twice.", "同じレコードが重複しています。"}
	badQuery      = text{"The query cannot be read.", "クエリを解釈できません。"}
)
