# shellcheck shell=sh
# What the target scripts share: surroundings, arguments, locks, stages, durable renames; blat-removing.sh has the rest.
#
# Sourced by its siblings, never run. Nothing in here reads standard input or prints a line of an answer, except `alive`.
# After `enter_archive` all paths are relative to the archive, so a name can never be taken for an option or another root.
#
# A script that is killed leaves a stage whose kernel lock is free; the next one that writes sweeps it. So there are no signal
# handlers: dying at any instant is a case that has to work anyway.
#
# Any helper may be killed at any instant, or not be started, for want of memory, processes or files. So a look that lets something go (a deletion, a
# replacement, a publication, the word `good`) says a word when it is done, and only that word lets go: its silence, or a status that is neither yes nor
# no, is a refusal.
#
# `return` always says a number: in a trap, a bare one would give the status from before the trap.

set -u
line_end='
'
unset IFS CDPATH ENV TAR_OPTIONS GZIP POSIXLY_CORRECT BLOCK_SIZE BLOCKSIZE DF_BLOCK_SIZE PERL5LIB PERL5OPT me remove_by
LC_ALL=C
system_path=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
# What is relative, or empty, would be looked for in a package.
rest=${PATH:+$PATH:}$system_path:
absolute=
while [ -n "$rest" ]; do
    case $rest in /*) absolute=$absolute${absolute:+:}${rest%%:*} ;; esac
    rest=${rest#*:}
done
PATH=$absolute
export LC_ALL PATH
umask 022
# Where files may not grow beyond a limit, a tool is to say so and not to be killed: half of what dies of a signal says nothing.
command trap '' XFSZ 2>/dev/null || :
file_limit=$(ulimit -f 2>/dev/null)

verb=${0##*/}
usage= # a verb's own arguments, for its complaints
house=.dpkg_archive
house_in_capitals=.DPKG_ARCHIVE
# Seconds to wait for whoever publishes at the moment.
lock_wait=60
# The most directories above the archive that are looked at: no path leads deeper.
most_above=2048
# The most bytes that a PackageList has.
most_list=67108864

stage_id= # the name of our own stage, once there is one
alive=    # process id of the loop that prints `alive`
why=      # what the last tool that failed complained
leftovers= # lines for the answer about what cannot be removed
most_leftovers=20

# ---- ends and errors

# fail STATUS TEXT: says TEXT in one line of plain characters and ends. Whoever would hear it may be gone, and to die of that would leave a
# stage that nobody clears away when nobody comes again.
fail() {
    trap '' PIPE
    fail_text=$(printf '%s' "$2" | tr -c ' -~' '?' 2>/dev/null) || fail_text=
    printf '%s: %.2000s\n' "$verb" "${fail_text:-$2}" >&2
    exit "$1"
}

# bad_usage TEXT: the caller asked for something that makes no sense.
bad_usage() {
    fail 2 "understanding its arguments failed: $1; usage: $verb $usage"
}

# told_full TEXT: true where a tool complained that space or quota has run out.
told_full() {
    case $1 in
    *'No space left'* | *'uota exceeded'*) return 0 ;;
    # GNU tar's words for a file of which a part was written: the system gives the reason with the next try, and it makes none.
    *'Wrote only '*) ! has_file_limit && return 0 ;;
    esac
    return 1
}

# has_file_limit: true where this account may not write files of any length.
has_file_limit() {
    case $file_limit in
    unlimited | '') return 1 ;;
    esac
}

# name_limit TEXT: true where a tool complained of a limit of this account, or of its disk; `limit` names it, and says what to do. No process is
# started for it: none may be left. blat-agent knows the same words.
name_limit() {
    case $1 in
    *'Wrote only '*)
        has_file_limit || return 1
        limit="the target's account, or its file system, takes no file that large (ulimit -f); raise that limit"
        ;;
    *'ile too large'* | *'ile size limit exceeded'*)
        limit="the target's account, or its file system, takes no file that large (ulimit -f); raise that limit"
        ;;
    *'uota exceeded'*) limit="the disk quota of the target's account is used up; make space in it, or raise it" ;;
    *'annot fork'* | *"an't fork"* | *'fork: '* | *'annot create child process'*)
        limit="the target's account may not start more processes (ulimit -u); raise that limit, or end some"
        ;;
    *'oo many open files'*) limit="the target's account may not open more files (ulimit -n); raise that limit" ;;
    *'annot allocate memory'* | *'emory exhausted'* | *'ut of memory'*)
        limit="the target's account gets no more memory (ulimit -v, or what the host has); raise that limit"
        ;;
    *'ead-only file system'*) limit='the file system there is mounted read-only; mount it for writing, or repair it' ;;
    *'nput/output error'* | *'I/O error'*) limit='the disk there reports errors; check it' ;;
    *) return 1 ;;
    esac
}

# advise TEXT ADVICE: `$advice` becomes what to do about TEXT, a tool's complaint; ADVICE where it is of no limit.
advise() {
    advice=$2
    ! name_limit "$1" || advice=$limit
}

# broken WHAT WHY ADVICE: fails, with status 28 where space ran out. A limit of this account is named instead of ADVICE.
broken() {
    limit='make space on this host'
    if name_limit "$2" && ! told_full "$2"; then
        fail 1 "$1 failed: $2; $limit"
    fi
    if told_full "$2"; then
        fail 28 "$1 failed: $2; $limit"
    fi
    fail 1 "$1 failed: ${2:-no reason was given}; $3"
}

# attempt WHAT COMMAND...: runs COMMAND, whose failure is ours.
attempt() {
    attempted=$1
    shift
    said=$("$@" 2>&1 >/dev/null) || broken "$attempted" "$said" "check the owner and the modes in the archive"
}

