package network

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// Faults between worker and kintone and between worker and NATS at the same time, drawn by lot.
func TestAMixOfFaults(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	if text := os.Getenv("STATUSQ_NETWORK_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("STATUSQ_NETWORK_SEED: %v", err)
		}
	}
	t.Logf("STATUSQ_NETWORK_SEED=%d draws the same faults again, though not at the same moments", seed)
	lot := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, setting{resets: lot.IntN(2) == 0})
	begin := time.Now()
	met := map[string]int{}
	for n := 0; n < 3 || time.Since(begin) < longer(t); n++ {
		campaign := w.send(t)
		w.begun(t)
		for range 3 {
			k, b := draw(lot, kintoneFaults()), draw(lot, natsFaults())
			met["kintone: "+k.name]++
			met["NATS: "+b.name]++
			k.begin(t, w.toKintone)
			b.begin(t, w.toNATS)
			time.Sleep(time.Duration(lot.Int64N(int64(2 * time.Second))))
			k.end(t, w.toKintone)
			b.end(t, w.toNATS)
			time.Sleep(time.Duration(lot.Int64N(int64(time.Second))))
		}
		w.settle(t, campaign, perWave)
	}
	t.Logf("%d waves of %d jobs in %v; the wires did something %d times; %d answers unclear, %d copies refused for their revision, %d times deposed; faults: %v",
		w.waves-1, perWave, time.Since(begin).Round(time.Second), w.toKintone.met()+w.toNATS.met(), events(t, w.worker, "unclear"),
		w.refusedCopies(t), events(t, w.worker, "deposed"), met)
	w.check(t)
	w.checkFiles(t)
}

func draw(lot *rand.Rand, faults []fault) fault { return faults[lot.IntN(len(faults))].withDefaults() }
