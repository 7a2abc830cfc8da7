# `make run` and `make test` work from a clean clone and change nothing outside this folder.

SHELL := /bin/bash
LOCK_HASH := $(shell cksum < requirements.lock | tr ' ' -)
INSTALLED := .venv/.installed-$(LOCK_HASH)
MLFLOW_PORT ?= 5000

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export DVC_SITE_CACHE_DIR := $(CURDIR)/.dvc/tmp/site
export DO_NOT_TRACK := true
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help setup run bench paper test test-pipeline test-exactness test-services lint format airflow rollback mlflow mlflow-send lock clean

help: ## Show the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

setup: $(INSTALLED) ## Create .venv from requirements.lock; does nothing while the lock stays the same

# The mark is written last, so an interrupted installation starts again. If make is killed, pip ends with it
# (prctl 1 = PR_SET_PDEATHSIG) and cannot write into what the next `make setup` builds.
$(INSTALLED): requirements.lock
	@rm -rf .venv
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && exec "$$python" -m venv .venv; \
	done; echo "Python 3.11 or newer is needed; name it with: make setup PYTHON=/path/to/python3" >&2; exit 2
	@exec .venv/bin/python -c 'import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.executable, [sys.executable, "-m", "pip", *sys.argv[1:]])' \
	  install --no-input --disable-pip-version-check --requirement requirements.lock
	@.venv/bin/python -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "atspeed.pth").write_text(f"{pathlib.Path.cwd()}\n")'
	@touch $@

run: setup ## Run the pipeline and print its table; only what is out of date runs
	@exec python -m tasks.pipeline

bench: setup ## Compare ways of decoding, after make run (QUICK=1: three minutes; ARGS=--help: what to measure)
	@python -m tasks.bench $(if $(QUICK),--quick) $(ARGS)
	@$(if $(filter --help,$(ARGS)),:,exec python -m tasks.bench_catalog $(if $(QUICK),--quick))

paper: setup ## Run every method on a data set, print our table and the paper's (DATASET=beauty; ARGS=--help: ablations, sweeps)
	@exec python -m tasks.paper $(DATASET) $(ARGS)

# The tests of a file share what is slow to set up, so one worker runs the whole file, the long files first
# (tests/conftest.py); each worker computes with one thread.
test: setup ## Run the tests (WORKERS=n: how many at the same time)
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} \
	  python -m pytest --numprocesses $${WORKERS:-auto} --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-pipeline: setup ## Run the whole pipeline through DVC and MLflow, killed in every stage
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} python -m pytest -m pipeline tests/pipeline

test-exactness: setup ## Compare strict lists with those of generate on thousands of random cases
	@HF_HUB_OFFLINE=1 ATSPEED_EXAMPLES=$${CASES:-500} python -m pytest --timeout 1800 tests/decoding/test_search.py

test-services: setup ## Run nights through a real Airflow, MLflow and PostgreSQL, which it starts itself
	@HF_HUB_OFFLINE=1 python -m pytest -x -m services tests/integration

lint: setup ## Check style, formatting, types and the directions of imports
	@ruff check
	@ruff format --check
	@mypy
	@lint-imports

format: setup ## Format the code
	@ruff check --fix
	@ruff format

mlflow: setup ## Show the runs in a browser, on this machine only
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --host 127.0.0.1 --port $(MLFLOW_PORT) --backend-store-uri sqlite:///mlflow.db \
	    --default-artifact-root ./mlartifacts --workers 1 & server=$$!; trap 'kill $$server' EXIT; \
	until python -c 'import urllib.request; urllib.request.urlopen("http://127.0.0.1:$(MLFLOW_PORT)/health")' 2>/dev/null; \
	do kill -0 $$server || exit 1; sleep 1; done; \
	echo "MLflow: http://127.0.0.1:$(MLFLOW_PORT) (Ctrl-C ends it)"; wait $$server

airflow: setup ## Start PostgreSQL, MLflow and Airflow on this machine only; print address and login (ARGS=--help)
	@exec python -m local_services $(ARGS)

rollback: setup ## Put the previous champion back into service (DATASET=name; MLFLOW_TRACKING_URI: the server)
	@python -m tasks.promotion.rollback --dataset "$${DATASET:-ml-latest-small-2016}"

mlflow-send: setup ## Send the records in outbox/ to MLflow
	@python -m tasks.send_mlflow

lock: ## Resolve all requirements*.in together into a new requirements.lock
	@rm -rf .lock-venv && python3 -m venv .lock-venv
	@.lock-venv/bin/python -m pip install --no-input $(addprefix -r ,$(wildcard requirements*.in))
	@set -o pipefail; { echo '# Made by `make lock` from the files requirements*.in.'; \
	  .lock-venv/bin/python -m pip freeze --all | grep -v -E '^(pip=|nvidia|cuda|triton)' | sed 's/+cpu$$//' | LC_ALL=C sort -f; } \
	  > requirements.lock.new
	@mv requirements.lock.new requirements.lock && rm -rf .lock-venv

clean: ## Remove what the stages and tools wrote; .venv, the DVC cache and mlflow.db stay
	@rm -rf data/processed data/identifiers data/topk_cache data/reference models checkpoints results/per_user \
	  results/plots $(filter-out results/metrics.json,$(wildcard results/*.json)) results/report.html data/champion outbox .lock-venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
