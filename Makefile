# The words used at home and in CI. Everything a word needs, it sets up by itself.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Always the whole workspace: a part of it would want other features of its dependencies, and build them again.
BUILT := $(or $(CARGO_TARGET_DIR),target)/debug
# What tests deliver, to be opened by other software when they have ended.
DELIVERED := $(abspath $(BUILT)/../delivered)

.PHONY: help run test check fmt setup prepare bench bench-pictures outcomes failpoints properties races storm rolling rolling-migration redis-away boards demo-load scaler containers flood chaos verify-bench model contract sweep attack submit-cost proofs

help: ## Say what there is
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

run: ## Start the whole product; Ctrl-C stops it
	@scripts/setup run
	cargo build --locked --workspace --bin platen
	@exec $(BUILT)/platen up $(ARGS)

test: ## Pass the tests, against private servers, a real browser and the vendors' own clients
	@scripts/setup test
	cargo build --locked --workspace --all-targets
	@rm -rf $(DELIVERED) && mkdir -p $(DELIVERED)
	PLATEN_TEST_DELIVERED=$(DELIVERED) $(BUILT)/with-servers cargo nextest run --locked --workspace --no-fail-fast $(ARGS)
	.venv/bin/python tests/python/readers.py $(DELIVERED) --least $(if $(ARGS),0,100)

proofs: ## Every long proof in its short form, as CI runs them
	$(MAKE) sweep
	$(MAKE) model
	$(MAKE) storm SECONDS=40
	$(MAKE) rolling ROUNDS=6
	$(MAKE) rolling-migration SECONDS=20
	$(MAKE) redis-away SECONDS=20 ROTATIONS=3
	$(MAKE) flood CALLS=200 SECONDS=3
	$(MAKE) boards
	$(MAKE) scaler JOBS=600
	$(MAKE) containers SECONDS=5 WHERE_POSSIBLE=1
	$(MAKE) attack SHORT=1
	$(MAKE) chaos

check: ## Format, lints, docs, queries against the schema, dependencies, manifests
	@scripts/setup test
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked -p cli --no-default-features -- -D warnings
	cargo clippy --locked -p cli --no-default-features --features otel -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
	scripts/prepare --check
	scripts/check-dependencies --install
	scripts/check-manifests
	cargo nextest run --locked --workspace --test manifests --test sql --status-level fail

bench: ## From the 202 to the model being called, on an idle system (JOBS=500)
	@scripts/setup run
	cargo build --locked --workspace --bins
	PLATEN_LOG=warn $(BUILT)/start-latency --jobs $(or $(JOBS),500) $(if $(BESIDE),--beside)

bench-pictures: ## How fast, how large and how true pictures are, beside sharp, pyvips and Pillow (ROUNDS=5)
	@scripts/setup bench
	cargo build --locked --workspace --bins
	ROUNDS=$(or $(ROUNDS),5) $(BUILT)/../bench/peers/venv/bin/python tests/bench/pictures.py $(BUILT)/../bench/peers $(BUILT)/picture-engine

sweep: ## Every PNG, JPEG and WebP file of Pillow's own tests, beside Pillow and LittleCMS
	@scripts/setup sweep
	cargo build --locked --workspace --example sweep-engine
	$(BUILT)/../sweep/venv/bin/python tests/sweep/sweep.py $(BUILT)/../sweep/images $(BUILT)/examples/sweep-engine

outcomes: ## Walk every row of the outcome table, for every provider that can answer so
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	$(BUILT)/with-servers cargo nextest run --locked --workspace --test outcomes --no-capture

failpoints: ## Abort, fail, hang and wait at every step that matters, in real processes; prints the matrix
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=warn $(BUILT)/with-servers cargo nextest run --locked --workspace --test failpoints --no-capture

storm: ## 2.5 times what the provider admits, and one call in ten fails (SECONDS=180 RATE=20)
	@scripts/setup run
	cargo build --locked --workspace --bins
	PLATEN_LOG=warn $(BUILT)/storm --seconds $(or $(SECONDS),180) --rate $(or $(RATE),20)

properties: ## Play games against the books until one differs from the protocol (CASES=20000)
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=warn PLATEN_TEST_CASES=$(or $(CASES),0) $(BUILT)/with-servers cargo nextest run --locked --workspace --profile endless --test properties --no-capture the_books $(ARGS)

races: ## Ten thousand races of cancel, deliver, reap and expire on one job (RACES=10000)
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=warn PLATEN_TEST_RACES=$(or $(RACES),10000) $(BUILT)/with-servers cargo nextest run --locked --workspace --profile endless --test properties --no-capture races $(ARGS)

