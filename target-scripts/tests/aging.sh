# shellcheck shell=sh disable=SC2154,SC2034,SC2016 # the harness is what sets and reads the names
# Marks, deleting by them, and pkg_purge.

# feed TEXT ARGUMENT...: a run of delete_package with a closed list on standard input.
feed() {
    feed_text=$1
    shift
    { [ -z "$feed_text" ] || printf '%s\n' "$feed_text"; printf '# end %s\n' "$(printf '%s' "$feed_text" | grep -c .)"; } >"$work/list"
    run delete_package --archive "$arch" "$@" <"$work/list"
}

purge() { run pkg_purge --archive "$arch" "$@" </dev/null; }

# want [NAME/VERSION...]: what the PackageList names from now on; it is as new as after a sync.
want() {
    mkdir -p "$arch/.dpkg_archive"
    { for place; do echo "${place%%/*} ${place#*/}"; done && echo "# end $#"; } >"$arch/.dpkg_archive/PackageList.txt"
}

# synced SECONDS [UPTIME-SECONDS BOOT]: the last sync was so long ago.
synced() {
    read -r up rest </proc/uptime
    read -r boot </proc/sys/kernel/random/boot_id
    echo "$(($(date +%s) - $1)) $((${up%%.*} - ${2-$1})) ${3-$boot}" >"$arch/.dpkg_archive/clock"
    stored
}

# stored [RECORD [PLACE [PURGE]]]: for whom and where, and whether the target itself may purge; by what is there now.
stored() {
    head -n 1 "$arch/.dpkg_archive/clock" >"$work/clock"
    printf '%s\n' "${1:-$(tr '\n' ' ' 2>/dev/null <"$arch/.dpkg_archive/archive" | sed 's/ $//' | grep . || echo -)}" \
        "${2:-$(stat -c %d:%i "$arch")}" "${3-purge yes}" >>"$work/clock"
    cp "$work/clock" "$arch/.dpkg_archive/clock"
}

# stamp NAME@VERSION SECONDS WAIT: a mark that was made so long ago.
stamp() {
    mkdir -p "$arch/.dpkg_archive/aged"
    printf '%s\n%s\n' "$(($(date +%s) - $2))" "$3" >"$arch/.dpkg_archive/aged/$1"
}

marked() { [ -f "$arch/.dpkg_archive/aged/$1" ]; }
unmarked() { ! marked "$1"; }

# mark_is NAME@VERSION SECONDS WAIT: give or take a minute.
mark_is() {
    { read -r at && read -r wait; } <"$arch/.dpkg_archive/aged/$1" || return 1
    off=$(($(date +%s) - at - $2))
    [ "$wait" -eq "$3" ] && [ "$off" -ge 0 ] && [ "$off" -le 60 ]
}

quiet() { ended 0 && [ ! -s "$work/out" ]; }
printed() { ended "${2:-0}" && printf '%s\n' "$1" | cmp -s - "$work/out"; }

check_marks() {
    fresh
    receive "$work/both"
    feed 'odd 1 1600000000
none 7' --mark 500
    check 'what is there is marked, and only that' said 'marked odd 1
absent none 7'
    check 'with the second of the mark and the time to wait' mark_is odd@1 0 500
    stamp odd@1 5000 500
    feed 'odd 1' --mark 700
    check 'a mark that is there keeps its time and takes another wait' mark_is odd@1 5000 700
    stamp odd@1 -5000 500
    feed 'odd 1' --mark 700
    check 'a mark that lies ahead is made anew' mark_is odd@1 0 700
    feed 'odd 1
none 7' --unmark
    check 'marks are taken away, those that are not there too' said 'unmarked odd 1
unmarked none 7'
    check 'for real' unmarked odd@1
    stamp odd@1 5 5
    receive "$work/odd"
    check 'a package that is sent again is marked no more' unmarked odd@1
    check 'nothing is left' nothing_staged
    check_advice
}

