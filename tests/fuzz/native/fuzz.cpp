// A fuzzer of the native encoder's C interface, server/native/spec.h:
//
//   fuzz LIBRARY [--seed N] [--iterations N] [--seconds S] [--work MILLIONS] [--threads N]
//
// Each iteration has a seed of its own, the first one's plus its number. It makes random batches, and an encoder of
// random sizes, whose arrays end where the interface says that they end, so that sanitizers see each byte too far.
//
//   - All results are finite, unless a sequence has words that are not; the same bits for a sequence alone and in a
//     batch, and with every number of threads.
//   - Then one thing is made wrong at a time. The answer has to be an error, or, where the description happens to be
//     right still, an encoder that works.
//
// The last line is JSON. The seed of a failure is on standard error; `--seed THAT --iterations 1` repeats it.
#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "spec.h"

namespace {

// ---- the run -------------------------------------------------------------------------------------------------------

unsigned long long* seed;   // of this iteration, where the process that watches sees it
struct { long long iterations = 0, encoded = 0, refused = 0, accepted = 0; } counts;

__attribute__((format(printf, 2, 3))) void require(bool met, const char* form, ...) {
    if (met) return;
    va_list values;
    va_start(values, form);
    std::fprintf(stderr, "fuzz: ");
    std::vfprintf(stderr, form, values);
    std::fprintf(stderr, "\n");
    va_end(values);
    _exit(1);
}

class Random {
public:
    explicit Random(unsigned long long from) : engine_(from) {}
    int within(int least, int most) {
        const unsigned long long count = static_cast<unsigned long long>(static_cast<long long>(most) - least) + 1;
        return static_cast<int>(least + static_cast<long long>(engine_() % count));
    }
    bool chance(double share) { return static_cast<double>(engine_() >> 11) * 0x1p-53 < share; }
    float normal() {   // near enough: a sum of three
        float total = 0;
        for (int i = 0; i < 3; i++) total += static_cast<float>(engine_() >> 40) * 0x1p-24f;
        return 2 * total - 3;
    }
    template <class T> T one_of(std::initializer_list<T> values) {
        return values.begin()[within(0, static_cast<int>(values.size()) - 1)];
    }
    // Near the edges that padding makes more often than elsewhere.
    int size(int most) {
        if (chance(0.4)) return within(1, most);
        return std::min(most, std::max(1, one_of({16, 32, 64, 96, 128}) + within(-1, 1)));
    }

private:
    std::mt19937_64 engine_;
};

struct NativeEncoder;
struct Library {
    int (*version)();
    const char* (*instructions)();
    int (*computes)(int);
    int (*open)(const NativeSpec*, int, NativeEncoder**, char*, int);
    int (*encode)(NativeEncoder*, const NativeBatch*, float*, char*, int);
    void (*close)(NativeEncoder*);

    explicit Library(const char* path) {
        void* handle = dlopen(path, RTLD_NOW);
        require(handle, "%s", handle ? "" : dlerror());
        const auto find = [&](auto& call, const char* name) {
            call = reinterpret_cast<std::decay_t<decltype(call)>>(dlsym(handle, name));
            require(call != nullptr, "%s is missing", name);
        };
        find(version, "native_version"), find(instructions, "native_instructions"), find(computes, "native_computes");
        find(open, "native_open"), find(encode, "native_encode"), find(close, "native_close");
    }
};

// Arrays on the heap that end where they end.
class Memory {
public:
    template <class T> T* take(size_t count) {
        blocks_.emplace_back(std::malloc(count * sizeof(T)), std::free);
        return static_cast<T*>(blocks_.back().get());
    }

private:
    std::vector<std::unique_ptr<void, void (*)(void*)>> blocks_;
};

// A call's error: a sentence that ends within its place, which may be short, or missing.
class Error {
public:
    explicit Error(Random& random)
        : size_(random.one_of({512, 512, 512, 1, 2, 20})), text_(static_cast<char*>(std::malloc(size_))) {
        std::memset(text_, '#', size_);
        given_ = !random.chance(0.1);
    }
    ~Error() { std::free(text_); }
    Error(const Error&) = delete;
    Error& operator=(const Error&) = delete;
    char* text() const { return given_ ? text_ : nullptr; }
    int size() const { return static_cast<int>(size_); }
    const char* seen() const { return given_ && std::memchr(text_, 0, size_) ? text_ : "(not given)"; }
    void check(int answer, const char* what) const {
        require(answer == 0 || answer == 1, "%s: answer %d", what, answer);
        if (!answer || !given_) return;
        require(std::memchr(text_, 0, size_), "%s: the error does not end", what);
        require(size_ == 1 || *text_, "%s: the error is empty", what);
    }

private:
    size_t size_;
    char* text_;
    bool given_;
};

// ---- a model -------------------------------------------------------------------------------------------------------

int padded(int n, int to) { return (n + to - 1) / to * to; }

struct Slot { NativeArray* array; bool required; };   // one that is read when the encoder is opened

class Model {
public:
    NativeSpec spec{};
    std::vector<Slot> slots;
    int last = 0;
    double work = 0;             // products of two numbers that a token takes
    std::vector<bool> odd;       // words whose embeddings are not finite, or huge

