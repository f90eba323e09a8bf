package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"statusq/internal/kintone"
	"statusq/internal/queue"
)

// ruleOnWire and actionOnWire are what stands before and after in a settingsChange, as kintone has it.
type (
	ruleOnWire struct {
		Type     string         `json:"type"`
		Entities []entityOnWire `json:"entities"`
	}
	actionOnWire struct {
		Name       string     `json:"name"`
		From       string     `json:"from"`
		To         string     `json:"to"`
		FilterCond string     `json:"filterCond"`
		Type       string     `json:"type"`
		Executable ruleOnWire `json:"executableUser"`
	}
	entityOnWire struct {
		Entity struct {
			Type string `json:"type"`
			Code string `json:"code"`
		} `json:"entity"`
		IncludeSubs bool `json:"includeSubs"`
	}
)

// words says one difference in a sentence.
func (c settingsChange) words(lang string) string {
	t := settingsTexts(lang)
	text := func(raw json.RawMessage) string { return decoded[string](raw) }
	place := func(raw json.RawMessage) int { return decoded[int](raw) + 1 }
	switch c.What {
	case kintone.ChangeEnable:
		if decoded[bool](c.After) {
			return t.on
		}
		return t.off
	case kintone.ChangeStateAdded:
		return fmt.Sprintf(t.stateAdded, c.Name, place(c.After))
	case kintone.ChangeStateDeleted:
		return fmt.Sprintf(t.stateDeleted, c.Name)
	case kintone.ChangeStateRenamed:
		return fmt.Sprintf(t.stateRenamed, text(c.Before), text(c.After))
	case kintone.ChangeStateMoved:
		return fmt.Sprintf(t.stateMoved, c.Name, place(c.Before), place(c.After))
	case kintone.ChangeStateAssignee:
		who := decoded[ruleOnWire](c.After).words(t)
		if len(c.Before) > 0 && string(c.Before) != "null" {
			who = decoded[ruleOnWire](c.Before).words(t) + " → " + who
		}
		return fmt.Sprintf(t.stateAssignee, c.Name, who)
	case kintone.ChangeActionAdded:
		return fmt.Sprintf(t.actionAdded, c.Name, c.From, c.To)
	case kintone.ChangeActionDeleted:
		return fmt.Sprintf(t.actionDeleted, c.Name, c.From, c.To)
	case kintone.ChangeActionChanged:
		return fmt.Sprintf(t.actionChanged, c.Name, strings.Join(decoded[actionOnWire](c.Before).differences(decoded[actionOnWire](c.After), t), "; "))
	case kintone.ChangeActionsOrder:
		return fmt.Sprintf(t.actionsOrder, strings.Join(decoded[[]string](c.Before), ", "), strings.Join(decoded[[]string](c.After), ", "))
	}
	return fmt.Sprintf("%s %s: %s → %s", c.What, c.Name, c.Before, c.After) // of a newer worker
}

// decoded reads what the worker sent; the zero value if it is something else.
func decoded[T any](raw json.RawMessage) T {
	var v T
	if json.Unmarshal(raw, &v) != nil {
		var zero T
		return zero
	}
	return v
}

// words is "ANY of USER sato, ORGANIZATION sales (and below)".
func (r ruleOnWire) words(t *settingsText) string {
	who := entityWords(r.Entities, t)
	if r.Type == "" {
		return who
	}
	return r.Type + " " + who
}

func entityWords(list []entityOnWire, t *settingsText) string {
	if len(list) == 0 {
		return t.nobody
	}
	var names []string
	for _, e := range list {
		name := strings.TrimSpace(e.Entity.Type + " " + e.Entity.Code)
		if e.IncludeSubs {
			name += t.andBelow
		}
		names = append(names, name)
	}
	return "[" + strings.Join(names, ", ") + "]"
}

// differences says in what one action differs from what it becomes.
func (a actionOnWire) differences(b actionOnWire, t *settingsText) []string {
	var out []string
	say := func(what, before, after string) {
		if before != after {
			out = append(out, fmt.Sprintf("%s %s → %s", what, cmp.Or(before, "-"), cmp.Or(after, "-")))
		}
	}
	say(t.name, a.Name, b.Name)
	say(t.from, a.From, b.From)
	say(t.to, a.To, b.To)
	say(t.condition, a.FilterCond, b.FilterCond)
	say(t.kind, cmp.Or(a.Type, "PRIMARY"), cmp.Or(b.Type, "PRIMARY"))
	if a.Type == "SECONDARY" || b.Type == "SECONDARY" {
		say(t.executable, entityWords(a.Executable.Entities, t), entityWords(b.Executable.Entities, t))
	}
	return out
}