# need TOOL...: every tool that a verb will use, so that a lack shows before anything is done.
need() {
    lacking=
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 ||
            lacking="$lacking${lacking:+; }needs $tool, which is not on this host's PATH"
    done
    [ -z "$lacking" ] || fail 1 "$lacking; install it or put it on the PATH of non-interactive logins"
}

# ---- what may be an argument

# Package names, versions: [A-Za-z0-9][A-Za-z0-9._+~-]{0,127}
is_name() {
    case $1 in
    '' | [!A-Za-z0-9]* | *[!A-Za-z0-9._+~-]*) return 1 ;;
    esac
    [ ${#1} -le 128 ]
}

# NAME and VERSION of a package: some files are called by both, and a file's name has at most 255 bytes.
too_long_pair='NAME and VERSION together have more than 240 characters'
is_pair() {
    is_name "$1" && is_name "$2" && [ $((${#1} + ${#2})) -le 240 ]
}

# refuse_pair NAME VERSION WHAT: WHAT is wrong usage, since they are no pair.
refuse_pair() {
    ! { is_name "$1" && is_name "$2"; } || bad_usage "$too_long_pair: $1 $2"
    bad_usage "$3"
}

# Names of stages: [A-Za-z0-9-]{1,64}
is_id() {
    case $1 in
    '' | *[!A-Za-z0-9-]*) return 1 ;;
    esac
    [ ${#1} -le 64 ]
}

# Numbers that awk can still count exactly.
is_number() {
    case $1 in
    '' | *[!0-9]*) return 1 ;;
    esac
    [ ${#1} -le 15 ]
}

# SHA-256 in lower-case hexadecimal.
is_digest() {
    case $1 in
    *[!0-9a-f]*) return 1 ;;
    esac
    [ ${#1} -eq 64 ]
}

# Longer than any name.
too_long='????????????????????????????????'
too_long=$too_long$too_long$too_long$too_long'?*'

# exists PATH: anything at all, dangling links included.
exists() {
    [ -e "$1" ] || [ -L "$1" ]
}

# real_dir PATH: a directory and no link to one.
real_dir() {
    [ -d "$1" ] && [ ! -L "$1" ]
}

# real_file PATH: a regular file and no link to one.
real_file() {
    [ -f "$1" ] && [ ! -L "$1" ]
}

# ---- the archive

# enter_archive DIR: makes DIR the working directory. It has to be there: a missing one may be an unmounted one.
enter_archive() {
    case $1 in
    '') bad_usage "--archive DIR is missing" ;;
    /*) archive=$1 from= ;;
    *) archive=./$1 from=$(pwd -P)/ ;;
    esac
    [ -d "$archive" ] || {
        ! said=$(stat -L -c %F "$archive" 2>&1) && name_limit "$said" && fail 1 "entering the archive $1 failed: $said; $limit"
        fail 1 "entering the archive $1 failed: there is no such directory; create it or mount it, for no script makes it"
    }
    # With so few, some tools find nothing, and do not say that they looked at nothing.
    # shellcheck disable=SC3045 # where there is none, nothing is said
    files=$(ulimit -n 2>/dev/null) || files=
    ! is_number "$files" || [ "$files" -ge 32 ] ||
        fail 1 "entering the archive $1 failed: the target's account may not open more files than $files (ulimit -n); raise that limit"
    self=$(id -u)
    holder=$self
    if is_ours_alone; then
        cd -P "$archive" 2>/dev/null || not_entered 'it may not be searched; check its owner and mode'
    else
        walk_to_archive
        expect_own_archive
    fi
}

# expect_in_place: the archive's path still leads to where we work. Something may have been mounted or renamed since, and what comes in its place has
# nothing of what is published here.
expect_in_place() {
    said=$(stat -L -c %d:%i . "$from$archive" 2>/dev/null) && [ "${said%"$line_end"*}" = "${said#*"$line_end"}" ] ||
        fail 1 "entering the archive $archive again failed: another directory is there since this began, or none; it is served next time"
}

not_entered() {
    fail 1 "entering the archive $archive failed: $1"
}

# is_ours_alone: no part of the way to the archive is a link, and nobody but root and this account can exchange one.
is_ours_alone() {
    set -- .
    ahead=$archive/
    at=
    while [ -n "$ahead" ]; do
        at=$at${ahead%%/*}
        ahead=${ahead#*/}
        case $at in
        '') set -- / ;;
        .. | */..) return 1 ;;
        *) set -- "$@" "$at" ;;
        esac
        at=$at/
    done
    said=$(stat -c '%u %A' "$@" 2>/dev/null) || return 1
    # shellcheck disable=SC2086 # to be split
    set -- $said
    while [ $# -ge 2 ]; do
        case $1 in 0 | "$self") ;; *) return 1 ;; esac
        # In the archive itself everybody may give a free name to what they like, sticky or not.
        case $2 in
        d*[tT]) [ $# -gt 2 ] || is_closed_to_others "$2" || return 1 ;;
        ?????w* | ????????w*) return 1 ;;
        d*) ;;
        *) return 1 ;;
        esac
        shift 2
    done
}

