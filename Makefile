# make setup   a virtual environment in .venv with fpo_ros in it
# make demo    the main job: demonstrations, training, release, the running graph (QUICK=1: smaller numbers)
# make test    every test
# make lint    ruff

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint clean

# A sourced ROS 2 distribution, or a virtual environment in use, would mix its packages with those of .venv.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH
unexport RMW_IMPLEMENTATION _ROS_WHEELS_BOOTSTRAP_COMPLETE $(filter ROS_%,$(.VARIABLES))

# Programs write below the clone: logs, caches and temporary files (pip keeps its own cache).
CACHE := $(CURDIR)/.cache
RUN := mkdir -p $(CACHE)/tmp && env ROS_HOME=$(CACHE)/ros ROS_LOG_DIR=$(CACHE)/ros/log MPLCONFIGDIR=$(CACHE)/matplotlib \
  XDG_CACHE_HOME=$(CACHE) TMPDIR=$(CACHE)/tmp PIP_CACHE_DIR=$${PIP_CACHE_DIR:-$${XDG_CACHE_HOME:-$$HOME/.cache}/pip}

SOURCES := pyproject.toml setup.py constraints.txt CMakeLists.txt package.xml .ci/setup \
  $(wildcard cmake/* msg/*.msg srv/*.srv action/*.action launch/* config/* \
    hardware/interbotix_xs_msgs/* hardware/interbotix_xs_msgs/*/*)

help:
	@sed -n 's/^# //p' $(firstword $(MAKEFILE_LIST)) | head -4

setup: .venv/setup.stamp

.venv/setup.stamp: $(SOURCES)
	@mkdir -p $(CACHE)/tmp && TMPDIR=$(CACHE)/tmp .ci/setup
	@touch $@

demo: setup
	@$(RUN) .venv/bin/fpo-ros demo $(if $(filter-out 0,$(QUICK)),--quick) $(ARGS)

test: setup
	@$(RUN) .venv/bin/python -m pytest -n 2 --dist loadfile -m 'not serial' $(ARGS)
	@$(RUN) .venv/bin/python -m pytest -m serial $(ARGS)

lint: setup
	@$(RUN) .venv/bin/ruff check

clean:
	rm -rf build install log .cache .venv
