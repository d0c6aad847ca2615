// How numbers lie in memory for products: a row of inputs in lines, a matrix of weights in panels.
//
// A product reads a row four bytes at a time (a step): one float, two numbers of 16 bits, or four of 8. With each step
// goes a row of 32 columns of weights, four bytes for each column, and what belongs together is multiplied and added to
// the column's sum. So one loop serves every kind of number, and AMX's tiles have the same order.
//
//   rows of inputs   line n of all rows, then line n + 1 of all rows ...; a line is 64 bytes: 16 steps of one row
//   weights          panel of 32 columns by panel; in it step by step, 32 columns x 4 bytes = 128 bytes each
//
// Of inputs that are split into parts (see Split), each line is followed by its remainder's line, and of weights each
// 16 steps by those of the remainders.
#pragma once
#include <cstddef>

#include "vector.h"

namespace native {

constexpr int LINE = 64;                 // bytes
constexpr int STEPS = 16;                // of a line
constexpr int PANEL = 32;                // columns
constexpr int STEP_BYTES = PANEL * 4;    // of a panel
constexpr int BLOCK_BYTES = STEPS * STEP_BYTES;

inline int divided(int n, int by) { return (n + by - 1) / by; }
inline int padded(int n, int to) { return divided(n, to) * to; }

// ---- kinds of numbers -----------------------------------------------------------------------------------------------
// PER_LINE: columns of a line. PARTS: bf16 numbers whose sum is one input. Sum: what products are added up in.
// BY_RANGE: a row's numbers are whole ones within its own range, so that it must be known before it is written.

// fp32.
struct Float {
    using Sum = float;
    static constexpr int PER_LINE = 16, PARTS = 1;
    static constexpr bool BY_RANGE = false;
    static void put(uint8_t* line, size_t plane, Vector a, Vector b) {
        store(reinterpret_cast<float*>(line), a);
        store(reinterpret_cast<float*>(line + plane), b);
    }
};

// A float as the sum of so many bf16 numbers: 8 bits of it each. Products of parts that are below the last are left
// out. Source: Henry, Tang and Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype", 2019
// (https://arxiv.org/abs/1904.06376).
template <int N> struct Split {
    using Sum = float;
    static constexpr int PER_LINE = 32, PARTS = N;
    static constexpr bool BY_RANGE = false;
    static void put(uint8_t* line, size_t plane, Vector a, Vector b) {
        for (int part = 0; part < N; part++, line += plane) {
            uint16_t* to = reinterpret_cast<uint16_t*>(line);
            store_bf16(to, a, b);
            if (part + 1 < N) a = a - load_bf16(to), b = b - load_bf16(to + LANES);
        }
    }
};
using Half = Split<1>;

// Signed numbers of 16 bits, 12 of them used, so that sums of 32 bits do not overflow: a row's largest number is
// LARGEST.
struct Word {
    using Sum = int32_t;
    static constexpr int PER_LINE = 32, PARTS = 1;
    static constexpr bool BY_RANGE = true;
};

// Numbers from 0 to 255, 0 being a row's least; weights are signed.
struct Byte {
    using Sum = int32_t;
    static constexpr int PER_LINE = 64, PARTS = 1;
    static constexpr bool BY_RANGE = true;
};

// The largest number of a row, and of a column, of K products in 16 bits: K * n^2 < 2^31.
inline int largest_word(int k) {
    return k <= 384 ? 2047 : k <= 768 ? 1448 : static_cast<int>(std::sqrt(2147483647.0 / k));
}

// ---- rows of inputs -------------------------------------------------------------------------------------------------

template <class Kind> struct Rows {
    uint8_t* data = nullptr;
    int capacity = 0;           // rows
    float* scale = nullptr;     // BY_RANGE: what a row's numbers are to be multiplied with ...
    float* low = nullptr;       // ... and what is to be added then

    static constexpr int lines(int columns) { return (columns + Kind::PER_LINE - 1) / Kind::PER_LINE; }
    static size_t bytes(int capacity, int columns) {
        return static_cast<size_t>(lines(padded(columns, 64))) * Kind::PARTS * capacity * LINE;
    }
    size_t plane() const { return static_cast<size_t>(capacity) * LINE; }
    uint8_t* line(int row, int number) const {
        return data + static_cast<size_t>(number) * Kind::PARTS * plane() + static_cast<size_t>(row) * LINE;
    }

    // Columns 32 * panel to 32 * panel + 31 of a row.
    void put(int row, int panel, Vector a, Vector b) const {
        Kind::put(line(row, panel * PANEL / Kind::PER_LINE), plane(), a, b);
    }

    // A whole row of floats, whose count is a multiple of 64.
    void put_row(int row, const float* from, int columns) const {
        if constexpr (!Kind::BY_RANGE) {
            for (int c = 0; c < columns; c += PANEL) put(row, c / PANEL, load(from + c), load(from + c + LANES));
        } else {
            quantize(row, from, columns);
        }
    }

    void quantize(int row, const float* from, int columns) const;
};

// fp32 to 16 bits. What is not finite makes the row's scale so, and with it all that comes of the row.
template <> inline void Rows<Word>::quantize(int row, const float* from, int columns) const {
    Vector most = all(1e-20f), odd = all(0);
    for (int c = 0; c < columns; c += LANES) {
        const Vector a = load(from + c);
        most = max(most, abs(a));
        odd = fma(a, all(0), odd);
    }
    const float range = largest(most), top = static_cast<float>(largest_word(columns));
    scale[row] = range / top + sum(odd);
    const Vector factor = all(top / range);
    for (int c = 0; c < columns; c += LANES)
        store_i16(reinterpret_cast<int16_t*>(line(row, c / 32)) + c % 32, load(from + c) * factor);
}

// fp32 to 8 bits, from the row's least number, or 0, to its largest, or 0.
template <> inline void Rows<Byte>::quantize(int row, const float* from, int columns) const {
    Vector most = all(1e-20f), least_ = all(0), odd = all(0);
    for (int c = 0; c < columns; c += LANES) {
        const Vector a = load(from + c);
        most = max(most, a);
        least_ = min(least_, a);
        odd = fma(a, all(0), odd);
    }
    const float from_ = least(least_), range = largest(most) - from_;
    scale[row] = range / 255 + sum(odd);
    low[row] = from_;
    const Vector factor = all(255 / range), shift = all(-from_ * (255 / range));
    for (int c = 0; c < columns; c += LANES)
        store_u8(line(row, c / 64) + c % 64, fma(load(from + c), factor, shift));
}

// ---- weights --------------------------------------------------------------------------------------------------------

// A product's weights, K rows and N columns, both padded with zeros: K to a multiple of 64, N to one of 32.
struct Matrix {
    const uint8_t* panels = nullptr;
    const float* bias = nullptr;      // [N]; zeros where there is none
    const float* scale = nullptr;     // BY_RANGE: [blocks of K, N], what a column's numbers are to be multiplied with
    const float* sums = nullptr;      // Byte: [blocks of K, N], the sum of a column's weights
    const float* shares = nullptr;    // [K], what inputs are multiplied with before they are brought to 8 bits; or null
    int rows = 0, columns = 0;

    // Bytes of a panel's rows [0, k).
    template <class Kind> static size_t panel_bytes(int k) {
        return static_cast<size_t>(k) / Kind::PER_LINE * BLOCK_BYTES * Kind::PARTS;
    }
    template <class Kind> size_t bytes() const { return panel_bytes<Kind>(rows) * divided(columns, PANEL); }
    template <class Kind> const uint8_t* panel(int number, int row = 0) const {
        return panels + panel_bytes<Kind>(rows) * number + panel_bytes<Kind>(row);
    }
};

}  // namespace native
