package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"statusq/internal/queue"
)

// terminal opens a pseudo-terminal: what the person at it sees and types, and what a program has for it.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

func TestDeadRetryAsksAtATerminal(t *testing.T) {
	p := graveyard(t)
	for _, c := range []struct {
		answer string
		code   int
		dead   string
	}{
		{"\n", exitError, "a b 長い名前 d"},
		{"n\n", exitError, "a b 長い名前 d"},
		{"はい\n", exitDone, "a 長い名前 d"},
	} {
		person, program := terminal(t)
		if _, err := io.WriteString(person, c.answer); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		code := run(t.Context(), []string{"dead", "retry", "--reason-code", "record_not_found"}, program, &out, &errs)
		if code != c.code || p.deadJobs(t) != c.dead {
			t.Errorf("answer %q: exit code %d, dead letters %s; want %d, %s", c.answer, code, p.deadJobs(t), c.code, c.dead)
		}
		if !strings.Contains(errs.String(), "retry 1 dead letter? [y/N] ") {
			t.Errorf("asked %q", errs.String())
		}
	}

	person, program := terminal(t)
	if _, err := io.WriteString(person, "いいえ\n"); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"dead", "discard", "--all", "--lang", "ja"}, program, &out, &errs)
	if code != exitError || !strings.Contains(errs.String(), "結果不明のもの1件: 破棄すると") || !strings.Contains(errs.String(), "デッドレター3件を破棄しますか？ [y/N] ") {
		t.Errorf("in Japanese: exit code %d, asked %q", code, errs.String())
	}
	if _, err := io.WriteString(person, "y\n"); err != nil {
		t.Fatal(err)
	}
	errs.Reset()
	code = run(t.Context(), []string{"dead", "discard", "--all"}, program, &out, &errs)
	if code != exitDone || p.deadJobs(t) != "" || !strings.Contains(errs.String(), "1 with an unknown outcome") {
		t.Errorf("exit code %d, dead letters %s, asked %q", code, p.deadJobs(t), errs.String())
	}
}

// At a terminal the first question only holds the request, also if somebody else has had it held, and the second tells
// what the first was told.
func TestInflightResolveAsksAtATerminal(t *testing.T) {
	p := newPlace(t, queue.Layout{})
	p.hang(t)
	const until = "2026-12-01T01:12:00.00000005Z"
	var told []string // held of each question
	stop, err := p.q.Serve(t.Context(), "main", map[string]queue.Handler{
		"inflight": func(context.Context, []byte) ([]byte, error) { return []byte(heldByAnother), nil },
		"inflight-resolve": func(_ context.Context, question []byte) ([]byte, error) {
			var ask struct{ How, Held string }
			if err := json.Unmarshal(question, &ask); err != nil {
				return nil, err
			}
			told = append(told, ask.Held)
			if ask.How != "applied" && ask.Held != until {
				return []byte(`{"v":1,"state":"held","text":"why","until":"` + until + `"}`), nil
			}
			return []byte(`{"v":1,"state":"resolved","jobs":["a"]}`), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	for _, c := range []struct {
		answer string
		more   []string
		code   int
		told   []string
	}{
		{"n\n", []string{"--retry"}, exitError, []string{""}},
		{"y\n", []string{"--retry"}, exitDone, []string{"", until}},
		{"y\n", []string{"--not-applied"}, exitDone, []string{"", until}},
		{"n\n", []string{"--retry", "--held", until}, exitError, nil},
		{"y\n", []string{"--retry", "--held", until}, exitDone, []string{until}},
		{"y\n", []string{"--retry", "--held", "2026-12-01T01:02:00Z"}, exitHeld, []string{"2026-12-01T01:02:00Z"}},
		{"y\n", []string{"--applied"}, exitDone, []string{""}},
	} {
		told = nil
		person, program := terminal(t)
		if _, err := io.WriteString(person, c.answer); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		code := run(t.Context(), append([]string{"inflight", "resolve", "r9", "--reason", "seen"}, c.more...), program, &out, &errs)
		if code != c.code || !slices.Equal(told, c.told) {
			t.Errorf("%v, answer %q: exit code %d after asking with %q, want %d and %q\n%s", c.more, c.answer, code, told, c.code, c.told, errs.String())
		}
		if !strings.Contains(errs.String(), "[y/N] ") {
			t.Errorf("%v: nobody was asked: %q", c.more, errs.String())
		}
	}
}

// heldByAnother is the answer of a worker with the request of hang, which somebody has had held.
const heldByAnother = `{"v":1,"owner":"w1","epoch":7,"flights":[{"app":5,"slot":3,"request":"r9","at":"2026-12-01T01:01:03Z","doing":"held","until":"2026-12-01T01:12:00.00000005Z",
	"parts":[{"members":[{"seq":1,"job":"a","record":1001,"pin":4,"action":"承認","to":"済"}],"sends":2,"unclear":"2026-12-01T01:02:03Z"}]}]}`

func TestSendDrawsABarAtATerminal(t *testing.T) {
	newPlace(t, queue.Layout{})
	person, program := terminal(t)
	var seen bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(&seen, person) }) // ends when the program's side is closed
	var out bytes.Buffer
	code := run(t.Context(), []string{"send", "--file", "-"}, strings.NewReader(csvOf(2000)), &out, program)
	program.Close()
	wg.Wait()
	if code != exitDone || !strings.Contains(seen.String(), "published") || !strings.Contains(seen.String(), "/2000") {
		t.Errorf("exit code %d, on the terminal %q", code, seen.String())
	}
	if strings.Contains(out.String(), "published") || !strings.Contains(out.String(), "2000 jobs accepted") {
		t.Errorf("stdout has %q", out.String())
	}
}
