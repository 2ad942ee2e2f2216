/* 3x3 convolutions by Winograd's minimal filtering: Lavin & Gray, CVPR 2016, arXiv:1509.09308.

   An output map is cut into tiles of 2x2 pixels, of which each reads 4x4 pixels of the input, d. With the kernel g,

       y = A^T [(G g G^T) * (B^T d B)] A,      16 products in place of 36: F(2x2, 3x3),

   where * is by element. Tiles of 4x4 pixels read 6x6, with 36 products in place of 144: F(4x4, 3x3). Summed over
   channels, each of the 16 or 36 positions is a matrix product of tiles and channels: M = V U. All tensors are channels
   last: x (n height width c), y (n height width d), weights (d 3 3 c). What lies outside of an image is zero, and there
   is no stride. winograd_conv.py calls this.

   A "cell" is 32 bits: a float32, or two bf16 numbers whose products are added at once. In bf16 the transforms, the
   sums over channels and the bias stay float32, and U, V and y are rounded. A block of tiles goes through all three
   stages before the next, so that V and M stay in the cache. Each output is one sum over all channels, in an order that
   depends on nothing else: neither on the other images nor on the number of threads. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define HAS_BF16 1
#else
#define HAS_BF16 0
#endif
/* Sums that are kept in registers: ROWS x 2 vectors for M, SOME x 2 for the gradient of U. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define ROWS 14
#define SOME 8
#else
#define ROWS 6
#define SOME 4
#endif
#define LANES (BYTES / 4)
#define COLUMNS (2 * LANES)
#define CHUNK 16 /* cells of neighbouring channels that are stored together */
#define APART 80 /* cells between positions, which would else lie a power of two apart, on few lines of the cache */
#define R restrict
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(BYTES), aligned(4), may_alias));

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec splat(float v) { return v - (vec){0}; }
INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t up(int64_t count, int64_t of) { return (count + of - 1) / of; }

#if HAS_BF16
/* LANES bf16 numbers as float32 and back, and two rounded vectors as pairs (low[i], high[i]). */
INLINE vec widen(const uint16_t *p) {
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
}
INLINE void narrow(uint16_t *p, vec v) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh((__m512)v)); }
INLINE vec join(vec low, vec high) { return (vec)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low); }
INLINE vec pairs(vec low, vec high) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (vec)_mm512_permutexvar_epi16(order, (__m512i)join(low, high));
}
INLINE vec multiplied(vec sum, vec a, vec b) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#endif

/* sum + a b, by cell */
INLINE vec add_product(vec sum, vec a, vec b, const int low) {
#if HAS_BF16
    if (low) return multiplied(sum, a, b);
#endif
    (void)low;
    return sum + a * b;
}

/* LANES numbers from the i-th on, of float32 or bf16 */
INLINE vec numbers(const char *p, int64_t i, const int low) {
#if HAS_BF16
    if (low) return widen((const uint16_t *)p + i);
#endif
    (void)low;
    return load((const float *)p + i);
}

INLINE void put(char *p, int64_t i, vec v, const int low) {
#if HAS_BF16
    if (low) {
        narrow((uint16_t *)p + i, v);
        return;
    }
#endif
    (void)low;
    store((float *)p + i, v);
}

/* The five finite points of F(4x4, 3x3): 0, +-A1, +-A2, with A1 A2 = 1. They round less than 0, +-1, +-2. */
#define A1 (2.0f / 3.0f)
#define A2 (3.0f / 2.0f)
#define SQUARES (A1 * A1 + A2 * A2)
#define N1 (2.0f * A1 * A1 * (A1 * A1 - A2 * A2))
#define N2 (2.0f * A2 * A2 * (A2 * A2 - A1 * A1))

/* Lines of the transforms: the products of B^T, A^T, A, G and G^T with numbers that lie `step`, or `from`, apart. The
   gradient of the weights is for tiles of 2x2 alone: with larger ones its error would be up to four times PyTorch's. */
