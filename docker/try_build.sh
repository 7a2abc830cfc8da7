#!/usr/bin/env bash
# Builds the three images without an engine, from a bare Debian root, and tries them: docker/README.md.
# usage (as root): docker/try_build.sh FOLDER [airflow|worker|mlflow]...
# The host's own pip settings and certificates are available to the RUN steps; nothing of them stays in an image.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
for tool in debootstrap buildah; do
  command -v "$tool" > /dev/null || { echo "$tool is missing: apt-get install $tool" >&2; exit 2; }
done

project=$(cd "$(dirname "$0")/.." && pwd)
folder=$(realpath -m "$1")
shift
images=("${@:-}")
[ -n "${images[0]}" ] || images=(airflow worker mlflow)
python_image=$(sed -n 's/^ARG PYTHON_IMAGE=//p' "$project/docker/airflow.Dockerfile")
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
mkdir -p "$folder"

store() { buildah --root "$folder/store" --runroot "$folder/run" "$@"; }

lend=()
cp -L "${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}" "$folder/ca.crt"
lend+=(--volume "$folder/ca.crt:/etc/ssl/certs/ca-certificates.crt:ro")
python3 -m pip config list \
  | sed -n "s/^global\.\([a-z-]*\)='\(.*\)'$/\1 = \2/p; s/^:env:\.\([a-z-]*\)='\(.*\)'$/\1 = \2/p" \
  | awk -F ' = ' 'BEGIN {print "[global]"} !seen[$1]++ {gsub(/\\n/, " "); print}' > "$folder/pip.conf"
lend+=(--volume "$folder/pip.conf:/etc/pip.conf:ro")
# Folders from which pip reads packages; an index links from simple/ to files next to it.
for path in $(grep -oE '(file://|[ =])/[^ ]+' "$folder/pip.conf" | sed -E 's#^(file://|[ =])##; s#/simple/?$##' | sort -u); do
  if [ -d "$path" ]; then lend+=(--volume "$path:$path:ro"); fi
done

base() {  # Debian's Python 3.11 in the place of the image's own
  store images --quiet "$python_image" > /dev/null 2>&1 && return
  [ -e "$folder/root/.complete" ] || {
    rm -rf "$folder/root"
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv bookworm "$folder/root"
    ln -s /usr/bin/python3 "$folder/root/usr/local/bin/python"
    touch "$folder/root/.complete"
  }
  local container
  container=$(store from scratch)
  store add --quiet "$container" "$folder/root" / > /dev/null
  store config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
  store commit --quiet --rm "$container" "docker.io/library/$python_image"
}

build() { # image, further options
  local image=$1
  shift
  store bud --isolation chroot --pull-never --layers=false --network host "${lend[@]}" "$@" \
    --file "$project/docker/$image.Dockerfile" --tag "atspeed-$image:0.1.0" "$project"
}

try_image() { # image: runs docker/try/IMAGE.sh in it, as its user
  local container code=0
  container=$(store from --pull-never "localhost/atspeed-$1:0.1.0")
  store run --isolation chroot --volume "$project/docker/try:/try:ro" "$container" -- sh "/try/$1.sh" || code=$?
  store rm "$container" > /dev/null
  return $code
}

base
for image in "${images[@]}"; do
  options=()
  [ "$image" = worker ] && options=(--build-arg AIRFLOW_IMAGE=localhost/atspeed-airflow:0.1.0)
  build "$image" "${options[@]}"
  try_image "$image"
  echo "--- $image: built and started"
done
