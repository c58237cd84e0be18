# shellcheck shell=sh disable=SC2154,SC2034,SC2016 # the harness is what sets and reads the names
# What strangers on the target, its disk and its leftovers must not be able to do.

# closed: locks and the rooms with locks are for their owner alone; others may read the rest.
closed() {
    [ -z "$(find "$arch/.dpkg_archive" -maxdepth 1 -name '*.lock' -perm /077)" ] && [ -z "$(find "$arch/.dpkg_archive"/stage "$arch/.dpkg_archive"/trash -perm /077)" ] &&
        [ "$(stat -c %a "$arch/.dpkg_archive" "$arch/.dpkg_archive/manifests" "$arch/.dpkg_archive/manifests/odd" "$arch/.dpkg_archive/manifests/odd/1" | sort -u | tr '\n' ' ')" = '644 755 ' ]
}

# named PATH: the answer names a leftover, and so does standard error; the answer is whole.
named() {
    ended_well=$(grep -c '^# end' "$work/out")
    grep -q "^leftover $1 cannot be removed: .*not permitted.*by hand" "$work/out" && grep -q "^$verb: $1 cannot be removed" "$work/err" &&
        [ "$status" -eq 0 ] && [ "$ended_well" -eq 1 ] && [ "$(tail -n 1 "$work/out")" = "# end $(($(wc -l <"$work/out") - 2))" ]
}

# stuck PATTERN: rm cannot remove what fits the pattern.
stuck() {
    # Where rm does not stay on a file system, find and rmdir remove.
    for tool in rm rmdir; do
        wrap "$tool" 'case "$*" in '"$1"') echo "rm: cannot remove $*: Operation not permitted" >&2; exit 1 ;; esac
            exec "$real" "$@"'
    done
}

# held_by_file_system SECOND: a file system that makes SECOND of every time after it.
held_by_file_system() {
    wrap touch 'exit 0'
    wrap stat '"$real" "$@" | sed "s/1600000000/'"$1"'/"'
}

# of_group NAME_GROUP GROUP: odd is setgid and of the first group, all of odd@1 is of the other one, and has no such bit.
of_group() {
    [ "$(stat -c '%g %a' "$arch/odd")" = "$1 2755" ] && [ "$(find "$arch/odd/1" -exec stat -c %g {} + | sort -u)" = "$2" ] && no_special_bits_of odd
}

no_special_bits_of() { [ -z "$(find "$arch/$1/1" -perm /7000)" ]; }

check_groups() {
    own=$(id -g)
    other=$(id -G | tr ' ' '\n' | grep -vx "$own" | head -n 1)
    [ -n "$other" ] || {
        echo "not run: groups, since this user has but one"
        return
    }
    fresh
    chgrp "$other" "$arch"
    chmod g+s "$arch"
    receive "$work/both"
    check 'a package gets the group of a setgid archive' of_group "$other" "$other"
    check 'and is what it was' whole odd/1
    receive "$work/odd-replace"
    check 'so does the one that replaces it' of_group "$other" "$other"
    fresh
    receive "$work/even"
    mkdir "$arch/odd"
    chgrp "$other" "$arch/odd"
    chmod g+s "$arch/odd"
    receive "$work/both"
    check 'or of the setgid directory of its name' of_group "$other" "$other"
    check 'and others keep our own' [ "$(find "$arch/even" -exec stat -c %g {} + | sort -u)" = "$own" ]
    fresh
    chgrp "$other" "$arch"
    chmod g+s "$arch"
    # As for somebody who is no member.
    wrap chgrp '[ "$2" = '"$own"' ] || exit 1
        exec "$real" "$@"'
    receive "$work/odd"
    unwrap
    check 'where the group is refused, all of it gets our own' of_group "$other" "$own"
    check 'and it is published' whole odd/1
    fresh
    chgrp "$other" "$arch"
    chmod g+s "$arch"
    receive "$work/even"
    chmod g-s "$arch"
    receive "$work/odd"
    check 'a stage of another group leaves no trace' [ "$(find "$arch/odd" -exec stat -c %g {} + | sort -u)" = "$own" ]
    chmod 755 "$arch"
    chgrp "$own" "$arch"
}

