//go:build docker

package test

import (
	"testing"

	"statusq/test/programs"
)

func TestMain(m *testing.M) { programs.Main(m) }
