#!/usr/bin/env bash
# A run on TPU slices of a GKE cluster, through xpk.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
usage: launch/xpk.sh --name NAME --cluster CLUSTER --type TYPE [options] VERB WORDS...

Submits `glap-jax VERB WORDS...` as a workload of a GKE cluster that xpk made. A slice that is preempted or
dies starts all of them again, and `train` resumes (--resume is added). --out must be on a disk that every
pod sees: attach one with `xpk storage`, and name it by --with=--storage=NAME. Needs xpk (pip install xpk).

  --name NAME      of the workload
  --cluster NAME   where to run it
  --type TYPE      TPU type in xpk's words, such as v5litepod-256, v5p-128, v6e-256
  --slices N       slices of that type (default 1)
  --image IMAGE    image that has glap_jax installed, with its clone as working directory (default: xpk puts
                   this clone, as it is, into an image of Python 3.12, and each start installs it)
  --project NAME, --zone ZONE   (default: those of gcloud's configuration)
  --with FLAG      one more flag for `xpk workload create`, such as --with=--priority=high; repeatable
  --retries N      new starts at most (default 20)
  --grace SECONDS  that a pod gets to save when it must go (default 300)
  --dry-run        print the command instead

example: launch/xpk.sh --name glap --cluster pods --type v5litepod-256 --with=--storage=runs \
           train configs/glap.py --batch 32768 --out /runs/glap
END
}

declare -A OPTION=([name]="" [cluster]="" [type]="" [slices]=1 [image]="" [project]="" [zone]="" [with]=""
  [retries]=20 [grace]=300 [dry-run]=no)
parse "$@"
required name cluster type
whole slices 1 retries 0 grace 0
[[ ${OPTION[name]} =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  fail "--name must be small letters, digits and hyphens, not '${OPTION[name]}'"
[[ "${WORDS[*]}" != *$'\n'* ]] || fail "the words must not contain a line break: xpk cannot pass it on"
program xpk "install it by: pip install xpk"
file=$(configuration)
[[ -z $file || -n ${OPTION[image]} || -f $ROOT/$file ]] || fail "no file '$file' in this clone, which is what the pods get"
resumed

PLACE=(${OPTION[project]:+"--project=${OPTION[project]}"} ${OPTION[zone]:+"--zone=${OPTION[zone]}"})
image=("--base-docker-image=python:3.12" "--script-dir=$ROOT")
before="pip install --quiet --editable '.[tpu]' && "
if [[ -n ${OPTION[image]} ]]; then
  image=("--docker-image=${OPTION[image]}")
  before=""
fi

# By exec the signal that announces the end reaches glap-jax and no shell.
run xpk workload create "--workload=${OPTION[name]}" "--cluster=${OPTION[cluster]}" "${PLACE[@]}" \
  "--tpu-type=${OPTION[type]}" "--num-slices=${OPTION[slices]}" "${image[@]}" \
  "--max-restarts=${OPTION[retries]}" "--termination-grace-period-seconds=${OPTION[grace]}" "${WITH[@]}" \
  --command="${before}exec $(quote "${SCHEDULED[@]}" glap-jax "${WORDS[@]}")"
dry || say "logs: kubectl logs --follow --prefix --max-log-requests=1000 --selector=xpk.google.com/workload=${OPTION[name]}
to stop it: $(quote xpk workload delete "--workload=${OPTION[name]}" "--cluster=${OPTION[cluster]}" "${PLACE[@]}")"
