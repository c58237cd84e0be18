# shellcheck shell=sh disable=SC2154,SC2034,SC2016 # the harness is what sets and reads the names
# receive_package's stream: what arrives, what a cut leaves; and receive_file.

both_published='published odd 1
published even 2.0~rc1+x'

both_arrived() {
    ended 0 && said "$both_published" && arrived odd/1 && arrived even/2.0~rc1+x && nothing_staged
}

nothing_visible() {
    ! grep -q '^# end' "$work/out" && absent odd && absent even && nothing_staged
}

# cut FILE COMPRESSION: at many places of the stream.
cut_everywhere() {
    size=$(stat -c %s "$1")
    for part in 0 1 5 10 20 30 40 50 60 70 80 85; do
        fresh
        head -c $((size * part / 100)) "$1" >"$work/cut"
        receive "$work/cut" --compression "$2"
        cut_ended=$status
        nothing_visible && [ "$cut_ended" -eq 1 ] && [ "$(wc -l <"$work/err")" -eq 1 ] || return 1
        list
        listed '' || return 1
    done
}

check_receiving() {
    # On a real disk; the other checks are content with memory.
    usual=$arch
    arch=$work/arch
    for compression in none gzip zstd; do
        case $compression in
        none) file=$work/both ;;
        gzip) file=$work/both.gz ;;
        zstd) file=$work/both.zst ;;
        esac
        if [ "$compression" = zstd ] && ! PATH=$tools command -v zstd >/dev/null; then
            receive "$file" --compression zstd
            check 'a missing zstd is named' ended 1 "needs zstd, which is not on this host's PATH"
            continue
        fi
        fresh
        receive "$file" --compression "$compression"
        check "a stream of two odd packages arrives whole, $compression" both_arrived
        check "a stream that is cut anywhere leaves nothing, $compression" cut_everywhere "$file" "$compression"
    done

    list
    fresh
    receive "$work/odd"
    list
    check 'what arrived is listed' listed 'package odd 1 1600000000'
    receive "$work/even" --batch again
    check 'a second batch arrives beside the first' ended 0
    receive "$work/both"
    check 'what is there already is said to be' said 'already odd 1
already even 2.0~rc1+x'
    check 'and stays' arrived odd/1

    fresh
    lie_batch='# end 0
' pack "$work/given-up" new odd/1
    receive "$work/given-up"
    check 'a package that the batch does not name was given up, in silence' said ''
    check 'and leaves nothing' absent odd

    fresh
    head -c 3000 /dev/zero >"$work/noise"
    receive "$work/noise"
    check 'a stream of zeros is refused' ended 1 'ends without its batch'
    printf 'hello' >"$work/noise"
    receive "$work/noise" --compression gzip
    check 'a stream of something else is refused' ended 1 'unpacking the stream'
    receive "$work/both" --reserve 900000000000000
    check 'no space is status 28, with the numbers' ended 28 'need [0-9]* KiB beside a reserve of 878906250000 KiB, and [0-9]* KiB are free'
    receive "$work/both" --bytes 900000000000000
    check 'no space for the bytes is status 28' ended 28 'finding space'
    wrap tar 'cat >/dev/null; echo "tar: x: Cannot write: No space left on device" >&2; exit 2'
    receive "$work/both"
    unwrap
    check 'space that runs out while unpacking is status 28' ended 28 'No space left on device; make space'
    wrap tar 'cat >/dev/null; echo "tar: x: Wrote only 8192 of 10240 bytes" >&2; exit 2'
    receive "$work/both"
    unwrap
    check 'so it is where tar only says how much it wrote' ended 28 'Wrote only 8192 of 10240 bytes; make space'
    check 'and leaves nothing' nothing_visible

    for complaint in 'Cannot write: File too large=takes no file that large (ulimit -f); raise' \
        'Cannot open: Too many open files=may not open more files (ulimit -n); raise' \
        'Cannot fork=may not start more processes (ulimit -u); raise' \
        'Cannot mkdir: Read-only file system=the file system there is mounted read-only; mount it' \
        'Cannot write: Input/output error=the disk there reports errors; check it'; do
        wrap tar "cat >/dev/null; echo 'tar: first' >&2; echo 'tar: x: ${complaint%=*}' >&2; exit 2"
        receive "$work/both"
        unwrap
        check "a limit of the account or the disk is named: ${complaint%=*}" ended 1 "${complaint%=*}; .*${complaint#*=}"
    done
    [ -e "$work/large" ] || {
        make_package large 1 1600000200 "$(head -c 50000 /dev/zero | tr '\0' x)"
        pack "$work/large" new large/1
    }
    ulimit -S -f 32
    receive "$work/large"
    ulimit -S -f "$(ulimit -H -f)"
    check 'so is a limit that is met' ended 1 'unpacking the stream .*; .* takes no file that large (ulimit -f); raise'
    check 'and nothing is left' nothing_staged
    wrap tar 'cat >/dev/null; echo "tar: x: Cannot open: Disk quota exceeded" >&2; exit 2'
    receive "$work/both"
    unwrap
    check 'a quota that is used up is status 28, and named' ended 28 "Disk quota exceeded; the disk quota of the target's account is used up"
    check 'and leaves nothing' nothing_visible

    check_receiving_files
    fresh
    arch=$usual
}

# receive_list TEXT [ARGUMENT...]
receive_list() {
    printf '%s' "$1" >"$work/list"
    shift
    digest=$(sha256sum <"$work/list")
    run receive_file --archive "$arch" --name PackageList.txt --bytes "$(wc -c <"$work/list")" --sha256 "${digest%% *}" "$@" <"$work/list"
}

list_is() { [ "$(cat "$arch/.dpkg_archive/PackageList.txt")" = "$1" ] && nothing_staged; }

check_receiving_files() {
    fresh
    receive_list 'a 1'
    check 'a package list is stored' said 'stored PackageList.txt
former missing'
    check 'with its text' list_is 'a 1'
    receive_list 'b 2'
    check 'a newer one replaces it' list_is 'b 2'
    receive_list 'c' --bytes 7
    check 'a short one is refused' ended 1 'another length'
    receive_list 'cccccccccc' --bytes 7
    check 'a long one is refused' ended 1 'another length'
    receive_list 'c' --sha256 "$(printf '%064d' 0)"
    check 'one with another digest is refused' ended 1 'another digest'
    receive_list 'c' --sha256 short
    check 'a malformed digest is wrong usage' ended 2 'sha256'
    receive_list 'c' --name dpkg_archive_list.txt
    check 'any other name is wrong usage' ended 2 "--name takes PackageList.txt, links or archive"
    receive_list 'c' --name ../PackageList.txt
    check 'so is a path' ended 2
    check 'and the old one stays' list_is 'b 2'
    receive_list 'c' --archive "$work/none"
    check 'a missing archive is an error for a file' ended 1 "entering the archive $work/none failed"
    wrap sync '[ "$1" = --help ] && exec "$real" "$@"; exit 1'
    receive_list 'c'
    unwrap
    check 'a disk that fails is an error for a file' ended 1 'durable failed'
    check 'and the old one stays, still' list_is 'b 2'
    mkdir -p "$work/dir/PackageList.txt"
    rm "$arch/.dpkg_archive/PackageList.txt"
    mkdir "$arch/.dpkg_archive/PackageList.txt"
    receive_list 'c'
    check 'a directory in its place is an error' ended 1 'moving PackageList.txt'
    check 'and nothing is put into it' [ -z "$(ls "$arch/.dpkg_archive/PackageList.txt")" ]
}
