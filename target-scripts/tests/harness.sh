# shellcheck shell=sh disable=SC2154,SC2016 # names are set by run, and wrappers expand theirs later
# What the checks of the target scripts stand on: packages and streams made with this machine's own tools, runs of a script under the shell
# in question, and what is said about each check. Sourced by `run`.

line_end='
'
passed=0
failed=0

# ---- checks

# check TITLE COMMAND...: one check; COMMAND is a test or a function of ours. A failure shows the last run.
check() {
    # One line each.
    title=${1%%"$line_end"*}
    shift
    if "$@"; then
        passed=$((passed + 1))
        echo "ok    $label: $title"
    else
        failed=$((failed + 1))
        echo "FAIL  $label: $title"
        echo "      check:   $*"
        echo "      command: ${command:-}"
        echo "      status:  ${status:-}"
        sed 's/^/      stdout:  /' "$work/out"
        sed 's/^/      stderr:  /' "$work/err"
        (cd "$arch" && find . -printf '      archive: %M %P\n' 2>&1 | head -n 60)
    fi
}

# eventually COMMAND...: polls for up to 20 s.
eventually() {
    deadline=$(($(date +%s) + 20))
    until "$@"; do
        [ "$(date +%s)" -lt "$deadline" ] || return 1
        sleep 0.02
    done
}

# said TEXT: the answer is exactly these lines between marker and end mark.
said() {
    if [ -z "$1" ]; then
        printf '# blat 1\n# end 0\n' >"$work/expected"
    else
        printf '# blat 1\n%s\n# end %s\n' "$1" "$(printf '%s\n' "$1" | wc -l)" >"$work/expected"
    fi
    cmp -s "$work/expected" "$work/out"
}

# ended STATUS [TEXT]: the script ended so, and its complaint is one line that begins with its name and holds TEXT; or none for status 0.
ended() {
    [ "$status" -eq "$1" ] || return 1
    if [ "$1" -eq 0 ]; then
        [ ! -s "$work/err" ]
    else
        [ "$(wc -l <"$work/err")" -eq 1 ] && grep -q "^$verb: .*${2-}" "$work/err" && ! grep -q '^# end' "$work/out"
    fi
}

# nothing_staged: no stage, lock, trash or hidden directory is left.
nothing_staged() {
    [ -z "$(find "$arch" -mindepth 2 \( -path '*/stage/*' -o -path '*/trash/*' -o -name '.?*.?*' ! -path '*/manifests/*' \) -print)" ]
}

# ---- runs

# run VERB ARGUMENT...: under the shell in question, in an environment of its own, standard input as given. $before comes first in its PATH.
run() {
    verb=$1
    shift
    command="$verb $*"
    env -i HOME="$work/home" PATH="${before:+$before:}$tools" BLAT_TEST="$work" "$shell" "$bin/$verb" "$@" >"$work/out" 2>"$work/err"
    status=$?
}

# receive STREAM [ARGUMENT...]: a run of receive_package with fitting arguments, of which later ones win.
receive() {
    stream=$1
    shift
    batches=$((${batches:-0} + 1))
    run receive_package --archive "$arch" --batch "batch-$batches" --compression none --bytes 1000 --entries 10 --reserve 0 "$@" <"$stream"
}

# list: what get_plist says, without the lines about free space, which is kept in $free, and about the place: they change from run to run.
list() {
    run get_plist --archive "$arch" </dev/null
    free=$(sed -n 's/^free //p' "$work/out")
    awk '/^(free|place) / { left_out++; next } /^# end / { $3 -= left_out } { print }' "$work/out" >"$work/listed"
    mv "$work/listed" "$work/out"
}

# fresh: an empty archive.
fresh() {
    chmod -R u+rwx "$arch" 2>/dev/null
    rm -rf "$arch"
    mkdir "$arch"
    before=
}

# wrap TOOL TEXT: puts a script before the real TOOL, which it finds in $real.
wrap() {
    mkdir -p "$work/wrapped"
    real=$(PATH=$tools command -v "$1")
    printf '#!/bin/sh\nreal=%s\n%s\n' "$real" "$2" >"$work/wrapped/$1"
    chmod 755 "$work/wrapped/$1"
    before=$work/wrapped
}

