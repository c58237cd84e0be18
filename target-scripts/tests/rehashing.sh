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
    chmod -R u+w "$arch/odd"
    (cd "$arch/odd/1" && "$@")
    touch "$work/asked"
    rehash 'odd 1' 'even 2.0~rc1+x'
    check "$title" verdict "$judged"
    check 'and the other package is good' verdict 'good even 2.0~rc1+x '
}

check_rehashing() {
    spoiled 'a package as it was sent is good, odd names included, and says the digest of its manifest' 'good odd 1 [0-9a-f]\{64\}$' true
    spoiled 'another byte is bad, and the file is named' 'bad odd 1 bin/tool: FAILED' sh -c 'chmod u+w bin/tool; echo x >>bin/tool'
    spoiled 'a file that is gone is bad' 'bad odd 1 lib/deep/er/plain: FAILED' rm lib/deep/er/plain
    spoiled 'another byte under an odd name is bad' 'bad odd 1 ' sh -c 'echo x >>"back\\slash"'
    spoiled 'a file too many is bad' 'bad odd 1 it holds more' touch extra
    spoiled 'a link in the place of a file is bad' 'bad odd 1 it holds more' sh -c 'mv bin/tool ../elsewhere; ln -s ../../elsewhere bin/tool'
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
        [ -e "$BLAT_TEST/hashed" ] || { : >"$BLAT_TEST/hashed"; cat "$BLAT_TEST/tool" >bin/tool; chmod 755 .; touch .; }
        exit $status'
    rehash 'odd 1'
    unwrap
    check 'a package that is exchanged while it is hashed is hashed again' grep -q '^good odd 1 ' "$work/out"
    rehash 'odd 1' '../x 1'
    check 'a hostile name is wrong usage' grep -q 'line 2 is not NAME VERSION' "$work/err"
}
