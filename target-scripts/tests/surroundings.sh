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
    check 'and the folder is named' ended 1 "everybody may write a folder on the way, and exchange what lies in it: $work/way/open; "
    chmod 1777 "$work/way/open"
    check 'nor where it is sticky, for the name may have been free' eval '! by "$work/way/open/link"'
    check 'and the link is named' ended 1 "a link on the way lies in a folder that everybody may write: $work/way/open/link"
    mkdir "$work/way/open/arch"
    check 'while a directory of our own is fine there' by "$work/way/open/arch"
    chmod 777 "$work/way/open"
    check 'and not where others may exchange it' eval '! by "$work/way/open/arch"'
    check 'which is said' ended 1 "everybody may write a folder on the way, and exchange what lies in it: $work/way/open; "
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
        check 'and is named' ended 1 "a link on the way belongs to user 4242, neither root nor this account: $work/way/"
    done
    unwrap
    # As if others had a folder on the way.
    for mode in 755 1777; do
        chmod "$mode" "$work/way/open"
        for way in link arch; do
            wrap stat 'case "$*" in *" . ./'$way'") "$real" "$@" | sed "1s/ [0-9]* d/ 4242 d/" ;; "-c %u %A"*) exit 1 ;; *) exec "$real" "$@" ;; esac'
            check "a folder of somebody elses leads nowhere: $way, mode $mode" eval '! by "$work/way/open/$way"'
            check 'and is named again' ended 1 "a folder on the way belongs to user 4242, neither root nor this account, .*: $work/way/open; "
        done
    done
    wrap stat 'case "$*" in "-c %u %A .") echo 4242 drwxr-xr-x ;; "-c %u %A"*) exit 1 ;; *) exec "$real" "$@" ;; esac'
    check 'a directory of somebody elses is no archive' eval '! by "$work/way/absolute"'
    check 'and says whose it is' ended 1 'it belongs to the account 4242, neither root nor this account; make it belong to one of the two'
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
    chmod -R u+rwx "$work/way"
    rm -r "$work/way"
    fresh
}

# What a login's environment says of names that scripts use for themselves counts for nothing.
check_names() {
    fresh
    foreign=$(cat "$here"/../*_* "$here"/../blat-*.sh | sed -n 's/^ *\([a-z][a-z0-9_]*\)=.*/\1=junk/p' | sort -u)
    # shellcheck disable=SC2086 # to be split
    foreign() {
        env -i PATH="$tools" BLAT_TEST="$work" $foreign "$shell" "$bin/$@" 2>&1
    }
    check 'there are such names' [ "$(echo "$foreign" | wc -l)" -gt 100 ]
    check 'they hinder no publishing' eval 'foreign receive_package --archive "$arch" --batch names --compression none --bytes 1 --entries 1 --reserve 0 \
        <"$work/both" >"$work/out"; said "published odd 1${line_end}published even 2.0~rc1+x"'
    # What an interrupted one left is removed as well.
    mkdir -p "$arch/.dpkg_archive/trash/left/behind"
    check 'no replacing' eval 'foreign receive_package --archive "$arch" --batch names --compression none --bytes 1 --entries 1 --reserve 0 \
        <"$work/odd-replace" >"$work/out"; said "replaced odd 1" && nothing_staged'
    check 'no listing' eval 'foreign get_plist --archive "$arch" </dev/null | grep -q "^package odd 1 "'
    echo odd 1 >"$work/pairs"
    check 'no verifying' eval 'foreign get_plist --archive "$arch" --verify <"$work/pairs" | grep -q "^good odd 1"'
    check 'no deleting' eval 'foreign delete_package --archive "$arch" odd/1 </dev/null >"$work/out"; said "deleted odd 1"'
    check 'and no index' eval 'foreign pkg_mon --archive "$arch" </dev/null >"$work/out" && [ ! -s "$work/out" ]'
    fresh
}

# Something takes the archive's place while a package comes: nothing is published in the one that is elsewhere now, and nothing is answered.
check_exchanged() {
    for when in flush verify; do
        fresh
        receive "$work/even"
        case $when in
        flush) wrap sync '[ -e "$BLAT_TEST/exchanged" ] || { mv "'"$arch"'" "'"$arch"'.old"; mkdir "'"$arch"'"; : >"$BLAT_TEST/exchanged"; }; exec "$real" "$@"' ;;
        verify) wrap sha256sum '[ -e "$BLAT_TEST/exchanged" ] || { mv "'"$arch"'" "'"$arch"'.old"; : >"$BLAT_TEST/exchanged"; }; exec "$real" "$@"' ;;
        esac
        receive "$work/odd"
        check "an archive that is exchanged meanwhile is left: $when" ended 1 'entering the archive .* again failed: another directory is there since this began, or none'
        check 'with nothing published' [ ! -e "$arch.old/odd" ]
        unwrap
        chmod -R u+rwx "$arch.old"
        rm -rf "$arch.old" "$work/exchanged"
    done
    (cd "$work" && mkdir -p relative/arch && arch=relative/arch && receive "$work/even")
    check 'a relative path leads there again' grep -qx 'published even 2.0~rc1+x' "$work/out"
    chmod -R u+rwx "$work/relative"
    rm -rf "$work/relative"
    mkdir -p "$arch"
    fresh
}

# Faults that show only where a stranger is quick. A shell goes by the archive's path again where `cd` is told a relative one without -P, and where it says where
# it is; `echo` carries out what backslashes say in a text of somebody else's.
check_words() {
    scripts=$(echo "$here"/../*_* "$here"/../blat-*.sh)
    # shellcheck disable=SC2086 # to be split
    check 'no script changes its directory by the path of the one before' [ -z "$(grep -nE 'cd ["$.]' $scripts)" ]
    # shellcheck disable=SC2086
    check 'nor asks the shell where it is, but to say so' [ -z "$(grep -nE 'pwd -P' $scripts | grep -v -e not_entered -e 'readlink "/proc/' -e ' from=')" ]
    # shellcheck disable=SC2086
    check 'nor echoes what others wrote' [ -z "$(grep -nE 'echo "[^"]*\$\{?(why|part|now|said|rest|record|to|entry)\b' $scripts)" ]
}

# As where the file system does not tell upper from lower case: there somebody's Odd is found by the name odd, and not listed by it.
check_folding() {
    fresh
    mkdir "$arch/.DPKG_ARCHIVE"
    receive "$work/odd"
    check 'two directories are no sign that case does not count' said 'published odd 1'
    wrap stat 'case "$*" in *.DPKG_ARCHIVE*) echo >"$BLAT_TEST/folded"; exec "$real" -c %d:%i .dpkg_archive .dpkg_archive ;; *) exec "$real" "$@" ;; esac'
    receive "$work/both"
    check 'where it does not, what has its very name is published' said "already odd 1${line_end}published even 2.0~rc1+x"
    check 'having been asked' [ -e "$work/folded" ]
    unwrap
    # No entry is called `..`, and yet it leads somewhere.
    cd "$arch" || return
    "$shell" -c '. "$1/blat-lib.sh"; folding=yes; for name in odd none ..; do ! is_misled "$name" . || echo "$why"; done' "$bin/get_plist" "$bin" >"$work/out"
    cd "$here" || return
    check 'what has another name is not' grep -qx 'the file system there takes \.\. for another name, which is there; .*' "$work/out"
    check 'and nothing else is hindered' [ "$(wc -l <"$work/out")" -eq 1 ]
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
    check_folding
    check_words
    check_names
    check_exchanged
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
