# shellcheck shell=sh disable=SC2154,SC2034,SC2016 # the harness is what sets and reads the names
# Arguments, environments and hosts that are not as they should be.

# bare TOOL...: a copy of the scripts whose only PATH holds the system's tools without these.
bare() {
    rm -rf "$work/few" "$work/bin-few"
    mkdir "$work/few"
    cp -R "$bin" "$work/bin-few"
    for dir in $(echo "$tools" | tr : ' '); do
        for tool in "$dir"/*; do
            [ -e "$work/few/${tool##*/}" ] || ln -s "$tool" "$work/few/${tool##*/}" 2>/dev/null
        done
    done
    for tool; do
        rm -f "$work/few/$tool"
    done
    sed -i "s,^PATH=.*,PATH=$work/few," "$work/bin-few/blat-lib.sh"
    usual=$bin
    bin=$work/bin-few
}

check_surroundings() {
    fresh
    for bad in '' ../x a/b 'a b' "$(printf '%065d' 1)" "a
b" '*' .; do
        receive "$work/odd" --batch "$bad"
        check "a hostile batch name is wrong usage: $(printf '%.5s' "$bad" | tr '\n' ' ')" ended 2 'batch'
    done
    for bad in '' -1 1k 0x10 ' 1' 9999999999999999; do
        receive "$work/odd" --bytes "$bad"
        check "a bad number is wrong usage: $bad" ended 2 'take numbers'
    done
    receive "$work/odd" --compression xz
    check 'an unknown compression is wrong usage' ended 2 'compression'
    receive "$work/odd" --reserve
    check 'an option without its value is wrong usage' ended 2 'needs a value'
    receive "$work/odd" --archive "$work/none"
    check 'a missing archive is an error for packages' ended 1 "entering the archive $work/none failed"
    check 'and is not made' [ ! -e "$work/none" ]
    check 'none of this left anything' [ -z "$(ls -A "$arch")" ]
    chmod 555 "$arch"
    receive "$work/odd"
    check 'an archive that is closed to us is an error' ended 1 'making .dpkg_archive .*Permission denied'
    chmod 755 "$arch"

    for strange in "$work/-dash" "$work/sp ace
line" "$work/\$(touch x)'\"*"; do
        usual=$arch
        arch=$strange
        mkdir -p "$arch"
        receive "$work/odd"
        check "an archive may be called ${strange##*/}" said 'published odd 1'
        chmod -R u+rwx "$arch"
        rm -rf "$arch"
        arch=$usual
    done
    (
        cd "$work" || exit 1
        mkdir -- -relative -
        for dir in -relative - ./-; do
            env -i PATH="$tools" "$shell" "$bin/receive_package" --archive "$dir" --batch b --compression none --bytes 1 --entries 1 \
                --reserve 0 <"$work/odd" || exit 1
        done
        [ -d ./-relative/odd/1 ] && [ -d ./-/odd/1 ]
    ) >"$work/out" 2>"$work/err"
    check 'an archive may be relative and look like an option' [ $? -eq 0 ]
    chmod -R u+rwx "$work/-" "$work/-relative"
    rm -rf "$work/-" "$work/-relative"

    fresh
    env -i PATH= IFS=/a0 CDPATH=/tmp:/ LANG=tr_TR.UTF-8 LC_ALL=de_DE.UTF-8 ENV=/nonexistent POSIXLY_CORRECT=1 TAR_OPTIONS=--help GZIP=-x \
        BLOCK_SIZE=7 TMPDIR=/nonexistent "$shell" "$bin/receive_package" --archive "$arch" --batch b --compression gzip --bytes 1 --entries 1 \
        --reserve 0 <"$work/both.gz" >"$work/out" 2>"$work/err"
    status=$?
    # Some shells complain of locales that are not installed, before the script has begun.
    check 'the environment does not matter' [ "$status" -eq 0 ]
    check 'not even for the answer' said "$both_published"
    check 'or what is published' arrived odd/1

    bare flock
    receive "$work/odd"
    check 'a missing flock is named' ended 1 "needs flock, which is not on this host's PATH"
    bin=$usual
    bare tar sha256sum gzip
    receive "$work/odd" --compression gzip
    check 'so is every tool that is missing' ended 1 'needs sha256sum, .*needs tar, .*needs gzip, which'
    list
    check 'what needs them not works without' ended 0
    bin=$usual
    check 'none of this left anything, again' nothing_staged
}
