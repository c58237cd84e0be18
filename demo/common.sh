# Shared by the scripts of this folder. Sourced, never run.

repo=$(cd "$(dirname "$0")/.." && pwd)
lab=$repo/tests/lab
scratch=${TMPDIR:-/tmp}/blat-demo-$(id -u)
home=$scratch/home
built=$repo/target/demo
blat=$built/blat

# Everything that the demo started, in reverse; fine when nothing runs.
end_demo() {
    if [ -d "$home" ] && [ -x "$blat" ]; then "$blat" --home "$home" stop; fi
    "$lab/sshd" stop "$scratch/sshd"
}

step=0
if [ -t 1 ]; then bold=$(printf '\033[1m') dim=$(printf '\033[2m') plain=$(printf '\033[0m'); else bold='' dim='' plain=''; fi

now_ms() {
    echo $(($(date +%s%N) / 1000000))
}

heading() {
    step=$((step + 1))
    printf '\n%s%d. %s%s\n' "$bold" "$step" "$1" "$plain"
    began=$(now_ms)
}

# The executables of both demos. What `make build` makes takes four times as long, and is what to measure.
build() {
    heading 'Building, not optimised: for a look and not for a measurement (the first time takes two or three minutes)'
    cargo build --locked --profile demo --bins -p blat-cli -p blatd -p blat-agent -p blat-receiver
    # Not static, since the target is this machine: so it shares the libraries that were just built.
    mkdir -p "$built/receivers"
    cp "$built/blat-receiver" "$built/receivers/.new"
    mv -f "$built/receivers/.new" "$built/receivers/blat-receiver-$(uname -m)-linux"
    took ''
}

took() {
    ms=$(($(now_ms) - began))
    printf '   %s%s%s(%d.%d s)%s\n' "$1" "${1:+ }" "$dim" $((ms / 1000)) $((ms % 1000 / 100)) "$plain"
}
