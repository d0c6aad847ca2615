// Matrix products: rows of inputs times panels of weights.
//
// The unit is a block of up to 12 rows x 32 columns, whose 24 sums stay in registers (of 32 that there are) while all
// steps pass: two loads of weights and 12 broadcasts for 24 multiply-adds, so that these are the limit. With tiles a
// block is 32 rows x 32 columns in four of the eight tiles: four loads for four products. Measured shares of the peak:
// docs/performance.md.
//
// A row's sum runs over the steps in one order, whatever rows are beside it: the same bits in any batch.
#pragma once
#include <algorithm>
#include <type_traits>
#include <utility>

#include "layout.h"
#include "tiles.h"

namespace native {

// ---- by vectors -----------------------------------------------------------------------------------------------------

#ifdef __AVX512F__
constexpr int VECTOR_ROWS = 12;
#else
constexpr int VECTOR_ROWS = 4;
#endif

// The pairs of parts that are multiplied, so ordered that one of two neighbours stays where it is.
template <int PARTS> struct Pairs;
template <> struct Pairs<1> { static constexpr int COUNT = 1, ROWS[] = {0}, WEIGHTS[] = {0}; };
template <> struct Pairs<2> { static constexpr int COUNT = 3, ROWS[] = {1, 0, 0}, WEIGHTS[] = {0, 0, 1}; };
template <> struct Pairs<3> {
    static constexpr int COUNT = 6, ROWS[] = {2, 1, 0, 0, 1, 0}, WEIGHTS[] = {0, 0, 0, 1, 1, 2};
};

#ifdef __AVX512F__
template <class Kind> struct Lanes { using Type = __m512; };
template <> struct Lanes<Word> { using Type = __m512i; };
template <> struct Lanes<Byte> { using Type = __m512i; };

INLINE __m512 load_sums(const float* from) { return _mm512_loadu_ps(from); }
INLINE __m512i load_sums(const int32_t* from) { return _mm512_loadu_si512(from); }
INLINE void store_sums(float* to, __m512 a) { _mm512_storeu_ps(to, a); }
INLINE void store_sums(int32_t* to, __m512i a) { _mm512_storeu_si512(to, a); }
template <class Type> INLINE Type no_sums();
template <> __attribute__((always_inline)) inline __m512 no_sums() { return _mm512_setzero_ps(); }
template <> __attribute__((always_inline)) inline __m512i no_sums() { return _mm512_setzero_si512(); }

INLINE int32_t four_bytes(const uint8_t* from) { int32_t a; std::memcpy(&a, from, 4); return a; }

// One step: a's four bytes with each column's.
INLINE __m512 step(Float, __m512 sums, const uint8_t* a, const uint8_t* b) {
    float one;
    std::memcpy(&one, a, 4);
    return _mm512_fmadd_ps(_mm512_set1_ps(one), _mm512_loadu_ps(b), sums);
}
template <int N> INLINE __m512 step(Split<N>, __m512 sums, const uint8_t* a, const uint8_t* b) {
    const __m512i left = _mm512_set1_epi32(four_bytes(a)), right = _mm512_loadu_si512(b);
#ifdef __AVX512BF16__
    return _mm512_dpbf16_ps(sums, (__m512bh)left, (__m512bh)right);
#else
    const __m512i upper = _mm512_set1_epi32(INT32_MIN >> 15);
    const auto number = [](__m512i x) { return _mm512_castsi512_ps(x); };
    sums = _mm512_fmadd_ps(number(_mm512_and_si512(left, upper)), number(_mm512_and_si512(right, upper)), sums);
    return _mm512_fmadd_ps(number(_mm512_slli_epi32(left, 16)), number(_mm512_slli_epi32(right, 16)), sums);
#endif
}
INLINE __m512i step(Word, __m512i sums, const uint8_t* a, const uint8_t* b) {
    return _mm512_dpwssd_epi32(sums, _mm512_set1_epi32(four_bytes(a)), _mm512_loadu_si512(b));
}
INLINE __m512i step(Byte, __m512i sums, const uint8_t* a, const uint8_t* b) {
    return _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(four_bytes(a)), _mm512_loadu_si512(b));
}
#else
template <class Sum> struct Sums { Sum x[LANES]; };
template <class Kind> struct Lanes { using Type = Sums<typename Kind::Sum>; };

template <class Sum> INLINE Sums<Sum> load_sums(const Sum* from) {
    Sums<Sum> a;
    std::memcpy(a.x, from, sizeof a.x);
    return a;
}
template <class Sum> INLINE void store_sums(Sum* to, Sums<Sum> a) { std::memcpy(to, a.x, sizeof a.x); }
template <class Type> INLINE Type no_sums() { return {}; }

