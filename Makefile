# Two commands do everything: `make demo` and `make test`. Both set up `.venv` on first use.
# On a machine without an NVIDIA GPU torch is pinned to its CPU build. Where the default package
# index has no CPU build, name one that has: make demo TORCH_INDEX_URL=...
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
GPU := $(shell command -v nvidia-smi 2>/dev/null)
CONSTRAINT := $(if $(GPU),,-c constraints-cpu.txt)
TORCH_INDEX := $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL),)

.PHONY: demo test engines lint types check docs clean

demo: .venv/demo.stamp
	$(BIN)/t2l models fetch
	$(BIN)/t2l demo

test: .venv/test.stamp
	$(BIN)/python -m pytest -q -n 2

# What some tests run on: 20 MB for llama.cpp and mlx-lm, 130 MB for the browser's test, which needs a
# chromium that is there. Without them these tests are skipped, each with its reason.
engines: .venv/test.stamp
	$(PIP) $(CONSTRAINT) -e '.[engines]' || echo 'make engines: llama.cpp and mlx-lm do not install here'
	! command -v chromium > /dev/null || $(PIP) $(CONSTRAINT) -e '.[browser]' \
		|| echo 'make engines: the test of the web page does not install here'

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/test.stamp
	$(BIN)/mypy

check: test lint types docs

docs: .venv/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.venv/torch.stamp: constraints-cpu.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) $(TORCH_INDEX) $(CONSTRAINT) torch
	touch $@

.venv/demo.stamp: .venv/torch.stamp pyproject.toml packages/text-to-lora-embedded/pyproject.toml
	$(PIP) $(CONSTRAINT) -e packages/text-to-lora-embedded -e '.[embedded]'
	touch $@

.venv/test.stamp: .venv/demo.stamp
	$(PIP) $(CONSTRAINT) -e packages/text-to-lora-embedded -e '.[embedded,train,eval,benchmarks,dev]'
	touch $@

.venv/docs.stamp: .venv/torch.stamp pyproject.toml
	$(PIP) $(CONSTRAINT) -e '.[docs]'
	touch $@

clean:
	rm -rf site .venv .pytest_cache .mypy_cache .ruff_cache
