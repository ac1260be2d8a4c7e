// Block programs: the work of one CUDA thread block, written once for the GPU and for the host.
//
// A block program is a function template over its executor, DeviceBlock or HostBlock. It consists of phases, each a
// function of the thread's index, separated by barriers:
//
//     template <class Block>
//     PREIMAGE_HOST_DEVICE void program(Block& block, const Params& params, std::int64_t index, float* shared) {
//         typename Block::template PerThread<float> kept;  // what a thread keeps from phase to phase
//         block.each([&](int thread) { kept[thread] = ...; shared[thread] = ...; });
//         block.barrier();
//         block.each([&](int thread) { ... });
//     }
//
// Within a phase no thread reads what another writes, with the exception of integer sums by `block.add`. On the host
// the phases are loops over the threads in forward, reverse or shuffled order: results that differ reveal a missing
// barrier.
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
    template <class Integer>
    __device__ void add(Integer* sum, Integer value) const {
        atomicAdd(sum, value);
    }
#else  // never called; declared for nvcc's host pass, which compiles the programs too
    template <class Phase>
    void each(const Phase&) const {}
    void barrier() const {}
    template <class Integer>
    void add(Integer*, Integer) const {}
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
    template <class Integer>
    void add(Integer* sum, Integer value) const {
        *sum += value;
    }

private:
    int thread_at(int step) const {
        static_assert((kThreads & (kThreads - 1)) == 0, "the shuffle below needs a power of two");
        switch (order_) {
            case ThreadOrder::forward:
                return step;
            case ThreadOrder::reverse:
                return kThreads - 1 - step;
            default:  // an odd factor permutes the indices below a power of two, differently in every phase
                return (step * (2 * phase_ + 5) + 7 * phase_ + 3) & (kThreads - 1);
        }
    }

    ThreadOrder order_;
    int phase_ = 0;
};

/// Strips of cells, each of which one block walks down.
struct Strips {
    std::int64_t rows;          // cell rows of a strip
    std::int64_t across, down;  // strips of an image
};

/// Return strips `columns` cells wide for a batch of images. Long strips repeat less work at their ends, short ones
/// keep the device busy with few images: they are halved until there are at least `enough`.
inline Strips make_strips(std::int64_t images, std::int64_t cell_rows, std::int64_t cell_columns, std::int64_t columns,
                          std::int64_t enough) {
    const std::int64_t across = (cell_columns + columns - 1) / columns;
    std::int64_t rows = 32;
    while (rows > 2 && images * across * ((cell_rows + rows - 1) / rows) < enough) {
        rows /= 2;
    }
    return {rows, across, (cell_rows + rows - 1) / rows};
}

}  // namespace preimage