# A disk that is read-only, or ails, is no matter of owners and modes, whichever line says so.
check_advice() {
    stamp odd@1 5 5
    for tool in mv ln rm; do
        wrap "$tool" 'case "$*" in *trash*|*.lock*) ;; *odd*) echo "$0: it failed: Read-only file system" >&2; exit 1 ;; esac; exec "$real" "$@"'
        case $tool in
        mv) feed 'odd 1' --mark 5 ;;
        ln)
            printf 'odd now 1\n' >"$work/links"
            send_links_as
            ;;
        rm) feed 'odd 1' --unmark ;;
        esac
        unwrap
        check "a read-only disk is named where $tool fails" grep -q '^failed odd .*Read-only file system; the file system there is mounted read-only; mount it' "$work/out"
    done
    want even/1
    wrap mv 'case "$*" in *" odd/1 "*|"odd/1 "*) echo "mv: it failed: Input/output error" >&2; exit 1 ;; esac; exec "$real" "$@"'
    feed 'odd 1' --unlisted
    check 'so is one that ails, where a package cannot be taken away' grep -q '^failed odd 1 io .*; the disk there reports errors; check it' "$work/out"
    unwrap
    wrap find 'case "$*" in *maxdepth\ 2*type\ d*) echo "find: ./odd: Input/output error" >&2; exit 1 ;; esac; exec "$real" "$@"'
    run get_plist --archive "$arch" </dev/null
    unwrap
    check 'or all cannot be listed' ended 1 'nput/output error; the disk there reports errors; check it'
    wrap mv 'case "$*" in *"even/2.0"*) echo "mv: it failed: Read-only file system" >&2; exit 1 ;; esac; exec "$real" "$@"'
    wrap perl 'exit 1'
    chmod -R u+w "$arch/even"
    rm -r "$arch/even"
    receive "$work/even"
    unwrap
    check 'or one that comes cannot be put in its place' grep -q '^failed even 2.0~rc1+x io .*; the file system there is mounted read-only; mount it' "$work/out"
}

check_due() {
    fresh
    receive "$work/both"
    feed 'odd 1' --unlisted
    check 'without a PackageList nothing is deleted' ended 1 'no .*PackageList'
    want
    feed 'odd 1' --unlisted
    check 'nor by an empty one' ended 1 'empty or cut short'
    printf 'even 2.0~rc1+x\n# end 2\n' >"$arch/.dpkg_archive/PackageList.txt"
    feed 'odd 1' --unlisted
    check 'nor by one that is cut' ended 1 'empty or cut short'
    want even/2.0~rc1+x
    feed 'even 2.0~rc1+x' --unlisted
    check 'what the PackageList names is kept' said 'kept even 2.0~rc1+x wanted the PackageList names it'
    feed 'odd 1 1600000001' --unlisted
    check 'what changed since it was listed is kept' said 'kept odd 1 changed its descpkg is not the one that was listed'
    feed 'odd 1' --due
    check 'what is not marked is kept' said 'kept odd 1 unmarked it has no mark that can be read'
    stamp odd@1 -5000 5
    feed 'odd 1' --due
    check 'a mark from the future is not followed' said 'kept odd 1 waiting its mark lies ahead of the clock'
    stamp odd@1 10 5000
    feed 'odd 1' --due
    check 'what still waits is kept' grep -q '^kept odd 1 waiting it stays for 49[0-9][0-9] s more' "$work/out"
    check 'all of it' arrived odd/1
    stamp odd@1 5000 5000
    feed 'odd 1 1600000000' --due
    check 'what has waited is deleted' said 'deleted odd 1'
    check 'with its mark, its manifest and its name' [ -z "$(find "$arch" -name '*odd*')" ]
    receive "$work/odd"
    ln -s 1 "$arch/odd/now"
    feed 'odd now
odd 1 1600000000' --unlisted
    check 'at once where nobody waits, read-only trees and links too' said 'deleted odd now
deleted odd 1'
    check 'nothing else is gone' arrived even/2.0~rc1+x
    check 'and nothing is left' nothing_staged
}

