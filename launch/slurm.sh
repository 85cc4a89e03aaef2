#!/usr/bin/env bash
# A run on the GPUs of several nodes, through Slurm.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
usage: launch/slurm.sh [options] VERB WORDS...

Submits `glap-jax VERB WORDS...` as a Slurm job with one process a GPU. Before its time is over the job saves
and queues itself again, as it does after a preemption, a signal or a dead node, and `train` resumes (--resume
is added). Submit from an environment and a folder that every node sees.

  --nodes N         (default 1)
  --gpus N          on each node (default 8)
  --cpus N          for each GPU (default 8)
  --time TIME       of one start, in Slurm's form (default 24:00:00)
  --save SECONDS    before its end in which it saves (default 300)
  --name NAME       of the job (default glap_jax)
  --with FLAG       one more flag for sbatch, such as --with=--partition=gpu; repeatable
  --retries N       new starts at most (default 20)
  --logs FOLDER     where JOB.log and each process's JOB-INDEX.log go (default runs/slurm)
  --program PATH    what to run (default glap-jax)
  --dry-run         print the commands instead

example: launch/slurm.sh --nodes 4 --with=--partition=gpu --with=--account=audio \
           train configs/glap.py --batch 8192 --out runs/glap
END
}

declare -A OPTION=([nodes]=1 [gpus]=8 [cpus]=8 [time]=24:00:00 [save]=300 [name]=glap_jax [with]=""
  [retries]=20 [logs]=runs/slurm [program]=glap-jax [dry-run]=no)
parse "$@"
whole nodes 1 gpus 1 cpus 1 save 0 retries 0
program sbatch "submit from a node of a Slurm cluster"
program "${OPTION[program]}" "activate the environment that it is installed in, or name it by --program"
file=$(configuration)
[[ -z $file || -f $file ]] || fail "no file '$file'"
resumed

SUBMIT=(sbatch "--job-name=${OPTION[name]}" "--nodes=${OPTION[nodes]}" "--ntasks-per-node=${OPTION[gpus]}"
  "--gpus-per-node=${OPTION[gpus]}" "--cpus-per-task=${OPTION[cpus]}" "--time=${OPTION[time]}"
  "--signal=TERM@${OPTION[save]}" --requeue --open-mode=append "--output=${OPTION[logs]}/%j.log" "${WITH[@]}")

# --signal goes to the processes and not to this shell; a preemption goes to both, hence the trap. A process
# that ends takes the others with it after two minutes, so that all can save first.
job() {
  cat <<END
#!/usr/bin/env bash
trap : TERM
status=0
srun --wait=120 --kill-on-bad-exit=0 --cpus-per-task=${OPTION[cpus]} --open-mode=append \\
  $(quote "--output=${OPTION[logs]}/%j-%t.log" "${SCHEDULED[@]}" "${OPTION[program]}" "${WORDS[@]}") || status=\$?
if ((status >= 128 && \${SLURM_RESTART_COUNT:-0} < ${OPTION[retries]})); then
  scontrol requeue "\$SLURM_JOB_ID"
fi
exit "\$status"
END
}

run mkdir -p "${OPTION[logs]}"
if dry; then
  printf "%s <<'END'\n%s\nEND\n" "$(quote "${SUBMIT[@]}")" "$(job)"
else
  job | "${SUBMIT[@]}"
fi
