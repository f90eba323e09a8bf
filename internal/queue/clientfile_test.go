package queue_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"statusq/internal/queue"
)

func TestClientFileReadsBack(t *testing.T) {
	dir := t.TempDir()
	if _, err := queue.ReadClientFile(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file the error is %v, want fs.ErrNotExist", err)
	}
	for _, want := range []queue.ClientFile{
		{URL: "nats://127.0.0.1:4222", User: "statusq", Password: "hunter2"},
		{User: "statusq", Password: `a"b<c>`},
	} {
		if err := want.Write(dir); err != nil {
			t.Fatal(err)
		}
		got, err := queue.ReadClientFile(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("the file came back with URL %q and user %q, the password the same: %t", got.URL, got.User, got.Password == want.Password)
		}
		if c := got.Config(); c.URL != want.URL || c.User != want.User || c.Password != want.Password {
			t.Errorf("Config connects to %q as %q, want %q as %q", c.URL, c.User, want.URL, want.User)
		}
		if text := fmt.Sprintf("%v %+v %#v", got, got, got); strings.Contains(text, want.Password.Reveal()) {
			t.Errorf("printing gives the password away: %s", text)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory has %d entries (error %v), want the file alone", len(entries), err)
	}
}

func TestClientFileRefused(t *testing.T) {
	for name, tt := range map[string]struct{ content, want string }{
		"cut off":         {`{"v":1,"user":"u","password":"hunter2"`, "not readable as JSON"},
		"of another type": {`{"v":1,"user":7,"password":"hunter2"}`, "not readable as JSON"},
		"newer":           {`{"v":2,"user":"u","password":"hunter2"}`, "version 2, this program knows 1"},
		"no user":         {`{"v":1,"password":"hunter2"}`, "without user or password"},
		"no password":     {`{"v":1,"user":"u"}`, "without user or password"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, queue.ClientFileName), []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := queue.ReadClientFile(dir)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error is %v, want it to say %q", name, err, tt.want)
		}
	}
	if err := (queue.ClientFile{}).Write(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("Write into a directory that is absent gave no error")
	}
}
