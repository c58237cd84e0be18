# shellcheck shell=sh disable=SC2154,SC2034,SC2016 # the harness is what sets and reads the names
# Killing the scripts: at every step, and in the middle of a stream. `run` says which steps are this shell's. Whatever the instant: nothing partial is visible, and the next run
# finishes the work and leaves nothing lying about.

# set_traps [TOOL]: from now on every tool takes a number, and the script is killed just before the one whose number is in steps/deadly, which is also
# just after the one before it. TOOL fails instead, as where it is missing.
set_traps() {
    unwrap
    for tool in mkdir mv chmod sync cp find awk sha256sum rm cat stat flock tar df rmdir perl ln readlink sort cut xargs; do
        # The last number is but where to begin: several tools of one pipeline may want the next one.
        wrap "$tool" '
            set -C
            read -r n <"$BLAT_TEST/steps/last"
            while ! true >"$BLAT_TEST/steps/$n"; do n=$((n + 1)); done 2>/dev/null
            echo "$n" >|"$BLAT_TEST/steps/last"
            read -r deadly <"$BLAT_TEST/steps/deadly"
            [ "$n" -ne "$deadly" ] || {
                read -r victim <"$BLAT_TEST/victim"
                kill -9 "$victim"
                exit 1
            }
            exec "$real" "$@"'
    done
    [ -z "${1-}" ] || wrap "$1" 'exit 1'
    traps=$before
    before=
}

# count_to N: no step is taken yet, and the Nth is deadly.
count_to() {
    rm -rf "$work/steps"
    mkdir "$work/steps"
    echo 1 >"$work/steps/last"
    echo "$1" >"$work/steps/deadly"
}

# run_victim VERB ARGUMENT...: as run, with a process id that can be killed.
run_victim() {
    verb=$1
    shift
    command="$verb $*"
    env -i HOME="$work/home" PATH="$before:$tools" BLAT_TEST="$work" "$shell" -c 'echo $$ >"$BLAT_TEST/victim"; exec "$@"' victim \
        "$shell" "$bin/$verb" "$@" >"$work/out" 2>"$work/err"
    status=$?
}

# intact NAME/VERSION: as whole, but folders may be closed to others: who was about to replace or delete the package had sealed it.
intact() {
    snapshot "$src/$1" | sed '/^d /s/ 775 / 755 /' >"$work/wanted" && snapshot "$arch/$1" 2>&1 | sed '/^d /s/ 775 / 755 /' >"$work/found" &&
        cmp -s "$work/wanted" "$work/found"
}

# either_whole: odd@1 is the old one or the newer one, and whole. Its manifest comes a moment before it.
either_whole() { intact odd/1 || newer intact odd/1; }

# finishes WORD COMMAND...: COMMAND did it, now or before, and nothing is left. A tool that outlives its script for an instant keeps the
# stage locked, so this may take more than one run.
finishes() {
    did=$1
    shift
    "$@"
    grep -q "^\($did\|already\|absent\) odd 1$" "$work/out" && nothing_staged
}

after_new() {
    absent odd/1 || whole odd/1 || return 1
    eventually finishes published receive "$work/odd" && arrived odd/1
}

after_replace() {
    either_whole || return 1
    eventually finishes replaced receive "$work/odd-replace" && newer arrived odd/1
}

# Without an exchange there is an instant without any version; whoever comes next puts the old one back.
after_renames() {
    absent odd/1 || either_whole || return 1
    receive "$work/even"
    either_whole && after_replace
}

after_delete() {
    absent odd/1 || intact odd/1 || return 1
    eventually finishes deleted delete odd/1 && absent odd && absent .dpkg_archive/manifests/odd
}

after_link() {
    # The old link or the new one, never none.
    case $(readlink "$arch/odd/current") in
    1 | 2) ;;
    *) return 1 ;;
    esac
    eventually finishes_link && leads odd/current 2
}

finishes_link() {
    link 'odd current 2'
    grep -q '^\(linked\|already\) odd current$' "$work/out" && nothing_staged
}

before_new() { fresh; }
before_replace() { fresh && receive "$work/odd"; }
before_renames() { before_replace; }
before_delete() { before_replace; }
before_link() {
    fresh
    put odd/1 7
    put odd/2 7
    ln -s 1 "$arch/odd/current"
    echo 'odd current 2' >"$work/links"
    link_digest=$(sha256sum <"$work/links")
}

