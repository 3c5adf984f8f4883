// Kernels of the decode pass on a GPU, for what would else take many launches: heads, the gate of the feed-forward, and a
// token drawn from each row of logits. Sums are f32; the draw's are f64, as on the CPU.

#include <stdint.h>
#include "cuda_bf16.h"

// Threads of a block that add or draw together.
constexpr int THREADS = 256;

// Sum over a block of at most 1024 threads, the same in every thread.
template <typename T> static __device__ T block_sum(T value, T *shared) {
  const int thread = threadIdx.x;
  shared[thread] = value;
  __syncthreads();
  int width = blockDim.x;
  while (width > 1) {
    const int half = (width + 1) / 2;
    if (thread + half < width) shared[thread] += shared[thread + half];
    __syncthreads();
    width = half;
  }
  const T sum = shared[0];
  __syncthreads();
  return sum;
}

// Splits each row of `qkv`, (rows, (heads + 2 kv_heads) * head_dim), into heads; normalises queries and keys where `normed`;
// rotates the first 2 `pairs` values of them; writes queries to `q`, (rows, heads, head_dim), and keys and values to their slots
// of the cache, (slots, kv_heads, head_dim) each. A block of head_dim threads for each row and head: grid (rows, heads + 2 kv_heads).
extern "C" __global__ void heads_to_cache(
    const float *qkv, const float *cosines, const float *sines, const uint32_t *slots, const float *q_norm, const float *k_norm,
    __nv_bfloat16 *q, __nv_bfloat16 *keys, __nv_bfloat16 *values, const float epsilon, const uint32_t heads,
    const uint32_t kv_heads, const uint32_t head_dim, const uint32_t pairs, const uint32_t normed) {
  extern __shared__ float shared[];  // (2, head_dim)
  float *row_of_head = shared, *sums = shared + head_dim;
  const uint32_t row = blockIdx.x, head = blockIdx.y, at = threadIdx.x;
  const uint32_t all = heads + 2 * kv_heads;
  float x = qkv[((size_t)row * all + head) * head_dim + at];
  if (head < heads + kv_heads) {
    if (normed) {
      const float square = block_sum(x * x, sums);
      const float *weight = head < heads ? q_norm : k_norm;
      x = x / sqrtf(square / head_dim + epsilon) * weight[at];
    }
    row_of_head[at] = x;
    __syncthreads();
    if (at < 2 * pairs) {
      const uint32_t pair = at < pairs ? at : at - pairs;
      const float cosine = cosines[(size_t)row * pairs + pair], sine = sines[(size_t)row * pairs + pair];
      x = at < pairs ? x * cosine - row_of_head[at + pairs] * sine : x * cosine + row_of_head[at - pairs] * sine;
    }
  }
  const __nv_bfloat16 value = __float2bfloat16(x);
  if (head < heads) {
    q[((size_t)row * heads + head) * head_dim + at] = value;
  } else if (head < heads + kv_heads) {
    keys[((size_t)slots[row] * kv_heads + head - heads) * head_dim + at] = value;
  } else {
    values[((size_t)slots[row] * kv_heads + head - heads - kv_heads) * head_dim + at] = value;
  }
}

// activation(gate) * up, where a row of `gate_up` is `width` gates, then `width` ups: x sigmoid(a x + b x^3), which is SiLU for a = 1
// and b = 0, and GELU by its tanh for others.
extern "C" __global__ void gated(
    const float *gate_up, float *out, const uint32_t rows, const uint32_t width, const float a, const float b) {
  const size_t count = (size_t)rows * width;
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
    const size_t row = i / width, column = i % width;
    const float gate = gate_up[row * 2 * width + column], up = gate_up[row * 2 * width + width + column];
    out[i] = gate / (1.0f + expf(-(a * gate + b * gate * gate * gate))) * up;
  }
}

// What lies above a weight: how many ids, and their mass.
struct Above {
  double count, mass;
};

// Weights of a row relative to its likeliest id. Where the order of ids counts, each thread of a block has a run of them.
struct Row {
  const float *logits;
  float largest, inverse;
  uint32_t first, end, vocab;

  __device__ float weight(uint32_t id) const { return expf((logits[id] - largest) * inverse); }

  // What lies above `floor`, the same in every thread.
  __device__ Above above(float floor, double *shared) const {
    double count = 0.0, mass = 0.0;
    for (uint32_t id = threadIdx.x; id < vocab; id += THREADS) {
      const float w = weight(id);
      if (w > floor) count += 1.0, mass += (double)w;
    }
    const double all = block_sum(count, shared);
    return {all, block_sum(mass, shared)};
  }

  // The largest weight such that it and all above it come to `enough`, by count or by mass: weights lie in [0, 1], where the
  // order of their bits is theirs. `over` becomes what lies above it.
  __device__ float last(bool by_mass, double enough, double *shared, Above &over) const {
    uint32_t low = 0, high = __float_as_uint(1.0f) + 1;
    while (high - low > 1) {
      const uint32_t middle = low + (high - low) / 2;
      // At least `middle`: above the next lower float.
      const Above reached = above(__uint_as_float(middle - 1), shared);
      if ((by_mass ? reached.mass : reached.count) >= enough) low = middle; else high = middle;
    }
    over = above(__uint_as_float(low), shared);
    return __uint_as_float(low);
  }

