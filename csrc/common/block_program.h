// The executors of block programs: one source for a block's work, on the GPU and on the host.
//
// A block program is a function template over its executor. It is made of phases, each a function of the thread's
// number, with barriers between:
//
//     template <class Block>
//     PREIMAGE_HOST_DEVICE void program(Block& block, const Params& params, std::int64_t index, float* shared) {
//         typename Block::template PerThread<float> kept;  // what a thread keeps from phase to phase
//         block.each([&](int thread) { kept[thread] = ...; shared[thread] = ...; });
//         block.barrier();
//         block.each([&](int thread) { ... });
//     }
//
// Inside a phase a thread reads nothing that another writes; sums of integers by `block.add` are the exception. On
// the host the phases are loops, in forward, reverse or shuffled order: results that differ show a missing barrier.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace preimage {

#ifdef __CUDACC__

template <int kThreads>
struct DeviceBlock {
    static constexpr int threads = kThreads;

    template <class T>
    struct PerThread {
        T value;
        PREIMAGE_HOST_DEVICE T& operator[](int) { return value; }
    };

#ifdef __CUDA_ARCH__
    template <class Phase>
    __device__ void each(const Phase& phase) const {
        phase(static_cast<int>(threadIdx.x));
    }
    __device__ void barrier() const { __syncthreads(); }
    __device__ void add(std::int32_t* sum, std::int32_t value) const { atomicAdd(sum, value); }
#else  // never called; there so that programs for host and device compile in nvcc's pass for the host
    template <class Phase>
    void each(const Phase&) const {}
    void barrier() const {}
    void add(std::int32_t*, std::int32_t) const {}
#endif
};

#endif

enum class ThreadOrder { forward, reverse, shuffled };

template <int kThreads>
struct HostBlock {
    static constexpr int threads = kThreads;

    template <class T>
    struct PerThread {
        T values[kThreads];
        T& operator[](int thread) { return values[thread]; }
    };

    explicit HostBlock(ThreadOrder order) : order_(order) {}

    template <class Phase>
    void each(const Phase& phase) {
        for (int step = 0; step < kThreads; ++step) {
            phase(thread_at(step));
        }
    }
    void barrier() { ++phase_; }
    void add(std::int32_t* sum, std::int32_t value) const { *sum += value; }

private:
    int thread_at(int step) const {
        static_assert((kThreads & (kThreads - 1)) == 0, "the shuffle below wants a power of two");
        switch (order_) {
            case ThreadOrder::forward:
                return step;
            case ThreadOrder::reverse:
                return kThreads - 1 - step;
            default:  // an odd factor permutes the numbers below a power of two, another way in every phase
                return (step * (2 * phase_ + 5) + 7 * phase_ + 3) & (kThreads - 1);
        }
    }

    ThreadOrder order_;
    int phase_ = 0;
};

}  // namespace preimage
