# The first use of any target makes .venv and installs exactly what constraints.txt names.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -c constraints.txt

.PHONY: help setup demo demo-picture test test-all faults fuzz kill-loop mutations soak live-soak lint types check docs bench-plugins bench-speech bench-voice bench-drivers songbird songbird-cycles hashes dist changelog clean

help:
	@echo "make demo   play the whole product, no Discord account and no network needed"
	@echo "make demo-picture  play it and take the README's picture anew (PICTURE=docs/demo.svg)"
	@echo "make test   run the tests       make test-all  the long ones too"
	@echo "make faults what can go wrong, brought about: build/faults.json, docs/faults.md (FULL=1: at Discord's real delays; DRIVER=songbird)"
	@echo "make fuzz   every parser of foreign bytes, 30 s each (SECONDS_EACH=)"
	@echo "make kill-loop  a bot killed at random points, 1,000 times (N=)    make mutations  would the tests notice?"
	@echo "make soak   the voice actor in virtual time, a million steps (STEPS=), and who is heard and who reads, 100,000 each (CONSENT_STEPS=)"
	@echo "make live-soak  a real bot under random commands and faults, an hour (SECONDS=)"
	@echo "make setup  only install, into .venv; then .venv/bin/roost is the command"
	@echo "make lint   style, imports and layers      make types  the strict type check"
	@echo "make docs   write docs/hooks.md, docs/faults.md anew       make bench-plugins  what hooks and reloads cost"
	@echo "make bench-speech  speech-to-text beside stock faster-whisper (half an hour)"
	@echo "make songbird  build the module songbird (needs Rust; nothing else does)   make songbird-cycles  1,000 joins (N=)"
	@echo "make hashes  write hashes/ anew after a change of constraints.txt"
	@echo "make dist   build the wheel and the source archive into build/dist and check them"
	@echo "make changelog  show what changelog.d/ says (RELEASE=1: move it into CHANGELOG.md)"
	@echo "make bench-drivers  the voice drivers side by side (ten minutes)"
	@echo "make bench-voice  what joining, receiving, stopping and reaping cost (five minutes)"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt hashes/setup.txt hashes/pip.txt
	@set -e; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "roost: Python 3.11 or newer is needed and none was found; install it, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 2; \
	fi; \
	echo "[1/3] making $(VENV) with $$($$found --version)"; \
	$$found -m venv --clear $(VENV); \
	echo "[2/3] updating the installer"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r hashes/pip.txt; \
	echo "[3/3] installing what constraints.txt names (about 500 MB on disk; a few minutes on a slow line)"; \
	$(BIN)/python -m pip install --progress-bar on --disable-pip-version-check --require-hashes --no-deps -r hashes/setup.txt \
	  | sed -u -n 's/^Collecting \([^ <>=!~;(]*\).*/      \1/p; s/^Successfully.*/      done/p'; \
	test $${PIPESTATUS[0]} -eq 0; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	$(BIN)/python -m pip check --disable-pip-version-check >/dev/null
	@touch $@

demo: $(STAMP)
	@$(BIN)/roost demo

demo-picture: $(STAMP)
	@mkdir -p $(dir $(or $(PICTURE),docs/demo.svg))
	$(BIN)/roost demo --svg $(or $(PICTURE),docs/demo.svg)
	@ROOST_DEMO_PICTURE=$(abspath $(or $(PICTURE),docs/demo.svg)) $(BIN)/python -m pytest -q -n 0 tests/core/demo/test_picture.py

test: $(STAMP)
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not long"

test-all: $(STAMP)
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

faults: $(STAMP)
	@ROOST_FAULTS_JSON=build/faults$(if $(DRIVER),-$(DRIVER)).json ROOST_FAULTS_FULL=$(FULL) ROOST_FAULTS_DRIVER=$(DRIVER) $(BIN)/python -m pytest -q -m fault \
	  $(if $(FULL),-n 6 --timeout 900,-n $(if $(DRIVER),4,3) --dist loadfile --no-loadscope-reorder)

fuzz: $(STAMP)
	$(BIN)/python tests/fuzz/run.py --seconds $(or $(SECONDS_EACH),30)

kill-loop: $(STAMP)
	$(BIN)/python tests/kill_loop.py --n $(or $(N),1000)

mutations: $(STAMP)
	$(BIN)/python tests/mutations.py

soak: $(STAMP)
	$(BIN)/python tests/soak.py --steps $(or $(STEPS),1000000)
	$(BIN)/python tests/consent_soak.py --steps $(or $(CONSENT_STEPS),100000)

live-soak: $(STAMP)
	$(BIN)/python tests/live_soak.py --seconds $(or $(SECONDS),3600)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@! git grep -nE '^(<{7}|>{7}) ' || { echo "these lines are left of a conflict between two changes" >&2; exit 1; }

types: $(STAMP)
	$(BIN)/mypy

check: lint types test

docs: $(STAMP)
	$(BIN)/python -m roost.dev.hooks_page docs/hooks.md
	$(BIN)/python tests/faults/fault_table.py docs/faults.md

bench-plugins: $(STAMP)
	$(BIN)/python bench/plugins.py build/bench-plugins.json

bench-speech: $(STAMP)
	$(BIN)/python bench/speech/run.py build/bench-speech.json

bench-voice: $(STAMP)
	$(BIN)/python bench/voice/run.py build/bench-voice.json

songbird: $(STAMP)
	@for tool in cargo cc; do command -v $$tool >/dev/null || { \
	  echo "roost: make songbird needs $$tool on the PATH (cargo: https://rustup.rs); the rest of Roost needs no Rust" >&2; exit 1; }; done
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r hashes/songbird.txt
	@command -v cmake >/dev/null || { echo "roost: no cmake on the PATH, taking PyPI's"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r hashes/songbird-cmake.txt; }
	VIRTUAL_ENV="$(CURDIR)/$(VENV)" PATH="$$PATH:$(CURDIR)/$(BIN)" nice -n 10 \
	  $(BIN)/maturin develop --release --jobs $(or $(JOBS),2) --manifest-path plugins/songbird/Cargo.toml
	@$(BIN)/python -c 'import songbird; print("songbird", songbird.SONGBIRD_VERSION, "can be imported")'

songbird-cycles: $(STAMP)
	$(BIN)/python bench/songbird_cycles.py --n $(or $(N),1000) build/songbird-cycles.json

bench-drivers: $(STAMP)
	$(BIN)/python bench/voice/drivers.py build/bench-drivers.json

hashes: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --group hashes
	@mkdir -p hashes && rm -f hashes/*.txt
	@echo pip | $(COMPILE) -o hashes/pip.txt -
	@$(COMPILE) -o hashes/setup.txt --extra all --group dev pyproject.toml
	@for group in songbird songbird-cmake hashes release; do $(COMPILE) -o hashes/$$group.txt --group $$group || exit 1; done

.PHONY: release-tools
release-tools: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r hashes/release.txt

dist: release-tools
	@rm -rf build/dist
	$(BIN)/python -m build --no-isolation --outdir build/dist
	$(BIN)/twine check --strict build/dist/*

changelog: release-tools
	$(BIN)/towncrier build $(if $(RELEASE),--yes,--draft)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
