# shellcheck shell=sh disable=SC2154,SC2034,SC2016 # the harness is what sets and reads the names
# delete_package.

delete() { run delete_package --archive "$arch" "$@" </dev/null; }

# What a link in the place of one of our directories leads to is not ours to remove.
check_linked_rooms() {
    mkdir -p "$work/outside/odd"
    echo mine >"$work/outside/odd/1"
    echo mine >"$work/outside/odd@1"
    receive "$work/odd"
    mv "$arch/.dpkg_archive/manifests/odd" "$work/aside"
    ln -s "$work/outside/odd" "$arch/.dpkg_archive/manifests/odd"
    delete odd/1
    check 'where its manifests are a link, a package is deleted' said 'deleted odd 1'
    check 'and nothing by way of the link' [ -e "$work/outside/odd/1" -a -L "$arch/.dpkg_archive/manifests/odd" ]
    rm "$arch/.dpkg_archive/manifests/odd"
    receive "$work/odd"
    for room in manifests aged trash stage; do
        [ ! -e "$arch/.dpkg_archive/$room" ] || mv "$arch/.dpkg_archive/$room" "$work/kept"
        ln -s "$work/outside" "$arch/.dpkg_archive/$room"
        delete odd/1
        check "$room may not be a link" ended 1 "making .dpkg_archive/$room in $arch failed: a link is in its place"
        rm "$arch/.dpkg_archive/$room"
        [ ! -e "$work/kept" ] || mv "$work/kept" "$arch/.dpkg_archive/$room"
        check 'and nothing is deleted then' arrived odd/1
    done
    check 'and what the link leads to stays' [ "$(find "$work/outside" -type f | wc -l)" -eq 2 ]
    rm -r "$work/outside" "$work/aside"
}

check_deleting() {
    fresh
    receive "$work/both"
    delete odd/1
    check 'a read-only package is deleted' said 'deleted odd 1'
    check 'with its name, its manifest and all traces' [ -z "$(find "$arch" -path '*odd*')" ]
    check 'and nothing is left' nothing_staged
    check 'and the other one stays' arrived even/2.0~rc1+x
    delete odd/1 even/2.0~rc1+x none/7
    check 'several at once, and absent ones' said 'absent odd 1
deleted even 2.0~rc1+x
absent none 7'

    receive "$work/odd"
    ln -s 1 "$arch/odd/current"
    delete odd/current
    check 'a link is deleted, and not what it addresses' said 'deleted odd current'
    check 'which stays' arrived odd/1
    mkdir -p "$arch/odd/mine"
    echo mine >"$arch/odd/mine/file"
    echo mine >"$arch/odd/file"
    ln -s odd "$arch/alias"
    delete odd/mine odd/file alias/1
    check 'what is no package is never deleted' [ "$(grep -c '^failed .* foreign ' "$work/out")" -eq 3 ]
    check 'but stays' [ -e "$arch/odd/mine/file" -a -e "$arch/odd/file" -a -e "$arch/odd/1/descpkg" ]
    for bad in ../x odd ../../x/1 odd/.. odd/1/bin /etc/passwd odd/ /1 .odd/1 'odd/a b' "odd/1
x/1" -x/1; do
        delete "$bad"
        check "a hostile name is wrong usage: $(printf '%.10s' "$bad" | tr '\n' ' ')" ended 2 'is not NAME/VERSION'
    done
    delete
    check 'nothing to delete is wrong usage' ended 2
    run delete_package --archive "$work/none" odd/1 </dev/null
    check 'a missing archive is an error for a deletion' ended 1 "entering the archive $work/none failed"
    check_linked_rooms
    wrap sync '[ "$1" = --help ] && exec "$real" "$@"; exit 1'
    delete odd/1
    unwrap
    check 'a disk that fails is an error for a deletion' ended 1 'the disk reports an error'
    check 'before anything is deleted' arrived odd/1
    chmod 000 "$arch/odd/1/empty" "$arch/odd/1/lib/deep"
    delete odd/1
    check 'a package with closed directories is deleted' [ -z "$(find "$arch/.dpkg_archive" "$arch/odd" -path '*/lib*')" ]
    check_open_folders
    check_shut_folders
}