// settingsText is everything that is said about settings, in one language.
type settingsText struct {
	on, off                                            string
	stateAdded, stateDeleted, stateRenamed, stateMoved string
	stateAssignee                                      string
	actionAdded, actionDeleted, actionChanged          string
	actionsOrder                                       string
	name, from, to, condition, kind, executable        string
	nobody, andBelow                                   string

	pending, otherSettings, nothing, nothingWaits string
	standing, empty, uncounted                    string

	askApply, askPreview, askPublish, askDeploy string
	notDone, goesOn, never                      string

	stages map[queue.ChangeStage]string
	why    map[string]string
	left   map[queue.ChangeLeft]string
}

// ask is the question before anything is done.
func (t *settingsText) ask(q settingsQuestion) string {
	switch {
	case len(q.Want) == 0:
		return fmt.Sprintf(t.askDeploy, q.App)
	case !q.Deploy:
		return fmt.Sprintf(t.askPreview, q.App)
	case q.Publish:
		return fmt.Sprintf(t.askPublish, q.App)
	}
	return fmt.Sprintf(t.askApply, q.App)
}

func settingsTexts(lang string) *settingsText {
	if lang == "ja" {
		return &settingsJapanese
	}
	return &settingsEnglish
}

var settingsEnglish = settingsText{
	on:            "process management is switched on",
	off:           "process management is switched OFF: no status can be changed until it is on again",
	stateAdded:    "+ status %q, at place %d",
	stateDeleted:  "- status %q is DELETED, as it is not listed",
	stateRenamed:  "~ status %q is renamed to %q",
	stateMoved:    "~ status %q moves from place %d to %d",
	stateAssignee: "~ status %q, assignee: %s",
	actionAdded:   "+ action %q, from %q to %q",
	actionDeleted: "- action %q, from %q to %q, is DELETED; jobs that name it will die",
	actionChanged: "~ action %q: %s",
	actionsOrder:  "~ the order of actions: %s → %s",
	name:          "name", from: "from", to: "to", condition: "condition", kind: "type", executable: "who may run it",
	nobody: "nobody", andBelow: " (and below)",

	pending:       "other changes wait in the app's preview (revision %d, in force is %d); deploying publishes them too:",
	otherSettings: "none of process management: look at the app's settings in kintone",
	nothing:       "no difference: the preview is like that",
	nothingWaits:  "nothing waits in the preview",
	standing:      "! status %q vanishes; records in it: %d. kintone does not delete a status while records are in it",
	empty:         "  no record stands in %q",
	uncounted:     "! status %q vanishes, and its records could not be counted: %s",

	askApply:   "apply this to app %d and put it into force?",
	askPreview: "put this into the preview of app %d, and leave it there?",
	askPublish: "apply this to app %d and put it into force, with everything else that waits in its preview?",
	askDeploy:  "put everything that waits in the preview of app %d into force?",
	notDone:    "nothing was changed",
	goesOn:     "it goes on without us; enqueue settings status tells how it ends",
	never:      "statusq has never changed the settings of this app",

	stages: map[queue.ChangeStage]string{
		queue.ChangeWaiting:   "waiting until no status request is out; nothing new is sent",
		queue.ChangePutting:   "changing the preview",
		queue.ChangeDeploying: "deploying",
		queue.ChangeUndoing:   "it failed, and the preview is put back",
		queue.ChangeDone:      "it has ended well",
		queue.ChangeFailed:    "it has failed",
	},
	why: map[string]string{
		"nothing_to_change": "nothing had to be changed",
		"normalized":        "kintone keeps it a little otherwise than it was written (compare with enqueue settings diff)",
		"requests_out":      "status requests were still out when the time for them was over: see enqueue inflight, and try again later",
		"stale_revision":    "somebody changed the app's settings since they were looked at: compare again",
		"pending_changes":   "other changes wait in the app's preview: deploy or discard them in kintone, or use --publish-pending",
		"refused":           "kintone refused it",
		"deploy_failed":     "kintone could not deploy it: does a status vanish that records stand in?",
		"deploy_cancelled":  "kintone cancelled the deploy",
		"superseded":        "somebody else changed the same settings meanwhile",
		"timeout":           "kintone took too long",
	},
	left: map[queue.ChangeLeft]string{
		queue.LeftInForce:   "it is in force",
		queue.LeftPreview:   "it is in the preview, and not in force",
		queue.LeftAsItWas:   "the app's process management is as it was",
		queue.LeftOthers:    "what somebody else put there was left alone",
		queue.LeftDeploying: "kintone is still deploying: look at the app in kintone",
		queue.LeftUnknown:   "how the app's settings are now is not known: look at them with enqueue settings get",
	},
}

