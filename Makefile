# Short names for what .ci/run does in one go.

.PHONY: demo test race docker lint ci nightly

demo: ## the whole system in one process, nothing configured
	go run ./cmd/worker demo

test:
	go test ./...

race:
	.ci/run race

docker: ## what needs a docker daemon
	.ci/run docker

lint:
	.ci/run lint

ci:
	.ci/run

# Hours: more worlds, 10 M simulated jobs, a simulated year, 5,000 kills, an hour of bad network, two of a broken cluster.
nightly:
	STATUSQ_STATES=100000000 .ci/run search
	STATUSQ_SEEDS=100000 .ci/run storm
	STATUSQ_YEAR=1 go test -count 1 -timeout 2h -v -run '^TestYear$$' ./internal/dispatch
	STATUSQ_KILLS=5000 STATUSQ_ZOMBIES=300 .ci/run crash
	STATUSQ_NETWORK_FOR=1h go -C test/network test -count 1 -timeout 3h -v -run '^TestAMixOfFaults$$' ./...
	STATUSQ_NETWORK_FOR=5m .ci/run network
	STATUSQ_CLUSTER_FOR=2h15m .ci/run docker
	STATUSQ_MEASURE=1 go test -count 1 -timeout 40m -v -run 'ManyParked|RequestsPerHundred' ./internal/dispatch
	STATUSQ_MEASURE=1 go test -run '^$$' -bench 'Start|IDs' -benchtime 1x -timeout 60m ./internal/dispatch
