#!/bin/sh
# Install, or upgrade, radclipd as a systemd service from this checkout. Run as root.
#
#   deploy/install.sh                      onto this host
#   DESTDIR=/tmp/root deploy/install.sh    into a folder, for packaging: no user, no database, nothing started
#   PYTHON=/usr/bin/python3.12 ...         another interpreter than /usr/bin/python3 (3.11 or newer)
#   EXTRAS="lab scale" ...                 with extras of pyproject.toml: lab (demo, experiment), scale (Ray), web (the desk), gpl-codecs
#
#   PIP_NO_INDEX=1 PIP_FIND_LINKS=/media/wheels deploy/install.sh
#                                          without internet, from a folder of wheels (deploy/docs/install.md, "Without internet")
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

begun=$(date +%s)
number=0

# Say what begins and how long it usually takes.
begin() {
    number=$((number + 1))
    step_begun=$(date +%s)
    echo "install: step $number of $steps: $1 ($2)"
}

end() { echo "install: step $number took $(($(date +%s) - step_begun)) s"; }

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
    [ -n "$destination" ] || for program in systemd-sysusers systemd-tmpfiles runuser; do
        command -v "$program" >/dev/null || fail "no $program" "radclipd runs as a service of systemd 250 or newer"
    done
    case $("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))') in
    /home/* | /root/*) fail "$python lies in a home folder, which the sandboxed service cannot see" "set PYTHON=/usr/bin/python3" ;;
    esac
}

# pip only warns of an extra that does not exist.
choose_extras() {
    for extra in $(echo "${EXTRAS:-}" | tr ',' ' '); do
        grep -q "^$extra = \[" "$source/pyproject.toml" || fail "there is no extra $extra" "the extras are lab, scale, web and gpl-codecs"
        extras=${extras:+$extras,}$extra
    done
}

install_environment() {
    begin "the virtual environment $venv" "about 10 seconds"
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    check_packages
    end
    begin "torch $(pinned torch)" "1 to 8 minutes; a few seconds if it is installed already"
    "$venv/bin/pip" install --quiet --constraint "$source/constraints.txt" "torch==$(pinned torch)"
    end
    begin "radclipd${extras:+[$extras]} and its dependencies" "about 1 minute"
    "$venv/bin/pip" install --quiet --constraint "$source/constraints.txt" "$source${extras:+[$extras]}"
    end
    [ -z "$destination" ] || forget_destination
    install -d "$destination/usr/local/bin"
    ln -sfn "$prefix/venv/bin/radclipd" "$destination/usr/local/bin/radclipd"
}

# A small package that the build needs anyway: without it everything below would fail, after minutes of attempts.
check_packages() {
    "$venv/bin/pip" install --quiet --dry-run --no-deps --retries 0 --timeout 10 hatchling >/dev/null 2>&1 && return
    fail "pip finds no packages: no internet, and no folder of wheels" \
        "PIP_NO_INDEX=1 PIP_FIND_LINKS=/path/to/wheels $0 (deploy/docs/install.md, Without internet)"
}

pinned() { sed -n "s/^$1==//p" "$source/constraints.txt"; }

# Scripts of a virtual environment hold its path: remove DESTDIR from them.
forget_destination() {
    grep -rlI --exclude-dir=site-packages -- "$destination" "$venv/bin" "$venv/pyvenv.cfg" | xargs -r sed -i "s|$destination||g"
}

install_files() {
    begin "units, configuration, manual page and completion" "seconds"
    install -d "$units" "$destination/usr/local/lib/sysusers.d" "$destination/usr/local/lib/tmpfiles.d" "$destination/etc/radclipd"
    install -m 0644 "$source"/deploy/systemd/*.service "$source"/deploy/systemd/*.socket "$source"/deploy/systemd/*.target "$units"
    install -m 0644 "$source/deploy/sysusers.d/radclipd.conf" "$destination/usr/local/lib/sysusers.d"
    install -m 0644 "$source/deploy/tmpfiles.d/radclipd.conf" "$destination/usr/local/lib/tmpfiles.d"
    [ -e "$destination$config" ] || install -m 0640 "$source/deploy/radclipd.toml" "$destination$config"
    write_from_verb share/man/man1/radclipd.1 manual
    write_from_verb share/bash-completion/completions/radclipd completion bash
    write_from_verb share/zsh/site-functions/_radclipd completion zsh
    write_from_verb share/fish/vendor_completions.d/radclipd.fish completion fish
    end
}

# Write what a verb prints to a file below /usr/local.
write_from_verb() {
    target=$destination/usr/local/$1
    shift
    install -d "${target%/*}"
    (cd / && "$venv/bin/python" -m adapters.cli "$@") >"$target"
    chmod 0644 "$target"
}

set_up_host() {
    begin "user, folders and the catalog's schema" "seconds; minutes for the upgrade of a large catalog"
    systemd-sysusers /usr/local/lib/sysusers.d/radclipd.conf
    systemd-tmpfiles --create /usr/local/lib/tmpfiles.d/radclipd.conf
    runuser -u radclipd -- env RADCLIPD_CONFIG="$config" "$prefix/venv/bin/radclipd" db upgrade
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
    end
}

check_host
choose_extras
steps=$([ -n "$destination" ] && echo 4 || echo 5)
install_environment
install_files
if [ -n "$destination" ]; then
    echo "Installed below $destination, in $(($(date +%s) - begun)) s."
    exit 0
fi
set_up_host
cat <<END
radclipd is installed, in $(($(date +%s) - begun)) s. Next steps, as root (radclipd then works as its own user):
  edit $config     archive, AE titles
  radclipd versions list             a model version must serve: radclipd model --help
  radclipd check                     checks every part, one line each
  systemctl enable --now radclipd.socket radclipd.service
After an upgrade: systemctl restart radclipd.service (senders wait until it is up; none is refused)
END