unwrap() {
    rm -rf "$work/wrapped"
    before=
}

# ---- packages

# make_package NAME VERSION TIME [TEXT]: a tree with all that is odd, below $src.
make_package() {
    (
        umask 022
        at=$src/$1/$2
        mkdir -p "$at/bin" "$at/lib/deep/er" "$at/empty" "$at/with space" "$at/new
line"
        printf 'Package: %s %s\n%s\n' "$1" "$2" "${4-}" >"$at/descpkg"
        printf '#!/bin/sh\n' >"$at/bin/tool"
        printf 'a\n' >"$at/lib/deep/er/plain"
        printf 'b\n' >"$at/with space/file  two"
        printf 'c\n' >"$at/new
line/x
y"
        printf 'd\n' >"$at/back\\slash"
        : >"$at/-"
        ln -s nowhere "$at/lib/dangling"
        ln -s /etc/passwd "$at/lib/deep/absolute"
        ln -s ../../bin/tool "$at/lib/deep/upwards"
        ln -s plain "$at/lib/deep/er/sibling"
        chmod 555 "$at/bin/tool"
        chmod 444 "$at/descpkg" "$at/lib/deep/er/plain"
        chmod 664 "$at/back\\slash"
        find "$at" -depth -exec touch -h -d "@$3" {} +
        touch -d @1500000001 "$at/lib/deep"
        chmod 555 "$at/lib/deep/er" "$at/lib/deep" "$at/empty"
        chmod 775 "$at/with space"
    )
}

# snapshot DIR: everything about a tree that has to arrive. Times of links are not promised.
snapshot() {
    (
        cd "$1" || exit 1
        find . \( -type l -printf '%y %l %P\0' -o -printf '%y %m %Ts %P\0' \) | sort -z | tr '\0' '\n'
        find . -type f -print0 | sort -z | xargs -0 sha256sum
    )
}

# whole NAME/VERSION: what is visible is all of the source's package.
whole() {
    snapshot "$src/$1" >"$work/wanted" && snapshot "$arch/$1" >"$work/found" 2>&1 && cmp -s "$work/wanted" "$work/found"
}

# arrived NAME/VERSION: it is whole, and its manifest is there and says the same.
arrived() {
    whole "$1" && (cd "$arch/$1" && sha256sum --strict -c --status "$arch/.dpkg_archive/manifests/$1")
}

absent() { [ ! -e "$arch/$1" ] && [ ! -L "$arch/$1" ]; }

# ---- streams

# pack FILE RULE NAME/VERSION...: a stream as docs/target-scripts.md has it. $lie_entries is added to each count, $lie_digest replaces each
# manifest's digest, $lie_batch is the whole text of the batch. $closing makes the stream one of packages that their owner may not read, as only
# somebody else can pack them: it changes the tree files, by sed; all files have the mode 044 then.
pack() {
    stream=$1
    rule=$2
    shift 2
    rm -rf "$work/pack"
    mkdir -p "$work/pack/like"
    : >"$work/pack/batch"
    tar -cf "$stream" -T /dev/null
    for place; do
        pack_one
    done
    echo "# end $#" >>"$work/pack/batch"
    [ -z "${lie_batch+x}" ] || printf '%s' "$lie_batch" >"$work/pack/batch"
    tar -C "$work/pack" -rf "$stream" manifests batch
}

# tree_of DIR: a package's tree file.
tree_of() {
    (cd "$1" && find . \( -type d -printf 'dir %m\t%P\0' -o -type l -printf 'link %l\t%P\0' -o -printf 'file %m\t%P\0' \)) |
        sed -z 's/\\/\\\\/g; s/\n/\\n/g; s/\t$/\t./; s/^\(dir\|file\) [0-7]\([0-7]\{3\}\)\t/\1 \2\t/' | tr '\0' '\n'
}

