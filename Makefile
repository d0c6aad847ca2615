# Every target works as the first command in a fresh clone.
#
#   make serve                       install, then serve on 5555 and 5556, and HTTP on 8125
#   make serve ARGS="-num_worker 2"  ... with options of bert-serving-start
#   make test                        install, then run all tests
#   make chaos                       install, then break what can break for half a minute, and check every answer
#   make chaos ARGS="--seconds 3600" ... for an hour
#   make peers                       install, then compare with what a user would take instead; see docs/peers.md
#   make docs                        install, then make the documentation's site in build/docs
#   make fuzz                        install, then send hostile input to every door for a minute, beside ordinary clients
#   make fuzz ARGS="--messages 5000000"  ... so many messages
#   make PYTHON=python3.12 test      ... with that Python

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
TOOLS := $(VENV)/tools-installed
# What pip compiles into the server's package; a change makes it do so again.
NATIVE := server/setup.py server/native/variants.py $(wildcard server/native/*.cpp server/native/*.h)
ARGS ?=

.PHONY: help serve test chaos fuzz peers lint install docs docs-links docs-options docs-models clean

help:
	@echo "make serve         start a server on ports 5555 and 5556, HTTP on 8125; options: ARGS=\"-num_worker 2\""
	@echo "make test          run all tests; a part of them: ARGS=tests/client"
	@echo "make chaos         try to break it, half a minute; an hour: ARGS=\"--seconds 3600\"; see docs/faults.md"
	@echo "make peers         compare with what a user would take instead; ARGS=--help shows the options"
	@echo "make fuzz          hostile input for every door, a minute; more: ARGS=\"--messages 5000000\"; see docs/security.md"
	@echo "make lint          check style and types"
	@echo "make docs          make the documentation's site: build/docs/index.html"
	@echo "make docs-links    ask every address that it links to; needs the network"
	@echo "make docs-options  write docs/reference/options.md anew"
	@echo "make docs-models   write docs/models.md anew"
	@echo "make install       create $(VENV) with everything; the others do that first where it is needed"
	@echo "make clean         remove what the others made"

serve: $(INSTALLED)
	exec $(BIN)/bert-serving-start -http_port 8125 $(ARGS)

test: $(TOOLS)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: $(TOOLS)
	cd tests && ../$(BIN)/python -m chaos $(ARGS)

peers: $(TOOLS)
	$(BIN)/python -m tools.peers $(ARGS)

fuzz: $(TOOLS)
	$(BIN)/python -m tests.fuzz $(ARGS)

lint: $(TOOLS)
	$(BIN)/python -m flake8
	$(BIN)/python -m mypy --strict client/bert_serving
	$(BIN)/python -m mypy server/bert_serving
	$(BIN)/python -m mypy tools

install: $(TOOLS)

docs: $(TOOLS)
	$(BIN)/python -m sphinx -q -W --keep-going -E -a -b html docs build/docs
	@echo "the site is here: build/docs/index.html"

docs-links: $(TOOLS)
	$(BIN)/python -m sphinx -q -b linkcheck docs build/docs-links

docs-options: $(TOOLS)
	$(BIN)/python docs/options.py

docs-models: $(TOOLS)
	$(BIN)/python docs/models.py

# A stamp is newer than what it was made from, so that nothing is installed twice. To serve takes less than to work on it.
$(INSTALLED): client/pyproject.toml server/pyproject.toml $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable client --editable "server[cpu,http]"
	touch $@

$(TOOLS): $(INSTALLED) requirements.txt docs/requirements.txt
	$(BIN)/python -m pip install --editable "server[plot,bulk,ray,onnx]" --requirement requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .hypothesis build client/build server/build client/*.egg-info server/*.egg-info
	rm -f server/bert_serving/server/engine/native/*.so
	find client server tests tools docs example -name __pycache__ -type d -prune -exec rm -rf {} +
