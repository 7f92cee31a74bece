# Caisson. `make run` and `make test` do all their set-up themselves.

SHELL       := /bin/bash
PREFIX      ?= /usr/local
DESTDIR     ?=
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT      ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
export CGO_ENABLED ?= 0
export PATH := $(PATH):/usr/local/go/bin:$(shell go env GOPATH 2>/dev/null)/bin:/usr/sbin:/sbin

# What `make run` needs beside Go, git and apt, and what `make test` adds: real
# peers and clients, a registry, a VMM, and a C compiler for the race detector.
RUN_DEPS  := ca-certificates procps isal qemu-system-x86 erofs-utils e2fsprogs
TEST_DEPS := $(RUN_DEPS) gcc libc6-dev busybox-static curl iproute2 iptables nftables \
             docker.io runc podman crun skopeo docker-registry python3-docker \
             debootstrap cpio zstd
GOLANGCI  := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

BINARIES := caisson caisson/caisson-compose caissond caisson-backend-linux caisson-backend-oci caisson-keeper caisson-init caisson-dns caisson-backend-vm caisson-vmshim
GUEST_PROGRAMS := caisson-guest caisson-init caisson-keeper
HELLO    := cmd/caissond/hello/data/hello.tar
LDFLAGS  := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.PHONY: deps
deps: ## Install what tests need from Debian (only what is missing)
	@scripts/deps $(TEST_DEPS)

.PHONY: build
build: $(HELLO) ## Build everything into bin/
	@mkdir -p bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./cmd/,$(BINARIES))
	@$(MAKE) --no-print-directory initrd

.PHONY: guest
guest: ## Build what virtual machines boot: a kernel (minutes, once) and an initramfs
	@scripts/guest-kernel bin/guest/vmlinux
	@$(MAKE) --no-print-directory initrd

# The same with Debian's kernel, which is there at once and boots half as fast.
.PHONY: guest-debian
guest-debian:
	@scripts/guest-kernel-debian bin/guest/vmlinux-debian bin/guest/modules-debian
	@$(MAKE) --no-print-directory initrd

.PHONY: initrd
initrd:
	@mkdir -p bin/guest/programs
	go build -trimpath -ldflags '-s -w' -o bin/guest/programs/ $(addprefix ./cmd/,$(GUEST_PROGRAMS))
	@cd bin/guest/programs && go run ../../../vmshim/guestos/mkinitrd ../initrd $(GUEST_PROGRAMS)
	@if [ -e bin/guest/modules-debian/load ]; then cd bin/guest/programs && \
		go run ../../../vmshim/guestos/mkinitrd ../initrd-debian $(GUEST_PROGRAMS) -- $$(sed 's#^#../modules-debian/#' ../modules-debian/load); fi
	@rm -rf bin/guest/programs

$(HELLO): $(wildcard cmd/caisson-hello/*.go cmd/caissond/hello/gen/*.go)
	go run ./cmd/caissond/hello/gen $@

.PHONY: run
run: ## Build, start a private engine, run IMAGE (caisson/hello) at every level [IMAGE=… CMD=…]
	@scripts/deps $(RUN_DEPS)
	@$(MAKE) --no-print-directory build
	@[ -e bin/guest/vmlinux ] || [ -e bin/guest/vmlinux-debian ] || $(MAKE) --no-print-directory guest-debian
	@IMAGE='$(IMAGE)' CMD='$(CMD)' scripts/run

.PHONY: test
test: deps build guest ## Run every test that this machine can, with one summary
	go run ./tests/run

.PHONY: soak
soak: deps build ## Run the slow tests: long cycles, many containers
	CAISSON_SOAK=1 go test -count=1 -timeout 60m ./tests/scale/... ./tests/restart/...

.PHONY: bench
bench: deps build ## Measure against the engines installed here, as ratios in one run
	CAISSON_BENCH=1 go test -count=1 -v -timeout 60m ./tests/bench

.PHONY: lint
lint: ## gofmt, vet for Linux and Windows, golangci-lint
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	GOOS=windows go vet ./...
	@command -v golangci-lint >/dev/null || go install $(GOLANGCI)
	golangci-lint run

.PHONY: cross
cross: $(HELLO) ## Build for the other platforms
	GOOS=windows go build ./...
	GOOS=darwin go build -o /dev/null ./cmd/caisson
	GOARCH=arm64 go build ./...

.PHONY: install
install: build ## Install binaries, systemd unit, completions and man pages [PREFIX= DESTDIR=]
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/caisson $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 0755 bin/caisson bin/caissond $(DESTDIR)$(PREFIX)/bin/
	install -m 0755 bin/caisson-compose bin/caisson-backend-linux bin/caisson-backend-oci bin/caisson-keeper bin/caisson-init bin/caisson-dns bin/caisson-backend-vm bin/caisson-vmshim $(DESTDIR)$(PREFIX)/libexec/caisson/
	@for f in vmlinux initrd vmlinux-debian initrd-debian; do if [ -e bin/guest/$$f ]; then \
		install -D -m 0644 bin/guest/$$f $(DESTDIR)$(PREFIX)/libexec/caisson/guest/$$f || exit 1; fi; done
	sed 's#@PREFIX@#$(PREFIX)#g' packaging/caissond.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/caissond.service
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d $(DESTDIR)$(PREFIX)/share/man/man1
	bin/caisson completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/caisson
	bin/caisson completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_caisson
	bin/caisson completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/caisson.fish
	bin/caisson __man $(DESTDIR)$(PREFIX)/share/man/man1

.PHONY: uninstall
uninstall: ## Remove what install put there; images and containers stay
	rm -f $(DESTDIR)$(PREFIX)/bin/caisson $(DESTDIR)$(PREFIX)/bin/caissond $(DESTDIR)$(PREFIX)/lib/systemd/system/caissond.service
	rm -rf $(DESTDIR)$(PREFIX)/libexec/caisson
	rm -f $(DESTDIR)$(PREFIX)/share/bash-completion/completions/caisson $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_caisson $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/caisson.fish $(DESTDIR)$(PREFIX)/share/man/man1/caisson*.1

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin build $(HELLO)
