// The encoder: tokens of several sequences, end to end and without padding, from their numbers to pooled layers.
//
// A chunk is some sequences whose rows stay in a core's second-level cache from layer to layer. One thread takes a
// chunk from its embeddings to its vectors, then the next one, without waiting for others. What is left over at the
// end, or a sequence that is alone, is shared by all threads: each takes some panels of every product, some heads, some
// rows.
#pragma once
#include <atomic>
#include <memory>
#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "attention.h"
#include "norms.h"
#include "products.h"
#include "spec.h"
#include "threads.h"

namespace native {

// ---- the model, checked and with zeros for what is not there --------------------------------------------------------

struct Layer {
    Matrix qkv, output, up, gate, down;
    Norm attention_norm, attention_output_norm, mlp_norm, mlp_output_norm, query_norm, key_norm;
    Tables tables;      // of all heads
    int window, angles;
};

struct Model {
    NativeSpec spec;            // its arrays are as checked
    int embedding_width, width, head, queries, query_width;   // padded: embeddings, hidden, a head, all queries
    Norm embedding_norm, final_norm;
    Matrix projection;
    std::vector<Layer> layers;
    std::vector<int> outputs;   // the layers wanted
    std::vector<float> zeros;

    int heads() const { return spec.heads; }
    int shared() const { return spec.key_value_heads; }
    int last_layer() const { return *std::max_element(outputs.begin(), outputs.end()); }
    bool turns() const { return spec.num_angles || layers[0].query_norm; }
    const float* row(const NativeArray& table, int number) const {
        return static_cast<const float*>(table.data) + static_cast<size_t>(number) * spec.embedding;
    }
};

// ---- memory ---------------------------------------------------------------------------------------------------------

// Memory in large pages, where the system has them.
class Arena {
public:
    static constexpr size_t KEPT = 128 << 20;   // bytes; more is given back after use: hardly any sequences need it

    Arena() = default;
    ~Arena() { release(); }
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    void reserve(size_t bytes) {
        if (bytes <= size_) return;
        release();
        const size_t page = 2 << 20;
        bytes = (bytes + page - 1) / page * page;
#ifdef __linux__
        void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) throw std::bad_alloc();
        if (bytes >= 4 * page) madvise(at, bytes, MADV_HUGEPAGE);
#else
        void* at = std::aligned_alloc(4096, bytes);
        if (!at) throw std::bad_alloc();
        std::memset(at, 0, bytes);
#endif
        data_ = static_cast<uint8_t*>(at), size_ = bytes;
    }
    uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

