# shellcheck shell=sh
# What removing needs: trees that nobody else can exchange, the look for what is no part of a package, and what others left behind. Sourced by
# blat-lib.sh.
# shellcheck disable=SC2154 # blat-lib.sh sets $house, $stage_id and $line_end

# ---- trees that nobody else can exchange
#
# A package may have folders that others may write. Whoever does so can put a link in the place of a folder at any instant, and chmod, busybox's rm
# and all that goes by paths would follow it out of the archive. So before anything in a tree is opened or removed, the tree is sealed: its folders lose
# the right to write for all but their owner, from the top downwards. Nobody exchanges what lies in a folder that is sealed, also from within, so
# the path to each further one leads where it seems to; in the end nobody exchanges anything.

# know_keepers: `$me`, and `$keeper`, whose on this file system is what we make. `$has_modes` is empty where the file system holds no modes: others may write
# all of the archive then, and there is nothing to seal.
know_keepers() {
    [ -z "${me-}" ] || return 0
    me=$(id -u)
    has_modes=yes
    ! has_no_modes || has_modes=
    keeper=$(stat -c %u "$house/trash" 2>/dev/null)
    keeper=${keeper:-$me}
    export me keeper has_modes
}

# seal open|shut PATH: true once nobody but us and root can exchange anything in this tree; else `$unsealed` says what is in the way: folders that are
# somebody else's or stay open to others, or what find and chmod complained. With `open`, folders that are closed to us are opened; with `shut` they
# stay closed, and what is in them is not sealed.
#
# Each round finds the uppermost folders that are not sealed, and goes into none of them: all above them are, so chmod meets what find has seen. That
# there are none any more is found by the last round, which is the first one for most packages. More rounds than a package may have folders in one
# another are not needed. It is a text, since other shells need it too. Some versions of busybox carry out no `+` within brackets.
# shellcheck disable=SC2016,SC2089 # to be expanded by whoever runs it
sealing='
seal() {
    case $1 in
    open) opened=500 closed=000 change=u+rx,go-w ;;
    *) opened=000 closed=500 change=go-w ;;
    esac
    unsealed=
    unsealed_before=
    rounds=0
    [ -n "$has_modes" ] || return 0
    while [ "$rounds" -lt 300 ]; do
        unsealed=$(find "$2" -xdev ! -type d -o ! -user "$me" ! -user 0 ! -user "$keeper" -print -prune -o \
            ! \( ! -perm -020 ! -perm -002 -perm -$opened \) -print -exec chmod $change {} + -prune -o ! -perm -$closed -prune 2>&1) &&
            [ -z "$unsealed" ] && return 0
        [ "$unsealed" != "$unsealed_before" ] || [ "$rounds" -eq 0 ] || return 1
        unsealed_before=$unsealed
        rounds=$((rounds + 1))
    done
    return 1
}
'
eval "$sealing"

# tell_unsealed: `$why` becomes why a tree cannot be sealed, by `$unsealed`.
tell_unsealed() {
    unsealed=${unsealed%%"$line_end"*}
    case $unsealed in
    '') why='finding out who may exchange what lies in it failed' ;;
    find:* | chmod:*) why="looking into it failed: $unsealed" ;;
    *) why="others may exchange what lies in a folder of it: $unsealed belongs to user $(stat -c '%u and has the mode %a' "./$unsealed" 2>/dev/null)" ;;
    esac
}

# ---- removing

# wipe PATH: removes a tree, read-only and closed directories included, once it is sealed. Links are removed, never followed. Leaves in `why` what rm complained, or why
# the tree cannot be sealed; then all of it stays. No file gets another mode: it may have names elsewhere.
wipe() {
    exists "$1" || return 0
    know_keepers
    if real_dir "$1"; then
        seal open "$1" || {
            tell_unsealed
            return 1
        }
    fi
    remove "$1" 2>/dev/null && return 0
    find "$1" -xdev -type d ! -perm -700 -exec chmod u+rwx {} + 2>/dev/null
    why=$(remove "$1" 2>&1)
}

