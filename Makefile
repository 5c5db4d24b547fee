# make setup   a virtual environment in .venv with fpo_ros in it (PYTHON=/path/to/python3 chooses the interpreter)
# make demo    the main job: demonstrations, training, release, the running graph (QUICK=1: smaller numbers)
# make test    every test
# make results what docs/results.md shows, row after row (hours; resumable; ARGS='awr ppo --jobs 2': some rows, seeds side by side)
# make lint    ruff

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test results lint clean force

# A sourced ROS 2 distribution, or a virtual environment in use, would mix its packages with those of .venv. What says
# with whom to talk stays.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH
unexport RMW_IMPLEMENTATION _ROS_WHEELS_BOOTSTRAP_COMPLETE PIP_USER PIP_TARGET PIP_PREFIX
DISCOVERY := ROS_DOMAIN_ID ROS_AUTOMATIC_DISCOVERY_RANGE ROS_LOCALHOST_ONLY ROS_STATIC_PEERS
unexport $(filter-out $(DISCOVERY),$(filter ROS_%,$(.VARIABLES)))
# Dozens of processes import the same modules: what one has compiled is there for the others.
unexport PYTHONDONTWRITEBYTECODE

# Programs write below the clone: logs, caches and temporary files (pip keeps its own cache).
RUN = cache="$$(pwd -P)/.cache" && mkdir -p "$$cache/tmp" && env ROS_HOME="$$cache/ros" ROS_LOG_DIR="$$cache/ros/log" \
  MPLCONFIGDIR="$$cache/matplotlib" XDG_CACHE_HOME="$$cache" TMPDIR="$$cache/tmp" ORT_DISABLE_TELEMETRY=1 \
  PIP_CACHE_DIR="$${PIP_CACHE_DIR:-$${XDG_CACHE_HOME:-$$HOME/.cache}/pip}"

SOURCES := pyproject.toml setup.py constraints.txt CMakeLists.txt package.xml .ci/setup \
  $(wildcard cmake/*.cmake cmake/*.in msg/*.msg srv/*.srv action/*.action launch/*.py config/*.* \
    hardware/interbotix_xs_msgs/*.* hardware/interbotix_xs_msgs/*/*.*)

# Set-up is repeated where .venv does not start any more, the clone was moved, or another Python is asked for.
REPAIR := $(if $(filter setup demo test results lint,$(MAKECMDGOALS)),$(shell PYTHON='$(PYTHON)' .ci/setup --check || echo force))

help:
	@sed -n 's/^# //p' Makefile | head -5

setup: .venv/setup.stamp

.venv/setup.stamp: $(SOURCES) $(REPAIR)
	@PYTHON='$(PYTHON)' .ci/setup

demo: setup
	@$(RUN) .venv/bin/fpo-ros demo $(if $(filter-out 0,$(QUICK)),--quick) $(ARGS)

test: setup
	@$(RUN) .ci/test $(ARGS)

results: setup
	@$(RUN) .venv/bin/fpo-ros results run $(ARGS)
	@$(RUN) .venv/bin/fpo-ros results page

lint: setup
	@$(RUN) .venv/bin/ruff check

clean:
	rm -rf build install log dist *.egg-info .cache .venv
