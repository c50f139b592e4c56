# The front door. CMake does the building; `make help` lists what there is.
config ?= release
DEPS ?= 1
CUDA ?= AUTO
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
CMAKE_FLAGS ?=
PROMPT ?= It was a dark night, and
FUZZ_SECONDS ?= 60

build_release := build
build_debug := build-debug
build_sanitize := build-sanitize
build_thread := build-thread
flags_release := -DCMAKE_BUILD_TYPE=Release
flags_debug := -DCMAKE_BUILD_TYPE=Debug
flags_sanitize := -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCF_SANITIZE=address,undefined
flags_thread := -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCF_SANITIZE=thread

# Under ThreadSanitizer, as much as takes minutes. What tests/cli runs has no threads but those of
# the CPU backend, which the C programs try.
load_thread := --requests 2000 --threads 2
test_thread := --without tests/cli
LOAD ?= $(load_$(config))

BUILD := $(build_$(config))
ifeq ($(BUILD),)
$(error config=$(config): expected release, debug, sanitize or thread)
endif

.PHONY: help
help: ## list the targets
	@echo "make TARGET [config=release|debug|sanitize|thread] [DEPS=0] [CUDA=AUTO|ON|OFF] [PREFIX=$(PREFIX)]"
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 12
	@echo
	@echo "DEPS=0 does not look for missing Debian packages; CMAKE_FLAGS='-D…' is passed on."

.PHONY: run
run: build ## build, and write text with the bundled model
	$(BUILD)/bin/clusterfusion generate --prompt "$(PROMPT)" --max-tokens 160 \
	    --temperature 0.7 --top-p 0.95 --seed 7

.PHONY: test
test: packages-test build ## build, and run every test that can run on this machine
	tools/run-tests $(BUILD) $(test_$(config))

.PHONY: load
load: packages-load build ## build, and put the server under a LOAD whose answers are checked
	tools/run-tests $(BUILD) --load="$(LOAD)"

.PHONY: build
build: configure ## build everything
	@cmake --build $(BUILD) --parallel $(JOBS)

.PHONY: configure
configure: packages-build $(if $(filter thread,$(config)),packages-thread)
	@cmake -S . -B $(BUILD) $(flags_$(config)) -DCF_CUDA=$(CUDA) -DCMAKE_INSTALL_PREFIX=$(PREFIX) \
	    -DCF_TESTS=$(if $(filter test,$(MAKECMDGOALS)),ON,OFF) $(CMAKE_FLAGS) >$(BUILD)-configure.log 2>&1 || \
	    { cat $(BUILD)-configure.log >&2; exit 1; }

.PHONY: packages-%
packages-%:
	@if [ "$(DEPS)" != 0 ]; then tools/install-packages $*; fi

.PHONY: bench
bench: build ## measure the bundled model on this machine
	$(BUILD)/bin/clusterfusion bench

.PHONY: install
install: build ## install under PREFIX
	cmake --install $(BUILD)

.PHONY: format
format: packages-lint ## lay out the C files as .clang-format says
	git ls-files -z '*.c' '*.h' '*.cu' '*.cuh' | xargs -0 clang-format -i

.PHONY: lint
lint: packages-lint ## layout, direction of includes, clang-tidy, cppcheck
	tools/lint

.PHONY: fuzz
fuzz: packages-lint packages-build ## run each fuzz target for FUZZ_SECONDS
	tools/fuzz $(FUZZ_SECONDS)

.PHONY: clean
clean: ## remove what was built
	rm -rf build build-*
