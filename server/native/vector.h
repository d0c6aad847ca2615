// Sixteen floats, and what an encoder does with them: by AVX-512's instructions, or in plain C++ on any machine.
//
// The same operations give results that differ in last bits between the two forms (plain C++ does not fuse a product
// and a sum); within one form a result never depends on what is computed beside it.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
// gcc warns of its own headers: https://gcc.gnu.org/bugzilla/show_bug.cgi?id=105593.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

// Tests with sanitizers define both as less, or else they take minutes to compile.
#ifndef INLINE
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#endif

namespace native {

constexpr int LANES = 16;

#ifdef __AVX512F__

struct Vector { __m512 x; };

INLINE Vector all(float a) { return {_mm512_set1_ps(a)}; }
INLINE Vector load(const float* from) { return {_mm512_loadu_ps(from)}; }
INLINE void store(float* to, Vector a) { _mm512_storeu_ps(to, a.x); }
// The first n lanes, 0 to 16; the others are 0, and memory beyond is not touched.
INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
INLINE Vector load_first(const float* from, int n) { return {_mm512_maskz_loadu_ps(first(n), from)}; }
INLINE void store_first(float* to, Vector a, int n) { _mm512_mask_storeu_ps(to, first(n), a.x); }
INLINE Vector keep_first(Vector a, int n) { return {_mm512_maskz_mov_ps(first(n), a.x)}; }
// a where lane >= n, else b.
INLINE Vector after_first(Vector a, Vector b, int n) { return {_mm512_mask_mov_ps(a.x, first(n), b.x)}; }

INLINE Vector operator+(Vector a, Vector b) { return {_mm512_add_ps(a.x, b.x)}; }
INLINE Vector operator-(Vector a, Vector b) { return {_mm512_sub_ps(a.x, b.x)}; }
INLINE Vector operator*(Vector a, Vector b) { return {_mm512_mul_ps(a.x, b.x)}; }
INLINE Vector operator/(Vector a, Vector b) { return {_mm512_div_ps(a.x, b.x)}; }
INLINE Vector fma(Vector a, Vector b, Vector c) { return {_mm512_fmadd_ps(a.x, b.x, c.x)}; }  // a * b + c
// Of two numbers of which one is none (NaN), these give the second.
INLINE Vector max(Vector a, Vector b) { return {_mm512_max_ps(a.x, b.x)}; }
INLINE Vector min(Vector a, Vector b) { return {_mm512_min_ps(a.x, b.x)}; }
INLINE Vector abs(Vector a) { return {_mm512_abs_ps(a.x)}; }
// a with its sign turned where b is negative.
INLINE Vector flip_sign(Vector a, Vector b) {
    const __m512i sign = _mm512_and_si512(_mm512_castps_si512(b.x), _mm512_set1_epi32(INT32_MIN));
    return {_mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a.x), sign))};
}
INLINE float sum(Vector a) { return _mm512_reduce_add_ps(a.x); }
INLINE float largest(Vector a) { return _mm512_reduce_max_ps(a.x); }
INLINE float least(Vector a) { return _mm512_reduce_min_ps(a.x); }

// table[i], i being the low five bits of a number that :func:`rounded` gave.
INLINE Vector look_up(const float table[32], Vector i) {
    return {_mm512_permutex2var_ps(_mm512_loadu_ps(table), _mm512_castps_si512(i.x), _mm512_loadu_ps(table + 16))};
}
// a * 2^n, n being a whole number from -126 to 127. Of what is no number comes none.
INLINE Vector times_power(Vector a, Vector n) { return {_mm512_scalef_ps(a.x, n.x)}; }

INLINE Vector from_int(const int32_t* from) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(from))}; }
INLINE Vector from_int(const float* from) { return load(from); }
INLINE void store_u8(uint8_t* to, Vector a) {  // rounded, and kept within 0 to 255
    const __m512i n = _mm512_max_epi32(_mm512_cvtps_epi32(a.x), _mm512_setzero_si512());
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8(n));
}
INLINE void store_i16(int16_t* to, Vector a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(a.x)));
}

