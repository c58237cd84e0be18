# shellcheck shell=sh disable=SC2154,SC2034 # the harness is what sets and reads the names
# Whose archive it is: the record, and that only its owner lists, marks and deletes.

id_a=0123456789abcdef0123456789abcdef
id_b=fedcba9876543210fedcba9876543210
home_a=00000000000000000000000000000001
home_b=00000000000000000000000000000002

# claim HOW TEXT [ARGUMENT...]
claim() {
    printf '%s\n' "$2" >"$work/record"
    how=$1
    shift 2
    run receive_file --archive "$arch" --name archive --claim "$how" --bytes "$(wc -c <"$work/record")" \
        --sha256 "$(sha256sum <"$work/record" | cut -d ' ' -f 1)" "$@" <"$work/record"
}

# owned TEXT: the answer names this record; without TEXT, none.
owned() {
    ended 0 && [ "$(grep '^archive ' "$work/out" | tr -s ' ' | sed 's/ $//')" = "${1:+archive $1}" ] && grep -q '^place [0-9a-f-]* [0-9]*:[0-9]*' "$work/out" &&
        [ "$(sed -n 's/^# end //p' "$work/out")" -eq "$(grep -c '^[apv]' "$work/out")" ]
}

title() { run get_plist --archive "$arch" --title </dev/null; }

is_file() { printf '%s\n%s\n' "$1" "$2" | cmp -s - "$arch/.dpkg_archive/archive"; }

# as OWNER VERB ARGUMENT...: a run with a list of one package.
as() {
    owner=$1
    verb_as=$2
    shift 2
    printf 'odd 1\n# end 1\n' >"$work/list"
    run "$verb_as" --archive "$arch" --owner "$owner" "$@" <"$work/list"
}

# store OWNER TEXT: by a sync that leaves deletions to the target.
store() { store_with "$@" --purge yes; }

# store_with OWNER TEXT [ARGUMENT...]
store_with() {
    printf '%s' "$2" >"$work/list"
    lister=$1
    shift 2
    run receive_file --archive "$arch" --name PackageList.txt --owner "$lister" --bytes "$(wc -c <"$work/list")" \
        --sha256 "$(sha256sum <"$work/list" | cut -d ' ' -f 1)" "$@" <"$work/list"
}

check_owning() {
    fresh
    title
    check 'an archive of nobody has no record' owned ''
    check 'and telling that changes nothing' [ ! -e "$arch/.dpkg_archive" ]
    claim first "$id_a
$home_a perth"
    check 'who comes first gets it' owned "$id_a $home_a perth"
    check 'in two lines' is_file "$id_a" "$home_a perth"
    claim first "$id_b
$home_b oslo"
    check 'who comes second finds it taken' owned "$id_a $home_a perth"
    title
    check 'everybody sees it' owned "$id_a $home_a perth"
    list
    check 'with each listing' grep -q "^archive $id_a $home_a perth *$" "$work/out"
    check 'whose count is right' [ "$(sed -n 's/^# end //p' "$work/out")" -eq "$(($(wc -l <"$work/out") - 2))" ]
    claim withdraw "$id_b
$home_a perth"
    check 'another record is not taken away' owned "$id_a $home_a perth"
    stamp odd@1 5000 5
    claim adopt "$id_b
$home_b oslo"
    check 'an adoption brings another record' owned "$id_b $home_b oslo"
    check 'and what the former owner marked waits anew' unmarked odd@1
    check 'and says that nobody has visited it since' cmp -s "$arch/.dpkg_archive/visit" "$arch/.dpkg_archive/archive"
    claim withdraw "$id_a
$home_b oslo"
    check 'another record of the owner stays' owned "$id_b $home_b oslo"
    claim withdraw "$id_b
$home_b oslo"
    check 'the very record is taken away' owned ''
    check 'and what the adoption left' [ ! -e "$arch/.dpkg_archive/visit" ]
    stamp odd@1 5000 5
    claim first "$id_a
$home_a perth"
    check 'who comes first after that gets it' owned "$id_a $home_a perth"
    check 'without the marks of whoever had it' unmarked odd@1
    stamp odd@1 5000 5
    claim first "$id_a
$home_a perth"
    check 'and keeps its own when it asks again' marked odd@1
    claim withdraw "$id_a
$home_a perth"
    for bad in '' 'x' "$id_a" "$id_a $home_a" "$id_a $home_a ../x" "$id_a $home_a a b" "$(echo $id_a | tr a-f A-F) $home_a perth"; do
        claim first "$bad"
        check "no record is wrong usage: $bad" ended 2 'record'
    done
    claim first "$id_a $home_a perth" --claim steal
    check 'nor is another word' ended 2 'first, adopt, withdraw or visit'
    check 'nothing is left' nothing_staged
    check_visits
    check_strange_records
    check_outer_records
    check_owners
    check_replacing
}

