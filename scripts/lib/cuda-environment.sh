# What a real build for CUDA needs in its environment. Sourced.

. scripts/lib/cuda-toolkit.sh

# cuda_environment FOLDER: fetches the compiler into FOLDER/toolkit, and builds into FOLDER with it.
cuda_environment() {
  fetch_toolkit "$1/toolkit"
  export CARGO_TARGET_DIR=$1 CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90} CUDARC_CUDA_VERSION=13000
  export CUDA_HOME=$1/toolkit CUDAFORGE_HOME=$1/toolkit/cudaforge NVCC=$1/toolkit/wrapped/bin/nvcc
  # Kept apart from cargo's own folders, so that a clean build finds them again.
  export CANDLE_FLASH_ATTN_BUILD_DIR=$1/flash-kernels-$CUDA_COMPUTE_CAP
  mkdir -p "$CANDLE_FLASH_ATTN_BUILD_DIR"
}

# check_entry_points FOLDER: every kernel that the passes launch (tests/cuda/launches.txt) is in the PTX that nvcc made there.
check_entry_points() {
  local module kernel ptx found=0 missing=0
  while read -r module kernel _; do
    case $module in cublas | driver | flash_attention) continue ;; esac
    ptx=$(ls -t "$1"/release/build/*/out/"$module".ptx 2>/dev/null | head -1 || true)
    if [[ -n $ptx ]] && grep -qE "\.entry $kernel\(" "$ptx"; then
      found=$((found + 1))
    else
      echo "the kernel $kernel of $module is not in the PTX of this build (${ptx:-no such module})" >&2
      missing=$((missing + 1))
    fi
  done <tests/cuda/launches.txt
  echo "$found kernels of tests/cuda/launches.txt are in the PTX, $missing are not"
  ((found > 0 && missing == 0))
}
