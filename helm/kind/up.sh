#!/bin/sh
# Penstock on a local cluster, from nothing to a file that became a job: `make kind` runs this.
#
#   helm/kind/up.sh [--dry-run] [--cluster kind|k3d|current] [--profile trial|edge] [--image IMAGE] [--name NAME]
#   helm/kind/up.sh --down [--cluster kind|k3d|current]
#
#   kind, k3d   make a cluster of that kind with Docker (Linux and macOS, amd64 and Apple Silicon) and load the image;
#   current     the cluster that kubectl talks to now. Its nodes must be able to pull the image: give --image.
#
# Without --cluster the first of kind and k3d that is installed is taken, else the current one.
set -eu

here=$(cd "$(dirname "$0")/../.." && pwd)
dry='' down='' cluster='' profile=trial image='' name=penstock
namespace=penstock

say() { echo "kind: $*" >&2; }
fail() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
run() {
  echo "+ $*"
  [ -n "$dry" ] || "$@"
}
need() { [ -n "$dry" ] || have "$1" || fail "needs $1: $2"; }

while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry=yes ;;
    --down) down=yes ;;
    --cluster | --profile | --image | --name)
      [ $# -ge 2 ] || fail "$1 needs a value"
      case "$1" in
        --cluster) cluster=$2 ;;
        --profile) profile=$2 ;;
        --image) image=$2 ;;
        --name) name=$2 ;;
      esac
      shift
      ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) fail "there is no option $1; --help lists them" ;;
  esac
  shift
done

if [ -z "$cluster" ]; then
  if have kind; then cluster=kind; elif have k3d; then cluster=k3d; else cluster=current; fi
  say "cluster: $cluster"
fi
case "$cluster" in kind | k3d | current) ;; *) fail "--cluster is $cluster; it may be kind, k3d or current" ;; esac
case "$profile" in trial | edge) ;; *) fail "--profile is $profile; it may be trial or edge" ;; esac

need kubectl "the command line of Kubernetes"
need helm "version 3.14 or newer"
case "$cluster" in
  kind) need docker "kind runs its nodes in it"; need kind "or choose --cluster k3d or current" ;;
  k3d) need docker "k3d runs its nodes in it"; need k3d "or choose --cluster kind or current" ;;
esac

exists() {
  case "$cluster" in
    kind) kind get clusters 2>/dev/null | grep -qx "$name" ;;
    k3d) k3d cluster list "$name" >/dev/null 2>&1 ;;
    current) return 0 ;;
  esac
}

if [ -n "$down" ]; then
  case "$cluster" in
    kind) run kind delete cluster --name "$name" ;;
    k3d) run k3d cluster delete "$name" ;;
    current)
      run helm uninstall "$name" --namespace "$namespace" --wait
      say "what stays: the CRD, the namespace penstock-functions, the Secrets and the volumes of bundled servers"
      ;;
  esac
  exit 0
fi

if [ -n "$dry" ] || ! exists; then
  case "$cluster" in
    kind) run kind create cluster --name "$name" --wait 120s ;;
    k3d) run k3d cluster create "$name" --agents 0 --wait ;;
  esac
fi

if [ -z "$image" ]; then
  [ "$cluster" != current ] || fail "give --image: a cluster of yours must be able to pull it (helm/kind/build.sh builds it)"
  # The name changes with the source, so that an upgrade really starts the new one.
  image=penstock/penstock:dev-$(git -C "$here" rev-parse --short=12 HEAD 2>/dev/null || echo local)
  if [ -n "$dry" ]; then "$here/helm/kind/build.sh" --dry-run "$image"; else "$here/helm/kind/build.sh" "$image"; fi
  case "$cluster" in
    kind) run kind load docker-image "$image" --name "$name" ;;
    k3d) run k3d image import "$image" --cluster "$name" ;;
  esac
fi
case "$image" in
  *@*) set -- --set "image.repository=${image%@*}" --set "image.digest=${image#*@}" ;;
  *:*) set -- --set "image.repository=${image%:*}" --set-string "image.tag=${image##*:}" ;;
  *) fail "--image is $image; it needs a tag or a digest" ;;
esac
context=
case "$cluster" in kind) context=kind-$name ;; k3d) context=k3d-$name ;; esac
flags=
[ -z "$context" ] || flags="--kube-context $context"

# shellcheck disable=SC2086 # two words or none
run helm upgrade --install "$name" "$here/helm/penstock" $flags --namespace "$namespace" --create-namespace \
  --values "$here/helm/penstock/values-$profile.yaml" "$@" --wait --timeout 10m
# shellcheck disable=SC2086
run helm test "$name" $flags --namespace "$namespace" --logs --timeout 10m
say "it works. The commands of 'helm status $name --namespace $namespace' sign you in; '$0 --down --cluster $cluster' ends it"
