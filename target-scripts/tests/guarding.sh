# shellcheck shell=sh disable=SC2154,SC2034,SC2016 # the harness is what sets and reads the names
# Every tool of every look that keeps something back is killed once, and its shell with it: what does not finish lets nothing go. So it is where no more
# files can be opened.

# set_killers [shells]: every tool takes a number, and the one whose number is in steps/deadly is killed before it does anything; with `shells` the
# subshell that called it is killed too.
set_killers() {
    unwrap
    for tool in awk find xargs stat grep head tail tr sha256sum readlink date sh cat; do
        wrap "$tool" '
            set -C
            read -r n <"$BLAT_TEST/steps/last"
            while ! true >"$BLAT_TEST/steps/$n"; do n=$((n + 1)); done 2>/dev/null
            echo "$n" >|"$BLAT_TEST/steps/last"
            read -r deadly <"$BLAT_TEST/steps/deadly"
            if [ "$n" -eq "$deadly" ]; then
                read -r victim <"$BLAT_TEST/victim"
                [ -z "'"${1-}"'" ] || [ "$PPID" -eq "$victim" ] || kill -9 "$PPID"
                kill -9 $$
            fi
            exec "$real" "$@"'
    done
    killers=$before
    before=
}

# killed_each WHAT STEP HOLDS [shells]: WHAT prepares an archive, STEP is the run, and HOLDS is true after it, whichever tool was killed.
killed_each() {
    set_killers "${4-}"
    step=0
    while :; do
        step=$((step + 1))
        "$1"
        count_to "$step"
        before=$killers
        "$2"
        before=
        if ! "$3"; then
            echo "      at step $step"
            unwrap
            return 1
        fi
        [ -e "$work/steps/$step" ] || break
    done
    unwrap
    [ "$step" -gt 10 ]
}

# with_few_files WHAT HOLDS: the same for a purge that may open but few files.
with_few_files() {
    for most in 8 10 11 12 13 14 15 16 17 18; do
        "$1"
        command="ulimit -n $most; pkg_purge"
        env -i PATH="$tools" "$shell" -c 'ulimit -n "$1" || exit 0; shift; exec "$@"' limited "$most" "$shell" "$bin/pkg_purge" --archive "$arch" \
            </dev/null >"$work/out" 2>"$work/err"
        status=$?
        "$2" || return 1
    done
}

# due: odd@1 waits to be purged, and nothing speaks against it.
due() {
    fresh
    put odd/1 5
    echo precious >"$arch/odd/1/precious"
    put even/1 5
    want even/1
    synced 0
    stamp odd@1 5000 5
}
precious() { [ -s "$arch/odd/1/precious" ]; }

with_archive_inside() {
    due
    mkdir -p "$arch/odd/1/deep/inner/.dpkg_archive"
    : >"$arch/odd/1/deep/inner/.dpkg_archive/archive"
    chmod 311 "$arch/odd/1/deep"
}
with_wrong_clock() {
    due
    synced 100000 100
}
with_wanted() {
    due
    want odd/1 even/1
}

# mounts LINE: what the system tells to be mounted, beside the root of all.
mounts() {
    printf '1 0 8:1 / / rw - ext4 a rw\n%s\n' "$1" >"$work/mountinfo"
}
with_mounted_name() {
    due
    mounts "2 1 8:2 / $arch/odd rw - ext4 b rw"
}
with_mount_inside() {
    due
    mounts "2 1 8:2 / $arch/odd/1/m rw - ext4 b rw"
}
with_bound() {
    due
    mounts "2 1 8:1 $arch/odd/1 /elsewhere rw - ext4 a rw"
}
with_mounted_trash() {
    due
    mkdir -p "$arch/.dpkg_archive/stage/old" "$arch/.dpkg_archive/trash/old/odd@1"
    chmod 700 "$arch/.dpkg_archive/stage" "$arch/.dpkg_archive/trash"
    mv "$arch/odd/1/precious" "$arch/.dpkg_archive/trash/old/odd@1"
    rm "$arch/.dpkg_archive/aged/odd@1"
    mounts "2 1 8:2 / $arch/.dpkg_archive/trash/old/odd@1 rw - ext4 b rw"
}
precious_trash() { [ -s "$arch/.dpkg_archive/trash/old/odd@1/precious" ]; }

