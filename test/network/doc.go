// Package network puts a bad network between the programs: toxiproxy, in the test's process, stands between worker and
// kintone, between worker and NATS, and between enqueue and NATS. It cuts, resets, stalls, halves, slows and slices the
// connections while jobs are under way, and an HTTP proxy that misbehaves repeats requests or hides their answers. At the
// end every job must have ended once, and kintone's own log must show every action once and in its order.
//
// It is a module of its own, so that what toxiproxy needs is not in the product's go.mod. It knows two variables:
//
//	STATUSQ_NETWORK_FOR=1h  how long each fault goes on, instead of a few times
//	STATUSQ_NETWORK_SEED=7  what TestAMixOfFaults draws from, as it prints it
//
// Run it here: go test ./...
package network
