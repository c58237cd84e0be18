# shellcheck shell=sh
# What deleting by marks needs: the judgement of a list, and taking versions out. Sourced after blat-lib.sh.
#
# Everything here looks again at the moment of the deletion, under the publish lock: what was decided elsewhere may be minutes old.
# shellcheck disable=SC2154 # blat-lib.sh sets $house, $stage, $stage_id and $why

marks=$house/aged
not_read='a list of our own could not be opened; check the limits of this account (ulimit -a), and ask again'
alone= # set where no master compares with its source what is to go

# given: standard input: as many bytes as were announced, where it goes on after the list; else all of it. Not awk's to read: some fill their buffer
# before they look at a line.
given() {
    if [ -n "$bytes" ]; then head -c "$bytes"; else cat; fi
}

# take_list: standard input, lines `NAME VERSION [TIME [INODE CHANGED]...]` closed by `# end COUNT`, to `$stage/list`, and what is known of the
# source to `$stage/source`. A list that was cut on its way is refused as a whole: half a version may be another version.
take_list() {
    own_file "$stage/list" "$stage/source" "$stage/wrong"
    # shellcheck disable=SC2016
    given | awk '
        function good(name) { return length(name) <= 128 && name ~ /^[A-Za-z0-9][A-Za-z0-9._+~-]*$/ }
        function reject(what) { print what; rejected = 1; exit }
        function line() { return "line " NR " is not NAME VERSION [TIME [INODE CHANGED]...]" }
        function known(inode, changed) { return inode ~ /^[0-9]+$/ && changed ~ /^-?[0-9]+[.][0-9][0-9][0-9][0-9][0-9][0-9][0-9]$/ }
        ended { reject("it goes on after its end") }
        $1 == "#" { if ($0 == "# end " (n + 0)) { ended = 1; next } reject("its end count is wrong") }
        NF < 2 || NF > 7 || NF == 4 || NF == 6 || !good($1) || !good($2) { reject(line()) }
        length($1 $2) > 240 { reject("line " NR ": " too_long_pair) }
        NF > 2 && $3 !~ /^-?[0-9]+$/ && !(NF > 3 && $3 == "-") { reject(line()) }
        NF > 3 && !known($4, $5) || NF > 5 && !known($6, $7) { reject(line()) }
        { n++; print $1, $2, (NF > 2 ? $3 : "-") > list }
        NF > 3 { print $1, $2, $4, $5, $6, $7 > source }
        END { if (!rejected) print (ended ? "# good" : "it ends early") }
    ' list="$stage/list" source="$stage/source" too_long_pair="$too_long_pair" >"$stage/wrong" || fail 1 "storing the list in $archive failed: awk could not write; check space and the limits of this account (ulimit -a)"
    said=
    { read -r said <"$stage/wrong"; } 2>/dev/null
    [ "$said" = '# good' ] || bad_usage "the list on standard input is none: ${said:-it could not be looked at}"
}

