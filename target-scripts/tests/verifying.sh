# shellcheck shell=sh disable=SC2154,SC2034,SC2016 # the harness is what sets and reads the names
# receive_package: what it does not believe.

# refused CLASS [TEXT]: odd@1 failed so, and nothing of it is there.
refused() {
    ended 0 && grep -q "^failed odd 1 $1 .*${2-}" "$work/out" && [ "$(tail -n 1 "$work/out")" = "# end $(($(wc -l <"$work/out") - 2))" ] &&
        absent odd && nothing_staged
}

# with_batch TEXT: a stream of odd@1 whose batch is TEXT.
with_batch() {
    lie_batch=$1
    pack "$work/lie" new odd/1
    unset lie_batch
    fresh
    receive "$work/lie"
}

# honest_line: what the batch says of odd@1.
honest_line() {
    tar -xOf "$work/odd" batch | head -n 1
}

# with_extra FILE...: a stream of odd@1 to which these, below $work/extra, are added before the batch.
with_extra() {
    cp "$work/odd" "$work/lie"
    tar --delete -f "$work/lie" batch
    tar -C "$work/extra" -rf "$work/lie" "$@"
    tar -xOf "$work/odd" batch >"$work/extra/batch"
    tar -C "$work/extra" -rf "$work/lie" batch
    fresh
    receive "$work/lie"
}

check_verifying() {
    fresh
    lie_digest=$(printf '%064d' 0)
    pack "$work/lie" new odd/1
    lie_digest=
    receive "$work/lie"
    check 'another digest of the manifest fails the package' refused digest 'bytes differ'
    lie_tree=$(printf '%064d' 0)
    pack "$work/lie" new odd/1
    lie_tree=
    receive "$work/lie"
    check 'another digest of the tree file fails the package' refused digest 'bytes differ'
    lie_entries=1
    pack "$work/lie" new odd/1
    lie_entries=0
    receive "$work/lie"
    check 'an entry too few fails the package' refused digest 'staged [0-9]* entries of'
    lie_entries=-1
    pack "$work/lie" new odd/1
    lie_entries=0
    receive "$work/lie"
    check 'an entry too many fails the package' refused digest 'staged [0-9]* entries of'

    # One byte of its descpkg.
    sed 's/Package: odd 1/Package: odd 2/' "$work/both" >"$work/lie"
    fresh
    receive "$work/lie"
    check 'another byte fails the package' refused digest 'bytes differ'
    check 'and not the other one' arrived even/2.0~rc1+x

    line=$(honest_line)
    with_batch "$(printf '%s\n# end 2\n' "$line")
"
    check 'a wrong end count refuses the stream' ended 1 'wrong end count'
    with_batch "$line
"
    check 'a batch without an end is refused' ended 1 'ends early'
    with_batch "$line
# end 1
more
"
    check 'a batch that goes on after its end is refused' ended 1 'goes on after its end'
    with_batch "$line
$line
# end 2
"
    check 'a package named twice is refused' ended 1 'names a package twice'
    for bad in '../x 1' 'x ..' '.x 1' "$(printf '%0129d' 1) 1" 'a/b 1' 'a'; do
        with_batch "$bad ${line#* * }
# end 1
"
        check "a batch with a hostile name is refused: $(printf %.9s "$bad")" ended 1 'malformed'
    done
    check 'and leaves nothing' nothing_staged
    with_batch "ghost 1 ${line#* * }
# end 1
"
    check 'a package that is not in the stream fails' grep -q '^failed ghost 1 digest' "$work/out"
    sed 's/ 1600000000 / 1600000001 /' >"$work/text" <<EOF
$line
# end 1
EOF
    with_batch "$(cat "$work/text")
"
    check 'another time of the descpkg fails the package' refused digest 'has the time 1600000000, not 1600000001'

    rm -rf "$work/extra"
    mkdir -p "$work/extra/packages/odd/1" "$work/extra/packages/even"
    mkfifo "$work/extra/packages/odd/1/pipe"
    with_extra packages/odd/1/pipe
    check 'a pipe fails the package' refused digest
    sed 's/ [0-9]* 1600000000 / COUNT 1600000000 /' >"$work/text" <<EOF
$line
EOF
    entries=$(echo "$line" | cut -d ' ' -f 3)
    tar -C "$work/extra" -cf "$work/pipe" packages/odd/1/pipe
    cp "$work/odd" "$work/lie"
    tar --delete -f "$work/lie" batch
    tar -A -f "$work/lie" "$work/pipe"
    { sed "s/COUNT/$((entries + 1))/" "$work/text" && echo '# end 1'; } >"$work/extra/batch"
    tar -C "$work/extra" -rf "$work/lie" batch
    fresh
    receive "$work/lie"
    check 'a pipe that was counted fails the package too' refused foreign 'pipes'

    rm -rf "$work/extra"
    mkdir -p "$work/extra/manifests/odd"
    mkfifo "$work/extra/manifests/odd/1"
    with_extra manifests/odd/1
    check 'a pipe for a manifest fails the package, and nobody waits at it' refused digest 'its manifest or its tree file is a link or missing'

    rm -rf "$work/extra"
    mkdir -p "$work/extra"
    echo x >"$work/extra/compared"
    with_extra compared
    check 'anything else in the stream refuses it' ended 1 'holds compared, which does not belong there'
    rm "$work/extra/compared"
    ln -s "$work/home" "$work/extra/verified"
    with_extra verified
    check 'links included' ended 1 'holds verified'
    rm "$work/extra/verified"
    echo x >"$work/extra/f"
    with_extra --transform 's,^f,packages/../../../../escaped,' -P f 2>/dev/null
    check 'no path leads out of the stage' [ ! -e "$arch/escaped" ]
    ln -s "$arch" "$work/extra/way"
    with_extra --transform 's,^way,packages/way,S;s,^f,packages/way/escaped,' -P way f
    check 'no link leads out of the stage' [ ! -e "$arch/escaped" ]

    make_setuid
    pack "$work/setuid" new suid/1
    fresh
    receive "$work/setuid"
    check 'setuid and setgid bits are dropped' no_special_bits
    check 'and the package is there' said 'published suid 1'
}

make_setuid() {
    chmod -R u+w "$src/suid" 2>/dev/null
    rm -rf "$src/suid"
    mkdir -p "$src/suid/1/dir"
    : >"$src/suid/1/descpkg"
    : >"$src/suid/1/tool"
    chmod 6755 "$src/suid/1/tool"
    chmod 2755 "$src/suid/1/dir"
}

no_special_bits() {
    [ -x "$arch/suid/1/tool" ] && [ -z "$(find "$arch/suid" -perm /7000)" ]
}
