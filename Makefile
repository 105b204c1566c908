# make pipeline · make check · make test · make test-full · make lab · make serve · make export. Any setting may be given on the line: make pipeline PROFILE=cpu RUN=mine
# PYTHON=python takes the active interpreter (conda, Colab) instead of making .venv.

.DEFAULT_GOAL := help
.PHONY: help pipeline check test test-full bench control serve export lab lock always installed

ifdef PYTHON
INSTALLED := installed
else
PYTHON := .venv/bin/python
INSTALLED := .venv/stamp
endif

# The NAME=value words of the command line reach Python through the environment, each as it was typed: make would
# expand a $$(shell …) in them when it exports them, and break a recipe at their line ends. -eNAME says which they are.
TYPED := $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
$(foreach name,$(TYPED),$(eval override $(name) := $$(value $(name)))$(eval export $(name)))
GIVEN = $(foreach name,$(filter-out PYTHON,$(TYPED)),'-e$(subst ','\'',$(name))')

export PYTHONSAFEPATH :=

help: ## this list
	@echo 'make TARGET [NAME=value ...]   names are in .env.example; also STAGES=3-5, FORCE=4 and PYTHON=python'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

pipeline: $(INSTALLED) ## run every notebook that is not done; then open reports/index.html
	@$(PYTHON) -m helpers pipeline $(GIVEN)

PYTEST = $(PYTHON) -m pytest --durations=15
SIDE_BY_SIDE = OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist loadfile
OF_SMOKE = PYTHONPATH=tests $(PYTEST) -p support.smoke
LATER = alone or browser or after_notebooks

check: $(INSTALLED) ## lint and the quick tests: less than three minutes on two cores
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(SIDE_BY_SIDE) -m 'not (slow or $(LATER))' tests

test: check ## check, the slower tests, all eight notebooks in profile smoke, the README's code, Chromium where it is
	$(SIDE_BY_SIDE) -m 'slow and not ($(LATER))' tests
	$(PYTEST) -m 'alone and not (browser or after_notebooks)' tests
	rm -rf data/smoke models/smoke reports/smoke
	$(OF_SMOKE) --nbval-lax --nbval-current-env --nbval-cell-timeout=300 notebooks
	$(OF_SMOKE) -m 'after_notebooks and not browser' tests
	$(OF_SMOKE) -rs -m browser tests

test-full: $(INSTALLED) ## make test with the long sweeps: kills, faults, damage and fuzz at their full numbers (hours)
	SWEEP=full $(MAKE) test

bench: $(INSTALLED) ## time our training, answers and probes against the usual recipes; then read reports/bench.json
	@$(PYTHON) -m helpers bench $(GIVEN)

control: $(INSTALLED) ## teach invented facts and ask for them in new words: does this pipeline teach at all? METHOD=full or qlora
	@$(PYTHON) -m helpers control $(GIVEN)

serve: $(INSTALLED) ## answer questions over HTTP: WHICH=base, qlora or full, PORT=8000
	@$(PYTHON) -m helpers serve $(GIVEN)

export: $(INSTALLED) ## a folder ready to share: WHICH=qlora or full; MERGED=on adds the adapter merged into its base
	@$(PYTHON) -m helpers export $(GIVEN)

lab: $(INSTALLED) ## open the notebooks in JupyterLab
	@$(PYTHON) -m jupyterlab notebooks/1_download_and_test.ipynb

lock: ## pin the newest packages that pyproject.toml allows in requirements.lock
	@$(FIND_PYTHON) && $(WRITE_LOCK)

installed:
	@$(PYTHON) helpers/pipeline/dependencies.py check $(if $(filter check test% bench,$(MAKECMDGOALS)),dev)

# The stamp is the lock that was installed, written last: an install that was interrupted is made good.
.venv/stamp: always
	@{ [ -x .venv/bin/python ] && cmp -s requirements.lock $@; } || { $(FIND_PYTHON) && $(INSTALL); }

FITS = import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

define FIND_PYTHON
for python in python3.11 python3.12 python3.13 python3 python none; do \
  $$python -c '$(FITS)' 2>/dev/null && break; \
done; \
if [ $$python = none ]; then \
  echo 'There is no Python 3.11, 3.12 or 3.13 with its venv module here.' >&2; \
  echo '→ Debian, Ubuntu: apt install python3-venv; macOS: brew install python@3.12; or an environment of your' >&2; \
  echo '  own: conda env create -f environment.yml, activate it, and make PYTHON=python' >&2; \
  exit 1; \
fi
endef

define INSTALL
echo 'Installing the packages into .venv, once: 2 GB on the disk (6 GB on Linux with CUDA), 2 to 15 minutes.'; \
{ .venv/bin/python -c '$(FITS)' 2>/dev/null || $$python -m venv --clear .venv; } && \
.venv/bin/python -m pip install --disable-pip-version-check -r requirements.lock && \
cp requirements.lock .venv/stamp
endef

# torch 2.13.0 is the one that was tested; the CUDA packages it brings differ by platform, and it pins them itself
define WRITE_LOCK
rm -rf .tmp-lock && $$python -m venv .tmp-lock && \
$$python helpers/pipeline/dependencies.py list dev > .tmp-lock/wanted && \
.tmp-lock/bin/python -m pip install -qq --disable-pip-version-check -r .tmp-lock/wanted torch==2.13.0 && \
{ echo '# Every package that make installs into .venv. Made from pyproject.toml by make lock.'; \
  .tmp-lock/bin/python -m pip freeze | grep -vE '^(nvidia|cuda|triton)' | sed -E 's/[+].*//'; } > .tmp-lock/new && \
cp .tmp-lock/new requirements.lock && rm -rf .tmp-lock && grep -c == requirements.lock
endef
