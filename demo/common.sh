# Shared by demo/run and demo/stop. Sourced, never run.

repo=$(cd "$(dirname "$0")/.." && pwd)
lab=$repo/tests/lab
scratch=${TMPDIR:-/tmp}/blat-demo-$(id -u)
home=$scratch/home
blat=$repo/target/release/blat

# Everything that the demo started, in reverse; fine when nothing runs.
end_demo() {
    if [ -d "$home" ] && [ -x "$blat" ]; then "$blat" --home "$home" stop; fi
    "$lab/sshd" stop "$scratch/sshd"
}
