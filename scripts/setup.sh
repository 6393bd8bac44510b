#!/usr/bin/env bash
# Makes .venv from the exact pins of requirements.txt and installs this package into it, once.
# A finished .venv holds the file .complete with the hash of its pins; one that was interrupted holds .incomplete and is made anew.
set -uo pipefail
cd "$(dirname "$0")/.."

NEED_GB=${NEED_GB:-6}
die() { echo "set-up stopped: $*" >&2; exit 1; }
want=$(cat requirements.txt pyproject.toml scripts/setup.sh | sha256sum | cut -c1-64)
[ "$(cat .venv/.complete 2>/dev/null)" = "$want" ] && { touch .venv/.complete; exit 0; }

# one set-up at a time
exec 9>.venv.lock
flock -n 9 || die "another set-up is running in this folder: wait for it, then run the same command again."

# the right Python
PYTHON=${PYTHON:-$(command -v python3.11 || command -v python3)}
[ -n "$PYTHON" ] || die "no Python was found: install Python 3.11 (Debian/Ubuntu: apt-get install python3.11 python3.11-venv)."
found=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || die "$PYTHON does not run: give a Python 3.11 with PYTHON=/path/to/python3.11."
[ "$found" = 3.11 ] || die "Python 3.11 is needed and $PYTHON is $found: install python3.11, or name one with PYTHON=/path/to/python3.11."
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || die "$PYTHON cannot make virtual environments: apt-get install python3.11-venv."

# room on the disk
free_gb=$(($(df -Pk . | awk 'NR==2 {print $4}') / 1024 / 1024))
[ "$free_gb" -ge "$NEED_GB" ] || die "$NEED_GB GB of free disk are needed here and $free_gb GB are left: free some, then run the same command again."

# a fresh or changed .venv; never one that somebody else made
if [ -e .venv/.incomplete ]; then echo "set-up: the last one was interrupted; starting it again from nothing"; rm -rf .venv
elif [ -e .venv ] && [ ! -e .venv/.complete ]; then die ".venv was not made by this set-up: move it away or delete it, then run the same command again."; fi
mkdir -p .venv && echo "$want" > .venv/.incomplete && rm -f .venv/.complete || die "cannot write to .venv here."

log=.venv/setup.log
step() { # step MESSAGE COMMAND...: one line on the screen, the rest in the log
  echo "set-up: $1"; shift
  "$@" >>"$log" 2>&1 </dev/null && return
  grep -qiE 'No space left' "$log" && die "the disk is full: free some space, then run the same command again."
  grep -qiE 'ConnectionError|NewConnectionError|name resolution|ConnectTimeout|ReadTimeout|ProxyError|Network is unreachable|Retrying \(' "$log" &&
    die "pip cannot reach the package registry: check the network (or the proxy, or PIP_INDEX_URL), then run the same command again."
  die "$(grep -E '^ERROR' "$log" | tail -1 | cut -c1-300) (the whole log: $log)."
}
pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 .venv/bin/python -m pip"
step "making .venv with $("$PYTHON" --version)" "$PYTHON" -m venv .venv
step "looking for the package registry" $pip download --retries 1 --timeout 20 --no-deps --no-cache-dir -d .venv/probe "$(grep '^wheel==' requirements.txt)"
step "installing $(grep -c '==' requirements.txt) pinned packages (some minutes; 2 GB with the CPU build of torch)" $pip install --retries 5 --timeout 60 -r requirements.txt
step "installing the crane package" $pip install --no-deps --no-build-isolation -e .
step "checking that the packages agree" $pip check
rm -rf .venv/probe .venv/.incomplete
echo "$want" > .venv/.complete.new && mv .venv/.complete.new .venv/.complete
echo "set-up: done"
