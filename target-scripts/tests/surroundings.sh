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

# A NAME and a VERSION that fit alone, and not together.
check_long_pairs() {
    fresh
    name=$(printf '%0120d' 0)
    long='NAME and VERSION together have more than 240 characters'
    for version in "$name" "${name}0"; do
        [ -e "$src/$name/$version" ] || make_package "$name" "$version" 1600000000
        pack "$work/long" new "$name/$version"
        receive "$work/long"
        [ "$version" != "$name" ] || check '240 characters together are published' said "published $name $name"
    done
    check 'one more is refused' ended 1 "$long"
    check 'and not there' absent "$name/$version"
    run delete_package --archive "$arch" "$name/$version" </dev/null
    check 'nor deleted' ended 2 "$long"
    printf '%s %s\n# end 1\n' "$name" "$version" >"$work/list"
    run delete_package --archive "$arch" --unmark <"$work/list"
    check 'by a list neither' ended 2 "$long"
    printf '%s x %s\n' "$name" "$version" >"$work/list"
    digest=$(sha256sum <"$work/list")
    run receive_file --archive "$arch" --name links --bytes "$(wc -c <"$work/list")" --sha256 "${digest%% *}" <"$work/list"
    check 'nor linked to' ended 2 "$long"
    echo "$name $version" >"$work/list"
    run get_plist --archive "$arch" --verify <"$work/list"
    check 'nor verified' ended 2 "$long"
    mkdir "$arch/$name/$version"
    : >"$arch/$name/$version/descpkg"
    list
    check 'nor listed, while the shorter one is' grep -q "^package $name $name " "$work/out"
    check 'and nothing else' [ "$(grep -c ^package "$work/out")" -eq 1 ]
    printf '%s %s\n# end 1\n' "$name" "$name" >"$work/list"
    run delete_package --archive "$arch" --mark 7 <"$work/list"
    check '240 characters are marked' said "marked $name $name"
    run delete_package --archive "$arch" "$name/$name" </dev/null
    check 'and deleted' said "deleted $name $name"
}

# Tools of a package's author, where a PATH begins with nothing, or with something that is not absolute.
check_relative_path() {
    fresh
    receive "$work/odd"
    chmod 755 "$arch/odd/1"
    for tool in awk find sha256sum stat grep tr xargs sh; do
        printf '#!/bin/sh\necho %s >>"$BLAT_TEST/foreign"\n' $tool >"$arch/odd/1/$tool"
        chmod 755 "$arch/odd/1/$tool"
    done
    for before in '' . ./ ..:: 'x:../1'; do
        command="get_plist --verify, PATH=$before:"
        echo 'odd 1' | env -i PATH="$before:$tools" BLAT_TEST="$work" "$shell" "$bin/get_plist" --archive "$arch" --verify >"$work/out" 2>"$work/err"
        status=$?
        check "a PATH runs nothing of a package: $before" [ "$status" -eq 0 -a ! -e "$work/foreign" ]
        rm -f "$work/foreign"
    done
    before=
    check 'which is verified' grep -q '^bad odd 1 ' "$work/out"
    fresh
}

# by WAY: odd@1 is published by this way to the archive.
by() {
    env -i PATH="${before:+$before:}$tools" BLAT_TEST="$work" "$shell" "$bin/delete_package" --archive "$arch" odd/1 </dev/null >/dev/null 2>&1
    usual=$arch
    arch=$1
    (cd "$work/way" && receive "$work/odd" && echo "$status" >"$work/status")
    status=$(cat "$work/status")
    arch=$usual
    verb=receive_package
    said 'published odd 1'
}

check_way() {
    mkdir -p "$work/way/deep/er" "$work/way/open"
    ln -s "$arch" "$work/way/absolute"
    ln -s ../../absolute "$work/way/deep/er/up"
    ln -s deep/er/../er/./up "$work/way/chain"
    ln -s deep "$work/way/to-deep"
    ln -s loop "$work/way/loop"
    ln -s "$arch" "$work/way/open/link"
    for way in "$work/way/absolute" "$work/way/chain" "$work/way/to-deep/er/up" "$work/way/deep/../chain/" "$work/way//./deep/er/../../absolute/." \
        chain ./to-deep/er/up ../way/chain; do
        check "links of our own lead to the archive: ${way#"$work"}" by "$way"
    done
    chmod 775 "$work/way/deep"
    check 'also by folders that a group may write' by "$work/way/deep/er/up"
    chmod 777 "$work/way/open"
    check 'from a folder that everybody may write they do not' eval '! by "$work/way/open/link"'
    check 'and it is named' ended 1 "a link on the way to the archive lies in a folder that everybody may write: $work/way/open/link"
    chmod 1777 "$work/way/open"
    check 'but where it is sticky' by "$work/way/open/link"
    run get_plist --archive "$work/way/loop" </dev/null
    check 'links without end lead nowhere' ended 1 'entering the archive'
    mkdir "$work/way/closed" "$work/way/closed/in"
    chmod 0 "$work/way/closed"
    run get_plist --archive "$work/way/to-deep/../closed/in" </dev/null
    check 'nor does a closed folder' ended 1 'entering the archive'
    chmod 700 "$work/way/closed"
    # As if others had made it.
    wrap stat '"$real" "$@" | sed "s/ [0-9]* l/ 4242 l/"'
    for way in "$work/way/absolute" "$work/way/chain" "$work/way/to-deep/er/up"; do
        check "a link of somebody elses does not: ${way##*/}" eval '! by "$way"'
        check 'and is named' ended 1 "a link on the way to the archive belongs to user 4242, neither root nor this account: $work/way/"
    done
    unwrap
    # In the instant after the look.
    mkdir "$work/way/victim"
    wrap stat '"$real" "$@"; status=$?
        case "$*" in *" ./deep-room") cd "$BLAT_TEST/way/deep" && mv deep-room .aside && ln -s ../victim deep-room ;; esac 2>/dev/null
        exit $status'
    mkdir "$work/way/deep/deep-room"
    run get_plist --archive "$work/way/to-deep/deep-room" </dev/null
    unwrap
    check 'what is exchanged for a link meanwhile is not entered' ended 1 'deep-room on the way to it was exchanged just now'
    rm -r "$work/way"
    fresh
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

    check_long_pairs
    check_relative_path
    check_way

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