# walk_to_archive: part by part, where a part is a link or a group may write. Who owns a folder on the way could put another one in the place of the next one
# at any instant, or a link to wherever else this account may write, and all here goes by paths. So each folder has to be root's or ours, what is entered has to
# lie in the one before, and links are followed by us.
walk_to_archive() {
    ahead=$archive/
    links=0
    remedy="make the archive's path lead through folders of root's or this account's, or name the real path"
    case $archive in /*) cd / ;; esac
    while [ -n "$ahead" ]; do
        part=${ahead%%/*}
        ahead=${ahead#*/}
        case $part in
        '' | .) continue ;;
        ..)
            cd -P .. 2>/dev/null || not_entered 'a folder above may not be searched; check its owner and mode'
            continue
            ;;
        esac
        said=$(stat -c '%d:%i %u %A' . "./$part" 2>/dev/null)
        # shellcheck disable=SC2086 # to be split: our folder, then what lies in it
        set -- $said
        [ $# -eq 6 ] || not_entered "$part on the way to it cannot be looked at; check owners and modes there"
        expect_safe_folder "$2" "$3"
        case $6 in
        l*) follow "$3" "$5" ;;
        *)
            cd -P "./$part" 2>/dev/null || not_entered "$part on the way to it may not be searched; check its owner and mode"
            [ "$(stat -c %d:%i .. 2>/dev/null)" = "$1" ] ||
                not_entered "$part on the way to it was exchanged just now; look at who may write the folder that it lies in"
            ;;
        esac
    done
}

# is_own OWNER: root's or ours. The number 65534 is what file servers and user namespaces show of those whom they do not know.
is_own() {
    case $1 in
    0 | "$self" | 65534) ;;
    *) return 1 ;;
    esac
}

# expect_safe_folder OWNER MODE: of the working directory. In a sticky one others exchange nothing but what is theirs.
expect_safe_folder() {
    is_own "$1" ||
        not_entered "a folder on the way belongs to user $1, neither root nor this account, who can exchange what lies in it: $(pwd -P); $remedy"
    case $2 in
    d*[tT]) ;;
    ????????w*) not_entered "everybody may write a folder on the way, and exchange what lies in it: $(pwd -P); $remedy" ;;
    esac
}

# expect_own_archive: any other directory was put there by whoever owns it. Who may exchange our own folders for links has us write and remove
# elsewhere, for all here goes by paths.
expect_own_archive() {
    said=$(stat -c '%u %A' . 2>/dev/null) || not_entered 'it cannot be looked at; check its owner and mode'
    holder=${said%% *}
    is_own "$holder" || not_entered "it belongs to the account $holder, neither root nor this account; make it belong to one of the two"
    is_closed_to_others "${said#* }" || has_no_modes ||
        not_entered 'everybody may write it, and put there what they like; take that right away, or look at what lies there if it was closed'
}

# is_closed_to_others MODE: not everybody may write it, sticky or not.
is_closed_to_others() {
    case $1 in ????????w*) return 1 ;; esac
}

# has_no_modes: the archive's file system holds no modes, so who may write says the mount: its type is one of those, and the archive, where it is ours, stays
# open to others though it was closed. Nothing is made for that look: in a folder that everybody may write, somebody else could put another one in its
# place. It is the working directory, which nobody exchanges.
no_modes=
has_no_modes() {
    [ -n "$no_modes" ] || look_for_modes || no_modes=no
    [ "$no_modes" = yes ]
}

look_for_modes() {
    said=$(stat -c '%d %a %A' . 2>/dev/null) || return 1
    # shellcheck disable=SC2086 # to be split
    set -- $said
    is_open_to_some "${3-}" || return 1
    case $(type_of_device "$1") in
    vfat | msdos | exfat | ntfs | ntfs3 | fuseblk | cifs | smb3 | smbfs | vboxsf) ;;
    *) return 1 ;;
    esac
    ! chmod go-w . 2>/dev/null || {
        said=$(stat -c %A . 2>/dev/null) || said=
        chmod "$2" . 2>/dev/null
        [ "$said" = "$3" ] || return 1
    }
    no_modes=yes
}

# is_open_to_some MODE: others than its owner may write it, be it a group.
is_open_to_some() {
    case $1 in
    ?????w* | ????????w*) return 0 ;;
    esac
    return 1
}

# type_of_device NUMBER: of its file system, by what is mounted, where the system tells. NUMBER is as stat says it.
mount_table=/proc/self/mountinfo
type_of_device() {
    # shellcheck disable=SC2016
    awk -v number="$1" '
        BEGIN {
            major = int(number / 256) % 4096 + 4096 * int(number / 17592186044416)
            device = major ":" number % 256 + 256 * (int(number / 1048576) % 16777216)
        }
        $3 == device { for (i = 7; i < NF; i++) if ($i == "-") { type = $(i + 1); break } }
        END { print type }
    ' "$mount_table" 2>/dev/null
}