    void release() {
        if (!data_) return;
#ifdef __linux__
        munmap(data_, size_);
#else
        std::free(data_);
#endif
        data_ = nullptr, size_ = 0;
    }

private:
    uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

// Hands out parts of an arena; without one, counts what it will take.
class Parts {
public:
    explicit Parts(uint8_t* at) : at_(at) {}
    template <class T> T* take(size_t count) {
        T* part = at_ ? reinterpret_cast<T*>(at_ + used_) : nullptr;
        const size_t bytes = count * sizeof(T), whole = (bytes + 2 * LINE - 1) / LINE * LINE;
#ifdef __SANITIZE_ADDRESS__
        // At least a line between parts is nobody's.
        if (part) {
            __asan_unpoison_memory_region(part, bytes);
            __asan_poison_memory_region(at_ + used_ + bytes, whole - bytes);
        }
#endif
        used_ += whole;
        return part;
    }
    size_t used() const { return used_; }

private:
    uint8_t* at_;
    size_t used_ = 0;
};

// ---- the computation ------------------------------------------------------------------------------------------------

struct Batch {
    const NativeBatch* given;
    const int32_t* positions;   // [tokens], rows of the table
    float* largest = nullptr;   // [layers, 2, width]: to be filled with how large inputs of QKV and of the MLP become
};

class Encoder {
public:
    virtual ~Encoder() = default;
    virtual void encode(const Batch& batch) = 0;
};

// Attention's numbers: bf16 where it is the faster and other products are no more exact; else fp32.
#ifdef NATIVE_TILES
template <class Kind> struct AttentionOf { using Type = Kind; };
template <> struct AttentionOf<Byte> { using Type = Half; };
#else
template <class Kind> struct AttentionOf { using Type = Float; };
#ifdef __AVX512BF16__
template <> struct AttentionOf<Half> { using Type = Half; };
template <> struct AttentionOf<Byte> { using Type = Half; };
#endif
#endif

// The rows of a chunk on their way, one set for each thread.
template <class Kind> struct Chunk {
    using Attention = typename AttentionOf<Kind>::Type;
    float* hidden;                   // fp32 [capacity, width]
    float* raw;  // fp32 [capacity, raw_width]: what goes by way of fp32, or is normalized before it is added
    float* raw_inner;                // fp32 [capacity, inner_block]: the same of the MLP's inner columns
    int raw_width;
    Rows<Kind> inputs, context, inner;
    Rows<Attention> heads;           // queries and keys, and values unless they are panels
    float* values;                   // Float: values as panels
    size_t value_panel;              // floats of one
};

// What a thread needs for itself.
template <class Kind> struct Own {
    using Attention = typename AttentionOf<Kind>::Type;
    SumBuffers<typename Kind::Sum> sums;
    HeadBuffers<Attention> head;
    float* row;
};

template <class Kind> class EncoderOf final : public Encoder {
public:
    EncoderOf(const Model& model, int threads) : m_(model), pool_(threads), chunks_(threads + 1), owns_(threads + 1) {}

    void encode(const Batch& batch) override;

private:
    using Attention = typename AttentionOf<Kind>::Type;
    static constexpr bool VALUE_PANELS = std::is_same_v<Attention, Float>;

    // Some sequences, and who computes them: one thread, or all that come, which share what is done stage by stage.
    struct Work {
        const Batch& batch;
        int begin, end, start, tokens;   // sequences [begin, end), the first token, and how many
        Chunk<Kind>& chunk;
        Own<Kind>& own;
        Team* team;                      // none: this thread alone
        uint32_t stage;                  // of the team's, the one that this thread is at
    };
    // One stage: body(from, until) for parts of [0, n). It is done when this comes back.
    template <class Body> void each(Work& w, int n, const Body& body) {
        if (!w.team) body(0, n);
        else w.team->share(w.stage++, n, 4 * pool_.size(), body);
    }

    template <class Body> void each_row(Work& w, const Body& body) {
        each(w, w.tokens, [&](int from, int until) {
            for (int row = from; row < until; row++) body(row);
        });
    }
    // All rows times `panels` panels from `panel` on, see product().
    template <class Finish>
    void multiply_by(Work& w, const Rows<Kind>& rows, const Matrix& matrix, int k, int count, int panel, int panels,
                     const Finish& finish) {
        each(w, panels, [&](int from, int until) {
            product(rows, w.tokens, matrix, k, count, panel + from, panel + until, w.own.sums, finish);
        });
    }

    int capacity(int tokens) const { return padded(tokens, PANEL) + SPARE_ROWS + 1; }
    void reserve(int tokens, int longest);
    size_t lay_out(uint8_t* at, int tokens, int longest, Chunk<Kind>* chunk, Own<Kind>* own) const;
    std::vector<int> cut(const NativeBatch& batch, int* left) const;

    uint32_t compute(Work w);
    void embed(Work& w);
    void attention(Work& w, const Layer& layer);
    void write_heads(Work& w, const Layer& layer);
    void turn(Work& w, const Layer& layer, int row);
    void mlp(Work& w, const Layer& layer);
    template <Activation which> void inner(Work& w, const Layer& layer, int first, int count);
    void add(Work& w, const Rows<Kind>& inputs, const Matrix& matrix, int k, int count, int block, bool around);
    void normalize(Work& w, const Norm& norm, bool keep, const Matrix& next, float* largest);
    void add_normalized(Work& w, const Norm& norm);
    void emit(Work& w, int layer);

    const Model& m_;
    Pool pool_;
    Arena arena_;
    std::vector<Chunk<Kind>> chunks_;   // one for each thread, and one for the team
    std::vector<Own<Kind>> owns_;       // one for each thread, and one that is nobody's
    int reserved_tokens_ = 0, reserved_longest_ = 0;
};

// ---- memory, and who computes what ----------------------------------------------------------------------------------

template <class Kind>
size_t EncoderOf<Kind>::lay_out(uint8_t* at, int tokens, int longest, Chunk<Kind>* chunk, Own<Kind>* own) const {
    Parts parts(at);
    Chunk<Kind> c;
    Own<Kind> o;
    const size_t rows = capacity(tokens);
    const int block = m_.spec.inner_block, query_key = (m_.heads() + m_.shared()) * m_.head;
    const auto take = [&](auto& lines, int columns, int capacity = 0) {
        lines.capacity = capacity ? capacity : static_cast<int>(rows);
        lines.data = parts.take<uint8_t>(std::decay_t<decltype(lines)>::bytes(lines.capacity, columns));
        lines.scale = parts.take<float>(rows);
        lines.low = parts.take<float>(rows);
    };
    c.hidden = parts.take<float>(rows * m_.width);
    c.raw_width = std::max({m_.width, m_.query_width, m_.turns() ? query_key : 0});
    c.raw = parts.take<float>(rows * c.raw_width);
    c.raw_inner = parts.take<float>(rows * block);
    take(c.inputs, std::max(m_.width, m_.embedding_width));
    take(c.context, m_.query_width);
    take(c.inner, block);
    take(c.heads, query_key + (VALUE_PANELS ? 0 : m_.shared() * m_.head));
    c.value_panel = rows * PANEL;
    c.values = parts.take<float>(VALUE_PANELS ? c.value_panel * (m_.shared() * m_.head / PANEL) : 0);
    o.sums.partial = parts.take<typename Kind::Sum>(rows * PANEL);
    o.sums.last = parts.take<typename Kind::Sum>(2 * BLOCK_ROWS * PANEL);
    o.head.keys = parts.take<uint8_t>(HeadBuffers<Attention>::key_bytes(longest, m_.head));
    o.head.values = parts.take<uint8_t>(HeadBuffers<Attention>::value_bytes(longest, m_.head));
    o.head.scores = reinterpret_cast<float*>(parts.take<uint8_t>(HeadBuffers<Attention>::score_bytes(longest)));
    o.head.odds = parts.take<uint8_t>(HeadBuffers<Attention>::odds_bytes(longest));
    o.head.sums = parts.take<float>(BLOCK_ROWS * PANEL);
    const Tables& tables = m_.layers[0].tables;
    const int columns = tables.keys ? padded(tables.count(longest, m_.spec.max_length), PANEL) : 0;
    if (columns) {
        take(o.head.table, m_.head, columns + SPARE_ROWS);
        o.head.table_keys = parts.take<uint8_t>(HeadBuffers<Attention>::key_bytes(columns, m_.head));
        o.head.table_queries = parts.take<uint8_t>(HeadBuffers<Attention>::key_bytes(columns, m_.head));
        // A block writes all its rows, and with tiles 32.
        o.head.by_query = parts.take<float>(static_cast<size_t>(BLOCK_ROWS) * columns);
        o.head.by_key = parts.take<float>(static_cast<size_t>(padded(longest, BLOCK_ROWS)) * columns);
    }
    o.row = parts.take<float>(std::max(m_.width, m_.embedding_width));
    if (chunk) *chunk = c, *own = o;
    return parts.used();
}

template <class Kind> void EncoderOf<Kind>::reserve(int tokens, int longest) {
    if (tokens <= reserved_tokens_ && longest <= reserved_longest_) return;
    reserved_tokens_ = std::max(tokens, reserved_tokens_), reserved_longest_ = std::max(longest, reserved_longest_);
    // Threads' parts begin in pages of their own.
    const size_t each =
        (lay_out(nullptr, reserved_tokens_, reserved_longest_, nullptr, nullptr) + 4095) / 4096 * 4096 + 4096;
    arena_.reserve(each * chunks_.size());
    for (size_t i = 0; i < chunks_.size(); i++)
        lay_out(arena_.data() + i * each, reserved_tokens_, reserved_longest_, &chunks_[i], &owns_[i]);
}

// Tokens of a chunk: as many as keep their rows in the second-level cache, and panels in use.
#ifdef NATIVE_TILES
constexpr int CHUNK_TOKENS = 256;
#else
constexpr int CHUNK_TOKENS = 128;
#endif

// The first sequence of each chunk, and the number of sequences at the end. From chunk *left on, all threads compute
// together.
template <class Kind> std::vector<int> EncoderOf<Kind>::cut(const NativeBatch& batch, int* left) const {
    const int threads = pool_.size(), total = batch.tokens;
    std::vector<int> chunks{0};
    // As many chunks as go evenly to the threads, none larger than wished for.
    const int count = padded(divided(total, CHUNK_TOKENS), threads), target = divided(total, count);
    for (int i = 0; i < batch.sequences; i++)
        if (i > chunks.back() && batch.starts[i + 1] - batch.starts[chunks.back()] > target) chunks.push_back(i);
    const int found = static_cast<int>(chunks.size());
    *left = found / threads * threads;
    chunks.push_back(batch.sequences);
    return chunks;
}

template <class Kind> void EncoderOf<Kind>::encode(const Batch& batch) {
    const NativeBatch& given = *batch.given;
    int left = 0, most = 0, longest = 0;
    const std::vector<int> chunks = cut(given, &left);
    for (size_t i = 0; i + 1 < chunks.size(); i++)
        most = std::max(most, given.starts[chunks[i + 1]] - given.starts[chunks[i]]);
    for (int i = 0; i < given.sequences; i++) longest = std::max(longest, given.starts[i + 1] - given.starts[i]);
    reserve(most, longest);

    std::atomic<int> next{0};
    Team team;
    const auto work = [&](int number) {
        const FlushToZero flush;
        (void)flush;
        configure_tiles();
        const auto make = [&](int i, int chunk) {
            return Work{batch,
                        chunks[i],
                        chunks[i + 1],
                        given.starts[chunks[i]],
                        given.starts[chunks[i + 1]] - given.starts[chunks[i]],
                        chunks_[chunk],
                        owns_[number],
                        nullptr,
                        0};
        };
        for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < left;) compute(make(i, number));
        uint32_t stage = 0;
        for (int i = left; i + 1 < static_cast<int>(chunks.size()); i++) {
            Work w = make(i, pool_.size());
            w.team = &team, w.stage = stage;
            stage = compute(w);
        }
        release_tiles();
    };
    if (pool_.size() == 1) work(0); else pool_.run(work);
    if (arena_.size() > Arena::KEPT) {
        arena_.release();
        reserved_tokens_ = reserved_longest_ = 0;
    }
}