step_new() { run_victim receive_package --archive "$arch" --batch victim --compression none --bytes 1 --entries 1 --reserve 0 <"$work/odd"; }
step_replace() {
    run_victim receive_package --archive "$arch" --batch victim --compression none --bytes 1 --entries 1 --reserve 0 <"$work/odd-replace"
}
step_renames() { step_replace; }
step_link() {
    run_victim receive_file --archive "$arch" --name links --bytes 14 --sha256 "${link_digest%% *}" <"$work/links"
}
step_delete() { run_victim delete_package --archive "$arch" odd/1 </dev/null; }

# The same by a purge; an empty name may stay until somebody comes by.
before_purge() {
    before_replace
    want even/1
    synced 100
    stamp odd@1 5000 5
}
# The copy is in a directory of its own, and a purge goes only by what was stored there.
step_purge() {
    stored
    run_victim pkg_purge --archive "$arch" </dev/null
}
after_purge() {
    absent odd/1 || intact odd/1 || return 1
    eventually purged_odd
}
purged_odd() {
    purge
    absent odd/1 && absent .dpkg_archive/manifests/odd/1 && unmarked odd@1 && nothing_staged
}

# The index is the old one or the new one, and the next run makes it the new one.
before_index() {
    fresh
    put a/1 5
    put b/1 5
    mon
    index >"$work/old-index"
    put a/2 5
    rm -r "$arch/b"
}
step_index() { run_victim pkg_mon --archive "$arch" </dev/null; }
after_index() {
    index | cmp -s - "$work/old-index" || { index | grep -q '^a/2/descpkg$' && ! index | grep -q '^b/'; } || return 1
    eventually indexed_again
}
indexed_again() {
    mon
    all_indexed && nothing_staged
}

# killed_everywhere WHAT [TOOL]: at every step until one run gets through, or where STEPS says so at those of this shell alone. It begins anew from a
# copy each time, which is what takes least.
killed_everywhere() {
    set_traps "${2-}"
    "before_$1"
    [ ! -e "$work/begin" ] || chmod -R u+rwx "$work/begin"
    rm -rf "$work/begin"
    cp -a "$arch" "$work/begin"
    deadly_step=$first_step
    while :; do
        fresh
        cp -a "$work/begin/." "$arch"
        count_to "$deadly_step"
        before=$traps
        "step_$1"
        before=
        if ! "after_$1"; then
            echo "      at step $deadly_step"
            return 1
        fi
        # Nobody took that number: the script got through.
        [ -e "$work/steps/$deadly_step" ] || break
        deadly_step=$((deadly_step + stride))
    done
    unwrap
    [ "$deadly_step" -gt 10 ]
}

swept_by_next() { receive "$work/odd" && nothing_staged; }

stage_has_files() { [ -n "$(find "$arch/.dpkg_archive/stage" -path '*/packages/*' -type f 2>/dev/null)" ]; }

check_crashing() {
    check 'killed at every step of a new package' killed_everywhere new
    check 'killed at every step of a new package whose renames are single' killed_everywhere new perl
    if PATH=$tools command -v perl >/dev/null; then
        check 'killed at every step of a replacement' killed_everywhere replace
    else
        echo "not run: $label: replacing by one exchange, for there is neither perl nor a mv that does it"
    fi
    check 'killed at every step of a replacement without exchange' killed_everywhere renames perl
    check 'killed at every step of a deletion' killed_everywhere delete
    check 'killed at every step of a link that leads elsewhere' killed_everywhere link
    check 'killed at every step of a purge' killed_everywhere purge
    check 'killed at every step of renewing the index' killed_everywhere index

    check_orphans
}

check_orphans() {
    fresh
    before=/nonexistent
    half=$(($(stat -c %s "$work/odd") / 2))
    exec 6<>"$work/hold"
    # The sender keeps its end open until it is told to end.
    { head -c "$half" "$work/odd" && head -c 1 <&6; } |
        run_victim receive_package --archive "$arch" --batch victim --compression none --bytes 1 --entries 1 --reserve 0 6>&- &
    sender=$!
    eventually stage_has_files
    check 'in the middle of a stream there are files in the stage' stage_has_files
    list
    check 'which are not listed' listed ''
    read -r victim <"$work/victim"
    kill -9 "$victim"
    receive "$work/even"
    check 'a stage into which an orphan may still write is left alone' stage_has_files
    check 'and does not hinder the next run' said 'published even 2.0~rc1+x'
    echo >&6
    wait "$sender"
    exec 6>&-
    check 'once the stream has ended it is swept' eventually swept_by_next
    check 'and the package comes whole' arrived odd/1
}