template <class Number> INLINE Number read(const uint8_t* from, int place) {
    Number a;
    std::memcpy(&a, from + place * sizeof(Number), sizeof(Number));
    return a;
}
INLINE Sums<float> step(Float, Sums<float> sums, const uint8_t* a, const uint8_t* b) {
    for (int n = 0; n < LANES; n++) sums.x[n] += read<float>(a, 0) * read<float>(b, n);
    return sums;
}
template <int N> INLINE Sums<float> step(Split<N>, Sums<float> sums, const uint8_t* a, const uint8_t* b) {
    for (int i = 1; i >= 0; i--)
        for (int n = 0; n < LANES; n++)
            sums.x[n] += from_bits(read<uint16_t>(a, i) << 16) * from_bits(read<uint16_t>(b, 2 * n + i) << 16);
    return sums;
}
INLINE Sums<int32_t> step(Word, Sums<int32_t> sums, const uint8_t* a, const uint8_t* b) {
    // Of a row that is not finite the numbers are -32768, whose sums may wrap around, as the instruction's do.
    for (int n = 0; n < LANES; n++)
        for (int i = 0; i < 2; i++) {
            const uint32_t product = static_cast<uint32_t>(read<int16_t>(a, i) * read<int16_t>(b, 2 * n + i));
            sums.x[n] = static_cast<int32_t>(static_cast<uint32_t>(sums.x[n]) + product);
        }
    return sums;
}
INLINE Sums<int32_t> step(Byte, Sums<int32_t> sums, const uint8_t* a, const uint8_t* b) {
    for (int n = 0; n < LANES; n++)
        for (int i = 0; i < 4; i++) sums.x[n] += a[i] * read<int8_t>(b, 4 * n + i);
    return sums;
}
#endif

// What a block reads: `steps` steps of rows that begin at `rows`, their lines `plane` bytes apart, and of a panel.
struct Factors {
    const uint8_t* rows;
    size_t plane;
    const uint8_t* panel;
    int steps;
    const uint8_t* ahead = nullptr;   // what is to be fetched into the second-level cache meanwhile, ...
    int ahead_lines = 0;              // ... so many lines with each line of a row
};

// Sums of R rows and 16 * V columns: to [R, ld] floats, going on from `from` [R, ld], or from 0.
template <class Kind, int R, int V>
static void vector_block(Factors f, const typename Kind::Sum* from, typename Kind::Sum* to, size_t ld) {
    using Sums = typename Lanes<Kind>::Type;
    using Parts = Pairs<Kind::PARTS>;
    Sums sums[R][V];
    if (from) {
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) sums[r][v] =
            load_sums(from + r * ld + v * LANES);
    } else {
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) sums[r][v] = no_sums<Sums>();
    }
    const auto one = [&](const uint8_t* a, const uint8_t* b) __attribute__((always_inline)) {
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++)
            sums[r][v] = step(Kind(), sums[r][v], a + r * LINE, b + v * LINE);
    };
    int left = f.steps;
    for (; left >= STEPS; left -= STEPS) {
        UNROLL for (int pair = 0; pair < Parts::COUNT; pair++) {
            const uint8_t *a = f.rows + Parts::ROWS[pair] * f.plane, *b = f.panel + Parts::WEIGHTS[pair] * BLOCK_BYTES;
            for (int s = 0; s < STEPS; s += 4, a += 16, b += 4 * STEP_BYTES)
                UNROLL for (int u = 0; u < 4; u++) one(a + 4 * u, b + u * STEP_BYTES);
        }
        f.rows += f.plane * Kind::PARTS;
        f.panel += BLOCK_BYTES * Kind::PARTS;
        for (int i = 0; i < f.ahead_lines; i++, f.ahead += LINE) prefetch(f.ahead);
    }
    if constexpr (Kind::PARTS == 1)
        for (int s = 0; s < left; s++) one(f.rows + 4 * s, f.panel + s * STEP_BYTES);
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++)
        store_sums(to + r * ld + v * LANES, sums[r][v]);
}

template <class Kind> using VectorBlock = void (*)(Factors, const typename Kind::Sum*, typename Kind::Sum*, size_t);
template <class Kind, int V, int... r>
static VectorBlock<Kind> vector_block_of(int rows, std::integer_sequence<int, r...>) {
    static constexpr VectorBlock<Kind> BY_ROWS[] = {vector_block<Kind, r + 1, V>...};
    return BY_ROWS[rows - 1];
}
template <class Kind, int V> static VectorBlock<Kind> vector_block_of(int rows) {
    return vector_block_of<Kind, V>(rows, std::make_integer_sequence<int, VECTOR_ROWS>());
}

