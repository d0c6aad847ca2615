// Threads that wait, without using the processor, until there is something to do together.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "vector.h"

namespace native {

// The calling thread, and size - 1 others, for what goes with any number of them: who comes late, because the processor
// is busy with something else, is not waited for.
class Pool {
public:
    explicit Pool(int size) {
        try {
            for (int i = 1; i < size; i++) threads_.emplace_back([this, i] { serve(i); });
        } catch (...) {
            stop();
            throw;
        }
    }
    ~Pool() { stop(); }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int size() const { return 1 + static_cast<int>(threads_.size()); }

    // work(number of the thread) in this thread, and in those others that begin before it ends here; back when all of
    // them have ended. `work` throws nothing.
    void run(const std::function<void(int)>& work) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            work_ = &work;
            turn_++;
        }
        begin_.notify_all();
        work(0);
        std::unique_lock<std::mutex> lock(mutex_);
        work_ = nullptr;
        done_.wait(lock, [&] { return !running_; });
    }

private:
    void serve(int number) {
        long seen = 0;
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            begin_.wait(lock, [&] { return turn_ != seen || stopped_; });
            if (stopped_) return;
            seen = turn_;
            if (!work_) continue;
            const auto* work = work_;
            running_++;
            lock.unlock();
            (*work)(number);
            lock.lock();
            if (!--running_) done_.notify_one();
        }
    }
    void stop() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            stopped_ = true;
        }
        begin_.notify_all();
        for (auto& thread : threads_) thread.join();
    }

    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable begin_, done_;
    const std::function<void(int)>* work_ = nullptr;
    int running_ = 0;
    long turn_ = 0;
    bool stopped_ = false;
};

// Threads that share one thing, stage by stage: every one calls share() with the same stages in the same order. A
// stage's parts go to whoever is there, and a thread that comes late passes what others have done.
class Team {
public:
    // body(from, until) for parts of [0, n), at most `parts` of them; back when all of the stage is done.
    template <class Body> void share(uint32_t stage, int n, int parts, const Body& body) {
        const uint32_t count = static_cast<uint32_t>(n < parts ? n : parts);   // never 0
        const auto bound = [&](uint32_t part) { return static_cast<int>(static_cast<int64_t>(n) * part / count); };
        const uint64_t begin = static_cast<uint64_t>(stage) << 32;
        uint64_t at = next_.load(std::memory_order_acquire);
        while (at >> 32 == stage && static_cast<uint32_t>(at) < count) {
            if (!next_.compare_exchange_weak(at, at + 1, std::memory_order_acq_rel, std::memory_order_acquire))
                continue;
            const uint32_t part = static_cast<uint32_t>(at);
            body(bound(part), bound(part + 1));
            if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
                done_.store(0, std::memory_order_relaxed);
                next_.store(begin + (uint64_t{1} << 32), std::memory_order_release);
                return;
            }
            at = next_.load(std::memory_order_acquire);
        }
        // The others' parts take some microseconds; longer only if one of them has lost its processor.
        for (int i = 0; next_.load(std::memory_order_acquire) >> 32 == stage; i++) {
            if (i < SPINS) pause(); else std::this_thread::yield();
        }
    }

private:
    static constexpr int SPINS = 5000;

    std::atomic<uint64_t> next_{0};   // the stage, and the part of it that nobody has yet
    std::atomic<uint32_t> done_{0};
};

}  // namespace native
