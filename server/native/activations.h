// Powers of two, and the activations of an MLP, sixteen numbers at a time.
#pragma once
#include <cmath>

#include "vector.h"

namespace native {

// 2^a. A polynomial of degree 6 on [-0.5, 0.5], least squares at Chebyshev's nodes: 6e-10 of the value. Below 2^-126,
// that.
INLINE Vector exp2(Vector a) {
    a = max(all(-126.0f), a);
    const Vector n = rounded(a), f = a - whole_part(n);
    Vector p = all(0.000153375768386f);
    p = fma(p, f, all(0.00133998603634f));
    p = fma(p, f, all(0.00961851953434f));
    p = fma(p, f, all(0.0555032899752f));
    p = fma(p, f, all(0.240226466087f));
    p = fma(p, f, all(0.693147205601f));
    p = fma(p, f, all(1.0f));
    return times_power(p, whole_part(n));
}

constexpr float LOG2_E = 1.44269504088896f;

// 1 / (1 + e^-a)
INLINE Vector sigmoid(Vector a) { return all(1) / (all(1) + exp2(min(all(126), a * all(-LOG2_E)))); }

// erf(a / sqrt(2)) / 2 for a in [0, 5.6], beyond which it is 0.5 in fp32: 32 segments, a polynomial of degree 4 in
// each.
class GeluTable {
public:
    static constexpr float END = 5.6f, PER_UNIT = 31 / END;
    float power[5][32];

    GeluTable() {
        for (int i = 0; i < 32; i++) {
            // Newton's divided differences at Chebyshev's nodes of [i - 0.5, i + 0.5], multiplied out.
            double node[5], difference[5], coefficient[5] = {0, 0, 0, 0, 0};
            for (int k = 0; k < 5; k++) {
                node[k] = 0.5 * std::cos((2 * k + 1) * M_PI / 10);
                difference[k] = 0.5 * std::erf((i + node[k]) / PER_UNIT / std::sqrt(2.0));
            }
            for (int order = 1; order < 5; order++)
                for (int k = 4; k >= order; k--)
                    difference[k] = (difference[k] - difference[k - 1]) / (node[k] - node[k - order]);
            for (int k = 4; k >= 0; k--) {
                for (int j = 4; j > 0; j--) coefficient[j] = coefficient[j - 1] - node[k] * coefficient[j];
                coefficient[0] = difference[k] - node[k] * coefficient[0];
            }
            for (int k = 0; k < 5; k++) power[k][i] = static_cast<float>(coefficient[k]);
        }
    }
};
static const GeluTable GELU_TABLE;

// a * (1 + erf(a / sqrt(2))) / 2
INLINE Vector gelu(Vector a) {
    const Vector t = min(all(GeluTable::END), abs(a)) * all(GeluTable::PER_UNIT), n = rounded(t), f = t - whole_part(n);
    Vector q = look_up(GELU_TABLE.power[4], n);
    UNROLL for (int k = 3; k >= 0; k--) q = fma(q, f, look_up(GELU_TABLE.power[k], n));
    return fma(a, flip_sign(q, a), a * all(0.5f));
}

// Hendrycks and Gimpel, 2016 (https://arxiv.org/abs/1606.08415), with tanh: a / (1 + e^-2u), u = sqrt(2 / pi) * (a +
// 0.044715 a^3)
INLINE Vector gelu_new(Vector a) {
    const Vector u = a * fma(a * a, all(0.044715f * 1.5957691216f), all(1.5957691216f));
    return a * sigmoid(u);
}

INLINE Vector tanh(Vector a) { return fma(all(2), sigmoid(a + a), all(-1)); }

enum class Activation : int32_t { LINEAR, GELU, GELU_NEW, RELU, SILU, TANH };
constexpr int NUM_ACTIVATIONS = 6;

template <Activation which> INLINE Vector activate(Vector a) {
    switch (which) {
        case Activation::GELU: return gelu(a);
        case Activation::GELU_NEW: return gelu_new(a);
        case Activation::RELU: return max(all(0), a);
        case Activation::SILU: return a * sigmoid(a);
        case Activation::TANH: return tanh(a);
        default: return a;
    }
}

}  // namespace native