// ---- by tiles -------------------------------------------------------------------------------------------------------

#ifdef NATIVE_TILES
constexpr int TILE_ROWS = 32;

#define TILE_DOT(c, a, b) \
    do { \
        if constexpr (Kind::PER_LINE == 64) TILE_DOT_U8(c, a, b); else TILE_DOT_BF16(c, a, b); \
    } while (0)

// Sums of 32 rows, or of 16, and 32 columns, as vector_block gives them. `meanwhile` is called with each line: it is
// time for other work, which runs beside the products.
template <class Kind, bool BOTH, class Meanwhile>
INLINE void tile_block(Factors f, const typename Kind::Sum* from, typename Kind::Sum* to, size_t ld,
                       Meanwhile&& meanwhile) {
    using Parts = Pairs<Kind::PARTS>;
    const size_t stride = ld * 4;
    TILE_FENCE();
    if (from) {
        TILE_LOAD(0, from, stride);
        TILE_LOAD(1, from + 16, stride);
        if (BOTH) { TILE_LOAD(2, from + 16 * ld, stride); TILE_LOAD(3, from + 16 * ld + 16, stride); }
    } else {
        TILE_ZERO(0);
        TILE_ZERO(1);
        if (BOTH) { TILE_ZERO(2); TILE_ZERO(3); }
    }
    for (int left = f.steps; left > 0; left -= STEPS) {
        UNROLL for (int pair = 0; pair < Parts::COUNT; pair++) {
            const uint8_t *a = f.rows + Parts::ROWS[pair] * f.plane, *b = f.panel + Parts::WEIGHTS[pair] * BLOCK_BYTES;
            const bool new_a = !pair || Parts::ROWS[pair] != Parts::ROWS[pair - 1];
            const bool new_b = !pair || Parts::WEIGHTS[pair] != Parts::WEIGHTS[pair - 1];
            if (new_a) TILE_LOAD_ONCE(4, a, LINE);
            if (new_b) TILE_LOAD(6, b, STEP_BYTES);
            TILE_DOT(0, 4, 6);
            if (new_b) TILE_LOAD(7, b + LINE, STEP_BYTES);
            TILE_DOT(1, 4, 7);
            if (BOTH) {
                if (new_a) TILE_LOAD_ONCE(5, a + 16 * LINE, LINE);
                TILE_DOT(2, 5, 6);
                TILE_DOT(3, 5, 7);
            }
        }
        f.rows += f.plane * Kind::PARTS;
        f.panel += BLOCK_BYTES * Kind::PARTS;
        for (int i = 0; i < f.ahead_lines; i++, f.ahead += LINE) prefetch(f.ahead);
        meanwhile();
    }
    TILE_STORE(0, to, stride);
    TILE_STORE(1, to + 16, stride);
    if (BOTH) { TILE_STORE(2, to + 16 * ld, stride); TILE_STORE(3, to + 16 * ld + 16, stride); }
    TILE_FENCE();
}
#endif

// ---- either ---------------------------------------------------------------------------------------------------------

#ifdef NATIVE_TILES
constexpr int BLOCK_ROWS = TILE_ROWS;
#else
constexpr int BLOCK_ROWS = VECTOR_ROWS;
#endif

// Rows in blocks: of as equal numbers as can be, 11 + 11, not 12 + 10; with tiles of 32, since 17 take as long as 32.
struct Cut {
    int total, blocks, rows, longer;   // so many blocks of `rows`, of which the first `longer` have one more
    explicit Cut(int total)
        : total(total), blocks(divided(total, BLOCK_ROWS)), rows(total / blocks), longer(total % blocks) {}
#ifdef NATIVE_TILES
    int of(int block) const { return std::min(BLOCK_ROWS, total - block * BLOCK_ROWS); }
#else
    int of(int block) const { return rows + (block < longer); }
#endif
};

constexpr int CACHED_BYTES = 24 << 10;   // of a panel, beside the rows, in the first-level cache
constexpr int SPARE_ROWS = 32;           // beyond the last row, which a block may read

// Sums of up to BLOCK_ROWS rows and 32 columns, or 16: to [rows, ld].
template <class Kind> static void multiply(const Factors& f, int rows, bool narrow, typename Kind::Sum* to, size_t ld) {
#ifdef NATIVE_TILES
    (void)narrow;
    if (rows > 16) tile_block<Kind, true>(f, nullptr, to, ld, [] {});
    else tile_block<Kind, false>(f, nullptr, to, ld, [] {});
#else
    (narrow ? vector_block_of<Kind, 1>(rows) : vector_block_of<Kind, 2>(rows))(f, nullptr, to, ld);
#endif
}