# visited TEXT: the archive and its title have this visit.
visited() {
    [ "$(tr '\n' ' ' <"$arch/.dpkg_archive/visit")" = "$1 " ] || return 1
    title
    ended 0 && grep -q "^visit $1 *$" "$work/out" && [ "$(sed -n 's/^# end //p' "$work/out")" -eq "$(grep -c '^[apv]' "$work/out")" ]
}

check_visits() {
    fresh
    claim visit "$id_b $home_a perth"
    check 'nobody visits an archive of nobody' [ "$status" -eq 0 -a ! -e "$arch/.dpkg_archive/visit" ]
    claim first "$id_a $home_a perth"
    claim visit "$id_b $home_a perth"
    check 'its owner does' visited "$id_b $home_a perth"
    title
    check 'and the record stays' owned "$id_a $home_a perth"
    list
    check 'each listing says it' grep -q "^visit $id_b $home_a perth *$" "$work/out"
    check 'and counts it' [ "$(sed -n 's/^# end //p' "$work/out")" -eq "$(($(wc -l <"$work/out") - 2))" ]
    claim visit "$id_a $home_b oslo"
    check 'nobody else does' visited "$id_b $home_a perth"
    ln -sf archive "$arch/.dpkg_archive/visit"
    title
    check 'what is no file is not read' grep -q '^visit ? it is no regular file' "$work/out"
    claim visit "$id_b $home_a perth"
    check 'and is replaced' [ ! -L "$arch/.dpkg_archive/visit" ]
    check 'nothing is left' nothing_staged
}

check_outer_records() {
    fresh
    inner=$arch/odd/1/inner
    mkdir -p "$arch/.dpkg_archive" "$inner"
    printf '%s\n%s\n' "$id_a" "$home_a perth" >"$arch/.dpkg_archive/archive"
    outer=$arch
    arch=$inner
    claim first "$id_b
$home_b oslo"
    check 'an archive in an archive is not claimed' ended 1 "lies in the archive of target perth, which may delete it: 3 directories above"
    check 'and nothing is left' [ ! -e "$inner/.dpkg_archive/archive" ]
    rm "$outer/.dpkg_archive/archive"
    deep=$inner
    for _ in 1 2 3 4; do
        deep=$deep/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a
    done
    mkdir -p "$deep"
    arch=$deep
    claim first "$id_b
$home_b oslo"
    check 'one that lies deep tells all that it lies in' [ "$(grep '^place ' "$work/out" | tr ' ' '\n' | grep -cx "$(stat -c %d:%i "$outer")")" -eq 1 ]
    check 'in as many lines as it takes' [ "$(grep -c '^place ' "$work/out")" -eq 2 -a "$(tail -n 1 "$work/out")" = '# end 3' ]
    list
    check 'also with a listing' [ "$status" -eq 0 ]
    arch=$outer
}

# kept OWNER: odd@1 is sent in this name, and what is there stays, since the archive has another owner.
kept() {
    place_of_odd >"$work/before"
    receive "$work/odd-replace" --owner "$1"
    place_of_odd >"$work/found"
    ended 0 && grep -q "^failed odd 1 conflict another one is there, and it is not replaced: .*$2.*blat adopt" "$work/out" &&
        cmp -s "$work/before" "$work/found" && nothing_staged
}

# shown: all that the archive has, beside what comes and goes with each run.
shown() { (cd "$arch" && find . ! -name '*.lock' -printf '%y %m %T@ %i %l %p\n' | grep -v -e ' \./\.dpkg_archive\(/stage\|/trash\)\?$' | sort); }

