package main

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// A document is a YAML file that is read into a struct, and remembers where everything in it stands: so that whatever
// turns out to be wrong, be it a typo or two values that do not go together, is shown with its line and column. It finds
// all mistakes and not only the first.
//
// A path says what is meant, such as "sites/main/apps/5/call". The zero value is an empty file.
type document struct {
	places   map[string]*token.Token // of values; for a struct or map that of its first key
	keys     map[string]*token.Token
	anchors  map[string]ast.Node
	mistakes []mistake
	spoilt   bool // something in it could not be read, so that what is missing may be that
}

type mistake struct {
	at    *token.Token // nil: in no line
	text  string
	blind bool // the lines around it must not be shown
}

// readDocument reads raw into the struct that into points to, whose fields have the tags yaml (the name) and doc (what it
// is).
func readDocument(raw []byte, into any) *document {
	d := &document{places: make(map[string]*token.Token), keys: make(map[string]*token.Token), anchors: make(map[string]ast.Node)}
	f, err := parser.ParseBytes(raw, 0)
	if err != nil {
		if e, ok := errors.AsType[yaml.Error](err); ok {
			d.wrong(e.GetToken(), e.GetMessage())
		} else {
			d.wrong(nil, err.Error())
		}
		return d
	}
	for i, doc := range f.Docs {
		switch {
		case doc.Body == nil:
		case i > 0:
			d.wrong(where(doc.Body), "a second document: there can be only one in the file")
		default:
			d.decode(doc.Body, reflect.ValueOf(into).Elem(), "")
		}
	}
	return d
}

// has reports whether the file says anything at a path.
func (d *document) has(path string) bool { return d.places[path] != nil }

// fail notes a mistake in the value at a path or, where there is none, in what stands above it. Of the path "" it says no
// place.
func (d *document) fail(path, text string) { d.note(d.place(path, d.places), text, false) }

// failKey notes a mistake in the name that the path ends in.
func (d *document) failKey(path, text string) { d.note(d.place(path, d.keys), text, false) }

// failBlind notes a mistake whose line may hold a secret.
func (d *document) failBlind(path, text string) { d.note(d.place(path, d.places), text, true) }

func (d *document) place(path string, in map[string]*token.Token) *token.Token {
	for ; path != ""; path = path[:max(0, strings.LastIndexByte(path, '/'))] {
		if at := cmp.Or(in[path], d.keys[path]); at != nil {
			return at
		}
	}
	return nil
}

// wrong notes a mistake in how the file is written.
func (d *document) wrong(at *token.Token, text string) {
	d.spoilt = true
	d.note(at, text, false)
}

func (d *document) note(at *token.Token, text string, blind bool) {
	d.mistakes = append(d.mistakes, mistake{at, text, blind})
}

// explain says everything that is wrong, in the order of the file, and then what stands nowhere in it. It is "" if nothing
// is.
func (d *document) explain(name string) string {
	slices.SortStableFunc(d.mistakes, func(a, b mistake) int {
		if a.at == nil || b.at == nil {
			return cmp.Compare(b.line(), a.line()) // those without a line last
		}
		return cmp.Or(cmp.Compare(a.at.Position.Line, b.at.Position.Line), cmp.Compare(a.at.Position.Column, b.at.Position.Column))
	})
	var out []string
	for i, m := range d.mistakes {
		text := m.excerpt()
		if i == 0 && m.at != nil {
			text = "configuration " + name + ":\n" + text
		}
		if m.at != nil && i < len(d.mistakes)-1 {
			text += "\n" // an empty line behind an excerpt
		}
		out = append(out, text)
	}
	return strings.Join(out, "\n")
}

func (m mistake) line() int {
	if m.at == nil {
		return 0
	}
	return m.at.Position.Line
}

// excerpt is the mistake with the lines around it, unless somebody has written a secret there.
func (m mistake) excerpt() string {
	if m.at == nil {
		return m.text
	}
	text := strings.TrimSpace(yaml.FormatError(&yaml.SyntaxError{Message: m.text, Token: m.at}, false, true))
	lines := strings.TrimPrefix(text, fmt.Sprintf("[%d:%d] %s", m.at.Position.Line, m.at.Position.Column, m.text))
	if !m.blind && !userinfo.MatchString(lines) && !secretMember.MatchString(secretFileMember.ReplaceAllString(lines, "")) {
		return text
	}
	return strings.TrimSuffix(text, lines) + "\n(its lines are not shown, as there may be a secret in them; secrets stand in files of their own: " +
		"tokenFile, passwordFile, basicPasswordFile, pfxPasswordFile, proxyFile)"
}

var (
	secretMember     = regexp.MustCompile(`(?i)(token|passw|secret)\w*["']?\s*:`)
	secretFileMember = regexp.MustCompile(`(?i)(token|password)file["']?\s*:`)
	userinfo         = regexp.MustCompile(`://[^/\s]*@`)
)