INLINE void input_line(const vec *d, vec *v, const int step, const int tile) {
    const vec d1 = d[step], d2 = d[2 * step], d3 = d[3 * step];
    if (tile == 2) {
        v[0] = d[0] - d2;
        v[step] = d1 + d2;
        v[2 * step] = d2 - d1;
        v[3 * step] = d1 - d3;
    } else {
        const vec d4 = d[4 * step], even1 = d4 - A2 * A2 * d2, odd1 = A1 * d3 - A2 * d1;
        const vec even2 = d4 - A1 * A1 * d2, odd2 = A2 * d3 - A1 * d1;
        v[0] = d[0] + d4 - SQUARES * d2;
        v[step] = even1 + odd1;
        v[2 * step] = even1 - odd1;
        v[3 * step] = even2 + odd2;
        v[4 * step] = even2 - odd2;
        v[5 * step] = d1 + d[5 * step] - SQUARES * d3;
    }
}

INLINE void output_line(const vec *m, vec *y, const int from, const int to, const int tile) {
    const vec sum1 = m[from] + m[2 * from], difference1 = m[from] - m[2 * from];
    if (tile == 2) {
        y[0] = m[0] + sum1;
        y[to] = difference1 - m[3 * from];
    } else {
        const vec sum2 = m[3 * from] + m[4 * from], difference2 = m[3 * from] - m[4 * from];
        y[0] = m[0] + sum1 + sum2;
        y[to] = A1 * difference1 + A2 * difference2;
        y[2 * to] = A1 * A1 * sum1 + A2 * A2 * sum2;
        y[3 * to] = A1 * A1 * A1 * difference1 + A2 * A2 * A2 * difference2 + m[5 * from];
    }
}

INLINE void gradient_line(const vec *y, vec *m, const int from, const int to) {
    m[0] = y[0];
    m[to] = y[0] + y[from];
    m[2 * to] = y[0] - y[from];
    m[3 * to] = -y[from];
}

INLINE void kernel_line(const vec *g, vec *u, const int step, const int tile) {
    const vec g0 = g[0], g1 = g[step], g2 = g[2 * step];
    u[0] = g0;
    if (tile == 2) {
        u[step] = 0.5f * (g0 + g2) + 0.5f * g1;
        u[2 * step] = 0.5f * (g0 + g2) - 0.5f * g1;
        u[3 * step] = g2;
    } else {
        const vec even1 = 1.0f / N1 * g0 + A1 * A1 / N1 * g2, odd1 = A1 / N1 * g1;
        const vec even2 = 1.0f / N2 * g0 + A2 * A2 / N2 * g2, odd2 = A2 / N2 * g1;
        u[step] = even1 + odd1;
        u[2 * step] = even1 - odd1;
        u[3 * step] = even2 + odd2;
        u[4 * step] = even2 - odd2;
        u[5 * step] = g2;
    }
}

INLINE void kernel_back_line(const vec *u, vec *g, const int from, const int to) {
    const vec half = 0.5f * (u[from] + u[2 * from]);
    g[0] = u[0] + half;
    g[to] = 0.5f * (u[from] - u[2 * from]);
    g[2 * to] = half + u[3 * from];
}

/* v = B^T d B */
INLINE void transform_input(const vec *d, vec *v, const int tile) {
    const int side = tile + 2;
    vec t[36];
#pragma GCC unroll 6
    for (int j = 0; j < side; j++) input_line(d + j, t + j, side, tile);
#pragma GCC unroll 6
    for (int i = 0; i < side; i++) input_line(t + side * i, v + side * i, 1, tile);
}

/* y = A^T m A */
INLINE void transform_output(const vec *m, vec *y, const int tile) {
    const int side = tile + 2;
    vec t[24];
#pragma GCC unroll 6
    for (int j = 0; j < side; j++) output_line(m + j, t + j, side, side, tile);
#pragma GCC unroll 4
    for (int i = 0; i < tile; i++) output_line(t + side * i, y + tile * i, 1, 1, tile);
}

/* m = A y A^T, by which gradients of y become those of M, for tiles of 2x2 */
INLINE void transform_gradient(const vec *y, vec *m) {
    vec t[8];
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) gradient_line(y + j, t + j, 2, 2);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) gradient_line(t + 2 * i, m + 4 * i, 1, 1);
}

/* u = G g G^T */
INLINE void transform_kernel(const vec *g, vec *u, const int tile) {
    const int side = tile + 2;
    vec t[18];
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++) kernel_line(g + j, t + j, 3, tile);
#pragma GCC unroll 6
    for (int i = 0; i < side; i++) kernel_line(t + 3 * i, u + side * i, 1, tile);
}

