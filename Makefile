PYTHON ?= python3
UV_VERSION := 0.13.9
CYCLONEDX_VERSION := 7.5.0

VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
BUILDER ?= docker
WORKERS ?= 2
RAY ?= <3
# Processes that run tests. Those that start Ray stay in one and run first: they take longest.
QUICK = $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder -m "not slow and not gpu"
IMAGES := cpu gpu submitter
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(or $(shell git rev-parse HEAD 2>/dev/null),unknown)
# The stamp's name holds a checksum of what the environment is made from: change either file and set-up runs again.
STAMP := $(VENV)/.setup-$(shell cat requirements.lock pyproject.toml | cksum | cut -d ' ' -f 1)

HELM := $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),$(VENV)/.helm-$(shell cksum < tests/k8s/helm.txt | cut -d ' ' -f 1))

MAKEFLAGS += --no-print-directory
unexport PYTHONDONTWRITEBYTECODE # tests start hundreds of processes: without bytecode each compiles torch and Ray
.DEFAULT_GOAL := help
.PHONY: help setup demo data-emoji test test-slow test-ray coverage lint format lock bench gpu docs docs-site figures wheel try-wheel sbom notes image k8s-overlays k8s-validate clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) $(HELM) ## make .venv from requirements.lock (does nothing when it is up to date)
	@:

$(UV):
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check uv==$(UV_VERSION)

$(STAMP): | $(UV)
	@echo "setting up $(VENV) from requirements.lock"
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.setup-* && touch $@

