// The library: one translation unit, compiled once for each instruction set, with a plain C interface.
//
// A caller's mistakes are answered with a sentence in `error`; nothing is read before its size has been checked.
#include <cstdarg>
#include <cstdio>
#include <exception>
#include <string>

#include "encoder.h"

using namespace native;

namespace {

// ---- checking -------------------------------------------------------------------------------------------------------

struct Refusal { std::string why; };

__attribute__((format(printf, 2, 3))) void require(bool met, const char* form, ...) {
    if (met) return;
    char text[256];
    va_list values;
    va_start(values, form);
    std::vsnprintf(text, sizeof text, form, values);
    va_end(values);
    throw Refusal{text};
}

constexpr int MOST = 1 << 24;   // of any size; products of two fit 64 bits

void check(const NativeArray& array, int64_t bytes, const char* name, bool optional = false) {
    if (!array.data && optional) return;
    require(array.data, "%s is missing", name);
    require(array.bytes == bytes, "%s has %lld bytes, expected %lld", name, static_cast<long long>(array.bytes),
            static_cast<long long>(bytes));
    require(reinterpret_cast<uintptr_t>(array.data) % 4 == 0, "%s does not begin at a multiple of 4 bytes", name);
}

Norm norm_of(const NativeNorm& given, int width, const NativeSpec& spec, const char* name, bool optional = true) {
    check(given.gamma, 4ll * width, name, optional);
    check(given.beta, 4ll * width, name, true);
    return {static_cast<const float*>(given.gamma.data), static_cast<const float*>(given.beta.data), spec.rms != 0,
            spec.eps};
}

template <class Kind>
Matrix matrix_of(const NativeMatrix& given, int rows, int columns, int blocks, const Model& model, const char* name) {
    Matrix matrix;
    matrix.rows = rows, matrix.columns = columns;
    check(given.panels, static_cast<int64_t>(matrix.bytes<Kind>()), name);
    check(given.bias, 4ll * columns, name, true);
    check(given.scale, 4ll * columns * blocks, name, !Kind::BY_RANGE);
    check(given.sums, 4ll * columns * blocks, name, !std::is_same_v<Kind, Byte>);
    check(given.shares, 4ll * rows, name, true);
    matrix.panels = static_cast<const uint8_t*>(given.panels.data);
    matrix.bias = given.bias.data ? static_cast<const float*>(given.bias.data) : model.zeros.data();
    matrix.scale = static_cast<const float*>(given.scale.data);
    matrix.sums = static_cast<const float*>(given.sums.data);
    matrix.shares = static_cast<const float*>(given.shares.data);
    return matrix;
}

void check_sizes(const NativeSpec& s) {
    const auto within = [](int value, int least, int most, const char* name) {
        require(least <= value && value <= most, "%s is %d, expected %d to %d", name, value, least, most);
    };
    within(s.vocab, 1, MOST, "vocab");
    within(s.embedding, 1, 1 << 16, "embedding");
    within(s.token_types, 0, MOST, "token_types");
    within(s.position_rows, 0, MOST, "position_rows");
    within(s.first_position, 0, MOST, "first_position");
    within(s.hidden, 1, 1 << 16, "hidden");
    within(s.layers, 1, 1 << 12, "layers");
    within(s.heads, 1, 1 << 12, "heads");
    within(s.key_value_heads, 1, s.heads, "key_value_heads");
    require(s.heads % s.key_value_heads == 0, "%d heads cannot share %d of keys and values", s.heads,
            s.key_value_heads);
    within(s.head_size, 1, 1 << 12, "head_size");
    within(s.inner, 64, 1 << 20, "inner");
    within(s.inner_block, 64, s.inner, "inner_block");
    require(s.inner % 64 == 0 && s.inner_block % 64 == 0, "inner is %d, inner_block %d, expected multiples of 64",
            s.inner, s.inner_block);
    within(s.placement, NATIVE_AFTER, NATIVE_AROUND, "placement");
    within(s.activation, 0, NUM_ACTIVATIONS - 1, "activation");
    within(s.max_length, 1, MOST, "max_length");
    within(s.num_outputs, 1, 1 << 12, "num_outputs");
    within(s.num_angles, 0, 64, "num_angles");
    within(s.table_rows, 0, MOST, "table_rows");
    require(!s.table_rows || s.heads == s.key_value_heads, "table_rows is given, and heads share keys");
    require(!s.num_angles || s.head_size % 2 == 0, "head_size is %d, and angles want an even one", s.head_size);
    require(s.eps >= 0 && s.eps < 1, "eps is %g", s.eps);
    require(std::isfinite(s.embedding_scale), "embedding_scale is not finite");
    require(s.layer, "layer is missing");
}

template <class Kind> void read_model(const NativeSpec& s, Model& m) {
    m.spec = s;
    m.embedding_width = padded(s.embedding, 64), m.width = padded(s.hidden, 64), m.head = padded(s.head_size, PANEL);
    m.queries = s.heads * m.head, m.query_width = padded(m.queries, 64);
    const int keys = s.key_value_heads * m.head, blocks = divided(s.inner, s.inner_block);
    m.zeros.assign(std::max({m.width, m.embedding_width, m.queries + 2 * keys, s.inner}) + LANES, 0.0f);

    const int64_t row = 4ll * s.embedding;
    check(s.words, row * s.vocab, "words");
    check(s.types, row * s.token_types, "types", !s.token_types);
    check(s.positions, row * s.position_rows, "positions", !s.position_rows);
    require(s.token_types || !s.types.data, "types are given, and token_types is 0");
    require(s.position_rows || !s.positions.data, "positions are given, and position_rows is 0");
    require(!s.position_rows || s.first_position + static_cast<int64_t>(s.max_length) <= s.position_rows,
            "positions has %d rows, expected %d + %d", s.position_rows, s.first_position, s.max_length);
    require(s.pad_id < 0 || s.first_position > 0, "pad_id is given, and no row is before first_position");
    check(s.relative, 4ll * s.heads * (2ll * s.max_length - 1), "relative", true);
    check(s.places, 4ll * (2ll * s.max_length - 1), "places", !s.table_rows);
    const int32_t* places = static_cast<const int32_t*>(s.places.data);
    for (int i = 0; s.table_rows && i < 2 * s.max_length - 1; i++)
        require(0 <= places[i] && places[i] < s.table_rows && (!i || places[i - 1] <= places[i]),
                "places are not ascending numbers below %d", s.table_rows);
    check(s.cosines, 4ll * s.num_angles * s.max_length * (s.head_size / 2), "cosines", !s.num_angles);
    check(s.sines, 4ll * s.num_angles * s.max_length * (s.head_size / 2), "sines", !s.num_angles);
    check(s.outputs, 4ll * s.num_outputs, "outputs");
    m.outputs.assign(static_cast<const int32_t*>(s.outputs.data),
                     static_cast<const int32_t*>(s.outputs.data) + s.num_outputs);
    for (const int layer : m.outputs)
        require(0 <= layer && layer < s.layers, "outputs names layer %d of %d", layer, s.layers);

    m.embedding_norm = norm_of(s.embedding_norm, m.embedding_width, s, "embedding_norm");
    m.final_norm = norm_of(s.final_norm, m.width, s, "final_norm");
    if (s.projection.panels.data)
        m.projection = matrix_of<Kind>(s.projection, m.embedding_width, m.width, 1, m, "projection");
    else require(s.embedding == s.hidden, "embeddings of %d columns want a projection to %d", s.embedding, s.hidden);
    for (int number = 0; number <= m.last_layer(); number++) {
        const NativeLayer& given = s.layer[number];
        Layer layer;
        layer.qkv = matrix_of<Kind>(given.qkv, m.width, m.queries + 2 * keys, 1, m, "qkv");
        layer.output = matrix_of<Kind>(given.output, m.query_width, m.width, 1, m, "output");
        layer.up = matrix_of<Kind>(given.up, m.width, s.inner, 1, m, "up");
        if (given.gate.panels.data) layer.gate = matrix_of<Kind>(given.gate, m.width, s.inner, 1, m, "gate");
        layer.down = matrix_of<Kind>(given.down, s.inner, m.width, blocks, m, "down");
        const bool after = s.placement == NATIVE_AFTER, around = s.placement == NATIVE_AROUND;
        layer.attention_norm = norm_of(given.attention_norm, m.width, s, "attention_norm", !after);
        layer.mlp_norm = norm_of(given.mlp_norm, m.width, s, "mlp_norm", false);
        layer.attention_output_norm =
            norm_of(given.attention_output_norm, m.width, s, "attention_output_norm", !around);
        layer.mlp_output_norm = norm_of(given.mlp_output_norm, m.width, s, "mlp_output_norm", !around);
        layer.query_norm = norm_of(given.query_norm, m.head, s, "query_norm");
        layer.key_norm = norm_of(given.key_norm, m.head, s, "key_norm");
        const int64_t table = 4ll * s.heads * s.table_rows * m.head;
        check(given.table_keys, table, "table_keys", !s.table_rows);
        check(given.table_queries, table, "table_queries", !s.table_rows);
        if (s.table_rows)
            layer.tables = {static_cast<const float*>(given.table_keys.data),
                            static_cast<const float*>(given.table_queries.data), places};
        layer.window = std::min(given.window, s.max_length), layer.angles = given.angles;
        require(given.angles < s.num_angles, "a layer has angles %d of %d", given.angles, s.num_angles);
        require(!layer.query_norm == !layer.key_norm, "a layer has only one of query_norm and key_norm");
        require(!number || !layer.query_norm == !m.layers[0].query_norm, "only some layers have query_norm");
        m.layers.push_back(layer);
    }
}

std::vector<int32_t> check_batch(const NativeSpec& s, const NativeBatch& b) {
    require(b.size == sizeof b, "the batch has %d bytes, expected %zu", b.size, sizeof b);
    require(1 <= b.sequences && b.sequences <= b.tokens && b.tokens <= MOST, "a batch of %d sequences and %d tokens",
            b.sequences, b.tokens);
    require(b.ids && b.starts && b.out, "ids, starts or out is missing");
    require(NATIVE_TOKENS <= b.pooling && b.pooling <= NATIVE_FIRST, "pooling is %d", b.pooling);
    require(b.starts[0] == 0 && b.starts[b.sequences] == b.tokens, "starts go from %d to %d, expected 0 to %d",
            b.starts[0], b.starts[b.sequences], b.tokens);
    for (int i = 0; i < b.sequences; i++) {
        const int64_t length = static_cast<int64_t>(b.starts[i + 1]) - b.starts[i];
        require(1 <= length && length <= s.max_length, "a sequence has %lld tokens, expected 1 to %d",
                static_cast<long long>(length), s.max_length);
    }
    for (int i = 0; i < b.tokens; i++)
        require(0 <= b.ids[i] && b.ids[i] < s.vocab, "token %d is beyond %d", b.ids[i], s.vocab);
    if (b.types && s.token_types)
        for (int i = 0; i < b.tokens; i++)
            require(0 <= b.types[i] && b.types[i] < s.token_types, "token type %d is beyond %d", b.types[i],
                    s.token_types);
    std::vector<int32_t> positions;
    if (!s.positions.data) return positions;
    positions.resize(b.tokens);
    for (int i = 0; i < b.sequences; i++)
        for (int t = b.starts[i], next = s.first_position; t < b.starts[i + 1]; t++)
            positions[t] = s.pad_id >= 0 && b.ids[t] == s.pad_id ? s.first_position - 1 : next++;
    return positions;
}

template <class Act> int answered(char* error, int size, Act&& act) {
    std::string why;
    try {
        act();
        return 0;
    } catch (const Refusal& refusal) {
        why = refusal.why;
    } catch (const std::bad_alloc&) {
        why = "not enough memory";
    } catch (const std::exception& other) {
        why = other.what();
    }
    if (error && size > 0) std::snprintf(error, static_cast<size_t>(size), "%s", why.c_str());
    return 1;
}

}  // namespace