// ---- layer by layer -------------------------------------------------------------------------------------------------

// The stage after the last one, of a team's.
template <class Kind> uint32_t EncoderOf<Kind>::compute(Work w) {
    const int placement = m_.spec.placement, last = m_.last_layer();
    embed(w);
    for (int number = 0; number <= last; number++) {
        const Layer& layer = m_.layers[number];
        float* largest = w.batch.largest ? w.batch.largest + static_cast<size_t>(number) * 2 * m_.width : nullptr;
        const bool before = placement != NATIVE_AFTER;
        // With norms after, the hidden state is normalized already.
        normalize(w, before ? layer.attention_norm : Norm(), false, layer.qkv, largest);
        attention(w, layer);
        add(w, w.chunk.context, layer.output, 0, m_.query_width, 0, placement == NATIVE_AROUND);
        if (placement == NATIVE_AROUND) add_normalized(w, layer.attention_output_norm);
        normalize(w, before ? layer.mlp_norm : layer.attention_norm, !before, layer.up,
                  largest ? largest + m_.width : nullptr);
        mlp(w, layer);
        if (placement == NATIVE_AROUND) add_normalized(w, layer.mlp_output_norm);
        const bool is_final = number + 1 == m_.spec.layers && m_.final_norm;
        if (!before || is_final) {
            const Norm& norm = before ? m_.final_norm : layer.mlp_norm;
            each_row(w, [&](int r) {
                float* row = w.chunk.hidden + static_cast<size_t>(r) * m_.width;
                norm_row(norm, row, row, m_.spec.hidden, m_.width);
            });
        }
        emit(w, number);
    }
    return w.stage;
}

