# Every target sets up what it needs: on a fresh machine, `make demo` and `make test` are enough.
#
#   make tokenize DATASET=hcp DATA_ROOT=/data/HCP [STORE=tokens.zarr] [ARGS="--weights FOLDER"]
#   make train STORE=tokens.zarr [ARGS="--recipe tablet"]
#
# PIP_ARGS goes to pip, for instance to choose another build of torch.

export PYTHONSAFEPATH := 1   # this folder holds a tokenizers/ that must not shadow HuggingFace's
export PYTHONDONTWRITEBYTECODE :=   # the commands of demo and tests start many Pythons: compile once
PYTHON   ?= python3
VENV     ?= .venv
BIN      := $(VENV)/bin
PIP_ARGS ?=
ARGS     ?=
DATASET  ?=
DATA_ROOT ?=
STORE    ?= tokens.zarr
DEMO     ?= demo

.PHONY: setup demo scores tokenize train test test-slow test-brainmarks parity lint format typecheck bench dcae-tiny clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	touch $@

# About three minutes on two quiet cores, more than half of them for stage 2.
COHORT := $(DEMO)/cohort --subjects 6 --minutes 0.4 --run rfMRI_REST1_LR

demo: setup
	@echo "1 of 4: simulate a cohort of six subjects (about 15 s)"
	$(BIN)/fmritok demo-data $(COHORT)
	@echo "2 of 4: encode its 198 volumes once, into a token store (about 70 s)"
	$(BIN)/fmritok tokenize --dataset demo --root $(DEMO)/cohort --store $(DEMO)/tokens.zarr --no-compile
	rm -rf $(DEMO)/training
	@echo "3 of 4: train a small Transformer on the tokens (about 25 s)"
	$(BIN)/fmritok train --store $(DEMO)/tokens.zarr --out $(DEMO)/training --recipe tiny \
		--set train.steps=80 --set train.validate_every=20
	@echo "4 of 4: decode tokens, compare the model with predicting the mean, draw (about 10 s)"
	$(BIN)/python tools/demo_page.py --cohort $(DEMO)/cohort \
		--store $(DEMO)/tokens.zarr --training $(DEMO)/training --out $(DEMO)/demo.png
	@echo "Look at $(DEMO)/demo.png. Next:"
	@echo "  $(BIN)/fmritok inspect --store $(DEMO)/tokens.zarr"
	@echo "  $(BIN)/fmritok catalog --dataset hcp --root FOLDER   # yours, in the layout of hcp, bids, ..."
	@echo "  make tokenize DATASET=hcp DATA_ROOT=FOLDER"
	@echo "  make train STORE=tokens.zarr"

# Three tasks with known effects on 60 simulated subjects: baselines, probes and fine-tuning beside
# permuted labels, and one report. Goes on where it stopped. MODELS= leaves the encoders out.
SCORES  ?= scores
MODELS  ?= probe finetune
TASKS   := demo-sex demo-age demo-task-states
RESULTS := $(foreach task,$(TASKS),$(foreach kind,baseline $(MODELS),$(SCORES)/$(task)-$(kind)))
OF_TASK  = --store $(SCORES)/tokens.zarr --task $* --out $(@D) --seeds 2

scores: $(RESULTS:%=%/scores.json)
	$(BIN)/fmritok report --store $(SCORES)/tokens.zarr --training $(SCORES)/training \
		$(RESULTS:%=--scores %) --out $(SCORES)/report.html

$(SCORES)/.tokenized: | setup
	$(BIN)/fmritok demo-data $(SCORES)/cohort --subjects 60
	$(BIN)/fmritok tokenize --dataset demo --root $(SCORES)/cohort --store $(SCORES)/tokens.zarr \
		--tokenizer network --tokenizer flatmap
	touch $@

