// Independent tasks, and bands of images, on threads that live for one call.
//
// There is no thread pool: nothing outlives the call, so a forked process (a DataLoader worker) inherits no broken
// state, and any number of Python threads may call at the same time. Starting a thread takes about 20 us; callers give
// each one several times that in work.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "common/memory.h"

namespace preimage {

/// Call body(task, worker) for every task in [0, tasks), worker < workers; the caller's thread is worker 0.
/// Tasks start in order, but the result must not depend on which worker runs which.
/// After the first exception no task is started, and it is rethrown here once every thread has ended.
template <class Body>
void parallel_for(std::int64_t tasks, int workers, const Body& body) {
    std::atomic<std::int64_t> next{0};
    std::exception_ptr failure;
    std::mutex failure_lock;
    const auto work = [&](int worker) {
        try {
            for (std::int64_t task = next.fetch_add(1); task < tasks; task = next.fetch_add(1)) {
                body(task, worker);
            }
        } catch (...) {
            next.store(tasks);
            const std::lock_guard<std::mutex> guard(failure_lock);
            if (!failure) {
                failure = std::current_exception();
            }
        }
    };
    std::vector<std::thread> helpers;
    helpers.reserve(static_cast<std::size_t>(workers));
    for (int worker = 1; worker < workers; ++worker) {
        try {
            helpers.emplace_back(work, worker);
        } catch (const std::system_error&) {
            break;  // no more threads are available: those already running share the tasks
        }
    }
    work(0);
    for (std::thread& helper : helpers) {
        helper.join();
    }
    if (failure) {
        std::rethrow_exception(failure);
    }
}

/// Call step(0, row, column) for every element of one image, in parallel: the steps of gradients, which on a GPU are
/// called with the image's number.
template <class Step>
void for_each_element(std::int64_t rows, std::int64_t columns, int workers, const Step& step) {
    constexpr std::int64_t kRows = 8;  // per task
    parallel_for((rows + kRows - 1) / kRows, workers, [&](std::int64_t task, int) {
        for (std::int64_t row = task * kRows; row < std::min(rows, (task + 1) * kRows); ++row) {
            for (std::int64_t column = 0; column < columns; ++column) {
                step(0, row, column);
            }
        }
    });
}

/// How a batch of images is divided: number of threads, and of horizontal bands per image.
struct Split {
    int workers;
    std::int64_t bands;
};

/// Return bands enough for every thread to have work, but none of fewer than `rows_per_band` of the image's `rows` (of
/// pixels, cells or descriptors), because neighboring bands repeat some work at their border.
inline Split split_images(std::int64_t batch, std::int64_t pixels, std::int64_t rows, std::int64_t rows_per_band,
                          int threads) {
    constexpr std::int64_t kPixelsPerThread = 1 << 16;  // at least 0.2 ms of work, several times what a thread costs
    const std::int64_t useful = std::max<std::int64_t>(1, batch * pixels / kPixelsPerThread);
    const std::int64_t allowed = std::clamp<std::int64_t>(threads, 1, useful);
    std::int64_t bands = 1;
    if (allowed > 1 && batch < 4 * allowed) {
        const std::int64_t wanted = batch == 1 ? allowed : (2 * allowed + batch - 1) / batch;
        bands = std::min(std::max<std::int64_t>(rows / rows_per_band, 1), wanted);
    }
    return {static_cast<int>(std::min(allowed, batch * bands)), bands};
}

/// Call body(image, first_row, last_row, memory) for every band of every image, in parallel. `memory` is aligned,
/// `floats` long, and not shared with another thread during the call. `rows` are those of one image: of pixels, cells
/// or descriptors.
template <class Body>
void for_each_band(std::int64_t batch, std::int64_t pixels, std::int64_t rows, std::int64_t rows_per_band, int threads,
                   std::int64_t floats, const Body& body) {
    if (batch == 0) {
        return;
    }
    const Split split = split_images(batch, pixels, rows, rows_per_band, threads);
    const AlignedFloats memory = aligned_floats(floats, split.workers);
    parallel_for(batch * split.bands, split.workers, [&](std::int64_t task, int worker) {
        const std::int64_t part = task % split.bands;
        body(task / split.bands, rows * part / split.bands, rows * (part + 1) / split.bands,
             memory.get() + floats * worker);
    });
}

}  // namespace preimage