// bfloat16, rounded to the nearest, a tie to the even one.
INLINE void store_bf16(uint16_t* to, Vector a, Vector b) {
#ifdef __AVX512BF16__
    const auto both = _mm512_cvtne2ps_pbh(b.x, a.x);
    std::memcpy(to, &both, 64);
#else
    const auto half = [](__m512 v) {
        const __m512i u = _mm512_castps_si512(v), one = _mm512_set1_epi32(1);
        const __m512i up = _mm512_add_epi32(_mm512_and_si512(_mm512_srli_epi32(u, 16), one), _mm512_set1_epi32(0x7fff));
        return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_add_epi32(u, up), 16));
    };
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), half(a.x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 16), half(b.x));
#endif
}
INLINE Vector load_bf16(const uint16_t* from) {
    const __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(u, 16))};
}

// Sixteen rows of 16 numbers of 32 bits, `from` bytes apart, turned into columns, `to` bytes apart.
INLINE void transpose(const uint8_t* from, size_t from_stride, uint8_t* to, size_t to_stride) {
    __m512i r[16], t[16];
    UNROLL for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(from + i * from_stride);
    UNROLL for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        _mm512_storeu_si512(to + i * to_stride, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
        _mm512_storeu_si512(to + (i + 4) * to_stride, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88));
        _mm512_storeu_si512(to + (i + 8) * to_stride, _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
        _mm512_storeu_si512(to + (i + 12) * to_stride, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd));
    }
}

// Two rows of 32 numbers of 16 bits, one of each in turn; no row: zeros.
INLINE void interleave(const uint8_t* a, const uint8_t* b, uint8_t* to) {
    const auto half = [](const uint8_t* row, int at) {
        return row ? _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + at)))
                   : _mm512_setzero_si512();
    };
    for (int at = 0; at < 64; at += 32)
        _mm512_storeu_si512(to + 2 * at, _mm512_or_si512(half(a, at), _mm512_slli_epi32(half(b, at), 16)));
}

// Numbers too small for fp32's usual form are 0 while it lives, as elsewhere: they would take a hundred times as long.
class FlushToZero {
public:
    FlushToZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
    ~FlushToZero() { _mm_setcsr(before_); }
private:
    unsigned before_;
};

INLINE void prefetch(const void* line) { _mm_prefetch(static_cast<const char*>(line), _MM_HINT_T1); }
INLINE void pause() { _mm_pause(); }

#else  // plain C++

struct Vector { float x[LANES]; };

#define EACH_LANE(expression) \
    Vector result; \
    for (int i = 0; i < LANES; i++) result.x[i] = (expression); \
    return result

INLINE Vector all(float a) { EACH_LANE(a); }
INLINE Vector load(const float* from) { Vector a; std::memcpy(a.x, from, sizeof a.x); return a; }
INLINE void store(float* to, Vector a) { std::memcpy(to, a.x, sizeof a.x); }
INLINE Vector load_first(const float* from, int n) { EACH_LANE(i < n ? from[i] : 0); }
INLINE void store_first(float* to, Vector a, int n) { std::memcpy(to, a.x, n * sizeof(float)); }
INLINE Vector keep_first(Vector a, int n) { EACH_LANE(i < n ? a.x[i] : 0); }
INLINE Vector after_first(Vector a, Vector b, int n) { EACH_LANE(i < n ? b.x[i] : a.x[i]); }

INLINE Vector operator+(Vector a, Vector b) { EACH_LANE(a.x[i] + b.x[i]); }
INLINE Vector operator-(Vector a, Vector b) { EACH_LANE(a.x[i] - b.x[i]); }
INLINE Vector operator*(Vector a, Vector b) { EACH_LANE(a.x[i] * b.x[i]); }
INLINE Vector operator/(Vector a, Vector b) { EACH_LANE(a.x[i] / b.x[i]); }
INLINE Vector fma(Vector a, Vector b, Vector c) { EACH_LANE(a.x[i] * b.x[i] + c.x[i]); }
INLINE Vector max(Vector a, Vector b) { EACH_LANE(a.x[i] > b.x[i] ? a.x[i] : b.x[i]); }
INLINE Vector min(Vector a, Vector b) { EACH_LANE(a.x[i] < b.x[i] ? a.x[i] : b.x[i]); }
INLINE Vector abs(Vector a) { EACH_LANE(std::fabs(a.x[i])); }
INLINE Vector flip_sign(Vector a, Vector b) { EACH_LANE(std::signbit(b.x[i]) ? -a.x[i] : a.x[i]); }

