// Attention of one sequence, head by head: scores, softmax, and what the values give.
//
// Vaswani et al., 2017 (https://arxiv.org/abs/1706.03762). Both products are those of products.h: queries are rows of
// inputs, keys are turned into panels; odds are rows of inputs, values are panels. For L tokens and a head of D
// columns: 4 * L^2 * D operations, and of scores BLOCK_ROWS x L are in memory at a time.
//
// Scores come times log2(e) (it is in the queries, or in their norm), so that the softmax takes powers of two.
#pragma once
#include "activations.h"
#include "products.h"

namespace native {

// What tokens see of each other beside their own sequence.
struct Sight {
    bool causal = false;
    int window = -1;                    // -1: to the ends
    const float* relative = nullptr;    // of one head, for key - query from -(longest - 1) on
    int longest = 0;
    // Of one head, what queries make of the table's keys and keys of its queries, and the table's row by query - key.
    const float *by_query = nullptr, *by_key = nullptr;
    size_t by_width = 0;
    const int32_t* places = nullptr;
    int first_place = 0;                // the row that their first column is of
    const uint8_t* seen = nullptr;      // of the sequence's tokens, 0: it is hidden; none: all are seen

    bool is_plain() const { return !causal && window < 0 && !relative && !by_query && !seen; }
    // The keys that a query sees: [first, last).
    int first(int query) const { return window < 0 ? 0 : std::max(0, query - window); }
    int last(int query, int length) const {
        const int end = causal ? query + 1 : length;
        return window < 0 ? end : std::min(end, query + window + 1);
    }
};

constexpr float UNSEEN = -1e30f;

// One row of scores to odds, which come to lie in `odds`, not yet divided by their sum. Keys [begin, end) have scores,
// and are padded in `scores` to a multiple of 32; `begin` is a multiple of 32, and odds begin with it. Returns 1 / the
// sum.
template <class Kind>
INLINE float softmax(float* scores, int begin, int end, int query, int length, const Sight& sight,
                     const Rows<Kind>& odds, int row) {
    int from = begin, until = end;
    if (!sight.is_plain()) {
        from = sight.first(query), until = sight.last(query, length);
        if (sight.relative)
            for (int k = from; k < until; k++) scores[k] += sight.relative[sight.longest - 1 + k - query];
        if (sight.by_query)
            for (int k = from; k < until; k++) {
                const int place = sight.places[query - k] - sight.first_place;
                scores[k] += sight.by_query[place] + sight.by_key[k * sight.by_width + place];
            }
        if (sight.seen && std::any_of(sight.seen + from, sight.seen + until, [](uint8_t a) { return a; }))
            for (int k = from; k < until; k++)
                if (!sight.seen[k]) scores[k] = UNSEEN;
        // What it does not see has no odds at all.
        for (int k = begin; k < from; k++) scores[k] = UNSEEN;
    }
    const int tail = (until - begin) % LANES ? (until - begin) / LANES * LANES + begin : until;
    Vector most = all(UNSEEN);
    for (int k = begin; k < tail; k += LANES) most = max(most, load(scores + k));
    if (tail < until) most = max(most, after_first(all(UNSEEN), load(scores + tail), until - tail));
    const Vector top = all(largest(most));

    Vector total = all(0);
    const auto odd = [&](int k) __attribute__((always_inline)) {
        if (k >= until) return all(0);
        Vector a = exp2(load(scores + k) - top);
        if (k + LANES > until) a = keep_first(a, until - k);
        total = total + a;
        return a;
    };
    for (int k = begin; k < end; k += PANEL) {
        const Vector a = odd(k), b = odd(k + LANES);
        odds.put(row, (k - begin) / PANEL, a, b);
    }
    return 1 / sum(total);
}

// Where one head of one sequence is prepared.
template <class Kind> struct HeadBuffers {
    uint8_t *keys, *values;    // panels
    float* scores;             // [BLOCK_ROWS, longest, padded to PANEL]
    uint8_t* odds;
    float* sums;               // [BLOCK_ROWS, PANEL]
    // Of disentangled positions: some rows of a table, the same as panels, and what queries and keys make of it.
    Rows<Kind> table;
    uint8_t *table_keys, *table_queries;
    float *by_query, *by_key;

    static constexpr bool PACKS_VALUES = !std::is_same_v<Kind, Float>;
    static size_t key_bytes(int length, int head) {
        return static_cast<size_t>(divided(length, PANEL)) * Rows<Kind>::lines(head) * Kind::PARTS * BLOCK_BYTES;
    }
    static size_t value_bytes(int length, int head) {
        return PACKS_VALUES ? static_cast<size_t>(head / PANEL) * divided(length, PANEL) * Kind::PARTS * BLOCK_BYTES
                            : 0;
    }
    static size_t score_bytes(int length) { return static_cast<size_t>(BLOCK_ROWS) * padded(length, PANEL) * 4; }
    static size_t odds_bytes(int length) { return Rows<Kind>::bytes(BLOCK_ROWS, padded(length, 64)); }
};

// A head's keys as panels: column j of panel i is token 32 * i + j.
template <class Kind>
static void pack_keys(const Rows<Kind>& keys, int start, int length, int line, int head, uint8_t* to) {
    const int lines = Rows<Kind>::lines(head) * Kind::PARTS;
    for (int token = 0; token < length; token += LANES) {
        uint8_t* panel = to + static_cast<size_t>(token / PANEL) * lines * BLOCK_BYTES + token % PANEL * 4;
        const uint8_t* from = keys.line(start + token, line);
        for (int n = 0; n < lines; n++, from += keys.plane(), panel += BLOCK_BYTES)
            transpose(from, LINE, panel, STEP_BYTES);
    }
}

// A head's values in 16 bits as panels: a step is two tokens. Beyond the last token all is 0.
template <class Kind>
static void pack_values(const Rows<Kind>& values, int start, int length, int line, int head, uint8_t* to) {
    for (int panel = 0; panel < head / PANEL; panel++)
        for (int block = 0; block < divided(length, PANEL); block++)
            for (int part = 0; part < Kind::PARTS; part++, to += BLOCK_BYTES) {
                const uint8_t* from = values.line(start + block * PANEL, line + panel) + part * values.plane();
                const int rows = length - block * PANEL;
                for (int s = 0; s < STEPS; s++)
                    interleave(2 * s < rows ? from + 2 * s * LINE : nullptr,
                               2 * s + 1 < rows ? from + (2 * s + 1) * LINE : nullptr, to + s * STEP_BYTES);
            }
}

// A head's tables of relative positions, as keys and as queries: He et al., "DeBERTa", 2020
// (https://arxiv.org/abs/2006.03654). To a score comes what the query makes of its distance's key, and what
// the key makes of its distance's query.
struct Tables {
    const float *keys = nullptr, *queries = nullptr;   // [rows, head] each; or none
    const int32_t* places = nullptr;   // the row for each query - key, from -(longest - 1) on, ascending
    // The rows that a sequence reads: [first(), first() + count()). They may be more than there are distances.
    int first(int length, int longest) const { return places[longest - length]; }
    int count(int length, int longest) const {
        return places[longest + length - 2] - first(length, longest) + 1;
    }
};

// Rows [first, first + count) of a table, as panels.
template <class Kind>
static void pack_table(const float* from, int first, int count, int head, const Rows<Kind>& rows, uint8_t* to) {
    for (int r = 0; r < count; r++)
        for (int c = 0; c < head; c += PANEL) {
            const float* at = from + static_cast<size_t>(first + r) * head + c;
            rows.put(r, c / PANEL, load(at), load(at + LANES));
        }
    pack_keys(rows, 0, count, 0, head, to);
}

// Up to BLOCK_ROWS rows of a head times all columns of its panels: to [rows, ld].
template <class Kind>
static void multiply_all(const Rows<Kind>& rows, int row, int count, int line, int lines, const uint8_t* panels,
                         int columns, float* to, size_t ld) {
    for (int c = 0; c < columns; c += PANEL, panels += static_cast<size_t>(lines) * Kind::PARTS * BLOCK_BYTES)
        multiply<Kind>({rows.line(row, line), rows.plane(), panels, lines * STEPS}, count, columns - c <= LANES, to + c,
                       ld);
}

// A head of keys and values, and the heads of queries that read it. `put(row, head, panel, a, b)` gets what comes out
// for a token (row of the sequence), 32 columns at a time.
//
// Args: `heads` has queries, keys and, unless they are of Float, values; `head` columns of a head, padded; the first
// lines of keys and values; `panels` values of Float, which are panels as they are, [panel, token, 32].
template <class Kind, class Put>
static void attend(const Rows<Kind>& heads, const float* panels, size_t panel_size, int start, int length, int head,
                   int first_query, int num_queries, int key_line, int value_line, Sight sight, const float* relative,
                   const Tables& tables, const HeadBuffers<Kind>& buffers, const Put& put) {
    const int lines = Rows<Kind>::lines(head), ld = padded(length, PANEL);
    const size_t key_panel = static_cast<size_t>(lines) * Kind::PARTS * BLOCK_BYTES;
    pack_keys(heads, start, length, key_line, head, buffers.keys);
    if constexpr (HeadBuffers<Kind>::PACKS_VALUES) pack_values(heads, start, length, value_line, head, buffers.values);
    Rows<Kind> odds;
    odds.data = buffers.odds, odds.capacity = BLOCK_ROWS;
    float scale[BLOCK_ROWS];
    const Cut cut(length);
    int columns = 0;
    if (tables.keys) {
        const int first = tables.first(length, sight.longest);
        columns = tables.count(length, sight.longest);
        pack_table(tables.keys, first, columns, head, buffers.table, buffers.table_keys);
        pack_table(tables.queries, first, columns, head, buffers.table, buffers.table_queries);
        sight.by_width = padded(columns, PANEL), sight.by_key = buffers.by_key;
        sight.places = tables.places + sight.longest - 1, sight.first_place = first;
        sight.by_query = buffers.by_query;
        for (int block = 0, row = 0; block < cut.blocks; row += cut.of(block++))
            multiply_all(heads, start + row, cut.of(block), key_line, lines, buffers.table_queries, columns,
                         buffers.by_key + static_cast<size_t>(row) * sight.by_width, sight.by_width);
    }
    for (int query = first_query; query < first_query + num_queries; query++) {
        if (relative) sight.relative = relative + static_cast<size_t>(query) * (2 * sight.longest - 1);
        for (int block = 0, row = 0; block < cut.blocks; row += cut.of(block++)) {
            const int rows = cut.of(block), begin = sight.first(row) / PANEL * PANEL;
            const int end = sight.last(row + rows - 1, length);
            for (int k = begin; k < end; k += PANEL) {
                const Factors f{heads.line(start + row, query * lines), heads.plane(),
                                buffers.keys + k / PANEL * key_panel, lines * STEPS};
                multiply<Kind>(f, rows, end - k <= LANES, buffers.scores + k, ld);
            }
            if (tables.keys)
                multiply_all(heads, start + row, rows, query * lines, lines, buffers.table_keys, columns,
                             buffers.by_query, sight.by_width);
            for (int r = 0; r < rows; r++) {
                if (tables.keys) sight.by_query = buffers.by_query + r * sight.by_width;
                scale[r] = softmax<Kind>(buffers.scores + static_cast<size_t>(r) * ld, begin, end, row + r, length,
                                         sight, odds, r);
            }
            for (int panel = 0; panel < head / PANEL; panel++) {
                Factors f{odds.data, odds.plane(), nullptr, 0};
                if constexpr (HeadBuffers<Kind>::PACKS_VALUES) {
                    f.steps = padded(end - begin, PANEL) / 2;
                    f.panel = buffers.values + (static_cast<size_t>(panel) * divided(length, PANEL) + begin / PANEL)
                                               * Kind::PARTS * BLOCK_BYTES;
                } else {
                    f.steps = end - begin;
                    f.panel = reinterpret_cast<const uint8_t*>(panels + panel * panel_size
                                                               + static_cast<size_t>(start + begin) * PANEL);
                }
                multiply<Kind>(f, rows, false, buffers.sums, PANEL);
                for (int r = 0; r < rows; r++) {
                    const float* sums = buffers.sums + r * PANEL;
                    put(row + r, query, panel, load(sums) * all(scale[r]), load(sums + LANES) * all(scale[r]));
                }
            }
        }
    }
}

}  // namespace native