// Words, token types and positions, added up and normalized, to the hidden state.
template <class Kind> void EncoderOf<Kind>::embed(Work& w) {
    const NativeBatch& batch = *w.batch.given;
    const int size = m_.spec.embedding, width = m_.embedding_width;
    const bool projects = m_.projection.panels;
    const Vector scale = all(m_.spec.embedding_scale);
    each_row(w, [&](int row) {
        const int token = w.start + row;
        const float* word = m_.row(m_.spec.words, batch.ids[token]);
        const float* type =
            m_.spec.types.data ? m_.row(m_.spec.types, batch.types ? batch.types[token] : 0) : m_.zeros.data();
        const float* position =
            m_.spec.positions.data ? m_.row(m_.spec.positions, w.batch.positions[token]) : m_.zeros.data();
        float* to = projects ? w.own.row : w.chunk.hidden + static_cast<size_t>(row) * m_.width;
        int i = 0;
        for (; i + LANES <= size; i += LANES)
            store(to + i, fma(load(word + i), scale, load(type + i)) + load(position + i));
        if (i < size) {
            const int n = size - i;
            store(to + i, fma(load_first(word + i, n), scale, load_first(type + i, n)) + load_first(position + i, n));
            i += LANES;
        }
        for (; i < width; i += LANES) store(to + i, all(0));
        if (m_.embedding_norm) norm_row(m_.embedding_norm, to, to, size, width);
        if (projects) {
            if (m_.projection.shares)
                for (int k = 0; k < width; k += LANES) store(to + k, load(to + k) * load(m_.projection.shares + k));
            w.chunk.inputs.put_row(row, to, width);
        }
    });
    if (!projects) return;
    const Value<Kind> value(w.chunk.inputs, m_.projection, 0, m_.projection.bias);
    multiply_by(w, w.chunk.inputs, m_.projection, 0, width, 0, m_.width / PANEL,
            [&](const typename Kind::Sum* sums, int row, int panel) {
                float* to = w.chunk.hidden + static_cast<size_t>(row) * m_.width + panel * PANEL;
                for (int i = 0; i < PANEL; i += LANES) store(to + i, value(sums + i, row, panel * PANEL + i));
            });
}

