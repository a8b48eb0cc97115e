// Divides the work of draw.cu and digest.cu: on a GPU among the threads of a block, on a CPU by a loop.
//
// The three files are one source. NVRTC compiles it for a GPU (--fmad=false: operations must not be fused), and a C++ compiler for
// a CPU (-ffp-contract=off), so that the bits can be tested without a GPU. On a CPU one block of one thread does everything, so
// kernels must work with any number of blocks.
//
// A kernel works in phases. In a phase, one thread handles each item; it writes only that item's bytes and reads only what
// earlier phases wrote. Sums and histograms add integers, so their order does not matter.

#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#define KERNEL(threads, blocks_per_sm) extern "C" __global__ void __launch_bounds__(threads, blocks_per_sm)
#define SHARED __shared__
#define TABLE __constant__
#define UNROLL _Pragma("unroll")
#else
#include <cstddef>
#define DEVICE static inline
#define KERNEL(threads, blocks_per_sm) extern "C" void
#define SHARED static thread_local
#define TABLE static
#define UNROLL
static const struct { int x; } threadIdx = {0}, blockIdx = {0}, blockDim = {1}, gridDim = {1};
#endif
typedef unsigned char u8;
typedef unsigned long long u64;
typedef long long i64;

#ifdef __CUDACC__
template <class F> DEVICE void each(int n, F f) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) f(i);
    __syncthreads();
}
template <class F> DEVICE u64 sum(u64& total, int n, F f) {
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    u64 own = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) own += f(i);
    atomicAdd(&total, own);
    __syncthreads();
    const u64 found = total;
    __syncthreads();
    return found;
}
DEVICE void count(int* place) { atomicAdd(place, 1); }
#else
static i64 stride_of_each = 1;  // tests set it, to handle the items of a phase in another order
extern "C" void set_stride(i64 stride) { stride_of_each = stride; }
template <class F> DEVICE void each(int n, F f) {
    i64 a = n, b = stride_of_each;
    while (b) { const i64 rest = a % b; a = b; b = rest; }
    const i64 step = a == 1 ? stride_of_each : 1;  // a stride that divides n would leave items out
    for (i64 i = 0; i < n; i++) f((int)(i * step % n));
}
template <class F> DEVICE u64 sum(u64& total, int n, F f) {
    total = 0;
    for (int i = 0; i < n; i++) total += f(i);
    return total;
}
DEVICE void count(int* place) { ++*place; }
#endif