# keep_off_the_source: fails where a package in `$stage/source` is the source's own, by whatever way it lies here (a mount that is bound elsewhere, an
# overlay, a network file system): the inode and the time of the last change of its descpkg, or of the link, are those that the caller saw at the
# source. Some file servers number inodes anew: then a time that is the same to the last digit has to do; others tell whole seconds only: then the
# inode has to be the same. To be asked under the publish lock.
keep_off_the_source() {
    [ -s "$stage/source" ] || return 0
    # shellcheck disable=SC2016
    same=$(awk '{ print $1 "/" $2; print $1 "/" $2 "/descpkg" }' "$stage/source" | xargs stat -c '%n %i %Z %z %F' 2>&1 | awk '
        function is_same(inode, changed, at) {
            split(changed, at, ".")
            if (at[1] "" != $3 "") return 0
            if (at[2] == "0000000" || ticks == "0000000") return inode "" == $2 ""
            return at[2] "" == ticks ""
        }
        ours == 0 { known[$1 "/" $2] = $3 " " $4 " " $5 " " $6; next }
        # What is not there, or may not be looked at, is not taken out either.
        /: (No such file or directory|Not a directory|Permission denied|Too many levels of symbolic links)$/ {
            sub(/: [^:]*$/, "")
            gsub(/[\047`"]/, "")
            answered[$NF]
            next
        }
        {
            answered[$1]
            ticks = $5
            sub(/^[^.]*/, "", ticks)
            sub(/^[.]/, "", ticks)
            ticks = substr(ticks "0000000", 1, 7)
            path = $1
            if (sub(/\/descpkg$/, "", path)) {
                if (path == link || $7 != "regular") next
            } else if ($7 == "symbolic") link = path
            else next
            split(known[path], word, " ")
            if (is_same(word[1], word[2]) || word[3] != "" && is_same(word[3], word[4])) { print "same " path; exit }
        }
        END {
            for (path in known) if (!(path in answered) || !((path "/descpkg") in answered)) exit 1
            print "all differ"
        }
    ' ours=0 "$stage/source" ours=1 -)
    case $same in
    'all differ') return 0 ;;
    'same '*)
        same=${same%%"$line_end"*}
        same=${same#same }
        ;;
    *) fail 1 "comparing what is in $archive with the source failed: not all of it could be looked at; check the limits of this account (ulimit -a), and ask again" ;;
    esac
    fail 1 "changing what the archive is to hold failed: the archive and the source are the same: the file of ${same%/*}@${same#*/} here is the source's own, so nothing was changed; correct archive or source"
}

# judge due|unlisted: from `$stage/list` makes `$stage/judged`: lines `NAME VERSION TIME [VERDICT]`, without a verdict where nothing speaks
# against deleting. `due` asks for a mark that has waited.
judge() {
    real_file "$house/PackageList.txt" ||
        fail 1 "deleting in $archive failed: there is no $house/PackageList.txt, so nobody knows what is wanted; let the archive be synced first"
    is_small "$house/PackageList.txt" "$most_list" ||
        fail 1 "deleting in $archive failed: $house/PackageList.txt is longer than any; let the archive be synced first"
    own_file "$stage/judged"
    now=$(date +%s)
    is_number "$now" || fail 1 "deleting in $archive failed: date does not say the time; check date +%s"
    # Marks are short regular files; nothing else is opened.
    # shellcheck disable=SC2016
    find "$marks" -type f -size -3 -name '*@*' 2>/dev/null | awk '
        function count(text) { return length(text) <= 15 && text ~ /^[0-9]+$/ }
        wanted == 1 && $1 == "#" { last = $0; next }
        wanted == 1 { last = $0; named[$1 "/" $2]; n++; next }
        wanted == 2 { short[$0]; next }
        {
            verdict = ""
            if (($1 "/" $2) in named) verdict = "wanted the PackageList names it"
            else if (how == "due") {
                mark = marks "/" $1 "@" $2
                at = ""; wait = ""
                if (!(mark in short) || (getline at < mark) <= 0 || (getline wait < mark) <= 0 || !count(at) || !count(wait)) verdict = "unmarked it has no mark that can be read"
                else if (at + 0 > now + 600) verdict = "waiting its mark lies ahead of the clock"
                else if (now - at < wait + 0) verdict = "waiting it stays for " wait - (now - at) " s more"
                close(mark)
            }
            print $1, $2, $3, verdict
        }
        END { if (n > 0 && last == "# end " n) print "# end" }
    ' how="$1" now="$now" marks="$marks" wanted=1 "$house/PackageList.txt" wanted=2 - wanted=0 "$stage/list" >"$stage/judged" ||
        fail 1 "judging what to delete in $archive failed: awk could not read or write; check space and the limits of this account (ulimit -a)"
    [ "$(tail -n 1 "$stage/judged")" = '# end' ] ||
        fail 1 "deleting in $archive failed: $house/PackageList.txt is empty or cut short; let the archive be synced first"
}

# vanish NAME VERSION: a package goes by way of the hidden name that clear_away knows: within its parent even a read-only directory may
# be renamed.
vanish() {
    if [ -L "$1/$2" ]; then
        why=$(rm -f "$1/$2" 2>&1)
        return
    fi
    hidden=$1/.$2.$stage_id
    rename "$1/$2" "$hidden" || return 1
    # It is gone now; if it cannot get to the trash, it is cleared away from where it is.
    to_trash "$hidden" "$1@$2" || return 0
}

# is_mount NAME: something is mounted there, or may be; by `$mounts`, else by its device.
is_mount() {
    case $mounts in *"$line_end$1$line_end"*) return 0 ;; esac
    [ ! -r /proc/self/mountinfo ] || return 1
    devices=$(stat -c %d . "$1" 2>/dev/null) || return 0
    [ "${devices%"$line_end"*}" != "${devices#*"$line_end"}" ]
}

# holds_mount PLACE: something is mounted there or below it; by `$mounts`, where the system tells.
holds_mount() {
    case $mounts in *"$line_end$1$line_end"* | *"$line_end$1/"*) return 0 ;; esac
    return 1
}

# know_bound: `$bound` becomes what of the archive is shown at another place too, by a mount that is bound there, where the system tells: each path below
# the archive between two line ends. False where it could not be found out.
know_bound() {
    bound=$line_end
    [ -r /proc/self/mountinfo ] || return 0
    here=$(here) || return 1
    # Which part of which file system the archive is says the mount that it is on; other mounts of the same may begin in that part.
    # shellcheck disable=SC2016
    bound=$(here=${here%/}/ awk '
        function plain(path) {
            gsub(/\\040/, " ", path)
            gsub(/\\011/, "\t", path)
            gsub(/\\134/, "\\", path)
            sub(/\/$/, "", path)
            return path
        }
        { here = ENVIRON["here"]; root = plain($4); at = plain($5) }
        finding {
            if (index(here, at "/") == 1 && length(at) >= length(best)) { best = at; disk = $3; top = root }
            next
        }
        $3 == disk {
            inside = top substr(here, length(best) + 1)
            if (index(root, inside) == 1) print substr(root, length(inside) + 1)
        }
        END { if (!finding && FNR > 0) print "# end" }
    ' finding=1 /proc/self/mountinfo finding=0 /proc/self/mountinfo) || return 1
    is_whole_list "$bound" || return 1
    bound=$line_end${bound%'# end'}
}

# is_bound NAME VERSION: of those who delete alone, whether it, its name or something in it is shown at another place too; by `$bound`.
is_bound() {
    [ -n "$alone" ] || return 1
    case $bound in *"$line_end$1$line_end"* | *"$line_end$1/$2$line_end"* | *"$line_end$1/$2/"*) return 0 ;; esac
    return 1
}

# take_out NAME VERSION [TIME]: prints the line for the answer. TIME is that of the descpkg that somebody saw; `-` for any.
take_out() {
    if exists "$1" && ! real_dir "$1"; then
        echo "failed $1 $2 foreign $1 is not a directory; move it away"
        return 0
    elif exists "$1" && [ ! -x "$1" ]; then
        echo "failed $1 $2 io $1 may not be entered, so nobody knows what is in it; check owners and modes there"
        return 0
    elif ! exists "$1/$2"; then
        echo "absent $1 $2"
    elif [ ! -L "$1/$2" ] && ! { [ -d "$1/$2" ] && real_file "$1/$2/descpkg"; }; then
        echo "failed $1 $2 foreign it is no package of ours; look at it and remove it by hand"
        return 0
    elif [ "${3:--}" != - ] && [ "$(stat -c %Y "$1/$2/descpkg" 2>/dev/null)" != "$3" ]; then
        echo "kept $1 $2 changed its descpkg is not the one that was listed"
        return 0
    elif is_mount "$1"; then
        echo "failed $1 $2 foreign its name is mounted from elsewhere, so it may be the source's own; unmount that first"
        return 0
    elif holds_mount "$1/$2"; then
        echo "failed $1 $2 foreign something is mounted in it, which would go with it; unmount that first"
        return 0
    elif is_bound "$1" "$2"; then
        echo "failed $1 $2 foreign it is mounted elsewhere too, perhaps in the source, which nobody compares here; unmount that first"
        return 0
    elif holds_foreign "$1/$2"; then
        printf '%s\n' "failed $1 $2 foreign $part"
        return 0
    elif vanish "$1" "$2"; then
        echo "deleted $1 $2"
    else
        advise "$why" "check owners and modes there"
        printf '%s\n' "failed $1 $2 io taking it away failed: $why; $advice"
        return 0
    fi
    # By now there is no package that they could belong to.
    ! real_dir "$house/manifests/$1" || rm -f "$house/manifests/$1/$2" "$house/manifests/$1/.$2.tree"
    ! exists "$marks/$1@$2" || rm -f "$marks/$1@$2"
}

# note_batch: what may have to be cleared away after us, durable before the first rename; from `$stage/list`.
note_batch() {
    own_file "$stage/batch" "$stage/answer"
    while read -r name version rest; do
        echo "$name $version"
    done <"$stage/list" >"$stage/batch" || fail 1 "noting down what to delete in $archive failed: $not_read"
    flush "$stage" || fail 1 "noting down what to delete in $archive failed: the disk reports an error; check the disk"
}

# take_out_judged: from `$stage/judged` makes `$stage/answer`; `$answered` counts its lines.
take_out_judged() {
    answered=0
    { know_mounts && { [ -z "$alone" ] || know_bound; }; } ||
        fail 1 "finding out what is mounted in $archive failed: awk could not read or write; check space and the limits of this account (ulimit -a)"
    while read -r name version time verdict; do
        case $name in '#') break ;; esac
        if [ -n "$verdict" ]; then
            echo "kept $name $version $verdict"
        else
            take_out "$name" "$version" "$time"
        fi
        answered=$((answered + 1))
    done <"$stage/judged" >"$stage/answer" || fail 1 "deleting in $archive failed: $not_read"
}

# drop_empty_names: empty names go too, while nobody can be about to publish into them.
drop_empty_names() {
    while read -r name rest; do
        ! real_dir "$name" || rmdir "$name" 2>/dev/null
        ! real_dir "$house/manifests/$name" || rmdir "$house/manifests/$name" 2>/dev/null
    done <"$stage/list"
}
