package campaign

// The reasons why a job waits, died or is unknown, and why a lane stands still, are stable ASCII codes: scripts may
// compare them. ReasonText is what people read instead.

// reason is one code in words: what is the matter, and what can be done about it. Both are parts of a sentence, which is
// put together where they are shown: "app 5 is halted: <what>", "→ <todo>". Where nothing has to be done, todo says what
// comes by itself.
type reason struct{ what, todo string }

// ReasonText says in lang ("ja", or English for everything else) what a reason code means and what to do about it.
// A code it does not know comes back as it is, with nothing to do.
func ReasonText(code, lang string) (what, todo string) {
	texts, ok := reasons[code]
	switch {
	case !ok:
		return code, ""
	case lang == "ja":
		return texts.ja.what, texts.ja.todo
	}
	return texts.en.what, texts.en.todo
}

var reasons = map[string]struct{ en, ja reason }{
	"record_not_found": {
		reason{"the record does not exist", "check the record id and the app; if the record was deleted on purpose, discard the job"},
		reason{"レコードが存在しません", "レコード番号とアプリを確認してください。削除済みのレコードなら、このジョブは破棄できます"},
	},
	"status_mismatch": {
		reason{"the action does not start from the record's present status", "look at the record: it may have moved on already, or an earlier step is missing; retry once its status fits"},
		reason{"レコードの現在のステータスからは実行できないアクションです", "レコードを確認してください。すでに先へ進んでいるか、前の手順が済んでいません。ステータスが合ったら再試行してください"},
	},
	"action_unknown": {
		reason{"the app has no action of that name", "compare the name with the app's process management, in the language of the account that statusq uses"},
		reason{"その名前のアクションがアプリにありません", "プロセス管理の設定にあるアクション名と比べてください。statusqが使うアカウントの表示言語での名前が必要です"},
	},
	"action_ambiguous": {
		reason{"several actions of that name start from the record's status", "give the actions different names in the app's process management, then retry"},
		reason{"現在のステータスに同じ名前のアクションが複数あります", "プロセス管理の設定でアクション名を変えてから再試行してください"},
	},
	"not_assignee": {
		reason{"somebody else is the assignee of the record", "let the assignee act, or make the account that statusq uses the assignee (Administrator for API tokens), then retry"},
		reason{"レコードの作業者が別の人です", "作業者に実行してもらうか、statusqが使うアカウント（APIトークンならAdministrator）を作業者にしてから再試行してください"},
	},
	"assignee_required": {
		reason{"the action needs an assignee", "send the job again with an assignee"},
		reason{"このアクションには作業者の指定が必要です", "作業者を指定してジョブを送り直してください"},
	},
	"assignee_superfluous": {
		reason{"the action takes no assignee", "send the job again without an assignee"},
		reason{"このアクションには作業者を指定できません", "作業者を指定せずにジョブを送り直してください"},
	},
	"assignee_unknown": {
		reason{"the assignee is not a user that kintone knows", "check the login name, then send the job again"},
		reason{"作業者に指定したユーザーが見つかりません", "ログイン名を確認して、ジョブを送り直してください"},
	},
	"revision_conflict": {
		reason{"the record was changed after the revision that the job names", "look at what changed; send the job again with the new revision, or without one"},
		reason{"ジョブで指定したリビジョンより後にレコードが変更されています", "変更内容を確認し、新しいリビジョンを指定するか、リビジョンなしで送り直してください"},
	},
	"expired": {
		reason{"the job's time ran out before it could be sent", "send it again with a later time if it is still wanted"},
		reason{"実行する前にジョブの有効期限が切れました", "まだ必要なら、期限を延ばして送り直してください"},
	},
	"undecodable": {
		reason{"the message is not a valid job", "see what the message says is wrong; mend the program that published it and publish the job again"},
		reason{"ジョブとして読めないメッセージです", "メッセージの内容を確認し、送信元のプログラムを直して送り直してください"},
	},
	"matched": {
		reason{"the key was found, and each record that has it gets a job of its own", "wait: they are tried next"},
		reason{"キーに一致したレコードごとに、個別のジョブを作成しています", "そのままで構いません。順に実行されます"},
	},
	"key_not_found": {
		reason{"no record has that value in the key field", "check field and value, and that the account or token may view the record; retry once the record is there"},
		reason{"キーの値に一致するレコードがありません", "キーフィールドと値、レコードの閲覧権限を確認してください。レコードができたら再試行してください"},
	},
	"key_ambiguous": {
		reason{"several records have that value in the key field, and the job is for one", "send the job again with the record's id, or with match all if all of them are meant"},
		reason{"キーの値に一致するレコードが複数あります", "レコード番号を指定するか、すべてを対象にするならmatch allを指定して送り直してください"},
	},
	"key_invalid": {
		reason{"the value is none that the key field can have", "see the message for what the field takes, then send the job again"},
		reason{"キーフィールドに使えない値です", "メッセージでフィールドに使える値を確認し、ジョブを送り直してください"},
	},
	"key_field_invalid": {
		reason{"the app has no field of that code which can be a key", "give the code of a field outside tables that holds text, a link, a number, a date or the record number (the code, not the label), then send the job again"},
		reason{"キーに使えるフィールドがアプリにありません", "テーブルの外にある文字列（1行）、リンク、数値、日付、レコード番号などのフィールドコード（フィールド名ではありません）を指定して、ジョブを送り直してください"},
	},
	"key_revision": {
		reason{"the key matches several records, and one revision cannot be right for all of them", "send the job again without a revision, or one job with its own revision for each record"},
		reason{"キーに一致するレコードが複数あるため、1つのリビジョンは指定できません", "リビジョンなしで送り直すか、レコードごとにリビジョンを指定して送り直してください"},
	},
	"key_refused": {
		reason{"kintone refuses to look the key up", "see kintone's code and message; retry once the cause is gone"},
		reason{"キーによるレコードの検索をkintoneが拒否しました", "kintoneのエラーコードとメッセージを確認し、原因がなくなってから再試行してください"},
	},
	"condition_unmet": {
		reason{"the record does not meet the condition under which the action may be run", "compare the record with the action's condition in the app's process management; retry once it is met"},
		reason{"レコードがアクションの実行条件を満たしていません", "プロセス管理の設定にあるアクションの実行条件とレコードを比べてください。条件を満たしたら再試行してください"},
	},
	"not_executable": {
		reason{"the account that statusq uses is none of those who may run the action", "add it to those who may run the action in the app's process management (Administrator for API tokens), or let one of them act; then retry"},
		reason{"statusqが使うアカウントには、このアクションを実行できません", "プロセス管理の設定でアクションの実行者に加えるか（APIトークンならAdministrator）、実行できる人に任せてから再試行してください"},
	},
	"acted_not_moved": {
		reason{"the action was run, and the record waits in its status for the others who must act", "leave it: the record moves on when all its assignees have acted; do not send it again for this account"},
		reason{"アクションは実行されましたが、ほかの作業者の実行を待っているため、ステータスは変わっていません", "作業者全員が実行すると先へ進みます。同じアカウントで送り直す必要はありません"},
	},
	"acted_unverified": {
		reason{"kintone says that the action was run, and the record could not be read afterwards to see where it stands", "look at the record in kintone; send nothing again before that"},
		reason{"アクションは実行されましたが、その後のステータスを確認できませんでした", "kintoneでレコードを確認してください。確認するまで送り直さないでください"},
	},
	"budget_spent": {
		reason{"the app has used up its requests of today", "wait: it goes on at 09:00 Japan time (00:00 UTC); if that is too late, raise dailyRequests of the app in the worker's configuration, or set its whenSpent to warn, and restart the worker"},
		reason{"このアプリの本日分のリクエスト数を使い切りました", "日本時間9時に自動的に再開します。急ぐ場合は、ワーカーの設定でアプリのdailyRequestsを増やすかwhenSpentをwarnにして、ワーカーを再起動してください"},
	},
	"settings_change": {
		reason{"the app's process settings are being changed through statusq", "wait: the lane goes on when the change has been deployed or given up; see enqueue settings status"},
		reason{"statusqによるプロセス管理の設定変更を実施中です", "反映または中止されると自動的に再開します。状況はenqueue settings statusで確認できます"},
	},
	"cancelled": {
		reason{"the campaign was cancelled before the job was sent", "leave it; if it is wanted after all, send it again under a new job id and in another campaign: under its old id it is a duplicate"},
		reason{"実行する前にキャンペーンが中止されました", "対応は不要です。やはり必要な場合は、新しいジョブIDと別のキャンペーン名で送り直してください（同じIDのままでは重複として扱われ、実行されません）"},
	},
	"max_dead": {
		reason{"more jobs of the campaign died than it allows", "see to the dead ones first; then send what was cancelled again under new job ids and in another campaign: under their old ids they are duplicates"},
		reason{"キャンペーンのエラー件数が上限（max-dead）を超えました", "エラーになったジョブを先に確認し、中止された分を新しいジョブIDと別のキャンペーン名で送り直してください（同じIDのままでは重複として扱われ、実行されません）"},
	},
	"budget_paced": {
		reason{"jobs are gathered into fuller batches, because the day's requests would not last otherwise", "wait, at most ten minutes for a batch; with larger dailyRequests for the app, and a restart, it takes less"},
		reason{"1日のリクエスト数を使い切らないように、ジョブをまとめて送っています", "対応は不要です。短くするには、アプリのdailyRequestsを増やして再起動してください"},
	},
	"under_way": {
		reason{"a job of this id was sent before and has not ended yet; nothing more is run for this one", "wait for the first one: enqueue job ID shows where it is"},
		reason{"同じIDのジョブが先に送られ、まだ終わっていません。このジョブでは何も実行されません", "先のジョブを待ってください(enqueue job IDで場所がわかります)"},
	},
	"id_reused": {
		reason{"this id was used before for another record; nothing was run for this job", "give every job an id of its own, and send it again"},
		reason{"このIDは以前に別のレコードで使われています。このジョブは実行されていません", "ジョブごとに別のIDを付けて、送り直してください"},
	},
	"refused": {
		reason{"kintone refuses the action", "see kintone's code and message; retry once the cause is gone"},
		reason{"kintoneがアクションを拒否しました", "kintoneのエラーコードとメッセージを確認し、原因がなくなってから再試行してください"},
	},
	"outcome_unknown": {
		reason{"an answer was lost and the record was changed by somebody else meanwhile: whether the action ran cannot be proved", "look at the record's history in kintone, then say what it shows with dead resolve: --applied, --not-applied or --retry"},
		reason{"応答が失われ、その間にレコードがほかから変更されたため、実行されたかどうか確定できません", "kintoneの変更履歴を確認し、その結果をdead resolveの--applied、--not-applied、--retryのいずれかで登録してください"},
	},
	"resolved": {
		reason{"somebody has seen in kintone that the action was run, and said so", "leave it: the job counts as applied"},
		reason{"アクションが実行済みであることを担当者がkintoneで確認しました", "対応は不要です。実行済みとして扱われます"},
	},
	"resolved_not_applied": {
		reason{"somebody has seen in kintone that the action was not run, and that it need not be", "leave it, or send it again under a new id if it is wanted after all"},
		reason{"アクションが実行されておらず、実行も不要であることを担当者が確認しました", "対応は不要です。やはり必要な場合は、新しいIDで送り直してください"},
	},
	"behind": {
		reason{"an earlier job of the same record has not ended", "wait; if the earlier job is stuck, see to that one"},
		reason{"同じレコードの前のジョブが終わるのを待っています", "そのままで構いません。前のジョブが止まっている場合は、そちらを確認してください"},
	},
	"retried": {
		reason{"somebody put the job back to work", "wait: it is tried again next"},
		reason{"ジョブが再試行に戻されました", "そのままで構いません。次に実行されます"},
	},
	"not_before": {
		reason{"the job asked to wait until a certain time", "wait: it goes on at that time"},
		reason{"ジョブに指定された開始時刻を待っています", "そのままで構いません。時刻になると実行されます"},
	},
	"process_disabled": {
		reason{"process management is switched off in the app", "switch it on in the app's settings and update the app; the lane goes on by itself"},
		reason{"アプリのプロセス管理が無効です", "アプリの設定で有効にし、アプリを更新してください。自動的に再開します"},
	},
	"app_not_found": {
		reason{"the app does not exist", "check the app id; was the app deleted?"},
		reason{"アプリが存在しません", "アプリIDを確認してください。アプリが削除されていませんか"},
	},
	"token_invalid": {
		reason{"kintone does not accept the API token for this app", "check that the token belongs to the app and that the app was updated after the token was made; a new token in its file is used within seconds, one in the environment takes a restart"},
		reason{"このアプリのAPIトークンが受け付けられません", "アプリのトークンであること、トークン作成後にアプリを更新したことを確認してください。トークンのファイルを書き換えると数秒で反映されます（環境変数の場合はワーカーの再起動が必要です）"},
	},
	"no_permission": {
		reason{"the account or token may not do this in the app", "grant it the right to view and edit records of the app"},
		reason{"アカウントまたはAPIトークンの権限が足りません", "アプリのレコード閲覧・編集の権限を与えてください"},
	},
	"guest_space_wrong": {
		reason{"the app is in a guest space and is configured without it, or the other way round", "correct guestSpace for the app in the worker's configuration"},
		reason{"ゲストスペースの設定がアプリと合っていません", "ワーカーの設定で、アプリのguestSpaceを直してください"},
	},
	"deploying": {
		reason{"the app's settings are being deployed", "wait: the lane goes on when kintone is done"},
		reason{"アプリの設定を反映中です", "そのままで構いません。反映が終わると再開します"},
	},
	"server_error": {
		reason{"kintone answers with server errors", "wait: the lane tries again by itself; if that lasts, look at kintone's status page"},
		reason{"kintoneがサーバーエラーを返しています", "自動的に再試行します。続く場合はkintoneの稼働状況を確認してください"},
	},
	"not_kintone": {
		reason{"something answers that is not kintone", "check the base URL, the proxy, the client certificate if there is one, and that no login page stands in between; the lane tries again by itself"},
		reason{"kintone以外のものが応答しています", "ベースURL、プロキシ、クライアント証明書（使う場合）を確認し、途中でログイン画面が挟まっていないか確かめてください。自動的に再試行します"},
	},
	"unreachable": {
		reason{"kintone cannot be reached", "wait: it is tried again by itself; if that lasts, check the network and the proxy, and look at kintone's status page"},
		reason{"kintoneに接続できません", "自動的に再試行します。続く場合はネットワークとプロキシ、kintoneの稼働状況を確認してください"},
	},
	"throttled": {
		reason{"kintone gets more requests than it takes", "wait: it is tried again by itself, with fewer requests at a time; if that lasts, see which other programs use the same kintone"},
		reason{"kintoneへのリクエストが多すぎます", "同時リクエスト数を減らして自動的に再試行します。続く場合は、同じkintoneを使うほかのプログラムを確認してください"},
	},
	"locked": {
		reason{"kintone has locked the record or the app for another operation", "wait: it is tried again by itself"},
		reason{"ほかの処理のため、kintoneがレコードまたはアプリをロックしています", "自動的に再試行します"},
	},
	"login_refused": {
		reason{"kintone refuses the login", "correct the login name and password: a password file that changes is used within seconds, anything else takes a restart; nothing is tried before that, so that the account is not locked"},
		reason{"kintoneへのログインが拒否されました", "ログイン名とパスワードを直してください。パスワードのファイルは書き換えると数秒で反映されます（それ以外はワーカーの再起動が必要です）。アカウントがロックされないよう、それまで試行しません"},
	},
	"worker_too_old": {
		reason{"the queue holds something that only a newer worker understands", "update the worker"},
		reason{"新しいバージョンのワーカーでないと処理できないデータがあります", "ワーカーを更新してください"},
	},
	"ledger_full": {
		reason{"the ledger is full; nothing is thrown away to make room", "give the stream STATUSQ_LEDGER more space, or discard dead letters that are not needed"},
		reason{"台帳の容量がいっぱいです。古い記録を自動で消すことはありません", "ストリームSTATUSQ_LEDGERの容量を増やすか、不要なデッドレターを破棄してください"},
	},
}
