/* SimCLR's views of float32 images with three channels, one image at a time: resized crop, flip, jitter, grey.

   The mathematics and the meaning of all arguments are those of crop.py and color.py; fused_views.py calls this.
   Values are in [0, 1]. An image is resampled by rows, transposed, and resampled by columns, so that every inner
   loop runs over neighbouring numbers. Colours do not depend on the order of pixels: they are changed before the
   image is transposed back. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define R restrict

static inline float unit(float v) { v = v > 0.0f ? v : 0.0f; return v < 1.0f ? v : 1.0f; }

static inline float smaller(float a, float b) { return a < b ? a : b; }

static inline float larger(float a, float b) { return a > b ? a : b; }

static void transpose(const float *R from, float *R to, int64_t height, int64_t width) {
    for (int64_t y = 0; y < height; y += 8)
        for (int64_t x = 0; x < width; x += 8)
            for (int64_t i = x; i < (x + 8 < width ? x + 8 : width); i++)
                for (int64_t j = y; j < (y + 8 < height ? y + 8 : height); j++)
                    to[i * height + j] = from[j * width + i];
}

/* to[a] = sum over t of weight[a, t] * from[pixel[a] + t], for lines of `width` numbers, clipped if asked.
   Taps beyond the last line have weight 0 and are not read. */
static void resample(const float *R from, float *R to, const int64_t *R pixel, const float *R weight, int64_t taps,
                     int64_t lines, int64_t targets, int64_t width, int64_t first, int64_t last, int clip) {
    for (int64_t a = 0; a < targets; a++) {
        float *R line = to + a * width;
        for (int64_t t = 0; t < taps; t += 4) {
            const float *s[4];
            float w[4];
            for (int k = 0; k < 4; k++) {
                const int64_t p = pixel[a * taps] + t + k;
                const int inside = t + k < taps && p < lines;
                w[k] = inside ? weight[a * taps + t + k] : 0.0f;
                s[k] = from + (inside ? p : 0) * width;
            }
            const float *R s0 = s[0], *R s1 = s[1], *R s2 = s[2], *R s3 = s[3];
            const float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
            if (t == 0)
                for (int64_t i = first; i < last; i++) line[i] = w0 * s0[i] + w1 * s1[i] + w2 * s2[i] + w3 * s3[i];
            else
                for (int64_t i = first; i < last; i++) line[i] += w0 * s0[i] + w1 * s1[i] + w2 * s2[i] + w3 * s3[i];
        }
        if (clip)
            for (int64_t i = first; i < last; i++) line[i] = unit(line[i]);
    }
}

static float average(const float *R x, int64_t count) {
    float part[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
        for (int k = 0; k < 16; k++) part[k] += x[i + k];
    float sum = 0.0f;
    for (int k = 0; k < 16; k++) sum += part[k];
    for (; i < count; i++) sum += x[i];
    return sum / (float)count;
}

/* A blend: x <- matrix x + mean . (mean colours), clipped. The identity is left out. */
static void blend(float *R r, float *R g, float *R b, int64_t count, const float *R m, const float *R mean) {
    const int moves = mean[0] != 0.0f || mean[1] != 0.0f || mean[2] != 0.0f;
    const int same = m[0] == 1.0f && m[4] == 1.0f && m[8] == 1.0f && m[1] == 0.0f && m[2] == 0.0f && m[3] == 0.0f &&
                     m[5] == 0.0f && m[6] == 0.0f && m[7] == 0.0f;
    if (same && !moves) return;
    const float s =
        moves ? mean[0] * average(r, count) + mean[1] * average(g, count) + mean[2] * average(b, count) : 0.0f;
    const float m0 = m[0], m1 = m[1], m2 = m[2], m3 = m[3], m4 = m[4], m5 = m[5], m6 = m[6], m7 = m[7], m8 = m[8];
    for (int64_t i = 0; i < count; i++) {
        const float x = r[i], y = g[i], z = b[i];
        r[i] = unit(s + m0 * x + m1 * y + m2 * z);
        g[i] = unit(s + m3 * x + m4 * y + m5 * z);
        b[i] = unit(s + m6 * x + m7 * y + m8 * z);
    }
}

/* Every hue turns by `shift` turns: color.py, `hue`. */
static void turn(float *R r, float *R g, float *R b, int64_t count, float shift) {
    if (shift == 0.0f) return;
    for (int64_t i = 0; i < count; i++) {
        const float x = r[i], y = g[i], z = b[i];
        const float low = smaller(x, smaller(y, z));
        const float c = larger(x, larger(y, z)) - low;
        const float away = fabsf((y + z - x - low) / larger(c, 1.17549435e-38f) + 1.0f);
        float h = (y - z >= 0.0f ? away : -away) + 6.0f * shift;
        h -= 6.0f * floorf(h / 6.0f);
        r[i] = unit(low + c * unit(fabsf(h - 3.0f) - 1.0f));
        g[i] = unit(low + c * unit(2.0f - fabsf(h - 2.0f)));
        b[i] = unit(low + c * unit(2.0f - fabsf(h - 4.0f)));
    }
}

/* Returns 0, or 1 if there is no memory.
   image, out     (n 3 height width)
   row_*, column_*  pixel and weight, (n height taps) and (n width taps)
   matrix, mean, shift  (n passes 3 3), (n passes 1 3) and (n); the hue turns before the fourth pass */
int simclr_views(const float *image, float *out, int64_t n, int64_t height, int64_t width, const int64_t *row_pixel,
                 const float *row_weight, int64_t row_taps, const int64_t *column_pixel, const float *column_weight,
                 int64_t column_taps, const float *matrix, const float *mean, const float *shift, int64_t passes) {
    const int64_t size = height * width;
    float *rows = malloc(sizeof(float) * size), *turned = malloc(sizeof(float) * size);
    float *colours = malloc(sizeof(float) * 3 * size);
    const int ready = rows && turned && colours;
    for (int64_t k = 0; ready && k < n; k++) {
        const int64_t *columns = column_pixel + k * width * column_taps;
        int64_t first = width, last = 0;
        for (int64_t x = 0; x < width; x++) {
            const int64_t p = columns[x * column_taps];
            first = p < first ? p : first;
            last = p + column_taps > last ? p + column_taps : last;
        }
        last = last < width ? last : width;
        for (int c = 0; c < 3; c++) {
            resample(image + (3 * k + c) * size, rows, row_pixel + k * height * row_taps,
                     row_weight + k * height * row_taps, row_taps, height, height, width, first, last, 0);
            transpose(rows, turned, height, width);
            resample(turned, colours + c * size, columns, column_weight + k * width * column_taps, column_taps, width,
                     width, height, 0, height, 1);
        }
        float *r = colours, *g = colours + size, *b = colours + 2 * size;
        for (int64_t p = 0; p < passes; p++) {
            if (p == 3) turn(r, g, b, size, shift[k]);
            blend(r, g, b, size, matrix + (k * passes + p) * 9, mean + (k * passes + p) * 3);
        }
        for (int c = 0; c < 3; c++) transpose(colours + c * size, out + (3 * k + c) * size, width, height);
    }
    free(rows), free(turned), free(colours);
    return !ready;
}
