# shellcheck shell=sh disable=SC2154,SC2034,SC2016 # the harness is what sets and reads the names
# receive_package: the places that packages go to, and who else may be there.

replaced() { ended 0 && said 'replaced odd 1' && newer arrived odd/1 && nothing_staged; }

# Whatever is there, by inode: moving it away and back would not go unnoticed.
place_of_odd() { find "$arch/odd" -printf '%i %y %m %T@ %C@ %s %l %P\n' | sort; }

# untouched CLASS: odd@1 failed so, and what was there is as it was.
untouched() {
    ended 0 && grep -q "^failed odd 1 $1 " "$work/out" && place_of_odd >"$work/found" && cmp -s "$work/before" "$work/found" &&
        nothing_staged
}

# against CLASS TITLE: odd@1 is sent to an archive where something else is in its place.
against() {
    place_of_odd >"$work/before"
    receive "$work/odd-replace"
    check "$2 is never touched" untouched "$1"
}

check_publishing() {
    fresh
    receive "$work/odd"
    receive "$work/odd-newer"
    check 'a new package does not replace another one' said "$(sed -n '2p' "$work/out")"
    check 'but conflicts with it' grep -q '^failed odd 1 conflict .*1600000000, not 1600000500' "$work/out"
    check 'and the old one stays' arrived odd/1
    receive "$work/odd-replace"
    check 'a replacement replaces it' replaced
    fresh
    receive "$work/odd"
    wrap perl 'exit 1'
    receive "$work/odd-replace"
    unwrap
    check 'a replacement works without an exchange' replaced
    fresh
    receive "$work/odd-replace"
    check 'a replacement of nothing is published' said 'published odd 1'
    check_same_time

    fresh
    mkdir -p "$arch/odd/1/sub"
    echo mine >"$arch/odd/1/sub/file"
    against foreign 'a directory without descpkg'
    rm -r "$arch/odd/1/sub"
    against foreign 'an empty directory'
    mkdir "$arch/odd/1/descpkg"
    against foreign 'a directory with a directory called descpkg'
    rm -r "$arch/odd/1"
    echo mine >"$arch/odd/1"
    against foreign 'a file in the place of a version'
    rm "$arch/odd/1"
    ln -s 2 "$arch/odd/1"
    against foreign 'a dangling link in the place of a version'
    mkdir "$arch/odd/2"
    : >"$arch/odd/2/descpkg"
    against foreign 'a link in the place of a version'
    rm -r "$arch/odd"
    receive "$work/odd"
    chmod u+w "$arch/odd/1"
    mkdir -p "$arch/odd/1/deep/inner/.dpkg_archive"
    : >"$arch/odd/1/deep/inner/.dpkg_archive/archive"
    # What others may write is closed to them before the look.
    find "$arch/odd" -type d -exec chmod go-w {} +
    against foreign 'a package that another archive lies in'
    chmod -R u+rwx "$arch/odd"
    rm -r "$arch/odd"
    echo mine >"$arch/odd"
    against foreign 'a file in the place of a name'
    rm "$arch/odd"
    mkdir -p "$work/elsewhere"
    ln -s "$work/elsewhere" "$arch/odd"
    receive "$work/odd"
    check 'a link in the place of a name is foreign' grep -q '^failed odd 1 foreign' "$work/out"
    check 'and not followed' [ -z "$(ls -A "$work/elsewhere")" ]

    fresh
    mkdir "$arch/odd"
    chmod 555 "$arch/odd"
    receive "$work/both"
    check 'a name that is closed to us fails its package' grep -q '^failed odd 1 io .*Permission denied' "$work/out"
    check 'and not the other one' arrived even/2.0~rc1+x
    check 'and the empty directory, which was not ours, stays' [ -d "$arch/odd" ]
    chmod 755 "$arch/odd"

    check_races
    check_order
}

# The same time of descpkg, and other bytes.
check_same_time() {
    fresh
    receive "$work/odd"
    place_of_odd >"$work/before"
    receive "$work/odd-same-time"
    check 'other bytes under the same time are told, and nothing is touched' untouched differs
    rm "$arch/.dpkg_archive/manifests/odd/1"
    receive "$work/odd-same-time"
    check 'where no manifest is known, the same time is the same package' said 'already odd 1'
    receive "$work/odd-repair"
    check 'a repair replaces it whatever its time' said 'replaced odd 1'
    check 'by what was sent' sametime arrived odd/1
    receive "$work/odd-same-time"
    check 'which is then there already' said 'already odd 1'
}

# raced WHAT: somebody else makes the directory between our look and WHAT, as wrapped.
raced() {
    receive "$work/odd"
    unwrap
    check "a directory that appears just before $1 fails the package" grep -q '^failed odd 1 ' "$work/out"
    check 'and nothing is nested in it' [ "$(cd "$arch/odd/1" && find . -print | tr '\n' ' ')" = '. ./file ' ]
    check 'and nothing is left beside it' nothing_staged
}