# unowned OWNER PATTERN COMMAND...: it sends in OWNER's name, all that it sends fails by PATTERN, and nothing in the archive is made, moved or removed.
unowned() {
    sent_by=$1
    pattern=$2
    shift 2
    shown >"$work/before"
    "$@" --owner "$sent_by"
    shown >"$work/found"
    ended 0 && [ "$(grep -c "^failed [^ ]* [^ ]* unowned $pattern" "$work/out")" -eq "$(($(wc -l <"$work/out") - 2))" ] &&
        cmp -s "$work/before" "$work/found" && nothing_staged
}

check_replacing() {
    fresh
    receive "$work/odd"
    claim first "$id_a $home_a perth"
    other="the archive has the record of another owner by now ($home_a perth), so nothing is brought; the next try looks again"
    mkdir -p "$arch/.dpkg_archive/aged"
    for mark in odd@1 even@2.0~rc1+x; do printf '1\n2\n' >"$arch/.dpkg_archive/aged/$mark"; done
    check 'whoever does not own the archive replaces nothing' unowned "$home_b oslo" "$other" receive "$work/odd-replace"
    check 'nor brings anything new' unowned "$home_b oslo" "$other" receive "$work/both"
    check 'nor does a former owner of the same name' unowned "$home_b perth" "$other" receive "$work/both"
    mkdir -p "$arch/odd/3"
    : >"$arch/odd/3/descpkg"
    printf 'odd current 1\n' >"$work/links"
    check 'nor a link, for who names the record that it saw' unowned "$id_b $home_b oslo" "$other" send_links_as
    check 'nor does a former owner of the same name link' unowned "$id_b $home_b perth" "$other" send_links_as
    send_links "$home_b oslo"
    check 'a new link comes from who knows that somebody else owns it' said 'linked odd current'
    printf 'odd current 3\n' >"$work/links"
    send_links "$home_b oslo"
    check 'but it replaces none' grep -q "^failed odd current conflict another one is there, and it is not replaced: its owner is $home_a perth" "$work/out"
    receive "$work/even"
    check 'who knows that somebody else owns it names no owner, and sends what is not there' said 'published even 2.0~rc1+x'
    check 'which stays' [ "$(readlink "$arch/odd/current")" = 1 ]
    send_links "$home_a perth"
    check 'its owner does' said 'linked odd current'
    printf 'odd new 1\n' >"$work/links"
    damaged='its record (.dpkg_archive/archive) does not name its owner, or could not be read, so nothing is brought; .*blat adopt'
    for torn in '' "${id_a%?????}" "$id_a
" "$id_a
$home_a" "$id_a
${home_a%?} perth" '\0\0\0\0\0\0\0\0'; do
        printf '%b' "$torn" >"$arch/.dpkg_archive/archive"
        check "nor does anybody where the record is damaged, with ${#torn} characters" unowned "$home_a perth" "$damaged" receive "$work/odd-replace"
        check 'nor brings anything new' unowned "$home_a perth" "$damaged" receive "$work/both"
        check 'nor links' unowned "$id_a $home_a perth" "$damaged" send_links_as
    done
    receive "$work/odd-replace" --owner ''
    check 'who names no owner brings and replaces, as where there is none' said 'replaced odd 1'
    receive "$work/odd-same-time" --owner ''
    rm "$arch/.dpkg_archive/archive"
    claim adopt "$id_a $home_a perth"
    receive "$work/odd-replace" --owner "$home_a perth"
    check 'its owner replaces' said 'replaced odd 1'
    fresh
    receive "$work/odd"
    none='the archive has no record of its owner'
    check 'nothing is replaced where no record says whose the archive is' unowned "$home_a perth" "$none" receive "$work/odd-replace"
    check 'it stays' arrived odd/1
    check 'nor does anything new come' unowned "$home_a perth" "$none" receive "$work/even"
    check 'nor where all of its manifests have a place' eval 'mkdir "$arch/even" "$arch/.dpkg_archive/manifests/even" && unowned "$home_a perth" "$none" receive "$work/both"'
    printf 'odd current 1\n' >"$work/links"
    check 'nor a link' unowned "$home_a perth" "$none" send_links_as
    rmdir "$arch/even" "$arch/.dpkg_archive/manifests/even"
    receive "$work/odd-replace"
    check 'whoever works by hand and names no owner replaces' said 'replaced odd 1'
}

