// Independent tasks on a few threads that live for one call.
//
// No pool: nothing survives the call, so a fork (DataLoader workers) finds no broken state, and any number of
// Python threads may call at once. Starting a thread costs about 20 us; callers give each one at least several
// times that in work.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace preimage {

/// Calls body(task, worker) for every task in [0, tasks), worker < workers; the caller's thread is worker 0.
/// Tasks are handed out in order, so the result must not depend on who runs which.
/// The first exception stops the handing out and is thrown again here, after every thread has ended.
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
            break;  // no more threads to be had: those that run share the tasks
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

/// How a batch of images is shared out: `bands` horizontal parts an image, and threads.
struct Split {
    int workers;
    std::int64_t bands;
};

/// Bands per image: enough for every thread to have work, and none smaller than `rows_per_band` of the image's
/// `rows` (of cells, of frames), because neighbouring bands repeat some work at their border.
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

}  // namespace preimage
