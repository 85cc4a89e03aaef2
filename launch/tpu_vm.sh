#!/usr/bin/env bash
# A run on a Cloud TPU pod, through a queued resource.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
usage: launch/tpu_vm.sh --name NAME --zone ZONE --type TYPE [options] VERB WORDS...

Requests a TPU pod as a queued resource, waits for it, puts the last commit of this clone on every worker and
runs `glap-jax VERB WORDS...` there. When the pod is preempted or a host dies, all of this is done again, and
`train` resumes (--resume is added). At the end the pod is deleted. Started again by you, the script takes the
pod of that name as it finds it. Needs gcloud, and the key of `gcloud compute ssh` in ssh-agent. --out must be
on a disk that every worker sees: mount one with --setup.

  --name NAME     of the queued resource and its nodes
  --zone ZONE     such as us-west4-a
  --type TYPE     accelerator type, such as v5litepod-256, v5p-128, v6e-256, v4-128
  --slices N      slices of that type, joined by the data centre's network (default 1)
  --runtime NAME  software of the machines (default: what Google names for JAX on that type)
  --project NAME  (default: that of gcloud's configuration)
  --spot          cheaper machines that may be preempted
  --setup WORDS   shell command for every worker after installation, such as mounting a disk
  --with FLAG     one more flag for `queued-resources create`, such as --with=--reserved; repeatable
  --retries N     new starts at most (default 20)
  --poll SECONDS  between two looks at the queue (default 30)
  --logs FOLDER   where each worker's HOST.log goes (default runs/tpu_vm/NAME)
  --keep          leave the pod running at the end
  --dry-run       print the commands instead

example: launch/tpu_vm.sh --name glap --zone us-west4-a --type v5litepod-256 --spot \
           --setup 'mountpoint -q /mnt || sudo mount -t nfs 10.0.0.2:/runs /mnt' \
           train configs/glap.py --batch 32768 --out /mnt/glap
END
}

declare -A OPTION=([name]="" [zone]="" [type]="" [slices]=1 [runtime]="" [project]="" [spot]=no [setup]=""
  [with]="" [retries]=20 [poll]=30 [logs]="" [keep]=no [dry-run]=no)
parse "$@"
required name zone type
whole slices 1 retries 0 poll 0
[[ ${OPTION[name]} =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  fail "--name must be small letters, digits and hyphens, not '${OPTION[name]}'"
program gcloud "install the Google Cloud CLI, https://cloud.google.com/sdk"
file=$(configuration)
[[ -z $file ]] || git -C "$ROOT" cat-file -e "HEAD:$file" 2>/dev/null ||
  fail "'$file' is not in this clone's last commit, which is what the pod gets; commit it, and name it from the clone's root"
[[ -z ${OPTION[runtime]} ]] && case ${OPTION[type]} in
  v6e-*) OPTION[runtime]=v2-alpha-tpuv6e ;;
  v5p-*) OPTION[runtime]=v2-alpha-tpuv5 ;;
  v5litepod-*) OPTION[runtime]=v2-alpha-tpuv5-lite ;;
  v[234]-*) OPTION[runtime]=tpu-ubuntu2204-base ;;
  *) fail "no runtime is known for --type '${OPTION[type]}'; name it with --runtime" ;;
esac
resumed

NAME=${OPTION[name]}
LOGS=${OPTION[logs]:-runs/tpu_vm/$NAME}
ARCHIVE=${TMPDIR:-/tmp}/glap_jax-$NAME.tar.gz
QUEUE=(gcloud compute tpus queued-resources)
PLACE=("--zone=${OPTION[zone]}" ${OPTION[project]:+"--project=${OPTION[project]}"} --quiet)
# Every worker at once: gcloud's groups of 64 would wait for each other for ever.
EVERYWHERE=("${PLACE[@]}" --node=all --worker=all --batch-size=all)
DELETE=("${QUEUE[@]}" delete "$NAME" "${PLACE[@]}" --force)

on_workers() {
  run "${QUEUE[@]}" ssh "$NAME" "${EVERYWHERE[@]}" --ssh-flag=-oServerAliveInterval=30 --command="$1"
}

create() {
  local nodes=("--node-id=$NAME") tier=()
  ((OPTION[slices] == 1)) || nodes=("--node-count=${OPTION[slices]}" "--node-prefix=$NAME")
  [[ ${OPTION[spot]} == no ]] || tier=(--spot)
  run "${QUEUE[@]}" create "$NAME" "${PLACE[@]}" "--accelerator-type=${OPTION[type]}" \
    "--runtime-version=${OPTION[runtime]}" "${nodes[@]}" "${tier[@]}" "${WITH[@]}"
}

