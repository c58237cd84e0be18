# shellcheck shell=sh disable=SC2154,SC2034 # the harness is what sets and reads the names
# That no package goes, and none is marked, that is the source's own.

# known PATH: INODE CHANGED of a file, as an agent says it.
known() { stat -c '%i %Z %z' "$1" | sed 's/^\([0-9]*\) \([0-9]*\) .*\.\([0-9]\{7\}\)[0-9]* .*/\1 \2.\3/'; }

# held_back: nothing was done, and why is said.
held_back() {
    ended 1 "the archive and the source are the same: the file of $1 here is the source's own, so nothing was changed" &&
        arrived odd/1 && arrived even/2.0~rc1+x && unmarked odd@1 && unmarked even@2.0~rc1+x
}

# refused_all TITLE PACKAGE LINES: however it is asked for.
refused_all() {
    for how in --unlisted '--mark 5' --due; do
        # shellcheck disable=SC2086
        feed "$3" $how
        check "$1: $how" held_back "$2"
    done
}

check_comparing() {
    fresh
    receive "$work/both"
    want other/1
    file=$(known "$arch/odd/1/descpkg")
    inode=${file% *}
    changed=${file#* }
    other='even 2.0~rc1+x 1600000100 99 100.0000001'
    refused_all 'a package that is the sources own' odd@1 "$other
odd 1 1600000000 $file"
    refused_all 'by a file server that tells no inodes' odd@1 "odd 1 1600000000 99 $changed
even 2.0~rc1+x"
    refused_all 'by a file server that tells whole seconds' odd@1 "odd 1 1600000000 $inode ${changed%.*}.0000000
$other"
    refused_all 'by the second of two' odd@1 "odd 1 - 99 100.0000001 $file"
    feed "odd 1 - $file" --unmark
    check 'a mark is taken away all the same' said 'unmarked odd 1'
    ln -s 1 "$arch/odd/current"
    link=$(known "$arch/odd/current")
    refused_all 'a link that is the sources own' odd@current "odd current - 99 100.0000001 $link"
    feed "odd current - $file" --unlisted
    check 'a link goes by itself, not by what it leads to' said 'deleted odd current'
    for bad in 'odd 1 5 6' 'odd 1 5 6 7' 'odd 1 5 6 7.1' "odd 1 x $file" "odd 1 5 -$file" "odd 1 5 $file 7" "odd 1 5 $file $file 8 9.0000000"; do
        feed "$bad" --unlisted
        check "a line that is none is refused: $bad" ended 2 'is not NAME VERSION'
    done
    feed "odd 1 1600000000 $inode ${changed%.*}.9999999
even 2.0~rc1+x 1600000100 99 ${changed%.*}.0000000
none 1 - $file" --unlisted
    check 'copies go' said 'deleted odd 1
deleted even 2.0~rc1+x
absent none 1'
    check 'and nothing is left' nothing_staged
}