check_lists() {
    fresh
    receive "$work/odd"
    want even/1
    for bad in 'odd' 'odd 1' 'odd 1 soon
# end 1' 'odd ../1
# end 1' 'odd 1
# end 2' '# end 0
odd 1' ''; do
        printf '%s\n' "$bad" >"$work/list"
        run delete_package --archive "$arch" --unlisted <"$work/list"
        check "a list that is cut or hostile is wrong usage: $(printf '%.12s' "$bad" | tr '\n' ' ')" ended 2 'the list on standard input'
    done
    check 'and deletes nothing' arrived odd/1
    feed '' --unlisted
    check 'an empty list is nothing to do' said ''
    for bad in -1 '' soon 1d; do
        feed 'odd 1' --mark "$bad"
        check "a bad wait is wrong usage: $bad" ended 2 'number of seconds'
    done
    feed 'odd 1' --due odd/1
    check 'packages come in one way only' ended 2 'standard input'
}

check_purging() {
    fresh
    purge
    check 'a purge of an empty archive says nothing' quiet
    receive "$work/both"
    want even/2.0~rc1+x
    synced 100
    purge
    check 'nor where nothing is marked' quiet
    stamp odd@1 5000 9000
    stamp even@2.0~rc1+x 5000 5
    stamp no@where 5000 5
    stamp 'strange mark@1' 5000 5
    purge --dry-run
    check 'what is wanted or waits is not named by a dry run' printed 'would delete no where'
    stamp odd@1 5000 5000
    purge --dry-run
    check 'what is due is' printed 'would delete no where
would delete odd 1'
    check 'and stays' arrived odd/1
    purge
    check 'what is due is deleted' printed 'deleted odd 1'
    check 'for good' absent odd
    check 'with marks of what is not there' unmarked no@where
    check 'what is wanted stays, marked or not' arrived even/2.0~rc1+x
    check 'nothing is left' nothing_staged
    purge
    check 'a second purge has nothing to do' quiet
}

# Whatever is wrong with the clock, the list or the lock, a package that is due stays.
check_doubts() {
    fresh
    receive "$work/both"
    stamp odd@1 5000 5
    purge
    check 'nothing is purged without a PackageList' ended 1
    want
    synced 100
    purge
    check 'nor by an empty one' ended 1 'empty or cut short'
    want even/2.0~rc1+x
    synced 100000 100
    purge
    check 'nor by a clock that was set forward' ended 1 'the clock was set'
    synced 1000 9000
    purge
    check 'nor by one that was set back a little' ended 1 'the clock was set'
    synced -5000
    purge
    check 'nor by one that is behind the last sync' ended 1 'behind the last sync'
    synced 200000
    purge
    check 'nor by a sync of days ago, for a disk that is put back within one boot looks as it did then' ended 1 'the last sync was 2 days ago'
    synced 31536000 5 another-boot
    purge
    check 'nor by one that gained a year while the host was off' ended 1 '365 days ago'
    echo nonsense >"$arch/.dpkg_archive/clock"
    purge
    check 'nor where the last sync is not known' ended 1 'not known when'
    rm "$arch/.dpkg_archive/clock"
    touch -d '2001-01-01' "$arch/.dpkg_archive/PackageList.txt"
    purge
    check 'nor by an old list' ended 1 'days ago'
    wrap date 'echo soon'
    purge
    unwrap
    check 'nor by a date that says nothing' ended 1
    want even/2.0~rc1+x
    synced 0
    stamp odd@1 -5000 5
    purge
    check 'nor by a mark from the future' quiet
    stamp odd@1 5000 5
    : >"$work/held"
    flock "$arch/.dpkg_archive/purge.lock" sh -c ': >"$0/held.on"; while [ -e "$0/held" ]; do sleep 0.02; done' "$work" &
    eventually [ -e "$work/held.on" ]
    purge
    check 'nor by two at once' ended 75 'another pkg_purge runs'
    rm "$work/held" "$work/held.on"
    wait
    check 'through all of this it stayed' arrived odd/1
    rm "$arch/.dpkg_archive/clock"
    purge
    check 'nor where no clock was noted' ended 1 'an older version stored it.* until the next sync; let the archive be synced'
    synced 0
    purge
    check 'and goes when all is well' printed 'deleted odd 1'
    fresh
    receive "$work/odd"
    want even/2.0~rc1+x
    synced 0
    stamp odd@1 5000 5
    chmod u+w "$arch/odd/1"
    mkdir -p "$arch/odd/1/deep/inner/.dpkg_archive"
    : >"$arch/odd/1/deep/inner/.dpkg_archive/archive"
    purge
    check 'what another archive lies in is not purged' ended 1 'another archive is in it, which would go with it'
    feed 'odd 1' --unlisted
    check 'nor deleted' grep -q '^failed odd 1 foreign another archive is in it' "$work/out"
    check 'and stays as it is, with its mark' [ -e "$arch/odd/1/deep/inner/.dpkg_archive/archive" -a -e "$arch/.dpkg_archive/aged/odd@1" ]
    chmod 311 "$arch/odd/1/deep"
    purge
    check 'closed as its folder may be' ended 1 'another archive is in it, which would go with it'
    chmod 755 "$arch/odd/1/deep"
    rm -r "$arch/odd/1/deep"
    purge
    check 'until that is gone' printed 'deleted odd 1'
    run pkg_purge --archive "$work/none" </dev/null
    check 'a missing archive is an error for a purge' ended 1 'entering the archive'
    purge --really
    check 'an unknown option is wrong usage for a purge' ended 2 'not known'
    env -i "$shell" "$bin/pkg_purge" --archive "$arch" >"$work/out" 2>"$work/err"
    status=$?
    check 'it runs from an empty environment' quiet
}