# A folder that everybody may write, with all that they like in it, may come to the place of an archive that is missing for a moment.
check_open_archives() {
    fresh
    receive "$work/odd"
    for mode in 1777 777 1757; do
        chmod "$mode" "$arch"
        run get_plist --archive "$arch" </dev/null
        check "an archive that everybody may write is not listed: $mode" ended 1 'everybody may write it'
        receive "$work/odd-replace"
        check 'nor written' ended 1 'everybody may write it'
    done
    # As a stranger does who exchanges what is made there.
    wrap mkdir 'case "$*" in "-m 700 ./.dpkg_archive-"*) shift 2; exec "$real" -m 777 "$@" ;; esac
        exec "$real" "$@"'
    run get_plist --archive "$arch" </dev/null
    check 'whatever comes into the place of what a look makes there' ended 1 'everybody may write it'
    receive "$work/odd-replace"
    check 'and nothing is made there' [ "$status" -eq 1 -a -z "$(find "$arch" -maxdepth 1 -name '.dpkg_archive-*')" ]
    unwrap
    check_modeless vfat
    chmod 755 "$arch"
    for room in .dpkg_archive .dpkg_archive/manifests .dpkg_archive/trash .dpkg_archive/stage; do
        mode=$(stat -c %a "$arch/$room")
        chmod 777 "$arch/$room"
        receive "$work/odd-replace"
        check "nor is one whose own rooms everybody may write: $room" ended 1 "everybody may write $room;"
        chmod "$mode" "$arch/$room"
        wrap stat '"$real" "$@" | sed "s,^[0-9]* \([^ ]* '"$room"'\)$,4711 \1,"'
        receive "$work/odd-replace"
        unwrap
        check 'nor one where they are somebody elses' ended 1 "$room belongs to the account 4711"
    done
    check 'the package is as it was' arrived odd/1
}

# mounted TYPE: what is mounted seems to be of this type.
mounted() {
    sed -i "s,^mount_table=.*,mount_table=$work/mount_table," "$bin/blat-lib.sh"
    # Its options may have a dash of their own, and what comes later lies on another device.
    printf '21 1 %s / / rw - %s x rw\n22 1 0:9999 / /y rw - vfat y rw\n' "$(stat -c '%Hd:%Ld' "$arch" 2>/dev/null)" ext4 >"$work/mount_table"
    printf '23 1 %s / /z rw shared:1 master:2 - %s x rw\n' "$(stat -c '%Hd:%Ld' "$arch")" "$1" >>"$work/mount_table"
}

check_modeless() {
    chmod 777 "$arch"
    mounted "$1"
    run get_plist --archive "$arch" </dev/null
    check 'nor by its type alone where it can be closed' ended 1 'everybody may write it'
    check 'and gets its mode back' [ "$(stat -c %a "$arch")" = 777 ]
    wrap chmod 'case "$*" in *" .") exit 0 ;; esac
        exec "$real" "$@"'
    run get_plist --archive "$arch" </dev/null
    check 'but on a file system without modes it is' [ "$status" -eq 0 ]
    chmod 777 "$arch/.dpkg_archive" "$arch/.dpkg_archive/manifests"
    receive "$work/odd"
    check 'and written' said 'already odd 1'
    chmod 755 "$arch/.dpkg_archive" "$arch/.dpkg_archive/manifests"
    mounted ext4
    run get_plist --archive "$arch" </dev/null
    check 'and on no other' ended 1 'everybody may write it'
    unwrap
    sed -i 's,^mount_table=.*,mount_table=/proc/self/mountinfo,' "$bin/blat-lib.sh"
}

