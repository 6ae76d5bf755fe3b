# Two commands: `make demo` shows the main job end to end, `make test` sets up and tests everything.
# Needs JDK 17 or later, Maven and Python 3.11. Every step leaves a stamp, so repeats are fast.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := build/stamps
SCALA  := $(shell find listeners/src -type f 2>/dev/null) listeners/pom.xml
JAR    := phoebe_spark/jars/phoebe-spark_2.13-0.1.0.jar
MVN    := mvn -q -B -f listeners/pom.xml
SF     ?= 1
NAME   ?= all
TRIALS ?= 200
SEED   ?= 20210711
SUITES ?= default
# Two test files at a time: most of a small application's time is its JVM starting on one core.
TWO    := -n 2 --dist loadfile --durations=8
say     = @printf '\033[1m== %s\033[0m\n' "$(1)"

export SPARK_LOCAL_IP ?= 127.0.0.1

.DEFAULT_GOAL := help
.PHONY: help setup jar lint format unit one watch spark faults scala test test-stores suites demo bench nightly
.PHONY: wheel clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMPS)/venv $(JAR) ## virtual environment in .venv, dependencies, jar

$(STAMPS)/venv: pyproject.toml constraints.txt
	$(call say,virtual environment and dependencies)
	@mkdir -p $(STAMPS)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --progress-bar off \
	  -c constraints.txt -e '.[spark,train,demo,dev]'
	@touch $@

jar: $(JAR) ## the plugin's jar (Maven), copied into the Python package

$(JAR): $(SCALA)
	$(call say,jar)
	@mkdir -p $(@D)
	@$(MVN) package -DskipTests
	@rm -f $(@D)/*.jar
	@cp listeners/target/$(@F) $@
	@touch $@

lint: $(STAMPS)/venv ## ruff, mypy, who may import what, scalafmt
	$(call say,lint)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/mypy
	@PYTHONPATH=.:training $(BIN)/lint-imports --no-logo --no-cache
	@$(MVN) spotless:check

format: $(STAMPS)/venv ## formats Python and Scala
	@$(BIN)/ruff check -q --fix . && $(BIN)/ruff format -q .
	@$(MVN) spotless:apply

unit: setup ## tests that never start Spark
	$(call say,unit tests)
	@$(BIN)/python -m pytest -q $(TWO) tests/unit

one: setup ## one test, file or folder: make one T=tests/unit/test_session.py, or T='*PackSuite'
	@case "$(T)" in \
	  tests/*) $(BIN)/python -m pytest -q "$(T)";; \
	  *) $(MVN) test -Dscala.recompile=incremental -Dsuites="$(T)";; \
	esac

watch: $(STAMPS)/venv ## what failed last, or else all unit tests, at each change of a Python file
	@$(BIN)/watchfiles --filter python "$(BIN)/python -m pytest -q --lf tests/unit" \
	  phoebe_spark training tests benchmarks

scala: setup ## the JVM side's own tests
	$(call say,scala tests)
	@$(MVN) test

spark: setup ## tests on a real Spark
	$(call say,spark tests)
	@$(BIN)/python -m pytest -q $(TWO) tests/spark

faults: setup ## tests that kill things
	$(call say,fault tests)
	@$(BIN)/python -m pytest -q $(TWO) tests/faults

test-stores: setup $(STAMPS)/stores ## checkpoints on a real HDFS and a real S3 server (needs Go)
	$(call say,tests of other stores)
	@$(BIN)/python -m pytest -q tests/stores

$(STAMPS)/stores: tests/stores/pom.xml
	$(call say,servers and clients of other stores)
	@mkdir -p $(STAMPS)
	@mvn -q -B -f $< -Phdfs dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/build/stores
	@mvn -q -B -f $< -Ps3 dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/build/stores-s3
	@GOBIN=$(CURDIR)/build/stores-s3 go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
	@touch $@

suites: setup ## Spark's own tests without us, writing, restoring (SUITES=all, or names)
	$(call say,Spark's own suites: $(SUITES))
	@$(BIN)/python -m benchmarks suites --choice "$(SUITES)"

test: setup lint unit scala spark faults ## everything; what .ci/run calls
	$(call say,all passed)

demo: setup ## the main job end to end, at most ten minutes (SF= changes the scale)
	@$(BIN)/python -m benchmarks.demo --sf $(SF)

bench: setup ## the figures of the README (NAME= for one)
	@$(BIN)/python -m benchmarks $(NAME)

nightly: test test-stores ## all tests, those marked nightly too, benches, more faults (TRIALS= SEED=)
	@$(BIN)/python -m pytest -q --nightly -m nightly tests || test $$? -eq 5  # 5: none is marked
	@$(BIN)/python -m benchmarks all
	@$(BIN)/python -m benchmarks faults --repeats $(TRIALS) --seed $(SEED)
	@$(MAKE) suites SUITES=all
	@$(BIN)/python -m tests.exactness fuzz --pairs 3000 --minutes 480 --seed today
	@$(BIN)/python -m tests.exactness mendings --seed $(SEED)

wheel: $(STAMPS)/venv jar ## dist/*.whl, with the jar inside
	$(call say,wheel)
	@$(BIN)/python -m build --wheel --no-isolation -o dist . >/dev/null
	@ls dist/*.whl

clean: ## what was built; .venv and downloaded data stay
	@rm -rf build/stamps build/demo build/bench build/exactness build/suites dist listeners/target phoebe_spark/jars
