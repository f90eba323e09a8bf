package queue

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"statusq/internal/kintone"
)

// ClientFileName is the file in an embedded server's directory that tells clients on the same machine how to connect.
const ClientFileName = "client.json"

// ClientFile is what stands in that file: whoever can read it may use the queue, so only its owner can.
type ClientFile struct {
	URL      string // "" while the server does not listen
	User     string
	Password kintone.Secret
}

// clientFileForm is the stored form, the one place where the password is written in clear.
type clientFileForm struct {
	V        int    `json:"v"`
	URL      string `json:"url"`
	User     string `json:"user"`
	Password string `json:"password"`
}

// ReadClientFile reads dir's client file. Without one the error is an [os.ErrNotExist]. No error repeats what is in the
// file.
func ReadClientFile(dir string) (ClientFile, error) {
	path := filepath.Join(dir, ClientFileName)
	raw, err := os.ReadFile(path)
	if err != nil {
		return ClientFile{}, fmt.Errorf("client file: %w", err)
	}
	var f clientFileForm
	if err := json.Unmarshal(raw, &f); err != nil {
		return ClientFile{}, fmt.Errorf("client file %s: not readable as JSON", path)
	}
	if f.V != 1 {
		return ClientFile{}, fmt.Errorf("client file %s: version %d, this program knows 1", path, f.V)
	}
	if f.User == "" || f.Password == "" {
		return ClientFile{}, fmt.Errorf("client file %s: without user or password", path)
	}
	return ClientFile{URL: f.URL, User: f.User, Password: kintone.Secret(f.Password)}, nil
}

// Write puts the file into dir, whole or not at all, readable by its owner alone.
func (c ClientFile) Write(dir string) error {
	raw, err := json.Marshal(clientFileForm{V: 1, URL: c.URL, User: c.User, Password: c.Password.Reveal()})
	if err != nil {
		return fmt.Errorf("client file: %w", err)
	}
	tmp, err := os.CreateTemp(dir, ClientFileName+".*") // created with mode 0600
	if err != nil {
		return fmt.Errorf("client file: %w", err)
	}
	_, err = tmp.Write(append(raw, '\n'))
	if err == nil {
		err = tmp.Sync()
	}
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(dir, ClientFileName))
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("client file: %w", err)
	}
	return nil
}

// Config connects as the file says.
func (c ClientFile) Config() Config {
	return Config{URL: c.URL, User: c.User, Password: c.Password}
}

// DefaultStoreDir is where a worker keeps the data of its embedded server unless told otherwise, and where enqueue looks
// for the client file: statusq in $XDG_STATE_HOME, or in ~/.local/state.
func DefaultStoreDir() string {
	if state := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "statusq")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "statusq-data"
	}
	return filepath.Join(home, ".local", "state", "statusq")
}
