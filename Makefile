# Firn. `make` builds bin/firn; `make demo` and `make test` need nothing but
# Go, a C compiler, make and the package registries.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
CACHE       ?= $(or $(FIRN_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/firn)
STORE       ?= file
FUZZTIME    ?= 30s
FUZZPKGS    ?= ./...
export FIRN_CACHE := $(CACHE)

.PHONY: build
build: ## static bin/firn
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/firn ./cmd/firn

.PHONY: demo
demo: build ## 3 million real records: produce, tier, replay, compare (STORE=file|minio)
	go run ./test/demo --store $(STORE)

DATA        ?=
.PHONY: cluster
cluster: build ## a cluster on this machine until Ctrl-C (BROKERS=3 DATA=folder to keep, a temporary one without)
	exec bin/firn dev --brokers $(BROKERS) $(if $(DATA),--data '$(DATA)')

.PHONY: test
test: build ## every test, with whatever they need installed or built first
	./test/run

ONLY        ?=
.PHONY: record-kafka
record-kafka: ## Apache Kafka's answers to the scenarios of test/kafkadiff, anew (ONLY=area/name); needs Java 17 and mvn
	go test ./test/kafkadiff -run '^TestRecord$$' -count=1 -timeout 60m -v -record -only '$(ONLY)'

.PHONY: record-java
record-java: build ## what Kafka's Java producer sends, for the tests of bytes, anew; needs Java 17 and mvn
	cp=$$(go run ./test/kafka/classpath) && cd test/clients && go test . -run '^TestRecordJavaProducer$$' -count=1 -v -java-classpath "$$cp"

AGAINST     ?= both
ONLY        ?=
OUTPUT      ?= text
.PHONY: test-clients
test-clients: build ## other people's suites against firn and Apache Kafka (AGAINST=firn|kafka|both ONLY=suite OUTPUT=text|json)
	go build -o bin/suites-run ./test/suites
	./bin/suites-run --against $(AGAINST) --only "$(ONLY)" --output $(OUTPUT)

SEED        ?= 1
STEPS       ?= 100000
OUT         ?= bin/walk
.PHONY: walk
walk: ## random requests to Apache Kafka and to Firn at once (SEED, STEPS); what differs is shrunk into OUT; needs Java 17 and mvn
	mkdir -p '$(OUT)'
	go test ./test/kafkadiff -run '^TestWalk$$' -count=1 -timeout 120m -v -seed $(SEED) -steps $(STEPS) -out '$(abspath $(OUT))'

MINUTES     ?= 10
BROKERS     ?= 3
REPLICAS    ?= 0
.PHONY: chaos
chaos: ## brokers and clients under kill -9, pauses, cut links and full disks, and the check of what was seen (SEED, a new one without; MINUTES, BROKERS, REPLICAS)
	CGO_ENABLED=1 go build -race -o bin/firn-race ./cmd/firn
	FIRNDEV_BIN=$(CURDIR)/bin/firn-race go test ./test/chaos -run '^TestChaos$$' -count=1 -timeout 0 -v -seed '$(if $(filter command line environment,$(origin SEED)),$(SEED),0)' -minutes $(MINUTES) -brokers $(BROKERS) -replicas $(REPLICAS)

.PHONY: test-machines
test-machines: ## machines booted for real from their user data, in namespaces, on both clouds; needs root, terraform and Debian's packages
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then for p in systemd-nspawn:systemd-container debootstrap:debootstrap; do \
	  command -v $${p%:*} >/dev/null || apt-get install -y -qq --no-install-recommends $${p#*:} >/dev/null; done; fi
	go test ./test/machines -count=1 -timeout 30m -v -machines

.PHONY: spec
spec: ## the replication protocol in TLA+ and what it loses without each of its guards (docs/spec.md); needs Java and mvn
	./spec/check
	dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	  go test ./broker/replica -run '^TestTraces$$' -count=1 -traces "$$dir" && ./spec/check --trace spec/example/Steps.tla "$$dir"/?.tla "$$dir"/1?.tla

ROUNDS      ?=
BENCH       ?= bin/bench
.PHONY: bench
bench: ## Firn, Apache Kafka and a bare server side by side, the small set in under 10 minutes (ROUNDS=3 BENCH=folder of the report); needs Java 17, mvn, npm
	go run ./bench/run -out '$(BENCH)' -rounds $(or $(ROUNDS),3) -limit 9m bench/workloads/small/*.yaml

.PHONY: bench-full
bench-full: ## the same with all workloads and ROUNDS=5: two to three hours, half an hour more for Nisshi the first time
	go run ./bench/run -out '$(BENCH)' -rounds $(or $(ROUNDS),5) bench/workloads/small/*.yaml bench/workloads/full/*.yaml

.PHONY: packages
packages: ## deb, rpm, OCI image, binaries, SBOM and checksums for amd64 and arm64, in bin/packages (docs/deploy.md)
	cd packaging/build && go run . -root '$(CURDIR)' -out '$(CURDIR)/bin/packages' -version '$(VERSION)'

.PHONY: test-packages
test-packages: build packages ## the packages installed, started, upgraded and removed in a Debian, the image run; needs root, debootstrap, systemd-container and rpm
	./packaging/build/need
	cd packaging/build && FIRNDEV_BIN='$(CURDIR)/bin/firn' go test . -count=1 -timeout 20m -v -packages '$(CURDIR)/bin/packages'

.PHONY: test-terraform
test-terraform: ## the Terraform modules against moto and a provider with Google's schemas, twenty minutes; needs terraform, the AWS provider (FIRN_TF_PLUGINS), python3, npm
	cd test/terraform && go vet ./... && go test . -count=1 -timeout 60m -v

.PHONY: lint
lint: ## gofmt, vet, golangci-lint
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not gofmt-ed:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	$$(./tools/build golangci-lint) run ./...

.PHONY: fuzz
fuzz: ## every fuzz target in turn, FUZZTIME each (FUZZPKGS=./broker/wire)
	@failed=; for pkg in $$(go list $(FUZZPKGS)); do \
	  for f in $$(go test -list '^Fuzz' $$pkg 2>/dev/null | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$f ($(FUZZTIME))"; \
	    go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 2s $$pkg || failed="$$failed $$f"; \
	  done; done; [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

.PHONY: generate
generate: ## everything that is generated
	go generate ./...

.PHONY: help
help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: clean
clean:
	rm -rf bin