check_races() {
    fresh
    wrap perl 'exit 1'
    wrap mv 'for last; do :; done; [ "$last" != odd/1 ] || { mkdir odd/1; echo mine >odd/1/file; }; exec "$real" "$@"'
    raced 'one rename'
    if PATH=$tools command -v perl >/dev/null; then
        fresh
        wrap perl 'case $* in *F?3*) mkdir odd/1; echo mine >odd/1/file ;; esac; exec "$real" "$@"'
        raced 'all renames'
    fi

    fresh
    receive "$work/even"
    flock "$arch/.dpkg_archive/publish.lock" sh -c 'echo held; cat' <"$work/hold" >"$work/held" &
    holder=$!
    exec 6>"$work/hold"
    eventually [ -s "$work/held" ]
    receive "$work/odd"
    check 'the publish lock of another is waited for, then status 75' ended 75 'publish.lock'
    check 'and nothing is left' [ ! -e "$arch/odd" ]
    exec 6>&-
    wait "$holder"
    : >"$work/held"
    flock "$arch/.dpkg_archive/stage/taken.lock" sh -c 'echo held; cat' <"$work/hold" >"$work/held" &
    holder=$!
    exec 6>"$work/hold"
    eventually [ -s "$work/held" ]
    mkdir "$arch/.dpkg_archive/stage/taken"
    receive "$work/odd"
    check 'the stage of another that lives is left alone' [ -d "$arch/.dpkg_archive/stage/taken" ]
    check 'and does not hinder' said 'published odd 1'
    receive "$work/odd" --batch taken
    check 'the same batch twice at a time is status 75' ended 75 'another process works on it'
    exec 6>&-
    wait "$holder"
    receive "$work/odd"
    check 'the stage of a dead one is swept' nothing_staged
}

check_order() {
    fresh
    wrap sync '[ "$1" = --help ] && exec "$real" "$@"; find . -name descpkg >>"$BLAT_TEST/synced"; exit 1'
    receive "$work/odd"
    unwrap
    check 'a disk that fails discards the stage' ended 1 'durable failed'
    check 'and leaves nothing' nothing_visible

    : >"$work/synced"
    # What is synced file by file comes to the same.
    wrap sync '[ "$1" = -f ] || exec "$real" "$@"
        find . -name descpkg | sort >>"$BLAT_TEST/synced"; echo sync "$*" >>"$BLAT_TEST/synced"; exec "$real" "$@"'
    receive "$work/odd" --batch order
    unwrap
    check 'it is made durable in the stage, then in its place, and only then answered' cmp -s "$work/synced" - <<EOF
./.dpkg_archive/stage/order/packages/odd/1/descpkg
sync -f .dpkg_archive/stage/order
./odd/1/descpkg
sync -f .dpkg_archive/stage/order
EOF
    # The clock of the loop is made fast; the digests wait until a sign of life has come.
    wrap sleep 'exit 0'
    wrap sha256sum 'n=0; until grep -q alive "$BLAT_TEST/out" || [ $n -gt 2000 ]; do n=$((n + 1)); /bin/sleep 0.01; done; exec "$real" "$@"'
    receive "$work/even"
    unwrap
    check 'while it works it says that it is alive' grep -q '^alive$' "$work/out"
    grep -v '^alive$' "$work/out" >"$work/rest"
    mv "$work/rest" "$work/out"
    check 'which is no part of the answer' said 'published even 2.0~rc1+x'
    check_stopped
}

# has FILE TEXT NUMBER: so many lines of the file are that text.
has() { [ "$(grep -cx "$2" "$1")" -ge "$3" ]; }

is_in_state() { grep -q "^State:.$1" "/proc/$number/status"; }

# Whoever is stopped would keep its caller waiting for ever.
check_stopped() {
    : >"$work/naps"
    wrap sleep 'echo nap >>"$BLAT_TEST/naps"; exec "$real" 0.01'
    env -i PATH="$before:$tools" BLAT_TEST="$work" "$shell" -c '. "$1"; start_alive; while :; do :; done' "$bin/verb" "$bin/blat-lib.sh" >"$work/out" 2>"$work/err" &
    number=$!
    check 'who works says so' eventually has "$work/out" alive 2
    kill -STOP "$number"
    eventually is_in_state T
    # What was about to be said when it was stopped still is.
    seen=$(wc -l <"$work/naps")
    eventually has "$work/naps" nap $((seen + 3))
    seen=$(wc -l <"$work/naps")
    said_before=$(grep -c alive "$work/out")
    eventually has "$work/naps" nap $((seen + 30))
    check 'who is stopped does not' [ "$(grep -c alive "$work/out")" -eq "$said_before" ]
    kill -CONT "$number"
    check 'until it goes on' eventually has "$work/out" alive $((said_before + 1))
    kill -9 "$number"
    wait "$number" 2>/dev/null
    unwrap
}
