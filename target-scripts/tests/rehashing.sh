# shellcheck shell=sh disable=SC2154,SC2034,SC2016 # the harness is what sets and reads the names
# get_plist --verify: packages hashed again against their manifests.

rehash() {
    printf '%s\n' "$@" | run get_plist --archive "$arch" --verify
    # The pipe runs it in a process of its own where the shell is so minded.
    grep -v '^alive$' "$work/out" >"$work/rest"
    mv "$work/rest" "$work/out"
}

# verdict TEXT: of odd@1, with nothing changed by asking.
verdict() { grep -q "^$1" "$work/out" && [ "$(find "$arch" -newer "$work/asked" ! -type d | wc -l)" -eq 0 ]; }

# spoiled TITLE TEXT COMMAND...: odd@1 after COMMAND is judged so.
spoiled() {
    title=$1
    judged=$2
    shift 2
    fresh
    receive "$work/both"
    # What a change needs to be possible is put back.
    find "$arch/odd/1" -type d ! -perm -200 -exec chmod u+w {} + -exec sh -c 'printf "%s\0" "$@" >>"$0"' "$work/closed" {} +
    (cd "$arch/odd/1" && "$@")
    xargs -0 chmod -f u-w <"$work/closed"
    rm "$work/closed"
    touch "$work/asked"
    rehash 'odd 1' 'even 2.0~rc1+x'
    check "$title" verdict "$judged"
    check 'and the other package is good' verdict 'good even 2.0~rc1+x '
}

# once_hashed TITLE TEXT COMMAND: what COMMAND makes of odd@1 in the instant before its files are opened is judged so.
once_hashed() {
    fresh
    receive "$work/both"
    chmod -R u+w "$arch/odd/1/bin" "$arch/odd/1/back\\slash"
    rm -f "$work/hashed"
    wrap sha256sum '[ -e "$BLAT_TEST/hashed" ] || { : >"$BLAT_TEST/hashed"; '"$3"'; }
        exec "$real" "$@"'
    printf 'odd 1\neven 2.0~rc1+x\n' >"$work/named"
    command="get_plist --verify"
    env -i PATH="$before:$tools" BLAT_TEST="$work" timeout 60 "$shell" "$bin/get_plist" --archive "$arch" --verify <"$work/named" >"$work/out" 2>"$work/err"
    status=$?
    unwrap
    check "$1" [ "$status" -eq 0 -a "$(grep -c "$2" "$work/out")" -eq 1 ]
    check 'and the other package is good' grep -q '^good even' "$work/out"
}

hasher_runs() { kill -0 "$(cat "$work/hasher")" 2>/dev/null; }

# foreign_file FILE: as where FILE of odd@1 is a stranger's.
foreign_file() {
    wrap find 'case "$*" in *"-type f ! -user "*) echo "./'"$1"'" ;; *) exec "$real" "$@" ;; esac'
}

check_strangers() {
    fresh
    receive "$work/both"
    printf 'odd 1\neven 2.0~rc1+x\n' >"$work/named"
    foreign_file bin/tool
    wrap sha256sum 'case "$(pwd -P)" in */odd/1) [ "$1" != -c ] || : >"$BLAT_TEST/hashed" ;; esac; exec "$real" "$@"'
    rm -f "$work/hashed"
    run get_plist --archive "$arch" --verify <"$work/named"
    unwrap
    check "a stranger's file is bad" grep -q '^bad odd 1 bin/tool: it belongs to neither root nor the account' "$work/out"
    check 'and nothing of its package is hashed' [ ! -e "$work/hashed" ]
    # One that comes in the instant before it is opened.
    wrap stat 'case "$*" in "-L -c %u "*) echo 4711 ;; *) exec "$real" "$@" ;; esac'
    wrap sha256sum '[ "$1" = -c ] || exec "$real" "$@"
        exec 3<descpkg; exec "$real" /dev/zero'
    echo 'odd 1' >"$work/named"
    command='get_plist --verify'
    env -i PATH="$before:$tools" BLAT_TEST="$work" timeout 60 "$shell" "$bin/get_plist" --archive "$arch" --verify <"$work/named" >"$work/out" 2>"$work/err"
    status=$?
    unwrap
    check 'so is one that is hashed without end' grep -q '^bad odd 1 ' "$work/out"
}

