# shellcheck shell=sh disable=SC2154,SC2034,SC2016 # the harness is what sets and reads the names
# pkg_mon.

mon() { run pkg_mon --archive "$arch" </dev/null; }

index() { cat "$arch/.dpkg_archive/dpkg_archive_list.txt"; }

# indexed TEXT: pkg_mon said nothing, and the index is these lines.
indexed() { ended 0 && [ ! -s "$work/out" ] && printf '%s\n' "$1" | cmp -s - "$arch/.dpkg_archive/dpkg_archive_list.txt"; }

# all_indexed: the index is what a walk by other means finds.
all_indexed() {
    indexed "$(cd "$arch" && find . -mindepth 1 \( -path './.*' -o -path './*/.*' ! -path './*/*/*' \) -prune -o -type d -printf '%P/\0' -o -printf '%P\0' |
        tr '\n\0' '?\n' | sort)"
}

all_indexed_or_named() { [ "$(index | grep -c /plain/inner/)" -eq "$(find "$arch/a/1/plain/inner" | wc -l)" ] || { [ "$status" -eq 0 ] && grep -q 'paths longer than any' "$work/err"; }; }

# all_settled: nothing two levels down changed in this second or the last one, so that every change is told from the next.
all_settled() {
    newest=$(find "$arch" -mindepth 1 -maxdepth 2 -name '.*' -prune -o -printf '%C@\n' | sort -n | tail -n 1)
    [ "$(date +%s)" -gt $((${newest%.*} + 1)) ]
}

# count_walks: whatever find walks below the second level from now on is noted in $work/walks. Not before all has settled.
count_walks() {
    eventually all_settled
    : >"$work/walks"
    wrap find 'case $* in *maxdepth*) ;; *) printf "%s\n" "$@" | grep "^\./" >>"$BLAT_TEST/walks" ;; esac; exec "$real" "$@"'
}

walked_only() { [ "$(sort "$work/walks" | tr '\n' ' ')" = "$1" ]; }

check_first_index() {
    fresh
    mon
    check 'the index of an empty archive is empty' [ "$status" -eq 0 -a -e "$arch/.dpkg_archive/dpkg_archive_list.txt" -a -z "$(index)" ]
    receive "$work/both"
    mon
    check 'everything of packages is in the index' all_indexed
    check 'directories end in a slash' grep -q '^odd/1/lib/deep/$' "$arch/.dpkg_archive/dpkg_archive_list.txt"
    check 'it is sorted' sort -c "$arch/.dpkg_archive/dpkg_archive_list.txt"
    check 'and nothing is left' nothing_staged
    fresh
    put a/1 5
    put a/1.0 5
    put a/1-0 5
    put a-b/1 5
    put a.b/1 5
    mkdir -p "$arch/a/.1.batch-7" "$arch/.hidden" "$arch/ odd  name /x" "$arch/-rf/-x" "$arch/a/1/.inner" "$arch/empty"
    ln -s 1 "$arch/a/now"
    ln -s a "$arch/alias"
    : >"$arch/a/stray"
    : >"$arch/stray file"
    : >"$arch/a/1/line
break"
    mon
    check 'in the order of whole lines, whatever the names are' indexed " odd  name /
 odd  name /x/
-rf/
-rf/-x/
a-b/
a-b/1/
a-b/1/descpkg
a.b/
a.b/1/
a.b/1/descpkg
a/
a/1-0/
a/1-0/descpkg
a/1.0/
a/1.0/descpkg
a/1/
a/1/.inner/
a/1/descpkg
a/1/line?break
a/now
a/stray
alias
empty/
stray file"
}

check_next_index() {
    fresh
    for place in a/1 a/2 b/1 c/1; do
        put "$place" 5
        : >"$arch/$place/file"
    done
    mkdir -p "$arch/c/no-package"
    count_walks
    mon
    check 'the first time, every version is walked' walked_only './a/1 ./a/2 ./b/1 ./c/1 ./c/no-package '
    count_walks
    mon
    check 'the second time none that is a package' walked_only './c/no-package '
    check 'and the index stays as it was' all_indexed
    put a/3 7
    count_walks
    mon
    check 'a new version is walked, and no other' walked_only './a/3 ./c/no-package '
    check 'and is in the index' all_indexed
    : >"$arch/a/2/more"
    mon
    check 'a version that changed is walked again' all_indexed
    mkdir "$work/other"
    cp -R "$arch/b/1" "$work/other/1"
    : >"$work/other/1/renewed"
    rm -r "$arch/b/1"
    mv "$work/other/1" "$arch/b/1"
    rmdir "$work/other"
    mon
    check 'so is one that was replaced' all_indexed
    : >"$arch/c/no-package/deep"
    rm -r "$arch/a/1" "$arch/b"
    ln -s 2 "$arch/a/now"
    mon
    check 'what is gone is gone, and links are there' all_indexed
    rm -r "$arch/a"
    : >"$arch/a"
    mon
    check 'a name that became a file is one' all_indexed
    rm "$arch/a"
    put a/9 7
    mon
    check 'and a name again' all_indexed
    unwrap
}

