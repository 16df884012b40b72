# One command per thing; each does its own set-up. `make` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
CONFIG ?= serve_config.yaml
URL ?= http://127.0.0.1:8000
# The CUDA build where there is an NVIDIA GPU; GPU=1 or GPU=0 to decide yourself.
GPU ?= $(shell nvidia-smi -L 2>/dev/null | grep -q GPU && echo 1 || echo 0)
FLAVOUR := $(if $(filter 1,$(GPU)),gpu,cpu)
BIN := .venv/bin
QUICK := -m "not slow"
SLOW := -m slow
RUNTIME := .venv/installed-$(FLAVOUR)
DEV := .venv/installed-$(FLAVOUR)-dev

SERVE = $(BIN)/reranker serve --config $(CONFIG) $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT)) \
	$(if $(MODEL),--model $(MODEL)) $(if $(REPLICAS),--replicas $(REPLICAS)) $(if $(VERBOSE),--verbose)

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z -]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(RUNTIME): requirements/$(FLAVOUR).txt pyproject.toml
	@tools/install.sh $(FLAVOUR)
	@touch $@

$(DEV): requirements/$(FLAVOUR).txt requirements/dev.txt pyproject.toml
	@tools/install.sh $(FLAVOUR) dev
	@touch $@ $(RUNTIME)

.PHONY: serve
serve: $(RUNTIME) ## run the service on http://127.0.0.1:8000 (PORT=…, HOST=…, MODEL=folder or hub id, REPLICAS=…, CONFIG=…, VERBOSE=1)
	@exec $(SERVE)

.PHONY: serve-simulated
serve-simulated: REPLICAS ?= 8
serve-simulated: $(RUNTIME) ## the same with simulated engines: 8 replicas (REPLICAS=…), no GPU, meaningless scores
	@exec $(SERVE) --simulated

.PHONY: setup
setup: $(DEV) ## the environment with the development tools, and the pre-commit hooks
	@$(BIN)/pre-commit install

.PHONY: test
test: $(DEV) programs ## the test suite: real Ray Serve, real vLLM (eleven minutes; `make test-slow` has the rest)
	@echo "== 1 of 3: the library"
	$(BIN)/pytest $(QUICK) -n 2
	@echo "== 2 of 3: real vLLM, in processes of its own"
	$(BIN)/pytest $(QUICK) -v -n 2 --dist loadfile tests/engine
	@echo "== 3 of 3: the service, over HTTP"
	$(BIN)/pytest $(QUICK) -v tests/integration --durations=10

.PHONY: coverage
coverage: $(DEV) programs ## which lines of the library its tests and those of real vLLM run
	@rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest $(QUICK) -n 2
	$(BIN)/coverage run -m pytest $(QUICK) -n 2 --dist loadfile tests/engine
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

.PHONY: test-slow
test-slow: $(DEV) programs ## the slow tests: starts, kills, autoscaling, attacks, fuzzing, browser, Prometheus, Milvus (half an hour)
	@echo "== attacks beside all else: these mostly wait"
	$(BIN)/pytest $(SLOW) -v -n 2 --dist loadgroup tests --ignore tests/engine --durations=10

.PHONY: programs
programs: $(DEV) # Redis, Prometheus, OpenSSL and a browser from Debian, where they are not here
	@$(BIN)/python -m tests.programs

.PHONY: test-unit
test-unit: $(DEV) ## only the tests that need neither Ray nor vLLM (seconds)
	$(BIN)/pytest tests/unit

.PHONY: fuzz
fuzz: $(DEV) ## odd and broken requests to a running service, for minutes (URL=…, KEY=…)
	$(BIN)/python -m tests.fuzz --url $(URL) $(if $(KEY),--key $(KEY))
	$(BIN)/schemathesis --config-file tools/schemathesis.toml run $(URL)/openapi.json --max-examples 500 \
		$(if $(KEY),--header "Authorization: Bearer $(KEY)")

.PHONY: attack
attack: $(DEV) ## everything that has hurt a service, against a running one of yours: half an hour (URL=…, KEY=…, OTHER=…, ATTACK="--quick --only …")
	$(BIN)/python -m tests.attacks --url $(URL) $(if $(KEY),--key $(KEY)) $(if $(OTHER),--other-key $(OTHER)) $(ATTACK)

.PHONY: clients
clients: $(DEV) ## the clients people have, in environments of their own, against services it starts (10 minutes)
	$(BIN)/python -m tests.clients

.PHONY: cluster
cluster: $(DEV) ## real Ray nodes in namespaces of this machine, lists that keep coming, and commands to break it (root; CLUSTER="--engines 2 --redis")
	@$(BIN)/python -m tests.cluster $(CLUSTER)

.PHONY: cluster-faults
cluster-faults: $(DEV) ## kill, cut, part, hang, drain and change such a cluster: benchmarks/results/cluster.json (an hour; FAULTS="--share 0.2 --only …")
	$(BIN)/python -m benchmarks.cluster $(FAULTS)

