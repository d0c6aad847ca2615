// Layer norm (Ba, Kiros and Hinton, 2016, https://arxiv.org/abs/1607.06450), and the root mean square one (Zhang and
// Sennrich, 2019, https://arxiv.org/abs/1910.07467), of a row of floats.
#pragma once
#include "vector.h"

namespace native {

struct Norm {
    const float *gamma = nullptr, *beta = nullptr;   // no gamma: there is no norm
    bool rms = false;
    float eps = 0;
    explicit operator bool() const { return gamma; }
};

// A row of `size` numbers, padded with zeros to `width`, a multiple of 16; `to` may be `from`. Padding stays 0.
INLINE void norm_row(const Norm& norm, const float* from, float* to, int size, int width) {
    const int whole = size / LANES * LANES, rest = size - whole;
    Vector total[4] = {all(0), all(0), all(0), all(0)};
    float mean = 0;
    if (!norm.rms) {
        // Padding is 0, so it adds nothing.
        for (int i = 0; i < width; i += LANES) total[i / LANES % 4] = total[i / LANES % 4] + load(from + i);
        mean = sum((total[0] + total[1]) + (total[2] + total[3])) / static_cast<float>(size);
        for (auto& part : total) part = all(0);
    }
    const Vector middle = all(mean);
    for (int i = 0; i < whole; i += LANES) {
        const Vector a = load(from + i) - middle;
        total[i / LANES % 4] = fma(a, a, total[i / LANES % 4]);
    }
    if (rest) {
        const Vector a = keep_first(load(from + whole) - middle, rest);
        total[3] = fma(a, a, total[3]);
    }
    const float variance = sum((total[0] + total[1]) + (total[2] + total[3])) / static_cast<float>(size);
    const Vector factor = all(1 / std::sqrt(variance + norm.eps));
    // gamma and beta are 0 in the padding.
    for (int i = 0; i < width; i += LANES) {
        const Vector a = (load(from + i) - middle) * factor * load(norm.gamma + i);
        store(to + i, norm.beta ? a + load(norm.beta + i) : a);
    }
}

}  // namespace native
