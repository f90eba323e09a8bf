package failpoint_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"statusq/internal/failpoint"
)

const root = "../.."

// Every name stands for one place: what is hit is in the list, and what is in the list is hit once.
func TestEveryNameIsOnePlace(t *testing.T) {
	places := make(map[string][]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == ".git" {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		files := token.NewFileSet()
		f, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			s, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || s.Sel.Name != "Hit" {
				return true
			}
			if x, ok := s.X.(*ast.Ident); !ok || x.Name != "failpoint" {
				return true
			}
			at := files.Position(call.Pos()).String()
			lit, ok := call.Args[0].(*ast.BasicLit)
			if !ok {
				t.Errorf("%s: the name is not written out", at)
				return true
			}
			name, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Errorf("%s: %v", at, err)
			}
			places[name] = append(places[name], at)
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range places {
		if !slices.Contains(failpoint.Names, name) {
			t.Errorf("%q is hit at %v and is not in Names", name, at)
		}
		if len(at) > 1 {
			t.Errorf("%q is hit at several places: %v", name, at)
		}
	}
	for i, name := range failpoint.Names {
		if len(places[name]) == 0 {
			t.Errorf("%q is in Names and hit nowhere", name)
		}
		if slices.Index(failpoint.Names, name) != i {
			t.Errorf("%q is in Names twice", name)
		}
	}
	if len(failpoint.Names) < 25 {
		t.Errorf("there are %d points, want at least 25", len(failpoint.Names))
	}
}

// Without the tag a point is no code at all: the compiler puts the body of Hit, which is empty, in the place of the call.
func TestAPointCostsNothing(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "build", "-gcflags=-m", "statusq/internal/failpoint").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "off.go:6:6: can inline Hit") {
		t.Errorf("the compiler does not say that it inlines Hit:\n%s", out)
	}
	src, err := os.ReadFile("off.go")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(src), "\nfunc Hit(string) {}\n") {
		t.Error("without the tag Hit is not empty")
	}
}
