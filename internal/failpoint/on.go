//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// order is what the environment asks for: at which point, and after how many hits.
type order struct {
	name string
	left atomic.Int64
}

// The environment is read once, before main: points are hit from everywhere, and nobody could hand an order around.
var (
	toKill = orderOf("STATUSQ_FAILPOINT")
	toStop = orderOf("STATUSQ_FAILPOINT_STOP")
)

func orderOf(variable string) *order {
	name, count, counted := strings.Cut(os.Getenv(variable), ":")
	o := &order{name: name}
	n, err := strconv.ParseInt(count, 10, 64)
	if !counted {
		n, err = 1, nil
	}
	if name != "" && !slices.Contains(Names, name) || err != nil || n < 1 {
		fmt.Fprintf(os.Stderr, "%s=%s: there is no such fail point, or no such count\n", variable, os.Getenv(variable))
		os.Exit(2)
	}
	o.left.Store(n)
	return o
}

// reached counts a hit and reports whether it is the one that was asked for.
func (o *order) reached(name string) bool {
	return o.name == name && o.left.Add(-1) == 0
}

// Hit is the point called name. It ends or stops the process there if the environment asks for that.
func Hit(name string) {
	if toKill.reached(name) {
		signal(name, syscall.SIGKILL)
		select {} // the signal comes at once, though perhaps not before the next line
	}
	if toStop.reached(name) {
		signal(name, syscall.SIGSTOP)
	}
}

func signal(name string, s syscall.Signal) {
	fmt.Fprintln(os.Stderr, "failpoint:", name)
	if err := syscall.Kill(os.Getpid(), s); err != nil {
		panic(err)
	}
}