# What everybody may write may be long without a hole: a piece of another file stands in it any number of times.
check_changed() {
    fresh
    receive "$work/both"
    printf 'odd 1\neven 2.0~rc1+x\n' >"$work/named"
    chmod 666 "$arch/odd/1/back\\slash"
    tree=$arch/.dpkg_archive/manifests/odd/.1.tree
    chmod u+w "$tree"
    sed 's/^file 664\(.back\)/file 666\1/' "$tree" >"$work/tree"
    cat "$work/tree" >"$tree"
    sleep 1.1
    chmod 600 "$arch/.dpkg_archive/manifests/odd/1"
    chmod 644 "$arch/.dpkg_archive/manifests/odd/1"
    run get_plist --archive "$arch" --verify <"$work/named"
    check 'what everybody may write is good as it came' [ "$(grep -c ^good "$work/out")" -eq 2 ]
    sleep 1.1
    truncate -s 1100M "$arch/odd/1/back\\slash"
    touch -d @1500000000 "$arch/odd/1/back\\slash"
    wrap sha256sum 'case "$(pwd -P)" in */odd/1) [ "$1" != -c ] || : >"$BLAT_TEST/hashed" ;; esac; exec "$real" "$@"'
    rm -f "$work/hashed"
    run get_plist --archive "$arch" --verify <"$work/named"
    unwrap
    check 'and bad once it was changed, whatever time it has' grep -q '^bad odd 1 back.slash: everybody may write it, and it was changed since it came$' "$work/out"
    check 'and nothing of its package is hashed' [ ! -e "$work/hashed" ]
    check 'the others are' grep -q '^good even' "$work/out"
    truncate -s 2 "$arch/odd/1/back\\slash"
    chmod 664 "$arch/odd/1/back\\slash"
    run get_plist --archive "$arch" --verify <"$work/named"
    check 'what not everybody may write is hashed' grep -q '^bad odd 1 back.*slash: is file 664, was sent as file 666$' "$work/out"
}

check_hanging() {
    check_changed
    check_strangers
    once_hashed 'a pipe that comes in the place of a file ends the hashing' '^bad odd 1 ' 'rm -f bin/tool; mkfifo -m 755 bin/tool'
    once_hashed 'so does a pipe that somebody keeps open' '^bad odd 1 ' \
        'rm -f bin/tool; mkfifo -m 755 bin/tool; sh -c "exec 3<>bin/tool; sleep 20" </dev/null >/dev/null 2>&1 & sleep 1'
    once_hashed 'so does a device' '^bad odd 1 ' 'rm -f bin/tool; ln -s /dev/zero bin/tool'
    if [ -r /proc/self/pagemap ]; then
        once_hashed 'so does what lies elsewhere and has no end' '^bad odd 1 ' 'rm -f bin/tool; ln -s /proc/self/pagemap bin/tool'
    fi
    once_hashed 'so does a file that others may write and made long without an end' '^bad odd 1 ' 'truncate -s 15T back*; chmod 666 back*'
    # A process that is called `\nPID (x`.
    wrap cat '"$real" "$@"
        status=$?
        case $* in */stat*) [ ! -s "$BLAT_TEST/hasher" ] || printf "1 (\\n%s (x) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 77 1 1 1 1 1 1 1 1\\n" "$("$real" "$BLAT_TEST/hasher")" ;; esac
        exit $status'
    once_hashed 'whatever name another process has' '^bad odd 1 ' 'echo $$ >"$BLAT_TEST/hasher"; rm -f bin/tool; ln -s /dev/zero bin/tool'
    rm -f "$work/hasher"
    once_hashed 'so does a pipe under an odd name' '^bad odd 1 ' 'rm -f back*; mkfifo "back\\slash"'

    fresh
    receive "$work/odd"
    wrap sha256sum '[ "$1" = -c ] || exec "$real" "$@"
        echo $$ >"$BLAT_TEST/hasher"
        while :; do :; done'
    echo 'odd 1' >"$work/named"
    {
        env -i PATH="$before:$tools" BLAT_TEST="$work" timeout 60 "$shell" "$bin/get_plist" --archive "$arch" --verify <"$work/named" 2>"$work/err"
        echo $? >"$work/status"
    } | head -n 1 >/dev/null
    unwrap
    status=$(cat "$work/status")
    verb=get_plist
    : >"$work/out"
    check 'once nobody hears it any more, what hashes is ended' ended 75 'whoever asked is gone'
    check 'and does not stay' eval '! hasher_runs'
    rm -f "$work/hasher"
    wrap sha256sum '[ "$1" = -c ] || exec "$real" "$@"
        echo $$ >"$BLAT_TEST/hasher"
        while :; do :; done'
    env -i PATH="$before:$tools" BLAT_TEST="$work" "$shell" "$bin/get_plist" --archive "$arch" --verify <"$work/named" >/dev/null 2>&1 &
    number=$!
    eventually [ -s "$work/hasher" ]
    sleep 6
    kill -9 "$number"
    wait "$number" 2>/dev/null
    unwrap
    check 'nor where the script is killed' eventually eval '! hasher_runs'
    fresh
}