# remove PATH: all of it that lies on the file system that PATH is on: nothing is mounted in what we remove, but for a mount that nobody told of.
remove() {
    [ -n "${remove_by-}" ] || case $(rm --help 2>&1) in
    *--one-file-system*) remove_by='rm' ;;
    *) remove_by='find' ;;
    esac
    if [ "$remove_by" = rm ]; then
        rm -rf --one-file-system -- "$1"
    elif real_dir "$1"; then
        find "$1" -xdev ! -type d -exec rm -f -- {} +
        find "$1" -xdev -depth -type d -exec rmdir -- {} +
        ! exists "$1"
    else
        rm -f -- "$1"
    fi
}

# discard_all DIR: discards what is in a directory of ours, each by itself, so that what has to stay holds nothing else up, and then DIR.
discard_all() {
    ! real_dir "$1" || ! wipe "$1" || return 0
    for item in "$1"/*; do
        wipe "$item" || :
    done
    discard "$1"
}

# discard PATH: wipes it, or names it as a leftover.
discard() {
    wipe "$1" && return 0
    # Whose the first of what is not ours is: that user, or root, can remove it.
    stuck_of=$(find "$1" ! -user "$me" -exec stat -c 'user=%u ' {} + 2>/dev/null | head -n 1)
    note_leftover "$1 ${stuck_of}cannot be removed: $(printf '%.500s' "$why" | head -n 1 | tr -c ' -~' '?'); look at its owner and modes, and remove it by hand"
    return 1
}

# note_leftover TEXT: TEXT begins with a path of ours, which holds no blank, then perhaps `user=NUMBER`. It goes into the answer and to standard error: whatever takes space
# for good must not do so in silence.
note_leftover() {
    leftovers="$leftovers${leftovers:+$line_end}leftover $1"
    printf '%s: %s\n' "$verb" "$1" >&2
}

# tell_leftovers: prints their lines, and adds their number to `answered`.
tell_leftovers() {
    [ -n "$leftovers" ] || return 0
    printf '%s\n' "$leftovers" | head -n "$most_leftovers"
    count=$(printf '%s\n' "$leftovers" | head -n "$most_leftovers" | wc -l)
    answered=$((answered + count))
}

# to_trash PATH NAME: moves a hidden directory, no longer visible as a package, to our trash. A directory has to be writable to get
# another parent. Where this fails it stays hidden, and clear_away finds it.
to_trash() {
    [ -d "$house/trash/$stage_id" ] || mkdir "$house/trash/$stage_id" 2>/dev/null
    chmod u+w "$1" 2>/dev/null
    rename "$1" "$house/trash/$stage_id/$2"
}

# ---- what is no part of a package

# The package is sealed first, so that what is opened is what was found. For each folder of ours that is closed to us, a shell of its own looks into it:
# it is opened for that, sealed as well, and gets its mode back. Whatever is said, complaints too, is a reason to leave the package, and so is a shell that
# ends otherwise than well, whose folder find names. Each shell waits for those further down, so that there is an end to how deep they go. Where the
# system does not tell what is mounted, devices are said as well.
# shellcheck disable=SC2016,SC2089 # to be expanded by whoever runs them
look_into='
    if ! seal shut "$1"; then
        case $unsealed in
        find:* | chmod:*) printf "%s\n" "$unsealed" ;;
        *) printf "unsealed %s\n" "$unsealed" ;;
        esac
    else
        find "$1" -path "*/$house/archive" -print -o -type d ! -perm -500 -prune ! -exec sh -c "$open_up" sh {} \; -print $devices ||
            echo "find: $1: looking into it failed"
    fi'
# shellcheck disable=SC2016,SC2089
open_up='
    eval "$sealing"
    depth=.$depth
    case $depth in
    ????????????????*) echo "find: $1: more than 15 closed folders lie in one another"; exit 0 ;;
    esac
    mode=$(stat -c %a "$1") || exit 1
    chmod u+rx "$1" || exit 1
    case $(stat -c %a "$1") in
    *[57]??) eval "$look_into" ;;
    *) echo "chmod: $1 stays closed" ;;
    esac
    chmod "$mode" "$1"'

