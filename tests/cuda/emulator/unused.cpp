// Stands for a library of CUDA that a program links and never calls.
#include "emulator.h"