$(SCORES)/.trained: $(SCORES)/.tokenized
	$(BIN)/fmritok train --store $(SCORES)/tokens.zarr --group network --recipe tiny \
		--set data.window=30 --set objective.masking=random --steps 300 \
		$(if $(wildcard $(SCORES)/training/checkpoints/*),--resume,--out) $(SCORES)/training
	touch $@

$(SCORES)/%-baseline/scores.json: $(SCORES)/.trained
	$(BIN)/fmritok baseline $(OF_TASK) --kind connectivity --kind dummy

$(SCORES)/%-probe/scores.json: $(SCORES)/.trained
	$(BIN)/fmritok probe $(OF_TASK) --from $(SCORES)/training --untrained --pool cells \
		--head linear --head attentive --head knn --attentive-epochs 10 --attentive-steps 10

$(SCORES)/%-finetune/scores.json: $(SCORES)/.trained
	$(BIN)/fmritok finetune $(OF_TASK) --from $(SCORES)/training --control

tokenize: setup
	@test -n "$(DATASET)" || { echo "usage: make tokenize DATASET=hcp DATA_ROOT=FOLDER (or DATASET=demo)"; exit 2; }
	@test -n "$(DATA_ROOT)" || test "$(DATASET)" = demo || { echo "DATASET=$(DATASET) needs DATA_ROOT=FOLDER"; exit 2; }
	$(if $(DATA_ROOT),,$(BIN)/fmritok demo-data $(COHORT))
	$(BIN)/fmritok tokenize --dataset $(DATASET) --root $(or $(DATA_ROOT),$(DEMO)/cohort) --store $(STORE) $(ARGS)

train: setup
	$(BIN)/fmritok train --store $(STORE) $(ARGS)

# Two at a time, each module's tests in one process. What is slow, and larger samples of
# crashes and damages, are for .ci/run.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: setup
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: setup
	$(PYTEST) -m slow $(ARGS)
	FMRITOK_EXAMPLES=20 $(PYTEST) --cases 3 tests/store/test_crashes.py tests/store/test_damage.py \
		tests/store/test_hostile_stores.py tests/record/test_crashes.py tests/record/test_damage.py

# Brainmarks wants an older setuptools than the one that builds our wheel. It is installed without it
# into an environment that borrows the packages of $(VENV): 250 MB, half a minute.
BRAINMARKS := .venv-brainmarks

test-brainmarks: setup
	$(PYTHON) -m venv $(BRAINMARKS)
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		> $$($(BRAINMARKS)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/borrowed.pth
	$(BRAINMARKS)/bin/python -m pip install --quiet $(PIP_ARGS) --no-deps brainmarks==0.1.1 -e .
	$(BRAINMARKS)/bin/python -m pip install --quiet $(PIP_ARGS) cloudpathlib datasets einops gdown \
		omegaconf pycortex tabulate templateflow wandb
	$(BRAINMARKS)/bin/python -m pytest -m slow tests/brainmarks tests/probing/test_attentive.py $(ARGS)

parity: setup   # compares with figures of the published code, and writes README's table and docs/parity.md
	$(BIN)/python benchmarks/parity.py

lint: setup   # deptry compares imports with pyproject.toml; the second run has the dev extra, too
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m deptry . --extend-exclude 'benchmarks|tools'
	$(BIN)/python -m deptry tests tests/support tests/support/material tests/harness benchmarks/speed benchmarks/on_gpu benchmarks/learning tools tools/dcae_tiny \
		--ignore DEP002,DEP004 --per-rule-ignores DEP001=brainmarks --exclude benchmarks/speed/layouts.py
	rm -rf .layers && mkdir -p .layers/fmritok && cp -r pipeline tokenizers trainer fmritok/. .layers/fmritok/
	touch .layers/fmritok/tokenizers/__init__.py
	cd .layers && PYTHONPATH=. $(abspath $(BIN))/lint-imports ../pyproject.toml

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: setup   # mypy does not see an editable install: .typing/ links the folders for it
	mkdir -p .typing/fmritok
	for p in pipeline tokenizers trainer fmritok/*.py fmritok/hub fmritok/pictures fmritok/report; do \
	  ln -sfn ../../$$p .typing/fmritok/$$(basename $$p); done
	$(BIN)/python -m mypy

bench: export PYTHONSAFEPATH :=   # benchmarks import one another
bench: setup   # what it prints is kept in docs/benchmarks.txt
	for run in "vae.py --weights dcae-tiny" "vae.py --weights full --volumes 1 --repeats 1 --compile" \
	  "precision.py --weights dcae-tiny" "precision.py --weights full --every 96 --no-storage" \
	  "memory.py --frames 600" series.py catalog.py scale.py integrity.py "streaming.py --rounds 5"; \
	do echo "$$ python benchmarks/speed/$$run"; $(BIN)/python -u benchmarks/speed/$$run; echo; \
	done | tee docs/benchmarks.txt

dcae-tiny: export PYTHONSAFEPATH :=   # its scripts import one another
dcae-tiny: setup   # trains the embedded autoencoder again, and measures it into its model card
	$(BIN)/python tools/dcae_tiny/train.py --out tokenizers/vae/dcae_tiny $(ARGS)
	$(BIN)/python tools/dcae_tiny/card.py

clean:
	rm -rf $(BRAINMARKS) build dist *.egg-info .layers .typing .mypy_cache .ruff_cache .pytest_cache $(DEMO)