// The hidden state as the next product's inputs, normalized if there is a norm; `keep`: so it stays in the hidden
// state, too.
template <class Kind>
void EncoderOf<Kind>::normalize(Work& w, const Norm& norm, bool keep, const Matrix& next, float* largest) {
    const int width = m_.width;
    each_row(w, [&](int r) {
        float *hidden = w.chunk.hidden + static_cast<size_t>(r) * width, *from = hidden;
        if (norm) {
            from = keep ? hidden : w.own.row;
            norm_row(norm, hidden, from, m_.spec.hidden, width);
        }
        if (largest)
            for (int i = 0; i < width; i += LANES) store(largest + i, max(abs(load(from + i)), load(largest + i)));
        if (next.shares) {
            for (int i = 0; i < width; i += LANES) store(w.own.row + i, load(from + i) * load(next.shares + i));
            from = w.own.row;
        }
        w.chunk.inputs.put_row(r, from, width);
    });
}

// norm(raw) added to the hidden state.
template <class Kind> void EncoderOf<Kind>::add_normalized(Work& w, const Norm& norm) {
    each_row(w, [&](int r) {
        float* hidden = w.chunk.hidden + static_cast<size_t>(r) * m_.width;
        norm_row(norm, w.chunk.raw + static_cast<size_t>(r) * w.chunk.raw_width, w.own.row, m_.spec.hidden,
                 m_.width);
        for (int i = 0; i < m_.width; i += LANES) store(hidden + i, load(hidden + i) + load(w.own.row + i));
    });
}

