# Short names for what .ci/run does in one go.

.PHONY: demo test race docker lint ci

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