# holds_foreign PLACE: something is in a package that is no part of it and would go with it, or may be, and `part` says what: an archive of its own,
# by its record; where the system does not tell what is mounted, another device; a folder that cannot be looked into; or one that is somebody else's.
holds_foreign() {
    [ ! -L "$1" ] || return 1
    know_keepers
    if [ -r /proc/self/mountinfo ]; then
        part=$(devices='' look "$1")
    else
        device=$(stat -c %d . 2>/dev/null)
        part=$(devices='-o -type d -exec stat -c %d {} +' look "$1" | grep -v -x -e "${device:-?}")
    fi
    [ "$part" != '# end' ] || return 1
    part=${part%"$line_end# end"}
    case $line_end$part$line_end in
    "$line_end$line_end") part='what is in it could not be looked at to the end; ask again' ;;
    *"/$house/archive$line_end"*) part='another archive is in it, which would go with it; move that away first' ;;
    *"${line_end}unsealed "*)
        part=$line_end$part
        unsealed=${part#*"${line_end}unsealed "}
        tell_unsealed
        part=$(printf '%.500s' "$why" | tr -c ' -~' '?')"; as root look into it, then remove it or give it to this account"
        ;;
    *)
        part=$(printf '%.500s' "${part%%"$line_end"*}" | tr -c ' -~' '?')
        if is_number "$part"; then
            part='something is mounted in it, which would go with it; unmount that first'
        else
            part="a folder in it cannot be looked into, and another archive or a mount in it would go with it: $part; as that folder's owner or as root look into it, then remove it or open it to this account"
        fi
        ;;
    esac
}

# look PLACE: what is to be said of it, and an end mark; nothing but that for a package without anything else in it.
look() {
    (
        trap - EXIT
        # shellcheck disable=SC2090
        depth=''
        export house devices look_into open_up sealing depth
        eval "$look_into"
        echo '# end'
    ) 2>&1
}

# ---- what others left behind

# clear_away ID: removes the stage ID, its trash and its hidden directories; its lock has to be ours. The stage's own batch says where
# hidden ones can be. It may be a hostile or half-written one: names are checked, and the rest of the path is ours.
clear_away() {
    kept=
    if real_file "$house/stage/$1/batch"; then
        while read -r left_name left_version _; do
            { is_name "$left_name" && is_name "$left_version" && real_dir "$left_name"; } || continue
            left_hidden=$left_name/.$left_version.$1
            ! exists "$left_hidden.old" || put_back "$left_hidden.old" "$left_name/$left_version"
            exists "$left_hidden" || continue
            { is_unmounted "$left_hidden" && discard "$left_hidden"; } || kept=yes
            # Where it was to be the first of its name, nothing of the name stays.
            rmdir "$left_name" 2>/dev/null || :
        done <"$house/stage/$1/batch" || kept=yes
    fi
    ! exists "$house/trash/$1" || { is_unmounted "$house/trash/$1" && discard_all "$house/trash/$1"; } || kept=yes
    # The batch says where hidden ones are, so it stays as long as they do.
    [ -n "$kept" ] || discard "$house/stage/$1" || kept=yes
    # The lock goes last: while it is there, whoever comes after us knows that something may be left.
    [ -n "$kept" ] || rm -f "$house/stage/$1.lock"
}

# is_unmounted PATH: nothing is mounted in it, or it is named as a leftover. A package is not taken out while something is mounted in it; if it was since,
# that is not ours to remove.
is_unmounted() {
    if ! know_mounts "$1"; then
        note_leftover "$1 cannot be removed: it could not be found out whether something is mounted in it; run it again"
        return 1
    elif [ "$mounts" != "$line_end" ]; then
        note_leftover "$1 cannot be removed: something is mounted in it; unmount it"
        return 1
    fi
}

# put_back HIDDEN PLACE: a version that was being replaced without an exchange, by someone who died between two renames.
put_back() {
    if ! exists "$2"; then
        lock_publish
        exists "$2" || rename "$1" "$2"
        unlock_publish
    fi
    # Where it could not be moved, it is the only one there is.
    ! exists "$1" || { exists "$2" && discard "$1"; } || kept=yes
}

# sweep: clears away all stages and trash whose owners are dead.
sweep() {
    for left in "$house"/stage/* "$house"/trash/*; do
        exists "$left" || continue
        left=${left##*/}
        left=${left%.lock}
        is_id "$left" || continue
        # In a process of its own, whose end gives the lock back.
        said=$(
            trap - EXIT
            leftovers=
            open_lock "$house/stage/$left.lock"
            exec 7>>"$house/stage/$left.lock"
            umask 022
            flock -n 7 7>&7 || exit 0
            clear_away "$left"
            printf '%s\n' "$leftovers"
        )
        leftovers="$leftovers${leftovers:+${said:+$line_end}}$said"
    done
}

