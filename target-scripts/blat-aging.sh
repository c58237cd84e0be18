# shellcheck shell=sh
# What deleting by marks needs: the judgement of a list, and taking versions out. Sourced after blat-lib.sh.
#
# Everything here looks again at the moment of the deletion, under the publish lock: what was decided elsewhere may be minutes old.
# shellcheck disable=SC2154 # blat-lib.sh sets $house, $stage, $stage_id and $why

marks=$house/aged

# given: standard input: as many bytes as were announced, where it goes on after the list; else all of it. Not awk's to read: some fill their buffer
# before they look at a line.
given() {
    if [ -n "$bytes" ]; then head -c "$bytes"; else cat; fi
}

# take_list: standard input, lines `NAME VERSION [TIME]` closed by `# end COUNT`, to `$stage/list`. A list that was cut on its way is refused
# as a whole: half a version may be another version.
take_list() {
    own_file "$stage/list" "$stage/wrong"
    # shellcheck disable=SC2016
    given | awk '
        function good(name) { return length(name) <= 128 && name ~ /^[A-Za-z0-9][A-Za-z0-9._+~-]*$/ }
        function reject(what) { print what; rejected = 1; exit }
        ended { reject("it goes on after its end") }
        $1 == "#" { if ($0 == "# end " (n + 0)) { ended = 1; next } reject("its end count is wrong") }
        NF < 2 || NF > 3 || !good($1) || !good($2) || (NF == 3 && $3 !~ /^-?[0-9]+$/) { reject("line " NR " is not NAME VERSION [TIME]") }
        { n++; print $1, $2, (NF == 3 ? $3 : "-") > list }
        END { if (!rejected && !ended) print "it ends early" }
    ' list="$stage/list" >"$stage/wrong" || fail 1 "storing the list in $archive failed: awk could not write; check space"
    read -r said <"$stage/wrong" && bad_usage "the list on standard input is none: $said"
    return 0
}

# judge due|unlisted: from `$stage/list` makes `$stage/judged`: lines `NAME VERSION TIME [VERDICT]`, without a verdict where nothing speaks
# against deleting. `due` asks for a mark that has waited.
judge() {
    real_file "$house/PackageList.txt" ||
        fail 1 "deleting in $archive failed: there is no $house/PackageList.txt, so nobody knows what is wanted; let the archive be synced first"
    own_file "$stage/judged"
    now=$(date +%s)
    is_number "$now" || fail 1 "deleting in $archive failed: date does not say the time; check date +%s"
    # shellcheck disable=SC2016
    awk '
        function count(text) { return length(text) <= 15 && text ~ /^[0-9]+$/ }
        wanted && $1 == "#" { last = $0; next }
        wanted { last = $0; named[$1 "/" $2]; n++; next }
        {
            verdict = ""
            if (($1 "/" $2) in named) verdict = "wanted the PackageList names it"
            else if (how == "due") {
                mark = marks "/" $1 "@" $2
                at = ""; wait = ""
                if ((getline at < mark) <= 0 || (getline wait < mark) <= 0 || !count(at) || !count(wait)) verdict = "unmarked it has no mark that can be read"
                else if (at + 0 > now + 600) verdict = "waiting its mark lies ahead of the clock"
                else if (now - at < wait + 0) verdict = "waiting it stays for " wait - (now - at) " s more"
                close(mark)
            }
            print $1, $2, $3, verdict
        }
        END { if (n > 0 && last == "# end " n) print "# end" }
    ' how="$1" now="$now" marks="$marks" wanted=1 "$house/PackageList.txt" wanted=0 "$stage/list" >"$stage/judged" ||
        fail 1 "judging what to delete in $archive failed: awk could not read or write; check space"
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

# take_out NAME VERSION [TIME]: prints the line for the answer. TIME is that of the descpkg that somebody saw; `-` for any.
take_out() {
    if exists "$1" && ! real_dir "$1"; then
        echo "failed $1 $2 foreign $1 is not a directory; move it away"
        return 0
    elif ! exists "$1/$2"; then
        echo "absent $1 $2"
    elif [ ! -L "$1/$2" ] && ! { [ -d "$1/$2" ] && real_file "$1/$2/descpkg"; }; then
        echo "failed $1 $2 foreign it is no package of ours; look at it and remove it by hand"
        return 0
    elif [ "${3:--}" != - ] && [ "$(stat -c %Y "$1/$2/descpkg" 2>/dev/null)" != "$3" ]; then
        echo "kept $1 $2 changed its descpkg is not the one that was listed"
        return 0
    elif vanish "$1" "$2"; then
        echo "deleted $1 $2"
    else
        echo "failed $1 $2 io taking it away failed: $why; check owners and modes there"
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
    done <"$stage/list" >"$stage/batch"
    flush "$stage" || fail 1 "noting down what to delete in $archive failed: the disk reports an error; check the disk"
}

# take_out_judged: from `$stage/judged` makes `$stage/answer`; `$answered` counts its lines.
take_out_judged() {
    answered=0
    while read -r name version time verdict; do
        case $name in '#') break ;; esac
        if [ -n "$verdict" ]; then
            echo "kept $name $version $verdict"
        else
            take_out "$name" "$version" "$time"
        fi
        answered=$((answered + 1))
    done <"$stage/judged" >"$stage/answer"
}

# drop_empty_names: empty names go too, while nobody can be about to publish into them.
drop_empty_names() {
    while read -r name rest; do
        ! real_dir "$name" || rmdir "$name" 2>/dev/null
        ! real_dir "$house/manifests/$name" || rmdir "$house/manifests/$name" 2>/dev/null
    done <"$stage/list"
}
