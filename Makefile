# Two commands on a fresh machine: `make demo` and `make test`. They need python3 (3.11 or later), make and a package index.
# `make` alone prints the targets; the text after `##` is what it prints.

PYTHON ?= python3
UV := uv==0.13.9
BIN := .venv/bin
# a stamp is named by its pins' checksum: an environment is made again when they change, not when a file is touched
READY := .venv/ready-$(shell cksum < envs/host.txt | cut -d' ' -f1)
READY7 := .venv7/ready-$(shell cksum < envs/snakemake7.txt | cut -d' ' -f1)
READYDOCS := .venv-docs/ready-$(shell cksum < envs/docs.txt | cut -d' ' -f1)
TRITON := .venv-triton/ready-$(shell cksum < envs/triton.txt | cut -d' ' -f1)
READY8 := .venv8/ready-$(shell cat envs/jetson-jp5.txt envs/jetson-tests.txt | cksum | cut -d' ' -f1)
# an interpreter as old as JetPack 5.1's, for the half that runs on devices; uv fetches one where none is here
PYTHON8 ?= $(firstword $(wildcard $(addsuffix /bin/python3.8,/usr /usr/local $(HOME)/.pyenv/versions/3.8.*)) 3.8)
FAST := -m "not slow"
PYTEST = $(BIN)/python -m pytest -n 4 --no-loadscope-reorder $(FAST)
# apart from torch, as in the workflow: OpenVINO 2026.4 and torch 2.15 in one process end in a broken heap
APART := tests/runtimes
T := tests
TOGETHER = $(filter-out $(APART) $(APART)/%,$(T))
ALONE = $(if $(filter tests,$(T)),$(APART),$(filter $(APART) $(APART)/%,$(T)))
FIRST = $(PYTEST) $(TOGETHER) $(APART:%=--ignore=%) < /dev/null
SECOND = $(PYTEST) -n 2 $(ALONE) < /dev/null
# the short second part fills the waits of the first, and is printed after it
AT_ONCE = mkdir -p .cache; $(SECOND) > .cache/second.log 2>&1 & second=$$!; trap "kill $$second" INT; \
  $(FIRST); status=$$?; wait $$second || status=$$?; cat .cache/second.log; exit $$status
MEASURED := $(patsubst %,results/LeViT-128S.%.json,fp32.cpu bf16.cpu int8_ptq.cpu int8_qat.cpu fp32.ort int8_qat.ort)

BOARD := .cache/ssh/ready-$(shell cksum < envs/ssh.apt | cut -d' ' -f1)
S3 := .cache/s3/ready-$(shell cat envs/s3.txt envs/s3-tests.txt | cksum | cut -d' ' -f1)
BOTO3 := .cache/boto3/ready-$(shell cksum < envs/s3.txt | cut -d' ' -f1)
NVCC := .cache/nvcc/ready-$(shell cksum < envs/nvcc.txt | cut -d' ' -f1)
SLURM := .cache/slurm/ready-$(shell cat envs/slurm.apt envs/slurm.txt | cksum | cut -d' ' -f1)
CHROMIUM := .cache/chromium/ready-$(shell cksum < envs/chromium.apt | cut -d' ' -f1)
FONTS := .cache/fonts/ready-$(shell cksum < envs/fonts.apt | cut -d' ' -f1)

.PHONY: help demo docs test check check-cluster bench reproduce doctor migrate retime fuzz lint env fonts board slurm chromium s3 picture rulegraph clean distclean
.DELETE_ON_ERROR:

help:  ## print the version and these targets
	@sed -n 's/^version = "\(.*\)"/LeViT-TensorRT \1/p' pyproject.toml
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(READY)  ## make one measured INT8 result from nothing: results/LeViT-128S.int8_qat.cpu.json
	$(BIN)/snakemake results/LeViT-128S.int8_qat.cpu.json

docs: $(READY) $(READYDOCS)  ## build the documentation: .cache/site/site/index.html
	$(BIN)/python docs/gather.py .cache/site
	cd .cache/site && $(CURDIR)/.venv-docs/bin/zensical build --strict --clean

test: $(READY) $(READY7) $(READY8) $(READYDOCS) $(BOARD) $(S3)  ## run the suite, format and lint included, or T="tests/core tests/..."
	@$(if $(and $(TOGETHER),$(ALONE)),$(AT_ONCE),$(if $(TOGETHER),$(FIRST),$(SECOND)))