check_trusting() {
    check_groups
    check_open_archives
    fresh
    receive "$work/odd"
    check 'locks are closed to strangers' closed
    chmod 644 "$arch/.dpkg_archive/publish.lock"
    chmod 755 "$arch/.dpkg_archive/stage" "$arch/.dpkg_archive/trash"
    receive "$work/even"
    check 'those of an older version are closed by the next run' closed
    check 'which publishes' said 'published even 2.0~rc1+x'
    wrap rm 'case "$*" in *.lock*) stat -c %a "$BLAT_TEST"/lock-seen/* >>"$BLAT_TEST/modes" 2>/dev/null; stat -c %a "${3:-$2}" >>"$BLAT_TEST/modes" ;; esac
        exec "$real" "$@"'
    rm -f "$work/modes"
    run pkg_mon --archive "$arch" </dev/null
    run pkg_purge --archive "$arch" </dev/null
    receive "$work/odd-replace"
    unwrap
    check 'so is each lock of a stage' [ "$(sort -u "$work/modes")" = 600 ]
    check 'and those of pkg_mon and pkg_purge' closed

    fresh
    receive "$work/odd"
    mkdir "$arch/.dpkg_archive/trash/dead-1" "$arch/.dpkg_archive/trash/dead-2"
    stuck '*trash/dead-1*'
    receive "$work/even"
    check 'a trash that cannot be removed is named' named .dpkg_archive/trash/dead-1
    check 'and hinders nothing' grep -q '^published even' "$work/out"
    check 'and the others are removed' [ ! -e "$arch/.dpkg_archive/trash/dead-2" ]
    run delete_package --archive "$arch" odd/1 </dev/null
    check 'delete_package names it too' named .dpkg_archive/trash/dead-1
    printf '# end 0\n' >"$work/list"
    run receive_file --archive "$arch" --name PackageList.txt --bytes 8 --sha256 "$(sha256sum <"$work/list" | cut -d ' ' -f 1)" <"$work/list"
    check 'and receive_file' named .dpkg_archive/trash/dead-1
    unwrap
    receive "$work/odd"
    check 'what can be removed in the end is, and nothing is named' said 'published odd 1'
    check 'and nothing is left' nothing_staged

    fresh
    receive "$work/odd"
    mkdir -p "$arch/.dpkg_archive/stage/dead/x" "$arch/odd/.1.dead"
    echo 'odd 1' >"$arch/.dpkg_archive/stage/dead/batch"
    stuck '*odd/.1.dead*'
    receive "$work/even"
    check 'a hidden directory that cannot be removed is named' named odd/.1.dead
    receive "$work/even"
    check 'and again by the next run' named odd/.1.dead
    unwrap
    receive "$work/even"
    check 'until it is gone' nothing_staged

    fresh
    held_by_file_system 1500000000
    receive "$work/odd"
    unwrap
    check 'a time of descpkg that the file system cannot hold fails the package for good, and says so' \
        said 'failed odd 1 foreign its descpkg cannot have the time 1600000000 on this file system, which makes 1500000000 of it; give it another time at the source'
    check 'and it is not published' absent odd

    fresh
    receive "$work/odd"
    wrap sync '[ -e "$BLAT_TEST/broken" ] && exit 1
        [ "$2" != "$BLAT_TEST" ] || exit 0
        case $2 in .dpkg_archive/stage/*) ls "$2" | grep -q answer && exit 1 ;; esac
        exec "$real" "$@"'
    receive "$work/odd"
    unwrap
    check 'nothing is already there before it is durable' ended 1 'making the renames .* durable failed'
    check 'and is not said to be' eval '! grep -q already "$work/out"'
    # As where another process was told of the error: who syncs all hears nothing.
    fresh
    for kind in f d; do
        wrap sync '[ "$1" != -f ] && [ "$1" != --help ] && [ -'"$kind"' "$1" ] && exit 1
            exec "$real" "$@"'
        receive "$work/odd"
        check "an error of one file, or folder, that is told with it alone is heard: $kind" ended 1 'the disk reports an error'
        printf 'odd 1\n# end 1\n' >"$work/list"
        run receive_file --archive "$arch" --name PackageList.txt --bytes "$(wc -c <"$work/list")" --sha256 "$(sha256sum <"$work/list" | cut -d ' ' -f 1)" <"$work/list"
        unwrap
        check 'so is that of a list' ended 1 'the disk reports an error'
    done
    check 'nothing is published' [ ! -e "$arch/odd" -a ! -e "$arch/.dpkg_archive/PackageList.txt" ]

    make_package lost+found 1 1600000000
    make_package odd lost+found 1600000000
    pack "$work/lost" new lost+found/1 odd/lost+found odd/1
    receive "$work/lost"
    check 'what would never be listed is not received' [ "$(grep -c '^failed .* foreign lost+found is a name of file systems' "$work/out")" -eq 2 ]
    check 'all else is' grep -q '^published odd 1$' "$work/out"
    check 'and nothing of that name is there' [ -z "$(find "$arch" -name 'lost+found')" ]
}