# expect_own_rooms ROOM...: what a package or a stranger brought to the archive is no room of ours, since all in it is trusted.
expect_own_rooms() {
    rooms=$(stat -c '%u %A %n' "$@" 2>/dev/null) || fail 1 "looking at $house in $archive failed; check owners and modes there"
    while [ -n "$rooms" ]; do
        room=${rooms%%"$line_end"*}
        rooms=${rooms#"$room"}
        rooms=${rooms#"$line_end"}
        is_own "${room%% *}" ||
            fail 1 "entering the archive $archive failed: ${room##* } belongs to the account ${room%% *}, neither root nor this account; look at how it came there"
        room_mode=${room#* }
        is_closed_to_others "${room_mode%% *}" || has_no_modes ||
            fail 1 "entering the archive $archive failed: everybody may write ${room##* }; look at how it came there, then take that right away"
    done
}

# follow MODE OWNER: puts what the link `$part` says before `$ahead`. It counts only where root or this account made it, and not in a sticky folder: there a
# name that is free, or a stranger's, is theirs to give to a link of ours that a package brought.
follow() {
    is_own "$2" || not_entered "a link on the way belongs to user $2, neither root nor this account: $(pwd -P)/$part; $remedy"
    case $1 in
    ????????w*) not_entered "a link on the way lies in a folder that everybody may write: $(pwd -P)/$part; $remedy" ;;
    esac
    links=$((links + 1))
    [ "$links" -le 40 ] || not_entered 'more than 40 links are on the way to it'
    to=$(readlink "./$part" 2>/dev/null && echo .)
    to=${to%"$line_end".}
    [ -n "$to" ] || not_entered "the link $part on the way to it cannot be read"
    case $to in /*) cd / ;; esac
    ahead=$to/$ahead
}

# own_file PATH...: makes empty files in our stage, so that a redirection into them cannot fail later.
own_file() {
    for file; do
        { true >"$file"; } 2>/dev/null && continue
        said=$({ true >"$file"; } 2>&1)
        # A shell begins with its own path and the file's; the reason comes last, and complaints may be cut on their way.
        said=${said##*: }
        broken "making $file in $archive" "$said" "check the owner and the modes in the archive"
    done
}

# furnish: makes our own directories in the archive where they are missing. A link in the place of one would lead what we write and remove
# out of the archive. Whoever can open a lock can hold it, so locks and the rooms with locks are closed to strangers; older versions left
# them open.
furnish() {
    for room in "$house" "$house/stage" "$house/trash" "$house/manifests" "$house/aged"; do
        [ ! -L "$room" ] || fail 1 "making $room in $archive failed: a link is in its place; put a directory there"
    done
    for room in "$house" "$house/manifests"; do
        make_room "$room"
    done
    umask 077
    for room in "$house/stage" "$house/trash"; do
        make_room "$room"
    done
    umask 022
    set -- "$house" "$house/stage" "$house/trash" "$house/manifests"
    ! exists "$house/aged" || set -- "$@" "$house/aged"
    expect_own_rooms "$@"
    find "$house/stage" "$house/trash" "$house"/*.lock -prune \( -type d ! -perm 700 ! -perm 2700 -o -type f ! -perm 600 \) \
        -exec chmod go-rwx {} + 2>/dev/null
    # Whether the file system takes names for one that differ in upper and lower case alone.
    folding=
    [ -d "$house_in_capitals" ] || return 0
    said=$(stat -c %d:%i "$house_in_capitals" "$house") || fail 1 "looking at $house_in_capitals in $archive failed; check owners and modes there"
    [ "${said%"$line_end"*}" != "${said#*"$line_end"}" ] || folding=yes
}

# is_misled NAME FOLDER: NAME leads to what has another name there, so what is sent would be listed by that one. `$why` says so.
is_misled() {
    [ -n "$folding" ] && exists "$2/$1" || return 1
    for entry in "$2"/*; do
        [ "$entry" != "$2/$1" ] || return 1
    done
    why="the file system there takes $1 for another name, which is there; use names that differ in more than upper and lower case"
}

make_room() {
    [ -d "$1" ] || mkdir "$1" 2>/dev/null || [ -d "$1" ] || attempt "making $1 in $archive" mkdir "$1"
}

# own_job: only the archive's own account runs its jobs. What another one makes, root too, that account can neither renew nor remove, and the next
# sync fails. Some file systems show everybody's files as somebody else's: there it counts whose a new directory becomes.
own_job() {
    real_dir "$house" || return 0
    keeper=$(stat -c '%u %U' "$house")
    [ "${keeper%% *}" != "$(id -u)" ] || return 0
    probe=$house/.account-$$
    if mkdir -m 700 "$probe" 2>/dev/null; then
        maker=$(stat -c %u "$probe")
        rmdir "$probe"
        [ "${keeper%% *}" != "$maker" ] || return 0
    fi
    fail 1 "working in $archive failed: the archive belongs to the account ${keeper#* } (user ${keeper%% *}), and this one is $(id -un 2>/dev/null) (user $(id -u)); nothing was changed, so put the job into the crontab of ${keeper#* }"
}

# ---- locks

# open_lock PATH: makes a lock file, for its owner alone, that can then be opened for sure. A failing `exec` would end the shell with a status
# of its own. Whoever opens it keeps the umask closed until then: somebody who sweeps may have removed the file meanwhile.
open_lock() {
    umask 077
    { true >>"$1"; } 2>/dev/null && return 0
    said=$({ true >>"$1"; } 2>&1)
    said=${said##*: }
    broken "opening the lock $1 in $archive" "$said" "check the owner and the modes in the archive"
}

# take_stage ID: locks and makes our stage, `$stage`; false where another process keeps that lock. Descriptor 8 holds the lock until we
# end, and is passed on to tar: a stage is alive as long as anybody may write into it. (`8>&8`: some shells close it in their children.)
take_stage() {
    tries=1
    open_lock "$house/stage/$1.lock"
    exec 8>>"$house/stage/$1.lock"
    umask 022
    # Somebody who sweeps may hold the new lock for a moment, or may have removed the file just after we opened it.
    until flock -n 8 8>&8 && [ -e "$house/stage/$1.lock" ]; do
        [ "$tries" -lt 3 ] || return 1
        tries=$((tries + 1))
        sleep 1
        open_lock "$house/stage/$1.lock"
        exec 8>>"$house/stage/$1.lock"
        umask 022
    done
    stage_id=$1
    if exists "$house/stage/$1" || exists "$house/trash/$1"; then
        clear_away "$1"
        open_lock "$house/stage/$1.lock"
        exec 8>>"$house/stage/$1.lock"
        umask 022
        flock -n 8 8>&8 || return 1
    fi
    # Closed to others, because tar works in it with an open umask.
    attempt "making a stage in $archive" mkdir -m 700 "$house/stage/$1"
    # shellcheck disable=SC2034 # for the verbs
    stage=$house/stage/$1
}

# take_any_stage PREFIX: a stage for a verb that is not given a name for it.
take_any_stage() {
    for number in 1 2 3 4 5 6 7 8 9; do
        take_stage "$1-$$-$number" && return 0
    done
    fail 75 "making a stage in $archive failed: all its names are taken; try again"
}

# lock_publish: keeps everybody else from changing what is published, until unlock_publish. Descriptor 9.
lock_publish() {
    open_lock "$house/publish.lock"
    exec 9>>"$house/publish.lock"
    umask 022
    waited=0
    until flock -n 9 9>&9; do
        [ "$waited" -lt "$lock_wait" ] ||
            fail 75 "locking $house/publish.lock in $archive failed: another process holds it since $lock_wait s; try again"
        # Ten short naps where sleep knows fractions: whoever publishes rarely takes a second.
        for nap in 1 2 3 4 5 6 7 8 9 10; do
            sleep 0.1 2>/dev/null || { sleep 1 && break; }
            [ "$nap" -lt 10 ] && flock -n 9 9>&9 && return 0
        done
        waited=$((waited + 1))
    done
}

unlock_publish() {
    exec 9>&-
}

# lock_alone NAME: only one process at a time does this; who comes second leaves. Descriptor 6, held until we end.
lock_alone() {
    open_lock "$house/$1.lock"
    exec 6>>"$house/$1.lock"
    umask 022
    flock -n 6 6>&6 || fail 75 "locking $house/$1.lock in $archive failed: another $verb runs; try again later"
}

# ---- whether it is still wanted

# await_go: where the caller has promised by --confirm SECONDS to be there, prints `ready` and goes on once it says `go`. To be asked under the
# publish lock, right before something is done that a later sync may not know of: whoever waited for the lock may have lost its caller, and
# perhaps nobody wants any more what that one asked for. Standard input is heard by a process of its own, since not every `read` can be ended.
await_go() {
    [ -n "$confirm" ] || return 0
    exec 3<&0
    (
        trap - EXIT
        exec 8>&- 9>&-
        read -r word && [ "$word" = go ]
    ) <&3 >/dev/null 2>&1 &
    hearing=$!
    (
        trap - EXIT
        exec </dev/null 3<&- 8>&- 9>&-
        left=$confirm
        while [ "$left" -gt 0 ] && sleep 1 && is_there; do left=$((left - 1)); done
        kill -9 "$hearing"
    ) >/dev/null 2>&1 &
    patience=$!
    echo ready
    {
        wait "$hearing"
        heard=$?
        kill -9 "$patience"
        wait "$patience"
    } 2>/dev/null
    exec 3<&-
    [ "$heard" -eq 0 ] ||
        fail 75 "asking whether it is still wanted failed: whoever asked for it is gone, or did not say go within $confirm s; nothing was changed in $archive, so ask again"
}

# ---- whose archive it is

# tell_record FILE: what the record says (FILE is archive), or the last visit (visit), as one line `FILE ID HOME-ID TARGET`; nothing where there is
# none. Whatever stands there is a stranger's text: it is bounded, and made plain.
tell_record() {
    if [ -L "$house" ] || { exists "$house" && ! [ -x "$house" ]; }; then
        echo "$1 ? $house cannot be entered, or is a link"
    elif ! exists "$house/$1"; then
        return 0
    elif ! real_file "$house/$1"; then
        echo "$1 ? it is no regular file"
    elif ! [ -r "$house/$1" ]; then
        echo "$1 ? it may not be read"
    else
        printf '%s %s\n' "$1" "$(head -c 4096 <"$house/$1" 2>/dev/null | tr '\n' ' ' | tr -c ' -~' '?' | cut -c 1-300)"
    fi
}

# tell_place: lines `place BOOT DEVICE:INODE...`: which directory of which running system the archive is, and those above it, up to $most_above. By
# this a master sees that it would work on its own source. False where they were not all looked at.
tell_place() {
    boot=
    { read -r boot </proc/sys/kernel/random/boot_id; } 2>/dev/null
    up=..
    set -- .
    while [ $# -lt 32 ]; do
        set -- "$@" "$up"
        up=$up/..
    done
    (
        trap - EXIT
        above=0
        while [ "$above" -lt "$most_above" ]; do
            # Where a folder may not be searched, stat says less. One that was killed, or could not start, says nothing.
            said=$(stat -c %d:%i "$@" 2>/dev/null) || [ $? -le 1 ] || exit 1
            printf '%s\n' "$said"
            # Above the root there is only the root again.
            rest=${said%"$line_end"*}
            [ "${rest##*"$line_end"}" != "${said##*"$line_end"}" ] || break
            cd -P "$up" || break
            above=$((above + 32))
        done
        echo '# top'
    ) 2>/dev/null | awk '
        $0 == "# top" { whole = 1; next }
        $0 != last && $0 != "" {
            line = line " " $0
            last = $0
            if (++n % 128 == 0) { print "place " boot line; line = "" }
        }
        END {
            if (!whole) exit 1
            if (line != "" || n == 0) print "place " boot line
        }
    ' boot="${boot:--}" -
}

# tell_title: all of this, and the end mark of an answer that holds nothing else.
tell_title() {
    told=$(tell_record archive && tell_record visit && tell_place) || fail 1 "finding out where $archive is failed: a tool was ended; ask again"
    printf '%s\n' "$told"
    echo "# end $(($(printf '%s\n' "$told" | wc -l)))"
}

# outer_record: what is wrong where this archive lies in another one, by that one's record. Only one that root or this archive's owner put there counts:
# anybody may leave a file in a directory that is everybody's. False where they were not all looked at.
outer_record() (
    trap - EXIT
    mine=$(stat -c %u .) && last=$(stat -c %d:%i .) || exit 1
    above=0
    while [ "$above" -lt "$most_above" ] && cd -P .. 2>/dev/null; do
        above=$((above + 1))
        here=$(stat -c %d:%i . 2>/dev/null) || exit 1
        [ "$here" != "$last" ] || break
        last=$here
        { [ ! -L "$house" ] && real_file "$house/archive"; } || continue
        owners=$(stat -c %u "$house" "$house/archive" 2>/dev/null) || exit 1
        for owner_above in $owners; do
            case $owner_above in 0 | "$mine") ;; *) continue 2 ;; esac
        done
        read_record
        is_record "$record" || record='?'
        printf '%s\n' "it lies in the archive of target ${record##* }, which may delete it: $above directories above is that one's $house/archive"
        exit 0
    done
)

# words TEXT: the same with one space between its words.
words() {
    set -f
    # shellcheck disable=SC2086 # to be split
    set -- $1
    set +f
    printf '%s' "$*"
}

# read_record: `$record` becomes `ID HOME-ID TARGET`, or whatever else stands there; empty where nothing does.
read_record() {
    record=$(tell_record archive)
    record=$(words "${record#archive }")
}

# is_record TEXT: `ID HOME-ID TARGET`.
is_record() {
    case $1 in
    *' '*' '*) ;;
    *) return 1 ;;
    esac
    record_rest=${1#* }
    is_random "${1%% *}" && is_random "${record_rest%% *}" && is_name "${record_rest#* }"
}

# Ids of archives and home trees: 32 hexadecimal digits in lower case.
is_random() {
    case $1 in
    *[!0-9a-f]*) return 1 ;;
    esac
    [ ${#1} -eq 32 ]
}

# check_owner OWNER: fails unless the record names OWNER, `HOME-ID TARGET`, or is OWNER, `ID HOME-ID TARGET`; to be asked under the publish lock.
# Each adoption has an id of its own: what was planned before one must not be done after it. Whoever works here by hand names none.
check_owner() {
    [ -z "$1" ] || is_owned_by "$1" || fail 1 "changing what the archive $archive is to hold failed: $now"
}

# has_record OWNER: the archive has a record, else `$now` says what is wrong; to be asked under the publish lock, before anything is moved. At the first
# contact the owner's agent makes one before it sends anything, so another directory may be in the archive's place: a disk that is not mounted, or what
# somebody put there. Whoever works here by hand names no owner.
has_record() {
    [ -n "$1" ] || return 0
    exists "$house/archive" || {
        now="the archive has no record of its owner ($house/archive) any more, so it may be another directory than before; a sync that finds it right writes\
 the record anew, or \`blat adopt\` does"
        return 1
    }
}

# may_bring OWNER: as has_record, and the record names OWNER. Who knows that somebody else owns the archive replaces nothing, and names no owner either. A
# record that says nothing, empty or torn as it may be, is nobody's: another directory may be here as well.
may_bring() {
    [ -n "$1" ] || return 0
    has_record "$1" || return 1
    read_record
    if is_record "$record"; then
        case " $1" in *" ${record#* }") return 0 ;; esac
        now="the archive has the record of another owner by now (${record#* }), so nothing is brought; the next try looks again"
    else
        now="its record ($house/archive) does not name its owner, or could not be read, so nothing is brought; the next try looks again, and \`blat adopt\`\
 writes a damaged one anew"
    fi
    return 1
}

# may_replace OWNER: OWNER owns the archive, else `$now` says why not; to be asked under the publish lock. Whoever works here by hand names none.
may_replace() {
    [ -z "$1" ] || is_owned_by "$1"
}

# is_owned_by OWNER: the record, which `$record` becomes, names OWNER or is OWNER; else `$now` says what it is.
is_owned_by() {
    read_record
    if ! is_record "$record"; then
        now="$house/archive does not name its owner; \`blat adopt\` takes it over"
        return 1
    elif [ "$record" = "$1" ]; then
        return 0
    elif [ "${1#* }" = "${record#* }" ]; then
        now='it was adopted since this was planned; sync it again'
        return 1
    elif [ "${record#* }" != "$1" ]; then
        now="its owner is ${record#* } now; \`blat adopt\` takes it over"
        return 1
    fi
}

# is_small FILE BYTES: it has no more bytes. To be asked before anything is read that may be a stranger's: tools keep a line as a whole, and a file
# with a hole takes no space on its disk however long it is.
is_small() {
    is_small_size=$(stat -c %s "$1" 2>/dev/null) && is_number "$is_small_size" && [ "$is_small_size" -le "$2" ]
}

# first_line FILE: what a short file of our own says, whatever became of it.
first_line() {
    head -c 200 <"$1" 2>/dev/null | head -n 1 | tr -d '\000'
}

# list_state: how the PackageList is that was put there last: missing, damaged or whole.
list_state() {
    if ! real_file "$house/PackageList.txt"; then
        echo missing
        return 0
    elif ! is_small "$house/PackageList.txt" "$most_list"; then
        echo damaged
        return 0
    fi
    # shellcheck disable=SC2016
    awk '
        /^#/ { whole = ($0 == "# end " (n + 0)); next }
        { n++; whole = 0 }
        END { print (whole && n > 0 ? "whole" : "damaged") }
    ' "$house/PackageList.txt"
}

# ---- the clock

# tell_clock: `EPOCHSECOND UPTIME BOOT`: what the clock says beside what nobody can set; `-` where the system does not tell. False where it could not be
# asked.
tell_clock() {
    up=
    boot=
    { [ ! -r /proc/uptime ] || read -r up said </proc/uptime; } 2>/dev/null || return 1
    { [ ! -r /proc/sys/kernel/random/boot_id ] || read -r boot </proc/sys/kernel/random/boot_id; } 2>/dev/null || return 1
    up=${up%%.*}
    second=$(date +%s) || return 1
    echo "$second ${up:--} ${boot:--}"
}

# tell_stored: what stands below the clock when a PackageList is stored, and what pkg_purge compares: for whom, the record as `ID HOME-ID TARGET` or `-`
# where there is none, and where, the archive's `DEVICE:INODE`. To be asked under the publish lock. False where it could not be found out.
tell_stored() {
    stored_for=-
    if exists "$house/archive"; then
        read_record
        is_record "$record" || record='?'
        stored_for=$record
    fi
    stored_in=$(stat -c %d:%i . 2>/dev/null) && printf '%s\n' "$stored_for" "$stored_in"
}

# ---- space

# disk_free PATH...: for each path a line `KIB MOUNT`: what its owner could still write, and where its file system is mounted. The number is
# that before the percentage, since names on either side may hold spaces.
disk_free() {
    df -Pk "$@" 2>/dev/null | awk '
        NR > 1 {
            for (i = 5; i < NF; i++) if ($i ~ /^([0-9]+%|-)$/ && $(i - 1) ~ /^-?[0-9]+$/) break
            if (i == NF) next
            line = $(i - 1)
            while (++i <= NF) line = line " " $i
            print line
        }'
}

# ---- changing things on disk

# rename OLD NEW: a plain rename that never moves OLD into a directory NEW. Leaves in `why` what mv complained.
# shellcheck disable=SC2034 # `why` is for the verbs
rename() {
    why=$(mv -f -T -- "$1" "$2" 2>&1) && return 0
    # A mv that has no -T: under our lock, the look before it is enough.
    if ! exists "$1" || exists "$2"; then
        return 1
    fi
    why=$(mv -f -- "$1" "$2" 2>&1)
}

# flush PATH: makes the file system that holds PATH durable. A failure may have lost data and is never tried again, so the plain
# `sync`, which reports nothing, serves only where there is no `sync -f`.
flush() {
    sync -f "$1" 2>/dev/null && return 0
    # One that was killed, or could not start, does not say that it knows no -f.
    sync_help=$(sync --help 2>&1) || [ $? -le 1 ] || return 1
    case $sync_help in
    *'-f, --file-system'* | *'	-f	'*) return 1 ;;
    esac
    sync
}

# flush_files DIR: makes what lies below DIR durable, each file and folder by itself. The system tells an error of the disk to the first who syncs all of
# the file system, whoever's data was lost; who syncs a file hears what became of that file. Where sync takes no files, all at once has to do.
flush_files() {
    flush "$1" || return 1
    sync_help=$(sync --help 2>&1) || [ $? -le 1 ] || return 1
    case $sync_help in
    *'[FILE]'*) ;;
    *) return 0 ;;
    esac
    # What cannot be opened is no package's that is published.
    find "$1" -type d ! -perm -500 -prune -o -type f -perm -400 -exec sync {} + 2>/dev/null &&
        find "$1" -type d ! -perm -500 -prune -o -type d -exec sync {} + 2>/dev/null
}

# ---- what is mounted

# here: where the working directory is now, by the system, where it tells. A shell says where it was when it was entered.
here() {
    if [ -L "/proc/$$/cwd" ]; then readlink "/proc/$$/cwd" 2>/dev/null; else pwd -P; fi
}

# know_mounts [PATH]: `$mounts` becomes what is mounted below the archive, or at PATH and below it, where the system tells: each path below the archive
# between two line ends. False where it could not be found out.
know_mounts() {
    mounts=$line_end
    [ -r /proc/self/mountinfo ] || return 0
    list_root=$(here) || return 1
    # shellcheck disable=SC2016
    mounts=$(root=${list_root%/}/ below=${1-} awk '
        {
            path = $5
            gsub(/\\040/, " ", path)
            gsub(/\\011/, "\t", path)
            gsub(/\\134/, "\\", path)
            if (index(path, root = ENVIRON["root"]) != 1) next
            path = substr(path, length(root) + 1)
            below = ENVIRON["below"]
            if (below == "" || path == below || index(path, below "/") == 1) print path
        }
        END { if (NR > 0) print "# end" }
    ' /proc/self/mountinfo) || return 1
    is_whole_list "$mounts" || return 1
    mounts=$line_end${mounts%'# end'}
}

# is_whole_list TEXT: its last line is the end mark.
is_whole_list() {
    case $line_end$1 in *"$line_end# end") ;; *) return 1 ;; esac
}

# ---- digests

# First lines `NAMES MODE DEVICE:INODE/.//PATH`, where a line without `//`, which no name can hold, is the rest of a name with a line end in it; then
# a manifest, of which it passes on what has to be hashed: a file once, however many names it has, and once more where they have other digests, or
# odd names, which are hashed apart.
# shellcheck disable=SC2016
once='
    function escaped(text, line, i, byte) {
        if (text !~ /[\\\r]/) return text
        for (i = 1; i <= length(text); i++) {
            byte = substr(text, i, 1)
            line = line (byte == "\\" ? "\\\\" : byte == "\r" ? "\\r" : byte)
        }
        return line
    }
    function note() {
        if (file != "") of[path] = file
        file = ""
    }
    looked && index($0, "//") {
        note()
        # Of regular files alone.
        if ($1 > 1 && $2 ~ /^8/) {
            file = $3
            sub(/\/.*/, "", file)
            path = escaped(substr($0, index($0, "//") + 2))
        }
        next
    }
    looked { if (file != "") path = path "\\n" escaped($0); next }
    {
        note()
        path = substr($0, /^[\\]/ ? 68 : 67)
        hashed = (path in of) ? of[path] " " substr($0, 1, 64) : ""
        if ((hashed == "" || !(hashed in passed)) && (kind == "" || (kind == "odd") == ($0 ~ /^[\\]/))) print
        if (hashed != "") passed[hashed] = 1
    }
