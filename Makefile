# The commands of the project; `make help` lists them.
PYTHON ?= python3
SOURCE ?= phantom
OUTPUT ?= runs/demo
EPOCHS ?= 5
SERVICE ?= pypi
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup run test faults lab app reproduce release external ablate bench pages verify audit lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/installed ## make .venv from requirements.lock

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11 to 3.13 is needed: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --editable .
	@touch $@

run: setup ## the four notebooks on SOURCE (phantom) into OUTPUT (runs/demo), EPOCHS (5)
	$(BIN)/python -m brainlib run --source "$(SOURCE)" --output "$(OUTPUT)" --epochs "$(EPOCHS)"

test: setup ## what CI runs on each Python: lint, unit tests, notebooks
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m pytest tests --numprocesses 2 --dist loadfile
	$(BIN)/python -m pytest --nbval notebooks

faults: setup ## all tests of real faults: kills, full disks (as root), too little memory
	$(BIN)/python -m pytest -m "faults or not faults" tests/test_faults.py

lab: setup ## JupyterLab on a copy of the notebooks, in runs/lab
	mkdir -p runs/lab
	for name in notebooks/*.ipynb; do \
		test -e "runs/lab/$${name#notebooks/}" || cp "$$name" runs/lab/; done
	BRAINLIB_UPLOAD_MB=500 $(BIN)/jupyter lab runs/lab \
		--ServerApp.tornado_settings='{"websocket_max_message_size": 508000000}'

app: setup ## the app: drop a scan, see the answer (127.0.0.1 only); MODEL=file
	$(BIN)/python -m brainlib app $(if $(MODEL),--model "$(MODEL)")

reproduce: setup ## every released result from the data, into figures/ and model/
	$(BIN)/python -m scripts.reproduce --resume
	$(BIN)/python -m scripts.pages

release: setup ## released files of the trainings in model/, measured
	$(BIN)/python -m scripts.release
	$(BIN)/python -m scripts.pages

external: setup ## slices of scans from elsewhere: SCANS=folder, MODEL=file
	$(BIN)/python -m scripts.external "$(SCANS)" $(if $(MODEL),--model "$(MODEL)")
	$(BIN)/python -m scripts.pages

ablate: setup ## contribution of each part of the network: short trainings
	$(BIN)/python -m scripts.ablation
	$(BIN)/python -m scripts.pages

bench: setup ## speed, side by side with the naive way
	$(BIN)/python -m scripts.benchmark
	$(BIN)/python -m scripts.pages

pages: setup ## numbers of README, model card and datasheet, from model/metrics.json
	$(BIN)/python -m scripts.pages

verify: setup ## evaluate the released files again and compare with model/metrics.json
	$(BIN)/python -m scripts.verify

audit: setup ## licences (no GPL) and known vulnerabilities of the dependencies; SERVICE=pypi, osv or esms
	$(PYTHON) -m venv runs/pip-audit && runs/pip-audit/bin/pip install --quiet pip-audit pip-licenses
	runs/pip-audit/bin/pip-licenses --python=$(BIN)/python --order=license \
		--partial-match --fail-on="GPL;General Public"
	runs/pip-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement requirements.lock \
		--vulnerability-service $(SERVICE) || { \
		echo "A package above has a known vulnerability, or $(SERVICE), which lists them on the internet, did not" \
			"answer for it: make audit SERVICE=osv asks another list"; exit 1; }

lock: ## renew requirements.lock from pyproject.toml (needs uv)
	uv pip compile --universal --python-version 3.11 --extra dev --no-emit-index-url \
		--no-emit-find-links --no-annotate --no-header --output-file requirements.lock pyproject.toml

clean: ## delete the environment and all runs; the released results stay
	rm -rf .venv runs