rolling: ## Restart every process, round after round, under load (ROUNDS=50)
	@scripts/setup run
	cargo build --locked --workspace --bins
	PLATEN_LOG=warn $(BUILT)/rolling --rounds $(or $(ROUNDS),50)

rolling-migration: ## Add a column to every table under load; then old and new versions side by side (SECONDS=60 BASE=<commit>)
	@scripts/setup run
	cargo build --locked --workspace --bins
	PLATEN_LOG=warn $(BUILT)/rolling-migration --seconds $(or $(SECONDS),60) $(and $(BASE),--base $(BASE))

redis-away: ## What submits and jobs notice when Redis is gone, hangs, or changes its password (SECONDS=300 ROTATIONS=20)
	@scripts/setup run
	cargo build --locked --workspace --bins
	PLATEN_LOG=warn $(BUILT)/redis-away --seconds $(or $(SECONDS),300) --rotations $(or $(ROTATIONS),20)

boards: ## Every query of every dashboard, on a real Prometheus that scrapes real processes under load
	@scripts/setup boards
	@scripts/check-manifests
	cargo build --locked --workspace --bins
	PLATEN_LOG=error $(BUILT)/demo-load --ask --seconds $(or $(SECONDS),130)

demo-load: ## A service at work, with a Prometheus that watches it, for dashboards to look at; until Ctrl-C
	@scripts/setup boards
	cargo build --locked --workspace --bins
	PLATEN_LOG=error $(BUILT)/demo-load

scaler: ## What workers are scaled by, in a burst, on a real Prometheus and by KEDA's formula (JOBS=5000)
	@scripts/setup boards
	cargo build --locked --workspace --bins
	PLATEN_LOG=error $(BUILT)/scaler --jobs $(or $(JOBS),5000)

containers: ## The shipped docker-compose.yml on images made here: curl to picture, scale, stop, kill (SECONDS=10 BUILD=1)
	@scripts/setup containers
	cargo build --locked --workspace --bins
	PLATEN_LOG=error $(BUILT)/containers --folder $(BUILT)/../containers --seconds $(or $(SECONDS),10) $(and $(BUILD),--build) $(and $(WHERE_POSSIBLE),--where-possible)

flood: ## Thousands of calls in flight, and all their pictures at once: what a worker takes (CALLS=2000)
	@scripts/setup run
	cargo build --locked --workspace --bins
	PLATEN_LOG=warn $(BUILT)/flood --calls $(or $(CALLS),2000) --seconds $(or $(SECONDS),20)

chaos: ## Kill, freeze, cut and empty everything at random, under load, then check the books (KILLS=2000 SEED=…)
	@scripts/setup run
	cargo build --locked --workspace --bins
	PLATEN_LOG=error $(BUILT)/chaos --kills $(or $(KILLS),200) $(and $(SEED),--seed $(SEED)) $(and $(SECONDS),--seconds $(SECONDS)) $(and $(LEASE),--lease $(LEASE))

attack: ## What one client, connection or tenant may take from all others, tried on processes in small limits (ONLY=D)
	@scripts/setup test
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=error $(BUILT)/attack $(and $(ONLY),--only $(ONLY)) $(and $(SHORT),--short)

submit-cost: ## What the bounds cost a submit, in instructions and in submits a second (PAIRS=10)
	@scripts/setup cost
	cargo build --locked --workspace --bins
	PLATEN_LOG=error $(BUILT)/submit-cost --pairs $(or $(PAIRS),10)

verify-bench: ## How long `platen verify` and a scrape take on a history of a million jobs (ROWS=1000000 ROUNDS=2)
	@scripts/setup run
	cargo build --locked --workspace --bins
	PLATEN_LOG=warn $(BUILT)/verify-million --rows $(or $(ROWS),1000000) --rounds $(or $(ROUNDS),2)

contract: ## The running API against its own contract, by Schemathesis, every check (REQUESTS=5000 SEED=…)
	@scripts/setup test
	cargo build --locked --workspace --bins
	PLATEN_LOG=error $(BUILT)/contract --requests $(or $(REQUESTS),5000) $(and $(SEED),--seed $(SEED))

model: ## Check the protocol's model, and that every protection is needed (FULL=1)
	@scripts/model

prepare: ## Write .sqlx/ after a query or a migration changed
	@scripts/setup run
	scripts/prepare

fmt: ## Format
	cargo fmt --all

setup: ## Install what is missing for all of the above
	scripts/setup test
