# The one entry point. `make run` and `make test` are all that a newcomer needs.

SHELL := /bin/bash
.DEFAULT_GOAL := help

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

.PHONY: release
release:
	@scripts/need.sh build
	cargo build --release

.PHONY: run
run: release ## Build, show the main job on a real tree, keep serving
	scripts/demo.sh --keep-serving

.PHONY: demo
demo: release ## The same, checked at every step, then stop
	scripts/demo.sh

.PHONY: test
test: ## All tests, on SQLite and PostgreSQL
	@scripts/need.sh build test
	cargo build --workspace --all-targets
	scripts/with-postgres.sh cargo nextest run --workspace

.PHONY: check
check: ## The fast pass: format, lints, licences, unused dependencies, generated files
	@scripts/need.sh build check
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo deny check bans licenses sources
	cargo machete
	scripts/generate.sh --check

.PHONY: access-matrix
access-matrix: ## Every route for every kind of caller at every target, beside what was written down by hand
	@scripts/need.sh build test
	cargo build --workspace --all-targets
	scripts/with-postgres.sh cargo nextest run --workspace --no-capture -E 'binary(access) & test(matrix)'

.PHONY: bench-auth
bench-auth: ## What checking a credential costs
	@scripts/need.sh build
	cargo bench -p kkartifact-service --bench auth

.PHONY: bench-jobs
bench-jobs: ## Webhook deliveries a second, also beside a receiver that hangs; questions about 20,000 apps
	@scripts/need.sh build test
	scripts/with-postgres.sh cargo nextest run -p kkartifact --test throughput --release --run-ignored only \
		--no-capture

.PHONY: generate
generate: ## Make generated files anew
	scripts/generate.sh

.PHONY: roundtrip
roundtrip: release ## Push and pull any directory and compare: make roundtrip SRC=DIR
	scripts/roundtrip.sh "$(SRC)"

.PHONY: chaos-push
chaos-push: ## kill -9 at every durable step and at 50 random moments: ROUNDS=50 SEED=n
	@scripts/need.sh build test
	cargo build --workspace --all-targets
	KKARTIFACT_CHAOS_ROUNDS=$(or $(ROUNDS),50) $(if $(SEED),KKARTIFACT_CHAOS_SEED=$(SEED)) \
		scripts/with-postgres.sh cargo nextest run -p kkartifact --test chaos --profile chaos --no-capture

.PHONY: chaos-jobs
chaos-jobs: ## Kills and outages during 1000 webhook deliveries, on each database: DELIVERIES=1000 OUTAGE=30 SEED=n
	@scripts/need.sh build test
	cargo build --workspace --all-targets
	KKARTIFACT_CHAOS_JOBS=$(or $(DELIVERIES),1000) $(if $(OUTAGE),KKARTIFACT_CHAOS_OUTAGE=$(OUTAGE)) \
		$(if $(SEED),KKARTIFACT_CHAOS_SEED=$(SEED)) \
		cargo nextest run -p kkartifact --test chaos_jobs --profile chaos --no-capture

.PHONY: soak-gc
soak-gc: ## Pushes, pulls, deletions, collections and kills together, on each database: MINUTES=10 SEED=n
	@scripts/need.sh build test
	cargo build --workspace --all-targets
	KKARTIFACT_SOAK_MINUTES=$(or $(MINUTES),10) $(if $(SEED),KKARTIFACT_SOAK_SEED=$(SEED)) \
		scripts/with-postgres.sh cargo nextest run -p kkartifact --test soak_gc --profile soak --no-capture

.PHONY: memory
memory: release ## Peak memory with a 4 GiB file and with a million entries
	@scripts/need.sh bench
	benches/memory.py

.PHONY: bench-quick
bench-quick: release ## A scaled-down benchmark beside rsync
	@scripts/need.sh bench
	benches/bench.py --scale 0.25 --runs 3 --output docs/benchmarks.md

.PHONY: bench
bench: release ## The whole benchmark beside rsync
	@scripts/need.sh bench
	benches/bench.py --scale 1 --runs 5 --output docs/benchmarks.md