var settingsJapanese = settingsText{
	on:            "プロセス管理を有効にします",
	off:           "プロセス管理を無効にします。再び有効にするまでステータスは変更できません",
	stateAdded:    "+ ステータス「%s」を追加（%d番目）",
	stateDeleted:  "- ステータス「%s」を削除（一覧に書かれていないため）",
	stateRenamed:  "~ ステータス「%s」の名前を「%s」に変更",
	stateMoved:    "~ ステータス「%s」を%d番目から%d番目に移動",
	stateAssignee: "~ ステータス「%s」の作業者: %s",
	actionAdded:   "+ アクション「%s」を追加（「%s」→「%s」）",
	actionDeleted: "- アクション「%s」（「%s」→「%s」）を削除。この名前を使うジョブは失敗します",
	actionChanged: "~ アクション「%s」: %s",
	actionsOrder:  "~ アクションの並び順: %s → %s",
	name:          "名前", from: "実行前", to: "実行後", condition: "条件", kind: "種別", executable: "実行できるユーザー",
	nobody: "なし", andBelow: "（下位組織を含む）",

	pending:       "アプリに未反映の変更があります（プレビューのリビジョン%d、運用中は%d）。反映すると、次の変更も一緒に運用開始されます:",
	otherSettings: "プロセス管理以外の変更です。kintoneのアプリの設定画面で確認してください",
	nothing:       "差分はありません。プレビューはすでにこの設定です",
	nothingWaits:  "未反映の変更はありません",
	standing:      "! 削除されるステータス「%s」に%d件のレコードがあります。レコードが残っているステータスはkintoneで削除できません",
	empty:         "  「%s」のレコードはありません",
	uncounted:     "! 削除されるステータス「%s」のレコード数を数えられませんでした: %s",

	askApply:   "アプリ%dに適用し、運用環境へ反映しますか？",
	askPreview: "アプリ%dのプレビューだけを変更しますか？（運用環境へは反映しません）",
	askPublish: "アプリ%dに適用し、未反映のほかの変更とともに運用環境へ反映しますか？",
	askDeploy:  "アプリ%dの未反映の変更をすべて運用環境へ反映しますか？",
	notDone:    "何も変更していません",
	goesOn:     "処理は続いています。結果はenqueue settings statusで確認できます",
	never:      "このアプリの設定をstatusqで変更したことはありません",

	stages: map[queue.ChangeStage]string{
		queue.ChangeWaiting:   "送信中のリクエストが終わるのを待っています。新しいリクエストは送りません",
		queue.ChangePutting:   "プレビューを変更しています",
		queue.ChangeDeploying: "運用環境へ反映しています",
		queue.ChangeUndoing:   "失敗したため、プレビューを元に戻しています",
		queue.ChangeDone:      "完了しました",
		queue.ChangeFailed:    "失敗しました",
	},
	why: map[string]string{
		"nothing_to_change": "変更の必要はありませんでした",
		"normalized":        "kintoneが設定の一部を補いました（enqueue settings diffで確認できます）",
		"requests_out":      "時間内に終わらない送信中のリクエストがあります。enqueue inflightで確認し、あとで再実行してください",
		"stale_revision":    "確認したあとに、ほかの人がアプリの設定を変更しました。差分を確認し直してください",
		"pending_changes":   "アプリに未反映の変更があります。kintoneで反映するか取り消すか、--publish-pendingを付けてください",
		"refused":           "kintoneが拒否しました",
		"deploy_failed":     "運用環境への反映に失敗しました。削除するステータスにレコードが残っていませんか",
		"deploy_cancelled":  "運用環境への反映が取り消されました",
		"superseded":        "同じ設定をほかの人が変更しました",
		"timeout":           "時間内に終わりませんでした",
	},
	left: map[queue.ChangeLeft]string{
		queue.LeftInForce:   "新しい設定が運用されています",
		queue.LeftPreview:   "プレビューだけが変更されています。運用環境には反映していません",
		queue.LeftAsItWas:   "アプリのプロセス管理は元のままです",
		queue.LeftOthers:    "ほかの人の変更はそのまま残しました",
		queue.LeftDeploying: "kintoneが反映を続けています。kintoneでアプリを確認してください",
		queue.LeftUnknown:   "アプリの設定がどうなったか不明です。enqueue settings getで確認してください",
	},
}