check_rehashing() {
    check_hanging
    spoiled 'a package as it was sent is good, odd names included, and says the digests of its manifest and its tree' \
        'good odd 1 [0-9a-f]\{64\} [0-9a-f]\{64\}$' true
    spoiled 'another byte is bad, and the file is named' 'bad odd 1 bin/tool: FAILED' sh -c 'chmod u+w bin/tool; echo x >>bin/tool'
    spoiled 'a file that is gone is bad' 'bad odd 1 lib/deep/er/plain: FAILED' rm lib/deep/er/plain
    spoiled 'another byte under an odd name is bad' 'bad odd 1 ' sh -c 'echo x >>"back\\slash"'
    spoiled 'a file too many is bad' 'bad odd 1 extra: was not sent' touch extra
    spoiled 'a link in the place of a file is bad' 'bad odd 1 bin/tool: is link ../../elsewhere, was sent as file 555' \
        sh -c 'mv bin/tool ../elsewhere; ln -s ../../elsewhere bin/tool'
    spoiled 'a pipe in the place of a file is bad, and nobody waits at it' 'bad odd 1 bin/tool: is something else, was sent as file 555' \
        sh -c 'rm lib/dangling bin/tool; mkfifo bin/tool'
    spoiled 'a link that leads elsewhere is bad' 'bad odd 1 lib/dangling: is link elsewhere, was sent as link nowhere' ln -sfn elsewhere lib/dangling
    spoiled 'a link that is gone is bad' 'bad odd 1 lib/dangling: missing' rm lib/dangling
    spoiled 'a link too many is bad' 'bad odd 1 lib/more: was not sent' ln -s x lib/more
    spoiled 'another mode of a file is bad' 'bad odd 1 bin/tool: is file 755, was sent as file 555' chmod 755 bin/tool
    spoiled 'setuid is another mode' 'bad odd 1 bin/tool: is file 4555, was sent as file 555' chmod 4555 bin/tool
    spoiled 'another mode of a directory is bad' 'bad odd 1 bin: is dir 700, was sent as dir 755' chmod 700 bin
    spoiled 'another mode of the package itself is bad' 'bad odd 1 \.: is dir 511, was sent as dir 555' chmod 711 .
    spoiled 'a directory that is gone is bad' 'bad odd 1 empty: missing' rmdir empty
    spoiled 'a directory too many is bad' 'bad odd 1 bin/more: was not sent' mkdir bin/more
    spoiled 'a pipe too many is bad' 'bad odd 1 pipe: was not sent' mkfifo pipe
    spoiled 'odd names are shown as they are written' 'bad odd 1 new\\nline: is dir 700' sh -c 'chmod 700 new*'
    as_sent='t=../../.dpkg_archive/manifests/odd/.1.tree; sed "$1" "$t" >../tree; chmod u+w "$t"; cat ../tree >"$t"; rm ../tree'
    spoiled 'a file that its owner may not read, and that was sent so, is closed' 'closed odd 1 bin/tool: the archive' \
        sh -c "chmod 044 bin/tool; $as_sent" sh 's/^file 555\(.bin.tool\)$/file 44\1/'
    spoiled 'what is in a directory that its owner may not enter, and that was sent so, is closed' 'closed odd 1 bin/tool: the archive' \
        sh -c "chmod 0 bin; $as_sent" sh 's/^dir 755\(.bin\)$/dir 0\1/'
    spoiled 'so is what is in one that can be listed alone' 'closed odd 1 bin/tool: the archive' \
        sh -c "chmod 444 bin; $as_sent" sh 's/^dir 755\(.bin\)$/dir 444\1/'
    spoiled 'what is wrong elsewhere shows all the same' 'bad odd 1 lib/dangling: missing' \
        sh -c "chmod 0 bin; rm lib/dangling; $as_sent" sh 's/^dir 755\(.bin\)$/dir 0\1/'
    spoiled 'what was closed later is bad' 'bad odd 1 bin/tool: is file 44, was sent as file 555' chmod 044 bin/tool
    spoiled 'so is a directory that was closed later' 'bad odd 1 bin: is dir 0, was sent as dir 755' chmod 0 bin
    spoiled 'a damaged tree file is told' 'bad odd 1 its tree file is damaged' sh -c 'echo x >>../../.dpkg_archive/manifests/odd/.1.tree'
    spoiled 'without a tree file the files alone are compared' 'good odd 1 [0-9a-f]\{64\}$' rm ../../.dpkg_archive/manifests/odd/.1.tree
    spoiled 'a package without its manifest is told' 'unknown odd 1 its manifest is gone' rm "$arch/.dpkg_archive/manifests/odd/1"
    spoiled 'a package that is gone is told' 'absent odd 1 ' rm descpkg
    fresh
    receive "$work/odd"
    cp "$arch/odd/1/bin/tool" "$work/tool"
    chmod u+w "$arch/odd/1/bin/tool"
    echo x >>"$arch/odd/1/bin/tool"
    rm -f "$work/hashed"
    # Its successor comes while the old one is hashed.
    wrap sha256sum '"$real" "$@"
        status=$?
        [ -e "$BLAT_TEST/hashed" ] || { : >"$BLAT_TEST/hashed"; cat "$BLAT_TEST/tool" >bin/tool; chmod 555 bin/tool; touch .; }
        exit $status'
    rehash 'odd 1'
    unwrap
    check 'a package that is exchanged while it is hashed is hashed again' grep -q '^good odd 1 ' "$work/out"
    rehash 'odd 1' '../x 1'
    check 'a hostile name is wrong usage' grep -q 'line 2 is not NAME VERSION' "$work/err"
}
