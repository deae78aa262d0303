# The words used at home and in CI. Each word installs what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Always the whole workspace with all targets: building a part selects other features of its dependencies, and builds them again.
BUILT := $(or $(CARGO_TARGET_DIR),target)/debug
# The release build of the Dockerfile.
SHIPPED := cargo build --locked --release -p cli --no-default-features --features otel
# Images that tests deliver. Other software opens them after the tests.
DELIVERED := $(abspath $(BUILT)/../delivered)

.PHONY: help run test check docs fmt setup prepare bench start-latency bench-images outcomes failpoints fuzz properties races storm rolling rolling-migration redis-away boards demo-load scaler containers flood long-snapshot chaos verify-bench model contract sweep attack submit-cost scale worker-cost instructions proofs structure draw

help: ## List these words
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

run: ## Start the whole product; Ctrl-C stops it
	@scripts/setup run
	cargo build --locked --workspace --bin platen
	@exec $(BUILT)/platen up $(ARGS)

test: ## Run all tests, with private servers, a real browser and the vendors' own clients
	@scripts/setup test
	cargo build --locked --workspace --all-targets
	@rm -rf $(DELIVERED) && mkdir -p $(DELIVERED)
	PLATEN_TEST_DELIVERED=$(DELIVERED) $(BUILT)/with-servers cargo nextest run --locked --workspace --no-fail-fast $(ARGS)
	.venv/bin/python tests/python/readers.py $(DELIVERED) --least $(if $(ARGS),0,100)

proofs: ## Run every long proof in its short form and print one table (ARGS="storm attack" runs only these)
	@scripts/proofs $(ARGS)

check: ## Check format, lints, structure, docs, words, spelling, fuzz targets, queries against the schema, dependencies, manifests
	@scripts/setup test
	cargo fmt --all --check
	scripts/prepare --check cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked -p cli --no-default-features -- -D warnings
	cargo clippy --locked -p cli --no-default-features --features otel -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
	scripts/check-dependencies --install
	scripts/check-manifests
	scripts/check-spelling
	cargo nextest run --locked --workspace --test fuzz --test manifests --test sql --test docs --test words --test structure --status-level fail

docs: ## Write the generated tables of docs/ after the code that they show changed
	@scripts/setup test
	WRITE_DOCS=1 cargo nextest run --locked --workspace --status-level fail -E 'binary(docs) or test(/the_documentation_/)'

bench: ## Measure speed beside BullMQ and sharp, beside an older commit, or alone (PAIRS=5 BASE=<commit> ALONE=1 ONLY=png,jpeg)
	@scripts/setup bench
	scripts/bench --pairs $(or $(PAIRS),$(if $(BASE),10,5)) $(and $(BASE),--base $(BASE)) $(and $(ALONE),--alone) $(and $(ONLY),--only $(ONLY))

start-latency: ## Measure the time from the 202 to the call of the model, on an idle system (JOBS=500)
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=warn $(BUILT)/start-latency --jobs $(or $(JOBS),500) $(if $(BESIDE),--beside)

bench-images: ## Measure time, bytes and quality of images beside sharp, pyvips and Pillow (ROUNDS=5)
	@scripts/setup bench
	cargo build --locked --release -p imaging --example image-engine
	ROUNDS=$(or $(ROUNDS),5) $(BUILT)/../bench/peers/venv/bin/python tests/bench/images.py $(BUILT)/../bench/peers $(BUILT)/../release/examples/image-engine

sweep: ## Compare every PNG, JPEG and WebP file of Pillow's own tests with Pillow and LittleCMS
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

storm: ## Offer 2.5 times what the provider admits while one call in ten fails (SECONDS=180 RATE=20)
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=warn $(BUILT)/storm --seconds $(or $(SECONDS),180) --rate $(or $(RATE),20)

properties: ## Play random games until one differs from a plain model of the protocol (CASES=20000)
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=warn PLATEN_TEST_CASES=$(or $(CASES),0) $(BUILT)/with-servers cargo nextest run --locked --workspace --profile endless --test properties --no-capture the_books $(ARGS)

fuzz: ## Try random input on what reads text or bytes of others, one target without end (TARGET=ids) or each for a time (SECONDS=60)
	$(if $(TARGET)$(SECONDS),,$(error name a target, such as TARGET=ids, or SECONDS=60 for each))
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	PLATEN_TEST_FUZZ_SECONDS=$(or $(SECONDS),0) cargo nextest run --locked --workspace --profile endless --test fuzz --no-capture $(and $(TARGET),-E 'test(/^$(TARGET)::/)')

races: ## Race cancel, deliver, reap and expire on one job (RACES=10000)
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=warn PLATEN_TEST_RACES=$(or $(RACES),10000) $(BUILT)/with-servers cargo nextest run --locked --workspace --profile endless --test properties --no-capture races $(ARGS)

rolling: ## Restart every process, round after round, under load (ROUNDS=50)
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=warn $(BUILT)/rolling --rounds $(or $(ROUNDS),50)

rolling-migration: ## Add a column to every table under load; then old and new versions side by side (SECONDS=60 BASE=<commit>)
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=warn $(BUILT)/rolling-migration --seconds $(or $(SECONDS),60) $(and $(BASE),--base $(BASE))

