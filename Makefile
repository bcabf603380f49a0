.DEFAULT_GOAL := help
.PHONY: help demo demo-serve test test-sqlite test-postgres test-mysql matrix lint format bench \
	chaos faults docs docs-serve screenshots pins clean driver

PY := .venv/bin/python
READY := .venv/.ready

# make test-sqlite ARGS="-k claim": what pytest gets
ARGS ?=
RUN = $(PY) -m tests.run

export PYTHON

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{ printf "make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(READY) ## the example: enqueue, work, show the results
	@$(PY) example/demo.py

demo-serve: $(READY) ## the example with a web server and the admin
	@$(PY) example/demo.py --serve

test: $(READY) driver ## the tests on SQLite, PostgreSQL and MariaDB
	@$(RUN) --shared sqlite postgres mysql -- $(ARGS)

test-sqlite: $(READY) ## the tests on SQLite
	@$(RUN) --shared sqlite -- $(ARGS)

faults: $(READY) driver ## the fault suite, moving in, a million jobs: their long form
	@DURABLE_TASKS_LONG=1 $(RUN) sqlite postgres mysql -- tests/faults tests/adoption/test_packages.py tests/admin/test_flat.py $(ARGS)

test-postgres: $(READY) ## the tests on PostgreSQL
	@$(RUN) --shared postgres -- $(ARGS)

test-mysql: $(READY) driver ## the tests on MariaDB or MySQL
	@$(RUN) --shared mysql -- $(ARGS)

screenshots: $(READY) ## the pictures of the documentation (needs Chromium)
	@DURABLE_TASKS_SCREENSHOTS=docs/images $(RUN) sqlite -- tests/browser/test_pages.py $(ARGS)

matrix: ## the tests on every Python and Django found here
	@scripts/matrix

lint: $(READY) ## format, rules, types, layers and migrations
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy src dropins/src
	.venv/bin/lint-imports
	DJANGO_SETTINGS_MODULE=tests.settings $(PY) -m django makemigrations --check --dry-run

format: $(READY) ## rewrite the code in the project's format
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

chaos: $(READY) driver ## dying workers and servers; MINUTES=10 DB="postgres mysql"
	@$(PY) -m tests.faults.chaos --minutes $(or $(MINUTES),10) $(DB)

bench: $(READY) driver ## the benchmarks; QUICK=1 for a short run, ARGS="--only flat"
	@$(PY) -m benchmarks $(if $(QUICK),--quick) $(ARGS)

docs: $(READY) ## the documentation's site, into build/site
	@$(PY) docs/reference.py
	@$(PY) -m mkdocs --quiet build --strict

docs-serve: $(READY) ## the same on 127.0.0.1:8002, built again when a page changes; PORT=8003
	@$(PY) docs/reference.py
	@$(PY) -m mkdocs serve --dev-addr 127.0.0.1:$(or $(PORT),8002)

pins: ## renew the pinned versions (needs uv)
	uv pip compile --quiet --universal --upgrade --no-annotate --python-version 3.12 \
		--custom-compile-command "make pins" \
		pyproject.toml --group dev -o requirements-dev.txt
	uv pip compile --quiet --universal --upgrade --no-annotate --python-version 3.12 \
		--custom-compile-command "make pins" \
		--group mysql -o requirements-mysql.txt

clean: ## remove what these targets made
	rm -rf .venv .venvs build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

driver: $(READY)
	@scripts/install-mysqlclient

$(READY): pyproject.toml dropins/pyproject.toml requirements-dev.txt scripts/setup scripts/make-venv scripts/find-python
	@scripts/setup
