# make demo   restyle the demo catalogue with the built-in model
# make test   run the tests
# make check  lint, formatting, types
# make cpu-matrix  the tests of exactness under other instruction sets and thread counts (half an hour)
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check cpu-matrix clean

demo: .venv/run.done
	$(BIN)/python -m jobs.restyle manifest=pipeline/demo_catalogue/manifest.csv output=outputs/demo \
		model=demo catalogue=demo cover.cover_noise_strength=0.2 \
		"grid.audio_cover_strength=[0.2,0.6,1]" "grid.guidance_scale=[1,6]"

test: .venv/dev.done
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'cluster and not slow'

check: .venv/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

cpu-matrix: .venv/dev.done
	$(BIN)/python -m tests.cpu_matrix

clean:
	rm -rf .venv outputs

.venv/run.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing (several minutes the first time: torch is large)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/dev.done: .venv/run.done
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,dev]"
	@touch $@