// A product added to the hidden state; `around`: to raw instead, the first block of K setting it.
template <class Kind>
void EncoderOf<Kind>::add(Work& w, const Rows<Kind>& inputs, const Matrix& matrix, int k, int count, int block,
                          bool around) {
    const Value<Kind> value(inputs, matrix, block, block ? m_.zeros.data() : matrix.bias);
    float* to = around ? w.chunk.raw : w.chunk.hidden;
    const int width = around ? w.chunk.raw_width : m_.width;
    const bool sets = around && !block;
    multiply_by(w, inputs, matrix, k, count, 0, m_.width / PANEL,
            [=](const typename Kind::Sum* sums, int row, int panel) __attribute__((always_inline)) {
                float* at = to + static_cast<size_t>(row) * width + panel * PANEL;
                for (int i = 0; i < PANEL; i += LANES) {
                    const Vector a = value(sums + i, row, panel * PANEL + i);
                    store(at + i, sets ? a : load(at + i) + a);
                }
            });
}

// Queries, keys and values to where attention reads them.
template <class Kind> void EncoderOf<Kind>::write_heads(Work& w, const Layer& layer) {
    const Value<Kind> value(w.chunk.inputs, layer.qkv, 0, layer.qkv.bias);
    const int query_key = (m_.heads() + m_.shared()) * m_.head / PANEL;
    const bool turns = m_.turns();
    const Chunk<Kind>& c = w.chunk;
    multiply_by(w, c.inputs, layer.qkv, 0, m_.width, 0, query_key + m_.shared() * m_.head / PANEL,
            [=](const typename Kind::Sum* sums, int row, int panel) __attribute__((always_inline)) {
                const Vector a = value(sums, row, panel * PANEL), b = value(sums + LANES, row, panel * PANEL + LANES);
                float* to = nullptr;
                if (panel < query_key && turns)
                    to = c.raw + static_cast<size_t>(row) * c.raw_width + panel * PANEL;
                else if (VALUE_PANELS && panel >= query_key)
                    to = c.values + (panel - query_key) * c.value_panel + static_cast<size_t>(row) * PANEL;
                if (to) store(to, a), store(to + LANES, b);
                else c.heads.put(row, panel, a, b);
            });
    if (!turns) return;
    each_row(w, [&](int row) { turn(w, layer, row); });
}

// Queries and keys of a token, normalized head by head and turned by its position's angles.
template <class Kind> void EncoderOf<Kind>::turn(Work& w, const Layer& layer, int row) {
    const int size = m_.spec.head_size, half = size / 2;
    const int32_t* starts = w.batch.given->starts;
    const int token = w.start + row;
    const int sequence =
        static_cast<int>(std::upper_bound(starts, starts + w.batch.given->sequences, token) - starts) - 1;
    const size_t place = static_cast<size_t>(std::max(0, layer.angles)) * m_.spec.max_length + token - starts[sequence];
    const size_t angle = layer.angles < 0 ? 0 : place * half;   // none: there need be no tables
    const float* cosine = static_cast<const float*>(m_.spec.cosines.data) + angle;
    const float* sine = static_cast<const float*>(m_.spec.sines.data) + angle;
    for (int head = 0; head < m_.heads() + m_.shared(); head++) {
        float* a = w.chunk.raw + static_cast<size_t>(row) * w.chunk.raw_width + head * m_.head;
        if (const Norm& norm = head < m_.heads() ? layer.query_norm : layer.key_norm)
            norm_row(norm, a, a, size, m_.head);
        for (int i = 0; i < half && layer.angles >= 0; i++) {
            const float x = a[i], y = a[i + half];
            a[i] = x * cosine[i] - y * sine[i];
            a[i + half] = y * cosine[i] + x * sine[i];
        }
        for (int c = 0; c < m_.head; c += PANEL)
            w.chunk.heads.put(row, (head * m_.head + c) / PANEL, load(a + c), load(a + c + LANES));
    }
}

