// AMX: eight tiles of 16 rows of 64 bytes, and products of two of them. Also in plain C++, slowly, for tests on any
// machine.
//
// A tile is named by a literal number, as the instructions want it. Source: Intel, "Architecture Instruction Set
// Extensions Programming Reference", chapter 3.
#pragma once
#include <cstdint>
#include <cstring>

#include "vector.h"

namespace native {

#if defined(NATIVE_TILES) && !defined(NATIVE_EMULATED)

// What the compiler may not move over a product: it does not know that tiles read memory.
#define TILE_FENCE() asm volatile("" ::: "memory")
#define TILE_ZERO(t) asm volatile("tilezero %%tmm" #t ::)
#define TILE_LOAD(t, from, stride) \
    asm volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(from), "r"(static_cast<long>(stride)))
// What is read once leaves what is read often in the first-level cache: 15 to 20 % of a product's time.
#define TILE_LOAD_ONCE(t, from, stride) \
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm" #t ::"r"(from), "r"(static_cast<long>(stride)))
#define TILE_STORE(t, to, stride) \
    asm volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(to), "r"(static_cast<long>(stride)) : "memory")
#define TILE_DOT_BF16(c, a, b) asm volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)
#define TILE_DOT_U8(c, a, b) asm volatile("tdpbusd %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

// All tiles with 16 rows of 64 bytes, for this thread.
INLINE void configure_tiles() {
    struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } config{};
    config.palette = 1;
    for (int t = 0; t < 8; t++) config.bytes[t] = 64, config.rows[t] = 16;
    asm volatile("ldtilecfg %0" ::"m"(config));
}
// Gives the registers back: a thread that holds any is slower to switch from.
INLINE void release_tiles() { asm volatile("tilerelease" ::); }

#elif defined(NATIVE_TILES)

struct Tile { uint8_t bytes[16][64]; };
static thread_local Tile TILES[8];

#define TILE_FENCE()
#define TILE_ZERO(t) std::memset(&TILES[t], 0, sizeof(Tile))
#define TILE_LOAD(t, from, stride) load_tile(TILES[t], from, stride)
#define TILE_LOAD_ONCE(t, from, stride) load_tile(TILES[t], from, stride)
#define TILE_STORE(t, to, stride) store_tile(TILES[t], to, stride)
#define TILE_DOT_BF16(c, a, b) dot_bf16(TILES[c], TILES[a], TILES[b])
#define TILE_DOT_U8(c, a, b) dot_u8(TILES[c], TILES[a], TILES[b])

INLINE void load_tile(Tile& tile, const void* from, size_t stride) {
    for (int r = 0; r < 16; r++) std::memcpy(tile.bytes[r], static_cast<const uint8_t*>(from) + r * stride, 64);
}
INLINE void store_tile(const Tile& tile, void* to, size_t stride) {
    for (int r = 0; r < 16; r++) std::memcpy(static_cast<uint8_t*>(to) + r * stride, tile.bytes[r], 64);
}
static float widened(uint16_t half) {
    const uint32_t u = static_cast<uint32_t>(half) << 16;
    float a;
    std::memcpy(&a, &u, 4);
    return a;
}
static void dot_bf16(Tile& c, const Tile& a, const Tile& b) {
    for (int r = 0; r < 16; r++) for (int n = 0; n < 16; n++) {
        float total;
        std::memcpy(&total, c.bytes[r] + 4 * n, 4);
        for (int k = 0; k < 16; k++) {
            uint16_t left[2], right[2];
            std::memcpy(left, a.bytes[r] + 4 * k, 4);
            std::memcpy(right, b.bytes[k] + 4 * n, 4);
            total += widened(left[0]) * widened(right[0]);
            total += widened(left[1]) * widened(right[1]);
        }
        std::memcpy(c.bytes[r] + 4 * n, &total, 4);
    }
}
static void dot_u8(Tile& c, const Tile& a, const Tile& b) {
    for (int r = 0; r < 16; r++) for (int n = 0; n < 16; n++) {
        int32_t total;
        std::memcpy(&total, c.bytes[r] + 4 * n, 4);
        for (int k = 0; k < 64; k++)
            total += a.bytes[r][k] * static_cast<int8_t>(b.bytes[k / 4][4 * n + k % 4]);
        std::memcpy(c.bytes[r] + 4 * n, &total, 4);
    }
}
INLINE void configure_tiles() {}
INLINE void release_tiles() {}

#else

INLINE void configure_tiles() {}
INLINE void release_tiles() {}

#endif

}  // namespace native
