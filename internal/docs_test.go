package internal_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// docs/kintone.md says of each fact which test pins it. The name of a test that was renamed or removed would be a claim
// that nobody checks.
func TestFactsAboutKintoneNameTestsThatExist(t *testing.T) {
	page, err := os.ReadFile("../docs/kintone.md")
	if err != nil {
		t.Fatal(err)
	}
	dirs := map[string]string{
		"kintone": "kintone", "simulator": "kintone/simulator", "dispatch": "dispatch", "queue": "queue",
		"worker": "../cmd/worker", "enqueue": "../cmd/enqueue",
	}
	named := regexp.MustCompile("`([a-z]+)\\.((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllSubmatch(page, -1)
	if len(named) < 50 {
		t.Fatalf("docs/kintone.md names %d tests, want a page full", len(named))
	}
	tests := map[string]bool{}
	for name, dir := range dirs {
		files, err := filepath.Glob(dir + "/*_test.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9]+)\(`).FindAllSubmatch(source, -1) {
				tests[name+"."+string(f[1])] = true
			}
		}
	}
	for _, n := range named {
		if test := string(n[1]) + "." + string(n[2]); !tests[test] {
			t.Errorf("docs/kintone.md names %s, which is not there", test)
		}
	}
}
