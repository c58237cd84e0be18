# shellcheck shell=sh disable=SC2154,SC2034,SC2016 # the harness is what sets and reads the names
# receive_file with links: versions that are symbolic links to other versions.

# link LINE...: these lines as the links to put.
link() {
    printf '%s\n' "$@" >"$work/links"
    link_file
}

link_file() {
    digest=$(sha256sum <"$work/links")
    run receive_file --archive "$arch" --name links --bytes "$(wc -c <"$work/links")" --sha256 "${digest%% *}" <"$work/links"
}

leads() { [ "$(readlink "$arch/$1")" = "$2" ] && nothing_staged; }

check_links() {
    fresh
    put core/1 1600000000
    put core/2 1600000000
    put tools/7 1600000000
    link 'core current 1' 'tools latest 7' 'core stable current'
    check 'links are put' said 'linked core current
linked tools latest
linked core stable'
    check 'where they lead' leads core/current 1
    check 'one may address another link' leads core/stable current
    list
    check 'links are listed beside packages' listed 'link core current 1
link core stable current
link tools latest 7
package core 1 1600000000
package core 2 1600000000
package tools 7 1600000000'
    before_link=$(stat -c '%i %z' "$arch/core/current")
    mkdir "$arch/.dpkg_archive/aged"
    printf '%s\n' 1 1 >"$arch/.dpkg_archive/aged/core@current"
    link 'core current 1'
    check 'a link that stands is left alone' said 'already core current'
    check 'and is not marked any more' [ ! -e "$arch/.dpkg_archive/aged/core@current" ]
    rmdir "$arch/.dpkg_archive/aged"
    check 'untouched' [ "$before_link" = "$(stat -c '%i %z' "$arch/core/current")" ]

    # Whoever looks while mv runs finds the old link or the new one.
    wrap mv 'readlink core/current >>"$BLAT_TEST/seen"; "$real" "$@"; status=$?; readlink core/current >>"$BLAT_TEST/seen"; exit $status'
    : >"$work/seen"
    link 'core current 2'
    unwrap
    check 'a link that leads elsewhere is replaced' said 'linked core current'
    check 'by the new one' leads core/current 2
    check 'and is there all the time' [ "$(sort -u "$work/seen" | tr '\n' ' ')" = '1 2 ' ]
    check 'and what it led to stays' [ -e "$arch/core/1/descpkg" ]
    rm "$arch/core/current"
    ln -s /nowhere "$arch/core/current"
    link 'core current 2'
    check 'a dangling link is replaced' leads core/current 2

    link 'core 1 2' 'core lost 9' 'none current 1'
    check 'nothing but a link is replaced' grep -q '^failed core 1 foreign ' "$work/out"
    check 'and the package stays' [ -e "$arch/core/1/descpkg" -a ! -L "$arch/core/1" ]
    check 'nothing is linked to what is not there' grep -q '^failed core lost absent 9, which it shall address, is not there' "$work/out"
    check 'nor below a name that is not there' grep -q '^failed none current absent ' "$work/out"
    check 'and none is made' [ ! -L "$arch/core/lost" -a ! -e "$arch/none" ]
    mkdir "$arch/core/bare"
    link 'core x bare'
    check 'a directory without descpkg is not addressed' grep -q '^failed core x absent ' "$work/out"
    ln -s core "$arch/alias"
    link 'alias current 1'
    check 'a link in the place of a name is not followed' grep -q '^failed alias current foreign ' "$work/out"

    for bad in 'core current ../1' 'core current /etc' 'core ../x 1' '.. current 1' 'core current' 'core current 1 2' 'core current .'; do
        link 'core fine 1' "$bad"
        check "a hostile link is wrong usage: $bad" ended 2 'line 2 of the links is not NAME VERSION TO'
        check 'and none of the others is put' [ ! -L "$arch/core/fine" ]
    done
    printf 'core fine 1' >"$work/links"
    link_file
    check 'a torn line is wrong usage' ended 2 'do not end with a line end'
}