    Model(Random& random, int kind) : r_(random) {
        NativeSpec& s = spec;
        s.size = sizeof s, s.kind = kind;
        const bool small = r_.chance(0.5);
        const int most = small ? 64 : 200;
        s.vocab = r_.within(1, 60), s.hidden = r_.size(most);
        s.embedding = r_.chance(0.7) ? s.hidden : r_.size(most);
        s.token_types = r_.chance(0.5) ? r_.within(1, 3) : 0;
        s.layers = r_.within(1, 4), s.num_outputs = r_.within(1, s.layers);
        s.key_value_heads = r_.within(1, small ? 2 : 3), s.heads = s.key_value_heads * std::max(1, r_.within(-1, 3));
        s.head_size = r_.chance(0.8) ? r_.within(1, small ? 32 : 80) : r_.one_of({31, 32, 33, 64});
        s.num_angles = r_.chance(0.3) ? r_.within(1, 3) : 0;
        if (s.num_angles) s.head_size = padded(s.head_size, 2);
        s.inner = 64 * r_.within(1, small ? 2 : 5), s.inner_block = 64 * r_.within(1, s.inner / 64);
        s.placement = r_.within(NATIVE_AFTER, NATIVE_AROUND), s.activation = r_.within(0, 5);
        s.rms = r_.chance(0.3), s.causal = r_.chance(0.3);
        s.max_length = r_.chance(0.7) ? r_.within(1, 70) : r_.within(1, 400);
        s.first_position = r_.chance(0.3) ? r_.within(1, 3) : 0;
        s.pad_id = s.first_position && r_.chance(0.7) ? r_.within(0, s.vocab - 1) : -1;
        s.position_rows = r_.chance(0.6) ? s.first_position + s.max_length + r_.within(0, 2) : 0;
        if (s.heads == s.key_value_heads && r_.chance(0.5)) s.table_rows = r_.within(1, s.max_length + 200);
        s.eps = r_.one_of({1e-5f, 1e-6f, 1e-12f}), s.embedding_scale = r_.chance(0.7) ? 1.0f : 3.5f;

        const int width = padded(s.hidden, 64), embedding_width = padded(s.embedding, 64);
        const int head = padded(s.head_size, 32);
        const int queries = s.heads * head, keys = s.key_value_heads * head, blocks = (s.inner - 1) / s.inner_block + 1;
        words();
        if (s.token_types) floats(s.types, s.token_types, s.embedding, 0.3f);
        if (s.position_rows) floats(s.positions, s.position_rows, s.embedding, 0.3f);
        if (r_.chance(0.3)) floats(s.relative, s.heads, 2 * s.max_length - 1, 0.5f, false);
        if (s.table_rows) places();
        if (s.num_angles) {
            floats(s.cosines, s.num_angles * s.max_length, s.head_size / 2, 0.3f);
            floats(s.sines, s.num_angles * s.max_length, s.head_size / 2, 0.3f);
        }
        if (r_.chance(0.6)) norm(s.embedding_norm, embedding_width, false);
        if (r_.chance(0.5)) norm(s.final_norm, width, false);
        const bool projects = s.embedding != s.hidden || r_.chance(0.1);
        if (projects) matrix(s.projection, embedding_width, width, 1, s.embedding != s.hidden);

        int32_t* outputs = memory_.take<int32_t>(s.num_outputs);
        for (int i = 0; i < s.num_outputs; i++) last = std::max(last, outputs[i] = r_.within(0, s.layers - 1));
        set(s.outputs, outputs, 4ll * s.num_outputs, true);

        const bool after = s.placement == NATIVE_AFTER, around = s.placement == NATIVE_AROUND;
        const bool gated = r_.chance(0.3), head_norms = r_.chance(0.3), shared = r_.chance(0.2);
        layers = memory_.take<NativeLayer>(s.layers);
        std::fill(layers, layers + s.layers, NativeLayer{});
        s.layer = layers;
        for (int number = 0; number <= last; number++) {
            NativeLayer& layer = layers[number];
            if (number && shared) {
                layer = layers[r_.within(0, number - 1)];
            } else {
                matrix(layer.qkv, width, queries + 2 * keys, 1);
                matrix(layer.output, padded(queries, 64), width, 1);
                matrix(layer.up, width, s.inner, 1);
                if (gated) matrix(layer.gate, width, s.inner, 1, false);
                matrix(layer.down, s.inner, width, blocks);
                if (after || r_.chance(0.8)) norm(layer.attention_norm, width, after);
                norm(layer.mlp_norm, width, true);
                if (around) norm(layer.attention_output_norm, width, true), norm(layer.mlp_output_norm, width, true);
                if (s.table_rows) {
                    floats(layer.table_keys, s.heads * s.table_rows, head, 0.1f);
                    floats(layer.table_queries, s.heads * s.table_rows, head, 0.1f);
                }
                if (head_norms) norm(layer.query_norm, head, true), norm(layer.key_norm, head, true);
            }
            layer.angles = s.num_angles ? r_.within(-1, s.num_angles - 1) : -1;
            layer.window = r_.chance(0.6) ? -1 : r_.chance(0.9) ? r_.within(0, 80) : r_.one_of({INT_MAX, INT_MAX - 1});
        }
        const double products = width * (2.0 * queries + 2 * keys + (gated ? 3 : 2) * s.inner);
        work = (last + 1) * (products + 1.0 * queries * s.max_length + 2.0 * queries * s.table_rows)
               + (projects ? 1.0 * width * embedding_width : 0);
    }

