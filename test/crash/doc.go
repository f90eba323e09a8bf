// Package crash kills workers while they work, and looks whether anything was lost, done twice or done out of order.
//
// Workers are processes built with the tag failpoints. Each serves a site of its own against a kintone of its own, which
// the test itself simulates, outlives every worker, and lets a quarter of the status requests go wrong. Some sites share
// one nats-server, the others are served by workers that bring their own, so that the queue dies with the worker.
//
// TestKills lets one worker after the other die: at a named fail point, or at any moment, or both of two that believe
// they own the site. The next one finishes what it finds, and dies. In one cycle of four it waits for the lease of the
// dead one as in real life, up to 15 s, and the takeover is timed; in the others the test removes the lease, so that
// hundreds of kills take minutes: what keeps a dead or deposed owner out is then the ledger's fence alone. At the end
// each site gets a worker that does not die, and everything is compared with kintone's own log.
//
// A fifth of the deaths are over a change of the process settings, which an operator asks for by enqueue while jobs run:
// at each fail point of change.go, or at any moment of it. Deploys fail, answers are lost, somebody else changes the
// preview meanwhile. Each change has to end once, with kintone, audit and operator agreeing on how; nobody else's changes
// may be published or lost; and no status request may arrive, nor be carried out, while the settings change.
//
// TestZombies stops workers past their lease, lets standbys take over, and wakes the stopped ones up. TestLeaks looks
// whether a worker that has been through many outages holds on to anything.
//
//	go test -tags crash -count 1 ./test/crash
//
// STATUSQ_KILLS (300) and STATUSQ_ZOMBIES (14) say how many; STATUSQ_SEED repeats the choices of a run, though not the
// moments at which the operating system carries them out.
package crash