// decode reads a node into v, which is a struct, a map by string, or a simple value. Null leaves it as it is.
func (d *document) decode(node ast.Node, v reflect.Value, path string) {
	switch n := node.(type) {
	case *ast.AnchorNode:
		d.decode(n.Value, v, path)
		d.anchors[n.Name.GetToken().Value] = n.Value
		return
	case *ast.AliasNode:
		name := n.Value.GetToken().Value
		if meant := d.anchors[name]; meant != nil {
			delete(d.anchors, name) // it may not hold itself
			d.decode(meant, v, path)
			d.anchors[name] = meant
		} else {
			d.wrong(n.GetToken(), fmt.Sprintf("there is no anchor &%s before this", name))
		}
		return
	case *ast.TagNode:
		d.decode(n.Value, v, path)
		return
	case *ast.NullNode:
		return
	}
	d.places[path] = where(node)
	switch v.Kind() {
	case reflect.Struct, reflect.Map:
		d.decodeMapping(node, v, path)
	case reflect.String:
		if text, ok := scalar(node); ok {
			v.SetString(text)
		} else {
			d.wrongKind(node, path, "text")
		}
	case reflect.Bool:
		if n, ok := node.(*ast.BoolNode); ok {
			v.SetBool(n.Value)
		} else {
			d.wrongKind(node, path, "true or false")
		}
	case reflect.Int, reflect.Int64:
		if n, ok := node.(*ast.IntegerNode); !ok {
			d.wrongKind(node, path, "a whole number")
		} else if !setInt(v, n.Value) {
			d.wrongKind(node, path, "a smaller one")
		}
	case reflect.Float64:
		text, _ := scalar(node)
		f, err := strconv.ParseFloat(strings.ReplaceAll(text, "_", ""), 64)
		if _, quoted := node.(*ast.StringNode); err != nil || quoted {
			d.wrongKind(node, path, "a number")
			return
		}
		v.SetFloat(f)
	default:
		panic("a configuration has no " + v.Kind().String())
	}
}

func setInt(v reflect.Value, value any) bool {
	switch n := value.(type) {
	case int64:
		v.SetInt(n)
		return !v.OverflowInt(n)
	case uint64:
		v.SetInt(int64(n))
		return v.Int() >= 0 && uint64(v.Int()) == n
	}
	return false
}

func (d *document) wrongKind(node ast.Node, path, want string) {
	delete(d.places, path) // it says nothing
	d.wrong(where(node), fmt.Sprintf("%s: %s is wanted here, not %s", path[strings.LastIndexByte(path, '/')+1:], want, kindOf(node)))
}

func kindOf(node ast.Node) string {
	switch node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.IntegerNode:
		return "such a large number"
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number like this"
	case *ast.BoolNode:
		return "true or false"
	}
	if text, _ := scalar(node); text != "" && strings.Trim(text, "0123456789") == "" {
		return "such a large number"
	}
	return "text"
}

// decodeMapping reads a mapping into a struct or a map. What is merged (<<) comes first, so that the rest goes over it.
func (d *document) decodeMapping(node ast.Node, v reflect.Value, path string) {
	var entries []*ast.MappingValueNode
	switch n := node.(type) {
	case *ast.MappingNode:
		entries = n.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{n}
	default:
		d.wrong(where(node), fmt.Sprintf("%s: a mapping (name: value) is wanted here, not %s", cmp.Or(path[strings.LastIndexByte(path, '/')+1:], "the file"), kindOf(node)))
		return
	}
	if v.Kind() == reflect.Map && v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	for _, e := range entries {
		if e.Key.IsMergeKey() {
			d.decode(e.Value, v, path)
		}
	}
	for _, e := range entries {
		if e.Key.IsMergeKey() {
			continue
		}
		key := e.Key.GetToken()
		name := key.Value
		at := strings.TrimPrefix(path+"/"+name, "/")
		d.keys[at] = key
		if v.Kind() == reflect.Map {
			element := reflect.New(v.Type().Elem()).Elem()
			d.decode(e.Value, element, at)
			v.SetMapIndex(reflect.ValueOf(name), element)
			continue
		}
		if i := fieldOf(v.Type(), func(known string) bool { return known == name }); i >= 0 {
			d.decode(e.Value, v.Field(i), at)
			continue
		}
		text := fmt.Sprintf("unknown field %q", name)
		if i := fieldOf(v.Type(), func(known string) bool { return alike(known, name) }); i >= 0 {
			f := v.Type().Field(i)
			text += fmt.Sprintf(": is %s meant (%s)?", f.Tag.Get("yaml"), f.Tag.Get("doc"))
		}
		d.wrong(key, text)
	}
}

// fieldOf returns the index of the first field whose name is the one, -1 if there is none.
func fieldOf(t reflect.Type, is func(string) bool) int {
	for i := range t.NumField() {
		if is(t.Field(i).Tag.Get("yaml")) {
			return i
		}
	}
	return -1
}

// alike reports whether a may have been meant where b was written: the case is wrong, a letter or two, or File is missing.
func alike(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	return a == b+"file" || distance(a, b) <= min(2, len(b)/3)
}

// distance is how many letters have to be put in, taken out or changed to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := last
			if a[i] != b[j] {
				change++
			}
			last = row[j+1]
			row[j+1] = min(change, last+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// scalar is the text of a simple value, as it was written.
func scalar(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	case *ast.InfinityNode, *ast.NanNode:
		return strings.TrimPrefix(strings.ToLower(n.GetToken().Value), "."), true
	}
	return "", false
}

// where is the place of a node; of a mapping without braces that of its first key.
func where(node ast.Node) *token.Token {
	switch n := node.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return n.Values[0].Key.GetToken()
		}
	case *ast.MappingValueNode:
		return n.Key.GetToken()
	}
	return node.GetToken()
}