template <class Kind> void EncoderOf<Kind>::attention(Work& w, const Layer& layer) {
    write_heads(w, layer);
    const NativeBatch& batch = *w.batch.given;
    const Chunk<Kind>& c = w.chunk;
    const int group = m_.heads() / m_.shared(), lines = Rows<Attention>::lines(m_.head), panels = m_.head / PANEL;
    const float* relative = static_cast<const float*>(m_.spec.relative.data);
    const auto put_to = [&](int start) {
        return [&c, this, start](int row, int query, int panel, Vector a, Vector b) {
            const int column = query * m_.head + panel * PANEL;
            if constexpr (Kind::BY_RANGE) {
                float* to = c.raw + static_cast<size_t>(start + row) * c.raw_width + column;
                store(to, a), store(to + LANES, b);
            } else {
                c.context.put(start + row, column / PANEL, a, b);
            }
        };
    };
    each(w, m_.shared(), [&](int from, int until) {
        for (int i = w.begin; i < w.end; i++) {
            const int start = batch.starts[i] - w.start, length = batch.starts[i + 1] - batch.starts[i];
            Sight sight;
            sight.causal = m_.spec.causal, sight.window = layer.window, sight.longest = m_.spec.max_length;
            sight.seen = batch.seen ? batch.seen + batch.starts[i] : nullptr;
            if (sight.seen && std::all_of(sight.seen, sight.seen + length, [](uint8_t a) { return a; }))
                sight.seen = nullptr;
            for (int head = from; head < until; head++) {
                const float* values =
                    VALUE_PANELS ? c.values + static_cast<size_t>(head) * panels * c.value_panel : nullptr;
                Tables tables = layer.tables;
                if (tables.keys) {
                    const size_t before = static_cast<size_t>(head) * m_.spec.table_rows * m_.head;
                    tables.keys += before, tables.queries += before;
                }
                attend(c.heads, values, c.value_panel, start, length, m_.head, head * group, group,
                       (m_.heads() + head) * lines, (m_.heads() + m_.shared() + head) * lines, sight, relative, tables,
                       w.own.head, put_to(start));
            }
        }
    });
    // What fills up the context's last line is 0.
    const int used = m_.heads() * m_.head;
    if (used == m_.query_width && !Kind::BY_RANGE) return;
    each_row(w, [&](int r) {
        if constexpr (Kind::BY_RANGE) {
            float* row = c.raw + static_cast<size_t>(r) * c.raw_width;
            for (int i = used; i < m_.query_width; i += LANES) store(row + i, all(0));
            c.context.put_row(r, row, m_.query_width);
        } else {
            c.context.put(r, used / PANEL, all(0), all(0));
        }
    });
}

// The MLP, some inner columns at a time, so that they stay in the second-level cache between its two products.
template <class Kind> void EncoderOf<Kind>::mlp(Work& w, const Layer& layer) {
    const bool around = m_.spec.placement == NATIVE_AROUND;
    for (int first = 0, block = 0; first < m_.spec.inner; first += m_.spec.inner_block, block++) {
        const int count = std::min(m_.spec.inner_block, m_.spec.inner - first);
        switch (static_cast<Activation>(m_.spec.activation)) {
            case Activation::GELU: inner<Activation::GELU>(w, layer, first, count); break;
            case Activation::GELU_NEW: inner<Activation::GELU_NEW>(w, layer, first, count); break;
            case Activation::RELU: inner<Activation::RELU>(w, layer, first, count); break;
            case Activation::SILU: inner<Activation::SILU>(w, layer, first, count); break;
            case Activation::TANH: inner<Activation::TANH>(w, layer, first, count); break;
            default: inner<Activation::LINEAR>(w, layer, first, count);
        }
        add(w, w.chunk.inner, layer.down, first, count, block, around);
    }
}

