# shellcheck shell=sh disable=SC2154,SC2034,SC2016 # the harness is what sets and reads the names
# receive_package and get_plist: files with several names.

# make_linked: a package of which one file has names in three folders, the last of them long, another one a name elsewhere too.
make_linked() {
    long_name=lib/$(printf '%0150d' 0)
    make_package linked 1 1600000000
    chmod 755 "$src/linked/1/lib/deep"
    ln "$src/linked/1/bin/tool" "$src/linked/1/lib/deep/tool"
    ln "$src/linked/1/bin/tool" "$src/linked/1/$long_name"
    ln "$src/linked/1/lib/deep/er/plain" "$work/name elsewhere"
    find "$src/linked/1" -depth -type d -exec touch -h -d @1600000000 {} +
    chmod 555 "$src/linked/1/lib/deep"
    pack "$work/linked" new linked/1
}

# names_of PATH: how many names a file of the archive has, and its inode.
names_of() { stat -c '%h %i' "$arch/linked/1/$1"; }

# linked_once: the three names are those of one file, whose bytes are there once, and no other file has several.
linked_once() {
    [ "$(names_of bin/tool)" = "$(names_of lib/deep/tool)" ] && [ "$(names_of bin/tool)" = "$(names_of "$long_name")" ] &&
        [ "$(find "$arch/linked/1" -type f -links +1 | wc -l)" -eq 3 ] && [ "$(names_of bin/tool)" != "${1-}" ]
}

# link_member NAME TO: a tar of one hard link, which says just that.
link_member() {
    {
        printf '%s' "$1" && head -c "$((100 - ${#1}))" /dev/zero
        printf '0000644\0000000000\0000000000\00000000000000\00000000000000\0'
        printf '%s' '        1' && printf '%s' "$2" && head -c "$((100 - ${#2}))" /dev/zero
        printf 'ustar\00000' && head -c 247 /dev/zero
    } >"$work/header"
    sum=$(od -An -v -t u1 "$work/header" | awk '{ for (i = 1; i <= NF; i++) sum += $i } END { printf "%06o", sum }')
    {
        head -c 148 "$work/header" && printf '%s\0 ' "$sum" && tail -c +157 "$work/header"
        head -c 1024 /dev/zero
    } >"$work/member"
}

# linking NAME TO [FILE...]: a stream of both packages to which this hard link is added before the batch, and then these files below $work/extra.
linking() {
    link_member "$1" "$2"
    shift 2
    cp "$work/both" "$work/lie"
    tar --delete -f "$work/lie" batch
    tar -A -f "$work/lie" "$work/member"
    [ $# -eq 0 ] || tar -C "$work/extra" -rf "$work/lie" "$@"
    mkdir -p "$work/extra"
    tar -xOf "$work/both" batch >"$work/extra/batch"
    tar -C "$work/extra" -rf "$work/lie" batch
    fresh
    receive "$work/even"
    echo secret >"$arch/outside"
    chmod 640 "$arch/outside"
    touch -d @1500000000 "$arch/outside"
    outside=$(as_before)
    receive "$work/lie"
}

as_before() {
    cat "$arch/outside"
    stat -c '%h %a %g %Y %s' "$arch/outside" "$arch/even/2.0~rc1+x/descpkg" "$arch/even/2.0~rc1+x/bin/tool"
}

# refused_whole [TEXT]: nothing was published, nothing is left, and nothing else was touched.
refused_whole() {
    ended 1 "${1-}" && absent odd && nothing_staged && [ "$outside" = "$(as_before)" ]
}

# make_many: a package of which one file has 40 names, some of them odd, some in a folder that can be entered and not listed; one other file.
make_many() {
    at=$src/many/1
    mkdir -p "$at/shut"
    echo 'Package: many 1' >"$at/descpkg"
    echo once >"$at/0"
    for number in 1 2 3 4 5 6 7 8 9; do
        ln "$at/0" "$at/$number" && ln "$at/0" "$at/with  $number " && ln "$at/0" "$at/shut/$number" && ln "$at/0" "$at/back\\$number
="
    done
    ln "$at/0" "$at/-"
    echo other >"$at/other"
    ln "$at/other" "$at/9another"
    chmod 311 "$at/shut"
    find "$at" ! -path '*/shut/*' -exec touch -h -d @1600000000 {} +
    once=$(sha256sum <"$at/0")
    chmod 755 "$at/shut"
    pack "$work/many" new many/1
    chmod 311 "$at/shut"
}

# counted COMMAND...: a run that notes what sha256sum is to hash: a line for each, and `=` before what one process is given; and what it reads itself.
counted() {
    : >"$work/hashed"
    : >"$work/read"
    wrap sha256sum '
        echo = >>"$BLAT_TEST/hashed"
        case "$1" in
        -c) cat ${2+"$2"} | tee -a "$BLAT_TEST/hashed" | "$real" -c - ;;
        *) cat "$@" | tee -a "$BLAT_TEST/read" | "$real" ;;
        esac'
    "$@"
    unwrap
}

