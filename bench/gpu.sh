#!/bin/sh
# All that only a GPU can say about drawing on it, in at most eight minutes. Each row has a cap of its own, which add up to that: a
# row that fails or is cut ends no other, and its table so far is printed.
#
#   sh bench/gpu.sh [FOLDER]                  what each row printed goes to FOLDER, work/gpu if it is not given
#   ENGINE=cuda-on-cpu SMALL=1 sh bench/gpu.sh        that the script runs, without a GPU; its figures mean nothing
set -u
out=${1:-work/gpu}
engine=${ENGINE:-cuda}
small=${SMALL:-}
python=${PYTHON:-.venv/bin/python}
failed=0
mkdir -p "$out"

# row SECONDS NAME COMMAND...
row() {
  seconds=$1 name=$2
  shift 2
  [ -z "$small" ] || seconds=$((10 * seconds))  # a CPU does the GPU's work
  if timeout --kill-after=5 "$seconds" "$@" > "$out/$name.txt" 2>&1; then code=0; else code=$? failed=1; fi
  [ $code != 124 ] || code="124, cut after $seconds s"
  echo "== $name: exit code $code"
  grep "^|" "$out/$name.txt"
  grep -v "^|" "$out/$name.txt" | tail -n 10
}

if [ -n "$small" ]; then
  views=2000 sizes="--samples 64 --size 32 --batch 16 --steps 2 --sizes Ti --workers 1" few="--samples 32 --size 32" size=32
  teacher="--arch test_byobnet --samples 64 --size 32 --workers 1" steps="--steps 8 --views 6 --samples 349 --epochs 0"
  cached="--pairs 2 --size 32 --batch 16 --block 16 --sizes Ti --teachers test_byobnet"
else
  views=100000 sizes="--samples 1024 --steps 10 --workers 4,2,8,15" few="" size=48 teacher="--samples 512 --workers 4" steps="--steps 80"
  cached="--size 224 --batch 128 --block 128 --teachers regnety_160 --precision bf16 --pairs 20"
fi

# Words that hold several arguments are split on purpose.
# shellcheck disable=SC2086
{
  export CUBLAS_WORKSPACE_CONFIG=:4096:8 PYTHONUNBUFFERED=1
  row 60 cores "$python" -m bench.measure.cores
  row 60 bits "$python" -m bench.proofs.engines --engine "$engine" --views $views --size $size
  if command -v compute-sanitizer > /dev/null; then
    row 25 races compute-sanitizer --tool racecheck --error-exitcode 1 "$python" -m bench.proofs.engines --engine "$engine" --views 200 --size 32
  else
    echo "== races: left out, there is no compute-sanitizer"
  fi
  row 20 draw env DISTIL_ENGINE="$engine" "$python" -m bench.measure.device draw $few
  row 25 loader "$python" -m bench.measure.device loader --engines "kernels,$engine" $sizes
  row 25 loader_256 "$python" -m bench.measure.device loader --engines "kernels,$engine" --resize 256 $sizes
  row 55 fed "$python" -m bench.measure.device fed --engines "$engine,kernels" $sizes
  row 35 fed_256 "$python" -m bench.measure.device fed --engines "$engine,kernels" --resize 256 $sizes
  row 35 fed_compiled "$python" -m bench.measure.device fed --engines "$engine" --compiled $sizes
  row 35 step env DISTIL_ENGINE="$engine" "$python" -m bench.measure.train_step $cached
  row 20 label env DISTIL_ENGINE="$engine" "$python" -m bench.measure.device label $teacher
  row 65 parity env DISTIL_ENGINE="$engine" "$python" -m bench.proofs.parity $steps
  row 20 exchange "$python" -m pytest -p no:xdist -o addopts=-q tests/views/test_places.py -k "one_engine or the_cpu_draws"
}
exit $failed
