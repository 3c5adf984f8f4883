# The CUDA compiler as Python packages. Sourced by the scripts that build with it.

# What nvcc needs, and CUTLASS for flash attention. One release of CUDA; the versions belong together.
cuda_packages=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85)
cutlass_package=nvidia-cutlass==3.5.0.0
# The commit of CUTLASS that candle-flash-attn's build script pins; the package has the same headers.
cutlass_commit=7d49e6c7e2f8896c47f586706e67e1fb215529dc

# fetch_toolkit FOLDER: makes FOLDER a CUDA toolkit to build with, unless it is one already.
fetch_toolkit() {
  local root=$1 wheels part
  write_nvcc "$root"
  [[ -e $root/complete ]] && return
  wheels=$(mktemp -d)
  echo "fetching the CUDA compiler (110 MB) into $root"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps -d "$wheels" "${cuda_packages[@]}" "$cutlass_package"
  for part in "$wheels"/*.whl; do
    python3 -m zipfile -e "$part" "$wheels/unpacked"
  done
  cp -r "$wheels"/unpacked/nvidia/cu13/. "$root"
  chmod +x "$root"/bin/* "$root"/bin/crt/* "$root"/nvvm/bin/*
  link_libraries "$root"
  install_cutlass "$root" "$wheels/unpacked/cutlass_library/source/include"
  rm -rf "$wheels"
  touch "$root/complete"
}

# The program loads CUDA's libraries itself (src/kernels/cuda), so nothing of them is linked: archives without a symbol stand
# where the linker looks for them. The runtime of nvcc's launches is linked from its archive.
link_libraries() {
  local root=$1 name
  rm -f "$root"/lib/libcudart.so*
  for name in cuda cublas cublasLt curand nvrtc; do
    printf '!<arch>\n' >"$root/lib/lib$name.a"
  done
  ln -sf libcudart_static.a "$root/lib/libcudart.a"
  ln -sfn lib "$root/lib64"
}

# Puts CUTLASS where candle-flash-attn's build script looks before it clones.
install_cutlass() {
  local checkout=$1/cudaforge/git/checkouts/cutlass-${cutlass_commit:0:16}
  mkdir -p "$checkout"/.git/{objects,refs}
  cp -r "$2" "$checkout/include"
  echo "$cutlass_commit" >"$checkout/.git/HEAD"
}

# An nvcc that keeps what it compiled, so that a build which was ended goes on where it was, and that leaves out flash
# attention's kernels that the program cannot call: in their place it compiles a function of the same name that ends the process.
write_nvcc() {
  mkdir -p "$1/wrapped/bin"
  ln -sfn ../include "$1/wrapped/include"
  ln -sfn ../lib "$1/wrapped/lib64"
  cat >"$1/wrapped/bin/nvcc.new" <<'NVCC'
#!/usr/bin/env bash
set -euo pipefail
real=$(dirname "$(realpath "$0")")/../../bin/nvcc
source= out=
for ((i = 1; i <= $#; i++)); do
  case ${!i} in
    -o) j=$((i + 1)) && out=${!j} ;;
    *.cu) source=${!i} ;;
  esac
done
name=$(basename "$source" .cu)
# Of the paged kernels (splitkv) those of bf16 with heads up to 256 can be called.
if [[ ${RCO_FLASH_KERNELS:-used} == all || $name != flash_fwd_* || $name =~ ^flash_fwd_splitkv_hdim(64|128|256)_bf16_ ]]; then
  [[ -n $out && -f $source ]] || exec "$real" "$@"
  # By what is compiled and how: the arguments, the source, and the headers beside it.
  folder=$(dirname "$source")
  headers=$(find "$folder" \( -name '*.h' -o -name '*.cuh' \) -print0 | sort -z | xargs -0 cat | sha256sum)
  key=$({ "$real" --version && printf '%s\n' "${@//"$out"/}" "$headers" && cat "$source"; } | sha256sum)
  kept=$(dirname "$(realpath "$0")")/../../kept/$name-${key:0:16}
  if [[ ! -e $kept ]]; then
    "$real" "$@"
    mkdir -p "$(dirname "$kept")"
    cp "$out" "$kept.$$" && mv "$kept.$$" "$kept" || rm -f "$kept.$$"
  else
    cp "$kept" "$out"
  fi
  exit
fi
[[ $name =~ ^flash_fwd_(splitkv_)?hdim([0-9]+)_(bf16|fp16)_(causal_)?sm80$ ]]
function=run_mha_fwd_ type=half_t causal=false
[[ -n ${BASH_REMATCH[1]} ]] && function=run_mha_fwd_splitkv_paged_
[[ ${BASH_REMATCH[3]} == bf16 ]] && type=bfloat16_t
[[ -n ${BASH_REMATCH[4]} ]] && causal=true
g++ -std=c++17 -fPIC -x c++ -c -o "$out" - <<CPP
#include <cstdio>
#include <cstdlib>
struct Flash_fwd_params;
struct CUstream_st;
namespace cutlass { struct half_t; struct bfloat16_t; }
template <typename T, int head_dim, bool causal> void $function(Flash_fwd_params &, CUstream_st *);
template <> void $function<cutlass::$type, ${BASH_REMATCH[2]}, $causal>(Flash_fwd_params &, CUstream_st *) {
  std::fputs("flash attention: the kernel $name is not in this build\n", stderr);
  std::abort();
}
CPP
NVCC
  chmod +x "$1/wrapped/bin/nvcc.new"
  cmp -s "$1/wrapped/bin/nvcc.new" "$1/wrapped/bin/nvcc" || mv "$1/wrapped/bin/nvcc.new" "$1/wrapped/bin/nvcc"
  rm -f "$1/wrapped/bin/nvcc.new"
}