# of_source: the list says of odd@1 what the source's own would have.
of_source() {
    due
    printf 'odd 1 - %s %s\n# end 1\n' "$(stat -c %i "$arch/odd/1/descpkg")" "$(stat -c %z:%Z "$arch/odd/1/descpkg" | sed 's/^[^.]*\.\(.......\).*:\(.*\)/\2.\1/')" \
        >"$work/list"
}
step_unlisted() { run_victim delete_package --archive "$arch" --unlisted <"$work/list"; }

step_list() {
    printf 'gone 1\nodd 1\n# end 2\n' >"$work/listed"
    { cat "$work/listed" && echo go; } |
        run_victim receive_file --archive "$arch" --name PackageList.txt --bytes "$(wc -c <"$work/listed")" \
            --sha256 "$(sha256sum <"$work/listed" | cut -d ' ' -f 1)" --confirm 60
}
not_stored() { ! grep -q gone "$arch/.dpkg_archive/PackageList.txt"; }

# damaged HOW: odd@1 as it was sent, but for this; what is verified changes nothing, so it is made once.
as_damaged() { :; }
step_verify() { run_victim get_plist --archive "$arch" --verify <"$work/named"; }
not_good() { ! grep -q '^good odd' "$work/out"; }

step_damaged() { run_victim receive_package --archive "$arch" --batch victim --compression none --bytes 1 --entries 1 --reserve 0 <"$work/damaged"; }
step_setuid() { run_victim receive_package --archive "$arch" --batch victim --compression none --bytes 1 --entries 1 --reserve 0 <"$work/setuid-stream"; }
not_published() { absent odd/1; }
not_setuid() { absent odd/1 || [ -z "$(find "$arch/odd/1" -perm /6000)" ]; }
setuid_source() { against_source "$work/setuid" "$@"; }

# with_mount_to_replace: odd@1 as it came; something is mounted in it.
with_mount_to_replace() {
    fresh
    receive "$work/odd"
    mounts "2 1 8:2 / $arch/odd/1/lib rw - ext4 b rw"
}
not_replaced() { whole odd/1 || intact odd/1; }

check_guarding() {
    trusted=$bin
    bin=$bin-mounts
    cp -R "$trusted" "$bin"
    sed -i "s,/proc/self/mountinfo,$work/mountinfo,g" "$bin"/blat-*.sh "$bin/receive_package"
    mounts ''
    for what in with_archive_inside with_wrong_clock with_wanted with_mounted_name with_mount_inside with_bound; do
        check "a purge deletes nothing $what, whichever tool is killed" killed_each "$what" step_purge precious
        check "nor where few files can be opened" with_few_files "$what" precious
        mounts ''
    done
    check 'nor with an archive inside where a shell is killed too' killed_each with_archive_inside step_purge precious shells
    check 'what is mounted in the trash stays' killed_each with_mounted_trash step_purge precious_trash
    check 'also where few files can be opened' with_few_files with_mounted_trash precious_trash
    mounts ''
    due
    step_purge
    check 'where nothing speaks against it and nothing is killed, it goes' absent odd/1

    check "nothing of the source's own is deleted" killed_each of_source step_unlisted precious
    check 'nor where a shell is killed too' killed_each of_source step_unlisted precious shells
    check 'a PackageList that names what is not there is not stored' killed_each due step_list not_stored
    check 'what something is mounted in is not replaced' killed_each with_mount_to_replace step_replace not_replaced
    mounts ''

    sed 's,#!/bin/sh,#!/bin/sx,' "$work/odd" >"$work/damaged"
    check 'a damaged package is not published' killed_each fresh step_damaged not_published
    check 'nor where a shell is killed too' killed_each fresh step_damaged not_published shells
    mkdir -p "$work/setuid"
    [ -e "$work/setuid/odd" ] || setuid_source make_package odd 1 1600000000
    chmod 4755 "$work/setuid/odd/1/bin/tool"
    setuid_source pack "$work/setuid-stream" new odd/1
    check 'nor one with a setuid file as such' killed_each fresh step_setuid not_setuid

    echo 'odd 1' >"$work/named"
    for how in 'echo >>lib/../-' 'echo >>"back\\slash"' 'chmod u+w . && mkdir extra' 'rm ../../.dpkg_archive/manifests/odd/.1.tree; chmod u+w . && echo >zextra'; do
        fresh
        receive "$work/odd"
        (cd "$arch/odd/1" && eval "$how")
        check "never called good: $how" killed_each as_damaged step_verify not_good shells
    done
    bin=$trusted
    fresh
}