$(VENV)/.helm-%: | $(UV)
	@rm -rf $(VENV)/helm $(VENV)/.helm-* && $(UV) pip install --quiet --python $(BIN)/python --target $(VENV)/helm \
		--no-deps --require-hashes -r tests/k8s/helm.txt
	@tar -xOzf $(VENV)/helm/aws_cdk/*/_jsii/*.jsii.tgz package/lib/layer.zip > $(VENV)/helm/layer.zip
	@$(BIN)/python -m zipfile -e $(VENV)/helm/layer.zip $(VENV)/helm/layer
	@install -m 755 $(VENV)/helm/layer/helm/helm $(BIN)/helm && rm -r $(VENV)/helm && touch $@

demo: setup ## train a small GAN on the bundled MNIST, write its report and name commands to try next
	@$(BIN)/python -m ganscale.train configs/mnist_demo.yaml
	@printf '  report       ' && $(BIN)/python -m ganscale.report runs/mnist_demo
	@printf '%s\n' 'to try next:' \
		'  $(BIN)/python -m ganscale.sample runs/mnist_demo --nearest 5  # samples beside the most similar training images' \
		'  $(BIN)/python -m ganscale.evaluate runs/mnist_demo  # scores beside those of real digits' \
		'  $(BIN)/python -m ganscale.train  # the GAN of the textbooks, to compare' \
		'  $(BIN)/python -m ganscale.tune configs/sweeps/gaussians.yaml --dry-run  # what a sweep searches'

data-emoji: setup ## install Noto's emoji from npm (Apache-2.0) and prepare them in data/emoji_32 and data/emoji_64
	@$(BIN)/python -m benchmarks.emoji data

test: setup ## run the quick tests in two processes; WORKERS=8 for more
	@$(QUICK)

test-slow: setup ## run the slow tests
	@$(BIN)/python -m pytest -m slow

test-ray: | $(UV) ## run the quick tests of launch/ and sweep/ with the newest Ray, in .venv-ray; RAY===2.59.0 for another
	@$(PYTHON) -m venv .venv-ray
	@$(UV) pip install --quiet --python .venv-ray/bin/python --require-hashes -r requirements.lock
	@$(UV) pip install --quiet --python .venv-ray/bin/python --upgrade-package ray "ray[default,train,tune]$(RAY)"
	@$(UV) pip install --quiet --python .venv-ray/bin/python --no-deps --no-build-isolation -e .
	@.venv-ray/bin/python -c "import ray; print('Ray', ray.__version__)"
	@.venv-ray/bin/python -m pytest -m "not slow and not gpu" tests/launch tests/sweep tests/integration tests/test_tune.py

coverage: setup ## run the quick tests and show which lines they leave out; at least 90 % must be covered
	@$(QUICK) --cov --cov-report=term-missing:skip-covered

lint: setup ## check style, format and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@PYRIGHT_PYTHON_GLOBAL_NODE=0 PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

format: setup ## fix style and format
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

lock: | $(UV) ## resolve the dependencies of pyproject.toml anew
	@$(UV) pip compile --quiet --upgrade --universal --generate-hashes --no-annotate --no-emit-index-url \
		--custom-compile-command "make lock" --python-version 3.11 --extra dev -o requirements.lock pyproject.toml
	@$(UV) pip compile --quiet --upgrade --universal --generate-hashes --no-annotate --no-emit-index-url \
		--custom-compile-command "make lock" --python-version 3.11 --group docs -o docs/requirements.lock

bench: setup ## measure training throughput
	@$(BIN)/python -m benchmarks.speed

gpu: setup ## measure and check the GPU of this machine in about seven minutes; resumes what gpu.json lacks
	@$(BIN)/python -m benchmarks.gpu

docs: setup ## bring the pages that are made from the code up to date
	@mkdir -p docs && $(BIN)/python -m ganscale.config.reference > docs/.config.md && mv docs/.config.md docs/config.md
	@$(BIN)/python -m docs.tools.reference

docs-site: | $(UV) ## build the documentation site in site/, in an environment of its own, .venv-docs
	@test -d .venv-docs || $(PYTHON) -m venv .venv-docs
	@$(UV) pip sync --quiet --python .venv-docs/bin/python --require-hashes docs/requirements.lock
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict --clean

figures: setup ## draw the figures of README.md from benchmarks/figures/; FRESH=1 runs what they show, minutes on two cores
	@$(BIN)/python -m benchmarks.figures $(if $(FRESH),--fresh)

wheel: setup ## build dist/*.whl and dist/*.tar.gz, the same bytes from the same commit
	@rm -rf build dist
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} \
		$(UV) build --quiet --no-build-isolation --python $(BIN)/python --out-dir dist .

try-wheel: wheel ## install dist/*.whl into an empty environment, .venv-wheel, and use it without the repository
	@rm -rf .venv-wheel && $(PYTHON) -m venv .venv-wheel
	@$(UV) pip install --quiet --python .venv-wheel/bin/python -c requirements.lock dist/*.whl
	@.ci/try-wheel .venv-wheel

sbom: | $(UV) ## write dist/sbom.json, the packages of requirements.lock in CycloneDX's format
	@mkdir -p dist && $(UV) tool run --quiet --from cyclonedx-bom==$(CYCLONEDX_VERSION) cyclonedx-py requirements \
		--pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.json requirements.lock

notes: ## print what CHANGELOG.md says of this version; fails if it has no section for it
	@grep -qF '## [$(VERSION)] - ' CHANGELOG.md || { echo 'CHANGELOG.md has no section "## [$(VERSION)] - DATE"' >&2; exit 1; }
	@awk -v head='## [$(VERSION)]' 'index($$0, "## [") == 1 {on = index($$0, head) == 1; next} on' \
		CHANGELOG.md

image: ## build the container images; IMAGES=cpu one alone, BUILDER=buildah without docker, BASE=... from another base
	@for image in $(IMAGES); do \
		$(BUILDER) build $(if $(BASE),--build-arg BASE=$(BASE)) --file cluster/Dockerfile --target $$image \
			--label org.opencontainers.image.version=$(VERSION) --label org.opencontainers.image.revision=$(REVISION) \
			--tag ganscale-$$image:$(VERSION) . || exit 1; \
	done

k8s-overlays: setup ## make k8s/overlays, k8s/monitoring and docs/clusters_table.md from k8s/chart
	@$(BIN)/python -m tests.k8s.chart
	@$(BIN)/python -m tests.k8s.clusters

k8s-validate: setup ## render the chart and k8s/overlays and check them against schemas and our policies
	@$(BIN)/python -m pytest tests/k8s

clean: ## remove the environment and caches (runs/ stays)
	@rm -rf $(VENV) .venv-docs .venv-ray .venv-wheel build site dist *.egg-info .coverage* .pytest_cache .ruff_cache
	@find ganscale tests -name __pycache__ -type d -prune -exec rm -rf {} +
