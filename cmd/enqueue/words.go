package main

import "fmt"

// in says something in the language of --lang. What is said stands in English where it is said, and in Japanese in
// japanese.go; what is not there is the same in both.
//
// JSON, the codes of reasons, outcomes and states, the names of flags and the mistakes in what was typed (exit code 2) are
// the same in every language, and so is what the worker, NATS and kintone say of themselves.
func in(lang, format string, args ...any) string {
	if japanese, ok := inJapanese[format]; ok && lang == "ja" {
		return fmt.Sprintf(japanese, args...)
	}
	return fmt.Sprintf(format, args...)
}

// word is in for what has nothing to fill in.
func word(lang, text string) string {
	if japanese, ok := inJapanese[text]; ok && lang == "ja" {
		return japanese
	}
	return text
}

// failure is an error in the language of --lang that brings its exit code.
func (e *env) failure(code int, format string, args ...any) error {
	if japanese, ok := inJapanese[format]; ok && e.Lang == "ja" {
		return &exit{code, fmt.Errorf(japanese, args...)}
	}
	return &exit{code, fmt.Errorf(format, args...)}
}

// gloss is what a code means, in a language that does not say it so already; "" in English.
func gloss(lang, code string) string {
	if said := word(lang, code); said != code {
		return said
	}
	return ""
}