# hashed MOST: that file was hashed at least once, and at most so often by the plain names in one go; by odd ones too, for which the shells differ.
hashed() {
    sed 's/^[\\]//' "$work/hashed" | awk -v once="${once%% *}" -v most="$1" '
        /^=/ { count = 0 }
        index($0, once) == 1 { count++; if (count > worst) worst = count }
        END { exit !(worst >= 1 && worst <= most) }'
}

# odd_once: by its odd names the file was read once.
odd_once() { [ "$(grep -c '^once$' "$work/read")" -le 1 ]; }

# many_after TEXT COMMAND...: many@1 after COMMAND is judged so.
many_after() {
    text=$1
    shift
    fresh
    receive "$work/many"
    chmod -R u+w "$arch/many"
    (cd "$arch/many/1" && "$@")
    rehash 'many 1'
    grep -q "^$text" "$work/out"
}

# A sha256sum that never ends and prints a line for each file. The numbers of its processes are in $work/hashing.
hash_on='
    [ "$1" = -c ] || exec "$real" "$@"
    exec </dev/null
    echo $$ >>"$BLAT_TEST/hashing"
    while :; do
        echo "x: OK" || exit
        sleep 0.1 2>/dev/null || sleep 1
    done'

# two_hash: both hash.
two_hash() { [ -s "$work/hashing" ] && [ "$(wc -l <"$work/hashing")" -eq 2 ]; }

# none_hashes: both have ended.
none_hashes() {
    while read -r pid; do
        ! kill -0 "$pid" 2>/dev/null || return 1
    done <"$work/hashing"
}

check_hashing_once() {
    [ -e "$work/many" ] || make_many
    fresh
    counted receive "$work/many"
    check 'a package of which a file has many names arrives' said 'published many 1'
    check 'and such a file is hashed once, and once more for its odd names' hashed 2
    check 'by those too' odd_once
    counted rehash 'many 1'
    check 'so it is when it is verified' hashed 1
    check 'by odd names too' odd_once
    check 'and it is good' grep -q '^good many 1 ' "$work/out"
    check 'another byte is bad' many_after 'bad many 1 .*: FAILED' sh -c 'echo x >>shut/5'
    check 'so is another file by one of the names' many_after 'bad many 1 with  5 : FAILED' sh -c 'rm "with  5 "; echo Once >"with  5 "; chmod 644 with*'
    check 'or by an odd one' many_after 'bad many 1 a file with an odd name differs' sh -c 'rm back*5*; echo Once >"back\\5
="'
    check 'or in a folder that cannot be listed' many_after 'bad many 1 shut/5: FAILED' sh -c 'rm shut/5; echo Once >shut/5'
    check 'so is a name of another file of the package' many_after 'bad many 1 5: FAILED' ln -f other 5
    manifest=$arch/.dpkg_archive/manifests/many/1
    check 'and a manifest that has another digest for one of the names' many_after 'bad many 1 5: FAILED' \
        sh -c 'sed "s/^....\(.*  5\)$/0000\1/" "$1" >../m; cat ../m >"$1"' sh "$manifest"

    fresh
    receive "$work/many"
    : >"$work/hashing"
    wrap sha256sum "$hash_on"
    echo 'many 1' >"$work/list"
    # Who reads the answers is gone after the first lines.
    {
        env -i HOME="$work/home" PATH="$before:$tools" BLAT_TEST="$work" "$shell" "$bin/get_plist" --archive "$arch" --verify <"$work/list" &
        env -i HOME="$work/home" PATH="$before:$tools" BLAT_TEST="$work" "$shell" "$bin/receive_package" --archive "$arch" --batch gone \
            --compression none --bytes 1 --entries 1 --reserve 0 <"$work/odd" &
        wait
    } 2>"$work/err" | sed 2q >"$work/out" &
    check 'two scripts hash' eventually two_hash
    check 'and end once nobody hears their answers' eventually none_hashes
    check 'which clears the stage' eventually nothing_staged
    check 'and publishes nothing' absent odd
    unwrap
    # shellcheck disable=SC2046
    none_hashes || kill $(cat "$work/hashing")
    wait
}

