package network

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/rs/zerolog"

	"statusq/test/programs"
)

// Nearly all of a test here is waiting, so more of them run at a time than there are processors.
const together = "18"

func TestMain(m *testing.M) {
	zerolog.SetGlobalLevel(zerolog.Disabled) // toxiproxy tells of every connection
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", together); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	programs.Main(m)
}
