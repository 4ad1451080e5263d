#!/bin/sh
# Builds Penstock's image from this checkout: the wheels from the locked requirements, then the Dockerfile, which needs no
# network. For one processor by default; PLATFORMS=linux/amd64,linux/arm64 builds for several and pushes (a registry is
# the only place for an image of several).
#
#   helm/kind/build.sh [--dry-run] IMAGE
set -eu

here=$(cd "$(dirname "$0")/../.." && pwd)
dry=
if [ "${1:-}" = --dry-run ]; then dry=yes; shift; fi
image=${1:?usage: helm/kind/build.sh [--dry-run] IMAGE, for example penstock/penstock:dev}
python=${PYTHON:-python3}
platforms=${PLATFORMS:-}

say() { echo "build: $*" >&2; }
fail() { say "$*"; exit 1; }
run() {
  echo "+ $*"
  [ -n "$dry" ] || "$@"
}
have() { command -v "$1" >/dev/null 2>&1; }

engine=${ENGINE:-}
if [ -z "$engine" ]; then
  for one in docker podman buildah; do if have "$one"; then engine=$one; break; fi; done
fi
[ -n "$engine" ] || { [ -n "$dry" ] && engine=docker; } || fail "needs docker, podman or buildah to build an image"
[ -z "$platforms" ] || [ "$engine" = docker ] || fail "PLATFORMS needs docker with buildx"

# The wheels must fit the image's Python and Linux, whatever this machine is: a Mac builds for Linux too.
case "$(uname -m)" in
  x86_64 | amd64) machine=x86_64 ;;
  arm64 | aarch64) machine=aarch64 ;;
  *) fail "there is no image for the processor $(uname -m)" ;;
esac
machines=$machine
case "$platforms" in *amd64*arm64* | *arm64*amd64*) machines="x86_64 aarch64" ;; esac

cd "$here"
if [ -n "$dry" ]; then wheels=wheels; else
  wheels=$here/wheels
  # What an older lock file asked for must not be found by the build.
  rm -rf "$wheels"
fi
run "$python" -m pip wheel --quiet --no-deps --wheel-dir "$wheels" .
for one in $machines; do
  # Three names of the same C library, old and new. Everything is pinned by its hash.
  run "$python" -m pip download --quiet --no-deps --require-hashes --only-binary=:all: --implementation cp --python-version 3.11 \
    --platform "manylinux_2_17_$one" --platform "manylinux2014_$one" --platform "manylinux_2_28_$one" \
    --dest "$wheels" --requirement requirements/image.txt
done

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
# The commit's own time, so that the same commit gives the same image.
epoch=$(git log -1 --format=%ct 2>/dev/null || echo 0)
set -- --build-arg "REVISION=$revision" --build-arg "SOURCE_DATE_EPOCH=$epoch" --tag "$image"
case "$engine" in
  docker)
    if [ -n "$platforms" ]; then
      run docker buildx build --platform "$platforms" --output "type=registry,rewrite-timestamp=true" --sbom=false "$@" .
    else
      run docker build "$@" .
    fi
    ;;
  podman) run podman build --timestamp "$epoch" "$@" . ;;
  buildah) run buildah bud --timestamp "$epoch" "$@" . ;;
  *) fail "ENGINE is $engine; it may be docker, podman or buildah" ;;
esac
