package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"statusq/internal/kintone"
)

// settingsFile is process management settings as somebody wrote them, in YAML or JSON, which is read as YAML too: so
// kintone's sample with its single quotes is accepted as it is. Whatever is wrong in it is shown where it stands.
type settingsFile struct {
	name     string
	settings kintone.ProcessSettings
	body     json.RawMessage
	places   map[string]*token.Token // of values by their path
}

// maxSettings is how large a file may be, in bytes.
const maxSettings = 256 << 10

// readSettingsFile reads a file, or stdin under the name -. The error is one of usage and holds everything that is wrong.
func readSettingsFile(name string, stdin io.Reader) (settingsFile, error) {
	source := stdin
	if name == "-" {
		name = "stdin"
	} else {
		file, err := os.Open(name)
		if err != nil {
			return settingsFile{}, &exit{exitUsage, err}
		}
		defer file.Close()
		source = file
	}
	text, err := io.ReadAll(io.LimitReader(source, maxSettings+1))
	switch {
	case err != nil:
		return settingsFile{}, &exit{exitUsage, err}
	case len(text) > maxSettings:
		return settingsFile{}, usage("%s is larger than %d KiB", name, maxSettings>>10)
	}
	return parseSettings(name, text)
}

func parseSettings(name string, text []byte) (settingsFile, error) {
	f := settingsFile{name: name, places: make(map[string]*token.Token)}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	isJSON := json.Valid(text)
	if isJSON {
		text = bytes.ReplaceAll(text, []byte{'\t'}, []byte{' '}) // which YAML does not take; within strings of JSON there are none
	}
	tree, err := parser.ParseBytes(text, 0)
	if err != nil {
		return f, f.unreadable(err)
	}
	var bodies []ast.Node
	for _, doc := range tree.Docs {
		if doc.Body != nil {
			bodies = append(bodies, doc.Body)
		}
	}
	if len(bodies) != 1 {
		return f, usage("%s: %d settings are in it, want 1", f.name, len(bodies))
	}
	f.note(bodies[0], nil)
	if f.body = text; !isJSON {
		if f.body, err = yaml.YAMLToJSON(text); err != nil {
			return f, f.unreadable(err)
		}
	}
	if err := f.settings.UnmarshalJSON(f.body); err != nil {
		var wrong []mistake
		for _, m := range kintone.SettingsMistakes(err) {
			wrong = append(wrong, f.mistake(m.Path, m.Text))
		}
		return f, f.complain(wrong)
	}
	// What is sent names no app and no revision: those are in the question.
	bare := f.settings
	bare.App, bare.Revision = 0, kintone.Unchecked
	if f.body, err = json.Marshal(bare); err != nil {
		return f, err
	}
	return f, nil
}

// refused says where in the file stands what kintone would refuse.
func (f settingsFile) refused(a settingsAnswer) error {
	var wrong []mistake
	for _, p := range a.Problems {
		wrong = append(wrong, f.mistake(p.Path, p.Text+f.renamed(p.Path)))
	}
	return f.complain(wrong)
}

// renamed says of a path to the status of an action that the file itself gives that status another name, "" if it does
// not.
func (f settingsFile) renamed(path []string) string {
	if len(path) != 3 || path[0] != "actions" {
		return ""
	}
	n, err := strconv.Atoi(path[1])
	if err != nil || n < 0 || n >= len(f.settings.Actions) {
		return ""
	}
	status := map[string]string{"from": f.settings.Actions[n].From, "to": f.settings.Actions[n].To}[path[2]]
	for _, state := range f.settings.States {
		if state.Name == status { // another one gets the name
			return ""
		}
	}
	if state, listed := f.settings.States[status]; listed && state.Name != "" {
		return fmt.Sprintf(", as it is renamed to %q: name it so in actions too", state.Name)
	}
	return ""
}