pack_one() {
    entries=$(($(find "$src/$place//." ! -name . | grep -c //) + ${lie_entries:-0}))
    mode=$(stat -c %a "$src/$place")
    mkdir -p "$work/pack/manifests/${place%/*}"
    (cd "$src/$place" && find . -type f -print0 | sort -z | sed -z 's,^\./\(.\),\1,; s,^-,./-,' | xargs -0 sha256sum) \
        >"$work/pack/manifests/$place"
    digest=$(sha256sum <"$work/pack/manifests/$place")
    tree_of "$src/$place" | sed "${closing-}" >"$work/pack/manifests/${place%/*}/.${place#*/}.tree"
    tree=$(sha256sum <"$work/pack/manifests/${place%/*}/.${place#*/}.tree")
    echo "${place%/*} ${place#*/} $entries $(stat -c %Y "$src/$place/descpkg") ${lie_mode:-$mode} ${lie_digest:-${digest%% *}}" \
        "${lie_tree:-${tree%% *}} $rule" >>"$work/pack/batch"
    (
        like=$work/pack/like
        export like place
        cd "$src" || exit 1
        find "$place" -type d -print0 | sort -z >"$work/pack/down"
        sort -zr "$work/pack/down" >"$work/pack/up"
        find "$place" ! -type d ! -path "$place/descpkg" -print0 | sort -z >"$work/pack/leaves"
        set -- --no-recursion --null --format=gnu
        tar -rf "$stream" "$@" --transform 's,^,packages/,SH' --mode=u+rwx -T "$work/pack/down"
        tar -rf "$stream" "$@" ${closing:+--mode=044} --transform 's,^,packages/,S' -T "$work/pack/leaves"
        tar -rf "$stream" "$@" ${closing:+--mode=044} --transform 's,^,packages/,SH' "$place/descpkg"
        # The likenesses: writable, sticky where the owner may not write; the package's own root is not marked.
        # shellcheck disable=SC2016
        find "$place" -depth -type d -exec sh -c '
            for dir; do
                mkdir -p "$like/$dir"
                chmod "$(stat -c %a "$dir")" "$like/$dir"
                chmod u+rwx "$like/$dir"
                [ -w "$dir" ] || [ "$dir" = "$place" ] || chmod +t "$like/$dir"
            done' sh {} +
        # shellcheck disable=SC2016
        find "$place" -depth -type d -exec sh -c 'for dir; do touch -r "$dir" "$like/$dir"; done' sh {} +
        cd "$like" || exit 1
        tar -rf "$stream" "$@" --transform 's,^,dirs/,SH' -T "$work/pack/down"
        tar -rf "$stream" "$@" --transform 's,^,dirs/,SH' -T "$work/pack/up"
    )
}

# The packages and streams that most checks use: odd@1 with a read-only root, a newer build of it, and a plain one.
make_sources() {
    make_package odd 1 1600000000
    chmod 555 "$src/odd/1"
    make_package even 2.0~rc1+x 1600000100
    mkdir -p "$work/newer"
    newer make_package odd 1 1600000500 'built again'
    newer pack "$work/odd-replace" replace odd/1
    newer pack "$work/odd-newer" new odd/1
    mkdir -p "$work/sametime"
    sametime make_package odd 1 1600000000 'built again in the same second'
    chmod 555 "$work/sametime/odd/1"
    sametime pack "$work/odd-same-time" replace odd/1
    sametime pack "$work/odd-repair" repair odd/1
    pack "$work/odd" new odd/1
    pack "$work/even" new even/2.0~rc1+x
    pack "$work/both" new odd/1 even/2.0~rc1+x
    gzip -k "$work/both"
    zstd -q "$work/both"
}

# newer COMMAND...: a check against the newer build.
newer() { against_source "$work/newer" "$@"; }

# sametime COMMAND...: a check against a build with the first one's time.
sametime() { against_source "$work/sametime" "$@"; }

against_source() {
    older=$src
    src=$1
    shift
    "$@"
    newer_status=$?
    src=$older
    return "$newer_status"
}
