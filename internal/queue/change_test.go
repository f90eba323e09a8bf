package queue_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"statusq/internal/queue"
)

// A change is its owner's until another claims it: from then on the old one can write nothing, not even a first change.
func TestAChangeHasOneWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := start(t)
		_, err := q.Change(t.Context(), "main", 5)
		wantErr(t, "a change that never was", err, queue.ErrGone)
		old, c, err := q.ClaimChange(t.Context(), "main", 5, 3, "one")
		if err != nil || c.ID != "" {
			t.Fatalf("claimed %+v (%v)", c, err)
		}
		_, err = q.Change(t.Context(), "main", 5)
		wantErr(t, "a claim alone", err, queue.ErrGone)

		begun := queue.Change{ID: "c1", By: "ito", At: time.Now().UTC(), Want: json.RawMessage(`{"enable":true}`), Base: 7, Deploy: true, Stage: queue.ChangeWaiting}
		if err := old.Write(t.Context(), begun); err != nil {
			t.Fatal(err)
		}
		next, c, err := q.ClaimChange(t.Context(), "main", 5, 4, "two")
		if err != nil || c.ID != "c1" || c.Stage != queue.ChangeWaiting || string(c.Want) != `{"enable":true}` || c.Base != 7 || !c.Deploy {
			t.Fatalf("taken over: %+v (%v)", c, err)
		}
		begun.Stage = queue.ChangePutting
		wantErr(t, "a write of the old owner", old.Write(t.Context(), begun), queue.ErrDeposed)
		_, _, err = q.ClaimChange(t.Context(), "main", 5, 3, "one")
		wantErr(t, "a claim of the old owner", err, queue.ErrDeposed)
		c.Stage = queue.ChangeDone
		if err := next.Write(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if c, err = q.Change(t.Context(), "main", 5); err != nil || c.Stage != queue.ChangeDone || c.Owner != "two" || c.Epoch != 4 {
			t.Errorf("stands there: %+v (%v)", c, err)
		}
		// It is no control of the app, and another app's is another.
		if controls, err := q.Controls(t.Context(), "main"); err != nil || len(controls) != 0 {
			t.Errorf("controls %+v (%v)", controls, err)
		}
		_, err = q.Change(t.Context(), "main", 6)
		wantErr(t, "another app's change", err, queue.ErrGone)
	})
}

// A write whose answer is lost is in, or is sent again; in neither case does the owner take it for somebody else's.
func TestLostAnswersOfAChangesWriter(t *testing.T) {
	for name, lose := range map[string]func(*wire){
		"it was lost":       func(w *wire) { w.lose("c1") },
		"its answer is cut": func(w *wire) { w.cut("c1") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := serve(t)
				setUp := s.Connect(t)
				q, w := connect(t, s)
				changer, _, err := q.ClaimChange(t.Context(), "main", 5, 3, "one")
				if err != nil {
					t.Fatal(err)
				}
				lose(w)
				for _, stage := range []queue.ChangeStage{queue.ChangeWaiting, queue.ChangePutting} {
					if err := changer.Write(t.Context(), queue.Change{ID: "c1", Stage: stage}); err != nil {
						t.Fatal(err)
					}
					if c, err := setUp.Change(t.Context(), "main", 5); err != nil || c.Stage != stage {
						t.Errorf("stands there: %+v (%v)", c, err)
					}
				}
			})
		})
	}
}