    NativeLayer* layers = nullptr;

private:
    Random& r_;
    Memory memory_;

    void set(NativeArray& array, const void* data, int64_t bytes, bool required) {
        array = {data, bytes};
        slots.push_back({&array, required});
    }
    void floats(NativeArray& array, size_t rows, size_t columns, float scale, bool required = true, float middle = 0) {
        float* data = memory_.take<float>(rows * columns);
        for (size_t i = 0; i < rows * columns; i++) data[i] = middle + scale * r_.normal();
        set(array, data, static_cast<int64_t>(4 * rows * columns), required);
    }
    void words() {
        floats(spec.words, spec.vocab, spec.embedding, 1);
        odd.assign(spec.vocab, false);
        if (!r_.chance(0.3)) return;
        const float infinity = std::numeric_limits<float>::infinity();
        float* data = const_cast<float*>(static_cast<const float*>(spec.words.data));
        for (int word = 0; word < spec.vocab; word++) {
            if (!r_.chance(0.1)) continue;
            odd[word] = true;
            const float value = r_.one_of({std::nanf(""), infinity, -infinity, 3e38f, -3e38f, 1e-42f});
            for (int i = 0; i < spec.embedding; i++)
                if (r_.chance(0.5)) data[static_cast<size_t>(word) * spec.embedding + i] = value;
        }
    }
    void norm(NativeNorm& to, int width, bool required) {
        floats(to.gamma, 1, width, 0.1f, required, 1);
        if (r_.chance(0.6)) floats(to.beta, 1, width, 0.1f, false);
    }
    // Ascending, by steps of one, or by a few that are larger, in the middle, which every sequence reads.
    void places() {
        const int size = 2 * spec.max_length - 1;
        int32_t* data = memory_.take<int32_t>(size);
        const bool jumps = r_.chance(0.3);
        for (int i = 0, at = jumps ? 0 : r_.within(0, spec.table_rows - 1) / 2; i < size; i++) {
            data[i] = at;
            const bool far = jumps && std::abs(i + 1 - spec.max_length) < 10 && r_.chance(0.2);
            at = std::min(at + (far ? r_.within(1, 100) : r_.within(0, 1)), spec.table_rows - 1);
        }
        set(spec.places, data, 4ll * size, true);
    }
    // `required`: without its panels it is refused.
    void matrix(NativeMatrix& to, int rows, int columns, int blocks, bool required = true) {
        const int kind = spec.kind, in_block = blocks == 1 ? rows : spec.inner_block;
        const float usual = 1 / std::sqrt(static_cast<float>(rows));
        const int per_line = kind == NATIVE_FP32 ? 16 : kind == NATIVE_INT8 ? 64 : 32;
        const int parts = kind == NATIVE_SPLIT ? 2 : kind == NATIVE_STRICT ? 3 : 1;
        const size_t bytes = static_cast<size_t>(rows / per_line) * 16 * 128 * parts * ((columns + 31) / 32);
        uint8_t* panels = memory_.take<uint8_t>(bytes);
        // The largest whole numbers whose products over so many rows fit 32 bits, as in layout.h.
        const int top =
            in_block <= 384 ? 2047 : in_block <= 768 ? 1448 : static_cast<int>(std::sqrt(2147483647.0 / in_block));
        for (size_t i = 0; i < bytes;) {
            const float value = usual * r_.normal();
            if (kind == NATIVE_FP32) {
                std::memcpy(panels + i, &value, 4), i += 4;
            } else if (kind == NATIVE_INT8) {
                panels[i++] = static_cast<uint8_t>(r_.within(-127, 127));
            } else if (kind == NATIVE_INT16) {
                const int16_t whole = static_cast<int16_t>(r_.within(-top, top));
                std::memcpy(panels + i, &whole, 2), i += 2;
            } else {
                uint32_t bits;
                std::memcpy(&bits, &value, 4);
                const uint16_t half = static_cast<uint16_t>(bits >> 16);
                std::memcpy(panels + i, &half, 2), i += 2;
            }
        }
        set(to.panels, panels, static_cast<int64_t>(bytes), required);
        if (r_.chance(0.7)) floats(to.bias, 1, columns, 0.2f, false);
        const bool ranges = kind == NATIVE_INT8 || kind == NATIVE_INT16;
        const float unit = usual / (kind == NATIVE_INT8 ? 127.0f : static_cast<float>(top));
        if (ranges) floats(to.scale, blocks, columns, 0.1f * unit, required, unit);
        if (kind == NATIVE_INT8) floats(to.sums, blocks, columns, 0.1f, required);
        if (r_.chance(0.2)) floats(to.shares, 1, rows, 0.1f, false, 1);
    }
};

// ---- a batch -------------------------------------------------------------------------------------------------------

// What sequences are made of: the same ones are computed together and alone.
struct Text {
    std::vector<int32_t> ids, types;
    std::vector<uint8_t> seen, pooled;
    bool odd = false;   // has words that are not finite
};

std::vector<Text> texts_of(Random& random, const NativeSpec& s, const std::vector<bool>& odd, double most) {
    std::vector<Text> texts;
    const int longest = std::min(s.max_length, 400), count = random.within(1, 40);
    const int usual = std::min(longest, random.one_of({2, 4, 20, 400}));
    for (double left = most; static_cast<int>(texts.size()) < count && (texts.empty() || left > 0);) {
        int length = random.within(1, random.chance(0.05) ? longest : usual);
        length = std::max(1, std::min(length, static_cast<int>(left)));
        left -= length;
        Text text;
        for (int i = 0; i < length; i++) {
            text.ids.push_back(random.within(0, s.vocab - 1));
            text.types.push_back(s.token_types ? random.within(0, s.token_types - 1) : random.within(INT_MIN, INT_MAX));
            text.seen.push_back(random.chance(0.7)), text.pooled.push_back(random.chance(0.7));
            text.odd |= text.ids.back() < static_cast<int>(odd.size()) && odd[text.ids.back()];
        }
        texts.push_back(std::move(text));
    }
    return texts;
}

constexpr uint32_t UNWRITTEN = 0x7fc0dead;   // of the answer before it is there

class Batch {
public:
    NativeBatch given{};
    int32_t *ids, *types, *starts;
    uint8_t *seen, *pooled;
    size_t columns, rows;

