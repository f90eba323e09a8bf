package campaign

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A reason that the worker gives and that has no text is shown as its bare code, which nobody notices before a user
// does. The constants are read from the sources, as what is compiled cannot be asked for their names.
func TestEveryReasonHasATextInBothLanguages(t *testing.T) {
	codes := make(map[string]string) // by the name of the constant
	for _, dir := range []string{"../dispatch", "../queue"} {
		maps.Copy(codes, constants(t, dir, "Reason"))
	}
	if codes["ReasonActedNotMoved"] != ReasonActedNotMoved || codes["ReasonActedUnverified"] != ReasonActedUnverified {
		t.Errorf("the worker calls %q and %q what the tally calls %q and %q", codes["ReasonActedNotMoved"], codes["ReasonActedUnverified"], ReasonActedNotMoved, ReasonActedUnverified)
	}
	for _, name := range []string{"ReasonLocked", "ReasonRecordNotFound", "ReasonRetried"} {
		if codes[name] == "" {
			t.Errorf("%s was not found in the sources: does this test look in the right place?", name)
		}
	}
	for name, code := range codes {
		en, _ := ReasonText(code, "en")
		ja, _ := ReasonText(code, "ja")
		if en == code || ja == code || en == ja {
			t.Errorf("%s %q means %q and %q, want a text in each language", name, code, en, ja)
		}
	}
}

// constants returns the string constants in the sources of a package, without its tests, whose names begin so.
func constants(t *testing.T, dir, prefix string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			group, ok := d.(*ast.GenDecl)
			if !ok || group.Tok != token.CONST {
				continue
			}
			for _, s := range group.Specs {
				spec := s.(*ast.ValueSpec)
				for i, name := range spec.Names {
					if !strings.HasPrefix(name.Name, prefix) || i >= len(spec.Values) {
						continue
					}
					literal, ok := spec.Values[i].(*ast.BasicLit)
					if !ok || literal.Kind != token.STRING {
						t.Errorf("%s: %s is no string that can be read from here", path, name.Name)
						continue
					}
					if found[name.Name], err = strconv.Unquote(literal.Value); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	return found
}

// Under its old id and in its old campaign, a job that was cancelled is a duplicate: the advice has to say both.
func TestWhatWasCancelledNeedsNewIDs(t *testing.T) {
	for _, code := range []string{"cancelled", "max_dead"} {
		for lang, want := range map[string][]string{"en": {"under", "new job id", "another campaign"}, "ja": {"新しいジョブID", "別のキャンペーン名"}} {
			_, todo := ReasonText(code, lang)
			for _, part := range want {
				if !strings.Contains(todo, part) {
					t.Errorf("%s (%s): %q, want %q in it", code, lang, todo, part)
				}
			}
		}
	}
}

// The texts are put behind a colon and behind an arrow, among others: each is a part of a sentence that fits there.
func TestReasonTexts(t *testing.T) {
	for code, texts := range reasons {
		for lang, r := range map[string]reason{"en": texts.en, "ja": texts.ja} {
			for _, text := range []string{r.what, r.todo} {
				if text == "" || strings.HasPrefix(text, "nothing") || strings.TrimRight(text, " .。") != text {
					t.Errorf("%s: %q does not fit into a sentence (%s)", code, text, lang)
				}
			}
			if what, todo := ReasonText(code, lang); what != r.what || todo != r.todo {
				t.Errorf("ReasonText(%q, %q) = %q, %q", code, lang, what, todo)
			}
		}
	}
	if what, todo := ReasonText("GAIA_XX99", "ja"); what != "GAIA_XX99" || todo != "" {
		t.Errorf("ReasonText of an unknown code = %q, %q; want the code", what, todo)
	}
}