check: FAST :=
check: $(NVCC) $(CHROMIUM) $(TRITON) test  ## run the suite with the tests that are too slow for every change

check-cluster: $(READY) $(SLURM)  ## run the tests on a SLURM cluster that they start here
	$(BIN)/python -m pytest tests/cluster < /dev/null

NNCF ?= $(BIN)/python
bench: $(READY)  ## measure the speed ratios that this project promises
	$(BIN)/snakemake --quiet rules -- $(MEASURED)
	$(BIN)/python tests/bench/ratios.py
	$(BIN)/python tests/bench/busy.py
	$(NNCF) tests/bench/nncf_cpu.py results/digits || true  # NNCF=path of a Python that has it

reproduce: $(READY)  ## rebuild RESULT=results/X.json from what it records and list what differs
	@test -n "$(RESULT)" || { echo "error: which one? make reproduce RESULT=results/X.json" >&2; exit 1; }
	$(BIN)/python workflow_scripts/reproduce.py $(RESULT)

retime: $(READY)  ## time RESULT=results/X.json again, here or on its board
	@test -n "$(RESULT)" || { echo "error: which one? make retime RESULT=results/X.json" >&2; exit 1; }
	$(BIN)/python workflow_scripts/retime.py $(RESULT)

doctor:  ## say what this machine and its boards lack, or TARGET=xavier alone
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) workflow_scripts/doctor.py $(TARGET)

migrate: $(READY)  ## adopt checkpoints of an earlier version, so that an upgrade trains nothing
	$(BIN)/python workflow_scripts/migrate.py

fuzz: $(READY)  ## try kills, bad configurations, checkpoints, images and inputs for an hour
	$(BIN)/python tests/fuzz

lint: $(READY)  ## check format, style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/snakefmt --check --compact-diff Snakefile rules
	$(BIN)/hadolint --failure-threshold warning containers/gpu.Dockerfile containers/jetpack5.Dockerfile containers/jetpack6.Dockerfile

env: $(READY)  ## make the environment in .venv

fonts: $(FONTS)  ## download the fonts of the dataset `glyphs`: Debian or Ubuntu, no root

