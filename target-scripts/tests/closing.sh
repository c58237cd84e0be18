# shellcheck shell=sh disable=SC2154,SC2034,SC2016 # the harness is what sets and reads the names
# receive_package: packages that their owner at the target may not read, in part or as a whole.

# judged PACKAGE TEXT: what get_plist says of it by the tree file that came with it, modes included.
judged() { grep -q "^closed $1 $2" "$work/out"; }

# shut_off COMMAND...: a check against sources of which one has a name that ends in a blank.
shut_off() { against_source "$work/shutoff" "$@"; }

make_shut_off() {
    mkdir "$work/shutoff"
    shut_off make_package odd 1 1600000000
    shut_off make_package even 2.0~rc1+x 1600000100
    printf 'e\n' >"$work/shutoff/odd/1/back\\slash and blank "
}

# same_bytes: what was closed at last is what was sent.
same_bytes() {
    chmod -R u+rX "$arch/odd/1" &&
        (cd "$arch/odd/1" && sha256sum --strict -c --status "$arch/.dpkg_archive/manifests/odd/1")
}

check_closing() {
    fresh
    closing='s/^file [0-7]*/file 44/; s/^dir 755\(.bin\)$/dir 55\1/; s/^dir 775\(.with space\)$/dir 302\1/; s/^dir 755\(.new.nline\)$/dir 0\1/'
    [ -d "$work/shutoff" ] || make_shut_off
    shut_off pack "$work/shut" new odd/1 even/2.0~rc1+x
    closing=
    receive "$work/shut"
    check 'packages that their owner may not read arrive' said "$both_published"
    check 'and nothing is left beside them' nothing_staged
    rehash 'odd 1' 'even 2.0~rc1+x'
    check 'with the modes of the source, odd names included' judged 'odd 1' '.*the archive'
    check 'in each package' judged 'even 2.0~rc1+x' '.*the archive'
    list
    check 'they are listed' grep -q '^package odd 1 1600000000$' "$work/out"
    receive "$work/shut"
    check 'and there when they come again' said "already odd 1
already even 2.0~rc1+x"
    check 'with the bytes of the source' same_bytes

    fresh
    wrap sha256sum 'case $* in "-c digests") exit 1 ;; esac; exec "$real" "$@"'
    receive "$work/shut"
    unwrap
    check 'each is verified by itself as well' said "$both_published"
    rehash 'odd 1'
    check 'and closed again' judged 'odd 1' '.*the archive'

    fresh
    # One byte of its descpkg.
    sed 's/Package: odd 1/Package: odd 2/' "$work/shut" >"$work/lie"
    receive "$work/lie"
    check 'other bytes of what is closed fail the package' grep -q '^failed odd 1 digest the bytes differ' "$work/out"
    check 'and not the other one' grep -q '^published even' "$work/out"
    rehash 'even 2.0~rc1+x'
    check 'which is closed again' judged 'even 2.0~rc1+x' '.*the archive'

    fresh
    lie_mode=055
    pack "$work/lie" new odd/1
    lie_mode=
    receive "$work/lie"
    check 'a package that is closed as a whole is refused, and the mode is named' \
        grep -q '^failed odd 1 foreign its own directory has the mode 055, which closes it to its owner' "$work/out"
    check 'and nothing of it is there' absent odd/1

    fresh
    wrap chmod 'case $1 in 44) echo "chmod: cannot do it" >&2; exit 1 ;; esac; exec "$real" "$@"'
    receive "$work/shut"
    unwrap
    check 'what cannot be closed again is not published' ended 1 'closing what its owner may not read in .* failed: chmod: cannot do it'
    check 'and nothing is left' nothing_staged
}
