# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the scripts share: messages, and the tools and libraries that a build needs. Sourced by bash, from any folder.

# shellcheck disable=SC2034
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '\n== %s\n' "$*"; }

die() {
  printf 'allfold: %s\n' "$*" >&2
  exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# has_header <header>: a program of C++ can include it.
has_header() { printf '#include <%s>\n' "$1" | g++ -std=c++20 -E -x c++ - >/dev/null 2>&1; }

# at_least <version> <wanted>, of numbers and dots.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# The packages of Debian and Ubuntu that are missing here, one a line.
missing_required() {
  has cmake || echo cmake
  has ninja || echo ninja-build
  has python3 || echo python3
  has g++ || echo g++
  has_header doctest/doctest.h || echo doctest-dev
}

missing_optional() {
  has ccache || echo ccache
  has_header CLI/CLI.hpp || echo libcli11-dev
  has_header nlohmann/json.hpp || echo nlohmann-json3-dev
  has_header fmt/format.h || echo libfmt-dev
  has_header zlib.h || echo zlib1g-dev
  has_header ucp/api/ucp.h || echo libucx-dev
  { has ip && has tc; } || echo iproute2
}

# as_root <command>: with the rights that apt-get needs.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    env DEBIAN_FRONTEND=noninteractive "$@"
  elif has sudo; then
    sudo env DEBIAN_FRONTEND=noninteractive "$@"
  else
    echo "allfold: neither root nor sudo, so apt-get is out of reach" >&2
    return 1
  fi
}

apt_install() { as_root apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }

# install_missing: what is missing, from the distribution's archive; touches no network where nothing is.
# Without the required packages it ends the script; without the others the build leaves something out and says so.
install_missing() {
  local required optional all version
  required=$(missing_required | xargs)
  optional=$(missing_optional | xargs)
  all=$(echo "$required $optional" | xargs)
  if [ -n "$all" ]; then
    if has apt-get; then
      say "installing what is missing: $all"
      as_root apt-get update -qq || echo "allfold: apt-get update failed; trying with the lists that are here" >&2
      # shellcheck disable=SC2086
      if ! apt_install $all && [ -n "$required" ]; then apt_install $required || true; fi
    fi
    required=$(missing_required | xargs)
    [ -z "$required" ] || die "these packages are needed and could not be installed: $required"
    optional=$(missing_optional | xargs)
    [ -z "$optional" ] || echo "allfold: going on without $optional" >&2
  fi
  version=$(cmake --version | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')
  at_least "$version" 3.25 || die "cmake is $version; expected 3.25 or later; try: pip install cmake"
}

cores() { nproc 2>/dev/null || echo 2; }

# Where the CUDA toolkit's installer puts nvcc, which it adds to nobody's PATH.
if ! has nvcc && [ -x /usr/local/cuda/bin/nvcc ]; then PATH=$PATH:/usr/local/cuda/bin; fi