/* g = G^T u G, by which gradients of U become those of the kernel, for tiles of 2x2 */
INLINE void transform_kernel_back(const vec *u, vec *g) {
    vec t[12];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) kernel_back_line(u + j, t + j, 4, 4);
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) kernel_back_line(t + 4 * i, g + 3 * i, 1, 1);
}

/* m (ROWS COLUMNS) = a b, with a (depth / CHUNK, ROWS, CHUNK) and b (depth, COLUMNS) in cells */
INLINE void multiply(const float *R a, const float *R b, float *R m, int64_t depth, const int low) {
    vec s[ROWS][2];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) s[r][0] = s[r][1] = (vec){0};
    for (int64_t k = 0; k < depth; k += CHUNK, a += ROWS * CHUNK) {
        for (int i = 0; i < CHUNK; i++, b += COLUMNS) {
            const vec b0 = load(b), b1 = load(b + LANES);
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; r++) {
                const vec v = splat(a[r * CHUNK + i]);
                s[r][0] = add_product(s[r][0], v, b0, low);
                s[r][1] = add_product(s[r][1], v, b1, low);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
        store(m + r * COLUMNS, s[r][0]);
        store(m + r * COLUMNS + LANES, s[r][1]);
    }
}

/* u (SOME COLUMNS) += a^T b, with the first SOME columns of a (depth CHUNK), and b (depth COLUMNS) in cells */
INLINE void multiply_turned(const float *R a, const float *R b, float *R u, int64_t depth, const int low) {
    vec s[SOME][2];
#pragma GCC unroll 8
    for (int r = 0; r < SOME; r++) s[r][0] = s[r][1] = (vec){0};
    for (int64_t k = 0; k < depth; k++, a += CHUNK, b += COLUMNS) {
        const vec b0 = load(b), b1 = load(b + LANES);
#pragma GCC unroll 8
        for (int r = 0; r < SOME; r++) {
            const vec v = splat(a[r]);
            s[r][0] = add_product(s[r][0], v, b0, low);
            s[r][1] = add_product(s[r][1], v, b1, low);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < SOME; r++) {
        store(u + r * COLUMNS, load(u + r * COLUMNS) + s[r][0]);
        store(u + r * COLUMNS + LANES, load(u + r * COLUMNS + LANES) + s[r][1]);
    }
}

/* The sizes of a call: images of height x width; tiles in a row, in an image and in all; bytes of a number. */
typedef struct {
    int64_t height, width, wide, each, tiles, size;
} Sizes;

INLINE Sizes sizes_of(int64_t n, int64_t height, int64_t width, int64_t low, int64_t tile) {
    const int64_t wide = up(width, tile), each = up(height, tile) * wide;
    return (Sizes){height, width, wide, each, n * each, low ? 2 : 4};
}

/* The addresses of side x side pixels of the t-th tile, from its corner + before on; `zero` for those outside. */
INLINE void pixels(const char **p, const int side, const int before, const char *x, const char *zero, Sizes s,
                   int64_t t, int64_t c, const int tile) {
    const int64_t image = t / s.each, in = t % s.each;
    const int64_t top = tile * (in / s.wide) + before, left = tile * (in % s.wide) + before;
    for (int i = 0; i < side; i++)
        for (int j = 0; j < side; j++) {
            const int64_t y = top + i, z = left + j;
            const int inside = t < s.tiles && y >= 0 && y < s.height && z >= 0 && z < s.width;
            p[side * i + j] = inside ? x + ((image * s.height + y) * s.width + z) * c * s.size : zero;
        }
}

int winograd_has_bf16(void) { return HAS_BF16; }

/* The cells of U. */
int64_t winograd_weight_size(int64_t c, int64_t d, int64_t low, int64_t tile) {
    return (tile + 2) * (tile + 2) * (c * d / (low ? 2 : 1) + APART);
}

/* In bf16, V has channels in the order in which they are read fastest: the even ones of a chunk, then the odd ones.
   This is the channel of a chunk in the half (0, 1) of a cell. */
INLINE int channel_of(int cell, int half) {
    return cell < CHUNK / 2 ? 4 * cell + 2 * half : 4 * (cell - CHUNK / 2) + 2 * half + 1;
}

INLINE void weights(const float *R weight, float *R u, int64_t d, int64_t c, int64_t first, int64_t last,
                    const int back, const int low, const int tile) {
    const int64_t in = back ? d : c, out = back ? c : d, cells = low ? in / 2 : in, step = out * cells + APART;
    const int channels = low ? 2 * CHUNK : CHUNK, squared = (tile + 2) * (tile + 2);
    float turned[2 * CHUNK][9][LANES] __attribute__((aligned(64)));
    for (int64_t o = first; o < last; o += LANES)
        for (int64_t k = 0; k < in; k += channels) {
            float *to = u + o / COLUMNS * COLUMNS * cells + o % COLUMNS + (low ? k / 2 : k) * COLUMNS;
            if (back)
                for (int i = 0; i < channels; i++)
                    for (int a = 0; a < 9; a++) store(turned[i][a], load(weight + ((k + i) * 9 + 8 - a) * c + o));
            else
                for (int l = 0; l < LANES; l++)
                    for (int a = 0; a < 9; a++) {
                        const float *from = weight + ((o + l) * 9 + a) * c + k;
                        __builtin_prefetch(from + 4 * CHUNK, 0, 2);
                        for (int i = 0; i < channels; i++) turned[i][a][l] = from[i];
                    }
            for (int i = 0; i < CHUNK; i++, to += COLUMNS) {
                vec g[9], one[36];
                for (int a = 0; a < 9; a++) g[a] = load(turned[low ? channel_of(i, 0) : i][a]);
                transform_kernel(g, one, tile);
#if HAS_BF16
                if (low) {
                    vec two[36];
                    for (int a = 0; a < 9; a++) g[a] = load(turned[channel_of(i, 1)][a]);
                    transform_kernel(g, two, tile);
                    for (int a = 0; a < squared; a++) one[a] = pairs(one[a], two[a]);
                }
#endif
                for (int a = 0; a < squared; a++) store(to + a * step, one[a]);
            }
        }
}

/* U ((tile + 2)^2, d / COLUMNS, cells of c, COLUMNS), for the output channels first..last, multiples of 32. With `back`
   it is that of the convolution which takes the gradient of y to the gradient of x: its kernels are turned by half a
   turn, it sums over d, and it has c output channels. In bf16 a tile is 2. Returns 0. */
int winograd_weight(const float *weight, float *u, int64_t d, int64_t c, int64_t first, int64_t last,
                    int64_t back, int64_t low, int64_t tile) {
    if (low && back) weights(weight, u, d, c, first, last, 1, HAS_BF16, 2);
    else if (low) weights(weight, u, d, c, first, last, 0, HAS_BF16, 2);
    else if (tile == 2) weights(weight, u, d, c, first, last, back, 0, 2);
    else weights(weight, u, d, c, first, last, back, 0, 4);
    return 0;
}

/* V of one tile: `channels` of them, a chunk every ROWS * CHUNK cells, a position every `step` */
INLINE void spread(const char **p, float *R v, int64_t channels, int64_t step, const int low, const int tile) {
    const int squared = (tile + 2) * (tile + 2);
#if HAS_BF16
    if (low) {
        for (int64_t k = 0; k < channels; k += 2 * CHUNK, v += ROWS * CHUNK) {
            vec d[16], even[16], odd[16];
            for (int a = 0; a < 16; a++)
                d[a] = (vec)_mm512_slli_epi32(_mm512_loadu_si512(p[a] + 2 * k), 16);
            transform_input(d, even, 2);
            for (int a = 0; a < 16; a++)
                d[a] = (vec)_mm512_and_si512(_mm512_loadu_si512(p[a] + 2 * k), _mm512_set1_epi32(-65536));
            transform_input(d, odd, 2);
            for (int a = 0; a < 16; a++) store(v + a * step, join(even[a], odd[a]));
        }
        return;
    }
#endif
    (void)low;
    for (int64_t k = 0; k < channels; k += CHUNK, v += ROWS * CHUNK)
        for (int l = 0; l < CHUNK; l += LANES) {
            vec d[36], to[36];
#pragma GCC unroll 36
            for (int a = 0; a < squared; a++) d[a] = load((const float *)p[a] + k + l);
            transform_input(d, to, tile);
#pragma GCC unroll 36
            for (int a = 0; a < squared; a++) store(v + a * step + l, to[a]);
        }
}

INLINE int convolve(const char *R x, const float *R u, const float *R bias, char *R y, Sizes s, int64_t c, int64_t d,
                    int64_t first, int64_t last, const int low, const int tile) {
    const int side = tile + 2, squared = side * side;
    const int64_t cells = low ? c / 2 : c, of_u = cells * d + APART, panels = d / COLUMNS;
    /* U is read once for each block: the larger it is, the more tiles a block has */
    int64_t groups = c * d / 16384;
    groups = smaller(groups < 1 ? 1 : groups > 16 ? 16 : groups, up(last - first, ROWS));
    const int64_t most = groups * ROWS, of_v = most * cells, of_m = most * d;
    float *const memory = aligned_alloc(64, sizeof(float) * (squared * (of_v + of_m) + c));
    if (!memory) return 1;
    float *const v = memory, *const m = v + squared * of_v, *const zero = m + squared * of_m;
    memset(zero, 0, sizeof(float) * c);
    for (int64_t begin = first; begin < last; begin += most) {
        const int64_t count = smaller(last - begin, most), rounded = up(count, ROWS) * ROWS;
        for (int64_t t = 0; t < rounded; t++) {
            const char *p[36];
            pixels(p, side, -1, x, (const char *)zero, s, t < count ? begin + t : s.tiles, c, tile);
            spread(p, v + (t / ROWS) * ROWS * cells + t % ROWS * CHUNK, c, of_v, low, tile);
        }
        for (int a = 0; a < squared; a++)
            for (int64_t j = 0; j < panels; j++)
                for (int64_t g = 0; g * ROWS < count; g++)
                    multiply(v + a * of_v + g * ROWS * cells, u + a * of_u + j * cells * COLUMNS,
                             m + a * of_m + (g * panels + j) * ROWS * COLUMNS, cells, low);
        for (int64_t t = 0; t < count; t++) {
            const int64_t image = (begin + t) / s.each, in = (begin + t) % s.each;
            const int64_t top = tile * (in / s.wide), left = tile * (in % s.wide);
            const int64_t down = s.height - top, right = s.width - left; /* pixels that are inside */
            char *const to = y + ((image * s.height + top) * s.width + left) * d * s.size;
            const float *from = m + (t / ROWS) * panels * ROWS * COLUMNS + t % ROWS * COLUMNS;
            for (int64_t k = 0; k < d; k += LANES) {
                const float *q = from + (k / COLUMNS) * ROWS * COLUMNS + k % COLUMNS;
                const vec more = bias ? load(bias + k) : (vec){0};
                vec e[36], out[16];
#pragma GCC unroll 36
                for (int a = 0; a < squared; a++) e[a] = load(q + a * of_m);
                transform_output(e, out, tile);
#pragma GCC unroll 4
                for (int i = 0; i < tile; i++)
#pragma GCC unroll 4
                    for (int j = 0; j < tile; j++)
                        if (i < down && j < right) put(to, (i * s.width + j) * d + k, out[tile * i + j] + more, low);
            }
        }
    }
    free(memory);
    return 0;
}

/* y = x convolved with the weights of u, plus bias (d) unless it is NULL, for the tiles first..last of those of all
   images. c and d are multiples of 32. Returns 0, or 1 if there is no memory. */
int winograd_conv(const void *x, const float *u, const float *bias, void *y, int64_t n, int64_t height, int64_t width,
                  int64_t c, int64_t d, int64_t first, int64_t last, int64_t low, int64_t tile) {
    const Sizes s = sizes_of(n, height, width, low, tile);
    if (low) return convolve(x, u, bias, y, s, c, d, first, last, HAS_BF16, 2);
    if (tile == 2) return convolve(x, u, bias, y, s, c, d, first, last, 0, 2);
    return convolve(x, u, bias, y, s, c, d, first, last, 0, 4);
}

INLINE int gradient(const char *R x, const char *R grad, float *R weight, Sizes s, int64_t c, int64_t d, int64_t first,
                    int64_t last, const int low) {
    const int64_t channels = last - first, panels = d / COLUMNS;
    int64_t most = c * d / 4096 * ROWS; /* tiles of a block: the gradient of U is read and written once for each */
    most = smaller(most < 4 * ROWS ? 4 * ROWS : most > 16 * ROWS ? 16 * ROWS : most, up(s.tiles, 2) * 2);
    const int tiles = low ? 2 : 1; /* of a cell */
    const int64_t cells = most / tiles, of_v = cells * channels, of_m = cells * d, of_u = channels * d;
    float *const memory = aligned_alloc(64, sizeof(float) * (16 * (of_v + of_m + of_u) + (c > d ? c : d)));
    if (!memory) return 1;
    float *const v = memory, *const m = v + 16 * of_v, *const u = m + 16 * of_m, *const zero = u + 16 * of_u;
    memset(zero, 0, sizeof(float) * (c > d ? c : d));
    memset(m, 0, sizeof(float) * 16 * (of_m + of_u));
    for (int64_t begin = 0; begin < s.tiles; begin += most) {
        const int64_t count = up(smaller(s.tiles - begin, most), tiles);
        for (int64_t t = 0; t < count; t++) {
            const char *p[2][16], *q[2][4];
            for (int h = 0; h < tiles; h++) {
                pixels(p[h], 4, -1, x, (const char *)zero, s, begin + tiles * t + h, c, 2);
                pixels(q[h], 2, 0, grad, (const char *)zero, s, begin + tiles * t + h, d, 2);
            }
            for (int64_t k = 0; k < channels; k += LANES) {
                float *to = v + (k / CHUNK * cells + t) * CHUNK + k % CHUNK;
                vec e[2][16], f[16];
                for (int h = 0; h < tiles; h++) {
#pragma GCC unroll 16
                    for (int a = 0; a < 16; a++) f[a] = numbers(p[h][a], first + k, low);
                    transform_input(f, e[h], 2);
                }
#if HAS_BF16
                if (low)
                    for (int a = 0; a < 16; a++) e[0][a] = pairs(e[0][a], e[1][a]);
#endif
#pragma GCC unroll 16
                for (int a = 0; a < 16; a++) store(to + a * of_v, e[0][a]);
            }
            for (int64_t k = 0; k < d; k += LANES) {
                float *to = m + (k / COLUMNS * cells + t) * COLUMNS + k % COLUMNS;
                vec e[2][16], f[4];
                for (int h = 0; h < tiles; h++) {
#pragma GCC unroll 4
                    for (int a = 0; a < 4; a++) f[a] = numbers(q[h][a], k, low);
                    transform_gradient(f, e[h]);
                }
#if HAS_BF16
                if (low)
                    for (int a = 0; a < 16; a++) e[0][a] = pairs(e[0][a], e[1][a]);
#endif
#pragma GCC unroll 16
                for (int a = 0; a < 16; a++) store(to + a * of_m, e[0][a]);
            }
        }
        for (int a = 0; a < 16; a++)
            for (int64_t j = 0; j < panels; j++)
                for (int64_t k = 0; k < channels; k += SOME)
                    multiply_turned(v + a * of_v + k / CHUNK * cells * CHUNK + k % CHUNK,
                                    m + a * of_m + j * cells * COLUMNS, u + a * of_u + (j * channels + k) * COLUMNS,
                                    count, low);
    }
    float turned[9][CHUNK][LANES] __attribute__((aligned(64)));
    for (int64_t o = 0; o < d; o += LANES)
        for (int64_t k = 0; k < channels; k += CHUNK) {
            for (int i = 0; i < CHUNK; i++) {
                const float *from = u + (o / COLUMNS * channels + k + i) * COLUMNS + o % COLUMNS;
                vec e[16], g[9];
#pragma GCC unroll 16
                for (int a = 0; a < 16; a++) e[a] = load(from + a * of_u);
                transform_kernel_back(e, g);
#pragma GCC unroll 9
                for (int a = 0; a < 9; a++) store(turned[a][i], g[a]);
            }
            for (int l = 0; l < LANES; l++)
                for (int a = 0; a < 9; a++)
                    for (int i = 0; i < CHUNK; i++) weight[((o + l) * 9 + a) * c + first + k + i] = turned[a][i][l];
        }
    free(memory);
    return 0;
}

/* The gradient of the weights, (d 3 3 c) in float32, from x and the gradient of y: for the input channels first..last,
   which are multiples of 32. Returns 0, or 1 if there is no memory. */
int winograd_weight_gradient(const void *x, const void *grad, float *weight, int64_t n, int64_t height, int64_t width,
                             int64_t c, int64_t d, int64_t first, int64_t last, int64_t low) {
    const Sizes s = sizes_of(n, height, width, low, 2);
    if (low) return gradient(x, grad, weight, s, c, d, first, last, HAS_BF16);
    return gradient(x, grad, weight, s, c, d, first, last, 0);
}