# send_links OWNER
send_links() { send_links_as --owner "$1"; }

# send_links_as [ARGUMENT...]
send_links_as() {
    run receive_file --archive "$arch" --name links "$@" --bytes "$(wc -c <"$work/links")" \
        --sha256 "$(sha256sum <"$work/links" | cut -d ' ' -f 1)" <"$work/links"
}

check_strange_records() {
    fresh
    mkdir "$arch/.dpkg_archive"
    for strange in '' "$id_a" "$id_a $home_a perth x" '* /etc/*' 'a\nb'; do
        printf '%s\n' "$strange" >"$arch/.dpkg_archive/archive"
        title
        check "a record that is none is told as it is: $strange" grep -qF "archive $strange" "$work/out"
        claim first "$id_b $home_a perth"
        check 'and is not overwritten' [ "$(cat "$arch/.dpkg_archive/archive")" = "$strange" ]
        as "$home_a perth" delete_package --unmark
        check 'and owns nothing' ended 1 'does not name its owner'
    done
    head -c 100000 /dev/zero >"$arch/.dpkg_archive/archive"
    title
    check 'a long one is cut' [ "$(wc -c <"$work/out")" -lt 2000 ]
    claim adopt "$id_b $home_a perth"
    check 'an adoption replaces it' owned "$id_b $home_a perth"
    for way in 'ln -s /dev/zero' mkfifo mkdir; do
        rm -f "$arch/.dpkg_archive/archive"
        $way "$arch/.dpkg_archive/archive"
        title
        check "what is no file is not read: $way" grep -q '^archive ? it is no regular file' "$work/out"
    done
}

check_owners() {
    fresh
    receive "$work/both"
    store "$home_a perth" 'even 2.0~rc1+x
# end 1
'
    check 'an archive of nobody is not listed in anybodys name' ended 1 'does not name its owner'
    claim first "$id_a $home_a perth"
    store "$home_a perth" 'even 2.0~rc1+x
# end 1
'
    check 'the first list is told to be the first' said 'stored PackageList.txt
former missing'
    store "$home_a perth" 'even 2.0~rc1+x
# end 1
'
    check 'the second one replaces a whole one' said 'stored PackageList.txt
former whole'
    for cut in '' 'even 2.0~rc1+x
' 'even 2.0~rc1+x
# end 2
'; do
        printf '%s' "$cut" >"$arch/.dpkg_archive/PackageList.txt"
        store "$home_a perth" 'even 2.0~rc1+x
# end 1
'
        check 'and a damaged one is told' said 'stored PackageList.txt
former damaged'
    done
    store "$home_b perth" 'odd 1
# end 1
'
    check 'nobody else lists' ended 1 "its owner is $home_a perth now"
    store "$id_a $home_a perth" 'even 2.0~rc1+x
# end 1
'
    check 'a whole record is good as well' said 'stored PackageList.txt
former whole'
    claim adopt "$id_b $home_b oslo"
    claim adopt "$id_b $home_a perth"
    store "$id_a $home_a perth" 'even 2.0~rc1+x
# end 1
'
    check 'what was planned before an adoption is not done after it' ended 1 'it was adopted since this was planned'
    for how in --unmark --unlisted --due '--mark 5'; do
        # shellcheck disable=SC2086
        as "$id_a $home_a perth" delete_package $how
        check "nor is that marked or deleted: $how" ended 1 'it was adopted since this was planned'
    done
    check 'the list stays' grep -q '^even' "$arch/.dpkg_archive/PackageList.txt"
    for how in --unmark --unlisted --due '--mark 5'; do
        # shellcheck disable=SC2086
        as "$home_a oslo" delete_package $how
        check "nobody else marks or deletes: $how" ended 1 "its owner is $home_a perth now"
    done
    check 'the package stays' arrived odd/1
    as "$home_a perth" delete_package --unlisted
    check 'its owner deletes' said 'deleted odd 1'
    check 'and nothing is left' nothing_staged
}
