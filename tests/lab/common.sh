# Shared by the tools in this folder: how they complain, and who plays the target's user. Sourced, never run.

# Programs of the system's own folders are looked for even where a login leaves those out of PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
# Debian keeps PostgreSQL's server programs in a folder for each version, and in no PATH. To be called again once they are installed.
find_postgresql() {
    for folder in /usr/lib/postgresql/*/bin; do
        case :$PATH: in *":$folder:"*) ;; *) PATH=$PATH:$folder ;; esac
    done
}
find_postgresql
LC_ALL=C
export PATH LC_ALL

# The unprivileged account that plays the target's side when the tools run as root.
LAB_USER=blatlab
# Those of the tests' other people: the master, Release Manager, and anybody else who may log in.
LAB_OTHERS='blatmaster blatrm blatother'

# What the tests take from the Python registry stays here, so that a fresh checkout need not fetch it again. The target's user can read it.
if [ "$(id -u)" = 0 ]; then LAB_CACHE=/var/cache/blat-lab; else LAB_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/blat-lab; fi

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

is_root() {
    [ "$(id -u)" = 0 ]
}

# Who owns the target's files and runs its sshd: never root.
target_user() {
    if is_root; then echo "$LAB_USER"; else id -un; fi
}

# Runs a command as the target's user, in this very process, so that its pid is the caller's.
exec_as_target_user() {
    if is_root; then
        exec setpriv --reuid "$LAB_USER" --regid "$(id -g "$LAB_USER")" --init-groups -- "$@"
    fi
    exec "$@"
}

# A port below those that the kernel hands out to clients.
some_port() {
    random=$(od -An -N2 -tu2 /dev/urandom)
    echo $((20000 + random % 12000))
}
