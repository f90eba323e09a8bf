package kintone

import (
	"fmt"
	"io"
)

// redacted is all that a Secret ever shows.
const redacted = "[redacted]"

// Secret is a token or a password that never prints. Every way to print it gives "[redacted]", or "" when it is empty,
// so that a missing secret can be told from a hidden one; encoders get the same. Reveal is the only way to the text.
//
// Package fmt calls no methods on unexported struct fields. A type that keeps a Secret in one must not be printed.
type Secret string

// Reveal returns the secret itself, for a request header and nothing else.
func (s Secret) Reveal() string { return string(s) }

// String returns "[redacted]", or "" for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString returns what String does.
func (s Secret) GoString() string { return s.String() }

// Format answers every verb alike. Without it a wrong verb such as %d would print the text in its complaint.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// MarshalText hides the secret from text encoders, and from slog's text handler.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON hides the secret from JSON encoders, and from slog's JSON handler.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }
