#!/bin/sh
# Brings up an aarch64 Python on an x86-64 Debian, with qemu and the wheels of uv.lock, and compares its views with this machine's.
#
#   sudo sh bench/aarch64.sh FOLDER [VIEWS]               FOLDER takes 7 GB and is used again
#   LIMIT=36000 sudo -E sh bench/aarch64.sh FOLDER 20000  hours: a CPU that is emulated is 10 to 30 times as slow
#
# It ends after LIMIT seconds, 900 if it is unset, and a step that is cut counts as failed. 2,000 views take about so long on one
# core. The first run in a folder needs 10 minutes more, because it compiles the kernels, with NEON and with SVE.
#
# Compared: decoded pictures and drawn views by both engines, every op, whole levels (bench.proofs.engines); finished views
# under torch, with NEON and with SVE of 256 bits (bench.proofs.replay); the pixel canary with tests/golden.json; the CUDA source
# built for that CPU.
set -eu
folder=$(realpath "$1")
views=${2:-2000}
uv=$(command -v uv || realpath .tools/bin/uv)
here=.venv/bin/python
other=$folder/python

if [ ! -x "$other" ]; then
  dpkg --add-architecture arm64
  apt-get update -qq
  apt-get install -y -qq qemu-user-static g++-aarch64-linux-gnu
  mkdir -p "$folder/packages" "$folder/root/proc" "$folder/root/sys/devices/system/cpu/cpu0/regs/identification"
  (
    cd "$folder/packages"
    for name in python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 \
      libssl3 libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 libreadline8 libtinfo6 libncursesw6 libcrypt1 libgomp1; do
      apt-get download -qq "$name:arm64"
    done
    for package in *.deb; do dpkg -x "$package" "$folder/root"; done
  )
  # torch reads what its CPU is from these files, and crashes where they are an x86-64 machine's.
  for core in $(seq 0 $(($(nproc) - 1))); do
    printf 'processor\t: %s\nFeatures\t: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp\n' "$core"
    printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n\n'
  done > "$folder/root/proc/cpuinfo"
  echo 0x00000000413fd0c1 > "$folder/root/sys/devices/system/cpu/cpu0/regs/identification/midr_el1"
  "$uv" export --frozen --no-emit-project --no-hashes -q > "$folder/requirements.txt"
  "$uv" pip install -q --target "$folder/site" --python-platform aarch64-manylinux_2_28 --python-version 3.11 --no-deps \
    -r "$folder/requirements.txt"
  cat > "$other" << END
#!/bin/sh
export PYTHONPATH=$folder/site PYTHONPYCACHEPREFIX=$folder/compiled PYTHONDONTWRITEBYTECODE= NUMBA_CACHE_DIR=$folder/numba CXX=aarch64-linux-gnu-g++
exec qemu-aarch64-static -L $folder/root $folder/root/usr/bin/python3.11 "\$@"
END
  chmod +x "$other"
fi

failed=0
end=$(($(date +%s) + ${LIMIT:-900}))
# step COMMAND...: runs until the time is up; what fails ends no other step
step() {
  start=$(date +%s)
  timeout --kill-after=5 $((end > start ? end - start : 1)) "$@" || failed=1
  echo "== $(($(date +%s) - start)) s: $*"
}
step "$here" -m bench.proofs.engines --views "$views" --size 64 --other "$other"
step "$other" -m bench.proofs.engines --engine cuda-on-cpu --views "$((views / 2))" --size 32
step "$here" -m bench.proofs.replay --views "$((views / 4))" --size 32 --other "$other"
step "$other" -m pytest -p no:cacheprovider -p no:xdist -o addopts=-q tests/views/test_canary.py -k "version or whole_levels"
step env QEMU_CPU=max,sve-default-vector-length=32 "$here" -m bench.proofs.replay --views "$((views / 10))" --size 64 --other "$other"
exit $failed
