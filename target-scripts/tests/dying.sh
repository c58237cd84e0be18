# shellcheck shell=sh disable=SC2154,SC2034,SC2016 # the harness is what sets and reads the names
# That nothing a script has started outlives it, also where whoever started the script takes no notice of its end: then it keeps its number.

# unnoticed VERB ARGUMENT...: a run in the background and in a session of its own, under a parent that does not wait. Standard input as given.
unnoticed() {
    verb=$1
    shift
    command="$verb $*"
    rm -f "$work/number"
    # What is begun in the background reads nothing unless it is told to.
    {
        env -i PATH="${before:+$before:}$tools" BLAT_TEST="$work" setsid sh -c '"$@" <&3 3<&- &
            exec 3<&-
            echo $! >"$BLAT_TEST/new"; mv "$BLAT_TEST/new" "$BLAT_TEST/number"; exec tail -f /dev/null </dev/null >/dev/null 2>&1' \
            sh "$shell" "$bin/$verb" "$@" >"$work/out" 2>"$work/err" &
    } 3<&0
    session=$!
    eventually [ -s "$work/number" ]
    number=$(cat "$work/number")
}

# others: the processes of that session that run, beside the parent.
others() {
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v session="$session" '
        { pid = $1; sub(/^.*\) /, "") }
        $4 == session && pid != session && $1 != "Z" { print pid }'
}

nothing_runs() { [ -z "$(others)" ]; }

hears() { [ "$(others | wc -l)" -ge 3 ] && heard_ready; }

# killed_unnoticed TITLE: kills the script's own process; all that it started ends.
killed_unnoticed() {
    check 'it works' [ -n "$(others | grep -vx "$number")" ]
    kill -9 "$number"
    eventually is_in_state Z
    check "$1" eventually nothing_runs
    # shellcheck disable=SC2046 # to be split
    nothing_runs || kill -9 $(others)
    kill -9 "$session"
    wait "$session" 2>/dev/null
}

check_dying() {
    fresh
    receive "$work/both"
    echo 'odd 1' >"$work/named"
    wrap sha256sum '[ "$1" = -c ] || exec "$real" "$@"
        echo $$ >"$BLAT_TEST/hasher"
        while :; do :; done'
    for nap in 0 6; do
        rm -f "$work/hasher"
        unnoticed get_plist --archive "$arch" --verify <"$work/named"
        eventually [ -s "$work/hasher" ]
        sleep "$nap"
        killed_unnoticed "nothing stays of one that was killed $nap s after it began to hash, though nobody notices"
    done
    unwrap

    [ -p "$work/talk" ] || mkfifo "$work/talk"
    printf 'odd 1\n# end 1\n' >"$work/list"
    {
        cat "$work/list"
        exec sleep 100
    } >"$work/talk" &
    talker=$!
    unnoticed delete_package --archive "$arch" --confirm 600 --unlisted --bytes "$(wc -c <"$work/list")" <"$work/talk"
    eventually hears
    killed_unnoticed 'nor of one that waits for a word'
    kill -9 "$talker"
    wait "$talker" 2>/dev/null
    check 'and the package is there' arrived odd/1
    fresh
}