    struct Parts { int pooling; bool types, seen, pooled; };
    static Parts parts(Random& r) {
        return {r.within(NATIVE_TOKENS, NATIVE_FIRST), r.chance(0.8), r.chance(0.3), r.chance(0.3)};
    }

    Batch(const NativeSpec& s, const std::vector<const Text*>& texts, const Parts& parts) {
        size_t tokens = 0;
        for (const Text* text : texts) tokens += text->ids.size();
        ids = memory_.take<int32_t>(tokens), types = memory_.take<int32_t>(tokens);
        starts = memory_.take<int32_t>(texts.size() + 1);
        seen = memory_.take<uint8_t>(tokens), pooled = memory_.take<uint8_t>(tokens);
        columns = static_cast<size_t>(s.hidden) * s.num_outputs;
        rows = parts.pooling == NATIVE_TOKENS ? tokens : texts.size();
        given.out = memory_.take<float>(rows * columns);
        clear();
        int at = 0, number = 0;
        for (const Text* text : texts) {
            starts[number++] = at;
            std::copy(text->ids.begin(), text->ids.end(), ids + at);
            std::copy(text->types.begin(), text->types.end(), types + at);
            std::copy(text->seen.begin(), text->seen.end(), seen + at);
            std::copy(text->pooled.begin(), text->pooled.end(), pooled + at);
            at += static_cast<int>(text->ids.size());
        }
        starts[number] = at;
        given.size = sizeof given, given.sequences = number, given.tokens = at, given.pooling = parts.pooling;
        given.ids = ids, given.starts = starts;
        if (parts.types) given.types = types;
        if (parts.seen) given.seen = seen;
        if (parts.pooled) given.pooled = pooled;
    }
    void clear() {
        for (size_t i = 0; i < rows * columns; i++) std::memcpy(given.out + i, &UNWRITTEN, 4);
    }
    // The numbers of sequence i, and how many.
    const float* answer(int i, size_t* count) const {
        const bool tokens = given.pooling == NATIVE_TOKENS;
        *count = columns * (tokens ? static_cast<size_t>(starts[i + 1] - starts[i]) : 1);
        return given.out + columns * static_cast<size_t>(tokens ? starts[i] : i);
    }

private:
    Memory memory_;
};

bool same(float a, float b) { return !std::memcmp(&a, &b, 4) || (std::isnan(a) && std::isnan(b)); }

// ---- what has to hold ----------------------------------------------------------------------------------------------

class Encoder {
public:
    Encoder(const Library& library, Random& random, const NativeSpec& spec, int threads)
        : library_(library), random_(random) {
        Error error(random);
        answer = library.open(&spec, threads, &encoder_, error.text(), error.size());
        error.check(answer, "open");
        require(!answer == (encoder_ != nullptr), "open: answer %d, and an encoder: %d", answer, encoder_ != nullptr);
        said = error.seen();
    }
    ~Encoder() { library_.close(encoder_); }
    Encoder(const Encoder&) = delete;
    Encoder& operator=(const Encoder&) = delete;
    int encode(const NativeBatch* batch, float* largest = nullptr) {
        Error error(random_);
        const int result = library_.encode(encoder_, batch, largest, error.text(), error.size());
        error.check(result, "encode");
        said = error.seen();
        return result;
    }
    int answer;
    std::string said;

private:
    const Library& library_;
    Random& random_;
    NativeEncoder* encoder_ = nullptr;
};

void check_results(const Library& library, Random& random, const Model& model, double work, int most_threads) {
    const NativeSpec& s = model.spec;
    if (random.chance(0.2)) work *= 8;   // enough for several chunks
    const std::vector<Text> texts = texts_of(random, s, model.odd, std::max(4.0, std::min(1200.0, work / model.work)));
    const int threads = random.within(std::min(2, most_threads), most_threads);
    Encoder one(library, random, s, 1), several(library, random, s, threads);
    require(!one.answer, "open: %s", one.said.c_str());
    require(!several.answer, "open: %s", several.said.c_str());

    const auto parts = Batch::parts(random);
    std::vector<const Text*> all;
    for (const Text& text : texts) all.push_back(&text);
    const auto run = [&](Encoder& encoder, Batch& batch, float* largest = nullptr) {
        require(!encoder.encode(&batch.given, largest), "encode: %s", encoder.said.c_str());
        counts.encoded++;
    };
    Batch together(s, all, parts), again(s, all, parts);
    Memory memory;
    float* largest = nullptr;
    if (random.chance(0.2)) {
        const size_t size = 2u * s.layers * padded(s.hidden, 64);
        largest = memory.take<float>(size);
        std::fill(largest, largest + size, 0.0f);
    }
    run(one, together, largest);
    run(several, again);
    const auto compare = [&](const Batch& ours, int i, const Batch& theirs, int j, const char* what) {
        size_t count, other;
        const float *a = ours.answer(i, &count), *b = theirs.answer(j, &other);
        require(count == other, "%zu numbers and %zu", count, other);
        for (size_t n = 0; n < count; n++)
            require(same(a[n], b[n]), "sequence %d of %zu, number %zu: %a, and %a %s", i, texts.size(), n, a[n], b[n],
                    what);
    };
    for (int i = 0; i < together.given.sequences; i++) {
        size_t count;
        const float* numbers = together.answer(i, &count);
        for (size_t n = 0; n < count; n++)
            require(texts[i].odd || std::isfinite(numbers[n]), "sequence %d, number %zu is %g", i, n, numbers[n]);
        for (size_t n = 0; n < count; n++)
            require(std::memcmp(numbers + n, &UNWRITTEN, 4), "number %zu was not written", n);
        compare(together, i, again, i, "with more threads");
    }
    for (int turn = 0; turn < 3; turn++) {
        const int i = random.within(0, together.given.sequences - 1);
        Batch alone(s, {all[i]}, parts);
        run(random.chance(0.5) ? one : several, alone);
        compare(together, i, alone, 0, "alone");
    }
    again.clear();
    run(several, again);   // in memory that others have used
    for (int i = 0; i < together.given.sequences; i++) compare(together, i, again, i, "again");
}

// ---- one thing wrong -----------------------------------------------------------------------------------------------

int32_t wild(Random& random, int32_t value) {
    const long long v = value;
    const long long choice = random.one_of<long long>({
        v - 1, v + 1, v + 1, v - 1, 2 * v, -v, v + 32, v + 64, v - 64, 0, -1, 1, 1 << 12, 1 << 16, (1 << 16) + 1,
        1 << 20, 1 << 24, (1 << 24) + 1, 1 << 30, INT_MAX, INT_MIN, random.within(INT_MIN, INT_MAX)});
    return static_cast<int32_t>(std::max<long long>(INT_MIN, std::min<long long>(INT_MAX, choice)));
}

// A description that was accepted has to work.
void use(Random& random, Encoder& encoder, const NativeSpec& spec, double work, const char* what) {
    counts.accepted++;
    const std::vector<Text> texts = texts_of(random, spec, {}, std::min(60.0, work));
    std::vector<const Text*> all;
    for (const Text& text : texts) all.push_back(&text);
    Batch batch(spec, all, Batch::parts(random));
    require(!encoder.encode(&batch.given), "%s: accepted, but then: %s", what, encoder.said.c_str());
}

void spoil_spec(const Library& library, Random& random, Model& model, double work, int most_threads) {
    const NativeSpec saved = model.spec;
    NativeSpec& s = model.spec;
    const double tokens = std::max(2.0, work / model.work / 4);
    // `must`: it has to be refused.
    const auto attempt = [&](bool must, const char* what, int threads = 0) {
        Encoder encoder(library, random, s, threads ? threads : random.within(1, most_threads));
        if (encoder.answer) {
            counts.refused++;
            return;
        }
        require(!must, "accepted: %s", what);
        use(random, encoder, s, tokens, what);
    };
    int32_t* const fields[] = {
        &s.kind, &s.vocab, &s.embedding, &s.token_types, &s.position_rows, &s.first_position, &s.pad_id, &s.hidden,
        &s.layers, &s.heads, &s.key_value_heads, &s.head_size, &s.inner, &s.inner_block, &s.placement, &s.activation,
        &s.rms, &s.causal, &s.max_length, &s.num_outputs, &s.num_angles, &s.table_rows};
    for (int turn = 0; turn < 12; turn++) {
        const int field = random.within(0, static_cast<int>(std::size(fields)) - 1);
        char what[64];
        const int32_t value = *fields[field] = wild(random, *fields[field]);
        std::snprintf(what, sizeof what, "field %d is %d", field, value);
        attempt(false, what);
        s = saved;
    }
    for (int turn = 0; turn < 8; turn++) {
        const Slot slot = model.slots[random.within(0, static_cast<int>(model.slots.size()) - 1)];
        const NativeArray before = *slot.array;
        switch (random.within(0, 3)) {
            case 0:
                slot.array->bytes += random.one_of<int64_t>({-1, 1, -4, 4, 64, -64, -before.bytes, -2 * before.bytes,
                                                             INT64_MAX - before.bytes, 1ll << 32, -(1ll << 32)});
                attempt(slot.array->bytes != before.bytes, "an array of another size");
                break;
            case 1:
                slot.array->data = nullptr;
                attempt(slot.required, "an array is missing");
                break;
            case 2:
                slot.array->data = static_cast<const char*>(before.data) + random.within(1, 3);
                attempt(true, "an array that begins at an odd place");
                break;
            default:
                *slot.array = {};
                attempt(slot.required, "an array is missing, with its size");
        }
        *slot.array = before;
    }
    const auto with = [&](auto& field, auto value, bool must, const char* what, int threads = 0) {
        const auto before = field;
        field = value;
        attempt(must, what, threads);
        field = before;
    };
    const float none = std::nanf("");
    switch (random.within(0, 10)) {
        case 0: with(s.size, s.size + random.one_of({-1, 1, -s.size, 8, INT_MAX - s.size}), true, "size"); break;
        case 1: with(s.kind, random.one_of({-1, int(NATIVE_KINDS), INT_MAX, INT_MIN}), true, "kind"); break;
        case 2: with(s.eps, random.one_of({none, -1e-5f, 1.0f, INFINITY}), true, "eps"); break;
        case 3: with(s.embedding_scale, random.one_of({none, INFINITY, -INFINITY}), true, "embedding_scale"); break;
        case 4: with(s.layer, static_cast<const NativeLayer*>(nullptr), true, "no layer"); break;
        case 5: attempt(true, "threads", random.one_of({-1, 1025, INT_MAX, INT_MIN})); break;
        case 6: {
            NativeLayer& layer = model.layers[random.within(0, model.last)];
            with(layer.angles, random.one_of({s.num_angles, s.num_angles + 1, INT_MAX}), true, "angles without tables");
            with(layer.angles, random.one_of({-2, INT_MIN}), false, "angles");
            break;
        }
        case 7: {
            int32_t* places = const_cast<int32_t*>(static_cast<const int32_t*>(s.places.data));
            const int last = 2 * s.max_length - 2;
            if (!places) break;
            with(places[random.within(0, last)], random.one_of({-1, s.table_rows, INT_MAX, INT_MIN}), true, "a place");
            const bool must = last && places[last] == places[last - 1];
            if (places[0] < places[last]) with(places[last], places[last] - 1, must, "places that descend");
            break;
        }
        case 8: {
            NativeLayer& layer = model.layers[random.within(0, model.last)];
            with(layer.window, wild(random, layer.window), false, "window");
            break;
        }
        case 9: {
            int32_t* outputs = const_cast<int32_t*>(static_cast<const int32_t*>(s.outputs.data));
            with(outputs[random.within(0, s.num_outputs - 1)], random.one_of({-1, s.layers, INT_MAX, INT_MIN}), true,
                 "an output");
            break;
        }
        default: {
            NativeLayer& layer = model.layers[random.within(0, model.last)];
            NativeNorm& norm = random.chance(0.5) ? layer.query_norm : layer.key_norm;
            if (norm.gamma.data) with(norm.gamma, NativeArray{}, true, "only one norm of heads");
            if (norm.gamma.data && model.last) {
                NativeLayer& other = model.layers[random.within(0, model.last)];
                const NativeNorm key = other.key_norm;
                other.key_norm = {};
                with(other.query_norm, NativeNorm{}, true, "norms of heads in some layers only");
                other.key_norm = key;
            }
        }
    }
    s = saved;
    Error error(random);
    NativeEncoder* encoder = nullptr;
    require(library.open(nullptr, 1, &encoder, error.text(), error.size()) == 1, "accepted: no spec");
    require(library.open(&s, 1, nullptr, error.text(), error.size()) == 1, "accepted: no place for the encoder");
    require(!encoder, "an encoder of nothing");
}

void spoil_batch(const Library& library, Random& random, Model& model, double work) {
    const NativeSpec& s = model.spec;
    Encoder encoder(library, random, s, random.within(1, 2));
    require(!encoder.answer, "open: %s", encoder.said.c_str());
    const double tokens = std::max(2.0, std::min(60.0, work / model.work / 4));
    const std::vector<Text> texts = texts_of(random, s, model.odd, tokens);
    std::vector<const Text*> all;
    for (const Text& text : texts) all.push_back(&text);
    Batch batch(s, all, Batch::parts(random));
    NativeBatch& b = batch.given;
    const auto refused = [&](const char* what) {
        require(encoder.encode(&b), "accepted: %s", what);
        counts.refused++;
        for (size_t i = 0; i < batch.rows * batch.columns; i++)
            require(!std::memcmp(b.out + i, &UNWRITTEN, 4), "refused, and written all the same: %s", what);
    };
    const auto with = [&](auto& field, auto value, const char* what) {
        const auto before = field;
        if (before == static_cast<std::decay_t<decltype(field)>>(value)) return;
        field = static_cast<std::decay_t<decltype(field)>>(value);
        refused(what);
        field = before;
    };
    const int at = random.within(0, b.tokens - 1), beyond = random.one_of({-1, INT_MIN, INT_MAX, 1 << 24});
    with(batch.ids[at], random.chance(0.5) ? s.vocab : beyond, "an id");
    if (s.token_types && b.types) with(batch.types[at], random.chance(0.5) ? s.token_types : beyond, "a type");
    with(b.size, b.size + random.one_of({-1, 1, -b.size}), "size");
    with(b.pooling, random.one_of({-1, 3, INT_MAX, INT_MIN}), "pooling");
    with(b.ids, nullptr, "no ids");
    with(b.starts, nullptr, "no starts");
    with(b.tokens, random.one_of({b.tokens - 1, b.tokens + 1, 0, -1, INT_MAX, INT_MIN}), "tokens");
    // No more than there are: of how many starts there are nobody tells the library.
    with(b.sequences, random.one_of({b.sequences - 1, 0, -1, INT_MIN, INT_MAX, b.tokens + 1}), "sequences");
    const int place = random.within(0, b.sequences);
    const int start = batch.starts[place];
    const int before = start - 1 - s.max_length, after = start + 1 + 2 * s.max_length;
    with(batch.starts[place], random.one_of({before, after, -1, INT_MIN, INT_MAX}), "a start");
    if (b.sequences > 1) {
        const int inner = random.within(1, b.sequences - 1);
        with(batch.starts[inner], batch.starts[inner - 1], "an empty sequence");
    }
    float* const out = b.out;
    b.out = nullptr;
    require(encoder.encode(&b), "accepted: no out");
    b.out = out;
    require(encoder.encode(nullptr), "accepted: no batch");
    Error error(random);
    require(library.encode(nullptr, &b, nullptr, error.text(), error.size()) == 1, "accepted: no encoder");
    require(!encoder.encode(&b), "no longer accepted: %s", encoder.said.c_str());
}

struct Options {
    unsigned long long seed = 0;
    long long iterations = LLONG_MAX;
    double seconds = 1e9, work = 0.5;
    int threads = 4;
};

void run(const Library& library, const Options& options) {
    require(library.version() == 2, "version %d", library.version());
    std::vector<int> kinds;
    for (int kind = -1; kind <= NATIVE_KINDS; kind++) if (library.computes(kind)) kinds.push_back(kind);
    require(!kinds.empty(), "it computes no kind");
    const double work = options.work * 1e6;
    const auto begin = std::chrono::steady_clock::now();
    const auto passed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
    for (; counts.iterations < options.iterations && passed() < options.seconds; counts.iterations++, ++*seed) {
        Random random(*seed);
        Model model(random, kinds[random.within(0, static_cast<int>(kinds.size()) - 1)]);
        check_results(library, random, model, work, options.threads);
        spoil_spec(library, random, model, work, options.threads);
        spoil_batch(library, random, model, work);
    }
    std::printf("{\"instructions\": \"%s\", \"iterations\": %lld, \"encoded\": %lld, \"refused\": %lld, "
                "\"accepted\": %lld, \"seconds\": %.1f}\n", library.instructions(), counts.iterations, counts.encoded,
                counts.refused, counts.accepted, passed());
}

}  // namespace