# What becomes of the request: WAITING_FOR_RESOURCES, ACTIVE, SUSPENDED, ...; nothing when there is none.
state() { run "${QUEUE[@]}" describe "$NAME" "${PLACE[@]}" '--format=value(state.state)' 2>/dev/null || true; }

acquire() {
  if dry; then
    create
    note "every ${OPTION[poll]} s until it says ACTIVE; after SUSPENDED it is deleted and created again:"
    state
    return
  fi
  local now before=""
  while now=$(state) && [[ $now != ACTIVE ]]; do
    [[ $now == "$before" ]] || say "queued resource '$NAME': ${now:-not there}"
    before=$now
    case $now in
      "") create ;;
      FAILED) fail "the request failed; see: $(quote "${QUEUE[@]}" describe "$NAME" "${PLACE[@]}")" ;;
      SUSPENDED) "${DELETE[@]}" ;;
      *) sleep "${OPTION[poll]}" ;;
    esac
  done
}

# The name is in brackets so that the pattern does not match the shell that searches.
install_everywhere() {
  local running="pgrep -f 'bin/[g]lap-jax' >/dev/null"
  run git -C "$ROOT" archive --format=tar.gz "--output=$ARCHIVE" HEAD &&
    run "${QUEUE[@]}" scp "$ARCHIVE" "$NAME:glap_jax.tar.gz" "${EVERYWHERE[@]}" &&
    note "what an earlier start left running saves and ends:" &&
    on_workers "pkill -f 'bin/[g]lap-jax'; for i in \$(seq 120); do $running || exit 0; sleep 1; done; \
pkill -KILL -f 'bin/[g]lap-jax'" &&
    note "the machines' own Python is too old:" &&
    on_workers "mkdir -p glap_jax && tar -xzf glap_jax.tar.gz -C glap_jax && cd glap_jax && \
python3 -m pip install --quiet --user uv && python3 -m uv venv --quiet --allow-existing --python 3.12 .venv && \
python3 -m uv pip install --quiet --python .venv/bin/python --editable '.[tpu]'" || return
  [[ -z ${OPTION[setup]} ]] || on_workers "cd glap_jax && ${OPTION[setup]}"
}

# Each line begins with its worker, by which the logs are told apart again.
work() {
  on_workers "cd glap_jax && set -o pipefail && $(quote "${SCHEDULED[@]}" .venv/bin/glap-jax "${WORDS[@]}") 2>&1 | \
sed -u \"s/^/[\$(hostname)] /\""
}

sort_logs() {
  local line worker='^\[([A-Za-z0-9.-]+)\] (.*)'
  while IFS= read -r line; do
    printf '%s\n' "$line"
    if [[ $line =~ $worker ]]; then
      printf '%s\n' "${BASH_REMATCH[2]}" >>"$LOGS/${BASH_REMATCH[1]}.log"
    else
      printf '%s\n' "$line" >>"$LOGS/gcloud.log"
    fi
  done
}

run mkdir -p "$LOGS"
if dry; then
  acquire
  install_everywhere
  note "each worker's lines go to $LOGS/HOST.log"
  work
  note "after a preemption, or a signal that ended it: all of this again, ${OPTION[retries]} times at most; then"
  [[ ${OPTION[keep]} == yes ]] || quote "${DELETE[@]}"
  exit 0
fi

trap 'say "stopped; the pod goes on and costs. Delete it by: $(quote "${DELETE[@]}")"; exit 130' INT
for ((start = 0; start <= OPTION[retries]; start++)); do
  acquire
  status=0
  install_everywhere >>"$LOGS/gcloud.log" 2>&1 && work 2>&1 | sort_logs || status=$?
  if ((status == 0)); then
    say "finished"
    [[ ${OPTION[keep]} == yes ]] || "${DELETE[@]}"
    exit 0
  fi
  sleep "${OPTION[poll]}"
  if ((start == OPTION[retries])) || { ((status < 128)) && [[ $(state) == ACTIVE ]]; }; then break; fi
  say "ended with status $status; starting again ($((start + 1)) of ${OPTION[retries]})"
done
say "ended with status $status, see $LOGS; the pod goes on and costs. Delete it by: $(quote "${DELETE[@]}")"
exit "$status"
