# The commands of the project; `make help` lists them.
PYTHON ?= python3
SOURCE ?= phantom
OUTPUT ?= runs/demo
EPOCHS ?= 5
HEALTHY_SCAN ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup run test lab app reproduce release ablate readme bench lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/installed ## make .venv from requirements.lock

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.10 to 3.13 is needed: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --editable .
	@touch $@

run: setup ## the four notebooks on SOURCE (phantom) into OUTPUT (runs/demo), EPOCHS (5)
	$(BIN)/python -m brainlib run --source "$(SOURCE)" --output "$(OUTPUT)" --epochs "$(EPOCHS)"

test: setup ## what CI runs on each Python: lint, unit tests, notebooks
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m pytest --nbval

lab: setup ## open JupyterLab on the notebooks
	BRAINLIB_UPLOAD_MB=500 $(BIN)/jupyter lab notebooks \
		--ServerApp.tornado_settings='{"websocket_max_message_size": 508000000}'

app: setup ## the page: drop a scan, see the answer (127.0.0.1 only)
	$(BIN)/python -m brainlib app

reproduce: setup ## trainings, release and evaluation on the real data, into figures/ and model/
	$(BIN)/python -m scripts.reproduce --resume
	$(BIN)/python -m scripts.readme

release: setup ## the released files of the trainings in model/, measured; HEALTHY_SCAN=path
	$(BIN)/python -m scripts.release --healthy-scan "$(HEALTHY_SCAN)"
	$(BIN)/python -m scripts.readme

ablate: setup ## what each part brings, and an unknown tumour: short trainings, into model/
	$(BIN)/python -m scripts.ablation recipe
	$(BIN)/python -m scripts.ablation unknown
	$(BIN)/python -m scripts.readme

readme: setup ## write the measured results into README.md, MODEL_CARD.md and DATASET.md
	$(BIN)/python -m scripts.readme

bench: setup ## measure speed, side by side in one run, into figures/bench*.csv
	$(BIN)/python -m scripts.bench

lock: ## renew requirements.lock from pyproject.toml (needs uv)
	uv pip compile --universal --python-version 3.10 --extra dev --no-emit-index-url \
		--no-emit-find-links --no-annotate --no-header --output-file requirements.lock pyproject.toml

clean: ## delete the environment and all runs; the released results stay
	rm -rf .venv runs
