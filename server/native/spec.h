// What is to be computed, and with which numbers: the encoder of engine/spec.py, as plain structures.
//
// These are the library's interface: engine/native/library.py has the same, field by field. Sizes that are called
// padded are multiples of 64, so that a row is whole lines of any kind of number; what fills them up is 0.
#pragma once
#include <cstdint>

extern "C" {

enum NativeKind { NATIVE_FP32, NATIVE_BF16, NATIVE_INT16, NATIVE_INT8, NATIVE_SPLIT, NATIVE_STRICT, NATIVE_KINDS };
enum NativePlacement { NATIVE_AFTER, NATIVE_BEFORE, NATIVE_AROUND };
enum NativePooling { NATIVE_TOKENS, NATIVE_MEAN, NATIVE_FIRST };

struct NativeArray { const void* data; int64_t bytes; };

struct NativeMatrix {
    NativeArray panels;   // see layout.h
    NativeArray bias;     // fp32 [columns]; none: 0
    NativeArray scale;    // int8, int16: fp32 [blocks of rows, columns]
    NativeArray sums;     // int8: fp32 [blocks of rows, columns]
    NativeArray shares;   // int8: fp32 [rows]; none: 1
};

struct NativeNorm { NativeArray gamma, beta; };   // fp32 [padded]; none at all: there is no norm; no beta: 0

struct NativeLayer {
    NativeMatrix qkv, output, up, gate, down;
    NativeNorm attention_norm, attention_output_norm, mlp_norm, mlp_output_norm, query_norm, key_norm;
    NativeArray table_keys, table_queries;   // fp32 [heads, table_rows, head padded to 32], scaled; or none
    int32_t window;       // how far a token sees to either side; -1: to the ends
    int32_t angles;       // number of its rotary angles; -1: none
};

struct NativeSpec {
    int32_t size;                     // of this structure, in bytes
    int32_t kind;                     // a NativeKind
    int32_t vocab, embedding, token_types, position_rows, first_position,
        pad_id;  // pad_id: -1 if it is a token as others
    int32_t hidden, layers, heads, key_value_heads, head_size;
    int32_t inner, inner_block;       // padded; of the MLP, and how many columns of it are computed at a time
    int32_t placement, activation, rms, causal, max_length;
    int32_t num_outputs, num_angles;
    int32_t table_rows;                // of a table of relative positions, see attention.h; 0: there is none
    float eps, embedding_scale;

    NativeArray words, types, positions;       // fp32 [rows, embedding]; no types, no positions: there are none
    NativeNorm embedding_norm, final_norm;
    NativeMatrix projection;                   // of embeddings that are not as wide as the encoder; none: they are
    NativeArray relative;  // fp32 [heads, 2 * max_length - 1], times log2(e), for key - query; or none
    NativeArray places;                        // int32 [2 * max_length - 1], the table's row for query - key, ascending
    NativeArray cosines, sines;                // fp32 [num_angles, max_length, head_size / 2]
    NativeArray outputs;                       // int32 [num_outputs], the layers wanted, from 0, in the order wanted
    const NativeLayer* layer;                  // [layers]
};

// Sequences, end to end.
struct NativeBatch {
    int32_t size;                     // of this structure, in bytes
    int32_t sequences, tokens, pooling;
    const int32_t *ids, *types;       // [tokens]; no types: 0
    const int32_t* starts;            // [sequences + 1]
    const uint8_t *seen, *pooled;     // [tokens], 0: attention, or the mean, leaves the token out; none: all are in
    float* out;  // [sequences, num_outputs * hidden]; NATIVE_TOKENS: [tokens, num_outputs * hidden]
};
}