.PHONY: examples
examples: $(DEV) ## every example, in an environment of its own, against a running service (URL=…)
	RERANKER_URL=$(URL) examples/curl.sh
	@for example in examples/*.py; do echo "== $$example"; RERANKER_URL=$(URL) $(BIN)/uv run -q "$$example" || exit 1; done

.PHONY: example-patents example-medical example-docs example-all
example-patents example-medical example-docs example-all: $(RUNTIME) ## index and serve a search example (examples/search; PORT=…, MODEL=…)
	@exec examples/search/run.sh $(@:example-%=%) $(if $(PORT),--port $(PORT)) $(if $(MODEL),--model $(MODEL))

.PHONY: retrieval-table
retrieval-table: $(DEV) ## BM25, dense, hybrid, with and without reranking, on all judged sets: docs/search.md (MODEL=…, EMBEDDING=…)
	$(BIN)/python -m tools.retrieval_table $(if $(MODEL),--model $(MODEL)) $(if $(EMBEDDING),--embedding $(EMBEDDING))

.PHONY: fix
fix: $(DEV) ## repair and format what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: check
check: $(DEV) ## everything that can be checked without running the service; changes no file
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.docs --check
	$(BIN)/python -m tools.dashboard --check
	$(BIN)/python -m tools.locks
	$(BIN)/reranker config check serve_config.yaml examples/search/serve.yaml k8s/overlays/*/serve_config.yaml
	$(BIN)/hadolint Dockerfile
	$(BIN)/python -m tests.manifests.image check
	$(BIN)/python -m tools.demo_model build --check
	$(BIN)/python -m tools.demo_model quality --check
	$(BIN)/python -m tools.house

.PHONY: screenshots
screenshots: $(DEV) ## the docs' pictures of the playground, from a running service with the demo model (URL=…)
	$(BIN)/python -m tests.screenshots --url $(URL)

.PHONY: docs
docs: $(DEV) ## write the generated parts of the docs
	$(BIN)/python -m tools.docs
	$(BIN)/python -m tools.dashboard

.PHONY: lock
lock: $(DEV) ## resolve pyproject.toml into requirements/*.txt
	UV=$(BIN)/uv tools/lock.sh

.PHONY: demo-model
demo-model: $(DEV) ## write the bundled demo model's weights from their committed inputs
	$(BIN)/python -m tools.demo_model build

.PHONY: demo-quality
demo-quality: $(DEV) ## rank the held-out questions with the demo model and with BM25; writes the model card's table
	$(BIN)/python -m tools.demo_model quality

.PHONY: k8s
k8s: $(DEV) ## build and check the manifests of an overlay (OVERLAY=dev, prod, prod-4b, prod-8b-tp2 or prod-two-models), and their tests
	@tools/manifests.sh $(or $(OVERLAY),prod) > /dev/null
	$(BIN)/pytest tests/manifests

.PHONY: image-replay
image-replay: ## run the image's install steps in a clean folder, without Docker (FLAVOUR=cpu or gpu; minutes)
	@$(BIN)/python -m tests.manifests.image replay $(or $(FLAVOUR),cpu)

.PHONY: bench
bench: $(DEV) ## ours beside `vllm serve`: about 25 minutes (SHAPES=nano,small SYSTEMS=… ROUNDS=3 GPU=1 BENCH="--quick …")
	$(BIN)/python -m benchmarks.serving $(if $(SHAPES),--shapes $(SHAPES)) $(if $(SYSTEMS),--systems $(SYSTEMS)) \
		$(if $(ROUNDS),--rounds $(ROUNDS)) $(BENCH)

.PHONY: bench-check
bench-check: $(DEV) ## what CI asks of speed: two ratios to `vllm serve`, with wide limits (a minute and a half)
	$(BIN)/python -m benchmarks.serving --check

.PHONY: bench-beside
bench-beside: $(DEV) ## another state of this repository beside this one: half an hour (OLD=checkout SHAPES=nano,small ROUNDS=3)
	$(BIN)/python -m benchmarks.beside --old $(OLD) $(if $(SHAPES),--shapes $(SHAPES)) $(if $(ROUNDS),--rounds $(ROUNDS))

.PHONY: bench-loop
bench-loop: $(DEV) ## how busy the engine's loop would keep an L4, an A100, an H100: emulated, no GPU needed; ten minutes (BENCH=--quick)
	$(BIN)/python -m benchmarks.loop $(BENCH)

.PHONY: gpu-proof
gpu-proof: $(DEV) ## on a machine with a card: does it start, score right, and how fast is it? A page and a JSON; goes on where it was (PROOF=--dry-run)
	$(BIN)/python -m benchmarks.proof $(PROOF)

.PHONY: bench-batch
bench-batch: $(DEV) ## `reranker batch` beside the engine alone, and its memory: half an hour (BENCH="--shape nano --pairs 5000")
	$(BIN)/python -m benchmarks.batch $(BENCH)

.PHONY: bench-scatter
bench-scatter: $(DEV) ## scattering, fairness, overload, kills, disconnects: benchmarks/results/ (an hour; ONLY="scaling kills")
	$(BIN)/python -m benchmarks.scatter $(if $(ONLY),--only $(ONLY))

.PHONY: clean
clean: ## remove the environment and all caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage* build *.egg-info
