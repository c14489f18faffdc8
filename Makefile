# Two commands: `make demo` and `make test`. Both make their own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow check format clean

$(STAMP): setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[cpu,dev,onnx,exports]'
	touch $@

demo: $(STAMP)  ## render scenes, run the whole pipeline, print scores and the report
	$(BIN)/python data/make_scenes.py demo/scenes --n 200 --overwrite
	$(BIN)/datus run pipelines/demo.toml

test: $(STAMP)  ## the quick suite: three minutes on two cores
	$(BIN)/python -m pytest -n 2 -m 'not slow'

test-slow: $(STAMP)  ## kills and real datasets: some ten minutes
	$(BIN)/python -m pytest -m slow

check: $(STAMP)  ## ruff, format, types; the import directions are a test of the quick suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo build dist *.egg-info

.PHONY: bench-louvain
bench-louvain: $(STAMP)  ## graph and Louvain: every back end on the same keys
	$(BIN)/python -m pip install --quiet --editable '.[leiden]'
	$(BIN)/python benchmarks/bench_louvain.py --out louvain

.PHONY: chaos fuzz
chaos: $(STAMP)  ## faults x stages: the same command, the same bytes; docs/faults.md
	$(BIN)/python tests/slow/chaos/chaos.py

fuzz: $(STAMP)  ## hostile bytes into every reader; SECONDS=600 for longer
	$(BIN)/python tests/slow/fuzz/fuzz.py --seconds $(or $(SECONDS),60)

.PHONY: bench-pipeline
bench-pipeline: $(STAMP)  ## where the time of a run goes: make bench-pipeline IMAGES=photos/
	$(BIN)/python benchmarks/bench_pipeline.py --images $(IMAGES) $(if $(TRUTH),--truth $(TRUTH)) \
		$(if $(CLASSES),--classes $(CLASSES)) --sizes $(or $(SIZES),0,4000) $(ARGS)

.PHONY: docs
docs: $(STAMP)  ## settings.md and the outputs of the tour, afresh
	$(BIN)/python docs/make_settings.py
	$(BIN)/python docs/run_tour.py
