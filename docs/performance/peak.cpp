// What one core's multiply-add instructions do at most, in thousand millions of operations a second: no memory is read.
//
//     g++ -O3 -std=c++17 -mavx512f -mavx512vnni -mavx512bf16 docs/performance/peak.cpp -o /tmp/peak && /tmp/peak
//
// Twelve sums at a time hide how long an instruction takes. The best of five rounds counts.
#include <immintrin.h>

#include <algorithm>
#include <cstdio>
#include <ctime>

#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

template <class Step> static double rate(double operations, Step step) {
    const long rounds = 20'000'000;
    double best = 0;
    for (int i = 0; i < 5; i++) {
        const std::clock_t start = std::clock();   // the processor's time for this process: a busy machine changes it little
        step(rounds);
        const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
        best = std::max(best, 12 * operations * rounds / seconds / 1e9);
    }
    return best;
}

int main() {
    volatile float any = 1;
    const __m512 a = _mm512_set1_ps(any);
    const __m512i b = _mm512_castps_si512(a);
    __m512 total = _mm512_setzero_ps();
    __m512i whole = _mm512_setzero_si512();
#define NUMBERS(i) __m512 x##i = _mm512_add_ps(a, _mm512_set1_ps(i));
#define WHOLE(i) __m512i x##i = _mm512_add_epi32(b, _mm512_set1_epi32(i));
#define SUM(i) total = _mm512_add_ps(total, x##i);
#define SUM_WHOLE(i) whole = _mm512_add_epi32(whole, x##i);
#define FMA(i) x##i = _mm512_fmadd_ps(x##i, a, a);
#define BF16(i) x##i = _mm512_dpbf16_ps(x##i, (__m512bh)b, (__m512bh)b);
#define INT16(i) x##i = _mm512_dpwssd_epi32(x##i, b, b);
#define INT8(i) x##i = _mm512_dpbusd_epi32(x##i, b, b);
#define RATE(name, operations, KIND, STEP, ADD) \
    std::printf(name " %.0f\n", rate(operations, [&](long rounds) { \
        TWELVE(KIND) for (long n = 0; n < rounds; n++) { TWELVE(STEP) } TWELVE(ADD) }));
    RATE("fp32, vfmadd231ps ", 32, NUMBERS, FMA, SUM)
    RATE("bf16, vdpbf16ps   ", 64, NUMBERS, BF16, SUM)
    RATE("int16, vpdpwssd   ", 64, WHOLE, INT16, SUM_WHOLE)
    RATE("int8, vpdpbusd    ", 128, WHOLE, INT8, SUM_WHOLE)
    volatile float sink = _mm512_reduce_add_ps(total) + static_cast<float>(_mm512_reduce_add_epi32(whole));
    (void)sink;
}
