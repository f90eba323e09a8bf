package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// sayers are the functions that say something to people, and which of their arguments are what is said: from one to
// before another, -1 = all that follow.
var sayers = map[string]struct{ from, to int }{
	"in": {1, 2}, "word": {1, 2}, "failure": {1, 2}, "say": {0, 1}, "print": {0, 1}, "progress": {0, 1}, "count": {2, 3},
	"addFact": {0, 1}, "addNumber": {0, 1}, "newGrid": {0, -1}, "gridOf": {1, -1},
}

// sameInBoth are texts that need no Japanese.
var sameInBoth = []string{"enqueue: %s", "enqueue %s (%s%s)\n", "problem", "kintone"}

// verbs are what a format fills in, and where it says which argument.
var verbs = regexp.MustCompile(`%(?:\[(\d+)\])?[-+# 0]*[\d.]*([a-zA-Z])`)

// Everything that is said to people is said in Japanese as well, with the same to fill in. What has no Japanese would come
// out in English in the middle of it.
func TestEverythingIsSaidInJapanese(t *testing.T) {
	used := make(map[string]bool)
	for text, at := range saidInSource(t) {
		used[text] = true
		japanese, ok := inJapanese[text]
		switch {
		case slices.Contains(sameInBoth, text), !strings.ContainsFunc(verbs.ReplaceAllString(text, ""), unicode.IsLetter):
		case !ok:
			t.Errorf("%s: %q has no Japanese", at, text)
		case !slices.Equal(arguments(t, text), arguments(t, japanese)):
			t.Errorf("%s: %q fills in %v, and its Japanese %v: %q", at, text, arguments(t, text), arguments(t, japanese), japanese)
		case strings.HasSuffix(text, "\n") != strings.HasSuffix(japanese, "\n"), strings.HasPrefix(text, "\n") != strings.HasPrefix(japanese, "\n"):
			t.Errorf("%s: %q and its Japanese %q do not begin and end their lines alike", at, text, japanese)
		}
	}
	for text, japanese := range inJapanese {
		if !used[text] {
			t.Errorf("nobody says %q any more, which is %q", text, japanese)
		}
	}
	if len(used) < 100 {
		t.Errorf("%d texts were found, want many", len(used))
	}
}

// arguments lists what a format fills in, as "1s", in the order of the arguments, each once.
func arguments(t *testing.T, format string) []string {
	t.Helper()
	var all []string
	next := 1
	for _, m := range verbs.FindAllStringSubmatch(strings.ReplaceAll(format, "%%", ""), -1) {
		if m[1] != "" {
			n, err := strconv.Atoi(m[1])
			if err != nil {
				t.Fatal(err)
			}
			next = n
		}
		all = append(all, strconv.Itoa(next)+m[2])
		next++
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// saidInSource finds the texts in the source, and where they stand. A text that is chosen from a variable is found by
// being a constant of the deed, meaning or state that it comes from.
func saidInSource(t *testing.T) map[string]string {
	t.Helper()
	set := token.NewFileSet()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	texts := make(map[string]string)
	note := func(e ast.Expr) {
		if text, ok := literal(e); ok {
			texts[strings.TrimSuffix(text, ">")] = set.Position(e.Pos()).String() // ">" marks a heading over numbers
		}
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				s, ok := sayers[called(n)]
				if to := s.to; ok {
					if to < 0 || to > len(n.Args) {
						to = len(n.Args)
					}
					for _, arg := range n.Args[min(s.from, to):to] {
						note(arg)
					}
				}
			case *ast.FuncDecl:
				if n.Name.Name == "meaning" || n.Name.Name == "whose" {
					ast.Inspect(n, func(n ast.Node) bool {
						if r, ok := n.(*ast.ReturnStmt); ok {
							note(r.Results[0])
						}
						return true
					})
				}
			case *ast.CompositeLit:
				if name, ok := n.Type.(*ast.Ident); !ok || name.Name != "deed" {
					break
				}
				for _, e := range n.Elts {
					field := e.(*ast.KeyValueExpr)
					if slices.Contains([]string{"verb", "done", "warn", "refusal"}, field.Key.(*ast.Ident).Name) {
						note(field.Value)
					}
				}
			}
			return true
		})
	}
	for _, plight := range plights {
		texts[plight.Error()] = "plights"
	}
	for _, state := range states {
		texts[state] = "states"
	}
	return texts
}

func called(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// literal is a text that stands in the source, be it in several parts.
func literal(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		a, okA := literal(e.X)
		b, okB := literal(e.Y)
		return a + b, okA && okB
	}
	return "", false
}