# check_sweeping: a tree of a dead one that cannot be listed, with another name of a file that its owner has elsewhere.
check_sweeping() {
    fresh
    dead=$arch/.dpkg_archive/stage/dead/packages/a/b/c
    mkdir -p "$dead"
    rm -f "$memory/mine"
    echo mine >"$memory/mine"
    chmod 400 "$memory/mine"
    ln "$memory/mine" "$dead/mine"
    chmod 0 "$dead"
    chmod 0 "${dead%/*}"
    chmod 0 "${dead%/*/*}"
    receive "$work/even"
    check 'a stage that cannot be listed is swept' nothing_staged
    check 'and a file that has a name elsewhere keeps its mode' [ "$(stat -c '%a %h' "$memory/mine")" = '400 1' ]
}

check_hardlinks() {
    [ -e "$work/linked" ] || make_linked
    fresh
    receive "$work/linked"
    check 'a package with files of several names arrives' said 'published linked 1'
    check 'as it was sent' arrived linked/1
    check 'and each such file once' linked_once
    first=$(names_of bin/tool)
    rehash 'linked 1'
    check 'its files are verified by each of their names' grep -q '^good linked 1 ' "$work/out"
    closing='s/^file [0-7]*/file 44/'
    pack "$work/linked-shut" repair linked/1
    closing=
    receive "$work/linked-shut"
    check 'also where their owner may not read them' said 'replaced linked 1'
    check 'they have their modes by each of their names' [ "$(stat -c %a "$arch/linked/1/bin/tool" "$arch/linked/1/$long_name" | tr '\n' ' ')" = '44 44 ' ]
    chmod -R u+rX "$arch/linked/1"
    check 'and are others than before' linked_once "$first"

    for to in ../../../outside "$arch/outside" '../../../even/2.0~rc1+x/bin/tool' packages/odd/1/../../../../../../outside; do
        linking packages/odd/1/evil "$to"
        check "a link to what lies outside of the stage is refused: $to" refused_whole
    done
    rm -rf "$work/extra"
    mkdir -p "$work/extra/packages/odd/1" "$work/extra/dirs/odd/1"
    echo evil >"$work/extra/packages/odd/1/evil"
    echo evil >"$work/extra/dirs/odd/1/evil"
    for room in packages dirs; do
        linking packages/odd/1/evil ../../../outside "$room/odd/1/evil"
        check "and nothing is written by way of it: $room" [ "$outside" = "$(as_before)" ]
        check 'nor left' nothing_staged
    done
    linking 'packages/even/2.0~rc1+x/evil' packages/odd/1/descpkg
    check 'a link to a file of another package is refused' refused_whole 'a hard link that leads out of its package'
    for name in manifests/odd/evil manifests/evil/1 dirs/odd/1/evil packages/evil; do
        linking "$name" packages/odd/1/descpkg
        check "a link from another room is refused: $name" refused_whole 'a hard link that leads out of its package'
    done
    for to in packages/odd/1/later packages/odd/1/lib packages/odd/1/lib/deep/absolute/passwd; do
        linking packages/odd/1/evil "$to"
        check "so is one to what is no file there: $to" refused_whole 'unpacking the stream'
    done
    # busybox's tar takes it for done.
    linking packages/odd/1/evil packages/odd/1/evil
    check 'one to itself makes nothing' [ ! -e "$arch/odd/1/evil" -a "$outside" = "$(as_before)" ]
    linking packages/odd/1/evil packages/odd/1/bin/tool
    check 'one that was not counted fails its package' grep -q '^failed odd 1 digest staged' "$work/out"
    check 'and no other' grep -q '^already even ' "$work/out"

    check_hashing_once
    check_sweeping

    fresh
    wrap tar 'echo "tar: x: Cannot hard link to y: Operation not permitted" >&2; cat >/dev/null; exit 2'
    receive "$work/linked"
    unwrap
    check 'a file system without hard links is named' ended 1 'Operation not permitted; .*replace them by copies at the source'
}
