# What a job does with the exit code of its stage; the lines above name the job ($name, $key, $jobs, $kind).
# 0 leaves a stamp. 75 and death by a signal put the job back into the queue, as long as Slurm says that it is RUNNING: a
# cancelled job stays cancelled. Anything else is a refusal, which would come again, and ends it.
id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
id=${id:-$SLURM_JOB_ID} # of an array's task; its SLURM_JOB_ID may be that of the whole array
log=$jobs/$name-$id.log
export DISTIL_PROGRESS=$jobs/.$name-$id.progress SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
getent hosts "$MASTER_ADDR" >/dev/null || # Slurm's name of a node need not be one that the network knows
  MASTER_ADDR=$(scontrol -o show node "$MASTER_ADDR" | tr ' ' '\n' | sed -n 's/^NodeAddr=//p')
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000)) LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
trap : TERM USR1 # the stage saves and ends; then this script goes on
rm -f "$DISTIL_PROGRESS"
start=$(stat -c %s "$log")

tell() { echo "job $id: $*" >&2; }
shown() { scontrol -o show job "$id" 2>/dev/null | tr ' ' '\n' | sed -n "s/^$1=//p" | head -n 1; }
said() { tail -c "+$((start + 1))" "$log" | grep -qiE "$1"; } # in this start's log

run() { # ranks by srun, whose signals and exit codes are a rank's own; when one is lost, the others end by themselves, and
  # what hangs then is killed
  srun --unbuffered --kill-on-bad-exit=0 --wait="${DISTIL_TIMEOUT:-600}" bash -c \
    'export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID; exec "$@"' - "$@"
}

full() { # whether the disk is: the stage said so, or 64 MB can't be written
  said 'no space left|disk quota exceeded' && return
  for place in "$DISTIL_POOL" "$jobs"; do
    dd if=/dev/zero of="$place/.room.$id" bs=1M count=64 conv=fsync 2>/dev/null || { rm -f "$place/.room.$id"; return 0; }
    rm -f "$place/.room.$id"
  done
  return 1
}

finish() {
  local code=$1 state='' total=0 idle=0 memory=0 pause
  if [ "$code" = 0 ]; then
    rm -f "$DISTIL_PROGRESS" "$jobs/.$name-$id.restarts"
    printf '%s\n' "$key" >"$jobs/$name.done"
    exit 0
  fi
  [ "$code" = 75 ] || [ "$code" -ge 128 ] || { tell "ended with exit code $code; correct what the line above names"; exit "$code"; }
  for _ in $(seq 30); do state=$(shown JobState); [ -n "$state" ] && break; sleep 10; done
  [ "$state" = RUNNING ] || { tell "exit code $code, and Slurm says ${state:-nothing}: not requeued"; exit "$code"; }
  [ ! -s "$jobs/.$name-$id.restarts" ] || read -r total idle memory <"$jobs/.$name-$id.restarts"
  total=$((total + 1))
  if [ -e "$DISTIL_PROGRESS" ]; then
    idle=0
  else # a job that was preempted has a time there, others None, or no such field where nothing is preempted
    case $(shown PreemptTime) in '' | None) idle=$((idle + 1)) ;; esac
  fi
  said 'oom.kill|out of memory' && memory=$((memory + 1))
  echo "$total $idle $memory" >"$jobs/.$name-$id.restarts"
  trap '' TERM # requeue ends this script
  if full; then
    tell "the disk is full: free space for $DISTIL_POOL and $PWD/work, then: scontrol release $id"
    scontrol requeuehold "$id"
    exit 75
  fi
  [ "$memory" -lt 3 ] || { tell "out of memory three times; raise $kind.memory in cluster.yaml, then submit again"; exit 1; }
  [ "$idle" -le 3 ] || { tell "three restarts without a new part or checkpoint; see why in $log"; exit 1; }
  [ "$total" -le 50 ] || { tell "50 restarts; see why in $log, then submit again"; exit 1; }
  pause=$((idle ? 10 * 8 ** idle / 8 : 10)) # 10 s, 80 s, 10 min
  [ "$pause" -le 600 ] || pause=600
  tell "exit code $code: restart $total, in $pause s"
  scontrol requeue "$id" && scontrol update JobId="$id" StartTime="now+$pause"
  exit 75
}