// Where a product keeps sums: `partial` [rows, 32], and `last` [2, 32, 32].
template <class Sum> struct SumBuffers { Sum *partial, *last; };

// All rows of `a` times panels [from, until) of rows [k, k + 64 * n) of a matrix. `finish(sums, row, panel)` is called
// once for each row and panel, with its 32 sums.
//
// A panel is read in parts that stay in the first-level cache while all rows pass, which come from the second-level
// one.
template <class Kind, class Finish>
static void product(const Rows<Kind>& a, int rows, const Matrix& b, int k, int count, int from, int until,
                    SumBuffers<typename Kind::Sum> sums, const Finish& finish) {
    using Sum = typename Kind::Sum;
    constexpr int LINES = CACHED_BYTES / (BLOCK_BYTES * Kind::PARTS);
    const int lines = count / Kind::PER_LINE, parts = divided(lines, LINES);
    const Cut cut(rows);
#ifndef NATIVE_TILES
    const VectorBlock<Kind> usual = vector_block_of<Kind, 2>(cut.rows),
                            longer = cut.longer ? vector_block_of<Kind, 2>(cut.rows + 1) : usual;
#else
    // The block before, whose sums are finished beside the products of this one.
    const Sum* done = nullptr;
    int done_rows = 0, done_row = 0, done_panel = 0, next = 0, share = 0, turn = 0;
    const auto some = [&](int n) {
        for (n = std::min(n, done_rows - next); n > 0; n--, next++)
            finish(done + next * PANEL, done_row + next, done_panel);
    };
#endif
    for (int panel = from; panel < until; panel++) {
        for (int part = 0, first = 0; part < parts; part++) {
            const int length = lines * (part + 1) / parts - first;
            const uint8_t *weights = b.panel<Kind>(panel, k + first * Kind::PER_LINE);
            const uint8_t *ahead = weights + static_cast<size_t>(length) * BLOCK_BYTES * Kind::PARTS;
            const int each = std::min(8, divided(length * Kind::PARTS * (BLOCK_BYTES / LINE), cut.blocks * length));
            const bool is_last = part == parts - 1, is_end = is_last && panel + 1 == until;
            for (int block = 0, row = 0; block < cut.blocks; row += cut.of(block++)) {
                const Factors f{a.line(row, first), a.plane(), weights, length * STEPS, ahead, is_end ? 0 : each};
                ahead += static_cast<size_t>(each) * length * LINE;
                Sum* before = sums.partial + static_cast<size_t>(row) * PANEL;
#ifdef NATIVE_TILES
                Sum* to = is_last ? sums.last + turn * TILE_ROWS * PANEL : before;
                const auto meanwhile = [&] { some(share); };
                if (cut.of(block) > 16) tile_block<Kind, true>(f, part ? before : nullptr, to, PANEL, meanwhile);
                else tile_block<Kind, false>(f, part ? before : nullptr, to, PANEL, meanwhile);
                if (!is_last) continue;
                some(done_rows);
                done = to, done_rows = cut.of(block), done_row = row, done_panel = panel, next = 0, turn ^= 1;
                share = divided(done_rows, length);
#else
                Sum* to = is_last ? sums.last : before;
                (block < cut.longer ? longer : usual)(f, part ? before : nullptr, to, PANEL);
                if (is_last)
                    for (int r = 0; r < cut.of(block); r++) finish(to + r * PANEL, row + r, panel);
#endif
            }
            first += length;
        }
    }
#ifdef NATIVE_TILES
    some(done_rows);
#endif
}

// The numbers that sums of 32 bits mean: those of a product's columns, bias included.
template <class Kind> struct Value {
    const float *row_scale, *row_low, *scale, *sums, *bias;
    Value(const Rows<Kind>& a, const Matrix& b, int block, const float* bias)
        : row_scale(a.scale), row_low(a.low), scale(b.scale + static_cast<size_t>(block) * b.columns),
          sums(b.sums + static_cast<size_t>(block) * b.columns), bias(bias) {}
    Vector operator()(const typename Kind::Sum* from, int row, int column) const {
        if constexpr (!Kind::BY_RANGE) {
            return load(from) + load(bias + column);
        } else {
            const Vector factor = all(row_scale[row]) * load(scale + column);
            Vector rest = load(bias + column);
            if constexpr (std::is_same_v<Kind, Byte>) rest = fma(all(row_low[row]), load(sums + column), rest);
            return fma(from_int(from), factor, rest);
        }
    }
};

}  // namespace native