# Folders that everybody may write, in one another, some of them closed to their owner: they go as others do.
check_open_folders() {
    fresh
    receive "$work/both"
    chmod -R u+rwx "$arch/odd/1"
    mkdir -p "$arch/odd/1/pub/a/b" "$arch/odd/1/pub/c/d"
    chmod 777 "$arch/odd/1" "$arch/odd/1/pub/a/b" "$arch/odd/1/pub/c/d"
    chmod 070 "$arch/odd/1/pub/a"
    chmod 722 "$arch/odd/1/pub/c"
    chmod 027 "$arch/odd/1/pub"
    delete odd/1
    check 'a package with folders that everybody may write is deleted' said 'deleted odd 1'
    check 'and nothing is left' nothing_staged
    receive "$work/odd"
    chmod 777 "$arch/odd/1" "$arch/even/2.0~rc1+x"
    mkdir -p "$arch/odd/1/pub/.dpkg_archive"
    : >"$arch/odd/1/pub/.dpkg_archive/archive"
    chmod 777 "$arch/odd/1/pub"
    delete odd/1 even/2.0~rc1+x
    check 'one that stays has them closed to others' [ "$(stat -c %a "$arch/odd/1" "$arch/odd/1/pub" | tr '\n' ' ')" = '755 755 ' ]
    check 'and is named' grep -q '^failed odd 1 foreign another archive' "$work/out"
    wrap chmod 'case $1 in *go-w*) echo "chmod: not so" >&2; exit 1 ;; esac
        exec "$real" "$@"'
    chmod 777 "$arch/odd/1/pub"
    delete odd/1
    check 'what stays open to others keeps its package' grep -q '^failed odd 1 foreign others may exchange what lies in a folder of it: odd/1/pub belongs to user [0-9]* and has the mode 777' "$work/out"
    unwrap
}

# shut_with MODE: odd/1 has a folder with this mode, and an archive in it whose own folder has that mode too.
shut_with() {
    shut=$arch/odd/1/shut
    chmod 755 "$arch/odd/1"
    mkdir -p "$shut/new
line/.dpkg_archive"
    : >"$shut/new
line/.dpkg_archive/archive"
    chmod "$1" "$shut/new
line/.dpkg_archive" "$shut/new
line" 2>/dev/null
    chmod "$1" "$shut/new
line" "$shut"
}

# opens MODE: the folder still has that mode; all of it is open afterwards, and the record is there.
opens() {
    [ "$(stat -c %a "$shut")" = "$1" ] && chmod 700 "$shut" && [ "$(stat -c %a "$shut/new
line")" = "$1" ] && chmod -R u+rwX "$shut" && [ -e "$shut/new
line/.dpkg_archive/archive" ]
}

check_shut_folders() {
    for mode in 311 300 100 600 0; do
        fresh
        receive "$work/both"
        shut_with $mode
        delete odd/1 even/2.0~rc1+x
        check "an archive in a closed folder keeps the package: $mode" grep -q '^failed odd 1 foreign another archive is in it' "$work/out"
        check 'and no other one' grep -q '^deleted even' "$work/out"
        receive "$work/odd-replace"
        check 'it is not replaced either' grep -q '^failed odd 1 foreign another archive is in it' "$work/out"
        check 'and the folder stays as it is' opens $mode
        rm "$shut/new
line/.dpkg_archive/archive"
        chmod $mode "$shut"
        wrap chmod 'case "$*" in *odd/1/shut*) echo "chmod: changing permissions of $*: Operation not permitted" >&2; exit 1 ;; esac
            exec "$real" "$@"'
        delete odd/1
        check 'what cannot be looked into keeps it' grep -q '^failed odd 1 foreign a folder in it cannot be looked into.*shut.*: Operation not permitted; .*as root' "$work/out"
        unwrap
        wrap find 'case "$*" in "odd/1 "*) echo "find: odd/1/shut: Permission denied" >&2; exit 1 ;; esac
            exec "$real" "$@"'
        delete odd/1
        check 'also where it is somebody elses' grep -q '^failed odd 1 foreign a folder in it cannot be looked into.*shut: Permission denied; .*as root' "$work/out"
        unwrap
        delete odd/1
        check 'its own closed folders do not' said 'deleted odd 1'
        check 'nor does anything stay of it' nothing_staged
    done
    fresh
    receive "$work/odd"
    deep=$arch/odd/1/empty
    for level in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do deep=$deep/$level; done
    chmod 700 "$arch/odd/1/empty"
    mkdir -p "$deep"
    find "$arch/odd/1/empty" -depth -type d -exec chmod 050 {} +
    delete odd/1
    check 'closed folders that lie too deep keep it' grep -q '^failed odd 1 foreign a folder in it cannot be looked into.*more than 15 closed folders' "$work/out"
    check 'and stay closed' [ "$(stat -c %a "$arch/odd/1/empty")" = 50 ]
    chmod 700 "$arch/odd/1/empty"
    chmod 700 "$arch/odd/1/empty/1"
    delete odd/1
    check 'as deep as that they do not' said 'deleted odd 1'
    fresh
    receive "$work/odd"
    chmod 000 "$arch/odd/1/empty"
    receive "$work/odd-replace"
    check 'nor do they keep it from being replaced' said 'replaced odd 1'
    chmod 600 "$arch/odd"
    delete odd/1
    check 'a name that cannot be entered is not absent' grep -q '^failed odd 1 io odd may not be entered' "$work/out"
    chmod 755 "$arch/odd"
    check 'and keeps its papers' newer arrived odd/1
}
