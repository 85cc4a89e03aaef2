#!/usr/bin/env bash
# A real cluster of several processes on this machine's CPU.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
usage: launch/local.sh [options] VERB WORDS...

Runs `glap-jax VERB WORDS...` in several processes on this machine's CPU, which form one cluster: what is
tried here runs the same on a pod. Each process has its log; that of process 0 is shown. When one fails, the
others are stopped. Ctrl-C or SIGTERM makes all of them save and end; once more stops them at once.

  --processes N   how many processes (default 2)
  --devices N     CPU devices of each (default 1)
  --logs FOLDER   where process-0.log, process-1.log, ... go (default runs/local)
  --port N        of the coordinator (default: the first free one from 12321)
  --grace S       seconds that the others get to end when one has failed (default 15)
  --program PATH  what to run (default glap-jax)
  --dry-run       print the commands instead

example: launch/local.sh --devices 4 train configs/quickstart.py --out runs/local/quickstart
END
}

declare -A OPTION=([processes]=2 [devices]=1 [logs]=runs/local [port]="" [grace]=15 [program]=glap-jax
  [dry-run]=no)
parse "$@"
whole processes 1 devices 1 grace 0
[[ -z ${OPTION[port]} ]] || whole port 1
program "${OPTION[program]}" "activate the environment that it is installed in, or name it by --program"

free_port() {
  local port=12321
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
  printf '%s\n' "$port"
}

log_of() { printf '%s/process-%s.log\n' "${OPTION[logs]}" "$1"; }

# The command of one process; its cluster stands in its environment.
command_of() {
  COMMAND=(setsid env "GLAP_JAX_COORDINATOR=127.0.0.1:$port" "GLAP_JAX_PROCESSES=${OPTION[processes]}"
    "GLAP_JAX_PROCESS=$1" JAX_PLATFORMS=cpu
    "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=${OPTION[devices]}"
    "${OPTION[program]}" "${WORDS[@]}")
}

# Asks every process that still runs to save and end; there is nothing to say about those that just ended.
ask() { kill -TERM "${running[@]}" 2>/dev/null || true; }

# Ends every process and whatever it has started; each leads a group of its own.
end() {
  local group
  for group in "${groups[@]}"; do kill -KILL -- "-$group" 2>/dev/null || true; done
}

# shellcheck disable=SC2329 # called by trap
interrupted() {
  if [[ -n $asked ]]; then
    end
  else
    asked=yes
    say "stopping: every process saves and ends; once more stops them at once"
    ask
  fi
}

# Process $1 ended with status $2: the others get the grace to end, too.
failed() {
  say "process $1 ended with status $2; stopping the others. The end of $(log_of "$1"):"
  tail -n 5 "$(log_of "$1")" >&2
  ask
  local tenths=$((10 * OPTION[grace])) index alive
  while ((tenths-- > 0)); do
    alive=""
    for index in "${!running[@]}"; do kill -0 "${running[index]}" 2>/dev/null && alive=yes; done
    [[ -n $alive ]] || return 0
    sleep 0.1
  done
  end
}

port=${OPTION[port]:-$(free_port)}
running=()
groups=()
asked=""
if ! dry; then
  trap interrupted INT TERM
  trap end EXIT
fi
run mkdir -p "${OPTION[logs]}"
for ((index = 0; index < OPTION[processes]; index++)); do
  command_of "$index"
  if dry; then
    printf '%s </dev/null >%s 2>&1 &\n' "$(quote "${COMMAND[@]}")" "$(quote "$(log_of "$index")")"
  else
    : >"$(log_of "$index")"
    "${COMMAND[@]}" </dev/null >"$(log_of "$index")" 2>&1 &
    running[index]=$!
    groups+=($!)
  fi
done
if dry; then exit 0; fi

if [[ -n $asked ]]; then ask; fi
tail --pid="${running[0]}" --sleep-interval=0.2 -n +1 -f "$(log_of 0)" &
shown=$!
first=0
while ((${#running[@]})); do
  # An end or a signal wakes this up. Ends that were noticed elsewhere do not, so all are looked at.
  wait -n "${running[@]}" 2>/dev/null || true
  for index in "${!running[@]}"; do
    if kill -0 "${running[index]}" 2>/dev/null; then continue; fi
    status=0
    wait "${running[index]}" 2>/dev/null || status=$?
    unset "running[index]"
    if ((status && !first)); then
      first=$status
      if [[ -z $asked ]]; then failed "$index" "$status"; fi
    fi
  done
done
wait "$shown" || true
exit "$first"
