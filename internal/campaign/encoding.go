package campaign

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

// decode turns a file's bytes into UTF-8 without a byte order mark and says what they were. Such a mark is believed
// before everything else: Excel writes one into "CSV UTF-8" and into its UTF-16 "Unicode text".
//
// Bytes that cannot be decoded are not an error here. They stay invalid (UTF-8) or come out as U+FFFD (the others), so
// that [unreadable] can find them cell by cell and the message can name the place.
func decode(raw []byte, encoding string) (text []byte, is string, err error) {
	switch {
	case bytes.HasPrefix(raw, []byte("\xef\xbb\xbf")):
		return raw[3:], "utf8", nil
	case bytes.HasPrefix(raw, []byte("\xff\xfe")), bytes.HasPrefix(raw, []byte("\xfe\xff")):
		text, _, err = transform.Bytes(unicode.BOMOverride(transform.Nop), raw)
		return text, "utf16", err
	}
	switch encoding {
	case "", "auto":
		encoding = "sjis"
		if utf8.Valid(raw) {
			encoding = "utf8"
		}
	case "utf8", "sjis":
	default:
		return nil, "", fmt.Errorf("encoding %q: not one of auto, utf8, sjis", encoding)
	}
	if encoding == "utf8" {
		return raw, "utf8", nil
	}
	text, err = japanese.ShiftJIS.NewDecoder().Bytes(raw)
	return text, "sjis", err
}

// unreadable says what is wrong with the characters of s, or "" if nothing is. A U+FFFD is where a decoder gave up,
// here or in whatever program wrote the file.
func unreadable(s, encoding string) string {
	switch {
	case !utf8.ValidString(s):
		return "holds bytes that are not UTF-8 (is the file Shift_JIS? then --encoding sjis)"
	case !bytes.ContainsRune([]byte(s), utf8.RuneError):
		return ""
	case encoding == "sjis":
		return "holds characters that are not Shift_JIS either (is the file UTF-8 with damaged characters?)"
	}
	return "holds damaged characters (U+FFFD)"
}
