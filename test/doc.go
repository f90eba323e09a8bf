// Package test looks at statusq from outside: the programs as processes of their own, NATS servers in containers that are
// stopped, killed, paused and cut off from each other while they work, the image that is shipped. What a package can show
// about itself stands beside that package; what needs no docker but processes in crash/ (killed and put to sleep) and
// network/ (a bad network between them).
//
// All of it needs docker and stands behind the build tag docker; without a daemon it fails, because it was asked for.
// Nothing is pulled: every image is made here from programs that this module builds.
//
//	go test -tags docker ./test/...
package test
