# Packages of another Debian suite than the host's: downloaded from the host's mirror and unpacked, never installed.
# To be sourced after setup.bash; it defines functions and runs nothing. Not for two processes at once: see lock_cache.

APT=$VHOSTFS_CACHE/.apt

# lock_cache: keep others out of the cache for as long as this process lives, and begin with no package list read.
lock_cache() {
    mkdir -p "$VHOSTFS_CACHE"
    exec 9>"$VHOSTFS_CACHE/.lock"
    flock -w 900 9 || fail "Another process has been at work in $VHOSTFS_CACHE for 15 minutes; end it and try again."
    rm -f "$APT"/*/.read-by-*
}

# mirror: print the address that this host's apt takes Debian from.
mirror() {
    apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Identifier: Packages' 2>/dev/null |
        sed -n 's/^Debian \([a-z]*:[^ ]*\)$/\1/p' | head -n 1 | grep .
}

# apt SUITE get|cache ARGUMENT...: apt-get or apt-cache with package lists and a package state apart from the host's.
# A mirror may be a snapshot of some age; who signed it is checked.
apt() {
    local suite=$1 tool=$2 state=$APT/$1
    shift 2
    "apt-$tool" -q -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=/nonexistent \
        -o Dir::State::status="$state/status" -o Dir::State::Lists="$state/lists" -o Dir::Cache="$state" \
        -o Dir::Cache::archives="$state/archives" -o APT::Sandbox::User=root -o APT::Architecture=amd64 \
        -o Acquire::Check-Valid-Until=false "$@"
}

# read_lists SUITE: fetch the suite's package lists, once a run.
read_lists() {
    local suite=$1 state=$APT/$1 mirror
    [[ ! -f $state/.read-by-$$ ]] || return 0
    mirror=$(mirror) || fail "This host's apt knows no Debian mirror; name one in /etc/apt/sources.list."
    mkdir -p "$state/lists/partial" "$state/archives/partial"
    : >"$state/status"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$mirror" "$suite" >"$state/sources.list"
    step "Reading the package lists of Debian $suite" apt "$suite" get update ||
        fail "The package lists of Debian $suite could not be fetched from $mirror."
    : >"$state/.read-by-$$"
}

# unpack SUITE DIRECTORY [--with-dependencies] PACKAGE...: download packages of the suite and unpack them, installing nothing.
unpack() {
    local suite=$1 directory=$2 archives=$APT/$1/archives deb
    shift 2
    rm -f "$archives"/*.deb
    if [[ $1 == --with-dependencies ]]; then
        shift
        step "Downloading $* with what it depends on" \
            apt "$suite" get -y --download-only --no-install-recommends install "$@" || fail "Debian $suite does not give $*."
    else
        (cd "$archives" && step "Downloading $*" apt "$suite" get download "$@") || fail "Debian $suite does not give $*."
    fi
    mkdir -p "$directory"
    for deb in "$archives"/*.deb; do dpkg -x "$deb" "$directory"; done
    rm -f "$archives"/*.deb
}
