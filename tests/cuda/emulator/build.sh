#!/usr/bin/env bash
# Builds the emulator: build.sh FOLDER CANDLE_KERNELS. Libraries go to FOLDER/lib, and so does the archive that flash
# attention's place is linked from. What is there already and was built from the same sources is kept.
set -euo pipefail
out=$(realpath -m "$1") kernels=$(realpath "$2")/src
cd "$(dirname "$0")"
mkdir -p "$out"/{lib,objects,modules}
modules="affine binary cast fill indexing reduce sort ternary unary decode"
own=$PWD/../../../src/transformer/dense/cuda
flags="-std=c++17 -O1 -g1 -fPIC -fvisibility=hidden -Wall -Wextra -Iinclude -I."

# Runs a command unless its output's inputs are as they were: cached OUTPUT INPUT... -- COMMAND...
cached() {
  local output=$1 inputs=() hash
  shift
  while [ "$1" != -- ]; do inputs+=("$1") && shift; done
  shift
  hash=$( { echo "$flags" "$@" && { declare -f "$1" || true; } && cat "${inputs[@]}"; } | sha256sum)
  if [ ! -e "$output" ] || [ "$(cat "$output.inputs" 2>/dev/null)" != "$hash" ]; then
    "$@"
    echo "$hash" >"$output.inputs"
  fi
}

# Where a module's source is: candle's, or ours.
source_of() {
  if [ -e "$own/$1.cu" ]; then echo "$own/$1.cu"; else echo "$kernels/$1.cu"; fi
}

# A kernel's source is included in a namespace of its own, because all modules define the same helpers. Its kernels' names
# are where the preprocessed text defines them.
module() {
  local name=$1 barriers=false source=$out/modules/$1.cu names
  case $name in reduce | sort | decode) barriers=true ;; esac
  sed -E 's/extern __shared__ (\w+) (\w+)\[\];/\1 *\2 = static_cast<\1 *>(emulated::dynamic_shared());/' \
    "$(source_of "$name")" >"$source"
  names=$(g++ $flags -I"$kernels" -D__global__=EMULATED_KERNEL -E -P -x c++ "$source" 2>/dev/null | tr '\n' ' ' |
    grep -oE 'extern "C" EMULATED_KERNEL +void +\w+' | sed 's/.* //')
  {
    printf '#include "device.h"\n#include "cuda.h"\n#include "cuda_bf16.h"\n#include "cuda_fp8.h"\n#include "cuda/std/limits"\n'
    printf '#include "kernel.h"\nnamespace kernels_%s {\n#include "%s"\n}\nnamespace kernels = kernels_%s;\n' "$name" "$source" "$name"
    printf 'MODULE("%s", %s,\n%s)\n' "$name" "$barriers" "$(sed 's/.*/KERNEL(&)/' <<<"$names")"
  } >"$out/modules/$name.cpp"
  # The kernels' own style brings warnings; nobody would read them here.
  g++ $flags -w -I"$kernels" -c "$out/modules/$name.cpp" -o "$out/objects/$name.o"
}

for name in $modules; do
  cached "$out/objects/$name.o" kernel.h emulator.h include/*.h "$(source_of $name)" "$kernels"/*.cuh -- module "$name"
done
for name in memory launches blocks driver modules; do
  cached "$out/objects/$name.o" ./*.h include/device.h $name.cpp -- g++ $flags -O2 -c $name.cpp -o "$out/objects/$name.o"
done
objects=$(printf "$out/objects/%s.o " $modules memory launches blocks driver modules)
# shellcheck disable=SC2086
cached "$out/lib/libcuda.so.1" $objects -- \
  g++ -shared -pthread -Wl,-z,defs -Wl,-soname,libcuda.so.1 $objects -o "$out/lib/libcuda.so.1"

# The other libraries ask the driver about memory.
library() {
  cached "$out/lib/$1" emulator.h include/*.h "$2" -- \
    g++ $flags -shared -Wl,-z,defs -Wl,-soname,"$1" "$2" "$out/lib/libcuda.so.1" -o "$out/lib/$1"
}
library libcublas.so.13 blas.cpp
library libcurand.so.10 random.cpp
library libcublasLt.so.13 unused.cpp
# What the crates link into the program: flash attention, and the kernels for quantised weights, which nothing here calls.
cached "$out/lib/libflashattention_emulated.so" include/*.h flash.cpp -- \
  g++ $flags -fvisibility=default -shared -Wl,-z,defs -Wl,-soname,libflashattention_emulated.so flash.cpp \
  -o "$out/lib/libflashattention_emulated.so"
{
  printf '#include <cstdio>\n#include <cstdlib>\n'
  grep -oE 'pub fn \w+' "$kernels/ffi.rs" | sed 's/pub fn //' | while read -r name; do
    printf 'extern "C" void %s() { fputs("%s: not emulated\\n", stderr), abort(); }\n' "$name" "$name"
  done
} >"$out/modules/moe.cpp"
cached "$out/lib/libmoe_emulated.so" "$out/modules/moe.cpp" -- \
  g++ $flags -fvisibility=default -shared -Wl,-soname,libmoe_emulated.so "$out/modules/moe.cpp" -o "$out/lib/libmoe_emulated.so"

# What is built must work by itself, and notice what it must notice.
tested="$out/lib/libcuda.so.1 $out/lib/libcublas.so.13 $out/lib/libflashattention_emulated.so"
selftest() {
  local misuse
  g++ $flags selftest.cpp $tested -Wl,-rpath,"$out/lib" -o "$out/selftest"
  "$out/selftest"
  for misuse in freed-twice copied-too-much no-such-page; do
    # In a shell of its own, whose word about the abort goes to the log.
    if bash -c 'ulimit -c 0 && "$0" "$1"; exit $?' "$out/selftest" $misuse >"$out/selftest.log" 2>&1 || ! grep -qE '^(emulated CUDA|flash attention): ' "$out/selftest.log"; then
      echo "selftest: $misuse went unnoticed" && rm -f "$out/selftest" && exit 1
    fi
  done
}
# shellcheck disable=SC2086
cached "$out/selftest" emulator.h include/*.h selftest.cpp $tested -- selftest
