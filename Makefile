# Blat: build, try, test, measure, install. `make` alone says what there is.

CARGO ?= cargo
PREFIX ?= /usr/local
BINARIES = blat blatd blat-agent
MAN = target/man

.PHONY: help build demo demo-stop demo-s3 test test-faults test-chaos test-scripts test-soak bare-machine fuzz lint minimum-rust bench bench-s3 bench-peers man install clean

help:
	@echo 'make build      the release executables, in target/release, and the receivers that agents carry'
	@echo 'make demo       Blat at work on this machine: a master, a target behind sshd, real packages'
	@echo 'make demo-stop  ends the demo and removes its scratch folder'
	@echo 'make demo-s3    a bucket kept filled, on an S3 server of its own; ends by itself'
	@echo 'make test       all tests, as root or as an ordinary user'
	@echo 'make test-faults  the faults that take long or need a disk of their own (root)'
	@echo 'make test-chaos  a master and three agents through SEEDS ($(SEEDS)) rows of 200 random operations and faults'
	@echo 'make test-scripts  the target scripts under every shell of this machine'
	@echo 'make bare-machine  make demo and make test on a Debian that has nothing, in a folder of its own (root); BARE says where'
	@echo 'make test-soak  many fortnights of simulated operation; FORTNIGHTS says how many ($(FORTNIGHTS))'
	@echo 'make fuzz       any bytes at both ends of the protocol, FUZZ_SECONDS ($(FUZZ_SECONDS)) for each target'
	@echo 'make lint       formatting, clippy, shell scripts'
	@echo 'make minimum-rust  all executables checked by the oldest compiler that Cargo.toml promises; rustup gets it'
	@echo 'make bench      speed and memory, against rsync in the same run; table in target/bench.txt'
	@echo 'make bench-s3   a bucket filled by Blat, the AWS client and rclone in the same run; table in target/bench-s3.txt'
	@echo 'make bench-peers  the same against every peer and over a link, for hours (root); table in target/bench-peers.txt'
	@echo 'make man        manual pages, in $(MAN)'
	@echo 'make install    executables and manual pages below PREFIX ($(PREFIX)); DESTDIR is honoured'
	@echo 'make clean      removes all that was built'

build:
	@tests/lab/setup build
	$(CARGO) build --locked --release --bins
	@receiver/build target/release/receivers

demo:
	@demo/run

demo-stop:
	@demo/stop

demo-s3:
	@demo/s3

# Every check of the target scripts under every shell that this machine has.
test-scripts:
	@tests/lab/setup test
	target-scripts/tests/run

# Each twice: by root, who may install what is missing, and then by an ordinary user.
BARE ?= /var/tmp/blat-bare-machine
bare-machine:
	tests/lab/bare-machine '$(BARE)' make demo
	tests/lab/bare-machine '$(BARE)' make demo-stop
	tests/lab/bare-machine '$(BARE)' make test
	tests/lab/bare-machine '$(BARE)' visitor make demo
	tests/lab/bare-machine '$(BARE)' visitor make demo-stop
	tests/lab/bare-machine '$(BARE)' visitor make test

# One fortnight takes a second. A failure prints its seed: BLAT_SEED=N rolls it again.
FORTNIGHTS ?= 1000
test-soak:
	BLAT_SEEDS=$(FORTNIGHTS) $(CARGO) test --locked -p blat-domain --test fortnight -- --nocapture

# Its short form is among the tests: domain/tests/frames.rs and receiver/tests/hostile.rs.
FUZZ_SECONDS ?= 60
fuzz:
	@FUZZ_SECONDS=$(FUZZ_SECONDS) fuzz/run

# tests/run says what each of them does.
test:
	@tests/run all

ROUNDS ?= 30
test-faults:
	@ROUNDS=$(ROUNDS) tests/run faults

SEEDS ?= 30
test-chaos:
	@SEEDS=$(SEEDS) tests/run chaos

lint:
	@tests/lab/setup build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
	@if command -v shellcheck >/dev/null; then set -x; shellcheck -x -P SCRIPTDIR $(SHELL_SCRIPTS); \
	else echo 'lint: no shellcheck here, so shell scripts were not looked at (apt-get install shellcheck)'; fi
	@if $(CARGO) deny --version >/dev/null 2>&1; then set -x; $(CARGO) deny --locked check bans licenses sources; \
	else echo 'lint: no cargo-deny here, so licences and sources were not looked at (cargo install cargo-deny)'; fi

SHELL_SCRIPTS = .ci/run .githooks/pre-commit benches/index demo/run demo/stop demo/s3 fuzz/run receiver/build tests/lab/setup tests/lab/bare-machine tests/lab/sshd tests/lab/hostile-sshd tests/lab/database tests/lab/s3 tests/lab/archive tests/run \
	target-scripts/*_* target-scripts/tests/run

# In a folder of its own, so that nothing is built anew for the compiler of every day.
minimum-rust:
	@tests/lab/setup build
	rustup run --install "$$(sed -n 's/^rust-version = "\(.*\)"$$/\1/p' Cargo.toml)" \
		cargo check --locked --workspace --target-dir target/minimum-rust

bench:
	@tests/lab/setup bench
	$(CARGO) build --locked --release --bins
	@receiver/build target/release/receivers
	@benches/run

bench-s3:
	@tests/lab/setup bench-s3
	$(CARGO) build --locked --release --bins
	@receiver/build target/release/receivers
	@benches/s3

# benches/peers/run says what there is to choose; docs/performance.md, what is demanded.
bench-peers:
	@tests/lab/setup bench-peers
	$(CARGO) build --locked --release --bins
	@benches/peers/run

man:
	$(CARGO) run --locked -q -p blat-cli --example man -- $(MAN)
	install -m 644 docs/man/*.1 $(MAN)

install: build man
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/share/man/man1'
	install -m 755 $(BINARIES:%=target/release/%) '$(DESTDIR)$(PREFIX)/bin'
	install -d '$(DESTDIR)$(PREFIX)/lib/blat/receivers'
	find target/release/receivers -name 'blat-receiver-*' -exec install -m 755 {} '$(DESTDIR)$(PREFIX)/lib/blat/receivers' \;
	install -m 644 $(MAN)/*.1 '$(DESTDIR)$(PREFIX)/share/man/man1'

clean:
	$(CARGO) clean