struct NativeEncoder {
    int threads;
    Model model;
    std::unique_ptr<Encoder> encoder;
};

template <class Kind> static void open(const NativeSpec& spec, int threads, NativeEncoder& to) {
    to.threads = threads;
    read_model<Kind>(spec, to.model);
    to.encoder = std::make_unique<EncoderOf<Kind>>(to.model, threads);
}

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Of the structures in spec.h and of layout.h.
EXPORTED int native_version() { return 2; }

// What this build computes by, in words.
EXPORTED const char* native_instructions() {
    return
#if defined(NATIVE_TILES) && !defined(NATIVE_EMULATED)
        "AMX"
#elif defined(NATIVE_TILES)
        "AMX in plain C++"
#elif defined(__AVX512BF16__)
        "AVX-512 with BF16"
#elif defined(__AVX512F__)
        "AVX-512"
#else
        "plain C++"
#endif
        ;
}

// Whether this build has products of a NativeKind.
EXPORTED int native_computes(int kind) {
#ifdef NATIVE_TILES
    return kind == NATIVE_BF16 || kind == NATIVE_INT8 || kind == NATIVE_SPLIT || kind == NATIVE_STRICT;
#else
    return kind == NATIVE_FP32 || kind == NATIVE_BF16 || kind == NATIVE_INT16 || kind == NATIVE_INT8;
#endif
}

