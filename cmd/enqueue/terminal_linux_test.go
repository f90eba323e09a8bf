package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
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
	if _, err := io.WriteString(person, "y\n"); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"dead", "discard", "--all"}, program, &out, &errs)
	if code != exitDone || p.deadJobs(t) != "" || !strings.Contains(errs.String(), "1 with an unknown outcome") {
		t.Errorf("exit code %d, dead letters %s, asked %q", code, p.deadJobs(t), errs.String())
	}
}

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
