# shellcheck shell=sh disable=SC2154,SC2034,SC2016 # the harness is what sets and reads the names
# get_plist.

# put NAME/VERSION TIME: just enough of a package to be listed.
put() {
    mkdir -p "$arch/$1"
    : >"$arch/$1/descpkg"
    touch -d "@$2" "$arch/$1/descpkg"
}

# listed TEXT: as `said`, in any order; the clock, which every listing tells, left out.
listed() {
    cp "$work/out" "$work/out.raw"
    {
        head -n 1 "$work/out"
        sed '1d; $d; /^clock [0-9]*$/d' "$work/out" | sort
        tail -n 1 "$work/out" | awk '{ print $1, $2, $3 - 1 }'
    } >"$work/sorted" && mv "$work/sorted" "$work/out"
    said "$1"
}

whole_list() { ended 0 && listed "$1"; }

check_listing() {
    fresh
    list
    check 'an empty archive is an empty list' whole_list ''
    check 'and it says how many bytes are free' [ "${free:-0}" -gt 0 ]

    put alpha/1.0 1600000000.999
    put alpha/2.0 5
    put b-e.t_a/~x 7
    put b-e.t_a/1~x+y_z 0
    mkdir -p "$arch/alpha/no-descpkg" "$arch/alpha/.3.0.stage" "$arch/.dpkg_archive/x" "$arch/lost+found" "$arch/-dash/1" "$arch/sp ace/1"
    : >"$arch/alpha/.3.0.stage/descpkg"
    : >"$arch/.dpkg_archive/x/descpkg"
    : >"$arch/-dash/1/descpkg"
    : >"$arch/sp ace/1/descpkg"
    : >"$arch/alpha/file"
    chmod 000 "$arch/lost+found"
    mkdir -p "$arch/alpha/link-as-descpkg" "$arch/alpha/dir-as-descpkg/descpkg"
    ln -s ../1.0/descpkg "$arch/alpha/link-as-descpkg/descpkg"
    ln -s 2.0 "$arch/alpha/current"
    ln -s '/some where' "$arch/alpha/away"
    ln -s alpha "$arch/name-link"
    wanted='link alpha away /some where
link alpha current 2.0
package alpha 1.0 1600000000
package alpha 2.0 5
package b-e.t_a 1~x+y_z 0'
    list
    check 'packages and links are listed, and nothing else' whole_list "$wanted"

    mkdir -p "$arch/.dpkg_archive/aged/a@dir"
    printf '1600000000\n2592000\n' >"$arch/.dpkg_archive/aged/alpha@1.0"
    printf '1600000000\n' >"$arch/.dpkg_archive/aged/alpha@2.0"
    printf 'soon\n5\n' >"$arch/.dpkg_archive/aged/alpha@3"
    printf '1\n5\n' >"$arch/.dpkg_archive/aged/al pha@3"
    printf '1\n5\n' >"$arch/.dpkg_archive/aged/x@1
mark evil 1 1 5"
    list
    check 'marks are listed, and what is none is not' whole_list "$(printf '%s\n' "$wanted" | sed '2a\
mark alpha 1.0 1600000000 2592000')"
    check 'with what the clock says' grep -q '^clock [0-9]\{10\}$' "$work/out.raw"
    rm -rf "$arch/.dpkg_archive/aged"

    # Each of these would forge a line if it were printed as it is.
    mkdir -p "$arch/q
package evil 1 7
x/1" "$arch/alpha/9
package evil 1 7" "$arch/q
7 81a4 ./1"
    : >"$arch/q
package evil 1 7
x/1/descpkg"
    : >"$arch/alpha/9
package evil 1 7/descpkg"
    put "q
7 81a4 ./evil
/1" 7
    put "q
link evil/1
/2" 7
    ln -s '1
package evil 1 7' "$arch/alpha/crooked"
    ln -s 'x y' "$arch/alpha/b c"
    ln -s 'x' "$arch/alpha/b
evil"
    wanted="$(printf '%s\n' "$wanted" | sed '2i\
link alpha crooked 1?package evil 1 7')"
    list
    check 'no name forges a line or breaks the count' whole_list "$wanted"

    # What hosts, file servers and file systems put into archives, and keep for themselves.
    long=$(printf '%0129d' 0)
    chmod 755 "$arch/lost+found"
    for foreign in @eaDir .snapshot '#recycle' 'System Volume Information' '$RECYCLE.BIN' lost+found "$long"; do
        mkdir -p "$arch/$foreign/1" "$arch/alpha/$foreign/x"
        : >"$arch/$foreign/1/descpkg"
        : >"$arch/alpha/$foreign/descpkg"
        chmod 000 "$arch/$foreign" "$arch/alpha/$foreign"
    done
    list
    check 'foreign folders that are closed are no part of a listing, and do not fail it' whole_list "$wanted"
    chmod -R u+rwx "$arch/lost+found" "$arch/alpha/lost+found"
    list
    check 'nor is lost+found where it is open' whole_list "$wanted"

    mkdir -p "$arch/closed/1"
    chmod 000 "$arch/closed"
    list
    chmod 755 "$arch/closed"
    check 'an unreadable name directory fails the listing' ended 1 'listing .*closed.*'
    put closed/1 7
    chmod 000 "$arch/closed/1"
    list
    chmod 755 "$arch/closed/1"
    check 'an unreadable version directory fails the listing' ended 1 'listing '

    # All but the look at the way to the archive.
    wrap stat 'case "$*" in *%A*) exec "$real" "$@" ;; esac
        exec head -c 10 /dev/zero >/dev/full'
    list
    unwrap
    check 'a failing tool fails the listing' ended 1 'listing '

    run get_plist --archive "$work/none" </dev/null
    check 'a missing archive is an error' ended 1 "entering the archive $work/none failed"
    check 'a missing archive is not made' [ ! -e "$work/none" ]
    run get_plist </dev/null
    check 'no archive at all is wrong usage' ended 2 '--archive DIR is missing'
    run get_plist --archive "$arch" --more x </dev/null
    check 'an unknown option is wrong usage' ended 2 '--more is not known'
    chmod -R u+rwx "$arch"
}
