#!/bin/sh
# Install, or upgrade, radclipd as a systemd service from this checkout. Run as root.
#
#   deploy/install.sh                      onto this host
#   DESTDIR=/tmp/root deploy/install.sh    into a folder, for packaging: no user, no database, nothing started
#   PYTHON=/usr/bin/python3.12 ...         another interpreter than /usr/bin/python3 (3.11 or newer)
#   EXTRAS="lab scale" ...                 with extras of pyproject.toml: lab (demo, experiment), scale (Ray), gpl-codecs
#
# The virtual environment goes to /opt/radclipd/venv, units to /usr/local/lib, the configuration to /etc/radclipd; an existing
# configuration is kept. A first installation takes 2 to 10 minutes, most of them for the download of torch.
set -eu
umask 022

source=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
destination=${DESTDIR:-}
python=${PYTHON:-/usr/bin/python3}
prefix=/opt/radclipd
venv=$destination$prefix/venv
config=/etc/radclipd/radclipd.toml
units=$destination/usr/local/lib/systemd/system
extras=

say() { echo "install: $1"; }

fail() {
    echo "install: $1" >&2
    [ $# -lt 2 ] || echo "hint: $2" >&2
    exit 1
}

check_host() {
    [ -n "$destination" ] || [ "$(id -u)" -eq 0 ] || fail "only root may install" "sudo $0"
    command -v "$python" >/dev/null || fail "no $python" "apt-get install python3 python3-venv, or set PYTHON"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is older than 3.11" "set PYTHON"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python cannot make virtual environments" "apt-get install python3-venv"
    case $("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))') in
    /home/* | /root/*) fail "$python lies in a home folder, which the sandboxed service cannot see" "set PYTHON=/usr/bin/python3" ;;
    esac
}

# pip only warns of an extra that does not exist.
choose_extras() {
    for extra in $(echo "${EXTRAS:-}" | tr ',' ' '); do
        grep -q "^$extra = \[" "$source/pyproject.toml" || fail "there is no extra $extra" "the extras are lab, scale and gpl-codecs"
        extras=${extras:+$extras,}$extra
    done
}

install_environment() {
    if [ ! -x "$venv/bin/python" ]; then
        say "creating the virtual environment $venv (about 10 seconds)"
        "$python" -m venv "$venv"
    fi
    say "installing torch $(pinned torch) (1 to 8 minutes; a few seconds if it is installed already)"
    "$venv/bin/pip" install --quiet --constraint "$source/constraints.txt" "torch==$(pinned torch)"
    say "installing radclipd${extras:+[$extras]} and its dependencies (about 1 minute)"
    "$venv/bin/pip" install --quiet --constraint "$source/constraints.txt" "$source${extras:+[$extras]}"
    [ -z "$destination" ] || forget_destination
    install -d "$destination/usr/local/bin"
    ln -sfn "$prefix/venv/bin/radclipd" "$destination/usr/local/bin/radclipd"
}

pinned() { sed -n "s/^$1==//p" "$source/constraints.txt"; }

# Scripts of a virtual environment hold its path: remove DESTDIR from them.
forget_destination() {
    grep -rlI --exclude-dir=site-packages -- "$destination" "$venv/bin" "$venv/pyvenv.cfg" | xargs -r sed -i "s|$destination||g"
}

install_files() {
    say "installing units and configuration (seconds)"
    install -d "$units" "$destination/usr/local/lib/sysusers.d" "$destination/usr/local/lib/tmpfiles.d" "$destination/etc/radclipd"
    install -m 0644 "$source"/deploy/systemd/*.service "$source"/deploy/systemd/*.socket "$source"/deploy/systemd/*.target "$units"
    install -m 0644 "$source/deploy/sysusers.d/radclipd.conf" "$destination/usr/local/lib/sysusers.d"
    install -m 0644 "$source/deploy/tmpfiles.d/radclipd.conf" "$destination/usr/local/lib/tmpfiles.d"
    [ -e "$destination$config" ] || install -m 0640 "$source/deploy/radclipd.toml" "$destination$config"
}

set_up_host() {
    say "creating the user, the folders and the catalog's schema (seconds; minutes for the upgrade of a large catalog)"
    systemd-sysusers /usr/local/lib/sysusers.d/radclipd.conf
    systemd-tmpfiles --create /usr/local/lib/tmpfiles.d/radclipd.conf
    runuser -u radclipd -- env RADCLIPD_CONFIG="$config" "$prefix/venv/bin/radclipd" db upgrade
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
}

check_host
choose_extras
install_environment
install_files
if [ -n "$destination" ]; then
    echo "Installed below $destination."
    exit 0
fi
set_up_host
cat <<END
radclipd is installed. Next steps:
  edit $config                                     archive, AE titles
  runuser -u radclipd -- radclipd versions list    a model version must serve: radclipd model --help
  runuser -u radclipd -- radclipd check            checks every part, one line each
  systemctl enable --now radclipd.socket radclipd.service
After an upgrade: systemctl restart radclipd.service (senders wait until it is up; none is refused)
END
