# shellcheck shell=sh disable=SC2154,SC2034 # the harness is what sets and reads the names
# That no file in the archive fills the memory of this host, however long it is: a hole takes no space on its disk.

# bounded VERB ARGUMENT...: a run with less memory than such a file would take.
bounded() {
    command="$*"
    verb=$1
    shift
    (
        # shellcheck disable=SC3045 # each of these shells has it
        ulimit -v 1000000
        exec env -i HOME="$work/home" PATH="$tools" "$shell" "$bin/$verb" "$@"
    ) <"$work/list" >"$work/out" 2>"$work/err"
    status=$?
}

endless() {
    rm -f "$1"
    truncate -s 30G "$1"
}

check_bounding() {
    fresh
    receive "$work/both"
    house=$arch/.dpkg_archive
    mkdir -p "$house/aged"
    printf 'odd 1\neven 2.0~rc1+x\n# end 2\n' >"$work/list"
    endless "$house/PackageList.txt"
    bounded delete_package --archive "$arch" --unlisted
    check 'nothing is deleted by an endless PackageList' ended 1 'is longer than any'
    stamp odd@1 5000 5
    bounded pkg_purge --archive "$arch"
    check 'nor purged' ended 1
    printf 'odd 1\n# end 1\n' >"$work/list"
    bounded receive_file --archive "$arch" --name PackageList.txt --bytes "$(wc -c <"$work/list")" \
        --sha256 "$(sha256sum <"$work/list" | cut -d ' ' -f 1)" --confirm 5
    check 'the next one is compared with it at no cost' ended 75
    bounded receive_file --archive "$arch" --name PackageList.txt --bytes "$(wc -c <"$work/list")" \
        --sha256 "$(sha256sum <"$work/list" | cut -d ' ' -f 1)"
    check 'and replaces it' said 'stored PackageList.txt
former damaged'
    bounded receive_file --archive "$arch" --name PackageList.txt --bytes 67108865 --sha256 "$(sha256sum <"$work/list" | cut -d ' ' -f 1)"
    check 'one that is too long is not taken' ended 2 'at most'
    want other/1
    endless "$house/aged/odd@1"
    bounded get_plist --archive "$arch"
    check 'an endless mark is not listed' [ "$status" -eq 0 -a -z "$(grep '^mark' "$work/out")" ]
    printf 'odd 1\n# end 1\n' >"$work/list"
    bounded delete_package --archive "$arch" --due
    check 'and lets nothing go' said 'kept odd 1 unmarked it has no mark that can be read'
    rm "$house/aged/odd@1"
    mkfifo "$house/aged/odd@1"
    bounded delete_package --archive "$arch" --due
    check 'nor does a pipe, which is not waited for' said 'kept odd 1 unmarked it has no mark that can be read'
    rm "$house/aged/odd@1"
    endless "$house/aged/odd@1"
    bounded delete_package --archive "$arch" --mark 5
    check 'it is made anew' said 'marked odd 1'
    check 'and is short' mark_is odd@1 0 5
    endless "$house/clock"
    bounded pkg_purge --archive "$arch"
    check 'an endless note of the clock lets nothing go' ended 1 'it is not known when the archive was synced last, so nothing is deleted'
    rm "$house/clock"
    endless "$house/manifests/odd/1"
    echo odd 1 >"$work/list"
    bounded get_plist --archive "$arch" --verify
    check 'an endless manifest is a bad one' said 'bad odd 1 its manifest or tree file is longer than any'
}