// Arrays must stay where they are while the encoder lives. 0: it is in *encoder; else `error` says why not.
EXPORTED int native_open(const NativeSpec* spec, int threads, NativeEncoder** encoder, char* error, int error_size) {
    return answered(error, error_size, [&] {
        require(spec && encoder, "spec or encoder is missing");
        require(spec->size == sizeof *spec, "the spec has %d bytes, expected %zu", spec->size, sizeof *spec);
        require(1 <= threads && threads <= 1024, "%d threads", threads);
        require(native_computes(spec->kind), "kind %d is not computed by %s", spec->kind, native_instructions());
        check_sizes(*spec);
        auto made = std::make_unique<NativeEncoder>();
        switch (spec->kind) {
#ifdef NATIVE_TILES
            case NATIVE_SPLIT: open<Split<2>>(*spec, threads, *made); break;
            case NATIVE_STRICT: open<Split<3>>(*spec, threads, *made); break;
#else
            case NATIVE_FP32: open<Float>(*spec, threads, *made); break;
            case NATIVE_INT16: open<Word>(*spec, threads, *made); break;
#endif
            case NATIVE_BF16: open<Half>(*spec, threads, *made); break;
            default: open<Byte>(*spec, threads, *made);
        }
        *encoder = made.release();
    });
}

// Called from one thread at a time. 0: the vectors are in batch->out.
//
// `largest`, or nothing, fp32 [layers, 2, hidden padded]: how large inputs of QKV and of the MLP have become is entered
// there; with one thread only.
EXPORTED int native_encode(NativeEncoder* encoder, const NativeBatch* batch, float* largest, char* error,
                           int error_size) {
    return answered(error, error_size, [&] {
        require(encoder && batch, "encoder or batch is missing");
        require(!largest || encoder->threads == 1, "largest is given, and there are %d threads", encoder->threads);
        const std::vector<int32_t> positions = check_batch(encoder->model.spec, *batch);
        encoder->encoder->encode({batch, positions.data(), largest});
    });
}

EXPORTED void native_close(NativeEncoder* encoder) { delete encoder; }