// The work is done in a process of its own, so that however it ends, its seed is known.
int main(int argc, char** argv) {
    Options options;
    require(argc >= 2, "usage: fuzz LIBRARY [--seed N] [--iterations N] [--seconds S] [--work MILLIONS] [--threads N]");
    for (int i = 2; i < argc; i += 2) {
        const std::string name = argv[i];
        require(i + 1 < argc, "%s has no value", argv[i]);
        if (name == "--seed") options.seed = std::strtoull(argv[i + 1], nullptr, 10);
        else if (name == "--iterations") options.iterations = std::atoll(argv[i + 1]);
        else if (name == "--seconds") options.seconds = std::atof(argv[i + 1]);
        else if (name == "--work") options.work = std::atof(argv[i + 1]);
        else if (name == "--threads") options.threads = std::atoi(argv[i + 1]);
        else require(false, "there is no option %s", argv[i]);
    }
    void* page = mmap(nullptr, sizeof *seed, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    require(page != MAP_FAILED, "no memory");
    seed = static_cast<unsigned long long*>(page);
    *seed = options.seed;
    const pid_t child = fork();
    require(child >= 0, "no process");
    if (!child) {
        run(Library(argv[1]), options);
        return 0;
    }
    int status = 0;
    require(waitpid(child, &status, 0) == child, "the process is lost");
    if (status == 0) return 0;
    if (WIFSIGNALED(status)) std::fprintf(stderr, "fuzz: ended by signal %d\n", WTERMSIG(status));
    std::fprintf(stderr, "fuzz: failed with --seed %llu --iterations 1\n", *seed);
    return 1;
}