// renamedBefore says which of the file's renames have happened already: a status is listed by a name that is gone, and
// shall have one that is there. In a comparison that would be one status deleted and another one added.
func (f settingsFile) renamedBefore(now *kintone.ProcessSettings) error {
	if now == nil {
		return nil
	}
	var wrong []mistake
	for key, state := range f.settings.States {
		_, old := now.States[key]
		_, there := now.States[state.Name]
		if _, listed := f.settings.States[state.Name]; old || !there || listed {
			continue
		}
		wrong = append(wrong, f.mistake([]string{"states", key, "name"},
			fmt.Sprintf("it has been renamed already: there is no status %q any more, and there is %[2]q; list it as %[2]q, in place of %[1]q (or begin with a new file by settings get)", key, state.Name)))
	}
	return f.complain(wrong)
}

// mistake is something wrong at a place.
type mistake struct {
	at   *token.Token // nil: nowhere in particular
	text string
}

// mistake puts one at the value that a path leads to, or at what stands above it where that is missing.
func (f settingsFile) mistake(path []string, text string) mistake {
	m := mistake{text: text}
	if len(path) > 0 {
		m.text = strings.Join(path, ".") + ": " + text
	}
	for n := len(path); n >= 0 && m.at == nil; n-- {
		m.at = f.places[strings.Join(path[:n], "\x00")]
	}
	return m
}

// complain is the error about all mistakes, in the order of the file; nil if there are none.
func (f settingsFile) complain(wrong []mistake) error {
	if len(wrong) == 0 {
		return nil
	}
	slices.SortStableFunc(wrong, func(a, b mistake) int {
		if a.at == nil || b.at == nil {
			return 0
		}
		return cmp.Or(cmp.Compare(a.at.Position.Line, b.at.Position.Line), cmp.Compare(a.at.Position.Column, b.at.Position.Column))
	})
	out := &fileMistakes{head: fmt.Sprintf("%s: %s, nothing was changed", f.name, count("en", len(wrong), "problem"))}
	for _, m := range wrong {
		text := m.text
		if m.at != nil {
			text = strings.TrimSpace(yaml.FormatError(&yaml.SyntaxError{Message: m.text, Token: m.at}, false, true))
		}
		out.lines = append(out.lines, strings.Split(text, "\n")...)
	}
	return out
}

// fileMistakes is what is wrong in a file, with the lines around each mistake.
type fileMistakes struct {
	head  string
	lines []string
}

func (m *fileMistakes) Error() string { return m.head + ": " + strings.Join(m.lines, "; ") }

// tellMistakes writes the mistakes in a file to stderr, each with its lines. Any other error comes back as it is.
func (e *env) tellMistakes(err error) error {
	m, ok := errors.AsType[*fileMistakes](err)
	if !ok {
		return err
	}
	e.say("enqueue: %s", printable(m.head))
	for _, line := range m.lines {
		e.say("  %s", printable(line))
	}
	return &exit{exitUsage, nil}
}

// unreadable is the error about a file that is neither YAML nor JSON.
func (f settingsFile) unreadable(err error) error {
	if e, ok := errors.AsType[yaml.Error](err); ok {
		return f.complain([]mistake{{e.GetToken(), e.GetMessage()}})
	}
	return usage("%s: %v", f.name, err)
}

// note remembers where values stand.
func (f settingsFile) note(n ast.Node, path []string) {
	at := strings.Join(path, "\x00")
	switch n := n.(type) {
	case *ast.MappingNode:
		if f.places[at] == nil {
			f.places[at] = n.GetToken()
		}
		for _, v := range n.Values {
			f.note(v, path)
		}
	case *ast.MappingValueNode:
		if key := n.Key.GetToken(); key != nil {
			below := append(slices.Clone(path), key.Value)
			if f.places[at] == nil {
				f.places[at] = key
			}
			f.places[strings.Join(below, "\x00")] = key
			f.note(n.Value, below)
		}
	case *ast.SequenceNode:
		for i, v := range n.Values {
			f.note(v, append(slices.Clone(path), strconv.Itoa(i)))
		}
	case *ast.AnchorNode:
		f.note(n.Value, path)
	case *ast.TagNode:
		f.note(n.Value, path)
	case *ast.NullNode:
	default:
		f.places[at] = n.GetToken()
	}
}
