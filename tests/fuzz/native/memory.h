// Included before all else where the library is compiled for the fuzzer: an encoder's rows lie in the heap, whose ends
// the sanitizers watch, and begin as what is no number, or, for valgrind, as undefined. Whoever takes them for zeros is
// found.
#pragma once
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

namespace {
[[maybe_unused]] void* dirty_pages(void*, size_t bytes, int, int, int, long) {
    void* at = std::aligned_alloc(4096, bytes);
    if (!at) return MAP_FAILED;
#ifndef UNDEFINED
    std::memset(at, 0xff, bytes);
#endif
    return at;
}
[[maybe_unused]] int free_pages(void* at, size_t) {
    std::free(at);
    return 0;
}
}  // namespace

#define mmap dirty_pages
#define munmap free_pages
#define madvise(at, bytes, advice) static_cast<void>(0)