  // The `ties`-th id that weighs `w`, or the largest id there can be where there are fewer.
  __device__ uint32_t tie(float w, double ties, double *shared, uint32_t *found) const {
    double own = 0.0;
    for (uint32_t id = first; id < end; id++) own += weight(id) == w;
    shared[threadIdx.x] = own;
    if (threadIdx.x == 0) *found = 0xffffffffu;
    __syncthreads();
    double before = 0.0;
    for (int i = 0; i < (int)threadIdx.x; i++) before += shared[i];
    if (own > 0.0 && before < ties && before + own >= ties) {
      double seen = before;
      for (uint32_t id = first; id < end; id++) {
        if (weight(id) != w) continue;
        seen += 1.0;
        if (seen >= ties) {
          *found = id;
          break;
        }
      }
    }
    __syncthreads();
    const uint32_t id = *found;
    __syncthreads();
    return id;
  }
};

// How a row is sampled; the same as RowSampling in cuda.rs. inverse_temperature 0 is greedy, top_k 0 and top_p 1 cut nothing.
struct Sampling {
  double uniform;
  float inverse_temperature, top_p, min_p;
  uint32_t row, top_k;
};

// Draws a token for each of `samplings` from its row of `logits`, (rows, vocab): the lowest of the likeliest where it is greedy, else by
// inverse CDF over ids in order, of what top-k, then top-p over what top-k kept, then min-p leave. Writes the id, or vocab where
// the row is no distribution, and its log-probability under the distribution drawn from. A block of THREADS threads each.
extern "C" __global__ void draw_tokens(
    const float *logits, const Sampling *samplings, uint32_t *ids, float *log_probs, const uint32_t vocab) {
  __shared__ double sums[THREADS];
  __shared__ float tops[THREADS];
  __shared__ double before, total;
  __shared__ float largest;
  __shared__ int owner, bad;
  __shared__ uint32_t found_tie;
  const int thread = threadIdx.x;
  const Sampling sampling = samplings[blockIdx.x];
  const bool greedy = sampling.inverse_temperature == 0.0f;
  const uint32_t run = (vocab + THREADS - 1) / THREADS, first = min(vocab, run * thread);
  Row row = {logits + (size_t)sampling.row * vocab, 0.0f, greedy ? 1.0f : sampling.inverse_temperature, first, min(vocab, first + run), vocab};

  float top = -INFINITY;
  bool is_number = true;
  for (uint32_t id = row.first; id < row.end; id++) {
    is_number = is_number && row.logits[id] < INFINITY;  // false for NaN too
    top = fmaxf(top, row.logits[id]);
  }
  tops[thread] = top;
  sums[thread] = is_number ? 0.0 : 1.0;
  __syncthreads();
  if (thread == 0) {
    largest = -INFINITY, bad = 0;
    for (int i = 0; i < THREADS; i++) {
      largest = fmaxf(largest, tops[i]);
      bad += sums[i] != 0.0;
    }
    bad += largest == -INFINITY;
  }
  __syncthreads();
  if (bad != 0) {
    if (thread == 0) ids[blockIdx.x] = vocab, log_probs[blockIdx.x] = 0.0f;
    return;
  }
  row.largest = largest;

  // The least likely id that stays: what weighs more stays too, and of its equals those of lower ids.
  float floor = -1.0f;
  uint32_t floor_id = 0xffffffffu;
  if (!greedy) {
    floor = sampling.min_p > 0.0f ? sampling.min_p : -1.0f;
    double mass = -1.0;
    if (sampling.top_k > 0 && sampling.top_k < vocab) {
      Above over;
      const float weight = row.last(false, sampling.top_k, sums, over);
      const double ties = sampling.top_k - over.count;
      const uint32_t id = row.tie(weight, ties, sums, &found_tie);
      if (weight > floor || (weight == floor && id < floor_id)) floor = weight, floor_id = id;
      mass = over.mass + ties * (double)weight;
    }
    if (sampling.top_p < 1.0f) {
      if (mass < 0.0) mass = row.above(-1.0f, sums).mass;
      const double enough = (double)sampling.top_p * mass;
      Above over;
      const float weight = row.last(true, enough, sums, over);
      const double ties = fmax(1.0, ceil((enough - over.mass) / (double)weight));
      const uint32_t id = row.tie(weight, ties, sums, &found_tie);
      if (weight > floor || (weight == floor && id < floor_id)) floor = weight, floor_id = id;
    }
  }
  double sum = 0.0;
  for (uint32_t id = row.first; id < row.end; id++) {
    const float weight = row.weight(id);
    if (weight > floor || (weight == floor && id <= floor_id)) sum += (double)weight;
  }
  sums[thread] = sum;
  __syncthreads();
  if (thread == 0) {
    total = 0.0;
    for (int i = 0; i < THREADS; i++) total += sums[i];
    const double target = sampling.uniform * total;
    double seen = 0.0;
    owner = 0, before = 0.0;
    for (int i = 0; i < THREADS; i++) {
      if (greedy) {
        owner = i;
        if (tops[i] == largest) break;
      } else if (sums[i] > 0.0) {
        owner = i, before = seen;
        seen += sums[i];
        if (seen > target) break;
      }
    }
  }
  __syncthreads();
  if (thread != owner) return;
  uint32_t found = row.first;
  double seen = before;
  const double target = sampling.uniform * total;
  for (uint32_t id = row.first; id < row.end; id++) {
    if (greedy) {
      found = id;
      if (row.logits[id] == largest) break;
      continue;
    }
    const float weight = row.weight(id);
    if (!(weight > floor || (weight == floor && id <= floor_id)) || weight <= 0.0f) continue;
    found = id;
    seen += (double)weight;
    if (seen > target) break;
  }
  ids[blockIdx.x] = found;
  log_probs[blockIdx.x] = (float)((double)((row.logits[found] - largest) * row.inverse) - log(total));
}
