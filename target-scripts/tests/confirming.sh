# shellcheck shell=sh disable=SC2154,SC2034 # the harness is what sets and reads the names
# That whoever asked is still there, which is asked under the lock; and that a PackageList names nothing that is gone.

# heard_ready: the script holds the lock and asks.
heard_ready() { grep -qx ready "$work/out"; }

# confirmed WORD VERB ARGUMENT...: a run with $work/list on a standard input that goes on after it: with WORD once it is asked for; `-` ends it there,
# `hold` leaves it open without a word.
confirmed() {
    word=$1
    shift
    : >"$work/out"
    {
        cat "$work/list"
        eventually heard_ready
        case $word in
        -) ;;
        hold) eventually asked_in_vain ;;
        *) echo "$word" ;;
        esac
    } >"$work/talk" &
    run "$@" --bytes "$(wc -c <"$work/list")" <"$work/talk"
    wait
}

asked_in_vain() { [ -s "$work/err" ]; }

# answered TEXT: the answer ends well, and is these lines beside the question.
answered() {
    ended 0 && heard_ready && grep -vx ready "$work/out" >"$work/rest" && mv "$work/rest" "$work/out" && said "$1"
}

# store_confirmed WORD TEXT
store_confirmed() {
    printf '%s' "$2" >"$work/list"
    confirmed "$1" receive_file --archive "$arch" --name PackageList.txt --confirm 5 --sha256 "$(sha256sum <"$work/list" | cut -d ' ' -f 1)"
}

# store_plain TEXT: as somebody who does not confirm, whatever the list names.
store_plain() {
    printf '%s' "$1" >"$work/list"
    run receive_file --archive "$arch" --name PackageList.txt --bytes "$(wc -c <"$work/list")" \
        --sha256 "$(sha256sum <"$work/list" | cut -d ' ' -f 1)" <"$work/list"
}

check_confirmed_deletions() {
    receive "$work/both"
    store_plain 'even 2.0~rc1+x
# end 1
'
    printf 'odd 1\n# end 1\n' >"$work/list"
    for how in --unlisted '--mark 5' --unmark; do
        # shellcheck disable=SC2086
        confirmed - delete_package --archive "$arch" --confirm 5 $how
        check "nothing is done for one who is gone: $how" ended 75 'nothing was changed'
        # shellcheck disable=SC2086
        confirmed hold delete_package --archive "$arch" --confirm 1 $how
        check "nor for one who says nothing: $how" ended 75 'did not say go within 1 s'
        # shellcheck disable=SC2086
        confirmed stop delete_package --archive "$arch" --confirm 5 $how
        check "nor for one who says something else: $how" ended 75
    done
    check 'the package stays, without a mark' arrived odd/1
    check 'and nothing is left' nothing_staged
    confirmed go delete_package --archive "$arch" --confirm 5 --unlisted
    check 'who is there and says so has it deleted' answered 'deleted odd 1'
    confirmed go delete_package --archive "$arch" --confirm 5 --unlisted
    check 'and is told what is gone' answered 'absent odd 1'
    run delete_package --archive "$arch" --unlisted --confirm 5 <"$work/list"
    check 'the length of the list has to be known' ended 2 'needs --bytes'
    check 'and nothing is left at all' nothing_staged
}

check_confirmed_lists() {
    store_confirmed go 'even 2.0~rc1+x
odd 1
# end 2
'
    check 'a list that names what is gone is not stored' ended 1 'it names odd 1, which is not there any more'
    check 'the former one stays' grep -qx '# end 1' "$arch/.dpkg_archive/PackageList.txt"
    receive "$work/odd"
    ln -s 1 "$arch/odd/current"
    store_confirmed - 'odd 1
# end 1
'
    check 'nor one of somebody who is gone' ended 75 'nothing was changed'
    check 'the former one stays again' grep -qx '# end 1' "$arch/.dpkg_archive/PackageList.txt"
    ln -s lost "$arch/odd/dangling"
    store_confirmed go 'odd dangling
# end 1
'
    check 'nor one that names a link to nothing' ended 1 'odd dangling'
    store_confirmed go 'even 2.0~rc1+x
odd 1
odd current
# end 3
'
    check 'a list of what is there is stored' answered 'stored PackageList.txt
former whole'
    run receive_file --archive "$arch" --name PackageList.txt --confirm 5 --bytes "$(wc -c <"$work/list")" \
        --sha256 "$(sha256sum <"$work/list" | cut -d ' ' -f 1)" <"$work/list"
    check 'the list that is there is stored without a question' said 'stored PackageList.txt
former whole'
    check 'and nothing is left' nothing_staged
}

check_confirming() {
    fresh
    [ -p "$work/talk" ] || mkfifo "$work/talk"
    check_confirmed_deletions
    check_confirmed_lists
}