# What find complains of in the instant after its look, because somebody closes a folder within a package or puts a file in its place.
# all_but_b: all is in the index, of b/1 perhaps itself alone, which is named then.
all_but_b() {
    [ "$status" -eq 0 ] || return 1
    if [ "$ended" = always ]; then
        [ "$(index | tr '\n' ' ')" = 'a/ a/1/ a/1/descpkg b/ b/1/ c/ c/1/ c/1/descpkg d/ d/1/ d/1/descpkg ' ] && grep -q 'the first is b/1/$' "$work/err"
    else
        all_indexed
    fi
}

check_meddling() {
    for why in 'Permission denied' 'Not a directory' 'Too many levels of symbolic links' 'No such file or directory'; do
        for quote in "'" ''; do
            rm -r "$arch/.dpkg_archive/index"
            wrap find '"$real" "$@"
                status=$?
                case "$*" in *"./b/1 "*) cat "$BLAT_TEST/complaint" >&2; exit 1 ;; esac
                exit $status'
            printf '%s\n' "find: $quote./b/1/pub/k4$quote: $why" >"$work/complaint"
            put "c/${#why}" 5
            mon
            unwrap
            check "what becomes of a folder within a package hinders no index: $why $quote" [ "$status" -eq 0 ]
            check 'which has all else' grep -q "^c/${#why}/descpkg$" "$arch/.dpkg_archive/dpkg_archive_list.txt"
        done
    done
    rm -r "$arch/c"
    mon
}

# What ends find in the middle of its work.
check_ended_walk() {
    fresh
    for place in a/1 b/1 c/1 d/1; do put "$place" 5; done
    # By such words GNU find ends, and says nothing of what it has seen so far.
    for why in "find: failed to read file names from file system at or below './b/1': No such file or directory" \
        "find: failed to read file names from file system at or below './b/1': File name too long" \
        "find: './b/1': Permission denied" ''; do
        printf '%s\n' "$why" | grep . >"$work/complaint"
        for ended in only_together always; do
            [ "$ended$why" != always ] || continue
            rm -r "$arch/.dpkg_archive/index" 2>/dev/null
            wrap find 'case "$*" in *"./b/1 -type"*) [ '"$ended"' = only_together ] || { cat "$BLAT_TEST/complaint" >&2; exit 1; } ;; esac
                case "$*" in *"./b/1 ./"*) cat "$BLAT_TEST/complaint" >&2; exit 1 ;; esac
                exec "$real" "$@"'
            mon
            unwrap
            check "what ends find keeps nothing else from the index, $ended: $why" all_but_b
        done
    done
    eventually all_settled
    echo 'find: ./b/1: Permission denied' >"$work/complaint"
    rm -r "$arch/.dpkg_archive/index"
    ended=always
    wrap find 'case "$*" in *"./b/1 "*) cat "$BLAT_TEST/complaint" >&2; exit 1 ;; esac
        exec "$real" "$@"'
    mon
    unwrap
    check 'a version at which find fails is named' all_but_b
    mon
    check 'and walked anew the next time' all_indexed
    for why in 'Input/output error' 'Cannot allocate memory' 'No space left on device'; do
        : >"$arch/b/1/${why%%/*}"
        index >"$work/before"
        wrap find 'case "$*" in *"./b/1 "*) echo "find: '"'./b/1/x': $why"'" >&2; exit 1 ;; esac
            exec "$real" "$@"'
        mon
        unwrap
        check "what is wrong with the disk or the host leaves the index: $why" eval '[ "$status" -ne 0 ] && index | cmp -s - "$work/before"'
    done
}

