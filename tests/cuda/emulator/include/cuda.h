// Kernels ask this header for the version only.
#pragma once
#define CUDA_VERSION 13000