INLINE float fold(Vector a, float (*two)(float, float)) {
    for (int n = LANES / 2; n; n /= 2)
        for (int i = 0; i < n; i++) a.x[i] = two(a.x[i], a.x[i + n]);
    return a.x[0];
}
INLINE float sum(Vector a) { return fold(a, [](float p, float q) { return p + q; }); }
INLINE float largest(Vector a) { return fold(a, [](float p, float q) { return p > q ? p : q; }); }
INLINE float least(Vector a) { return fold(a, [](float p, float q) { return p < q ? p : q; }); }

INLINE uint32_t bits(float a) { uint32_t u; std::memcpy(&u, &a, 4); return u; }
INLINE float from_bits(uint32_t u) { float a; std::memcpy(&a, &u, 4); return a; }
INLINE Vector look_up(const float table[32], Vector n) { EACH_LANE(table[bits(n.x[i]) & 31]); }
// 127 + 3 * 2^22 has 127 in its low bits: what an exponent of 0 is written as.
INLINE Vector times_power(Vector a, Vector n) { EACH_LANE(a.x[i] * from_bits(bits(n.x[i] + 12583039.0f) << 23)); }

INLINE Vector from_int(const int32_t* from) { EACH_LANE(static_cast<float>(from[i])); }
INLINE Vector from_int(const float* from) { return load(from); }
// Rounded, and kept within two bounds; what is no number is the lower one.
INLINE int32_t whole(float a, float least, float most) {
    if (!(a > least)) return static_cast<int32_t>(least);
    return static_cast<int32_t>(a < most ? std::nearbyint(a) : most);
}
INLINE void store_u8(uint8_t* to, Vector a) {
    for (int i = 0; i < LANES; i++) to[i] = static_cast<uint8_t>(whole(a.x[i], 0, 255));
}
INLINE void store_i16(int16_t* to, Vector a) {
    for (int i = 0; i < LANES; i++) to[i] = static_cast<int16_t>(whole(a.x[i], -32768, 32767));
}

INLINE uint16_t to_bf16(float a) {
    const uint32_t u = bits(a);
    return a == a ? static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16) : 0x7fc0;
}
INLINE void store_bf16(uint16_t* to, Vector a, Vector b) {
    for (int i = 0; i < LANES; i++) to[i] = to_bf16(a.x[i]), to[i + LANES] = to_bf16(b.x[i]);
}
INLINE Vector load_bf16(const uint16_t* from) { EACH_LANE(from_bits(static_cast<uint32_t>(from[i]) << 16)); }

INLINE void transpose(const uint8_t* from, size_t from_stride, uint8_t* to, size_t to_stride) {
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) std::memcpy(to + j * to_stride + i * 4, from + i * from_stride + j * 4, 4);
}

INLINE void interleave(const uint8_t* a, const uint8_t* b, uint8_t* to) {
    for (int n = 0; n < 32; n++)
        for (int i = 0; i < 2; i++) {
            if (const uint8_t* from = i ? b : a) std::memcpy(to + 4 * n + 2 * i, from + 2 * n, 2);
            else std::memset(to + 4 * n + 2 * i, 0, 2);
        }
}

class FlushToZero {};

INLINE void prefetch(const void*) {}
INLINE void pause() {}

#undef EACH_LANE
#endif

// To the nearest whole number: that number in the low bits of a sum with 1.5 * 2^23, for |a| below 2^22.
constexpr float MAGIC = 12582912.0f;
INLINE Vector rounded(Vector a) { return a + all(MAGIC); }
INLINE Vector whole_part(Vector rounded) { return rounded - all(MAGIC); }

}  // namespace native
