//go:build crash

package crash

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"statusq/test/programs"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Sites wait for leases much more than they compute.
	if err := flag.Set("test.parallel", "64"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs.Main(m, "failpoints")
}

// setting is a number from the environment.
func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no number above 0", name, s)
	}
	return n
}

// seed is that of this run. It is said, so that the run can be repeated.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := os.Getenv("STATUSQ_SEED")
	if s == "" {
		s = strconv.FormatUint(rand.Uint64()>>32, 10)
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("STATUSQ_SEED=%q is no number", s)
	}
	t.Logf("STATUSQ_SEED=%d", n)
	return n
}

// within waits until a condition holds, and reports whether it did in time.
func within(d time.Duration, holds func() bool) bool {
	for deadline := time.Now().Add(d); ; time.Sleep(20 * time.Millisecond) {
		if holds() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}