$(FONTS): envs/fonts.apt
	@apt-cache show fonts-lato > /dev/null || \
	  { echo "error: no packages from apt: run apt-get update, or put fonts into a folder for datasets.glyphs" >&2; exit 1; }
	rm -rf .cache/fonts && mkdir -p .cache/fonts/packages
	cd .cache/fonts/packages && apt-get download -qq $$(apt-cache pkgnames | grep -Fx -f ../../../envs/fonts.apt)
	for package in .cache/fonts/packages/*.deb; do dpkg-deb --extract $$package .cache/fonts || exit 1; done
	rm -r .cache/fonts/packages && touch $@

board: $(BOARD)  ## download sshd and rsync for the tests' board: Debian or Ubuntu, no root

$(BOARD): envs/ssh.apt
	rm -rf .cache/ssh && mkdir -p .cache/ssh/packages
	apt-cache show openssh-server > /dev/null 2>&1 || apt-get update -qq || true
	if cd .cache/ssh/packages && apt-get download -qq $$(apt-cache pkgnames | grep -Fx -f ../../../envs/ssh.apt); \
	  then for package in *.deb; do dpkg-deb --extract $$package .. || exit 1; done; cd .. && rm -r packages && touch $(@F); \
	  else echo "warning: no packages from apt: tests over ssh run with the installed sshd and rsync, or are skipped" >&2; fi

slurm: $(SLURM)  ## download SLURM for the tests' cluster: Debian or Ubuntu, no root

$(SLURM): envs/slurm.apt envs/slurm.txt $(READY)
	rm -rf .cache/slurm && mkdir -p .cache/slurm/packages
	apt-cache show slurmctld > /dev/null 2>&1 || apt-get update -qq || true
	if cd .cache/slurm/packages && apt-get download -qq $$(apt-cache pkgnames | grep -Fx -f ../../../envs/slurm.apt); \
	  then for package in *.deb; do dpkg-deb --extract $$package .. || exit 1; done; cd .. && rm -r packages; \
	  else echo "warning: no packages from apt: tests run with the installed SLURM, or are skipped" >&2; fi
	$(BIN)/uv pip install --quiet --target .cache/slurm/python --python $(BIN)/python --no-deps -r envs/slurm.txt && touch $@

chromium: $(CHROMIUM)  ## download Chromium for the tests of the page: Debian or Ubuntu, no root

$(CHROMIUM): envs/chromium.apt
	rm -rf .cache/chromium && mkdir -p .cache/chromium/packages
	apt-cache show chromium-headless-shell > /dev/null 2>&1 || apt-get update -qq || true
	if command -v chromium > /dev/null; then touch $@; elif cd .cache/chromium/packages && apt-get download -qq $$(apt-cache pkgnames | grep -Fx -f ../../../envs/chromium.apt); \
	  then for package in *.deb; do dpkg-deb --extract $$package .. || exit 1; done; cd .. && rm -r packages && touch $(@F); \
	  else echo "warning: no packages from apt: the page is tried in the installed Chromium, or not at all" >&2; fi

$(READY): envs/host.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet $(UV); }
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode -r envs/host.txt
	rm -f .venv/ready-* && touch $@

$(READY7): envs/snakemake7.txt $(READY)
	test -x .venv7/bin/python || $(PYTHON) -m venv --without-pip .venv7
	if $(BIN)/uv pip install --python .venv7/bin/python --compile-bytecode -r envs/snakemake7.txt; \
	  then rm -f .venv7/ready-* && touch $@; \
	  else rm -rf .venv7; echo "warning: no Snakemake 7 (one of its packages needs a C compiler): its tests are skipped" >&2; fi

$(READY8): envs/jetson-jp5.txt envs/jetson-tests.txt $(READY)
	test -x .venv8/bin/python || $(BIN)/uv venv --quiet --python $(PYTHON8) .venv8 || true
	if $(BIN)/uv pip install --python .venv8/bin/python --compile-bytecode -r envs/jetson-jp5.txt -r envs/jetson-tests.txt; \
	  then rm -f .venv8/ready-* && touch $@; \
	  else rm -rf .venv8; echo "warning: no Python 3.8 with what a Jetson has: its tests are skipped" >&2; fi

$(READYDOCS): envs/docs.txt $(READY)
	test -x .venv-docs/bin/python || $(PYTHON) -m venv --without-pip .venv-docs
	if $(BIN)/uv pip install --python .venv-docs/bin/python --compile-bytecode -r envs/docs.txt; \
	  then rm -f .venv-docs/ready-* && touch $@; \
	  else rm -rf .venv-docs; echo "warning: no Zensical: the test that builds the documentation is skipped" >&2; fi

s3: $(BOTO3)  ## install boto3 in .cache/boto3, for a store in a bucket

$(BOTO3): envs/s3.txt $(READY)
	rm -rf .cache/boto3
	$(BIN)/uv pip install --quiet --target .cache/boto3 -r envs/s3.txt
	touch $@

$(S3): envs/s3.txt envs/s3-tests.txt $(READY)
	if $(BIN)/uv pip install --quiet --target .cache/s3 -r envs/s3.txt -r envs/s3-tests.txt; \
	  then rm -f .cache/s3/ready-* && touch $@; \
	  else rm -rf .cache/s3; echo "warning: no S3 server: the tests of a store in a bucket are skipped" >&2; fi

$(TRITON): envs/triton.txt $(READY)
	test -x .venv-triton/bin/python || $(PYTHON) -m venv --without-pip .venv-triton
	if $(BIN)/uv pip install --python .venv-triton/bin/python --no-deps --compile-bytecode -r envs/triton.txt; \
	  then rm -f .venv-triton/ready-* && touch $@; \
	  else rm -rf .venv-triton; echo "warning: no Triton Inference Server: the tests that serve a repository are skipped" >&2; fi

$(NVCC): envs/nvcc.txt $(READY)
	if $(BIN)/uv pip install --quiet --target .cache/nvcc -r envs/nvcc.txt; then rm -f .cache/nvcc/ready-* && touch $@; \
	  else rm -rf .cache/nvcc; echo "warning: no CUDA compiler: the plugin's tests are skipped" >&2; fi

picture: $(READY) $(CHROMIUM)  ## draw docs/page.png again
	$(BIN)/python docs/picture.py

rulegraph: $(READY)  ## draw docs/rulegraph.svg again: needs Graphviz
	$(BIN)/python docs/rulegraph.py

clean:  ## remove what was built; the store (.cache) and the environments stay
	rm -rf results .snakemake .pytest_cache .ruff_cache .mypy_cache

distclean: clean  ## remove the store and the environments as well
	rm -rf .cache .venv .venv7 .venv8 .venv-docs .venv-triton