# keeps_all PATTERN: nothing goes, nor would, and the complaint says PATTERN and what to do.
keeps_all() {
    purge --dry-run
    ended 1 "$1, so nothing is deleted until the next sync${2-}; let the archive be synced" || return 1
    purge
    ended 1 "$1, so nothing is deleted until the next sync${2-}; let the archive be synced" && arrived odd/1 && marked odd@1
}

# What a former owner marked, and what a copy of the archive or another disk says, is not obeyed.
check_stored_for_whom() {
    fresh
    receive "$work/both"
    claim first "$id_a $home_a perth"
    stamp odd@1 5000 5
    keep='even 2.0~rc1+x
# end 1
'
    store "$home_a perth" "$keep"
    check 'a stored list says for whom and where' [ "$(sed 1d "$arch/.dpkg_archive/clock")" = "$id_a $home_a perth
$(stat -c %d:%i "$arch")
purge yes" ]
    purge --dry-run
    check 'by that a purge goes' printed 'would delete odd 1'
    claim adopt "$id_b $home_b oslo"
    stamp odd@1 5000 5
    check 'not once somebody else has adopted the archive' keeps_all 'the archive was adopted, or lost its record, since then' ' of oslo'
    claim adopt "$id_b $home_a perth"
    stamp odd@1 5000 5
    check 'nor after an adoption back' keeps_all 'the archive was adopted, or lost its record, since then' ' of perth'
    store "$home_a perth" "$keep"
    purge --dry-run
    check 'until the next sync' printed 'would delete odd 1'
    cp -a "$arch" "$arch.copy"
    mv "$arch" "$arch.lost"
    mv "$arch.copy" "$arch"
    check 'nor in a copy of the archive' keeps_all 'it was stored in another directory, so this one may be a copy, or another disk' ' of perth'
    store "$home_a perth" "$keep"
    purge --dry-run
    check 'until that is synced' printed 'would delete odd 1'
    chmod -R u+w "$arch.lost"
    rm -rf "$arch.lost"
    place=$(stat -c %i "$arch")
    stored '' "4711:$place"
    check 'nor on another device' keeps_all 'it was stored in another directory, so this one may be a copy, or another disk' ' of perth'
    synced 0 0 another-boot
    stored '' "4711:$place"
    purge --dry-run
    check 'but its number may change when the system is started' printed 'would delete odd 1'
    stored '' "4711:4711"
    check 'and that of its directory does not' keeps_all 'it was stored in another directory, so this one may be a copy, or another disk' ' of perth'
    changed='the list, or clock beside it, was changed after it was stored, so it may be a backup that was put back'
    synced 700
    check 'nor by a backup that was put back into the very directory' keeps_all "$changed" ' of perth'
    synced 0
    wrap stat 'case "$*" in "-c %Z "*/PackageList.txt) "$real" "$@" | { read -r a; read -r b; echo "$a"; echo $((b + 700)); } ;; *) exec "$real" "$@" ;; esac'
    check 'be it of the list alone' keeps_all "$changed" ' of perth'
    wrap stat 'case "$*" in "-c %Z "*) "$real" -c %Z "$3" ;; *) exec "$real" "$@" ;; esac'
    check 'nor where their last change is not known' keeps_all "$changed" ' of perth'
    unwrap
    purge --dry-run
    check 'but by one that was stored and left alone' printed 'would delete odd 1'
    head -n 1 "$arch/.dpkg_archive/clock" >"$work/clock"
    cp "$work/clock" "$arch/.dpkg_archive/clock"
    check 'nor by what an older version stored' keeps_all 'an older version stored it, or something cut it short, and nothing says for whom and where' ' of perth'
    stored
    : >"$arch/.dpkg_archive/archive"
    stored '?'
    check 'nor with a record that names nobody' keeps_all 'does not name its owner, or cannot be read'
    rm "$arch/.dpkg_archive/archive"
    stored "$id_b $home_a perth"
    check 'nor without the record that was there' keeps_all 'the archive was adopted, or lost its record, since then'
    stored
    purge
    check 'by whom nobody owns, as long as that is so' printed 'deleted odd 1'
}

# not_left: nothing goes, nor would, and the complaint says that the last sync did not leave it to the target.
not_left() {
    for how in --dry-run ''; do
        purge $how
        ended 1 'the last sync held deletions back, or the master deletes by itself, so nothing is deleted until a sync of perth allows it; ' || return 1
    done
    arrived odd/1 && marked odd@1
}

# Marks of earlier syncs are there while a later one holds deletions back, or after the master took over.
check_held_back() {
    fresh
    receive "$work/both"
    claim first "$id_a $home_a perth"
    stamp odd@1 5000 5
    keep='even 2.0~rc1+x
# end 1
'
    store_with "$home_a perth" "$keep"
    check 'a sync that says nothing of purging leaves nothing to the target' not_left
    store_with "$home_a perth" "$keep" --purge yes
    purge --dry-run
    check 'one that leaves it to the target does' printed 'would delete odd 1'
    store_with "$home_a perth" "$keep" --purge no
    check 'until a later one holds it back' not_left
    for line in 'purge' 'purge yes no' 'purge yess' ' ' 'yes'; do
        stored '' '' "$line"
        check "nor does any other word allow it: $line" not_left
    done
    head -n 3 "$arch/.dpkg_archive/clock" >"$work/clock"
    cp "$work/clock" "$arch/.dpkg_archive/clock"
    check 'nor what an older version stored' not_left
    store_with "$home_a perth" "$keep" --purge maybe
    check 'another word is wrong usage' ended 2 'yes or no'
    store_with "$home_a perth" "$keep" --purge yes
    wrap mv 'case "$*" in *"/clock "*) kill -9 $PPID; exit 1 ;; esac; exec "$real" "$@"'
    store_with "$home_a perth" "$keep" --purge no
    unwrap
    check 'one that is cut between the list and its word leaves no former word' keeps_all \
        'an older version stored it, or something cut it short, and nothing says for whom and where' ' of perth'
}

check_aging() {
    check_held_back
    check_stored_for_whom
    check_marks
    check_due
    check_lists
    check_purging
    check_doubts
}