// Inner columns [first, first + count), activated. They go by way of fp32 where they are gated, or brought to a row's
// range.
template <class Kind> template <Activation which>
void EncoderOf<Kind>::inner(Work& w, const Layer& layer, int first, int count) {
    const Chunk<Kind>& c = w.chunk;
    const bool gated = layer.gate.panels;
    const Matrix& activated = gated ? layer.gate : layer.up;
    const Value<Kind> value(c.inputs, activated, 0, activated.bias), factor(c.inputs, layer.up, 0, layer.up.bias);
    float* raw = c.raw_inner;
    const int width = m_.spec.inner_block, before = first / PANEL;
    multiply_by(w, c.inputs, activated, 0, m_.width, before, count / PANEL,
            [=](const typename Kind::Sum* sums, int row, int panel) __attribute__((always_inline)) {
                const Vector a = activate<which>(value(sums, row, panel * PANEL));
                const Vector b = activate<which>(value(sums + LANES, row, panel * PANEL + LANES));
                if (Kind::BY_RANGE || gated) {
                    float* to = raw + static_cast<size_t>(row) * width + (panel - before) * PANEL;
                    store(to, a), store(to + LANES, b);
                } else if constexpr (!Kind::BY_RANGE) {
                    c.inner.put(row, panel - before, a, b);
                }
            });
    if (gated)
        multiply_by(w, c.inputs, layer.up, 0, m_.width, before, count / PANEL,
                [=](const typename Kind::Sum* sums, int row, int panel) __attribute__((always_inline)) {
                    float* to = raw + static_cast<size_t>(row) * width + (panel - before) * PANEL;
                    for (int i = 0; i < PANEL; i += LANES)
                        store(to + i, load(to + i) * factor(sums + i, row, panel * PANEL + i));
                });
    if (!Kind::BY_RANGE && !gated) return;
    each_row(w, [&](int row) { c.inner.put_row(row, raw + static_cast<size_t>(row) * width, count); });
}

// A layer that is wanted, pooled, to where it belongs in the answer.
template <class Kind> void EncoderOf<Kind>::emit(Work& w, int layer) {
    const NativeBatch& batch = *w.batch.given;
    const size_t size = m_.spec.hidden, whole = size * m_.outputs.size();
    const auto write = [&](size_t place, const float* row, Vector scale) {
        for (size_t i = 0; i < size; i += LANES) {
            const int n = static_cast<int>(std::min<size_t>(LANES, size - i));
            store_first(batch.out + place + i, load(row + i) * scale, n);
        }
    };
    for (size_t number = 0; number < m_.outputs.size(); number++) {
        if (m_.outputs[number] != layer) continue;
        if (batch.pooling == NATIVE_TOKENS) {
            each_row(w, [&](int row) {
                write((w.start + row) * whole + number * size, w.chunk.hidden + static_cast<size_t>(row) * m_.width,
                      all(1));
            });
            continue;
        }
        each(w, w.end - w.begin, [&](int from, int until) {
            for (int r = from; r < until; r++) {
                const int i = w.begin + r, start = batch.starts[i], length = batch.starts[i + 1] - start;
                const float* rows = w.chunk.hidden + static_cast<size_t>(start - w.start) * m_.width;
                const size_t place = i * whole + number * size;
                if (batch.pooling == NATIVE_FIRST) {
                    write(place, rows, all(1));
                    continue;
                }
                const uint8_t* pooled = batch.pooled ? batch.pooled + start : nullptr;
                int count = 0;
                for (int t = 0; t < length; t++) count += !pooled || pooled[t];
                const Vector share_of = all(1 / (static_cast<float>(count) + 1e-10f));
                for (size_t c = 0; c < size; c += LANES) {
                    Vector total = all(0);
                    for (int t = 0; t < length; t++)
                        if (!pooled || pooled[t]) total = total + load(rows + static_cast<size_t>(t) * m_.width + c);
                    store_first(batch.out + place + c, total * share_of,
                                static_cast<int>(std::min<size_t>(LANES, size - c)));
                }
            }
        });
    }
}

}  // namespace native
