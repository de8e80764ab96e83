# Set-up that scripts/demo, scripts/test and scripts/guest-images share: Debian packages, a Python, the virtual environment.
# To be sourced; it defines functions and runs nothing. The sourcing script has `set -euo pipefail`.

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$PROJECT/.venv
# Kernels and emulators for guests are kept for the user and not for the checkout, so that a fresh clone need not fetch them again.
export VHOSTFS_CACHE=${VHOSTFS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vhostfs}
# sudo and cron users may lack these on their PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# A script that another one runs goes on counting: SECONDS=$SECONDS scripts/...
# The exit status of what this machine cannot run, whose reason has been printed.
CANNOT_RUN=77

say() { printf '[%4ds] %s\n' "$SECONDS" "$*"; }

fail() {
    printf '[%4ds] %s\n' "$SECONDS" "$*" >&2
    exit 1
}

# step LABEL COMMAND...: run a long command quietly. Tells that it began, every 20 seconds that it still runs, and how long it
# took; shows the end of its output when it fails, and returns its status.
step() {
    local label=$1 began=$SECONDS output status=0 command
    shift
    output=$(mktemp)
    say "$label ..."
    "$@" >"$output" 2>&1 </dev/null &
    command=$!
    while kill -0 "$command" 2>/dev/null; do
        # The first second in small pieces: most commands that repeat find nothing to do.
        if ((SECONDS - began < 1)); then sleep 0.1; else sleep 1; fi
        if ((SECONDS > began && (SECONDS - began) % 20 == 0)); then say "$label: $((SECONDS - began)) s so far"; fi
    done
    wait "$command" || status=$?
    if ((status == 0)); then
        if ((SECONDS - began > 1)); then say "$label: done in $((SECONDS - began)) s"; fi
    else
        say "$label: failed (exit status $status); the end of its output:" >&2
        tail -n 40 "$output" | sed 's/^/        /' >&2
    fi
    rm -f "$output"
    return "$status"
}

# as_root COMMAND...: run it as root, through sudo where we are not.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "'$*' needs root: run this script as root, or install sudo and allow it to your user."
    fi
}

# need_packages PACKAGE...: install the Debian packages that are missing, and only those.
need_packages() {
    local package missing=()
    command -v dpkg-query >/dev/null || fail "This set-up installs Debian packages; on another system install what matches: $*"
    for package; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)) && [[ -t 0 ]]; then as_root true; fi # asks for the password while the terminal is ours
    step "Reading Debian's package lists" as_root apt-get -q update ||
        fail "apt-get could not read the package lists; check the network and /etc/apt."
    step "Installing ${missing[*]}" as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${missing[@]}" ||
        fail "apt-get could not install ${missing[*]}."
}

# find_python: print the path of a Python of version 3.12 or newer that can make virtual environments and build extensions.
find_python() {
    local candidate
    while read -r candidate; do
        [[ -x $candidate ]] || continue
        if "$candidate" -c '
import sys, sysconfig, venv, ensurepip, ctypes, ssl
from pathlib import Path
sys.exit(sys.version_info < (3, 12) or not Path(sysconfig.get_path("include"), "Python.h").exists())' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done < <(
        for name in python3.12 python3.13 python3.14 python3; do type -aP "$name" || true; done
        ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3 /usr/local/bin/python3.1[2-9] /opt/*/bin/python3 2>/dev/null || true
        if command -v uv >/dev/null; then uv python find --no-project '>=3.12' 2>/dev/null || true; fi
    )
    return 1
}

# unpack_python: put Debian 13's Python into the cache, made to run on a host whose C library is older, and print its path.
unpack_python() {
    local place=$VHOSTFS_CACHE/python-trixie part=$VHOSTFS_CACHE/.python-trixie.part libraries
    if [[ ! -f $place/release ]]; then
        # shellcheck source=scripts/debian-suite.bash
        source "$PROJECT/scripts/debian-suite.bash"
        need_packages patchelf xz-utils
        lock_cache
        rm -rf "$part" "$place"
        read_lists trixie
        unpack trixie "$part" --with-dependencies python3-venv python3-dev
        libraries=$place/usr/lib/x86_64-linux-gnu
        # An rpath of the old kind holds for what the libraries load in their turn, and for extension modules.
        patchelf --force-rpath --set-rpath "$libraries" --set-interpreter "$libraries/ld-linux-x86-64.so.2" "$part/usr/bin/python3.13"
        # Debian's ensurepip looks for its wheels where its packages would have installed them.
        sed -i "s,/usr/share/python-wheels,$place/usr/share/python-wheels,g" "$part"/usr/lib/python3.13/_sysconfigdata_*.py
        # Its pyconfig.h finds the real one only below /usr/include.
        cp -f "$part/usr/include/x86_64-linux-gnu/python3.13/pyconfig.h" "$part/usr/include/python3.13/pyconfig.h"
        echo 3.13 >"$part/release"
        mv "$part" "$place"
    fi >&2
    printf '%s\n' "$place/usr/bin/python3.13"
}

# need_environment EXTRA: make .venv with the project in it, its C core built; EXTRA is "" or an extra such as "[dev]".
# Does nothing where the sources of the C core and the packaging are those that it was made of.
need_environment() {
    local extra=$1 stamp=$VENV/.made-of made_of python
    made_of=$(cd "$PROJECT" && cat pyproject.toml setup.py csrc/*.[ch] csrc/*.py | sha256sum)
    if [[ -f $stamp && -x $VENV/bin/python ]]; then
        case $(<"$stamp") in "${made_of}$extra" | "${made_of}[dev]") return 0 ;; esac
    fi
    if [[ ! -x $VENV/bin/python ]] || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python || unpack_python) ||
            fail "vhostfs needs Python 3.12 or newer with its venv module and C headers; none was found, nor could Debian 13's be fetched:" \
                "install one, for instance by 'uv python install 3.12', or on Debian 13 'apt-get install python3-venv python3-dev'."
        step "Making .venv with $python" "$python" -m venv --clear "$VENV" || fail "$python could not make a virtual environment in $VENV."
    fi
    rm -f "$stamp"
    step "Installing vhostfs$extra into .venv and building its C core" \
        "$VENV/bin/python" -m pip install --disable-pip-version-check -q -e "$PROJECT$extra" ||
        fail "pip could not install the project; the reason is above."
    printf '%s' "$made_of$extra" >"$stamp"
}
