package main

import (
	"strings"
	"testing"
)

// Whatever is in the file, reading it ends, and every mistake says where it is.
func FuzzDocument(f *testing.F) {
	for _, seed := range []string{
		"sites:\n  main:\n    baseUrl: https://sample.cybozu.com\n    apps: {5: {inflight: 3}}\n",
		"sites: {main: &a {<<: *a, apps: {5: *a}}}\n", "? [a]\n: {b: c}\n", "sites: !!binary x\n---\n{}", "a: |\n  b\n", "\t", "- *x",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var into file
		d := readDocument([]byte(text), &into)
		for _, m := range d.mistakes {
			if m.text == "" {
				t.Error("a mistake says nothing")
			}
		}
		if said := d.explain("x.yaml"); (said == "") != (len(d.mistakes) == 0) {
			t.Errorf("%d mistakes are told as %q", len(d.mistakes), said)
		}
	})
}

func TestFieldsThatMayHaveBeenMeant(t *testing.T) {
	for written, want := range map[string]string{
		"gestSpace": "guestSpace", "BASEURL": "baseUrl", "baseURl": "baseUrl", "token": "tokenFile", "password": "passwordFile",
		"concurency": "concurrency", "pfx": "pfxFile", "app": "apps", "nothing": "", "x": "",
	} {
		var into file
		d := readDocument([]byte("sites: {main: {"+written+": 1}}"), &into)
		said := d.explain("x.yaml")
		if want == "" && strings.Contains(said, "meant") || want != "" && !strings.Contains(said, "is "+want+" meant (") {
			t.Errorf("%s: %s\nwant %q", written, said, want)
		}
	}
}
