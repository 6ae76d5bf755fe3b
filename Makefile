# Two commands: `make demo` shows the main job end to end, `make test` sets up and tests everything.
# Needs JDK 17 or later, Maven and Python 3.11. Every step leaves a stamp, so repeats are fast.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := build/stamps
,      := ,
SCALA  := $(shell find listeners/src -type f 2>/dev/null) listeners/pom.xml
JAR    := phoebe_spark/jars/phoebe-spark_2.13-0.1.0.jar
# Gone with what Maven has made: then it is made again, whatever jar is there.
MADE   := listeners/target/made
# Maven ends with escape codes, on a terminal or not; each JVM says which options it was given.
MVN    := mvn -q -B -f listeners/pom.xml
PLAIN  := 2>&1 | sed "s/$$(printf '\033')\[[0-9;]*m//g;/^NOTE: Picked up JDK_JAVA_OPTIONS:/d"
SF     ?= 1
NAME   ?= all
TRIALS ?= 200
SEED   ?= 20210711
SUITES ?= default
# Two test files at a time: most of a small application's time is its JVM starting on one core. The
# longest come first (tests/conftest.py).
TWO    := -n 2 --dist loadfile --no-loadscope-reorder --durations=8
# JVMs that live for a minute need no optimizing compiler (tests/support/jvm.py). Two collectors are
# one too many: where the environment has options they choose.
SHORT  := JDK_JAVA_OPTIONS="-XX:TieredStopAtLevel=1 $${JDK_JAVA_OPTIONS:--XX:+UseSerialGC}"

# Runs a part: what it is, and the command. Says how long it took, whether it passed or not. An old
# make (3.81) has no .SHELLFLAGS: each recipe with a pipe says itself that a failure before it counts.
define part
@set -o pipefail; printf '== %s\n' "$(1)"; start=$$(date +%s); ( $(2) ); code=$$?; \
  printf '== %s: %d s\n' "$(1)" $$(($$(date +%s) - start)); exit $$code
endef

SHELL := bash
export SPARK_LOCAL_IP ?= 127.0.0.1

.DEFAULT_GOAL := help
.PHONY: help setup jar lint format unit one watch spark faults real scala test test-stores suites demo
.PHONY: bench nightly wheel clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMPS)/venv $(JAR) ## virtual environment in .venv, dependencies, jar

$(STAMPS)/venv: pyproject.toml constraints.txt
	@mkdir -p $(STAMPS)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call part,virtual environment and dependencies,$(BIN)/python -m pip install -q \
	  --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[spark$(,)train$(,)demo$(,)dev]')
	@touch $@

jar: $(JAR) ## the plugin's jar (Maven), copied into the Python package

# Classes of sources that are gone would stay, and be shipped and tested.
$(MADE): $(SCALA)
	@rm -rf listeners/target/classes listeners/target/test-classes
	$(call part,jar,$(MVN) package -DskipTests $(PLAIN))
	@touch $@

$(JAR): $(MADE)
	@mkdir -p $(@D)
	@rm -f $(@D)/*.jar
	@cp listeners/target/$(@F) $@
	@touch $@

LINT = $(BIN)/ruff check . && $(BIN)/ruff format --check -q . && $(BIN)/mypy \
  && PYTHONPATH=.:training $(BIN)/lint-imports --no-logo --no-cache \
  && $(SHORT) $(MVN) spotless:check $(PLAIN)

lint: $(STAMPS)/venv ## ruff, mypy, who may import what, scalafmt
	$(call part,lint,$(LINT))

format: $(STAMPS)/venv ## formats Python and Scala
	@$(BIN)/ruff check -q --fix . && $(BIN)/ruff format -q .
	@set -o pipefail; $(MVN) spotless:apply $(PLAIN)

unit: setup ## tests that never start Spark
	$(call part,unit tests,$(BIN)/python -m pytest -q $(TWO) tests/unit)

one: setup ## one test, file or folder: make one T=tests/unit/test_session.py, or T='*PackSuite'
	@set -o pipefail; case "$(T)" in \
	  tests/*) $(BIN)/python -m pytest -q "$(T)";; \
	  *) $(MVN) test -Dscala.recompile=incremental -Dsuites="$(T)" $(PLAIN);; \
	esac

watch: $(STAMPS)/venv ## what failed last, or else all unit tests, at each change of a Python file
	@$(BIN)/watchfiles --filter python "$(BIN)/python -m pytest -q $(TWO) --lf tests/unit" \
	  phoebe_spark training tests benchmarks

# What they need was compiled with the jar: setup has made it where $(MADE) was not.
scala: setup ## the JVM side's own tests
	$(call part,scala tests,$(SHORT) $(MVN) org.scalatest:scalatest-maven-plugin:test $(PLAIN))

$(STAMPS)/classes: $(STAMPS)/venv
	$(call part,archive of Spark's classes,$(BIN)/python -m tests.support.jvm $@ $(PLAIN))

spark: setup $(STAMPS)/classes ## tests on a real Spark
	$(call part,spark tests,$(BIN)/python -m pytest -q $(TWO) tests/spark)

faults: setup $(STAMPS)/classes ## tests that kill things
	$(call part,fault tests,$(BIN)/python -m pytest -q $(TWO) tests/faults)

real: setup $(STAMPS)/classes ## both of these, side by side
	$(call part,tests on a real Spark,$(BIN)/python -m pytest -q $(TWO) tests/spark tests/faults)

test-stores: setup $(STAMPS)/stores ## checkpoints on a real HDFS and a real S3 server (needs Go)
	$(call part,tests of other stores,$(BIN)/python -m pytest -q tests/stores)

$(STAMPS)/stores: tests/stores/pom.xml
	@echo "== servers and clients of other stores"
	@mkdir -p $(STAMPS)
	@set -o pipefail; mvn -q -B -f $< -Phdfs dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/build/stores $(PLAIN)
	@set -o pipefail; mvn -q -B -f $< -Ps3 dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/build/stores-s3 $(PLAIN)
	@GOBIN=$(CURDIR)/build/stores-s3 go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
	@touch $@

suites: setup ## Spark's own tests without us, writing, restoring (SUITES=all, or names)
	@$(BIN)/python -m benchmarks suites --choice "$(SUITES)"

test: setup lint unit scala real ## everything; what .ci/run calls
	@echo "== all passed"

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
	@$(BIN)/python -m build --wheel --no-isolation -o dist . >/dev/null
	@ls dist/*.whl

clean: ## what was built; .venv and downloaded data stay
	@rm -rf build/stamps build/jvm build/demo build/bench build/exactness build/suites dist listeners/target phoebe_spark/jars