'

# once MANIFEST [odd|plain]: its lines that have to be hashed; of those whose names are escaped as coreutils does it, or of the others. Its paths begin in
# the working directory.
once() {
    {
        awk '!/^[\\]/ { print ".//" substr($0, 67) }' "$1" | tr '\n' '\000'
        grep '^[\\]' "$1" | while IFS= read -r line; do printf '%b\0' ".//${line#*  }"; done
    } | xargs -0 -r stat -c '%h %f %d:%i/%n' 2>/dev/null | awk "$once" kind="${2-}" looked=1 - looked=0 "$1"
}

# Of what sha256sum -c says, the lines that do not say OK; and an end, which sha256sum meets with its next line, once nobody hears us any more.
# shellcheck disable=SC2016
failing='
    BEGIN { can_tell = alive != "" && (getline state < ("/proc/" main "/stat")) > 0 }
    can_tell {
        is_there = (getline state < ("/proc/" alive "/stat")) > 0
        close("/proc/" alive "/stat")
        if (!is_there || state ~ /\) [ZX][^)]*$/) exit
    }
    !/: OK$/
'

failing() {
    awk -v alive="$alive" -v main="$$" "$failing"
}

# all_agree COMMAND...: so does sha256sum -c say of all that COMMAND prints, which ended well.
all_agree() {
    agreed=$({ { "$@" && echo given >&3; } | { sha256sum -c - 2>/dev/null && echo agreed >&3; } | failing >/dev/null; } 3>&1)
    [ "$agreed" = "given${line_end}agreed" ]
}

