# `make help` says what there is. Variables: PYTHON=… for the first set-up, ARGS='…' for the program or pytest.

.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

BIN := .venv/bin
ARGS ?=

# Only what holds Python: mypy refuses an empty folder.
SOURCES := $(foreach folder,app relay migrations scripts tests bench,\
  $(if $(shell find $(folder) -name '*.py' 2>/dev/null | head -n 1),$(folder)))
# What must not go stale unnoticed: the generated pages, and the migrations against the models.
FRESH := $(wildcard tests/unit/test_generated_pages.py tests/unit/test_asyncapi.py tests/unit/test_api_pages.py \
  tests/integration/test_migrations.py)

# A name on the PATH says nothing (it may be a stub for a version that is not there): each one is tried.
INSTALL = @for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
    exec "$$python" scripts/install.py $(1); \
  fi; \
done; \
echo "error: Python 3.11 or newer was not found; install it, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
exit 1

.PHONY: help
help: ## what can be done
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

# ------------------------------------------------------------------------------------------- run

.PHONY: run
run: installed-embedded ## set everything up, then run it all on this machine; nothing else is needed
	@exec $(BIN)/outbox up $(ARGS)

.PHONY: up
up: ## the same as containers, with PostgreSQL and Apache Kafka (needs Docker)
	docker compose up --build --wait

.PHONY: down
down: ## stop the containers; their data stays
	docker compose down

# ----------------------------------------------------------------------------------------- verify

# Tests wait about as long as they compute: four processes for two cores. Each takes whole files, in the order of their
# names: the slow ones are not the last then.
SIDE_BY_SIDE := -n 4 --dist loadfile --no-loadscope-reorder
.PHONY: test
test: installed-dev ## all tests, on whatever services this machine has (TEST_BACKEND=…)
	@exec $(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

.PHONY: check types others
check: installed-dev ## format, lint, types, contracts, locks, generated pages, migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(MAKE) -j 2 types others
types: # as long as all the others together
	$(BIN)/mypy $(SOURCES)
others:
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/lock.py --check
	$(if $(FRESH),$(BIN)/python -m pytest -q $(FRESH))

.PHONY: coverage
coverage: installed-dev ## all tests, then what they did not reach (htmlcov/index.html)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report

# `make bench drain latency`: the words after `bench` are names for it, not goals.
ifeq (bench,$(firstword $(MAKECMDGOALS)))
BENCHES := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
$(eval $(BENCHES):;@:)
endif
.PHONY: bench
bench: installed-dev ## measure; `make bench drain` measures only that
	@exec $(BIN)/python -m bench $(BENCHES) $(ARGS)

.PHONY: chaos
chaos: installed-dev ## break everything on purpose, and judge it (ARGS="--seed 20 --minutes 2"; needs KAFKA_HOME)
	@exec $(BIN)/python -m tests.chaos $(ARGS)

.PHONY: model
model: installed-dev ## explore the protocol, and break each of its rules; ARGS='name…' for some of it
	@exec $(BIN)/python -m tests.model $(ARGS)

# ---------------------------------------------------------------------------------------- maintain

.PHONY: format
format: installed-dev ## format the code and mend what the linter can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: docs
docs: installed-dev ## write the generated pages anew
	$(BIN)/outbox settings markdown >docs/configuration.md.new
	mv docs/configuration.md.new docs/configuration.md
	$(BIN)/outbox settings env >.env.example.new
	mv .env.example.new .env.example
	$(BIN)/outbox topics asyncapi --defaults >docs/asyncapi.json.new
	mv docs/asyncapi.json.new docs/asyncapi.json
	$(BIN)/outbox docs openapi >docs/openapi.json.new
	mv docs/openapi.json.new docs/openapi.json
	$(BIN)/outbox docs errors >docs/errors.md.new
	mv docs/errors.md.new docs/errors.md

.PHONY: lock
lock: installed-dev ## pin the dependencies of pyproject.toml; UPGRADE=1 takes the newest that fit
	$(BIN)/python scripts/lock.py $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean: ## remove what was installed and generated, not the data
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache htmlcov build dist
	rm -f .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------------------ set up

# Checked every time, in a moment; what is there is not installed again.
.PHONY: installed-embedded installed-dev
installed-embedded:
	$(call INSTALL,embedded)
installed-dev:
	$(call INSTALL,dev)