redis-away: ## Submit and run jobs while Redis is gone, hangs, or changes its password (SECONDS=300 ROTATIONS=20)
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=warn $(BUILT)/redis-away --seconds $(or $(SECONDS),300) --rotations $(or $(ROTATIONS),20)

boards: ## Ask every query of every dashboard, on a real Prometheus that scrapes real processes under load
	@scripts/setup boards
	@scripts/check-manifests
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=error $(BUILT)/demo-load --ask --seconds $(or $(SECONDS),130)

demo-load: ## Run a service under load with a Prometheus, to look at the dashboards; until Ctrl-C
	@scripts/setup boards
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=error $(BUILT)/demo-load

scaler: ## Check how many workers are asked for in a burst, with a real Prometheus and KEDA's formula (JOBS=5000)
	@scripts/setup boards
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=error $(BUILT)/scaler --jobs $(or $(JOBS),5000)

containers: ## Run the shipped docker-compose.yml: curl to image, scale, stop, kill (SECONDS=10 BUILD=1)
	@scripts/setup containers
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=error $(BUILT)/containers --folder $(BUILT)/../containers --seconds $(or $(SECONDS),10) $(and $(BUILD),--build) $(and $(WHERE_POSSIBLE),--where-possible)

flood: ## Measure a worker's memory with thousands of calls in flight and all their images at once (CALLS=2000 MEMORY=512)
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=warn $(BUILT)/flood --calls $(or $(CALLS),2000) --seconds $(or $(SECONDS),20) --memory $(or $(MEMORY),512) $(ARGS)

long-snapshot: ## Measure whether a transaction that stays open, as a dump's does, slows jobs down (JOBS=5000)
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=error $(BUILT)/long-snapshot --jobs $(or $(JOBS),5000)

chaos: ## Kill, freeze, cut and empty everything at random under load, then check the books (KILLS=2000 SEED=…)
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=error $(BUILT)/chaos --kills $(or $(KILLS),200) $(and $(SEED),--seed $(SEED)) $(and $(SECONDS),--seconds $(SECONDS)) $(and $(LEASE),--lease $(LEASE))

attack: ## Try what one client, connection or tenant may take from the others, on processes in small limits (ONLY=D)
	@scripts/setup test
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=error $(BUILT)/attack $(and $(ONLY),--only $(ONLY)) $(and $(SHORT),--short)

submit-cost: ## Measure what the limits cost a submit, on a release build: instructions, submits a second (PAIRS=10)
	@scripts/setup cost
	cargo build --locked --workspace --all-targets
	$(SHIPPED)
	PLATEN_LOG=error $(BUILT)/submit-cost --pairs $(or $(PAIRS),10) --program $(BUILT)/../release/platen

instructions: ## Count the instructions of a submit and of jobs, beside the recorded counts (RECORD=1 records new ones; SHORT=1)
	@scripts/setup cost
	cargo build --locked --workspace --all-targets
	$(SHIPPED)
	PLATEN_LOG=error $(BUILT)/instructions --program $(BUILT)/../release/platen $(if $(RECORD),--record) $(if $(SHORT),--short)

scale: ## Measure drains and submits with a backlog and a long history, beside an empty installation (JOBS=1000000 ROWS=10000000 PAIRS=8)
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	$(SHIPPED)
	PLATEN_LOG=error $(BUILT)/scale --program $(BUILT)/../release/platen --jobs $(or $(JOBS),1000000) --rows $(or $(ROWS),10000000) --pairs $(or $(PAIRS),8)

worker-cost: ## Measure the CPU time and memory of a worker on PNG files of 2048², and the kernel's share (JOBS=60)
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=error $(BUILT)/worker-cost --jobs $(or $(JOBS),60)

verify-bench: ## Time `platen verify` and a scrape on a history of a million jobs (ROWS=1000000 ROUNDS=2)
	@scripts/setup run
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=warn $(BUILT)/verify-million --rows $(or $(ROWS),1000000) --rounds $(or $(ROUNDS),2)

contract: ## Check the running API against its own contract with Schemathesis (REQUESTS=5000 SEED=…)
	@scripts/setup test
	cargo build --locked --workspace --all-targets
	PLATEN_LOG=error $(BUILT)/contract --requests $(or $(REQUESTS),5000) $(and $(SEED),--seed $(SEED))

structure: ## Print how long functions and files are, and which files import each other in a circle
	@scripts/setup run
	@cargo build --locked --workspace --bin structure
	@$(BUILT)/structure lengths
	@$(BUILT)/structure circles

draw: ## Draw functions at random and print them, to read them (COUNT=10 SEED=<text>)
	@scripts/setup run
	@cargo build --locked --workspace --bin structure
	@$(BUILT)/structure draw --count $(or $(COUNT),10) $(and $(SEED),--seed "$(SEED)")

model: ## Check the model of the protocol with SPIN, and that every protection is needed (FULL=1)
	@scripts/model

prepare: ## Write .sqlx/ after a query or a migration changed
	@scripts/setup run
	scripts/prepare

fmt: ## Format the code
	cargo fmt --all

setup: ## Install what is missing for all of the above
	scripts/setup test