# has_odd MANIFEST: some of its names are escaped; 1 where none is.
has_odd() {
    grep -q '^[\\]' "$1"
}

# odd_digests_agree MANIFEST [TEST]: for its lines whose names are escaped as coreutils does it, which not every sha256sum knows. A file
# that differs is only named where the command TEST excuses it.
odd_digests_agree() (
    trap - EXIT
    odd_lines=$(once "$1" odd) || exit 1
    # A name may end in blanks.
    set -f
    IFS=$line_end
    for line in $odd_lines; do
        is_heard || exit 1
        line=${line#?}
        path=$(printf '%b.' "${line#*  }")
        # Opened by sha256sum, which can be ended, and not by us. It may mark the name as odd.
        { sum=$(sha256sum "./${path%.}" 2>/dev/null </dev/null) && sum=${sum%% *} && [ "${sum#[!0-9a-f]}" = "${line%%  *}" ]; } ||
            { [ $# -gt 1 ] && "$2" "./${path%.}" && printf '%s\n' "${line#*  }" | tr -c ' -~\n' '?'; } || exit 1
    done
)

# ---- the end

# finish: to be run by the EXIT trap of every verb that has a stage.
finish() {
    status=$?
    trap - EXIT
    stop_alive
    [ -z "$stage_id" ] || clear_away "$stage_id"
    exit "$status"
}

# ---- signs of life

# What a verb does every 5 s while it works, and once nobody hears it any more, or it is gone.
each_while() { :; }
at_end() { :; }

# start_alive: prints `alive` every 10 s. Looks every second whether we still run, so that a killed script does not keep its caller waiting. Nor does
# one that is stopped: it is not alive.
start_alive() {
    (
        trap - EXIT
        exec </dev/null 8>&- 9>&-
        # To die of what nobody takes would leave no time for the end.
        trap '' PIPE
        ticks=0
        while sleep 1 >/dev/null && is_there; do
            ticks=$(((ticks + 1) % 10))
            [ $((ticks % 5)) -ne 2 ] || each_while >/dev/null
            [ "$ticks" -ne 0 ] || is_stopped || echo alive || break
        done
        exec >/dev/null
        at_end
    ) 2>/dev/null &
    alive=$!
}

# is_there: our main process has not ended. Where its parent takes no notice of its end, it keeps its number, and a signal to it is no error.
is_there() {
    kill -0 $$ 2>/dev/null || return 1
    state_of $$
    case $state in
    [ZX]*) return 1 ;;
    esac
}

# is_stopped: the system says that our main process is stopped.
is_stopped() {
    state_of $$
    case $state in
    [Tt]*) return 0 ;;
    esac
    return 1
}

# is_heard: nothing says that whoever asked is gone. The loop that prints `alive` ends with its first word that nobody takes.
is_heard() {
    { [ -n "$alive" ] && [ -r /proc/$$/stat ]; } || return 0
    state_of "$alive"
    case $state in
    '' | [ZX]*) return 1 ;;
    esac
}

# state_of PID: `$state` becomes what the system says of a process from its state on; nothing where it is gone. Its name comes before, and may hold
# anything.
state_of() {
    state=
    { read -r state </proc/"$1"/stat; } 2>/dev/null
    state=${state##*) }
}

# Not TERM: a shell that has just been forked may still have its parent's handling of signals, and one that got lost would leave us waiting
# for ever.
stop_alive() {
    [ -n "$alive" ] || return 0
    {
        kill -9 "$alive"
        wait "$alive"
    } 2>/dev/null
    alive=
}

. "${0%/*}/blat-removing.sh"