check_foreign_folders() {
    fresh
    put a/1 5
    mkdir "$arch/a/1/@part" "$arch/@open"
    : >"$arch/a/1/@part/file"
    for place in @eaDir lost+found '#recycle' a/@eaDir a/lost+found 'a/no name' a/1/@eaDir a/1/.snapshot a/1/lost+found; do
        mkdir -p "$arch/$place/x"
        chmod 000 "$arch/$place"
    done
    mon
    check 'foreign folders that are closed are left out of the index, at any depth' indexed '@open/
a/
a/1/
a/1/@part/
a/1/@part/file
a/1/descpkg'
    chmod 755 "$arch/a/@eaDir"
    chmod 311 "$arch/@open"
    mon
    check 'one that is opened is in it, and one that is closed no more' indexed 'a/
a/1/
a/1/@part/
a/1/@part/file
a/1/descpkg
a/@eaDir/
a/@eaDir/x/'
    chmod -R u+rwx "$arch"
    mkdir -p "$arch/a/1/plain"
    mkdir "$arch/a/1/plain/inner"
    chmod 000 "$arch/a/1/plain"
    put b/1 5
    mon
    check 'a closed folder of another name is listed as itself' [ "$(index | grep -c plain)" -eq 1 -a "$status" -eq 0 ]
    check 'and named once' [ "$(grep -c 'is not in the index of .*; the first is a/1/plain/$' "$work/err")" -eq 1 ]
    check 'all else is in the index' grep -q '^b/1/descpkg$' "$arch/.dpkg_archive/dpkg_archive_list.txt"
    eventually all_settled
    mon
    mon
    check 'which is not said each night' [ "$status" -eq 0 -a ! -s "$work/err" ]
    check_meddling
    chmod 755 "$arch/a/1/plain"
    chmod 000 "$arch/b/1"
    mon
    check 'a closed version is an error' ended 1 'ermission denied'
    chmod 755 "$arch/b/1"
    rm -r "$arch/b"
    (
        cd "$arch/a/1/plain/inner" || exit
        for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24; do
            mkdir "$(printf '%0200d' 1)" && cd -P "$(printf '%0200d' 1)" || exit
        done
    ) 2>/dev/null
    touch "$arch/a/1"
    mon
    check 'folders of paths longer than any are in the index, or named' all_indexed_or_named
    rm -r "$arch/a/1/plain"
}

check_index_troubles() {
    fresh
    put a/1 5
    mon
    put a/2 5
    chmod 000 "$arch/a/2"
    mon
    check 'what cannot be read is an error' ended 1 'ermission denied'
    chmod 755 "$arch/a/2"
    check 'and leaves the old index' [ "$(index)" = 'a/
a/1/
a/1/descpkg' ]
    mon
    check 'which is renewed when it can be read' all_indexed
    put b/1 5
    rm "$arch/.dpkg_archive/index/of/a"
    mon
    check 'a section that somebody removed is made anew' all_indexed
    rm "$arch/.dpkg_archive/index/of/a"
    put a/3 5
    mon
    check 'even where only some of it would have been walked' all_indexed
    : >"$arch/.dpkg_archive/index/of/gone"
    mon
    check 'one that belongs to nothing is not listed' all_indexed
    rm -r "$arch/.dpkg_archive/index"
    mon
    check 'so are all, without their directory' all_indexed
    : >"$work/held"
    flock "$arch/.dpkg_archive/index.lock" sh -c ': >"$0/held.on"; while [ -e "$0/held" ]; do sleep 0.02; done' "$work" &
    eventually [ -e "$work/held.on" ]
    mon
    check 'two at once are one too many' ended 75 'another pkg_mon runs'
    rm "$work/held" "$work/held.on"
    wait
    rm "$arch/.dpkg_archive/dpkg_archive_list.txt"
    (cd / && env -i "$shell" "$bin/pkg_mon" --archive "$arch") >"$work/out" 2>"$work/err"
    status=$?
    check 'it runs from an empty environment' all_indexed
    run pkg_mon --archive "$work/none" </dev/null
    check 'a missing archive is an error for the index' ended 1 'entering the archive'
    check 'nothing is left' nothing_staged
}

check_whose_jobs() {
    fresh
    receive "$work/odd"
    mon
    listed=$(ls -laR "$arch")
    wrap stat 'case "$*" in *"%u %U"*) echo "0 root"; exit ;; esac
        exec "$real" "$@"'
    mon
    check 'pkg_mon of another account refuses and says whose the archive is' ended 1 'belongs to the account root (user 0), .*crontab of root'
    run pkg_purge --archive "$arch" </dev/null
    check 'so does pkg_purge' ended 1 'belongs to the account root (user 0), .*crontab of root'
    check 'nothing was left by them' [ "$(ls -laR "$arch" | sed 's/[0-9][0-9]:[0-9][0-9]//')" = "$(printf '%s\n' "$listed" | sed 's/[0-9][0-9]:[0-9][0-9]//')" ]
    unwrap
    wrap id 'case "$*" in -u) echo 4711; exit ;; esac
        exec "$real" "$@"'
    mon
    check 'where the file system shows all files as those of one account, jobs go on' ended 0
    unwrap
}

check_indexing() {
    check_first_index
    check_whose_jobs
    check_next_index
    check_foreign_folders
    check_ended_walk
    check_index_troubles
}
